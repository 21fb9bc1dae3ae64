//! Wallets as time passes: who runs dry, who can pay again, and how that becomes events.

use std::collections::BTreeMap;

use hydrometer_rating::exhaustion::Purse;
use hydrometer_rating::history::{Changes, History};
use hydrometer_schemas::lifecycle::{Event, EventKey, WalletKey};
use hydrometer_schemas::time::{Second, show_second};

use crate::derive::touched_contracts;
use crate::store::lifecycle::{Fold, LifecycleChanges};

/// The source of events that are derived from wallets.
pub const WALLETS: &str = "hydrometer.wallets";

/// How far ahead it is looked when lifecycle time ends (the log of files that were read to their end): 62 days.
const AHEAD_S: i64 = 62 * 86_400;

/// Wallets carried forward to lifecycle time, so that each second is burned once. They only save work: what they hold follows from
/// the history.
#[derive(Debug, Default)]
pub struct Purses {
    /// The timeline version that they follow from.
    version: i64,
    by_wallet: BTreeMap<WalletKey, Purse>,
}

/// The fold of a lifecycle commit.
pub struct Folding<'a> {
    pub history: &'a mut History,
    pub purses: &'a mut Purses,
    /// The version that the history has; moves on with it.
    pub version: &'a mut i64,
}

impl Fold for Folding<'_> {
    fn insert(&mut self, missed: Vec<Event>, version: i64, new: Vec<Event>) -> LifecycleChanges {
        if self.purses.version != *self.version {
            self.purses.by_wallet.clear();
        }
        let missed = self.history.insert(missed);
        self.forget(&missed);
        let changes = self.history.insert(new);
        self.forget(&changes);
        *self.version = version;
        self.purses.version = version;
        LifecycleChanges::of(self.history, changes)
    }

    fn pass(&mut self, not_before: Second, until: Second) -> (Vec<Event>, LifecycleChanges) {
        let mut derived = Vec::new();
        let wallets: Vec<WalletKey> = self.history.burned_wallets().cloned().collect();
        let mut all = Changes::default();
        for wallet in wallets {
            let purse = self.purses.by_wallet.remove(&wallet).or_else(|| Purse::begin(self.history, &wallet));
            let Some(mut purse) = purse else { continue };
            let until = until.min(purse.at().max(not_before).saturating_add(AHEAD_S));
            loop {
                match purse.next(self.history, not_before, until) {
                    Ok(Some(transition)) => {
                        let name = transition.kind.name().trim_start_matches("gpu.wallet.");
                        let id = format!("{}/{}/{name}@{}", wallet.renter, wallet.currency, show_second(transition.at));
                        let rank = transition.kind.rank();
                        let key = EventKey { time: transition.at, rank, source: WALLETS.to_owned(), id };
                        let event = Event { key, kind: transition.kind };
                        let changes = self.history.insert([event.clone()]);
                        derived.push(event);
                        merge(&mut all, changes);
                    }
                    Ok(None) => {
                        self.purses.by_wallet.insert(wallet, purse);
                        break;
                    }
                    // It stops nobody: what the wallet cannot carry becomes a receivable all the same.
                    Err(error) => {
                        let WalletKey { renter, currency } = &wallet;
                        tracing::error!(%renter, %currency, %error, "cannot work out when this wallet runs dry");
                        break;
                    }
                }
            }
        }
        if !derived.is_empty() {
            *self.version += 1;
            self.purses.version = *self.version;
        }
        (derived, LifecycleChanges::of(self.history, all))
    }

    fn history(&self) -> &History {
        self.history
    }
}

impl Folding<'_> {
    /// Carries again from the beginning what may have been otherwise.
    fn forget(&mut self, changes: &Changes) {
        let touched = touched_contracts(self.history, changes);
        let history = &*self.history;
        self.purses.by_wallet.retain(|wallet, _| {
            let is_touched = history.prepaid_under(wallet).any(|contract| touched.contains_key(contract));
            !is_touched && !changes.wallets.contains(wallet)
        });
    }
}

fn merge(all: &mut Changes, changes: Changes) {
    all.verdicts.extend(changes.verdicts);
    for (server, span) in changes.servers {
        let known = all.servers.entry(server).or_insert(span);
        known.from = known.from.min(span.from);
        known.to = known.to.max(span.to);
    }
    all.wallets.extend(changes.wallets);
}
