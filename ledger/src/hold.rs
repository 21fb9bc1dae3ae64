//! Holds: amounts set aside, to be captured in whole or part, voided, or left to expire.

use chrono::{DateTime, Utc};
use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Row};

use crate::post::{Chain, Set, post_known, unknown_answer};
use crate::transaction::validate;
use crate::{
    AccountSpec, Amount, LedgerError, Outcome, Refusal, RefusalReason, Shortfall, Transaction, TransactionId, Transfer,
    open_accounts,
};

/// Names a hold for ever, as a [`TransactionId`] names a transaction.
pub type HoldId = TransactionId;

/// An amount that is to be set aside for a transfer that may follow.
#[derive(Clone, Debug, PartialEq)]
pub struct Hold {
    pub id: HoldId,
    /// What a capture would post, at most.
    pub transfer: Transfer,
    pub effective_at: DateTime<Utc>,
    /// By the database's clock; from then on it can be neither captured nor voided.
    pub expires_at: DateTime<Utc>,
    pub description: String,
    /// A JSON object.
    pub metadata: serde_json::Value,
}

/// What captures say of themselves.
#[derive(Clone, Debug)]
pub struct Capture {
    pub hold: HoldId,
    /// At most what is held; the rest is set free.
    pub amount: Amount,
    pub kind: String,
    pub effective_at: DateTime<Utc>,
    pub description: String,
    pub metadata: serde_json::Value,
}

impl Capture {
    /// The id of the transaction that a capture posts: a hold is captured once.
    pub fn transaction_id(&self) -> TransactionId {
        TransactionId::derive(&self.hold.0, &["capture"])
    }
}

/// Places a hold as part of the caller's database transaction. It counts against the limits at once.
///
/// # Errors
/// [`LedgerError::Refused`] when less is available, [`LedgerError::Conflict`] when the id stands for another hold.
pub async fn place_hold(tx: &tokio_postgres::Transaction<'_>, hold: &Hold) -> Result<Outcome, LedgerError> {
    let Transfer { debit, credit, amount } = &hold.transfer;
    let as_posted = capture_transaction(
        hold.id,
        hold.transfer.clone(),
        "hold",
        hold.effective_at,
        &hold.description,
        &hold.metadata,
    );
    validate(&[as_posted])?;
    let ids = open_accounts(tx, &[debit, credit]).await?;
    let row = tx
        .query_typed(
            "select h.outcome, h.reason, h.detail, (select a.name from ledger.account a where a.id = h.at), h.available, h.change,
                    h.credit_limit
             from ledger.place_hold($1, $2, $3, $4, $5, $6, $7, $8) h",
            &[
                (&hold.id.0, Type::UUID),
                (&ids.first(), Type::INT8),
                (&ids.get(1), Type::INT8),
                (amount, Type::NUMERIC),
                (&hold.effective_at, Type::TIMESTAMPTZ),
                (&hold.expires_at, Type::TIMESTAMPTZ),
                (&hold.description, Type::TEXT),
                (&hold.metadata, Type::JSONB),
            ],
        )
        .await
        .map_err(LedgerError::database("placing a hold"))?;
    let row = one(&row)?;
    let detail = || row.get::<_, Option<String>>(2).unwrap_or_default();
    match (row.get::<_, &str>(0), row.get::<_, Option<&str>>(1)) {
        ("placed", _) => Ok(Outcome::Posted),
        ("repeated", _) => Ok(Outcome::Repeated),
        ("refused", Some("conflict")) => {
            Err(Refusal { transaction: hold.id, reason: RefusalReason::Conflict, detail: detail() }.into())
        }
        ("refused", Some("limit")) => {
            let reason = RefusalReason::Limit(Box::new(Shortfall {
                account: row.get(3),
                available: row.get(4),
                change: row.get(5),
                credit_limit: row.get(6),
            }));
            Err(Refusal { transaction: hold.id, reason, detail: detail() }.into())
        }
        (outcome, reason) => Err(unknown_answer(format!("outcome {outcome:?}, reason {reason:?}"))),
    }
}

/// Captures a hold as part of the caller's database transaction: posts the transfer, and sets the rest free.
///
/// # Errors
/// [`LedgerError::Refused`] when there is no such hold, it is resolved or expired, or less is held.
pub async fn capture_hold(tx: &tokio_postgres::Transaction<'_>, capture: &Capture) -> Result<Outcome, LedgerError> {
    let rows = tx
        .query_typed(
            "select d.id, d.name, d.type, d.party, d.purpose, d.currency, c.id, c.name, c.type, c.party, c.purpose, c.currency
             from ledger.hold h join ledger.account d on d.id = h.debit_account join ledger.account c on c.id = h.credit_account
             where h.id = $1",
            &[(&capture.hold.0, Type::UUID)],
        )
        .await
        .map_err(LedgerError::database("reading a hold"))?;
    let Some(row) = rows.first() else {
        let detail = format!("there is no hold {}", capture.hold);
        return Err(Refusal { transaction: capture.transaction_id(), reason: RefusalReason::Hold, detail }.into());
    };
    let (debit, credit) = (crate::read::spec_at(row, 1)?, crate::read::spec_at(row, 7)?);
    let known = |account: &AccountSpec| Some(if *account == debit { row.get(0) } else { row.get(6) });
    let transfer = Transfer { debit: debit.clone(), credit: credit.clone(), amount: capture.amount };
    let Capture { kind, effective_at, description, metadata, .. } = capture;
    let transaction =
        capture_transaction(capture.transaction_id(), transfer, kind, *effective_at, description, metadata);
    validate([&transaction])?;
    let chains = [Chain { transactions: std::slice::from_ref(&transaction) }];
    let set = Set::of(&chains, known)?.capturing(capture.hold);
    let mut answers = post_known(tx, &chains, &set).await?;
    let answer = answers.pop().ok_or_else(|| unknown_answer("no answer".to_owned()))?;
    answer?.pop().ok_or_else(|| unknown_answer("no outcome".to_owned()))
}

/// Sets a hold free as part of the caller's database transaction.
///
/// # Errors
/// [`LedgerError::Refused`] when there is no such hold, or it was captured or is expired.
pub async fn void_hold(tx: &tokio_postgres::Transaction<'_>, hold: HoldId) -> Result<Outcome, LedgerError> {
    let rows = tx
        .query_typed("select outcome, detail from ledger.void_hold($1)", &[(&hold.0, Type::UUID)])
        .await
        .map_err(LedgerError::database("voiding a hold"))?;
    let row = one(&rows)?;
    match row.get(0) {
        "voided" => Ok(Outcome::Posted),
        "repeated" => Ok(Outcome::Repeated),
        _ => {
            let detail = row.get::<_, Option<String>>(1).unwrap_or_default();
            Err(Refusal { transaction: hold, reason: RefusalReason::Hold, detail }.into())
        }
    }
}

/// Resolves holds that have expired, at most so many; gives how many. Each leaves the event `hold.expired`. Run it now and
/// then: whether a hold is expired does not wait for it, but what it set aside does.
pub async fn expire_holds(client: &impl GenericClient, at_most: i32) -> Result<i32, LedgerError> {
    let rows = client
        .query_typed("select ledger.expire_holds($1)", &[(&at_most, Type::INT4)])
        .await
        .map_err(LedgerError::database("expiring holds"))?;
    Ok(one(&rows)?.get(0))
}

fn capture_transaction(
    id: TransactionId,
    transfer: Transfer,
    kind: &str,
    effective_at: DateTime<Utc>,
    description: &str,
    metadata: &serde_json::Value,
) -> Transaction {
    Transaction {
        id,
        kind: kind.to_owned(),
        effective_at,
        description: description.to_owned(),
        corrects: None,
        reverses: None,
        metadata: metadata.clone(),
        transfers: vec![transfer],
    }
}

fn one(rows: &[Row]) -> Result<&Row, LedgerError> {
    rows.first().ok_or_else(|| unknown_answer("no row".to_owned()))
}
