//! When a partition counts as silent, so that it may move on by the clock although no record comes.

use std::time::{Duration, Instant};

/// Since when a partition has been at its high watermark without a record.
#[derive(Debug, Clone, Copy)]
pub struct Idle {
    pub last_record: Instant,
    /// When the source said so last.
    pub caught_up: Option<Instant>,
}

/// For so long the word that a partition is at its high watermark is good. A broker that is away is no silence of the partition:
/// what it holds may be waiting.
const CAUGHT_UP_FOR: Duration = Duration::from_secs(10);

impl Default for Idle {
    fn default() -> Idle {
        Idle { last_record: Instant::now(), caught_up: None }
    }
}

impl Idle {
    pub fn record(&mut self) {
        *self = Idle::default();
    }

    pub fn for_at_least(&self, time: Duration) -> bool {
        // So long after its last record somebody who knows said that there is none.
        let confirmed = |at: Instant| at.saturating_duration_since(self.last_record) >= time;
        self.caught_up.is_some_and(|at| at.elapsed() <= CAUGHT_UP_FOR && confirmed(at))
    }
}
