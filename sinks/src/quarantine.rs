//! Rows of `quarantine/`: what could not be decoded or believed, with its raw bytes.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use hydrometer_schemas::time::Micros;
use hydrometer_schemas::warehouse::QUARANTINE;

use crate::SinkError;
use crate::usage::Columns;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuarantineRow {
    pub topic: Arc<str>,
    pub partition: i32,
    pub offset: i64,
    pub log_time: Micros,
    pub reason: String,
    pub detail: String,
    pub raw: Vec<u8>,
}

pub fn to_batch(rows: &[QuarantineRow]) -> Result<RecordBatch, SinkError> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.topic))),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| r.partition))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.offset))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(|r| r.log_time)).with_timezone("UTC")),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.reason))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| &r.detail))),
        Arc::new(BinaryArray::from_iter_values(rows.iter().map(|r| &r.raw))),
    ];
    RecordBatch::try_new(QUARANTINE.clone(), columns).map_err(|e| SinkError::Parquet {
        doing: "built",
        name: "quarantine".into(),
        detail: e.to_string(),
    })
}

pub fn from_batch(batch: &RecordBatch) -> Result<Vec<QuarantineRow>, SinkError> {
    let columns = Columns::new("quarantine", batch);
    let topic = columns.get::<StringArray>("topic")?;
    let partition = columns.get::<Int32Array>("partition")?;
    let offset = columns.get::<Int64Array>("offset")?;
    let log_time = columns.get::<TimestampMicrosecondArray>("log_time")?;
    let reason = columns.get::<StringArray>("reason")?;
    let detail = columns.get::<StringArray>("detail")?;
    let raw = columns.get::<BinaryArray>("raw")?;
    Ok((0..topic.len())
        .map(|i| QuarantineRow {
            topic: Arc::from(topic.value(i)),
            partition: partition.value(i),
            offset: offset.value(i),
            log_time: log_time.value(i),
            reason: reason.value(i).to_owned(),
            detail: detail.value(i).to_owned(),
            raw: raw.value(i).to_vec(),
        })
        .collect())
}
