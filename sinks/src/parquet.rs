//! Record batches to Parquet bytes and back. The bytes are a pure function of the rows and the metadata.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use hydrometer_schemas::warehouse;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};

use crate::SinkError;

const ROW_GROUP_ROWS: usize = 256 * 1024;

/// Encodes rows: zstd, statistics, and in the key-value metadata the schema version and the epoch of the commit.
pub fn encode(name: &str, schema: SchemaRef, batch: &RecordBatch, epoch: i64) -> Result<Bytes, SinkError> {
    let failed = |e: parquet::errors::ParquetError| SinkError::Parquet {
        doing: "written",
        name: name.to_owned(),
        detail: e.to_string(),
    };
    let metadata = vec![
        KeyValue::new("hydrometer.schema_version".to_owned(), warehouse::VERSION.to_owned()),
        KeyValue::new("hydrometer.epoch".to_owned(), epoch.to_string()),
    ];
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_created_by("hydrometer".to_owned())
        .set_key_value_metadata(Some(metadata))
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties)).map_err(failed)?;
    writer.write(batch).map_err(failed)?;
    Ok(Bytes::from(writer.into_inner().map_err(failed)?))
}

pub fn decode(name: &str, bytes: Bytes) -> Result<Vec<RecordBatch>, SinkError> {
    let failed = |detail: String| SinkError::Parquet { doing: "read", name: name.to_owned(), detail };
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .and_then(|builder| builder.with_batch_size(64 * 1024).build())
        .map_err(|e| failed(e.to_string()))?;
    reader.collect::<Result<Vec<_>, _>>().map_err(|e| failed(e.to_string()))
}
