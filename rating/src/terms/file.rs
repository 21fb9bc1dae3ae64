//! A file of contract versions: read, compiled, and held against each other.

use std::sync::Arc;

use hydrometer_schemas::contract::{self, Document, Located, MISTAKES_MAX, Mistake};
use hydrometer_schemas::time::{FOREVER, show_second};

use super::{Terms, compile, contradicts};
use crate::history::{self, Span};

/// One version of a contract, with the place of each of its fields.
#[derive(Debug, Clone)]
pub struct Version {
    pub document: Document,
    pub terms: Terms,
}

/// The versions that a file holds (YAML documents with `---` between them, or one in JSON), in the order of their effective seconds;
/// at least one. Or every mistake, in the order of lines: of the YAML, of shape, of meaning, and of versions that contradict each
/// other. Never panics, and takes time and memory in proportion to the file, which is at most 1 MiB.
pub fn read(bytes: &[u8]) -> Result<Vec<Version>, Vec<Located>> {
    let reading = contract::read(bytes);
    let mut mistakes = reading.mistakes;
    let mut versions = Vec::new();
    for document in reading.documents {
        if mistakes.len() >= MISTAKES_MAX {
            break;
        }
        match compile(&document.contract) {
            Ok(terms) if document.is_whole() => versions.push(Version { document, terms }),
            Ok(_) => (),
            Err(found) => mistakes.extend(found.into_iter().filter_map(|mistake| document.locate(mistake))),
        }
    }
    versions.sort_by_key(|version| version.terms.effective);
    for pair in versions.windows(2) {
        let [before, next] = pair else { continue };
        let found = follow(before, next).into_iter();
        mistakes.extend(found.map(|mistake| Located { place: next.document.place(&mistake.field), mistake }));
    }
    if mistakes.is_empty() {
        return Ok(versions);
    }
    mistakes.sort_by_key(|located| located.place);
    if mistakes.len() > MISTAKES_MAX {
        mistakes.truncate(MISTAKES_MAX);
    }
    Err(mistakes)
}

/// The versions of one contract, in order of time, as a history has them: each until the next one begins or its term ends.
pub fn timeline(versions: &[Version]) -> Vec<history::Version> {
    let next = versions.iter().skip(1).map(|version| version.terms.effective).chain([FOREVER]);
    let dated = versions.iter().zip(next).map(|(version, next)| {
        let ends = version.terms.term.filter(|term| term.renewal_months.is_none()).map_or(FOREVER, |term| term.ends);
        let span = Span { from: version.terms.effective, to: next.min(ends) };
        history::Version { span, terms: Arc::new(version.terms.clone()) }
    });
    dated.filter(|version| version.span.from < version.span.to).collect()
}

/// What is wrong between the files of one contract, each of them sound in itself: versions that contradict the one before them, which
/// another file holds. By the number of the file that holds the later version.
pub fn across(files: &[Vec<Version>]) -> Vec<(usize, Located)> {
    let mut versions: Vec<(usize, &Version)> = files
        .iter()
        .enumerate()
        .flat_map(|(file, versions)| versions.iter().map(move |version| (file, version)))
        .collect();
    versions.sort_by_key(|(file, version)| (&version.terms.contract, version.terms.effective, *file));
    let mut mistakes = Vec::new();
    for pair in versions.windows(2) {
        let [(file_before, before), (file, next)] = pair else { continue };
        if file_before == file || before.terms.contract != next.terms.contract {
            continue;
        }
        let found = follow(before, next).into_iter();
        mistakes.extend(found.map(|m| (*file, Located { place: next.document.place(&m.field), mistake: m })));
    }
    mistakes
}

fn follow(before: &Version, next: &Version) -> Vec<Mistake> {
    let mut mistakes = contradicts(&before.terms, &next.terms);
    if before.terms.effective == next.terms.effective {
        mistakes.push(Mistake {
            field: "effective".into(),
            what: format!("two versions begin at {}", show_second(next.terms.effective)),
            expected: "a second of its own for each version".into(),
            hint: format!("the other one begins in line {} of its file", before.document.begins.line),
        });
    }
    mistakes
}

/// What must hold for any bytes, beyond that [`read`] returns: for a fuzzer. The error names what does not hold.
pub fn fuzz(bytes: &[u8]) -> Result<(), String> {
    let versions = match read(bytes) {
        Ok(versions) => versions,
        Err(mistakes) if mistakes.is_empty() => return Err("refused without a mistake".into()),
        Err(mistakes) => {
            let lines = 1 + bytes.iter().filter(|byte| matches!(byte, b'\n' | b'\r')).count();
            let outside = mistakes.iter().find(|located| located.place.line > lines + 1);
            return outside.map_or(Ok(()), |located| Err(format!("a mistake outside the file: {located}")));
        }
    };
    if versions.is_empty() {
        return Err("accepted without a version".into());
    }
    for version in versions {
        let json = serde_json::to_string(&version.document.contract).map_err(|error| error.to_string())?;
        let again = read(json.as_bytes()).map_err(|mistakes| format!("its JSON is refused: {mistakes:?} {json}"))?;
        let is_same = again.len() == 1 && again.iter().all(|again| again.terms == version.terms);
        if !is_same {
            return Err(format!("its JSON reads otherwise: {json}"));
        }
    }
    Ok(())
}
