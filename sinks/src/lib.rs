//! How it lasts: the Parquet warehouse on an object store.
//!
//! * [`store`]: durable staging, publication under deterministic names, reading by name
//! * [`parquet`]: record batches to bytes and back
//! * [`months`]: months of the ledger that leave the database
//! * [`usage`], [`rated`], [`quarantine`]: the rows of the tables, and how staged rows become a published file
//!
//! Nothing here decides what is true; that is the commit's manifest in Postgres. This crate only does as it is named there.

pub mod months;
pub mod parquet;
pub mod quarantine;
pub mod rated;
pub mod store;
pub mod usage;

pub use store::{Staged, Warehouse};

#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    #[error(
        "the warehouse address {url:?} cannot be used: {detail}. Expected a folder, file:///folder or s3://bucket/prefix"
    )]
    Address { url: String, detail: String },
    #[error("cannot {doing} {name} in the warehouse: {source}{}", hint(.doing, .source))]
    Store { doing: &'static str, name: String, source: object_store::Error },
    #[error("cannot {doing} {path} on this machine: {source}{}", io_hint(.source))]
    Io { doing: &'static str, path: String, source: std::io::Error },
    #[error("the Parquet object {name} cannot be {doing}: {detail}")]
    Parquet { doing: &'static str, name: String, detail: String },
    #[error("{name} does not hold what the manifest says: expected sha256 {expected}, found {found}")]
    Checksum { name: String, expected: String, found: String },
    #[error("{0}")]
    Ledger(#[from] hydrometer_ledger::LedgerError),
    #[error("rated records do not fit their steps: {detail}")]
    Amounts { detail: String },
}

impl SinkError {
    /// Whether the same may go through later: the store did not answer or refused, the disk was full. What is missing, forbidden or
    /// there already stays so.
    pub fn may_pass(&self) -> bool {
        match self {
            SinkError::Store {
                source: source @ object_store::Error::Generic { store: "LocalFileSystem", .. }, ..
            } => io_cause(source).is_some_and(is_full),
            SinkError::Store { source, .. } => matches!(source, object_store::Error::Generic { .. }),
            SinkError::Io { source, .. } => is_full(source),
            _ => false,
        }
    }

    fn already_exists(&self) -> bool {
        matches!(self, SinkError::Store { source: object_store::Error::AlreadyExists { .. }, .. })
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}

/// The operating system's error at the bottom of a store's.
fn io_cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a std::io::Error> {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.find_map(|error| error.downcast_ref::<std::io::Error>())
}

fn hint(doing: &str, source: &object_store::Error) -> &'static str {
    match source {
        object_store::Error::Generic { store: "LocalFileSystem", .. } => io_cause(source).map_or("", io_hint),
        object_store::Error::Generic { .. } => {
            ". Hint: does the object store answer (AWS_ENDPOINT, AWS_REGION)? Nothing was lost: what was not committed is read again"
        }
        object_store::Error::NotFound { .. } if matches!(doing, "stage" | "publish") => {
            ". Hint: the bucket (or folder) is not there: create it, or correct `warehouse.url`"
        }
        object_store::Error::PermissionDenied { .. } => {
            ". Hint: give this user the right to write there, or name another folder"
        }
        object_store::Error::Unauthenticated { .. } => {
            ". Hint: check the credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY)"
        }
        object_store::Error::NotFound { .. } => ". Hint: is this the warehouse that belongs to this database?",
        _ => "",
    }
}

fn io_hint(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::PermissionDenied => {
            ". Hint: give this user the right to write there, or name another folder"
        }
        _ if is_full(source) => ". Hint: free some space; nothing was lost, the stream goes on from where it was",
        std::io::ErrorKind::NotADirectory | std::io::ErrorKind::AlreadyExists => {
            ". Hint: a file stands where a folder should be"
        }
        _ => "",
    }
}

impl From<hydrometer_rating::money::MoneyError> for SinkError {
    fn from(error: hydrometer_rating::money::MoneyError) -> Self {
        SinkError::Amounts { detail: error.to_string() }
    }
}
