//! Giving back what is left of a paid grant.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::body::{Reader, account, amount, instant};
use super::book::Book;
use super::grant::other_side;
use super::manual::{Requested, Wanted, request};
use super::work::{Facts, Operation};
use super::{WalletId, beyond, reason, refuse, time};
use crate::{AccountSpec, Amount, LedgerError, Transfer};

/// A refund: debit the wallet, credit `destination`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refund {
    pub id: Uuid,
    pub wallet: WalletId,
    /// The id that the grant was made under. Of one that is released by plan, the last part goes first.
    pub grant: Uuid,
    /// Nothing: all that is left.
    pub amount: Option<Amount>,
    pub destination: AccountSpec,
    pub at: DateTime<Utc>,
    pub who: String,
    pub why: String,
}

/// Refunds what is left of a paid grant, or a part of it; never more than what is left. From the amount on that the wallet's terms
/// name it stays a proposal, which another person decides on ([`super::decide`]).
pub async fn refund(tx: &tokio_postgres::Transaction<'_>, refund: &Refund) -> Result<Requested, LedgerError> {
    request(tx, &Wanted::Refund(refund.clone())).await
}

impl Refund {
    pub(super) fn operation(&self) -> Result<Operation, LedgerError> {
        reason(&self.who, &self.why)?;
        let at = time("the time of a refund", self.at)?;
        Ok(Operation {
            id: self.id,
            wallet: self.wallet,
            kind: "refund",
            at,
            // Known when it is taken.
            amount: Amount::ZERO,
            who: self.who.clone(),
            why: self.why.clone(),
            body: json!({
                "wallet": self.wallet.to_string(), "grant": self.grant.to_string(),
                "amount": self.amount.map_or(Value::Null, amount), "destination": account(&self.destination),
                "at": instant(at), "who": self.who, "why": self.why,
            }),
        })
    }

    pub(super) fn of_body(id: Uuid, body: &Value) -> Result<Self, LedgerError> {
        let read = Reader(body);
        Ok(Refund {
            id,
            wallet: WalletId(read.uuid("wallet")?),
            grant: read.uuid("grant")?,
            amount: read.has("amount").then(|| read.amount("amount")).transpose()?,
            destination: read.account("destination")?,
            at: read.instant("at")?,
            who: read.text("who")?.to_owned(),
            why: read.text("why")?.to_owned(),
        })
    }

    pub(super) fn ready(&self, book: &Book) -> Result<(Operation, Facts), LedgerError> {
        let operation = self.operation()?;
        let (debits, taken) = take_from(book, self.grant, self.amount, operation.at)?;
        if let Some((place, _)) = debits.iter().find(|(place, _)| book.held[*place].source.is_none()) {
            let what = format!("grant {} is promotional", book.held[*place].grant.id);
            return Err(refuse(what, "no money was paid for it", "Take it back by a manual debit"));
        }
        let transfers = paid_out(book, &debits, &self.destination)?;
        let amount = taken.checked_neg().ok_or_else(|| beyond("a refund"))?;
        Ok((Operation { amount, ..operation }, Facts { debits, transfers, ..Facts::default() }))
    }
}

/// Takes an amount from one grant, and says from which parts: the last of them first.
pub(super) fn take_from(
    book: &Book,
    whole: Uuid,
    wanted: Option<Amount>,
    at: DateTime<Utc>,
) -> Result<(Vec<(usize, Amount)>, Amount), LedgerError> {
    let mut places: Vec<usize> = (0..book.held.len()).filter(|&place| book.held[place].whole == whole).collect();
    if places.is_empty() {
        return Err(refuse(
            format!("the wallet holds no grant {whole}"),
            book.wallet.account().name,
            "Which one is meant?",
        ));
    }
    places.reverse();
    // What has ended by then is to expire, though the frontier may not have told it yet.
    places.retain(|&place| book.held[place].grant.expires.is_none_or(|end| at < end));
    take(book, &places, wanted, &format!("grant {whole}"))
}

/// Takes an amount from grants in the order of their places; all that is left when no amount is named.
pub(super) fn take(
    book: &Book,
    places: &[usize],
    wanted: Option<Amount>,
    whence: &str,
) -> Result<(Vec<(usize, Amount)>, Amount), LedgerError> {
    let lefts = places.iter().map(|&place| book.held[place].left()).collect::<Result<Vec<_>, _>>()?;
    let left = Amount::checked_sum(lefts.iter().copied()).ok_or_else(|| beyond("what is left"))?;
    let wanted = wanted.unwrap_or(left);
    if !wanted.is_positive() || wanted > left {
        return Err(refuse(
            format!("{wanted} {} cannot be taken from {whence}", book.wallet.currency),
            format!("{left} is left"),
            "Nothing was changed; take a positive amount, and no more than is left",
        ));
    }
    let mut open = wanted;
    let mut debits = Vec::new();
    for (&place, left) in places.iter().zip(lefts) {
        let amount = open.min(left);
        if amount.is_positive() {
            open = open.checked_sub(amount).ok_or_else(|| beyond("a debit"))?;
            debits.push((place, amount));
        }
    }
    Ok((debits, wanted))
}

/// The transfer that takes paid money out; a promise that is taken back was never in the book.
pub(super) fn paid_out(
    book: &Book,
    debits: &[(usize, Amount)],
    destination: &AccountSpec,
) -> Result<Vec<Transfer>, LedgerError> {
    other_side(book, destination)?;
    let paid = debits.iter().filter(|(place, _)| book.held[*place].source.is_some()).map(|(_, amount)| *amount);
    let paid = Amount::checked_sum(paid).ok_or_else(|| beyond("a debit"))?;
    if paid.is_zero() {
        return Ok(Vec::new());
    }
    Ok(vec![Transfer { debit: book.wallet.account(), credit: destination.clone(), amount: paid }])
}
