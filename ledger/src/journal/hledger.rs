//! A plain text journal for hledger.

use chrono::{DateTime, Datelike, SecondsFormat, Utc};

use super::{Head, Line};
use crate::{Account, AccountType, LedgerError};

pub(super) fn opening(currencies: &[String]) -> String {
    let mut text = "decimal-mark .\n".to_owned();
    for currency in currencies {
        text.push_str(&format!("commodity \"{currency}\" 1000.000000000\n"));
    }
    text
}

pub(super) fn account(account: &Account) -> String {
    let letter = match account.spec.kind {
        AccountType::Asset => 'A',
        AccountType::Liability => 'L',
        AccountType::Equity => 'E',
        AccountType::Income => 'R',
        AccountType::Expense => 'X',
    };
    format!("account {}  ; type:{letter}\n", account_name(&account.spec.name))
}

/// The lines that begin a transaction.
pub(super) fn transaction(head: &Head) -> Result<String, LedgerError> {
    let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Micros, true);
    let mut text = format!(
        "\n{}={} * ({}) {}\n    ; id:{}\n    ; effective_at:{}\n    ; booked_at:{}\n",
        date(head, head.effective_at)?,
        date(head, head.booked_at)?,
        escaped(&head.kind, |c| c == ')'),
        escaped(&head.description, |_| false),
        head.transaction,
        time(head.effective_at),
        time(head.booked_at),
    );
    for (tag, id) in [("corrects", head.corrects), ("reverses", head.reverses)] {
        if let Some(id) = id {
            text.push_str(&format!("    ; {tag}:{id}\n"));
        }
    }
    Ok(text)
}

pub(super) fn line(text: &mut String, line: &Line) {
    let Line { debit, credit, amount, currency, .. } = line;
    text.push_str(&format!("    {}  \"{currency}\" {amount}\n", account_name(debit)));
    text.push_str(&format!("    {}  \"{currency}\" -{amount}\n", account_name(credit)));
}

fn date(head: &Head, time: DateTime<Utc>) -> Result<String, LedgerError> {
    if time.year() < 1 {
        return Err(LedgerError::Invalid {
            what: format!("transaction {} has no place in an hledger journal", head.transaction),
            detail: format!("its time {time} is before the year 1"),
            hint: "Leave it out by a period, or write CSV",
        });
    }
    Ok(format!("{:04}-{:02}-{:02}", time.year(), time.month(), time.day()))
}

/// hledger splits names at colons, and keeps neither empty parts nor outer spaces. A name that begins like a virtual
/// account or a status mark would be taken for one.
fn account_name(name: &str) -> String {
    let parts: Vec<String> = name.split(':').map(|part| escaped(part, |_| false)).collect();
    let mut text = String::new();
    for (n, part) in parts.iter().enumerate() {
        // A colon beside an empty part separates nothing.
        let separates = n > 0 && !part.is_empty() && !parts[n - 1].is_empty();
        text.push_str(if n == 0 {
            ""
        } else if separates {
            ":"
        } else {
            "%3A"
        });
        text.push_str(part);
    }
    match text.chars().next() {
        Some(first @ ('(' | '[' | '*' | '!')) => format!("%{:02X}{}", u32::from(first), &text[1..]),
        _ => text,
    }
}

/// The text with `%` and bytes in the place of what would end it, or be lost: comments, line breaks and other control
/// characters, spaces other than single ones between words, and what the caller names.
fn escaped(text: &str, also: impl Fn(char) -> bool) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    let mut after_space = true;
    while let Some(c) = characters.next() {
        let outer_space = after_space || characters.peek().is_none_or(|next| next.is_whitespace());
        let kept_space = c == ' ' && !outer_space;
        if matches!(c, '%' | ';') || c.is_control() || (c.is_whitespace() && !kept_space) || also(c) {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                escaped.push_str(&format!("%{byte:02X}"));
            }
            after_space = false;
        } else {
            escaped.push(c);
            after_space = kept_space;
        }
    }
    escaped
}
