//! `contract check`: every mistake of every file at once.

use std::path::PathBuf;

use clap::Args;
use hydrometer_rating::terms::file::{Version, across, read};
use hydrometer_schemas::contract::Located;

use super::bytes;
use crate::CliError;
use crate::table::{self, Format, Kind, Rows, visible};

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Contract files (YAML or JSON); versions of one contract may stand in one file or in several
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Exit status 1 when there are mistakes.
pub fn run(args: CheckArgs) -> Result<u8, CliError> {
    let mut sound: Vec<Vec<Version>> = Vec::new();
    let mut found: Vec<(usize, Located)> = Vec::new();
    for (number, path) in args.files.iter().enumerate() {
        match read(&bytes(path)?) {
            Ok(versions) => sound.push(versions),
            Err(mistakes) => {
                sound.push(Vec::new());
                found.extend(mistakes.into_iter().map(|mistake| (number, mistake)));
            }
        }
    }
    found.extend(across(&sound));
    found.sort_by_key(|(number, located)| (*number, located.place));
    match args.format {
        Format::Table => table::print(&text(&args.files, &sound, &found))?,
        format => rows(&args.files, &found).print(format)?,
    }
    Ok(u8::from(!found.is_empty()))
}

/// One line for each mistake, as compilers write them, and one for each file without any.
fn text(files: &[PathBuf], sound: &[Vec<Version>], found: &[(usize, Located)]) -> String {
    let mut text = String::new();
    for (number, path) in files.iter().enumerate() {
        let path = path.display();
        let mut mistakes = found.iter().filter(|(file, _)| *file == number).peekable();
        if mistakes.peek().is_none() {
            let versions = sound.get(number).map_or(&[][..], Vec::as_slice);
            let contract = versions.first().map_or("", |version| version.terms.contract.as_str());
            let count =
                if versions.len() == 1 { "one version".to_owned() } else { format!("{} versions", versions.len()) };
            text.push_str(&format!("{path}: {contract}, {count}: no mistakes\n"));
        }
        for (_, mistake) in mistakes {
            text.push_str(&visible(&format!("{path}:{mistake}")));
            text.push('\n');
        }
    }
    text
}

fn rows(files: &[PathBuf], found: &[(usize, Located)]) -> Rows {
    let mut rows = Rows::new(&[
        ("file", Kind::Text),
        ("line", Kind::Plain),
        ("column", Kind::Plain),
        ("field", Kind::Text),
        ("what", Kind::Text),
        ("expected", Kind::Text),
        ("hint", Kind::Text),
    ]);
    for (number, Located { place, mistake }) in found {
        rows.push([
            files.get(*number).map(|path| path.display().to_string()).unwrap_or_default(),
            place.line.to_string(),
            place.column.to_string(),
            mistake.field.clone(),
            mistake.what.clone(),
            mistake.expected.clone(),
            mistake.hint.clone(),
        ]);
    }
    rows
}
