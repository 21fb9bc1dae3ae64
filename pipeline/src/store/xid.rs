//! Seconds of fatal XIDs: facts that outlast the minutes in which they were read, so they are rows of their own.

use hydrometer_rating::xid::XidPolicy;
use tokio_postgres::GenericClient;
use uuid::Uuid;

use super::{StoreError, doing};
use crate::evidence::FatalXid;

/// The fatal XIDs on record of some servers.
pub async fn fatal_xids<'a>(
    client: &impl GenericClient,
    servers: impl Iterator<Item = &'a str>,
) -> Result<Vec<FatalXid>, StoreError> {
    let servers: Vec<&str> = servers.collect();
    let rows = client
        .query("SELECT server, gpu, at_s, xid FROM hydrometer.fatal_xid WHERE server = ANY ($1)", &[&servers])
        .await
        .map_err(doing("reading fatal XIDs"))?;
    // What counts as fatal is configuration; what was recorded under another one stays on record.
    let policy = XidPolicy::default();
    Ok(rows
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2), row.get(3)))
        .filter(|xid: &FatalXid| policy.is_fatal(xid.3))
        .collect())
}

/// Records fatal XIDs; those on record already are left as they are.
pub async fn insert_fatal_xids(client: &impl GenericClient, xids: &[FatalXid], commit: Uuid) -> Result<(), StoreError> {
    if xids.is_empty() {
        return Ok(());
    }
    let servers: Vec<&str> = xids.iter().map(|x| x.0.as_str()).collect();
    let gpus: Vec<&str> = xids.iter().map(|x| x.1.as_str()).collect();
    let seconds: Vec<i64> = xids.iter().map(|x| x.2).collect();
    let numbers: Vec<i32> = xids.iter().map(|x| x.3).collect();
    client
        .execute(
            "INSERT INTO hydrometer.fatal_xid (server, gpu, at_s, xid, commit_id) \
             SELECT s, g, t, x, $1 FROM unnest($2::text[], $3::text[], $4::bigint[], $5::int[]) AS k (s, g, t, x) \
             ORDER BY s, g, t, x ON CONFLICT DO NOTHING",
            &[&commit, &servers, &gpus, &seconds, &numbers],
        )
        .await
        .map_err(doing("recording fatal XIDs"))?;
    Ok(())
}
