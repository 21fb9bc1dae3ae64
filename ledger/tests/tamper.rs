//! Whatever a superuser changes behind the ledger's back is found and named.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Database, chain_all, post, transaction, transfer};
use hydrometer_ledger::{Violation, anchor, verify, verify_with};
use tokio_postgres::Client;

/// A ledger with a bit of everything, chained, under an anchor.
struct Book {
    database: Database,
    app: Client,
    superuser: Client,
    anchor: anchor::Anchor,
}

impl Book {
    async fn make() -> Book {
        let database = Database::create().await;
        let mut app = database.app().await;
        let superuser = database.superuser().await;
        for set in [
            vec![
                transaction("one", vec![transfer("x", "y", 5), transfer("y", "z", 6)]),
                transaction("two", vec![transfer("x", "y", 7)]),
            ],
            vec![transaction("three", vec![transfer("z", "x", 1)])],
            vec![transaction("four", vec![transfer("x", "y", 2)]), transaction("five", vec![transfer("x", "y", 3)])],
        ] {
            post(&mut app, &set).await.unwrap();
        }
        let owner = database.owner().await;
        owner
            .batch_execute(
                "select ledger.set_limit(id, 100, 'me', 'a test') from ledger.account where name = 'renter:y:unbilled:USD'",
            )
            .await
            .unwrap();
        // Holds as the ledger places and resolves them: one open, one voided.
        superuser
            .batch_execute(&behind_its_back(
                "insert into ledger.hold select md5('h' || n)::uuid, d.id, c.id, n, 'USD', now(), now() + interval '1 day', '', '{}', now()
                 from generate_series(1, 2) as n, ledger.account d, ledger.account c
                 where d.name = 'renter:x:unbilled:USD' and c.name = 'renter:z:unbilled:USD';
                 insert into ledger.hold_resolution values (md5('h1')::uuid, 'voided', null, 1, now());
                 update ledger.account_balance set pending_debits = 2 where account = (select id from ledger.account where name = 'renter:x:unbilled:USD');
                 update ledger.account_balance set pending_credits = 2 where account = (select id from ledger.account where name = 'renter:z:unbilled:USD')",
            ))
            .await
            .unwrap();
        chain_all(&app).await;
        let anchor = anchor::export(&app).await.unwrap();
        assert_eq!(verify_with(&app, std::slice::from_ref(&anchor), &mut |_| {}).await.unwrap().violations, []);
        Book { database, app, superuser, anchor }
    }

    /// What is found when this was done, which is then taken back.
    async fn after(&self, tampering: &str) -> Vec<Violation> {
        self.superuser.batch_execute("begin isolation level repeatable read").await.unwrap();
        self.superuser.batch_execute(tampering).await.unwrap();
        let found =
            verify_with(&self.superuser, std::slice::from_ref(&self.anchor), &mut |_| {}).await.unwrap().violations;
        self.superuser.batch_execute("rollback").await.unwrap();
        found
    }

    async fn finish(self) {
        assert_eq!(verify(&self.app).await.unwrap(), [], "what was taken back is gone");
        drop((self.app, self.superuser));
        self.database.drop().await;
    }
}

/// The statement with every trigger off, and on again afterwards as it was.
fn behind_its_back(sql: &str) -> String {
    let each = |name: &str, action: &str| {
        format!(
            "do $t$ declare v record; begin
                 for v in select * from {name} loop
                     execute format('alter table %s %s trigger %I', v.rel, {action}, v.tgname);
                 end loop;
             end $t$;"
        )
    };
    format!(
        "create temp table triggers as
             select t.tgrelid::regclass as rel, t.tgname, t.tgenabled from pg_trigger t join pg_class c on c.oid = t.tgrelid
             where c.relnamespace = 'ledger'::regnamespace and not t.tgisinternal;
         {} {sql}; {} drop table triggers;",
        each("triggers", "'disable'"),
        each("triggers", "case v.tgenabled when 'A' then 'enable always' else 'enable' end"),
    )
}

const CHAINED: &str = "what is chained never changes";
const BALANCE: &str = "a balance is the sum of its entries";
/// PostgreSQL's md5('forged') and md5('h2') as UUIDs.
const FORGED: &str = "ea76aa1d-2ece-b24d-f1ca-e061feb57188";
const HELD: &str = "490b2834-e657-37c1-fce9-5e468cc8b8bf";
const MOVED: &str = "a movement is the sum of its entries, and follows the one before";
const PROTECTION: &str = "the protection is in place";

fn assert_found(found: &[Violation], law: &str, subject: &str, tampering: &str) {
    assert!(
        found.iter().any(|v| v.law == law && v.subject.contains(subject)),
        "{tampering}\n{law}: {subject}\nfound: {found:#?}"
    );
}

#[tokio::test]
async fn changed_rows_are_found_and_named() {
    let book = Book::make().await;
    let id = |key: &str| transaction(key, vec![]).id.to_string();
    let (one, two, three, four, five) = (id("one"), id("two"), id("three"), id("four"), id("five"));
    let account = |name: &str| format!("(select id from ledger.account where name = 'renter:{name}:unbilled:USD')");
    let (x, y, z) = (account("x"), account("y"), account("z"));
    let hold = "md5('h2')::uuid";
    let cases: Vec<(String, Vec<(&str, String)>)> = vec![
        (
            format!("update ledger.transfer set amount = 70 where transaction = '{two}'"),
            vec![(CHAINED, two.clone()), (BALANCE, "renter:x:unbilled".into()), (MOVED, "renter:x:unbilled:USD, set ".into())],
        ),
        // With everything that depends on it: only the chain can tell.
        (
            format!(
                "update ledger.transfer set amount = amount + 1 where transaction = '{five}';
                 update ledger.movement set balance = balance + 1 where account = {x} and entries = (select max(entries) from ledger.movement where account = {x});
                 update ledger.movement set balance = balance - 1 where account = {y} and entries = (select max(entries) from ledger.movement where account = {y});
                 update ledger.account_balance set debits = debits + 1 where account = {x};
                 update ledger.account_balance set credits = credits + 1 where account = {y}"
            ),
            vec![(CHAINED, five.clone())],
        ),
        (
            format!("update ledger.transfer set credit_account = {x} where transaction = '{one}' and line = 2"),
            vec![(CHAINED, one.clone()), (BALANCE, "renter:z:unbilled".into())],
        ),
        (
            format!("update ledger.transfer set effective_at = effective_at + interval '1 day' where transaction = '{three}'"),
            vec![(CHAINED, three.clone())],
        ),
        (
            format!("update ledger.transfer set booked_at = booked_at + interval '1 second' where transaction = '{three}'"),
            vec![("a set is booked at one time", three.clone()), (CHAINED, "set ".into())],
        ),
        (
            format!(
                "update ledger.transfer set booked_at = booked_at + interval '1 second' where transaction = '{three}';
                 update ledger.posting set booked_at = booked_at + interval '1 second'
                 where number = (select posting from ledger.transaction_id where id = '{three}')"
            ),
            vec![(CHAINED, "set ".into()), ("every link of the chain continues the one before", "shard".into())],
        ),
        (format!("update ledger.transfer set kind = 'credit' where transaction = '{four}'"), vec![(CHAINED, four.clone())]),
        (
            format!("update ledger.transfer set description = description || '.' where transaction = '{four}'"),
            vec![(CHAINED, four.clone())],
        ),
        (
            format!("update ledger.transfer set metadata = '{{\"key\": \"four\"}}' where transaction = '{four}'"),
            vec![(CHAINED, four.clone())],
        ),
        (
            format!("update ledger.transfer set corrects = '{one}' where transaction = '{four}'"),
            vec![(CHAINED, four.clone())],
        ),
        (
            format!("update ledger.transfer set currency = 'EUR' where transaction = '{one}' and line = 2"),
            vec![(CHAINED, one.clone()), ("both sides of a transfer are in its currency", format!("{one}, line 2"))],
        ),
        (
            format!("alter table ledger.transfer drop constraint transfer_amount_check; update ledger.transfer set amount = -1 where transaction = '{three}'"),
            vec![("amounts are positive and move", format!("{three}, line 1")), (CHAINED, three.clone())],
        ),
        // Rows.
        (
            format!("delete from ledger.transfer where transaction = '{one}' and line = 2"),
            vec![("a set has its transactions", "set ".into()), (CHAINED, one.clone()), (BALANCE, "renter:z:unbilled".into())],
        ),
        (
            format!("delete from ledger.transfer where transaction = '{one}' and line = 1"),
            vec![("a transaction has its transfers", one.clone()), (CHAINED, one.clone())],
        ),
        (
            format!("delete from ledger.transfer where transaction = '{three}'"),
            vec![("a transaction has its transfers", three.clone()), ("a set has its transactions", "set ".into())],
        ),
        (
            format!("delete from ledger.transaction_id where id = '{two}'"),
            vec![("a transaction has its transfers", two.clone())],
        ),
        (
            format!(
                "delete from ledger.transfer where transaction = '{five}'; delete from ledger.transaction_id where id = '{five}';
                 update ledger.posting set transactions = 1, transfers = 1 where transactions = 2 and number = (select max(number) from ledger.posting);
                 update ledger.account_balance set debits = debits - 0.000000003, entries = entries - 1 where account = {x};
                 update ledger.account_balance set credits = credits - 0.000000003, entries = entries - 1 where account = {y}"
            ),
            vec![(CHAINED, "set ".into()), ("every link of the chain continues the one before", "shard".into())],
        ),
        (
            format!(
                "delete from ledger.transfer where transaction = '{three}'; delete from ledger.posting
                 where number = (select posting from ledger.transaction_id where id = '{three}');
                 delete from ledger.transaction_id where id = '{three}'"
            ),
            vec![("every link of the chain continues the one before", "shard".into()), (BALANCE, "renter:z:unbilled".into())],
        ),
        (
            format!(
                "insert into ledger.transfer select (t).* from (
                     select jsonb_populate_record(t, jsonb_build_object('place', 9, 'transaction', md5('forged')::uuid)) as t
                     from ledger.transfer t where transaction = '{three}') f"
            ),
            vec![("a transaction has its transfers", FORGED.into()), (CHAINED, FORGED.into()), (MOVED, "set ".into())],
        ),
        // A set of its own, put before what is chained.
        (
            format!(
                "insert into ledger.posting (number, xid, booked_at, transactions, transfers)
                 select 5, '5', p.booked_at, 1, 1 from ledger.posting p order by p.number limit 1;
                 insert into ledger.transfer select (t).* from (
                     select jsonb_populate_record(t, jsonb_build_object('posting', 5, 'transaction', md5('forged')::uuid)) as t
                     from ledger.transfer t where transaction = '{three}') f"
            ),
            vec![("every set is chained in its turn", "set 5".into())],
        ),
        // Movements: forged, missing, invented, out of order, by another way.
        (
            format!("update ledger.movement set balance = balance + 1 where account = {x} and previous_at = '-infinity'"),
            vec![(MOVED, "renter:x:unbilled:USD, set ".into())],
        ),
        (
            format!("update ledger.movement set entries = entries + 1 where account = {y} and previous_at = '-infinity'"),
            vec![(MOVED, "renter:y:unbilled:USD, set ".into())],
        ),
        (
            format!("update ledger.movement set places = '{{7}}' where account = {x} and previous_at = '-infinity'"),
            vec![(MOVED, "renter:x:unbilled:USD, set ".into())],
        ),
        (
            format!("delete from ledger.movement where account = {x} and previous_at = '-infinity'"),
            vec![(MOVED, "renter:x:unbilled:USD, set ".into())],
        ),
        (
            format!(
                "insert into ledger.movement select account, booked_at + interval '1 second', booked_at, posting + 1, entries + 1, balance, places
                 from ledger.movement where account = {z} order by entries desc limit 1"
            ),
            vec![(MOVED, "renter:z:unbilled:USD, set ".into())],
        ),
        (
            format!("update ledger.movement set previous_at = previous_at - interval '1 second' where account = {y} and previous_at > '-infinity'"),
            vec![(MOVED, "renter:y:unbilled:USD, set ".into())],
        ),
        (
            format!("update ledger.account_balance set booked_before = booked_before - interval '1 second' where account = {y}"),
            vec![(MOVED, "renter:y:unbilled:USD".into())],
        ),
        (
            format!(
                "update ledger.transfer t set place = 3 - place where transaction in ('{four}', '{five}');
                 update ledger.transaction_id t set place = 3 - place where id in ('{four}', '{five}')"
            ),
            vec![(CHAINED, "set ".into())],
        ),
        // What stands beside the transfers.
        (format!("update ledger.account_balance set debits = 1, credits = 1 where account = {x}"), vec![(BALANCE, "renter:x:unbilled".into())]),
        (
            format!("update ledger.account_balance set debits = 1 where account = {x}"),
            vec![("debits equal credits", "currency USD".into())],
        ),
        (format!("delete from ledger.account_balance where account = {x}"), vec![(BALANCE, "renter:x:unbilled".into())]),
        (
            format!("update ledger.account_balance set debit_normal = false where account = {x}"),
            vec![("a balance is that of its account", "renter:x:unbilled".into())],
        ),
        (
            format!("update ledger.account_balance set credit_limit = 1000 where account = {y}"),
            vec![("a limit is the last one that was set", "renter:y:unbilled".into())],
        ),
        (
            format!(
                "update ledger.account_balance set credit_limit = 1000 where account = {y};
                 update ledger.account_limit set credit_limit = 1000"
            ),
            vec![(CHAINED, "account_limit".into()), (CHAINED, "shard 0".into())],
        ),
        (
            "insert into ledger.account_limit (account, number, credit_limit, set_at, set_by, reason, xid)
             select account, 0, 5, set_at, 'me', 'forged', xid from ledger.account_limit"
                .into(),
            vec![(CHAINED, "account_limit".into())],
        ),
        (
            format!(
                "insert into ledger.hold_resolution (hold, outcome, transaction, amount, at) values ({hold}, 'posted', '{three}', 0.000000001, now());
                 update ledger.account_balance set pending_debits = 0, pending_credits = 0"
            ),
            vec![("a hold is resolved once, and captured for no more than it is", HELD.into())],
        ),
        (
            format!("insert into ledger.hold_resolution (hold, outcome, transaction, amount, at) values ({hold}, 'voided', null, 2, now())"),
            vec![("what is pending is what open holds set aside", "renter:z:unbilled".into())],
        ),
        (
            format!("update ledger.hold set amount = 1 where id = {hold}; update ledger.account_balance set pending_debits = sign(pending_debits), pending_credits = sign(pending_credits)"),
            vec![(CHAINED, HELD.into())],
        ),
        ("update ledger.account set name = 'renter:q:unbilled:USD' where name = 'renter:x:unbilled:USD'".into(),
            vec![(CHAINED, "account renter:q:unbilled:USD".into()), (CHAINED, two.clone())]),
        (
            format!("update ledger.account set currency = 'EUR' where id = {z}"),
            vec![("both sides of a transfer are in its currency", format!("{one}, line 2")), (CHAINED, "account renter:z".into())],
        ),
        (
            format!("delete from ledger.account where id = {z}"),
            vec![("both sides of a transfer are in its currency", format!("{one}, line 2")), (CHAINED, "shard 0".into())],
        ),
        // The chain.
        (
            "update ledger.link set digests = set_byte(digests, 0, 1) where shard = 2".into(),
            vec![("every link of the chain continues the one before", "shard 2".into())],
        ),
        (
            "delete from ledger.link where shard = 0".into(),
            vec![("the chain reaches its anchors", "on record".into()), ("the chain reaches its anchors", "kept elsewhere".into())],
        ),
        (
            format!(
                "update ledger.transfer set description = 'nothing' where transaction = '{four}';
                 delete from ledger.link; select ledger.chain()"
            ),
            vec![("the chain reaches its anchors", "on record".into()), ("the chain reaches its anchors", "kept elsewhere".into())],
        ),
        // The anchors on record forged as well: the one that is kept elsewhere is left.
        (
            format!(
                "update ledger.transfer set description = 'nothing' where transaction = '{four}';
                 delete from ledger.link; delete from ledger.anchor; select ledger.chain(); select ledger.make_anchor()"
            ),
            vec![("the chain reaches its anchors", "kept elsewhere".into())],
        ),
        (
            "insert into ledger.posting (number, booked_at, transactions, transfers) values (-3, now(), 0, 0)".into(),
            vec![("every set is chained in its turn", "set -3".into())],
        ),
        ("update ledger.identity set id = gen_random_uuid()".into(), vec![("the chain reaches its anchors", "kept elsewhere".into())]),
    ];
    for (tampering, expected) in &cases {
        let found = book.after(&behind_its_back(tampering)).await;
        for (law, subject) in expected {
            assert_found(&found, law, subject, tampering);
        }
    }
    book.finish().await;
}

#[tokio::test]
async fn a_missing_protection_is_found() {
    let book = Book::make().await;
    let app = book.database.app_role();
    for (tampering, law, subject) in [
        ("alter table ledger.transfer disable trigger immutable", PROTECTION, "trigger immutable on ledger.transfer"),
        (
            "alter table ledger.account_balance disable trigger user",
            PROTECTION,
            "trigger by_post on ledger.account_balance",
        ),
        ("drop trigger immutable on ledger.link", PROTECTION, "trigger immutable on ledger.link"),
        ("grant update on ledger.account_balance to %", PROTECTION, "relation ledger.account_balance"),
        ("grant update (amount) on ledger.transfer to %", PROTECTION, "relation ledger.transfer"),
        ("grant insert on ledger.link to public", PROTECTION, "relation ledger.link"),
        ("grant create on schema ledger to %", PROTECTION, "schema ledger"),
        ("alter function ledger.post reset search_path", PROTECTION, "function ledger.post"),
        (
            "create or replace function ledger.refuse_change() returns trigger language plpgsql as 'begin return old; end'",
            PROTECTION,
            "function ledger.refuse_change",
        ),
        ("create function ledger.mine() returns int language sql as 'select 1'", PROTECTION, "function ledger.mine"),
        ("drop function ledger.chain_facts", PROTECTION, "function ledger.chain_facts"),
        ("alter table ledger.transfer owner to %", PROTECTION, "ledger.transfer"),
    ] {
        let found = book.after(&tampering.replace('%', &app)).await;
        assert_found(&found, law, subject, tampering);
    }
    let month = "do $$ begin execute format('alter table ledger.transfer detach partition ledger.%I',
                     'transfer_' || to_char(now() at time zone 'UTC', 'YYYY_MM')); end $$";
    let found = book.after(month).await;
    assert_found(&found, "every month is attached or archived", "ledger.transfer_", month);
    assert_found(&found, "a set has its transactions", "set ", month);
    book.finish().await;
}

#[tokio::test]
async fn many_offending_rows_are_counted() {
    let mut book = Book::make().await;
    let many: Vec<_> = (0..50).map(|n| transaction(&format!("many {n}"), vec![transfer("x", "y", 1)])).collect();
    post(&mut book.app, &many).await.unwrap();
    let found = book.after(&behind_its_back("update ledger.transfer set currency = 'EUR' where line = 1")).await;
    let law = "both sides of a transfer are in its currency";
    assert_eq!(found.iter().filter(|v| v.law == law).count(), 21);
    assert_found(&found, law, "35 more", "all currencies");
    book.finish().await;
}

#[tokio::test]
async fn a_limit_that_was_set_below_what_is_available_is_a_note() {
    let mut book = Book::make().await;
    let owner = book.database.owner().await;
    let limit =
        "select ledger.set_limit(id, 0, 'me', 'no more') from ledger.account where name = 'renter:y:unbilled:USD'";
    owner.batch_execute(limit).await.unwrap();
    // What comes in is welcome, and not enough.
    post(&mut book.app, &[transaction("in", vec![transfer("y", "z", 1)])]).await.unwrap();
    let findings = verify_with(&book.app, &[], &mut |_| {}).await.unwrap();
    assert_eq!(findings.violations, []);
    assert!(findings.notes.len() == 1 && findings.notes[0].contains("renter:y:unbilled:USD"), "{:?}", findings.notes);
    let found = book
        .after(&behind_its_back(
            "update ledger.account_balance set credits = credits + 1 where account = (select id from ledger.account where name = 'renter:y:unbilled:USD')",
        ))
        .await;
    assert_found(&found, "what is available keeps the limit", "renter:y:unbilled:USD", "more went out");
    drop(owner);
    book.finish().await;
}
