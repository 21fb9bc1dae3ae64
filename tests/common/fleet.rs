//! A fleet in Kafka topics of its own, and workers over it as processes that can be killed, stopped and cut off.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use hydrometer_cli::demo::is_through;
use hydrometer_pipeline::config::{Config, SourceKind};
use hydrometer_pipeline::store::Database;
use hydrometer_schemas::time::{MICROS_PER_SECOND, hour_ceil};
use hydrometer_testkit::fleet::{Outcome, Plan, Record, Topic, generate};
use hydrometer_testkit::services::kafka::{self, create_topic};
use hydrometer_testkit::services::proxy::{Proxy, Upstream};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rustix::process::{Pid, Signal, kill_process};

use super::Deployment;
use super::aftermath::{assert_sound, drop_database};

/// How long a state may take to come; a failing test waits so long, a passing one does not.
pub const PATIENCE: Duration = Duration::from_secs(180);

pub struct Fleet {
    pub deployment: Deployment,
    pub plan: Plan,
    pub outcome: Outcome,
    /// What all workers have in common.
    pub config: Config,
    brokers: String,
    records: Vec<Record>,
    sent: usize,
    end: i64,
}

impl Fleet {
    /// On the services of the test run. Nothing is sent yet.
    pub async fn new(name: &str, plan: &Plan) -> Fleet {
        Fleet::on(Deployment::new(name).await, &kafka::for_tests().unwrap(), name, plan).await
    }

    pub async fn on(deployment: Deployment, brokers: &str, name: &str, plan: &Plan) -> Fleet {
        let name = format!("{name}-{}", std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos());
        let (telemetry, lifecycle) = (format!("{name}.telemetry"), format!("{name}.lifecycle"));
        for (topic, partitions) in [(&telemetry, plan.telemetry_partitions), (&lifecycle, plan.lifecycle_partitions)] {
            // The simulator's arrival times are the log times, so that delays mean something.
            let topic = kafka::Topic { timestamp_type: "CreateTime", ..kafka::Topic::new(topic, partitions as i32) };
            create_topic(brokers, &topic).await.unwrap();
        }
        let mut records = Vec::new();
        let outcome = generate(plan, &mut |record| {
            records.push(record);
            Ok(())
        })
        .unwrap();

        let mut config = deployment.config();
        config.source.kind = SourceKind::Kafka;
        config.source.batch_records = 100;
        config.source.kafka.brokers = brokers.to_owned();
        config.source.kafka.group = name;
        config.source.kafka.accept_producer_time = true;
        for (key, value) in [("session.timeout.ms", "3000"), ("heartbeat.interval.ms", "500")] {
            config.source.kafka.options.insert(key.into(), value.into());
        }
        config.topics.telemetry = telemetry;
        config.topics.lifecycle = lifecycle;
        config.windows.idle_s = 2;
        config.commit.upkeep_s = 1;
        config.commit.sweep_s = 1;
        config.database.lock_timeout_s = 3;
        config.database.idle_in_transaction_timeout_s = 2;
        let end = hour_ceil(plan.end_us() / MICROS_PER_SECOND);
        let brokers = brokers.to_owned();
        Fleet { deployment, plan: plan.clone(), outcome, config, brokers, records, sent: 0, end }
    }

    /// The configuration of one worker. While records are still to come no clock may close what they belong to.
    pub fn worker(&self, name: &str) -> Config {
        let mut config = Config { worker: name.to_owned(), ..self.config.clone() };
        if self.sent < self.records.len() {
            config.windows.idle_s = 36_000;
        }
        config
    }

    /// The same, as a member of its group that takes its place again at once when it comes back under its name.
    pub fn lasting_worker(&self, name: &str) -> Config {
        let mut config = self.worker(name);
        config.source.kafka.options.insert("group.instance.id".into(), name.to_owned());
        config
    }

    /// Sends what was not sent yet of the first `part` of `of` parts.
    pub async fn send(&mut self, part: usize, of: usize) {
        let until = self.records.len() * part / of;
        let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("enable.idempotence", "true")
            .create()
            .unwrap();
        for record in &self.records[self.sent..until.max(self.sent)] {
            let topic = match record.topic {
                Topic::Telemetry => &self.config.topics.telemetry,
                Topic::Lifecycle => &self.config.topics.lifecycle,
            };
            let message = BaseRecord::to(topic)
                .partition(record.partition as i32)
                .key(&record.key)
                .payload(&record.payload)
                .timestamp(record.log_time_us.div_euclid(1000));
            producer.send(message).map_err(|(error, _)| error).unwrap();
        }
        tokio::task::spawn_blocking(move || producer.flush(PATIENCE).unwrap()).await.unwrap();
        self.sent = until.max(self.sent);
    }

    pub fn sent(&self) -> usize {
        self.sent
    }

    pub fn start(&self, config: &Config, failpoint: Option<&str>) -> Running {
        self.start_with(config, failpoint, |_| ())
    }

    pub fn start_with(&self, config: &Config, failpoint: Option<&str>, prepare: impl FnOnce(&mut Command)) -> Running {
        let written = self.deployment.write_config(config);
        let path = self.deployment.path(&format!("{}.toml", config.worker));
        std::fs::rename(written, &path).unwrap();
        let log = path.with_extension("log");
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hydrometer"));
        command.arg("run").arg("--config").arg(path).env("HYDROMETER_LOG", "warn").env_remove("HYDROMETER_FAILPOINT");
        if let Some(failpoint) = failpoint {
            command.env("HYDROMETER_FAILPOINT", failpoint);
        }
        prepare(&mut command);
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Running::new(&config.worker, child, log)
    }

    /// Starts a worker that is to be killed at `failpoint`, and waits until it is.
    pub async fn killed_at(&self, config: &Config, failpoint: &str) {
        let mut worker = self.start(config, Some(failpoint));
        let status = worker.ended(&format!("{failpoint} is passed")).await;
        assert_eq!(status.signal(), Some(9), "{failpoint}: the worker ended by itself: {status}\n{}", worker.said());
    }

    /// How many records are committed.
    pub async fn handled(&self) -> usize {
        // The database may be on its way back.
        let Ok(db) = Database::connect(&self.deployment.app_url).await else { return 0 };
        let leases = db.leases().await.unwrap_or_default();
        leases.iter().map(|(lease, _)| lease.position.next).sum::<i64>().max(0) as usize
    }

    /// Waits until all but what lies in open minutes is committed.
    pub async fn until_handled(&self) {
        let enough = self.sent / 2;
        until("most of what was sent is committed", async || self.handled().await > enough).await;
    }

    /// Who has the telemetry partitions.
    pub async fn owners(&self) -> Vec<String> {
        let sql = "SELECT worker FROM hydrometer.partition_lease WHERE role = 'telemetry' ORDER BY partition";
        let Ok(db) = Database::connect(&self.deployment.app_url).await else { return Vec::new() };
        let rows = db.client_ref().query(sql, &[]).await.unwrap_or_default();
        rows.iter().map(|row| row.get::<_, Option<String>>(0).unwrap_or_default()).collect()
    }

    pub async fn until_owned_by(&self, names: &[&str]) {
        until(&format!("the partitions are with {names:?}"), async || {
            let mut owners = self.owners().await;
            owners.sort();
            owners.dedup();
            owners == names
        })
        .await;
    }

    pub async fn is_through(&self) -> bool {
        is_through(&self.deployment.database().await, self.end).await.unwrap()
    }

    /// Sends the rest, lets a worker run until everything is through, and ends it with SIGTERM.
    pub async fn finish(&mut self) {
        self.finish_when(async |_| true).await;
    }

    /// The same, but it also waits until `holds`.
    pub async fn finish_when(&mut self, holds: impl AsyncFn(&Database) -> bool) {
        let whole = self.records.len();
        self.send(whole, whole).await;
        let db = self.deployment.database().await;
        let epochs = async || db.leases().await.unwrap().iter().map(|(lease, _)| lease.epoch).sum::<i64>();
        let before = epochs().await;
        let mut worker = self.start(&self.lasting_worker("finish"), None);
        let deadline = Instant::now() + PATIENCE;
        // Its epochs say that it is up; what is through may have been so before.
        while epochs().await == before || !is_through(&db, self.end).await.unwrap() || !holds(&db).await {
            assert!(!worker.has_ended(), "the worker has ended before it was through: {}", worker.said());
            if Instant::now() >= deadline {
                panic!("the worker does not get through: {}\n{}", self.standing(&db).await, worker.said());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        worker.signal(Signal::TERM);
        let status = worker.ended("SIGTERM ends the worker").await;
        assert_eq!(status.code(), Some(0), "SIGTERM ends the worker cleanly: {}", worker.said());
    }

    /// Removes its database and its topics.
    pub async fn clear_away(&self) {
        drop_database(&self.deployment).await;
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap();
        let topics = [self.config.topics.telemetry.as_str(), self.config.topics.lifecycle.as_str()];
        admin.delete_topics(&topics, &AdminOptions::new()).await.unwrap();
    }

    pub async fn assert_sound(&self, context: &str) {
        assert_sound(&self.deployment, &self.plan, &self.outcome, context).await;
    }

    /// Where a run stands, for the message of a test that waited in vain.
    async fn standing(&self, db: &Database) -> String {
        let requests = "SELECT string_agg(r::text, E'\\n') FROM hydrometer.request AS r WHERE done_by IS NULL";
        let files = "SELECT string_agg(name, E'\\n') FROM hydrometer.file WHERE published_at IS NULL";
        let mut text = format!("{:#?}", db.leases().await.unwrap());
        for sql in [requests, files] {
            let row = db.client_ref().query_one(sql, &[]).await.unwrap();
            text.push_str(&format!("\n{sql}:\n{:?}", row.get::<_, Option<String>>(0)));
        }
        text
    }
}

pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A proxy in front of the PostgreSQL of a connection string, and the string that goes through it.
pub fn proxied(url: &str) -> (Proxy, String) {
    let host = url.split_whitespace().find_map(|part| part.strip_prefix("host=")).unwrap().trim_matches('\'');
    let proxy = Proxy::start(Upstream::Unix(PathBuf::from(host).join(".s.PGSQL.5432"))).unwrap();
    // Of a key that is given twice, the last counts; of hosts, all do.
    let rest: Vec<&str> =
        url.split_whitespace().filter(|part| !part.starts_with("host=") && !part.starts_with("port=")).collect();
    let through = format!("host=127.0.0.1 port={} {}", proxy.port(), rest.join(" "));
    (proxy, through)
}

/// A worker while it runs; killed when a test ends before it does.
pub struct Running {
    pub name: String,
    child: Child,
    log: PathBuf,
}

impl Running {
    pub fn new(name: &str, child: Child, log: PathBuf) -> Running {
        Running { name: name.to_owned(), child, log }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What all workers of this name have said.
    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    pub async fn ended(&mut self, what: &str) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn until_says(&mut self, words: &str) {
        until(&format!("the worker says {words:?} ({})", self.log.display()), async || self.said().contains(words))
            .await;
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Wakes it up from a SIGSTOP and waits for its end. It says that it stops a moment before it does, so it is woken until it is.
    pub async fn woken_until_ended(&mut self, what: &str) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            self.signal(Signal::CONT);
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Ends it with SIGKILL; whether it was still alive.
    pub fn kill9(&mut self) -> bool {
        let alive = !self.has_ended();
        if alive {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
        alive
    }

    /// Ends it with SIGTERM, upon which it must end well.
    pub async fn stop(mut self) {
        assert!(!self.has_ended(), "{}", self.said());
        self.signal(Signal::TERM);
        let status = self.ended("SIGTERM ends the worker").await;
        assert_eq!(status.code(), Some(0), "{}", self.said());
    }

    /// Ends it somehow: it may have been fenced, since others had its partitions.
    pub async fn stop_if_running(mut self) {
        if !self.has_ended() {
            self.signal(Signal::TERM);
        }
        let status = self.ended("SIGTERM ends the worker").await;
        let fenced = status.code() == Some(3) && self.said().contains("another worker has taken over");
        assert!(status.code() == Some(0) || fenced, "{status}: {}", self.said());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
