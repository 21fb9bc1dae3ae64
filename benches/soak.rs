//! `./bench soak [--minutes N] [--seed S]`: fleets of random seeds under random kills, stops and cuts, one after another, for as long
//! as one likes. Each is checked to the last digit. A line per cycle, a line of JSON at the end; exit status 1 when something did
//! not hold, with the seed that repeats it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::storm::{Chance, Storm, Tally, seed_of_run};

/// Kills in one cycle, at the least and at the most.
const KILLS: (u64, u64) = (4, 20);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let Some((minutes, seed)) = read(&arguments) else {
        eprintln!("usage: ./bench soak [--minutes N] [--seed S]");
        return ExitCode::from(2);
    };
    let given = seed.is_some();
    let mut seed = seed.unwrap_or_else(seed_of_run);
    let (began, limit) = (Instant::now(), Duration::from_secs(60 * minutes));
    let (mut cycles, mut kills, mut failures) = (0, 0, 0);
    loop {
        cycles += 1;
        let cycle = Instant::now();
        match catch_unwind(AssertUnwindSafe(|| one(seed))) {
            Ok((tally, wrong)) => {
                kills += tally.kills;
                failures += usize::from(!wrong.is_empty());
                let verdict = if wrong.is_empty() { "sound" } else { "WRONG" };
                println!("cycle {cycles}: {tally}: {verdict} after {:.0} s", cycle.elapsed().as_secs_f64());
                wrong.iter().for_each(|what| println!("    {what}"));
                if !wrong.is_empty() {
                    println!("    ./bench soak --minutes 0 --seed {seed} repeats it");
                }
            }
            Err(_) => {
                failures += 1;
                println!("cycle {cycles}: WRONG, see above; ./bench soak --minutes 0 --seed {seed} repeats it");
            }
        }
        if began.elapsed() >= limit {
            break;
        }
        seed = if given { seed + 1 } else { u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos()) };
    }
    println!("{{\"cycles\": {cycles}, \"kills\": {kills}, \"failures\": {failures}}}");
    ExitCode::from(u8::from(failures > 0))
}

fn read(arguments: &[String]) -> Option<(u64, Option<u64>)> {
    let (mut minutes, mut seed) = (60, None);
    for pair in arguments.chunks(2) {
        match pair {
            [name, value] if name == "--minutes" => minutes = value.parse().ok()?,
            [name, value] if name == "--seed" => seed = Some(value.parse().ok()?),
            _ => return None,
        }
    }
    Some((minutes, seed))
}

fn one(seed: u64) -> (Tally, Vec<String>) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let kills = KILLS.0 + Chance::new(seed).below(KILLS.1 - KILLS.0 + 1);
        let mut storm = Storm::new(seed, kills as usize).await;
        let tally = storm.rage().await;
        let wrong = storm.findings().await;
        storm.clear_away().await;
        (tally, wrong)
    })
}
