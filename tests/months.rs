//! Months of the ledger that leave the database: written to Parquet, proved, detached, and still proved; and the stream goes on behind them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::path::Path;
use std::process::Command;

use chrono::{Datelike, NaiveDate, Utc};
use common::system::System;
use hydrometer_cli::connection::APP_ROLE;
use serde_json::json;

const HOUR: i64 = 3_600;
/// 2026-03-01T00:00:00Z
const MARCH: i64 = 1_772_323_200;

/// All that was posted so far was posted in the month before this one.
async fn turn_back(system: &System) -> NaiveDate {
    let month = Utc::now().date_naive().with_day(1).unwrap().pred_opt().unwrap().with_day(1).unwrap();
    let sql = include_str!("../ledger/tests/common/turn_back.sql")
        .replace("{month}", &month.to_string())
        .replace("{partition}", &month.format("_%Y_%m").to_string())
        .replace("{app_role}", APP_ROLE);
    system.deployment.owner().await.client_ref().batch_execute(&sql).await.unwrap();
    month
}

/// What another program says of a Parquet file, or does with it.
fn python(code: &str, file: &Path) -> String {
    let python = std::env::var("HYDROMETER_TEST_PYTHON").expect("./test sets HYDROMETER_TEST_PYTHON");
    let output = Command::new(python).args(["-c", code]).arg(file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_leaves_and_the_stream_goes_on() {
    let mut system = System::new("months").await;
    let effective = hydrometer_schemas::time::show_second(MARCH - 60);
    system.signed(
        MARCH - 60,
        json!({
            "contract": "c", "effective": effective, "renter": "hooli", "currency": "USD",
            "charges": {"gpu_hours": {"basis": "allocated", "price": "3.60"}},
            "suppliers": [{"supplier": "*", "share_percent": "80"}],
        }),
    );
    let end = MARCH + 3 * HOUR;
    system.leased("a", "sup", "c", MARCH, end);
    system.busy("a", MARCH, end);
    system.until(end + HOUR);
    system.run().await;
    let month = turn_back(&system).await;
    let name = month.format("%Y-%m").to_string();
    let file = system.deployment.path("month.parquet");
    let (path, owner) = (file.to_str().unwrap().to_owned(), system.deployment.owner_url.clone());
    system.answers(&["verify"], 0, &["Every law holds"]);
    let detach = ["ledger", "month", "detach", &name, &path, "--owner", &owner];
    system.answers(&detach, 3, &["cannot read", "month.parquet"]);
    system.answers(&["ledger", "month", "write", "2026-3x", &path], 2, &["is no month"]);
    system.answers(&["ledger", "month", "write", &name, &path], 0, &["transfers of", "sha256"]);
    system.answers(&["ledger", "month", "write", &name, &path], 3, &["month.parquet"]);
    // It cannot be proved by a chain that does not reach it.
    system.answers(&detach, 1, &["no such set that is chained", "Nothing was detached"]);
    let anchor = system.deployment.path("anchor.json");
    system.answers(&["ledger", "anchor", anchor.to_str().unwrap()], 0, &["anchor 1"]);
    system.answers(&["ledger", "month", "verify", &name, &path], 0, &["as it was chained, and nothing else"]);
    system.answers(&["ledger", "month", "list"], 0, &[&name, "in the database"]);

    let balances = system.answers(&["ledger", "trial-balance"], 0, &[]);
    let transfers = {
        let db = system.deployment.database().await;
        let sql = "SELECT count(*)::text || ' ' || sum(amount)::text FROM ledger.transfer";
        db.client_ref().query_one(sql, &[]).await.unwrap().get::<_, String>(0)
    };
    let duckdb =
        "import duckdb, sys; print(*duckdb.sql(f\"select count(*), sum(amount) from '{sys.argv[1]}'\").fetchall()[0])";
    assert_eq!(python(duckdb, &file), transfers, "another reader finds the same in the file");

    system.answers(&detach, 0, &["is detached"]);
    system.answers(&["ledger", "month", "list"], 0, &[&name, "in the file", "month.parquet"]);
    system.answers(&detach, 1, &["there is no month"]);
    assert_eq!(system.answers(&["ledger", "trial-balance"], 0, &[]), balances, "balances stay");
    system.answers(&["ledger", "month", "verify", &name, &path], 0, &["as it was chained"]);
    system.answers(
        &["verify", "--anchor", anchor.to_str().unwrap()],
        0,
        &["Every law holds", "sums that reach into detached months"],
    );

    // What is learned late corrects a posting that is in the file only.
    let outage = json!({"outage": "o", "server": "a", "fault": "supplier"});
    system.says_late("gpu.outage.opened", MARCH + 600, end + 2 * HOUR, outage);
    system.says_late("gpu.outage.closed", MARCH + 1_200, end + 2 * HOUR, json!({ "outage": "o" }));
    system.until(end + 3 * HOUR);
    system.run().await;
    let corrected = {
        let db = system.deployment.database().await;
        let sql = "SELECT t.corrects::text FROM ledger.transaction AS t JOIN ledger.transaction_id AS i ON i.id = t.corrects \
                   WHERE t.kind = 'correction' AND t.posting <> i.posting";
        db.client_ref().query(sql, &[]).await.unwrap().iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>()
    };
    assert!(!corrected.is_empty());
    let ids = "import duckdb, sys; print(*[r[0] for r in duckdb.sql(f\"select distinct transaction from '{sys.argv[1]}'\").fetchall()])";
    let ids = python(ids, &file);
    assert!(corrected.iter().all(|id| ids.contains(id)), "{corrected:?} in {ids}");
    let (status, text) = system.hydrometer(&["verify"]);
    assert_eq!(status, Some(0), "{text}");

    // A file that was changed is found, whether its reader notices or not.
    let forged = system.deployment.path("forged.parquet");
    std::fs::copy(&file, &forged).unwrap();
    let forge = "import sys, decimal, pyarrow as pa, pyarrow.parquet as pq, pyarrow.compute as pc\nt = pq.read_table(sys.argv[1])\n\
                 a = t['amount'].to_pylist(); a[0] += decimal.Decimal('0.000000001')\n\
                 t = t.set_column(t.schema.get_field_index('amount'), t.schema.field('amount'), pa.array(a, t.schema.field('amount').type))\n\
                 pq.write_table(t, sys.argv[1])";
    python(forge, &forged);
    let forged = forged.to_str().unwrap();
    system.answers(&["ledger", "month", "verify", &name, forged], 1, &["recorded was", "it is not what was chained"]);
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&file, bytes).unwrap();
    system.answers(&["ledger", "month", "verify", &name, &path], 1, &["recorded was"]);
}
