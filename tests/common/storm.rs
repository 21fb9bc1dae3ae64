//! A small fleet under kills, stops and cuts at random: the same seed gives the same fleet and the same troubles, though not the
//! same moments.

use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use hydrometer_testkit::fleet::{Fault, Plan};
use hydrometer_testkit::services::proxy::{Mode, POSTGRES_COMMIT, Proxy, Then};
use rustix::process::Signal;

use super::aftermath;
use super::fleet::{Fleet, Running, proxied};

/// `HYDROMETER_SEED`, or one that no other run has.
pub fn seed_of_run() -> u64 {
    let given = std::env::var("HYDROMETER_SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or_else(|| u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos()))
}

/// A linear congruential generator: enough to be different, and the same everywhere.
#[derive(Clone, Copy)]
pub struct Chance(u64);

impl Chance {
    pub fn new(seed: u64) -> Chance {
        Chance(seed.wrapping_mul(2).wrapping_add(1))
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// Points at which a worker may be killed, and how often it may come past before.
const POINTS: [(&str, u64); 16] = [
    ("take_over.inside", 1),
    ("take_over.after", 1),
    ("stage.live.object", 12),
    ("commit.live.fenced", 6),
    ("commit.live.posted", 6),
    ("commit.live.sent", 6),
    ("commit.live.after", 6),
    ("commit.lifecycle.recorded", 3),
    ("commit.lifecycle.sent", 3),
    ("publish.live.staged", 3),
    ("publish.live.written", 3),
    ("stage.revision.object", 3),
    ("commit.revision.inside", 2),
    ("commit.revision.sent", 2),
    ("publish.revision.written", 2),
    ("sweep.before", 4),
];

#[derive(Debug, Clone, Copy, Default)]
pub struct Tally {
    pub seed: u64,
    pub workers: usize,
    pub readings: u64,
    pub kills: usize,
    pub stops: usize,
    pub cuts: usize,
    /// Workers that ended because others had taken over.
    pub fenced: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seed {}: {} workers, {} readings, {} kills, {} stops, {} cuts, {} fenced",
            self.seed, self.workers, self.readings, self.kills, self.stops, self.cuts, self.fenced
        )
    }
}

pub struct Storm {
    fleet: Fleet,
    /// Between the workers and the database.
    proxy: Proxy,
    chance: Chance,
    kills: usize,
    tally: Tally,
}

impl Storm {
    pub async fn new(seed: u64, kills: usize) -> Storm {
        let mut chance = Chance::new(seed);
        let base = Plan::small(seed);
        let faults = base.faults.clone().with(Fault::VeryLate, 0.005).with(Fault::BadEvent, 0.1);
        let plan = Plan {
            seconds: 1_800 + chance.below(5_400) as u32,
            servers: 2 + chance.below(4) as u32,
            gpus_per_server: 1 + chance.below(3) as u32,
            lifecycle_partitions: 1 + chance.below(2) as u32,
            faults,
            ..base
        };
        let mut fleet = Fleet::new("storm", &plan).await;
        let (proxy, through) = proxied(&fleet.config.database.url);
        fleet.config.database.url = through;
        let workers = 1 + chance.below(3) as usize;
        let tally = Tally { seed, workers, readings: fleet.outcome.tally.readings_sent, ..Tally::default() };
        Storm { fleet, proxy, chance, kills, tally }
    }

    /// Goes on until there were enough kills, then lets everything get through.
    pub async fn rage(&mut self) -> Tally {
        let mut workers: Vec<Option<Running>> = (0..self.tally.workers).map(|_| None).collect();
        while self.tally.kills < self.kills {
            let part = self.tally.kills + 1;
            self.fleet.send(part, self.kills + 1).await;
            for (number, slot) in workers.iter_mut().enumerate().filter(|(_, slot)| slot.is_none()) {
                *slot = Some(self.start(number));
            }
            let pause = 100 + self.chance.below(1_400);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let chosen = self.chance.below(workers.len() as u64) as usize;
            self.trouble(&mut workers[chosen]).await;
            for slot in &mut workers {
                self.bury(slot);
            }
        }
        self.proxy.set(Mode::Forward);
        for worker in workers.iter_mut().flatten() {
            worker.signal(Signal::CONT);
            self.tally.kills += usize::from(worker.kill9());
        }
        self.fleet.finish().await;
        self.tally
    }

    /// What is wrong after all that.
    pub async fn findings(&self) -> Vec<String> {
        let fleet = &self.fleet;
        aftermath::findings(&fleet.deployment, &fleet.deployment.warehouse(), &fleet.plan, &fleet.outcome).await
    }

    pub async fn clear_away(&self) {
        self.fleet.clear_away().await;
    }

    fn start(&mut self, number: usize) -> Running {
        let name = format!("worker-{number}");
        // With a name it comes back to its place; without one, its place is given up when its session is over.
        let lasting = self.chance.below(2) == 0;
        let config = if lasting { self.fleet.lasting_worker(&name) } else { self.fleet.worker(&name) };
        let (point, passes) = self.chance.pick(&POINTS);
        let failpoint = format!("{point}:{}", 1 + self.chance.below(passes));
        let armed = self.chance.below(2) == 0;
        self.fleet.start(&config, armed.then_some(failpoint.as_str()))
    }

    async fn trouble(&mut self, worker: &mut Option<Running>) {
        let Some(running) = worker else { return };
        match self.chance.below(10) {
            0..=5 => {
                if running.kill9() {
                    self.tally.kills += 1;
                    *worker = None;
                }
            }
            6 | 7 => {
                self.tally.stops += 1;
                let stopped = 200 + self.chance.below(4_000);
                if !running.has_ended() {
                    running.signal(Signal::STOP);
                    tokio::time::sleep(Duration::from_millis(stopped)).await;
                    running.signal(Signal::CONT);
                }
            }
            8 => {
                self.tally.cuts += 1;
                self.proxy.watch(POSTGRES_COMMIT, 1, self.chance.pick(&[Then::CutAfterRequest, Then::CutBeforeReply]));
            }
            _ => {
                self.tally.cuts += 1;
                self.proxy.set(self.chance.pick(&[Mode::Refuse, Mode::Stall]));
                self.proxy.cut();
                tokio::time::sleep(Duration::from_millis(200 + self.chance.below(1_500))).await;
                self.proxy.set(Mode::Forward);
            }
        }
    }

    /// Takes note of a worker that has ended: at a failpoint, or because it was fenced.
    fn bury(&mut self, slot: &mut Option<Running>) {
        let Some(worker) = slot else { return };
        let Some(status) = worker.status() else { return };
        if status.signal() == Some(9) {
            self.tally.kills += 1;
        } else {
            let said = worker.said();
            let last = said.lines().rev().find(|line| line.starts_with("error: ")).unwrap_or_default().to_owned();
            // A worker that comes up while the database is away says so and ends; one that was up outlives it.
            let never_up =
                last.contains("while registering partitions") || last.contains("cannot connect to the database");
            assert!(never_up || last.contains("another worker has taken over"), "{status}: {said}");
            self.tally.fenced += usize::from(!never_up);
        }
        *slot = None;
    }
}
