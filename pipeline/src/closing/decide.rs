//! Closing a billing period for the first time: somebody decides it, and what stood against it is on record.

use hydrometer_rating::history::{History, Span};
use hydrometer_schemas::time::Second;
use hydrometer_sinks::Warehouse;
use uuid::Uuid;

use crate::protocol::Happened;
use crate::publish::publish_owed;
use crate::source::TopicPartition;
use crate::store::Database;
use crate::store::against::{Reason, against};
use crate::store::closing::{ClosingCommit, Decision, DueStep, Job, periods};
use crate::store::lease::{Lease, Role, Settled};
use crate::store::lifecycle::Command;
use crate::store::period::CLOSING;
use crate::store::timeline::events_since;
use crate::worker::WorkerError;

/// What came of it.
#[derive(Debug)]
pub enum Closed {
    /// What fell due.
    Now(Vec<DueStep>),
    /// It was closed before: nothing changes.
    Before,
    /// What stands against it and was not accepted.
    Refused(Vec<Reason>),
}

/// How often a closing is derived again because something came in between.
const ATTEMPTS_MAX: u32 = 5;

/// Closes a contract's billing period. `accept` is why it is closed over what stands against it.
pub async fn close_period(
    db: &mut Database,
    warehouse: &Warehouse,
    contract: &str,
    period: Span,
    who: &str,
    accept: Option<&str>,
) -> Result<Closed, WorkerError> {
    let log = TopicPartition { topic: CLOSING.into(), partition: 0 };
    db.ensure_partitions(CLOSING, Role::Internal, 1).await?;
    let mut last = String::new();
    for _ in 0..ATTEMPTS_MAX {
        let known = periods(db.client_ref(), Some(contract)).await?;
        if known.iter().any(|row| row.period == period && row.closed) {
            return Ok(Closed::Before);
        }
        let (version, events) = events_since(db.client_ref(), -1).await?;
        let mut history = History::default();
        history.insert(events);
        let reasons = against(db.client_ref(), &history, contract, period).await?;
        if reasons.iter().any(|reason| !reason.acceptable) || (!reasons.is_empty() && accept.is_none()) {
            return Ok(Closed::Refused(reasons));
        }
        let leases = db.take_over(std::slice::from_ref(&log), who).await?;
        let Some(before) = leases.into_iter().next() else { continue };
        let attempt = Uuid::new_v4();
        let after =
            Lease { round: before.round + 1, attempt: Some(attempt), revision: before.revision + 1, ..before.clone() };
        let command = Command { name: "period close", who: who.to_owned(), why: accept.unwrap_or("").to_owned() };
        let commit = ClosingCommit {
            attempt,
            worker: who.to_owned(),
            before: before.clone(),
            after,
            timeline_version: version,
            jobs: vec![Job::Period { contract: contract.to_owned(), period }],
            decision: Some(Decision { command, accepted: reasons.into_iter().map(|reason| reason.what).collect() }),
            requests: Vec::new(),
        };
        let ((happened, error), steps) = db.commit_closing(&commit, &history).await?;
        let committed = match happened {
            Happened::Committed => true,
            Happened::ReplyLost => db.settle(attempt, &log, before.epoch).await? == Settled::Committed,
            _ => false,
        };
        if committed {
            publish_owed(db, warehouse, std::slice::from_ref(&log)).await?;
            return Ok(Closed::Now(steps));
        }
        last = error.map_or_else(|| format!("{happened:?}"), |error| error.to_string());
    }
    Err(WorkerError::GaveUp { attempts: ATTEMPTS_MAX, last })
}

/// A contract's billing period that holds a second, by the calendar of the version in force then.
pub fn period_at(history: &History, contract: &str, second: Second) -> Option<Span> {
    let versions = history.versions(contract);
    let in_force = versions.iter().find(|v| v.span.from <= second && second < v.span.to).or(versions.last());
    in_force.map(|version| version.terms.calendar.period_of(second))
}
