//! Everything that can happen, one step at a time; each action is possible or not, and does the same in the same state.

use super::database::SessionState;
use super::transaction::Transaction;
use super::worker::Task;
use super::world::{Event, LIFECYCLE, Record, TELEMETRY, TICKS, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is a tick later.
    Clock,
    /// A server's reading arrives in a partition.
    Append {
        partition: usize,
        server: u8,
        tick: u8,
    },
    /// A lifecycle event arrives.
    Happen(Event),
    /// The group gives these partitions (a set) to a worker; whoever had them is not told.
    Assign {
        worker: usize,
        partitions: u8,
    },
    /// A worker takes a batch.
    Read {
        worker: usize,
        partition: usize,
    },
    /// A worker's partition has been silent.
    Idle {
        worker: usize,
        partition: usize,
    },
    BeginLifecycle {
        worker: usize,
    },
    BeginLive {
        worker: usize,
    },
    BeginRevision {
        worker: usize,
        partition: usize,
    },
    Retire {
        worker: usize,
    },
    BeginSweep {
        worker: usize,
    },
    /// A worker goes on with what it is doing, to its next statement, object or file.
    Step {
        worker: usize,
    },
    /// The server works off the COMMIT of a worker (of its oldest session that waits for it).
    Commit {
        worker: usize,
    },
    /// The server fails a COMMIT that it received.
    AbortCommit {
        worker: usize,
    },
    /// The server ends a transaction of a worker that is gone or silent.
    EndSession {
        worker: usize,
    },
    /// A lock was waited for too long.
    LockTimeout {
        worker: usize,
    },
    /// A worker's connection breaks.
    Break {
        worker: usize,
    },
    /// Handing partitions over took too long: the worker drops what it does, and its partitions.
    DrainTimeout {
        worker: usize,
    },
    Crash {
        worker: usize,
    },
    /// A worker is stopped in its tracks, and wakes up as a zombie.
    Sleep {
        worker: usize,
    },
    Wake {
        worker: usize,
    },
}

impl World {
    pub fn can(&self, action: Action) -> bool {
        let idle = |worker: usize| {
            let w = &self.workers[worker];
            w.alive && !w.asleep && matches!(w.task, Task::Idle)
        };
        let awake = |worker: usize| self.workers[worker].alive && !self.workers[worker].asleep;
        match action {
            Action::Clock => self.now < TICKS,
            Action::Append { server, tick, .. } => {
                usize::from(tick) <= self.now.min(TICKS - 1)
                    && self.bits_used[usize::from(server)][usize::from(tick)] < 4
            }
            Action::Happen(event) => self.lifecycle.len() < 14 && usize::from(event.from) < TICKS,
            Action::Assign { worker, .. } => {
                !self.workers[worker].asleep && matches!(self.workers[worker].task, Task::Idle)
            }
            Action::Read { worker, partition } => self.can_read(worker, partition),
            Action::Idle { worker, partition } => {
                idle(worker) && self.is_caught_up(worker, partition) && self.idle_moves(worker, partition)
            }
            Action::BeginLifecycle { worker } => idle(worker) && self.lifecycle_is_due(worker),
            Action::BeginLive { worker } => idle(worker) && self.live_is_due(worker),
            Action::BeginRevision { worker, partition } => idle(worker) && self.revision_is_due(worker, partition),
            Action::Retire { worker } => idle(worker) && !self.retirable(worker).is_empty(),
            Action::BeginSweep { worker } => idle(worker) && self.store.iter().any(|o| o.stored),
            Action::Step { worker } => {
                awake(worker)
                    && !matches!(self.workers[worker].task, Task::Idle)
                    && self.transaction(worker).is_none_or(|t| t.can_go_on(self))
            }
            Action::Commit { worker } | Action::AbortCommit { worker } => self.committing(worker).is_some(),
            Action::EndSession { worker } => self.silent(worker).is_some(),
            Action::LockTimeout { worker } => awake(worker) && self.waiting(worker).is_some(),
            Action::Break { worker } => awake(worker) && !matches!(self.workers[worker].task, Task::Idle),
            Action::DrainTimeout { worker } => awake(worker),
            Action::Crash { worker } => self.workers[worker].alive,
            Action::Sleep { worker } => awake(worker),
            Action::Wake { worker } => self.workers[worker].asleep,
        }
    }

    fn idle_moves(&self, worker: usize, partition: usize) -> bool {
        let w = &self.workers[worker];
        if partition == LIFECYCLE {
            return w.lifecycle.as_ref().is_some_and(|l| if self.ended { !l.ended } else { l.time + 1 < self.now });
        }
        w.streams[partition].as_ref().is_some_and(
            |s| {
                if self.ended { !s.ended } else { s.closed_ticks() + 1 < self.now }
            },
        )
    }

    /// The transaction that a worker is in.
    pub fn transaction(&self, worker: usize) -> Option<&Transaction> {
        match &self.workers[worker].task {
            Task::TakeOver(task) => Some(&task.transaction),
            Task::Round(task) => match &task.settling {
                Some(settling) => settling.transaction.as_ref(),
                None => task.transaction.as_ref(),
            },
            Task::Lifecycle(task) => match &task.settling {
                Some(settling) => settling.transaction.as_ref(),
                None => Some(&task.transaction),
            },
            _ => None,
        }
    }

    /// The oldest of a worker's sessions whose COMMIT is not worked off.
    pub fn committing(&self, worker: usize) -> Option<usize> {
        let is = |s: &usize| {
            let session = &self.database.sessions[*s];
            session.worker == worker && session.state == SessionState::Committing
        };
        self.database.open.iter().copied().find(is)
    }

    /// The oldest of a worker's transactions that nobody goes on with.
    pub fn silent(&self, worker: usize) -> Option<usize> {
        let is = |s: &usize| {
            let session = &self.database.sessions[*s];
            session.worker == worker
                && session.state == SessionState::Open
                && (!session.attached || self.workers[worker].asleep)
        };
        self.database.open.iter().copied().find(is)
    }

    pub fn waiting(&self, worker: usize) -> Option<usize> {
        let session = self.transaction(worker)?.session;
        let waits = self.database.sessions[session].state == SessionState::Open
            && self.database.sessions[session].waits.is_some();
        waits.then_some(session)
    }

    pub fn perform(&mut self, action: Action) {
        match action {
            Action::Clock => self.now += 1,
            Action::Append { partition, server, tick } => {
                let used = &mut self.bits_used[usize::from(server)][usize::from(tick)];
                let bit = 1 << *used;
                *used += 1;
                self.telemetry[partition.min(TELEMETRY - 1)].push(Record { server, tick, bit });
            }
            Action::Happen(event) => self.lifecycle.push(event),
            Action::Assign { worker, partitions } => self.assign(worker, partitions),
            Action::Read { worker, partition } => self.read(worker, partition),
            Action::Idle { worker, partition } => self.advance_idle(worker, partition),
            Action::BeginLifecycle { worker } => self.begin_lifecycle(worker),
            Action::BeginLive { worker } => self.begin_live(worker),
            Action::BeginRevision { worker, partition } => self.begin_revision(worker, partition),
            Action::Retire { worker } => self.retire(worker),
            Action::BeginSweep { worker } => self.begin_sweep(worker),
            Action::Step { worker } => self.step(worker),
            Action::Commit { worker } => self.committing(worker).into_iter().for_each(|session| self.commit(session)),
            Action::AbortCommit { worker } => self.end_session(self.committing(worker)),
            Action::EndSession { worker } => self.end_session(self.silent(worker)),
            Action::LockTimeout { worker } => self.lock_timeout(worker),
            Action::Break { worker } => self.break_connection(worker),
            Action::DrainTimeout { worker } => {
                self.detach(worker);
                self.forget(worker);
            }
            Action::Crash { worker } => {
                self.detach(worker);
                self.dies(worker);
            }
            Action::Sleep { worker } => self.workers[worker].asleep = true,
            Action::Wake { worker } => self.workers[worker].asleep = false,
        }
    }

    fn step(&mut self, worker: usize) {
        match std::mem::take(&mut self.workers[worker].task) {
            Task::Idle => {}
            Task::TakeOver(task) => self.step_take_over(worker, task),
            Task::Open => self.step_open(worker),
            Task::Round(task) => self.step_round(worker, task),
            Task::Lifecycle(task) => self.step_lifecycle(worker, task),
            Task::Publish(publishing) => match self.step_publishing(worker, publishing) {
                Ok(Some(more)) => self.workers[worker].task = Task::Publish(more),
                Ok(None) => {}
                Err(()) => self.dies(worker),
            },
            Task::Sweep(sweeping) => self.step_sweep(worker, sweeping),
        }
    }
}
