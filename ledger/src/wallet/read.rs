//! How a wallet stands, what happened to it, and how its plans are kept.
//!
//! Some of these are several statements: to see one moment of a wallet in use, call them inside a REPEATABLE READ
//! transaction.

use chrono::{DateTime, Utc};
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::book::Book;
use super::load::{self, amount_at};
use super::settle::{edges, settle};
use super::{Burn, OnExpiry, Part, Terms, Wallet, WalletId, beyond, refuse, time};
use crate::{Amount, LedgerError, TransactionId};

/// A wallet with all of its grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    pub wallet: Wallet,
    pub terms: Terms,
    /// The number of its last entry.
    pub number: i64,
    /// The latest time that an operation told of.
    pub clock: DateTime<Utc>,
    /// All use before it is known, but for late news.
    pub frontier: DateTime<Utc>,
    /// What further use at its clock can take; see [`runway`](super::runway) and [`burn`].
    pub balance: Amount,
    pub paid: Amount,
    pub promotional: Amount,
    pub receivable: Amount,
    /// The request for a top-up that nobody has answered.
    pub open_topup: Option<Uuid>,
    /// In the order in which they were recorded.
    pub grants: Vec<GrantStanding>,
}

/// A grant, or a part of one that is released by plan. Left = amount − debited − consumed − expired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantStanding {
    pub id: Uuid,
    /// The id that it was granted under.
    pub whole: Uuid,
    /// The account that its money came from; nothing for a promotional one.
    pub source: Option<String>,
    pub priority: i32,
    pub from: DateTime<Utc>,
    pub expires: Option<DateTime<Utc>>,
    pub on_expiry: OnExpiry,
    pub amount: Amount,
    pub debited: Amount,
    pub consumed: Amount,
    pub expired: Amount,
    pub left: Amount,
}

/// An operation, and how the wallet stood after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatementLine {
    pub number: i64,
    pub operation: Uuid,
    /// `open`, `terms`, `grant`, `credit`, `debit`, `refund`, `draw`, `advance` or `decline`.
    pub kind: String,
    /// When it counts; of a draw, its latest second.
    pub at: DateTime<Utc>,
    pub booked_at: DateTime<Utc>,
    /// What it gave to the wallet; below zero, what it took.
    pub amount: Amount,
    pub balance: Amount,
    pub paid: Amount,
    pub promotional: Amount,
    pub receivable: Amount,
    pub who: String,
    pub why: String,
    /// What it posted.
    pub transactions: Vec<TransactionId>,
}

/// A plan and what came of it, both from the beginning up to a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanLine {
    pub by: DateTime<Utc>,
    pub planned: Amount,
    /// Consumed before that time.
    pub actual: Amount,
}

/// How a wallet stands; nothing when there is none.
pub async fn standing(client: &impl GenericClient, wallet: WalletId) -> Result<Option<Standing>, LedgerError> {
    let Some(book) = load::seen(client, &[wallet.0]).await?.remove(&wallet.0) else { return Ok(None) };
    let figures = book.figures()?;
    let grants = book.held.iter().map(|held| {
        Ok(GrantStanding {
            id: held.grant.id,
            whole: held.whole,
            source: held.source.as_ref().map(|source| source.name.clone()),
            priority: held.grant.priority,
            from: held.grant.from,
            expires: held.grant.expires,
            on_expiry: held.on_expiry,
            amount: held.grant.amount,
            debited: held.grant.debited,
            consumed: held.consumed,
            expired: held.expired,
            left: held.left()?,
        })
    });
    Ok(Some(Standing {
        grants: grants.collect::<Result<_, LedgerError>>()?,
        wallet: book.wallet,
        terms: book.terms,
        number: book.number,
        clock: book.clock,
        frontier: book.frontier,
        balance: figures.balance,
        paid: figures.paid,
        promotional: figures.promotional,
        receivable: figures.receivable,
        open_topup: book.open_request,
    }))
}

/// The operations on a wallet after the one with this number (0 for all), oldest first: at most `limit`.
pub async fn statement(
    client: &impl GenericClient,
    wallet: WalletId,
    after: i64,
    limit: u32,
) -> Result<Vec<StatementLine>, LedgerError> {
    let rows = client
        .query_typed(
            "select number, id, kind, at, booked_at, amount, balance, paid, promotional,
                    receivable, who, why, transactions
             from ledger.wallet_entry where wallet = $1 and number > $2 order by number limit $3",
            &[(&wallet.0, Type::UUID), (&after, Type::INT8), (&i64::from(limit), Type::INT8)],
        )
        .await
        .map_err(LedgerError::database("reading a wallet's statement"))?;
    let line = |row: &tokio_postgres::Row| {
        Ok(StatementLine {
            number: row.get(0),
            operation: row.get(1),
            kind: row.get(2),
            at: row.get(3),
            booked_at: row.get(4),
            amount: amount_at(row, 5)?,
            balance: amount_at(row, 6)?,
            paid: amount_at(row, 7)?,
            promotional: amount_at(row, 8)?,
            receivable: amount_at(row, 9)?,
            who: row.get(10),
            why: row.get(11),
            transactions: row.get::<_, Vec<Uuid>>(12).into_iter().map(TransactionId).collect(),
        })
    };
    rows.iter().map(line).collect()
}

/// The use of a wallet from one time to another, as a burn to ask [`runway`](super::runway) with.
pub async fn burn(
    client: &impl GenericClient,
    wallet: WalletId,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Result<Burn, LedgerError> {
    let (from, to) = (time("the start of a span", from)?, time("the end of a span", to)?);
    let seconds = u32::try_from((to - from).num_seconds()).ok().filter(|seconds| *seconds > 0);
    let Some(seconds) = seconds else {
        let detail = format!("from {from} to {to}");
        return Err(refuse("the burn of a wallet needs a span of time", detail, "State one of 1 second to 136 years"));
    };
    let row = client
        .query_typed_one(
            "select coalesce(sum(amount), 0) from ledger.wallet_use where wallet = $1 and at >= $2 and at < $3",
            &[(&wallet.0, Type::UUID), (&from, Type::TIMESTAMPTZ), (&to, Type::TIMESTAMPTZ)],
        )
        .await
        .map_err(LedgerError::database("adding up the use of a wallet"))?;
    Ok(Burn { amount: amount_at(&row, 0)?, seconds })
}

/// The plan of a grant beside what was consumed of it; empty for a grant without one.
pub async fn plan_report(
    client: &impl GenericClient,
    wallet: WalletId,
    grant: Uuid,
) -> Result<Vec<PlanLine>, LedgerError> {
    let plan = plan_of(client, grant).await?;
    let Some(book) = load::seen(client, &[wallet.0]).await?.remove(&wallet.0) else { return Ok(Vec::new()) };
    let grants = book.grants();
    let mut boundaries = edges(&grants);
    boundaries.extend(plan.iter().map(|part| part.at));
    let used = load::sums(client, &load::spans(wallet.0, boundaries)).await?.remove(&wallet.0).unwrap_or_default();
    let mut planned = Amount::ZERO;
    plan.into_iter()
        .map(|part| {
            planned = planned.checked_add(part.amount).ok_or_else(|| beyond("a plan"))?;
            let before = used.range(..part.at).map(|(at, amount)| (*at, *amount));
            let consumed = settle(&grants, before, book.frontier)?.consumed;
            Ok(PlanLine { by: part.at, planned, actual: of_whole(&book, grant, &consumed)? })
        })
        .collect()
}

async fn plan_of(client: &impl GenericClient, grant: Uuid) -> Result<Vec<Part>, LedgerError> {
    let rows = client
        .query_typed(
            "select by_at, amount from ledger.wallet_plan where whole = $1 order by by_at",
            &[(&grant, Type::UUID)],
        )
        .await
        .map_err(LedgerError::database("reading a plan"))?;
    rows.iter().map(|row| Ok(Part { at: row.get(0), amount: amount_at(row, 1)? })).collect()
}

fn of_whole(book: &Book, whole: Uuid, consumed: &[Amount]) -> Result<Amount, LedgerError> {
    let parts = book.held.iter().zip(consumed).filter(|(held, _)| held.whole == whole).map(|(_, amount)| *amount);
    Amount::checked_sum(parts).ok_or_else(|| beyond("a grant"))
}
