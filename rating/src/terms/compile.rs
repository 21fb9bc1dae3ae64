//! A document to terms: every mistake that one can make, found at once, with the field's path.
//!
//! What the JSON Schema can say (types, words of a list, required and unknown fields) is not said again here: a [`Contract`] is the
//! right shape already. Here is what needs the meaning of fields, or two of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use hydrometer_schemas::contract::{
    self, Contract, Decimal, EarlyTermination, Exhaustion, MaintenanceRule, Mistake, Postpaid, Prepaid, Renewal,
    shorten,
};
use hydrometer_schemas::lifecycle::RatingWindow;
use hydrometer_schemas::suggest::nearest;
use hydrometer_schemas::time::{SECONDS_PER_HOUR, Second};

use super::{Charge, OnExhaustion, Sla, SlaTier, Term, Terms};
use crate::calendar::Calendar;
use crate::money::Share;

mod charges;
mod identity;
mod reader;
mod suppliers;
#[cfg(test)]
mod tests;

use reader::Reader;

/// Limits of a document; more is a mistake in it, or an attack.
const CHARGES_MAX: usize = 100;
const SUPPLIERS_MAX: usize = 1_000;
const SLA_TIERS_MAX: usize = 20;
const NOTE_BYTES_MAX: usize = 16 * 1024;
const MONTHS_MAX: u32 = 1_200;
const DAYS_MAX: u32 = 3_660;
const GRACE_S_MAX: u32 = 366 * 86_400;

/// The terms of one version, or every mistake in it, in the order of the fields.
pub fn compile(document: &Contract) -> Result<Terms, Vec<Mistake>> {
    let mut reader = Reader::new(&document.currency);
    let terms = read(&mut reader, document);
    match terms {
        Some(terms) if reader.mistakes.is_empty() => Ok(terms),
        _ => Err(reader.mistakes),
    }
}

/// `None` only where a mistake was noted.
fn read(reader: &mut Reader, document: &Contract) -> Option<Terms> {
    reader.identity("contract", &document.contract);
    let effective = reader.instant("effective", &document.effective);
    reader.identity("renter", &document.renter);
    let calendar = calendar(reader, document);
    let term = document.term.as_ref().map(|term| self::term(reader, term, effective));
    let prepaid = payment(reader, document.prepaid.as_ref(), document.postpaid.as_ref());
    let owed = document.postpaid.as_ref().and_then(|postpaid| postpaid.credit_limit.as_ref());
    let credit_limit = owed.map(|limit| reader.amount("postpaid.credit_limit", limit));
    let charges = charges(reader, document);
    let spend = reader.spend("", document.minimum_spend.as_ref(), document.maximum_spend.as_ref());
    let sla = document.sla.as_ref().map(|sla| self::sla(reader, sla));
    let maintenance_allowance = maintenance(reader, document.maintenance.as_ref());
    let unknown_tolerance = match &document.unknown_tolerance_percent {
        Some(percent) => reader.share("unknown_tolerance_percent", percent),
        None => Some(Share::from_scaled(DEFAULT_TOLERANCE)),
    };
    let suppliers = suppliers::read(reader, document);
    tax_and_note(reader, document);
    if !reader.mistakes.is_empty() {
        return None;
    }

    let (charges, suppliers) = (charges?, suppliers?);
    let rates = identity::rates(document, &charges, &suppliers);
    let default_window = if document.prepaid.is_some() { RatingWindow::Minute } else { RatingWindow::Hour };
    let (minimum_spend, maximum_spend) = spend?;
    Some(Terms {
        contract: document.contract.clone(),
        effective: effective?,
        renter: document.renter.clone(),
        currency: document.currency.clone(),
        calendar: calendar?,
        rating_window: document.rating_window.unwrap_or(default_window),
        prepaid: transpose(prepaid)?,
        credit_limit: transpose(credit_limit)?,
        term: transpose(term)?,
        charges,
        minimum_spend,
        maximum_spend,
        sla: transpose(sla)?,
        maintenance: document.maintenance.as_ref().map_or(MaintenanceRule::Free, |m| m.announced),
        maintenance_allowance: maintenance_allowance?,
        degradation: document.degradation.unwrap_or_default(),
        unknown_tolerance: unknown_tolerance?,
        suppliers,
        document: document.clone(),
        rates,
    })
}

/// One percent: the unknown time that a period may have where a contract says nothing.
const DEFAULT_TOLERANCE: i64 = 1_000_000;

/// A part that is absent is fine; one that is there and could not be read is not.
fn transpose<T>(part: Option<Option<T>>) -> Option<Option<T>> {
    match part {
        None => Some(None),
        Some(read) => read.map(Some),
    }
}

fn calendar(reader: &mut Reader, document: &Contract) -> Option<Calendar> {
    let zone_name = document.time_zone.as_deref().unwrap_or("UTC");
    let zone = zone_name.parse::<chrono_tz::Tz>().ok();
    if zone.is_none() {
        let known = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
        reader.say(
            "time_zone",
            format!("{:?} is not a time zone", shorten(zone_name)),
            "a name of the IANA time zone database, such as America/Los_Angeles",
            did_you_mean(zone_name, known),
        );
    }
    let (length, day) = document.calendar.as_ref().map_or((None, None), |c| (c.period, c.day));
    let day = day.unwrap_or(1);
    if !(1..=28).contains(&day) {
        reader.say(
            "calendar.day",
            format!("{day} is not a day that every month has"),
            "1 to 28",
            "for periods from the last days of a month on, begin them on the 1st",
        );
    }
    Some(Calendar { zone: zone?, length: length.unwrap_or_default(), day })
}

fn term(reader: &mut Reader, term: &contract::Term, effective: Option<Second>) -> Option<Term> {
    let ends = reader.instant("term.ends", &term.ends);
    if let (Some(ends), Some(effective)) = (ends, effective)
        && ends <= effective
    {
        reader.say(
            "term.ends",
            "the term ends before this version begins",
            "a time after `effective`",
            "an amendment repeats the end that is in force then, renewals included",
        );
    }
    let automatic = term.renewal == Some(Renewal::Automatic);
    match term.renewal_months {
        None if automatic => reader.say(
            "term.renewal_months",
            "an automatic renewal does not say for how long",
            format!("months, 1 to {MONTHS_MAX}"),
            "",
        ),
        Some(_) if !automatic => reader.say(
            "term.renewal_months",
            "there is no automatic renewal",
            "`renewal: automatic` beside it, or no `renewal_months`",
            "",
        ),
        Some(months) if !(1..=MONTHS_MAX).contains(&months) => {
            reader.say("term.renewal_months", format!("{months} months"), format!("1 to {MONTHS_MAX}"), "")
        }
        _ => (),
    }
    match term.notice_days {
        Some(_) if !automatic => reader.say(
            "term.notice_days",
            "a term that ends by itself needs no notice",
            "`renewal: automatic` beside it, or no `notice_days`",
            "",
        ),
        Some(days) if days > DAYS_MAX => {
            reader.say("term.notice_days", format!("{days} days"), format!("0 to {DAYS_MAX}"), "")
        }
        _ => (),
    }
    let early_termination = match &term.early_termination {
        None => Some(None),
        Some(EarlyTermination { fee: Some(fee), remaining_percent: None }) => {
            reader.amount("term.early_termination.fee", fee).map(|fee| Some(super::EarlyTermination::Fee(fee)))
        }
        Some(EarlyTermination { fee: None, remaining_percent: Some(percent) }) => reader
            .share("term.early_termination.remaining_percent", percent)
            .map(|share| Some(super::EarlyTermination::Remaining(share))),
        Some(both_or_neither) => {
            let what = if both_or_neither.fee.is_some() { "two prices" } else { "no price" };
            reader.say(
                "term.early_termination",
                format!("ending early has {what}"),
                "exactly one of `fee` and `remaining_percent`",
                "",
            );
            None
        }
    };
    Some(Term {
        ends: ends?,
        renewal_months: if automatic { term.renewal_months } else { None },
        notice_days: term.notice_days.unwrap_or(0),
        early_termination: early_termination?,
    })
}

fn payment(
    reader: &mut Reader,
    prepaid: Option<&Prepaid>,
    postpaid: Option<&Postpaid>,
) -> Option<Option<OnExhaustion>> {
    if prepaid.is_some() && postpaid.is_some() {
        reader.say(
            "postpaid",
            "the contract is both prepaid and postpaid",
            "one of them",
            "a change from one to the other is a new version",
        );
    }
    if let Some(days) = postpaid.and_then(|postpaid| postpaid.due_days).filter(|days| *days > DAYS_MAX) {
        reader.say("postpaid.due_days", format!("{days} days"), format!("0 to {DAYS_MAX}"), "");
    }
    prepaid.map(|prepaid| on_exhaustion(reader, prepaid))
}

fn on_exhaustion(reader: &mut Reader, prepaid: &Prepaid) -> Option<OnExhaustion> {
    let rule = prepaid.on_exhaustion;
    match prepaid.grace_s {
        None if rule == Exhaustion::Grace => {
            reader.say("prepaid.grace_s", "a grace does not say how long it lasts", "seconds", "")
        }
        Some(_) if rule != Exhaustion::Grace => {
            reader.say("prepaid.grace_s", "there is no grace", "`on_exhaustion: grace` beside it, or no `grace_s`", "")
        }
        Some(seconds) if !(1..=GRACE_S_MAX).contains(&seconds) => {
            reader.say("prepaid.grace_s", format!("{seconds} s"), format!("1 to {GRACE_S_MAX} s"), "")
        }
        _ => (),
    }
    let limit = match &prepaid.credit_limit {
        None if rule == Exhaustion::Credit => {
            reader.say("prepaid.credit_limit", "a credit does not say how much", "an amount", "");
            None
        }
        Some(_) if rule != Exhaustion::Credit => {
            reader.say(
                "prepaid.credit_limit",
                "there is no credit",
                "`on_exhaustion: credit` beside it, or no `credit_limit`",
                "",
            );
            None
        }
        Some(limit) => reader.amount("prepaid.credit_limit", limit),
        None => None,
    };
    match rule {
        Exhaustion::Suspend => Some(OnExhaustion::Suspend),
        Exhaustion::Grace => prepaid.grace_s.map(|seconds| OnExhaustion::Grace(i64::from(seconds))),
        Exhaustion::Credit => limit.map(OnExhaustion::Credit),
    }
}

fn charges(reader: &mut Reader, document: &Contract) -> Option<BTreeMap<String, Arc<Charge>>> {
    if document.charges.is_empty() {
        reader.say("charges", "there are none", "at least one charge", "");
    }
    if !reader.at_most("charges", document.charges.len(), CHARGES_MAX) {
        return None;
    }
    let mut read = BTreeMap::new();
    for (name, charge) in &document.charges {
        let charge = charges::read(reader, name, charge, &document.charges);
        read.insert(name.clone(), charge.map(Arc::new));
    }
    read.into_iter().map(|(name, charge)| Some((name, charge?))).collect()
}

fn sla(reader: &mut Reader, sla: &contract::Sla) -> Option<Sla> {
    if sla.tiers.is_empty() {
        reader.say("sla.tiers", "there are none", "at least one tier", "");
    }
    if !reader.at_most("sla.tiers", sla.tiers.len(), SLA_TIERS_MAX) {
        return None;
    }
    let mut tiers: Vec<Option<SlaTier>> = Vec::new();
    for (i, tier) in sla.tiers.iter().enumerate() {
        let below = reader.share(&format!("sla.tiers[{i}].below_percent"), &tier.below_percent);
        let credit = reader.share(&format!("sla.tiers[{i}].credit_percent"), &tier.credit_percent);
        let tier = below.zip(credit).map(|(below, credit)| SlaTier { below, credit });
        if let (Some(tier), Some(Some(above))) = (tier, tiers.last().copied()) {
            if tier.below >= above.below {
                reader.say(
                    format!("sla.tiers[{i}].below_percent"),
                    format!("{} % is not below the tier before it, {} %", tier.below, above.below),
                    "tiers from the highest uptime to the lowest",
                    "",
                );
            }
            if tier.credit < above.credit {
                reader.say(
                    format!("sla.tiers[{i}].credit_percent"),
                    format!(
                        "a lower uptime is credited less ({} %) than a higher one ({} %)",
                        tier.credit, above.credit
                    ),
                    "credits that rise as the uptime falls",
                    "",
                );
            }
        }
        tiers.push(tier);
    }
    let cap = match &sla.cap_percent {
        Some(percent) => reader.share("sla.cap_percent", percent),
        None => Some(Share::from_scaled(100_000_000)),
    };
    Some(Sla {
        tiers: tiers.into_iter().collect::<Option<_>>()?,
        of: sla.of.unwrap_or_default(),
        base: sla.base.unwrap_or_default(),
        cap: cap?,
        automatic: sla.automatic.unwrap_or(true),
    })
}

/// The allowance, in seconds; 0 where there is none.
fn maintenance(reader: &mut Reader, maintenance: Option<&contract::Maintenance>) -> Option<i64> {
    const FIELD: &str = "maintenance.allowance_hours";
    let Some(maintenance) = maintenance else { return Some(0) };
    match &maintenance.allowance_hours {
        None if maintenance.announced == MaintenanceRule::Allowance => {
            reader.say(FIELD, "an allowance does not say how much", "hours, such as 4", "");
            None
        }
        None => Some(0),
        Some(_) if maintenance.announced != MaintenanceRule::Allowance => {
            reader.say(FIELD, "there is no allowance", "`announced: allowance` beside it, or no `allowance_hours`", "");
            None
        }
        Some(hours) => {
            let micro_seconds = reader.units(FIELD, hours, i128::from(SECONDS_PER_HOUR))?;
            let seconds = i64::try_from(micro_seconds / super::MICRO).ok().filter(|s| *s <= 9_000 * SECONDS_PER_HOUR);
            if micro_seconds % super::MICRO != 0 || seconds.is_none() {
                reader.say(FIELD, format!("{} hours", hours.0), "a whole number of seconds, at most 9000 hours", "");
            }
            seconds
        }
    }
}

fn tax_and_note(reader: &mut Reader, document: &Contract) {
    if let Some(tax) = &document.tax {
        reader.identity("tax.name", &tax.name);
        reader.share("tax.percent", &tax.percent);
        reader.identity("tax.jurisdiction", &tax.jurisdiction);
    }
    if let Some(note) = &document.note {
        if note.len() > NOTE_BYTES_MAX {
            reader.say("note", format!("{} bytes", note.len()), format!("at most {NOTE_BYTES_MAX} bytes"), "");
        }
        if note.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
            reader.say("note", "holds a control character", "plain text", "");
        }
    }
}

fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, known).map(|word| format!("did you mean {word}?")).unwrap_or_default()
}

fn shown(decimal: &Decimal) -> String {
    shorten(&decimal.0)
}
