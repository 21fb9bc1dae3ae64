//! Readers of the outbox against transactions that are still open.

use hydrometer_ledger::outbox::{self, Message, Place};
use hydrometer_pipeline::store::Database;

use crate::common::Deployment;
use crate::common::scripted::*;

fn insert(subject: &str) -> String {
    format!(
        "BEGIN; INSERT INTO ledger.outbox (id, type, subject, time, data) \
         VALUES (gen_random_uuid(), 'posting.correction', '{subject}', now(), '{{}}')"
    )
}

/// "Readers of append-only tables advance by transaction id below pg_snapshot_xmin, never by sequence number: a sequence number may
/// commit late."
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_waits_for_the_oldest_open_transaction_and_misses_nothing() {
    let deployment = Deployment::new("race_outbox").await;
    let db = deployment.database().await;
    let subjects = |page: &[Message]| page.iter().map(|m| m.subject.clone()).collect::<Vec<_>>();
    let (older, younger, third) =
        (Hand::new(&deployment).await, Hand::new(&deployment).await, Hand::new(&deployment).await);
    older.execute(&insert("older")).await;
    younger.execute(&insert("younger")).await;
    younger.release().await;

    // Whoever reads what is there and goes on after the last of it never sees what commits late.
    let naive = async |after: i64| {
        third
            .texts(&format!("SELECT xid::text FROM ledger.outbox WHERE xid > '{after}'::xid8 ORDER BY xid"))
            .await
            .into_iter()
            .map(|xid| xid.parse::<i64>().unwrap())
            .collect::<Vec<_>>()
    };
    let seen = naive(0).await;
    assert_eq!(seen.len(), 1, "the younger one, which committed first");

    let page = outbox::next(db.client_ref(), &Place::BEGINNING, 10).await.unwrap();
    assert_eq!(subjects(&page), [""; 0], "an older transaction is open, so nothing is certain yet");

    older.release().await;
    assert_eq!(naive(seen[0]).await, [0; 0], "the naive reader has missed the older one for good");
    let page = read(&db, &Place::BEGINNING, 10, 2).await;
    assert_eq!(subjects(&page), ["older", "younger"]);
    let after = page[1].place();

    // By time within a transaction; a page may end there, and the next one goes on.
    third.execute(&insert("b")).await;
    third.execute(&insert("a").replace("BEGIN; ", "").replace("now()", "now() - interval '1 second'")).await;
    third.release().await;
    older.execute(&insert("c")).await;
    older.release().await;
    assert_eq!(subjects(&read(&db, &after, 10, 3).await), ["a", "b", "c"]);
    let page = read(&db, &after, 1, 1).await;
    assert_eq!(subjects(&page), ["a"]);
    let page = read(&db, &page[0].place(), 2, 2).await;
    assert_eq!(subjects(&page), ["b", "c"]);
    assert_eq!(subjects(&read(&db, &page[1].place(), 1, 0).await), [""; 0]);
}

/// A page with at least so many messages. Transactions of other databases of the cluster count as open too, so it may take a moment.
async fn read(db: &Database, after: &Place, most: i64, least: usize) -> Vec<Message> {
    let mut page = Vec::new();
    until("the outbox can be read", async || {
        page = outbox::next(db.client_ref(), after, most).await.unwrap();
        page.len() >= least
    })
    .await;
    page
}
