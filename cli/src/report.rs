//! `report`: what finance asks first, as views that `sql` can refine.

use clap::{Args, ValueEnum};

use crate::table::{Format, Rows};
use crate::{CliError, Connection, sql};

#[derive(Debug, Args)]
#[command(after_help = "Each report is a view: hydrometer sql 'SELECT * FROM revenue' says the same.\n\n\
    Examples:\n  \
    hydrometer report revenue\n  \
    hydrometer report margin --format csv")]
pub struct ReportArgs {
    #[arg(value_enum)]
    report: Report,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Report {
    /// What renters owe, by day, renter and contract
    Revenue,
    /// What suppliers earn, by day
    Earnings,
    /// What the platform keeps, by day and contract
    Margin,
    /// Leased seconds by class, by day, renter and contract
    Utilisation,
    /// Metered seconds that no lease covers, by server, GPU and hour
    Leakage,
    /// Leased seconds without any reading, by server, GPU and hour
    Unknown,
    /// What renters have used and is on no invoice yet
    Unbilled,
    /// Records that correct an earlier one
    Corrections,
}

impl Report {
    fn query(self) -> &'static str {
        match self {
            Report::Revenue => "SELECT * FROM revenue ORDER BY day, renter, contract, currency",
            Report::Earnings => "SELECT * FROM earnings ORDER BY day, supplier, currency",
            Report::Margin => "SELECT * FROM margin ORDER BY day, contract, currency",
            Report::Utilisation => "SELECT * FROM utilisation ORDER BY day, renter, contract",
            Report::Leakage => "SELECT * FROM leakage ORDER BY hour, server, gpu",
            Report::Unknown => "SELECT * FROM unknown_seconds ORDER BY hour, server, gpu",
            Report::Unbilled => "SELECT * FROM unbilled ORDER BY renter, currency",
            Report::Corrections => "SELECT * FROM corrections ORDER BY window_start, contract, lease, slot, revision",
        }
    }
}

pub async fn run(args: ReportArgs, connection: &Connection) -> Result<u8, CliError> {
    let rows = Rows::of(&sql::ask(connection, args.report.query()).await?)?;
    // Programs get the names that SQL knows.
    let rows = if args.format == Format::Table { rows.with_units() } else { rows };
    rows.print(args.format)?;
    Ok(0)
}
