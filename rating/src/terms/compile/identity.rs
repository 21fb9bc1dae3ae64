//! Rates and their identities.

use std::collections::BTreeMap;
use std::sync::Arc;

use hydrometer_schemas::contract::{self, Contract};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::money::Share;
use crate::terms::{Charge, Rate, RateId, SupplierSide, SupplierTerms};

/// Every metered charge for every supplier with terms of its own, and for `*`.
pub(super) fn rates(
    document: &Contract,
    charges: &BTreeMap<String, Arc<Charge>>,
    suppliers: &BTreeMap<String, SupplierTerms>,
) -> BTreeMap<String, BTreeMap<String, Arc<Rate>>> {
    let mut rates = BTreeMap::new();
    for (name, charge) in charges.iter().filter(|(_, charge)| charge.is_metered()) {
        let Some(charge_document) = document.charges.get(name) else { continue };
        let mut by_supplier = BTreeMap::new();
        for (supplier, terms) in suppliers {
            let own_document = || {
                let entry = document.suppliers.iter().find(|entry| entry.supplier == *supplier)?;
                entry.rates.get(name)
            };
            let side = match terms.own.get(name) {
                Some(pricing) => SupplierSide::Own(pricing.clone()),
                None => SupplierSide::Share(terms.share),
            };
            let id = rate_id(&document.currency, name, charge_document, &side, own_document(), terms.holdback);
            let rate = Rate { id, charge: charge.clone(), supplier: side, holdback: terms.holdback };
            by_supplier.insert(supplier.clone(), Arc::new(rate));
        }
        by_supplier.entry("*".to_owned()).or_insert_with(|| {
            let nothing = Share::from_scaled(0);
            let side = SupplierSide::Share(nothing);
            let id = rate_id(&document.currency, name, charge_document, &side, None, nothing);
            Arc::new(Rate { id, charge: charge.clone(), supplier: side, holdback: nothing })
        });
        rates.insert(name.clone(), by_supplier);
    }
    rates
}

/// The first 16 bytes of the SHA-256 of a canonical text of all that the amounts depend on besides quantities. The text is JSON,
/// fields in the order of their names (whatever features serde_json has), decimals without needless zeros. **It is stored in rating states: it must not change.**
fn rate_id(
    currency: &str,
    name: &str,
    charge: &contract::Charge,
    side: &SupplierSide,
    own: Option<&contract::SupplierRate>,
    holdback: Share,
) -> RateId {
    let side = match side {
        SupplierSide::Share(share) => json!({ "share": share.to_string() }),
        SupplierSide::Own(_) => json!({ "own": canonical(to_value(own)) }),
    };
    let held = holdback.to_string();
    let text = json!(["hydrometer rate 1", currency, name, canonical(to_value(charge)), side, held]).to_string();
    let hash = Sha256::digest(text.as_bytes());
    let mut first = [0; 16];
    first.copy_from_slice(&hash[..16]);
    RateId(u128::from_be_bytes(first))
}

/// Documents are strings, lists and maps with string keys: nothing that JSON cannot hold.
fn to_value(document: impl serde::Serialize) -> Value {
    serde_json::to_value(document).unwrap_or_default()
}

/// `2.50` and `2.5` are one price.
fn canonical(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(canonical_decimal(text)),
        Value::Array(list) => list.into_iter().map(canonical).collect(),
        // What a percentage is of are names, however much they look like numbers.
        Value::Object(map) => {
            let sorted: BTreeMap<String, Value> =
                map.into_iter().map(|(k, v)| if k == "of" { (k, v) } else { (k, canonical(v)) }).collect();
            sorted.into_iter().collect()
        }
        other => other,
    }
}

fn canonical_decimal(text: String) -> String {
    let is_decimal = text.bytes().all(|b| b.is_ascii_digit() || b == b'.') && text.contains('.');
    let short = if is_decimal { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    let trimmed = short.trim_start_matches('0');
    match trimmed.as_bytes().first() {
        _ if trimmed.len() == short.len() || !short.bytes().all(|b| b.is_ascii_digit() || b == b'.') => {
            short.to_owned()
        }
        Some(b'0'..=b'9') => trimmed.to_owned(),
        _ => format!("0{trimmed}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_decimals_have_one_text() {
        for (text, expected) in [
            ("2.50", "2.5"),
            ("2.0", "2"),
            ("2", "2"),
            ("0", "0"),
            ("0.0", "0"),
            ("0.10", "0.1"),
            ("007.10", "7.1"),
            ("100", "100"),
            ("allocated", "allocated"),
            ("08:00", "08:00"),
            ("", ""),
            ("00", "0"),
        ] {
            assert_eq!(canonical_decimal(text.into()), expected, "{text}");
        }
    }
}
