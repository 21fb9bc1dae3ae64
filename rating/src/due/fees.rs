//! Recurring and one-off fees.

use hydrometer_schemas::contract::{Basis, Per};
use hydrometer_schemas::time::Second;

use super::{Book, Closing, Due, DueKind, LeaseFacts, Live, show_amount};
use crate::history::{Span, Version};
use crate::money::{Amount, Exact, Fraction};
use crate::rate::RateError;
use crate::terms::{Charge, Pricing};

pub(super) fn dues(closing: &Closing, live: &Live, _: &Book) -> Result<Vec<Due>, RateError> {
    let mut dues = Vec::new();
    for name in live.charge_names() {
        let versions = live.charge(name);
        for (part, version, charge) in &versions {
            let Pricing::Fee(amount) = charge.pricing else { continue };
            let fee = Fee { closing, part: *part, version, charge, amount };
            match charge.basis {
                Basis::Recurring => {
                    let in_force = run(versions.iter().map(|(part, _, _)| *part), *part);
                    dues.extend(fee.recurring(in_force)?);
                }
                Basis::OneOff => dues.extend(fee.one_off()),
                _ => {}
            }
        }
    }
    Ok(dues)
}

struct Fee<'a> {
    closing: &'a Closing<'a>,
    /// The version's part of the period.
    part: Span,
    version: &'a Version,
    charge: &'a Charge,
    amount: Amount,
}

impl Fee<'_> {
    fn recurring(&self, in_force: Span) -> Result<Vec<Due>, RateError> {
        let mut dues = Vec::new();
        if self.charge.per == Per::Contract {
            return Ok(vec![self.cut("", in_force, self.part, 1)?]);
        }
        for lease in self.closing.leases {
            let held = lease.span.intersect(in_force).zip(lease.span.intersect(self.part));
            let Some((in_force, part)) = held else { continue };
            dues.push(self.cut(&lease.lease, in_force, part, self.times(lease))?);
        }
        Ok(dues)
    }

    fn cut(&self, subject: &str, in_force: Span, part: Span, times: usize) -> Result<Due, RateError> {
        let fraction = self.version.terms.calendar.prorated(self.charge.proration, in_force, part);
        let exact = Exact::of(self.amount).times(times as i128, 1)?.cut(fraction)?;
        let of = if fraction == Fraction::ONE || fraction.numerator == fraction.denominator {
            String::new()
        } else {
            format!(", {} / {} of the period", fraction.numerator, fraction.denominator)
        };
        let count = if times == 1 { String::new() } else { format!("{times} x ") };
        let why = format!("{count}{} per period{of}", show_amount(self.amount));
        Ok(self.due(subject, exact.round()?, why))
    }

    /// Once, in the period in which the charge first appears in the contract.
    fn one_off(&self) -> Option<Due> {
        let has_it = |version: &&Version| version.terms.charges.contains_key(&self.charge.name);
        let first: Second = self.closing.versions.iter().find(has_it)?.span.from;
        (first == self.version.span.from && self.closing.period.from <= first && first < self.closing.period.to)
            .then(|| self.due("", self.amount, "once".to_owned()))
    }

    fn times(&self, lease: &LeaseFacts) -> usize {
        if self.charge.per == Per::Gpu { lease.slots.len() } else { 1 }
    }

    fn due(&self, subject: &str, amount: Amount, why: String) -> Due {
        Due {
            charge: self.charge.name.clone(),
            version_from: Some(self.version.span.from),
            subject: subject.to_owned(),
            ..Due::new(DueKind::Fee, amount, why)
        }
    }
}

/// The unbroken stretch of `parts` that holds `part`.
fn run(parts: impl Iterator<Item = Span>, part: Span) -> Span {
    let mut run = part;
    let mut stretch: Option<Span> = None;
    for next in parts {
        stretch = match stretch {
            Some(before) if before.to == next.from => Some(Span { from: before.from, to: next.to }),
            _ => Some(next),
        };
        if let Some(stretch) = stretch.filter(|s| s.from <= part.from && part.to <= s.to) {
            run = stretch;
        }
    }
    run
}
