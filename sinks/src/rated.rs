//! Rows of `rated_usage/`. They are staged with quantities only; their amounts follow from the commit's steps ([`fill_amounts`]),
//! since only the commit, holding the rating state's lock, knows what was rated before.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Decimal128Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use hydrometer_rating::classes::ClassSeconds;
use hydrometer_rating::history::Span;
use hydrometer_rating::money::{Amount, Price, Share};
use hydrometer_rating::rate::{Cell, CellAmounts, CellKey, spread};
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
}

impl RecordKind {
    pub fn name(self) -> &'static str {
        match self {
            RecordKind::Usage => "usage",
            RecordKind::Correction => "correction",
            RecordKind::Adjustment => "adjustment",
        }
    }

    fn read(name: &str) -> Result<RecordKind, SinkError> {
        [RecordKind::Usage, RecordKind::Correction, RecordKind::Adjustment]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| SinkError::Amounts { detail: format!("there is no record kind {name:?}") })
    }
}

/// One lease, slot, GPU, charge, window and price version. Field order is the sort order of files.
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
    pub period: Second,
    pub cell: CellKey,
    pub seconds: ClassSeconds,
    pub kind: RecordKind,
    pub renter_amount: Amount,
    pub supplier_amount: Amount,
    pub partition: i32,
    pub revision: i32,
    pub commit: String,
}

impl RatedRow {
    /// A short name for the record: the same for the same record wherever and whenever it is derived.
    pub fn record_id(&self) -> String {
        let mut hash = Sha256::new();
        for part in [
            self.contract.as_str(),
            &self.charge,
            self.lease.as_deref().unwrap_or(""),
            self.gpu.as_deref().unwrap_or(""),
            &self.cell.supplier,
            self.kind.name(),
            // An adjustment belongs to a step, everything else to its lease and window.
            if self.kind == RecordKind::Adjustment { &self.commit } else { "" },
        ] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        for number in [
            i64::from(self.slot.unwrap_or(u32::MAX)),
            self.window.from,
            self.window.to,
            self.cell.version_from,
            self.cell.share.scaled(),
            i64::from(self.revision),
            i64::from(self.partition),
        ] {
            hash.update(number.to_le_bytes());
        }
        hash.update(self.cell.price.scaled().to_le_bytes());
        hex(&hash.finalize()[..8])
    }

    /// The order of records within a file and within a step.
    pub fn sort_key(&self) -> impl Ord + use<> {
        (
            (self.lease.clone(), self.slot, self.window.from, self.window.to),
            (self.gpu.clone(), self.contract.clone(), self.cell.clone()),
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
    pub contract: String,
    pub charge: String,
    pub period: Second,
    pub cell: CellKey,
    pub renter: Amount,
    pub supplier: Amount,
}

/// Gives the records of one staged object their amounts. Records must be all of the object's; the result adds up to the steps
/// exactly, with a record of kind `adjustment` where a step's money has no record to carry it.
pub fn fill_amounts(mut rows: Vec<RatedRow>, steps: &[StepRow]) -> Result<Vec<RatedRow>, SinkError> {
    rows.sort_by_cached_key(RatedRow::sort_key);
    let mut of_cell: BTreeMap<(String, String, Second, CellKey), Vec<usize>> = BTreeMap::new();
    for (i, row) in rows.iter().enumerate() {
        of_cell.entry((row.contract.clone(), row.charge.clone(), row.period, row.cell.clone())).or_default().push(i);
    }
    let mut adjustments = Vec::new();
    for step in steps {
        let key = (step.contract.clone(), step.charge.clone(), step.period, step.cell.clone());
        let indices = of_cell.remove(&key).unwrap_or_default();
        let left = spread_over(&mut rows, &indices, &step.cell, step.renter, step.supplier)?;
        if left != CellAmounts::default() {
            // The renter and currency are the contract's; any record of the step's contract in this object knows them.
            let Some(sample) = rows.iter().find(|row| row.contract == step.contract) else {
                return Err(SinkError::Amounts {
                    detail: format!("a step of contract {} has no record", step.contract),
                });
            };
            adjustments.push(RatedRow {
                lease: None,
                server: None,
                slot: None,
                gpu: None,
                cell: step.cell.clone(),
                period: step.period,
                seconds: ClassSeconds::default(),
                kind: RecordKind::Adjustment,
                renter_amount: left.renter,
                supplier_amount: left.supplier,
                ..sample.clone()
            });
        }
    }
    // A cell without a step did not move: its records cancel each other out, in seconds and so in money.
    for ((contract, .., cell), indices) in of_cell {
        let net = indices.iter().fold((0, 0), |sum, &i| (sum.0 + rows[i].seconds.billed, sum.1 + rows[i].seconds.paid));
        let left = spread_over(&mut rows, &indices, &cell, Amount::ZERO, Amount::ZERO)?;
        if net != (0, 0) || left != CellAmounts::default() {
            let detail = format!("records of contract {contract} add {net:?} seconds to a cell that has no step");
            return Err(SinkError::Amounts { detail });
        }
    }
    rows.extend(adjustments);
    rows.sort_by_cached_key(RatedRow::sort_key);
    Ok(rows)
}

/// Spreads one cell's amounts over its records; what has no record to carry it is returned.
fn spread_over(
    rows: &mut [RatedRow],
    indices: &[usize],
    cell: &CellKey,
    renter: Amount,
    supplier: Amount,
) -> Result<CellAmounts, SinkError> {
    let quantities: Vec<Cell> =
        indices.iter().map(|&i| Cell { billed: rows[i].seconds.billed, paid: rows[i].seconds.paid }).collect();
    let spread = spread(cell, renter, supplier, &quantities)?;
    for (n, &i) in indices.iter().enumerate() {
        rows[i].renter_amount = spread.renter[n];
        rows[i].supplier_amount = spread.supplier[n];
    }
    Ok(spread.adjustment)
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
    let decimal = |values: Vec<i128>, precision: u8, scale: i8| -> Result<ArrayRef, SinkError> {
        let array = Decimal128Array::from(values).with_precision_and_scale(precision, scale).map_err(built)?;
        array.validate_decimal_precision(precision).map_err(built)?;
        Ok(Arc::new(array))
    };
    let commissions = rows.iter().map(|r| r.commission().map(Amount::scaled)).collect::<Result<Vec<_>, _>>()?;
    let ids: Vec<String> = rows.iter().map(RatedRow::record_id).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(ids)),
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
        times(|r| r.cell.version_from),
        decimal(rows.iter().map(|r| r.cell.price.scaled()).collect(), 38, 12)?,
        decimal(rows.iter().map(|r| i128::from(r.cell.share.scaled())).collect(), 12, 6)?,
        text(|r| &r.currency),
        count(|r| r.seconds.leased()),
        count(|r| r.seconds.used),
        count(|r| r.seconds.idle),
        count(|r| r.seconds.unknown),
        count(|r| r.seconds.down),
        count(|r| r.seconds.suspended),
        count(|r| r.seconds.billed),
        count(|r| r.seconds.paid),
        decimal(rows.iter().map(|r| r.renter_amount.scaled()).collect(), 38, 9)?,
        decimal(rows.iter().map(|r| r.supplier_amount.scaled()).collect(), 38, 9)?,
        decimal(commissions, 38, 9)?,
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
    let (period, version_from) = (time("period_start")?, time("version_from")?);
    let decimal = |name: &str| columns.get::<Decimal128Array>(name);
    let (price, share) = (decimal("price")?, decimal("supplier_share_percent")?);
    let (renter_amount, supplier_amount) = (decimal("renter_amount")?, decimal("supplier_amount")?);
    let count = |name: &str| columns.get::<Int64Array>(name);
    let (used, idle, unknown) = (count("used_s")?, count("idle_s")?, count("unknown_s")?);
    let (down, suspended, billed, paid) =
        (count("down_s")?, count("suspended_s")?, count("billed_s")?, count("paid_s")?);
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
                cell: CellKey {
                    version_from: second_of(version_from.value(i)),
                    price: Price::from_scaled(price.value(i)),
                    share: Share::from_scaled(share.value(i) as i64),
                    supplier: supplier.value(i).to_owned(),
                },
                seconds: ClassSeconds {
                    used: used.value(i),
                    idle: idle.value(i),
                    unknown: unknown.value(i),
                    down: down.value(i),
                    suspended: suspended.value(i),
                    billed: billed.value(i),
                    paid: paid.value(i),
                },
                kind: RecordKind::read(kind.value(i))?,
                renter_amount: Amount::from_scaled(renter_amount.value(i)),
                supplier_amount: Amount::from_scaled(supplier_amount.value(i)),
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
            cell: CellKey {
                version_from: 0,
                price: Price::parse("2.499999").unwrap(),
                share: Share::parse_percent("80").unwrap(),
                supplier: "sup".into(),
            },
            seconds: ClassSeconds { used: billed, billed, paid: billed, ..ClassSeconds::default() },
            kind: RecordKind::Correction,
            renter_amount: Amount::ZERO,
            supplier_amount: Amount::ZERO,
            partition: 0,
            revision: 1,
            commit: "a".into(),
        }
    }

    #[test]
    fn records_that_cancel_out_need_no_step() {
        let filled = fill_amounts(vec![row("a", 7), row("b", -7)], &[]).unwrap();
        let sum: i128 = filled.iter().map(|r| r.renter_amount.scaled()).sum();
        assert_eq!(sum, 0);
        assert!(filled.iter().all(|r| r.renter_amount != Amount::ZERO), "each still has its own amount");
        assert!(fill_amounts(vec![row("a", 7)], &[]).is_err(), "a step is missing");
    }

    #[test]
    fn rows_survive_a_batch() {
        let rows = vec![row("a", 7), row("b", -9)];
        assert_eq!(from_batch(&to_batch(&rows).unwrap()).unwrap(), rows);
    }
}
