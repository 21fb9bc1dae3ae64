//! The ledger's events on a real Kafka topic: a consumer sees each committed one at least once, none that was rolled back, those of a
//! subject in their order, and what comes twice with the same id and the same bytes; whatever is killed, frozen or restarted.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use common::Deployment;
use common::events::{Outbox, write};
use common::fleet::{Fleet, until};
use common::storm::{Chance, seed_of_run};
use hydrometer_pipeline::store::Database;
use hydrometer_testkit::fleet::{Fault, Plan};
use hydrometer_testkit::services::kafka::{self, PrivateKafka, Topic, create_topic};
use hydrometer_testkit::services::postgres::{Options, PrivatePostgres, TestPostgres};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rustix::process::Signal;

async fn outbox(name: &str) -> Outbox {
    Outbox::new(Deployment::new(name).await, &kafka::for_tests().unwrap(), name).await
}

const STEPS: [&str; 4] = ["events.claimed", "events.sent", "events.confirmed", "events.recorded"];
const KILLS: u64 = 32;

/// Killed at each step and at random, frozen while another one takes over, and woken again.
#[tokio::test(flavor = "multi_thread")]
async fn kills_and_zombies_lose_nothing_and_change_no_order() {
    let seed = seed_of_run();
    eprintln!("HYDROMETER_SEED={seed} repeats these events and troubles");
    let outbox = outbox("events_killed").await;
    let mut chance = Chance::new(seed);
    let (mut at_steps, mut at_random, mut zombies) = (0, 0, 0);
    let troubles = async {
        for round in 0..KILLS {
            let name = format!("killed-{round}");
            match round % 4 {
                // There is something to publish until the writers end.
                0 | 1 => {
                    let step = STEPS[(round / 2 % 4) as usize];
                    let times = if step == STEPS[0] { 1 } else { 1 + chance.below(3) };
                    let mut publisher = outbox.publisher(&name, Some(&format!("{step}:{times}")));
                    let status = publisher.ended(step).await;
                    assert_eq!(status.signal(), Some(9), "{step}: {status}\n{}", publisher.said());
                    at_steps += 1;
                }
                2 => {
                    let mut publisher = outbox.publisher(&name, None);
                    publisher.until_says("publishing events").await;
                    tokio::time::sleep(Duration::from_millis(chance.below(400))).await;
                    assert!(publisher.kill9(), "{}", publisher.said());
                    at_random += 1;
                }
                _ => {
                    // It sleeps with a page in its hands; whoever comes next publishes the same, and is killed.
                    let step = STEPS[1 + chance.below(2) as usize];
                    let mut frozen = outbox.publisher(&name, Some(&format!("{step}=stop")));
                    until("the publisher is frozen", async || is_stopped(&frozen)).await;
                    let mut next = outbox.publisher(&format!("next-{round}"), None);
                    next.until_says("publishing events").await;
                    tokio::time::sleep(Duration::from_millis(chance.below(400))).await;
                    let status = frozen.woken_until_ended("the older publisher stops").await;
                    assert_eq!(status.code(), Some(3), "{}", frozen.said());
                    assert!(frozen.said().contains("has another publisher now: next-"), "{}", frozen.said());
                    assert!(next.kill9(), "{}", next.said());
                    zombies += 1;
                }
            }
        }
    };
    let (written, ()) = tokio::join!(write(&outbox.deployment, seed, 24, 130, 400), troubles);
    let last = outbox.publisher("last", None);
    until("everything is published", async || outbox.is_published().await).await;
    last.stop().await;
    let seen = outbox.assert_published(&written.rolled_back, &format!("HYDROMETER_SEED={seed}")).await;
    assert_eq!(seen.events, written.committed.len());
    assert!(seen.events > 3_000 && written.rolled_back.len() > 1_000, "{seen:?}");
    assert!(seen.repeated > 0, "kills between sending and recording send again");
    eprintln!("killed {at_steps} at steps, {at_random} at random; {zombies} zombies; {seen:?}");
}

fn is_stopped(running: &common::fleet::Running) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", running.pid())).unwrap();
    stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
}

/// A zombie whose page the next publisher has published long ago.
#[tokio::test(flavor = "multi_thread")]
async fn the_older_of_two_publishers_stops() {
    let outbox = outbox("events_two").await;
    let written = write(&outbox.deployment, 1, 4, 40, 0).await;
    let mut older = outbox.publisher("older", Some("events.sent=stop"));
    until("the older one is frozen", async || is_stopped(&older)).await;
    let newer = outbox.publisher("newer", None);
    until("everything is published", async || outbox.is_published().await).await;
    let before = outbox.assert_published(&written.rolled_back, "by the newer one").await;
    let status = older.woken_until_ended("the older one stops").await;
    assert_eq!(status.code(), Some(3), "{}", older.said());
    assert!(older.said().contains("newer (process "), "{}", older.said());
    assert!(outbox.is_published().await, "the position has not gone back");
    // The newer one works on.
    let more = write(&outbox.deployment, 2, 4, 10, 0).await;
    until("everything is published", async || outbox.is_published().await).await;
    newer.stop().await;
    let after = outbox.assert_published(&more.rolled_back, "after the older one").await;
    assert_eq!(after.events, before.events + more.committed.len());
    assert!(after.repeated > 0, "what the older one had in its hands came again");
}

/// Servers of its own, killed and restarted under load: the publisher waits for them, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn it_outlives_its_servers() {
    let seed = seed_of_run();
    eprintln!("HYDROMETER_SEED={seed} repeats these events");
    let dir = tempfile::Builder::new().prefix("hydrometer-events").tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    let mut postgres = PrivatePostgres::open(&dir.path().join("pg"), Options::default()).unwrap();
    let mut broker = PrivateKafka::start(&kafka::libs_for_tests().unwrap(), &dir.path().join("kafka")).unwrap();
    let deployment = Deployment::on(&TestPostgres::new(&postgres.superuser()).unwrap(), "events_servers").await;
    let outbox = Outbox::new(deployment, &broker.bootstrap(), "events_servers").await;
    let publisher = outbox.publisher("lasting", None);
    let published = async |least: i64| {
        until("it publishes", async || outbox.standing().await.is_some_and(|(_, published)| published >= least)).await;
        outbox.standing().await.unwrap().1
    };
    let troubles = async {
        let mut so_far = published(1).await;
        for trouble in 0..4 {
            match trouble {
                0 => {
                    broker.kill9();
                    // Long enough that its hold has to be renewed meanwhile, and that it says what it waits for.
                    tokio::time::sleep(Duration::from_secs(16)).await;
                    broker.restart().unwrap();
                }
                1 => postgres.restart().unwrap(),
                2 => broker.restart().unwrap(),
                _ => {
                    postgres.kill9();
                    postgres.restart().unwrap();
                }
            }
            so_far = published(so_far + 1).await;
        }
    };
    let (written, ()) = tokio::join!(write(&outbox.deployment, seed, 8, 400, 200), troubles);
    until("everything is published", async || outbox.is_published().await).await;
    let said = publisher.said();
    assert!(said.contains("Kafka has not confirmed the events"), "{said}");
    assert!(said.contains("publishing events is held up"), "{said}");
    publisher.stop().await;
    let seen = outbox.assert_published(&written.rolled_back, &format!("HYDROMETER_SEED={seed}")).await;
    assert!(seen.events >= written.committed.len(), "what was acknowledged is there: {seen:?}");
}

/// A stream's corrections, published by whichever worker has its turn; its end lets the next one begin.
#[tokio::test(flavor = "multi_thread")]
async fn workers_publish_by_turns() {
    let base = Plan::small(31);
    let faults = base.faults.clone().with(Fault::VeryLate, 0.02).with(Fault::LateEvent, 0.3);
    let plan = Plan { seconds: 5_400, servers: 4, gpus_per_server: 2, telemetry_partitions: 4, faults, ..base };
    let mut fleet = Fleet::new("events_run", &plan).await;
    let topic = format!("{}.events", fleet.config.topics.telemetry);
    fleet.config.events.topic = topic.clone();
    let brokers = kafka::for_tests().unwrap();

    // Without the topic the stream goes on, and says what is missing.
    let mut early = fleet.start(&fleet.worker("early"), None);
    fleet.send(1, 4).await;
    fleet.until_handled().await;
    early.until_says(&format!("there is no topic {topic}")).await;
    early.stop().await;
    create_topic(&brokers, &Topic::new(&topic, common::events::PARTITIONS)).await.unwrap();

    let first = fleet.start(&fleet.worker("first"), None);
    let url = fleet.deployment.app_url.clone();
    let held_by = async |name: &str| {
        let sql = "SELECT holder LIKE $1 || ' (%' AND held_until > clock_timestamp() FROM ledger.outbox_reader";
        let db = Database::connect(&url).await.unwrap();
        db.client_ref().query_opt(sql, &[&name]).await.unwrap().is_some_and(|row| row.get(0))
    };
    until("the first worker publishes", async || held_by("first").await).await;
    let second = fleet.start(&fleet.worker("second"), None);
    fleet.send(2, 4).await;
    fleet.until_handled().await;
    assert!(held_by("first").await, "the second one waits");
    first.stop().await;
    until("the second worker publishes", async || held_by("second").await).await;
    // Killed, it leaves the outbox to the next one after a while.
    let mut second = second;
    assert!(second.kill9());
    let published = "SELECT count(*) > 0 AND bool_and((o.xid::text::numeric, o.time, o.id) <= (r.after_xid, r.after_time, r.after_id)) \
                     FROM ledger.outbox o, ledger.outbox_reader r";
    fleet
        .finish_when(async |db| {
            let row = db.client_ref().query_one(published, &[]).await.unwrap();
            row.get::<_, Option<bool>>(0) == Some(true)
        })
        .await;
    fleet.assert_sound("events_run").await;

    let corrections = "SELECT count(*) FROM ledger.transaction WHERE kind = 'correction'";
    let db = fleet.deployment.database().await;
    let corrections: i64 = db.client_ref().query_one(corrections, &[]).await.unwrap().get(0);
    let outbox = Outbox { deployment: fleet.deployment, brokers, topic };
    let seen = outbox.assert_published(&BTreeSet::new(), "a stream's corrections").await;
    assert_eq!(seen.events as i64, corrections);
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_say_what_is_there_and_what_is_wrong() {
    let outbox = outbox("events_commands").await;
    let written = write(&outbox.deployment, 3, 1, 3, 0).await;
    let events = written.committed.len();
    assert!(events > 0);
    let show = |args: &[&str]| {
        let (status, out, err) = outbox.run(&[&["events", "show", "--format", "json"], args].concat());
        assert_eq!(status, Some(0), "{err}");
        let lines = out.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.map(|line| line["published"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(show(&["--waiting"]), vec!["waiting"; events]);
    // Open transactions of other tests hold it back for a moment.
    until("everything is published", async || {
        let (status, out, err) = outbox.run(&["events", "publish", "--once"]);
        assert_eq!(status, Some(0), "{err}");
        assert!(out.starts_with(&format!("published to {}: ", outbox.topic)), "{out}");
        outbox.is_published().await
    })
    .await;
    assert_eq!(show(&[]), vec!["yes"; events]);
    assert_eq!(show(&["--waiting"]), vec![""; 0]);
    assert_eq!(show(&["--limit", "1"]).len(), 1);
    assert!(outbox.run(&["events", "publish", "--once"]).1.ends_with(": 0 events\n"));
    let seen = outbox.assert_published(&written.rolled_back, "--once").await;
    assert_eq!((seen.events, seen.repeated), (events, 0));

    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &outbox.brokers).create().unwrap();
    admin.delete_topics(&[&outbox.topic], &AdminOptions::new()).await.unwrap();
    let compacted = Topic { config: vec![("cleanup.policy", "compact")], ..Topic::new(&outbox.topic, 1) };
    for (what, words) in
        [("missing", ["there is no topic", "create it:"]), ("compacted", ["is compacted", "cleanup.policy=delete"])]
    {
        if what == "compacted" {
            until("it can be made anew", async || create_topic(&outbox.brokers, &compacted).await.is_ok()).await;
        }
        let mut last = String::new();
        until(what, async || {
            let (status, _, err) = outbox.run(&["events", "publish", "--once"]);
            last = err;
            status == Some(3) && words.iter().all(|word| last.contains(word))
        })
        .await;
    }
    let nowhere = Outbox { brokers: String::new(), ..outbox };
    let (status, _, err) = nowhere.run(&["events", "publish"]);
    assert!(status == Some(2) && err.contains("`events.brokers`"), "{err}");
}

/// SIGTERM lets it finish and let go, so that the next one begins at once.
#[tokio::test(flavor = "multi_thread")]
async fn it_ends_cleanly() {
    let outbox = outbox("events_ends").await;
    let written = write(&outbox.deployment, 4, 2, 20, 0).await;
    let mut publisher = outbox.publisher("ends", None);
    until("everything is published", async || outbox.is_published().await).await;
    publisher.signal(Signal::TERM);
    assert_eq!(publisher.ended("SIGTERM ends it").await.code(), Some(0), "{}", publisher.said());
    let free = "SELECT held_until <= clock_timestamp() FROM ledger.outbox_reader";
    let db = outbox.deployment.database().await;
    assert!(db.client_ref().query_one(free, &[]).await.unwrap().get::<_, bool>(0));
    let seen = outbox.assert_published(&written.rolled_back, "ended").await;
    assert_eq!(seen.repeated, 0, "nothing is sent twice without need");
}
