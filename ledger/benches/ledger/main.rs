//! `./bench ledger [--transfers N] [--rounds N]`: the ledger's rates on a private PostgreSQL with fsync on, with every rule
//! on, beside a bare COPY of the same rows that keeps balances and nothing else. The last line is JSON.
//!
//! Two writers; each round measures everything once, and medians count. A transfer is a transaction of its own.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod server;
mod work;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use hydrometer_ledger::{self as ledger, Accounts, AsOf, Chain, Outcome, Poster, PosterOptions, Transaction};
use server::Server;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls};
use work::{ACCOUNTS, Bare, Shape, Work, account};

const WRITERS: u64 = 2;
const CALLERS: u64 = 64;

fn main() {
    let (mut transfers, mut rounds) = (10_000_000_usize, 5_usize);
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(name) = arguments.next() {
        let value = arguments.next().and_then(|value| value.parse().ok());
        match (name.as_str(), value) {
            ("--transfers", Some(value)) => transfers = value,
            ("--rounds", Some(value)) if value > 0 => rounds = value,
            _ => {
                eprintln!("usage: ./bench ledger [--transfers N] [--rounds N]");
                std::process::exit(2);
            }
        }
    }
    let server = Arc::new(Server::start());
    println!("PostgreSQL: {}", server::SETTINGS.join(", "));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(&server, transfers, rounds));
}

async fn run(server: &Arc<Server>, transfers: usize, rounds: usize) {
    let mut book = Book::create(server, "small").await;
    let mut figures: Vec<(&str, Vec<f64>)> = Vec::new();
    let mut note = |name, value: f64| {
        println!("{name:<32}{value:>14.1}");
        match figures.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => figures.push((name, vec![value])),
        }
    };
    for _ in 0..rounds {
        note("batch1000_hot_per_s", book.sets(Shape::Hot, 1_000, 40).await);
        note("copy1000_hot_per_s", book.copies(Shape::Hot, 1_000, 40).await);
        note("batch1000_uniform_per_s", book.sets(Shape::Uniform, 1_000, 40).await);
        note("copy1000_uniform_per_s", book.copies(Shape::Uniform, 1_000, 40).await);
        note("batch10000_uniform_per_s", book.sets(Shape::Uniform, 10_000, 10).await);
        note("copy10000_uniform_per_s", book.copies(Shape::Uniform, 10_000, 10).await);
        note("function_per_transfer_per_s", book.calls(Duration::from_secs(2)).await);
        let (rate, p99) = book.singles(Duration::from_secs(4)).await;
        note("singles_per_s", rate);
        note("singles_p99_ms", p99);
    }

    println!("filling to {transfers} transfers …");
    let mut full = Book::create(server, "filled").await;
    let mut filled = 0;
    while filled < transfers {
        let sets = ((transfers - filled) / 10_000 / WRITERS as usize).clamp(1, 10);
        note("filling_per_s", full.sets(Shape::Uniform, 10_000, sets).await);
        filled += sets * 10_000 * WRITERS as usize;
    }
    let mut empty = Book::create(server, "empty").await;
    for _ in 0..rounds.max(5) {
        note("empty_per_s", empty.sets(Shape::Uniform, 1_000, 20).await);
        note("full_per_s", full.sets(Shape::Uniform, 1_000, 20).await);
    }
    let client = full.client().await;
    for number in 0..9 {
        let name = account(number * 1_000 + 7).name;
        let started = Instant::now();
        assert_eq!(ledger::balances(&client, &name, AsOf::Now).await.unwrap().len(), 1);
        note("balance_ms", started.elapsed().as_secs_f64() * 1e3);
        let started = Instant::now();
        assert!(!ledger::transfers(&client, Some(&name), None, 100).await.unwrap().is_empty());
        note("page_ms", started.elapsed().as_secs_f64() * 1e3);
    }
    note("bytes_per_transfer", bytes_per_transfer(&client).await);
    let started = Instant::now();
    assert_eq!(ledger::verify(&client).await.unwrap(), []);
    note("verify_10m_s", started.elapsed().as_secs_f64());

    let median = |values: &[f64]| {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    };
    let mut line = serde_json::Map::new();
    for (name, values) in &figures {
        line.insert((*name).to_owned(), serde_json::json!((median(values) * 10.0).round() / 10.0));
    }
    let of = |name| median(&figures.iter().find(|(known, _)| *known == name).unwrap().1);
    line.insert(
        "ratio_at_10m".to_owned(),
        serde_json::json!((of("full_per_s") / of("empty_per_s") * 1e3).round() / 1e3),
    );
    line.insert("transfers".to_owned(), serde_json::json!(transfers));
    println!("{}", serde_json::Value::Object(line));
}

/// A database with a ledger whose accounts are all open and limited, and the bare tables beside it.
struct Book {
    server: Arc<Server>,
    name: &'static str,
    accounts: Arc<Accounts>,
    work: Vec<Work>,
}

impl Book {
    async fn create(server: &Arc<Server>, name: &'static str) -> Book {
        let admin = connect(&server.config("postgres", "postgres")).await;
        let role = "select 1 from pg_roles where rolname = 'app'";
        if admin.query_opt(role, &[]).await.unwrap().is_none() {
            admin.batch_execute("create role app login").await.unwrap();
        }
        admin.batch_execute(&format!("create database {name}")).await.unwrap();
        let owner = connect(&server.config(name, "postgres")).await;
        owner.batch_execute(&ledger::migration("app")).await.unwrap();
        owner
            .batch_execute(
                "create table bare_transfer (
                     transaction uuid, line int, debit bigint, credit bigint, amount numeric(38, 9), currency text, kind text,
                     description text, effective_at timestamptz, booked_at timestamptz, metadata jsonb, primary key (transaction, line));
                 create table bare_balance (account bigint primary key, debits numeric(38, 9), credits numeric(38, 9)) with (fillfactor = 50);
                 insert into bare_balance select n, 0, 0 from generate_series(0, 9999) n;
                 grant select, insert on bare_transfer to app; grant select, update on bare_balance to app",
            )
            .await
            .unwrap();
        let accounts = Arc::new(Accounts::default());
        let specs: Vec<_> = (0..ACCOUNTS).map(account).collect();
        accounts.open(&owner, &specs).await.unwrap();
        owner
            .batch_execute("select ledger.set_limit(id, 1e15, 'bench', 'every rule on') from ledger.account")
            .await
            .unwrap();
        for sql in ["vacuum analyze", "checkpoint"] {
            owner.batch_execute(sql).await.unwrap();
        }
        let seed = Utc::now().timestamp_micros() as u64;
        let work = (0..WRITERS.max(CALLERS)).map(|n| Work::new(seed.wrapping_mul(1_000).wrapping_add(n))).collect();
        Book { server: Arc::clone(server), name, accounts, work }
    }

    async fn client(&self) -> Client {
        connect(&self.server.config(self.name, "app")).await
    }

    /// Two writers post sets, each of them one before the clock starts, as it has its plans then; transfers a second.
    async fn sets(&mut self, shape: Shape, size: usize, sets: usize) -> f64 {
        let mut tasks = Vec::new();
        for number in 0..WRITERS {
            let mut work: Vec<_> = (0..=sets).map(|_| self.work[number as usize].set(shape, size)).collect();
            let (client, first) = (self.client().await, work.pop().unwrap());
            self.accounts.post(&client, &[Chain { transactions: &first }]).await.unwrap();
            tasks.push((client, work, Arc::clone(&self.accounts)));
        }
        let started = Instant::now();
        let tasks: Vec<_> = tasks
            .into_iter()
            .map(|(client, work, accounts)| {
                tokio::spawn(async move {
                    for set in &work {
                        // A transaction of its own, committed when the answer is there.
                        let answers = accounts.post(&client, &[Chain { transactions: set }]).await.unwrap();
                        assert!(
                            answers
                                .iter()
                                .all(|answer| answer.as_ref().is_ok_and(|o| o.iter().all(|o| *o == Outcome::Posted)))
                        );
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        (WRITERS as usize * sets * size) as f64 / started.elapsed().as_secs_f64()
    }

    /// Two writers (warm as well) copy the same rows and change the balances once for each account of a set; rows a second.
    async fn copies(&mut self, shape: Shape, size: usize, sets: usize) -> f64 {
        let mut tasks = Vec::new();
        for number in 0..WRITERS {
            let work: Vec<_> = (0..=sets).map(|_| Bare::of(&self.work[number as usize].set(shape, size))).collect();
            let mut client = self.client().await;
            copy_sets(&mut client, &work[sets..]).await;
            tasks.push((client, work));
        }
        let started = Instant::now();
        let tasks: Vec<_> = tasks
            .into_iter()
            .map(|(mut client, work)| tokio::spawn(async move { copy_sets(&mut client, &work[..sets]).await }))
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        (WRITERS as usize * sets * size) as f64 / started.elapsed().as_secs_f64()
    }

    /// Two writers call the function for each transfer, each a commit of its own; transfers a second.
    async fn calls(&mut self, time: Duration) -> f64 {
        let end = Instant::now() + time;
        let mut tasks = Vec::new();
        for number in 0..WRITERS {
            let mut work = Work::new(self.work[number as usize].set(Shape::Uniform, 1)[0].id.0.as_u64_pair().0);
            let (client, accounts) = (self.client().await, Arc::clone(&self.accounts));
            tasks.push(tokio::spawn(async move {
                let mut count = 0;
                while Instant::now() < end {
                    let one = work.set(Shape::Uniform, 1);
                    accounts.post(&client, &[Chain { transactions: &one }]).await.unwrap();
                    count += 1;
                }
                count
            }));
        }
        let mut count = 0;
        for task in tasks {
            count += task.await.unwrap();
        }
        f64::from(count) / time.as_secs_f64()
    }

    /// Single callers through group commit, each waiting for its answer; transfers a second, and milliseconds within
    /// which 99 of 100 had theirs.
    async fn singles(&mut self, time: Duration) -> (f64, f64) {
        let poster = Poster::start(self.server.config(self.name, "app"), NoTls, PosterOptions::default());
        // Connections and accounts are warm.
        poster.post(self.work[0].set(Shape::Uniform, 1)).await.unwrap();
        let started = Instant::now();
        let mut tasks = Vec::new();
        for mut work in std::mem::take(&mut self.work) {
            let poster = poster.clone();
            tasks.push(tokio::spawn(async move {
                let mut took = Vec::new();
                while started.elapsed() < time {
                    let one: Vec<Transaction> = work.set(Shape::Uniform, 1);
                    let asked = Instant::now();
                    assert_eq!(poster.post(one).await.unwrap(), [Outcome::Posted]);
                    took.push(asked.elapsed());
                }
                (work, took)
            }));
        }
        let mut took = Vec::new();
        for task in tasks {
            let (work, own) = task.await.unwrap();
            self.work.push(work);
            took.extend(own);
        }
        let rate = took.len() as f64 / started.elapsed().as_secs_f64();
        took.sort();
        (rate, took[took.len() * 99 / 100].as_secs_f64() * 1e3)
    }
}

async fn copy_sets(client: &mut Client, work: &[Bare]) {
    client
        .batch_execute("set enable_hashjoin = off; set enable_mergejoin = off; set enable_seqscan = off")
        .await
        .unwrap();
    let update = "update bare_balance b set debits = b.debits + n.debits, credits = b.credits + n.credits
                  from unnest($1::bigint[], $2::numeric[], $3::numeric[]) as n (account, debits, credits) where b.account = n.account";
    let update = client.prepare(update).await.unwrap();
    let types = [
        Type::UUID,
        Type::INT4,
        Type::INT8,
        Type::INT8,
        Type::NUMERIC,
        Type::TEXT,
        Type::TEXT,
        Type::TEXT,
        Type::TIMESTAMPTZ,
        Type::TIMESTAMPTZ,
        Type::JSONB,
    ];
    let effective: DateTime<Utc> = DateTime::UNIX_EPOCH;
    let metadata = serde_json::json!({});
    for set in work {
        let tx = client.transaction().await.unwrap();
        let mut writer =
            pin!(BinaryCopyInWriter::new(tx.copy_in("copy bare_transfer from stdin binary").await.unwrap(), &types));
        let booked = Utc::now();
        for (id, debit, credit, amount) in &set.rows {
            writer
                .as_mut()
                .write(&[
                    id,
                    &1_i32,
                    debit,
                    credit,
                    amount,
                    &"USD",
                    &"usage",
                    &"gpu hours of a lease",
                    &effective,
                    &booked,
                    &metadata,
                ])
                .await
                .unwrap();
        }
        writer.finish().await.unwrap();
        tx.execute(&update, &[&set.accounts, &set.debits, &set.credits]).await.unwrap();
        tx.commit().await.unwrap();
    }
}

async fn bytes_per_transfer(client: &Client) -> f64 {
    let row = client
        .query_one(
            "select (sum(pg_total_relation_size(c.oid)) / (select count(*) from ledger.transfer))::float8
             from pg_class c where c.relnamespace = 'ledger'::regnamespace and c.relkind = 'r'
               and (c.relname like 'transfer%' or c.relname like 'movement%' or c.relname in ('transaction_id', 'posting'))",
            &[],
        )
        .await
        .unwrap();
    row.get(0)
}

async fn connect(config: &tokio_postgres::Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}
