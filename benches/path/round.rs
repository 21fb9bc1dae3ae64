//! One round: the bare drain of a topic, and the worker on the same topic, each a process of its own whose CPU time the kernel counts.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hydrometer_pipeline::store::Database;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rustix::process::{Pid, Signal, kill_process};

use crate::fleet::{Failure, PARTITIONS};

/// In what the kernel counts CPU time in /proc: USER_HZ, which is 100 on every Linux there is.
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process used between two looks at it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    pub wall_s: f64,
    pub cpu_s: f64,
}

/// The CPU time of a process so far, user and system, in seconds.
pub fn cpu_seconds(pid: u32) -> f64 {
    own_and_ended_children(&pid.to_string()).0
}

/// User and system time of a process itself, and of its children that have ended and were waited for, in seconds.
fn own_and_ended_children(pid: &str) -> (f64, f64) {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold spaces.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let seconds = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0) / TICKS_PER_SECOND;
    (seconds(11) + seconds(12), seconds(13) + seconds(14))
}

/// A process and its children: the servers of PostgreSQL are many.
pub fn cpu_seconds_of_family(pid: u32) -> f64 {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let living: f64 = children.split_whitespace().filter_map(|c| c.parse().ok()).map(cpu_seconds).sum();
    let (own, ended) = own_and_ended_children(&pid.to_string());
    own + ended + living
}

/// The most memory that a process ever had, in bytes.
fn peak_rss_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").trim().parse::<u64>().ok()).unwrap_or(0) * 1_024
}

/// Reads a topic to its end with librdkafka and does nothing with it; prints wall time and messages. Run as a process of its own.
pub fn drain(brokers: &str, topic: &str) -> Result<(), Failure> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "drain")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("queued.min.messages", "200000")
        .set("queued.max.messages.kbytes", "65536")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let (mut messages, mut bytes, mut ended) = (0u64, 0u64, 0);
    let mut began = None;
    while ended < PARTITIONS {
        // As the worker's source does it: waiting costs a look at the clock.
        match consumer.poll(Duration::ZERO).or_else(|| consumer.poll(Duration::from_millis(100))) {
            Some(Ok(message)) => {
                began.get_or_insert_with(Instant::now);
                messages += 1;
                bytes += message.payload().map_or(0, <[u8]>::len) as u64;
            }
            Some(Err(KafkaError::PartitionEOF(_))) => ended += 1,
            Some(Err(error)) => return Err(error.into()),
            None => {}
        }
    }
    let wall = began.map_or(0.0, |b: Instant| b.elapsed().as_secs_f64());
    println!("{}", serde_json::json!({ "messages": messages, "bytes": bytes, "wall_s": wall }));
    Ok(())
}

/// Starts this program again to drain, so that its CPU time is its own.
pub fn drain_apart(brokers: &str, topic: &str) -> Result<Used, Failure> {
    let before = own_and_ended_children("self").1;
    let output =
        Command::new(std::env::current_exe()?).args(["--drain", brokers, topic]).stderr(Stdio::inherit()).output()?;
    if !output.status.success() {
        return Err(format!("the drain of {topic} failed: {}", output.status).into());
    }
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    Ok(Used { wall_s: said["wall_s"].as_f64().unwrap_or(0.0), cpu_s: own_and_ended_children("self").1 - before })
}

/// A worker of `hydrometer run`, ended when dropped.
pub struct Running {
    child: Child,
}

impl Running {
    pub fn start(config: &Path, log: PathBuf) -> Result<Running, Failure> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hydrometer"));
        command.arg("run").arg("--config").arg(config);
        if std::env::var_os("HYDROMETER_LOG").is_none() {
            command.env("HYDROMETER_LOG", "warn");
        }
        let log = std::fs::File::create(log)?;
        Ok(Running { child: command.stdout(log.try_clone()?).stderr(log).spawn()? })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_alive(&mut self) -> Result<bool, Failure> {
        Ok(self.child.try_wait()?.is_none())
    }

    pub fn peak_rss_bytes(&self) -> u64 {
        peak_rss_bytes(self.pid())
    }

    pub fn kill(&mut self) -> Result<(), Failure> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits.
    pub fn end(mut self) -> Result<(), Failure> {
        if let Some(pid) = Pid::from_raw(self.pid() as i32) {
            kill_process(pid, Signal::TERM)?;
        }
        let status = self.child.wait()?;
        if !status.success() {
            return Err(format!("the worker ended with {status}").into());
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until a query answers true, or the worker has ended, or ten minutes are over.
pub async fn wait_until(db: &Database, worker: &mut Running, what: &str, sql: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + Duration::from_secs(600);
    loop {
        if db.client_ref().query_one(sql, &[]).await?.get::<_, bool>(0) {
            return Ok(());
        }
        if !worker.is_alive()? {
            return Err(format!("the worker ended before {what}").into());
        }
        if Instant::now() > deadline {
            return Err(format!("ten minutes were not enough for {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a worker's round took, from its first partition to the last commit and the last published file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Round {
    pub used: Used,
    pub startup_cpu_s: f64,
    pub broker_cpu_s: f64,
    pub database_cpu_s: f64,
    pub peak_rss_bytes: u64,
}
