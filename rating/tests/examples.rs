//! The contracts under `examples/contracts/` against the amounts that their comments work out by hand.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::PathBuf;

use hydrometer_rating::money::Amount;
use hydrometer_rating::terms::file::{Version, read, timeline};
use hydrometer_rating::usage_csv;
use hydrometer_rating::what_if::{Quote, quote};

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/contracts"))
}

fn contract(name: &str) -> Vec<Version> {
    let bytes = std::fs::read(folder().join(format!("{name}.yaml"))).unwrap();
    read(&bytes).unwrap_or_else(|mistakes| panic!("{name}: {mistakes:#?}"))
}

fn priced(name: &str) -> Quote {
    let csv = std::fs::read(folder().join(format!("{name}.csv"))).unwrap();
    let usage = usage_csv::read(&csv).unwrap_or_else(|mistakes| panic!("{name}: {mistakes:#?}"));
    quote(&timeline(&contract(name)), &usage, None).unwrap_or_else(|error| panic!("{name}: {error:?}"))
}

/// `15` for 15.000000000.
fn short(amount: Amount) -> String {
    amount.to_string().trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What a due is, whose, and its amounts on both sides: `true_up gpu_hours 400 0`.
fn dues(quote: &Quote) -> Vec<String> {
    let shown = quote.dues.iter().filter(|(_, due)| due.is_booked).map(|(_, due)| {
        let charge = if due.charge.is_empty() { "*" } else { &due.charge };
        format!("{} {charge} {} {}", due.kind, short(due.renter_amount), short(due.supplier_amount))
    });
    shown.collect()
}

/// Name, what the renter owes, what suppliers earn, and what of it falls due at closing. As the comment of each example has it.
const EXPECTED: [(&str, &str, &str, &[&str]); 19] = [
    ("colocation", "10830", "1130", &["fee install 2500 0", "fee rack 7200 0"]),
    ("dinar", "100.5125", "5.425", &["minimum_spend * 92.375 0", "percentage support 0.3875 0"]),
    ("graduated-tiers", "13690", "10872", &["flat_at_zero gpu_hours 100 0"]),
    ("hourly-commitment", "54", "37.8", &["true_up gpu_hours 8 0", "true_up gpu_hours 0 5.6"]),
    ("interruptible", "1.155", "0.75075", &[]),
    ("los-angeles", "2928", "2342.4", &[]),
    ("memory", "1.2", "0.9", &[]),
    ("mig-slices", "10.5", "8.4", &[]),
    ("minimum-spend", "28500", "25600", &["minimum_spend * 1500 0", "maximum_spend * -5000 0"]),
    ("node-sla", "12087", "9669.6", &["sla_credit * -2133 -1706.4"]),
    ("on-demand", "18.42", "14.736", &[]),
    ("packages", "1200", "600", &[]),
    ("prepaid", "1.026", "0.6156", &[]),
    ("reserved", "2600", "1650", &["true_up gpu_hours 400 0"]),
    ("revenue-share", "3000", "3000", &["guarantee * 0 450"]),
    ("supplier-rate", "270", "178", &[]),
    ("time-of-day", "14", "11.2", &[]),
    ("volume-tiers", "14100", "11280", &[]),
    ("yen", "50192.75", "154.2", &["fee platform 50000 0"]),
];

#[test]
fn every_example_is_a_contract_that_an_editor_can_check() {
    let mut names: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(
                text.starts_with("# yaml-language-server: $schema=../../schemas/contract.schema.json\n"),
                "{path:?}"
            );
            names.push(path.file_stem().unwrap().to_str().unwrap().to_owned());
        }
    }
    names.sort();
    assert_eq!(names, EXPECTED.map(|(name, ..)| name), "every example has its amounts here");
}

#[test]
fn every_example_costs_what_its_comment_says() {
    let mut wrong = Vec::new();
    for (name, renter, supplier, falls_due) in EXPECTED {
        let quote = priced(name);
        let found = (short(quote.totals.renter), short(quote.totals.supplier), dues(&quote));
        if (found.0.as_str(), found.1.as_str()) != (renter, supplier) || found.2 != falls_due {
            wrong.push(format!("{name}: expected {renter} {supplier} {falls_due:?}, found {found:?}"));
        }
        let both = quote.totals.supplier.checked_add(quote.totals.platform).unwrap();
        assert_eq!(both, quote.totals.renter, "{name}: both sides add up");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The amounts in the comments are those of the test.
#[test]
fn comments_and_test_agree() {
    for (name, renter, supplier, _) in EXPECTED {
        let text = std::fs::read_to_string(folder().join(format!("{name}.yaml"))).unwrap();
        let comment: String = text.lines().take_while(|line| line.starts_with('#')).collect::<Vec<_>>().join("\n");
        let numbers: Vec<String> =
            comment
                .split(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | ',')))
                .map(|word| word.replace(',', ""))
                .map(|word| {
                    if word.contains('.') { word.trim_end_matches('0').trim_end_matches('.').to_owned() } else { word }
                })
                .collect();
        for amount in [renter, supplier] {
            assert!(numbers.iter().any(|number| number == amount), "{name}: {amount} is not in its comment");
        }
    }
}
