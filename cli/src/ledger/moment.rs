//! Times on the command line.

use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, ValueEnum};
use hydrometer_audit::explain::read_time;
use hydrometer_ledger::{self as ledger, AsOf};

use crate::CliError;

#[derive(Debug, Args)]
pub(super) struct Moment {
    /// As the book was at this time (RFC 3339; without it, now)
    #[arg(long, value_name = "TIME")]
    as_of: Option<String>,
    /// Whether the time is when something counts, or when it was booked
    #[arg(long, value_enum, default_value_t, requires = "as_of")]
    by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum By {
    #[default]
    Effective,
    Booked,
}

impl From<By> for ledger::By {
    fn from(by: By) -> ledger::By {
        match by {
            By::Effective => ledger::By::Effective,
            By::Booked => ledger::By::Booked,
        }
    }
}

impl Moment {
    pub(super) fn read(&self) -> Result<AsOf, CliError> {
        let Some(text) = &self.as_of else { return Ok(AsOf::Now) };
        let time = time(text)?;
        Ok(match self.by {
            By::Effective => AsOf::Effective(time),
            By::Booked => AsOf::Booked(time),
        })
    }
}

pub(super) fn time(text: &str) -> Result<DateTime<Utc>, CliError> {
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.with_timezone(&Utc))
        .ok()
        .or_else(|| DateTime::from_timestamp(read_time(text)?, 0))
        .ok_or_else(|| CliError::usage(format!("{text:?} is no time; write it like 2026-03-01T10:20:30Z")))
}

pub(super) fn show(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}
