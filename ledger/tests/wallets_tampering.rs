//! What is worked out of the facts can be worked out again, and whoever changes either is found.
#![allow(clippy::unwrap_used)]

mod common;
mod wallet_common;

use common::Database;
use hydrometer_ledger::verify;
use hydrometer_ledger::wallet::{self, Act, GrantKind, Manual, NewGrant, OnExpiry, Terms};
use wallet_common::*;

#[tokio::test]
async fn tampering_with_wallets_is_found_and_named() {
    let database = Database::create().await;
    let mut app = database.app().await;
    let terms = Terms { second_person_from: Some(units(50)), ..Terms::default() };
    let wallet = open(&mut app, &renter(), terms).await;
    grant(&mut app, &new_grant("paid", wallet, 100, 0, Some(30))).await;
    let promise = NewGrant { kind: GrantKind::Promotional, ..new_grant("promise", wallet, 20, 0, None) };
    grant(&mut app, &promise).await;
    draw(&mut app, "use", wallet, &[(5, 30), (10, 10), (40, 50)]).await;
    let manual = Manual {
        id: id("large"),
        wallet,
        act: Act::Credit { source: Some(goodwill()), priority: 0, expires: None, on_expiry: OnExpiry::Income },
        amount: units(60),
        at: at(50),
        who: "ann".to_owned(),
        why: "an outage".to_owned(),
    };
    commit!(app, wallet::manual, &manual).unwrap();
    let decision = wallet::Decision {
        proposal: id("large"),
        approve: true,
        at: at(0),
        who: "bob".to_owned(),
        why: "yes".to_owned(),
    };
    commit!(app, wallet::decide, &decision).unwrap();
    sound(&mut app).await;

    let owner = database.owner().await;
    for sql in [
        "update ledger.wallet_grant set amount = 1",
        "delete from ledger.wallet_use",
        "truncate ledger.wallet_entry",
        "update ledger.wallet_decision set who = 'eve'",
        "delete from ledger.wallet_booked",
    ] {
        let text = common::refused(&owner, sql).await;
        assert!(text.contains("is immutable"), "{sql}: {text}");
        let text = common::refused(&app, sql).await;
        assert!(text.contains("permission denied"), "{sql}: {text}");
    }
    for sql in [
        "update ledger.wallet_booked set consumed = 0",
        "update ledger.wallet_state set receivable = 0",
        "insert into ledger.wallet_interval select wallet, now(), 1 from ledger.wallet_state",
        "insert into ledger.wallet_use select wallet, 1, now(), 1 from ledger.wallet_state",
    ] {
        let text = common::refused(&owner, sql).await;
        assert!(text.contains("outside of ledger.post"), "{sql}: {text}");
        let text = common::refused(&app, sql).await;
        assert!(text.contains("permission denied"), "{sql}: {text}");
    }

    let (paid, large, drawn) = (id("paid").to_string(), id("large").to_string(), id("use").to_string());
    let account = "renter:R:wallet:USD";
    for (tampering, law, subject) in [
        (
            "update ledger.wallet_use set amount = amount + 1e-9 where at < '2025-06-15 15:06:46'".to_owned(),
            "use is kept by interval",
            account,
        ),
        (
            "update ledger.wallet_use set amount = amount + 1e-9".to_owned(),
            "an entry is what its rows add up to",
            &drawn,
        ),
        (
            "update ledger.wallet_use set amount = amount + 1e-9".to_owned(),
            "a receivable is booked as it should be",
            account,
        ),
        (
            "update ledger.wallet_use set amount = amount + 1e-9".to_owned(),
            "what a wallet posted is what it says",
            account,
        ),
        ("update ledger.wallet_interval set used = used - 1e-9".to_owned(), "use is kept by interval", account),
        (
            format!("update ledger.wallet_booked set consumed = consumed - 1e-9 where grant_id = '{paid}'"),
            "a grant is booked as it should be",
            &paid,
        ),
        (
            format!("update ledger.wallet_booked set consumed = consumed - 1e-9 where grant_id = '{paid}'"),
            "the paid grants left are the balance of the wallet's account",
            account,
        ),
        (
            format!("update ledger.wallet_booked set debited = 1e-9 where grant_id = '{paid}'"),
            "the debits of a grant are those of operations",
            &paid,
        ),
        (
            format!(
                "alter table ledger.wallet_booked drop constraint no_grant_below_zero;
                  update ledger.wallet_booked set expired = 101e-9 where grant_id = '{paid}'"
            ),
            "no grant is below zero",
            &paid,
        ),
        (
            format!("update ledger.wallet_grant set amount = 99e-9 where id = '{paid}'"),
            "a grant is booked as it was made",
            &paid,
        ),
        (
            format!("update ledger.wallet_grant set expires_at = expires_at + interval '15 s' where id = '{paid}'"),
            "a grant is booked as it should be",
            &paid,
        ),
        (
            "update ledger.wallet_grant set priority = -9 where kind = 'promotional'".to_owned(),
            "a grant is booked as it should be",
            &paid,
        ),
        ("update ledger.wallet_state set receivable = 0".to_owned(), "a receivable is booked as it should be", account),
        (
            "update ledger.wallet_entry set balance = balance + 1e-9 where kind = 'credit'".to_owned(),
            "the last entry says how a wallet stands",
            account,
        ),
        (
            "delete from ledger.wallet_entry where number = 2".to_owned(),
            "entries are numbered without a gap",
            &wallet.to_string(),
        ),
        ("delete from ledger.wallet_entry where number = 2".to_owned(), "rows belong to an entry", &wallet.to_string()),
        (
            "update ledger.wallet_entry set transactions = array[gen_random_uuid()] where kind = 'draw'".to_owned(),
            "what an entry posted is in the book",
            &drawn,
        ),
        ("delete from ledger.wallet_decision".to_owned(), "two persons act where two are asked for", &large),
        (
            "update ledger.wallet_decision set approved = false".to_owned(),
            "two persons act where two are asked for",
            &large,
        ),
        ("update ledger.wallet_decision set who = 'ANN '".to_owned(), "nobody decides on what is theirs", &large),
        (
            "update ledger.wallet_entry set body = body || '{\"amount\": \"1\"}' where kind = 'credit'".to_owned(),
            "two persons act where two are asked for",
            &large,
        ),
        (
            "update ledger.account_balance set credit_limit = null where credit_limit = 0".to_owned(),
            "a wallet's account cannot fall below zero",
            account,
        ),
        (
            "alter table ledger.wallet_entry disable trigger immutable_row".to_owned(),
            "the protection is in place",
            "wallet_entry",
        ),
        ("drop trigger by_post on ledger.wallet_booked".to_owned(), "the protection is in place", "wallet_booked"),
    ] {
        let mut owner = database.owner().await;
        let tx = owner.transaction().await.unwrap();
        let tables: Vec<String> = tx
            .query(
                "select c.relname::text from pg_class c where c.relnamespace = 'ledger'::regnamespace
                    and c.relkind = 'r' and (c.relname like 'wallet%' or c.relname = 'account_balance')",
                &[],
            )
            .await
            .unwrap()
            .iter()
            .map(|row| row.get(0))
            .collect();
        let protection = law == "the protection is in place";
        if !protection {
            for table in &tables {
                tx.batch_execute(&format!("alter table ledger.{table} disable trigger user")).await.unwrap();
            }
        }
        tx.batch_execute(&tampering).await.unwrap();
        let found = wallet::verify(&tx).await.unwrap();
        let named = found.iter().any(|violation| violation.law == law && violation.subject.contains(subject));
        let found: Vec<_> = found.into_iter().filter(|violation| violation.detail != "switched off").collect();
        assert!(named, "{tampering}: {law}: {subject} is not in {found:#?}");
        tx.rollback().await.unwrap();
    }
    assert_eq!(verify(&app).await.unwrap(), []);
    sound(&mut app).await;
    drop((app, owner));
    database.drop().await;
}
