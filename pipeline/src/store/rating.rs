//! The rating state inside a commit: only here, holding its lock, are amounts known (law 4).

use std::collections::BTreeMap;

use hydrometer_rating::money::{Amount, Price, Share};
use hydrometer_rating::rate::{Amounts, Cell, CellAmounts, CellKey, CellStep, State, amounts, step};
use hydrometer_schemas::time::Second;
use tokio_postgres::GenericClient;
use uuid::Uuid;

use super::{StoreError, doing};

/// What a rating state is kept per.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StateKey {
    pub contract: String,
    pub charge: String,
    pub period: Second,
}

/// The quantities that one staged object adds.
#[derive(Debug, Clone, Default)]
pub struct ObjectQuantities {
    pub object: String,
    pub added: BTreeMap<StateKey, State>,
}

/// One cell's step for one object.
#[derive(Debug, Clone)]
pub struct ObjectStep {
    pub object: String,
    pub key: StateKey,
    pub step: CellStep,
}

/// Locks the states of these keys, in order, creating those that are new, and reads their cells.
pub async fn lock_states(
    client: &impl GenericClient,
    keys: &[StateKey],
) -> Result<BTreeMap<StateKey, State>, StoreError> {
    let failed = doing("locking the rating state");
    let contracts: Vec<&str> = keys.iter().map(|k| k.contract.as_str()).collect();
    let charges: Vec<&str> = keys.iter().map(|k| k.charge.as_str()).collect();
    let periods: Vec<i64> = keys.iter().map(|k| k.period).collect();
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [&contracts, &charges, &periods];
    client
        .execute(
            "INSERT INTO hydrometer.rating_state (contract, charge, period_s) \
             SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) ORDER BY 1, 2, 3 ON CONFLICT DO NOTHING",
            &parameters,
        )
        .await
        .map_err(&failed)?;
    client
        .query(
            "SELECT 1 FROM hydrometer.rating_state AS s JOIN unnest($1::text[], $2::text[], $3::bigint[]) AS k (c, h, p) \
             ON s.contract = k.c AND s.charge = k.h AND s.period_s = k.p ORDER BY s.contract, s.charge, s.period_s FOR UPDATE OF s",
            &parameters,
        )
        .await
        .map_err(&failed)?;
    let rows = client
        .query(
            "SELECT c.contract, c.charge, c.period_s, c.version_from_s, c.price::text, c.share::text, c.supplier, c.billed_s, c.paid_s \
             FROM hydrometer.rating_cell AS c JOIN unnest($1::text[], $2::text[], $3::bigint[]) AS k (c, h, p) \
             ON c.contract = k.c AND c.charge = k.h AND c.period_s = k.p",
            &parameters,
        )
        .await
        .map_err(&failed)?;
    let mut states: BTreeMap<StateKey, State> = keys.iter().map(|key| (key.clone(), State::new())).collect();
    for row in rows {
        let key = StateKey { contract: row.get(0), charge: row.get(1), period: row.get(2) };
        let cell = CellKey {
            version_from: row.get(3),
            price: Price::parse(row.get(4))?,
            share: Share::parse_percent(row.get(5))?,
            supplier: row.get(6),
        };
        states.entry(key).or_default().insert(cell, Cell { billed: row.get(7), paid: row.get(8) });
    }
    Ok(states)
}

/// Adds every object's quantities to the states, in order, and says what each changed.
pub fn advance(
    states: &mut BTreeMap<StateKey, State>,
    quantities: &[ObjectQuantities],
) -> Result<Vec<ObjectStep>, StoreError> {
    let mut steps = Vec::new();
    for object in quantities {
        for (key, added) in &object.added {
            let state = states.entry(key.clone()).or_default();
            for step in step(state, added)? {
                steps.push(ObjectStep { object: object.object.clone(), key: key.clone(), step });
            }
        }
    }
    Ok(steps)
}

/// Writes the states and the steps back. `transaction` names the ledger transaction that books a step.
pub async fn write(
    client: &impl GenericClient,
    states: &BTreeMap<StateKey, State>,
    steps: &[ObjectStep],
    transaction: impl Fn(&ObjectStep) -> Uuid,
) -> Result<(), StoreError> {
    write_cells(client, states).await?;
    write_steps(client, steps, transaction).await
}

type CellRow<'a> = (&'a StateKey, &'a CellKey, Cell, CellAmounts);

async fn write_cells(client: &impl GenericClient, states: &BTreeMap<StateKey, State>) -> Result<(), StoreError> {
    let mut rows: Vec<CellRow<'_>> = Vec::new();
    for (key, state) in states {
        let amounts: Amounts = amounts(state)?;
        for (cell_key, cell) in state {
            rows.push((key, cell_key, *cell, amounts.get(cell_key).copied().unwrap_or_default()));
        }
    }
    let text = |f: &dyn Fn(&CellRow<'_>) -> String| rows.iter().map(f).collect::<Vec<String>>();
    let number = |f: &dyn Fn(&CellRow<'_>) -> i64| rows.iter().map(f).collect::<Vec<i64>>();
    client
        .execute(
            "INSERT INTO hydrometer.rating_cell (contract, charge, period_s, version_from_s, price, share, supplier, billed_s, paid_s, \
                                                 renter_amount, supplier_amount) \
             SELECT c, h, p, v, r::numeric, s::numeric, u, b, d, ra::numeric, sa::numeric \
             FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::bigint[], \
                         $9::bigint[], $10::text[], $11::text[]) AS k (c, h, p, v, r, s, u, b, d, ra, sa) \
             ON CONFLICT (contract, charge, period_s, version_from_s, price, share, supplier) DO UPDATE \
             SET billed_s = excluded.billed_s, paid_s = excluded.paid_s, renter_amount = excluded.renter_amount, \
                 supplier_amount = excluded.supplier_amount",
            &[
                &text(&|r| r.0.contract.clone()),
                &text(&|r| r.0.charge.clone()),
                &number(&|r| r.0.period),
                &number(&|r| r.1.version_from),
                &text(&|r| r.1.price.to_string()),
                &text(&|r| r.1.share.to_string()),
                &text(&|r| r.1.supplier.clone()),
                &number(&|r| r.2.billed),
                &number(&|r| r.2.paid),
                &text(&|r| r.3.renter.to_string()),
                &text(&|r| r.3.supplier.to_string()),
            ],
        )
        .await
        .map_err(doing("writing the rating state"))?;
    Ok(())
}

async fn write_steps(
    client: &impl GenericClient,
    steps: &[ObjectStep],
    transaction: impl Fn(&ObjectStep) -> Uuid,
) -> Result<(), StoreError> {
    let text = |f: &dyn Fn(&ObjectStep) -> String| steps.iter().map(f).collect::<Vec<String>>();
    let number = |f: &dyn Fn(&ObjectStep) -> i64| steps.iter().map(f).collect::<Vec<i64>>();
    let amount = |f: &dyn Fn(&ObjectStep) -> Amount| steps.iter().map(|s| f(s).to_string()).collect::<Vec<String>>();
    let transactions: Vec<Uuid> = steps.iter().map(transaction).collect();
    client
        .execute(
            "INSERT INTO hydrometer.rating_step (object, contract, charge, period_s, version_from_s, price, share, supplier, \
                 billed_before, billed_after, paid_before, paid_after, renter_before, renter_after, supplier_before, supplier_after, \
                 transaction) \
             SELECT o, c, h, p, v, r::numeric, s::numeric, u, bb, ba, pb, pa, rb::numeric, ra::numeric, sb::numeric, sa::numeric, t \
             FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::text[], \
                         $9::bigint[], $10::bigint[], $11::bigint[], $12::bigint[], $13::text[], $14::text[], $15::text[], $16::text[], \
                         $17::uuid[]) AS k (o, c, h, p, v, r, s, u, bb, ba, pb, pa, rb, ra, sb, sa, t)",
            &[
                &text(&|s| s.object.clone()),
                &text(&|s| s.key.contract.clone()),
                &text(&|s| s.key.charge.clone()),
                &number(&|s| s.key.period),
                &number(&|s| s.step.key.version_from),
                &text(&|s| s.step.key.price.to_string()),
                &text(&|s| s.step.key.share.to_string()),
                &text(&|s| s.step.key.supplier.clone()),
                &number(&|s| s.step.quantity_before.billed),
                &number(&|s| s.step.quantity_after.billed),
                &number(&|s| s.step.quantity_before.paid),
                &number(&|s| s.step.quantity_after.paid),
                &amount(&|s| s.step.amounts_before.renter),
                &amount(&|s| s.step.amounts_after.renter),
                &amount(&|s| s.step.amounts_before.supplier),
                &amount(&|s| s.step.amounts_after.supplier),
                &transactions,
            ],
        )
        .await
        .map_err(doing("recording rating steps"))?;
    Ok(())
}
