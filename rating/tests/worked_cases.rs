//! Cases from the field, each recomputed by hand from public documentation of billing systems and clouds, through the document.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::*;
use hydrometer_rating::due::DueKind;
use hydrometer_rating::what_if::Quote;
use serde_json::{Value, json};

fn charge(fields: Value) -> Value {
    let mut charge = json!({ "basis": "allocated" });
    for (name, value) in fields.as_object().unwrap() {
        charge[name] = value.clone();
    }
    json!({ "charges": { "gpu_hours": charge } })
}

fn of_units(fields: Value, units: &str) -> String {
    total(&priced(&[charge(fields)], &quantities(&[units])))
}

fn due(quote: &Quote, kind: DueKind) -> Vec<String> {
    quote.dues.iter().filter(|(_, due)| due.kind == kind).map(|(_, due)| shown(due.renter_amount)).collect()
}

#[test]
fn volume_and_graduated() {
    let tiers = json!([{ "up_to": "5", "price": "7" }, { "up_to": "10", "price": "6.5" }, { "price": "6" }]);
    let volume = ["5", "6", "20", "25"].map(|units| of_units(json!({ "volume": tiers }), units));
    assert_eq!(volume, ["35", "39", "120", "150"]);
    let graduated = ["6", "20", "25"].map(|units| of_units(json!({ "graduated": tiers }), units));
    assert_eq!(graduated, ["41.5", "127.5", "157.5"]);
}

fn flat_tiers(third: &str, fourth: &str) -> Value {
    json!([{ "up_to": "5", "flat": "100" }, { "up_to": "10", "flat": "50" }, { "up_to": "15", "price": third }, { "price": fourth }])
}

#[test]
fn flat_and_unit_tiers() {
    let fields = json!({ "graduated": flat_tiers("10", "5"), "flat_at_zero": true });
    let totals = ["0", "5", "5.001", "12", "22"].map(|units| of_units(fields.clone(), units));
    assert_eq!(totals, ["100", "100", "150", "170", "235"]);
    assert_eq!(of_units(json!({ "graduated": flat_tiers("10", "5") }), "0"), "0");
}

#[test]
fn minimum_spend() {
    let fields = json!({ "graduated": flat_tiers("5", "1"), "minimum_spend": "1000" });
    let quote = priced(&[charge(fields)], &quantities(&["5"]));
    assert_eq!(shown(quote.subtotals[0].renter), "100");
    assert_eq!(due(&quote, DueKind::MinimumSpend), ["900"]);
    assert_eq!(total(&quote), "1000");
}

/// 333 units at 0.001, then 333 more: what a document shows of them is the ledger's rounding, of these exact totals.
#[test]
fn totals_that_a_document_rounds() {
    let fields = charge(json!({ "price": "0.001" }));
    assert_eq!(total(&priced(std::slice::from_ref(&fields), &quantities(&["333"]))), "0.333");
    assert_eq!(total(&priced(&[fields], &quantities(&["333", "333"]))), "0.666");
}

#[test]
fn late_data_counts_where_it_was_used() {
    let usage = |rows: &[(&str, &str)]| {
        let mut csv = "start,end,lease,gpu,charge,quantity\n".to_owned();
        for (day, units) in rows {
            csv += &format!("2026-{day}T00:00:00Z,2026-{day}T00:00:01Z,l,g,gpu_hours,{units}\n");
        }
        priced(&[charge(json!({ "price": "10" }))], &csv).subtotals.iter().map(|s| shown(s.renter)).collect::<Vec<_>>()
    };
    assert_eq!(usage(&[("03-10", "5")]), ["50"]);
    assert_eq!(usage(&[("03-10", "5"), ("04-10", "3"), ("03-12", "2")]), ["70", "30"]);
}

#[test]
fn packages() {
    let package = json!({ "size": "10", "price": "100" });
    assert_eq!(of_units(json!({ "package": package }), "121"), "1300");
    assert_eq!(of_units(json!({ "package": package, "free": "10" }), "121"), "1200");
    assert_eq!(of_units(json!({ "package": package, "free": "200" }), "121"), "0");
}

#[test]
fn commitment_per_period() {
    let fields = |true_up: bool| json!({ "price": "2", "commitment": { "quantity": "500", "per": "period", "overage_multiplier": "1.5", "true_up": true_up } });
    assert_eq!(of_units(fields(true), "700"), "1600");
    assert_eq!(of_units(fields(true), "300"), "1000");
    assert_eq!(of_units(fields(false), "300"), "600");
}

#[test]
fn tiers_of_each_resource() {
    let usage = "start,end,lease,gpu,charge,quantity\n\
        2026-03-10T10:00:00Z,2026-03-10T11:00:00Z,l,1,gpu_hours,3\n\
        2026-03-10T10:00:00Z,2026-03-10T11:00:00Z,l,2,gpu_hours,12\n";
    let tiers = json!([{ "up_to": "10", "price": "1" }, { "price": "2" }]);
    let of = |scope: &str| total(&priced(&[charge(json!({ "graduated": tiers, "scope": scope }))], usage));
    assert_eq!([of("gpu"), of("contract")], ["17", "20"]);
}

#[test]
fn six_hundred_seconds() {
    let usage = "start,end,lease,gpu,class\n2026-03-10T10:00:00Z,2026-03-10T10:10:00Z,l,g,used\n";
    assert_eq!(total(&priced(&[charge(json!({ "price": "1.71" }))], usage)), "0.285");
}

/// A month of 720 hours, eight GPUs, nine hours down in the second week.
fn april(down: &str) -> String {
    let mut usage = "start,end,lease,gpu,class\n".to_owned();
    for gpu in 0..8 {
        usage += &format!("2026-04-01T00:00:00Z,2026-04-08T00:00:00Z,l,{gpu},used\n");
        usage += &format!("2026-04-08T00:00:00Z,2026-04-08T09:00:00Z,l,{gpu},{down}\n");
        usage += &format!("2026-04-08T09:00:00Z,2026-05-01T00:00:00Z,l,{gpu},idle\n");
    }
    usage
}

#[test]
fn downtime_and_sla() {
    let contract = |base: &str| {
        let mut contract = charge(json!({ "price": "2.50" }));
        contract["sla"] = json!({
            "tiers": [{ "below_percent": "99.9", "credit_percent": "10" }, { "below_percent": "99", "credit_percent": "15" }],
            "base": base,
        });
        contract["suppliers"] = json!([{ "supplier": "*", "share_percent": "80" }]);
        contract
    };
    let after = priced(&[contract("after")], &april("down_supplier"));
    assert_eq!(shown(after.subtotals[0].renter), "14220");
    assert_eq!(due(&after, DueKind::SlaCredit), ["-2133"]);
    assert_eq!(shown(after.totals.supplier), shown_eighty_percent(14_220 - 2_133));
    let before = priced(&[contract("before")], &april("down_supplier"));
    assert_eq!(due(&before, DueKind::SlaCredit), ["-2160"]);
    // The platform's fault is the platform's to bear; the renter's is no downtime at all.
    let platform = priced(&[contract("after")], &april("down_platform"));
    assert_eq!((shown(platform.totals.renter), shown(platform.totals.supplier)), ("12087".into(), "11520".into()));
    assert_eq!(total(&priced(&[contract("after")], &april("down_renter"))), "14400");
}

fn shown_eighty_percent(amount: i128) -> String {
    shown(hydrometer_rating::money::Amount::from_scaled(amount * 800_000_000))
}

#[test]
fn proration() {
    let of = |rule: &str| {
        let contract = json!({
            "effective": "2026-02-15T00:00:00-08:00", "time_zone": "America/Los_Angeles",
            "charges": { "rack": { "basis": "recurring", "price": "14400", "proration": rule } },
        });
        let quote = priced(&[contract], "start,end,lease,gpu,class\n");
        shown(quote.totals.renter)
    };
    assert_eq!([of("second"), of("actual_days"), of("30_360"), of("none")], ["7200", "7200", "7680", "14400"]);
    assert_eq!(of("730_hours"), "6627.945205479");
}

#[test]
fn split_at_the_second_and_both_sides() {
    let contract = |effective: &str, price: &str| {
        let mut contract = charge(json!({ "price": price }));
        contract["effective"] = effective.into();
        contract["suppliers"] = json!([{ "supplier": "s", "share_percent": "80" }]);
        contract
    };
    let mut usage = "start,end,lease,gpu,class,supplier\n".to_owned();
    for gpu in 0..8 {
        usage += &format!("2026-03-10T10:00:00Z,2026-03-10T11:00:00Z,l,{gpu},used,s\n");
    }
    let documents = [contract("2026-03-01T00:00:00Z", "2.50"), contract("2026-03-10T10:20:30Z", "2.20")];
    let quote = priced(&documents, &usage);
    let totals = &quote.totals;
    assert_eq!([totals.renter, totals.supplier, totals.platform].map(shown), ["18.42", "14.736", "3.684"]);
    assert_eq!(quote.lines.len(), 2);
}

#[test]
fn mig() {
    // 3 of 7 slices for 1,800 s are 3/14 of a card-hour, which no decimal holds: the quantity is counted in slice-seconds by the stream.
    let contract = json!({ "charges": { "mig": { "basis": "slices", "price": "2.10" } } });
    let terms = terms(contract);
    let rate = terms.rate("mig", "s").unwrap();
    let cell = hydrometer_rating::keys::Cell { billed: 3 * 1_800 * 1_000_000, paid: 0 };
    let key = hydrometer_rating::keys::CellKey { version_from: 0, rate: rate.id, segment: 0, supplier: "s".into() };
    let rates = std::collections::HashMap::from([(rate.id, rate)]);
    let amounts = hydrometer_rating::rate::amounts(&[(key.clone(), cell)].into(), &rates).unwrap();
    assert_eq!(shown(amounts[&key].renter), "0.45");
}
