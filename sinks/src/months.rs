//! Months of the ledger as Parquet files, for whoever detaches them.
//!
//! The columns are those of [`Row`]; ids are text, times are microseconds in UTC, amounts `decimal(38, 9)`. The rows stand in the order of
//! the book (`posting`, `place`, `line`), by which they are held to the hash chain.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Int32Type, Int64Type, Schema, TimeUnit, TimestampMicrosecondType,
};
use chrono::{DateTime, NaiveDate, Utc};
use hydrometer_ledger::archive::{self, Manifest, Row};
use hydrometer_ledger::{Amount, LedgerError};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use sha2::{Digest, Sha256};
use tokio_postgres::GenericClient;

use crate::SinkError;

/// Rows that are in memory at a time.
const PAGE: i64 = 50_000;

fn schema() -> Schema {
    let time = || DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let must = |name: &str, of: DataType| Field::new(name, of, false);
    let may = |name: &str| Field::new(name, DataType::Utf8, true);
    Schema::new(vec![
        must("posting", DataType::Int64),
        must("place", DataType::Int32),
        must("line", DataType::Int32),
        must("transaction", DataType::Utf8),
        must("debit", DataType::Utf8),
        must("credit", DataType::Utf8),
        must("amount", DataType::Decimal128(38, 9)),
        must("currency", DataType::Utf8),
        must("effective_at", time()),
        must("booked_at", time()),
        may("kind"),
        may("description"),
        may("corrects"),
        may("reverses"),
        may("metadata"),
    ])
}

/// Writes the transfers of a month into a new file, and says what it holds. `tell` hears how many rows are written.
///
/// # Errors
/// A file that is there already or cannot be written; a ledger that cannot be read.
pub async fn write(
    client: &impl GenericClient,
    month: NaiveDate,
    path: &Path,
    tell: &mut dyn FnMut(i64),
) -> Result<Manifest, SinkError> {
    let name = path.display().to_string();
    let io = |source| SinkError::Io { doing: "write", path: name.clone(), source };
    let failed = |e: parquet::errors::ParquetError| unreadable(&name, "written", &e);
    let file = File::create_new(path).map_err(io)?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by("hydrometer".to_owned())
        .build();
    let schema = Arc::new(schema());
    let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties)).map_err(failed)?;
    let mut manifest = Manifest::new(month, &name);
    let mut after = None;
    loop {
        let rows = archive::rows(client, month, after, PAGE).await?;
        let Some(last) = rows.last() else { break };
        after = Some(last.key());
        for row in &rows {
            manifest.add(row)?;
        }
        writer
            .write(&batch(Arc::clone(&schema), &rows).map_err(|e| unreadable(&name, "written", &e))?)
            .map_err(failed)?;
        tell(manifest.rows);
    }
    writer.into_inner().map_err(failed)?.sync_all().map_err(io)?;
    manifest.sha256 = sha256(path)?;
    Ok(manifest)
}

/// The SHA-256 of a file's bytes.
pub fn sha256(path: &Path) -> Result<[u8; 32], SinkError> {
    let io = |source| SinkError::Io { doing: "read", path: path.display().to_string(), source };
    let mut hash = Sha256::new();
    std::io::copy(&mut File::open(path).map_err(io)?, &mut hash).map_err(io)?;
    Ok(hash.finalize().into())
}

/// What is in a file, from its rows.
///
/// # Errors
/// A file that is not one of these, or not whole.
pub fn manifest(month: NaiveDate, path: &Path) -> Result<Manifest, SinkError> {
    let mut manifest = Manifest::new(month, &path.display().to_string());
    for row in read(path)? {
        manifest.add(&row?)?;
    }
    manifest.sha256 = sha256(path)?;
    Ok(manifest)
}

/// The rows of a file, one after the other.
///
/// # Errors
/// A file that cannot be opened, or is not one of these.
pub fn read(path: &Path) -> Result<impl Iterator<Item = Result<Row, LedgerError>>, SinkError> {
    let name = path.display().to_string();
    let io = |source| SinkError::Io { doing: "read", path: name.clone(), source };
    let failed = |e: parquet::errors::ParquetError| unreadable(&name, "read", &e);
    let builder = ParquetRecordBatchReaderBuilder::try_new(File::open(path).map_err(io)?).map_err(failed)?;
    let expected = schema();
    if builder.schema().fields() != expected.fields() {
        let detail = format!("its columns are {}, those of a month are {expected}", builder.schema());
        return Err(SinkError::Parquet { doing: "read", name, detail });
    }
    let batches = builder.with_batch_size(8_192).build().map_err(failed)?;
    Ok(batches.flat_map(move |batch| match batch {
        Ok(batch) => (0..batch.num_rows()).map(|n| row(&batch, n)).collect(),
        Err(error) => vec![Err(damaged(&name, &error.to_string()))],
    }))
}

fn batch(schema: Arc<Schema>, rows: &[Row]) -> Result<RecordBatch, arrow::error::ArrowError> {
    let text = |of: fn(&Row) -> &str| Arc::new(StringArray::from_iter_values(rows.iter().map(of))) as ArrayRef;
    let maybe = |of: fn(&Row) -> Option<String>| Arc::new(StringArray::from_iter(rows.iter().map(of))) as ArrayRef;
    let place = |of: fn(&Row) -> i32| Arc::new(Int32Array::from_iter_values(rows.iter().map(of))) as ArrayRef;
    let time = |of: fn(&Row) -> DateTime<Utc>| {
        let micros = rows.iter().map(|row| of(row).timestamp_micros());
        Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC")) as ArrayRef
    };
    let amounts = Decimal128Array::from_iter_values(rows.iter().map(|row| row.amount.nanos()));
    let ids = StringArray::from_iter_values(rows.iter().map(|row| row.transaction.to_string()));
    RecordBatch::try_new(
        schema,
        vec![
            Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.posting))),
            place(|row| row.place),
            place(|row| row.line),
            Arc::new(ids),
            text(|row| &row.debit),
            text(|row| &row.credit),
            Arc::new(amounts.with_precision_and_scale(38, 9)?),
            text(|row| &row.currency),
            time(|row| row.effective_at),
            time(|row| row.booked_at),
            maybe(|row| row.kind.clone()),
            maybe(|row| row.description.clone()),
            maybe(|row| row.corrects.map(|id| id.to_string())),
            maybe(|row| row.reverses.map(|id| id.to_string())),
            maybe(|row| row.metadata.clone()),
        ],
    )
}

/// The `n`th row of a batch that has the columns of [`schema`].
fn row(batch: &RecordBatch, n: usize) -> Result<Row, LedgerError> {
    let text = |column: usize| batch.column(column).as_string::<i32>().value(n).to_owned();
    let maybe = |column: usize| batch.column(column).is_valid(n).then(|| text(column));
    let place = |column: usize| batch.column(column).as_primitive::<Int32Type>().value(n);
    let id = |text: String| text.parse().map_err(|_| damaged("a month", &format!("{text:?} is no UUID")));
    let time = |column: usize| {
        let micros = batch.column(column).as_primitive::<TimestampMicrosecondType>().value(n);
        DateTime::from_timestamp_micros(micros).ok_or_else(|| damaged("a month", &format!("{micros} µs is no time")))
    };
    Ok(Row {
        posting: batch.column(0).as_primitive::<Int64Type>().value(n),
        place: place(1),
        line: place(2),
        transaction: id(text(3))?,
        debit: text(4),
        credit: text(5),
        amount: Amount::from_nanos(batch.column(6).as_primitive::<Decimal128Type>().value(n)),
        currency: text(7),
        effective_at: time(8)?,
        booked_at: time(9)?,
        kind: maybe(10),
        description: maybe(11),
        corrects: maybe(12).map(id).transpose()?,
        reverses: maybe(13).map(id).transpose()?,
        metadata: maybe(14),
    })
}

fn unreadable(name: &str, doing: &'static str, error: &dyn std::error::Error) -> SinkError {
    SinkError::Parquet { doing, name: name.to_owned(), detail: error.to_string() }
}

fn damaged(name: &str, detail: &str) -> LedgerError {
    LedgerError::Unreadable {
        what: format!("{name} cannot be read"),
        detail: detail.to_owned(),
        hint: "Take another copy of the file",
    }
}
