//! What people do to wallets. Each goes through the log of commands, so that the stream knows of it in the same moment.

use chrono::{DateTime, Utc};
use clap::Args;
use hydrometer_ledger::{Amount, TransactionId, wallet};
use hydrometer_pipeline::apply::{COMMANDS, operate};
use hydrometer_pipeline::store::lifecycle::Command;
use hydrometer_pipeline::store::wallet::{Operation, source};
use hydrometer_pipeline::store::{Database, StoreError};
use hydrometer_pipeline::worker::WorkerError;
use hydrometer_schemas::contract::Decimal;
use hydrometer_schemas::lifecycle::{GrantKind, OnExpiry, WalletGrant, nanos};
use hydrometer_schemas::time::{MICROS_PER_SECOND, Second};
use uuid::Uuid;

use super::{By, Of, amount, second};
use crate::CliError;
use crate::ledger::answer;

#[derive(Debug, Args)]
pub struct GrantArgs {
    #[command(flatten)]
    of: Of,
    amount: String,
    /// Its name; the same again under this name changes nothing. Default: a new one
    #[arg(long)]
    name: Option<String>,
    /// A promise of the platform, which costs when it is used
    #[arg(long)]
    promotional: bool,
    /// What another system owed: its name; --name then names the document
    #[arg(long, value_name = "SYSTEM", conflicts_with = "promotional", requires = "name")]
    opening: Option<String>,
    /// The lower, the sooner it is used
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    priority: i32,
    /// The end of its last minute
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    /// What is not used then goes back to where it came from, and is not the platform's income
    #[arg(long)]
    back: bool,
    /// In so many equal parts, one a month: each counts from its month on
    #[arg(long, value_name = "N")]
    monthly: Option<u32>,
    /// The account that it comes from, without its currency
    #[arg(long, value_name = "ACCOUNT", default_value = "clearing")]
    from: String,
    /// When it is meant to count. Default: now
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    #[command(flatten)]
    by: By,
}

/// What makes sure that it is done once.
#[derive(Debug, Args)]
struct Once {
    /// What it stands for, such as the number of a ticket; the same again under this key changes nothing. Default: a new one
    #[arg(long)]
    key: Option<String>,
}

impl Once {
    fn id(&self, of: &Of, what: &str) -> Uuid {
        let key = self.key.as_ref();
        key.map_or_else(Uuid::new_v4, |key| {
            TransactionId::derive(&Uuid::NAMESPACE_OID, &[what, &of.renter, &of.currency, key]).0
        })
    }
}

#[derive(Debug, Args)]
pub struct RefundArgs {
    #[command(flatten)]
    of: Of,
    /// The grant's id, as `wallet show` has it
    grant: Uuid,
    /// Default: all that is left
    #[arg(long)]
    amount: Option<String>,
    /// The account that it goes to, without its currency
    #[arg(long, value_name = "ACCOUNT", default_value = "clearing")]
    to: String,
    #[command(flatten)]
    once: Once,
    #[command(flatten)]
    by: By,
}

#[derive(Debug, Args)]
pub struct CreditArgs {
    #[command(flatten)]
    of: Of,
    amount: String,
    /// The account that it comes from, without its currency; without one it is a promise
    #[arg(long, value_name = "ACCOUNT")]
    from: Option<String>,
    #[arg(long, value_name = "TIME")]
    expires: Option<String>,
    #[command(flatten)]
    once: Once,
    #[command(flatten)]
    by: By,
}

#[derive(Debug, Args)]
pub struct DebitArgs {
    #[command(flatten)]
    of: Of,
    amount: String,
    /// The account that it goes to, without its currency
    #[arg(long, value_name = "ACCOUNT", default_value = "debits")]
    to: String,
    /// The grant that it is taken from. Default: whichever would be used next
    #[arg(long)]
    grant: Option<Uuid>,
    #[command(flatten)]
    once: Once,
    #[command(flatten)]
    by: By,
}

#[derive(Debug, Args)]
pub struct DecideArgs {
    /// The proposal's id, as `wallet proposals` has it
    proposal: Uuid,
    #[command(flatten)]
    by: By,
}

#[derive(Debug, Args)]
pub struct TermsArgs {
    #[command(flatten)]
    of: Of,
    /// Tell when the balance comes down to one of these
    #[arg(long, value_delimiter = ',', value_name = "AMOUNT,…")]
    low: Vec<String>,
    /// Ask for a top-up when the balance is below this
    #[arg(long, value_name = "AMOUNT", requires = "topup_amount")]
    topup_below: Option<String>,
    #[arg(long, value_name = "AMOUNT", requires = "topup_below")]
    topup_amount: Option<String>,
    /// Credits and debits by hand of this amount or more need a second person
    #[arg(long, value_name = "AMOUNT")]
    second_person_from: Option<String>,
    #[command(flatten)]
    by: By,
}

pub async fn grant(db: &mut Database, args: GrantArgs) -> Result<u8, CliError> {
    let total = amount(&args.amount)?;
    let name = args.name.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
    let at = match &args.at {
        Some(text) => second(text)?,
        None => now(db).await?,
    };
    let expires = args.expires.as_deref().map(second).transpose()?;
    let kind = match (args.promotional, &args.opening) {
        (true, _) => GrantKind::Promotional,
        (false, Some(_)) => GrantKind::Opening,
        (false, None) => GrantKind::Paid,
    };
    let parts = match args.monthly {
        Some(months) => wallet::monthly(time(at)?, months, total).map_err(CliError::failed)?,
        None => vec![wallet::Part { at: time(at)?, amount: total }],
    };
    let many = parts.len() > 1;
    for (n, part) in parts.into_iter().enumerate() {
        let name = if many { format!("{name}/{}", n + 1) } else { name.clone() };
        let amount = Decimal(part.amount.to_string());
        if nanos(&amount).is_none() {
            return Err(CliError::usage(format!("{} is not a positive amount", args.amount)));
        }
        let grant = WalletGrant {
            wallet: args.of.key(),
            grant: name.clone(),
            amount,
            kind,
            priority: args.priority,
            expires,
            on_expiry: if args.back { OnExpiry::Back } else { OnExpiry::Income },
            source: args.opening.clone().unwrap_or_else(|| args.from.clone()),
            counts_from: None,
            made_by: None,
        };
        let id = format!("grant/{}/{}/{name}", args.of.renter, args.of.currency);
        let operation = Operation::Grant(Box::new(grant));
        let done = act(db, operation, &id, part.at.timestamp(), "wallet grant", &args.by).await?;
        if !done || !is_given(db, &id, &part.amount).await? {
            return Ok(1);
        }
    }
    eprintln!("granted to {}: {} {} as {name}", args.of.renter, args.amount, args.of.currency);
    Ok(0)
}

/// Whether an event gave what it was to give: it may have a verdict, or have been there before and given something else.
async fn is_given(db: &Database, id: &str, wanted: &Amount) -> Result<bool, CliError> {
    let sql = "SELECT verdict, body->'data'->>'amount' FROM hydrometer.event WHERE source = $1 AND id = $2";
    let row = db.client_ref().query_opt(sql, &[&COMMANDS, &id]).await.map_err(CliError::failed)?;
    let Some(row) = row else { return Ok(false) };
    if let Some(verdict) = row.get::<_, Option<&str>>(0) {
        eprintln!("nothing was given: {verdict}");
        return Ok(false);
    }
    let given: Option<&str> = row.get(1);
    if given.and_then(|given| given.parse::<Amount>().ok()).as_ref() != Some(wanted) {
        eprintln!(
            "{id} gave {} before, and gives nothing more. Hint: another grant has another --name",
            given.unwrap_or("something else")
        );
        return Ok(false);
    }
    Ok(true)
}

pub async fn refund(db: &mut Database, args: RefundArgs) -> Result<u8, CliError> {
    let at = now(db).await?;
    let refund = wallet::Refund {
        id: args.once.id(&args.of, "wallet refund"),
        wallet: args.of.id(),
        grant: args.grant,
        amount: args.amount.as_deref().map(amount).transpose()?,
        destination: source(&args.to, &args.of.currency),
        at: time(at)?,
        who: args.by.who.clone(),
        why: args.by.why.clone(),
    };
    let id = refund.id;
    let done = act(db, Operation::Refund(refund), &format!("refund/{id}"), at, "wallet refund", &args.by).await?;
    if done { tell(db, id).await } else { Ok(1) }
}

pub async fn credit(db: &mut Database, args: CreditArgs) -> Result<u8, CliError> {
    let act = wallet::Act::Credit {
        source: args.from.as_deref().map(|name| source(name, &args.of.currency)),
        priority: 0,
        expires: args.expires.as_deref().map(|text| time(second(text)?)).transpose()?,
        on_expiry: wallet::OnExpiry::Income,
    };
    manual(db, &args.of, act, &args.amount, ("wallet credit", &args.once), &args.by).await
}

pub async fn debit(db: &mut Database, args: DebitArgs) -> Result<u8, CliError> {
    let act = wallet::Act::Debit { destination: source(&args.to, &args.of.currency), grant: args.grant };
    manual(db, &args.of, act, &args.amount, ("wallet debit", &args.once), &args.by).await
}

async fn manual(
    db: &mut Database,
    of: &Of,
    what: wallet::Act,
    text: &str,
    (name, once): (&'static str, &Once),
    by: &By,
) -> Result<u8, CliError> {
    let at = now(db).await?;
    let manual = wallet::Manual {
        id: once.id(of, name),
        wallet: of.id(),
        act: what,
        amount: amount(text)?,
        at: time(at)?,
        who: by.who.clone(),
        why: by.why.clone(),
    };
    let id = manual.id;
    let done = act(db, Operation::Manual(manual), &format!("manual/{id}"), at, name, by).await?;
    if done { tell(db, id).await } else { Ok(1) }
}

pub async fn decide(db: &mut Database, args: DecideArgs, approve: bool) -> Result<u8, CliError> {
    let at = now(db).await?;
    let decision = wallet::Decision {
        proposal: args.proposal,
        approve,
        at: time(at)?,
        who: args.by.who.clone(),
        why: args.by.why.clone(),
    };
    let (id, name) = (format!("manual/{}", args.proposal), if approve { "wallet approve" } else { "wallet reject" });
    if !act(db, Operation::Decide(decision), &id, at, name, &args.by).await? {
        return Ok(1);
    }
    if approve {
        return tell(db, args.proposal).await;
    }
    eprintln!("rejected: {}", args.proposal);
    Ok(0)
}

pub async fn terms(db: &mut Database, args: TermsArgs) -> Result<u8, CliError> {
    let at = time(now(db).await?)?;
    let optional = |text: &Option<String>| text.as_deref().map(amount).transpose();
    let topup = optional(&args.topup_below)?.zip(optional(&args.topup_amount)?);
    let terms = wallet::Terms {
        thresholds: args.low.iter().map(|text| amount(text)).collect::<Result<_, _>>()?,
        topup: topup.map(|(below, amount)| wallet::AutoTopup { below, amount }),
        second_person_from: optional(&args.second_person_from)?,
    };
    let known = wallet::standing(db.client_ref(), args.of.id()).await.map_err(CliError::failed)?.is_some();
    let (who, why) = (args.by.who.clone(), args.by.why.clone());
    let wallet = hydrometer_pipeline::store::wallet::of(&args.of.key());
    let tx = db.client().transaction().await.map_err(CliError::failed)?;
    let requested = if known {
        let new = wallet::NewTerms { id: Uuid::new_v4(), wallet: wallet.id(), terms, at, who, why };
        match wallet::set_terms(&tx, &new).await {
            Ok(requested) => requested,
            Err(error) => return answer(error),
        }
    } else {
        let id = TransactionId::derive(&Uuid::NAMESPACE_OID, &["wallet terms", &wallet.party, &wallet.currency]).0;
        let new = wallet::NewWallet { id, wallet, terms, at, who, why };
        wallet::Requested::Booked(wallet::open(&tx, &new).await.map_err(CliError::failed)?)
    };
    tx.commit().await.map_err(CliError::failed)?;
    match requested {
        wallet::Requested::Booked(_) => eprintln!("the terms hold now"),
        _ => eprintln!("they raise the limit for a second person, so they wait for one: `hydrometer wallet proposals`"),
    }
    Ok(0)
}

/// Commits it, again where another command came between. `false`: the ledger refused it, and the reason was said.
async fn act(
    db: &mut Database,
    operation: Operation,
    id: &str,
    at: Second,
    name: &'static str,
    by: &By,
) -> Result<bool, CliError> {
    for _ in 0..5 {
        let command = Command { name, who: by.who.clone(), why: by.why.clone() };
        match operate(db, operation.clone(), id, at, command).await {
            Ok(true) => return Ok(true),
            Ok(false) => {}
            Err(WorkerError::Store(StoreError::Ledger(error))) => return answer(error).map(|_| false),
            Err(error) => return Err(CliError::failed(error)),
        }
    }
    Err(CliError::failed(format!("other commands kept {COMMANDS} busy; nothing was changed. Try again")))
}

/// What became of an operation by hand.
async fn tell(db: &Database, id: Uuid) -> Result<u8, CliError> {
    let row = db
        .client_ref()
        .query_opt("SELECT amount::text, balance::text FROM ledger.wallet_entry WHERE id = $1", &[&id])
        .await
        .map_err(CliError::failed)?;
    match row {
        Some(row) => {
            eprintln!("booked: {} as {id}; the balance is {}", row.get::<_, &str>(0), row.get::<_, &str>(1));
            Ok(0)
        }
        None if is_rejected(db, id).await? => {
            eprintln!("{id} was proposed before, and a second person has rejected it; nothing was changed");
            Ok(1)
        }
        None => {
            eprintln!("proposed as {id}: it waits for a second person (`hydrometer wallet approve {id}`)");
            Ok(0)
        }
    }
}

async fn is_rejected(db: &Database, id: Uuid) -> Result<bool, CliError> {
    let sql = "SELECT FROM ledger.wallet_decision WHERE proposal = $1 AND NOT approved";
    Ok(db.client_ref().query_opt(sql, &[&id]).await.map_err(CliError::failed)?.is_some())
}

/// The database's clock.
async fn now(db: &Database) -> Result<Second, CliError> {
    Ok(db.clock().await.map_err(CliError::failed)?.div_euclid(MICROS_PER_SECOND))
}

fn time(second: Second) -> Result<DateTime<Utc>, CliError> {
    DateTime::from_timestamp(second, 0).ok_or_else(|| CliError::usage(format!("second {second} is no time")))
}
