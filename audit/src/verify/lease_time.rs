//! Leased time of one partition and hour: all of it is in one class (law 3), and the records are what the evidence gives (law 2).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hydrometer_pipeline::derive::{due_windows, rows};
use hydrometer_pipeline::evidence::Evidence;
use hydrometer_rating::classes::{ClassSeconds, mask};
use hydrometer_rating::history::{History, Span};
use hydrometer_rating::keys::{CellKey, StateKey};
use hydrometer_rating::quantities::{Quantity, quantities};
use hydrometer_schemas::time::{Second, show_second};
use hydrometer_sinks::rated::RatedRow;

use super::hours::{Walk, Work, show_span};
use super::usage::Metered;

/// What a quantity is said of. Ordered by server first, so that what is asked for is passed over together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Of {
    server: String,
    lease: String,
    slot: u32,
    window: Span,
    gpu: Option<String>,
    state: StateKey,
    period: Second,
    cell: CellKey,
}

impl Of {
    /// Nothing for an adjustment, which carries money and no time.
    fn said_by(row: &RatedRow) -> Option<Of> {
        let (Some(server), Some(lease), Some(slot)) = (&row.server, &row.lease, row.slot) else { return None };
        Some(Of {
            server: server.clone(),
            lease: lease.clone(),
            slot,
            window: row.window,
            gpu: row.gpu.clone(),
            state: row.state(),
            period: row.period,
            cell: row.cell.clone(),
        })
    }
}

/// Whose time: (server, lease, slot).
type Slot = (String, String, u32);

#[derive(Debug, Default)]
struct Seconds {
    rated: ClassSeconds,
    unrated: i64,
    leased: i64,
}

pub(super) fn check(walk: &mut Walk<'_>, work: &Work<'_>, metered: &Metered, records: &[RatedRow]) {
    let said = said(records);
    leased_time(walk, work, &said);
    let facts = walk.facts;
    let (derived, unrated) = derive(&facts.history, work, walk.evidence_of(work.partition, work.hour));
    evidence(walk, work, &said, derived);
    listed(walk, work, &unrated);
    walk.leakage += leakage(work, metered);
}

/// The sum of all records, over all revisions.
fn said(records: &[RatedRow]) -> BTreeMap<Of, Quantity> {
    let mut said: BTreeMap<Of, Quantity> = BTreeMap::new();
    for row in records {
        let Some(of) = Of::said_by(row) else { continue };
        let sum = said.entry(of).or_default();
        *sum = sum.plus(row.quantity);
    }
    said
}

/// The plain sum: the classes of a slot add up to its leased time, less what is listed as unrated.
fn leased_time(walk: &mut Walk<'_>, work: &Work<'_>, said: &BTreeMap<Of, Quantity>) {
    let mut slots: BTreeMap<Slot, Seconds> = BTreeMap::new();
    for (timeline, lease) in &work.leases {
        let Some(leased) = lease.span.intersect(work.span()) else { continue };
        for &slot in &lease.slots {
            let key = (timeline.server.clone(), lease.lease.clone(), slot);
            slots.entry(key).or_default().leased += leased.seconds();
        }
    }
    for (of, seconds) in said {
        let sum = slots.entry((of.server.clone(), of.lease.clone(), of.slot)).or_default();
        sum.rated = sum.rated.plus(seconds.classes);
    }
    let servers = servers_of(work);
    for unrated in walk.facts.unrated.get(&work.hour).into_iter().flatten() {
        if let Some(server) = servers.get(unrated.lease.as_str()) {
            let key = ((*server).to_owned(), unrated.lease.clone(), unrated.slot as u32);
            slots.entry(key).or_default().unrated += unrated.span.seconds();
        }
    }
    for ((server, lease, slot), sum) in slots {
        let asked_for = walk.is_asked_for(&server, work.hour);
        let check = walk.report.check("leased");
        if asked_for {
            check.wait("slots and hours under an open request", 1);
            continue;
        }
        check.count("slots and hours", 1);
        check.count("seconds", sum.leased.unsigned_abs());
        let subject = || format!("lease {lease}, slot {slot} of {server}, hour {}", show_second(work.hour));
        if sum.rated.leased() + sum.unrated != sum.leased {
            let found = format!("{} s in classes and {} s listed as unrated", sum.rated.leased(), sum.unrated);
            check.violation(subject(), format!("{} s leased", sum.leased), found);
        }
        let c = sum.rated;
        let classes = [c.used, c.idle, c.unknown, c.maintenance, c.down, c.suspended, c.billed, c.paid];
        if classes.iter().chain(&[c.down_platform, c.down_renter]).any(|seconds| *seconds < 0)
            || c.down_platform + c.down_renter > c.down
        {
            check.violation(
                subject(),
                "no class below 0 s, and no more of it by anybody's fault than is down",
                show(&c),
            );
        }
    }
}

type Unrated = BTreeMap<(String, i32), Vec<Span>>;

/// Rates the hour again, from the timelines and all that was metered.
fn derive(history: &History, work: &Work<'_>, evidence: &Evidence) -> (BTreeMap<Of, Quantity>, Unrated) {
    let mut derived: BTreeMap<Of, Quantity> = BTreeMap::new();
    let mut unrated = Unrated::new();
    for (timeline, lease) in &work.leases {
        let versions = history.versions(&lease.contract);
        for window in due_windows(lease, versions, work.span().from, work.span().to) {
            let of_window = evidence.of(&timeline.server, window);
            let (found, without) = quantities(timeline, lease, versions, window, &of_window);
            for row in rows(timeline, lease, versions, window, work.partition.partition, found) {
                let Some(of) = Of::said_by(&row) else { continue };
                let sum = derived.entry(of).or_default();
                *sum = sum.plus(row.quantity);
            }
            for stretch in without {
                unrated.entry((lease.lease.clone(), stretch.slot as i32)).or_default().push(stretch.span);
            }
        }
    }
    (derived, unrated)
}

/// What was said against what is found now, window by window.
fn evidence(walk: &mut Walk<'_>, work: &Work<'_>, said: &BTreeMap<Of, Quantity>, derived: BTreeMap<Of, Quantity>) {
    let keys: BTreeSet<&Of> = said.keys().chain(derived.keys()).collect();
    for of in keys {
        let asked_for = walk.is_asked_for(&of.server, work.hour);
        let check = walk.report.check("evidence");
        if asked_for {
            check.wait("windows under an open request", 1);
            continue;
        }
        check.count("windows of slots", 1);
        let (now, then) = (derived.get(of).copied().unwrap_or_default(), said.get(of).copied().unwrap_or_default());
        if now != then {
            let gpu = of.gpu.as_deref().unwrap_or("none known");
            let subject = format!(
                "lease {}, slot {} of {}, GPU {gpu}, window {}, contract {}, {} by terms of {} (rate {}), renter {} in {}",
                of.lease,
                of.slot,
                of.server,
                show_span(of.window),
                of.state.contract,
                of.state.charge,
                show_second(of.cell.version_from),
                of.cell.rate,
                of.state.renter,
                of.state.currency
            );
            check.violation(subject, show_quantity(&now), show_quantity(&then));
        }
    }
}

/// What is listed as unrated is what cannot be rated, each second once.
fn listed(walk: &mut Walk<'_>, work: &Work<'_>, derived: &Unrated) {
    let mut listed = Unrated::new();
    let servers = servers_of(work);
    for row in walk.facts.unrated.get(&work.hour).into_iter().flatten() {
        // Time of leases of other partitions is compared there, and what is of no lease at all by the lists.
        if servers.contains_key(row.lease.as_str()) {
            listed.entry((row.lease.clone(), row.slot)).or_default().push(row.span);
        }
    }
    let keys: BTreeSet<&(String, i32)> = derived.keys().chain(listed.keys()).collect();
    for key in keys {
        let server = servers.get(key.0.as_str()).copied().unwrap_or_default();
        if walk.is_asked_for(server, work.hour) {
            continue;
        }
        let (now, then) = (joined(derived.get(key)), joined(listed.get(key)));
        if now != then {
            let subject = format!("lease {}, slot {} of {server}, hour {}", key.0, key.1, show_second(work.hour));
            let show = |spans: &[Span]| match spans {
                [] => "nothing unrated".to_owned(),
                spans => format!("unrated {}", spans.iter().map(|span| show_span(*span)).collect::<Vec<_>>().join(" ")),
            };
            walk.report.check("evidence").violation(subject, show(&now), show(&then));
        }
    }
}

/// Spans sorted and joined where they touch; where they overlap they stay apart, since that is a second listed twice.
fn joined(spans: Option<&Vec<Span>>) -> Vec<Span> {
    let mut sorted = spans.cloned().unwrap_or_default();
    sorted.sort();
    let mut joined: Vec<Span> = Vec::new();
    for span in sorted {
        match joined.last_mut() {
            Some(last) if last.to == span.from => last.to = span.to,
            _ => joined.push(span),
        }
    }
    joined
}

/// Metered seconds that no lease covers; a suspended lease is still a lease.
fn leakage(work: &Work<'_>, metered: &Metered) -> u64 {
    let mut leased: HashMap<(&str, &str), Vec<Span>> = HashMap::new();
    for (timeline, lease) in &work.leases {
        for seat in lease.slots.iter().filter_map(|slot| timeline.occupancy.get(slot)).flatten() {
            let spans = leased.entry((&timeline.server, &seat.gpu)).or_default();
            spans.extend(seat.span.intersect(lease.span));
        }
    }
    let mut seconds = 0;
    for (server, gpus) in &metered.servers {
        for (gpu, minutes) in gpus {
            let spans = leased.get(&(&**server, &**gpu)).map_or(&[][..], Vec::as_slice);
            for (minute, bits) in minutes {
                let covered = spans.iter().fold(0, |covered, span| covered | mask(*span, *minute));
                seconds += u64::from((bits.present & !covered).count_ones());
            }
        }
    }
    seconds
}

fn servers_of<'a>(work: &Work<'a>) -> HashMap<&'a str, &'a str> {
    work.leases.iter().map(|(timeline, lease)| (lease.lease.as_str(), timeline.server.as_str())).collect()
}

pub(super) fn show_quantity(quantity: &Quantity) -> String {
    let Quantity { classes, billed, paid, lost } = quantity;
    format!("{}; quantity billed {billed}, paid {paid}, lost {lost}", show(classes))
}

fn show(c: &ClassSeconds) -> String {
    let classes = [
        ("used", c.used),
        ("idle", c.idle),
        ("unknown", c.unknown),
        ("maintenance", c.maintenance),
        ("down", c.down),
        ("of it the platform's fault", c.down_platform),
        ("of it the renter's", c.down_renter),
        ("suspended", c.suspended),
    ];
    let classes: Vec<String> = classes.iter().filter(|c| c.1 != 0).map(|(class, s)| format!("{class} {s}")).collect();
    let classes = if classes.is_empty() { "no time".to_owned() } else { classes.join(", ") };
    format!("{classes} (billed {}, paid {})", c.billed, c.paid)
}
