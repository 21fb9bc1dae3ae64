//! Paying for use, and moving the frontier.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::body::{amount, instant};
use super::work::{Facts, Operation, Work};
use super::{Done, NAMESPACE, WalletId, beyond, refuse, time};
use crate::{Amount, LedgerError, Outcome, Transaction, TransactionId};

/// Use that a wallet is to pay for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    pub id: Uuid,
    pub wallet: WalletId,
    /// By the second of use. A correction's amount may be below zero.
    pub uses: Vec<(DateTime<Utc>, Amount)>,
    /// What the use is of; it becomes the description of what is posted.
    pub why: String,
}

impl Draw {
    fn operation(&self) -> Result<(Operation, BTreeMap<DateTime<Utc>, Amount>), LedgerError> {
        super::reason("usage", &self.why)?;
        let mut uses: BTreeMap<DateTime<Utc>, Amount> = BTreeMap::new();
        for (at, used) in &self.uses {
            let sum = uses.entry(time("the time of use", *at)?).or_default();
            *sum = sum.checked_add(*used).ok_or_else(|| beyond("the use of a second"))?;
        }
        let total = Amount::checked_sum(uses.values().copied()).ok_or_else(|| beyond("the use of a draw"))?;
        let Some((&at, _)) = uses.last_key_value() else {
            let what = format!("the draw {} holds no use", self.id);
            return Err(refuse(what, format!("wallet {}", self.wallet), "Leave it out"));
        };
        let body: Vec<Value> =
            uses.iter().map(|(at, used)| json!({ "at": instant(*at), "amount": amount(*used) })).collect();
        let operation = Operation {
            id: self.id,
            wallet: self.wallet,
            kind: "draw",
            at,
            amount: total.checked_neg().ok_or_else(|| beyond("the use of a draw"))?,
            who: "usage".to_owned(),
            why: self.why.clone(),
            body: json!({ "wallet": self.wallet.to_string(), "uses": body, "why": self.why }),
        };
        Ok((operation, uses))
    }
}

/// Pays for use: what grants carry is taken from them, the rest becomes a receivable.
pub async fn draw(tx: &tokio_postgres::Transaction<'_>, draw: &Draw) -> Result<Done, LedgerError> {
    let (done, _) = draw_many(tx, std::slice::from_ref(draw), &[]).await?;
    done.into_iter().next().ok_or_else(|| refuse("a draw has no answer", draw.id.to_string(), "Report it as a bug"))
}

/// Pays for use of any number of wallets, and posts `with` (the use itself) in the same set, before it: a database
/// transaction posts once. The answers are in the order given.
pub async fn draw_many(
    tx: &tokio_postgres::Transaction<'_>,
    draws: &[Draw],
    with: &[Transaction],
) -> Result<(Vec<Done>, Vec<Outcome>), LedgerError> {
    let operations = draws.iter().map(Draw::operation).collect::<Result<Vec<_>, _>>()?;
    let references: Vec<&Operation> = operations.iter().map(|(operation, _)| operation).collect();
    let mut work = Work::begin(tx, &references).await?;
    let mut all = Vec::with_capacity(draws.len());
    for (operation, uses) in &operations {
        all.push(match work.known(operation.id) {
            Some(done) => done,
            None => work.run(operation, Facts { uses: uses.clone(), ..Facts::default() }).await?,
        });
    }
    let outcomes = work.finish(with).await?;
    Ok((all, outcomes))
}

/// Says that all use before `frontier` is known, but for late news: grants that end by then expire. Where a wallet's
/// frontier is as far, nothing happens; it never goes back. The answers are by wallet, each once.
pub async fn advance(
    tx: &tokio_postgres::Transaction<'_>,
    wallets: &[WalletId],
    frontier: DateTime<Utc>,
) -> Result<Vec<Done>, LedgerError> {
    let frontier = time("the frontier", frontier)?;
    let wallets: BTreeSet<WalletId> = wallets.iter().copied().collect();
    let operations: Vec<Operation> = wallets.iter().map(|wallet| advance_of(*wallet, frontier)).collect();
    let references: Vec<&Operation> = operations.iter().collect();
    let mut work = Work::begin(tx, &references).await?;
    let mut all = Vec::with_capacity(wallets.len());
    for operation in &operations {
        let facts = Facts { frontier: Some(frontier), ..Facts::default() };
        all.push(match work.known(operation.id) {
            Some(done) => done,
            None => work.run(operation, facts).await?,
        });
    }
    work.finish(&[]).await?;
    Ok(all)
}

fn advance_of(wallet: WalletId, frontier: DateTime<Utc>) -> Operation {
    let text = instant(frontier).to_string();
    Operation {
        id: TransactionId::derive(&NAMESPACE, &["advance", &wallet.to_string(), &text]).0,
        wallet,
        kind: "advance",
        at: frontier,
        amount: Amount::ZERO,
        who: "usage".to_owned(),
        why: "the frontier has moved on".to_owned(),
        body: json!({ "wallet": wallet.to_string(), "frontier": instant(frontier) }),
    }
}

/// The wallets that [`advance`] to this frontier would change: where a grant of which something is left starts or ends
/// by then. The others need not be told.
pub async fn due(client: &impl GenericClient, frontier: DateTime<Utc>) -> Result<Vec<WalletId>, LedgerError> {
    let frontier = time("the frontier", frontier)?;
    let rows = client
        .query_typed(
            "select distinct s.wallet
             from ledger.wallet_booked b
             join ledger.wallet_grant g on g.id = b.grant_id
             join ledger.wallet_state s on s.wallet = b.wallet
             where b.debited + b.consumed + b.expired < b.amount
               and (g.expires_at <= $1 or g.from_at <= $1 and g.from_at > s.clock)
             order by s.wallet",
            &[(&frontier, Type::TIMESTAMPTZ)],
        )
        .await
        .map_err(LedgerError::database("looking for wallets that are due"))?;
    Ok(rows.iter().map(|row| WalletId(row.get(0))).collect())
}
