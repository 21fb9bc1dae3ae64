//! Reading what the manifest names. What cannot be read as it was named is a violation; only a store that does not answer is an error.

use arrow::array::RecordBatch;
use hydrometer_sinks::{SinkError, Warehouse, parquet};

use super::{Check, VerifyError};

/// What a named file or object turned out to be.
pub(super) enum Found {
    Batches(Vec<RecordBatch>),
    /// It is not there.
    Missing,
    /// It is there and cannot be read; that is said already.
    Unreadable,
}

/// What the manifest says of a file or object.
pub(super) struct Named<'a> {
    pub name: &'a str,
    pub rows: i64,
    pub bytes: i64,
    pub sha256: &'a str,
}

/// Reads a file or object and holds it against its row. One with another checksum is decoded all the same, so that the rows that
/// were changed can be named.
pub(super) async fn read(warehouse: &Warehouse, named: &Named<'_>, check: &mut Check) -> Result<Found, VerifyError> {
    let read = match warehouse.read_checked(named.name, named.sha256).await {
        Err(SinkError::Checksum { expected, found, .. }) => {
            check.violation(named.name, format!("sha256 {expected}"), format!("sha256 {found}"));
            warehouse.read(named.name).await
        }
        other => other,
    };
    let bytes = match read {
        Ok(bytes) => bytes,
        Err(error) => {
            // Not there, or does the store not answer? A listing tells.
            let folder = named.name.rsplit_once('/').map_or("", |(folder, _)| folder);
            let there = warehouse.list(folder).await?.iter().any(|name| name == named.name);
            return if there { Err(error.into()) } else { Ok(Found::Missing) };
        }
    };
    if i64::try_from(bytes.len()) != Ok(named.bytes) {
        check.violation(named.name, format!("{} bytes", named.bytes), format!("{} bytes", bytes.len()));
    }
    // On a thread of its own: damaged bytes may do worse to a decoder than an error.
    let name = named.name.to_owned();
    match tokio::task::spawn_blocking(move || parquet::decode(&name, bytes)).await {
        Ok(Ok(batches)) => {
            let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
            if i64::try_from(rows) != Ok(named.rows) {
                check.violation(named.name, format!("{} rows", named.rows), format!("{rows} rows"));
            }
            Ok(Found::Batches(batches))
        }
        Ok(Err(error)) => {
            check.violation(named.name, "a Parquet file", error.to_string());
            Ok(Found::Unreadable)
        }
        Err(_) => {
            check.violation(named.name, "a Parquet file", "bytes that no decoder survives");
            Ok(Found::Unreadable)
        }
    }
}
