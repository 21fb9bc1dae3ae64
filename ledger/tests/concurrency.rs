//! Many clients at once: no deadlock, nothing lost, nothing twice.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Database, Random, post, transaction, transfer};
use hydrometer_ledger::{Amount, LedgerError, Outcome, Transaction, accounts, funds, transfers, verify};
use tokio::time::{sleep, timeout};

const TASKS: u64 = 8;
const ROUNDS: u64 = 40;
const ACCOUNTS: u64 = 6;
/// How many wait for another here.
const WAITS: &str =
    "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";

/// Few accounts in random order, and a third of the transactions posted by other tasks as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_postings_equal_a_model() {
    let database = Database::create().await;
    let mut random = Random::seeded();
    let mut model: BTreeMap<String, (i128, i128)> = BTreeMap::new();
    let mut shared: Vec<Transaction> = Vec::new();
    let mut work: Vec<Vec<Vec<Transaction>>> = Vec::new();
    let mut offered = 0;
    for task in 0..TASKS {
        let mut rounds = Vec::new();
        for round in 0..ROUNDS {
            let mut set = Vec::new();
            for n in 0..=random.below(4) {
                if !shared.is_empty() && random.below(3) == 0 {
                    set.push(shared[random.below(shared.len() as u64) as usize].clone());
                    continue;
                }
                let lines = (0..=random.below(5)).map(|_| {
                    let debit = random.below(ACCOUNTS);
                    let credit = (debit + 1 + random.below(ACCOUNTS - 1)) % ACCOUNTS;
                    transfer(&debit.to_string(), &credit.to_string(), 1 + i128::from(random.below(u64::MAX)) * 1_000)
                });
                let new = transaction(&format!("{task}/{round}/{n}"), lines.collect());
                for line in &new.transfers {
                    model.entry(line.debit.name.clone()).or_default().0 += line.amount.nanos();
                    model.entry(line.credit.name.clone()).or_default().1 += line.amount.nanos();
                }
                shared.push(new.clone());
                set.push(new);
            }
            offered += set.len();
            rounds.push(set);
        }
        work.push(rounds);
    }

    let mut tasks = Vec::new();
    for rounds in work {
        let mut app = database.app().await;
        tasks.push(tokio::spawn(async move {
            let mut posted = 0;
            for set in rounds {
                // No retry: a deadlock would be an error here.
                let outcomes = post(&mut app, &set).await.unwrap();
                posted += outcomes.into_iter().filter(|outcome| *outcome == Outcome::Posted).count();
            }
            posted
        }));
    }
    let mut posted = 0;
    for task in tasks {
        posted += task.await.unwrap();
    }
    assert_eq!(posted, shared.len(), "each transaction is posted by one task, of {offered} offered");

    let app = database.app().await;
    let found: BTreeMap<String, (i128, i128)> = funds(&app, "")
        .await
        .unwrap()
        .into_iter()
        .map(|b| (b.account.spec.name, (b.debits.nanos(), b.credits.nanos())))
        .collect();
    assert_eq!(found, model);
    assert_eq!(verify(&app).await.unwrap(), []);
    drop(app);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_created_by_many_at_once() {
    let database = Database::create().await;
    let mut random = Random::seeded();
    let mut tasks = Vec::new();
    for task in 0..TASKS {
        let mut app = database.app().await;
        // Each its own order and its own part of forty accounts.
        let lines: Vec<_> = (0..60)
            .map(|_| {
                let debit = random.below(40);
                transfer(&debit.to_string(), &((debit + 1 + random.below(39)) % 40).to_string(), 1)
            })
            .collect();
        tasks.push(tokio::spawn(async move {
            for chunk in 0..6 {
                let set = transaction(&format!("{task}/{chunk}"), lines[chunk * 10..chunk * 10 + 10].to_vec());
                post(&mut app, &[set]).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let app = database.app().await;
    assert!(accounts(&app, "").await.unwrap().len() <= 40);
    assert_eq!(transfers(&app, None, None, 10_000).await.unwrap().len(), TASKS as usize * 60);
    assert_eq!(verify(&app).await.unwrap(), []);
    drop(app);
    database.drop().await;
}

/// Whoever comes second waits for the first to commit, and then gets the answer that is true by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_with_an_id_waits_for_the_first() {
    let database = Database::create().await;
    let (mut first, mut second) = (database.app().await, database.app().await);
    let original = transaction("same", vec![transfer("x", "y", 5)]);
    let mut other = original.clone();
    // Other accounts, so that it is the id that they meet on.
    other.transfers = vec![transfer("p", "q", 5)];

    for (set, commits) in [(original.clone(), true), (other.clone(), true), (other.clone(), false)] {
        let key = format!("{commits}/{}", set.transfers[0].debit.name);
        let same = |mut t: Transaction| {
            t.id = transaction(&key, vec![]).id;
            t
        };
        let tx = first.transaction().await.unwrap();
        hydrometer_ledger::post(&tx, &[same(original.clone())]).await.unwrap();
        let waiting = async { post(&mut second, &[same(set.clone())]).await };
        tokio::pin!(waiting);
        assert!(timeout(Duration::from_millis(200), &mut waiting).await.is_err(), "it waits");
        if commits {
            tx.commit().await.unwrap();
        } else {
            tx.rollback().await.unwrap();
        }
        let outcome = waiting.await;
        match (set == original, commits) {
            (true, _) => assert_eq!(outcome.unwrap(), [Outcome::Repeated]),
            (false, true) => assert!(matches!(outcome, Err(LedgerError::Conflict { .. }))),
            (false, false) => assert_eq!(outcome.unwrap(), [Outcome::Posted]),
        }
    }
    assert_eq!(verify(&second).await.unwrap(), []);
    drop((first, second));
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_posting_that_is_rolled_back_never_was() {
    let database = Database::create().await;
    let mut app = database.app().await;
    let set = [transaction("gone", vec![transfer("x", "y", 5)])];
    let tx = app.transaction().await.unwrap();
    hydrometer_ledger::post(&tx, &set).await.unwrap();
    tx.rollback().await.unwrap();
    assert!(accounts(&app, "").await.unwrap().is_empty());

    // In booking order each account's entries are in the order of their commits, however they raced.
    let mut other = database.app().await;
    let tx = app.transaction().await.unwrap();
    hydrometer_ledger::post(&tx, &set).await.unwrap();
    let late = tokio::spawn(async move {
        post(&mut other, &[transaction("late", vec![transfer("x", "y", 1)])]).await.unwrap();
    });
    sleep(Duration::from_millis(100)).await;
    tx.commit().await.unwrap();
    late.await.unwrap();
    let amounts: Vec<Amount> = transfers(&app, None, None, 9).await.unwrap().into_iter().map(|e| e.amount).collect();
    assert_eq!(amounts, [Amount::from_nanos(1), Amount::from_nanos(5)]);
    drop(app);
    database.drop().await;
}

/// A set writes its transfers before it has its accounts. When another was booked on one of them at a later time, it writes
/// them once more, so that in each account the order of booking times is that of commits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_that_is_overtaken_is_booked_behind() {
    let database = Database::create().await;
    let (mut first, mut second, mut third) = (database.app().await, database.app().await, database.app().await);
    let one = |key: &str, debit: &str, credit: &str| transaction(key, vec![transfer(debit, credit, 1)]);
    // Accounts are locked in the order in which they were opened.
    post(&mut first, &[one("open", "a", "b"), one("open too", "c", "d")]).await.unwrap();

    let tx = first.transaction().await.unwrap();
    hydrometer_ledger::post(&tx, &[one("holds a", "a", "b")]).await.unwrap();
    let set = [one("overtaken", "a", "b"), one("overtaken too", "c", "d")];
    let waiting = tokio::spawn(async move { post(&mut second, &set).await.unwrap() });
    while third.query_one(WAITS, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    post(&mut third, &[one("overtakes", "c", "d")]).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(waiting.await.unwrap(), [Outcome::Posted; 2]);

    for (account, order) in [("a", ["open", "holds a", "overtaken"]), ("c", ["open too", "overtakes", "overtaken too"])]
    {
        let name = transfer(account, "b", 1).debit.name;
        let entries = transfers(&third, Some(&name), None, 9).await.unwrap();
        let ids: Vec<_> = entries.iter().rev().map(|entry| entry.position.transaction).collect();
        assert_eq!(ids, order.map(|key| one(key, "a", "b").id), "account {account}");
        assert!(
            entries.windows(2).all(|pair| pair[0].position.booked_at > pair[1].position.booked_at),
            "account {account}"
        );
    }
    assert_eq!(verify(&third).await.unwrap(), []);
    drop((first, third));
    database.drop().await;
}

/// What a raised limit or a hold that was set free lets through is not booked before it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_booked_before_what_let_it_through() {
    let database = Database::create().await;
    let (mut first, mut second, third) = (database.app().await, database.app().await, database.app().await);
    let one = |key: &str, debit: &str, credit: &str| transaction(key, vec![transfer(debit, credit, 1)]);
    // Accounts are locked in the order in which they were opened; of assets, credits take.
    post(&mut first, &[one("open", "a", "b"), one("open too", "d", "c")]).await.unwrap();
    let name = |account: &str| transfer(account, "other", 1).debit.name;
    let limit = |nanos: i64| {
        let id = format!("(select id from ledger.account where name = '{}')", name("c"));
        format!("select ledger.set_limit({id}, {nanos} * 1e-9, 'test', 'this far')")
    };
    third.batch_execute(&limit(1)).await.unwrap();

    let tx = first.transaction().await.unwrap();
    hydrometer_ledger::post(&tx, &[one("holds a", "a", "b")]).await.unwrap();
    let set = [one("waits", "a", "b"), one("overdraws", "d", "c")];
    let waiting = tokio::spawn(async move { post(&mut second, &set).await });
    while third.query_one(WAITS, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        sleep(Duration::from_millis(5)).await;
    }
    third.batch_execute(&limit(2)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), [Outcome::Posted; 2]);
    let is_later = "select m.booked_at >= (select max(l.set_at) from ledger.account_limit l)
                    from ledger.movement m join ledger.account a on a.id = m.account where a.name = $1 order by m.booked_at desc limit 1";
    assert!(third.query_one(is_later, &[&name("c")]).await.unwrap().get::<_, bool>(0));
    assert_eq!(verify(&third).await.unwrap(), []);
    drop((first, third));
    database.drop().await;
}

/// A month whose partitions nobody made is made by the first set in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_month_is_made() {
    let database = Database::create().await;
    let mut app = database.app().await;
    let owner = database.owner().await;
    let month = chrono::Utc::now().format("%Y_%m");
    for (round, size) in [(0, 1), (1, 3)] {
        owner
            .batch_execute(&format!("drop table ledger.transfer_{month}; drop table ledger.movement_{month}"))
            .await
            .unwrap();
        let set: Vec<Transaction> = (0..size)
            .map(|n| transaction(&format!("{round}/{n}"), vec![transfer(&format!("{round}"), "z", 1)]))
            .collect();
        assert_eq!(post(&mut app, &set).await.unwrap(), vec![Outcome::Posted; size]);
        assert_eq!(transfers(&app, None, None, 9).await.unwrap().len(), size);
    }
    drop((app, owner));
    database.drop().await;
}
