//! Where a test may kill the process. `HYDROMETER_FAILPOINT=NAME:N` ends it with SIGKILL the Nth time it comes past NAME, as a
//! power cut would: nothing is flushed, nobody is told. `HYDROMETER_FAILPOINT=NAME:N:stop` stops it there with SIGSTOP instead, and
//! SIGCONT lets it go on as if it had only been slow.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

struct Armed {
    name: String,
    left: AtomicU64,
    stops: bool,
}

static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
    let value = std::env::var("HYDROMETER_FAILPOINT").ok()?;
    let (value, stops) = value.strip_suffix(":stop").map_or((value.as_str(), false), |rest| (rest, true));
    let (name, count) = value.rsplit_once(':').unwrap_or((value, "1"));
    Some(Armed { name: name.to_owned(), left: AtomicU64::new(count.parse().ok()?), stops })
});

pub fn pass(name: &str) {
    let Some(armed) = ARMED.as_ref() else { return };
    if armed.name == name && armed.left.fetch_sub(1, Ordering::SeqCst) == 1 {
        let (doing, signal) = match armed.stops {
            true => ("stopping", rustix::process::Signal::STOP),
            false => ("killing", rustix::process::Signal::KILL),
        };
        eprintln!("failpoint {name}: {doing} this process");
        let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
    }
}
