//! The transaction of a closing: fenced like a round, it takes the billing periods it closes exclusively, works out what is due from
//! the rating states that are there, and books the difference from what was said before. So it can be repeated, and what changes
//! later is closed again the same way.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use hydrometer_ledger::{self as ledger, AccountSpec, TransactionId};
use hydrometer_rating::due::DueKind;
use hydrometer_rating::history::{History, Span};
use hydrometer_rating::keys::StateKey;
use hydrometer_rating::money::Amount;
use hydrometer_rating::rate::State;
use hydrometer_schemas::time::{Second, hour_floor};
use hydrometer_schemas::warehouse::Table;
use serde_json::json;
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use super::commit::{Outcome, announce, classify, fence, insert_commit};
use super::lease::{Lease, lock_leases, move_leases};
use super::lifecycle::Command;
use super::manifest::{file_name, insert_files};
use super::period::{self, Booked, CLOSING, Periods, transfers};
use super::rating::{cell_key, state_key, whole};
use super::{Database, StoreError, doing, timeline, wallet};
use crate::closing::{Due, dues_of};
use crate::failpoint;
use crate::protocol::Happened;

/// Ids of what falls due are made in this namespace from what they stand for.
const NAMESPACE: Uuid = Uuid::from_u128(0x6879_6472_6f6d_6574_6572_2d63_6c6f_7365);

/// What is to be closed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    /// Hours of a contract's commitments by the hour.
    Hours { contract: String, span: Span },
    /// A billing period.
    Period { contract: String, period: Span },
}

impl Job {
    pub fn contract(&self) -> &str {
        match self {
            Job::Hours { contract, .. } | Job::Period { contract, .. } => contract,
        }
    }
}

/// Who closes a period for the first time, and what stood against it and was accepted (the command says why).
#[derive(Debug, Clone)]
pub struct Decision {
    pub command: Command,
    pub accepted: Vec<String>,
}

/// All that one closing commits.
#[derive(Debug)]
pub struct ClosingCommit {
    pub attempt: Uuid,
    pub worker: String,
    pub before: Lease,
    pub after: Lease,
    pub timeline_version: i64,
    pub jobs: Vec<Job>,
    /// Of periods that are closed for the first time.
    pub decision: Option<Decision>,
    pub requests: Vec<i64>,
}

/// What a closing changed of what is due: before and after.
#[derive(Debug, Clone)]
pub struct DueStep {
    pub key: DueKey,
    pub end: Second,
    pub booked: Second,
    pub before: (Amount, Amount),
    pub after: (Amount, Amount),
    pub why: String,
}

/// What an amount that falls due is kept by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DueKey {
    pub contract: String,
    pub renter: String,
    pub currency: String,
    pub charge: String,
    pub kind: DueKind,
    pub period: Second,
    pub billing: Second,
    /// 0 where it is of no version.
    pub version_from: Second,
    pub subject: String,
    pub supplier: String,
}

impl Database {
    /// Runs the transaction of a closing. The steps are what it booked.
    pub async fn commit_closing(
        &mut self,
        closing: &ClosingCommit,
        history: &History,
    ) -> Result<(Outcome, Vec<DueStep>), StoreError> {
        failpoint::pass("commit.closing.before");
        let tx = match self.client().transaction().await.map_err(doing("beginning a closing")) {
            Ok(tx) => tx,
            Err(error) => return Ok((classify(error)?, Vec::new())),
        };
        let steps = match inside(&tx, closing, history).await {
            Ok(Ok(steps)) => steps,
            Ok(Err(other)) => {
                let _ = tx.rollback().await;
                return Ok(((other, None), Vec::new()));
            }
            Err(error) => {
                let _ = tx.rollback().await;
                return Ok((classify(error)?, Vec::new()));
            }
        };
        failpoint::pass("commit.closing.inside");
        let committed = failpoint::pass_after_sending("commit.closing.sent", tx.commit()).await;
        match committed.map_err(doing("committing a closing")) {
            Ok(()) => {
                failpoint::pass("commit.closing.after");
                Ok(((Happened::Committed, None), steps))
            }
            Err(error) if error.is_disconnect() => Ok(((Happened::ReplyLost, Some(error)), steps)),
            Err(error) => Ok((classify(error)?, Vec::new())),
        }
    }
}

async fn inside(
    tx: &tokio_postgres::Transaction<'_>,
    closing: &ClosingCommit,
    history: &History,
) -> Result<Result<Vec<DueStep>, Happened>, StoreError> {
    let before = std::slice::from_ref(&closing.before);
    let after = std::slice::from_ref(&closing.after);
    if let Some(refusal) = fence(before, &lock_leases(tx, std::slice::from_ref(&closing.before.partition)).await?) {
        return Ok(Err(refusal));
    }
    if move_leases(tx, before, after, closing.attempt).await? != 1 {
        return Ok(Err(Happened::FenceLost));
    }
    timeline::lock(tx, false).await?;
    if timeline::version(tx).await? != closing.timeline_version {
        return Ok(Err(Happened::TimelineMoved));
    }
    insert_commit(tx, closing.attempt, "closing", &closing.worker, before, after).await?;
    let periods = periods_of(&closing.jobs, history);
    period::take(tx, &periods).await?;
    failpoint::pass("commit.closing.taken");

    let mut steps = Vec::new();
    for job in &closing.jobs {
        steps.extend(job_steps(tx, job, history).await?);
    }
    let steps: Vec<DueStep> = steps.into_iter().filter(|step| step.before != step.after).collect();
    let hour = closing.after.frontier.max(steps.iter().map(|s| s.end).max().unwrap_or(0)) - 1;
    write_steps(tx, closing, history, &steps, hour_floor(hour.max(0))).await?;
    if let Some(decision) = &closing.decision {
        close_periods(tx, closing, decision).await?;
    }
    finish_requests(tx, &closing.requests, closing.attempt).await?;
    Ok(Ok(steps))
}

/// The billing periods that jobs lie in.
pub fn periods_of(jobs: &[Job], history: &History) -> Periods {
    let mut periods = Periods::new();
    for job in jobs {
        match job {
            Job::Period { contract, period } => {
                periods.insert((contract.clone(), period.from), period.to);
            }
            Job::Hours { contract, span } => {
                for version in history.versions(contract) {
                    let Some(part) = version.span.intersect(*span) else { continue };
                    let mut at = part.from;
                    while at < part.to {
                        let period = version.terms.calendar.period_of(at);
                        periods.insert((contract.clone(), period.from), period.to);
                        at = period.to;
                    }
                }
            }
        }
    }
    periods
}

async fn job_steps(client: &impl GenericClient, job: &Job, history: &History) -> Result<Vec<DueStep>, StoreError> {
    let contract = job.contract();
    let (states, uses) = match job {
        Job::Hours { span, .. } => (states_between(client, contract, *span).await?, BTreeMap::new()),
        Job::Period { period, .. } => {
            let span = Span { from: period.from, to: period.from + 1 };
            (states_of(client, contract, *period).await?, period::uses_of(client, contract, span.from, span.to).await?)
        }
    };
    let now = dues_of(job, history, &states, &uses)?;
    let mut said = said_before(client, job).await?;
    let closed_until = closed_until(client, contract).await?;
    let mut steps = Vec::new();
    for Due { key, end, renter, supplier, why } in now {
        let before = said.remove(&key).map_or((Amount::ZERO, Amount::ZERO), |said| (said.0, said.1));
        let booked = booked_in(&key, closed_until);
        steps.push(DueStep { key, end, booked, before, after: (renter, supplier), why });
    }
    // What is due no more is taken back.
    for (key, (renter, supplier, end)) in said {
        let booked = booked_in(&key, closed_until);
        let why = "no longer due".to_owned();
        steps.push(DueStep { key, end, booked, before: (renter, supplier), after: (Amount::ZERO, Amount::ZERO), why });
    }
    Ok(steps)
}

/// In its own billing period while that is open, else in the first open one.
fn booked_in(key: &DueKey, closed_until: Option<Second>) -> Second {
    closed_until.filter(|until| key.billing < *until).unwrap_or(key.billing)
}

async fn closed_until(client: &impl GenericClient, contract: &str) -> Result<Option<Second>, StoreError> {
    let row = client
        .query_one(
            "SELECT max(end_s) FROM hydrometer.period WHERE contract = $1 AND closed_by IS NOT NULL",
            &[&contract],
        )
        .await
        .map_err(doing("reading which periods are closed"))?;
    Ok(row.get(0))
}

/// What was said to be due before, by an hour's or a period's own closings.
async fn said_before(
    client: &impl GenericClient,
    job: &Job,
) -> Result<BTreeMap<DueKey, (Amount, Amount, Second)>, StoreError> {
    let (condition, from, to) = match job {
        Job::Hours { span, .. } => ("end_s - period_s = 3600 AND period_s >= $2 AND period_s < $3", span.from, span.to),
        Job::Period { period, .. } => {
            ("end_s - period_s <> 3600 AND billing_s >= $2 AND billing_s < $3", period.from, period.from + 1)
        }
    };
    let rows = client
        .query(
            &format!(
                "SELECT {DUE_COLUMNS}, renter_amount::text, supplier_amount::text, end_s FROM hydrometer.due AS d \
                 WHERE contract = $1 AND {condition}"
            ),
            &[&job.contract(), &from, &to],
        )
        .await
        .map_err(doing("reading what was due before"))?;
    rows.iter()
        .map(|row| Ok((due_key(row)?, (Amount::parse(row.get(10))?, Amount::parse(row.get(11))?, row.get(12)))))
        .collect()
}

/// The columns of a [`DueKey`].
pub const DUE_COLUMNS: &str = "d.contract, d.renter, d.currency, d.charge, d.kind, d.period_s, d.billing_s, d.version_from_s, d.subject, d.supplier";

/// A key from the first ten columns.
pub fn due_key(row: &Row) -> Result<DueKey, StoreError> {
    let kind: &str = row.get(4);
    Ok(DueKey {
        contract: row.get(0),
        renter: row.get(1),
        currency: row.get(2),
        charge: row.get(3),
        kind: DueKind::ALL.into_iter().find(|known| known.as_str() == kind).ok_or_else(|| StoreError::Row {
            table: "hydrometer.due",
            detail: format!("there is no kind {kind:?} of what falls due"),
        })?,
        period: row.get(5),
        billing: row.get(6),
        version_from: row.get(7),
        subject: row.get(8),
        supplier: row.get(9),
    })
}

/// The steps that a closing's file tells, each with its commit and the file's number.
pub async fn steps_of(client: &impl GenericClient, file: &str) -> Result<Vec<(DueStep, String, i32)>, StoreError> {
    let rows = client
        .query(
            &format!(
                "SELECT {DUE_COLUMNS}, d.end_s, s.booked_s, s.renter_before::text, s.supplier_before::text, s.renter_after::text, \
                        s.supplier_after::text, s.why, s.commit_id::text, f.revision \
                 FROM hydrometer.due_step AS s JOIN hydrometer.due AS d ON d.id = s.due JOIN hydrometer.file AS f ON f.name = s.file \
                 WHERE s.file = $1 ORDER BY s.due"
            ),
            &[&file],
        )
        .await
        .map_err(doing("reading what fell due"))?;
    rows.iter()
        .map(|row| {
            let amount = |at: usize| Amount::parse(row.get(at));
            let step = DueStep {
                key: due_key(row)?,
                end: row.get(10),
                booked: row.get(11),
                before: (amount(12)?, amount(13)?),
                after: (amount(14)?, amount(15)?),
                why: row.get(16),
            };
            Ok((step, row.get(17), row.get(18)))
        })
        .collect()
}

/// The rating states of a contract's billing period; hours of hourly commitments among them.
pub async fn states_of(
    client: &impl GenericClient,
    contract: &str,
    period: Span,
) -> Result<BTreeMap<StateKey, State>, StoreError> {
    states_where(client, contract, "s.billing_s >= $2 AND s.billing_s < $3", period.from, period.from + 1).await
}

/// The rating states of a contract that begin in a span: of hours, hourly commitments are among them.
pub async fn states_between(
    client: &impl GenericClient,
    contract: &str,
    span: Span,
) -> Result<BTreeMap<StateKey, State>, StoreError> {
    states_where(client, contract, "s.period_s >= $2 AND s.period_s < $3", span.from, span.to).await
}

async fn states_where(
    client: &impl GenericClient,
    contract: &str,
    condition: &str,
    from: Second,
    to: Second,
) -> Result<BTreeMap<StateKey, State>, StoreError> {
    let rows = client
        .query(
            &format!(
                "SELECT s.contract, s.renter, s.currency, s.charge, s.period_s, s.resource, c.version_from_s, c.rate, c.segment, c.supplier, \
                        (c.billed * 1000000)::numeric(38, 0)::text, (c.paid * 1000000)::numeric(38, 0)::text \
                 FROM hydrometer.rating_state AS s JOIN hydrometer.rating_cell AS c ON c.state = s.id \
                 WHERE s.contract = $1 AND NOT s.raw AND {condition}"
            ),
            &[&contract, &from, &to],
        )
        .await
        .map_err(doing("reading the rating states of a period"))?;
    let mut states: BTreeMap<StateKey, State> = BTreeMap::new();
    for row in &rows {
        let cell = hydrometer_rating::keys::Cell { billed: whole(row, 10)?, paid: whole(row, 11)? };
        states.entry(state_key(row)).or_default().insert(cell_key(row, 6)?, cell);
    }
    Ok(states)
}

async fn write_steps(
    tx: &tokio_postgres::Transaction<'_>,
    closing: &ClosingCommit,
    history: &History,
    steps: &[DueStep],
    hour: Second,
) -> Result<(), StoreError> {
    if steps.is_empty() {
        return Ok(());
    }
    let file = file_name(Table::Rated, &closing.after.partition, hour, closing.after.revision);
    insert_files(tx, &closing.before, &[(Table::Rated, hour, closing.after.revision, Vec::new())], closing.attempt)
        .await?;
    let ids = upsert_dues(tx, steps).await?;
    let dues: Vec<i64> = steps.iter().filter_map(|step| ids.get(&step.key)).copied().collect();
    if dues.len() != steps.len() {
        let detail = format!("{} of {} rows were written", dues.len(), steps.len());
        return Err(StoreError::Row { table: "hydrometer.due", detail });
    }
    let transactions: Vec<TransactionId> = steps.iter().map(|step| transaction_id(closing, &step.key)).collect();
    let amount = |f: fn(&DueStep) -> Amount| steps.iter().map(|step| f(step).to_string()).collect::<Vec<String>>();
    let booked: Vec<i64> = steps.iter().map(|step| step.booked).collect();
    let reasons: Vec<&str> = steps.iter().map(|step| step.why.as_str()).collect();
    let transaction_ids: Vec<Uuid> = transactions.iter().map(|id| id.0).collect();
    tx.execute(
        "INSERT INTO hydrometer.due_step (due, commit_id, file, renter_before, renter_after, supplier_before, supplier_after, booked_s, \
                                          why, transaction) \
         SELECT d, $1, $2, rb::numeric, ra::numeric, sb::numeric, sa::numeric, b, w, t \
         FROM unnest($3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bigint[], $9::text[], $10::uuid[]) \
              AS k (d, rb, ra, sb, sa, b, w, t)",
        &[
            &closing.attempt,
            &file,
            &dues,
            &amount(|s| s.before.0),
            &amount(|s| s.after.0),
            &amount(|s| s.before.1),
            &amount(|s| s.after.1),
            &booked,
            &reasons,
            &transaction_ids,
        ],
    )
    .await
    .map_err(doing("recording what falls due"))?;
    let mut set = Vec::new();
    let mut corrections = BTreeSet::new();
    for (step, transaction) in steps.iter().zip(transactions) {
        set.extend(posting(closing, step, transaction)?);
        if step.before != (Amount::ZERO, Amount::ZERO) {
            corrections.insert(transaction);
        }
    }
    let used = wallet::use_of_dues(steps, history)?;
    wallet::post(tx, &format!("closing {}", closing.after.round), &set, &used).await?;
    announce(tx, set.iter().filter(|transaction| corrections.contains(&transaction.id))).await
}

/// Writes what is due now, and says under which id each is kept.
async fn upsert_dues(client: &impl GenericClient, steps: &[DueStep]) -> Result<BTreeMap<DueKey, i64>, StoreError> {
    let text = |f: fn(&DueStep) -> &str| steps.iter().map(f).collect::<Vec<&str>>();
    let number = |f: fn(&DueStep) -> i64| steps.iter().map(f).collect::<Vec<i64>>();
    let amount = |f: fn(&DueStep) -> Amount| steps.iter().map(|step| f(step).to_string()).collect::<Vec<String>>();
    let rows = client
        .query(
            &format!(
                "INSERT INTO hydrometer.due AS d (contract, renter, currency, charge, kind, period_s, end_s, billing_s, version_from_s, \
                                                  subject, supplier, renter_amount, supplier_amount, why) \
                 SELECT c, n, u, h, k, p, e, b, v, j, s, ra::numeric, sa::numeric, w \
                 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[], \
                             $9::bigint[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[]) \
                      AS x (c, n, u, h, k, p, e, b, v, j, s, ra, sa, w) ORDER BY c, b, p, h, k, v, j, s, n, u \
                 ON CONFLICT (contract, billing_s, period_s, charge, kind, version_from_s, subject, supplier, renter, currency) DO UPDATE \
                 SET renter_amount = excluded.renter_amount, supplier_amount = excluded.supplier_amount, why = excluded.why \
                 RETURNING {DUE_COLUMNS}, d.id"
            ),
            &[
                &text(|s| &s.key.contract),
                &text(|s| &s.key.renter),
                &text(|s| &s.key.currency),
                &text(|s| &s.key.charge),
                &text(|s| s.key.kind.as_str()),
                &number(|s| s.key.period),
                &number(|s| s.end),
                &number(|s| s.key.billing),
                &number(|s| s.key.version_from),
                &text(|s| &s.key.subject),
                &text(|s| &s.key.supplier),
                &amount(|s| s.after.0),
                &amount(|s| s.after.1),
                &text(|s| &s.why),
            ],
        )
        .await
        .map_err(doing("writing what is due"))?;
    rows.iter().map(|row| Ok((due_key(row)?, row.get(10)))).collect()
}

/// The same for the same closing of the same thing, whoever commits it.
fn transaction_id(closing: &ClosingCommit, key: &DueKey) -> TransactionId {
    TransactionId::derive(
        &NAMESPACE,
        &[
            &closing.after.round.to_string(),
            &key.contract,
            &key.renter,
            &key.currency,
            &key.charge,
            key.kind.as_str(),
            &key.period.to_string(),
            &key.billing.to_string(),
            &key.version_from.to_string(),
            &key.subject,
            &key.supplier,
        ],
    )
}

/// Like usage; but what the platform bears of a credit is an expense of its own.
fn posting(
    closing: &ClosingCommit,
    step: &DueStep,
    id: TransactionId,
) -> Result<Option<ledger::Transaction>, StoreError> {
    let key = &step.key;
    let booked = Booked {
        renter: step.after.0.checked_sub(step.before.0)?,
        supplier: step.after.1.checked_sub(step.before.1)?,
        holdback: Amount::ZERO,
    };
    let platform = match key.kind {
        DueKind::SlaCredit => AccountSpec::platform_sla_credits(&key.currency),
        _ => AccountSpec::platform_commission(&key.currency),
    };
    let transfers = transfers(&key.renter, &key.supplier, &key.currency, &booked, platform)?;
    if transfers.is_empty() {
        return Ok(None);
    }
    let effective_at = DateTime::<Utc>::from_timestamp(step.end, 0)
        .ok_or(StoreError::Row { table: "hydrometer.due", detail: format!("second {} is no time", step.end) })?;
    Ok(Some(ledger::Transaction {
        id,
        kind: "due".to_owned(),
        effective_at,
        description: format!("{} of contract {}: {}", key.kind.as_str(), key.contract, step.why),
        corrects: None,
        reverses: None,
        metadata: json!({
            "commit": closing.attempt.to_string(), "contract": key.contract, "charge": key.charge, "kind": key.kind.as_str(),
            "period_s": key.period, "billing_s": key.billing, "subject": key.subject, "supplier": key.supplier, "renter": key.renter,
            "currency": key.currency, "booked_s": step.booked,
        }),
        transfers,
    }))
}

async fn close_periods(
    tx: &tokio_postgres::Transaction<'_>,
    closing: &ClosingCommit,
    decision: &Decision,
) -> Result<(), StoreError> {
    let failed = doing("closing a billing period");
    decision.command.insert(tx, closing.attempt).await?;
    for job in &closing.jobs {
        let Job::Period { contract, period } = job else { continue };
        tx.execute(
            "UPDATE hydrometer.period SET closed_by = $3 WHERE contract = $1 AND start_s = $2 AND closed_by IS NULL",
            &[contract, &period.from, &closing.attempt],
        )
        .await
        .map_err(&failed)?;
        tx.execute(
            "INSERT INTO hydrometer.closing (contract, period_s, number, closed_by, accepted, commit_id) \
             SELECT $1, $2, count(*), $3, $4, $5 FROM hydrometer.closing WHERE contract = $1 AND period_s = $2",
            &[contract, &period.from, &decision.command.who, &json!(decision.accepted), &closing.attempt],
        )
        .await
        .map_err(&failed)?;
    }
    Ok(())
}

/// An open request to close something again.
#[derive(Debug, Clone)]
pub struct ClosingRequest {
    pub id: i64,
    pub contract: String,
    pub span: Span,
}

pub async fn open_requests(client: &impl GenericClient) -> Result<Vec<ClosingRequest>, StoreError> {
    let rows = client
        .query(
            "SELECT id, contract, from_s, to_s FROM hydrometer.closing_request WHERE done_by IS NULL ORDER BY id LIMIT 1000",
            &[],
        )
        .await
        .map_err(doing("reading requests for closings"))?;
    Ok(rows
        .iter()
        .map(|row| ClosingRequest {
            id: row.get(0),
            contract: row.get(1),
            span: Span { from: row.get(2), to: row.get(3) },
        })
        .collect())
}

async fn finish_requests(client: &impl GenericClient, ids: &[i64], commit: Uuid) -> Result<(), StoreError> {
    client
        .execute(
            "UPDATE hydrometer.closing_request SET done_by = $2 WHERE id = ANY ($1) AND done_by IS NULL",
            &[&ids, &commit],
        )
        .await
        .map_err(doing("finishing requests for closings"))?;
    Ok(())
}

/// A billing period that something was rated in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeriodRow {
    pub contract: String,
    pub period: Span,
    pub closed: bool,
}

/// The billing periods of one contract, or of all.
pub async fn periods(client: &impl GenericClient, contract: Option<&str>) -> Result<Vec<PeriodRow>, StoreError> {
    let rows = client
        .query(
            "SELECT contract, start_s, end_s, closed_by IS NOT NULL FROM hydrometer.period \
             WHERE $1::text IS NULL OR contract = $1 ORDER BY contract, start_s",
            &[&contract],
        )
        .await
        .map_err(doing("reading billing periods"))?;
    Ok(rows
        .iter()
        .map(|row| PeriodRow {
            contract: row.get(0),
            period: Span { from: row.get(1), to: row.get(2) },
            closed: row.get(3),
        })
        .collect())
}

/// Asks for closings of contracts whose timelines changed from a second on: closed periods, and hours of hourly commitments that
/// are closed. Called by a lifecycle commit, which holds the timeline lock exclusively, so no closing is under way.
pub async fn ask_after_events(
    client: &impl GenericClient,
    contracts: &BTreeMap<String, (Second, bool)>,
    commit: Uuid,
) -> Result<(), StoreError> {
    if contracts.is_empty() {
        return Ok(());
    }
    let names: BTreeSet<&str> = contracts.keys().map(String::as_str).collect();
    let names: Vec<&str> = names.into_iter().collect();
    let from: Vec<i64> = contracts.values().map(|c| hour_floor(c.0.max(0))).collect();
    let hourly: Vec<bool> = contracts.values().map(|c| c.1).collect();
    client
        .execute(
            "WITH k AS (SELECT * FROM unnest($2::text[], $3::bigint[], $4::boolean[]) AS k (c, f, h)) \
             INSERT INTO hydrometer.closing_request (contract, from_s, to_s, cause, asked_by) \
             SELECT k.c, p.start_s, p.end_s, 'lifecycle event in a closed billing period', $1::uuid \
             FROM k JOIN hydrometer.period AS p ON p.contract = k.c AND p.closed_by IS NOT NULL AND p.end_s > k.f \
             UNION ALL \
             SELECT k.c, k.f, l.frontier_s, 'lifecycle event in closed hours', $1::uuid \
             FROM k JOIN hydrometer.partition_lease AS l ON l.topic = $5 AND l.partition = 0 AND l.frontier_s > k.f WHERE k.h",
            &[&commit, &names, &from, &hourly, &CLOSING],
        )
        .await
        .map_err(doing("asking for closings after an event"))?;
    Ok(())
}
