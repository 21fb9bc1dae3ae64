use std::collections::{BTreeMap, BTreeSet};

use hydrometer_rating::classes::{ClassSeconds, Masks};
use hydrometer_rating::exhaustion::{Purse, Transition};
use hydrometer_rating::history::{History, Span};
use hydrometer_rating::quantities::{Evidence, quantities};
use hydrometer_schemas::lifecycle::{self, WalletKey};

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
    let plans =
        (0..12).flat_map(|seed| [Plan::small(seed), Plan::of_wallets(seed), Plan::of_wallets(seed).shuffled(1)]);
    let mut late = 0;
    for plan in plans {
        let (records, outcome) = run(&plan);
        let start = plan.start_us / time::SECOND_US;
        let mut oracle = Oracle::new(start - 60, start + i64::from(plan.seconds) + exporter::SLACK_SECONDS);
        let mut quarantine: BTreeMap<String, u64> = BTreeMap::new();
        let mut lifecycle_time: BTreeMap<u32, i64> = BTreeMap::new();
        let mut known = BTreeSet::new();
        let mut sound = 0;
        for record in &records {
            let mut reason = None;
            if record.topic == Topic::Lifecycle {
                match decode_event(&record.payload) {
                    Ok(event) => {
                        let second = event.time_us.div_euclid(time::SECOND_US);
                        let passed = lifecycle_time.entry(record.partition).or_insert(i64::MIN);
                        let is_new = known.insert((event.source.clone(), event.id.clone()));
                        if is_new && matches!(event.kind, EventKind::WalletGranted(_)) && *passed > second {
                            oracle.counts_from(&event.source, &event.id, *passed);
                            late += 1;
                        }
                        *passed = second.min(record.log_time_us.div_euclid(time::SECOND_US)).max(*passed);
                        oracle.event(event);
                    }
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
    assert!(late > 5, "{late} grants came late");
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

/// When wallets ran dry and were restored, and when credits were used up, in seconds.
type Dry = BTreeMap<(String, String), (Vec<(i64, i64)>, Vec<i64>)>;

/// Lets the rating find out when wallets run dry, and records it in the history.
fn let_time_pass(history: &mut History, until: i64) -> Dry {
    let wallets: Vec<WalletKey> = history.burned_wallets().cloned().collect();
    let mut dry = Dry::new();
    for wallet in wallets {
        if let Some(mut purse) = Purse::begin(history, &wallet) {
            while let Some(Transition { at, kind }) = purse.next(history, 0, until).unwrap() {
                let (source, id) = ("wallets".to_owned(), format!("{wallet:?} {} {at}", kind.name()));
                let key = lifecycle::EventKey { time: at, rank: kind.rank(), source, id };
                history.insert([lifecycle::Event { key, kind }]);
            }
        }
        let Some(found) = history.wallet(&wallet) else { continue };
        let spans = found.dry.iter().map(|dry| (dry.span.from, dry.span.to)).collect();
        let mut reached: Vec<i64> = found.credit_reached.values().flatten().copied().collect();
        reached.sort_unstable();
        dry.insert((wallet.renter, wallet.currency), (spans, reached));
    }
    dry.retain(|_, (spans, _)| !spans.is_empty());
    dry
}

/// The same by the oracle.
fn dry_by_oracle(outcome: &Outcome) -> Dry {
    let wallets = outcome.truth.wallets.iter().filter(|wallet| !wallet.dry.is_empty());
    let spans = |wallet: &crate::oracle::WalletTruth| {
        let all = wallet.dry.iter();
        all.map(|dry| (dry.exhausted, dry.restored.unwrap_or(hydrometer_schemas::time::FOREVER))).collect()
    };
    let reached = |wallet: &crate::oracle::WalletTruth| {
        let mut all: Vec<i64> = wallet.dry.iter().flat_map(|dry| dry.credit_reached.values().copied()).collect();
        all.sort_unstable();
        all
    };
    wallets.map(|it| ((it.renter.clone(), it.currency.clone()), (spans(it), reached(it)))).collect()
}

/// The two ways of counting, a second at a time and a mask at a time, agree on every lease, slot, GPU and hour of random fleets, and on
/// every second in which a wallet runs dry.
#[test]
fn the_rating_counts_what_the_oracle_counts() {
    let (mut maintained, mut ran_dry, mut reached) = (0, 0, 0);
    let plans = (0..16).map(Plan::small).chain((0..20).map(Plan::of_wallets));
    let plans = plans.chain((20..60).map(|seed| Plan::of_wallets(seed).shuffled(seed ^ 0xABCD)));
    for plan in plans {
        let seed = plan.seed;
        let (records, outcome) = run(&plan);
        let mut history = History::default();
        let mut lifecycle_time: BTreeMap<u32, i64> = BTreeMap::new();
        let mut masks: BTreeMap<(String, String, i64), Masks> = BTreeMap::new();
        for record in &records {
            if record.topic == Topic::Lifecycle {
                let Ok(mut event) = lifecycle::Event::parse(&record.payload) else { continue };
                let passed = lifecycle_time.entry(record.partition).or_insert(0);
                if let lifecycle::Kind::WalletGranted(grant) = &mut event.kind {
                    grant.counts_from = Some(event.key.time.max(*passed));
                }
                *passed = event.key.time.min(record.log_time_us.div_euclid(time::SECOND_US)).max(*passed);
                history.insert([event]);
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
        let dry = let_time_pass(&mut history, plan.end_us() / time::SECOND_US + 90);
        ran_dry += dry.values().map(|(spans, _)| spans.len()).sum::<usize>();
        reached += dry.values().map(|(_, reached)| reached.len()).sum::<usize>();
        assert_eq!(dry, dry_by_oracle(&outcome), "seed {seed}, {:?}", plan.wallets);
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
        assert_eq!(found.collect::<BTreeMap<_, _>>(), expected.collect(), "seed {seed}, {:?}", plan.wallets);
        maintained += outcome.truth.seconds.iter().map(|it| it.maintenance).sum::<u64>();
    }
    assert!(maintained > 0 && ran_dry > 50 && reached > 3, "{maintained} {ran_dry} {reached}");
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
