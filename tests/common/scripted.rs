//! Workers whose logs are written while they run, and connections that hold the locks which they want: any interleaving can be made,
//! and seen, without a sleep that hopes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hydrometer_pipeline::source::{Batch, Delivery, Source, SourceError, SourceEvent, Start, TopicPartition};
use hydrometer_pipeline::store::Database;
use hydrometer_pipeline::worker::{Summary, Worker, WorkerError};
use hydrometer_schemas::database::TIMELINE_LOCK;
use hydrometer_schemas::time::show_second;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::{Client, NoTls};

use super::Deployment;

pub const TELEMETRY: &str = "gpu.telemetry";
pub const LIFECYCLE: &str = "gpu.lifecycle";
pub const HOUR: i64 = 3_600;
/// 2026-03-01T10:00:00Z
pub const START: i64 = 1_772_359_200;

/// How long a state may take to come; a passing test never waits so long. Below the workers' lock timeout.
const PATIENCE: Duration = Duration::from_secs(15);

/// Polls until something holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub fn at(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition { topic: topic.into(), partition }
}

struct ScriptedSource {
    counts: Vec<(Arc<str>, i32)>,
    horizon: i64,
    events: mpsc::UnboundedReceiver<SourceEvent>,
}

#[async_trait]
impl Source for ScriptedSource {
    fn partitions(&self) -> Vec<(Arc<str>, i32)> {
        self.counts.clone()
    }

    async fn next(&mut self) -> Option<Result<SourceEvent, SourceError>> {
        self.events.recv().await.map(Ok)
    }

    fn committed(&mut self, _: &[(TopicPartition, i64)]) {}

    /// Leases are rated no further than this.
    fn horizon(&self) -> Option<i64> {
        Some(self.horizon)
    }

    fn stop(&mut self) {
        self.events.close();
    }
}

/// A worker on a thread of its own, told everything by hand.
pub struct Raw {
    pub events: mpsc::UnboundedSender<SourceEvent>,
    pub stop: oneshot::Sender<()>,
    pub thread: std::thread::JoinHandle<Result<Summary, WorkerError>>,
    pub pid: i32,
}

impl Raw {
    pub async fn start_with(
        deployment: &Deployment,
        telemetry: i32,
        owns: &[TopicPartition],
        change: &(dyn Fn(&mut hydrometer_pipeline::config::Config) + Sync),
    ) -> Raw {
        Raw::start_until(deployment, telemetry, owns, START + 4 * HOUR, change).await
    }

    /// Leases are rated up to the horizon.
    pub async fn start_until(
        deployment: &Deployment,
        telemetry: i32,
        owns: &[TopicPartition],
        horizon: i64,
        change: &(dyn Fn(&mut hydrometer_pipeline::config::Config) + Sync),
    ) -> Raw {
        let mut config = deployment.config();
        config.worker = owns.iter().map(ToString::to_string).collect::<Vec<_>>().join("+");
        config.windows.lateness_s = 0;
        change(&mut config);
        let (events, receiver) = mpsc::unbounded_channel();
        let counts = vec![(Arc::from(TELEMETRY), telemetry), (Arc::from(LIFECYCLE), 1)];
        let source = ScriptedSource { counts, horizon, events: receiver };
        let (url, warehouse) = (deployment.app_url.clone(), deployment.warehouse());
        let (tell, pid) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let db = Database::connect(&url).await?;
                let pid = db.client_ref().query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get::<_, i32>(0);
                tell.send(pid).unwrap();
                Worker::new(config, Box::new(source), db, warehouse).await?.run(async move { _ = stopped.await }).await
            })
        });
        let pid = pid.await.unwrap();
        Raw { events, stop, thread, pid }
    }

    /// Gives it partitions, and says where it starts in them.
    pub async fn assign(&self, partitions: &[TopicPartition]) -> Vec<Start> {
        let (reply, starts) = oneshot::channel();
        self.events.send(SourceEvent::Assigned(partitions.to_vec(), reply)).unwrap();
        starts.await.expect("the worker takes its partitions")
    }
}

/// A worker on a thread of its own, and the pen for its logs.
pub struct Actor {
    script: Option<mpsc::UnboundedSender<(TopicPartition, Delivery)>>,
    next: BTreeMap<TopicPartition, i64>,
    thread: std::thread::JoinHandle<Result<Summary, WorkerError>>,
    /// Its backend in the database.
    pub pid: i32,
}

impl Actor {
    /// Starts a worker that owns these partitions, of so many telemetry partitions (and one of the lifecycle topic).
    pub async fn start(deployment: &Deployment, telemetry: i32, owns: &[TopicPartition]) -> Actor {
        Actor::start_with(deployment, telemetry, owns, &|_| {}).await
    }

    pub async fn start_with(
        deployment: &Deployment,
        telemetry: i32,
        owns: &[TopicPartition],
        change: &(dyn Fn(&mut hydrometer_pipeline::config::Config) + Sync),
    ) -> Actor {
        Actor::of(Raw::start_with(deployment, telemetry, owns, change).await, owns).await
    }

    pub async fn of(raw: Raw, owns: &[TopicPartition]) -> Actor {
        let starts = raw.assign(owns).await;
        let next = starts.iter().map(|start| (start.partition.clone(), start.offset.unwrap_or(0))).collect();
        let (script, lines) = mpsc::unbounded_channel();
        tokio::spawn(play(lines, starts, raw.events, raw.stop));
        Actor { script: Some(script), next, thread: raw.thread, pid: raw.pid }
    }

    /// Appends records to a log of the worker, as one batch: (second of the log, payload).
    pub fn say(&mut self, partition: &TopicPartition, records: &[(i64, Vec<u8>)]) {
        let next = self.next.get_mut(partition).expect("a partition of this worker");
        let mut batch = Batch::new(partition.clone());
        for (second, payload) in records {
            batch.push(*next, second * 1_000_000, payload);
            *next += 1;
        }
        self.send(partition, Delivery::Batch(batch));
    }

    fn send(&self, partition: &TopicPartition, delivery: Delivery) {
        // A worker that was fenced listens no more.
        let _ = self.script.as_ref().unwrap().send((partition.clone(), delivery));
    }

    /// Ends all of its logs for good, waits until nothing is owed, and says what the run came to.
    pub async fn end(self) -> Result<Summary, WorkerError> {
        for partition in self.next.keys() {
            self.send(partition, Delivery::Ended(partition.clone()));
        }
        // A worker without telemetry does not end by itself; what it was told comes before the end of its script.
        if self.next.keys().all(|partition| &*partition.topic == LIFECYCLE) {
            self.hang_up().await
        } else {
            self.joined().await
        }
    }

    /// Hangs up: the worker takes in what it was told and goes, without draining.
    pub async fn hang_up(mut self) -> Result<Summary, WorkerError> {
        self.script = None;
        self.joined().await
    }

    /// The worker ends by itself.
    pub async fn joined(self) -> Result<Summary, WorkerError> {
        until("the worker ends", async || self.thread.is_finished()).await;
        self.thread.join().unwrap()
    }

    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }
}

/// Delivers a script line by line: each is metered, and the round that may be due is over, before the next. Then the worker is told to
/// stop.
async fn play(
    mut lines: mpsc::UnboundedReceiver<(TopicPartition, Delivery)>,
    starts: Vec<Start>,
    events: mpsc::UnboundedSender<SourceEvent>,
    stop: oneshot::Sender<()>,
) {
    while let Some((partition, delivery)) = lines.recv().await {
        let Some(start) = starts.iter().find(|start| start.partition == partition) else { continue };
        let _ = start.deliver_to.send(delivery).await;
        let (passed, was_passed) = oneshot::channel();
        let _ = start.deliver_to.send(Delivery::Passed(passed)).await;
        let _ = was_passed.await;
        let (stepped, was_stepped) = oneshot::channel();
        let _ = events.send(SourceEvent::Step(stepped));
        let _ = was_stepped.await;
    }
    let _ = stop.send(());
}

/// A connection of the test's own, as the owner: it looks, and it holds locks.
pub struct Hand {
    client: Client,
}

impl Hand {
    pub async fn new(deployment: &Deployment) -> Hand {
        let (client, connection) = tokio_postgres::connect(&deployment.owner_url, NoTls).await.unwrap();
        tokio::spawn(connection);
        Hand { client }
    }

    pub async fn execute(&self, sql: &str) {
        self.client.batch_execute(sql).await.expect(sql);
    }

    pub async fn number(&self, sql: &str) -> i64 {
        self.client.query_one(sql, &[]).await.expect(sql).get(0)
    }

    pub async fn texts(&self, sql: &str) -> Vec<String> {
        self.client.query(sql, &[]).await.expect(sql).iter().map(|row| row.get(0)).collect()
    }

    /// Takes the timeline lock exclusively and keeps it until [`Hand::release`].
    pub async fn hold_timeline(&self) {
        self.execute(&format!("BEGIN; SELECT pg_advisory_xact_lock({TIMELINE_LOCK})")).await;
    }

    /// Takes rows of a table, as a committer would; waits for whoever has them.
    pub async fn hold_rows(&self, table: &str, condition: &str) {
        self.execute(&format!("BEGIN; SELECT 1 FROM {table} WHERE {condition} FOR UPDATE")).await;
    }

    pub async fn release(&self) {
        self.execute("COMMIT").await;
    }

    pub async fn pid(&self) -> i32 {
        self.client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0)
    }

    /// What a backend waits for, if it waits for a lock: `advisory`, `transactionid`, `tuple`, …
    pub async fn waits_for(&self, pid: i32) -> Option<String> {
        // A transaction sees the activity as it was when it looked first, and a hand that holds a lock is in one.
        self.execute("SELECT pg_stat_clear_snapshot()").await;
        let sql = "SELECT wait_event FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock' \
                   AND cardinality(pg_blocking_pids(pid)) > 0";
        self.client.query_opt(sql, &[&pid]).await.unwrap().map(|row| row.get(0))
    }

    pub async fn until_waits(&self, pid: i32, lock: &[&str]) {
        until(&format!("backend {pid} waits for {lock:?}"), async || {
            self.waits_for(pid).await.is_some_and(|waits| lock.contains(&waits.as_str()))
        })
        .await;
    }

    /// Waits until a count that SQL gives is reached.
    pub async fn until_number(&self, sql: &str, least: i64) {
        until(&format!("{sql} is {least}"), async || self.number(sql).await >= least).await;
    }

    pub async fn until_frontier(&self, partition: i32, second: i64) {
        let sql = format!(
            "SELECT frontier_s FROM hydrometer.partition_lease WHERE topic = '{TELEMETRY}' AND partition = {partition}"
        );
        self.until_number(&sql, second).await;
    }

    pub async fn until_lifecycle_time(&self, second: i64) {
        let sql = format!(
            "SELECT time_us / 1000000 FROM hydrometer.partition_lease WHERE topic = '{LIFECYCLE}' AND partition = 0"
        );
        self.until_number(&sql, second).await;
    }

    pub async fn open_requests(&self) -> Vec<String> {
        self.texts("SELECT cause FROM hydrometer.request WHERE done_by IS NULL ORDER BY id").await
    }

    pub async fn requests(&self) -> Vec<String> {
        self.texts("SELECT cause FROM hydrometer.request ORDER BY id").await
    }
}

/// A row lock is waited for by way of its holder's transaction, or in the queue for the row.
pub const ROW: [&str; 2] = ["transactionid", "tuple"];
pub const TIMELINE: [&str; 1] = ["advisory"];

pub fn lease_row(topic: &str, partition: i32) -> String {
    format!("topic = '{topic}' AND partition = {partition}")
}

/// A lifecycle event as (second of the log, payload).
pub fn event_at(logged: i64, id: &str, kind: &str, time: i64, data: &str) -> (i64, Vec<u8>) {
    let time = show_second(time);
    let json =
        format!(r#"{{"specversion":"1.0","id":"{id}","source":"cp","type":"{kind}","time":"{time}","data":{data}}}"#);
    (logged, json.into_bytes())
}

pub fn event(id: &str, kind: &str, time: i64, data: &str) -> (i64, Vec<u8>) {
    event_at(time, id, kind, time, data)
}

/// An event that says nothing of the servers under test, so that lifecycle time passes.
pub fn passes(time: i64) -> (i64, Vec<u8>) {
    let data = format!(r#"{{"server":"elsewhere-{time}","supplier":"sup","slots":1}}"#);
    event(&format!("passes-{time}"), "gpu.server.registered", time, &data)
}

/// What `gpu.contract.signed` says of a contract with one price per GPU-hour and one share for all suppliers.
pub fn signed(contract: &str, renter: &str, effective: i64, price: &str, share: &str, window: &str) -> String {
    let effective = show_second(effective);
    format!(
        r#"{{"document":{{"contract":"{contract}","effective":"{effective}","renter":"{renter}","currency":"USD","rating_window":"{window}","charges":{{"gpu_hours":{{"basis":"allocated","price":"{price}"}}}},"suppliers":[{{"supplier":"*","share_percent":"{share}"}}]}}}}"#
    )
}

/// A contract at 3600 USD an hour, so that a second costs a dollar; 80% of it for the supplier.
pub fn contract(contract: &str, window: &str) -> (i64, Vec<u8>) {
    let data = signed(contract, &format!("r-{contract}"), START - 60, "3600", "80", window);
    event(&format!("apply-{contract}"), "gpu.contract.signed", START - 60, &data)
}

/// A server with one GPU, leased from a second on.
pub fn leased_server(server: &str, contract: &str, from: i64) -> Vec<(i64, Vec<u8>)> {
    vec![
        event(
            &format!("{server}-1"),
            "gpu.server.registered",
            START - 30,
            &format!(r#"{{"server":"{server}","supplier":"sup","slots":1}}"#),
        ),
        event(
            &format!("{server}-2"),
            "gpu.gpu.registered",
            START - 20,
            &format!(r#"{{"server":"{server}","slot":0,"gpu":"gpu-{server}"}}"#),
        ),
        event(
            &format!("{server}-3"),
            "gpu.lease.started",
            from,
            &format!(r#"{{"lease":"lease-{server}","contract":"{contract}","server":"{server}","slots":[0]}}"#),
        ),
    ]
}

/// One busy reading a second in `[from, to)`.
pub fn readings(server: &str, from: i64, to: i64) -> Vec<(i64, Vec<u8>)> {
    (from..to).map(|second| (second, reading(server, second))).collect()
}

pub fn reading(server: &str, second: i64) -> Vec<u8> {
    let micros = second * 1_000_000;
    format!(r#"{{"gpu":"gpu-{server}","server":"{server}","time":{micros},"util":0.5}}"#).into_bytes()
}

/// One busy reading a minute: enough for what is about time, not seconds.
pub fn minutely(server: &str, from: i64, to: i64) -> Vec<(i64, Vec<u8>)> {
    (from..to).step_by(60).map(|second| (second, reading(server, second))).collect()
}

/// (leased, used, suspended) seconds of a server over all records.
pub async fn seconds_of(deployment: &Deployment, server: &str) -> (i64, i64, i64) {
    let mut sum = (0, 0, 0);
    for row in super::sound::rated_records(deployment).await {
        if row.server.as_deref() == Some(server) {
            let classes = row.quantity.classes;
            sum = (sum.0 + classes.leased(), sum.1 + classes.used, sum.2 + classes.suspended);
        }
    }
    sum
}

/// What renters owe, in dollars.
pub async fn owed(deployment: &Deployment) -> i128 {
    let balances = deployment.found().await.balances;
    let nanos: i128 = balances.iter().filter(|(name, _)| name.starts_with("renter:")).map(|(_, net)| net).sum();
    assert_eq!(nanos % 1_000_000_000, 0);
    nanos / 1_000_000_000
}
