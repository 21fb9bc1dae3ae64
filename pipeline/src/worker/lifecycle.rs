//! Lifecycle records of one partition, on their way to the timelines.

use std::time::{Duration, Instant};

use hydrometer_schemas::MESSAGE_BYTES_MAX;
use hydrometer_schemas::lifecycle::{Event, Kind};
use hydrometer_schemas::quarantine::{Reason, Refusal};
use hydrometer_schemas::time::{FOREVER_MICROS, MICROS_PER_SECOND, Micros, hour_floor, second_of};
use hydrometer_sinks::parquet;
use hydrometer_sinks::quarantine::{QuarantineRow, to_batch};
use tokio::time::sleep;

use super::{Idle, Worker, WorkerError, explain, fresh};
use crate::failpoint;
use crate::protocol::{ATTEMPTS_MAX, Happened};
use crate::publish::StagedName;
use crate::source::{Batch, TopicPartition};
use crate::store::lease::Lease;
use crate::store::lifecycle::LifecycleCommit;
use crate::store::manifest::{Object, ObjectKind};
use crate::store::timeline::ArrivedEvent;
use crate::wallet::Folding;

pub(super) struct LifecycleStream {
    pub lease: Lease,
    /// The partition's time: the running maximum of min(event's time, log time).
    pub time: Micros,
    next: i64,
    events: Vec<ArrivedEvent>,
    quarantine: Vec<QuarantineRow>,
    pub idle: Idle,
    pub ended: bool,
}

impl LifecycleStream {
    pub fn new(lease: Lease) -> LifecycleStream {
        LifecycleStream {
            time: lease.position.time,
            next: lease.position.next,
            events: Vec::new(),
            quarantine: Vec::new(),
            idle: Idle::default(),
            ended: false,
            lease,
        }
    }

    pub fn take(&mut self, batch: &Batch) {
        self.idle.record();
        for record in &batch.records {
            let payload = batch.payload(record);
            let parsed = if payload.len() > MESSAGE_BYTES_MAX {
                Err(Refusal::new(Reason::TooLarge, format!("{} bytes, at most {MESSAGE_BYTES_MAX}", payload.len())))
            } else {
                Event::parse(payload)
            };
            match parsed {
                Ok(mut event) => {
                    let passed = second_of(self.time);
                    if let Kind::WalletGranted(grant) = &mut event.kind {
                        // It pays for nothing that had passed before it came, wherever the log is cut.
                        grant.counts_from = Some(event.key.time.max(passed));
                    }
                    self.time = self.time.max((event.key.time * MICROS_PER_SECOND).min(record.log_time));
                    let (partition, offset) = (batch.partition.clone(), record.offset);
                    self.events.push(ArrivedEvent { event, partition, offset, passed });
                }
                Err(refusal) => self.quarantine.push(QuarantineRow {
                    topic: batch.partition.topic.clone(),
                    partition: batch.partition.partition,
                    offset: record.offset,
                    log_time: record.log_time,
                    reason: refusal.reason.name().to_owned(),
                    detail: refusal.detail,
                    raw: payload.to_vec(),
                }),
            }
        }
        self.next = self.next.max(batch.next);
    }

    pub fn caught_up(&mut self, next: i64, at: Instant) {
        self.idle.caught_up = Some(at);
        self.next = self.next.max(next);
    }

    pub fn end(&mut self) {
        self.ended = true;
        self.time = FOREVER_MICROS;
    }

    fn is_dirty(&self) -> bool {
        !self.events.is_empty()
            || !self.quarantine.is_empty()
            || self.next != self.lease.position.next
            // Time alone is worth a commit when a minute has passed.
            || self.time.div_euclid(60 * MICROS_PER_SECOND) != self.lease.position.time.div_euclid(60 * MICROS_PER_SECOND)
    }
}

impl Worker {
    /// Commits what the lifecycle partitions of this worker have, before any rating is derived from it.
    pub(super) async fn commit_lifecycles(&mut self) -> Result<(), WorkerError> {
        let dirty: Vec<TopicPartition> =
            self.lifecycles.iter().filter(|(_, l)| l.is_dirty()).map(|(p, _)| p.clone()).collect();
        for partition in dirty {
            self.commit_lifecycle(&partition).await?;
        }
        Ok(())
    }

    async fn commit_lifecycle(&mut self, partition: &TopicPartition) -> Result<(), WorkerError> {
        let mut last = String::new();
        for _ in 0..ATTEMPTS_MAX {
            if self.history_version == 0 {
                self.refresh_history().await?;
            }
            let Some(stream) = self.lifecycles.get(partition) else { return Ok(()) };
            let attempt = fresh();
            let mut after = stream.lease.clone();
            after.round += 1;
            after.attempt = Some(attempt);
            after.position.next = stream.next;
            after.position.replay_from = stream.next;
            after.position.time = stream.time;
            let quarantined = stream.quarantine.len() as u64;
            let commit = LifecycleCommit {
                attempt,
                worker: self.config.worker.clone(),
                before: stream.lease.clone(),
                after: after.clone(),
                timeline_version: self.history_version,
                events: stream.events.clone(),
                quarantine: self.stage_quarantine(stream, attempt).await?,
                command: None,
                operation: None,
                watches_wallets: self.history.burned_wallets().next().is_some(),
            };
            let mut new_version = self.history_version;
            let mut folding =
                Folding { history: &mut self.history, purses: &mut self.purses, version: &mut new_version };
            let outcome = self.db.commit_lifecycle(&commit, &mut folding).await;
            let (happened, error) = match outcome {
                Ok(outcome) => outcome,
                Err(error) => {
                    self.forget_history();
                    return Err(error.into());
                }
            };
            last = explain(happened, error.as_ref());
            let happened = match happened {
                Happened::ReplyLost => self.settle(attempt, &commit.before).await?,
                other => other,
            };
            self.note_finished(attempt, happened);
            let committed = match happened {
                Happened::Committed | Happened::SettledCommitted => true,
                Happened::FenceLost | Happened::SettledForeign => {
                    return Err(WorkerError::Fenced { partitions: partition.to_string() });
                }
                Happened::SettledNotCommitted => false,
                Happened::BrokeBeforeCommit => {
                    tracing::warn!(%last, "the database went away in the middle of a commit; connecting again");
                    self.db.reconnect().await?;
                    false
                }
                _ => {
                    sleep(Duration::from_millis(50)).await;
                    false
                }
            };
            if !committed {
                self.forget_history();
                continue;
            }
            self.history_version = new_version;
            self.summary.commits += 1;
            self.closed_counts.quarantined += quarantined;
            if let Some(stream) = self.lifecycles.get_mut(partition) {
                stream.lease = after;
                stream.events.clear();
                stream.quarantine.clear();
            }
            if quarantined > 0 {
                self.publish(std::slice::from_ref(partition)).await?;
            }
            return Ok(());
        }
        Err(WorkerError::GaveUp { attempts: ATTEMPTS_MAX, last })
    }

    async fn stage_quarantine(
        &self,
        stream: &LifecycleStream,
        attempt: uuid::Uuid,
    ) -> Result<Option<(Object, i64)>, WorkerError> {
        let (Some(first), Some(last)) = (stream.quarantine.first(), stream.quarantine.last()) else { return Ok(None) };
        let name = StagedName {
            attempt: attempt.to_string(),
            partition: stream.lease.partition.clone(),
            epoch: stream.lease.epoch,
        }
        .write(ObjectKind::Quarantine, None);
        let schema = hydrometer_schemas::warehouse::QUARANTINE.clone();
        let bytes = parquet::encode(&name, schema, &to_batch(&stream.quarantine)?, stream.lease.epoch)?;
        failpoint::pass("stage.lifecycle.before");
        let staged = self.warehouse.stage(&name, bytes).await?;
        failpoint::pass("stage.lifecycle.object");
        let object = Object {
            name,
            kind: ObjectKind::Quarantine,
            partition: stream.lease.partition.clone(),
            hour: None,
            from: second_of(first.log_time),
            to: second_of(last.log_time) + 1,
            rows: stream.quarantine.len() as i64,
            bytes: staged.bytes as i64,
            sha256: staged.sha256,
        };
        let hour = hour_floor(object.from);
        Ok(Some((object, hour)))
    }
}
