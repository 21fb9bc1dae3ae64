//! Partition log files: the embedded default of the demo, and what archived topics are replayed from.
//!
//! `DIR/TOPIC/PARTITION.log[.zst]`, one record a line: log time in microseconds, TAB, key, TAB, payload; in the payload `\\` is a
//! backslash and `\n` a line feed. The line number is the offset.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use async_trait::async_trait;
use hydrometer_schemas::MESSAGE_BYTES_MAX;
use hydrometer_schemas::time::{Micros, Second, hour_ceil, hour_floor, second_of};
use tokio::sync::{mpsc, oneshot};

use super::{Batch, Delivery, Source, SourceError, SourceEvent, Start, TopicPartition};

/// The order in which the partitions' records are handed over.
#[derive(Debug, Clone, Copy)]
pub enum Interleave {
    /// As they were appended, to within this many microseconds: the oldest log time first, all topics together.
    LogTime { slack: Micros },
    /// Any order and any batch size, from a seed (for tests).
    Seeded(u64),
}

#[derive(Debug, Clone)]
pub struct FileSourceConfig {
    pub dir: PathBuf,
    pub topics: Vec<Arc<str>>,
    pub batch_records: usize,
    pub interleave: Interleave,
    /// Rate leases that are still open when the logs end up to here; without it, up to the end of the last record's hour.
    pub until: Option<Second>,
    /// Hands over one batch at a time and waits until it was metered and a round was run, so that a run can be repeated exactly.
    pub lockstep: bool,
}

pub struct FileSource {
    partitions: Vec<(Arc<str>, i32)>,
    events: mpsc::Receiver<Result<SourceEvent, SourceError>>,
    horizon: Arc<Horizon>,
}

/// How far leases that are still open may be rated. While the logs are being read it is the hour up to which they were appended
/// to what was read so far; when all have ended, the end of the last record's hour.
struct Horizon {
    fixed: Option<Second>,
    reached: AtomicI64,
}

const HINT: &str = "a log line is LOG_TIME_MICROSECONDS<TAB>KEY<TAB>PAYLOAD; see docs/formats.md";

impl FileSource {
    pub fn open(config: FileSourceConfig) -> Result<FileSource, SourceError> {
        let mut logs = BTreeMap::new();
        let mut partitions = Vec::new();
        for topic in &config.topics {
            let found = find_logs(&config.dir, topic)?;
            partitions.push((topic.clone(), found.len() as i32));
            logs.extend(found);
        }
        let horizon = Arc::new(Horizon { fixed: config.until, reached: AtomicI64::new(0) });
        let (sender, events) = mpsc::channel(4);
        let reader = Reader { config, logs, sender, horizon: horizon.clone() };
        std::thread::Builder::new()
            .name("file-source".into())
            .spawn(move || reader.run())
            .map_err(|e| SourceError::new("cannot start the reading thread", e, "check the limit on threads"))?;
        Ok(FileSource { partitions, events, horizon })
    }
}

#[async_trait]
impl Source for FileSource {
    fn partitions(&self) -> Vec<(Arc<str>, i32)> {
        self.partitions.clone()
    }

    async fn next(&mut self) -> Option<Result<SourceEvent, SourceError>> {
        self.events.recv().await
    }

    fn committed(&mut self, _positions: &[(TopicPartition, i64)]) {}

    fn horizon(&self) -> Option<Second> {
        Some(self.horizon.fixed.unwrap_or_else(|| self.horizon.reached.load(Ordering::Acquire)))
    }

    fn stop(&mut self) {
        self.events.close();
    }
}

/// The logs of a topic; they must be numbered from 0 without a gap.
fn find_logs(dir: &Path, topic: &Arc<str>) -> Result<BTreeMap<TopicPartition, PathBuf>, SourceError> {
    let folder = dir.join(&**topic);
    let failed = |detail: String| {
        SourceError::new(
            format!("cannot read the partition logs of topic {topic} in {}", folder.display()),
            detail,
            "expected files 0.log, 1.log, … or 0.log.zst, …; `hydrometer simulate --to DIR` writes such logs",
        )
    };
    let mut logs = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).map_err(|e| failed(e.to_string()))? {
        let path = entry.map_err(|e| failed(e.to_string()))?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let number = name.strip_suffix(".log").or_else(|| name.strip_suffix(".log.zst"));
        let Some(partition) = number.and_then(|n| n.parse::<i32>().ok()) else { continue };
        let key = TopicPartition { topic: topic.clone(), partition };
        if logs.insert(key, path).is_some() {
            return Err(failed(format!("partition {partition} is there twice")));
        }
    }
    if logs.is_empty() {
        return Err(failed("there is no log in it".into()));
    }
    for (expected, key) in logs.keys().enumerate() {
        if key.partition != expected as i32 {
            return Err(failed(format!("partition {expected} is missing")));
        }
    }
    Ok(logs)
}

struct Reader {
    config: FileSourceConfig,
    logs: BTreeMap<TopicPartition, PathBuf>,
    sender: mpsc::Sender<Result<SourceEvent, SourceError>>,
    horizon: Arc<Horizon>,
}

/// The receiver is gone: stop quietly.
struct Stopped;

impl Reader {
    fn run(self) {
        if let Err(ReadEnd::Failed(error)) = self.read_all() {
            let _ = self.sender.blocking_send(Err(error));
        }
    }

    fn read_all(&self) -> Result<(), ReadEnd> {
        let (reply, starts) = oneshot::channel();
        self.send(SourceEvent::Assigned(self.logs.keys().cloned().collect(), reply))?;
        let mut open = Vec::new();
        for start in starts.blocking_recv().map_err(|_| ReadEnd::Stopped)? {
            let Some(path) = self.logs.get(&start.partition) else { continue };
            open.push(PartitionLog::open(start, path.clone()).map_err(ReadEnd::Failed)?);
        }
        open.sort_by(|a, b| a.partition.cmp(&b.partition));
        // What was handled by an earlier run counts too.
        let mut last_log_time = open.iter().map(|log| log.last_log_time).max().unwrap_or(0);
        let mut seed = match self.config.interleave {
            Interleave::Seeded(seed) => seed,
            Interleave::LogTime { .. } => 0,
        };
        loop {
            // Partitions that have nothing more are handed over as ended; the last one after the horizon is known.
            while let Some(done) = open.iter().position(|log| log.head.is_none()) {
                let log = open.swap_remove(done);
                last_log_time = last_log_time.max(log.last_log_time);
                if open.is_empty() {
                    self.horizon.reached.store(hour_ceil(second_of(last_log_time)), Ordering::Release);
                }
                self.deliver(&log.deliver_to, Delivery::Ended(log.partition))?;
            }
            if open.is_empty() {
                return Ok(());
            }
            let (index, until, records) = self.choose(&open, &mut seed);
            let log = &mut open[index];
            self.horizon.reached.store(hour_floor(second_of(last_log_time)), Ordering::Release);
            let mut batch = Batch::new(log.partition.clone());
            while let Some(head) = log.head.as_ref().filter(|head| head.log_time <= until) {
                if batch.records.len() >= records || batch.bytes.len() > 32 * MESSAGE_BYTES_MAX {
                    break;
                }
                last_log_time = last_log_time.max(head.log_time);
                batch.push(log.offset, head.log_time, &log.line[head.payload_start..]);
                log.advance().map_err(ReadEnd::Failed)?;
            }
            self.deliver(&open[index].deliver_to, Delivery::Batch(batch))?;
        }
    }

    fn deliver(&self, to: &mpsc::Sender<Delivery>, delivery: Delivery) -> Result<(), ReadEnd> {
        if self.sender.is_closed() {
            return Err(ReadEnd::Stopped);
        }
        to.blocking_send(delivery).map_err(|_| ReadEnd::Stopped)?;
        if self.config.lockstep {
            let (passed, was_passed) = oneshot::channel();
            to.blocking_send(Delivery::Passed(passed)).map_err(|_| ReadEnd::Stopped)?;
            was_passed.blocking_recv().map_err(|_| ReadEnd::Stopped)?;
            let (stepped, was_stepped) = oneshot::channel();
            self.send(SourceEvent::Step(stepped))?;
            was_stepped.blocking_recv().map_err(|_| ReadEnd::Stopped)?;
        }
        Ok(())
    }

    /// Which log to read next, up to which log time, and how many records.
    fn choose(&self, open: &[PartitionLog], seed: &mut u64) -> (usize, Micros, usize) {
        let head = |log: &PartitionLog| log.head.as_ref().map_or(Micros::MAX, |head| head.log_time);
        match self.config.interleave {
            Interleave::LogTime { slack } => {
                let oldest = (0..open.len()).min_by_key(|&i| head(&open[i])).unwrap_or(0);
                (oldest, head(&open[oldest]).saturating_add(slack), self.config.batch_records)
            }
            Interleave::Seeded(_) => {
                let mut draw = || {
                    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (*seed >> 33) as usize
                };
                (draw() % open.len(), Micros::MAX, 1 + draw() % self.config.batch_records.max(1))
            }
        }
    }

    fn send(&self, event: SourceEvent) -> Result<(), ReadEnd> {
        self.sender.blocking_send(Ok(event)).map_err(|_| ReadEnd::from(Stopped))
    }
}

enum ReadEnd {
    Stopped,
    Failed(SourceError),
}

impl From<Stopped> for ReadEnd {
    fn from(_: Stopped) -> Self {
        ReadEnd::Stopped
    }
}

struct Head {
    log_time: Micros,
    payload_start: usize,
}

/// One log file, positioned before `head`, whose payload (unescaped) is in `line`.
struct PartitionLog {
    partition: TopicPartition,
    deliver_to: mpsc::Sender<Delivery>,
    path: PathBuf,
    reader: Box<dyn BufRead>,
    line: Vec<u8>,
    offset: i64,
    head: Option<Head>,
    last_log_time: Micros,
}

impl PartitionLog {
    fn open(start: Start, path: PathBuf) -> Result<PartitionLog, SourceError> {
        let Start { partition, offset, deliver_to } = start;
        let start = offset.unwrap_or(0);
        let failed = |e: std::io::Error| SourceError::new(format!("cannot open {}", path.display()), e, HINT);
        let file = File::open(&path).map_err(failed)?;
        let reader: Box<dyn BufRead> = if path.extension().is_some_and(|e| e == "zst") {
            Box::new(BufReader::with_capacity(1 << 18, zstd::Decoder::new(file).map_err(failed)?))
        } else {
            Box::new(BufReader::with_capacity(1 << 18, file))
        };
        let (line, head, last_log_time) = (Vec::new(), None, 0);
        let mut log = PartitionLog { partition, deliver_to, path, reader, line, offset: -1, head, last_log_time };
        while log.offset < start {
            log.advance()?;
            if log.head.is_none() && log.offset < start {
                return Err(SourceError::new(
                    format!("{} ends at offset {}, but offset {start} is to be read", log.path.display(), log.offset),
                    "the log is shorter than what was already handled",
                    "is this the archive that belongs to this database?",
                ));
            }
        }
        Ok(log)
    }

    fn advance(&mut self) -> Result<(), SourceError> {
        self.offset += 1;
        self.line.clear();
        let failed = |detail: String, offset: i64, path: &Path| {
            SourceError::new(format!("cannot read offset {offset} of {}", path.display()), detail, HINT)
        };
        let read = self
            .reader
            .read_until(b'\n', &mut self.line)
            .map_err(|e| failed(e.to_string(), self.offset, &self.path))?;
        if read == 0 {
            self.head = None;
            return Ok(());
        }
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
        }
        let malformed = |detail: &str| failed(detail.to_owned(), self.offset, &self.path);
        let mut tabs = self.line.iter().enumerate().filter(|(_, b)| **b == b'\t').map(|(i, _)| i);
        let (first, second) = (tabs.next(), tabs.next());
        let (Some(first), Some(second)) = (first, second) else {
            return Err(malformed("the line has fewer than two TABs"));
        };
        let log_time = std::str::from_utf8(&self.line[..first]).ok().and_then(|t| t.parse::<Micros>().ok());
        let log_time = log_time.ok_or_else(|| malformed("the line does not begin with a number"))?;
        self.last_log_time = self.last_log_time.max(log_time);
        unescape(&mut self.line, second + 1);
        self.head = Some(Head { log_time, payload_start: second + 1 });
        Ok(())
    }
}

/// Undoes the escapes of a payload, in place.
fn unescape(line: &mut Vec<u8>, from: usize) {
    let Some(first) = line[from..].iter().position(|b| *b == b'\\') else { return };
    let mut write = from + first;
    let mut read = write;
    while read < line.len() {
        let escaped = line[read] == b'\\' && read + 1 < line.len();
        if escaped {
            read += 1;
        }
        line[write] = if escaped && line[read] == b'n' { b'\n' } else { line[read] };
        write += 1;
        read += 1;
    }
    line.truncate(write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unescapes_in_place() {
        for (escaped, plain) in
            [(r"a\\b", r"a\b"), (r"a\nb", "a\nb"), ("plain", "plain"), (r"\\\n\\", "\\\n\\"), (r"end\", r"end\")]
        {
            let mut line = b"12\tk\t".to_vec();
            line.extend_from_slice(escaped.as_bytes());
            unescape(&mut line, 5);
            assert_eq!(&line[5..], plain.as_bytes());
        }
    }
}
