use std::sync::LazyLock;

use hydrometer_rating::terms::Terms;

use super::*;

struct Random(u64);

impl Random {
    fn below(&mut self, n: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as i64
    }
}

const BASE: Second = 1_772_359_200;

fn terms(rating_window: RatingWindow) -> Arc<Terms> {
    let document = serde_json::json!({
        "contract": "c", "effective": "2026-01-01T00:00:00Z", "renter": "r", "currency": "USD", "rating_window": rating_window,
        "charges": { "gpu_hours": { "basis": "allocated", "price": "1" } },
    });
    Arc::new(hydrometer_rating::terms::compile(&serde_json::from_value(document).unwrap()).unwrap())
}

fn version(from: Second, to: Second, rating_window: RatingWindow) -> Version {
    static TERMS: LazyLock<[Arc<Terms>; 2]> =
        LazyLock::new(|| [terms(RatingWindow::Minute), terms(RatingWindow::Hour)]);
    let n = usize::from(rating_window == RatingWindow::Hour);
    Version { span: Span { from, to }, terms: TERMS[n].clone() }
}

fn lease(from: Second, to: Second) -> Lease {
    Lease {
        lease: "l".into(),
        contract: "c".into(),
        slots: vec![0],
        span: Span { from, to },
        suspended: Vec::new(),
        slices: Vec::new(),
    }
}

/// Second by second: the windows into which the seconds of a lease fall.
fn by_hand(lease: &Lease, versions: &[Version]) -> BTreeSet<(Second, Second)> {
    let window = |second: Second| {
        let hour = second - second.rem_euclid(3_600);
        let first = (hour..hour + 3_600).find_map(|s| versions.iter().find(|v| v.span.from <= s && s < v.span.to));
        let length = if first.is_some_and(|v| v.terms.rating_window == RatingWindow::Minute) { 60 } else { 3_600 };
        let from = second - second.rem_euclid(length);
        (from, from + length)
    };
    (lease.span.from..lease.span.to).map(window).collect()
}

fn some_versions(random: &mut Random) -> Vec<Version> {
    let mut from = BASE - random.below(7_200) + 3_600;
    let count = random.below(4);
    (0..count)
        .map(|number| {
            let to = if number + 1 == count { BASE + 1_000_000 } else { from + 1 + random.below(6_000) };
            let window = if random.below(2) == 0 { RatingWindow::Minute } else { RatingWindow::Hour };
            let made = version(from, to, window);
            from = to;
            made
        })
        .collect()
}

fn pairs(spans: &[Span]) -> Vec<(Second, Second)> {
    spans.iter().map(|s| (s.from, s.to)).collect()
}

#[test]
fn every_window_is_due_once_whatever_the_frontiers() {
    for seed in 0..150 {
        let mut random = Random(seed);
        let versions = some_versions(&mut random);
        let from = BASE + random.below(7_200);
        let longest = [20, 4_000, 12_000][random.below(3) as usize];
        let lease = lease(from, from + 1 + random.below(longest));
        let expected = by_hand(&lease, &versions);
        for _ in 0..4 {
            let mut frontier = if random.below(3) == 0 { 0 } else { BASE - random.below(3_600) };
            let unit = [1, 60, 3_600][random.below(3) as usize];
            frontier -= frontier % unit;
            let mut rated = Vec::new();
            while frontier < lease.span.to + 3_600 {
                let next = (frontier + unit * (1 + random.below(7_200 / unit))).max(BASE - 3_600);
                let due = pairs(&due_windows(&lease, &versions, frontier, next));
                let exactly: Vec<(Second, Second)> =
                    expected.iter().copied().filter(|(_, to)| frontier < *to && *to <= next).collect();
                assert_eq!(due, exactly, "seed {seed}, frontier {frontier} to {next}");
                rated.extend(due);
                frontier = next;
            }
            assert_eq!(rated, expected.iter().copied().collect::<Vec<_>>(), "seed {seed}");
        }
    }
}

#[test]
fn the_edges_of_a_window() {
    let hourly = [version(0, BASE * 2, RatingWindow::Hour)];
    let due = |lease: &Lease, after, until| pairs(&due_windows(lease, &hourly, after, until));
    let whole = lease(BASE, BASE + 7_200);
    assert_eq!(due(&whole, BASE, BASE + 3_599), []);
    assert_eq!(due(&whole, BASE, BASE + 3_600), [(BASE, BASE + 3_600)]);
    assert_eq!(due(&whole, BASE + 3_600, BASE + 7_200), [(BASE + 3_600, BASE + 7_200)]);
    assert_eq!(due(&whole, BASE + 7_200, BASE + 999_999), []);
    assert_eq!(due(&whole, BASE + 3_600, BASE + 3_600), []);
    // A lease of one second owes the window that it touches, once that has ended; one of no second owes none.
    let short = lease(BASE + 3_599, BASE + 3_600);
    assert_eq!(due(&short, BASE + 3_599, BASE + 3_600), [(BASE, BASE + 3_600)]);
    assert_eq!(due(&short, BASE + 3_600, BASE + 7_200), []);
    assert_eq!(due(&lease(BASE + 5, BASE + 5), 0, BASE * 2), []);
}

#[test]
fn a_new_length_starts_at_an_hours_edge() {
    let versions =
        [version(0, BASE + 1_800, RatingWindow::Hour), version(BASE + 1_800, BASE * 2, RatingWindow::Minute)];
    let due = due_windows(&lease(BASE, BASE + 7_200), &versions, BASE, BASE + 7_200);
    assert_eq!(due[0], Span { from: BASE, to: BASE + 3_600 });
    assert_eq!(due.len(), 1 + 60);
    assert!(due[1..].iter().all(|w| w.to - w.from == 60));
    // Before the first version, and where there is none, windows are hours.
    let late = [version(BASE + 3_600, BASE * 2, RatingWindow::Minute)];
    assert_eq!(due_windows(&lease(BASE, BASE + 3_600), &late, 0, BASE * 2).len(), 1);
    assert_eq!(due_windows(&lease(BASE, BASE + 3_600), &[], 0, BASE * 2).len(), 1);
}
