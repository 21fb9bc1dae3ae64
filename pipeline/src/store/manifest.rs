//! The manifest: which staged objects count, which files are owed, and which are published.

use std::collections::BTreeMap;

use hydrometer_rating::money::Amount;
use hydrometer_schemas::time::{SECONDS_PER_HOUR, Second, hour_floor, show_date, show_hour};
use hydrometer_schemas::warehouse::Table;
use hydrometer_sinks::rated::StepRow;
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use super::lease::Lease;
use super::rating::{cell_key, state_key};
use super::{StoreError, doing};
use crate::source::TopicPartition;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// Closed minutes of one hour, at home.
    Usage,
    /// Late minutes, at home.
    Late,
    /// Minutes of servers whose home is elsewhere.
    Away,
    /// Quantities of one hour, rated but without their amounts.
    Rated,
    Quarantine,
}

impl ObjectKind {
    pub fn name(self) -> &'static str {
        match self {
            ObjectKind::Usage => "usage",
            ObjectKind::Late => "late",
            ObjectKind::Away => "away",
            ObjectKind::Rated => "rated",
            ObjectKind::Quarantine => "quarantine",
        }
    }

    fn read(name: &str) -> Result<ObjectKind, StoreError> {
        [ObjectKind::Usage, ObjectKind::Late, ObjectKind::Away, ObjectKind::Rated, ObjectKind::Quarantine]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| StoreError::Row { table: "hydrometer.object", detail: format!("kind {name:?}") })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub name: String,
    pub kind: ObjectKind,
    pub partition: TopicPartition,
    /// The hour whose file it goes into; `None` where an object may span hours.
    pub hour: Option<Second>,
    pub from: Second,
    pub to: Second,
    pub rows: i64,
    pub bytes: i64,
    pub sha256: String,
}

const OBJECT_COLUMNS: &str =
    "o.name, o.kind, o.topic, o.partition, o.hour_s, o.from_s, o.to_s, o.rows, o.bytes, o.sha256";

impl Object {
    fn read(row: &Row) -> Result<Object, StoreError> {
        Ok(Object {
            name: row.get(0),
            kind: ObjectKind::read(row.get(1))?,
            partition: TopicPartition { topic: row.get::<_, &str>(2).into(), partition: row.get(3) },
            hour: row.get(4),
            from: row.get(5),
            to: row.get(6),
            rows: row.get(7),
            bytes: row.get(8),
            sha256: row.get(9),
        })
    }
}

/// A file that readers glob: published, or owed since a commit froze its list of objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    pub name: String,
    pub table: Table,
    pub partition: TopicPartition,
    pub hour: Second,
    pub revision: i32,
    pub epoch: i64,
    pub rows: Option<i64>,
    pub sha256: Option<String>,
}

const FILE_COLUMNS: &str = "f.name, f.tbl, f.topic, f.partition, f.hour_s, f.revision, f.epoch, f.rows, f.sha256";

impl File {
    fn read(row: &Row) -> Result<File, StoreError> {
        let table = Table::ALL.into_iter().find(|t| t.name() == row.get::<_, &str>(1)).ok_or_else(|| {
            StoreError::Row { table: "hydrometer.file", detail: format!("table {:?}", row.get::<_, &str>(1)) }
        })?;
        Ok(File {
            name: row.get(0),
            table,
            partition: TopicPartition { topic: row.get::<_, &str>(2).into(), partition: row.get(3) },
            hour: row.get(4),
            revision: row.get(5),
            epoch: row.get(6),
            rows: row.get(7),
            sha256: row.get(8),
        })
    }
}

/// The one name of a file: a function of what it holds, never of who writes it.
pub fn file_name(table: Table, partition: &TopicPartition, hour: Second, revision: i32) -> String {
    let suffix = if revision == 0 { String::new() } else { format!(".r{revision:06}") };
    format!(
        "{}/date={}/{}-{:04}-{}{suffix}.parquet",
        table.name(),
        show_date(hour),
        partition.topic,
        partition.partition,
        show_hour(hour)
    )
}

pub async fn insert_objects(client: &impl GenericClient, objects: &[Object], commit: Uuid) -> Result<(), StoreError> {
    if objects.is_empty() {
        return Ok(());
    }
    let text = |f: fn(&Object) -> &str| objects.iter().map(f).collect::<Vec<&str>>();
    let number = |f: fn(&Object) -> i64| objects.iter().map(f).collect::<Vec<i64>>();
    let partitions: Vec<i32> = objects.iter().map(|o| o.partition.partition).collect();
    let hours: Vec<Option<i64>> = objects.iter().map(|o| o.hour).collect();
    client
        .execute(
            "INSERT INTO hydrometer.object (name, kind, topic, partition, hour_s, from_s, to_s, rows, bytes, sha256, commit_id) \
             SELECT n, k, t, p, h, f, u, r, b, s, $1 FROM unnest($2::text[], $3::text[], $4::text[], $5::int[], $6::bigint[], \
                    $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::text[]) AS v (n, k, t, p, h, f, u, r, b, s)",
            &[
                &commit,
                &text(|o| &o.name),
                &text(|o| o.kind.name()),
                &text(|o| &o.partition.topic),
                &partitions,
                &hours,
                &number(|o| o.from),
                &number(|o| o.to),
                &number(|o| o.rows),
                &number(|o| o.bytes),
                &text(|o| &o.sha256),
            ],
        )
        .await
        .map_err(doing("naming staged objects in the manifest"))?;
    Ok(())
}

/// Freezes the lists of objects of every hour that a partition's frontier passes from `before` to `after`.
pub async fn freeze_hours(
    client: &impl GenericClient,
    before: &Lease,
    after: &Lease,
    commit: Uuid,
) -> Result<(), StoreError> {
    let (first, end) = (hour_floor(before.frontier), hour_floor(after.frontier));
    if first == end {
        return Ok(());
    }
    let partition = &before.partition;
    let rows = client
        .query(
            &format!(
                "SELECT {OBJECT_COLUMNS} FROM hydrometer.object AS o WHERE o.topic = $1 AND o.partition = $2 AND \
                   ((o.kind IN ('usage', 'rated') AND o.hour_s >= $3 AND o.hour_s < $4) \
                    OR (o.kind = 'late' AND o.retired_at IS NULL AND o.from_s < $4 AND o.to_s > $3) \
                    OR (o.kind = 'quarantine' AND o.retired_at IS NULL \
                        AND NOT EXISTS (SELECT 1 FROM hydrometer.file_object AS x WHERE x.object = o.name))) \
                 ORDER BY o.name"
            ),
            &[&&*partition.topic, &partition.partition, &first, &end],
        )
        .await
        .map_err(doing("freezing the lists of objects"))?;
    let mut files: BTreeMap<(Table, Second), Vec<String>> = BTreeMap::new();
    for row in &rows {
        let object = Object::read(row)?;
        match (object.kind, object.hour) {
            (ObjectKind::Usage, Some(hour)) => files.entry((Table::Usage, hour)).or_default().push(object.name),
            (ObjectKind::Rated, Some(hour)) => files.entry((Table::Rated, hour)).or_default().push(object.name),
            (ObjectKind::Quarantine, _) => {
                files.entry((Table::Quarantine, end - SECONDS_PER_HOUR)).or_default().push(object.name);
            }
            _ => {
                let mut hour = hour_floor(object.from).max(first);
                while hour < end.min(object.to) {
                    files.entry((Table::Usage, hour)).or_default().push(object.name.clone());
                    hour += SECONDS_PER_HOUR;
                }
            }
        }
    }
    let files: Vec<(Table, Second, i32, Vec<String>)> =
        files.into_iter().map(|((table, hour), objects)| (table, hour, 0, objects)).collect();
    insert_files(client, before, &files, commit).await
}

/// Records files as owed, each with the frozen list of its objects: (table, hour, revision, objects).
pub async fn insert_files(
    client: &impl GenericClient,
    lease: &Lease,
    files: &[(Table, Second, i32, Vec<String>)],
    commit: Uuid,
) -> Result<(), StoreError> {
    if files.is_empty() {
        return Ok(());
    }
    let failed = doing("recording owed files");
    let partition = &lease.partition;
    let names: Vec<String> = files.iter().map(|(t, h, r, _)| file_name(*t, partition, *h, *r)).collect();
    let tables: Vec<&str> = files.iter().map(|f| f.0.name()).collect();
    let hours: Vec<i64> = files.iter().map(|f| f.1).collect();
    let revisions: Vec<i32> = files.iter().map(|f| f.2).collect();
    client
        .execute(
            "INSERT INTO hydrometer.file (name, tbl, topic, partition, hour_s, revision, commit_id, epoch) \
             SELECT n, t, $1, $2, h, r, $3, $4 FROM unnest($5::text[], $6::text[], $7::bigint[], $8::int[]) AS v (n, t, h, r)",
            &[&&*partition.topic, &partition.partition, &commit, &lease.epoch, &names, &tables, &hours, &revisions],
        )
        .await
        .map_err(&failed)?;
    let mut of_file = Vec::new();
    let mut objects = Vec::new();
    for (name, file) in names.iter().zip(files) {
        for object in &file.3 {
            of_file.push(name.as_str());
            objects.push(object.as_str());
        }
    }
    client
        .execute(
            "INSERT INTO hydrometer.file_object (file, object) SELECT * FROM unnest($1::text[], $2::text[])",
            &[&of_file, &objects],
        )
        .await
        .map_err(&failed)?;
    Ok(())
}

/// Files that are owed by these partitions, oldest hour first.
pub async fn owed_files(client: &impl GenericClient, partitions: &[TopicPartition]) -> Result<Vec<File>, StoreError> {
    let (topics, numbers) = super::lease::split(partitions);
    let rows = client
        .query(
            &format!(
                "SELECT {FILE_COLUMNS} FROM hydrometer.file AS f JOIN unnest($1::text[], $2::int[]) AS k (t, p) \
                 ON f.topic = k.t AND f.partition = k.p WHERE f.published_at IS NULL ORDER BY f.hour_s, f.revision, f.name"
            ),
            &[&topics, &numbers],
        )
        .await
        .map_err(doing("looking for files that are owed"))?;
    rows.iter().map(File::read).collect()
}

pub async fn objects_of(client: &impl GenericClient, file: &str) -> Result<Vec<Object>, StoreError> {
    let rows = client
        .query(
            &format!(
                "SELECT {OBJECT_COLUMNS} FROM hydrometer.object AS o JOIN hydrometer.file_object AS x ON x.object = o.name \
                 WHERE x.file = $1 ORDER BY o.name"
            ),
            &[&file],
        )
        .await
        .map_err(doing("reading the objects of a file"))?;
    rows.iter().map(Object::read).collect()
}

pub async fn is_published(client: &impl GenericClient, file: &str) -> Result<bool, StoreError> {
    let row = client
        .query_one("SELECT EXISTS (SELECT FROM hydrometer.file WHERE name = $1 AND published_at IS NOT NULL)", &[&file])
        .await
        .map_err(doing("looking whether a file is published"))?;
    Ok(row.get(0))
}

/// Says that a file is there, and retires objects that were only waiting for it.
pub async fn mark_published(
    client: &impl GenericClient,
    file: &str,
    rows: i64,
    bytes: i64,
    sha256: &str,
) -> Result<(), StoreError> {
    // One statement: were the file there and its objects not retired, each of its rows would be there twice.
    client
        .execute(
            "WITH published AS (UPDATE hydrometer.file SET rows = $2, bytes = $3, sha256 = $4, published_at = clock_timestamp() \
                                WHERE name = $1 AND published_at IS NULL) \
             UPDATE hydrometer.object AS o SET retired_at = clock_timestamp() FROM hydrometer.file_object AS x \
             WHERE x.file = $1 AND x.object = o.name AND o.kind IN ('usage', 'rated', 'quarantine') AND o.retired_at IS NULL",
            &[&file, &rows, &bytes, &sha256],
        )
        .await
        .map_err(doing("recording a published file"))?;
    Ok(())
}

/// Retires late and away objects of a partition that nothing waits for any more: their hours are frozen and published, and every
/// request about them is done.
pub async fn retire_late(
    client: &impl GenericClient,
    partition: &TopicPartition,
    frozen: Second,
) -> Result<(), StoreError> {
    client
        .execute(
            "UPDATE hydrometer.object AS o SET retired_at = clock_timestamp() \
             WHERE o.topic = $1 AND o.partition = $2 AND o.kind IN ('late', 'away') AND o.retired_at IS NULL AND o.to_s <= $3 \
               AND NOT EXISTS (SELECT 1 FROM hydrometer.request AS r WHERE r.scope = 'object' AND r.subject = o.name AND r.done_by IS NULL) \
               AND NOT EXISTS (SELECT 1 FROM hydrometer.file_object AS x JOIN hydrometer.file AS f ON f.name = x.file \
                               WHERE x.object = o.name AND f.published_at IS NULL)",
            &[&&*partition.topic, &partition.partition, &frozen],
        )
        .await
        .map_err(doing("retiring late objects"))?;
    Ok(())
}

pub async fn object(client: &impl GenericClient, name: &str) -> Result<Option<Object>, StoreError> {
    let row = client
        .query_opt(&format!("SELECT {OBJECT_COLUMNS} FROM hydrometer.object AS o WHERE o.name = $1"), &[&name])
        .await
        .map_err(doing("looking up an object"))?;
    row.as_ref().map(Object::read).transpose()
}

/// Objects of closed and late minutes of a partition from a second on: what rebuilds the evidence of windows not yet rated.
pub async fn evidence_objects(
    client: &impl GenericClient,
    partition: &TopicPartition,
    from: Second,
) -> Result<Vec<Object>, StoreError> {
    let rows = client
        .query(
            &format!(
                "SELECT {OBJECT_COLUMNS} FROM hydrometer.object AS o WHERE o.topic = $1 AND o.partition = $2 \
                 AND o.kind IN ('usage', 'late') AND o.to_s > $3 AND o.retired_at IS NULL ORDER BY o.name"
            ),
            &[&&*partition.topic, &partition.partition, &from],
        )
        .await
        .map_err(doing("looking up evidence"))?;
    rows.iter().map(Object::read).collect()
}

/// Published files of a table, partition and hour, all revisions.
pub async fn files_of_hour(
    client: &impl GenericClient,
    table: Table,
    partition: &TopicPartition,
    hour: Second,
) -> Result<Vec<File>, StoreError> {
    let rows = client
        .query(
            &format!(
                "SELECT {FILE_COLUMNS} FROM hydrometer.file AS f WHERE f.tbl = $1 AND f.topic = $2 AND f.partition = $3 \
                 AND f.hour_s = $4 ORDER BY f.revision"
            ),
            &[&table.name(), &&*partition.topic, &partition.partition, &hour],
        )
        .await
        .map_err(doing("looking up an hour's files"))?;
    rows.iter().map(File::read).collect()
}

/// Hours for which a partition has rated files within `[from, to)`.
pub async fn rated_hours(
    client: &impl GenericClient,
    partition: &TopicPartition,
    from: Second,
    to: Second,
) -> Result<Vec<Second>, StoreError> {
    let rows = client
        .query(
            "SELECT DISTINCT hour_s FROM hydrometer.file WHERE tbl = 'rated_usage' AND topic = $1 AND partition = $2 \
             AND hour_s >= $3 AND hour_s < $4 ORDER BY 1",
            &[&&*partition.topic, &partition.partition, &hour_floor(from), &to],
        )
        .await
        .map_err(doing("looking up rated hours"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Every file and every live staged object, for readers that take one consistent cut (`client` is then a snapshot).
pub async fn all_files(client: &impl GenericClient) -> Result<Vec<(File, bool)>, StoreError> {
    let rows = client
        .query(
            &format!("SELECT {FILE_COLUMNS}, f.published_at IS NOT NULL FROM hydrometer.file AS f ORDER BY f.name"),
            &[],
        )
        .await
        .map_err(doing("reading the manifest"))?;
    rows.iter().map(|row| Ok((File::read(row)?, row.get(9)))).collect()
}

/// Objects of a kind that are in no published file yet.
pub async fn unpublished_objects(client: &impl GenericClient, kinds: &[ObjectKind]) -> Result<Vec<Object>, StoreError> {
    let kinds: Vec<&str> = kinds.iter().map(|k| k.name()).collect();
    let rows = client
        .query(
            &format!(
                "SELECT {OBJECT_COLUMNS} FROM hydrometer.object AS o WHERE o.kind = ANY ($1) AND o.retired_at IS NULL ORDER BY o.name"
            ),
            &[&kinds],
        )
        .await
        .map_err(doing("reading the manifest"))?;
    rows.iter().map(Object::read).collect()
}

/// What a commit changed, for the records of one staged object.
pub async fn steps_of(client: &impl GenericClient, object: &str) -> Result<Vec<StepRow>, StoreError> {
    let rows = client
        .query(
            "SELECT k.contract, k.renter, k.currency, k.charge, k.period_s, k.resource, s.version_from_s, s.rate, s.segment, s.supplier, \
                    k.billing_s, (s.renter_after - s.renter_before)::text, (s.supplier_after - s.supplier_before)::text, s.booked_s \
             FROM hydrometer.rating_step AS s JOIN hydrometer.rating_state AS k ON k.id = s.state WHERE s.object = $1 \
             ORDER BY k.contract, k.charge, k.period_s, k.resource, k.renter, k.currency, s.version_from_s, s.rate, s.segment, s.supplier",
            &[&object],
        )
        .await
        .map_err(doing("reading rating steps"))?;
    rows.iter()
        .map(|row| {
            Ok(StepRow {
                state: state_key(row),
                cell: cell_key(row, 6)?,
                billing: row.get(10),
                renter: Amount::parse(row.get(11))?,
                supplier: Amount::parse(row.get(12))?,
                booked: row.get(13),
            })
        })
        .collect()
}

/// Which of these names the manifest knows, and whether each is retired for long enough that no reader needs it any more.
pub async fn named_objects(
    client: &impl GenericClient,
    names: &[String],
) -> Result<BTreeMap<String, bool>, StoreError> {
    let rows = client
        .query(
            "SELECT name, retired_at IS NOT NULL AND retired_at < clock_timestamp() - interval '1 minute' \
             FROM hydrometer.object WHERE name = ANY ($1)",
            &[&names],
        )
        .await
        .map_err(doing("reading the manifest"))?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}
