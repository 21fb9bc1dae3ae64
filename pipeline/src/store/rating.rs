//! The rating state inside a commit: only here, holding its lock, are amounts known (law 4).

use std::collections::{BTreeMap, BTreeSet};

use hydrometer_rating::keys::{Cell, CellKey, StateKey};
use hydrometer_rating::money::{Amount, Exact, MoneyError};
use hydrometer_rating::rate::{Amounts, CellAmounts, CellStep, RateError, Rates, State, amounts, step};
use hydrometer_rating::stepped::{Pieces, stepped_difference};
use hydrometer_rating::terms::{MICRO, Micro, RateId};
use hydrometer_schemas::time::Second;
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use super::{StoreError, doing};

/// Whose quantity a minimum or a step is of: one slot of one lease, over all its periods.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RawKey {
    pub contract: String,
    pub charge: String,
    /// `LEASE/SLOT`
    pub lease_slot: String,
    pub renter: String,
    pub currency: String,
    /// The resource of the states that get what is counted.
    pub resource: String,
}

impl RawKey {
    pub fn of(state: &StateKey, lease: &str, slot: u32) -> RawKey {
        RawKey {
            contract: state.contract.clone(),
            charge: state.charge.clone(),
            lease_slot: format!("{lease}/{slot}"),
            renter: state.renter.clone(),
            currency: state.currency.clone(),
            resource: state.resource.clone(),
        }
    }

    /// Where what is counted of a period goes.
    fn target(&self, period: Second) -> StateKey {
        StateKey { resource: self.resource.clone(), ..self.raw(period) }
    }

    /// Where the raw quantity of a period is kept.
    fn raw(&self, period: Second) -> StateKey {
        StateKey {
            contract: self.contract.clone(),
            renter: self.renter.clone(),
            currency: self.currency.clone(),
            charge: self.charge.clone(),
            period,
            resource: self.lease_slot.clone(),
        }
    }
}

/// The quantities that one staged object adds.
#[derive(Debug, Clone, Default)]
pub struct ObjectQuantities {
    pub object: String,
    /// Added to the states as they are.
    pub added: BTreeMap<StateKey, State>,
    /// Added to what a lease and slot used before its minimum and step, which says what the states get.
    pub raw: BTreeMap<RawKey, Pieces>,
    /// Where the billing period begins that a state lies in.
    pub billing: BTreeMap<StateKey, Second>,
    /// What is used of prepaid contracts, by where the interval of the wallet begins in which it was.
    pub prepaid: BTreeMap<(StateKey, CellKey, Second), Micro>,
}

/// One cell's step for one object.
#[derive(Debug, Clone)]
pub struct ObjectStep {
    pub object: String,
    pub key: StateKey,
    pub step: CellStep,
    /// The billing period in which it is booked.
    pub booked: Second,
}

impl ObjectQuantities {
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.raw.is_empty()
    }
}

impl ObjectStep {
    /// What the step adds to what is held back of the supplier's earnings.
    pub fn holdback(&self, rates: &impl Rates) -> Result<Amount, MoneyError> {
        let Some(rate) = rates.rate(self.step.key.rate) else { return Ok(Amount::ZERO) };
        let (before, after) = (self.step.amounts_before.supplier, self.step.amounts_after.supplier);
        let held = |earned: Amount| Exact::of(earned).share(rate.holdback)?.round();
        held(after)?.checked_sub(held(before)?)
    }
}

/// States that are locked, with what they hold and where they are kept.
#[derive(Debug, Default)]
pub struct Locked {
    pub states: BTreeMap<StateKey, State>,
    ids: BTreeMap<StateKey, i64>,
    /// Billing period of each state; where that is closed, the open one instead.
    booked: BTreeMap<StateKey, Second>,
    raw: BTreeMap<RawKey, Pieces>,
    /// Where raw quantities of a period are kept: the state's id, and its billing period.
    raw_states: BTreeMap<(RawKey, Second), (i64, Second)>,
}

const OF_KEYS: &str = "unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::text[], $7::bigint[])";

/// State keys as columns of parameters.
struct Columns<'a> {
    text: [Vec<&'a str>; 5],
    period: Vec<i64>,
    billing: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn of(keys: &'a BTreeMap<StateKey, Second>) -> Columns<'a> {
        let text = |f: fn(&StateKey) -> &str| keys.keys().map(f).collect::<Vec<&str>>();
        Columns {
            text: [
                text(|k| &k.contract),
                text(|k| &k.renter),
                text(|k| &k.currency),
                text(|k| &k.charge),
                text(|k| &k.resource),
            ],
            period: keys.keys().map(|k| k.period).collect(),
            billing: keys.values().copied().collect(),
        }
    }

    fn parameters(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 7] {
        let [contract, renter, currency, charge, resource] = &self.text;
        [contract, renter, currency, charge, &self.period, resource, &self.billing]
    }
}

/// Locks the states of these keys (each with its billing period), in order, creating those that are new, and reads their cells.
/// `raw` are leases and slots whose quantities are stepped: all their states, whatever the period.
pub async fn lock_states(client: &impl GenericClient, quantities: &[ObjectQuantities]) -> Result<Locked, StoreError> {
    let mut keys: BTreeMap<StateKey, Second> = BTreeMap::new();
    for object in quantities {
        keys.extend(object.billing.iter().map(|(key, billing)| (key.clone(), *billing)));
    }
    let mut raw_keys: BTreeMap<StateKey, Second> = BTreeMap::new();
    for object in quantities {
        for (key, raw) in &object.raw {
            let billing = |period: Second| object.billing.get(&key.target(period)).copied().unwrap_or(period);
            raw_keys.extend(raw.keys().map(|(period, _)| (key.raw(*period), billing(*period))));
        }
    }
    let mut locked = Locked::default();
    // Raw states first: what they hold decides which cells of the others move.
    if !raw_keys.is_empty() {
        create_states(client, &raw_keys, true).await?;
        lock_raw(client, quantities, &mut locked).await?;
        for ((raw_key, period), (_, billing)) in &locked.raw_states {
            keys.insert(raw_key.target(*period), *billing);
        }
    }
    create_states(client, &keys, false).await?;
    let columns = Columns::of(&keys);
    let rows = client
        .query(
            &format!(
                "SELECT s.contract, s.renter, s.currency, s.charge, s.period_s, s.resource, s.id \
                 FROM hydrometer.rating_state AS s JOIN {OF_KEYS} AS k (c, n, u, h, p, r, b) \
                 ON (s.contract, s.renter, s.currency, s.charge, s.period_s, s.resource) = (k.c, k.n, k.u, k.h, k.p, k.r) AND NOT s.raw \
                 ORDER BY s.contract, s.charge, s.period_s, s.resource, s.renter, s.currency FOR UPDATE OF s"
            ),
            &columns.parameters(),
        )
        .await
        .map_err(doing("locking the rating state"))?;
    let mut by_id: BTreeMap<i64, StateKey> = BTreeMap::new();
    for row in rows {
        let key = state_key(&row);
        by_id.insert(row.get(6), key.clone());
        locked.ids.insert(key.clone(), row.get(6));
        locked.states.insert(key, State::new());
    }
    for (id, cell_key, cell) in cells_of(client, by_id.keys().copied().collect()).await? {
        if let Some(state) = by_id.get(&id).and_then(|key| locked.states.get_mut(key)) {
            state.insert(cell_key, cell);
        }
    }
    locked.booked = booked(client, &keys).await?;
    Ok(locked)
}

async fn create_states(
    client: &impl GenericClient,
    keys: &BTreeMap<StateKey, Second>,
    raw: bool,
) -> Result<(), StoreError> {
    let columns = Columns::of(keys);
    client
        .execute(
            &format!(
                "INSERT INTO hydrometer.rating_state (contract, renter, currency, charge, period_s, resource, billing_s, raw) \
                 SELECT c, n, u, h, p, r, b, {raw} FROM {OF_KEYS} AS k (c, n, u, h, p, r, b) \
                 ORDER BY c, h, p, r, n, u ON CONFLICT DO NOTHING"
            ),
            &columns.parameters(),
        )
        .await
        .map_err(doing("creating rating states"))?;
    Ok(())
}

async fn lock_raw(
    client: &impl GenericClient,
    quantities: &[ObjectQuantities],
    locked: &mut Locked,
) -> Result<(), StoreError> {
    let keys: BTreeSet<&RawKey> = quantities.iter().flat_map(|object| object.raw.keys()).collect();
    let contracts: Vec<&str> = keys.iter().map(|k| k.contract.as_str()).collect();
    let charges: Vec<&str> = keys.iter().map(|k| k.charge.as_str()).collect();
    let slots: Vec<&str> = keys.iter().map(|k| k.lease_slot.as_str()).collect();
    let rows = client
        .query(
            "SELECT s.contract, s.renter, s.currency, s.charge, s.period_s, s.resource, s.id, s.billing_s \
             FROM hydrometer.rating_state AS s JOIN unnest($1::text[], $2::text[], $3::text[]) AS k (c, h, r) \
             ON (s.contract, s.charge, s.resource) = (k.c, k.h, k.r) AND s.raw \
             ORDER BY s.contract, s.charge, s.period_s, s.resource, s.renter, s.currency FOR UPDATE OF s",
            &[&contracts, &charges, &slots],
        )
        .await
        .map_err(doing("locking stepped quantities"))?;
    let mut by_id: BTreeMap<i64, (&RawKey, Second)> = BTreeMap::new();
    for row in &rows {
        let state = state_key(row);
        let Some(key) = keys.iter().find(|key| key.raw(state.period) == state) else { continue };
        by_id.insert(row.get(6), (key, state.period));
        locked.raw_states.insert(((*key).clone(), state.period), (row.get(6), row.get(7)));
        locked.raw.entry((*key).clone()).or_default();
    }
    for (id, cell_key, cell) in cells_of(client, by_id.keys().copied().collect()).await? {
        if let Some((key, period)) = by_id.get(&id) {
            locked.raw.entry((*key).clone()).or_default().insert((*period, cell_key), cell);
        }
    }
    Ok(())
}

/// A state's key from the first six columns: contract, renter, currency, charge, period_s, resource.
pub fn state_key(row: &Row) -> StateKey {
    StateKey {
        contract: row.get(0),
        renter: row.get(1),
        currency: row.get(2),
        charge: row.get(3),
        period: row.get(4),
        resource: row.get(5),
    }
}

/// The cells of some states, each with its state's id.
async fn cells_of(client: &impl GenericClient, states: Vec<i64>) -> Result<Vec<(i64, CellKey, Cell)>, StoreError> {
    let rows = client
        .query(
            "SELECT state, version_from_s, rate, segment, supplier, (billed * 1000000)::numeric(38, 0)::text, \
                    (paid * 1000000)::numeric(38, 0)::text FROM hydrometer.rating_cell WHERE state = ANY ($1)",
            &[&states],
        )
        .await
        .map_err(doing("reading the rating state"))?;
    rows.iter()
        .map(|row| Ok((row.get(0), cell_key(row, 1)?, Cell { billed: whole(row, 5)?, paid: whole(row, 6)? })))
        .collect()
}

/// A cell's key from four columns: version_from_s, rate, segment, supplier.
pub fn cell_key(row: &Row, at: usize) -> Result<CellKey, StoreError> {
    let rate: &str = row.get(at + 1);
    let unreadable = |what: String| StoreError::Row { table: "hydrometer.rating_cell", detail: what };
    Ok(CellKey {
        version_from: row.get(at),
        rate: RateId::parse(rate).ok_or_else(|| unreadable(format!("{rate:?} is no rate")))?,
        segment: u16::try_from(row.get::<_, i32>(at + 2)).map_err(|e| unreadable(e.to_string()))?,
        supplier: row.get(at + 3),
    })
}

pub(super) fn whole(row: &Row, at: usize) -> Result<i128, StoreError> {
    let text: &str = row.get(at);
    text.parse().map_err(|_| StoreError::Row {
        table: "hydrometer.rating_cell",
        detail: format!("the quantity {text:?} is no number"),
    })
}

/// Where a state's steps are booked: in its own billing period while that is open, else in the contract's first open one. Whoever
/// closes a period waits for these locks, and we for the one who is closing.
async fn booked(
    client: &impl GenericClient,
    keys: &BTreeMap<StateKey, Second>,
) -> Result<BTreeMap<StateKey, Second>, StoreError> {
    let contracts: Vec<&str> = keys.keys().map(|k| k.contract.as_str()).collect();
    let billing: Vec<i64> = keys.values().copied().collect();
    let rows = client
        .query(
            "SELECT p.contract, p.start_s, p.closed_by IS NOT NULL, \
                    (SELECT max(c.end_s) FROM hydrometer.period AS c WHERE c.contract = p.contract AND c.closed_by IS NOT NULL) \
             FROM hydrometer.period AS p JOIN (SELECT DISTINCT * FROM unnest($1::text[], $2::bigint[]) AS k (c, b)) AS k \
             ON p.contract = k.c AND p.start_s = k.b",
            &[&contracts, &billing],
        )
        .await
        .map_err(doing("reading the billing periods"))?;
    let mut open: BTreeMap<(&str, Second), Second> = BTreeMap::new();
    for row in &rows {
        let (start, closed): (Second, bool) = (row.get(1), row.get(2));
        let booked = if closed { row.get::<_, Option<Second>>(3).unwrap_or(start) } else { start };
        open.insert((row.get(0), start), booked);
    }
    let of = |(key, billing): (&StateKey, &Second)| {
        (key.clone(), open.get(&(key.contract.as_str(), *billing)).copied().unwrap_or(*billing))
    };
    Ok(keys.iter().map(of).collect())
}

impl Locked {
    /// Adds every object's quantities to the states, in order, and says what each changed.
    pub fn advance(
        &mut self,
        quantities: &[ObjectQuantities],
        rates: &impl Rates,
    ) -> Result<Vec<ObjectStep>, StoreError> {
        let mut steps = Vec::new();
        for object in quantities {
            let mut added = object.added.clone();
            for (key, raw_added) in &object.raw {
                let raw = self.raw.entry(key.clone()).or_default();
                let difference = stepped_difference(raw, raw_added, rates)?;
                // Every cell that records are of gets a step, also where nothing more is counted.
                for (period, cell_key) in raw_added.keys().chain(difference.keys()) {
                    added.entry(key.target(*period)).or_default().entry(cell_key.clone()).or_default();
                }
                for ((period, cell_key), difference) in difference {
                    let cell = added.entry(key.target(period)).or_default().entry(cell_key).or_default();
                    *cell = sum(*cell, difference)?;
                }
                for (key, piece) in raw_added {
                    let total = raw.entry(key.clone()).or_default();
                    *total = sum(*total, *piece)?;
                }
            }
            for (key, added) in &added {
                let state = self.states.entry(key.clone()).or_default();
                let booked = self.booked.get(key).copied().unwrap_or(key.period);
                let changed = step(state, added, rates)?;
                let still = added.keys().filter(|cell| !changed.iter().any(|step| step.key == **cell));
                let still: Vec<CellStep> =
                    if object.raw.is_empty() { Vec::new() } else { unchanged(state, still, rates)? };
                for step in changed.into_iter().chain(still) {
                    steps.push(ObjectStep { object: object.object.clone(), key: key.clone(), step, booked });
                }
            }
        }
        Ok(steps)
    }

    /// What each state would come to, before and after.
    pub fn difference(
        &mut self,
        quantities: &[ObjectQuantities],
        rates: &impl Rates,
    ) -> Result<Vec<(StateKey, CellAmounts, CellAmounts)>, StoreError> {
        let before = self.states.clone();
        self.advance(quantities, rates)?;
        let total = |state: Option<&State>| -> Result<CellAmounts, StoreError> {
            let mut total = CellAmounts::default();
            let Some(state) = state else { return Ok(total) };
            for amount in amounts(state, rates)?.values() {
                total.renter = total.renter.checked_add(amount.renter)?;
                total.supplier = total.supplier.checked_add(amount.supplier)?;
            }
            Ok(total)
        };
        self.states.iter().map(|(key, after)| Ok((key.clone(), total(before.get(key))?, total(Some(after))?))).collect()
    }

    pub(super) fn id(&self, key: &StateKey) -> Result<i64, StoreError> {
        self.ids.get(key).copied().ok_or_else(|| StoreError::Row {
            table: "hydrometer.rating_state",
            detail: format!("the state of {key:?} was not locked"),
        })
    }

    /// Writes the states and the steps back. `transaction` names the ledger transaction that books a step.
    pub async fn write(
        &self,
        client: &impl GenericClient,
        steps: &[ObjectStep],
        rates: &impl Rates,
        transaction: impl Fn(&ObjectStep) -> Uuid,
    ) -> Result<(), StoreError> {
        self.write_cells(client, rates).await?;
        self.write_steps(client, steps, transaction).await
    }

    async fn write_cells(&self, client: &impl GenericClient, rates: &impl Rates) -> Result<(), StoreError> {
        let mut rows: Vec<(i64, &CellKey, Cell, CellAmounts)> = Vec::new();
        for (key, state) in &self.states {
            let (id, amounts): (i64, Amounts) = (self.id(key)?, amounts(state, rates)?);
            for (cell_key, cell) in state {
                rows.push((id, cell_key, *cell, amounts.get(cell_key).copied().unwrap_or_default()));
            }
        }
        for (key, raw) in &self.raw {
            for ((period, cell_key), cell) in raw {
                let state = self.raw_states.get(&(key.clone(), *period));
                rows.extend(state.map(|(id, _)| (*id, cell_key, *cell, CellAmounts::default())));
            }
        }
        let states: Vec<i64> = rows.iter().map(|r| r.0).collect();
        let versions: Vec<i64> = rows.iter().map(|r| r.1.version_from).collect();
        let rate_ids: Vec<String> = rows.iter().map(|r| r.1.rate.to_string()).collect();
        let segments: Vec<i32> = rows.iter().map(|r| i32::from(r.1.segment)).collect();
        let suppliers: Vec<&str> = rows.iter().map(|r| r.1.supplier.as_str()).collect();
        let billed: Vec<String> = rows.iter().map(|r| show_micro(r.2.billed)).collect();
        let paid: Vec<String> = rows.iter().map(|r| show_micro(r.2.paid)).collect();
        let renter: Vec<String> = rows.iter().map(|r| r.3.renter.to_string()).collect();
        let supplier: Vec<String> = rows.iter().map(|r| r.3.supplier.to_string()).collect();
        client
            .execute(
                "INSERT INTO hydrometer.rating_cell (state, version_from_s, rate, segment, supplier, billed, paid, renter_amount, \
                                                     supplier_amount) \
                 SELECT s, v, r, g, u, b::numeric, p::numeric, ra::numeric, sa::numeric \
                 FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::int[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[]) \
                      AS k (s, v, r, g, u, b, p, ra, sa) \
                 ON CONFLICT (state, version_from_s, rate, segment, supplier) DO UPDATE \
                 SET billed = excluded.billed, paid = excluded.paid, renter_amount = excluded.renter_amount, \
                     supplier_amount = excluded.supplier_amount",
                &[&states, &versions, &rate_ids, &segments, &suppliers, &billed, &paid, &renter, &supplier],
            )
            .await
            .map_err(doing("writing the rating state"))?;
        Ok(())
    }

    async fn write_steps(
        &self,
        client: &impl GenericClient,
        steps: &[ObjectStep],
        transaction: impl Fn(&ObjectStep) -> Uuid,
    ) -> Result<(), StoreError> {
        let states: Vec<i64> = steps.iter().map(|s| self.id(&s.key)).collect::<Result<_, _>>()?;
        let objects: Vec<&str> = steps.iter().map(|s| s.object.as_str()).collect();
        let versions: Vec<i64> = steps.iter().map(|s| s.step.key.version_from).collect();
        let rates: Vec<String> = steps.iter().map(|s| s.step.key.rate.to_string()).collect();
        let segments: Vec<i32> = steps.iter().map(|s| i32::from(s.step.key.segment)).collect();
        let suppliers: Vec<&str> = steps.iter().map(|s| s.step.key.supplier.as_str()).collect();
        let quantity = |f: fn(&CellStep) -> i128| steps.iter().map(|s| show_micro(f(&s.step))).collect::<Vec<_>>();
        let amount = |f: fn(&CellStep) -> Amount| steps.iter().map(|s| f(&s.step).to_string()).collect::<Vec<_>>();
        let booked: Vec<i64> = steps.iter().map(|s| s.booked).collect();
        let transactions: Vec<Uuid> = steps.iter().map(transaction).collect();
        client
            .execute(
                "INSERT INTO hydrometer.rating_step (object, state, version_from_s, rate, segment, supplier, billed_before, billed_after, \
                     paid_before, paid_after, renter_before, renter_after, supplier_before, supplier_after, booked_s, transaction) \
                 SELECT o, s, v, r, g, u, bb::numeric, ba::numeric, pb::numeric, pa::numeric, rb::numeric, ra::numeric, sb::numeric, \
                        sa::numeric, k, t \
                 FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::int[], $6::text[], $7::text[], $8::text[], $9::text[], \
                             $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::bigint[], $16::uuid[]) \
                      AS x (o, s, v, r, g, u, bb, ba, pb, pa, rb, ra, sb, sa, k, t)",
                &[
                    &objects,
                    &states,
                    &versions,
                    &rates,
                    &segments,
                    &suppliers,
                    &quantity(|s| s.quantity_before.billed),
                    &quantity(|s| s.quantity_after.billed),
                    &quantity(|s| s.quantity_before.paid),
                    &quantity(|s| s.quantity_after.paid),
                    &amount(|s| s.amounts_before.renter),
                    &amount(|s| s.amounts_after.renter),
                    &amount(|s| s.amounts_before.supplier),
                    &amount(|s| s.amounts_after.supplier),
                    &booked,
                    &transactions,
                ],
            )
            .await
            .map_err(doing("recording rating steps"))?;
        Ok(())
    }
}

/// Steps of cells that did not move.
fn unchanged<'a>(
    state: &State,
    cells: impl Iterator<Item = &'a CellKey>,
    rates: &impl Rates,
) -> Result<Vec<CellStep>, RateError> {
    let amounts = amounts(state, rates)?;
    let still = |key: &CellKey| {
        let quantity = state.get(key).copied().unwrap_or_default();
        let amounts = amounts.get(key).copied().unwrap_or_default();
        CellStep {
            key: key.clone(),
            quantity_before: quantity,
            quantity_after: quantity,
            amounts_before: amounts,
            amounts_after: amounts,
        }
    };
    Ok(cells.map(still).collect())
}

fn sum(a: Cell, b: Cell) -> Result<Cell, MoneyError> {
    let add = |a: i128, b: i128| a.checked_add(b).ok_or(MoneyError::Overflow { doing: "summing quantities" });
    Ok(Cell { billed: add(a.billed, b.billed)?, paid: add(a.paid, b.paid)? })
}

/// Millionths of pieces as pieces, with six digits.
pub(super) fn show_micro(micro: i128) -> String {
    let (sign, magnitude) = (if micro < 0 { "-" } else { "" }, micro.unsigned_abs());
    let unit = MICRO.unsigned_abs();
    format!("{sign}{}.{:06}", magnitude / unit, magnitude % unit)
}
