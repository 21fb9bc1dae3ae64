//! The manifest against the store. Published files are read later, hour by hour; here it is their names that are compared, and
//! staged objects that are read.

use std::collections::BTreeSet;

use hydrometer_pipeline::store::Database;
use hydrometer_pipeline::store::manifest::file_name;
use hydrometer_schemas::warehouse::Table;
use hydrometer_sinks::Warehouse;

use super::facts::Facts;
use super::read::{Found, Named, read};
use super::{Progress, Report, Tell, VerifyError, database};

/// Every file below the tables' folders.
pub(super) async fn list(warehouse: &Warehouse) -> Result<Vec<String>, VerifyError> {
    let mut names = Vec::new();
    for table in Table::ALL {
        names.extend(warehouse.list(table.name()).await?);
    }
    Ok(names)
}

/// Returns staged objects that are not there; whether they should be is known only outside the snapshot.
pub(super) async fn check(
    facts: &Facts,
    warehouse: &Warehouse,
    listed: &[String],
    report: &mut Report,
    tell: Tell<'_>,
) -> Result<Vec<String>, VerifyError> {
    let check = report.check("manifest");
    let named: BTreeSet<&str> = facts.files.iter().map(|file| file.name.as_str()).collect();
    for name in listed.iter().filter(|name| !named.contains(name.as_str())) {
        check.violation(name, "no file that the manifest does not name", "a foreign file");
    }
    for file in &facts.files {
        let name = file.table.map(|table| file_name(table, &file.partition, file.hour, file.revision));
        if name.as_deref() != Some(&file.name) {
            check.violation(&file.name, format!("the name of what it holds: {}", name.unwrap_or_default()), &file.name);
        }
        if !file.published {
            check.wait("files owed", 1);
        }
    }
    let mut missing = Vec::new();
    for (done, object) in facts.objects.iter().enumerate() {
        tell(Progress { check: "manifest", done, of: facts.objects.len() });
        let of_hour = matches!(object.kind.as_str(), "usage" | "rated");
        if of_hour && !object.filed && object.hour.is_some_and(|hour| facts.is_frozen(&object.partition, hour)) {
            check.violation(&object.name, "to be in a file, since its hour is frozen", "in no file: its rows are lost");
        }
        if object.retired {
            check.violation(&object.name, "to be retired by the file that holds it", "retired and in no file");
            continue;
        }
        check.count("staged objects", 1);
        let named = Named { name: &object.name, rows: object.rows, bytes: object.bytes, sha256: &object.sha256 };
        if let Found::Missing = read(warehouse, &named, check).await? {
            missing.push(object.name.clone());
        }
    }
    Ok(missing)
}

/// Says which of the missing objects are missed: those that are still not retired.
pub(super) async fn settle_missing(
    db: &Database,
    missing: Vec<String>,
    report: &mut Report,
) -> Result<(), VerifyError> {
    if missing.is_empty() {
        return Ok(());
    }
    let rows = db
        .client_ref()
        .query(
            "SELECT name FROM hydrometer.object WHERE name = ANY ($1) AND retired_at IS NULL ORDER BY name",
            &[&missing],
        )
        .await
        .map_err(database("looking again for objects that are missing"))?;
    let check = report.check("manifest");
    for row in rows {
        check.violation(row.get::<_, String>(0), "there until what it holds is published", "missing");
    }
    Ok(())
}
