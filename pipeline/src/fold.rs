//! Folding readings into metered minutes with DataFusion's aggregates.
//!
//! DataFusion rejects an unsorted GROUP BY over a table that never ends, so the window operator is ours; the aggregates are
//! DataFusion's `GroupsAccumulator`s, the very ones that SQL over an archive runs (a test holds both equal; only the first and last
//! reading of a counter, for which SQL has `first_value … ORDER BY`, are folded here as the least and greatest of a packed number). Grouping needs no hash
//! table here: the decoder has numbered the GPUs densely, so a GPU's group is looked up by its number.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Decimal128Type, Field, Float64Type, Int64Type, Schema, SchemaRef, UInt64Type};
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::bit_and_or_xor::bit_or_udaf;
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::logical_expr::{AggregateUDF, EmitTo, GroupsAccumulator};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::col;
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

/// A counter's reading as one number: its time above, its value below. So the first and the last reading (by time, then value) are
/// the least and the greatest number, a semilattice like every other (law 1), at the price of a comparison of integers: a time is
/// below 2^52, a value below 2^63, and a decimal of 38 digits holds 2^126.
const COUNTER: DataType = DataType::Decimal128(38, 0);

fn counter(time: Micros, value: i64) -> i128 {
    (i128::from(time) << 64) + i128::from(value)
}

fn counter_reading(counter: i128) -> CounterReading {
    ((counter >> 64) as i64, counter as i64)
}

/// The columns that the aggregates read.
fn input_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("present", DataType::UInt64, false),
        Field::new("busy", DataType::UInt64, false),
        Field::new("healthy", DataType::UInt64, false),
        Field::new("power_w", DataType::Float64, true),
        Field::new("mem_bytes", DataType::Int64, true),
        Field::new("energy", COUNTER, true),
        Field::new("offset", DataType::Int64, false),
    ]))
}

/// The aggregates of a metered minute, planned once.
#[derive(Debug)]
pub struct Aggregates {
    expressions: Vec<AggregateFunctionExpr>,
    schema: SchemaRef,
}

impl Aggregates {
    pub fn new() -> Result<Aggregates, DataFusionError> {
        let schema = input_schema();
        let of = |udaf: Arc<AggregateUDF>, column: &str| {
            AggregateExprBuilder::new(udaf, vec![col(column, &schema)?]).schema(schema.clone()).alias(column).build()
        };
        let expressions = vec![
            of(bit_or_udaf(), "present")?,
            of(bit_or_udaf(), "busy")?,
            of(bit_or_udaf(), "healthy")?,
            of(min_udaf(), "power_w")?,
            of(max_udaf(), "power_w")?,
            of(max_udaf(), "mem_bytes")?,
            of(min_udaf(), "energy")?,
            of(max_udaf(), "energy")?,
            of(min_udaf(), "offset")?,
            of(max_udaf(), "offset")?,
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
        let power = pieces.iter().map(|p| readings.power_w[reading(p)].filter(|_| p.own));
        let memory = pieces.iter().map(|p| readings.mem_bytes[reading(p)].filter(|_| p.own));
        let energy = pieces.iter().map(|p| {
            let i = reading(p);
            readings.energy_j[i].filter(|_| p.own).map(|value| counter(readings.time[i], value))
        });
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from_iter_values(pieces.iter().map(|p| p.mask))),
            masked(&readings.busy),
            masked(&readings.healthy),
            Arc::new(power.collect::<Float64Array>()),
            Arc::new(memory.collect::<Int64Array>()),
            Arc::new(energy.collect::<Decimal128Array>().with_data_type(COUNTER)),
            Arc::new(Int64Array::from_iter_values(pieces.iter().map(|p| readings.offset[reading(p)]))),
        ];
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }
}

/// Grouped state: one group per GPU (or per GPU and minute), of the aggregates above, and the XIDs beside them.
pub struct Fold {
    accumulators: Vec<Box<dyn GroupsAccumulator>>,
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
        let arguments = aggregates.expressions.iter().map(AggregateFunctionExpr::expressions).collect();
        Ok(Fold { accumulators, arguments, groups: Groups::default(), xids: BTreeMap::new() })
    }

    /// How many members it has.
    pub fn len(&self) -> usize {
        self.groups.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.groups.members.is_empty()
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
        let energy = |i: usize, row: usize| {
            let column = columns[i].as_primitive::<Decimal128Type>();
            column.is_valid(row).then(|| counter_reading(column.value(row)))
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
                energy_first: energy(6, row),
                energy_last: energy(7, row),
                xids: self.xids.range((group, i32::MIN)..=(group, i32::MAX)).map(|((_, xid), s)| (*xid, *s)).collect(),
                first_offset: integers(8).value(row),
                last_offset: integers(9).value(row),
            });
        }
        folded.sort_unstable_by_key(|folded| folded.member);
        Ok(folded)
    }
}

#[cfg(test)]
mod tests;
