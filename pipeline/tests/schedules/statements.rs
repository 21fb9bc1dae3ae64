//! The transaction of a round, statement by statement.

use hydrometer_pipeline::protocol::{Happened, TimelineRule};
use hydrometer_pipeline::store::commit::fence;
use hydrometer_pipeline::store::lease::Lease;

use super::commit::{Effect, RoundEffect};
use super::database::{Lock, Request, Scope, SessionState};
use super::live::Prepared;
use super::rules::Rule;
use super::storage::{File, Kind, Object, Table};
use super::transaction::{Statement, Transaction, Went};
use super::world::{CONTRACTS, PARTITIONS, SERVERS, TICKS_PER_HOUR, World, differences, hour_of, terms, tick_of};

impl World {
    /// The statements of a round's transaction, in the one order of locks.
    pub fn statements(&self, worker: usize, effect: &RoundEffect) -> Vec<Statement> {
        let mut leases = effect.partitions.clone();
        if !self.rules.has(Rule::LocksSorted) && worker % 2 == 1 {
            leases.reverse();
        }
        let fence = leases.into_iter().map(|p| Statement::Lock(Lock::Lease(p))).chain([Statement::Fence]);
        let mut timeline = vec![Statement::Lock(Lock::TimelineShared)];
        if self.rules.has(Rule::VersionCheck) {
            timeline.push(Statement::Judge);
        }
        let mut statements: Vec<Statement> = fence.collect();
        if self.rules.has(Rule::FenceFirst) || worker.is_multiple_of(2) {
            statements.extend(timeline);
        } else {
            statements.splice(0..0, timeline);
        }
        let claimed = (0..SERVERS).filter(|s| effect.claims[*s].is_some());
        statements.extend(claimed.map(|s| Statement::Lock(Lock::Home(s))));
        statements.push(Statement::Claim);
        let mut contracts: Vec<usize> = Vec::with_capacity(CONTRACTS);
        for (contract, _, _) in &effect.steps {
            if !contracts.contains(contract) {
                contracts.push(*contract);
            }
        }
        if self.rules.has(Rule::LocksSorted) {
            contracts.sort_unstable();
        }
        if self.rules.has(Rule::StateLock) {
            statements.extend(contracts.into_iter().map(|c| Statement::Lock(Lock::State(c))));
        }
        statements.extend([Statement::ReadTotals, Statement::Freeze, Statement::Commit]);
        statements
    }

    pub fn statement(
        &mut self,
        worker: usize,
        prepared: &Prepared,
        effect: &mut RoundEffect,
        transaction: &Transaction,
        timeline: TimelineRule,
    ) -> Went {
        match transaction.statement() {
            Some(Statement::Lock(lock)) if !self.take_lock(transaction.session, lock) => return Went::Waits,
            Some(Statement::Fence) => {
                let found = self.found(&effect.before, &effect.partitions);
                if let Some(refusal) = fence(&effect.before, &found) {
                    return transaction.roll_back(self, refusal);
                }
            }
            Some(Statement::Judge) => {
                let requests = self.judge(worker, prepared, effect);
                match timeline {
                    TimelineRule::DeriveAgain if !requests.is_empty() => {
                        return transaction.roll_back(self, Happened::TimelineMoved);
                    }
                    TimelineRule::LeaveRequests if self.rules.has(Rule::LeaveRequests) => {
                        effect.requests.extend(requests)
                    }
                    _ => {}
                }
            }
            Some(Statement::Claim) if self.rules.has(Rule::ClaimOnce) => {
                let taken = |s: usize| effect.claims[s].is_some() && self.database.homes[s].is_some();
                if (0..SERVERS).any(taken) {
                    return transaction.roll_back(self, Happened::HomesMoved);
                }
            }
            Some(Statement::ReadTotals) => effect.totals = self.database.totals,
            Some(Statement::Freeze) => self.freeze(effect),
            Some(Statement::Commit) => {
                let session = &mut self.database.sessions[transaction.session];
                session.effect = Some(Effect::Round(Box::new(effect.clone())));
                session.state = SessionState::Committing;
            }
            _ => {}
        }
        Went::On
    }

    /// The leases as they are, except for what a rule that is left out would have compared.
    pub fn found(&self, expected: &[Lease], partitions: &[usize]) -> Vec<Lease> {
        let mut found: Vec<Lease> = partitions.iter().map(|p| self.database.leases[*p].clone()).collect();
        for (found, expected) in found.iter_mut().zip(expected) {
            if !self.rules.has(Rule::FenceEpoch) {
                found.epoch = expected.epoch;
            }
            if !self.rules.has(Rule::FenceRound) {
                found.round = expected.round;
                found.position.next = expected.position.next;
            }
        }
        found
    }

    /// Folds events that came since the derivation; those that touch what this commit passes make requests.
    fn judge(&mut self, worker: usize, prepared: &Prepared, effect: &RoundEffect) -> Vec<Request> {
        if self.database.events & !prepared.events == 0 {
            return Vec::new();
        }
        self.refresh_history(worker);
        let now = terms(&self.lifecycle, self.database.events);
        let mut until: [Option<usize>; PARTITIONS] = [None; PARTITIONS];
        for (partition, after) in effect.partitions.iter().zip(&effect.after) {
            until[*partition] = Some(tick_of(after.frontier));
        }
        let mut requests = Vec::new();
        for (server, touched) in differences(&prepared.terms, &now).into_iter().enumerate() {
            let (Some((from, to)), Some(partition)) =
                (touched, self.workers[worker].homes[server].or(effect.claims[server]))
            else {
                continue;
            };
            if let Some(to) = until[partition].map(|until| to.min(until)).filter(|to| from < *to) {
                requests.push(Request { partition, scope: Scope::Server(server), from, to, done: false });
            }
        }
        requests
    }

    /// The lists of objects of every hour that the frontiers pass.
    fn freeze(&self, effect: &mut RoundEffect) {
        for (partition, (before, after)) in effect.partitions.iter().zip(effect.before.iter().zip(&effect.after)) {
            for hour in hour_of(tick_of(before.frontier))..hour_of(tick_of(after.frontier)) {
                for table in [Table::Usage, Table::Rated] {
                    let objects = self.objects_of_hour(*partition, hour, table, &effect.objects);
                    if !objects.is_empty() {
                        let (partition, content) = (*partition, None);
                        effect.files.push(File {
                            table,
                            partition,
                            hour,
                            revision: 0,
                            objects,
                            published: false,
                            content,
                        });
                    }
                }
            }
        }
    }

    /// What the manifest holds for an hour's file, with what a transaction is about to name.
    pub fn objects_of_hour(&self, partition: usize, hour: usize, table: Table, own: &[usize]) -> Vec<usize> {
        let belongs = |(index, object): &(usize, &Object)| {
            let named = object.named || own.contains(index);
            let of_hour = match table {
                Table::Rated => object.kind == Kind::Rated && object.hour == Some(hour),
                Table::Usage if object.kind == Kind::Late => {
                    let (from, to) = object.span();
                    let overlaps = from < (hour + 1) * TICKS_PER_HOUR && to > hour * TICKS_PER_HOUR;
                    overlaps && !object.retired && self.rules.has(Rule::FreezeLate)
                }
                Table::Usage => object.kind == Kind::Usage && object.hour == Some(hour),
            };
            named && of_hour && object.partition == partition
        };
        self.store.iter().enumerate().filter(belongs).map(|(index, _)| index).collect()
    }
}
