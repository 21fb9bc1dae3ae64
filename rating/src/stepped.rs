//! Minimum and step of a quantity: per lease and slot, cumulative over the whole lease, across periods and versions.
//!
//! What is counted of the first `x` pieces of a lease's slot is `max(minimum, x rounded to the step)`, and nothing when `x` is zero; each piece of
//! use is the difference that it makes to that (law 4), so a lease of 90 minutes rated by the hour is one hour in its first and one
//! in its second, however it was cut. Both sides' quantities are stepped alike.

use std::collections::BTreeMap;

use hydrometer_schemas::contract::Rounding;
use hydrometer_schemas::time::Second;

use crate::keys::{Cell, CellKey};
use crate::money::MoneyError;
use crate::rate::{RateError, Rates};
use crate::terms::{MICRO, Micro, Step};

/// What one slot of one lease used of one charge: by billing period and cell, which is the order of time.
pub type Pieces = BTreeMap<(Second, CellKey), Cell>;

/// What is counted of the raw pieces of one lease and slot. A piece is stepped by its own version's rule. What was used under a version
/// without minimum and step counts as it is, and towards no other version's: it is never kept by lease and slot, so an amendment that
/// brings a step does not reach back.
pub fn stepped(raw: &Pieces, rates: &dyn Rates) -> Result<Pieces, RateError> {
    let mut before = Cell::default();
    let mut counted = Pieces::new();
    for (key, piece) in raw {
        let rate = rates.rate(key.1.rate).ok_or(RateError::UnknownRate(key.1.rate))?;
        if rate.charge.step.is_none() {
            counted.insert(key.clone(), *piece);
            continue;
        }
        let after = Cell { billed: plus(before.billed, piece.billed)?, paid: plus(before.paid, piece.paid)? };
        let step = rate.charge.step;
        let difference = |before, after| minus(counts(step, after)?, counts(step, before)?);
        let cell =
            Cell { billed: difference(before.billed, after.billed)?, paid: difference(before.paid, after.paid)? };
        counted.insert(key.clone(), cell);
        before = after;
    }
    Ok(counted)
}

/// What `added` raw pieces change in what is counted, later pieces of the lease included. Pieces without a change are left out.
pub fn stepped_difference(raw: &Pieces, added: &Pieces, rates: &dyn Rates) -> Result<Pieces, RateError> {
    let mut sums = raw.clone();
    for (key, piece) in added {
        let sum = sums.entry(key.clone()).or_default();
        let (billed, paid) = (plus(sum.billed, piece.billed)?, plus(sum.paid, piece.paid)?);
        if let Some((before, added)) =
            [(sum.billed, piece.billed), (sum.paid, piece.paid)].into_iter().find(|(a, b)| a + b < 0)
        {
            return Err(RateError::BelowZero { before, added });
        }
        *sum = Cell { billed, paid };
    }
    let before = stepped(raw, rates)?;
    let mut difference = stepped(&sums, rates)?;
    for (key, cell) in &mut difference {
        let old = before.get(key).copied().unwrap_or_default();
        *cell = Cell { billed: minus(cell.billed, old.billed)?, paid: minus(cell.paid, old.paid)? };
    }
    difference.retain(|_, cell| *cell != Cell::default());
    Ok(difference)
}

/// What is counted of `x`, cumulative. Half a step rounds up where the nearest is asked for.
fn counts(step: Option<Step>, x: Micro) -> Result<Micro, MoneyError> {
    let Some(step) = step else { return Ok(x) };
    if x <= 0 {
        return Ok(0);
    }
    let length = Micro::from(step.step.max(1)) * MICRO;
    let below = x / length;
    let rest = x % length;
    let up = match step.rounding {
        Rounding::Up => rest > 0,
        Rounding::Down => false,
        Rounding::Nearest => rest * 2 >= length,
    };
    let rounded =
        (below + Micro::from(up)).checked_mul(length).ok_or(MoneyError::Overflow { doing: "rounding a quantity" })?;
    Ok(rounded.max(Micro::from(step.minimum) * MICRO))
}

fn plus(a: Micro, b: Micro) -> Result<Micro, MoneyError> {
    a.checked_add(b).ok_or(MoneyError::Overflow { doing: "summing quantities" })
}

fn minus(a: Micro, b: Micro) -> Result<Micro, MoneyError> {
    a.checked_sub(b).ok_or(MoneyError::Overflow { doing: "subtracting quantities" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimum_and_step_over_the_whole_lease() {
        let hour = Some(Step { minimum: 600, step: 3_600, rounding: Rounding::Up });
        assert_eq!(counts(hour, 0).unwrap(), 0);
        assert_eq!(counts(hour, 1).unwrap(), 3_600 * MICRO);
        assert_eq!(counts(hour, 5_400 * MICRO).unwrap(), 7_200 * MICRO);
        let seconds = Some(Step { minimum: 60, step: 1, rounding: Rounding::Up });
        assert_eq!(counts(seconds, 10 * MICRO).unwrap(), 60 * MICRO);
        assert_eq!(counts(seconds, 61 * MICRO).unwrap(), 61 * MICRO);
        let nearest = Some(Step { minimum: 0, step: 60, rounding: Rounding::Nearest });
        assert_eq!(counts(nearest, 89 * MICRO).unwrap(), 60 * MICRO);
        assert_eq!(counts(nearest, 90 * MICRO).unwrap(), 120 * MICRO);
        let down = Some(Step { minimum: 0, step: 60, rounding: Rounding::Down });
        assert_eq!(counts(down, 119 * MICRO).unwrap(), 60 * MICRO);
    }
}
