//! What a ladder leaves due: committed units that were not used, and flat fees at zero.

use std::collections::{BTreeMap, BTreeSet};

use ethnum::I256;
use hydrometer_schemas::contract::Scope;
use hydrometer_schemas::time::{SECONDS_PER_HOUR, Second, hour_floor};

use super::{Book, Closing, Due, DueKind, Live, show_units, supplier_terms};
use crate::history::{Span, Version};
use crate::keys::{CellKey, StateKey};
use crate::ladder::{Denominator, Ladder};
use crate::money::{Amount, Exact, MoneyError, PRICE_PER_AMOUNT, sub};
use crate::rate::{RateError, State};
use crate::terms::{Charge, Micro, Pricing};

pub(super) fn dues(closing: &Closing, live: &Live, _: &Book) -> Result<Vec<Due>, RateError> {
    let mut dues = Vec::new();
    for name in live.charge_names() {
        for ladder in Climbed::of(live, name) {
            if ladder.charge.is_hourly() {
                continue;
            }
            for resource in resources(closing, &ladder) {
                let (paid, used) = ladder.used(closing, |key| key.resource == resource)?;
                let mut due = true_up(live, &ladder, used, &paid)?;
                if due.is_empty() {
                    due.extend(flat_at_zero(&ladder, used));
                }
                dues.extend(due.into_iter().map(|due| Due { subject: resource.clone(), ..due }));
            }
        }
    }
    Ok(dues)
}

/// The true-ups of the one hour that is closed.
pub(super) fn hour(closing: &Closing, live: &Live) -> Result<Vec<Due>, RateError> {
    let mut dues = Vec::new();
    for name in live.charge_names() {
        for ladder in Climbed::of(live, name) {
            if ladder.charge.is_hourly() {
                let (paid, used) = ladder.used(closing, |key| key.period == closing.period.from)?;
                dues.extend(true_up(live, &ladder, used, &paid)?);
            }
        }
    }
    Ok(dues)
}

/// Those of every hour in the period.
pub(super) fn true_ups_of_hours(closing: &Closing, live: &Live) -> Result<Vec<Due>, RateError> {
    let mut dues = Vec::new();
    let is_hourly = |(_, version): &(Span, &Version)| version.terms.charges.values().any(|charge| charge.is_hourly());
    if !live.versions.iter().any(is_hourly) {
        return Ok(dues);
    }
    let mut begin = hour_floor(closing.period.from);
    if begin < closing.period.from {
        // The hour that a period begins in belongs to the period before.
        begin += SECONDS_PER_HOUR;
    }
    while begin < closing.period.to {
        let period = Span { from: begin, to: begin + SECONDS_PER_HOUR };
        let of_hour = Closing { period, ..*closing };
        dues.extend(hour(&of_hour, &Live::of(&of_hour))?);
        begin += SECONDS_PER_HOUR;
    }
    Ok(dues)
}

/// One ladder of a charge in a period: the versions that climb it together, the last of which says what is committed.
struct Climbed<'a> {
    name: &'a str,
    versions: BTreeSet<Second>,
    span: Span,
    last: &'a Version,
    charge: &'a Charge,
}

impl<'a> Climbed<'a> {
    fn of(live: &Live<'a>, name: &'a str) -> Vec<Climbed<'a>> {
        let mut ladders: Vec<Climbed> = Vec::new();
        for (span, version, charge) in live.charge(name).into_iter().filter(|(_, _, charge)| charge.is_metered()) {
            let goes_on = |ladder: &&mut Climbed| {
                !charge.resets
                    && ladder.charge.basis == charge.basis
                    && ladder.charge.pieces_per_unit == charge.pieces_per_unit
                    && ladder.charge.is_hourly() == charge.is_hourly()
            };
            match ladders.last_mut().filter(goes_on) {
                Some(ladder) => {
                    ladder.versions.insert(version.span.from);
                    ladder.span.to = span.to;
                    (ladder.last, ladder.charge) = (version, charge);
                }
                None => {
                    let versions = BTreeSet::from([version.span.from]);
                    ladders.push(Climbed { name, versions, span, last: version, charge });
                }
            }
        }
        ladders
    }

    /// What was billed on this ladder, and what was paid to whom.
    fn used(
        &self,
        closing: &Closing,
        is_wanted: impl Fn(&StateKey) -> bool,
    ) -> Result<(BTreeMap<String, Micro>, Micro), MoneyError> {
        let (mut paid, mut billed) = (BTreeMap::new(), 0);
        let states: Vec<&State> = closing
            .states
            .iter()
            .filter(|(key, _)| key.charge == self.name && is_wanted(key))
            .map(|(_, s)| s)
            .collect();
        let is_here = |key: &CellKey| self.versions.contains(&key.version_from);
        for (key, cell) in states.into_iter().flatten().filter(|(key, _)| is_here(key)) {
            billed = plus(billed, cell.billed)?;
            let sum = paid.entry(key.supplier.clone()).or_default();
            *sum = plus(*sum, cell.paid)?;
        }
        Ok((paid, billed))
    }
}

/// The resources that have a ladder of their own: those that were used and those that could have been.
fn resources(closing: &Closing, ladder: &Climbed) -> BTreeSet<String> {
    if ladder.charge.scope == Scope::Contract {
        return BTreeSet::from([String::new()]);
    }
    let on_it =
        |state: &State| state.iter().any(|(key, cell)| cell.billed != 0 && ladder.versions.contains(&key.version_from));
    let used = closing.states.iter().filter(|(key, state)| key.charge == ladder.name && on_it(state));
    let mut resources: BTreeSet<String> = used.map(|(key, _)| key.resource.clone()).collect();
    for lease in closing.leases.iter().filter(|lease| lease.span.intersect(ladder.span).is_some()) {
        match ladder.charge.scope {
            Scope::Contract => {}
            Scope::Lease => drop(resources.insert(lease.lease.clone())),
            Scope::Server => drop(resources.insert(lease.server.clone())),
            Scope::Gpu => resources.extend(lease.slots.iter().map(|slot| format!("{}/{slot}", lease.lease))),
        }
    }
    resources
}

fn true_up(live: &Live, ladder: &Climbed, used: Micro, paid: &BTreeMap<String, Micro>) -> Result<Vec<Due>, RateError> {
    let charge = ladder.charge;
    let Some(commitment) = charge.commitment.filter(|c| c.true_up && used < c.quantity) else { return Ok(Vec::new()) };
    let denominator = Denominator::of([charge])?;
    let Some(function) = Ladder::of(charge, 0, denominator)? else { return Ok(Vec::new()) };
    let numerator = sub(function.total(commitment.quantity)?, function.total(used)?)?;
    let exact = Exact { numerator, denominator: denominator.value()? };
    let amount = exact.round()?;
    if amount.scaled() <= 0 {
        return Ok(Vec::new());
    }
    let show = |quantity| show_units(quantity, charge.pieces_per_unit);
    let (committed, units) = (show(commitment.quantity), show(used));
    let why = format!("{committed} units are committed, {units} were used");
    let mut dues = vec![Due { charge: ladder.name.to_owned(), ..Due::new(DueKind::TrueUp, amount, why) }];

    // Suppliers share it only where their terms say so, by what each was paid for.
    let all: Micro = paid.values().try_fold(0, |sum, quantity| plus(sum, *quantity))?;
    let terms = live.last();
    for (supplier, quantity) in paid.iter().filter(|(_, quantity)| **quantity > 0) {
        let Some(terms) = terms.and_then(|t| supplier_terms(t, supplier)).filter(|t| t.shares_true_ups) else {
            continue;
        };
        let part = exact.times(*quantity, all)?.share(terms.share)?.round()?;
        let why = format!("{} % of its part of the true-up", terms.share);
        dues.push(Due {
            charge: ladder.name.to_owned(),
            supplier: Some(supplier.clone()),
            supplier_amount: part,
            ..Due::new(DueKind::TrueUp, Amount::ZERO, why)
        });
    }
    let version_from = Some(ladder.last.span.from);
    Ok(dues.into_iter().map(|due| Due { version_from, ..due }).collect())
}

/// The first tier's flat fee, where the ladder was not entered.
fn flat_at_zero(ladder: &Climbed, used: Micro) -> Option<Due> {
    let charge = ladder.charge;
    let (Pricing::Graduated(tiers) | Pricing::Volume(tiers)) = &charge.pricing else { return None };
    let first = tiers.first().filter(|_| charge.flat_at_zero && used <= charge.free)?;
    let flat = Exact { numerator: I256::from(first.flat.scaled()), denominator: I256::from(PRICE_PER_AMOUNT) };
    let amount = flat.round().ok()?;
    let why = "the first tier's flat fee is due without usage too".to_owned();
    let due = Due::new(DueKind::FlatAtZero, amount, why);
    Some(Due { charge: ladder.name.to_owned(), version_from: Some(ladder.last.span.from), ..due })
}

fn plus(a: Micro, b: Micro) -> Result<Micro, MoneyError> {
    a.checked_add(b).ok_or(MoneyError::Overflow { doing: "summing quantities" })
}
