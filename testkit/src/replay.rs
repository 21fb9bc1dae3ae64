//! A recorded series replayed: utilisation and memory of GPU containers of a production cluster, at their own cadence,
//! as partition log files, with the truth read from the series by brute force.
//!
//! Each container becomes a GPU on a server of its own, both named `container-<hash>`, leased from its first to its last
//! reading under one contract.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::fleet::{Event, EventKind, FleetError, LogOptions, LogWriter, RatingWindow, Record, SimpleContract, Topic};
use crate::oracle::{Oracle, OracleError, Truth};

#[derive(Clone, Copy, Debug)]
pub struct ReplayOptions {
    /// Seconds for which a reading vouches, from its own second on.
    pub vouches_for: i64,
    pub telemetry_partitions: u32,
    pub logs: LogOptions,
}

/// What was replayed and what is true of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    pub containers: BTreeMap<String, ContainerTruth>,
    pub truth: Truth,
    pub duty_cycle: Findings,
    pub memory: Findings,
}

/// Seconds of a container, over leased and other seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerTruth {
    pub present_seconds: u64,
    pub busy_seconds: u64,
}

/// What the file of a metric looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Findings {
    pub rows: u64,
    /// Lines that are not a row: each is left out.
    pub odd_lines: u64,
    pub not_finite: u64,
    /// Rows of a container and time that was there before.
    pub duplicates: u64,
    /// Rows that go back in their container's time.
    pub disordered: u64,
    pub containers: u64,
    pub longest_gap_seconds: i64,
}

#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("cannot unpack {path} with tar: {problem}")]
    Tar { path: std::path::PathBuf, problem: String },
    #[error("{0} holds no rows")]
    Empty(std::path::PathBuf),
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error(transparent)]
    Oracle(#[from] OracleError),
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
}

const SERIES: [(&str, [&str; 3]); 2] = [
    ("pod_gpu_duty_cycle_anon.tar.gz", ["value", "timestamp_anon", "container_ip"]),
    ("pod_gpu_memory_used_bytes_anon.tar.gz", ["timestamp_anon", "value", "container_ip"]),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Metric {
    DutyCycle,
    Memory,
}

#[derive(Clone, Debug)]
struct Row {
    time_us: i64,
    value: f64,
    container: String,
}

const SECOND_US: i64 = 1_000_000;
/// A collector's way to the log.
const LATENCY_US: i64 = SECOND_US;

/// Whether the recorded series is there.
pub fn is_recorded(series: &Path) -> bool {
    SERIES.iter().all(|(name, _)| series.join(name).is_file())
}

/// Replays the series in the directory `series` into partition log files below `target`.
pub fn recorded_series(series: &Path, target: &Path, options: ReplayOptions) -> Result<Replayed, ReplayError> {
    let (duty_cycle, duty_findings) = read_metric(series, SERIES[0])?;
    let (memory, memory_findings) = read_metric(series, SERIES[1])?;
    let duty_cycle = duty_cycle.into_iter().map(|row| (Metric::DutyCycle, row));
    let memory = memory.into_iter().map(|row| (Metric::Memory, row));
    let mut rows: Vec<(Metric, Row)> = duty_cycle.chain(memory).collect();
    rows.sort_by_key(|(_, row)| row.time_us);
    let (Some((_, first)), Some((_, last))) = (rows.first(), rows.last()) else {
        return Err(ReplayError::Empty(series.to_owned()));
    };
    let from = first.time_us.div_euclid(SECOND_US);
    let to = last.time_us.div_euclid(SECOND_US) + options.vouches_for;

    let mut oracle = Oracle::new(from, to);
    let mut seconds: BTreeMap<String, (BTreeSet<i64>, BTreeSet<i64>)> = BTreeMap::new();
    let mut records = Vec::with_capacity(rows.len());
    for event in lifecycle(&rows, from) {
        records.push(Record {
            topic: Topic::Lifecycle,
            partition: 0,
            log_time_us: event.time_us + LATENCY_US,
            key: event.subject().as_bytes().to_vec(),
            payload: event.to_json()?,
            readings: 0,
        });
        oracle.event(event);
    }
    for (metric, row) in &rows {
        let name = format!("container-{}", row.container);
        let is_busy = *metric == Metric::DutyCycle && row.value > 0.0;
        let second = row.time_us.div_euclid(SECOND_US);
        let track = oracle.track(&name, &name);
        oracle.mark(track, second, options.vouches_for, is_busy);
        let (present, busy) = seconds.entry(name.clone()).or_default();
        present.extend(second..second + options.vouches_for);
        if is_busy {
            busy.extend(second..second + options.vouches_for);
        }
        records.push(Record {
            topic: Topic::Telemetry,
            partition: partition_of(&name, options.telemetry_partitions),
            log_time_us: row.time_us + LATENCY_US,
            payload: reading(*metric, row, &name),
            key: name.into_bytes(),
            readings: 1,
        });
    }
    records.sort_by_key(|record| record.log_time_us);
    let mut writer = LogWriter::create(target, options.telemetry_partitions, 1, options.logs)?;
    for record in &records {
        writer.write(record)?;
    }
    writer.finish()?;

    let count = |(name, (present, busy)): (String, (BTreeSet<i64>, BTreeSet<i64>))| {
        let truth = ContainerTruth { present_seconds: present.len() as u64, busy_seconds: busy.len() as u64 };
        (name, truth)
    };
    Ok(Replayed {
        containers: seconds.into_iter().map(count).collect(),
        truth: oracle.truth()?,
        duty_cycle: duty_findings,
        memory: memory_findings,
    })
}

fn read_metric(series: &Path, (name, columns): (&str, [&str; 3])) -> Result<(Vec<Row>, Findings), ReplayError> {
    let path = series.join(name);
    let cannot_unpack = |problem: String| ReplayError::Tar { path: path.clone(), problem };
    let output =
        Command::new("tar").arg("-xzOf").arg(&path).output().map_err(|error| cannot_unpack(error.to_string()))?;
    if !output.status.success() {
        let problem = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(cannot_unpack(problem));
    }
    Ok(read_rows(&String::from_utf8_lossy(&output.stdout), columns))
}

fn read_rows(csv: &str, columns: [&str; 3]) -> (Vec<Row>, Findings) {
    let mut findings = Findings::default();
    let mut rows = Vec::new();
    let mut latest: BTreeMap<String, i64> = BTreeMap::new();
    let mut known = BTreeSet::new();
    for line in csv.lines() {
        let fields: Vec<&str> = line.split(',').collect();
        if fields == columns {
            continue;
        }
        let field = |name| {
            let at = columns.iter().position(|column| *column == name)?;
            fields.get(at).copied().filter(|text| !text.is_empty())
        };
        let number = |name| field(name)?.parse::<f64>().ok();
        let (Some(value), Some(seconds), Some(container), 3) =
            (number("value"), number("timestamp_anon"), field("container_ip"), fields.len())
        else {
            findings.odd_lines += 1;
            continue;
        };
        findings.rows += 1;
        if !value.is_finite() || !seconds.is_finite() {
            findings.not_finite += 1;
            continue;
        }
        let time_us = (seconds * SECOND_US as f64).round() as i64;
        findings.duplicates += u64::from(!known.insert((container.to_owned(), time_us)));
        let before = latest.entry(container.to_owned()).or_insert(time_us);
        findings.disordered += u64::from(time_us < *before);
        let gap_seconds = (time_us - *before) / SECOND_US;
        findings.longest_gap_seconds = findings.longest_gap_seconds.max(gap_seconds);
        *before = time_us.max(*before);
        rows.push(Row { time_us, value, container: container.to_owned() });
    }
    findings.containers = latest.len() as u64;
    (rows, findings)
}

/// `{"gpu":…,"server":…,"time":microseconds,"util":0.31}` or `…,"mem_bytes":…}`
fn reading(metric: Metric, row: &Row, name: &str) -> Vec<u8> {
    let time_us = row.time_us;
    let value = match metric {
        Metric::DutyCycle => format!(r#""util":{}"#, row.value / 100.0),
        Metric::Memory => format!(r#""mem_bytes":{}"#, row.value.round() as u64),
    };
    format!(r#"{{"gpu":"{name}","server":"{name}","time":{time_us},{value}}}"#).into_bytes()
}

/// Everything registered and signed a minute before the first reading; a lease per container.
fn lifecycle(rows: &[(Metric, Row)], first_second: i64) -> Vec<Event> {
    let before_us = (first_second - 60) * SECOND_US;
    let mut spans: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for (_, row) in rows {
        let from = row.time_us.div_euclid(SECOND_US);
        let (_, to) = spans.entry(&row.container).or_insert((from, from));
        *to = from + 1;
    }
    let mut kinds = vec![(
        before_us,
        SimpleContract {
            contract: "contract-recorded".to_owned(),
            renter: "renter-recorded".to_owned(),
            currency: "USD".to_owned(),
            price_per_gpu_hour: "2.50".to_owned(),
            supplier_share_percent: "80".to_owned(),
            rating_window: RatingWindow::Hour,
        }
        .signed(before_us),
    )];
    for (container, (from, to)) in spans {
        let name = format!("container-{container}");
        let lease = format!("lease-{container}");
        let (from_us, to_us) = (from * SECOND_US, to * SECOND_US);
        kinds.push((
            before_us,
            EventKind::ServerRegistered { server: name.clone(), supplier: "supplier-recorded".to_owned(), slots: 1 },
        ));
        kinds.push((before_us, EventKind::GpuRegistered { server: name.clone(), slot: 0, gpu: name.clone() }));
        kinds.push((
            from_us,
            EventKind::LeaseStarted {
                lease: lease.clone(),
                contract: "contract-recorded".to_owned(),
                server: name,
                slots: vec![0],
            },
        ));
        kinds.push((to_us, EventKind::LeaseEnded { lease }));
    }
    let event = |(number, (time_us, kind)): (usize, (i64, EventKind))| Event {
        source: "recorded-series".to_owned(),
        id: format!("e-{}", number + 1),
        time_us,
        kind,
    };
    kinds.into_iter().enumerate().map(event).collect()
}

fn partition_of(name: &str, partitions: u32) -> u32 {
    let sum: u32 = name.bytes().map(u32::from).sum();
    sum % partitions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_rows_are_counted() {
        let csv =
            "value,timestamp_anon,container_ip\n1.5,100.0,x\n\n0.0,157.0,x\n0.0,157.0,x\nNaN,160.0,x\n2,90,x\n2,90\n";
        let (rows, findings) = read_rows(csv, SERIES[0].1);
        let times: Vec<i64> = rows.iter().map(|row| row.time_us / SECOND_US).collect();
        assert_eq!(times, [100, 157, 157, 90]);
        let expected = Findings {
            rows: 5,
            odd_lines: 2,
            not_finite: 1,
            duplicates: 1,
            disordered: 1,
            containers: 1,
            longest_gap_seconds: 57,
        };
        assert_eq!(findings, expected);
    }

    /// The real series, where it lies beside the repository.
    #[test]
    fn the_recorded_series_is_replayed() {
        let series = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/real-gpu-series");
        if !is_recorded(&series) {
            eprintln!("skipped: there is no recorded series in {}", series.display());
            return;
        }
        let target = tempfile::tempdir().unwrap();
        let options = ReplayOptions { vouches_for: 60, telemetry_partitions: 2, logs: LogOptions::default() };
        let replayed = recorded_series(&series, target.path(), options).unwrap();
        println!("{:#?}\n{:#?}", replayed.duty_cycle, replayed.memory);
        assert_eq!(replayed.containers.len(), 144);
        let rows = replayed.duty_cycle.rows + replayed.memory.rows;
        assert_eq!(replayed.truth.readings_counted, rows);
        let leased: u64 = replayed.truth.seconds.iter().map(|it| it.leased()).sum();
        let present: u64 = replayed.containers.values().map(|it| it.present_seconds).sum();
        let unknown: u64 = replayed.truth.seconds.iter().map(|it| it.unknown).sum();
        println!("{leased} leased, {present} present, {unknown} unknown seconds");
        assert_eq!(leased, present + unknown - replayed.truth.leakage_seconds);
    }

    #[test]
    fn a_small_series_is_replayed() {
        let series = tempfile::tempdir().unwrap();
        let write = |name: &str, csv: &str| {
            let stem = name.replace(".tar.gz", ".csv");
            std::fs::write(series.path().join(&stem), csv).unwrap();
            let status = Command::new("tar").current_dir(series.path()).args(["-czf", name, &stem]).status();
            assert!(status.unwrap().success());
        };
        write(SERIES[0].0, "value,timestamp_anon,container_ip\n0.0,1000.0,x\n50.0,1057.0,x\n");
        write(SERIES[1].0, "timestamp_anon,value,container_ip\n1114.0,4096.0,x\n1500.0,1.0,y\n");
        assert!(is_recorded(series.path()));
        let target = tempfile::tempdir().unwrap();
        let options = ReplayOptions { vouches_for: 60, telemetry_partitions: 2, logs: LogOptions::default() };
        let replayed = recorded_series(series.path(), target.path(), options).unwrap();
        let x = replayed.containers["container-x"];
        assert_eq!((x.present_seconds, x.busy_seconds), (174, 60));
        let seconds: Vec<[u64; 4]> =
            replayed.truth.seconds.iter().map(|it| [it.used, it.idle, it.unknown, it.billed]).collect();
        // From 1000 to 1114 and its own second; y has one second only.
        assert_eq!(seconds, [[58, 57, 0, 115], [0, 1, 0, 1]]);
        assert_eq!(replayed.truth.leakage_seconds, 59 + 59);
    }
}
