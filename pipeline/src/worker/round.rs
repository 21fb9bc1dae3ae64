//! One round through the commit protocol, for live rating and for revisions alike: the protocol decides, this does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt};
use hydrometer_rating::history::{History, Span};
use hydrometer_rating::rate::Rates;
use hydrometer_rating::terms::{Rate, RateId};
use hydrometer_schemas::lifecycle::Event;
use hydrometer_schemas::time::Second;
use hydrometer_sinks::quarantine::QuarantineRow;
use hydrometer_sinks::usage::UsageRow;
use uuid::Uuid;

use super::stage::{Encoded, StagedObject, Staging};
use super::{Worker, WorkerError, explain, fresh};
use crate::derive::{Derived, touched_servers};
use crate::evidence::FatalXid;
use crate::failpoint;
use crate::homes::Homes;
use crate::protocol::{Happened, Round, Step, TimelineRule};
use crate::source::TopicPartition;
use crate::store::commit::{CommitKind, Judgement, RevisedWindow, RoundCommit, Timelines};
use crate::store::home;
use crate::store::lease::{Lease, Settled};
use crate::store::manifest::ObjectKind;
use crate::store::timeline::{Request, Scope};

/// What one partition brings to a round.
#[derive(Debug, Default)]
pub(super) struct Share {
    pub usage: BTreeMap<Second, Vec<UsageRow>>,
    pub late: Vec<UsageRow>,
    pub away: Vec<UsageRow>,
    pub quarantine: Vec<QuarantineRow>,
    pub derived: Derived,
}

/// A derived round: everything but its attempt's id and its objects.
#[derive(Debug)]
pub(super) struct Prepared {
    pub kind: CommitKind,
    pub before: Vec<Lease>,
    pub after: Vec<Lease>,
    pub timeline_version: i64,
    pub shares: Vec<Arc<Share>>,
    pub claims: BTreeMap<String, (TopicPartition, &'static str)>,
    pub requests: Vec<Request>,
    /// Requests about late and away objects, whose names are only known once they are staged: (share, kind, for whom, from, to).
    pub object_requests: Vec<(usize, ObjectKind, TopicPartition, Second, Second)>,
    pub finished_requests: Vec<i64>,
    pub revised: Vec<RevisedWindow>,
    pub mended: Vec<(String, Second, Second)>,
    pub fatal: Vec<FatalXid>,
}

/// How many partitions are encoded at once; each is in memory as rows and as Parquet.
const STAGED_AT_ONCE: usize = 4;

/// What a round spent its time on, for the log (HYDROMETER_LOG=hydrometer_pipeline=debug).
#[derive(Debug, Default)]
struct Times {
    derive: Duration,
    stage: Duration,
    commit: Duration,
    publish: Duration,
}

impl Times {
    fn note(&mut self, step: Step, began: Instant) {
        let spent = match step {
            Step::Derive => &mut self.derive,
            Step::Stage { .. } => &mut self.stage,
            Step::Publish => &mut self.publish,
            _ => &mut self.commit,
        };
        *spent += began.elapsed();
    }

    fn tell(&self, prepared: Option<&Prepared>) {
        let Some(prepared) = prepared else { return };
        let rows = |f: fn(&Share) -> usize| prepared.shares.iter().map(|share| f(share)).sum::<usize>();
        tracing::debug!(
            kind = ?prepared.kind,
            minutes = rows(|s| s.usage.values().map(Vec::len).sum()),
            rated = rows(|s| s.derived.rows.values().map(Vec::len).sum()),
            derive_ms = self.derive.as_millis(),
            stage_ms = self.stage.as_millis(),
            commit_ms = self.commit.as_millis(),
            publish_ms = self.publish.as_millis(),
            "round"
        );
    }
}

/// The worker's timelines, for the transaction of a round.
struct OfRound<'a> {
    commit: &'a RoundCommit,
    history: &'a mut History,
    version: &'a mut i64,
    homes: &'a Homes,
}

impl Rates for OfRound<'_> {
    fn rate(&self, id: RateId) -> Option<&Rate> {
        self.history.rate(id).map(AsRef::as_ref)
    }
}

impl Timelines for OfRound<'_> {
    fn judge(&mut self, version: i64, events: Vec<Event>) -> Judgement {
        let due_until: BTreeMap<&TopicPartition, Second> =
            self.commit.after.iter().map(|l| (&l.partition, l.frontier)).collect();
        let changes = self.history.insert(events);
        *self.version = version;
        let mut requests = Vec::new();
        for (server, span) in touched_servers(self.history, &changes) {
            let claimed = self.commit.claims.get(&server).map(|(home, _)| (span, home));
            for (at_home, home) in self.homes.spans(&server).chain(claimed) {
                let Some(until) = due_until.get(home) else { continue };
                let due = Span { from: span.from.max(at_home.from), to: span.to.min(at_home.to).min(*until) };
                if due.from < due.to {
                    requests.push(Request {
                        partition: home.clone(),
                        scope: Scope::Server(server.clone()),
                        from: due.from.max(0),
                        to: due.to,
                        cause: "lifecycle event during a commit".to_owned(),
                    });
                }
            }
        }
        Judgement { touches: !requests.is_empty(), requests }
    }
}

impl Worker {
    /// Runs one round. `prepare` derives it, afresh each time the protocol asks for it. Returns what was committed; nothing when
    /// the preparation found nothing to commit.
    pub(super) async fn run_round(
        &mut self,
        mut prepare: impl AsyncFnMut(&mut Worker) -> Result<Option<Prepared>, WorkerError>,
    ) -> Result<Option<Prepared>, WorkerError> {
        let mut round = Round::begin();
        let mut prepared: Option<Prepared> = None;
        let mut staged: Option<RoundCommit> = None;
        let mut last = String::new();
        let mut times = Times::default();
        loop {
            let (began, step) = (Instant::now(), round.step());
            let happened = match step {
                Step::Derive => {
                    self.refresh_history().await?;
                    prepared = prepare(self).await?;
                    if prepared.is_none() {
                        return Ok(None);
                    }
                    Happened::Derived
                }
                Step::Stage { attempt } => {
                    let Some(prepared) = &prepared else { return Ok(None) };
                    staged = Some(self.stage(prepared, attempt).await?);
                    Happened::Staged
                }
                Step::Commit { timeline, .. } => {
                    let Some(commit) = &mut staged else { return Ok(None) };
                    commit.timeline_rule = timeline;
                    let (happened, error) = self.commit(commit).await?;
                    last = explain(happened, error.as_ref());
                    self.note_finished(commit.attempt, happened);
                    happened
                }
                Step::Settle { attempt } => {
                    let Some(lease) = prepared.as_ref().and_then(|p| p.before.first()) else { return Ok(None) };
                    let happened = self.settle(attempt, lease).await?;
                    self.note_finished(attempt, happened);
                    happened
                }
                Step::Publish => {
                    if let Some(prepared) = &prepared {
                        self.committed(prepared);
                        let partitions: Vec<TopicPartition> =
                            prepared.before.iter().map(|l| l.partition.clone()).collect();
                        self.publish(&partitions).await?;
                    }
                    Happened::Published
                }
                Step::Done => {
                    times.tell(prepared.as_ref());
                    return Ok(prepared);
                }
                Step::Stop => {
                    let attempts = round.attempts();
                    let partitions = prepared.map_or_else(Vec::new, |p| p.before);
                    let partitions: Vec<String> = partitions.iter().map(|l| l.partition.to_string()).collect();
                    return Err(if last.starts_with("FenceLost") || last.starts_with("SettledForeign") {
                        WorkerError::Fenced { partitions: partitions.join(", ") }
                    } else {
                        WorkerError::GaveUp { attempts, last }
                    });
                }
            };
            times.note(step, began);
            match happened {
                Happened::HomesMoved => self.reload_homes().await?,
                Happened::BrokeBeforeCommit => {
                    tracing::warn!(%last, "the database went away in the middle of a commit; connecting again");
                    self.db.reconnect().await?;
                    self.forget_history();
                }
                Happened::Refused => tokio::time::sleep(Duration::from_millis(20)).await,
                Happened::SettledForeign => last = "SettledForeign".into(),
                _ => {}
            }
            round.happened(happened, fresh());
        }
    }

    /// Finds out whether the commit is there whose reply was lost. Nothing else is done before that is known, however often the
    /// connection breaks meanwhile: to start over instead would take one's own commit for another worker's.
    pub(super) async fn settle(&mut self, attempt: Uuid, lease: &Lease) -> Result<Happened, WorkerError> {
        match self.db.settle(attempt, &lease.partition, lease.epoch).await {
            Ok(Settled::Committed) => Ok(Happened::SettledCommitted),
            Ok(Settled::NotCommitted) => Ok(Happened::SettledNotCommitted),
            Ok(Settled::Foreign) => Ok(Happened::SettledForeign),
            // Still in doubt: to go on with the old lease would take a commit that is there for another worker's.
            Err(error) if error.is_disconnect() || error.is_transient() => {
                Err(WorkerError::GaveUp { attempts: 1, last: explain(Happened::ReplyLost, Some(&error)) })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What a finished attempt staged may be swept as soon as the manifest does not name it.
    pub(super) fn note_finished(&mut self, attempt: Uuid, happened: Happened) {
        if happened.finishes_attempt() {
            self.finished_attempts.insert(attempt.to_string());
        }
    }

    /// The version first: should a home be moved between the two, the fence refuses what is derived from the newer homes, and it is
    /// looked again. The other way round it would let pass what was derived from homes of before the move.
    pub(super) async fn reload_homes(&mut self) -> Result<(), WorkerError> {
        let versions: BTreeMap<TopicPartition, i64> =
            self.db.leases().await?.into_iter().map(|(lease, _)| (lease.partition.clone(), lease.homes)).collect();
        self.homes = home::homes(self.db.client_ref()).await?;
        for (partition, stream) in &mut self.streams {
            if let Some(homes) = versions.get(partition) {
                stream.lease.homes = *homes;
            }
        }
        Ok(())
    }

    /// Runs the transaction. Events that came after the derivation are folded at once; whether they touch the round is judged by
    /// the servers they changed and from when.
    async fn commit(
        &mut self,
        commit: &RoundCommit,
    ) -> Result<(Happened, Option<crate::store::StoreError>), WorkerError> {
        let mut timelines =
            OfRound { commit, history: &mut self.history, version: &mut self.history_version, homes: &self.homes };
        Ok(self.db.commit_round(commit, &mut timelines).await?)
    }

    /// Writes a round's objects under names of this attempt's own; durable on return.
    async fn stage(&self, prepared: &Prepared, attempt: Uuid) -> Result<RoundCommit, WorkerError> {
        let mut commit = RoundCommit {
            attempt,
            kind: prepared.kind,
            worker: self.config.worker.clone(),
            before: prepared.before.clone(),
            after: prepared
                .after
                .iter()
                .map(|lease| Lease { round: lease.round + 1, attempt: Some(attempt), ..lease.clone() })
                .collect(),
            timeline_version: prepared.timeline_version,
            timeline_rule: TimelineRule::DeriveAgain,
            claims: prepared.claims.clone(),
            objects: Vec::new(),
            quantities: Vec::new(),
            uses: BTreeMap::new(),
            periods: BTreeMap::new(),
            credit_limits: BTreeMap::new(),
            requests: prepared.requests.clone(),
            finished_requests: prepared.finished_requests.clone(),
            revised: prepared.revised.clone(),
            unrated: Vec::new(),
            mended: prepared.mended.clone(),
            fatal: prepared.fatal.clone(),
            files: Vec::new(),
        };
        // Partitions side by side: encoding takes time, and so does every write that has to be durable.
        let shares = prepared.shares.iter().zip(&prepared.before).zip(&prepared.after);
        let staging = shares.map(|((share, lease), after)| {
            let staging = Staging { attempt, kind: prepared.kind, lease: lease.clone(), revision: after.revision };
            self.stage_share(staging, share.clone())
        });
        let staged: Vec<Vec<StagedObject>> =
            futures::stream::iter(staging).buffered(STAGED_AT_ONCE).try_collect().await?;
        for (index, objects) in staged.into_iter().enumerate() {
            for (object, added) in objects {
                commit.take(index, object, added, prepared);
            }
        }
        for share in &prepared.shares {
            commit.periods.extend(share.derived.periods.clone());
            commit.credit_limits.extend(share.derived.credit_limits.clone());
            commit.unrated.extend(share.derived.unrated.clone());
        }
        failpoint::pass(format_args!("stage.{}.after", prepared.kind.name()));
        Ok(commit)
    }

    async fn stage_share(&self, staging: Staging, share: Arc<Share>) -> Result<Vec<StagedObject>, WorkerError> {
        let kind = staging.kind.name();
        let encoded = tokio::task::spawn_blocking(move || staging.encode(&share)).await??;
        let writes = encoded.into_iter().map(async |Encoded { mut object, bytes, added }| {
            failpoint::pass(format_args!("stage.{kind}.before"));
            let staged = self.warehouse.stage(&object.name, bytes).await?;
            failpoint::pass(format_args!("stage.{kind}.object"));
            object.bytes = staged.bytes as i64;
            object.sha256 = staged.sha256;
            Ok::<_, WorkerError>((object, added))
        });
        futures::future::try_join_all(writes).await
    }

    /// What a commit means for this worker's own memory.
    fn committed(&mut self, prepared: &Prepared) {
        self.summary.commits += 1;
        self.summary.revised_windows += prepared.revised.len() as u64;
        for (share, after) in prepared.shares.iter().zip(&prepared.after) {
            self.summary.metered_minutes += share.usage.values().map(Vec::len).sum::<usize>() as u64;
            self.summary.away_minutes += share.away.len() as u64;
            self.summary.rated_records += share.derived.rows.values().map(Vec::len).sum::<usize>() as u64;
            if let Some(stream) = self.streams.get_mut(&after.partition) {
                let homes = stream.lease.homes;
                stream.lease = Lease { round: after.round + 1, homes, ..after.clone() };
                if prepared.kind == CommitKind::Live {
                    stream.cut = Default::default();
                    stream.evidence.forget_before(hydrometer_schemas::time::hour_floor(after.frontier));
                }
            }
        }
        for (server, (home, _)) in &prepared.claims {
            self.homes.add(server, 0, home.clone());
        }
        if prepared.kind == CommitKind::Live {
            let positions: Vec<(TopicPartition, i64)> =
                prepared.after.iter().map(|l| (l.partition.clone(), l.position.next)).collect();
            self.source.committed(&positions);
            self.note_keys();
        }
    }
}
