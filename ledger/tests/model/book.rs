//! The book in memory: what was answered, and what must therefore be in the ledger.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use hydrometer_ledger::{
    AccountSpec, Amount, AsOf, Hold, HoldId, Resolution, Transaction, TransactionId, Transfer, balances, funds, holds,
    verify,
};
use tokio_postgres::Client;

use crate::client::{Answer, Done};
use crate::common::{Database, account, post};
use crate::plan::{self, Operation};

#[derive(Default)]
pub struct Book {
    posted: HashMap<TransactionId, Transaction>,
    /// How often each was said to be new.
    news: HashMap<TransactionId, u32>,
    /// Another body than the one that is posted.
    conflicts: Vec<Transaction>,
    /// Refused for lack of funds, alone in their chain.
    poor: Vec<(String, i128)>,
    placed: BTreeMap<HoldId, Hold>,
    /// Whose time had passed when they were placed again: perhaps they were placed before.
    late: BTreeSet<HoldId>,
    captured: BTreeMap<HoldId, TransactionId>,
    voided: BTreeSet<HoldId>,
    answers: BTreeMap<&'static str, u64>,
    undone: u64,
    lost: u64,
}

impl Book {
    /// Funds the wallets and sets their limits.
    pub async fn open(&mut self, database: &Database) {
        let mut app = database.app().await;
        let opening = plan::opening();
        post(&mut app, &opening).await.unwrap();
        let owner = database.owner().await;
        for (wallet, limit) in plan::WALLETS.iter().zip(["0", "0.000000500", "0", "0.000001000"]) {
            set_limit(&owner, &account(wallet), limit).await;
        }
        self.posted.extend(opening.into_iter().map(|t| (t.id, t)));
    }

    /// An operation and its answers.
    pub fn answered(&mut self, operation: &Operation, done: &Done) {
        self.undone += done.undone;
        self.lost += done.lost;
        if let Operation::Post(chains) = operation {
            assert_eq!(chains.len(), done.answers.len());
            for (chain, answer) in chains.iter().zip(&done.answers) {
                let what = self.posting_answered(chain, answer);
                *self.answers.entry(what).or_default() += 1;
            }
            return;
        }
        let [answer] = &done.answers[..] else { panic!("one answer to one hold") };
        let what = match (operation, answer) {
            (Operation::Place(hold), Answer::Held(_)) => {
                assert_eq!(self.placed.entry(hold.id).or_insert_with(|| hold.clone()), hold);
                "placed"
            }
            (Operation::Place(hold), Answer::Other(_)) => {
                self.late.insert(hold.id);
                "placed too late"
            }
            (Operation::Capture(hold, capture), Answer::Held(new)) => {
                let transaction = plan::captured(hold, capture);
                self.posting_answered(std::slice::from_ref(&transaction), &Answer::Posted(vec![*new]));
                self.captured.insert(hold.id, transaction.id);
                "captured"
            }
            (Operation::Capture(hold, capture), Answer::Conflict(_)) => {
                self.conflicts.push(plan::captured(hold, capture));
                "captured otherwise"
            }
            (Operation::Void(hold), Answer::Held(_)) => {
                self.voided.insert(*hold);
                "voided"
            }
            (Operation::Expire, Answer::Expired(_)) => "expired",
            (Operation::Place(_), Answer::Limit(_, available, change, limit)) => {
                assert!(*change < 0 && available + change < -limit, "{available} {change} {limit}");
                "lack of funds to hold"
            }
            (Operation::Capture(..) | Operation::Void(_), Answer::Other(_)) => "holds refused",
            _ => panic!("an answer to something else"),
        };
        *self.answers.entry(what).or_default() += 1;
    }

    fn posting_answered(&mut self, chain: &[Transaction], answer: &Answer) -> &'static str {
        match answer {
            Answer::Posted(news) => {
                assert_eq!(chain.len(), news.len());
                for (transaction, new) in chain.iter().zip(news) {
                    let known = self.posted.entry(transaction.id).or_insert_with(|| transaction.clone());
                    assert_eq!(known, transaction, "two bodies are posted under one id");
                    let times = self.news.entry(transaction.id).or_default();
                    *times += u32::from(*new);
                    assert!(*times < 2, "transaction {} was new twice", transaction.id);
                }
                if news.contains(&true) { "posted" } else { "repeated" }
            }
            Answer::Conflict(id) => {
                self.conflicts.extend(chain.iter().find(|t| t.id.to_string() == *id).cloned());
                "conflicts"
            }
            Answer::Limit(account, available, change, limit) => {
                assert!(*change < 0 && available + change < -limit, "{available} {change} {limit}");
                if chain.len() == 1 {
                    self.poor.push((account.clone(), *available));
                }
                "lack of funds"
            }
            Answer::Other(_) => "reversals refused",
            Answer::Held(_) | Answer::Expired(_) => panic!("an answer to something else"),
        }
    }

    pub fn told(&self) -> String {
        format!("chains: {:?}; undone {}, connections lost {}", self.answers, self.undone, self.lost)
    }

    /// The ledger has exactly what was answered.
    pub async fn compare(self, database: &Database) {
        let kinds =
            ["posted", "repeated", "conflicts", "lack of funds", "reversals refused", "placed", "captured", "voided"];
        for what in kinds {
            assert!(self.answers.contains_key(what), "the run has {what}: {:?}", self.answers);
        }
        assert!(self.lost > 0, "connections were lost");
        assert_eq!(self.undone, 0, "the order of locks leaves no room for deadlocks");
        let app = database.app().await;
        let found = transactions(&app).await;
        let ids = |map: &HashMap<TransactionId, _>| map.keys().copied().collect::<BTreeSet<_>>();
        assert_eq!(found.keys().copied().collect::<BTreeSet<_>>(), ids(&self.posted), "answered, and there");
        for (id, transaction) in &self.posted {
            assert_eq!(&found[id], transaction);
        }
        for other in &self.conflicts {
            assert!(self.posted.get(&other.id).is_some_and(|posted| posted != other), "a conflict with {other:?}");
        }

        let mut nets: BTreeMap<String, i128> = BTreeMap::new();
        let mut reversed: HashMap<(TransactionId, String, String), i128> = HashMap::new();
        for transaction in self.posted.values() {
            for Transfer { debit, credit, amount } in &transaction.transfers {
                *nets.entry(debit.name.clone()).or_default() += amount.nanos();
                *nets.entry(credit.name.clone()).or_default() -= amount.nanos();
                let pair = |id| (id, debit.name.clone(), credit.name.clone());
                *reversed.entry(pair(transaction.id)).or_default() += amount.nanos();
                if let Some(original) = transaction.reverses {
                    let pair = (original, credit.name.clone(), debit.name.clone());
                    *reversed.entry(pair).or_default() -= amount.nanos();
                }
            }
        }
        assert!(reversed.values().all(|left| *left >= 0), "nothing is reversed for more than it was");
        let known = balances(&app, "", AsOf::Now).await.unwrap();
        let known: BTreeMap<String, i128> =
            known.into_iter().map(|b| (b.account.spec.name, b.net.nanos())).filter(|(_, net)| *net != 0).collect();
        nets.retain(|_, net| *net != 0);
        assert_eq!(known, nets);

        // The wallets whose limits never change: at every transaction's end there was as much as had to be, and what a
        // refusal said was available was so at some time.
        for (wallet, limit) in [(0, 0), (1, 500)] {
            let name = plan::wallet_name(wallet);
            let steps = running_balances(&app, &name).await;
            assert!(steps.iter().all(|net| *net >= -limit), "{name} was overdrawn: {steps:?}");
            for (_, available) in self.poor.iter().filter(|(account, _)| *account == name) {
                assert!(steps.contains(available), "{name} never had {available}: {steps:?}");
            }
        }
        self.compare_holds(&app).await;
        assert_eq!(verify(&app).await.unwrap(), []);
    }

    /// Each hold that was placed is there, resolved as was answered, and sets aside what it should.
    async fn compare_holds(&self, app: &Client) {
        let mut pending: BTreeMap<String, (i128, i128)> = BTreeMap::new();
        let known = holds(app, None, false, u32::MAX).await.unwrap();
        let there: BTreeSet<HoldId> = known.iter().map(|hold| hold.id).collect();
        assert!(self.placed.keys().all(|id| there.contains(id)), "placed, and there");
        for hold in known {
            assert!(self.placed.contains_key(&hold.id) || self.late.contains(&hold.id), "nobody placed {}", hold.id);
            let captured = self.captured.get(&hold.id).copied();
            let voided = self.voided.contains(&hold.id);
            match hold.resolution {
                Some(Resolution::Posted { transaction, amount, .. }) => {
                    assert_eq!((Some(transaction), voided), (captured, false));
                    assert_eq!(amount, self.posted[&transaction].transfers[0].amount);
                    assert!(amount <= hold.amount);
                }
                Some(Resolution::Voided { .. }) => assert_eq!((captured, voided), (None, true)),
                Some(Resolution::Expired { at }) => {
                    assert_eq!((captured, voided), (None, false));
                    assert!(at >= hold.expires_at);
                }
                None => {
                    assert_eq!((captured, voided), (None, false));
                    pending.entry(hold.debit).or_default().0 += hold.amount.nanos();
                    pending.entry(hold.credit).or_default().1 += hold.amount.nanos();
                }
            }
        }
        for account in funds(app, "").await.unwrap() {
            let found = (account.pending_debits.nanos(), account.pending_credits.nanos());
            assert_eq!(found, pending.remove(&account.account.spec.name).unwrap_or_default(), "{account:?}");
        }
    }
}

pub async fn set_limit(owner: &Client, account: &AccountSpec, limit: &str) {
    let sql = format!(
        "select ledger.set_limit((select id from ledger.account where name = '{}'), {limit}, 'the test', 'a model')",
        account.name
    );
    owner.batch_execute(&sql).await.unwrap();
}

/// Everything that is posted, straight from the tables.
async fn transactions(client: &Client) -> HashMap<TransactionId, Transaction> {
    let rows = client
        .query(
            "select t.transaction, t.kind, t.effective_at, t.description, t.corrects, t.reverses, t.metadata,
                    d.name, c.name, t.amount, t.line
             from ledger.transfer t
             join ledger.account d on d.id = t.debit_account join ledger.account c on c.id = t.credit_account
             order by t.transaction, t.line",
            &[],
        )
        .await
        .unwrap();
    let mut found: HashMap<TransactionId, Transaction> = HashMap::new();
    for row in rows {
        let id = TransactionId(row.get(0));
        let transaction = found.entry(id).or_insert_with(|| Transaction {
            id,
            kind: row.get(1),
            effective_at: row.get(2),
            description: row.get(3),
            corrects: row.get::<_, Option<_>>(4).map(TransactionId),
            reverses: row.get::<_, Option<_>>(5).map(TransactionId),
            metadata: row.get(6),
            transfers: Vec::new(),
        });
        // Every account of the run is named like this, by its party.
        let spec = |column: usize| {
            let name: &str = row.get(column);
            let spec = account(name.split(':').nth(1).unwrap());
            assert_eq!(spec.name, name);
            spec
        };
        transaction.transfers.push(Transfer { debit: spec(7), credit: spec(8), amount: row.get(9) });
        assert_eq!(row.get::<_, i32>(10) as usize, transaction.transfers.len(), "no line is missing or twice");
    }
    found
}

/// What was on an account after each transaction, from its beginning on, in 1e-9.
pub async fn running_balances(client: &Client, name: &str) -> Vec<i128> {
    let rows = client
        .query(
            "select distinct on (e.transaction) e.number, e.balance
             from ledger.account a cross join lateral ledger.entries(a.id, '-infinity', 'infinity') e
             where a.name = $1 order by e.transaction, e.number desc",
            &[&name],
        )
        .await
        .unwrap();
    let mut steps: Vec<(i64, i128)> = rows.iter().map(|row| (row.get(0), row.get::<_, Amount>(1).nanos())).collect();
    steps.sort();
    steps.into_iter().map(|(_, net)| net).collect()
}
