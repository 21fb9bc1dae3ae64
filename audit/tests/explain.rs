//! Every amount can be explained: down to its minutes, its events, its posting and its file.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeSet;

use arrow::array::StringArray;
use common::System;
use hydrometer_audit::cut::{Cut, CutError};
use hydrometer_audit::explain::{Explanation, LeaseExplanation, RecordExplanation, TransactionExplanation, explain};
use hydrometer_audit::sql::sql;
use hydrometer_rating::money::Amount;
use hydrometer_testkit::fleet::Plan;

/// A fleet across an hour's edge, with late and away readings, revisions and quarantine.
fn plan() -> Plan {
    Plan { servers: 6, gpus_per_server: 3, seconds: 4_800, telemetry_partitions: 3, ..Plan::small(5) }
}

async fn system() -> System {
    common::shared(&plan()).await.copy().await
}

async fn texts(cut: &Cut, query: &str) -> Vec<String> {
    let mut texts = Vec::new();
    for batch in sql(cut, query).await.unwrap() {
        let column = batch.column(0).as_any().downcast_ref::<StringArray>().unwrap();
        texts.extend(column.iter().flatten().map(str::to_owned));
    }
    texts
}

async fn record(cut: &Cut, id: &str) -> RecordExplanation {
    match explain(cut, id).await.unwrap_or_else(|e| panic!("{id}: {e}")) {
        Explanation::Record(record) => *record,
        other => panic!("{other:?}"),
    }
}

async fn transaction(cut: &Cut, id: &str) -> TransactionExplanation {
    match explain(cut, id).await.unwrap_or_else(|e| panic!("{id}: {e}")) {
        Explanation::Transaction(transaction) => *transaction,
        other => panic!("{other:?}"),
    }
}

async fn lease(cut: &Cut, what: &str) -> LeaseExplanation {
    match explain(cut, what).await.unwrap_or_else(|e| panic!("{what}: {e}")) {
        Explanation::Lease(lease) => *lease,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_every_kind() {
    let system = system().await;
    let cut = Cut::open(&system.url, &system.warehouse).await.unwrap();
    let mut ids = Vec::new();
    for kind in ["usage", "correction", "adjustment"] {
        ids.extend(
            texts(&cut, &format!("SELECT record FROM rated_usage WHERE kind = '{kind}' ORDER BY record LIMIT 12"))
                .await,
        );
    }
    let sampled = ids.len();
    assert!(sampled > 12);
    // Ids carry what differs from run to run; so after the sample, go on until enough of the plainest kind were seen.
    ids.extend(texts(&cut, "SELECT record FROM rated_usage WHERE kind = 'usage' ORDER BY record OFFSET 12").await);
    let mut drawn = 0;
    for (seen, id) in ids.iter().enumerate() {
        if seen >= sampled && drawn > 3 {
            break;
        }
        let e = record(&cut, id).await;
        assert_eq!(&e.line.record, id);
        assert_eq!(
            e.seconds.leased_s,
            e.seconds.used_s
                + e.seconds.idle_s
                + e.seconds.unknown_s
                + e.seconds.maintenance_s
                + e.seconds.down_s
                + e.seconds.suspended_s
        );
        assert!(e.revisions.iter().any(|r| &r.record == id));
        assert!(e.committed.is_some() && e.stored.iter().any(|s| s.published && s.file.is_some()));
        assert!(e.line.lease.is_none() || e.events.iter().any(|event| event.kind == "gpu.lease.started"));
        assert!(e.events.iter().any(|event| event.kind == "gpu.contract.signed"));
        let computation = e.computation.as_ref().expect("how it was computed");
        match &computation.step {
            Some(step) => {
                assert!(computation.records_of_step > 0 || e.line.kind == "adjustment");
                assert!(e.booked.as_ref().is_none_or(|b| b.transaction == step.transaction));
            }
            // Corrections may cancel each other out within a cell; what is said live does not.
            None => assert!(e.line.kind == "correction" || (e.line.billed_s, e.line.paid_s) == (0, 0), "{id}"),
        }
        for minute in &e.minutes {
            assert_eq!(minute.drawn.len(), 60);
            assert_eq!(minute.drawn.matches('#').count(), minute.busy_s as usize);
            assert_eq!(minute.origins.is_empty(), minute.present == 0 && minute.busy == 0);
        }
        // Where nothing but readings decides, the minutes are the quantities: all revisions together.
        let undisturbed = e.window.down_s == 0
            && e.window.maintenance_s == 0
            && e.window.suspended_s == 0
            && !e.events.iter().any(|e| e.kind.starts_with("gpu.outage"));
        let terms: BTreeSet<_> = e.revisions.iter().map(|r| (&r.price, &r.gpu)).collect();
        // A later revision may have taken seconds of this record away again, when its lease turned out to end before.
        let own = e.minutes.iter().map(|m| m.drawn.chars().filter(|c| *c != '_').count() as i64).sum::<i64>();
        let whole = own == e.window.leased_s;
        if undisturbed && whole && terms.len() == 1 && e.line.gpu.is_some() {
            assert_eq!(e.minutes.iter().map(|m| i64::from(m.busy_s)).sum::<i64>(), e.window.used_s, "{id}");
            assert_eq!(
                e.minutes.iter().map(|m| i64::from(m.present_s)).sum::<i64>(),
                e.window.used_s + e.window.idle_s,
                "{id}"
            );
            drawn += 1;
        }
        let explanation = Explanation::Record(Box::new(e));
        let text = explanation.text();
        for part in [id.as_str(), "GPU-hours", "lifecycle events", "commit", "revisions"] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
        assert_eq!(explanation.json()["record"], id.as_str());
    }
    assert!(drawn > 3, "{drawn} records whose minutes are all there is to them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_book_their_records() {
    let system = system().await;
    let cut = Cut::open(&system.url, &system.warehouse).await.unwrap();
    let ids = texts(&cut, "SELECT id FROM ledger_transaction ORDER BY corrects, id LIMIT 15").await;
    assert!(!ids.is_empty());
    for id in &ids {
        let e = transaction(&cut, id).await;
        let mut renter = Amount::ZERO;
        for transfer in &e.booking.transfers {
            let amount = Amount::parse(&transfer.amount).unwrap();
            renter = if transfer.debit.contains(":unbilled:") {
                renter.checked_add(amount).unwrap()
            } else {
                renter.checked_sub(amount).unwrap()
            };
        }
        assert_eq!(e.totals.renter_amount, renter.to_string(), "{id}");
        assert!(!e.records.is_empty() && !e.commits.is_empty() && e.records.len() <= e.totals.records);
        assert!(Explanation::Transaction(Box::new(e)).text().contains(id.as_str()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_and_what_is_not_there() {
    let system = system().await;
    let cut = Cut::open(&system.url, &system.warehouse).await.unwrap();
    let name = texts(&cut, "SELECT DISTINCT lease FROM rated_usage WHERE lease IS NOT NULL ORDER BY lease LIMIT 1")
        .await
        .remove(0);
    let all = lease(&cut, &format!("lease:{name}")).await;
    let terms = all.terms.as_ref().expect("its terms");
    assert!(all.totals.records > 0);
    let then = lease(&cut, &format!("lease:{name}@{}", terms.from)).await;
    assert!(then.totals.records > 0 && then.totals.records <= all.totals.records);
    assert!(Explanation::Lease(Box::new(all)).text().contains("next: hydrometer explain"));
    for nothing in ["0000000000000000", "00000000-0000-0000-0000-000000000000", "lease:nobody"] {
        assert!(matches!(explain(&cut, nothing).await, Err(CutError::Unknown { .. })), "{nothing}");
    }
    assert!(matches!(explain(&cut, "what?").await, Err(CutError::Refused { .. })));
}
