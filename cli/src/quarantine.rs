//! `quarantine`: what could not be decoded or believed.

use std::sync::Arc;

use arrow::array::{BinaryArray, RecordBatch};
use arrow::compute::kernels::length::length;
use arrow::datatypes::{Field, FieldRef, Schema};
use arrow::error::ArrowError;
use clap::{Args, Subcommand};
use hydrometer_schemas::quarantine::Reason;

use crate::table::{self, Format, Rows};
use crate::{CliError, Connection, sql};

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hydrometer quarantine list --reason malformed\n  \
    hydrometer quarantine show gpu.telemetry/0/4711")]
pub struct QuarantineArgs {
    #[command(subcommand)]
    command: QuarantineCommand,
}

#[derive(Debug, Subcommand)]
enum QuarantineCommand {
    /// The messages, in the order of their log
    List {
        /// Only messages that were set aside for this reason
        #[arg(long)]
        reason: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: u32,
        #[arg(long, value_enum, default_value_t)]
        format: Format,
    },
    /// One message, with its bytes
    Show {
        /// TOPIC/PARTITION/OFFSET
        message: String,
        /// Writes the bytes as they are, for a pipe
        #[arg(long)]
        raw: bool,
    },
}

pub async fn run(args: QuarantineArgs, connection: &Connection) -> Result<u8, CliError> {
    match args.command {
        QuarantineCommand::List { reason, limit, format } => list(connection, reason.as_deref(), limit, format).await,
        QuarantineCommand::Show { message, raw } => show(connection, &message, raw).await,
    }
}

async fn list(connection: &Connection, reason: Option<&str>, limit: u32, format: Format) -> Result<u8, CliError> {
    if let Some(reason) = reason
        && !Reason::ALL.iter().any(|known| known.name() == reason)
    {
        let known: Vec<&str> = Reason::ALL.iter().map(|r| r.name()).collect();
        return Err(CliError::usage(format!("there is no reason {reason:?}; there are {}", known.join(", "))));
    }
    let condition = reason.map(|reason| format!("WHERE reason = '{reason}'")).unwrap_or_default();
    let query = format!(
        "SELECT topic, \"partition\", \"offset\", log_time, reason, detail, raw FROM quarantine {condition} \
         ORDER BY topic, \"partition\", \"offset\" LIMIT {limit}"
    );
    let batches = sql::ask(connection, &query).await?;
    let batches: Vec<RecordBatch> = batches.iter().map(sized).collect::<Result<_, _>>().map_err(CliError::failed)?;
    Rows::of(&batches)?.print(format)?;
    Ok(0)
}

/// How large messages are, in place of their bytes.
fn sized(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let index = batch.schema().index_of("raw")?;
    let mut columns = batch.columns().to_vec();
    columns[index] = length(&columns[index])?;
    let mut fields: Vec<FieldRef> = batch.schema().fields().iter().cloned().collect();
    fields[index] = Arc::new(Field::new("size_bytes", columns[index].data_type().clone(), true));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

async fn show(connection: &Connection, message: &str, raw: bool) -> Result<u8, CliError> {
    let (topic, partition, offset) = place(message).ok_or_else(|| {
        CliError::usage(format!("{message:?} is no TOPIC/PARTITION/OFFSET, as in gpu.telemetry/0/4711"))
    })?;
    let query = format!(
        "SELECT log_time, reason, detail, raw FROM quarantine WHERE topic = '{}' AND \"partition\" = {partition} AND \"offset\" = {offset}",
        topic.replace('\'', "''")
    );
    let batches = sql::ask(connection, &query).await?;
    let Some(bytes) = first_raw(&batches) else {
        eprintln!("{message} is not in quarantine. Hint: `hydrometer quarantine list` shows what is");
        return Ok(1);
    };
    if raw {
        return write_raw(bytes).map(|()| 0);
    }
    let rows = Rows::of(&batches)?;
    let mut text = format!("message   {}\n", table::visible(message));
    for (name, cell) in ["log time", "reason", "detail"].iter().zip(rows.rows.first().into_iter().flatten()) {
        text.push_str(&format!("{name:<9} {}\n", cell.as_deref().map(table::visible).unwrap_or_default()));
    }
    text.push_str(&format!("{} bytes:\n{}\n", bytes.len(), safe(bytes)));
    table::print(&text)?;
    Ok(0)
}

fn first_raw(batches: &[RecordBatch]) -> Option<&[u8]> {
    let batch = batches.iter().find(|batch| batch.num_rows() > 0)?;
    Some(batch.column_by_name("raw")?.as_any().downcast_ref::<BinaryArray>()?.value(0))
}

fn write_raw(bytes: &[u8]) -> Result<(), CliError> {
    use std::io::Write;
    match std::io::stdout().lock().write_all(bytes) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(CliError::failed(error)),
        _ => Ok(()),
    }
}

/// A topic may hold slashes no more than Kafka allows: none.
fn place(message: &str) -> Option<(&str, i32, i64)> {
    let mut parts = message.split('/');
    let (topic, partition, offset) = (parts.next()?, parts.next()?, parts.next()?);
    (parts.next().is_none() && !topic.is_empty()).then_some(())?;
    Some((topic, partition.parse().ok()?, offset.parse().ok()?))
}

/// Bytes as text that does nothing to a terminal: what is no printable UTF-8 is written `\xNN`, and a backslash is doubled.
fn safe(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(&table::visible(&chunk.valid().replace('\\', "\\\\")));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_harmless() {
        assert_eq!(safe(b"{\"gpu\":\"\xc3\xa9\"}\n\x1b[31m\xff\\"), "{\"gpu\":\"é\"}\\n\\u{1b}[31m\\xff\\\\");
    }

    #[test]
    fn places() {
        assert_eq!(place("gpu.telemetry/3/42"), Some(("gpu.telemetry", 3, 42)));
        for wrong in ["", "a/1", "a/b/1", "a/1/2/3", "/1/2"] {
            assert_eq!(place(wrong), None, "{wrong}");
        }
    }
}
