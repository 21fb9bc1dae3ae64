//! Metered minutes of one partition and hour: unique, disjoint between revisions, at home (law 1).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Int32Array, RecordBatch};
use hydrometer_schemas::time::{Minute, SECONDS_PER_HOUR, SECONDS_PER_MINUTE, show_second};
use hydrometer_sinks::usage::{Columns, UsageKey, UsageRow, from_batch, merged};

use super::facts::FileRow;
use super::hours::{Walk, Work};
use super::{Check, VerifyError};

/// The 60 bits that a mask may have.
const MINUTE: u64 = (1 << SECONDS_PER_MINUTE) - 1;

/// The masks of a minute over all revisions.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Bits {
    pub present: u64,
    busy: u64,
    healthy: u64,
}

type Minutes = BTreeMap<Minute, Bits>;

/// Server, GPU, minute.
pub(super) type OfMinute = (Arc<str>, Arc<str>, Minute);

/// The metered minutes of a partition's hour, by server and GPU.
#[derive(Debug, Default)]
pub(super) struct Metered {
    pub servers: HashMap<Arc<str>, HashMap<Arc<str>, Minutes>>,
    /// Of minutes that report XIDs: the first second of each.
    pub xids: HashMap<OfMinute, BTreeMap<i32, u8>>,
}

/// Reads and judges an hour's minutes; nothing when a file of them cannot be read.
pub(super) async fn metered(walk: &mut Walk<'_>, work: &Work<'_>) -> Result<Option<Metered>, VerifyError> {
    let mut metered = Metered::default();
    let mut complete = true;
    for &file in &work.usage {
        let rows = match published_rows(walk, file).await? {
            Some(rows) => rows,
            None if file.published => {
                complete = false;
                continue;
            }
            None => match owed_rows(walk, work, file).await? {
                Some(rows) => rows,
                None => {
                    complete = false;
                    continue;
                }
            },
        };
        judge(walk, work, file, &rows, &mut metered);
    }
    let check = walk.report.check("usage");
    for (server, gpus) in &metered.servers {
        for (gpu, minutes) in gpus {
            for (minute, bits) in minutes.iter().filter(|(_, b)| (b.busy | b.healthy) & !b.present != 0) {
                let found = format!("present {:#x}, busy {:#x}, healthy {:#x}", bits.present, bits.busy, bits.healthy);
                check.violation(subject(work, server, gpu, *minute), "busy and healthy only in seconds present", found);
            }
        }
    }
    Ok(complete.then_some(metered))
}

/// A published file's rows, with their own counts checked.
async fn published_rows(walk: &mut Walk<'_>, file: &FileRow) -> Result<Option<Vec<UsageRow>>, VerifyError> {
    if !file.published {
        return Ok(None);
    }
    let Some(batches) = walk.file(file).await? else { return Ok(None) };
    let mut rows = Vec::new();
    let check = walk.report.check("usage");
    for batch in batches {
        match from_batch(&batch) {
            Ok(more) => {
                check_counts(&batch, &more, &file.name, check)?;
                rows.extend(more);
            }
            Err(error) => {
                check.violation(&file.name, "rows of usage/", error.to_string());
                return Ok(None);
            }
        }
    }
    // What was committed for this file is what is in it: late minutes may coincide with others, all else is as it was closed.
    let objects = walk.objects_of(file).await?;
    let rows_of = |late: bool| objects.iter().filter(|o| late || o.kind == "usage").map(|o| o.rows).sum::<i64>();
    let (least, most) = (rows_of(false), rows_of(true));
    if !(least..=most).contains(&(rows.len() as i64)) {
        let expected = if least == most { format!("{least} rows") } else { format!("{least} to {most} rows") };
        let expected = format!("{expected}, from {} objects", objects.len());
        walk.report.check("usage").violation(&file.name, expected, format!("{} rows", rows.len()));
    }
    Ok(Some(rows))
}

/// The counts of seconds that a file states beside its masks.
fn check_counts(batch: &RecordBatch, rows: &[UsageRow], name: &str, check: &mut Check) -> Result<(), VerifyError> {
    let columns = Columns::new("usage", batch);
    let (present, busy) = (columns.get::<Int32Array>("present_s")?, columns.get::<Int32Array>("busy_s")?);
    for (i, row) in rows.iter().enumerate() {
        let expected = (row.present.count_ones(), row.busy.count_ones());
        if (i64::from(present.value(i)), i64::from(busy.value(i))) != (i64::from(expected.0), i64::from(expected.1)) {
            check.violation(
                format!("{name}, {}", minute(&row.server, &row.gpu, row.minute)),
                format!("present_s {}, busy_s {}, as the masks say", expected.0, expected.1),
                format!("present_s {}, busy_s {}", present.value(i), busy.value(i)),
            );
        }
    }
    Ok(())
}

/// What a file that is owed will hold. An object that was swept in the meantime was published before.
async fn owed_rows(walk: &mut Walk<'_>, work: &Work<'_>, file: &FileRow) -> Result<Option<Vec<UsageRow>>, VerifyError> {
    let mut rows = Vec::new();
    for object in walk.objects_of(file).await? {
        let Some(batches) = walk.staged(&object, Some(&file.name)).await? else { return Ok(None) };
        for batch in batches {
            rows.extend(from_batch(&batch)?);
        }
    }
    let in_hour =
        |row: &UsageRow| (work.hour..work.hour + SECONDS_PER_HOUR).contains(&(row.minute * SECONDS_PER_MINUTE));
    Ok(Some(merged(rows.into_iter().filter(in_hour)).into_values().collect()))
}

fn judge(walk: &mut Walk<'_>, work: &Work<'_>, file: &FileRow, rows: &[UsageRow], metered: &mut Metered) {
    let check = walk.report.check("usage");
    check.count("files", 1);
    check.count("minutes", rows.len() as u64);
    let mut last: Option<UsageKey> = None;
    for row in rows {
        let start = row.minute * SECONDS_PER_MINUTE;
        let subject = || format!("{}, {}", file.name, minute(&row.server, &row.gpu, row.minute));
        if let Some(last) = last.replace(row.key()).filter(|last| *last >= row.key()) {
            let found = format!("after {}", minute(&last.0, &last.1, last.2));
            check.violation(subject(), "rows sorted by server, GPU and minute, each once", found);
        }
        if !(work.hour..work.hour + SECONDS_PER_HOUR).contains(&start) {
            check.violation(subject(), format!("minutes of the hour {}", show_second(work.hour)), show_second(start));
        }
        if row.revision != file.revision {
            check.violation(subject(), format!("revision {}", file.revision), format!("revision {}", row.revision));
        }
        if (row.present | row.busy | row.healthy) & !MINUTE != 0 {
            let found = format!("present {:#x}, busy {:#x}, healthy {:#x}", row.present, row.busy, row.healthy);
            check.violation(subject(), "masks of 60 bits", found);
        }
        let from = hydrometer_pipeline::source::TopicPartition { topic: row.topic.clone(), partition: row.partition };
        let handled = walk.facts.stands.get(&from).map_or(0, |stand| stand.next);
        if row.first_offset > row.last_offset || row.last_offset >= handled {
            let found = format!("offsets {} to {}", row.first_offset, row.last_offset);
            check.violation(subject(), format!("offsets of {from} below {handled}, in order"), found);
        }
        let gpus = metered.servers.entry(row.server.clone()).or_default();
        let bits = gpus.entry(row.gpu.clone()).or_default().entry(row.minute).or_default();
        let again = (bits.present & row.present, bits.busy & row.busy, bits.healthy & row.healthy);
        if again != (0, 0, 0) {
            let found = format!("present {:#x}, busy {:#x}, healthy {:#x} again", again.0, again.1, again.2);
            check.violation(subject(), "no bit that an earlier row has", found);
        }
        bits.present |= row.present;
        bits.busy |= row.busy;
        bits.healthy |= row.healthy;
        for (xid, second) in &row.xids {
            let first = metered.xids.entry(row.key()).or_default().entry(*xid).or_insert(*second);
            *first = (*first).min(*second);
        }
    }
    let evidence = walk.evidence_of(work.partition, work.hour);
    rows.iter().for_each(|row| evidence.add(row));
    let check = walk.report.check("homes");
    check.count("minutes", rows.len() as u64);
    for row in rows {
        let home = walk.facts.home(&row.server, row.minute * SECONDS_PER_MINUTE);
        if home != Some(work.partition) {
            let expected =
                home.map_or("a server with a home".to_owned(), |home| format!("in {home}, the server's home"));
            let subject = format!("{}, {}", file.name, minute(&row.server, &row.gpu, row.minute));
            check.violation(subject, expected, format!("in {}", work.partition));
        }
    }
}

fn minute(server: &str, gpu: &str, minute: Minute) -> String {
    format!("server {server}, GPU {gpu}, minute {}", show_second(minute * SECONDS_PER_MINUTE))
}

fn subject(work: &Work<'_>, server: &str, gpu: &str, at: Minute) -> String {
    format!("{}, {}", work.partition, minute(server, gpu, at))
}
