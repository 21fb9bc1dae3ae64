//! Contracts and usage written down as their users do.
#![allow(dead_code)]

use std::sync::Arc;

use hydrometer_rating::history::{Span, Version};
use hydrometer_rating::money::Amount;
use hydrometer_rating::terms::{Terms, compile};
use hydrometer_rating::usage_csv;
use hydrometer_rating::what_if::{Quote, quote};
use hydrometer_schemas::contract::Contract;
use hydrometer_schemas::time::{FOREVER, Second, parse_rfc3339};
use serde_json::{Value, json};

pub fn at(text: &str) -> Second {
    parse_rfc3339(text).unwrap().div_euclid(1_000_000)
}

/// A contract in force from March 2026 in UTC, with `fields` put over the plainest one.
pub fn document(fields: Value) -> Contract {
    let mut document = json!({
        "contract": "c", "renter": "r", "currency": "USD", "effective": "2026-03-01T00:00:00Z",
        "charges": { "gpu_hours": { "basis": "allocated", "price": "1" } },
    });
    for (name, value) in fields.as_object().unwrap() {
        document[name] = value.clone();
    }
    serde_json::from_value(document).unwrap()
}

pub fn terms(fields: Value) -> Terms {
    compile(&document(fields)).unwrap_or_else(|mistakes| panic!("{mistakes:#?}"))
}

/// Documents in order of their effective time.
pub fn versions(documents: &[Contract]) -> Vec<Version> {
    let terms: Vec<Terms> = documents.iter().map(|d| compile(d).unwrap_or_else(|m| panic!("{m:#?}"))).collect();
    let ends: Vec<Second> = terms.iter().skip(1).map(|t| t.effective).chain([FOREVER]).collect();
    let span = |terms: &Terms, to| Span { from: terms.effective, to };
    terms.into_iter().zip(ends).map(|(t, to)| Version { span: span(&t, to), terms: Arc::new(t) }).collect()
}

pub fn priced(documents: &[Value], usage: &str) -> Quote {
    let documents: Vec<Contract> = documents.iter().map(|fields| document(fields.clone())).collect();
    let rows = usage_csv::read(usage.as_bytes()).unwrap_or_else(|m| panic!("{m:#?}"));
    quote(&versions(&documents), &rows, None).unwrap()
}

/// Quantities of `gpu_hours` of one GPU, each in a second of its own on 10 March 2026.
pub fn quantities(units: &[&str]) -> String {
    let mut usage = "start,end,lease,gpu,charge,quantity\n".to_owned();
    for (n, units) in units.iter().enumerate() {
        usage += &format!("2026-03-10T10:00:{n:02}Z,2026-03-10T10:01:{n:02}Z,l,g,gpu_hours,{units}\n");
    }
    usage
}

/// Without needless zeros.
pub fn shown(amount: Amount) -> String {
    amount.to_string().trim_end_matches('0').trim_end_matches('.').to_owned()
}

pub fn total(quote: &Quote) -> String {
    shown(quote.totals.renter)
}
