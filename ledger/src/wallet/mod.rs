//! Wallets of grants: prepaid money, and what it pays for.
//!
//! A wallet belongs to a party and a currency. It holds *grants*, each paid or promotional, from one time to another,
//! with a priority. Use is booked elsewhere, as for anybody: debit `PARTY:unbilled`. The wallet then pays for it in
//! the same database transaction by a [`draw`]:
//!
//! | carried by | debit | credit |
//! |---|---|---|
//! | paid grants | `PARTY:wallet` (liability; only paid money, never below zero) | `PARTY:unbilled` |
//! | promotional grants | `platform:promotions` (expense; a promise until it is burned) | `PARTY:unbilled` |
//! | nothing | `PARTY:receivable` | `PARTY:unbilled` |
//!
//! So use is never refused and never hidden. Which grant carries what is a pure function of the wallet's grants and
//! its use ([`settle`]); each operation books the difference between what should be and what was booked, sides
//! swapped where it is negative. Late news therefore ends where timely news would have, whatever the commits.
//!
//! Every operation works inside the caller's database transaction (READ COMMITTED), locks its wallets, sorted, before
//! it locks anything of [`post`](crate::post), and bears an id: the same again changes nothing and gives the first
//! answer, another body under the same id is a conflict that names the fields. Each leaves an entry with the balances
//! after it ([`statement`]) and its events in `ledger.outbox`. After an error, roll back.
//!
//! Times count to the microsecond, from 1970 on.

mod accounts;
mod body;
mod book;
mod draw;
mod events;
mod grant;
mod load;
mod manual;
mod read;
mod refund;
mod schedule;
pub mod settle;
mod terms;
mod verify;
mod work;

pub use accounts::{Wallet, WalletId};
pub use draw::{Draw, advance, draw, draw_many, due};
pub use grant::{GrantKind, NewGrant, OnExpiry, grant};
pub use manual::{Act, Decision, Manual, Proposal, Requested, decide, manual, proposals};
pub use read::{GrantStanding, PlanLine, Standing, StatementLine, burn, plan_report, standing, statement};
pub use refund::{Refund, refund};
pub use schedule::{Burn, Part, monthly, runway};
pub use terms::{AutoTopup, NewTerms, NewWallet, Terms, decline_topup, open, set_terms};
pub use verify::verify;
pub use work::Done;

use chrono::{DateTime, SubsecRound, Utc};
use uuid::Uuid;

use crate::LedgerError;

/// Ids of wallets, of what they post and of their events are made within it.
const NAMESPACE: Uuid = Uuid::from_u128(0x2d0c_11f6_9a3e_4b57_8f41_6a0d_53c7_e918);

fn refuse(what: impl Into<String>, detail: impl Into<String>, hint: &'static str) -> LedgerError {
    LedgerError::Invalid { what: what.into(), detail: detail.into(), hint }
}

fn beyond(what: &str) -> LedgerError {
    refuse(format!("{what} cannot be added up"), "it is beyond 1.7 × 10^29", "Nothing was changed")
}

/// To the microsecond, as the database keeps it, and within the years that it can tell.
fn time(what: &str, at: DateTime<Utc>) -> Result<DateTime<Utc>, LedgerError> {
    const END: i64 = 253_402_300_800;
    if (0..END).contains(&at.timestamp()) {
        return Ok(at.trunc_subsecs(6));
    }
    Err(refuse(format!("{what} is not a time of a wallet"), at.to_string(), "Times are of the years 1970 to 9999"))
}

/// Who does something, and why: both are wanted.
fn reason(who: &str, why: &str) -> Result<(), LedgerError> {
    for (field, text) in [("who", who), ("why", why)] {
        if text.trim().is_empty() || text.contains(|c: char| c.is_ascii_control()) {
            return Err(refuse(
                "an operation on a wallet tells who did it and why",
                format!("{field} is {text:?}"),
                "State both, without control characters",
            ));
        }
    }
    Ok(())
}
