//! Reading the book: accounts, balances now and as of either time, entries, the trial balance.
//!
//! Each of these is one statement, and so sees one moment; to read several at the same moment, call them inside a
//! REPEATABLE READ transaction.

use std::collections::BTreeMap;
use std::str::FromStr;

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

/// The moment a balance is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    Now,
    /// Everything that counts at or before this time, whenever it was booked.
    Effective(DateTime<Utc>),
    /// Everything that was booked at or before this time, whenever it counts.
    Booked(DateTime<Utc>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    pub account: Account,
    pub debits: Amount,
    pub credits: Amount,
}

impl Balance {
    /// Debits minus credits.
    pub fn net(&self) -> Option<Amount> {
        self.debits.checked_sub(self.credits)
    }

    /// As an accountant reads it: positive on the side on which this type of account grows.
    pub fn natural(&self) -> Option<Amount> {
        let net = self.net()?;
        if self.account.spec.kind.is_debit_normal() { Some(net) } else { net.checked_neg() }
    }
}

/// All balances in one currency, and what they add up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrialBalance {
    pub currency: String,
    pub balances: Vec<Balance>,
    pub debits: Amount,
    pub credits: Amount,
}

impl TrialBalance {
    pub fn is_balanced(&self) -> bool {
        self.debits == self.credits
    }
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

/// The balances of the accounts whose names start with `prefix`, by name.
pub async fn balances(client: &impl GenericClient, prefix: &str, at: AsOf) -> Result<Vec<Balance>, LedgerError> {
    let (condition, time) = match at {
        AsOf::Now => return balances_now(client, prefix).await,
        AsOf::Effective(time) => {
            ("(select p.effective_at from ledger.transaction p where p.id = t.transaction) <= $2", time)
        }
        AsOf::Booked(time) => ("t.booked_at <= $2", time),
    };
    // Lateral, so that a few accounts are answered from their own entries.
    let sql = format!(
        "select a.id, a.name, a.type, a.party, a.purpose, a.currency,
                coalesce(s.debits, 0)::text, coalesce(s.credits, 0)::text
         from ledger.account a
         cross join lateral (
             select sum(e.debit) as debits, sum(e.credit) as credits
             from (
                 select t.amount as debit, 0 as credit
                 from ledger.transfer t where t.debit_account = a.id and {condition}
                 union all
                 select 0, t.amount
                 from ledger.transfer t where t.credit_account = a.id and {condition}
             ) e
         ) s
         where starts_with(a.name, $1)
         order by a.name collate \"C\""
    );
    let rows = client
        .query_typed(&sql, &[(&prefix, Type::TEXT), (&time, Type::TIMESTAMPTZ)])
        .await
        .map_err(LedgerError::database("reading the balances of the past"))?;
    rows.iter().map(balance_of).collect()
}

async fn balances_now(client: &impl GenericClient, prefix: &str) -> Result<Vec<Balance>, LedgerError> {
    let rows = client
        .query_typed(
            "select a.id, a.name, a.type, a.party, a.purpose, a.currency, b.debits::text, b.credits::text
             from ledger.account a join ledger.account_balance b on b.account = a.id
             where starts_with(a.name, $1) order by a.name collate \"C\"",
            &[(&prefix, Type::TEXT)],
        )
        .await
        .map_err(LedgerError::database("reading the balances"))?;
    rows.iter().map(balance_of).collect()
}

/// All balances, currency by currency.
pub async fn trial_balance(client: &impl GenericClient, at: AsOf) -> Result<Vec<TrialBalance>, LedgerError> {
    let mut currencies: BTreeMap<String, Vec<Balance>> = BTreeMap::new();
    for balance in balances(client, "", at).await? {
        currencies.entry(balance.account.spec.currency.clone()).or_default().push(balance);
    }
    currencies
        .into_iter()
        .map(|(currency, balances)| {
            let sum = |side: fn(&Balance) -> Amount| {
                Amount::checked_sum(balances.iter().map(side)).ok_or_else(|| LedgerError::Unreadable {
                    what: format!("the balances in {currency} cannot be added up"),
                    detail: "their sum is beyond 1.7 × 10^29".to_owned(),
                    hint: "Add up parts of them in SQL",
                })
            };
            let (debits, credits) = (sum(|b| b.debits)?, sum(|b| b.credits)?);
            Ok(TrialBalance { currency, balances, debits, credits })
        })
        .collect()
}

/// The latest transfers, newest first: at most `limit`, of one account or of all, before a position or from the end.
/// The next page starts before the last position of this one.
pub async fn transfers(
    client: &impl GenericClient,
    account: Option<&str>,
    before: Option<Position>,
    limit: u32,
) -> Result<Vec<Entry>, LedgerError> {
    const PAGE: &str = "(t.booked_at, t.transaction, t.line) < ($1, $2, $3) \
                        order by t.booked_at desc, t.transaction desc, t.line desc limit $4";
    // Each side by its own index, or a page of a busy account would read all of it.
    let chosen = match account {
        None => format!("select * from ledger.transfer t where {PAGE}"),
        Some(_) => format!(
            "select * from (
                 (select * from ledger.transfer t
                  where t.debit_account = (select id from ledger.account where name = $5) and {PAGE})
                 union all
                 (select * from ledger.transfer t
                  where t.credit_account = (select id from ledger.account where name = $5) and {PAGE})
             ) t where {PAGE}"
        ),
    };
    let sql = format!(
        "select t.booked_at, t.transaction, t.line, p.effective_at, p.kind, p.description, p.corrects, p.metadata,
                d.name, c.name, t.amount::text, t.currency
         from ({chosen}) t
         join ledger.transaction p on p.id = t.transaction
         join ledger.account d on d.id = t.debit_account
         join ledger.account c on c.id = t.credit_account
         order by t.booked_at desc, t.transaction desc, t.line desc"
    );
    let end = Position {
        booked_at: DateTime::from_timestamp(253_402_300_799, 0).unwrap_or(DateTime::<Utc>::MAX_UTC),
        transaction: TransactionId(Uuid::max()),
        line: i32::MAX,
    };
    let before = before.unwrap_or(end);
    let limit = i64::from(limit);
    let mut parameters: Vec<(&(dyn tokio_postgres::types::ToSql + Sync), Type)> = vec![
        (&before.booked_at, Type::TIMESTAMPTZ),
        (&before.transaction.0, Type::UUID),
        (&before.line, Type::INT4),
        (&limit, Type::INT8),
    ];
    if let Some(name) = &account {
        parameters.push((name, Type::TEXT));
    }
    let rows = client.query_typed(&sql, &parameters).await.map_err(LedgerError::database("reading the transfers"))?;
    rows.iter().map(entry_of).collect()
}

/// One transaction as it was posted, or nothing when there is none of this id.
pub async fn transaction(client: &impl GenericClient, id: TransactionId) -> Result<Option<Transaction>, LedgerError> {
    let rows = client
        .query_typed(
            "select d.id, d.name, d.type, d.party, d.purpose, d.currency,
                    c.id, c.name, c.type, c.party, c.purpose, c.currency,
                    t.amount::text, p.kind, p.effective_at, p.description, p.corrects, p.metadata
             from ledger.transaction p
             join ledger.transfer t on t.transaction = p.id
             join ledger.account d on d.id = t.debit_account
             join ledger.account c on c.id = t.credit_account
             where p.id = $1 order by t.line",
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
        metadata: row.get(17),
        transfers: transfers.collect::<Result<_, LedgerError>>()?,
    }))
}

fn account_of(row: &Row) -> Result<Account, LedgerError> {
    Ok(Account { id: row.get(0), spec: spec_at(row, 1)? })
}

fn balance_of(row: &Row) -> Result<Balance, LedgerError> {
    Ok(Balance { account: account_of(row)?, debits: amount_at(row, 6)?, credits: amount_at(row, 7)? })
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
fn spec_at(row: &Row, first: usize) -> Result<AccountSpec, LedgerError> {
    let kind: &str = row.get(first + 1);
    Ok(AccountSpec {
        name: row.get(first),
        kind: AccountType::parse(kind).ok_or_else(|| unreadable(format!("type of account {kind:?}")))?,
        party: row.get(first + 2),
        purpose: row.get(first + 3),
        currency: row.get(first + 4),
    })
}

fn amount_at(row: &Row, column: usize) -> Result<Amount, LedgerError> {
    Amount::from_str(row.get(column)).map_err(|error| unreadable(error.to_string()))
}

fn unreadable(detail: String) -> LedgerError {
    LedgerError::Unreadable {
        what: "the ledger holds what this version cannot read".to_owned(),
        detail,
        hint: "Was it written by a later version, or changed by hand?",
    }
}
