//! The stream and the pure engine agree: random fleets under random contracts of every kind, in arbitrary arrivals and cuts, end in
//! what the oracle makes of the contracts' documents and of the true use, to the ninth decimal, closings included.
//!
//! A failing seed is printed; replay it alone with `HYDROMETER_SEED=N ./test --test contracts_random`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::time::Instant;

use common::contracts::{ACCEPTED, are_hours_closed, close_first_periods, differences};
use common::fast::{cuts, fast_dir, fast_postgres};
use common::fleet::Fleet;
use common::sound::assert_sound;
use common::{Deployment, run_fleet};
use hydrometer_testkit::fleet::{Plan, generate};
use hydrometer_testkit::services::postgres::TestPostgres;

/// Kills of a closing that is not committed, each before another try.
const CLOSING: [&str; 3] = ["commit.closing.before", "commit.closing.taken", "commit.closing.inside"];

/// Kills of one that is: it holds, and whoever comes next publishes what is owed.
const CLOSED: [&str; 7] = [
    "commit.closing.sent",
    "commit.closing.after",
    "publish.closing.before",
    "publish.closing.made",
    "publish.closing.staged",
    "publish.closing.written",
    "publish.closing.after",
];

const FLEETS: u64 = 24;
/// As many databases at a time as there are cores here.
const LANES: u64 = 2;
/// `verify` takes longer than a fleet: it proves every so manieth.
const PROVEN: u64 = 4;

fn plan(seed: u64) -> Plan {
    let plan = Plan::of_contracts(seed);
    if seed.is_multiple_of(2) { plan } else { plan.shuffled(seed ^ 0xABCD) }
}

/// Runs a fleet and closes its contracts' first billing periods; the kinds of what fell due are noted.
async fn check(postgres: &TestPostgres, seed: u64, kinds: &Mutex<BTreeSet<String>>) -> Result<(), String> {
    let plan = plan(seed);
    let deployment = Deployment::on(postgres, &format!("contracts_{seed}")).await;
    let cuts = cuts(seed);
    let (outcome, _) = run_fleet(&deployment, &plan, cuts).await;
    close_first_periods(&deployment, &plan, &outcome).await;
    let wrong = differences(&deployment, &plan, &outcome).await;
    if !wrong.is_empty() {
        let first = wrong.iter().take(12).cloned().collect::<Vec<_>>().join("\n");
        if std::env::var_os("HYDROMETER_SEED").is_some() {
            eprintln!("{}", serde_json::to_string_pretty(&outcome.truth.contracts).unwrap());
        }
        return Err(format!(
            "HYDROMETER_SEED={seed}, {:?}, {cuts:?}: {} differences\n{first}",
            plan.contracts,
            wrong.len()
        ));
    }
    if seed % PROVEN == 1 {
        assert_sound(&deployment, &format!("HYDROMETER_SEED={seed}")).await;
    }
    for (_, used) in outcome.truth.contracts {
        let text = serde_json::to_string(&used.versions).unwrap();
        let amounts = used.outcome(&["2026-03".to_owned()]).unwrap();
        let mut kinds = kinds.lock().unwrap();
        kinds.extend(amounts.dues.into_keys().map(|(kind, ..)| kind));
        kinds.extend(WORDS.into_iter().filter(|word| text.contains(word)).map(str::to_owned));
        kinds.extend(amounts.guarantees.into_keys().map(|_| "guarantee".to_owned()));
        kinds.extend(used.stretches.into_iter().map(|stretch| stretch.class));
    }
    deployment.forget(postgres).await;
    Ok(())
}

const WORDS: [&str; 12] = [
    "graduated",
    "volume",
    "package",
    "by_time",
    "\"hour\"",
    "overage_price",
    "overage_multiplier",
    "step_s",
    "minimum_s",
    "rates",
    "\"server\"",
    "\"reset\"",
];

#[test]
fn the_stream_ends_in_the_oracles_totals() {
    let dir = fast_dir();
    let postgres = fast_postgres(&dir.path().join("pg"));
    let test = TestPostgres::new(&postgres.superuser()).unwrap();
    let one: Option<u64> = std::env::var("HYDROMETER_SEED").ok().map(|seed| seed.parse().unwrap());
    let began = Instant::now();
    let (kinds, wrong) = (Mutex::default(), Mutex::<Vec<String>>::default());
    std::thread::scope(|scope| {
        for lane in 0..LANES {
            let (test, kinds, wrong) = (&test, &kinds, &wrong);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                let seeds = (0..FLEETS).filter(|seed| seed % LANES == lane);
                let given = one.filter(|_| lane == 0);
                for seed in given.into_iter().chain(seeds.filter(|_| one.is_none())) {
                    eprintln!("fleet {seed}");
                    if let Err(found) = runtime.block_on(check(test, seed, kinds)) {
                        eprintln!("{found}");
                        wrong.lock().unwrap().push(found);
                    }
                }
            });
        }
    });
    eprintln!("{FLEETS} fleets in {:?}", began.elapsed());
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} fleets differ\n{}", wrong.len(), wrong.join("\n"));
    if one.is_none() {
        let seen = kinds.into_inner().unwrap();
        let dues = ["true_up", "flat_at_zero", "fee", "minimum_spend", "maximum_spend", "percentage", "guarantee"];
        let classes = hydrometer_testkit::oracle::CLASSES.into_iter().filter(|class| !class.contains('/'));
        let missing: Vec<&str> =
            WORDS.into_iter().chain(dues).chain(classes).filter(|word| !seen.contains(*word)).collect();
        assert!(missing.is_empty(), "the fleets have none of {missing:?}");
    }
}

/// The first seeds from `from` on whose contracts commit by the hour, so that there are hours to close under a kill.
fn hourly_plan(from: u64) -> Plan {
    let is_hourly = |plan: &Plan| {
        let outcome = generate(plan, &mut |_| Ok(())).unwrap();
        outcome.truth.contracts.len() > 1 && outcome.truth.contracts.values().any(|used| used.is_hourly())
    };
    (from..).map(Plan::of_contracts).find(is_hourly).unwrap()
}

async fn kills_change_nothing(name: &str, from: u64, hours_closed: &str) {
    let began = Instant::now();
    let mut fleet = Fleet::new(name, &hourly_plan(from)).await;
    fleet.config.commit.upkeep_s = 0;
    let working = ["commit.live.posted", "commit.live.sent:2", "publish.live.written"];
    for (number, failpoint) in working.into_iter().enumerate() {
        fleet.send(number + 1, working.len()).await;
        fleet.killed_at(&fleet.lasting_worker("killed"), failpoint).await;
    }
    // The last hour is closed only when no more comes, so there is one to close at each of these.
    for failpoint in CLOSING.into_iter().chain([hours_closed]) {
        fleet.killed_at(&fleet.lasting_worker("killed"), failpoint).await;
    }
    let mut kills = working.len() + CLOSING.len() + 1;
    fleet.finish_when(are_hours_closed).await;

    for (number, contract) in fleet.outcome.truth.contracts.keys().enumerate() {
        let close = |failpoint: Option<&str>| -> Output {
            let config = fleet.deployment.write_config(&fleet.config);
            let mut command = Command::new(env!("CARGO_BIN_EXE_hydrometer"));
            let at = hydrometer_schemas::time::show_second(fleet.plan.start_us / 1_000_000);
            command.arg("--config").arg(config).args(["period", "close", contract, "--at", &at, "--accept", ACCEPTED]);
            command.envs(failpoint.map(|point| ("HYDROMETER_FAILPOINT", point))).stdin(Stdio::null());
            command.output().unwrap()
        };
        for failpoint in CLOSING.into_iter().chain([CLOSED[number % CLOSED.len()]]) {
            let ended = close(Some(failpoint));
            let killed = ended.status.signal() == Some(9);
            // A period in which nothing falls due owes no file.
            assert!(killed || failpoint.starts_with("publish") && ended.status.success(), "{failpoint}: {ended:?}");
            kills += usize::from(killed);
        }
        let again = close(None);
        let said = String::from_utf8_lossy(&again.stderr).into_owned();
        assert!(again.status.success() && said.contains("closed before"), "{contract}: {said}");
    }
    fleet.finish_when(are_hours_closed).await;
    let wrong = differences(&fleet.deployment, &fleet.plan, &fleet.outcome).await;
    let first = wrong.iter().take(12).cloned().collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{name}, seed {}: {} differences\n{first}", fleet.plan.seed, wrong.len());
    assert_sound(&fleet.deployment, name).await;
    eprintln!("{name}: seed {}, {kills} kills, {:?}", fleet.plan.seed, began.elapsed());
}

/// The real program under kill -9, also at each step of closing hours and billing periods, ends in the same totals.
#[tokio::test(flavor = "multi_thread")]
async fn kills_change_no_total() {
    tokio::join!(
        kills_change_nothing("contracts_killed_1", 1_000, "commit.closing.sent"),
        kills_change_nothing("contracts_killed_2", 2_000, "commit.closing.after"),
    );
}
