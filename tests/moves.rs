//! Servers that go on to speak in another partition: their home follows them at an hour's edge, and no window is rated twice or never.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::sound::{assert_sound, rated_records};
use common::{Cuts, Deployment, assert_proven, run_fleet};
use hydrometer_pipeline::source::files::{FileSource, FileSourceConfig, Interleave};
use hydrometer_pipeline::store::Database;
use hydrometer_pipeline::worker::Worker;
use hydrometer_schemas::time::{MICROS_PER_SECOND, hour_ceil};
use hydrometer_sinks::rated::RecordKind;
use hydrometer_testkit::fleet::{Fault, Faults, Format, Formats, LogOptions, Plan, write_logs};
use tokio::sync::Notify;

const HOUR: i64 = 3_600;

/// The homes that were moved: server, since when, from where, to where.
async fn moves(deployment: &Deployment) -> Vec<(String, i64, i32, i32)> {
    let sql = "SELECT server, since_s, was, partition FROM (\
                   SELECT *, lag(partition) OVER (PARTITION BY server ORDER BY since_s) AS was FROM hydrometer.home) AS h \
               WHERE was IS NOT NULL ORDER BY server, since_s";
    let rows = deployment.database().await.client_ref().query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_move_minutes_are_rated_live() {
    let deployment = Deployment::new("moves_live").await;
    let plan = Plan {
        start_us: 1_772_359_200 * MICROS_PER_SECOND,
        seconds: 5 * HOUR as u32,
        servers: 6,
        gpus_per_server: 1,
        telemetry_partitions: 2,
        formats: Formats::Only(Format::Node),
        disorder_us: 0,
        faults: Faults::none().with(Fault::MovedServer, 0.6),
        ..Plan::small(3)
    };
    let (outcome, summary) = run_fleet(&deployment, &plan, Cuts { batch_records: 200, ..Cuts::plain() }).await;
    assert_proven(&deployment, &outcome, "a fleet that moves").await;
    assert_sound(&deployment, "a fleet that moves").await;

    let moved = moves(&deployment).await;
    assert_eq!(moved.len() as u64, outcome.tally.count(Fault::MovedServer), "every server that moved, once: {moved:?}");
    assert!(moved.len() >= 2 && summary.away_minutes > 60, "{moved:?}, {} minutes away", summary.away_minutes);
    let mut counts: BTreeMap<(&str, bool, RecordKind), usize> = BTreeMap::new();
    let records = rated_records(&deployment).await;
    for (server, since, old, new) in &moved {
        assert_eq!(since % HOUR, 0);
        for row in records.iter().filter(|row| row.server.as_ref() == Some(server)) {
            let after = row.window.from >= *since;
            assert!(after || row.window.to <= *since, "no window straddles the move: {row:?}");
            assert_eq!(row.partition, if after { *new } else { *old }, "{row:?}");
            *counts.entry((server, after, row.kind)).or_default() += 1;
        }
        let count = |after, kind| counts.get(&(server.as_str(), after, kind)).copied().unwrap_or(0);
        assert!(
            count(false, RecordKind::Correction) > 0,
            "{server}: what it said elsewhere before the move came by revisions"
        );
        assert!(count(true, RecordKind::Usage) > 0, "{server} is rated live in its new home");
        assert_eq!(count(true, RecordKind::Correction), 0, "{server}: and nothing of it is corrected");
    }
}

/// Whatever else goes wrong, in whatever order the partitions are read, and however often the worker is started anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_that_moves_equals_the_oracle() {
    let seeds = std::env::var("HYDROMETER_SEED").ok().and_then(|s| s.parse().ok()).map_or(1..=3, |seed| seed..=seed);
    let mut moved = 0;
    for seed in seeds {
        let deployment = Deployment::new(&format!("moves_{seed}")).await;
        let plan = Plan {
            seconds: 3 * HOUR as u32 + 900,
            servers: 4,
            gpus_per_server: 1,
            telemetry_partitions: 2 + (seed % 3) as u32,
            formats: Formats::Only(Format::Node),
            faults: Faults::frequent().with(Fault::MovedServer, 0.7).with(Fault::SecondPartition, 0.5),
            ..Plan::small(seed)
        };
        let outcome = write_logs(&deployment.path("logs"), &plan, LogOptions { zstd: false }, &mut |_| {}).unwrap();
        let interleave = match seed % 2 {
            0 => Interleave::Seeded(seed),
            _ => Interleave::LogTime { slack: 30 * MICROS_PER_SECOND },
        };
        // Stopped after so many commits and started again; at last to the end.
        for commits in [20, 45, 40, u64::MAX] {
            run_until(&deployment, plan.end_us(), interleave, commits).await;
        }
        let context = format!("HYDROMETER_SEED={seed} repeats this fleet");
        assert_proven(&deployment, &outcome, &context).await;
        assert_sound(&deployment, &context).await;
        let moves = moves(&deployment).await.len();
        eprintln!("seed {seed}: {moves} homes moved");
        moved += moves;
    }
    assert!(moved > 0 || std::env::var("HYDROMETER_SEED").is_ok());
}

async fn run_until(deployment: &Deployment, end_us: i64, interleave: Interleave, commits: u64) {
    let source = FileSource::open(FileSourceConfig {
        dir: deployment.path("logs"),
        topics: vec![Arc::from("gpu.telemetry"), Arc::from("gpu.lifecycle")],
        batch_records: 300,
        interleave,
        until: Some(hour_ceil(end_us / MICROS_PER_SECOND)),
        lockstep: true,
    })
    .unwrap();
    let db = Database::connect(&deployment.app_url).await.unwrap();
    let worker = Worker::new(deployment.config(), Box::new(source), db, deployment.warehouse()).await.unwrap();
    let enough = Arc::new(Notify::new());
    let tell = enough.clone();
    let worker = worker.with_progress(Box::new(move |summary| {
        if summary.commits >= commits {
            tell.notify_one();
        }
    }));
    worker.run(enough.notified()).await.unwrap();
}
