//! The warehouse on S3: the real program runs a fleet into a bucket, and everything is read back from there. And what publishing
//! promises of any store: a file is a pure function of what was committed, whoever writes it, however often.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use common::{Cuts, Deployment, run_fleet};
use hydrometer_cli::proof::Found;
use hydrometer_pipeline::publish::{publish_owed, sweep};
use hydrometer_pipeline::source::TopicPartition;
use hydrometer_pipeline::store::Database;
use hydrometer_pipeline::store::manifest;
use hydrometer_schemas::time::{MICROS_PER_SECOND, show_second};
use hydrometer_schemas::warehouse::Table;
use hydrometer_sinks::Warehouse;
use hydrometer_testkit::fleet::{Fault, LogOptions, Plan, write_logs};
use hydrometer_testkit::services::s3::{S3Server, python_for_tests};

/// Set for the copy of this program that has the bucket's credentials in its environment.
const INSIDE: &str = "HYDROMETER_TEST_S3_BUCKET";

/// Gives a command what a deployment on S3 has in its environment.
fn with_s3(command: &mut Command, server: &S3Server) {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
        command.env_remove(name);
    }
    command
        .env("AWS_ENDPOINT", server.endpoint())
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_REGION", "us-east-1");
}

/// A small fleet that has everything: late readings and events, bad messages, several partitions.
fn plan() -> Plan {
    let base = Plan::small(4);
    let faults = base.faults.clone().with(Fault::VeryLate, 0.01).with(Fault::Garbage, 0.02);
    Plan { seconds: 2 * 3_600, servers: 3, gpus_per_server: 2, telemetry_partitions: 2, faults, ..base }
}

/// Writes the fleet's logs and runs the program over them until they end.
fn run_program(deployment: &Deployment, warehouse: &str, prepare: impl FnOnce(&mut Command)) -> Output {
    let mut config = deployment.config();
    config.warehouse.url = warehouse.to_owned();
    config.source.files.until = show_second(plan().end_us() / MICROS_PER_SECOND);
    let config = deployment.write_config(&config);
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydrometer"));
    command.arg("run").arg("--config").arg(config);
    prepare(&mut command);
    command.output().unwrap()
}

/// The test is run again in a process whose environment names the server: a program's environment is set before it starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_is_proven_on_s3() {
    let Ok(bucket) = std::env::var(INSIDE) else {
        let dir = tempfile::tempdir().unwrap();
        let server = S3Server::start(&python_for_tests().unwrap(), dir.path()).unwrap();
        server.create_bucket("metering").unwrap();
        let mut again = Command::new(std::env::current_exe().unwrap());
        with_s3(&mut again, &server);
        again.args(["--exact", "a_fleet_is_proven_on_s3", "--nocapture"]).env(INSIDE, "metering");
        let status = again.status().unwrap();
        assert!(status.success(), "see above");
        return;
    };
    let deployment = Deployment::new("s3").await;
    let outcome = write_logs(&deployment.path("logs"), &plan(), LogOptions { zstd: true }, &mut |_| {}).unwrap();
    let address = format!("s3://{bucket}/a/prefix");
    let output = run_program(&deployment, &address, |_| {});
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!deployment.path("warehouse").exists(), "nothing is written on this machine");

    let warehouse = Warehouse::open(&address).unwrap();
    let found = Found::read(&mut deployment.database().await, &warehouse).await.unwrap();
    let differences = found.prove(&outcome).differences;
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
    assert!(found.corrections > 0 && !found.quarantine.is_empty(), "the fleet has late and bad messages: {found:?}");

    // All of it lies below the prefix.
    let bucket = Warehouse::open(&format!("s3://{bucket}")).unwrap();
    let elsewhere: Vec<String> = bucket.list("").await.unwrap();
    assert!(elsewhere.iter().all(|name| name.starts_with("a/prefix/")), "{elsewhere:?}");

    assert_staging_is_needed(&deployment, &warehouse).await;
    assert_published_alike(&deployment, &warehouse).await;
    assert_swept_after_grace(&deployment, &warehouse).await;
    assert_eq!(
        Found::read(&mut deployment.database().await, &warehouse).await.unwrap().prove(&outcome).differences.len(),
        0
    );
}

/// The same promises on a local folder.
#[tokio::test]
async fn a_file_is_published_with_the_same_bytes_again() {
    let deployment = Deployment::new("s3_local").await;
    let (outcome, _) = run_fleet(&deployment, &plan(), Cuts::plain()).await;
    let warehouse = deployment.warehouse();
    assert_staging_is_needed(&deployment, &warehouse).await;
    assert_published_alike(&deployment, &warehouse).await;
    assert_swept_after_grace(&deployment, &warehouse).await;
    common::assert_proven(&deployment, &outcome, "after publishing again and sweeping").await;
}

#[tokio::test]
async fn a_bucket_that_is_not_there_is_named() {
    let deployment = Deployment::new("s3_missing").await;
    let server = S3Server::start(&python_for_tests().unwrap(), deployment.dir.path()).unwrap();
    write_logs(&deployment.path("logs"), &plan(), LogOptions { zstd: true }, &mut |_| {}).unwrap();
    let output = run_program(&deployment, "s3://nowhere-to-be-found/prefix", |command| with_s3(command, &server));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    let error = said.lines().skip_while(|line| !line.starts_with("error: ")).collect::<Vec<_>>().join("\n");
    assert!(error.contains("nowhere-to-be-found"), "the bucket is named: {said}");
    // NoSuchBucket somewhere in the server's XML is not yet advice.
    let hint = error.split("Hint: ").nth(1).unwrap_or_default();
    assert!(hint.contains("bucket"), "the hint says that the bucket has to be there first: {said}");
    let events: i64 = query(&deployment, "SELECT count(*) FROM hydrometer.event").await;
    assert_eq!(events, 0, "nothing was taken in before the warehouse was known to be there");
}

/// A worker that was killed leaves what it was just writing: the part of a file, or its probe of the warehouse.
#[tokio::test]
async fn what_a_killed_worker_left_is_swept_in_time() {
    let deployment = Deployment::new("s3_leavings").await;
    let warehouse = deployment.warehouse();
    for name in
        ["staging/publish-6f1c1b58-0000-4000-8000-000000000000", "staging/probe-6f1c1b58-0000-4000-8000-000000000000"]
    {
        warehouse.stage(name, "half a file".into()).await.unwrap();
        let file = std::fs::File::options().write(true).open(deployment.path("warehouse").join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(48 * 3_600)).unwrap();
    }
    // A local store writes NAME#1 first and hides it in its listings: of an attempt that is over, of one that is under way, and of a
    // file that was being published.
    let db = deployment.database().await;
    let sql = "INSERT INTO hydrometer.partition_lease (topic, partition, role, epoch) VALUES ('t', 0, 'telemetry', 5)";
    deployment.owner().await.client_ref().execute(sql, &[]).await.unwrap();
    let halves = ["staging/a/t@0@e4@usage.parquet#1", "staging/b/t@0@e5@usage.parquet#1", "staging/publish-1#1"];
    for name in halves {
        let path = deployment.path("warehouse").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "half").unwrap();
    }
    sweep(&db, &warehouse, &|_| false).await.unwrap();
    assert_eq!(warehouse.list("staging").await.unwrap(), [""; 0], "two days after the worker was killed");
    let left = common::aftermath::walk(&deployment.path("warehouse"));
    assert_eq!(left.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([halves[1].to_owned(), halves[2].to_owned()]));
}

/// A kill or a cut between the word that a file is there and the word that its objects are not needed any more would leave every row
/// of it twice, and nobody would come back to it.
#[tokio::test]
async fn a_file_is_published_and_its_objects_retired_at_once() {
    let deployment = Deployment::new("s3_at_once").await;
    let (outcome, _) = run_fleet(&deployment, &plan(), Cuts::plain()).await;
    let owner = deployment.owner().await;
    owner
        .client_ref()
        .batch_execute(
            "UPDATE hydrometer.file SET published_at = NULL, rows = NULL, bytes = NULL, sha256 = NULL; \
             UPDATE hydrometer.object SET retired_at = NULL; \
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken off'; END $$; \
             CREATE TRIGGER refuse BEFORE UPDATE ON hydrometer.object FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await
        .unwrap();
    let (warehouse, partitions) = (deployment.warehouse(), partitions(&owner).await);
    let db = deployment.database().await;
    let broken_off = publish_owed(&db, &warehouse, &partitions).await.unwrap_err().to_string();
    assert!(broken_off.contains("broken off"), "{broken_off}");
    let published = query(&deployment, "SELECT count(*) FROM hydrometer.file WHERE published_at IS NOT NULL").await;
    assert_eq!(published, 0, "files whose objects still count");
    owner.client_ref().batch_execute("DROP TRIGGER refuse ON hydrometer.object").await.unwrap();
    publish_owed(&db, &warehouse, &partitions).await.unwrap();
    common::assert_proven(&deployment, &outcome, "after a publication that was broken off").await;
}

/// Every attempt stages into a folder of its own: with a commit a second, 86,400 of them a day.
#[tokio::test]
async fn what_was_swept_leaves_no_folder() {
    let dir = tempfile::tempdir().unwrap();
    let warehouse = Warehouse::open(&dir.path().display().to_string()).unwrap();
    warehouse.stage("staging/attempt/object.parquet", "rows".into()).await.unwrap();
    warehouse.delete("staging/attempt/object.parquet").await.unwrap();
    assert!(!dir.path().join("staging/attempt").exists(), "an empty folder is left behind");
}

async fn query(deployment: &Deployment, sql: &str) -> i64 {
    deployment.owner().await.client_ref().query_one(sql, &[]).await.unwrap().get(0)
}

/// Every staged object is named by the manifest and needed, or retired less than a minute ago. (The time that the test itself takes
/// is added to the minute.)
async fn assert_staging_is_needed(deployment: &Deployment, warehouse: &Warehouse) {
    let owner = deployment.owner().await;
    let rows = owner
        .client_ref()
        .query(
            "SELECT o.name, o.kind, o.retired_at IS NOT NULL, \
                    o.retired_at > (SELECT max(coalesce(published_at, '-infinity')) FROM hydrometer.file) - interval '2 minutes', \
                    NOT EXISTS (SELECT 1 FROM hydrometer.file_object AS x WHERE x.object = o.name), \
                    EXISTS (SELECT 1 FROM hydrometer.file_object AS x JOIN hydrometer.file AS f ON f.name = x.file \
                            WHERE x.object = o.name AND f.published_at IS NULL), \
                    EXISTS (SELECT 1 FROM hydrometer.request AS r \
                            WHERE r.scope = 'object' AND r.subject = o.name AND r.done_by IS NULL), \
                    o.to_s > l.frontier_s \
             FROM hydrometer.object AS o JOIN hydrometer.partition_lease AS l USING (topic, partition)",
            &[],
        )
        .await
        .unwrap();
    let mut needless = BTreeMap::new();
    let mut known = BTreeSet::new();
    for row in &rows {
        let (name, kind): (String, String) = (row.get(0), row.get(1));
        let (retired, in_grace, in_no_file, owed, asked): (bool, Option<bool>, bool, bool, bool) =
            (row.get(2), row.get(3), row.get(4), row.get(5), row.get(6));
        let beyond_frontier: bool = row.get(7);
        // Late and away minutes wait for their hour and for the revisions that they asked for; the others for a file.
        let waits = match kind.as_str() {
            "late" | "away" => beyond_frontier || owed || asked,
            _ => in_no_file || owed,
        };
        if (retired && in_grace != Some(true)) || (!retired && !waits) {
            needless.insert(name.clone(), format!("{kind}, retired: {retired}, in no file: {in_no_file}"));
        }
        known.insert(name);
    }
    for name in warehouse.list("staging").await.unwrap() {
        assert!(known.contains(&name), "{name} is left in staging and the manifest does not know it");
        assert!(!needless.contains_key(&name), "{name} is left in staging: {}", needless[&name]);
    }
}

/// Publishes every file again, twice at the same time: the bytes are the same, and so is what the manifest says of them.
async fn assert_published_alike(deployment: &Deployment, warehouse: &Warehouse) {
    let published = |files: Vec<(manifest::File, bool)>| -> BTreeMap<String, (Table, Option<i64>, String)> {
        let one = |(file, published): (manifest::File, bool)| {
            assert!(published, "{} is owed", file.name);
            (file.name, (file.table, file.rows, file.sha256.unwrap()))
        };
        files.into_iter().map(one).collect()
    };
    let first = deployment.database().await;
    let second = deployment.database().await;
    let before = published(manifest::all_files(first.client_ref()).await.unwrap());
    let mut bytes = BTreeMap::new();
    for (name, (_, _, sha256)) in &before {
        bytes.insert(name.clone(), warehouse.read_checked(name, sha256).await.unwrap());
    }
    let tables: BTreeSet<Table> = before.values().map(|file| file.0).collect();
    assert_eq!(tables.len(), 3, "there are files of every table");
    assert!(before.keys().any(|name| name.contains(".r0")), "there are revisions");

    let owe = "UPDATE hydrometer.file SET published_at = NULL, rows = NULL, bytes = NULL, sha256 = NULL";
    let owner = deployment.owner().await;
    assert_eq!(owner.client_ref().execute(owe, &[]).await.unwrap() as usize, before.len());
    for name in before.keys() {
        warehouse.delete(name).await.unwrap();
    }
    let partitions = partitions(&owner).await;
    // Two that believe at once that it is theirs to publish, as after a rebalance.
    let (one, other) =
        tokio::join!(publish_owed(&first, warehouse, &partitions), publish_owed(&second, warehouse, &partitions));
    let (one, other) = (one.unwrap(), other.unwrap());
    assert!(one.max(other) == before.len(), "{one} and {other} of {}", before.len());

    assert_eq!(published(manifest::all_files(first.client_ref()).await.unwrap()), before);
    for (name, bytes) in &bytes {
        assert!(warehouse.read(name).await.unwrap() == *bytes, "{name} has other bytes");
    }
    // A late publisher that missed the news writes over what is there.
    let (name, sha256) = before.iter().map(|(name, file)| (name, &file.2)).next().unwrap();
    assert_eq!(warehouse.publish(name, bytes[name].clone()).await.unwrap().sha256, *sha256);
    assert_eq!(warehouse.read_checked(name, sha256).await.unwrap(), bytes[name]);
}

async fn partitions(db: &Database) -> Vec<TopicPartition> {
    db.leases().await.unwrap().into_iter().map(|(lease, _)| lease.partition.clone()).collect()
}

/// When the readers' grace is over, a sweep leaves what is needed and nothing else.
async fn assert_swept_after_grace(deployment: &Deployment, warehouse: &Warehouse) {
    let db = deployment.database().await;
    let owner = deployment.owner().await;
    let later =
        "UPDATE hydrometer.object SET retired_at = retired_at - interval '2 minutes' WHERE retired_at IS NOT NULL";
    assert!(owner.client_ref().execute(later, &[]).await.unwrap() > 0, "objects were retired");
    let before = warehouse.list("staging").await.unwrap().len();
    let removed = sweep(&db, warehouse, &|_| false).await.unwrap();
    let left: BTreeSet<String> = warehouse.list("staging").await.unwrap().into_iter().collect();
    assert_eq!(before, removed + left.len());
    let rows = owner.client_ref().query("SELECT name FROM hydrometer.object WHERE retired_at IS NULL", &[]).await;
    let needed: BTreeSet<String> = rows.unwrap().iter().map(|row| row.get(0)).collect();
    assert_eq!(left, needed, "what is left in staging, and what the manifest still needs");
    // object_store does not list these: a half-written file would only be seen by a look at the folder.
    let parts =
        |root: &Path| walk(root).into_iter().filter(|name| name.contains('#') || name.ends_with(".part")).count();
    assert_eq!(warehouse.local().map_or(0, parts), 0, "half-written files");
}

fn walk(root: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            names.extend(walk(&path));
        } else {
            names.push(path.display().to_string());
        }
    }
    names
}
