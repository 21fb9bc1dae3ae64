//! What is no violation and worth knowing: what is asked for, what could not be rated, what is owed.

use hydrometer_pipeline::store::Database;

use super::{List, Report, VerifyError, database};

/// (name, unit, rows of (what, how many)).
const QUERIES: [(&str, &str, &str); 4] = [
    (
        "open requests",
        "requests",
        "SELECT cause || ', partition ' || topic || '/' || partition, count(*) FROM hydrometer.request WHERE done_by IS NULL \
         GROUP BY topic, partition, cause ORDER BY 1",
    ),
    (
        "open closing requests",
        "requests",
        "SELECT cause || ', contract ' || contract, count(*) FROM hydrometer.closing_request WHERE done_by IS NULL \
         GROUP BY contract, cause ORDER BY 1",
    ),
    (
        "unrated",
        "seconds",
        "SELECT 'lease ' || lease || ': ' || reason, sum(to_s - from_s)::bigint FROM hydrometer.unrated WHERE mended_by IS NULL \
         GROUP BY lease, reason ORDER BY 1",
    ),
    ("owed files", "files", "SELECT name, 1::bigint FROM hydrometer.file WHERE published_at IS NULL ORDER BY 1"),
];

pub(super) async fn add(db: &Database, report: &mut Report) -> Result<(), VerifyError> {
    for (name, unit, sql) in QUERIES {
        let rows = db.client_ref().query(sql, &[]).await.map_err(database("listing what is open"))?;
        let entries: Vec<(String, u64)> =
            rows.iter().map(|row| (row.get(0), row.get::<_, i64>(1).unsigned_abs())).collect();
        let total = entries.iter().map(|entry| entry.1).sum();
        report.lists.push(List { name, unit, total, entries });
    }
    Ok(())
}
