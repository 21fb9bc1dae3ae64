//! The body of an operation, as JSON: what it is compared by when its id comes again.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::{AccountSpec, AccountType, Amount, LedgerError};

pub(super) fn instant(at: DateTime<Utc>) -> Value {
    json!(at.to_rfc3339_opts(SecondsFormat::Micros, true))
}

pub(super) fn optional(at: Option<DateTime<Utc>>) -> Value {
    at.map_or(Value::Null, instant)
}

pub(super) fn amount(amount: Amount) -> Value {
    json!(amount.to_string())
}

pub(super) fn account(spec: &AccountSpec) -> Value {
    json!({
        "name": spec.name, "type": spec.kind.as_str(), "party": spec.party, "purpose": spec.purpose,
        "currency": spec.currency,
    })
}

/// Reads fields of a body that the ledger keeps.
pub(super) struct Reader<'a>(pub &'a Value);

impl<'a> Reader<'a> {
    fn unreadable(&self, field: &str) -> LedgerError {
        LedgerError::Unreadable {
            what: format!("the field {field:?} of an operation on a wallet cannot be read"),
            detail: self.0.to_string(),
            hint: "Was it written by a later version, or changed by hand?",
        }
    }

    fn parse<T>(&self, field: &str, parse: impl FnOnce(&'a str) -> Option<T>) -> Result<T, LedgerError> {
        self.0.get(field).and_then(Value::as_str).and_then(parse).ok_or_else(|| self.unreadable(field))
    }

    pub fn has(&self, field: &str) -> bool {
        self.0.get(field).is_some_and(|value| !value.is_null())
    }

    pub fn text(&self, field: &str) -> Result<&'a str, LedgerError> {
        self.parse(field, Some)
    }

    pub fn amount(&self, field: &str) -> Result<Amount, LedgerError> {
        self.parse(field, |text| text.parse().ok())
    }

    pub fn instant(&self, field: &str) -> Result<DateTime<Utc>, LedgerError> {
        self.parse(field, |text| text.parse().ok())
    }

    pub fn uuid(&self, field: &str) -> Result<uuid::Uuid, LedgerError> {
        self.parse(field, |text| text.parse().ok())
    }

    pub fn integer(&self, field: &str) -> Result<i32, LedgerError> {
        let value = self.0.get(field).and_then(Value::as_i64).and_then(|value| i32::try_from(value).ok());
        value.ok_or_else(|| self.unreadable(field))
    }

    pub fn list(&self, field: &str) -> Result<&'a Vec<Value>, LedgerError> {
        self.0.get(field).and_then(Value::as_array).ok_or_else(|| self.unreadable(field))
    }

    pub fn account(&self, field: &str) -> Result<AccountSpec, LedgerError> {
        let inner = Reader(self.0.get(field).ok_or_else(|| self.unreadable(field))?);
        Ok(AccountSpec {
            name: inner.text("name")?.to_owned(),
            kind: inner.parse("type", AccountType::parse)?,
            party: inner.text("party")?.to_owned(),
            purpose: inner.text("purpose")?.to_owned(),
            currency: inner.text("currency")?.to_owned(),
        })
    }
}
