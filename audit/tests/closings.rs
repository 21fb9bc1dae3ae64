//! A closed billing period: what fell due in it is proven, shown and explained, and whatever is changed of it is named.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use arrow::array::{Decimal128Array, StringArray};
use common::{Filled, System};
use hydrometer_audit::cut::Cut;
use hydrometer_audit::explain::{Explanation, explain};
use hydrometer_audit::sql::sql;
use hydrometer_audit::verify::{Report, verify};
use hydrometer_pipeline::apply::{apply, history, preview};
use hydrometer_pipeline::closing::{Closed, close_period, period_at};
use hydrometer_pipeline::store::Database;
use hydrometer_pipeline::store::lifecycle::Command;
use hydrometer_schemas::contract::Contract;
use hydrometer_testkit::fleet::Plan;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// A fleet in which one contract has a fee a period, signed again in the past, revised, and its period closed.
async fn shared() -> &'static Filled {
    static FILLED: OnceCell<Filled> = OnceCell::const_new();
    FILLED.get_or_init(closed).await
}

async fn closed() -> Filled {
    let filled = common::fill(&Plan::small(3)).await;
    let warehouse = filled.warehouse();
    let mut db = Database::connect(&filled.url()).await.unwrap();
    let row = db
        .client_ref()
        .query_one(
            "SELECT e.body->'data'->'document' FROM hydrometer.event AS e \
             WHERE e.body->>'type' = 'gpu.contract.signed' AND e.verdict IS NULL AND EXISTS ( \
                 SELECT FROM hydrometer.rating_state AS s JOIN hydrometer.rating_cell AS c ON c.state = s.id \
                 WHERE s.contract = e.body->'data'->'document'->>'contract' AND c.billed > 0) ORDER BY e.id LIMIT 1",
            &[],
        )
        .await
        .unwrap();
    let mut document: Value = row.get(0);
    document["charges"]["platform"] =
        json!({ "basis": "recurring", "price": "100.00", "per": "contract", "proration": "none" });
    let document: Contract = serde_json::from_value(document).unwrap();
    let contract = document.contract.clone();
    let preview = preview(&mut db, &warehouse, &[document]).await.unwrap();
    assert!(preview.refused.is_empty(), "{:?}", preview.refused);
    let command = Command { name: "contract apply", who: "a test".into(), why: "a fee was forgotten".into() };
    assert!(apply(&mut db, preview, command).await.unwrap());
    // Revises what the new version touches.
    filled.run(None).await;

    let history = history(db.client_ref(), None).await.unwrap();
    let signed = history.versions(&contract)[0].span.from;
    let period = period_at(&history, &contract, signed).unwrap();
    let accept = Some("the logs end before the period does");
    match close_period(&mut db, &warehouse, &contract, period, "a test", accept).await.unwrap() {
        Closed::Now(steps) => assert_eq!(steps.len(), 1, "{steps:?}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        close_period(&mut db, &warehouse, &contract, period, "a test", accept).await.unwrap(),
        Closed::Before
    ));
    filled
}

async fn system() -> System {
    shared().await.copy().await
}

fn show(report: &Report) -> String {
    let violations = report.checks.iter().flat_map(|check| check.violations.iter().map(move |v| (check.name, v)));
    violations.map(|(check, v)| format!("{check}: {v:?}\n")).collect()
}

/// The proof must say no, and this check of it must name this row.
async fn names(system: &System, check: &str, row: &str) {
    let report = verify(&system.url, &system.warehouse, &[], &mut |_| ()).await.unwrap();
    let check = report.checks.iter().find(|c| c.name == check).expect(check);
    let named = check.violations.iter().any(|v| v.subject.contains(row));
    assert!(named, "{row} is not named by {}:\n{}", check.name, show(&report));
}

async fn texts(cut: &Cut, query: &str) -> Vec<String> {
    let batches = sql(cut, query).await.unwrap_or_else(|e| panic!("{query}: {e}"));
    let column = |batch: &arrow::array::RecordBatch| {
        let column = batch.column(0).as_any().downcast_ref::<StringArray>().unwrap();
        column.iter().flatten().map(str::to_owned).collect::<Vec<_>>()
    };
    batches.iter().flat_map(column).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_holds_and_is_explained() {
    let system = system().await;
    let report = verify(&system.url, &system.warehouse, &[], &mut |_| ()).await.unwrap();
    assert!(report.holds(), "{}", show(&report));
    let counted = |check: &str, what: &str| {
        let check = report.checks.iter().find(|c| c.name == check).unwrap();
        check.checked.iter().find(|count| count.0 == what).map_or(0, |count| count.1)
    };
    assert_eq!((counted("dues", "records"), counted("dues", "closed billing periods")), (1, 1));
    assert_eq!((counted("closings", "closings"), counted("postings", "transactions of what fell due")), (1, 1));

    let cut = Cut::open(&system.url, &system.warehouse).await.unwrap();
    let records = texts(&cut, "SELECT record FROM rated_usage WHERE kind = 'fee'").await;
    let [id] = &records[..] else { panic!("{records:?}") };
    let explanation = explain(&cut, id).await.unwrap();
    let text = explanation.text();
    assert!(text.contains("why:") && text.contains("the logs end before the period does"), "{text}");
    let Explanation::Record(record) = explanation else { panic!("a record") };
    let due = record.due.expect("what fell due");
    assert_eq!((due.kind, due.renter_amount_after.as_str(), due.steps.len()), ("fee", "100.000000000", 1));
    // A fee follows from the contract and its leases: its charge has no rating state.
    assert!(due.published && due.states.is_empty() && !due.leases.is_empty());
    assert_eq!(record.booked.expect("its transaction").transaction, due.transaction);
    let transaction = explain(&cut, &due.transaction).await.unwrap();
    let Explanation::Transaction(transaction) = transaction else { panic!("a transaction") };
    assert_eq!((transaction.totals.records, &transaction.records[0].record), (1, id));
    assert_eq!(transaction.totals.renter_amount, "100.000000000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_published_yet_is_there() {
    let system = system().await;
    let sum = async |system: &System| {
        let cut = Cut::open(&system.url, &system.warehouse).await.unwrap();
        let batches = sql(&cut, "SELECT renter_amount FROM dues").await.unwrap();
        let amounts = batches[0].column(0).as_any().downcast_ref::<Decimal128Array>().unwrap();
        amounts.iter().flatten().sum::<i128>()
    };
    assert_eq!(sum(&system).await, 100_000_000_000);
    system.execute("UPDATE hydrometer.file SET published_at = NULL WHERE topic = 'hydrometer.closing'").await;
    assert_eq!(sum(&system).await, 100_000_000_000);
    let cut = Cut::open(&system.url, &system.warehouse).await.unwrap();
    assert!(!texts(&cut, "SELECT lease FROM uptime WHERE uptime_percent <= 100").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_changed_of_it_is_named() {
    let system = self::system().await;
    let contract = system.text("UPDATE hydrometer.due SET renter_amount = renter_amount + 1 RETURNING contract").await;
    names(&system, "dues", &format!("fee of contract {contract}")).await;

    let system = self::system().await;
    let transaction = system.text("DELETE FROM hydrometer.due_step RETURNING transaction::text").await;
    names(&system, "dues", &format!("fee of contract {contract}")).await;
    names(&system, "postings", &transaction).await;

    // Removed from everything: it is worked out again.
    let system = self::system().await;
    system.execute("DELETE FROM hydrometer.due_step; DELETE FROM hydrometer.due").await;
    names(&system, "dues", &format!("fee of contract {contract}")).await;

    let system = self::system().await;
    system.execute("DELETE FROM hydrometer.closing").await;
    names(&system, "closings", &format!("contract {contract}")).await;

    let system = self::system().await;
    system.execute("UPDATE hydrometer.closing SET commit_id = gen_random_uuid()").await;
    names(&system, "written", &format!("closing of contract {contract}")).await;

    let system = self::system().await;
    let lease = system.text(
        "UPDATE hydrometer.lease_use SET down_s = down_s + 1 WHERE ctid = (SELECT min(ctid) FROM hydrometer.lease_use) RETURNING lease",
    ).await;
    names(&system, "lease_use", &format!("lease {lease}")).await;

    let system = self::system().await;
    system.execute(
        "INSERT INTO hydrometer.fatal_xid SELECT server, 'GPU-nobody', 0, 79, (SELECT min(id::text)::uuid FROM hydrometer.commit) \
         FROM hydrometer.home LIMIT 1",
    ).await;
    names(&system, "xids", "GPU-nobody").await;

    // Booked in a period after it was closed.
    let system = self::system().await;
    let commit = system.text(
        "WITH k AS (SELECT o.commit_id FROM hydrometer.rating_step AS s JOIN hydrometer.rating_state AS r ON r.id = s.state \
                    JOIN hydrometer.object AS o ON o.name = s.object JOIN hydrometer.closing AS c ON c.contract = r.contract LIMIT 1) \
         UPDATE hydrometer.commit AS c SET at = clock_timestamp() FROM k WHERE c.id = k.commit_id RETURNING c.id::text",
    ).await;
    names(&system, "closings", &commit).await;
}
