//! Whether a deployment is sound, whatever happened to it: what every race must end in.

use std::collections::{BTreeMap, BTreeSet};

use hydrometer_audit::verify::verify;
use hydrometer_pipeline::publish::rated_rows;
use hydrometer_pipeline::store::manifest::{self, ObjectKind};
use hydrometer_schemas::warehouse::Table;
use hydrometer_sinks::parquet;
use hydrometer_sinks::rated::{self, RatedRow};

use super::Deployment;

/// Every rated record, published or not, with its amounts.
pub async fn rated_records(deployment: &Deployment) -> Vec<RatedRow> {
    let (db, warehouse) = (deployment.database().await, deployment.warehouse());
    let mut rows = Vec::new();
    for (file, published) in manifest::all_files(db.client_ref()).await.unwrap() {
        if published && file.table == Table::Rated {
            let bytes = warehouse.read_checked(&file.name, &file.sha256.unwrap()).await.unwrap();
            for batch in parquet::decode(&file.name, bytes).unwrap() {
                rows.extend(rated::from_batch(&batch).unwrap());
            }
        }
    }
    for object in manifest::unpublished_objects(db.client_ref(), &[ObjectKind::Rated]).await.unwrap() {
        rows.extend(rated_rows(&db, &warehouse, &object).await.unwrap());
    }
    rows
}

/// Nothing is there twice, nothing lies beside what the manifest names, nobody's books are open, every law holds, and nothing is
/// left to be done.
pub async fn assert_sound(deployment: &Deployment, context: &str) {
    let mut records = BTreeSet::new();
    for row in rated_records(deployment).await {
        assert!(records.insert(row.record_id()), "{context}: a record is there twice: {row:?}");
    }

    let db = deployment.database().await;
    let named: BTreeSet<String> =
        manifest::all_files(db.client_ref()).await.unwrap().into_iter().map(|(file, _)| file.name).collect();
    let mut lying = BTreeSet::new();
    for table in Table::ALL {
        lying.extend(deployment.warehouse().list(table.name()).await.unwrap());
    }
    assert_eq!(lying, named, "{context}: the files are those that the manifest names");

    let mut currencies: BTreeMap<String, i128> = BTreeMap::new();
    for (account, net) in deployment.found().await.balances {
        let currency = account.rsplit(':').next().unwrap().to_owned();
        *currencies.entry(currency).or_default() += net;
    }
    assert!(currencies.values().all(|net| *net == 0), "{context}: debits equal credits: {currencies:?}");

    let report = verify(&deployment.app_url, &deployment.warehouse(), &[], &mut |_| {}).await.unwrap();
    let mut wrong = Vec::new();
    for check in &report.checks {
        wrong.extend(
            check
                .violations
                .iter()
                .map(|v| format!("{}: {}\n  expected: {}\n  found: {}", check.name, v.subject, v.expected, v.found)),
        );
        wrong.extend(check.pending.iter().map(|(what, many)| format!("{}: {many} {what}", check.name)));
    }
    assert!(wrong.is_empty(), "{context}: verify says\n{}", wrong.join("\n"));
}
