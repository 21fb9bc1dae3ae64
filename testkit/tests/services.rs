//! The services that tests and the demo stand on: they start, stop, come back with their data, and end by themselves.

#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::time::{Duration, Instant};

use hydrometer_testkit::services::kafka::{self, PrivateKafka, Topic};
use hydrometer_testkit::services::postgres::{self, Lifetime, Options, PrivatePostgres};
use hydrometer_testkit::services::s3::{self, S3Server};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{FutureProducer, FutureRecord};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// A directory that the user `postgres` can reach, too.
fn scratch() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::Builder::new().prefix("hydrometer-test-").tempdir_in("/var/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    dir
}

async fn connect(connection: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(connection, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

fn alive(pid: u32) -> bool {
    // A process that nobody has waited for yet is over all the same.
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

fn until_idle(seconds: u64) -> Options {
    // The test plays the guard itself.
    let lifetime = Lifetime::UntilIdle { guard_program: "/bin/true".into(), idle: Duration::from_secs(seconds) };
    Options { lifetime, ..Options::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_keeps_its_data_over_stop_kill_and_restart() {
    let dir = scratch();
    let mut server = PrivatePostgres::open(&dir.path().join("pg"), Options::default()).unwrap();
    let client = connect(&server.superuser()).await;
    client.batch_execute("create table kept (n int); insert into kept values (1)").await.unwrap();

    let first = server.pid().unwrap();
    server.kill9();
    server.restart().unwrap();
    assert_ne!(server.pid().unwrap(), first);
    let client = connect(&server.superuser()).await;
    client.batch_execute("insert into kept values (2)").await.unwrap();

    server.stop().unwrap();
    assert_eq!(server.pid(), None);
    server.stop().unwrap();
    let server = PrivatePostgres::open(&dir.path().join("pg"), Options { fsync: false, ..Options::default() }).unwrap();
    let client = connect(&server.superuser()).await;
    let count: i64 = client.query_one("select count(*) from kept", &[]).await.unwrap().get(0);
    assert_eq!(count, 2);
    let listens: String = client.query_one("show listen_addresses", &[]).await.unwrap().get(0);
    assert_eq!(listens, "");

    let pid = server.pid().unwrap();
    drop(server);
    assert!(!alive(pid));
}

#[test]
fn those_who_open_one_directory_at_once_share_one_server() {
    let dir = scratch();
    let path = dir.path().join("pg");
    let servers: Vec<PrivatePostgres> = std::thread::scope(|scope| {
        let open =
            || scope.spawn(|| PrivatePostgres::open(&path, Options { fsync: false, ..Options::default() }).unwrap());
        let opening = [open(), open(), open()];
        opening.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    // The threads that started it are over; the server is not.
    let pids: Vec<Option<u32>> = servers.iter().map(PrivatePostgres::pid).collect();
    assert!(pids[0].is_some());
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
}

#[test]
fn a_stale_pid_file_that_names_a_living_process_does_not_stop_a_start() {
    let dir = scratch();
    let path = dir.path().join("pg");
    let mut server = PrivatePostgres::open(&path, Options { fsync: false, ..Options::default() }).unwrap();
    server.stop().unwrap();
    // The server runs as the owner of this test's processes or as postgres; our own id is a living process either way.
    std::fs::write(path.join("data/postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
    let server = PrivatePostgres::open(&path, Options { fsync: false, ..Options::default() }).unwrap();
    assert!(server.pid().is_some_and(|pid| pid != std::process::id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_stops_an_idle_server_and_only_an_idle_one() {
    let dir = scratch();
    let path = dir.path().join("pg");
    let idle = Duration::from_secs(2);
    let server = PrivatePostgres::open(&path, until_idle(2)).unwrap();
    let pid = server.pid().unwrap();
    let client = connect(&server.superuser()).await;
    drop(server);
    assert!(alive(pid), "it outlives the value that started it");

    let watched = path.clone();
    let guard = std::thread::spawn(move || postgres::guard(&watched, idle));
    tokio::time::sleep(idle * 2).await;
    client.simple_query("select 1").await.unwrap();
    let second = Instant::now();
    postgres::guard(&path, idle).unwrap();
    assert!(second.elapsed() < Duration::from_secs(1), "a second guard leaves at once");

    drop(client);
    let quiet = Instant::now();
    tokio::task::spawn_blocking(move || guard.join().unwrap()).await.unwrap().unwrap();
    assert!(quiet.elapsed() >= Duration::from_millis(1500), "stopped too early: {:?}", quiet.elapsed());
    // Its pid file goes a moment before it does.
    let deadline = Instant::now() + Duration::from_secs(10);
    while alive(pid) {
        assert!(Instant::now() < deadline, "the server has not ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // Opened again, it runs again; a guard whose server is gone leaves.
    let mut server = PrivatePostgres::open(&path, until_idle(2)).unwrap();
    server.stop().unwrap();
    postgres::guard(&path, idle).unwrap();
}

#[test]
fn a_directory_that_the_server_cannot_use_is_refused_with_a_hint() {
    let long = Path::new("/var/tmp").join("x".repeat(120));
    let error = PrivatePostgres::open(&long, Options::default()).unwrap_err();
    assert!(error.hint.contains("shorter path"), "{error}");

    let dir = scratch();
    if rustix::process::geteuid().is_root() {
        let closed = dir.path().join("closed");
        std::fs::create_dir(&closed).unwrap();
        std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let error = PrivatePostgres::open(&closed.join("pg"), Options::default()).unwrap_err();
        assert!(error.detail.ends_with("closed"), "{error}");
        assert!(error.hint.contains("/var/tmp"), "{error}");
        let error = PrivatePostgres::open(dir.path(), Options::default()).unwrap_err();
        assert!(error.what.contains("not empty"), "{error}");
    }
}

#[test]
fn a_server_that_does_not_start_says_why() {
    let dir = scratch();
    let settings = vec![("no_such_setting".to_owned(), "1".to_owned())];
    let error = PrivatePostgres::open(&dir.path().join("pg"), Options { settings, ..Options::default() }).unwrap_err();
    assert!(error.detail.contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn every_test_gets_a_database_of_its_own() {
    let server = postgres::for_tests().unwrap();
    let (one, to_one) = server.fresh_database("services").await.unwrap();
    let (two, _) = server.fresh_database("services").await.unwrap();
    assert_ne!(one, two);
    let client = connect(&to_one).await;
    let name: String = client.query_one("select current_database()::text", &[]).await.unwrap().get(0);
    assert_eq!(name, one);
    client.batch_execute("create table mine (n int)").await.unwrap();
}

async fn produce(bootstrap: &str, topic: &str, payload: &str) {
    let producer: FutureProducer = ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    let record = FutureRecord::to(topic).key("server-1").payload(payload);
    producer.send(record, Duration::from_secs(20)).await.unwrap();
}

fn consume(bootstrap: &str, topic: &str, count: usize) -> Vec<String> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", bootstrap).set("group.id", "test").create().unwrap();
    let mut partitions = rdkafka::TopicPartitionList::new();
    partitions.add_partition_offset(topic, 0, rdkafka::Offset::Beginning).unwrap();
    consumer.assign(&partitions).unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    let mut payloads = Vec::new();
    while payloads.len() < count && Instant::now() < end {
        if let Some(message) = consumer.poll(Duration::from_millis(200)) {
            payloads.push(String::from_utf8(message.unwrap().payload().unwrap().to_vec()).unwrap());
        }
    }
    payloads
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_keeps_its_data_over_stop_kill_and_restart() {
    let dir = scratch();
    let mut broker = PrivateKafka::start(&kafka::libs_for_tests().unwrap(), dir.path()).unwrap();
    let bootstrap = broker.bootstrap();
    broker.create_topic(&Topic::new("telemetry", 1)).await.unwrap();
    let again = broker.create_topic(&Topic::new("telemetry", 1)).await.unwrap_err();
    assert!(again.detail.contains("exists"), "{again}");

    produce(&bootstrap, "telemetry", "before").await;
    broker.restart().unwrap();
    assert_eq!(broker.bootstrap(), bootstrap);
    produce(&bootstrap, "telemetry", "after a stop").await;
    broker.kill9();
    assert_eq!(broker.pid(), None);
    broker.restart().unwrap();
    produce(&bootstrap, "telemetry", "after a kill").await;
    assert_eq!(consume(&bootstrap, "telemetry", 3), ["before", "after a stop", "after a kill"]);

    let pid = broker.pid().unwrap();
    drop(broker);
    assert!(!alive(pid));
}

#[tokio::test]
async fn the_tests_broker_answers() {
    let bootstrap = kafka::for_tests().unwrap();
    let name = format!("services-{}", std::process::id());
    kafka::create_topic(&bootstrap, &Topic::new(&name, 3)).await.unwrap();
    produce(&bootstrap, &name, "hello").await;
}

#[test]
fn s3_starts_takes_a_bucket_and_ends() {
    let dir = scratch();
    let server = S3Server::start(&s3::python_for_tests().unwrap(), dir.path()).unwrap();
    server.create_bucket("warehouse").unwrap();
    assert!(server.endpoint().starts_with("http://127.0.0.1:"));
}
