//! Servers that live elsewhere by now: noticed and moved by the owner of their old home.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use hydrometer_schemas::time::{SECONDS_PER_HOUR, SECONDS_PER_MINUTE, Second};
use hydrometer_sinks::usage::UsageRow;

use super::{Worker, WorkerError};
use crate::protocol::{AWAY_BEFORE_MOVE_S, moves_to};
use crate::publish::usage_rows;
use crate::source::TopicPartition;
use crate::store::lease::Lease;
use crate::store::manifest::{self, ObjectKind};
use crate::store::timeline::{Scope, open_requests};

/// Whom a partition has heard, and where those who are at home in it were heard else.
///
/// After a restart it knows what the manifest holds of the running hour, and nothing of what was before: a move may then come up to
/// an hour later, never too early. What was heard elsewhere is read from the away objects that ask for revisions here.
#[derive(Debug, Default)]
pub(super) struct Listening {
    /// What was heard before is not known.
    since: Second,
    /// The end of the last minute in which each server was heard here.
    last: HashMap<Arc<str>, Second>,
    /// Of each away object that asks here: the ends of minutes, by server.
    elsewhere: HashMap<String, Elsewhere>,
    /// Up to where it was looked for moves; minute by minute is often enough.
    looked: Second,
}

#[derive(Debug)]
struct Elsewhere {
    partition: TopicPartition,
    heard: HashMap<Arc<str>, HashSet<Second>>,
}

impl Listening {
    pub fn from(since: Second) -> Listening {
        Listening { since, ..Listening::default() }
    }

    pub fn hear(&mut self, row: &UsageRow) {
        let end = (row.minute + 1) * SECONDS_PER_MINUTE;
        let last = self.last.entry(row.server.clone()).or_insert(end);
        *last = (*last).max(end);
    }

    /// Forgets when those were heard that have been silent for so long that it makes no difference any more.
    fn forget_before(&mut self, second: Second) {
        self.last.retain(|_, last| *last > second);
        self.since = self.since.max(second);
    }

    fn silent_since(&self, server: &str) -> Second {
        self.last.get(server).copied().unwrap_or(self.since)
    }

    fn elsewhere(&self, server: &str) -> impl Iterator<Item = (&TopicPartition, Second)> {
        self.elsewhere.values().flat_map(move |object| {
            let minutes = object.heard.get(server).into_iter().flatten();
            minutes.map(|end| (&object.partition, *end))
        })
    }
}

impl Worker {
    /// Moves the homes of servers that have spoken only elsewhere for an hour.
    pub(super) async fn move_homes(&mut self) -> Result<(), WorkerError> {
        let partitions: Vec<TopicPartition> = self.streams.keys().cloned().collect();
        for partition in partitions {
            let Some(stream) = self.streams.get_mut(&partition) else { continue };
            let closed_until = stream.lease.position.closed_until * SECONDS_PER_MINUTE;
            if closed_until <= stream.listening.looked {
                continue;
            }
            stream.listening.looked = closed_until;
            let silent = self.silent_servers(&partition, closed_until);
            if silent.is_empty() {
                continue;
            }
            self.listen_elsewhere(&partition).await?;
            let Some(stream) = self.streams.get(&partition) else { continue };
            let moves: BTreeMap<String, TopicPartition> = silent
                .into_iter()
                .filter_map(|(server, since)| {
                    let to = moves_to(since, closed_until, stream.listening.elsewhere(&server)).cloned()?;
                    Some((server, to))
                })
                .collect();
            if !moves.is_empty() {
                let lease = stream.lease.clone();
                self.move_now(&lease, &moves).await?;
            }
        }
        Ok(())
    }

    /// Servers at home in a partition that it has not heard for an hour, each with since when.
    fn silent_servers(&mut self, partition: &TopicPartition, closed_until: Second) -> Vec<(String, Second)> {
        let Some(stream) = self.streams.get_mut(partition) else { return Vec::new() };
        stream.listening.forget_before(closed_until - 24 * SECONDS_PER_HOUR);
        let listening = &stream.listening;
        self.homes
            .latest_in(partition)
            .filter_map(|(server, at_home_since)| {
                // Before its home was here, and before it was leased, there was nothing to be heard of it.
                let leased = self.history.server(server).and_then(|t| t.leases.iter().map(|l| l.span.from).min());
                let heard = listening.silent_since(server);
                let since =
                    if listening.last.contains_key(server) { heard } else { heard.max(leased.unwrap_or(heard)) };
                let since = since.max(at_home_since);
                (closed_until.saturating_sub(since) >= AWAY_BEFORE_MOVE_S).then(|| (server.to_owned(), since))
            })
            .collect()
    }

    /// Reads the away objects that ask in a partition and were not read yet.
    async fn listen_elsewhere(&mut self, partition: &TopicPartition) -> Result<(), WorkerError> {
        let mut asking = HashSet::new();
        for open in open_requests(self.db.client_ref(), partition).await? {
            if let Scope::Object(name) = open.request.scope {
                asking.insert(name);
            }
        }
        let Some(stream) = self.streams.get_mut(partition) else { return Ok(()) };
        stream.listening.elsewhere.retain(|name, _| asking.contains(name));
        for name in asking {
            if stream.listening.elsewhere.contains_key(&name) {
                continue;
            }
            let Some(object) = manifest::object(self.db.client_ref(), &name).await? else { continue };
            if object.kind != ObjectKind::Away {
                continue;
            }
            let mut heard: HashMap<Arc<str>, HashSet<Second>> = HashMap::new();
            for row in usage_rows(&self.warehouse, &object).await? {
                let end = (row.minute + 1) * SECONDS_PER_MINUTE;
                if self.homes.at(&row.server, end - 1) == Some(partition) {
                    heard.entry(row.server).or_default().insert(end);
                }
            }
            let partition = object.partition;
            stream.listening.elsewhere.insert(name, Elsewhere { partition, heard });
        }
        Ok(())
    }

    async fn move_now(&mut self, old: &Lease, moves: &BTreeMap<String, TopicPartition>) -> Result<(), WorkerError> {
        match self.db.move_homes(old, moves).await {
            Ok(moved) => {
                for (server, since) in &moved {
                    let since = hydrometer_schemas::time::show_second(*since);
                    tracing::info!(
                        "{server} has spoken only in {} for an hour: from {since} on its home is there, and no longer in {}",
                        moves[server],
                        old.partition
                    );
                }
            }
            // Its home waits for the next minute; whatever is said elsewhere until then is brought in by revisions.
            Err(error) if error.is_transient() && !error.is_disconnect() => {
                tracing::warn!(%error, "homes could not be moved; trying again");
            }
            Err(error) => return Err(error.into()),
        }
        self.reload_homes().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(server: &str, minute: i64) -> UsageRow {
        UsageRow {
            server: Arc::from(server),
            gpu: Arc::from("g"),
            minute,
            present: 1,
            busy: 0,
            healthy: 0,
            power_min_w: None,
            power_max_w: None,
            mem_max_bytes: None,
            energy_first: None,
            energy_last: None,
            xids: BTreeMap::new(),
            topic: Arc::from("t"),
            partition: 0,
            first_offset: 0,
            last_offset: 0,
            revision: 0,
        }
    }

    #[test]
    fn a_restart_never_makes_a_silence_longer() {
        let mut listening = Listening::from(7_200);
        assert_eq!(listening.silent_since("s"), 7_200, "what was before is not known");
        listening.hear(&row("s", 130));
        listening.hear(&row("s", 121));
        assert_eq!(listening.silent_since("s"), 131 * 60);
        listening.forget_before(131 * 60);
        assert_eq!(listening.silent_since("s"), 131 * 60);
        assert_eq!(listening.silent_since("other"), 131 * 60);
    }
}
