//! `contract apply`: records the versions of a contract file. What it would change in time that is rated already is shown first.

use std::path::PathBuf;

use clap::Args;
use hydrometer_pipeline::apply::{PREVIEW_HOURS_MAX, Preview, apply, preview};
use hydrometer_pipeline::store::Database;
use hydrometer_pipeline::store::lifecycle::Command;
use hydrometer_rating::money::Amount;
use hydrometer_schemas::contract::Contract;
use hydrometer_schemas::time::show_second;
use hydrometer_sinks::Warehouse;

use super::versions;
use crate::table::{Format, Kind, Rows, visible};
use crate::{CliError, Connection};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hydrometer contract apply acme.yaml                                   shows what it would change in the past, if anything\n  \
    hydrometer contract apply acme.yaml --yes --why 'price as of March, ticket 4711'\n\n\
    Exit status: 0 applied; 1 refused, or it needs --yes; nothing is changed then.")]
pub struct ApplyArgs {
    /// A contract file (YAML or JSON), with one version or several
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Apply it although it changes time that is rated already
    #[arg(long, requires = "why")]
    yes: bool,
    /// Why; it is recorded
    #[arg(long, value_name = "TEXT")]
    why: Option<String>,
    /// Who; it is recorded. Default: the user of the machine
    #[arg(long, value_name = "NAME", env = "USER", default_value = "unknown")]
    who: String,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

pub async fn run(args: ApplyArgs, connection: &Connection) -> Result<u8, CliError> {
    let Some(versions) = versions(&args.file)? else { return Ok(1) };
    let documents: Vec<Contract> = versions.iter().map(|v| v.document.contract.clone()).collect();
    let warehouse = Warehouse::open(&connection.warehouse_url).map_err(CliError::failed)?;
    let mut db = Database::connect(&connection.database_url).await.map_err(CliError::failed)?;
    let found = preview(&mut db, &warehouse, &documents).await.map_err(CliError::failed)?;
    if !found.refused.is_empty() {
        for reason in &found.refused {
            eprintln!("refused: {}", visible(reason));
        }
        eprintln!("Nothing was changed.");
        return Ok(1);
    }
    if found.reaches_back() {
        show(&found, args.format)?;
        if !args.yes {
            eprintln!("Nothing was changed. To apply it: --yes --why TEXT");
            return Ok(1);
        }
    }
    let events = found.events.len();
    let reaches_back = found.reaches_back();
    let command = Command { name: "contract apply", who: args.who, why: args.why.unwrap_or_default() };
    if !apply(&mut db, found, command).await.map_err(CliError::failed)? {
        return Err(CliError::failed(
            "something else was recorded meanwhile, so what was shown may not hold any more. Nothing was changed. Hint: run it again",
        ));
    }
    println!(
        "applied: {events} version{} of {}",
        if events == 1 { "" } else { "s" },
        documents.first().map_or("", |d| &d.contract)
    );
    if reaches_back {
        println!(
            "A running worker now rates that time again; `hydrometer report corrections` shows the differences as they are booked."
        );
    }
    Ok(0)
}

fn show(found: &Preview, format: Format) -> Result<(), CliError> {
    eprintln!("It reaches into rated time: {} hours of servers are rated again.", found.hours);
    for period in &found.closed {
        eprintln!(
            "The billing period from {} is closed: what changes in it is booked in the open one.",
            show_second(period.period.from)
        );
    }
    if found.hours > PREVIEW_HOURS_MAX {
        eprintln!("That is too much to work out here (at most {PREVIEW_HOURS_MAX} hours).");
        return Ok(());
    }
    let columns = [
        ("contract", Kind::Text),
        ("charge", Kind::Text),
        ("period", Kind::Text),
        ("side", Kind::Text),
        ("now", Kind::Decimal),
        ("then", Kind::Decimal),
        ("difference", Kind::Decimal),
        ("currency", Kind::Text),
    ];
    let mut rows = Rows::new(&columns);
    for change in &found.changes {
        for (side, (now, then)) in [("renter", change.renter), ("supplier", change.supplier)] {
            let difference: Amount = then.checked_sub(now).map_err(CliError::failed)?;
            rows.push([
                change.contract.clone(),
                change.charge.clone(),
                show_second(change.period),
                side.to_owned(),
                now.to_string(),
                then.to_string(),
                difference.to_string(),
                change.currency.clone(),
            ]);
        }
    }
    if found.changes.is_empty() {
        eprintln!("No amount that is rated changes.");
        return Ok(());
    }
    rows.print(format)
}
