//! Minimum and maximum spend, percentages of other charges, and the suppliers' minimum guarantees.

use std::collections::BTreeSet;

use super::{Book, Closing, Due, DueKind, Live, show_amount, sum, supplier_terms};
use crate::history::{Span, Version};
use crate::money::{Amount, Exact, MoneyError};
use crate::rate::RateError;
use crate::terms::Pricing;

/// Minimum and maximum of each charge.
pub(super) fn of_charges(closing: &Closing, live: &Live, book: &Book) -> Result<Vec<Due>, RateError> {
    let mut dues = Vec::new();
    for name in live.charge_names() {
        let versions = live.charge(name);
        let minimum = prorated(closing, versions.iter().map(|(part, _, charge)| (*part, charge.minimum_spend)))?;
        let maximum = prorated(closing, versions.iter().map(|(part, _, charge)| (*part, charge.maximum_spend)))?;
        let due = bounded(minimum, maximum, book.of_charge(name)?)?;
        dues.extend(due.map(|due| Due { charge: name.to_owned(), ..due }));
    }
    Ok(dues)
}

/// Minimum and maximum of all charges together.
pub(super) fn of_the_contract(closing: &Closing, live: &Live, book: &Book) -> Result<Vec<Due>, RateError> {
    let of = |bound: fn(&Version) -> Option<Amount>| {
        live.versions.iter().map(move |(part, version)| (*part, bound(version)))
    };
    let minimum = prorated(closing, of(|version| version.terms.minimum_spend))?;
    let maximum = prorated(closing, of(|version| version.terms.maximum_spend))?;
    Ok(bounded(minimum, maximum, book.total()?)?.into_iter().collect())
}

struct Bound {
    exact: Exact,
    /// Whether all of the period has it.
    is_whole: bool,
}

/// Each version's bound for its own part of the period, by seconds; `None` where no version has one.
fn prorated(
    closing: &Closing,
    parts: impl Iterator<Item = (Span, Option<Amount>)>,
) -> Result<Option<Bound>, MoneyError> {
    let mut bound: Option<Bound> = None;
    let mut all = true;
    for (part, amount) in parts {
        let Some(amount) = amount else {
            all = false;
            continue;
        };
        let share = Exact::of(amount).times(i128::from(part.seconds()), i128::from(closing.period.seconds()))?;
        let exact = match bound {
            Some(before) => before.exact.plus(share)?,
            None => share,
        };
        bound = Some(Bound { exact, is_whole: true });
    }
    Ok(bound.map(|bound| Bound { is_whole: all, ..bound }))
}

/// What is missing to the minimum, or taken back above the maximum. A maximum that only a part of the versions has bounds nothing.
fn bounded(minimum: Option<Bound>, maximum: Option<Bound>, spent: Amount) -> Result<Option<Due>, MoneyError> {
    let missing = match &minimum {
        Some(minimum) => minimum.exact.minus(Exact::of(spent))?,
        None => Exact::ZERO,
    };
    if missing.is_positive()
        && let Some(minimum) = minimum
    {
        let least = show_amount(minimum.exact.round()?);
        let why = format!("at least {least} is due for the period, it came to {}", show_amount(spent));
        return Ok(Some(Due::new(DueKind::MinimumSpend, missing.round()?, why)));
    }
    if let Some(maximum) = maximum.filter(|maximum| maximum.is_whole) {
        let above = maximum.exact.minus(Exact::of(spent))?;
        if above.is_negative() {
            let most = show_amount(maximum.exact.round()?);
            let why = format!("at most {most} is due for the period, it came to {}", show_amount(spent));
            return Ok(Some(Due::new(DueKind::MaximumSpend, above.round()?, why)));
        }
    }
    Ok(None)
}

/// Percentages of what other charges came to in their own version.
pub(super) fn percentages(_: &Closing, live: &Live, book: &Book) -> Result<Vec<Due>, RateError> {
    let mut dues = Vec::new();
    for (_, version) in &live.versions {
        for charge in version.terms.charges.values() {
            let Pricing::Percent(percent) = charge.pricing else { continue };
            let is_of = |name: &str| {
                if charge.of.is_empty() {
                    version.terms.charges.get(name).is_some_and(|other| other.is_metered())
                } else {
                    charge.of.iter().any(|of| of == name)
                }
            };
            let parts = book.spent.iter().filter(|((name, from), _)| *from == version.span.from && is_of(name));
            let base = sum(parts.map(|(_, amount)| *amount))?;
            let amount = Exact::of(base).share(percent)?.round()?;
            let why = format!("{percent} % of {}", show_amount(base));
            let due = Due::new(DueKind::Percentage, amount, why);
            dues.push(Due { charge: charge.name.clone(), version_from: Some(version.span.from), ..due });
        }
    }
    Ok(dues)
}

/// What a supplier is missing to its guarantee, prorated like a minimum. The platform pays it.
pub(super) fn guarantees(closing: &Closing, live: &Live, book: &Book) -> Result<Vec<Due>, RateError> {
    let mut suppliers: BTreeSet<&str> = book.earned.keys().map(String::as_str).collect();
    suppliers.extend(closing.leases.iter().map(|lease| lease.supplier.as_str()));
    for (_, version) in &live.versions {
        suppliers.extend(version.terms.suppliers.keys().map(String::as_str).filter(|name| *name != "*"));
    }
    let mut dues = Vec::new();
    for supplier in suppliers {
        let guarantee = |version: &Version| supplier_terms(&version.terms, supplier).and_then(|t| t.minimum_guarantee);
        let parts = live.versions.iter().map(|(part, version)| (*part, guarantee(version)));
        let Some(least) = prorated(closing, parts)? else { continue };
        let earned = book.earned.get(supplier).copied().unwrap_or_default();
        let missing = least.exact.minus(Exact::of(earned))?;
        if missing.is_positive() {
            let (least, earned) = (show_amount(least.exact.round()?), show_amount(earned));
            let why = format!("{least} is guaranteed for the period, it earned {earned}");
            let due = Due::new(DueKind::Guarantee, Amount::ZERO, why);
            dues.push(Due { supplier: Some(supplier.to_owned()), supplier_amount: missing.round()?, ..due });
        }
    }
    Ok(dues)
}
