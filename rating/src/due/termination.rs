//! What ending a contract before its term is over costs.

use hydrometer_schemas::contract::{Basis, CommitmentPer, Per};
use hydrometer_schemas::time::{SECONDS_PER_HOUR, Second};

use super::{Book, Closing, Due, DueKind, Live, show_amount};
use crate::history::Span;
use crate::ladder::{Denominator, Ladder};
use crate::money::{Amount, Exact, MoneyError};
use crate::rate::RateError;
use crate::terms::{Charge, EarlyTermination, Pricing, Terms};

pub(super) fn fee(closing: &Closing, _: &Live, _: &Book) -> Result<Vec<Due>, RateError> {
    let Some(terminated) = closing.terminated.filter(|at| closing.period.holds(*at - 1)) else { return Ok(Vec::new()) };
    let in_force = closing.versions.iter().rfind(|version| version.span.from < terminated);
    let Some(version) = in_force else { return Ok(Vec::new()) };
    let terms = &*version.terms;
    let Some((term, rule)) = terms.term.and_then(|term| term.early_termination.map(|rule| (term, rule))) else {
        return Ok(Vec::new());
    };
    let ends = extended(terms, term.ends, term.renewal_months, terminated);
    if ends <= terminated {
        return Ok(Vec::new());
    }
    let due = match rule {
        EarlyTermination::Fee(amount) => {
            Due::new(DueKind::EarlyTermination, amount, "ended before its term".to_owned())
        }
        EarlyTermination::Remaining(share) => {
            let rest = least_cost(closing, terms, Span { from: terminated, to: ends })?;
            let why = format!(
                "{share} % of {}, the least that the rest of the term would have cost",
                show_amount(rest.round()?)
            );
            Due::new(DueKind::EarlyTermination, rest.share(share)?.round()?, why)
        }
    };
    Ok(vec![due])
}

/// The end of the term that `at` lies in. A contract that is ended exactly at a term's end is not extended.
fn extended(terms: &Terms, ends: Second, renewal_months: Option<u32>, at: Second) -> Second {
    let Some(months) = renewal_months.filter(|months| *months > 0) else { return ends };
    let mut extended = ends;
    let mut times: u32 = 0;
    while extended < at {
        times += 1;
        // From the first end, so that a 31st is not lost in February.
        let next = terms.calendar.months_later(ends, months.saturating_mul(times));
        if next <= extended {
            break;
        }
        extended = next;
    }
    extended
}

/// Recurring fees and commitments, or the minimum spend where that is more, period by period, by seconds.
fn least_cost(closing: &Closing, terms: &Terms, rest: Span) -> Result<Exact, RateError> {
    let mut by_period = Exact::ZERO;
    let mut by_hour = Exact::ZERO;
    for charge in terms.charges.values() {
        match &charge.pricing {
            Pricing::Fee(amount) if charge.basis == Basis::Recurring => {
                let times = counted(closing, charge, rest.from);
                by_period = by_period.plus(Exact::of(*amount).times(times, 1)?)?;
            }
            _ => {
                let Some(commitment) = charge.commitment.filter(|commitment| commitment.true_up) else { continue };
                let committed = committed(charge, commitment.quantity)?;
                match commitment.per {
                    CommitmentPer::Period => by_period = by_period.plus(committed)?,
                    CommitmentPer::Hour => by_hour = by_hour.plus(committed)?,
                }
            }
        }
    }
    let minimum = Exact::of(terms.minimum_spend.unwrap_or(Amount::ZERO));
    let mut sum = Exact::ZERO;
    let mut at = rest.from;
    while at < rest.to {
        let period = terms.calendar.period_of(at);
        let to = period.to.min(rest.to);
        let (seconds, whole) = (i128::from(to - at), i128::from(period.seconds()));
        let priced = by_period.times(seconds, whole)?.plus(by_hour.times(seconds, i128::from(SECONDS_PER_HOUR))?)?;
        let least = minimum.times(seconds, whole)?;
        sum = sum.plus(if priced.minus(least)?.is_negative() { least } else { priced })?;
        if to <= at {
            break;
        }
        at = to;
    }
    Ok(sum)
}

fn committed(charge: &Charge, quantity: i128) -> Result<Exact, MoneyError> {
    let denominator = Denominator::of([charge])?;
    let Some(ladder) = Ladder::of(charge, 0, denominator)? else { return Ok(Exact::ZERO) };
    Ok(Exact { numerator: ladder.total(quantity)?, denominator: denominator.value()? })
}

/// How often a fee was due when the contract ended.
fn counted(closing: &Closing, charge: &Charge, at: Second) -> i128 {
    let held = closing.leases.iter().filter(|lease| lease.span.from < at && at <= lease.span.to);
    match charge.per {
        Per::Contract => 1,
        Per::Lease => held.count() as i128,
        Per::Gpu => held.map(|lease| lease.slots.len() as i128).sum(),
    }
}
