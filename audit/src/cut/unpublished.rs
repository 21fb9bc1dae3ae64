//! The part of a table that is committed and in no published file yet.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::RecordBatch;
use datafusion::object_store;
use hydrometer_pipeline::publish::{closing_records, quarantine_rows, rated_rows, usage_rows};
use hydrometer_pipeline::source::TopicPartition;
use hydrometer_pipeline::store::home::homes;
use hydrometer_pipeline::store::manifest::{self, Object, ObjectKind};
use hydrometer_pipeline::store::period::CLOSING;
use hydrometer_pipeline::worker::WorkerError;
use hydrometer_schemas::time::{SECONDS_PER_MINUTE, Second, hour_floor};
use hydrometer_schemas::warehouse::Table;
use hydrometer_sinks::rated::{self, RatedRow};
use hydrometer_sinks::usage::{self, UsageKey, UsageRow, merged};
use hydrometer_sinks::{SinkError, parquet, quarantine};
use tokio_postgres::Client;

use super::CutError;
use super::warehouse::Source;

/// Committed objects whose rows are not, or not all, in a published file. A file is marked as published a moment before its objects
/// are retired, so membership in a published file decides, not retirement. Late and away objects may be in the files of some hours
/// and not of others; what of them is published is taken out bit by bit.
pub async fn objects(client: &Client) -> Result<Vec<Object>, CutError> {
    let kinds = [ObjectKind::Usage, ObjectKind::Late, ObjectKind::Away, ObjectKind::Rated, ObjectKind::Quarantine];
    let live = manifest::unpublished_objects(client, &kinds).await?;
    let rows = client
        .query(
            "SELECT DISTINCT x.object FROM hydrometer.file_object AS x \
             JOIN hydrometer.file AS f ON f.name = x.file AND f.published_at IS NOT NULL \
             JOIN hydrometer.object AS o ON o.name = x.object \
             WHERE o.retired_at IS NULL AND o.kind IN ('usage', 'rated', 'quarantine')",
            &[],
        )
        .await?;
    let published: BTreeSet<String> = rows.iter().map(|row| row.get(0)).collect();
    Ok(live.into_iter().filter(|object| !published.contains(&object.name)).collect())
}

/// Files of closings that are not published yet: what fell due is committed, and told from the commit point until then.
pub async fn closings(client: &Client) -> Result<Vec<String>, CutError> {
    let sql = "SELECT name FROM hydrometer.file WHERE topic = $1 AND tbl = 'rated_usage' AND published_at IS NULL ORDER BY name";
    Ok(client.query(sql, &[&CLOSING]).await?.iter().map(|row| row.get(0)).collect())
}

pub async fn read(source: &Source, table: Table) -> Result<RecordBatch, CutError> {
    match table {
        Table::Usage => usage(source).await,
        Table::Rated => {
            let mut rows = Vec::new();
            for object in of_kinds(source, &[ObjectKind::Rated]) {
                rows.extend(rated_rows(&source.db, &source.warehouse, object).await.map_err(stale)?);
            }
            for file in &source.closings {
                rows.extend(closing_records(&source.db, file).await?);
            }
            rows.sort_by_cached_key(RatedRow::sort_key);
            Ok(rated::to_batch(&rows)?)
        }
        Table::Quarantine => {
            let mut rows = Vec::new();
            for object in of_kinds(source, &[ObjectKind::Quarantine]) {
                rows.extend(quarantine_rows(&source.warehouse, object).await.map_err(stale)?);
            }
            rows.sort();
            Ok(quarantine::to_batch(&rows)?)
        }
    }
}

fn of_kinds<'a>(source: &'a Source, kinds: &'a [ObjectKind]) -> impl Iterator<Item = &'a Object> {
    source.objects.iter().filter(|object| kinds.contains(&object.kind))
}

async fn usage(source: &Source) -> Result<RecordBatch, CutError> {
    let mut rows = Vec::new();
    for object in of_kinds(source, &[ObjectKind::Usage, ObjectKind::Late, ObjectKind::Away]) {
        rows.extend(usage_rows(&source.warehouse, object).await.map_err(stale)?);
    }
    let staged = merged(rows);
    let published = published_minutes(source, &staged).await?;
    Ok(usage::to_batch(remainder(staged, &published).iter())?)
}

/// What published files say about the minutes of staged rows: only the files of those hours are read, of the servers' homes and of
/// the partitions in which the rows arrived.
async fn published_minutes(
    source: &Source,
    staged: &BTreeMap<UsageKey, UsageRow>,
) -> Result<BTreeMap<UsageKey, UsageRow>, CutError> {
    let homes = homes(source.db.client_ref()).await?;
    let mut wanted: BTreeSet<(TopicPartition, Second)> = BTreeSet::new();
    for row in staged.values() {
        let hour = hour_floor(row.minute * SECONDS_PER_MINUTE);
        wanted.insert((TopicPartition { topic: row.topic.clone(), partition: row.partition }, hour));
        if let Some(home) = homes.at(&row.server, hour) {
            wanted.insert((home.clone(), hour));
        }
    }
    let mut rows = Vec::new();
    for file in source.files.iter().filter(|file| file.table == Table::Usage) {
        if !wanted.contains(&(file.partition.clone(), file.hour)) {
            continue;
        }
        let bytes = source.warehouse.read_checked(&file.name, &file.sha256).await?;
        for batch in parquet::decode(&file.name, bytes)? {
            rows.extend(usage::from_batch(&batch)?.into_iter().filter(|row| staged.contains_key(&row.key())));
        }
    }
    Ok(merged(rows))
}

/// Staged minutes less the bits that published rows hold already; minutes that have nothing left are gone.
fn remainder(staged: BTreeMap<UsageKey, UsageRow>, published: &BTreeMap<UsageKey, UsageRow>) -> Vec<UsageRow> {
    staged
        .into_iter()
        .filter_map(|(key, mut row)| {
            if let Some(known) = published.get(&key) {
                row.present &= !known.present;
                row.busy &= !known.busy;
                row.healthy &= !known.healthy;
            }
            (row.present | row.busy | row.healthy != 0).then_some(row)
        })
        .collect()
}

/// A cut that is kept for longer than the grace period of staged objects can lose them.
fn stale(error: WorkerError) -> CutError {
    let missing =
        matches!(&error, WorkerError::Sink(SinkError::Store { source: object_store::Error::NotFound { .. }, .. }));
    if missing {
        CutError::Refused {
            what: format!("a staged object of this cut is gone ({error})"),
            hint: "it was published and swept since the cut was taken; run the command again".to_owned(),
        }
    } else {
        error.into()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn row(gpu: &str, minute: i64, present: u64, busy: u64) -> UsageRow {
        UsageRow {
            server: Arc::from("srv"),
            gpu: Arc::from(gpu),
            minute,
            present,
            busy,
            healthy: present,
            power_min_w: None,
            power_max_w: None,
            mem_max_bytes: None,
            energy_first: None,
            energy_last: None,
            xids: BTreeMap::new(),
            topic: Arc::from("t"),
            partition: 0,
            first_offset: 0,
            last_offset: 9,
            revision: 0,
        }
    }

    #[test]
    fn no_second_is_counted_twice() {
        // The same minute as a closed one, as a late one and as an away one; a part of it is published.
        let staged = merged([
            row("a", 1, 0b0111, 0b0001),
            row("a", 1, 0b1100, 0b1000),
            row("a", 1, 0b0111, 0),
            row("b", 1, 1, 1),
        ]);
        let published = merged([row("a", 1, 0b0011, 0b0001), row("b", 1, 1, 1), row("c", 1, 1, 1)]);
        let rest = remainder(staged.clone(), &published);
        assert_eq!(rest.len(), 1, "what is published wholly is gone");
        assert_eq!((rest[0].present, rest[0].busy, rest[0].healthy), (0b1100, 0b1000, 0b1100));
        assert_eq!(remainder(staged, &BTreeMap::new()).len(), 2);
    }
}
