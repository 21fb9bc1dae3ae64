//! What must be true after any trouble, once everything is through: the oracle's totals and those of a run that nothing disturbed,
//! every law as `verify` proves it, and in the warehouse the files that the manifest names and nothing beside them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::time::{Duration, SystemTime};

use hydrometer_audit::verify::verify;
use hydrometer_cli::proof::Found;
use hydrometer_pipeline::publish::sweep;
use hydrometer_pipeline::source::TopicPartition;
use hydrometer_pipeline::store::Database;
use hydrometer_sinks::Warehouse;
use hydrometer_testkit::fleet::{Outcome, Plan};
use tokio::sync::Mutex;

use super::{Cuts, Deployment, run_fleet};

/// Asserts that nothing is wrong.
pub async fn assert_sound(deployment: &Deployment, plan: &Plan, outcome: &Outcome, context: &str) {
    let wrong = findings(deployment, &deployment.warehouse(), plan, outcome).await;
    assert!(wrong.is_empty(), "{context}: {} findings\n{}", wrong.len(), wrong.join("\n"));
}

/// Everything that is wrong. No worker may be running any more.
pub async fn findings(deployment: &Deployment, warehouse: &Warehouse, plan: &Plan, outcome: &Outcome) -> Vec<String> {
    let found = Found::read(&mut deployment.database().await, warehouse).await.unwrap();
    let mut wrong = found.prove(outcome).differences;
    wrong.truncate(10);
    if found.open_requests > 0 {
        wrong.push(format!("{} requests are open", found.open_requests));
    }
    let (undisturbed, here) = (summary(&*undisturbed(plan).await), summary(&found));
    let keys: BTreeSet<&String> = undisturbed.keys().chain(here.keys()).collect();
    let unlike = keys.into_iter().filter(|key| undisturbed.get(*key) != here.get(*key));
    wrong.extend(unlike.take(10).map(|key| {
        format!("{key}: {:?} in the run that nothing disturbed, {:?} here", undisturbed.get(key), here.get(key))
    }));
    let report = verify(&deployment.app_url, warehouse, &[], &mut |_| ()).await.unwrap();
    for check in &report.checks {
        for v in check.violations.iter().take(3) {
            wrong.push(format!("verify, {}: {}: expected {}, found {}", check.name, v.subject, v.expected, v.found));
        }
        if !check.pending.is_empty() {
            wrong.push(format!("verify, {}: waits for {:?}", check.name, check.pending));
        }
    }
    wrong.extend(leavings(deployment, warehouse).await);
    wrong
}

/// What lies in the warehouse and should not, and what should and does not, after a sweep when every grace is over.
async fn leavings(deployment: &Deployment, warehouse: &Warehouse) -> Vec<String> {
    let owner = deployment.owner().await;
    owner
        .client_ref()
        .execute("UPDATE hydrometer.object SET retired_at = retired_at - interval '2 minutes'", &[])
        .await
        .unwrap();
    if let Some(root) = warehouse.local() {
        let long_ago = SystemTime::now() - Duration::from_secs(48 * 3_600);
        for name in walk(root).iter().filter(|name| name.starts_with("staging/")) {
            File::options().write(true).open(root.join(name)).unwrap().set_modified(long_ago).unwrap();
        }
    }
    // Whoever comes next takes everything over, so that no attempt of before can still be committed.
    let mut db = deployment.database().await;
    let partitions: Vec<TopicPartition> =
        db.leases().await.unwrap().into_iter().map(|(lease, _)| lease.partition).collect();
    db.take_over(&partitions, "aftermath").await.unwrap();
    sweep(&db, warehouse, &|_| false).await.unwrap();

    let sql = "SELECT name FROM hydrometer.file WHERE published_at IS NOT NULL \
               UNION ALL SELECT name FROM hydrometer.object WHERE retired_at IS NULL";
    let rows = owner.client_ref().query(sql, &[]).await.unwrap();
    let named: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    let there: BTreeSet<String> = match warehouse.local() {
        Some(root) => walk(root).into_iter().collect(),
        None => warehouse.list("").await.unwrap().into_iter().collect(),
    };
    let foreign = there.difference(&named).map(|name| format!("{name} lies in the warehouse, and nothing names it"));
    let missing = named.difference(&there).map(|name| format!("{name} is named and not there"));
    foreign.chain(missing).collect()
}

/// Every file below a folder, hidden and half-written ones included.
pub fn walk(root: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                names.push(path.strip_prefix(root).unwrap().display().to_string());
            }
        }
    }
    names
}

/// What may not depend on how a run went; the number of records and of corrections may. What was booked and corrected to nothing
/// leaves a zero, which says nothing.
fn summary(found: &Found) -> BTreeMap<String, i128> {
    let mut all = BTreeMap::new();
    for (key, seconds) in &found.seconds {
        all.insert(format!("used seconds of {key:?}"), i128::from(seconds.used));
        all.insert(format!("idle seconds of {key:?}"), i128::from(seconds.idle));
        all.insert(format!("unknown seconds of {key:?}"), i128::from(seconds.unknown));
        all.insert(format!("down seconds of {key:?}"), i128::from(seconds.down));
        all.insert(format!("suspended seconds of {key:?}"), i128::from(seconds.suspended));
    }
    for (currency, (charges, earnings)) in &found.totals {
        all.insert(format!("charges in {currency}"), *charges);
        all.insert(format!("earnings in {currency}"), *earnings);
    }
    all.extend(found.renters.iter().map(|(key, amount)| (format!("renter amount of {key:?}"), *amount)));
    all.extend(found.suppliers.iter().map(|(key, amount)| (format!("supplier amount of {key:?}"), *amount)));
    all.extend(found.balances.iter().map(|(key, amount)| (format!("balance of {key}"), *amount)));
    all.extend(found.quarantine.iter().map(|(key, count)| (format!("quarantine for {key}"), i128::from(*count))));
    all.insert("metered minutes".into(), i128::from(found.metered_minutes));
    all.insert("present seconds".into(), i128::from(found.present_seconds));
    all.insert("leakage".into(), i128::from(found.leakage_seconds));
    all.retain(|_, count| *count != 0);
    all
}

/// The same fleet as partition logs, run once to their end by one worker. Each plan is run once per process.
async fn undisturbed(plan: &Plan) -> std::sync::Arc<Found> {
    static RUNS: Mutex<Vec<(Plan, std::sync::Arc<Found>)>> = Mutex::const_new(Vec::new());
    if let Some((_, found)) = RUNS.lock().await.iter().find(|(of, _)| of == plan) {
        return found.clone();
    }
    let deployment = Deployment::new("undisturbed").await;
    run_fleet(&deployment, plan, Cuts::plain()).await;
    let found = std::sync::Arc::new(deployment.found().await);
    drop_database(&deployment).await;
    // Plans come back soon or never.
    let mut runs = RUNS.lock().await;
    runs.truncate(7);
    runs.insert(0, (plan.clone(), found.clone()));
    found
}

/// Where runs are many, what they leave in the server would be too much.
pub async fn drop_database(deployment: &Deployment) {
    let name = deployment.owner_url.rsplit_once("dbname='").unwrap().1.trim_end_matches('\'');
    let server = Database::connect(&format!("{} dbname=postgres", deployment.owner_url)).await.unwrap();
    server.client_ref().batch_execute(&format!("DROP DATABASE \"{name}\" WITH (FORCE)")).await.unwrap();
}
