//! One pass over the events of a wallet, in their own order: what it was given, what left it otherwise than by use, and when it was dry.

use std::collections::BTreeMap;

use hydrometer_schemas::lifecycle::{EventKey, GrantKind, Kind, OnExpiry, WalletGrant, nanos};
use hydrometer_schemas::time::{FOREVER, SECONDS_PER_MINUTE, Second};

use super::Verdict;
use super::span::{Dated, Span};
use crate::money::Amount;
use crate::terms::OnExhaustion;

/// A renter's money in one currency.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wallet {
    /// By the second from which they count, promotional before paid, then by their events.
    pub grants: Vec<Grant>,
    pub debits: Vec<Debit>,
    /// Sorted, disjoint.
    pub dry: Vec<Dry>,
    /// By contract: the seconds in which as much was owed as may be.
    pub credit_reached: BTreeMap<String, Vec<Second>>,
}

/// From the second that it could not pay to the one from which it could again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dry {
    pub span: Span,
    /// What that first second would have cost.
    pub second_costs: Amount,
}

/// Money, or a promise of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The event that gave it.
    pub key: EventKey,
    pub name: String,
    pub amount: Amount,
    pub kind: GrantKind,
    /// The lower, the sooner it is used.
    pub priority: i32,
    /// When it can be used; never before it was recorded.
    pub span: Span,
    pub on_expiry: OnExpiry,
    pub source: String,
    /// The operation of the ledger that made it, where it was not the event.
    pub made_by: Option<String>,
}

/// Money that left otherwise than by use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Debit {
    pub key: EventKey,
    pub name: String,
    pub amount: Amount,
    /// The name of the grant that it is taken from.
    pub grant: Option<String>,
    pub at: Second,
}

impl Dated for Dry {
    fn span(&self) -> Span {
        self.span
    }
}

impl Wallet {
    /// The seconds at which the set of grants that can be used changes, sorted. Use is counted by the intervals between them.
    pub fn edges(&self) -> Vec<Second> {
        let mut edges: Vec<Second> = self.grants.iter().flat_map(|grant| [grant.span.from, grant.span.to]).collect();
        edges.retain(|edge| *edge < FOREVER);
        edges.sort_unstable();
        edges.dedup();
        edges
    }

    /// When leases under a contract are cut off.
    pub fn cut_off(&self, contract: &str, rule: OnExhaustion) -> Vec<Span> {
        let reached = self.credit_reached.get(contract).map_or(&[][..], Vec::as_slice);
        let begins = |dry: Span| match rule {
            OnExhaustion::Suspend => Some(dry.from),
            OnExhaustion::Grace(seconds) => Some(dry.from.saturating_add(seconds)),
            OnExhaustion::Credit(_) => reached.iter().copied().find(|second| dry.holds(*second)),
        };
        let cut = self.dry.iter().filter_map(|dry| Some(Span { from: begins(dry.span)?, to: dry.span.to }));
        cut.filter(|span| span.from < span.to).collect()
    }
}

/// The beginning of the interval between edges that a second lies in; the beginning of time before the first edge.
pub fn interval_of(edges: &[Second], second: Second) -> Second {
    let after = edges.partition_point(|edge| *edge <= second);
    after.checked_sub(1).and_then(|last| edges.get(last)).copied().unwrap_or(0)
}

/// Folds a wallet.
pub(super) fn fold(events: &BTreeMap<EventKey, Kind>) -> (Wallet, BTreeMap<EventKey, Verdict>) {
    let mut wallet = Wallet::default();
    let verdicts = events.iter().map(|(key, kind)| (key.clone(), wallet.apply(key, kind).err())).collect();
    let order = |grant: &Grant| (grant.span.from, grant.kind != GrantKind::Promotional);
    wallet.grants.sort_by(|a, b| (order(a), &a.key).cmp(&(order(b), &b.key)));
    wallet.debits.sort_by(|a, b| (a.at, &a.key).cmp(&(b.at, &b.key)));
    (wallet, verdicts)
}

impl Wallet {
    fn apply(&mut self, key: &EventKey, kind: &Kind) -> Result<(), String> {
        match kind {
            Kind::WalletGranted(given) => {
                self.grants.push(grant(key, given)?);
                Ok(())
            }
            Kind::WalletDebited(debit) => {
                self.debits.push(Debit {
                    key: key.clone(),
                    name: debit.debit.clone(),
                    amount: nanos(&debit.amount).map(Amount::from_scaled).ok_or("its amount cannot be kept")?,
                    grant: debit.grant.clone(),
                    at: debit.counts_from.unwrap_or(key.time).max(key.time),
                });
                Ok(())
            }
            Kind::WalletExhausted { second_costs, .. } => match self.dry.last() {
                Some(last) if last.span.to == FOREVER => Err("the wallet is exhausted already".into()),
                _ => {
                    let second_costs =
                        nanos(second_costs).map(Amount::from_scaled).ok_or("its amount cannot be kept")?;
                    self.dry.push(Dry { span: Span { from: key.time, to: FOREVER }, second_costs });
                    Ok(())
                }
            },
            Kind::WalletCreditReached { contract, .. } => {
                self.credit_reached.entry(contract.clone()).or_default().push(key.time);
                Ok(())
            }
            Kind::WalletRestored(_) => match self.dry.last_mut().filter(|last| last.span.to == FOREVER) {
                Some(last) => {
                    last.span.to = key.time;
                    Ok(())
                }
                None => Err("the wallet is not exhausted".into()),
            },
            _ => Err("not an event of a wallet".into()),
        }
    }
}

/// When a grant ends of which an end is told: the minute in which it expires is its last one whole, so that no window of use is cut by it.
pub fn end_of_minute(expires: Second) -> Second {
    expires.saturating_add(SECONDS_PER_MINUTE - 1) / SECONDS_PER_MINUTE * SECONDS_PER_MINUTE
}

fn grant(key: &EventKey, given: &WalletGrant) -> Result<Grant, String> {
    let from = given.counts_from.unwrap_or(key.time).max(key.time);
    let to = given.expires.map_or(FOREVER, end_of_minute);
    if to <= from {
        return Err("it expires before it counts".into());
    }
    Ok(Grant {
        key: key.clone(),
        name: given.grant.clone(),
        amount: nanos(&given.amount).map(Amount::from_scaled).ok_or("its amount cannot be kept")?,
        kind: given.kind,
        priority: given.priority,
        span: Span { from, to },
        on_expiry: given.on_expiry,
        source: given.source.clone(),
        made_by: given.made_by.clone(),
    })
}
