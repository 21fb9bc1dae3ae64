//! The commit of lifecycle events: exclusive against rating commits, and the requests it leaves behind their frontiers.

use hydrometer_pipeline::protocol::Happened;
use hydrometer_pipeline::store::commit::fence;

use super::commit::{Effect, LifecycleEffect};
use super::database::{Lock, Request, Scope, SessionState};
use super::rules::{Law, Rule};
use super::settle::Settling;
use super::transaction::{Statement, Transaction, Went};
use super::worker::Task;
use super::world::{LIFECYCLE, SERVERS, TELEMETRY, World, differences, micros, terms, tick_of};

#[derive(Debug)]
pub struct LifecycleTask {
    pub effect: LifecycleEffect,
    pub transaction: Transaction,
    /// What the events touch, and the frontiers and homes as they were read.
    touched: [Option<(usize, usize)>; SERVERS],
    seen: Option<([usize; TELEMETRY], [Option<usize>; SERVERS])>,
    pub settling: Option<Settling>,
}

impl World {
    pub fn lifecycle_is_due(&self, worker: usize) -> bool {
        self.workers[worker].lifecycle.as_ref().is_some_and(|l| {
            l.events != 0 || l.next as i64 != l.lease.position.next || micros(l.time) != l.lease.position.time
        })
    }

    pub fn begin_lifecycle(&mut self, worker: usize) {
        self.attempts += 1;
        let Some(stream) = self.workers[worker].lifecycle.clone() else { return };
        let mut after = stream.lease.clone();
        after.round += 1;
        after.position.next = stream.next as i64;
        after.position.replay_from = stream.next as i64;
        after.position.time = micros(stream.time);
        let mut statements = vec![Statement::Lock(Lock::Lease(LIFECYCLE)), Statement::Fence];
        if stream.events != 0 {
            if !self.rules.has(Rule::RequestsAfterLock) {
                statements.push(Statement::ReadFrontiers);
            }
            if self.rules.has(Rule::TimelineExclusive) {
                statements.push(Statement::Lock(Lock::TimelineExclusive));
            }
            statements.push(Statement::Record);
            if self.rules.has(Rule::RequestsAfterLock) {
                statements.push(Statement::ReadFrontiers);
            }
        }
        statements.push(Statement::Commit);
        let effect = LifecycleEffect {
            attempt: self.attempts,
            before: stream.lease,
            after,
            events: stream.events,
            requests: Vec::new(),
        };
        let transaction = Transaction::begin(self, worker, statements);
        let task = LifecycleTask { effect, transaction, touched: [None; SERVERS], seen: None, settling: None };
        self.workers[worker].task = Task::Lifecycle(Box::new(task));
    }

    pub fn step_lifecycle(&mut self, worker: usize, mut task: Box<LifecycleTask>) {
        if let Some(mut settling) = task.settling.take() {
            match self.step_settling(worker, &mut settling) {
                None => task.settling = Some(settling),
                Some(happened) => return self.lifecycle_over(worker, task, happened),
            }
        } else {
            let mut went = task.transaction.ended(self).map_or(Went::On, Went::Over);
            while went == Went::On {
                went = self.lifecycle_statement(worker, &mut task);
                if went == Went::On && task.transaction.is_at_a_stop() {
                    break;
                }
            }
            if let Went::Over(happened) = went {
                return self.lifecycle_over(worker, task, happened);
            }
        }
        self.workers[worker].task = Task::Lifecycle(task);
    }

    fn lifecycle_statement(&mut self, worker: usize, task: &mut LifecycleTask) -> Went {
        let session = task.transaction.session;
        match task.transaction.statement() {
            Some(Statement::Lock(lock)) if !self.take_lock(session, lock) => return Went::Waits,
            Some(Statement::Fence) => {
                let found = self.found(std::slice::from_ref(&task.effect.before), &[LIFECYCLE]);
                if let Some(refusal) = fence(std::slice::from_ref(&task.effect.before), &found) {
                    return task.transaction.roll_back(self, refusal);
                }
            }
            Some(Statement::Record) => {
                self.refresh_history(worker);
                let before = terms(&self.lifecycle, self.database.events);
                let after = terms(&self.lifecycle, self.database.events | task.effect.events);
                task.touched = differences(&before, &after);
                self.leave_lifecycle_requests(task);
            }
            Some(Statement::ReadFrontiers) => {
                let frontiers = std::array::from_fn(|p| tick_of(self.database.leases[p].frontier));
                task.seen = Some((frontiers, self.database.homes));
                self.leave_lifecycle_requests(task);
            }
            Some(Statement::Commit) => {
                self.database.sessions[session].effect = Some(Effect::Lifecycle(Box::new(task.effect.clone())));
                self.database.sessions[session].state = SessionState::Committing;
            }
            _ => {}
        }
        task.transaction.at += 1;
        Went::On
    }

    /// What is touched behind the frontier of its server's home is asked for again. A server without a home has nothing rated.
    fn leave_lifecycle_requests(&mut self, task: &mut LifecycleTask) {
        let Some((frontiers, homes)) = task.seen else { return };
        for (server, touched) in task.touched.iter().enumerate() {
            let (Some((from, to)), Some(partition)) = (*touched, homes[server]) else { continue };
            let to = to.min(frontiers[partition]);
            if from < to {
                task.effect.requests.push(Request { partition, scope: Scope::Server(server), from, to, done: false });
            }
        }
    }

    pub fn lifecycle_over(&mut self, worker: usize, mut task: Box<LifecycleTask>, happened: Happened) {
        self.tell(|| format!("      {happened:?}"));
        match happened {
            Happened::Committed | Happened::SettledCommitted => {
                let w = &mut self.workers[worker];
                if let Some(stream) = &mut w.lifecycle {
                    stream.lease = task.effect.after;
                    stream.events = 0;
                }
                w.events |= task.effect.events;
                w.task = Task::Idle;
            }
            Happened::FenceLost | Happened::SettledForeign => {
                self.check_fenced(&[LIFECYCLE], &[task.effect.before.epoch]);
                self.dies(worker);
            }
            Happened::ReplyLost => {
                task.settling = Some(Settling::new(task.effect.attempt, LIFECYCLE, task.effect.before.epoch));
                self.workers[worker].task = Task::Lifecycle(task);
            }
            _ => {
                self.forget_history(worker);
                self.workers[worker].task = Task::Idle;
            }
        }
    }

    /// Whoever stops because of its fence has really lost its partitions.
    pub fn check_fenced(&mut self, partitions: &[usize], epochs: &[i64]) {
        if partitions.iter().zip(epochs).all(|(p, epoch)| self.database.leases[*p].epoch == *epoch) {
            self.breaks(Law::HealthyWorkerStopped, || {
                format!("partitions {partitions:?} are still of epochs {epochs:?}, and their worker was told that they are not its own")
            });
        }
    }
}
