//! Partition leases: who may commit for a partition (the epoch), and where its stream stands.

use std::sync::Arc;
use std::time::Instant;

use hydrometer_schemas::time::{SECONDS_PER_MINUTE, Second};
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use super::{Database, StoreError, doing};
use crate::failpoint;
use crate::source::TopicPartition;
use crate::window::Position;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Telemetry,
    Lifecycle,
    /// A log of Hydrometer's own: closings, and commands that record events. It fences them and numbers them.
    Internal,
}

impl Role {
    pub fn name(self) -> &'static str {
        match self {
            Role::Telemetry => "telemetry",
            Role::Lifecycle => "lifecycle",
            Role::Internal => "internal",
        }
    }
}

/// A row of `hydrometer.partition_lease`, as this worker last saw or wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub partition: TopicPartition,
    pub epoch: i64,
    pub round: i64,
    pub attempt: Option<Uuid>,
    pub position: Position,
    /// Every window that ends by it is rated.
    pub frontier: Second,
    pub homes: i64,
    pub revision: i32,
}

const COLUMNS: &str =
    "topic, partition, epoch, round, attempt, next, replay_from, time_us, closed_until_s, frontier_s, homes, revision";

impl Lease {
    fn read(row: &Row) -> Lease {
        Lease {
            partition: TopicPartition { topic: Arc::from(row.get::<_, &str>(0)), partition: row.get(1) },
            epoch: row.get(2),
            round: row.get(3),
            attempt: row.get(4),
            position: Position {
                next: row.get(5),
                replay_from: row.get(6),
                time: row.get(7),
                closed_until: row.get::<_, i64>(8).div_euclid(SECONDS_PER_MINUTE),
            },
            frontier: row.get(9),
            homes: row.get(10),
            revision: row.get(11),
        }
    }
}

impl Database {
    /// Makes sure that every partition of a topic has its row. A new partition starts at the least frontier there is, so that it
    /// owes no window that was rated elsewhere; a new lifecycle partition at the least time.
    pub async fn ensure_partitions(&mut self, topic: &str, role: Role, count: i32) -> Result<(), StoreError> {
        self.client()
            .execute(
                "INSERT INTO hydrometer.partition_lease (topic, partition, role, frontier_s, time_us) \
                 SELECT $1, p, $2, \
                        CASE WHEN $2 = 'internal' THEN 0 \
                             ELSE coalesce((SELECT min(frontier_s) FROM hydrometer.partition_lease WHERE role = 'telemetry'), 0) END, \
                        CASE WHEN $2 = 'lifecycle' THEN coalesce((SELECT min(time_us) FROM hydrometer.partition_lease WHERE role = 'lifecycle'), 0) ELSE 0 END \
                 FROM generate_series(0, $3 - 1) AS p ON CONFLICT DO NOTHING",
                &[&topic, &role.name(), &count],
            )
            .await
            .map_err(doing("registering partitions"))?;
        Ok(())
    }

    /// Takes partitions over: bumps their epochs, so that whoever had them before can commit no more.
    pub async fn take_over(&mut self, partitions: &[TopicPartition], worker: &str) -> Result<Vec<Lease>, StoreError> {
        failpoint::pass("take_over.before");
        let failed = doing("taking over partitions");
        let tx = self.client().transaction().await.map_err(&failed)?;
        lock_leases(&tx, partitions).await?;
        let (topics, numbers) = split(partitions);
        let sql = format!(
            "UPDATE hydrometer.partition_lease AS l SET epoch = epoch + 1, worker = $3 \
             FROM unnest($1::text[], $2::int[]) AS k (t, p) WHERE l.topic = k.t AND l.partition = k.p RETURNING {}",
            COLUMNS.split(", ").map(|c| format!("l.{c}")).collect::<Vec<_>>().join(", ")
        );
        let rows = tx.query(&sql, &[&topics, &numbers, &worker]).await.map_err(&failed)?;
        failpoint::pass("take_over.inside");
        tx.commit().await.map_err(&failed)?;
        failpoint::pass("take_over.after");
        let mut leases: Vec<Lease> = rows.iter().map(Lease::read).collect();
        leases.sort_by(|a, b| a.partition.cmp(&b.partition));
        Ok(leases)
    }

    pub async fn leases(&self) -> Result<Vec<(Lease, String)>, StoreError> {
        let sql = format!("SELECT {COLUMNS}, role FROM hydrometer.partition_lease ORDER BY topic, partition");
        let rows = self.client_ref().query(&sql, &[]).await.map_err(doing("reading partition leases"))?;
        Ok(rows.iter().map(|row| (Lease::read(row), row.get(12))).collect())
    }

    /// Whether an attempt's commit is there, on a new connection. Waits for a transaction in doubt, since that holds the lease row,
    /// and for a database that is away: without an answer the worker could only stop.
    pub async fn settle(
        &mut self,
        attempt: Uuid,
        partition: &TopicPartition,
        epoch: i64,
    ) -> Result<Settled, StoreError> {
        let deadline = Instant::now() + self.timeouts.statement + self.timeouts.patience;
        loop {
            self.reconnect().await?;
            match self.settle_once(attempt, partition, epoch).await {
                Err(error) if (error.is_disconnect() || error.is_transient()) && Instant::now() < deadline => {
                    tracing::warn!(%error, "a commit is in doubt; asking again");
                }
                other => return other,
            }
        }
    }

    async fn settle_once(
        &mut self,
        attempt: Uuid,
        partition: &TopicPartition,
        epoch: i64,
    ) -> Result<Settled, StoreError> {
        failpoint::pass("settle.before");
        let failed = doing("settling a commit whose reply was lost");
        let tx = self.client().transaction().await.map_err(&failed)?;
        let lease = lock_leases(&tx, std::slice::from_ref(partition)).await?;
        let committed = tx
            .query_opt("SELECT 1 FROM hydrometer.commit WHERE id = $1", &[&attempt])
            .await
            .map_err(&failed)?
            .is_some();
        tx.rollback().await.map_err(&failed)?;
        failpoint::pass("settle.after");
        Ok(match lease.first() {
            _ if committed => Settled::Committed,
            Some(lease) if lease.epoch == epoch => Settled::NotCommitted,
            _ => Settled::Foreign,
        })
    }

    /// The database's clock, in microseconds.
    pub async fn clock(&self) -> Result<i64, StoreError> {
        let row = self
            .client_ref()
            .query_one("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint", &[])
            .await
            .map_err(doing("reading the clock"))?;
        Ok(row.get(0))
    }

    /// (lifecycle time in seconds, least second until which every telemetry partition is closed).
    pub async fn progress(&self) -> Result<(Second, Second), StoreError> {
        let row = self
            .client_ref()
            .query_one(
                "SELECT coalesce(min(time_us) FILTER (WHERE role = 'lifecycle'), 0) / 1000000, \
                        coalesce(min(closed_until_s) FILTER (WHERE role = 'telemetry'), 0) FROM hydrometer.partition_lease",
                &[],
            )
            .await
            .map_err(doing("reading the partitions' progress"))?;
        Ok((row.get(0), row.get(1)))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    Committed,
    NotCommitted,
    Foreign,
}

pub(crate) fn split(partitions: &[TopicPartition]) -> (Vec<&str>, Vec<i32>) {
    (partitions.iter().map(|p| &*p.topic).collect(), partitions.iter().map(|p| p.partition).collect())
}

/// Locks lease rows in the one order: by topic, then partition.
pub(crate) async fn lock_leases(
    client: &impl GenericClient,
    partitions: &[TopicPartition],
) -> Result<Vec<Lease>, StoreError> {
    let (topics, numbers) = split(partitions);
    let sql = format!(
        "SELECT {} FROM hydrometer.partition_lease AS l JOIN unnest($1::text[], $2::int[]) AS k (t, p) \
         ON l.topic = k.t AND l.partition = k.p ORDER BY l.topic, l.partition FOR UPDATE OF l",
        COLUMNS.split(", ").map(|c| format!("l.{c}")).collect::<Vec<_>>().join(", ")
    );
    let rows = client.query(&sql, &[&topics, &numbers]).await.map_err(doing("locking partition leases"))?;
    Ok(rows.iter().map(Lease::read).collect())
}

/// Writes the leases of a committed round; the conditions are the fence itself, so fewer rows than leases means that it is lost.
pub(crate) async fn move_leases(
    client: &impl GenericClient,
    before: &[Lease],
    after: &[Lease],
    attempt: Uuid,
) -> Result<u64, StoreError> {
    let partitions: Vec<TopicPartition> = before.iter().map(|l| l.partition.clone()).collect();
    let (topics, numbers) = split(&partitions);
    let column = |f: fn(&Lease) -> i64, of: &[Lease]| of.iter().map(f).collect::<Vec<i64>>();
    client
        .execute(
            "UPDATE hydrometer.partition_lease AS l \
             SET round = l.round + 1, attempt = $3, next = k.next, replay_from = k.replay_from, time_us = k.time_us, \
                 closed_until_s = k.closed, frontier_s = k.frontier, revision = k.revision \
             FROM unnest($1::text[], $2::int[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], \
                         $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[]) \
                  AS k (t, p, epoch, round, next_was, homes, next, replay_from, time_us, closed, frontier, frontier_was, revision) \
             WHERE l.topic = k.t AND l.partition = k.p AND l.epoch = k.epoch AND l.round = k.round AND l.next = k.next_was \
               AND l.homes = k.homes AND l.frontier_s = k.frontier_was",
            &[
                &topics,
                &numbers,
                &attempt,
                &column(|l| l.epoch, before),
                &column(|l| l.round, before),
                &column(|l| l.position.next, before),
                &column(|l| l.homes, before),
                &column(|l| l.position.next, after),
                &column(|l| l.position.replay_from, after),
                &column(|l| l.position.time, after),
                &column(|l| l.position.closed_until * SECONDS_PER_MINUTE, after),
                &column(|l| l.frontier, after),
                &column(|l| l.frontier, before),
                &column(|l| i64::from(l.revision), after),
            ],
        )
        .await
        .map_err(doing("moving partition leases"))
}
