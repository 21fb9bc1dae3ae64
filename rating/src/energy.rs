//! Energy from a counter: joules in any span of time, such that parts add up.

use hydrometer_schemas::time::{MICROS_PER_SECOND, Micros, Second};

use crate::history::Span;

/// A counter's reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CounterReading {
    pub time: Micros,
    pub joules: i64,
}

/// Longest time between two readings whose difference is believed to lie between them.
pub const GAP_MAX: Micros = 24 * 3_600 * MICROS_PER_SECOND;

/// A counter over time: its readings in order, and what had been drawn at each of them since the first.
#[derive(Debug, Clone, Default)]
pub struct Energy {
    points: Vec<(Micros, i128)>,
    gaps: Vec<Gap>,
}

/// Two readings more than [`GAP_MAX`] apart: what was drawn between them is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    pub from: Micros,
    pub to: Micros,
}

impl Energy {
    /// From the first and the last reading of each metered minute, in any order. A decrease is a reset: the counter began again at zero.
    pub fn new(readings: impl IntoIterator<Item = CounterReading>) -> Energy {
        let mut readings: Vec<CounterReading> = readings.into_iter().collect();
        readings.sort_unstable();
        readings.dedup();
        let mut energy = Energy::default();
        let mut previous: Option<CounterReading> = None;
        for reading in readings {
            let (total, drawn) = match (energy.points.last(), previous) {
                (Some((_, total)), Some(before)) if reading.time - before.time > GAP_MAX => {
                    energy.gaps.push(Gap { from: before.time, to: reading.time });
                    (*total, 0)
                }
                (Some((_, total)), Some(before)) if reading.joules < before.joules => (*total, reading.joules.max(0)),
                (Some((_, total)), Some(before)) => (*total, reading.joules - before.joules),
                _ => (0, 0),
            };
            energy.points.push((reading.time, total + i128::from(drawn)));
            previous = Some(reading);
        }
        energy
    }

    /// Joules drawn in `span`. Where a cut lies between two readings, what was drawn between them is spread evenly over the time, and
    /// what had been drawn up to the cut is floored: so the parts of a span add up to it, whatever else is known of the counter.
    pub fn joules(&self, span: Span) -> i64 {
        let drawn = self.drawn(span.to) - self.drawn(span.from);
        i64::try_from(drawn).unwrap_or(i64::MAX)
    }

    /// Where nothing is known of the energy, in order.
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }

    /// What had been drawn at the beginning of `second`, since the first reading.
    fn drawn(&self, second: Second) -> i128 {
        let at = second.saturating_mul(MICROS_PER_SECOND);
        let next = self.points.partition_point(|(time, _)| *time <= at);
        let before = next.checked_sub(1).and_then(|n| self.points.get(n));
        match (before, self.points.get(next)) {
            (Some((from, total)), Some((to, after))) => {
                let (passed, length) = (i128::from(at - from), i128::from(to - from));
                total + (after - total) * passed / length
            }
            (Some((_, total)), None) => *total,
            (None, _) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(second: f64, joules: i64) -> CounterReading {
        CounterReading { time: (second * 1e6) as Micros, joules }
    }

    #[test]
    fn cuts_lie_between_readings() {
        let energy = Energy::new([at(0.0, 100), at(10.0, 200), at(20.0, 50), at(20.5, 60)]);
        let joules = |from, to| energy.joules(Span { from, to });
        assert_eq!(joules(0, 10), 100);
        assert_eq!(joules(0, 5), 50);
        assert_eq!(joules(10, 20), 50, "a reset counts from zero");
        assert_eq!(joules(-100, 1_000), 160);
        assert_eq!(joules(0, 1) + joules(1, 21), joules(0, 21));
    }

    #[test]
    fn a_day_without_readings_is_not_bridged() {
        let day = 86_400.0;
        let bridged = Energy::new([at(0.0, 0), at(day, 86_400)]);
        assert_eq!((bridged.joules(Span { from: 0, to: 3_600 }), bridged.gaps().len()), (3_600, 0));
        let gap = Energy::new([at(0.0, 0), at(1.0, 5), at(day + 2.0, 86_400), at(day + 3.0, 86_407)]);
        assert_eq!(gap.joules(Span { from: 0, to: 200_000 }), 12);
        assert_eq!(gap.gaps(), [Gap { from: 1_000_000, to: 86_402_000_000 }]);
    }

    proptest! {
        /// However a span is cut, its parts add up, and all of it is what the readings say; each part is what an even draw between
        /// the readings around it gives, to the joule; and only these readings matter.
        #[test]
        fn parts_add_up(
            steps in prop::collection::vec((1i64..40_000_000, 0i64..500, 0u8..5), 1..12),
            cuts in prop::collection::vec(0i64..500, 0..6),
        ) {
            let (mut time, mut joules) = (0, 1_000);
            let mut readings = vec![CounterReading { time, joules }];
            let mut drawn_between = Vec::new();
            for &(step, drawn, kind) in &steps {
                let is_reset = kind == 0 && joules > 0;
                let drawn = if is_reset { drawn % joules } else { drawn };
                joules = if is_reset { drawn } else { joules + drawn };
                drawn_between.push((time, time + step, drawn));
                time += step;
                readings.push(CounterReading { time, joules });
            }
            let energy = Energy::new(readings.iter().rev().copied());
            let mut edges = cuts;
            edges.extend([0, 600]);
            edges.sort_unstable();
            let mut sum = 0;
            for pair in edges.windows(2) {
                let part = energy.joules(Span { from: pair[0], to: pair[1] });
                sum += part;
                let (from, to) = (pair[0] * MICROS_PER_SECOND, pair[1] * MICROS_PER_SECOND);
                let even: f64 = drawn_between
                    .iter()
                    .map(|&(a, b, drawn)| drawn as f64 * (b.min(to) - a.max(from)).max(0) as f64 / (b - a) as f64)
                    .sum();
                prop_assert!((part as f64 - even).abs() < 1.01, "{part} {even}");

                let first = readings.iter().rposition(|r| r.time <= from).unwrap_or(0);
                let last = readings.iter().position(|r| r.time >= to).unwrap_or(readings.len() - 1);
                let near = Energy::new(readings[first..=last].iter().copied());
                prop_assert_eq!(near.joules(Span { from: pair[0], to: pair[1] }), part);
            }
            prop_assert_eq!(sum, drawn_between.iter().map(|(_, _, drawn)| drawn).sum::<i64>());
        }
    }
}
