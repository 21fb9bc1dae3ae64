//! A lease's seconds in a window to quantities: what each charge counts, cut at the exact second wherever anything changes that an
//! amount depends on: the GPU in a slot, the contract's version, the billing period, the time of the week, the MIG slices.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use hydrometer_schemas::contract::{Basis, MaintenanceRule, Scope};
use hydrometer_schemas::time::Second;

use crate::classes::{ClassMasks, ClassSeconds, Masks, count, mask, minutes};
pub use crate::downtime::Evidence;
use crate::downtime::LeaseDowntime;
use crate::history::span::cut;
use crate::history::{Lease, ServerTimeline, Span, Version};
use crate::keys::CellKey;
use crate::terms::{Charge, RateId};

/// What a quantity belongs to within its lease and window.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct QuantityKey {
    pub slot: u32,
    /// `None` while no GPU is known in the slot.
    pub gpu: Option<String>,
    pub charge: String,
    /// The beginning of the billing period.
    pub period: Second,
    pub cell: CellKey,
}

/// Counted pieces of a charge's basis: seconds, joules, slice-seconds, byte-seconds. Signed, since a revision is a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Quantity {
    /// Of all the charges of a version one carries the seconds (the first metered one by name), so that sums count each second once.
    pub classes: ClassSeconds,
    /// What the renter pays for.
    pub billed: i64,
    /// What the supplier is paid for.
    pub paid: i64,
    /// What would have been billed had it not been down, by another's fault than the renter's: allocated seconds and slices, else 0.
    pub lost: i64,
}

impl Quantity {
    pub fn is_zero(&self) -> bool {
        *self == Quantity::default()
    }

    pub fn plus(self, other: Quantity) -> Quantity {
        Quantity {
            classes: self.classes.plus(other.classes),
            billed: self.billed + other.billed,
            paid: self.paid + other.paid,
            lost: self.lost + other.lost,
        }
    }

    pub fn minus(self, other: Quantity) -> Quantity {
        Quantity {
            classes: self.classes.minus(other.classes),
            billed: self.billed - other.billed,
            paid: self.paid - other.paid,
            lost: self.lost - other.lost,
        }
    }
}

pub type Quantities = BTreeMap<QuantityKey, Quantity>;

/// A stretch of leased time that cannot be rated. It stops nothing; it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrated {
    pub slot: u32,
    pub span: Span,
    pub reason: &'static str,
}

pub const NO_VERSION: &str = "no contract version is in force";
pub const NO_SUPPLIER: &str = "the server is not registered, so its supplier is unknown";
pub const NO_RATE: &str = "the contract has no rate for the server's supplier";
pub const TOO_LARGE: &str = "a quantity is too large to be counted in 64 bits";

/// What carries the seconds of a version that meters nothing.
pub const ALLOCATION: &str = "allocation";

/// The quantities of one lease in `window`. Every metered charge in force has one wherever a second is leased, be it zero; what
/// cannot be rated is listed instead.
pub fn quantities(
    server: &ServerTimeline,
    lease: &Lease,
    versions: &[Version],
    window: Span,
    evidence: &impl Evidence,
) -> (Quantities, Vec<Unrated>) {
    let mut quantities = Quantities::new();
    let mut unrated = Vec::new();
    let Some(leased) = lease.span.intersect(window) else { return (quantities, unrated) };
    let downtime = LeaseDowntime::new(server, lease, leased, evidence);
    for (span, version) in cut(versions, leased) {
        let metered = match Metered::of(server.supplier.as_deref(), version) {
            Ok(metered) => metered,
            Err(reason) => {
                unrated.extend(lease.slots.iter().map(|&slot| Unrated { slot, span, reason }));
                continue;
            }
        };
        for part in metered.parts(span) {
            for place in places(server, lease, part.span) {
                let counts = Counts::of(&metered, &part, &place, &downtime, evidence);
                for (n, item) in metered.items.iter().enumerate() {
                    match item.quantity(&counts, &place, n == 0) {
                        Some(quantity) => {
                            let sum = quantities.entry(metered.key(n, &part, &place)).or_default();
                            *sum = sum.plus(quantity);
                        }
                        None => unrated.push(Unrated { slot: place.slot, span: place.span, reason: TOO_LARGE }),
                    }
                }
            }
        }
    }
    (quantities, unrated)
}

/// Whose usage climbs a charge's ladder together: empty for the whole contract.
pub fn resource(charge: &Charge, server: &str, lease: &str, slot: u32) -> String {
    match charge.scope {
        Scope::Contract => String::new(),
        Scope::Lease => lease.to_owned(),
        Scope::Gpu => format!("{lease}/{slot}"),
        Scope::Server => server.to_owned(),
    }
}

/// What a version meters, for one supplier.
struct Metered<'a> {
    version: &'a Version,
    supplier: &'a str,
    /// By name; the first one carries the seconds.
    items: Vec<Item<'a>>,
    counts_memory: bool,
}

struct Item<'a> {
    name: &'a str,
    rate: RateId,
    /// `None`: nothing is metered, there is only something to carry the seconds.
    charge: Option<&'a Charge>,
}

/// A part of a window in which nothing changes for any charge: one billing period, one time of the week each.
struct Part {
    span: Span,
    period: Span,
    /// By item.
    segments: Vec<u16>,
}

/// A leased slot while one GPU sits in it and the lease holds the same slices of it.
struct Place<'a> {
    span: Span,
    /// Which of the lease's slots.
    n: usize,
    slot: u32,
    gpu: Option<&'a str>,
    /// `None`: the whole card.
    slices: Option<u32>,
    card: u32,
}

impl<'a> Metered<'a> {
    fn of(supplier: Option<&'a str>, version: Option<&'a Version>) -> Result<Metered<'a>, &'static str> {
        let supplier = supplier.ok_or(NO_SUPPLIER)?;
        let version = version.ok_or(NO_VERSION)?;
        let mut items = Vec::new();
        for (name, charge) in version.terms.charges.iter().filter(|(_, charge)| charge.is_metered()) {
            let rate = version.terms.rate(name, supplier).ok_or(NO_RATE)?.id;
            items.push(Item { name, rate, charge: Some(charge) });
        }
        if items.is_empty() {
            items.push(Item { name: ALLOCATION, rate: RateId(0), charge: None });
        }
        let counts_memory = items.iter().any(|item| item.charge.is_some_and(|charge| charge.basis == Basis::Memory));
        Ok(Metered { version, supplier, items, counts_memory })
    }

    fn parts(&self, span: Span) -> Vec<Part> {
        let calendar = &self.version.terms.calendar;
        let by_time = |item: &Item<'a>| item.charge.map_or(&[][..], |charge| charge.by_time.as_slice());
        // The plain case is by far the most frequent one, and the calendar is what costs in a window of a minute.
        let period = calendar.period_of(span.from);
        if span.to <= period.to && self.items.iter().all(|item| by_time(item).is_empty()) {
            return vec![Part { span, period, segments: vec![0; self.items.len()] }];
        }
        let mut edges = vec![span.from, span.to];
        for item in &self.items {
            edges.extend(calendar.cuts(by_time(item), span));
        }
        edges.sort_unstable();
        edges.dedup();
        let parts = edges.windows(2).filter_map(|pair| match pair {
            &[from, to] => Some(Span { from, to }),
            _ => None,
        });
        parts
            .map(|span| Part {
                span,
                period: calendar.period_of(span.from),
                segments: self.items.iter().map(|item| calendar.segment(by_time(item), span.from)).collect(),
            })
            .collect()
    }

    fn key(&self, n: usize, part: &Part, place: &Place) -> QuantityKey {
        let (name, rate) = self.items.get(n).map_or((ALLOCATION, RateId(0)), |item| (item.name, item.rate));
        QuantityKey {
            slot: place.slot,
            gpu: place.gpu.map(str::to_owned),
            charge: name.to_owned(),
            period: part.period.from,
            cell: CellKey {
                version_from: self.version.span.from,
                rate,
                segment: part.segments.get(n).copied().unwrap_or(0),
                supplier: self.supplier.to_owned(),
            },
        }
    }
}

fn places<'a>(server: &'a ServerTimeline, lease: &'a Lease, span: Span) -> Vec<Place<'a>> {
    let card = server.slices_per_card();
    let mut places = Vec::new();
    for (n, &slot) in lease.slots.iter().enumerate() {
        let seats = server.occupancy.get(&slot).map_or(&[][..], Vec::as_slice);
        for (span, seat) in cut(seats, span) {
            for (span, slicing) in cut(&lease.slices, span) {
                let (gpu, slices) = (seat.map(|seat| seat.gpu.as_str()), slicing.map(|slicing| slicing.slices));
                places.push(Place { span, n, slot, gpu, slices, card });
            }
        }
    }
    places
}

/// All that charges may count in a place.
#[derive(Default)]
struct Counts {
    classes: ClassSeconds,
    observed: Sides,
    busy: Sides,
    /// Byte-seconds.
    memory: Sides,
    joules: i64,
}

/// What the renter pays for, and what the supplier is paid for.
#[derive(Default, Clone, Copy)]
struct Sides {
    billed: i128,
    paid: i128,
}

impl Sides {
    fn add(&mut self, masks: &ClassMasks, seconds: u64, weight: i64) {
        let weigh = |mask: u64| i128::from(count(mask & seconds)) * i128::from(weight);
        self.billed += weigh(masks.billed);
        self.paid += weigh(masks.paid);
    }
}

impl Counts {
    fn of<E: Evidence>(
        metered: &Metered,
        part: &Part,
        place: &Place,
        downtime: &LeaseDowntime<'_, E>,
        evidence: &E,
    ) -> Counts {
        let terms = &metered.version.terms;
        let mut allowance = Allowance::new(metered.version, part, place, downtime);
        let mut slot = downtime.slot(place.n, terms.degradation, place.span);
        let mut counts = Counts::default();
        for minute in minutes(place.span) {
            let evident = place.gpu.map_or(Masks::default(), |gpu| evidence.masks(gpu, minute));
            let masks = ClassMasks::of(mask(place.span, minute), minute, evident, &mut slot, |m| allowance.take(m));
            counts.classes = counts.classes.plus(masks.seconds());
            counts.observed.add(&masks, evident.present, 1);
            counts.busy.add(&masks, evident.present & evident.busy, 1);
            if metered.counts_memory
                && let Some(bytes) = place.gpu.and_then(|gpu| evidence.memory(gpu, minute))
            {
                counts.memory.add(&masks, evident.present, bytes);
            }
        }
        counts.joules = place.gpu.map_or(0, |gpu| evidence.energy(gpu, place.span));
        counts
    }
}

impl Item<'_> {
    /// `None`: beyond 64 bits.
    fn quantity(&self, counts: &Counts, place: &Place, carries: bool) -> Option<Quantity> {
        let classes = &counts.classes;
        let seconds = Sides { billed: classes.billed.into(), paid: classes.paid.into() };
        let lost = i128::from(classes.down - classes.down_renter);
        let same = |pieces: i128| Sides { billed: pieces, paid: pieces };
        let (sides, lost) = match self.charge.map(|charge| (charge.basis, charge)) {
            Some((Basis::Allocated, _)) => (seconds, lost),
            Some((Basis::Slices, charge)) => {
                // A whole card is a whole card-hour, whatever number of slices the contract says it has.
                let slices = place.slices.map_or(charge.pieces_per_unit / 3_600, i128::from);
                (Sides { billed: seconds.billed * slices, paid: seconds.paid * slices }, lost * slices)
            }
            Some((Basis::Observed, _)) => (counts.observed, 0),
            Some((Basis::Busy, _)) => (counts.busy, 0),
            Some((Basis::Suspended, _)) => (same(classes.suspended.into()), 0),
            Some((Basis::Energy, _)) => (same(place.part_of_card(counts.joules.into())), 0),
            Some((Basis::Memory, _)) => {
                let Sides { billed, paid } = counts.memory;
                (Sides { billed: place.part_of_card(billed), paid: place.part_of_card(paid) }, 0)
            }
            Some((Basis::Recurring | Basis::OneOff | Basis::Percentage, _)) | None => (Sides::default(), 0),
        };
        Some(Quantity {
            classes: if carries { *classes } else { ClassSeconds::default() },
            billed: i64::try_from(sides.billed).ok()?,
            paid: i64::try_from(sides.paid).ok()?,
            lost: i64::try_from(lost).ok()?,
        })
    }
}

impl Place<'_> {
    /// A card that several leases share is read as one: each has its slices' part of what was read, so that nothing is billed twice.
    fn part_of_card(&self, whole: i128) -> i128 {
        match self.slices {
            Some(slices) => whole * i128::from(slices) / i128::from(self.card.max(1)),
            None => whole,
        }
    }
}

/// The seconds of announced maintenance that are still billed: all, none, or the first ones of each leased slot in each period, in
/// order of time. What went before follows from the timeline alone, so windows can be rated in any order.
struct Allowance {
    left: i64,
}

impl Allowance {
    fn new<E: Evidence>(version: &Version, part: &Part, place: &Place, downtime: &LeaseDowntime<'_, E>) -> Allowance {
        let left = match version.terms.maintenance {
            MaintenanceRule::Billed => i64::MAX,
            MaintenanceRule::Free => 0,
            MaintenanceRule::Allowance => {
                let before = Span { from: part.period.from, to: place.span.from };
                version.terms.maintenance_allowance - downtime.maintenance_seconds(place.n, before)
            }
        };
        Allowance { left: left.max(0) }
    }

    /// The first of these seconds, as many as are left.
    fn take(&mut self, seconds: u64) -> u64 {
        let wanted = count(seconds);
        let mut billed = seconds;
        for _ in self.left..wanted {
            billed &= !(1 << (63 - billed.leading_zeros()));
        }
        self.left -= wanted.min(self.left);
        billed
    }
}
