//! What a posting does, what it refuses, and that a refusal changes nothing.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Database, account, post, transaction, transfer};
use hydrometer_ledger::{
    AccountSpec, AccountType, Amount, AsOf, LedgerError, Outcome, Transfer, accounts, balances, transfers,
    trial_balance, verify,
};

#[tokio::test]
async fn posts_reads_and_balances() {
    let database = Database::create().await;
    let mut app = database.app().await;
    let usage = |key: &str, nanos: i128| {
        let share = nanos * 8 / 10;
        let debit = AccountSpec::renter_unbilled("acme", "USD");
        let mut usage = transaction(key, vec![]);
        usage.transfers = vec![
            Transfer {
                debit: debit.clone(),
                credit: AccountSpec::supplier_payable("north", "USD"),
                amount: Amount::from_nanos(share),
            },
            Transfer {
                debit,
                credit: AccountSpec::platform_commission("USD"),
                amount: Amount::from_nanos(nanos - share),
            },
        ];
        usage
    };
    let first = usage("first", 2_500_000_001);
    let mut late = usage("late", 1_000_000_000);
    late.effective_at = "2025-05-31T00:00:00Z".parse().unwrap();
    let mut yen = transaction("yen", vec![]);
    yen.transfers = vec![Transfer {
        debit: AccountSpec::renter_unbilled("acme", "JPY"),
        credit: AccountSpec::platform_rounding("JPY"),
        amount: Amount::from_nanos(7),
    }];

    assert_eq!(post(&mut app, &[]).await.unwrap(), []);
    assert_eq!(post(&mut app, &[first.clone(), yen]).await.unwrap(), [Outcome::Posted; 2]);
    assert_eq!(post(&mut app, std::slice::from_ref(&late)).await.unwrap(), [Outcome::Posted]);

    let names: Vec<String> = accounts(&app, "renter:").await.unwrap().into_iter().map(|a| a.spec.name).collect();
    assert_eq!(names, ["renter:acme:unbilled:JPY", "renter:acme:unbilled:USD"]);

    let of = |balances: &[hydrometer_ledger::Balance], name: &str| {
        balances.iter().find(|b| b.account.spec.name == name).unwrap().natural().unwrap().to_string()
    };
    let now = balances(&app, "", AsOf::Now).await.unwrap();
    assert_eq!(of(&now, "renter:acme:unbilled:USD"), "3.500000001");
    assert_eq!(of(&now, "supplier:north:payable:USD"), "2.800000000");
    assert_eq!(of(&now, "platform:commission:USD"), "0.700000001");
    assert_eq!(of(&now, "platform:rounding:JPY"), "-0.000000007");

    // The late one counts first and was booked last.
    let entries = transfers(&app, None, None, 10).await.unwrap();
    assert_eq!(entries.len(), 5);
    assert_eq!(entries[0].position.transaction, late.id);
    let effective = balances(&app, "renter:", AsOf::Effective(late.effective_at)).await.unwrap();
    assert_eq!(of(&effective, "renter:acme:unbilled:USD"), "1.000000000");
    let booked = balances(&app, "renter:", AsOf::Booked(entries[4].position.booked_at)).await.unwrap();
    assert_eq!(of(&booked, "renter:acme:unbilled:USD"), "2.500000001");
    assert_eq!(balances(&app, "", AsOf::Effective("9999-01-01T00:00:00Z".parse().unwrap())).await.unwrap(), now);

    // Pages of one account.
    let supplier = Some("supplier:north:payable:USD");
    let page = transfers(&app, supplier, None, 1).await.unwrap();
    assert_eq!(page[0].position.transaction, late.id);
    let rest = transfers(&app, supplier, Some(page[0].position), 10).await.unwrap();
    assert_eq!(rest.iter().map(|e| e.position.transaction).collect::<Vec<_>>(), [first.id]);
    assert_eq!(rest[0].description, first.description);
    assert_eq!(rest[0].metadata, first.metadata);
    assert!(transfers(&app, Some("nobody"), None, 10).await.unwrap().is_empty());

    let trial = trial_balance(&app, AsOf::Now).await.unwrap();
    assert_eq!(trial.iter().map(|t| t.currency.as_str()).collect::<Vec<_>>(), ["JPY", "USD"]);
    assert!(trial.iter().all(hydrometer_ledger::TrialBalance::is_balanced));
    assert_eq!(trial[1].debits.to_string(), "3.500000001");

    assert_eq!(hydrometer_ledger::transaction(&app, first.id).await.unwrap(), Some(first));
    assert_eq!(verify(&app).await.unwrap(), []);
    drop(app);
    database.drop().await;
}

#[tokio::test]
async fn a_repeat_is_a_no_op_and_another_body_a_conflict() {
    let database = Database::create().await;
    let mut app = database.app().await;
    let first = transaction("a", vec![transfer("x", "y", 5), transfer("y", "z", 6)]);
    let second = transaction("b", vec![transfer("x", "y", 7)]);

    // Twice in one set, then again with a new one beside it.
    let outcomes = post(&mut app, &[first.clone(), first.clone()]).await.unwrap();
    assert_eq!(outcomes, [Outcome::Posted, Outcome::Repeated]);
    let before = balances(&app, "", AsOf::Now).await.unwrap();
    assert_eq!(post(&mut app, std::slice::from_ref(&first)).await.unwrap(), [Outcome::Repeated]);
    assert_eq!(balances(&app, "", AsOf::Now).await.unwrap(), before);
    assert_eq!(post(&mut app, &[second.clone(), first.clone()]).await.unwrap(), [Outcome::Posted, Outcome::Repeated]);

    let before = balances(&app, "", AsOf::Now).await.unwrap();
    let mut others = vec![first.clone(); 7];
    others[0].kind = "other".to_owned();
    others[1].effective_at += chrono::TimeDelta::microseconds(1);
    others[2].description.push('.');
    others[3].corrects = Some(second.id);
    others[4].metadata = serde_json::json!({});
    others[5].transfers.swap(0, 1);
    others[6].transfers[1].amount = Amount::from_nanos(8);
    let fields = ["kind", "effective_at", "description", "corrects", "metadata", "line 1: debit", "line 2: amount"];
    for (other, field) in others.into_iter().zip(fields) {
        let fresh = transaction("fresh", vec![transfer("x", "new", 1)]);
        let error = post(&mut app, &[fresh, other]).await.unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, LedgerError::Conflict { .. }), "{text}");
        assert!(text.contains("conflict") && text.contains(&first.id.to_string()), "{text}");
        assert!(text.contains(&format!("What differs: {field} ")), "{text}");
    }
    // Two bodies in one set as well.
    let mut twin = transaction("c", vec![transfer("x", "y", 1)]);
    let one = twin.clone();
    twin.transfers[0].amount = Amount::from_nanos(2);
    assert!(matches!(post(&mut app, &[one, twin]).await, Err(LedgerError::Conflict { .. })));

    assert_eq!(balances(&app, "", AsOf::Now).await.unwrap(), before);
    assert_eq!(verify(&app).await.unwrap(), []);
    drop(app);
    database.drop().await;
}

#[tokio::test]
async fn amounts_beyond_64_bits() {
    let database = Database::create().await;
    let mut app = database.app().await;
    let huge = 10_i128.pow(37) + 1;
    post(&mut app, &[transaction("huge", vec![transfer("x", "y", huge), transfer("x", "y", huge)])]).await.unwrap();
    let found = balances(&app, "", AsOf::Now).await.unwrap();
    assert_eq!(found[0].net.to_string(), "20000000000000000000000000000.000000002");
    assert_eq!(verify(&app).await.unwrap(), []);

    // A balance that would not fit refuses the posting and never wraps.
    let most = Amount::MAX_POSTABLE.nanos();
    let error = post(&mut app, &[transaction("more", vec![transfer("x", "y", most)])]).await.unwrap_err();
    assert!(matches!(error, LedgerError::Rejected { .. }), "{error}");
    assert!(error.to_string().contains("numeric field overflow"), "{error}");
    assert_eq!(balances(&app, "", AsOf::Now).await.unwrap(), found);
    drop(app);
    database.drop().await;
}

#[tokio::test]
async fn the_crate_refuses_what_breaks_a_rule() {
    let database = Database::create().await;
    let mut app = database.app().await;
    let with = |transfers| transaction("bad", transfers);
    let mut currencies = transfer("x", "y", 1);
    currencies.credit = AccountSpec::renter_unbilled("y", "EUR");
    let mut currency = transfer("x", "y", 1);
    currency.debit.currency = "usd".to_owned();
    currency.credit.currency = "usd".to_owned();
    let mut name = transfer("x", "y", 1);
    name.debit.name = "a\tb".to_owned();
    let mut twice = transfer("y", "x", 1);
    twice.debit.kind = AccountType::Equity;
    let mut itself = with(vec![transfer("x", "y", 1)]);
    itself.corrects = Some(itself.id);
    let mut metadata = with(vec![transfer("x", "y", 1)]);
    metadata.metadata = serde_json::json!([1]);

    for (set, reason) in [
        (with(vec![transfer("x", "y", 0)]), "line 1: the amount 0.000000000 is not positive"),
        (with(vec![transfer("x", "y", 1), transfer("x", "y", -1)]), "line 2: the amount -0.000000001 is not positive"),
        (with(vec![transfer("x", "y", 10_i128.pow(38))]), "is beyond 99999999999999999999999999999.999999999"),
        (with(vec![transfer("x", "x", 1)]), "debit and credit are the same account"),
        (with(vec![]), "it has no transfer"),
        (with(vec![currencies]), "different currencies"),
        (with(vec![currency]), "not 3 to 12 capital letters"),
        (with(vec![name]), "holds a control character"),
        (with(vec![transfer("x", "y", 1), twice]), "in the same set"),
        (itself, "corrects itself"),
        (metadata, "not a JSON object"),
    ] {
        let error = post(&mut app, &[set]).await.unwrap_err();
        assert!(matches!(error, LedgerError::Invalid { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
    drop(app);
    database.drop().await;
}

#[tokio::test]
async fn the_database_refuses_what_only_it_can_know() {
    let database = Database::create().await;
    let mut app = database.app().await;
    post(&mut app, &[transaction("a", vec![transfer("x", "y", 1)])]).await.unwrap();

    let mut other = transaction("b", vec![transfer("x", "y", 1)]);
    other.transfers[0].debit.kind = AccountType::Equity;
    let error = post(&mut app, &[other]).await.unwrap_err();
    assert!(error.to_string().contains("another one than stated"), "{error}");
    assert!(error.to_string().contains("stated was equity"), "{error}");

    let mut orphan = transaction("c", vec![transfer("x", "y", 1)]);
    orphan.corrects = Some(transaction("nothing", vec![]).id);
    let error = post(&mut app, std::slice::from_ref(&orphan)).await.unwrap_err();
    assert!(matches!(error, LedgerError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("which does not exist"), "{error}");

    // Corrected and correction in one set.
    let corrected = transaction("nothing", vec![transfer("y", "x", 1)]);
    assert_eq!(post(&mut app, &[orphan, corrected]).await.unwrap(), [Outcome::Posted; 2]);
    assert_eq!(account("x").name, "renter:x:unbilled:USD");
    assert_eq!(verify(&app).await.unwrap(), []);
    drop(app);
    database.drop().await;
}

/// The function is the wall, not the crate: the same rules for a caller that writes SQL.
#[tokio::test]
async fn the_function_refuses_what_breaks_a_rule() {
    let database = Database::create().await;
    let app = database.app().await;
    app.batch_execute(
        "select ledger.open_accounts(array['d','c','e'], array['asset','income','asset'], array['d','c','e'],
                                     array['p','p','p'], array['USD','USD','EUR'])",
    )
    .await
    .unwrap();
    let call = |transfers: &str, corrects: &str| {
        format!(
            "with a as (select array_agg(id order by id) as ids, array_agg(currency order by id) as currencies from ledger.account)
             select p.* from a, ledger.post(
               ids, currencies, array[1], array['{id}']::uuid[], array['k'], array['2025-01-01Z']::timestamptz[],
               array['x'], array[{corrects}]::uuid[], array[null]::uuid[], array[null]::uuid[], array['{{}}']::jsonb[], {transfers}) p",
            id = uuid::Uuid::nil(),
        )
    };
    for (transfers, reason) in [
        ("'{1}', '{2}', '{1}', '{-1}'", "not positive"),
        ("'{1}', '{2}', '{1}', '{0}'", "not positive"),
        ("'{1}', '{2}', '{1}', '{NaN}'", "not positive"),
        ("'{1}', '{2}', '{1}', '{Infinity}'", "not positive"),
        ("'{1}', '{2}', '{1}', '{0.0000000001}'", "at most 9 decimals"),
        ("'{1}', '{2}', '{1}', '{1.0000000000}'", "at most 9 decimals"),
        ("'{1}', '{2}', '{1}', '{NULL}'", "not positive"),
        ("'{1}', '{2}', '{2}', '{1}'", "same account"),
        ("'{1}', '{2}', '{3}', '{1}'", "kept in USD and the credit account in EUR"),
        ("'{1}', '{2}', '{4}', '{1}'", "credit account does not exist"),
        ("'{1}', '{NULL}', '{1}', '{1}'", "does not exist"),
        ("'{2}', '{2}', '{1}', '{1}'", "belongs to no transaction"),
        ("'{1,1}', '{2,2}', '{1,null}', '{1,1}'", "does not exist"),
        ("'{1,1}', '{2}', '{1}', '{1}'", "not lists of one length"),
        ("'{}', '{}', '{}', '{}'", "it has no transfer"),
    ] {
        let text = common::refused(&app, &call(transfers, "null")).await;
        assert!(text.contains(reason), "{transfers}: {text}");
    }
    let good = call("'{1}', '{2}', '{1}', '{1.5}'", "null");
    for (stated, reason) in [
        ("array['USD','EUR','EUR']", "kept in USD, not in EUR"),
        ("array['USD','USD',null]", "kept in EUR, not in none"),
        ("array['USD','USD']", "not lists of one length"),
        ("'[2:4]={USD,USD,EUR}'::text[]", "not lists of one length"),
    ] {
        let text = common::refused(&app, &good.replace("ids, currencies,", &format!("ids, {stated},"))).await;
        assert!(text.contains(reason), "{stated}: {text}");
    }
    // Arrays of other lengths, other first places, without an element, or not there.
    for (old, new, reason) in [
        ("array[1],", "'[2:2]={1}'::integer[],", "a field of a transaction is missing"),
        ("array[1],", "null::integer[],", "a field of a transaction is missing"),
        ("array[1],", "array[1,1],", "a field of a transaction is missing"),
        ("array[1],", "array[array[1]],", "a field of a transaction is missing"),
        ("array['x'],", "'{}'::text[],", "a field of a transaction is missing"),
        ("array['x'],", "array[null]::text[],", "a field of a transaction is missing"),
        (
            "array[null]::uuid[], array['{}']",
            "'[0:0]={null}'::uuid[], array['{}']",
            "a field of a transaction is missing",
        ),
        (
            "array[null]::uuid[], array['{}']",
            "array[null,null]::uuid[], array['{}']",
            "a field of a transaction is missing",
        ),
        ("'{1}', '{2}', '{1}', '{1.5}'", "'{1}', '[2:2]={2}', '{1}', '{1.5}'", "fields of the transfers"),
        ("'{1}', '{2}', '{1}', '{1.5}'", "'{1}', '{2}', null, '{1.5}'", "fields of the transfers"),
        ("'{1}', '{2}', '{1}', '{1.5}'", "'{1}', '{2}', '{1}', '{1.5,2}'", "fields of the transfers"),
        ("ids, currencies,", "array[ids[2],ids[1],ids[3]], currencies,", "not in ascending order"),
        ("ids, currencies,", "array[ids[1],ids[1],ids[2]], currencies,", "not in ascending order"),
    ] {
        assert!(good.contains(old), "{old}");
        let text = common::refused(&app, &good.replacen(old, new, 1)).await;
        assert!(text.contains(reason), "{old} as {new}: {text}");
    }
    app.batch_execute(&good).await.unwrap();
    assert_eq!(transfers(&app, None, None, 9).await.unwrap().len(), 1, "a refusal posts nothing");
    assert_eq!(verify(&app).await.unwrap(), []);
    drop(app);
    database.drop().await;
}
