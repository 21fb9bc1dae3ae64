//! Kill -9 at every step of the protocol, on real Kafka and PostgreSQL: a restart at any commit, and between commits, changes nothing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Deployment, assert_proven};
use hydrometer_cli::demo::is_through;
use hydrometer_pipeline::config::{Config, SourceKind};
use hydrometer_schemas::time::{MICROS_PER_SECOND, hour_ceil};
use hydrometer_testkit::fleet::{KafkaOptions, Outcome, Plan, write_kafka};
use hydrometer_testkit::services::kafka::{Topic, create_topic, for_tests};

/// Where the program is killed, one after another; each run goes on where the one before was killed.
const FAILPOINTS: [&str; 15] = [
    "lifecycle.before",
    "lifecycle.recorded",
    "lifecycle.inside",
    "lifecycle.after:2",
    "stage.object:3",
    "stage.after",
    "commit.before",
    "commit.fenced",
    "commit.posted:3",
    "commit.inside:2",
    "commit.after:2",
    "publish.before:2",
    "publish.written",
    "publish.after",
    "sweep.before:5",
];

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
    config.source.batch_records = 200;
    config.source.kafka.brokers = brokers;
    config.source.kafka.group = name.to_owned();
    config.source.kafka.accept_producer_time = true;
    // A member that comes back under its name takes its place at once.
    config.source.kafka.options.insert("group.instance.id".into(), "restarted".into());
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
        let mut child = self.start(None);
        let db = self.deployment.database().await;
        let deadline = Instant::now() + Duration::from_secs(120);
        while !is_through(&db, self.end).await.unwrap() {
            assert!(child.try_wait().unwrap().is_none(), "the worker has ended before it was through");
            assert!(Instant::now() < deadline, "the worker does not get through");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let terminated = Command::new("kill").arg("-TERM").arg(child.id().to_string()).status().unwrap();
        assert!(terminated.success());
        assert_eq!(child.wait().unwrap().code(), Some(0), "SIGTERM ends the worker cleanly");
    }

    async fn check(&self, context: &str) {
        assert_proven(&self.deployment, &self.outcome, context).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_every_step_changes_nothing() {
    let plan = Plan { seconds: 4_500, servers: 4, gpus_per_server: 2, telemetry_partitions: 3, ..Plan::small(11) };
    let fleet = fleet("killed", &plan).await;
    for failpoint in FAILPOINTS {
        let mut child = fleet.start(Some(failpoint));
        let deadline = Instant::now() + Duration::from_secs(60);
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "{failpoint} was not passed within a minute");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(status.signal(), Some(9), "{failpoint}: the worker ended by itself: {status}");
    }
    fleet.finish().await;
    fleet.check("killed at every step").await;
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
