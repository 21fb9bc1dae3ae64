//! The walk over the files: hour by hour, partition by partition, each file read once.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use arrow::array::RecordBatch;
use hydrometer_pipeline::evidence::{Evidence, FatalXid};
use hydrometer_pipeline::source::TopicPartition;
use hydrometer_pipeline::store::Database;
use hydrometer_pipeline::store::period::CLOSING;
use hydrometer_rating::history::{Lease, ServerTimeline, Span};
use hydrometer_schemas::time::{SECONDS_PER_HOUR, SECONDS_PER_MINUTE, Second, hour_floor, show_second};
use hydrometer_schemas::warehouse::Table;
use hydrometer_sinks::Warehouse;
use hydrometer_sinks::usage::from_batch;

use super::facts::{Facts, FileRow, OBJECT_COLUMNS, ObjectRow, OpenRequest, RevisionKey};
use super::money::Sums;
use super::read::{Found, Named, read};
use super::{List, Progress, Report, Tell, VerifyError, database, dues, lease_time, quarantine, rated, usage, xids};

pub(super) struct Walk<'a> {
    pub db: &'a Database,
    warehouse: &'a Warehouse,
    pub facts: &'a Facts,
    pub report: &'a mut Report,
    pub sums: Sums,
    /// (server, hour) pairs that an open request asks for.
    asked_for: HashSet<(String, Second)>,
    /// Record ids of the hour; a record's id holds its window, so it cannot come again in another hour.
    pub ids: HashSet<String>,
    /// Revisions that had a record in the hour.
    pub revisions: HashSet<RevisionKey>,
    /// What was metered in the hour, with the last minutes before it and the fatal XIDs on record: by partition.
    evidence: BTreeMap<TopicPartition, Evidence>,
    /// Fatal XIDs on record that the minutes were held against.
    pub xids: BTreeSet<FatalXid>,
    pub unknown: u64,
    pub leakage: u64,
}

/// What there is of one partition's hour.
pub(super) struct Work<'a> {
    pub hour: Second,
    pub partition: &'a TopicPartition,
    pub usage: Vec<&'a FileRow>,
    pub rated: Vec<&'a FileRow>,
    /// Rated objects that are in no file yet.
    pub loose: Vec<&'a ObjectRow>,
    /// Leases of servers at home here that touch the hour.
    pub leases: Vec<(&'a ServerTimeline, &'a Lease)>,
}

impl Work<'_> {
    pub fn span(&self) -> Span {
        Span { from: self.hour, to: self.hour + SECONDS_PER_HOUR }
    }
}

pub(super) async fn check(
    db: &Database,
    warehouse: &Warehouse,
    facts: &Facts,
    report: &mut Report,
    tell: Tell<'_>,
) -> Result<Sums, VerifyError> {
    let mut walk = Walk {
        db,
        warehouse,
        facts,
        report,
        sums: Sums::default(),
        asked_for: HashSet::new(),
        ids: HashSet::new(),
        revisions: HashSet::new(),
        evidence: BTreeMap::new(),
        xids: BTreeSet::new(),
        unknown: 0,
        leakage: 0,
    };
    walk.note_requests().await?;
    let hours = hours(facts);
    let mut upcoming: Vec<(&ServerTimeline, &Lease)> = facts
        .history
        .servers()
        .flat_map(|timeline| timeline.leases.iter().map(move |lease| (timeline, lease)))
        .collect();
    upcoming.sort_by_key(|(_, lease)| std::cmp::Reverse(lease.span.from));
    let mut active: Vec<(&ServerTimeline, &Lease)> = Vec::new();
    for (done, (&hour, named)) in hours.iter().enumerate() {
        tell(Progress { check: "hours", done, of: hours.len() });
        while let Some(lease) = upcoming.pop_if(|(_, lease)| lease.span.from < hour + SECONDS_PER_HOUR) {
            active.push(lease);
        }
        active.retain(|(_, lease)| lease.span.to > hour);
        walk.hour(hour, named, &active).await?;
    }
    xids::never_metered(&mut walk);
    dues::files(&mut walk).await?;
    quarantine::check(&mut walk, tell).await?;
    let Walk { report, sums, unknown, leakage, .. } = walk;
    for (name, total) in [("unknown", unknown), ("leakage", leakage)] {
        report.lists.push(List { name, unit: "seconds", total, entries: Vec::new() });
    }
    Ok(sums)
}

/// What is named of an hour.
#[derive(Default)]
struct OfHour<'a> {
    files: Vec<&'a FileRow>,
    loose: Vec<&'a ObjectRow>,
}

/// Every hour that has files, staged records or a lease behind the frontier of its home.
fn hours(facts: &Facts) -> BTreeMap<Second, OfHour<'_>> {
    let mut hours: BTreeMap<Second, OfHour<'_>> = BTreeMap::new();
    // Files of closings are no hour's.
    let of_hours = |file: &&FileRow| file.table != Some(Table::Quarantine) && *file.partition.topic != *CLOSING;
    for file in facts.files.iter().filter(of_hours) {
        hours.entry(file.hour).or_default().files.push(file);
    }
    for object in facts.objects.iter().filter(|object| object.kind == "rated" && !object.filed) {
        hours.entry(object.hour.unwrap_or(0)).or_default().loose.push(object);
    }
    let frontier = facts.stands.values().filter(|stand| stand.telemetry).map(|stand| stand.frontier).max().unwrap_or(0);
    let leased: BTreeSet<Second> = facts
        .history
        .servers()
        .flat_map(|timeline| &timeline.leases)
        .flat_map(|lease| {
            let (first, end) = (hour_floor(lease.span.from), lease.span.to.min(frontier));
            (first..end).step_by(SECONDS_PER_HOUR as usize)
        })
        .collect();
    let listed = facts.unrated.keys().chain(facts.revisions.keys()).copied();
    for hour in leased.into_iter().chain(listed) {
        hours.entry(hour).or_default();
    }
    hours
}

impl<'a> Walk<'a> {
    async fn hour(
        &mut self,
        hour: Second,
        named: &OfHour<'a>,
        active: &[(&'a ServerTimeline, &'a Lease)],
    ) -> Result<(), VerifyError> {
        self.ids.clear();
        self.revisions.clear();
        self.evidence.values_mut().for_each(|evidence| evidence.forget_before(hour));
        let facts = self.facts;
        let mut works: BTreeMap<&TopicPartition, Work<'_>> = BTreeMap::new();
        let empty = |partition| Work {
            hour,
            partition,
            usage: Vec::new(),
            rated: Vec::new(),
            loose: Vec::new(),
            leases: Vec::new(),
        };
        for &file in &named.files {
            let work = works.entry(&file.partition).or_insert_with(|| empty(&file.partition));
            if file.table == Some(Table::Usage) { &mut work.usage } else { &mut work.rated }.push(file);
        }
        for &object in &named.loose {
            works.entry(&object.partition).or_insert_with(|| empty(&object.partition)).loose.push(object);
        }
        for &(timeline, lease) in active {
            match facts.home(&timeline.server, hour) {
                Some(home) => works.entry(home).or_insert_with(|| empty(home)).leases.push((timeline, lease)),
                None => self.homeless(hour, timeline, lease),
            }
        }
        for work in works.into_values() {
            let metered = usage::metered(self, &work).await?;
            let records = rated::records(self, &work).await?;
            if !facts.is_frozen(work.partition, hour) {
                continue;
            }
            match (metered, records) {
                (Some(metered), Some(records)) => {
                    xids::check(self, &work, &metered);
                    lease_time::check(self, &work, &metered, &records);
                }
                // What is missing was said; nothing follows from the rest.
                _ => self.report.check("evidence").wait("hours of which a file is missing", 1),
            }
        }
        self.revised_without_a_record(hour);
        self.unrated_without_a_lease(hour, active);
        Ok(())
    }

    /// A server that has spoken nowhere is given a home when its first window is due.
    fn homeless(&mut self, hour: Second, timeline: &ServerTimeline, lease: &Lease) {
        let check = self.report.check("leased");
        if hour + SECONDS_PER_HOUR <= self.facts.must_have_home_until() {
            let subject = format!("lease {} on {}, hour {}", lease.lease, timeline.server, show_second(hour));
            check.violation(subject, "to be rated in the server's home", "the server has no home, so nobody rates it");
        } else {
            check.wait("hours of leases whose server has no home yet", 1);
        }
    }

    fn revised_without_a_record(&mut self, hour: Second) {
        let check = self.report.check("corrections");
        for (key, commit) in self.facts.revisions.get(&hour).into_iter().flatten() {
            check.count("revisions of windows", 1);
            if !self.revisions.contains(key) {
                let (lease, server, window, revision) = key;
                let subject = format!("lease {lease} on {server}, window {}, revision {revision}", show_span(*window));
                check.violation(subject, format!("a record of commit {commit}"), "none");
            }
        }
    }

    /// Time that was listed as unrated and is not leased (any more).
    fn unrated_without_a_lease(&mut self, hour: Second, active: &[(&ServerTimeline, &Lease)]) {
        let of_hour = Span { from: hour, to: hour + SECONDS_PER_HOUR };
        let open = |request: &OpenRequest| !request.object && request.span.intersect(of_hour).is_some();
        if self.facts.requests.iter().any(open) {
            return;
        }
        for row in self.facts.unrated.get(&hour).into_iter().flatten() {
            if !active.iter().any(|(_, lease)| lease.lease == row.lease) {
                let subject = format!("lease {}, slot {}, {}", row.lease, row.slot, show_span(row.span));
                self.report.check("evidence").violation(
                    subject,
                    "nothing unrated where nothing is leased",
                    "listed as unrated",
                );
            }
        }
    }

    /// Requests about late and away readings ask for the servers and hours of those readings.
    async fn note_requests(&mut self) -> Result<(), VerifyError> {
        let servers = self.facts.asked_for();
        self.asked_for = servers.into_iter().map(|(server, hour)| (server.to_owned(), hour)).collect();
        for request in self.facts.requests.iter().filter(|request| request.object) {
            let Some(object) = self.facts.objects.iter().find(|object| object.name == request.subject) else {
                continue;
            };
            // What is wrong with the object itself was said when the manifest was checked.
            let Ok(bytes) = self.warehouse.read(&object.name).await else { continue };
            for batch in hydrometer_sinks::parquet::decode(&object.name, bytes)? {
                for row in from_batch(&batch)? {
                    self.asked_for.insert((row.server.to_string(), hour_floor(row.minute * SECONDS_PER_MINUTE)));
                }
            }
        }
        Ok(())
    }

    /// The evidence of a partition, which minutes are added to hour by hour.
    pub fn evidence_of(&mut self, partition: &TopicPartition, hour: Second) -> &mut Evidence {
        let facts = self.facts;
        self.evidence.entry(partition.clone()).or_insert_with(|| {
            let mut evidence = Evidence::since(hour);
            facts.fatal_xids.iter().for_each(|xid| evidence.add_fatal(xid));
            evidence
        })
    }

    pub fn is_asked_for(&self, server: &str, hour: Second) -> bool {
        self.asked_for.contains(&(server.to_owned(), hour))
    }

    /// A published file's rows; nothing when it is not there or cannot be read, which is then said.
    pub async fn file(&mut self, file: &FileRow) -> Result<Option<Vec<RecordBatch>>, VerifyError> {
        let check = self.report.check("manifest");
        check.count("published files", 1);
        let named = Named { name: &file.name, rows: file.rows, bytes: file.bytes, sha256: &file.sha256 };
        match read(self.warehouse, &named, check).await? {
            Found::Batches(batches) => Ok(Some(batches)),
            Found::Unreadable => Ok(None),
            Found::Missing => {
                check.violation(&file.name, "a published file", "missing");
                Ok(None)
            }
        }
    }

    /// A staged object's rows; where it was swept in the meantime, those of the file that it went into.
    pub async fn staged(
        &mut self,
        object: &ObjectRow,
        file: Option<&str>,
    ) -> Result<Option<Vec<RecordBatch>>, VerifyError> {
        let mut bytes = self.warehouse.read(&object.name).await;
        if let (Err(_), Some(file)) = (&bytes, file) {
            bytes = self.warehouse.read(file).await;
        }
        // That an object is missing or damaged is said when the manifest is checked.
        let Ok(bytes) = bytes else { return Ok(None) };
        Ok(hydrometer_sinks::parquet::decode(&object.name, bytes).ok())
    }

    /// The frozen list of objects of a file.
    pub async fn objects_of(&self, file: &FileRow) -> Result<Vec<ObjectRow>, VerifyError> {
        let sql = format!(
            "SELECT {OBJECT_COLUMNS} FROM hydrometer.object AS o JOIN hydrometer.file_object AS f ON f.object = o.name \
             WHERE f.file = $1 ORDER BY o.name"
        );
        let rows =
            self.db.client_ref().query(&sql, &[&file.name]).await.map_err(database("reading a file's objects"))?;
        Ok(rows.iter().map(ObjectRow::read).collect())
    }
}

pub(super) fn show_span(span: Span) -> String {
    format!("[{}, {})", show_second(span.from), show_second(span.to))
}
