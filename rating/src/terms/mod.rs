//! A contract's terms, compiled from its document: numbers are exact integers, defaults are filled in, and nothing is left that could
//! fail later. [`compile`] is the only way to get them, and it names every mistake at once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use hydrometer_schemas::contract::{
    self, Basis, Clawback, CommitmentPer, Degradation, MaintenanceRule, Per, Proration, Rounding, Scope, SlaBase, SlaOf,
};
use hydrometer_schemas::lifecycle::RatingWindow;
use hydrometer_schemas::time::Second;

mod changes;
mod compile;
pub mod file;

pub use changes::contradicts;
pub use compile::compile;
pub use hydrometer_schemas::contract::Mistake;

use crate::calendar::Calendar;
use crate::money::{Amount, Price, Share};

/// A quantity in millionths of a basis' counted piece (a second, a joule, a slice-second …): so that a bound of `5.001` units and a
/// second are both whole numbers.
pub type Micro = i128;
pub const MICRO: i128 = 1_000_000;

/// Names all that a cell's amounts depend on besides quantities: one charge's terms and one supplier's side of them. Equal text,
/// equal id, in whatever version it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RateId(pub u128);

impl fmt::Display for RateId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl RateId {
    pub fn parse(text: &str) -> Option<RateId> {
        (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten().map(RateId)
    }
}

/// One charge for one supplier: what turns quantities into both sides' amounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    pub id: RateId,
    pub charge: Arc<Charge>,
    pub supplier: SupplierSide,
    /// The part of the supplier's earnings that is held back.
    pub holdback: Share,
}

/// What the supplier gets of a metered charge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SupplierSide {
    /// A share of the renter's price for what it is paid for.
    Share(Share),
    /// A rate of its own, on the quantity it is paid for.
    Own(Pricing),
}

/// One priced component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Charge {
    pub name: String,
    pub basis: Basis,
    /// Counted pieces in a unit of price: 3,600 s in a GPU-hour, 3,600,000 J in a kWh, 3,600 x slices in a card-hour,
    /// 3,600 x 2^30 in a GiB-hour; 1 where there is nothing to meter.
    pub pieces_per_unit: i128,
    pub pricing: Pricing,
    /// Prices at times of the week: a cell's segment `n > 0` has the price `by_time[n - 1]`, segment 0 the charge's own.
    pub by_time: Vec<TimePrice>,
    pub free: Micro,
    pub flat_at_zero: bool,
    pub step: Option<Step>,
    pub scope: Scope,
    /// A new version's ladder begins at zero.
    pub resets: bool,
    pub commitment: Option<Commitment>,
    pub minimum_spend: Option<Amount>,
    pub maximum_spend: Option<Amount>,
    pub per: Per,
    pub proration: Proration,
    /// Of a percentage: the charges that it is of; empty: all metered ones.
    pub of: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pricing {
    PerUnit(Price),
    Graduated(Vec<Tier>),
    Volume(Vec<Tier>),
    Package {
        size: Micro,
        price: Price,
    },
    /// A fixed amount: `recurring` and `one_off`.
    Fee(Amount),
    Percent(Share),
}

/// Units up to and including `up_to`; gapless: a tier begins where the one before it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tier {
    /// `None` in the last tier, and only there.
    pub up_to: Option<Micro>,
    pub price: Price,
    pub flat: Price,
}

/// Minimum and step of a quantity, per lease and slot, cumulative over the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// In pieces.
    pub minimum: i64,
    /// In pieces; 1 where nothing is rounded.
    pub step: i64,
    pub rounding: Rounding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commitment {
    pub quantity: Micro,
    pub per: CommitmentPer,
    pub overage: Overage,
    pub true_up: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overage {
    /// What the ladder says for these units, times this (in millionths).
    Multiplier(i64),
    Price(Price),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimePrice {
    /// Bit 0 is Monday.
    pub days: u8,
    /// Minutes of the day in the contract's zone, `[from, to)`.
    pub from: u16,
    pub to: u16,
    pub price: Price,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sla {
    /// From the highest bound to the lowest.
    pub tiers: Vec<SlaTier>,
    pub of: SlaOf,
    pub base: SlaBase,
    pub cap: Share,
    pub automatic: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlaTier {
    pub below: Share,
    pub credit: Share,
}

/// What one supplier gets, beyond its side of each metered charge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SupplierTerms {
    pub share: Share,
    pub own: BTreeMap<String, Pricing>,
    pub shares_true_ups: bool,
    pub minimum_guarantee: Option<Amount>,
    pub holdback: Share,
    pub holdback_days: u32,
    pub clawback: Clawback,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    pub ends: Second,
    /// Months by which it is extended again and again; `None`: it ends.
    pub renewal_months: Option<u32>,
    pub notice_days: u32,
    pub early_termination: Option<EarlyTermination>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlyTermination {
    Fee(Amount),
    Remaining(Share),
}

/// What happens to leases in the second in which their wallet runs dry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExhaustion {
    /// Access is cut.
    Suspend,
    /// It is cut so many seconds later.
    Grace(i64),
    /// It is cut when so much is owed.
    Credit(Amount),
}

/// One version's terms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    pub contract: String,
    pub effective: Second,
    pub renter: String,
    pub currency: String,
    pub calendar: Calendar,
    pub rating_window: RatingWindow,
    /// `None`: postpaid.
    pub prepaid: Option<OnExhaustion>,
    /// What may be owed while it is postpaid; reaching it is told, nothing is refused.
    pub credit_limit: Option<Amount>,
    pub term: Option<Term>,
    /// By name.
    pub charges: BTreeMap<String, Arc<Charge>>,
    pub minimum_spend: Option<Amount>,
    pub maximum_spend: Option<Amount>,
    pub sla: Option<Sla>,
    pub maintenance: MaintenanceRule,
    /// Seconds of announced maintenance of each leased slot that are billed in a period.
    pub maintenance_allowance: i64,
    pub degradation: Degradation,
    /// Of leased seconds.
    pub unknown_tolerance: Share,
    /// By name, `*` for every other one.
    pub suppliers: BTreeMap<String, SupplierTerms>,
    /// What it was compiled from; a change of price is this document with another price.
    pub document: contract::Contract,
    /// By metered charge and supplier (`*` for every other one): compiled once, since every quantity looks one up.
    rates: BTreeMap<String, BTreeMap<String, Arc<Rate>>>,
}

impl Terms {
    /// The rates of every metered charge, for every supplier that has terms of its own.
    pub fn rates(&self) -> impl Iterator<Item = &Arc<Rate>> {
        self.rates.values().flat_map(BTreeMap::values)
    }

    /// What a metered charge is for a supplier; `None` where there is no such charge or it is not metered.
    pub fn rate(&self, charge: &str, supplier: &str) -> Option<Arc<Rate>> {
        self.rates.get(charge).and_then(|rates| rates.get(supplier).or_else(|| rates.get("*"))).cloned()
    }
}

#[cfg(test)]
impl Rate {
    /// A plain charge for unit tests: no free quantity, no commitment, nothing for the supplier.
    pub(crate) fn sample(name: &str, basis: Basis, pieces_per_unit: i128, pricing: Pricing) -> Rate {
        let charge = Charge {
            name: name.into(),
            basis,
            pieces_per_unit,
            pricing,
            by_time: Vec::new(),
            free: 0,
            flat_at_zero: false,
            step: None,
            scope: Scope::Contract,
            resets: false,
            commitment: None,
            minimum_spend: None,
            maximum_spend: None,
            per: Per::Contract,
            proration: Proration::Second,
            of: Vec::new(),
        };
        Rate {
            id: RateId(0),
            charge: Arc::new(charge),
            supplier: SupplierSide::Share(Share::from_scaled(0)),
            holdback: Share::from_scaled(0),
        }
    }
}

impl Rate {
    /// The supplier's share; `None` where it has a rate of its own.
    pub fn share(&self) -> Option<Share> {
        match self.supplier {
            SupplierSide::Share(share) => Some(share),
            SupplierSide::Own(_) => None,
        }
    }
}

impl Charge {
    /// Whether its quantity is metered (as against fees and percentages, which fall due when a period closes).
    pub fn is_metered(&self) -> bool {
        !matches!(self.basis, Basis::Recurring | Basis::OneOff | Basis::Percentage)
    }

    /// What every unit costs at a time of the week; `None` where that depends on how many there are.
    pub fn unit_price(&self, segment: u16) -> Option<Price> {
        let Pricing::PerUnit(price) = self.pricing else { return None };
        let depends = self.free != 0 || self.commitment.is_some() || self.step.is_some();
        let own = || usize::from(segment).checked_sub(1).map_or(Some(price), |n| self.by_time.get(n).map(|t| t.price));
        if depends { None } else { own() }
    }

    /// Whether its states are kept per hour, because a commitment is.
    pub fn is_hourly(&self) -> bool {
        self.commitment.is_some_and(|c| c.per == CommitmentPer::Hour)
    }
}
