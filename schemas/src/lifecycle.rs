//! Lifecycle events: who owned, leased and lost what, and when (CloudEvents 1.0, JSON).
//!
//! An event's identity is `source` + `id`. Events are ordered by their own time, floored to the second, then by kind, source and
//! id; never by arrival. [`Event`] derives its order from that, so a sorted set of events *is* the history.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::IDENTITY_BYTES_MAX;
use crate::quarantine::{Reason, Refusal};
use crate::time::{Second, parse_rfc3339, second_of};

/// The position of an event in history. Field order is the sort order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventKey {
    pub time: Second,
    pub rank: u8,
    pub source: String,
    pub id: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub key: EventKey,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    Supplier,
    Platform,
    Renter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RatingWindow {
    Minute,
    Hour,
}

/// What happened. The variants stand in the order in which events of one second are taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum Kind {
    #[serde(rename = "gpu.server.registered")]
    ServerRegistered { server: String, supplier: String, slots: u32 },
    #[serde(rename = "gpu.gpu.registered")]
    GpuRegistered { server: String, slot: u32, gpu: String },
    #[serde(rename = "gpu.gpu.replaced")]
    GpuReplaced { server: String, slot: u32, old: String, new: String },
    #[serde(rename = "gpu.lease.started")]
    LeaseStarted { lease: String, contract: String, server: String, slots: Vec<u32> },
    #[serde(rename = "gpu.lease.suspended")]
    LeaseSuspended { lease: String },
    #[serde(rename = "gpu.lease.resumed")]
    LeaseResumed { lease: String },
    #[serde(rename = "gpu.lease.ended")]
    LeaseEnded { lease: String },
    #[serde(rename = "gpu.outage.opened")]
    OutageOpened { outage: String, server: String, slots: Option<Vec<u32>>, fault: Option<Fault> },
    #[serde(rename = "gpu.outage.closed")]
    OutageClosed { outage: String, fault: Option<Fault> },
    #[serde(rename = "gpu.contract.applied")]
    ContractApplied {
        contract: String,
        renter: String,
        currency: String,
        price_per_gpu_hour: String,
        supplier_share_percent: String,
        rating_window: RatingWindow,
    },
    #[serde(rename = "gpu.price.changed")]
    PriceChanged { contract: String, price_per_gpu_hour: String },
}

/// The types in the order of [`Kind`]; the index is the rank within a second.
const TYPES: [&str; 11] = [
    "gpu.server.registered",
    "gpu.gpu.registered",
    "gpu.gpu.replaced",
    "gpu.lease.started",
    "gpu.lease.suspended",
    "gpu.lease.resumed",
    "gpu.lease.ended",
    "gpu.outage.opened",
    "gpu.outage.closed",
    "gpu.contract.applied",
    "gpu.price.changed",
];

/// Most slots that a server may have.
pub const SLOTS_MAX: u32 = 256;

#[derive(Deserialize)]
struct Envelope {
    specversion: Option<String>,
    id: Option<String>,
    source: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    time: Option<String>,
    #[serde(default)]
    data: Value,
}

impl Event {
    /// Reads one event. The refusal names the field and what was expected.
    pub fn parse(bytes: &[u8]) -> Result<Event, Refusal> {
        let malformed = |detail: String| Refusal::new(Reason::MalformedEvent, detail);
        let envelope: Envelope =
            serde_json::from_slice(bytes).map_err(|e| malformed(format!("not a CloudEvent in JSON: {e}")))?;
        if envelope.specversion.as_deref() != Some("1.0") {
            return Err(malformed("specversion must be \"1.0\"".into()));
        }
        let id = required(envelope.id, "id")?;
        let source = required(envelope.source, "source")?;
        let name = required(envelope.kind, "type")?;
        let time_text = required(envelope.time, "time")?;
        let time = parse_rfc3339(&time_text)
            .ok_or_else(|| malformed(format!("time {time_text:?} is not RFC 3339 with a zone")))?;
        let Some(rank) = TYPES.iter().position(|t| *t == name) else {
            return Err(Refusal::new(Reason::UnknownEvent, format!("type {name:?} is not known to this version")));
        };
        let tagged = serde_json::json!({ "type": name, "data": envelope.data });
        let kind: Kind = serde_json::from_value(tagged).map_err(|e| malformed(format!("data of {name}: {e}")))?;
        kind.check().map_err(malformed)?;
        Ok(Event { key: EventKey { time: second_of(time), rank: rank as u8, source, id }, kind })
    }

    /// The event as stored in the database: `{"type":…,"data":…}`.
    pub fn body(&self) -> Value {
        serde_json::to_value(&self.kind).unwrap_or(Value::Null)
    }

    /// Reads an event back from the database. Fails when the row was changed by hand.
    pub fn from_stored(time: Second, source: String, id: String, body: Value) -> Result<Event, serde_json::Error> {
        let kind: Kind = serde_json::from_value(body)?;
        Ok(Event { key: EventKey { time, rank: kind.rank(), source, id }, kind })
    }
}

impl Kind {
    pub fn rank(&self) -> u8 {
        match self {
            Kind::ServerRegistered { .. } => 0,
            Kind::GpuRegistered { .. } => 1,
            Kind::GpuReplaced { .. } => 2,
            Kind::LeaseStarted { .. } => 3,
            Kind::LeaseSuspended { .. } => 4,
            Kind::LeaseResumed { .. } => 5,
            Kind::LeaseEnded { .. } => 6,
            Kind::OutageOpened { .. } => 7,
            Kind::OutageClosed { .. } => 8,
            Kind::ContractApplied { .. } => 9,
            Kind::PriceChanged { .. } => 10,
        }
    }

    pub fn name(&self) -> &'static str {
        TYPES[usize::from(self.rank())]
    }

    fn check(&self) -> Result<(), String> {
        let slot_ok = |slot: u32| {
            if slot < SLOTS_MAX { Ok(()) } else { Err(format!("slot {slot} is not below {SLOTS_MAX}")) }
        };
        match self {
            Kind::ServerRegistered { server, supplier, slots } => {
                identity("server", server)?;
                identity("supplier", supplier)?;
                if *slots == 0 || *slots > SLOTS_MAX {
                    return Err(format!("slots must be 1 to {SLOTS_MAX}, not {slots}"));
                }
            }
            Kind::GpuRegistered { server, slot, gpu } => {
                identity("server", server)?;
                identity("gpu", gpu)?;
                slot_ok(*slot)?;
            }
            Kind::GpuReplaced { server, slot, old, new } => {
                identity("server", server)?;
                identity("old", old)?;
                identity("new", new)?;
                slot_ok(*slot)?;
            }
            Kind::LeaseStarted { lease, contract, server, slots } => {
                identity("lease", lease)?;
                identity("contract", contract)?;
                identity("server", server)?;
                slot_list(slots)?;
            }
            Kind::LeaseSuspended { lease } | Kind::LeaseResumed { lease } | Kind::LeaseEnded { lease } => {
                identity("lease", lease)?;
            }
            Kind::OutageOpened { outage, server, slots, .. } => {
                identity("outage", outage)?;
                identity("server", server)?;
                if let Some(slots) = slots {
                    slot_list(slots)?;
                }
            }
            Kind::OutageClosed { outage, .. } => identity("outage", outage)?,
            Kind::ContractApplied {
                contract, renter, currency, price_per_gpu_hour, supplier_share_percent, ..
            } => {
                identity("price_per_gpu_hour", price_per_gpu_hour)?;
                identity("supplier_share_percent", supplier_share_percent)?;
                identity("contract", contract)?;
                identity("renter", renter)?;
                if currency.len() != 3 || !currency.bytes().all(|b| b.is_ascii_uppercase()) {
                    return Err(format!("currency {currency:?} is not an ISO 4217 code such as \"USD\""));
                }
            }
            Kind::PriceChanged { contract, price_per_gpu_hour } => {
                identity("contract", contract)?;
                identity("price_per_gpu_hour", price_per_gpu_hour)?;
            }
        }
        Ok(())
    }
}

fn required(field: Option<String>, name: &str) -> Result<String, Refusal> {
    match field {
        // PostgreSQL's text holds no NUL, and nobody's names should hold the like.
        Some(text) if text.bytes().any(|b| b.is_ascii_control()) => {
            Err(Refusal::new(Reason::MalformedEvent, format!("{name} holds a control character")))
        }
        Some(text) if !text.is_empty() && text.len() <= 256 => Ok(text),
        Some(text) if text.is_empty() => Err(Refusal::new(Reason::MalformedEvent, format!("{name} is empty"))),
        Some(_) => Err(Refusal::new(Reason::MalformedEvent, format!("{name} is longer than 256 bytes"))),
        None => Err(Refusal::new(Reason::MalformedEvent, format!("{name} is missing"))),
    }
}

fn identity(field: &str, text: &str) -> Result<(), String> {
    if text.is_empty() {
        Err(format!("{field} is empty"))
    } else if text.len() > IDENTITY_BYTES_MAX {
        Err(format!("{field} is longer than {IDENTITY_BYTES_MAX} bytes"))
    } else if text.bytes().any(|b| b.is_ascii_control()) {
        Err(format!("{field} holds a control character"))
    } else {
        Ok(())
    }
}

fn slot_list(slots: &[u32]) -> Result<(), String> {
    if slots.is_empty() {
        return Err("slots is empty".into());
    }
    if let Some(slot) = slots.iter().find(|slot| **slot >= SLOTS_MAX) {
        return Err(format!("slot {slot} is not below {SLOTS_MAX}"));
    }
    let mut sorted = slots.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() == slots.len() { Ok(()) } else { Err("slots names a slot twice".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: &str, data: Value) -> Vec<u8> {
        serde_json::json!({"specversion":"1.0","id":"e-1","source":"cp","type":kind,"time":"2026-03-01T10:00:00.7Z","data":data})
            .to_string()
            .into_bytes()
    }

    #[test]
    fn reads_and_stores_an_event() {
        let data = serde_json::json!({"lease":"l","contract":"c","server":"s","slots":[0,2],"extra":1});
        let read = Event::parse(&event("gpu.lease.started", data)).unwrap();
        assert_eq!(read.kind.rank(), 3);
        assert_eq!(read.key.time % 60, 0);
        let back = Event::from_stored(read.key.time, "cp".into(), "e-1".into(), read.body()).unwrap();
        assert_eq!(back, read);
    }

    #[test]
    fn names_what_is_wrong() {
        let cases = [
            (event("gpu.lease.started", serde_json::json!({"lease":"l"})), Reason::MalformedEvent, "contract"),
            (event("gpu.moon.landed", Value::Null), Reason::UnknownEvent, "gpu.moon.landed"),
            (b"{".to_vec(), Reason::MalformedEvent, "CloudEvent"),
            (event("gpu.lease.ended", serde_json::json!({"lease":""})), Reason::MalformedEvent, "lease is empty"),
            (
                event("gpu.lease.started", serde_json::json!({"lease":"l","contract":"c","server":"s","slots":[1,1]})),
                Reason::MalformedEvent,
                "twice",
            ),
            (
                event("gpu.price.changed", serde_json::json!({"contract":"c","price_per_gpu_hour":"1\u{0}"})),
                Reason::MalformedEvent,
                "control character",
            ),
        ];
        for (bytes, reason, part) in cases {
            let refusal = Event::parse(&bytes).unwrap_err();
            assert_eq!(refusal.reason, reason);
            assert!(refusal.detail.contains(part), "{}", refusal.detail);
        }
    }
}
