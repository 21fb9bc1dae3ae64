//! What a cumulative quantity costs: free quantity, then tiers, then commitment (the order of evaluation).
//!
//! A [`Ladder`] is the function that amounts are differences of: the use from `a` to `b` costs `cost(b) - cost(a)` (law 4). Costs are
//! integers over one denominator for all ladders of a state ([`Denominator`]), so that sums are exact and are rounded once.

use std::fmt;

use ethnum::I256;

use crate::money::{MoneyError, PRICE_PER_AMOUNT, Price, add, lcm, mul, sub};
use crate::terms::{Charge, Commitment, MICRO, Micro, Overage, Pricing, Tier};

/// What the costs of a state's ladders are divided by to give units of 1e-9.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denominator {
    /// A common multiple of the micro-pieces in each charge's unit.
    unit: I256,
    /// Millionths, where any overage has a multiplier.
    multiplier: i128,
}

impl Denominator {
    pub fn of<'a>(charges: impl IntoIterator<Item = &'a Charge>) -> Result<Denominator, MoneyError> {
        let mut common = Denominator { unit: I256::ONE, multiplier: 1 };
        for charge in charges {
            let unit = micros_in_a_unit(charge)?;
            if common.unit != unit {
                common.unit = lcm(common.unit, unit)?;
            }
            if charge.commitment.is_some_and(|c| matches!(c.overage, Overage::Multiplier(_))) {
                common.multiplier = MICRO;
            }
        }
        Ok(common)
    }

    /// In units of 1e-9.
    pub fn value(&self) -> Result<I256, MoneyError> {
        mul(mul(self.unit, I256::from(self.multiplier))?, I256::from(PRICE_PER_AMOUNT))
    }
}

fn micros_in_a_unit(charge: &Charge) -> Result<I256, MoneyError> {
    mul(I256::from(charge.pieces_per_unit.max(1)), I256::from(MICRO))
}

/// The cumulative price function of one charge (at one time of the week), or of a supplier's own rate.
#[derive(Debug, Clone, Copy)]
pub struct Ladder<'a> {
    steps: Steps<'a>,
    free: Micro,
    commitment: Option<Commitment>,
    denominator: Denominator,
    /// How often the charge's own unit goes into the common one.
    scale: I256,
}

#[derive(Debug, Clone, Copy)]
enum Steps<'a> {
    PerUnit(Price),
    Graduated(&'a [Tier]),
    Volume(&'a [Tier]),
    Package { size: Micro, price: Price },
}

/// A part of a quantity that has one price.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    pub part: Part,
    /// Beyond the commitment.
    pub overage: bool,
    pub quantity: Micro,
    /// Per unit, of a package for packages; the ladder's, where an overage multiplies it.
    pub price: Price,
    /// The fee for entering the tier, where this line enters it.
    pub flat: Price,
    /// Over the state's denominator.
    pub cost: I256,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Free,
    PerUnit,
    /// From 1.
    Tier(usize),
    /// That many packages begun.
    Packages(i128),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Free => f.pad("free"),
            Part::PerUnit => f.pad("per unit"),
            Part::Tier(n) => f.pad(&format!("tier {n}")),
            Part::Packages(n) => f.pad(&format!("{n} packages")),
        }
    }
}

impl<'a> Ladder<'a> {
    /// `None` for a charge that is not metered. `segment` is the time of the week: 0 is the charge's own price.
    pub fn of(charge: &'a Charge, segment: u16, denominator: Denominator) -> Result<Option<Ladder<'a>>, MoneyError> {
        let by_time = usize::from(segment).checked_sub(1).and_then(|n| charge.by_time.get(n));
        let steps = match (by_time, Steps::of(&charge.pricing)) {
            (Some(range), _) => Steps::PerUnit(range.price),
            (None, Some(steps)) => steps,
            (None, None) => return Ok(None),
        };
        Ladder::new(steps, charge.free, charge.commitment, charge, denominator).map(Some)
    }

    /// A supplier's own rate for a charge: its ladder alone, without the renter's free quantity and commitment.
    pub fn own(
        charge: &Charge,
        pricing: &'a Pricing,
        denominator: Denominator,
    ) -> Result<Option<Ladder<'a>>, MoneyError> {
        let Some(steps) = Steps::of(pricing) else { return Ok(None) };
        Ladder::new(steps, 0, None, charge, denominator).map(Some)
    }

    fn new(
        steps: Steps<'a>,
        free: Micro,
        commitment: Option<Commitment>,
        charge: &Charge,
        denominator: Denominator,
    ) -> Result<Ladder<'a>, MoneyError> {
        let scale = denominator.unit / micros_in_a_unit(charge)?;
        Ok(Ladder { steps, free, commitment, denominator, scale })
    }

    /// The one price of every unit, where there is nothing else to it.
    pub fn linear(&self) -> Option<Price> {
        match self.steps {
            Steps::PerUnit(price) if self.free == 0 && self.commitment.is_none() => Some(price),
            _ => None,
        }
    }

    /// The cost of the first `x` of `end` micro-pieces. `end` is the whole quantity, which decides the tier of a volume price; its flat
    /// fee is not in it ([`Ladder::flat`]).
    pub fn cost(&self, x: Micro, end: Micro) -> Result<I256, MoneyError> {
        let multiplier = I256::from(self.denominator.multiplier);
        let Some(commitment) = self.commitment else {
            return mul(self.climb(x, end)?, multiplier);
        };
        if x <= commitment.quantity {
            return mul(self.climb(x, end)?, multiplier);
        }
        let committed = self.climb(commitment.quantity, end)?;
        let overage = match commitment.overage {
            Overage::Multiplier(times) => mul(sub(self.climb(x, end)?, committed)?, I256::from(times))?,
            Overage::Price(price) => mul(self.worth(price, minus(x, commitment.quantity)?)?, multiplier)?,
        };
        add(mul(committed, multiplier)?, overage)
    }

    /// The flat fee of the volume tier that `end` is in: due once, whatever the price version of its units.
    pub fn flat(&self, end: Micro) -> Result<I256, MoneyError> {
        match self.steps {
            Steps::Volume(tiers) if end > self.free => match tier_of(tiers, minus(end, self.free)?) {
                Some((_, tier)) => mul(self.fee(tier.flat)?, I256::from(self.denominator.multiplier)),
                None => Ok(I256::ZERO),
            },
            _ => Ok(I256::ZERO),
        }
    }

    /// The same fee as a price: for people.
    pub fn volume_fee(&self, end: Micro) -> Result<Price, MoneyError> {
        let none = Price::from_scaled(0);
        match self.steps {
            Steps::Volume(tiers) if end > self.free => {
                Ok(tier_of(tiers, minus(end, self.free)?).map_or(none, |(_, tier)| tier.flat))
            }
            _ => Ok(none),
        }
    }

    /// What `x` costs when it is all there is.
    pub fn total(&self, x: Micro) -> Result<I256, MoneyError> {
        add(self.cost(x, x)?, self.flat(x)?)
    }

    /// The use from `from` to `to`, of `end` in all, cut where its price changes: for people. The costs add up to the difference.
    pub fn lines(&self, from: Micro, to: Micro, end: Micro) -> Result<Vec<Line>, MoneyError> {
        let mut edges = vec![from, to];
        edges.push(self.free);
        if let Steps::Graduated(tiers) = self.steps {
            for tier in tiers {
                edges.extend(tier.up_to.and_then(|up_to| up_to.checked_add(self.free)));
            }
        }
        edges.extend(self.commitment.map(|c| c.quantity));
        edges.retain(|edge| (from..=to).contains(edge));
        edges.sort_unstable();
        edges.dedup();
        let mut lines = Vec::new();
        for pair in edges.windows(2) {
            let (begin, to) = (pair[0], pair[1]);
            let overage = self.commitment.is_some_and(|c| begin >= c.quantity);
            let cost = sub(self.cost(to, end)?, self.cost(begin, end)?)?;
            let line = Line {
                part: Part::Free,
                overage,
                quantity: minus(to, begin)?,
                price: Price::from_scaled(0),
                flat: Price::from_scaled(0),
                cost,
            };
            lines.push(if to <= self.free { line } else { self.priced(line, begin, to, end)? });
        }
        Ok(lines)
    }

    /// `line` with its part and its price. It lies behind the free quantity and in one tier.
    fn priced(&self, line: Line, begin: Micro, to: Micro, end: Micro) -> Result<Line, MoneyError> {
        let (begin, to) = (minus(begin, self.free)?, minus(to, self.free)?);
        let priced = match self.steps {
            Steps::PerUnit(price) => Line { part: Part::PerUnit, price, ..line },
            Steps::Graduated(tiers) => match tier_of(tiers, to) {
                Some((n, tier)) => {
                    let entered = begin == n.checked_sub(1).and_then(|below| tiers[below].up_to).unwrap_or(0);
                    let flat = if entered { tier.flat } else { line.flat };
                    Line { part: Part::Tier(n + 1), price: tier.price, flat, ..line }
                }
                None => line,
            },
            Steps::Volume(tiers) => match tier_of(tiers, minus(end, self.free)?) {
                Some((n, tier)) => Line { part: Part::Tier(n + 1), price: tier.price, ..line },
                None => line,
            },
            Steps::Package { size, price } => {
                let begun = packages(to, size) - packages(begin, size);
                Line { part: Part::Packages(begun), price, ..line }
            }
        };
        Ok(match (line.overage, self.commitment.map(|c| c.overage)) {
            (true, Some(Overage::Price(price))) => Line { price, part: Part::PerUnit, flat: line.flat, ..priced },
            _ => priced,
        })
    }

    /// The tiers alone: what `x` costs before any commitment.
    fn climb(&self, x: Micro, end: Micro) -> Result<I256, MoneyError> {
        let x = minus(x, self.free)?;
        if x <= 0 {
            return Ok(I256::ZERO);
        }
        match self.steps {
            Steps::PerUnit(price) => self.worth(price, x),
            Steps::Graduated(tiers) => {
                let mut cost = I256::ZERO;
                let mut below = 0;
                for tier in tiers {
                    let to = tier.up_to.map_or(x, |up_to| up_to.min(x));
                    if to <= below {
                        break;
                    }
                    cost = add(cost, self.worth(tier.price, minus(to, below)?)?)?;
                    cost = add(cost, self.fee(tier.flat)?)?;
                    below = to;
                }
                Ok(cost)
            }
            Steps::Volume(tiers) => match tier_of(tiers, minus(end, self.free)?) {
                Some((_, tier)) => self.worth(tier.price, x),
                None => Ok(I256::ZERO),
            },
            Steps::Package { size, price } => mul(self.fee(price)?, I256::from(packages(x, size))),
        }
    }

    fn worth(&self, price: Price, quantity: Micro) -> Result<I256, MoneyError> {
        let worth = mul(I256::from(price.scaled()), I256::from(quantity))?;
        if self.scale == I256::ONE { Ok(worth) } else { mul(worth, self.scale) }
    }

    fn fee(&self, fee: Price) -> Result<I256, MoneyError> {
        if fee.scaled() == 0 { Ok(I256::ZERO) } else { mul(I256::from(fee.scaled()), self.denominator.unit) }
    }
}

impl<'a> Steps<'a> {
    fn of(pricing: &'a Pricing) -> Option<Steps<'a>> {
        match pricing {
            Pricing::PerUnit(price) => Some(Steps::PerUnit(*price)),
            Pricing::Graduated(tiers) => Some(Steps::Graduated(tiers)),
            Pricing::Volume(tiers) => Some(Steps::Volume(tiers)),
            Pricing::Package { size, price } => Some(Steps::Package { size: *size, price: *price }),
            Pricing::Fee(_) | Pricing::Percent(_) => None,
        }
    }
}

/// The tier that holds `x`, which is above zero: bounds are inclusive above.
fn tier_of(tiers: &[Tier], x: Micro) -> Option<(usize, &Tier)> {
    tiers
        .iter()
        .enumerate()
        .find(|(_, tier)| tier.up_to.is_none_or(|up_to| x <= up_to))
        .or(tiers.iter().enumerate().next_back())
}

/// Packages begun.
fn packages(x: Micro, size: Micro) -> i128 {
    if x <= 0 { 0 } else { (x - 1) / size.max(1) + 1 }
}

fn minus(a: Micro, b: Micro) -> Result<Micro, MoneyError> {
    a.checked_sub(b).ok_or(MoneyError::Overflow { doing: "subtracting quantities" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::{Exact, round_half_even};
    use crate::terms::Rate;
    use hydrometer_schemas::contract::{Basis, CommitmentPer};

    fn price(text: &str) -> Price {
        Price::parse(text).unwrap()
    }

    fn tier(up_to: Option<i128>, unit: &str, flat: &str) -> Tier {
        Tier { up_to: up_to.map(|units| units * MICRO), price: price(unit), flat: price(flat) }
    }

    /// Counted by the piece.
    fn charge(pricing: Pricing) -> Charge {
        Rate::sample("c", Basis::Allocated, 1, pricing).charge.as_ref().clone()
    }

    fn total(charge: &Charge, micros: Micro) -> String {
        let denominator = Denominator::of([charge]).unwrap();
        let ladder = Ladder::of(charge, 0, denominator).unwrap().unwrap();
        let cost = ladder.total(micros).unwrap();
        let lines = ladder.lines(0, micros, micros).unwrap();
        let sum = lines.iter().fold(ladder.flat(micros).unwrap(), |sum, line| add(sum, line.cost).unwrap());
        assert_eq!(sum, cost, "the lines add up");
        let exact = Exact { numerator: cost, denominator: denominator.value().unwrap() };
        let rounded = crate::money::Amount::from_scaled(round_half_even(exact).unwrap()).to_string();
        rounded.trim_end_matches('0').trim_end_matches('.').to_owned()
    }

    /// Worked case: volume and graduated.
    #[test]
    fn volume_and_graduated() {
        let tiers = vec![tier(Some(5), "7", "0"), tier(Some(10), "6.5", "0"), tier(None, "6", "0")];
        let volume = charge(Pricing::Volume(tiers.clone()));
        assert_eq!([5, 6, 20, 25].map(|x| total(&volume, x * MICRO)), ["35", "39", "120", "150"]);
        let graduated = charge(Pricing::Graduated(tiers));
        assert_eq!([6, 20, 25].map(|x| total(&graduated, x * MICRO)), ["41.5", "127.5", "157.5"]);
    }

    /// Worked case: flat and unit tiers. (The flat fee at zero falls due at the period's end.)
    #[test]
    fn flat_and_unit_tiers() {
        let tiers =
            vec![tier(Some(5), "0", "100"), tier(Some(10), "0", "50"), tier(Some(15), "10", "0"), tier(None, "5", "0")];
        let charge = charge(Pricing::Graduated(tiers));
        let at = |thousandths: i128| total(&charge, thousandths * MICRO / 1_000);
        assert_eq!([0, 5_000, 5_001, 12_000, 22_000].map(at), ["0", "100", "150", "170", "235"]);
    }

    /// Worked case: packages.
    #[test]
    fn packages_of_ten() {
        let mut charge = charge(Pricing::Package { size: 10 * MICRO, price: price("100") });
        let free = |charge: &mut Charge, units: i128| {
            charge.free = units * MICRO;
            total(charge, 121 * MICRO)
        };
        assert_eq!([0, 10, 200].map(|units| free(&mut charge, units)), ["1300", "1200", "0"]);
    }

    /// Worked case: commitment, what is metered of it.
    #[test]
    fn commitment_and_overage() {
        let mut charge = charge(Pricing::PerUnit(price("2")));
        let commitment =
            |overage| Some(Commitment { quantity: 500 * MICRO, per: CommitmentPer::Period, overage, true_up: true });
        charge.commitment = commitment(Overage::Multiplier(1_500_000));
        assert_eq!([300, 500, 700].map(|x| total(&charge, x * MICRO)), ["600", "1000", "1600"]);
        charge.commitment = commitment(Overage::Price(price("2.25")));
        assert_eq!(total(&charge, 700 * MICRO), "1450");
    }
}
