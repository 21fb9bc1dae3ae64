//! What is used under a contract of any kind, second by second, and what that comes to: `hydrometer-oracle` works it out from the
//! contract's documents.

use hydrometer_oracle::{Outcome, Use, What, outcome};
use hydrometer_schemas::contract::Contract;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::history::Lease;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContractUse {
    /// The contract's documents, in order of their effective time.
    pub versions: Vec<Value>,
    pub stretches: Vec<Stretch>,
}

/// Seconds of a lease's slot that are of one class.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    pub from: i64,
    pub to: i64,
    pub lease: String,
    pub slot: u32,
    pub server: String,
    pub supplier: String,
    /// One of [`CLASSES`].
    pub class: String,
}

/// Downtime by the party at fault; `down`: nobody is known to be. What may be billed or paid for all the same says what was read.
pub const CLASSES: [&str; 15] = [
    "used",
    "idle",
    "unknown",
    "suspended",
    "maintenance",
    "down",
    "down_supplier",
    "down_platform",
    "down_renter",
    "maintenance/used",
    "maintenance/idle",
    "down_platform/used",
    "down_platform/idle",
    "down_renter/used",
    "down_renter/idle",
];

impl ContractUse {
    pub(super) fn under(versions: &[Value]) -> Self {
        ContractUse { versions: versions.to_vec(), stretches: Vec::new() }
    }

    /// Notes one second of a lease's slot. Seconds of one slot come in order.
    pub(super) fn note(&mut self, lease: &Lease, slot: u32, supplier: &str, second: i64, (class, said): (&str, &str)) {
        let read = format!("{class}/{said}");
        let class = if CLASSES.contains(&read.as_str()) { &read } else { class };
        if let Some(last) = self.stretches.last_mut()
            && (last.to, last.slot, last.class.as_str()) == (second, slot, class)
            && last.lease == lease.id
        {
            last.to += 1;
            return;
        }
        self.stretches.push(Stretch {
            from: second,
            to: second + 1,
            lease: lease.id.clone(),
            slot,
            server: lease.server.clone(),
            supplier: supplier.to_owned(),
            class: class.to_owned(),
        });
    }

    /// Whether a charge of it is committed by the hour.
    pub fn is_hourly(&self) -> bool {
        let charges = self.versions.iter().filter_map(|version| version["charges"].as_object());
        charges.flat_map(|charges| charges.values()).any(|charge| charge["commitment"]["per"] == "hour")
    }

    pub fn documents(&self) -> Result<Vec<Contract>, serde_json::Error> {
        self.versions.iter().map(|version| serde_json::from_value(version.clone())).collect()
    }

    /// What it comes to: the amounts of all use, and what falls due in the billing periods (such as `2026-03`) that are closed.
    pub fn outcome(&self, periods: &[String]) -> Result<Outcome, serde_json::Error> {
        let uses: Vec<Use> = self.stretches.iter().map(Stretch::as_use).collect();
        Ok(outcome(&self.documents()?, &uses, periods))
    }
}

impl Stretch {
    fn as_use(&self) -> Use {
        let class = CLASSES.into_iter().find(|class| *class == self.class).unwrap_or("unknown");
        Use {
            from: self.from,
            to: self.to,
            lease: self.lease.clone(),
            gpu: self.slot.to_string(),
            supplier: self.supplier.clone(),
            server: self.server.clone(),
            what: What::Class(class),
        }
    }
}
