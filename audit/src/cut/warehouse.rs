//! The warehouse's tables as the manifest of the snapshot has them: published files by their exact names, and beside them what is
//! staged and in no file yet. Each row once.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::UnionExec;
use datafusion::prelude::SessionContext;
use hydrometer_pipeline::source::TopicPartition;
use hydrometer_pipeline::store::Database;
use hydrometer_pipeline::store::manifest::Object;
use hydrometer_schemas::time::Second;
use hydrometer_schemas::warehouse::Table;
use hydrometer_sinks::Warehouse;
use tokio::sync::OnceCell;

use super::{CutError, unpublished};

/// A name of our own, so that local and S3 warehouses are read by the same paths: those in the manifest.
const STORE_URL: &str = "warehouse://local/";

/// DataFusion's decimal sums wrap silently. A rated amount is below 1e17: prices are at most 1e9 per unit, a record covers at most
/// an hour, and an adjustment or what falls due at most what one contract uses in a period (fewer than 1e8 units). So the sum of fewer than 1e12 rows
/// is below 1e29 units, and 128 bits hold 1.7e29. A warehouse beyond that is refused rather than summed.
const ROWS_MAX: i64 = 1_000_000_000_000;

/// A published file.
#[derive(Debug, Clone)]
pub struct PublishedFile {
    pub name: String,
    pub table: Table,
    pub partition: TopicPartition,
    pub hour: Second,
    pub rows: i64,
    pub bytes: u64,
    pub sha256: String,
}

/// What all tables of a cut read from.
pub struct Source {
    pub db: Database,
    pub warehouse: Warehouse,
    pub files: Vec<PublishedFile>,
    /// Committed objects that are not, or not wholly, in a published file.
    pub objects: Vec<Object>,
    /// Files of closings that are owed: nothing is staged for them.
    pub closings: Vec<String>,
    unpublished: [OnceCell<RecordBatch>; 3],
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source").field("warehouse", &self.warehouse).field("files", &self.files.len()).finish()
    }
}

impl Source {
    /// Reads the manifest in the snapshot that `db` holds open.
    pub async fn read(db: Database, warehouse: Warehouse) -> Result<Source, CutError> {
        let rows = db
            .client_ref()
            .query(
                "SELECT name, tbl, topic, partition, hour_s, coalesce(rows, 0), coalesce(bytes, 0), coalesce(sha256, '') \
                 FROM hydrometer.file WHERE published_at IS NOT NULL ORDER BY name",
                &[],
            )
            .await?;
        let tables: BTreeMap<&str, Table> = Table::ALL.into_iter().map(|t| (t.name(), t)).collect();
        let files = rows
            .iter()
            .filter_map(|row| {
                Some(PublishedFile {
                    name: row.get(0),
                    table: *tables.get(row.get::<_, &str>(1))?,
                    partition: TopicPartition { topic: row.get::<_, &str>(2).into(), partition: row.get(3) },
                    hour: row.get(4),
                    rows: row.get(5),
                    bytes: u64::try_from(row.get::<_, i64>(6)).unwrap_or(0),
                    sha256: row.get(7),
                })
            })
            .collect();
        let objects = unpublished::objects(db.client_ref()).await?;
        let closings = unpublished::closings(db.client_ref()).await?;
        Ok(Source { db, warehouse, files, objects, closings, unpublished: Default::default() })
    }

    pub fn register_store(&self, context: &SessionContext) -> DataFusionResult<()> {
        let url = ObjectStoreUrl::parse(STORE_URL)?;
        context.runtime_env().register_object_store(url.as_ref(), self.warehouse.object_store());
        Ok(())
    }

    /// What is staged and in no published file yet; read once per cut.
    async fn unpublished(&self, table: Table) -> Result<&RecordBatch, CutError> {
        let cell = match table {
            Table::Usage => &self.unpublished[0],
            Table::Rated => &self.unpublished[1],
            Table::Quarantine => &self.unpublished[2],
        };
        cell.get_or_try_init(|| unpublished::read(self, table)).await
    }
}

#[derive(Debug)]
pub struct WarehouseTable {
    source: Arc<Source>,
    table: Table,
}

impl WarehouseTable {
    pub fn new(source: Arc<Source>, table: Table) -> Self {
        Self { source, table }
    }

    fn files(&self) -> impl Iterator<Item = &PublishedFile> {
        self.source.files.iter().filter(|file| file.table == self.table)
    }

    fn scan_files(
        &self,
        parallel: usize,
        projection: Option<&Vec<usize>>,
    ) -> DataFusionResult<Option<Arc<dyn ExecutionPlan>>> {
        let files: Vec<PartitionedFile> =
            self.files().map(|file| PartitionedFile::new(file.name.as_str(), file.bytes)).collect();
        if files.is_empty() {
            return Ok(None);
        }
        let parquet = Arc::new(ParquetSource::new(self.schema()));
        let scan = FileScanConfigBuilder::new(ObjectStoreUrl::parse(STORE_URL)?, parquet)
            .with_file_groups(FileGroup::new(files).split_files(parallel))
            .with_projection_indices(projection.cloned())?
            .build();
        Ok(Some(DataSourceExec::from_data_source(scan)))
    }
}

#[async_trait::async_trait]
impl TableProvider for WarehouseTable {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let unpublished = self.source.unpublished(self.table).await.map_err(external)?;
        let rows = self.files().map(|file| file.rows).sum::<i64>() + unpublished.num_rows() as i64;
        if self.table == Table::Rated && rows >= ROWS_MAX {
            return Err(DataFusionError::ResourcesExhausted(format!(
                "{rows} rated records: sums over them might not fit 128 bits; select fewer by date from the files themselves"
            )));
        }
        let staged =
            MemorySourceConfig::try_new_exec(&[vec![unpublished.clone()]], self.schema(), projection.cloned())?;
        match self.scan_files(state.config().target_partitions(), projection)? {
            Some(published) if unpublished.num_rows() > 0 => UnionExec::try_new(vec![published, staged]),
            Some(published) => Ok(published),
            None => Ok(staged),
        }
    }

    /// Files are pruned by their statistics; rows are filtered above.
    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> DataFusionResult<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }
}

pub fn external(error: CutError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
