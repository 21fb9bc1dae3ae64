//! Stops a private server that nobody uses.

use std::fs::TryLockError;
use std::path::Path;
use std::thread;
use std::time::Duration;

use super::super::{Result, ServiceError, process};
use super::cluster::Cluster;

/// Watches the server in `dir` and stops it when no client has been connected for the time `idle`. Returns when the
/// server is gone, by its hand or another's, and at once when another guard watches already.
pub fn guard(dir: &Path, idle: Duration) -> Result<()> {
    let cluster = Cluster::existing(dir)?;
    let place = process::open_file(&cluster.dir().join("guard.lock"))
        .map_err(|e| ServiceError::new("the guard's lock could not be opened").detail(e))?;
    match place.try_lock() {
        Ok(()) => (),
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(e)) => return Err(ServiceError::new("the guard's lock could not be taken").detail(e)),
    }
    loop {
        thread::sleep((idle / 4).min(Duration::from_secs(5)));
        // A server that does not answer (all its connections taken, just starting) is in use.
        let in_use = || cluster.clients().map_or(true, |clients| clients > 0);
        if cluster.postmaster().is_some() {
            if in_use() {
                cluster.touch_heartbeat()?;
            }
            if cluster.idle_for() < idle {
                continue;
            }
        }
        // Looked at once more under the lock under which servers are started: whoever opens the cluster either
        // has touched the heartbeat, or waits for the lock and then starts a server and a guard of its own. So the
        // guard's place is given up before the lock is.
        let _lock = cluster.lock()?;
        if cluster.postmaster().is_some() {
            if cluster.idle_for() < idle || in_use() {
                continue;
            }
            cluster.stop()?;
        }
        drop(place);
        return Ok(());
    }
}
