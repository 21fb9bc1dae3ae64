//! A fleet into real Kafka: each record to its own partition, in order.

use std::sync::Mutex;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};

use super::{FleetError, Outcome, Plan, Progress, Record, Topic, generate};

#[derive(Clone, Debug)]
pub struct KafkaOptions {
    pub telemetry_topic: String,
    pub lifecycle_topic: String,
    /// Sends the simulated log time as the record's timestamp (Kafka keeps milliseconds); without it, Kafka's own clock
    /// decides, and delays mean nothing.
    pub timestamps: bool,
    pub compression: Compression,
    pub linger_ms: u32,
    pub batch_bytes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    None,
    Lz4,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        KafkaOptions {
            telemetry_topic: Topic::Telemetry.name().to_owned(),
            lifecycle_topic: Topic::Lifecycle.name().to_owned(),
            timestamps: true,
            compression: Compression::Lz4,
            linger_ms: 20,
            batch_bytes: 1 << 19,
        }
    }
}

const FULL_QUEUE_PAUSE: Duration = Duration::from_millis(5);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(120);

/// Simulates a plan into existing topics, and returns when every record is delivered.
pub fn write_kafka(
    brokers: &str,
    plan: &Plan,
    options: &KafkaOptions,
    report: &mut dyn FnMut(Progress),
) -> Result<Outcome, FleetError> {
    let producer: ThreadedProducer<Failures> = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        // Retries keep the order, and write nothing twice.
        .set("enable.idempotence", "true")
        .set("linger.ms", options.linger_ms.to_string())
        .set("batch.size", options.batch_bytes.to_string())
        .set(
            "compression.type",
            match options.compression {
                Compression::None => "none",
                Compression::Lz4 => "lz4",
            },
        )
        .create_with_context(Failures::default())?;
    let failures = producer.context();

    let mut progress = Progress::default();
    let outcome = generate(plan, &mut |record| {
        send(&producer, options, &record)?;
        progress.advance(&record, report);
        failures.check()
    })?;
    producer.flush(FLUSH_TIMEOUT)?;
    failures.check()?;
    report(progress);
    Ok(outcome)
}

/// Hands a record to the client, and waits while its queue is full.
fn send(producer: &ThreadedProducer<Failures>, options: &KafkaOptions, record: &Record) -> Result<(), FleetError> {
    let topic = match record.topic {
        Topic::Telemetry => &options.telemetry_topic,
        Topic::Lifecycle => &options.lifecycle_topic,
    };
    let mut message =
        BaseRecord::to(topic).partition(record.partition as i32).key(&record.key).payload(&record.payload);
    if options.timestamps {
        message = message.timestamp(record.log_time_us.div_euclid(1000));
    }
    loop {
        match producer.send(message) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent)) => {
                producer.context().check()?;
                message = unsent;
                std::thread::sleep(FULL_QUEUE_PAUSE);
            }
            Err((error, _)) => return Err(error.into()),
        }
    }
}

/// What could not be delivered: how many, and the first with its reason.
#[derive(Default)]
struct Failures(Mutex<Option<(u64, String)>>);

impl Failures {
    fn check(&self) -> Result<(), FleetError> {
        let noted = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*noted {
            None => Ok(()),
            Some((count, first)) => Err(FleetError::Undelivered { count: *count, first: first.clone() }),
        }
    }
}

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, message)) = result {
            let mut noted = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let first = || {
                let (topic, partition) = (message.topic(), message.partition());
                (0, format!("{topic} [{partition}]: {error}"))
            };
            noted.get_or_insert_with(first).0 += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

    use super::*;
    use crate::services::kafka;

    #[tokio::test]
    async fn kafka_holds_what_was_generated() {
        let brokers = kafka::for_tests().unwrap();
        let suffix = unique();
        let options = KafkaOptions {
            telemetry_topic: format!("fleet-telemetry-{suffix}"),
            lifecycle_topic: format!("fleet-lifecycle-{suffix}"),
            ..KafkaOptions::default()
        };
        let plan = Plan { telemetry_partitions: 3, ..Plan::small(11) };
        let names = [(&options.telemetry_topic, 3), (&options.lifecycle_topic, 1)];
        for (name, partitions) in names {
            let topic = kafka::Topic { timestamp_type: "CreateTime", ..kafka::Topic::new(name, partitions) };
            kafka::create_topic(&brokers, &topic).await.unwrap();
        }
        let mut written = Vec::new();
        generate(&plan, &mut |record| {
            written.push(record);
            Ok(())
        })
        .unwrap();
        let mut progress = Progress::default();
        write_kafka(&brokers, &plan, &options, &mut |now| progress = now).unwrap();
        assert_eq!(progress.records, written.len() as u64);

        let reader: BaseConsumer =
            ClientConfig::new().set("bootstrap.servers", &brokers).set("group.id", "none").create().unwrap();
        for (topic, name) in [Topic::Telemetry, Topic::Lifecycle].into_iter().zip(names) {
            for partition in 0..name.1 {
                let mut assignment = TopicPartitionList::new();
                assignment.add_partition_offset(name.0, partition, Offset::Beginning).unwrap();
                reader.assign(&assignment).unwrap();
                let expected = written.iter().filter(|it| it.topic == topic && it.partition == partition as u32);
                for record in expected {
                    // A poll may come back for something else than a message.
                    let mut polls = (0..50).map(|_| reader.poll(Duration::from_secs(1)));
                    let message = polls.find_map(|polled| polled).expect("a message").unwrap();
                    assert_eq!(message.payload(), Some(record.payload.as_slice()));
                    assert_eq!(message.key(), Some(record.key.as_slice()));
                    assert_eq!(message.timestamp().to_millis(), Some(record.log_time_us / 1000));
                }
            }
        }
    }

    /// A name that no other run has.
    fn unique() -> u128 {
        std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos()
    }
}
