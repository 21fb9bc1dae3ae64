//! The metering of one partition, on a thread of its own: it decodes and folds what its source delivers while the worker commits, and
//! partitions side by side use every core. What closes, what is late and where the stream stands is still a function of the log alone
//! ([`crate::window`]); a thread only decides when a batch is folded.
//!
//! Everything is bounded: the channel by a few batches, and what waits for its commit by [`ROOM`]. A meter without room takes nothing
//! more, so its source stops reading.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

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
    thread: JoinHandle<()>,
}

struct Shared {
    /// Fair, so that the worker waits for one batch at most.
    window: Mutex<PartitionWindow>,
    standing: StdMutex<Standing>,
    /// What was cut out and is not fetched yet: a cut goes on when whoever waited for it has given up, and must not be lost then.
    cut: StdMutex<Option<(Cut, Position)>>,
    /// What broke the metering. It is set while the window is locked, and nothing is cut out of a window after it: a batch may be half
    /// folded.
    failure: StdMutex<Option<String>>,
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
            cut: StdMutex::new(None),
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
        Ok(Meter { shared, deliveries, thread })
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
        self.shared.refuse_after_failure().err()
    }

    /// Cuts out what has closed, what came late and what was set aside; [`Meter::take_cut`] fetches it.
    pub async fn cut(&self) -> Result<(), DataFusionError> {
        let (shared, thread) = (self.shared.clone(), self.thread.thread().clone());
        let cutting = move || {
            let mut window = shared.window.blocking_lock();
            shared.refuse_after_failure()?;
            let _noting = NotingPanics(&shared);
            let cut = window.cut().inspect_err(|error| shared.failed(error.to_string()))?;
            let mut waiting = lock(&shared.cut);
            let earlier = waiting.take().map(|(cut, _)| cut).unwrap_or_default();
            *waiting = Some((earlier.and(cut), window.position()));
            shared.stand(&window, |_| {});
            thread.unpark();
            Ok(())
        };
        tokio::task::spawn_blocking(cutting).await.map_err(|e| DataFusionError::External(Box::new(e)))?
    }

    /// What was cut out, and where the stream stood then.
    pub fn take_cut(&self) -> Option<(Cut, Position)> {
        lock(&self.shared.cut).take()
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
        self.thread.thread().unpark();
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
            self.take(delivery);
            self.progressed.notify_one();
            if lock(&self.failure).is_some() {
                return;
            }
        }
    }

    fn take(&self, delivery: Delivery) {
        let mut window = self.window.blocking_lock();
        let _noting = NotingPanics(self);
        match delivery {
            Delivery::Batch(batch) => match window.take(&batch) {
                Ok(()) => self.stand(&window, |standing| standing.idle.record()),
                Err(error) => self.failed(error.to_string()),
            },
            Delivery::CaughtUp(_, _, at) => self.stand(&window, |standing| standing.idle.caught_up = Some(at)),
            Delivery::Ended(_) => {
                window.end();
                self.stand(&window, |standing| standing.ended = true);
            }
            Delivery::Passed(reply) => {
                let _ = reply.send(());
            }
        }
    }

    fn failed(&self, why: String) {
        lock(&self.failure).get_or_insert(why);
    }

    fn refuse_after_failure(&self) -> Result<(), DataFusionError> {
        match &*lock(&self.failure) {
            Some(why) => Err(DataFusionError::Execution(format!("metering has stopped: {why}"))),
            None => Ok(()),
        }
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

/// A panic is a defect; it must not stop one partition in silence while the others go on.
struct NotingPanics<'a>(&'a Shared);

impl Drop for NotingPanics<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed("a panic (a defect; the log has its place)".to_owned());
            self.0.progressed.notify_one();
        }
    }
}

fn lock<T>(mutex: &StdMutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::task::{Context, Waker};

    use super::*;
    use crate::fold::Aggregates;
    use crate::source::{Batch, TopicPartition};
    use crate::window::WindowLimits;

    /// A meter with one closed minute of one GPU.
    async fn metered() -> Meter {
        let partition = TopicPartition { topic: "t".into(), partition: 0 };
        let limits = WindowLimits { lateness: 0, vouches_for: 1, identities: 10 };
        let aggregates = Arc::new(Aggregates::new().unwrap());
        let window = PartitionWindow::open(partition.clone(), Position::default(), limits, aggregates).unwrap();
        let meter = Meter::start(window, Arc::new(Notify::new())).unwrap();
        let mut batch = Batch::new(partition);
        for (offset, second) in [0, 59, 60].into_iter().enumerate() {
            let time = second * 1_000_000;
            batch.push(offset as i64, time, format!(r#"{{"gpu":"g","server":"s","time":{time}}}"#).as_bytes());
        }
        meter.deliveries().send(Delivery::Batch(batch)).await.unwrap();
        let (passed, was_passed) = tokio::sync::oneshot::channel();
        meter.deliveries().send(Delivery::Passed(passed)).await.unwrap();
        was_passed.await.unwrap();
        meter
    }

    #[tokio::test]
    async fn a_cut_that_nobody_waits_for_any_more_is_not_lost() {
        let meter = metered().await;
        {
            let mut given_up = std::pin::pin!(meter.cut());
            let _ = given_up.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        }
        meter.cut().await.unwrap();
        let (cut, position) = meter.take_cut().unwrap();
        assert_eq!((cut.closed.len(), cut.closed[0].present), (1, 1 | 1 << 59));
        assert_eq!((position.next, position.replay_from), (3, 2));
        assert!(meter.take_cut().is_none());
    }

    #[tokio::test]
    async fn nothing_is_cut_after_a_failure() {
        let meter = metered().await;
        assert!(meter.failure().is_none());
        meter.shared.failed("half a batch".into());
        assert!(meter.cut().await.unwrap_err().to_string().contains("half a batch"));
        assert!(meter.take_cut().is_none() && meter.failure().is_some());
    }
}
