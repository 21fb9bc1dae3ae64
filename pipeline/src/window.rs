//! The window of one partition: what is open, what is late, and what has closed.
//!
//! **Closing is a function of the log.** The partition's time is the running maximum of min(reading's time, log time) over its
//! records in offset order. A reading is late when, just before it, that time had passed the end of its minute plus the allowed
//! lateness. No batch size, cut, crash or worker has a say in it. The one exception is [`PartitionWindow::advance_idle`].

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::error::DataFusionError;
use hydrometer_schemas::time::{FOREVER_MICROS, MICROS_PER_MINUTE, Micros, Minute, SECONDS_PER_MINUTE, Second};
use hydrometer_sinks::quarantine::QuarantineRow;
use hydrometer_sinks::usage::UsageRow;

use crate::decode::{Decoder, Readings};
use crate::fold::{Aggregates, Fold, Folded, Piece, pieces};
use crate::protocol::{Belongs, piece_belongs, replay_from};
use crate::source::{Batch, TopicPartition};

/// A partition's position, as Postgres keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// First offset not yet handled.
    pub next: i64,
    /// First offset that an open minute depends on.
    pub replay_from: i64,
    /// The partition's time at `next`.
    pub time: Micros,
    /// Every minute before it is closed.
    pub closed_until: Minute,
}

/// What the window of a partition may hold.
#[derive(Debug, Clone, Copy)]
pub struct WindowLimits {
    pub lateness: Micros,
    /// How many seconds a reading vouches for.
    pub vouches_for: i64,
    pub identities: usize,
}

pub struct PartitionWindow {
    partition: TopicPartition,
    limits: WindowLimits,
    aggregates: Arc<Aggregates>,
    decoder: Decoder,
    open: BTreeMap<Minute, OpenMinute>,
    late: LateFold,
    quarantine: Vec<QuarantineRow>,
    quarantined_bytes: usize,
    position: Position,
    /// Records below it were handled before this worker came; they only rebuild open minutes.
    handled_before: i64,
    /// Minutes before it were closed by commits before this worker came.
    closed_before: Minute,
    /// Where reading has got to; until it reaches `handled_before` the open minutes are not all rebuilt.
    read_until: i64,
    readings: Readings,
    counts: Counts,
}

/// The pieces of a batch that fall into one minute, each with the member of the fold that it belongs to.
#[derive(Default)]
struct OfMinute {
    minute: Minute,
    pieces: Vec<Piece>,
    members: Vec<usize>,
}

impl OfMinute {
    fn push(&mut self, piece: Piece, member: usize) {
        self.pieces.push(piece);
        self.members.push(member);
    }
}

struct OpenMinute {
    fold: Fold,
    first_offset: i64,
}

/// Late pieces of any minute: a group per GPU and minute.
struct LateFold {
    fold: Fold,
    groups: HashMap<(u32, Minute), usize>,
    keys: Vec<(u32, Minute)>,
}

impl LateFold {
    fn new(aggregates: &Aggregates) -> Result<LateFold, DataFusionError> {
        Ok(LateFold { fold: Fold::new(aggregates)?, groups: HashMap::new(), keys: Vec::new() })
    }

    fn group(&mut self, identity: u32, minute: Minute) -> usize {
        *self.groups.entry((identity, minute)).or_insert_with(|| {
            self.keys.push((identity, minute));
            self.keys.len() - 1
        })
    }
}

/// What was counted since the window was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub records: u64,
    pub readings: u64,
    pub late: u64,
    pub quarantined: u64,
    /// Readings read again to rebuild open minutes.
    pub replayed: u64,
}

/// What a cut takes out of the window. It is committed whole or kept whole.
#[derive(Debug, Default)]
pub struct Cut {
    pub closed: Vec<UsageRow>,
    pub late: Vec<UsageRow>,
    pub quarantine: Vec<QuarantineRow>,
}

impl Cut {
    pub fn is_empty(&self) -> bool {
        self.closed.is_empty() && self.late.is_empty() && self.quarantine.is_empty()
    }

    /// This one and what was cut after it.
    pub fn and(mut self, later: Cut) -> Cut {
        self.closed.extend(later.closed);
        self.late.extend(later.late);
        self.quarantine.extend(later.quarantine);
        self
    }
}

impl PartitionWindow {
    /// A window that continues from `position`; reading starts at `position.replay_from`.
    pub fn open(
        partition: TopicPartition,
        position: Position,
        limits: WindowLimits,
        aggregates: Arc<Aggregates>,
    ) -> Result<PartitionWindow, DataFusionError> {
        Ok(PartitionWindow {
            partition,
            decoder: Decoder::new(limits.identities),
            open: BTreeMap::new(),
            late: LateFold::new(&aggregates)?,
            quarantine: Vec::new(),
            quarantined_bytes: 0,
            position,
            handled_before: position.next,
            closed_before: position.closed_until,
            read_until: position.replay_from,
            readings: Readings::default(),
            counts: Counts::default(),
            limits,
            aggregates,
        })
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Where the stream stands: to be committed with the next cut.
    pub fn position(&self) -> Position {
        let rebuilding = self.read_until < self.handled_before;
        let first_of_open = self.open.values().map(|open| open.first_offset).min();
        let from = replay_from(rebuilding, self.position.replay_from, first_of_open, self.position.next);
        Position { replay_from: from, ..self.position }
    }

    /// Whether a cut would yield anything that is worth a commit.
    pub fn has_closed(&self) -> bool {
        self.open.first_key_value().is_some_and(|(minute, _)| *minute < self.position.closed_until)
    }

    pub fn holds_late_or_quarantine(&self) -> bool {
        !self.late.keys.is_empty() || !self.quarantine.is_empty()
    }

    /// How much waits for a cut, in metered minutes of a GPU; a quarantined record counts by its size.
    pub fn waiting_for_a_cut(&self) -> usize {
        let closed: usize = self.open.range(..self.position.closed_until).map(|(_, open)| open.fold.len()).sum();
        closed + self.late.keys.len() + self.quarantined_bytes / 256 + self.quarantine.len()
    }

    /// Takes a batch of consecutive records.
    pub fn take(&mut self, batch: &Batch) -> Result<(), DataFusionError> {
        let mut readings = std::mem::take(&mut self.readings);
        readings.clear();
        self.decode(batch, &mut readings);
        let folded = self.fold(&readings);
        self.readings = readings;
        // A batch that was not folded whole is not handled.
        folded?;
        self.position.next = self.position.next.max(batch.next);
        self.read_until = self.read_until.max(batch.next);
        Ok(())
    }

    /// The first half of taking a batch: its readings; what cannot be decoded is set aside.
    pub fn decode(&mut self, batch: &Batch, readings: &mut Readings) {
        for record in &batch.records {
            self.counts.records += 1;
            let payload = batch.payload(record);
            let decoded = self.decoder.json(payload, record.offset, record.log_time, readings);
            if let Err(refusal) = decoded
                && record.offset >= self.handled_before
            {
                self.counts.quarantined += 1;
                self.quarantined_bytes += payload.len();
                self.quarantine.push(QuarantineRow {
                    topic: self.partition.topic.clone(),
                    partition: self.partition.partition,
                    offset: record.offset,
                    log_time: record.log_time,
                    reason: refusal.reason.name().to_owned(),
                    detail: refusal.detail,
                    raw: payload.to_vec(),
                });
            }
        }
    }

    /// The second half: decides what is late, and folds.
    pub fn fold(&mut self, readings: &Readings) -> Result<(), DataFusionError> {
        let mut on_time: Vec<OfMinute> = Vec::new();
        let mut latest = 0;
        let mut late = OfMinute::default();
        for i in 0..readings.len() {
            let (time, log_time, offset) = (readings.time[i], readings.log_time[i], readings.offset[i]);
            let identity = readings.identity[i];
            let replayed = offset < self.handled_before;
            let (closed_before, closed_until) = (self.closed_before, self.position.closed_until);
            let mut was_late = false;
            pieces(i as u32, time, self.limits.vouches_for, |piece| {
                match piece_belongs(piece.minute, replayed, closed_before, closed_until) {
                    Belongs::Open => {
                        // Consecutive readings are of the same minute as a rule.
                        if on_time.get(latest).is_none_or(|of| of.minute != piece.minute) {
                            latest = on_time.iter().position(|of| of.minute == piece.minute).unwrap_or(on_time.len());
                        }
                        if latest == on_time.len() {
                            on_time.push(OfMinute { minute: piece.minute, ..OfMinute::default() });
                        }
                        on_time[latest].push(piece, identity as usize);
                    }
                    Belongs::Late => {
                        was_late = true;
                        late.push(piece, self.late.group(identity, piece.minute));
                    }
                    Belongs::Handled => {}
                }
            });
            if replayed {
                self.counts.replayed += 1;
            } else {
                self.counts.readings += 1;
                self.counts.late += u64::from(was_late);
                self.advance(time.min(log_time));
            }
        }
        for OfMinute { minute, pieces, members } in on_time {
            let first_offset = pieces.iter().map(|p| readings.offset[p.reading as usize]).min().unwrap_or(i64::MAX);
            let open = match self.open.entry(minute) {
                std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(OpenMinute { fold: Fold::new(&self.aggregates)?, first_offset })
                }
            };
            open.first_offset = open.first_offset.min(first_offset);
            open.fold.update(&self.aggregates, readings, &pieces, &members)?;
        }
        self.late.fold.update(&self.aggregates, readings, &late.pieces, &late.members)
    }

    fn advance(&mut self, time: Micros) {
        self.position.time = self.position.time.max(time);
        let closed = (self.position.time.saturating_sub(self.limits.lateness)).div_euclid(MICROS_PER_MINUTE);
        self.position.closed_until = self.position.closed_until.max(closed);
    }

    /// A partition at its high watermark that had no record for the idle time moves on by the database's clock; `next` also counts
    /// past what the log holds besides records. True when a minute closed by it.
    pub fn advance_idle(&mut self, time: Micros) -> bool {
        let before = self.position.closed_until;
        self.advance(time);
        self.position.closed_until > before
    }

    /// The log ends here for good: everything is closed.
    pub fn end(&mut self) {
        self.position.time = FOREVER_MICROS;
        self.position.closed_until = FOREVER_MICROS.div_euclid(MICROS_PER_MINUTE);
    }

    /// Every second before it is closed.
    pub fn closed_until(&self) -> Second {
        self.position.closed_until * SECONDS_PER_MINUTE
    }

    /// Takes out what has closed, what came late and what was set aside since the last cut.
    pub fn cut(&mut self) -> Result<Cut, DataFusionError> {
        let still_open = self.open.split_off(&self.position.closed_until);
        let closing = std::mem::replace(&mut self.open, still_open);
        let mut closed = Vec::new();
        for (minute, open) in closing {
            for folded in open.fold.finish()? {
                let identity = folded.member;
                closed.push(self.row(folded, identity, minute));
            }
        }
        let late = std::mem::replace(&mut self.late, LateFold::new(&self.aggregates)?);
        let mut late_rows = Vec::new();
        for folded in late.fold.finish()? {
            let (identity, minute) = late.keys[folded.member as usize];
            late_rows.push(self.row(folded, identity, minute));
        }
        self.quarantined_bytes = 0;
        Ok(Cut { closed, late: late_rows, quarantine: std::mem::take(&mut self.quarantine) })
    }

    pub fn partition(&self) -> &TopicPartition {
        &self.partition
    }

    fn row(&self, folded: Folded, identity: u32, minute: Minute) -> UsageRow {
        let (server, gpu) = self.decoder.identities().name(identity);
        UsageRow {
            server: server.clone(),
            gpu: gpu.clone(),
            minute,
            present: folded.present,
            busy: folded.busy,
            healthy: folded.healthy,
            power_min_w: folded.power_min_w,
            power_max_w: folded.power_max_w,
            mem_max_bytes: folded.mem_max_bytes,
            energy_first: folded.energy_first,
            energy_last: folded.energy_last,
            xids: folded.xids,
            topic: self.partition.topic.clone(),
            partition: self.partition.partition,
            first_offset: folded.first_offset,
            last_offset: folded.last_offset,
            revision: 0,
        }
    }
}

#[cfg(test)]
mod tests;
