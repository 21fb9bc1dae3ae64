//! The hash chain and its anchors.

use std::path::PathBuf;

use chrono::SecondsFormat;
use clap::Args;
use hydrometer_ledger::anchor;
use hydrometer_pipeline::store::Database;

use crate::table::{Format, Kind, Rows};
use crate::{CliError, keep};

#[derive(Debug, Args)]
pub struct ChainArgs {
    /// Chain what is not chained yet, first
    #[arg(long)]
    advance: bool,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Keep the file on a machine that the database's administrator cannot write to. `hydrometer verify --anchor FILE` proves that all \
    that was chained by then is still what it was."
)]
pub struct AnchorArgs {
    /// Where it is written
    file: PathBuf,
}

pub async fn chain(args: ChainArgs, db: &Database) -> Result<u8, CliError> {
    if args.advance {
        let chained = keep::catch_up(db).await.map_err(CliError::failed)?;
        eprintln!("chained: {chained} sets");
    }
    let status = anchor::status(db.client_ref()).await.map_err(CliError::failed)?;
    let mut rows = Rows::new(&[
        ("anchor", Kind::Text),
        ("anchored_at", Kind::Text),
        ("chained_since", Kind::Plain),
        ("not_chained", Kind::Plain),
        ("not_chained_since", Kind::Text),
    ]);
    let time = |at: chrono::DateTime<chrono::Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
    rows.push([
        status.last.map(|(number, _)| number.to_string()).unwrap_or_default(),
        status.last.map(|(_, at)| time(at)).unwrap_or_default(),
        status.chained_only.to_string(),
        status.unchained.to_string(),
        status.unchained_since.map(time).unwrap_or_default(),
    ]);
    rows.print(args.format)?;
    eprintln!(
        "What lies after the last anchor is chained, but whoever administers the database could rewrite it together with its chain; \
         what is not chained yet, without leaving a trace."
    );
    Ok(0)
}

pub async fn anchor(args: AnchorArgs, db: &Database) -> Result<u8, CliError> {
    keep::catch_up(db).await.map_err(CliError::failed)?;
    let made = anchor::export(db.client_ref()).await.map_err(CliError::failed)?;
    keep::write(&args.file, &made)?;
    eprintln!("anchor {} covers {} transfers: {}", made.number, made.transfers, args.file.display());
    Ok(0)
}
