//! What became of holds, and how limits changed.

use chrono::{DateTime, Utc};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use crate::read::{amount_at, unreadable};
use crate::{Amount, HoldId, LedgerError, TransactionId};

/// A hold as it was placed, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldRecord {
    pub id: HoldId,
    /// The accounts between which a capture posts.
    pub debit: String,
    pub credit: String,
    pub amount: Amount,
    pub currency: String,
    pub effective_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub description: String,
    pub placed_at: DateTime<Utc>,
    /// Nothing while it is open; one that is past its time stays open until holds are expired.
    pub resolution: Option<Resolution>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Captured, in whole or part.
    Posted {
        transaction: TransactionId,
        amount: Amount,
        at: DateTime<Utc>,
    },
    Voided {
        at: DateTime<Utc>,
    },
    Expired {
        at: DateTime<Utc>,
    },
}

/// The latest holds, newest first: at most `limit`, of one account or of all, only those that are open or all.
pub async fn holds(
    client: &impl GenericClient,
    account: Option<&str>,
    only_open: bool,
    limit: u32,
) -> Result<Vec<HoldRecord>, LedgerError> {
    let limit = i64::from(limit);
    let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> = vec![(&limit, Type::INT8)];
    let mut chosen = "select h.* from ledger.hold h".to_owned();
    if only_open {
        chosen.push_str(" join ledger.open_hold o on o.hold = h.id");
    }
    if let Some(name) = &account {
        // Each side by its index.
        let id = "(select id from ledger.account where name = $2)";
        chosen.push_str(&format!(" where h.debit_account = {id} or h.credit_account = {id}"));
        parameters.push((name, Type::TEXT));
    }
    chosen.push_str(" order by h.booked_at desc, h.id limit $1");
    select(client, &chosen, &parameters).await
}

/// One hold, or nothing when there is none of this id.
pub async fn hold(client: &impl GenericClient, id: HoldId) -> Result<Option<HoldRecord>, LedgerError> {
    let chosen = "select h.* from ledger.hold h where h.id = $1";
    Ok(select(client, chosen, &[(&id.0, Type::UUID)]).await?.pop())
}

async fn select(
    client: &impl GenericClient,
    chosen: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<HoldRecord>, LedgerError> {
    let sql = format!(
        "select h.id, d.name, c.name, h.amount, h.currency, h.effective_at, h.expires_at, h.description, h.booked_at,
                r.outcome, r.transaction, r.amount, r.at
         from ({chosen}) h
         join ledger.account d on d.id = h.debit_account
         join ledger.account c on c.id = h.credit_account
         left join ledger.hold_resolution r on r.hold = h.id
         order by h.booked_at desc, h.id"
    );
    let rows = client.query_typed(&sql, parameters).await.map_err(LedgerError::database("reading the holds"))?;
    rows.iter().map(hold_of).collect()
}

fn hold_of(row: &Row) -> Result<HoldRecord, LedgerError> {
    let at = |column: usize| {
        let at: Option<DateTime<Utc>> = row.get(column);
        at.ok_or_else(|| unreadable("a hold resolved at no time".to_owned()))
    };
    let resolution = match row.get::<_, Option<&str>>(9) {
        None => None,
        Some("posted") => {
            let transaction = row.get::<_, Option<Uuid>>(10).map(TransactionId);
            let transaction = transaction.ok_or_else(|| unreadable("a hold posted by no transaction".to_owned()))?;
            Some(Resolution::Posted { transaction, amount: amount_at(row, 11)?, at: at(12)? })
        }
        Some("voided") => Some(Resolution::Voided { at: at(12)? }),
        Some("expired") => Some(Resolution::Expired { at: at(12)? }),
        Some(other) => return Err(unreadable(format!("outcome of a hold {other:?}"))),
    };
    Ok(HoldRecord {
        id: TransactionId(row.get(0)),
        debit: row.get(1),
        credit: row.get(2),
        amount: amount_at(row, 3)?,
        currency: row.get(4),
        effective_at: row.get(5),
        expires_at: row.get(6),
        description: row.get(7),
        placed_at: row.get(8),
        resolution,
    })
}

/// A credit limit, from when it was set until the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitChange {
    /// Of this account, from 1.
    pub number: i32,
    /// `None`: no limit.
    pub credit_limit: Option<Amount>,
    pub set_at: DateTime<Utc>,
    pub who: String,
    pub why: String,
}

/// The limits that an account had, oldest first. Before the first there was none.
pub async fn limits(client: &impl GenericClient, account: &str) -> Result<Vec<LimitChange>, LedgerError> {
    let rows = client
        .query_typed(
            "select l.number, l.credit_limit, l.set_at, l.set_by, l.reason from ledger.account_limit l
             where l.account = (select id from ledger.account where name = $1) order by l.number",
            &[(&account, Type::TEXT)],
        )
        .await
        .map_err(LedgerError::database("reading the limits"))?;
    Ok(rows
        .iter()
        .map(|row| LimitChange {
            number: row.get(0),
            credit_limit: row.get(1),
            set_at: row.get(2),
            who: row.get(3),
            why: row.get(4),
        })
        .collect())
}
