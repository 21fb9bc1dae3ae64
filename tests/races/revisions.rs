//! Revisions against each other, against the live rating, and against the freezing of an hour.

use hydrometer_pipeline::worker::WorkerError;
use hydrometer_sinks::rated::RecordKind;

use crate::common::Deployment;
use crate::common::scripted::*;
use crate::common::sound::{assert_sound, rated_records};

/// A server in partition 0 whose first hour is rated by the minute and frozen, with a suspension from `START + 90` that came late and
/// is yet to be revised: the partition's worker has gone, so the request waits. Returns the lifecycle's worker and a hand.
async fn a_request_waits(name: &str, telemetry: i32) -> (Deployment, Actor, Hand) {
    let deployment = Deployment::new(name).await;
    let hand = Hand::new(&deployment).await;
    let mut lifecycle = Actor::start(&deployment, telemetry, &[at(LIFECYCLE, 0)]).await;
    let mut events = vec![contract("c", "minute")];
    for number in 0..telemetry {
        events.extend(leased_server(&format!("s{number}"), "c", START));
    }
    events.push(passes(START + 3 * HOUR));
    lifecycle.say(&at(LIFECYCLE, 0), &events);
    hand.until_lifecycle_time(START + 3 * HOUR).await;
    let mut first = Actor::start(&deployment, telemetry, &[at(TELEMETRY, 0)]).await;
    first.say(&at(TELEMETRY, 0), &minutely("s0", START, START + HOUR + 1));
    hand.until_frontier(0, START + HOUR).await;
    first.hang_up().await.unwrap();
    let late = event_at(START + 3 * HOUR, "late", "gpu.lease.suspended", START + 90, r#"{"lease":"lease-s0"}"#);
    lifecycle.say(&at(LIFECYCLE, 0), &[late]);
    hand.until_number("SELECT count(*) FROM hydrometer.request", 1).await;
    (deployment, lifecycle, hand)
}

/// Every reading up to the end of the logs is idle or suspended from here on.
const USED: i64 = 2;

async fn revisions_of_a_window(hand: &Hand) -> i64 {
    hand.number("SELECT count(*) FROM hydrometer.revision WHERE window_start_s = 1772359260").await
}

/// Two workers derive the same revision: the first one commits, and the second one, which has taken the partition over meanwhile,
/// finds nothing left to do.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_revisions_the_one_that_is_at_the_fence_first_wins() {
    let (deployment, lifecycle, hand) = a_request_waits("race_revision_first", 1).await;
    let looking = Hand::new(&deployment).await;
    hand.hold_rows("hydrometer.rating_state", "true").await;
    let mut old = Actor::start(&deployment, 1, &[at(TELEMETRY, 0)]).await;
    looking.until_waits(old.pid, &ROW).await;
    let new = tokio::spawn({
        let deployment = deployment.app_url.clone();
        async move {
            let mut db = hydrometer_pipeline::store::Database::connect(&deployment).await.unwrap();
            db.take_over(&[at(TELEMETRY, 0)], "new").await.unwrap();
        }
    });
    // The taker waits for the lease row of the commit that is in doubt.
    looking.until_number("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'", 2).await;
    hand.release().await;
    new.await.unwrap();
    // From what its open minute depends on.
    old.say(&at(TELEMETRY, 0), &minutely("s0", START + HOUR, START + HOUR + 241));
    assert!(matches!(old.joined().await, Err(WorkerError::Fenced { .. })), "the old owner is fenced");
    finishes(&deployment, lifecycle, &looking).await;
}

/// The other way round: the partition is taken over while a revision of its old owner waits at the fence. It is refused, and the new
/// owner derives it again.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_revisions_the_one_of_the_new_owner_wins_when_it_is_first() {
    let (deployment, lifecycle, hand) = a_request_waits("race_revision_taken", 1).await;
    let looking = Hand::new(&deployment).await;
    let old = Actor::start(&deployment, 1, &[at(TELEMETRY, 0)]).await;
    hand.hold_rows("hydrometer.partition_lease", &lease_row(TELEMETRY, 0)).await;
    let taking = {
        let url = deployment.app_url.clone();
        tokio::spawn(async move {
            let mut db = hydrometer_pipeline::store::Database::connect(&url).await.unwrap();
            db.take_over(&[at(TELEMETRY, 0)], "new").await.unwrap();
        })
    };
    looking.until_number("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'", 1).await;
    looking.until_waits(old.pid, &ROW).await;
    hand.release().await;
    taking.await.unwrap();
    assert!(matches!(old.joined().await, Err(WorkerError::Fenced { .. })), "what the old owner had derived is refused");
    assert_eq!(revisions_of_a_window(&looking).await, 0);
    finishes(&deployment, lifecycle, &looking).await;
}

/// Whoever comes last ends the logs; the window was revised once and the sums are right.
async fn finishes(deployment: &Deployment, lifecycle: Actor, hand: &Hand) {
    lifecycle.end().await.unwrap();
    Actor::start(deployment, 1, &[at(TELEMETRY, 0)]).await.end().await.unwrap();
    assert_eq!(revisions_of_a_window(hand).await, 1, "the window was revised once");
    assert_eq!(seconds_of(deployment, "s0").await, (4 * HOUR, USED, 4 * HOUR - 90));
    assert_sound(deployment, "after both").await;
}

/// "A unique row (lease, window, revision) lets one of two racing derivations win and makes the other derive again." The fence keeps two
/// owners apart; the row is what remains should a window ever be revised under two fences. Here a hand of the test's is the other.
#[tokio::test(flavor = "multi_thread")]
async fn the_row_of_a_revision_makes_the_other_derive_again() {
    let (deployment, lifecycle, hand) = a_request_waits("race_revision_row", 1).await;
    let looking = Hand::new(&deployment).await;
    let row = "INSERT INTO hydrometer.revision (lease, server, window_start_s, window_end_s, revision, commit_id) \
               VALUES ('lease-s0', 's0', 1772359260, 1772359320, 1, gen_random_uuid())";
    hand.execute(&format!("BEGIN; {row}")).await;
    let old = Actor::start(&deployment, 1, &[at(TELEMETRY, 0)]).await;
    looking.until_waits(old.pid, &ROW).await;
    // It waits for the outcome of the other with its own lease row locked; the next attempt is to wait at the fence.
    let fence = Hand::new(&deployment).await;
    let pid = fence.pid().await;
    let fence = tokio::spawn(async move {
        fence.hold_rows("hydrometer.partition_lease", &lease_row(TELEMETRY, 0)).await;
        fence
    });
    looking.until_waits(pid, &ROW).await;
    hand.release().await;
    let fence = fence.await.unwrap();
    looking.until_waits(old.pid, &ROW).await;
    assert_eq!(
        looking.number("SELECT count(*) FROM hydrometer.commit WHERE kind = 'revision'").await,
        0,
        "rolled back"
    );
    // The other's revision is taken back (it has no records, so nothing would ever follow it), and the worker's goes through.
    looking.execute("DELETE FROM hydrometer.revision").await;
    fence.release().await;
    looking.until_number("SELECT count(*) FROM hydrometer.commit WHERE kind = 'revision'", 1).await;
    lifecycle.end().await.unwrap();
    old.end().await.unwrap();
    assert_eq!(revisions_of_a_window(&looking).await, 1);
    assert_eq!(seconds_of(&deployment, "s0").await, (4 * HOUR, USED, 4 * HOUR - 90));
    assert_sound(&deployment, "after the row").await;
}

/// A revision and the live rating of another partition want the same rating state, in both orders; and a request never runs ahead of
/// its own partition's frontier.
#[tokio::test(flavor = "multi_thread")]
async fn a_revision_and_the_live_rating_of_one_contract_add_up_in_either_order() {
    for revision_first in [true, false] {
        let (deployment, lifecycle, hand) = a_request_waits(&format!("race_state_{revision_first}"), 2).await;
        let looking = Hand::new(&deployment).await;
        let mut live = Actor::start(&deployment, 2, &[at(TELEMETRY, 1)]).await;
        hand.hold_rows("hydrometer.rating_state", "true").await;
        let more = minutely("s1", START, START + 121);
        let revising = if revision_first {
            let revising = Actor::start(&deployment, 2, &[at(TELEMETRY, 0)]).await;
            looking.until_waits(revising.pid, &ROW).await;
            live.say(&at(TELEMETRY, 1), &more);
            looking.until_waits(live.pid, &ROW).await;
            revising
        } else {
            live.say(&at(TELEMETRY, 1), &more);
            looking.until_waits(live.pid, &ROW).await;
            let revising = Actor::start(&deployment, 2, &[at(TELEMETRY, 0)]).await;
            looking.until_waits(revising.pid, &ROW).await;
            revising
        };
        hand.release().await;
        looking.until_frontier(1, START + 120).await;
        looking.until_number("SELECT count(*) FROM hydrometer.commit WHERE kind = 'revision'", 1).await;
        lifecycle.end().await.unwrap();
        let (revising, live) = tokio::join!(revising.end(), live.end());
        revising.unwrap();
        live.unwrap();
        assert_eq!(seconds_of(&deployment, "s0").await, (4 * HOUR, USED, 4 * HOUR - 90));
        assert_eq!(seconds_of(&deployment, "s1").await, (4 * HOUR, 3, 0));
        assert_sound(&deployment, "after both").await;
    }
}

/// A late reading against the hour's freeze. There is no closing of a period yet, of which a late revision would have to ask for a
/// closing revision; what stands for it is the frozen list of an hour's file: what comes before the freeze is in the file, what comes
/// after it is in a file of a revision, and what is in the commit that freezes is in exactly one of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_reading_is_in_the_hours_file_or_in_a_revisions_never_in_both() {
    for (name, when) in [("before", 0), ("with", 1), ("after", 2)] {
        let deployment = Deployment::new(&format!("race_freeze_{name}")).await;
        let hand = Hand::new(&deployment).await;
        let mut lifecycle = Actor::start(&deployment, 1, &[at(LIFECYCLE, 0)]).await;
        let mut events = vec![contract("c", "minute")];
        events.extend(leased_server("s", "c", START));
        events.push(passes(START + 3 * HOUR));
        lifecycle.say(&at(LIFECYCLE, 0), &events);
        hand.until_lifecycle_time(START + 3 * HOUR).await;
        let mut telemetry = Actor::start(&deployment, 1, &[at(TELEMETRY, 0)]).await;
        telemetry.say(&at(TELEMETRY, 0), &minutely("s", START, START + HOUR));
        hand.until_frontier(0, START + HOUR - 60).await;

        let late = (START + HOUR + 1, reading("s", START + 30));
        let closing = (START + HOUR + 2, reading("s", START + HOUR + 2));
        match when {
            0 => {
                telemetry.say(&at(TELEMETRY, 0), std::slice::from_ref(&late));
                hand.until_number("SELECT count(*) FROM hydrometer.object WHERE kind = 'late'", 1).await;
                telemetry.say(&at(TELEMETRY, 0), &[closing]);
            }
            1 => telemetry.say(&at(TELEMETRY, 0), &[late, closing]),
            _ => {
                telemetry.say(&at(TELEMETRY, 0), &[closing]);
                hand.until_frontier(0, START + HOUR).await;
                telemetry.say(&at(TELEMETRY, 0), &[late]);
            }
        }
        hand.until_frontier(0, START + HOUR).await;
        lifecycle.end().await.unwrap();
        telemetry.end().await.unwrap();

        let files =
            format!("SELECT name FROM hydrometer.file WHERE tbl = 'usage' AND hour_s = {START} ORDER BY revision");
        assert_eq!(hand.texts(&files).await.len(), if when == 2 { 2 } else { 1 }, "{name}");
        assert_eq!(seconds_of(&deployment, "s").await, (4 * HOUR, 62, 0), "{name}");
        let corrected = rated_records(&deployment).await.iter().any(|row| row.kind == RecordKind::Correction);
        assert!(corrected, "{name}: its minute was rated without it, whichever file it is in");
        assert_sound(&deployment, name).await;
    }
}
