//! Two and three workers over one fleet, of which some are stopped, cut off from the database or from Kafka, or come and go; and
//! servers that are restarted under load. Each ends with every law proven and the totals of a run that nothing disturbed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use common::Deployment;
use common::fleet::{Fleet, Running, proxied, until};
use common::storm::{Chance, seed_of_run};
use hydrometer_testkit::fleet::{Fault, Faults, Plan, Topic, generate};
use hydrometer_testkit::services::kafka::{self, PrivateKafka};
use hydrometer_testkit::services::postgres::{Options, PrivatePostgres, TestPostgres};
use hydrometer_testkit::services::proxy::{Mode, POSTGRES_COMMIT, Proxy, Then};
use rustix::process::Signal;
use tokio::time::sleep;

fn plan(seed: u64) -> Plan {
    let base = Plan::small(seed);
    let faults = base.faults.clone().with(Fault::VeryLate, 0.005).with(Fault::BadEvent, 0.1);
    Plan { seconds: 4_500, servers: 4, gpus_per_server: 2, telemetry_partitions: 4, faults, ..base }
}

/// A fleet of which every partition has something to say.
fn busy_plan(seed: u64) -> Plan {
    let plans =
        (0..100).map(|n| Plan { servers: 8, gpus_per_server: 1, lifecycle_partitions: 2, ..plan(seed + 100 * n) });
    let is_busy = |plan: &Plan| {
        let mut records = std::collections::BTreeMap::<(Topic, u32), usize>::new();
        generate(plan, &mut |record| {
            *records.entry((record.topic, record.partition)).or_default() += 1;
            Ok(())
        })
        .unwrap();
        records.len() == 6 && records.values().all(|count| *count > 10)
    };
    plans.into_iter().find(|plan| is_busy(plan)).unwrap()
}

/// Two workers that share the partitions of a fleet, of which a part is sent and handled.
async fn two_workers(fleet: &mut Fleet) -> (Running, Running) {
    let first = fleet.start(&fleet.worker("first"), None);
    let second = fleet.start(&fleet.worker("second"), None);
    fleet.until_owned_by(&["first", "second"]).await;
    fleet.send(2, 8).await;
    fleet.until_handled().await;
    (first, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_stopped_wakes_up_to_find_its_partitions_gone() {
    let mut fleet = Fleet::new("stopped", &plan(31)).await;
    let (mut first, second) = two_workers(&mut fleet).await;
    for part in [4, 6] {
        first.signal(Signal::STOP);
        fleet.send(part, 8).await;
        fleet.until_owned_by(&["second"]).await;
        fleet.until_handled().await;
        first.signal(Signal::CONT);
        // It takes its place again, or it was in the middle of something and finds itself fenced.
        until("it comes back or ends", async || first.has_ended() || fleet.owners().await.contains(&"first".into()))
            .await;
        if first.has_ended() {
            first.stop_if_running().await;
            first = fleet.start(&fleet.worker("first"), None);
            fleet.until_owned_by(&["first", "second"]).await;
        }
        fleet.send(part + 1, 8).await;
        fleet.until_handled().await;
    }
    first.stop_if_running().await;
    second.stop_if_running().await;
    fleet.finish().await;
    fleet.assert_sound("stopped between transactions").await;
}

/// Holding the lease rows of its partitions, so that whoever takes them over has to wait until the server ends its session.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_was_stopped_inside_its_transaction_can_commit_no_more() {
    let mut fleet = Fleet::new("stopped_inside", &busy_plan(32)).await;
    let parts = 60;
    let mut part = 0;
    for (round, point) in ["commit.live.fenced", "commit.live.inside", "commit.lifecycle.recorded"].iter().enumerate() {
        let point = format!("{point}:1=stop");
        let second = fleet.start(&fleet.worker("second"), None);
        fleet.until_owned_by(&["second"]).await;
        let mut first = fleet.start(&fleet.worker(&format!("first-{round}")), Some(&point));
        // Something to commit for whichever partitions it has, again and again.
        until("it stops", async || {
            assert!(!first.has_ended(), "{}", first.said());
            part += usize::from(part < parts);
            fleet.send(part, parts).await;
            sleep(Duration::from_millis(250)).await;
            first.said().contains("stopping this process")
        })
        .await;
        fleet.until_owned_by(&["second"]).await;
        fleet.until_handled().await;
        let status = first.woken_until_ended("a worker that was fenced ends").await;
        assert_eq!(status.code(), Some(3), "{}", first.said());
        assert!(first.said().contains("another worker has taken over"), "{}", first.said());
        second.stop().await;
    }
    fleet.finish().await;
    fleet.assert_sound("stopped inside transactions").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_cut_off_from_the_database_goes_on_or_is_replaced() {
    let mut fleet = Fleet::new("cut_off", &plan(33)).await;
    let (proxy, through) = proxied(&fleet.config.database.url);
    let mut behind_proxy = fleet.worker("first");
    behind_proxy.database.url = through;
    // Longer than the moment below; then it gives its partitions up.
    behind_proxy.database.patience_s = 5;
    let mut first = fleet.start(&behind_proxy, None);
    let second = fleet.start(&fleet.worker("second"), None);
    fleet.until_owned_by(&["first", "second"]).await;
    fleet.send(2, 8).await;
    fleet.until_handled().await;
    // For a moment.
    proxy.set(Mode::Refuse);
    proxy.cut();
    fleet.send(3, 8).await;
    sleep(Duration::from_millis(1_500)).await;
    proxy.set(Mode::Forward);
    fleet.until_handled().await;
    assert!(first.said().contains("the database"), "it noticed: {}", first.said());
    // For so long that its partitions move.
    proxy.set(Mode::Stall);
    fleet.send(5, 8).await;
    fleet.until_owned_by(&["second"]).await;
    fleet.until_handled().await;
    let status = first.ended("a worker that has waited for its database long enough ends").await;
    assert_eq!(status.code(), Some(3), "{}", first.said());
    assert!(first.said().contains("cannot connect to the database"), "{}", first.said());
    proxy.set(Mode::Forward);
    fleet.send(6, 8).await;
    fleet.until_handled().await;
    second.stop().await;
    fleet.finish().await;
    fleet.assert_sound("cut off from the database").await;
}

/// Each kind of commit, with the reply to COMMIT lost while the transaction is still committing, and after it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_commits_are_in_doubt_asks_what_became_of_them() {
    let mut fleet = Fleet::new("in_doubt", &plan(34)).await;
    let (proxy, through) = proxied(&fleet.config.database.url);
    let owner = fleet.deployment.owner().await;
    // Busy with COMMIT, as behind a slow disk or a synchronous standby.
    owner
        .client_ref()
        .batch_execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.3); RETURN NULL; END $$; \
             CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON hydrometer.commit DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION slow()",
        )
        .await
        .unwrap();
    let kinds = async || -> Vec<String> {
        let sql = "SELECT DISTINCT kind FROM hydrometer.commit ORDER BY 1";
        owner.client_ref().query(sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
    };
    let mut config = fleet.worker("doubtful");
    config.database.url = through;
    fleet.send(1, 1).await;
    config.windows.idle_s = 2;
    let mut worker = fleet.start(&config, None);
    let mut cuts = 0;
    // Every second transaction or so, until all is through.
    while !fleet.is_through().await {
        let then = if cuts % 2 == 0 { Then::CutAfterRequest } else { Then::CutBeforeReply };
        let before = proxy.tripped();
        proxy.watch(POSTGRES_COMMIT, 1 + cuts % 2, then);
        until("a commit is cut, or all is through", async || {
            assert!(!worker.has_ended(), "{}", worker.said());
            proxy.tripped() > before || fleet.is_through().await
        })
        .await;
        cuts = proxy.tripped();
    }
    assert!(cuts >= 5, "{cuts} cuts");
    assert_eq!(kinds().await, ["lifecycle", "live", "revision"]);
    worker.signal(Signal::TERM);
    worker.ended("SIGTERM ends the worker").await;
    owner.client_ref().batch_execute("DROP TRIGGER slow ON hydrometer.commit").await.unwrap();
    fleet.finish().await;
    fleet.assert_sound("replies to COMMIT were lost").await;
}

/// Killed as soon as COMMIT is sent, and while somebody asks what became of it: the next one waits for the transaction in doubt.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_outlives_its_worker_is_waited_for() {
    let mut fleet = Fleet::new("outlived", &plan(35)).await;
    let owner = fleet.deployment.owner().await;
    owner
        .client_ref()
        .batch_execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.8); RETURN NULL; END $$; \
             CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON hydrometer.commit DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION slow()",
        )
        .await
        .unwrap();
    let (proxy, through) = proxied(&fleet.config.database.url);
    let points = [
        ("commit.lifecycle.sent", false),
        ("commit.live.sent", false),
        ("commit.live.sent", false),
        ("settle.before", true),
        ("settle.after", true),
    ];
    for (number, (point, cut)) in points.into_iter().enumerate() {
        // Something to commit for each of them.
        fleet.send(number + 1, points.len()).await;
        let mut config = fleet.lasting_worker("outlived");
        config.database.url = through.clone();
        // Now and then a COMMIT is cut off; that of a take-over is only asked again, that of a round is in doubt.
        let cutting = async {
            loop {
                if cut {
                    proxy.watch(POSTGRES_COMMIT, 1, Then::CutAfterRequest);
                }
                sleep(Duration::from_millis(1_500)).await;
            }
        };
        tokio::select! {
            () = fleet.killed_at(&config, point) => {}
            () = cutting => {}
        }
    }
    owner.client_ref().batch_execute("DROP TRIGGER slow ON hydrometer.commit").await.unwrap();
    fleet.finish().await;
    fleet.assert_sound("commits outlived their workers").await;
}

/// Workers join and leave all the while, some of them without a word.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_handed_to_and_fro() {
    let seed = seed_of_run();
    eprintln!("HYDROMETER_SEED={seed} repeats the order in which workers come and go");
    let mut chance = Chance::new(seed);
    let mut fleet = Fleet::new("to_and_fro", &plan(36)).await;
    let mut workers = vec![fleet.start(&fleet.worker("w0"), None)];
    let rounds = 12;
    for round in 1..=rounds {
        fleet.send(round, rounds + 1).await;
        if workers.len() == 3 || (workers.len() == 2 && chance.below(2) == 0) {
            let mut leaving = workers.remove(chance.below(workers.len() as u64) as usize);
            if chance.below(3) == 0 {
                leaving.kill9();
            } else {
                leaving.stop_if_running().await;
            }
        } else {
            workers.push(fleet.start(&fleet.worker(&format!("w{round}")), None));
        }
        sleep(Duration::from_millis(300 + chance.below(900))).await;
    }
    fleet.until_handled().await;
    for worker in workers {
        worker.stop_if_running().await;
    }
    fleet.finish().await;
    fleet.assert_sound(&format!("to and fro, HYDROMETER_SEED={seed}")).await;
}

/// The clock may not close what a broker that is away still holds: what comes after the silence is not late.
async fn a_broker_that_is_away_is_no_silence(broker: &PrivateKafka, proxy: &Proxy) {
    let plan = Plan { seconds: 1_200, faults: Faults::none(), disorder_us: 0, ..plan(39) };
    let mut fleet = Fleet::on(Deployment::new("silence").await, &broker.bootstrap(), "silence", &plan).await;
    let mut config = fleet.worker("silent");
    config.source.kafka.brokers = proxy.address();
    config.source.kafka.options.insert("session.timeout.ms".into(), "30000".into());
    config.windows.idle_s = 6;
    let worker = fleet.start(&config, None);
    until("it has the partitions", async || fleet.owners().await.iter().all(|owner| owner == "silent")).await;
    fleet.send(1, 2).await;
    fleet.until_handled().await;
    proxy.set(Mode::Stall);
    sleep(Duration::from_secs(9)).await;
    fleet.send(2, 2).await;
    proxy.set(Mode::Forward);
    fleet.until_handled().await;
    worker.stop().await;
    fleet.finish().await;
    let late = "SELECT count(*) FROM hydrometer.object WHERE kind = 'late'";
    let late: i64 = fleet.deployment.database().await.client_ref().query_one(late, &[]).await.unwrap().get(0);
    assert_eq!(late, 0, "the clock closed what the broker still held");
    fleet.assert_sound("after a broker's silence").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_is_restarted_and_cut_off_under_load() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let (mut broker, proxy) = PrivateKafka::start_proxied(&kafka::libs_for_tests().unwrap(), dir.path()).unwrap();
    a_broker_that_is_away_is_no_silence(&broker, &proxy).await;
    let deployment = Deployment::new("kafka").await;
    let mut fleet = Fleet::on(deployment, &broker.bootstrap(), "kafka", &plan(37)).await;
    let mut behind_proxy = fleet.worker("first");
    behind_proxy.source.kafka.brokers = proxy.address();
    let first = fleet.start(&behind_proxy, None);
    let second = fleet.start(&fleet.worker("second"), None);
    fleet.until_owned_by(&["first", "second"]).await;
    fleet.send(2, 8).await;
    fleet.until_handled().await;

    // Silent until its partitions have moved, then broken for a moment.
    proxy.set(Mode::Stall);
    fleet.send(3, 8).await;
    fleet.until_owned_by(&["second"]).await;
    fleet.until_handled().await;
    proxy.set(Mode::Forward);
    fleet.until_owned_by(&["first", "second"]).await;
    fleet.send(4, 8).await;
    proxy.cut();
    fleet.until_handled().await;

    broker.restart().unwrap();
    fleet.send(6, 8).await;
    fleet.until_handled().await;
    broker.kill9();
    broker.restart().unwrap();
    fleet.send(7, 8).await;
    fleet.until_handled().await;
    first.stop_if_running().await;
    second.stop_if_running().await;
    fleet.finish().await;
    fleet.assert_sound("Kafka was cut off and restarted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_restarted_and_killed_under_load() {
    let dir = tempfile::Builder::new().prefix("hydrometer-pg").tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    // With fsync: what it has acknowledged is there after a kill.
    let mut postgres = PrivatePostgres::open(&dir.path().join("pg"), Options::default()).unwrap();
    let deployment = Deployment::on(&TestPostgres::new(&postgres.superuser()).unwrap(), "postgres").await;
    let mut fleet = Fleet::on(deployment, &kafka::for_tests().unwrap(), "postgres", &plan(38)).await;
    let (first, second) = two_workers(&mut fleet).await;
    for part in [3, 4, 5] {
        fleet.send(part, 8).await;
        if part == 3 {
            postgres.restart().unwrap();
        } else {
            postgres.kill9();
            // It is away for a while, and a worker comes just then.
            sleep(Duration::from_millis(700)).await;
            postgres.restart().unwrap();
        }
        fleet.until_handled().await;
    }
    // Away while partitions are handed over.
    postgres.stop().unwrap();
    let leaving = second;
    leaving.signal(Signal::KILL);
    sleep(Duration::from_secs(5)).await;
    postgres.restart().unwrap();
    fleet.send(7, 8).await;
    fleet.until_owned_by(&["first"]).await;
    fleet.until_handled().await;
    first.stop().await;
    fleet.finish().await;
    fleet.assert_sound("PostgreSQL was restarted and killed").await;
}
