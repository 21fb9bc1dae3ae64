//! A double-entry book on PostgreSQL.
//!
//! An *account* has a type and belongs to a party, a purpose and a currency. A *transfer* moves one amount from a
//! debit account to a credit account; a *transaction* is a set of transfers that is posted whole, under an id that
//! is made from what it stands for: a repeat is a no-op, another body under the same id is a conflict that names the
//! field. What is posted never changes; a correction is a new transaction that names the one it corrects, a *reversal*
//! one that takes it back. Transactions of one [`Chain`] are applied all or none. *Limits* ([`set_limit`]) keep what is
//! available on an account from falling too far, *holds* ([`place_hold`]) set amounts aside.
//!
//! The database enforces this by itself (`sql/`): the application's role owns nothing, reads the tables and writes
//! through functions. [`verify`] computes every invariant again from the rows, [`chain`] and [`anchor`] show what a superuser
//! changes, [`archive`] takes old months out, [`wallet`] keeps prepaid money, [`outbox`] has events for others. The README
//! describes tables and functions.
//!
//! ```no_run
//! use hydrometer_ledger::{AccountSpec, AccountType, Outcome, Poster, PosterOptions, Transaction, TransactionId, Transfer};
//! use tokio_postgres::{Config, NoTls};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let config: Config = "host=/run/postgresql user=app dbname=book".parse()?;
//! let poster = Poster::start(config, NoTls, PosterOptions::default());
//! let namespace = uuid::Uuid::from_u128(0x6b1f);
//! let payment = Transaction {
//!     id: TransactionId::derive(&namespace, &["payment", "4711"]),
//!     kind: "payment".into(),
//!     effective_at: "2026-03-01T12:00:00Z".parse()?,
//!     description: "invoice 17".into(),
//!     corrects: None,
//!     reverses: None,
//!     metadata: serde_json::json!({ "invoice": 17 }),
//!     transfers: vec![Transfer {
//!         debit: AccountSpec::new(AccountType::Asset, "bank:first", "cash", "USD"),
//!         credit: AccountSpec::new(AccountType::Asset, "renter:acme", "receivable", "USD"),
//!         amount: "1250.00".parse()?,
//!     }],
//! };
//! // Committed when it answers; the same again is a repeat.
//! assert_eq!(poster.post(vec![payment.clone()]).await?, [Outcome::Posted]);
//! assert_eq!(poster.post(vec![payment]).await?, [Outcome::Repeated]);
//! # Ok(())
//! # }
//! ```
//!
//! # Locks
//!
//! Holds, new ids, ids of what is reversed, balances; sorted within each, held until the transaction ends. Whoever takes
//! other locks takes them before, and posts once in a database transaction.
//!
//! # Errors
//!
//! [`LedgerError::Invalid`] is found before anything is sent, [`LedgerError::Rejected`] breaks a rule of the database
//! whatever the book holds, [`LedgerError::Refused`] and [`LedgerError::Conflict`] depend on what it holds: a [`Refusal`]
//! says which transaction and why, for a limit with what was available. [`LedgerError::is_transient`] tells deadlocks, lost
//! connections and the like, which the same call may survive.

mod account;
mod accounts;
mod amount;
pub mod anchor;
pub mod archive;
mod balance;
mod canonical;
pub mod chain;
mod error;
mod history;
mod hold;
mod journal;
mod limit;
mod migration;
pub mod outbox;
mod post;
mod poster;
mod read;
mod statement;
mod transaction;
mod verify;
pub mod wallet;

pub use account::{AccountSpec, AccountType};
pub use accounts::Accounts;
pub use amount::{Amount, AmountError};
pub use balance::{AsOf, Balance, By, Funds, TrialBalance, balances, funds, trial_balance};
pub use error::{LedgerError, Refusal, RefusalReason, Shortfall};
pub use history::{HoldRecord, LimitChange, Resolution, hold, holds, limits};
pub use hold::{Capture, Hold, HoldId, capture_hold, expire_holds, place_hold, void_hold};
pub use journal::{Journal, JournalFormat, Period};
pub use limit::set_limit;
pub use migration::migration;
pub use post::{Answers, Chain, open_accounts, post, post_each};
pub use poster::{Poster, PosterOptions};
pub use read::{Account, Entry, Position, accounts, transaction, transfers};
pub use statement::{Place, Statement, StatementLine, statement_page};
pub use transaction::{Outcome, Transaction, TransactionId, Transfer};
pub use verify::{Findings, NAMED, Progress, Violation, verify, verify_with};
