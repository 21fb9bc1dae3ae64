//! Reading the outbox so that nothing is missed.
//!
//! A reader advances by transaction id, and only below the oldest transaction that is still open (`pg_snapshot_xmin`): ids of rows,
//! sequence numbers and times of commit all let a row appear behind what was read already. A transaction that stays open anywhere in the
//! cluster, in whichever database, delays the readers; it never makes them miss anything.

use chrono::{DateTime, Utc};
use tokio_postgres::GenericClient;
use uuid::Uuid;

use super::{StoreError, doing};

/// A message for `gpu.billing.events`.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub id: Uuid,
    /// The transaction that wrote it.
    pub xid: i64,
    pub kind: String,
    pub subject: String,
    pub time: DateTime<Utc>,
    pub data: serde_json::Value,
}

/// Messages in the order of their transactions, and the transaction to read on after.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    pub messages: Vec<Message>,
    pub after: i64,
}

/// The messages after a transaction (0: from the beginning), about `most` of them: a page holds transactions whole, since the next
/// one begins after its last transaction. A message may be read again after a crash, never missed; its id tells.
pub async fn next(client: &impl GenericClient, after: i64, most: i64) -> Result<Page, StoreError> {
    let rows = client
        .query(
            "SELECT id, xid::text::bigint, type, subject, time, data FROM hydrometer.outbox \
             WHERE xid > ($1::bigint::text)::xid8 AND xid < pg_snapshot_xmin(pg_current_snapshot()) \
             ORDER BY xid FETCH FIRST ($2::bigint) ROWS WITH TIES",
            &[&after, &most.max(1)],
        )
        .await
        .map_err(doing("reading the outbox"))?;
    let messages: Vec<Message> = rows
        .iter()
        .map(|row| Message {
            id: row.get(0),
            xid: row.get(1),
            kind: row.get(2),
            subject: row.get(3),
            time: row.get(4),
            data: row.get(5),
        })
        .collect();
    let after = messages.last().map_or(after, |last| last.xid);
    Ok(Page { messages, after })
}
