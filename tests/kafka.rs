//! `hydrometer run` as a process, on real Kafka and PostgreSQL: it ends cleanly, goes on where it was, outlives a restart of its
//! database, shares its partitions, and ends loudly when a topic lacks what it is to read next.
//!
//! The fleets end at an hour's edge some time before now, so that by the broker's clock everything is past and every window is due.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use common::{Deployment, assert_proven};
use hydrometer_pipeline::config::{Config, SourceKind};
use hydrometer_pipeline::store::Database;
use hydrometer_schemas::time::{MICROS_PER_SECOND, hour_floor};
use hydrometer_testkit::fleet::{Fault, Faults, Outcome, Plan, Record, Topic, generate};
use hydrometer_testkit::services::kafka;
use hydrometer_testkit::services::postgres::{Options, PrivatePostgres, TestPostgres};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

/// How long a state may take to come; a failing test waits so long, a passing one does not.
const PATIENCE: Duration = Duration::from_secs(90);

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

/// Topics of their own on the tests' broker, and what a fleet has to say in them.
struct Stream {
    brokers: String,
    name: String,
    records: Vec<Record>,
    outcome: Outcome,
    end_s: i64,
    sent: usize,
}

impl Stream {
    async fn new(seed: u64, partitions: i32) -> Stream {
        let end_s = hour_floor(now().as_secs() as i64 - 90);
        let seconds = 900;
        // What decides what is true, in full; of what decides how it arrives, only copies: the broker stamps the records now, so
        // a delay means nothing.
        let faults = [Fault::Gap, Fault::Outage, Fault::ReplacedGpu, Fault::Suspension, Fault::PriceChange]
            .into_iter()
            .fold(Faults::none(), |faults, fault| faults.with(fault, 0.8))
            .with(Fault::Duplicate, 0.05)
            .with(Fault::OddJson, 0.05);
        let plan = Plan {
            start_us: (end_s - seconds) * MICROS_PER_SECOND,
            seconds: seconds as u32,
            servers: 6,
            gpus_per_server: 2,
            telemetry_partitions: partitions as u32,
            lifecycle_partitions: 1,
            disorder_us: 0,
            faults,
            ..Plan::small(seed)
        };
        eprintln!("seed {seed}, from {}", plan.start_us);
        let mut records = Vec::new();
        let outcome = generate(&plan, &mut |record| {
            records.push(record);
            Ok(())
        })
        .unwrap();
        let name = format!("run-{seed}-{}", now().as_nanos());
        let stream = Stream { brokers: kafka::for_tests().unwrap(), name, records, outcome, end_s, sent: 0 };
        stream.create("telemetry", partitions).await;
        stream.create("lifecycle", 1).await;
        stream
    }

    fn topic(&self, kind: &str) -> String {
        format!("{}.{kind}", self.name)
    }

    async fn create(&self, kind: &str, partitions: i32) {
        kafka::create_topic(&self.brokers, &kafka::Topic::new(&self.topic(kind), partitions)).await.unwrap();
    }

    /// Without idle time, so that no break between two parts of a fleet lets the clock close what is still to come.
    fn config(&self, deployment: &Deployment, worker: &str) -> PathBuf {
        self.config_with(deployment, worker, 3_600)
    }

    fn config_with(&self, deployment: &Deployment, worker: &str, idle_s: u32) -> PathBuf {
        let mut config: Config = deployment.config();
        config.worker = worker.into();
        config.source.kind = SourceKind::Kafka;
        config.source.kafka.brokers = self.brokers.clone();
        config.source.kafka.group = self.name.clone();
        config.topics.telemetry = self.topic("telemetry");
        config.topics.lifecycle = self.topic("lifecycle");
        config.commit.interval_ms = 100;
        config.windows.idle_s = idle_s;
        config.windows.lateness_s = 5;
        let written = deployment.write_config(&config);
        let path = deployment.path(&format!("{worker}.toml"));
        std::fs::rename(written, &path).unwrap();
        path
    }

    /// Sends the records up to the fraction `sixteenths` / 16 that were not sent yet.
    fn send(&mut self, sixteenths: usize) {
        let until = self.records.len() * sixteenths / 16;
        self.send_range(self.sent, until, |_| true);
        self.sent = until;
    }

    fn send_range(&self, from: usize, until: usize, which: impl Fn(&Record) -> bool) {
        let producer: ThreadedProducer<DefaultProducerContext> = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("enable.idempotence", "true")
            .create()
            .unwrap();
        for record in self.records[from..until].iter().filter(|record| which(record)) {
            let topic = match record.topic {
                Topic::Telemetry => self.topic("telemetry"),
                Topic::Lifecycle => self.topic("lifecycle"),
            };
            let message =
                BaseRecord::to(&topic).partition(record.partition as i32).key(&record.key).payload(&record.payload);
            producer.send(message).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(PATIENCE).unwrap();
    }

    /// How many of the records that were sent lie in a partition.
    fn sent_to(&self, topic: Topic, partition: i32) -> i64 {
        let ours = |r: &&Record| r.topic == topic && r.partition == partition as u32;
        self.records[..self.sent].iter().filter(ours).count() as i64
    }

    /// Waits until most of what was sent is committed; the rest lies in open minutes.
    async fn most_committed(&self, deployment: &Deployment) {
        until("most of what was sent is committed", async || {
            // The database may be on its way back.
            let Ok(db) = Database::connect(&deployment.app_url).await else { return false };
            let Ok(leases) = db.leases().await else { return false };
            leases.iter().map(|(lease, _)| lease.position.next).sum::<i64>() > self.sent as i64 / 2
        })
        .await;
    }

    /// Sends what was not sent yet, and runs a worker until every window is rated and no revision is owed: then everything must
    /// be as the oracle says.
    async fn finish(&mut self, deployment: &Deployment) {
        self.send(16);
        let worker = Running::start(&self.config_with(deployment, "finish", 2));
        until("every window is rated", async || {
            let db = deployment.database().await;
            let all = db.leases().await.unwrap().iter().all(|(lease, role)| match role.as_str() {
                "lifecycle" => lease.position.next >= self.sent_to(Topic::Lifecycle, lease.partition.partition),
                _ => {
                    lease.position.next >= self.sent_to(Topic::Telemetry, lease.partition.partition)
                        && lease.frontier >= self.end_s
                }
            });
            let open = "SELECT count(*) FROM hydrometer.request WHERE done_by IS NULL";
            all && db.client_ref().query_one(open, &[]).await.unwrap().get::<_, i64>(0) == 0
        })
        .await;
        worker.stop("TERM").await;
        assert_proven(deployment, &self.outcome, &self.name).await;
    }

    /// How many members the consumer groups of this stream have.
    fn members(&self) -> usize {
        let client: BaseConsumer = ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap();
        ["telemetry", "lifecycle"]
            .iter()
            .map(|kind| {
                let group = format!("{}-{}", self.name, self.topic(kind));
                let list = client.fetch_group_list(Some(&group), PATIENCE).unwrap();
                list.groups().iter().map(|group| group.members().len()).sum::<usize>()
            })
            .sum()
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.brokers).create().unwrap()
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// `hydrometer run` while it runs; killed when a test ends before it does.
struct Running {
    child: Child,
    log: PathBuf,
}

impl Running {
    fn start(config: &Path) -> Running {
        let log = config.with_extension("log");
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hydrometer"));
        command.arg("run").arg("--config").arg(config).env_remove("HYDROMETER_LOG");
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Running { child, log }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    async fn status(&mut self) -> ExitStatus {
        let log = self.log.clone();
        let mut status = None;
        until(&format!("the worker ends ({})", log.display()), async || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }

    /// Sends a signal, upon which the worker must end well.
    async fn stop(mut self, signal: &str) {
        assert!(!self.has_ended(), "{}", self.said());
        let sent = Command::new("kill").args(["-s", signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let status = self.status().await;
        assert_eq!(status.code(), Some(0), "{}", self.said());
        assert!(self.said().contains("stopping: draining, committing, leaving the group"), "{}", self.said());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _: io::Result<ExitStatus> = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.said());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_end_it_cleanly_and_it_goes_on_where_it_was() {
    let deployment = Deployment::new("run_signals").await;
    let mut stream = Stream::new(21, 3).await;
    let config = stream.config(&deployment, "signals");
    let mut handled = 0;
    for (part, signal) in [(5, "TERM"), (11, "INT")] {
        let worker = Running::start(&config);
        stream.send(part);
        stream.most_committed(&deployment).await;
        worker.stop(signal).await;
        assert_eq!(stream.members(), 0, "the group was left");
        assert_eq!(deployment.found().await.unpublished_files, 0, "nothing is owed");
        let (_, _, next) = counted(&deployment).await;
        assert!(next > handled);
        handled = next;
    }
    stream.finish(&deployment).await;
    assert_eq!(stream.members(), 0, "the group was left");

    // A run with nothing to do changes nothing.
    let before = counted(&deployment).await;
    let worker = Running::start(&config);
    until("the worker is in its groups", async || stream.members() == 2).await;
    worker.stop("TERM").await;
    assert_eq!(counted(&deployment).await, before);
    assert_proven(&deployment, &stream.outcome, "after an idle run").await;
}

/// What money and what evidence is committed: (postings' entries, objects, offsets handled).
async fn counted(deployment: &Deployment) -> (i64, i64, i64) {
    let db = deployment.database().await;
    let sql = "SELECT (SELECT count(*) FROM hydrometer.rating_step), (SELECT count(*) FROM hydrometer.object), \
               (SELECT sum(next)::bigint FROM hydrometer.partition_lease)";
    let row = db.client_ref().query_one(sql, &[]).await.unwrap();
    (row.get(0), row.get(1), row.get(2))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_outlives_a_restart_of_its_database() {
    let dir = tempfile::Builder::new().prefix("hydrometer-pg").tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let mut postgres =
        PrivatePostgres::open(&dir.path().join("pg"), Options { fsync: false, ..Options::default() }).unwrap();
    let deployment = Deployment::on(&TestPostgres::new(&postgres.superuser()).unwrap(), "run_restart").await;
    let mut stream = Stream::new(22, 2).await;
    let worker = Running::start(&stream.config(&deployment, "restart"));
    for part in [4, 10] {
        stream.send(part);
        stream.most_committed(&deployment).await;
        stream.send(part + 2);
        postgres.restart().unwrap();
    }
    stream.most_committed(&deployment).await;
    assert!(worker.said().contains("the database"), "it noticed: {}", worker.said());
    worker.stop("TERM").await;
    stream.finish(&deployment).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_share_the_partitions() {
    let deployment = Deployment::new("run_two").await;
    let mut stream = Stream::new(23, 4).await;
    let owners = async || -> Vec<String> {
        let sql = "SELECT DISTINCT worker FROM hydrometer.partition_lease WHERE role = 'telemetry' ORDER BY 1";
        let rows = deployment.database().await.client_ref().query(sql, &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    let first = Running::start(&stream.config(&deployment, "first"));
    stream.send(4);
    stream.most_committed(&deployment).await;
    assert_eq!(owners().await, ["first"]);
    let second = Running::start(&stream.config(&deployment, "second"));
    until("both have partitions", async || owners().await == ["first", "second"]).await;
    stream.send(10);
    stream.most_committed(&deployment).await;
    // One leaves; the other takes everything over.
    first.stop("TERM").await;
    until("the other has all partitions", async || owners().await == ["second"]).await;
    stream.send(14);
    stream.most_committed(&deployment).await;
    second.stop("INT").await;
    assert_eq!(stream.members(), 0, "the group was left");
    stream.finish(&deployment).await;
}

/// Starts a worker that must end by itself for want of the offsets it is to read.
async fn refuses_to_skip(config: &Path, topic: &str) {
    let mut worker = Running::start(config);
    let status = worker.status().await;
    let said = worker.said();
    assert_eq!(status.code(), Some(3), "{said}");
    for part in [
        &format!("topic {topic} does not hold the offset that is to be read next"),
        "records were deleted before they were metered",
        "Nothing was skipped",
        "hydrometer.partition_lease",
    ] {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_is_not_skipped_over() {
    let deployment = Deployment::new("run_anew").await;
    let mut stream = Stream::new(24, 2).await;
    let config = stream.config(&deployment, "anew");
    let worker = Running::start(&config);
    stream.send(12);
    stream.most_committed(&deployment).await;
    worker.stop("TERM").await;
    let before = counted(&deployment).await;
    let topic = stream.topic("telemetry");

    let deleted = stream.admin().delete_topics(&[&topic], &AdminOptions::new()).await.unwrap();
    deleted.into_iter().for_each(|result| drop(result.unwrap()));
    until("the topic can be made anew", async || {
        kafka::create_topic(&stream.brokers, &kafka::Topic::new(&topic, 2)).await.is_ok()
    })
    .await;
    refuses_to_skip(&config, &topic).await;
    refuses_to_skip(&config, &topic).await;
    assert_eq!(counted(&deployment).await, before, "what was committed is untouched");

    // The topic is restored from its beginning, and the stream goes on.
    stream.send_range(0, stream.sent, |record| record.topic == Topic::Telemetry);
    stream.finish(&deployment).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_records_are_not_skipped_over() {
    let deployment = Deployment::new("run_deleted").await;
    let mut stream = Stream::new(25, 1).await;
    let config = stream.config(&deployment, "deleted");
    let worker = Running::start(&config);
    stream.send(8);
    stream.most_committed(&deployment).await;
    worker.stop("TERM").await;
    let before = counted(&deployment).await;
    stream.send(16);

    let topic = stream.topic("telemetry");
    let mut to = TopicPartitionList::new();
    let next = stream.sent_to(Topic::Telemetry, 0) - 10;
    to.add_partition_offset(&topic, 0, Offset::Offset(next)).unwrap();
    stream.admin().delete_records(&to, &AdminOptions::new()).await.unwrap();
    refuses_to_skip(&config, &topic).await;
    let (steps, objects, _) = counted(&deployment).await;
    assert_eq!((steps, objects), (before.0, before.1), "what was committed is untouched");
}
