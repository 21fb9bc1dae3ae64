//! Random contracts and random usage, held against the oracle; and law 4: whatever the order, the steps and the corrections, the totals
//! are the same. `PROPTEST_CASES` says how many; a failing case is kept, shrunk, beside this file and replayed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use common::{document, versions};
use hydrometer_oracle::{Clock, Outcome, Use, What, nanos, outcome};
use hydrometer_rating::history::{Span, Version};
use hydrometer_rating::keys::{Cell, CellKey};
use hydrometer_rating::money::Amount;
use hydrometer_rating::rate::{State, amounts, spread, step};
use hydrometer_rating::terms::{Rate, RateId, compile};
use hydrometer_rating::what_if::{Class, Quote, Usage, Used, quote};
use hydrometer_schemas::contract::Contract;
use hydrometer_schemas::time::show_second;
use proptest::prelude::*;
use serde_json::{Value, json};

/// Four days around the end of February 2026.
const BEGIN: i64 = 1_772_064_000;
const DAYS: i64 = 4;

type Amounts = BTreeMap<(String, String), i128>;

fn price() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => (1u32..400).prop_map(|cents| format!("{}.{:02}", cents / 100, cents % 100)),
        1 => Just("0".to_owned()),
        1 => Just("0.000000000001".to_owned()),
        1 => Just("1000000000".to_owned()),
        1 => (1u64..4_000_000_000_000).prop_map(|p| format!("{}.{:012}", p / 1_000_000_000_000, p % 1_000_000_000_000)),
    ]
}

/// Units, from thousandths to a few.
fn units() -> impl Strategy<Value = String> {
    (1u32..8_000).prop_map(|thousandths| format!("{}.{:03}", thousandths / 1_000, thousandths % 1_000))
}

fn tiers() -> impl Strategy<Value = Value> {
    let tier = (1u32..4_000, price(), prop::option::of(price()));
    prop::collection::vec(tier, 1..5).prop_map(|tiers| {
        let last = tiers.len() - 1;
        let mut bound = 0;
        let tier = |(n, (width, price, flat)): (usize, (u32, String, Option<String>))| {
            bound += width;
            let mut tier = json!({ "price": price });
            if n < last {
                tier["up_to"] = format!("{}.{:03}", bound / 1_000, bound % 1_000).into();
            }
            if let Some(flat) = flat {
                tier["flat"] = flat.into();
            }
            tier
        };
        Value::Array(tiers.into_iter().enumerate().map(tier).collect())
    })
}

/// What a charge keeps in all versions: what it counts, whose ladder it is, by which clock it is committed.
#[derive(Debug, Clone)]
struct Kind {
    basis: &'static str,
    scope: &'static str,
    is_hourly: bool,
}

fn kind() -> impl Strategy<Value = Kind> {
    let bases = prop::sample::select(vec![
        "allocated",
        "allocated",
        "observed",
        "busy",
        "suspended",
        "energy",
        "slices",
        "memory",
    ]);
    let scopes = prop::sample::select(vec!["contract", "contract", "lease", "gpu", "server"]);
    (bases, scopes, prop::bool::weighted(0.2)).prop_map(|(basis, scope, is_hourly)| {
        let is_hourly = is_hourly && matches!(basis, "allocated" | "observed" | "busy" | "slices");
        Kind { basis, scope: if is_hourly { "contract" } else { scope }, is_hourly }
    })
}

fn charge(kind: Kind) -> impl Strategy<Value = Value> {
    let overage = prop_oneof![
        Just(json!({})),
        (0u32..3_000).prop_map(|m| json!({ "overage_multiplier": format!("{}.{:03}", m / 1_000, m % 1_000) })),
        price().prop_map(|price| json!({ "overage_price": price })),
    ];
    let commitment = (units(), overage, any::<bool>());
    let range = (0u16..20, 1u16..4, price());
    let step = (1u32..4_000, prop::sample::select(vec!["up", "down", "nearest"]), prop::option::of(1u32..8_000));
    let ladder = (price(), tiers(), units());
    let spend = (prop::option::of(1u32..40), prop::option::of(40u32..80));
    (
        (0u8..5, ladder, prop::option::of(units()), prop::option::of(commitment)),
        (prop::option::of(range), prop::option::of(step), any::<bool>(), any::<bool>(), spend),
    )
        .prop_map(move |((which, (price, tiers, size), free, commitment), (range, step, reset, at_zero, spend))| {
            let mut charge = json!({ "basis": kind.basis });
            let which = if kind.is_hourly { which % 2 } else { which };
            match which {
                2 => charge["graduated"] = tiers,
                3 => charge["volume"] = tiers,
                4 => charge["package"] = json!({ "size": size, "price": price }),
                _ => charge["price"] = price.into(),
            }
            if let (Some((from, hours, price)), true) = (range, which < 2) {
                charge["by_time"] = json!([{ "from": format!("{from:02}:30"), "to": format!("{:02}:00", from + hours), "price": price }]);
            }
            let free = free.filter(|_| !kind.is_hourly);
            let commitment = commitment.or(kind.is_hourly.then(|| (size, json!({}), true)));
            let has_ladder = which > 1 || free.is_some() || commitment.is_some();
            if let Some(free) = free {
                charge["free"] = free.into();
            }
            if let Some((quantity, mut commitment, true_up)) = commitment {
                commitment["quantity"] = quantity.into();
                commitment["per"] = if kind.is_hourly { "hour" } else { "period" }.into();
                commitment["true_up"] = true_up.into();
                charge["commitment"] = commitment;
            }
            if has_ladder {
                charge["scope"] = kind.scope.into();
                charge["on_change"] = if reset { "reset" } else { "carry" }.into();
            }
            let tiers = charge.get("graduated").or(charge.get("volume"));
            if tiers.is_some_and(|tiers| tiers[0].get("flat").is_some()) {
                charge["flat_at_zero"] = at_zero.into();
            }
            if let (Some((step, rounding, minimum)), "allocated" | "observed" | "busy" | "suspended") = (step, kind.basis) {
                charge["step_s"] = step.into();
                charge["rounding"] = rounding.into();
                if let Some(minimum) = minimum {
                    charge["minimum_s"] = minimum.into();
                }
            }
            if let Some(least) = spend.0 {
                charge["minimum_spend"] = least.to_string().into();
            }
            if let Some(most) = spend.1 {
                charge["maximum_spend"] = most.to_string().into();
            }
            charge
        })
}

fn suppliers(kinds: &[Kind]) -> impl Strategy<Value = Value> + use<> {
    let names: Vec<usize> = (0..kinds.len()).collect();
    let own = prop_oneof![
        price().prop_map(|price| json!({ "price": price })),
        tiers().prop_map(|tiers| json!({ "graduated": tiers })),
        tiers().prop_map(|tiers| json!({ "volume": tiers })),
    ];
    let rates = prop::collection::vec((prop::sample::select(names), own), 0..2);
    let terms = (0u32..100_000_001, rates).prop_map(|(share, rates)| {
        let mut terms =
            json!({ "share_percent": format!("{}.{:06}", share / 1_000_000, share % 1_000_000), "rates": {} });
        for (n, rate) in rates {
            terms["rates"][format!("charge{n}")] = rate;
        }
        terms
    });
    prop::collection::vec(terms, 0..4).prop_map(|mut terms| {
        for (terms, name) in terms.iter_mut().zip(["a", "b", "*"]) {
            terms["supplier"] = name.into();
        }
        terms.truncate(3);
        Value::Array(terms)
    })
}

/// Up to three versions of a contract, each with the same names of charges.
fn contract() -> impl Strategy<Value = Vec<Contract>> {
    let zones = prop::sample::select(vec!["UTC", "America/Los_Angeles", "Asia/Kolkata"]);
    let calendar = (prop::sample::select(vec!["month", "quarter", "year"]), prop::sample::select(vec![1u8, 1, 27, 28]));
    (prop::collection::vec(kind(), 1..4), zones, calendar, prop::collection::vec(0..DAYS * 86_400, 0..3)).prop_flat_map(
        |(kinds, zone, (period, day), changes)| {
            let mut begins = vec![BEGIN - 40 * 86_400];
            begins.extend(changes.into_iter().map(|change| BEGIN + change));
            begins.sort_unstable();
            begins.dedup();
            let version = |begin: i64| {
                let charges: Vec<_> = kinds.iter().cloned().map(charge).collect();
                let spend = (prop::option::of(1u32..60), prop::option::of(60u32..200), prop::option::of(0u32..30_000_000));
                (charges, suppliers(&kinds), spend).prop_map(move |(charges, suppliers, (least, most, percent))| {
                    let mut fields = json!({
                        "effective": show_second(begin), "time_zone": zone, "calendar": { "period": period, "day": day },
                        "charges": {}, "suppliers": suppliers, "maintenance": { "announced": "allowance", "allowance_hours": "1.5" },
                    });
                    for (n, charge) in charges.into_iter().enumerate() {
                        fields["charges"][format!("charge{n}")] = charge;
                    }
                    if let Some(percent) = percent {
                        let percent = format!("{}.{:06}", percent / 1_000_000, percent % 1_000_000);
                        fields["charges"]["percentage"] = json!({ "basis": "percentage", "percent": percent });
                    }
                    if let Some(least) = least {
                        fields["minimum_spend"] = least.to_string().into();
                    }
                    if let Some(most) = most {
                        fields["maximum_spend"] = most.to_string().into();
                    }
                    document(fields)
                })
            };
            begins.into_iter().map(version).collect::<Vec<_>>()
        },
    )
}

#[derive(Debug, Clone)]
struct Raw {
    from: i64,
    length: i64,
    lease: u8,
    gpu: u8,
    class: usize,
    charge: Option<u8>,
    micro_units: i128,
}

fn usage() -> impl Strategy<Value = Vec<Raw>> {
    let row =
        (0..DAYS * 86_400 - 9_000, 1i64..9_000, 0u8..3, 0u8..3, 0usize..9, prop::option::of(0u8..3), 0i128..9_000_000);
    let raw = row.prop_map(|(from, length, lease, gpu, class, charge, micro_units)| Raw {
        from: BEGIN + from,
        length,
        lease,
        gpu,
        class,
        charge,
        micro_units,
    });
    prop::collection::vec(raw, 1..8)
}

/// The same rows for both. A row of a charge that the contract does not have is one of a class.
fn both(rows: &[Raw], charges: usize) -> (Vec<Usage>, Vec<Use>) {
    let mut usage = Vec::new();
    let mut uses = Vec::new();
    for (line, raw) in rows.iter().enumerate() {
        let (from, to) = (raw.from, raw.from + raw.length);
        let (lease, gpu) = (format!("lease{}", raw.lease), raw.gpu.to_string());
        let (supplier, server) =
            (["a", "b", "z"][usize::from(raw.lease)].to_owned(), format!("server{}", raw.lease / 2));
        let charge = raw.charge.filter(|n| usize::from(*n) < charges).map(|n| format!("charge{n}"));
        let class = Class::ALL[raw.class];
        let (used, what) = match charge {
            Some(charge) => (
                Used::Quantity { charge: charge.clone(), micro_units: raw.micro_units },
                What::Units { charge, micro_units: raw.micro_units },
            ),
            None => (Used::Class(class), What::Class(class.as_str())),
        };
        let span = Span { from, to };
        usage.push(Usage {
            line,
            span,
            lease: lease.clone(),
            gpu: gpu.clone(),
            supplier: supplier.clone(),
            server: server.clone(),
            used,
        });
        uses.push(Use { from, to, lease, gpu, supplier, server, what });
    }
    (usage, uses)
}

/// What the engine says, in the oracle's terms: the renter's amounts, and dues summed over their subjects.
fn of_quote(quote: &Quote, clock: &Clock) -> (Amounts, Amounts) {
    let mut metered = Amounts::new();
    for subtotal in &quote.subtotals {
        metered.insert((subtotal.charge.clone(), clock.period(subtotal.period.from)), subtotal.renter.scaled());
    }
    let mut dues = Amounts::new();
    for (period, due) in quote.dues.iter().filter(|(_, due)| due.renter_amount != Amount::ZERO) {
        let of = (format!("{} {}", due.kind, due.charge), clock.period(period.from));
        *dues.entry(of).or_default() += due.renter_amount.scaled();
    }
    metered.retain(|_, amount| *amount != 0);
    dues.retain(|_, amount| *amount != 0);
    (metered, dues)
}

fn of_oracle(outcome: &Outcome) -> (Amounts, Amounts) {
    let mut metered: Amounts = outcome.renter.iter().map(|(of, amount)| (of.clone(), nanos(amount))).collect();
    let mut dues = Amounts::new();
    for ((kind, charge, period, _), amount) in &outcome.dues {
        *dues.entry((format!("{kind} {charge}"), period.clone())).or_default() += nanos(amount);
    }
    metered.retain(|_, amount| *amount != 0);
    dues.retain(|_, amount| *amount != 0);
    (metered, dues)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(32), max_shrink_iters: 60, ..ProptestConfig::default() })]

    /// Every charge, period, supplier and due that the oracle knows of, to the last 1e-9.
    #[test]
    fn the_engine_and_the_oracle_agree(documents in contract(), rows in usage(), seed in any::<u64>()) {
        let charges = documents[0].charges.keys().filter(|name| name.starts_with("charge")).count();
        let versions = versions(&documents);
        let (mut usage, uses) = both(&rows, charges);
        // The order of the rows is of no account but where an allowance is used up in it.
        usage.sort_by_key(|row| (seed ^ row.line as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let quote = quote(&versions, &usage, None).unwrap();

        let clock = Clock::of(&documents[0]);
        let first = uses.iter().map(|row| row.from).min().unwrap();
        let last = uses.iter().map(|row| row.to - 1).max().unwrap();
        let mut periods = vec![clock.period(first), clock.period(last)];
        periods.dedup();
        let outcome = outcome(&documents, &uses, &periods);
        prop_assert_eq!(of_quote(&quote, &clock), of_oracle(&outcome));

        let mut suppliers: BTreeMap<String, i128> = BTreeMap::new();
        for ((_, _, supplier), amount) in &outcome.suppliers {
            *suppliers.entry(supplier.clone()).or_default() += nanos(amount);
        }
        let found: BTreeMap<String, i128> = quote.totals.suppliers.iter().map(|(s, a)| (s.clone(), a.scaled())).collect();
        prop_assert_eq!(found, suppliers);

        // Nothing is lost: lines add up to subtotals, both sides to the renter's total.
        let lines: i128 = quote.lines.iter().map(|line| line.renter.scaled()).sum();
        let subtotals: i128 = quote.subtotals.iter().map(|subtotal| subtotal.renter.scaled()).sum();
        prop_assert_eq!(lines, subtotals);
        let dues: i128 = quote.dues.iter().map(|(_, due)| due.renter_amount.scaled()).sum();
        let totals = &quote.totals;
        prop_assert_eq!(totals.renter.scaled(), subtotals + dues);
        prop_assert_eq!(totals.supplier.scaled() + totals.platform.scaled(), totals.renter.scaled());
    }

    /// Law 4: any order, any number of steps and of corrections end in the amounts of the final quantities, and each step's amounts are
    /// spread over its records without loss.
    #[test]
    fn any_way_to_the_same_quantities_ends_in_the_same_amounts(
        documents in contract(),
        moves in prop::collection::vec((any::<u16>(), 0i64..20_000_000_000, 0i64..20_000_000_000), 1..30),
        seed in any::<u64>(),
    ) {
        let versions = versions(&documents);
        let (rates, keys) = cells(&versions);
        // Each addition is followed, some time later, by a correction of a part of it.
        let mut steps: Vec<(u64, usize, Cell)> = Vec::new();
        for (n, (cell, billed, paid)) in moves.iter().enumerate() {
            let order = (seed ^ n as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 2;
            let at = usize::from(*cell) % keys.len();
            steps.push((order, at, Cell { billed: i128::from(*billed), paid: i128::from(*paid) }));
            if n % 3 == 0 {
                steps.push((order + 1 + (seed >> 3), at, Cell { billed: -i128::from(billed / 2), paid: -i128::from(*paid) }));
            }
        }
        steps.sort_by_key(|step| step.0);
        let mut state = State::new();
        let mut booked: BTreeMap<CellKey, (i128, i128)> = BTreeMap::new();
        let mut taken = steps.as_slice();
        let mut size = 1;
        while !taken.is_empty() {
            let (batch, rest) = taken.split_at(size.min(taken.len()));
            let mut added = State::new();
            for (_, at, cell) in batch {
                let sum = added.entry(keys[*at].clone()).or_default();
                *sum = Cell { billed: sum.billed + cell.billed, paid: sum.paid + cell.paid };
            }
            for cell_step in step(&mut state, &added, &rates).unwrap() {
                let (renter, supplier) = (cell_step.renter_difference().unwrap(), cell_step.supplier_difference().unwrap());
                let sum = booked.entry(cell_step.key.clone()).or_default();
                *sum = (sum.0 + renter.scaled(), sum.1 + supplier.scaled());
                let records: Vec<Cell> = batch.iter().filter(|(_, at, _)| keys[*at] == cell_step.key).map(|step| step.2).collect();
                let spread = spread(renter, supplier, &records).unwrap();
                let total = |amounts: &[Amount]| amounts.iter().map(|amount| amount.scaled()).sum::<i128>();
                prop_assert_eq!(total(&spread.renter) + spread.adjustment.renter.scaled(), renter.scaled());
                prop_assert_eq!(total(&spread.supplier) + spread.adjustment.supplier.scaled(), supplier.scaled());
            }
            taken = rest;
            size = size % 4 + 1;
        }
        let mut whole = State::new();
        for (_, at, cell) in &steps {
            let sum = whole.entry(keys[*at].clone()).or_default();
            *sum = Cell { billed: sum.billed + cell.billed, paid: sum.paid + cell.paid };
        }
        prop_assert_eq!(&state, &whole);
        // Cells that were taken back whole leave no trace.
        whole.retain(|_, cell| *cell != Cell::default());
        let amounts = amounts(&whole, &rates).unwrap();
        for (key, sums) in booked {
            let amount = amounts.get(&key).copied().unwrap_or_default();
            prop_assert_eq!((amount.renter.scaled(), amount.supplier.scaled()), sums);
        }
    }

    /// A million GPUs for a century at the highest price, and whatever lies beyond: exact, or a clear error.
    #[test]
    fn the_largest_quantities_are_exact_or_an_error(documents in contract(), size in 0u32..127, paid in 0u32..127) {
        let (rates, keys) = cells(&versions(&documents));
        let state: State = keys.iter().take(3).map(|key| (key.clone(), Cell { billed: 1 << size, paid: 1 << paid })).collect();
        match amounts(&state, &rates) {
            Ok(amounts) => prop_assert_eq!(amounts.len(), state.len()),
            Err(error) => {
                prop_assert!(error.to_string().contains("too large for exact arithmetic"), "{error}");
                // 1e6 GPUs x 3.2e9 s in millionths.
                prop_assert!(size > 71 || paid > 71, "{error}");
            }
        }
    }
}

/// Cells of the first charge: every version, supplier and time of the week.
fn cells(versions: &[Version]) -> (HashMap<RateId, Arc<Rate>>, Vec<CellKey>) {
    let mut rates = HashMap::new();
    let mut keys = Vec::new();
    for version in versions {
        for supplier in ["a", "b", "z"] {
            let rate = version.terms.rate("charge0", supplier).unwrap();
            for segment in 0..=rate.charge.by_time.len() {
                let (version_from, segment) = (version.span.from, segment as u16);
                keys.push(CellKey { version_from, rate: rate.id, segment, supplier: supplier.into() });
            }
            rates.insert(rate.id, rate);
        }
    }
    (rates, keys)
}

fn cases(default: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(default)
}

#[test]
fn random_contracts_are_of_every_kind() {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    for _ in 0..300 {
        for document in contract().new_tree(&mut runner).unwrap().current() {
            assert!(compile(&document).is_ok());
            let text = serde_json::to_string(&document).unwrap();
            for word in [
                "graduated",
                "volume",
                "package",
                "by_time",
                "\"hour\"",
                "overage_price",
                "step_s",
                "rates",
                "percentage",
                "flat_at_zero",
            ] {
                *seen.entry(word).or_default() += u32::from(text.contains(word));
            }
        }
    }
    assert!(seen.values().all(|count| *count > 20), "{seen:?}");
}
