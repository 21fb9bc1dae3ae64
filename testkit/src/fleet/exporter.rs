//! What a server's exporter says, second by second. Everything here depends on the plan's `seed` alone.

use super::random::Random;
use super::reading::{Mark, NO_UTIL, Reading};
use super::scenario::{Clock, Server, Span};
use super::time::SECOND_US;
use super::{Fault, Plan, Tally, random_streams};
use crate::oracle::{Oracle, Track};

const FAST_CLOCK_US: i64 = 90 * SECOND_US;
/// Twice what is believed, so that no delay that such a server's messages may have makes it plausible.
const FAR_CLOCK_US: i64 = 600 * SECOND_US;

/// Seconds by which readings may lie beyond the end of the plan.
pub(crate) const SLACK_SECONDS: i64 = FAST_CLOCK_US / SECOND_US + 1;

pub(crate) struct Exporter<'a> {
    server: &'a Server,
    start_us: i64,
    random: Random,
    meters: Vec<Meter>,
    tracks: Vec<Track>,
    /// What a frozen exporter repeats.
    frozen: Vec<Reading>,
    /// Cumulated probabilities per second, in the order of `TROUBLES`.
    troubles: [f64; TROUBLES.len()],
}

const TROUBLES: [Fault; 4] = [Fault::Blank, Fault::Garbled, Fault::BadField, Fault::OddJson];

/// The state behind a GPU's numbers.
struct Meter {
    is_busy: bool,
    until: i64,
    energy_j: u64,
    mem_bytes: u64,
}

impl<'a> Exporter<'a> {
    pub(crate) fn new(plan: &Plan, number: usize, server: &'a Server, oracle: &mut Oracle) -> Exporter<'a> {
        let mut random = Random::new(plan.seed, random_streams::EXPORTER, number as u64);
        let meters = server.gpus.iter().map(|_| Meter::new(&mut random));
        let tracks = server.gpus.iter();
        let mut sum = 0.0;
        Exporter {
            start_us: plan.start_us,
            meters: meters.collect(),
            tracks: tracks.map(|gpu| oracle.track(&server.name, &gpu.id)).collect(),
            frozen: Vec::new(),
            troubles: TROUBLES.map(|trouble| {
                sum += plan.faults.rate(trouble);
                sum
            }),
            server,
            random,
        }
    }

    /// The server's readings of one second, told to the oracle as they are emitted.
    pub(crate) fn second(&mut self, second: i64, readings: &mut Vec<Reading>, oracle: &mut Oracle, tally: &mut Tally) {
        readings.clear();
        let Span { from, to } = self.server.frozen;
        if from < second && second < to {
            readings.extend_from_slice(&self.frozen);
        } else {
            self.read_gpus(second, readings);
            if second == from && from < to {
                self.frozen.clone_from(readings);
            } else if !readings.is_empty() && !matches!(self.server.clock, Clock::Far(_)) {
                self.trouble(readings, tally);
            }
        }
        for reading in readings.iter() {
            if reading.quarantine_reason(false).is_some() {
                oracle.lost();
            } else {
                let track = self.tracks[usize::from(reading.gpu)];
                let at = reading.time_us.div_euclid(SECOND_US);
                oracle.mark(track, at, 1, reading.is_busy());
            }
        }
    }

    fn read_gpus(&mut self, second: i64, readings: &mut Vec<Reading>) {
        if self.server.mute.iter().any(|span| span.holds(second)) {
            return;
        }
        let draw = self.random.draw();
        let fraction_us = match draw % 64 {
            0 => 0,
            1 => SECOND_US - 1,
            _ => (((draw >> 32) * SECOND_US as u64) >> 32) as i64,
        };
        let (ahead_us, far) = match self.server.clock {
            Clock::Fast => (FAST_CLOCK_US, false),
            Clock::Far(span) if span.holds(second) => (FAR_CLOCK_US, true),
            _ => (0, false),
        };
        let time_us = self.start_us + second * SECOND_US + fraction_us + ahead_us;
        for (number, (gpu, meter)) in self.server.gpus.iter().zip(&mut self.meters).enumerate() {
            if !gpu.speaks.holds(second) || gpu.mute.iter().any(|span| span.holds(second)) {
                continue;
            }
            if gpu.resets.contains(&second) {
                meter.energy_j = 0;
            }
            let (util_milli, power_deciwatts) = meter.advance(second, &mut self.random);
            readings.push(Reading {
                gpu: number as u16,
                time_us,
                util_milli,
                power_deciwatts,
                energy_j: meter.energy_j,
                mem_bytes: meter.mem_bytes,
                mark: Mark::Plain,
                far,
            });
        }
    }

    /// At most one trouble per server and second, on one of its readings or on all.
    fn trouble(&mut self, readings: &mut [Reading], tally: &mut Tally) {
        let draw = self.random.fraction();
        let Some(which) = self.troubles.iter().position(|&below| draw < below) else {
            return;
        };
        tally.add(TROUBLES[which]);
        let detail = self.random.draw();
        let hit = self.random.below(readings.len() as u64) as usize;
        match TROUBLES[which] {
            Fault::Blank if detail.is_multiple_of(3) => readings[hit].mark = Mark::BlankOthers,
            Fault::Blank => readings[hit].util_milli = NO_UTIL,
            Fault::Garbled if detail & 0x100 == 0 => {
                for reading in readings {
                    reading.mark = Mark::Garbled(detail as u8);
                }
            }
            Fault::Garbled => readings[hit].mark = Mark::Garbled(detail as u8),
            Fault::BadField => readings[hit].mark = self.random.pick(&Mark::BAD),
            _ => readings[hit].mark = Mark::Odd,
        }
    }
}

impl Meter {
    fn new(random: &mut Random) -> Self {
        Meter {
            is_busy: random.chance(0.5),
            until: random.between(1, 600),
            energy_j: random.below(1_000_000_000),
            mem_bytes: 1 << 20,
        }
    }

    /// Utilisation in thousandths and power in tenths of a watt, for the next second.
    fn advance(&mut self, second: i64, random: &mut Random) -> (u16, u32) {
        let draw = random.draw();
        if second >= self.until {
            self.is_busy = !self.is_busy;
            self.until = second + 1 + (draw >> 40) as i64 % if self.is_busy { 1800 } else { 400 };
            self.mem_bytes = if self.is_busy { draw >> 27 } else { 1 << 20 };
        }
        let power_deciwatts = if self.is_busy { 4000 } else { 700 } + (draw >> 16) as u32 % 3000;
        self.energy_j += u64::from(power_deciwatts / 10);
        let util_milli = if self.is_busy { 1 + draw % 1000 } else { 0 };
        (util_milli as u16, power_deciwatts)
    }
}
