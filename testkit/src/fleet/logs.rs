//! Partition log files: a directory per topic, a file per partition, a line per record.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{FleetError, Outcome, Plan, Progress, Record, Topic, generate};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Writes `.log.zst` instead of `.log`.
    pub zstd: bool,
}

/// The fastest level: the logs are read once.
const ZSTD_LEVEL: i32 = 1;
const BUFFER_BYTES: usize = 1 << 18;

/// Simulates a plan into partition log files below `directory`, and its truth beside them.
pub fn write_logs(
    directory: &Path,
    plan: &Plan,
    options: LogOptions,
    report: &mut dyn FnMut(Progress),
) -> Result<Outcome, FleetError> {
    let mut writer = LogWriter::create(directory, plan.telemetry_partitions, plan.lifecycle_partitions, options)?;
    let mut progress = Progress::default();
    let outcome = generate(plan, &mut |record| {
        writer.write(&record)?;
        progress.advance(&record, report);
        Ok(())
    })?;
    writer.finish()?;
    report(progress);
    write_truth(directory, &outcome)?;
    Ok(outcome)
}

/// Writes `truth.json` into a directory.
pub fn write_truth(directory: &Path, outcome: &Outcome) -> Result<PathBuf, FleetError> {
    let path = directory.join("truth.json");
    std::fs::create_dir_all(directory).map_err(cannot_write(directory))?;
    let file = File::create(&path).map_err(cannot_write(&path))?;
    let mut file = BufWriter::new(file);
    serde_json::to_writer_pretty(&mut file, outcome)?;
    file.flush().map_err(cannot_write(&path))?;
    Ok(path)
}

/// The log files of a telemetry and a lifecycle topic.
pub struct LogWriter {
    telemetry: Vec<LogFile>,
    lifecycle: Vec<LogFile>,
    line: Vec<u8>,
}

struct LogFile {
    path: PathBuf,
    out: Output,
}

enum Output {
    Plain(BufWriter<File>),
    Zstd(BufWriter<zstd::Encoder<'static, File>>),
}

impl LogWriter {
    /// Creates one file per partition, those that will stay empty too.
    pub fn create(
        directory: &Path,
        telemetry_partitions: u32,
        lifecycle_partitions: u32,
        options: LogOptions,
    ) -> Result<Self, FleetError> {
        let create_topic = |topic: Topic, partitions: u32| {
            let folder = directory.join(topic.name());
            std::fs::create_dir_all(&folder).map_err(cannot_write(&folder))?;
            (0..partitions).map(|partition| LogFile::create(&folder, partition, options)).collect::<Result<Vec<_>, _>>()
        };
        Ok(LogWriter {
            telemetry: create_topic(Topic::Telemetry, telemetry_partitions)?,
            lifecycle: create_topic(Topic::Lifecycle, lifecycle_partitions)?,
            line: Vec::new(),
        })
    }

    pub fn write(&mut self, record: &Record) -> Result<(), FleetError> {
        let files = match record.topic {
            Topic::Telemetry => &mut self.telemetry,
            Topic::Lifecycle => &mut self.lifecycle,
        };
        self.line.clear();
        push_line(&mut self.line, record);
        let file = &mut files[record.partition as usize];
        file.out.write_all(&self.line).map_err(cannot_write(&file.path))
    }

    pub fn finish(self) -> Result<(), FleetError> {
        for file in self.telemetry.into_iter().chain(self.lifecycle) {
            file.out.finish().map_err(cannot_write(&file.path))?;
        }
        Ok(())
    }
}

impl LogFile {
    fn create(folder: &Path, partition: u32, options: LogOptions) -> Result<Self, FleetError> {
        let ending = if options.zstd { "log.zst" } else { "log" };
        let path = folder.join(format!("{partition}.{ending}"));
        let open = || {
            let file = File::create(&path)?;
            Ok(if options.zstd {
                let encoder = zstd::Encoder::new(file, ZSTD_LEVEL)?;
                Output::Zstd(BufWriter::with_capacity(BUFFER_BYTES, encoder))
            } else {
                Output::Plain(BufWriter::with_capacity(BUFFER_BYTES, file))
            })
        };
        let out = open().map_err(cannot_write(&path))?;
        Ok(LogFile { path, out })
    }
}

impl Output {
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Output::Plain(out) => out.write_all(bytes),
            Output::Zstd(out) => out.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Output::Plain(mut out) => out.flush(),
            Output::Zstd(out) => {
                let encoder = out.into_inner().map_err(io::IntoInnerError::into_error)?;
                encoder.finish().map(drop)
            }
        }
    }
}

/// Reads one partition's log file, plain or `.zst`.
pub struct LogReader {
    topic: Topic,
    partition: u32,
    path: PathBuf,
    input: Box<dyn BufRead>,
    line: u64,
}

impl LogReader {
    pub fn open(path: &Path, topic: Topic, partition: u32) -> Result<Self, FleetError> {
        let open = || -> io::Result<Box<dyn BufRead>> {
            let file = File::open(path)?;
            Ok(if path.extension().is_some_and(|ending| ending == "zst") {
                Box::new(BufReader::new(zstd::Decoder::new(file)?))
            } else {
                Box::new(BufReader::new(file))
            })
        };
        let input = open().map_err(cannot_read(path))?;
        Ok(LogReader { topic, partition, path: path.to_owned(), input, line: 0 })
    }

    fn read(&mut self) -> Result<Option<Record>, FleetError> {
        let mut line = Vec::new();
        self.input.read_until(b'\n', &mut line).map_err(cannot_read(&self.path))?;
        if line.is_empty() {
            return Ok(None);
        }
        let problem = |problem| FleetError::Line { path: self.path.clone(), line: self.line, problem };
        if line.pop() != Some(b'\n') {
            return Err(problem("the line is cut off"));
        }
        let mut fields = line.splitn(3, |&byte| byte == b'\t');
        let (Some(time), Some(key), Some(payload)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(problem("fewer than three fields"));
        };
        let log_time_us = std::str::from_utf8(time)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| problem("the log time is not a number"))?;
        let record = Record {
            topic: self.topic,
            partition: self.partition,
            log_time_us,
            key: key.to_vec(),
            payload: unescape(payload).ok_or_else(|| problem("an unknown escape"))?,
            readings: 0,
        };
        self.line += 1;
        Ok(Some(record))
    }
}

impl Iterator for LogReader {
    type Item = Result<Record, FleetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().transpose()
    }
}

fn push_line(out: &mut Vec<u8>, record: &Record) {
    out.extend_from_slice(record.log_time_us.to_string().as_bytes());
    out.push(b'\t');
    out.extend_from_slice(&record.key);
    out.push(b'\t');
    let needs_escape = |&byte: &u8| byte == b'\\' || byte == b'\n';
    let mut rest = record.payload.as_slice();
    while let Some(at) = rest.iter().position(needs_escape) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(if rest[at] == b'\n' { b"\\n" } else { b"\\\\" });
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.push(b'\n');
}

fn unescape(payload: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(payload.len());
    let mut bytes = payload.iter();
    while let Some(&byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next()? {
                b'n' => b'\n',
                b'\\' => b'\\',
                _ => return None,
            },
            other => other,
        });
    }
    Some(out)
}

fn cannot_write(path: &Path) -> impl FnOnce(io::Error) -> FleetError {
    let path = path.to_owned();
    |source| FleetError::Write { path, source }
}

fn cannot_read(path: &Path) -> impl FnOnce(io::Error) -> FleetError {
    let path = path.to_owned();
    |source| FleetError::Read { path, source }
}
