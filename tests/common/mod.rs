//! What the tests of the whole share: a deployment of its own for each test, on the real services that ./test starts.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

pub mod aftermath;
pub mod contracts;
pub mod events;
pub mod fast;
pub mod fleet;
pub mod scripted;
pub mod sound;
pub mod storm;
pub mod system;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hydrometer_cli::connection::APP_ROLE;
use hydrometer_cli::proof::Found;
use hydrometer_pipeline::config::{Config, SourceKind};
use hydrometer_pipeline::source::files::{FileSource, FileSourceConfig, Interleave};
use hydrometer_pipeline::store::{self, Database};
use hydrometer_pipeline::worker::{Summary, Worker, WorkerError};
use hydrometer_schemas::time::{MICROS_PER_SECOND, hour_ceil};
use hydrometer_sinks::Warehouse;
use hydrometer_testkit::fleet::{LogOptions, Outcome, Plan, write_logs};
use hydrometer_testkit::services::postgres::{TestPostgres, for_tests};

/// A database of its own, migrated, and an empty directory for logs and warehouse.
pub struct Deployment {
    pub dir: tempfile::TempDir,
    pub owner_url: String,
    pub app_url: String,
}

impl Deployment {
    /// On the cluster that ./test started.
    pub async fn new(name: &str) -> Deployment {
        Deployment::on(&for_tests().unwrap(), name).await
    }

    pub async fn on(postgres: &TestPostgres, name: &str) -> Deployment {
        let (_, owner_url) = postgres.fresh_database(name).await.unwrap();
        let mut owner = Database::connect(&owner_url).await.unwrap();
        migrate_patiently(&mut owner).await;
        // Of a key that is given twice, the last counts.
        let app_url = format!("{owner_url} user={APP_ROLE}");
        Deployment { dir: memory_dir(), owner_url, app_url }
    }

    /// Drops its database.
    pub async fn forget(self, postgres: &TestPostgres) {
        let name =
            self.owner_url.rsplit("dbname='").next().and_then(|rest| rest.split('\'').next()).unwrap().to_owned();
        let owner = Database::connect(postgres.superuser()).await.unwrap();
        owner.client_ref().batch_execute(&format!("DROP DATABASE \"{name}\" WITH (FORCE)")).await.unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn warehouse(&self) -> Warehouse {
        Warehouse::open(&self.path("warehouse").display().to_string()).unwrap()
    }

    pub async fn database(&self) -> Database {
        Database::connect(&self.app_url).await.unwrap()
    }

    pub async fn owner(&self) -> Database {
        Database::connect(&self.owner_url).await.unwrap()
    }

    /// A configuration for partition logs in `logs/`.
    pub fn config(&self) -> Config {
        let mut config = Config { worker: "test".into(), ..Config::default() };
        config.database.url = self.app_url.clone();
        config.warehouse.url = self.path("warehouse").display().to_string();
        config.source.kind = SourceKind::Files;
        config.source.files.dir = self.path("logs");
        config.commit.interval_ms = 0;
        // All tests of a run share one broker; who wants events names a topic of his own.
        config.events.topic = String::new();
        config
    }

    /// Writes the configuration as the file that `hydrometer --config` reads.
    pub fn write_config(&self, config: &Config) -> PathBuf {
        let path = self.path("hydrometer.toml");
        std::fs::write(&path, toml_of(config)).unwrap();
        path
    }

    pub async fn found(&self) -> Found {
        Found::read(&mut self.database().await, &self.warehouse()).await.unwrap()
    }
}

/// In memory where there is a file system for it: the tests of a run write thousands of files, and each is fsynced.
fn memory_dir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// The role belongs to the cluster: two tests that create it at once may collide.
async fn migrate_patiently(owner: &mut Database) {
    for attempt in 0.. {
        match store::migrate::migrate(owner.client(), APP_ROLE).await {
            Ok(_) => return,
            Err(error) if attempt < 5 && error.to_string().contains("already exists") => {}
            Err(error) if attempt < 5 && error.to_string().contains("duplicate key") => {}
            Err(error) if attempt < 5 && error.to_string().contains("concurrently updated") => {}
            Err(error) => panic!("{error}"),
        }
    }
}

fn toml_of(config: &Config) -> String {
    let value = serde_json::to_value(config).unwrap();
    let mut text = String::new();
    write_table(&mut text, "", &value);
    text
}

fn write_table(text: &mut String, path: &str, value: &serde_json::Value) {
    let table = value.as_object().unwrap();
    for (key, value) in table.iter().filter(|(_, v)| !v.is_object()) {
        text.push_str(&format!("{key:?} = {value}\n"));
    }
    for (key, value) in table.iter().filter(|(_, v)| v.is_object()) {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        text.push_str(&format!("[{path}]\n"));
        write_table(text, &path, value);
    }
}

/// How a run is cut up; none of it may change any result.
#[derive(Debug, Clone, Copy)]
pub struct Cuts {
    pub batch_records: usize,
    pub interleave: Interleave,
    pub interval_ms: u64,
    pub revision_hours: usize,
}

impl Cuts {
    pub fn plain() -> Cuts {
        Cuts {
            batch_records: 10_000,
            interleave: Interleave::LogTime { slack: 30 * MICROS_PER_SECOND },
            interval_ms: 0,
            revision_hours: 24,
        }
    }
}

/// Writes a fleet's logs and runs a worker over them, in this process, until the logs end.
pub async fn run_fleet(deployment: &Deployment, plan: &Plan, cuts: Cuts) -> (Outcome, Summary) {
    let outcome = write_logs(&deployment.path("logs"), plan, LogOptions { zstd: false }, &mut |_| {}).unwrap();
    let summary = run_logs(deployment, plan.end_us(), cuts).await.unwrap();
    (outcome, summary)
}

/// Runs a worker over the logs that are there.
pub async fn run_logs(deployment: &Deployment, end_us: i64, cuts: Cuts) -> Result<Summary, WorkerError> {
    let mut config = deployment.config();
    config.commit.interval_ms = cuts.interval_ms;
    config.commit.revision_hours = cuts.revision_hours;
    let source = FileSource::open(FileSourceConfig {
        dir: deployment.path("logs"),
        topics: vec![Arc::from("gpu.telemetry"), Arc::from("gpu.lifecycle")],
        batch_records: cuts.batch_records,
        interleave: cuts.interleave,
        until: Some(hour_ceil(end_us / MICROS_PER_SECOND)),
        lockstep: true,
    })?;
    let db = Database::connect(&deployment.app_url).await?;
    let worker = Worker::new(config, Box::new(source), db, deployment.warehouse()).await?;
    worker.run(std::future::pending()).await
}

/// A record for a hand-made log: (log time in microseconds, key, payload).
pub type LogLine<'a> = (i64, &'a str, &'a [u8]);

/// Writes hand-made partition logs of one topic, partition 0 first.
pub fn write_topic(dir: &Path, topic: &str, partitions: &[Vec<LogLine<'_>>]) {
    let folder = dir.join(topic);
    std::fs::create_dir_all(&folder).unwrap();
    for (number, lines) in partitions.iter().enumerate() {
        let mut bytes = Vec::new();
        for (log_time, key, payload) in lines {
            bytes.extend_from_slice(format!("{log_time}\t{key}\t").as_bytes());
            for &byte in *payload {
                match byte {
                    b'\\' => bytes.extend_from_slice(b"\\\\"),
                    b'\n' => bytes.extend_from_slice(b"\\n"),
                    other => bytes.push(other),
                }
            }
            bytes.push(b'\n');
        }
        std::fs::write(folder.join(format!("{number}.log")), bytes).unwrap();
    }
}

/// Asserts that a deployment holds exactly what the oracle says.
pub async fn assert_proven(deployment: &Deployment, outcome: &Outcome, context: &str) {
    let proof = deployment.found().await.prove(outcome);
    assert!(
        proof.differences.is_empty(),
        "{context}: {} differences\n{}",
        proof.differences.len(),
        proof.differences.iter().take(10).cloned().collect::<Vec<_>>().join("\n")
    );
}
