//! Applying a contract document: what it would change is shown first, then it is recorded as the lifecycle event that it is, under
//! the same rules and through the same commit as one from the topic. Windows that it reaches behind a frontier are revised by the
//! owners of their homes.

use std::collections::{BTreeMap, BTreeSet};

use hydrometer_rating::history::History;
use hydrometer_rating::keys::StateKey;
use hydrometer_rating::money::Amount;
use hydrometer_schemas::contract::Contract;
use hydrometer_schemas::lifecycle::{Event, EventKey, Kind};
use hydrometer_schemas::time::{Second, parse_rfc3339, second_of};
use hydrometer_sinks::Warehouse;
use tokio_postgres::GenericClient;
use uuid::Uuid;

use crate::derive::{added, touched_servers};
use crate::protocol::Happened;
use crate::revise::{Plan, Revision, Sources, server_hours};
use crate::source::TopicPartition;
use crate::store::closing::{PeriodRow, periods};
use crate::store::lease::{Lease, Role};
use crate::store::lifecycle::{Command, LifecycleCommit, requests_behind_frontiers};
use crate::store::rating::{ObjectQuantities, lock_states};
use crate::store::timeline::{ArrivedEvent, Scope, events_recorded_by, events_since};
use crate::store::wallet::Operation;
use crate::store::{Database, StoreError, doing};
use crate::wallet::{Folding, Purses};
use crate::worker::WorkerError;

/// The log of events that commands record: it fences them and numbers them.
pub const COMMANDS: &str = "hydrometer.commands";

/// Most servers and hours that a preview derives: beyond it, it would take too long to wait for.
pub const PREVIEW_HOURS_MAX: usize = 24 * 400;

/// What applying documents would do.
#[derive(Debug)]
pub struct Preview {
    pub events: Vec<Event>,
    /// Why the contract's own history refuses them, one line each.
    pub refused: Vec<String>,
    /// Amounts of rated time that would change.
    pub changes: Vec<Change>,
    /// Hours of servers that would be rated again.
    pub hours: usize,
    /// Closed billing periods that would be closed again: what changes in them is booked in the open one.
    pub closed: Vec<PeriodRow>,
    version: i64,
}

/// What one charge of a billing period would come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    pub contract: String,
    pub charge: String,
    pub currency: String,
    pub period: Second,
    pub renter: (Amount, Amount),
    pub supplier: (Amount, Amount),
}

impl Preview {
    /// Whether it reaches into time that is rated already.
    pub fn reaches_back(&self) -> bool {
        self.hours > 0 || !self.closed.is_empty()
    }
}

/// Works out what recording these versions of contracts would change. Nothing is written.
pub async fn preview(db: &mut Database, warehouse: &Warehouse, documents: &[Contract]) -> Result<Preview, WorkerError> {
    let (version, known) = events_since(db.client_ref(), -1).await?;
    let recorded = db.clock().await?;
    let mut history = History::default();
    history.insert(known);
    let events = events(documents, &history, recorded);
    let changes = history.insert(events.iter().cloned());
    let verdict = |event: &Event| history.verdict(&event.key).cloned().flatten();
    let mut preview = Preview {
        refused: events.iter().filter_map(verdict).collect(),
        events,
        changes: Vec::new(),
        hours: 0,
        closed: Vec::new(),
        version,
    };
    // An event of somebody else's that it would put out of force contradicts it.
    let flipped = changes.verdicts.iter().filter(|(key, _)| !preview.events.iter().any(|event| event.key == **key));
    preview.refused.extend(flipped.filter_map(|(key, verdict)| {
        let reason = verdict.as_ref()?;
        Some(format!("it would put the event {} of {} out of force: {reason}", key.id, key.source))
    }));
    if preview.refused.is_empty() {
        for contract in changes.contracts.keys() {
            let from = changes.contracts.get(contract).copied().unwrap_or(0);
            let touched = periods(db.client_ref(), Some(contract)).await?;
            preview.closed.extend(touched.into_iter().filter(|p| p.closed && p.period.to > from));
        }
        let servers = touched_servers(&history, &changes);
        let requests = requests_behind_frontiers(db.client_ref(), &servers).await?;
        let mut homes: BTreeMap<TopicPartition, BTreeMap<Second, BTreeSet<String>>> = BTreeMap::new();
        let leases: BTreeMap<TopicPartition, Lease> =
            db.leases().await?.into_iter().map(|(lease, _)| (lease.partition.clone(), lease)).collect();
        for request in requests {
            let (Scope::Server(server), Some(lease)) = (&request.scope, leases.get(&request.partition)) else {
                continue;
            };
            let span = hydrometer_rating::history::Span { from: request.from, to: request.to };
            for hour in server_hours(db, &history, lease, server, span).await? {
                homes.entry(request.partition.clone()).or_default().entry(hour).or_default().insert(server.clone());
            }
        }
        preview.hours = homes.values().flat_map(BTreeMap::values).map(BTreeSet::len).sum();
        if preview.hours <= PREVIEW_HOURS_MAX {
            preview.changes = changed_amounts(db, warehouse, &history, &leases, homes).await?;
        }
    }
    Ok(preview)
}

/// A document is signed where its contract is not in force yet, and amended where it is.
fn events(documents: &[Contract], history: &History, recorded: i64) -> Vec<Event> {
    let mut begun: BTreeSet<&str> = BTreeSet::new();
    let mut documents: Vec<&Contract> = documents.iter().collect();
    documents.sort_by_key(|document| effective(document));
    let mut events = Vec::new();
    for (n, document) in documents.into_iter().enumerate() {
        let at = effective(document);
        let in_force = history.versions(&document.contract).iter().any(|v| v.span.from <= at && at < v.span.to);
        let signed_then = history.versions(&document.contract).first().is_some_and(|v| v.span.from == at);
        let kind = if (in_force && !signed_then) || begun.contains(document.contract.as_str()) {
            Kind::ContractAmended { document: Box::new(document.clone()) }
        } else {
            Kind::ContractSigned { document: Box::new(document.clone()) }
        };
        begun.insert(&document.contract);
        // The time of recording first, so that of two documents for one second the later recorded one holds.
        let id = format!("{}@{recorded:020}.{n:04}", document.contract);
        let key = EventKey { time: at, rank: kind.rank(), source: COMMANDS.to_owned(), id };
        events.push(Event { key, kind });
    }
    events
}

fn effective(document: &Contract) -> Second {
    parse_rfc3339(&document.effective).map_or(0, second_of)
}

async fn changed_amounts(
    db: &mut Database,
    warehouse: &Warehouse,
    history: &History,
    leases: &BTreeMap<TopicPartition, Lease>,
    homes: BTreeMap<TopicPartition, BTreeMap<Second, BTreeSet<String>>>,
) -> Result<Vec<Change>, WorkerError> {
    let mut quantities: Vec<ObjectQuantities> = Vec::new();
    for (partition, hours) in homes {
        let Some(lease) = leases.get(&partition) else { continue };
        let plan = Plan::of(hours);
        let hours: Vec<Second> = plan.hours.keys().copied().collect();
        let from = Sources { db, warehouse, history, lease };
        let revision = Revision::derive(&from, &plan, &hours, false).await?;
        for rows in revision.derived.rows.values() {
            quantities.push(added("", rows, &revision.derived));
        }
    }
    // The states are locked as a commit would, and left as they were.
    let tx = db.client().transaction().await.map_err(doing("working out what would change"))?;
    let mut locked = lock_states(&tx, &quantities).await?;
    let billing: BTreeMap<StateKey, Second> = quantities.iter().flat_map(|q| q.billing.clone()).collect();
    let mut changes: BTreeMap<(String, String, String, Second), Change> = BTreeMap::new();
    for (key, before, after) in locked.difference(&quantities, history)? {
        let period = billing.get(&key).copied().unwrap_or(key.period);
        let of = (key.contract.clone(), key.charge.clone(), key.currency.clone(), period);
        let change = changes.entry(of).or_insert_with(|| Change {
            contract: key.contract.clone(),
            charge: key.charge.clone(),
            currency: key.currency.clone(),
            period,
            renter: Default::default(),
            supplier: Default::default(),
        });
        let add = |sum: &mut Amount, amount: Amount| -> Result<(), StoreError> {
            *sum = sum.checked_add(amount)?;
            Ok(())
        };
        add(&mut change.renter.0, before.renter)?;
        add(&mut change.renter.1, after.renter)?;
        add(&mut change.supplier.0, before.supplier)?;
        add(&mut change.supplier.1, after.supplier)?;
    }
    tx.rollback().await.map_err(doing("working out what would change"))?;
    Ok(changes.into_values().filter(|c| c.renter.0 != c.renter.1 || c.supplier.0 != c.supplier.1).collect())
}

/// Records a preview's events. `Ok(false)`: something else was recorded since the preview; look again.
pub async fn apply(db: &mut Database, preview: Preview, command: Command) -> Result<bool, WorkerError> {
    if crate::store::timeline::version(db.client_ref()).await? != preview.version {
        return Ok(false);
    }
    record(db, Some(preview.version), preview.events, None, command).await
}

/// Does something to a wallet, and tells the stream, in one transaction. `time` is when it is meant to count. `Ok(false)`: somebody
/// else's command came between; try again.
pub async fn operate(
    db: &mut Database,
    operation: Operation,
    id: &str,
    time: Second,
    command: Command,
) -> Result<bool, WorkerError> {
    let key = EventKey { time, rank: 0, source: COMMANDS.to_owned(), id: id.to_owned() };
    record(db, None, Vec::new(), Some((operation, key)), command).await
}

/// Commits a command through its log, which fences and numbers it.
async fn record(
    db: &mut Database,
    version: Option<i64>,
    events: Vec<Event>,
    operation: Option<(Operation, EventKey)>,
    command: Command,
) -> Result<bool, WorkerError> {
    let log = TopicPartition { topic: COMMANDS.into(), partition: 0 };
    db.ensure_partitions(COMMANDS, Role::Internal, 1).await?;
    let who = command.who.clone();
    let Some(before) = db.take_over(std::slice::from_ref(&log), &who).await?.into_iter().next() else {
        return Ok(false);
    };
    let (mut known_version, known) = events_since(db.client_ref(), -1).await?;
    let attempt = Uuid::new_v4();
    let mut after = before.clone();
    after.round += 1;
    after.attempt = Some(attempt);
    let mut arrived = Vec::new();
    for event in events {
        arrived.push(ArrivedEvent { event, partition: log.clone(), offset: after.position.next, passed: 0 });
        after.position.next += 1;
    }
    if operation.is_some() {
        after.position.next += 1;
    }
    after.position.replay_from = after.position.next;
    let commit = LifecycleCommit {
        attempt,
        worker: who,
        before: before.clone(),
        after,
        timeline_version: version.unwrap_or(known_version),
        events: arrived,
        quarantine: None,
        command: Some(command),
        operation,
        watches_wallets: false,
    };
    let mut history = History::default();
    history.insert(known);
    let mut purses = Purses::default();
    let mut folding = Folding { history: &mut history, purses: &mut purses, version: &mut known_version };
    let (happened, error) = db.commit_lifecycle(&commit, &mut folding).await?;
    match (happened, error) {
        (Happened::Committed, _) => Ok(true),
        (Happened::ReplyLost, _) => {
            let settled = db.settle(attempt, &log, before.epoch).await?;
            Ok(settled == crate::store::lease::Settled::Committed)
        }
        (_, Some(error)) => Err(error.into()),
        (_, None) => Ok(false),
    }
}

/// The history that all recorded events make; with a time, those that had been recorded by then.
pub async fn history(client: &impl GenericClient, recorded_by: Option<Second>) -> Result<History, StoreError> {
    let mut history = History::default();
    history.insert(match recorded_by {
        Some(at) => events_recorded_by(client, at).await?,
        None => events_since(client, -1).await?.1,
    });
    Ok(history)
}
