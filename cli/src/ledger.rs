//! `ledger`: accounts, balances now and as of either time, transfers, one transaction, the trial balance.

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand, ValueEnum};
use hydrometer_audit::explain::read_time;
use hydrometer_ledger::{self as ledger, Amount, AsOf, Balance, TransactionId};
use hydrometer_pipeline::store::Database;
use tokio_postgres::Client;

use crate::table::{Format, Kind, Rows};
use crate::{CliError, Connection};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hydrometer ledger trial-balance\n  \
    hydrometer ledger balances renter: --as-of 2026-03-01T11:00 --by effective\n  \
    hydrometer ledger transfers supplier:sup-1:payable:USD --limit 5")]
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
    /// Balances, positive on the side on which an account grows
    Balances {
        /// Only accounts whose names start with this
        #[arg(default_value = "")]
        prefix: String,
        #[command(flatten)]
        at: Moment,
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
        at: Moment,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

#[derive(Debug, Args)]
struct Moment {
    /// As the book was at this time (RFC 3339; without it, now)
    #[arg(long, value_name = "TIME")]
    as_of: Option<String>,
    /// Whether the time is when something counts, or when it was booked
    #[arg(long, value_enum, default_value_t, requires = "as_of")]
    by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum By {
    #[default]
    Effective,
    Booked,
}

impl Moment {
    fn read(&self) -> Result<AsOf, CliError> {
        let Some(text) = &self.as_of else { return Ok(AsOf::Now) };
        let time: DateTime<Utc> = DateTime::parse_from_rfc3339(text)
            .map(|time| time.with_timezone(&Utc))
            .ok()
            .or_else(|| DateTime::from_timestamp(read_time(text)?, 0))
            .ok_or_else(|| CliError::usage(format!("{text:?} is no time; write it like 2026-03-01T10:20:30Z")))?;
        Ok(match self.by {
            By::Effective => AsOf::Effective(time),
            By::Booked => AsOf::Booked(time),
        })
    }
}

pub async fn run(args: LedgerArgs, connection: &Connection) -> Result<u8, CliError> {
    let open = async || Database::connect(&connection.database_url).await.map_err(CliError::failed);
    match args.command {
        LedgerCommand::Accounts { prefix, format } => accounts(open().await?.client_ref(), &prefix, format).await,
        LedgerCommand::Balances { prefix, at, format } => {
            let at = at.read()?;
            balances(open().await?.client_ref(), &prefix, at, format).await
        }
        LedgerCommand::Transfers { account, limit, format } => {
            transfers(open().await?.client_ref(), account.as_deref(), limit, format).await
        }
        LedgerCommand::Transaction { id, format } => {
            let id = TransactionId(
                id.parse().map_err(|_| CliError::usage(format!("{id:?} is no transaction's id (a UUID)")))?,
            );
            transaction(open().await?.client_ref(), id, format).await
        }
        LedgerCommand::TrialBalance { at, format } => {
            let at = at.read()?;
            trial_balance(open().await?.client_ref(), at, format).await
        }
    }
}

async fn accounts(client: &Client, prefix: &str, format: Format) -> Result<u8, CliError> {
    let mut rows = Rows::new(&[
        ("account", Kind::Text),
        ("type", Kind::Text),
        ("party", Kind::Text),
        ("purpose", Kind::Text),
        ("currency", Kind::Text),
    ]);
    for account in ledger::accounts(client, prefix).await.map_err(CliError::failed)? {
        let spec = account.spec;
        rows.push([spec.name, spec.kind.to_string(), spec.party, spec.purpose, spec.currency]);
    }
    rows.print(format)?;
    Ok(0)
}

const BALANCE_COLUMNS: [(&str, Kind); 6] = [
    ("account", Kind::Text),
    ("type", Kind::Text),
    ("debits", Kind::Decimal),
    ("credits", Kind::Decimal),
    ("balance", Kind::Decimal),
    ("currency", Kind::Text),
];

fn balance_row(balance: &Balance) -> [String; 6] {
    let spec = &balance.account.spec;
    [
        spec.name.clone(),
        spec.kind.to_string(),
        balance.debits.to_string(),
        balance.credits.to_string(),
        balance.natural().map(|amount| amount.to_string()).unwrap_or_default(),
        spec.currency.clone(),
    ]
}

async fn balances(client: &Client, prefix: &str, at: AsOf, format: Format) -> Result<u8, CliError> {
    let mut rows = Rows::new(&BALANCE_COLUMNS);
    for balance in ledger::balances(client, prefix, at).await.map_err(CliError::failed)? {
        rows.push(balance_row(&balance));
    }
    rows.print(format)?;
    Ok(0)
}

async fn trial_balance(client: &Client, at: AsOf, format: Format) -> Result<u8, CliError> {
    let mut rows = Rows::new(&BALANCE_COLUMNS);
    let mut balanced = true;
    for currency in ledger::trial_balance(client, at).await.map_err(CliError::failed)? {
        for balance in &currency.balances {
            rows.push(balance_row(balance));
        }
        balanced &= currency.is_balanced();
        let difference = currency.debits.checked_sub(currency.credits).unwrap_or(Amount::ZERO);
        rows.push([
            "total".to_owned(),
            if currency.is_balanced() { "balanced" } else { "NOT BALANCED" }.to_owned(),
            currency.debits.to_string(),
            currency.credits.to_string(),
            difference.to_string(),
            currency.currency.clone(),
        ]);
    }
    rows.print(format)?;
    Ok(if balanced { 0 } else { 1 })
}

async fn transfers(client: &Client, account: Option<&str>, limit: u32, format: Format) -> Result<u8, CliError> {
    if let Some(name) = account {
        let known = ledger::accounts(client, name).await.map_err(CliError::failed)?;
        if !known.iter().any(|a| a.spec.name == name) {
            eprintln!("the ledger has no account {name}. Hint: `hydrometer ledger accounts` lists them");
            return Ok(1);
        }
    }
    let mut rows = Rows::new(&[
        ("booked_at", Kind::Text),
        ("effective_at", Kind::Text),
        ("kind", Kind::Text),
        ("debit", Kind::Text),
        ("credit", Kind::Text),
        ("amount", Kind::Decimal),
        ("currency", Kind::Text),
        ("transaction", Kind::Text),
    ]);
    for entry in ledger::transfers(client, account, None, limit).await.map_err(CliError::failed)? {
        rows.push([
            show(entry.position.booked_at),
            show(entry.effective_at),
            entry.kind,
            entry.debit,
            entry.credit,
            entry.amount.to_string(),
            entry.currency,
            entry.position.transaction.to_string(),
        ]);
    }
    rows.print(format)?;
    Ok(0)
}

async fn transaction(client: &Client, id: TransactionId, format: Format) -> Result<u8, CliError> {
    let Some(posted) = ledger::transaction(client, id).await.map_err(CliError::failed)? else {
        eprintln!("the ledger has no transaction {id}. Hint: `hydrometer ledger transfers` shows the latest");
        return Ok(1);
    };
    let mut rows = Rows::new(&[
        ("debit", Kind::Text),
        ("credit", Kind::Text),
        ("amount", Kind::Decimal),
        ("currency", Kind::Text),
        ("kind", Kind::Text),
        ("effective_at", Kind::Text),
        ("corrects", Kind::Text),
        ("description", Kind::Text),
    ]);
    for transfer in posted.transfers {
        rows.push([
            transfer.debit.name,
            transfer.credit.name,
            transfer.amount.to_string(),
            transfer.debit.currency,
            posted.kind.clone(),
            show(posted.effective_at),
            posted.corrects.map(|id| id.to_string()).unwrap_or_default(),
            posted.description.clone(),
        ]);
    }
    rows.print(format)?;
    Ok(0)
}

fn show(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
