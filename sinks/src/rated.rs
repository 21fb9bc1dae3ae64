//! Rows of `rated_usage/`. They are staged with quantities only; their amounts follow from the commit's steps ([`fill_amounts`]),
//! since only the commit, holding the rating state's lock, knows what was rated before.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use hydrometer_rating::classes::ClassSeconds;
use hydrometer_rating::due::DueKind;
use hydrometer_rating::history::Span;
use hydrometer_rating::keys::{Cell, CellKey, StateKey};
use hydrometer_rating::money::{Amount, Price, Share};
use hydrometer_rating::quantities::Quantity;
use hydrometer_rating::rate::{CellAmounts, spread};
use hydrometer_rating::terms::{MICRO, RateId};
use hydrometer_schemas::time::{MICROS_PER_SECOND, Second, second_of};
use hydrometer_schemas::warehouse::RATED;
use sha2::{Digest, Sha256};

use crate::SinkError;
use crate::store::hex;
use crate::usage::Columns;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RecordKind {
    /// Rated live.
    Usage,
    /// The difference that a revision found.
    Correction,
    /// Money of a step that has no record to carry it; its quantity is 0.
    Adjustment,
    /// What fell due when an hour or a billing period was closed.
    Due(DueKind),
}

impl RecordKind {
    pub fn name(self) -> &'static str {
        match self {
            RecordKind::Usage => "usage",
            RecordKind::Correction => "correction",
            RecordKind::Adjustment => "adjustment",
            RecordKind::Due(kind) => kind.as_str(),
        }
    }

    fn read(name: &str) -> Result<RecordKind, SinkError> {
        [RecordKind::Usage, RecordKind::Correction, RecordKind::Adjustment]
            .into_iter()
            .chain(DueKind::ALL.map(RecordKind::Due))
            .find(|kind| kind.name() == name)
            .ok_or_else(|| SinkError::Amounts { detail: format!("there is no record kind {name:?}") })
    }
}

/// One lease, slot, GPU, charge, window and cell: price version, time of the week, supplier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RatedRow {
    pub contract: String,
    pub charge: String,
    pub renter: String,
    pub currency: String,
    pub lease: Option<String>,
    pub server: Option<String>,
    pub slot: Option<u32>,
    pub gpu: Option<String>,
    pub window: Span,
    /// The beginning of the billing period that it was used in.
    pub period: Second,
    /// The beginning of what its ladder counts: the billing period, or the hour of an hourly commitment.
    pub ladder: Second,
    /// Whose usage climbs the ladder (see [`StateKey::resource`]).
    pub resource: String,
    pub cell: CellKey,
    /// The price of a unit and the supplier's share of it, where there is one of each.
    pub price: Option<Price>,
    pub share: Option<Share>,
    /// What `quantity` counts: seconds, joules, slice-seconds or byte-seconds.
    pub basis: String,
    pub quantity: Quantity,
    pub kind: RecordKind,
    pub renter_amount: Amount,
    pub supplier_amount: Amount,
    /// The beginning of the billing period in which it is booked: its own, or, where that was closed, the open one.
    pub booked: Second,
    pub partition: i32,
    pub revision: i32,
    pub commit: String,
}

impl RatedRow {
    /// The rating state that its quantity is added to.
    pub fn state(&self) -> StateKey {
        StateKey {
            contract: self.contract.clone(),
            renter: self.renter.clone(),
            currency: self.currency.clone(),
            charge: self.charge.clone(),
            period: self.ladder,
            resource: self.resource.clone(),
        }
    }

    /// The quantity as a cell counts it.
    pub fn cell_quantity(&self) -> Cell {
        Cell { billed: i128::from(self.quantity.billed) * MICRO, paid: i128::from(self.quantity.paid) * MICRO }
    }

    /// A short name for the record: the same for the same record wherever and whenever it is derived.
    pub fn record_id(&self) -> String {
        let mut hash = Sha256::new();
        for part in [
            self.contract.as_str(),
            &self.renter,
            &self.currency,
            &self.charge,
            &self.resource,
            self.lease.as_deref().unwrap_or(""),
            self.gpu.as_deref().unwrap_or(""),
            &self.cell.supplier,
            self.kind.name(),
            // Usage belongs to its lease and window, everything else to the commit that made it.
            if matches!(self.kind, RecordKind::Usage | RecordKind::Correction) { "" } else { &self.commit },
        ] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        for number in [
            i64::from(self.slot.unwrap_or(u32::MAX)),
            self.window.from,
            self.window.to,
            self.period,
            self.ladder,
            self.cell.version_from,
            i64::from(self.cell.segment),
            i64::from(self.revision),
            i64::from(self.partition),
        ] {
            hash.update(number.to_le_bytes());
        }
        hash.update(self.cell.rate.0.to_le_bytes());
        hex(&hash.finalize()[..8])
    }

    /// The order of records within a file and within a step.
    pub fn sort_key(&self) -> impl Ord + use<> {
        (
            (self.lease.clone(), self.slot, self.window.from, self.window.to),
            (self.gpu.clone(), self.state(), self.period, self.cell.clone()),
            (self.kind, self.revision, self.commit.clone(), self.partition),
        )
    }

    pub fn commission(&self) -> Result<Amount, SinkError> {
        Ok(self.renter_amount.checked_sub(self.supplier_amount)?)
    }
}

/// What a commit changed in one cell, for the records of one staged object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepRow {
    pub state: StateKey,
    /// Where the billing period begins that the state lies in.
    pub billing: Second,
    pub cell: CellKey,
    pub renter: Amount,
    pub supplier: Amount,
    pub booked: Second,
}

/// Gives the records of one staged object their amounts. Records must be all of the object's; the result adds up to the steps
/// exactly, with a record of kind `adjustment` where a step's money has no record to carry it.
pub fn fill_amounts(mut rows: Vec<RatedRow>, steps: &[StepRow]) -> Result<Vec<RatedRow>, SinkError> {
    rows.sort_by_cached_key(RatedRow::sort_key);
    let mut of_cell: BTreeMap<(StateKey, CellKey), Vec<usize>> = BTreeMap::new();
    for (i, row) in rows.iter().enumerate() {
        of_cell.entry((row.state(), row.cell.clone())).or_default().push(i);
    }
    let mut adjustments = Vec::new();
    for step in steps {
        let indices = of_cell.remove(&(step.state.clone(), step.cell.clone())).unwrap_or_default();
        let left = spread_over(&mut rows, &indices, step)?;
        if left != CellAmounts::default() {
            adjustments.push(adjustment(&rows, &indices, step, left)?);
        }
    }
    // A cell without a step did not move: its records cancel each other out.
    for ((state, _), indices) in of_cell {
        let net = indices.iter().fold(Quantity::default(), |sum, &i| sum.plus(rows[i].quantity));
        if (net.billed, net.paid) != (0, 0) {
            let detail = format!("records of contract {} add {net:?} to a cell that has no step", state.contract);
            return Err(SinkError::Amounts { detail });
        }
    }
    rows.extend(adjustments);
    rows.sort_by_cached_key(RatedRow::sort_key);
    Ok(rows)
}

/// Spreads one cell's amounts over its records; what has no record to carry it is returned.
fn spread_over(rows: &mut [RatedRow], indices: &[usize], step: &StepRow) -> Result<CellAmounts, SinkError> {
    let quantities: Vec<Cell> = indices.iter().map(|&i| rows[i].cell_quantity()).collect();
    let spread = spread(step.renter, step.supplier, &quantities)?;
    for (n, &i) in indices.iter().enumerate() {
        rows[i].renter_amount = spread.renter[n];
        rows[i].supplier_amount = spread.supplier[n];
        rows[i].booked = step.booked;
    }
    Ok(spread.adjustment)
}

/// A record of no lease that carries what a step left over. Its window and commit are those of the object's other records.
fn adjustment(rows: &[RatedRow], indices: &[usize], step: &StepRow, left: CellAmounts) -> Result<RatedRow, SinkError> {
    let of_contract = || rows.iter().find(|row| row.contract == step.state.contract);
    let Some(sample) = indices.first().map(|&i| &rows[i]).or_else(of_contract) else {
        return Err(SinkError::Amounts { detail: format!("a step of contract {} has no record", step.state.contract) });
    };
    // Of another cell than the record at hand, it is not known here what a unit costs.
    let same_cell = !indices.is_empty();
    Ok(RatedRow {
        renter: step.state.renter.clone(),
        currency: step.state.currency.clone(),
        charge: step.state.charge.clone(),
        ladder: step.state.period,
        resource: step.state.resource.clone(),
        lease: None,
        server: None,
        slot: None,
        gpu: None,
        cell: step.cell.clone(),
        price: sample.price.filter(|_| same_cell),
        share: sample.share.filter(|_| same_cell),
        period: step.billing,
        booked: step.booked,
        quantity: Quantity::default(),
        kind: RecordKind::Adjustment,
        renter_amount: left.renter,
        supplier_amount: left.supplier,
        ..sample.clone()
    })
}

pub fn to_batch(rows: &[RatedRow]) -> Result<RecordBatch, SinkError> {
    let built = |e: arrow::error::ArrowError| SinkError::Parquet {
        doing: "built",
        name: "rated_usage".into(),
        detail: e.to_string(),
    };
    let times = |f: fn(&RatedRow) -> Second| -> ArrayRef {
        let values = rows.iter().map(|r| f(r) * MICROS_PER_SECOND);
        Arc::new(TimestampMicrosecondArray::from_iter_values(values).with_timezone("UTC"))
    };
    let text = |f: fn(&RatedRow) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(rows.iter().map(f))) };
    let optional =
        |f: fn(&RatedRow) -> Option<&str>| -> ArrayRef { Arc::new(StringArray::from_iter(rows.iter().map(f))) };
    let count = |f: fn(&RatedRow) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(rows.iter().map(f))) };
    let maybe_decimal = |values: Vec<Option<i128>>, precision: u8, scale: i8| -> Result<ArrayRef, SinkError> {
        let array = Decimal128Array::from(values).with_precision_and_scale(precision, scale).map_err(built)?;
        array.validate_decimal_precision(precision).map_err(built)?;
        Ok(Arc::new(array))
    };
    let decimal = |values: Vec<i128>, precision: u8, scale: i8| {
        maybe_decimal(values.into_iter().map(Some).collect(), precision, scale)
    };
    let text_of = |values: Vec<String>| -> ArrayRef { Arc::new(StringArray::from(values)) };
    let commissions = rows.iter().map(|r| r.commission().map(Amount::scaled)).collect::<Result<Vec<_>, _>>()?;
    let ids: Vec<String> = rows.iter().map(RatedRow::record_id).collect();
    let columns: Vec<ArrayRef> = vec![
        text_of(ids),
        text(|r| r.kind.name()),
        text(|r| &r.contract),
        text(|r| &r.charge),
        text(|r| &r.renter),
        text(|r| &r.cell.supplier),
        optional(|r| r.lease.as_deref()),
        optional(|r| r.server.as_deref()),
        Arc::new(Int32Array::from_iter(rows.iter().map(|r| r.slot.map(|s| s as i32)))),
        optional(|r| r.gpu.as_deref()),
        times(|r| r.window.from),
        times(|r| r.window.to),
        times(|r| r.period),
        times(|r| r.ladder),
        text(|r| &r.resource),
        times(|r| r.cell.version_from),
        text_of(rows.iter().map(|r| r.cell.rate.to_string()).collect()),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| i32::from(r.cell.segment)))),
        maybe_decimal(rows.iter().map(|r| r.price.map(Price::scaled)).collect(), 38, 12)?,
        maybe_decimal(rows.iter().map(|r| r.share.map(|s| i128::from(s.scaled()))).collect(), 12, 6)?,
        text(|r| &r.currency),
        count(|r| r.quantity.classes.leased()),
        count(|r| r.quantity.classes.used),
        count(|r| r.quantity.classes.idle),
        count(|r| r.quantity.classes.unknown),
        count(|r| r.quantity.classes.maintenance),
        count(|r| r.quantity.classes.down),
        count(|r| r.quantity.classes.down_platform),
        count(|r| r.quantity.classes.down_renter),
        count(|r| r.quantity.classes.suspended),
        count(|r| r.quantity.classes.billed),
        count(|r| r.quantity.classes.paid),
        text(|r| &r.basis),
        count(|r| r.quantity.billed),
        count(|r| r.quantity.paid),
        count(|r| r.quantity.lost),
        decimal(rows.iter().map(|r| r.renter_amount.scaled()).collect(), 38, 9)?,
        decimal(rows.iter().map(|r| r.supplier_amount.scaled()).collect(), 38, 9)?,
        decimal(commissions, 38, 9)?,
        times(|r| r.booked),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| r.partition))),
        Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| r.revision))),
        text(|r| &r.commit),
    ];
    RecordBatch::try_new(RATED.clone(), columns).map_err(built)
}

pub fn from_batch(batch: &RecordBatch) -> Result<Vec<RatedRow>, SinkError> {
    let columns = Columns::new("rated_usage", batch);
    let text = |name: &str| columns.get::<StringArray>(name);
    let (kind, contract, charge, renter) = (text("kind")?, text("contract")?, text("charge")?, text("renter")?);
    let (supplier, lease, server, gpu) = (text("supplier")?, text("lease")?, text("server")?, text("gpu")?);
    let (currency, commit) = (text("currency")?, text("commit")?);
    let slot = columns.get::<Int32Array>("slot")?;
    let time = |name: &str| columns.get::<TimestampMicrosecondArray>(name);
    let (window_start, window_end) = (time("window_start")?, time("window_end")?);
    let (period, ladder, version_from) = (time("period_start")?, time("ladder_start")?, time("version_from")?);
    let booked = time("booked_start")?;
    let (resource, rate, basis) = (text("resource")?, text("rate")?, text("basis")?);
    let segment = columns.get::<Int32Array>("segment")?;
    let decimal = |name: &str| columns.get::<Decimal128Array>(name);
    let (price, share) = (decimal("price")?, decimal("supplier_share_percent")?);
    let (renter_amount, supplier_amount) = (decimal("renter_amount")?, decimal("supplier_amount")?);
    let count = |name: &str| columns.get::<Int64Array>(name);
    let (used, idle, unknown) = (count("used_s")?, count("idle_s")?, count("unknown_s")?);
    let (maintenance, suspended) = (count("maintenance_s")?, count("suspended_s")?);
    let (down, down_platform, down_renter) = (count("down_s")?, count("down_platform_s")?, count("down_renter_s")?);
    let (billed_s, paid_s) = (count("billed_s")?, count("paid_s")?);
    let (billed, paid, lost) = (count("quantity")?, count("paid_quantity")?, count("lost_quantity")?);
    let partition = columns.get::<Int32Array>("partition")?;
    let revision = columns.get::<Int32Array>("revision")?;

    let owned = |array: &StringArray, i: usize| array.is_valid(i).then(|| array.value(i).to_owned());
    (0..batch.num_rows())
        .map(|i| {
            Ok(RatedRow {
                contract: contract.value(i).to_owned(),
                charge: charge.value(i).to_owned(),
                renter: renter.value(i).to_owned(),
                currency: currency.value(i).to_owned(),
                lease: owned(lease, i),
                server: owned(server, i),
                slot: slot.is_valid(i).then(|| slot.value(i) as u32),
                gpu: owned(gpu, i),
                window: Span { from: second_of(window_start.value(i)), to: second_of(window_end.value(i)) },
                period: second_of(period.value(i)),
                ladder: second_of(ladder.value(i)),
                resource: resource.value(i).to_owned(),
                cell: CellKey {
                    version_from: second_of(version_from.value(i)),
                    rate: RateId::parse(rate.value(i)).ok_or_else(|| SinkError::Amounts {
                        detail: format!("a record's rate {:?} is no rate", rate.value(i)),
                    })?,
                    segment: u16::try_from(segment.value(i)).unwrap_or(u16::MAX),
                    supplier: supplier.value(i).to_owned(),
                },
                price: price.is_valid(i).then(|| Price::from_scaled(price.value(i))),
                share: share.is_valid(i).then(|| Share::from_scaled(share.value(i) as i64)),
                basis: basis.value(i).to_owned(),
                quantity: Quantity {
                    classes: ClassSeconds {
                        used: used.value(i),
                        idle: idle.value(i),
                        unknown: unknown.value(i),
                        maintenance: maintenance.value(i),
                        down: down.value(i),
                        down_platform: down_platform.value(i),
                        down_renter: down_renter.value(i),
                        suspended: suspended.value(i),
                        billed: billed_s.value(i),
                        paid: paid_s.value(i),
                    },
                    billed: billed.value(i),
                    paid: paid.value(i),
                    lost: lost.value(i),
                },
                kind: RecordKind::read(kind.value(i))?,
                renter_amount: Amount::from_scaled(renter_amount.value(i)),
                supplier_amount: Amount::from_scaled(supplier_amount.value(i)),
                booked: second_of(booked.value(i)),
                partition: partition.value(i),
                revision: revision.value(i),
                commit: commit.value(i).to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(lease: &str, billed: i64) -> RatedRow {
        RatedRow {
            contract: "c".into(),
            charge: "gpu_hours".into(),
            renter: "r".into(),
            currency: "USD".into(),
            lease: Some(lease.into()),
            server: Some("s".into()),
            slot: Some(0),
            gpu: None,
            window: Span { from: 0, to: 3_600 },
            period: 0,
            ladder: 0,
            resource: String::new(),
            cell: CellKey { version_from: 0, rate: RateId(7), segment: 0, supplier: "sup".into() },
            price: Some(Price::parse("2.499999").unwrap()),
            share: Some(Share::parse_percent("80").unwrap()),
            basis: "s".into(),
            quantity: Quantity {
                classes: ClassSeconds { used: billed, billed, paid: billed, ..ClassSeconds::default() },
                billed,
                paid: billed,
                lost: 0,
            },
            kind: RecordKind::Correction,
            renter_amount: Amount::ZERO,
            supplier_amount: Amount::ZERO,
            booked: 0,
            partition: 0,
            revision: 1,
            commit: "a".into(),
        }
    }

    fn step(renter: &str, supplier: &str) -> StepRow {
        let row = row("a", 0);
        let (renter, supplier) = (Amount::parse(renter).unwrap(), Amount::parse(supplier).unwrap());
        StepRow { state: row.state(), billing: 0, cell: row.cell, renter, supplier, booked: 86_400 }
    }

    #[test]
    fn records_that_cancel_out_need_no_step() {
        let filled = fill_amounts(vec![row("a", 7), row("b", -7)], &[]).unwrap();
        let sum: i128 = filled.iter().map(|r| r.renter_amount.scaled()).sum();
        assert_eq!(sum, 0);
        assert!(fill_amounts(vec![row("a", 7)], &[]).is_err(), "a step is missing");
    }

    #[test]
    fn records_add_up_to_their_step_and_are_booked_with_it() {
        let filled = fill_amounts(vec![row("a", 7), row("b", 3)], &[step("0.000000011", "0.000000009")]).unwrap();
        assert_eq!(filled.iter().map(|r| r.renter_amount.scaled()).sum::<i128>(), 11);
        assert_eq!(filled.iter().map(|r| r.supplier_amount.scaled()).sum::<i128>(), 9);
        assert!(filled.iter().all(|r| r.booked == 86_400 && r.kind == RecordKind::Correction));
    }

    #[test]
    fn what_no_record_carries_is_an_adjustment() {
        let moved = StepRow { cell: CellKey { version_from: 9, ..step("0", "0").cell }, ..step("5", "-4") };
        let filled = fill_amounts(vec![row("a", 7)], &[step("1", "0.8"), moved]).unwrap();
        let adjustment = filled.iter().find(|r| r.kind == RecordKind::Adjustment).unwrap();
        assert_eq!((adjustment.renter_amount.to_string(), adjustment.lease.clone()), ("5.000000000".to_owned(), None));
        assert_eq!((adjustment.cell.version_from, adjustment.price), (9, None));
    }

    #[test]
    fn rows_survive_a_batch() {
        let rows = vec![row("a", 7), RatedRow { price: None, share: None, ..row("b", -9) }];
        assert_eq!(from_batch(&to_batch(&rows).unwrap()).unwrap(), rows);
    }
}
