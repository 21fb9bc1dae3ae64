//! Balances, statements and pages, against a book kept in memory.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use common::{Database, Random, account, post, transaction, transfer};
use hydrometer_ledger::{
    AsOf, By, LedgerError, Place, Statement, StatementLine, Transaction, TransactionId, balances, statement_page,
    transfers, trial_balance,
};
use tokio_postgres::{Client, IsolationLevel};

const ACCOUNTS: u64 = 5;

/// One side of a transfer, as the oracle has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    account: String,
    change: i128,
    effective_at: DateTime<Utc>,
    booked_at: DateTime<Utc>,
    transaction: TransactionId,
    line: i32,
}

impl Entry {
    fn time(&self, by: By) -> DateTime<Utc> {
        match by {
            By::Effective => self.effective_at,
            By::Booked => self.booked_at,
        }
    }
}

/// Postings around the present, before it and far from it, one set after the other. Only the time of booking is taken
/// from the database; the order is that of posting.
async fn random_book(random: &mut Random, app: &mut Client, sets: u64) -> Vec<Entry> {
    let mut posted: Vec<Transaction> = Vec::new();
    for set in 0..sets {
        let now = Utc::now();
        let transactions: Vec<Transaction> = (0..=random.below(4))
            .map(|n| {
                let mut new = transaction(&format!("{set}/{n}"), vec![]);
                let spread = [1_000, 1_000_000, 90_000_000_000][random.below(3) as usize];
                let micros = random.below(2 * spread) as i64 - spread as i64;
                new.effective_at = (now + TimeDelta::microseconds(micros)).trunc();
                for _ in 0..=random.below(3) {
                    let debit = random.below(ACCOUNTS);
                    let credit = (debit + 1 + random.below(ACCOUNTS - 1)) % ACCOUNTS;
                    let amount = 1 + i128::from(random.below(u64::MAX)) * i128::from(1 + random.below(1_000));
                    new.transfers.push(transfer(&debit.to_string(), &credit.to_string(), amount));
                }
                new
            })
            .collect();
        post(app, &transactions).await.unwrap();
        posted.extend(transactions);
    }
    let rows = app.query("select distinct transaction, booked_at from ledger.transfer", &[]).await.unwrap();
    let booked: HashMap<TransactionId, DateTime<Utc>> =
        rows.iter().map(|row| (TransactionId(row.get(0)), row.get(1))).collect();
    let mut entries = Vec::new();
    for transaction in posted {
        for (line, transfer) in (1..).zip(&transaction.transfers) {
            for (account, change) in [(&transfer.debit, 1), (&transfer.credit, -1)] {
                entries.push(Entry {
                    account: account.name.clone(),
                    change: change * transfer.amount.nanos(),
                    effective_at: transaction.effective_at,
                    booked_at: booked[&transaction.id],
                    transaction: transaction.id,
                    line,
                });
            }
        }
    }
    entries
}

trait Micros {
    fn trunc(self) -> Self;
}

impl Micros for DateTime<Utc> {
    /// As PostgreSQL keeps it.
    fn trunc(self) -> Self {
        DateTime::from_timestamp_micros(self.timestamp_micros()).unwrap()
    }
}

/// Times at, just before and just after those of entries, and some beyond them all.
fn random_time(random: &mut Random, book: &[Entry], by: By) -> DateTime<Utc> {
    let any = book[random.below(book.len() as u64) as usize].time(by);
    match random.below(8) {
        0 => any - TimeDelta::days(1_000),
        1 => any + TimeDelta::days(1_000),
        n => any + TimeDelta::microseconds(n as i64 % 3 - 1),
    }
}

fn sum<'a>(entries: impl Iterator<Item = &'a Entry>) -> BTreeMap<String, i128> {
    let mut sums: BTreeMap<String, i128> = (0..ACCOUNTS).map(|n| (account(&n.to_string()).name, 0)).collect();
    for entry in entries {
        *sums.get_mut(&entry.account).unwrap() += entry.change;
    }
    sums
}

#[tokio::test]
async fn balances_as_of_either_time_equal_an_oracle() {
    let database = Database::create().await;
    let mut app = database.app().await;
    let mut random = Random::seeded();
    let book = random_book(&mut random, &mut app, 40).await;
    let read = async |at: AsOf| -> BTreeMap<String, i128> {
        let found = balances(&app, "renter:", at).await.unwrap();
        found.into_iter().map(|b| (b.account.spec.name, b.net.nanos())).collect()
    };
    assert_eq!(read(AsOf::Now).await, sum(book.iter()));
    for _ in 0..60 {
        let at = random_time(&mut random, &book, By::Booked);
        assert_eq!(read(AsOf::Booked(at)).await, sum(book.iter().filter(|e| e.booked_at <= at)), "booked by {at}");
        let at = random_time(&mut random, &book, By::Effective);
        assert_eq!(read(AsOf::Effective(at)).await, sum(book.iter().filter(|e| e.effective_at <= at)), "by {at}");
    }
    let at = random_time(&mut random, &book, By::Effective);
    let trial = trial_balance(&app, AsOf::Effective(at)).await.unwrap();
    let debits: i128 = sum(book.iter().filter(|e| e.effective_at <= at)).values().filter(|net| **net > 0).sum();
    assert_eq!((trial.len(), trial[0].debits.nanos(), trial[0].is_balanced()), (1, debits, true));
    assert!(balances(&app, "nobody", AsOf::Now).await.unwrap().is_empty());
    drop(app);
    database.drop().await;
}

#[tokio::test]
async fn statements_equal_an_oracle() {
    let database = Database::create().await;
    let mut app = database.app().await;
    let mut random = Random::seeded();
    let book = random_book(&mut random, &mut app, 40).await;
    for round in 0..40 {
        let by = if round % 2 == 0 { By::Booked } else { By::Effective };
        let mut times = [random_time(&mut random, &book, by), random_time(&mut random, &book, by)];
        times.sort();
        let [from, to] = times;
        let name = account(&random.below(ACCOUNTS).to_string()).name;
        let mut own: Vec<(i64, &Entry)> = (1..).zip(book.iter().filter(|e| e.account == name)).collect();
        // Stable, so that what is equal stays in the order of posting.
        own.sort_by_key(|(_, entry)| entry.time(by));
        let mut balance: i128 = own.iter().filter(|(_, e)| e.time(by) < from).map(|(_, e)| e.change).sum();
        let opening = balance;
        let expected: Vec<(i64, i128, i128, TransactionId, i32)> = own
            .iter()
            .filter(|(_, e)| e.time(by) >= from && e.time(by) < to)
            .map(|(number, e)| {
                balance += e.change;
                (*number, e.change, balance, e.transaction, e.line)
            })
            .collect();

        let tx = snapshot(&mut app).await;
        let mut statement = Statement::open(&tx, &name, by, from, to).await.unwrap().unwrap();
        assert_eq!((statement.opening.nanos(), statement.closing.nanos()), (opening, balance), "{by:?} {from} {to}");
        let page = 1 + random.below(9) as u16;
        let mut lines = Vec::new();
        loop {
            let next = statement.next(page).await.unwrap();
            if next.is_empty() {
                break;
            }
            assert!(next.len() <= usize::from(page));
            lines.extend(next);
        }
        let found: Vec<_> =
            lines.iter().map(|l| (l.place.entry, l.change.nanos(), l.balance.nanos(), l.transaction, l.line)).collect();
        assert_eq!(found, expected, "{by:?} {from} {to}");
        for line in &lines {
            let (_, entry) = own[own.iter().position(|(number, _)| *number == line.place.entry).unwrap()];
            assert_eq!((line.effective_at, line.place.booked_at), (entry.effective_at, entry.booked_at));
            let other = book
                .iter()
                .find(|e| (e.transaction, e.line) == (entry.transaction, entry.line) && e.account != entry.account);
            assert_eq!(line.counterpart, other.unwrap().account);
            assert_eq!((line.kind.as_str(), line.corrects, line.reverses), ("usage", None, None));
            assert!(line.description.starts_with("what "), "of the transaction, also on other lines than its first");
        }
    }
    drop(app);
    database.drop().await;
}

#[tokio::test]
async fn a_statement_that_does_not_add_up_is_an_error() {
    let database = Database::create().await;
    let mut app = database.app().await;
    for key in ["a", "b", "c"] {
        post(&mut app, &[transaction(key, vec![transfer("x", "y", 5)])]).await.unwrap();
    }
    let (from, to) = (Utc::now() - TimeDelta::days(4_000), Utc::now() + TimeDelta::days(1));
    let name = account("x").name;
    let admin = database.superuser().await;
    admin
        .batch_execute(&format!(
            "begin; alter table ledger.transfer disable trigger all; set local session_replication_role = replica;
             do $$ declare t regclass; begin
                 for t in select inhrelid::regclass from pg_inherits where inhparent = 'ledger.transfer'::regclass loop
                     execute format('alter table %s disable trigger all', t);
                 end loop;
             end $$;
             update ledger.transfer set amount = 6 where transaction = '{}'; commit",
            transaction("b", vec![]).id
        ))
        .await
        .unwrap();
    let tx = snapshot(&mut app).await;
    let mut statement = Statement::open(&tx, &name, By::Booked, from, to).await.unwrap().unwrap();
    let error = statement.next(100).await.unwrap_err();
    assert!(matches!(error, LedgerError::Unreadable { .. }), "{error}");
    assert!(error.to_string().contains("does not add up"), "{error}");
    tx.rollback().await.unwrap();
    // Only one moment will do.
    let tx = app.transaction().await.unwrap();
    let error = Statement::open(&tx, &name, By::Booked, from, to).await.err().unwrap();
    assert!(error.to_string().contains("REPEATABLE READ"), "{error}");
    tx.rollback().await.unwrap();
    let tx = snapshot(&mut app).await;
    assert!(Statement::open(&tx, "nobody", By::Booked, from, to).await.unwrap().is_none());
    assert!(Statement::open(&tx, &name, By::Booked, to, from).await.is_err());
    tx.rollback().await.unwrap();
    drop((app, admin));
    database.drop().await;
}

/// Whoever pages forward meets every entry once, and so does whoever pages backward, while others go on posting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_give_each_line_once_while_writers_append() {
    let database = Database::create().await;
    let mut app = database.app().await;
    let mut random = Random::seeded();
    let book = random_book(&mut random, &mut app, 30).await;
    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = Vec::new();
    for writer in 0..2 {
        let (mut client, stop) = (database.app().await, stop.clone());
        writers.push(tokio::spawn(async move {
            let mut sets = 0;
            while !stop.load(Ordering::Relaxed) {
                let lines = vec![transfer("0", "1", 1), transfer("1", "2", 2)];
                post(&mut client, &[transaction(&format!("{writer}/append/{sets}"), lines)]).await.unwrap();
                sets += 1;
            }
            sets
        }));
    }
    let name = account("1").name;
    let reader = database.app().await;
    let before: usize = book.iter().filter(|e| e.account == name).count();

    // Backward, from a page that holds the newest, down to the first: what is appended meanwhile is not met.
    let mut seen = Vec::new();
    let mut position = None;
    loop {
        let page = transfers(&reader, Some(&name), position, 7).await.unwrap();
        let Some(last) = page.last() else { break };
        position = Some(last.position);
        seen.extend(page.iter().map(|e| (e.position.transaction, e.position.line)));
    }
    let newest_first: Vec<_> =
        book.iter().filter(|e| e.account == name).rev().map(|e| (e.transaction, e.line)).collect();
    assert_eq!(seen[seen.len() - before..], newest_first[..], "of before");
    let appended = seen.len() - before;
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), before + appended, "each once");

    // All transfers, likewise.
    let mut all = Vec::new();
    let mut position = None;
    loop {
        let page = transfers(&reader, None, position, 50).await.unwrap();
        let Some(last) = page.last() else { break };
        position = Some(last.position);
        all.extend(page.iter().map(|e| (e.position.transaction, e.position.line)));
    }
    let newest_first: Vec<_> = book.iter().step_by(2).rev().map(|e| (e.transaction, e.line)).collect();
    assert_eq!(all[all.len() - newest_first.len()..], newest_first[..]);

    // Forward, for as long as there is something new, and then what was appended last.
    let mut lines: Vec<StatementLine> = Vec::new();
    let mut after = Place { booked_at: book[0].booked_at, entry: 0 };
    let until = Utc::now() + TimeDelta::days(1);
    let mut rounds = 0;
    loop {
        let page = statement_page(&reader, &name, after, until, 9).await.unwrap();
        rounds += 1;
        if let Some(last) = page.last() {
            after = last.place;
        } else if stop.load(Ordering::Relaxed) {
            break;
        }
        lines.extend(page);
        if rounds == 150 {
            stop.store(true, Ordering::Relaxed);
            for writer in writers.drain(..) {
                assert!(writer.await.unwrap() > 0, "it did append");
            }
        }
    }
    assert_eq!(lines.iter().map(|l| l.place.entry).collect::<Vec<_>>(), (1..=lines.len() as i64).collect::<Vec<_>>());
    let mut balance = 0;
    for line in &lines {
        balance += line.change.nanos();
        assert_eq!(line.balance.nanos(), balance, "entry {}", line.place.entry);
    }
    let now = balances(&reader, &name, AsOf::Now).await.unwrap();
    assert_eq!(now[0].net.nanos(), balance);
    drop((app, reader));
    database.drop().await;
}

/// Whatever the size of sets and pages: every page but the last is full, and each line is there once.
#[tokio::test]
async fn pages_are_full_wherever_they_end() {
    let database = Database::create().await;
    let mut app = database.app().await;
    let mut random = Random::seeded();
    let mut count = 0;
    while count < 700 {
        // Mostly one entry, now and then more than a page.
        let size = if random.below(8) == 0 { 1 + random.below(150) } else { 1 + random.below(3) };
        let lines = (0..size).map(|_| if random.below(2) == 0 { transfer("1", "2", 3) } else { transfer("2", "1", 1) });
        post(&mut app, &[transaction(&format!("at {count}"), lines.collect())]).await.unwrap();
        count += size;
    }
    let name = account("1").name;
    let numbers: Vec<i64> = (1..=count as i64).collect();
    let until = Utc::now() + TimeDelta::days(1);
    for limit in [1, 2, 7, 63, 64, 65, 130, 1_000] {
        let mut forward = Vec::new();
        let mut after = Place { booked_at: until - TimeDelta::days(2), entry: 0 };
        loop {
            let page = statement_page(&app, &name, after, until, limit).await.unwrap();
            forward.extend(page.iter().map(|line| line.place.entry));
            let Some(last) = page.last().filter(|_| page.len() == limit as usize) else { break };
            after = last.place;
        }
        assert_eq!(forward, numbers, "pages of {limit}");
        let (mut backward, mut position) = (0, None);
        loop {
            let page = transfers(&app, Some(&name), position, limit).await.unwrap();
            backward += page.len() as u64;
            let Some(last) = page.last().filter(|_| page.len() == limit as usize) else { break };
            position = Some(last.position);
        }
        assert_eq!(backward, count, "pages of {limit}");
    }
    drop(app);
    database.drop().await;
}

async fn snapshot(client: &mut Client) -> tokio_postgres::Transaction<'_> {
    client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await.unwrap()
}
