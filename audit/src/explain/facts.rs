//! What a cut knows that an explanation needs, each fact as plain data.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, Utc};
use hydrometer_ledger::{self as ledger, TransactionId};
use hydrometer_pipeline::store::rating::{cell_key, state_key};
use hydrometer_rating::history::{History, Span};
use hydrometer_rating::keys::{CellKey, StateKey};
use hydrometer_rating::money::{Amount, Price};
use hydrometer_rating::quantities::Quantity;
use hydrometer_schemas::time::{Minute, SECONDS_PER_HOUR, SECONDS_PER_MINUTE, Second, show_second};
use hydrometer_sinks::rated::{self, RatedRow};
use hydrometer_sinks::usage::{self, UsageRow};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::draw;
use crate::cut::{Cut, CutError};
use crate::sql::sql;

/// A text as an SQL literal.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A second as an SQL literal that compares with the warehouse's times.
pub fn time_literal(second: Second) -> String {
    literal(&show_second(second))
}

pub fn show_time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// Rated records that a condition selects.
pub async fn rated(cut: &Cut, condition: &str) -> Result<Vec<RatedRow>, CutError> {
    let mut rows = Vec::new();
    for batch in sql(cut, &format!("SELECT * FROM rated_usage WHERE {condition}")).await? {
        rows.extend(rated::from_batch(&batch)?);
    }
    rows.sort_by_cached_key(RatedRow::sort_key);
    Ok(rows)
}

/// The records of a contract that a commit made in the file of an hour.
pub async fn rated_by(cut: &Cut, commit: &str, contract: &str, hour: Second) -> Result<Vec<RatedRow>, CutError> {
    let condition = format!(
        "\"commit\" = {} AND contract = {} AND window_end > {} AND window_end <= {}",
        literal(commit),
        literal(contract),
        time_literal(hour),
        time_literal(hour + SECONDS_PER_HOUR)
    );
    rated(cut, &condition).await
}

/// A record in a list of records.
#[derive(Debug, Clone, Serialize)]
pub struct RecordLine {
    pub record: String,
    pub kind: &'static str,
    pub revision: i32,
    pub lease: Option<String>,
    pub slot: Option<u32>,
    pub gpu: Option<String>,
    pub window_start: String,
    pub window_end: String,
    pub charge: String,
    /// Per unit; none where it depends on how many there are.
    pub price: Option<String>,
    pub billed_s: i64,
    pub paid_s: i64,
    /// What the quantity counts: seconds, joules, slice-seconds or byte-seconds.
    pub basis: String,
    pub quantity: i64,
    pub paid_quantity: i64,
    pub renter_amount: String,
    pub supplier_amount: String,
    pub commit: String,
}

impl RecordLine {
    pub fn of(row: &RatedRow) -> RecordLine {
        RecordLine {
            record: row.record_id(),
            kind: row.kind.name(),
            revision: row.revision,
            lease: row.lease.clone(),
            slot: row.slot,
            gpu: row.gpu.clone(),
            window_start: show_second(row.window.from),
            window_end: show_second(row.window.to),
            charge: row.charge.clone(),
            price: row.price.map(|price: Price| price.to_string()),
            billed_s: row.quantity.classes.billed,
            paid_s: row.quantity.classes.paid,
            basis: row.basis.clone(),
            quantity: row.quantity.billed,
            paid_quantity: row.quantity.paid,
            renter_amount: row.renter_amount.to_string(),
            supplier_amount: row.supplier_amount.to_string(),
            commit: row.commit.clone(),
        }
    }
}

/// What some records come to.
#[derive(Debug, Clone, Serialize)]
pub struct Totals {
    pub records: usize,
    pub leased_s: i64,
    pub used_s: i64,
    pub idle_s: i64,
    pub unknown_s: i64,
    pub maintenance_s: i64,
    pub down_s: i64,
    pub down_platform_s: i64,
    pub down_renter_s: i64,
    pub suspended_s: i64,
    pub billed_s: i64,
    pub paid_s: i64,
    pub renter_amount: String,
    pub supplier_amount: String,
    pub commission: String,
}

impl Totals {
    pub fn of<'a>(rows: impl IntoIterator<Item = &'a RatedRow>) -> Result<Totals, CutError> {
        let (mut records, mut renter, mut supplier) = (0, Amount::ZERO, Amount::ZERO);
        let mut sum = Quantity::default();
        for row in rows {
            records += 1;
            sum = sum.plus(row.quantity);
            renter = renter.checked_add(row.renter_amount).map_err(hydrometer_sinks::SinkError::from)?;
            supplier = supplier.checked_add(row.supplier_amount).map_err(hydrometer_sinks::SinkError::from)?;
        }
        let seconds = sum.classes;
        let commission = renter.checked_sub(supplier).map_err(hydrometer_sinks::SinkError::from)?;
        Ok(Totals {
            records,
            leased_s: seconds.leased(),
            used_s: seconds.used,
            idle_s: seconds.idle,
            unknown_s: seconds.unknown,
            maintenance_s: seconds.maintenance,
            down_s: seconds.down,
            down_platform_s: seconds.down_platform,
            down_renter_s: seconds.down_renter,
            suspended_s: seconds.suspended,
            billed_s: seconds.billed,
            paid_s: seconds.paid,
            renter_amount: renter.to_string(),
            supplier_amount: supplier.to_string(),
            commission: commission.to_string(),
        })
    }
}

/// What a commit changed in one cell of the rating state.
#[derive(Debug, Clone, Serialize)]
pub struct StepFact {
    pub object: String,
    pub contract: String,
    pub charge: String,
    /// Of the rating state: its billing period or its hour, and whose usage climbs its ladder.
    pub period_start: String,
    pub resource: String,
    /// The billing period in which it is booked.
    pub booked_start: String,
    /// In pieces, as a minimum and a step count them.
    pub billed_before: String,
    pub billed_after: String,
    pub paid_before: String,
    pub paid_after: String,
    pub renter_amount_before: String,
    pub renter_amount_after: String,
    pub supplier_amount_before: String,
    pub supplier_amount_after: String,
    pub transaction: String,
    #[serde(skip)]
    pub cell: CellKey,
    #[serde(skip)]
    pub state: StateKey,
    #[serde(skip)]
    pub state_id: i64,
    /// Of the staged object: its commit, partition and hour.
    #[serde(skip)]
    pub place: (Uuid, i32, Second),
}

/// The steps that a condition on `hydrometer.rating_step AS s`, its `hydrometer.rating_state AS k` and its `hydrometer.object AS o`
/// selects.
pub async fn steps(
    cut: &Cut,
    condition: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<Vec<StepFact>, CutError> {
    let rows = cut
        .client()
        .query(
            &format!(
                "SELECT k.contract, k.renter, k.currency, k.charge, k.period_s, k.resource, s.version_from_s, s.rate, s.segment, s.supplier, \
                        trim_scale(s.billed_before)::text, trim_scale(s.billed_after)::text, trim_scale(s.paid_before)::text, \
                        trim_scale(s.paid_after)::text, s.renter_before::text, s.renter_after::text, s.supplier_before::text, \
                        s.supplier_after::text, s.transaction, o.commit_id, o.partition, coalesce(o.hour_s, 0), s.object, s.booked_s, k.id \
                 FROM hydrometer.rating_step AS s JOIN hydrometer.rating_state AS k ON k.id = s.state \
                 JOIN hydrometer.object AS o ON o.name = s.object WHERE {condition} \
                 ORDER BY s.object, k.contract, k.charge, k.period_s, k.resource, s.version_from_s, s.rate, s.segment, s.supplier"
            ),
            parameters,
        )
        .await?;
    rows.iter()
        .map(|row| {
            let state = state_key(row);
            Ok(StepFact {
                object: row.get(22),
                contract: state.contract.clone(),
                charge: state.charge.clone(),
                period_start: show_second(state.period),
                resource: state.resource.clone(),
                booked_start: show_second(row.get(23)),
                billed_before: row.get(10),
                billed_after: row.get(11),
                paid_before: row.get(12),
                paid_after: row.get(13),
                renter_amount_before: row.get(14),
                renter_amount_after: row.get(15),
                supplier_amount_before: row.get(16),
                supplier_amount_after: row.get(17),
                transaction: row.get::<_, Uuid>(18).to_string(),
                cell: cell_key(row, 6)?,
                state,
                state_id: row.get(24),
                place: (row.get(19), row.get(20), row.get(21)),
            })
        })
        .collect()
}

#[derive(Debug, Clone, Serialize)]
pub struct TransferFact {
    pub debit: String,
    pub credit: String,
    pub amount: String,
    pub currency: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct Booking {
    pub transaction: String,
    pub kind: String,
    pub description: String,
    pub effective_at: String,
    pub booked_at: String,
    pub corrects: Option<String>,
    pub transfers: Vec<TransferFact>,
    pub metadata: Value,
}

/// A transaction of the ledger, if there is one of this id.
pub async fn booking(cut: &Cut, id: Uuid) -> Result<Option<Booking>, CutError> {
    let Some(posted) = ledger::transaction(cut.client(), TransactionId(id)).await? else { return Ok(None) };
    let row = cut.client().query_one("SELECT booked_at FROM ledger.transaction WHERE id = $1", &[&id]).await?;
    Ok(Some(Booking {
        transaction: id.to_string(),
        kind: posted.kind,
        description: posted.description,
        effective_at: show_time(posted.effective_at),
        booked_at: show_time(row.get(0)),
        corrects: posted.corrects.map(|id| id.to_string()),
        transfers: posted
            .transfers
            .into_iter()
            .map(|t| TransferFact {
                amount: t.amount.to_string(),
                currency: t.debit.currency,
                debit: t.debit.name,
                credit: t.credit.name,
            })
            .collect(),
        metadata: posted.metadata,
    }))
}

/// One read of one minute: where its bits came from.
#[derive(Debug, Clone, Serialize)]
pub struct Origin {
    pub topic: String,
    pub partition: i32,
    pub first_offset: i64,
    pub last_offset: i64,
    pub revision: i32,
}

#[derive(Debug, Clone, Serialize)]
pub struct MinuteFact {
    pub minute: String,
    /// Bit n is second n of the minute.
    pub present: u64,
    pub busy: u64,
    pub drawn: String,
    pub present_s: u32,
    pub busy_s: u32,
    pub origins: Vec<Origin>,
}

/// A GPU's minutes in a window; those that are not the record's at all are left out.
pub async fn minutes(
    cut: &Cut,
    server: &str,
    gpu: &str,
    window: Span,
    within: impl Fn(Minute) -> u64,
) -> Result<Vec<MinuteFact>, CutError> {
    let query = format!(
        "SELECT * FROM usage WHERE server = {} AND gpu = {} AND minute >= {} AND minute < {}",
        literal(server),
        literal(gpu),
        time_literal(window.from),
        time_literal(window.to)
    );
    let mut rows: BTreeMap<Minute, Vec<UsageRow>> = BTreeMap::new();
    for batch in sql(cut, &query).await? {
        for row in usage::from_batch(&batch)? {
            rows.entry(row.minute).or_default().push(row);
        }
    }
    let first = window.from.div_euclid(SECONDS_PER_MINUTE);
    let end = (window.to + SECONDS_PER_MINUTE - 1).div_euclid(SECONDS_PER_MINUTE);
    Ok((first..end)
        .filter(|minute| within(*minute) != 0)
        .map(|minute| minute_fact(minute, rows.remove(&minute).unwrap_or_default(), within(minute)))
        .collect())
}

fn minute_fact(minute: Minute, mut rows: Vec<UsageRow>, within: u64) -> MinuteFact {
    rows.sort_by_key(|row| (row.revision, row.topic.clone(), row.partition, row.first_offset));
    let (present, busy) = rows.iter().fold((0, 0), |(p, b), row| (p | row.present, b | row.busy));
    MinuteFact {
        minute: show_second(minute * SECONDS_PER_MINUTE),
        present,
        busy,
        drawn: draw::minute(present, busy, within),
        present_s: (present & within).count_ones(),
        busy_s: (present & busy & within).count_ones(),
        origins: rows
            .iter()
            .map(|row| Origin {
                topic: row.topic.to_string(),
                partition: row.partition,
                first_offset: row.first_offset,
                last_offset: row.last_offset,
                revision: row.revision,
            })
            .collect(),
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct EventFact {
    pub time: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub source: String,
    pub id: String,
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// Why it is not applied; none when it is.
    pub verdict: Option<String>,
    pub data: Value,
}

/// Whose events are asked for.
#[derive(Debug, Default)]
pub struct Parties<'a> {
    pub server: Option<&'a str>,
    /// With a slot, only what concerns that slot.
    pub slot: Option<u32>,
    pub lease: Option<&'a str>,
    pub contract: Option<&'a str>,
    pub before: Second,
}

/// The lifecycle events that say what a lease's window is: the server's (its GPUs, outages and maintenance), the lease's and the
/// contract's.
pub async fn events(cut: &Cut, of: &Parties<'_>) -> Result<Vec<EventFact>, CutError> {
    let slot = of.slot.map(i64::from);
    let rows = cut
        .client()
        .query(
            "WITH e AS (SELECT *, body->>'type' AS kind, body->'data' AS data FROM hydrometer.event WHERE time_s < $5), \
                  here AS (SELECT kind, coalesce(data->>'outage', data->>'maintenance') AS name FROM e \
                           WHERE kind IN ('gpu.outage.opened', 'gpu.maintenance.announced', 'gpu.maintenance.started') AND data->>'server' = $1 \
                             AND ($2::bigint IS NULL OR coalesce(jsonb_typeof(data->'slots'), 'null') = 'null' \
                                  OR data->'slots' @> to_jsonb($2::bigint))) \
             SELECT time_s, kind, source, id, topic, partition, \"offset\", verdict, data FROM e \
             WHERE (kind LIKE 'gpu.server.%' AND data->>'server' = $1) \
                OR (kind IN ('gpu.gpu.registered', 'gpu.gpu.replaced') AND data->>'server' = $1 \
                    AND ($2::bigint IS NULL OR (data->>'slot')::bigint = $2)) \
                OR (kind = 'gpu.gpu.recovered' AND data->>'server' = $1) \
                OR (kind LIKE 'gpu.lease.%' AND data->>'lease' = $3) \
                OR ((kind LIKE 'gpu.contract.%' OR kind = 'gpu.price.changed') \
                    AND coalesce(data->>'contract', data->'document'->>'contract') = $4) \
                OR (kind LIKE 'gpu.outage.%' AND data->>'outage' IN (SELECT name FROM here WHERE kind LIKE 'gpu.outage.%')) \
                OR (kind LIKE 'gpu.maintenance.%' AND data->>'maintenance' IN (SELECT name FROM here WHERE kind LIKE 'gpu.maintenance.%')) \
             ORDER BY time_s, rank, source, id",
            &[&of.server, &slot, &of.lease, &of.contract, &of.before],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| EventFact {
            time: show_second(row.get(0)),
            kind: row.get(1),
            source: row.get(2),
            id: row.get(3),
            topic: row.get(4),
            partition: row.get(5),
            offset: row.get(6),
            verdict: row.get(7),
            data: row.get(8),
        })
        .collect())
}

#[derive(Debug, Clone, Serialize)]
pub struct CommitFact {
    pub id: String,
    pub kind: String,
    pub worker: String,
    pub at: String,
    /// Per partition: epoch, round, offsets and frontier, each from and to.
    pub partitions: Value,
}

pub async fn commit(cut: &Cut, id: &str) -> Result<Option<CommitFact>, CutError> {
    let row = cut
        .client()
        .query_opt("SELECT id::text, kind, worker, at, partitions FROM hydrometer.commit WHERE id::text = $1", &[&id])
        .await?;
    Ok(row.map(|row| CommitFact {
        id: row.get(0),
        kind: row.get(1),
        worker: row.get(2),
        at: show_time(row.get(3)),
        partitions: row.get(4),
    }))
}

/// The history that all events of the cut make.
pub async fn history(cut: &Cut) -> Result<History, CutError> {
    let (_, events) = hydrometer_pipeline::store::timeline::events_since(cut.client(), -1).await?;
    let mut history = History::default();
    history.insert(events);
    Ok(history)
}
