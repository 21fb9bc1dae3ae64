//! `period`: billing periods: which there are, what stands against closing one, and closing it.

use clap::{Args, Subcommand};
use hydrometer_pipeline::apply::history;
use hydrometer_pipeline::closing::{Closed, close_period, period_at};
use hydrometer_pipeline::store::Database;
use hydrometer_pipeline::store::against::{Reason, against};
use hydrometer_pipeline::store::closing::{DueStep, periods};
use hydrometer_rating::history::{History, Span};
use hydrometer_schemas::time::{parse_rfc3339, second_of, show_second};
use hydrometer_sinks::Warehouse;

use crate::table::{Format, Kind, Rows, visible};
use crate::{CliError, Connection};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hydrometer period list                                           every billing period, open and closed\n  \
    hydrometer period check acme --at 2026-03-01                     what stands against closing it\n  \
    hydrometer period close acme --at 2026-03-01\n  \
    hydrometer period close acme --at 2026-03-01 --accept 'collector was down, agreed with acme'\n\n\
    Exit status of close: 0 closed (now or before); 1 refused.")]
pub struct PeriodArgs {
    #[command(subcommand)]
    command: PeriodCommand,
}

#[derive(Debug, Subcommand)]
enum PeriodCommand {
    /// Every billing period that something was rated in
    List {
        /// Only of this contract
        contract: Option<String>,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// What stands against closing a period, without closing it
    Check {
        #[command(flatten)]
        of: Of,
    },
    /// Rate what falls due at a period's end, and book what comes later in the next one
    Close {
        #[command(flatten)]
        of: Of,
        /// Close it over what stands against it; the reason is recorded
        #[arg(long, value_name = "REASON")]
        accept: Option<String>,
        /// Who; it is recorded. Default: the user of the machine
        #[arg(long, value_name = "NAME", env = "USER", default_value = "unknown")]
        who: String,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
}

#[derive(Debug, Args)]
struct Of {
    /// The contract
    contract: String,
    /// Any time in the period: RFC 3339, or a date in the contract's zone such as 2026-03-01
    #[arg(long, value_name = "TIME")]
    at: String,
}

pub async fn run(args: PeriodArgs, connection: &Connection) -> Result<u8, CliError> {
    let mut db = Database::connect(&connection.database_url).await.map_err(CliError::failed)?;
    match args.command {
        PeriodCommand::List { contract, format } => list(&db, contract.as_deref(), format).await,
        PeriodCommand::Check { of } => {
            let history = history(db.client_ref(), None).await.map_err(CliError::failed)?;
            let period = of.period(&history)?;
            let reasons = against(db.client_ref(), &history, &of.contract, period).await.map_err(CliError::failed)?;
            tell(&of.contract, period, &reasons);
            Ok(u8::from(!reasons.is_empty()))
        }
        PeriodCommand::Close { of, accept, who, format } => {
            let history = history(db.client_ref(), None).await.map_err(CliError::failed)?;
            let period = of.period(&history)?;
            let warehouse = Warehouse::open(&connection.warehouse_url).map_err(CliError::failed)?;
            let closed = close_period(&mut db, &warehouse, &of.contract, period, &who, accept.as_deref())
                .await
                .map_err(CliError::failed)?;
            match closed {
                Closed::Now(steps) => {
                    show(&steps, format)?;
                    eprintln!("closed: {} {}", visible(&of.contract), show_span(period));
                    Ok(0)
                }
                Closed::Before => {
                    eprintln!("{} {} was closed before: nothing changes", visible(&of.contract), show_span(period));
                    Ok(0)
                }
                Closed::Refused(reasons) => {
                    tell(&of.contract, period, &reasons);
                    let may = reasons.iter().all(|reason| reason.acceptable);
                    let hint = if may { " To close it all the same: --accept REASON" } else { "" };
                    eprintln!("Nothing was changed.{hint}");
                    Ok(1)
                }
            }
        }
    }
}

impl Of {
    fn period(&self, history: &History) -> Result<Span, CliError> {
        let unknown = || CliError::usage(format!("nothing is known of contract {:?}", self.contract));
        let zone = history.versions(&self.contract).last().ok_or_else(unknown)?.terms.calendar;
        let date = || chrono::NaiveDate::parse_from_str(&self.at, "%Y-%m-%d").ok().map(|date| zone.midnight(date));
        let at = parse_rfc3339(&self.at).map(second_of).or_else(date).ok_or_else(|| {
            CliError::usage(format!("{:?} is no time: expected 2026-03-01T00:00:00Z or 2026-03-01", self.at))
        })?;
        period_at(history, &self.contract, at).ok_or_else(unknown)
    }
}

async fn list(db: &Database, contract: Option<&str>, format: Format) -> Result<u8, CliError> {
    let found = periods(db.client_ref(), contract).await.map_err(CliError::failed)?;
    let mut rows =
        Rows::new(&[("contract", Kind::Text), ("from", Kind::Text), ("to", Kind::Text), ("state", Kind::Text)]);
    for row in found {
        let state = if row.closed { "closed" } else { "open" };
        rows.push([row.contract, show_second(row.period.from), show_second(row.period.to), state.to_owned()]);
    }
    rows.print(format)?;
    Ok(0)
}

fn tell(contract: &str, period: Span, reasons: &[Reason]) {
    if reasons.is_empty() {
        println!("{} {} can be closed: nothing stands against it", visible(contract), show_span(period));
        return;
    }
    println!("{} {} cannot be closed yet:", visible(contract), show_span(period));
    for reason in reasons {
        println!("  - {}\n    {}", visible(&reason.what), reason.hint);
    }
}

fn show(steps: &[DueStep], format: Format) -> Result<(), CliError> {
    let columns = [
        ("due", Kind::Text),
        ("charge", Kind::Text),
        ("subject", Kind::Text),
        ("supplier", Kind::Text),
        ("renter amount", Kind::Decimal),
        ("supplier amount", Kind::Decimal),
        ("currency", Kind::Text),
        ("why", Kind::Text),
    ];
    let mut rows = Rows::new(&columns);
    for step in steps {
        let difference =
            |after: hydrometer_rating::money::Amount, before| after.checked_sub(before).map_err(CliError::failed);
        rows.push([
            step.key.kind.as_str().to_owned(),
            step.key.charge.clone(),
            step.key.subject.clone(),
            step.key.supplier.clone(),
            difference(step.after.0, step.before.0)?.to_string(),
            difference(step.after.1, step.before.1)?.to_string(),
            step.key.currency.clone(),
            step.why.clone(),
        ]);
    }
    rows.print(format)
}

fn show_span(period: Span) -> String {
    format!("[{}, {})", show_second(period.from), show_second(period.to))
}
