//! "Did you mean": the known word nearest to one that is not known.

use std::cmp::Reverse;

/// The candidate that differs from `word` in the fewest letters (case aside), where that is near enough to be a slip of the pen.
/// Words longer than 64 bytes have no nearest one.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.is_empty() || word.len() > WORD_BYTES_MAX {
        return None;
    }
    let tolerated = 1 + word.len() / 4;
    candidates
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= tolerated)
        .map(|candidate| (distance(&word.to_lowercase(), &candidate.to_lowercase()), candidate))
        .filter(|(distance, _)| *distance <= tolerated)
        .min_by_key(|(distance, candidate)| (*distance, Reverse(common_beginning(word, candidate)), *candidate))
        .map(|(_, candidate)| candidate)
}

/// Slips are rare in first letters, so the longer common beginning decides between candidates that are as near.
fn common_beginning(a: &str, b: &str) -> usize {
    a.bytes().zip(b.bytes()).take_while(|(a, b)| a.eq_ignore_ascii_case(b)).count()
}

const WORD_BYTES_MAX: usize = 64;

/// Insertions, deletions, replacements and swaps of neighbours that make one word of the other (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut two_rows_up: Vec<usize> = Vec::new();
    let mut row_up: Vec<usize> = (0..=b.len()).collect();
    for i in 0..a.len() {
        let mut row = vec![i + 1];
        for j in 0..b.len() {
            let replaced = row_up[j] + usize::from(a[i] != b[j]);
            let mut least = replaced.min(row_up[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                least = least.min(two_rows_up[j - 1] + 1);
            }
            row.push(least);
        }
        two_rows_up = std::mem::replace(&mut row_up, row);
    }
    row_up.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_slips_and_nothing_else() {
        let words = ["graduated", "volume", "price", "percent"];
        for (typed, meant) in [
            ("gradutaed", Some("graduated")),
            ("Price", Some("price")),
            ("prise", Some("price")),
            ("volumes", Some("volume")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, words), meant, "{typed}");
        }
    }
}
