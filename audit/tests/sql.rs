//! SQL over a cut: every row once and every sum right, whatever is published at that moment.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;
#[path = "sql/live.rs"]
mod live;

use std::collections::BTreeMap;

use arrow::array::{Array, Decimal128Array, Int64Array, RecordBatch};
use arrow::util::pretty::pretty_format_batches;
use common::System;
use hydrometer_audit::cut::Cut;
use hydrometer_audit::sql::sql;
use hydrometer_ledger::{self as ledger, AsOf};
use hydrometer_testkit::fleet::Plan;

/// A fleet across an hour's edge, with late and away readings, revisions and quarantine.
fn plan() -> Plan {
    Plan { servers: 6, gpus_per_server: 3, seconds: 4_800, telemetry_partitions: 3, ..Plan::small(5) }
}

async fn system() -> System {
    common::shared(&plan()).await.copy().await
}

async fn cut(system: &System) -> Cut {
    Cut::open(&system.url, &system.warehouse).await.unwrap()
}

async fn ask(cut: &Cut, query: &str) -> Vec<RecordBatch> {
    sql(cut, query).await.unwrap_or_else(|e| panic!("{query}: {e}"))
}

async fn shown(cut: &Cut, query: &str) -> String {
    pretty_format_batches(&ask(cut, query).await).unwrap().to_string()
}

async fn number(cut: &Cut, query: &str) -> i64 {
    let batches = ask(cut, query).await;
    let column = batches[0].column(0);
    column.as_any().downcast_ref::<Int64Array>().filter(|c| c.is_valid(0)).map_or(0, |c| c.value(0))
}

async fn error(cut: &Cut, query: &str) -> String {
    sql(cut, query).await.expect_err(query).to_string()
}

/// All that the three tables of the warehouse say, row by row; of usage, the bits of every minute.
async fn everything(cut: &Cut) -> [String; 3] {
    [
        shown(
            cut,
            "SELECT server, gpu, minute, sum(present) AS present, sum(busy) AS busy, sum(healthy) AS healthy, \
                    sum(present_s) AS present_s, sum(busy_s) AS busy_s \
             FROM usage GROUP BY server, gpu, minute ORDER BY server, gpu, minute",
        )
        .await,
        shown(
            cut,
            "SELECT record, count(*) AS n, sum(used_s) AS used_s, sum(billed_s) AS billed_s, sum(renter_amount) AS renter, \
                    sum(supplier_amount) AS supplier, sum(commission) AS commission \
             FROM rated_usage GROUP BY record ORDER BY record",
        )
        .await,
        shown(cut, "SELECT topic, \"partition\", \"offset\", reason, raw, count(*) FROM quarantine GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4")
            .await,
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_row_counts_once_whatever_is_published() {
    let system = system().await;
    let published = everything(&cut(&system).await).await;
    for (kind, least) in [("usage", 10), ("late", 1), ("away", 1), ("rated", 5), ("quarantine", 1)] {
        let there = system.text(&format!("SELECT count(*)::text FROM hydrometer.object WHERE kind = '{kind}'")).await;
        assert!(there.parse::<u64>().unwrap() >= least, "{there} objects of kind {kind}: a fleet that says too little");
    }
    assert_ne!(system.text("SELECT count(*)::text FROM hydrometer.file WHERE revision > 0").await, "0");
    for (state, change) in [
        ("published and not yet retired", "UPDATE hydrometer.object SET retired_at = NULL"),
        ("revisions are owed", "UPDATE hydrometer.file SET published_at = NULL WHERE revision > 0"),
        (
            "every second file is owed",
            "UPDATE hydrometer.file SET published_at = CASE WHEN hashtext(name) % 2 = 0 THEN clock_timestamp() END",
        ),
        ("all files are owed", "UPDATE hydrometer.file SET published_at = NULL"),
    ] {
        system.execute(change).await;
        let now = everything(&cut(&system).await).await;
        for (before, now) in published.iter().zip(&now) {
            assert!(before == now, "{state}:\n{before}\n{now}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn views_agree_with_the_ledger_and_the_truth() {
    let filled = common::shared(&plan()).await;
    let system = filled.copy().await;
    let cut = cut(&system).await;
    assert_eq!(
        number(&cut, "SELECT sum(leaked_s) FROM leakage").await,
        filled.outcome.truth.leakage_seconds as i64,
        "leakage"
    );
    let unknown: u64 = filled.outcome.truth.seconds.iter().map(|s| s.unknown).sum();
    assert_eq!(number(&cut, "SELECT sum(unknown_s) FROM unknown_seconds").await, unknown as i64);
    assert_eq!(number(&cut, "SELECT count(*) FROM corrections WHERE renter_amount IS NULL").await, 0);
    let revenue =
        shown(&cut, "SELECT renter, currency, sum(amount) AS amount FROM revenue GROUP BY 1, 2 HAVING sum(amount) <> 0 ORDER BY 1, 2").await;
    assert_eq!(
        revenue,
        shown(&cut, "SELECT renter, currency, amount FROM unbilled WHERE amount <> 0 ORDER BY 1, 2").await
    );
    let margin = shown(
        &cut,
        "SELECT currency, sum(renter_amount) - sum(supplier_amount) AS amount FROM margin GROUP BY 1 ORDER BY 1",
    );
    let commission = shown(&cut, "SELECT currency, sum(commission) AS amount FROM rated_usage GROUP BY 1 ORDER BY 1");
    assert_eq!(margin.await, commission.await);
    let earned =
        shown(&cut, "SELECT supplier, currency, sum(amount) AS amount FROM earnings GROUP BY 1, 2 HAVING sum(amount) <> 0 ORDER BY 1, 2").await;
    let payable = "SELECT replace(a.party, 'supplier:', '') AS supplier, a.currency, b.credits - b.debits AS amount \
                   FROM ledger_account AS a JOIN ledger_balance AS b ON b.account = a.id WHERE a.purpose = 'payable' ORDER BY 1, 2";
    assert_eq!(earned, shown(&cut, payable).await);
    assert_eq!(
        number(
            &cut,
            "SELECT sum(leased_s - used_s - idle_s - unknown_s - maintenance_s - down_s - suspended_s) FROM utilisation"
        )
        .await,
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_and_refusals() {
    let system = system().await;
    let cut = cut(&system).await;
    let tables = shown(&cut, "SHOW TABLES").await;
    for table in cut.tables() {
        assert!(tables.contains(&table.name));
        // Everything that is listed can be asked, by all its columns.
        ask(&cut, &format!("SELECT * FROM {} LIMIT 3", table.name)).await;
        ask(&cut, &format!("DESCRIBE \"{}\"", table.name)).await;
        number(&cut, &format!("SELECT count(*) FROM {}", table.name)).await;
    }
    for name in [
        "ledger_account",
        "ledger_transaction",
        "ledger_transfer",
        "ledger_movement",
        "ledger_balance",
        "event",
        "commit",
        "request",
        "revision",
        "unrated",
        "home",
        "partition_lease",
        "file",
        "object",
        "rating_cell",
        "rating_step",
        "rating_state",
        "lease_use",
        "period",
        "due",
        "due_step",
        "closing",
        "closing_request",
        "command",
        "fatal_xid",
        "dues",
        "uptime",
        "usage",
        "rated_usage",
        "quarantine",
        "revenue",
        "earnings",
        "margin",
        "utilisation",
        "unknown_seconds",
        "leakage",
        "corrections",
        "unbilled",
    ] {
        assert!(cut.has_table(name), "{name}");
    }
    assert!(shown(&cut, "EXPLAIN SELECT * FROM usage WHERE server = 'x'").await.contains("pruning_predicate"));
    assert!(
        ask(&cut, "SELECT server FROM usage WHERE server = 'nobody'").await[0].schema().field(0).name() == "server"
    );
    ask(
        &cut,
        "WITH usage2 AS (SELECT * FROM usage) SELECT count(*) FROM usage2 JOIN home ON home.server = usage2.server",
    )
    .await;
    ask(&cut, "SELECT * FROM generate_series(1, 3)").await;

    assert!(error(&cut, "SELECT * FROM nope").await.contains("there are closing, "));
    assert!(error(&cut, "SELECT * FROM ledger.transfer").await.contains("it is called ledger_transfer"));
    assert!(error(&cut, "SELECT nope FROM usage").await.contains("DESCRIBE"));
    assert!(error(&cut, "DROP TABLE usage").await.contains("DROP is refused"));
    assert!(error(&cut, "SELECT * FROM '/etc/passwd'").await.contains("there is no table"));
}

/// What is asked in many steps is of one moment, however far the world has moved on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_stays_where_it_is() {
    let system = system().await;
    let cut = cut(&system).await;
    let before = shown(&cut, "SELECT * FROM home ORDER BY server").await;
    system.execute("DELETE FROM hydrometer.home").await;
    assert_eq!(before, shown(&cut, "SELECT * FROM home ORDER BY server").await);
    assert!(cut.client().batch_execute("DELETE FROM hydrometer.home").await.is_err(), "a cut cannot write");
}

/// While a worker runs, every cut is consistent in itself: the warehouse's amounts are the ledger's, and no second is counted twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_running_worker_is_seen_at_any_moment() {
    let live = live::start(&plan(), 200).await;
    let (mut seen, mut moments) = (0, BTreeMap::new());
    while !live.worker.is_finished() {
        let cut = Cut::open(&live.url, &live.warehouse).await.unwrap();
        let rated = amounts(&cut, "SELECT currency, sum(renter_amount) FROM rated_usage GROUP BY 1").await;
        let booked = amounts(&cut, "SELECT currency, sum(amount) FROM unbilled GROUP BY 1").await;
        assert_eq!(rated, booked, "cut {seen}");
        let balances = ledger::balances(cut.client(), "renter:", AsOf::Now).await.unwrap();
        assert_eq!(balances.is_empty(), rated.is_empty());
        let twice = "SELECT count(*) FROM (SELECT 1 FROM usage GROUP BY server, gpu, minute HAVING sum(present) <> bit_or(present))";
        assert_eq!(number(&cut, twice).await, 0, "cut {seen}");
        seen += 1;
        *moments.entry(number(&cut, "SELECT count(*) FROM usage").await).or_insert(0) += 1;
    }
    live.worker.join().unwrap();
    assert!(moments.len() > 2, "{seen} cuts saw {} different moments", moments.len());
}

async fn amounts(cut: &Cut, query: &str) -> BTreeMap<String, i128> {
    let mut amounts = BTreeMap::new();
    for batch in ask(cut, query).await {
        let currency = batch.column(0).as_any().downcast_ref::<arrow::array::StringArray>().unwrap();
        let amount = batch.column(1).as_any().downcast_ref::<Decimal128Array>().unwrap();
        amounts.extend((0..batch.num_rows()).map(|i| (currency.value(i).to_owned(), amount.value(i))));
    }
    amounts.retain(|_, amount| *amount != 0);
    amounts
}
