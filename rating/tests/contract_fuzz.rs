//! The contract reader against arbitrary bytes: no panic, no hang, bounded memory, and what it accepts reads the same again.
//! Cases that were found, and seeds, stand in `tests/corpus/contract/` and are replayed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use hydrometer_rating::terms::file::fuzz;
use proptest::prelude::*;

fn repository(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path)
}

fn files(folder: &str) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(repository(folder)).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_file()).collect();
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(path).unwrap()).collect()
}

/// Ten seconds are far beyond what the largest file takes, on a machine that is busy too: only a hang takes longer.
fn check(bytes: &[u8]) {
    let began = Instant::now();
    if let Err(broken) = fuzz(bytes) {
        panic!("{broken}\n{}", String::from_utf8_lossy(bytes));
    }
    assert!(began.elapsed() < Duration::from_secs(10), "took {:?}", began.elapsed());
}

#[test]
fn the_corpus_is_replayed() {
    let corpus = files("tests/corpus/contract");
    assert!(corpus.len() >= 10, "the corpus is there");
    corpus.iter().for_each(|bytes| check(bytes));
}

/// Files made to be slow or large.
#[test]
fn hostile_files_are_answered_in_time() {
    const MAX: usize = 1024 * 1024;
    let repeated = |head: &str, part: &str| {
        let mut text = head.to_owned();
        while text.len() + part.len() <= MAX {
            text.push_str(part);
        }
        text.into_bytes()
    };
    for (head, part) in [
        ("", "["),
        ("", "{a: "),
        ("", "? "),
        ("", "- "),
        ("", "a: "),
        ("", "---\n"),
        ("", "\n"),
        ("", " "),
        ("\"", "a"),
        ("a: |\n", "  b\n"),
        ("a: >\n", "  b\n\n"),
        ("", "a: 1\n"),
        ("charges:\n", " a: {basis: allocated}\n"),
        ("", "#"),
        ("", "&a "),
        ("", "*a "),
        ("", "!a "),
        ("", "%a\n"),
        ("", "\"\\u0041\"\n"),
        ("", "a,"),
        ("[", "a,"),
        ("{", "a,"),
        ("{", "a: {b: [}"),
        ("", "'"),
        ("", "\u{feff}"),
        ("", "a\u{85}"),
        ("", "x: !!binary |\n"),
        ("suppliers: [", "{},"),
        ("charges: {a: {basis: allocated, graduated: [", "{up_to: 1},"),
        ("contract: ", "9"),
        ("minimum_spend: ", "9"),
        ("", "contract: a\neffective: 2026-03-01T00:00:00Z\ntime_zone: Amerika/Los_Angles\n---\n"),
    ] {
        check(&repeated(head, part));
    }
}

/// A seed from the examples and the corpus, cut, doubled, flipped and spliced.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let seeds: Vec<Vec<u8>> = files("examples/contracts").into_iter().chain(files("tests/corpus/contract")).collect();
    let edit = (0u8..7, any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>());
    (prop::sample::select(seeds), prop::collection::vec(edit, 0..8)).prop_map(|(mut bytes, edits)| {
        const WORDS: [&str; 12] =
            ["\n", "---\n", "charges:\n", "  ", "null", "- ", "9999999999999999999", "0.0000001", "{", "[", "\"", ": "];
        for (kind, a, b, byte) in edits {
            if bytes.is_empty() {
                break;
            }
            let (a, b) = (a.index(bytes.len()), b.index(bytes.len()));
            let (low, high) = (a.min(b), a.max(b));
            match kind {
                0 => bytes.truncate(a),
                1 => drop(bytes.drain(low..high.min(low + 200))),
                2 => bytes.extend_from_within(low..high.min(low + 2_000)),
                3 => bytes[a] = byte,
                4 => bytes[a] ^= 1 << (byte % 8),
                5 => bytes.insert(a, byte),
                _ => drop(bytes.splice(a..a, WORDS[usize::from(byte) % WORDS.len()].bytes())),
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(2_000), ..ProptestConfig::default() })]

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        check(&bytes);
    }

    #[test]
    fn any_text_of_yaml_letters(text in "[a-c0-9 :\\-\\[\\]{},#&*!|>'\"%@\n\t.?]{0,200}") {
        check(text.as_bytes());
    }

    #[test]
    fn examples_with_slips(bytes in mutated()) {
        check(&bytes);
    }
}
