//! Where a test may end or freeze the process. `HYDROMETER_FAILPOINT=NAME:N` kills it with SIGKILL the Nth time it comes past NAME,
//! as a power cut would: nothing is flushed, nobody is told. `NAME:N=stop` freezes it there with SIGSTOP until SIGCONT. Several
//! are separated by commas. Without the variable a point costs one look at a static.
//!
//! Points in the way of a commit carry its kind (`live`, `revision`, `lifecycle`):
//!
//! | points | where |
//! |---|---|
//! | `take_over.{before, inside, after}`, `take_over.read` | epochs are bumped; the evidence of open windows is read |
//! | `stage.KIND.{before, object, after}` | before and after each staged object; all are staged (not for `lifecycle`, which stages one) |
//! | `commit.KIND.{before, fenced, judged, claimed, named, posted, asked, inside}` | the transaction, statement group by group |
//! | `commit.lifecycle.{before, fenced, locked, recorded, asked, inside}` | the same of lifecycle events |
//! | `commit.closing.{before, taken, inside, sent, after}` | the transaction of a closing; the periods are taken |
//! | `commit.KIND.{sent, after}` | COMMIT is on its way and nobody waits for its reply; the reply is there |
//! | `move.inside` | a home is moved and not committed |
//! | `settle.{before, after}` | the reply did not come, and the lease is asked |
//! | `publish.KIND.{before, made, staged, written, after}` | a file is due, made, durable in staging, in its place, in the manifest |
//! | `retire.{before, after}`, `sweep.{before, after}` | late objects are retired; each object that is removed |
//! | `events.{claimed, sent, confirmed, recorded}` | the outbox is taken over; a page is on its way, confirmed by Kafka, recorded as published |

use std::fmt::Display;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Kill,
    Stop,
}

struct Armed {
    name: String,
    left: AtomicU64,
    action: Action,
}

static ARMED: LazyLock<Vec<Armed>> = LazyLock::new(|| {
    let value = std::env::var("HYDROMETER_FAILPOINT").unwrap_or_default();
    value.split(',').filter(|point| !point.is_empty()).map(parse).collect()
});

fn parse(point: &str) -> Armed {
    let (point, action) = match point.strip_suffix("=stop") {
        Some(point) => (point, Action::Stop),
        None => (point, Action::Kill),
    };
    let (name, count) = point.rsplit_once(':').unwrap_or((point, "1"));
    Armed { name: name.to_owned(), left: AtomicU64::new(count.parse().unwrap_or(1)), action }
}

/// Comes past a point.
pub fn pass(name: impl Display) {
    if ARMED.is_empty() {
        return;
    }
    let name = name.to_string();
    for armed in ARMED.iter().filter(|armed| armed.name == name) {
        if armed.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            let (doing, signal) = match armed.action {
                Action::Kill => ("killing", Signal::KILL),
                Action::Stop => ("stopping", Signal::STOP),
            };
            eprintln!("failpoint {name}: {doing} this process");
            let _ = kill_process(getpid(), signal);
        }
    }
}

/// Waits for `sending`, which ends with a reply. At an armed point it is first sent off and given a moment to leave this process,
/// so that the point lies between a request and its reply.
pub async fn pass_after_sending<T>(name: impl Display, sending: impl Future<Output = T>) -> T {
    if ARMED.is_empty() {
        return sending.await;
    }
    tokio::pin!(sending);
    let name = name.to_string();
    if ARMED.iter().any(|armed| armed.name == name) {
        // Polled once, it is in the connection's queue; the connection's task writes it at once.
        tokio::select! {
            biased;
            reply = &mut sending => {
                pass(&name);
                return reply;
            }
            () = tokio::time::sleep(Duration::from_millis(2)) => pass(&name),
        }
    }
    sending.await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_has_a_name_a_count_and_an_action() {
        let read = |text| {
            let armed = parse(text);
            (armed.name, armed.left.into_inner(), armed.action)
        };
        assert_eq!(read("sweep.before"), ("sweep.before".into(), 1, Action::Kill));
        assert_eq!(read("commit.live.fenced:3"), ("commit.live.fenced".into(), 3, Action::Kill));
        assert_eq!(read("commit.live.fenced:2=stop"), ("commit.live.fenced".into(), 2, Action::Stop));
    }
}
