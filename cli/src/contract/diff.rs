//! `contract diff`: what differs, field by field.

use std::path::{Path, PathBuf};

use clap::Args;
use hydrometer_rating::terms::contradicts;
use hydrometer_rating::terms::file::Version;
use hydrometer_schemas::contract::changes;

use super::{in_force, instant, versions};
use crate::CliError;
use crate::table::{Format, Kind, Rows};

#[derive(Debug, Args)]
pub struct DiffArgs {
    /// A contract file
    #[arg(value_name = "A")]
    a: PathBuf,
    /// Another one; the same file with another time compares two of its versions
    #[arg(value_name = "B")]
    b: PathBuf,
    /// Which version of A. Default: its last
    #[arg(long, value_name = "TIME")]
    at_a: Option<String>,
    /// Which version of B. Default: its last
    #[arg(long, value_name = "TIME")]
    at_b: Option<String>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// Exit status 1 when the two differ, as `diff` has it, or cannot be compared.
pub fn run(args: DiffArgs) -> Result<u8, CliError> {
    let (Some(before), Some(after)) =
        (version(&args.a, args.at_a.as_deref())?, version(&args.b, args.at_b.as_deref())?)
    else {
        return Ok(1);
    };
    let changes = changes(&before.document.contract, &after.document.contract);
    let mut rows = Rows::new(&[("field", Kind::Text), ("a", Kind::Text), ("b", Kind::Text), ("meaning", Kind::Text)]);
    let differs = !changes.is_empty();
    for change in changes {
        let absent = || "(absent)".to_owned();
        let (a, b) = (change.before.unwrap_or_else(absent), change.after.unwrap_or_else(absent));
        rows.push([change.field, a, b, change.meaning]);
    }
    rows.print(args.format)?;
    for mistake in contradicts(&before.terms, &after.terms) {
        eprintln!("note: B cannot follow A as its next version: {mistake}");
    }
    Ok(u8::from(differs))
}

fn version(path: &Path, at: Option<&str>) -> Result<Option<Version>, CliError> {
    let Some(mut versions) = versions(path)? else { return Ok(None) };
    let Some(at) = at else { return Ok(versions.pop()) };
    match in_force(&versions, instant(at)?) {
        Ok(version) => Ok(Some(version.clone())),
        Err(why) => {
            eprintln!("{}: {why}", path.display());
            Ok(None)
        }
    }
}
