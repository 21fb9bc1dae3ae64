//! What was set aside: each message once, for a reason that is known.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use hydrometer_pipeline::source::TopicPartition;
use hydrometer_schemas::quarantine::Reason;
use hydrometer_schemas::warehouse::Table;
use hydrometer_sinks::quarantine::{QuarantineRow, from_batch};

use super::facts::{FileRow, ObjectRow};
use super::hours::Walk;
use super::{List, Progress, Tell, VerifyError};

#[derive(Default)]
struct Seen {
    offsets: HashSet<(Arc<str>, i32, i64)>,
    reasons: BTreeMap<String, u64>,
}

pub(super) async fn check(walk: &mut Walk<'_>, tell: Tell<'_>) -> Result<(), VerifyError> {
    let mut seen = Seen::default();
    let facts = walk.facts;
    let files: Vec<&FileRow> = facts.files.iter().filter(|file| file.table == Some(Table::Quarantine)).collect();
    for (done, &file) in files.iter().enumerate() {
        tell(Progress { check: "quarantine", done, of: files.len() });
        let objects = walk.objects_of(file).await?;
        if !file.published {
            for object in &objects {
                staged(walk, object, Some(&file.name), &mut seen).await?;
            }
            continue;
        }
        let Some(batches) = walk.file(file).await? else { continue };
        walk.report.check("quarantine").count("files", 1);
        let mut rows = Vec::new();
        for batch in &batches {
            match from_batch(batch) {
                Ok(more) => rows.extend(more),
                Err(error) => {
                    walk.report.check("quarantine").violation(&file.name, "rows of quarantine/", error.to_string());
                }
            }
        }
        let staged_rows: i64 = objects.iter().map(|object| object.rows).sum();
        if staged_rows != rows.len() as i64 {
            let expected = format!("{staged_rows} rows, from {} objects", objects.len());
            walk.report.check("quarantine").violation(&file.name, expected, format!("{} rows", rows.len()));
        }
        judge(walk, &file.name, &file.partition, &rows, &mut seen);
    }
    for object in facts.objects.iter().filter(|object| object.kind == "quarantine" && !object.filed) {
        staged(walk, object, None, &mut seen).await?;
    }
    let total = seen.reasons.values().sum();
    walk.report.lists.push(List {
        name: "quarantine",
        unit: "messages",
        total,
        entries: seen.reasons.into_iter().collect(),
    });
    Ok(())
}

async fn staged(
    walk: &mut Walk<'_>,
    object: &ObjectRow,
    file: Option<&str>,
    seen: &mut Seen,
) -> Result<(), VerifyError> {
    let Some(batches) = walk.staged(object, file).await? else { return Ok(()) };
    walk.report.check("quarantine").count("staged objects", 1);
    for batch in &batches {
        judge(walk, &object.name, &object.partition, &from_batch(batch)?, seen);
    }
    Ok(())
}

fn judge(walk: &mut Walk<'_>, name: &str, partition: &TopicPartition, rows: &[QuarantineRow], seen: &mut Seen) {
    let check = walk.report.check("quarantine");
    check.count("messages", rows.len() as u64);
    let handled = walk.facts.stands.get(partition).map_or(0, |stand| stand.next);
    for row in rows {
        let subject = || format!("{}/{} offset {} in {name}", row.topic, row.partition, row.offset);
        if (&row.topic, row.partition) != (&partition.topic, partition.partition) {
            check.violation(subject(), format!("messages of {partition}"), "a message of another partition");
        }
        if !(0..handled).contains(&row.offset) {
            check.violation(
                subject(),
                format!("an offset below {handled}, the first not yet handled"),
                "one beyond it",
            );
        }
        if !seen.offsets.insert((row.topic.clone(), row.partition, row.offset)) {
            check.violation(subject(), "to be set aside once", "set aside again");
        }
        if !Reason::ALL.iter().any(|reason| reason.name() == row.reason) {
            check.violation(subject(), "a reason that this version knows", &row.reason);
        }
        *seen.reasons.entry(row.reason.clone()).or_default() += 1;
    }
}
