//! A database of its own for every test, on the PostgreSQL that `./test` starts.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

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
        let server: Config = text.parse().expect("HYDROMETER_TEST_POSTGRES is a connection string");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
        let name = format!("ledger_test_{}_{now}", std::process::id());
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

    pub async fn owner(&self) -> Client {
        self.connect_as(&format!("{}_owner", self.name)).await
    }

    pub async fn app(&self) -> Client {
        self.connect_as(&self.app_role()).await
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
