//! What one partition brings to a round, as the objects that are staged for it.

use arrow::array::RecordBatch;
use bytes::Bytes;
use hydrometer_schemas::time::{SECONDS_PER_MINUTE, Second, second_of};
use hydrometer_schemas::warehouse::Table;
use hydrometer_sinks::rated::{self, RatedRow};
use hydrometer_sinks::usage::{self, UsageRow};
use hydrometer_sinks::{parquet, quarantine};
use uuid::Uuid;

use super::WorkerError;
use super::round::{Prepared, Share};
use crate::derive::added;
use crate::publish::StagedName;
use crate::store::commit::{CommitKind, RoundCommit};
use crate::store::lease::Lease;
use crate::store::manifest::{Object, ObjectKind};
use crate::store::period::{Uses, uses};
use crate::store::rating::ObjectQuantities;
use crate::store::timeline::{Request, Scope};

/// What an object of rated records adds to the rating states and to the leases' use.
#[derive(Debug)]
pub(super) struct Added {
    quantities: ObjectQuantities,
    uses: Uses,
}

pub(super) type StagedObject = (Object, Option<Added>);

/// For whom and under which attempt objects are staged.
pub(super) struct Staging {
    pub attempt: Uuid,
    pub kind: CommitKind,
    pub lease: Lease,
    pub revision: i32,
}

/// An object that is not written yet: `object` lacks its size and checksum.
pub(super) struct Encoded {
    pub object: Object,
    pub bytes: Bytes,
    pub added: Option<Added>,
}

impl Staging {
    pub fn encode(&self, share: &Share) -> Result<Vec<Encoded>, WorkerError> {
        let mut encoded = Vec::new();
        for (hour, rows) in &share.usage {
            encoded.push(match self.kind {
                CommitKind::Live => self.usage(ObjectKind::Usage, Some(*hour), rows)?,
                CommitKind::Revision => {
                    let revised = |row: &UsageRow| UsageRow { revision: self.revision, ..row.clone() };
                    let rows: Vec<UsageRow> = rows.iter().map(revised).collect();
                    self.usage(ObjectKind::Usage, Some(*hour), &rows)?
                }
            });
        }
        for (kind, rows) in [(ObjectKind::Late, &share.late), (ObjectKind::Away, &share.away)] {
            if !rows.is_empty() {
                encoded.push(self.usage(kind, None, rows)?);
            }
        }
        if !share.quarantine.is_empty() {
            let rows = &share.quarantine;
            let span = span(rows.iter().map(|r| (second_of(r.log_time), second_of(r.log_time) + 1)));
            let batch = quarantine::to_batch(rows)?;
            encoded.push(self.object(ObjectKind::Quarantine, None, span, Table::Quarantine, &batch)?);
        }
        for (hour, rows) in &share.derived.rows {
            let mut rows = rows.clone();
            for row in &mut rows {
                row.commit = self.attempt.to_string();
            }
            rows.sort_by_cached_key(RatedRow::sort_key);
            let span = span(rows.iter().map(|r| (r.window.from, r.window.to)));
            let batch = rated::to_batch(&rows)?;
            let object = self.object(ObjectKind::Rated, Some(*hour), span, Table::Rated, &batch)?;
            let quantities = added(&object.object.name, &rows, &share.derived);
            encoded.push(Encoded { added: Some(Added { quantities, uses: uses(&rows) }), ..object });
        }
        Ok(encoded)
    }

    fn usage(&self, kind: ObjectKind, hour: Option<Second>, rows: &[UsageRow]) -> Result<Encoded, WorkerError> {
        let minute = |row: &UsageRow| (row.minute * SECONDS_PER_MINUTE, (row.minute + 1) * SECONDS_PER_MINUTE);
        self.object(kind, hour, span(rows.iter().map(minute)), Table::Usage, &usage::to_batch(rows.iter())?)
    }

    fn object(
        &self,
        kind: ObjectKind,
        hour: Option<Second>,
        (from, to): (Second, Second),
        table: Table,
        batch: &RecordBatch,
    ) -> Result<Encoded, WorkerError> {
        let (attempt, partition) = (self.attempt.to_string(), self.lease.partition.clone());
        let name = StagedName { attempt, partition: partition.clone(), epoch: self.lease.epoch }.write(kind, hour);
        let bytes = parquet::encode(&name, table.schema(), batch, self.lease.epoch)?;
        let rows = batch.num_rows() as i64;
        let object = Object { name, kind, partition, hour, from, to, rows, bytes: 0, sha256: String::new() };
        Ok(Encoded { object, bytes, added: None })
    }
}

fn span(of: impl Iterator<Item = (Second, Second)>) -> (Second, Second) {
    of.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or((0, 0))
}

impl RoundCommit {
    /// Takes in what was staged for a share: the object, the requests about it, its quantities, and the file that a revision owes.
    pub(super) fn take(&mut self, index: usize, object: Object, added: Option<Added>, prepared: &Prepared) {
        let about = prepared.object_requests.iter().filter(|r| r.0 == index && r.1 == object.kind);
        for (_, kind, home, from, to) in about {
            self.requests.push(Request {
                partition: home.clone(),
                scope: Scope::Object(object.name.clone()),
                from: *from,
                to: *to,
                cause: format!("{} readings", kind.name()),
            });
        }
        if let Some(Added { quantities, uses }) = added {
            self.quantities.push(quantities);
            for (key, used) in uses {
                let sum = self.uses.entry(key).or_default();
                *sum = sum.plus(used);
            }
        }
        let table = match object.kind {
            ObjectKind::Usage => Some(Table::Usage),
            ObjectKind::Rated => Some(Table::Rated),
            _ => None,
        };
        if self.kind == CommitKind::Revision
            && let (Some(table), Some(hour), Some(after)) = (table, object.hour, prepared.after.get(index))
        {
            self.files.push((index, table, hour, after.revision, vec![object.name.clone()]));
        }
        self.objects.push(object);
    }
}
