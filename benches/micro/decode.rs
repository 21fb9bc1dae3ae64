//! Decoding alone: JSON records to columns, on one core.
#![allow(clippy::unwrap_used)]

#[path = "figures.rs"]
mod figures;
#[path = "../common/fleet.rs"]
#[allow(dead_code)]
mod fleet;

use criterion::{Criterion, Throughput};
use fleet::{Fleet, Shape};
use hydrometer_pipeline::decode::{Decoder, Readings};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let fleet = Fleet::new(12_504, 60);
    for (shape, name) in [(Shape::Single, "single_readings_per_s"), (Shape::Batch, "batch_readings_per_s")] {
        let mut messages = Vec::new();
        for second in 0..2 {
            let mut keep = |message: &[u8]| messages.push(message.to_vec());
            fleet
                .messages(second, shape, |_, _, message| {
                    keep(message);
                    Ok(())
                })
                .unwrap();
        }
        let readings = u64::from(fleet.gpus()) * 2;
        let mut group = criterion.benchmark_group("decode");
        group.throughput(Throughput::Elements(readings)).sample_size(20);
        group.bench_function(name, |b| {
            let (mut decoder, mut out) = (Decoder::new(200_000), Readings::default());
            figures::measure(
                b,
                name,
                readings,
                || (),
                |()| {
                    out.clear();
                    for (offset, message) in messages.iter().enumerate() {
                        let log_time = (fleet.start + 60) * 1_000_000;
                        decoder.json(message, offset as i64, log_time, &mut out).unwrap();
                    }
                    assert_eq!(out.len() as u64, readings);
                },
            );
        });
        group.finish();
    }
    criterion.final_summary();
    figures::print_last_line();
}
