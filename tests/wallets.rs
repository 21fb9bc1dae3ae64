//! Wallets over the whole path: random fleets of renters who pay in advance, in arbitrary arrivals and cuts, by one worker and by three.
//! Each second in which a wallet runs dry, uses up a credit or can pay again is the oracle's, and so is all money.
//!
//! A failing seed is printed; replay it alone with `HYDROMETER_SEED=N ./test --test wallets`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use common::fast::{cuts, fast_dir, fast_postgres};
use common::fleet::Fleet;
use common::sound::assert_sound;
use common::{Deployment, assert_proven, run_fleet};
use hydrometer_testkit::fleet::{Fault, Plan, Topic, generate};
use hydrometer_testkit::oracle::{Truth, WalletTruth};
use hydrometer_testkit::services::postgres::TestPostgres;

const FLEETS: u64 = 60;
/// As many databases at a time as there are cores here.
const LANES: u64 = 2;
/// `verify` takes longer than a fleet: it proves every so manieth.
const PROVEN: u64 = 6;

/// Half of them come in another arrival, over one to three lifecycle partitions.
fn plan(seed: u64) -> Plan {
    let plan = Plan::of_wallets(seed);
    if seed.is_multiple_of(2) { plan } else { plan.shuffled(seed ^ 0xABCD) }
}

/// What the fleets have shown: times that a wallet ran dry, was restored, used up a credit; wallets that let money expire, that owe.
#[derive(Default)]
struct Seen([AtomicUsize; 5]);

impl Seen {
    fn note(&self, truth: &Truth) {
        let sum = |of: fn(&WalletTruth) -> usize| truth.wallets.iter().map(of).sum::<usize>();
        let counts = [
            sum(|wallet| wallet.dry.len()),
            sum(|wallet| wallet.dry.iter().filter(|dry| dry.restored.is_some()).count()),
            sum(|wallet| wallet.dry.iter().map(|dry| dry.credit_reached.len()).sum()),
            sum(|wallet| usize::from(wallet.expired_e9 + wallet.returned_e9 > 0)),
            sum(|wallet| usize::from(wallet.receivable_e9 > 0)),
        ];
        self.0.iter().zip(counts).for_each(|(seen, count)| {
            seen.fetch_add(count, Ordering::Relaxed);
        });
    }

    fn counts(&self) -> Vec<usize> {
        self.0.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }
}

async fn check(postgres: &TestPostgres, seed: u64, seen: &Seen) {
    let plan = plan(seed);
    let deployment = Deployment::on(postgres, &format!("wallets_{seed}")).await;
    let cuts = cuts(seed);
    let (outcome, _) = run_fleet(&deployment, &plan, cuts).await;
    seen.note(&outcome.truth);
    assert_proven(&deployment, &outcome, &format!("HYDROMETER_SEED={seed}, {cuts:?}")).await;
    if seed % PROVEN == 1 {
        assert_sound(&deployment, &format!("HYDROMETER_SEED={seed}")).await;
    }
    deployment.forget(postgres).await;
}

#[test]
fn arrival_and_cuts_move_no_second() {
    let dir = fast_dir();
    let postgres = fast_postgres(&dir.path().join("pg"));
    let test = TestPostgres::new(&postgres.superuser()).unwrap();
    let one: Option<u64> = std::env::var("HYDROMETER_SEED").ok().map(|seed| seed.parse().unwrap());
    let (began, seen) = (Instant::now(), Seen::default());
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let (test, seen) = (&test, &seen);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let seeds = (0..FLEETS).filter(|seed| seed % LANES == lane);
                let given = one.filter(|_| lane == 0);
                for seed in given.into_iter().chain(seeds.filter(|_| one.is_none())) {
                    eprintln!("fleet {seed}");
                    runtime.block_on(check(test, seed, seen));
                }
            });
        }
    });
    eprintln!("{FLEETS} fleets in {:?}: {:?}", began.elapsed(), seen.counts());
    assert!(one.is_some() || seen.counts().iter().all(|count| *count > 5), "{:?}", seen.counts());
}

/// The first fleet from a seed on of which a wallet runs dry and pays again, and every partition has a server.
fn dry_plan(from: u64) -> Plan {
    let plans = (from..).map(|seed| {
        let base = Plan::of_wallets(seed);
        let faults = base.faults.clone().with(Fault::VeryLate, 0.005);
        Plan {
            seconds: 3_000,
            servers: 6,
            gpus_per_server: 2,
            telemetry_partitions: 3,
            lifecycle_partitions: 2,
            faults,
            ..base
        }
    });
    let runs_dry = |plan: &Plan| {
        let mut partitions = [0; 3];
        let outcome = generate(plan, &mut |record| {
            if record.topic == Topic::Telemetry {
                partitions[record.partition as usize] += 1;
            }
            Ok(())
        })
        .unwrap();
        let mut all = outcome.truth.wallets.iter().flat_map(|wallet| &wallet.dry);
        partitions.iter().all(|records| *records > 100) && all.any(|dry| dry.restored.is_some())
    };
    plans.into_iter().find(runs_dry).unwrap()
}

/// Three workers share the partitions of both topics, and one of them is killed in the middle.
#[tokio::test(flavor = "multi_thread")]
async fn three_workers_find_the_same_seconds() {
    for from in [5_000, 6_000] {
        let mut fleet = Fleet::new(&format!("wallets_{from}"), &dry_plan(from)).await;
        let mut workers: Vec<_> =
            ["first", "second", "third"].into_iter().map(|name| fleet.start(&fleet.worker(name), None)).collect();
        fleet.until_owned_by(&["first", "second", "third"]).await;
        for part in 1..6 {
            fleet.send(part, 6).await;
            fleet.until_handled().await;
            if part == 3 {
                workers.remove(0).kill9();
                fleet.until_owned_by(&["second", "third"]).await;
            }
        }
        for worker in workers {
            worker.stop().await;
        }
        fleet.finish().await;
        // The last frontier may have moved after the last upkeep.
        fleet.deployment.database().await.expire_grants().await.unwrap();
        fleet.assert_sound(&format!("three workers, seed {}", fleet.plan.seed)).await;
        fleet.clear_away().await;
    }
}
