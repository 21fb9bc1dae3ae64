//! Lifecycle events against the rating of the windows that they govern.

use crate::common::Deployment;
use crate::common::scripted::*;
use crate::common::sound::{assert_sound, rated_records};
use hydrometer_sinks::rated::RecordKind;

/// A leased server whose first minute is rated: the lifecycle's worker, the telemetry's worker, and a hand.
async fn one_minute_rated(name: &str) -> (Deployment, Actor, Actor, Hand) {
    let deployment = Deployment::new(name).await;
    let hand = Hand::new(&deployment).await;
    let mut lifecycle = Actor::start(&deployment, 1, &[at(LIFECYCLE, 0)]).await;
    let mut events = vec![contract("c", "minute")];
    events.extend(leased_server("s", "c", START));
    events.push(passes(START + HOUR));
    lifecycle.say(&at(LIFECYCLE, 0), &events);
    hand.until_lifecycle_time(START + HOUR).await;
    let mut telemetry = Actor::start(&deployment, 1, &[at(TELEMETRY, 0)]).await;
    telemetry.say(&at(TELEMETRY, 0), &readings("s", START, START + 61));
    hand.until_frontier(0, START + 60).await;
    (deployment, lifecycle, telemetry, hand)
}

fn suspended(time: i64) -> (i64, Vec<u8>) {
    event_at(START + HOUR + 1, "suspend", "gpu.lease.suspended", time, r#"{"lease":"lease-s"}"#)
}

fn resumed(time: i64) -> (i64, Vec<u8>) {
    event_at(START + HOUR + 2, "resume", "gpu.lease.resumed", time, r#"{"lease":"lease-s"}"#)
}

/// Ends both logs and holds the records against what is true: (used, suspended) of the leased seconds.
async fn ends_in(deployment: &Deployment, lifecycle: Actor, telemetry: Actor, used: i64, suspended: i64) -> usize {
    lifecycle.end().await.unwrap();
    telemetry.end().await.unwrap();
    assert_eq!(seconds_of(deployment, "s").await, (4 * HOUR, used, suspended));
    assert_sound(deployment, "after the race").await;
    rated_records(deployment).await.iter().filter(|row| row.kind == RecordKind::Correction).count()
}

/// "Reads the rating frontiers in a later statement": the window was rated before the event came, so the event asks for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_rating_that_waited_first_goes_first_and_the_event_asks_for_a_revision() {
    let (deployment, mut lifecycle, mut telemetry, hand) = one_minute_rated("race_rating_first").await;
    hand.hold_timeline().await;
    telemetry.say(&at(TELEMETRY, 0), &readings("s", START + 61, START + 121));
    hand.until_waits(telemetry.pid, &TIMELINE).await;
    lifecycle.say(&at(LIFECYCLE, 0), &[suspended(START + 90)]);
    hand.until_waits(lifecycle.pid, &TIMELINE).await;
    hand.release().await;

    hand.until_number("SELECT count(*) FROM hydrometer.event WHERE id = 'suspend'", 1).await;
    hand.until_frontier(0, START + 120).await;
    assert_eq!(hand.requests().await, ["lifecycle event behind the frontier"]);
    let corrections = ends_in(&deployment, lifecycle, telemetry, 90, 4 * HOUR - 90).await;
    assert!(corrections > 0, "the window that was rated without the event is corrected");
}

/// "When events came in since the derivation: roll back and derive again": the window is rated live with the event.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_waited_first_goes_first_and_the_window_is_derived_again() {
    let (deployment, mut lifecycle, mut telemetry, hand) = one_minute_rated("race_event_first").await;
    hand.hold_timeline().await;
    lifecycle.say(&at(LIFECYCLE, 0), &[suspended(START + 90)]);
    hand.until_waits(lifecycle.pid, &TIMELINE).await;
    telemetry.say(&at(TELEMETRY, 0), &readings("s", START + 61, START + 121));
    hand.until_waits(telemetry.pid, &TIMELINE).await;
    hand.release().await;

    hand.until_frontier(0, START + 120).await;
    assert_eq!(hand.requests().await, [""; 0], "nothing was rated that must be looked at again");
    let corrections = ends_in(&deployment, lifecycle, telemetry, 90, 4 * HOUR - 90).await;
    assert_eq!(corrections, 0, "it was rated once, and right");
}

/// "The second time commit and leave requests for those windows."
#[tokio::test(flavor = "multi_thread")]
async fn a_second_event_does_not_hold_the_rating_up_but_leaves_a_request() {
    let (deployment, mut lifecycle, mut telemetry, hand) = one_minute_rated("race_second_event").await;
    hand.hold_timeline().await;
    lifecycle.say(&at(LIFECYCLE, 0), &[suspended(START + 90)]);
    hand.until_waits(lifecycle.pid, &TIMELINE).await;
    telemetry.say(&at(TELEMETRY, 0), &readings("s", START + 61, START + 121));
    hand.until_waits(telemetry.pid, &TIMELINE).await;
    // When the first attempt rolls back, its lease row comes to us, so the second one waits at the fence.
    let fence = Hand::new(&deployment).await;
    let fence_pid = fence.pid().await;
    let fence = tokio::spawn(async move {
        fence.hold_rows("hydrometer.partition_lease", &lease_row(TELEMETRY, 0)).await;
        fence
    });
    hand.until_waits(fence_pid, &ROW).await;
    let looking = Hand::new(&deployment).await;
    hand.release().await;
    let fence = fence.await.unwrap();
    looking.until_waits(telemetry.pid, &ROW).await;
    lifecycle.say(&at(LIFECYCLE, 0), &[resumed(START + 100)]);
    looking.until_number("SELECT count(*) FROM hydrometer.event WHERE id IN ('suspend', 'resume')", 2).await;
    fence.release().await;

    looking.until_frontier(0, START + 120).await;
    assert_eq!(looking.requests().await, ["lifecycle event during a commit"]);
    let corrections = ends_in(&deployment, lifecycle, telemetry, 111, 10).await;
    assert!(corrections > 0, "what was rated without the second event is corrected");
}

/// Neither side starves: a round derives at most twice, however many events come in, and events are committed all the while.
#[tokio::test(flavor = "multi_thread")]
async fn steady_events_on_the_contract_that_is_rated_starve_nobody() {
    const MINUTES: i64 = 12;
    let (deployment, mut lifecycle, mut telemetry, hand) = one_minute_rated("race_steady").await;
    let rated_until = START + 60 * MINUTES;
    let feeding = async {
        for minute in 1..MINUTES {
            let from = START + 60 * minute + 1;
            telemetry.say(&at(TELEMETRY, 0), &readings("s", from, from + 60));
            let looking = Hand::new(&deployment).await;
            looking.until_frontier(0, START + 60 * (minute + 1)).await;
        }
    };
    let mut sent = 0;
    let talking = async {
        // Each changes the price of every window to come, and the next one follows as soon as it is committed.
        let looking = Hand::new(&deployment).await;
        loop {
            sent += 1;
            let data = format!(r#"{{"contract":"c","charge":"gpu_hours","price":"{}"}}"#, 3_600 + 3_600 * (sent % 2));
            let time = START + 60 + (sent * 7) % (60 * MINUTES);
            let change = event_at(START + HOUR + sent, &format!("price-{sent}"), "gpu.price.changed", time, &data);
            lifecycle.say(&at(LIFECYCLE, 0), &[change]);
            let recorded = format!("SELECT count(*) FROM hydrometer.event WHERE id = 'price-{sent}'");
            looking.until_number(&recorded, 1).await;
        }
    };
    tokio::select! {
        () = feeding => {}
        () = talking => unreachable!("events never end"),
    }
    assert_eq!(
        hand.number("SELECT frontier_s FROM hydrometer.partition_lease WHERE role = 'telemetry'").await,
        rated_until
    );
    assert!(sent >= 10, "events went on to be committed while {MINUTES} minutes were rated: {sent}");
    // Nothing is swept before 15 s have passed, so staging still tells how often was derived.
    let staged = deployment.warehouse().list("staging").await.unwrap();
    let attempts: std::collections::BTreeSet<&str> = staged.iter().filter_map(|name| name.split('/').nth(1)).collect();
    let commits = hand.number("SELECT count(*) FROM hydrometer.commit WHERE kind = 'live'").await;
    assert!(attempts.len() as i64 <= 2 * commits, "{} attempts for {commits} commits", attempts.len());
    ends_in(&deployment, lifecycle, telemetry, 60 * MINUTES + 1, 0).await;
}
