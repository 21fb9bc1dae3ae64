//! The way of every operation: lock, look for its id, settle, record, post.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::body::{amount, instant, optional};
use super::book::{Book, Change, Figures, Held};
use super::events::{Happened, events};
use super::load;
use super::settle::{edges, interval};
use super::{NAMESPACE, Part, Terms, WalletId, beyond, refuse};
use crate::{Amount, LedgerError, Outcome, Refusal, RefusalReason, Transaction, TransactionId, Transfer, post};

/// What became of an operation, and how the wallet stood after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    pub outcome: Outcome,
    pub wallet: WalletId,
    /// The number of its entry in the wallet; where nothing had to be recorded, that of the one before.
    pub number: i64,
    /// What further use at the wallet's clock can take.
    pub balance: Amount,
    /// What is left of all paid grants: the balance of the wallet's account.
    pub paid: Amount,
    /// What is left of all promotional grants.
    pub promotional: Amount,
    /// What the wallet could not carry, so far.
    pub receivable: Amount,
}

#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub id: Uuid,
    pub wallet: WalletId,
    pub kind: &'static str,
    pub at: DateTime<Utc>,
    /// What it gives to the wallet; below zero, what it takes. An advance: found when it is settled.
    pub amount: Amount,
    pub who: String,
    pub why: String,
    pub body: Value,
}

/// What an operation adds to a wallet.
#[derive(Default)]
pub(super) struct Facts {
    pub grants: Vec<Held>,
    pub plan: Vec<Part>,
    pub debits: Vec<(usize, Amount)>,
    pub uses: BTreeMap<DateTime<Utc>, Amount>,
    pub frontier: Option<DateTime<Utc>>,
    pub terms: Option<Terms>,
    /// A request for a top-up that is answered by it.
    pub answers: Option<Uuid>,
    /// Its own transfers, besides those that settling leads to.
    pub transfers: Vec<Transfer>,
}

/// Operations of one database transaction, under the locks of their wallets.
pub(super) struct Work<'a, 'c> {
    tx: &'a tokio_postgres::Transaction<'c>,
    books: BTreeMap<Uuid, Book>,
    known: HashMap<Uuid, Done>,
    transactions: Vec<Transaction>,
    lists: BTreeMap<&'static str, Vec<Value>>,
}

impl<'a, 'c> Work<'a, 'c> {
    /// Locks the operations' wallets, and finds those that were done before.
    pub async fn begin(
        tx: &'a tokio_postgres::Transaction<'c>,
        operations: &[&Operation],
    ) -> Result<Self, LedgerError> {
        let mut ids = BTreeSet::new();
        if let Some(twice) = operations.iter().find(|operation| !ids.insert(operation.id)) {
            return Err(refuse(
                format!("operation {} stands twice in one set", twice.id),
                format!("the second is a {} on wallet {}", twice.kind, twice.wallet),
                "An id stands for one operation",
            ));
        }
        let wallets: BTreeSet<Uuid> = operations.iter().map(|operation| operation.wallet.0).collect();
        let wallets: Vec<Uuid> = wallets.into_iter().collect();
        let books = load::locked(tx, &wallets).await?;
        if let Some(missing) = wallets.iter().find(|id| !books.contains_key(id)) {
            return Err(refuse(format!("there is no wallet {missing}"), "it was never opened", "Open it first"));
        }
        let ids: Vec<Uuid> = operations.iter().map(|operation| operation.id).collect();
        let bodies: Vec<&Value> = operations.iter().map(|operation| &operation.body).collect();
        let rows = tx
            .query_typed(
                "select id, wallet, number, balance, paid, promotional, receivable, differs
                 from ledger.wallet_known($1, $2)",
                &[(&ids, Type::UUID_ARRAY), (&bodies, Type::JSONB_ARRAY)],
            )
            .await
            .map_err(LedgerError::database("looking for operations on wallets"))?;
        let mut known = HashMap::new();
        for row in &rows {
            if let Some(fields) = row.get::<_, Option<String>>(7) {
                return Err(LedgerError::Conflict(Refusal {
                    transaction: TransactionId(row.get(0)),
                    reason: RefusalReason::Conflict,
                    detail: fields,
                }));
            }
            let done = Done {
                outcome: Outcome::Repeated,
                wallet: WalletId(row.get(1)),
                number: row.get(2),
                balance: row.get(3),
                paid: row.get(4),
                promotional: row.get(5),
                receivable: row.get(6),
            };
            known.insert(row.get(0), done);
        }
        Ok(Work { tx, books, known, transactions: Vec::new(), lists: BTreeMap::new() })
    }

    pub fn known(&self, id: Uuid) -> Option<Done> {
        self.known.get(&id).copied()
    }

    pub fn book(&self, wallet: WalletId) -> Result<&Book, LedgerError> {
        self.books.get(&wallet.0).ok_or_else(|| refuse("a wallet is not locked", wallet.to_string(), "Lock it first"))
    }

    /// Does an operation in memory.
    pub async fn run(&mut self, operation: &Operation, facts: Facts) -> Result<Done, LedgerError> {
        let tx = self.tx;
        let Some(book) = self.books.get_mut(&operation.wallet.0) else {
            return Err(refuse("a wallet is not locked", operation.wallet.to_string(), "Lock it first"));
        };
        let before = book.figures()?;
        let number = book.number.checked_add(1).ok_or_else(|| beyond("the number of an entry"))?;
        let mut lists: BTreeMap<&'static str, Vec<Value>> = BTreeMap::new();
        let granted = book.held.len()..book.held.len() + facts.grants.len();
        if !facts.grants.is_empty() {
            lists.insert("grants", grant_rows(operation, number, &facts.grants));
            add_grants(tx, book, facts.grants).await?;
        }
        if let Some(whole) = book.held.get(granted.start).map(|held| held.whole) {
            let plan = facts.plan.iter().map(
                |part| json!({ "whole": whole.to_string(), "by_at": instant(part.at), "amount": amount(part.amount) }),
            );
            lists.insert("plans", plan.collect());
        }
        for &(place, taken) in &facts.debits {
            book.debit(place, taken)?;
            lists.entry("debits").or_default().push(json!({
                "wallet": book.id.to_string(), "number": number,
                "grant_id": book.held[place].grant.id.to_string(), "amount": amount(taken),
            }));
        }
        if let Some(terms) = facts.terms {
            lists.insert("terms", vec![terms.row(book.id, number)]);
            book.terms = terms;
        }
        if let Some(request) = facts.answers {
            lists.insert(
                "answers",
                vec![json!({ "request": request.to_string(), "wallet": book.id.to_string(), "number": number })],
            );
            book.open_request = None;
        }
        book.frontier = facts.frontier.map_or(book.frontier, |frontier| frontier.max(book.frontier));
        book.clock = book.clock.max(operation.at);

        // Use goes in interval by interval, each booked as of its latest second.
        let mut changes = Vec::new();
        let mut posted = Vec::new();
        let change = book.settle()?;
        let mut transfers = facts.transfers;
        transfers.extend(book.transfers(&change)?);
        posted.push((operation.at, transfers, change));
        let edges = edges(&book.grants());
        let mut uses = facts.uses.iter().peekable();
        while let Some((&at, &used)) = uses.next() {
            lists.entry("uses").or_default().push(json!({
                "wallet": book.id.to_string(), "number": number, "at": instant(at), "amount": amount(used),
            }));
            let from = interval(&edges, at);
            book.use_at(from, used)?;
            if uses.peek().is_some_and(|(next, _)| interval(&edges, **next) == from) {
                continue;
            }
            let change = book.settle()?;
            posted.push((at, book.transfers(&change)?, change));
        }
        let mut transactions = Vec::new();
        for (place, (at, transfers, change)) in posted.into_iter().enumerate() {
            if !transfers.is_empty() {
                transactions.push(transaction_of(operation, book, place, at, transfers, &change));
            }
            changes.push(change);
        }

        let after = book.figures()?;
        let advance = operation.kind == "advance";
        if advance && changes.iter().all(Change::is_none) && before == after {
            return Ok(done(book, after));
        }
        let request = book.terms.topup.filter(|topup| after.balance < topup.below && book.open_request.is_none());
        let request = request.map(|topup| (derive(&["topup", &operation.id.to_string()]), topup.amount));
        if let Some((id, wanted)) = request {
            lists.insert(
                "requests",
                vec![json!({
                    "id": id.to_string(), "wallet": book.id.to_string(), "number": number, "amount": amount(wanted),
                })],
            );
            book.open_request = Some(id);
        }
        book.number = number;
        let given = if advance { lapsed(&changes)? } else { operation.amount };
        lists.insert("entries", vec![entry_row(operation, number, given, after, &transactions)]);
        let happened = Happened { operation, before, after, changes: &changes, granted, request };
        lists.insert("events", events(book, &happened));
        let done = done(book, after);
        self.transactions.append(&mut transactions);
        for (name, mut rows) in lists {
            self.lists.entry(name).or_default().append(&mut rows);
        }
        Ok(done)
    }

    /// Records all of it, and posts it in one set with what the caller posts, which comes first. The outcomes are
    /// those of the caller's transactions.
    pub async fn finish(mut self, with: &[Transaction]) -> Result<Vec<Outcome>, LedgerError> {
        let mut doc = Map::new();
        for book in self.books.values() {
            let wallet = book.id.to_string();
            self.lists.entry("states").or_default().push(json!({
                "wallet": wallet, "before": book.number_before, "number": book.number, "clock": instant(book.clock),
                "frontier": instant(book.frontier), "receivable": amount(book.receivable),
            }));
            let intervals = book.changed_intervals.iter().map(|from| {
                let used = book.used.get(from).copied().unwrap_or_default();
                json!({ "wallet": wallet, "from_at": instant(*from), "used": amount(used) })
            });
            self.lists.entry("intervals").or_default().extend(intervals);
            let booked = book.changed_grants.iter().map(|&place| {
                let held = &book.held[place];
                json!({
                    "grant_id": held.grant.id.to_string(), "wallet": wallet, "amount": amount(held.grant.amount),
                    "debited": amount(held.grant.debited), "consumed": amount(held.consumed),
                    "expired": amount(held.expired),
                })
            });
            self.lists.entry("booked").or_default().extend(booked);
        }
        for (name, rows) in self.lists {
            doc.insert(name.to_owned(), Value::Array(rows));
        }
        // Before the posting, whose locks on busy accounts are so held for the shortest time.
        self.tx
            .query_typed("select ledger.wallet_book($1)", &[(&Value::Object(doc), Type::JSONB)])
            .await
            .map_err(LedgerError::database("recording operations on wallets"))?;
        let mut set = with.to_vec();
        set.append(&mut self.transactions);
        let mut outcomes = post(self.tx, &set).await?;
        outcomes.truncate(with.len());
        Ok(outcomes)
    }
}

/// One operation from begin to end.
pub(super) async fn alone(
    tx: &tokio_postgres::Transaction<'_>,
    operation: &Operation,
    facts: impl FnOnce(&Book) -> Result<(Operation, Facts), LedgerError>,
) -> Result<Done, LedgerError> {
    let mut work = Work::begin(tx, &[operation]).await?;
    if let Some(done) = work.known(operation.id) {
        return Ok(done);
    }
    let (operation, facts) = facts(work.book(operation.wallet)?)?;
    let done = work.run(&operation, facts).await?;
    work.finish(&[]).await?;
    Ok(done)
}

fn derive(parts: &[&str]) -> Uuid {
    TransactionId::derive(&NAMESPACE, parts).0
}

fn done(book: &Book, figures: Figures) -> Done {
    Done {
        outcome: Outcome::Posted,
        wallet: book.id,
        number: book.number,
        balance: figures.balance,
        paid: figures.paid,
        promotional: figures.promotional,
        receivable: figures.receivable,
    }
}

/// New grants are new edges: the intervals that they cut are summed up again from the use by time.
async fn add_grants(
    tx: &tokio_postgres::Transaction<'_>,
    book: &mut Book,
    grants: Vec<Held>,
) -> Result<(), LedgerError> {
    let before = edges(&book.grants());
    for held in grants {
        book.changed_grants.insert(book.held.len());
        book.held.push(held);
    }
    let after = edges(&book.grants());
    let cut: BTreeSet<_> = after.difference(&before).map(|edge| interval(&before, *edge)).collect();
    let cut: BTreeSet<_> = cut.into_iter().filter(|from| book.used.contains_key(from)).collect();
    if cut.is_empty() {
        return Ok(());
    }
    let mut spans = load::spans(book.id.0, after);
    spans.retain(|(_, start, _)| cut.contains(&interval(&before, *start)));
    let sums = load::sums(tx, &spans).await?.remove(&book.id.0).unwrap_or_default();
    for (_, from, _) in spans {
        match sums.get(&from) {
            Some(used) => book.used.insert(from, *used),
            None if book.used.contains_key(&from) => book.used.insert(from, Amount::ZERO),
            None => continue,
        };
        book.changed_intervals.insert(from);
    }
    Ok(())
}

fn grant_rows(operation: &Operation, number: i64, grants: &[Held]) -> Vec<Value> {
    let rows = grants.iter().zip(1..).map(|(held, part)| {
        let grant = &held.grant;
        json!({
            "id": grant.id.to_string(), "wallet": operation.wallet.to_string(), "number": number, "part": part,
            "whole": held.whole.to_string(), "kind": if held.source.is_some() { "paid" } else { "promotional" },
            "amount": amount(grant.amount), "priority": grant.priority, "from_at": instant(grant.from),
            "expires_at": optional(grant.expires), "on_expiry": held.on_expiry.as_str(),
            "source": held.source.as_ref().map(|source| &source.name),
        })
    });
    rows.collect()
}

fn entry_row(operation: &Operation, number: i64, given: Amount, after: Figures, transactions: &[Transaction]) -> Value {
    json!({
        "wallet": operation.wallet.to_string(), "number": number, "id": operation.id.to_string(),
        "kind": operation.kind, "at": instant(operation.at), "amount": amount(given),
        "balance": amount(after.balance), "paid": amount(after.paid), "promotional": amount(after.promotional),
        "receivable": amount(after.receivable), "who": operation.who, "why": operation.why,
        "transactions": transactions.iter().map(|t| t.id.to_string()).collect::<Vec<_>>(), "body": operation.body,
    })
}

/// What an advance of the frontier takes from the wallet, below zero.
fn lapsed(changes: &[Change]) -> Result<Amount, LedgerError> {
    Amount::checked_sum(changes.iter().flat_map(|change| &change.expired).map(|(_, expired)| *expired))
        .and_then(Amount::checked_neg)
        .ok_or_else(|| beyond("what expired"))
}

fn transaction_of(
    operation: &Operation,
    book: &Book,
    place: usize,
    at: DateTime<Utc>,
    transfers: Vec<Transfer>,
    change: &Change,
) -> Transaction {
    let by_grant = |list: &[(usize, Amount)]| -> Map<String, Value> {
        list.iter().map(|(place, moved)| (book.held[*place].grant.id.to_string(), amount(*moved))).collect()
    };
    Transaction {
        id: TransactionId(derive(&["transaction", &operation.id.to_string(), &place.to_string()])),
        kind: format!("wallet.{}", operation.kind),
        effective_at: at,
        description: operation.why.clone(),
        corrects: None,
        reverses: None,
        metadata: json!({
            "wallet": operation.wallet.to_string(), "operation": operation.id.to_string(), "who": operation.who,
            "consumed": by_grant(&change.consumed), "expired": by_grant(&change.expired),
            "receivable": amount(change.receivable),
        }),
        transfers,
    }
}
