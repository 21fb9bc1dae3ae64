//! The transaction of a round (READ COMMITTED), with its locks always in this order, sorted within each: the fence, the timeline
//! lock (shared), homes, billing periods (shared), the rating states, ledger accounts. Nothing else is waited for inside it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use hydrometer_ledger::{self as ledger, AccountSpec, TransactionId, outbox};
use hydrometer_rating::keys::StateKey;
use hydrometer_rating::money::Amount;
use hydrometer_rating::rate::Rates;
use hydrometer_schemas::lifecycle::{Event, WalletKey};
use hydrometer_schemas::time::Second;
use hydrometer_schemas::warehouse::Table;
use serde_json::json;
use tokio_postgres::GenericClient;
use uuid::Uuid;

use super::lease::{Lease, lock_leases, move_leases};
use super::manifest::{Object, freeze_hours, insert_files, insert_objects};
use super::period::{Booked, Periods, Uses};
use super::rating::{ObjectQuantities, ObjectStep};
use super::timeline::Request;
use super::{Database, StoreError, doing, home, period, rating, timeline, wallet, xid};
use crate::evidence::FatalXid;
use crate::failpoint;
use crate::protocol::{Happened, TimelineRule};
use crate::source::TopicPartition;

/// Ids of rating transactions are made in this namespace from what they stand for.
const NAMESPACE: Uuid = Uuid::from_u128(0x6879_6472_6f6d_6574_6572_2d72_6174_696e);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitKind {
    Live,
    Revision,
}

impl CommitKind {
    pub fn name(self) -> &'static str {
        match self {
            CommitKind::Live => "live",
            CommitKind::Revision => "revision",
        }
    }
}

/// A window that is rated again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevisedWindow {
    pub lease: String,
    pub server: String,
    pub from: Second,
    pub to: Second,
    pub revision: i32,
}

/// Leased time that could not be rated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnratedTime {
    pub server: String,
    pub lease: String,
    pub slot: i32,
    pub from: Second,
    pub to: Second,
    pub reason: String,
}

/// All that one round commits.
#[derive(Debug)]
pub struct RoundCommit {
    pub attempt: Uuid,
    pub kind: CommitKind,
    pub worker: String,
    /// The leases as this worker last wrote them (the fence), and as they shall be; same order, sorted.
    pub before: Vec<Lease>,
    pub after: Vec<Lease>,
    pub timeline_version: i64,
    pub timeline_rule: TimelineRule,
    pub claims: BTreeMap<String, (TopicPartition, &'static str)>,
    pub objects: Vec<Object>,
    pub quantities: Vec<ObjectQuantities>,
    /// What the records add to each lease's use of a billing period.
    pub uses: Uses,
    /// The billing periods that the records lie in.
    pub periods: Periods,
    /// What postpaid renters may owe, of those whose use the records are.
    pub credit_limits: BTreeMap<WalletKey, Amount>,
    pub requests: Vec<Request>,
    pub finished_requests: Vec<i64>,
    pub revised: Vec<RevisedWindow>,
    pub unrated: Vec<UnratedTime>,
    /// Servers whose unrated time within these bounds was derived again.
    pub mended: Vec<(String, Second, Second)>,
    /// Fatal XIDs that are seen to begin; those on record already are left as they are.
    pub fatal: Vec<FatalXid>,
    /// Files of a revision: (index into `before`, table, hour, revision, objects).
    pub files: Vec<(usize, Table, Second, i32, Vec<String>)>,
}

/// What newly arrived events mean for a round: whether they touch it, and what to ask for if it is committed all the same.
pub struct Judgement {
    pub touches: bool,
    pub requests: Vec<Request>,
}

/// What a round's transaction must know of timelines beyond what it was derived from.
pub trait Timelines: Rates {
    /// Takes in events that came after the derivation.
    fn judge(&mut self, version: i64, events: Vec<Event>) -> Judgement;
}

/// What became of the transaction, for the protocol, and the error behind it, for people.
pub type Outcome = (Happened, Option<StoreError>);

impl Database {
    /// Runs a round's transaction. `timelines` is told of events that came after `timeline_version`.
    pub async fn commit_round(
        &mut self,
        round: &RoundCommit,
        timelines: &mut impl Timelines,
    ) -> Result<Outcome, StoreError> {
        let kind = round.kind.name();
        failpoint::pass(format_args!("commit.{kind}.before"));
        let tx = match self.client().transaction().await.map_err(doing("beginning a commit")) {
            Ok(tx) => tx,
            Err(error) => return classify(error),
        };
        match inside(&tx, round, timelines).await {
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
        failpoint::pass(format_args!("commit.{kind}.inside"));
        let committed = failpoint::pass_after_sending(format_args!("commit.{kind}.sent"), tx.commit()).await;
        match committed.map_err(doing("committing a round")) {
            Ok(()) => {
                failpoint::pass(format_args!("commit.{kind}.after"));
                Ok((Happened::Committed, None))
            }
            Err(error) if error.is_disconnect() => Ok((Happened::ReplyLost, Some(error))),
            Err(error) => classify(error),
        }
    }
}

/// A failed transaction: a passing trouble is for the protocol, anything else ends the worker.
pub(super) fn classify(error: StoreError) -> Result<Outcome, StoreError> {
    if error.is_disconnect() {
        Ok((Happened::BrokeBeforeCommit, Some(error)))
    } else if error.is_transient() {
        Ok((Happened::Refused, Some(error)))
    } else {
        Err(error)
    }
}

/// The fence's verdict: our leases, exactly as we left them?
pub fn fence(expected: &[Lease], found: &[Lease]) -> Option<Happened> {
    let same =
        |f: fn(&Lease) -> i64| expected.len() == found.len() && expected.iter().zip(found).all(|(e, l)| f(e) == f(l));
    if !same(|l| l.epoch) || !same(|l| l.round) || !same(|l| l.position.next) {
        Some(Happened::FenceLost)
    } else if !same(|l| l.homes) {
        Some(Happened::HomesMoved)
    } else {
        None
    }
}

async fn inside(
    tx: &tokio_postgres::Transaction<'_>,
    round: &RoundCommit,
    timelines: &mut impl Timelines,
) -> Result<Happened, StoreError> {
    let kind = round.kind.name();
    let partitions: Vec<TopicPartition> = round.before.iter().map(|l| l.partition.clone()).collect();
    if let Some(refusal) = fence(&round.before, &lock_leases(tx, &partitions).await?) {
        return Ok(refusal);
    }
    if move_leases(tx, &round.before, &round.after, round.attempt).await? != round.before.len() as u64 {
        return Ok(Happened::FenceLost);
    }
    failpoint::pass(format_args!("commit.{kind}.fenced"));

    timeline::lock(tx, false).await?;
    let mut late_requests = Vec::new();
    if timeline::version(tx).await? != round.timeline_version {
        let (version, events) = timeline::events_since(tx, round.timeline_version).await?;
        let judgement = timelines.judge(version, events);
        if judgement.touches {
            match round.timeline_rule {
                TimelineRule::DeriveAgain => return Ok(Happened::TimelineMoved),
                TimelineRule::LeaveRequests => late_requests = judgement.requests,
            }
        }
    }

    failpoint::pass(format_args!("commit.{kind}.judged"));
    if !home::claim_homes(tx, &round.claims).await? {
        return Ok(Happened::HomesMoved);
    }
    failpoint::pass(format_args!("commit.{kind}.claimed"));
    insert_commit(tx, round.attempt, round.kind.name(), &round.worker, &round.before, &round.after).await?;
    insert_objects(tx, &round.objects, round.attempt).await?;
    failpoint::pass(format_args!("commit.{kind}.named"));
    rate_and_post(tx, round, timelines).await?;
    failpoint::pass(format_args!("commit.{kind}.posted"));

    timeline::insert_requests(tx, &round.requests, round.attempt).await?;
    timeline::insert_requests(tx, &late_requests, round.attempt).await?;
    timeline::finish_requests(tx, &round.finished_requests, round.attempt).await?;
    if !insert_revised(tx, round).await? {
        return Ok(Happened::Refused);
    }
    insert_unrated(tx, round).await?;
    xid::insert_fatal_xids(tx, &round.fatal, round.attempt).await?;
    failpoint::pass(format_args!("commit.{kind}.asked"));
    for (before, after) in round.before.iter().zip(&round.after) {
        freeze_hours(tx, before, after, round.attempt).await?;
    }
    for (index, lease) in round.before.iter().enumerate() {
        let files: Vec<(Table, Second, i32, Vec<String>)> = round
            .files
            .iter()
            .filter(|f| f.0 == index)
            .map(|(_, table, hour, revision, objects)| (*table, *hour, *revision, objects.clone()))
            .collect();
        insert_files(tx, lease, &files, round.attempt).await?;
    }
    Ok(Happened::Committed)
}

pub(super) async fn insert_commit(
    client: &impl GenericClient,
    attempt: Uuid,
    kind: &str,
    worker: &str,
    before: &[Lease],
    after: &[Lease],
) -> Result<(), StoreError> {
    let partitions: Vec<serde_json::Value> = before
        .iter()
        .zip(after)
        .map(|(b, a)| {
            json!({
                "topic": &*b.partition.topic, "partition": b.partition.partition, "epoch": b.epoch, "round": a.round,
                "next_from": b.position.next, "next_to": a.position.next,
                "frontier_from": b.frontier, "frontier_to": a.frontier,
            })
        })
        .collect();
    client
        .execute(
            "INSERT INTO hydrometer.commit (id, kind, worker, partitions) VALUES ($1, $2, $3, $4)",
            &[&attempt, &kind, &worker, &serde_json::Value::from(partitions)],
        )
        .await
        .map_err(doing("recording a commit"))?;
    Ok(())
}

/// What one ledger transaction books: a rating state's step for one supplier, in the billing period that is open for it; in a
/// revision, of one hour.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Booking {
    key: StateKey,
    supplier: String,
    booked: Second,
    /// A revision's hour and partition, since it names what it corrects.
    corrected: Option<(TopicPartition, Second)>,
}

/// What a booking comes to, and until when.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    booked: Booked,
    until: Second,
}

async fn rate_and_post(
    tx: &tokio_postgres::Transaction<'_>,
    round: &RoundCommit,
    rates: &impl Rates,
) -> Result<(), StoreError> {
    period::share(tx, &round.periods).await?;
    let mut periods = round.periods.clone();
    periods.extend(period::share_stepped(tx, &round.quantities).await?);
    period::add_use(tx, &round.uses).await?;
    if round.quantities.iter().all(ObjectQuantities::is_empty) {
        return Ok(());
    }
    let mut locked = rating::lock_states(tx, &round.quantities).await?;
    let before = locked.states.clone();
    let steps = locked.advance(&round.quantities, rates)?;

    let objects: BTreeMap<&str, &Object> = round.objects.iter().map(|o| (o.name.as_str(), o)).collect();
    let booking_of = |step: &ObjectStep| Booking {
        key: step.key.clone(),
        supplier: step.step.key.supplier.clone(),
        booked: step.booked,
        corrected: match round.kind {
            CommitKind::Live => None,
            CommitKind::Revision => {
                objects.get(step.object.as_str()).and_then(|o| o.hour.map(|hour| (o.partition.clone(), hour)))
            }
        },
    };
    let mut bookings: BTreeMap<Booking, Sums> = BTreeMap::new();
    for step in &steps {
        let sums = bookings.entry(booking_of(step)).or_default();
        let until = objects.get(step.object.as_str()).map_or(0, |o| o.to);
        let booked = &mut sums.booked;
        booked.renter = booked.renter.checked_add(step.step.renter_difference()?)?;
        booked.supplier = booked.supplier.checked_add(step.step.supplier_difference()?)?;
        booked.holdback = booked.holdback.checked_add(step.holdback(rates)?)?;
        sums.until = sums.until.max(until);
    }
    locked.write(tx, &steps, rates, |step| transaction_id(round, &booking_of(step)).0).await?;
    period::ask_to_close_again(tx, &steps, &periods, rates, round.attempt).await?;

    let mut set = Vec::new();
    for (booking, sums) in &bookings {
        let corrects = match &booking.corrected {
            Some((partition, hour)) => corrected_transaction(tx, booking, partition, *hour).await?,
            None => None,
        };
        set.extend(posting(round, booking, sums, corrects)?);
    }
    let used = wallet::use_of(tx, &before, &locked, &round.quantities, rates).await?;
    let name = name_of(round);
    wallet::post(tx, &name, &set, &used).await?;
    wallet::watch_credit(tx, &name, &round.credit_limits, &set).await?;
    announce(tx, set.iter().filter(|transaction| transaction.kind == "correction")).await
}

/// The same for the same round of the same partitions, whoever commits it.
fn name_of(round: &RoundCommit) -> String {
    let rounds: Vec<String> = round.after.iter().map(|l| format!("{}@{}", l.partition, l.round)).collect();
    format!("{} {}", round.kind.name(), rounds.join(","))
}

/// The same for the same round of the same partitions, whoever commits it.
fn transaction_id(round: &RoundCommit, booking: &Booking) -> TransactionId {
    let rounds: Vec<String> = round.after.iter().map(|l| format!("{}@{}", l.partition, l.round)).collect();
    let corrected = booking.corrected.as_ref().map(|(p, hour)| format!("{p}@{hour}")).unwrap_or_default();
    TransactionId::derive(
        &NAMESPACE,
        &[
            round.kind.name(),
            &rounds.join(","),
            &booking.key.contract,
            &booking.key.renter,
            &booking.key.currency,
            &booking.key.charge,
            &booking.key.period.to_string(),
            &booking.key.resource,
            &booking.supplier,
            &corrected,
        ],
    )
}

/// The transaction that rated this hour first; a revision's posting names it.
async fn corrected_transaction(
    client: &impl GenericClient,
    booking: &Booking,
    partition: &TopicPartition,
    hour: Second,
) -> Result<Option<TransactionId>, StoreError> {
    let key = &booking.key;
    let row = client
        .query_opt(
            "SELECT s.transaction FROM hydrometer.rating_step AS s \
             JOIN hydrometer.rating_state AS k ON k.id = s.state \
             JOIN hydrometer.object AS o ON o.name = s.object JOIN hydrometer.commit AS c ON c.id = o.commit_id \
             JOIN ledger.transaction_id AS t ON t.id = s.transaction \
             WHERE o.kind = 'rated' AND o.topic = $1 AND o.partition = $2 AND o.hour_s = $3 \
               AND (k.contract, k.renter, k.currency, k.charge, k.period_s, k.resource) = ($4, $5, $6, $7, $8, $9) \
               AND s.supplier = $10 ORDER BY c.at, s.transaction LIMIT 1",
            &[
                &&*partition.topic,
                &partition.partition,
                &hour,
                &key.contract,
                &key.renter,
                &key.currency,
                &key.charge,
                &key.period,
                &key.resource,
                &booking.supplier,
            ],
        )
        .await
        .map_err(doing("finding the posting that is corrected"))?;
    Ok(row.map(|row| TransactionId(row.get(0))))
}

/// Dr renter unbilled, Cr supplier payable and holdback, and commission; a negative difference swaps the sides.
fn posting(
    round: &RoundCommit,
    booking: &Booking,
    sums: &Sums,
    corrects: Option<TransactionId>,
) -> Result<Option<ledger::Transaction>, StoreError> {
    let Booking { key, supplier, .. } = booking;
    let commission = AccountSpec::platform_commission(&key.currency);
    let transfers = period::transfers(&key.renter, supplier, &key.currency, &sums.booked, commission)?;
    if transfers.is_empty() {
        return Ok(None);
    }
    let kind = match round.kind {
        CommitKind::Live => "usage",
        CommitKind::Revision => "correction",
    };
    let effective_at = DateTime::<Utc>::from_timestamp(sums.until, 0)
        .ok_or(StoreError::Row { table: "hydrometer.object", detail: format!("second {} is no time", sums.until) })?;
    Ok(Some(ledger::Transaction {
        id: transaction_id(round, booking),
        kind: kind.to_owned(),
        effective_at,
        description: format!("{} of contract {}, supplier {supplier}", key.charge, key.contract),
        corrects,
        reverses: None,
        metadata: json!({
            "commit": round.attempt.to_string(), "contract": key.contract, "charge": key.charge,
            "period_s": key.period, "resource": key.resource, "supplier": supplier, "renter": key.renter,
            "currency": key.currency, "booked_s": booking.booked, "hour_s": booking.corrected.as_ref().map(|c| c.1),
        }),
        transfers,
    }))
}

/// Corrections are announced; what is posted for the first time is not (the ledger has it).
pub(super) async fn announce(
    client: &impl GenericClient,
    corrections: impl Iterator<Item = &ledger::Transaction>,
) -> Result<(), StoreError> {
    let events: Vec<outbox::Event> = corrections.map(correction).collect();
    Ok(outbox::insert(client, &events).await?)
}

/// What was posted, under the id of its transaction.
fn correction(transaction: &ledger::Transaction) -> outbox::Event {
    let transfers: Vec<serde_json::Value> = transaction
        .transfers
        .iter()
        .map(|transfer| {
            json!({
                "debit": transfer.debit.name, "credit": transfer.credit.name,
                "amount": transfer.amount.to_string(), "currency": transfer.debit.currency,
            })
        })
        .collect();
    let contract = transaction.metadata["contract"].as_str().unwrap_or_default();
    outbox::Event {
        id: transaction.id.0,
        kind: "posting.correction".to_owned(),
        subject: format!("contract:{contract}"),
        time: transaction.effective_at,
        data: json!({
            "transaction": transaction.id.to_string(), "corrects": transaction.corrects.map(|id| id.to_string()),
            "description": transaction.description, "transfers": transfers, "metadata": transaction.metadata,
        }),
    }
}

/// False when somebody else has revised one of the windows meanwhile: one of two racing derivations wins, the other derives again.
async fn insert_revised(client: &impl GenericClient, round: &RoundCommit) -> Result<bool, StoreError> {
    if round.revised.is_empty() {
        return Ok(true);
    }
    let leases: Vec<&str> = round.revised.iter().map(|r| r.lease.as_str()).collect();
    let servers: Vec<&str> = round.revised.iter().map(|r| r.server.as_str()).collect();
    let from: Vec<i64> = round.revised.iter().map(|r| r.from).collect();
    let to: Vec<i64> = round.revised.iter().map(|r| r.to).collect();
    let revisions: Vec<i32> = round.revised.iter().map(|r| r.revision).collect();
    let inserted = client
        .execute(
            "INSERT INTO hydrometer.revision (lease, server, window_start_s, window_end_s, revision, commit_id) \
             SELECT l, v, f, t, r, $1 \
             FROM unnest($2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::int[]) AS k (l, v, f, t, r) \
             ORDER BY l, v, f, t, r ON CONFLICT DO NOTHING",
            &[&round.attempt, &leases, &servers, &from, &to, &revisions],
        )
        .await
        .map_err(doing("recording revisions"))?;
    Ok(inserted == round.revised.len() as u64)
}

async fn insert_unrated(client: &impl GenericClient, round: &RoundCommit) -> Result<(), StoreError> {
    let failed = doing("listing what could not be rated");
    if !round.mended.is_empty() {
        let servers: Vec<&str> = round.mended.iter().map(|m| m.0.as_str()).collect();
        let from: Vec<i64> = round.mended.iter().map(|m| m.1).collect();
        let to: Vec<i64> = round.mended.iter().map(|m| m.2).collect();
        client
            .execute(
                "UPDATE hydrometer.unrated AS u SET mended_by = $1 FROM unnest($2::text[], $3::bigint[], $4::bigint[]) AS k (s, f, t) \
                 WHERE u.server = k.s AND u.from_s >= k.f AND u.to_s <= k.t AND u.mended_by IS NULL",
                &[&round.attempt, &servers, &from, &to],
            )
            .await
            .map_err(&failed)?;
    }
    if !round.unrated.is_empty() {
        let servers: Vec<&str> = round.unrated.iter().map(|u| u.server.as_str()).collect();
        let leases: Vec<&str> = round.unrated.iter().map(|u| u.lease.as_str()).collect();
        let slots: Vec<i32> = round.unrated.iter().map(|u| u.slot).collect();
        let from: Vec<i64> = round.unrated.iter().map(|u| u.from).collect();
        let to: Vec<i64> = round.unrated.iter().map(|u| u.to).collect();
        let reasons: Vec<&str> = round.unrated.iter().map(|u| u.reason.as_str()).collect();
        client
            .execute(
                "INSERT INTO hydrometer.unrated (server, lease, slot, from_s, to_s, reason, commit_id) \
                 SELECT v, l, s, f, t, r, $1 \
                 FROM unnest($2::text[], $3::text[], $4::int[], $5::bigint[], $6::bigint[], $7::text[]) AS k (v, l, s, f, t, r)",
                &[&round.attempt, &servers, &leases, &slots, &from, &to, &reasons],
            )
            .await
            .map_err(&failed)?;
    }
    Ok(())
}
