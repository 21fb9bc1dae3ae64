//! `ledger journal`.

use clap::{Args, ValueEnum};
use hydrometer_ledger::{Journal, JournalFormat, Period};
use tokio_postgres::Client;

use super::moment::{By, time};
use super::{answer, snapshot};
use crate::CliError;
use crate::table::print;

#[derive(Debug, Args)]
pub(super) struct JournalArgs {
    /// How it is written
    #[arg(long, value_enum, default_value_t)]
    format: Written,
    /// Only from this time on
    #[arg(long, value_name = "TIME", requires = "to")]
    from: Option<String>,
    /// Only before this time
    #[arg(long, value_name = "TIME", requires = "from")]
    to: Option<String>,
    /// Whether times are when something counts, or when it was booked
    #[arg(long, value_enum, default_value_t, requires = "from")]
    by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Written {
    /// A line a transfer
    #[default]
    Csv,
    /// A journal for hledger
    Hledger,
}

pub(super) async fn run(args: JournalArgs, client: &mut Client) -> Result<u8, CliError> {
    let format = match args.format {
        Written::Csv => JournalFormat::Csv,
        Written::Hledger => JournalFormat::Hledger,
    };
    let period = match (&args.from, &args.to) {
        (Some(from), Some(to)) => Some(Period { by: args.by.into(), from: time(from)?, to: time(to)? }),
        _ => None,
    };
    let tx = snapshot(client).await?;
    let mut journal = Journal::open(&tx, format, period).await.map_err(CliError::failed)?;
    loop {
        match journal.next().await {
            Ok(Some(piece)) => print(&piece)?,
            Ok(None) => return Ok(0),
            Err(error) => return answer(error),
        }
    }
}
