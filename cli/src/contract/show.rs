//! `contract show`: the version in force at a time.

use std::path::PathBuf;

use clap::Args;
use hydrometer_pipeline::apply;
use hydrometer_pipeline::store::Database;
use hydrometer_schemas::contract::{Contract, fields};
use hydrometer_schemas::time::{FOREVER, Second, show_second};

use super::{in_force, instant, versions};
use crate::table::{Format, Kind, Rows, visible};
use crate::{CliError, Connection};

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// A contract file (YAML or JSON), with all of its versions
    #[arg(value_name = "FILE", required_unless_present = "applied")]
    file: Option<PathBuf>,
    /// A contract that was applied, instead of a file
    #[arg(long, value_name = "CONTRACT", conflicts_with = "file")]
    applied: Option<String>,
    /// As it was known at that time (RFC 3339); default: as it is known now
    #[arg(long, value_name = "TIME", requires = "applied")]
    recorded_at: Option<String>,
    /// RFC 3339 with a zone. Default: now
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

impl ShowArgs {
    pub fn applied(&self) -> bool {
        self.applied.is_some()
    }

    fn at(&self) -> Result<Second, CliError> {
        self.at.as_deref().map_or_else(|| Ok(chrono::Utc::now().timestamp()), instant)
    }
}

/// A contract as the events of the commit point have it. Exit status 1 when no version is in force.
pub async fn applied(args: ShowArgs, connection: &Connection) -> Result<u8, CliError> {
    let at = args.at()?;
    let recorded = args.recorded_at.as_deref().map(instant).transpose()?;
    let name = args.applied.as_deref().unwrap_or_default();
    let db = Database::connect(&connection.database_url).await.map_err(CliError::failed)?;
    let history = apply::history(db.client_ref(), recorded).await.map_err(CliError::failed)?;
    let versions = history.versions(name);
    let Some(version) = versions.iter().find(|v| v.span.from <= at && at < v.span.to) else {
        let known: Vec<String> = versions.iter().map(|v| show_second(v.span.from)).collect();
        let hint = if known.is_empty() {
            "nothing is known of it".to_owned()
        } else {
            format!("versions begin at {}", known.join(", "))
        };
        eprintln!("no version of {} is in force at {}: {hint}", visible(name), show_second(at));
        return Ok(1);
    };
    eprintln!(
        "in force from {} to {}",
        show_second(version.span.from),
        if version.span.to == FOREVER { "open".to_owned() } else { show_second(version.span.to) }
    );
    show(&version.terms.document, args.format)
}

/// Exit status 1 when the file has mistakes, or no version is in force.
pub fn run(args: ShowArgs) -> Result<u8, CliError> {
    let at = args.at()?;
    let file = args.file.unwrap_or_default();
    let Some(versions) = versions(&file)? else { return Ok(1) };
    let version = match in_force(&versions, at) {
        Ok(version) => version,
        Err(why) => {
            eprintln!("{}: {why}", file.display());
            return Ok(1);
        }
    };
    show(&version.document.contract, args.format)
}

fn show(document: &Contract, format: Format) -> Result<u8, CliError> {
    let mut rows = Rows::new(&[("field", Kind::Text), ("value", Kind::Text), ("meaning", Kind::Text)]);
    for field in fields(document) {
        rows.push([field.field, field.after.unwrap_or_default(), field.meaning]);
    }
    rows.print(format)?;
    Ok(0)
}
