//! The masks of closed minutes whose windows are not rated yet: by server, GPU and minute. A cache of what the manifest holds.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hydrometer_rating::classes::Masks;
use hydrometer_schemas::time::{Minute, SECONDS_PER_MINUTE, Second};
use hydrometer_sinks::usage::UsageRow;

/// A server's GPUs, each with its minutes.
type Gpus = HashMap<Arc<str>, BTreeMap<Minute, Masks>>;

#[derive(Debug, Default)]
pub struct Evidence {
    servers: HashMap<Arc<str>, Gpus>,
}

impl Evidence {
    /// Adds a minute; adding it again changes nothing (law 1).
    pub fn add(&mut self, row: &UsageRow) {
        let gpus = self.servers.entry(row.server.clone()).or_default();
        let masks = gpus.entry(row.gpu.clone()).or_default().entry(row.minute).or_default();
        masks.present |= row.present;
        masks.busy |= row.busy;
    }

    pub fn masks(&self, server: &str, gpu: &str, minute: Minute) -> Masks {
        self.servers
            .get(server)
            .and_then(|gpus| gpus.get(gpu))
            .and_then(|minutes| minutes.get(&minute))
            .copied()
            .unwrap_or_default()
    }

    /// Forgets the minutes before a second.
    pub fn forget_before(&mut self, second: Second) {
        let first = second.div_euclid(SECONDS_PER_MINUTE);
        for gpus in self.servers.values_mut() {
            for minutes in gpus.values_mut() {
                *minutes = minutes.split_off(&first);
            }
            gpus.retain(|_, minutes| !minutes.is_empty());
        }
        self.servers.retain(|_, gpus| !gpus.is_empty());
    }
}
