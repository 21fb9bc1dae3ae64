//! Holds: set aside at once, resolved once, whatever races.
#![allow(clippy::unwrap_used)]

mod common;

use chrono::{DateTime, TimeDelta, Utc};
use common::{Database, account, post, transaction, transfer};
use hydrometer_ledger::{
    Amount, AsOf, Capture, Hold, LedgerError, Outcome, RefusalReason, Shortfall, balances, capture_hold, expire_holds,
    place_hold, set_limit, verify, void_hold,
};
use tokio_postgres::Client;

fn hold(key: &str, nanos: i128, expires_at: DateTime<Utc>) -> Hold {
    Hold {
        id: transaction(key, vec![]).id,
        transfer: transfer("shop", "w", nanos),
        effective_at: "2025-06-01T12:00:00Z".parse().unwrap(),
        expires_at,
        description: "a reservation".to_owned(),
        metadata: serde_json::json!({ "key": key }),
    }
}

fn capture(hold: &Hold, nanos: i128) -> Capture {
    Capture {
        hold: hold.id,
        amount: Amount::from_nanos(nanos),
        kind: "usage".to_owned(),
        effective_at: hold.effective_at,
        description: "what was used".to_owned(),
        metadata: serde_json::json!({}),
    }
}

/// In a transaction that is committed.
macro_rules! commit {
    ($client:expr, |$tx:ident| $call:expr) => {{
        let $tx = $client.transaction().await.unwrap();
        let result = $call.await;
        $tx.commit().await.unwrap();
        result
    }};
}

async fn wallet(client: &mut Client, nanos: i128) {
    commit!(client, |tx| set_limit(&tx, &account("w"), Some(Amount::ZERO), "ann", "a wallet")).unwrap();
    post(client, &[transaction("in", vec![transfer("w", "bank", nanos)])]).await.unwrap();
}

fn reason(result: Result<Outcome, LedgerError>) -> RefusalReason {
    match result.unwrap_err() {
        LedgerError::Refused(refusal) | LedgerError::Conflict(refusal) => refusal.reason,
        error => panic!("{error}"),
    }
}

async fn state(client: &Client) -> (i128, String) {
    let net = balances(client, &account("w").name, AsOf::Now).await.unwrap()[0].net.nanos();
    let sql = "select (pending_credits * 1e9)::bigint || '/' || (select count(*) from ledger.open_hold) from ledger.account_balance
               where account = (select id from ledger.account where name = $1)";
    (net, client.query_one(sql, &[&account("w").name]).await.unwrap().get(0))
}

#[tokio::test]
async fn a_hold_is_placed_captured_voided_or_expired() {
    let database = Database::create().await;
    let mut app = database.app().await;
    wallet(&mut app, 100).await;
    let later = Utc::now() + TimeDelta::hours(1);
    let later = DateTime::from_timestamp_micros(later.timestamp_micros()).unwrap();
    let (a, b, c) = (hold("a", 60, later), hold("b", 40, later), hold("c", 1, later));
    assert_eq!(commit!(app, |tx| place_hold(&tx, &a)).unwrap(), Outcome::Posted);
    assert_eq!(commit!(app, |tx| place_hold(&tx, &a)).unwrap(), Outcome::Repeated);
    assert_eq!(commit!(app, |tx| place_hold(&tx, &b)).unwrap(), Outcome::Posted);
    let refused = RefusalReason::Limit(Box::new(Shortfall {
        account: account("w").name,
        available: Amount::ZERO,
        change: Amount::from_nanos(-1),
        credit_limit: Amount::ZERO,
    }));
    assert_eq!(reason(commit!(app, |tx| place_hold(&tx, &c))), refused);
    let spend = [transaction("spend", vec![transfer("shop", "w", 1)])];
    assert!(matches!(post(&mut app, &spend).await, Err(LedgerError::Refused(_))), "what is held is not available");
    let mut other = a.clone();
    other.transfer.amount = Amount::from_nanos(61);
    assert_eq!(reason(commit!(app, |tx| place_hold(&tx, &other))), RefusalReason::Conflict);
    assert_eq!(state(&app).await, (100, "100/2".to_owned()));

    // In part; the rest is free, and it is captured once.
    assert_eq!(reason(commit!(app, |tx| capture_hold(&tx, &capture(&a, 61)))), RefusalReason::Hold);
    assert_eq!(commit!(app, |tx| capture_hold(&tx, &capture(&a, 25))).unwrap(), Outcome::Posted);
    assert_eq!(commit!(app, |tx| capture_hold(&tx, &capture(&a, 25))).unwrap(), Outcome::Repeated);
    assert_eq!(reason(commit!(app, |tx| capture_hold(&tx, &capture(&a, 26)))), RefusalReason::Conflict);
    assert_eq!(reason(commit!(app, |tx| void_hold(&tx, a.id))), RefusalReason::Hold);
    assert_eq!(state(&app).await, (75, "40/1".to_owned()));

    assert_eq!(commit!(app, |tx| void_hold(&tx, b.id)).unwrap(), Outcome::Posted);
    assert_eq!(commit!(app, |tx| void_hold(&tx, b.id)).unwrap(), Outcome::Repeated);
    assert_eq!(reason(commit!(app, |tx| capture_hold(&tx, &capture(&b, 1)))), RefusalReason::Hold);
    assert_eq!(reason(commit!(app, |tx| capture_hold(&tx, &capture(&c, 1)))), RefusalReason::Hold);
    assert_eq!(state(&app).await, (75, "0/0".to_owned()));

    // Expired by the database's clock, swept or not.
    let soon =
        DateTime::from_timestamp_micros((Utc::now() + TimeDelta::milliseconds(1500)).timestamp_micros()).unwrap();
    let d = hold("d", 75, soon);
    assert_eq!(commit!(app, |tx| place_hold(&tx, &d)).unwrap(), Outcome::Posted);
    assert_eq!(expire_holds(&app, 10).await.unwrap(), 0);
    app.batch_execute(&format!(
        "select pg_sleep(greatest(0, extract(epoch from '{soon}'::timestamptz - clock_timestamp())) + 0.01)"
    ))
    .await
    .unwrap();
    assert_eq!(reason(commit!(app, |tx| capture_hold(&tx, &capture(&d, 1)))), RefusalReason::Hold);
    assert_eq!(reason(commit!(app, |tx| void_hold(&tx, d.id))), RefusalReason::Hold);
    assert_eq!(state(&app).await, (75, "75/1".to_owned()));
    assert_eq!(expire_holds(&app, 10).await.unwrap(), 1);
    assert_eq!(expire_holds(&app, 10).await.unwrap(), 0);
    assert_eq!(state(&app).await, (75, "0/0".to_owned()));
    let event = app.query_one("select type, data->>'hold' from ledger.outbox", &[]).await.unwrap();
    assert_eq!((event.get(0), event.get(1)), ("hold.expired", d.id.to_string().as_str()));
    // Whoever lost the answer asks again when all is over; a new one that ends in the past is refused.
    assert_eq!(commit!(app, |tx| place_hold(&tx, &d)).unwrap(), Outcome::Repeated);
    let past = hold("e", 1, soon);
    let error = commit!(app, |tx| place_hold(&tx, &past)).unwrap_err().to_string();
    assert!(error.contains("cannot be placed"), "{error}");
    assert_eq!(verify(&app).await.unwrap(), []);
    drop(app);
    database.drop().await;
}

/// Captures, voids and the sweeper on the same holds: each has one resolution, and nothing stays set aside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_resolves_once_whatever_races() {
    let database = Database::create().await;
    let mut app = database.app().await;
    wallet(&mut app, 1_000).await;
    let mut random = common::Random::seeded();
    let mut holds = Vec::new();
    for n in 0..30 {
        let expires = Utc::now() + TimeDelta::milliseconds(800 + 60 * n);
        let hold = hold(&format!("h{n}"), 10, DateTime::from_timestamp_micros(expires.timestamp_micros()).unwrap());
        commit!(app, |tx| place_hold(&tx, &hold)).unwrap();
        holds.push(hold);
    }
    let mut tasks = Vec::new();
    for _ in 0..6 {
        let (mut app, holds) = (database.app().await, holds.clone());
        let choices: Vec<(usize, u64)> = (0..80).map(|_| (random.below(30) as usize, random.below(3))).collect();
        tasks.push(tokio::spawn(async move {
            let (mut captured, mut voided, mut expired) = (0, 0, 0);
            for (n, choice) in choices {
                let hold = &holds[n];
                match choice {
                    0 => {
                        captured += i32::from(
                            commit!(app, |tx| capture_hold(&tx, &capture(hold, 4))).ok() == Some(Outcome::Posted),
                        )
                    }
                    1 => voided += i32::from(commit!(app, |tx| void_hold(&tx, hold.id)).ok() == Some(Outcome::Posted)),
                    _ => expired += expire_holds(&app, 3).await.unwrap(),
                }
            }
            [captured, voided, expired]
        }));
    }
    let mut sums = [0; 3];
    for task in tasks {
        sums.iter_mut().zip(task.await.unwrap()).for_each(|(sum, own)| *sum += own);
    }
    app.batch_execute(&format!(
        "select pg_sleep(greatest(0, extract(epoch from '{}'::timestamptz - clock_timestamp())) + 0.01)",
        holds[29].expires_at
    ))
    .await
    .unwrap();
    sums[2] += expire_holds(&app, 100).await.unwrap();
    let rows = app
        .query("select outcome, count(*)::int from ledger.hold_resolution group by outcome order by outcome", &[])
        .await
        .unwrap();
    let found: i32 = rows.iter().map(|row| row.get::<_, i32>(1)).sum();
    assert_eq!((sums.iter().sum::<i32>(), found), (30, 30), "{sums:?}");
    assert_eq!(state(&app).await, (1_000 - 4 * i128::from(sums[0]), "0/0".to_owned()));
    assert_eq!(verify(&app).await.unwrap(), []);
    drop(app);
    database.drop().await;
}
