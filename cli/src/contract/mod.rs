//! `contract`: contracts as files. They are checked, shown, compared and tried on numbers without any server, and applied to one.

mod apply;
mod check;
mod diff;
mod price;
mod show;

use std::path::Path;

use clap::{Args, Subcommand};
use hydrometer_rating::terms::file::{self, Version};
use hydrometer_schemas::contract::{FILE_BYTES_MAX, json_schema_text};

use crate::{CliError, connection, table};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hydrometer contract check contracts/*.yaml                        every mistake, with file, line and column\n  \
    hydrometer contract show acme.yaml --at 2026-03-01T00:00:00Z      the version in force\n  \
    hydrometer contract show --applied acme --recorded-at 2026-03-09T00:00:00Z   as it was known then\n  \
    hydrometer contract apply acme.yaml                               record it\n  \
    hydrometer contract diff acme.yaml acme-2027.yaml                 what differs, and what it means\n  \
    hydrometer contract price acme.yaml --usage march.csv             lines, dues and totals of both sides\n  \
    hydrometer contract schema > contract.schema.json                 for editors: completion and checks\n\n\
    The fields are described in docs/contracts.md; examples/contracts/ has one of every kind.")]
pub struct ContractArgs {
    #[command(subcommand)]
    command: ContractCommand,
}

#[derive(Debug, Subcommand)]
enum ContractCommand {
    /// Name every mistake in contract files, with its line
    Check(check::CheckArgs),
    /// The version of a contract that is in force at a time
    Show(show::ShowArgs),
    /// What differs between two contracts or versions, field by field
    Diff(diff::DiffArgs),
    /// Record a contract file's versions; shows first what changes in time that is rated already
    Apply(apply::ApplyArgs),
    /// What usage from a file would cost, on both sides
    Price(price::PriceArgs),
    /// The JSON Schema of contract files
    Schema,
}

pub async fn run(args: ContractArgs, config: Option<&Path>) -> Result<u8, CliError> {
    let connected = || connection::connect(&connection::load_config(config)?);
    match args.command {
        ContractCommand::Apply(args) => apply::run(args, &connected()?).await,
        ContractCommand::Check(args) => check::run(args),
        ContractCommand::Show(args) => match args.applied() {
            true => show::applied(args, &connected()?).await,
            false => show::run(args),
        },
        ContractCommand::Diff(args) => diff::run(args),
        ContractCommand::Price(args) => price::run(args),
        ContractCommand::Schema => table::print(&json_schema_text()).map(|()| 0),
    }
}

/// A file's bytes; of a file that is too large, enough for the reader to say so.
fn bytes(path: &Path) -> Result<Vec<u8>, CliError> {
    use std::io::Read;
    let cannot = |error| CliError::failed(format!("cannot read {}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(cannot)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(cannot)?;
    Ok(bytes)
}

/// The versions of a sound file; its mistakes go to standard error, and then there are none.
fn versions(path: &Path) -> Result<Option<Vec<Version>>, CliError> {
    match file::read(&bytes(path)?) {
        Ok(versions) => Ok(Some(versions)),
        Err(mistakes) => {
            for mistake in mistakes {
                eprintln!("{}", table::visible(&format!("{}:{mistake}", path.display())));
            }
            Ok(None)
        }
    }
}

/// The version in force at a second. The text says why there is none.
fn in_force(versions: &[Version], at: hydrometer_schemas::time::Second) -> Result<&Version, String> {
    use hydrometer_schemas::time::show_second;
    let Some(version) = versions.iter().rev().find(|version| version.terms.effective <= at) else {
        let first = versions.first().map(|version| show_second(version.terms.effective)).unwrap_or_default();
        return Err(format!("no version is in force at {}: the first begins at {first}", show_second(at)));
    };
    match version.terms.term {
        Some(term) if term.renewal_months.is_none() && term.ends <= at => {
            Err(format!("no version is in force at {}: the term ended at {}", show_second(at), show_second(term.ends)))
        }
        _ => Ok(version),
    }
}

/// A time on the command line.
fn instant(text: &str) -> Result<hydrometer_schemas::time::Second, CliError> {
    let micros = hydrometer_schemas::time::parse_rfc3339(text);
    micros.map(hydrometer_schemas::time::second_of).ok_or_else(|| {
        CliError::usage(format!("{text:?} is no time: expected RFC 3339 with a zone, such as 2026-03-01T00:00:00Z"))
    })
}
