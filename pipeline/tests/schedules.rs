//! The commit protocol, driven through seeded schedules of crash, reorder, lost reply, rebalance, zombie, late data and lifecycle
//! change: the decisions are the real ones of `hydrometer_pipeline::protocol`, everything around them is a small model without I/O
//! or a clock. After each step the laws are asserted; when all is drained, everything is compared with what the logs say.
//!
//! `schedules/rules.rs` lists the rules of the protocol. Each can be left out of the simulation, and a test shows the schedule that
//! catches it.
//!
//! A schedule is replayed, every step told, with
//!
//!     HYDROMETER_SCHEDULE=SEED ./test -p hydrometer-pipeline --test schedules replay -- --nocapture
//!
//! (and `HYDROMETER_WITHOUT=RULE` for one with a rule left out). `HYDROMETER_SEED` changes the seed from which all others come.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "schedules/actions.rs"]
mod actions;
#[path = "schedules/commit.rs"]
mod commit;
#[path = "schedules/database.rs"]
mod database;
#[path = "schedules/drain.rs"]
mod drain;
#[path = "schedules/explore.rs"]
mod explore;
#[path = "schedules/faults.rs"]
mod faults;
#[path = "schedules/laws.rs"]
mod laws;
#[path = "schedules/lifecycle.rs"]
mod lifecycle;
#[path = "schedules/live.rs"]
mod live;
#[path = "schedules/publish.rs"]
mod publish;
#[path = "schedules/replay.rs"]
mod replay;
#[path = "schedules/revision.rs"]
mod revision;
#[path = "schedules/round.rs"]
mod round;
#[path = "schedules/rules.rs"]
mod rules;
#[path = "schedules/settle.rs"]
mod settle;
#[path = "schedules/statements.rs"]
mod statements;
#[path = "schedules/storage.rs"]
mod storage;
#[path = "schedules/transaction.rs"]
mod transaction;
#[path = "schedules/worker.rs"]
mod worker;
#[path = "schedules/world.rs"]
mod world;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use explore::run;
use replay::{shrink, tell};
use rules::{Rule, Rules, Violation};

const SCHEDULES: u64 = 100_000;
/// Within how many schedules each rule must be missed.
const SCHEDULES_PER_RULE: u64 = 100_000;

/// The least seed from `base` on, of at most `count`, whose schedule breaks a law. All cores look.
fn search(rules: Rules, base: u64, count: u64) -> Option<(u64, Violation)> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let found = AtomicU64::new(u64::MAX);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let found = &found;
            scope.spawn(move || {
                for n in (thread..count).step_by(threads as usize) {
                    if n > found.load(Ordering::Relaxed) {
                        return;
                    }
                    if run(base + n, rules).broken.is_some() {
                        found.fetch_min(n, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let n = found.into_inner();
    (n != u64::MAX).then(|| (base + n, run(base + n, rules).broken.expect("the same again")))
}

fn base_seed() -> u64 {
    std::env::var("HYDROMETER_SEED").map_or(1_000_000, |seed| seed.parse().expect("HYDROMETER_SEED is a number"))
}

/// A schedule that breaks a law, in as few steps as will do, and how to see it again.
fn explained(seed: u64, rules: Rules, broken: &Violation, without: Option<Rule>) -> String {
    let all = run(seed, rules).actions;
    let few = shrink(&all, rules, broken.law);
    let without = without.map_or(String::new(), |rule| format!("HYDROMETER_WITHOUT={} ", rule.name()));
    format!(
        "seed {seed}: {broken}\n{} steps, shrunk to {}:\n{}\
         again, with every state: {without}HYDROMETER_SCHEDULE={seed} ./test -p hydrometer-pipeline --test schedules replay -- --nocapture\n",
        all.len(),
        few.len(),
        tell(&few, rules, false),
    )
}

#[test]
fn every_law_holds_through_100_000_schedules() {
    let (base, began) = (base_seed(), Instant::now());
    println!("HYDROMETER_SEED={base}");
    if let Some((seed, broken)) = search(Rules::ALL, base, SCHEDULES) {
        panic!("{}", explained(seed, Rules::ALL, &broken, None));
    }
    println!("{SCHEDULES} schedules in {:.1} s", began.elapsed().as_secs_f64());
}

/// A schedule breaks one of the laws that a rule keeps, when it is left out.
fn is_missed(rule: Rule) {
    let (base, rules) = (base_seed(), Rules::without(rule));
    println!("without {}: {}; HYDROMETER_SEED={base}", rule.name(), rule.says());
    let Some((seed, broken)) = search(rules, base, SCHEDULES_PER_RULE) else {
        panic!("nothing broke in {SCHEDULES_PER_RULE} schedules");
    };
    println!("{}", explained(seed, rules, &broken, Some(rule)));
    assert!(rule.keeps().contains(&broken.law), "broke {broken}, not one of {:?}", rule.keeps());
}

/// Tells one schedule: `HYDROMETER_SCHEDULE`, shrunk if it breaks a law; nothing without it.
#[test]
fn replay() {
    let Ok(seed) = std::env::var("HYDROMETER_SCHEDULE") else { return };
    let rules = Rules::from_environment();
    let all = run(seed.parse().expect("HYDROMETER_SCHEDULE is a number"), rules);
    let actions = match &all.broken {
        Some(broken) => shrink(&all.actions, rules, broken.law),
        None => all.actions,
    };
    println!("{}", tell(&actions, rules, true));
}
