//! Leakage: seconds that were metered and that no lease covers. It compares masks with the leases, not counts with the rated classes,
//! so a reading from a suspended lease or during an outage is not taken for one from a GPU that nobody leased.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use arrow::array::{Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::TryStreamExt;
use hydrometer_pipeline::store::timeline;
use hydrometer_rating::classes::mask;
use hydrometer_rating::history::{History, ServerTimeline, Span};
use hydrometer_schemas::time::{MICROS_PER_MINUTE, MICROS_PER_SECOND, Minute, SECONDS_PER_MINUTE, Second, hour_floor};
use hydrometer_schemas::warehouse::Table;
use hydrometer_sinks::usage::Columns;

use super::CutError;
use super::warehouse::{Source, WarehouseTable, external};

pub const ABOUT: &str = "metered seconds that no lease covers, by server, GPU and hour";

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("server", DataType::Utf8, false),
        Field::new("gpu", DataType::Utf8, false),
        Field::new("hour", DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC"))), false),
        Field::new("metered_s", DataType::Int64, false),
        Field::new("leaked_s", DataType::Int64, false),
    ]))
});

#[derive(Debug)]
pub struct LeakageTable {
    source: Arc<Source>,
}

/// When each GPU of a server was leased.
type LeasedGpus = BTreeMap<String, Vec<Span>>;

impl LeakageTable {
    pub fn new(source: Arc<Source>) -> Self {
        Self { source }
    }

    async fn leased(&self) -> Result<BTreeMap<String, LeasedGpus>, CutError> {
        let (_, events) = timeline::events_since(self.source.db.client_ref(), -1).await?;
        let mut history = History::default();
        history.insert(events);
        Ok(history.servers().map(|timeline| (timeline.server.clone(), leased_gpus(timeline))).collect())
    }
}

fn leased_gpus(timeline: &ServerTimeline) -> LeasedGpus {
    let mut gpus = LeasedGpus::new();
    for lease in &timeline.leases {
        for occupancy in lease.slots.iter().filter_map(|slot| timeline.occupancy.get(slot)).flatten() {
            if let Some(span) = occupancy.span.intersect(lease.span) {
                gpus.entry(occupancy.gpu.clone()).or_default().push(span);
            }
        }
    }
    gpus
}

/// The seconds of a mask that none of the spans covers.
fn uncovered(present: u64, spans: &[Span], minute: Minute) -> u64 {
    spans.iter().fold(present, |rest, span| rest & !mask(*span, minute))
}

/// (metered, leaked) seconds by server, GPU and hour.
type Hours = BTreeMap<(String, String, Second), (i64, i64)>;

fn add(hours: &mut Hours, leased: &BTreeMap<String, LeasedGpus>, batch: &RecordBatch) -> Result<(), CutError> {
    let columns = Columns::new("usage", batch);
    let server = columns.get::<StringArray>("server")?;
    let gpu = columns.get::<StringArray>("gpu")?;
    let minute = columns.get::<TimestampMicrosecondArray>("minute")?;
    let present = columns.get::<UInt64Array>("present")?;
    for i in 0..batch.num_rows() {
        let at = minute.value(i).div_euclid(MICROS_PER_MINUTE);
        let spans = leased.get(server.value(i)).and_then(|gpus| gpus.get(gpu.value(i))).map_or(&[][..], Vec::as_slice);
        let leaked = uncovered(present.value(i), spans, at);
        let hour = hour_floor(at * SECONDS_PER_MINUTE);
        let sum = hours.entry((server.value(i).to_owned(), gpu.value(i).to_owned(), hour)).or_default();
        sum.0 += i64::from(present.value(i).count_ones());
        sum.1 += i64::from(leaked.count_ones());
    }
    Ok(())
}

fn to_batch(hours: &Hours) -> Result<RecordBatch, CutError> {
    let rows = || hours.iter().filter(|(_, seconds)| seconds.1 != 0);
    let micros = rows().map(|((_, _, hour), _)| hour * MICROS_PER_SECOND);
    Ok(RecordBatch::try_new(
        SCHEMA.clone(),
        vec![
            Arc::new(StringArray::from_iter_values(rows().map(|((server, _, _), _)| server))),
            Arc::new(StringArray::from_iter_values(rows().map(|((_, gpu, _), _)| gpu))),
            Arc::new(TimestampMicrosecondArray::from_iter_values(micros).with_timezone("UTC")),
            Arc::new(Int64Array::from_iter_values(rows().map(|(_, seconds)| seconds.0))),
            Arc::new(Int64Array::from_iter_values(rows().map(|(_, seconds)| seconds.1))),
        ],
    )?)
}

#[async_trait::async_trait]
impl TableProvider for LeakageTable {
    fn schema(&self) -> SchemaRef {
        SCHEMA.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        _limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let leased = self.leased().await.map_err(external)?;
        let usage = WarehouseTable::new(self.source.clone(), Table::Usage);
        let schema = usage.schema();
        let needed = ["server", "gpu", "minute", "present"]
            .iter()
            .map(|name| schema.index_of(name))
            .collect::<Result<_, _>>()?;
        let mut stream = execute_stream(usage.scan(state, Some(&needed), &[], None).await?, state.task_ctx())?;
        let mut hours = Hours::new();
        while let Some(batch) = stream.try_next().await? {
            add(&mut hours, &leased, &batch).map_err(external)?;
        }
        let batch = to_batch(&hours).map_err(external)?;
        Ok(MemorySourceConfig::try_new_exec(&[vec![batch]], self.schema(), projection.cloned())?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydrometer_rating::history::{Lease, Occupancy};

    #[test]
    fn only_what_no_lease_covers_leaks() {
        let timeline = ServerTimeline {
            server: "srv".into(),
            occupancy: BTreeMap::from([
                (0, vec![Occupancy { span: Span { from: 0, to: 90 }, gpu: "a".into() }]),
                (1, vec![Occupancy { span: Span { from: 0, to: 600 }, gpu: "b".into() }]),
            ]),
            leases: vec![Lease {
                lease: "l".into(),
                contract: "c".into(),
                slots: vec![0],
                span: Span { from: 10, to: 300 },
                suspended: vec![Span { from: 20, to: 30 }],
                ..Lease::default()
            }],
            ..ServerTimeline::default()
        };
        let leased = leased_gpus(&timeline);
        let all = (1u64 << 60) - 1;
        let leaks =
            |gpu: &str, minute| uncovered(all, leased.get(gpu).map_or(&[][..], Vec::as_slice), minute).count_ones();
        assert_eq!(leaks("a", 0), 10, "before the lease; its suspension is no leak");
        assert_eq!(leaks("a", 1), 30, "after it left the slot");
        assert_eq!(leaks("b", 0), 60, "a slot that is not leased");
        assert_eq!(leaks("nobody's", 0), 60);
    }
}
