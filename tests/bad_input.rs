//! Bad input, by hand: for each reason of quarantine a message among good ones. It is set aside with its place, its reason and its
//! bytes, and what stands around it is metered and rated as if it were not there.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::Arc;

use common::scripted::signed;
use common::{Deployment, LogLine, write_topic};
use hydrometer_pipeline::source::files::{FileSource, FileSourceConfig, Interleave};
use hydrometer_pipeline::store::manifest;
use hydrometer_pipeline::worker::Worker;
use hydrometer_schemas::MESSAGE_BYTES_MAX;
use hydrometer_schemas::quarantine::Reason;
use hydrometer_schemas::time::{MICROS_PER_SECOND, show_second};
use hydrometer_schemas::warehouse::Table;
use hydrometer_sinks::quarantine::QuarantineRow;
use hydrometer_sinks::{parquet, quarantine};

/// 2026-03-01T10:00:00Z, in seconds.
const START: i64 = 1_772_359_200;
/// How long the lease of GPUs g-0 and g-1 is, and how long both speak.
const SECONDS: i64 = 120;
/// The bad message stands before the readings of this second.
const AT: i64 = 60;

struct Case {
    topic: &'static str,
    payload: Vec<u8>,
    reason: Reason,
    detail: &'static str,
    identities: usize,
    /// GPU-seconds without a reading: what a message holds is missing when all of it is bad.
    silent: i64,
}

impl Case {
    fn telemetry(payload: impl Into<Vec<u8>>, reason: Reason, detail: &'static str) -> Case {
        Case { topic: "gpu.telemetry", payload: payload.into(), reason, detail, identities: 1_000, silent: 0 }
    }

    fn event(payload: impl Into<Vec<u8>>, reason: Reason, detail: &'static str) -> Case {
        Case { topic: "gpu.lifecycle", ..Case::telemetry(payload, reason, detail) }
    }
}

fn reading(gpu: &str, second: i64) -> String {
    format!(r#"{{"gpu":"{gpu}","server":"srv","time":"{}","util":0.5}}"#, show_second(second))
}

fn event(kind: &str, second: i64, data: &str) -> String {
    let time = show_second(second);
    format!(
        r#"{{"specversion":"1.0","id":"{kind}-{second}-{}","source":"test","type":"{kind}","time":"{time}","data":{data}}}"#,
        data.len()
    )
}

fn lifecycle() -> Vec<String> {
    vec![
        event("gpu.server.registered", START - 60, r#"{"server":"srv","supplier":"sup","slots":2}"#),
        event("gpu.gpu.registered", START - 60, r#"{"server":"srv","slot":0,"gpu":"g-0"}"#),
        event("gpu.gpu.registered", START - 59, r#"{"server":"srv","slot":1,"gpu":"g-1"}"#),
        event("gpu.contract.signed", START - 60, &signed("c", "r", START - 60, "3.60", "50", "hour")),
        event("gpu.lease.started", START, r#"{"lease":"l","contract":"c","server":"srv","slots":[0,1]}"#),
        event("gpu.lease.ended", START + SECONDS, r#"{"lease":"l"}"#),
    ]
}

/// Every quarantined message, from published files only.
async fn published(deployment: &Deployment) -> Vec<QuarantineRow> {
    let (db, warehouse) = (deployment.database().await, deployment.warehouse());
    let mut rows = Vec::new();
    for (file, is_published) in manifest::all_files(db.client_ref()).await.unwrap() {
        assert!(is_published, "{} is owed", file.name);
        if file.table == Table::Quarantine {
            let bytes = warehouse.read_checked(&file.name, file.sha256.as_deref().unwrap()).await.unwrap();
            for batch in parquet::decode(&file.name, bytes).unwrap() {
                rows.extend(quarantine::from_batch(&batch).unwrap());
            }
        }
    }
    rows
}

async fn check(name: &str, case: Case) {
    let deployment = Deployment::new(&format!("bad_{name}")).await;
    let log_time = |second: i64| (second + 2) * MICROS_PER_SECOND;
    let readings: Vec<(i64, String)> = (START..START + SECONDS)
        .flat_map(|second| ["g-0", "g-1"].map(|gpu| (second, gpu)))
        .map(|(second, gpu)| (second, reading(gpu, second)))
        .collect();
    let events = lifecycle();
    let mut telemetry: Vec<LogLine<'_>> =
        readings.iter().map(|(second, payload)| (log_time(*second), "srv", payload.as_bytes())).collect();
    let mut lifecycle: Vec<LogLine<'_>> =
        events.iter().map(|payload| (log_time(START - 10), "srv", payload.as_bytes())).collect();
    let offset = match case.topic {
        "gpu.telemetry" => AT * 2,
        _ => 4,
    };
    let log = if case.topic == "gpu.telemetry" { &mut telemetry } else { &mut lifecycle };
    let at = if case.topic == "gpu.telemetry" { log_time(START + AT) } else { log_time(START - 10) };
    log.insert(offset as usize, (at, "srv", &case.payload));
    if case.silent > 0 {
        // The good copies of what the message held itself.
        let second = case.silent;
        assert!(second <= 2);
        telemetry.drain(offset as usize + 1..offset as usize + 1 + second as usize);
    }
    write_topic(&deployment.path("logs"), "gpu.telemetry", &[telemetry]);
    write_topic(&deployment.path("logs"), "gpu.lifecycle", &[lifecycle]);

    let mut config = deployment.config();
    config.limits.identities_per_partition = case.identities;
    let source = FileSource::open(FileSourceConfig {
        dir: deployment.path("logs"),
        topics: vec![Arc::from("gpu.telemetry"), Arc::from("gpu.lifecycle")],
        batch_records: 7,
        interleave: Interleave::LogTime { slack: 0 },
        until: None,
        lockstep: true,
    })
    .unwrap();
    let worker =
        Worker::new(config, Box::new(source), deployment.database().await, deployment.warehouse()).await.unwrap();
    let summary = worker.run(std::future::pending()).await.unwrap();
    assert_eq!(summary.counts.quarantined, 1, "{name}");

    let rows = published(&deployment).await;
    assert_eq!(rows.len(), 1, "{name}: {rows:?}");
    let row = &rows[0];
    assert_eq!((&*row.topic, row.partition, row.offset), (case.topic, 0, offset), "{name}");
    assert_eq!((row.reason.as_str(), row.log_time), (case.reason.name(), at), "{name}: {}", row.detail);
    assert!(row.detail.contains(case.detail), "{name}: {:?} does not say {:?}", row.detail, case.detail);
    assert!(row.raw == case.payload, "{name}: the bytes are not those of the message");

    let found = deployment.found().await;
    let used: i64 = found.seconds.values().map(|s| s.used).sum();
    let leased: i64 = found.seconds.values().map(|s| s.leased()).sum();
    assert_eq!((used, leased), (2 * SECONDS, 2 * SECONDS), "{name}");
    assert_eq!(found.present_seconds, 2 * SECONDS as u64, "{name}");
    // 3.60 an hour is a thousandth a second.
    let amount = i128::from(2 * SECONDS) * 1_000_000;
    assert_eq!(found.renters.values().sum::<i128>(), amount, "{name}");
    assert_eq!(found.balances.get("supplier:sup:payable:USD"), Some(&-(amount / 2)), "{name}");
    assert_eq!((found.unpublished_files, found.open_requests), (0, 0), "{name}");
}

#[tokio::test]
async fn malformed() {
    let good = reading("g-0", START + AT);
    let cut = &good.as_bytes()[..good.len() - 7];
    check("nonsense", Case::telemetry("not JSON\nat all\\", Reason::Malformed, "line 1 column")).await;
    check("truncated", Case::telemetry(cut, Reason::Malformed, "EOF")).await;
    let mut invalid = good.clone().into_bytes();
    invalid[8] = 0xff;
    check("utf8", Case::telemetry(invalid, Reason::Malformed, "utf-8")).await;
    check("empty", Case::telemetry("", Reason::Malformed, "EOF")).await;
    check("scalar", Case::telemetry("42", Reason::Malformed, "neither an object nor an array")).await;
    check("two", Case::telemetry(format!("{good}{good}"), Reason::Malformed, "trailing characters")).await;
}

#[tokio::test]
async fn missing_field() {
    let without = |field: &str| reading("g-0", START + AT).replace(&format!("\"{field}\""), "\"other\"");
    check("no_gpu", Case::telemetry(without("gpu"), Reason::MissingField, "gpu is missing")).await;
    check("no_time", Case::telemetry(without("time"), Reason::MissingField, "time is missing")).await;
    let empty = reading("", START + AT);
    check("empty_gpu", Case::telemetry(empty, Reason::MissingField, "gpu is empty")).await;
}

#[tokio::test]
async fn bad_value() {
    let good = reading("g-0", START + AT);
    let util = good.replace("0.5", "1.7");
    check("util", Case::telemetry(util, Reason::BadValue, "util has a wrong type or is out of range")).await;
    let long = good.replace("g-0", &"g".repeat(65));
    check("long", Case::telemetry(long, Reason::BadValue, "gpu is longer than 64 bytes")).await;
    let zoneless = good.replace("Z\"", "\"");
    check("zone", Case::telemetry(zoneless, Reason::BadValue, "time is not RFC 3339 with a zone")).await;
}

/// The good elements of a message count, although all of it is in quarantine.
#[tokio::test]
async fn a_bad_element_among_good_ones() {
    let second = START + AT;
    let (g0, g1) = (reading("g-0", second), reading("g-1", second));
    let wrong = g0.replace("0.5", "\"high\"");
    let array = format!("[{g0},{wrong},{g1}]");
    check("array", Case { silent: 2, ..Case::telemetry(array, Reason::BadValue, "element 1: util") }).await;
    let node = format!(
        r#"{{"server":"srv","time":"{}","gpus":[{{"gpu":"g-0","util":1}},{{"util":1}},{{"gpu":"g-1","util":1}}]}}"#,
        show_second(second)
    );
    check("node", Case { silent: 2, ..Case::telemetry(node, Reason::MissingField, "gpus[1]: gpu is missing") }).await;
}

#[tokio::test]
async fn times_that_cannot_be() {
    // The record is appended two seconds after the second it stands at.
    let ahead = reading("g-0", START + AT + 2 + 301);
    check("ahead", Case::telemetry(ahead, Reason::TimeAhead, "time is 301 s ahead of the log time")).await;
    let behind = reading("g-0", START + AT + 2 - 35 * 86_400 - 1);
    check("behind", Case::telemetry(behind, Reason::TimeBehind, "time is 3024001 s behind the log time")).await;
}

#[tokio::test]
async fn too_large() {
    let mut large = reading("g-0", START + AT).into_bytes();
    large.resize(MESSAGE_BYTES_MAX + 1, b' ');
    check("large", Case::telemetry(large.clone(), Reason::TooLarge, "1048577 bytes, at most 1048576")).await;
    check("large_event", Case::event(large, Reason::TooLarge, "1048577 bytes, at most 1048576")).await;
}

#[tokio::test]
async fn too_many_identities() {
    let third = reading("g-2", START + AT);
    let case = Case::telemetry(third, Reason::TooManyIdentities, "limits.identities_per_partition");
    check("identities", Case { identities: 2, ..case }).await;
}

#[tokio::test]
async fn malformed_event() {
    check("event_json", Case::event("{\"specversion\":", Reason::MalformedEvent, "not a CloudEvent in JSON")).await;
    let versionless = event("gpu.lease.ended", START + 5, r#"{"lease":"l"}"#).replace("1.0", "0.3");
    check("event_version", Case::event(versionless, Reason::MalformedEvent, "specversion must be \"1.0\"")).await;
    let slots = event("gpu.server.registered", START, r#"{"server":"srv","supplier":"other","slots":0}"#);
    check("event_data", Case::event(slots, Reason::MalformedEvent, "slots must be 1 to 256, not 0")).await;
}

#[tokio::test]
async fn unknown_event() {
    let unknown = event("gpu.lease.paused", START + 5, r#"{"lease":"l"}"#);
    check("event_type", Case::event(unknown, Reason::UnknownEvent, "\"gpu.lease.paused\" is not known")).await;
}
