//! The suppliers' side.

use std::collections::BTreeMap;

use hydrometer_schemas::contract::{self, Contract, shorten};

use super::charges::{ladder, metered_pieces_per_unit};
use super::reader::Reader;
use super::{DAYS_MAX, SUPPLIERS_MAX, did_you_mean};
use crate::money::Share;
use crate::terms::{Pricing, SupplierTerms};

pub(super) fn read(reader: &mut Reader, document: &Contract) -> Option<BTreeMap<String, SupplierTerms>> {
    if !reader.at_most("suppliers", document.suppliers.len(), SUPPLIERS_MAX) {
        return None;
    }
    refuse_duplicates(reader, &document.suppliers);
    let mut read = BTreeMap::new();
    for (i, terms) in document.suppliers.iter().enumerate() {
        let terms_read = supplier(reader, &format!("suppliers[{i}]"), terms, document);
        read.insert(terms.supplier.clone(), terms_read);
    }
    read.into_iter().map(|(name, terms)| Some((name, terms?))).collect()
}

/// A supplier with two entries would get both: its shares are summed to show what that comes to.
fn refuse_duplicates(reader: &mut Reader, suppliers: &[contract::SupplierTerms]) {
    let mut seen: BTreeMap<&str, (usize, i64)> = BTreeMap::new();
    for (i, terms) in suppliers.iter().enumerate() {
        let share = terms.share_percent.as_ref().and_then(|text| Share::parse_percent(&text.0).ok());
        let share = share.map_or(0, Share::scaled);
        let Some((first, sum)) = seen.get_mut(terms.supplier.as_str()) else {
            seen.insert(&terms.supplier, (i, share));
            continue;
        };
        *sum = sum.saturating_add(share);
        let shares = if *sum > 100_000_000 {
            format!(", and its shares sum to {} %, more than the renter pays", Share::from_scaled(*sum))
        } else {
            String::new()
        };
        reader.say(
            format!("suppliers[{i}].supplier"),
            format!("{:?} stands in `suppliers[{first}]` already{shares}", shorten(&terms.supplier)),
            "one entry for each supplier",
            "",
        );
    }
}

fn supplier(
    reader: &mut Reader,
    path: &str,
    terms: &contract::SupplierTerms,
    document: &Contract,
) -> Option<SupplierTerms> {
    reader.identity(&format!("{path}.supplier"), &terms.supplier);
    if terms.share_percent.is_none() && terms.rates.is_empty() && terms.minimum_guarantee.is_none() {
        reader.say(
            path,
            "does not say what the supplier gets",
            "`share_percent`, `rates` or `minimum_guarantee`",
            "for nothing at all, leave the entry out or write `share_percent: 0`",
        );
    }
    let zero = || Some(Share::from_scaled(0));
    let share = match &terms.share_percent {
        Some(percent) => reader.share(&format!("{path}.share_percent"), percent),
        None => zero(),
    };
    let mut own = BTreeMap::new();
    for (charge, rate) in &terms.rates {
        let rate = own_rate(reader, &format!("{path}.rates.{charge}"), charge, rate, document);
        own.insert(charge.clone(), rate);
    }
    let minimum_guarantee =
        terms.minimum_guarantee.as_ref().map(|amount| reader.amount(&format!("{path}.minimum_guarantee"), amount));
    let holdback = match &terms.holdback_percent {
        Some(percent) => reader.share(&format!("{path}.holdback_percent"), percent),
        None => zero(),
    };
    match (&terms.holdback_percent, terms.holdback_days) {
        (Some(_), None) => {
            let expected = "days after the period's end";
            reader.say(format!("{path}.holdback_days"), "what is held back would never be released", expected, "");
        }
        (None, Some(_)) => {
            let expected = "`holdback_percent` beside it";
            reader.say(format!("{path}.holdback_days"), "nothing is held back", expected, "");
        }
        (_, Some(days)) if days > DAYS_MAX => {
            reader.say(format!("{path}.holdback_days"), format!("{days} days"), format!("0 to {DAYS_MAX}"), "");
        }
        _ => (),
    }
    Some(SupplierTerms {
        share: share?,
        own: own.into_iter().map(|(charge, rate)| Some((charge, rate?))).collect::<Option<_>>()?,
        shares_true_ups: terms.share_true_ups.unwrap_or(false),
        minimum_guarantee: super::transpose(minimum_guarantee)?,
        holdback: holdback?,
        holdback_days: terms.holdback_days.unwrap_or(0),
        clawback: terms.clawback.unwrap_or_default(),
    })
}

fn own_rate(
    reader: &mut Reader,
    path: &str,
    charge: &str,
    rate: &contract::SupplierRate,
    document: &Contract,
) -> Option<Pricing> {
    let expected = "the name of a metered charge of this contract";
    let Some(charge_document) = document.charges.get(charge) else {
        let hint = did_you_mean(charge, document.charges.keys().map(String::as_str));
        reader.say(path, format!("there is no charge {:?}", shorten(charge)), expected, hint);
        return None;
    };
    let Some(pieces_per_unit) = metered_pieces_per_unit(charge_document) else {
        reader.say(
            path,
            format!("{:?} is not metered", shorten(charge)),
            expected,
            "suppliers share metered charges only",
        );
        return None;
    };
    let given = [rate.price.is_some(), !rate.graduated.is_empty(), !rate.volume.is_empty()];
    let count = given.iter().filter(|is_given| **is_given).count();
    if count != 1 {
        let what = if count == 0 { "has no price".to_owned() } else { format!("has {count} kinds of price") };
        reader.say(path, what, "exactly one of `price`, `graduated` and `volume`", "");
        return None;
    }
    ladder(reader, path, rate.price.as_ref(), &rate.graduated, &rate.volume, pieces_per_unit)
}
