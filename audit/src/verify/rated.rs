//! Rated records of one partition and hour: each once, as its commit said it, with the amounts of its commit's steps.

use std::collections::{BTreeMap, HashMap};

use arrow::array::{Decimal128Array, Int64Array, RecordBatch, StringArray};
use hydrometer_pipeline::store::manifest::{self, file_name};
use hydrometer_rating::history::History;
use hydrometer_rating::money::Amount;
use hydrometer_rating::terms::RateId;
use hydrometer_schemas::time::{hour_floor, show_second};
use hydrometer_schemas::warehouse::Table;
use hydrometer_sinks::rated::{RatedRow, RecordKind, fill_amounts, from_batch};
use hydrometer_sinks::usage::Columns;

use super::facts::{FileRow, ObjectRow};
use super::hours::{Walk, Work, show_span};
use super::{Check, VerifyError};

/// Reads and judges an hour's records, published or not; nothing when some cannot be read.
pub(super) async fn records(walk: &mut Walk<'_>, work: &Work<'_>) -> Result<Option<Vec<RatedRow>>, VerifyError> {
    let mut records = Vec::new();
    let mut complete = true;
    for &file in &work.rated {
        if !file.published {
            for object in walk.objects_of(file).await? {
                complete &= staged(walk, work, &object, &file.name, &mut records).await?;
            }
            continue;
        }
        let Some(batches) = walk.file(file).await? else {
            complete = false;
            continue;
        };
        let Some(rows) = published(walk, file, &batches) else {
            complete = false;
            continue;
        };
        as_committed(walk, file, &rows).await?;
        judge(walk, work, &file.name, &rows);
        walk.report.check("rated").count("files", 1);
        records.extend(rows);
    }
    for &object in &work.loose {
        let file = file_name(Table::Rated, work.partition, work.hour, 0);
        complete &= staged(walk, work, object, &file, &mut records).await?;
    }
    for row in &records {
        walk.sums.add(row, &walk.facts.history);
        walk.unknown = walk.unknown.saturating_add_signed(row.quantity.classes.unknown);
    }
    Ok(complete.then_some(records))
}

/// Takes a staged object's records with the amounts that their steps give them.
async fn staged(
    walk: &mut Walk<'_>,
    work: &Work<'_>,
    object: &ObjectRow,
    file: &str,
    records: &mut Vec<RatedRow>,
) -> Result<bool, VerifyError> {
    let Some(batches) = walk.staged(object, Some(file)).await? else { return Ok(false) };
    let mut rows = Vec::new();
    for batch in &batches {
        // Of a file that was published in the meantime, only what this object brought.
        rows.extend(from_batch(batch)?.into_iter().filter(|row| row.commit == object.commit));
    }
    rows.retain(|row| row.kind != RecordKind::Adjustment);
    let rows = match refill(walk, object, rows).await? {
        Ok(rows) => rows,
        Err(detail) => {
            walk.report.check("rated").violation(&object.name, "records that fit their commit's steps", detail);
            return Ok(false);
        }
    };
    judge(walk, work, &object.name, &rows);
    walk.report.check("rated").count("staged objects", 1);
    records.extend(rows);
    Ok(true)
}

/// Gives an object's records the amounts of its steps, as publication does.
async fn refill(
    walk: &Walk<'_>,
    object: &ObjectRow,
    rows: Vec<RatedRow>,
) -> Result<Result<Vec<RatedRow>, String>, VerifyError> {
    let steps = manifest::steps_of(walk.db.client_ref(), &object.name).await?;
    Ok(fill_amounts(rows, &steps).map_err(|error| error.to_string()))
}

/// A file's rows, with what it states twice compared.
fn published(walk: &mut Walk<'_>, file: &FileRow, batches: &[RecordBatch]) -> Option<Vec<RatedRow>> {
    let check = walk.report.check("rated");
    let mut rows: Vec<RatedRow> = Vec::new();
    for batch in batches {
        let read = from_batch(batch).and_then(|more| check_stated(batch, &more, &file.name, check).map(|()| more));
        match read {
            Ok(more) => rows.extend(more),
            Err(error) => {
                check.violation(&file.name, "rows of rated_usage/", error.to_string());
                return None;
            }
        }
    }
    if !rows.is_sorted_by_key(RatedRow::sort_key) {
        check.violation(&file.name, "rows sorted by lease, slot and window", "another order");
    }
    Some(rows)
}

/// The columns that follow from others: the record's id, the leased seconds, the commission.
fn check_stated(
    batch: &RecordBatch,
    rows: &[RatedRow],
    file: &str,
    check: &mut Check,
) -> Result<(), hydrometer_sinks::SinkError> {
    let columns = Columns::new("rated_usage", batch);
    let (ids, leased) = (columns.get::<StringArray>("record")?, columns.get::<Int64Array>("leased_s")?);
    let commission = columns.get::<Decimal128Array>("commission")?;
    for (i, row) in rows.iter().enumerate() {
        let id = ids.value(i);
        let subject = || subject(id, row, file);
        if id != row.record_id() {
            check.violation(subject(), format!("record id {}, of what the row says", row.record_id()), id);
        }
        if leased.value(i) != row.quantity.classes.leased() {
            let expected = format!("leased_s {}, the sum of its classes", row.quantity.classes.leased());
            check.violation(subject(), expected, format!("leased_s {}", leased.value(i)));
        }
        let rest = row.commission()?;
        if commission.value(i) != rest.scaled() {
            let found = Amount::from_scaled(commission.value(i));
            check.violation(
                subject(),
                format!("commission {rest}, what the supplier leaves"),
                format!("commission {found}"),
            );
        }
    }
    Ok(())
}

/// A file is a pure function of what was committed: the records of each of its objects, with the amounts of that object's steps.
async fn as_committed(walk: &mut Walk<'_>, file: &FileRow, rows: &[RatedRow]) -> Result<(), VerifyError> {
    let mut of_commit: BTreeMap<&str, Vec<&RatedRow>> = BTreeMap::new();
    for row in rows {
        of_commit.entry(&row.commit).or_default().push(row);
    }
    for object in walk.objects_of(file).await? {
        let found = of_commit.remove(object.commit.as_str()).unwrap_or_default();
        let mut quantities = Vec::with_capacity(found.len());
        for row in found.iter().filter(|row| row.kind != RecordKind::Adjustment) {
            quantities.push(RatedRow { renter_amount: Amount::ZERO, supplier_amount: Amount::ZERO, ..(*row).clone() });
        }
        if quantities.len() as i64 != object.rows {
            let subject = format!("{}, records of commit {}", file.name, object.commit);
            let expected = format!("{} records, from {}", object.rows, object.name);
            walk.report.check("rated").violation(subject, expected, format!("{} records", quantities.len()));
        }
        let refilled = refill(walk, &object, quantities).await?;
        let check = walk.report.check("rated");
        match refilled {
            Ok(expected) => compare_amounts(&expected, &found, &file.name, check),
            Err(detail) => {
                let subject = format!("{}, records of commit {}", file.name, object.commit);
                check.violation(subject, "records that fit their commit's steps", detail);
            }
        }
    }
    let check = walk.report.check("rated");
    for row in of_commit.into_values().flatten() {
        let found = format!("a record of commit {}", row.commit);
        check.violation(
            subject(&row.record_id(), row, &file.name),
            "records of the commits that the file is made of",
            found,
        );
    }
    Ok(())
}

fn compare_amounts(expected: &[RatedRow], found: &[&RatedRow], file: &str, check: &mut Check) {
    let say = |row: &RatedRow| format!("renter {}, supplier {}", row.renter_amount, row.supplier_amount);
    let mut expected: HashMap<String, &RatedRow> = expected.iter().map(|row| (row.record_id(), row)).collect();
    for row in found {
        let id = row.record_id();
        match expected.remove(&id) {
            Some(as_stepped) if say(as_stepped) == say(row) => {}
            Some(as_stepped) => check.violation(subject(&id, row, file), say(as_stepped), say(row)),
            // A record that is there twice is named by its id; an adjustment that no step asks for, here.
            None if row.kind == RecordKind::Adjustment => {
                check.violation(subject(&id, row, file), "no adjustment that its step does not ask for", say(row));
            }
            None => {}
        }
    }
    for (id, row) in expected {
        check.violation(subject(&id, row, file), format!("an adjustment: {}", say(row)), "none");
    }
}

fn judge(walk: &mut Walk<'_>, work: &Work<'_>, name: &str, rows: &[RatedRow]) {
    let check = walk.report.check("rated");
    check.count("records", rows.len() as u64);
    for row in rows {
        let id = row.record_id();
        let subject = || subject(&id, row, name);
        if !walk.ids.insert(id.clone()) {
            check.violation(subject(), "to be there once", "there again");
        }
        if row.partition != work.partition.partition || row.window.intersect(work.span()) != Some(row.window) {
            let expected = format!("a window of the hour {} in partition {}", show_second(work.hour), work.partition);
            check.violation(subject(), expected, format!("partition {}", row.partition));
        }
        if let Some((expected, found)) = by_its_terms(&walk.facts.history, row) {
            check.violation(subject(), expected, found);
        }
        if row.kind == RecordKind::Usage && row.revision != 0 {
            check.violation(subject(), "revision 0, since it was rated live", format!("revision {}", row.revision));
        }
    }
    let check = walk.report.check("homes");
    check.count("records", rows.len() as u64);
    for row in rows {
        let Some(server) = &row.server else { continue };
        if walk.facts.home(server, work.hour) != Some(work.partition) {
            let subject = format!("{}, server {server}", subject(&row.record_id(), row, name));
            check.violation(subject, "in the server's home", format!("in {}", work.partition));
        }
    }
    let check = walk.report.check("corrections");
    for row in rows.iter().filter(|row| row.kind == RecordKind::Correction) {
        let (lease, server) = (row.lease.clone().unwrap_or_default(), row.server.clone().unwrap_or_default());
        let key = (lease, server, row.window, row.revision);
        let by = walk.facts.revisions.get(&work.hour).and_then(|revisions| revisions.get(&key));
        if by != Some(&row.commit) {
            let found = by.map_or("no such revision".to_owned(), |commit| format!("a revision of commit {commit}"));
            let expected = format!("revision {} of the window in commit {}", row.revision, row.commit);
            check.violation(subject(&row.record_id(), row, name), expected, found);
        }
        check.count("records", 1);
        walk.revisions.insert(key);
    }
}

/// What a record says of its price, share, ladder and billing period against what its rate and its version say, where they differ.
/// The version may have been replaced since; its rates are known for good.
fn by_its_terms(history: &History, row: &RatedRow) -> Option<(String, String)> {
    if row.kind == RecordKind::Adjustment {
        return None;
    }
    if let Some(rate) = history.rate(row.cell.rate) {
        let (charge, share) = (&rate.charge, rate.share());
        let price = charge.unit_price(row.cell.segment);
        if (&charge.name, price, share) != (&row.charge, row.price, row.share) {
            let show = |name: &str, price: Option<_>, share: Option<_>| {
                let price = price.map_or("none".to_owned(), |price: hydrometer_rating::money::Price| price.to_string());
                let share =
                    share.map_or("none".to_owned(), |share: hydrometer_rating::money::Share| format!("{share} %"));
                format!("{name}, price {price}, share {share}")
            };
            let expected = format!("{}, as rate {} says", show(&charge.name, price, share), row.cell.rate);
            return Some((expected, show(&row.charge, row.price, row.share)));
        }
        let ladder = if charge.is_hourly() { hour_floor(row.window.from) } else { row.period };
        if row.ladder != ladder {
            let expected = format!("a ladder from {}", show_second(ladder));
            return Some((expected, format!("one from {}", show_second(row.ladder))));
        }
    } else if row.cell.rate != RateId(0) {
        return Some(("a rate of some version of its contract".to_owned(), format!("rate {}", row.cell.rate)));
    }
    let versions = history.versions(&row.contract);
    let calendar = &versions.iter().find(|version| version.span.from == row.cell.version_from)?.terms.calendar;
    // A window may lie across the edge of two periods.
    let periods = [row.window.from, row.window.to - 1].map(|second| calendar.period_of(second).from);
    let expected = format!("the billing period from {}", show_second(periods[0]));
    (!periods.contains(&row.period)).then(|| (expected, format!("the one from {}", show_second(row.period))))
}

fn subject(id: &str, row: &RatedRow, file: &str) -> String {
    match (&row.lease, row.slot) {
        (Some(lease), Some(slot)) => {
            format!("record {id} (lease {lease}, slot {slot}, window {}) in {file}", show_span(row.window))
        }
        _ => format!("record {id} ({} of contract {}) in {file}", row.kind.name(), row.contract),
    }
}
