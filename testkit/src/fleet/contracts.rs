//! Random contracts of every kind that `hydrometer-oracle` can work out: ladders, packages, times of the week, steps, scopes,
//! commitments, spend limits, percentages, several suppliers; amended and repriced while the fleet runs. What a contract is about
//! fits what a small fleet uses in an hour, so that tiers, commitments and allowances are crossed.

use serde_json::{Value, json};

use super::event::{EventKind, RatingWindow};
use super::random::Random;
use super::scenario::Draft;
use super::time::{SECOND_US, rfc3339};
use super::{Fault, Plan};

/// What a charge keeps in all versions: what it counts, whose ladder it is, by which clock it is committed.
struct Kind {
    name: String,
    basis: &'static str,
    scope: &'static str,
    is_hourly: bool,
}

/// Signs the contracts of every renter, and amends some of them.
pub(crate) fn sign_contracts(draft: &mut Draft, time_zone: &str) {
    for renter in 1..=draft.plan.renters {
        for number in 1..=1 + u32::from(draft.random.chance(0.3)) {
            let contract = format!("contract-{renter:02}-{number}");
            let random = &mut draft.random;
            let parties = json!({
                "contract": contract,
                "renter": format!("renter-{renter:02}"),
                "currency": random.pick(&["USD", "USD", "EUR"]),
                "time_zone": time_zone,
                "rating_window": random.pick(&[RatingWindow::Hour, RatingWindow::Minute]),
            });
            let kinds: Vec<Kind> = (0..1 + random.below(3)).map(|number| some_kind(random, number)).collect();
            let signed = random.between(-3600, -1);
            let mut document = some_document(random, draft.plan, &parties, &kinds, signed);
            draft.record(signed, EventKind::ContractSigned { document: document.clone() });
            draft.contracts.push(contract.clone());

            let mut changes: Vec<i64> =
                (0..draft.random.below(3)).map(|_| draft.random.between(1, draft.seconds())).collect();
            changes.sort_unstable();
            changes.dedup();
            for second in changes {
                draft.tally.add(Fault::PriceChange);
                let priced: Vec<&Kind> =
                    kinds.iter().filter(|kind| document["charges"][&kind.name].get("price").is_some()).collect();
                if !priced.is_empty() && draft.random.chance(0.3) {
                    let charge = priced[draft.random.below(priced.len() as u64) as usize].name.clone();
                    let price = some_price(&mut draft.random);
                    document["charges"][&charge]["price"] = price.clone().into();
                    draft.record(second, EventKind::PriceChanged { contract: contract.clone(), charge, price });
                } else {
                    document = some_document(&mut draft.random, draft.plan, &parties, &kinds, second);
                    draft.record(second, EventKind::ContractAmended { document: document.clone() });
                }
            }
        }
    }
}

fn some_kind(random: &mut Random, number: u64) -> Kind {
    let basis = random.pick(&["allocated", "allocated", "allocated", "observed", "busy", "suspended"]);
    let is_hourly = basis != "suspended" && random.chance(0.2);
    let scope = random.pick(&["contract", "contract", "lease", "gpu", "server"]);
    Kind { name: format!("charge{number}"), basis, scope: if is_hourly { "contract" } else { scope }, is_hourly }
}

fn some_document(random: &mut Random, plan: &Plan, parties: &Value, kinds: &[Kind], effective: i64) -> Value {
    let mut document = parties.clone();
    document["effective"] = rfc3339(plan.start_us + effective * SECOND_US).into();
    document["charges"] = json!({});
    for kind in kinds {
        document["charges"][&kind.name] = some_charge(random, kind);
    }
    if random.chance(0.3) {
        document["charges"]["percentage"] = json!({ "basis": "percentage", "percent": some_percent(random) });
    }
    if random.chance(0.3) {
        let per = random.pick(&["contract", "lease", "gpu"]);
        document["charges"]["support"] =
            json!({ "basis": "recurring", "price": random.between(1, 5_000).to_string(), "per": per });
    }
    if random.chance(0.3) {
        let price = random.between(1, 50).to_string();
        document["charges"]["setup"] = json!({ "basis": "one_off", "price": price });
    }
    document["maintenance"] = match random.below(3) {
        0 => json!({ "announced": "free" }),
        1 => json!({ "announced": "billed" }),
        _ => json!({ "announced": "allowance", "allowance_hours": thousandths(5 * random.between(1, 60)) }),
    };
    document["suppliers"] = some_suppliers(random, plan, kinds);
    spend_limits(random, &mut document);
    document
}

fn some_charge(random: &mut Random, kind: &Kind) -> Value {
    let mut charge = json!({ "basis": kind.basis });
    // A commitment by the hour goes with a plain price alone.
    let which = random.below(if kind.is_hourly { 2 } else { 5 });
    match which {
        2 => charge["graduated"] = some_tiers(random),
        3 => charge["volume"] = some_tiers(random),
        4 => charge["package"] = json!({ "size": some_units(random), "price": some_price(random) }),
        _ => charge["price"] = some_price(random).into(),
    }
    if which < 2 && random.chance(0.5) {
        charge["by_time"] = around_midnight(random);
    }
    let is_committed = kind.is_hourly || random.chance(0.35);
    // A scope needs something to climb in every version: it cannot change inside a period.
    let must_climb = kind.scope != "contract" && which < 2 && !is_committed;
    let is_free = must_climb || !kind.is_hourly && random.chance(0.3);
    if is_free {
        charge["free"] = some_units(random).into();
    }
    if is_committed {
        let mut commitment = json!({
            "quantity": some_units(random),
            "per": if kind.is_hourly { "hour" } else { "period" },
            "true_up": random.chance(0.7),
        });
        match random.below(3) {
            0 => commitment["overage_multiplier"] = thousandths(random.between(0, 3_000)).into(),
            1 => commitment["overage_price"] = some_price(random).into(),
            _ => {}
        }
        charge["commitment"] = commitment;
    }
    if which > 1 || is_free || is_committed {
        charge["scope"] = kind.scope.into();
        charge["on_change"] = random.pick(&["reset", "carry"]).into();
    }
    let tiers = charge.get("graduated").or(charge.get("volume"));
    if tiers.is_some_and(|tiers| tiers[0].get("flat").is_some()) {
        charge["flat_at_zero"] = random.chance(0.5).into();
    }
    if random.chance(0.3) {
        charge["step_s"] = random.between(1, 4_000).into();
        charge["rounding"] = random.pick(&["up", "down", "nearest"]).into();
    }
    if random.chance(0.2) {
        charge["minimum_s"] = random.between(1, 5_000).into();
    }
    spend_limits(random, &mut charge);
    charge
}

/// Of a whole month; a fleet signs for its last hours, so that little of it is left.
fn spend_limits(random: &mut Random, of: &mut Value) {
    if random.chance(0.2) {
        of["minimum_spend"] = random.between(1, 5_000).to_string().into();
    }
    if random.chance(0.2) {
        of["maximum_spend"] = random.between(5_000, 9_000).to_string().into();
    }
}

fn some_tiers(random: &mut Random) -> Value {
    let count = 1 + random.below(4);
    let mut bound = 0;
    let tiers = (1..=count).map(|number| {
        bound += random.between(1, 1_500);
        let mut tier = json!({ "price": some_price(random) });
        if number < count {
            tier["up_to"] = thousandths(bound).into();
        }
        if random.chance(0.4) {
            tier["flat"] = some_price(random).into();
        }
        tier
    });
    Value::Array(tiers.collect())
}

/// Other prices before and after midnight, where the fleet's time is.
fn around_midnight(random: &mut Random) -> Value {
    let before = format!("23:{:02}", random.below(60));
    let after = format!("00:{:02}", random.between(1, 60));
    let mut ranges = vec![json!({ "from": before, "to": "24:00", "price": some_price(random) })];
    if random.chance(0.6) {
        ranges.push(json!({ "from": "00:00", "to": after, "price": some_price(random) }));
    }
    if random.chance(0.3) {
        // The edge of the months is one from Tuesday to Wednesday.
        ranges[0]["days"] = json!(random.pick(&[["mon", "tue"], ["wed", "sun"]]));
    }
    Value::Array(ranges)
}

fn some_suppliers(random: &mut Random, plan: &Plan, kinds: &[Kind]) -> Value {
    let named = (1..=plan.suppliers).map(|number| format!("supplier-{number}"));
    let mut terms = Vec::new();
    for supplier in named.chain(["*".to_owned()]) {
        if random.chance(0.3) {
            continue;
        }
        let mut of = json!({ "supplier": supplier, "share_percent": some_percent(random) });
        for kind in kinds.iter().filter(|_| random.chance(0.2)).collect::<Vec<_>>() {
            of["rates"][&kind.name] = match random.below(3) {
                0 => json!({ "price": some_price(random) }),
                1 => json!({ "graduated": some_tiers(random) }),
                _ => json!({ "volume": some_tiers(random) }),
            };
        }
        if random.chance(0.2) {
            of["minimum_guarantee"] = random.between(1, 5_000).to_string().into();
        }
        terms.push(of);
    }
    Value::Array(terms)
}

fn some_price(random: &mut Random) -> String {
    let cents = random.between(1, 900);
    match random.below(12) {
        0 => "0".to_owned(),
        1 => "0.000000000001".to_owned(),
        2 => "1000000".to_owned(),
        3 | 4 => format!("{}.{:012}", cents / 100, random.below(1_000_000_000_000)),
        5 => format!("{}.{:05}", cents / 100, random.below(100_000)),
        _ => format!("{}.{:02}", cents / 100, cents % 100),
    }
}

fn some_percent(random: &mut Random) -> String {
    let odd = random.between(0, 100_000_001);
    let millionths = random.pick(&[0, 80_000_000, 100_000_000, 66_666_667, odd, odd]);
    format!("{}.{:06}", millionths / 1_000_000, millionths % 1_000_000)
}

fn some_units(random: &mut Random) -> String {
    thousandths(random.between(1, 2_500))
}

fn thousandths(number: i64) -> String {
    format!("{}.{:03}", number / 1_000, number % 1_000)
}
