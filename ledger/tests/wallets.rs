//! What each operation on a wallet books, tells and refuses.
#![allow(clippy::unwrap_used)]

mod common;
mod wallet_common;

use chrono::{DateTime, TimeDelta, Utc};
use common::{Database, transaction};
use hydrometer_ledger::wallet::{
    self, Act, AutoTopup, Burn, Decision, GrantKind, Manual, NewGrant, NewTerms, OnExpiry, Part, PlanLine, Refund,
    Requested, Terms, Wallet, WalletId, monthly, plan_report, runway, statement,
};
use hydrometer_ledger::{AccountSpec, Amount, Hold, LedgerError, Outcome, TransactionId, Transfer, place_hold, post};
use tokio_postgres::Client;
use wallet_common::*;

const PAID: &str = "renter:R:wallet:USD";
const UNBILLED: &str = "renter:R:unbilled:USD";
const RECEIVABLE: &str = "renter:R:receivable:USD";
const PROMOTIONS: &str = "platform:promotions:USD";
const EXPIRED: &str = "platform:expired_credit:USD";
const RAIL: &str = "rail:ach:clearing:USD";

async fn opened(terms: Terms) -> (Database, Client, WalletId) {
    let database = Database::create().await;
    let mut app = database.app().await;
    let wallet = open(&mut app, &renter(), terms).await;
    (database, app, wallet)
}

async fn close(database: Database, mut app: Client) {
    sound(&mut app).await;
    drop(app);
    database.drop().await;
}

fn promotional(new: NewGrant) -> NewGrant {
    NewGrant { kind: GrantKind::Promotional, ..new }
}

fn kinds(events: &[(String, serde_json::Value)]) -> Vec<&str> {
    events.iter().map(|(kind, _)| kind.as_str()).collect()
}

#[tokio::test]
async fn paid_and_promotional_grants_carry_use_and_the_rest_is_a_receivable() {
    let (database, mut app, wallet) = opened(Terms::default()).await;
    let done = grant(&mut app, &new_grant("paid", wallet, 100, 0, None)).await;
    assert_eq!((done.balance, done.paid, done.promotional), (units(100), units(100), units(0)));
    let promise = NewGrant { priority: -1, ..promotional(new_grant("promise", wallet, 30, 0, Some(50))) };
    let done = grant(&mut app, &promise).await;
    assert_eq!((done.balance, done.paid, done.promotional), (units(130), units(100), units(30)));
    // A promise is in nobody's book.
    assert_eq!(book(&app).await, expect(&[(PAID, 100), (RAIL, 100)]));

    // The use itself and its payment, in one set.
    let draws = [new_draw("first", wallet, &[(10, 20), (11, 20)])];
    let mut usage = transaction("usage", vec![]);
    usage.transfers = vec![Transfer {
        debit: AccountSpec::renter_unbilled("R", "USD"),
        credit: AccountSpec::platform_commission("USD"),
        amount: units(40),
    }];
    let tx = app.transaction().await.unwrap();
    let (done, outcomes) = wallet::draw_many(&tx, &draws, std::slice::from_ref(&usage)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(outcomes, [Outcome::Posted]);
    assert_eq!((done[0].balance, done[0].receivable), (units(90), units(0)));
    let after = expect(&[(PAID, 90), (RAIL, 100), (PROMOTIONS, 30), ("platform:commission:USD", 40)]);
    assert_eq!(book(&app).await, after);

    let done = draw(&mut app, "second", wallet, &[(60, 100)]).await;
    assert_eq!((done.balance, done.paid, done.receivable), (units(0), units(0), units(10)));
    // The promise ended at 50, all used; a correction gives it back, and it is not there for later use.
    let done = draw(&mut app, "correction", wallet, &[(11, -15)]).await;
    assert_eq!((done.balance, done.paid, done.promotional), (units(0), units(0), units(5)));
    assert_eq!(done.receivable, units(0));
    let done = draw(&mut app, "more", wallet, &[(61, 7)]).await;
    assert_eq!((done.promotional, done.receivable), (units(5), units(7)));
    let done = advance(&mut app, wallet, 50).await;
    assert_eq!((done.promotional, done.receivable), (units(0), units(7)));
    let found = book(&app).await;
    assert_eq!(found.get(PROMOTIONS), Some(&25));
    assert_eq!(found.get(RECEIVABLE), Some(&7));
    assert_eq!(found.get(UNBILLED), Some(&-(100 - 15 + 7)));
    close(database, app).await;
}

#[tokio::test]
async fn the_same_again_changes_nothing_and_another_body_is_a_conflict() {
    let (database, mut app, wallet) = opened(Terms::default()).await;
    let first = grant(&mut app, &new_grant("paid", wallet, 100, 0, None)).await;
    let drawn = draw(&mut app, "use", wallet, &[(5, 30)]).await;
    let again = grant(&mut app, &new_grant("paid", wallet, 100, 0, None)).await;
    assert_eq!(again, wallet::Done { outcome: Outcome::Repeated, ..first });
    let again = draw(&mut app, "use", wallet, &[(5, 10), (5, 20)]).await;
    assert_eq!(again, wallet::Done { outcome: Outcome::Repeated, ..drawn });
    let again = commit!(app, wallet::open, &new_wallet(&renter(), Terms::default())).unwrap();
    assert_eq!((again.outcome, again.number), (Outcome::Repeated, 1));
    let before = (book(&app).await, events(&app).await.len(), stands(&app, wallet).await);

    let other = NewGrant { priority: 1, ..new_grant("paid", wallet, 101, 0, None) };
    let error = commit!(app, wallet::grant, &other).unwrap_err();
    says(error, &["conflict", "What differs: amount, priority."]);
    let error = commit!(app, wallet::draw, &new_draw("use", wallet, &[(5, 31)])).unwrap_err();
    says(error, &["conflict", "What differs: uses."]);
    let error = commit!(app, wallet::draw, &new_draw("paid", wallet, &[(5, 31)])).unwrap_err();
    says(error, &["conflict", "uses"]);
    let mut other = new_wallet(&renter(), Terms::default());
    other.id = id("another opening");
    says(commit!(app, wallet::open, &other).unwrap_err(), &["is open", "Change its terms"]);
    let twice = [new_draw("twice", wallet, &[(1, 1)]), new_draw("twice", wallet, &[(1, 1)])];
    says(commit!(app, wallet::draw_many, &twice, &[]).unwrap_err(), &["twice in one set"]);

    assert_eq!((book(&app).await, events(&app).await.len(), stands(&app, wallet).await), before);
    close(database, app).await;
}

#[tokio::test]
async fn what_expires_goes_to_income_or_back_and_late_use_takes_its_part_again() {
    let (database, mut app, wallet) = opened(Terms::default()).await;
    grant(&mut app, &new_grant("income", wallet, 100, 0, Some(50))).await;
    let back = NewGrant { on_expiry: OnExpiry::Back, priority: 1, ..new_grant("back", wallet, 40, 0, Some(50)) };
    grant(&mut app, &back).await;
    draw(&mut app, "use", wallet, &[(10, 30), (60, 1)]).await;
    assert_eq!(wallet::due(&app, at(49)).await.unwrap(), []);
    assert_eq!(wallet::due(&app, at(50)).await.unwrap(), [wallet]);
    let number = stands(&app, wallet).await.number;
    // Nothing ends by then: no entry. From the end on nothing can be used, and then it expires.
    let done = advance(&mut app, wallet, 49).await;
    assert_eq!((done.number, done.balance, done.paid), (number, units(0), units(110)));
    let done = advance(&mut app, wallet, 50).await;
    assert_eq!((done.paid, done.receivable), (units(0), units(1)));
    assert_eq!(wallet::due(&app, at(50)).await.unwrap(), []);
    let expired = expect(&[(RAIL, 100), (EXPIRED, 70), (UNBILLED, -31), (RECEIVABLE, 1)]);
    assert_eq!(book(&app).await, expired);
    // It does not go back.
    advance(&mut app, wallet, 20).await;
    assert_eq!(book(&app).await, expired);
    assert_eq!(stands(&app, wallet).await.frontier, at(50));

    // 70 of the late 80 come out of income, 10 out of what went back.
    let done = draw(&mut app, "late", wallet, &[(49, 80)]).await;
    assert_eq!((done.paid, done.receivable), (units(0), units(1)));
    assert_eq!(book(&app).await, expect(&[(RAIL, 110), (UNBILLED, -111), (RECEIVABLE, 1)]));
    // Later than the late use, and more than there was.
    draw(&mut app, "beyond", wallet, &[(48, 35)]).await;
    assert_eq!(book(&app).await, expect(&[(RAIL, 140), (UNBILLED, -146), (RECEIVABLE, 6)]));
    let told: Vec<_> = events(&app).await.into_iter().filter(|(kind, _)| kind == "wallet.expired").collect();
    let amounts: Vec<&str> = told.iter().map(|(_, data)| data["amount"].as_str().unwrap()).collect();
    assert_eq!(
        amounts,
        ["0.000000070", "0.000000040", "-0.000000070", "-0.000000010", "-0.000000030"],
        "expired, taken back, taken back to the end"
    );

    // A grant whose end lies before the frontier expires as it is made, but for the use that it carries.
    let done = grant(&mut app, &new_grant("backdated", wallet, 20, 5, Some(49))).await;
    assert_eq!((done.paid, done.receivable), (units(0), units(1)), "5 more are carried, 15 have gone back");
    assert_eq!(book(&app).await, expect(&[(RAIL, 145), (UNBILLED, -146), (RECEIVABLE, 1)]));
    let done = grant(&mut app, &new_grant("useless", wallet, 20, 1, Some(5))).await;
    assert_eq!(done.paid, units(0));
    assert_eq!(book(&app).await[EXPIRED], 20);
    close(database, app).await;
}

#[tokio::test]
async fn a_backdated_grant_carries_the_use_that_lies_within_it() {
    let (database, mut app, wallet) = opened(Terms::default()).await;
    draw(&mut app, "before", wallet, &[(10, 4), (20, 5), (29, 6), (30, 7)]).await;
    assert_eq!(book(&app).await, expect(&[(UNBILLED, -22), (RECEIVABLE, 22)]));
    let done = grant(&mut app, &new_grant("credit", wallet, 100, 20, Some(30))).await;
    assert_eq!((done.paid, done.receivable), (units(89), units(11)));
    assert_eq!(book(&app).await, expect(&[(UNBILLED, -22), (RECEIVABLE, 11), (PAID, 89), (RAIL, 100)]));
    let done = grant(&mut app, &new_grant("wider", wallet, 8, 10, None)).await;
    assert_eq!((done.paid, done.receivable), (units(89), units(3)));
    close(database, app).await;
}

#[tokio::test]
async fn a_refund_never_exceeds_what_is_left() {
    let (database, mut app, wallet) = opened(Terms::default()).await;
    grant(&mut app, &new_grant("paid", wallet, 100, 0, Some(80))).await;
    grant(&mut app, &promotional(new_grant("promise", wallet, 50, 0, Some(90)))).await;
    draw(&mut app, "use", wallet, &[(10, 30)]).await;
    let refund = |key: &str, grant: &str, amount: Option<i128>, second| Refund {
        id: id(key),
        wallet,
        grant: id(grant),
        amount: amount.map(units),
        destination: rail(),
        at: at(second),
        who: "ann".to_owned(),
        why: "she asked for it".to_owned(),
    };
    let error = commit!(app, wallet::refund, &refund("r1", "paid", Some(71), 20)).unwrap_err();
    says(error, &["0.000000071 USD cannot be taken", "0.000000070 is left"]);
    let error = commit!(app, wallet::refund, &refund("r1", "promise", Some(1), 20)).unwrap_err();
    says(error, &["is promotional"]);
    let error = commit!(app, wallet::refund, &refund("r1", "nothing", Some(1), 20)).unwrap_err();
    says(error, &["holds no grant"]);
    let error = commit!(app, wallet::refund, &refund("r1", "paid", Some(0), 20)).unwrap_err();
    says(error, &["positive"]);
    // What has ended is not given back, though no frontier has told it yet.
    let error = commit!(app, wallet::refund, &refund("r1", "paid", None, 80)).unwrap_err();
    says(error, &["0.000000000 is left"]);

    let Requested::Booked(done) = commit!(app, wallet::refund, &refund("r1", "paid", Some(20), 20)).unwrap() else {
        panic!()
    };
    assert_eq!((done.paid, done.balance), (units(50), units(100)));
    let Requested::Booked(rest) = commit!(app, wallet::refund, &refund("r2", "paid", None, 21)).unwrap() else {
        panic!()
    };
    assert_eq!((rest.paid, rest.balance), (units(0), units(50)));
    assert_eq!(statement(&app, wallet, rest.number - 1, 9).await.unwrap()[0].amount, units(-50));
    let again = commit!(app, wallet::refund, &refund("r2", "paid", None, 21)).unwrap();
    assert_eq!(again, Requested::Booked(wallet::Done { outcome: Outcome::Repeated, ..rest }));
    says(commit!(app, wallet::refund, &refund("r3", "paid", None, 22)).unwrap_err(), &["is left"]);
    // What was refunded is not there for late use any more; what was credited back stays with its grant.
    let done = draw(&mut app, "late", wallet, &[(5, 60)]).await;
    assert_eq!((done.paid, done.promotional, done.receivable), (units(0), units(0), units(10)));
    let done = draw(&mut app, "correction", wallet, &[(5, -60), (10, -25)]).await;
    assert_eq!((done.paid, done.promotional, done.receivable), (units(25), units(50), units(0)));
    close(database, app).await;
}

#[tokio::test]
async fn manual_operations_need_two_persons_from_the_limit_on() {
    let terms = Terms { second_person_from: Some(units(50)), ..Terms::default() };
    let (database, mut app, wallet) = opened(terms.clone()).await;
    let credit = |key: &str, nanos: i128| Manual {
        id: id(key),
        wallet,
        act: Act::Credit { source: Some(goodwill()), priority: 3, expires: Some(at(99)), on_expiry: OnExpiry::Back },
        amount: units(nanos),
        at: at(1),
        who: "ann".to_owned(),
        why: "an outage".to_owned(),
    };
    let decision = |key: &str, approve: bool, who: &str| Decision {
        proposal: id(key),
        approve,
        at: at(7),
        who: who.to_owned(),
        why: "looked at it".to_owned(),
    };
    let Requested::Booked(done) = commit!(app, wallet::manual, &credit("small", 49)).unwrap() else { panic!() };
    assert_eq!(done.paid, units(49));

    assert_eq!(commit!(app, wallet::manual, &credit("large", 50)).unwrap(), Requested::Proposed);
    assert_eq!(commit!(app, wallet::manual, &credit("large", 50)).unwrap(), Requested::Proposed);
    says(commit!(app, wallet::manual, &credit("large", 51)).unwrap_err(), &["conflict"]);
    assert_eq!(stands(&app, wallet).await.paid, units(49));
    for same in ["ann", " Ann "] {
        let error = commit!(app, wallet::decide, &decision("large", true, same)).unwrap_err();
        says(error, &["made by ann", "another person"]);
    }
    says(commit!(app, wallet::decide, &decision("nothing", true, "bob")).unwrap_err(), &["no proposal"]);
    let open = wallet::proposals(&app).await.unwrap();
    assert_eq!((open.len(), open[0].id, open[0].who.as_str()), (1, id("large"), "ann"));
    let Requested::Booked(done) = commit!(app, wallet::decide, &decision("large", true, "bob")).unwrap() else {
        panic!()
    };
    assert_eq!((done.outcome, done.paid), (Outcome::Posted, units(99)));
    let begins: Vec<_> = stands(&app, wallet).await.grants.iter().map(|grant| grant.from).collect();
    assert_eq!(begins, [at(1), at(7)], "what was approved counts from then on");
    let again = commit!(app, wallet::decide, &decision("large", true, "bob")).unwrap();
    assert_eq!(again, Requested::Booked(wallet::Done { outcome: Outcome::Repeated, ..done }));
    let again = commit!(app, wallet::manual, &credit("large", 50)).unwrap();
    assert_eq!(again, Requested::Booked(wallet::Done { outcome: Outcome::Repeated, ..done }));
    says(commit!(app, wallet::decide, &decision("large", false, "bob")).unwrap_err(), &["approved by bob"]);
    assert_eq!(book(&app).await, expect(&[(PAID, 99), ("platform:goodwill:USD", 99)]));

    assert_eq!(commit!(app, wallet::manual, &credit("rejected", 70)).unwrap(), Requested::Proposed);
    assert_eq!(commit!(app, wallet::decide, &decision("rejected", false, "bob")).unwrap(), Requested::Rejected);
    assert_eq!(commit!(app, wallet::manual, &credit("rejected", 70)).unwrap(), Requested::Rejected);
    says(commit!(app, wallet::decide, &decision("rejected", true, "eve")).unwrap_err(), &["rejected by bob"]);

    // Nor is money paid out by one person.
    let refund = Refund {
        id: id("refund"),
        wallet,
        grant: id("large"),
        amount: None,
        destination: goodwill(),
        at: at(8),
        who: "ann".to_owned(),
        why: "she asked for it".to_owned(),
    };
    assert_eq!(commit!(app, wallet::refund, &refund).unwrap(), Requested::Proposed);
    assert_eq!(commit!(app, wallet::decide, &decision("refund", false, "bob")).unwrap(), Requested::Rejected);

    // A credit that would have ended by then stays open, until somebody rejects it.
    assert_eq!(commit!(app, wallet::manual, &credit("too late", 70)).unwrap(), Requested::Proposed);
    let late = |approve: bool| Decision { at: at(99), ..decision("too late", approve, "bob") };
    says(commit!(app, wallet::decide, &late(true)).unwrap_err(), &["would end before it starts"]);
    assert_eq!(commit!(app, wallet::decide, &late(false)).unwrap(), Requested::Rejected);

    // A debit that can no longer be done stays open.
    let debit = |key: &str, nanos: i128, grant: Option<&str>| Manual {
        act: Act::Debit { destination: goodwill(), grant: grant.map(id) },
        at: at(8),
        ..credit(key, nanos)
    };
    assert_eq!(commit!(app, wallet::manual, &debit("debit", 80, None)).unwrap(), Requested::Proposed);
    draw(&mut app, "use", wallet, &[(5, 30)]).await;
    says(commit!(app, wallet::decide, &decision("debit", true, "bob")).unwrap_err(), &["0.000000069 is left"]);
    assert_eq!(wallet::proposals(&app).await.unwrap().len(), 1);
    draw(&mut app, "correction", wallet, &[(5, -20)]).await;
    let Requested::Booked(done) = commit!(app, wallet::decide, &decision("debit", true, "bob")).unwrap() else {
        panic!()
    };
    assert_eq!(done.paid, units(9));
    let left: Vec<i128> = stands(&app, wallet).await.grants.iter().map(|grant| grant.left.nanos()).collect();
    assert_eq!(left, [0, 9]);
    says(commit!(app, wallet::manual, &debit("more", 10, None)).unwrap_err(), &["is left"]);

    // Nobody lifts the limit alone.
    let change = |key: &str, limit: Option<i128>| NewTerms {
        id: id(key),
        wallet,
        terms: Terms { second_person_from: limit.map(units), ..Terms::default() },
        at: at(2),
        who: "ann".to_owned(),
        why: "it is a nuisance".to_owned(),
    };
    assert_eq!(commit!(app, wallet::set_terms, &change("lift", None)).unwrap(), Requested::Proposed);
    assert_eq!(commit!(app, wallet::set_terms, &change("raise", Some(51))).unwrap(), Requested::Proposed);
    assert!(matches!(commit!(app, wallet::set_terms, &change("lower", Some(40))).unwrap(), Requested::Booked(_)));
    assert_eq!(commit!(app, wallet::manual, &credit("now too much", 40)).unwrap(), Requested::Proposed);
    assert!(matches!(commit!(app, wallet::decide, &decision("lift", true, "bob")).unwrap(), Requested::Booked(_)));
    assert_eq!(stands(&app, wallet).await.terms, Terms::default());
    assert!(matches!(commit!(app, wallet::manual, &credit("any", 1_000)).unwrap(), Requested::Booked(_)));

    // A named promise is taken back without a posting.
    grant(&mut app, &promotional(new_grant("promise", wallet, 25, 60, None))).await;
    let before = book(&app).await;
    let Requested::Booked(done) = commit!(app, wallet::manual, &debit("revoked", 25, Some("promise"))).unwrap() else {
        panic!()
    };
    assert_eq!(done.promotional, units(0));
    assert_eq!(book(&app).await, before);
    let mut nameless = credit("nameless", 1);
    nameless.why = " ".to_owned();
    says(commit!(app, wallet::manual, &nameless).unwrap_err(), &["who did it and why", "why is \" \""]);
    close(database, app).await;
}

#[tokio::test]
async fn the_database_keeps_the_rule_of_two_persons_by_itself() {
    let terms = Terms { second_person_from: Some(units(50)), ..Terms::default() };
    let (database, app, wallet) = opened(terms).await;
    let number = stands(&app, wallet).await.number;
    let book = |before: i64, kind: &str, nanos: &str| {
        let (id, wallet) = (id("by hand"), wallet.to_string());
        format!(
            "select ledger.wallet_book(jsonb_build_object(
                'states', jsonb_build_array(jsonb_build_object('wallet', '{wallet}', 'before', {before}, 'number', {},
                    'clock', now(), 'frontier', now(), 'receivable', '0')),
                'entries', jsonb_build_array(jsonb_build_object('wallet', '{wallet}', 'number', {}, 'id', '{id}',
                    'kind', '{kind}', 'at', now(), 'amount', '{nanos}', 'balance', '0', 'paid', '0', 'promotional', '0',
                    'receivable', '0', 'who', 'eve', 'why', 'me', 'transactions', '[]'::jsonb, 'body', '{{}}'::jsonb))))",
            before + 1,
            before + 1
        )
    };
    let text = common::refused(&app, &book(number, "credit", "0.000000050")).await;
    assert!(text.contains("needs the approval of a second person"), "{text}");
    let text = common::refused(&app, &book(number, "debit", "-0.000000050")).await;
    assert!(text.contains("needs the approval of a second person"), "{text}");
    let text = common::refused(&app, &book(number, "terms", "0")).await;
    assert!(text.contains("needs the approval of a second person"), "{text}");
    let text = common::refused(&app, &book(number + 1, "credit", "0.000000049")).await;
    assert!(text.contains("has moved on"), "{text}");
    close(database, app).await;
}

/// Use is never refused: neither a posting past the wallet nor a hold may take what its grants say is there.
#[tokio::test]
async fn what_grants_say_is_there_cannot_be_taken_past_the_wallet() {
    let (database, mut app, wallet) = opened(Terms::default()).await;
    grant(&mut app, &new_grant("paid", wallet, 100, 0, None)).await;
    let out = Transfer { debit: renter().account(), credit: rail(), amount: units(60) };
    let hold = Hold {
        id: TransactionId(id("hold")),
        transfer: out.clone(),
        effective_at: at(1),
        expires_at: Utc::now() + TimeDelta::hours(1),
        description: String::new(),
        metadata: serde_json::json!({}),
    };
    says(commit!(app, place_hold, &hold).unwrap_err(), &["nothing is held on the account of a wallet"]);
    let mut past = transaction("past the wallet", vec![]);
    past.transfers = vec![Transfer { amount: units(101), ..out }];
    let set = std::slice::from_ref(&past);
    assert!(matches!(commit!(app, post, set), Err(LedgerError::Refused(_))), "its limit is zero");
    let done = draw(&mut app, "use", wallet, &[(5, 100)]).await;
    assert_eq!((done.paid, done.receivable), (units(0), units(0)));
    close(database, app).await;
}

#[tokio::test]
async fn thresholds_are_told_once_a_crossing() {
    let terms = Terms { thresholds: vec![units(50), units(20)], ..Terms::default() };
    let (database, mut app, wallet) = opened(terms).await;
    let mut seen = 0;
    let mut news = async |app: &Client| -> Vec<String> {
        let all = events(app).await;
        let new = all[seen..].iter().map(|(kind, data)| match data["threshold"].as_str() {
            Some(threshold) => format!("{kind} {}", threshold.parse::<Amount>().unwrap().nanos()),
            None => kind.clone(),
        });
        let new = new.collect();
        seen = all.len();
        new
    };
    assert_eq!(news(&app).await, Vec::<String>::new());
    grant(&mut app, &new_grant("a", wallet, 100, 0, None)).await;
    assert_eq!(news(&app).await, ["wallet.granted"]);
    draw(&mut app, "1", wallet, &[(1, 49)]).await;
    assert_eq!(news(&app).await, Vec::<String>::new());
    draw(&mut app, "2", wallet, &[(2, 1)]).await;
    assert_eq!(news(&app).await, ["wallet.low 50"]);
    draw(&mut app, "3", wallet, &[(3, 1)]).await;
    assert_eq!(news(&app).await, Vec::<String>::new());
    // Up to it is not above it.
    draw(&mut app, "4", wallet, &[(3, -1)]).await;
    draw(&mut app, "5", wallet, &[(4, 2)]).await;
    assert_eq!(news(&app).await, Vec::<String>::new());
    draw(&mut app, "6", wallet, &[(3, -3)]).await;
    draw(&mut app, "7", wallet, &[(4, 60)]).await;
    assert_eq!(news(&app).await, ["wallet.low 50", "wallet.low 20", "wallet.empty", "wallet.receivable"]);
    draw(&mut app, "8", wallet, &[(5, 1)]).await;
    assert_eq!(news(&app).await, ["wallet.receivable"]);
    draw(&mut app, "7", wallet, &[(4, 60)]).await;
    assert_eq!(news(&app).await, Vec::<String>::new());
    let ids: i64 = app.query_one("select count(distinct id) from ledger.outbox", &[]).await.unwrap().get(0);
    assert_eq!(ids as usize, seen);
    close(database, app).await;
}

#[tokio::test]
async fn a_topup_is_asked_for_once_until_it_is_answered() {
    let topup = AutoTopup { below: units(30), amount: units(80) };
    let (database, mut app, wallet) = opened(Terms::default()).await;
    grant(&mut app, &new_grant("a", wallet, 100, 0, None)).await;
    let change = NewTerms {
        id: id("terms"),
        wallet,
        terms: Terms { topup: Some(topup), ..Terms::default() },
        at: at(0),
        who: "ann".to_owned(),
        why: "she wants it".to_owned(),
    };
    commit!(app, wallet::set_terms, &change).unwrap();
    let requests = async |app: &Client| events(app).await.iter().filter(|e| e.0 == "wallet.topup_requested").count();
    draw(&mut app, "1", wallet, &[(1, 70)]).await;
    assert_eq!(requests(&app).await, 0, "30 is not below 30");
    draw(&mut app, "2", wallet, &[(2, 1)]).await;
    draw(&mut app, "3", wallet, &[(3, 1)]).await;
    grant(&mut app, &new_grant("unasked", wallet, 1, 3, None)).await;
    assert_eq!(requests(&app).await, 1);
    let request = stands(&app, wallet).await.open_topup.unwrap();
    let answer = NewGrant { answers: Some(request), ..new_grant("answer", wallet, 80, 4, None) };
    grant(&mut app, &answer).await;
    assert_eq!(stands(&app, wallet).await.open_topup, None);
    let late = NewGrant { answers: Some(request), ..new_grant("answer again", wallet, 80, 4, None) };
    says(commit!(app, wallet::grant, &late).unwrap_err(), &["no open request", "none is open"]);

    draw(&mut app, "4", wallet, &[(5, 90)]).await;
    assert_eq!(requests(&app).await, 2);
    let request = stands(&app, wallet).await.open_topup.unwrap();
    let tx = app.transaction().await.unwrap();
    wallet::decline_topup(&tx, id("declined"), wallet, request, at(6), "payments", "the card was refused")
        .await
        .unwrap();
    tx.commit().await.unwrap();
    // The balance is still low: the next one may fare better.
    assert_eq!(requests(&app).await, 3);
    close(database, app).await;
}

#[tokio::test]
async fn balances_are_taken_over_from_another_system() {
    let (database, mut app, wallet) = opened(Terms::default()).await;
    let kind = GrantKind::Opening { system: "oldbill".to_owned(), document: "balances-2026-06.csv:17".to_owned() };
    let opening = NewGrant { kind, ..new_grant("opening", wallet, 1_000, 0, None) };
    grant(&mut app, &opening).await;
    assert_eq!(book(&app).await, expect(&[("equity:opening:USD", -1_000), (PAID, 1_000)]));
    let line = &statement(&app, wallet, 1, 1).await.unwrap()[0];
    let body: serde_json::Value =
        app.query_one("select body from ledger.wallet_entry where id = $1", &[&line.operation]).await.unwrap().get(0);
    assert_eq!(body["grant"]["document"], "balances-2026-06.csv:17");
    let kind = GrantKind::Opening { system: "oldbill".to_owned(), document: " ".to_owned() };
    let error = commit!(app, wallet::grant, &NewGrant { kind, ..new_grant("x", wallet, 1, 0, None) }).unwrap_err();
    says(error, &["no system or no document"]);
    close(database, app).await;
}

#[tokio::test]
async fn grants_are_released_by_plan_and_plans_of_use_are_compared() {
    let (database, mut app, wallet) = opened(Terms::default()).await;
    let time = |text: &str| -> DateTime<Utc> { text.parse().unwrap() };
    let start = time("2026-01-01T00:00:00Z");
    let yearly = NewGrant {
        at: start,
        expires: Some(time("2027-01-01T00:00:00Z")),
        release: monthly(start, 12, units(120)).unwrap(),
        plan: monthly(time("2026-02-01T00:00:00Z"), 12, units(120)).unwrap(),
        ..new_grant("yearly", wallet, 120, 0, None)
    };
    let done = grant(&mut app, &yearly).await;
    assert_eq!((done.paid, done.balance), (units(120), units(10)));
    let second = |text: &str| time(text).timestamp() - at(0).timestamp();
    let done = draw(&mut app, "january", wallet, &[(second("2026-01-20T00:00:00Z"), 13)]).await;
    assert_eq!((done.paid, done.balance, done.receivable), (units(110), units(0), units(3)));
    // The next part opens with time alone.
    assert_eq!(wallet::due(&app, time("2026-02-01T00:00:00Z")).await.unwrap(), [wallet]);
    let done = advance(&mut app, wallet, second("2026-02-01T00:00:00Z")).await;
    assert_eq!((done.balance, done.receivable), (units(10), units(3)));
    draw(&mut app, "march", wallet, &[(second("2026-03-05T00:00:00Z"), 15)]).await;
    let report = plan_report(&app, wallet, id("yearly")).await.unwrap();
    let line =
        |text: &str, planned, actual| PlanLine { by: time(text), planned: units(planned), actual: units(actual) };
    assert_eq!(report.len(), 12);
    assert_eq!(
        report[..3],
        [
            line("2026-02-01T00:00:00Z", 10, 10),
            line("2026-03-01T00:00:00Z", 20, 10),
            line("2026-04-01T00:00:00Z", 30, 25)
        ]
    );
    assert_eq!(plan_report(&app, wallet, id("other")).await.unwrap(), []);

    // A refund takes the last parts first.
    let refund = Refund {
        id: id("refund"),
        wallet,
        grant: id("yearly"),
        amount: Some(units(25)),
        destination: rail(),
        at: time("2026-03-06T00:00:00Z"),
        who: "ann".to_owned(),
        why: "cut short".to_owned(),
    };
    commit!(app, wallet::refund, &refund).unwrap();
    let left: Vec<i128> = stands(&app, wallet).await.grants.iter().map(|grant| grant.left.nanos()).collect();
    assert_eq!(left, [0, 0, 5, 10, 10, 10, 10, 10, 10, 5, 0, 0]);
    let done = advance(&mut app, wallet, second("2027-01-01T00:00:00Z")).await;
    assert_eq!(done.paid, units(0));
    assert_eq!(book(&app).await[EXPIRED], 70);
    close(database, app).await;
}

#[tokio::test]
async fn what_is_no_grant_is_told() {
    let (database, mut app, wallet) = opened(Terms::default()).await;
    let part = |second, nanos| Part { at: at(second), amount: units(nanos) };
    let base = new_grant("bad", wallet, 10, 5, Some(50));
    for (bad, parts) in [
        (NewGrant { amount: units(0), ..base.clone() }, ["is not positive", "Nothing was changed"]),
        (NewGrant { expires: Some(at(5)), ..base.clone() }, ["would expire at", "starts"]),
        (NewGrant { release: vec![part(5, 5), part(6, 4)], ..base.clone() }, ["release", "do not add up"]),
        (NewGrant { release: vec![part(6, 5), part(6, 5)], ..base.clone() }, ["release", "in order of time"]),
        (NewGrant { release: vec![part(4, 5), part(6, 5)], ..base.clone() }, ["release", "not before the grant"]),
        (NewGrant { release: vec![part(5, 5), part(50, 5)], ..base.clone() }, ["would expire", "a part of it"]),
        (NewGrant { plan: vec![part(6, 11)], ..base.clone() }, ["plan", "do not add up"]),
        (NewGrant { at: at(-2_000_000_000), ..base.clone() }, ["not a time of a wallet", "1970"]),
        (NewGrant { wallet: Wallet::new("renter:X", "USD").id(), ..base.clone() }, ["no wallet", "Open it"]),
        (
            NewGrant { kind: GrantKind::Paid { source: AccountSpec::renter_unbilled("R", "EUR") }, ..base.clone() },
            ["renter:R:unbilled:EUR", "another account in the wallet's currency"],
        ),
        (NewGrant { kind: GrantKind::Paid { source: renter().account() }, ..base.clone() }, ["cannot come from", PAID]),
    ] {
        says(commit!(app, wallet::grant, &bad).unwrap_err(), &parts);
    }
    says(commit!(app, wallet::draw, &new_draw("empty", wallet, &[])).unwrap_err(), &["holds no use"]);
    let mut bad = new_wallet(&Wallet::new("renter:B", "dollars"), Terms::default());
    says(commit!(app, wallet::open, &bad).unwrap_err(), &["currency"]);
    bad.wallet = Wallet::new("renter:B", "USD");
    bad.terms.thresholds = vec![units(1), units(1)];
    says(commit!(app, wallet::open, &bad).unwrap_err(), &["threshold stands twice"]);
    assert_eq!(kinds(&events(&app).await), Vec::<&str>::new());
    close(database, app).await;
}

#[tokio::test]
async fn a_wallet_tells_how_it_stands_and_what_happened() {
    let terms = Terms { thresholds: vec![units(10)], ..Terms::default() };
    let (database, mut app, wallet) = opened(terms.clone()).await;
    grant(&mut app, &new_grant("a", wallet, 3_600, 0, None)).await;
    draw(&mut app, "1", wallet, &[(100, 20), (110, 10)]).await;
    let standing = stands(&app, wallet).await;
    assert_eq!((standing.number, standing.clock, standing.terms), (3, at(110), terms));
    assert_eq!(standing.grants[0].source.as_deref(), Some(RAIL));
    let burn = wallet::burn(&app, wallet, at(100), at(120)).await.unwrap();
    assert_eq!(burn, Burn { amount: units(30), seconds: 20 });
    assert_eq!(runway(standing.balance, burn), Some(3_570 * 20 / 30));
    let lines = statement(&app, wallet, 0, 10).await.unwrap();
    let shown: Vec<_> =
        lines.iter().map(|l| (l.number, l.kind.as_str(), l.amount.nanos(), l.balance.nanos())).collect();
    assert_eq!(shown, [(1, "open", 0, 0), (2, "grant", 3_600, 3_600), (3, "draw", -30, 3_570)]);
    assert_eq!(statement(&app, wallet, 2, 10).await.unwrap(), lines[2..]);
    assert_eq!(lines[2].transactions.len(), 1);
    assert_eq!(wallet::standing(&app, Wallet::new("renter:X", "USD").id()).await.unwrap(), None);
    close(database, app).await;
}
