//! The commit point: everything that Hydrometer asks of Postgres, apart from the ledger's own statements.
//!
//! * [`lease`]: partitions, their epochs and positions
//! * [`timeline`]: lifecycle events, requests
//! * [`home`]: where servers are at home
//! * [`manifest`]: staged objects and published files
//! * [`wallet`]: what prepaid use draws, what events give
//! * [`period`]: billing periods, what leases used in them, and what stands against closing one
//! * [`rating`]: the rating state inside a commit
//! * [`xid`]: fatal XIDs on record
//! * [`commit`]: the transaction of a round, in the protocol's order of locks
//! * [`against`]: what stands against closing a billing period
//! * [`closing`]: the transaction of what falls due at the end of hours and billing periods
//! * [`lifecycle`]: the transaction of lifecycle events

pub mod against;
pub mod closing;
pub mod commit;
pub mod home;
pub mod lease;
pub mod lifecycle;
pub mod manifest;
pub mod migrate;
pub mod period;
pub mod rating;
pub mod timeline;
pub mod wallet;
pub mod xid;

use std::time::Duration;

use hydrometer_ledger::LedgerError;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use crate::config::DatabaseConfig;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot connect to the database ({target}): {detail}. Hint: {hint}")]
    Connect { target: String, detail: String, hint: &'static str },
    #[error("the database refused while {doing}: {detail}")]
    Database { doing: &'static str, detail: String, source: tokio_postgres::Error },
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("cannot rate: {0}")]
    Money(#[from] hydrometer_rating::money::MoneyError),
    #[error("cannot rate: {0}")]
    Rate(#[from] hydrometer_rating::rate::RateError),
    #[error(
        "a row of {table} cannot be read: {detail}. Hint: was it changed by hand? `hydrometer verify` names such rows"
    )]
    Row { table: &'static str, detail: String },
}

impl StoreError {
    /// A passing trouble: the same transaction may go through when it is tried again.
    pub fn is_transient(&self) -> bool {
        match self {
            StoreError::Database { source, .. } => is_transient(source) || source.is_closed(),
            StoreError::Ledger(error) => error.is_transient(),
            _ => false,
        }
    }

    /// The connection is gone (as against a refusal by the server).
    pub fn is_disconnect(&self) -> bool {
        match self {
            StoreError::Database { source, .. } => is_disconnect(source),
            StoreError::Connect { .. } => true,
            StoreError::Ledger(LedgerError::Database { source, .. }) => is_disconnect(source),
            _ => false,
        }
    }
}

fn is_disconnect(error: &tokio_postgres::Error) -> bool {
    error.is_closed()
        || match error.as_db_error() {
            None => true,
            Some(db) => {
                let code = db.code();
                *code == SqlState::ADMIN_SHUTDOWN
                    || *code == SqlState::CRASH_SHUTDOWN
                    || *code == SqlState::CANNOT_CONNECT_NOW
                    || *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT
            }
        }
}

fn is_transient(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| {
        *code == SqlState::T_R_SERIALIZATION_FAILURE
            || *code == SqlState::T_R_DEADLOCK_DETECTED
            || *code == SqlState::LOCK_NOT_AVAILABLE
            || *code == SqlState::QUERY_CANCELED
    })
}

/// Attaches what was being done to a database error.
pub(crate) fn doing(doing: &'static str) -> impl Fn(tokio_postgres::Error) -> StoreError {
    move |source| {
        let detail = match source.as_db_error() {
            Some(db) => {
                let missing = [SqlState::UNDEFINED_TABLE, SqlState::INVALID_SCHEMA_NAME, SqlState::UNDEFINED_COLUMN];
                let hint = if missing.contains(db.code()) {
                    ". Hint: is the database prepared for this version? Run `hydrometer migrate` as its owner"
                        .to_owned()
                } else {
                    db.hint().map(|h| format!(" (hint: {h})")).unwrap_or_default()
                };
                let detail = db.detail().map(|d| format!(" ({d})")).unwrap_or_default();
                format!("{}{detail}{hint}", db.message())
            }
            None => source.to_string(),
        };
        StoreError::Database { doing, detail, source }
    }
}

/// Sessions of ours never hold locks for long when their worker stops dead: the server ends them.
#[derive(Debug, Clone)]
pub struct Timeouts {
    pub lock: Duration,
    pub idle_in_transaction: Duration,
    pub statement: Duration,
    /// How long a database that went away is waited for.
    pub patience: Duration,
}

impl From<&DatabaseConfig> for Timeouts {
    fn from(config: &DatabaseConfig) -> Timeouts {
        Timeouts {
            lock: Duration::from_secs(config.lock_timeout_s),
            idle_in_transaction: Duration::from_secs(config.idle_in_transaction_timeout_s),
            statement: Duration::from_secs(config.statement_timeout_s),
            patience: Duration::from_secs(config.patience_s),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts::from(&DatabaseConfig::default())
    }
}

/// A connection, and how to get another one.
pub struct Database {
    config: tokio_postgres::Config,
    timeouts: Timeouts,
    client: Client,
}

/// From the first packet to a session that is ready. A server that has stalled may accept a connection and never answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl Database {
    /// Connects with the usual timeouts.
    pub async fn connect(url: &str) -> Result<Database, StoreError> {
        Database::connect_with(url, Timeouts::default()).await
    }

    pub async fn connect_with(url: &str, timeouts: Timeouts) -> Result<Database, StoreError> {
        let mut config: tokio_postgres::Config = url.parse().map_err(|e: tokio_postgres::Error| StoreError::Connect {
            target: "from the configuration".into(),
            detail: e.to_string(),
            hint: "expected something like host=/run/postgresql user=hydrometer_app dbname=hydrometer, or a postgres:// address",
        })?;
        config
            .application_name("hydrometer")
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives_idle(Duration::from_secs(10))
            .tcp_user_timeout(Duration::from_secs(30));
        let client = open(&config, &timeouts).await?;
        Ok(Database { config, timeouts, client })
    }

    pub fn client(&mut self) -> &mut Client {
        &mut self.client
    }

    pub fn client_ref(&self) -> &Client {
        &self.client
    }

    /// The session alone.
    pub fn into_client(self) -> Client {
        self.client
    }

    /// Replaces a broken connection, waiting for a database that is coming back.
    pub async fn reconnect(&mut self) -> Result<(), StoreError> {
        let deadline = tokio::time::Instant::now() + self.timeouts.patience;
        loop {
            match open(&self.config, &self.timeouts).await {
                Ok(client) => {
                    self.client = client;
                    return Ok(());
                }
                Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "the database is away; trying again");
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
            }
        }
    }
}

async fn open(config: &tokio_postgres::Config, timeouts: &Timeouts) -> Result<Client, StoreError> {
    match tokio::time::timeout(CONNECT_TIMEOUT, open_session(config, timeouts)).await {
        Ok(opened) => opened,
        Err(_) => Err(StoreError::Connect {
            target: target(config),
            detail: format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
            hint: AWAY,
        }),
    }
}

async fn open_session(config: &tokio_postgres::Config, timeouts: &Timeouts) -> Result<Client, StoreError> {
    let (client, connection) = config.connect(NoTls).await.map_err(|e| connect_error(config, &e))?;
    tokio::spawn(async move {
        // The error, if any, reaches whoever uses the client.
        let _ = connection.await;
    });
    let settings = format!(
        "SET lock_timeout = {}; SET idle_in_transaction_session_timeout = {}; SET statement_timeout = {}; \
         SET timezone = 'UTC'; SET client_min_messages = warning",
        timeouts.lock.as_millis(),
        timeouts.idle_in_transaction.as_millis(),
        timeouts.statement.as_millis()
    );
    client.batch_execute(&settings).await.map_err(|e| connect_error(config, &e))?;
    Ok(client)
}

const AWAY: &str =
    "is the server running and is the address right? Nothing was lost: the worker goes on from its last commit";

fn target(config: &tokio_postgres::Config) -> String {
    let hosts: Vec<String> = config
        .get_hosts()
        .iter()
        .map(|host| match host {
            tokio_postgres::config::Host::Tcp(name) => name.clone(),
            tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
        })
        .collect();
    format!(
        "host {}, user {}, database {}",
        if hosts.is_empty() { "localhost".into() } else { hosts.join(",") },
        config.get_user().unwrap_or("?"),
        config.get_dbname().unwrap_or("?")
    )
}

fn connect_error(config: &tokio_postgres::Config, error: &tokio_postgres::Error) -> StoreError {
    let hint = match error.code() {
        Some(code) if *code == SqlState::INVALID_PASSWORD || *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "the server refuses this login: check user and password (database.url, or HYDROMETER_DATABASE_URL) and pg_hba.conf"
        }
        Some(code) if *code == SqlState::UNDEFINED_DATABASE => {
            "there is no such database: create it, then run `hydrometer migrate`"
        }
        Some(code) if *code == SqlState::TOO_MANY_CONNECTIONS => {
            "the server has no connection free: raise max_connections"
        }
        _ => AWAY,
    };
    let detail = match error.as_db_error() {
        Some(db) => db.message().to_owned(),
        None => std::error::Error::source(error).map_or_else(|| error.to_string(), |s| format!("{error}: {s}")),
    };
    StoreError::Connect { target: target(config), detail, hint }
}
