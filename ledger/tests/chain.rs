//! The chain keeps up with those who post, in any number of chainers, and its anchors can be checked elsewhere.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{Database, Random, chain_all, post, transaction, transfer};
use hydrometer_ledger::anchor::{self, Anchor};
use hydrometer_ledger::{LedgerError, chain, verify, verify_with};

/// Writers, chainers, one who makes anchors, and one who verifies all the while.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_in_use_is_sound_at_every_moment() {
    let seed = Random::seeded().0;
    let database = Database::create().await;
    let writing = Arc::new(AtomicBool::new(true));
    let mut writers = Vec::new();
    for writer in 0..3_u64 {
        let mut app = database.app().await;
        writers.push(tokio::spawn(async move {
            let mut random = Random(seed ^ writer);
            for n in 0..60 {
                let set: Vec<_> = (0..=random.below(4))
                    .map(|m| {
                        let lines = (0..=random.below(2))
                            .map(|_| {
                                let debit = random.below(6);
                                let credit = (debit + 1 + random.below(5)) % 6;
                                transfer(
                                    &debit.to_string(),
                                    &credit.to_string(),
                                    1 + i128::from(random.below(1_000_000)),
                                )
                            })
                            .collect();
                        transaction(&format!("{writer} {n} {m}"), lines)
                    })
                    .collect();
                post(&mut app, &set).await.unwrap();
            }
        }));
    }
    let mut chainers = Vec::new();
    for _ in 0..3 {
        let (app, writing) = (database.app().await, writing.clone());
        chainers.push(tokio::spawn(async move {
            while writing.load(Ordering::Relaxed) {
                chain::advance(&app, 7).await.unwrap();
            }
        }));
    }
    let (verifier, still) = (database.app().await, writing.clone());
    let verifying = tokio::spawn(async move {
        let mut rounds = 0;
        let mut kept: Vec<Anchor> = Vec::new();
        while still.load(Ordering::Relaxed) || rounds == 0 {
            kept.push(anchor::export(&verifier).await.unwrap());
            assert_eq!(verify_with(&verifier, &kept, &mut |_| {}).await.unwrap().violations, []);
            rounds += 1;
        }
    });
    for writer in writers {
        writer.await.unwrap();
    }
    writing.store(false, Ordering::Relaxed);
    for chainer in chainers {
        chainer.await.unwrap();
    }
    verifying.await.unwrap();

    let app = database.app().await;
    chain_all(&app).await;
    let row = app
        .query_one(
            "select (select count(*) from ledger.posting), (select count(*) from ledger.link where shard > 0),
                    (select count(distinct shard) from ledger.link)",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1), row.get::<_, i64>(2)), (180, 180, 5));
    let status = anchor::status(&app).await.unwrap();
    assert_eq!((status.unchained, status.unchained_since), (0, None));
    assert_eq!(verify(&app).await.unwrap(), []);
    drop(app);
    database.drop().await;
}

/// What has not been committed has no place in the chain, and neither has what began after it.
#[tokio::test]
async fn the_chain_waits_for_those_who_began_before() {
    let database = Database::create().await;
    let mut first = database.app().await;
    let mut second = database.app().await;
    let chainer = database.app().await;
    let open = first.transaction().await.unwrap();
    hydrometer_ledger::post(&open, &[transaction("slow", vec![transfer("a", "b", 1)])]).await.unwrap();
    post(&mut second, &[transaction("quick", vec![transfer("c", "d", 1)])]).await.unwrap();
    while chain::advance(&chainer, 100).await.unwrap() > 0 {}
    let status = anchor::status(&chainer).await.unwrap();
    assert_eq!((status.unchained, status.last), (1, None));
    assert!(status.unchained_since.is_some());
    open.commit().await.unwrap();
    chain_all(&chainer).await;
    assert_eq!(anchor::status(&chainer).await.unwrap().chained_only, 2);
    assert_eq!(verify(&chainer).await.unwrap(), []);
    drop((first, second, chainer));
    database.drop().await;
}

#[tokio::test]
async fn anchors_travel_as_files() {
    let database = Database::create().await;
    let mut app = database.app().await;
    post(&mut app, &[transaction("one", vec![transfer("a", "b", 5)])]).await.unwrap();
    let first = anchor::export(&app).await.unwrap();
    let text = first.to_json();
    assert_eq!(Anchor::from_json(&text).unwrap(), first);
    assert_eq!((first.number, first.transfers, first.totals.len()), (1, 1, 1));
    assert_eq!(anchor::all(&app).await.unwrap(), std::slice::from_ref(&first));
    let mut status = anchor::status(&app).await.unwrap();
    assert_eq!(status.last, Some((1, first.made_at)));
    let hour = chrono::TimeDelta::hours(1);
    status.at = first.made_at + hour;
    assert!(status.is_due(hour) && !status.is_due(hour + chrono::TimeDelta::microseconds(1)));

    for (from, to) in [
        ("0.000000005", "0.000000006"),
        ("\"number\": 1", "\"number\": 2"),
        ("\"transfers\": 1", "\"transfers\": 3"),
        ("sha256", "sha"),
    ] {
        assert!(text.contains(from), "{from}: {text}");
        let error = Anchor::from_json(&text.replace(from, to)).unwrap_err();
        assert!(matches!(error, LedgerError::Unreadable { .. }), "{error}");
    }
    assert!(Anchor::from_json("no json").unwrap_err().to_string().contains("not JSON"));

    post(&mut app, &[transaction("two", vec![transfer("a", "b", 5)])]).await.unwrap();
    assert_eq!(verify_with(&app, std::slice::from_ref(&first), &mut |_| {}).await.unwrap().violations, []);
    // An anchor of another book.
    let other = Database::create().await;
    let elsewhere = other.app().await;
    let found = verify_with(&elsewhere, &[first], &mut |_| {}).await.unwrap().violations;
    assert!(found.len() == 1 && found[0].detail.contains("of the book"), "{found:?}");
    drop((app, elsewhere));
    database.drop().await;
    other.drop().await;
}

#[tokio::test]
async fn verifying_needs_one_snapshot_and_leaves_the_callers_settings() {
    let database = Database::create().await;
    let mut app = database.app().await;
    post(&mut app, &[transaction("one", vec![transfer("a", "b", 5)])]).await.unwrap();
    app.batch_execute("begin").await.unwrap();
    let error = verify(&app).await.unwrap_err();
    assert!(error.to_string().contains("REPEATABLE READ"), "{error}");
    app.batch_execute("rollback; begin isolation level repeatable read; set local work_mem = '1234kB'").await.unwrap();
    let mut checks = Vec::new();
    assert_eq!(verify_with(&app, &[], &mut |progress| checks.push(progress.check)).await.unwrap().violations, []);
    assert!(checks.contains(&"sets") && checks.contains(&"protection"), "{checks:?}");
    let memory: String = app.query_one("show work_mem", &[]).await.unwrap().get(0);
    assert_eq!(memory, "1234kB");
    app.batch_execute("rollback").await.unwrap();
    drop(app);
    database.drop().await;
}
