//! Limits, chains, reversals, described kinds: what is refused, why, and that it changes nothing.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Database, account, transaction, transfer};
use hydrometer_ledger::{
    Amount, Answers, AsOf, Balance, Chain, LedgerError, Outcome, RefusalReason, Shortfall, Transaction, balances,
    post_each, set_limit, verify,
};
use tokio_postgres::Client;

/// Each an own chain, committed.
async fn each(client: &mut Client, chains: &[Vec<Transaction>]) -> Answers {
    let chains: Vec<Chain<'_>> = chains.iter().map(|transactions| Chain { transactions }).collect();
    let tx = client.transaction().await.unwrap();
    let answers = post_each(&tx, &chains).await.unwrap();
    tx.commit().await.unwrap();
    answers
}

async fn limit(client: &mut Client, name: &str, nanos: Option<i128>) {
    let tx = client.transaction().await.unwrap();
    set_limit(&tx, &account(name), nanos.map(Amount::from_nanos), "ann", "agreed").await.unwrap();
    tx.commit().await.unwrap();
}

async fn net(client: &Client, name: &str) -> i128 {
    let found: Vec<Balance> = balances(client, &account(name).name, AsOf::Now).await.unwrap();
    found[0].net.nanos()
}

fn one(key: &str, debit: &str, credit: &str, nanos: i128) -> Vec<Transaction> {
    vec![transaction(key, vec![transfer(debit, credit, nanos)])]
}

fn short(answer: &Result<Vec<Outcome>, hydrometer_ledger::Refusal>) -> &'static str {
    match answer.as_ref().map(|outcomes| outcomes.as_slice()).map_err(|refusal| &refusal.reason) {
        Ok([Outcome::Posted, ..]) => "posted",
        Ok(_) => "repeated",
        Err(RefusalReason::Conflict) => "conflict",
        Err(RefusalReason::Missing) => "missing",
        Err(RefusalReason::Metadata) => "metadata",
        Err(RefusalReason::Reversal) => "reversal",
        Err(RefusalReason::Hold) => "hold",
        Err(RefusalReason::Limit { .. }) => "limit",
    }
}

fn all(answers: &Answers) -> Vec<&'static str> {
    answers.iter().map(short).collect()
}

#[tokio::test]
async fn what_is_available_never_falls_below_the_limit() {
    let database = Database::create().await;
    let mut app = database.app().await;
    limit(&mut app, "w", Some(10)).await;
    each(&mut app, &[one("in", "w", "bank", 100)]).await;

    // Decided in the order of the set: 60, then 60 more is too much, 50 takes the last of the credit, 1 is too much.
    let set = [
        one("a", "shop", "w", 60),
        one("b", "shop", "w", 60),
        one("c", "shop", "w", 50),
        one("d", "shop", "w", 1),
        one("e", "w", "bank", 5),
        one("f", "shop", "w", 5),
    ];
    let answers = each(&mut app, &set).await;
    assert_eq!(all(&answers), ["posted", "limit", "posted", "limit", "posted", "posted"]);
    let refusal = answers[1].as_ref().unwrap_err();
    assert_eq!(
        refusal.reason,
        RefusalReason::Limit(Box::new(Shortfall {
            account: account("w").name,
            available: Amount::from_nanos(40),
            change: Amount::from_nanos(-60),
            credit_limit: Amount::from_nanos(10),
        }))
    );
    assert!(refusal.to_string().contains("0.000000040 available, the transaction takes 0.000000060"), "{refusal}");
    assert_eq!(net(&app, "w").await, -10);

    // A refused id stays free; what was posted is repeated, whatever is available by now.
    each(&mut app, &[one("more", "w", "bank", 100)]).await;
    assert_eq!(all(&each(&mut app, &set).await), ["repeated", "posted", "repeated", "posted", "repeated", "repeated"]);
    assert_eq!(net(&app, "w").await, 29);

    // A limit that is lowered below what is there is a fact: more may come in, nothing may go out.
    limit(&mut app, "w", Some(0)).await;
    each(&mut app, &[one("out", "shop", "w", 29)]).await;
    limit(&mut app, "v", None).await;
    each(&mut app, &[one("loan", "shop", "v", 50)]).await;
    limit(&mut app, "v", Some(20)).await;
    assert_eq!(all(&each(&mut app, &[one("1", "v", "bank", 10), one("2", "shop", "v", 1)]).await), ["posted", "limit"]);

    // One transaction is judged by what it does as a whole.
    let through = transaction("through", vec![transfer("shop", "w", 500), transfer("w", "bank", 500)]);
    assert_eq!(all(&each(&mut app, &[vec![through]]).await), ["posted"]);

    // The event, each time the account comes to its limit; none for w, whose limit became 0.
    let events =
        app.query("select type, subject, data->>'available' from ledger.outbox order by time", &[]).await.unwrap();
    let events: Vec<(String, String, String)> = events.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let event = |name, available: &str| ("credit_limit.reached".to_owned(), account(name).name, available.to_owned());
    assert_eq!(events, [event("w", "-0.000000010"), event("v", "-0.000000050")]);
    let history =
        app.query("select credit_limit::text, set_by from ledger.account_limit order by account, number", &[]).await;
    assert_eq!(history.unwrap().len(), 3);
    assert_eq!(verify(&app).await.unwrap(), []);
    drop(app);
    database.drop().await;
}

#[tokio::test]
async fn a_chain_is_applied_whole_or_not_at_all() {
    let database = Database::create().await;
    let mut app = database.app().await;
    limit(&mut app, "w", Some(0)).await;
    each(&mut app, &[one("in", "w", "bank", 100)]).await;
    let pair = |key: &str, first, second| {
        let mut chain = one(&format!("{key}1"), "shop", "w", first);
        chain.extend(one(&format!("{key}2"), "shop", "w", second));
        chain
    };
    let set = [pair("a", 50, 60), pair("b", 40, 60), pair("c", 1, 1)];
    assert_eq!(all(&each(&mut app, &set).await), ["limit", "posted", "limit"]);
    assert_eq!(net(&app, "w").await, 0);
    let ids: i64 = app.query_one("select count(*) from ledger.transaction_id", &[]).await.unwrap().get(0);
    assert_eq!(ids, 3, "the ids of what is refused stay free");

    // A repeat and a new one; a conflict refuses its chain only.
    each(&mut app, &[one("in2", "w", "bank", 10)]).await;
    let mut again = set[1].clone();
    again.extend(one("b3", "shop", "w", 2));
    let mut other = pair("d", 1, 1);
    other[1] = transaction("in", vec![transfer("w", "bank", 7)]);
    let answers = each(&mut app, &[again, other, pair("e", 1, 1)]).await;
    assert_eq!(answers[0], Ok(vec![Outcome::Repeated, Outcome::Repeated, Outcome::Posted]));
    assert_eq!(all(&answers)[1..], ["conflict", "posted"]);
    assert!(answers[1].as_ref().unwrap_err().detail.starts_with("line 1: amount (stored: 0.000000100"), "{answers:?}");
    assert_eq!(net(&app, "w").await, 6);

    // A whole set through `post` is one chain, and its refusal says what there was.
    let tx = app.transaction().await.unwrap();
    let error = hydrometer_ledger::post(&tx, &pair("f", 5, 5)).await.unwrap_err();
    assert!(matches!(&error, LedgerError::Refused(refusal) if refusal.transaction == pair("f", 5, 5)[1].id), "{error}");
    assert!(!error.is_transient());
    tx.commit().await.unwrap();
    assert_eq!(net(&app, "w").await, 6);

    // The same id in two chains is a mistake of the caller's.
    let tx = app.transaction().await.unwrap();
    let twice = [pair("g", 1, 1), one("g1", "shop", "w", 1)];
    let chains: Vec<Chain<'_>> = twice.iter().map(|transactions| Chain { transactions }).collect();
    let error = post_each(&tx, &chains).await.unwrap_err();
    assert!(error.to_string().contains("twice in the set, in different chains"), "{error}");
    tx.rollback().await.unwrap();
    assert_eq!(verify(&app).await.unwrap(), []);
    drop(app);
    database.drop().await;
}

#[tokio::test]
async fn nothing_is_reversed_for_more_than_it_was() {
    let database = Database::create().await;
    let mut app = database.app().await;
    let original = transaction("o", vec![transfer("x", "y", 10), transfer("x", "z", 5), transfer("x", "y", 2)]);
    each(&mut app, &[vec![original.clone()]]).await;
    let part = |key: &str, nanos: i128| {
        let mut part = original.reversal(transaction(key, vec![]).id, original.effective_at, "in part");
        part.transfers = vec![transfer("y", "x", nanos)];
        vec![part]
    };
    // 12 in all between x and y: 7, then 6 is too much, then 5.
    assert_eq!(
        all(&each(&mut app, &[part("a", 7), part("b", 6), part("c", 5)]).await),
        ["posted", "reversal", "posted"]
    );
    assert_eq!(all(&each(&mut app, &[part("d", 1)]).await), ["reversal"]);
    assert_eq!(all(&each(&mut app, &[part("a", 7)]).await), ["repeated"]);
    // The other pair, whole; another direction and another pair were never posted.
    let mut rest = part("e", 1);
    rest[0].transfers = vec![transfer("z", "x", 5)];
    let mut wrong = part("f", 1);
    wrong[0].transfers = vec![transfer("x", "y", 1)];
    assert_eq!(all(&each(&mut app, &[rest, wrong]).await), ["posted", "reversal"]);
    for name in ["x", "y", "z"] {
        assert_eq!(net(&app, name).await, 0);
    }
    // A reversal can be reversed, once.
    let back = part("a", 7)[0].reversal(transaction("back", vec![]).id, original.effective_at, "back");
    let again = part("a", 7)[0].reversal(transaction("again", vec![]).id, original.effective_at, "again");
    assert_eq!(all(&each(&mut app, &[vec![back], vec![again]]).await), ["posted", "reversal"]);
    let mut nothing = part("g", 1);
    nothing[0].reverses = Some(transaction("nothing", vec![]).id);
    assert_eq!(all(&each(&mut app, &[nothing]).await), ["missing"]);
    assert_eq!(verify(&app).await.unwrap(), []);
    drop(app);
    database.drop().await;
}

/// Many reverse the same in parts, each more than its share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_reversals_stay_within_the_original() {
    let database = Database::create().await;
    let original = transaction("o", vec![transfer("x", "y", 100)]);
    each(&mut database.app().await, &[vec![original.clone()]]).await;
    let mut tasks = Vec::new();
    for task in 0..8 {
        let (mut app, original) = (database.app().await, original.clone());
        tasks.push(tokio::spawn(async move {
            for n in 0..5 {
                let id = transaction(&format!("{task}/{n}"), vec![]).id;
                let mut part = original.reversal(id, original.effective_at, "part");
                part.transfers[0].amount = Amount::from_nanos(7);
                each(&mut app, &[vec![part]]).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let app = database.app().await;
    assert_eq!(net(&app, "x").await, 100 - 14 * 7);
    drop(app);
    database.drop().await;
}

#[tokio::test]
async fn a_described_kind_is_closed() {
    let database = Database::create().await;
    let (mut app, owner) = (database.app().await, database.owner().await);
    let describe = |fields: &str| format!("select ledger.describe_kind('usage', '{fields}')");
    owner.batch_execute(&describe(r#"{"key": "text", "offsets": "array", "n": "integer?"}"#)).await.unwrap();
    let with = |key: &str, metadata: serde_json::Value| {
        let mut set = one(key, "x", "y", 1);
        set[0].metadata = metadata;
        set
    };
    let mut free = with("free", serde_json::json!({ "anything": 1 }));
    free[0].kind = "other".to_owned();
    let set = [
        with("fits", serde_json::json!({ "key": "k", "offsets": [] })),
        with("more", serde_json::json!({ "key": "k", "offsets": [], "n": 3 })),
        with("missing", serde_json::json!({ "key": "k" })),
        with("unknown", serde_json::json!({ "key": "k", "offsets": [], "m": 3 })),
        with("type", serde_json::json!({ "key": 1, "offsets": [] })),
        with("fraction", serde_json::json!({ "key": "k", "offsets": [], "n": 3.5 })),
        free,
    ];
    let answers = each(&mut app, &set).await;
    assert_eq!(all(&answers), ["posted", "posted", "metadata", "metadata", "metadata", "metadata", "posted"]);
    let details: Vec<_> =
        answers.iter().filter_map(|a| a.as_ref().err()).map(|refusal| refusal.detail.as_str()).collect();
    let expected =
        ["offsets is missing", "m is not a key of its kind", "key is not of type text", "n is not of type integer"];
    assert_eq!(details, expected);

    // Optional keys can be added, and nothing else.
    owner
        .batch_execute(&describe(r#"{"key": "text", "offsets": "array", "n": "integer?", "m": "number?"}"#))
        .await
        .unwrap();
    for fields in [r#"{"key": "text"}"#, r#"{"key": "number", "offsets": "array", "n": "integer?", "m": "number?"}"#] {
        let text = common::refused(&owner, &describe(fields)).await;
        assert!(text.contains("would change"), "{text}");
    }
    assert_eq!(all(&each(&mut app, &[set[3].clone()]).await), ["posted"]);
    assert!(common::refused(&app, &describe("{}")).await.contains("permission denied"));
    drop((app, owner));
    database.drop().await;
}

#[tokio::test]
async fn ids_and_entries_are_numbered_without_gaps() {
    let database = Database::create().await;
    let mut app = database.app().await;
    let long = |key: &str| transaction(key, vec![transfer("x", "y", 3), transfer("y", "x", 1), transfer("z", "x", 9)]);
    each(&mut app, &[vec![long("a")], one("b", "x", "z", 1), vec![long("c")]]).await;
    each(&mut app, &[vec![long("d")]]).await;
    let rows = app
        .query(
            "select e.account, array_agg(e.number order by e.number), bool_and(e.balance = e.running)
             from (
                 select a.id as account, s.number, s.balance, sum(s.change) over (partition by a.id order by s.number) as running
                 from ledger.account a cross join lateral ledger.entries(a.id, '-infinity', 'infinity') s
             ) e group by e.account order by e.account",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(rows.len(), 3);
    for row in rows {
        let entries: Vec<i64> = row.get(1);
        assert_eq!(entries, (1..=entries.len() as i64).collect::<Vec<_>>());
        assert!(row.get::<_, bool>(2), "account {}", row.get::<_, i64>(0));
    }
    let lines: Vec<i32> = app
        .query("select line from ledger.transfer where transaction = $1 order by line", &[&long("c").id.0])
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect();
    assert_eq!(lines, [1, 2, 3]);
    drop(app);
    database.drop().await;
}
