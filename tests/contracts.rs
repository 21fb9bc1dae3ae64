//! Contracts of every kind through the whole of it: logs in, closings, amendments and late readings behind them, amounts worked out
//! by hand. Each test ends with every law proven on what it left behind.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod common;

use common::sound::{assert_sound, rated_records};
use common::system::{Amounts, System, amounts, cents};
use serde_json::{Value, json};

const HOUR: i64 = 3_600;
/// 2026-03-01T00:00:00Z
const MARCH: i64 = 1_772_323_200;
/// 2026-04-01T00:00:00Z
const APRIL: i64 = 1_775_001_600;

/// A ladder that two suppliers climb together, a fee, a minimum for one of them and money held back: what is live, what falls due
/// when March is closed, and what turns out behind the closing.
#[tokio::test(flavor = "multi_thread")]
async fn a_month_is_closed_and_what_comes_later_is_booked_in_the_next() {
    let mut system = System::new("contracts_month").await;
    let start = APRIL - 4 * HOUR;
    system.signed(
        MARCH,
        json!({
            "contract": "c", "effective": "2026-03-01T00:00:00Z", "renter": "r", "currency": "USD",
            "charges": {
                "gpu_hours": { "basis": "allocated", "graduated": [{ "up_to": "4", "price": "3.00" }, { "price": "2.00" }] },
                "support": { "basis": "recurring", "price": "100", "per": "contract" },
            },
            "suppliers": [
                { "supplier": "a", "share_percent": "80", "holdback_percent": "10", "holdback_days": 30, "minimum_guarantee": "20" },
                { "supplier": "b", "share_percent": "50" },
            ],
        }),
    );
    system.leased("sa", "a", "c", start, APRIL + HOUR);
    system.leased("sb", "b", "c", start, APRIL);
    system.busy("sa", start, APRIL + HOUR);
    system.busy("sb", start, APRIL);
    system.until(APRIL + 2 * HOUR);
    system.run().await;

    // March: 8 hours, 4 at 3.00 and 4 at 2.00 = 20.00, half of it through each supplier; a: 8.00, b: 5.00. April: an hour at 3.00.
    let live = ("usage", "gpu_hours", cents(2_300), cents(800 + 500 + 240));
    assert_eq!(system.amounts().await, amounts([live]));
    assert_eq!(system.balance("supplier:a:holdback:USD").await, -cents(80 + 24));
    assert_eq!(system.balance("supplier:a:payable:USD").await, -cents(720 + 216));

    let (early, said) = system.hydrometer(&["period", "close", "c", "--at", "2026-04-15"]);
    assert!(early == Some(1) && said.contains("earlier billing periods") && said.contains("not rated"), "{said}");
    let (check, said) = system.hydrometer(&["period", "check", "c", "--at", "2026-03-15"]);
    assert_eq!(check, Some(0), "{said}");
    let (close, said) = system.hydrometer(&["period", "close", "c", "--at", "2026-03-15", "--who", "auditor"]);
    assert_eq!(close, Some(0), "{said}");
    let closed = amounts([live, ("fee", "support", cents(10_000), 0), ("guarantee", "", 0, cents(1_200))]);
    assert_eq!(system.amounts().await, closed, "{said}");
    assert_sound(&system.deployment, "closed").await;
    let (again, said) = system.hydrometer(&["period", "close", "c", "--at", "2026-03-15"]);
    assert!(again == Some(0) && said.contains("closed before"), "{said}");
    assert_eq!(system.amounts().await, closed, "closing twice changes nothing");

    // An outage in the last hour by supplier b's fault turns out in April: an hour less, on the ladder's second step.
    let logged = APRIL + 3 * HOUR;
    let opened = json!({ "outage": "o", "server": "sb", "fault": "supplier" });
    system.says_late("gpu.outage.opened", APRIL - HOUR, logged, opened);
    system.says_late("gpu.outage.closed", APRIL, logged, json!({ "outage": "o" }));
    system.until(APRIL + 4 * HOUR);
    system.run().await;

    // 7 hours: 4 at 3.00 and 3 at 2.00 = 18.00; a has 4/7 and b 3/7 of it; a's guarantee makes up for what it lacks of 20.00.
    let (of_a, of_b) = (8_228_571_429, 3_857_142_857);
    let usage = ("usage", "gpu_hours", cents(1_800 + 300), of_a + of_b + cents(240));
    let fee = ("fee", "support", cents(10_000), 0);
    assert_eq!(system.amounts().await, amounts([usage, fee, ("guarantee", "", 0, cents(2_000) - of_a)]));
    let corrections: Vec<i64> = rated_records(&system.deployment)
        .await
        .into_iter()
        .filter(|row| row.kind.name() == "correction")
        .inspect(|row| assert_eq!(row.period, MARCH, "its own period is kept"))
        .map(|row| row.booked)
        .collect();
    assert!(!corrections.is_empty() && corrections.iter().all(|start| *start == APRIL), "booked in {corrections:?}");
    assert_sound(&system.deployment, "an outage behind a closing").await;
}

/// Two GPU-hours are committed in every hour, used or not; what is beyond them costs more. Hours close by themselves, and again when
/// an hour turns out otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn hours_of_a_commitment_close_by_themselves() {
    let mut system = System::new("contracts_hourly").await;
    let start = MARCH + 10 * HOUR;
    system.signed(
        start,
        json!({
            "contract": "c", "effective": "2026-03-01T10:00:00Z", "renter": "r", "currency": "USD",
            "charges": { "gpu_hours": {
                "basis": "allocated", "price": "1.00",
                "commitment": { "quantity": "2", "per": "hour", "overage_price": "3.00" },
            } },
            "suppliers": [{ "supplier": "*", "share_percent": "50" }],
        }),
    );
    system.leased("s1", "a", "c", start, start + 3 * HOUR);
    system.leased("s2", "a", "c", start + HOUR, start + 2 * HOUR);
    system.leased("s3", "a", "c", start + HOUR, start + 2 * HOUR);
    system.says("gpu.contract.terminated", start + 4 * HOUR, json!({ "contract": "c" }));
    system.busy("s1", start, start + 3 * HOUR);
    system.until(start + 6 * HOUR);
    system.run().await;

    // Used: 1, 3, 1, 0 hours. Live: 1 + (2 + 3) + 1 = 7.00. Not used: 1 + 0 + 1 + 2 = 4.00, and no supplier has a part in it.
    let usage = ("usage", "gpu_hours", cents(700), cents(350));
    assert_eq!(system.amounts().await, amounts([usage, ("true_up", "gpu_hours", cents(400), 0)]));
    assert_sound(&system.deployment, "hours closed").await;

    // Two of the three were down in the second hour: 1 used, so 1 is made up for instead of 1 beyond.
    for (n, server) in ["s2", "s3"].into_iter().enumerate() {
        let opened = json!({ "outage": format!("o{n}"), "server": server });
        system.says_late("gpu.outage.opened", start + HOUR, start + 7 * HOUR, opened);
        system.says_late("gpu.outage.closed", start + 2 * HOUR, start + 7 * HOUR, json!({ "outage": format!("o{n}") }));
    }
    system.until(start + 8 * HOUR);
    system.run().await;
    let usage = ("usage", "gpu_hours", cents(300), cents(150));
    assert_eq!(system.amounts().await, amounts([usage, ("true_up", "gpu_hours", cents(500), 0)]));
    assert_sound(&system.deployment, "an hour closed again").await;
}

/// An amendment for time that is rated already: it is shown first, refused without a yes, and then revised like everything else.
#[tokio::test(flavor = "multi_thread")]
async fn an_amendment_of_the_past_is_shown_first() {
    let mut system = System::new("contracts_apply").await;
    let start = MARCH + 10 * HOUR;
    let document = |effective: &str, price: &str, renter: &str| {
        json!({
            "contract": "c", "effective": effective, "renter": renter, "currency": "USD",
            "charges": { "gpu_hours": { "basis": "allocated", "price": price } },
            "suppliers": [{ "supplier": "*", "share_percent": "50" }],
        })
    };
    let file = |system: &System, name: &str, document: &Value| {
        let path = system.deployment.path(name);
        std::fs::write(&path, document.to_string()).unwrap();
        path.display().to_string()
    };
    let first = file(&system, "first.json", &document("2026-03-01T00:00:00Z", "2.00", "r"));
    let (applied, said) = system.hydrometer(&["contract", "apply", &first]);
    assert_eq!(applied, Some(0), "{said}");
    system.leased("s", "a", "c", start, start + 4 * HOUR);
    system.busy("s", start, start + 4 * HOUR);
    system.until(start + 5 * HOUR);
    system.run().await;
    assert_eq!(system.amounts().await, amounts([("usage", "gpu_hours", cents(800), cents(400))]));

    let half_past = "2026-03-01T12:30:00Z";
    let other_renter = file(&system, "other.json", &document(half_past, "3.00", "somebody"));
    let (refused, said) = system.hydrometer(&["contract", "apply", &other_renter]);
    assert!(refused == Some(1) && said.contains("contradicts") && said.contains("Nothing was changed"), "{said}");
    let wrong = file(&system, "wrong.json", &document(half_past, "-3.00", "r"));
    let (refused, said) = system.hydrometer(&["contract", "apply", &wrong]);
    assert!(refused == Some(1) && said.contains("charges.gpu_hours.price"), "{said}");

    let dearer = file(&system, "dearer.json", &document(half_past, "3.00", "r"));
    let (asked, said) = system.hydrometer(&["contract", "apply", &dearer]);
    assert!(asked == Some(1) && said.contains("--yes"), "{said}");
    for part in ["8.000000000", "9.500000000", "1.500000000", "4.750000000"] {
        assert!(said.contains(part), "{part} in\n{said}");
    }
    let (applied, said) =
        system.hydrometer(&["contract", "apply", &dearer, "--yes", "--why", "as agreed in March", "--who", "engineer"]);
    assert_eq!(applied, Some(0), "{said}");
    system.until(start + 6 * HOUR);
    system.run().await;
    assert_eq!(system.amounts().await, amounts([("usage", "gpu_hours", cents(950), cents(475))]));
    assert_sound(&system.deployment, "an amendment of the past").await;

    let (shown, said) = system.hydrometer(&["contract", "show", "--applied", "c", "--at", "2026-03-01T12:30:00Z"]);
    assert!(shown == Some(0) && said.contains("3.00"), "{said}");
    let (shown, said) = system.hydrometer(&["contract", "show", "--applied", "c", "--at", "2026-03-01T12:29:59Z"]);
    assert!(shown == Some(0) && said.contains("2.00"), "{said}");
    let why = "SELECT who || ': ' || why FROM hydrometer.command WHERE who = 'engineer'";
    let row = system.deployment.database().await.client_ref().query_one(why, &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "engineer: as agreed in March");
}

/// Every class of seconds and every basis that is metered, in one lease of two hours.
#[tokio::test(flavor = "multi_thread")]
async fn every_second_has_its_class_and_every_basis_its_count() {
    let mut system = System::new("contracts_bases").await;
    let start = MARCH + 10 * HOUR;
    let minute = |n: i64| start + 60 * n;
    system.signed(
        MARCH,
        json!({
            "contract": "c", "effective": "2026-03-01T00:00:00Z", "renter": "r", "currency": "USD",
            "charges": {
                "allocated": { "basis": "allocated", "price": "3.60" },
                "busy": { "basis": "busy", "price": "36.00" },
                "memory": { "basis": "memory", "price": "0.50" },
                "observed": { "basis": "observed", "price": "3.60" },
                "power": { "basis": "energy", "price": "0.36" },
                "retention": { "basis": "suspended", "price": "0.36" },
            },
            "maintenance": { "announced": "free" },
            "suppliers": [{ "supplier": "*", "share_percent": "50" }],
        }),
    );
    system.leased("s", "a", "c", start, minute(120));
    let announced =
        json!({ "maintenance": "m", "server": "s", "from": "2026-03-01T11:00:00Z", "to": "2026-03-01T11:10:00Z" });
    system.says("gpu.maintenance.announced", start - 30, announced);
    system.says("gpu.gpu.recovered", minute(80), json!({ "server": "s", "gpu": "gpu-s" }));
    system.says("gpu.lease.suspended", minute(80), json!({ "lease": "lease-s" }));
    system.says("gpu.lease.resumed", minute(90), json!({ "lease": "lease-s" }));
    system.says("gpu.server.unreachable", minute(105), json!({ "server": "s" }));
    system.says("gpu.server.reachable", minute(110), json!({ "server": "s" }));
    // Half an hour busy, then idle; the XID is said again every minute until the GPU has recovered. Silence from 11:30 on.
    for n in 0..90 {
        let reading = json!({
            "gpu": "gpu-s", "server": "s", "time": minute(n) * 1_000_000, "util": if n < 30 { 0.5 } else { 0.0 },
            "energy_j": 1_000_000 + 6_000 * n, "mem_bytes": 1_073_741_824, "xid": if (70..80).contains(&n) { 79 } else { 0 },
        });
        system.telemetry.push((minute(n), reading.to_string().into_bytes()));
    }
    system.until(minute(240));
    system.run().await;

    let mut seconds = [0; 6];
    for row in rated_records(&system.deployment).await {
        let c = row.quantity.classes;
        for (sum, part) in seconds.iter_mut().zip([c.used, c.idle, c.unknown, c.down, c.maintenance, c.suspended]) {
            *sum += part;
        }
    }
    assert_eq!(
        seconds,
        [1_800, 1_800, 900 + 600, 600 + 300, 600, 600],
        "used, idle, unknown, down, maintenance, suspended"
    );
    let half = |nanos: i128| (nanos, nanos / 2);
    let expected: Amounts = [
        ("allocated", half(cents(510))), // 1,800 + 1,800 + 1,500 s at 0.001
        ("busy", half(cents(1_800))),    // 1,800 s at 0.01
        ("memory", half(cents(50))),     // 1 GiB for the 3,600 s that were billable and had readings
        ("observed", half(cents(360))),  // these 3,600 s at 0.001
        ("power", half(53_400_000)),     // 89 x 6,000 J = 0.148333… kWh
        ("retention", half(cents(6))),   // 600 s at 0.0001
    ]
    .into_iter()
    .map(|(charge, sides)| (("usage".to_owned(), charge.to_owned()), sides))
    .collect();
    assert_eq!(system.amounts().await, expected);
    assert_sound(&system.deployment, "every class and basis").await;
}
