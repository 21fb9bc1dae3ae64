//! Leased seconds to classes (law 3): every leased second of a window lands in exactly one class, first match wins.
//!
//! Works on 60-bit masks, one minute at a time: bit `n` is the minute's second `n`.

use std::collections::BTreeMap;

use hydrometer_schemas::lifecycle::Fault;
use hydrometer_schemas::time::{FOREVER, Minute, SECONDS_PER_MINUTE, Second};

use crate::history::{Lease, ServerTimeline, Span, Version};
use crate::rate::CellKey;

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
    /// What the renter pays for.
    pub billed: i64,
    /// What the supplier is paid for.
    pub paid: i64,
}

impl ClassSeconds {
    /// All leased seconds: the classes sum to the lease.
    pub fn leased(&self) -> i64 {
        self.used + self.idle + self.unknown + self.down + self.suspended
    }

    pub fn is_zero(&self) -> bool {
        *self == ClassSeconds::default()
    }

    pub fn plus(self, other: ClassSeconds) -> ClassSeconds {
        ClassSeconds {
            used: self.used + other.used,
            idle: self.idle + other.idle,
            unknown: self.unknown + other.unknown,
            down: self.down + other.down,
            suspended: self.suspended + other.suspended,
            billed: self.billed + other.billed,
            paid: self.paid + other.paid,
        }
    }

    pub fn minus(self, other: ClassSeconds) -> ClassSeconds {
        ClassSeconds {
            used: self.used - other.used,
            idle: self.idle - other.idle,
            unknown: self.unknown - other.unknown,
            down: self.down - other.down,
            suspended: self.suspended - other.suspended,
            billed: self.billed - other.billed,
            paid: self.paid - other.paid,
        }
    }
}

/// What a quantity belongs to within its lease and window.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuantityKey {
    pub slot: u32,
    /// `None` while no GPU is known in the slot.
    pub gpu: Option<String>,
    pub cell: CellKey,
}

pub type Quantities = BTreeMap<QuantityKey, ClassSeconds>;

/// A stretch of leased time that has no price or no supplier yet. It stops nothing; it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrated {
    pub slot: u32,
    pub span: Span,
    pub reason: &'static str,
}

pub const NO_VERSION: &str = "no contract version is in force";
pub const NO_SUPPLIER: &str = "the server is not registered, so its supplier is unknown";

/// The quantities of one lease in `window`, which lies within one billing period.
///
/// `evidence` gives a GPU's masks on this server for a minute.
pub fn quantities(
    server: &ServerTimeline,
    lease: &Lease,
    versions: &[Version],
    window: Span,
    evidence: impl Fn(&str, Minute) -> Masks,
) -> (Quantities, Vec<Unrated>) {
    let mut quantities = Quantities::new();
    let mut unrated = Vec::new();
    let Some(leased) = lease.span.intersect(window) else { return (quantities, unrated) };
    for &slot in &lease.slots {
        for (span, gpu) in seats(server, slot, leased) {
            for (span, version) in terms(versions, span) {
                let supplier = server.supplier.as_ref();
                let (Some(version), Some(supplier)) = (version, supplier) else {
                    let reason = if supplier.is_none() { NO_SUPPLIER } else { NO_VERSION };
                    unrated.push(Unrated { slot, span, reason });
                    continue;
                };
                let seconds = classify(server, lease, slot, span, |minute| match gpu {
                    Some(gpu) => evidence(gpu, minute),
                    None => Masks::default(),
                });
                let cell = CellKey {
                    version_from: version.span.from,
                    price: version.price,
                    share: version.share,
                    supplier: supplier.clone(),
                };
                let key = QuantityKey { slot, gpu: gpu.map(str::to_owned), cell };
                let sum = quantities.entry(key).or_default();
                *sum = sum.plus(seconds);
            }
        }
    }
    (quantities, unrated)
}

/// Cuts `span` where the GPU in the slot changes.
fn seats(server: &ServerTimeline, slot: u32, span: Span) -> Vec<(Span, Option<&str>)> {
    let seats = server.occupancy.get(&slot).map_or(&[][..], Vec::as_slice);
    cut(span, seats.iter().map(|seat| (seat.span, seat.gpu.as_str())))
}

/// Cuts `span` where the contract's terms change.
fn terms(versions: &[Version], span: Span) -> Vec<(Span, Option<&Version>)> {
    cut(span, versions.iter().map(|version| (version.span, version)))
}

/// Cuts `span` by ordered, disjoint pieces; where there is none, `None`. The result covers `span` without gap or overlap.
fn cut<T>(span: Span, pieces: impl Iterator<Item = (Span, T)>) -> Vec<(Span, Option<T>)> {
    let mut result = Vec::new();
    let mut at = span.from;
    for (piece, value) in pieces {
        let Some(part) = piece.intersect(Span { from: at, to: span.to }) else { continue };
        if at < part.from {
            result.push((Span { from: at, to: part.from }, None));
        }
        result.push((part, Some(value)));
        at = part.to;
    }
    if at < span.to {
        result.push((Span { from: at, to: span.to }, None));
    }
    result
}

/// Puts the seconds of `span` into classes, minute by minute.
fn classify(
    server: &ServerTimeline,
    lease: &Lease,
    slot: u32,
    span: Span,
    evidence: impl Fn(Minute) -> Masks,
) -> ClassSeconds {
    let mut sum = ClassSeconds::default();
    let first = span.from.div_euclid(SECONDS_PER_MINUTE);
    let last = (span.to - 1).div_euclid(SECONDS_PER_MINUTE);
    for minute in first..=last {
        let leased = mask(span, minute);
        let suspended = leased & union(&lease.suspended, minute);
        let outage = outage_masks(server, slot, minute);
        let down = leased & outage.any & !suspended;
        let rest = leased & !suspended & !down;
        let masks = evidence(minute);
        let used = rest & masks.present & masks.busy;
        let idle = rest & masks.present & !masks.busy;
        let unknown = rest & !masks.present;
        let billed = rest | (down & outage.renter);
        let paid = rest | (down & (outage.renter | outage.platform));
        let count = |mask: u64| i64::from(mask.count_ones());
        sum = sum.plus(ClassSeconds {
            used: count(used),
            idle: count(idle),
            unknown: count(unknown),
            down: count(down),
            suspended: count(suspended),
            billed: count(billed),
            paid: count(paid),
        });
    }
    sum
}

#[derive(Default)]
struct OutageMasks {
    any: u64,
    renter: u64,
    platform: u64,
}

/// Which seconds of `minute` an outage on record covers, and by whose fault. Where outages overlap, the supplier's (or an unknown)
/// fault wins over the platform's, and that over the renter's: nobody is charged for a second that was lost anyway.
fn outage_masks(server: &ServerTimeline, slot: u32, minute: Minute) -> OutageMasks {
    let mut masks = OutageMasks::default();
    let mut supplier = 0;
    for outage in &server.outages {
        if outage.slots.as_ref().is_some_and(|slots| !slots.contains(&slot)) {
            continue;
        }
        let covered = mask(outage.span, minute);
        masks.any |= covered;
        match outage.fault {
            Some(Fault::Renter) => masks.renter |= covered,
            Some(Fault::Platform) => masks.platform |= covered,
            Some(Fault::Supplier) | None => supplier |= covered,
        }
    }
    masks.platform &= !supplier;
    masks.renter &= !supplier & !masks.platform;
    masks
}

fn union(spans: &[Span], minute: Minute) -> u64 {
    spans.iter().fold(0, |union, span| union | mask(*span, minute))
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

/// The billing windows of a lease that end in `(after, until]`: clock minutes or hours, cut to nothing (a window is whole, the lease
/// is cut to it when it is rated).
pub fn windows(length: i64, span: Span, after: Second, until: Second) -> impl Iterator<Item = Span> {
    let first = span.from.div_euclid(length).max(after.div_euclid(length));
    let last_second = span.to.min(until) - 1;
    let end = if span.from < span.to { last_second.div_euclid(length) + 1 } else { first };
    (first..end)
        .map(move |n| Span { from: n * length, to: (n + 1) * length })
        .filter(move |window| window.to > after && window.to <= until)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Occupancy, Outage};
    use crate::money::{Price, Share};
    use hydrometer_schemas::lifecycle::RatingWindow;
    use proptest::prelude::*;

    fn span(from: Second, to: Second) -> Span {
        Span { from, to }
    }

    fn version(from: Second, to: Second, price: &str) -> Version {
        Version {
            span: span(from, to),
            renter: "r".into(),
            currency: "USD".into(),
            price: Price::parse(price).unwrap(),
            share: Share::parse_percent("80").unwrap(),
            rating_window: RatingWindow::Hour,
        }
    }

    #[test]
    fn masks_of_spans() {
        assert_eq!(mask(span(0, 60), 0), (1 << 60) - 1);
        assert_eq!(mask(span(61, 63), 1), 0b110);
        assert_eq!(mask(span(0, 60), 1), 0);
        assert_eq!(mask(span(-5, FOREVER), 7), (1 << 60) - 1);
    }

    #[test]
    fn windows_end_behind_the_frontier_once() {
        let ends = |after, until| windows(60, span(30, 200), after, until).map(|w| w.to).collect::<Vec<_>>();
        assert_eq!(ends(0, 60), [60]);
        assert_eq!(ends(60, 180), [120, 180]);
        assert_eq!(ends(180, 600), [240]);
        assert_eq!(ends(240, 6_000), Vec::<i64>::new());
        assert_eq!(windows(60, span(60, 60), 0, 600).count(), 0);
        assert_eq!(windows(60, span(0, FOREVER), 0, 180).count(), 3);
    }

    /// The slow, obvious second implementation: second by second.
    fn brute(
        server: &ServerTimeline,
        lease: &Lease,
        slot: u32,
        at: Second,
        masks: Masks,
    ) -> (&'static str, bool, bool) {
        let in_span = |s: &Span| s.from <= at && at < s.to;
        let bit = 1u64 << at.rem_euclid(60);
        if lease.suspended.iter().any(in_span) {
            return ("suspended", false, false);
        }
        let outages: Vec<&Outage> = server
            .outages
            .iter()
            .filter(|o| in_span(&o.span) && o.slots.as_ref().is_none_or(|slots| slots.contains(&slot)))
            .collect();
        if !outages.is_empty() {
            let has = |fault: Option<Fault>| outages.iter().any(|o| o.fault == fault);
            let supplier = has(None) || has(Some(Fault::Supplier));
            let platform = !supplier && has(Some(Fault::Platform));
            let renter = !supplier && !platform;
            return ("down", renter, renter || platform);
        }
        let class = if masks.present & bit == 0 {
            "unknown"
        } else if masks.busy & bit != 0 {
            "used"
        } else {
            "idle"
        };
        (class, true, true)
    }

    fn spans(n: usize) -> impl Strategy<Value = Vec<Span>> {
        prop::collection::vec((0i64..400, 0i64..120).prop_map(|(from, len)| span(from, from + len)), 0..n)
    }

    proptest! {
        #[test]
        fn every_leased_second_is_in_one_class(
            lease_span in (0i64..400, 1i64..300),
            suspended in spans(3),
            outages in prop::collection::vec((0i64..400, 0i64..100, 0u8..4, any::<bool>()), 0..4),
            swap in 0i64..400,
            price_change in 0i64..400,
            seed in any::<u64>(),
        ) {
            let faults = [None, Some(Fault::Supplier), Some(Fault::Platform), Some(Fault::Renter)];
            let server = ServerTimeline {
                server: "s".into(),
                supplier: Some("sup".into()),
                slots: Some(2),
                occupancy: BTreeMap::from([(0, vec![
                    Occupancy { span: span(0, swap), gpu: "a".into() },
                    Occupancy { span: span(swap, FOREVER), gpu: "b".into() },
                ])]),
                leases: vec![],
                outages: outages.iter().map(|&(from, len, fault, all)| Outage {
                    outage: "o".into(),
                    span: span(from, from + len),
                    slots: (!all).then(|| vec![1]),
                    fault: faults[usize::from(fault)],
                }).collect(),
            };
            let lease = Lease {
                lease: "l".into(), contract: "c".into(), slots: vec![0, 1],
                span: span(lease_span.0, lease_span.0 + lease_span.1), suspended,
            };
            let versions = [version(0, price_change, "1"), version(price_change, FOREVER, "2")];
            let evidence = |gpu: &str, minute: Minute| {
                let mix = (seed ^ (minute as u64) << 8 ^ gpu.len() as u64 ^ u64::from(gpu.as_bytes()[0])).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let present = mix & ((1 << 60) - 1);
                Masks { present, busy: present & mix.rotate_left(17) }
            };
            let window = span(60, 360);
            let (quantities, unrated) = quantities(&server, &lease, &versions, window, evidence);
            prop_assert!(unrated.is_empty());

            let mut expected: BTreeMap<(u32, Option<String>, String), ClassSeconds> = BTreeMap::new();
            for slot in [0u32, 1] {
                for at in window.from..window.to {
                    if at < lease.span.from || at >= lease.span.to { continue; }
                    let seated = if at < swap { "a" } else { "b" };
                    let gpu = (slot == 0).then_some(seated);
                    let masks = gpu.map_or(Masks::default(), |g| evidence(g, at.div_euclid(60)));
                    let (class, billed, paid) = brute(&server, &lease, slot, at, masks);
                    let price = if at < price_change { "1" } else { "2" };
                    let sum = expected.entry((slot, gpu.map(str::to_owned), price.to_owned())).or_default();
                    match class {
                        "used" => sum.used += 1,
                        "idle" => sum.idle += 1,
                        "unknown" => sum.unknown += 1,
                        "down" => sum.down += 1,
                        _ => sum.suspended += 1,
                    }
                    sum.billed += i64::from(billed);
                    sum.paid += i64::from(paid);
                }
            }
            let found: BTreeMap<_, _> = quantities
                .into_iter()
                .map(|(key, seconds)| ((key.slot, key.gpu, key.cell.price.to_string()), seconds))
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
