//! The outbox: events for others, written with what they tell and read so that none is missed.
//!
//! A reader goes on by transaction id, and only below the oldest transaction that is still open (`pg_snapshot_xmin`): ids of
//! rows, sequence numbers and times of commit all let a row appear behind what was read already. A transaction that stays
//! open anywhere in the cluster, in whichever database, delays the readers; it never makes them miss anything.
//!
//! What a reader has passed on is kept in the database as well, under an epoch: of two readers of one name the older one
//! finds that it may not move the position any more, and stops.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use tokio_postgres::types::Json;
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use crate::LedgerError;

/// An event to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Made from what the event stands for, so that the same event is written once.
    pub id: Uuid,
    /// Such as `wallet.low`.
    pub kind: String,
    /// What it is about. Events of one subject keep their order on the way.
    pub subject: String,
    /// When it happened; to the microsecond.
    pub time: DateTime<Utc>,
    pub data: serde_json::Value,
}

/// An event as it was read.
#[derive(Clone, Debug)]
pub struct Message {
    pub id: Uuid,
    /// The database transaction that wrote it.
    pub xid: i64,
    pub kind: String,
    pub subject: String,
    pub time: DateTime<Utc>,
    /// The database's own text, which is the same whenever it is read.
    pub data: Box<RawValue>,
}

impl Message {
    pub fn place(&self) -> Place {
        Place { xid: self.xid, time: self.time, id: self.id }
    }
}

/// A place in the order in which events are read: by transaction, then by time, then by id. No event ever appears before
/// a place that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub xid: i64,
    pub time: DateTime<Utc>,
    pub id: Uuid,
}

impl Place {
    /// Before every event.
    pub const BEGINNING: Place = Place { xid: 0, time: DateTime::UNIX_EPOCH, id: Uuid::nil() };
}

/// Writes events as part of the caller's database transaction; one whose id is there already is left out.
pub async fn insert(client: &impl GenericClient, events: &[Event]) -> Result<(), LedgerError> {
    if events.is_empty() {
        return Ok(());
    }
    if let Some(event) = events.iter().find(|event| event.kind.is_empty() || event.subject.is_empty()) {
        return Err(LedgerError::Invalid {
            what: format!("the event {} cannot be written", event.id),
            detail: format!("its kind is {:?}, its subject {:?}", event.kind, event.subject),
            hint: "Neither may be empty",
        });
    }
    let ids: Vec<Uuid> = events.iter().map(|event| event.id).collect();
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.as_str()).collect();
    let subjects: Vec<&str> = events.iter().map(|event| event.subject.as_str()).collect();
    let times: Vec<DateTime<Utc>> = events.iter().map(|event| event.time).collect();
    let data: Vec<&serde_json::Value> = events.iter().map(|event| &event.data).collect();
    client
        .execute(
            "insert into ledger.outbox (id, type, subject, time, data) \
             select i, k, s, t, d from unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[], $5::jsonb[]) \
                  as e (i, k, s, t, d) order by i on conflict do nothing",
            &[&ids, &kinds, &subjects, &times, &data],
        )
        .await
        .map_err(LedgerError::database("writing to the outbox"))?;
    Ok(())
}

/// The events after a place, in their order, at most `most` of them. Fewer, when no more can be read yet.
pub async fn next(client: &impl GenericClient, after: &Place, most: i64) -> Result<Vec<Message>, LedgerError> {
    let failed = || LedgerError::database("reading the outbox");
    let rows = client
        .query(
            "select o.id, o.xid::text::bigint, o.type, o.subject, o.time, o.data from ledger.outbox o \
             where (o.xid, o.time, o.id) > (($1::bigint::text)::xid8, $2, $3) \
               and o.xid < pg_snapshot_xmin(pg_current_snapshot()) \
             order by o.xid, o.time, o.id limit $4",
            &[&after.xid, &after.time, &after.id, &most],
        )
        .await
        .map_err(failed())?;
    rows.iter().map(|row| read(row).map_err(failed())).collect()
}

/// The latest events, newest first, and whether the reader of this name has passed them on; `unread`: only those that it has not.
pub async fn latest(
    client: &impl GenericClient,
    reader: &str,
    unread: bool,
    most: i64,
) -> Result<Vec<(Message, bool)>, LedgerError> {
    let failed = || LedgerError::database("looking at the outbox");
    let rows = client
        .query(
            "select o.id, o.xid::text::bigint, o.type, o.subject, o.time, o.data, p.passed_on from ledger.outbox o \
             left join ledger.outbox_reader r on r.name = $1 \
             cross join lateral (select coalesce( \
                 (o.xid, o.time, o.id) <= (r.after_xid::text::xid8, r.after_time, r.after_id), false) as passed_on) p \
             where not (p.passed_on and $2) order by o.xid desc, o.time desc, o.id desc limit $3",
            &[&reader, &unread, &most],
        )
        .await
        .map_err(failed())?;
    rows.iter().map(|row| Ok((read(row).map_err(failed())?, row.get(6)))).collect()
}

fn read(row: &Row) -> Result<Message, tokio_postgres::Error> {
    Ok(Message {
        id: row.try_get(0)?,
        xid: row.try_get(1)?,
        kind: row.try_get(2)?,
        subject: row.try_get(3)?,
        time: row.try_get(4)?,
        data: row.try_get::<_, Json<Box<RawValue>>>(5)?.0,
    })
}

/// The right to move a reader's position: until it is not renewed for some time, or until somebody else takes over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub reader: String,
    pub epoch: i64,
    /// The last event that was passed on.
    pub place: Place,
}

/// When to take over a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Whoever holds it stops.
    AtOnce,
    /// When nobody holds it, or whoever did has not renewed it in time.
    WhenFree,
}

/// Takes over the reader of this name, which is made if it is not there. `None`: somebody else holds it.
///
/// `claimant` is kept beside it, so that people can see who reads.
pub async fn claim(
    client: &impl GenericClient,
    reader: &str,
    claimant: &str,
    hold: Duration,
    when: Claim,
) -> Result<Option<Hold>, LedgerError> {
    let failed = || LedgerError::database("taking over the outbox");
    let claimed = client
        .query_opt(
            "select epoch, after_xid, after_time, after_id from ledger.claim_outbox($1, $2, $3::bigint * interval '1 millisecond', $4)",
            &[&reader, &claimant, &milliseconds(hold), &(when == Claim::AtOnce)],
        )
        .await
        .map_err(failed())?;
    let Some(row) = claimed else { return Ok(None) };
    let place = Place {
        xid: row.try_get(1).map_err(failed())?,
        time: row.try_get(2).map_err(failed())?,
        id: row.try_get(3).map_err(failed())?,
    };
    refuse_restored(client, &place).await?;
    Ok(Some(Hold { reader: reader.to_owned(), epoch: row.try_get(0).map_err(failed())?, place }))
}

/// Who has taken over a reader last; empty if nobody has.
pub async fn holder(client: &impl GenericClient, reader: &str) -> Result<String, LedgerError> {
    let row = client
        .query_opt("select holder from ledger.outbox_reader where name = $1", &[&reader])
        .await
        .map_err(LedgerError::database("looking at the outbox"))?;
    Ok(row.map(|row| row.get(0)).unwrap_or_default())
}

/// A dump that was restored into another cluster holds transaction ids that are still to come there; what is written from now on
/// would lie behind them and never be read.
async fn refuse_restored(client: &impl GenericClient, place: &Place) -> Result<(), LedgerError> {
    let row = client
        .query_one(
            "select pg_snapshot_xmax(s)::text, greatest($1, (select max(xid)::text::bigint from ledger.outbox)) \
                    >= pg_snapshot_xmax(s)::text::bigint from pg_current_snapshot() as s",
            &[&place.xid],
        )
        .await
        .map_err(LedgerError::database("checking the outbox"))?;
    if row.get(1) {
        return Err(LedgerError::Unreadable {
            what: "the outbox knows transactions that this server has not had yet".to_owned(),
            detail: format!("its next transaction is {}", row.get::<_, &str>(0)),
            hint: "A dump was restored into another server. Stop it and move its transaction ids past those of the old one \
                   (pg_resetwal --epoch), or restore a physical copy",
        });
    }
    Ok(())
}

/// Records what was passed on, and holds the reader for longer. With the same place again it only holds it for longer, and
/// with no time at all it lets the reader go. False: somebody else has taken over, and nothing was recorded.
pub async fn advance(
    client: &impl GenericClient,
    held: &mut Hold,
    place: Place,
    hold: Duration,
) -> Result<bool, LedgerError> {
    let row = client
        .query_one(
            "select ledger.advance_outbox($1, $2, $3, $4, $5, $6::bigint * interval '1 millisecond')",
            &[&held.reader, &held.epoch, &place.xid, &place.time, &place.id, &milliseconds(hold)],
        )
        .await
        .map_err(LedgerError::database("recording what was published"))?;
    let moved = row.get(0);
    if moved {
        held.place = place;
    }
    Ok(moved)
}

fn milliseconds(hold: Duration) -> i64 {
    i64::try_from(hold.as_millis()).unwrap_or(i64::MAX)
}
