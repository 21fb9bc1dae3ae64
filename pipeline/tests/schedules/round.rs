//! A round, driven by the real state machine: what it says is done, and what happened is told to it.

use hydrometer_pipeline::protocol::{Happened, Round, Step, TimelineRule};
use hydrometer_pipeline::store::lease::Lease;
use uuid::Uuid;

use super::commit::{RoundEffect, RoundKind};
use super::database::{Request, Scope};
use super::live::{Draft, Prepared};
use super::publish::Publishing;
use super::revision::Plan;
use super::rules::{Law, Rule};
use super::settle::Settling;
use super::storage::{File, Kind, Object, Table};
use super::transaction::{Transaction, Went};
use super::worker::Task;
use super::world::{CONTRACTS, NO_BITS, TELEMETRY, World, contract_of, hour_of};

#[derive(Debug)]
pub struct RoundTask {
    pub round: Round,
    /// None: a live round.
    plan: Option<Plan>,
    prepared: Option<Prepared>,
    effect: Option<RoundEffect>,
    pub transaction: Option<Transaction>,
    pub settling: Option<Settling>,
    publishing: Option<Publishing>,
    /// The partitions whose files a revision needs, before it is derived.
    publish_first: Option<Publishing>,
}

impl RoundTask {
    fn new(plan: Option<Plan>, publish_first: Option<Publishing>) -> RoundTask {
        RoundTask {
            round: Round::begin(),
            plan,
            prepared: None,
            effect: None,
            transaction: None,
            settling: None,
            publishing: None,
            publish_first,
        }
    }

    pub fn is_publishing(&self) -> bool {
        self.publishing.is_some()
    }
}

impl World {
    pub fn begin_live(&mut self, worker: usize) {
        self.cut(worker);
        self.workers[worker].task = Task::Round(Box::new(RoundTask::new(None, None)));
    }

    pub fn begin_revision(&mut self, worker: usize, partition: usize) {
        let plan = self.gather(worker, partition);
        let first = self.rules.has(Rule::PublishFirst).then(|| Publishing::of(vec![partition]));
        self.workers[worker].task = Task::Round(Box::new(RoundTask::new(Some(plan), first)));
    }

    /// An id that was never used.
    fn fresh(&mut self) -> Uuid {
        if self.rules.has(Rule::FreshAttempts) || self.attempts == 0 {
            self.attempts += 1;
        }
        Uuid::from_u128(u128::from(self.attempts))
    }

    pub fn step_round(&mut self, worker: usize, mut task: Box<RoundTask>) {
        if let Some(publishing) = task.publish_first.take() {
            match self.step_publishing(worker, publishing) {
                Ok(more) => task.publish_first = more,
                Err(()) => return self.dies(worker),
            }
            self.workers[worker].task = Task::Round(task);
            return;
        }
        let happened = match task.round.step() {
            Step::Derive => {
                self.refresh_history(worker);
                task.prepared = match &task.plan {
                    None => Some(self.prepare_live(worker)),
                    Some(plan) => self.prepare_revision(worker, plan),
                };
                task.effect = None;
                if task.prepared.is_none() {
                    return;
                }
                Some(Happened::Derived)
            }
            Step::Stage { attempt } => self.stage(&mut task, attempt.as_u128() as u32),
            Step::Commit { timeline, .. } => self.step_commit(worker, &mut task, timeline),
            Step::Settle { attempt } => self.step_settle(worker, &mut task, attempt.as_u128() as u32),
            Step::Publish => match self.step_publish(worker, &mut task) {
                Ok(happened) => happened,
                Err(()) => return self.dies(worker),
            },
            Step::Done => return,
            Step::Stop => return self.dies(worker),
        };
        match happened {
            Some(happened) => self.round_happened(worker, task, happened),
            None => self.workers[worker].task = Task::Round(task),
        }
    }

    /// Tells the state machine what happened, and goes on with what it says.
    pub fn round_happened(&mut self, worker: usize, mut task: Box<RoundTask>, happened: Happened) {
        self.note(worker, &mut task, happened);
        let fresh = self.fresh();
        let step = task.round.happened(happened, fresh);
        self.tell(|| format!("      {happened:?}, next: {step:?}"));
        if step != Step::Done {
            self.workers[worker].task = Task::Round(task);
        }
    }

    /// What an outcome means for the worker's own memory.
    fn note(&mut self, worker: usize, task: &mut RoundTask, happened: Happened) {
        let Some(effect) = &task.effect else { return };
        let before_outcome = !self.rules.has(Rule::SweepKnownOutcome) && happened == Happened::Staged;
        if happened.finishes_attempt() || before_outcome {
            self.workers[worker].finished.push(effect.attempt);
        }
        match happened {
            Happened::HomesMoved => self.workers[worker].homes = self.database.homes,
            Happened::BrokeBeforeCommit => self.forget_history(worker),
            Happened::FenceLost | Happened::SettledForeign => {
                let epochs: Vec<i64> = effect.before.iter().map(|l| l.epoch).collect();
                let partitions = effect.partitions.clone();
                self.check_fenced(&partitions, &epochs);
            }
            _ => {}
        }
        if happened != Happened::Staged {
            task.transaction = None;
        }
    }

    /// Writes the objects of the attempt.
    fn stage(&mut self, task: &mut RoundTask, attempt: u32) -> Option<Happened> {
        let prepared = task.prepared.as_ref()?;
        let effect = task.effect.get_or_insert_with(|| begin_effect(prepared, attempt));
        for draft in &prepared.drafts {
            self.stage_object(prepared, draft, effect, attempt)?;
        }
        Some(Happened::Staged)
    }

    fn stage_object(
        &mut self,
        prepared: &Prepared,
        draft: &Draft,
        effect: &mut RoundEffect,
        attempt: u32,
    ) -> Option<()> {
        let epoch = prepared.partitions.iter().zip(&prepared.before).find(|(p, _)| **p == draft.partition)?.1.epoch;
        let object = Object {
            attempt,
            partition: draft.partition,
            epoch,
            kind: draft.kind,
            hour: draft.hour,
            masks: draft.masks,
            rated: draft.rated.clone(),
            stored: true,
            named: false,
            retired: false,
        };
        let index = self.store.len();
        for (partition, asked) in draft.asks.iter().enumerate() {
            let Some((from, to)) = *asked else { continue };
            effect.requests.push(Request { partition, scope: Scope::Object(index), from, to, done: false });
        }
        effect.objects.push(index);
        for row in &draft.rated {
            let contract = contract_of(usize::from(row.server));
            effect.steps.push((contract, hour_of(usize::from(row.to) - 1), row.quantity));
        }
        if prepared.kind == RoundKind::Revision {
            let table = if draft.kind == Kind::Rated { Table::Rated } else { Table::Usage };
            effect.files.push(File {
                table,
                partition: draft.partition,
                hour: draft.hour.unwrap_or(0),
                revision: prepared.after[0].revision,
                objects: vec![index],
                published: false,
                content: None,
            });
        }
        if self.store.iter().any(|other| other.same_name(&object)) {
            self.breaks(Law::WrittenTwice, || {
                format!("attempt {attempt} writes {:?} of {:?} again", object.kind, object.hour)
            });
        }
        self.store.push(object);
        Some(())
    }

    fn step_commit(&mut self, worker: usize, task: &mut RoundTask, timeline: TimelineRule) -> Option<Happened> {
        let effect = task.effect.as_mut()?;
        if task.transaction.is_none() {
            let statements = self.statements(worker, effect);
            task.transaction = Some(Transaction::begin(self, worker, statements));
        }
        let (transaction, prepared) = (task.transaction.as_mut()?, task.prepared.as_ref()?);
        if let Some(ended) = transaction.ended(self) {
            return Some(ended);
        }
        loop {
            match self.statement(worker, prepared, effect, transaction, timeline) {
                Went::On => transaction.at += 1,
                Went::Waits => return None,
                Went::Over(happened) => return Some(happened),
            }
            if transaction.is_at_a_stop() {
                return None;
            }
        }
    }

    fn step_settle(&mut self, worker: usize, task: &mut RoundTask, attempt: u32) -> Option<Happened> {
        let effect = task.effect.as_ref()?;
        let (partition, epoch) = (effect.partitions[0], effect.before[0].epoch);
        let settling = task.settling.get_or_insert_with(|| Settling::new(attempt, partition, epoch));
        let happened = self.step_settling(worker, settling)?;
        task.settling = None;
        Some(happened)
    }

    /// First what the commit means for memory, then the files that are owed, one step each.
    fn step_publish(&mut self, worker: usize, task: &mut RoundTask) -> Result<Option<Happened>, ()> {
        let publishing = match task.publishing.take() {
            Some(publishing) => publishing,
            None => Publishing::of(self.committed(worker, task)),
        };
        task.publishing = self.step_publishing(worker, publishing)?;
        Ok(task.publishing.is_none().then_some(Happened::Published))
    }

    fn committed(&mut self, worker: usize, task: &RoundTask) -> Vec<usize> {
        let Some(effect) = &task.effect else { return Vec::new() };
        let w = &mut self.workers[worker];
        for (partition, after) in effect.partitions.iter().zip(&effect.after) {
            let Some(stream) = &mut w.streams[*partition] else { continue };
            stream.lease = after.clone();
            if effect.kind == RoundKind::Live {
                (stream.cut_closed, stream.cut_late) = (NO_BITS, NO_BITS);
            }
        }
        for (home, claim) in w.homes.iter_mut().zip(effect.claims) {
            *home = home.or(claim);
        }
        effect.partitions.clone()
    }
}

fn begin_effect(prepared: &Prepared, attempt: u32) -> RoundEffect {
    debug_assert!(prepared.partitions.iter().all(|p| *p < TELEMETRY));
    RoundEffect {
        attempt,
        kind: prepared.kind.clone(),
        partitions: prepared.partitions.clone(),
        before: prepared.before.clone(),
        after: prepared.after.iter().map(|lease| Lease { round: lease.round + 1, ..lease.clone() }).collect(),
        claims: prepared.claims,
        objects: Vec::new(),
        requests: prepared.requests.clone(),
        finished: prepared.finished.clone(),
        files: Vec::new(),
        said: prepared.said.clone(),
        terms: prepared.terms,
        steps: Vec::new(),
        totals: [0; CONTRACTS],
    }
}
