//! Troubles that an operator meets. The program says what happened, where, and what to do, with the exit status for it; and once the
//! trouble is mended, the same run ends in the right totals.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{SystemTime, UNIX_EPOCH};

use common::{Deployment, LogLine, assert_proven, write_topic};
use hydrometer_cli::connection::APP_ROLE;
use hydrometer_pipeline::config::{Config, SourceKind};
use hydrometer_schemas::time::{MICROS_PER_SECOND, hour_ceil, show_second};
use hydrometer_testkit::fleet::{
    Fault, Faults, Format, Formats, LogOptions, Outcome, Plan, Topic, generate, write_logs,
};
use hydrometer_testkit::services::kafka;
use hydrometer_testkit::services::postgres::{Options, PrivatePostgres, TestPostgres};

/// `hydrometer run` to its end.
fn run(config: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hydrometer"));
    command.arg("run").arg("--config").arg(config).env_remove("HYDROMETER_LOG");
    command.output().unwrap()
}

/// The run does not come about, with this exit status, and says all of this.
fn refused(deployment: &Deployment, config: &Config, says: &[&str]) {
    refused_file(&deployment.write_config(config), 3, says);
}

fn refused_file(config: &Path, status: i32, says: &[&str]) {
    let output = run(config);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(status), "{said}");
    for part in says {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// The run ends by itself, and well; what it said.
fn ends_well(deployment: &Deployment, config: &Config) -> String {
    let output = run(&deployment.write_config(config));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    said
}

fn small_fleet() -> Plan {
    Plan { seconds: 600, servers: 2, gpus_per_server: 2, faults: Faults::all(), ..Plan::small(5) }
}

/// Partition logs of a small fleet, and the configuration that meters them.
fn logs_of_a_fleet(deployment: &Deployment) -> (Config, Outcome) {
    let plan = small_fleet();
    let outcome = write_logs(&deployment.path("logs"), &plan, LogOptions { zstd: false }, &mut |_| {}).unwrap();
    (config_until(deployment, &plan), outcome)
}

fn config_until(deployment: &Deployment, plan: &Plan) -> Config {
    let mut config = deployment.config();
    config.source.files.until = show_second(hour_ceil(plan.end_us() / MICROS_PER_SECOND));
    config
}

#[tokio::test]
async fn the_database_cannot_be_used() {
    let deployment = Deployment::new("troubles_db").await;
    let (good, outcome) = logs_of_a_fleet(&deployment);
    let with = |url: &str| {
        let mut config = good.clone();
        config.database.url = url.to_owned();
        config
    };
    // Nothing listens there.
    refused(
        &deployment,
        &with("host=127.0.0.1 port=1 user=hydrometer_app dbname=meter"),
        &[
            "cannot connect to the database",
            "host 127.0.0.1, user hydrometer_app, database meter",
            "is the server running",
        ],
    );
    refused(
        &deployment,
        &with("host=/nowhere user=hydrometer_app dbname=meter"),
        &["cannot connect to the database", "host /nowhere", "is the server running"],
    );
    refused(
        &deployment,
        &with(&format!("{} user=somebody_else", good.database.url)),
        &["user somebody_else", "the server refuses this login", "HYDROMETER_DATABASE_URL"],
    );
    refused(
        &deployment,
        &with(&format!("{} dbname=no_such_database", good.database.url)),
        &["database no_such_database", "there is no such database", "hydrometer migrate"],
    );
    refused(
        &deployment,
        &with("this is no address"),
        &["cannot connect to the database", "expected something like host="],
    );
    ends_well(&deployment, &good);
    assert_proven(&deployment, &outcome, "after the troubles").await;
}

#[tokio::test]
async fn a_database_without_tables_asks_for_migrate() {
    let deployment = Deployment::new("troubles_migrated").await;
    let (mut config, outcome) = logs_of_a_fleet(&deployment);
    let good = config.clone();
    let postgres = hydrometer_testkit::services::postgres::for_tests().unwrap();
    let (name, _) = postgres.fresh_database("troubles_empty").await.unwrap();
    config.database.url = format!("{} dbname='{name}'", good.database.url);
    refused(&deployment, &config, &["hydrometer migrate"]);
    ends_well(&deployment, &good);
    assert_proven(&deployment, &outcome, "after the trouble").await;
}

#[tokio::test]
async fn a_wrong_password_is_refused() {
    let dir = tempfile::Builder::new().prefix("hydrometer-pg").tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    let mut postgres =
        PrivatePostgres::open(&dir.path().join("pg"), Options { fsync: false, ..Options::default() }).unwrap();
    let deployment = Deployment::on(&TestPostgres::new(&postgres.superuser()).unwrap(), "password").await;
    let owner = deployment.owner().await;
    owner.client_ref().batch_execute(&format!("ALTER ROLE {APP_ROLE} PASSWORD 'right'")).await.unwrap();
    fs::write(postgres.dir().join("data/pg_hba.conf"), "local all postgres trust\nlocal all all scram-sha-256\n")
        .unwrap();
    postgres.restart().unwrap();

    let (mut config, outcome) = logs_of_a_fleet(&deployment);
    let hint = ["password", "the server refuses this login", "check user and password", "HYDROMETER_DATABASE_URL"];
    config.database.url = format!("{} password=wrong", deployment.app_url);
    refused(&deployment, &config, &hint);
    // The password is never shown.
    let said = String::from_utf8_lossy(&run(&deployment.write_config(&config)).stderr).into_owned();
    assert!(!said.contains("wrong"), "{said}");
    config.database.url = format!("{} password=right", deployment.app_url);
    ends_well(&deployment, &config);
    drop(config);
    fs::write(postgres.dir().join("data/pg_hba.conf"), "local all all trust\n").unwrap();
    postgres.restart().unwrap();
    assert_proven(&deployment, &outcome, "after the trouble").await;
}

#[tokio::test]
async fn a_warehouse_that_cannot_be_written() {
    let deployment = Deployment::new("troubles_warehouse").await;
    let (good, outcome) = logs_of_a_fleet(&deployment);
    let with = |url: String| {
        let mut config = good.clone();
        config.warehouse.url = url;
        config
    };
    // Tests may run as root, to whom every folder is open; a file in its place stops root too.
    let file = deployment.path("file");
    fs::write(&file, "").unwrap();
    let hint = "a file stands where a folder should be";
    refused(&deployment, &with(file.display().to_string()), &["create the warehouse folder", "file", hint]);
    refused(&deployment, &with(file.join("below").display().to_string()), &["create the warehouse folder", hint]);
    let folder = deployment.path("half");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("staging"), "").unwrap();
    refused(&deployment, &with(folder.display().to_string()), &["cannot stage", "in the warehouse"]);
    refused(&deployment, &with("ftp://host/folder".into()), &["ftp://", "Expected a folder"]);
    ends_well(&deployment, &good);
    assert_proven(&deployment, &outcome, "after the troubles").await;
}

#[tokio::test]
async fn logs_that_are_not_there() {
    let deployment = Deployment::new("troubles_logs").await;
    let (good, _) = logs_of_a_fleet(&deployment);
    let mut config = good.clone();
    config.source.files.dir = deployment.path("elsewhere");
    refused(&deployment, &config, &["cannot read the partition logs of topic gpu.telemetry", "elsewhere", "0.log"]);
    let mut config = good;
    config.source.files.until = "tomorrow".into();
    refused_file(&deployment.write_config(&config), 2, &["source.files.until", "RFC 3339"]);
}

#[test]
fn a_bad_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hydrometer.toml");
    let example = "examples/hydrometer.toml shows every key";
    let good = "[database]\nurl = \"host=/nowhere\"\n[warehouse]\nurl = \"/nowhere\"\n";
    for (text, says) in [
        ("[databse]\nurl = \"x\"\n".to_owned(), &["line 1", "databse", example][..]),
        (format!("{good}folder = \"x\"\n"), &["line 5", "folder", example]),
        (format!("{good}[windows]\nlateness_s = \"long\"\n"), &["line 6", "lateness_s", example]),
        (format!("{good}[windows]\nvouches_for_s = 0\n"), &["windows.vouches_for_s must be 1 to 3600"]),
        (format!("{good}[source]\nkind = \"pipe\"\n"), &["line 6", "pipe", example]),
        (format!("{good}[source]\nbatch_records = 0\n"), &["source.batch_records must be 1 to 1000000"]),
        (format!("{good}[events]\ntopic = \"gpu.lifecycle\"\n"), &["events.topic must differ"]),
        ("[warehouse]\nurl = \"w\"\n".into(), &["database.url is missing", "HYDROMETER_DATABASE_URL"]),
        ("[database]\nurl = \"x\"\n".into(), &["warehouse.url is missing", "s3://bucket/prefix"]),
        ("[database\n".into(), &["line 1", example]),
    ] {
        fs::write(&path, text).unwrap();
        refused_file(&path, 3, &[says, &[path.to_str().unwrap()]].concat());
    }
    refused_file(&dir.path().join("absent.toml"), 3, &["cannot read the configuration", "absent.toml"]);

    fs::write(&path, good).unwrap();
    let mut wrong = Command::new(env!("CARGO_BIN_EXE_hydrometer"));
    wrong.arg("run").arg("--config").arg(&path).env("HYDROMETER_WINDOWS_IDLE_S", "soon");
    let output = wrong.output().unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stderr).contains("HYDROMETER_WINDOWS_IDLE_S=soon"));
    let wrong_use = Command::new(env!("CARGO_BIN_EXE_hydrometer")).args(["run", "--fast"]).output().unwrap();
    assert_eq!(wrong_use.status.code(), Some(2));
}

#[test]
fn the_example_configuration_is_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/hydrometer.toml");
    let config = Config::load(&path).unwrap();
    assert_eq!(config.source.kind, SourceKind::Kafka);
    assert!(config.database.url.contains(APP_ROLE));
    // Every key is in it, commented out where the usual value is none.
    let text = fs::read_to_string(&path).unwrap();
    let whole = serde_json::to_value(Config::default()).unwrap();
    let mut tables = vec![(String::new(), &whole)];
    while let Some((name, table)) = tables.pop() {
        for (key, value) in table.as_object().unwrap() {
            if value.is_object() {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                assert!(text.contains(&format!("[{name}]")), "[{name}] is not in the example");
                tables.push((name, value));
            } else {
                let has = text.lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{key} = ")));
                assert!(has, "{key} of [{name}] is not in the example");
            }
        }
    }
}

/// Without keys a server's records come in every partition. The program says so, and rates them all the same.
#[tokio::test]
async fn an_unkeyed_topic() {
    let deployment = Deployment::new("troubles_unkeyed").await;
    let plan = Plan {
        seconds: 900,
        servers: 3,
        gpus_per_server: 4,
        formats: Formats::Only(Format::Single),
        faults: Faults::all().without(Fault::SecondPartition),
        ..Plan::small(9)
    };
    let mut records = Vec::new();
    let outcome = generate(&plan, &mut |record| {
        records.push(record);
        Ok(())
    })
    .unwrap();
    let mut telemetry: Vec<Vec<LogLine<'_>>> = vec![Vec::new(); 4];
    let mut lifecycle: Vec<LogLine<'_>> = Vec::new();
    for (number, record) in records.iter().enumerate() {
        let line: LogLine<'_> = (record.log_time_us, "", &record.payload);
        match record.topic {
            Topic::Telemetry => telemetry[number % 4].push(line),
            Topic::Lifecycle => lifecycle.push(line),
        }
    }
    write_topic(&deployment.path("logs"), "gpu.telemetry", &telemetry);
    write_topic(&deployment.path("logs"), "gpu.lifecycle", &[lifecycle]);
    let said = ends_well(&deployment, &config_until(&deployment, &plan));
    for part in
        ["away from their server's home", "written without keys", "Nothing is lost", "key the records by server"]
    {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    assert_proven(&deployment, &outcome, "unkeyed").await;
}

/// A name that no other run has.
fn unique(name: &str) -> String {
    format!("{name}-{}", SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos())
}

fn kafka_config(deployment: &Deployment, brokers: &str, name: &str) -> Config {
    let mut config = deployment.config();
    config.source.kind = SourceKind::Kafka;
    config.source.kafka.brokers = brokers.to_owned();
    config.source.kafka.group = unique("group");
    config.topics.telemetry = format!("{name}.telemetry");
    config.topics.lifecycle = format!("{name}.lifecycle");
    config
}

#[tokio::test]
async fn a_broker_that_is_not_there() {
    let deployment = Deployment::new("troubles_broker").await;
    let config = kafka_config(&deployment, "127.0.0.1:1", "any");
    refused(&deployment, &config, &["cannot reach Kafka at 127.0.0.1:1", "source.kafka.brokers", "nc -vz"]);
}

#[tokio::test]
async fn topics_that_cannot_be_read() {
    let brokers = kafka::for_tests().unwrap();
    let deployment = Deployment::new("troubles_topics").await;
    let config = kafka_config(&deployment, &brokers, &unique("topics"));
    let (telemetry, lifecycle) = (&*config.topics.telemetry, &*config.topics.lifecycle);
    let missing = format!("there is no topic {telemetry} at {brokers}");
    refused(&deployment, &config, &[&missing, "kafka-topics.sh --create", "LogAppendTime"]);

    // Producers' clocks are refused, unless they are asked for; and Kafka's error is about the topic that has them.
    let producers = kafka::Topic { timestamp_type: "CreateTime", ..kafka::Topic::new(telemetry, 2) };
    kafka::create_topic(&brokers, &producers).await.unwrap();
    let clocks = format!("topic {telemetry} carries its producers' timestamps (CreateTime)");
    refused(&deployment, &config, &[&clocks, "kafka-configs.sh --alter", "source.kafka.accept_producer_time = true"]);
    let mut accepting = config.clone();
    accepting.source.kafka.accept_producer_time = true;
    let missing = format!("there is no topic {lifecycle} at {brokers}");
    refused(&deployment, &accepting, &[&missing]);

    let mut options = config.clone();
    options.source.kafka.options.insert("no.such.setting".into(), "1".into());
    refused(&deployment, &options, &["no.such.setting"]);
}
