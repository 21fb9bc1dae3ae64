//! The end of a schedule: no more faults, and everything goes on until nothing is left to do.

use super::actions::Action;
use super::rules::Law;
use super::world::{LIFECYCLE, PARTITIONS, TICKS, WORKERS, World};

/// Draining takes fewer steps than this, or never ends.
const DRAIN_STEPS_MAX: usize = 4_000;

impl World {
    /// No more faults: everybody goes on to the end of the logs, somebody takes what nobody has, and all is swept.
    pub fn drain(&mut self) {
        if self.broken.is_some() {
            return;
        }
        (self.ended, self.now) = (true, TICKS);
        self.workers.iter_mut().for_each(|w| w.asleep = false);
        let mut steps = 0;
        while steps < DRAIN_STEPS_MAX && self.broken.is_none() {
            let before = steps;
            for worker in 0..WORKERS {
                for action in [Action::Commit { worker }, Action::EndSession { worker }, Action::Step { worker }] {
                    while self.broken.is_none() && steps < DRAIN_STEPS_MAX && self.can(action) {
                        self.drain_by(action);
                        steps += 1;
                    }
                }
            }
            if steps == before {
                let Some(action) = self.next_to_drain() else { break };
                self.drain_by(action);
                steps += 1;
            }
        }
        if steps == DRAIN_STEPS_MAX {
            self.breaks(Law::NoEnd, || format!("draining takes more than {steps} steps"));
        }
        // A last owner, under epochs of its own, removes what the others left.
        let worker = 0;
        for action in
            [Action::Assign { worker, partitions: 7 }, Action::Retire { worker }, Action::BeginSweep { worker }]
        {
            if self.broken.is_none() && self.can(action) {
                self.drain_by(action);
                while self.can(Action::Step { worker: 0 }) && self.broken.is_none() {
                    self.perform(Action::Step { worker: 0 });
                }
            }
        }
        if self.broken.is_none() {
            self.check_drained();
        }
    }

    fn drain_by(&mut self, action: Action) {
        self.tell(|| format!("      {action:?}"));
        self.perform(action);
    }

    /// What to begin when nobody is busy.
    fn next_to_drain(&self) -> Option<Action> {
        let workers = || 0..WORKERS;
        if let Some(orphan) = (0..PARTITIONS).find(|p| !self.has_owner(*p)) {
            let worker = workers().find(|w| self.workers[*w].alive).unwrap_or(orphan);
            return Some(Action::Assign { worker, partitions: 7 });
        }
        let partitions = |worker: usize| (0..PARTITIONS).map(move |partition| (worker, partition));
        let reads = workers().flat_map(partitions).map(|(worker, partition)| Action::Read { worker, partition });
        let ends = workers().flat_map(partitions).map(|(worker, partition)| Action::Idle { worker, partition });
        let begins = workers().flat_map(|worker| [Action::BeginLifecycle { worker }, Action::BeginLive { worker }]);
        let revisions =
            workers().flat_map(partitions).map(|(worker, partition)| Action::BeginRevision { worker, partition });
        reads.chain(ends).chain(begins).chain(revisions).find(|action| self.can(*action))
    }

    fn has_owner(&self, partition: usize) -> bool {
        let epoch = self.database.leases[partition].epoch;
        self.workers.iter().any(|w| {
            let lease = if partition == LIFECYCLE {
                w.lifecycle.as_ref().map(|l| &l.lease)
            } else {
                w.streams[partition].as_ref().map(|s| &s.lease)
            };
            w.alive && lease.is_some_and(|l| l.epoch == epoch)
        })
    }
}
