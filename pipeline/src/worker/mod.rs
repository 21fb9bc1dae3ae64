//! The worker: takes events from its source, keeps the windows of its partitions, and drives rounds through the commit protocol.

mod closing;
mod homes;
mod lifecycle;
mod live;
mod partitions;
mod revision;
mod round;
mod stage;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::error::DataFusionError;
use futures::future::LocalBoxFuture;
use hydrometer_rating::history::History;
use hydrometer_schemas::time::{FOREVER_MICROS, MICROS_PER_SECOND, hour_floor};
use hydrometer_sinks::{SinkError, Warehouse};
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use crate::config::Config;
use crate::evidence::Evidence;
use crate::failpoint;
use crate::fold::Aggregates;
use crate::homes::Homes;
use crate::idle::Idle;
use crate::meter::Meter;
use crate::protocol::{ATTEMPTS_MAX, Happened};
use crate::publish::{publish_owed, sweep};
use crate::source::{Delivery, Source, SourceError, TopicPartition};
use crate::store::lease::{Lease, Role};
use crate::store::{Database, StoreError, home, manifest, timeline};
use crate::wallet::Purses;
use crate::window::{Counts, Cut, Position};

#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error("an aggregate failed: {0}")]
    Aggregate(#[from] DataFusionError),
    #[error("a task that was to encode or publish did not finish: {0}. Nothing is lost: restart the worker")]
    Unfinished(#[from] tokio::task::JoinError),
    #[error(
        "another worker has taken over {partitions}. This one has stopped; what it had not committed is read again by the other. \
         Hint: restart it to join the group again"
    )]
    Fenced { partitions: String },
    #[error(
        "a round could not be committed in {attempts} attempts; the last trouble: {last}. Nothing is lost: restart the worker"
    )]
    GaveUp { attempts: u32, last: String },
}

/// What a run did, for whoever started it.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    pub counts: Counts,
    pub metered_minutes: u64,
    pub away_minutes: u64,
    pub rated_records: u64,
    pub revised_windows: u64,
    pub commits: u64,
    pub files: u64,
}

/// How far a run is, told now and then.
pub type Progress = Box<dyn FnMut(&Summary) + Send>;

pub struct Worker {
    config: Config,
    source: Box<dyn Source>,
    db: Database,
    warehouse: Warehouse,
    aggregates: Arc<Aggregates>,
    progress: Option<Progress>,

    history: History,
    history_version: i64,
    purses: Purses,
    homes: Homes,
    telemetry_partitions: i32,

    streams: BTreeMap<TopicPartition, Stream>,
    /// Told by meters that there is something new.
    progressed: Arc<Notify>,
    lifecycles: BTreeMap<TopicPartition, lifecycle::LifecycleStream>,
    lifecycle_sender: mpsc::Sender<Delivery>,
    lifecycle_deliveries: mpsc::Receiver<Delivery>,

    finished_attempts: HashSet<String>,
    /// A publication was interrupted.
    owing: bool,
    last_round: Instant,
    last_upkeep: Instant,
    last_sweep: Instant,
    summary: Summary,
    closed_counts: Counts,
    told_about_keys: bool,
}

/// One telemetry partition of this worker.
struct Stream {
    meter: Meter,
    lease: Lease,
    evidence: Evidence,
    listening: homes::Listening,
    /// What was cut and is not committed yet; it survives a round that failed.
    cut: Cut,
    cut_at: Position,
}

impl Worker {
    /// Prepares a worker: checks the warehouse, registers the topics' partitions, reads timelines and homes.
    pub async fn new(
        config: Config,
        source: Box<dyn Source>,
        mut db: Database,
        warehouse: Warehouse,
    ) -> Result<Worker, WorkerError> {
        warehouse.check_writable().await?;
        let mut telemetry_partitions = 0;
        for (topic, count) in source.partitions() {
            let role = if *topic == *config.topics.lifecycle { Role::Lifecycle } else { Role::Telemetry };
            if role == Role::Telemetry {
                telemetry_partitions += count;
            }
            db.ensure_partitions(&topic, role, count).await?;
        }
        let (lifecycle_sender, lifecycle_deliveries) = mpsc::channel(4);
        let mut worker = Worker {
            aggregates: Arc::new(Aggregates::new()?),
            config,
            source,
            db,
            warehouse,
            progress: None,
            history: History::default(),
            history_version: 0,
            purses: Purses::default(),
            homes: Homes::default(),
            telemetry_partitions,
            streams: BTreeMap::new(),
            progressed: Arc::new(Notify::new()),
            lifecycles: BTreeMap::new(),
            lifecycle_sender,
            lifecycle_deliveries,
            finished_attempts: HashSet::new(),
            owing: false,
            last_round: Instant::now(),
            last_upkeep: Instant::now(),
            last_sweep: Instant::now(),
            summary: Summary::default(),
            closed_counts: Counts::default(),
            told_about_keys: false,
        };
        worker.refresh_history().await?;
        worker.homes = home::homes(worker.db.client_ref()).await?;
        Ok(worker)
    }

    pub fn with_progress(mut self, progress: Progress) -> Worker {
        self.progress = Some(progress);
        self
    }

    /// Runs until the source ends or `stop` resolves; then drains and commits what can be committed.
    pub fn run<'a>(self, stop: impl Future<Output = ()> + 'a) -> LocalBoxFuture<'a, Result<Summary, WorkerError>> {
        self.run_boxed(Box::pin(stop))
    }

    /// Boxed here, so that the whole of the worker is compiled once and not again in every program and test that runs it.
    fn run_boxed(mut self, stop: LocalBoxFuture<'_, ()>) -> LocalBoxFuture<'_, Result<Summary, WorkerError>> {
        Box::pin(async move {
            let result = self.run_until(stop).await;
            if result.is_err() {
                self.leave().await;
            }
            result
        })
    }

    /// After an error: leaves the group, so that others need not wait for this member's session to time out. Nothing is committed.
    async fn leave(&mut self) {
        self.source.stop();
        // A source that waits for a meter waits no more.
        self.streams.clear();
        self.lifecycle_deliveries.close();
        let left = async {
            while let Some(event) = self.source.next().await {
                // An answer that is dropped lets the source go on.
                drop(event);
            }
        };
        if tokio::time::timeout(Duration::from_secs(5), left).await.is_err() {
            tracing::warn!("could not leave the consumer group in time");
        }
    }

    async fn run_until(&mut self, mut stop: LocalBoxFuture<'_, ()>) -> Result<Summary, WorkerError> {
        let (mut stopping, mut source_is_over) = (false, false);
        let mut tick = tokio::time::interval(Duration::from_millis(250));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let progressed = self.progressed.clone();
        loop {
            let mut stepped = None;
            tokio::select! {
                () = &mut stop, if !stopping => {
                    tracing::info!("stopping: draining, committing, leaving the group");
                    stopping = true;
                    self.source.stop();
                }
                event = self.source.next(), if !source_is_over => match event {
                    Some(event) => stepped = self.take(event?).await?,
                    None => source_is_over = true,
                },
                Some(delivery) = self.lifecycle_deliveries.recv() => self.take_lifecycle(delivery),
                () = progressed.notified() => {}
                _ = tick.tick() => self.advance_idle().await?,
            }
            self.check_meters()?;
            self.patiently(false).await?;
            if let Some(reply) = stepped {
                let _ = reply.send(());
            }
            // A log that ends has been read before it has been metered.
            if self.all_ended() || (source_is_over && (stopping || self.source.horizon().is_none())) {
                break;
            }
        }
        if self.all_ended() && !self.streams.is_empty() {
            self.finish().await?;
        }
        self.tell();
        Ok(self.summary.clone())
    }

    fn check_meters(&self) -> Result<(), WorkerError> {
        self.streams.values().find_map(|s| s.meter.failure()).map_or(Ok(()), |error| Err(error.into()))
    }

    fn all_ended(&self) -> bool {
        let streams = !self.streams.is_empty() && self.streams.values().all(|s| s.meter.standing().ended);
        streams && self.lifecycles.values().all(|l| l.ended)
    }

    /// A log that has ended: round after round until nothing is owed.
    async fn finish(&mut self) -> Result<(), WorkerError> {
        loop {
            let before = (self.summary.commits, self.summary.files);
            self.patiently(true).await?;
            if before == (self.summary.commits, self.summary.files) {
                return Ok(());
            }
        }
    }

    /// Does what is due; waits for a database that went away, since nothing is lost while it is.
    async fn patiently(&mut self, force: bool) -> Result<(), WorkerError> {
        let mut refusals = 0;
        while let Err(error) = self.work(force).await {
            self.outlive(error, &mut refusals).await?;
        }
        Ok(())
    }

    /// Waits until a passing trouble of the database is over, so that the same can be tried again; any other ends the worker.
    async fn outlive(&mut self, error: WorkerError, refusals: &mut u32) -> Result<(), WorkerError> {
        match error {
            WorkerError::Store(error) if error.is_disconnect() => {
                tracing::warn!(%error, "the database went away; waiting for it");
                self.db.reconnect().await?;
                self.forget_history();
                Ok(())
            }
            // A lock that a worker holds which stopped dead: the server ends that session in time.
            WorkerError::Store(error) if error.is_transient() && *refusals < ATTEMPTS_MAX => {
                tracing::warn!(%error, "the database refused; trying again");
                *refusals += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok(())
            }
            other => Err(other),
        }
    }

    async fn work(&mut self, force: bool) -> Result<(), WorkerError> {
        let interval = Duration::from_millis(self.config.commit.interval_ms);
        // A meter without room waits for a commit.
        let full = self.streams.values().any(|s| s.meter.standing().full);
        if !force && !full && self.last_round.elapsed() < interval {
            return Ok(());
        }
        let began = Instant::now();
        if self.owing {
            self.publish_all().await?;
        }
        self.commit_lifecycles().await?;
        if self.live_round_due(force).await? {
            self.live_round().await?;
            self.move_homes().await?;
        }
        if force || self.last_upkeep.elapsed().as_secs() >= self.config.commit.upkeep_s {
            self.revise().await?;
            self.close_due().await?;
            self.upkeep().await?;
            self.last_upkeep = Instant::now();
        }
        self.last_round = Instant::now();
        if began.elapsed() > Duration::from_secs(1) {
            // Nobody listened meanwhile: events may be waiting, so this was not the partitions' silence.
            self.lifecycles.values_mut().for_each(|l| l.idle.last_record = Instant::now());
        }
        self.tell();
        Ok(())
    }

    fn tell(&mut self) {
        self.summary.counts = self.closed_counts;
        for stream in self.streams.values() {
            let counts = stream.meter.standing().counts;
            self.summary.counts.records += counts.records;
            self.summary.counts.readings += counts.readings;
            self.summary.counts.late += counts.late;
            self.summary.counts.quarantined += counts.quarantined;
            self.summary.counts.replayed += counts.replayed;
        }
        let summary = self.summary.clone();
        if let Some(progress) = &mut self.progress {
            progress(&summary);
        }
    }

    /// Takes what was delivered before a rebalance. All lifecycle partitions share one channel, and its reader waits for the answer to
    /// the rebalance: so nothing of an assignment that is over can reach the next one, which starts at what was committed.
    fn take_delivered_lifecycle(&mut self) {
        while let Ok(delivery) = self.lifecycle_deliveries.try_recv() {
            self.take_lifecycle(delivery);
        }
    }

    fn take_lifecycle(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Batch(batch) => {
                if let Some(stream) = self.lifecycles.get_mut(&batch.partition) {
                    stream.take(&batch);
                }
            }
            Delivery::CaughtUp(partition, next, at) => {
                if let Some(stream) = self.lifecycles.get_mut(&partition) {
                    stream.caught_up(next, at);
                }
            }
            Delivery::Ended(partition) => {
                if let Some(stream) = self.lifecycles.get_mut(&partition) {
                    stream.end();
                }
            }
            Delivery::Passed(reply) => {
                let _ = reply.send(());
            }
        }
    }

    /// Publishes what these partitions owe. What a trouble interrupts stays owed and is taken up by the next work.
    async fn publish(&mut self, partitions: &[TopicPartition]) -> Result<(), WorkerError> {
        self.owing = true;
        self.summary.files += publish_owed(&self.db, &self.warehouse, partitions).await? as u64;
        self.owing = false;
        Ok(())
    }

    async fn publish_all(&mut self) -> Result<(), WorkerError> {
        let owned: Vec<TopicPartition> = self.streams.keys().chain(self.lifecycles.keys()).cloned().collect();
        self.publish(&owned).await
    }

    /// Partitions at their high watermark that had no record for the idle time move on by the database's clock.
    async fn advance_idle(&mut self) -> Result<(), WorkerError> {
        let idle = Duration::from_secs(u64::from(self.config.windows.idle_s));
        let any = self.streams.values().any(|s| s.meter.standing().is_silent_for(idle))
            || self.lifecycles.values().any(|l| !l.ended && l.idle.for_at_least(idle));
        if !any {
            return Ok(());
        }
        let now = match self.db.clock().await {
            Ok(now) => now,
            Err(error) if error.is_disconnect() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let time = now - i64::from(self.config.windows.idle_s) * MICROS_PER_SECOND;
        for stream in self.streams.values().filter(|s| s.meter.standing().is_silent_for(idle)) {
            stream.meter.advance_idle(time).await;
        }
        for stream in self.lifecycles.values_mut().filter(|l| !l.ended && l.idle.for_at_least(idle)) {
            stream.time = stream.time.max(time).min(FOREVER_MICROS);
        }
        Ok(())
    }

    /// Folds events that were committed since (by whichever worker has the lifecycle topic).
    async fn refresh_history(&mut self) -> Result<(), WorkerError> {
        let (version, events) = timeline::events_since(self.db.client_ref(), self.history_version).await?;
        self.history.insert(events);
        self.history_version = version;
        Ok(())
    }

    /// After a transaction whose outcome is unknown the history may hold events that never were: it is read anew.
    fn forget_history(&mut self) {
        self.history = History::default();
        self.purses = Purses::default();
        self.history_version = 0;
    }

    /// Sweeps staging, retires what nothing needs, and lets grants of wallets expire.
    async fn upkeep(&mut self) -> Result<(), WorkerError> {
        let frozen: Vec<(TopicPartition, i64)> =
            self.streams.values().map(|s| (s.lease.partition.clone(), hour_floor(s.lease.frontier))).collect();
        for (partition, frozen) in frozen {
            failpoint::pass("retire.before");
            manifest::retire_late(self.db.client_ref(), &partition, frozen).await?;
            failpoint::pass("retire.after");
        }
        self.db.expire_grants().await?;
        if self.last_sweep.elapsed().as_secs() >= self.config.commit.sweep_s {
            let finished = &self.finished_attempts;
            sweep(&self.db, &self.warehouse, &|attempt| finished.contains(attempt)).await?;
            self.finished_attempts.clear();
            self.last_sweep = Instant::now();
        }
        Ok(())
    }

    fn note_keys(&mut self) {
        let (metered, away) = (self.summary.metered_minutes, self.summary.away_minutes);
        if !self.told_about_keys && away > 100 && away * 5 > metered {
            self.told_about_keys = true;
            tracing::warn!(
                "more than a fifth of the metered minutes came in partitions away from their server's home: is {} written without \
                 keys? Nothing is lost (they are rated by revisions, late), but key the records by server, for example with the \
                 collector's `partition_metrics_by_resource_attributes: true` or the producer's message key",
                self.config.topics.telemetry
            );
        }
    }
}

/// A fresh id for an attempt, and the protocol's step that it leads to.
fn fresh() -> Uuid {
    Uuid::new_v4()
}

/// For an outcome that carries the error behind it.
fn explain(happened: Happened, error: Option<&StoreError>) -> String {
    match error {
        Some(error) => format!("{happened:?}: {error}"),
        None => format!("{happened:?}"),
    }
}
