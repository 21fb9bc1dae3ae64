//! The transaction of lifecycle events: fenced like a round, with the timeline lock taken exclusively.

use std::collections::BTreeMap;

use hydrometer_rating::history::{Changes, History, Span, Verdict};
use hydrometer_schemas::lifecycle::{Event, EventKey, Kind};
use hydrometer_schemas::time::{MICROS_PER_SECOND, Second, second_of};
use hydrometer_schemas::warehouse::Table;
use tokio_postgres::GenericClient;
use uuid::Uuid;

use super::commit::{Outcome, classify, fence, insert_commit};
use super::lease::{Lease, lock_leases, move_leases};
use super::manifest::{Object, insert_files, insert_objects};
use super::timeline::{ArrivedEvent, Request};
use super::wallet::Operation;
use super::{Database, StoreError, closing, doing, timeline, wallet};
use crate::derive::{touched_contracts, touched_servers};
use crate::failpoint;
use crate::protocol::Happened;
use crate::source::TopicPartition;

/// A commit of lifecycle events from one lifecycle partition.
#[derive(Debug)]
pub struct LifecycleCommit {
    pub attempt: Uuid,
    pub worker: String,
    pub before: Lease,
    pub after: Lease,
    /// The timeline version that this worker's history has.
    pub timeline_version: i64,
    pub events: Vec<ArrivedEvent>,
    /// The quarantine object of this commit, if any record was set aside, and the hour of its file.
    pub quarantine: Option<(Object, Second)>,
    /// The operator's command that records the events; none where they were read from a topic.
    pub command: Option<Command>,
    /// What the command does to a wallet, and the event that tells it to the stream but for its rank.
    pub operation: Option<(Operation, EventKey)>,
    /// Whether a wallet is burned: then time that passes may be news, without any event.
    pub watches_wallets: bool,
}

/// Who asked for something, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    pub name: &'static str,
    pub who: String,
    pub why: String,
}

impl Command {
    pub(super) async fn insert(&self, client: &impl GenericClient, commit: Uuid) -> Result<(), StoreError> {
        client
            .execute(
                "INSERT INTO hydrometer.command (commit_id, name, who, why) VALUES ($1, $2, $3, $4)",
                &[&commit, &self.name, &self.who, &self.why],
            )
            .await
            .map_err(doing("recording who asked for it"))?;
        Ok(())
    }
}

/// What new events changed.
#[derive(Default)]
pub struct LifecycleChanges {
    pub verdicts: BTreeMap<EventKey, Verdict>,
    /// Servers whose timeline or prices changed, from which second to which.
    pub servers: BTreeMap<String, Span>,
    /// Contracts whose terms or leases changed: from which second on, and whether they ever commit by the hour.
    pub contracts: BTreeMap<String, (Second, bool)>,
}

/// The history behind a lifecycle commit.
pub trait Fold {
    /// Takes in events that came before, and then the new ones; says what the new ones changed.
    fn insert(&mut self, missed: Vec<Event>, version: i64, new: Vec<Event>) -> LifecycleChanges;

    /// Takes in what follows for wallets from lifecycle time's having passed `until`: that they ran dry, or can pay again. Nothing of
    /// it lies before `not_before`, which had passed already.
    fn pass(&mut self, not_before: Second, until: Second) -> (Vec<Event>, LifecycleChanges);

    fn history(&self) -> &History;
}

impl LifecycleChanges {
    pub fn of(history: &History, changes: Changes) -> LifecycleChanges {
        LifecycleChanges {
            servers: touched_servers(history, &changes),
            contracts: touched_contracts(history, &changes),
            verdicts: changes.verdicts,
        }
    }

    fn merge(&mut self, other: LifecycleChanges) {
        self.verdicts.extend(other.verdicts);
        for (server, span) in other.servers {
            let known = self.servers.entry(server).or_insert(span);
            *known = Span { from: span.from.min(known.from), to: span.to.max(known.to) };
        }
        for (contract, (from, by_the_hour)) in other.contracts {
            let known = self.contracts.entry(contract).or_insert((from, by_the_hour));
            *known = (from.min(known.0), by_the_hour || known.1);
        }
    }
}

impl Database {
    /// Commits lifecycle events of one lifecycle partition: takes the timeline lock exclusively (and so waits for rating commits in
    /// flight), records the events, and then leaves requests for what they touch behind a frontier.
    ///
    /// `fold` takes them in (given all that came before them) and says what they touch.
    pub async fn commit_lifecycle(
        &mut self,
        commit: &LifecycleCommit,
        fold: &mut impl Fold,
    ) -> Result<Outcome, StoreError> {
        failpoint::pass("commit.lifecycle.before");
        let tx = match self.client().transaction().await.map_err(doing("beginning a lifecycle commit")) {
            Ok(tx) => tx,
            Err(error) => return classify(error),
        };
        match inside_lifecycle(&tx, commit, fold).await {
            Ok(Happened::Committed) => {}
            Ok(other) => {
                let _ = tx.rollback().await;
                return Ok((other, None));
            }
            Err(error) => {
                let _ = tx.rollback().await;
                return classify(error);
            }
        }
        failpoint::pass("commit.lifecycle.inside");
        let committed = failpoint::pass_after_sending("commit.lifecycle.sent", tx.commit()).await;
        match committed.map_err(doing("committing lifecycle events")) {
            Ok(()) => {
                failpoint::pass("commit.lifecycle.after");
                Ok((Happened::Committed, None))
            }
            Err(error) if error.is_disconnect() => Ok((Happened::ReplyLost, Some(error))),
            Err(error) => classify(error),
        }
    }
}

async fn inside_lifecycle(
    tx: &tokio_postgres::Transaction<'_>,
    commit: &LifecycleCommit,
    fold: &mut impl Fold,
) -> Result<Happened, StoreError> {
    let partition = std::slice::from_ref(&commit.before.partition);
    let before = std::slice::from_ref(&commit.before);
    if let Some(refusal) = fence(before, &lock_leases(tx, partition).await?) {
        return Ok(refusal);
    }
    if move_leases(tx, before, std::slice::from_ref(&commit.after), commit.attempt).await? != 1 {
        return Ok(Happened::FenceLost);
    }
    insert_commit(tx, commit.attempt, "lifecycle", &commit.worker, before, std::slice::from_ref(&commit.after)).await?;
    if let Some(command) = &commit.command {
        command.insert(tx, commit.attempt).await?;
    }
    failpoint::pass("commit.lifecycle.fenced");
    let says_something = !commit.events.is_empty() || commit.operation.is_some() || commit.watches_wallets;
    // A wallet may be burned of which this worker has not heard yet.
    let is_news = says_something || timeline::version(tx).await? != commit.timeline_version;
    if is_news {
        timeline::lock(tx, true).await?;
        failpoint::pass("commit.lifecycle.locked");
        let (version, missed) = timeline::events_since(tx, commit.timeline_version).await?;
        let mut changes = fold.insert(missed, version, Vec::new());
        let mut events = commit.events.clone();
        let mut as_of = second_of(commit.after.position.time);
        if let Some((operation, key)) = &commit.operation {
            let time = timeline::lifecycle_time(tx).await?;
            as_of = wallet::present(tx, time).await?;
            let told = wallet::operate(tx, operation, key, time, fold.history()).await?;
            events.extend(told.map(|event| at(commit, commit.before.position.next, event)));
        }
        let mut reached = commit.before.clone();
        let mut rest = &events[..];
        while !rest.is_empty() {
            let (heard, late) = rest.split_at(until_late(rest, fold.history()));
            let (version, new) = timeline::insert_events(tx, heard, commit.attempt).await?;
            changes.merge(fold.insert(Vec::new(), version, new.clone()));
            wallet::book_grants(tx, &new, as_of, fold.history()).await?;
            if let Some(first) = late.first() {
                let mut to = reached.clone();
                to.position.time = to.position.time.max(first.passed.saturating_mul(MICROS_PER_SECOND));
                changes.merge(pass(tx, commit, &reached, &to, fold).await?);
                reached = to;
            }
            rest = late;
        }
        changes.merge(pass(tx, commit, &reached, &commit.after, fold).await?);
        timeline::write_verdicts(tx, &changes.verdicts).await?;
        failpoint::pass("commit.lifecycle.recorded");
        // A statement of its own, after the lock: it sees the frontiers of every rating commit that came before.
        let requests = requests_behind_frontiers(tx, &changes.servers).await?;
        timeline::insert_requests(tx, &requests, commit.attempt).await?;
        closing::ask_after_events(tx, &changes.contracts, commit.attempt).await?;
        failpoint::pass("commit.lifecycle.asked");
    } else {
        // Time passes with nobody to whom it is news; but for somebody who has just been told of.
        timeline::lock(tx, false).await?;
        if timeline::version(tx).await? != commit.timeline_version {
            return Ok(Happened::TimelineMoved);
        }
    }
    if let Some((object, hour)) = &commit.quarantine {
        insert_objects(tx, std::slice::from_ref(object), commit.attempt).await?;
        // Named by its first offset, since a lifecycle partition has no frontier that would freeze an hour.
        let revision = i32::try_from(commit.after.round).unwrap_or(i32::MAX);
        insert_files(
            tx,
            &commit.before,
            &[(Table::Quarantine, *hour, revision, vec![object.name.clone()])],
            commit.attempt,
        )
        .await?;
    }
    Ok(Happened::Committed)
}

/// How many events come before the next one that is late and has a say: what follows from the time that had passed before it is settled
/// first, so that it is the same wherever the log is cut. (A late grant says itself from when on it counts.)
fn until_late(events: &[ArrivedEvent], history: &History) -> usize {
    let burns = history.burned_wallets().next().is_some();
    let mut signs = false;
    let is_late = |arrived: &ArrivedEvent| {
        let had_say = burns || signs;
        signs |= matches!(arrived.event.kind, Kind::ContractSigned { .. } | Kind::ContractAmended { .. });
        had_say && arrived.event.key.time < arrived.passed && !matches!(arrived.event.kind, Kind::WalletGranted(_))
    };
    events.iter().skip(1).position(is_late).map_or(events.len(), |place| place + 1)
}

/// What follows for wallets from lifecycle time's passing from one position of the partition to another.
async fn pass(
    tx: &tokio_postgres::Transaction<'_>,
    commit: &LifecycleCommit,
    from: &Lease,
    to: &Lease,
    fold: &mut impl Fold,
) -> Result<LifecycleChanges, StoreError> {
    let Some((not_before, until)) = timeline::time_passed(tx, from, to).await? else {
        return Ok(LifecycleChanges::default());
    };
    let (derived, changes) = fold.pass(not_before, until);
    record_derived(tx, commit, derived).await?;
    Ok(changes)
}

/// Events that follow from time passing are recorded like those that are read, at the place of the log where it passed.
async fn record_derived(
    tx: &tokio_postgres::Transaction<'_>,
    commit: &LifecycleCommit,
    derived: Vec<Event>,
) -> Result<(), StoreError> {
    if derived.is_empty() {
        return Ok(());
    }
    let arrived: Vec<ArrivedEvent> =
        derived.into_iter().map(|event| at(commit, commit.after.position.next, event)).collect();
    wallet::announce(tx, arrived.iter().map(|arrived| &arrived.event)).await?;
    timeline::insert_events(tx, &arrived, commit.attempt).await?;
    Ok(())
}

/// An event that was not read, at a place of the commit's log.
fn at(commit: &LifecycleCommit, offset: i64, event: Event) -> ArrivedEvent {
    ArrivedEvent { event, partition: commit.after.partition.clone(), offset, passed: 0 }
}

/// What changed behind the frontier of its server's home at that time is asked for again; ahead of it the live rating will see it.
/// A server without a home has nothing rated; whoever claims it asks.
pub async fn requests_behind_frontiers(
    client: &impl GenericClient,
    servers: &BTreeMap<String, Span>,
) -> Result<Vec<Request>, StoreError> {
    let names: Vec<&str> = servers.keys().map(String::as_str).collect();
    let from: Vec<i64> = servers.values().map(|span| span.from.max(0)).collect();
    let to: Vec<i64> = servers.values().map(|span| span.to.max(0)).collect();
    let rows = client
        .query(
            "SELECT k.s, greatest(k.f, h.since_s), h.topic, h.partition, least(k.t, h.until_s, l.frontier_s) \
             FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS k (s, f, t) \
             JOIN (SELECT server, since_s, topic, partition, lead(since_s) OVER (PARTITION BY server ORDER BY since_s) AS until_s \
                   FROM hydrometer.home WHERE server = ANY ($1)) AS h ON h.server = k.s \
             JOIN hydrometer.partition_lease AS l ON l.topic = h.topic AND l.partition = h.partition \
             WHERE greatest(k.f, h.since_s) < least(k.t, h.until_s, l.frontier_s) ORDER BY k.s, h.since_s",
            &[&names, &from, &to],
        )
        .await
        .map_err(doing("comparing events with the frontiers"))?;
    Ok(rows
        .iter()
        .map(|row| Request {
            partition: TopicPartition { topic: row.get::<_, &str>(2).into(), partition: row.get(3) },
            scope: timeline::Scope::Server(row.get(0)),
            from: row.get(1),
            to: row.get(4),
            cause: "lifecycle event behind the frontier".to_owned(),
        })
        .collect())
}
