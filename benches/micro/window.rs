//! The window alone: decoded readings to closed minutes of a partition of 12,500 GPUs, on one core.
#![allow(clippy::unwrap_used)]

#[path = "figures.rs"]
mod figures;
#[path = "../common/fleet.rs"]
#[allow(dead_code)]
mod fleet;

use std::sync::Arc;

use criterion::{Criterion, Throughput};
use fleet::{Fleet, Shape};
use hydrometer_pipeline::decode::Readings;
use hydrometer_pipeline::fold::Aggregates;
use hydrometer_pipeline::source::{Batch, TopicPartition};
use hydrometer_pipeline::window::{PartitionWindow, Position, WindowLimits};

const SECONDS: u32 = 61;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let fleet = Fleet::new(12_504, SECONDS);
    let partition = TopicPartition { topic: "bench".into(), partition: 0 };
    let aggregates = Arc::new(Aggregates::new().unwrap());
    // Records of some 2,500 messages a batch, as a source hands them over.
    let mut batches = vec![Batch::new(partition.clone())];
    let mut offset = 0;
    for second in 0..SECONDS {
        fleet
            .messages(second, Shape::Batch, |_, _, message| {
                if batches.last().is_none_or(|batch| batch.records.len() >= 1_250) {
                    batches.push(Batch::new(partition.clone()));
                }
                batches.last_mut().unwrap().push(offset, (fleet.start + 60) * 1_000_000, message);
                offset += 1;
                Ok(())
            })
            .unwrap();
    }
    let open = || {
        let limits = WindowLimits { lateness: 0, vouches_for: 1, identities: 200_000 };
        PartitionWindow::open(partition.clone(), Position::default(), limits, aggregates.clone()).unwrap()
    };
    let mut decoded = open();
    let readings: Vec<Readings> = batches
        .iter()
        .map(|batch| {
            let mut readings = Readings::default();
            decoded.decode(batch, &mut readings);
            readings
        })
        .collect();

    let mut group = criterion.benchmark_group("window");
    group.throughput(Throughput::Elements(fleet.readings())).sample_size(10);
    group.bench_function("fold", |b| {
        figures::measure(b, "fold_readings_per_s", fleet.readings(), open, |mut window| {
            for readings in &readings {
                window.fold(readings).unwrap();
            }
            assert!(window.has_closed());
        });
    });
    group.bench_function("cut", |b| {
        let folded = || {
            let mut window = open();
            for batch in &batches {
                window.take(batch).unwrap();
            }
            window
        };
        figures::measure(b, "cut_minutes_per_s", u64::from(fleet.gpus()), folded, |mut window| {
            assert!(window.cut().unwrap().closed.len() as u32 >= fleet.gpus());
        });
    });
    group.finish();
    criterion.final_summary();
    figures::print_last_line();
}
