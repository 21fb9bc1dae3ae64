//! Publishers and sweepers that come late, or early.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};

use hydrometer_pipeline::publish::sweep;
use hydrometer_pipeline::store::Database;
use hydrometer_pipeline::worker::WorkerError;
use hydrometer_testkit::fleet::{LogOptions, Plan, write_logs};

use crate::common::scripted::*;
use crate::common::sound::assert_sound;
use crate::common::{Cuts, Deployment, assert_proven, run_logs};

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap().success());
}

fn is_stopped(child: &Child) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
}

/// The published files with their bytes.
async fn published(deployment: &Deployment) -> BTreeMap<String, Vec<u8>> {
    let warehouse = deployment.warehouse();
    let mut files = BTreeMap::new();
    for table in ["usage", "rated_usage", "quarantine"] {
        for name in warehouse.list(table).await.unwrap() {
            let bytes = warehouse.read(&name).await.unwrap().to_vec();
            files.insert(name, bytes);
        }
    }
    files
}

/// "A second publisher writes the same bytes under the same name, so it does no harm": a worker is stopped with an hour to publish, another
/// one takes over and publishes it, and the first one wakes up and publishes it again; or finds that what it was to publish from
/// was swept meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_publisher_that_wakes_up_late_does_no_harm() {
    for swept in [false, true] {
        let deployment = Deployment::new(&format!("race_publisher_{swept}")).await;
        let plan = Plan { seconds: 4_500, servers: 2, gpus_per_server: 1, telemetry_partitions: 2, ..Plan::small(8) };
        let outcome = write_logs(&deployment.path("logs"), &plan, LogOptions { zstd: false }, &mut |_| {}).unwrap();
        let config = deployment.write_config(&deployment.config());
        let mut sleeper = Command::new(env!("CARGO_BIN_EXE_hydrometer"))
            .args(["run", "--config"])
            .arg(config)
            .env("HYDROMETER_FAILPOINT", "publish.live.before:1=stop")
            .env("HYDROMETER_LOG", "error")
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(deployment.path("sleeper.log")).unwrap())
            .spawn()
            .unwrap();
        until("the publisher has stopped", async || is_stopped(&sleeper)).await;
        let hand = Hand::new(&deployment).await;
        let owed = hand.texts("SELECT name FROM hydrometer.file WHERE published_at IS NULL ORDER BY 1").await;
        assert!(!owed.is_empty(), "it owes files");

        run_logs(&deployment, plan.end_us(), Cuts::plain()).await.unwrap();
        let before = published(&deployment).await;
        assert!(owed.iter().all(|name| before.contains_key(name)), "its successor has published them");
        if swept {
            hand.execute("UPDATE hydrometer.object SET retired_at = retired_at - interval '1 hour'").await;
            let removed = sweep(&deployment.database().await, &deployment.warehouse(), &|_| false).await.unwrap();
            assert!(removed > 0);
        }

        signal(&sleeper, "CONT");
        let mut status = None;
        until("the late publisher ends", async || {
            status = sleeper.try_wait().unwrap();
            status.is_some()
        })
        .await;
        let status = status.unwrap();
        let said = std::fs::read_to_string(deployment.path("sleeper.log")).unwrap();
        assert_eq!((status.code(), status.signal()), (Some(3), None), "{said}");
        assert!(said.contains("another worker has taken over"), "it finds that it was replaced, and stops: {said}");
        assert_eq!(published(&deployment).await, before, "the same names, the same bytes");
        assert_proven(&deployment, &outcome, "after the late publisher").await;
        assert_sound(&deployment, "after the late publisher").await;
    }
}

/// One server in one partition, with a commit that waits: its objects are staged, and the manifest does not name them yet.
async fn staged(name: &str) -> (Deployment, Actor, Actor) {
    let deployment = Deployment::new(name).await;
    let hand = Hand::new(&deployment).await;
    let mut lifecycle = Actor::start(&deployment, 1, &[at(LIFECYCLE, 0)]).await;
    let mut events = vec![contract("c", "minute")];
    events.extend(leased_server("s", "c", START));
    events.push(passes(START + HOUR));
    lifecycle.say(&at(LIFECYCLE, 0), &events);
    hand.until_lifecycle_time(START + HOUR).await;
    let telemetry = Actor::start(&deployment, 1, &[at(TELEMETRY, 0)]).await;
    (deployment, lifecycle, telemetry)
}

/// "The sweeper lists first": what it has seen unnamed and what is committed while it looks is named when it asks.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_between_the_list_and_the_question_is_kept() {
    let (deployment, lifecycle, mut telemetry) = staged("race_sweeper").await;
    let (gate, door, looking) =
        (Hand::new(&deployment).await, Hand::new(&deployment).await, Hand::new(&deployment).await);
    gate.hold_timeline().await;
    telemetry.say(&at(TELEMETRY, 0), &readings("s", START, START + 61));
    looking.until_waits(telemetry.pid, &TIMELINE).await;
    // The sweeper's first question is for the epochs: it waits behind a lock that waits for the commit.
    let door_pid = door.pid().await;
    let door = tokio::spawn(async move {
        door.execute("BEGIN; LOCK TABLE hydrometer.partition_lease IN ACCESS EXCLUSIVE MODE").await;
        door
    });
    looking.until_waits(door_pid, &["relation"]).await;
    let db = deployment.database().await;
    let sweeper_pid: i32 = db.client_ref().query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let warehouse = deployment.warehouse();
    // The worst that may be thought of an attempt: that it is finished.
    let sweeping = sweep(&db, &warehouse, &|_| true);
    let meanwhile = async {
        looking.until_waits(sweeper_pid, &["relation"]).await;
        gate.release().await;
        let door = door.await.unwrap();
        assert!(looking.number("SELECT count(*) FROM hydrometer.object").await > 0, "it is committed");
        door.release().await;
    };
    let (removed, ()) = tokio::join!(sweeping, meanwhile);
    assert_eq!(removed.unwrap(), 0, "nothing is removed");

    lifecycle.end().await.unwrap();
    telemetry.end().await.unwrap();
    assert_eq!(seconds_of(&deployment, "s").await, (4 * HOUR, 61, 0));
    assert_sound(&deployment, "after the sweeper").await;
}

/// "… or to an epoch below the lease's current one": its writer can never commit it. A slow committer keeps its objects as long as it may
/// commit them, and is refused once it has lost them.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_committer_loses_its_objects_only_with_its_partition() {
    let (deployment, lifecycle, mut telemetry) = staged("race_sweeper_epoch").await;
    let (first, second, looking) =
        (Hand::new(&deployment).await, Hand::new(&deployment).await, Hand::new(&deployment).await);
    // In the queue for the lease row: a hand, who takes over, another hand, the slow committer.
    first.hold_rows("hydrometer.partition_lease", &lease_row(TELEMETRY, 0)).await;
    let mut taker = Database::connect(&deployment.app_url).await.unwrap();
    let taker_pid: i32 = taker.client_ref().query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let taking = tokio::spawn(async move { taker.take_over(&[at(TELEMETRY, 0)], "new").await.unwrap() });
    looking.until_waits(taker_pid, &ROW).await;
    let second_pid = second.pid().await;
    let second = tokio::spawn(async move {
        second.hold_rows("hydrometer.partition_lease", &lease_row(TELEMETRY, 0)).await;
        second
    });
    looking.until_waits(second_pid, &ROW).await;
    telemetry.say(&at(TELEMETRY, 0), &readings("s", START, START + 61));
    looking.until_waits(telemetry.pid, &ROW).await;
    let (db, warehouse) = (deployment.database().await, deployment.warehouse());
    let staged = warehouse.list("staging").await.unwrap();
    assert!(!staged.is_empty());
    assert_eq!(sweep(&db, &warehouse, &|_| false).await.unwrap(), 0, "its epoch may still commit");

    first.release().await;
    taking.await.unwrap();
    let second = second.await.unwrap();
    assert_eq!(sweep(&db, &warehouse, &|_| false).await.unwrap(), staged.len(), "its epoch is over");
    assert_eq!(warehouse.list("staging").await.unwrap(), [""; 0]);
    // The queue for a row that was updated keeps no order: it may have been let in, and refused, before the other hand.
    until("the slow committer waits, or was refused", async || {
        telemetry.has_ended() || looking.waits_for(telemetry.pid).await.is_some()
    })
    .await;
    second.release().await;
    assert!(matches!(telemetry.joined().await, Err(WorkerError::Fenced { .. })), "its commit is refused");

    // Its successor reads the same records again.
    let mut telemetry = Actor::start(&deployment, 1, &[at(TELEMETRY, 0)]).await;
    telemetry.say(&at(TELEMETRY, 0), &readings("s", START, START + 61));
    lifecycle.end().await.unwrap();
    telemetry.end().await.unwrap();
    assert_eq!(seconds_of(&deployment, "s").await, (4 * HOUR, 61, 0));
    assert_sound(&deployment, "after the sweeper").await;
}
