//! Posted means immutable, and whoever gets round that is found.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Database, post, refused, transaction, transfer};
use hydrometer_ledger::{migration, verify};
use tokio_postgres::Client;

const TABLES: [&str; 4] = ["account", "account_balance", "transaction", "transfer"];

async fn posted() -> (Database, Client, Client) {
    let database = Database::create().await;
    let mut app = database.app().await;
    let set = [
        transaction("first", vec![transfer("x", "y", 5), transfer("y", "z", 6)]),
        transaction("second", vec![transfer("x", "y", 7)]),
    ];
    post(&mut app, &set).await.unwrap();
    let owner = database.owner().await;
    (database, app, owner)
}

#[tokio::test]
async fn the_application_changes_nothing() {
    let (database, app, owner) = posted().await;
    for table in TABLES {
        for sql in ["update ledger.% set ctid = ctid", "delete from ledger.%", "truncate ledger.%"] {
            let text = refused(&app, &sql.replace('%', table)).await;
            assert!(text.contains("permission denied") || text.contains("system column"), "{table}: {text}");
        }
    }
    for sql in [
        "update ledger.transfer set amount = 1",
        "update ledger.account_balance set debits = 1",
        "insert into ledger.account_balance values (99, 0, 0)",
        "insert into ledger.transfer values (gen_random_uuid(), 1, 1, 2, 1, 'USD', now())",
        "alter table ledger.transfer disable trigger all",
        "create table ledger.mine (x int)",
        "drop table ledger.transfer",
    ] {
        let text = refused(&app, sql).await;
        assert!(text.contains("permission denied") || text.contains("must be owner"), "{sql}: {text}");
        // The switch that the function sets is of no use without privileges.
        refused(&app, &format!("set ledger.posting = 'on'; {sql}")).await;
    }
    let owned: i64 = owner
        .query_one(
            "select count(*) from pg_class c join pg_roles r on r.oid = c.relowner where r.rolname = $1",
            &[&database.app_role()],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(owned, 0);
    assert_eq!(verify(&app).await.unwrap(), []);
    drop((app, owner));
    database.drop().await;
}

#[tokio::test]
async fn the_owner_changes_nothing_either() {
    let (database, app, owner) = posted().await;
    for sql in [
        "update ledger.transfer set amount = amount + 1",
        "update ledger.transfer set amount = 1 where false",
        "delete from ledger.transfer where line = 1",
        "truncate ledger.transfer",
        "update ledger.transaction set description = ''",
        "delete from ledger.transaction",
        "truncate ledger.transaction, ledger.transfer",
        "update ledger.account set party = 'me'",
        "delete from ledger.account",
        "truncate ledger.account cascade",
        "delete from ledger.account_balance",
        "truncate ledger.account_balance",
    ] {
        let text = refused(&owner, sql).await;
        assert!(text.contains("is immutable") && text.contains("corrects"), "{sql}: {text}");
    }
    for sql in [
        "update ledger.account_balance set debits = 0",
        "insert into ledger.account_balance values (99, 0, 0)",
        "insert into ledger.account (name, type, party, purpose, currency) values ('a', 'asset', 'a', 'a', 'USD')",
        "insert into ledger.transfer values (gen_random_uuid(), 1, 1, 2, 1, 'USD', now())",
        "insert into ledger.transaction values (gen_random_uuid(), '', 'k', now(), now(), '', null, '{}')",
    ] {
        let text = refused(&owner, sql).await;
        assert!(text.contains("outside of ledger.post"), "{sql}: {text}");
    }
    // With the function's own switch, a transfer still balances or is refused.
    let text = refused(
        &owner,
        "set ledger.posting = 'on';
         insert into ledger.account (name, type, party, purpose, currency) values ('euro', 'asset', 'a', 'a', 'EUR');
         insert into ledger.transfer
         select gen_random_uuid(), 1, 1, id, 1, 'USD', now() from ledger.account where name = 'euro'",
    )
    .await;
    assert!(text.contains("debits would not equal credits"), "{text}");
    owner.batch_execute("reset ledger.posting").await.unwrap();
    assert_eq!(verify(&app).await.unwrap(), []);
    drop((app, owner));
    database.drop().await;
}

#[tokio::test]
async fn tampering_is_found_and_named() {
    let first = transaction("first", vec![]).id.to_string();
    let second = transaction("second", vec![]).id.to_string();
    let x = "(select id from ledger.account where name = 'renter:x:unbilled:USD')";
    let line = format!("transaction {first}, line 2");
    for (tampering, law, subject) in [
        (
            format!("update ledger.transfer set amount = 70 where transaction = '{second}'"),
            "a body never changes",
            second.as_str(),
        ),
        (
            format!("update ledger.transfer set amount = 70 where transaction = '{second}'"),
            "a balance is the sum of its entries",
            "account renter:x:unbilled:USD",
        ),
        (
            format!("update ledger.transfer set credit_account = {x} where transaction = '{first}' and line = 2"),
            "a body never changes",
            &first,
        ),
        (
            format!("delete from ledger.transfer where transaction = '{first}' and line = 1"),
            "a transaction has its transfers",
            &first,
        ),
        (
            format!("delete from ledger.transfer where transaction = '{second}'"),
            "a transaction has its transfers",
            &second,
        ),
        (format!("delete from ledger.transaction where id = '{second}'"), "a transaction has its transfers", &second),
        (
            format!("update ledger.account_balance set debits = 1, credits = 1 where account = {x}"),
            "a balance is the sum of its entries",
            "account renter:x:unbilled:USD",
        ),
        (
            format!("update ledger.account_balance set debits = 1 where account = {x}"),
            "debits equal credits",
            "currency USD",
        ),
        (
            format!("delete from ledger.account_balance where account = {x}"),
            "a balance is the sum of its entries",
            "account renter:x:unbilled:USD",
        ),
        (
            format!("update ledger.transfer set currency = 'EUR' where transaction = '{first}' and line = 2"),
            "both sides of a transfer are in its currency",
            &line,
        ),
        (
            "update ledger.account set currency = 'EUR' where name = 'renter:z:unbilled:USD'".to_owned(),
            "both sides of a transfer are in its currency",
            &line,
        ),
        (
            "delete from ledger.account where name = 'renter:z:unbilled:USD'".to_owned(),
            "both sides of a transfer are in its currency",
            &line,
        ),
        (
            format!(
                "update ledger.transaction set effective_at = effective_at + interval '1 day' where id = '{first}'"
            ),
            "a body never changes",
            &first,
        ),
        (
            format!("update ledger.transaction set corrects = gen_random_uuid() where id = '{second}'"),
            "a correction names what it corrects",
            &second,
        ),
        (
            format!("update ledger.transfer set booked_at = now() - interval '1 day' where transaction = '{second}'"),
            "a transaction is booked at one time",
            &second,
        ),
        (
            format!(
                "alter table ledger.transfer drop constraint transfer_amount_check;
                 update ledger.transfer set amount = -6 where transaction = '{first}' and line = 2"
            ),
            "amounts are positive and move",
            &line,
        ),
    ] {
        let (database, app, owner) = posted().await;
        let off: String =
            TABLES.iter().map(|table| format!("alter table ledger.{table} disable trigger user;")).collect();
        owner.batch_execute(&format!("{off}{tampering};")).await.unwrap();
        owner.batch_execute(&migration(&database.app_role())).await.unwrap();
        let found = verify(&app).await.unwrap();
        assert!(
            found.iter().any(|v| v.law == law && v.subject.contains(subject)),
            "{tampering}: {law}: {subject}: {found:#?}"
        );
        drop((app, owner));
        database.drop().await;
    }
}

#[tokio::test]
async fn a_missing_protection_is_found() {
    for (tampering, subject) in [
        ("alter table ledger.transfer disable trigger immutable", "trigger immutable on ledger.transfer"),
        ("alter table ledger.account_balance disable trigger user", "trigger by_post on ledger.account_balance"),
        ("drop trigger transfer_sound on ledger.transfer", "trigger transfer_sound on ledger.transfer"),
        ("grant update on ledger.account_balance to %", "relation ledger.account_balance"),
        ("grant update (amount) on ledger.transfer to %", "relation ledger.transfer"),
        ("grant insert on ledger.transfer to public", "relation ledger.transfer"),
        ("grant create on schema ledger to %", "schema ledger"),
        ("alter function ledger.post reset search_path", "function ledger.post"),
    ] {
        let (database, app, owner) = posted().await;
        owner.batch_execute(&tampering.replace('%', &database.app_role())).await.unwrap();
        let found = verify(&app).await.unwrap();
        assert!(found.iter().any(|v| v.law == "the protection is in place" && v.subject == subject), "{found:#?}");
        drop((app, owner));
        database.drop().await;
    }
}

#[tokio::test]
async fn the_migration_repeats_and_refuses_a_role_with_too_many_rights() {
    let (database, mut app, owner) = posted().await;
    owner.batch_execute(&migration(&database.app_role())).await.unwrap();
    post(&mut app, &[transaction("third", vec![transfer("x", "y", 1)])]).await.unwrap();
    assert_eq!(verify(&app).await.unwrap(), []);

    let text = refused(&owner, &migration("no such 'role\"")).await;
    assert!(text.contains("does not exist") && text.contains("CREATE ROLE"), "{text}");
    let text = refused(&owner, &migration(&format!("{}_owner", database.name))).await;
    assert!(text.contains("has the rights of the ledger's owner"), "{text}");
    drop((app, owner));
    database.drop().await;
}
