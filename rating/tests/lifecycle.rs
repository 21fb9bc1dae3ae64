//! The readers of lifecycle events under anything that may arrive: the corpus, its mutations, and bytes without meaning.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;

use hydrometer_rating::history::History;
use hydrometer_schemas::lifecycle::{self, Event, TYPES};
use proptest::prelude::*;

fn corpus() -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus/lifecycle");
    let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    let read = |path: std::path::PathBuf| {
        (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap())
    };
    let mut all: Vec<_> = files.map(read).collect();
    all.sort();
    all
}

#[test]
fn the_corpus_is_read_or_refused_as_its_names_say() {
    let mut kinds = BTreeSet::new();
    for (name, bytes) in corpus() {
        let is_event = lifecycle::exercise(&bytes);
        // What a fuzzer found may be either; that it is read without a panic is what counts.
        if name.starts_with("found-") {
            continue;
        }
        assert_eq!(is_event, !name.starts_with("refused-"), "{name}: {:?}", Event::parse(&bytes));
        if let Ok(event) = Event::parse(&bytes) {
            assert_eq!(name, format!("{}.json", event.kind.name()));
            kinds.insert(event.kind.name());
        }
    }
    let derived = ["debited", "exhausted", "credit_reached", "restored"].map(|name| format!("gpu.wallet.{name}"));
    let taken = TYPES.into_iter().filter(|name| !derived.iter().any(|derived| derived == name)).collect();
    assert_eq!(kinds, taken, "every kind that a topic may bring is in the corpus");
    History::exercise(&corpus().into_iter().flat_map(|(_, bytes)| bytes).collect::<Vec<u8>>());
}

/// An event of the corpus with bytes changed, doubled, cut out, or taken from another one.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let all: Vec<Vec<u8>> = corpus().into_iter().map(|(_, bytes)| bytes).filter(|bytes| bytes.len() < 2_000).collect();
    let change = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0u8..5, any::<u8>());
    let pair = (prop::sample::select(all.clone()), prop::sample::select(all));
    (pair, prop::collection::vec(change, 0..6)).prop_map(|((mut bytes, other), changes)| {
        for (a, b, how, byte) in changes {
            if bytes.is_empty() {
                break;
            }
            let (a, b) = (a.index(bytes.len()), b.index(bytes.len()));
            let (from, to) = (a.min(b), a.max(b));
            match how {
                0 => bytes[a] = byte,
                1 => bytes.insert(a, b"\"{}[],:0-\\"[usize::from(byte) % 10]),
                2 => drop(bytes.drain(from..to.min(from + 20))),
                3 => {
                    let piece = bytes[from..to.min(from + 20)].to_vec();
                    bytes.splice(a..a, piece);
                }
                _ => {
                    let piece = &other[from.min(other.len())..to.min(other.len())];
                    bytes.splice(from..to, piece.iter().copied());
                }
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_event_is_read_or_refused(bytes in mutated()) {
        lifecycle::exercise(&bytes);
    }

    #[test]
    fn bytes_without_meaning_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(!lifecycle::exercise(&bytes));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn mutated_histories_do_not_depend_on_arrival(lines in prop::collection::vec(mutated(), 1..12)) {
        History::exercise(&lines.join(&b'\n'));
    }
}
