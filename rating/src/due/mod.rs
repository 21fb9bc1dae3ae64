//! What falls due only at the end of a billing period, or of an hour of an hourly commitment (closing).
//!
//! The order of evaluation: true-ups of commitments and flat fees at zero, fees, the minimum and maximum spend of each charge and then
//! of all of them, percentages, SLA credits; beside it the suppliers' minimum guarantees and the fee for ending early. Each due is
//! exact until it is rounded, once. [`dues`] is a pure function of what is known of the period: whoever calls it again with the same
//! facts gets the same list, so closing twice books nothing twice, and late news books the difference.
//!
//! Terms may change inside a period. Fees, percentages and the parts of a minimum or maximum follow each version for its own part of
//! the period; a commitment follows the last version on its ladder; SLA and suppliers' terms are those of the last version in force.

mod fees;
mod ladders;
mod sla;
mod spend;
mod termination;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use hydrometer_schemas::time::{SECONDS_PER_HOUR, Second};

use crate::classes::ClassSeconds;
use crate::history::{Span, Version};
use crate::keys::{CellKey, StateKey};
use crate::money::{Amount, MoneyError};
use crate::rate::{Amounts, RateError, Rates, State, amounts};
use crate::terms::{Charge, MICRO, Micro, SupplierTerms, Terms};

/// What is known of a contract's billing period.
#[derive(Clone, Copy)]
pub struct Closing<'a> {
    /// The contract's versions in order of time, those of other periods too.
    pub versions: &'a [Version],
    pub period: Span,
    /// The contract's states in the period; of hourly commitments the states of its hours.
    pub states: &'a BTreeMap<StateKey, State>,
    pub rates: &'a dyn Rates,
    /// The leases that reach into the period.
    pub leases: &'a [LeaseFacts],
    /// When the contract was ended before its term was over.
    pub terminated: Option<Second>,
}

/// What a lease did in the period.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseFacts {
    pub lease: String,
    /// The whole lease, other periods included.
    pub span: Span,
    pub slots: Vec<u32>,
    pub server: String,
    pub supplier: String,
    /// Of all slots, in the period.
    pub seconds: ClassSeconds,
    /// Its part of the states' quantities.
    pub quantities: BTreeMap<(StateKey, CellKey), LeaseQuantity>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeaseQuantity {
    pub billed: Micro,
    /// What would have been billed as well, had it not been down.
    pub lost: Micro,
}

/// Something that falls due. What tells it from the others of its contract and period: everything but the amounts and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub kind: DueKind,
    /// Empty where it is all charges'.
    pub charge: String,
    /// The version that it is of, where each has its own.
    pub version_from: Option<Second>,
    /// The lease, slot or server that it is of; empty: the contract.
    pub subject: String,
    pub supplier: Option<String>,
    /// What the renter owes; negative: what it gets back.
    pub renter_amount: Amount,
    /// What the supplier earns; negative: what it bears.
    pub supplier_amount: Amount,
    /// False for a credit that is only listed, since the contract does not give it by itself.
    pub is_booked: bool,
    /// One line for people.
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DueKind {
    TrueUp,
    FlatAtZero,
    Fee,
    MinimumSpend,
    MaximumSpend,
    Percentage,
    SlaCredit,
    Guarantee,
    EarlyTermination,
}

impl DueKind {
    pub const ALL: [DueKind; 9] = [
        DueKind::TrueUp,
        DueKind::FlatAtZero,
        DueKind::Fee,
        DueKind::MinimumSpend,
        DueKind::MaximumSpend,
        DueKind::Percentage,
        DueKind::SlaCredit,
        DueKind::Guarantee,
        DueKind::EarlyTermination,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            DueKind::TrueUp => "true_up",
            DueKind::FlatAtZero => "flat_at_zero",
            DueKind::Fee => "fee",
            DueKind::MinimumSpend => "minimum_spend",
            DueKind::MaximumSpend => "maximum_spend",
            DueKind::Percentage => "percentage",
            DueKind::SlaCredit => "sla_credit",
            DueKind::Guarantee => "guarantee",
            DueKind::EarlyTermination => "early_termination",
        }
    }
}

impl fmt::Display for DueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Due {
    /// What the platform keeps, or bears.
    pub fn platform(&self) -> Amount {
        Amount::from_scaled(self.renter_amount.scaled().saturating_sub(self.supplier_amount.scaled()))
    }

    fn new(kind: DueKind, renter_amount: Amount, why: String) -> Due {
        Due {
            kind,
            charge: String::new(),
            version_from: None,
            subject: String::new(),
            supplier: None,
            renter_amount,
            supplier_amount: Amount::ZERO,
            is_booked: true,
            why,
        }
    }
}

/// All that falls due when the period closes. The true-ups of hours are not in it (they are [`hour_dues`]), but they count as spent.
///
/// # Errors
/// When a state's rate is not known or a sum does not fit exact arithmetic.
pub fn dues(closing: &Closing) -> Result<Vec<Due>, RateError> {
    let live = Live::of(closing);
    let mut book = Book::default();
    for (key, state) in closing.states {
        let amounts = amounts(state, closing.rates)?;
        for (cell, amount) in &amounts {
            book.spend(&key.charge, cell.version_from, amount.renter)?;
            book.earn(&cell.supplier, amount.supplier)?;
        }
        book.amounts.insert(key.clone(), amounts);
    }
    let hours = ladders::true_ups_of_hours(closing, &live)?;
    book.count(&live, &hours)?;

    for stage in [ladders::dues, fees::dues, spend::of_charges, spend::of_the_contract, spend::percentages] {
        let dues = stage(closing, &live, &book)?;
        book.count(&live, &dues)?;
        book.dues.extend(dues);
    }
    for stage in [sla::credits, spend::guarantees, termination::fee] {
        let dues = stage(closing, &live, &book)?;
        book.dues.extend(dues);
    }
    let mut dues = book.dues;
    dues.retain(|due| due.renter_amount != Amount::ZERO || due.supplier_amount != Amount::ZERO);
    Ok(dues)
}

/// The true-ups of hourly commitments for the hour that begins with `hour`, used or not. `states` holds at least that hour's states.
pub fn hour_dues(
    versions: &[Version],
    hour: Second,
    states: &BTreeMap<StateKey, State>,
    rates: &dyn Rates,
) -> Result<Vec<Due>, RateError> {
    let period = Span { from: hour, to: hour + SECONDS_PER_HOUR };
    let closing = Closing { versions, period, states, rates, leases: &[], terminated: None };
    ladders::hour(&closing, &Live::of(&closing))
}

/// The versions in force in the period, each with its part of it.
struct Live<'a> {
    versions: Vec<(Span, &'a Version)>,
}

impl<'a> Live<'a> {
    fn of(closing: &Closing<'a>) -> Live<'a> {
        let versions = closing.versions.iter();
        let live = versions.filter_map(|version| version.span.intersect(closing.period).map(|part| (part, version)));
        Live { versions: live.collect() }
    }

    /// The terms that hold at the end.
    fn last(&self) -> Option<&'a Terms> {
        self.versions.last().map(|(_, version)| &*version.terms)
    }

    fn charge_names(&self) -> BTreeSet<&'a str> {
        self.versions.iter().flat_map(|(_, version)| version.terms.charges.keys()).map(String::as_str).collect()
    }

    /// A charge in each version that has it.
    fn charge(&self, name: &str) -> Vec<(Span, &'a Version, &'a Charge)> {
        let of = |(part, version): &(Span, &'a Version)| {
            version.terms.charges.get(name).map(|charge| (*part, *version, &**charge))
        };
        self.versions.iter().filter_map(of).collect()
    }
}

/// What the period has cost so far.
#[derive(Default)]
struct Book {
    amounts: BTreeMap<StateKey, Amounts>,
    /// What the renter owes, by charge and version; what is no charge's stands under the empty name.
    spent: BTreeMap<(String, Second), Amount>,
    earned: BTreeMap<String, Amount>,
    dues: Vec<Due>,
}

impl Book {
    fn spend(&mut self, charge: &str, version_from: Second, amount: Amount) -> Result<(), MoneyError> {
        let sum = self.spent.entry((charge.to_owned(), version_from)).or_default();
        *sum = sum.checked_add(amount)?;
        Ok(())
    }

    fn earn(&mut self, supplier: &str, amount: Amount) -> Result<(), MoneyError> {
        let sum = self.earned.entry(supplier.to_owned()).or_default();
        *sum = sum.checked_add(amount)?;
        Ok(())
    }

    /// Dues become part of what was spent and earned; one that is of no version counts for the last one that has its charge.
    fn count(&mut self, live: &Live, dues: &[Due]) -> Result<(), MoneyError> {
        for due in dues {
            let last = || live.charge(&due.charge).last().map(|(_, version, _)| version.span.from);
            let version_from = due.version_from.or_else(last).unwrap_or_default();
            self.spend(&due.charge, version_from, due.renter_amount)?;
            if let Some(supplier) = &due.supplier {
                self.earn(supplier, due.supplier_amount)?;
            }
        }
        Ok(())
    }

    /// What one charge has cost, in all versions.
    fn of_charge(&self, name: &str) -> Result<Amount, MoneyError> {
        sum(self.spent.iter().filter(|((charge, _), _)| charge == name).map(|(_, amount)| *amount))
    }

    fn total(&self) -> Result<Amount, MoneyError> {
        sum(self.spent.values().copied())
    }
}

fn sum(amounts: impl IntoIterator<Item = Amount>) -> Result<Amount, MoneyError> {
    let mut sum = Amount::ZERO;
    for amount in amounts {
        sum = sum.checked_add(amount)?;
    }
    Ok(sum)
}

/// What a supplier has in a version: terms of its own, or those of every other one.
fn supplier_terms<'a>(terms: &'a Terms, supplier: &str) -> Option<&'a SupplierTerms> {
    terms.suppliers.get(supplier).or_else(|| terms.suppliers.get("*"))
}

/// A quantity in units of a price, to six digits: for people.
pub(crate) fn show_units(quantity: Micro, pieces_per_unit: i128) -> String {
    let pieces = pieces_per_unit.max(1);
    let (whole, rest) = (quantity.div_euclid(pieces), quantity.rem_euclid(pieces));
    let micros = whole.saturating_add(Micro::from(rest.saturating_mul(2) >= pieces));
    let sign = if micros < 0 { "-" } else { "" };
    let text = format!(
        "{sign}{}.{:06}",
        micros.unsigned_abs() / MICRO.unsigned_abs(),
        micros.unsigned_abs() % MICRO.unsigned_abs()
    );
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// An amount without needless zeros: for people.
pub(crate) fn show_amount(amount: Amount) -> String {
    amount.to_string().trim_end_matches('0').trim_end_matches('.').to_owned()
}
