//! What fell due when an hour or a billing period was closed: why, and what it was worked out from.

use hydrometer_pipeline::store::closing::{DUE_COLUMNS, DueKey, due_key};
use hydrometer_schemas::time::show_second;
use hydrometer_sinks::rated::{RatedRow, RecordKind};
use serde::Serialize;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::facts::{self, literal, time_literal};
use crate::cut::{Cut, CutError};

/// So many states and leases are listed.
const ROWS_MAX: i64 = 50;

#[derive(Debug, Clone, Serialize)]
pub struct DueFact {
    pub kind: &'static str,
    /// One line that says how it was worked out.
    pub why: String,
    /// Empty where it is of all charges, of the whole contract, of no supplier.
    pub charge: String,
    pub subject: String,
    pub supplier: String,
    pub start: String,
    pub end: String,
    pub billing_start: String,
    pub booked_start: String,
    /// What was due before this closing and after it.
    pub renter_amount_before: String,
    pub renter_amount_after: String,
    pub supplier_amount_before: String,
    pub supplier_amount_after: String,
    pub transaction: String,
    pub commit: String,
    /// The file that tells it.
    pub file: String,
    pub published: bool,
    /// Every closing that changed it, this one among them.
    pub steps: Vec<DueStepFact>,
    /// The rating states of the time, as they stand now.
    pub states: Vec<StateFact>,
    /// What the leases of the billing period were used for, as it stands now.
    pub leases: Vec<LeaseFact>,
    /// The period's closings by operators.
    pub closings: Vec<ClosingFact>,
    #[serde(skip)]
    pub key: DueKey,
}

#[derive(Debug, Clone, Serialize)]
pub struct DueStepFact {
    pub at: String,
    pub renter_amount_after: String,
    pub supplier_amount_after: String,
    pub why: String,
    pub commit: String,
}

/// A rating state in short.
#[derive(Debug, Clone, Serialize)]
pub struct StateFact {
    pub charge: String,
    pub period_start: String,
    pub resource: String,
    pub billed: String,
    pub paid: String,
    pub renter_amount: String,
    pub supplier_amount: String,
}

/// What a lease did in a billing period.
#[derive(Debug, Clone, Serialize)]
pub struct LeaseFact {
    pub lease: String,
    pub server: String,
    pub leased_s: i64,
    pub maintenance_s: i64,
    pub suspended_s: i64,
    pub down_s: i64,
    pub down_platform_s: i64,
    pub down_renter_s: i64,
}

#[derive(Debug, Clone, Serialize)]
pub struct ClosingFact {
    pub number: i32,
    pub closed_by: String,
    pub at: String,
    /// What stood against it and was accepted, and why.
    pub accepted: serde_json::Value,
    pub why: Option<String>,
}

/// The due behind a record.
pub async fn of_record(cut: &Cut, row: &RatedRow) -> Result<Option<DueFact>, CutError> {
    let RecordKind::Due(kind) = row.kind else { return Ok(None) };
    let condition = "s.commit_id::text = $1 AND d.contract = $2 AND d.charge = $3 AND d.kind = $4 AND d.period_s = $5 AND d.billing_s = $6 \
                     AND d.version_from_s = $7 AND d.subject = $8 AND d.supplier = $9 AND d.renter = $10 AND d.currency = $11";
    let key: [&(dyn ToSql + Sync); 11] = [
        &row.commit,
        &row.contract,
        &row.charge,
        &kind.as_str(),
        &row.ladder,
        &row.period,
        &row.cell.version_from,
        &row.resource,
        &row.cell.supplier,
        &row.renter,
        &row.currency,
    ];
    find(cut, condition, &key).await
}

/// The due that a transaction books.
pub async fn booked_by(cut: &Cut, transaction: Uuid) -> Result<Option<DueFact>, CutError> {
    find(cut, "s.transaction = $1", &[&transaction]).await
}

/// Its record.
pub async fn records_of(cut: &Cut, due: &DueFact) -> Result<Vec<RatedRow>, CutError> {
    let key = &due.key;
    let condition = format!(
        "\"commit\" = {} AND contract = {} AND charge = {} AND kind = {} AND ladder_start = {} AND resource = {} AND supplier = {}",
        literal(&due.commit),
        literal(&key.contract),
        literal(&key.charge),
        literal(due.kind),
        time_literal(key.period),
        literal(&key.subject),
        literal(&key.supplier)
    );
    let mut rows = facts::rated(cut, &condition).await?;
    rows.retain(|row| {
        (row.period, row.cell.version_from, &row.renter, &row.currency)
            == (key.billing, key.version_from, &key.renter, &key.currency)
    });
    Ok(rows)
}

async fn find(cut: &Cut, condition: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Option<DueFact>, CutError> {
    let sql = format!(
        "SELECT {DUE_COLUMNS}, d.end_s, s.why, s.booked_s, s.renter_before::text, s.renter_after::text, s.supplier_before::text, \
                s.supplier_after::text, s.transaction::text, s.commit_id::text, s.file, f.published_at IS NOT NULL, d.id \
         FROM hydrometer.due_step AS s JOIN hydrometer.due AS d ON d.id = s.due JOIN hydrometer.file AS f ON f.name = s.file WHERE {condition}"
    );
    let Some(row) = cut.client().query_opt(&sql, parameters).await? else { return Ok(None) };
    let (key, end): (DueKey, i64) = (due_key(&row)?, row.get(10));
    Ok(Some(DueFact {
        kind: key.kind.as_str(),
        why: row.get(11),
        charge: key.charge.clone(),
        subject: key.subject.clone(),
        supplier: key.supplier.clone(),
        start: show_second(key.period),
        end: show_second(end),
        billing_start: show_second(key.billing),
        booked_start: show_second(row.get(12)),
        renter_amount_before: row.get(13),
        renter_amount_after: row.get(14),
        supplier_amount_before: row.get(15),
        supplier_amount_after: row.get(16),
        transaction: row.get(17),
        commit: row.get(18),
        file: row.get(19),
        published: row.get(20),
        steps: steps(cut, row.get(21)).await?,
        states: states(cut, &key, end).await?,
        leases: leases(cut, &key).await?,
        closings: closings(cut, &key).await?,
        key,
    }))
}

async fn steps(cut: &Cut, due: i64) -> Result<Vec<DueStepFact>, CutError> {
    let sql = "SELECT c.at, s.renter_after::text, s.supplier_after::text, s.why, s.commit_id::text \
               FROM hydrometer.due_step AS s JOIN hydrometer.commit AS c ON c.id = s.commit_id WHERE s.due = $1 ORDER BY c.at, c.id";
    let rows = cut.client().query(sql, &[&due]).await?;
    let step = |row: &tokio_postgres::Row| DueStepFact {
        at: facts::show_time(row.get(0)),
        renter_amount_after: row.get(1),
        supplier_amount_after: row.get(2),
        why: row.get(3),
        commit: row.get(4),
    };
    Ok(rows.iter().map(step).collect())
}

/// The states of the hour or of the billing period; those of its charge alone, where it is of one.
async fn states(cut: &Cut, key: &DueKey, end: i64) -> Result<Vec<StateFact>, CutError> {
    let sql = "SELECT s.charge, s.period_s, s.resource, trim_scale(sum(c.billed))::text, trim_scale(sum(c.paid))::text, \
                      sum(c.renter_amount)::text, sum(c.supplier_amount)::text \
               FROM hydrometer.rating_state AS s JOIN hydrometer.rating_cell AS c ON c.state = s.id \
               WHERE s.contract = $1 AND NOT s.raw AND s.billing_s = $2 AND ($4::bigint - $3::bigint <> 3600 OR s.period_s = $3) \
                 AND ($5 = '' OR s.charge = $5) \
               GROUP BY s.id ORDER BY s.charge, s.period_s, s.resource LIMIT $6";
    let rows =
        cut.client().query(sql, &[&key.contract, &key.billing, &key.period, &end, &key.charge, &ROWS_MAX]).await?;
    let state = |row: &tokio_postgres::Row| StateFact {
        charge: row.get(0),
        period_start: show_second(row.get(1)),
        resource: row.get(2),
        billed: row.get(3),
        paid: row.get(4),
        renter_amount: row.get(5),
        supplier_amount: row.get(6),
    };
    Ok(rows.iter().map(state).collect())
}

/// The leases of the billing period; its own alone, where it is of one.
async fn leases(cut: &Cut, key: &DueKey) -> Result<Vec<LeaseFact>, CutError> {
    let sql = "SELECT lease, server, sum(used_s + idle_s + unknown_s + down_s + suspended_s + maintenance_s)::bigint, \
                      sum(maintenance_s)::bigint, sum(suspended_s)::bigint, sum(down_s)::bigint, sum(down_platform_s)::bigint, \
                      sum(down_renter_s)::bigint \
               FROM hydrometer.lease_use WHERE contract = $1 AND billing_s = $2 AND ($3 = '' OR split_part($3, '/', 1) IN (lease, server) OR $3 IN (lease, server)) \
               GROUP BY lease, server ORDER BY lease, server LIMIT $4";
    let rows = cut.client().query(sql, &[&key.contract, &key.billing, &key.subject, &ROWS_MAX]).await?;
    let lease = |row: &tokio_postgres::Row| LeaseFact {
        lease: row.get(0),
        server: row.get(1),
        leased_s: row.get(2),
        maintenance_s: row.get(3),
        suspended_s: row.get(4),
        down_s: row.get(5),
        down_platform_s: row.get(6),
        down_renter_s: row.get(7),
    };
    Ok(rows.iter().map(lease).collect())
}

async fn closings(cut: &Cut, key: &DueKey) -> Result<Vec<ClosingFact>, CutError> {
    let sql = "SELECT c.number, c.closed_by, c.at, c.accepted, k.why FROM hydrometer.closing AS c \
               LEFT JOIN hydrometer.command AS k ON k.commit_id = c.commit_id \
               WHERE c.contract = $1 AND c.period_s = $2 ORDER BY c.number";
    let rows = cut.client().query(sql, &[&key.contract, &key.billing]).await?;
    let closing = |row: &tokio_postgres::Row| ClosingFact {
        number: row.get(0),
        closed_by: row.get(1),
        at: facts::show_time(row.get(2)),
        accepted: row.get(3),
        why: row.get(4),
    };
    Ok(rows.iter().map(closing).collect())
}
