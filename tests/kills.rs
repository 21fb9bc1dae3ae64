//! Kill -9 at every step of the protocol, and at random, on real Kafka and PostgreSQL: nothing that it leaves behind is lost,
//! doubled or out of place.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Instant;

use common::fleet::Fleet;
use common::storm::{Storm, seed_of_run};
use hydrometer_testkit::fleet::{Fault, Plan};

/// One kill each, one after another; each run goes on where the one before was killed. What does not get on comes first, so that
/// the work lasts.
const LIVE: [&str; 24] = [
    "stage.live.before",
    "stage.live.object",
    "stage.live.object:2",
    "stage.live.after",
    "commit.live.before",
    "commit.live.fenced",
    "commit.live.judged",
    "commit.live.claimed",
    "commit.live.named",
    "commit.live.posted",
    "commit.live.asked",
    "commit.live.inside",
    "commit.live.sent",
    "commit.live.after",
    // With some commits in between.
    "commit.live.inside:2",
    "commit.live.sent:2",
    "commit.live.after:2",
    "publish.live.before",
    "publish.live.made",
    "publish.live.staged",
    "publish.live.written",
    "publish.live.after",
    // Between two files.
    "publish.live.before:2",
    "publish.live.written:2",
];

const REVISION: [&str; 18] = [
    "stage.revision.before",
    "stage.revision.object",
    "stage.revision.after",
    "commit.revision.before",
    "commit.revision.fenced",
    "commit.revision.judged",
    "commit.revision.claimed",
    "commit.revision.named",
    "commit.revision.posted",
    "commit.revision.asked",
    "commit.revision.inside",
    "publish.revision.before",
    "publish.revision.made",
    "publish.revision.staged",
    "publish.revision.written",
    "publish.revision.after",
    "commit.revision.sent",
    "commit.revision.after",
];

const LIFECYCLE: [&str; 15] = [
    "stage.lifecycle.before",
    "stage.lifecycle.object",
    "commit.lifecycle.before",
    "commit.lifecycle.fenced",
    "commit.lifecycle.locked",
    "commit.lifecycle.recorded",
    "commit.lifecycle.asked",
    "commit.lifecycle.inside",
    "publish.lifecycle.before",
    "publish.lifecycle.made",
    "publish.lifecycle.staged",
    "publish.lifecycle.written",
    "publish.lifecycle.after",
    "commit.lifecycle.sent",
    "commit.lifecycle.after",
];

const UPKEEP: [&str; 9] = [
    "take_over.before",
    "take_over.inside",
    "take_over.after",
    "take_over.read",
    "commit.live.inside",
    // What the kill before left in staging is swept, and that is interrupted too.
    "sweep.before",
    "sweep.after",
    "retire.before",
    "retire.after",
];

const RANDOM_FLEETS: u64 = 4;
const RANDOM_KILLS: usize = 11;

/// Hours enough that each partition freezes some, with all that revisions and quarantine come from.
fn plan(seed: u64) -> Plan {
    let base = Plan::small(seed);
    let faults = base.faults.clone().with(Fault::VeryLate, 0.01).with(Fault::BadEvent, 0.3).with(Fault::LateEvent, 0.3);
    Plan { seconds: 5_400, servers: 4, gpus_per_server: 2, telemetry_partitions: 4, faults, ..base }
}

/// Every kill of a run. Each is seen to happen: a step that is not reached, or a worker that ends otherwise, fails its test.
const _: () = assert!(
    LIVE.len() + REVISION.len() + LIFECYCLE.len() + UPKEEP.len() + RANDOM_FLEETS as usize * RANDOM_KILLS >= 100,
    "a test run kills a hundred times"
);

async fn kills_change_nothing(name: &str, seed: u64, failpoints: &[&str]) {
    let began = Instant::now();
    let mut fleet = Fleet::new(name, &plan(seed)).await;
    fleet.config.commit.upkeep_s = 0;
    if failpoints.iter().any(|point| point.contains(".revision.")) {
        // More and smaller revisions, so that there are enough to be killed.
        fleet.config.commit.revision_hours = 1;
    }
    // A live commit needs new records; everything else needs hours that are through.
    let parts = failpoints.iter().filter(|point| point.contains(".live.") && !point.contains("publish")).count().max(1);
    for (number, failpoint) in failpoints.iter().enumerate() {
        fleet.send((number + 1).min(parts), parts).await;
        fleet.killed_at(&fleet.lasting_worker("killed"), failpoint).await;
        if std::env::var_os("HYDROMETER_TEST_TIMES").is_some() {
            eprintln!("{:?} {failpoint}", began.elapsed());
        }
    }
    fleet.finish().await;
    let through = began.elapsed();
    fleet.assert_sound(name).await;
    eprintln!("{name}: {} kills, through after {through:?}, sound after {:?}", failpoints.len(), began.elapsed());
}

/// Live commits, revisions, lifecycle commits, and what goes on beside them: a fleet each, at the same time.
#[tokio::test(flavor = "multi_thread")]
async fn kills_at_every_step_change_nothing() {
    tokio::join!(
        kills_change_nothing("killed_live", 11, &LIVE),
        kills_change_nothing("killed_revisions", 12, &REVISION),
        kills_change_nothing("killed_lifecycle", 13, &LIFECYCLE),
        kills_change_nothing("killed_upkeep", 14, &UPKEEP),
    );
}

/// Kills at random times and points, of one to three workers at once, with stops and cuts in between.
#[tokio::test(flavor = "multi_thread")]
async fn random_kills_change_nothing() {
    let seed = seed_of_run();
    eprintln!("HYDROMETER_SEED={seed} repeats these kills");
    let storm = async |number: u64| {
        let mut storm = Storm::new(seed.wrapping_add(number), RANDOM_KILLS).await;
        let tally = storm.rage().await;
        let wrong = storm.findings().await;
        eprintln!("{tally}");
        assert!(wrong.is_empty(), "HYDROMETER_SEED={seed}, {tally}:\n{}", wrong.join("\n"));
        assert!(tally.kills >= RANDOM_KILLS, "{tally}");
    };
    const { assert!(RANDOM_FLEETS == 4) };
    tokio::join!(storm(0), storm(1), storm(2), storm(3));
}
