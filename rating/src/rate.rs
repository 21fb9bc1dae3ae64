//! Quantities to amounts, by cumulative difference (law 4).
//!
//! The state of a (contract, charge, period[, resource]) is a small vector of [`Cell`]s: one per price version, rate, time of the week
//! and supplier. Its amounts are a pure function of its quantities ([`amounts`]); a step is the difference of two states, so neither
//! the order nor the number of steps can change where a period ends.
//!
//! **The renter's side.** Cells of one version and time of the week are a *segment*. Segments climb one ladder in order of effective
//! time; a segment's cost is `cost(position + quantity) - cost(position)` on its own version's ladder, and the position carries over
//! from one to the next, unless the next version resets it (or counts something else). A volume price looks at the position at the
//! end; its flat fee belongs to the last segment. Costs are summed exactly, **rounded once**, and shared over the segments and then
//! over each segment's cells by quantity, by largest remainder.
//!
//! **The supplier's side** is a share of the same function of the quantities that it is paid for, or a ladder of its own; it is
//! rounded once per supplier. Where all prices are linear the share is taken before any rounding.
//!
//! Cells without a quantity have no say: a state that was taken back is as if it had never been.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ethnum::I256;
use hydrometer_schemas::time::Second;

use crate::history::History;
use crate::keys::{Cell, CellKey};
use crate::ladder::{Denominator, Ladder};
use crate::money::{
    Amount, Exact, MoneyError, SHARE_WHOLE, add, mul, round_half_even, share_by_largest_remainder, share_by_weight, sub,
};
use crate::terms::{Charge, Micro, Rate, RateId, SupplierSide};

pub type State = BTreeMap<CellKey, Cell>;
pub type Amounts = BTreeMap<CellKey, CellAmounts>;

/// Where the rates are found that a state's cells name, superseded ones too: a timeline of contracts, or a plain map.
pub trait Rates {
    fn rate(&self, id: RateId) -> Option<&Rate>;
}

impl Rates for HashMap<RateId, Arc<Rate>> {
    fn rate(&self, id: RateId) -> Option<&Rate> {
        self.get(&id).map(|rate| &**rate)
    }
}

impl Rates for History {
    fn rate(&self, id: RateId) -> Option<&Rate> {
        History::rate(self, id).map(|rate| &**rate)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CellAmounts {
    pub renter: Amount,
    pub supplier: Amount,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    #[error(transparent)]
    Money(#[from] MoneyError),
    #[error("rate {0} is not known: expected the terms of every version that a state's cells come from")]
    UnknownRate(RateId),
    #[error("charge {charge:?} is not metered, yet it has a quantity")]
    NotMetered { charge: String },
    #[error(
        "a cumulative quantity would fall below zero ({before} {added:+} millionths of a piece): more is taken back than was ever rated"
    )]
    BelowZero { before: Micro, added: Micro },
}

/// The amounts of a state, of every cell in it.
///
/// # Errors
/// When a rate is missing or a sum does not fit exact arithmetic.
pub fn amounts(state: &State, rates: &dyn Rates) -> Result<Amounts, RateError> {
    let listed = list(state, rates)?;
    let values = evaluate(&listed)?;
    Ok(state.keys().cloned().zip(values).collect())
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

/// Adds quantities to `state` and says what changed, in cell order. Cells without any change are left out.
///
/// # Errors
/// Like [`amounts`]; and when a cumulative quantity would fall below zero. The state is then as it was.
pub fn step(state: &mut State, added: &State, rates: &dyn Rates) -> Result<Vec<CellStep>, RateError> {
    let mut sums = state.clone();
    for (key, cell) in added {
        let total = sums.entry(key.clone()).or_default();
        *total = Cell { billed: sum(total.billed, cell.billed)?, paid: sum(total.paid, cell.paid)? };
    }
    let before = evaluate(&list(state, rates)?)?;
    let after = evaluate(&list(&sums, rates)?)?;
    let mut steps = Vec::new();
    let mut olds = state.iter().zip(before).peekable();
    for ((key, &quantity_after), amounts_after) in sums.iter().zip(after) {
        let (quantity_before, amounts_before) = match olds.next_if(|((old, _), _)| *old == key) {
            Some(((_, &quantity), amounts)) => (quantity, amounts),
            None => Default::default(),
        };
        if amounts_before != amounts_after || quantity_before != quantity_after {
            steps.push(CellStep { key: key.clone(), quantity_before, quantity_after, amounts_before, amounts_after });
        }
    }
    *state = sums;
    Ok(steps)
}

fn sum(before: Micro, added: Micro) -> Result<Micro, RateError> {
    match before.checked_add(added) {
        Some(sum) if sum >= 0 => Ok(sum),
        Some(_) => Err(RateError::BelowZero { before, added }),
        None => Err(MoneyError::Overflow { doing: "summing quantities" }.into()),
    }
}

/// A step's amounts, spread over its records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spread {
    pub renter: Vec<Amount>,
    pub supplier: Vec<Amount>,
    /// What has no record to carry it; it becomes a record of kind `adjustment` with quantity 0.
    pub adjustment: CellAmounts,
}

/// Spreads the difference of one cell over its records (`quantities`, in a stable order), so that records and adjustment add up to
/// what is booked, exactly.
///
/// Every record gets its quantity times the step's average, by largest remainder at the ninth decimal; a record that takes back
/// among others that add has that average too, with its own sign. An amount whose sign is not that of the records' sum (a volume
/// price fell for all that was used before) or that has no quantity at all is no record's doing: it is the adjustment.
pub fn spread(renter: Amount, supplier: Amount, quantities: &[Cell]) -> Result<Spread, MoneyError> {
    let billed: Vec<Micro> = quantities.iter().map(|cell| cell.billed).collect();
    let paid: Vec<Micro> = quantities.iter().map(|cell| cell.paid).collect();
    let (renter, renter_left) = spread_side(renter, &billed)?;
    let (supplier, supplier_left) = spread_side(supplier, &paid)?;
    Ok(Spread { renter, supplier, adjustment: CellAmounts { renter: renter_left, supplier: supplier_left } })
}

fn spread_side(amount: Amount, quantities: &[Micro]) -> Result<(Vec<Amount>, Amount), MoneyError> {
    let mut sum: Micro = 0;
    for &quantity in quantities {
        sum = sum.checked_add(quantity).ok_or(MoneyError::Overflow { doing: "summing quantities" })?;
    }
    if sum == 0 || sum.signum() != amount.scaled().signum() {
        return Ok((vec![Amount::ZERO; quantities.len()], amount));
    }
    let shares = share_by_weight(amount.scaled(), quantities)?;
    Ok((shares.into_iter().map(Amount::from_scaled).collect(), Amount::ZERO))
}

/// A cell with its rate.
pub(crate) struct Listed<'a> {
    pub key: &'a CellKey,
    pub cell: Cell,
    pub rate: &'a Rate,
}

pub(crate) fn list<'a>(state: &'a State, rates: &'a dyn Rates) -> Result<Vec<Listed<'a>>, RateError> {
    let mut listed = Vec::with_capacity(state.len());
    for (key, &cell) in state {
        let rate = rates.rate(key.rate).ok_or(RateError::UnknownRate(key.rate))?;
        listed.push(Listed { key, cell, rate });
    }
    Ok(listed)
}

fn evaluate(cells: &[Listed]) -> Result<Vec<CellAmounts>, RateError> {
    let denominator = Denominator::of(cells.iter().map(|listed| &*listed.rate.charge))?;
    let renter = gross(cells, denominator, |cell| cell.billed)?;
    let supplier = supplier_amounts(cells, denominator)?;
    let pairs = renter.into_iter().zip(supplier);
    Ok(pairs.map(|(r, s)| CellAmounts { renter: Amount::from_scaled(r), supplier: Amount::from_scaled(s) }).collect())
}

/// A run of cells with one price function: one version, one charge, one time of the week.
pub(crate) struct Segment<'a> {
    pub version_from: Second,
    pub charge: &'a Charge,
    pub time: u16,
    /// Which of the listed cells.
    pub members: Vec<usize>,
    pub quantity: Micro,
    /// Where on the ladder it begins, and where the ladder's use ends.
    pub position: Micro,
    pub end: Micro,
    /// The last one on its ladder, which carries a volume tier's flat fee.
    pub last: bool,
    pub ladder: Ladder<'a>,
}

impl Segment<'_> {
    pub fn cost(&self) -> Result<I256, MoneyError> {
        let to = plus(self.position, self.quantity)?;
        let cost = sub(self.ladder.cost(to, self.end)?, self.ladder.cost(self.position, self.end)?)?;
        if self.last { add(cost, self.ladder.flat(self.end)?) } else { Ok(cost) }
    }
}

/// The segments of a state in order of evaluation, each with its place on the ladder. Cells without a quantity are in none.
pub(crate) fn segments<'a>(
    cells: &[Listed<'a>],
    denominator: Denominator,
    quantity: impl Fn(&Cell) -> Micro,
) -> Result<Vec<Segment<'a>>, RateError> {
    let mut segments: Vec<Segment> = Vec::new();
    for (index, listed) in cells.iter().enumerate() {
        let used = quantity(&listed.cell);
        if used == 0 {
            continue;
        }
        let charge = &*listed.rate.charge;
        let same = |segment: &&mut Segment| {
            segment.version_from == listed.key.version_from
                && segment.time == listed.key.segment
                && (std::ptr::eq(segment.charge, charge) || segment.charge == charge)
        };
        if let Some(segment) = segments.iter_mut().find(same) {
            segment.members.push(index);
            segment.quantity = plus(segment.quantity, used)?;
        } else {
            let ladder = Ladder::of(charge, listed.key.segment, denominator)?
                .ok_or_else(|| RateError::NotMetered { charge: charge.name.clone() })?;
            let (version_from, time) = (listed.key.version_from, listed.key.segment);
            let members = vec![index];
            segments.push(Segment {
                version_from,
                charge,
                time,
                members,
                quantity: used,
                position: 0,
                end: 0,
                last: false,
                ladder,
            });
        }
    }
    // Cells come by version and rate; neither segments nor their members shall depend on how rates are called.
    for segment in segments.iter_mut().filter(|segment| segment.members.len() > 1) {
        segment.members.sort_by_key(|&index| &cells[index].key.supplier);
    }
    segments.sort_by_key(|segment| (segment.version_from, segment.time));

    let mut first = 0;
    while first < segments.len() {
        let mut next = first;
        let mut end = 0;
        while next < segments.len() && (next == first || !starts_anew(&segments[next - 1], &segments[next])) {
            segments[next].position = end;
            end = plus(end, segments[next].quantity)?;
            next += 1;
        }
        for segment in &mut segments[first..next] {
            segment.end = end;
        }
        segments[next - 1].last = true;
        first = next;
    }
    Ok(segments)
}

/// Whether a ladder begins at zero again: the new version says so, or it counts something else.
fn starts_anew(before: &Segment, segment: &Segment) -> bool {
    let (old, new) = (before.charge, segment.charge);
    (segment.version_from != before.version_from && new.resets)
        || (old.basis, old.pieces_per_unit) != (new.basis, new.pieces_per_unit)
}

/// What the renter would owe for `quantity`, per cell: rounded once, then shared.
fn gross(
    cells: &[Listed],
    denominator: Denominator,
    quantity: impl Fn(&Cell) -> Micro,
) -> Result<Vec<i128>, RateError> {
    let segments = segments(cells, denominator, &quantity)?;
    let mut result = vec![0; cells.len()];
    let mut costs = Vec::with_capacity(segments.len());
    for segment in &segments {
        costs.push(segment.cost()?);
    }
    let shares = round_and_share(&costs, denominator.value()?)?;
    for (segment, share) in segments.iter().zip(shares) {
        if let [only] = segment.members[..] {
            result[only] = share;
            continue;
        }
        let weights: Vec<Micro> = segment.members.iter().map(|&index| quantity(&cells[index].cell)).collect();
        for (&index, part) in segment.members.iter().zip(share_by_weight(share, &weights)?) {
            result[index] = part;
        }
    }
    Ok(result)
}

fn round_and_share(costs: &[I256], denominator: I256) -> Result<Vec<i128>, MoneyError> {
    let mut sum = I256::ZERO;
    for &cost in costs {
        sum = add(sum, cost)?;
    }
    let total = round_half_even(Exact { numerator: sum, denominator })?;
    if costs.len() == 1 {
        return Ok(vec![total]);
    }
    let (shares, left) = share_by_largest_remainder(total, costs, denominator)?;
    debug_assert_eq!(left, 0, "a rounded sum of floors and remainders always places");
    Ok(shares)
}

fn supplier_amounts(cells: &[Listed], denominator: Denominator) -> Result<Vec<i128>, RateError> {
    let paid = |listed: &&Listed| listed.cell.paid != 0;
    let shared = |listed: &&Listed| matches!(listed.rate.supplier, SupplierSide::Share(_));
    let mut linear = true;
    for listed in cells.iter().filter(paid).filter(shared) {
        linear &=
            Ladder::of(&listed.rate.charge, listed.key.segment, denominator)?.is_some_and(|l| l.linear().is_some());
    }
    // A ladder's amounts are shared among suppliers, so there the share is of what was rounded and shared out.
    let any_shared = cells.iter().filter(paid).any(|listed| shared(&listed));
    let paid_gross = if linear || !any_shared { None } else { Some(gross(cells, denominator, |cell| cell.paid)?) };

    // Everything over the ladder's denominator times the whole of a share.
    let value = denominator.value()?;
    let whole = I256::from(SHARE_WHOLE);
    let mut result = vec![0; cells.len()];
    let mut done = vec![false; cells.len()];
    for first in 0..cells.len() {
        if done[first] {
            continue;
        }
        let supplier = &cells[first].key.supplier;
        let members: Vec<usize> = (first..cells.len()).filter(|&i| cells[i].key.supplier == *supplier).collect();
        let own = own_costs(cells, &members, denominator)?;
        let mut costs = Vec::with_capacity(members.len());
        for (&index, own) in members.iter().zip(own) {
            done[index] = true;
            let listed = &cells[index];
            costs.push(match (&listed.rate.supplier, &paid_gross) {
                (SupplierSide::Own(_), _) => mul(own, whole)?,
                (SupplierSide::Share(_), _) if listed.cell.paid == 0 => I256::ZERO,
                (SupplierSide::Share(share), None) => {
                    let ladder = Ladder::of(&listed.rate.charge, listed.key.segment, denominator)?
                        .ok_or_else(|| RateError::NotMetered { charge: listed.rate.charge.name.clone() })?;
                    mul(ladder.cost(listed.cell.paid, listed.cell.paid)?, I256::from(share.scaled()))?
                }
                (SupplierSide::Share(share), Some(gross)) => {
                    mul(mul(I256::from(gross[index]), I256::from(share.scaled()))?, value)?
                }
            });
        }
        for (&index, part) in members.iter().zip(round_and_share(&costs, mul(value, whole)?)?) {
            result[index] = part;
        }
    }
    Ok(result)
}

/// What one supplier's cells cost by rates of its own: each a stretch of its own ladder over its own paid quantity.
fn own_costs(cells: &[Listed], members: &[usize], denominator: Denominator) -> Result<Vec<I256>, RateError> {
    let mut costs = vec![I256::ZERO; members.len()];
    // The stretches of the ladder that is being climbed: (place among the members, position, quantity, ladder).
    let mut climbed: Vec<(usize, Micro, Micro, Ladder)> = Vec::new();
    let mut end: Micro = 0;
    let mut before: Option<&Listed> = None;
    for (place, &index) in members.iter().enumerate() {
        let listed = &cells[index];
        let SupplierSide::Own(pricing) = &listed.rate.supplier else { continue };
        if listed.cell.paid == 0 {
            continue;
        }
        let (charge, anew) = (&*listed.rate.charge, before.is_some_and(|before| own_starts_anew(before, listed)));
        if anew {
            settle_own(&mut climbed, end, &mut costs)?;
            end = 0;
        }
        let ladder = Ladder::own(charge, pricing, denominator)?
            .ok_or_else(|| RateError::NotMetered { charge: charge.name.clone() })?;
        climbed.push((place, end, listed.cell.paid, ladder));
        end = plus(end, listed.cell.paid)?;
        before = Some(listed);
    }
    settle_own(&mut climbed, end, &mut costs)?;
    Ok(costs)
}

fn own_starts_anew(before: &Listed, listed: &Listed) -> bool {
    let (old, new) = (&before.rate.charge, &listed.rate.charge);
    (before.key.version_from != listed.key.version_from && new.resets)
        || (old.basis, old.pieces_per_unit) != (new.basis, new.pieces_per_unit)
}

fn settle_own(
    climbed: &mut Vec<(usize, Micro, Micro, Ladder)>,
    end: Micro,
    costs: &mut [I256],
) -> Result<(), MoneyError> {
    let last = climbed.last().map(|stretch| stretch.0);
    for (place, position, quantity, ladder) in climbed.drain(..) {
        let mut cost = sub(ladder.cost(plus(position, quantity)?, end)?, ladder.cost(position, end)?)?;
        if last == Some(place) {
            cost = add(cost, ladder.flat(end)?)?;
        }
        costs[place] = cost;
    }
    Ok(())
}

fn plus(a: Micro, b: Micro) -> Result<Micro, MoneyError> {
    a.checked_add(b).ok_or(MoneyError::Overflow { doing: "summing quantities" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::{Price, Share};
    use crate::terms::{MICRO, Pricing, Tier};
    use hydrometer_schemas::contract::Basis;
    use proptest::prelude::*;

    type RateMap = HashMap<RateId, Arc<Rate>>;

    fn price(text: &str) -> Price {
        Price::parse(text).unwrap()
    }

    fn share(text: &str) -> SupplierSide {
        SupplierSide::Share(Share::parse_percent(text).unwrap())
    }

    /// A rate per GPU-hour, numbered by hand.
    fn rate(id: u128, pricing: Pricing, supplier: SupplierSide) -> (RateId, Arc<Rate>) {
        let sample = Rate::sample("gpu_hours", Basis::Allocated, 3_600, pricing);
        (RateId(id), Arc::new(Rate { id: RateId(id), supplier, ..sample }))
    }

    fn key(from: Second, rate: u128, supplier: &str) -> CellKey {
        CellKey { version_from: from, rate: RateId(rate), segment: 0, supplier: supplier.into() }
    }

    fn cell(seconds: i128) -> Cell {
        Cell { billed: seconds * MICRO, paid: seconds * MICRO }
    }

    fn totals(amounts: &Amounts) -> (String, String) {
        let sum = |side: fn(&CellAmounts) -> Amount| amounts.values().map(|a| side(a).scaled()).sum();
        (Amount::from_scaled(sum(|a| a.renter)).to_string(), Amount::from_scaled(sum(|a| a.supplier)).to_string())
    }

    /// Worked case: 8 GPUs at 2.50 an hour, the price becomes 2.20 at 10:20:30; the hour is 18.42, of which 80 % are the supplier's.
    #[test]
    fn split_at_the_second_and_both_sides() {
        let rates = RateMap::from([
            rate(1, Pricing::PerUnit(price("2.50")), share("80")),
            rate(2, Pricing::PerUnit(price("2.20")), share("80")),
        ]);
        let state = State::from([(key(0, 1, "s"), cell(8 * 1_230)), (key(1_230, 2, "s"), cell(8 * 2_370))]);
        assert_eq!(totals(&amounts(&state, &rates).unwrap()), ("18.420000000".into(), "14.736000000".into()));
    }

    /// Worked case: 1.71 an hour, 600 s are 0.285 each time.
    #[test]
    fn six_hundred_seconds() {
        let rates = RateMap::from([rate(1, Pricing::PerUnit(price("1.71")), share("0"))]);
        let mut state = State::new();
        for _ in 0..3 {
            let steps = step(&mut state, &State::from([(key(0, 1, "s"), cell(600))]), &rates).unwrap();
            assert_eq!(steps[0].renter_difference().unwrap().to_string(), "0.285000000");
        }
    }

    /// A volume price that falls takes back from what was used before: the total is what counts.
    #[test]
    fn volume_steps_may_be_negative() {
        let tiers = vec![
            Tier { up_to: Some(5 * 3_600 * MICRO), price: price("7"), flat: price("0") },
            Tier { up_to: None, price: price("1"), flat: price("0") },
        ];
        let rates = RateMap::from([rate(1, Pricing::Volume(tiers), share("50"))]);
        let mut state = State::new();
        step(&mut state, &State::from([(key(0, 1, "a"), cell(5 * 3_600))]), &rates).unwrap();
        let steps = step(&mut state, &State::from([(key(0, 1, "b"), cell(3_600))]), &rates).unwrap();
        let differences: Vec<String> = steps.iter().map(|s| s.renter_difference().unwrap().to_string()).collect();
        assert_eq!(differences, ["-30.000000000", "1.000000000"]);
        assert_eq!(totals(&amounts(&state, &rates).unwrap()), ("6.000000000".into(), "3.000000000".into()));
    }

    #[test]
    fn a_position_carries_over_a_change_of_price_unless_it_is_reset() {
        let tiers = |second: &str| {
            vec![
                Tier { up_to: Some(10 * 3_600 * MICRO), price: price("1"), flat: price("0") },
                Tier { up_to: None, price: price(second), flat: price("0") },
            ]
        };
        let mut rates = RateMap::from([
            rate(1, Pricing::Graduated(tiers("2")), share("0")),
            rate(2, Pricing::Graduated(tiers("3")), share("0")),
        ]);
        let state = State::from([(key(0, 1, "s"), cell(8 * 3_600)), (key(100, 2, "s"), cell(8 * 3_600))]);
        assert_eq!(totals(&amounts(&state, &rates).unwrap()).0, "28.000000000");
        let mut anew = rates[&RateId(2)].as_ref().clone();
        anew.charge = Arc::new(Charge { resets: true, ..anew.charge.as_ref().clone() });
        rates.insert(RateId(2), Arc::new(anew));
        assert_eq!(totals(&amounts(&state, &rates).unwrap()).0, "16.000000000");
    }

    #[test]
    fn a_supplier_on_a_rate_of_its_own() {
        let own = Pricing::Graduated(vec![
            Tier { up_to: Some(3_600 * MICRO), price: price("1.5"), flat: price("0") },
            Tier { up_to: None, price: price("1"), flat: price("0") },
        ]);
        let rates = RateMap::from([
            rate(1, Pricing::PerUnit(price("2")), SupplierSide::Own(own)),
            rate(2, Pricing::PerUnit(price("2")), share("80")),
        ]);
        let state = State::from([(key(0, 1, "a"), cell(7_200)), (key(0, 2, "b"), cell(3_600))]);
        let amounts = amounts(&state, &rates).unwrap();
        assert_eq!(amounts[&key(0, 1, "a")].supplier.to_string(), "2.500000000");
        assert_eq!(amounts[&key(0, 2, "b")].supplier.to_string(), "1.600000000");
    }

    #[test]
    fn taking_back_more_than_there_was_is_an_error_and_changes_nothing() {
        let rates = RateMap::from([rate(1, Pricing::PerUnit(price("1")), share("50"))]);
        let mut state = State::from([(key(0, 1, "s"), cell(10))]);
        let before = state.clone();
        assert!(matches!(
            step(&mut state, &State::from([(key(0, 1, "s"), cell(-11))]), &rates),
            Err(RateError::BelowZero { .. })
        ));
        assert_eq!(state, before);
    }

    #[test]
    fn a_sign_that_does_not_fit_is_an_adjustment() {
        let spread = spread(Amount::from_scaled(-29), Amount::from_scaled(10), &[cell(1), cell(2)]).unwrap();
        assert_eq!(spread.renter, [Amount::ZERO; 2]);
        assert_eq!(spread.adjustment, CellAmounts { renter: Amount::from_scaled(-29), supplier: Amount::ZERO });
        assert_eq!(spread.supplier, [Amount::from_scaled(3), Amount::from_scaled(7)]);
    }

    proptest! {
        /// Law 4: any order and any number of steps end in the same state and the same amounts, and the differences add up to them.
        #[test]
        fn order_and_number_of_steps_do_not_matter(quantities in prop::collection::vec((0usize..5, 0i128..100_000), 1..40), seed in any::<u64>()) {
            let prices = ["2.499999999999", "0.000000000007", "999999.123456789012", "1.71"];
            let shares = ["80", "33.333333", "66.666667", "0"];
            let rates: RateMap = (0..4).map(|n| rate(n as u128, Pricing::PerUnit(price(prices[n])), share(shares[n]))).collect();
            let keys = [key(0, 0, "a"), key(0, 0, "b"), key(900, 1, "a"), key(1_800, 2, "b"), key(2_700, 3, "c")];
            let half = |s: i128| Cell { billed: s * MICRO, paid: s / 2 * MICRO };
            let mut whole = State::new();
            for (k, s) in &quantities {
                let sum = whole.entry(keys[*k].clone()).or_default();
                *sum = Cell { billed: sum.billed + half(*s).billed, paid: sum.paid + half(*s).paid };
            }
            let mut order: Vec<usize> = (0..quantities.len()).collect();
            order.sort_by_key(|i| (seed ^ (*i as u64)).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let mut stepped = State::new();
            let mut sums: BTreeMap<CellKey, (i128, i128)> = BTreeMap::new();
            for i in order {
                let (k, s) = quantities[i];
                for cell_step in step(&mut stepped, &State::from([(keys[k].clone(), half(s))]), &rates).unwrap() {
                    let sum = sums.entry(cell_step.key.clone()).or_default();
                    sum.0 += cell_step.renter_difference().unwrap().scaled();
                    sum.1 += cell_step.supplier_difference().unwrap().scaled();
                }
            }
            prop_assert_eq!(&whole, &stepped);
            for (key, amounts) in amounts(&whole, &rates).unwrap() {
                let sum = sums.get(&key).copied().unwrap_or_default();
                prop_assert_eq!((amounts.renter.scaled(), amounts.supplier.scaled()), sum);
            }
        }

        /// Records and adjustment add up to the step, whatever the signs of the quantities.
        #[test]
        fn a_spread_adds_up(seconds in prop::collection::vec(-100_000i128..100_000, 0..30), renter in any::<i64>(), supplier in any::<i64>()) {
            let quantities: Vec<Cell> = seconds.iter().map(|&s| cell(s)).collect();
            let spread = spread(Amount::from_scaled(renter.into()), Amount::from_scaled(supplier.into()), &quantities).unwrap();
            let total = |amounts: &[Amount]| amounts.iter().map(|a| a.scaled()).sum::<i128>();
            prop_assert_eq!(total(&spread.renter) + spread.adjustment.renter.scaled(), i128::from(renter));
            prop_assert_eq!(total(&spread.supplier) + spread.adjustment.supplier.scaled(), i128::from(supplier));
        }
    }
}
