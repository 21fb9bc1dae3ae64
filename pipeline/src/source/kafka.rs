//! Kafka. One consumer per topic, each on a thread of its own, in one consumer group per topic.
//!
//! Kafka's group only says who reads what; where to start comes from our own commit point. So the rebalance callback asks the
//! worker (which takes the partition's lease in Postgres, bumping its epoch) and assigns with explicit offsets; seeking afterwards
//! would race with the fetcher. Offsets in Kafka are written last, for lag dashboards only.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hydrometer_schemas::time::Second;
use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message, Timestamp};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::{mpsc, oneshot};

use super::{Batch, Delivery, Source, SourceError, SourceEvent, Start, TopicPartition};

#[derive(Debug, Clone)]
pub struct KafkaSourceConfig {
    pub brokers: String,
    pub group: String,
    pub topics: Vec<Arc<str>>,
    pub batch_records: usize,
    /// Accept topics whose timestamps are the producers'. Lateness and plausibility then trust the producers' clocks.
    pub accept_producer_time: bool,
    /// Further librdkafka settings (security and the like), passed on as they are.
    pub options: HashMap<String, String>,
}

pub struct KafkaSource {
    partitions: Vec<(Arc<str>, i32)>,
    events: mpsc::Receiver<Result<SourceEvent, SourceError>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Positions that were committed, to be told to Kafka.
    positions: Mutex<HashMap<TopicPartition, i64>>,
}

impl KafkaSource {
    /// Connects and checks the topics; fails with an explanation when a broker or a topic is not as it has to be.
    pub async fn open(config: KafkaSourceConfig) -> Result<KafkaSource, SourceError> {
        let partitions = check_topics(&config).await?;
        let (sender, events) = mpsc::channel(8);
        let shared = Arc::new(Shared::default());
        for topic in &config.topics {
            let reader =
                Reader { config: config.clone(), topic: topic.clone(), sender: sender.clone(), shared: shared.clone() };
            std::thread::Builder::new()
                .name(format!("kafka-{topic}"))
                .spawn(move || reader.run())
                .map_err(|e| SourceError::new("cannot start the reading thread", e, "check the limit on threads"))?;
        }
        Ok(KafkaSource { partitions, events, shared })
    }
}

#[async_trait]
impl Source for KafkaSource {
    fn partitions(&self) -> Vec<(Arc<str>, i32)> {
        self.partitions.clone()
    }

    async fn next(&mut self) -> Option<Result<SourceEvent, SourceError>> {
        self.events.recv().await
    }

    fn committed(&mut self, positions: &[(TopicPartition, i64)]) {
        let mut shared = lock(&self.shared.positions);
        shared.extend(positions.iter().cloned());
    }

    fn horizon(&self) -> Option<Second> {
        None
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn client_config(config: &KafkaSourceConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &config.brokers).set_log_level(RDKafkaLogLevel::Error);
    for (key, value) in &config.options {
        client.set(key, value);
    }
    client
}

/// Every topic exists and carries the broker's append time.
async fn check_topics(config: &KafkaSourceConfig) -> Result<Vec<(Arc<str>, i32)>, SourceError> {
    let broker_hint =
        "is the broker running, and is `source.kafka.brokers` right? (`nc -vz HOST PORT` shows whether it answers)";
    let unreachable = |e: &dyn std::fmt::Display| {
        SourceError::new(format!("cannot reach Kafka at {}", config.brokers), e, broker_hint)
    };
    let admin: AdminClient<_> = client_config(config).create().map_err(|e| unreachable(&e))?;
    let mut counts = Vec::new();
    for topic in &config.topics {
        let metadata =
            admin.inner().fetch_metadata(Some(topic), Duration::from_secs(10)).map_err(|e| unreachable(&e))?;
        let found = metadata.topics().iter().find(|t| t.name() == &**topic);
        let count = found.filter(|t| t.error().is_none()).map_or(0, |t| t.partitions().len());
        if count == 0 {
            return Err(SourceError::new(
                format!("there is no topic {topic} at {}", config.brokers),
                "the broker does not know it",
                format!(
                    "create it: kafka-topics.sh --create --topic {topic} --partitions 4 --config message.timestamp.type=LogAppendTime"
                ),
            ));
        }
        counts.push((topic.clone(), count as i32));

        let described = admin
            .describe_configs(
                [&ResourceSpecifier::Topic(topic)],
                &AdminOptions::new().request_timeout(Some(Duration::from_secs(10))),
            )
            .await
            .map_err(|e| unreachable(&e))?;
        let kind = described
            .iter()
            .flatten()
            .flat_map(|resource| &resource.entries)
            .find(|entry| entry.name == "message.timestamp.type")
            .and_then(|entry| entry.value.clone());
        if kind.as_deref() != Some("LogAppendTime") && !config.accept_producer_time {
            return Err(SourceError::new(
                format!(
                    "topic {topic} carries its producers' timestamps ({})",
                    kind.as_deref().unwrap_or("unknown type")
                ),
                "lateness and plausibility are judged by the time at which the broker appended a record, which no producer can get wrong",
                format!(
                    "set it: kafka-configs.sh --alter --topic {topic} --add-config message.timestamp.type=LogAppendTime; \
                     or accept the producers' clocks with `source.kafka.accept_producer_time = true`"
                ),
            ));
        }
    }
    Ok(counts)
}

/// A batch that does not fill is delivered after this time.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

struct Reader {
    config: KafkaSourceConfig,
    topic: Arc<str>,
    sender: mpsc::Sender<Result<SourceEvent, SourceError>>,
    shared: Arc<Shared>,
}

/// Shared between the polling loop and the rebalance callback, which runs inside a poll.
struct Context {
    topic: Arc<str>,
    batch_records: usize,
    sender: mpsc::Sender<Result<SourceEvent, SourceError>>,
    assigned: Mutex<HashMap<i32, Assigned>>,
    /// Partitions that were read to their end and had no record since.
    ends: Mutex<HashMap<i32, End>>,
}

/// Since when a partition is at its end, and the high watermark that the broker named when it was asked.
struct End {
    since: Instant,
    high: Option<i64>,
}

/// How often a broker is asked whether a partition still ends where it did, and how long it may take to answer.
const ASK_INTERVAL: Duration = Duration::from_secs(1);
const ASK_TIMEOUT: Duration = Duration::from_secs(1);

/// A partition that is being read: what was read and not delivered yet, and where it goes.
struct Assigned {
    batch: Batch,
    deliver_to: mpsc::Sender<Delivery>,
}

/// A batch is delivered at the latest when it holds so many bytes.
const BATCH_BYTES: usize = 1 << 20;

impl Assigned {
    /// Delivers what was read; waits while the meter is busy. Nobody takes it when the partition was given up meanwhile.
    fn flush(&mut self) {
        if !self.batch.records.is_empty() {
            let next = Batch::as_roomy_as(&self.batch);
            let batch = std::mem::replace(&mut self.batch, next);
            let _ = self.deliver_to.blocking_send(Delivery::Batch(batch));
        }
    }
}

impl Context {
    fn partition(&self, partition: i32) -> TopicPartition {
        TopicPartition { topic: self.topic.clone(), partition }
    }

    fn take(&self, message: &BorrowedMessage<'_>) {
        let log_time = match message.timestamp() {
            Timestamp::LogAppendTime(ms) | Timestamp::CreateTime(ms) => ms * 1_000,
            Timestamp::NotAvailable => 0,
        };
        let mut assigned = lock(&self.assigned);
        // What still comes of a partition that was revoked is somebody else's.
        let Some(partition) = assigned.get_mut(&message.partition()) else { return };
        if partition.batch.records.is_empty() {
            lock(&self.ends).remove(&message.partition());
        }
        partition.batch.push(message.offset(), log_time, message.payload().unwrap_or_default());
        if partition.batch.records.len() >= self.batch_records || partition.batch.bytes.len() >= BATCH_BYTES {
            partition.flush();
        }
    }

    fn flush_all(&self) {
        lock(&self.assigned).values_mut().for_each(Assigned::flush);
    }

    fn caught_up(&self, partition: i32, next: i64) {
        let at = Instant::now();
        if let Some(assigned) = lock(&self.assigned).get_mut(&partition) {
            assigned.flush();
            let _ = assigned.deliver_to.blocking_send(Delivery::CaughtUp(self.partition(partition), next, at));
        }
    }

    /// Tells the worker; false when it is gone.
    fn send(&self, event: Result<SourceEvent, SourceError>) -> bool {
        self.sender.blocking_send(event).is_ok()
    }

    /// Asks the worker where to start, and assigns exactly there.
    fn assign(&self, consumer: &BaseConsumer<Context>, list: &TopicPartitionList) {
        let partitions: Vec<TopicPartition> = list.elements().iter().map(|e| self.partition(e.partition())).collect();
        lock(&self.ends).clear();
        let (reply, answer) = oneshot::channel();
        let asked = self.send(Ok(SourceEvent::Assigned(partitions, reply)));
        let Some(starts) = asked.then(|| answer.blocking_recv().ok()).flatten() else {
            // The worker has gone or has refused; it reads nothing.
            let _ = consumer.unassign();
            return;
        };
        let mut positions = TopicPartitionList::new();
        for Start { partition, offset, deliver_to } in starts {
            let offset = offset.map_or(Offset::Beginning, Offset::Offset);
            let batch = Batch::new(partition.clone());
            lock(&self.assigned).insert(partition.partition, Assigned { batch, deliver_to });
            if let Err(error) = positions.add_partition_offset(&partition.topic, partition.partition, offset) {
                self.send(Err(SourceError::new(
                    format!("cannot start at {offset:?} of {partition}"),
                    error,
                    "this is a defect",
                )));
                return;
            }
        }
        if let Err(error) = consumer.assign(&positions) {
            self.send(Err(SourceError::new("Kafka refused the assignment", error, "restart the worker")));
        }
    }

    fn revoke(&self, consumer: &BaseConsumer<Context>, list: &TopicPartitionList) {
        let partitions: Vec<TopicPartition> = list.elements().iter().map(|e| self.partition(e.partition())).collect();
        lock(&self.ends).clear();
        let lost = consumer.assignment_lost();
        let (reply, answer) = oneshot::channel();
        if !lost {
            self.flush_all();
        }
        lock(&self.assigned).retain(|number, _| !partitions.iter().any(|p| p.partition == *number));
        let event = if lost { SourceEvent::Lost(partitions, reply) } else { SourceEvent::Revoked(partitions, reply) };
        if self.send(Ok(event)) {
            let _ = answer.blocking_recv();
        }
        let _ = consumer.unassign();
    }
}

impl ClientContext for Context {}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, list),
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => self.revoke(consumer, list),
            other => {
                let code: RDKafkaErrorCode = other.into();
                tracing::warn!(topic = %self.topic, %code, "the consumer group reports an error while rebalancing");
                let _ = consumer.unassign();
            }
        }
    }
}

impl Reader {
    fn run(self) {
        let context = Context {
            topic: self.topic.clone(),
            batch_records: self.config.batch_records,
            sender: self.sender.clone(),
            assigned: Mutex::default(),
            ends: Mutex::default(),
        };
        let consumer: BaseConsumer<Context> = match self.settings().create_with_context(context) {
            Ok(consumer) => consumer,
            Err(error) => {
                let hint = "check `source.kafka.options`";
                let _ = self.sender.blocking_send(Err(SourceError::new(
                    "Kafka's client refuses its settings",
                    error,
                    hint,
                )));
                return;
            }
        };
        if let Err(error) = consumer.subscribe(&[&self.topic]) {
            let what = format!("cannot subscribe to {}", self.topic);
            consumer.context().send(Err(SourceError::new(what, error, "does the topic exist, may this user read it?")));
            return;
        }
        self.poll(&consumer);
        // Leaves the group; the callback revokes what is still assigned.
        consumer.unsubscribe();
        let deadline = Instant::now() + Duration::from_secs(30);
        while Instant::now() < deadline && consumer.assignment().is_ok_and(|a| a.count() > 0) {
            let _ = consumer.poll(Duration::from_millis(50));
        }
    }

    fn settings(&self) -> ClientConfig {
        let mut client = client_config(&self.config);
        client
            .set("group.id", format!("{}-{}", self.config.group, self.topic))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Lost history fails loudly instead of being skipped.
            .set("auto.offset.reset", "error")
            .set("isolation.level", "read_committed")
            .set("enable.partition.eof", "true")
            .set("partition.assignment.strategy", "range")
            .set("session.timeout.ms", self.option("session.timeout.ms", "10000"))
            .set("queued.min.messages", "200000")
            .set("queued.max.messages.kbytes", "65536")
            // A full queue is asked for more as soon as there is room; by default it would be left alone for a second.
            .set("fetch.queue.backoff.ms", "10")
            .set("fetch.message.max.bytes", "4194304");
        client
    }

    /// The configuration's word, or else ours: a killed worker's partitions should not wait three quarters of a minute.
    fn option(&self, name: &str, otherwise: &str) -> String {
        self.config.options.get(name).cloned().unwrap_or_else(|| otherwise.to_owned())
    }

    fn poll(&self, consumer: &BaseConsumer<Context>) {
        let context = consumer.context();
        let (mut last_flush, mut last_told, mut last_asked) = (Instant::now(), Instant::now(), Instant::now());
        let mut polls = 0_u32;
        while !self.shared.stop.load(Ordering::Relaxed) && !self.sender.is_closed() {
            // Without waiting first: a wait looks at the clock, even when a message is there.
            let polled = consumer.poll(Duration::ZERO).or_else(|| consumer.poll(Duration::from_millis(100)));
            let idle = polled.is_none();
            match polled {
                Some(Ok(message)) => context.take(&message),
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    context.caught_up(partition, position(consumer, &self.topic, partition));
                    lock(&context.ends).insert(partition, End { since: Instant::now(), high: None });
                }
                Some(Err(error)) => {
                    if let Some(fatal) = self.judge(&error) {
                        context.send(Err(fatal));
                        return;
                    }
                }
                None => {}
            }
            // Looking at the clock costs as much as taking a message.
            polls = polls.wrapping_add(1);
            if !idle && !polls.is_multiple_of(256) {
                continue;
            }
            if idle || last_flush.elapsed() > FLUSH_INTERVAL {
                context.flush_all();
                last_flush = Instant::now();
            }
            if last_asked.elapsed() > ASK_INTERVAL {
                self.confirm_ends(consumer);
                last_asked = Instant::now();
            }
            if last_told.elapsed() > Duration::from_secs(1) {
                self.tell_kafka(consumer);
                last_told = Instant::now();
            }
        }
        self.tell_kafka(consumer);
    }

    /// Says again of each partition that it is at its end, if the broker answers and names the same high watermark as before. The
    /// client itself says so once only, and would not notice that a broker has gone.
    fn confirm_ends(&self, consumer: &BaseConsumer<Context>) {
        let context = consumer.context();
        let asking: Vec<i32> = lock(&context.ends)
            .iter()
            .filter(|(_, end)| end.since.elapsed() >= ASK_INTERVAL)
            .map(|(p, _)| *p)
            .collect();
        for partition in asking {
            let Ok((_, high)) = consumer.fetch_watermarks(&self.topic, partition, ASK_TIMEOUT) else { return };
            let before = lock(&context.ends).get_mut(&partition).and_then(|end| end.high.replace(high));
            match before {
                Some(before) if before == high => {
                    context.caught_up(partition, position(consumer, &self.topic, partition));
                }
                // Records have come that were not handed over yet: the client will say when they are read to their end.
                Some(_) => drop(lock(&context.ends).remove(&partition)),
                None => {}
            }
        }
    }

    /// Whether an error ends the worker (with an explanation) or is a passing trouble that librdkafka deals with itself.
    fn judge(&self, error: &KafkaError) -> Option<SourceError> {
        let code = error.rdkafka_error_code();
        match code {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => Some(SourceError::new(
                format!("topic {} does not hold the offset that is to be read next", self.topic),
                error,
                "records were deleted before they were metered (retention too short, or the topic was made anew). Nothing was skipped. \
                 If the loss is known and accepted, set the partition's `next` in hydrometer.partition_lease to an offset that exists; \
                 otherwise restore the topic",
            )),
            Some(
                RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::Authentication,
            ) => Some(SourceError::new(
                format!("Kafka refuses to let us read {}", self.topic),
                error,
                "check the credentials in `source.kafka.options` and the topic's and group's ACLs",
            )),
            _ if matches!(error, KafkaError::MessageConsumptionFatal(_)) => Some(SourceError::new(
                format!("Kafka ended the consumption of {}", self.topic),
                error,
                "restart the worker; nothing is lost",
            )),
            _ => {
                tracing::warn!(topic = %self.topic, %error, "Kafka reports a trouble; reading goes on when it is over");
                None
            }
        }
    }

    /// Group offsets, for lag dashboards. Nothing depends on them.
    fn tell_kafka(&self, consumer: &BaseConsumer<Context>) {
        let mut list = TopicPartitionList::new();
        lock(&self.shared.positions).retain(|partition, next| {
            let ours = partition.topic == self.topic;
            if ours {
                let _ = list.add_partition_offset(&partition.topic, partition.partition, Offset::Offset(*next));
            }
            !ours
        });
        if list.count() > 0 {
            let _ = consumer.commit(&list, CommitMode::Async);
        }
    }
}

/// The offset after the last record handed over; -1 when there was none since the assignment.
fn position(consumer: &BaseConsumer<Context>, topic: &str, partition: i32) -> i64 {
    let position = consumer.position().ok().and_then(|list| list.find_partition(topic, partition).map(|e| e.offset()));
    match position {
        Some(Offset::Offset(next)) => next,
        _ => -1,
    }
}
