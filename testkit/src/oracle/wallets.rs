//! Wallets, second by second: what they were given, when they ran dry, who was cut off, and where the money went.
//!
//! When a wallet runs dry follows from its grants and from what its leases burn by what is on record; telemetry has no say in it. What
//! is booked is what was really billed, by the minute.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::history::{Contract, CountsFrom, Given, History, Lease};
use super::{OracleError, as_text};
use crate::fleet::{Event, GrantKind, OnExpiry, Prepaid};

/// What is true of a renter's wallet in a currency. Seconds are since 1970, amounts in units of 10⁻⁹.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalletTruth {
    pub renter: String,
    pub currency: String,
    pub dry: Vec<Dry>,
    /// What comes after this second is not told.
    pub until: i64,
    pub cut_off: Vec<CutOff>,
    /// What was paid in, by the account that it came from (less what went back there when it expired).
    pub sources: Vec<SourceAmount>,
    #[serde(with = "as_text")]
    pub paid_in_e9: i128,
    /// What was used of that.
    #[serde(with = "as_text")]
    pub consumed_e9: i128,
    /// What expired of it to the platform.
    #[serde(with = "as_text")]
    pub expired_e9: i128,
    /// What expired of it and went back.
    #[serde(with = "as_text")]
    pub returned_e9: i128,
    /// What is left of it.
    #[serde(with = "as_text")]
    pub left_e9: i128,
    /// What was promised, and what was used of that.
    #[serde(with = "as_text")]
    pub promised_e9: i128,
    #[serde(with = "as_text")]
    pub promotional_e9: i128,
    /// What was used and could not be carried.
    #[serde(with = "as_text")]
    pub receivable_e9: i128,
}

/// A time in which a wallet could not pay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dry {
    pub exhausted: i64,
    /// None: to the end.
    pub restored: Option<i64>,
    /// When as much was owed as may be, by contract.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub credit_reached: BTreeMap<String, i64>,
}

/// Seconds `[from, to)` in which a lease was suspended because its wallet was dry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CutOff {
    pub lease: String,
    pub from: i64,
    pub to: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceAmount {
    pub source: String,
    #[serde(with = "as_text")]
    pub amount_e9: i128,
}

/// Renter and currency.
pub(super) type Key = (String, String);

/// What was billed, by the minute.
pub(super) type Uses = BTreeMap<Key, BTreeMap<i64, i128>>;

/// All wallets of a history, lived through to a second.
#[derive(Default)]
pub(super) struct Wallets {
    dry: BTreeMap<Key, Vec<Dry>>,
    /// Spans in which a contract's leases are cut off, in order.
    cut: BTreeMap<String, Vec<(i64, i64)>>,
}

impl Wallets {
    pub(super) fn of(history: &History, until: i64) -> Result<Self, OracleError> {
        let mut wallets = Wallets::default();
        for key in keys(history) {
            let Life { cut, dry, .. } = Life::new(history, &key)?.live(until);
            wallets.cut.extend(cut);
            wallets.dry.insert(key, dry);
        }
        Ok(wallets)
    }

    /// When the leases of a contract are cut off.
    pub(super) fn cut(&self, contract: &str) -> &[(i64, i64)] {
        self.cut.get(contract).map_or(&[], Vec::as_slice)
    }

    /// What is true of all of them, once it is known what was billed.
    pub(super) fn settle(self, history: &History, uses: &Uses, until: i64) -> Vec<WalletTruth> {
        let mut all = Vec::new();
        for (key, dry) in self.dry {
            let mut truth = WalletTruth { dry, ..settle(given(history, &key), uses.get(&key), until) };
            for lease in leases(history, &key) {
                let end = lease.to.unwrap_or(until);
                let cut = self.cut.get(&lease.contract).into_iter().flatten();
                let within = cut.map(|&(from, to)| (from.max(lease.from), to.min(end))).filter(|(from, to)| from < to);
                truth.cut_off.extend(within.map(|(from, to)| CutOff { lease: lease.id.clone(), from, to }));
            }
            truth.cut_off.sort();
            (truth.renter, truth.currency) = key;
            all.push(truth);
        }
        all
    }
}

/// Every wallet that was given something or that a contract burns.
fn keys(history: &History) -> BTreeSet<Key> {
    let prepaid = history.contracts.values().filter(|contract| contract.prepaid.is_some()).map(Contract::wallet);
    prepaid.chain(history.grants.iter().map(|given| given.wallet.clone())).collect()
}

/// A wallet's grants in the order in which they are used: by priority, then earliest expiry, then oldest, then what nobody paid for.
fn given(history: &History, key: &Key) -> Vec<Given> {
    let mut grants: Vec<Given> = history.grants.iter().filter(|given| given.wallet == *key).cloned().collect();
    grants.sort_by_key(|given| {
        (given.priority, given.to.unwrap_or(i64::MAX), given.from, given.kind != GrantKind::Promotional)
    });
    grants
}

fn leases<'a>(history: &'a History, key: &'a Key) -> impl Iterator<Item = &'a Lease> {
    history.leases.iter().filter(move |lease| {
        let contract = &history.contracts[&lease.contract];
        contract.prepaid.is_some() && contract.wallet() == *key
    })
}

/// A wallet on its way from second to second.
struct Life<'a> {
    history: &'a History,
    leases: Vec<&'a Lease>,
    contracts: BTreeMap<&'a str, &'a Contract>,
    grants: Vec<Given>,
    /// Since it ran dry for the last time.
    owed: i128,
    /// What the second cost in which it ran dry for the last time.
    lacked: i128,
    restored: Option<i64>,
    dry: Vec<Dry>,
    cut: BTreeMap<String, Vec<(i64, i64)>>,
}

impl<'a> Life<'a> {
    fn new(history: &'a History, key: &'a Key) -> Result<Self, OracleError> {
        let all = history.contracts.iter().filter(|(_, it)| it.prepaid.is_some() && it.wallet() == *key);
        let contracts: BTreeMap<&str, &Contract> = all.map(|(name, contract)| (name.as_str(), contract)).collect();
        for (name, contract) in &contracts {
            contract.check_prepaid(name)?;
        }
        Ok(Life {
            history,
            leases: leases(history, key).collect(),
            contracts,
            grants: given(history, key),
            owed: 0,
            lacked: 0,
            restored: None,
            dry: Vec::new(),
            cut: BTreeMap::new(),
        })
    }

    fn live(mut self, until: i64) -> Self {
        let first = self.leases.iter().map(|lease| lease.from).min().unwrap_or(until);
        for second in first..until {
            self.second(second);
        }
        for span in self.cut.values_mut().flatten() {
            span.1 = span.1.min(until);
        }
        self
    }

    fn second(&mut self, second: i64) {
        let since = self.dry.last().filter(|dry| dry.restored.is_none()).map(|dry| dry.exhausted);
        if since.is_some_and(|since| since < second && self.is_given(second)) {
            self.restore(second);
        }
        if self.is_dry() {
            self.cut_off(second);
        } else if self.restored != Some(second) && self.cost(second) > self.available(second) {
            self.dry.push(Dry { exhausted: second, restored: None, credit_reached: BTreeMap::new() });
            (self.owed, self.lacked) = (0, self.cost(second));
            self.cut_off(second);
        }
        let cost = self.cost(second);
        let paid = pay(&mut self.grants, second, cost);
        self.owed += cost - paid;
    }

    fn is_dry(&self) -> bool {
        self.dry.last().is_some_and(|dry| dry.restored.is_none())
    }

    /// Whether a grant begins now with which it could have paid what it lacked.
    fn is_given(&self, second: i64) -> bool {
        self.grants.iter().any(|given| given.from == second) && self.available(second) >= self.lacked
    }

    fn restore(&mut self, second: i64) {
        self.restored = Some(second);
        if let Some(dry) = self.dry.last_mut() {
            dry.restored = Some(second);
        }
        for spans in self.cut.values_mut() {
            if let Some(last) = spans.last_mut() {
                last.1 = last.1.min(second);
            }
        }
    }

    /// Cuts off what must not go on into this second.
    fn cut_off(&mut self, second: i64) {
        let Some(dry) = self.dry.last() else { return };
        let since = dry.exhausted;
        let names: Vec<&str> = self.contracts.keys().copied().filter(|name| !self.is_cut(name, second)).collect();
        for name in names {
            let is_over = match &self.contracts[name].prepaid {
                None => false,
                Some(Prepaid::Suspend) => true,
                Some(Prepaid::Grace { grace_s }) => second >= since + grace_s,
                Some(Prepaid::Credit { .. }) => {
                    let lacking = (self.cost(second) - self.available(second)).max(0);
                    self.owed + lacking > self.contracts[name].credit_limit_e9
                }
            };
            if !is_over {
                continue;
            }
            self.cut.entry(name.to_owned()).or_default().push((second, i64::MAX));
            if let (Some(Prepaid::Credit { .. }), Some(dry)) = (&self.contracts[name].prepaid, self.dry.last_mut()) {
                dry.credit_reached.insert(name.to_owned(), second);
            }
        }
    }

    fn is_cut(&self, contract: &str, second: i64) -> bool {
        holds(self.cut.get(contract).map_or(&[], Vec::as_slice), second)
    }

    /// What its leases burn in a second, but for those that are cut off.
    fn cost(&self, second: i64) -> i128 {
        let going = self.leases.iter().filter(|lease| !self.is_cut(&lease.contract, second));
        going.map(|lease| burn(self.history, lease, second)).sum()
    }

    fn available(&self, second: i64) -> i128 {
        self.grants.iter().filter(|given| given.is_usable(second)).map(|given| given.left_e9).sum()
    }
}

pub(super) fn holds(spans: &[(i64, i64)], second: i64) -> bool {
    spans.iter().any(|&(from, to)| from <= second && second < to)
}

/// What a lease burns in a second by what was known in it, were every GPU heard.
fn burn(history: &History, lease: &Lease, second: i64) -> i128 {
    if second < lease.from || lease.to.is_some_and(|to| to <= second) || lease.is_suspended(second) {
        return 0;
    }
    let server = &history.servers[&lease.server];
    let slots = lease.slots.iter().filter(|&&slot| server.burns(slot, second)).count();
    history.contracts[&lease.contract].price_of_second_e9(second) * slots as i128
}

/// Takes an amount from the grants that can be used in a second, as far as it goes; returns how far.
fn pay(grants: &mut [Given], second: i64, amount_e9: i128) -> i128 {
    let mut open = amount_e9;
    for given in grants.iter_mut().filter(|given| given.is_usable(second)) {
        let part = open.min(given.left_e9);
        given.left_e9 -= part;
        open -= part;
    }
    amount_e9 - open
}

/// Where the money went: the use of a minute is taken from what can be used in its last second.
fn settle(mut grants: Vec<Given>, uses: Option<&BTreeMap<i64, i128>>, until: i64) -> WalletTruth {
    let mut truth = WalletTruth { until, ..WalletTruth::default() };
    for (minute, &amount) in uses.into_iter().flatten() {
        truth.receivable_e9 += amount - pay(&mut grants, minute * 60 + 59, amount);
    }
    let mut sources: BTreeMap<String, i128> = BTreeMap::new();
    for given in grants {
        let (used, left) = (given.amount_e9 - given.left_e9, given.left_e9);
        if given.kind == GrantKind::Promotional {
            truth.promised_e9 += given.amount_e9;
            truth.promotional_e9 += used;
            continue;
        }
        truth.paid_in_e9 += given.amount_e9;
        truth.consumed_e9 += used;
        let source = sources.entry(given.source).or_default();
        *source += given.amount_e9;
        match (given.to.is_some_and(|to| to <= until), given.on_expiry) {
            (false, _) => truth.left_e9 += left,
            (true, OnExpiry::Income) => truth.expired_e9 += left,
            (true, OnExpiry::Back) => {
                truth.returned_e9 += left;
                *source -= left;
            }
        }
    }
    truth.sources = sources.into_iter().map(|(source, amount_e9)| SourceAmount { source, amount_e9 }).collect();
    truth
}

/// What a wallet's leases burn in each of the seconds `[from, to)`, were none of them ever cut off.
pub(crate) fn burn_ahead(events: &[Event], wallet: &Key, from: i64, to: i64) -> Result<Vec<i128>, OracleError> {
    let history = History::of(events.to_vec(), &CountsFrom::new())?;
    let life = Life::new(&history, wallet)?;
    Ok((from..to).map(|second| life.cost(second)).collect())
}

/// When a wallet would be dry up to a second.
pub(crate) fn dry_ahead(events: &[Event], wallet: &Key, to: i64) -> Result<Vec<Dry>, OracleError> {
    let history = History::of(events.to_vec(), &CountsFrom::new())?;
    Ok(Life::new(&history, wallet)?.live(to).dry)
}
