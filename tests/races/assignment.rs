//! Lifecycle batches that are still on their way when their partition is taken away and given back.

use hydrometer_pipeline::source::{Batch, Delivery, SourceEvent};
use tokio::sync::oneshot;

use crate::common::Deployment;
use crate::common::scripted::{Hand, LIFECYCLE, Raw, START, TELEMETRY, TIMELINE, at, event, until};
use crate::common::sound::assert_sound;

fn batch(first: i64, ids: std::ops::Range<i64>) -> Batch {
    let mut batch = Batch::new(at(LIFECYCLE, 0));
    for (offset, id) in (first..).zip(ids) {
        let data = format!(r#"{{"server":"s-{id}","supplier":"sup","slots":1}}"#);
        let (logged, payload) = event(&format!("e-{id}"), "gpu.server.registered", START + id, &data);
        batch.push(offset, logged * 1_000_000, &payload);
    }
    batch
}

/// What was read before a rebalance and not taken yet must not follow into the next assignment: it would carry `next` over a gap, and
/// the events in the gap would never be read again.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_an_assignment_follows_into_the_next() {
    // Whether the worker looks at the rebalance or at the deliveries first is a coin thrown; so it is thrown often.
    for attempt in 0..10 {
        let deployment = Deployment::new(&format!("race_assignment_{attempt}")).await;
        let hand = Hand::new(&deployment).await;
        let owns = [at(TELEMETRY, 0), at(LIFECYCLE, 0)];
        let raw = Raw::start_with(&deployment, 1, &owns, &|_| {}).await;
        let starts = raw.assign(&owns).await;
        let deliver_to = starts.into_iter().find(|s| &*s.partition.topic == LIFECYCLE).unwrap().deliver_to;

        // The worker waits in a commit, and meanwhile everything else is said.
        hand.hold_timeline().await;
        deliver_to.send(Delivery::Batch(batch(0, 0..2))).await.unwrap();
        hand.until_waits(raw.pid, &TIMELINE).await;
        for offset in 2..6 {
            deliver_to.send(Delivery::Batch(batch(offset, offset..offset + 1))).await.unwrap();
        }
        drop(deliver_to);
        let (reply, revoked) = oneshot::channel();
        raw.events.send(SourceEvent::Revoked(owns.to_vec(), reply)).unwrap();
        let (reply, assigned) = oneshot::channel();
        raw.events.send(SourceEvent::Assigned(owns.to_vec(), reply)).unwrap();
        hand.release().await;
        revoked.await.unwrap();

        let start = assigned.await.unwrap().into_iter().find(|s| &*s.partition.topic == LIFECYCLE).unwrap();
        let first = start.offset.unwrap_or(0);
        // The next round commits what the worker holds. Every offset that it says is handled is an event that is there.
        let (reply, stepped) = oneshot::channel();
        raw.events.send(SourceEvent::Step(reply)).unwrap();
        stepped.await.unwrap();
        let next = hand.number("SELECT next FROM hydrometer.partition_lease WHERE role = 'lifecycle'").await;
        let events = hand.number("SELECT count(*) FROM hydrometer.event").await;
        assert_eq!(events, next, "attempt {attempt}: went on at {first}");
        start.deliver_to.send(Delivery::Batch(batch(first, first..8))).await.unwrap();
        until("every event was committed", async || {
            hand.number("SELECT next FROM hydrometer.partition_lease WHERE role = 'lifecycle'").await == 8
        })
        .await;
        assert_eq!(
            hand.number("SELECT count(*) FROM hydrometer.event").await,
            8,
            "attempt {attempt}, went on at {first}"
        );
        raw.stop.send(()).unwrap();
        until("the worker ends", async || raw.thread.is_finished()).await;
        raw.thread.join().unwrap().unwrap();
        assert_sound(&deployment, "assignment").await;
    }
}
