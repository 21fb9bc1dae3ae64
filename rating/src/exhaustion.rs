//! The seconds in which a wallet runs dry and can pay again: pure functions, in event time, of its grants and of the allocated burn.
//!
//! A wallet is carried forward from its first lease on. Between the stops at which anything is given, taken or expires, its burn is
//! paid from the grants that can be used, by priority, earliest expiry, earliest start, promotional before paid. It is exhausted in the
//! first second that it cannot pay whole; what its contracts say happens then. It is restored when it can pay that second. Each of these
//! becomes an event as soon as lifecycle time has passed it, and from then on it is a fact: what is learned late moves no cut of access
//! that has been, it only counts from then on.

use hydrometer_schemas::contract::Decimal;
use hydrometer_schemas::lifecycle::{GrantKind, Kind, WalletKey};
use hydrometer_schemas::time::{FOREVER, SECONDS_PER_HOUR, Second, hour_floor};

use crate::burn::Burn;
use crate::history::span::within;
use crate::history::{Debit, Dry, Grant, History, Span, Version, Wallet};
use crate::money::Amount;
use crate::rate::RateError;
use crate::terms::OnExhaustion;

/// A wallet carried forward to a second.
#[derive(Debug, Clone)]
pub struct Purse {
    key: WalletKey,
    at: Second,
    burn: Burn,
    /// What is left of each grant, in the wallet's order; of one that does not count yet, all of it.
    left: Vec<Amount>,
    /// Debits that were taken.
    debited: usize,
    /// While it is dry: what could not be paid since.
    owed: Amount,
}

/// Something that has to be recorded before time goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transition {
    pub at: Second,
    pub kind: Kind,
}

impl Purse {
    /// `None` while no lease burns it.
    pub fn begin(history: &History, key: &WalletKey) -> Option<Purse> {
        let burn = Burn::begin(history, key)?;
        Some(Purse { key: key.clone(), at: burn.until(), burn, left: Vec::new(), debited: 0, owed: Amount::ZERO })
    }

    pub fn at(&self) -> Second {
        self.at
    }

    /// Goes on until something has to be recorded, or to `until`. Nothing is recorded before `not_before`: that time is past.
    ///
    /// After a transition, insert its event into `history` and call it again.
    ///
    /// # Errors
    /// What rating says of the burn.
    pub fn next(
        &mut self,
        history: &History,
        not_before: Second,
        until: Second,
    ) -> Result<Option<Transition>, RateError> {
        let nothing = Wallet::default();
        let wallet = history.wallet(&self.key).unwrap_or(&nothing);
        while self.at < until {
            self.settle(wallet)?;
            let dry = dry_at(wallet, self.at);
            if let Some(Dry { span, second_costs }) = dry
                && span.to == FOREVER
                && self.at > span.from
                && self.at >= not_before
                && self.usable(wallet)? >= second_costs
            {
                return Ok(Some(Transition { at: self.at, kind: Kind::WalletRestored(self.key.clone()) }));
            }
            if !self.burn.goes_on(history) && dry.is_none() {
                break;
            }
            let stop = self.next_stop(history, wallet, not_before, until);
            let mut ahead = self.clone();
            let unpaid = ahead.pay(history, wallet, stop)?;
            let found = match dry {
                None if unpaid > Amount::ZERO => self.exhausted(history, wallet, not_before, stop)?,
                Some(Dry { span, .. }) if span.to == FOREVER => {
                    self.credit_reached(history, wallet, span, &ahead, not_before)?
                }
                _ => None,
            };
            match found {
                Some(transition) => {
                    self.pay(history, wallet, transition.at)?;
                    return Ok(Some(transition));
                }
                None => *self = ahead,
            }
        }
        Ok(None)
    }

    /// Takes what counts from this second on, and lets expire what expires in it.
    fn settle(&mut self, wallet: &Wallet) -> Result<(), RateError> {
        let known = self.left.len();
        self.left.extend(wallet.grants.iter().skip(known).map(|grant| grant.amount));
        while let Some(debit) = wallet.debits.get(self.debited).filter(|debit| debit.at <= self.at) {
            let mut rest = debit.amount;
            // What was billed by then may be less than what burned: what it took is gone, wherever it is missing here.
            let usable = order(wallet, |grant| grant.span.holds(debit.at));
            for n in order(wallet, |grant| is_debited(grant, debit)).into_iter().chain(usable) {
                rest = self.take(n, rest)?;
            }
            self.debited += 1;
        }
        Ok(())
    }

    /// The grants that can be used now.
    fn active(&self, wallet: &Wallet) -> Vec<usize> {
        order(wallet, |grant| grant.span.holds(self.at))
    }

    fn usable(&self, wallet: &Wallet) -> Result<Amount, RateError> {
        let left = self.active(wallet).into_iter().filter_map(|n| self.left.get(n).copied());
        left.into_iter().try_fold(Amount::ZERO, |sum, left| Ok(sum.checked_add(left)?))
    }

    /// Takes as much of a grant as there is, and says what is still to be paid.
    fn take(&mut self, grant: usize, amount: Amount) -> Result<Amount, RateError> {
        let Some(left) = self.left.get_mut(grant) else { return Ok(amount) };
        let taken = amount.min(*left);
        *left = left.checked_sub(taken)?;
        Ok(amount.checked_sub(taken)?)
    }

    /// The next second at which anything else than burn happens; an hour ahead at most.
    fn next_stop(&self, history: &History, wallet: &Wallet, not_before: Second, until: Second) -> Second {
        let edges = wallet.grants.iter().flat_map(|grant| [grant.span.from, grant.span.to]);
        let debits = wallet.debits.iter().map(|debit| debit.at);
        let facts = wallet.dry.iter().flat_map(|dry| [dry.span.from, dry.span.to]);
        let hour = hour_floor(self.at) + SECONDS_PER_HOUR;
        // What a contract says on exhaustion is what its version in force says.
        let versions = history.prepaid_under(&self.key).flat_map(|contract| history.versions(contract));
        let versions = versions.flat_map(|version| [version.span.from, version.span.to]);
        let stops = edges.chain(debits).chain(facts).chain(versions).chain([hour, until, not_before]);
        stops.filter(|stop| *stop > self.at).min().unwrap_or(until)
    }

    /// Pays the burn up to a second before which nothing else happens; gives what could not be paid.
    fn pay(&mut self, history: &History, wallet: &Wallet, to: Second) -> Result<Amount, RateError> {
        let before = self.burn.cost();
        self.burn.advance(history, to)?;
        let mut rest = self.burn.cost().checked_sub(before)?;
        for n in self.active(wallet) {
            rest = self.take(n, rest)?;
        }
        if dry_at(wallet, self.at).is_some() {
            self.owed = self.owed.checked_add(rest)?;
        } else {
            self.owed = Amount::ZERO;
        }
        self.at = to;
        Ok(rest)
    }

    /// The first second that cannot be paid whole, up to a stop by which some cannot. One that has just been restored has a second.
    fn exhausted(
        &self,
        history: &History,
        wallet: &Wallet,
        not_before: Second,
        stop: Second,
    ) -> Result<Option<Transition>, RateError> {
        let restored = wallet.dry.last().map_or(Second::MIN, |dry| dry.span.to);
        let first = not_before.max(restored.saturating_add(1));
        let dry = first_second(self.at, stop, |second| {
            let mut ahead = self.clone();
            Ok(ahead.pay(history, wallet, second + 1)? > Amount::ZERO)
        })?;
        let at = dry.max(first);
        if at >= stop {
            // It shows again behind the stop.
            return Ok(None);
        }
        let mut ahead = self.clone();
        ahead.pay(history, wallet, at)?;
        let before = ahead.burn.cost();
        ahead.burn.advance(history, at + 1)?;
        let second_costs = ahead.burn.cost().checked_sub(before)?;
        if second_costs <= Amount::ZERO {
            return Ok(None);
        }
        let second_costs = Decimal(second_costs.to_string());
        Ok(Some(Transition { at, kind: Kind::WalletExhausted { wallet: self.key.clone(), second_costs } }))
    }

    /// The first second with which more would be owed than a contract in force allows.
    fn credit_reached(
        &self,
        history: &History,
        wallet: &Wallet,
        dry: Span,
        ahead: &Purse,
        not_before: Second,
    ) -> Result<Option<Transition>, RateError> {
        let mut reached: Option<(Second, String)> = None;
        for contract in history.prepaid_under(&self.key) {
            let in_force = history.versions(contract).iter().find(|v: &&Version| v.span.holds(self.at));
            let Some(OnExhaustion::Credit(limit)) = in_force.and_then(|v| v.terms.prepaid) else { continue };
            let is_known = wallet.credit_reached.get(contract).is_some_and(|s| s.iter().any(|s| dry.holds(*s)));
            if is_known || ahead.owed <= limit {
                continue;
            }
            let second = first_second(self.at, ahead.at, |second| {
                let mut ahead = self.clone();
                ahead.pay(history, wallet, second + 1)?;
                Ok(ahead.owed > limit)
            })?;
            let found = (second.max(not_before), contract.to_owned());
            if found.0 < ahead.at && reached.as_ref().is_none_or(|known| found < *known) {
                reached = Some(found);
            }
        }
        Ok(reached.map(|(at, contract)| {
            let kind = Kind::WalletCreditReached { wallet: self.key.clone(), contract };
            Transition { at, kind }
        }))
    }
}

/// The places of some grants, in the order in which they are used.
fn order(wallet: &Wallet, of: impl Fn(&Grant) -> bool) -> Vec<usize> {
    let mut order: Vec<(usize, &Grant)> = wallet.grants.iter().enumerate().filter(|(_, grant)| of(grant)).collect();
    // Those of a wallet are sorted by what else decides.
    order.sort_by_key(|(_, grant)| (grant.priority, grant.span.to));
    order.into_iter().map(|(n, _)| n).collect()
}

/// A named grant may not have begun; otherwise it is paid money that can be used.
fn is_debited(grant: &Grant, debit: &Debit) -> bool {
    match &debit.grant {
        Some(name) => grant.name == *name && debit.at < grant.span.to,
        None => grant.kind != GrantKind::Promotional && grant.span.holds(debit.at),
    }
}

fn dry_at(wallet: &Wallet, second: Second) -> Option<Dry> {
    within(&wallet.dry, Span { from: second, to: second + 1 }).next().map(|(_, dry)| *dry)
}

/// The first second in `[from, to)` of which something holds that holds of every later one; it holds of the last one.
fn first_second(
    from: Second,
    to: Second,
    holds: impl Fn(Second) -> Result<bool, RateError>,
) -> Result<Second, RateError> {
    let (mut low, mut high) = (from, to - 1);
    while low < high {
        let middle = low + (high - low) / 2;
        if holds(middle)? {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    Ok(low)
}
