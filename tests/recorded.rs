//! Utilisation and memory of real GPU containers, at their own cadence of some 57 seconds, through the whole path: every container's
//! seconds equal what this test reads from the CSV by itself, second by second.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::{Deployment, assert_proven};
use hydrometer_pipeline::source::files::{FileSource, FileSourceConfig, Interleave};
use hydrometer_pipeline::worker::{Summary, Worker};
use hydrometer_schemas::time::{MICROS_PER_SECOND, SECONDS_PER_MINUTE};
use hydrometer_sinks::usage::merged;
use hydrometer_sinks::{Warehouse, parquet, rated, usage};
use hydrometer_testkit::fleet::{LogOptions, Outcome, Tally};
use hydrometer_testkit::replay::{ReplayOptions, is_recorded, recorded_series};

/// A reading vouches for its own second and the 59 that follow.
const VOUCHES_FOR: i64 = 60;

/// A row of a metric's CSV.
struct Row {
    container: String,
    second: i64,
    is_busy: bool,
}

/// What the CSV says of one container: every second of the recording, and where its first and its last reading lie.
struct Recorded {
    seconds: Vec<Second>,
    first: usize,
    last: usize,
}

#[derive(Debug, Default, Clone, Copy)]
struct Second {
    present: bool,
    busy: bool,
}

/// The seconds of a container, by whoever counts them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Seconds {
    used: i64,
    idle: i64,
    unknown: i64,
    /// Over leased and other seconds.
    present: i64,
    busy: i64,
}

/// Reads one metric's CSV: a column of values, one of seconds since 1970, one of containers.
fn read_csv(archive: &Path, is_utilisation: bool) -> Vec<Row> {
    let unpacked = Command::new("tar").arg("-xzO").arg("-f").arg(archive).output().unwrap();
    assert!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    let text = String::from_utf8(unpacked.stdout).unwrap();
    let mut lines = text.lines();
    let header: Vec<&str> = lines.next().unwrap().split(',').collect();
    let column = |name: &str| header.iter().position(|title| *title == name).unwrap();
    let (value, time, container) = (column("value"), column("timestamp_anon"), column("container_ip"));
    let row = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        let (value, time): (f64, f64) = (fields[value].parse().unwrap(), fields[time].parse().unwrap());
        assert!(value.is_finite() && time.is_finite() && !fields[container].is_empty(), "{line:?}");
        let container = format!("container-{}", fields[container]);
        Row { container, second: time.floor() as i64, is_busy: is_utilisation && value > 0.0 }
    };
    lines.map(row).collect()
}

/// Marks what every reading vouches for, on an array of seconds for each container; returns the arrays and their first second.
fn mark(rows: &[Row]) -> (BTreeMap<String, Recorded>, i64) {
    let (from, to) = (rows.iter().map(|row| row.second).min(), rows.iter().map(|row| row.second).max());
    let (from, to) = (from.unwrap(), to.unwrap() + VOUCHES_FOR);
    let length = (to - from) as usize;
    let mut containers: BTreeMap<String, Recorded> = BTreeMap::new();
    for row in rows {
        let at = (row.second - from) as usize;
        let recorded = containers.entry(row.container.clone()).or_insert_with(|| Recorded {
            seconds: vec![Second::default(); length],
            first: at,
            last: at,
        });
        recorded.first = recorded.first.min(at);
        recorded.last = recorded.last.max(at);
        for second in &mut recorded.seconds[at..at + VOUCHES_FOR as usize] {
            second.present = true;
            second.busy |= row.is_busy;
        }
    }
    (containers, from)
}

impl Recorded {
    /// Walks the container's lease, from its first reading to the second of its last.
    fn count(&self) -> Seconds {
        let mut count = Seconds::default();
        for second in &self.seconds {
            count.present += i64::from(second.present);
            count.busy += i64::from(second.busy);
        }
        for second in &self.seconds[self.first..=self.last] {
            match (second.present, second.busy) {
                (true, true) => count.used += 1,
                (true, false) => count.idle += 1,
                (false, _) => count.unknown += 1,
            }
        }
        count
    }

    /// In how many minutes of the clock it spoke; `from` is its first second.
    fn minutes(&self, from: i64) -> u64 {
        let spoken = self.seconds.iter().zip(from..).filter(|(second, _)| second.present);
        spoken.map(|(_, at)| at.div_euclid(SECONDS_PER_MINUTE)).collect::<BTreeSet<i64>>().len() as u64
    }
}

async fn run_replay(deployment: &Deployment) -> Summary {
    let mut config = deployment.config();
    config.windows.vouches_for_s = VOUCHES_FOR as u32;
    config.commit.interval_ms = 200;
    let source = FileSource::open(FileSourceConfig {
        dir: deployment.path("logs"),
        topics: vec![Arc::from("gpu.telemetry"), Arc::from("gpu.lifecycle")],
        batch_records: 10_000,
        interleave: Interleave::LogTime { slack: 30 * MICROS_PER_SECOND },
        until: None,
        lockstep: true,
    });
    let db = deployment.database().await;
    let worker = Worker::new(config, Box::new(source.unwrap()), db, deployment.warehouse()).await.unwrap();
    worker.run(std::future::pending()).await.unwrap()
}

/// What the published folders say of each container.
async fn published(warehouse: &Warehouse) -> BTreeMap<String, Seconds> {
    let mut containers: BTreeMap<String, Seconds> = BTreeMap::new();
    for name in warehouse.list("rated_usage").await.unwrap() {
        for batch in parquet::decode(&name, warehouse.read(&name).await.unwrap()).unwrap() {
            for row in rated::from_batch(&batch).unwrap() {
                let Some(gpu) = &row.gpu else { panic!("a record without a GPU: {row:?}") };
                let sums = containers.entry(gpu.clone()).or_default();
                sums.used += row.quantity.classes.used;
                sums.idle += row.quantity.classes.idle;
                sums.unknown += row.quantity.classes.unknown;
                assert_eq!((row.quantity.classes.down, row.quantity.classes.suspended), (0, 0), "{row:?}");
                assert_eq!(
                    (row.quantity.classes.billed, row.quantity.classes.paid),
                    (row.quantity.classes.leased(), row.quantity.classes.leased())
                );
            }
        }
    }
    let mut rows = Vec::new();
    for name in warehouse.list("usage").await.unwrap() {
        for batch in parquet::decode(&name, warehouse.read(&name).await.unwrap()).unwrap() {
            rows.extend(usage::from_batch(&batch).unwrap());
        }
    }
    let sum: u32 = rows.iter().map(|row| row.present.count_ones()).sum();
    let merged = merged(rows);
    let of_minutes: u32 = merged.values().map(|row| row.present.count_ones()).sum();
    assert_eq!(sum, of_minutes, "sums over all revisions are right");
    for row in merged.into_values() {
        assert_eq!(row.server, row.gpu);
        let sums = containers.entry(row.gpu.to_string()).or_default();
        sums.present += i64::from(row.present.count_ones());
        sums.busy += i64::from(row.busy.count_ones());
    }
    containers
}

#[tokio::test]
async fn every_container_has_the_seconds_of_the_recording() {
    let series = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/real-gpu-series");
    if !is_recorded(&series) {
        println!("skipped: there is no recorded series beside the repository");
        return;
    }
    let mut rows = read_csv(&series.join("pod_gpu_duty_cycle_anon.tar.gz"), true);
    rows.extend(read_csv(&series.join("pod_gpu_memory_used_bytes_anon.tar.gz"), false));
    let (recorded, from) = mark(&rows);
    assert!(recorded.len() > 100 && rows.len() > 100_000, "{} containers, {} rows", recorded.len(), rows.len());

    let deployment = Deployment::new("recorded").await;
    let options = ReplayOptions { vouches_for: VOUCHES_FOR, telemetry_partitions: 3, logs: LogOptions { zstd: true } };
    let replayed = recorded_series(&series, &deployment.path("logs"), options).unwrap();
    let summary = run_replay(&deployment).await;
    assert_eq!((summary.counts.readings, summary.counts.quarantined), (rows.len() as u64, 0), "every row was read");

    let expected: BTreeMap<String, Seconds> =
        recorded.iter().map(|(name, container)| (name.clone(), container.count())).collect();
    let published = published(&deployment.warehouse()).await;
    assert_eq!(published.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>());
    let differences: Vec<String> = expected
        .iter()
        .filter(|(name, seconds)| published[*name] != **seconds)
        .map(|(name, seconds)| format!("{name}: the CSV says {seconds:?}, published {:?}", published[name]))
        .collect();
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));

    // The replay's own truth, which it counts for itself: each container, then everything to the ninth decimal.
    for (name, seconds) in &expected {
        let truth = &replayed.containers[name];
        assert_eq!(
            (truth.present_seconds as i64, truth.busy_seconds as i64),
            (seconds.present, seconds.busy),
            "{name}"
        );
    }
    let minutes: u64 = recorded.values().map(|container| container.minutes(from)).sum();
    assert_eq!(replayed.truth.metered_minutes, minutes);
    let total = |each: fn(&Seconds) -> i64| published.values().map(each).sum::<i64>() as u64;
    let truth: [u64; 3] = replayed.truth.seconds.iter().fold([0; 3], |sum, s| {
        assert_eq!((s.down, s.suspended), (0, 0));
        [sum[0] + s.used, sum[1] + s.idle, sum[2] + s.unknown]
    });
    assert_eq!([total(|s| s.used), total(|s| s.idle), total(|s| s.unknown)], truth);
    let outcome = Outcome { truth: replayed.truth, tally: Tally::default() };
    assert_proven(&deployment, &outcome, "the recorded series").await;
    assert!(truth.iter().all(|seconds| *seconds > 0), "used, idle and unknown seconds are all there: {truth:?}");
}
