//! A log that ends, with a lease that does not: it is rated to the end of the last record's hour, however often the log is read.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;

use common::scripted::signed;
use common::{Deployment, write_topic};
use hydrometer_pipeline::source::files::{FileSource, FileSourceConfig, Interleave};
use hydrometer_pipeline::store::Database;
use hydrometer_pipeline::worker::Worker;

const HOUR: i64 = 3_600;
/// 2026-03-01T10:00:00Z
const START: i64 = 1_772_359_200;

fn event(id: &str, kind: &str, data: &str) -> Vec<u8> {
    format!(
        r#"{{"specversion":"1.0","id":"{id}","source":"cp","type":"{kind}","time":"2026-03-01T10:00:00Z","data":{data}}}"#
    )
    .into_bytes()
}

async fn run(deployment: &Deployment) {
    let source = FileSource::open(FileSourceConfig {
        dir: deployment.path("logs"),
        topics: vec![Arc::from("gpu.telemetry"), Arc::from("gpu.lifecycle")],
        batch_records: 7,
        interleave: Interleave::LogTime { slack: 0 },
        until: None,
        lockstep: true,
    })
    .unwrap();
    let db = Database::connect(&deployment.app_url).await.unwrap();
    let worker = Worker::new(deployment.config(), Box::new(source), db, deployment.warehouse()).await.unwrap();
    worker.run(std::future::pending()).await.unwrap();
}

#[tokio::test]
async fn an_open_lease_ends_with_the_hour_of_the_log() {
    let deployment = Deployment::new("horizon").await;
    let events = [
        event("1", "gpu.server.registered", r#"{"server":"s","supplier":"sup","slots":1}"#),
        event("2", "gpu.gpu.registered", r#"{"server":"s","slot":0,"gpu":"g"}"#),
        event("3", "gpu.contract.signed", &signed("c", "r", START, "3600", "80", "hour")),
        event("4", "gpu.lease.started", r#"{"lease":"l","contract":"c","server":"s","slots":[0]}"#),
    ];
    let micros = |second: i64| second * 1_000_000;
    let lifecycle = events.iter().map(|e| (micros(START), "s", e.as_slice())).collect();
    let readings: Vec<(i64, Vec<u8>)> = (0..4_000)
        .map(|n| {
            (
                micros(START + n),
                format!(r#"{{"gpu":"g","server":"s","time":{},"util":0.5}}"#, micros(START + n)).into_bytes(),
            )
        })
        .collect();
    let telemetry = readings.iter().map(|(time, payload)| (*time, "s", payload.as_slice())).collect();
    write_topic(&deployment.path("logs"), "gpu.lifecycle", &[lifecycle]);
    write_topic(&deployment.path("logs"), "gpu.telemetry", &[telemetry, Vec::new()]);

    for time in ["first", "second", "third"] {
        run(&deployment).await;
        let found = deployment.found().await;
        let leased: i64 = found.seconds.values().map(|s| s.leased()).sum();
        let used: i64 = found.seconds.values().map(|s| s.used).sum();
        assert_eq!((leased, used), (2 * HOUR, 4_000), "the {time} time");
        // A second costs 1 USD.
        let charged: i128 = found.renters.values().sum();
        assert_eq!(charged, i128::from(2 * HOUR) * 1_000_000_000, "the {time} time");
    }
}
