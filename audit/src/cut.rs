//! One consistent cut of everything: the manifest, the commit point's tables and the ledger as one Postgres snapshot sees them,
//! and the Parquet that this manifest names. Whatever is asked of a cut, and in however many steps, is answered as of one moment.
//!
//! A cut keeps a REPEATABLE READ READ ONLY transaction open. Files that the manifest names are never rewritten, and staged objects
//! stay for a grace period after they were published, so both can be read after the snapshot was taken.

mod leakage;
mod postgres;
mod unpublished;
mod views;
mod warehouse;

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use datafusion::error::DataFusionError;
use datafusion::prelude::{SessionConfig, SessionContext};
use hydrometer_ledger::LedgerError;
use hydrometer_pipeline::store::{Database, StoreError};
use hydrometer_pipeline::worker::WorkerError;
use hydrometer_schemas::warehouse::Table;
use hydrometer_sinks::{SinkError, Warehouse};
use tokio_postgres::Client;

use leakage::LeakageTable;
use warehouse::{Source, WarehouseTable};

#[derive(Debug, thiserror::Error)]
pub enum CutError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error("the database refused while reading a cut: {detail}")]
    Database { detail: String, source: tokio_postgres::Error },
    #[error("{what}. Hint: {hint}")]
    Refused { what: String, hint: String },
    #[error("the query failed: {0}")]
    Query(String),
    /// What was asked about does not exist: an answer, not a failure.
    #[error("{what}. Hint: {hint}")]
    Unknown { what: String, hint: String },
}

impl From<tokio_postgres::Error> for CutError {
    fn from(source: tokio_postgres::Error) -> Self {
        let detail = match source.as_db_error() {
            Some(db) => db.message().to_owned(),
            None => source.to_string(),
        };
        CutError::Database { detail, source }
    }
}

impl From<DataFusionError> for CutError {
    fn from(error: DataFusionError) -> Self {
        CutError::Query(error.strip_backtrace())
    }
}

impl From<arrow::error::ArrowError> for CutError {
    fn from(error: arrow::error::ArrowError) -> Self {
        CutError::Query(error.to_string())
    }
}

/// What a name in SQL stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableInfo {
    pub name: String,
    /// `warehouse`, `view`, `ledger` or `commit point`.
    pub kind: &'static str,
    pub about: &'static str,
}

/// Everything as of one moment.
pub struct Cut {
    source: Arc<Source>,
    context: SessionContext,
    tables: BTreeMap<String, TableInfo>,
    at: DateTime<Utc>,
}

impl Cut {
    /// Takes the cut. Reads the manifest; everything else is read when a query names it.
    pub async fn open(database_url: &str, warehouse: &Warehouse) -> Result<Cut, CutError> {
        let db = Database::connect(database_url).await?;
        // A person may look at a cut for a while; a worker's session may not idle like that.
        db.client_ref()
            .batch_execute(
                "SET idle_in_transaction_session_timeout = '15min'; BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
            )
            .await?;
        let at = db.client_ref().query_one("SELECT transaction_timestamp()", &[]).await?.get(0);
        let source = Arc::new(Source::read(db, warehouse.clone()).await?);

        let config = SessionConfig::new().with_information_schema(true);
        let context = SessionContext::new_with_config(config);
        source.register_store(&context)?;
        let mut cut = Cut { source, context, tables: BTreeMap::new(), at };
        cut.register_warehouse()?;
        cut.register_postgres().await?;
        for view in views::VIEWS {
            let plan = cut.context.sql(view.sql).await?;
            cut.context.register_table(view.name, plan.into_view())?;
            cut.describe(view.name, "view", view.about);
        }
        Ok(cut)
    }

    /// When the snapshot was taken, by the database's clock.
    pub fn at(&self) -> DateTime<Utc> {
        self.at
    }

    /// The connection, inside the snapshot's transaction: whatever is read through it is of the same moment.
    pub fn client(&self) -> &Client {
        self.source.db.client_ref()
    }

    pub fn database(&self) -> &Database {
        &self.source.db
    }

    pub fn warehouse(&self) -> &Warehouse {
        &self.source.warehouse
    }

    /// Where queries run. `crate::sql` guards what they may do.
    pub fn context(&self) -> &SessionContext {
        &self.context
    }

    /// Every name that a query may use, in order.
    pub fn tables(&self) -> impl Iterator<Item = &TableInfo> {
        self.tables.values()
    }

    pub fn has_table(&self, name: &str) -> bool {
        self.tables.contains_key(name)
    }

    fn describe(&mut self, name: &str, kind: &'static str, about: &'static str) {
        let info = TableInfo { name: name.to_owned(), kind, about };
        self.tables.insert(name.to_owned(), info);
    }

    fn register_warehouse(&mut self) -> Result<(), CutError> {
        for (table, about) in [
            (Table::Usage, "metered minutes: a row per server, GPU and minute, the last minute included"),
            (
                Table::Rated,
                "rated records: a row per lease, slot, GPU, charge, window and version, per revision, and per amount that fell due",
            ),
            (Table::Quarantine, "messages that could not be decoded or believed, with their raw bytes"),
        ] {
            let provider = WarehouseTable::new(self.source.clone(), table);
            self.context.register_table(table.name(), Arc::new(provider))?;
            self.describe(table.name(), "warehouse", about);
        }
        self.context.register_table("leakage", Arc::new(LeakageTable::new(self.source.clone())))?;
        self.describe("leakage", "view", leakage::ABOUT);
        Ok(())
    }

    async fn register_postgres(&mut self) -> Result<(), CutError> {
        for table in postgres::tables(&self.source).await? {
            let name = table.name().to_owned();
            let (kind, about) = (table.kind(), table.about());
            self.context.register_table(name.as_str(), Arc::new(table))?;
            self.describe(&name, kind, about);
        }
        Ok(())
    }
}
