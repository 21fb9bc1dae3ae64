//! Rating on one core: quantities added to their contracts' states and given their amounts, and GPU-minutes put into classes.
//!
//! A round is a million records (fewer for a quick look: `-- --records 100000`), in no order: an hour of 100 GPUs for each of 10,000 steps,
//! which fall on 10, 10,000 or 100,000 contracts in turn. They are grouped by step, each state takes its step, and the step's amounts are
//! spread over its records. States go on from round to round, so that a cost that grows with history would show, as would one that
//! grows with the number of contracts. The last line is JSON: quantities a second, medians of the rounds.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use hydrometer_rating::classes::Masks;
use hydrometer_rating::due::hour_dues;
use hydrometer_rating::history::{Lease, Occupancy, ServerTimeline, Span, Version};
use hydrometer_rating::keys::{Cell, CellKey, StateKey};
use hydrometer_rating::quantities::{Evidence, quantities};
use hydrometer_rating::rate::{State, spread, step};
use hydrometer_rating::terms::{MICRO, Rate, RateId, Terms, compile};
use hydrometer_schemas::time::{FOREVER, Minute, Second};
use serde_json::{Value, json};

const ROUNDS: usize = 7;
const RECORDS_PER_STEP: usize = 100;
const CONTRACTS: [(usize, &str); 3] = [(10, ""), (10_000, "_10000"), (100_000, "_100000")];
const START: Second = 1_772_323_200;
const HOUR: i64 = 3_600;

fn main() {
    let records = argument("--records").unwrap_or(1_000_000);
    let commitment = json!({ "quantity": "5", "per": "hour", "overage_multiplier": "1.5" });
    let tiers = json!([{ "up_to": "1000", "price": "2.5" }, { "up_to": "5000", "price": "2.2", "flat": "100" }, { "price": "1.9" }]);
    let kinds = [
        ("flat_per_s", json!({ "basis": "allocated", "price": "2.5" })),
        ("graduated_per_s", json!({ "basis": "allocated", "graduated": tiers })),
        ("hourly_commitment_per_s", json!({ "basis": "allocated", "price": "2.5", "commitment": commitment })),
    ];
    let mut figures: BTreeMap<String, Value> = BTreeMap::new();
    for (name, charge) in kinds {
        for (contracts, suffix) in CONTRACTS {
            let per_second = rate(&charge, contracts, records);
            eprintln!("{name}{suffix}: {per_second:.0}");
            figures.insert(format!("{name}{suffix}"), (per_second as u64).into());
        }
    }
    let per_second = classes();
    eprintln!("class_gpu_minutes_per_s: {per_second:.0}");
    figures.insert("class_gpu_minutes_per_s".to_owned(), (per_second as u64).into());
    println!("{}", serde_json::to_string(&figures).unwrap());
}

fn argument(name: &str) -> Option<usize> {
    let arguments: Vec<String> = std::env::args().collect();
    arguments.iter().position(|a| a == name).and_then(|n| arguments.get(n + 1)).and_then(|n| n.parse().ok())
}

fn terms(charge: &Value) -> Arc<Terms> {
    let document = json!({
        "contract": "c", "renter": "r", "currency": "USD", "effective": "2026-03-01T00:00:00Z",
        "charges": { "gpu_hours": charge },
        "suppliers": [{ "supplier": "a", "share_percent": "80" }, { "supplier": "b", "share_percent": "75" }],
    });
    Arc::new(compile(&serde_json::from_value(document).unwrap()).unwrap())
}

/// A record of one GPU and hour: the step that it belongs to, the cell of its state, and its quantity.
#[derive(Clone, Copy)]
struct Record {
    step: u32,
    cell: u8,
    quantity: Cell,
}

fn rate(charge: &Value, contracts: usize, count: usize) -> f64 {
    let terms = terms(charge);
    let versions = [Version { span: Span { from: START, to: FOREVER }, terms: terms.clone() }];
    let rates: HashMap<RateId, Arc<Rate>> = terms.rates().map(|rate| (rate.id, rate.clone())).collect();
    let cells: Vec<CellKey> = ["a", "b"]
        .map(|supplier| {
            let rate = terms.rate("gpu_hours", supplier).unwrap().id;
            CellKey { version_from: START, rate, segment: 0, supplier: supplier.into() }
        })
        .into();
    let is_hourly = terms.charges["gpu_hours"].is_hourly();
    let key = |contract: usize, period: Second| StateKey {
        contract: format!("contract-{contract}"),
        renter: "r".into(),
        currency: "USD".into(),
        charge: "gpu_hours".into(),
        period,
        resource: String::new(),
    };
    let keys: Vec<StateKey> = (0..contracts).map(|contract| key(contract, START)).collect();
    let mut book: HashMap<StateKey, State> = HashMap::new();
    let steps = count.div_ceil(RECORDS_PER_STEP);
    for contract in &keys {
        book.insert(contract.clone(), State::new());
    }
    let mut seconds = Vec::new();
    for round in 0..ROUNDS {
        let records: Vec<Record> = (0..count as u64)
            .map(|n| {
                let mix = (n + round as u64 * 1_000_003).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                let quantity = (1 + (mix >> 52) as i128) % 3_601 * MICRO;
                let step = ((mix >> 16) % steps as u64) as u32;
                Record { step, cell: (mix & 1) as u8, quantity: Cell { billed: quantity, paid: quantity } }
            })
            .collect();
        let hour = START + round as i64 * HOUR;
        let began = Instant::now();
        let mut sum = 0;
        let mut amounts = vec![0i64; records.len()];
        let mut states: BTreeMap<StateKey, State> = BTreeMap::new();
        let (order, begins) = by_step(&records, steps);
        for at in 0..steps {
            let state = (at + round * steps) % contracts;
            let members = &order[begins[at] as usize..begins[at + 1] as usize];
            let mut added = State::new();
            let mut of_cell: [Vec<(usize, Cell)>; 2] =
                [Vec::with_capacity(members.len()), Vec::with_capacity(members.len())];
            for &n in members {
                let record = records[n as usize];
                of_cell[usize::from(record.cell)].push((n as usize, record.quantity));
            }
            for (cell, members) in cells.iter().zip(&of_cell).filter(|(_, members)| !members.is_empty()) {
                let quantity = members.iter().map(|(_, cell)| cell.billed).sum();
                added.insert(cell.clone(), Cell { billed: quantity, paid: quantity });
            }
            let mut fresh = State::new();
            let held = if is_hourly { &mut fresh } else { book.entry(keys[state].clone()).or_default() };
            for cell_step in step(held, &added, &rates).unwrap() {
                let cell = usize::from(cell_step.key == cells[1]);
                let quantities: Vec<Cell> = of_cell[cell].iter().map(|(_, quantity)| *quantity).collect();
                let (renter, supplier) =
                    (cell_step.renter_difference().unwrap(), cell_step.supplier_difference().unwrap());
                let spread = spread(renter, supplier, &quantities).unwrap();
                for (&(n, _), amount) in of_cell[cell].iter().zip(&spread.renter) {
                    amounts[n] = amount.scaled() as i64;
                }
                sum += renter.scaled() - spread.adjustment.renter.scaled();
            }
            if is_hourly {
                // The hour closes by itself, used or not.
                states.insert(StateKey { period: hour, ..keys[state].clone() }, fresh);
                let dues = hour_dues(&versions, hour, &states, &rates).unwrap();
                assert!(dues.len() < 2);
                states.clear();
            }
        }
        let spent = began.elapsed().as_secs_f64();
        assert_eq!(amounts.iter().map(|amount| i128::from(*amount)).sum::<i128>(), sum, "records add up to steps");
        seconds.push(spent);
    }
    count as f64 / median(seconds)
}

/// The records in the order of their steps, by a counting sort; and where each step's begin.
fn by_step(records: &[Record], steps: usize) -> (Vec<u32>, Vec<u32>) {
    let mut ends = vec![0u32; steps + 1];
    for record in records {
        ends[record.step as usize + 1] += 1;
    }
    for n in 0..steps {
        ends[n + 1] += ends[n];
    }
    let mut next = ends.clone();
    let mut order = vec![0u32; records.len()];
    for (n, record) in records.iter().enumerate() {
        let place = &mut next[record.step as usize];
        order[*place as usize] = n as u32;
        *place += 1;
    }
    (order, ends)
}

struct Plain;

impl Evidence for Plain {
    fn masks(&self, _: &str, minute: Minute) -> Masks {
        Masks { present: (1 << 60) - 1, busy: 0x0fff_ffff_ffff_f0ff >> (minute % 5) }
    }

    fn fatal(&self, _: &str) -> &[Second] {
        &[]
    }

    fn energy(&self, _: &str, _: Span) -> i64 {
        0
    }

    fn memory(&self, _: &str, _: Minute) -> Option<i64> {
        None
    }
}

/// Leased GPU-minutes a second to classes and quantities, in windows of an hour, eight GPUs a server.
fn classes() -> f64 {
    let span = Span { from: START, to: FOREVER };
    let lease = Lease { lease: "l".into(), contract: "c".into(), slots: (0..8).collect(), span, ..Lease::default() };
    let seat = |slot: u32| vec![Occupancy { span, gpu: format!("GPU-{slot}") }];
    let mut server = ServerTimeline {
        server: "s".into(),
        supplier: Some("a".into()),
        slots: Some(8),
        occupancy: (0..8).map(|slot| (slot, seat(slot))).collect(),
        leases: vec![lease.clone()],
        ..ServerTimeline::default()
    };
    server.index();
    let versions = [Version { span, terms: terms(&json!({ "basis": "allocated", "price": "2.5" })) }];
    const WINDOWS: i64 = 2_000;
    let mut seconds = Vec::new();
    for _ in 0..ROUNDS {
        let began = Instant::now();
        let mut billed = 0;
        for n in 0..WINDOWS {
            let window = Span { from: START + n * HOUR, to: START + (n + 1) * HOUR };
            let (found, unrated) = quantities(&server, &lease, &versions, window, &Plain);
            assert!(unrated.is_empty());
            billed += found.values().map(|quantity| quantity.billed).sum::<i64>();
        }
        seconds.push(began.elapsed().as_secs_f64());
        assert_eq!(billed, WINDOWS * 8 * HOUR);
    }
    (WINDOWS * 8 * 60) as f64 / median(seconds)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
