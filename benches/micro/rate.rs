//! Rating alone: masks of an hour and timelines to rated rows and amounts, on one core.
#![allow(clippy::unwrap_used)]

#[path = "figures.rs"]
mod figures;
#[path = "../common/fleet.rs"]
#[allow(dead_code)]
mod fleet;

use std::collections::BTreeMap;

use criterion::{Criterion, Throughput};
use fleet::{Fleet, GPUS_PER_SERVER};
use hydrometer_pipeline::derive::{Derived, added};
use hydrometer_pipeline::evidence::Evidence;
use hydrometer_rating::history::History;
use hydrometer_rating::keys::StateKey;
use hydrometer_rating::rate::{State, step};
use hydrometer_schemas::lifecycle::Event;
use hydrometer_schemas::time::{SECONDS_PER_HOUR, SECONDS_PER_MINUTE};
use hydrometer_sinks::usage::UsageRow;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let fleet = Fleet::new(4_000, 2 * SECONDS_PER_HOUR as u32);
    let mut history = History::default();
    let mut events = Vec::new();
    fleet
        .lifecycle(|event| {
            events.push(Event::parse(&event.to_json()?).map_err(|refusal| refusal.detail)?);
            Ok(())
        })
        .unwrap();
    history.insert(events);
    // The hour that begins with the leases is rated whole.
    let hour = (fleet.start + SECONDS_PER_HOUR - 1).div_euclid(SECONDS_PER_HOUR) * SECONDS_PER_HOUR;
    let mut evidence = Evidence::since(hour);
    for server in history.servers() {
        for gpu in server.occupancy.values().flatten() {
            let minutes = hour / SECONDS_PER_MINUTE..(hour + SECONDS_PER_HOUR) / SECONDS_PER_MINUTE;
            minutes.for_each(|minute| evidence.add(&metered(&server.server, &gpu.gpu, minute)));
        }
    }

    let gpu_hours = u64::from(fleet.gpus());
    let mut group = criterion.benchmark_group("rate");
    group.throughput(Throughput::Elements(gpu_hours)).sample_size(20);
    group.bench_function("hour", |b| {
        figures::measure(b, "gpu_hours_per_s", gpu_hours, Derived::default, |mut derived| {
            for server in history.servers() {
                derived.live(&history, server, 0, (hour, hour + SECONDS_PER_HOUR), &evidence);
            }
            let rows = &derived.rows[&hour];
            assert_eq!(rows.len() as u32, fleet.servers * GPUS_PER_SERVER);
            let mut states: BTreeMap<StateKey, State> = BTreeMap::new();
            for (key, quantities) in added("bench", rows, &derived).added {
                assert!(!step(states.entry(key).or_default(), &quantities, &history).unwrap().is_empty());
            }
        });
    });
    group.finish();
    criterion.final_summary();
    figures::print_last_line();
}

fn metered(server: &str, gpu: &str, minute: i64) -> UsageRow {
    UsageRow {
        server: server.into(),
        gpu: gpu.into(),
        minute,
        present: (1 << 60) - 1,
        busy: 0x0fff_ffff_ffff_f0ff >> (minute % 5),
        healthy: (1 << 60) - 1,
        power_min_w: None,
        power_max_w: None,
        mem_max_bytes: None,
        energy_first: None,
        energy_last: None,
        xids: BTreeMap::new(),
        topic: "gpu.telemetry".into(),
        partition: 0,
        first_offset: 0,
        last_offset: 0,
        revision: 0,
    }
}
