//! A PostgreSQL cluster that a program makes and starts itself, in a directory of its own.
//!
//! The cluster listens on a unix socket in that directory and on nothing else. Only its owner may enter the directory
//! (and root), so the socket asks for no password. PostgreSQL refuses to run as root: started by root, it runs as
//! the system's user `postgres`, to whom the directory is given, and root connects through the same socket.

mod cluster;
mod guard;
mod testing;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::Signal;

use super::{Result, process};
use cluster::{Cluster, SUPERUSER};

pub use guard::guard;
pub use testing::{TestPostgres, for_tests};

/// When the server ends.
#[derive(Clone, Debug)]
pub enum Lifetime {
    /// With the value that started it, or with this process, however it ends. For tests.
    StopOnDrop,
    /// When nobody has been connected for the time `idle`. It outlives this process; `guard_program` is started beside
    /// it as `guard_program postgres-guard --dir DIR --idle-seconds N` and must call [`guard`].
    UntilIdle { guard_program: PathBuf, idle: Duration },
}

/// How the server runs; what differs takes effect when it is started, not when it is found running.
#[derive(Clone, Debug)]
pub struct Options {
    pub lifetime: Lifetime,
    /// Off is faster, and loses the cluster in a crash of the machine (not in one of a process).
    pub fsync: bool,
    pub max_connections: u16,
    pub shared_buffers: String,
    /// `replica`, `minimal` or `logical`.
    pub wal_level: String,
    /// Further settings, name and value, as in postgresql.conf.
    pub settings: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lifetime: Lifetime::StopOnDrop,
            fsync: true,
            max_connections: 100,
            shared_buffers: "128MB".into(),
            wal_level: "replica".into(),
            settings: Vec::new(),
        }
    }
}

/// A running private cluster.
#[derive(Debug)]
pub struct PrivatePostgres {
    cluster: Cluster,
    options: Options,
    /// The server, if this value started it.
    child: Option<Child>,
}

impl PrivatePostgres {
    /// Makes the cluster in `dir` if there is none, and starts its server if it is not running. Processes that
    /// open the same directory at once wait for each other, and share one server.
    pub fn open(dir: &Path, options: Options) -> Result<Self> {
        let cluster = Cluster::create(dir)?;
        let mut this = Self { cluster, options, child: None };
        this.start()?;
        Ok(this)
    }

    fn start(&mut self) -> Result<()> {
        let _lock = self.cluster.lock()?;
        self.cluster.initialise(self.options.fsync)?;
        let with_us = matches!(self.options.lifetime, Lifetime::StopOnDrop);
        self.child = self.cluster.start(&self.settings(), with_us)?;
        if let Lifetime::UntilIdle { guard_program, idle } = &self.options.lifetime {
            // The guard decides under the lock that we hold, and from here on has a full idle time to wait.
            self.cluster.touch_heartbeat()?;
            let mut command = Command::new(guard_program);
            command.arg("postgres-guard").arg("--dir").arg(self.dir());
            command.arg("--idle-seconds").arg(idle.as_secs().max(1).to_string()).current_dir("/");
            process::spawn(command, &self.dir().join("guard.log")).map_err(|e| {
                super::ServiceError::new("the guard of the private PostgreSQL could not be started")
                    .detail(format!("{}: {e}", guard_program.display()))
            })?;
        }
        Ok(())
    }

    fn settings(&self) -> Vec<(String, String)> {
        let on_off = |on: bool| if on { "on" } else { "off" };
        let mut settings = vec![
            ("fsync", on_off(self.options.fsync).into()),
            ("full_page_writes", on_off(self.options.fsync).into()),
            ("max_connections", self.options.max_connections.to_string()),
            ("shared_buffers", self.options.shared_buffers.clone()),
            ("wal_level", self.options.wal_level.clone()),
            ("timezone", "UTC".into()),
            ("log_timezone", "UTC".into()),
        ];
        if self.options.wal_level == "minimal" {
            settings.push(("max_wal_senders", "0".into()));
        }
        settings
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .chain(self.options.settings.iter().cloned())
            .collect()
    }

    /// The directory of the cluster: `data/` below it, the socket, the log `server.log`.
    pub fn dir(&self) -> &Path {
        self.cluster.dir()
    }

    /// For tokio-postgres and libpq: `host=… port=… user=… dbname=…`.
    pub fn connection_string(&self, dbname: &str, user: &str) -> String {
        self.cluster.connection_string(dbname, user)
    }

    /// The same for the superuser and the database `postgres`, which always exist.
    pub fn superuser(&self) -> String {
        self.connection_string("postgres", SUPERUSER)
    }

    /// The server's process id, if it runs.
    pub fn pid(&self) -> Option<u32> {
        self.cluster.postmaster()
    }

    /// Stops the server at once but cleanly: clients are disconnected, data is flushed.
    pub fn stop(&mut self) -> Result<()> {
        let _lock = self.cluster.lock()?;
        self.cluster.stop()?;
        self.reap();
        Ok(())
    }

    /// Stops the server and starts it again.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    /// Kills the server without a chance to clean up; [`restart`](Self::restart) recovers it.
    pub fn kill9(&mut self) {
        if let Some(pid) = self.pid() {
            process::signal(pid, Signal::KILL);
        }
        self.reap();
    }

    /// Stops the server and removes the directory.
    pub fn destroy(mut self) -> Result<()> {
        self.stop()?;
        fs::remove_dir_all(self.dir())
            .map_err(|e| super::ServiceError::new(format!("{} could not be removed", self.dir().display())).detail(e))
    }

    fn reap(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }
}

impl Drop for PrivatePostgres {
    /// Ends a server that was started to end with this value; leaves any other alone.
    fn drop(&mut self) {
        if let (Lifetime::StopOnDrop, Some(child)) = (&self.options.lifetime, &mut self.child) {
            process::end(child, Signal::INT, Duration::from_secs(10));
        }
    }
}
