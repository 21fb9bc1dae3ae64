//! What can go wrong: what happened, the detail, and what to do about it.

use tokio_postgres::error::SqlState;

/// The states that the ledger's SQL raises.
const INVALID: &str = "HL001";
const CONFLICT: &str = "HL002";
const OTHER_ACCOUNT: &str = "HL003";

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// A posting that breaks a rule, found before it was sent.
    #[error("{what}: {detail}. {hint}")]
    Invalid { what: String, detail: String, hint: &'static str },

    /// The id was posted before with another body.
    #[error("{what}. {detail} {hint}")]
    Conflict { what: String, detail: String, hint: String, source: Box<tokio_postgres::Error> },

    /// A posting that breaks a rule, refused by the database.
    #[error("the ledger refused it: {what}. {detail} {hint}")]
    Refused { what: String, detail: String, hint: String, source: Box<tokio_postgres::Error> },

    /// The database failed. `is_transient` says whether another attempt may succeed.
    #[error("{doing} failed: {detail}")]
    Database { doing: &'static str, detail: String, source: Box<tokio_postgres::Error> },

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
            None => source.is_closed(),
        }
    }

    pub(crate) fn database(doing: &'static str) -> impl FnOnce(tokio_postgres::Error) -> LedgerError {
        move |error| {
            let Some(db) = error.as_db_error() else {
                return LedgerError::Database { doing, detail: error.to_string(), source: Box::new(error) };
            };
            let what = db.message().to_owned();
            let detail = db.detail().unwrap_or_default().to_owned();
            let hint = db.hint().unwrap_or_default().to_owned();
            let code = db.code().code().to_owned();
            let source = Box::new(error);
            match code.as_str() {
                CONFLICT => LedgerError::Conflict { what, detail, hint, source },
                // A check constraint of a table, or a balance that would not fit.
                INVALID | OTHER_ACCOUNT | "23514" | "22003" => LedgerError::Refused { what, detail, hint, source },
                _ => LedgerError::Database { doing, detail: format!("{what} (SQLSTATE {code})"), source },
            }
        }
    }
}
