//! `./bench fuzz [--minutes N] [--seed S] [--reader NAME]`: the readers of contracts, usage and lifecycle events under mutations of
//! everything that the corpus and the examples hold, N minutes each. An input that a reader panics on, takes long for or answers
//! inconsistently is kept in `tests/corpus/READER/`, where the tests replay it. The last line is JSON.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hydrometer_rating::terms::file;
use hydrometer_rating::usage_csv;
use hydrometer_schemas::lifecycle::Event;

/// Longer than any reader may take for an input of [`BYTES_MAX`], on a busy machine.
const SLOW: Duration = Duration::from_secs(5);
const BYTES_MAX: usize = 256 * 1024;
const FOUND_MAX: usize = 20;

struct Reader {
    name: &'static str,
    /// Directories of seeds, from the repository's root.
    seeds: &'static [&'static str],
    extension: &'static str,
    words: &'static [&'static str],
    read: fn(&[u8]) -> Result<(), String>,
}

const READERS: [Reader; 3] = [
    Reader {
        name: "contract",
        seeds: &["tests/corpus/contract", "examples/contracts"],
        extension: "yaml",
        words: &[
            "---\n",
            "charges:",
            "graduated:",
            "up_to: ",
            "price: ",
            "&a ",
            "*a",
            "<<: ",
            "{",
            "[",
            "|\n",
            "\t",
            "1e9",
            "2026-02-30T00:00:00Z",
            "null",
            "\u{feff}",
        ],
        read: file::fuzz,
    },
    Reader {
        name: "usage",
        seeds: &["tests/corpus/usage", "examples/contracts"],
        extension: "csv",
        words: &[
            "start,end,lease,gpu,charge,quantity\n",
            "start,end,lease,gpu,class\n",
            ",",
            "\"",
            "\r\n",
            "2026-03-01T00:00:00Z",
            "used",
            "-1",
            "0.0000001",
            "99999999999999999999",
        ],
        read: |bytes| match usage_csv::read(bytes) {
            Err(mistakes) if mistakes.is_empty() => Err("refused without a mistake".into()),
            _ => Ok(()),
        },
    },
    Reader {
        name: "lifecycle",
        seeds: &["tests/corpus/lifecycle"],
        extension: "json",
        words: &[
            "{",
            "[",
            "\"",
            "\\u0000",
            "null",
            "1e400",
            "\"slots\":[",
            "\"time\":\"",
            "\"document\":{",
            "\"gpu.lease.started\"",
        ],
        read: |bytes| {
            let Ok(event) = Event::parse(bytes) else { return Ok(()) };
            let key = event.key.clone();
            let stored = Event::from_stored(key.time, key.source, key.id, event.body()).map_err(|e| e.to_string())?;
            if stored == event { Ok(()) } else { Err("it is stored otherwise than it was read".into()) }
        },
    },
];

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

fn main() {
    let options = Options::read();
    let mut figures = Vec::new();
    let mut found = 0;
    for reader in READERS.iter().filter(|reader| options.reader.as_deref().is_none_or(|name| name == reader.name)) {
        let (executions, cases) = fuzz(reader, &options);
        found += cases;
        figures.push(format!("\"{}_executions\":{executions},\"{}_found\":{cases}", reader.name, reader.name));
    }
    println!("{{\"minutes_each\":{},\"seed\":{},{}}}", options.minutes, options.seed, figures.join(","));
    std::process::exit(i32::from(found > 0));
}

struct Options {
    minutes: f64,
    seed: u64,
    reader: Option<String>,
}

impl Options {
    fn read() -> Options {
        let mut options = Options { minutes: 1.0, seed: std::process::id().into(), reader: None };
        // What cargo itself passes to a bench.
        let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(argument) = arguments.next() {
            let value = arguments.next().unwrap_or_default();
            match (argument.as_str(), value.parse::<f64>()) {
                ("--minutes", Ok(minutes)) => options.minutes = minutes,
                ("--seed", Ok(seed)) => options.seed = seed as u64,
                ("--reader", _) if READERS.iter().any(|reader| reader.name == value) => options.reader = Some(value),
                _ => {
                    eprintln!("usage: ./bench fuzz [--minutes N] [--seed S] [--reader contract|usage|lifecycle]");
                    std::process::exit(2);
                }
            }
        }
        options
    }
}

/// How many inputs were tried, and how many were found wanting.
fn fuzz(reader: &Reader, options: &Options) -> (u64, usize) {
    std::panic::set_hook(Box::new(|_| {}));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut pool = seeds(reader, &root);
    assert!(!pool.is_empty(), "there are seeds for {}", reader.name);
    let mut random = Random(options.seed);
    let (began, mut told) = (Instant::now(), Instant::now());
    let deadline = began + Duration::from_secs_f64(options.minutes * 60.0);
    let (mut executions, mut found) = (0, 0);
    while Instant::now() < deadline && found < FOUND_MAX {
        let input = mutate(&pool, reader.words, &mut random);
        let started = Instant::now();
        let outcome = catch_unwind(|| (reader.read)(&input)).unwrap_or_else(|_| Err("it panics".into()));
        let took = started.elapsed();
        executions += 1;
        let outcome = if took > SLOW { Err(format!("it takes {:.1} s", took.as_secs_f64())) } else { outcome };
        match outcome {
            Err(what) => {
                found += 1;
                let path = keep(reader, &root, &input);
                eprintln!("{}: {what}: {}", reader.name, path.display());
            }
            // Now and then an input goes into the pool, so that mutations go further than one step from the seeds.
            Ok(()) if random.below(200) == 0 && pool.len() < 4_000 && input.len() < 8 * 1024 => pool.push(input),
            Ok(()) => {}
        }
        if told.elapsed() > Duration::from_secs(30) {
            told = Instant::now();
            eprintln!("{}: {executions} inputs in {:.0} s, {found} found", reader.name, began.elapsed().as_secs_f64());
        }
    }
    let _ = std::panic::take_hook();
    eprintln!("{}: {executions} inputs, {found} found (seed {})", reader.name, options.seed);
    (executions, found)
}

fn seeds(reader: &Reader, root: &Path) -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for directory in reader.seeds {
        let Ok(entries) = std::fs::read_dir(root.join(directory)) else { continue };
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        let whole_corpus = directory.starts_with("tests/");
        let wanted = |path: &&PathBuf| whole_corpus || path.extension().is_some_and(|e| e == reader.extension);
        seeds.extend(paths.iter().filter(wanted).map(|path| std::fs::read(path).unwrap()));
    }
    seeds
}

fn mutate(pool: &[Vec<u8>], words: &[&str], random: &mut Random) -> Vec<u8> {
    let mut input = pool[random.below(pool.len())].clone();
    for _ in 0..1 + random.below(6) {
        let at = random.below(input.len() + 1);
        match random.below(8) {
            0 if !input.is_empty() => {
                let at = at.min(input.len() - 1);
                input[at] ^= 1 << random.below(8);
            }
            1 => {
                let to = (at + random.below(64)).min(input.len());
                input.drain(at..to);
            }
            2 => {
                let to = (at + random.below(256)).min(input.len());
                let part = input[at..to].to_vec();
                for _ in 0..1 + random.below(4) {
                    input.splice(at..at, part.iter().copied());
                }
            }
            3 => {
                let word = words[random.below(words.len())];
                input.splice(at..at, word.bytes());
            }
            4 => {
                let other = &pool[random.below(pool.len())];
                let from = random.below(other.len() + 1);
                let to = (from + random.below(512)).min(other.len());
                input.splice(at..at, other[from..to].iter().copied());
            }
            5 => input.truncate(at),
            6 => {
                let byte = random.next() as u8;
                input.insert(at, byte);
            }
            _ => {
                // A digit for a digit: numbers and dates that are almost right.
                if let Some(digit) = input[at..].iter_mut().find(|byte| byte.is_ascii_digit()) {
                    *digit = b'0' + random.below(10) as u8;
                }
            }
        }
    }
    input.truncate(BYTES_MAX);
    input
}

fn keep(reader: &Reader, root: &Path, input: &[u8]) -> PathBuf {
    let hash = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    let directory = root.join("tests/corpus").join(reader.name);
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join(format!("found-{hash:016x}.{}", reader.extension));
    std::fs::write(&path, input).unwrap();
    path
}
