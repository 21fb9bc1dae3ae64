//! The proof of every law on the data of a deployment, live or not: one snapshot of Postgres and the files that it names.
//!
//! Everything is worked out again from what lies underneath it (the events, the metered masks, the quantities, the steps) and held
//! against what was said. What does not hold is named, row by row. What waits for work that is known to be owed (an open request)
//! is counted as pending: it is no violation, and no proof either.
//!
//! * [`history`]: verdicts against a fresh fold of all events
//! * [`commits`]: partition leases and all rows against the commits that moved or wrote them (law 8)
//! * [`manifest`]: staged objects and published files against the store
//! * [`hours`]: walks the files hour by hour, each read once; [`usage`], [`rated`], [`lease_time`] judge their rows
//! * [`money`]: records, steps, cells and postings against each other
//! * [`dues`]: closings, and what falls due in them
//! * [`wallets`]: what prepaid contracts used, and what their wallets paid

mod commits;
mod dues;
mod facts;
mod history;
mod hours;
mod lease_time;
mod lists;
mod manifest;
mod money;
mod quarantine;
mod rated;
mod read;
mod report;
mod usage;
mod wallets;
mod xids;

use hydrometer_ledger::LedgerError;
use hydrometer_ledger::anchor::Anchor;
use hydrometer_pipeline::store::{Database, StoreError};
use hydrometer_sinks::{SinkError, Warehouse};

pub use report::{Check, List, Report, Violation};

/// Why no answer could be given (as against the answer no).
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error("{0}")]
    Ledger(#[from] LedgerError),
    #[error("the database refused while {doing}: {detail}")]
    Database { doing: &'static str, detail: String },
}

/// How far the proof is: which check, and how much of it.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    pub check: &'static str,
    pub done: usize,
    pub of: usize,
}

pub type Tell<'a> = &'a mut (dyn FnMut(Progress) + Send);

/// Proves every law on what `database_url` and the warehouse hold, on a connection of its own. Nothing is written.
///
/// `anchors` are of the ledger's chain, kept elsewhere.
pub async fn verify(
    database_url: &str,
    warehouse: &Warehouse,
    anchors: &[Anchor],
    tell: Tell<'_>,
) -> Result<Report, VerifyError> {
    // Listed before the snapshot: a file has its row before it is written, so the snapshot knows whatever is listed here.
    tell(Progress { check: "listing the warehouse", done: 0, of: 1 });
    let listed = manifest::list(warehouse).await?;
    let db = Database::connect(database_url).await?;
    db.client_ref()
        .batch_execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; \
             SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0",
        )
        .await
        .map_err(database("taking a snapshot"))?;
    let mut report = Report::default();

    let history = history::check(&db, &mut report).await?;
    let facts = facts::Facts::load(&db, history).await?;
    commits::check(&db, &mut report).await?;
    let missing = manifest::check(&facts, warehouse, &listed, &mut report, tell).await?;
    let sums = hours::check(&db, warehouse, &facts, &mut report, tell).await?;
    tell(Progress { check: "money", done: 0, of: 1 });
    money::check(&db, &facts.history, sums, &mut report).await?;
    dues::check(&db, &facts, &mut report).await?;
    wallets::check(&db, &facts.history, &mut report).await?;
    ledger(&db, anchors, &mut report, tell).await?;
    lists::add(&db, &mut report).await?;

    // Out of the snapshot: an object that was retired and swept meanwhile is not missing.
    db.client_ref().batch_execute("COMMIT").await.map_err(database("leaving the snapshot"))?;
    manifest::settle_missing(&db, missing, &mut report).await?;
    Ok(report)
}

/// Laws 6 and 7, as the ledger itself proves them.
async fn ledger(db: &Database, anchors: &[Anchor], report: &mut Report, tell: Tell<'_>) -> Result<(), VerifyError> {
    let counts = db
        .client_ref()
        .query_one("SELECT (SELECT count(*) FROM ledger.transaction), (SELECT count(*) FROM ledger.transfer)", &[])
        .await
        .map_err(database("counting transactions"))?;
    let mut progress = |at: hydrometer_ledger::Progress| {
        tell(Progress { check: "ledger", done: at.done.max(0) as usize, of: at.of.max(0) as usize });
    };
    let findings = hydrometer_ledger::verify_with(db.client_ref(), anchors, &mut progress).await?;
    let check = report.check("ledger");
    check.count("transactions", counts.get::<_, i64>(0) as u64);
    check.count("transfers", counts.get::<_, i64>(1) as u64);
    check.count("anchors given", anchors.len() as u64);
    for violation in findings.violations {
        check.violation(violation.subject, violation.law, violation.detail);
    }
    Ok(())
}

/// Attaches what was being done to a database error.
fn database(doing: &'static str) -> impl Fn(tokio_postgres::Error) -> VerifyError {
    move |error| {
        let detail = error.as_db_error().map_or_else(|| error.to_string(), |db| db.message().to_owned());
        VerifyError::Database { doing, detail }
    }
}
