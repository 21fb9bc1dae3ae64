//! The ledger's outbox on a Kafka topic: every committed event at least once, none that was rolled back, and those of one subject
//! in their order.
//!
//! * [`cloud_event`]: the bytes of an event, the same whenever it is sent
//! * [`topic`]: the producer, and what the topic has to be like
//! * [`publisher`]: reads, sends, waits for the broker's word, and only then moves the position in the database
//!
//! What is sent again after a kill carries the same id and the same bytes, so a consumer knows it by its id. No kill and no
//! second publisher can change the order in which the events of one subject are first seen: each publisher begins at or before
//! the position, which lies behind nothing that the broker has not confirmed, and sends on without a gap.

pub mod cloud_event;
pub mod publisher;
pub mod topic;

use hydrometer_ledger::LedgerError;

pub use hydrometer_ledger::outbox::Claim;
pub use publisher::{Publisher, Stop};
pub use topic::TopicSettings;

#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error("cannot reach Kafka at {brokers}: {detail}. Hint: is the broker running, and is `events.brokers` right?")]
    Unreachable { brokers: String, detail: String },
    #[error("{what}: {detail}. Hint: {hint}")]
    Topic { what: String, detail: String, hint: String },
    #[error("{topic} has another publisher now: {holder} has taken over, and goes on where this one was")]
    TakenOver { topic: String, holder: String },
    #[error("{0}")]
    Connect(String),
    #[error("{0}{hint}", hint = schema_hint(.0))]
    Ledger(#[from] LedgerError),
    #[error(
        "Kafka has confirmed nothing for {seconds} s. Hint: what was not confirmed is sent again the next time, nothing is lost"
    )]
    Unconfirmed { seconds: u64 },
}

impl PublishError {
    /// A server that is away or busy: the same may go through later.
    pub fn may_pass(&self) -> bool {
        match self {
            PublishError::Unreachable { .. } | PublishError::Connect(_) => true,
            PublishError::Ledger(error) => error.is_transient(),
            _ => false,
        }
    }
}

fn schema_hint(error: &LedgerError) -> &'static str {
    let LedgerError::Database { source, .. } = error else { return "" };
    match source.code().map(|code| code.code()) {
        // Undefined table, function, column, schema.
        Some("42P01" | "42883" | "42703" | "3F000") => {
            ". Hint: is the database prepared for this version? Run `hydrometer migrate` as its owner"
        }
        _ => "",
    }
}
