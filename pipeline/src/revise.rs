//! The revision: the one way in which history changes. Derive a window again from everything that the manifest holds, subtract what
//! was said before, and commit the difference through the same protocol as live rating.

use std::collections::{BTreeMap, BTreeSet};

use hydrometer_rating::history::{History, Span};
use hydrometer_rating::keys::{CellKey, StateKey};
use hydrometer_rating::money::Amount;
use hydrometer_rating::quantities::Quantity;
use hydrometer_rating::xid::XidPolicy;
use hydrometer_schemas::contract::Basis;
use hydrometer_schemas::time::{SECONDS_PER_HOUR, SECONDS_PER_MINUTE, Second, hour_ceil, hour_floor};
use hydrometer_sinks::Warehouse;
use hydrometer_sinks::rated::{RatedRow, RecordKind};
use hydrometer_sinks::usage::{UsageKey, UsageRow};

use crate::derive::{Derived, due_windows, rows};
use crate::evidence::{Evidence, FatalXid, LOOK_BACK_HOURS};
use crate::homes::Homes;
use crate::protocol::derivable;
use crate::publish::{look_back, published_rated, published_usage, usage_rows};
use crate::source::TopicPartition;
use crate::store::Database;
use crate::store::commit::RevisedWindow;
use crate::store::lease::Lease;
use crate::store::manifest::{self, Object};
use crate::store::timeline::{OpenRequest, Request, Scope, is_asked, open_requests, unrated_hours};
use crate::store::xid::fatal_xids;
use crate::worker::WorkerError;

/// What a round of revisions found for one partition.
#[derive(Debug, Default)]
pub struct Revision {
    /// Minutes that the hour's files lack, by hour.
    pub usage: BTreeMap<Second, Vec<UsageRow>>,
    /// Differences of rated quantities, by hour.
    pub derived: Derived,
    pub revised: Vec<RevisedWindow>,
    pub mended: Vec<(String, Second, Second)>,
    /// Fatal XIDs that were first seen in these hours.
    pub fatal: Vec<FatalXid>,
    /// Requests that are answered when this is committed.
    pub finished: Vec<i64>,
}

/// What a revision is derived from.
pub struct Sources<'a> {
    pub db: &'a Database,
    pub warehouse: &'a Warehouse,
    pub history: &'a History,
    pub lease: &'a Lease,
}

/// What the derivable requests of a partition ask for.
#[derive(Debug, Default)]
pub struct Plan {
    /// Per hour: the servers to derive again.
    pub hours: BTreeMap<Second, BTreeSet<String>>,
    /// Late and away rows that the requests name.
    late: Vec<UsageRow>,
    requests: Vec<i64>,
    /// What was asked here and is for another home: whoever asked did not know yet that the server's home had been moved.
    pub handed_on: Vec<Request>,
    /// The version of the partition's homes that it was gathered by.
    pub homes: i64,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// A plan that nobody asked for: what would change if these hours of these servers were derived again?
    pub fn of(hours: BTreeMap<Second, BTreeSet<String>>) -> Plan {
        Plan { hours, ..Plan::default() }
    }

    /// Gathers the requests of the partition that lie behind its frontier, oldest first, until they touch `hours_max` hours.
    pub async fn gather(
        db: &Database,
        warehouse: &Warehouse,
        history: &History,
        homes: &Homes,
        lease: &Lease,
        hours_max: usize,
    ) -> Result<Plan, WorkerError> {
        let mut plan = Plan { homes: lease.homes, ..Plan::default() };
        for OpenRequest { id, request } in open_requests(db.client_ref(), &lease.partition).await? {
            if !derivable(request.to, lease.frontier) {
                continue;
            }
            // The rest waits for the next look, so that one look is bounded whatever was asked for.
            if plan.hours.len() >= hours_max {
                break;
            }
            match &request.scope {
                Scope::Server(server) => {
                    let asked = Span { from: request.from, to: request.to };
                    let here = (!homes.knows(server)).then_some((asked, &lease.partition));
                    for (span, home) in homes.spans(server).chain(here) {
                        let Some(span) = span.intersect(asked) else { continue };
                        if *home != lease.partition {
                            let (partition, from, to) = (home.clone(), span.from, span.to);
                            plan.handed_on.push(Request { partition, from, to, ..request.clone() });
                            continue;
                        }
                        for hour in server_hours(db, history, lease, server, span).await? {
                            plan.hours.entry(hour).or_default().insert(server.clone());
                        }
                    }
                }
                Scope::Object(name) => {
                    let Some(object) = manifest::object(db.client_ref(), name).await? else { continue };
                    plan.take_late(db, warehouse, history, &object, homes, lease, &request.cause).await?;
                }
            }
            plan.requests.push(id);
        }
        Ok(plan)
    }

    #[allow(clippy::too_many_arguments)]
    async fn take_late(
        &mut self,
        db: &Database,
        warehouse: &Warehouse,
        history: &History,
        object: &Object,
        homes: &Homes,
        lease: &Lease,
        cause: &str,
    ) -> Result<(), WorkerError> {
        let mut foreign: BTreeMap<&TopicPartition, Span> = BTreeMap::new();
        let mut lasting: Vec<UsageRow> = Vec::new();
        for row in usage_rows(warehouse, object).await? {
            let start = row.minute * SECONDS_PER_MINUTE;
            let hour = hour_floor(start);
            let Some(home) = homes.at(&row.server, start) else { continue };
            let ours = *home == lease.partition;
            if ours && hour + SECONDS_PER_HOUR <= lease.frontier {
                self.hours.entry(hour).or_default().insert(row.server.to_string());
                if outlasts_its_hour(history, &row) {
                    lasting.push(row.clone());
                }
                self.late.push(row);
            } else if !ours && homes.has_moved(&row.server) {
                // Every other home that an object has rows for was asked, by the homes that its writer knew.
                let end = start + SECONDS_PER_MINUTE;
                let span = foreign.entry(home).or_insert(Span { from: start, to: end });
                *span = Span { from: span.from.min(start), to: span.to.max(end) };
            }
        }
        for row in lasting {
            for hour in hours_after(db, warehouse, history, lease, &row).await? {
                self.hours.entry(hour).or_default().insert(row.server.to_string());
            }
        }
        for (home, Span { from, to }) in foreign {
            // A home that was asked about this object up to these minutes has answered, or will, by homes that are not older than
            // the move: it cannot answer before its frontier has passed them, and the move was ahead of its frontier.
            if !is_asked(db.client_ref(), home, &object.name, to).await? {
                let scope = Scope::Object(object.name.clone());
                self.handed_on.push(Request { partition: home.clone(), scope, from, to, cause: cause.to_owned() });
            }
        }
        Ok(())
    }
}

/// Whether a late minute may change how later hours are rated: a fatal XID lasts, and a counter is read against what came before.
fn outlasts_its_hour(history: &History, row: &UsageRow) -> bool {
    let is_fatal = row.xids.keys().any(|xid| XidPolicy::default().is_fatal(*xid));
    is_fatal || (row.energy_last.is_some() && meters_energy(history, &row.server))
}

fn meters_energy(history: &History, server: &str) -> bool {
    let leases = history.server(server).into_iter().flat_map(|timeline| &timeline.leases);
    let mut versions = leases.flat_map(|lease| history.versions(&lease.contract));
    versions.any(|version| version.terms.charges.values().any(|charge| charge.basis == Basis::Energy))
}

/// The rated hours after a late minute's own that it may change: up to the frontier for a fatal XID (whether the GPU has recovered
/// is for the timeline to say), else up to the one that holds the counter's next reading.
async fn hours_after(
    db: &Database,
    warehouse: &Warehouse,
    history: &History,
    lease: &Lease,
    row: &UsageRow,
) -> Result<BTreeSet<Second>, WorkerError> {
    let next = hour_floor(row.minute * SECONDS_PER_MINUTE) + SECONDS_PER_HOUR;
    let span = |to: Second| Span { from: next, to };
    if row.xids.keys().any(|xid| XidPolicy::default().is_fatal(*xid)) {
        return server_hours(db, history, lease, &row.server, span(lease.frontier)).await;
    }
    let mut hour = next;
    while hour + SECONDS_PER_HOUR <= lease.frontier && hour < next + LOOK_BACK_HOURS * SECONDS_PER_HOUR {
        let known = published_usage(db, warehouse, &lease.partition, hour).await?;
        let reads = |row_then: &UsageRow| {
            (&row_then.server, &row_then.gpu) == (&row.server, &row.gpu) && row_then.energy_first.is_some()
        };
        hour += SECONDS_PER_HOUR;
        if known.values().any(reads) {
            break;
        }
    }
    server_hours(db, history, lease, &row.server, span(hour.min(lease.frontier))).await
}

/// The hours in which a server's rating may have changed: those that its leases touch now, and those that were rated before or
/// could not be.
pub async fn server_hours(
    db: &Database,
    history: &History,
    lease: &Lease,
    server: &str,
    span: Span,
) -> Result<BTreeSet<Second>, WorkerError> {
    let mut hours: BTreeSet<Second> =
        manifest::rated_hours(db.client_ref(), &lease.partition, span.from, span.to).await?.into_iter().collect();
    hours.extend(unrated_hours(db.client_ref(), server, span).await?);
    if let Some(timeline) = history.server(server) {
        for part in timeline.leases.iter().filter_map(|l| l.span.intersect(span)) {
            let mut hour = hour_floor(part.from);
            while hour < hour_ceil(part.to) {
                hours.insert(hour);
                hour += SECONDS_PER_HOUR;
            }
        }
    }
    Ok(hours)
}

impl Revision {
    /// Derives some hours of a plan again. `last` says that the plan is through after them, so that its requests are answered.
    pub async fn derive(
        from: &Sources<'_>,
        plan: &Plan,
        hours: &[Second],
        last: bool,
    ) -> Result<Revision, WorkerError> {
        let mut revision = Revision::default();
        for &hour in hours {
            revision.hour(from, plan, hour).await?;
        }
        if last {
            revision.finished = plan.requests.clone();
        }
        Ok(revision)
    }

    async fn hour(&mut self, from: &Sources<'_>, plan: &Plan, hour: Second) -> Result<(), WorkerError> {
        let Some(servers) = plan.hours.get(&hour) else { return Ok(()) };
        let Sources { db, warehouse, history, lease } = from;
        let mut known = published_usage(db, warehouse, &lease.partition, hour).await?;
        let lacking =
            lacking(&known, plan.late.iter().filter(|row| hour_floor(row.minute * SECONDS_PER_MINUTE) == hour));
        for row in &lacking {
            known.entry(row.key()).and_modify(|k| k.merge(row)).or_insert_with(|| row.clone());
        }
        let mut evidence = Evidence::since(hour);
        known.values().for_each(|row| evidence.add(row));
        let servers_here = servers.iter().filter_map(|server| history.server(server));
        look_back(db, warehouse, &lease.partition, hour, servers_here, &mut evidence).await?;
        for xid in fatal_xids(db.client_ref(), servers.iter().map(String::as_str)).await?.iter().chain(&self.fatal) {
            evidence.add_fatal(xid);
        }
        self.fatal.extend(evidence.fatal_xids().into_iter().filter(|xid| servers.contains(&xid.0)));
        if !lacking.is_empty() {
            self.usage.insert(hour, lacking);
        }

        let before = said_before(published_rated(db, warehouse, &lease.partition, hour).await?, servers);
        let now = self.derive_now(history, lease, hour, servers, &evidence);
        self.difference(history, lease, hour, before, now);
        Ok(())
    }

    fn derive_now(
        &mut self,
        history: &History,
        lease: &Lease,
        hour: Second,
        servers: &BTreeSet<String>,
        evidence: &Evidence,
    ) -> BTreeMap<RecordKey, RatedRow> {
        let mut now = BTreeMap::new();
        for server in servers {
            // By server, since the lease may be gone whose time could not be rated.
            self.mended.push((server.clone(), hour, hour + SECONDS_PER_HOUR));
            let Some(timeline) = history.server(server) else { continue };
            for l in &timeline.leases {
                let versions = history.versions(&l.contract);
                let hour_span = Span { from: hour, to: hour + SECONDS_PER_HOUR };
                if l.span.intersect(hour_span).is_none() {
                    continue;
                }
                for window in due_windows(l, versions, hour, hour + SECONDS_PER_HOUR) {
                    let quantities = self.derived.window(timeline, l, versions, window, &evidence.of(server, window));
                    for row in rows(timeline, l, versions, window, lease.partition.partition, quantities) {
                        now.insert(RecordKey::of(&row), row);
                    }
                }
            }
        }
        now
    }

    /// What is to be said now, less what was said before. Nothing new: nothing.
    fn difference(
        &mut self,
        history: &History,
        lease: &Lease,
        hour: Second,
        before: BTreeMap<RecordKey, Said>,
        now: BTreeMap<RecordKey, RatedRow>,
    ) {
        let keys: BTreeSet<&RecordKey> = before.keys().chain(now.keys()).collect();
        type Window = (String, String, Span);
        let mut last_revision: BTreeMap<Window, i32> = BTreeMap::new();
        for (key, said) in &before {
            let last = last_revision.entry((key.lease.clone(), key.server.clone(), key.window)).or_default();
            *last = (*last).max(said.revision);
        }
        let mut revised: BTreeMap<Window, i32> = BTreeMap::new();
        for key in keys {
            let said = before.get(key).map(|said| said.quantity).unwrap_or_default();
            let found = now.get(key).map(|row| row.quantity).unwrap_or_default();
            let quantity = found.minus(said);
            if quantity.is_zero() {
                continue;
            }
            let Some(sample) = now.get(key).or_else(|| before.get(key).map(|said| &said.sample)) else { continue };
            let window = (key.lease.clone(), key.server.clone(), key.window);
            let next =
                *revised.entry(window.clone()).or_insert_with(|| last_revision.get(&window).copied().unwrap_or(0) + 1);
            let row = RatedRow {
                quantity,
                kind: RecordKind::Correction,
                revision: next,
                renter_amount: Amount::ZERO,
                supplier_amount: Amount::ZERO,
                partition: lease.partition.partition,
                ..sample.clone()
            };
            self.derived.note(history, &row);
            self.derived.rows.entry(hour).or_default().push(row);
        }
        self.revised.extend(revised.into_iter().map(|((lease, server, window), revision)| RevisedWindow {
            lease,
            server,
            from: window.from,
            to: window.to,
            revision,
        }));
    }
}

/// What two records must share for one to be the correction of the other.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct RecordKey {
    lease: String,
    server: String,
    window: Span,
    slot: Option<u32>,
    gpu: Option<String>,
    state: StateKey,
    period: Second,
    cell: CellKey,
}

impl RecordKey {
    fn of(row: &RatedRow) -> RecordKey {
        RecordKey {
            lease: row.lease.clone().unwrap_or_default(),
            server: row.server.clone().unwrap_or_default(),
            window: row.window,
            slot: row.slot,
            gpu: row.gpu.clone(),
            state: row.state(),
            period: row.period,
            cell: row.cell.clone(),
        }
    }
}

/// All that was said before under one key.
#[derive(Debug)]
struct Said {
    sample: RatedRow,
    quantity: Quantity,
    /// The latest revision that said any of it.
    revision: i32,
}

/// The sum of all that was said before about these servers.
fn said_before(rated: Vec<RatedRow>, servers: &BTreeSet<String>) -> BTreeMap<RecordKey, Said> {
    let mut before: BTreeMap<RecordKey, Said> = BTreeMap::new();
    for row in rated {
        // Adjustments carry money, no quantity; they name no server.
        if !row.server.as_ref().is_some_and(|server| servers.contains(server)) {
            continue;
        }
        let (quantity, revision) = (row.quantity, row.revision);
        let nothing = |sample| Said { sample, quantity: Quantity::default(), revision };
        let said = before.entry(RecordKey::of(&row)).or_insert_with(|| nothing(row));
        said.quantity = said.quantity.plus(quantity);
        said.revision = said.revision.max(revision);
    }
    before
}

/// What late rows add to known minutes: rows that hold only the bits that no file has yet, so that sums over files stay right.
fn lacking<'a>(known: &BTreeMap<UsageKey, UsageRow>, late: impl Iterator<Item = &'a UsageRow>) -> Vec<UsageRow> {
    hydrometer_sinks::usage::merged(late.cloned())
        .into_iter()
        .filter_map(|(key, mut row)| {
            if let Some(known) = known.get(&key) {
                row.present &= !known.present;
                row.busy &= !known.busy;
                row.healthy &= !known.healthy;
            }
            (row.present != 0 || row.busy != 0 || row.healthy != 0).then_some(row)
        })
        .collect()
}
