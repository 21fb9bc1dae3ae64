//! `sql`: a question to the warehouse and the ledger, at one consistent cut.

use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use arrow::array::RecordBatch;
use clap::Args;
use hydrometer_audit::cut::{Cut, CutError};
use hydrometer_sinks::Warehouse;

use crate::table::{Format, Rows};
use crate::{CliError, Connection};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hydrometer sql 'SHOW TABLES'\n  \
    hydrometer sql 'SELECT renter, currency, sum(amount) AS amount FROM revenue GROUP BY 1, 2 ORDER BY 3 DESC'\n  \
    hydrometer sql --format csv --file month.sql")]
pub struct SqlArgs {
    /// The question; without it, it is read from --file or from standard input.
    #[arg(conflicts_with = "file")]
    query: Option<String>,
    /// Reads the question from a file.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub async fn run(args: SqlArgs, connection: &Connection) -> Result<u8, CliError> {
    let query = match (args.query, args.file) {
        (Some(query), _) => query,
        (None, Some(file)) => std::fs::read_to_string(&file)
            .map_err(|e| CliError::failed(format!("cannot read {}: {e}", file.display())))?,
        (None, None) => from_stdin()?,
    };
    let batches = ask(connection, &query).await?;
    Rows::of(&batches)?.print(args.format)?;
    Ok(0)
}

fn from_stdin() -> Result<String, CliError> {
    if std::io::stdin().is_terminal() {
        return Err(CliError::usage("no question: give it as an argument, with --file, or on standard input"));
    }
    let mut query = String::new();
    std::io::stdin()
        .read_to_string(&mut query)
        .map_err(|e| CliError::failed(format!("cannot read standard input: {e}")))?;
    Ok(query)
}

/// Takes a cut of a deployment.
pub async fn cut(connection: &Connection) -> Result<Cut, CliError> {
    let warehouse = Warehouse::open(&connection.warehouse_url).map_err(CliError::failed)?;
    Cut::open(&connection.database_url, &warehouse).await.map_err(error)
}

pub async fn ask(connection: &Connection, query: &str) -> Result<Vec<RecordBatch>, CliError> {
    let cut = cut(connection).await?;
    hydrometer_audit::sql::sql(&cut, query).await.map_err(error)
}

/// A question that cannot be asked is wrong use; everything else could not be run.
pub fn error(error: CutError) -> CliError {
    match error {
        CutError::Refused { .. } => CliError::usage(error.to_string()),
        other => CliError::failed(other),
    }
}
