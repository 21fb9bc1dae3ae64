//! Partitions that come and go: what a worker takes over, what it opens for it, and what it gives up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hydrometer_rating::history::ServerTimeline;
use hydrometer_schemas::time::{MICROS_PER_SECOND, hour_floor};
use tokio::sync::oneshot;

use super::{Stream, Worker, WorkerError, homes, lifecycle};
use crate::evidence::Evidence;
use crate::failpoint;
use crate::meter::Meter;
use crate::publish::{look_back, usage_rows};
use crate::source::{SourceEvent, Start, TopicPartition};
use crate::store::lease::{Lease, Role};
use crate::store::xid::fatal_xids;
use crate::store::{home, manifest};
use crate::window::{Cut, PartitionWindow, WindowLimits};

impl Worker {
    /// What is returned is to be answered when the round that may be due now is over.
    pub(super) async fn take(&mut self, event: SourceEvent) -> Result<Option<oneshot::Sender<()>>, WorkerError> {
        match event {
            SourceEvent::Assigned(partitions, reply) => {
                self.take_delivered_lifecycle();
                // A rebalance does not wait for a database that is away, but this worker does.
                let mut refusals = 0;
                let starts = loop {
                    match self.assigned(&partitions).await {
                        Ok(starts) => break starts,
                        Err(error) => self.outlive(error, &mut refusals).await?,
                    }
                };
                let _ = reply.send(starts);
            }
            SourceEvent::Revoked(partitions, reply) => {
                self.take_delivered_lifecycle();
                let drain = Duration::from_secs(self.config.commit.drain_s);
                match tokio::time::timeout(drain, self.work(true)).await {
                    Ok(Ok(())) => {}
                    // Whoever gets the partitions reads again what was not committed.
                    Ok(Err(error)) => tracing::warn!(%error, "could not commit before handing partitions over"),
                    Err(_) => {
                        tracing::warn!("could not commit within the drain time");
                        // A transaction was broken off; whether its events count is for the database to say.
                        self.forget_history();
                    }
                }
                self.discard(&partitions);
                let _ = reply.send(());
            }
            SourceEvent::Lost(partitions, reply) => {
                self.take_delivered_lifecycle();
                self.discard(&partitions);
                let _ = reply.send(());
            }
            SourceEvent::Step(reply) => return Ok(Some(reply)),
        }
        Ok(None)
    }

    async fn assigned(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Start>, WorkerError> {
        self.register(partitions).await?;
        let leases = self.db.take_over(partitions, &self.config.worker).await?;
        self.homes = home::homes(self.db.client_ref()).await?;
        self.refresh_history().await?;
        let mut starts = Vec::new();
        for lease in leases {
            let partition = lease.partition.clone();
            if *partition.topic == *self.config.topics.lifecycle {
                let offset = start_of(&lease, lease.position.next);
                starts.push(Start { partition: partition.clone(), offset, deliver_to: self.lifecycle_sender.clone() });
                self.lifecycles.insert(partition, lifecycle::LifecycleStream::new(lease));
                continue;
            }
            let offset = start_of(&lease, lease.position.replay_from);
            let stream = self.open_stream(lease).await?;
            starts.push(Start { partition: partition.clone(), offset, deliver_to: stream.meter.deliveries() });
            self.streams.insert(partition, stream);
        }
        failpoint::pass("take_over.read");
        // What the former owner still owed is ours to publish.
        self.publish(partitions).await?;
        Ok(starts)
    }

    /// Partitions may be added to a topic while workers run; they are known from their first assignment on.
    async fn register(&mut self, partitions: &[TopicPartition]) -> Result<(), WorkerError> {
        let mut counts: BTreeMap<Arc<str>, i32> = BTreeMap::new();
        for partition in partitions {
            let count = counts.entry(partition.topic.clone()).or_default();
            *count = (*count).max(partition.partition + 1);
        }
        for (topic, count) in counts {
            let lifecycle = *topic == *self.config.topics.lifecycle;
            self.db.ensure_partitions(&topic, if lifecycle { Role::Lifecycle } else { Role::Telemetry }, count).await?;
            if !lifecycle {
                self.telemetry_partitions = self.telemetry_partitions.max(count);
            }
        }
        Ok(())
    }

    async fn open_stream(&mut self, lease: Lease) -> Result<Stream, WorkerError> {
        let from = hour_floor(lease.frontier);
        let mut evidence = Evidence::since(from);
        let mut listening = homes::Listening::from(from);
        for object in manifest::evidence_objects(self.db.client_ref(), &lease.partition, from).await? {
            for row in usage_rows(&self.warehouse, &object).await? {
                evidence.add(&row);
                listening.hear(&row);
            }
        }
        let (history, homes) = (&self.history, &self.homes);
        let here = |server: &&ServerTimeline| homes.spans(&server.server).any(|(_, home)| *home == lease.partition);
        let servers: Vec<&ServerTimeline> = history.servers().filter(here).collect();
        look_back(&self.db, &self.warehouse, &lease.partition, from, servers.iter().copied(), &mut evidence).await?;
        let names = servers.iter().map(|server| server.server.as_str());
        for xid in fatal_xids(self.db.client_ref(), names).await? {
            evidence.add_fatal(&xid);
        }
        let limits = WindowLimits {
            lateness: i64::from(self.config.windows.lateness_s) * MICROS_PER_SECOND,
            vouches_for: i64::from(self.config.windows.vouches_for_s),
            identities: self.config.limits.identities_per_partition,
        };
        let window = PartitionWindow::open(lease.partition.clone(), lease.position, limits, self.aggregates.clone())?;
        let cut_at = lease.position;
        let meter = Meter::start(window, self.progressed.clone())?;
        Ok(Stream { meter, lease, evidence, listening, cut: Cut::default(), cut_at })
    }

    fn discard(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            if let Some(stream) = self.streams.remove(partition) {
                let counts = stream.meter.standing().counts;
                self.closed_counts.records += counts.records;
                self.closed_counts.readings += counts.readings;
                self.closed_counts.late += counts.late;
                self.closed_counts.quarantined += counts.quarantined;
                self.closed_counts.replayed += counts.replayed;
            }
            self.lifecycles.remove(partition);
        }
    }
}

/// Where to read on: at `offset`, or at the log's beginning (wherever that is by now) when no record was ever handled.
fn start_of(lease: &Lease, offset: i64) -> Option<i64> {
    (lease.position.next > 0).then_some(offset)
}
