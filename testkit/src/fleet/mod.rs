//! A fleet of leased GPU servers, simulated from a seed: what it says, how that arrives, and what is true.
//!
//! ```text
//! Plan ─▶ Scenario (servers, GPUs, leases, events) ─▶ exporter, second by second ─▶ oracle
//!                                                          └▶ arrival (batches, delays, copies) ─▶ records
//! ```
//! `seed` decides what is emitted and so what is true; `shuffle_seed`, the partitions and the formats decide only
//! how it arrives. Two plans that differ in these alone have the same truth, but for money that a wallet is told of too late: it counts
//! from when it arrives.

mod arrival;
mod contracts;
mod event;
mod exporter;
mod faults;
mod kafka;
mod leases;
mod logs;
mod packer;
mod random;
mod reading;
mod scenario;
mod time;
mod wallets;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

pub use arrival::generate;
pub use event::{
    Event, EventKind, GPU_HOURS, Grant, GrantKind, OnExpiry, Party, Prepaid, RatingWindow, SimpleContract,
};
pub use faults::{Fault, Faults, Tally};
pub use kafka::{Compression, KafkaOptions, write_kafka};
pub use logs::{LogOptions, LogReader, LogWriter, write_logs, write_truth};
pub(crate) use time::rfc3339;
pub use wallets::{CAST_RENTERS, CAST_SERVERS, Wallets};

use crate::oracle::{OracleError, Truth};
use random::Random;

/// What to simulate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Decides what is emitted.
    pub seed: u64,
    /// Decides how it arrives.
    pub shuffle_seed: u64,
    /// First second of event time, in microseconds, second-aligned.
    pub start_us: i64,
    /// Seconds of event time; every GPU is read once a second.
    pub seconds: u32,
    pub servers: u32,
    pub gpus_per_server: u32,
    pub renters: u32,
    pub suppliers: u32,
    pub telemetry_partitions: u32,
    pub lifecycle_partitions: u32,
    pub formats: Formats,
    /// The most by which disorder delays a message, in microseconds.
    pub disorder_us: i64,
    /// What a late message must exceed, in microseconds.
    pub lateness_us: i64,
    pub faults: Faults,
    #[serde(default)]
    pub contracts: Contracts,
    #[serde(default)]
    pub wallets: Wallets,
}

/// What the renters sign.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contracts {
    /// A price per allocated GPU-hour and a share for every supplier ([`SimpleContract`]).
    #[default]
    Simple,
    /// Anything that [`hydrometer_oracle`] can work out; billing periods begin in this zone.
    Random { time_zone: String },
}

/// Which shapes of message the servers send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Formats {
    /// Each server its own, most of them node batches.
    Mixed,
    Only(Format),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A message per reading.
    Single,
    /// An array of readings, of one second or a few.
    Array,
    /// A node batch of one second.
    Node,
    /// A node batch of several seconds.
    NodeSeconds,
}

/// 2026-03-01T10:00:00Z
const DEMO_START_US: i64 = 1_772_359_200_000_000;
/// 2026-03-31T23:00:00Z, an hour before a month's edge.
const MONTH_END_US: i64 = 1_774_998_000_000_000;

impl Plan {
    /// The fleet of the demo: 1,000 GPUs over two hours, some 7 million readings, every fault.
    pub fn demo() -> Self {
        Plan {
            seed: 1,
            shuffle_seed: 1,
            start_us: DEMO_START_US,
            seconds: 7200,
            servers: 125,
            gpus_per_server: 8,
            renters: 12,
            suppliers: 3,
            telemetry_partitions: 4,
            lifecycle_partitions: 1,
            formats: Formats::Mixed,
            disorder_us: 20 * time::SECOND_US,
            lateness_us: 120 * time::SECOND_US,
            faults: Faults::all(),
            contracts: Contracts::Simple,
            wallets: Wallets::Cast,
        }
    }

    /// A random fleet of a few GPUs over 10 to 80 minutes, often across an hour's edge and at times across a
    /// month's, with every fault at a high rate.
    pub fn small(seed: u64) -> Self {
        let mut random = Random::new(seed, random_streams::PLAN, 0);
        let hour_us = random.pick(&[DEMO_START_US, DEMO_START_US, DEMO_START_US, MONTH_END_US]);
        Plan {
            seed,
            shuffle_seed: seed,
            start_us: hour_us + random.between(0, 3600) * time::SECOND_US,
            seconds: random.between(600, 4801) as u32,
            servers: random.between(1, 7) as u32,
            gpus_per_server: random.between(1, 5) as u32,
            renters: random.between(1, 4) as u32,
            suppliers: random.between(1, 4) as u32,
            telemetry_partitions: random.between(1, 5) as u32,
            lifecycle_partitions: 1,
            faults: Faults::frequent(),
            wallets: Wallets::Nobody,
            ..Plan::demo()
        }
    }

    /// A random fleet under random contracts, over the end of a month in one of three zones, so that a billing period can be closed.
    pub fn of_contracts(seed: u64) -> Self {
        let mut random = Random::new(seed, random_streams::PLAN, 2);
        // The first second of April 2026 there.
        let (time_zone, april) = random.pick(&[
            ("UTC", 1_775_001_600),
            ("America/Los_Angeles", 1_775_026_800),
            ("Asia/Kolkata", 1_774_981_800),
        ]);
        let before = random.between(300, 2_400);
        Plan {
            start_us: (april - before) * time::SECOND_US,
            seconds: (before + random.between(120, 1_500)) as u32,
            servers: random.between(1, 4) as u32,
            gpus_per_server: random.between(1, 4) as u32,
            contracts: Contracts::Random { time_zone: time_zone.to_owned() },
            ..Plan::small(seed)
        }
    }

    /// A random fleet, most of it leased by renters who pay in advance.
    pub fn of_wallets(seed: u64) -> Self {
        let mut random = Random::new(seed, random_streams::PLAN, 3);
        Plan {
            servers: random.between(2, 7) as u32,
            gpus_per_server: random.between(1, 4) as u32,
            wallets: Wallets::Random,
            ..Plan::small(seed)
        }
    }

    /// Another arrival of what this plan emits: order, delays, copies, batches, partitions.
    #[must_use]
    pub fn shuffled(&self, shuffle_seed: u64) -> Self {
        let mut random = Random::new(shuffle_seed, random_streams::PLAN, 1);
        Plan {
            shuffle_seed,
            telemetry_partitions: random.between(1, 6) as u32,
            lifecycle_partitions: random.between(1, 3) as u32,
            disorder_us: random.between(1, 60) * time::SECOND_US,
            ..self.clone()
        }
    }

    /// The end of event time, in microseconds: no lease goes beyond it.
    pub fn end_us(&self) -> i64 {
        self.start_us + i64::from(self.seconds) * time::SECOND_US
    }

    pub fn check(&self) -> Result<(), FleetError> {
        let problem = if self.start_us % time::SECOND_US != 0 {
            "start_us is not a whole second"
        } else if self.seconds < 60 {
            "seconds is below 60"
        } else if self.servers == 0 || self.renters == 0 || self.suppliers == 0 {
            "a fleet needs at least a server, a renter and a supplier"
        } else if self.gpus_per_server == 0 || self.gpus_per_server > 64 {
            "gpus_per_server is not within 1 to 64"
        } else if self.telemetry_partitions == 0 || self.lifecycle_partitions == 0 {
            "a topic needs at least a partition"
        } else if self.disorder_us < 0 || self.lateness_us < 0 {
            "disorder_us or lateness_us is negative"
        } else if self.wallets == Wallets::Cast && self.servers <= CAST_SERVERS {
            "the cast of those who pay in advance needs more than 6 servers"
        } else if self.wallets != Wallets::Nobody && self.contracts != Contracts::Simple {
            "those who pay in advance sign simple contracts, and so must the others"
        } else {
            return Ok(());
        };
        Err(FleetError::Plan(problem))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    Telemetry,
    Lifecycle,
}

impl Topic {
    pub const fn name(self) -> &'static str {
        match self {
            Topic::Telemetry => "gpu.telemetry",
            Topic::Lifecycle => "gpu.lifecycle",
        }
    }
}

/// One message on its way. Records come in the order of their log time, over all topics and partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub topic: Topic,
    pub partition: u32,
    pub log_time_us: i64,
    pub key: Vec<u8>,
    pub payload: Vec<u8>,
    /// How many sound readings it holds; not part of the message.
    pub readings: u32,
}

/// What a run emitted and what is true of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    pub truth: Truth,
    pub tally: Tally,
}

/// How far a writer has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    pub records: u64,
    pub readings: u64,
    pub log_time_us: i64,
}

/// Records between two calls of a progress callback.
const PROGRESS_STEP: u64 = 16_384;

impl Progress {
    fn advance(&mut self, record: &Record, report: &mut dyn FnMut(Progress)) {
        self.records += 1;
        self.readings += u64::from(record.readings);
        self.log_time_us = record.log_time_us;
        if self.records.is_multiple_of(PROGRESS_STEP) {
            report(*self);
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error("the plan cannot be simulated: {0}")]
    Plan(&'static str),
    #[error("cannot write {path}: {source}")]
    Write { path: std::path::PathBuf, source: std::io::Error },
    #[error("cannot read {path}: {source}")]
    Read { path: std::path::PathBuf, source: std::io::Error },
    #[error("{path}, line {line}: {problem}")]
    Line { path: std::path::PathBuf, line: u64, problem: &'static str },
    #[error("cannot send to Kafka: {0}")]
    Kafka(#[from] rdkafka::error::KafkaError),
    #[error("{count} messages were not delivered; the first one: {first}")]
    Undelivered { count: u64, first: String },
    #[error(transparent)]
    Oracle(#[from] OracleError),
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Names of the independent random streams under a seed.
mod random_streams {
    pub(crate) const PLAN: u64 = 1;
    pub(crate) const SCENARIO: u64 = 2;
    pub(crate) const SERVER: u64 = 3;
    pub(crate) const EXPORTER: u64 = 4;
    pub(crate) const ARRIVAL: u64 = 5;
    pub(crate) const EVENT_ARRIVAL: u64 = 6;
    pub(crate) const IDENTITY: u64 = 7;
    pub(crate) const WALLETS: u64 = 8;
}
