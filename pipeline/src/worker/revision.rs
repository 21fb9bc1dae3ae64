//! Rounds of revisions: the derivable requests of a partition, in bounded steps, through the same protocol.

use std::sync::Arc;

use hydrometer_rating::history::Span;
use hydrometer_schemas::time::Second;

use super::round::{Prepared, Share};
use super::{Worker, WorkerError};
use crate::revise::{Plan, Revision, Sources};
use crate::source::TopicPartition;
use crate::store::commit::CommitKind;
use crate::store::lease::Lease;
use crate::store::timeline::unrated_hours;

impl Worker {
    /// Answers every request that lies behind its partition's frontier.
    pub(super) async fn revise(&mut self) -> Result<(), WorkerError> {
        let partitions: Vec<TopicPartition> = self.streams.keys().cloned().collect();
        for partition in partitions {
            self.revise_partition(&partition).await?;
        }
        Ok(())
    }

    async fn revise_partition(&mut self, partition: &TopicPartition) -> Result<(), WorkerError> {
        let Some(lease) = self.streams.get(partition).map(|s| s.lease.clone()) else { return Ok(()) };
        self.refresh_history().await?;
        let step = self.config.commit.revision_hours.max(1);
        let plan = Plan::gather(&self.db, &self.warehouse, &self.history, &self.homes, &lease, step).await?;
        if plan.is_empty() {
            return Ok(());
        }
        // A revision reads the hours' files, so they have to be there.
        self.publish(std::slice::from_ref(partition)).await?;
        let hours: Vec<Second> = plan.hours.keys().copied().collect();
        let mut done = 0;
        loop {
            let until = (done + step).min(hours.len());
            let last = until == hours.len();
            let (plan, hours) = (&plan, &hours[done..until]);
            let homes = |worker: &Worker| worker.streams.get(partition).map(|s| s.lease.homes);
            self.run_round(async |worker: &mut Worker| worker.prepare_revision(partition, plan, hours, last).await)
                .await?;
            if last || homes(self) != Some(plan.homes) {
                return Ok(());
            }
            done = until;
        }
    }

    /// Whether some of this time is on the list of what could not be rated.
    async fn mends_anything(&self, mended: &[(String, Second, Second)]) -> Result<bool, WorkerError> {
        for (server, from, to) in mended {
            let span = Span { from: *from, to: *to };
            if !unrated_hours(self.db.client_ref(), server, span).await?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn prepare_revision(
        &mut self,
        partition: &TopicPartition,
        plan: &Plan,
        hours: &[Second],
        last: bool,
    ) -> Result<Option<Prepared>, WorkerError> {
        let Some(before) = self.streams.get(partition).map(|s| s.lease.clone()) else { return Ok(None) };
        // What a home is asked for follows from the homes: when they have changed since the plan was made, another is made.
        if before.homes != plan.homes {
            return Ok(None);
        }
        let from = Sources { db: &self.db, warehouse: &self.warehouse, history: &self.history, lease: &before };
        let revision = Revision::derive(&from, plan, hours, last).await?;
        let found_something = !revision.usage.is_empty() || !revision.derived.rows.is_empty();
        if !found_something
            && revision.finished.is_empty()
            && revision.derived.unrated.is_empty()
            && !self.mends_anything(&revision.mended).await?
        {
            return Ok(None);
        }
        // A revision moves nothing but its own number: positions and frontier stay.
        let after = Lease { revision: before.revision + i32::from(found_something), ..before.clone() };
        Ok(Some(Prepared {
            kind: CommitKind::Revision,
            before: vec![before],
            after: vec![after],
            timeline_version: self.history_version,
            shares: vec![Arc::new(Share { usage: revision.usage, derived: revision.derived, ..Share::default() })],
            claims: Default::default(),
            requests: if last { plan.handed_on.clone() } else { Vec::new() },
            object_requests: Vec::new(),
            finished_requests: revision.finished,
            revised: revision.revised,
            mended: revision.mended,
            fatal: revision.fatal,
        }))
    }
}
