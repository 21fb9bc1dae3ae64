//! What falls due at the end of hours and billing periods, and their closings: worked out again from the states, and held against
//! what was said, booked and published (laws 4, 6 and 8).

use std::collections::{BTreeMap, BTreeSet};

use hydrometer_pipeline::closing::{commits_by_the_hour, dues_of};
use hydrometer_pipeline::publish::closing_records;
use hydrometer_pipeline::store::Database;
use hydrometer_pipeline::store::closing::{
    DUE_COLUMNS, DueKey, Job, due_key, open_requests, periods, states_between, states_of,
};
use hydrometer_pipeline::store::period::{CLOSING, Uses, uses_of};
use hydrometer_rating::history::Span;
use hydrometer_rating::money::Amount;
use hydrometer_schemas::time::{SECONDS_PER_HOUR, Second, hour_floor, show_second};
use hydrometer_sinks::rated::{RatedRow, from_batch};

use super::facts::FileRow;
use super::hours::{Walk, show_span};
use super::money::amount;
use super::{Report, VerifyError, database};

/// Hours of a commitment that are worked out again at once.
const HOURS_AT_ONCE: i64 = 31 * 24;

/// Both sides of something due.
type Amounts = (i128, i128);

/// A row of `hydrometer.due`.
struct Said {
    key: DueKey,
    end: Second,
    amounts: Amounts,
}

/// The published files of closings: each record once, as its step said it.
pub(super) async fn files(walk: &mut Walk<'_>) -> Result<(), VerifyError> {
    let facts = walk.facts;
    let files: Vec<&FileRow> = facts.files.iter().filter(|file| *file.partition.topic == *CLOSING).collect();
    for file in files {
        let mut expected: BTreeMap<String, RatedRow> = BTreeMap::new();
        for row in closing_records(walk.db, &file.name).await.map_err(told)? {
            expected.insert(row.record_id(), row);
        }
        if !file.published {
            walk.report.check("dues").wait("files of closings that are owed", 1);
            continue;
        }
        let Some(batches) = walk.file(file).await? else { continue };
        let check = walk.report.check("dues");
        check.count("files", 1);
        for batch in &batches {
            let rows = match from_batch(batch) {
                Ok(rows) => rows,
                Err(error) => {
                    check.violation(&file.name, "rows of rated_usage/", error.to_string());
                    continue;
                }
            };
            for row in rows {
                let id = row.record_id();
                check.count("records", 1);
                match expected.remove(&id) {
                    Some(said) if said == row => {}
                    said => {
                        let said = said.map_or("no such record".to_owned(), |row| show_record(&row));
                        check.violation(format!("record {id} in {}", file.name), said, show_record(&row));
                    }
                }
            }
        }
        for (id, row) in expected {
            check.violation(format!("record {id} in {}", file.name), show_record(&row), "no such record");
        }
    }
    Ok(())
}

fn show_record(row: &RatedRow) -> String {
    format!(
        "{} of contract {} {}{}, {}: renter {}, supplier {} {}",
        row.kind.name(),
        row.contract,
        row.charge,
        if row.resource.is_empty() { String::new() } else { format!(" of {}", row.resource) },
        show_span(row.window),
        row.renter_amount,
        row.cell.supplier,
        row.supplier_amount
    )
}

fn told(error: hydrometer_pipeline::worker::WorkerError) -> VerifyError {
    VerifyError::Database { doing: "reading what fell due", detail: error.to_string() }
}

pub(super) async fn check(db: &Database, facts: &super::facts::Facts, report: &mut Report) -> Result<(), VerifyError> {
    for (name, sql) in [
        ("dues", STEPS),
        ("dues", CHAINS),
        ("postings", TRANSACTIONS),
        ("closings", CLOSINGS),
        ("closings", BOOKED_IN_CLOSED),
        ("closings", BOOKED_ELSEWHERE),
    ] {
        let rows = db.client_ref().query(sql, &[]).await.map_err(database("following what falls due"))?;
        let check = report.check(name);
        for row in rows {
            check.violation(row.get::<_, String>(0), row.get::<_, String>(1), row.get::<_, String>(2));
        }
    }
    for (name, what, sql) in [
        ("dues", "dues", "SELECT count(*) FROM hydrometer.due"),
        ("dues", "steps", "SELECT count(*) FROM hydrometer.due_step"),
        ("postings", "transactions of what fell due", "SELECT count(*) FROM ledger.transaction WHERE kind = 'due'"),
        ("closings", "billing periods", "SELECT count(*) FROM hydrometer.period"),
        ("closings", "closings", "SELECT count(*) FROM hydrometer.closing"),
    ] {
        let row = db.client_ref().query_one(sql, &[]).await.map_err(database("counting"))?;
        report.check(name).count(what, row.get::<_, i64>(0).unsigned_abs());
    }
    again(db, facts, report).await
}

/// What is due for every hour and billing period that is closed, worked out again.
async fn again(db: &Database, facts: &super::facts::Facts, report: &mut Report) -> Result<(), VerifyError> {
    let mut said = said(db).await?;
    let mut asked: Vec<(String, Span)> =
        open_requests(db.client_ref()).await?.into_iter().map(|request| (request.contract, request.span)).collect();
    asked.sort();
    let closed_until = facts.closed_until();
    let mut jobs: Vec<Job> = Vec::new();
    for (contract, versions) in facts.history.contracts() {
        let hourly = versions.iter().filter(|version| commits_by_the_hour(version));
        let Some(first) = hourly.map(|version| hour_floor(version.span.from)).min() else { continue };
        let mut from = first;
        while from < closed_until {
            let to = closed_until.min(from + HOURS_AT_ONCE * SECONDS_PER_HOUR);
            jobs.push(Job::Hours { contract: contract.to_owned(), span: Span { from, to } });
            from = to;
        }
    }
    let closed = periods(db.client_ref(), None).await?.into_iter().filter(|row| row.closed);
    jobs.extend(closed.map(|row| Job::Period { contract: row.contract, period: row.period }));

    for job in jobs {
        let contract = job.contract().to_owned();
        let (states, uses) = match &job {
            Job::Hours { span, .. } => (states_between(db.client_ref(), &contract, *span).await?, Uses::new()),
            Job::Period { period, .. } => (
                states_of(db.client_ref(), &contract, *period).await?,
                uses_of(db.client_ref(), &contract, period.from, period.from + 1).await?,
            ),
        };
        let mut before: BTreeMap<DueKey, Amounts> = BTreeMap::new();
        said.retain(|row| {
            let is_of_job = row.key.contract == contract && is_of(&job, row);
            if is_of_job {
                before.insert(row.key.clone(), row.amounts);
            }
            !is_of_job
        });
        let check = report.check("dues");
        match &job {
            Job::Hours { span, .. } => {
                check.count("hours of commitments", (span.seconds() / SECONDS_PER_HOUR).unsigned_abs())
            }
            Job::Period { .. } => check.count("closed billing periods", 1),
        }
        let now = match dues_of(&job, &facts.history, &states, &uses) {
            Ok(now) => now,
            Err(error) => {
                check.violation(format!("contract {contract}"), "periods that can be closed again", error.to_string());
                continue;
            }
        };
        let mut now: BTreeMap<DueKey, Amounts> =
            now.into_iter().map(|due| (due.key, (due.renter.scaled(), due.supplier.scaled()))).collect();
        for key in before.keys().chain(now.keys()).cloned().collect::<BTreeSet<_>>() {
            let (now, then) = (now.remove(&key).unwrap_or_default(), before.remove(&key).unwrap_or_default());
            let part = match &job {
                Job::Hours { .. } => Span { from: key.period, to: key.period + SECONDS_PER_HOUR },
                Job::Period { period, .. } => *period,
            };
            if asked.iter().any(|(name, span)| *name == contract && span.intersect(part).is_some()) {
                check.wait("dues under an open request", 1);
            } else if now != then {
                check.violation(show_due(&key), show(now), show(then));
            }
        }
    }
    // What is said of hours and periods that nobody has closed.
    let check = report.check("dues");
    for row in said.iter().filter(|row| row.amounts != (0, 0)) {
        let open = asked
            .iter()
            .any(|(name, span)| *name == row.key.contract && span.from < row.end && row.key.period < span.to);
        if open {
            check.wait("dues under an open request", 1);
        } else {
            check.violation(
                show_due(&row.key),
                "nothing due before its hour or billing period is closed",
                show(row.amounts),
            );
        }
    }
    Ok(())
}

fn is_of(job: &Job, row: &Said) -> bool {
    let is_hour = row.end - row.key.period == SECONDS_PER_HOUR;
    match job {
        Job::Hours { span, .. } => is_hour && span.from <= row.key.period && row.key.period < span.to,
        Job::Period { period, .. } => !is_hour && row.key.billing == period.from,
    }
}

async fn said(db: &Database) -> Result<Vec<Said>, VerifyError> {
    let sql = format!(
        "SELECT {DUE_COLUMNS}, d.end_s, d.renter_amount::text, d.supplier_amount::text FROM hydrometer.due AS d"
    );
    let rows = db.client_ref().query(&sql, &[]).await.map_err(database("reading what is due"))?;
    rows.iter()
        .map(|row| Ok(Said { key: due_key(row)?, end: row.get(10), amounts: (amount(row, 11)?, amount(row, 12)?) }))
        .collect::<Result<_, VerifyError>>()
}

fn show_due(key: &DueKey) -> String {
    let charge = if key.charge.is_empty() { String::new() } else { format!(" on {}", key.charge) };
    let subject = if key.subject.is_empty() { String::new() } else { format!(" of {}", key.subject) };
    let supplier = if key.supplier.is_empty() { String::new() } else { format!(", supplier {}", key.supplier) };
    format!(
        "{} of contract {}{charge}{subject} from {}, renter {} in {}{supplier}",
        key.kind,
        key.contract,
        show_second(key.period),
        key.renter,
        key.currency
    )
}

fn show((renter, supplier): Amounts) -> String {
    format!("renter {}, supplier {}", Amount::from_scaled(renter), Amount::from_scaled(supplier))
}

/// How a due is named in what SQL finds.
macro_rules! due_name {
    () => {
        "format('%s of contract %s%s%s from %s, renter %s in %s%s', d.kind, d.contract, nullif(' on ' || d.charge, ' on '), \
                nullif(' of ' || d.subject, ' of '), to_char(to_timestamp(d.period_s) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), \
                d.renter, d.currency, nullif(', supplier ' || d.supplier, ', supplier '))"
    };
}

/// Dues that are not the sum of their steps.
const STEPS: &str = concat!(
    "SELECT ",
    due_name!(),
    ", format('the sum of its steps: renter %s, supplier %s', coalesce(s.renter, 0), coalesce(s.supplier, 0)), \
       format('renter %s, supplier %s', d.renter_amount, d.supplier_amount) \
     FROM hydrometer.due AS d LEFT JOIN ( \
         SELECT due, sum(renter_after - renter_before) AS renter, sum(supplier_after - supplier_before) AS supplier \
         FROM hydrometer.due_step GROUP BY due) AS s ON s.due = d.id \
     WHERE (d.renter_amount, d.supplier_amount) IS DISTINCT FROM (coalesce(s.renter, 0), coalesce(s.supplier, 0)) ORDER BY 1"
);

/// Steps of a due that do not begin where the one before it ended, in the order of the rounds of the one partition that closes.
const CHAINS: &str = concat!(
    "SELECT ",
    due_name!(),
    ", format('a step from renter %s, supplier %s on', k.renter_was, k.supplier_was), \
       format('commit %s steps from renter %s, supplier %s on', k.commit_id, k.renter_before, k.supplier_before) \
     FROM (SELECT s.*, coalesce(lag(s.renter_after) OVER w, 0) AS renter_was, coalesce(lag(s.supplier_after) OVER w, 0) AS supplier_was \
           FROM hydrometer.due_step AS s JOIN hydrometer.commit AS c ON c.id = s.commit_id \
           WINDOW w AS (PARTITION BY s.due ORDER BY (c.partitions->0->>'round')::bigint)) AS k \
     JOIN hydrometer.due AS d ON d.id = k.due \
     WHERE (k.renter_before, k.supplier_before) <> (k.renter_was, k.supplier_was) ORDER BY 1"
);

/// Steps of dues and transactions that differ: each step has one of its own. What the platform bears of a credit is an expense.
const TRANSACTIONS: &str = "\
WITH step AS (
    SELECT s.transaction, s.renter_after - s.renter_before AS renter, s.supplier_after - s.supplier_before AS paid,
           CASE d.kind WHEN 'sla_credit' THEN 'sla_credits' ELSE 'commission' END AS purpose,
           format('%s of contract %s, %L, period %s of %s, subject %L, renter %s in %s, supplier %L, booked %s, commit %s', d.kind, d.contract,
                  d.charge, d.period_s, d.billing_s, d.subject, d.renter, d.currency, d.supplier, s.booked_s, s.commit_id) AS what
    FROM hydrometer.due_step AS s JOIN hydrometer.due AS d ON d.id = s.due
    WHERE s.transaction NOT IN (SELECT id FROM ledger.detached_transaction)
), entry AS (
    SELECT transaction, debit_account AS account, amount FROM ledger.transfer
    UNION ALL SELECT transaction, credit_account, -amount FROM ledger.transfer
), sum AS (
    SELECT e.transaction, coalesce(sum(amount) FILTER (WHERE a.purpose = 'unbilled'), 0) AS renter,
           coalesce(-sum(amount) FILTER (WHERE a.purpose = 'payable'), 0) AS paid,
           string_agg(DISTINCT a.purpose, ' and ') FILTER (WHERE a.purpose NOT IN ('unbilled', 'payable')) AS purpose
    FROM entry AS e JOIN ledger.account AS a ON a.id = e.account GROUP BY e.transaction
), booked AS (
    SELECT t.id, coalesce(s.renter, 0) AS renter, coalesce(s.paid, 0) AS paid, s.purpose,
           format('%s of contract %s, %L, period %s of %s, subject %L, renter %s in %s, supplier %L, booked %s, commit %s', t.metadata->>'kind',
                  t.metadata->>'contract', t.metadata->>'charge', t.metadata->>'period_s', t.metadata->>'billing_s',
                  t.metadata->>'subject', t.metadata->>'renter', t.metadata->>'currency', t.metadata->>'supplier',
                  t.metadata->>'booked_s', t.metadata->>'commit') AS what
    FROM ledger.transaction AS t LEFT JOIN sum AS s ON s.transaction = t.id WHERE t.kind = 'due'
)
SELECT format('transaction %s', coalesce(s.transaction, b.id)),
       CASE WHEN s.transaction IS NULL THEN 'to be named by a step of what is due'
            ELSE format('%s: renter %s, supplier %s, %s', s.what, s.renter, s.paid, s.purpose) END,
       CASE WHEN b.id IS NULL THEN 'no such transaction in the ledger'
            ELSE format('%s: renter %s, supplier %s, %s', b.what, b.renter, b.paid, b.purpose) END
FROM step AS s FULL JOIN booked AS b ON b.id = s.transaction
WHERE s.transaction IS NULL OR b.id IS NULL OR (s.what, s.renter, s.paid) IS DISTINCT FROM (b.what, b.renter, b.paid)
   OR s.purpose <> b.purpose
ORDER BY 1";

/// A closed period names the closing that closed it, an operator's; closings are numbered from 0.
const CLOSINGS: &str = "\
SELECT format('billing period of contract %s from %s', p.contract, to_char(to_timestamp(p.start_s) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')),
       'a closing number 0 of the commit that closed it',
       CASE WHEN c.commit_id IS NULL THEN format('closed by %s, and no such closing', p.closed_by)
            ELSE format('closed by %s, and a closing of %s', coalesce(p.closed_by::text, 'nobody'), c.commit_id) END
FROM hydrometer.period AS p
LEFT JOIN hydrometer.closing AS c ON c.contract = p.contract AND c.period_s = p.start_s AND c.number = 0
WHERE p.closed_by IS DISTINCT FROM c.commit_id
UNION ALL
SELECT format('closing %s of contract %s from %s', c.number, c.contract, to_char(to_timestamp(c.period_s) AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')),
       'a billing period, a commit of kind closing, and the closing before it',
       format('%s, %s, %s', CASE WHEN p.contract IS NULL THEN 'no such period' ELSE 'the period' END,
              coalesce('a commit of kind ' || k.kind, 'no such commit'),
              CASE WHEN c.number > 0 AND b.number IS NULL THEN 'no closing before it' ELSE 'in order' END)
FROM hydrometer.closing AS c
LEFT JOIN hydrometer.period AS p ON p.contract = c.contract AND p.start_s = c.period_s
LEFT JOIN hydrometer.commit AS k ON k.id = c.commit_id
LEFT JOIN hydrometer.closing AS b ON b.contract = c.contract AND b.period_s = c.period_s AND b.number = c.number - 1
WHERE p.contract IS NULL OR k.kind IS DISTINCT FROM 'closing' OR (c.number > 0 AND b.number IS NULL)
ORDER BY 1";

/// Everything that was booked, with the commit that did it and the billing period that it is of.
macro_rules! bookings {
    () => {
        "WITH booking AS ( \
             SELECT 'step of ' || s.object AS what, k.contract, k.billing_s, s.booked_s, c.id, c.at \
             FROM hydrometer.rating_step AS s JOIN hydrometer.rating_state AS k ON k.id = s.state \
             JOIN hydrometer.object AS o ON o.name = s.object JOIN hydrometer.commit AS c ON c.id = o.commit_id \
             UNION ALL \
             SELECT d.kind || ' of ' || s.file, d.contract, d.billing_s, s.booked_s, c.id, c.at \
             FROM hydrometer.due_step AS s JOIN hydrometer.due AS d ON d.id = s.due JOIN hydrometer.commit AS c ON c.id = s.commit_id \
         ) "
    };
}

/// Bookings in a period that was closed before. A closing's row is written while it holds the period, so a commit that began after
/// that saw it; of those that began a moment earlier nothing can be told.
const BOOKED_IN_CLOSED: &str = concat!(
    bookings!(),
    "SELECT DISTINCT format('contract %s, %s, commit %s', b.contract, b.what, b.id), \
            format('not to be booked in the period from %s, which was closed at %s', to_timestamp(b.booked_s), z.at), \
            format('booked in it at %s', b.at) \
     FROM booking AS b JOIN hydrometer.closing AS z ON z.contract = b.contract AND z.period_s = b.booked_s AND z.number = 0 \
     WHERE b.at > z.at AND b.id <> z.commit_id ORDER BY 1"
);

/// Bookings in another period than their own, though that was never closed, or in one that does not follow on a closed one.
const BOOKED_ELSEWHERE: &str = concat!(
    bookings!(),
    "SELECT DISTINCT format('contract %s, %s, commit %s', b.contract, b.what, b.id), \
            format('to be booked in its own period, from %s, or, when that is closed, at the end of a closed one', to_timestamp(b.billing_s)), \
            format('booked in the period from %s', to_timestamp(b.booked_s)) \
     FROM booking AS b WHERE b.booked_s <> b.billing_s \
       AND (NOT EXISTS (SELECT FROM hydrometer.period AS p WHERE p.contract = b.contract AND p.start_s = b.billing_s AND p.closed_by IS NOT NULL) \
            OR NOT EXISTS (SELECT FROM hydrometer.period AS p WHERE p.contract = b.contract AND p.end_s = b.booked_s AND p.closed_by IS NOT NULL)) \
     ORDER BY 1"
);

#[cfg(test)]
mod tests {
    use hydrometer_rating::due::DueKind;

    use super::*;

    #[test]
    fn a_due_has_one_name_here_and_in_sql() {
        let key = DueKey {
            contract: "c-1".into(),
            renter: "r".into(),
            currency: "USD".into(),
            charge: String::new(),
            kind: DueKind::SlaCredit,
            period: 0,
            billing: 0,
            version_from: 0,
            subject: "l-1".into(),
            supplier: String::new(),
        };
        assert_eq!(show_due(&key), "sla_credit of contract c-1 of l-1 from 1970-01-01T00:00:00Z, renter r in USD");
    }
}
