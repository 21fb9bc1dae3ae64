//! Putting a worker together from its configuration: the source, the database, the warehouse.

use std::sync::Arc;
use std::time::Duration;

use hydrometer_pipeline::config::{Config, SourceKind};
use hydrometer_pipeline::source::Source;
use hydrometer_pipeline::source::files::{FileSource, FileSourceConfig, Interleave};
use hydrometer_pipeline::source::kafka::{KafkaSource, KafkaSourceConfig};
use hydrometer_pipeline::store::{Database, Timeouts};
use hydrometer_pipeline::worker::Worker;
use hydrometer_schemas::time::{MICROS_PER_SECOND, hour_ceil, parse_rfc3339, second_of};
use hydrometer_sinks::Warehouse;

use crate::CliError;

/// Partition logs are handed over in the order in which they were appended, to within this much.
const LOG_TIME_SLACK: i64 = 30 * MICROS_PER_SECOND;

/// Opens the configured source.
pub async fn open_source(config: &Config) -> Result<Box<dyn Source>, CliError> {
    let topics: Vec<Arc<str>> =
        vec![Arc::from(config.topics.telemetry.as_str()), Arc::from(config.topics.lifecycle.as_str())];
    match config.source.kind {
        SourceKind::Kafka => {
            let kafka = &config.source.kafka;
            let source = KafkaSource::open(KafkaSourceConfig {
                brokers: kafka.brokers.clone(),
                group: kafka.group.clone(),
                topics,
                batch_records: config.source.batch_records,
                accept_producer_time: kafka.accept_producer_time,
                options: kafka.options.clone(),
            })
            .await
            .map_err(CliError::failed)?;
            Ok(Box::new(source))
        }
        SourceKind::Files => {
            let files = &config.source.files;
            let until = match files.until.as_str() {
                "" => None,
                text => Some(hour_ceil(second_of(parse_rfc3339(text).ok_or_else(|| {
                    CliError::usage(format!("source.files.until {text:?} is not RFC 3339 with a zone"))
                })?))),
            };
            let source = FileSource::open(FileSourceConfig {
                dir: files.dir.clone(),
                topics,
                batch_records: config.source.batch_records,
                interleave: Interleave::LogTime { slack: LOG_TIME_SLACK },
                until,
                lockstep: false,
            })
            .map_err(CliError::failed)?;
            Ok(Box::new(source))
        }
    }
}

/// A worker, ready to run.
pub async fn open_worker(config: Config, database_url: &str) -> Result<Worker, CliError> {
    let warehouse = Warehouse::open(&config.warehouse.url)
        .map_err(CliError::failed)?
        .with_patience(Duration::from_secs(config.warehouse.patience_s));
    let timeouts = Timeouts::from(&config.database);
    let db = Database::connect_with(database_url, timeouts).await.map_err(CliError::failed)?;
    let source = open_source(&config).await?;
    Worker::new(config, source, db, warehouse).await.map_err(CliError::failed)
}
