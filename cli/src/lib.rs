//! The commands. Thin: each reads its arguments, calls the crate that does the work, and shows what came of it.
//!
//! Exit status: 0 done; 1 it ran and the answer is no; 2 wrong use; 3 it could not run (a server, a file, the network).

pub mod connection;
pub mod contract;
pub mod demo;
pub mod drive;
pub mod events;
pub mod explain;
pub mod keep;
pub mod ledger;
pub mod period;
pub mod proof;
pub mod quarantine;
pub mod report;
pub mod run;
pub mod show;
pub mod sql;
pub mod table;
pub mod verify;
pub mod wallet;

use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use connection::Connection;

/// What went wrong, and the exit status that says so.
#[derive(Debug)]
pub struct CliError {
    status: u8,
    message: String,
}

impl CliError {
    /// The command was used wrongly.
    pub fn usage(message: impl Into<String>) -> CliError {
        CliError { status: 2, message: message.into() }
    }

    /// The command could not run.
    pub fn failed(error: impl fmt::Display) -> CliError {
        CliError { status: 3, message: error.to_string() }
    }

    pub fn status(&self) -> u8 {
        self.status
    }
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CliError {}

/// Per-second GPU telemetry in, money that can be defended out.
#[derive(Debug, Parser)]
#[command(
    name = "hydrometer",
    version,
    max_term_width = 120,
    after_help = "Examples:\n  \
        hydrometer demo                                     everything on this machine, proven against an oracle\n  \
        hydrometer run --config hydrometer.toml             the stream worker\n  \
        hydrometer sql 'SELECT * FROM revenue'              SQL over the warehouse and the ledger\n  \
        hydrometer verify                                   prove every law on the data that is there\n\n\
        Without --config the commands use ./hydrometer.toml, or else what the demo left behind."
)]
struct Cli {
    /// The configuration file.
    #[arg(long, global = true, env = "HYDROMETER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The main job on this machine: a simulated fleet, the stream, the warehouse, the ledger, and the proof
    Demo(demo::DemoArgs),
    /// Write a fleet's telemetry and lifecycle events, to files or to Kafka, and the truth beside them
    Simulate(demo::SimulateArgs),
    /// Create or upgrade the database (as its owner)
    Migrate(run::MigrateArgs),
    /// Run the stream worker
    Run(run::RunArgs),
    /// Contracts: check, show, compare, try on numbers, apply
    Contract(contract::ContractArgs),
    /// Billing periods: what stands against closing one, and closing it
    Period(period::PeriodArgs),
    /// SQL over the warehouse and the ledger, at one consistent cut
    Sql(sql::SqlArgs),
    /// The reports that finance would write first
    Report(report::ReportArgs),
    /// From an amount to its evidence: a record, a posting or a lease
    Explain(explain::ExplainArgs),
    /// Accounts, balances and transfers
    Ledger(ledger::LedgerArgs),
    /// Prepaid money: how it stands, what it was given, when it runs dry
    Wallet(wallet::WalletArgs),
    /// The ledger's events: what is in the outbox, and publishing it to Kafka
    Events(events::EventsArgs),
    /// What was set aside, and why
    Quarantine(quarantine::QuarantineArgs),
    /// Prove every law on the data that is there
    Verify(verify::VerifyArgs),
    /// Stop a private database that nobody uses (started by the commands themselves)
    #[command(hide = true)]
    PostgresGuard {
        #[arg(long)]
        dir: PathBuf,
        #[arg(long)]
        idle_seconds: u64,
    },
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::from(3);
        }
    };
    let result = runtime.block_on(dispatch(cli));
    // A reading thread may still wait on a log; nothing of it is needed any more.
    runtime.shutdown_background();
    match result {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.status)
        }
    }
}

async fn dispatch(cli: Cli) -> Result<u8, CliError> {
    let config = cli.config.as_deref();
    match cli.command {
        Command::Demo(args) => demo::run(args).await,
        Command::Simulate(args) => demo::simulate(args),
        Command::Migrate(args) => run::migrate(args, config).await,
        Command::Run(args) => run::run(args, config).await,
        Command::Contract(args) => contract::run(args, config).await,
        Command::Period(args) => period::run(args, &connected(config)?).await,
        Command::Sql(args) => sql::run(args, &connected(config)?).await,
        Command::Report(args) => report::run(args, &connected(config)?).await,
        Command::Explain(args) => explain::run(args, &connected(config)?).await,
        Command::Ledger(args) => ledger::run(args, &connected(config)?).await,
        Command::Wallet(args) => wallet::run(args, &connected(config)?).await,
        Command::Events(args) => events::run(args, config).await,
        Command::Quarantine(args) => quarantine::run(args, &connected(config)?).await,
        Command::Verify(args) => verify::run(args, &connected(config)?).await,
        Command::PostgresGuard { dir, idle_seconds } => {
            hydrometer_testkit::services::postgres::guard(&dir, std::time::Duration::from_secs(idle_seconds))
                .map(|()| 0)
                .map_err(CliError::failed)
        }
    }
}

/// The deployment that the configuration names.
fn connected(config: Option<&std::path::Path>) -> Result<Connection, CliError> {
    connection::connect(&connection::load_config(config)?)
}
