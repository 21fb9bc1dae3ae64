use std::sync::LazyLock;

use hydrometer_schemas::time::MICROS_PER_SECOND;
use hydrometer_sinks::usage::{UsageKey, merged};

use super::*;
use crate::source::RecordMeta;

struct Random(u64);

impl Random {
    fn below(&mut self, n: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as i64
    }
}

/// A whole minute.
const START: Micros = 1_772_359_200 * MICROS_PER_SECOND;

static AGGREGATES: LazyLock<Arc<Aggregates>> = LazyLock::new(|| Arc::new(Aggregates::new().unwrap()));

fn partition() -> TopicPartition {
    TopicPartition { topic: Arc::from("t"), partition: 4 }
}

fn open(position: Position, limits: WindowLimits) -> PartitionWindow {
    PartitionWindow::open(partition(), position, limits, AGGREGATES.clone()).unwrap()
}

fn limits(lateness_s: i64, vouches_for: i64) -> WindowLimits {
    WindowLimits { lateness: lateness_s * MICROS_PER_SECOND, vouches_for, identities: 100 }
}

#[derive(Debug, Clone)]
struct Said {
    gpu: i64,
    time: Micros,
    busy: bool,
    energy: Option<i64>,
    xid: i32,
}

/// A record of a log, what it says, and whether one of its elements is bad.
#[derive(Debug, Clone)]
struct Entry {
    log_time: Micros,
    said: Vec<Said>,
    bad: bool,
    payload: Vec<u8>,
}

fn entry(log_time: Micros, said: Vec<Said>, bad: bool) -> Entry {
    let mut elements: Vec<String> = said
        .iter()
        .map(|s| {
            let energy = s.energy.map_or(String::new(), |e| format!(",\"energy_j\":{e}"));
            let (gpu, time, util, xid) = (s.gpu, s.time, u8::from(s.busy), s.xid);
            format!("{{\"gpu\":\"g{gpu}\",\"server\":\"s\",\"time\":{time},\"util\":{util},\"xid\":{xid}{energy}}}")
        })
        .collect();
    if bad {
        elements.push("{}".into());
    }
    Entry { log_time, said, bad, payload: format!("[{}]", elements.join(",")).into_bytes() }
}

/// A log of some minutes in which readings are early, in order, late and very late, and some records are bad.
fn some_log(random: &mut Random) -> Vec<Entry> {
    let mut clock = START;
    (0..60 + random.below(120))
        .map(|_| {
            clock += random.below(9) * MICROS_PER_SECOND + random.below(3) * 333_333;
            let said = (0..random.below(4))
                .map(|_| Said {
                    gpu: random.below(3),
                    time: clock + [0, -1, -5, -40, -100, -400, 20][random.below(7) as usize] * MICROS_PER_SECOND,
                    busy: random.below(2) == 0,
                    energy: (random.below(2) == 0).then(|| random.below(5)),
                    xid: [0, 0, 31][random.below(3) as usize],
                })
                .collect();
            entry(clock, said, random.below(12) == 0)
        })
        .collect()
}

fn batch(log: &[Entry], from: usize, to: usize) -> Batch {
    let mut batch = Batch::new(partition());
    for (offset, entry) in log.iter().enumerate().take(to).skip(from) {
        batch.push(offset as i64, entry.log_time, &entry.payload);
    }
    batch
}

/// What a run handed over; closed rows must be handed over once.
#[derive(Debug, Default, PartialEq, Clone)]
struct Handed {
    closed: BTreeMap<UsageKey, UsageRow>,
    late: BTreeMap<UsageKey, UsageRow>,
    quarantine: Vec<i64>,
}

impl Handed {
    fn take(&mut self, cut: Cut) {
        for row in cut.closed {
            let twice = self.closed.insert(row.key(), row);
            assert!(twice.is_none(), "closed twice: {twice:?}");
        }
        self.late = merged(std::mem::take(&mut self.late).into_values().chain(cut.late));
        self.quarantine.extend(cut.quarantine.iter().map(|q| q.offset));
    }
}

/// The rule of the module's head, reading by reading and second by second. `end`: the log ends here.
fn by_hand(log: &[Entry], limits: WindowLimits, end: bool) -> (Handed, Micros) {
    let mut time = 0;
    let mut rows: [BTreeMap<UsageKey, UsageRow>; 2] = Default::default();
    let mut quarantine = Vec::new();
    for (offset, entry) in log.iter().enumerate() {
        for said in &entry.said {
            let own = said.time.div_euclid(MICROS_PER_SECOND);
            for second in own..own + limits.vouches_for {
                let minute = second.div_euclid(60);
                let is_late = time >= (minute + 1) * MICROS_PER_MINUTE + limits.lateness;
                let bit = 1u64 << second.rem_euclid(60);
                let of_own = own.div_euclid(60) == minute;
                let energy = said.energy.filter(|_| of_own).map(|e| (said.time, e));
                let xid = (said.xid != 0 && of_own).then(|| (said.xid, own.rem_euclid(60) as u8));
                let row = UsageRow {
                    server: Arc::from("s"),
                    gpu: Arc::from(format!("g{}", said.gpu)),
                    minute,
                    present: bit,
                    busy: if said.busy { bit } else { 0 },
                    healthy: 0,
                    power_min_w: None,
                    power_max_w: None,
                    mem_max_bytes: None,
                    energy_first: energy,
                    energy_last: energy,
                    xids: xid.into_iter().collect(),
                    topic: partition().topic,
                    partition: partition().partition,
                    first_offset: offset as i64,
                    last_offset: offset as i64,
                    revision: 0,
                };
                let rows = &mut rows[usize::from(is_late)];
                rows.entry(row.key()).and_modify(|r| r.merge(&row)).or_insert(row);
            }
            time = time.max(said.time.min(entry.log_time));
        }
        if entry.bad {
            quarantine.push(offset as i64);
        }
    }
    let [mut closed, late] = rows;
    closed.retain(|(_, _, minute), _| end || time >= (minute + 1) * MICROS_PER_MINUTE + limits.lateness);
    (Handed { closed, late, quarantine }, time)
}

fn some_limits(random: &mut Random) -> WindowLimits {
    limits([0, 1, 30, 90][random.below(4) as usize], [1, 1, 3, 60, 70][random.below(5) as usize])
}

#[test]
fn closing_is_a_function_of_the_log() {
    for seed in 0..150 {
        let mut random = Random(seed);
        let (log, limits) = (some_log(&mut random), some_limits(&mut random));
        let (unended, time) = by_hand(&log, limits, false);
        let (ended, _) = by_hand(&log, limits, true);
        let readings: usize = log.iter().map(|e| e.said.len()).sum();
        for largest in [1, 7, 1_000] {
            let mut window = open(Position::default(), limits);
            let mut handed = Handed::default();
            let mut at = 0;
            while at < log.len() {
                let to = (at + 1 + random.below(largest) as usize).min(log.len());
                window.take(&batch(&log, at, to)).unwrap();
                if random.below(3) == 0 {
                    handed.take(window.cut().unwrap());
                    assert!(!window.has_closed() && !window.holds_late_or_quarantine());
                }
                at = to;
            }
            handed.take(window.cut().unwrap());
            assert_eq!(handed, unended, "seed {seed}, batches of up to {largest}");
            assert_eq!((window.position().time, window.position().next), (time, log.len() as i64), "seed {seed}");
            let counts = window.counts();
            assert_eq!((counts.records, counts.readings), (log.len() as u64, readings as u64), "seed {seed}");
            assert_eq!((counts.quarantined, counts.replayed), (unended.quarantine.len() as u64, 0), "seed {seed}");
            window.end();
            handed.take(window.cut().unwrap());
            assert_eq!(handed, ended, "seed {seed}, batches of up to {largest}");
            assert!(window.open.is_empty());
            assert_eq!(window.position().replay_from, window.position().next);
        }
    }
}

/// Commits now and then, stops dead in between, and goes on from the last commit. `at_once`: some commits come before a
/// restarted window was given anything.
fn restarted(log: &[Entry], limits: WindowLimits, random: &mut Random, at_once: bool) -> Handed {
    let (mut position, mut handed) = (Position::default(), Handed::default());
    loop {
        let mut window = open(position, limits);
        let mut at = position.replay_from as usize;
        // Some die while they still rebuild what was open.
        let from = if random.below(4) == 0 { position.replay_from } else { position.next };
        let stops_at = (from + 1 + random.below(60)) as usize;
        if at_once && random.below(2) == 0 {
            handed.take(window.cut().unwrap());
            position = window.position();
            continue;
        }
        while at < log.len() && at < stops_at {
            let to = (at + 1 + random.below(9) as usize).min(log.len());
            window.take(&batch(log, at, to)).unwrap();
            at = to;
            if random.below(4) == 0 {
                handed.take(window.cut().unwrap());
                position = window.position();
            }
        }
        if at == log.len() {
            handed.take(window.cut().unwrap());
            window.end();
            handed.take(window.cut().unwrap());
            return handed;
        }
    }
}

#[test]
fn a_restart_rebuilds_exactly_what_was_open() {
    for seed in 0..300 {
        let mut random = Random(seed);
        let (log, limits) = (some_log(&mut random), some_limits(&mut random));
        let (expected, _) = by_hand(&log, limits, true);
        assert_eq!(restarted(&log, limits, &mut random, false), expected, "seed {seed}");
    }
}

/// A round of other partitions commits this one's position too, before its first record has come again.
#[test]
fn a_commit_before_the_replay_forgets_nothing() {
    let limits = limits(0, 1);
    let position = Position { next: 100, replay_from: 40, time: START, closed_until: START / MICROS_PER_MINUTE };
    assert_eq!(open(position, limits).position(), position);
    for seed in 0..100 {
        let mut random = Random(seed);
        let (log, limits) = (some_log(&mut random), some_limits(&mut random));
        let (expected, _) = by_hand(&log, limits, true);
        assert_eq!(restarted(&log, limits, &mut random, true), expected, "seed {seed}");
    }
}

fn said(gpu: i64, second: i64) -> Said {
    Said { gpu, time: START + second * MICROS_PER_SECOND, busy: true, energy: None, xid: 0 }
}

fn log_of(seconds: &[(i64, i64)]) -> Vec<Entry> {
    let at = |log_second: i64| START + log_second * MICROS_PER_SECOND;
    seconds.iter().map(|(log_second, second)| entry(at(*log_second), vec![said(0, *second)], false)).collect()
}

#[test]
fn the_edge_of_lateness() {
    // A minute is closed by the reading at its end plus the lateness, and not by one a second earlier.
    for (closing, late) in [(89, 0), (90, 1)] {
        let log = log_of(&[(0, 0), (closing, closing), (closing, 59)]);
        let mut window = open(Position::default(), limits(30, 1));
        window.take(&batch(&log, 0, 3)).unwrap();
        assert_eq!(window.counts().late, late);
        let cut = window.cut().unwrap();
        assert_eq!((cut.closed.len(), cut.late.len()), (late as usize, late as usize));
    }
    // A clock ahead of the broker's closes nothing: the log time bounds it.
    let mut window = open(Position::default(), limits(30, 1));
    window.take(&batch(&log_of(&[(0, 0), (10, 200), (11, 1)]), 0, 3)).unwrap();
    assert_eq!((window.counts().late, window.has_closed()), (0, false));
    assert_eq!(window.position().time, START + 10 * MICROS_PER_SECOND);
    // Nor does a broker's clock alone, when readings are old.
    let mut window = open(Position::default(), limits(30, 1));
    window.take(&batch(&log_of(&[(0, 0), (900, 5), (901, 6)]), 0, 3)).unwrap();
    assert_eq!((window.counts().late, window.has_closed()), (0, false));
}

#[test]
fn a_reading_across_an_edge_may_be_late_in_part() {
    let log = log_of(&[(60, 60), (61, 59)]);
    let mut window = open(Position::default(), limits(0, 2));
    window.take(&batch(&log, 0, 2)).unwrap();
    assert_eq!(window.counts().late, 1);
    window.end();
    let cut = window.cut().unwrap();
    assert_eq!((cut.late.len(), cut.late[0].present), (1, 1 << 59));
    assert_eq!((cut.closed.len(), cut.closed[0].present), (1, 0b11));
}

#[test]
fn idle_partitions_move_on_by_the_clock() {
    let log = log_of(&[(0, 0), (10, 10), (11, 11)]);
    let mut window = open(Position::default(), limits(30, 1));
    window.take(&batch(&log, 0, 2)).unwrap();
    window.advance_idle(START + 89 * MICROS_PER_SECOND);
    assert!(!window.has_closed());
    assert!(!window.advance_idle(START + 89 * MICROS_PER_SECOND), "no minute closes twice");
    assert!(window.advance_idle(START + 90 * MICROS_PER_SECOND));
    assert!(!window.advance_idle(START + 20 * MICROS_PER_SECOND), "time never goes back");
    assert_eq!(window.position().time, START + 90 * MICROS_PER_SECOND);
    assert_eq!(window.closed_until(), START / MICROS_PER_SECOND + 60);
    assert_eq!(window.cut().unwrap().closed[0].present, 1 | 1 << 10);
    // What comes for that minute afterwards is late; what it adds is kept.
    window.take(&batch(&log, 2, 3)).unwrap();
    let cut = window.cut().unwrap();
    assert_eq!((cut.closed.len(), cut.late[0].present, window.counts().late), (0, 1 << 11, 1));
}

#[test]
fn gaps_in_offsets_are_no_loss() {
    let log = log_of(&[(0, 0), (1, 1)]);
    let mut batch = batch(&log, 0, 2);
    batch.records[1] = RecordMeta { offset: 17, ..batch.records[1] };
    batch.next = 18;
    let mut window = open(Position::default(), limits(30, 1));
    window.take(&batch).unwrap();
    assert_eq!((window.position().next, window.position().replay_from), (18, 0));
    window.end();
    let cut = window.cut().unwrap();
    assert_eq!((cut.closed[0].first_offset, cut.closed[0].last_offset), (0, 17));
}
