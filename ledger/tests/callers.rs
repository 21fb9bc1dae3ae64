//! Group commit: many callers, each with its own answer.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;

use common::{Database, account, transaction, transfer};
use hydrometer_ledger::{
    Amount, AsOf, LedgerError, Outcome, Poster, PosterOptions, RefusalReason, Transaction, balances, funds, set_limit,
    verify,
};
use tokio_postgres::NoTls;

fn one(key: &str, debit: &str, credit: &str, nanos: i128) -> Vec<Transaction> {
    vec![transaction(key, vec![transfer(debit, credit, nanos)])]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_request_spoils_no_other() {
    let database = Database::create().await;
    let mut app = database.app().await;
    let tx = app.transaction().await.unwrap();
    set_limit(&tx, &account("w"), Some(Amount::ZERO), "ann", "a wallet").await.unwrap();
    tx.commit().await.unwrap();
    let poster = Poster::start(database.app_config(), NoTls, PosterOptions::default());
    poster.post(one("taken", "x", "y", 1)).await.unwrap();

    // Refused for each reason, unsound in itself, twice at once, and good ones between.
    let mut wrong_type = one("type", "x", "y", 1);
    wrong_type[0].transfers[0].debit.kind = hydrometer_ledger::AccountType::Equity;
    let mut orphan = one("orphan", "x", "y", 1);
    orphan[0].corrects = Some(transaction("nothing", vec![]).id);
    let huge = Amount::MAX_POSTABLE.nanos();
    let mut requests = vec![
        one("limit", "shop", "w", 5),
        one("taken", "x", "y", 2),
        wrong_type,
        orphan,
        one("zero", "x", "y", 0),
        vec![transaction("overflow", vec![transfer("x", "y", huge), transfer("x", "y", huge)])],
    ];
    for n in 0..50 {
        requests.push(one(&format!("good{n}"), "x", "y", 1));
        requests.push(one(&format!("good{n}"), "x", "y", 1));
    }
    let mut tasks = Vec::new();
    for request in requests {
        let poster = poster.clone();
        tasks.push(tokio::spawn(async move { poster.post(request).await }));
    }
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.unwrap());
    }
    let good = answers.split_off(6);
    let kinds: Vec<&str> = answers
        .iter()
        .map(|answer| match answer.as_ref().unwrap_err() {
            LedgerError::Refused(refusal) if matches!(refusal.reason, RefusalReason::Limit { .. }) => "limit",
            LedgerError::Refused(refusal) if refusal.reason == RefusalReason::Missing => "missing",
            LedgerError::Conflict(_) => "conflict",
            LedgerError::Invalid { .. } => "invalid",
            LedgerError::Rejected { .. } => "rejected",
            error => panic!("{error}"),
        })
        .collect();
    assert_eq!(kinds, ["limit", "conflict", "rejected", "missing", "invalid", "rejected"]);
    let posted = good.iter().filter(|answer| answer.as_ref().unwrap()[..] == [Outcome::Posted]).count();
    assert_eq!(posted, 50, "each of them once, and its twin is told so");
    let found = funds(&app, &account("x").name).await.unwrap();
    assert_eq!(found[0].debits, Amount::from_nanos(51));
    assert_eq!(verify(&app).await.unwrap(), []);
    drop((app, poster));
    database.drop().await;
}

/// 64 clients on one wallet, through two posters: what is spent in all is what there was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_clients_never_overspend() {
    let database = Database::create().await;
    let mut app = database.app().await;
    let tx = app.transaction().await.unwrap();
    set_limit(&tx, &account("w"), Some(Amount::from_nanos(50)), "ann", "credit").await.unwrap();
    hydrometer_ledger::post(&tx, &one("in", "w", "bank", 1_000)).await.unwrap();
    tx.commit().await.unwrap();
    let posters = [(); 2].map(|()| Poster::start(database.app_config(), NoTls, PosterOptions::default()));
    let mut random = common::Random::seeded();
    let mut tasks = Vec::new();
    for client in 0..64 {
        let poster = posters[client % 2].clone();
        let amounts: Vec<i128> = (0..20).map(|_| 1 + i128::from(random.below(9))).collect();
        tasks.push(tokio::spawn(async move {
            let mut spent = 0;
            for (n, amount) in amounts.into_iter().enumerate() {
                match poster.post(one(&format!("{client}/{n}"), &format!("shop{}", client % 7), "w", amount)).await {
                    Ok(_) => spent += amount,
                    Err(LedgerError::Refused(refusal)) => match refusal.reason {
                        RefusalReason::Limit(ref shortfall) => {
                            let after = shortfall.available.checked_add(shortfall.change).unwrap().nanos();
                            assert!(after < -shortfall.credit_limit.nanos(), "refused for a reason: {refusal}");
                        }
                        ref reason => panic!("{reason:?}"),
                    },
                    Err(error) => panic!("{error}"),
                }
            }
            spent
        }));
    }
    let mut spent = 0;
    for task in tasks {
        spent += task.await.unwrap();
    }
    // What is left is less than the smallest amount that was refused at the end: at most 8.
    assert!((1_042..=1_050).contains(&spent), "{spent}");
    let left = balances(&app, &account("w").name, AsOf::Now).await.unwrap()[0].net;
    assert_eq!(left, Amount::from_nanos(1_000 - spent));
    assert_eq!(verify(&app).await.unwrap(), []);
    drop((app, posters));
    database.drop().await;
}

/// Connections are cut again and again in the midst of it. Every request is answered, and posted once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_loses_and_doubles_nothing() {
    let database = Database::create().await;
    let (app, admin) = (database.app().await, database.admin().await);
    let poster = Poster::start(database.app_config(), NoTls, PosterOptions::default());
    let mut tasks = Vec::new();
    for client in 0..16 {
        let poster = poster.clone();
        tasks.push(tokio::spawn(async move {
            for n in 0..200 {
                poster
                    .post(one(&format!("{client}/{n}"), &format!("a{}", client % 3), &format!("b{}", n % 5), 1))
                    .await
                    .unwrap();
            }
        }));
    }
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity where datname = $1 and state = 'active' and pid <> pg_backend_pid()";
    let mut random = common::Random::seeded();
    let mut cuts = 0;
    while !tasks.iter().all(tokio::task::JoinHandle::is_finished) {
        cuts += admin.query(cut, &[&database.name]).await.unwrap().len();
        // Long enough for something to succeed between two cuts, also on a busy machine.
        tokio::time::sleep(std::time::Duration::from_millis(50 + random.below(300))).await;
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(cuts > 0, "the test cut no connection");
    let sums: BTreeMap<String, Amount> =
        funds(&app, "").await.unwrap().into_iter().map(|f| (f.account.spec.name, f.debits)).collect();
    assert_eq!(Amount::checked_sum(sums.into_values()), Some(Amount::from_nanos(16 * 200)));
    assert_eq!(verify(&app).await.unwrap(), []);
    drop((app, admin, poster));
    database.drop().await;
}

/// Sets that lock the same accounts, stated in opposite orders, never wait for each other in a circle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reversed_sets_do_not_deadlock() {
    let database = Database::create().await;
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    let mut tasks = Vec::new();
    for task in 0..4 {
        let mut app = database.app().await;
        tasks.push(tokio::spawn(async move {
            for round in 0..150 {
                let mut set: Vec<Transaction> = (0..12)
                    .flat_map(|n| one(&format!("{task}/{round}/{n}"), &n.to_string(), &((n + 1) % 12).to_string(), 1))
                    .collect();
                if task % 2 == 0 {
                    set.reverse();
                }
                common::post(&mut app, &set).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let app = database.app().await;
    assert_eq!(app.query_one(deadlocks, &[]).await.unwrap().get::<_, i64>(0), 0);
    drop(app);
    database.drop().await;
}

/// A deadlock of the caller's own making is told as one, never as a refusal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadlock_is_not_a_lack_of_funds() {
    let database = Database::create().await;
    let (mut first, mut second) = (database.app().await, database.app().await);
    common::post(&mut first, &[transaction("open", vec![transfer("x", "y", 1), transfer("p", "q", 1)])]).await.unwrap();
    let (a, b) = (first.transaction().await.unwrap(), second.transaction().await.unwrap());
    hydrometer_ledger::post(&a, &one("a1", "x", "y", 1)).await.unwrap();
    hydrometer_ledger::post(&b, &one("b1", "p", "q", 1)).await.unwrap();
    let (crossed_a, crossed_b) = (one("a2", "p", "q", 1), one("b2", "x", "y", 1));
    let (left, right) = tokio::join!(hydrometer_ledger::post(&a, &crossed_a), async {
        let result = hydrometer_ledger::post(&b, &crossed_b).await;
        if result.is_err() {
            b.rollback().await.unwrap();
        }
        result
    });
    let error = left.err().or(right.err()).unwrap();
    assert!(matches!(&error, LedgerError::Database { .. }) && error.is_transient(), "{error}");
    assert!(error.to_string().contains("deadlock"), "{error}");
    // The server rolls back what is still open.
    database.drop().await;
}
