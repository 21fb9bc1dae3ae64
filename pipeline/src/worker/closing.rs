//! Closings that need nobody's decision: hours of hourly commitments, used or not, and what came in after a closing.

use hydrometer_rating::history::Span;
use hydrometer_schemas::time::{SECONDS_PER_HOUR, Second, hour_floor};

use super::{Worker, WorkerError, fresh};
use crate::closing::{commits_by_the_hour, committed_hours};
use crate::protocol::Happened;
use crate::source::TopicPartition;
use crate::store::closing::{self, ClosingCommit, Job, open_requests};
use crate::store::lease::{Lease, Role};
use crate::store::period::CLOSING;

/// How many hours of one contract are closed in one commit, so that each is short.
const HOURS_MAX: i64 = 7 * 24;

pub(super) fn log() -> TopicPartition {
    TopicPartition { topic: CLOSING.into(), partition: 0 }
}

impl Worker {
    /// Closes the hours that every partition has rated, and again what changed since it was closed. The owner of the first telemetry
    /// partition does it, so that workers do not take the closings from each other.
    pub(super) async fn close_due(&mut self) -> Result<(), WorkerError> {
        if !self.streams.keys().any(|partition| partition.partition == 0) {
            return Ok(());
        }
        // Whoever closed something and stopped before its file was there left it to us.
        self.publish(std::slice::from_ref(&log())).await?;
        self.refresh_history().await?;
        while let Some((jobs, requests, until)) = self.closings_due().await? {
            if !self.close(jobs, requests, until).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// What can be closed now: jobs, the requests that they answer, and the hour until which hours are then closed.
    async fn closings_due(&mut self) -> Result<Option<(Vec<Job>, Vec<i64>, Second)>, WorkerError> {
        let leases = self.db.leases().await?;
        let frontiers =
            leases.iter().filter(|(_, role)| role == Role::Telemetry.name()).map(|(lease, _)| lease.frontier);
        let rated_until = hour_floor(frontiers.min().unwrap_or(0));
        let closed_until =
            leases.iter().find(|(lease, _)| lease.partition == log()).map_or(0, |(lease, _)| lease.frontier);

        let mut jobs = Vec::new();
        let requests = open_requests(self.db.client_ref()).await?;
        for request in &requests {
            let hours = Span { from: request.span.from, to: request.span.to.min(closed_until) };
            if hours.from < hours.to {
                jobs.push(Job::Hours { contract: request.contract.clone(), span: hours });
            }
            let periods = closing::periods(self.db.client_ref(), Some(&request.contract)).await?;
            let closed = periods.into_iter().filter(|p| p.closed && p.period.intersect(request.span).is_some());
            jobs.extend(closed.map(|p| Job::Period { contract: p.contract, period: p.period }));
        }
        let contracts = self.history.contracts().filter(|(_, versions)| versions.iter().any(commits_by_the_hour));
        let mut until = rated_until.max(closed_until);
        let mut committed = Vec::new();
        for (contract, versions) in contracts {
            let hours = committed_hours(versions, Span { from: closed_until, to: until });
            if let Some(&first) = hours.first() {
                committed.push((contract.to_owned(), first));
            }
        }
        // As far as one commit may reach, from the first hour that anybody committed to.
        if let Some(first) = committed.iter().map(|(_, first)| *first).min() {
            until = until.min(first + HOURS_MAX * SECONDS_PER_HOUR);
            let span = Span { from: closed_until, to: until };
            jobs.extend(committed.into_iter().map(|(contract, _)| Job::Hours { contract, span }));
        } else {
            until = closed_until;
        }
        let jobs = apart(jobs);
        let ids: Vec<i64> = requests.iter().map(|request| request.id).collect();
        Ok((!jobs.is_empty() || !ids.is_empty()).then_some((jobs, ids, until)))
    }

    /// Whether it was committed; if not, the next look tries again.
    async fn close(&mut self, jobs: Vec<Job>, requests: Vec<i64>, until: Second) -> Result<bool, WorkerError> {
        let log = log();
        self.db.ensure_partitions(CLOSING, Role::Internal, 1).await?;
        let Some(before) = self.db.take_over(std::slice::from_ref(&log), &self.config.worker).await?.into_iter().next()
        else {
            return Ok(false);
        };
        let attempt = fresh();
        let after = Lease {
            round: before.round + 1,
            attempt: Some(attempt),
            revision: before.revision + 1,
            frontier: before.frontier.max(until),
            ..before.clone()
        };
        let commit = ClosingCommit {
            attempt,
            worker: self.config.worker.clone(),
            before,
            after,
            timeline_version: self.history_version,
            jobs,
            decision: None,
            requests,
        };
        let ((happened, error), _) = self.db.commit_closing(&commit, &self.history).await?;
        match happened {
            Happened::Committed => {
                self.publish(std::slice::from_ref(&log)).await?;
                Ok(true)
            }
            Happened::TimelineMoved => {
                self.refresh_history().await?;
                Ok(false)
            }
            // Repeating it is harmless: what was booked is not due again.
            _ => match error {
                Some(error) => Err(error.into()),
                None => Ok(false),
            },
        }
    }
}

/// Jobs that have no hour and no period in common.
fn apart(mut jobs: Vec<Job>) -> Vec<Job> {
    jobs.sort();
    jobs.dedup();
    let mut apart: Vec<Job> = Vec::new();
    for job in jobs {
        match (apart.last_mut(), &job) {
            (Some(Job::Hours { contract: before, span: known }), Job::Hours { contract, span })
                if before == contract && span.from <= known.to =>
            {
                known.to = known.to.max(span.to)
            }
            _ => apart.push(job),
        }
    }
    apart
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_hour_is_closed_twice_in_one_commit() {
        let hours = |contract: &str, from, to| Job::Hours { contract: contract.into(), span: Span { from, to } };
        let period = |from, to| Job::Period { contract: "a".into(), period: Span { from, to } };
        let jobs =
            vec![hours("a", 5, 9), period(0, 9), hours("b", 1, 2), hours("a", 0, 6), period(0, 9), hours("a", 20, 21)];
        assert_eq!(apart(jobs), [hours("a", 0, 9), hours("a", 20, 21), hours("b", 1, 2), period(0, 9)]);
    }
}
