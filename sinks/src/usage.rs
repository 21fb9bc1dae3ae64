//! Rows of `usage/`: metered minutes. Merging two rows of one GPU and minute is a semilattice (law 1): OR, min, max, first and last.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
    UInt64Array,
};
use hydrometer_schemas::time::{MICROS_PER_MINUTE, Micros, Minute};
use hydrometer_schemas::warehouse::USAGE;

use crate::SinkError;

/// A counter's reading: (time, value), ordered by time, then value.
pub type CounterReading = (Micros, i64);

#[derive(Debug, Clone, PartialEq)]
pub struct UsageRow {
    pub server: Arc<str>,
    pub gpu: Arc<str>,
    pub minute: Minute,
    /// Bit n: the GPU reported in second n of the minute.
    pub present: u64,
    /// Bit n: it reported utilisation above zero in that second.
    pub busy: u64,
    /// Bit n: it reported itself healthy in that second.
    pub healthy: u64,
    pub power_min_w: Option<f64>,
    pub power_max_w: Option<f64>,
    pub mem_max_bytes: Option<i64>,
    pub energy_first: Option<CounterReading>,
    pub energy_last: Option<CounterReading>,
    /// XID to the first second of the minute in which it was reported.
    pub xids: BTreeMap<i32, u8>,
    pub topic: Arc<str>,
    pub partition: i32,
    pub first_offset: i64,
    pub last_offset: i64,
    /// 0 in the hour's file; above it for rows that came later.
    pub revision: i32,
}

/// What identifies a metered minute, in the order in which files are sorted.
pub type UsageKey = (Arc<str>, Arc<str>, Minute);

impl UsageRow {
    pub fn key(&self) -> UsageKey {
        (self.server.clone(), self.gpu.clone(), self.minute)
    }

    /// Joins another row of the same GPU and minute into this one. Where they came from different partitions the one with more
    /// to say first (the smaller name) keeps its offsets; both are in the manifest all the same.
    pub fn merge(&mut self, other: &UsageRow) {
        self.present |= other.present;
        self.busy |= other.busy;
        self.healthy |= other.healthy;
        self.power_min_w = join(self.power_min_w, other.power_min_w, f64::min);
        self.power_max_w = join(self.power_max_w, other.power_max_w, f64::max);
        self.mem_max_bytes = join(self.mem_max_bytes, other.mem_max_bytes, i64::max);
        self.energy_first = join(self.energy_first, other.energy_first, std::cmp::min);
        self.energy_last = join(self.energy_last, other.energy_last, std::cmp::max);
        for (&xid, &second) in &other.xids {
            self.xids.entry(xid).and_modify(|first| *first = (*first).min(second)).or_insert(second);
        }
        if (&self.topic, self.partition) == (&other.topic, other.partition) {
            self.first_offset = self.first_offset.min(other.first_offset);
            self.last_offset = self.last_offset.max(other.last_offset);
        } else if (&other.topic, other.partition) < (&self.topic, self.partition) {
            self.topic = other.topic.clone();
            self.partition = other.partition;
            self.first_offset = other.first_offset;
            self.last_offset = other.last_offset;
        }
    }
}

fn join<T>(a: Option<T>, b: Option<T>, f: impl Fn(T, T) -> T) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(f(a, b)),
        (a, b) => a.or(b),
    }
}

/// One row per GPU and minute, sorted by server, GPU and minute.
pub fn merged(rows: impl IntoIterator<Item = UsageRow>) -> BTreeMap<UsageKey, UsageRow> {
    let mut merged: BTreeMap<UsageKey, UsageRow> = BTreeMap::new();
    for row in rows {
        match merged.entry(row.key()) {
            std::collections::btree_map::Entry::Occupied(mut entry) => entry.get_mut().merge(&row),
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(row);
            }
        }
    }
    merged
}

pub fn to_batch<'a>(rows: impl Iterator<Item = &'a UsageRow> + Clone) -> Result<RecordBatch, SinkError> {
    let times = |times: Vec<Option<Micros>>| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))
    };
    let seconds = |mask: u64| mask.count_ones() as i32;
    let each = rows;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(each.clone().map(|r| &r.server))),
        Arc::new(StringArray::from_iter_values(each.clone().map(|r| &r.gpu))),
        times(each.clone().map(|r| Some(r.minute * MICROS_PER_MINUTE)).collect()),
        Arc::new(UInt64Array::from_iter_values(each.clone().map(|r| r.present))),
        Arc::new(UInt64Array::from_iter_values(each.clone().map(|r| r.busy))),
        Arc::new(UInt64Array::from_iter_values(each.clone().map(|r| r.healthy))),
        Arc::new(Int32Array::from_iter_values(each.clone().map(|r| seconds(r.present)))),
        Arc::new(Int32Array::from_iter_values(each.clone().map(|r| seconds(r.busy)))),
        Arc::new(Float64Array::from_iter(each.clone().map(|r| r.power_min_w))),
        Arc::new(Float64Array::from_iter(each.clone().map(|r| r.power_max_w))),
        Arc::new(Int64Array::from_iter(each.clone().map(|r| r.mem_max_bytes))),
        times(each.clone().map(|r| r.energy_first.map(|e| e.0)).collect()),
        Arc::new(Int64Array::from_iter(each.clone().map(|r| r.energy_first.map(|e| e.1)))),
        times(each.clone().map(|r| r.energy_last.map(|e| e.0)).collect()),
        Arc::new(Int64Array::from_iter(each.clone().map(|r| r.energy_last.map(|e| e.1)))),
        Arc::new(StringArray::from_iter(each.clone().map(|r| show_xids(&r.xids)))),
        Arc::new(StringArray::from_iter_values(each.clone().map(|r| &r.topic))),
        Arc::new(Int32Array::from_iter_values(each.clone().map(|r| r.partition))),
        Arc::new(Int64Array::from_iter_values(each.clone().map(|r| r.first_offset))),
        Arc::new(Int64Array::from_iter_values(each.clone().map(|r| r.last_offset))),
        Arc::new(Int32Array::from_iter_values(each.map(|r| r.revision))),
    ];
    RecordBatch::try_new(USAGE.clone(), columns).map_err(|e| SinkError::Parquet {
        doing: "built",
        name: "usage".into(),
        detail: e.to_string(),
    })
}

pub fn from_batch(batch: &RecordBatch) -> Result<Vec<UsageRow>, SinkError> {
    let columns = Columns::new("usage", batch);
    let server = columns.get::<StringArray>("server")?;
    let gpu = columns.get::<StringArray>("gpu")?;
    let minute = columns.get::<TimestampMicrosecondArray>("minute")?;
    let present = columns.get::<UInt64Array>("present")?;
    let busy = columns.get::<UInt64Array>("busy")?;
    let healthy = columns.get::<UInt64Array>("healthy")?;
    let power_min = columns.get::<Float64Array>("power_min_w")?;
    let power_max = columns.get::<Float64Array>("power_max_w")?;
    let mem_max = columns.get::<Int64Array>("mem_max_bytes")?;
    let first_at = columns.get::<TimestampMicrosecondArray>("energy_first_at")?;
    let first = columns.get::<Int64Array>("energy_first_j")?;
    let last_at = columns.get::<TimestampMicrosecondArray>("energy_last_at")?;
    let last = columns.get::<Int64Array>("energy_last_j")?;
    let xids = columns.get::<StringArray>("xids")?;
    let topic = columns.get::<StringArray>("topic")?;
    let partition = columns.get::<Int32Array>("partition")?;
    let first_offset = columns.get::<Int64Array>("first_offset")?;
    let last_offset = columns.get::<Int64Array>("last_offset")?;
    let revision = columns.get::<Int32Array>("revision")?;

    let mut names = Interner::default();
    let mut rows = Vec::with_capacity(batch.num_rows());
    for i in 0..batch.num_rows() {
        rows.push(UsageRow {
            server: names.get(server.value(i)),
            gpu: names.get(gpu.value(i)),
            minute: minute.value(i).div_euclid(MICROS_PER_MINUTE),
            present: present.value(i),
            busy: busy.value(i),
            healthy: healthy.value(i),
            power_min_w: power_min.is_valid(i).then(|| power_min.value(i)),
            power_max_w: power_max.is_valid(i).then(|| power_max.value(i)),
            mem_max_bytes: mem_max.is_valid(i).then(|| mem_max.value(i)),
            energy_first: first.is_valid(i).then(|| (first_at.value(i), first.value(i))),
            energy_last: last.is_valid(i).then(|| (last_at.value(i), last.value(i))),
            xids: if xids.is_valid(i) { read_xids(xids.value(i)) } else { BTreeMap::new() },
            topic: names.get(topic.value(i)),
            partition: partition.value(i),
            first_offset: first_offset.value(i),
            last_offset: last_offset.value(i),
            revision: revision.value(i),
        });
    }
    Ok(rows)
}

/// `79@12 119@30`: XID at the first second of the minute in which it was seen.
fn show_xids(xids: &BTreeMap<i32, u8>) -> Option<String> {
    let parts: Vec<String> = xids.iter().map(|(xid, second)| format!("{xid}@{second}")).collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}

fn read_xids(text: &str) -> BTreeMap<i32, u8> {
    text.split(' ')
        .filter_map(|part| part.split_once('@'))
        .filter_map(|(x, s)| Some((x.parse().ok()?, s.parse().ok()?)))
        .collect()
}

/// One shared copy per name.
#[derive(Default)]
pub struct Interner {
    names: std::collections::HashSet<Arc<str>>,
}

impl Interner {
    pub fn get(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        let shared: Arc<str> = Arc::from(name);
        self.names.insert(shared.clone());
        shared
    }
}

/// Columns of a batch by name and type; a file that lacks one is refused, not guessed at.
pub struct Columns<'a> {
    table: &'static str,
    batch: &'a RecordBatch,
}

impl<'a> Columns<'a> {
    pub fn new(table: &'static str, batch: &'a RecordBatch) -> Self {
        Self { table, batch }
    }

    pub fn get<T: 'static>(&self, name: &str) -> Result<&'a T, SinkError> {
        self.batch.column_by_name(name).and_then(|column| column.as_any().downcast_ref::<T>()).ok_or_else(|| {
            SinkError::Parquet {
                doing: "read",
                name: self.table.to_owned(),
                detail: format!("there is no column {name} of the expected type"),
            }
        })
    }
}
