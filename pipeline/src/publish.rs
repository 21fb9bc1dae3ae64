//! Publishing what is owed: a frozen list of staged objects becomes one file under a deterministic name. A pure function of what was
//! committed, so a second publisher writes the same bytes and does no harm.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use hydrometer_rating::history::{ServerTimeline, Span};
use hydrometer_rating::keys::CellKey;
use hydrometer_rating::money::Amount;
use hydrometer_rating::quantities::Quantity;
use hydrometer_rating::terms::RateId;
use hydrometer_schemas::time::{SECONDS_PER_HOUR, SECONDS_PER_MINUTE, Second};
use hydrometer_schemas::warehouse::Table;
use hydrometer_sinks::rated::{RatedRow, RecordKind, StepRow, fill_amounts};
use hydrometer_sinks::usage::{UsageKey, UsageRow, merged};
use hydrometer_sinks::{SinkError, Warehouse, parquet, quarantine, rated, usage};

use crate::evidence::{Evidence, LOOK_BACK_HOURS};
use crate::failpoint;
use crate::source::TopicPartition;
use crate::store::Database;
use crate::store::closing::{self, DueStep};
use crate::store::manifest::{self, File, Object, ObjectKind};
use crate::store::period::CLOSING;
use crate::worker::WorkerError;

/// How many files are made at once; each holds the rows of its hour in memory.
const AT_ONCE: usize = 2;

/// Publishes every file that these partitions owe; returns how many.
pub async fn publish_owed(
    db: &Database,
    warehouse: &Warehouse,
    partitions: &[TopicPartition],
) -> Result<usize, WorkerError> {
    let owed = manifest::owed_files(db.client_ref(), partitions).await?;
    let publishing = owed.iter().map(|file| publish_file(db, warehouse, file));
    futures::stream::iter(publishing).buffered(AT_ONCE).try_collect::<Vec<()>>().await?;
    Ok(owed.len())
}

async fn publish_file(db: &Database, warehouse: &Warehouse, file: &File) -> Result<(), WorkerError> {
    let kind = kind_of(file);
    failpoint::pass(format_args!("publish.{kind}.before"));
    let objects = manifest::objects_of(db.client_ref(), &file.name).await?;
    let (bytes, rows) = match content(db, warehouse, file, &objects).await {
        Ok(content) => content,
        // Whoever has published it meanwhile has retired its objects, and they may be swept: then nothing is owed any more.
        Err(_) if manifest::is_published(db.client_ref(), &file.name).await? => return Ok(()),
        Err(error) => return Err(error),
    };
    failpoint::pass(format_args!("publish.{kind}.made"));
    let staged = || failpoint::pass(format_args!("publish.{kind}.staged"));
    let published = warehouse.publish_noting(&file.name, bytes, staged).await?;
    failpoint::pass(format_args!("publish.{kind}.written"));
    let size = i64::try_from(published.bytes).unwrap_or(i64::MAX);
    manifest::mark_published(db.client_ref(), &file.name, rows as i64, size, &published.sha256).await?;
    failpoint::pass(format_args!("publish.{kind}.after"));
    Ok(())
}

/// The kind of commit that owes a file: an hour that was frozen, a revision, or quarantine of a lifecycle partition, which has no
/// revisions and numbers its files by rounds.
fn kind_of(file: &File) -> &'static str {
    match (file.table, file.revision) {
        _ if *file.partition.topic == *CLOSING => "closing",
        (_, 0) => "live",
        (Table::Quarantine, _) => "lifecycle",
        _ => "revision",
    }
}

/// The bytes of a file and its number of rows.
async fn content(
    db: &Database,
    warehouse: &Warehouse,
    file: &File,
    objects: &[Object],
) -> Result<(Bytes, usize), WorkerError> {
    if *file.partition.topic == *CLOSING {
        return closing_content(db, file).await;
    }
    let mut parts = Vec::new();
    for object in objects {
        let bytes = warehouse.read_checked(&object.name, &object.sha256).await?;
        let steps = match file.table {
            Table::Rated => manifest::steps_of(db.client_ref(), &object.name).await?,
            Table::Usage | Table::Quarantine => Vec::new(),
        };
        parts.push(Part { name: object.name.clone(), bytes, steps });
    }
    let file = file.clone();
    tokio::task::spawn_blocking(move || merge(&file, parts)).await?
}

/// What a closing booked, as rated records. Nothing is staged for it: its steps are rows of the commit point.
async fn closing_content(db: &Database, file: &File) -> Result<(Bytes, usize), WorkerError> {
    let mut rows = closing_records(db, &file.name).await?;
    rows.sort_by_cached_key(RatedRow::sort_key);
    let bytes = parquet::encode(&file.name, file.table.schema(), &rated::to_batch(&rows)?, file.epoch)?;
    Ok((bytes, rows.len()))
}

/// The records of a closing's file.
pub async fn closing_records(db: &Database, file: &str) -> Result<Vec<RatedRow>, WorkerError> {
    let steps = closing::steps_of(db.client_ref(), file).await?;
    steps.into_iter().map(|(step, commit, revision)| record(step, commit, revision)).collect()
}

fn record(step: DueStep, commit: String, revision: i32) -> Result<RatedRow, WorkerError> {
    let DueStep { key, end, booked, before, after, .. } = step;
    let difference = |after: Amount, before| after.checked_sub(before).map_err(SinkError::from);
    Ok(RatedRow {
        contract: key.contract,
        charge: key.charge,
        renter: key.renter,
        currency: key.currency,
        lease: None,
        server: None,
        slot: None,
        gpu: None,
        window: Span { from: key.period, to: end },
        period: key.billing,
        ladder: key.period,
        resource: key.subject,
        cell: CellKey { version_from: key.version_from, rate: RateId(0), segment: 0, supplier: key.supplier },
        price: None,
        share: None,
        basis: String::new(),
        quantity: Quantity::default(),
        kind: RecordKind::Due(key.kind),
        renter_amount: difference(after.0, before.0)?,
        supplier_amount: difference(after.1, before.1)?,
        booked,
        partition: 0,
        revision,
        commit,
    })
}

/// A staged object as it was read, with the steps that price its records.
struct Part {
    name: String,
    bytes: Bytes,
    steps: Vec<StepRow>,
}

fn merge(file: &File, parts: Vec<Part>) -> Result<(Bytes, usize), WorkerError> {
    let batch = match file.table {
        Table::Usage => {
            let mut rows = Vec::new();
            for part in parts {
                rows.extend(decode_usage(&part.name, part.bytes)?.into_iter().filter(|row| in_hour(row, file.hour)));
            }
            usage::to_batch(merged(rows).values())?
        }
        Table::Rated => {
            let mut rows = Vec::new();
            for part in parts {
                rows.extend(fill_amounts(decode_rated(&part.name, part.bytes)?, &part.steps)?);
            }
            rows.sort_by_cached_key(RatedRow::sort_key);
            rated::to_batch(&rows)?
        }
        Table::Quarantine => {
            let mut rows = Vec::new();
            for part in parts {
                rows.extend(decode_quarantine(&part.name, part.bytes)?);
            }
            rows.sort();
            quarantine::to_batch(&rows)?
        }
    };
    let bytes = parquet::encode(&file.name, file.table.schema(), &batch, file.epoch)?;
    Ok((bytes, batch.num_rows()))
}

fn decode_usage(name: &str, bytes: Bytes) -> Result<Vec<UsageRow>, SinkError> {
    let batches = parquet::decode(name, bytes)?;
    batches.iter().try_fold(Vec::new(), |mut rows, batch| {
        rows.extend(usage::from_batch(batch)?);
        Ok(rows)
    })
}

fn decode_rated(name: &str, bytes: Bytes) -> Result<Vec<RatedRow>, SinkError> {
    let batches = parquet::decode(name, bytes)?;
    batches.iter().try_fold(Vec::new(), |mut rows, batch| {
        rows.extend(rated::from_batch(batch)?);
        Ok(rows)
    })
}

fn decode_quarantine(name: &str, bytes: Bytes) -> Result<Vec<quarantine::QuarantineRow>, SinkError> {
    let batches = parquet::decode(name, bytes)?;
    batches.iter().try_fold(Vec::new(), |mut rows, batch| {
        rows.extend(quarantine::from_batch(batch)?);
        Ok(rows)
    })
}

fn in_hour(row: &UsageRow, hour: i64) -> bool {
    let second = row.minute * SECONDS_PER_MINUTE;
    hour <= second && second < hour + SECONDS_PER_HOUR
}

/// A staged object's usage rows.
pub async fn usage_rows(warehouse: &Warehouse, object: &Object) -> Result<Vec<UsageRow>, WorkerError> {
    let bytes = warehouse.read_checked(&object.name, &object.sha256).await?;
    Ok(decode_usage(&object.name, bytes)?)
}

/// A staged object's rated rows, with their amounts.
pub async fn rated_rows(db: &Database, warehouse: &Warehouse, object: &Object) -> Result<Vec<RatedRow>, WorkerError> {
    let bytes = warehouse.read_checked(&object.name, &object.sha256).await?;
    let steps = manifest::steps_of(db.client_ref(), &object.name).await?;
    Ok(fill_amounts(decode_rated(&object.name, bytes)?, &steps)?)
}

pub async fn quarantine_rows(
    warehouse: &Warehouse,
    object: &Object,
) -> Result<Vec<quarantine::QuarantineRow>, WorkerError> {
    let bytes = warehouse.read_checked(&object.name, &object.sha256).await?;
    Ok(decode_quarantine(&object.name, bytes)?)
}

/// What the published files of an hour say: metered minutes, merged over all revisions.
pub async fn published_usage(
    db: &Database,
    warehouse: &Warehouse,
    partition: &TopicPartition,
    hour: i64,
) -> Result<BTreeMap<UsageKey, UsageRow>, WorkerError> {
    let mut rows = Vec::new();
    for file in manifest::files_of_hour(db.client_ref(), Table::Usage, partition, hour).await? {
        let Some(sha256) = &file.sha256 else { continue };
        let bytes = warehouse.read_checked(&file.name, sha256).await?;
        rows.extend(decode_usage(&file.name, bytes)?);
    }
    Ok(merged(rows))
}

/// What the published files of an hour say: rated records, all revisions.
pub async fn published_rated(
    db: &Database,
    warehouse: &Warehouse,
    partition: &TopicPartition,
    hour: i64,
) -> Result<Vec<RatedRow>, WorkerError> {
    let mut rows = Vec::new();
    for file in manifest::files_of_hour(db.client_ref(), Table::Rated, partition, hour).await? {
        let Some(sha256) = &file.sha256 else { continue };
        let bytes = warehouse.read_checked(&file.name, sha256).await?;
        rows.extend(decode_rated(&file.name, bytes)?);
    }
    Ok(rows)
}

/// Gives evidence the last metered minute before `hour` of every GPU that sits on these servers: counters and XIDs are read against
/// it. Looks back from hour to hour until all are found, and no further than a counter's gap is bridged.
pub async fn look_back<'a>(
    db: &Database,
    warehouse: &Warehouse,
    partition: &TopicPartition,
    hour: Second,
    servers: impl Iterator<Item = &'a ServerTimeline>,
    evidence: &mut Evidence,
) -> Result<(), WorkerError> {
    let mut sought: BTreeSet<(&str, &str)> = BTreeSet::new();
    for server in servers {
        let seats = server.occupancy.values().flatten().filter(|seat| seat.span.from < hour);
        sought.extend(seats.map(|seat| (server.server.as_str(), seat.gpu.as_str())));
    }
    for hours in 1..=LOOK_BACK_HOURS {
        sought.retain(|(server, gpu)| !evidence.knows_before(server, gpu));
        if sought.is_empty() {
            return Ok(());
        }
        let earlier = hour - hours * SECONDS_PER_HOUR;
        for row in published_usage(db, warehouse, partition, earlier).await?.values() {
            if sought.contains(&(&*row.server, &*row.gpu)) {
                evidence.add(row);
            }
        }
    }
    Ok(())
}

/// Parts of publications belong to no attempt; nobody writes one for as long as this.
const PART_AGE_MAX: Duration = Duration::from_secs(24 * 3_600);

/// Removes staged objects that nothing needs: retired ones after a grace period for readers, and leavings of attempts that never
/// committed. Lists first, then asks the manifest, so that what a slow committer is just naming is never taken for a leaving.
pub async fn sweep(
    db: &Database,
    warehouse: &Warehouse,
    own_finished: &dyn Fn(&str) -> bool,
) -> Result<usize, WorkerError> {
    let mut removed = 0;
    for part in warehouse.old_parts(PART_AGE_MAX).await? {
        warehouse.delete(&part).await?;
        removed += 1;
    }
    let halves = warehouse.halves()?;
    let listed = warehouse.list(hydrometer_sinks::store::STAGING).await?;
    if listed.is_empty() && halves.is_empty() {
        return Ok(removed);
    }
    let epochs: BTreeMap<TopicPartition, i64> =
        db.leases().await?.into_iter().map(|(lease, _)| (lease.partition.clone(), lease.epoch)).collect();
    let is_over = |staged: &StagedName| {
        let current = epochs.get(&staged.partition).copied().unwrap_or(0);
        crate::protocol::may_sweep(staged.epoch, current, own_finished(&staged.attempt))
    };
    for (half, age) in halves {
        // Nothing names a half: whose attempt is over, or who wrote it long ago, does not finish it.
        if StagedName::read(&half).map_or(age > PART_AGE_MAX, |staged| is_over(&staged)) {
            failpoint::pass("sweep.before");
            warehouse.delete_half(&half)?;
            removed += 1;
        }
    }
    let named = manifest::named_objects(db.client_ref(), &listed).await?;
    for name in listed {
        let remove = match named.get(&name) {
            Some(retired) => *retired,
            None => StagedName::read(&name).is_some_and(|staged| is_over(&staged)),
        };
        if remove {
            failpoint::pass("sweep.before");
            warehouse.delete(&name).await?;
            failpoint::pass("sweep.after");
            removed += 1;
        }
    }
    Ok(removed)
}

/// The name of a staged object: `staging/ATTEMPT/TOPIC@PARTITION@eEPOCH@KIND[-HOUR].parquet`. It tells the sweeper whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagedName {
    pub attempt: String,
    pub partition: TopicPartition,
    pub epoch: i64,
}

impl StagedName {
    pub fn write(&self, kind: ObjectKind, hour: Option<i64>) -> String {
        let hour = hour.map(|h| format!("-{}", hydrometer_schemas::time::show_hour(h))).unwrap_or_default();
        format!(
            "{}/{}/{}@{}@e{}@{}{hour}.parquet",
            hydrometer_sinks::store::STAGING,
            self.attempt,
            self.partition.topic,
            self.partition.partition,
            self.epoch,
            kind.name()
        )
    }

    pub fn read(name: &str) -> Option<StagedName> {
        let rest = name.strip_prefix(hydrometer_sinks::store::STAGING)?.strip_prefix('/')?;
        let (attempt, file) = rest.split_once('/')?;
        let mut parts = file.split('@');
        let topic = parts.next()?;
        let partition = parts.next()?.parse().ok()?;
        let epoch = parts.next()?.strip_prefix('e')?.parse().ok()?;
        Some(StagedName {
            attempt: attempt.to_owned(),
            partition: TopicPartition { topic: topic.into(), partition },
            epoch,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_staged_name_tells_whose_it_is() {
        let name = StagedName {
            attempt: "a1".into(),
            partition: TopicPartition { topic: "gpu.telemetry".into(), partition: 3 },
            epoch: 17,
        };
        let written = name.write(ObjectKind::Usage, Some(0));
        assert_eq!(written, "staging/a1/gpu.telemetry@3@e17@usage-1970-01-01T00.parquet");
        assert_eq!(StagedName::read(&written), Some(name));
        assert_eq!(StagedName::read("staging/probe-1"), None);
    }
}
