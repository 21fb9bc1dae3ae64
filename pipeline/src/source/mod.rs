//! Where records come from: partitioned logs with offsets and log times.
//!
//! Two implementations of one trait: [`kafka`], the real thing, and [`files`], a directory of partition logs, which has an end.
//! Everything behind the trait is the same for both, the commit protocol included. Each reads on threads of its own. What concerns the
//! worker ([`SourceEvent`]) goes to the worker; records go straight to where the worker said when a partition was assigned
//! ([`Start::deliver_to`]), so that metering goes on while a round is committed, as far as the bounded channels let it.

pub mod files;
pub mod kafka;

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use hydrometer_schemas::time::{Micros, Second};
use tokio::sync::{mpsc, oneshot};

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    pub topic: Arc<str>,
    pub partition: i32,
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// Where a record's payload lies in its batch, and where it came from.
#[derive(Debug, Clone, Copy)]
pub struct RecordMeta {
    pub offset: i64,
    pub log_time: Micros,
    pub start: usize,
    pub end: usize,
}

/// Consecutive records of one partition; the payloads lie one after another in one buffer.
#[derive(Debug)]
pub struct Batch {
    pub partition: TopicPartition,
    pub records: Vec<RecordMeta>,
    pub bytes: Vec<u8>,
    /// The offset after the last record.
    pub next: i64,
}

impl Batch {
    pub fn new(partition: TopicPartition) -> Batch {
        Batch { partition, records: Vec::new(), bytes: Vec::new(), next: 0 }
    }

    /// An empty one with room for as much.
    pub fn as_roomy_as(other: &Batch) -> Batch {
        let records = Vec::with_capacity(other.records.len());
        let bytes = Vec::with_capacity(other.bytes.len() + other.bytes.len() / 8);
        Batch { partition: other.partition.clone(), records, bytes, next: 0 }
    }

    pub fn payload(&self, record: &RecordMeta) -> &[u8] {
        &self.bytes[record.start..record.end]
    }

    pub fn push(&mut self, offset: i64, log_time: Micros, payload: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(payload);
        self.records.push(RecordMeta { offset, log_time, start, end: self.bytes.len() });
        self.next = offset + 1;
    }
}

/// Where reading a partition starts and where its records go.
#[derive(Debug)]
pub struct Start {
    pub partition: TopicPartition,
    /// `None` is the log's beginning (nothing was ever handled).
    pub offset: Option<i64>,
    pub deliver_to: mpsc::Sender<Delivery>,
}

/// What a partition's log holds, in its order.
#[derive(Debug)]
pub enum Delivery {
    Batch(Batch),
    /// The partition is at its high watermark; the offset also counts past transaction markers. Said when it gets there, and again
    /// every second or so for as long as the log's keeper answers that nothing has come since; with the time at which it was so.
    CaughtUp(TopicPartition, i64, Instant),
    /// The partition's log has ended for good.
    Ended(TopicPartition),
    /// Answered when everything before it was taken.
    Passed(oneshot::Sender<()>),
}

#[derive(Debug)]
pub enum SourceEvent {
    /// Partitions are ours from now on; the answer says where to start.
    Assigned(Vec<TopicPartition>, oneshot::Sender<Vec<Start>>),
    /// Partitions go to somebody else once this is answered: commit what can be committed.
    Revoked(Vec<TopicPartition>, oneshot::Sender<()>),
    /// Partitions are somebody else's already: discard.
    Lost(Vec<TopicPartition>, oneshot::Sender<()>),
    /// Of a source in lockstep: everything delivered was taken, and nothing more is until the round that may be due now is over.
    Step(oneshot::Sender<()>),
}

#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("{what}: {detail}. Hint: {hint}")]
    Failed { what: String, detail: String, hint: String },
}

impl SourceError {
    pub(crate) fn new(what: impl Into<String>, detail: impl fmt::Display, hint: impl Into<String>) -> SourceError {
        SourceError::Failed { what: what.into(), detail: detail.to_string(), hint: hint.into() }
    }
}

#[async_trait]
pub trait Source: Send {
    /// How many partitions each topic has: (topic, count).
    fn partitions(&self) -> Vec<(Arc<str>, i32)>;

    /// The next event; `None` when the source was stopped.
    async fn next(&mut self) -> Option<Result<SourceEvent, SourceError>>;

    /// Tells the source what was committed (Kafka: for lag dashboards only).
    fn committed(&mut self, positions: &[(TopicPartition, i64)]);

    /// For a log that has an end: the second up to which leases that are still open are rated.
    fn horizon(&self) -> Option<Second>;

    /// Asks to stop: revokes what is assigned and ends.
    fn stop(&mut self);
}
