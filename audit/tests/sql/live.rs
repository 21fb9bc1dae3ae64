//! A worker that is still running, beside which cuts are taken.

use std::sync::Arc;
use std::thread::JoinHandle;

use hydrometer_pipeline::config::Config;
use hydrometer_pipeline::source::files::{FileSource, FileSourceConfig, Interleave};
use hydrometer_pipeline::store::{Database, migrate};
use hydrometer_pipeline::worker::{Summary, Worker};
use hydrometer_sinks::Warehouse;
use hydrometer_testkit::fleet::{LogOptions, Plan, write_logs};
use hydrometer_testkit::services::postgres::for_tests;
use tempfile::TempDir;

const ROLE: &str = "audit_live_app";

pub struct Live {
    /// As the application's role.
    pub url: String,
    pub warehouse: Warehouse,
    pub worker: JoinHandle<Summary>,
    _folder: TempDir,
}

/// Starts a worker over a fleet's logs, in rounds of few records.
pub async fn start(plan: &Plan, batch_records: usize) -> Live {
    let (_, superuser) = for_tests().unwrap().fresh_database("audit_live").await.unwrap();
    migrate::migrate(Database::connect(&superuser).await.unwrap().client(), ROLE).await.unwrap();
    let url = format!("{superuser} user='{ROLE}'");
    let folder = TempDir::new().unwrap();
    let logs = folder.path().join("logs");
    write_logs(&logs, plan, LogOptions::default(), &mut |_| ()).unwrap();
    let warehouse = Warehouse::open(folder.path().join("warehouse").to_str().unwrap()).unwrap();
    let (db_url, to) = (url.clone(), warehouse.clone());
    // A worker is not made to be moved between threads, so it has one of its own.
    let worker = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let source = FileSource::open(FileSourceConfig {
                dir: logs,
                topics: vec![Arc::from("gpu.telemetry"), Arc::from("gpu.lifecycle")],
                batch_records,
                interleave: Interleave::LogTime { slack: 30_000_000 },
                until: None,
                lockstep: true,
            })
            .unwrap();
            let mut config = Config::default();
            config.commit.interval_ms = 0;
            let db = Database::connect(&db_url).await.unwrap();
            let worker = Worker::new(config, Box::new(source), db, to).await.unwrap();
            worker.run(std::future::pending()).await.unwrap()
        })
    });
    Live { url, warehouse, worker, _folder: folder }
}
