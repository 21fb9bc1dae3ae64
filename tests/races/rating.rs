//! Many workers that want the same rating rows.

use crate::common::Deployment;
use crate::common::scripted::*;
use crate::common::sound::assert_sound;

/// Contracts with GPUs in every partition: all workers want the same rating states, in the order in which each happens to meet them.
/// The one order of locks keeps them from waiting for each other in a circle.
#[tokio::test(flavor = "multi_thread")]
async fn contracts_with_gpus_in_all_partitions_deadlock_nobody() {
    const PARTITIONS: i32 = 3;
    const ROUNDS: i64 = 6;
    let deployment = Deployment::new("race_contracts").await;
    let hand = Hand::new(&deployment).await;
    let (looking, middle) = (Hand::new(&deployment).await, Hand::new(&deployment).await);
    let mut lifecycle = Actor::start(&deployment, PARTITIONS, &[at(LIFECYCLE, 0)]).await;
    let mut events: Vec<_> = ["c0", "c1", "c2"].into_iter().map(|name| contract(name, "minute")).collect();
    // Server i of partition p is under contract i, named so that each partition meets the contracts in another order.
    let server = |partition: i32, i: i32| format!("s{}-{i}-{partition}", (i + partition) % 3);
    for partition in 0..PARTITIONS {
        for i in 0..3 {
            events.extend(leased_server(&server(partition, i), &format!("c{i}"), START));
        }
    }
    events.push(passes(START + HOUR));
    lifecycle.say(&at(LIFECYCLE, 0), &events);
    looking.until_lifecycle_time(START + HOUR).await;
    let mut workers = Vec::new();
    for partition in 0..PARTITIONS {
        workers.push(Actor::start(&deployment, PARTITIONS, &[at(TELEMETRY, partition)]).await);
    }
    for round in 0..ROUNDS {
        // All are derived and staged and stand at one gate, which opens for all at once. Behind it one of the states is taken, so that
        // each worker has locked what it locks before that one, and nothing else, when it is let go.
        hand.hold_timeline().await;
        if round > 0 {
            middle.hold_rows("hydrometer.rating_state", "contract = 'c1'").await;
        }
        for (worker, partition) in workers.iter_mut().zip(0..) {
            let from = START + 60 * round + i64::from(round > 0);
            let mut said: Vec<(i64, Vec<u8>)> = Vec::new();
            for i in 0..3 {
                said.extend(readings(&server(partition, i), from, START + 60 * (round + 1) + 1));
            }
            said.sort_by_key(|(second, _)| *second);
            worker.say(&at(TELEMETRY, partition), &said);
        }
        for worker in &workers {
            looking.until_waits(worker.pid, &TIMELINE).await;
        }
        hand.release().await;
        if round > 0 {
            for worker in &workers {
                looking.until_waits(worker.pid, &ROW).await;
            }
            middle.release().await;
        }
        let opened = std::time::Instant::now();
        for partition in 0..PARTITIONS {
            looking.until_frontier(partition, START + 60 * (round + 1)).await;
        }
        // PostgreSQL looks for a deadlock after a second; nobody waits for so long here.
        assert!(opened.elapsed().as_millis() < 3_000, "round {round}: {:?}", opened.elapsed());
    }
    lifecycle.end().await.unwrap();
    let [a, b, c] = <[Actor; 3]>::try_from(workers).ok().unwrap();
    let (a, b, c) = tokio::join!(a.end(), b.end(), c.end());
    a.unwrap();
    b.unwrap();
    c.unwrap();
    for partition in 0..PARTITIONS {
        for i in 0..3 {
            let seconds = seconds_of(&deployment, &server(partition, i)).await;
            assert_eq!(seconds, (4 * HOUR, 60 * ROUNDS + 1, 0));
        }
    }
    // Everything is leased and nothing is down: every second that is billed costs a dollar; verify proves the amounts.
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    looking.execute("SELECT pg_stat_force_next_flush()").await;
    assert_eq!(looking.number(deadlocks).await, 0);
    assert_sound(&deployment, "after all rounds").await;
}
