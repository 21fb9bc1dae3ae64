//! The proof says yes to what a worker left behind, and no, by name, to whatever was changed behind its back.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use bytes::Bytes;
use common::System;
use hydrometer_audit::verify::{Report, verify};
use hydrometer_rating::money::Amount;
use hydrometer_schemas::time::SECONDS_PER_MINUTE;
use hydrometer_schemas::warehouse::Table;
use hydrometer_sinks::parquet;
use hydrometer_sinks::rated::{self, RatedRow, RecordKind};
use hydrometer_sinks::usage::{self, UsageRow};
use hydrometer_testkit::fleet::Plan;

/// A fleet across an hour's edge, with late readings, revisions and quarantine.
const SEED: u64 = 3;

async fn system() -> System {
    common::shared(&Plan::small(SEED)).await.copy().await
}

async fn prove(system: &System) -> Report {
    verify(&system.url, &system.warehouse, &[], &mut |_| ()).await.expect("a proof")
}

fn show(report: &Report) -> String {
    let mut text = String::new();
    for check in report.checks.iter().filter(|check| !check.holds()) {
        text += &format!("{}: {} violations\n", check.name, check.violated);
        for v in &check.violations {
            text += &format!("    {}\n        expected {}\n        found    {}\n", v.subject, v.expected, v.found);
        }
    }
    text
}

fn checked(report: &Report, name: &str, what: &str) -> u64 {
    let check = report.checks.iter().find(|check| check.name == name).expect(name);
    check.checked.iter().find(|count| count.0 == what).map_or(0, |count| count.1)
}

/// The proof must say no, and this check of it must name this row.
async fn names(system: &System, check: &str, row: &str) {
    let report = prove(system).await;
    assert!(!report.holds(), "nothing was noticed");
    let check = report.checks.iter().find(|c| c.name == check).expect(check);
    assert!(
        check.violations.iter().any(|v| v.subject.contains(row)),
        "{row} is not named by {}:\n{}",
        check.name,
        show(&report)
    );
}

/// Rewrites a file and covers it up in the manifest.
async fn rewrite(system: &System, name: &str, bytes: Bytes, rows: usize) {
    let staged = system.warehouse.publish(name, bytes).await.unwrap();
    let sql = "UPDATE hydrometer.file SET rows = $2, bytes = $3, sha256 = $4 WHERE name = $1";
    let (rows, bytes) = (rows as i64, staged.bytes as i64);
    assert_eq!(system.admin.execute(sql, &[&name, &rows, &bytes, &staged.sha256]).await.unwrap(), 1);
}

async fn rated_file(system: &System) -> (String, Vec<RatedRow>) {
    let name = system.text("SELECT name FROM hydrometer.file WHERE tbl = 'rated_usage' AND revision = 0 AND rows > 1 ORDER BY rows DESC LIMIT 1").await;
    let bytes = system.warehouse.read(&name).await.unwrap();
    let batches = parquet::decode(&name, bytes).unwrap();
    let rows = batches.iter().flat_map(|batch| rated::from_batch(batch).unwrap()).collect();
    (name, rows)
}

async fn rewrite_rated(system: &System, name: &str, rows: &[RatedRow]) {
    let bytes = parquet::encode(name, Table::Rated.schema(), &rated::to_batch(rows).unwrap(), 1).unwrap();
    rewrite(system, name, bytes, rows.len()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_says_yes_to_fleets() {
    let mut seen = [0; 3];
    for seed in [SEED, 1, 2, 5, 8] {
        let filled = common::fill(&Plan::small(seed)).await;
        let system = filled.copy().await;
        let report = prove(&system).await;
        assert!(report.holds(), "seed {seed}:\n{}", show(&report));
        for check in &report.checks {
            assert!(check.pending.is_empty(), "seed {seed}: {} waits for {:?}", check.name, check.pending);
        }
        let list = |name: &str| report.lists.iter().find(|list| list.name == name).unwrap().total;
        assert_eq!(list("leakage"), filled.outcome.truth.leakage_seconds, "seed {seed}");
        assert_eq!((list("open requests"), list("owed files")), (0, 0), "seed {seed}");
        seen[0] += checked(&report, "corrections", "records");
        seen[1] += checked(&report, "quarantine", "messages");
        seen[2] += checked(&report, "corrections", "transactions");
    }
    assert!(seen.iter().all(|many| *many > 0), "corrections, quarantine and correcting postings: {seen:?}");
}

/// In the middle of its work a system has staged objects, records that are in no file, and requests; all of it is proven as it stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_says_yes_at_any_time() {
    // Records wait for their hour's end only under contracts that rate by the minute, which not every fleet has.
    for seed in SEED..SEED + 8 {
        if proven_at_every_stop(seed).await > 0 {
            return;
        }
    }
    panic!("there was never a record that no file holds yet");
}

/// Proves a system whenever it has stopped, and says how many staged objects of records it had then.
async fn proven_at_every_stop(seed: u64) -> u64 {
    let filled = common::Filled::empty(&Plan { seconds: 4_800, ..Plan::small(seed) }).await;
    let (mut commits, mut staged) = (3, 0);
    loop {
        let summary = filled.run(Some(commits)).await;
        let system = filled.copy().await;
        let report = prove(&system).await;
        assert!(report.holds(), "seed {seed}, after {} more commits:\n{}", summary.commits, show(&report));
        staged += checked(&report, "rated", "staged objects");
        if summary.commits < commits {
            return staged;
        }
        commits += 1;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_staged_object_is_named() {
    let filled = common::Filled::empty(&Plan::small(SEED)).await;
    filled.run(Some(12)).await;
    let system = filled.copy().await;
    let name =
        system.text("SELECT name FROM hydrometer.object WHERE retired_at IS NULL ORDER BY rows DESC LIMIT 1").await;
    std::fs::remove_file(system.path(&name)).unwrap();
    names(&system, "manifest", &name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_amount_is_named() {
    let system = system().await;
    let (name, mut rows) = rated_file(&system).await;
    let row = rows.iter_mut().find(|row| row.renter_amount > Amount::ZERO).unwrap();
    row.renter_amount = Amount::from_scaled(row.renter_amount.scaled() + 1);
    let id = row.record_id();
    rewrite_rated(&system, &name, &rows).await;
    names(&system, "rated", &id).await;
    names(&system, "postings", "renter:").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doubled_record_is_named() {
    let system = system().await;
    let (name, mut rows) = rated_file(&system).await;
    rows.insert(1, rows[0].clone());
    rewrite_rated(&system, &name, &rows).await;
    names(&system, "rated", &rows[0].record_id()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_record_is_named_by_its_lease() {
    let system = system().await;
    let (name, mut rows) = rated_file(&system).await;
    let row = rows.remove(0);
    rewrite_rated(&system, &name, &rows).await;
    let lease = format!("lease {}, slot {}", row.lease.unwrap(), row.slot.unwrap());
    names(&system, "leased", &lease).await;
    names(&system, "evidence", &lease).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_and_a_foreign_file_are_named() {
    let system = system().await;
    let (name, _) = rated_file(&system).await;
    std::fs::remove_file(system.path(&name)).unwrap();
    let beside = system.path(&name).with_file_name("foreign.parquet");
    std::fs::write(beside, b"PAR1").unwrap();
    names(&system, "manifest", &name).await;
    names(&system, "manifest", "foreign.parquet").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_bytes_are_named() {
    let system = system().await;
    let (name, _) = rated_file(&system).await;
    let mut bytes = std::fs::read(system.path(&name)).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 0x10;
    std::fs::write(system.path(&name), bytes).unwrap();
    names(&system, "manifest", &name).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_is_named_by_the_window_that_it_was_evidence_for() {
    let system = system().await;
    let (_, records) = rated_file(&system).await;
    let record = records
        .iter()
        .find(|row| row.kind == RecordKind::Usage && row.quantity.classes.used > 0 && row.quantity.classes.down == 0)
        .unwrap();
    let sql = format!(
        "SELECT name FROM hydrometer.file WHERE tbl = 'usage' AND revision = 0 AND hour_s <= {0} AND hour_s + 3600 > {0} AND partition = {1}",
        record.window.from, record.partition
    );
    let name = system.text(&sql).await;
    let batches = parquet::decode(&name, system.warehouse.read(&name).await.unwrap()).unwrap();
    let mut rows: Vec<UsageRow> = batches.iter().flat_map(|batch| usage::from_batch(batch).unwrap()).collect();
    // Of each minute that the record covers, one second.
    for row in &mut rows {
        let start = row.minute * SECONDS_PER_MINUTE;
        let of_record =
            Some(&*row.gpu) == record.gpu.as_deref() && start >= record.window.from && start < record.window.to;
        if of_record && row.present != 0 {
            let bit = 1 << row.present.trailing_zeros();
            row.present &= !bit;
            row.busy &= !bit;
            row.healthy &= !bit;
        }
    }
    let bytes = parquet::encode(&name, Table::Usage.schema(), &usage::to_batch(rows.iter()).unwrap(), 1).unwrap();
    rewrite(&system, &name, bytes, rows.len()).await;
    names(&system, "evidence", &format!("lease {}", record.lease.as_ref().unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_cell_and_a_deleted_step_are_named() {
    let system = system().await;
    let contract =
        system.text(
            "UPDATE hydrometer.rating_cell AS c SET renter_amount = renter_amount + 0.000000001 FROM hydrometer.rating_state AS s \
             WHERE s.id = c.state AND c.ctid = (SELECT ctid FROM hydrometer.rating_cell WHERE renter_amount > 0 ORDER BY state LIMIT 1) RETURNING s.contract",
        ).await;
    names(&system, "steps", &format!("contract {contract}")).await;

    let system = self::system().await;
    let row = system.admin.query_one(
        "DELETE FROM hydrometer.rating_step AS s USING hydrometer.rating_state AS k WHERE k.id = s.state \
         AND s.ctid = (SELECT ctid FROM hydrometer.rating_step WHERE renter_after <> renter_before ORDER BY state DESC LIMIT 1) \
         RETURNING k.contract, s.transaction::text",
        &[],
    ).await.unwrap();
    let (contract, transaction): (String, String) = (row.get(0), row.get(1));
    names(&system, "steps", &format!("contract {contract}")).await;
    names(&system, "postings", &transaction).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_posting_is_named() {
    let system = system().await;
    let id = system.text("SELECT id::text FROM ledger.transaction WHERE kind = 'usage' ORDER BY 1 LIMIT 1").await;
    system
        .execute(&format!(
            "ALTER TABLE ledger.transfer DISABLE TRIGGER ALL; ALTER TABLE ledger.transaction_id DISABLE TRIGGER ALL; \
             DELETE FROM ledger.transfer WHERE transaction = '{id}'; DELETE FROM ledger.transaction_id WHERE id = '{id}'"
        ))
        .await;
    names(&system, "postings", &id).await;
    names(&system, "ledger", "account").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changed_events_and_verdicts_are_named() {
    let system = system().await;
    let contract = system
        .text(
            "UPDATE hydrometer.event SET body = jsonb_set(body, '{data,document,charges,gpu_hours,price}', '\"9.87\"') \
         WHERE ctid = (SELECT e.ctid FROM hydrometer.event AS e JOIN hydrometer.rating_state AS s \
                       ON s.contract = e.body->'data'->'document'->>'contract' JOIN hydrometer.rating_cell AS c \
                       ON c.state = s.id AND c.version_from_s = e.time_s AND c.billed > 0 \
                       WHERE e.body->>'type' = 'gpu.contract.signed' AND e.verdict IS NULL ORDER BY e.id LIMIT 1) \
         RETURNING body->'data'->'document'->>'contract'",
        )
        .await;
    names(&system, "evidence", &format!("contract {contract}")).await;

    let system = self::system().await;
    let id = system.text(
        "UPDATE hydrometer.event SET verdict = 'because' WHERE ctid = (SELECT ctid FROM hydrometer.event WHERE verdict IS NULL LIMIT 1) \
         RETURNING id",
    ).await;
    names(&system, "history", &id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_position_is_named() {
    let system = system().await;
    system
        .execute("UPDATE hydrometer.partition_lease SET next = next + 1 WHERE role = 'telemetry' AND partition = 0")
        .await;
    names(&system, "commits", "lease of gpu.telemetry/0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_object_is_named() {
    let system = system().await;
    let commit = system.text(
        "UPDATE hydrometer.object SET rows = rows + 1 WHERE name = (SELECT name FROM hydrometer.object WHERE kind = 'rated' LIMIT 1) \
         RETURNING commit_id::text",
    ).await;
    names(&system, "rated", &commit).await;
    let object = system.text(
        "UPDATE hydrometer.object SET commit_id = gen_random_uuid() WHERE name = (SELECT name FROM hydrometer.object WHERE kind = 'usage' \
         LIMIT 1) RETURNING name",
    ).await;
    names(&system, "written", &object).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_moved_home_is_named() {
    let system = system().await;
    let server = system.text(
        "UPDATE hydrometer.home SET partition = partition + 1 WHERE server = (SELECT server FROM hydrometer.home WHERE claimed_by = 'reading' \
         ORDER BY 1 LIMIT 1) RETURNING server",
    ).await;
    names(&system, "homes", &format!("server {server}")).await;
}
