//! A line a transfer.

use chrono::SecondsFormat;

use super::{Head, Line};

const COLUMNS: [&str; 14] = [
    "posting",
    "transaction",
    "line",
    "booked_at",
    "effective_at",
    "kind",
    "description",
    "debit",
    "credit",
    "amount",
    "currency",
    "corrects",
    "reverses",
    "metadata",
];

pub(super) fn opening() -> String {
    format!("{}\n", COLUMNS.join(","))
}

pub(super) fn line(text: &mut String, head: &Head, line: &Line) {
    let id = |id: Option<uuid::Uuid>| id.map(|id| id.to_string()).unwrap_or_default();
    let fields: [String; COLUMNS.len()] = [
        head.posting.to_string(),
        head.transaction.to_string(),
        line.number.to_string(),
        head.booked_at.to_rfc3339_opts(SecondsFormat::Micros, true),
        head.effective_at.to_rfc3339_opts(SecondsFormat::Micros, true),
        quoted(&head.kind),
        quoted(&head.description),
        quoted(&line.debit),
        quoted(&line.credit),
        line.amount.to_string(),
        line.currency.clone(),
        id(head.corrects),
        id(head.reverses),
        quoted(&head.metadata.to_string()),
    ];
    text.push_str(&fields.join(","));
    text.push('\n');
}

fn quoted(field: &str) -> String {
    if field.contains(['"', ',', '\n', '\r']) || field.trim() != field {
        format!("\"{}\"", field.replace('"', "\"\""))
    } else {
        field.to_owned()
    }
}
