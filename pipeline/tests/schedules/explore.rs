//! Schedules, made from a seed.

use super::actions::Action;
use super::rules::{Rules, Violation};
use super::worker::Task;
use super::world::{Event, LIFECYCLE, PARTITIONS, SERVERS, TICKS, WORKERS, What, World, keyed_to};

/// SplitMix64: small, fast, and the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        ((self.next() >> 32) as usize * n) >> 32
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// How likely what is in one schedule: each has a mixture of its own, since what is rare in one is then frequent in another.
struct Mixture {
    length: usize,
    clock: usize,
    append: usize,
    happen: usize,
    assign: usize,
    read: usize,
    begin: usize,
    step: usize,
    trouble: usize,
    /// Connections that break when it matters most.
    breaks: usize,
    /// Lifecycle events that come one after the other, and are committed at once.
    news: usize,
    /// How likely a worker is to be the one that went on last.
    same_worker: usize,
}

impl Mixture {
    fn of(random: &mut Random) -> Mixture {
        let mut one_of = |weights: [usize; 4]| weights[random.below(4)];
        Mixture {
            length: one_of([60, 100, 160, 240]),
            clock: one_of([2, 3, 5, 8]),
            append: one_of([4, 6, 10, 14]),
            happen: one_of([0, 1, 4, 12]),
            assign: one_of([0, 0, 1, 2]),
            read: one_of([8, 12, 16, 24]),
            begin: one_of([8, 12, 16, 24]),
            step: one_of([40, 80, 120, 160]),
            trouble: one_of([0, 2, 8, 20]),
            breaks: one_of([0, 0, 0, 30]),
            news: one_of([0, 0, 20, 60]),
            same_worker: one_of([0, 0, 50, 80]),
        }
    }
}

/// One of these, of those that are possible.
fn pick<const N: usize>(random: &mut Random, world: &World, among: [Action; N]) -> Option<Action> {
    let start = random.below(N);
    (0..N).map(|n| among[(start + n) % N]).find(|action| world.can(*action))
}

/// What happens next.
fn propose(random: &mut Random, world: &World, mix: &Mixture, last: &mut usize) -> Option<Action> {
    let mut any = random.below(WORKERS);
    for _ in 0..2 {
        if !world.workers[any].alive || world.workers[any].asleep {
            any = random.below(WORKERS);
        }
    }
    let worker = if random.below(100) < mix.same_worker { *last } else { any };
    let mut at = random.below(
        mix.clock
            + mix.append
            + mix.happen
            + mix.assign
            + mix.read
            + mix.begin
            + mix.step
            + mix.trouble
            + mix.news
            + mix.breaks,
    );
    let mut falls_to = |weight: usize| {
        let here = at < weight;
        at = at.wrapping_sub(weight);
        here
    };
    if falls_to(mix.clock) {
        return Some(Action::Clock).filter(|a| world.can(*a));
    }
    if falls_to(mix.append) {
        return Some(append(random, world)).filter(|a| world.can(*a));
    }
    if falls_to(mix.happen) {
        return Some(happen(random, world)).filter(|a| world.can(*a));
    }
    if falls_to(mix.assign) {
        let (worker, partitions) = (random.below(WORKERS), [7, 7, 7, 3, 1, 2, 4, 5][random.below(8)]);
        return Some(Action::Assign { worker, partitions }).filter(|a| world.can(*a));
    }
    if falls_to(mix.read) {
        return pick(
            random,
            world,
            [
                Action::Read { worker, partition: 0 },
                Action::Read { worker, partition: 1 },
                Action::Read { worker, partition: 2 },
                Action::Idle { worker, partition: any % PARTITIONS },
            ],
        );
    }
    if falls_to(mix.begin) {
        return pick(
            random,
            world,
            [
                Action::BeginLifecycle { worker },
                Action::BeginLive { worker },
                Action::BeginRevision { worker, partition: 0 },
                Action::BeginRevision { worker, partition: 1 },
                Action::Retire { worker },
                Action::BeginSweep { worker },
            ],
        );
    }
    if falls_to(mix.breaks) {
        let worker = (0..WORKERS).find(|worker| is_delicate(world, *worker))?;
        return Some(Action::Break { worker }).filter(|a| world.can(*a));
    }
    if falls_to(mix.news) {
        return news(random, world).filter(|a| world.can(*a));
    }
    if falls_to(mix.step) {
        let action = Some(Action::Step { worker }).filter(|a| world.can(*a)).or_else(|| {
            pick(
                random,
                world,
                [
                    Action::Step { worker: 0 },
                    Action::Commit { worker: 0 },
                    Action::Step { worker: 1 },
                    Action::Commit { worker: 1 },
                    Action::Step { worker: 2 },
                    Action::Commit { worker: 2 },
                ],
            )
        });
        if let Some(Action::Step { worker }) = action {
            *last = worker;
        }
        return action;
    }
    pick(
        random,
        world,
        [
            Action::Break { worker },
            Action::EndSession { worker },
            Action::AbortCommit { worker },
            Action::Wake { worker },
            Action::LockTimeout { worker },
            Action::Sleep { worker },
            Action::DrainTimeout { worker },
            Action::Crash { worker },
        ],
    )
}

/// A commit of the worker is in doubt, or its files are not published yet.
fn is_delicate(world: &World, worker: usize) -> bool {
    let publishes = matches!(&world.workers[worker].task, Task::Round(task) if task.is_publishing());
    publishes || world.committing(worker).is_some()
}

/// The next thing on the way of an event from its log to a commit.
fn news(random: &mut Random, world: &World) -> Option<Action> {
    let worker = (0..WORKERS).find(|w| world.workers[*w].lifecycle.is_some())?;
    let steps = [Action::Step { worker }, Action::Commit { worker }];
    let begins = [Action::BeginLifecycle { worker }, Action::Read { worker, partition: LIFECYCLE }];
    let is_busy = matches!(world.workers[worker].task, Task::Lifecycle(_));
    let next = if is_busy { steps } else { begins };
    next.into_iter().find(|action| world.can(*action)).or_else(|| (!is_busy).then(|| happen(random, world)))
}

/// A reading, mostly where its server is keyed to and of the present, sometimes elsewhere, sometimes late.
fn append(random: &mut Random, world: &World) -> Action {
    let server = random.below(SERVERS);
    let tick = match random.below(10) {
        0..=5 => world.now,
        6..=7 => world.now.saturating_sub(1),
        _ => random.below(TICKS),
    };
    let partition = if random.one_in(7) { 1 - keyed_to(server) } else { keyed_to(server) };
    Action::Append { partition, server: server as u8, tick: tick.min(TICKS - 1) as u8 }
}

fn happen(random: &mut Random, world: &World) -> Action {
    let what = match random.below(4) {
        0 => What::Leased,
        1 => What::Released,
        rate => What::Rate(rate as u8),
    };
    let from = if random.one_in(2) { world.now } else { random.below(TICKS) };
    Action::Happen(Event { server: random.below(SERVERS) as u8, from: from.min(TICKS - 1) as u8, what })
}

pub struct Run {
    pub actions: Vec<Action>,
    pub broken: Option<Violation>,
}

/// The schedule of a seed.
pub fn run(seed: u64, rules: Rules) -> Run {
    let mut random = Random(seed);
    let mix = Mixture::of(&mut random);
    let mut world = World::new(rules);
    let mut actions = Vec::with_capacity(mix.length + 8);
    let partitions = [[7, 0, 0], [1, 6, 0], [1, 2, 4], [3, 4, 0]][random.below(4)];
    for worker in (0..WORKERS).filter(|w| partitions[*w] != 0) {
        actions.push(Action::Assign { worker, partitions: partitions[worker] });
        world.perform(Action::Assign { worker, partitions: partitions[worker] });
    }
    for _ in 0..random.below(12) {
        let action = if random.one_in(3) { Action::Clock } else { append(&mut random, &world) };
        if world.can(action) && world.now < TICKS / 2 {
            actions.push(action);
            world.perform(action);
        }
    }
    let (mut proposals, mut last) = (0, 0);
    while actions.len() < mix.length && world.broken.is_none() && proposals < mix.length * 4 {
        proposals += 1;
        if let Some(action) = propose(&mut random, &world, &mix, &mut last) {
            world.perform(action);
            actions.push(action);
        }
    }
    world.drain();
    Run { actions, broken: world.broken }
}
