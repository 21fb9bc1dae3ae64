//! Finding out whether a commit is there whose reply was lost.

use hydrometer_pipeline::protocol::Happened;

use super::database::Lock;
use super::rules::Rule;
use super::transaction::{Statement, Transaction};
use super::world::World;

#[derive(Debug)]
pub struct Settling {
    attempt: u32,
    partition: usize,
    epoch: i64,
    /// None: not connected.
    pub transaction: Option<Transaction>,
}

impl Settling {
    pub fn new(attempt: u32, partition: usize, epoch: i64) -> Settling {
        Settling { attempt, partition, epoch, transaction: None }
    }
}

impl World {
    /// One step of settling; what was found, when it is.
    pub fn step_settling(&mut self, worker: usize, settling: &mut Settling) -> Option<Happened> {
        if settling.transaction.is_none() {
            let mut statements = vec![Statement::Look];
            if self.rules.has(Rule::SettleWaits) {
                statements.insert(0, Statement::Lock(Lock::Lease(settling.partition)));
            }
            settling.transaction = Some(Transaction::begin(self, worker, statements));
        }
        let transaction = settling.transaction.as_mut()?;
        if transaction.ended(self).is_some() {
            // The connection broke again: it is asked again.
            settling.transaction = None;
            return None;
        }
        if let Some(Statement::Lock(lock)) = transaction.statement() {
            if !self.take_lock(transaction.session, lock) {
                return None;
            }
            transaction.at += 1;
        }
        let committed = self.database.commits.contains(&settling.attempt);
        let same_epoch = self.database.leases[settling.partition].epoch == settling.epoch;
        transaction.roll_back(self, Happened::SettledNotCommitted);
        Some(match (committed, same_epoch) {
            (true, _) => Happened::SettledCommitted,
            (false, true) => Happened::SettledNotCommitted,
            (false, false) => Happened::SettledForeign,
        })
    }
}
