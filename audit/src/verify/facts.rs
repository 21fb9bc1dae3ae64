//! What the snapshot says, read once: where partitions stand, who lives where, what is named, listed and asked for.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use hydrometer_pipeline::evidence::FatalXid;
use hydrometer_pipeline::homes::Homes;
use hydrometer_pipeline::source::TopicPartition;
use hydrometer_pipeline::store::Database;
use hydrometer_pipeline::store::home::homes;
use hydrometer_pipeline::store::period::CLOSING;
use hydrometer_rating::history::{History, Span};
use hydrometer_schemas::time::{SECONDS_PER_HOUR, Second, hour_floor};
use hydrometer_schemas::warehouse::Table;
use tokio_postgres::Row;

use super::{VerifyError, database};

/// A row of `hydrometer.partition_lease`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stand {
    pub telemetry: bool,
    pub next: i64,
    pub frontier: Second,
    pub closed_until: Second,
}

/// A row of `hydrometer.file`.
#[derive(Debug, Clone)]
pub(super) struct FileRow {
    pub name: String,
    pub table: Option<Table>,
    pub partition: TopicPartition,
    pub hour: Second,
    pub revision: i32,
    pub rows: i64,
    pub bytes: i64,
    pub sha256: String,
    pub published: bool,
}

/// A row of `hydrometer.object`.
#[derive(Debug, Clone)]
pub(super) struct ObjectRow {
    pub name: String,
    pub kind: String,
    pub partition: TopicPartition,
    pub hour: Option<Second>,
    pub rows: i64,
    pub bytes: i64,
    pub sha256: String,
    pub commit: String,
    pub retired: bool,
    /// Whether it is on a file's list.
    pub filed: bool,
}

pub(super) const OBJECT_COLUMNS: &str = "o.name, o.kind, o.topic, o.partition, o.hour_s, o.rows, o.bytes, o.sha256, o.commit_id::text, \
     o.retired_at IS NOT NULL, EXISTS (SELECT 1 FROM hydrometer.file_object AS x WHERE x.object = o.name)";

impl ObjectRow {
    pub fn read(row: &Row) -> ObjectRow {
        ObjectRow {
            name: row.get(0),
            kind: row.get(1),
            partition: partition(row, 2),
            hour: row.get(4),
            rows: row.get(5),
            bytes: row.get(6),
            sha256: row.get(7),
            commit: row.get(8),
            retired: row.get(9),
            filed: row.get(10),
        }
    }
}

pub(super) fn partition(row: &Row, at: usize) -> TopicPartition {
    TopicPartition { topic: Arc::from(row.get::<_, &str>(at)), partition: row.get(at + 1) }
}

/// A request that nobody has answered yet.
#[derive(Debug, Clone)]
pub(super) struct OpenRequest {
    pub object: bool,
    pub subject: String,
    pub span: Span,
}

/// A row of `hydrometer.unrated` that is not mended.
#[derive(Debug, Clone)]
pub(super) struct UnratedRow {
    pub lease: String,
    pub slot: i32,
    pub span: Span,
}

/// A window that was rated again: (lease, server, window, revision).
pub(super) type RevisionKey = (String, String, Span, i32);

pub(super) struct Facts {
    pub history: History,
    pub stands: BTreeMap<TopicPartition, Stand>,
    homes: Homes,
    pub files: Vec<FileRow>,
    /// Objects that are not retired, and those of closed minutes, records and quarantine that are in no file.
    pub objects: Vec<ObjectRow>,
    pub requests: Vec<OpenRequest>,
    pub unrated: BTreeMap<Second, Vec<UnratedRow>>,
    pub fatal_xids: Vec<FatalXid>,
    /// By the hour of the window, with the commit that wrote it.
    pub revisions: BTreeMap<Second, HashMap<RevisionKey, String>>,
}

impl Facts {
    pub async fn load(db: &Database, history: History) -> Result<Facts, VerifyError> {
        let query =
            async |doing: &'static str, sql: &str| db.client_ref().query(sql, &[]).await.map_err(database(doing));
        let mut facts = Facts {
            history,
            stands: BTreeMap::new(),
            homes: homes(db.client_ref()).await?,
            files: Vec::new(),
            objects: Vec::new(),
            requests: Vec::new(),
            unrated: BTreeMap::new(),
            fatal_xids: Vec::new(),
            revisions: BTreeMap::new(),
        };
        let sql = "SELECT topic, partition, role = 'telemetry', next, frontier_s, closed_until_s FROM hydrometer.partition_lease";
        for row in query("reading partition leases", sql).await? {
            let stand =
                Stand { telemetry: row.get(2), next: row.get(3), frontier: row.get(4), closed_until: row.get(5) };
            facts.stands.insert(partition(&row, 0), stand);
        }
        let sql = "SELECT topic, partition, name, tbl, hour_s, revision, rows, bytes, sha256, published_at IS NOT NULL \
                   FROM hydrometer.file ORDER BY hour_s, topic, partition, revision";
        for row in query("reading the manifest of files", sql).await? {
            let table: &str = row.get(3);
            facts.files.push(FileRow {
                partition: partition(&row, 0),
                name: row.get(2),
                table: Table::ALL.into_iter().find(|t| t.name() == table),
                hour: row.get(4),
                revision: row.get(5),
                rows: row.get::<_, Option<i64>>(6).unwrap_or(-1),
                bytes: row.get::<_, Option<i64>>(7).unwrap_or(-1),
                sha256: row.get::<_, Option<String>>(8).unwrap_or_default(),
                published: row.get(9),
            });
        }
        let sql = format!(
            "SELECT {OBJECT_COLUMNS} FROM hydrometer.object AS o WHERE o.retired_at IS NULL OR (o.kind NOT IN ('late', 'away') \
              AND NOT EXISTS (SELECT 1 FROM hydrometer.file_object AS x WHERE x.object = o.name)) ORDER BY o.name"
        );
        facts.objects = query("reading the manifest of objects", &sql).await?.iter().map(ObjectRow::read).collect();
        let sql =
            "SELECT scope = 'object', subject, from_s, to_s FROM hydrometer.request WHERE done_by IS NULL ORDER BY id";
        for row in query("reading requests", sql).await? {
            let span = Span { from: row.get(2), to: row.get(3) };
            facts.requests.push(OpenRequest { object: row.get(0), subject: row.get(1), span });
        }
        let sql = "SELECT lease, slot, from_s, to_s FROM hydrometer.unrated WHERE mended_by IS NULL ORDER BY lease, slot, from_s";
        for row in query("reading what is unrated", sql).await? {
            let span = Span { from: row.get(2), to: row.get(3) };
            let unrated = UnratedRow { lease: row.get(0), slot: row.get(1), span };
            facts.unrated.entry(hour_floor(span.from)).or_default().push(unrated);
        }
        let sql = "SELECT server, gpu, at_s, xid FROM hydrometer.fatal_xid ORDER BY 1, 2, 3, 4";
        let xids = query("reading fatal XIDs", sql).await?;
        facts.fatal_xids = xids.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
        let sql =
            "SELECT lease, server, window_start_s, window_end_s, revision, commit_id::text FROM hydrometer.revision";
        for row in query("reading revisions", sql).await? {
            let window = Span { from: row.get(2), to: row.get(3) };
            let of_hour = facts.revisions.entry(hour_floor(window.from)).or_default();
            of_hour.insert((row.get(0), row.get(1), window, row.get(4)), row.get(5));
        }
        Ok(facts)
    }

    /// Until where hours of commitments are closed.
    pub fn closed_until(&self) -> Second {
        let closing = self.stands.iter().find(|(partition, _)| *partition.topic == *CLOSING);
        closing.map_or(0, |(_, stand)| stand.frontier)
    }

    /// Where a server lives at a time.
    pub fn home(&self, server: &str, at: Second) -> Option<&TopicPartition> {
        self.homes.at(server, at)
    }

    /// Whether an hour of a partition is behind its frontier, so that its windows are rated and its files owed or published.
    pub fn is_frozen(&self, partition: &TopicPartition, hour: Second) -> bool {
        self.stands.get(partition).is_some_and(|stand| hour + SECONDS_PER_HOUR <= stand.frontier)
    }

    /// Up to where a server that has spoken nowhere must have been given a home: one round after every partition has passed it, so an
    /// hour is left for that round, except where the logs have ended.
    pub fn must_have_home_until(&self) -> Second {
        let telemetry = || self.stands.values().filter(|stand| stand.telemetry);
        let frontier = telemetry().map(|stand| stand.frontier).min().unwrap_or(0);
        let closed = telemetry().map(|stand| stand.closed_until).min().unwrap_or(0);
        if closed > frontier + 24 * SECONDS_PER_HOUR { frontier } else { frontier - SECONDS_PER_HOUR }
    }

    /// The (server, hour) pairs that an open request of its own asks for.
    pub fn asked_for(&self) -> HashSet<(&str, Second)> {
        let servers = self.requests.iter().filter(|request| !request.object);
        servers
            .flat_map(|request| {
                let hours = self.rated_hours_of(&request.subject, request.span);
                hours.into_iter().map(|hour| (request.subject.as_str(), hour))
            })
            .collect()
    }

    /// The hours of a stretch that lie behind the frontier of the server's home then; a request may reach to the end of time, files
    /// do not.
    fn rated_hours_of(&self, server: &str, asked: Span) -> BTreeSet<Second> {
        let first = self.files.first().map_or(0, |file| file.hour);
        let starts = self.history.server(server).into_iter().flat_map(|timeline| &timeline.leases).map(|l| l.span.from);
        let first = starts.min().map_or(first, |start| start.min(first));
        let mut hours = BTreeSet::new();
        for (span, home) in self.homes.spans(server) {
            let frontier = self.stands.get(home).map_or(0, |stand| stand.frontier);
            let mut hour = hour_floor(span.from.max(asked.from).max(first));
            while hour < asked.to.min(span.to).min(frontier) {
                hours.insert(hour);
                hour += SECONDS_PER_HOUR;
            }
        }
        hours
    }
}
