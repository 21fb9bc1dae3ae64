//! What people do to wallets and to the ledger with commands, and what the stream makes of it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::scripted::{Actor, Hand, LIFECYCLE, Raw, TELEMETRY, at};
use common::sound::assert_sound;
use common::system::{System, amounts, cents};
use hydrometer_pipeline::config::Config;
use serde_json::{Value, json};

/// 2030-03-01T00:00:00Z: lifecycle time is ahead of the clock, so that what is done counts from lifecycle time on.
const MARCH: i64 = 1_898_553_600;

/// Says what the system has to say; the server is busy from one second to another, and time passes up to there.
async fn pass(system: &mut System, worker: &mut Actor, from: i64, to: i64) {
    system.busy("a", from, to);
    system.until(to);
    worker.say(&at(LIFECYCLE, 0), &std::mem::take(&mut system.lifecycle));
    worker.say(&at(TELEMETRY, 0), &std::mem::take(&mut system.telemetry));
    Hand::new(&system.deployment).await.until_lifecycle_time(to).await;
}

/// A tenth of a cent a second; every debit, credit, refund and grant moves the second in which the wallet runs dry.
#[tokio::test(flavor = "multi_thread")]
async fn what_people_do_to_a_wallet_moves_the_second() {
    let mut system = System::new("commands_wallet").await;
    let terms =
        ["wallet", "terms", "hooli", "--low", "2,1", "--second-person-from", "50", "--who", "ana", "--why", "ours"];
    system.answers(&terms, 0, &["the terms hold now"]);
    let effective = hydrometer_schemas::time::show_second(MARCH - 60);
    let contract = json!({
        "contract": "c", "effective": effective, "renter": "hooli", "currency": "USD", "prepaid": {"on_exhaustion": "suspend"},
        "charges": {"gpu_hours": {"basis": "allocated", "price": "3.60"}},
        "suppliers": [{"supplier": "*", "share_percent": "80"}],
    });
    system.signed(MARCH - 60, contract);
    for (name, amount, kind) in [("one", "3.00", "paid"), ("two", "4.00", "paid"), ("welcome", "2.00", "promotional")] {
        let source = if kind == "paid" { "rail:card:clearing" } else { "platform:promotions" };
        let grant = json!({"renter": "hooli", "currency": "USD", "grant": name, "amount": amount, "kind": kind, "source": source});
        system.says("gpu.wallet.granted", MARCH, grant);
    }
    let end = MARCH + 12_000;
    system.says("gpu.server.registered", MARCH - 60, json!({"server": "a", "supplier": "sup", "slots": 1}));
    system.says("gpu.gpu.registered", MARCH - 60, json!({"server": "a", "slot": 0, "gpu": "gpu-a"}));
    system.says("gpu.lease.started", MARCH, json!({"lease": "l", "contract": "c", "server": "a", "slots": [0]}));
    let owns = [at(TELEMETRY, 0), at(LIFECYCLE, 0)];
    let change = |config: &mut Config| config.windows.vouches_for_s = 60;
    let mut worker = Actor::of(Raw::start_until(&system.deployment, 1, &owns, end, &change).await, &owns).await;
    pass(&mut system, &mut worker, MARCH, MARCH + 600).await;

    // The promise has paid 0.60. A debit that names no grant takes paid money, here of both grants.
    let by = ["--who", "ana", "--why", "ticket 4711"];
    let debit = [&["wallet", "debit", "hooli", "5", "--key", "4711"][..], &by].concat();
    system.answers(&debit, 0, &["booked: -5"]);
    system.answers(&debit, 0, &["booked: -5"]);
    let conflict = [&["wallet", "debit", "hooli", "6", "--key", "4711"][..], &by].concat();
    system.answers(&conflict, 1, &["conflict", "amount"]);
    system.answers(
        &[&["wallet", "debit", "hooli", "3"][..], &by].concat(),
        1,
        &["cannot be taken", "2.000000000 is left"],
    );
    // 3.40 are left; another 2.50 come in, and 0.50 of them go back.
    let credit =
        [&["wallet", "credit", "hooli", "2.50", "--from", "rail:card:clearing", "--key", "4712"][..], &by].concat();
    system.answers(&credit, 0, &["booked: 2.5"]);
    let grants = system.rows(&["wallet", "show", "hooli"]);
    let credited = grants.iter().find(|grant| grant["amount"] == "2.500000000").expect("the credit is a grant");
    let id = credited["id"].as_str().unwrap().to_owned();
    let refund = [&["wallet", "refund", "hooli", &id, "--amount", "0.50", "--key", "4713"][..], &by].concat();
    system.answers(&refund, 0, &["booked: -0.5"]);
    system.answers(&refund, 0, &["booked: -0.5"]);

    // From 50 on by two persons.
    let large = [&["wallet", "credit", "hooli", "60", "--key", "4714"][..], &by].concat();
    system.answers(&large, 0, &["waits for a second person"]);
    let proposal = system.rows(&["wallet", "proposals"]).remove(0);
    let proposal = proposal["id"].as_str().unwrap().to_owned();
    system.answers(&["wallet", "approve", &proposal, "--who", "ana", "--why", "mine"], 1, &["another person"]);
    system.answers(&["wallet", "reject", &proposal, "--who", "bob", "--why", "too much"], 0, &["rejected"]);
    system.answers(&large, 1, &["a second person has rejected it"]);
    assert_eq!(system.rows(&["wallet", "proposals"]), Vec::<Value>::new());

    // From lifecycle time 600 on 5.40 last 5,400 s.
    pass(&mut system, &mut worker, MARCH + 600, MARCH + 7_200).await;
    assert_eq!(system.transitions(MARCH).await, [(6_000, "exhausted".to_owned())]);
    let top_up = [
        "wallet",
        "grant",
        "hooli",
        "1.00",
        "--name",
        "top-up",
        "--from",
        "rail:card:clearing",
        "--who",
        "ana",
        "--why",
        "paid",
    ];
    system.answers(&top_up, 0, &["granted to hooli: 1.00 USD as top-up"]);
    system.answers(&top_up, 0, &["granted to hooli: 1.00 USD as top-up"]);
    system.says("gpu.lease.ended", end, json!({"lease": "l"}));
    pass(&mut system, &mut worker, MARCH + 7_200, end + 3_600).await;
    worker.end().await.unwrap();
    let seconds = [(6_000, "exhausted"), (7_200, "restored"), (8_200, "exhausted")];
    assert_eq!(system.transitions(MARCH).await, seconds.map(|(second, name)| (second, name.to_owned())));
    assert_eq!(system.amounts().await, amounts([("usage", "gpu_hours", cents(700), cents(560))]));
    for (account, balance) in [
        ("renter:hooli:wallet:USD", 0),
        ("renter:hooli:unbilled:USD", 0),
        ("renter:hooli:receivable:USD", 0),
        ("platform:promotions:USD", cents(200)),
        ("platform:debits:USD", -cents(500)),
        ("rail:card:clearing:USD", cents(1_050)),
        ("platform:clearing:USD", -cents(50)),
    ] {
        assert_eq!(system.balance(account).await, balance, "{account}");
    }
    assert_sound(&system.deployment, "a wallet under commands").await;

    // What it says of it all.
    let listed = system.rows(&["wallet", "list"]).remove(0);
    assert_eq!(
        (listed["wallet"].as_str(), listed["balance"].as_str()),
        (Some("hooli"), Some("0.000000000")),
        "{listed}"
    );
    let lines = system.rows(&["wallet", "statement", "hooli"]);
    let amount = |kind: &str| -> Vec<&str> {
        lines.iter().filter(|line| line["kind"] == kind).filter_map(|line| line["amount"].as_str()).collect()
    };
    assert_eq!(amount("debit"), ["-5.000000000"]);
    assert_eq!(amount("credit"), ["2.500000000"]);
    assert_eq!(amount("refund"), ["-0.500000000"]);
    assert_eq!(amount("grant").len(), 4);
    system.answers(&["wallet", "show", "nobody"], 1, &["nobody"]);
}

/// The last line that a command prints: an id.
fn id_of(text: &str) -> String {
    text.lines().find(|line| line.len() == 36).unwrap_or_else(|| panic!("no id in {text}")).to_owned()
}

/// Accounts, postings, limits, holds, reading and proof, all by command, on a book that nothing else is in.
#[tokio::test(flavor = "multi_thread")]
async fn the_book_by_hand() {
    let system = System::new("commands_ledger").await;
    let (cash, owed) = ("bank:main:cash:USD", "renter:acme:receivable:USD");
    for (kind, party, purpose) in
        [("asset", "bank:main", "cash"), ("asset", "renter:acme", "receivable"), ("income", "platform:fees", "setup")]
    {
        let open = ["ledger", "open", "--type", kind, "--party", party, "--purpose", purpose, "--currency", "USD"];
        system.answers(&open, 0, &[&format!("{party}:{purpose}:USD")]);
    }
    let by = ["--why", "by hand", "--who", "kim"];
    let transfer = |debit: &str, credit: &str, amount: &str, key: &str| {
        ["ledger", "transfer", debit, credit, amount, "--key", key]
            .iter()
            .chain(&by)
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    let run = |args: Vec<String>, status: i32, words: &[&str]| {
        system.answers(&args.iter().map(String::as_str).collect::<Vec<_>>(), status, words)
    };
    let billed = id_of(&run(transfer(owed, "platform:fees:setup:USD", "120.50", "bill"), 0, &["posted"]));
    run(transfer(owed, "platform:fees:setup:USD", "120.50", "bill"), 0, &["posted before", &billed]);
    run(transfer(owed, "platform:fees:setup:USD", "120.51", "bill"), 1, &["conflict", "amount"]);
    run(transfer(cash, owed, "100", "wire"), 0, &["posted"]);
    run(transfer(cash, "nobody:here:USD", "1", "x"), 1, &["nobody:here:USD"]);
    run(transfer(cash, owed, "0", "x"), 2, &["0"]);

    // What is taken back is never more than there was.
    let reverse = |amount: &str, key: &str| {
        let args = ["ledger", "reverse", &billed, "--line", "1", "--amount", amount, "--key", key];
        args.iter().chain(&by).map(ToString::to_string).collect::<Vec<_>>()
    };
    run(reverse("20.50", "ticket-1"), 0, &["posted"]);
    run(reverse("100.01", "ticket-2"), 1, &[&billed, "100"]);
    system.answers(&["ledger", "transaction", &billed], 0, &["120.500000000", "platform:fees:setup:USD"]);

    // A limit, and what it refuses.
    let limit = ["ledger", "limit", "set", cash, "10"];
    system.answers(&[&limit[..], &by].concat(), 0, &["the limit is 10"]);
    let cast = transfer("platform:fees:setup:USD", cash, "110.01", "refund");
    run(cast, 1, &["100.000000000 available", "credit limit is 10"]);
    assert_eq!(system.rows(&["ledger", "limit", "show", cash]).len(), 1);

    // A hold counts at once; a part of it is captured, the rest is free.
    let hold = |amount: &str, key: &str| {
        let place = [
            "ledger",
            "hold",
            "place",
            "platform:fees:setup:USD",
            cash,
            amount,
            "--expires",
            "2090-01-01",
            "--key",
            key,
        ];
        place.iter().chain(&by).map(ToString::to_string).collect::<Vec<_>>()
    };
    let held = id_of(&run(hold("90", "job"), 0, &[]));
    run(hold("90", "job"), 0, &["before"]);
    run(hold("21", "too much"), 1, &["10.000000000 available"]);
    let balance = system.rows(&["ledger", "balances", cash]).remove(0);
    assert_eq!(
        (balance["balance"].as_str(), balance["available"].as_str()),
        (Some("100.000000000"), Some("10.000000000"))
    );
    assert_eq!(system.rows(&["ledger", "hold", "list", "--open"]).len(), 1);
    let capture = |amount: &str| [&["ledger", "hold", "capture", &held, amount][..], &by].concat().join("\t");
    let capture = |amount: &str, status: i32, words: &[&str]| {
        let args = capture(amount);
        system.answers(&args.split('\t').collect::<Vec<_>>(), status, words)
    };
    capture("90.01", 1, &[&held]);
    capture("40", 0, &[]);
    capture("40", 0, &["before"]);
    system.answers(&["ledger", "hold", "void", &held], 1, &[&held, "posted"]);
    let other = id_of(&run(hold("5", "another"), 0, &[]));
    system.answers(&["ledger", "hold", "void", &other], 0, &[]);
    system.answers(&["ledger", "hold", "void", &other], 0, &["before"]);
    assert_eq!(system.rows(&["ledger", "hold", "list", "--open"]), Vec::<Value>::new());

    // Reading: the statement adds up, debits equal credits, journals in both forms, an anchor that proves it.
    let lines = system.rows(&["ledger", "statement", cash, "--from", "2020-01-01", "--to", "2090-01-01"]);
    let balances: Vec<&str> = lines.iter().filter_map(|line| line["balance"].as_str()).collect();
    assert_eq!(balances, ["0.000000000", "100.000000000", "60.000000000", "60.000000000"], "opening, lines, closing");
    system.answers(&["ledger", "trial-balance"], 0, &["USD"]);
    let csv = system.answers(&["ledger", "journal", "--format", "csv"], 0, &[&billed]);
    assert_eq!(csv.lines().count(), 1 + 4, "{csv}");
    system.answers(&["ledger", "journal", "--format", "hledger"], 0, &["120.5", cash]);
    system.answers(&["ledger", "chain", "--advance"], 0, &["chained"]);
    let anchor = system.deployment.path("anchor.json");
    let anchor = anchor.to_str().unwrap();
    system.answers(&["ledger", "anchor", anchor], 0, &["anchor 1 covers 4 transfers"]);
    run(transfer(cash, owed, "1", "later"), 0, &["posted"]);
    system.answers(&["verify", "--anchor", anchor], 0, &["Every law holds"]);
}

/// What is given for later, beyond all time, or by one person where two are asked for.
#[tokio::test(flavor = "multi_thread")]
async fn grants_by_command_keep_to_the_rules() {
    let system = System::new("commands_grants").await;
    let by = ["--who", "ana", "--why", "a plan"];
    let run = |args: &[&str], status: i32, words: &[&str]| system.answers(&[args, &by].concat(), status, words);
    // A part a month: only the first can be used now.
    run(&["wallet", "grant", "gates", "12", "--monthly", "12", "--name", "plan"], 0, &["granted to gates: 12"]);
    let balance = || system.rows(&["wallet", "list"]).remove(0)["balance"].as_str().unwrap().to_owned();
    assert_eq!(balance(), "1.000000000");
    assert_eq!(system.rows(&["wallet", "show", "gates"]).len(), 12);
    // No time that could be mistaken for another, and nothing that nobody could read again.
    for end in ["9999-12-31T23:59:59Z", "9999-12-31T23:59:30Z", "1969-12-31T23:59:59Z"] {
        run(&["wallet", "grant", "gates", "1", "--name", "ever", "--expires", end], 2, &["between 1970 and 9999"]);
        run(&["wallet", "credit", "gates", "1", "--expires", end], 2, &["between 1970 and 9999"]);
    }
    run(
        &["wallet", "grant", "gates", "1", "--name", "past", "--expires", "2020-01-01T00:00:00Z"],
        1,
        &["expires before it counts"],
    );
    run(&["wallet", "grant", "gates", "5", "--name", "five"], 0, &["granted"]);
    run(&["wallet", "grant", "gates", "6", "--name", "five"], 1, &["five", "5"]);
    assert_eq!(balance(), "6.000000000");

    // Each grant answers the open request for a top-up; below the line the next operation asks again.
    let terms = ["--topup-below", "50", "--topup-amount", "100", "--second-person-from", "10"];
    run(&[&["wallet", "terms", "gates"][..], &terms].concat(), 0, &["hold now"]);
    let db = system.deployment.database().await;
    let asked = async || {
        let sql =
            "SELECT (SELECT count(*) FROM ledger.wallet_topup), (SELECT count(*) FROM ledger.wallet_topup_answer)";
        let row = db.client_ref().query_one(sql, &[]).await.unwrap();
        (row.get::<_, i64>(0), row.get::<_, i64>(1))
    };
    let before = asked().await;
    run(&["wallet", "grant", "gates", "1", "--name", "one"], 0, &["granted"]);
    run(&["wallet", "grant", "gates", "1", "--name", "two"], 0, &["granted"]);
    let after = asked().await;
    assert!(after.0 > before.0 && after.1 > before.1, "{before:?} {after:?}");
    run(&["wallet", "grant", "gates", "10", "--name", "large"], 1, &["second person", "wallet credit"]);
    let id =
        system.rows(&["wallet", "show", "gates"]).iter().find(|grant| grant["grant"] == "five").unwrap()["id"].clone();
    run(&["wallet", "refund", "gates", id.as_str().unwrap(), "--key", "r"], 0, &["booked: -5"]);
    run(&["wallet", "credit", "gates", "2", "--key", "c", "--expires", "2090-01-01T00:00:30Z"], 0, &["booked: 2"]);
    let ends: Vec<Value> =
        system.rows(&["wallet", "show", "gates"]).into_iter().map(|grant| grant["expires"].clone()).collect();
    assert!(ends.contains(&json!("2090-01-01T00:01:00Z")), "{ends:?}");
    system.answers(&["verify"], 0, &["Every law holds"]);
}
