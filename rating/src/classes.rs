//! Leased seconds to classes (law 3): every leased second of a window lands in exactly one class, first match wins.
//!
//! Works on 60-bit masks, one minute at a time: bit `n` is the minute's second `n`.

use hydrometer_schemas::time::{FOREVER, Minute, SECONDS_PER_MINUTE};

use crate::downtime::{Downtime, Evidence};
use crate::history::Span;

/// A GPU's evidence for one minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Masks {
    pub present: u64,
    pub busy: u64,
}

/// Seconds per class, and what follows for the two sides. Signed, since a revision is a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClassSeconds {
    pub used: i64,
    pub idle: i64,
    pub unknown: i64,
    pub down: i64,
    pub suspended: i64,
    /// Announced maintenance.
    pub maintenance: i64,
    /// Of `down`: by the platform's fault.
    pub down_platform: i64,
    /// Of `down`: by the renter's fault. The rest is the supplier's, or nobody's known.
    pub down_renter: i64,
    /// What the renter pays for.
    pub billed: i64,
    /// What the supplier is paid for.
    pub paid: i64,
}

impl ClassSeconds {
    /// All leased seconds: the classes sum to the lease.
    pub fn leased(&self) -> i64 {
        self.used + self.idle + self.unknown + self.down + self.suspended + self.maintenance
    }

    pub fn is_zero(&self) -> bool {
        *self == ClassSeconds::default()
    }

    pub fn plus(self, other: ClassSeconds) -> ClassSeconds {
        self.with(other, |a, b| a + b)
    }

    pub fn minus(self, other: ClassSeconds) -> ClassSeconds {
        self.with(other, |a, b| a - b)
    }

    fn with(self, other: ClassSeconds, of: impl Fn(i64, i64) -> i64) -> ClassSeconds {
        ClassSeconds {
            used: of(self.used, other.used),
            idle: of(self.idle, other.idle),
            unknown: of(self.unknown, other.unknown),
            down: of(self.down, other.down),
            suspended: of(self.suspended, other.suspended),
            maintenance: of(self.maintenance, other.maintenance),
            down_platform: of(self.down_platform, other.down_platform),
            down_renter: of(self.down_renter, other.down_renter),
            billed: of(self.billed, other.billed),
            paid: of(self.paid, other.paid),
        }
    }
}

/// One minute of a leased slot: which seconds are in which class, and what follows from it. The classes are disjoint and together
/// they are the leased seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ClassMasks {
    pub suspended: u64,
    pub maintenance: u64,
    pub down: u64,
    pub down_platform: u64,
    pub down_renter: u64,
    pub used: u64,
    pub idle: u64,
    pub unknown: u64,
    pub billed: u64,
    pub paid: u64,
}

impl ClassMasks {
    /// The table of classes, from the first to the last. `billed_maintenance` picks the seconds of announced maintenance that the
    /// contract bills; the supplier's side mirrors it.
    pub fn of<E: Evidence>(
        leased: u64,
        minute: Minute,
        evidence: Masks,
        downtime: &mut Downtime<'_, E>,
        billed_maintenance: impl FnOnce(u64) -> u64,
    ) -> ClassMasks {
        let suspended = leased & downtime.suspended.mask(minute);
        let rest = leased & !suspended;
        let maintenance = rest & downtime.maintenance.mask(minute);
        let rest = rest & !maintenance;
        let lost = downtime.lost(minute, rest);
        let rest = rest & !lost.any;
        let seen = rest & evidence.present;
        let billed_maintenance = if maintenance == 0 { 0 } else { billed_maintenance(maintenance) };
        ClassMasks {
            suspended,
            maintenance,
            down: lost.any,
            down_platform: lost.platform,
            down_renter: lost.renter,
            used: seen & evidence.busy,
            idle: seen & !evidence.busy,
            unknown: rest & !seen,
            billed: rest | lost.renter | billed_maintenance,
            paid: rest | lost.renter | lost.platform | billed_maintenance,
        }
    }

    pub fn seconds(&self) -> ClassSeconds {
        ClassSeconds {
            used: count(self.used),
            idle: count(self.idle),
            unknown: count(self.unknown),
            down: count(self.down),
            suspended: count(self.suspended),
            maintenance: count(self.maintenance),
            down_platform: count(self.down_platform),
            down_renter: count(self.down_renter),
            billed: count(self.billed),
            paid: count(self.paid),
        }
    }
}

pub(crate) fn count(mask: u64) -> i64 {
    i64::from(mask.count_ones())
}

/// The seconds of `minute` that lie in `span`.
pub fn mask(span: Span, minute: Minute) -> u64 {
    let start = minute * SECONDS_PER_MINUTE;
    let from = (span.from - start).clamp(0, SECONDS_PER_MINUTE);
    let to = (span.to.min(FOREVER) - start).clamp(0, SECONDS_PER_MINUTE);
    if from >= to {
        return 0;
    }
    let bits = |n: i64| (1u64 << n) - 1;
    bits(to) & !bits(from)
}

/// The minutes that `span` touches.
pub(crate) fn minutes(span: Span) -> std::ops::RangeInclusive<Minute> {
    span.from.div_euclid(SECONDS_PER_MINUTE)..=(span.to - 1).div_euclid(SECONDS_PER_MINUTE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_of_spans() {
        let span = |from, to| Span { from, to };
        assert_eq!(mask(span(0, 60), 0), (1 << 60) - 1);
        assert_eq!(mask(span(61, 63), 1), 0b110);
        assert_eq!(mask(span(0, 60), 1), 0);
        assert_eq!(mask(span(-5, FOREVER), 7), (1 << 60) - 1);
        assert_eq!(minutes(span(59, 61)), 0..=1);
        assert_eq!(minutes(span(60, 120)), 1..=1);
    }
}
