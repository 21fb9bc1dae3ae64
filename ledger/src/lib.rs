//! A double-entry book on PostgreSQL.
//!
//! An *account* has a type and belongs to a party, a purpose and a currency. A *transfer* moves one amount from a
//! debit account to a credit account; a *transaction* is a set of transfers that is posted whole, under an id that
//! is made from what it stands for: a repeat is a no-op, another body under the same id is a conflict. What is posted
//! never changes; a correction is a new transaction that names the one it corrects.
//!
//! The database enforces this by itself (`sql/0001_ledger.sql`, `sql/0001_post.sql`): the application's role owns
//! nothing, reads the tables and writes through one function, [`post`], inside a transaction of its own.
//! [`verify`] computes every invariant again from the rows.

mod account;
mod amount;
mod error;
mod migration;
mod post;
mod read;
mod transaction;
mod verify;

pub use account::{AccountSpec, AccountType};
pub use amount::{Amount, AmountError};
pub use error::LedgerError;
pub use migration::migration;
pub use post::post;
pub use read::{
    Account, AsOf, Balance, Entry, Position, TrialBalance, accounts, balances, transaction, transfers, trial_balance,
};
pub use transaction::{Outcome, Transaction, TransactionId, Transfer};
pub use verify::{Violation, verify};
