//! Lifecycle events as the testkit writes them: CloudEvents 1.0 in structured JSON.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::time::{SECOND_US, rfc3339};

/// One lifecycle event. `source` and `id` together are its identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub source: String,
    pub id: String,
    /// Its own time, in microseconds; it counts from the second into which it falls.
    pub time_us: i64,
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened. The order of the variants is the order of events within a second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "data")]
pub enum EventKind {
    #[serde(rename = "gpu.server.registered")]
    ServerRegistered { server: String, supplier: String, slots: u32 },
    #[serde(rename = "gpu.gpu.registered")]
    GpuRegistered { server: String, slot: u32, gpu: String },
    #[serde(rename = "gpu.gpu.replaced")]
    GpuReplaced { server: String, slot: u32, old: String, new: String },
    #[serde(rename = "gpu.server.unreachable")]
    ServerUnreachable { server: String },
    #[serde(rename = "gpu.server.reachable")]
    ServerReachable { server: String },
    #[serde(rename = "gpu.lease.started")]
    LeaseStarted { lease: String, contract: String, server: String, slots: Vec<u32> },
    #[serde(rename = "gpu.lease.suspended")]
    LeaseSuspended { lease: String },
    #[serde(rename = "gpu.lease.resumed")]
    LeaseResumed { lease: String },
    #[serde(rename = "gpu.lease.ended")]
    LeaseEnded { lease: String },
    #[serde(rename = "gpu.maintenance.announced")]
    MaintenanceAnnounced { maintenance: String, server: String, from: String, to: String },
    #[serde(rename = "gpu.maintenance.started")]
    MaintenanceStarted { maintenance: String, server: String },
    #[serde(rename = "gpu.maintenance.ended")]
    MaintenanceEnded { maintenance: String },
    #[serde(rename = "gpu.outage.opened")]
    OutageOpened {
        outage: String,
        server: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        slots: Option<Vec<u32>>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fault: Option<Party>,
    },
    #[serde(rename = "gpu.outage.closed")]
    OutageClosed {
        outage: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fault: Option<Party>,
    },
    #[serde(rename = "gpu.outage.faulted")]
    OutageFaulted { outage: String, fault: Party },
    #[serde(rename = "gpu.contract.signed")]
    ContractSigned { document: Value },
    #[serde(rename = "gpu.contract.amended")]
    ContractAmended { document: Value },
    #[serde(rename = "gpu.price.changed")]
    PriceChanged { contract: String, charge: String, price: String },
    #[serde(rename = "gpu.wallet.granted")]
    WalletGranted(Grant),
}

/// Money, or a promise of it, for the wallet of a renter in a currency.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub renter: String,
    pub currency: String,
    pub grant: String,
    pub amount: String,
    #[serde(default)]
    pub kind: GrantKind,
    /// The lower, the sooner it is used.
    #[serde(default)]
    pub priority: i32,
    /// It is used up to the end of the minute in which this lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<String>,
    #[serde(default)]
    pub on_expiry: OnExpiry,
    /// The account, without its currency, that the money comes from.
    pub source: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GrantKind {
    #[default]
    Paid,
    Promotional,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnExpiry {
    #[default]
    Income,
    Back,
}

/// The charge of a [`SimpleContract`].
pub const GPU_HOURS: &str = "gpu_hours";

/// A contract at a price per allocated GPU-hour, a share of which is every supplier's.
#[derive(Clone, Debug)]
pub struct SimpleContract {
    pub contract: String,
    pub renter: String,
    pub currency: String,
    pub price_per_gpu_hour: String,
    pub supplier_share_percent: String,
    pub rating_window: RatingWindow,
}

impl SimpleContract {
    /// Its signature, in the second of `time_us`.
    pub fn signed(&self, time_us: i64) -> EventKind {
        let document = json!({
            "contract": self.contract,
            "effective": rfc3339(time_us.div_euclid(SECOND_US) * SECOND_US),
            "renter": self.renter,
            "currency": self.currency,
            "rating_window": self.rating_window,
            "charges": { GPU_HOURS: { "basis": "allocated", "price": self.price_per_gpu_hour } },
            "suppliers": [{ "supplier": "*", "share_percent": self.supplier_share_percent }],
        });
        EventKind::ContractSigned { document }
    }

    /// The same for a contract that is paid in advance.
    pub fn signed_prepaid(&self, time_us: i64, prepaid: &Prepaid) -> EventKind {
        let mut signed = self.signed(time_us);
        if let EventKind::ContractSigned { document } = &mut signed {
            document["prepaid"] = json!(prepaid);
        }
        signed
    }
}

/// What happens in the second in which the wallet runs dry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "on_exhaustion", rename_all = "lowercase")]
pub enum Prepaid {
    Suspend,
    Grace { grace_s: i64 },
    Credit { credit_limit: String },
}

/// Who is at fault for an outage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Party {
    Supplier,
    Platform,
    Renter,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RatingWindow {
    Hour,
    Minute,
}

impl Event {
    /// The message as it travels.
    pub fn to_json(&self) -> Result<Vec<u8>, serde_json::Error> {
        #[derive(Serialize)]
        struct CloudEvent<'a> {
            specversion: &'static str,
            id: &'a str,
            source: &'a str,
            time: String,
            #[serde(flatten)]
            kind: &'a EventKind,
        }
        serde_json::to_vec(&CloudEvent {
            specversion: "1.0",
            id: &self.id,
            source: &self.source,
            time: rfc3339(self.time_us),
            kind: &self.kind,
        })
    }

    /// What the event is about, the key of its message.
    pub fn subject(&self) -> &str {
        match &self.kind {
            EventKind::ServerRegistered { server, .. }
            | EventKind::GpuRegistered { server, .. }
            | EventKind::GpuReplaced { server, .. }
            | EventKind::ServerUnreachable { server }
            | EventKind::ServerReachable { server } => server,
            EventKind::LeaseStarted { lease, .. }
            | EventKind::LeaseSuspended { lease }
            | EventKind::LeaseResumed { lease }
            | EventKind::LeaseEnded { lease } => lease,
            EventKind::MaintenanceAnnounced { maintenance, .. }
            | EventKind::MaintenanceStarted { maintenance, .. }
            | EventKind::MaintenanceEnded { maintenance } => maintenance,
            EventKind::OutageOpened { outage, .. }
            | EventKind::OutageClosed { outage, .. }
            | EventKind::OutageFaulted { outage, .. } => outage,
            EventKind::ContractSigned { document } | EventKind::ContractAmended { document } => {
                document["contract"].as_str().unwrap_or_default()
            }
            EventKind::PriceChanged { contract, .. } => contract,
            EventKind::WalletGranted(grant) => &grant.renter,
        }
    }
}
