//! Kill -9 at every step of the protocol, on real Kafka and PostgreSQL: a restart at any commit, and between commits, changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Deployment, assert_proven};
use hydrometer_cli::demo::is_through;
use hydrometer_pipeline::config::{Config, SourceKind};
use hydrometer_pipeline::store::Database;
use hydrometer_schemas::time::{MICROS_PER_SECOND, hour_ceil};
use hydrometer_testkit::fleet::{KafkaOptions, Outcome, Plan, write_kafka};
use hydrometer_testkit::services::kafka::{Topic, create_topic, for_tests};

/// Where the program is killed, one after another; each run goes on where the one before was killed.
const COMMITTING: [&str; 12] = [
    "lifecycle.before",
    "lifecycle.recorded",
    "lifecycle.inside",
    "lifecycle.after",
    "stage.object:2",
    "stage.after",
    "commit.before",
    "commit.fenced",
    "commit.posted",
    "commit.inside",
    "commit.after",
    // What the kills before left in staging is swept, and that is interrupted too.
    "sweep.before:2",
];

/// Between files of one hour, between a file and the word that it is there, and right after it.
const PUBLISHING: [&str; 3] = ["publish.before:2", "publish.written", "publish.after"];

struct Fleet {
    deployment: Deployment,
    config: Config,
    outcome: Outcome,
    end: i64,
}

/// A small fleet in topics of its own.
async fn fleet(name: &str, plan: &Plan) -> Fleet {
    let brokers = for_tests().unwrap();
    let deployment = Deployment::new(name).await;
    let (telemetry, lifecycle) = (format!("{name}.telemetry"), format!("{name}.lifecycle"));
    for (topic, partitions) in [(&telemetry, plan.telemetry_partitions), (&lifecycle, plan.lifecycle_partitions)] {
        let topic = Topic { timestamp_type: "CreateTime", ..Topic::new(topic, partitions as i32) };
        create_topic(&brokers, &topic).await.unwrap();
    }
    let options = KafkaOptions {
        telemetry_topic: telemetry.clone(),
        lifecycle_topic: lifecycle.clone(),
        ..KafkaOptions::default()
    };
    let (writing, to) = (plan.clone(), brokers.clone());
    let outcome =
        tokio::task::spawn_blocking(move || write_kafka(&to, &writing, &options, &mut |_| {}).unwrap()).await.unwrap();

    let mut config = deployment.config();
    config.source.kind = SourceKind::Kafka;
    config.source.batch_records = 50;
    config.source.kafka.brokers = brokers;
    config.source.kafka.group = name.to_owned();
    config.source.kafka.accept_producer_time = true;
    // A member that comes back under its name takes its place at once.
    config.source.kafka.options.insert("group.instance.id".into(), "restarted".into());
    config.source.kafka.options.insert("session.timeout.ms".into(), "6000".into());
    config.topics.telemetry = telemetry;
    config.topics.lifecycle = lifecycle;
    config.windows.idle_s = 2;
    let end = hour_ceil(plan.end_us() / MICROS_PER_SECOND);
    Fleet { deployment, config, outcome, end }
}

impl Fleet {
    fn start(&self, failpoint: Option<&str>) -> Child {
        let path = self.deployment.write_config(&self.config);
        let mut command = Command::new(env!("CARGO_BIN_EXE_hydrometer"));
        command.arg("run").arg("--config").arg(path).env("HYDROMETER_LOG", "warn").stdout(Stdio::null());
        if let Some(failpoint) = failpoint {
            command.env("HYDROMETER_FAILPOINT", failpoint);
        }
        command.spawn().unwrap()
    }

    /// Lets a worker run until everything is through, then ends it with SIGTERM.
    async fn finish(&self) {
        let db = self.deployment.database().await;
        let epochs = async || db.leases().await.unwrap().iter().map(|(lease, _)| lease.epoch).sum::<i64>();
        let before = epochs().await;
        let mut child = self.start(None);
        let deadline = Instant::now() + Duration::from_secs(120);
        // Its epochs say that it is up; what is through may have been so before.
        while epochs().await == before || !is_through(&db, self.end).await.unwrap() {
            assert!(child.try_wait().unwrap().is_none(), "the worker has ended before it was through");
            if Instant::now() >= deadline {
                panic!("the worker does not get through: {}", self.standing(&db).await);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let terminated = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap();
        assert!(terminated.success());
        assert_eq!(child.wait().unwrap().code(), Some(0), "SIGTERM ends the worker cleanly");
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

    async fn check(&self, context: &str) {
        assert_proven(&self.deployment, &self.outcome, context).await;
    }
}

/// Starts a worker that is to be killed at `failpoint`, and waits until it is.
async fn killed_at(fleet: &Fleet, failpoint: &str) {
    let mut child = fleet.start(Some(failpoint));
    let deadline = Instant::now() + Duration::from_secs(120);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "{failpoint} was not passed within two minutes");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(status.signal(), Some(9), "{failpoint}: the worker ended by itself: {status}");
}

async fn kills_change_nothing(name: &str, seed: u64, failpoints: &[&str]) {
    let plan = Plan { seconds: 4_500, servers: 4, gpus_per_server: 2, telemetry_partitions: 3, ..Plan::small(seed) };
    let fleet = fleet(name, &plan).await;
    for failpoint in failpoints {
        killed_at(&fleet, failpoint).await;
    }
    fleet.finish().await;
    fleet.check(name).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_every_step_of_a_commit_change_nothing() {
    kills_change_nothing("killed_committing", 11, &COMMITTING).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_while_publishing_change_nothing() {
    kills_change_nothing("killed_publishing", 12, &PUBLISHING).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_kills_change_nothing() {
    let seed = std::env::var("HYDROMETER_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos())
    });
    eprintln!("HYDROMETER_SEED={seed} repeats these kills");
    let plan = Plan { seconds: 4_000, servers: 5, gpus_per_server: 2, ..Plan::small(seed) };
    let fleet = fleet("random_kills", &plan).await;
    let mut state = seed | 1;
    for _ in 0..6 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut child = fleet.start(None);
        tokio::time::sleep(Duration::from_millis(200 + (state >> 33) % 2_500)).await;
        child.kill().unwrap();
        child.wait().unwrap();
    }
    fleet.finish().await;
    fleet.check(&format!("killed at random, HYDROMETER_SEED={seed}")).await;
}
