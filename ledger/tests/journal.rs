//! Journals, judged by hledger and by a CSV reader: both arrive at our balances.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::{Command, Stdio};

use chrono::{DateTime, TimeDelta, Utc};
use common::{Database, Random, post, transaction, transfer};
use hydrometer_ledger::{
    AccountSpec, AccountType, Amount, AsOf, By, Journal, JournalFormat, LedgerError, Period, Transaction, Transfer,
    accounts, balances,
};
use tokio_postgres::{Client, IsolationLevel};

/// What hledger could take for something else, and a few that it takes as they are.
const PIECES: [&str; 31] = [
    "a",
    "renter",
    "Zürich",
    "日本",
    ":",
    ":",
    " ",
    "  ",
    ";",
    "; x:y",
    "(",
    ")",
    "[v]",
    "*",
    "!",
    "%",
    "%3A",
    "\"",
    "'",
    "=",
    "@",
    "|",
    ",",
    "#",
    "2026-01-01",
    "-1",
    "\u{a0}",
    "\u{3000}",
    "~",
    "\\",
    "{1}",
];

fn odd(random: &mut Random) -> String {
    (0..=random.below(5)).map(|_| PIECES[random.below(PIECES.len() as u64) as usize]).collect()
}

/// Between 1e-9 and a number of the given digits before the point.
fn amount(random: &mut Random, digits: u64) -> Amount {
    let length = 1 + random.below(digits + 9);
    let nanos = (0..length).fold(0_i128, |sum, _| sum * 10 + i128::from(random.below(10)));
    Amount::from_nanos(nanos.max(1))
}

async fn random_book(random: &mut Random, app: &mut Client) -> Vec<Transaction> {
    let mut specs: Vec<Vec<AccountSpec>> = Vec::new();
    for (n, currency) in ["USD", "JPY", "KWD", "BTC", "GPU2", "007", "EURO24HOUR00"].into_iter().enumerate() {
        let mut names = BTreeSet::new();
        while names.len() < 6 {
            // The number keeps the accounts of different currencies apart, wherever it stands.
            let (before, after) = (odd(random), odd(random));
            names.insert(if random.below(2) == 0 { format!("{before}{n}{after}") } else { format!("{n}{after}") });
        }
        let kinds = ["asset", "liability", "income", "expense", "equity"];
        let spec = |name: String| AccountSpec {
            kind: AccountType::parse(kinds[random.below(5) as usize]).unwrap(),
            party: "p".to_owned(),
            purpose: "q".to_owned(),
            currency: currency.to_owned(),
            name,
        };
        specs.push(names.into_iter().map(spec).collect());
    }
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for spec in specs.iter_mut().flatten() {
        while !seen.insert(spec.name.clone()) {
            spec.name.push('x');
        }
    }
    let mut posted: Vec<Transaction> = Vec::new();
    for n in 0..120_u64 {
        let mut new = transaction(&n.to_string(), vec![]);
        new.kind = odd(random);
        new.description = format!("{}{}", odd(random), ["", "\nsecond line", " ", "\ttab"][random.below(4) as usize]);
        let year_1: DateTime<Utc> = "0001-01-01T00:00:00Z".parse().unwrap();
        let seconds = [3_600 * 24 * 365 * 9_998, 64_000_000_000][random.below(2) as usize];
        new.effective_at = year_1 + TimeDelta::seconds(random.below(seconds) as i64);
        if let Some(earlier) = posted.get(random.below(200) as usize) {
            new.corrects = Some(earlier.id);
        }
        for _ in 0..=random.below(4) {
            let own = &specs[random.below(specs.len() as u64) as usize];
            let debit = random.below(own.len() as u64) as usize;
            let credit = (debit + 1 + random.below(own.len() as u64 - 1) as usize) % own.len();
            let amount = amount(random, 26);
            new.transfers.push(Transfer { debit: own[debit].clone(), credit: own[credit].clone(), amount });
        }
        posted.push(new);
    }
    // The greatest there is, and a second one that leaves a single 1e-9.
    let most = Transfer { amount: Amount::MAX_POSTABLE, ..transfer("most", "least", 1) };
    let back = Transfer { amount: Amount::from_nanos(10_i128.pow(38) - 2), ..transfer("least", "most", 1) };
    posted.push(transaction("most", vec![most]));
    posted.push(transaction("back", vec![back]));
    for set in posted.chunks(7) {
        post(app, set).await.unwrap();
    }
    posted
}

async fn export(app: &mut Client, format: JournalFormat, period: Option<Period>) -> Result<String, LedgerError> {
    let tx = app.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().await.unwrap();
    let mut journal = Journal::open(&tx, format, period).await?;
    let mut text = String::new();
    while let Some(piece) = journal.next().await? {
        text.push_str(&piece);
    }
    Ok(text)
}

fn hledger(journal: &str, arguments: &[&str]) -> String {
    let mut hledger = Command::new("hledger")
        .args(["-f", "-"])
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("hledger is needed: install the Debian package of this name, or run ./test, which does");
    let mut input = hledger.stdin.take().unwrap();
    let text = journal.to_owned();
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = hledger.wait_with_output().unwrap();
    writer.join().unwrap().ok();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "hledger {arguments:?}: {said}\n{journal}");
    String::from_utf8(output.stdout).unwrap()
}

/// The text behind `%XX`.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            bytes.push(u8::from_str_radix(std::str::from_utf8(&tail[..2]).unwrap(), 16).unwrap());
            rest = &tail[2..];
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).unwrap()
}

fn records(text: &str) -> Vec<Vec<String>> {
    csv::Reader::from_reader(text.as_bytes())
        .records()
        .map(|record| record.unwrap().iter().map(str::to_owned).collect())
        .collect()
}

/// Balances by hledger: account and commodity. Zeros left out.
fn judged(journal: &str, more: &[&str]) -> BTreeMap<(String, String), i128> {
    let mut arguments = vec!["balance", "-N", "--flat", "-O", "csv", "--layout=bare"];
    arguments.extend(more);
    records(&hledger(journal, &arguments))
        .into_iter()
        .map(|row| ((decoded(&row[0]), row[1].clone()), row[2].parse::<Amount>().unwrap().nanos()))
        .filter(|(_, nanos)| *nanos != 0)
        .collect()
}

async fn ours(app: &Client, at: AsOf) -> BTreeMap<(String, String), i128> {
    let found = balances(app, "", at).await.unwrap();
    let found = found.into_iter().map(|b| ((b.account.spec.name, b.account.spec.currency), b.net.nanos()));
    found.filter(|(_, nanos)| *nanos != 0).collect()
}

#[tokio::test]
async fn hledger_arrives_at_our_balances() {
    let database = Database::create().await;
    let mut app = database.app().await;
    let mut random = Random::seeded();
    let book = random_book(&mut random, &mut app).await;
    let journal = export(&mut app, JournalFormat::Hledger, None).await.unwrap();
    hledger(&journal, &["check", "--strict"]);
    assert_eq!(judged(&journal, &[]), ours(&app, AsOf::Now).await);

    // By the secondary date nothing was booked before today's posting; by the date, what counts by then.
    for _ in 0..5 {
        let day = book[random.below(book.len() as u64) as usize].effective_at.date_naive();
        let midnight = day.and_time(chrono::NaiveTime::MIN).and_utc();
        let before = AsOf::Effective(midnight - TimeDelta::microseconds(1));
        assert_eq!(judged(&journal, &["-e", &format!("{day}")]), ours(&app, before).await, "before {day}");
    }
    assert!(judged(&journal, &["--date2", "-e", "2025-01-01"]).is_empty());

    // Each account once, with its type; each transaction once, with what it says.
    let declared: BTreeSet<String> = hledger(&journal, &["accounts", "--declared"]).lines().map(decoded).collect();
    let known: BTreeSet<String> = accounts(&app, "").await.unwrap().into_iter().map(|a| a.spec.name).collect();
    assert_eq!(declared, known);
    for (kind, letter) in [("asset", "a"), ("liability", "l"), ("income", "r"), ("expense", "x"), ("equity", "e")] {
        let found = hledger(&journal, &["accounts", "--declared", &format!("type:{letter}")]);
        let found: BTreeSet<String> = found.lines().map(decoded).collect();
        let expected = accounts(&app, "").await.unwrap().into_iter().filter(|a| a.spec.kind.as_str() == kind);
        assert_eq!(found, expected.map(|a| a.spec.name).collect(), "{kind}");
    }
    let mut printed = BTreeMap::new();
    for row in records(&hledger(&journal, &["print", "-O", "csv"])) {
        // txnidx, date, date2, status, code, description, comment …
        let tag = |name: &str| {
            let start = row[6].find(&format!("{name}:")).map(|at| at + name.len() + 1)?;
            row[6][start..].lines().next().map(str::to_owned)
        };
        let time: DateTime<Utc> = tag("effective_at").unwrap().parse().unwrap();
        let said = (row[1].clone(), decoded(&row[4]), decoded(&row[5]), tag("corrects"), time);
        printed.insert(tag("id").unwrap(), said);
    }
    let expected: BTreeMap<_, _> = book
        .iter()
        .map(|t| {
            let date = t.effective_at.date_naive().to_string();
            let corrects = t.corrects.map(|id| id.to_string());
            (t.id.to_string(), (date, t.kind.clone(), t.description.clone(), corrects, t.effective_at))
        })
        .collect();
    assert_eq!(printed, expected);
    drop(app);
    database.drop().await;
}

#[tokio::test]
async fn csv_says_what_was_posted() {
    let database = Database::create().await;
    let mut app = database.app().await;
    let mut random = Random::seeded();
    let book = random_book(&mut random, &mut app).await;
    let journal = export(&mut app, JournalFormat::Csv, None).await.unwrap();
    let rows = records(&journal);
    let mut found = rows.iter();
    for transaction in &book {
        for (n, transfer) in transaction.transfers.iter().enumerate() {
            let row = found.next().unwrap();
            assert_eq!(row[1], transaction.id.to_string());
            assert_eq!(row[2], (n + 1).to_string());
            assert_eq!(row[4].parse::<DateTime<Utc>>().unwrap(), transaction.effective_at);
            assert_eq!([&row[5], &row[6]], [&transaction.kind, &transaction.description]);
            assert_eq!([&row[7], &row[8]], [&transfer.debit.name, &transfer.credit.name]);
            assert_eq!((row[9].parse(), &row[10]), (Ok(transfer.amount), &transfer.debit.currency));
            assert_eq!(row[11], transaction.corrects.map(|id| id.to_string()).unwrap_or_default());
            assert_eq!(serde_json::from_str::<serde_json::Value>(&row[13]).unwrap(), transaction.metadata);
        }
    }
    assert!(found.next().is_none());

    // A period has what is in it, to the microsecond; both formats take the same.
    let mut times: Vec<DateTime<Utc>> = book.iter().map(|t| t.effective_at).collect();
    times.sort();
    let period = Period { by: By::Effective, from: times[20], to: times[90] };
    let inside = |t: &&Transaction| t.effective_at >= times[20] && t.effective_at < times[90];
    let expected: usize = book.iter().filter(inside).map(|t| t.transfers.len()).sum();
    assert_eq!(records(&export(&mut app, JournalFormat::Csv, Some(period)).await.unwrap()).len(), expected);
    let text = export(&mut app, JournalFormat::Hledger, Some(period)).await.unwrap();
    assert_eq!(text.matches("\n    ; id:").count(), book.iter().filter(inside).count());
    let booked: DateTime<Utc> = rows[rows.len() / 2][3].parse().unwrap();
    let period = Period { by: By::Booked, from: booked, to: Utc::now() + TimeDelta::days(1) };
    let expected = rows.iter().filter(|row| row[3].parse::<DateTime<Utc>>().unwrap() >= booked).count();
    assert_eq!(records(&export(&mut app, JournalFormat::Csv, Some(period)).await.unwrap()).len(), expected);
    drop(app);
    database.drop().await;
}

/// A transaction of more lines than a page holds is one transaction; and what hledger has no date for is refused.
#[tokio::test]
async fn a_transaction_may_be_longer_than_a_page() {
    let database = Database::create().await;
    let mut app = database.app().await;
    let lines = (0..20_500).map(|n| transfer(&(n % 7).to_string(), &(n % 7 + 1).to_string(), n + 1)).collect();
    post(&mut app, &[transaction("long", lines), transaction("short", vec![transfer("x", "y", 1)])]).await.unwrap();
    let journal = export(&mut app, JournalFormat::Hledger, None).await.unwrap();
    assert_eq!(judged(&journal, &[]), ours(&app, AsOf::Now).await);
    assert_eq!(journal.matches("\n    ; id:").count(), 2);
    assert_eq!(records(&export(&mut app, JournalFormat::Csv, None).await.unwrap()).len(), 20_501);

    let mut old = transaction("old", vec![transfer("x", "y", 1)]);
    old.effective_at = "0000-06-01T00:00:00Z".parse().unwrap();
    post(&mut app, &[old]).await.unwrap();
    let error = export(&mut app, JournalFormat::Hledger, None).await.unwrap_err();
    assert!(error.to_string().contains("before the year 1"), "{error}");
    drop(app);
    database.drop().await;
}
