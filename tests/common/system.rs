//! A small deployment whose logs a test writes by hand.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Output};
use std::sync::Arc;

use hydrometer_pipeline::source::files::{FileSource, FileSourceConfig, Interleave};
use hydrometer_pipeline::worker::Worker;
use serde_json::{Value, json};

use super::Deployment;
use super::scripted::{event_at, passes, reading};
use super::sound::rated_records;

/// A deployment and what its logs will hold when it runs next: (log second, payload).
pub struct System {
    pub deployment: Deployment,
    events: usize,
    pub lifecycle: Vec<(i64, Vec<u8>)>,
    pub telemetry: Vec<(i64, Vec<u8>)>,
    /// How many records of a log come at once.
    pub batch_records: usize,
}

impl System {
    pub async fn new(name: &str) -> System {
        System {
            deployment: Deployment::new(name).await,
            events: 0,
            lifecycle: Vec::new(),
            telemetry: Vec::new(),
            batch_records: 500,
        }
    }

    pub fn signed(&mut self, effective: i64, document: Value) {
        self.says("gpu.contract.signed", effective, json!({ "document": document }));
    }

    pub fn says(&mut self, kind: &str, time: i64, data: Value) {
        self.says_late(kind, time, time, data);
    }

    /// An event that is logged later than it happened.
    pub fn says_late(&mut self, kind: &str, time: i64, logged: i64, data: Value) {
        self.events += 1;
        self.lifecycle.push(event_at(logged, &format!("e{}", self.events), kind, time, &data.to_string()));
    }

    /// A server of one GPU, `gpu-SERVER`, leased as `lease-SERVER` in `[from, to)`.
    pub fn leased(&mut self, server: &str, supplier: &str, contract: &str, from: i64, to: i64) {
        let before = from - 60;
        let lease = format!("lease-{server}");
        self.says("gpu.server.registered", before, json!({ "server": server, "supplier": supplier, "slots": 1 }));
        self.says("gpu.gpu.registered", before, json!({ "server": server, "slot": 0, "gpu": format!("gpu-{server}") }));
        let started = json!({ "lease": lease, "contract": contract, "server": server, "slots": [0] });
        self.says("gpu.lease.started", from, started);
        self.says("gpu.lease.ended", to, json!({ "lease": lease }));
    }

    /// One busy reading a minute, which vouches for all of it.
    pub fn busy(&mut self, server: &str, from: i64, to: i64) {
        self.telemetry.extend((from..to).step_by(60).map(|second| (second, reading(server, second))));
    }

    /// Lifecycle and telemetry time pass to a second.
    pub fn until(&mut self, second: i64) {
        self.lifecycle.push(passes(second));
        self.telemetry.push((second, reading("elsewhere", second)));
    }

    /// Appends what is new to the logs and runs a worker over them until they end.
    pub async fn run(&mut self) {
        let dir = self.deployment.path("logs");
        for (topic, lines) in [("gpu.lifecycle", &mut self.lifecycle), ("gpu.telemetry", &mut self.telemetry)] {
            std::fs::create_dir_all(dir.join(topic)).unwrap();
            let log = dir.join(topic).join("0.log");
            let mut log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
            lines.sort_by_key(|line| line.0);
            for (second, payload) in lines.drain(..) {
                writeln!(log, "{}\tkey\t{}", second * 1_000_000, String::from_utf8(payload).unwrap()).unwrap();
            }
        }
        let source = FileSource::open(FileSourceConfig {
            dir,
            topics: vec![Arc::from("gpu.telemetry"), Arc::from("gpu.lifecycle")],
            batch_records: self.batch_records,
            interleave: Interleave::LogTime { slack: 0 },
            until: None,
            lockstep: true,
        })
        .unwrap();
        let mut config = self.deployment.config();
        config.windows.vouches_for_s = 60;
        let (db, warehouse) = (self.deployment.database().await, self.deployment.warehouse());
        let worker = Worker::new(config, Box::new(source), db, warehouse).await.unwrap();
        worker.run(std::future::pending()).await.unwrap();
    }

    /// Runs a command of the program on this deployment: (exit status, what it said).
    pub fn hydrometer(&self, args: &[&str]) -> (Option<i32>, String) {
        let config = self.deployment.write_config(&self.deployment.config());
        let output: Output =
            Command::new(env!("CARGO_BIN_EXE_hydrometer")).arg("--config").arg(config).args(args).output().unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        (output.status.code(), text)
    }

    /// Runs a command that ends with this status and says these words; gives all that it said.
    pub fn answers(&self, args: &[&str], status: i32, words: &[&str]) -> String {
        let (found, text) = self.hydrometer(args);
        assert_eq!(found, Some(status), "{args:?}: {text}");
        words.iter().for_each(|word| assert!(text.contains(word), "{args:?} lacks {word:?}: {text}"));
        text
    }

    /// The rows of a command's answer.
    pub fn rows(&self, args: &[&str]) -> Vec<Value> {
        let text = self.answers(&[args, &["--format", "json"]].concat(), 0, &[]);
        text.lines().filter(|line| line.starts_with('{')).map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// When wallets ran dry and were restored: (seconds since a time, what).
    pub async fn transitions(&self, since: i64) -> Vec<(i64, String)> {
        let db = self.deployment.database().await;
        let sql = "SELECT time_s, body->>'type' FROM hydrometer.event WHERE source = 'hydrometer.wallets' ORDER BY time_s, rank";
        let rows = db.client_ref().query(sql, &[]).await.unwrap();
        let rows = rows.iter().map(|row| {
            let name: &str = row.get(1);
            (row.get::<_, i64>(0) - since, name.trim_start_matches("gpu.wallet.").to_owned())
        });
        rows.collect()
    }

    /// What all records say: (kind, charge) to the renter's and the supplier's amount, in nano-units.
    pub async fn amounts(&self) -> Amounts {
        let mut sums = Amounts::new();
        for row in rated_records(&self.deployment).await {
            let kind = match row.kind.name() {
                "usage" | "correction" | "adjustment" => "usage",
                due => due,
            };
            let sum = sums.entry((kind.to_owned(), row.charge.clone())).or_default();
            sum.0 += row.renter_amount.scaled();
            sum.1 += row.supplier_amount.scaled();
        }
        sums.retain(|_, sum| *sum != (0, 0));
        sums
    }

    /// Balance of an account, in nano-units, debits positive.
    pub async fn balance(&self, account: &str) -> i128 {
        self.deployment.found().await.balances.get(account).copied().unwrap_or(0)
    }
}

pub type Amounts = BTreeMap<(String, String), (i128, i128)>;

pub const fn cents(amount: i128) -> i128 {
    amount * 10_000_000
}

/// (kind, charge, the renter's nano-units, the supplier's).
pub fn amounts<const N: usize>(of: [(&str, &str, i128, i128); N]) -> Amounts {
    of.into_iter().map(|(kind, charge, r, s)| ((kind.to_owned(), charge.to_owned()), (r, s))).collect()
}
