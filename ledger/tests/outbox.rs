//! The outbox is read without missing an event, in an order that never changes, by one reader at a time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::time::Duration;

use common::{Database, NAMESPACE, refused};
use hydrometer_ledger::outbox::{Claim, Event, Hold, Place, advance, claim, insert, next};
use hydrometer_ledger::{LedgerError, migration, verify};
use serde_json::json;
use tokio_postgres::Client;
use uuid::Uuid;

const LONG: Duration = Duration::from_secs(600);

fn event(name: &str) -> Event {
    Event {
        id: Uuid::new_v5(&NAMESPACE, name.as_bytes()),
        kind: "wallet.low".to_owned(),
        subject: "wallet:acme".to_owned(),
        time: "2026-03-01T10:00:00.123456Z".parse().unwrap(),
        data: json!({ "name": name, "balance": "123456789012345678901234567890.123456789" }),
    }
}

async fn names(client: &Client, after: &Place, most: i64) -> Vec<String> {
    let name =
        |data: &str| serde_json::from_str::<serde_json::Value>(data).unwrap()["name"].as_str().unwrap().to_owned();
    next(client, after, most).await.unwrap().iter().map(|message| name(message.data.get())).collect()
}

/// Transactions of other databases of the server hold readers back as well, so it may take a moment.
async fn until_readable(client: &Client, after: &Place, count: usize) {
    for _ in 0..600 {
        if next(client, after, 1_000).await.unwrap().len() == count {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{count} events cannot be read");
}

async fn held(client: &Client, when: Claim) -> Option<Hold> {
    claim(client, "topic", "me", LONG, when).await.unwrap()
}

#[tokio::test]
async fn events_are_written_once_with_what_they_tell() {
    let database = Database::create().await;
    let mut app = database.app().await;
    let tx = app.transaction().await.unwrap();
    insert(&tx, &[event("lost")]).await.unwrap();
    tx.rollback().await.unwrap();
    insert(&app, &[event("b"), event("a")]).await.unwrap();
    insert(&app, &[event("a"), event("c")]).await.unwrap();
    insert(&app, &[]).await.unwrap();
    until_readable(&app, &Place::BEGINNING, 3).await;

    let read = next(&app, &Place::BEGINNING, 10).await.unwrap();
    let mut wanted: Vec<Uuid> = ["a", "b"].map(|name| event(name).id).into();
    wanted.sort();
    wanted.push(event("c").id);
    assert_eq!(read.iter().map(|m| m.id).collect::<Vec<_>>(), wanted, "by transaction, then by id");
    assert!(read.is_sorted_by_key(|m| m.place()));
    let last = read.last().unwrap();
    let written = event("c");
    assert_eq!((&last.kind, &last.subject, last.time), (&written.kind, &written.subject, written.time));
    assert_eq!(last.data.get(), r#"{"name": "c", "balance": "123456789012345678901234567890.123456789"}"#);
    assert_eq!(names(&app, &read[0].place(), 1).await.len(), 1, "a page may end within a transaction");

    let exact = r#"{"n": 123456789012345678901234567890.123456789}"#;
    app.batch_execute(&format!(
        "insert into ledger.outbox (id, type, subject, time, data) values (gen_random_uuid(), 'k', 's', now(), '{exact}')"
    ))
    .await
    .unwrap();
    until_readable(&app, &last.place(), 1).await;
    assert_eq!(next(&app, &last.place(), 1).await.unwrap()[0].data.get(), exact, "no digit is lost on the way");

    for (kind, subject) in [("", "s"), ("k", "")] {
        let wrong = Event { kind: kind.to_owned(), subject: subject.to_owned(), ..event("wrong") };
        let error = insert(&app, &[wrong]).await.unwrap_err();
        assert!(matches!(&error, LedgerError::Invalid { .. }), "{error}");
    }
    drop(app);
    database.drop().await;
}

#[tokio::test]
async fn nothing_changes_it() {
    let database = Database::create().await;
    let (app, owner) = (database.app().await, database.owner().await);
    insert(&app, &[event("a")]).await.unwrap();
    held(&app, Claim::AtOnce).await.unwrap();
    for sql in [
        "update ledger.outbox set subject = 'other'",
        "delete from ledger.outbox",
        "truncate ledger.outbox",
        "insert into ledger.outbox values (gen_random_uuid(), '3', 'k', 's', now(), '{}')",
        "update ledger.outbox_reader set after_xid = 0",
        "delete from ledger.outbox_reader",
        "insert into ledger.outbox_reader (name) values ('mine')",
    ] {
        let text = refused(&app, sql).await;
        assert!(text.contains("permission denied"), "{sql}: {text}");
    }
    for sql in ["update ledger.outbox set subject = 'other'", "delete from ledger.outbox", "truncate ledger.outbox"] {
        let text = refused(&owner, sql).await;
        assert!(text.contains("is immutable"), "{sql}: {text}");
    }
    owner.batch_execute(&migration(&database.app_role())).await.unwrap();
    assert_eq!(verify(&app).await.unwrap(), []);
    owner.batch_execute("alter table ledger.outbox disable trigger immutable").await.unwrap();
    assert_eq!(verify(&app).await.unwrap()[0].subject, "trigger immutable on ledger.outbox");
    drop((app, owner));
    database.drop().await;
}

#[tokio::test]
async fn one_reads_at_a_time_and_goes_on_where_the_other_was() {
    let database = Database::create().await;
    let app = database.app().await;
    insert(&app, &[event("a")]).await.unwrap();
    insert(&app, &[event("b")]).await.unwrap();
    until_readable(&app, &Place::BEGINNING, 2).await;
    let read = next(&app, &Place::BEGINNING, 10).await.unwrap();
    let (first, second) = (read[0].place(), read[1].place());

    let mut old = held(&app, Claim::WhenFree).await.unwrap();
    assert_eq!(old.place, Place::BEGINNING);
    assert!(held(&app, Claim::WhenFree).await.is_none(), "it is held");
    assert!(advance(&app, &mut old, second, LONG).await.unwrap());
    assert!(!advance(&app, &mut old, first, LONG).await.unwrap(), "never back");
    assert!(advance(&app, &mut old, second, LONG).await.unwrap(), "a repeat after a lost reply");
    assert_eq!(old.place, second);

    let mut new = held(&app, Claim::AtOnce).await.unwrap();
    assert_eq!((new.place, new.epoch), (second, old.epoch + 1));
    assert!(!advance(&app, &mut old, second, LONG).await.unwrap(), "the older one is fenced");
    assert!(advance(&app, &mut new, second, Duration::ZERO).await.unwrap());
    let third = held(&app, Claim::WhenFree).await.expect("it was let go");
    assert_eq!((third.place, third.epoch), (second, new.epoch + 1));

    // Another name has a position of its own; one that is not renewed is free after its time.
    let other = claim(&app, "other", "me", Duration::from_millis(1), Claim::WhenFree).await.unwrap().unwrap();
    assert_eq!(other.place, Place::BEGINNING);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(claim(&app, "other", "me", LONG, Claim::WhenFree).await.unwrap().is_some());
    drop(app);
    database.drop().await;
}

/// Sixteen claim at once, again and again: each epoch is given to one of them, and of those that are free to be taken, one gets it.
#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_has_one_owner() {
    let database = Database::create().await;
    let mut epochs = Vec::new();
    for when in [Claim::AtOnce, Claim::WhenFree] {
        let mut claims = Vec::new();
        for _ in 0..16 {
            let app = database.app().await;
            claims.push(tokio::spawn(async move {
                claim(&app, &format!("{when:?}"), "me", LONG, when).await.unwrap().map(|hold| hold.epoch)
            }));
        }
        let mut given = Vec::new();
        for claim in claims {
            given.extend(claim.await.unwrap());
        }
        given.sort();
        epochs.push(given);
    }
    assert_eq!(epochs, [(1..=16).collect::<Vec<i64>>(), vec![1]]);
    database.drop().await;
}

#[tokio::test]
async fn a_dump_restored_into_another_server_is_not_read_in_silence() {
    let database = Database::create().await;
    let (app, owner) = (database.app().await, database.owner().await);
    owner
        .batch_execute("insert into ledger.outbox values (gen_random_uuid(), '99999999999', 'k', 's', now(), '{}')")
        .await
        .unwrap();
    let error = claim(&app, "topic", "me", LONG, Claim::WhenFree).await.unwrap_err().to_string();
    assert!(error.contains("has not had yet") && error.contains("pg_resetwal"), "{error}");
    drop((app, owner));
    database.drop().await;
}
