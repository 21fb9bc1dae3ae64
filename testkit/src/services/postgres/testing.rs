//! The server that `./test` starts for all tests of a run, and a database in it for each test.

use std::sync::atomic::{AtomicU32, Ordering};

use tokio_postgres::{Client, NoTls};

use super::super::{Result, ServiceError, test_variable};

/// A cluster in which tests make databases of their own.
#[derive(Clone, Debug)]
pub struct TestPostgres {
    superuser: String,
}

/// The cluster that `HYDROMETER_TEST_POSTGRES` names.
pub fn for_tests() -> Result<TestPostgres> {
    let superuser = test_variable(
        "HYDROMETER_TEST_POSTGRES",
        "the connection string of a superuser, as in: host=/var/run/postgresql user=postgres dbname=postgres",
    )?;
    TestPostgres::new(&superuser)
}

impl TestPostgres {
    /// `superuser` is written `key=value key=value …`.
    pub fn new(superuser: &str) -> Result<Self> {
        if superuser.contains("://") {
            return Err(ServiceError::new("the connection string for tests is a URL")
                .hint("write it as key=value pairs: host=… user=… dbname=postgres"));
        }
        Ok(Self { superuser: superuser.to_owned() })
    }

    /// The superuser's connection string.
    pub fn superuser(&self) -> &str {
        &self.superuser
    }

    /// Makes an empty database that no other test uses; its name, and the superuser's connection string to it.
    pub async fn fresh_database(&self, prefix: &str) -> Result<(String, String)> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let made = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("{prefix}_{}_{made}", std::process::id());
        // A server that is not made anew for each run may have the name from a process with the same number.
        let sql = |text: &str| format!("{text} \"{}\"", name.replace('"', ""));
        let client = self.connect().await?;
        for statement in [sql("drop database if exists"), sql("create database")] {
            client.batch_execute(&statement).await.map_err(|e| {
                ServiceError::new(format!("the database {name} could not be made for a test")).detail(described(&e))
            })?;
        }
        // Of a key that is given twice, the last counts.
        let connection = format!("{} dbname='{name}'", self.superuser);
        Ok((name, connection))
    }

    async fn connect(&self) -> Result<Client> {
        let (client, connection) = tokio_postgres::connect(&self.superuser, NoTls).await.map_err(|e| {
            ServiceError::new("the tests' PostgreSQL cannot be reached")
                .detail(described(&e))
                .hint("HYDROMETER_TEST_POSTGRES names it; ./test starts one")
        })?;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// tokio-postgres says "db error" and keeps what the server said as the cause.
fn described(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => db.message().to_owned(),
        None => error.to_string(),
    }
}
