//! Random operations by many processes against a book in memory, while processes and PostgreSQL itself are killed.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod book;
mod client;
#[path = "../common/mod.rs"]
mod common;
mod plan;
mod race;
mod server;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use book::Book;
use chrono::Utc;
use client::{Done, ORDERS, Orders};
use common::{Database, Random};
use plan::Run;
use server::Server;

const CLIENTS: u64 = 6;
const OPERATIONS: u64 = 110;
const KILLS_OF_POSTGRES: usize = 3;

/// Not a test: this executable starts itself with this name, and orders in the environment.
#[tokio::test]
async fn client_process() {
    if let Ok(orders) = std::env::var(ORDERS) {
        client::run(&orders).await;
    }
}

#[test]
fn what_was_answered_is_there_once_and_whole() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut random = Random::seeded();
    let run = Run { seed: random.0, began: Utc::now() };
    let mut server = Server::create();
    let database = runtime.block_on(Database::create_on(&server.superuser()));
    let mut book = Book::default();
    runtime.block_on(book.open(&database));
    let book = Mutex::new(book);

    let running: Vec<Mutex<Option<Child>>> = (0..CLIENTS).map(|_| Mutex::new(None)).collect();
    let (done, mut kills) = (AtomicU64::new(0), 0);
    let url = database.app_url(&server.superuser());
    thread::scope(|scope| {
        let mut supervisors = Vec::new();
        for (number, slot) in (0..).zip(&running) {
            let (book, url, total) = (&book, &url, &done);
            supervisors.push(scope.spawn(move || {
                let mut next = 0;
                while next < OPERATIONS {
                    let orders = Orders { database: url.clone(), run, client: number, from: next, to: OPERATIONS };
                    let lines = start(slot, &orders);
                    // A process that is killed leaves its operation in doubt; the next one does it again.
                    for line in lines {
                        let Some(done) = line.strip_prefix("done ") else { continue };
                        let Ok(done) = serde_json::from_str::<Done>(done) else { continue };
                        assert_eq!(done.operation, next, "client {number}: each once, in order");
                        book.lock().unwrap().answered(&plan::operation(run, number, next), &done);
                        next += 1;
                        total.fetch_add(1, Ordering::Relaxed);
                    }
                    let status = slot.lock().unwrap().take().unwrap().wait().unwrap();
                    // By a kill, or at its end.
                    assert!(status.code().is_none_or(|code| code == 0), "client {number} failed: {status}");
                }
            }));
        }
        // PostgreSQL is killed at equal parts of the work, clients all the time.
        let began = Instant::now();
        let mut postgres_kills = 0;
        while !supervisors.iter().all(thread::ScopedJoinHandle::is_finished) {
            assert!(began.elapsed() < Duration::from_secs(120), "it never ends");
            thread::sleep(Duration::from_millis(20 + random.below(200)));
            let share = done.load(Ordering::Relaxed) as usize * (KILLS_OF_POSTGRES + 1);
            if postgres_kills < KILLS_OF_POSTGRES && share > (postgres_kills + 1) * (CLIENTS * OPERATIONS) as usize {
                server.kill();
                server.start();
                postgres_kills += 1;
            } else if let Some(child) = running[random.below(CLIENTS) as usize].lock().unwrap().as_mut() {
                child.kill().unwrap();
                kills += 1;
            }
        }
        assert_eq!(postgres_kills, KILLS_OF_POSTGRES);
    });
    let book = book.into_inner().unwrap();
    println!("{kills} clients killed; {}", book.told());
    runtime.block_on(book.compare(&database));
}

/// Starts a client in its slot; its lines.
fn start(slot: &Mutex<Option<Child>>, orders: &Orders) -> impl Iterator<Item = String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["client_process", "--exact", "--nocapture", "--test-threads=1"])
        .env(ORDERS, serde_json::to_string(orders).unwrap())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = child.stdout.take().unwrap();
    *slot.lock().unwrap() = Some(child);
    BufReader::new(output).lines().map_while(Result::ok)
}
