//! A filled system: a small fleet from partition logs, driven by a real worker into a database of its own and a folder.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hydrometer_pipeline::config::Config;
use hydrometer_pipeline::source::files::{FileSource, FileSourceConfig, Interleave};
use hydrometer_pipeline::store::{Database, migrate};
use hydrometer_pipeline::worker::{Summary, Worker};
use hydrometer_sinks::Warehouse;
use hydrometer_testkit::fleet::{LogOptions, Outcome, Plan, write_logs};
use hydrometer_testkit::services::postgres::{TestPostgres, for_tests};
use tempfile::TempDir;
use tokio::sync::{Mutex, Notify, OnceCell};
use tokio_postgres::{Client, NoTls};

/// What a worker left behind.
pub struct Filled {
    postgres: TestPostgres,
    pub database: String,
    folder: TempDir,
    pub outcome: Outcome,
}

/// The same, for one test to do with as it likes.
pub struct System {
    pub admin: Client,
    /// As the application's role.
    pub url: String,
    pub warehouse: Warehouse,
    folder: TempDir,
}

/// The test database server; without one, the hint says how to get one.
fn postgres() -> TestPostgres {
    for_tests().unwrap_or_else(|error| panic!("{error}"))
}

/// Runs a fleet through a worker until its logs have ended and nothing is owed.
pub async fn fill(plan: &Plan) -> Filled {
    let filled = Filled::empty(plan).await;
    filled.run(None).await;
    filled
}

/// The one fleet that all tests of a file take copies of.
pub async fn shared(plan: &Plan) -> &'static Filled {
    static FILLED: OnceCell<Filled> = OnceCell::const_new();
    FILLED.get_or_init(|| fill(plan)).await
}

impl Filled {
    /// The logs are written, the database is migrated, and no worker has run yet.
    pub async fn empty(plan: &Plan) -> Filled {
        let postgres = postgres();
        let (database, superuser) = postgres.fresh_database("audit").await.unwrap_or_else(|error| panic!("{error}"));
        let mut admin = connect(&superuser).await;
        migrate::migrate(&mut admin, &app_role(&database)).await.expect("the migration");
        let folder = TempDir::new().expect("a temporary folder");
        let logs = folder.path().join("logs");
        let outcome = write_logs(&logs, plan, LogOptions::default(), &mut |_| ()).expect("the fleet's logs");
        Filled { postgres, database, folder, outcome }
    }

    /// Runs a worker to the logs' end, or until it has made so many commits.
    pub async fn run(&self, commits: Option<u64>) -> Summary {
        let mut config = Config::default();
        config.commit.interval_ms = 0;
        let source = FileSource::open(FileSourceConfig {
            dir: self.folder.path().join("logs"),
            topics: vec![Arc::from("gpu.telemetry"), Arc::from("gpu.lifecycle")],
            batch_records: 400,
            interleave: Interleave::LogTime { slack: 30_000_000 },
            until: None,
            lockstep: true,
        })
        .expect("the logs");
        let warehouse = self.warehouse();
        let db = Database::connect(&self.url()).await.expect("the application's connection");
        let worker = Worker::new(config, Box::new(source), db, warehouse).await.expect("a worker");
        let enough = Arc::new(Notify::new());
        let tell = enough.clone();
        let worker = worker.with_progress(Box::new(move |summary| {
            if commits.is_some_and(|commits| summary.commits >= commits) {
                tell.notify_one();
            }
        }));
        worker.run(enough.notified()).await.expect("a run")
    }

    pub fn warehouse(&self) -> Warehouse {
        Warehouse::open(path(&self.folder.path().join("warehouse"))).expect("the warehouse")
    }

    /// As the application's role.
    pub fn url(&self) -> String {
        as_app(&format!("{} dbname='{}'", self.postgres.superuser(), self.database), &self.database)
    }

    pub async fn copy(&self) -> System {
        // A database is copied only while nobody is connected to it; a connection takes a moment to go.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
        let _turn = ONE_AT_A_TIME.lock().await;
        let (name, superuser) = self.postgres.fresh_database("audit_copy").await.unwrap_or_else(|e| panic!("{e}"));
        let server = connect(self.postgres.superuser()).await;
        server.batch_execute(&format!("DROP DATABASE {name}")).await.unwrap();
        let mut tries = 0;
        while let Err(error) = server.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {}", self.database)).await
        {
            tries += 1;
            assert!(tries < 100, "{error:?}");
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let folder = TempDir::new().unwrap();
        copy_folder(&self.folder.path().join("warehouse"), folder.path());
        System {
            admin: connect(&superuser).await,
            url: as_app(&superuser, &self.database),
            warehouse: Warehouse::open(path(folder.path())).unwrap(),
            folder,
        }
    }
}

impl System {
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The first value of the first row.
    pub async fn text(&self, sql: &str) -> String {
        self.admin.query_one(sql, &[]).await.expect(sql).get(0)
    }

    pub async fn execute(&self, sql: &str) {
        self.admin.batch_execute(sql).await.expect(sql);
    }
}

/// Roles belong to the whole server; a copy has the role of what it was copied from.
fn app_role(database: &str) -> String {
    format!("{database}_app")
}

fn as_app(superuser: &str, database: &str) -> String {
    format!("{superuser} user='{}'", app_role(database))
}

async fn connect(url: &str) -> Client {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.expect("the test PostgreSQL takes connections");
    tokio::spawn(connection);
    client
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
