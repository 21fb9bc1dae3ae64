//! `ledger hold`: amounts set aside.

use chrono::Utc;
use clap::{Args, Subcommand};
use hydrometer_ledger::{
    self as ledger, Capture, Hold, HoldRecord, LedgerError, Outcome, Resolution, TransactionId, Transfer,
};
use serde_json::json;
use tokio_postgres::Client;

use super::hand::{NAMESPACE, account, read_amount};
use super::moment::{show, time};
use super::{answer, committed, read_id, unknown_account};
use crate::CliError;
use crate::table::{Format, Kind, Rows};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hydrometer ledger hold place supplier:s:payable:USD renter:acme:wallet:USD 20 --expires 2026-03-02 \\\n      \
        --key job-17 --why 'deposit for a job' --who kim\n  \
    hydrometer ledger hold list --open\n  \
    hydrometer ledger hold capture 5f0c… 12.50 --why 'job done' --who kim\n  \
    hydrometer ledger hold void 5f0c…\n\n\
    Exit status: 0 done, now or before; 1 refused.")]
pub(super) struct HoldArgs {
    #[command(subcommand)]
    command: HoldCommand,
}

#[derive(Debug, Subcommand)]
enum HoldCommand {
    /// The latest holds, newest first
    List {
        /// Only those of one account
        account: Option<String>,
        /// Only those that are not resolved
        #[arg(long)]
        open: bool,
        /// At most so many
        #[arg(long, default_value_t = 20)]
        limit: u32,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Set an amount aside for a transfer that may follow; it counts against the limits at once
    Place {
        /// The account that a capture debits
        debit: String,
        /// The account that a capture credits
        credit: String,
        amount: String,
        /// When it expires by itself
        #[arg(long, value_name = "TIME")]
        expires: String,
        /// What it stands for: one key is one hold for ever
        #[arg(long)]
        key: String,
        /// Why; it is kept
        #[arg(long, value_name = "REASON")]
        why: String,
        /// Who; it is kept. Default: the user of the machine
        #[arg(long, value_name = "NAME", env = "USER")]
        who: String,
    },
    /// Post the transfer of a hold, and set the rest free
    Capture {
        id: String,
        /// At most what is held
        amount: String,
        /// Why; it is kept
        #[arg(long, value_name = "REASON")]
        why: String,
        /// Who; it is kept. Default: the user of the machine
        #[arg(long, value_name = "NAME", env = "USER")]
        who: String,
    },
    /// Set a hold free
    Void { id: String },
    /// Resolve the holds whose time has passed
    Expire {
        /// At most so many
        #[arg(long, default_value_t = 1_000)]
        limit: i32,
    },
}

pub(super) async fn run(args: HoldArgs, client: &mut Client) -> Result<u8, CliError> {
    match args.command {
        HoldCommand::List { account, open, limit, format } => {
            list(client, account.as_deref(), open, limit, format).await
        }
        HoldCommand::Place { debit, credit, amount, expires, key, why, who } => {
            let Some(debit_spec) = account(client, &debit).await? else { return Ok(unknown_account(&debit)) };
            let Some(credit_spec) = account(client, &credit).await? else { return Ok(unknown_account(&credit)) };
            let id = TransactionId::derive(&NAMESPACE, &["hold", &key]);
            // A repetition counts when the first did.
            let before = ledger::hold(client, id).await.map_err(CliError::failed)?;
            let hold = Hold {
                id,
                transfer: Transfer { debit: debit_spec, credit: credit_spec, amount: read_amount(&amount)? },
                effective_at: before.map_or_else(Utc::now, |hold| hold.effective_at),
                expires_at: time(&expires)?,
                description: why.clone(),
                metadata: json!({ "key": key, "who": who, "why": why }),
            };
            let tx = client.transaction().await.map_err(CliError::failed)?;
            let outcome = ledger::place_hold(&tx, &hold).await;
            told(tx, outcome, "placed", Some(id)).await
        }
        HoldCommand::Capture { id, amount, why, who } => {
            let hold = read_id(&id)?;
            let mut capture = Capture {
                hold,
                amount: read_amount(&amount)?,
                kind: "capture".to_owned(),
                effective_at: Utc::now(),
                description: why.clone(),
                metadata: json!({ "who": who, "why": why }),
            };
            let posted = ledger::transaction(client, capture.transaction_id()).await.map_err(CliError::failed)?;
            if let Some(posted) = posted {
                capture.effective_at = posted.effective_at;
            }
            let tx = client.transaction().await.map_err(CliError::failed)?;
            let outcome = ledger::capture_hold(&tx, &capture).await;
            told(tx, outcome, "captured", Some(capture.transaction_id())).await
        }
        HoldCommand::Void { id } => {
            let id = read_id(&id)?;
            let tx = client.transaction().await.map_err(CliError::failed)?;
            let outcome = ledger::void_hold(&tx, id).await;
            told(tx, outcome, "voided", None).await
        }
        HoldCommand::Expire { limit } => match ledger::expire_holds(client, limit).await {
            Ok(expired) => {
                println!("{expired} expired");
                Ok(0)
            }
            Err(error) => answer(error),
        },
    }
}

/// Commits what was done, says so, and prints the id by which one goes on.
async fn told(
    tx: tokio_postgres::Transaction<'_>,
    outcome: Result<Outcome, LedgerError>,
    done: &str,
    id: Option<TransactionId>,
) -> Result<u8, CliError> {
    match outcome {
        Err(error) => answer(error),
        Ok(outcome) => {
            committed(tx).await?;
            match outcome {
                Outcome::Posted => eprintln!("{done}"),
                Outcome::Repeated => eprintln!("it was {done} before: nothing changes"),
            }
            if let Some(id) = id {
                println!("{id}");
            }
            Ok(0)
        }
    }
}

async fn list(client: &Client, name: Option<&str>, open: bool, limit: u32, format: Format) -> Result<u8, CliError> {
    if let Some(name) = name
        && account(client, name).await?.is_none()
    {
        return Ok(unknown_account(name));
    }
    let mut rows = Rows::new(&[
        ("hold", Kind::Text),
        ("debit", Kind::Text),
        ("credit", Kind::Text),
        ("amount", Kind::Decimal),
        ("currency", Kind::Text),
        ("placed_at", Kind::Text),
        ("expires_at", Kind::Text),
        ("state", Kind::Text),
        ("captured", Kind::Decimal),
        ("transaction", Kind::Text),
    ]);
    for hold in ledger::holds(client, name, open, limit).await.map_err(CliError::failed)? {
        let HoldRecord { id, debit, credit, amount, currency, expires_at, placed_at, resolution, .. } = hold;
        let (state, captured, transaction) = match resolution {
            None if expires_at <= Utc::now() => ("past its time", None, None),
            None => ("open", None, None),
            Some(Resolution::Voided { .. }) => ("voided", None, None),
            Some(Resolution::Expired { .. }) => ("expired", None, None),
            Some(Resolution::Posted { transaction, amount, .. }) => ("captured", Some(amount), Some(transaction)),
        };
        rows.rows.push(vec![
            Some(id.to_string()),
            Some(debit),
            Some(credit),
            Some(amount.to_string()),
            Some(currency),
            Some(show(placed_at)),
            Some(show(expires_at)),
            Some(state.to_owned()),
            captured.map(|amount| amount.to_string()),
            transaction.map(|id| id.to_string()),
        ]);
    }
    rows.print(format)?;
    Ok(0)
}
