//! Lifecycle events, and requests to look at history again.

use std::collections::BTreeMap;

use hydrometer_rating::history::{Span, Verdict};
use hydrometer_schemas::database::TIMELINE_LOCK;
use hydrometer_schemas::lifecycle::{Event, EventKey};
use hydrometer_schemas::time::{Second, second_of};
use serde_json::Value;
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use super::lease::Lease;
use super::{StoreError, doing};
use crate::source::TopicPartition;

/// A lifecycle event and where it was read.
#[derive(Debug, Clone)]
pub struct ArrivedEvent {
    pub event: Event,
    pub partition: TopicPartition,
    pub offset: i64,
    /// How far the partition's time was before it.
    pub passed: Second,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Every lease on a server.
    Server(String),
    /// What an object of late or away readings holds.
    Object(String),
}

impl Scope {
    fn parts(&self) -> (&'static str, &str) {
        match self {
            Scope::Server(server) => ("server", server),
            Scope::Object(object) => ("object", object),
        }
    }
}

/// "Look at this stretch again", addressed to the owner of a home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub partition: TopicPartition,
    pub scope: Scope,
    pub from: Second,
    pub to: Second,
    pub cause: String,
}

#[derive(Debug, Clone)]
pub struct OpenRequest {
    pub id: i64,
    pub request: Request,
}

/// Takes the timeline lock for the rest of the transaction, in a statement of its own: it queues fairly, and what is read after it
/// sees all that its former holders committed.
pub async fn lock(client: &impl GenericClient, exclusive: bool) -> Result<(), StoreError> {
    let sql = if exclusive { "SELECT pg_advisory_xact_lock($1)" } else { "SELECT pg_advisory_xact_lock_shared($1)" };
    client.execute(sql, &[&TIMELINE_LOCK]).await.map_err(doing("waiting for the timeline lock"))?;
    Ok(())
}

pub async fn version(client: &impl GenericClient) -> Result<i64, StoreError> {
    let row = client
        .query_one("SELECT version FROM hydrometer.timeline", &[])
        .await
        .map_err(doing("reading the timeline version"))?;
    Ok(row.get(0))
}

/// The least time of all lifecycle partitions.
pub async fn lifecycle_time(client: &impl GenericClient) -> Result<Second, StoreError> {
    let row = client
        .query_one("SELECT coalesce(min(time_us), 0) FROM hydrometer.partition_lease WHERE role = 'lifecycle'", &[])
        .await
        .map_err(doing("reading lifecycle time"))?;
    Ok(second_of(row.get(0)))
}

/// What lifecycle time was before a lifecycle partition moved from `before` to `after`, and what it is then; nothing where it stands.
pub async fn time_passed(
    client: &impl GenericClient,
    before: &Lease,
    after: &Lease,
) -> Result<Option<(Second, Second)>, StoreError> {
    let of = &before.partition;
    let row = client
        .query_one(
            "SELECT min(time_us) FILTER (WHERE (topic, partition) <> ($1, $2)), \
                    bool_or((topic, partition) = ($1, $2)) FROM hydrometer.partition_lease WHERE role = 'lifecycle'",
            &[&&*of.topic, &of.partition],
        )
        .await
        .map_err(doing("reading lifecycle time"))?;
    let others: Option<i64> = row.get(0);
    if row.get::<_, Option<bool>>(1) != Some(true) {
        return Ok(None);
    }
    let with = |own: i64| second_of(others.map_or(own, |others| others.min(own)));
    let (was, is) = (with(before.position.time), with(after.position.time));
    Ok((was < is).then_some((was, is)))
}

/// Events that came after `version`, and the version that they bring. One statement, so both are of one snapshot.
pub async fn events_since(client: &impl GenericClient, version: i64) -> Result<(i64, Vec<Event>), StoreError> {
    let rows = client
        .query(
            "SELECT t.version, e.time_s, e.source, e.id, e.body FROM hydrometer.timeline AS t \
             LEFT JOIN hydrometer.event AS e ON e.version > $1",
            &[&version],
        )
        .await
        .map_err(doing("reading lifecycle events"))?;
    let latest = rows.first().map_or(version, |row| row.get(0));
    Ok((latest, rows.iter().filter_map(|row| read_event(row).transpose()).collect::<Result<_, _>>()?))
}

/// Events that had been recorded by a second.
pub async fn events_recorded_by(client: &impl GenericClient, at: Second) -> Result<Vec<Event>, StoreError> {
    let rows = client
        .query(
            "SELECT version, time_s, source, id, body FROM hydrometer.event WHERE recorded_at <= to_timestamp($1::bigint)",
            &[&at],
        )
        .await
        .map_err(doing("reading lifecycle events"))?;
    rows.iter().filter_map(|row| read_event(row).transpose()).collect()
}

/// From (…, time_s, source, id, body); nothing where there is no event.
fn read_event(row: &Row) -> Result<Option<Event>, StoreError> {
    let Some(source) = row.get::<_, Option<String>>(2) else { return Ok(None) };
    let event = Event::from_stored(row.get(1), source, row.get(3), row.get::<_, Value>(4));
    event.map(Some).map_err(|e| StoreError::Row { table: "hydrometer.event", detail: e.to_string() })
}

/// Inserts events under the next version; those whose source and id are known already are left out. Returns the version and the
/// events that are new.
pub async fn insert_events(
    client: &impl GenericClient,
    arrived: &[ArrivedEvent],
    commit: Uuid,
) -> Result<(i64, Vec<Event>), StoreError> {
    let failed = doing("recording lifecycle events");
    let row = client
        .query_one("UPDATE hydrometer.timeline SET version = version + 1 RETURNING version", &[])
        .await
        .map_err(&failed)?;
    let version: i64 = row.get(0);
    let sources: Vec<&str> = arrived.iter().map(|a| a.event.key.source.as_str()).collect();
    let ids: Vec<&str> = arrived.iter().map(|a| a.event.key.id.as_str()).collect();
    let times: Vec<i64> = arrived.iter().map(|a| a.event.key.time).collect();
    let ranks: Vec<i16> = arrived.iter().map(|a| i16::from(a.event.key.rank)).collect();
    let bodies: Vec<Value> = arrived.iter().map(|a| a.event.body()).collect();
    let topics: Vec<&str> = arrived.iter().map(|a| &*a.partition.topic).collect();
    let partitions: Vec<i32> = arrived.iter().map(|a| a.partition.partition).collect();
    let offsets: Vec<i64> = arrived.iter().map(|a| a.offset).collect();
    let rows = client
        .query(
            "INSERT INTO hydrometer.event (source, id, time_s, rank, body, version, topic, partition, \"offset\", commit_id) \
             SELECT DISTINCT ON (s, i) s, i, t, r, b, $1, tp, p, o, $2 \
             FROM unnest($3::text[], $4::text[], $5::bigint[], $6::smallint[], $7::jsonb[], $8::text[], $9::int[], $10::bigint[]) \
                  WITH ORDINALITY AS k (s, i, t, r, b, tp, p, o, n) ORDER BY s, i, n \
             ON CONFLICT DO NOTHING RETURNING source, id",
            &[&version, &commit, &sources, &ids, &times, &ranks, &bodies, &topics, &partitions, &offsets],
        )
        .await
        .map_err(&failed)?;
    let mut new: BTreeMap<(String, String), Option<Event>> =
        rows.iter().map(|row| ((row.get(0), row.get(1)), None)).collect();
    for arrived in arrived {
        let key = (arrived.event.key.source.clone(), arrived.event.key.id.clone());
        if let Some(slot) = new.get_mut(&key)
            && slot.is_none()
        {
            *slot = Some(arrived.event.clone());
        }
    }
    Ok((version, new.into_values().flatten().collect()))
}

pub async fn write_verdicts(
    client: &impl GenericClient,
    verdicts: &BTreeMap<EventKey, Verdict>,
) -> Result<(), StoreError> {
    let sources: Vec<&str> = verdicts.keys().map(|k| k.source.as_str()).collect();
    let ids: Vec<&str> = verdicts.keys().map(|k| k.id.as_str()).collect();
    let reasons: Vec<Option<&str>> = verdicts.values().map(Option::as_deref).collect();
    client
        .execute(
            "UPDATE hydrometer.event AS e SET verdict = k.v FROM unnest($1::text[], $2::text[], $3::text[]) AS k (s, i, v) \
             WHERE e.source = k.s AND e.id = k.i AND e.verdict IS DISTINCT FROM k.v",
            &[&sources, &ids, &reasons],
        )
        .await
        .map_err(doing("recording verdicts"))?;
    Ok(())
}

pub async fn insert_requests(
    client: &impl GenericClient,
    requests: &[Request],
    commit: Uuid,
) -> Result<(), StoreError> {
    if requests.is_empty() {
        return Ok(());
    }
    let topics: Vec<&str> = requests.iter().map(|r| &*r.partition.topic).collect();
    let partitions: Vec<i32> = requests.iter().map(|r| r.partition.partition).collect();
    let scopes: Vec<&str> = requests.iter().map(|r| r.scope.parts().0).collect();
    let subjects: Vec<&str> = requests.iter().map(|r| r.scope.parts().1).collect();
    let from: Vec<i64> = requests.iter().map(|r| r.from).collect();
    let to: Vec<i64> = requests.iter().map(|r| r.to).collect();
    let causes: Vec<&str> = requests.iter().map(|r| r.cause.as_str()).collect();
    client
        .execute(
            "INSERT INTO hydrometer.request (topic, partition, scope, subject, from_s, to_s, cause, asked_by) \
             SELECT t, p, s, j, f, u, c, $1 FROM unnest($2::text[], $3::int[], $4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::text[]) \
                  AS k (t, p, s, j, f, u, c)",
            &[&commit, &topics, &partitions, &scopes, &subjects, &from, &to, &causes],
        )
        .await
        .map_err(doing("leaving requests"))?;
    Ok(())
}

pub async fn open_requests(
    client: &impl GenericClient,
    partition: &TopicPartition,
) -> Result<Vec<OpenRequest>, StoreError> {
    let rows = client
        .query(
            "SELECT id, scope, subject, from_s, to_s, cause FROM hydrometer.request \
             WHERE topic = $1 AND partition = $2 AND done_by IS NULL ORDER BY id",
            &[&&*partition.topic, &partition.partition],
        )
        .await
        .map_err(doing("reading requests"))?;
    Ok(rows
        .iter()
        .map(|row| {
            let subject: String = row.get(2);
            let scope = if row.get::<_, &str>(1) == "server" { Scope::Server(subject) } else { Scope::Object(subject) };
            let request =
                Request { partition: partition.clone(), scope, from: row.get(3), to: row.get(4), cause: row.get(5) };
            OpenRequest { id: row.get(0), request }
        })
        .collect())
}

/// Whether a home was ever asked about an object up to a second.
pub async fn is_asked(
    client: &impl GenericClient,
    home: &TopicPartition,
    object: &str,
    to: Second,
) -> Result<bool, StoreError> {
    let row = client
        .query_one(
            "SELECT EXISTS (SELECT FROM hydrometer.request WHERE topic = $1 AND partition = $2 AND scope = 'object' \
                            AND subject = $3 AND to_s >= $4)",
            &[&&*home.topic, &home.partition, &object, &to],
        )
        .await
        .map_err(doing("looking whether a home was asked"))?;
    Ok(row.get(0))
}

/// Marks requests as done by a commit.
pub async fn finish_requests(client: &impl GenericClient, ids: &[i64], commit: Uuid) -> Result<(), StoreError> {
    if ids.is_empty() {
        return Ok(());
    }
    client
        .execute("UPDATE hydrometer.request SET done_by = $2 WHERE id = ANY ($1) AND done_by IS NULL", &[&ids, &commit])
        .await
        .map_err(doing("finishing requests"))?;
    Ok(())
}

/// Hours in which some of a server's leased time could not be rated yet.
pub async fn unrated_hours(client: &impl GenericClient, server: &str, span: Span) -> Result<Vec<Second>, StoreError> {
    let rows = client
        .query(
            "SELECT DISTINCT from_s / 3600 * 3600 FROM hydrometer.unrated \
             WHERE server = $1 AND mended_by IS NULL AND to_s > $2 AND from_s < $3",
            &[&server, &span.from, &span.to],
        )
        .await
        .map_err(doing("looking up what could not be rated"))?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}
