//! Posting alone: the ledger's set-based posting beside plain SQL inserts of the same rows, on a private PostgreSQL with fsync on.
#![allow(clippy::unwrap_used)]

#[path = "figures.rs"]
mod figures;

use criterion::{Criterion, Throughput};
use hydrometer_ledger::{self as ledger, AccountSpec, Amount, Transaction, TransactionId, Transfer};
use hydrometer_testkit::services::postgres::{Options, PrivatePostgres};
use tokio_postgres::{Client, NoTls};
use uuid::Uuid;

/// As many transactions as a round of a large fleet posts, of two transfers each.
const SET: usize = 500;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let dir = tempfile::Builder::new().prefix("hydrometer-bench-").tempdir_in("/var/tmp").unwrap();
    {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    }
    let postgres = PrivatePostgres::open(&dir.path().join("postgres"), Options::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut app = runtime.block_on(async {
        let owner = connect(&postgres.superuser()).await;
        owner.batch_execute("CREATE ROLE app LOGIN").await.unwrap();
        owner.batch_execute(&ledger::migration("app")).await.unwrap();
        let plain = "CREATE TABLE plain_transaction (id uuid PRIMARY KEY, kind text, description text); \
                     CREATE TABLE plain_transfer (transaction uuid, line int, debit text, credit text, amount numeric(38, 9)); \
                     GRANT INSERT ON plain_transaction, plain_transfer TO app";
        owner.batch_execute(plain).await.unwrap();
        connect(&postgres.connection_string("postgres", "app")).await
    });

    let transfers = (SET * 2) as u64;
    let mut number = 0;
    let mut group = criterion.benchmark_group("post");
    group.throughput(Throughput::Elements(transfers)).sample_size(20);
    group.bench_function("ledger", |b| {
        let prepare = || {
            number += 1;
            (0..SET).map(|n| transaction(number, n)).collect::<Vec<_>>()
        };
        figures::measure(b, "posted_transfers_per_s", transfers, prepare, |set| {
            runtime.block_on(async {
                let tx = app.transaction().await.unwrap();
                ledger::post(&tx, &set).await.unwrap();
                tx.commit().await.unwrap();
            });
        });
    });
    group.bench_function("plain inserts", |b| {
        let prepare = || {
            number += 1;
            (0..SET).map(|n| transaction(number, n)).collect::<Vec<_>>()
        };
        figures::measure(b, "plain_inserts_per_s", transfers, prepare, |set| {
            runtime.block_on(async {
                let tx = app.transaction().await.unwrap();
                insert(&tx, &set).await;
                tx.commit().await.unwrap();
            });
        });
    });
    group.finish();
    criterion.final_summary();
    figures::print_last_line();
}

fn transaction(set: u32, number: usize) -> Transaction {
    let unbilled = AccountSpec::renter_unbilled(&format!("renter-{:03}", number % 200), "USD");
    let transfer = |credit, nanos| Transfer { debit: unbilled.clone(), credit, amount: Amount::from_nanos(nanos) };
    Transaction {
        id: TransactionId::derive(&Uuid::nil(), &[&set.to_string(), &number.to_string()]),
        kind: "usage".into(),
        effective_at: chrono::DateTime::UNIX_EPOCH,
        description: format!("gpu_hours of contract {number}"),
        corrects: None,
        metadata: serde_json::json!({ "contract": number, "set": set }),
        transfers: vec![
            transfer(AccountSpec::supplier_payable(&format!("supplier-{}", number % 20), "USD"), 8_000_000_000),
            transfer(AccountSpec::platform_commission("USD"), 2_000_000_000),
        ],
    }
}

/// Two statements for the whole set, without accounts, balances, checks or protection.
async fn insert(tx: &tokio_postgres::Transaction<'_>, set: &[Transaction]) {
    let ids: Vec<Uuid> = set.iter().map(|t| t.id.0).collect();
    let kinds: Vec<&str> = set.iter().map(|t| t.kind.as_str()).collect();
    let descriptions: Vec<&str> = set.iter().map(|t| t.description.as_str()).collect();
    let transactions = "INSERT INTO plain_transaction SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[])";
    tx.execute(transactions, &[&ids, &kinds, &descriptions]).await.unwrap();
    let lines = || set.iter().flat_map(|t| t.transfers.iter().map(move |line| (t.id.0, line)));
    let ids: Vec<Uuid> = lines().map(|(id, _)| id).collect();
    let numbers: Vec<i32> = lines().enumerate().map(|(n, _)| n as i32).collect();
    let debits: Vec<&str> = lines().map(|(_, line)| line.debit.name.as_str()).collect();
    let credits: Vec<&str> = lines().map(|(_, line)| line.credit.name.as_str()).collect();
    let amounts: Vec<String> = lines().map(|(_, line)| line.amount.to_string()).collect();
    let transfers = "INSERT INTO plain_transfer \
                     SELECT i, n, d, c, a::numeric FROM unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::text[]) AS k (i, n, d, c, a)";
    tx.execute(transfers, &[&ids, &numbers, &debits, &credits, &amounts]).await.unwrap();
}

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
