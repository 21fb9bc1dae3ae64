//! Lifecycle events to timelines.
//!
//! [`History`] holds every event ever accepted for storage, in their own order. What a server or a contract *is* follows from
//! folding its events from the first to the last ([`fold`]), so the outcome cannot depend on the order in which events arrived:
//! on each insertion the server or contract concerned is folded again, and verdicts that flip are reported with the stretch of
//! time they touch.

mod fold;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use hydrometer_schemas::lifecycle::{Event, EventKey, Fault, Kind, RatingWindow};
use hydrometer_schemas::time::{FOREVER, Second};

use crate::money::{Price, Share};

/// `[from, to)`; `to` is [`FOREVER`] while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    pub from: Second,
    pub to: Second,
}

impl Span {
    pub fn intersect(self, other: Span) -> Option<Span> {
        let (from, to) = (self.from.max(other.from), self.to.min(other.to));
        (from < to).then_some(Span { from, to })
    }

    pub fn seconds(self) -> i64 {
        self.to - self.from
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupancy {
    pub span: Span,
    pub gpu: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub lease: String,
    pub contract: String,
    pub slots: Vec<u32>,
    pub span: Span,
    pub suspended: Vec<Span>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    pub outage: String,
    pub span: Span,
    /// `None`: the whole server.
    pub slots: Option<Vec<u32>>,
    pub fault: Option<Fault>,
}

/// All that is known of a server.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerTimeline {
    pub server: String,
    pub supplier: Option<String>,
    pub slots: Option<u32>,
    pub occupancy: BTreeMap<u32, Vec<Occupancy>>,
    pub leases: Vec<Lease>,
    pub outages: Vec<Outage>,
}

impl ServerTimeline {
    /// The end of its last lease: nothing after it is rated. The beginning of time when it never had one.
    pub fn leased_until(&self) -> Second {
        self.leases.iter().map(|lease| lease.span.to).max().unwrap_or(Second::MIN)
    }
}

/// A contract's terms from one second to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub span: Span,
    pub renter: String,
    pub currency: String,
    pub price: Price,
    pub share: Share,
    pub rating_window: RatingWindow,
}

/// Why an event is kept but not applied; `None` when it is applied.
pub type Verdict = Option<String>;

/// What an insertion changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// The verdict of every new event and of every event whose verdict flipped.
    pub verdicts: BTreeMap<EventKey, Verdict>,
    /// Servers whose timeline changed, each from the earliest second concerned to the end of its last lease, as it was or is.
    pub servers: BTreeMap<String, Span>,
    /// Contracts whose versions changed, each from the earliest second concerned.
    pub contracts: BTreeMap<String, Second>,
}

#[derive(Debug, Default)]
pub struct History {
    known: HashSet<(String, String)>,
    by_server: HashMap<String, BTreeMap<EventKey, Kind>>,
    by_lease: HashMap<String, BTreeMap<EventKey, Kind>>,
    by_outage: HashMap<String, BTreeMap<EventKey, Kind>>,
    by_contract: HashMap<String, BTreeMap<EventKey, Kind>>,
    verdicts: HashMap<EventKey, Verdict>,
    servers: BTreeMap<String, ServerTimeline>,
    contracts: BTreeMap<String, Vec<Version>>,
    /// Which servers hold (or held) a lease under a contract.
    leased_under: HashMap<String, BTreeSet<String>>,
}

impl History {
    pub fn server(&self, server: &str) -> Option<&ServerTimeline> {
        self.servers.get(server)
    }

    pub fn servers(&self) -> impl Iterator<Item = &ServerTimeline> {
        self.servers.values()
    }

    /// The versions of a contract in order of time, gapless; empty when nothing is known of it.
    pub fn versions(&self, contract: &str) -> &[Version] {
        self.contracts.get(contract).map_or(&[], Vec::as_slice)
    }

    /// The servers on which leases under `contract` were ever accepted.
    pub fn servers_under(&self, contract: &str) -> impl Iterator<Item = &str> {
        self.leased_under.get(contract).into_iter().flatten().map(String::as_str)
    }

    pub fn verdict(&self, key: &EventKey) -> Option<&Verdict> {
        self.verdicts.get(key)
    }

    pub fn contains(&self, source: &str, id: &str) -> bool {
        self.known.contains(&(source.to_owned(), id.to_owned()))
    }

    /// Takes events in any order. One whose source and id are known already is ignored.
    pub fn insert(&mut self, events: impl IntoIterator<Item = Event>) -> Changes {
        let mut touched = Touched::default();
        let mut inserted = Vec::new();
        for event in events {
            if !self.known.insert((event.key.source.clone(), event.key.id.clone())) {
                continue;
            }
            inserted.push(event.key.clone());
            self.file(event, &mut touched);
        }

        let mut changes = Changes::default();
        for (server, from) in touched.servers {
            self.fold_server(&server, from, &mut changes);
        }
        for (contract, from) in touched.contracts {
            self.fold_contract(&contract, from, &mut changes);
        }
        for key in inserted {
            // Folded nowhere: it names a lease or an outage of which no beginning is known.
            let verdict = self.verdicts.entry(key.clone()).or_insert_with(|| Some(fold::NEVER_BEGAN.to_owned()));
            changes.verdicts.entry(key).or_insert_with(|| verdict.clone());
        }
        changes
    }

    /// Puts an event where the folds find it and notes what has to be folded again, and from when it may differ.
    fn file(&mut self, event: Event, touched: &mut Touched) {
        let Event { key, kind } = event;
        match &kind {
            Kind::ServerRegistered { server, .. } => {
                // The supplier holds for all of the server's time.
                touched.server(server, Second::MIN);
                self.by_server.entry(server.clone()).or_default().insert(key, kind);
            }
            Kind::GpuRegistered { server, .. } | Kind::GpuReplaced { server, .. } => {
                touched.server(server, key.time);
                self.by_server.entry(server.clone()).or_default().insert(key, kind);
            }
            Kind::LeaseStarted { lease, server, .. } => {
                touched.server(server, key.time);
                let events = self.by_lease.entry(lease.clone()).or_default();
                for other in events.values() {
                    if let Kind::LeaseStarted { server, .. } = other {
                        touched.server(server, key.time);
                    }
                }
                events.insert(key.clone(), kind.clone());
                self.by_server.entry(server.clone()).or_default().insert(key, kind);
            }
            Kind::LeaseSuspended { lease } | Kind::LeaseResumed { lease } | Kind::LeaseEnded { lease } => {
                let events = self.by_lease.entry(lease.clone()).or_default();
                if let Some((_, server)) = fold::owner(events) {
                    touched.server(server, key.time);
                }
                events.insert(key, kind);
            }
            Kind::OutageOpened { outage, server, .. } => {
                touched.server(server, key.time);
                let events = self.by_outage.entry(outage.clone()).or_default();
                for other in events.values() {
                    if let Kind::OutageOpened { server, .. } = other {
                        touched.server(server, key.time);
                    }
                }
                events.insert(key.clone(), kind.clone());
                self.by_server.entry(server.clone()).or_default().insert(key, kind);
            }
            Kind::OutageClosed { outage, .. } => {
                let events = self.by_outage.entry(outage.clone()).or_default();
                // The fault named at closing holds from the opening on.
                if let Some((opened, server)) = fold::owner(events) {
                    touched.server(server, opened.time.min(key.time));
                }
                events.insert(key, kind);
            }
            Kind::ContractApplied { contract, .. } | Kind::PriceChanged { contract, .. } => {
                touched.contract(contract, key.time);
                self.by_contract.entry(contract.clone()).or_default().insert(key, kind);
            }
        }
    }

    fn fold_server(&mut self, server: &str, from: Second, changes: &mut Changes) {
        let mut events = self.by_server.get(server).cloned().unwrap_or_default();
        let mut foreign = BTreeMap::new();
        for (key, kind) in self.by_server.get(server).into_iter().flatten() {
            let followers = match kind {
                Kind::LeaseStarted { lease, .. } => self.by_lease.get(lease),
                Kind::OutageOpened { outage, .. } => self.by_outage.get(outage),
                _ => None,
            };
            let Some(followers) = followers else { continue };
            match fold::owner(followers) {
                Some((_, owner)) if owner == server => {
                    events.extend(
                        followers.iter().filter(|(_, kind)| fold::follows(kind)).map(|(k, v)| (k.clone(), v.clone())),
                    );
                }
                Some((_, owner)) => {
                    foreign.insert(key.clone(), owner.to_owned());
                }
                None => {}
            }
        }
        let (timeline, verdicts) = fold::server(server, &events, &foreign);
        let earliest = self.record_verdicts(verdicts, from, changes);
        if self.servers.get(server) != Some(&timeline) {
            for lease in &timeline.leases {
                self.leased_under.entry(lease.contract.clone()).or_default().insert(server.to_owned());
            }
            let before = self.servers.get(server).map_or(earliest, ServerTimeline::leased_until);
            let to = before.max(timeline.leased_until());
            changes.servers.insert(server.to_owned(), Span { from: earliest, to });
            self.servers.insert(server.to_owned(), timeline);
        }
    }

    fn fold_contract(&mut self, contract: &str, from: Second, changes: &mut Changes) {
        let Some(events) = self.by_contract.get(contract) else { return };
        let (versions, verdicts) = fold::contract(events);
        let earliest = self.record_verdicts(verdicts, from, changes);
        if self.versions(contract) != versions.as_slice() {
            changes.contracts.insert(contract.to_owned(), earliest);
            self.contracts.insert(contract.to_owned(), versions);
        }
    }

    /// Keeps the verdicts, reports those that are new or flipped, and returns the earliest second that any flip concerns.
    fn record_verdicts(
        &mut self,
        verdicts: BTreeMap<EventKey, Verdict>,
        from: Second,
        changes: &mut Changes,
    ) -> Second {
        let mut earliest = from;
        for (key, verdict) in verdicts {
            if self.verdicts.get(&key) != Some(&verdict) {
                if self.verdicts.contains_key(&key) {
                    earliest = earliest.min(key.time);
                }
                changes.verdicts.insert(key.clone(), verdict.clone());
                self.verdicts.insert(key, verdict);
            }
        }
        earliest
    }
}

/// What has to be folded again, and the earliest second that may differ.
#[derive(Default)]
struct Touched {
    servers: BTreeMap<String, Second>,
    contracts: BTreeMap<String, Second>,
}

impl Touched {
    fn server(&mut self, server: &str, from: Second) {
        let earliest = self.servers.entry(server.to_owned()).or_insert(FOREVER);
        *earliest = from.min(*earliest);
    }

    fn contract(&mut self, contract: &str, from: Second) {
        let earliest = self.contracts.entry(contract.to_owned()).or_insert(FOREVER);
        *earliest = from.min(*earliest);
    }
}

#[cfg(test)]
mod tests;
