//! `run`, the stream worker, and `migrate`, which prepares its database.

use std::io::IsTerminal;
use std::path::Path;

use clap::Args;
use hydrometer_pipeline::store::{self, Database};
use hydrometer_pipeline::worker::Summary;
use tokio::signal::unix::{SignalKind, signal};

use crate::connection::{APP_ROLE, PRIVATE_DATABASE, connect, load_config, open_private};
use crate::drive::open_worker;
use crate::{CliError, events, keep, show};

#[derive(Debug, Args)]
#[command(after_help = "Ends cleanly on SIGTERM and SIGINT: it drains, commits and leaves the group.\n\n\
    Example:\n  hydrometer run --config examples/hydrometer.toml")]
pub struct RunArgs {}

#[derive(Debug, Args)]
#[command(after_help = "Runs as the owner of the database; the worker then logs in as a role that owns nothing.\n\n\
    Example:\n  hydrometer migrate --owner 'host=/run/postgresql user=postgres dbname=hydrometer'")]
pub struct MigrateArgs {
    /// How the owner connects (or HYDROMETER_OWNER_URL).
    #[arg(long, env = "HYDROMETER_OWNER_URL", hide_env_values = true, value_name = "URL")]
    owner: Option<String>,
    /// The role that the worker logs in with; created without a password when it is missing.
    #[arg(long, default_value = APP_ROLE, value_name = "ROLE")]
    app_role: String,
}

pub async fn run(_args: RunArgs, config: Option<&Path>) -> Result<u8, CliError> {
    let config = load_config(config)?;
    log_to_stderr();
    let connection = connect(&config)?;
    let stop = told_to_stop()?;
    let mut told = tokio::time::Instant::now();
    let progress = move |summary: &Summary| {
        if told.elapsed().as_secs() >= 10 {
            told = tokio::time::Instant::now();
            tracing::info!(
                readings = summary.counts.readings,
                late = summary.counts.late,
                quarantined = summary.counts.quarantined,
                minutes = summary.metered_minutes,
                rated = summary.rated_records,
                commits = summary.commits,
                "running"
            );
        }
    };
    let worker = open_worker(config.clone(), &connection.database_url).await?.with_progress(Box::new(progress));
    let _keeper = keep::keep_beside(&config.ledger, &connection.database_url);
    let events = events::publish_beside(&config, &connection.database_url);
    let summary = worker.run(stop).await.map_err(CliError::failed);
    events.end().await;
    let summary = summary?;
    println!("{}", show::summary(&summary));
    Ok(0)
}

/// What happens is said on standard error; `HYDROMETER_LOG` says how much of it.
pub fn log_to_stderr() {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("HYDROMETER_LOG")
                .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info")),
        )
        .init();
}

/// Comes with SIGTERM or SIGINT.
pub fn told_to_stop() -> Result<impl Future<Output = ()>, CliError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(CliError::failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(CliError::failed)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

pub async fn migrate(args: MigrateArgs, config: Option<&Path>) -> Result<u8, CliError> {
    let owner = match args.owner {
        Some(owner) => owner,
        None => {
            let config = load_config(config)?;
            if config.database.private_dir.as_os_str().is_empty() {
                return Err(CliError::usage(
                    "how does the database's owner connect? Give --owner, or HYDROMETER_OWNER_URL in the environment",
                ));
            }
            open_private(&config.database.private_dir)?.connection_string(PRIVATE_DATABASE, "postgres")
        }
    };
    let mut db = Database::connect(&owner).await.map_err(CliError::failed)?;
    let applied = store::migrate::migrate(db.client(), &args.app_role).await.map_err(CliError::failed)?;
    if applied.is_empty() {
        println!("the database is up to date");
    }
    for name in applied {
        println!("applied {name}");
    }
    Ok(0)
}
