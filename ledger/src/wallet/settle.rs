//! Who pays for what: a pure function of grants, use and frontier.
//!
//! The *edges* of a wallet are the starts and ends of its grants; between two neighbouring edges the same grants are
//! active. In each such interval, in order of time, the active grants are consumed by priority (lower first), then
//! earliest expiry (none is last), then earliest start, then promotional before paid, then id; what is left over is
//! the interval's receivable. Only the total of an interval counts, and which of two grants comes first follows from
//! what they are, so no order of arrival and no way of splitting the news changes anything:
//!
//! - consumed by all grants + receivable = use, in every interval;
//! - an interval whose total is below zero (a correction came before what it corrects) consumes nothing; the whole of
//!   it is its receivable, below zero, until the rest has arrived;
//! - a receivable is not paid by a grant that starts later;
//! - a grant expires, with what is left of it, when the frontier has reached its end; use that comes in later takes
//!   back its part of that.
//!
//! Debits (refunds among them) are facts: which grants they took from was decided when they were booked, and never
//! took more than was left. That leaves earlier consumption as it was, so a debit is simply a smaller grant.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::beyond;
use crate::{Amount, LedgerError};

/// Before every edge: use lies at or after it.
pub const BEGINNING: DateTime<Utc> = DateTime::UNIX_EPOCH;

/// An amount that can be consumed from one time to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    pub id: Uuid,
    /// What was granted.
    pub amount: Amount,
    /// What refunds and debits took of it.
    pub debited: Amount,
    /// Lower is consumed first.
    pub priority: i32,
    /// From this time on.
    pub from: DateTime<Utc>,
    /// Until just before this time.
    pub expires: Option<DateTime<Utc>>,
    /// Nobody paid for it.
    pub promotional: bool,
}

impl Grant {
    pub fn is_active(&self, at: DateTime<Utc>) -> bool {
        self.from <= at && self.expires.is_none_or(|end| at < end)
    }
}

/// What one grant carries of one interval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The place of the grant in what was given.
    pub grant: usize,
    /// The interval's start.
    pub from: DateTime<Utc>,
    pub amount: Amount,
}

/// The outcome: vectors are in the order of the grants given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    pub shares: Vec<Share>,
    pub consumed: Vec<Amount>,
    /// What had been left of grants when they ended; zero for those that the frontier has not reached.
    pub expired: Vec<Amount>,
    /// By start of interval, where it is not zero.
    pub receivable: BTreeMap<DateTime<Utc>, Amount>,
}

impl Settlement {
    /// What the wallet cannot carry, over all intervals.
    pub fn total_receivable(&self) -> Result<Amount, LedgerError> {
        Amount::checked_sum(self.receivable.values().copied()).ok_or_else(|| beyond("the receivable"))
    }

    /// What is left of each grant.
    pub fn left(&self, grants: &[Grant]) -> Result<Vec<Amount>, LedgerError> {
        grants
            .iter()
            .zip(self.consumed.iter().zip(&self.expired))
            .map(|(grant, (consumed, expired))| {
                let gone = Amount::checked_sum([grant.debited, *consumed, *expired]);
                gone.and_then(|gone| grant.amount.checked_sub(gone)).ok_or_else(|| beyond("a grant"))
            })
            .collect()
    }

    /// What further use at this time could take.
    pub fn balance(&self, grants: &[Grant], at: DateTime<Utc>) -> Result<Amount, LedgerError> {
        let left = self.left(grants)?;
        Amount::checked_sum(grants.iter().zip(left).filter(|(grant, _)| grant.is_active(at)).map(|(_, left)| left))
            .ok_or_else(|| beyond("the balance"))
    }
}

/// The times at which the active grants change.
pub fn edges(grants: &[Grant]) -> BTreeSet<DateTime<Utc>> {
    grants.iter().flat_map(|grant| [Some(grant.from), grant.expires]).flatten().collect()
}

/// The start of the interval that a time lies in.
pub fn interval(edges: &BTreeSet<DateTime<Utc>>, at: DateTime<Utc>) -> DateTime<Utc> {
    edges.range(..=at).next_back().copied().unwrap_or(BEGINNING)
}

/// Settles all use. It may be given by the second or summed up in any way within the intervals.
pub fn settle(
    grants: &[Grant],
    used: impl IntoIterator<Item = (DateTime<Utc>, Amount)>,
    frontier: DateTime<Utc>,
) -> Result<Settlement, LedgerError> {
    let edges = edges(grants);
    let mut totals: BTreeMap<DateTime<Utc>, Amount> = BTreeMap::new();
    for (at, amount) in used {
        let total = totals.entry(interval(&edges, at)).or_default();
        *total = total.checked_add(amount).ok_or_else(|| beyond("the use of an interval"))?;
    }

    let mut left = grants
        .iter()
        .map(|grant| grant.amount.checked_sub(grant.debited).ok_or_else(|| beyond("a grant")))
        .collect::<Result<Vec<Amount>, LedgerError>>()?;
    let mut settlement = Settlement {
        shares: Vec::new(),
        consumed: vec![Amount::ZERO; grants.len()],
        expired: vec![Amount::ZERO; grants.len()],
        receivable: BTreeMap::new(),
    };
    let order = order(grants);
    for (from, total) in totals {
        let mut open = total;
        for &place in &order {
            if !open.is_positive() {
                break;
            }
            let amount = open.min(left[place]);
            if !amount.is_positive() || !grants[place].is_active(from) {
                continue;
            }
            let fits = || beyond("a grant");
            open = open.checked_sub(amount).ok_or_else(fits)?;
            left[place] = left[place].checked_sub(amount).ok_or_else(fits)?;
            settlement.consumed[place] = settlement.consumed[place].checked_add(amount).ok_or_else(fits)?;
            settlement.shares.push(Share { grant: place, from, amount });
        }
        if !open.is_zero() {
            settlement.receivable.insert(from, open);
        }
    }
    for (place, grant) in grants.iter().enumerate() {
        if grant.expires.is_some_and(|end| end <= frontier) {
            settlement.expired[place] = left[place];
        }
    }
    Ok(settlement)
}

/// The places of the grants in the order in which they are consumed.
pub fn order(grants: &[Grant]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..grants.len()).collect();
    order.sort_by_key(|&place| {
        let grant = &grants[place];
        (grant.priority, grant.expires.is_none(), grant.expires, grant.from, !grant.promotional, grant.id)
    });
    order
}
