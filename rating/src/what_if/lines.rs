//! The lines of a quote: each stretch of a quantity that has one price.

use std::collections::BTreeMap;

use hydrometer_schemas::contract::Basis;
use hydrometer_schemas::time::Second;

use super::{QuoteError, period_of};
use crate::due::show_units;
use crate::history::{Span, Version};
use crate::keys::StateKey;
use crate::ladder::{Denominator, Part};
use crate::money::{Amount, Price, share_by_largest_remainder};
use crate::rate::{Rates, State, amounts, list, segments};
use crate::terms::Micro;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub period: Span,
    pub charge: String,
    pub resource: String,
    pub version_from: Second,
    /// The time of the week: 0 is the charge's own price, `n` its `by_time[n - 1]`.
    pub time: u16,
    pub part: Part,
    /// Beyond the commitment.
    pub overage: bool,
    pub quantity: Micro,
    /// Pieces in a unit, to show the quantity.
    pub pieces_per_unit: i128,
    pub unit: &'static str,
    pub price: Price,
    /// Fees for tiers that were entered.
    pub flat: Price,
    pub renter: Amount,
}

impl Line {
    /// The quantity in units, to six digits.
    pub fn units(&self) -> String {
        show_units(self.quantity, self.pieces_per_unit)
    }

    /// The tier, the time of the week, overage and fees, for people.
    pub fn what(&self) -> String {
        let mut what = self.part.to_string();
        if self.time > 0 {
            what += &format!(", by_time[{}]", self.time - 1);
        }
        if self.overage {
            what += ", overage";
        }
        if self.flat.scaled() != 0 {
            what += &format!(", plus {}", self.flat);
        }
        what
    }
}

/// What a price is per.
pub fn unit_of(basis: Basis) -> &'static str {
    match basis {
        Basis::Allocated | Basis::Observed | Basis::Busy | Basis::Suspended => "GPU-hour",
        Basis::Energy => "kWh",
        Basis::Slices => "card-hour",
        Basis::Memory => "GiB-hour",
        Basis::Recurring => "period",
        Basis::OneOff => "once",
        Basis::Percentage => "percent",
    }
}

/// What lines are summed by: the hours of an hourly commitment have the same lines again and again.
type LineKey = (Span, String, String, Second, u16, bool, Part, Price);

/// The lines of rating states: where each stretch of their quantities stands on its ladder and what it costs, cut by tiers.
pub fn of(
    versions: &[Version],
    states: &BTreeMap<StateKey, State>,
    rates: &dyn Rates,
) -> Result<Vec<Line>, QuoteError> {
    let mut lines: BTreeMap<LineKey, Line> = BTreeMap::new();
    for (key, state) in states {
        let listed = list(state, rates)?;
        let denominator = Denominator::of(listed.iter().map(|listed| &*listed.rate.charge))?;
        let amounts = amounts(state, rates)?;
        for segment in segments(&listed, denominator, |cell| cell.billed)? {
            let mut amount = Amount::ZERO;
            for &member in &segment.members {
                amount = amount.checked_add(amounts.get(listed[member].key).copied().unwrap_or_default().renter)?;
            }
            let to = super::plus(segment.position, segment.quantity)?;
            let mut parts = segment.ladder.lines(segment.position, to, segment.end)?;
            let flat = segment.ladder.flat(segment.end)?;
            if segment.last
                && let Some(last) = parts.last_mut()
            {
                last.cost = crate::money::add(last.cost, flat)?;
                last.flat = segment.ladder.volume_fee(segment.end)?;
            }
            let costs: Vec<_> = parts.iter().map(|part| part.cost).collect();
            let (shares, left) = share_by_largest_remainder(amount.scaled(), &costs, denominator.value()?)?;
            debug_assert_eq!(left, 0, "a segment's amount is its rounded cost");
            for (part, share) in parts.into_iter().zip(shares) {
                let line = Line {
                    period: period_of(versions, key.period),
                    charge: key.charge.clone(),
                    resource: key.resource.clone(),
                    version_from: segment.version_from,
                    time: segment.time,
                    part: part.part,
                    overage: part.overage,
                    quantity: part.quantity,
                    pieces_per_unit: segment.charge.pieces_per_unit,
                    unit: unit_of(segment.charge.basis),
                    price: part.price,
                    flat: part.flat,
                    renter: Amount::from_scaled(share),
                };
                add(&mut lines, line)?;
            }
        }
    }
    Ok(lines.into_values().collect())
}

fn add(lines: &mut BTreeMap<LineKey, Line>, line: Line) -> Result<(), QuoteError> {
    let of = (
        line.period,
        line.charge.clone(),
        line.resource.clone(),
        line.version_from,
        line.time,
        line.overage,
        line.part,
        line.price,
    );
    match lines.get_mut(&of) {
        Some(sum) => {
            sum.quantity = super::plus(sum.quantity, line.quantity)?;
            sum.renter = sum.renter.checked_add(line.renter)?;
        }
        None => drop(lines.insert(of, line)),
    }
    Ok(())
}
