//! Posting: a set of transactions in one statement.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use crate::transaction::validate;
use crate::{AccountSpec, Amount, HoldId, LedgerError, Outcome, Refusal, RefusalReason, Shortfall, Transaction};

const OPEN: &str = "select ledger.open_accounts($1, $2, $3, $4, $5)";
const POST: &str = "select place, outcome, reason, detail, (select a.name from ledger.account a where a.id = at), \
                    available, change, credit_limit \
                    from ledger.post($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)";

/// Posts a set of transactions, whole or not at all, as part of the caller's database transaction (READ COMMITTED).
/// The outcomes are in the order of the set. A refusal of any of them is an error of the whole.
///
/// It locks the balances of the accounts it touches until the caller commits, in an order that cannot deadlock with
/// other postings. So take every other lock before, and post once in a database transaction. After an error, roll back.
pub async fn post(
    tx: &tokio_postgres::Transaction<'_>,
    transactions: &[Transaction],
) -> Result<Vec<Outcome>, LedgerError> {
    let chain = Chain { transactions };
    match post_each(tx, &[chain]).await?.pop() {
        Some(answer) => answer.map_err(LedgerError::from),
        None => Ok(Vec::new()),
    }
}

/// To each chain its answer.
pub type Answers = Vec<Result<Vec<Outcome>, Refusal>>;

/// Transactions that are applied all or none.
#[derive(Clone, Copy, Debug)]
pub struct Chain<'a> {
    pub transactions: &'a [Transaction],
}

/// Posts a set of chains as part of the caller's database transaction (READ COMMITTED). Each has an answer of its own:
/// the outcomes of its transactions, or why it was refused, and then nothing of it was posted.
///
/// An error is one of the whole set, and says that nothing of it was posted: a transaction that could be posted in no
/// ledger, a database that failed. No id may be in two chains. For locks see [`post`].
pub async fn post_each(tx: &tokio_postgres::Transaction<'_>, chains: &[Chain<'_>]) -> Result<Answers, LedgerError> {
    let accounts = validate(chains.iter().flat_map(|chain| chain.transactions))?;
    let ids = open_accounts(tx, &accounts).await?;
    let ids: HashMap<&str, i64> = accounts.iter().zip(ids).map(|(account, id)| (account.name.as_str(), id)).collect();
    let set = Set::of(chains, |account| ids.get(account.name.as_str()).copied())?;
    post_known(tx, chains, &set).await
}

/// The numbers of accounts, in the order given; those that are missing are created.
///
/// # Errors
/// [`LedgerError::Refused`] when an account of this name is there with another type, party, purpose or currency.
pub async fn open_accounts(client: &impl GenericClient, accounts: &[&AccountSpec]) -> Result<Vec<i64>, LedgerError> {
    if accounts.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = accounts.iter().map(|a| a.name.as_str()).collect();
    let types: Vec<&str> = accounts.iter().map(|a| a.kind.as_str()).collect();
    let parties: Vec<&str> = accounts.iter().map(|a| a.party.as_str()).collect();
    let purposes: Vec<&str> = accounts.iter().map(|a| a.purpose.as_str()).collect();
    let currencies: Vec<&str> = accounts.iter().map(|a| a.currency.as_str()).collect();
    let parameters: Vec<(&(dyn ToSql + Sync), Type)> =
        [&names, &types, &parties, &purposes, &currencies].map(|p| (p as _, Type::TEXT_ARRAY)).into();
    let rows = client.query_typed(OPEN, &parameters).await.map_err(LedgerError::database("opening accounts"))?;
    Ok(rows.first().map(|row| row.get(0)).unwrap_or_default())
}

/// Posts a set that was made of these chains.
pub(crate) async fn post_known(
    client: &impl GenericClient,
    chains: &[Chain<'_>],
    set: &Set<'_>,
) -> Result<Answers, LedgerError> {
    if set.ids.is_empty() {
        return Ok(chains.iter().map(|_| Ok(Vec::new())).collect());
    }
    // The types are stated, which spares the round trip that asks for them.
    let parameters: [(&(dyn ToSql + Sync), Type); 15] = [
        (&set.accounts, Type::INT8_ARRAY),
        (&set.currencies, Type::TEXT_ARRAY),
        (&set.chains, Type::INT4_ARRAY),
        (&set.ids, Type::UUID_ARRAY),
        (&set.kinds, Type::TEXT_ARRAY),
        (&set.effective, Type::TIMESTAMPTZ_ARRAY),
        (&set.descriptions, Type::TEXT_ARRAY),
        (&set.corrects, Type::UUID_ARRAY),
        (&set.reverses, Type::UUID_ARRAY),
        (&set.captures, Type::UUID_ARRAY),
        (&set.metadata, Type::JSONB_ARRAY),
        (&set.owners, Type::INT4_ARRAY),
        (&set.debits, Type::INT4_ARRAY),
        (&set.credits, Type::INT4_ARRAY),
        (&set.amounts, Type::NUMERIC_ARRAY),
    ];
    let rows = client.query_typed(POST, &parameters).await.map_err(LedgerError::database("posting"))?;
    // A row for each transaction that was not posted.
    let mut rows = rows.iter().peekable();
    let mut end = 0;
    chains
        .iter()
        .map(|chain| {
            let begin = end;
            end += chain.transactions.len();
            let mut others = Vec::new();
            while let Some(row) =
                rows.next_if(|row| usize::try_from(row.get::<_, i32>(0)).is_ok_and(|place| place <= end))
            {
                others.push(row);
            }
            answer(chain, begin, &others)
        })
        .collect()
}

/// A set as the arrays of `ledger.post`: an element an account, an element a transaction, an element a transfer.
/// Transfers name accounts and transactions by their places, from 1.
#[derive(Default)]
pub(crate) struct Set<'a> {
    accounts: Vec<i64>,
    currencies: Vec<&'a str>,
    chains: Vec<i32>,
    ids: Vec<Uuid>,
    kinds: Vec<&'a str>,
    effective: Vec<DateTime<Utc>>,
    descriptions: Vec<&'a str>,
    corrects: Vec<Option<Uuid>>,
    reverses: Vec<Option<Uuid>>,
    captures: Vec<Option<Uuid>>,
    metadata: Vec<&'a serde_json::Value>,
    owners: Vec<i32>,
    debits: Vec<i32>,
    credits: Vec<i32>,
    amounts: Vec<Amount>,
}

impl<'a> Set<'a> {
    /// `id_of` knows the numbers of accounts.
    pub(crate) fn of(chains: &[Chain<'a>], id_of: impl Fn(&AccountSpec) -> Option<i64>) -> Result<Self, LedgerError> {
        let mut set = Set::default();
        let mut sides: Vec<[i64; 2]> = Vec::new();
        let mut accounts: Vec<(i64, &str)> = Vec::new();
        let numbered =
            (1_i32..).zip(chains).flat_map(|(number, chain)| chain.transactions.iter().map(move |t| (number, t)));
        for (place, (chain, t)) in (1_i32..).zip(numbered) {
            set.chains.push(chain);
            set.ids.push(t.id.0);
            set.kinds.push(&t.kind);
            set.effective.push(t.effective_at);
            set.descriptions.push(&t.description);
            set.corrects.push(t.corrects.map(|id| id.0));
            set.reverses.push(t.reverses.map(|id| id.0));
            set.captures.push(None);
            set.metadata.push(&t.metadata);
            for transfer in &t.transfers {
                let mut id = |account: &'a AccountSpec| {
                    let id = id_of(account).ok_or_else(|| LedgerError::Invalid {
                        what: format!("transaction {} cannot be posted", t.id),
                        detail: format!("the account {} is not open", account.name),
                        hint: "Open it first, under the type, party, purpose and currency that it has",
                    })?;
                    accounts.push((id, &account.currency));
                    Ok::<_, LedgerError>(id)
                };
                set.owners.push(place);
                set.amounts.push(transfer.amount);
                sides.push([id(&transfer.debit)?, id(&transfer.credit)?]);
            }
        }
        accounts.sort_unstable();
        accounts.dedup();
        (set.accounts, set.currencies) = accounts.into_iter().unzip();
        let place = |id: &i64| {
            i32::try_from(set.accounts.partition_point(|account| account < id)).map_or(0, |before| before + 1)
        };
        set.debits = sides.iter().map(|[debit, _]| place(debit)).collect();
        set.credits = sides.iter().map(|[_, credit]| place(credit)).collect();
        Ok(set)
    }
}

impl Set<'_> {
    /// The set of one transaction, as one that captures a hold.
    pub(crate) fn capturing(mut self, hold: HoldId) -> Self {
        self.captures = vec![Some(hold.0)];
        self
    }
}

/// The answer to one chain, whose transactions have the places after `begin`; `others` are those that were not posted.
fn answer(chain: &Chain<'_>, begin: usize, others: &[&Row]) -> Result<Result<Vec<Outcome>, Refusal>, LedgerError> {
    let mut outcomes = vec![Outcome::Posted; chain.transactions.len()];
    let mut refused = false;
    for row in others {
        let place = usize::try_from(row.get::<_, i32>(0)).ok().and_then(|place| place.checked_sub(begin + 1));
        let Some((index, transaction)) = place.and_then(|index| Some((index, chain.transactions.get(index)?))) else {
            return Err(unknown_answer("a place outside of the set".to_owned()));
        };
        match row.get::<_, &str>(1) {
            "repeated" => outcomes[index] = Outcome::Repeated,
            // The others of the chain only say that it was refused.
            "refused" if row.get::<_, &str>(2) == "chain" => refused = true,
            "refused" => {
                let detail = row.get::<_, Option<&str>>(3).unwrap_or_default().to_owned();
                return Ok(Err(Refusal { transaction: transaction.id, reason: reason(row)?, detail }));
            }
            other => return Err(unknown_answer(format!("outcome {other:?}"))),
        }
    }
    if refused { Err(unknown_answer("a chain refused without a reason".to_owned())) } else { Ok(Ok(outcomes)) }
}

fn reason(row: &Row) -> Result<RefusalReason, LedgerError> {
    Ok(match row.get::<_, &str>(2) {
        "conflict" => RefusalReason::Conflict,
        "missing" => RefusalReason::Missing,
        "metadata" => RefusalReason::Metadata,
        "reversal" => RefusalReason::Reversal,
        "hold" => RefusalReason::Hold,
        "limit" => RefusalReason::Limit(Box::new(Shortfall {
            account: row.get(4),
            available: row.get(5),
            change: row.get(6),
            credit_limit: row.get(7),
        })),
        other => return Err(unknown_answer(format!("reason {other:?}"))),
    })
}

pub(crate) fn unknown_answer(detail: String) -> LedgerError {
    LedgerError::Unreadable {
        what: "the answer of the ledger is unknown".to_owned(),
        detail,
        hint: "Does the database belong to another version? Run the migration",
    }
}
