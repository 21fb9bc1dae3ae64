//! The metering of one partition, on a thread of its own: it decodes and folds what its source delivers while the worker commits, and
//! partitions side by side use every core. What closes, what is late and where the stream stands is still a function of the log alone
//! ([`crate::window`]); a thread only decides when a batch is folded.
//!
//! Everything is bounded: the channel by a few batches, and what waits for its commit by [`ROOM`]. A meter without room takes nothing
//! more, so its source stops reading.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use datafusion::error::DataFusionError;
use hydrometer_schemas::time::{Micros, SECONDS_PER_MINUTE, Second};
use tokio::sync::{Mutex, Notify, mpsc};

use crate::idle::Idle;
use crate::source::{Delivery, SourceError};
use crate::window::{Counts, Cut, PartitionWindow, Position};

/// How many batches may wait for a meter.
const WAITING_BATCHES: usize = 4;
/// How much may wait for a commit, in metered minutes of a GPU (quarantined records count by their size).
const ROOM: usize = 400_000;

pub struct Meter {
    shared: Arc<Shared>,
    deliveries: mpsc::Sender<Delivery>,
    thread: Thread,
}

struct Shared {
    /// Fair, so that the worker waits for one batch at most.
    window: Mutex<PartitionWindow>,
    standing: StdMutex<Standing>,
    failure: StdMutex<Option<DataFusionError>>,
    stop: AtomicBool,
    progressed: Arc<Notify>,
}

/// Where a meter stands, as of its last batch or cut.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    pub position: Position,
    pub counts: Counts,
    /// Closed minutes, late readings or quarantined records wait for a cut.
    pub has_closed: bool,
    pub holds_late_or_quarantine: bool,
    /// No more is taken before the next cut.
    pub full: bool,
    pub idle: Idle,
    pub ended: bool,
}

impl Standing {
    pub fn closed_until(&self) -> Second {
        self.position.closed_until * SECONDS_PER_MINUTE
    }

    pub fn is_silent_for(&self, time: Duration) -> bool {
        !self.ended && self.idle.for_at_least(time)
    }
}

impl Meter {
    /// Starts metering; `progressed` is told after each delivery.
    pub fn start(window: PartitionWindow, progressed: Arc<Notify>) -> Result<Meter, SourceError> {
        let standing = Standing {
            position: window.position(),
            counts: window.counts(),
            has_closed: false,
            holds_late_or_quarantine: false,
            full: false,
            idle: Idle::default(),
            ended: false,
        };
        let name = format!("meter-{}", window.partition().partition);
        let shared = Arc::new(Shared {
            window: Mutex::new(window),
            standing: StdMutex::new(standing),
            failure: StdMutex::new(None),
            stop: AtomicBool::new(false),
            progressed,
        });
        let (deliveries, receiver) = mpsc::channel(WAITING_BATCHES);
        let metering = shared.clone();
        let thread: JoinHandle<()> = std::thread::Builder::new()
            .name(name)
            .spawn(move || metering.run(receiver))
            .map_err(|e| SourceError::new("cannot start a metering thread", e, "check the limit on threads"))?;
        Ok(Meter { shared, deliveries, thread: thread.thread().clone() })
    }

    /// Where the source delivers to.
    pub fn deliveries(&self) -> mpsc::Sender<Delivery> {
        self.deliveries.clone()
    }

    pub fn standing(&self) -> Standing {
        *lock(&self.shared.standing)
    }

    /// What broke the metering, if anything did.
    pub fn failure(&self) -> Option<DataFusionError> {
        lock(&self.shared.failure).take()
    }

    /// Takes out what has closed, what came late and what was set aside, and says where the stream stood.
    pub async fn cut(&self) -> Result<(Cut, Position), DataFusionError> {
        let (shared, thread) = (self.shared.clone(), self.thread.clone());
        let cutting = move || {
            let mut window = shared.window.blocking_lock();
            let cut = window.cut()?;
            let position = window.position();
            shared.stand(&window, |_| {});
            drop(window);
            thread.unpark();
            Ok((cut, position))
        };
        tokio::task::spawn_blocking(cutting).await.map_err(|e| DataFusionError::External(Box::new(e)))?
    }

    /// A partition at its high watermark that had no record for the idle time moves on by the database's clock.
    pub async fn advance_idle(&self, time: Micros) {
        let mut window = self.shared.window.lock().await;
        // A record may have come since its silence was noticed.
        if self.standing().idle.caught_up.is_some() {
            window.advance_idle(time);
            self.shared.stand(&window, |_| {});
        }
    }
}

impl Drop for Meter {
    /// Discards: what is not committed is read again by whoever gets the partition.
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.unpark();
    }
}

impl Shared {
    fn run(&self, mut deliveries: mpsc::Receiver<Delivery>) {
        while let Some(delivery) = deliveries.blocking_recv() {
            while lock(&self.standing).full && !self.stop.load(Ordering::Relaxed) {
                self.progressed.notify_one();
                std::thread::park_timeout(Duration::from_millis(100));
            }
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if let Err(error) = self.take(delivery) {
                *lock(&self.failure) = Some(error);
                self.progressed.notify_one();
                return;
            }
            self.progressed.notify_one();
        }
    }

    fn take(&self, delivery: Delivery) -> Result<(), DataFusionError> {
        let mut window = self.window.blocking_lock();
        match delivery {
            Delivery::Batch(batch) => {
                window.take(&batch)?;
                self.stand(&window, |standing| standing.idle.record());
            }
            Delivery::CaughtUp(_, _) => self.stand(&window, |standing| standing.idle.caught_up = Some(Instant::now())),
            Delivery::Ended(_) => {
                window.end();
                self.stand(&window, |standing| standing.ended = true);
            }
            Delivery::Passed(reply) => {
                let _ = reply.send(());
            }
        }
        Ok(())
    }

    fn stand(&self, window: &PartitionWindow, change: impl FnOnce(&mut Standing)) {
        let mut standing = lock(&self.standing);
        standing.position = window.position();
        standing.counts = window.counts();
        standing.has_closed = window.has_closed();
        standing.holds_late_or_quarantine = window.holds_late_or_quarantine();
        standing.full = window.waiting_for_a_cut() > ROOM;
        change(&mut standing);
    }
}

fn lock<T>(mutex: &StdMutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
