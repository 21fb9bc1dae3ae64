//! A model of Postgres: committed rows, sessions, and locks that block. What a transaction reads it reads as committed at that
//! statement; what it writes shows when its COMMIT is worked off, which may be long after its client went away.

use hydrometer_pipeline::source::TopicPartition;
use hydrometer_pipeline::store::lease::Lease;
use hydrometer_pipeline::window::Position;
use hydrometer_schemas::time::{MICROS_PER_SECOND, Second};

use super::commit::Effect;
use super::storage::File;
use super::world::{CONTRACTS, LIFECYCLE, PARTITIONS, SERVERS, TELEMETRY, TICKS, Terms};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lock {
    Lease(usize),
    TimelineShared,
    TimelineExclusive,
    Home(usize),
    State(usize),
}

impl Lock {
    /// Row locks are exclusive and have a place each; the timeline lock has its own queue.
    fn row(self) -> Option<usize> {
        match self {
            Lock::Lease(partition) => Some(partition),
            Lock::Home(server) => Some(PARTITIONS + server),
            Lock::State(contract) => Some(PARTITIONS + SERVERS + contract),
            Lock::TimelineShared | Lock::TimelineExclusive => None,
        }
    }
}

const ROWS: usize = PARTITIONS + SERVERS + CONTRACTS;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// In a transaction, between statements or waiting for a lock.
    Open,
    /// COMMIT was received and is not worked off yet.
    Committing,
    Committed,
    RolledBack,
}

#[derive(Debug)]
pub struct Session {
    pub state: SessionState,
    pub worker: usize,
    /// Whether its client still listens.
    pub attached: bool,
    pub waits: Option<Lock>,
    pub effect: Option<Effect>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Server(usize),
    Object(usize),
}

#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub partition: usize,
    pub scope: Scope,
    pub from: usize,
    pub to: usize,
    pub done: bool,
}

/// What a posting stands for: the round of each partition (0: not of it), the contract, and the hour that a revision corrects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PostingId {
    pub rounds: [i64; TELEMETRY],
    pub contract: usize,
    pub revised_hour: Option<usize>,
}

pub struct Database {
    pub leases: [Lease; PARTITIONS],
    /// The events recorded so far, as a set of places in their log.
    pub events: u64,
    pub homes: [Option<usize>; SERVERS],
    pub requests: Vec<Request>,
    pub files: Vec<File>,
    /// Attempts that committed.
    pub commits: Vec<u32>,
    /// The quantity billed so far.
    pub totals: [i32; CONTRACTS],
    pub postings: Vec<(PostingId, i32)>,
    pub rated_live: [[bool; TICKS]; SERVERS],
    /// (server, from, revision) of every window that was rated again.
    pub revisions: Vec<(u8, u8, u8)>,
    /// The terms on which every tick was rated last.
    pub terms_said: Terms,
    pub sessions: Vec<Session>,
    pub open: Vec<usize>,
    rows: [Option<usize>; ROWS],
    shared: Vec<usize>,
    exclusive: Option<usize>,
    queue: Vec<(usize, bool)>,
}

impl Database {
    pub fn new(topics: &[TopicPartition; PARTITIONS], events: usize) -> Database {
        let lease = |partition: usize| Lease {
            partition: topics[partition].clone(),
            epoch: 0,
            round: 0,
            attempt: None,
            position: Position { next: if partition == LIFECYCLE { events as i64 } else { 0 }, ..Position::default() },
            frontier: 0,
            homes: 0,
            revision: 0,
        };
        Database {
            leases: std::array::from_fn(lease),
            events: (1 << events) - 1,
            homes: [None; SERVERS],
            requests: Vec::new(),
            files: Vec::new(),
            commits: Vec::new(),
            totals: [0; CONTRACTS],
            postings: Vec::new(),
            rated_live: [[false; TICKS]; SERVERS],
            revisions: Vec::new(),
            terms_said: [[0; TICKS]; SERVERS],
            sessions: Vec::new(),
            open: Vec::new(),
            rows: [None; ROWS],
            shared: Vec::new(),
            exclusive: None,
            queue: Vec::new(),
        }
    }

    /// (lifecycle time, least second until which every telemetry partition is closed), in seconds.
    pub fn progress(&self) -> (Second, Second) {
        let closed = self.leases[..TELEMETRY].iter().map(|l| l.position.closed_until * 60).min().unwrap_or(0);
        (self.leases[LIFECYCLE].position.time / MICROS_PER_SECOND, closed)
    }

    pub fn begin(&mut self, worker: usize) -> usize {
        let session = Session { state: SessionState::Open, worker, attached: true, waits: None, effect: None };
        self.sessions.push(session);
        self.open.push(self.sessions.len() - 1);
        self.sessions.len() - 1
    }

    /// Ends a transaction one way or the other: its locks are free.
    pub fn end(&mut self, session: usize, state: SessionState) {
        self.sessions[session].state = state;
        self.sessions[session].waits = None;
        self.open.retain(|s| *s != session);
        self.rows.iter_mut().filter(|owner| **owner == Some(session)).for_each(|owner| *owner = None);
        self.shared.retain(|s| *s != session);
        if self.exclusive == Some(session) {
            self.exclusive = None;
        }
        self.queue.retain(|(s, _)| *s != session);
    }

    /// Takes a lock, or waits for it: false.
    pub fn lock(&mut self, session: usize, lock: Lock) -> bool {
        if self.sessions[session].waits.is_none() && lock.row().is_none() {
            self.queue.push((session, lock == Lock::TimelineExclusive));
        }
        if !self.grantable(session, lock) {
            self.sessions[session].waits = Some(lock);
            return false;
        }
        self.sessions[session].waits = None;
        match lock.row() {
            Some(row) => self.rows[row] = Some(session),
            None => {
                self.queue.retain(|(s, _)| *s != session);
                if lock == Lock::TimelineExclusive {
                    self.exclusive = Some(session);
                } else {
                    self.shared.push(session);
                }
            }
        }
        true
    }

    pub fn grantable(&self, session: usize, lock: Lock) -> bool {
        self.blockers(session, lock).next().is_none()
    }

    /// Whom a session waits for. The timeline lock queues fairly: also for those who asked before.
    fn blockers(&self, session: usize, lock: Lock) -> impl Iterator<Item = usize> + '_ {
        let row = lock.row().and_then(|row| self.rows[row]);
        let timeline = lock.row().is_none();
        let exclusive = lock == Lock::TimelineExclusive;
        let shared: &[usize] = if exclusive { &self.shared } else { &[] };
        let ahead = self.queue.iter().take_while(move |(s, _)| *s != session).filter(move |(_, x)| *x || exclusive);
        let queue =
            timeline.then(|| self.exclusive.into_iter().chain(shared.iter().copied()).chain(ahead.map(|a| a.0)));
        row.into_iter().chain(queue.into_iter().flatten()).filter(move |other| *other != session)
    }

    /// Whether a session that waits is waited for by those it waits for.
    pub fn deadlocked(&self, session: usize) -> bool {
        let mut seen: Vec<usize> = Vec::new();
        let mut next: Vec<usize> = vec![session];
        while let Some(waiting) = next.pop() {
            let Some(lock) = self.sessions[waiting].waits else { continue };
            for blocker in self.blockers(waiting, lock) {
                if blocker == session {
                    return true;
                }
                if !seen.contains(&blocker) {
                    seen.push(blocker);
                    next.push(blocker);
                }
            }
        }
        false
    }
}
