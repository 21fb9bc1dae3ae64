//! Lifecycle events: who owned, leased and lost what, and when (CloudEvents 1.0, JSON).
//!
//! An event's identity is `source` + `id`. Events are ordered by their own time, floored to the second, then by kind, source and
//! id; never by arrival. [`Event`] derives its order from that, so a sorted set of events *is* the history.

mod check;
#[cfg(test)]
mod tests;
mod wallet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::contract::{Contract, Decimal};
use crate::quarantine::{Reason, Refusal};
use crate::time::{FOREVER, Second, parse_rfc3339, second_of, show_second};

pub use wallet::{GrantKind, OnExpiry, WalletDebit, WalletGrant, WalletKey, nanos};

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

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fault {
    Supplier,
    Platform,
    Renter,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RatingWindow {
    Minute,
    Hour,
}

/// What happened. The variants stand in the order in which events of one second are taken.
///
/// `slots: None` is the whole server. `slices` are MIG slices on each of the slots; a lease that names none holds whole cards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum Kind {
    #[serde(rename = "gpu.server.registered")]
    ServerRegistered {
        server: String,
        supplier: String,
        slots: u32,
        /// MIG slices of each card; [`SLICES_PER_CARD`] where it is not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slices_per_card: Option<u32>,
    },
    #[serde(rename = "gpu.gpu.registered")]
    GpuRegistered { server: String, slot: u32, gpu: String },
    #[serde(rename = "gpu.server.provisioned")]
    ServerProvisioned { server: String },
    #[serde(rename = "gpu.server.decommissioned")]
    ServerDecommissioned { server: String },
    #[serde(rename = "gpu.gpu.replaced")]
    GpuReplaced { server: String, slot: u32, old: String, new: String },
    #[serde(rename = "gpu.gpu.recovered")]
    GpuRecovered { server: String, gpu: String },
    #[serde(rename = "gpu.server.unreachable")]
    ServerUnreachable { server: String },
    #[serde(rename = "gpu.server.reachable")]
    ServerReachable { server: String },
    /// Slots promised to a lease that has not begun; nothing is rated by it.
    #[serde(rename = "gpu.lease.reserved")]
    LeaseReserved {
        lease: String,
        contract: String,
        server: String,
        slots: Vec<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slices: Option<u32>,
        #[serde(with = "instant")]
        from: Second,
        #[serde(with = "instant")]
        to: Second,
    },
    #[serde(rename = "gpu.lease.started")]
    LeaseStarted {
        lease: String,
        contract: String,
        server: String,
        slots: Vec<u32>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slices: Option<u32>,
    },
    #[serde(rename = "gpu.lease.suspended")]
    LeaseSuspended { lease: String },
    #[serde(rename = "gpu.lease.resumed")]
    LeaseResumed { lease: String },
    /// Of a lease that is only reserved: it is given up.
    #[serde(rename = "gpu.lease.ended")]
    LeaseEnded { lease: String },
    /// From now on the lease holds this many slices on each of its slots.
    #[serde(rename = "gpu.lease.repartitioned")]
    LeaseRepartitioned { lease: String, slices: u32 },
    /// Says ahead of time when a server, or some of its slots, will be worked on. Said again before it begins, it replaces what was said.
    #[serde(rename = "gpu.maintenance.announced")]
    MaintenanceAnnounced {
        maintenance: String,
        server: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slots: Option<Vec<u32>>,
        #[serde(with = "instant")]
        from: Second,
        #[serde(with = "instant")]
        to: Second,
    },
    /// The work begins. Without `slots`: those that were announced, or the whole server.
    #[serde(rename = "gpu.maintenance.started")]
    MaintenanceStarted {
        maintenance: String,
        server: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slots: Option<Vec<u32>>,
    },
    /// Of maintenance that is only announced: it is called off from now on.
    #[serde(rename = "gpu.maintenance.ended")]
    MaintenanceEnded { maintenance: String },
    #[serde(rename = "gpu.outage.opened")]
    OutageOpened { outage: String, server: String, slots: Option<Vec<u32>>, fault: Option<Fault> },
    #[serde(rename = "gpu.outage.closed")]
    OutageClosed { outage: String, fault: Option<Fault> },
    /// Names the party at fault, while the outage is open or later; it holds from the opening on.
    #[serde(rename = "gpu.outage.faulted")]
    OutageFaulted { outage: String, fault: Fault },
    #[serde(rename = "gpu.contract.signed")]
    ContractSigned { document: Box<Contract> },
    #[serde(rename = "gpu.contract.amended")]
    ContractAmended { document: Box<Contract> },
    /// The term now ends at `ends`.
    #[serde(rename = "gpu.contract.renewed")]
    ContractRenewed {
        contract: String,
        #[serde(with = "instant")]
        ends: Second,
    },
    #[serde(rename = "gpu.contract.terminated")]
    ContractTerminated { contract: String },
    /// A charge's plain price changes and nothing else.
    #[serde(rename = "gpu.price.changed")]
    PriceChanged { contract: String, charge: String, price: Decimal },
    /// Money, or a promise of it, for a wallet: a top-up, a promotion, an opening balance.
    #[serde(rename = "gpu.wallet.granted")]
    WalletGranted(Box<WalletGrant>),
    /// Money that leaves a wallet otherwise than by use: a refund, a manual debit. Recorded by a command.
    #[serde(rename = "gpu.wallet.debited")]
    WalletDebited(WalletDebit),
    /// The wallet cannot pay the second that begins now. Derived.
    #[serde(rename = "gpu.wallet.exhausted")]
    WalletExhausted {
        #[serde(flatten)]
        wallet: WalletKey,
        /// What this second would cost. The wallet is restored when it can pay that.
        second_costs: Decimal,
    },
    /// What an exhausted wallet may owe under a contract is used up. Derived.
    #[serde(rename = "gpu.wallet.credit_reached")]
    WalletCreditReached {
        #[serde(flatten)]
        wallet: WalletKey,
        contract: String,
    },
    /// An exhausted wallet can pay again. Derived.
    #[serde(rename = "gpu.wallet.restored")]
    WalletRestored(WalletKey),
}

/// The types in the order of [`Kind`]; the index is the rank within a second.
pub const TYPES: [&str; 30] = [
    "gpu.server.registered",
    "gpu.gpu.registered",
    "gpu.server.provisioned",
    "gpu.server.decommissioned",
    "gpu.gpu.replaced",
    "gpu.gpu.recovered",
    "gpu.server.unreachable",
    "gpu.server.reachable",
    "gpu.lease.reserved",
    "gpu.lease.started",
    "gpu.lease.suspended",
    "gpu.lease.resumed",
    "gpu.lease.ended",
    "gpu.lease.repartitioned",
    "gpu.maintenance.announced",
    "gpu.maintenance.started",
    "gpu.maintenance.ended",
    "gpu.outage.opened",
    "gpu.outage.closed",
    "gpu.outage.faulted",
    "gpu.contract.signed",
    "gpu.contract.amended",
    "gpu.contract.renewed",
    "gpu.contract.terminated",
    "gpu.price.changed",
    "gpu.wallet.granted",
    "gpu.wallet.debited",
    "gpu.wallet.exhausted",
    "gpu.wallet.credit_reached",
    "gpu.wallet.restored",
];

/// Most slots that a server may have.
pub const SLOTS_MAX: u32 = 256;
/// MIG slices of a card where its server says nothing else.
pub const SLICES_PER_CARD: u32 = 7;
/// Most MIG slices that a card may have.
pub const SLICES_MAX: u32 = 64;
/// Longest text of a refusal, in bytes: what is wrong may be as long as a message, what is said about it not.
pub const REFUSAL_BYTES_MAX: usize = 512;

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
        read(bytes).map_err(|(reason, detail)| Refusal::new(reason, shorten(detail)))
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

fn read(bytes: &[u8]) -> Result<Event, (Reason, String)> {
    let malformed = |detail: String| (Reason::MalformedEvent, detail);
    let envelope: Envelope =
        serde_json::from_slice(bytes).map_err(|e| malformed(format!("not a CloudEvent in JSON: {e}")))?;
    if envelope.specversion.as_deref() != Some("1.0") {
        return Err(malformed("specversion must be \"1.0\"".into()));
    }
    let id = check::attribute("id", envelope.id).map_err(malformed)?;
    let source = check::attribute("source", envelope.source).map_err(malformed)?;
    let name = check::attribute("type", envelope.kind).map_err(malformed)?;
    let time_text = check::attribute("time", envelope.time).map_err(malformed)?;
    let time = instant::parse(&time_text).map_err(|e| malformed(format!("time {e}")))?;
    if !TYPES.contains(&name.as_str()) {
        return Err((Reason::UnknownEvent, format!("type {name:?} is not known to this version")));
    }
    let tagged = serde_json::json!({ "type": name, "data": envelope.data });
    let kind: Kind = serde_json::from_value(tagged).map_err(|e| malformed(format!("data of {name}: {e}")))?;
    kind.check().map_err(|problem| malformed(format!("data of {name}: {problem}")))?;
    Ok(Event { key: EventKey { time, rank: kind.rank(), source, id }, kind })
}

/// At most [`REFUSAL_BYTES_MAX`], cut between characters.
fn shorten(mut text: String) -> String {
    if text.len() > REFUSAL_BYTES_MAX {
        let room = REFUSAL_BYTES_MAX - '…'.len_utf8();
        let end = (0..=room).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

impl Kind {
    pub fn rank(&self) -> u8 {
        match self {
            Kind::ServerRegistered { .. } => 0,
            Kind::GpuRegistered { .. } => 1,
            Kind::ServerProvisioned { .. } => 2,
            Kind::ServerDecommissioned { .. } => 3,
            Kind::GpuReplaced { .. } => 4,
            Kind::GpuRecovered { .. } => 5,
            Kind::ServerUnreachable { .. } => 6,
            Kind::ServerReachable { .. } => 7,
            Kind::LeaseReserved { .. } => 8,
            Kind::LeaseStarted { .. } => 9,
            Kind::LeaseSuspended { .. } => 10,
            Kind::LeaseResumed { .. } => 11,
            Kind::LeaseEnded { .. } => 12,
            Kind::LeaseRepartitioned { .. } => 13,
            Kind::MaintenanceAnnounced { .. } => 14,
            Kind::MaintenanceStarted { .. } => 15,
            Kind::MaintenanceEnded { .. } => 16,
            Kind::OutageOpened { .. } => 17,
            Kind::OutageClosed { .. } => 18,
            Kind::OutageFaulted { .. } => 19,
            Kind::ContractSigned { .. } => 20,
            Kind::ContractAmended { .. } => 21,
            Kind::ContractRenewed { .. } => 22,
            Kind::ContractTerminated { .. } => 23,
            Kind::PriceChanged { .. } => 24,
            Kind::WalletGranted(_) => 25,
            Kind::WalletDebited(_) => 26,
            Kind::WalletExhausted { .. } => 27,
            Kind::WalletCreditReached { .. } => 28,
            Kind::WalletRestored(_) => 29,
        }
    }

    pub fn name(&self) -> &'static str {
        TYPES[usize::from(self.rank())]
    }
}

/// Reads what a fuzzer made up and checks what must hold of every input: no panic, a short refusal, and what was read can be stored
/// and read back. Returns whether it was an event.
pub fn exercise(bytes: &[u8]) -> bool {
    match Event::parse(bytes) {
        Ok(event) => {
            let EventKey { time, source, id, .. } = event.key.clone();
            let back = Event::from_stored(time, source, id, event.body());
            assert!(back.is_ok_and(|back| back == event), "what is stored is not what was read: {event:?}");
            true
        }
        Err(refusal) => {
            assert!(refusal.detail.len() <= REFUSAL_BYTES_MAX, "a refusal of {} bytes", refusal.detail.len());
            false
        }
    }
}

/// An instant as RFC 3339 with a zone, floored to the second, from 1970 to 9999: what lies beyond could be mistaken for "for ever".
mod instant {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{FOREVER, Second, parse_rfc3339, second_of, show_second};

    pub fn parse(text: &str) -> Result<Second, String> {
        let time = parse_rfc3339(text).ok_or_else(|| {
            format!("{text:?} is not RFC 3339 with a zone, such as \"2026-03-01T00:00:00Z\" or \"…-08:00\"")
        })?;
        let second = second_of(time);
        if (0..FOREVER).contains(&second) {
            Ok(second)
        } else {
            Err(format!("{text:?} does not lie between 1970 and 9999"))
        }
    }

    pub fn serialize<S: Serializer>(second: &Second, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&show_second(*second))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Second, D::Error> {
        parse(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}
