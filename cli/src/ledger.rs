//! `ledger`: what the book holds, now and at other times, as statements and journals; and postings by hand.

mod anchor;
mod book;
mod hand;
mod hold;
mod journal;
mod limit;
mod moment;
mod month;
mod statement;

use clap::{Args, Subcommand};
use hydrometer_ledger::{LedgerError, TransactionId};
use hydrometer_pipeline::store::Database;
use tokio_postgres::{Client, IsolationLevel};

use crate::table::Format;
use crate::{CliError, Connection};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hydrometer ledger trial-balance\n  \
    hydrometer ledger balances renter: --as-of 2026-03-01T11:00 --by effective\n  \
    hydrometer ledger transfers supplier:sup-1:payable:USD --limit 5\n  \
    hydrometer ledger statement renter:acme:unbilled:USD --from 2026-03-01 --to 2026-04-01\n  \
    hydrometer ledger journal --format hledger > book.journal && hledger -f book.journal balance\n  \
    hydrometer ledger transfer bank:main:cash:USD renter:acme:receivable:USD 120.50 \\\n      \
        --key wire-8812 --why 'paid by wire' --who kim")]
pub struct LedgerArgs {
    #[command(subcommand)]
    command: LedgerCommand,
}

#[derive(Debug, Subcommand)]
enum LedgerCommand {
    /// The accounts, by name
    Accounts {
        /// Only those whose names start with this
        #[arg(default_value = "")]
        prefix: String,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Balances, positive on the side on which an account grows; now also what is held and what is available
    Balances {
        /// Only accounts whose names start with this
        #[arg(default_value = "")]
        prefix: String,
        #[command(flatten)]
        at: moment::Moment,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// The latest transfers, newest first
    Transfers {
        /// Only those of one account
        account: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 20)]
        limit: u32,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// One transaction with its transfers
    Transaction {
        id: String,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// All balances by currency; exit status 1 when debits and credits differ
    TrialBalance {
        #[command(flatten)]
        at: moment::Moment,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// An account from one time to another: opening, lines, closing
    Statement(statement::StatementArgs),
    /// Everything that was posted, for other programs
    Journal(journal::JournalArgs),
    /// Open an account; one that is there already stays as it is
    Open(hand::OpenArgs),
    /// Post one transfer by hand; the same key again posts nothing more
    Transfer(hand::TransferArgs),
    /// Take back a transaction, whole or in part; the same key again posts nothing more
    Reverse(hand::ReverseArgs),
    /// Amounts set aside: list, place, capture, void, expire
    Hold(hold::HoldArgs),
    /// How far an account may be overdrawn: show, set
    Limit(limit::LimitArgs),
    /// How far the hash chain and its anchors are
    Chain(anchor::ChainArgs),
    /// Write down what the chain has reached
    Anchor(anchor::AnchorArgs),
    /// Months as Parquet files: list, write, detach, verify
    Month(month::MonthArgs),
}

pub async fn run(args: LedgerArgs, connection: &Connection) -> Result<u8, CliError> {
    let open = async || Database::connect(&connection.database_url).await.map_err(CliError::failed);
    match args.command {
        LedgerCommand::Accounts { prefix, format } => book::accounts(open().await?.client_ref(), &prefix, format).await,
        LedgerCommand::Balances { prefix, at, format } => {
            let at = at.read()?;
            book::balances(open().await?.client_ref(), &prefix, at, format).await
        }
        LedgerCommand::Transfers { account, limit, format } => {
            book::transfers(open().await?.client_ref(), account.as_deref(), limit, format).await
        }
        LedgerCommand::Transaction { id, format } => {
            let id = read_id(&id)?;
            book::transaction(open().await?.client_ref(), id, format).await
        }
        LedgerCommand::TrialBalance { at, format } => {
            let at = at.read()?;
            book::trial_balance(open().await?.client_ref(), at, format).await
        }
        LedgerCommand::Statement(args) => statement::run(args, open().await?.client()).await,
        LedgerCommand::Journal(args) => journal::run(args, open().await?.client()).await,
        LedgerCommand::Open(args) => hand::open(args, open().await?.client()).await,
        LedgerCommand::Transfer(args) => hand::transfer(args, open().await?.client()).await,
        LedgerCommand::Reverse(args) => hand::reverse(args, open().await?.client()).await,
        LedgerCommand::Hold(args) => hold::run(args, open().await?.client()).await,
        LedgerCommand::Limit(args) => limit::run(args, open().await?.client()).await,
        LedgerCommand::Chain(args) => anchor::chain(args, &open().await?).await,
        LedgerCommand::Anchor(args) => anchor::anchor(args, &open().await?).await,
        LedgerCommand::Month(args) => month::run(args, connection).await,
    }
}

fn read_id(text: &str) -> Result<TransactionId, CliError> {
    let id = text.parse().map_err(|_| CliError::usage(format!("{text:?} is no transaction's id (a UUID)")))?;
    Ok(TransactionId(id))
}

/// One moment for all that is read in it.
async fn snapshot(client: &mut Client) -> Result<tokio_postgres::Transaction<'_>, CliError> {
    let builder = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    builder.start().await.map_err(CliError::failed)
}

async fn committed(tx: tokio_postgres::Transaction<'_>) -> Result<(), CliError> {
    let hint = "whether it was posted is not known. Hint: the same command again does it once";
    tx.commit().await.map_err(|error| CliError::failed(format!("committing failed: {error}; {hint}")))
}

fn unknown_account(name: &str) -> u8 {
    eprintln!("the ledger has no account {name}. Hint: `hydrometer ledger accounts` lists them");
    1
}

fn unknown_transaction(id: TransactionId) -> u8 {
    eprintln!("the ledger has no transaction {id}. Hint: `hydrometer ledger transfers` shows the latest");
    1
}

/// What the ledger refuses is an answer; what it could not do is a failure.
pub(crate) fn answer(error: LedgerError) -> Result<u8, CliError> {
    match error {
        LedgerError::Invalid { .. }
        | LedgerError::Conflict(_)
        | LedgerError::Refused(_)
        | LedgerError::Rejected { .. } => {
            eprintln!("{error}");
            Ok(1)
        }
        error => Err(CliError::failed(error)),
    }
}
