//! Lifecycle events to timelines.
//!
//! [`History`] holds every event ever accepted for storage, in their own order. What a server or a contract *is* follows from
//! folding its events from the first to the last ([`server`], [`contract`]), so the outcome cannot depend on the order in which
//! events arrived: on each insertion the server or contract concerned is folded again, and verdicts that flip are reported with the
//! stretch of time they touch.

mod contract;
mod server;
pub mod span;
#[cfg(test)]
mod tests;
mod timeline;
mod wallet;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use hydrometer_schemas::lifecycle::{Event, EventKey, Kind, WalletKey};
use hydrometer_schemas::time::{FOREVER, Second};

pub use contract::Version;
pub use span::Span;
pub use timeline::{
    Blame, Lease, Maintenance, Occupancy, Outage, Reservation, ServerTimeline, Slicing, SlotRecord, Work,
};
pub use wallet::{Debit, Dry, Grant, Wallet, end_of_minute, interval_of};

use crate::terms::{Rate, RateId};

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
    /// Wallets of which anything was said.
    pub wallets: BTreeSet<WalletKey>,
}

#[derive(Debug, Default)]
pub struct History {
    known: HashSet<(String, String)>,
    by_server: HashMap<String, BTreeMap<EventKey, Kind>>,
    by_lease: HashMap<String, BTreeMap<EventKey, Kind>>,
    by_outage: HashMap<String, BTreeMap<EventKey, Kind>>,
    by_maintenance: HashMap<String, BTreeMap<EventKey, Kind>>,
    by_contract: HashMap<String, BTreeMap<EventKey, Kind>>,
    by_wallet: HashMap<WalletKey, BTreeMap<EventKey, Kind>>,
    verdicts: HashMap<EventKey, Verdict>,
    servers: BTreeMap<String, ServerTimeline>,
    contracts: BTreeMap<String, Vec<Version>>,
    wallets: BTreeMap<WalletKey, Wallet>,
    /// The contracts that ever burned a wallet.
    prepaid: BTreeMap<WalletKey, BTreeSet<String>>,
    compiled: contract::Compiled,
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

    /// The versions of a contract in order of time, gapless while it is in force; empty when nothing is known of it.
    pub fn versions(&self, contract: &str) -> &[Version] {
        self.contracts.get(contract).map_or(&[], Vec::as_slice)
    }

    /// Every contract with its versions, by name.
    pub fn contracts(&self) -> impl Iterator<Item = (&str, &[Version])> {
        self.contracts.iter().map(|(contract, versions)| (contract.as_str(), versions.as_slice()))
    }

    /// The servers on which leases under `contract` were ever accepted.
    pub fn servers_under(&self, contract: &str) -> impl Iterator<Item = &str> {
        self.leased_under.get(contract).into_iter().flatten().map(String::as_str)
    }

    /// What is known of a wallet; nothing while nothing was said of it.
    pub fn wallet(&self, key: &WalletKey) -> Option<&Wallet> {
        self.wallets.get(key)
    }

    /// The wallets that prepaid contracts burn, or ever burned.
    pub fn burned_wallets(&self) -> impl Iterator<Item = &WalletKey> {
        self.prepaid.keys()
    }

    /// The contracts that burn a wallet, or ever burned it.
    pub fn prepaid_under(&self, wallet: &WalletKey) -> impl Iterator<Item = &str> {
        self.prepaid.get(wallet).into_iter().flatten().map(String::as_str)
    }

    /// A rate of any version that ever was, superseded ones too: the states of past periods name them.
    pub fn rate(&self, id: RateId) -> Option<&Arc<Rate>> {
        self.compiled.rate(id)
    }

    pub fn verdict(&self, key: &EventKey) -> Option<&Verdict> {
        self.verdicts.get(key)
    }

    pub fn contains(&self, source: &str, id: &str) -> bool {
        self.known.contains(&(source.to_owned(), id.to_owned()))
    }

    /// Takes what a fuzzer made up, an event a line, and checks that nothing panics and that arrival does not matter.
    pub fn exercise(bytes: &[u8]) {
        let lines = bytes.split(|byte| *byte == b'\n');
        let events: Vec<Event> = lines.filter_map(|line| Event::parse(line).ok()).collect();
        let (mut at_once, mut backwards) = (History::default(), History::default());
        at_once.insert(events.iter().cloned());
        // Of events under one identity the first to arrive counts, so here that has to be the same one.
        let mut known = HashSet::new();
        let first = events.into_iter().filter(|event| known.insert((event.key.source.clone(), event.key.id.clone())));
        for event in first.collect::<Vec<_>>().into_iter().rev() {
            backwards.insert([event]);
        }
        assert_eq!(at_once.servers, backwards.servers, "timelines depend on arrival");
        assert_eq!(at_once.contracts, backwards.contracts, "versions depend on arrival");
        assert_eq!(at_once.wallets, backwards.wallets, "wallets depend on arrival");
        assert_eq!(at_once.verdicts, backwards.verdicts, "verdicts depend on arrival");
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
        for (contract, from) in std::mem::take(&mut touched.contracts) {
            self.fold_contract(&contract, from, &mut touched, &mut changes);
        }
        for (wallet, from) in std::mem::take(&mut touched.wallets) {
            self.fold_wallet(wallet, from, &mut touched, &mut changes);
        }
        for (server, from) in touched.servers {
            self.fold_server(&server, from, &mut changes);
        }
        for key in inserted {
            // Folded nowhere: it names a lease or an outage of which no beginning is known.
            let verdict = self.verdicts.entry(key.clone()).or_insert_with(|| Some(server::NEVER_BEGAN.to_owned()));
            changes.verdicts.entry(key).or_insert_with(|| verdict.clone());
        }
        changes
    }

    /// Puts an event where the folds find it and notes what has to be folded again, and from when it may differ.
    fn file(&mut self, event: Event, touched: &mut Touched) {
        let Event { key, kind } = event;
        match &kind {
            Kind::ServerRegistered { server, .. } => {
                // Supplier and slices hold for all of the server's time.
                touched.server(server, Second::MIN);
                self.by_server.entry(server.clone()).or_default().insert(key, kind);
            }
            Kind::GpuRegistered { server, .. }
            | Kind::ServerProvisioned { server }
            | Kind::ServerDecommissioned { server }
            | Kind::GpuReplaced { server, .. }
            | Kind::GpuRecovered { server, .. }
            | Kind::ServerUnreachable { server }
            | Kind::ServerReachable { server } => {
                touched.server(server, key.time);
                self.by_server.entry(server.clone()).or_default().insert(key, kind);
            }
            Kind::LeaseReserved { lease, server, .. } | Kind::LeaseStarted { lease, server, .. } => {
                let named = self.by_lease.entry(lease.clone()).or_default();
                file_beginning(named, &mut self.by_server, touched, server.clone(), key, kind);
            }
            Kind::MaintenanceAnnounced { maintenance, server, .. }
            | Kind::MaintenanceStarted { maintenance, server, .. } => {
                let named = self.by_maintenance.entry(maintenance.clone()).or_default();
                file_beginning(named, &mut self.by_server, touched, server.clone(), key, kind);
            }
            Kind::OutageOpened { outage, server, .. } => {
                let named = self.by_outage.entry(outage.clone()).or_default();
                file_beginning(named, &mut self.by_server, touched, server.clone(), key, kind);
            }
            Kind::LeaseSuspended { lease }
            | Kind::LeaseResumed { lease }
            | Kind::LeaseEnded { lease }
            | Kind::LeaseRepartitioned { lease, .. } => {
                let named = self.by_lease.entry(lease.clone()).or_default();
                if let Some((_, server)) = server::owner(named) {
                    touched.server(server, key.time);
                }
                named.insert(key, kind);
            }
            Kind::MaintenanceEnded { maintenance } => {
                let named = self.by_maintenance.entry(maintenance.clone()).or_default();
                if let Some((_, server)) = server::owner(named) {
                    touched.server(server, key.time);
                }
                named.insert(key, kind);
            }
            Kind::OutageClosed { outage, .. } | Kind::OutageFaulted { outage, .. } => {
                let named = self.by_outage.entry(outage.clone()).or_default();
                // The fault named here holds from the opening on.
                if let Some((opened, server)) = server::owner(named) {
                    touched.server(server, opened.time.min(key.time));
                }
                named.insert(key, kind);
            }
            Kind::ContractSigned { document } | Kind::ContractAmended { document } => {
                touched.contract(&document.contract, key.time);
                self.by_contract.entry(document.contract.clone()).or_default().insert(key, kind);
            }
            Kind::ContractRenewed { contract, .. }
            | Kind::ContractTerminated { contract }
            | Kind::PriceChanged { contract, .. } => {
                touched.contract(contract, key.time);
                self.by_contract.entry(contract.clone()).or_default().insert(key, kind);
            }
            Kind::WalletGranted(grant) => {
                touched.wallet(&grant.wallet, key.time);
                self.by_wallet.entry(grant.wallet.clone()).or_default().insert(key, kind);
            }
            Kind::WalletDebited(debit) => {
                touched.wallet(&debit.wallet, key.time);
                self.by_wallet.entry(debit.wallet.clone()).or_default().insert(key, kind);
            }
            Kind::WalletExhausted { wallet, .. }
            | Kind::WalletCreditReached { wallet, .. }
            | Kind::WalletRestored(wallet) => {
                touched.wallet(wallet, key.time);
                self.by_wallet.entry(wallet.clone()).or_default().insert(key, kind);
            }
        }
    }

    fn fold_server(&mut self, server: &str, from: Second, changes: &mut Changes) {
        let mut events = self.by_server.get(server).cloned().unwrap_or_default();
        let mut foreign = BTreeMap::new();
        for (key, kind) in self.by_server.get(server).into_iter().flatten() {
            let followers = match kind {
                Kind::LeaseReserved { lease, .. } | Kind::LeaseStarted { lease, .. } => self.by_lease.get(lease),
                Kind::MaintenanceAnnounced { maintenance, .. } | Kind::MaintenanceStarted { maintenance, .. } => {
                    self.by_maintenance.get(maintenance)
                }
                Kind::OutageOpened { outage, .. } => self.by_outage.get(outage),
                _ => None,
            };
            let Some(followers) = followers else { continue };
            match server::owner(followers) {
                Some((_, owner)) if owner == server => {
                    events.extend(
                        followers.iter().filter(|(_, kind)| server::follows(kind)).map(|(k, v)| (k.clone(), v.clone())),
                    );
                }
                Some((_, owner)) => {
                    foreign.insert(key.clone(), owner.to_owned());
                }
                None => {}
            }
        }
        let (mut timeline, verdicts) = server::fold(server, &events, &foreign);
        for lease in &mut timeline.leases {
            self.cut_off(lease);
        }
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

    fn fold_contract(&mut self, contract: &str, from: Second, touched: &mut Touched, changes: &mut Changes) {
        let Some(events) = self.by_contract.get(contract) else { return };
        let (versions, verdicts) = contract::fold(events, &mut self.compiled);
        let earliest = self.record_verdicts(verdicts, from, changes);
        if self.versions(contract) == versions.as_slice() {
            return;
        }
        let wallets = versions.iter().chain(self.versions(contract)).filter_map(Version::wallet);
        let wallets: BTreeSet<WalletKey> = wallets.collect();
        for wallet in wallets {
            if self.wallets.get(&wallet).is_some_and(|known| !known.dry.is_empty()) {
                self.leased_under.get(contract).into_iter().flatten().for_each(|s| touched.server(s, earliest));
            }
            self.prepaid.entry(wallet).or_default().insert(contract.to_owned());
        }
        changes.contracts.insert(contract.to_owned(), earliest);
        if versions.is_empty() {
            self.contracts.remove(contract);
        } else {
            self.contracts.insert(contract.to_owned(), versions);
        }
    }

    fn fold_wallet(&mut self, key: WalletKey, from: Second, touched: &mut Touched, changes: &mut Changes) {
        let Some(events) = self.by_wallet.get(&key) else { return };
        let (wallet, verdicts) = wallet::fold(events);
        let earliest = self.record_verdicts(verdicts, from, changes);
        let known = self.wallets.get(&key);
        let cuts_otherwise = known.is_none_or(|k| (&k.dry, &k.credit_reached) != (&wallet.dry, &wallet.credit_reached));
        if cuts_otherwise {
            for contract in self.prepaid.get(&key).into_iter().flatten() {
                self.leased_under.get(contract).into_iter().flatten().for_each(|s| touched.server(s, earliest));
            }
        }
        changes.wallets.insert(key.clone());
        self.wallets.insert(key, wallet);
    }

    /// A lease is suspended too while its wallet is dry, as far as its contract says so.
    fn cut_off(&self, lease: &mut Lease) {
        let mut suspended = Vec::new();
        for version in self.versions(&lease.contract) {
            let Some((rule, wallet)) = version.terms.prepaid.zip(version.wallet()) else { continue };
            let Some(wallet) = self.wallets.get(&wallet).filter(|wallet| !wallet.dry.is_empty()) else { continue };
            let cut = wallet.cut_off(&lease.contract, rule).into_iter();
            suspended.extend(cut.filter_map(|span| span.intersect(version.span)?.intersect(lease.span)));
        }
        if !suspended.is_empty() {
            suspended.append(&mut lease.suspended);
            lease.suspended = span::union(suspended);
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

/// Files the beginning of a lease, an outage or maintenance. Whoever else began something under this name may have to give it up, or
/// is told another owner.
fn file_beginning(
    named: &mut BTreeMap<EventKey, Kind>,
    by_server: &mut HashMap<String, BTreeMap<EventKey, Kind>>,
    touched: &mut Touched,
    server: String,
    key: EventKey,
    kind: Kind,
) {
    touched.server(&server, key.time);
    for other in named.values().filter_map(server::begins_on) {
        touched.server(other, key.time);
    }
    named.insert(key.clone(), kind.clone());
    by_server.entry(server).or_default().insert(key, kind);
}

/// What has to be folded again, and the earliest second that may differ.
#[derive(Default)]
struct Touched {
    servers: BTreeMap<String, Second>,
    contracts: BTreeMap<String, Second>,
    wallets: BTreeMap<WalletKey, Second>,
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

    fn wallet(&mut self, wallet: &WalletKey, from: Second) {
        let earliest = self.wallets.entry(wallet.clone()).or_insert(FOREVER);
        *earliest = from.min(*earliest);
    }
}
