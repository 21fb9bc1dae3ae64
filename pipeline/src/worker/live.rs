//! The live round: what has closed, and every window that the frontiers pass.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use hydrometer_rating::history::{ServerTimeline, Span};
use hydrometer_schemas::time::{SECONDS_PER_MINUTE, Second, hour_floor};
use hydrometer_sinks::usage::UsageRow;

use super::round::{Prepared, Share};
use super::{Stream, Worker, WorkerError};
use crate::derive::{due_windows, minute_window_covers};
use crate::protocol::{MinuteGoes, frontier_target, minute_goes};
use crate::source::TopicPartition;
use crate::store::commit::CommitKind;
use crate::store::lease::Lease;
use crate::store::manifest::ObjectKind;
use crate::store::timeline::{Request, Scope};

impl Worker {
    /// Whether a round would commit anything: minutes that closed, a frontier that can move, or late and quarantined records.
    pub(super) async fn live_round_due(&mut self, force: bool) -> Result<bool, WorkerError> {
        if self.streams.is_empty() {
            return Ok(false);
        }
        let waits = |s: &Stream| s.meter.standing().has_closed || s.meter.standing().holds_late_or_quarantine;
        if self.streams.values().any(waits) {
            return Ok(true);
        }
        let (lifecycle_time, all_closed_until) = self.db.progress().await?;
        let moves = |s: &Stream| {
            let target = self.frontier_of(s, lifecycle_time);
            target > s.lease.frontier
                || s.meter.standing().closed_until() > s.lease.position.closed_until * SECONDS_PER_MINUTE
                || (force && s.meter.standing().position != s.lease.position)
        };
        if self.streams.values().any(moves) {
            return Ok(true);
        }
        // Other partitions may have moved on and left a leased server without a home.
        self.refresh_history().await?;
        let leases: Vec<Lease> = self.streams.values().map(|s| s.lease.clone()).collect();
        let mut claims = BTreeMap::new();
        self.claim_silent_servers(&mut claims, &leases, all_closed_until);
        Ok(!claims.is_empty())
    }

    fn frontier_of(&self, stream: &Stream, lifecycle_time: Second) -> Second {
        let closed_until = stream.meter.standing().closed_until();
        frontier_target(stream.lease.frontier, closed_until, lifecycle_time, self.source.horizon())
    }

    pub(super) async fn live_round(&mut self) -> Result<(), WorkerError> {
        // What an earlier round left uncommitted goes first, so that no more than one cut waits.
        let cutting = self.streams.values().filter(|s| s.cut.is_empty()).map(|s| s.meter.cut());
        let cuts = futures::future::join_all(cutting).await;
        for stream in self.streams.values_mut() {
            let Some((cut, cut_at)) = stream.meter.take_cut() else { continue };
            stream.cut_at = cut_at;
            for row in cut.closed.iter().chain(&cut.late) {
                stream.evidence.add(row);
                stream.listening.hear(row);
            }
            stream.cut = std::mem::take(&mut stream.cut).and(cut);
        }
        cuts.into_iter().collect::<Result<(), _>>()?;
        self.run_round(async |worker: &mut Worker| worker.prepare_live().await.map(Some)).await?;
        Ok(())
    }

    async fn prepare_live(&mut self) -> Result<Prepared, WorkerError> {
        let (lifecycle_time, all_closed_until) = self.db.progress().await?;
        let mut claims = self.claims_by_readings();
        let mut before: Vec<Lease> = Vec::new();
        let mut after: Vec<Lease> = Vec::new();
        for stream in self.streams.values() {
            before.push(stream.lease.clone());
            after.push(Lease {
                position: stream.cut_at,
                // What was closed at the cut, not what has closed since.
                frontier: frontier_target(
                    stream.lease.frontier,
                    stream.cut_at.closed_until * SECONDS_PER_MINUTE,
                    lifecycle_time,
                    self.source.horizon(),
                ),
                ..stream.lease.clone()
            });
        }
        self.claim_silent_servers(&mut claims, &after, all_closed_until);

        let mut prepared = Prepared {
            kind: CommitKind::Live,
            before,
            after,
            timeline_version: self.history_version,
            shares: Vec::new(),
            requests: Vec::new(),
            object_requests: Vec::new(),
            finished_requests: Vec::new(),
            revised: Vec::new(),
            mended: Vec::new(),
            fatal: self.streams.values().flat_map(|s| s.evidence.fatal_xids()).collect(),
            claims,
        };
        self.ask_for_claimed(&mut prepared);
        for (index, stream) in self.streams.values().enumerate() {
            let share = self.share(index, stream, &mut prepared);
            prepared.shares.push(Arc::new(share));
        }
        Ok(prepared)
    }

    fn home_at<'a>(&'a self, prepared: &'a Prepared, server: &str, second: Second) -> Option<&'a TopicPartition> {
        self.homes.at(server, second).or_else(|| prepared.claims.get(server).map(|(home, _)| home))
    }

    /// When a server is at home in a partition. A home changes at an hour's edge, so no window has two.
    fn at_home<'a>(
        &'a self,
        prepared: &'a Prepared,
        server: &'a str,
        partition: &'a TopicPartition,
    ) -> impl Iterator<Item = Span> + 'a {
        // Only a server without a home is claimed, and then for all time.
        let always = Span { from: Second::MIN, to: Second::MAX };
        let claimed = prepared.claims.get(server).map(|(home, _)| (always, home));
        self.homes.spans(server).chain(claimed).filter(move |(_, home)| *home == partition).map(|(span, _)| span)
    }

    /// What one partition brings: its rows sorted by where they belong, and the quantities of its windows due.
    fn share(&self, index: usize, stream: &Stream, prepared: &mut Prepared) -> Share {
        let mut share = Share::default();
        let lease = &stream.lease;
        let (frontier, target) = (lease.frontier, prepared.after[index].frontier);
        let mut asked: BTreeMap<(ObjectKind, TopicPartition), (Second, Second)> = BTreeMap::new();
        let mut ask = |kind: ObjectKind, home: &TopicPartition, from: Second, to: Second| {
            let span = asked.entry((kind, home.clone())).or_insert((from, to));
            *span = (span.0.min(from), span.1.max(to));
        };
        for (row, late) in stream.cut.closed.iter().map(|r| (r, false)).chain(stream.cut.late.iter().map(|r| (r, true)))
        {
            let start = row.minute * SECONDS_PER_MINUTE;
            let end = start + SECONDS_PER_MINUTE;
            let home = self.home_at(prepared, &row.server, start).unwrap_or(&lease.partition);
            let covers = || minute_window_covers(&self.history, &row.server, start);
            match minute_goes(start, *home == lease.partition, late, frontier, covers) {
                MinuteGoes::Away => {
                    ask(ObjectKind::Away, home, start, end);
                    share.away.push(row.clone());
                }
                MinuteGoes::Late { asks } => {
                    if asks {
                        ask(ObjectKind::Late, &lease.partition, start, end);
                    }
                    share.late.push(row.clone());
                }
                MinuteGoes::Usage => share.usage.entry(hour_floor(start)).or_default().push(row.clone()),
            }
        }
        for rows in share.usage.values_mut().chain([&mut share.late, &mut share.away]) {
            rows.sort_by_cached_key(UsageRow::key);
        }
        let requests = asked.into_iter().map(|((kind, home), (from, to))| (index, kind, home, from, to));
        prepared.object_requests.extend(requests);
        share.quarantine = stream.cut.quarantine.clone();

        if target > frontier {
            for timeline in self.history.servers() {
                for home in self.at_home(prepared, &timeline.server, &lease.partition) {
                    let due = (frontier.max(home.from), target.min(home.to));
                    if due.0 < due.1 {
                        let partition = lease.partition.partition;
                        share.derived.live(&self.history, timeline, partition, due, &stream.evidence);
                    }
                }
            }
        }
        share
    }

    /// A server's home is the partition in which it speaks first; where a cut finds it in several, the one with most of its minutes.
    fn claims_by_readings(&self) -> BTreeMap<String, (TopicPartition, &'static str)> {
        let mut heard: BTreeMap<&str, BTreeMap<&TopicPartition, usize>> = BTreeMap::new();
        for stream in self.streams.values() {
            for row in stream.cut.closed.iter().chain(&stream.cut.late) {
                if !self.homes.knows(&row.server) {
                    *heard.entry(&row.server).or_default().entry(&stream.lease.partition).or_default() += 1;
                }
            }
        }
        let most = |minutes: BTreeMap<&TopicPartition, usize>| {
            minutes.into_iter().max_by(|a, b| a.1.cmp(&b.1).then(b.0.cmp(a.0))).map(|(partition, _)| partition.clone())
        };
        heard
            .into_iter()
            .filter_map(|(server, minutes)| Some((server.to_owned(), (most(minutes)?, "reading"))))
            .collect()
    }

    /// A leased server that has spoken nowhere, although every partition has been metered past the end of one of its windows, gets
    /// the home that its name hashes to: its silent seconds must be rated too.
    fn claim_silent_servers(
        &self,
        claims: &mut BTreeMap<String, (TopicPartition, &'static str)>,
        after: &[Lease],
        all_closed_until: Second,
    ) {
        for timeline in self.history.servers() {
            if self.homes.knows(&timeline.server) || claims.contains_key(&timeline.server) {
                continue;
            }
            let number = (fnv1a(timeline.server.as_bytes()) % self.telemetry_partitions.max(1) as u64) as i32;
            let Some(lease) = after.iter().find(|l| l.partition.partition == number) else { continue };
            let known_silent = lease.frontier.min(all_closed_until);
            let due = timeline.leases.iter().any(|l| {
                l.span.from < known_silent
                    && !due_windows(l, self.history.versions(&l.contract), 0, known_silent).is_empty()
            });
            if due {
                claims.insert(timeline.server.clone(), (lease.partition.clone(), "lease"));
            }
        }
    }

    /// Windows of a newly claimed server that ended before this partition's frontier were rated by nobody.
    fn ask_for_claimed(&self, prepared: &mut Prepared) {
        let frontiers: BTreeMap<TopicPartition, Second> =
            prepared.before.iter().map(|l| (l.partition.clone(), l.frontier)).collect();
        for (server, (home, _)) in &prepared.claims {
            let frontier = frontiers.get(home).copied().unwrap_or(0);
            let leases: BTreeSet<Second> =
                self.history.server(server).into_iter().flat_map(|t| &t.leases).map(|l| l.span.from).collect();
            // Not beyond its last lease, so that it need not wait for the running hour when that has ended.
            let to = frontier.min(self.history.server(server).map_or(frontier, ServerTimeline::leased_until));
            if let Some(&from) = leases.first().filter(|from| **from < to) {
                prepared.requests.push(Request {
                    partition: home.clone(),
                    scope: Scope::Server(server.clone()),
                    from,
                    to,
                    cause: "home claimed behind the frontier".to_owned(),
                });
            }
        }
    }
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
