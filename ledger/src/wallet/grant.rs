//! Grants: paid money, promises, and balances from elsewhere.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::body::{account, amount, instant, optional};
use super::book::{Book, Held};
use super::settle::Grant;
use super::terms::answerable;
use super::work::{Facts, Operation, alone};
use super::{Done, NAMESPACE, Part, WalletId, reason, refuse, time};
use crate::{AccountSpec, Amount, LedgerError, TransactionId, Transfer};

/// Where what is left of a paid grant goes when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExpiry {
    /// To `platform:expired_credit`.
    Income,
    /// Back to the account that it came from. Late use takes its part out of there again, so that account should bear
    /// no limit that could stop it.
    Back,
}

impl OnExpiry {
    pub const fn as_str(self) -> &'static str {
        match self {
            OnExpiry::Income => "income",
            OnExpiry::Back => "back",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [OnExpiry::Income, OnExpiry::Back].into_iter().find(|way| way.as_str() == text)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GrantKind {
    /// Money: debit `source` (such as `rail:ach:clearing`), credit the wallet.
    Paid { source: AccountSpec },
    /// A promise: nothing is posted until it is burned, nor when it lapses.
    Promotional,
    /// Money that another system kept: debit `equity:opening`, credit the wallet.
    Opening { system: String, document: String },
}

/// A grant to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewGrant {
    /// Names the grant, and the operation.
    pub id: Uuid,
    pub wallet: WalletId,
    pub kind: GrantKind,
    pub amount: Amount,
    /// Lower is consumed first.
    pub priority: i32,
    /// When it is booked as of, and from when it counts.
    pub at: DateTime<Utc>,
    /// It can be used until just before this time.
    pub expires: Option<DateTime<Utc>>,
    pub on_expiry: OnExpiry,
    /// Not all of it at once: the parts become usable at their times. They add up to the amount.
    pub release: Vec<Part>,
    /// What is planned to be used of it: each amount by its time, on top of those before. It binds nobody; the report
    /// is [`plan_report`](super::plan_report).
    pub plan: Vec<Part>,
    /// The request for a top-up that it answers.
    pub answers: Option<Uuid>,
    pub who: String,
    pub why: String,
}

/// Makes a grant, for payments and campaigns; what a person gives by hand is a [`Manual`](super::Manual) credit, which
/// may need a second one. Use of the past that lies within it, and that the wallet could not carry, is now carried by it.
pub async fn grant(tx: &tokio_postgres::Transaction<'_>, new: &NewGrant) -> Result<Done, LedgerError> {
    let operation = new.operation()?;
    alone(tx, &operation, |book| {
        if let Some(topup) = new.answers {
            answerable(book, topup)?;
        }
        Ok((operation.clone(), new.facts(book)?))
    })
    .await
}

impl NewGrant {
    fn operation(&self) -> Result<Operation, LedgerError> {
        reason(&self.who, &self.why)?;
        self.check()?;
        let parts = |parts: &[Part]| -> Value {
            parts.iter().map(|part| json!({ "at": instant(part.at), "amount": amount(part.amount) })).collect()
        };
        let kind = match &self.kind {
            GrantKind::Paid { source } => json!({ "kind": "paid", "source": account(source) }),
            GrantKind::Promotional => json!({ "kind": "promotional" }),
            GrantKind::Opening { system, document } => {
                json!({ "kind": "opening", "system": system, "document": document })
            }
        };
        let at = time("a grant's start", self.at)?;
        Ok(Operation {
            id: self.id,
            wallet: self.wallet,
            kind: "grant",
            at,
            amount: self.amount,
            who: self.who.clone(),
            why: self.why.clone(),
            body: json!({
                "wallet": self.wallet.to_string(), "grant": kind, "amount": amount(self.amount),
                "priority": self.priority, "at": instant(at), "expires": optional(self.expires),
                "on_expiry": self.on_expiry.as_str(), "release": parts(&self.release), "plan": parts(&self.plan),
                "answers": self.answers.map(|id| id.to_string()), "who": self.who, "why": self.why,
            }),
        })
    }

    fn check(&self) -> Result<(), LedgerError> {
        let bad = |detail: String| {
            Err(refuse(format!("the grant {} cannot be made", self.id), detail, "Nothing was changed"))
        };
        if !self.amount.is_positive() || self.amount > Amount::MAX_POSTABLE {
            return bad(format!("its amount {} is not positive, or beyond {}", self.amount, Amount::MAX_POSTABLE));
        }
        if let GrantKind::Opening { system, document } = &self.kind
            && (system.trim().is_empty() || document.trim().is_empty())
        {
            return bad("it names no system or no document that the balance comes from".to_owned());
        }
        let mut starts = vec![time("a grant's start", self.at)?];
        for (what, parts) in [("release", &self.release), ("plan", &self.plan)] {
            let mut last = None;
            for part in parts {
                let at = time("a part of a grant", part.at)?;
                if !part.amount.is_positive() || last.is_some_and(|last| at <= last) || at < starts[0] {
                    return bad(format!(
                        "its {what} has {} at {at}; parts are positive, in order of time, and not before the grant",
                        part.amount
                    ));
                }
                last = Some(at);
                if what == "release" {
                    starts.push(at);
                }
            }
            let total = Amount::checked_sum(parts.iter().map(|part| part.amount));
            let fits = if what == "release" { total == Some(self.amount) } else { total <= Some(self.amount) };
            if !parts.is_empty() && (total.is_none() || !fits) {
                return bad(format!("the parts of its {what} do not add up to {}", self.amount));
            }
        }
        if let Some(expires) = self.expires {
            let expires = time("a grant's end", expires)?;
            if let Some(late) = starts.into_iter().find(|start| *start >= expires) {
                return bad(format!("it would expire at {expires}, but it starts, or a part of it, at {late}"));
            }
        }
        Ok(())
    }

    fn facts(&self, book: &Book) -> Result<Facts, LedgerError> {
        let source = match &self.kind {
            GrantKind::Paid { source } => Some(source.clone()),
            GrantKind::Promotional => None,
            GrantKind::Opening { .. } => Some(book.wallet.opening()),
        };
        let whole = [Part { at: self.at, amount: self.amount }];
        let parts = if self.release.is_empty() { &whole[..] } else { &self.release };
        let grants = parts.iter().enumerate().map(|(place, part)| {
            let id = if self.release.is_empty() { self.id } else { part_id(self.id, place) };
            Ok(Held {
                whole: self.id,
                grant: Grant {
                    id,
                    amount: part.amount,
                    debited: Amount::ZERO,
                    priority: self.priority,
                    from: time("a grant's start", part.at)?,
                    expires: self.expires.map(|end| time("a grant's end", end)).transpose()?,
                    promotional: source.is_none(),
                },
                source: source.clone(),
                on_expiry: self.on_expiry,
                consumed: Amount::ZERO,
                expired: Amount::ZERO,
            })
        });
        Ok(Facts {
            grants: grants.collect::<Result<_, LedgerError>>()?,
            plan: self.plan.clone(),
            answers: self.answers,
            transfers: paid_in(book, source, self.amount)?,
            ..Facts::default()
        })
    }
}

/// The transfer that brings paid money in.
pub(super) fn paid_in(book: &Book, source: Option<AccountSpec>, amount: Amount) -> Result<Vec<Transfer>, LedgerError> {
    let Some(source) = source else { return Ok(Vec::new()) };
    other_side(book, &source)?;
    Ok(vec![Transfer { debit: source, credit: book.wallet.account(), amount }])
}

/// Refuses accounts that a wallet's money cannot come from or go to.
pub(super) fn other_side(book: &Book, account: &AccountSpec) -> Result<(), LedgerError> {
    let wallet = book.wallet.account();
    if account.currency != wallet.currency || account.name == wallet.name {
        return Err(refuse(
            format!("money of {} cannot come from or go to {}", wallet.name, account.name),
            format!("that account is kept in {}", account.currency),
            "Name another account in the wallet's currency",
        ));
    }
    Ok(())
}

fn part_id(whole: Uuid, place: usize) -> Uuid {
    TransactionId::derive(&NAMESPACE, &["part", &whole.to_string(), &place.to_string()]).0
}
