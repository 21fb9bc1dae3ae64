//! SLA credits: a percentage of what was charged, by the uptime that was missed. What downtime itself took off the bill is no part of
//! them and is not given twice.

use std::collections::BTreeMap;

use hydrometer_schemas::contract::{Clawback, SlaBase, SlaOf};

use super::{Book, Closing, Due, DueKind, LeaseFacts, Live, show_amount, supplier_terms};
use crate::keys::{CellKey, StateKey};
use crate::money::{Amount, Exact, MoneyError, SHARE_WHOLE, Share};
use crate::rate::{Amounts, RateError, State, amounts};
use crate::terms::{Micro, Sla, Terms};

pub(super) fn credits(closing: &Closing, live: &Live, book: &Book) -> Result<Vec<Due>, RateError> {
    let Some((terms, sla)) = live.last().and_then(|terms| terms.sla.as_ref().map(|sla| (terms, sla))) else {
        return Ok(Vec::new());
    };
    let mut missed: Vec<Missed> = closing.leases.iter().filter_map(|lease| Missed::of(lease, sla)).collect();
    if missed.is_empty() {
        return Ok(Vec::new());
    }
    let without_downtime = match sla.base {
        SlaBase::After => None,
        SlaBase::Before => Some(WithoutDowntime::of(closing)?),
    };
    if sla.of == SlaOf::Invoice {
        // One invoice, one credit: that of the lease that missed most.
        missed.sort_by_key(|missed| (std::cmp::Reverse(missed.credit), missed.lease.lease.clone()));
        missed.truncate(1);
    }
    let mut dues = Vec::new();
    for missed in missed {
        let base = match (sla.of, &without_downtime) {
            (SlaOf::Lease, None) => part_of(missed.lease, closing.states, &book.amounts, false)?,
            (SlaOf::Lease, Some(without)) => part_of(missed.lease, &without.states, &without.amounts, true)?,
            (SlaOf::Invoice, None) => Exact::of(book.total()?),
            (SlaOf::Invoice, Some(without)) => Exact::of(without.instead_of(book)?),
        };
        dues.extend(missed.due(terms, sla, base, book, closing)?);
    }
    Ok(dues)
}

/// A lease that missed its uptime.
struct Missed<'a> {
    lease: &'a LeaseFacts,
    credit: Share,
    /// Down seconds that count, of the seconds that were promised.
    down: i64,
    promised: i64,
}

impl<'a> Missed<'a> {
    fn of(lease: &'a LeaseFacts, sla: &Sla) -> Option<Missed<'a>> {
        let seconds = &lease.seconds;
        let promised = seconds.leased() - seconds.suspended - seconds.maintenance;
        let down = seconds.down - seconds.down_renter;
        if promised <= 0 || down <= 0 {
            return None;
        }
        let is_below = |below: Share| {
            i128::from(promised - down) * i128::from(SHARE_WHOLE) < i128::from(below.scaled()) * i128::from(promised)
        };
        let credit = sla.tiers.iter().rev().find(|tier| is_below(tier.below))?.credit.min(sla.cap);
        Some(Missed { lease, credit, down, promised })
    }

    fn due(
        &self,
        terms: &Terms,
        sla: &Sla,
        base: Exact,
        book: &Book,
        closing: &Closing,
    ) -> Result<Option<Due>, RateError> {
        let exact = base.share(self.credit)?;
        let credit = exact.round()?;
        if credit.scaled() <= 0 {
            return Ok(None);
        }
        let seconds = &self.lease.seconds;
        let by_supplier = seconds.down - seconds.down_renter - seconds.down_platform;
        let borne = exact.times(i128::from(by_supplier), i128::from(self.down))?;
        let supplier_terms = supplier_terms(terms, &self.lease.supplier);
        let borne = match supplier_terms.map(|terms| (terms.clawback, terms)) {
            None | Some((Clawback::None, _)) => Amount::ZERO,
            Some((Clawback::Full, _)) => borne.round()?,
            Some((Clawback::Share, terms)) if terms.own.is_empty() => borne.share(terms.share)?.round()?,
            // On rates of its own, its share is what it earned of what the lease cost.
            Some((Clawback::Share, _)) => {
                let (cost, earned) = self.sides(closing, book)?;
                if cost.scaled() <= 0 {
                    Amount::ZERO
                } else {
                    borne.times(earned.scaled().clamp(0, cost.scaled()), cost.scaled())?.round()?
                }
            }
        };
        let percent = Share::from_scaled(share_of(self.promised - self.down, self.promised));
        let why = format!("{percent} % up: {} % of {}", self.credit, show_amount(base.round()?));
        let due = Due::new(DueKind::SlaCredit, Amount::from_scaled(-credit.scaled()), why);
        Ok(Some(Due {
            subject: self.lease.lease.clone(),
            supplier: Some(self.lease.supplier.clone()),
            supplier_amount: Amount::from_scaled(-borne.scaled()),
            is_booked: sla.automatic,
            ..due
        }))
    }

    /// What the cells that the lease has a part in came to, on both sides.
    fn sides(&self, closing: &Closing, book: &Book) -> Result<(Amount, Amount), MoneyError> {
        let (mut cost, mut earned) = (Amount::ZERO, Amount::ZERO);
        for (state, cell) in self.lease.quantities.keys() {
            if closing.states.contains_key(state)
                && let Some(amounts) = book.amounts.get(state).and_then(|amounts| amounts.get(cell))
            {
                cost = cost.checked_add(amounts.renter)?;
                earned = earned.checked_add(amounts.supplier)?;
            }
        }
        Ok((cost, earned))
    }
}

/// `part` of `whole`, floored, in units of 1e-8: for people.
fn share_of(part: i64, whole: i64) -> i64 {
    let scaled = i128::from(part) * i128::from(SHARE_WHOLE) / i128::from(whole.max(1));
    i64::try_from(scaled).unwrap_or(SHARE_WHOLE)
}

/// A lease's part of the states' amounts, by quantity, exact.
fn part_of(
    lease: &LeaseFacts,
    states: &BTreeMap<StateKey, State>,
    amounts: &BTreeMap<StateKey, Amounts>,
    with_lost: bool,
) -> Result<Exact, MoneyError> {
    let mut base = Exact::ZERO;
    for ((state, cell), quantity) in &lease.quantities {
        let all = states.get(state).and_then(|state| state.get(cell)).map_or(0, |cell| cell.billed);
        let amount = amounts.get(state).and_then(|amounts| amounts.get(cell)).map_or(Amount::ZERO, |a| a.renter);
        let own = if with_lost { plus(quantity.billed, quantity.lost)? } else { quantity.billed };
        if all > 0 && own != 0 {
            base = base.plus(Exact::of(amount).times(own, all)?)?;
        }
    }
    Ok(base)
}

/// The period as it would have been without downtime.
struct WithoutDowntime {
    states: BTreeMap<StateKey, State>,
    amounts: BTreeMap<StateKey, Amounts>,
}

impl WithoutDowntime {
    fn of(closing: &Closing) -> Result<WithoutDowntime, RateError> {
        let mut states = closing.states.clone();
        for ((state, cell), quantity) in closing.leases.iter().flat_map(|lease| &lease.quantities) {
            let cell: &CellKey = cell;
            let cell = states.entry(state.clone()).or_default().entry(cell.clone()).or_default();
            cell.billed = plus(cell.billed, quantity.lost)?;
        }
        let mut all = BTreeMap::new();
        for (key, state) in &states {
            all.insert(key.clone(), amounts(state, closing.rates)?);
        }
        Ok(WithoutDowntime { states, amounts: all })
    }

    /// All that was spent, with what was lost to downtime on top.
    fn instead_of(&self, book: &Book) -> Result<Amount, MoneyError> {
        let total =
            |all: &BTreeMap<StateKey, Amounts>| super::sum(all.values().flat_map(|a| a.values()).map(|a| a.renter));
        book.total()?.checked_sub(total(&book.amounts)?)?.checked_add(total(&self.amounts)?)
    }
}

fn plus(a: Micro, b: Micro) -> Result<Micro, MoneyError> {
    a.checked_add(b).ok_or(MoneyError::Overflow { doing: "summing quantities" })
}
