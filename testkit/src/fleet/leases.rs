//! The leases of a server: side by side on its slots, one after another, suspended, contradicted.

use super::Fault;
use super::event::EventKind;
use super::scenario::{Draft, Span};

/// More leases than this on one group of slots say nothing new.
const LEASES_PER_GROUP: usize = 24;

pub(crate) fn plan_leases(draft: &mut Draft, server: &str, slots: u32, whole: bool) {
    let groups = if whole { vec![(0..slots).collect()] } else { group_slots(draft, slots) };
    let mut number = 0;
    for group in groups {
        if !whole && draft.random.chance(0.1) {
            continue; // left free: what speaks there is leakage
        }
        for span in lease_spans(draft, whole) {
            number += 1;
            let lease = format!("lease-{server}-{number}");
            record_lease(draft, server, &lease, &group, span);
        }
    }
}

fn group_slots(draft: &mut Draft, slots: u32) -> Vec<Vec<u32>> {
    let mut all: Vec<u32> = (0..slots).collect();
    if slots == 1 || draft.random.chance(0.4) {
        return vec![all];
    }
    draft.random.shuffle(&mut all);
    let groups = 2 + draft.random.below(u64::from(slots) - 1) as usize;
    let size = all.len().div_ceil(groups);
    all.chunks(size).map(<[u32]>::to_vec).collect()
}

/// Leases one after another on the same slots, at least a second apart: a start in the second of an end would be
/// ordered before it, and contradict it.
fn lease_spans(draft: &mut Draft, whole: bool) -> Vec<Span> {
    let seconds = draft.seconds();
    let mut spans = Vec::new();
    let mut from = if whole { 0 } else { draft.random.pick(&[0, 0, 1, 17, 300]) };
    while from < seconds && spans.len() < LEASES_PER_GROUP {
        let length = if draft.happens(Fault::ShortLease) {
            draft.random.between(1, 61 - from_minute(draft, from))
        } else {
            let longest = draft.random.pick(&[600, 3600, seconds, 2 * seconds]);
            draft.random.between(60, longest.max(61))
        };
        let to = (from + length).min(seconds);
        spans.push(Span { from, to });
        from = to + draft.random.pick(&[1, 1, 1, 30, 400]);
    }
    spans
}

/// Seconds since the last minute's edge.
fn from_minute(draft: &Draft, second: i64) -> i64 {
    (draft.plan.start_us / super::time::SECOND_US + second).rem_euclid(60)
}

fn record_lease(draft: &mut Draft, server: &str, lease: &str, slots: &[u32], span: Span) {
    let contract = some_contract(draft);
    draft.record(
        span.from,
        EventKind::LeaseStarted { lease: lease.to_owned(), contract, server: server.to_owned(), slots: slots.to_vec() },
    );
    let length = span.to - span.from;
    if length >= 10 && draft.happens(Fault::Suspension) {
        let suspended = draft.random.between(span.from + 2, span.to - 2);
        draft.record(suspended, EventKind::LeaseSuspended { lease: lease.to_owned() });
        if draft.random.chance(0.8) {
            let resumed = draft.random.between(suspended + 1, span.to);
            draft.record(resumed, EventKind::LeaseResumed { lease: lease.to_owned() });
        }
    }
    draft.record(span.to, EventKind::LeaseEnded { lease: lease.to_owned() });
    if length >= 4 && draft.happens(Fault::Contradiction) {
        contradict(draft, server, lease, slots, span);
    }
}

fn contradict(draft: &mut Draft, server: &str, lease: &str, slots: &[u32], span: Span) {
    match draft.random.below(4) {
        0 => {
            let again = span.to + draft.random.between(1, 300);
            draft.record(again, EventKind::LeaseEnded { lease: lease.to_owned() });
        }
        1 => {
            let second_lease = format!("{lease}-twice");
            let contract = some_contract(draft);
            let from = draft.random.between(span.from + 1, span.to);
            draft.record(
                from,
                EventKind::LeaseStarted {
                    lease: second_lease.clone(),
                    contract,
                    server: server.to_owned(),
                    slots: vec![slots[0]],
                },
            );
            let to = draft.random.between(from + 1, span.to + 60);
            draft.record(to, EventKind::LeaseEnded { lease: second_lease });
        }
        2 => {
            let price = EventKind::PriceChanged {
                contract: "contract-that-nobody-signed".to_owned(),
                charge: super::event::GPU_HOURS.to_owned(),
                price: "1.00".to_owned(),
            };
            draft.record(span.from + 1, price);
        }
        _ => draft.record(span.from + 1, EventKind::LeaseResumed { lease: lease.to_owned() }),
    }
}

fn some_contract(draft: &mut Draft) -> String {
    let number = draft.random.below(draft.contracts.len() as u64) as usize;
    draft.contracts[number].clone()
}
