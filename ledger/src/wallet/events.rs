//! What an operation tells others, through `ledger.outbox`.
//!
//! Ids are made from the operation's, so whoever gets one twice can tell. The subject is the wallet's account.
//!
//! | type | when |
//! |---|---|
//! | `wallet.granted` | a grant or credit was booked |
//! | `wallet.low` | the balance crossed a threshold downwards; again only after it has been above |
//! | `wallet.empty` | the balance fell to zero, or use went beyond the wallet for the first time |
//! | `wallet.receivable` | what the wallet could not carry has changed, by a signed amount |
//! | `wallet.expired` | a grant ended with something left; below zero, late use took back a part of that |
//! | `wallet.topup_requested` | the balance is below the limit for automatic top-ups, and no request is open |

use serde_json::{Value, json};
use uuid::Uuid;

use super::NAMESPACE;
use super::body::{amount, instant, optional};
use super::book::{Book, Change, Figures};
use super::work::Operation;
use crate::{Amount, TransactionId};

pub(super) struct Happened<'a> {
    pub operation: &'a Operation,
    pub before: Figures,
    pub after: Figures,
    pub changes: &'a [Change],
    /// Places of the grants that the operation made.
    pub granted: std::ops::Range<usize>,
    /// The request for a top-up that it leaves, and its amount.
    pub request: Option<(Uuid, Amount)>,
}

/// The rows for the outbox.
pub(super) fn events(book: &Book, happened: &Happened<'_>) -> Vec<Value> {
    let Happened { operation, before, after, changes, granted, request } = happened;
    let mut events = Vec::new();
    let mut tell = |kind: &str, which: &str, more: Value| {
        let mut data = json!({
            "wallet": book.id.to_string(), "party": book.wallet.party, "currency": book.wallet.currency,
            "operation": operation.id.to_string(), "kind": operation.kind, "at": instant(operation.at),
            "balance": amount(after.balance), "paid": amount(after.paid),
            "promotional": amount(after.promotional), "receivable": amount(after.receivable),
        });
        if let (Some(data), Value::Object(more)) = (data.as_object_mut(), more) {
            data.extend(more);
        }
        events.push(json!({
            "id": TransactionId::derive(&NAMESPACE, &["event", &operation.id.to_string(), kind, which]).to_string(),
            "type": kind, "subject": book.wallet.account().name, "data": data,
        }));
    };

    for held in &book.held[granted.clone()] {
        tell(
            "wallet.granted",
            &held.grant.id.to_string(),
            json!({
                "grant": held.grant.id.to_string(), "amount": amount(held.grant.amount),
                "from": instant(held.grant.from), "expires": optional(held.grant.expires),
                "promotional": held.source.is_none(),
            }),
        );
    }
    for threshold in &book.terms.thresholds {
        if before.balance > *threshold && after.balance <= *threshold {
            tell("wallet.low", &threshold.to_string(), json!({ "threshold": amount(*threshold) }));
        }
    }
    let fell = before.balance.is_positive() && after.balance.is_zero();
    let arose = !before.receivable.is_positive() && after.receivable.is_positive();
    if fell || arose {
        tell("wallet.empty", "", json!({}));
    }
    if after.receivable != before.receivable {
        let change = after.receivable.nanos().saturating_sub(before.receivable.nanos());
        tell("wallet.receivable", "", json!({ "amount": amount(Amount::from_nanos(change)) }));
    }
    let mut expired: Vec<(usize, i128)> = Vec::new();
    for (place, change) in changes.iter().flat_map(|change| &change.expired) {
        match expired.iter_mut().find(|known| known.0 == *place) {
            Some(known) => known.1 = known.1.saturating_add(change.nanos()),
            None => expired.push((*place, change.nanos())),
        }
    }
    for (place, change) in expired.into_iter().filter(|(_, change)| *change != 0) {
        let id = book.held[place].grant.id.to_string();
        tell("wallet.expired", &id, json!({ "grant": id, "amount": amount(Amount::from_nanos(change)) }));
    }
    if let Some((id, wanted)) = request {
        tell("wallet.topup_requested", "", json!({ "request": id.to_string(), "amount": amount(*wanted) }));
    }
    events
}
