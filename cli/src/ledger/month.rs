//! `ledger month`: months that leave the database for Parquet files, and are still proved.

use std::path::{Path, PathBuf};

use chrono::NaiveDate;
use clap::{Args, Subcommand};
use hydrometer_ledger::archive::{self, MonthState};
use hydrometer_ledger::{LedgerError, Violation};
use hydrometer_pipeline::store::Database;
use hydrometer_sinks::months;
use tokio_postgres::{Client, IsolationLevel};

use super::answer;
use crate::table::{Format, Kind, Rows};
use crate::{CliError, Connection, show};

#[derive(Debug, Args)]
#[command(
    after_help = "A month that is over and wholly under an anchor can leave the database: its transfers are then in the file alone. Ids, \
    sets, links of the chain and balances stay, so that a repeat is still a repeat, and the file is still proved.\n\n\
    Examples:\n  \
    hydrometer ledger month write 2026-03 /srv/ledger/2026-03.parquet\n  \
    hydrometer ledger month detach 2026-03 /srv/ledger/2026-03.parquet --owner 'host=db.internal user=postgres dbname=hydrometer'\n  \
    hydrometer ledger month verify 2026-03 /srv/ledger/2026-03.parquet"
)]
pub(super) struct MonthArgs {
    #[command(subcommand)]
    command: MonthCommand,
}

#[derive(Debug, Subcommand)]
enum MonthCommand {
    /// The months, where their transfers are, and what file holds them
    List {
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// Write the transfers of a month into a new Parquet file
    Write { month: String, file: PathBuf },
    /// Prove the file of a month by the chain, record it, and take the month out of the database (as its owner)
    Detach {
        month: String,
        file: PathBuf,
        /// How the owner connects (or HYDROMETER_OWNER_URL)
        #[arg(long, env = "HYDROMETER_OWNER_URL", hide_env_values = true, value_name = "URL")]
        owner: String,
    },
    /// Prove the file of a month by the chain; exit status 1 when it is not what was chained
    Verify { month: String, file: PathBuf },
}

pub(super) async fn run(args: MonthArgs, connection: &Connection) -> Result<u8, CliError> {
    let mut db = Database::connect(&connection.database_url).await.map_err(CliError::failed)?;
    match args.command {
        MonthCommand::List { format } => list(db.client_ref(), format).await,
        MonthCommand::Write { month, file } => write(db.client(), read(&month)?, &file).await,
        MonthCommand::Verify { month, file } => {
            Ok(u8::from(!proved(db.client_ref(), read(&month)?, &file, true).await?))
        }
        MonthCommand::Detach { month, file, owner } => {
            let owner = Database::connect(&owner).await.map_err(CliError::failed)?;
            detach(db.client_ref(), owner.client_ref(), read(&month)?, &file).await
        }
    }
}

/// `2026-03` is its first day.
fn read(month: &str) -> Result<NaiveDate, CliError> {
    let day = NaiveDate::parse_from_str(&format!("{month}-01"), "%Y-%m-%d");
    day.map_err(|_| CliError::usage(format!("{month:?} is no month, such as 2026-03")))
}

async fn list(client: &Client, format: Format) -> Result<u8, CliError> {
    let mut rows = Rows::new(&[
        ("month", Kind::Text),
        ("state", Kind::Text),
        ("sets", Kind::Plain),
        ("transfers", Kind::Plain),
        ("file", Kind::Text),
        ("sha256", Kind::Text),
    ]);
    for month in archive::months(client).await.map_err(CliError::failed)? {
        let state = match month.state {
            MonthState::Attached => "in the database",
            MonthState::Recorded => "in the database and a file",
            MonthState::Detached => "in the file",
        };
        let (file, sha256) = month.file.unwrap_or_default();
        rows.push([
            month.month.format("%Y-%m").to_string(),
            state.to_owned(),
            month.sets.to_string(),
            month.transfers.to_string(),
            file,
            sha256,
        ]);
    }
    rows.print(format)?;
    Ok(0)
}

async fn write(client: &mut Client, month: NaiveDate, file: &Path) -> Result<u8, CliError> {
    let builder = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
    let tx = builder.start().await.map_err(CliError::failed)?;
    let mut told = 0;
    let mut tell = |rows: i64| {
        if rows / 1_000_000 > told {
            told = rows / 1_000_000;
            eprintln!("{} transfers …", show::count(rows.unsigned_abs()));
        }
    };
    let manifest = months::write(&tx, month, file, &mut tell).await.map_err(CliError::failed)?;
    println!(
        "{}: {} transfers of {}, sha256 {}",
        file.display(),
        show::count(manifest.rows.unsigned_abs()),
        month.format("%Y-%m"),
        hex(&manifest.sha256)
    );
    Ok(0)
}

async fn detach(client: &Client, owner: &Client, month: NaiveDate, file: &Path) -> Result<u8, CliError> {
    if !proved(client, month, file, false).await? {
        eprintln!("Nothing was detached. Hint: write the month again, into another file");
        return Ok(1);
    }
    let manifest = months::manifest(month, file).map_err(CliError::failed)?;
    let known = archive::months(owner).await.map_err(CliError::failed)?;
    if !known.iter().any(|known| known.month == month && known.state == MonthState::Recorded)
        && let Err(error) = archive::record(owner, &manifest).await
    {
        return answer(error);
    }
    match archive::detach(owner, month).await {
        Ok(()) => {
            println!(
                "{} is detached: its {} transfers are in {} alone. Keep copies of it",
                month.format("%Y-%m"),
                show::count(manifest.rows.unsigned_abs()),
                file.display()
            );
            Ok(0)
        }
        Err(error) => answer(error),
    }
}

/// Holds a file to the chain, and to what was recorded of it; `true`: it is what it was.
async fn proved(client: &Client, month: NaiveDate, file: &Path, tell: bool) -> Result<bool, CliError> {
    let known = archive::months(client).await.map_err(CliError::failed)?;
    let recorded = known.into_iter().find(|known| known.month == month).and_then(|known| known.file);
    let found = hex(&months::sha256(file).map_err(CliError::failed)?);
    let mut faults: Vec<String> = Vec::new();
    if let Some((name, sha256)) = recorded.filter(|(_, sha256)| *sha256 != found) {
        faults.push(format!("its sha256 is {found}; recorded was {sha256}, of {name}"));
    }
    match months::read(file) {
        Ok(rows) => match archive::verify_rows(client, month, rows).await {
            Ok(violations) => faults.extend(violations.iter().map(Violation::to_string)),
            Err(error @ LedgerError::Unreadable { .. }) => faults.push(error.to_string()),
            Err(error) => return Err(CliError::failed(error)),
        },
        Err(error) => faults.push(error.to_string()),
    }
    for fault in &faults {
        println!("{fault}");
    }
    if faults.is_empty() && tell {
        println!(
            "{} holds every transfer of {} as it was chained, and nothing else",
            file.display(),
            month.format("%Y-%m")
        );
    }
    Ok(faults.is_empty())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
