//! Posting: a set of transactions in one statement.

use chrono::{DateTime, Utc};
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use crate::transaction::validate;
use crate::{LedgerError, Outcome, Transaction};

const POST: &str = "select outcome from ledger.post($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, \
                    $12, $13, $14, $15::text[]::numeric[], $16)";

/// Posts a set of transactions, whole or not at all, as part of the caller's database transaction (READ COMMITTED),
/// in one round trip. The outcomes are in the order of the set.
///
/// It locks the balances of the accounts it touches until the caller commits, in an order that cannot deadlock with
/// other postings. So take every other lock before, and post once in a database transaction. After an error, roll back.
pub async fn post(
    tx: &tokio_postgres::Transaction<'_>,
    transactions: &[Transaction],
) -> Result<Vec<Outcome>, LedgerError> {
    if transactions.is_empty() {
        return Ok(Vec::new());
    }
    let accounts = validate(transactions)?;
    let names: Vec<&str> = accounts.iter().map(|a| a.name.as_str()).collect();
    let types: Vec<&str> = accounts.iter().map(|a| a.kind.as_str()).collect();
    let parties: Vec<&str> = accounts.iter().map(|a| a.party.as_str()).collect();
    let purposes: Vec<&str> = accounts.iter().map(|a| a.purpose.as_str()).collect();
    let account_currencies: Vec<&str> = accounts.iter().map(|a| a.currency.as_str()).collect();

    let ids: Vec<Uuid> = transactions.iter().map(|t| t.id.0).collect();
    let kinds: Vec<&str> = transactions.iter().map(|t| t.kind.as_str()).collect();
    let effective: Vec<DateTime<Utc>> = transactions.iter().map(|t| t.effective_at).collect();
    let descriptions: Vec<&str> = transactions.iter().map(|t| t.description.as_str()).collect();
    let corrects: Vec<Option<Uuid>> = transactions.iter().map(|t| t.corrects.map(|id| id.0)).collect();
    let metadata: Vec<&serde_json::Value> = transactions.iter().map(|t| &t.metadata).collect();

    let transfers = || (1_i32..).zip(transactions).flat_map(|(place, t)| t.transfers.iter().map(move |l| (place, l)));
    let owners: Vec<i32> = transfers().map(|(place, _)| place).collect();
    let debits: Vec<&str> = transfers().map(|(_, l)| l.debit.name.as_str()).collect();
    let credits: Vec<&str> = transfers().map(|(_, l)| l.credit.name.as_str()).collect();
    let amounts: Vec<String> = transfers().map(|(_, l)| l.amount.to_string()).collect();
    let currencies: Vec<&str> = transfers().map(|(_, l)| l.debit.currency.as_str()).collect();

    // The types are stated, which spares the round trip that asks for them.
    let parameters: [(&(dyn ToSql + Sync), Type); 16] = [
        (&names, Type::TEXT_ARRAY),
        (&types, Type::TEXT_ARRAY),
        (&parties, Type::TEXT_ARRAY),
        (&purposes, Type::TEXT_ARRAY),
        (&account_currencies, Type::TEXT_ARRAY),
        (&ids, Type::UUID_ARRAY),
        (&kinds, Type::TEXT_ARRAY),
        (&effective, Type::TIMESTAMPTZ_ARRAY),
        (&descriptions, Type::TEXT_ARRAY),
        (&corrects, Type::UUID_ARRAY),
        (&metadata, Type::JSONB_ARRAY),
        (&owners, Type::INT4_ARRAY),
        (&debits, Type::TEXT_ARRAY),
        (&credits, Type::TEXT_ARRAY),
        (&amounts, Type::TEXT_ARRAY),
        (&currencies, Type::TEXT_ARRAY),
    ];
    let rows = tx.query_typed(POST, &parameters).await.map_err(LedgerError::database("posting"))?;
    rows.iter()
        .map(|row| match row.get::<_, &str>(0) {
            "posted" => Ok(Outcome::Posted),
            "repeated" => Ok(Outcome::Repeated),
            other => Err(LedgerError::Unreadable {
                what: "the answer of ledger.post is unknown".to_owned(),
                detail: format!("outcome {other:?}"),
                hint: "Does the database belong to another version? Run the migration",
            }),
        })
        .collect()
}
