//! Where a test may kill the process. `HYDROMETER_FAILPOINT=NAME:N` ends it with SIGKILL the Nth time it comes past NAME, as a
//! power cut would: nothing is flushed, nobody is told.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

struct Armed {
    name: String,
    left: AtomicU64,
}

static ARMED: LazyLock<Option<Armed>> = LazyLock::new(|| {
    let value = std::env::var("HYDROMETER_FAILPOINT").ok()?;
    let (name, count) = value.rsplit_once(':').unwrap_or((&value, "1"));
    Some(Armed { name: name.to_owned(), left: AtomicU64::new(count.parse().ok()?) })
});

pub fn pass(name: &str) {
    let Some(armed) = ARMED.as_ref() else { return };
    if armed.name == name && armed.left.fetch_sub(1, Ordering::SeqCst) == 1 {
        eprintln!("failpoint {name}: killing this process");
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}
