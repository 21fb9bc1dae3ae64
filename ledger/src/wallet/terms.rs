//! Opening a wallet, and what it is told to watch.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use tokio_postgres::Row;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::body::{Reader, amount, instant};
use super::work::{Facts, Operation, alone};
use super::{Done, Wallet, WalletId, reason, refuse, time};
use crate::{Amount, LedgerError};

/// A request for a top-up of `amount` is made when the balance is below `below`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutoTopup {
    pub below: Amount,
    pub amount: Amount,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// `wallet.low` is told when the balance comes down to one of these.
    pub thresholds: Vec<Amount>,
    pub topup: Option<AutoTopup>,
    /// Refunds, and manual credits and debits, of this amount or more need a second person; so does whatever raises it. Nothing:
    /// never.
    pub second_person_from: Option<Amount>,
}

impl Terms {
    fn check(&self) -> Result<(), LedgerError> {
        let negative = |amount: &Amount| amount.nanos() < 0;
        let fault = if self.thresholds.iter().any(negative) {
            "a threshold is below zero"
        } else if (1..self.thresholds.len()).any(|place| self.thresholds[..place].contains(&self.thresholds[place])) {
            "a threshold stands twice"
        } else if self.topup.is_some_and(|topup| !topup.below.is_positive() || !topup.amount.is_positive()) {
            "an amount of the automatic top-up is not positive"
        } else if self.second_person_from.as_ref().is_some_and(negative) {
            "the limit for a second person is below zero"
        } else {
            return Ok(());
        };
        Err(refuse("the terms of a wallet are not sound", fault, "Nothing was changed"))
    }

    /// Whether going from these to others raises the limit.
    pub(super) fn is_raised_by(&self, other: &Terms) -> bool {
        self.second_person_from.is_some_and(|now| other.second_person_from.is_none_or(|then| then > now))
    }

    pub(super) fn body(&self) -> Map<String, Value> {
        let optional = |value: Option<Amount>| value.map_or(Value::Null, amount);
        [
            ("thresholds", self.thresholds.iter().copied().map(amount).collect()),
            ("topup_below", optional(self.topup.map(|topup| topup.below))),
            ("topup_amount", optional(self.topup.map(|topup| topup.amount))),
            ("second_person_from", optional(self.second_person_from)),
        ]
        .map(|(field, value)| (field.to_owned(), value))
        .into_iter()
        .collect()
    }

    pub(super) fn of_body(body: &Value) -> Result<Self, LedgerError> {
        let body = Reader(body);
        let optional = |field| if body.has(field) { body.amount(field).map(Some) } else { Ok(None) };
        let thresholds = body.list("thresholds")?.iter().map(|threshold| {
            let wrapped = json!({ "threshold": threshold });
            Reader(&wrapped).amount("threshold")
        });
        Ok(Terms {
            thresholds: thresholds.collect::<Result<_, _>>()?,
            topup: optional("topup_below")?
                .zip(optional("topup_amount")?)
                .map(|(below, amount)| AutoTopup { below, amount }),
            second_person_from: optional("second_person_from")?,
        })
    }

    pub(super) fn row(&self, wallet: WalletId, number: i64) -> Value {
        let mut row = self.body();
        row.insert("wallet".to_owned(), json!(wallet.to_string()));
        row.insert("number".to_owned(), json!(number));
        Value::Object(row)
    }

    /// Thresholds, topup_below, topup_amount and second_person_from, in columns from `first` on.
    pub(super) fn of_row(row: &Row, first: usize) -> Result<Self, LedgerError> {
        let unreadable = |error: tokio_postgres::Error| super::load::unreadable(error.to_string());
        let optional = |column| row.try_get::<_, Option<Amount>>(column).map_err(unreadable);
        Ok(Terms {
            thresholds: row.try_get(first).map_err(unreadable)?,
            topup: optional(first + 1)?.zip(optional(first + 2)?).map(|(below, amount)| AutoTopup { below, amount }),
            second_person_from: optional(first + 3)?,
        })
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewWallet {
    pub id: Uuid,
    pub wallet: Wallet,
    pub terms: Terms,
    pub at: DateTime<Utc>,
    pub who: String,
    pub why: String,
}

/// Opens a wallet, empty. A wallet is opened once; its terms are changed by [`set_terms`].
pub async fn open(tx: &tokio_postgres::Transaction<'_>, new: &NewWallet) -> Result<Done, LedgerError> {
    reason(&new.who, &new.why)?;
    new.terms.check()?;
    if let Some(fault) = new.wallet.account().fault() {
        return Err(refuse("the wallet cannot be opened", fault, "Nothing was changed"));
    }
    let at = time("the opening of a wallet", new.at)?;
    let id = new.wallet.id();
    let mut body = new.terms.body();
    body.extend(
        [("wallet", json!(id.to_string())), ("at", instant(at)), ("who", json!(new.who)), ("why", json!(new.why))]
            .map(|(field, value)| (field.to_owned(), value)),
    );
    tx.query_typed(
        "select ledger.wallet_open($1, $2, $3)",
        &[(&id.0, Type::UUID), (&new.wallet.party, Type::TEXT), (&new.wallet.currency, Type::TEXT)],
    )
    .await
    .map_err(LedgerError::database("opening a wallet"))?;
    let operation = Operation {
        id: new.id,
        wallet: id,
        kind: "open",
        at,
        amount: Amount::ZERO,
        who: new.who.clone(),
        why: new.why.clone(),
        body: Value::Object(body),
    };
    alone(tx, &operation, |book| {
        if book.number > 0 {
            let what = format!("the wallet of {} in {} is open", new.wallet.party, new.wallet.currency);
            return Err(refuse(what, "it was opened by another operation", "Change its terms instead"));
        }
        Ok((operation.clone(), Facts { terms: Some(new.terms.clone()), ..Facts::default() }))
    })
    .await
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTerms {
    pub id: Uuid,
    pub wallet: WalletId,
    pub terms: Terms,
    pub at: DateTime<Utc>,
    pub who: String,
    pub why: String,
}

impl NewTerms {
    pub(super) fn operation(&self) -> Result<Operation, LedgerError> {
        reason(&self.who, &self.why)?;
        self.terms.check()?;
        let at = time("the change of a wallet's terms", self.at)?;
        let mut body = self.terms.body();
        body.extend(
            [
                ("wallet", json!(self.wallet.to_string())),
                ("at", instant(at)),
                ("who", json!(self.who)),
                ("why", json!(self.why)),
            ]
            .map(|(field, value)| (field.to_owned(), value)),
        );
        Ok(Operation {
            id: self.id,
            wallet: self.wallet,
            kind: "terms",
            at,
            amount: Amount::ZERO,
            who: self.who.clone(),
            why: self.why.clone(),
            body: Value::Object(body),
        })
    }

    pub(super) fn of_body(id: Uuid, body: &Value) -> Result<Self, LedgerError> {
        let read = Reader(body);
        Ok(NewTerms {
            id,
            wallet: WalletId(read.uuid("wallet")?),
            terms: Terms::of_body(body)?,
            at: read.instant("at")?,
            who: read.text("who")?.to_owned(),
            why: read.text("why")?.to_owned(),
        })
    }

    pub(super) fn facts(&self) -> Facts {
        Facts { terms: Some(self.terms.clone()), ..Facts::default() }
    }
}

/// Replaces a wallet's terms. What raises the limit for a second person stays a proposal until one approves.
pub async fn set_terms(tx: &tokio_postgres::Transaction<'_>, new: &NewTerms) -> Result<super::Requested, LedgerError> {
    super::manual::request(tx, &super::manual::Wanted::Terms(new.clone())).await
}

/// Says that a request for a top-up will not be answered by a grant, so that there can be another one.
/// `id` names this operation.
pub async fn decline_topup(
    tx: &tokio_postgres::Transaction<'_>,
    id: Uuid,
    wallet: WalletId,
    topup: Uuid,
    at: DateTime<Utc>,
    who: &str,
    why: &str,
) -> Result<Done, LedgerError> {
    reason(who, why)?;
    let at = time("the refusal of a top-up", at)?;
    let operation = Operation {
        id,
        wallet,
        kind: "decline",
        at,
        amount: Amount::ZERO,
        who: who.to_owned(),
        why: why.to_owned(),
        body: json!({
            "wallet": wallet.to_string(), "request": topup.to_string(), "at": instant(at), "who": who, "why": why,
        }),
    };
    alone(tx, &operation, |book| {
        answerable(book, topup)?;
        Ok((operation.clone(), Facts { answers: Some(topup), ..Facts::default() }))
    })
    .await
}

/// Refuses what answers a request that is not open.
pub(super) fn answerable(book: &super::book::Book, topup: Uuid) -> Result<(), LedgerError> {
    if book.open_request == Some(topup) {
        return Ok(());
    }
    let detail = match book.open_request {
        Some(open) => format!("the open one is {open}"),
        None => "none is open".to_owned(),
    };
    Err(refuse(format!("the wallet has no open request {topup} for a top-up"), detail, "Was it answered before?"))
}
