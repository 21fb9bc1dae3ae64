//! Which seconds of a leased slot are lost, and by whose fault.
//!
//! On record: outages, and maintenance that nobody announced. By a fatal XID: from its edge until the GPU recovered, was replaced, or
//! an outage of the slot was closed. By silence: no GPU of the server spoke, and the control plane could not reach it either. What is
//! on record goes before a fatal XID, and that before silence: who has found a cause has named the party at fault.

use hydrometer_schemas::contract::Degradation;
use hydrometer_schemas::time::{Minute, Second};

use crate::classes::{Masks, mask};
use crate::history::span::{greatest, within, without};
use crate::history::{Blame, Lease, ServerTimeline, SlotRecord, Span};

/// Evidence of GPUs on one server.
pub trait Evidence {
    /// What is on record against a slot: all that is known now, unless the evidence is of another time.
    fn record<'a>(&self, server: &'a ServerTimeline, slot: u32) -> Option<&'a SlotRecord> {
        server.records.get(&slot)
    }
    /// When the control plane could not reach the server, sorted: silence in it is downtime.
    fn unreachable<'a>(&self, server: &'a ServerTimeline) -> &'a [Span] {
        &server.unreachable
    }
    fn masks(&self, gpu: &str, minute: Minute) -> Masks;
    /// The seconds of its fatal XID edges, sorted.
    fn fatal(&self, gpu: &str) -> &[Second];
    /// Joules drawn in a span. Parts add up.
    fn energy(&self, gpu: &str, span: Span) -> i64;
    /// Bytes in use in a minute; `None`: nothing was said.
    fn memory(&self, gpu: &str, minute: Minute) -> Option<i64>;
}

/// What a lease's slots lost in a window.
pub(crate) struct LeaseDowntime<'a, E> {
    server: &'a ServerTimeline,
    lease: &'a Lease,
    evidence: &'a E,
    /// In the order of the lease's slots.
    slots: Vec<SlotDowntime>,
    /// All of them together, for leases that lose everything with one slot.
    node: Vec<(Span, Blame)>,
    unreachable: Vec<Span>,
}

struct SlotDowntime {
    maintenance: Vec<Span>,
    lost: Vec<(Span, Blame)>,
}

impl<'a, E: Evidence> LeaseDowntime<'a, E> {
    pub fn new(server: &'a ServerTimeline, lease: &'a Lease, window: Span, evidence: &'a E) -> Self {
        let slots: Vec<SlotDowntime> =
            lease.slots.iter().map(|slot| SlotDowntime::new(server, *slot, window, evidence)).collect();
        // Maintenance goes before what is lost, so a slot in maintenance takes no other slot down with it.
        let node = greatest(slots.iter().flat_map(|slot| without(&slot.lost, &slot.maintenance)));
        let unreachable = within(evidence.unreachable(server), window).map(|(part, _)| part).collect();
        LeaseDowntime { server, lease, evidence, slots, node, unreachable }
    }

    /// The seconds of `part` for the lease's `n`th slot, to be asked for minute by minute.
    pub fn slot(&self, n: usize, degradation: Degradation, part: Span) -> Downtime<'_, E> {
        let (maintenance, own) = match self.slots.get(n) {
            Some(slot) => (slot.maintenance.as_slice(), slot.lost.as_slice()),
            None => (&[][..], &[][..]),
        };
        let lost = match degradation {
            Degradation::Gpu => own,
            Degradation::Node => &self.node,
        };
        Downtime {
            suspended: Spans::new(&self.lease.suspended, part),
            maintenance: Spans::new(maintenance, part),
            lost: Lost::new(lost, part),
            unreachable: Spans::new(&self.unreachable, part),
            lease: self,
        }
    }

    /// Seconds of leased maintenance of the `n`th slot in `span`, which may begin before the window.
    pub fn maintenance_seconds(&self, n: usize, span: Span) -> i64 {
        let record = self.lease.slots.get(n).and_then(|slot| self.evidence.record(self.server, *slot));
        let Some((record, leased)) = record.zip(span.intersect(self.lease.span)) else { return 0 };
        let parts = within(&record.maintenance, leased);
        parts
            .map(|(part, _)| {
                let suspended: i64 = within(&self.lease.suspended, part).map(|(cut, _)| cut.seconds()).sum();
                part.seconds() - suspended
            })
            .sum()
    }

    /// The seconds of a minute in which any GPU that sits in the server spoke.
    fn spoken(&self, minute: Minute) -> u64 {
        let start = minute * 60;
        let all = Span { from: start, to: start + 60 };
        let seats = self.server.occupancy.values().flat_map(|seats| within(seats, all));
        seats.fold(0, |spoken, (part, seat)| {
            spoken | (self.evidence.masks(&seat.gpu, minute).present & mask(part, minute))
        })
    }
}

impl SlotDowntime {
    fn new(server: &ServerTimeline, slot: u32, window: Span, evidence: &impl Evidence) -> SlotDowntime {
        let Some(record) = evidence.record(server, slot) else {
            return SlotDowntime { maintenance: Vec::new(), lost: Vec::new() };
        };
        let maintenance = within(&record.maintenance, window).map(|(part, _)| part).collect();
        let mut lost: Vec<(Span, Blame)> = within(&record.lost, window).map(|(part, it)| (part, it.1)).collect();
        let failed = failures(server, slot, record, window, evidence);
        if !failed.is_empty() {
            let on_record: Vec<Span> = lost.iter().map(|(span, _)| *span).collect();
            lost.extend(without(&failed, &on_record));
            lost = greatest(lost);
        }
        SlotDowntime { maintenance, lost }
    }
}

/// The spans of fatal errors of whatever GPU sits in a slot. Only the edges since the last recovery before the window are looked at.
fn failures(
    server: &ServerTimeline,
    slot: u32,
    record: &SlotRecord,
    window: Span,
    evidence: &impl Evidence,
) -> Vec<(Span, Blame)> {
    let mut failures = Vec::new();
    let seats = server.occupancy.get(&slot).map_or(&[][..], Vec::as_slice);
    for (part, seat) in within(seats, window) {
        let edges = evidence.fatal(&seat.gpu);
        if edges.is_empty() {
            continue;
        }
        let recovered = record.recoveries.partition_point(|time| *time <= part.from);
        let mut since =
            record.recoveries.get(..recovered).and_then(<[Second]>::last).copied().unwrap_or(seat.span.from);
        since = since.max(seat.span.from);
        while since < part.to {
            let Some(&edge) = edges.get(edges.partition_point(|edge| *edge < since)) else { break };
            if edge >= part.to {
                break;
            }
            // An error in the very second of a recovery came after it, as far as anyone can tell.
            let next = record.recoveries.partition_point(|time| *time <= edge);
            let until = record.recoveries.get(next).copied().unwrap_or(seat.span.to).min(seat.span.to);
            failures.extend(Span { from: edge, to: until }.intersect(part).map(|span| (span, Blame::Supplier)));
            since = until;
        }
    }
    failures
}

/// What one slot lost in a part of the window. Minutes are asked for in ascending order.
pub(crate) struct Downtime<'a, E> {
    pub suspended: Spans<'a>,
    pub maintenance: Spans<'a>,
    lost: Lost<'a>,
    unreachable: Spans<'a>,
    lease: &'a LeaseDowntime<'a, E>,
}

pub(crate) struct LostMasks {
    pub any: u64,
    pub platform: u64,
    pub renter: u64,
}

impl<E: Evidence> Downtime<'_, E> {
    /// The lost ones among `seconds`.
    pub fn lost(&mut self, minute: Minute, seconds: u64) -> LostMasks {
        let mut lost = self.lost.masks(minute);
        lost.any &= seconds;
        lost.platform &= seconds;
        lost.renter &= seconds;
        let unreachable = seconds & !lost.any & self.unreachable.mask(minute);
        if unreachable != 0 {
            lost.any |= unreachable & !self.lease.spoken(minute);
        }
        lost
    }
}

/// A sorted list of spans, read minute by minute in ascending order.
pub(crate) struct Spans<'a> {
    left: &'a [Span],
}

impl<'a> Spans<'a> {
    fn new(all: &'a [Span], part: Span) -> Self {
        let first = all.partition_point(|span| span.to <= part.from);
        Spans { left: all.get(first..).unwrap_or_default() }
    }

    pub fn mask(&mut self, minute: Minute) -> u64 {
        let (start, end) = (minute * 60, minute * 60 + 60);
        while let Some((first, rest)) = self.left.split_first()
            && first.to <= start
        {
            self.left = rest;
        }
        let touching = self.left.iter().take_while(|span| span.from < end);
        touching.fold(0, |all, span| all | mask(*span, minute))
    }
}

struct Lost<'a> {
    left: &'a [(Span, Blame)],
}

impl<'a> Lost<'a> {
    fn new(all: &'a [(Span, Blame)], part: Span) -> Self {
        let first = all.partition_point(|(span, _)| span.to <= part.from);
        Lost { left: all.get(first..).unwrap_or_default() }
    }

    fn masks(&mut self, minute: Minute) -> LostMasks {
        let (start, end) = (minute * 60, minute * 60 + 60);
        while let Some((first, rest)) = self.left.split_first()
            && first.0.to <= start
        {
            self.left = rest;
        }
        let mut masks = LostMasks { any: 0, platform: 0, renter: 0 };
        for (span, blame) in self.left.iter().take_while(|(span, _)| span.from < end) {
            let covered = mask(*span, minute);
            masks.any |= covered;
            match blame {
                Blame::Renter => masks.renter |= covered,
                Blame::Platform => masks.platform |= covered,
                Blame::Supplier => {}
            }
        }
        masks
    }
}
