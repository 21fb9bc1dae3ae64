//! Whether the functions of the database are those of this version.

use std::collections::BTreeMap;

use crate::canonical::fill;
use crate::migration::PARTS;

/// The functions that are missing, others than this version's, or unknown to it, and what is wrong. `stored`: name and
/// body as the database has them.
pub(super) fn faults(stored: &[(&str, &str)]) -> Vec<(String, &'static str)> {
    let expected = bodies(&fill(&PARTS.join("\n")));
    let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, body) in stored {
        found.entry(name).or_default().push(body);
    }
    let mut faults = Vec::new();
    for (name, body) in &expected {
        match found.remove(name.as_str()).as_deref() {
            Some([one]) if body.as_ref().is_none_or(|body| same(body, one)) => {}
            Some([_]) => faults.push((name.clone(), "it does something else than in this version")),
            Some(_) => faults.push((name.clone(), "there are several of this name")),
            None => faults.push((name.clone(), "missing")),
        }
    }
    faults.extend(found.into_keys().map(|name| (name.to_owned(), "this version does not know it")));
    faults
}

/// Name and body of each function that the migration makes. One with a body in standard SQL has none that is stored as
/// text.
fn bodies(migration: &str) -> BTreeMap<String, Option<String>> {
    const START: &str = "create or replace function ledger.";
    let named = migration.split(START).skip(1).map(|text| {
        let name: String = text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
        let body = match text.split_once("$$") {
            Some((head, rest)) if !head.contains("begin atomic") => {
                rest.split_once("$$").map(|(body, _)| body.to_owned())
            }
            _ => None,
        };
        (name, body)
    });
    named.collect()
}

/// The migration fills in the role's name; what lies between the first and the last place of it is not compared.
fn same(expected: &str, stored: &str) -> bool {
    match expected.split_once("{app_role") {
        None => expected == stored,
        Some((start, rest)) => {
            let end = rest.rsplit_once('}').map_or(rest, |(_, end)| end);
            stored.starts_with(start) && stored.ends_with(end)
        }
    }
}
