//! Real components for tests and the demo: PostgreSQL, Apache Kafka, and an S3 server, each private to one directory.
//!
//! `./test` starts one PostgreSQL and one Kafka for a whole test run and names them in the environment
//! ([`postgres::for_tests`], [`kafka::for_tests`]); a test that has to stop or kill a server starts its own.
//!
//! All calls block, unless they are marked `async`; none needs a tokio runtime, and none minds one.

pub mod kafka;
pub mod postgres;
mod process;
pub mod proxy;
pub mod s3;

use std::fmt;

/// What went wrong with a service: what happened, what the service itself said, and what to do about it.
#[derive(Debug)]
pub struct ServiceError {
    /// One sentence.
    pub what: String,
    /// The last lines of the service's log, or the operating system's words. May be empty.
    pub detail: String,
    /// What to do. May be empty.
    pub hint: String,
}

pub type Result<T> = std::result::Result<T, ServiceError>;

impl ServiceError {
    fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), detail: String::new(), hint: String::new() }
    }

    fn detail(mut self, detail: impl fmt::Display) -> Self {
        self.detail = detail.to_string();
        self
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for ServiceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.what)?;
        for line in self.detail.lines() {
            write!(f, "\n    {line}")?;
        }
        if !self.hint.is_empty() {
            write!(f, "\n  hint: {}", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for ServiceError {}

/// The value of an environment variable that `./test` sets.
fn test_variable(name: &str, meaning: &str) -> Result<String> {
    std::env::var(name).map_err(|_| {
        ServiceError::new(format!("{name} is not set"))
            .hint(format!("run this test with ./test, which sets it, or set it to {meaning}"))
    })
}
