//! Credits and debits by hand: by one person, or by two where the amount asks for it.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::body::{Reader, account, amount, instant, optional};
use super::book::{Book, Held};
use super::grant::paid_in;
use super::refund::{Refund, paid_out, take, take_from};
use super::settle::{Grant, order};
use super::work::{Facts, Operation, Work};
use super::{Done, NewTerms, OnExpiry, WalletId, beyond, reason, refuse, time};
use crate::{AccountSpec, Amount, LedgerError};

/// What a person does to a wallet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// A grant: debit `source` (such as `platform:goodwill`), credit the wallet; without one, a promotional grant.
    Credit { source: Option<AccountSpec>, priority: i32, expires: Option<DateTime<Utc>>, on_expiry: OnExpiry },
    /// Debit the wallet, credit `destination`. It takes from the named grant (a promotional one: the promise is taken
    /// back, and nothing is posted), or else from the paid grants in the order in which they are consumed.
    Debit { destination: AccountSpec, grant: Option<Uuid> },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manual {
    /// Names the operation, its proposal, and the grant that a credit makes.
    pub id: Uuid,
    pub wallet: WalletId,
    pub act: Act,
    pub amount: Amount,
    pub at: DateTime<Utc>,
    pub who: String,
    pub why: String,
}

/// What became of what a person wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requested {
    Booked(Done),
    /// It is kept as a proposal, and has changed nothing. Another person has to [`decide`].
    Proposed,
    /// It was proposed before, and another person has rejected it.
    Rejected,
}

/// What a second person says of a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub proposal: Uuid,
    pub approve: bool,
    /// When it is decided: what is approved counts from then on, or from its own time if that is later.
    pub at: DateTime<Utc>,
    pub who: String,
    pub why: String,
}

/// A proposal that nobody has decided yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    pub id: Uuid,
    pub wallet: WalletId,
    /// `credit`, `debit`, `refund` or `terms`.
    pub kind: String,
    pub body: Value,
    pub who: String,
    pub why: String,
    pub proposed_at: DateTime<Utc>,
}

/// Credits or debits a wallet by hand; from the amount on that its terms name, it stays a proposal.
pub async fn manual(tx: &tokio_postgres::Transaction<'_>, manual: &Manual) -> Result<Requested, LedgerError> {
    request(tx, &Wanted::Manual(manual.clone())).await
}

/// Does what one person may do, or keeps it as a proposal.
pub(super) async fn request(tx: &tokio_postgres::Transaction<'_>, wanted: &Wanted) -> Result<Requested, LedgerError> {
    let operation = wanted.operation()?;
    let mut work = Work::begin(tx, &[&operation]).await?;
    if let Some(done) = work.known(operation.id) {
        return Ok(Requested::Booked(done));
    }
    let book = work.book(operation.wallet)?;
    let (operation, facts) = wanted.ready(book)?;
    if !wanted.needs_second_person(book, &operation) {
        let done = work.run(&operation, facts).await?;
        work.finish(&[]).await?;
        return Ok(Requested::Booked(done));
    }
    tx.query_typed(
        "select ledger.wallet_propose($1, $2, $3, $4, $5, $6)",
        &[
            (&operation.id, Type::UUID),
            (&operation.wallet.0, Type::UUID),
            (&operation.kind, Type::TEXT),
            (&operation.body, Type::JSONB),
            (&operation.who, Type::TEXT),
            (&operation.why, Type::TEXT),
        ],
    )
    .await
    .map_err(LedgerError::database("proposing an operation on a wallet"))?;
    let rejected = tx
        .query_typed(
            "select from ledger.wallet_decision where proposal = $1 and not approved",
            &[(&operation.id, Type::UUID)],
        )
        .await
        .map_err(LedgerError::database("looking for a decision"))?;
    Ok(if rejected.is_empty() { Requested::Proposed } else { Requested::Rejected })
}

/// Approves a proposal, which is done at once, or rejects it. The proposer cannot. When it can no longer be done
/// (a debit of what is not left any more), that is an error and the proposal stays open.
pub async fn decide(tx: &tokio_postgres::Transaction<'_>, decision: &Decision) -> Result<Requested, LedgerError> {
    reason(&decision.who, &decision.why)?;
    let row = tx
        .query_typed("select kind, body from ledger.wallet_proposal where id = $1", &[(&decision.proposal, Type::UUID)])
        .await
        .map_err(LedgerError::database("looking for a proposal"))?;
    let Some(row) = row.first() else {
        let what = format!("there is no proposal {}", decision.proposal);
        return Err(refuse(what, "nothing was decided", "List the open ones"));
    };
    let (kind, body): (&str, Value) = (row.get(0), row.get(1));
    let mut wanted = Wanted::of(kind, decision.proposal, &body)?;
    let mut operation = wanted.operation()?;
    // The wallet's lock comes before the decision's row.
    let mut work = Work::begin(tx, &[&operation]).await?;
    tx.query_typed(
        "select ledger.wallet_decide($1, $2, $3, $4)",
        &[
            (&decision.proposal, Type::UUID),
            (&decision.approve, Type::BOOL),
            (&decision.who, Type::TEXT),
            (&decision.why, Type::TEXT),
        ],
    )
    .await
    .map_err(LedgerError::database("deciding on a proposal"))?;
    if !decision.approve {
        return Ok(Requested::Rejected);
    }
    if let Some(done) = work.known(operation.id) {
        return Ok(Requested::Booked(done));
    }
    if let Wanted::Manual(Manual { at, .. }) | Wanted::Refund(Refund { at, .. }) = &mut wanted {
        *at = operation.at.max(time("a decision", decision.at)?);
    }
    let (ready, facts) = wanted.ready(work.book(operation.wallet)?)?;
    // The body stays what was proposed.
    operation = Operation { body: operation.body, ..ready };
    let done = work.run(&operation, facts).await?;
    work.finish(&[]).await?;
    Ok(Requested::Booked(done))
}

/// The proposals that wait for a decision, oldest first.
pub async fn proposals(client: &impl GenericClient) -> Result<Vec<Proposal>, LedgerError> {
    let rows = client
        .query_typed(
            "select p.id, p.wallet, p.kind, p.body, p.who, p.why, p.proposed_at
             from ledger.wallet_proposal p
             where not exists (select from ledger.wallet_decision d where d.proposal = p.id)
             order by p.proposed_at, p.id",
            &[],
        )
        .await
        .map_err(LedgerError::database("reading proposals"))?;
    let proposal = |row: &tokio_postgres::Row| Proposal {
        id: row.get(0),
        wallet: WalletId(row.get(1)),
        kind: row.get(2),
        body: row.get(3),
        who: row.get(4),
        why: row.get(5),
        proposed_at: row.get(6),
    };
    Ok(rows.iter().map(proposal).collect())
}

/// What one person may want of another.
pub(super) enum Wanted {
    Manual(Manual),
    Refund(Refund),
    Terms(NewTerms),
}

impl Wanted {
    fn of(kind: &str, id: Uuid, body: &Value) -> Result<Self, LedgerError> {
        Ok(match kind {
            "terms" => Wanted::Terms(NewTerms::of_body(id, body)?),
            "refund" => Wanted::Refund(Refund::of_body(id, body)?),
            _ => Wanted::Manual(Manual::of_body(id, body)?),
        })
    }

    fn operation(&self) -> Result<Operation, LedgerError> {
        match self {
            Wanted::Manual(manual) => manual.operation(),
            Wanted::Refund(refund) => refund.operation(),
            Wanted::Terms(terms) => terms.operation(),
        }
    }

    /// What it comes to with the wallet as it is.
    fn ready(&self, book: &Book) -> Result<(Operation, Facts), LedgerError> {
        match self {
            Wanted::Manual(manual) => Ok((manual.operation()?, manual.facts(book)?)),
            Wanted::Refund(refund) => refund.ready(book),
            Wanted::Terms(terms) => Ok((terms.operation()?, terms.facts())),
        }
    }

    fn needs_second_person(&self, book: &Book, operation: &Operation) -> bool {
        match self {
            Wanted::Terms(terms) => book.terms.is_raised_by(&terms.terms),
            Wanted::Manual(_) | Wanted::Refund(_) => book.terms.second_person_from.is_some_and(|from| {
                operation.amount >= from || operation.amount.checked_neg().is_none_or(|taken| taken >= from)
            }),
        }
    }
}

impl Manual {
    fn operation(&self) -> Result<Operation, LedgerError> {
        reason(&self.who, &self.why)?;
        let at = time("a manual operation", self.at)?;
        if !self.amount.is_positive() || self.amount > Amount::MAX_POSTABLE {
            let detail = format!("its amount {} is not positive, or beyond {}", self.amount, Amount::MAX_POSTABLE);
            return Err(refuse(
                format!("the manual operation {} cannot be done", self.id),
                detail,
                "Nothing was changed",
            ));
        }
        let negative = || self.amount.checked_neg().ok_or_else(|| beyond("a debit"));
        let (kind, given, act) = match &self.act {
            Act::Credit { source, priority, expires, on_expiry } => {
                let expires = expires.map(|end| time("a credit's end", end)).transpose()?;
                if expires.is_some_and(|end| end <= at) {
                    return Err(refuse("a credit would end before it starts", at.to_string(), "Nothing was changed"));
                }
                let act = json!({
                    "source": source.as_ref().map(account), "priority": priority, "expires": optional(expires),
                    "on_expiry": on_expiry.as_str(),
                });
                ("credit", self.amount, json!({ "credit": act }))
            }
            Act::Debit { destination, grant } => {
                let act = json!({ "destination": account(destination), "grant": grant.map(|id| id.to_string()) });
                ("debit", negative()?, json!({ "debit": act }))
            }
        };
        Ok(Operation {
            id: self.id,
            wallet: self.wallet,
            kind,
            at,
            amount: given,
            who: self.who.clone(),
            why: self.why.clone(),
            body: json!({
                "wallet": self.wallet.to_string(), "act": act, "amount": amount(self.amount), "at": instant(at),
                "who": self.who, "why": self.why,
            }),
        })
    }

    fn of_body(id: Uuid, body: &Value) -> Result<Self, LedgerError> {
        let read = Reader(body);
        let act = &body["act"];
        let act = if act["credit"].is_object() {
            let credit = Reader(&act["credit"]);
            Act::Credit {
                source: credit.has("source").then(|| credit.account("source")).transpose()?,
                priority: credit.integer("priority")?,
                expires: credit.has("expires").then(|| credit.instant("expires")).transpose()?,
                on_expiry: OnExpiry::parse(credit.text("on_expiry")?)
                    .ok_or_else(|| super::load::unreadable(format!("on_expiry of {body}")))?,
            }
        } else {
            let debit = Reader(&act["debit"]);
            Act::Debit {
                destination: debit.account("destination")?,
                grant: debit.has("grant").then(|| debit.uuid("grant")).transpose()?,
            }
        };
        Ok(Manual {
            id,
            wallet: WalletId(read.uuid("wallet")?),
            act,
            amount: read.amount("amount")?,
            at: read.instant("at")?,
            who: read.text("who")?.to_owned(),
            why: read.text("why")?.to_owned(),
        })
    }

    fn facts(&self, book: &Book) -> Result<Facts, LedgerError> {
        let at = time("a manual operation", self.at)?;
        match &self.act {
            Act::Credit { source, priority, expires, on_expiry } => {
                let grant = Grant {
                    id: self.id,
                    amount: self.amount,
                    debited: Amount::ZERO,
                    priority: *priority,
                    from: at,
                    expires: expires.map(|end| time("a credit's end", end)).transpose()?,
                    promotional: source.is_none(),
                };
                let held = Held {
                    whole: self.id,
                    grant,
                    source: source.clone(),
                    on_expiry: *on_expiry,
                    consumed: Amount::ZERO,
                    expired: Amount::ZERO,
                };
                let transfers = paid_in(book, source.clone(), self.amount)?;
                Ok(Facts { grants: vec![held], transfers, ..Facts::default() })
            }
            Act::Debit { destination, grant } => {
                let (debits, _) = match grant {
                    Some(whole) => take_from(book, *whole, Some(self.amount), at)?,
                    None => {
                        let grants = book.grants();
                        let mut places = order(&grants);
                        places.retain(|&place| book.held[place].source.is_some() && grants[place].is_active(at));
                        take(book, &places, Some(self.amount), "the paid grants that are active")?
                    }
                };
                let transfers = paid_out(book, &debits, destination)?;
                Ok(Facts { debits, transfers, ..Facts::default() })
            }
        }
    }
}
