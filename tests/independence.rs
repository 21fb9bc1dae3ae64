//! Law 4 and its kin over the whole path: what is emitted decides what is rated; how it arrives and how the work is cut up does not.
//!
//! Each fleet is random in everything, faults at high rates. A failing seed is printed; replay it alone with
//! `HYDROMETER_SEED=N ./test --test independence`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Instant;

use common::fast::{cuts, fast_dir, fast_postgres};
use common::{Cuts, Deployment, assert_proven, run_fleet};
use hydrometer_pipeline::source::files::Interleave;
use hydrometer_testkit::fleet::{Fault, Format, Formats, Plan};
use hydrometer_testkit::services::postgres::TestPostgres;

const FLEETS: u64 = 200;
/// As many databases at a time as there are cores here.
const LANES: u64 = 2;

fn plan(seed: u64) -> Plan {
    let formats = [
        Formats::Mixed,
        Formats::Only(Format::Single),
        Formats::Only(Format::Array),
        Formats::Only(Format::NodeSeconds),
    ];
    let plan = Plan { formats: formats[(seed % 4) as usize], ..Plan::small(seed) };
    // Half of the fleets come in the other arrival only, so that many fleets are tried in the time of the test.
    if seed.is_multiple_of(2) { plan } else { plan.shuffled(seed ^ 0xABCD) }
}

async fn check(postgres: &TestPostgres, seed: u64) {
    let plan = plan(seed);
    let deployment = Deployment::on(postgres, &format!("fleet_{seed}")).await;
    let cuts = cuts(seed);
    let (outcome, _) = run_fleet(&deployment, &plan, cuts).await;
    assert_proven(&deployment, &outcome, &format!("seed {seed}, {cuts:?}")).await;
    deployment.forget(postgres).await;
}

#[test]
fn arrival_and_cuts_change_nothing() {
    let dir = fast_dir();
    let postgres = fast_postgres(&dir.path().join("pg"));
    let postgres = TestPostgres::new(&postgres.superuser()).map(|test| (test, postgres)).unwrap();
    let one: Option<u64> = std::env::var("HYDROMETER_SEED").ok().map(|seed| seed.parse().unwrap());
    let began = Instant::now();
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let test = &postgres.0;
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let seeds =
                    (0..FLEETS).filter(|seed| one.map_or(seed % LANES == lane, |one| one == *seed && lane == 0));
                for seed in seeds {
                    eprintln!("fleet {seed}");
                    runtime.block_on(check(test, seed));
                }
            });
        }
    });
    eprintln!("{FLEETS} fleets in {:?}", began.elapsed());
}

/// Which readings are late follows from the log alone: the same for every batch size, cut and order of partitions.
#[tokio::test]
async fn lateness_is_the_same_for_every_batch_size() {
    let dir = fast_dir();
    let postgres = fast_postgres(&dir.path().join("pg"));
    let test = TestPostgres::new(&postgres.superuser()).unwrap();
    for seed in [3, 8] {
        let base = Plan::small(seed);
        let plan = Plan { faults: base.faults.clone().with(Fault::Late, 0.2), ..base };
        let mut late = Vec::new();
        for batch_records in [1, 13, 400, 100_000] {
            for interleave in [Interleave::LogTime { slack: 0 }, Interleave::Seeded(batch_records as u64)] {
                let deployment = Deployment::on(&test, "late").await;
                let cuts = Cuts { batch_records, interleave, interval_ms: 5, revision_hours: 24 };
                let (outcome, summary) = run_fleet(&deployment, &plan, cuts).await;
                assert_proven(&deployment, &outcome, &format!("seed {seed}, {cuts:?}")).await;
                late.push((summary.counts.late, summary.counts.readings, summary.counts.quarantined));
            }
        }
        assert!(late[0].0 > 0, "the fleet has late readings");
        assert!(late.windows(2).all(|pair| pair[0] == pair[1]), "seed {seed}: {late:?}");
    }
}
