//! Posted means immutable, and whoever gets round that is found.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Database, post, refused, transaction, transfer};
use hydrometer_ledger::{migration, verify};
use tokio_postgres::Client;

const TABLES: [&str; 11] = [
    "account",
    "account_balance",
    "account_limit",
    "hold",
    "hold_resolution",
    "metadata_field",
    "movement",
    "outbox",
    "posting",
    "transaction_id",
    "transfer",
];

const INSERT_TRANSFER: &str =
    "insert into ledger.transfer (posting, place, line, debit_account, credit_account, effective_at,
    booked_at, transaction, amount, currency, kind, description, metadata)
    values (1, 1, 1, 1, 2, now(), now(), gen_random_uuid(), 1, 'USD', 'k', '', '{}')";
const INSERT_MOVEMENT: &str =
    "insert into ledger.movement (account, booked_at, previous_at, posting, entries, balance, places)
    values (1, now(), '-infinity', 1, 9, 1, '{1}')";
const INSERT_INTO_PARTITION: &str = "do $$ begin execute format('insert into ledger.transfer_%s select * from ledger.transfer', to_char(now(), 'YYYY_MM')); end $$";

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
        "insert into ledger.account_balance (account, currency, debit_normal) values (99, 'USD', true)",
        INSERT_TRANSFER,
        INSERT_MOVEMENT,
        INSERT_INTO_PARTITION,
        "insert into ledger.transaction_id values (gen_random_uuid(), 1, 1)",
        "insert into ledger.posting (booked_at, transactions, transfers) values (now(), 1, 1)",
        "insert into ledger.metadata_field values ('usage', 'key', 'text', true)",
        "insert into ledger.account_limit values (1, 9, 5, now(), 'me', 'why')",
        "delete from ledger.open_hold",
        "select ledger.book(now(), 1, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}')",
        "select ledger.release('{}', now())",
        "select ledger.describe_kind('usage', '{}')",
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
        "do $$ begin execute format('update ledger.transfer_%s set amount = 1', to_char(now(), 'YYYY_MM')); end $$",
        "do $$ begin execute format('truncate ledger.transfer_%s', to_char(now(), 'YYYY_MM')); end $$",
        "update ledger.posting set booked_at = now()",
        "update ledger.transaction_id set place = 2",
        "delete from ledger.posting",
        "truncate ledger.transaction_id",
        "truncate ledger.posting, ledger.transfer",
        "update ledger.outbox set type = ''",
        "delete from ledger.hold",
        "update ledger.hold_resolution set amount = 1",
        "update ledger.account_limit set credit_limit = 1",
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
        "insert into ledger.account_balance (account, currency, debit_normal) values (99, 'USD', true)",
        "insert into ledger.account (name, type, party, purpose, currency) values ('a', 'asset', 'a', 'a', 'USD')",
        INSERT_TRANSFER,
        INSERT_MOVEMENT,
        INSERT_INTO_PARTITION,
        "insert into ledger.posting (booked_at, transactions, transfers) values (now(), 1, 1)",
        "insert into ledger.transaction_id values (gen_random_uuid(), 1, 1)",
        "delete from ledger.transaction_id",
        "insert into ledger.hold_resolution values (gen_random_uuid(), 'voided', null, 0, now())",
        "delete from ledger.open_hold",
    ] {
        let text = refused(&owner, sql).await;
        assert!(text.contains("outside of ledger.post"), "{sql}: {text}");
    }
    // With the functions' own switch, what is committed keeps its id.
    let text = refused(&owner, "set ledger.posting = 'on'; delete from ledger.transaction_id").await;
    assert!(text.contains("is immutable"), "{text}");
    owner.batch_execute("reset ledger.posting").await.unwrap();
    assert_eq!(verify(&app).await.unwrap(), []);
    drop((app, owner));
    database.drop().await;
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
