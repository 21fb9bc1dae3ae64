//! What the simulation is about: logs, time, terms and prices. No clock, no I/O; everything follows from the list of actions.
//!
//! Time is coarse, since only its order matters: a *tick* stands for the minutes of half an hour, an hour has two, and a schedule
//! is over after three hours. A reading is one bit of a server's tick, never used twice, so that what is lost or counted twice shows.

use hydrometer_pipeline::source::TopicPartition;
use hydrometer_schemas::time::{MICROS_PER_SECOND, Micros, Minute, Second};

use super::database::Database;
use super::rules::{Law, Rules, Violation};
use super::storage::Object;
use super::worker::Worker;

pub const TICKS: usize = 6;
pub const TICK_SECONDS: Second = 1_800;
pub const TICKS_PER_HOUR: usize = 2;
pub const HOURS: usize = TICKS / TICKS_PER_HOUR;
pub const SERVERS: usize = 4;
pub const CONTRACTS: usize = 2;
pub const WORKERS: usize = 3;
/// Partitions 0 and 1 hold telemetry, this one the lifecycle events.
pub const TELEMETRY: usize = 2;
pub const LIFECYCLE: usize = 2;
pub const PARTITIONS: usize = 3;

/// The bits of every server and tick.
pub type Masks = [[u8; TICKS]; SERVERS];
/// What is agreed for every server and tick: nothing (0), or a lease at a rate.
pub type Terms = [[u8; TICKS]; SERVERS];

pub const NO_BITS: Masks = [[0; TICKS]; SERVERS];

pub fn seconds(tick: usize) -> Second {
    tick as Second * TICK_SECONDS
}

pub fn minutes(tick: usize) -> Minute {
    seconds(tick) / 60
}

pub fn micros(tick: usize) -> Micros {
    seconds(tick) * MICROS_PER_SECOND
}

pub fn tick_of(second: Second) -> usize {
    (second.max(0) / TICK_SECONDS).min(TICKS as Second) as usize
}

pub fn hour_of(tick: usize) -> usize {
    tick / TICKS_PER_HOUR
}

/// The partition to which a server's records are keyed; also the one that its name hashes to.
pub fn keyed_to(server: usize) -> usize {
    server / 2
}

/// Two contracts, each with servers at both homes, which meet them in opposite orders.
pub fn contract_of(server: usize) -> usize {
    [0, 1, 1, 0][server]
}

/// Odd servers are rated by the tick, even ones by the hour.
pub fn window_ticks(server: usize) -> usize {
    if server % 2 == 1 { 1 } else { TICKS_PER_HOUR }
}

/// A graduated price, so that a total is not the sum of prices of its parts.
pub fn price(quantity: i32) -> i32 {
    5 * quantity.min(4) + 3 * (quantity - 4).clamp(0, 6) + (quantity - 10).max(0)
}

/// A leased tick is billed whether or not there was telemetry (law 2), and more where there was.
pub fn quantity(terms: &[u8; TICKS], masks: &[u8; TICKS], from: usize, to: usize) -> i32 {
    (from..to).map(|tick| i32::from(terms[tick]) * (1 + masks[tick].count_ones() as i32)).sum()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    pub server: u8,
    pub tick: u8,
    pub bit: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    pub server: u8,
    /// From which tick on.
    pub from: u8,
    pub what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Leased,
    Released,
    Rate(u8),
}

/// What a set of events agrees to: a function of the set in its own order, not of the order of arrival.
pub fn terms(events: &[Event], known: u64) -> Terms {
    let (mut leased, mut rate) = ([false; SERVERS], [1; SERVERS]);
    let mut by_tick = [[0; SERVERS]; TICKS];
    for (tick, of_servers) in by_tick.iter_mut().enumerate() {
        let from_now = |(index, event): &(usize, &Event)| known >> index & 1 == 1 && usize::from(event.from) == tick;
        for (_, event) in events.iter().enumerate().filter(from_now) {
            let server = usize::from(event.server);
            match event.what {
                What::Leased => leased[server] = true,
                What::Released => leased[server] = false,
                What::Rate(new) => rate[server] = new,
            }
        }
        for (server, terms) in of_servers.iter_mut().enumerate() {
            *terms = if leased[server] { rate[server] } else { 0 };
        }
    }
    std::array::from_fn(|server| std::array::from_fn(|tick| by_tick[tick][server]))
}

/// Where two timelines differ, per server: from which tick to which.
pub fn differences(a: &Terms, b: &Terms) -> [Option<(usize, usize)>; SERVERS] {
    std::array::from_fn(|server| {
        let differs = |tick: &usize| a[server][*tick] != b[server][*tick];
        let first = (0..TICKS).find(differs)?;
        let last = (0..TICKS).rev().find(differs)?;
        Some((first, last + 1))
    })
}

/// The whole state.
pub struct World {
    pub rules: Rules,
    /// The tick that it is, by every clock.
    pub now: usize,
    /// The logs end here; what is left is to be drained.
    pub ended: bool,
    pub telemetry: [Vec<Record>; TELEMETRY],
    pub lifecycle: Vec<Event>,
    pub bits_used: [[u8; TICKS]; SERVERS],
    pub database: Database,
    /// The object store, by the order in which names were first written.
    pub store: Vec<Object>,
    pub workers: [Worker; WORKERS],
    pub attempts: u32,
    /// What the objects of live rounds hold that committed. What a revision writes to an hour is a copy of it.
    pub counted: Masks,
    /// The first law that was broken.
    pub broken: Option<Violation>,
    /// Whether steps are to be told in words.
    pub telling: bool,
    pub told: Vec<String>,
}

impl World {
    /// All servers are leased from the beginning, and everybody knows.
    pub fn new(rules: Rules) -> World {
        let topic = |name: &str, partition| TopicPartition { topic: name.into(), partition };
        let topics = [topic("telemetry", 0), topic("telemetry", 1), topic("lifecycle", 0)];
        let lifecycle: Vec<Event> =
            (0..SERVERS as u8).map(|server| Event { server, from: 0, what: What::Leased }).collect();
        World {
            rules,
            now: 0,
            ended: false,
            telemetry: Default::default(),
            database: Database::new(&topics, lifecycle.len()),
            lifecycle,
            bits_used: [[0; TICKS]; SERVERS],
            store: Vec::new(),
            workers: Default::default(),
            attempts: 0,
            counted: NO_BITS,
            broken: None,
            telling: false,
            told: Vec::new(),
        }
    }

    pub fn breaks(&mut self, law: Law, detail: impl FnOnce() -> String) {
        if self.broken.is_none() {
            self.broken = Some(Violation { law, detail: detail() });
        }
    }

    pub fn tell(&mut self, text: impl FnOnce() -> String) {
        if self.telling {
            self.told.push(text());
        }
    }

    /// What every log says, by brute force.
    pub fn truth(&self) -> Masks {
        let mut masks = NO_BITS;
        for record in self.telemetry.iter().flatten() {
            masks[usize::from(record.server)][usize::from(record.tick)] |= record.bit;
        }
        masks
    }
}
