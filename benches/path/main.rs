//! `./bench path`: the whole path, from a real Kafka topic to committed Parquet and ledger, beside a bare drain of the same topic.

#[path = "../common/fleet.rs"]
mod fleet;
mod history;
mod round;

use std::path::{Path, PathBuf};
use std::time::Instant;

use fleet::{Failure, Fleet, PARTITIONS, Shape};
use hydrometer_pipeline::store::{self, Database};
use hydrometer_testkit::services::kafka::{PrivateKafka, Topic, libs_for_tests};
use hydrometer_testkit::services::postgres::{Options, PrivatePostgres};
use round::{Round, Running, Used, cpu_seconds, cpu_seconds_of_family, drain, drain_apart, wait_until};

const APP_ROLE: &str = "hydrometer_app";
const USAGE: &str = "usage: ./bench path [--rounds N] [--gpus N] [--seconds N] [--only single|batch]";

struct Args {
    rounds: usize,
    gpus: u32,
    /// Seconds of event time of the single readings; node batches get twice as many.
    seconds: u32,
    only: Option<Shape>,
}

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [flag, brokers, topic] = words.as_slice()
        && flag == "--drain"
    {
        return drain(brokers, topic);
    }
    let args = parse(&words)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(bench(args))
}

fn parse(words: &[String]) -> Result<Args, Failure> {
    let mut args = Args { rounds: 3, gpus: 50_000, seconds: 240, only: None };
    let mut words = words.iter();
    while let Some(flag) = words.next() {
        let mut value = || words.next().ok_or_else(|| Failure::from(format!("{flag} wants a value; {USAGE}")));
        match flag.as_str() {
            "--rounds" => args.rounds = value()?.parse::<usize>()?.max(1),
            "--gpus" => args.gpus = value()?.parse::<u32>()?.max(64),
            "--seconds" => args.seconds = value()?.parse::<u32>()?.max(60),
            "--only" => {
                args.only = Some(if value()? == "batch" { Shape::Batch } else { Shape::Single });
            }
            _ => return Err(format!("{flag} is not known; {USAGE}").into()),
        }
    }
    Ok(args)
}

/// What the rounds share.
struct Bench {
    dir: PathBuf,
    kafka: PrivateKafka,
    postgres: PrivatePostgres,
    numbered: usize,
}

async fn bench(args: Args) -> Result<(), Failure> {
    let dir = scratch()?;
    let kafka = PrivateKafka::start(&libs_for_tests()?, &dir.path().join("kafka"))?;
    let options = Options { shared_buffers: "512MB".into(), ..Options::default() };
    let postgres = PrivatePostgres::open(&dir.path().join("postgres"), options)?;
    let mut bench = Bench { dir: dir.path().to_owned(), kafka, postgres, numbered: 0 };

    let mut results = Vec::new();
    for (shape, seconds) in [(Shape::Single, args.seconds), (Shape::Batch, args.seconds * 2)] {
        if args.only.is_none_or(|only| only == shape) {
            results.push(bench.shape(shape, Fleet::new(args.gpus, seconds), args.rounds).await?);
        }
    }
    report(&results);
    Ok(())
}

/// The medians of one shape.
struct Figures {
    shape: Shape,
    drain_per_s: f64,
    drain_cpu: f64,
    readings_per_s: f64,
    cpu: f64,
    broker_cpu: f64,
    database_cpu: f64,
    peak_rss_bytes: u64,
    growth: Option<Growth>,
    recovery: Option<Recovery>,
}

/// The same after a month of history.
struct Growth {
    readings_per_s: f64,
    cpu: f64,
    startup_cpu_s: f64,
}

/// What a kill in the middle cost the next worker, until it committed something new.
struct Recovery {
    readings: i64,
    /// Event time of the readings that were read again.
    event_s: f64,
    seconds: f64,
}

impl Bench {
    async fn shape(&mut self, shape: Shape, fleet: Fleet, rounds: usize) -> Result<Figures, Failure> {
        let name = if shape == Shape::Single { "single" } else { "batch" };
        let (telemetry, lifecycle) = (format!("{name}.telemetry"), format!("{name}.lifecycle"));
        self.kafka.create_topic(&Topic::new(&telemetry, PARTITIONS)).await?;
        self.kafka.create_topic(&Topic::new(&lifecycle, 1)).await?;
        let prepared = self.prepare(name, &fleet, &telemetry, &lifecycle).await?;

        let began = Instant::now();
        let bytes = fleet.write_telemetry(&self.kafka.bootstrap(), &telemetry, shape)?;
        eprintln!(
            "{name}: {} readings of {} GPUs written in {:.0} s, {} bytes a reading",
            fleet.readings(),
            fleet.gpus(),
            began.elapsed().as_secs_f64(),
            bytes / fleet.readings()
        );
        // With single readings also growth and recovery are looked at: more messages are harder on both.
        let grown = match shape {
            Shape::Single => Some(self.grow(&prepared, &fleet, &telemetry).await?),
            Shape::Batch => None,
        };
        drain_apart(&self.kafka.bootstrap(), &telemetry)?;
        let mut drains = Vec::new();
        let mut measured = Vec::new();
        let mut after_history = Vec::new();
        for number in 1..=rounds {
            let drained = drain_apart(&self.kafka.bootstrap(), &telemetry)?;
            let round = self.round(&prepared, &fleet, &telemetry, &lifecycle).await?;
            let million = fleet.readings() as f64 / 1e6;
            eprintln!(
                "{name} {number}: drain {:.2} M/s at {:.2} CPU s/M; worker {:.2} M/s at {:.2} CPU s/M (ratio {:.2}); broker {:.2}, database {:.2} CPU s/M; peak {} MiB; start-up {:.1} CPU s",
                million / drained.wall_s,
                drained.cpu_s / million,
                million / round.used.wall_s,
                round.used.cpu_s / million,
                drained.wall_s / round.used.wall_s,
                round.broker_cpu_s / million,
                round.database_cpu_s / million,
                round.peak_rss_bytes >> 20,
                round.startup_cpu_s,
            );
            drains.push(drained);
            measured.push(round);
            // Beside each other, so that whatever else the machine does meets both.
            if let Some(grown) = &grown {
                after_history.push(self.round(grown, &fleet, &telemetry, &lifecycle).await?);
            }
        }
        let recovery = match shape {
            Shape::Single => Some(self.recovery(&prepared, &fleet, &telemetry, &lifecycle).await?),
            Shape::Batch => None,
        };
        let million = fleet.readings() as f64 / 1e6;
        let of = |f: &dyn Fn(&Round) -> f64| median(measured.iter().map(f).collect());
        let of_drain = |f: &dyn Fn(&Used) -> f64| median(drains.iter().map(f).collect());
        Ok(Figures {
            shape,
            drain_per_s: of_drain(&|d| million * 1e6 / d.wall_s),
            drain_cpu: of_drain(&|d| d.cpu_s / million),
            readings_per_s: of(&|r| million * 1e6 / r.used.wall_s),
            cpu: of(&|r| r.used.cpu_s / million),
            broker_cpu: of(&|r| r.broker_cpu_s / million),
            database_cpu: of(&|r| r.database_cpu_s / million),
            peak_rss_bytes: measured.iter().map(|r| r.peak_rss_bytes).max().unwrap_or(0),
            growth: (!after_history.is_empty()).then(|| Growth {
                readings_per_s: median(after_history.iter().map(|r| million * 1e6 / r.used.wall_s).collect()),
                cpu: median(after_history.iter().map(|r| r.used.cpu_s / million).collect()),
                startup_cpu_s: median(after_history.iter().map(|r| r.startup_cpu_s).collect()),
            }),
            recovery,
        })
    }

    /// A copy of a prepared database with a month of history in it.
    async fn grow(&self, prepared: &str, fleet: &Fleet, telemetry: &str) -> Result<String, Failure> {
        let grown = format!("{prepared}_grown");
        self.sql("postgres", &format!("CREATE DATABASE {grown} TEMPLATE {prepared} STRATEGY FILE_COPY")).await?;
        let mut owner = Database::connect(&self.postgres.connection_string(&grown, "postgres")).await?;
        history::fill(&mut owner, fleet, telemetry).await?;
        Ok(grown)
    }

    /// Kills a worker in the middle, and lets another one go on.
    async fn recovery(
        &mut self,
        prepared: &str,
        fleet: &Fleet,
        telemetry: &str,
        lifecycle: &str,
    ) -> Result<Recovery, Failure> {
        self.numbered += 1;
        let database = format!("round_{}", self.numbered);
        self.sql("postgres", &format!("CREATE DATABASE {database} TEMPLATE {prepared} STRATEGY FILE_COPY")).await?;
        let db = Database::connect(&self.postgres.connection_string(&database, "postgres")).await?;
        let config = self.config(&database, telemetry, lifecycle)?;
        let lease = format!("FROM hydrometer.partition_lease WHERE topic = '{telemetry}'");
        let mut worker = Running::start(&config, self.dir.join(format!("{database}.log")))?;
        let records = self.records(telemetry)?;
        let middle = format!("SELECT sum(next) >= {records} * 6 / 10 {lease}");
        wait_until(&db, &mut worker, "the middle was committed", &middle).await?;
        worker.kill()?;
        let position = format!("SELECT sum(next)::bigint, sum(next - replay_from)::bigint, sum(epoch)::bigint {lease}");
        let row = db.client_ref().query_one(&position, &[]).await?;
        let (next, again, epochs): (i64, i64, i64) = (row.get(0), row.get(1), row.get(2));

        let mut worker = Running::start(&config, self.dir.join(format!("{database}-again.log")))?;
        let assigned = format!("SELECT sum(epoch) > {epochs} {lease}");
        wait_until(&db, &mut worker, "the partitions were assigned again", &assigned).await?;
        let began = Instant::now();
        let beyond = format!("SELECT sum(next) > {next} {lease}");
        wait_until(&db, &mut worker, "the worker went on", &beyond).await?;
        let seconds = began.elapsed().as_secs_f64();
        wait_until(&db, &mut worker, "everything was committed and published", &self.through(telemetry)?).await?;
        worker.end()?;
        check(&db, fleet).await?;
        Ok(Recovery { readings: again, event_s: again as f64 / f64::from(fleet.gpus()), seconds })
    }

    /// Whether everything is committed and published, in SQL.
    fn through(&self, telemetry: &str) -> Result<String, Failure> {
        let records = self.records(telemetry)?;
        Ok(format!(
            "SELECT (SELECT sum(next) FROM hydrometer.partition_lease WHERE topic = '{telemetry}') >= {records} \
             AND NOT EXISTS (SELECT FROM hydrometer.file WHERE published_at IS NULL)"
        ))
    }

    /// A database with the fleet's lifecycle in it; every round works on a copy.
    async fn prepare(
        &mut self,
        name: &str,
        fleet: &Fleet,
        telemetry: &str,
        lifecycle: &str,
    ) -> Result<String, Failure> {
        let database = format!("prepared_{name}");
        self.sql("postgres", &format!("CREATE DATABASE {database}")).await?;
        let mut owner = Database::connect(&self.postgres.connection_string(&database, "postgres")).await?;
        store::migrate::migrate(owner.client(), APP_ROLE).await?;
        let events = fleet.write_lifecycle(&self.kafka.bootstrap(), lifecycle)?;
        let config = self.config(&database, telemetry, lifecycle)?;
        let began = Instant::now();
        let mut worker = Running::start(&config, self.dir.join(format!("{database}.log")))?;
        let all = format!("SELECT (SELECT count(*) FROM hydrometer.event) >= {events}");
        wait_until(&owner, &mut worker, "the lifecycle was committed", &all).await?;
        worker.end()?;
        eprintln!("{name}: {events} lifecycle events committed in {:.1} s", began.elapsed().as_secs_f64());
        Ok(database)
    }

    async fn round(
        &mut self,
        prepared: &str,
        fleet: &Fleet,
        telemetry: &str,
        lifecycle: &str,
    ) -> Result<Round, Failure> {
        self.numbered += 1;
        let database = format!("round_{}", self.numbered);
        self.sql("postgres", &format!("CREATE DATABASE {database} TEMPLATE {prepared} STRATEGY FILE_COPY")).await?;
        let db = Database::connect(&self.postgres.connection_string(&database, "postgres")).await?;
        let lease = format!("FROM hydrometer.partition_lease WHERE topic = '{telemetry}'");
        let epochs: i64 = db.client_ref().query_one(&format!("SELECT sum(epoch)::bigint {lease}"), &[]).await?.get(0);
        let config = self.config(&database, telemetry, lifecycle)?;
        let log = self.dir.join(format!("{database}.log"));
        let mut worker = Running::start(&config, log)?;
        let assigned = format!("SELECT sum(epoch) > {epochs} {lease}");
        wait_until(&db, &mut worker, "the partitions were assigned", &assigned).await?;
        let began = Instant::now();
        let startup_cpu_s = cpu_seconds(worker.pid());
        let broker = self.kafka.pid().map_or(0.0, cpu_seconds);
        let database_before = self.postgres.pid().map_or(0.0, cpu_seconds_of_family);

        wait_until(&db, &mut worker, "everything was committed and published", &self.through(telemetry)?).await?;
        let round = Round {
            used: Used { wall_s: began.elapsed().as_secs_f64(), cpu_s: cpu_seconds(worker.pid()) - startup_cpu_s },
            startup_cpu_s,
            broker_cpu_s: self.kafka.pid().map_or(0.0, cpu_seconds) - broker,
            database_cpu_s: self.postgres.pid().map_or(0.0, cpu_seconds_of_family) - database_before,
            peak_rss_bytes: worker.peak_rss_bytes(),
        };
        worker.end()?;
        check(&db, fleet).await?;
        drop(db);
        self.sql("postgres", &format!("DROP DATABASE {database} WITH (FORCE)")).await?;
        std::fs::remove_dir_all(self.dir.join(format!("warehouse-{database}")))?;
        Ok(round)
    }

    /// The defaults that any deployment has, and where things are.
    fn config(&self, database: &str, telemetry: &str, lifecycle: &str) -> Result<PathBuf, Failure> {
        let path = self.dir.join(format!("{database}.toml"));
        let text = format!(
            "worker = 'bench'\n[topics]\ntelemetry = '{telemetry}'\nlifecycle = '{lifecycle}'\n\
             [source]\nkind = 'kafka'\n[source.kafka]\nbrokers = '{}'\ngroup = '{database}'\n\
             [database]\nurl = '{}'\n[warehouse]\nurl = '{}'\n\
             # The records were written long before they are read: their silence says nothing.\n[windows]\nidle_s = 86400\n",
            self.kafka.bootstrap(),
            self.postgres.connection_string(database, APP_ROLE),
            self.dir.join(format!("warehouse-{database}")).display(),
        );
        std::fs::write(&path, text)?;
        Ok(path)
    }

    /// How many records a topic holds.
    fn records(&self, topic: &str) -> Result<i64, Failure> {
        use rdkafka::consumer::{BaseConsumer, Consumer};
        let consumer: BaseConsumer =
            rdkafka::ClientConfig::new().set("bootstrap.servers", self.kafka.bootstrap()).create()?;
        let mut records = 0;
        for partition in 0..PARTITIONS {
            records += consumer.fetch_watermarks(topic, partition, std::time::Duration::from_secs(10))?.1;
        }
        Ok(records)
    }

    async fn sql(&self, database: &str, sql: &str) -> Result<(), Failure> {
        let db = Database::connect(&self.postgres.connection_string(database, "postgres")).await?;
        db.client_ref().batch_execute(sql).await?;
        Ok(())
    }
}

/// A fast wrong answer is no answer: every second of the hour is rated, used, and posted.
async fn check(db: &Database, fleet: &Fleet) -> Result<(), Failure> {
    let row = db
        .client_ref()
        .query_one(
            "SELECT coalesce(sum(billed), 0)::bigint, coalesce(sum(renter_amount), 0)::text, \
                    (SELECT coalesce(sum(amount), 0)::text FROM ledger.transfer AS t JOIN ledger.account AS a ON a.id = t.debit_account \
                     JOIN ledger.transaction AS x ON x.id = t.transaction \
                     WHERE a.purpose = 'unbilled' AND x.effective_at > to_timestamp($1)), \
                    (SELECT count(*) FROM hydrometer.file WHERE tbl = 'quarantine') \
             FROM hydrometer.rating_cell",
            &[&(fleet.start as f64)],
        )
        .await?;
    let (billed, charged, posted): (i64, String, String) = (row.get(0), row.get(1), row.get(2));
    let same = charged.trim_end_matches('0') == posted.trim_end_matches('0');
    if billed != fleet.rated_seconds() || !same || row.get::<_, i64>(3) != 0 {
        return Err(format!(
            "the round is wrong: {billed} seconds billed, {} expected; charged {charged}, posted {posted}",
            fleet.rated_seconds()
        )
        .into());
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// A directory of the run's own, which PostgreSQL's user may enter; gone at the end.
fn scratch() -> Result<tempfile::TempDir, Failure> {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::Builder::new().prefix("hydrometer-bench-").tempdir_in(Path::new("/var/tmp"))?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711))?;
    Ok(dir)
}

fn report(results: &[Figures]) {
    println!(
        "{:<18} {:>14} {:>12} {:>14} {:>12} {:>8} {:>12} {:>14} {:>10}",
        "shape", "drain /s", "CPU s/M", "readings /s", "CPU s/M", "ratio", "broker s/M", "database s/M", "peak MiB"
    );
    let mut json = serde_json::Map::new();
    let mut peak = 0;
    for f in results {
        let (name, label, drain) = match f.shape {
            Shape::Single => ("single readings", "single_readings_per_s", "single_drain_per_s"),
            Shape::Batch => ("node batches of 8", "batch_readings_per_s", "batch_drain_readings_per_s"),
        };
        println!(
            "{name:<18} {:>14.0} {:>12.2} {:>14.0} {:>12.2} {:>8.2} {:>12.2} {:>14.2} {:>10}",
            f.drain_per_s,
            f.drain_cpu,
            f.readings_per_s,
            f.cpu,
            f.readings_per_s / f.drain_per_s,
            f.broker_cpu,
            f.database_cpu,
            f.peak_rss_bytes >> 20
        );
        json.insert(label.into(), (f.readings_per_s.round() as u64).into());
        json.insert(drain.into(), (f.drain_per_s.round() as u64).into());
        if f.shape == Shape::Single {
            json.insert("single_cpu_s_per_million".into(), ((f.cpu * 1_000.0).round() / 1_000.0).into());
        }
        peak = peak.max(f.peak_rss_bytes);
    }
    json.insert("peak_rss_bytes".into(), peak.into());
    for f in results {
        if let Some(growth) = &f.growth {
            println!(
                "growth: after {} days of history {:.0} readings/s at {:.2} CPU s/M, {:+.1} % of an empty start's speed, {:+.1} % of its CPU; start-up {:.1} CPU s",
                history::DAYS,
                growth.readings_per_s,
                growth.cpu,
                (growth.readings_per_s / f.readings_per_s - 1.0) * 100.0,
                (growth.cpu / f.cpu - 1.0) * 100.0,
                growth.startup_cpu_s
            );
        }
        if let Some(recovery) = &f.recovery {
            println!(
                "recovery: after kill -9 {} readings were read again, {:.0} s of event time (at most the open minute and the lateness: 180 s), in {:.1} s",
                recovery.readings, recovery.event_s, recovery.seconds
            );
        }
    }
    println!("{}", serde_json::Value::from(json));
}
