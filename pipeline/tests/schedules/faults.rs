//! What goes wrong: connections that break, locks waited for too long, workers that are gone.

use hydrometer_pipeline::protocol::{Happened, Step};

use super::database::SessionState;
use super::rules::Rule;
use super::worker::Task;
use super::world::World;

impl World {
    /// The client of a session goes away. What it was in the middle of, the server may not notice for a while.
    pub fn detach(&mut self, worker: usize) {
        if let Some(session) = self.transaction(worker).map(|t| t.session) {
            self.database.sessions[session].attached = false;
        }
    }

    pub fn end_session(&mut self, session: Option<usize>) {
        if let Some(session) = session {
            self.database.end(session, SessionState::RolledBack);
        }
    }

    pub fn break_connection(&mut self, worker: usize) {
        self.detach(worker);
        let sent = self.transaction(worker).is_some_and(|t| t.statement().is_none());
        let lost = if sent { Happened::ReplyLost } else { Happened::BrokeBeforeCommit };
        match std::mem::take(&mut self.workers[worker].task) {
            // What broke while partitions were assigned ends the worker.
            Task::TakeOver(_) | Task::Open | Task::Publish(_) => self.dies(worker),
            Task::Idle | Task::Sweep(_) => self.starts_over(worker),
            Task::Round(mut task) => match task.round.step() {
                Step::Commit { .. } if task.transaction.is_some() => self.round_happened(worker, task, lost),
                Step::Settle { .. } if self.rules.has(Rule::SettleFirst) => {
                    task.settling = None;
                    self.workers[worker].task = Task::Round(task);
                }
                // Not connected for these: nothing breaks.
                Step::Stage { .. } | Step::Commit { .. } => self.workers[worker].task = Task::Round(task),
                Step::Publish if !task.is_publishing() => self.workers[worker].task = Task::Round(task),
                Step::Settle { .. } | Step::Derive | Step::Publish | Step::Stop | Step::Done => {
                    self.starts_over(worker)
                }
            },
            Task::Lifecycle(mut task) => match &mut task.settling {
                Some(settling) if self.rules.has(Rule::SettleFirst) => {
                    settling.transaction = None;
                    self.workers[worker].task = Task::Lifecycle(task);
                }
                Some(_) => self.starts_over(worker),
                None => self.lifecycle_over(worker, task, lost),
            },
        }
    }

    /// The worker goes on from what it has in memory; what it had cut and not committed is still there.
    fn starts_over(&mut self, worker: usize) {
        self.forget_history(worker);
        self.workers[worker].task = Task::Idle;
    }

    /// The server ends a statement that waited too long for a lock, and with it the transaction.
    pub fn lock_timeout(&mut self, worker: usize) {
        let session = self.waiting(worker);
        self.end_session(session);
        match std::mem::take(&mut self.workers[worker].task) {
            Task::Round(mut task) => match task.round.step() {
                Step::Settle { .. } => {
                    task.settling = None;
                    self.workers[worker].task = Task::Round(task);
                }
                _ => self.round_happened(worker, task, Happened::Refused),
            },
            Task::Lifecycle(mut task) => match &mut task.settling {
                Some(settling) => {
                    settling.transaction = None;
                    self.workers[worker].task = Task::Lifecycle(task);
                }
                None => self.lifecycle_over(worker, task, Happened::Refused),
            },
            _ => self.dies(worker),
        }
    }
}
