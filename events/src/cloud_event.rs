//! CloudEvents 1.0 in Kafka's structured mode: one JSON document is the value, the subject is the key.

use chrono::SecondsFormat;
use hydrometer_ledger::outbox::Message;
use serde::Serialize;
use serde_json::value::RawValue;

/// The header `content-type` of each record.
pub const CONTENT_TYPE: &str = "application/cloudevents+json; charset=UTF-8";
/// With the id, what makes an event unique.
pub const SOURCE: &str = "hydrometer";
/// Goes before the ledger's own name of an event's kind.
pub const TYPE_PREFIX: &str = "gpu.billing.";

#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: String,
    source: &'static str,
    r#type: String,
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    data: &'a RawValue,
}

/// The value of an event's record: a pure function of its row.
pub fn bytes(message: &Message) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&CloudEvent {
        specversion: "1.0",
        id: message.id.to_string(),
        source: SOURCE,
        r#type: format!("{TYPE_PREFIX}{}", message.kind),
        subject: &message.subject,
        time: message.time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        datacontenttype: "application/json",
        data: &message.data,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn the_bytes_are_these() {
        let message = Message {
            id: Uuid::from_u128(7),
            xid: 4711,
            kind: "wallet.low".to_owned(),
            subject: "wallet:a\"cmé".to_owned(),
            time: "2026-03-01T10:00:00.25Z".parse().unwrap(),
            data: RawValue::from_string(r#"{"left": 123456789012345678901234567890.123456789}"#.to_owned()).unwrap(),
        };
        let expected = concat!(
            r#"{"specversion":"1.0","id":"00000000-0000-0000-0000-000000000007","source":"hydrometer","#,
            r#""type":"gpu.billing.wallet.low","subject":"wallet:a\"cmé","time":"2026-03-01T10:00:00.250Z","#,
            r#""datacontenttype":"application/json","data":{"left": 123456789012345678901234567890.123456789}}"#
        );
        assert_eq!(String::from_utf8(bytes(&message).unwrap()).unwrap(), expected);
    }
}
