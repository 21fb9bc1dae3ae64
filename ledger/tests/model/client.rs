//! A client, as a process of its own: it does its operations one after the other, each again until it is answered, and
//! says so on standard output. Some post sets in a database transaction of their own, the others give each chain of an
//! operation to the group commit.

use std::time::{Duration, Instant};

use chrono::Utc;
use futures::future::join_all;
use hydrometer_ledger::{
    Chain, LedgerError, Outcome, Poster, PosterOptions, RefusalReason, capture_hold, expire_holds, place_hold,
    post_each, void_hold,
};
use serde::{Deserialize, Serialize};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use crate::plan::{self, Operation, Run};

/// Its orders, by the environment.
pub const ORDERS: &str = "HYDROMETER_MODEL_CLIENT";

#[derive(Serialize, Deserialize)]
pub struct Orders {
    pub database: String,
    pub run: Run,
    pub client: u64,
    /// The operations from this one to before that one.
    pub from: u64,
    pub to: u64,
}

/// An operation that is done.
#[derive(Serialize, Deserialize)]
pub struct Done {
    pub operation: u64,
    pub answers: Vec<Answer>,
    /// How often it was undone by a deadlock and such, and how often its connection was lost.
    pub undone: u64,
    pub lost: u64,
}

/// What became of one chain.
#[derive(Serialize, Deserialize)]
pub enum Answer {
    /// Of each transaction, whether it is new.
    Posted(Vec<bool>),
    Conflict(String),
    /// A hold was placed, captured or voided, and whether that is new.
    Held(bool),
    Expired(i32),
    /// Account, available, change and limit, in 1e-9.
    Limit(String, i128, i128, i128),
    Other(String),
}

pub async fn run(orders: &str) {
    let orders: Orders = serde_json::from_str(orders).unwrap();
    // The test harness has begun a line.
    println!();
    let poster = (orders.client % 2 == 1).then(|| {
        let options = PosterOptions { patience: Duration::from_millis(200), ..PosterOptions::default() };
        Poster::start(orders.database.parse().unwrap(), NoTls, options)
    });
    let mut session = Session { database: orders.database, poster, client: None };
    for operation in orders.from..orders.to {
        let what = plan::operation(orders.run, orders.client, operation);
        let done = session.complete(operation, &what).await;
        // One write, so that a kill leaves no half of a line that could be read.
        println!("done {}", serde_json::to_string(&done).unwrap());
    }
}

struct Session {
    database: String,
    poster: Option<Poster>,
    client: Option<Client>,
}

impl Session {
    async fn complete(&mut self, operation: u64, what: &Operation) -> Done {
        let (mut undone, mut lost) = (0, 0);
        let began = Instant::now();
        loop {
            match self.attempt(what).await {
                Ok(answers) => return Done { operation, answers, undone, lost },
                Err(Trouble::Undone) => undone += 1,
                Err(Trouble::Lost) => {
                    lost += 1;
                    self.client = None;
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
            }
            assert!(began.elapsed() < Duration::from_secs(90), "operation {operation} is never answered");
        }
    }

    async fn attempt(&mut self, what: &Operation) -> Result<Vec<Answer>, Trouble> {
        if let (Some(poster), Operation::Post(chains)) = (&self.poster, what) {
            let answers = join_all(chains.iter().map(|chain| poster.post(chain.clone()))).await;
            // Of those that were answered the others learn by posting again.
            return answers.into_iter().map(|answer| Answer::of(answer, Answer::posted)).collect();
        }
        if self.client.is_none() {
            let (client, connection) =
                tokio_postgres::connect(&self.database, NoTls).await.map_err(|_| Trouble::Lost)?;
            tokio::spawn(connection);
            self.client = Some(client);
        }
        let Some(client) = &mut self.client else { return Err(Trouble::Lost) };
        let tx = client.transaction().await.map_err(|_| Trouble::Lost)?;
        let held =
            |answer| Answer::of(answer, |outcome| Answer::Held(outcome == Outcome::Posted)).map(|held| vec![held]);
        let answers = match what {
            Operation::Post(chains) => {
                let chains: Vec<Chain<'_>> = chains.iter().map(|transactions| Chain { transactions }).collect();
                let answers = post_each(&tx, &chains).await.map_err(|error| Trouble::of(&error))?;
                let answers = answers.into_iter().map(|answer| answer.map_err(LedgerError::from));
                answers.map(|answer| Answer::of(answer, Answer::posted)).collect::<Result<_, _>>()?
            }
            Operation::Place(hold) => match place_hold(&tx, hold).await {
                // It cannot be placed any more once its time has passed.
                Err(LedgerError::Rejected { .. }) if hold.expires_at < Utc::now() => {
                    return Ok(vec![Answer::Other("too late".to_owned())]);
                }
                answer => held(answer)?,
            },
            Operation::Capture(_, capture) => held(capture_hold(&tx, capture).await)?,
            Operation::Void(hold) => held(void_hold(&tx, *hold).await)?,
            Operation::Expire => vec![Answer::of(expire_holds(&tx, 100).await, Answer::Expired)?],
        };
        // Whether it is committed is in doubt after an error; doing it again with the same ids tells.
        tx.commit().await.map_err(|_| Trouble::Lost)?;
        Ok(answers)
    }
}

enum Trouble {
    Undone,
    Lost,
}

impl Trouble {
    fn of(error: &LedgerError) -> Trouble {
        // What the ledger cannot take, or lack of funds, is no error of a set.
        assert!(error.is_transient(), "{error}");
        let LedgerError::Database { source, .. } = error else { return Trouble::Lost };
        match source.code() {
            // Deadlock, serialization failure and such: the connection is well.
            Some(code) if code.code().starts_with("40") || *code == SqlState::LOCK_NOT_AVAILABLE => Trouble::Undone,
            _ => Trouble::Lost,
        }
    }
}

impl Answer {
    fn posted(outcomes: Vec<Outcome>) -> Answer {
        Answer::Posted(outcomes.into_iter().map(|outcome| outcome == Outcome::Posted).collect())
    }

    fn of<T>(answer: Result<T, LedgerError>, done: impl FnOnce(T) -> Answer) -> Result<Answer, Trouble> {
        let refusal = match answer {
            Ok(outcome) => return Ok(done(outcome)),
            Err(LedgerError::Refused(refusal) | LedgerError::Conflict(refusal)) => refusal,
            Err(error) => return Err(Trouble::of(&error)),
        };
        Ok(match refusal.reason {
            RefusalReason::Conflict => Answer::Conflict(refusal.transaction.to_string()),
            RefusalReason::Limit(s) => {
                Answer::Limit(s.account, s.available.nanos(), s.change.nanos(), s.credit_limit.nanos())
            }
            reason => Answer::Other(format!("{reason:?}")),
        })
    }
}
