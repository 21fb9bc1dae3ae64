//! A wallet as it is booked, in memory while it is locked, and the difference that brings it to what should be.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::settle::{self, Grant, Settlement};
use super::{OnExpiry, Terms, Wallet, WalletId, beyond};
use crate::{AccountSpec, Amount, LedgerError, Transfer};

/// A grant and what is booked of it.
#[derive(Clone, Debug)]
pub(super) struct Held {
    /// The id that it was granted under; that of `grant` where it is not released in parts.
    pub whole: Uuid,
    pub grant: Grant,
    /// Where paid money came from; nothing for a promotional grant.
    pub source: Option<AccountSpec>,
    pub on_expiry: OnExpiry,
    pub consumed: Amount,
    pub expired: Amount,
}

impl Held {
    pub fn left(&self) -> Result<Amount, LedgerError> {
        Amount::checked_sum([self.grant.debited, self.consumed, self.expired])
            .and_then(|gone| self.grant.amount.checked_sub(gone))
            .ok_or_else(|| beyond("a grant"))
    }
}

/// How a wallet stands: the balance is what further use at its clock could take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Figures {
    pub balance: Amount,
    pub paid: Amount,
    pub promotional: Amount,
    pub receivable: Amount,
}

/// A wallet under its lock.
pub(super) struct Book {
    pub wallet: Wallet,
    pub id: WalletId,
    pub terms: Terms,
    pub open_request: Option<Uuid>,
    pub number: i64,
    pub clock: DateTime<Utc>,
    pub frontier: DateTime<Utc>,
    pub receivable: Amount,
    pub held: Vec<Held>,
    /// Use by start of interval. A missing one had no use at all.
    pub used: BTreeMap<DateTime<Utc>, Amount>,
    pub number_before: i64,
    pub changed_grants: BTreeSet<usize>,
    pub changed_intervals: BTreeSet<DateTime<Utc>>,
}

/// Signed differences between what should be and what was booked.
#[derive(Debug, Default)]
pub(super) struct Change {
    pub consumed: Vec<(usize, Amount)>,
    pub expired: Vec<(usize, Amount)>,
    pub receivable: Amount,
}

impl Change {
    pub fn is_none(&self) -> bool {
        self.consumed.is_empty() && self.expired.is_empty() && self.receivable.is_zero()
    }
}

impl Book {
    pub fn grants(&self) -> Vec<Grant> {
        self.held.iter().map(|held| held.grant.clone()).collect()
    }

    pub fn settlement(&self) -> Result<Settlement, LedgerError> {
        settle::settle(&self.grants(), self.used.iter().map(|(at, amount)| (*at, *amount)), self.frontier)
    }

    /// Brings what is booked to what should be, and says what that changes.
    pub fn settle(&mut self) -> Result<Change, LedgerError> {
        let settlement = self.settlement()?;
        let mut change = Change::default();
        for (place, held) in self.held.iter_mut().enumerate() {
            let difference =
                |should: Amount, booked: Amount| should.checked_sub(booked).ok_or_else(|| beyond("a grant"));
            let consumed = difference(settlement.consumed[place], held.consumed)?;
            let expired = difference(settlement.expired[place], held.expired)?;
            if !consumed.is_zero() {
                change.consumed.push((place, consumed));
            }
            if !expired.is_zero() {
                change.expired.push((place, expired));
            }
            if !consumed.is_zero() || !expired.is_zero() {
                (held.consumed, held.expired) = (settlement.consumed[place], settlement.expired[place]);
                self.changed_grants.insert(place);
            }
        }
        let receivable = settlement.total_receivable()?;
        change.receivable = receivable.checked_sub(self.receivable).ok_or_else(|| beyond("the receivable"))?;
        self.receivable = receivable;
        Ok(change)
    }

    /// The transfers that book a change, one for each pair of accounts.
    pub fn transfers(&self, change: &Change) -> Result<Vec<Transfer>, LedgerError> {
        let mut flows: Vec<(AccountSpec, AccountSpec, Amount)> = Vec::new();
        let mut add = |debit: AccountSpec, credit: AccountSpec, amount: Amount| {
            match flows.iter_mut().find(|flow| flow.0 == debit && flow.1 == credit) {
                Some(flow) => flow.2 = flow.2.checked_add(amount).ok_or_else(|| beyond("a transfer"))?,
                None => flows.push((debit, credit, amount)),
            }
            Ok::<(), LedgerError>(())
        };
        let wallet = &self.wallet;
        for &(place, amount) in &change.expired {
            let held = &self.held[place];
            // A promise that lapses was never in the book.
            let Some(source) = &held.source else { continue };
            let to = if held.on_expiry == OnExpiry::Back { source.clone() } else { wallet.expired_credit() };
            add(wallet.account(), to, amount)?;
        }
        for &(place, amount) in &change.consumed {
            let carrier = if self.held[place].source.is_some() { wallet.account() } else { wallet.promotions() };
            add(carrier, wallet.unbilled(), amount)?;
        }
        add(wallet.receivable(), wallet.unbilled(), change.receivable)?;
        flows
            .into_iter()
            .filter(|flow| !flow.2.is_zero())
            .map(|(debit, credit, amount)| signed(debit, credit, amount))
            .collect()
    }

    pub fn figures(&self) -> Result<Figures, LedgerError> {
        let mut figures = Figures {
            balance: Amount::ZERO,
            paid: Amount::ZERO,
            promotional: Amount::ZERO,
            receivable: self.receivable,
        };
        for held in &self.held {
            let left = held.left()?;
            let add = |sum: Amount| sum.checked_add(left).ok_or_else(|| beyond("the balance"));
            if held.source.is_some() {
                figures.paid = add(figures.paid)?;
            } else {
                figures.promotional = add(figures.promotional)?;
            }
            if held.grant.is_active(self.clock) {
                figures.balance = add(figures.balance)?;
            }
        }
        Ok(figures)
    }

    pub fn use_at(&mut self, from: DateTime<Utc>, amount: Amount) -> Result<(), LedgerError> {
        let used = self.used.entry(from).or_default();
        *used = used.checked_add(amount).ok_or_else(|| beyond("the use of an interval"))?;
        self.changed_intervals.insert(from);
        Ok(())
    }

    pub fn debit(&mut self, place: usize, amount: Amount) -> Result<(), LedgerError> {
        let debited = &mut self.held[place].grant.debited;
        *debited = debited.checked_add(amount).ok_or_else(|| beyond("a grant"))?;
        self.changed_grants.insert(place);
        Ok(())
    }
}

/// A transfer of an amount that may be negative, which swaps its sides.
fn signed(debit: AccountSpec, credit: AccountSpec, amount: Amount) -> Result<Transfer, LedgerError> {
    if amount.is_positive() {
        return Ok(Transfer { debit, credit, amount });
    }
    let amount = amount.checked_neg().ok_or_else(|| beyond("a transfer"))?;
    Ok(Transfer { debit: credit, credit: debit, amount })
}
