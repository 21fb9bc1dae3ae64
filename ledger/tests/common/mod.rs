//! A database of its own for every test, on the PostgreSQL that `./test` starts.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use hydrometer_ledger::{AccountSpec, Amount, LedgerError, Outcome, Transaction, TransactionId, Transfer};
use serde_json::json;
use tokio_postgres::{Client, Config, NoTls};
use uuid::Uuid;

pub const NAMESPACE: Uuid = Uuid::from_u128(0x6b1f_54f0_0000_4000_8000_0000_0000_0001);

/// Roles belong to the whole server, so each database has an owner and an application role of its own name.
pub struct Database {
    pub name: String,
    server: Config,
}

impl Database {
    pub async fn create() -> Database {
        let text = std::env::var("HYDROMETER_TEST_POSTGRES").unwrap_or_else(|_| {
            panic!(
                "HYDROMETER_TEST_POSTGRES is not set: these tests need a real PostgreSQL. Run ./test, which starts one, \
                 or set it to the connection string of a superuser"
            )
        });
        Database::create_on(&text).await
    }

    /// On the server of a superuser's connection string.
    pub async fn create_on(superuser: &str) -> Database {
        let server: Config = superuser.parse().expect("a connection string");
        // Two tests may begin at the same time, as the clock has it.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let name = format!("ledger_test_{}_{now}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let database = Database { name, server };
        let admin = connect(&database.server).await;
        for sql in [
            format!("create role {}_owner login", database.name),
            format!("create role {}_app login", database.name),
            format!("create database {0} owner {0}_owner", database.name),
        ] {
            admin.batch_execute(&sql).await.unwrap();
        }
        let owner = database.owner().await;
        owner.batch_execute(&hydrometer_ledger::migration(&database.app_role())).await.unwrap();
        database
    }

    pub fn app_role(&self) -> String {
        format!("{}_app", self.name)
    }

    /// For another process, with the superuser's connection string of the same server.
    pub fn app_url(&self, superuser: &str) -> String {
        // Of a key that is given twice, the last counts.
        format!("{superuser} user={} dbname={}", self.app_role(), self.name)
    }

    pub async fn owner(&self) -> Client {
        self.connect_as(&format!("{}_owner", self.name)).await
    }

    pub async fn app(&self) -> Client {
        self.connect_as(&self.app_role()).await
    }

    /// Whoever started the server: the one against whom only the chain helps.
    pub async fn superuser(&self) -> Client {
        let mut config = self.server.clone();
        connect(config.dbname(&self.name)).await
    }

    /// For whoever connects by itself, as the application.
    pub fn app_config(&self) -> Config {
        let mut config = self.server.clone();
        config.user(self.app_role()).dbname(&self.name);
        config
    }

    /// The same, on the server's own database.
    pub async fn admin(&self) -> Client {
        connect(&self.server).await
    }

    async fn connect_as(&self, role: &str) -> Client {
        let mut config = self.server.clone();
        connect(config.user(role).dbname(&self.name)).await
    }

    /// At the end of a test; one that fails leaves its database behind to be looked at.
    pub async fn drop(self) {
        let admin = connect(&self.server).await;
        admin.batch_execute(&format!("drop database {} with (force)", self.name)).await.unwrap();
        admin.batch_execute(&format!("drop role {0}_app, {0}_owner", self.name)).await.unwrap();
    }
}

async fn connect(config: &Config) -> Client {
    let (client, connection) = config.connect(NoTls).await.expect("the test PostgreSQL takes connections");
    tokio::spawn(connection);
    client
}

pub fn account(name: &str) -> AccountSpec {
    AccountSpec::renter_unbilled(name, "USD")
}

pub fn transfer(debit: &str, credit: &str, nanos: i128) -> Transfer {
    Transfer { debit: account(debit), credit: account(credit), amount: Amount::from_nanos(nanos) }
}

pub fn transaction(key: &str, transfers: Vec<Transfer>) -> Transaction {
    Transaction {
        id: TransactionId::derive(&NAMESPACE, &[key]),
        kind: "usage".to_owned(),
        effective_at: "2025-06-01T12:00:00.123456Z".parse().unwrap(),
        description: format!("what {key} is for,\nwith a \"second\" line"),
        corrects: None,
        reverses: None,
        metadata: json!({ "key": key, "offsets": [1, 2] }),
        transfers,
    }
}

/// Posts and commits.
pub async fn post(client: &mut Client, set: &[Transaction]) -> Result<Vec<Outcome>, LedgerError> {
    let tx = client.transaction().await.unwrap();
    let outcomes = hydrometer_ledger::post(&tx, set).await?;
    tx.commit().await.unwrap();
    Ok(outcomes)
}

/// Chains all that is committed: waits for older transactions anywhere on the server, other tests' among them.
pub async fn chain_all(client: &Client) {
    let end: String =
        client.query_one("select pg_snapshot_xmax(pg_current_snapshot())::text", &[]).await.unwrap().get(0);
    loop {
        let (done, left) = (
            hydrometer_ledger::chain::advance(client, 1000).await.unwrap(),
            "select pg_snapshot_xmin(pg_current_snapshot()) < $1::text::xid8",
        );
        if done == 0 && !client.query_one(left, &[&end]).await.unwrap().get::<_, bool>(0) {
            return while hydrometer_ledger::chain::advance(client, 1000).await.unwrap() > 0 {};
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// A statement that must fail, and the text of its error.
pub async fn refused(client: &Client, sql: &str) -> String {
    let error = client.batch_execute(sql).await.expect_err(sql);
    let error = error.as_db_error().expect(sql);
    format!("{} {} {}", error.message(), error.detail().unwrap_or_default(), error.hint().unwrap_or_default())
}

/// Random numbers that a printed seed repeats (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn seeded() -> Random {
        let seed = std::env::var("HYDROMETER_TEST_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64);
        println!("HYDROMETER_TEST_SEED={seed}");
        Random(seed)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
