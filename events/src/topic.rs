//! The topic: what it has to be like, and a producer that leaves no gap.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hydrometer_ledger::outbox::Message;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigEntry, ResourceSpecifier};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord};

use crate::{PublishError, cloud_event};

/// How long a broker may take to answer what is asked of it.
const ANSWER: Duration = Duration::from_secs(10);
/// What librdkafka complains of is passed on at most so often.
const COMPLAINTS: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub struct TopicSettings {
    /// As in `bootstrap.servers`.
    pub brokers: String,
    pub topic: String,
    /// Further librdkafka settings (security and the like), passed on as they are.
    pub options: HashMap<String, String>,
}

impl TopicSettings {
    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        for (key, value) in &self.options {
            client.set(key, value);
        }
        client.set("bootstrap.servers", &self.brokers).set_log_level(RDKafkaLogLevel::Error);
        client
    }

    /// Each record once and in its order, or none behind it: a message that times out or is refused would let later ones of its
    /// subject pass. So it is tried for ever, and what is refused for good ends the producer.
    fn producer(&self) -> ClientConfig {
        let mut client = self.client();
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("enable.gapless.guarantee", "true")
            .set("message.timeout.ms", "0")
            // As Java's clients do it, so that a subject lies where other producers would put it.
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "5");
        client
    }
}

/// The topic, open for writing.
pub struct Topic {
    settings: TopicSettings,
    producer: FutureProducer<Complaints>,
}

impl Topic {
    /// Connects, and checks that the topic exists and keeps every event.
    pub async fn open(settings: &TopicSettings) -> Result<Topic, PublishError> {
        check(settings).await?;
        let producer = settings
            .producer()
            .create_with_context(Complaints { last: Mutex::new(None) })
            .map_err(|error| refused_settings(&error))?;
        Ok(Topic { settings: settings.clone(), producer })
    }

    /// Hands a page to the producer. The broker's word on each message comes with its future.
    pub fn send(&self, page: &[Message]) -> Result<Vec<DeliveryFuture>, PublishError> {
        let header = Header { key: "content-type", value: Some(cloud_event::CONTENT_TYPE) };
        let mut deliveries = Vec::with_capacity(page.len());
        for message in page {
            let value = cloud_event::bytes(message).map_err(|error| PublishError::Topic {
                what: format!("event {} cannot be written as JSON", message.id),
                detail: error.to_string(),
                hint: "this is a defect".to_owned(),
            })?;
            let record = FutureRecord::to(&self.settings.topic)
                .key(&message.subject)
                .payload(&value)
                .headers(OwnedHeaders::new().insert(header.clone()));
            deliveries.push(self.producer.send_result(record).map_err(|(error, _)| self.refused(message, &error))?);
        }
        Ok(deliveries)
    }

    /// Waits for the broker's word on each message of a page.
    pub async fn confirmed(&self, page: &[Message], deliveries: Vec<DeliveryFuture>) -> Result<(), PublishError> {
        for (message, delivery) in page.iter().zip(deliveries) {
            match delivery.await {
                Ok(Ok(_)) => {}
                Ok(Err((error, _))) => return Err(self.refused(message, &error)),
                // The sender lives as long as the producer, which is ours.
                Err(_) => return Err(self.refused(message, &KafkaError::Canceled)),
            }
        }
        Ok(())
    }

    fn refused(&self, message: &Message, error: &KafkaError) -> PublishError {
        let hint = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => {
                "raise max.message.bytes of the topic and \"message.max.bytes\" in `events.options`"
            }
            Some(RDKafkaErrorCode::TopicAuthorizationFailed | RDKafkaErrorCode::ClusterAuthorizationFailed) => {
                "allow this user to write to the topic"
            }
            Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
                "does the topic still exist?"
            }
            _ => "nothing behind it was published, and it is tried again",
        };
        PublishError::Topic {
            what: format!("topic {} does not take event {} ({})", self.settings.topic, message.id, message.kind),
            detail: error.to_string(),
            hint: hint.to_owned(),
        }
    }
}

fn refused_settings(error: &KafkaError) -> PublishError {
    PublishError::Topic {
        what: "Kafka's client refuses its settings".to_owned(),
        detail: error.to_string(),
        hint: "check `events.options`".to_owned(),
    }
}

/// The topic exists, and no event of a subject takes the place of an earlier one.
async fn check(settings: &TopicSettings) -> Result<(), PublishError> {
    let topic = settings.topic.as_str();
    let unreachable =
        |error: &KafkaError| PublishError::Unreachable { brokers: settings.brokers.clone(), detail: error.to_string() };
    let admin: Admin = settings.client().create().map_err(|error| refused_settings(&error))?;
    // Asked for first: a description of a topic that is not there is merely empty.
    let (admin, known) = known(admin, topic).await.map_err(|error| unreachable(&error))?;
    if !known {
        return Err(PublishError::Topic {
            what: format!("there is no topic {topic} at {}", settings.brokers),
            detail: "the broker does not know it".to_owned(),
            hint: format!(
                "create it: kafka-topics.sh --create --topic {topic} --partitions 4; events wait in the outbox meanwhile"
            ),
        });
    }
    let described = admin
        .describe_configs([&ResourceSpecifier::Topic(topic)], &AdminOptions::new().request_timeout(Some(ANSWER)))
        .await
        .map_err(|error| unreachable(&error))?;
    let entries: Vec<ConfigEntry> = described.into_iter().flatten().flat_map(|resource| resource.entries).collect();
    let policy = entries.iter().find(|entry| entry.name == "cleanup.policy").and_then(|entry| entry.value.as_deref());
    if policy.is_some_and(|policy| policy.contains("compact")) {
        return Err(PublishError::Topic {
            what: format!("topic {topic} is compacted"),
            detail: "it would keep the last event of each subject alone".to_owned(),
            hint: format!("set it: kafka-configs.sh --alter --topic {topic} --add-config cleanup.policy=delete"),
        });
    }
    Ok(())
}

type Admin = AdminClient<DefaultClientContext>;

/// Whether the broker knows the topic; the client comes back from the thread that asks.
async fn known(admin: Admin, topic: &str) -> Result<(Admin, bool), KafkaError> {
    let topic = topic.to_owned();
    let asked = tokio::task::spawn_blocking(move || {
        let metadata = admin.inner().fetch_metadata(Some(&topic), ANSWER)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let known = found.is_some_and(|found| found.error().is_none() && !found.partitions().is_empty());
        Ok((admin, known))
    });
    asked.await.unwrap_or(Err(KafkaError::Canceled))
}

/// Says what librdkafka complains of, now and then: it says the same of a broker that is away every few seconds.
struct Complaints {
    last: Mutex<Option<Instant>>,
}

impl ClientContext for Complaints {
    fn error(&self, error: KafkaError, reason: &str) {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= COMPLAINTS) {
            *last = Some(Instant::now());
            tracing::warn!(%error, reason, "Kafka does not take events; they wait, and it is tried again");
        }
    }
}
