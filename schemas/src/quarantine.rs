//! Why a message was set aside. Nothing is dropped in silence: the raw bytes are kept with one of these reasons.

use std::fmt;

/// The reason for which a message is in quarantine. Names are stored, so they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    Malformed,
    MissingField,
    BadValue,
    TimeAhead,
    TimeBehind,
    TooLarge,
    TooManyIdentities,
    MalformedEvent,
    UnknownEvent,
}

impl Reason {
    pub const ALL: [Reason; 9] = [
        Reason::Malformed,
        Reason::MissingField,
        Reason::BadValue,
        Reason::TimeAhead,
        Reason::TimeBehind,
        Reason::TooLarge,
        Reason::TooManyIdentities,
        Reason::MalformedEvent,
        Reason::UnknownEvent,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Reason::Malformed => "malformed",
            Reason::MissingField => "missing_field",
            Reason::BadValue => "bad_value",
            Reason::TimeAhead => "time_ahead",
            Reason::TimeBehind => "time_behind",
            Reason::TooLarge => "too_large",
            Reason::TooManyIdentities => "too_many_identities",
            Reason::MalformedEvent => "malformed_event",
            Reason::UnknownEvent => "unknown_event",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A refusal: the reason, and a sentence that says what was found where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: Reason,
    pub detail: String,
}

impl Refusal {
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}
