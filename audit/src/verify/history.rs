//! The events as they are stored, folded afresh, against the verdicts that are stored with them.

use hydrometer_pipeline::store::Database;
use hydrometer_rating::history::History;
use hydrometer_schemas::lifecycle::Event;
use hydrometer_schemas::time::show_second;
use serde_json::Value;

use super::{Report, VerifyError, database};

/// Folds all events.
pub(super) async fn check(db: &Database, report: &mut Report) -> Result<History, VerifyError> {
    let rows = db
        .client_ref()
        .query(
            "SELECT e.source, e.id, e.time_s, e.rank, e.body, e.verdict, e.version, t.version \
             FROM hydrometer.event AS e, hydrometer.timeline AS t ORDER BY e.time_s, e.rank, e.source, e.id",
            &[],
        )
        .await
        .map_err(database("reading lifecycle events"))?;
    let check = report.check("history");
    check.count("events", rows.len() as u64);

    let mut events = Vec::with_capacity(rows.len());
    let mut stored = Vec::with_capacity(rows.len());
    for row in &rows {
        let (source, id): (String, String) = (row.get(0), row.get(1));
        let subject = format!("event {id} of {source}");
        match Event::from_stored(row.get(2), source, id, row.get::<_, Value>(4)) {
            Err(error) => check.violation(subject, "a body that was accepted when it came", error.to_string()),
            Ok(event) => {
                let (rank, kept) = (i16::from(event.key.rank), row.get::<_, i16>(3));
                if rank != kept {
                    check.violation(
                        &subject,
                        format!("rank {rank}, of a {}", event.kind.name()),
                        format!("rank {kept}"),
                    );
                }
                let (version, latest): (i64, i64) = (row.get(6), row.get(7));
                if version > latest {
                    check.violation(
                        &subject,
                        format!("a timeline version up to {latest}"),
                        format!("version {version}"),
                    );
                }
                stored.push((subject, event.key.clone(), row.get::<_, Option<String>>(5)));
                events.push(event);
            }
        }
    }
    let mut history = History::default();
    history.insert(events);
    let say = |verdict: &Option<String>| match verdict {
        None => "applied".to_owned(),
        Some(reason) => format!("not applied: {reason}"),
    };
    for (subject, key, verdict) in stored {
        let fresh = history.verdict(&key).cloned().flatten();
        if fresh != verdict {
            check.violation(format!("{subject} at {}", show_second(key.time)), say(&fresh), say(&verdict));
        }
    }
    Ok(history)
}
