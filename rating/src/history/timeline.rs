//! What is known of a server over all of its time.

use std::collections::{BTreeMap, BTreeSet};

use hydrometer_schemas::lifecycle::{Fault, SLICES_PER_CARD};
use hydrometer_schemas::time::{FOREVER, Second};

use super::span::{Dated, Span, greatest, union, within};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupancy {
    pub span: Span,
    pub gpu: String,
}

/// A renter holds slots of a server under a contract.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lease {
    pub lease: String,
    pub contract: String,
    pub slots: Vec<u32>,
    pub span: Span,
    /// Sorted, disjoint.
    pub suspended: Vec<Span>,
    /// MIG slices on each of its slots, sorted, disjoint; where it has none, the lease holds whole cards.
    pub slices: Vec<Slicing>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slicing {
    pub span: Span,
    pub slices: u32,
}

/// Slots promised to a lease. Nothing is rated by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    pub lease: String,
    pub contract: String,
    pub slots: Vec<u32>,
    pub slices: Option<u32>,
    /// Empty once it was given up before its beginning.
    pub span: Span,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outage {
    pub outage: String,
    pub span: Span,
    /// `None`: the whole server.
    pub slots: Option<Vec<u32>>,
    /// As it was named last.
    pub fault: Option<Fault>,
    /// Whose fault it was said to be while it was open, each from a second on, sorted.
    pub said: Vec<(Second, Option<Fault>)>,
}

/// Work on a server: as it was announced, and as it was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Maintenance {
    pub maintenance: String,
    /// In time: before its beginning.
    pub announced: Option<Work>,
    pub actual: Option<Work>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    pub span: Span,
    /// `None`: the whole server.
    pub slots: Option<Vec<u32>>,
}

impl Work {
    fn covers(&self, slot: u32) -> bool {
        covers(&self.slots, slot)
    }
}

/// Whose fault a lost second is. Where several are to blame, the last of them here counts: nobody is charged for a second that was
/// lost anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Blame {
    Renter,
    Platform,
    /// The supplier's, or nobody's known.
    Supplier,
}

impl Blame {
    pub fn of(fault: Option<Fault>) -> Blame {
        match fault {
            Some(Fault::Renter) => Blame::Renter,
            Some(Fault::Platform) => Blame::Platform,
            Some(Fault::Supplier) | None => Blame::Supplier,
        }
    }
}

/// All that is known of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerTimeline {
    pub server: String,
    pub supplier: Option<String>,
    pub slots: Option<u32>,
    pub slices_per_card: Option<u32>,
    /// By slot; sorted, disjoint.
    pub occupancy: BTreeMap<u32, Vec<Occupancy>>,
    /// By their beginning.
    pub leases: Vec<Lease>,
    pub reservations: Vec<Reservation>,
    /// Sorted, disjoint; empty where its provisioning is not on record.
    pub provisioned: Vec<Span>,
    /// What the control plane witnessed; sorted, disjoint.
    pub unreachable: Vec<Span>,
    pub maintenance: Vec<Maintenance>,
    pub outages: Vec<Outage>,
    /// When a GPU that had failed was working again, sorted.
    pub recovered: BTreeMap<String, Vec<Second>>,
    /// The same by slot, worked out by [`ServerTimeline::index`].
    pub records: BTreeMap<u32, SlotRecord>,
    /// Of the slots of which it was learned later what a second had been: each second by what was known in it.
    pub known_then: BTreeMap<u32, SlotRecord>,
}

/// What is on record against a slot, ready to be searched. Sorted; spans are disjoint.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotRecord {
    /// Announced maintenance.
    pub maintenance: Vec<Span>,
    /// Outages, and maintenance that was not announced.
    pub lost: Vec<(Span, Blame)>,
    /// When a fatal error that came before is over, as long as the GPU stays in its slot.
    pub recoveries: Vec<Second>,
}

impl ServerTimeline {
    /// The end of its last lease: nothing after it is rated. The beginning of time when it never had one.
    pub fn leased_until(&self) -> Second {
        self.leases.iter().map(|lease| lease.span.to).max().unwrap_or(Second::MIN)
    }

    pub fn slices_per_card(&self) -> u32 {
        self.slices_per_card.unwrap_or(SLICES_PER_CARD)
    }

    /// Works out what is on record against each slot. The fold ends with it; so does whoever makes a timeline by hand.
    pub fn index(&mut self) {
        let leased = self.leases.iter().flat_map(|lease| &lease.slots);
        let slots: BTreeSet<u32> = leased.chain(self.occupancy.keys()).copied().collect();
        self.records = slots.iter().map(|&slot| (slot, self.record(slot))).collect();
        let known_then = slots.into_iter().filter_map(|slot| Some((slot, self.known_then(slot)?)));
        self.known_then = known_then.collect();
    }

    /// What was on record against a slot in each second, by what was known in that second: unlike [`records`](Self::records) it is
    /// never changed by what happens later.
    pub fn record_known_then(&self, slot: u32) -> Option<&SlotRecord> {
        self.known_then.get(&slot).or_else(|| self.records.get(&slot))
    }

    fn record(&self, slot: u32) -> SlotRecord {
        let mut announced = Vec::new();
        let mut lost = Vec::new();
        for maintenance in &self.maintenance {
            match maintenance.on(slot) {
                Some((span, true)) => announced.push(span),
                Some((span, false)) => lost.push((span, Blame::Supplier)),
                None => {}
            }
        }
        let outages = self.outages.iter().filter(|outage| covers(&outage.slots, slot));
        lost.extend(outages.clone().map(|outage| (outage.span, Blame::of(outage.fault))));

        let mut recoveries: Vec<Second> = outages.map(|outage| outage.span.to).filter(|to| *to < FOREVER).collect();
        for seat in self.occupancy.get(&slot).into_iter().flatten() {
            let times = self.recovered.get(&seat.gpu).into_iter().flatten();
            recoveries.extend(times.filter(|time| seat.span.holds(**time)));
        }
        recoveries.sort_unstable();
        recoveries.dedup();
        SlotRecord { maintenance: union(announced), lost: greatest(lost), recoveries }
    }

    /// `None` where it is the same as what is known now.
    fn known_then(&self, slot: u32) -> Option<SlotRecord> {
        let now = self.records.get(&slot)?;
        let mut announced = now.maintenance.clone();
        announced.extend(self.maintenance.iter().filter_map(|maintenance| maintenance.expected(slot)));
        let mut lost: Vec<(Span, Blame)> = Vec::new();
        let sudden = self.maintenance.iter().filter_map(|maintenance| maintenance.on(slot));
        lost.extend(sudden.filter(|(_, is_announced)| !is_announced).map(|(span, _)| (span, Blame::Supplier)));
        let outages = self.outages.iter().filter(|outage| covers(&outage.slots, slot));
        lost.extend(outages.flat_map(Outage::blamed));
        let then =
            SlotRecord { maintenance: union(announced), lost: greatest(lost), recoveries: now.recoveries.clone() };
        (then != *now).then_some(then)
    }
}

impl Outage {
    /// Its seconds, each by whose fault it was said to be then.
    fn blamed(&self) -> impl Iterator<Item = (Span, Blame)> {
        let first = (self.span.from, None);
        let said = std::iter::once(first).chain(self.said.iter().copied());
        let until = self.said.iter().map(|(from, _)| *from).chain([self.span.to]);
        said.zip(until).map(|((from, fault), to)| (Span { from, to: to.min(self.span.to) }, Blame::of(fault)))
    }
}

impl Maintenance {
    /// The seconds that were announced and in which it had not begun: nobody knew yet that it would begin late.
    fn expected(&self, slot: u32) -> Option<Span> {
        let announced = self.announced.as_ref().filter(|work| work.covers(slot))?;
        let begun = self.actual.as_ref().map_or(FOREVER, |work| work.span.from);
        announced.span.intersect(Span { from: Second::MIN, to: begun })
    }

    /// When it is worked on a slot, and whether that was announced: as it was done, or where that is not on record as it was announced.
    fn on(&self, slot: u32) -> Option<(Span, bool)> {
        let is_announced = self.announced.as_ref().is_some_and(|work| work.covers(slot));
        match &self.actual {
            Some(actual) => actual.covers(slot).then_some((actual.span, is_announced)),
            None => self.announced.as_ref().filter(|_| is_announced).map(|work| (work.span, true)),
        }
    }
}

impl Lease {
    /// The slices that it holds on each of its slots at a time; `None`: whole cards.
    pub fn slices_at(&self, second: Second) -> Option<u32> {
        within(&self.slices, Span { from: second, to: second + 1 }).next().map(|(_, slicing)| slicing.slices)
    }
}

fn covers(slots: &Option<Vec<u32>>, slot: u32) -> bool {
    slots.as_ref().is_none_or(|slots| slots.contains(&slot))
}

impl Default for Span {
    /// No second at all.
    fn default() -> Span {
        Span { from: 0, to: 0 }
    }
}

impl Dated for Occupancy {
    fn span(&self) -> Span {
        self.span
    }
}

impl Dated for Slicing {
    fn span(&self) -> Span {
        self.span
    }
}
