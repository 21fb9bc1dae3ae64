//! Homes that move, and readings away from home, against what is being committed.

use std::collections::BTreeMap;

use crate::common::Deployment;
use crate::common::scripted::*;
use crate::common::sound::{assert_sound, rated_records};
use hydrometer_sinks::rated::RecordKind;

const P0: i32 = 0;
const P1: i32 = 1;

/// Two partitions with a worker each: `s` and `q` live in partition 0, `r` in partition 1; a third worker for the lifecycle.
async fn two_partitions(name: &str) -> (Deployment, Hand, Actor, Actor, Actor) {
    let deployment = Deployment::new(name).await;
    let hand = Hand::new(&deployment).await;
    let mut lifecycle = Actor::start(&deployment, 2, &[at(LIFECYCLE, 0)]).await;
    let mut events = vec![contract("c", "minute")];
    for server in ["s", "q", "r"] {
        events.extend(leased_server(server, "c", START));
    }
    events.push(passes(START + 3 * HOUR + 120));
    lifecycle.say(&at(LIFECYCLE, 0), &events);
    hand.until_lifecycle_time(START + 3 * HOUR + 120).await;
    let zero = Actor::start(&deployment, 2, &[at(TELEMETRY, P0)]).await;
    let one = Actor::start(&deployment, 2, &[at(TELEMETRY, P1)]).await;
    (deployment, hand, lifecycle, zero, one)
}

/// Readings of several servers, a reading a minute each, in the order of time.
fn together(servers: &[&str], from: i64, to: i64) -> Vec<(i64, Vec<u8>)> {
    let mut said: Vec<_> = servers.iter().flat_map(|server| minutely(server, from, to)).collect();
    said.sort_by_key(|(second, _)| *second);
    said
}

const MOVED: &str = "SELECT count(*) FROM hydrometer.home WHERE server = 's' AND claimed_by = 'move'";

/// A server moves while the owner of its new home has a derivation in flight: one that was made before the move and is committed before it
/// (the move waits, and its edge is ahead of it), or one that comes after it (the fence refuses it, and it is derived again).
#[tokio::test(flavor = "multi_thread")]
async fn a_home_moves_while_a_derivation_is_in_flight() {
    for move_first in [false, true] {
        let (deployment, hand, lifecycle, mut zero, mut one) = two_partitions(&format!("race_move_{move_first}")).await;
        let looking = Hand::new(&deployment).await;
        // `s` speaks at home for ten minutes, then in partition 1 only.
        zero.say(&at(TELEMETRY, P0), &together(&["s", "q"], START, START + 600));
        zero.say(&at(TELEMETRY, P0), &together(&["q"], START + 600, START + 4_100));
        one.say(&at(TELEMETRY, P1), &together(&["r"], START, START + 600));
        looking.until_frontier(P0, START + 4_020).await;
        one.say(&at(TELEMETRY, P1), &together(&["s", "r"], START + 600, START + 4_100));
        looking.until_frontier(P1, START + 4_020).await;
        assert_eq!(looking.number(MOVED).await, 0, "it is not an hour yet");

        // What partition 1's worker derives next takes it past the edge of the move.
        let in_flight = together(&["s", "r"], START + 4_140, START + 2 * HOUR + 300);
        let silent_for_an_hour = together(&["q"], START + 4_140, START + 4_321);
        if move_first {
            hand.hold_rows("hydrometer.partition_lease", &lease_row(TELEMETRY, P1)).await;
            zero.say(&at(TELEMETRY, P0), &silent_for_an_hour);
            looking.until_waits(zero.pid, &ROW).await;
            one.say(&at(TELEMETRY, P1), &in_flight);
            looking.until_waits(one.pid, &ROW).await;
        } else {
            hand.hold_timeline().await;
            one.say(&at(TELEMETRY, P1), &in_flight);
            looking.until_waits(one.pid, &TIMELINE).await;
            // Partition 0 needs the timeline lock for its own commit first, and moves the home right after it: partition 1 is through
            // with its commit by then, or has its row locked.
            zero.say(&at(TELEMETRY, P0), &silent_for_an_hour);
            looking.until_waits(zero.pid, &TIMELINE).await;
        }
        hand.release().await;
        looking.until_number(MOVED, 1).await;
        looking.until_frontier(P1, START + 2 * HOUR + 240).await;
        let since = looking.number("SELECT since_s FROM hydrometer.home WHERE claimed_by = 'move'").await;
        assert_eq!(since, START + if move_first { 2 * HOUR } else { 3 * HOUR }, "the first edge ahead of both");
        let again = looking.number(
            "SELECT (SELECT homes FROM hydrometer.partition_lease WHERE topic = 'gpu.telemetry' AND partition = 0) + \
                    (SELECT homes FROM hydrometer.partition_lease WHERE topic = 'gpu.telemetry' AND partition = 1)",
        );
        assert_eq!(again.await, 2, "both have a new version of their homes");

        let end = START + 3 * HOUR + 121;
        zero.say(&at(TELEMETRY, P0), &together(&["q"], START + 4_380, end));
        one.say(&at(TELEMETRY, P1), &together(&["s", "r"], START + 2 * HOUR + 300, end));
        lifecycle.end().await.unwrap();
        let (zero, one) = tokio::join!(zero.end(), one.end());
        zero.unwrap();
        one.unwrap();
        let minutes = (3 * HOUR + 120) / 60 + 1;
        assert_eq!(seconds_of(&deployment, "r").await, (4 * HOUR, minutes, 0));
        assert_eq!(seconds_of(&deployment, "q").await.0, 4 * HOUR);
        // 4,080 s was said once in either partition; 4,100 is no minute's start.
        assert_eq!(seconds_of(&deployment, "s").await, (4 * HOUR, minutes, 0));
        for row in rated_records(&deployment).await.iter().filter(|row| row.server.as_deref() == Some("s")) {
            let new = row.window.from >= since;
            assert_eq!(row.partition, i32::from(new), "{row:?}");
            assert!(!new || row.kind == RecordKind::Usage, "what its new home rates needs no correction: {row:?}");
        }
        assert_sound(&deployment, "after the move").await;
    }
}

/// Whoever had the old home before and wakes up late moves nothing, and nobody moves a server that lives elsewhere by now.
#[tokio::test(flavor = "multi_thread")]
async fn only_the_owner_of_a_home_moves_away_from_it() {
    let (deployment, hand, lifecycle, mut zero, one) = two_partitions("race_move_zombie").await;
    zero.say(&at(TELEMETRY, P0), &together(&["s", "q"], START, START + 121));
    hand.until_frontier(P0, START + 120).await;
    let mut db = deployment.database().await;
    let to = |partition| BTreeMap::from([("s".to_owned(), at(TELEMETRY, partition))]);
    let lease_of = async |db: &hydrometer_pipeline::store::Database, partition: i32| {
        let leases = db.leases().await.unwrap();
        leases.into_iter().map(|(lease, _)| lease).find(|lease| lease.partition == at(TELEMETRY, partition)).unwrap()
    };
    let stale = lease_of(&db, P0).await;
    zero.hang_up().await.unwrap();
    let mut zero = Actor::start(&deployment, 2, &[at(TELEMETRY, P0)]).await;
    // What its open minute depends on is read again.
    zero.say(&at(TELEMETRY, P0), &together(&["s", "q"], START + 120, START + 121));
    assert_eq!(db.move_homes(&stale, &to(P1)).await.unwrap(), BTreeMap::new(), "its epoch is over");

    let elsewhere = lease_of(&db, P1).await;
    assert_eq!(db.move_homes(&elsewhere, &to(P1)).await.unwrap(), BTreeMap::new(), "it does not live there");
    assert_eq!(hand.number(MOVED).await, 0);
    let current = lease_of(&db, P0).await;
    let moved = db.move_homes(&current, &to(P1)).await.unwrap();
    assert_eq!(moved, BTreeMap::from([("s".to_owned(), START + HOUR)]));
    assert_eq!(db.move_homes(&current, &to(P1)).await.unwrap(), BTreeMap::new(), "it lives elsewhere by now");

    lifecycle.end().await.unwrap();
    let (zero, one) = tokio::join!(zero.end(), one.end());
    zero.unwrap();
    one.unwrap();
    assert_eq!(seconds_of(&deployment, "s").await, (4 * HOUR, 3, 0));
    assert_sound(&deployment, "after the move").await;
}

/// Readings away from home, committed just before and just after the home's frontier passes their hour: away ones always ask, and what
/// asks is answered behind the frontier.
#[tokio::test(flavor = "multi_thread")]
async fn readings_away_from_home_meet_the_frontier_of_their_home() {
    for away_first in [true, false] {
        let name = format!("race_away_{away_first}");
        let (deployment, hand, lifecycle, mut zero, mut one) = two_partitions(&name).await;
        let looking = Hand::new(&deployment).await;
        zero.say(&at(TELEMETRY, P0), &together(&["s", "q"], START, START + HOUR));
        one.say(&at(TELEMETRY, P1), &together(&["r"], START, START + HOUR - 300));
        looking.until_frontier(P0, START + HOUR - 60).await;
        looking.until_frontier(P1, START + HOUR - 360).await;

        // A reading of `s` in partition 1, whose minute closes with the next one of `r`.
        let mut away = vec![(START + HOUR - 299, reading("s", START + HOUR - 299))];
        away.extend(minutely("r", START + HOUR - 240, START + HOUR - 120));
        let passing = [(START + HOUR + 1, reading("q", START + HOUR + 1))];
        hand.hold_timeline().await;
        for says_away in [away_first, !away_first] {
            let (worker, partition, said) =
                if says_away { (&mut one, P1, &away[..]) } else { (&mut zero, P0, &passing[..]) };
            worker.say(&at(TELEMETRY, partition), said);
            looking.until_waits(worker.pid, &TIMELINE).await;
        }
        hand.release().await;
        looking.until_frontier(P0, START + HOUR).await;
        looking.until_number("SELECT count(*) FROM hydrometer.object WHERE kind = 'away'", 1).await;
        assert_eq!(looking.requests().await, ["away readings"]);
        lifecycle.end().await.unwrap();
        let (zero, one) = tokio::join!(zero.end(), one.end());
        zero.unwrap();
        one.unwrap();
        assert_eq!(seconds_of(&deployment, "s").await, (4 * HOUR, 61, 0), "sixty at home and one away");
        assert_sound(&deployment, &name).await;
    }
}

/// A third partition's worker does not know of a move (its own homes have not changed, so its fence is none), and asks the old home for what
/// belongs to the new one. What was asked of the wrong home is handed on.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_a_former_home_is_handed_on() {
    const P2: i32 = 2;
    let deployment = Deployment::new("race_handed_on").await;
    let hand = Hand::new(&deployment).await;
    let mut lifecycle = Actor::start(&deployment, 3, &[at(LIFECYCLE, 0)]).await;
    let mut events = vec![contract("c", "minute")];
    for server in ["s", "q", "r", "t"] {
        events.extend(leased_server(server, "c", START));
    }
    events.push(passes(START + 3 * HOUR));
    lifecycle.say(&at(LIFECYCLE, 0), &events);
    hand.until_lifecycle_time(START + 3 * HOUR).await;
    let mut zero = Actor::start(&deployment, 3, &[at(TELEMETRY, P0)]).await;
    zero.say(&at(TELEMETRY, P0), &together(&["s", "q"], START, START + 121));
    hand.until_frontier(P0, START + 120).await;
    let mut one = Actor::start(&deployment, 3, &[at(TELEMETRY, P1)]).await;
    one.say(&at(TELEMETRY, P1), &together(&["r"], START, START + 121));
    hand.until_frontier(P1, START + 120).await;
    // It knows where `s` lives from when it started.
    let mut two = Actor::start(&deployment, 3, &[at(TELEMETRY, P2)]).await;
    two.say(&at(TELEMETRY, P2), &together(&["t"], START, START + 121));
    hand.until_frontier(P2, START + 120).await;

    let mut db = deployment.database().await;
    let leases = db.leases().await.unwrap();
    let old = leases.into_iter().map(|(lease, _)| lease).find(|lease| lease.partition == at(TELEMETRY, P0)).unwrap();
    let moved = db.move_homes(&old, &BTreeMap::from([("s".to_owned(), at(TELEMETRY, P1))])).await.unwrap();
    assert_eq!(moved, BTreeMap::from([("s".to_owned(), START + HOUR)]));
    two.say(&at(TELEMETRY, P2), &together(&["s"], START + HOUR, START + HOUR + 60));
    two.say(&at(TELEMETRY, P2), &together(&["t"], START + HOUR + 60, START + HOUR + 61));
    hand.until_number("SELECT count(*) FROM hydrometer.object WHERE kind = 'away'", 1).await;
    let asked = "SELECT partition || ' ' || cause FROM hydrometer.request ORDER BY id";
    assert_eq!(hand.texts(asked).await, ["0 away readings"], "the old home is asked");

    lifecycle.end().await.unwrap();
    two.end().await.unwrap();
    // The old home hands on before the new one looks for the last time.
    zero.end().await.unwrap();
    assert_eq!(hand.texts(asked).await, ["0 away readings", "1 away readings"]);
    one.end().await.unwrap();
    assert_eq!(seconds_of(&deployment, "s").await, (4 * HOUR, 4, 0), "three at its first home, one that was handed on");
    assert_sound(&deployment, "after it was handed on").await;
}
