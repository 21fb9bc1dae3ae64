//! Folding readings into metered minutes with DataFusion's aggregates.
//!
//! DataFusion rejects an unsorted GROUP BY over a table that never ends, so the window operator is ours; the aggregates are
//! DataFusion's `GroupsAccumulator`s, the very ones that SQL over an archive runs (a test holds both equal). Grouping needs no hash
//! table here: the decoder has numbered the GPUs densely, so a GPU's group is looked up by its number.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array, Int64Array, RecordBatch, UInt64Array};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, UInt64Type};
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::bit_and_or_xor::bit_or_udaf;
use datafusion::functions_aggregate::first_last::{first_value_udaf, last_value_udaf};
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::logical_expr::{AggregateUDF, EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use hydrometer_schemas::time::{MICROS_PER_MINUTE, MICROS_PER_SECOND, Micros, Minute, SECONDS_PER_MINUTE};
use hydrometer_sinks::usage::CounterReading;

use crate::decode::Readings;

/// The part of a reading that falls into one minute.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    pub reading: u32,
    pub minute: Minute,
    /// The seconds of that minute that the reading vouches for.
    pub mask: u64,
    /// Whether the reading's own second is in this minute; only then do its levels and counters count here.
    pub own: bool,
}

/// Splits a reading at minute edges: it vouches for `vouches_for` seconds from its own second on.
pub fn pieces(reading: u32, time: Micros, vouches_for: i64, mut take: impl FnMut(Piece)) {
    let first = time.div_euclid(MICROS_PER_SECOND);
    let end = first + vouches_for;
    let mut minute = time.div_euclid(MICROS_PER_MINUTE);
    let mut own = true;
    loop {
        let start = minute * SECONDS_PER_MINUTE;
        let from = (first - start).max(0);
        let to = (end - start).min(SECONDS_PER_MINUTE);
        let mask = ((1u64 << to) - 1) & !((1u64 << from) - 1);
        take(Piece { reading, minute, mask, own });
        if end <= start + SECONDS_PER_MINUTE {
            return;
        }
        minute += 1;
        own = false;
    }
}

/// The columns that the aggregates read.
fn input_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("present", DataType::UInt64, false),
        Field::new("busy", DataType::UInt64, false),
        Field::new("healthy", DataType::UInt64, false),
        Field::new("power_w", DataType::Float64, true),
        Field::new("mem_bytes", DataType::Int64, true),
        Field::new("time", DataType::Int64, false),
        Field::new("energy_time", DataType::Int64, true),
        Field::new("energy_j", DataType::Int64, true),
        Field::new("offset", DataType::Int64, false),
    ]))
}

/// The aggregates of a metered minute, planned once. The same list as [`MINUTE_SQL`], in the same order.
#[derive(Debug)]
pub struct Aggregates {
    expressions: Vec<AggregateFunctionExpr>,
    schema: SchemaRef,
}

/// What the aggregates are in SQL, over the columns of the input (used by the test that holds both equal).
pub const MINUTE_SQL: &str = "bit_or(present), bit_or(busy), bit_or(healthy), min(power_w), max(power_w), max(mem_bytes), \
     min(energy_time), first_value(energy_j ORDER BY time, energy_j) FILTER (WHERE energy_j IS NOT NULL), \
     max(energy_time), last_value(energy_j ORDER BY time, energy_j) FILTER (WHERE energy_j IS NOT NULL), \
     min(\"offset\"), max(\"offset\")";

impl Aggregates {
    pub fn new() -> Result<Aggregates, DataFusionError> {
        let schema = input_schema();
        let simple = |udaf: Arc<AggregateUDF>, column: &str| {
            AggregateExprBuilder::new(udaf, vec![col(column, &schema)?]).schema(schema.clone()).alias(column).build()
        };
        let by_time = |udaf: Arc<AggregateUDF>| {
            let ascending = |column: &str| -> Result<PhysicalSortExpr, DataFusionError> {
                Ok(PhysicalSortExpr::new(col(column, &schema)?, SortOptions { descending: false, nulls_first: false }))
            };
            AggregateExprBuilder::new(udaf, vec![col("energy_j", &schema)?])
                .schema(schema.clone())
                .alias("energy_j")
                .order_by(vec![ascending("time")?, ascending("energy_j")?])
                .ignore_nulls()
                .build()
        };
        let expressions = vec![
            simple(bit_or_udaf(), "present")?,
            simple(bit_or_udaf(), "busy")?,
            simple(bit_or_udaf(), "healthy")?,
            simple(min_udaf(), "power_w")?,
            simple(max_udaf(), "power_w")?,
            simple(max_udaf(), "mem_bytes")?,
            simple(min_udaf(), "energy_time")?,
            by_time(first_value_udaf())?,
            simple(max_udaf(), "energy_time")?,
            by_time(last_value_udaf())?,
            simple(min_udaf(), "offset")?,
            simple(max_udaf(), "offset")?,
        ];
        Ok(Aggregates { expressions, schema })
    }

    /// The input of some pieces, as the columns that the aggregates read.
    pub fn input(&self, readings: &Readings, pieces: &[Piece]) -> Result<RecordBatch, DataFusionError> {
        let reading = |piece: &Piece| piece.reading as usize;
        let masked = |flags: &[bool]| -> ArrayRef {
            let masks = pieces.iter().map(|p| if flags[reading(p)] { p.mask } else { 0 });
            Arc::new(UInt64Array::from_iter_values(masks))
        };
        let own_float = |values: &[Option<f64>]| -> ArrayRef {
            Arc::new(pieces.iter().map(|p| values[reading(p)].filter(|_| p.own)).collect::<Float64Array>())
        };
        let own_integer = |values: &[Option<i64>]| -> ArrayRef {
            Arc::new(pieces.iter().map(|p| values[reading(p)].filter(|_| p.own)).collect::<Int64Array>())
        };
        let energy_time: Int64Array = pieces
            .iter()
            .map(|p| readings.energy_j[reading(p)].filter(|_| p.own).map(|_| readings.time[reading(p)]))
            .collect();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from_iter_values(pieces.iter().map(|p| p.mask))),
            masked(&readings.busy),
            masked(&readings.healthy),
            own_float(&readings.power_w),
            own_integer(&readings.mem_bytes),
            Arc::new(Int64Array::from_iter_values(pieces.iter().map(|p| readings.time[reading(p)]))),
            Arc::new(energy_time),
            own_integer(&readings.energy_j),
            Arc::new(Int64Array::from_iter_values(pieces.iter().map(|p| readings.offset[reading(p)]))),
        ];
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

/// Grouped state: one group per GPU (or per GPU and minute), of the aggregates above, and the XIDs beside them.
pub struct Fold {
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
    /// Evaluated arguments per accumulator: the aggregate's own and its order's.
    arguments: Vec<Vec<Arc<dyn PhysicalExpr>>>,
    groups: Groups,
    xids: BTreeMap<(u32, i32), u8>,
}

/// Which group a member has: numbered as they first appear, since DataFusion takes every group below the total for one that it has
/// seen. A table and no hash, since members are dense numbers themselves.
#[derive(Default)]
struct Groups {
    /// By member: its group and one more; 0 for none yet.
    group_after: Vec<u32>,
    /// By group: its member.
    members: Vec<u32>,
}

impl Groups {
    fn of(&mut self, member: usize) -> usize {
        if member >= self.group_after.len() {
            self.group_after.resize(member + 1, 0);
        }
        let after = &mut self.group_after[member];
        if *after == 0 {
            self.members.push(member as u32);
            *after = self.members.len() as u32;
        }
        *after as usize - 1
    }
}

/// One member's result.
#[derive(Debug, Clone, PartialEq)]
pub struct Folded {
    pub member: u32,
    pub present: u64,
    pub busy: u64,
    pub healthy: u64,
    pub power_min_w: Option<f64>,
    pub power_max_w: Option<f64>,
    pub mem_max_bytes: Option<i64>,
    pub energy_first: Option<CounterReading>,
    pub energy_last: Option<CounterReading>,
    pub xids: BTreeMap<i32, u8>,
    pub first_offset: i64,
    pub last_offset: i64,
}

impl Fold {
    pub fn new(aggregates: &Aggregates) -> Result<Fold, DataFusionError> {
        let accumulators = aggregates
            .expressions
            .iter()
            .map(AggregateFunctionExpr::create_groups_accumulator)
            .collect::<Result<_, _>>()?;
        let arguments = aggregates
            .expressions
            .iter()
            .map(|e| e.expressions().into_iter().chain(e.order_bys().iter().map(|o| o.expr.clone())).collect())
            .collect();
        Ok(Fold { accumulators, arguments, groups: Groups::default(), xids: BTreeMap::new() })
    }

    /// Folds pieces, `members[i]` being the number of the GPU (or GPU and minute) of `pieces[i]`.
    pub fn update(
        &mut self,
        aggregates: &Aggregates,
        readings: &Readings,
        pieces: &[Piece],
        members: &[usize],
    ) -> Result<(), DataFusionError> {
        if members.is_empty() {
            return Ok(());
        }
        let groups: Vec<usize> = members.iter().map(|&member| self.groups.of(member)).collect();
        let input = aggregates.input(readings, pieces)?;
        for (accumulator, arguments) in self.accumulators.iter_mut().zip(&self.arguments) {
            let values: Vec<ArrayRef> = arguments
                .iter()
                .map(|argument| argument.evaluate(&input)?.into_array(input.num_rows()))
                .collect::<Result<_, _>>()?;
            accumulator.update_batch(&values, &groups, None, self.groups.members.len())?;
        }
        for (piece, group) in pieces.iter().zip(&groups) {
            let xid = readings.xid[piece.reading as usize];
            if xid != 0 && piece.own {
                let second = piece.mask.trailing_zeros() as u8;
                let first = self.xids.entry((*group as u32, xid)).or_insert(second);
                *first = second.min(*first);
            }
        }
        Ok(())
    }

    /// Ends the fold: every member that has a reading, in order.
    pub fn finish(mut self) -> Result<Vec<Folded>, DataFusionError> {
        let mut columns = Vec::with_capacity(self.accumulators.len());
        for accumulator in &mut self.accumulators {
            columns.push(accumulator.evaluate(EmitTo::All)?);
        }
        let masks = |i: usize| columns[i].as_primitive::<UInt64Type>();
        let integers = |i: usize| columns[i].as_primitive::<Int64Type>();
        let integer = |i: usize, row: usize| integers(i).is_valid(row).then(|| integers(i).value(row));
        let float = |i: usize, row: usize| {
            let column = columns[i].as_primitive::<Float64Type>();
            column.is_valid(row).then(|| column.value(row))
        };
        let mut folded = Vec::new();
        for (row, &member) in self.groups.members.iter().enumerate() {
            if masks(0).is_null(row) || masks(0).value(row) == 0 {
                continue;
            }
            let group = row as u32;
            folded.push(Folded {
                member,
                present: masks(0).value(row),
                busy: masks(1).value(row),
                healthy: masks(2).value(row),
                power_min_w: float(3, row),
                power_max_w: float(4, row),
                mem_max_bytes: integer(5, row),
                energy_first: integer(6, row).zip(integer(7, row)),
                energy_last: integer(8, row).zip(integer(9, row)),
                xids: self.xids.range((group, i32::MIN)..=(group, i32::MAX)).map(|((_, xid), s)| (*xid, *s)).collect(),
                first_offset: integers(10).value(row),
                last_offset: integers(11).value(row),
            });
        }
        folded.sort_unstable_by_key(|folded| folded.member);
        Ok(folded)
    }
}

#[cfg(test)]
mod tests;
