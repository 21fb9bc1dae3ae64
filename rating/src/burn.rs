//! What the allocated time of a wallet's contracts costs up to a second: the burn that says when the wallet runs dry.
//!
//! It is a function of lifecycle history alone (leases, outages, maintenance, suspensions, terms). Telemetry has no say: every leased
//! second is taken as one with a reading. So it can be worked out ahead, and to the same second by whoever does it. Charges by what was
//! observed, drawn or used, and what falls due at closing, are outside of it.
//!
//! A second burns by what was known in it: the fault that an outage was said to have while it was open, maintenance as announced until
//! it begins. What is learned later changes the bill and not the burn, or a cut of access would depend on when it was worked out.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use hydrometer_schemas::contract::Basis;
use hydrometer_schemas::lifecycle::WalletKey;
use hydrometer_schemas::time::{FOREVER, Minute, SECONDS_PER_HOUR, Second, hour_floor};

use crate::classes::Masks;
use crate::downtime::Evidence;
use crate::history::{History, Lease, ServerTimeline, SlotRecord, Span, Version};
use crate::keys::{Cell, CellKey, StateKey};
use crate::money::Amount;
use crate::quantities::{Quantity, QuantityKey, quantities, resource};
use crate::rate::{RateError, Rates, State, amounts};
use crate::stepped::{Pieces, stepped};
use crate::terms::MICRO;

/// Every second has a reading, and what is on record is what was known in it.
struct Present;

impl Evidence for Present {
    fn record<'a>(&self, server: &'a ServerTimeline, slot: u32) -> Option<&'a SlotRecord> {
        server.record_known_then(slot)
    }
    /// Nobody is silent, not even where no GPU is known that could speak.
    fn unreachable<'a>(&self, _: &'a ServerTimeline) -> &'a [Span] {
        &[]
    }
    fn masks(&self, _: &str, _: Minute) -> Masks {
        let all = (1 << 60) - 1;
        Masks { present: all, busy: all }
    }
    fn fatal(&self, _: &str) -> &[Second] {
        &[]
    }
    fn energy(&self, _: &str, _: Span) -> i64 {
        0
    }
    fn memory(&self, _: &str, _: Minute) -> Option<i64> {
        None
    }
}

/// The burn of one wallet, from its first lease to a second. It only goes forward; a copy can be sent ahead.
#[derive(Debug, Clone)]
pub struct Burn {
    wallet: WalletKey,
    until: Second,
    states: BTreeMap<StateKey, State>,
    /// What each lease and slot used before minimum and step, by state (of no period).
    raw: BTreeMap<(StateKey, String), Pieces>,
    costs: BTreeMap<StateKey, Amount>,
    cost: Amount,
}

impl Burn {
    /// Nothing is burned before the first lease begins; `None` while there is none.
    pub fn begin(history: &History, wallet: &WalletKey) -> Option<Burn> {
        let first = leases(history, wallet).map(|(_, lease, _)| lease.span.from).min()?;
        Some(Burn {
            wallet: wallet.clone(),
            until: first,
            states: BTreeMap::new(),
            raw: BTreeMap::new(),
            costs: BTreeMap::new(),
            cost: Amount::ZERO,
        })
    }

    pub fn until(&self) -> Second {
        self.until
    }

    /// What it comes to, rounded like the totals that the rating will book.
    pub fn cost(&self) -> Amount {
        self.cost
    }

    /// Whether a lease goes on after the second that it has come to.
    pub fn goes_on(&self, history: &History) -> bool {
        leases(history, &self.wallet).any(|(_, lease, _)| lease.span.to > self.until)
    }

    /// Goes on to a second.
    ///
    /// # Errors
    /// What rating says: a rate is missing, or a sum does not fit exact arithmetic.
    pub fn advance(&mut self, history: &History, until: Second) -> Result<(), RateError> {
        let wallet = self.wallet.clone();
        let mut touched: BTreeSet<StateKey> = BTreeSet::new();
        while self.until < until {
            // Hours, since commitments may be by the hour.
            let to = until.min(hour_floor(self.until) + SECONDS_PER_HOUR);
            let window = Span { from: self.until, to };
            for (server, lease, versions) in leases(history, &wallet) {
                let server = known(server, versions);
                for (key, quantity) in quantities(&server, lease, versions, window, &Present).0 {
                    touched.extend(self.add(&server, lease, versions, window, key, quantity));
                }
            }
            self.until = to;
        }
        for key in touched {
            let cost = self.cost_of(history, &key)?;
            let before = self.costs.insert(key, cost).unwrap_or(Amount::ZERO);
            self.cost = self.cost.checked_add(cost)?.checked_sub(before)?;
        }
        Ok(())
    }

    /// The state that a quantity changes, unless the burn is not concerned.
    fn add(
        &mut self,
        server: &ServerTimeline,
        lease: &Lease,
        versions: &[Version],
        window: Span,
        key: QuantityKey,
        quantity: Quantity,
    ) -> Option<StateKey> {
        let version = versions.iter().find(|v| v.span.from == key.cell.version_from)?;
        let charge = version.terms.charges.get(&key.charge)?;
        if !matches!(charge.basis, Basis::Allocated | Basis::Slices) {
            return None;
        }
        let state = StateKey {
            contract: lease.contract.clone(),
            renter: version.terms.renter.clone(),
            currency: version.terms.currency.clone(),
            charge: key.charge,
            period: if charge.is_hourly() { hour_floor(window.from) } else { key.period },
            resource: resource(charge, &server.server, &lease.lease, key.slot),
        };
        let cell = if charge.step.is_some() {
            let of = (StateKey { period: 0, ..state.clone() }, format!("{}/{}", lease.lease, key.slot));
            self.raw.entry(of).or_default().entry((state.period, key.cell)).or_default()
        } else {
            self.states.entry(state.clone()).or_default().entry(key.cell).or_default()
        };
        cell.billed += i128::from(quantity.billed) * MICRO;
        Some(state)
    }

    /// What a state costs, of the versions that burn this wallet.
    fn cost_of(&self, history: &History, key: &StateKey) -> Result<Amount, RateError> {
        let mut state = self.states.get(key).cloned().unwrap_or_default();
        let of = StateKey { period: 0, ..key.clone() };
        let lease_slots = self.raw.range((of.clone(), String::new())..);
        for (_, pieces) in lease_slots.take_while(|((other, _), _)| *other == of) {
            for ((period, cell_key), counted) in stepped(pieces, history as &dyn Rates)? {
                if period == key.period {
                    let cell: &mut Cell = state.entry(cell_key).or_default();
                    cell.billed += counted.billed;
                }
            }
        }
        let versions = history.versions(&key.contract);
        let burns = |cell: &CellKey| {
            let version = versions.iter().find(|version| version.span.from == cell.version_from);
            version.and_then(Version::wallet).as_ref() == Some(&self.wallet)
        };
        let mut cost = Amount::ZERO;
        for (cell, amount) in amounts(&state, history)? {
            if burns(&cell) {
                cost = cost.checked_add(amount.renter)?;
            }
        }
        Ok(cost)
    }
}

/// A server that is not registered yet burns as it will be rated once it is; whose it is makes no difference to the renter.
fn known<'a>(server: &'a ServerTimeline, versions: &[Version]) -> Cow<'a, ServerTimeline> {
    if server.supplier.is_some() {
        return Cow::Borrowed(server);
    }
    let named = versions.iter().flat_map(|version| version.terms.suppliers.keys()).next();
    Cow::Owned(ServerTimeline { supplier: named.cloned(), ..server.clone() })
}

/// The leases under contracts that burn a wallet, or ever did.
fn leases<'a>(
    history: &'a History,
    wallet: &WalletKey,
) -> impl Iterator<Item = (&'a ServerTimeline, &'a Lease, &'a [Version])> {
    let contracts = history.prepaid_under(wallet);
    contracts.flat_map(move |contract| {
        let versions = history.versions(contract);
        let servers = history.servers_under(contract).filter_map(|server| history.server(server));
        servers.flat_map(move |server| {
            let leases = server.leases.iter().filter(move |lease| lease.contract == contract);
            leases.filter(|lease| lease.span.from < FOREVER).map(move |lease| (server, lease, versions))
        })
    })
}
