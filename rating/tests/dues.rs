//! What falls due at the end of a period, through documents; amounts recomputed by hand.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::{BTreeMap, HashMap};

use common::*;
use hydrometer_rating::due::{Closing, Due, DueKind, LeaseFacts, dues, hour_dues};
use hydrometer_rating::history::Span;
use hydrometer_rating::what_if::Quote;
use serde_json::{Value, json};

/// Kind, charge, subject and amounts of both sides.
fn listed(quote: &Quote) -> Vec<String> {
    quote.dues.iter().map(|(_, due)| one_line(due)).collect()
}

fn one_line(due: &Due) -> String {
    let supplier = due.supplier.as_deref().unwrap_or("-");
    let (renter, paid) = (shown(due.renter_amount), shown(due.supplier_amount));
    format!("{} {} {} {supplier} {renter} {paid}", due.kind, due.charge, due.subject)
}

fn with(charges: Value, others: Value) -> Value {
    let mut contract = json!({ "charges": charges });
    for (name, value) in others.as_object().unwrap() {
        contract[name] = value.clone();
    }
    contract
}

#[test]
fn fees_by_contract_lease_and_gpu() {
    let contract = with(
        json!({
            "gpu_hours": { "basis": "allocated", "price": "0" },
            "rack": { "basis": "recurring", "price": "310" },
            "support": { "basis": "recurring", "price": "31", "per": "gpu" },
            "port": { "basis": "recurring", "price": "62", "per": "lease", "proration": "none" },
            "setup": { "basis": "one_off", "price": "99" },
        }),
        json!({}),
    );
    // One GPU-day of two GPUs in March: 1/31 of the fees of what was leased.
    let usage = "start,end,lease,gpu,class\n\
        2026-03-10T00:00:00Z,2026-03-11T00:00:00Z,l,0,used\n2026-03-10T00:00:00Z,2026-03-11T00:00:00Z,l,1,used\n";
    let expected = ["fee port l - 62 0", "fee rack  - 310 0", "fee setup  - 99 0", "fee support l - 2 0"];
    assert_eq!(listed(&priced(&[contract], usage)), expected);
}

#[test]
fn a_fee_that_changes_in_mid_period_is_cut_by_the_second() {
    let fee = |effective: &str, price: &str| {
        with(json!({ "rack": { "basis": "recurring", "price": price } }), json!({ "effective": effective }))
    };
    let documents = [fee("2026-04-01T00:00:00Z", "300"), fee("2026-04-11T00:00:00Z", "600")];
    let usage = "start,end,lease,gpu,class\n2026-04-10T00:00:00Z,2026-04-11T00:00:00Z,l,0,used\n";
    assert_eq!(listed(&priced(&documents, usage)), ["fee rack  - 100 0", "fee rack  - 400 0"]);
}

#[test]
fn percentage_maximum_and_guarantee() {
    let contract = with(
        json!({
            "gpu_hours": { "basis": "allocated", "price": "10", "maximum_spend": "80" },
            "support": { "basis": "percentage", "percent": "5" },
        }),
        json!({ "suppliers": [
            { "supplier": "s", "share_percent": "50", "minimum_guarantee": "60" },
            { "supplier": "t", "share_percent": "50", "minimum_guarantee": "7" },
        ] }),
    );
    let usage =
        "start,end,lease,gpu,charge,quantity,supplier\n2026-03-10T00:00:00Z,2026-03-11T00:00:00Z,l,0,gpu_hours,10,s\n";
    let quote = priced(&[contract], usage);
    let expected =
        ["maximum_spend gpu_hours  - -20 0", "percentage support  - 4 0", "guarantee   s 0 10", "guarantee   t 0 7"];
    assert_eq!(listed(&quote), expected);
    let totals = &quote.totals;
    assert_eq!([totals.renter, totals.supplier, totals.platform].map(shown), ["84", "67", "17"]);
}

#[test]
fn minimum_spend_is_prorated_in_a_short_period() {
    let contract = with(
        json!({ "gpu_hours": { "basis": "allocated", "price": "1" } }),
        json!({ "effective": "2026-04-16T00:00:00Z", "minimum_spend": "1000" }),
    );
    let usage = "start,end,lease,gpu,charge,quantity\n2026-04-20T00:00:00Z,2026-04-21T00:00:00Z,l,0,gpu_hours,100\n";
    assert_eq!(listed(&priced(&[contract], usage)), ["minimum_spend   - 400 0"]);
}

#[test]
fn true_ups_are_shared_only_where_the_terms_say_so() {
    let contract = |shared: bool| {
        with(
            json!({ "gpu_hours": { "basis": "allocated", "price": "2", "commitment": { "quantity": "500", "per": "period" } } }),
            json!({ "suppliers": [{ "supplier": "*", "share_percent": "80", "share_true_ups": shared }] }),
        )
    };
    let usage = quantities(&["300"]);
    assert_eq!(listed(&priced(&[contract(false)], &usage)), ["true_up gpu_hours  - 400 0"]);
    let shared = ["true_up gpu_hours  - 400 0", "true_up gpu_hours  * 0 320"];
    assert_eq!(listed(&priced(&[contract(true)], &usage)), shared);
}

#[test]
fn every_hour_of_a_commitment_closes_used_or_not() {
    let charges = json!({ "gpu_hours": { "basis": "allocated", "price": "2", "commitment": { "quantity": "8", "per": "hour", "overage_multiplier": "1.5" } } });
    let documents = [with(charges, json!({ "effective": "2026-04-01T00:00:00Z" }))];
    // Ten GPUs in one hour, six in the next: 8 + 2 x 1.5, and 6 with two to be trued up; 718 hours were not used.
    let mut usage = "start,end,lease,gpu,class\n".to_owned();
    for gpu in 0..10 {
        let end = if gpu < 6 { 12 } else { 11 };
        usage += &format!("2026-04-10T10:00:00Z,2026-04-10T{end}:00:00Z,l,{gpu},used\n");
    }
    let quote = priced(&documents, &usage);
    assert_eq!(shown(quote.subtotals[0].renter), "34");
    assert_eq!(listed(&quote), [format!("true_up gpu_hours  - {} 0", 718 * 16 + 4)]);
    let versions = versions(&[document(documents[0].clone())]);
    let rates = HashMap::new();
    let unused = hour_dues(&versions, at("2026-04-10T12:00:00Z"), &BTreeMap::new(), &rates).unwrap();
    assert_eq!(unused.iter().map(one_line).collect::<Vec<_>>(), ["true_up gpu_hours  - 16 0"]);
}

#[test]
fn ending_early() {
    let contract = |rule: Value| {
        let term = json!({ "ends": "2026-07-01T00:00:00Z", "early_termination": rule });
        let charges = json!({
            "gpu_hours": { "basis": "allocated", "price": "2", "commitment": { "quantity": "100", "per": "period" } },
            "rack": { "basis": "recurring", "price": "50" },
        });
        document(with(charges, json!({ "term": term, "minimum_spend": "10" })))
    };
    let ended = |rule: Value, at_time: &str| {
        let versions = versions(&[contract(rule)]);
        let period = Span { from: at("2026-04-01T00:00:00Z"), to: at("2026-05-01T00:00:00Z") };
        let (states, rates) = (BTreeMap::new(), HashMap::new());
        let terminated = Some(at(at_time));
        let closing = Closing { versions: &versions, period, states: &states, rates: &rates, leases: &[], terminated };
        let again = dues(&closing).unwrap();
        assert_eq!(dues(&closing).unwrap(), again, "the same facts give the same list");
        let early = again.into_iter().find(|due| due.kind == DueKind::EarlyTermination);
        early.map(|due| shown(due.renter_amount))
    };
    assert_eq!(ended(json!({ "fee": "1000" }), "2026-04-16T00:00:00Z"), Some("1000".into()));
    // Half of April, May and June at 200 + 50 a month, of which 40 %.
    assert_eq!(ended(json!({ "remaining_percent": "40" }), "2026-04-16T00:00:00Z"), Some("250".into()));
    assert_eq!(ended(json!({ "remaining_percent": "40" }), "2026-07-01T00:00:00Z"), None);
}

#[test]
fn an_sla_of_the_invoice_is_credited_once_and_never_above_its_cap() {
    let contract = |cap: &str, automatic: bool| {
        let sla = json!({ "tiers": [{ "below_percent": "99", "credit_percent": "30" }], "of": "invoice", "cap_percent": cap, "automatic": automatic });
        with(
            json!({ "gpu_hours": { "basis": "allocated", "price": "10" }, "rack": { "basis": "recurring", "price": "100" } }),
            json!({ "sla": sla }),
        )
    };
    let mut usage = "start,end,lease,gpu,class\n".to_owned();
    for lease in ["a", "b"] {
        usage += &format!("2026-04-10T00:00:00Z,2026-04-10T09:00:00Z,{lease},0,used\n");
        usage += &format!("2026-04-10T09:00:00Z,2026-04-10T10:00:00Z,{lease},0,down_platform\n");
    }
    let credits = |quote: &Quote| listed(quote).into_iter().filter(|due| due.starts_with("sla")).collect::<Vec<_>>();
    assert_eq!(credits(&priced(&[contract("100", true)], &usage)), ["sla_credit  a * -84 0"]);
    assert_eq!(credits(&priced(&[contract("20", true)], &usage)), ["sla_credit  a * -56 0"]);
    let only_listed = priced(&[contract("20", false)], &usage);
    assert_eq!(credits(&only_listed), ["sla_credit  a * -56 0"]);
    assert_eq!(total(&only_listed), "280");
}

#[test]
fn a_commitment_of_each_lease_is_due_for_leases_without_use_too() {
    let charges = json!({ "gpu_hours": { "basis": "busy", "price": "2", "scope": "lease", "commitment": { "quantity": "10", "per": "period" } } });
    let versions = versions(&[document(with(charges, json!({})))]);
    let period = Span { from: at("2026-04-01T00:00:00Z"), to: at("2026-05-01T00:00:00Z") };
    let lease = |name: &str| LeaseFacts { lease: name.into(), span: period, slots: vec![0], ..LeaseFacts::default() };
    let (states, rates) = (BTreeMap::new(), HashMap::new());
    let leases = [lease("a"), lease("b")];
    let closing =
        Closing { versions: &versions, period, states: &states, rates: &rates, leases: &leases, terminated: None };
    let found: Vec<String> = dues(&closing).unwrap().iter().map(one_line).collect();
    assert_eq!(found, ["true_up gpu_hours a - 20 0", "true_up gpu_hours b - 20 0"]);
}
