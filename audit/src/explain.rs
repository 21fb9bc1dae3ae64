//! From an amount to its evidence (law 9): how it was computed, where it was booked, which minutes, events and offsets are behind it.
//!
//! An [`Explanation`] is plain data: [`Explanation::text`] is for people, [`Explanation::json`] for programs, and both say the same.

mod draw;
mod due;
mod facts;
mod lease;
mod record;
mod text;
mod transaction;

use hydrometer_schemas::time::{Second, parse_rfc3339, second_of};
use serde::Serialize;
use uuid::Uuid;

use crate::cut::{Cut, CutError};

pub use lease::LeaseExplanation;
pub use record::RecordExplanation;
pub use transaction::TransactionExplanation;

/// What can be asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A rated record, by its 16 hexadecimal digits.
    Record(String),
    /// A transaction of the ledger.
    Transaction(Uuid),
    /// A lease, in all its time or in the windows that hold one second.
    Lease { lease: String, at: Option<Second> },
}

#[derive(Debug, Clone, Serialize)]
#[serde(tag = "explains", rename_all = "snake_case")]
pub enum Explanation {
    Record(Box<RecordExplanation>),
    Transaction(Box<TransactionExplanation>),
    Lease(Box<LeaseExplanation>),
}

impl Subject {
    pub fn parse(text: &str) -> Result<Subject, CutError> {
        if let Some(rest) = text.strip_prefix("lease:") {
            return Subject::lease(rest);
        }
        if text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Subject::Record(text.to_ascii_lowercase()));
        }
        Uuid::parse_str(text).map(Subject::Transaction).map_err(|_| CutError::Refused {
            what: format!("{text:?} is nothing that can be explained"),
            hint:
                "give a record's id (16 hexadecimal digits), a ledger transaction's id (a UUID), or lease:NAME[@TIME]; \
                   `hydrometer sql \"SELECT record, renter_amount FROM rated_usage LIMIT 5\"` shows some records"
                    .to_owned(),
        })
    }

    fn lease(rest: &str) -> Result<Subject, CutError> {
        let Some((lease, time)) = rest.rsplit_once('@') else {
            return Ok(Subject::Lease { lease: rest.to_owned(), at: None });
        };
        match read_time(time) {
            Some(at) => Ok(Subject::Lease { lease: lease.to_owned(), at: Some(at) }),
            None => Err(CutError::Refused {
                what: format!("{time:?} is no time"),
                hint: "write it like 2026-03-01T10:20:30Z, or shorter: 2026-03-01T10:20".to_owned(),
            }),
        }
    }
}

/// RFC 3339, or UTC without its end: `2026-03-01T10:20`.
pub fn read_time(text: &str) -> Option<Second> {
    ["", "Z", ":00Z", ":00:00Z", "T00:00:00Z"]
        .iter()
        .find_map(|end| parse_rfc3339(&format!("{text}{end}")))
        .map(second_of)
}

/// Explains a record, a transaction or a lease.
pub async fn explain(cut: &Cut, what: &str) -> Result<Explanation, CutError> {
    match Subject::parse(what)? {
        Subject::Record(id) => record::explain(cut, &id).await.map(|e| Explanation::Record(Box::new(e))),
        Subject::Transaction(id) => transaction::explain(cut, id).await.map(|e| Explanation::Transaction(Box::new(e))),
        Subject::Lease { lease, at } => lease::explain(cut, &lease, at).await.map(|e| Explanation::Lease(Box::new(e))),
    }
}

impl Explanation {
    pub fn text(&self) -> String {
        match self {
            Explanation::Record(record) => text::record(record),
            Explanation::Transaction(transaction) => text::transaction(transaction),
            Explanation::Lease(lease) => text::lease(lease),
        }
    }

    pub fn json(&self) -> serde_json::Value {
        // Every field is text, a number, a list or a map with text for keys, so this cannot fail.
        serde_json::to_value(self).unwrap_or(serde_json::Value::Null)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subjects() {
        assert_eq!(Subject::parse("00FFab0000000001").unwrap(), Subject::Record("00ffab0000000001".into()));
        assert!(matches!(Subject::parse("67e55044-10b1-426f-9247-bb680e5fe0c8").unwrap(), Subject::Transaction(_)));
        assert_eq!(Subject::parse("lease:l-1").unwrap(), Subject::Lease { lease: "l-1".into(), at: None });
        let at = read_time("2026-03-01T10:20:00Z");
        assert!(at.is_some());
        for time in ["2026-03-01T10:20", "2026-03-01T10:20:00", "2026-03-01T11:20:00+01:00"] {
            assert_eq!(
                Subject::parse(&format!("lease:a@b@{time}")).unwrap(),
                Subject::Lease { lease: "a@b".into(), at }
            );
        }
        for wrong in ["", "xyz", "00ff", "lease:l@yesterday"] {
            assert!(Subject::parse(wrong).unwrap_err().to_string().contains("Hint"), "{wrong}");
        }
    }
}
