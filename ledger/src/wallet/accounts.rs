//! A wallet's identity, and the accounts that it moves money between.

use std::fmt;

use uuid::Uuid;

use super::NAMESPACE;
use crate::{AccountSpec, AccountType, TransactionId};

/// Names a wallet: made from its party and currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WalletId(pub Uuid);

impl fmt::Display for WalletId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whose money it is, and in which currency. The party is that of the accounts, such as `renter:R`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wallet {
    pub party: String,
    pub currency: String,
}

impl Wallet {
    pub fn new(party: &str, currency: &str) -> Self {
        Wallet { party: party.to_owned(), currency: currency.to_owned() }
    }

    pub fn id(&self) -> WalletId {
        WalletId(TransactionId::derive(&NAMESPACE, &["wallet", &self.party, &self.currency]).0)
    }

    /// `PARTY:wallet:CURRENCY`: the paid money that is left, owed to the party.
    pub fn account(&self) -> AccountSpec {
        AccountSpec::new(AccountType::Liability, &self.party, "wallet", &self.currency)
    }

    /// `PARTY:unbilled:CURRENCY`: what the wallet pays for.
    pub fn unbilled(&self) -> AccountSpec {
        AccountSpec::new(AccountType::Asset, &self.party, "unbilled", &self.currency)
    }

    /// `PARTY:receivable:CURRENCY`: what it could not carry.
    pub fn receivable(&self) -> AccountSpec {
        AccountSpec::new(AccountType::Asset, &self.party, "receivable", &self.currency)
    }

    /// `platform:promotions:CURRENCY`: promotional grants that were used.
    pub fn promotions(&self) -> AccountSpec {
        AccountSpec::new(AccountType::Expense, "platform", "promotions", &self.currency)
    }

    /// `platform:expired_credit:CURRENCY`: paid grants that expired unused.
    pub fn expired_credit(&self) -> AccountSpec {
        AccountSpec::new(AccountType::Income, "platform", "expired_credit", &self.currency)
    }

    /// `equity:opening:CURRENCY`: balances taken over from another system.
    pub fn opening(&self) -> AccountSpec {
        AccountSpec::new(AccountType::Equity, "equity", "opening", &self.currency)
    }
}
