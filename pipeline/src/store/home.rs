//! The homes of servers: claimed once, moved at an hour's edge.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hydrometer_schemas::time::{SECONDS_PER_MINUTE, Second};
use tokio_postgres::GenericClient;

use super::lease::{Lease, lock_leases, split};
use super::{Database, StoreError, doing};
use crate::homes::Homes;
use crate::protocol::move_edge;
use crate::source::TopicPartition;

/// Where every known server is and was at home.
pub async fn homes(client: &impl GenericClient) -> Result<Homes, StoreError> {
    let rows = client
        .query("SELECT server, since_s, topic, partition FROM hydrometer.home ORDER BY server, since_s", &[])
        .await
        .map_err(doing("reading homes"))?;
    let mut homes = Homes::default();
    for row in rows {
        let home = TopicPartition { topic: Arc::from(row.get::<_, &str>(2)), partition: row.get(3) };
        homes.add(row.get(0), row.get(1), home);
    }
    Ok(homes)
}

/// Claims homes; false when somebody else was faster for one of them (the transaction is then to be rolled back).
pub async fn claim_homes(
    client: &impl GenericClient,
    claims: &BTreeMap<String, (TopicPartition, &'static str)>,
) -> Result<bool, StoreError> {
    if claims.is_empty() {
        return Ok(true);
    }
    let servers: Vec<&str> = claims.keys().map(String::as_str).collect();
    let topics: Vec<&str> = claims.values().map(|(p, _)| &*p.topic).collect();
    let partitions: Vec<i32> = claims.values().map(|(p, _)| p.partition).collect();
    let by: Vec<&str> = claims.values().map(|(_, by)| *by).collect();
    let inserted = client
        .execute(
            "INSERT INTO hydrometer.home (server, topic, partition, claimed_by) \
             SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::text[]) ORDER BY 1 ON CONFLICT DO NOTHING",
            &[&servers, &topics, &partitions, &by],
        )
        .await
        .map_err(doing("claiming homes"))?;
    Ok(inserted == claims.len() as u64)
}

impl Database {
    /// Moves the homes of servers away from `old`, a partition of this worker, and says since when each counts.
    ///
    /// One transaction that locks the lease rows of the old home and of all the new ones, in the one order, so that no commit of
    /// theirs is in flight: the edge is ahead of all that these have rated or metered, and the new version of their homes makes the
    /// fence refuse whatever either side has derived without knowing of the move. Nothing is moved when the old home is another
    /// worker's by now; a server that has another home by now stays there.
    pub async fn move_homes(
        &mut self,
        old: &Lease,
        moves: &BTreeMap<String, TopicPartition>,
    ) -> Result<BTreeMap<String, Second>, StoreError> {
        let failed = doing("moving homes");
        let mut partitions: BTreeSet<TopicPartition> = moves.values().cloned().collect();
        partitions.insert(old.partition.clone());
        let partitions: Vec<TopicPartition> = partitions.into_iter().collect();

        let tx = self.client().transaction().await.map_err(&failed)?;
        let leases: BTreeMap<TopicPartition, Lease> =
            lock_leases(&tx, &partitions).await?.into_iter().map(|lease| (lease.partition.clone(), lease)).collect();
        let Some(from) = leases.get(&old.partition).filter(|lease| lease.epoch == old.epoch) else {
            return Ok(BTreeMap::new());
        };
        // In a statement after the lock: only the owner of a home moves away from it, so what this sees stays.
        let servers: Vec<&str> = moves.keys().map(String::as_str).collect();
        let rows = tx
            .query(
                "SELECT DISTINCT ON (server) server, topic, partition FROM hydrometer.home WHERE server = ANY ($1) \
                 ORDER BY server, since_s DESC",
                &[&servers],
            )
            .await
            .map_err(&failed)?;
        let mut moved = BTreeMap::new();
        let mut bumped = BTreeSet::new();
        for row in &rows {
            let (server, topic, partition): (String, &str, i32) = (row.get(0), row.get(1), row.get(2));
            let at_home = *topic == *old.partition.topic && partition == old.partition.partition;
            let Some(to) = moves.get(&server).and_then(|to| leases.get(to)).filter(|_| at_home) else { continue };
            let reached = |lease: &Lease| lease.frontier.max(lease.position.closed_until * SECONDS_PER_MINUTE);
            let Some(since) = move_edge(reached(from), reached(to)) else { continue };
            bumped.extend([from.partition.clone(), to.partition.clone()]);
            moved.insert(server, (to.partition.clone(), since));
        }
        if moved.is_empty() {
            return Ok(BTreeMap::new());
        }
        let servers: Vec<&str> = moved.keys().map(String::as_str).collect();
        let since: Vec<Second> = moved.values().map(|(_, since)| *since).collect();
        let topics: Vec<&str> = moved.values().map(|(to, _)| &*to.topic).collect();
        let numbers: Vec<i32> = moved.values().map(|(to, _)| to.partition).collect();
        tx.execute(
            "INSERT INTO hydrometer.home (server, since_s, topic, partition, claimed_by) \
             SELECT s, f, t, p, 'move' FROM unnest($1::text[], $2::bigint[], $3::text[], $4::int[]) AS k (s, f, t, p) ORDER BY s",
            &[&servers, &since, &topics, &numbers],
        )
        .await
        .map_err(&failed)?;
        let bumped: Vec<TopicPartition> = bumped.into_iter().collect();
        let (topics, numbers) = split(&bumped);
        tx.execute(
            "UPDATE hydrometer.partition_lease AS l SET homes = homes + 1 FROM unnest($1::text[], $2::int[]) AS k (t, p) \
             WHERE l.topic = k.t AND l.partition = k.p",
            &[&topics, &numbers],
        )
        .await
        .map_err(&failed)?;
        crate::failpoint::pass("move.inside");
        tx.commit().await.map_err(&failed)?;
        Ok(moved.into_iter().map(|(server, (_, since))| (server, since)).collect())
    }
}
