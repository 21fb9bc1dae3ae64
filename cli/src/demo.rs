//! `demo`: the main job on this machine with nothing to set up, and the proof that it is right; `simulate`: the fleet alone.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use hydrometer_pipeline::config::{Config, SourceKind};
use hydrometer_pipeline::store::lease::Lease;
use hydrometer_pipeline::store::{self, Database};
use hydrometer_pipeline::worker::{Progress, Summary};
use hydrometer_schemas::time::{MICROS_PER_SECOND, hour_ceil, show_second};
use hydrometer_sinks::Warehouse;
use hydrometer_testkit::fleet::{self, CAST_RENTERS, CAST_SERVERS, LogOptions, Outcome, Plan, Wallets};
use hydrometer_testkit::services::kafka::{PrivateKafka, Topic};
use tokio::sync::oneshot;

use crate::connection::{APP_ROLE, PRIVATE_DATABASE, open_private};
use crate::drive::open_worker;
use crate::proof::{Found, Proof};
use crate::{CliError, show};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hydrometer demo\n  hydrometer demo --seed 7 --dir /var/tmp/other-demo\n  \
    hydrometer demo --servers 20 --hours 1\n\n\
    What it leaves in its directory (database, warehouse, logs) is replaced by the next demo there.")]
pub struct DemoArgs {
    /// Put a real Apache Kafka in between (./demo --kafka fetches it).
    #[arg(long)]
    kafka: bool,
    /// The directory of Kafka's jars.
    #[arg(long, value_name = "DIR", requires = "kafka")]
    kafka_libs: Option<PathBuf>,
    /// Where everything goes; PostgreSQL's own user must be able to enter it.
    #[arg(long, value_name = "DIR", default_value_os_t = default_dir())]
    dir: PathBuf,
    /// The fleet's seed: the same seed gives the same fleet and the same truth.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many servers of 8 GPUs; the last six are leased by renters who pay in advance, where there are more.
    #[arg(long, default_value_t = 125, value_parser = clap::value_parser!(u32).range(1..=2000))]
    servers: u32,
    /// Hours of event time.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=48))]
    hours: u32,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  hydrometer simulate --to /tmp/fleet --seed 7\n  hydrometer simulate --to /tmp/fleet --zstd --servers 20\n  \
    hydrometer simulate --brokers localhost:9092 --to /tmp/truth"
)]
pub struct SimulateArgs {
    /// The directory for partition logs and truth.json (with --brokers for truth.json alone).
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Write to Kafka instead of files.
    #[arg(long, value_name = "HOST:PORT")]
    brokers: Option<String>,
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 125, value_parser = clap::value_parser!(u32).range(1..=2000))]
    servers: u32,
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=48))]
    hours: u32,
    /// Compress the logs.
    #[arg(long)]
    zstd: bool,
}

pub fn default_dir() -> PathBuf {
    PathBuf::from("/var/tmp/hydrometer-demo")
}

fn plan(seed: u64, servers: u32, hours: u32) -> Plan {
    let wallets = if servers > CAST_SERVERS { Wallets::Cast } else { Wallets::Nobody };
    Plan { seed, shuffle_seed: seed, servers, seconds: hours * 3_600, wallets, ..Plan::demo() }
}

pub fn simulate(args: SimulateArgs) -> Result<u8, CliError> {
    let plan = plan(args.seed, args.servers, args.hours);
    let outcome = match &args.brokers {
        Some(brokers) => {
            let options = fleet::KafkaOptions::default();
            let outcome = fleet::write_kafka(brokers, &plan, &options, &mut |_| {}).map_err(CliError::failed)?;
            fleet::write_truth(&args.to, &outcome).map_err(CliError::failed)?;
            outcome
        }
        None => {
            fleet::write_logs(&args.to, &plan, LogOptions { zstd: args.zstd }, &mut |_| {}).map_err(CliError::failed)?
        }
    };
    let records = outcome.tally.telemetry_records + outcome.tally.lifecycle_records;
    println!(
        "{} readings in {} records; the truth is in {}",
        show::count(outcome.tally.readings_sent),
        show::count(records),
        args.to.join("truth.json").display()
    );
    Ok(0)
}

pub async fn run(args: DemoArgs) -> Result<u8, CliError> {
    let began = Instant::now();
    let plan = plan(args.seed, args.servers, args.hours);
    plan.check().map_err(CliError::failed)?;
    let in_advance = match plan.wallets {
        Wallets::Nobody => String::new(),
        _ => format!(" and {CAST_RENTERS} who pay in advance"),
    };
    println!(
        "A fleet of {} GPUs in {} servers, {} h of event time from {}, {} renters{in_advance}, {} suppliers, every fault we know of.",
        show::count(u64::from(plan.servers * plan.gpus_per_server)),
        plan.servers,
        args.hours,
        show_second(plan.start_us / MICROS_PER_SECOND),
        plan.renters,
        plan.suppliers
    );
    let line = Line::new();

    line.say("PostgreSQL: a private cluster, started by this program");
    let config = prepare(&args).await?;
    let app_url = open_private(&config.database.private_dir)?.connection_string(PRIVATE_DATABASE, APP_ROLE);

    let (outcome, summary, elapsed, kafka) = if args.kafka {
        let libs = args
            .kafka_libs
            .clone()
            .ok_or_else(|| CliError::usage("--kafka needs --kafka-libs DIR; ./demo --kafka gives it"))?;
        line.say("Apache Kafka: a private broker, started by this program");
        let kafka = start_kafka(&libs, &args.dir, &plan).await?;
        let mut config = config.clone();
        config.source.kind = SourceKind::Kafka;
        config.source.kafka.brokers = kafka.bootstrap();
        let (outcome, summary, elapsed) = through_kafka(&config, &app_url, &plan, &line).await?;
        (outcome, summary, elapsed, Some(kafka))
    } else {
        let (outcome, summary, elapsed) = through_files(&config, &app_url, &plan, &line).await?;
        (outcome, summary, elapsed, None)
    };
    if let Some(mut kafka) = kafka {
        kafka.stop();
    }
    line.end();

    let warehouse = Warehouse::open(&config.warehouse.url).map_err(CliError::failed)?;
    let mut db = Database::connect(&app_url).await.map_err(CliError::failed)?;
    let found = Found::read(&mut db, &warehouse).await.map_err(CliError::failed)?;
    let proof = found.prove(&outcome);
    report(&summary, elapsed, &found);
    tell_proof(&proof, &outcome);
    if proof.differences.is_empty() {
        next_steps(&db, &args.dir).await?;
    }
    println!("\n{} in all.", show::seconds(began.elapsed().as_secs()));
    Ok(u8::from(!proof.differences.is_empty()))
}

/// An empty warehouse, an empty database, and a configuration file that the other commands find.
async fn prepare(args: &DemoArgs) -> Result<Config, CliError> {
    let io = |what: &str, path: &Path| {
        let (what, path) = (what.to_owned(), path.display().to_string());
        move |e: std::io::Error| {
            CliError::failed(format!("cannot {what} {path}: {e}. Hint: give another folder with --dir"))
        }
    };
    std::fs::create_dir_all(&args.dir).map_err(io("create", &args.dir))?;
    for old in ["warehouse", "logs", "kafka"] {
        let path = args.dir.join(old);
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(io("empty", &path))?;
        }
    }
    let mut config = Config { worker: "demo".into(), ..Config::default() };
    config.database.private_dir = args.dir.join("postgres");
    config.warehouse.url = args.dir.join("warehouse").display().to_string();
    config.source.kind = SourceKind::Files;
    config.source.files.dir = args.dir.join("logs");
    config.source.kafka.accept_producer_time = true;
    config.windows.idle_s = 5;
    config.commit.interval_ms = 250;
    let private = open_private(&config.database.private_dir)?;
    let admin = Database::connect(&private.superuser()).await.map_err(CliError::failed)?;
    for statement in [
        format!("DROP DATABASE IF EXISTS {PRIVATE_DATABASE} WITH (FORCE)"),
        format!("CREATE DATABASE {PRIVATE_DATABASE}"),
    ] {
        admin.client_ref().batch_execute(&statement).await.map_err(CliError::failed)?;
    }
    let owner = private.connection_string(PRIVATE_DATABASE, "postgres");
    let mut owner = Database::connect(&owner).await.map_err(CliError::failed)?;
    store::migrate::migrate(owner.client(), APP_ROLE).await.map_err(CliError::failed)?;

    let path = args.dir.join("hydrometer.toml");
    let text = format!(
        "# Written by `hydrometer demo`: the commands use it when they are given no other.\n\
         [database]\nprivate_dir = {:?}\n\n[warehouse]\nurl = {:?}\n\n[source]\nkind = \"files\"\n\n[source.files]\ndir = {:?}\n",
        config.database.private_dir, config.warehouse.url, config.source.files.dir
    );
    std::fs::write(&path, text).map_err(io("write", &path))?;
    Ok(config)
}

async fn through_files(
    config: &Config,
    app_url: &str,
    plan: &Plan,
    line: &Line,
) -> Result<(Outcome, Summary, Duration), CliError> {
    let outcome = write_fleet(plan.clone(), config.source.files.dir.clone(), line).await?;
    let began = Instant::now();
    let mut config = config.clone();
    config.source.files.until = show_second(hour_ceil(plan.end_us() / MICROS_PER_SECOND));
    let progress = line.progress(outcome.tally.readings_sent);
    let worker = open_worker(config, app_url).await?.with_progress(progress);
    let summary = tokio::select! {
        summary = worker.run(std::future::pending()) => summary.map_err(CliError::failed)?,
        () = interrupted() => return Err(CliError::failed(INTERRUPTED)),
    };
    Ok((outcome, summary, began.elapsed()))
}

async fn write_fleet(plan: Plan, dir: PathBuf, line: &Line) -> Result<Outcome, CliError> {
    line.say("simulating the fleet");
    let written =
        tokio::task::spawn_blocking(move || fleet::write_logs(&dir, &plan, LogOptions { zstd: false }, &mut |_| {}));
    written.await.map_err(CliError::failed)?.map_err(CliError::failed)
}

async fn start_kafka(libs: &Path, dir: &Path, plan: &Plan) -> Result<PrivateKafka, CliError> {
    let kafka = PrivateKafka::start(libs, &dir.join("kafka")).map_err(CliError::failed)?;
    for (name, partitions) in
        [("gpu.telemetry", plan.telemetry_partitions), ("gpu.lifecycle", plan.lifecycle_partitions)]
    {
        // The simulator's arrival times are the log times here, so that delays mean something.
        let topic = Topic { timestamp_type: "CreateTime", ..Topic::new(name, partitions as i32) };
        kafka.create_topic(&topic).await.map_err(CliError::failed)?;
    }
    Ok(kafka)
}

/// The simulator writes while the worker reads, as in life.
async fn through_kafka(
    config: &Config,
    app_url: &str,
    plan: &Plan,
    line: &Line,
) -> Result<(Outcome, Summary, Duration), CliError> {
    let began = Instant::now();
    let (brokers, writing) = (config.source.kafka.brokers.clone(), plan.clone());
    let writer = tokio::task::spawn_blocking(move || {
        fleet::write_kafka(&brokers, &writing, &fleet::KafkaOptions::default(), &mut |_| {})
    });
    let expected = u64::from(plan.servers * plan.gpus_per_server * plan.seconds);
    let progress = line.progress(expected);
    let (stop, stopped) = oneshot::channel::<()>();
    let worker = open_worker(config.clone(), app_url).await?.with_progress(progress);
    let stop_signal = async move {
        let _ = stopped.await;
    };
    // One task for both: the worker is driven here, while the other half watches until everything is through.
    let watching = async {
        let outcome = writer.await.map_err(CliError::failed)?.map_err(CliError::failed)?;
        let db = Database::connect(app_url).await.map_err(CliError::failed)?;
        let end = hour_ceil(plan.end_us() / MICROS_PER_SECOND);
        while !is_through(&db, end).await? {
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let elapsed = began.elapsed();
        let _ = stop.send(());
        Ok((outcome, elapsed))
    };
    let running = async { worker.run(stop_signal).await.map_err(CliError::failed) };
    let ((outcome, elapsed), summary) = tokio::select! {
        both = futures::future::try_join(watching, running) => both?,
        () = interrupted() => return Err(CliError::failed(INTERRUPTED)),
    };
    Ok((outcome, summary, elapsed))
}

/// Every frontier has passed `end`, and nothing is asked for or owed.
pub async fn is_through(db: &Database, end: i64) -> Result<bool, CliError> {
    let leases: Vec<(Lease, String)> = db.leases().await.map_err(CliError::failed)?;
    let mut telemetry = leases.iter().filter(|(_, role)| role == "telemetry").peekable();
    if telemetry.peek().is_none() || !telemetry.all(|(lease, _)| lease.frontier >= end) {
        return Ok(false);
    }
    let row = db
        .client_ref()
        .query_one(
            "SELECT (SELECT count(*) FROM hydrometer.request WHERE done_by IS NULL) + \
                    (SELECT count(*) FROM hydrometer.closing_request WHERE done_by IS NULL) + \
                    (SELECT count(*) FROM hydrometer.file WHERE published_at IS NULL)",
            &[],
        )
        .await
        .map_err(CliError::failed)?;
    Ok(row.get::<_, i64>(0) == 0)
}

const INTERRUPTED: &str = "interrupted; what was committed stays committed, the next demo starts afresh";

async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn report(summary: &Summary, elapsed: Duration, found: &Found) {
    let rate = summary.counts.readings as f64 / elapsed.as_secs_f64().max(0.001);
    println!("\n{:<24} {:>24}", "readings", show::count(summary.counts.readings));
    let rows = [
        ("readings per second", format!("{} /s", show::count(rate as u64))),
        ("of them late", show::count(summary.counts.late)),
        ("metered minutes", show::count(found.metered_minutes)),
        ("rated records", show::count(found.rated_records)),
        ("  of them corrections", show::count(found.corrections)),
        ("revised windows", show::count(summary.revised_windows)),
        ("leakage", format!("{} GPU-s", show::count(found.leakage_seconds))),
        ("commits", show::count(summary.commits)),
        ("files", show::count(summary.files)),
    ];
    for (name, value) in rows {
        println!("{name:<24} {value:>24}");
    }
    for (currency, (charges, earnings)) in &found.totals {
        for (name, value) in
            [("renter charges", *charges), ("supplier earnings", *earnings), ("commission", charges - earnings)]
        {
            println!("{name:<24} {:>24}", format!("{} {currency}", show::amount(value)));
        }
    }
    tell_wallets(found);
    println!("{:<24} {:>24}", "quarantined messages", show::count(found.quarantine.values().sum::<u64>()));
    for (reason, messages) in &found.quarantine {
        println!("  {reason:<22} {:>24}", show::count(*messages));
    }
}

/// Who ran dry, and when.
fn tell_wallets(found: &Found) {
    for (wallet, news) in &found.wallets {
        let (renter, currency) = wallet;
        let mut seconds = news.iter();
        while let Some((exhausted, _)) = seconds.find(|(_, what)| what == "exhausted") {
            let restored = seconds.clone().find(|(_, what)| what == "restored");
            let until = match restored {
                Some((second, _)) => format!("could pay again {} s later", second - exhausted),
                None => "could never pay again".to_owned(),
            };
            println!("{renter}'s wallet in {currency} ran dry at {} and {until}", show_second(*exhausted));
        }
        let suspended = found.suspended.get(wallet).copied().unwrap_or(0);
        println!("  its leases were suspended for {} GPU-s", show::count(suspended.unsigned_abs()));
    }
}

fn tell_proof(proof: &Proof, outcome: &Outcome) {
    println!();
    if proof.differences.is_empty() {
        println!(
            "PROVEN against the oracle: {} lease hours with {} leased seconds, each second in its class; {} amounts and balances to \
             the ninth decimal; {} times that wallets ran dry, used up a credit or could pay again, to the second; metered minutes, \
             leakage and quarantine as emitted ({} readings counted).",
            show::count(proof.lease_hours as u64),
            show::count(proof.seconds),
            show::count(proof.amounts as u64),
            show::count(proof.wallet_news as u64),
            show::count(outcome.truth.readings_counted)
        );
        return;
    }
    println!("NOT PROVEN: {} differences from the oracle", show::count(proof.differences.len() as u64));
    for difference in proof.differences.iter().take(20) {
        println!("  {difference}");
    }
}

/// Three commands that work on what the demo left behind.
async fn next_steps(db: &Database, dir: &Path) -> Result<(), CliError> {
    let program = std::env::var("HYDROMETER_COMMAND")
        .ok()
        .or_else(|| std::env::current_exe().ok().map(|path| path.display().to_string()));
    let mut program = program.unwrap_or_else(|| "hydrometer".into());
    if dir != default_dir() {
        program = format!("{program} --config {}", dir.join("hydrometer.toml").display());
    }
    let correction = db
        .client_ref()
        .query_opt(
            "SELECT id::text FROM ledger.transaction WHERE kind = 'correction' ORDER BY booked_at, id LIMIT 1",
            &[],
        )
        .await
        .map_err(CliError::failed)?
        .map_or_else(|| "lease:lease-1".to_owned(), |row| row.get(0));
    println!("\nTo try next (the database is started again when a command needs it):");
    println!(
        "  {program} sql 'SELECT renter, currency, sum(amount) AS amount FROM revenue GROUP BY renter, currency ORDER BY renter'"
    );
    println!("  {program} explain {correction}");
    println!("  {program} ledger balances");
    Ok(())
}

/// One line of progress on a terminal; plain lines elsewhere.
struct Line {
    terminal: bool,
}

impl Line {
    fn new() -> Line {
        Line { terminal: std::io::stderr().is_terminal() }
    }

    fn say(&self, text: &str) {
        if self.terminal {
            eprint!("\r\x1b[K{text} …");
            let _ = std::io::stderr().flush();
        } else {
            eprintln!("{text} …");
        }
    }

    fn end(&self) {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
    }

    fn progress(&self, expected: u64) -> Progress {
        let terminal = self.terminal;
        let began = Instant::now();
        let mut told = Instant::now();
        Box::new(move |summary: &Summary| {
            let pause = if terminal { Duration::from_millis(200) } else { Duration::from_secs(5) };
            if told.elapsed() < pause {
                return;
            }
            told = Instant::now();
            let readings = summary.counts.readings;
            let percent = (readings * 100).checked_div(expected).unwrap_or(0).min(100);
            let rate = readings as f64 / began.elapsed().as_secs_f64().max(0.001);
            let text = format!(
                "{percent:>3} %  {} readings, {} /s, {} minutes, {} records, {} revised",
                show::count(readings),
                show::count(rate as u64),
                show::count(summary.metered_minutes),
                show::count(summary.rated_records),
                show::count(summary.revised_windows)
            );
            if terminal {
                eprint!("\r\x1b[K{text}");
                let _ = std::io::stderr().flush();
            } else {
                eprintln!("{text}");
            }
        })
    }
}
