//! Proof for wallets: everything that was worked out, worked out again from the facts.

use std::collections::BTreeMap;

use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;
use uuid::Uuid;

use super::book::Book;
use super::load::{self, amount_at};
use super::settle::edges;
use crate::{Amount, LedgerError, Violation};

/// So many wallets are looked at in one go.
const PAGE: i64 = 500;

/// Checks that what is booked of every grant, the receivable and the use by interval are what grants, debits and use
/// lead to; that the paid grants left are the balance of the wallet's account; that entries are numbered without a
/// gap and posted what they say; that the rule of two persons was kept; and that the protection is in place.
///
/// Several statements: while the ledger is in use, call it inside a REPEATABLE READ transaction. Nothing found,
/// nothing wrong.
pub async fn verify(client: &impl GenericClient) -> Result<Vec<Violation>, LedgerError> {
    let rows = client
        .query_typed(include_str!("../../sql/verify_wallets.sql"), &[])
        .await
        .map_err(LedgerError::database("verifying the wallets"))?;
    let mut violations: Vec<Violation> =
        rows.iter().map(|row| Violation { law: row.get(0), subject: row.get(1), detail: row.get(2) }).collect();
    let mut last = Uuid::nil();
    loop {
        let rows = client
            .query_typed(
                "select wallet from ledger.wallet_state where wallet > $1 order by wallet limit $2",
                &[(&last, Type::UUID), (&PAGE, Type::INT8)],
            )
            .await
            .map_err(LedgerError::database("verifying the wallets"))?;
        let wallets: Vec<Uuid> = rows.iter().map(|row| row.get(0)).collect();
        let Some(end) = wallets.last() else { return Ok(violations) };
        last = *end;
        check(client, &wallets, &mut violations).await?;
    }
}

async fn check(
    client: &impl GenericClient,
    wallets: &[Uuid],
    violations: &mut Vec<Violation>,
) -> Result<(), LedgerError> {
    let books = load::seen(client, wallets).await?;
    let spans: Vec<_> = books.values().flat_map(|book| load::spans(book.id.0, edges(&book.grants()))).collect();
    let mut sums = load::sums(client, &spans).await?;
    let last = last_entries(client, wallets).await?;
    for (id, mut book) in books {
        let subject = format!("wallet {}", book.wallet.account().name);
        let mut wrong = |law: &str, subject: &str, detail: String| {
            violations.push(Violation { law: law.to_owned(), subject: subject.to_owned(), detail });
        };
        let used = sums.remove(&id).unwrap_or_default();
        let mut starts: Vec<_> = used.keys().chain(book.used.keys()).copied().collect();
        starts.sort_unstable();
        starts.dedup();
        for start in starts {
            let of = |map: &BTreeMap<_, Amount>| map.get(&start).copied().unwrap_or_default();
            if of(&used) != of(&book.used) {
                let detail = format!("{} is kept, the use adds up to {}", of(&book.used), of(&used));
                wrong("use is kept by interval", &format!("{subject}, from {start}"), detail);
            }
        }
        // As booked, before it is settled again from the use by time.
        let booked: Vec<_> = book.held.iter().map(|held| (held.consumed, held.expired)).collect();
        let receivable = book.receivable;
        check_figures(&book, last.get(&id), &subject, &mut wrong)?;
        book.used = used;
        book.settle()?;
        for (held, (consumed, expired)) in book.held.iter().zip(booked) {
            if (held.consumed, held.expired) != (consumed, expired) {
                wrong(
                    "a grant is booked as it should be",
                    &format!("{subject}, grant {}", held.grant.id),
                    format!(
                        "booked: consumed {consumed}, expired {expired}; should be: {}, {}",
                        held.consumed, held.expired
                    ),
                );
            }
        }
        if book.receivable != receivable {
            let detail = format!("booked {receivable}, should be {}", book.receivable);
            wrong("a receivable is booked as it should be", &subject, detail);
        }
    }
    Ok(())
}

/// The last entry's number, balance, paid, promotional and receivable, by wallet.
async fn last_entries(
    client: &impl GenericClient,
    wallets: &[Uuid],
) -> Result<BTreeMap<Uuid, (i64, [Amount; 4])>, LedgerError> {
    let rows = client
        .query_typed(
            "select s.wallet, e.number, e.balance, e.paid, e.promotional, e.receivable
             from unnest($1) as s (wallet)
             cross join lateral (
                 select * from ledger.wallet_entry e where e.wallet = s.wallet order by e.number desc limit 1
             ) e",
            &[(&wallets, Type::UUID_ARRAY)],
        )
        .await
        .map_err(LedgerError::database("verifying the wallets"))?;
    rows.iter()
        .map(|row| {
            let amounts = [amount_at(row, 2)?, amount_at(row, 3)?, amount_at(row, 4)?, amount_at(row, 5)?];
            Ok((row.get(0), (row.get(1), amounts)))
        })
        .collect()
}

fn check_figures(
    book: &Book,
    last: Option<&(i64, [Amount; 4])>,
    subject: &str,
    wrong: &mut impl FnMut(&str, &str, String),
) -> Result<(), LedgerError> {
    let figures = book.figures()?;
    let now = [figures.balance, figures.paid, figures.promotional, figures.receivable];
    match last {
        Some((number, told)) if *number == book.number && *told == now => {}
        Some((number, told)) => {
            let show = |amounts: &[Amount; 4]| amounts.map(|amount| amount.to_string()).join(", ");
            wrong(
                "the last entry says how a wallet stands",
                subject,
                format!(
                    "entry {number} says {}; with entry {} it stands at {} (balance, paid, promotional, receivable)",
                    show(told),
                    book.number,
                    show(&now)
                ),
            );
        }
        None => wrong("the last entry says how a wallet stands", subject, "it has no entry".to_owned()),
    }
    Ok(())
}
