//! Balances now and as of either time, and the trial balance.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use tokio_postgres::GenericClient;
use tokio_postgres::types::{ToSql, Type};

use crate::read::{Account, account_of, amount_at};
use crate::{Amount, LedgerError};

/// The moment a balance is asked for. Times are to the microsecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    Now,
    /// Everything that counts at or before this time, whenever it was booked.
    Effective(DateTime<Utc>),
    /// Everything that was booked at or before this time, whenever it counts.
    Booked(DateTime<Utc>),
}

/// Which of its two times orders a transfer: when it counts, or when it was booked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    Effective,
    Booked,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    pub account: Account,
    /// Debits less credits.
    pub net: Amount,
}

impl Balance {
    /// As an accountant reads it: positive on the side on which this type of account grows. Nothing when it does not
    /// fit, which no balance of the ledger does.
    pub fn natural(&self) -> Option<Amount> {
        if self.account.spec.kind.is_debit_normal() { Some(self.net) } else { self.net.checked_neg() }
    }

    /// What stands in the debit column of a trial balance: the net, where debits prevail.
    pub fn debit(&self) -> Amount {
        self.net.max(Amount::ZERO)
    }

    /// What stands in the credit column of a trial balance.
    pub fn credit(&self) -> Amount {
        self.net.checked_neg().unwrap_or(Amount::ZERO).max(Amount::ZERO)
    }
}

/// All balances in one currency, and what the two columns add up to.
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

/// What an account holds now, and what can go out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Funds {
    pub account: Account,
    /// All that was ever debited, and credited.
    pub debits: Amount,
    pub credits: Amount,
    /// What holds would debit and credit, were they captured whole.
    pub pending_debits: Amount,
    pub pending_credits: Amount,
    pub entries: i64,
    /// The balance on the side on which the account grows, less what holds would take of it.
    pub available: Amount,
    /// What is available may fall to minus this; nothing: there is no limit.
    pub credit_limit: Option<Amount>,
}

/// The balances of the accounts whose names start with `prefix`, by name; all of them for the empty one.
///
/// Now and as of a booking time, that is a few index lookups an account. As of an effective time it is worked out
/// backwards from now, over what the account was booked since then and what was posted ahead.
pub async fn balances(client: &impl GenericClient, prefix: &str, at: AsOf) -> Result<Vec<Balance>, LedgerError> {
    let before = match at {
        AsOf::Now => None,
        AsOf::Effective(time) => Some((By::Effective, just_after(time)?)),
        AsOf::Booked(time) => Some((By::Booked, just_after(time)?)),
    };
    select(client, "starts_with(a.name, $1)", (&prefix, Type::TEXT), before).await
}

/// The balance of one account by everything before a time; nothing when there is no such account.
pub(crate) async fn balance_before(
    client: &impl GenericClient,
    account: &str,
    by: By,
    time: DateTime<Utc>,
) -> Result<Option<Balance>, LedgerError> {
    Ok(select(client, "a.name = $1", (&account, Type::TEXT), Some((by, time))).await?.pop())
}

// What it was after the last movement before the time; where none is there, after the months that were detached.
const BEFORE_BOOKED: &str = "\
    coalesce(
        (select m.balance from ledger.movements(a.id, 'infinity', $2) m limit 1),
        (select o.debits - o.credits from ledger.archive_balance o
         where o.account = a.id and o.month = (select max(d.month) from ledger.detached d)),
        0)";

// All that counts from a time on was booked from then on, unless it was posted ahead.
const BEFORE_EFFECTIVE: &str = "\
    b.debits - b.credits - coalesce((
        select sum(e.change) from (
            select e.change from ledger.entries(a.id, $2, 'infinity') e where e.effective_at >= $2
            union all
            select t.amount from ledger.transfer t
            where t.debit_account = a.id and t.booked_at < $2 and t.effective_at >= $2 and t.effective_at > t.booked_at
            union all
            select - t.amount from ledger.transfer t
            where t.credit_account = a.id and t.booked_at < $2 and t.effective_at >= $2 and t.effective_at > t.booked_at
        ) e
    ), 0)";

async fn select(
    client: &impl GenericClient,
    condition: &str,
    account: (&(dyn ToSql + Sync), Type),
    before: Option<(By, DateTime<Utc>)>,
) -> Result<Vec<Balance>, LedgerError> {
    if let Some((by, time)) = before {
        refuse_detached(client, by, time).await?;
    }
    let net = match before {
        None => "b.debits - b.credits",
        Some((By::Booked, _)) => BEFORE_BOOKED,
        Some((By::Effective, _)) => BEFORE_EFFECTIVE,
    };
    let sql = format!(
        "select a.id, a.name, a.type, a.party, a.purpose, a.currency, {net}
         from ledger.account a join ledger.account_balance b on b.account = a.id
         where {condition} order by a.name collate \"C\""
    );
    let mut parameters = vec![account];
    if let Some((_, time)) = &before {
        parameters.push((time, Type::TIMESTAMPTZ));
    }
    let rows = client.query_typed(&sql, &parameters).await.map_err(LedgerError::database("reading the balances"))?;
    rows.iter().map(|row| Ok(Balance { account: account_of(row)?, net: amount_at(row, 6)? })).collect()
}

/// What counts from a time on has to be there to be taken off: a month that was detached must lie wholly before.
async fn refuse_detached(client: &impl GenericClient, by: By, time: DateTime<Utc>) -> Result<(), LedgerError> {
    let row = client
        .query_typed_one(
            "select (max(d.month) + interval '1 month') at time zone 'UTC', max(a.effective_until)
             from ledger.detached d join ledger.archive a on a.month = d.month",
            &[],
        )
        .await
        .map_err(LedgerError::database("looking for detached months"))?;
    let known_from: Option<DateTime<Utc>> = match by {
        By::Booked => row.get(0),
        By::Effective => row.get::<_, Option<DateTime<Utc>>>(1).and_then(|last| just_after(last).ok()),
    };
    match known_from.filter(|known_from| time < *known_from) {
        Some(known_from) => Err(LedgerError::Invalid {
            what: "no balance can be given".to_owned(),
            detail: format!(
                "the time {time} lies in months that were detached; balances are known from {known_from} on"
            ),
            hint: "Ask for a later time, or add up the month's file",
        }),
        None => Ok(()),
    }
}

/// What the accounts whose names start with `prefix` hold now, by name.
pub async fn funds(client: &impl GenericClient, prefix: &str) -> Result<Vec<Funds>, LedgerError> {
    let rows = client
        .query_typed(
            "select a.id, a.name, a.type, a.party, a.purpose, a.currency, b.debits, b.credits, b.pending_debits,
                    b.pending_credits, b.entries, ledger.available(b), b.credit_limit
             from ledger.account a join ledger.account_balance b on b.account = a.id
             where starts_with(a.name, $1) order by a.name collate \"C\"",
            &[(&prefix, Type::TEXT)],
        )
        .await
        .map_err(LedgerError::database("reading what accounts hold"))?;
    rows.iter()
        .map(|row| {
            Ok(Funds {
                account: account_of(row)?,
                debits: amount_at(row, 6)?,
                credits: amount_at(row, 7)?,
                pending_debits: amount_at(row, 8)?,
                pending_credits: amount_at(row, 9)?,
                entries: row.get(10),
                available: amount_at(row, 11)?,
                credit_limit: row.get::<_, Option<Amount>>(12),
            })
        })
        .collect()
}

/// All balances, currency by currency: each account's net in the column of its side.
pub async fn trial_balance(client: &impl GenericClient, at: AsOf) -> Result<Vec<TrialBalance>, LedgerError> {
    let mut currencies: BTreeMap<String, Vec<Balance>> = BTreeMap::new();
    for balance in balances(client, "", at).await? {
        currencies.entry(balance.account.spec.currency.clone()).or_default().push(balance);
    }
    currencies
        .into_iter()
        .map(|(currency, balances)| {
            let sum = |column: fn(&Balance) -> Amount| {
                Amount::checked_sum(balances.iter().map(column)).ok_or_else(|| LedgerError::Unreadable {
                    what: format!("the balances in {currency} cannot be added up"),
                    detail: "their sum is beyond 1.7 × 10^29".to_owned(),
                    hint: "Add up parts of them in SQL",
                })
            };
            let (debits, credits) = (sum(Balance::debit)?, sum(Balance::credit)?);
            Ok(TrialBalance { currency, balances, debits, credits })
        })
        .collect()
}

/// At or before a time is before this one, since times are to the microsecond.
fn just_after(time: DateTime<Utc>) -> Result<DateTime<Utc>, LedgerError> {
    time.checked_add_signed(TimeDelta::microseconds(1)).ok_or_else(|| LedgerError::Invalid {
        what: "no balance can be given".to_owned(),
        detail: format!("the time {time} is beyond what the ledger keeps"),
        hint: "Ask for a time before the year 200000",
    })
}
