//! A worker's memory: its partitions' windows, what it knows of timelines and homes, and the one thing it is doing.

use hydrometer_pipeline::protocol::{Belongs, piece_belongs, replay_from};
use hydrometer_pipeline::store::lease::Lease;
use hydrometer_pipeline::window::Position;

use super::database::{Lock, SessionState};
use super::lifecycle::LifecycleTask;
use super::publish::{Publishing, Sweeping};
use super::round::RoundTask;
use super::rules::Rule;
use super::storage::Kind;
use super::transaction::Transaction;
use super::world::{
    LIFECYCLE, Masks, NO_BITS, PARTITIONS, SERVERS, TELEMETRY, TICKS, World, hour_of, micros, minutes, tick_of,
};

/// How many records a worker takes at once.
const BATCH: usize = 3;

#[derive(Debug, Default)]
pub struct Worker {
    pub alive: bool,
    /// Stopped in its tracks; it does not know.
    pub asleep: bool,
    pub streams: [Option<Stream>; TELEMETRY],
    pub lifecycle: Option<LifecycleStream>,
    /// The events that it has folded.
    pub events: u64,
    pub homes: [Option<usize>; SERVERS],
    pub finished: Vec<u32>,
    pub task: Task,
}

#[derive(Debug, Default)]
pub enum Task {
    #[default]
    Idle,
    TakeOver(TakeOver),
    /// Reads what rebuilds the evidence of windows not yet rated.
    Open,
    Round(Box<RoundTask>),
    Lifecycle(Box<LifecycleTask>),
    Publish(Publishing),
    Sweep(Sweeping),
}

#[derive(Debug)]
pub struct TakeOver {
    pub partitions: Vec<usize>,
    pub locked: usize,
    pub transaction: Transaction,
}

#[derive(Debug, Clone)]
pub struct LifecycleStream {
    pub lease: Lease,
    pub next: usize,
    /// The partition's time, in ticks.
    pub time: usize,
    pub ended: bool,
    /// Places in the log of events that were read and are not committed.
    pub events: u64,
}

#[derive(Debug, Clone)]
pub struct Stream {
    pub lease: Lease,
    /// Where reading has got to.
    pub read_until: usize,
    pub position: Position,
    pub open: Masks,
    pub first_offset: [Option<i64>; TICKS],
    pub late: Masks,
    pub handled_before: i64,
    pub closed_before: i64,
    /// What was cut and is not committed yet; it survives a round that failed.
    pub cut_closed: Masks,
    pub cut_late: Masks,
    pub cut_at: Position,
    pub evidence: Masks,
    pub ended: bool,
}

pub fn add(to: &mut Masks, bits: &Masks) {
    to.iter_mut().flatten().zip(bits.iter().flatten()).for_each(|(to, bits)| *to |= bits);
}

impl Stream {
    pub fn open(lease: Lease) -> Stream {
        let position = lease.position;
        Stream {
            read_until: position.replay_from as usize,
            position,
            open: NO_BITS,
            first_offset: [None; TICKS],
            late: NO_BITS,
            handled_before: position.next,
            closed_before: position.closed_until,
            cut_closed: NO_BITS,
            cut_late: NO_BITS,
            cut_at: position,
            evidence: NO_BITS,
            ended: false,
            lease,
        }
    }

    pub fn closed_ticks(&self) -> usize {
        (self.position.closed_until / minutes(1)) as usize
    }

    /// Where the stream stands, as the window of production says it.
    pub fn position(&self, holds: bool, depends: bool) -> Position {
        let rebuilding = (self.read_until as i64) < self.handled_before;
        let first_of_open = self.first_offset.iter().flatten().min().copied().filter(|_| depends);
        let from = replay_from(rebuilding && holds, self.position.replay_from, first_of_open, self.position.next);
        Position { replay_from: from, ..self.position }
    }

    pub fn advance(&mut self, tick: usize) {
        self.position.time = self.position.time.max(micros(tick));
        self.position.closed_until = self.position.closed_until.max(minutes(tick));
    }

    pub fn end(&mut self) {
        self.advance(TICKS);
        self.ended = true;
    }

    /// Takes out what has closed and what came late.
    pub fn cut(&mut self, holds: bool, depends: bool) {
        let mut closed = NO_BITS;
        for tick in 0..self.closed_ticks().min(TICKS) {
            for (closed, open) in closed.iter_mut().zip(&mut self.open) {
                closed[tick] = std::mem::take(&mut open[tick]);
            }
            self.first_offset[tick] = None;
        }
        add(&mut self.cut_closed, &closed);
        let late = std::mem::replace(&mut self.late, NO_BITS);
        add(&mut self.cut_late, &late);
        add(&mut self.evidence, &closed);
        add(&mut self.evidence, &late);
        self.cut_at = self.position(holds, depends);
    }
}

impl World {
    pub fn can_read(&self, worker: usize, partition: usize) -> bool {
        let w = &self.workers[worker];
        if !w.alive || w.asleep || !matches!(w.task, Task::Idle) {
            return false;
        }
        if partition == LIFECYCLE {
            return w.lifecycle.as_ref().is_some_and(|l| l.next < self.lifecycle.len());
        }
        w.streams[partition].as_ref().is_some_and(|s| s.read_until < self.telemetry[partition].len())
    }

    /// Takes a batch of records.
    pub fn read(&mut self, worker: usize, partition: usize) {
        if partition == LIFECYCLE {
            let Some(stream) = &mut self.workers[worker].lifecycle else { return };
            let event = self.lifecycle[stream.next];
            stream.time = stream.time.max(usize::from(event.from).min(self.now));
            stream.events |= 1 << stream.next;
            stream.next += 1;
            return;
        }
        let skips = self.rules.has(Rule::HandledSkipped);
        let Some(stream) = &mut self.workers[worker].streams[partition] else { return };
        let log = &self.telemetry[partition];
        let until = (stream.read_until + BATCH).min(log.len());
        for (offset, record) in log.iter().enumerate().take(until).skip(stream.read_until) {
            let (server, tick) = (usize::from(record.server), usize::from(record.tick));
            let handled = (offset as i64) < stream.handled_before;
            match piece_belongs(minutes(tick), handled, stream.closed_before, stream.position.closed_until) {
                Belongs::Open => {
                    stream.open[server][tick] |= record.bit;
                    let first = stream.first_offset[tick].map_or(offset as i64, |first| first.min(offset as i64));
                    stream.first_offset[tick] = Some(first);
                }
                Belongs::Late => stream.late[server][tick] |= record.bit,
                Belongs::Handled if !skips => stream.late[server][tick] |= record.bit,
                Belongs::Handled => {}
            }
            if !handled {
                stream.advance(tick);
            }
        }
        stream.read_until = until;
        stream.position.next = stream.position.next.max(until as i64);
    }

    pub fn is_caught_up(&self, worker: usize, partition: usize) -> bool {
        let w = &self.workers[worker];
        if partition == LIFECYCLE {
            return w.lifecycle.as_ref().is_some_and(|l| l.next == self.lifecycle.len());
        }
        w.streams[partition].as_ref().is_some_and(|s| s.read_until == self.telemetry[partition].len())
    }

    /// A partition at its high watermark, without a record for a tick, moves on by the clock; one whose log ended is at its end.
    pub fn advance_idle(&mut self, worker: usize, partition: usize) {
        let (tick, ended) = (self.now.saturating_sub(1), self.ended);
        if partition == LIFECYCLE {
            if let Some(stream) = &mut self.workers[worker].lifecycle {
                stream.time = if ended { TICKS } else { stream.time.max(tick) };
                stream.ended = ended;
            }
        } else if let Some(stream) = &mut self.workers[worker].streams[partition] {
            if ended { stream.end() } else { stream.advance(tick) }
        }
    }

    /// The group gives partitions to a worker, which gives up what it had. Whoever had them is not told.
    pub fn assign(&mut self, worker: usize, mask: u8) {
        self.forget(worker);
        let transaction = Transaction::begin(self, worker, Vec::new());
        let w = &mut self.workers[worker];
        w.alive = true;
        let partitions = (0..PARTITIONS).filter(|p| mask >> p & 1 == 1).collect();
        w.task = Task::TakeOver(TakeOver { partitions, locked: 0, transaction });
    }

    /// Discards partitions and what was folded of history.
    pub fn forget(&mut self, worker: usize) {
        let w = &mut self.workers[worker];
        w.streams = Default::default();
        w.lifecycle = None;
        w.task = Task::Idle;
        self.forget_history(worker);
    }

    pub fn forget_history(&mut self, worker: usize) {
        self.workers[worker].events = 0;
    }

    pub fn refresh_history(&mut self, worker: usize) {
        self.workers[worker].events |= self.database.events;
    }

    /// The process ends, with all that it had in memory.
    pub fn dies(&mut self, worker: usize) {
        self.workers[worker] = Worker::default();
    }

    /// Locks the lease rows one by one, then bumps their epochs.
    pub fn step_take_over(&mut self, worker: usize, mut task: TakeOver) {
        let session = task.transaction.session;
        if self.database.sessions[session].state != SessionState::Open {
            return self.dies(worker);
        }
        if let Some(&partition) = task.partitions.get(task.locked) {
            if self.take_lock(session, Lock::Lease(partition)) {
                task.locked += 1;
            }
            if task.locked < task.partitions.len() {
                self.workers[worker].task = Task::TakeOver(task);
                return;
            }
        }
        for &partition in &task.partitions {
            let lease = &mut self.database.leases[partition];
            lease.epoch += 1;
            let lease = lease.clone();
            let w = &mut self.workers[worker];
            if partition == LIFECYCLE {
                let (next, time) = (lease.position.next as usize, lease.position.time);
                let time = tick_of(time / hydrometer_schemas::time::MICROS_PER_SECOND);
                w.lifecycle = Some(LifecycleStream { next, time, ended: false, events: 0, lease });
            } else {
                w.streams[partition] = Some(Stream::open(lease));
            }
        }
        self.database.end(session, SessionState::Committed);
        self.workers[worker].homes = self.database.homes;
        self.refresh_history(worker);
        self.workers[worker].task = Task::Open;
        let epochs = self.database.leases.each_ref().map(|l| l.epoch);
        self.tell(|| format!("      epochs are now {epochs:?}"));
    }

    /// Evidence of the hours that are not frozen yet, through the manifest.
    pub fn step_open(&mut self, worker: usize) {
        for partition in 0..TELEMETRY {
            let Some(stream) = &mut self.workers[worker].streams[partition] else { continue };
            let from = hour_of(tick_of(stream.lease.frontier)) * super::world::TICKS_PER_HOUR;
            for object in &self.store {
                let ours = object.partition == partition && object.named && !object.retired && object.span().1 > from;
                if ours && matches!(object.kind, Kind::Usage | Kind::Late) {
                    add(&mut stream.evidence, &object.masks);
                }
            }
        }
        let partitions = self.owned(worker);
        self.workers[worker].task = Task::Publish(Publishing::of(partitions));
    }

    pub fn owned(&self, worker: usize) -> Vec<usize> {
        (0..TELEMETRY).filter(|p| self.workers[worker].streams[*p].is_some()).collect()
    }
}
