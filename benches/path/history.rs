//! What thirty days of a fleet leave in the database: the manifest, the steps and the postings of 720 hours, as many rows as its rounds
//! would have written. Of the files only the manifest's entries are made: a worker neither lists nor reads files of hours that are over.

use std::time::Instant;

use hydrometer_ledger::{self as ledger, AccountSpec, Amount, Transaction, TransactionId, Transfer};
use hydrometer_pipeline::store::Database;
use hydrometer_schemas::time::{SECONDS_PER_HOUR, Second};
use uuid::Uuid;

use crate::fleet::{CONTRACTS, Failure, Fleet, PARTITIONS, RENTERS, SUPPLIERS};

pub const DAYS: i64 = 30;

/// Fills a database of `fleet` whose telemetry topic is `telemetry`.
pub async fn fill(db: &mut Database, fleet: &Fleet, telemetry: &str) -> Result<(), Failure> {
    let began = Instant::now();
    let end = fleet.start.div_euclid(SECONDS_PER_HOUR) * SECONDS_PER_HOUR;
    let start = end - DAYS * 24 * SECONDS_PER_HOUR;
    db.client_ref().batch_execute(&rows(fleet, telemetry, start, end)).await?;
    for hour in (start..end).step_by(SECONDS_PER_HOUR as usize) {
        let set: Vec<Transaction> = (0..CONTRACTS).map(|contract| transaction(contract, hour)).collect();
        let tx = db.client().transaction().await?;
        ledger::post(&tx, &set).await?;
        tx.commit().await?;
    }
    db.client_ref().batch_execute("ANALYZE").await?;
    let row = db
        .client_ref()
        .query_one(
            "SELECT (SELECT count(*) FROM hydrometer.object), (SELECT count(*) FROM hydrometer.rating_step), \
                    (SELECT count(*) FROM ledger.transfer), pg_size_pretty(pg_database_size(current_database()))",
            &[],
        )
        .await?;
    eprintln!(
        "{DAYS} days of history in {:.0} s: {} objects, {} rating steps, {} transfers, {}",
        began.elapsed().as_secs_f64(),
        row.get::<_, i64>(0),
        row.get::<_, i64>(1),
        row.get::<_, i64>(2),
        row.get::<_, String>(3)
    );
    Ok(())
}

/// A commit a minute; of each commit an object of usage per partition; of each hour and partition an object of rated records, two
/// files, and a step for every contract. Everybody is at home.
fn rows(fleet: &Fleet, telemetry: &str, start: Second, end: Second) -> String {
    let minutes = format!("generate_series({start}::bigint, {end} - 60, 60) AS minute");
    let hours = format!("generate_series({start}::bigint, {end} - 3600, 3600) AS hour");
    let partitions = format!("generate_series(0, {PARTITIONS} - 1) AS partition");
    format!(
        "INSERT INTO hydrometer.commit (id, kind, worker, partitions, at) \
         SELECT md5('c' || minute)::uuid, 'live', 'history', '[]', to_timestamp(minute) FROM {minutes}; \
         INSERT INTO hydrometer.object (name, kind, topic, partition, hour_s, from_s, to_s, rows, bytes, sha256, commit_id, retired_at) \
         SELECT 'staging/' || minute || '/usage-' || partition, 'usage', '{telemetry}', partition, minute - minute % 3600, minute, minute + 60, \
                12500, 300000, md5('o' || minute || partition), md5('c' || minute)::uuid, to_timestamp(minute + 3600) \
         FROM {minutes}, {partitions}; \
         INSERT INTO hydrometer.object (name, kind, topic, partition, hour_s, from_s, to_s, rows, bytes, sha256, commit_id, retired_at) \
         SELECT 'staging/' || hour || '/rated-' || partition, 'rated', '{telemetry}', partition, hour, hour, hour + 3600, \
                12500, 300000, md5('r' || hour || partition), md5('c' || hour)::uuid, to_timestamp(hour + 3600) \
         FROM {hours}, {partitions}; \
         INSERT INTO hydrometer.file (name, tbl, topic, partition, hour_s, commit_id, epoch, rows, bytes, sha256, published_at) \
         SELECT t || '/history/' || hour || '-' || partition, t, '{telemetry}', partition, hour, md5('c' || hour)::uuid, 1, 750000, 9000000, \
                md5('f' || t || hour || partition), to_timestamp(hour + 3600) \
         FROM {hours}, {partitions}, unnest(ARRAY['usage', 'rated_usage']) AS t; \
         INSERT INTO hydrometer.file_object (file, object) \
         SELECT CASE kind WHEN 'rated' THEN 'rated_usage' ELSE 'usage' END || '/history/' || hour_s || '-' || partition, name \
         FROM hydrometer.object WHERE topic = '{telemetry}'; \
         INSERT INTO hydrometer.rating_state (contract, renter, currency, charge, period_s, resource, raw, billing_s) \
         SELECT 'contract-' || lpad(contract::text, 4, '0'), 'renter', 'USD', 'past_hours', {start}, '', false, {start} \
         FROM generate_series(0, {CONTRACTS} - 1) AS contract; \
         INSERT INTO hydrometer.rating_step (object, state, version_from_s, rate, segment, supplier, billed_before, billed_after, paid_before, \
                paid_after, renter_before, renter_after, supplier_before, supplier_after, booked_s, transaction) \
         SELECT 'staging/' || hour || '/rated-' || partition, s.id, {start}, md5('rate'), 0, \
                'supplier-' || lpad((contract % {SUPPLIERS})::text, 2, '0'), hour - {start}, hour - {start} + 3600, hour - {start}, hour - {start} + 3600, \
                0, 2, 0, 1.6, {start}, md5('t' || hour || contract)::uuid \
         FROM {hours}, {partitions}, generate_series(0, {CONTRACTS} - 1) AS contract \
         JOIN hydrometer.rating_state AS s ON s.contract = 'contract-' || lpad(contract::text, 4, '0') AND s.charge = 'past_hours'; \
         INSERT INTO hydrometer.home (server, since_s, topic, partition, claimed_by) \
         SELECT 'srv-' || lpad(server::text, 5, '0'), 0, '{telemetry}', server % {PARTITIONS}, 'reading' \
         FROM generate_series(0, {servers} - 1) AS server; \
         UPDATE hydrometer.partition_lease SET frontier_s = {end}, closed_until_s = {end} WHERE topic = '{telemetry}'",
        servers = fleet.servers
    )
}

fn transaction(contract: u32, hour: Second) -> Transaction {
    let unbilled = AccountSpec::renter_unbilled(&format!("renter-{:03}", contract % RENTERS), "USD");
    let transfer = |credit, nanos| Transfer { debit: unbilled.clone(), credit, amount: Amount::from_nanos(nanos) };
    Transaction {
        id: TransactionId::derive(&Uuid::nil(), &[&contract.to_string(), &hour.to_string()]),
        kind: "usage".into(),
        effective_at: chrono::DateTime::from_timestamp(hour, 0).unwrap_or_default(),
        description: format!("gpu_hours of contract {contract}"),
        corrects: None,
        reverses: None,
        metadata: serde_json::json!({ "contract": contract, "hour_s": hour }),
        transfers: vec![
            transfer(
                AccountSpec::supplier_payable(&format!("supplier-{:02}", contract % SUPPLIERS), "USD"),
                160_000_000_000,
            ),
            transfer(AccountSpec::platform_commission("USD"), 40_000_000_000),
        ],
    }
}
