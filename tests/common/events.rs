//! Publishers of the outbox as processes, writers whose transactions commit out of order, and a consumer that knows from the
//! database alone what it has to see.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use hydrometer_ledger::outbox::{Event, insert};
use hydrometer_pipeline::config::Config;
use hydrometer_pipeline::store::Database;
use hydrometer_testkit::services::kafka::{Topic, create_topic};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Deployment;
use super::fleet::Running;
use super::storm::Chance;

pub const PARTITIONS: i32 = 4;

/// A database with an outbox, and a topic of its own.
pub struct Outbox {
    pub deployment: Deployment,
    pub brokers: String,
    pub topic: String,
}

impl Outbox {
    pub async fn new(deployment: Deployment, brokers: &str, name: &str) -> Outbox {
        let topic = format!("{name}-{}", std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos());
        create_topic(brokers, &Topic::new(&topic, PARTITIONS)).await.unwrap();
        Outbox { deployment, brokers: brokers.to_owned(), topic }
    }

    pub fn config(&self, name: &str) -> Config {
        let mut config = Config { worker: name.to_owned(), ..self.deployment.config() };
        config.events.topic = self.topic.clone();
        config.events.brokers = self.brokers.clone();
        config
    }

    /// `hydrometer events publish`, under a name.
    pub fn publisher(&self, name: &str, failpoint: Option<&str>) -> Running {
        let (mut command, log) = self.command(name, &["events", "publish"]);
        if let Some(failpoint) = failpoint {
            command.env("HYDROMETER_FAILPOINT", failpoint);
        }
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file).spawn().unwrap();
        Running::new(name, child, log)
    }

    /// Runs the program to its end: status, standard output, standard error.
    pub fn run(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let (mut command, _) = self.command("once", args);
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    fn command(&self, name: &str, args: &[&str]) -> (Command, PathBuf) {
        let written = self.deployment.write_config(&self.config(name));
        let path = self.deployment.path(&format!("{name}.toml"));
        std::fs::rename(written, &path).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_hydrometer"));
        command.args(args).arg("--config").arg(&path);
        command.env_remove("HYDROMETER_LOG").env_remove("HYDROMETER_FAILPOINT");
        (command, path.with_extension("log"))
    }

    /// How many events are committed, and how many of them a publisher has recorded as published. The database may be on its way back.
    pub async fn standing(&self) -> Option<(i64, i64)> {
        let db = Database::connect(&self.deployment.app_url).await.ok()?;
        let sql = "SELECT count(*), count(*) FILTER (WHERE (o.xid::text::numeric, o.time, o.id) <= (r.after_xid, r.after_time, r.after_id)) \
                   FROM ledger.outbox o LEFT JOIN ledger.outbox_reader r ON r.name = $1";
        let row = db.client_ref().query_one(sql, &[&self.topic]).await.ok()?;
        Some((row.get(0), row.get(1)))
    }

    pub async fn is_published(&self) -> bool {
        self.standing().await.is_some_and(|(all, published)| all == published)
    }

    /// Everything that the database says is committed must be in the topic, in order, and nothing else.
    pub async fn assert_published(&self, rolled_back: &BTreeSet<Uuid>, context: &str) -> Seen {
        let rows = self.rows().await;
        let seen = self.consume();
        let mut wrong = Vec::new();
        let mut first_seen: BTreeMap<&str, Vec<Uuid>> = BTreeMap::new();
        let mut bytes: BTreeMap<Uuid, &Record> = BTreeMap::new();
        for record in &seen.records {
            let Some(row) = rows.get(&record.id) else {
                let rolled_back = rolled_back.contains(&record.id);
                wrong.push(format!("{} is not in the outbox (rolled back: {rolled_back})", record.id));
                continue;
            };
            wrong.extend(row.differences(record));
            match bytes.get(&record.id) {
                Some(first) if first.value == record.value && first.partition == record.partition => {}
                Some(_) => wrong.push(format!("{} came again with other bytes or elsewhere", record.id)),
                None => {
                    bytes.insert(record.id, record);
                    first_seen.entry(&row.subject).or_default().push(record.id);
                }
            }
        }
        wrong.extend(rows.keys().filter(|id| !bytes.contains_key(id)).map(|id| format!("{id} was not published")));
        let mut in_order: Vec<(&Uuid, &Row)> = rows.iter().collect();
        in_order.sort_by_key(|(id, row)| (row.xid, row.time, **id));
        for (subject, ids) in &first_seen {
            let wanted = in_order.iter().filter(|(_, row)| row.subject == *subject).map(|(id, _)| **id);
            if !wanted.eq(ids.iter().copied()) {
                wrong.push(format!("{subject} is out of order"));
            }
        }
        assert!(wrong.is_empty(), "{context}: {} faults\n{}", wrong.len(), wrong[..wrong.len().min(10)].join("\n"));
        assert!(rolled_back.iter().all(|id| !rows.contains_key(id)), "{context}: the writers' memory is right");
        Seen { repeated: seen.records.len() - bytes.len(), events: bytes.len() }
    }

    async fn rows(&self) -> BTreeMap<Uuid, Row> {
        let db = self.deployment.database().await;
        let sql = "SELECT id, xid::text::bigint, type, subject, time, data FROM ledger.outbox";
        let rows = db.client_ref().query(sql, &[]).await.unwrap();
        let row = |row: &tokio_postgres::Row| Row {
            xid: row.get(1),
            kind: row.get(2),
            subject: row.get(3),
            time: row.get(4),
            data: row.get(5),
        };
        rows.iter().map(|r| (r.get(0), row(r))).collect()
    }

    /// The whole topic, partition by partition.
    fn consume(&self) -> Consumed {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.brokers)
            .set("group.id", "test")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        let (mut list, mut left) = (TopicPartitionList::new(), 0);
        for partition in 0..PARTITIONS {
            let (low, high) = consumer.fetch_watermarks(&self.topic, partition, Duration::from_secs(30)).unwrap();
            assert_eq!(low, 0);
            left += high;
            list.add_partition_offset(&self.topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        let mut records = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(60);
        while left > 0 {
            assert!(Instant::now() < deadline, "{left} records do not come");
            if let Some(message) = consumer.poll(Duration::from_millis(100)) {
                records.push(Record::of(&message.unwrap()));
                left -= 1;
            }
        }
        Consumed { records }
    }
}

/// What a consumer saw.
#[derive(Debug)]
pub struct Seen {
    pub events: usize,
    pub repeated: usize,
}

struct Consumed {
    records: Vec<Record>,
}

struct Record {
    id: Uuid,
    partition: i32,
    key: String,
    content_type: String,
    value: Vec<u8>,
}

impl Record {
    fn of(message: &impl Message) -> Record {
        let value = message.payload().unwrap().to_vec();
        let event: Value = serde_json::from_slice(&value).unwrap();
        let header = message.headers().unwrap().get(0);
        assert_eq!(header.key, "content-type");
        Record {
            id: event["id"].as_str().unwrap().parse().unwrap(),
            partition: message.partition(),
            key: String::from_utf8(message.key().unwrap().to_vec()).unwrap(),
            content_type: String::from_utf8(header.value.unwrap().to_vec()).unwrap(),
            value,
        }
    }
}

struct Row {
    xid: i64,
    kind: String,
    subject: String,
    time: DateTime<Utc>,
    data: Value,
}

impl Row {
    /// Where a record says something else than its row.
    fn differences(&self, record: &Record) -> Vec<String> {
        let event: Value = serde_json::from_slice(&record.value).unwrap();
        let time: DateTime<Utc> = event["time"].as_str().unwrap().parse().unwrap();
        let expected = json!({
            "specversion": "1.0", "id": record.id.to_string(), "source": "hydrometer",
            "type": format!("gpu.billing.{}", self.kind), "subject": self.subject, "time": event["time"],
            "datacontenttype": "application/json", "data": self.data,
        });
        let mut wrong = Vec::new();
        if event != expected || time != self.time {
            wrong.push(format!("{} says {event} instead of {expected} at {}", record.id, self.time));
        }
        if record.key != self.subject || record.content_type != "application/cloudevents+json; charset=UTF-8" {
            wrong.push(format!("{} has the key {} and the type {}", record.id, record.key, record.content_type));
        }
        wrong
    }
}

/// What writers remember.
#[derive(Default)]
pub struct Written {
    pub committed: BTreeSet<Uuid>,
    pub rolled_back: BTreeSet<Uuid>,
}

/// Many writers at once, each with transactions of one to five events about a few wallets: open for a moment each, so that they
/// commit in another order than they began; one of four is rolled back. A database that goes away is waited for.
pub async fn write(deployment: &Deployment, seed: u64, writers: u64, transactions: u64, pause_ms: u64) -> Written {
    let mut tasks = Vec::new();
    for writer in 0..writers {
        let url = deployment.app_url.clone();
        let mut chance = Chance::new(seed.wrapping_mul(1_000).wrapping_add(writer));
        tasks.push(tokio::spawn(async move {
            let mut written = Written::default();
            let mut number = 0;
            let mut db = None;
            while number < transactions {
                let events: Vec<Event> =
                    (0..=chance.below(5)).map(|i| event(&mut chance, [seed, writer, number, i])).collect();
                let (open_ms, commits) = (chance.below(40), chance.below(4) > 0);
                match one(&mut db, &url, &events, open_ms, commits).await {
                    Ok(()) => {}
                    // Whether it was committed, the table says; the next one has other ids.
                    Err(_) => {
                        db = None;
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        number += 1;
                        continue;
                    }
                }
                let to = if commits { &mut written.committed } else { &mut written.rolled_back };
                to.extend(events.iter().map(|event| event.id));
                number += 1;
                tokio::time::sleep(Duration::from_millis(chance.below(pause_ms + 1))).await;
            }
            written
        }));
    }
    let mut all = Written::default();
    for task in tasks {
        let written = task.await.unwrap();
        all.committed.extend(written.committed);
        all.rolled_back.extend(written.rolled_back);
    }
    all
}

async fn one(
    db: &mut Option<Database>,
    url: &str,
    events: &[Event],
    open_ms: u64,
    commits: bool,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    if db.is_none() {
        *db = Some(Database::connect(url).await?);
    }
    let Some(db) = db else { return Ok(()) };
    let tx = db.client().transaction().await?;
    let (first, rest) = events.split_at(events.len() / 2);
    insert(&tx, first).await?;
    tokio::time::sleep(Duration::from_millis(open_ms)).await;
    insert(&tx, rest).await?;
    if commits {
        tx.commit().await?
    } else {
        tx.rollback().await?
    }
    Ok(())
}

/// An event that no other call makes.
fn event(chance: &mut Chance, of: [u64; 4]) -> Event {
    let wallet = chance.below(20);
    Event {
        id: Uuid::new_v5(&Uuid::nil(), format!("{of:?}").as_bytes()),
        kind: ["wallet.low", "wallet.exhausted", "hold.expired"][chance.below(3) as usize].to_owned(),
        subject: format!("wallet:{wallet}"),
        time: DateTime::from_timestamp_micros(1_772_359_200_000_000 + chance.below(1_000_000_000) as i64).unwrap(),
        data: json!({
            "wallet": wallet, "balance": format!("{}.000000001", chance.below(1_000)), "of": of,
            "note": "é\"\n".repeat(chance.below(50) as usize),
        }),
    }
}
