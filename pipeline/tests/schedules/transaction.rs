//! A transaction as its worker sees it: a list of statements, with the rules deciding which there are and in which order.

use hydrometer_pipeline::protocol::Happened;

use super::database::{Lock, SessionState};
use super::rules::Law;
use super::world::World;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statement {
    Lock(Lock),
    /// Reads the leases and compares them with what the worker expects.
    Fence,
    /// Asks for events that came since the derivation.
    Judge,
    /// Whether the homes to be claimed are free.
    Claim,
    /// Reads the rating states.
    ReadTotals,
    /// Works out the lists of objects of the hours that are passed.
    Freeze,
    /// Reads frontiers and homes (a lifecycle commit).
    ReadFrontiers,
    /// Records events, and what they touch.
    Record,
    /// Whether an attempt's commit is there.
    Look,
    Commit,
}

/// How a statement went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Went {
    On,
    /// It waits for a lock.
    Waits,
    /// The transaction is over, rolled back or committed.
    Over(Happened),
}

#[derive(Debug, Clone)]
pub struct Transaction {
    pub session: usize,
    pub statements: Vec<Statement>,
    pub at: usize,
}

impl Transaction {
    pub fn begin(world: &mut World, worker: usize, statements: Vec<Statement>) -> Transaction {
        Transaction { session: world.database.begin(worker), statements, at: 0 }
    }

    /// The statement whose turn it is; none when COMMIT was sent.
    pub fn statement(&self) -> Option<Statement> {
        self.statements.get(self.at).copied()
    }

    /// A step ends before the next lock, before COMMIT, and after it; what is between belongs to the lock before.
    pub fn is_at_a_stop(&self) -> bool {
        matches!(self.statement(), None | Some(Statement::Lock(_) | Statement::Commit))
    }

    /// Whether a step would do anything: not while it waits for a lock or for the reply to COMMIT.
    pub fn can_go_on(&self, world: &World) -> bool {
        let session = &world.database.sessions[self.session];
        match (session.state, session.waits) {
            (SessionState::Committing, _) => false,
            (SessionState::Open, Some(lock)) => world.database.grantable(self.session, lock),
            _ => true,
        }
    }

    /// What became of the session meanwhile, if it is over.
    pub fn ended(&self, world: &World) -> Option<Happened> {
        let sent = self.statement().is_none();
        match world.database.sessions[self.session].state {
            SessionState::Open | SessionState::Committing => None,
            SessionState::Committed => Some(Happened::Committed),
            // The server died, or ended the session.
            SessionState::RolledBack if sent => Some(Happened::ReplyLost),
            SessionState::RolledBack => Some(Happened::BrokeBeforeCommit),
        }
    }

    pub fn roll_back(&self, world: &mut World, why: Happened) -> Went {
        world.database.end(self.session, SessionState::RolledBack);
        Went::Over(why)
    }
}

impl World {
    /// Takes a lock or waits; a circle of waiting is a broken law, although Postgres would resolve it.
    pub fn take_lock(&mut self, session: usize, lock: Lock) -> bool {
        let got = self.database.lock(session, lock);
        if !got && self.database.deadlocked(session) {
            let worker = self.database.sessions[session].worker;
            self.breaks(Law::Deadlock, || format!("worker {worker} waits for {lock:?}"));
        }
        got
    }
}
