//! Prepaid contracts through the whole of it: wallets that are burned, run dry at the exact second, and are topped up; amounts by hand.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::scripted::passes;
use common::sound::assert_sound;
use common::system::{System, amounts, cents};
use serde_json::{Value, json};

const HOUR: i64 = 3_600;
/// 2026-03-01T00:00:00Z
const MARCH: i64 = 1_772_323_200;

/// 3.60 an hour: a tenth of a cent a second.
fn contract(name: &str, effective: i64, prepaid: &Value) -> Value {
    json!({
        "contract": name, "effective": hydrometer_schemas::time::show_second(effective), "renter": "hooli", "currency": "USD",
        "prepaid": prepaid,
        "charges": {"gpu_hours": {"basis": "allocated", "price": "3.60"}},
        "suppliers": [{"supplier": "*", "share_percent": "80"}],
    })
}

fn grant(name: &str, amount: &str, more: Value) -> Value {
    let mut grant =
        json!({"renter": "hooli", "currency": "USD", "grant": name, "amount": amount, "source": "rail:card:clearing"});
    grant.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    grant
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_runs_dry_in_mid_run_is_topped_up_and_goes_on() {
    let mut system = System::new("prepaid_dry").await;
    system.signed(MARCH - 60, contract("c", MARCH - 60, &json!({"on_exhaustion": "suspend"})));
    system.says("gpu.wallet.granted", MARCH, grant("first", "10.00", json!({})));
    let end = MARCH + 4 * HOUR;
    system.leased("a", "sup", "c", MARCH, end);
    system.leased("b", "sup", "c", MARCH + HOUR, end);
    // Alone for an hour, which costs 3.60; the other 6.40 last 3,200 s for both.
    let (dry, topped_up, dry_again) = (6_800, 8_111, 10_611);
    system.says("gpu.wallet.granted", MARCH + topped_up, grant("second", "5.00", json!({})));
    // Both go on computing while they are cut off.
    system.busy("a", MARCH, end);
    system.busy("b", MARCH + HOUR, end);
    system.until(end + HOUR);
    system.run().await;

    let named = |names: [(i64, &str); 3]| names.map(|(second, name)| (second, name.to_owned())).to_vec();
    assert_eq!(
        system.transitions(MARCH).await,
        named([(dry, "exhausted"), (topped_up, "restored"), (dry_again, "exhausted")])
    );
    assert_eq!(system.amounts().await, amounts([("usage", "gpu_hours", cents(1_500), cents(1_200))]));
    for (account, balance) in [
        ("renter:hooli:wallet:USD", 0),
        ("renter:hooli:unbilled:USD", 0),
        ("renter:hooli:receivable:USD", 0),
        ("rail:card:clearing:USD", cents(1_500)),
        ("supplier:sup:payable:USD", -cents(1_200)),
        ("platform:commission:USD", -cents(300)),
    ] {
        assert_eq!(system.balance(account).await, balance, "{account}");
    }
    assert_sound(&system.deployment, "a wallet").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grace_is_owed_promises_are_burned_first_and_what_expires_is_income() {
    let mut system = System::new("prepaid_grace").await;
    system.signed(MARCH - 60, contract("c", MARCH - 60, &json!({"on_exhaustion": "grace", "grace_s": 600})));
    // A promise first, as it has the lower priority; it ends with 08:20 of it unused. Then money.
    let promise = json!({"kind": "promotional", "priority": -1, "expires": "2026-03-01T00:10:00Z"});
    system.says("gpu.wallet.granted", MARCH, grant("welcome", "1.00", promise));
    let expiring = json!({"expires": "2026-03-01T00:20:00Z"});
    system.says("gpu.wallet.granted", MARCH, grant("trial", "2.00", expiring));
    system.says("gpu.wallet.granted", MARCH, grant("paid", "1.50", json!({})));
    let end = MARCH + 2 * HOUR;
    system.leased("a", "sup", "c", MARCH, end);
    system.busy("a", MARCH, end);
    system.until(end + HOUR);
    system.run().await;

    // The promise pays 600 s, the trial 600 s, the rest 1,500 s; the grace of 600 s is owed.
    assert_eq!(system.transitions(MARCH).await, [(2_700, "exhausted".to_owned())]);
    assert_eq!(system.amounts().await, amounts([("usage", "gpu_hours", cents(330), cents(264))]));
    for (account, balance) in [
        ("renter:hooli:wallet:USD", 0),
        ("renter:hooli:unbilled:USD", 0),
        ("renter:hooli:receivable:USD", cents(60)),
        ("platform:promotions:USD", cents(60)),
        ("platform:expired_credit:USD", -cents(140)),
        ("rail:card:clearing:USD", cents(350)),
    ] {
        assert_eq!(system.balance(account).await, balance, "{account}");
    }
    assert_sound(&system.deployment, "a wallet").await;
}

/// What is told late is news when it comes, however much of the log is read at once.
#[tokio::test(flavor = "multi_thread")]
async fn late_news_moves_no_cut_wherever_the_log_is_cut() {
    for batch_records in [1, 3, 500] {
        let mut system = System::new(&format!("prepaid_late_{batch_records}")).await;
        system.batch_records = batch_records;
        system.signed(MARCH - 60, contract("c", MARCH - 60, &json!({"on_exhaustion": "suspend"})));
        system.says("gpu.wallet.granted", MARCH, grant("first", "1.00", json!({})));
        let end = MARCH + HOUR;
        system.leased("a", "sup", "c", MARCH, end);
        system.busy("a", MARCH, end);
        // An outage of 200 s is told when the wallet has long run dry: what it saved is there from then on.
        let told = MARCH + 1_500;
        system.lifecycle.push(passes(told));
        let outage = json!({"outage": "o", "server": "a", "fault": "supplier"});
        system.says_late("gpu.outage.opened", MARCH + 500, told, outage);
        system.says_late("gpu.outage.closed", MARCH + 700, told, json!({"outage": "o"}));
        system.until(end + HOUR);
        system.run().await;

        let expected = [(1_000, "exhausted"), (1_500, "restored"), (1_700, "exhausted")];
        let expected = expected.map(|(second, name)| (second, name.to_owned()));
        assert_eq!(system.transitions(MARCH).await, expected, "{batch_records} at once");
        assert_eq!(system.balance("renter:hooli:receivable:USD").await, 0);
        assert_eq!(system.balance("renter:hooli:wallet:USD").await, 0);
        assert_sound(&system.deployment, "late news").await;
    }
}
