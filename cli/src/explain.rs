//! `explain`: from an amount to its evidence.

use clap::{Args, ValueEnum};
use hydrometer_audit::cut::CutError;

use crate::{CliError, Connection, sql, table};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hydrometer explain 6f0c1d2e3a4b5c6d                       a rated record\n  \
    hydrometer explain 2b1f0c1e-5a0e-5b43-9c2f-0d8f6f1f2a3b   a transaction of the ledger\n  \
    hydrometer explain lease:lease-0001@2026-03-01T10:20      a lease, in the windows that hold a second")]
pub struct ExplainArgs {
    /// A record's id, a ledger transaction's id, or lease:NAME[@TIME]
    what: String,
    #[arg(long, value_enum, default_value_t)]
    format: ExplainFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum ExplainFormat {
    /// Text for people
    #[default]
    Text,
    Json,
}

pub async fn run(args: ExplainArgs, connection: &Connection) -> Result<u8, CliError> {
    // Before any connection is made: a wrong subject is wrong use wherever one is.
    hydrometer_audit::explain::Subject::parse(&args.what).map_err(sql::error)?;
    let cut = sql::cut(connection).await?;
    let explanation = match hydrometer_audit::explain::explain(&cut, &args.what).await {
        Ok(explanation) => explanation,
        Err(unknown @ CutError::Unknown { .. }) => {
            eprintln!("{unknown}");
            return Ok(1);
        }
        Err(error) => return Err(sql::error(error)),
    };
    match args.format {
        ExplainFormat::Text => table::print(&explanation.text())?,
        ExplainFormat::Json => table::print(&format!("{:#}\n", explanation.json()))?,
    }
    Ok(0)
}
