//! Reading the book: accounts, transfers, transactions.
//!
//! Each of these is one statement, and so sees one moment; to read several at the same moment, call them inside a
//! REPEATABLE READ transaction.

use chrono::{DateTime, Utc};
use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use crate::{AccountSpec, AccountType, Amount, LedgerError, Transaction, TransactionId, Transfer};

/// An account as the book has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    pub id: i64,
    pub spec: AccountSpec,
}

/// A place in the book. It orders the entries: later bookings are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub booked_at: DateTime<Utc>,
    pub transaction: TransactionId,
    pub line: i32,
}

/// A transfer as it was posted.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub position: Position,
    pub effective_at: DateTime<Utc>,
    pub kind: String,
    pub description: String,
    pub corrects: Option<TransactionId>,
    pub metadata: serde_json::Value,
    pub debit: String,
    pub credit: String,
    pub amount: Amount,
    pub currency: String,
}

/// The accounts whose names start with `prefix`, by name; all of them for the empty one.
pub async fn accounts(client: &impl GenericClient, prefix: &str) -> Result<Vec<Account>, LedgerError> {
    let rows = client
        .query_typed(
            "select id, name, type, party, purpose, currency from ledger.account
             where starts_with(name, $1) order by name collate \"C\"",
            &[(&prefix, Type::TEXT)],
        )
        .await
        .map_err(LedgerError::database("reading the accounts"))?;
    rows.iter().map(account_of).collect()
}

/// The latest transfers, newest first: at most `limit`, of one account or of all, before a position or from the end.
/// The next page starts before the last position of this one; a position is one of the same account, or of all.
pub async fn transfers(
    client: &impl GenericClient,
    account: Option<&str>,
    before: Option<Position>,
    limit: u32,
) -> Result<Vec<Entry>, LedgerError> {
    let chosen = match account {
        None => format!(
            "select t.* from ledger.transfer t
             where (t.posting, t.place, t.line) < (
                 select i.posting, i.place, $3 from ledger.transaction_id i where i.id = $2
                 union all select {MOST}, 0, 0 where $2 is null)
             order by t.posting desc, t.place desc, t.line desc limit $4"
        ),
        Some(_) => "select t.* from ledger.account a
             cross join lateral ledger.entries(
                 a.id, ledger.landmark_before(a.id, $1, $4), $1 + interval '1 microsecond') e
             join ledger.transfer t
                 on t.posting = e.posting and t.place = e.place and t.line = e.line and t.booked_at = e.booked_at
             where a.name = $5 and (e.booked_at, e.place, e.line) < (
                 select $1, i.place, $3 from ledger.transaction_id i where i.id = $2
                 union all select $1, 2147483647, 0 where $2 is null)
             order by e.booked_at desc, e.number desc limit $4"
            .to_owned(),
    };
    let sql = format!(
        "select t.booked_at, t.transaction, t.line, t.effective_at, p.kind, p.description, p.corrects, p.metadata,
                d.name, c.name, t.amount, t.currency
         from ({chosen}) t
         cross join lateral (
             select p.kind, p.description, p.corrects, p.metadata from ledger.transfer p
             where p.posting = t.posting and p.place = t.place and p.line = 1 and p.booked_at = t.booked_at limit 1
         ) p
         join ledger.account d on d.id = t.debit_account
         join ledger.account c on c.id = t.credit_account
         order by {}t.place desc, t.line desc",
        if account.is_some() { "t.booked_at desc, " } else { "t.posting desc, " }
    );
    let end = DateTime::from_timestamp(253_402_300_799, 0).unwrap_or(DateTime::<Utc>::MAX_UTC);
    let booked_at = before.map_or(end, |position| position.booked_at);
    let transaction = before.map(|position| position.transaction.0);
    let line = before.map_or(0, |position| position.line);
    let limit = i64::from(limit);
    let mut parameters: Vec<(&(dyn tokio_postgres::types::ToSql + Sync), Type)> =
        vec![(&booked_at, Type::TIMESTAMPTZ), (&transaction, Type::UUID), (&line, Type::INT4), (&limit, Type::INT8)];
    if let Some(name) = &account {
        parameters.push((name, Type::TEXT));
    }
    let rows = client.query_typed(&sql, &parameters).await.map_err(LedgerError::database("reading the transfers"))?;
    rows.iter().map(entry_of).collect()
}

/// Beyond every number of a set.
const MOST: &str = "9223372036854775807";

/// One transaction as it was posted, or nothing when there is none of this id.
pub async fn transaction(client: &impl GenericClient, id: TransactionId) -> Result<Option<Transaction>, LedgerError> {
    let rows = client
        .query_typed(
            "select d.id, d.name, d.type, d.party, d.purpose, d.currency,
                    c.id, c.name, c.type, c.party, c.purpose, c.currency,
                    t.amount, t.kind, t.effective_at, t.description, t.corrects, t.reverses, t.metadata
             from ledger.transaction_id i
             join ledger.transfer t on t.posting = i.posting and t.place = i.place and t.transaction = i.id
             join ledger.account d on d.id = t.debit_account
             join ledger.account c on c.id = t.credit_account
             where i.id = $1 order by t.line",
            &[(&id.0, Type::UUID)],
        )
        .await
        .map_err(LedgerError::database("reading a transaction"))?;
    let Some(row) = rows.first() else { return Ok(None) };
    let transfers = rows
        .iter()
        .map(|row| Ok(Transfer { debit: spec_at(row, 1)?, credit: spec_at(row, 7)?, amount: amount_at(row, 12)? }));
    Ok(Some(Transaction {
        id,
        kind: row.get(13),
        effective_at: row.get(14),
        description: row.get(15),
        corrects: row.get::<_, Option<Uuid>>(16).map(TransactionId),
        reverses: row.get::<_, Option<Uuid>>(17).map(TransactionId),
        metadata: row.get(18),
        transfers: transfers.collect::<Result<_, LedgerError>>()?,
    }))
}

pub(crate) fn account_of(row: &Row) -> Result<Account, LedgerError> {
    Ok(Account { id: row.get(0), spec: spec_at(row, 1)? })
}

fn entry_of(row: &Row) -> Result<Entry, LedgerError> {
    Ok(Entry {
        position: Position { booked_at: row.get(0), transaction: TransactionId(row.get(1)), line: row.get(2) },
        effective_at: row.get(3),
        kind: row.get(4),
        description: row.get(5),
        corrects: row.get::<_, Option<Uuid>>(6).map(TransactionId),
        metadata: row.get(7),
        debit: row.get(8),
        credit: row.get(9),
        amount: amount_at(row, 10)?,
        currency: row.get(11),
    })
}

/// Name, type, party, purpose and currency, in columns from `first` on.
pub(crate) fn spec_at(row: &Row, first: usize) -> Result<AccountSpec, LedgerError> {
    let kind: &str = row.get(first + 1);
    Ok(AccountSpec {
        name: row.get(first),
        kind: AccountType::parse(kind).ok_or_else(|| unreadable(format!("type of account {kind:?}")))?,
        party: row.get(first + 2),
        purpose: row.get(first + 3),
        currency: row.get(first + 4),
    })
}

pub(crate) fn amount_at(row: &Row, column: usize) -> Result<Amount, LedgerError> {
    row.try_get(column).map_err(|error| unreadable(error.to_string()))
}

/// What is read in several statements is of one moment only in a transaction that keeps its snapshot.
pub(crate) async fn require_snapshot(
    tx: &tokio_postgres::Transaction<'_>,
    what: &'static str,
) -> Result<(), LedgerError> {
    let row = tx
        .query_one("select current_setting('transaction_isolation')", &[])
        .await
        .map_err(LedgerError::database("asking for the isolation level"))?;
    let level: &str = row.get(0);
    if level == "repeatable read" || level == "serializable" {
        return Ok(());
    }
    Err(LedgerError::Invalid {
        what: format!("{what} cannot be read"),
        detail: format!("the database transaction is {level}, in which each page may be of another moment"),
        hint: "Begin it as REPEATABLE READ",
    })
}

pub(crate) fn unreadable(detail: String) -> LedgerError {
    LedgerError::Unreadable {
        what: "the ledger holds what this version cannot read".to_owned(),
        detail,
        hint: "Was it written by a later version, or changed by hand?",
    }
}
