//! `hydrometer verify`: proves every law on the data that is there, and names what does not hold.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use hydrometer_audit::verify::{Check, List, Progress, Report, Violation, verify};
use hydrometer_ledger::anchor::Anchor;
use hydrometer_sinks::Warehouse;

use crate::{CliError, Connection, show};

#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 everything holds; 1 something does not, and is named; 3 it could not be found out."
)]
pub struct VerifyArgs {
    /// An anchor that was kept elsewhere: what was chained by then has to be what it was (may be given again)
    #[arg(long, value_name = "FILE")]
    anchor: Vec<PathBuf>,
    /// How to print the proof
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// How many entries of a list are shown; JSON has all of them.
const SHOWN: usize = 10;

pub async fn run(args: VerifyArgs, connection: &Connection) -> Result<u8, CliError> {
    let began = Instant::now();
    let warehouse = Warehouse::open(&connection.warehouse_url).map_err(CliError::failed)?;
    let mut line = Line::new();
    let anchors = args.anchor.iter().map(|path| read(path)).collect::<Result<Vec<Anchor>, CliError>>()?;
    let proof = verify(&connection.database_url, &warehouse, &anchors, &mut |progress| line.tell(progress)).await;
    line.clear();
    let report = proof.map_err(CliError::failed)?;
    match args.format {
        Format::Json => println!("{:#}", report.to_json()),
        Format::Table => print(&report, began.elapsed()),
    }
    Ok(u8::from(!report.holds()))
}

fn read(path: &Path) -> Result<Anchor, CliError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| CliError::usage(format!("cannot read the anchor {}: {error}", path.display())))?;
    Anchor::from_json(&text).map_err(|error| CliError::usage(format!("{}: {error}", path.display())))
}

fn print(report: &Report, elapsed: Duration) {
    for check in &report.checks {
        println!("{:<4}  {:<12} {}", if check.holds() { "ok" } else { "FAIL" }, check.name, looked_at(check));
    }
    for check in report.checks.iter().filter(|check| !check.holds()) {
        println!("\n{} does not hold: {}", check.name, check.proves);
        check.violations.iter().for_each(tell_violation);
        let more = check.violated.saturating_sub(check.violations.len() as u64);
        if more > 0 {
            println!("  … and {} more", show::count(more));
        }
    }
    println!();
    report.lists.iter().for_each(tell_list);
    let failed = report.checks.iter().filter(|check| !check.holds()).count();
    let answer = match failed {
        0 => format!("Every law holds: {} checks", report.checks.len()),
        _ => format!("{failed} of {} checks do not hold", report.checks.len()),
    };
    println!("\n{answer}, in {}.", show::seconds(elapsed.as_secs()));
}

/// `4 files, 1,200 minutes; waiting: 3 files owed`
fn looked_at(check: &Check) -> String {
    let list = |counts: &[(&str, u64)]| {
        counts.iter().map(|(what, many)| format!("{} {what}", show::count(*many))).collect::<Vec<_>>().join(", ")
    };
    let checked = if check.checked.is_empty() { "nothing to look at".to_owned() } else { list(&check.checked) };
    if check.pending.is_empty() { checked } else { format!("{checked}; waiting: {}", list(&check.pending)) }
}

fn tell_violation(violation: &Violation) {
    println!("  {}\n      expected  {}\n      found     {}", violation.subject, violation.expected, violation.found);
}

fn tell_list(list: &List) {
    println!("{:<14} {:>12} {}", list.name, show::count(list.total), list.unit);
    for (what, many) in list.entries.iter().take(SHOWN) {
        println!("    {what}: {}", show::count(*many));
    }
    if list.entries.len() > SHOWN {
        println!("    … and {} more (--format json lists all)", show::count((list.entries.len() - SHOWN) as u64));
    }
}

/// One line of progress on a terminal, nothing elsewhere: the proof itself is what a log should hold.
struct Line {
    terminal: bool,
    told: Option<Instant>,
}

impl Line {
    fn new() -> Line {
        Line { terminal: std::io::stderr().is_terminal(), told: None }
    }

    fn tell(&mut self, progress: Progress) {
        let lately = self.told.is_some_and(|told| told.elapsed() < Duration::from_millis(100));
        if self.terminal && !lately {
            self.told = Some(Instant::now());
            eprint!(
                "\r\x1b[K{} {} of {}",
                progress.check,
                show::count(progress.done as u64),
                show::count(progress.of as u64)
            );
            let _ = std::io::stderr().flush();
        }
    }

    fn clear(&self) {
        if self.terminal && self.told.is_some() {
            eprint!("\r\x1b[K");
        }
    }
}
