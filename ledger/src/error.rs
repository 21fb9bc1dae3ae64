//! What can go wrong: what happened, the detail, and what to do about it.

use std::fmt;
use std::sync::Arc;

use tokio_postgres::error::SqlState;

use crate::{Amount, TransactionId};

/// The states that the ledger's SQL raises.
const INVALID: &str = "HL001";
const OTHER_ACCOUNT: &str = "HL003";
const UNCHAINABLE: &str = "HL007";
const NOT_DETACHABLE: &str = "HL008";

#[derive(Clone, Debug, thiserror::Error)]
pub enum LedgerError {
    /// A posting that breaks a rule, found before it was sent.
    #[error("{what}: {detail}. {hint}")]
    Invalid { what: String, detail: String, hint: &'static str },

    /// The id was posted before with another body.
    #[error("{0}")]
    Conflict(Refusal),

    /// A posting that the ledger refused for what it holds, such as a limit.
    #[error("{0}")]
    Refused(Refusal),

    /// A posting that breaks a rule of the database.
    #[error("the ledger refused it: {what}. {detail} {hint}")]
    Rejected { what: String, detail: String, hint: String, source: Arc<tokio_postgres::Error> },

    /// The database failed. `is_transient` says whether another attempt may succeed.
    #[error("{doing} failed: {detail}")]
    Database { doing: &'static str, detail: String, source: Arc<tokio_postgres::Error> },

    /// The poster has ended with its runtime.
    #[error("posting failed: the poster has ended. Nothing is posted by it any more; start another")]
    Closed,

    /// The database holds something that this version cannot read.
    #[error("{what}: {detail}. {hint}")]
    Unreadable { what: String, detail: String, hint: &'static str },
}

impl LedgerError {
    /// Whether the same call may succeed when it is made again in a new database transaction.
    pub fn is_transient(&self) -> bool {
        let LedgerError::Database { source, .. } = self else { return false };
        match source.code() {
            Some(code) => {
                matches!(
                    *code,
                    SqlState::T_R_SERIALIZATION_FAILURE
                        | SqlState::T_R_DEADLOCK_DETECTED
                        | SqlState::LOCK_NOT_AVAILABLE
                        | SqlState::TOO_MANY_CONNECTIONS
                ) || code.code().starts_with("08")
                    || code.code().starts_with("57P")
            }
            // Closed, broken off, or not to be reached at all: `Error` tells these apart by their causes only.
            None => source.is_closed() || is_io(source),
        }
    }

    pub(crate) fn connecting(error: tokio_postgres::Error) -> LedgerError {
        let detail = error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string);
        LedgerError::Database { doing: "connecting to the database", detail, source: Arc::new(error) }
    }

    pub(crate) fn database(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> LedgerError {
        move |error| {
            let Some(db) = error.as_db_error() else {
                return LedgerError::Database { doing, detail: error.to_string(), source: Arc::new(error) };
            };
            let what = db.message().to_owned();
            let detail = db.detail().unwrap_or_default().to_owned();
            let hint = db.hint().unwrap_or_default().to_owned();
            let code = db.code().code().to_owned();
            let source = Arc::new(error);
            match code.as_str() {
                // A check constraint of a table, or a balance that would not fit.
                INVALID | OTHER_ACCOUNT | UNCHAINABLE | NOT_DETACHABLE | "23514" | "22003" => {
                    LedgerError::Rejected { what, detail, hint, source }
                }
                _ => LedgerError::Database { doing, detail: format!("{what} (SQLSTATE {code})"), source },
            }
        }
    }
}

fn is_io(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<std::io::Error>())
}

/// Why a transaction was refused, and its chain with it. Nothing of it was posted, and its ids stay free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub transaction: TransactionId,
    pub reason: RefusalReason,
    /// In words.
    pub detail: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// The id was posted before with another body; the detail says which field differs.
    Conflict,
    /// It corrects or reverses what was not posted.
    Missing,
    /// Its metadata does not fit the description of its kind.
    Metadata,
    /// It would reverse more than there was.
    Reversal,
    /// The hold that it captures is not there, too small, expired or resolved.
    Hold,
    /// An account would have less available than its limit allows.
    Limit(Box<Shortfall>),
}

/// What was missing on an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortfall {
    pub account: String,
    /// What was available before the transaction.
    pub available: Amount,
    /// How the transaction would have changed that; negative.
    pub change: Amount,
    /// What is available may fall to minus this.
    pub credit_limit: Amount,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { transaction, reason, detail } = self;
        match reason {
            RefusalReason::Conflict => write!(
                f,
                "conflict: transaction {transaction} was posted with another body. What differs: {detail}. An id stands \
                 for one body for ever; to change what was posted, post a correction with an id of its own"
            ),
            _ => write!(f, "the ledger refused transaction {transaction}: {detail}. Nothing of it was posted"),
        }
    }
}

impl From<Refusal> for LedgerError {
    fn from(refusal: Refusal) -> Self {
        match refusal.reason {
            RefusalReason::Conflict => LedgerError::Conflict(refusal),
            _ => LedgerError::Refused(refusal),
        }
    }
}
