//! Reads wallets, whole, as the database has them.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use super::book::{Book, Held};
use super::settle::{BEGINNING, Grant};
use super::{OnExpiry, Terms, Wallet, WalletId};
use crate::{AccountSpec, AccountType, Amount, LedgerError};

const STATE: &str = "select wallet, party, currency, number, clock, frontier, receivable";

/// Under their locks, by id; those that do not exist are missing.
pub(super) async fn locked(client: &impl GenericClient, wallets: &[Uuid]) -> Result<BTreeMap<Uuid, Book>, LedgerError> {
    load(client, wallets, &format!("{STATE} from ledger.wallet_lock($1)")).await
}

/// As they are in the caller's snapshot: give it one of REPEATABLE READ.
pub(super) async fn seen(client: &impl GenericClient, wallets: &[Uuid]) -> Result<BTreeMap<Uuid, Book>, LedgerError> {
    let sql =
        format!("{STATE} from ledger.wallet_state s join ledger.wallet w on w.id = s.wallet where s.wallet = any($1)");
    load(client, wallets, &sql).await
}

async fn load(
    client: &impl GenericClient,
    wallets: &[Uuid],
    states: &str,
) -> Result<BTreeMap<Uuid, Book>, LedgerError> {
    let mut books = BTreeMap::new();
    for row in rows(client, states, wallets).await? {
        let wallet = Wallet { party: row.get(1), currency: row.get(2) };
        let book = Book {
            wallet,
            id: WalletId(row.get(0)),
            terms: Terms::default(),
            open_request: None,
            number: row.get(3),
            number_before: row.get(3),
            clock: row.get(4),
            frontier: row.get(5),
            receivable: amount_at(&row, 6)?,
            held: Vec::new(),
            used: BTreeMap::new(),
            changed_grants: Default::default(),
            changed_intervals: Default::default(),
        };
        books.insert(book.id.0, book);
    }
    // In statements of their own: what waited for a lock sees what the one before it did.
    for row in rows(client, GRANTS, wallets).await? {
        if let Some(book) = books.get_mut(&row.get::<_, Uuid>(0)) {
            book.held.push(held_of(&row)?);
        }
    }
    for row in
        rows(client, "select wallet, from_at, used from ledger.wallet_interval where wallet = any($1)", wallets).await?
    {
        if let Some(book) = books.get_mut(&row.get::<_, Uuid>(0)) {
            book.used.insert(row.get(1), amount_at(&row, 2)?);
        }
    }
    for row in rows(client, TERMS, wallets).await? {
        if let Some(book) = books.get_mut(&row.get::<_, Uuid>(0)) {
            book.terms = Terms::of_row(&row, 1)?;
            book.open_request = row.get(5);
        }
    }
    Ok(books)
}

const GRANTS: &str = "
    select g.wallet, g.id, g.whole, g.amount, b.debited, g.priority, g.from_at, g.expires_at,
           g.kind = 'promotional', g.on_expiry, b.consumed, b.expired, a.name, a.type, a.party, a.purpose, a.currency, g.source
    from ledger.wallet_grant g
    join ledger.wallet_booked b on b.grant_id = g.id
    left join ledger.account a on a.name = g.source
    where g.wallet = any($1)
    order by g.wallet, g.number, g.part";

/// A span of time of a wallet: its start, and its end unless it is the last.
pub(super) type Span = (Uuid, DateTime<Utc>, Option<DateTime<Utc>>);

/// All of a wallet's time, cut at these.
pub(super) fn spans(wallet: Uuid, mut cuts: BTreeSet<DateTime<Utc>>) -> Vec<Span> {
    cuts.insert(BEGINNING);
    let ends = cuts.iter().skip(1).map(|end| Some(*end)).chain([None]);
    cuts.iter().zip(ends).map(|(start, end)| (wallet, *start, end)).collect()
}

/// What wallets used in each span, worked out of the use by time; spans without any are missing.
pub(super) async fn sums(
    client: &impl GenericClient,
    spans: &[Span],
) -> Result<BTreeMap<Uuid, BTreeMap<DateTime<Utc>, Amount>>, LedgerError> {
    let wallets: Vec<Uuid> = spans.iter().map(|span| span.0).collect();
    let starts: Vec<DateTime<Utc>> = spans.iter().map(|span| span.1).collect();
    let ends: Vec<Option<DateTime<Utc>>> = spans.iter().map(|span| span.2).collect();
    let rows = client
        .query_typed(
            "select i.wallet, i.from_at, s.used
             from unnest($1, $2, $3) as i (wallet, from_at, to_at)
             cross join lateral (
                 select sum(u.amount) as used from ledger.wallet_use u
                 where u.wallet = i.wallet and u.at >= i.from_at and (i.to_at is null or u.at < i.to_at)
             ) s
             where s.used is not null",
            &[(&wallets, Type::UUID_ARRAY), (&starts, Type::TIMESTAMPTZ_ARRAY), (&ends, Type::TIMESTAMPTZ_ARRAY)],
        )
        .await
        .map_err(LedgerError::database("adding up the use of wallets"))?;
    let mut sums: BTreeMap<Uuid, BTreeMap<DateTime<Utc>, Amount>> = BTreeMap::new();
    for row in &rows {
        sums.entry(row.get(0)).or_default().insert(row.get(1), amount_at(row, 2)?);
    }
    Ok(sums)
}

const TERMS: &str = "
    select s.wallet, t.thresholds, t.topup_below, t.topup_amount, t.second_person_from,
           (select r.id from ledger.wallet_topup r
            where r.wallet = s.wallet
              and not exists (select from ledger.wallet_topup_answer a where a.request = r.id) limit 1)
    from ledger.wallet_state s
    cross join lateral (
        select * from ledger.wallet_terms t where t.wallet = s.wallet order by t.number desc limit 1
    ) t
    where s.wallet = any($1)";

async fn rows(client: &impl GenericClient, sql: &str, wallets: &[Uuid]) -> Result<Vec<Row>, LedgerError> {
    client.query_typed(sql, &[(&wallets, Type::UUID_ARRAY)]).await.map_err(LedgerError::database("reading wallets"))
}

fn held_of(row: &Row) -> Result<Held, LedgerError> {
    let on_expiry: &str = row.get(9);
    Ok(Held {
        whole: row.get(2),
        grant: Grant {
            id: row.get(1),
            amount: amount_at(row, 3)?,
            debited: amount_at(row, 4)?,
            priority: row.get(5),
            from: row.get::<_, DateTime<Utc>>(6),
            expires: row.get(7),
            promotional: row.get(8),
        },
        source: row.get::<_, Option<&str>>(17).map(|_| source_of(row)).transpose()?,
        on_expiry: OnExpiry::parse(on_expiry).ok_or_else(|| unreadable(format!("on_expiry {on_expiry:?}")))?,
        consumed: amount_at(row, 10)?,
        expired: amount_at(row, 11)?,
    })
}

fn source_of(row: &Row) -> Result<AccountSpec, LedgerError> {
    let missing = || unreadable(format!("the source of a grant, account {:?}", row.get::<_, Option<&str>>(17)));
    let name: Option<String> = row.get(12);
    let kind: Option<&str> = row.get(13);
    Ok(AccountSpec {
        name: name.ok_or_else(missing)?,
        kind: kind.and_then(AccountType::parse).ok_or_else(missing)?,
        party: row.get(14),
        purpose: row.get(15),
        currency: row.get(16),
    })
}

pub(super) fn amount_at(row: &Row, column: usize) -> Result<Amount, LedgerError> {
    row.try_get(column).map_err(|error| unreadable(error.to_string()))
}

pub(super) fn unreadable(detail: String) -> LedgerError {
    LedgerError::Unreadable {
        what: "a wallet holds what this version cannot read".to_owned(),
        detail,
        hint: "Was it written by a later version, or changed by hand?",
    }
}
