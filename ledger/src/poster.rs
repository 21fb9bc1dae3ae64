//! Group commit: requests of many callers in one set, and to each its own answer.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::{Instant, sleep};
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, Config, Socket};

use crate::accounts::Accounts;
use crate::post::{Answers, Chain};
use crate::transaction::validate;
use crate::{LedgerError, Outcome, RefusalReason, Transaction, TransactionId};

/// How a [`Poster`] works.
#[derive(Clone, Copy, Debug)]
pub struct PosterOptions {
    /// Connections to the database: while one set is being written, the next is gathered.
    pub connections: usize,
    /// The most requests in one set.
    pub set: usize,
    /// The most requests that wait; further callers wait before they are taken.
    pub queue: usize,
    /// For how long a set is tried again when the database is away or undoes it (deadlock, serialization failure).
    pub patience: Duration,
}

impl Default for PosterOptions {
    fn default() -> Self {
        PosterOptions { connections: 2, set: 500, queue: 2_000, patience: Duration::from_secs(30) }
    }
}

/// Posts for many callers at once: whatever requests are waiting when a connection is free become one set. A clone
/// posts through the same connections; they close with the last of them.
///
/// A request is one chain: its transactions are applied all or none, and committed when the answer is there. One that is
/// refused spoils no other. When the connection is lost at the commit, the set is posted again with the same ids, so
/// each transaction is there once; its outcome may then be [`Outcome::Repeated`]. A caller that stops waiting does not
/// know whether its request was posted, and learns it by posting the same again.
#[derive(Clone)]
pub struct Poster {
    queue: mpsc::Sender<Request>,
}

struct Request {
    transactions: Vec<Transaction>,
    answer: oneshot::Sender<Result<Vec<Outcome>, LedgerError>>,
}

impl Poster {
    /// Starts the tasks that post, on the present tokio runtime; they connect when there is something to post.
    pub fn start<T>(config: Config, tls: T, options: PosterOptions) -> Poster
    where
        T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
        T::Stream: Send,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let (queue, requests) = mpsc::channel(options.queue.max(1));
        let requests = Arc::new(Mutex::new(requests));
        let accounts = Arc::new(Accounts::default());
        for _ in 0..options.connections.max(1) {
            let worker = Worker {
                connect: Connect { config: config.clone(), tls: tls.clone() },
                client: None,
                accounts: Arc::clone(&accounts),
                options,
            };
            tokio::spawn(worker.run(Arc::clone(&requests)));
        }
        Poster { queue }
    }

    /// Posts transactions, all or none, and commits. The outcomes are in their order.
    ///
    /// # Errors
    /// [`LedgerError::Refused`] and [`LedgerError::Conflict`] say why the ledger did not take it, [`LedgerError::Invalid`]
    /// why none would; nothing was posted then. After [`LedgerError::Database`] it may have been posted or not: post the
    /// same again.
    pub async fn post(&self, transactions: Vec<Transaction>) -> Result<Vec<Outcome>, LedgerError> {
        validate(&transactions)?;
        let (answer, answered) = oneshot::channel();
        let gone = || LedgerError::Closed;
        self.queue.send(Request { transactions, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

struct Connect<T> {
    config: Config,
    tls: T,
}

struct Worker<T> {
    connect: Connect<T>,
    client: Option<Client>,
    accounts: Arc<Accounts>,
    options: PosterOptions,
}

impl<T> Worker<T>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    async fn run(mut self, requests: Arc<Mutex<mpsc::Receiver<Request>>>) {
        let mut waiting: Vec<Request> = Vec::new();
        loop {
            if waiting.is_empty() {
                let taken = requests.lock().await.recv_many(&mut waiting, self.options.set.max(1)).await;
                if taken == 0 {
                    return;
                }
            }
            // Whoever has gone before its request was sent is not posted.
            waiting.retain(|request| !request.answer.is_closed());
            let (set, later) = without_shared_ids(std::mem::take(&mut waiting));
            waiting = later;
            self.post_set(set).await;
        }
    }

    /// Posts a set and answers all of it.
    async fn post_set(&mut self, set: Vec<Request>) {
        let chains: Vec<Chain<'_>> = set.iter().map(|request| Chain { transactions: &request.transactions }).collect();
        let answers = match self.persist(&chains).await {
            Ok(answers) => answers,
            // Nothing of the set is posted. Alone, each has its own answer.
            Err(error) if set.len() > 1 && !error.is_transient() => {
                drop(chains);
                for request in set {
                    let answer = self.post_alone(&request.transactions).await;
                    let _ = request.answer.send(answer);
                }
                return;
            }
            Err(error) => {
                for request in set {
                    let _ = request.answer.send(Err(error.clone()));
                }
                return;
            }
        };
        drop(chains);
        let many = set.len() > 1;
        for (request, answer) in set.into_iter().zip(answers) {
            let answer = match answer {
                // Of what others in the set were about to do, and perhaps did not.
                Err(refusal) if many && depends_on_others(&refusal.reason) => {
                    self.post_alone(&request.transactions).await
                }
                answer => answer.map_err(LedgerError::from),
            };
            let _ = request.answer.send(answer);
        }
    }

    async fn post_alone(&mut self, transactions: &[Transaction]) -> Result<Vec<Outcome>, LedgerError> {
        let mut answers = self.persist(&[Chain { transactions }]).await?;
        answers.pop().unwrap_or(Ok(Vec::new())).map_err(LedgerError::from)
    }

    /// Posts in a database transaction of its own, again and again while the database is away or undoes it. The ids make
    /// sure that each is posted once.
    async fn persist(&mut self, chains: &[Chain<'_>]) -> Result<Answers, LedgerError> {
        let end = Instant::now() + self.options.patience;
        let mut pause = Duration::from_millis(1);
        loop {
            let error = match self.attempt(chains).await {
                Ok(answers) => return Ok(answers),
                Err(error) => error,
            };
            if self.client.as_ref().is_some_and(Client::is_closed) {
                self.client = None;
            }
            if !error.is_transient() || Instant::now() + pause > end {
                return Err(error);
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }

    /// The statement is a transaction of its own, committed when its answer is there: one round trip.
    async fn attempt(&mut self, chains: &[Chain<'_>]) -> Result<Answers, LedgerError> {
        let client = match &self.client {
            Some(client) => client,
            None => self.client.insert(self.connect.open().await?),
        };
        let transactions = chains.iter().flat_map(|chain| chain.transactions);
        self.accounts.open(client, transactions.flat_map(Transaction::accounts)).await?;
        self.accounts.post(client, chains).await
    }
}

impl<T> Connect<T>
where
    T: MakeTlsConnect<Socket> + Clone + Send + Sync + 'static,
    T::Stream: Send,
    T::TlsConnect: Send,
    <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
{
    async fn open(&self) -> Result<Client, LedgerError> {
        let connected = self.config.connect(self.tls.clone()).await;
        let (client, connection) = connected.map_err(LedgerError::connecting)?;
        tokio::spawn(connection);
        Ok(client)
    }
}

fn depends_on_others(reason: &RefusalReason) -> bool {
    matches!(reason, RefusalReason::Missing | RefusalReason::Reversal | RefusalReason::Hold)
}

/// An id stands in one request of a set: the others wait for the next, and then for the answer to the first.
fn without_shared_ids(requests: Vec<Request>) -> (Vec<Request>, Vec<Request>) {
    let mut ids: HashSet<TransactionId> = HashSet::new();
    requests.into_iter().partition(|request| {
        let own = || request.transactions.iter().map(|transaction| transaction.id);
        let free = own().all(|id| !ids.contains(&id));
        if free {
            ids.extend(own());
        }
        free
    })
}
