//! Billing periods: which there are, which are closed, and what each lease used in them.

use std::collections::{BTreeMap, BTreeSet};

use hydrometer_ledger::{self as ledger, AccountSpec};
use hydrometer_rating::classes::ClassSeconds;
use hydrometer_rating::keys::{CellKey, StateKey};
use hydrometer_rating::money::Amount;
use hydrometer_rating::quantities::Quantity;
use hydrometer_rating::rate::Rates;
use hydrometer_schemas::time::{SECONDS_PER_HOUR, Second};
use hydrometer_sinks::rated::RatedRow;
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use super::rating::{ObjectQuantities, ObjectStep, cell_key, state_key};
use super::{StoreError, doing};

/// Contracts' billing periods: (contract, beginning) to end.
pub type Periods = BTreeMap<(String, Second), Second>;

/// A lease's part of a rating state's quantity is kept per cell.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct UseKey {
    pub state: StateKey,
    pub billing: Second,
    pub lease: String,
    pub server: String,
    pub cell: CellKey,
}

pub type Uses = BTreeMap<UseKey, Quantity>;

/// What rated records add to the leases' use.
pub fn uses<'a>(rows: impl IntoIterator<Item = &'a RatedRow>) -> Uses {
    let mut uses = Uses::new();
    for row in rows {
        let (Some(lease), Some(server)) = (&row.lease, &row.server) else { continue };
        let key = UseKey {
            state: row.state(),
            billing: row.period,
            lease: lease.clone(),
            server: server.clone(),
            cell: row.cell.clone(),
        };
        let sum = uses.entry(key).or_default();
        *sum = sum.plus(row.quantity);
    }
    uses
}

/// Creates the periods that are new, and keeps whoever would close one waiting until this transaction is over (and the other way
/// round: who is closing one keeps us waiting).
pub async fn share(client: &impl GenericClient, periods: &Periods) -> Result<(), StoreError> {
    lock(client, periods, "FOR SHARE").await
}

/// What a minimum or a step counts of a lease may move in all its periods, not only in those that quantities are added to: they are
/// shared like those.
pub async fn share_stepped(
    client: &impl GenericClient,
    quantities: &[ObjectQuantities],
) -> Result<Periods, StoreError> {
    let keys: BTreeSet<(&str, &str, &str)> = quantities
        .iter()
        .flat_map(|object| object.raw.keys())
        .map(|key| (key.contract.as_str(), key.charge.as_str(), key.lease_slot.as_str()))
        .collect();
    if keys.is_empty() {
        return Ok(Periods::new());
    }
    let contracts: Vec<&str> = keys.iter().map(|k| k.0).collect();
    let charges: Vec<&str> = keys.iter().map(|k| k.1).collect();
    let slots: Vec<&str> = keys.iter().map(|k| k.2).collect();
    let rows = client
        .query(
            "SELECT p.contract, p.start_s, p.end_s FROM hydrometer.period AS p \
             WHERE EXISTS (SELECT FROM hydrometer.rating_state AS s JOIN unnest($1::text[], $2::text[], $3::text[]) AS k (c, h, r) \
                           ON (s.contract, s.charge, s.resource) = (k.c, k.h, k.r) AND s.raw \
                           WHERE s.contract = p.contract AND s.billing_s = p.start_s) \
             ORDER BY p.contract, p.start_s FOR SHARE OF p",
            &[&contracts, &charges, &slots],
        )
        .await
        .map_err(doing("locking billing periods of stepped quantities"))?;
    Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect())
}

/// Creates the periods that are new, and takes them for closing.
pub async fn take(client: &impl GenericClient, periods: &Periods) -> Result<(), StoreError> {
    lock(client, periods, "FOR UPDATE").await
}

async fn lock(client: &impl GenericClient, periods: &Periods, how: &str) -> Result<(), StoreError> {
    if periods.is_empty() {
        return Ok(());
    }
    let failed = doing("locking billing periods");
    let contracts: Vec<&str> = periods.keys().map(|k| k.0.as_str()).collect();
    let starts: Vec<i64> = periods.keys().map(|k| k.1).collect();
    let ends: Vec<i64> = periods.values().copied().collect();
    client
        .execute(
            "INSERT INTO hydrometer.period (contract, start_s, end_s) \
             SELECT c, s, e FROM unnest($1::text[], $2::bigint[], $3::bigint[]) AS k (c, s, e) ORDER BY c, s ON CONFLICT DO NOTHING",
            &[&contracts, &starts, &ends],
        )
        .await
        .map_err(&failed)?;
    client
        .query(
            &format!(
                "SELECT 1 FROM hydrometer.period AS p JOIN unnest($1::text[], $2::bigint[]) AS k (c, s) \
                 ON p.contract = k.c AND p.start_s = k.s ORDER BY p.contract, p.start_s {how} OF p"
            ),
            &[&contracts, &starts],
        )
        .await
        .map_err(&failed)?;
    Ok(())
}

/// Adds to what leases used.
pub async fn add_use(client: &impl GenericClient, uses: &Uses) -> Result<(), StoreError> {
    if uses.is_empty() {
        return Ok(());
    }
    let text = |f: fn(&UseKey) -> &str| uses.keys().map(f).collect::<Vec<&str>>();
    let number = |f: fn(&Quantity) -> i64| uses.values().map(f).collect::<Vec<i64>>();
    let billing: Vec<i64> = uses.keys().map(|k| k.billing).collect();
    let periods: Vec<i64> = uses.keys().map(|k| k.state.period).collect();
    let versions: Vec<i64> = uses.keys().map(|k| k.cell.version_from).collect();
    let rates: Vec<String> = uses.keys().map(|k| k.cell.rate.to_string()).collect();
    let segments: Vec<i32> = uses.keys().map(|k| i32::from(k.cell.segment)).collect();
    const SUMS: [&str; 13] = [
        "used_s",
        "idle_s",
        "unknown_s",
        "down_s",
        "suspended_s",
        "maintenance_s",
        "down_platform_s",
        "down_renter_s",
        "billed_s",
        "paid_s",
        "billed",
        "paid",
        "lost",
    ];
    let added: Vec<String> = SUMS.iter().map(|c| format!("{c} = u.{c} + excluded.{c}")).collect();
    client
        .execute(
            &format!(
                "INSERT INTO hydrometer.lease_use AS u (contract, billing_s, lease, server, charge, period_s, resource, version_from_s, rate, \
                     segment, supplier, renter, currency, {}) \
                 SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::bigint[], \
                     $9::text[], $10::int[], $11::text[], $12::text[], $13::text[], $14::bigint[], $15::bigint[], $16::bigint[], \
                     $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[], $21::bigint[], $22::bigint[], $23::bigint[], \
                     $24::bigint[], $25::bigint[], $26::bigint[]) ORDER BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 \
                 ON CONFLICT (contract, billing_s, lease, server, charge, period_s, resource, version_from_s, rate, segment, supplier, renter, \
                              currency) DO UPDATE SET {}",
                SUMS.join(", "),
                added.join(", ")
            ),
            &[
                &text(|k| &k.state.contract),
                &billing,
                &text(|k| &k.lease),
                &text(|k| &k.server),
                &text(|k| &k.state.charge),
                &periods,
                &text(|k| &k.state.resource),
                &versions,
                &rates,
                &segments,
                &text(|k| &k.cell.supplier),
                &text(|k| &k.state.renter),
                &text(|k| &k.state.currency),
                &number(|u| u.classes.used),
                &number(|u| u.classes.idle),
                &number(|u| u.classes.unknown),
                &number(|u| u.classes.down),
                &number(|u| u.classes.suspended),
                &number(|u| u.classes.maintenance),
                &number(|u| u.classes.down_platform),
                &number(|u| u.classes.down_renter),
                &number(|u| u.classes.billed),
                &number(|u| u.classes.paid),
                &number(|u| u.billed),
                &number(|u| u.paid),
                &number(|u| u.lost),
            ],
        )
        .await
        .map_err(doing("adding to what leases used"))?;
    Ok(())
}

/// What leases used of a contract's billing periods that begin in `[from, to)`.
pub async fn uses_of(
    client: &impl GenericClient,
    contract: &str,
    from: Second,
    to: Second,
) -> Result<Uses, StoreError> {
    let rows = client
        .query(
            "SELECT contract, renter, currency, charge, period_s, resource, version_from_s, rate, segment, supplier, billing_s, lease, server, \
                    used_s, idle_s, unknown_s, down_s, suspended_s, maintenance_s, down_platform_s, down_renter_s, billed_s, paid_s, billed, \
                    paid, lost \
             FROM hydrometer.lease_use WHERE contract = $1 AND billing_s >= $2 AND billing_s < $3",
            &[&contract, &from, &to],
        )
        .await
        .map_err(doing("reading what leases used"))?;
    rows.iter().map(read_use).collect()
}

fn read_use(row: &Row) -> Result<(UseKey, Quantity), StoreError> {
    let key = UseKey {
        state: state_key(row),
        cell: cell_key(row, 6)?,
        billing: row.get(10),
        lease: row.get(11),
        server: row.get(12),
    };
    let classes = ClassSeconds {
        used: row.get(13),
        idle: row.get(14),
        unknown: row.get(15),
        down: row.get(16),
        suspended: row.get(17),
        maintenance: row.get(18),
        down_platform: row.get(19),
        down_renter: row.get(20),
        billed: row.get(21),
        paid: row.get(22),
    };
    Ok((key, Quantity { classes, billed: row.get(23), paid: row.get(24), lost: row.get(25) }))
}

/// The topic of the one partition lease that fences closings. Its frontier is the hour until which hourly commitments are closed.
pub const CLOSING: &str = "hydrometer.closing";

/// Steps in a period that is closed, or in an hour of a commitment that is, ask for its closing to be derived again. Called when
/// the states are locked: whoever closes takes the period first, so either it sees these steps or we see that it has closed.
pub async fn ask_to_close_again(
    client: &impl GenericClient,
    steps: &[ObjectStep],
    periods: &Periods,
    rates: &impl Rates,
    commit: Uuid,
) -> Result<(), StoreError> {
    let mut asked: BTreeSet<(&str, Second, Second, &str)> = BTreeSet::new();
    for step in steps {
        let contract = step.key.contract.as_str();
        let is_hour = rates.rate(step.step.key.rate).is_some_and(|rate| rate.charge.is_hourly());
        let (from, to) = (step.key.period, step.key.period + if is_hour { SECONDS_PER_HOUR } else { 1 });
        // In some time zones an hour lies across the edge of two billing periods.
        let touched = periods.iter().filter(|((c, start), end)| c == contract && *start < to && from < **end);
        for ((_, start), end) in touched.filter(|((_, start), _)| *start != step.booked) {
            asked.insert((contract, *start, *end, "a closed billing period changed"));
        }
        if is_hour {
            asked.insert((contract, from, to, "an hour changed"));
        }
    }
    if asked.is_empty() {
        return Ok(());
    }
    let contracts: Vec<&str> = asked.iter().map(|a| a.0).collect();
    let from: Vec<i64> = asked.iter().map(|a| a.1).collect();
    let to: Vec<i64> = asked.iter().map(|a| a.2).collect();
    let causes: Vec<&str> = asked.iter().map(|a| a.3).collect();
    client
        .execute(
            "INSERT INTO hydrometer.closing_request (contract, from_s, to_s, cause, asked_by) \
             SELECT c, f, t, w, $1::uuid FROM unnest($2::text[], $3::bigint[], $4::bigint[], $5::text[]) AS k (c, f, t, w) \
             WHERE w <> 'an hour changed' \
                OR t <= (SELECT frontier_s FROM hydrometer.partition_lease WHERE topic = $6 AND partition = 0)",
            &[&commit, &contracts, &from, &to, &causes, &CLOSING],
        )
        .await
        .map_err(doing("asking for a closing"))?;
    Ok(())
}

/// What is booked for a renter and a supplier.
#[derive(Debug, Clone, Copy, Default)]
pub struct Booked {
    pub renter: Amount,
    pub supplier: Amount,
    /// The part of the supplier's that is held back.
    pub holdback: Amount,
}

/// Dr renter unbilled, Cr supplier payable and holdback, and the platform; a negative amount swaps its sides.
pub fn transfers(
    renter: &str,
    supplier: &str,
    currency: &str,
    booked: &Booked,
    platform: AccountSpec,
) -> Result<Vec<ledger::Transfer>, StoreError> {
    let unbilled = || AccountSpec::renter_unbilled(renter, currency);
    let mut transfers = Vec::new();
    for (amount, credit) in [
        (booked.supplier.checked_sub(booked.holdback)?, AccountSpec::supplier_payable(supplier, currency)),
        (booked.holdback, AccountSpec::supplier_holdback(supplier, currency)),
        (booked.renter.checked_sub(booked.supplier)?, platform),
    ] {
        let nanos = amount.scaled();
        let (debit, credit) = if nanos > 0 { (unbilled(), credit) } else { (credit, unbilled()) };
        if nanos != 0 {
            transfers.push(ledger::Transfer { debit, credit, amount: ledger::Amount::from_nanos(nanos.abs()) });
        }
    }
    Ok(transfers)
}
