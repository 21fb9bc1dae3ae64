//! Random contracts held against the oracle: what a deployment rated and closed, and what their documents and the true use come to.

use std::collections::{BTreeMap, BTreeSet};

use hydrometer_oracle::{Clock, nanos};
use hydrometer_pipeline::apply::history;
use hydrometer_pipeline::closing::{Closed, close_period, period_at};
use hydrometer_pipeline::store::Database;
use hydrometer_pipeline::store::period::CLOSING;
use hydrometer_schemas::time::{MICROS_PER_SECOND, hour_floor};
use hydrometer_sinks::rated::RecordKind;
use hydrometer_testkit::fleet::{Outcome, Plan};

use super::Deployment;
use super::sound::rated_records;

/// Why a period is closed although much of a small fleet's time is unknown.
pub const ACCEPTED: &str = "a fleet of a test";

/// What must agree, in nano-units and seconds, each under its name.
type Sums = BTreeMap<String, i128>;

/// Closes the billing period in which a plan begins, of every contract.
pub async fn close_first_periods(deployment: &Deployment, plan: &Plan, outcome: &Outcome) {
    let mut db = deployment.database().await;
    let known = history(db.client_ref(), None).await.unwrap();
    for contract in outcome.truth.contracts.keys() {
        let period = period_at(&known, contract, plan.start_us / MICROS_PER_SECOND).unwrap();
        match close_period(&mut db, &deployment.warehouse(), contract, period, "test", Some(ACCEPTED)).await.unwrap() {
            Closed::Now(_) => {}
            other => panic!("{contract} cannot be closed: {other:?}"),
        }
    }
}

/// Everything in which a deployment and the truth differ, once the first billing period of every contract is closed.
pub async fn differences(deployment: &Deployment, plan: &Plan, outcome: &Outcome) -> Vec<String> {
    let (expected, found) = (expected(plan, outcome), found(deployment, outcome).await);
    let names: BTreeSet<&String> = expected.keys().chain(found.keys()).collect();
    let of = |sums: &Sums, name: &String| sums.get(name).copied().unwrap_or(0);
    names
        .into_iter()
        .map(|name| (name, of(&expected, name), of(&found, name)))
        .filter(|(_, expected, found)| expected != found)
        .map(|(name, expected, found)| format!("{name}: the oracle says {expected}, found {found}"))
        .collect()
}

/// Whether the hours of commitments are closed as far as they are rated.
pub async fn are_hours_closed(db: &Database) -> bool {
    let closed = "SELECT (SELECT coalesce(max(frontier_s), 0) FROM hydrometer.partition_lease WHERE topic = $1) >= \
                  (SELECT min(frontier_s) / 3600 * 3600 FROM hydrometer.partition_lease WHERE role = 'telemetry')";
    db.client_ref().query_one(closed, &[&CLOSING]).await.unwrap().get(0)
}

fn expected(plan: &Plan, outcome: &Outcome) -> Sums {
    let mut sums = Sums::new();
    let mut add = |name: String, amount: i128| *sums.entry(name).or_default() += amount;
    for (contract, used) in &outcome.truth.contracts {
        let documents = used.documents().unwrap();
        let closed = Clock::of(&documents[0]).period(plan.start_us / MICROS_PER_SECOND);
        let amounts = used.outcome(&[closed]).unwrap();
        for ((charge, period), amount) in &amounts.renter {
            add(format!("{contract} {charge} {period} usage renter"), nanos(amount));
        }
        for ((charge, period, supplier), amount) in &amounts.suppliers {
            add(format!("{contract} {charge} {period} usage {supplier}"), nanos(amount));
        }
        for ((kind, charge, period, subject), amount) in &amounts.dues {
            add(format!("{contract} {charge} {period} {kind} {subject:?} renter"), nanos(amount));
        }
        for ((period, supplier), amount) in &amounts.guarantees {
            add(format!("{contract}  {period} guarantee {supplier}"), nanos(amount));
        }
    }
    for row in &outcome.truth.seconds {
        let classes = [
            ("used", row.used),
            ("idle", row.idle),
            ("unknown", row.unknown),
            ("down", row.down),
            ("suspended", row.suspended),
            ("maintenance", row.maintenance),
        ];
        for (class, seconds) in classes {
            let hour = row.hour_us / MICROS_PER_SECOND;
            add(format!("{} slot {} {:?} hour {hour} {class}", row.lease, row.slot, row.gpu), i128::from(seconds));
        }
    }
    sums
}

async fn found(deployment: &Deployment, outcome: &Outcome) -> Sums {
    let mut sums = Sums::new();
    let mut add = |name: String, amount: i128| *sums.entry(name).or_default() += amount;
    let clocks: BTreeMap<&String, (Clock, String)> = outcome
        .truth
        .contracts
        .iter()
        .map(|(contract, used)| {
            let clock = Clock::of(&used.documents().unwrap()[0]);
            // Hours of a commitment close by themselves, those of the open period too: these are not compared.
            let first = used.versions[0]["effective"].as_str().unwrap();
            let closed = clock.period(hydrometer_oracle::second_of(first));
            (contract, (clock, closed))
        })
        .collect();
    for row in rated_records(deployment).await {
        let (clock, closed) = &clocks[&row.contract];
        // An hour of a commitment counts in the billing period in which it begins.
        let of = format!("{} {} {}", row.contract, row.charge, clock.period(row.ladder));
        match row.kind {
            RecordKind::Usage | RecordKind::Correction | RecordKind::Adjustment => {
                add(format!("{of} usage renter"), row.renter_amount.scaled());
                add(format!("{of} usage {}", row.cell.supplier), row.supplier_amount.scaled());
            }
            RecordKind::Due(kind) if clock.period(row.period) == *closed => {
                add(format!("{of} {kind} {:?} renter", row.resource), row.renter_amount.scaled());
                add(format!("{of} {kind} {}", row.cell.supplier), row.supplier_amount.scaled());
            }
            RecordKind::Due(_) => {}
        }
        if let (Some(lease), Some(slot)) = (&row.lease, row.slot) {
            let c = row.quantity.classes;
            let classes = [
                ("used", c.used),
                ("idle", c.idle),
                ("unknown", c.unknown),
                ("down", c.down),
                ("suspended", c.suspended),
                ("maintenance", c.maintenance),
            ];
            for (class, seconds) in classes {
                let hour = hour_floor(row.window.from);
                add(format!("{lease} slot {slot} {:?} hour {hour} {class}", row.gpu), i128::from(seconds));
            }
        }
    }
    sums
}
