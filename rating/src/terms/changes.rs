//! How versions of a contract follow each other.

use chrono::{Datelike, TimeZone};
use hydrometer_schemas::contract::{Decimal, PeriodLength};
use hydrometer_schemas::time::{Second, show_second};

use super::{Mistake, Terms, compile};
use crate::calendar::Calendar;

impl Terms {
    /// The version that begins at `effective` with another price of one charge: this document with that price.
    pub fn with_price(&self, charge: &str, price: &str, effective: Second) -> Result<Terms, Mistake> {
        let field = format!("charges.{charge}.price");
        let mistake = |what: &str, expected: &str| Mistake {
            field: field.clone(),
            what: what.into(),
            expected: expected.into(),
            hint: String::new(),
        };
        let mut document = self.document.clone();
        let Some(found) = document.charges.get_mut(charge) else {
            return Err(mistake("the contract has no such charge", "a charge of the contract in force"));
        };
        if found.price.is_none() {
            return Err(mistake("the charge has tiers, packages or a percentage", "a charge with a plain `price`"));
        }
        found.price = Some(Decimal(price.to_owned()));
        document.effective = show_second(effective);
        compile(&document)
            .map_err(|mistakes| mistakes.into_iter().next().unwrap_or_else(|| mistake("cannot be changed", "a price")))
    }
}

/// In what a version contradicts the one before it: what one contract can never change, and what it cannot change inside a billing
/// period, since quantities of one period would count in two ways.
pub fn contradicts(predecessor: &Terms, next: &Terms) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let mut say = |field: &str, what: String, expected: String, hint: &str| {
        mistakes.push(Mistake { field: field.into(), what, expected, hint: hint.into() });
    };
    for (field, before, after, hint) in [
        ("contract", &predecessor.contract, &next.contract, ""),
        ("renter", &predecessor.renter, &next.renter, "another renter needs a contract of its own"),
        ("currency", &predecessor.currency, &next.currency, "another currency needs a contract of its own"),
    ] {
        if before != after {
            let what = format!("{after:?} contradicts the version before it, which has {before:?}");
            say(field, what, format!("{before:?}"), hint);
        }
    }
    if let Some(term) = predecessor.term.filter(|term| term.renewal_months.is_none() && next.effective > term.ends) {
        let what = format!("the contract had ended at {}", show_second(term.ends));
        let hint = "a renewal begins in the second in which the term before it ends; a new agreement has a new name";
        say("effective", what, format!("at most {}", show_second(term.ends)), hint);
    }

    let is_boundary = |calendar| begins_period(calendar, next.effective);
    let at_boundary = is_boundary(&predecessor.calendar) && is_boundary(&next.calendar);
    if at_boundary {
        return mistakes;
    }
    let expected = "the same, or an `effective` at which a billing period begins, before and after";
    if predecessor.calendar.zone != next.calendar.zone {
        let what = format!("the zone changes from {} inside a billing period", predecessor.calendar.zone);
        say("time_zone", what, expected.into(), "");
    }
    if (predecessor.calendar.length, predecessor.calendar.day) != (next.calendar.length, next.calendar.day) {
        say("calendar", "billing periods change inside a billing period".into(), expected.into(), "");
    }
    for (name, after) in &next.charges {
        let Some(before) = predecessor.charges.get(name) else { continue };
        if before.basis != after.basis || before.pieces_per_unit != after.pieces_per_unit {
            let what = format!("{name:?} would count two kinds of units in one billing period");
            let field = if before.basis == after.basis { "slices_per_card" } else { "basis" };
            say(&format!("charges.{name}.{field}"), what, expected.into(), "a charge of another kind has another name");
        }
        if before.scope != after.scope && !after.resets {
            let what = "a ladder's position cannot carry over to another scope inside a billing period".into();
            let hint = "`on_change: reset` begins anew";
            say(&format!("charges.{name}.scope"), what, expected.into(), hint);
        }
    }
    mistakes
}

/// Whether a billing period begins in this very second: the first of its local date, which need not be midnight where clocks change.
fn begins_period(calendar: &Calendar, second: Second) -> bool {
    let date_of = |second: Second| calendar.zone.timestamp_opt(second, 0).single().map(|time| time.date_naive());
    let (Some(date), Some(before)) = (date_of(second), second.checked_sub(1).and_then(date_of)) else { return false };
    let is_first_month = match calendar.length {
        PeriodLength::Month => true,
        PeriodLength::Quarter => date.month0() % 3 == 0,
        PeriodLength::Year => date.month0() == 0,
    };
    date != before && date.day() == u32::from(calendar.day) && is_first_month
}
