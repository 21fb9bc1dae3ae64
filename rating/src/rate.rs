//! Quantities to amounts, by cumulative difference (law 4).
//!
//! The state of a (contract, charge, period) is a small vector of [`Cell`]s: one per price version and supplier. Its amounts are a
//! pure function of its quantities ([`amounts`]); a step is the difference of two states, so neither the order nor the number of
//! steps can change where a period ends.

use std::collections::BTreeMap;

use hydrometer_schemas::time::Second;

use crate::money::{
    Amount, Exact, MoneyError, Price, Share, renter_exact, round_half_even, share_by_largest_remainder, supplier_exact,
};

/// What tells one cell from another: all that its amounts depend on besides the quantities. A backdated change of price moves
/// quantity from one cell to another; it never changes what a cell means.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CellKey {
    pub version_from: Second,
    pub price: Price,
    pub share: Share,
    pub supplier: String,
}

/// Cumulative seconds of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cell {
    pub billed: i64,
    pub paid: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CellAmounts {
    pub renter: Amount,
    pub supplier: Amount,
}

pub type State = BTreeMap<CellKey, Cell>;
pub type Amounts = BTreeMap<CellKey, CellAmounts>;

/// The amounts of a state. The renter's total is rounded once for the whole state, the supplier's once per supplier; each is then
/// shared over its cells by largest remainder.
pub fn amounts(state: &State) -> Result<Amounts, MoneyError> {
    let mut amounts: Amounts = state.keys().map(|key| (key.clone(), CellAmounts::default())).collect();

    let keys: Vec<&CellKey> = state.keys().collect();
    let renter_parts: Vec<Exact> =
        state.iter().map(|(key, cell)| renter_exact(key.price, cell.billed)).collect::<Result<_, _>>()?;
    for (key, share) in keys.iter().zip(round_and_share(&renter_parts)?) {
        if let Some(cell) = amounts.get_mut(*key) {
            cell.renter = Amount::from_scaled(share);
        }
    }

    let mut by_supplier: BTreeMap<&str, Vec<&CellKey>> = BTreeMap::new();
    for key in keys {
        by_supplier.entry(&key.supplier).or_default().push(key);
    }
    for keys in by_supplier.into_values() {
        let parts: Vec<Exact> = keys
            .iter()
            .map(|key| supplier_exact(key.price, key.share, state.get(*key).map_or(0, |cell| cell.paid)))
            .collect::<Result<_, _>>()?;
        for (key, share) in keys.into_iter().zip(round_and_share(&parts)?) {
            if let Some(cell) = amounts.get_mut(key) {
                cell.supplier = Amount::from_scaled(share);
            }
        }
    }
    Ok(amounts)
}

fn round_and_share(parts: &[Exact]) -> Result<Vec<i128>, MoneyError> {
    let Some(first) = parts.first() else { return Ok(Vec::new()) };
    let mut sum: i128 = 0;
    for part in parts {
        sum = sum.checked_add(part.numerator).ok_or(MoneyError::Overflow { doing: "summing a period" })?;
    }
    let total = round_half_even(Exact { numerator: sum, denominator: first.denominator });
    let (shares, left) = share_by_largest_remainder(total, parts)?;
    debug_assert_eq!(left, 0, "a rounded sum of floors and remainders always places");
    Ok(shares)
}

/// One step of one cell: what it was, what it is, and thereby what is to be booked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CellStep {
    pub key: CellKey,
    pub quantity_before: Cell,
    pub quantity_after: Cell,
    pub amounts_before: CellAmounts,
    pub amounts_after: CellAmounts,
}

impl CellStep {
    pub fn renter_difference(&self) -> Result<Amount, MoneyError> {
        self.amounts_after.renter.checked_sub(self.amounts_before.renter)
    }

    pub fn supplier_difference(&self) -> Result<Amount, MoneyError> {
        self.amounts_after.supplier.checked_sub(self.amounts_before.supplier)
    }
}

/// Adds quantities to `state` and says what changed, in cell order. Cells without any change are left out. A step that would take
/// a cumulative quantity below zero is an error: something was taken back that had never been rated.
pub fn step(state: &mut State, added: &State) -> Result<Vec<CellStep>, MoneyError> {
    let before = amounts(state)?;
    let quantities_before = state.clone();
    for (key, cell) in added {
        let total = state.entry(key.clone()).or_default();
        let sum = |a: i64, b: i64| match a.checked_add(b) {
            Some(sum) if sum >= 0 => Ok(sum),
            Some(_) => Err(MoneyError::OutOfRange {
                what: "cumulative quantity",
                text: format!("{a} {b:+} s"),
                expected: "at least 0 s",
            }),
            None => Err(MoneyError::Overflow { doing: "summing seconds" }),
        };
        *total = Cell { billed: sum(total.billed, cell.billed)?, paid: sum(total.paid, cell.paid)? };
    }
    let after = amounts(state)?;
    let mut steps = Vec::new();
    for (key, amounts_after) in after {
        let amounts_before = before.get(&key).copied().unwrap_or_default();
        let quantity_before = quantities_before.get(&key).copied().unwrap_or_default();
        let quantity_after = state.get(&key).copied().unwrap_or_default();
        if amounts_before != amounts_after || quantity_before != quantity_after {
            steps.push(CellStep { key, quantity_before, quantity_after, amounts_before, amounts_after });
        }
    }
    Ok(steps)
}

/// A step's amounts, spread over its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    pub renter: Vec<Amount>,
    pub supplier: Vec<Amount>,
    /// What has no record to carry it; it becomes a record of kind `adjustment` with quantity 0.
    pub adjustment: CellAmounts,
}

/// Spreads the difference of one cell over its records (`quantities`, in a stable order) by quantity and largest remainder at the
/// ninth decimal, so that records add up to postings exactly.
pub fn spread(key: &CellKey, renter: Amount, supplier: Amount, quantities: &[Cell]) -> Result<Spread, MoneyError> {
    let renter_parts: Vec<Exact> =
        quantities.iter().map(|q| renter_exact(key.price, q.billed)).collect::<Result<_, _>>()?;
    let supplier_parts: Vec<Exact> =
        quantities.iter().map(|q| supplier_exact(key.price, key.share, q.paid)).collect::<Result<_, _>>()?;
    let (renter_shares, renter_left) = share_by_largest_remainder(renter.scaled(), &renter_parts)?;
    let (supplier_shares, supplier_left) = share_by_largest_remainder(supplier.scaled(), &supplier_parts)?;
    let as_amounts = |shares: Vec<i128>| shares.into_iter().map(Amount::from_scaled).collect();
    Ok(Spread {
        renter: as_amounts(renter_shares),
        supplier: as_amounts(supplier_shares),
        adjustment: CellAmounts {
            renter: Amount::from_scaled(renter_left),
            supplier: Amount::from_scaled(supplier_left),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(from: Second, price: &str, share: &str, supplier: &str) -> CellKey {
        CellKey {
            version_from: from,
            price: Price::parse(price).unwrap(),
            share: Share::parse_percent(share).unwrap(),
            supplier: supplier.into(),
        }
    }

    fn cell(seconds: i64) -> Cell {
        Cell { billed: seconds, paid: seconds }
    }

    /// Worked case: 8 GPUs at 2.50 an hour, the price becomes 2.20 at 10:20:30; the hour is 18.42, of which 80 % are the supplier's.
    #[test]
    fn split_at_the_second_and_both_sides() {
        let state = State::from([
            (key(0, "2.50", "80", "s"), cell(8 * 1_230)),
            (key(1_230, "2.20", "80", "s"), cell(8 * 2_370)),
        ]);
        let amounts = amounts(&state).unwrap();
        let renter: i128 = amounts.values().map(|a| a.renter.scaled()).sum();
        let supplier: i128 = amounts.values().map(|a| a.supplier.scaled()).sum();
        assert_eq!(Amount::from_scaled(renter).to_string(), "18.420000000");
        assert_eq!(Amount::from_scaled(supplier).to_string(), "14.736000000");
    }

    /// Worked case: 1.71 an hour, 600 s are 0.285 each time.
    #[test]
    fn six_hundred_seconds() {
        let mut state = State::new();
        for _ in 0..3 {
            let steps = step(&mut state, &State::from([(key(0, "1.71", "0", "s"), cell(600))])).unwrap();
            assert_eq!(steps[0].renter_difference().unwrap().to_string(), "0.285000000");
        }
    }

    #[test]
    fn taking_back_more_than_there_was_is_an_error() {
        let mut state = State::from([(key(0, "1", "50", "s"), cell(10))]);
        assert!(step(&mut state, &State::from([(key(0, "1", "50", "s"), cell(-11))])).is_err());
    }

    fn cells() -> impl Strategy<Value = Vec<(usize, i64)>> {
        prop::collection::vec((0usize..5, 0i64..100_000), 1..40)
    }

    proptest! {
        /// Law 4: any order and any number of steps end in the same state and the same amounts, and the differences add up to them.
        #[test]
        fn order_and_number_of_steps_do_not_matter(quantities in cells(), seed in any::<u64>()) {
            let keys = [
                key(0, "2.499999999999", "80", "a"), key(0, "2.499999999999", "80", "b"), key(900, "0.000000000007", "33.333333", "a"),
                key(1_800, "999999.123456789012", "66.666667", "b"), key(2_700, "1.71", "0", "c"),
            ];
            let mut whole = State::new();
            let all = quantities.iter().fold(State::new(), |mut sum, (k, s)| {
                let c = sum.entry(keys[*k].clone()).or_default();
                *c = Cell { billed: c.billed + s, paid: c.paid + s / 2 };
                sum
            });
            step(&mut whole, &all).unwrap();

            let mut order: Vec<usize> = (0..quantities.len()).collect();
            order.sort_by_key(|i| (seed ^ (*i as u64)).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let mut stepped = State::new();
            let mut sums: BTreeMap<CellKey, (i128, i128)> = BTreeMap::new();
            for i in order {
                let (k, s) = quantities[i];
                let added = State::from([(keys[k].clone(), Cell { billed: s, paid: s / 2 })]);
                for cell_step in step(&mut stepped, &added).unwrap() {
                    let sum = sums.entry(cell_step.key.clone()).or_default();
                    sum.0 += cell_step.renter_difference().unwrap().scaled();
                    sum.1 += cell_step.supplier_difference().unwrap().scaled();
                }
            }
            prop_assert_eq!(&whole, &stepped);
            for (key, amounts) in amounts(&whole).unwrap() {
                let sum = sums.get(&key).copied().unwrap_or_default();
                prop_assert_eq!((amounts.renter.scaled(), amounts.supplier.scaled()), sum);
            }
        }

        /// Records and adjustment add up to the step, whatever the signs of the quantities.
        #[test]
        fn a_spread_adds_up(seconds in prop::collection::vec(-100_000i64..100_000, 0..30), off in -3i128..4) {
            let key = key(0, "2.499999999999", "33.333333", "a");
            let quantities: Vec<Cell> = seconds.iter().map(|&s| cell(s)).collect();
            let sum: i64 = seconds.iter().sum();
            let renter = Amount::from_scaled(round_half_even(renter_exact(key.price, sum).unwrap()) + off);
            let supplier = Amount::from_scaled(round_half_even(supplier_exact(key.price, key.share, sum).unwrap()) - off);
            let spread = spread(&key, renter, supplier, &quantities).unwrap();
            let total = |amounts: &[Amount]| amounts.iter().map(|a| a.scaled()).sum::<i128>();
            prop_assert_eq!(total(&spread.renter) + spread.adjustment.renter.scaled(), renter.scaled());
            prop_assert_eq!(total(&spread.supplier) + spread.adjustment.supplier.scaled(), supplier.scaled());
        }
    }
}
