//! Postings by hand: an account, a transfer, a reversal. Each posting has a key that makes its id, so that the same
//! command again posts nothing more; who posted it and why stands in its metadata.

use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use hydrometer_ledger::{
    self as ledger, AccountSpec, AccountType, Amount, Outcome, Transaction, TransactionId, Transfer,
};
use serde_json::json;
use tokio_postgres::Client;
use uuid::Uuid;

use super::{answer, committed, moment, read_id, unknown_account, unknown_transaction};
use crate::CliError;

/// Of the ids of postings by hand.
pub(super) const NAMESPACE: Uuid = Uuid::from_u128(0x7d1c_4a52_91f3_5c0e_a4b8_2e6f_0c93_d517);

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    hydrometer ledger open --type asset --party bank:main --purpose cash --currency USD")]
pub(super) struct OpenArgs {
    /// Asset and expense accounts grow by debits, the others by credits
    #[arg(long = "type", value_enum)]
    kind: TypeArg,
    /// Whose it is, such as renter:acme
    #[arg(long)]
    party: String,
    /// What for, such as receivable
    #[arg(long)]
    purpose: String,
    /// Such as USD
    #[arg(long)]
    currency: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TypeArg {
    Asset,
    Liability,
    Income,
    Expense,
    Equity,
}

#[derive(Debug, Args)]
struct Because {
    /// What the posting stands for, such as the number of a ticket: one key is one posting for ever
    #[arg(long)]
    key: String,
    /// Why; it is kept
    #[arg(long, value_name = "REASON")]
    why: String,
    /// Who; it is kept. Default: the user of the machine
    #[arg(long, value_name = "NAME", env = "USER")]
    who: String,
    /// When it counts (default: now)
    #[arg(long, value_name = "TIME")]
    effective: Option<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  \
    hydrometer ledger transfer bank:main:cash:USD renter:acme:receivable:USD 120.50 \\\n      \
        --key wire-8812 --why 'paid by wire' --who kim\n\n\
    Exit status: 0 posted, now or before; 1 refused.")]
pub(super) struct TransferArgs {
    /// The account that is debited
    debit: String,
    /// The account that is credited
    credit: String,
    /// At most 9 decimals
    amount: String,
    #[command(flatten)]
    because: Because,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hydrometer ledger reverse 5f0c… --key ticket-91 --why 'billed twice' --who kim\n  \
    hydrometer ledger reverse 5f0c… --line 2 --amount 3.5 --key ticket-92 --why 'half an hour too much' --who kim\n\n\
    Exit status: 0 posted, now or before; 1 refused. Nothing is reversed for more than it was.")]
pub(super) struct ReverseArgs {
    /// The transaction to take back
    id: String,
    /// Only this line of it (from 1)
    #[arg(long)]
    line: Option<usize>,
    /// Only this much of the line
    #[arg(long, requires = "line")]
    amount: Option<String>,
    #[command(flatten)]
    because: Because,
}

pub(super) async fn open(args: OpenArgs, client: &mut Client) -> Result<u8, CliError> {
    let kind = match args.kind {
        TypeArg::Asset => AccountType::Asset,
        TypeArg::Liability => AccountType::Liability,
        TypeArg::Income => AccountType::Income,
        TypeArg::Expense => AccountType::Expense,
        TypeArg::Equity => AccountType::Equity,
    };
    let spec = AccountSpec::new(kind, &args.party, &args.purpose, &args.currency);
    match ledger::open_accounts(client, &[&spec]).await {
        Ok(_) => {
            println!("{}", spec.name);
            Ok(0)
        }
        Err(error) => answer(error),
    }
}

pub(super) async fn transfer(args: TransferArgs, client: &mut Client) -> Result<u8, CliError> {
    let amount = read_amount(&args.amount)?;
    let mut sides = Vec::new();
    for name in [&args.debit, &args.credit] {
        match account(client, name).await? {
            Some(spec) => sides.push(spec),
            None => return Ok(unknown_account(name)),
        }
    }
    let [debit, credit] =
        <[AccountSpec; 2]>::try_from(sides).map_err(|_| CliError::failed("two accounts are needed"))?;
    post(client, &args.because, "manual", None, vec![Transfer { debit, credit, amount }]).await
}

pub(super) async fn reverse(args: ReverseArgs, client: &mut Client) -> Result<u8, CliError> {
    let id = read_id(&args.id)?;
    let amount = args.amount.as_deref().map(read_amount).transpose()?;
    let Some(original) = ledger::transaction(client, id).await.map_err(CliError::failed)? else {
        return Ok(unknown_transaction(id));
    };
    let lines = original.transfers.len();
    let chosen: Vec<Transfer> = match args.line {
        None => original.transfers,
        Some(line) if (1..=lines).contains(&line) => original.transfers.into_iter().skip(line - 1).take(1).collect(),
        Some(line) => {
            return Err(CliError::usage(format!("transaction {id} has no line {line}: its lines are 1 to {lines}")));
        }
    };
    let back = chosen.into_iter().map(|transfer| Transfer {
        debit: transfer.credit,
        credit: transfer.debit,
        amount: amount.unwrap_or(transfer.amount),
    });
    post(client, &args.because, "reversal", Some(id), back.collect()).await
}

async fn post(
    client: &mut Client,
    because: &Because,
    kind: &str,
    reverses: Option<TransactionId>,
    transfers: Vec<Transfer>,
) -> Result<u8, CliError> {
    let id = TransactionId::derive(&NAMESPACE, &[kind, &because.key]);
    let effective_at = match &because.effective {
        Some(text) => moment::time(text)?,
        None => effective_before(client, id).await?.unwrap_or_else(Utc::now),
    };
    let transaction = Transaction {
        id,
        kind: kind.to_owned(),
        effective_at,
        description: because.why.clone(),
        corrects: None,
        reverses,
        metadata: json!({ "key": because.key, "who": because.who, "why": because.why }),
        transfers,
    };
    let tx = client.transaction().await.map_err(CliError::failed)?;
    let outcomes = match ledger::post(&tx, &[transaction]).await {
        Ok(outcomes) => outcomes,
        Err(error) => return answer(error),
    };
    committed(tx).await?;
    match outcomes.first() {
        Some(Outcome::Repeated) => eprintln!("it was posted before: nothing changes"),
        _ => eprintln!("posted"),
    }
    println!("{id}");
    Ok(0)
}

/// A repetition counts when the first did, unless another time is stated.
async fn effective_before(client: &Client, id: TransactionId) -> Result<Option<DateTime<Utc>>, CliError> {
    let posted = ledger::transaction(client, id).await.map_err(CliError::failed)?;
    Ok(posted.map(|transaction| transaction.effective_at))
}

pub(super) async fn account(client: &Client, name: &str) -> Result<Option<AccountSpec>, CliError> {
    let known = ledger::accounts(client, name).await.map_err(CliError::failed)?;
    Ok(known.into_iter().map(|account| account.spec).find(|spec| spec.name == name))
}

pub(super) fn read_amount(text: &str) -> Result<Amount, CliError> {
    let amount: Amount = text.parse().map_err(|error| CliError::usage(format!("{error}")))?;
    if amount.is_positive() {
        return Ok(amount);
    }
    Err(CliError::usage(format!("the amount {text} is not positive; swap debit and credit instead")))
}

/// A limit may be 0.
pub(super) fn read_amount_or_zero(text: &str) -> Result<Amount, CliError> {
    let amount: Amount = text.parse().map_err(|error| CliError::usage(format!("{error}")))?;
    if amount < Amount::ZERO {
        return Err(CliError::usage(format!("the limit {text} is below 0; expected 0, more, or none")));
    }
    Ok(amount)
}
