use std::collections::BTreeMap;

use hydrometer_rating::classes::{ClassSeconds, Masks};
use hydrometer_rating::history::{History, Span};
use hydrometer_rating::quantities::{Evidence, quantities};

use super::*;
use crate::oracle::Oracle;

fn run(plan: &Plan) -> (Vec<Record>, Outcome) {
    let mut records = Vec::new();
    let outcome = generate(plan, &mut |record| {
        records.push(record);
        Ok(())
    })
    .unwrap();
    (records, outcome)
}

#[test]
fn the_same_plan_gives_the_same_bytes() {
    let plan = Plan::small(7);
    assert_eq!(run(&plan), run(&plan));
    assert_ne!(run(&plan).0, run(&plan.shuffled(8)).0);
}

#[test]
fn another_arrival_has_the_same_truth() {
    for seed in 0..12 {
        let plan = Plan::small(seed);
        let truth = run(&plan).1.truth;
        for shuffle_seed in 100..102 {
            assert_eq!(run(&plan.shuffled(shuffle_seed)).1.truth, truth);
        }
        let singles = Plan { formats: Formats::Only(Format::Single), ..plan };
        assert_eq!(run(&singles).1.truth, truth);
    }
}

#[test]
fn records_come_in_the_order_of_log_time() {
    let (records, outcome) = run(&Plan::small(3));
    assert!(records.is_sorted_by_key(|record| record.log_time_us));
    let of_topic = |topic| records.iter().filter(|it| it.topic == topic).count() as u64;
    assert_eq!(of_topic(Topic::Telemetry), outcome.tally.telemetry_records);
    assert_eq!(of_topic(Topic::Lifecycle), outcome.tally.lifecycle_records);
}

#[test]
fn every_fault_occurs_in_the_demo() {
    let outcome = generate(&Plan::demo(), &mut |_| Ok(())).unwrap();
    for fault in Fault::ALL {
        assert!(outcome.tally.count(fault) > 0, "{fault:?} never happened");
    }
    for reason in
        ["malformed", "missing_field", "bad_value", "time_ahead", "time_behind", "malformed_event", "unknown_event"]
    {
        assert!(outcome.tally.quarantine[reason] > 0, "no {reason}");
    }
    assert!(!outcome.truth.refused.is_empty());
    let sum = |field: fn(&crate::oracle::LeaseSeconds) -> u64| outcome.truth.seconds.iter().map(field).sum::<u64>();
    assert!(sum(|it| it.used) > 0 && sum(|it| it.idle) > 0 && sum(|it| it.unknown) > 0);
    assert!(sum(|it| it.down) > 0 && sum(|it| it.suspended) > 0 && sum(|it| it.maintenance) > 0);
    assert!(sum(|it| it.billed) > 0 && sum(|it| it.paid) > 0);
    assert!(outcome.truth.leakage_seconds > 0);
}

#[test]
fn without_faults_all_is_plain() {
    let plan = Plan { faults: Faults::none(), ..Plan::small(5) };
    let (_, outcome) = run(&plan);
    let truth = outcome.truth;
    let readings = u64::from(plan.servers * plan.gpus_per_server * plan.seconds);
    assert_eq!(truth.readings_emitted, readings);
    assert_eq!(truth.readings_counted, readings);
    assert_eq!(outcome.tally.readings_sent, readings);
    assert!(outcome.tally.faults.is_empty() && outcome.tally.quarantine.is_empty());
    assert!(truth.seconds.iter().all(|it| it.unknown == 0 && it.down == 0 && it.maintenance == 0));
}

/// Reads the messages again, by another way than the one they were written by: an oracle that hears only what arrives
/// comes to the same truth.
#[test]
fn the_messages_say_what_the_oracle_noted() {
    for seed in 0..12 {
        let plan = Plan::small(seed);
        let (records, outcome) = run(&plan);
        let start = plan.start_us / time::SECOND_US;
        let mut oracle = Oracle::new(start - 60, start + i64::from(plan.seconds) + 600);
        let mut quarantine: BTreeMap<String, u64> = BTreeMap::new();
        let mut sound = 0;
        for record in &records {
            let mut reason = None;
            if record.topic == Topic::Lifecycle {
                match decode_event(&record.payload) {
                    Ok(event) => oracle.event(event),
                    Err(bad) => reason = Some(bad),
                }
            } else {
                for reading in decode(&record.payload) {
                    match reading.and_then(|reading| check(&reading, record.log_time_us)) {
                        Ok((server, gpu, second, is_busy)) => {
                            sound += 1;
                            oracle.reading(&server, &gpu, second, is_busy);
                        }
                        Err(bad) => reason = reason.or(Some(bad)),
                    }
                }
            }
            if let Some(reason) = reason {
                *quarantine.entry(reason.to_owned()).or_default() += 1;
            }
        }
        assert_eq!(sound, outcome.tally.readings_sent);
        assert_eq!(quarantine, outcome.tally.quarantine);
        let truth = crate::oracle::Truth {
            readings_emitted: outcome.truth.readings_emitted,
            readings_counted: outcome.truth.readings_counted,
            ..oracle.truth().unwrap()
        };
        assert_eq!(truth, outcome.truth);
    }
}

/// What was said of a GPU on a server, as the rating hears of it.
struct Heard<'a> {
    server: &'a str,
    masks: &'a BTreeMap<(String, String, i64), Masks>,
}

impl Evidence for Heard<'_> {
    fn masks(&self, gpu: &str, minute: i64) -> Masks {
        self.masks.get(&(self.server.to_owned(), gpu.to_owned(), minute)).copied().unwrap_or_default()
    }

    fn fatal(&self, _: &str) -> &[i64] {
        &[]
    }

    fn energy(&self, _: &str, _: Span) -> i64 {
        0
    }

    fn memory(&self, _: &str, _: i64) -> Option<i64> {
        None
    }
}

/// The two ways of counting, a second at a time and a mask at a time, agree on every lease, slot, GPU and hour of random fleets.
#[test]
fn the_rating_counts_what_the_oracle_counts() {
    let mut maintained = 0;
    for seed in 0..16 {
        let plan = Plan::small(seed);
        let (records, outcome) = run(&plan);
        let mut history = History::default();
        let mut masks: BTreeMap<(String, String, i64), Masks> = BTreeMap::new();
        for record in &records {
            if record.topic == Topic::Lifecycle {
                history.insert(hydrometer_schemas::lifecycle::Event::parse(&record.payload));
                continue;
            }
            for reading in decode(&record.payload) {
                let sound = reading.and_then(|reading| check(&reading, record.log_time_us));
                let Ok((server, gpu, second, is_busy)) = sound else { continue };
                let noted = masks.entry((server, gpu, second.div_euclid(60))).or_default();
                noted.present |= 1 << second.rem_euclid(60);
                noted.busy |= u64::from(is_busy) << second.rem_euclid(60);
            }
        }
        let mut counted: BTreeMap<(String, u32, Option<String>, i64), ClassSeconds> = BTreeMap::new();
        for server in history.servers() {
            let evidence = Heard { server: &server.server, masks: &masks };
            for lease in &server.leases {
                let versions = history.versions(&lease.contract);
                for hour in lease.span.from.div_euclid(3600)..=(lease.span.to - 1).div_euclid(3600) {
                    let window = Span { from: hour * 3600, to: hour * 3600 + 3600 };
                    let (quantities, unrated) = quantities(server, lease, versions, window, &evidence);
                    assert!(unrated.is_empty(), "{unrated:?}");
                    for (key, quantity) in quantities {
                        let row = (lease.lease.clone(), key.slot, key.gpu, hour * 3_600_000_000);
                        let sum = counted.entry(row).or_default();
                        *sum = sum.plus(quantity.classes);
                    }
                }
            }
        }
        let expected = outcome.truth.seconds.iter().map(|it| {
            let row = (it.lease.clone(), it.slot, it.gpu.clone(), it.hour_us);
            (row, [it.used, it.idle, it.unknown, it.down, it.suspended, it.maintenance, it.billed, it.paid])
        });
        let found = counted.into_iter().map(|(row, it)| {
            let all = [it.used, it.idle, it.unknown, it.down, it.suspended, it.maintenance, it.billed, it.paid];
            (row, all.map(|seconds| seconds as u64))
        });
        assert_eq!(found.collect::<BTreeMap<_, _>>(), expected.collect(), "seed {seed}");
        maintained += outcome.truth.seconds.iter().map(|it| it.maintenance).sum::<u64>();
    }
    assert!(maintained > 0);
}

fn decode_event(payload: &[u8]) -> Result<Event, &'static str> {
    let json: Json = serde_json::from_slice(payload).map_err(|_| "malformed_event")?;
    if json["type"] == "gpu.fan.replaced" {
        return Err("unknown_event");
    }
    let text = |name: &str| json[name].as_str().unwrap().to_owned();
    let time = chrono::DateTime::parse_from_rfc3339(&text("time")).unwrap();
    Ok(Event {
        source: text("source"),
        id: text("id"),
        time_us: time.timestamp_micros(),
        kind: serde_json::from_value(json).map_err(|_| "malformed_event")?,
    })
}

type Json = serde_json::Value;

fn decode(payload: &[u8]) -> Vec<Result<Json, &'static str>> {
    let with = |entry: &Json, name: &str, value: &Json| {
        let mut entry = entry.clone();
        entry[name] = value.clone();
        entry
    };
    let node = |server: &Json, node: &Json| -> Vec<Result<Json, &'static str>> {
        let gpus = node["gpus"].as_array().unwrap().iter();
        gpus.map(|gpu| Ok(with(&with(gpu, "server", server), "time", &node["time"]))).collect()
    };
    match serde_json::from_slice::<Json>(payload) {
        Ok(Json::Array(readings)) => readings.into_iter().map(Ok).collect(),
        Ok(batch) if batch.get("seconds").is_some() => {
            batch["seconds"].as_array().unwrap().iter().flat_map(|second| node(&batch["server"], second)).collect()
        }
        Ok(batch) if batch.get("gpus").is_some() => node(&batch["server"], &batch),
        Ok(reading @ Json::Object(_)) => vec![Ok(reading)],
        _ => vec![Err("malformed")],
    }
}

fn check(reading: &Json, log_time_us: i64) -> Result<(String, String, i64, bool), &'static str> {
    let text = |name| match &reading[name] {
        Json::Null => Err("missing_field"),
        Json::String(text) if text.is_empty() => Err("missing_field"),
        Json::String(text) if text.len() <= 64 => Ok(text.clone()),
        _ => Err("bad_value"),
    };
    let time_us = match &reading["time"] {
        Json::Null => return Err("missing_field"),
        Json::Number(number) => number.as_i64().ok_or("bad_value")?,
        Json::String(text) => chrono::DateTime::parse_from_rfc3339(text).map_err(|_| "bad_value")?.timestamp_micros(),
        _ => return Err("bad_value"),
    };
    let (server, gpu) = (text("server")?, text("gpu")?);
    let is_busy = match reading["util"].as_f64() {
        Some(blank) if blank > 1e14 => false,
        Some(util) if (0.0..=1.0).contains(&util) => util > 0.0,
        _ => return Err("bad_value"),
    };
    if !reading["healthy"].is_null() && !reading["healthy"].is_boolean() {
        return Err("bad_value");
    }
    const MINUTE_US: i64 = 60_000_000;
    if time_us > log_time_us + 5 * MINUTE_US {
        return Err("time_ahead");
    }
    if time_us < log_time_us - 35 * 1440 * MINUTE_US {
        return Err("time_behind");
    }
    Ok((server, gpu, time_us.div_euclid(1_000_000), is_busy))
}

#[test]
fn logs_are_read_as_they_were_written() {
    for zstd in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let plan = Plan::small(11);
        let outcome = write_logs(directory.path(), &plan, LogOptions { zstd }, &mut |_| {}).unwrap();
        let (records, again) = run(&plan);
        assert_eq!(outcome, again);
        let ending = if zstd { "log.zst" } else { "log" };
        for (topic, partitions) in
            [(Topic::Telemetry, plan.telemetry_partitions), (Topic::Lifecycle, plan.lifecycle_partitions)]
        {
            for partition in 0..partitions {
                let name = format!("{}/{partition}.{ending}", topic.name());
                let reader = LogReader::open(&directory.path().join(name), topic, partition).unwrap();
                let read: Vec<Record> = reader.map(Result::unwrap).collect();
                let written: Vec<Record> = records
                    .iter()
                    .filter(|record| record.topic == topic && record.partition == partition)
                    .map(|record| Record { readings: 0, ..record.clone() })
                    .collect();
                assert!(read == written, "{topic:?} {partition}");
            }
        }
        let truth = std::fs::read(directory.path().join("truth.json")).unwrap();
        let truth: Outcome = serde_json::from_slice(&truth).unwrap();
        assert_eq!(truth, outcome);
    }
}

#[test]
fn a_plan_is_a_document() {
    let text = serde_json::to_string(&Plan::demo()).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), Plan::demo());
}

/// `cargo test --release -p hydrometer-testkit -- --ignored --nocapture speed`
#[test]
#[ignore = "a measurement"]
fn speed_of_the_demo() {
    let begun = std::time::Instant::now();
    let (mut records, mut bytes) = (0u64, 0);
    let outcome = generate(&Plan::demo(), &mut |record| {
        records += 1;
        bytes += record.payload.len();
        Ok(())
    })
    .unwrap();
    let elapsed = begun.elapsed();
    println!("{} readings in {records} records of {bytes} bytes in {elapsed:?}", outcome.tally.readings_sent);
    println!("{:#?}", outcome.tally);
    let directory = tempfile::tempdir().unwrap();
    for zstd in [false, true] {
        let begun = std::time::Instant::now();
        write_logs(directory.path(), &Plan::demo(), LogOptions { zstd }, &mut |_| {}).unwrap();
        println!("to files (zstd: {zstd}) in {:?}", begun.elapsed());
    }
}

/// A document that the reader of contracts refuses would make a fleet without a contract.
#[test]
fn random_contracts_are_contracts() {
    use hydrometer_rating::terms::{Terms, compile, contradicts};
    for seed in 0..60 {
        for (contract, used) in run(&Plan { seconds: 60, ..Plan::of_contracts(seed) }).1.truth.contracts {
            let mut before: Option<Terms> = None;
            for document in used.documents().unwrap() {
                let terms =
                    compile(&document).unwrap_or_else(|m| panic!("seed {seed}, {contract}: {m:#?}\n{document:#?}"));
                let contradictions = before.map(|before| contradicts(&before, &terms)).unwrap_or_default();
                assert!(contradictions.is_empty(), "seed {seed}, {contract}: {contradictions:#?}");
                before = Some(terms);
            }
        }
    }
}
