//! A PostgreSQL of a test's own, to be killed: fsync is on, and it ends with the test.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::process::{Pid, Signal, kill_process};

pub struct Server {
    dir: PathBuf,
    child: Option<Child>,
}

impl Server {
    /// Makes a cluster and starts it.
    pub fn create() -> Server {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let name = format!("ledger-{}-{now}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        // Not in a small disk of memory, and where the server's user may enter.
        let dir = Path::new("/var/tmp").join(name);
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).unwrap();
        if let Some((user, group)) = server_user() {
            chown(&dir, Some(user), Some(group)).unwrap();
        }
        let mut server = Server { dir, child: None };
        let made = server
            .program("initdb")
            .arg("-D")
            .arg(server.data())
            .args(["-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"])
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        server.start();
        server
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The superuser's connection string.
    pub fn superuser(&self) -> String {
        format!("host={} port=5432 user=postgres dbname=postgres", self.dir.display())
    }

    /// Starts it, after a kill as well, and waits until it answers. It ends with the calling thread.
    pub fn start(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.join("log")).unwrap();
        let child = self
            .program("postgres")
            .arg("-D")
            .arg(self.data())
            .arg("-c")
            .arg(format!("unix_socket_directories={}", self.dir.display()))
            .args(["-c", "listen_addresses=", "-c", "fsync=on", "-c", "max_connections=150", "-c", "timezone=UTC"])
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        let began = Instant::now();
        while !self.program("psql").args(["-Xqc", "select", &self.superuser()]).status().unwrap().success() {
            let log = || fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(began.elapsed() < Duration::from_secs(60), "the server does not answer: {}", log());
            sleep(Duration::from_millis(50));
        }
    }

    /// Kills the postmaster and all of its processes, at once.
    pub fn kill(&mut self) {
        loop {
            let processes = processes_in(&self.data());
            if processes.is_empty() {
                break;
            }
            for process in processes {
                // It may have ended meanwhile.
                let _ = kill_process(process, Signal::KILL);
            }
            sleep(Duration::from_millis(5));
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.wait();
        }
    }

    /// PostgreSQL refuses to run as root.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if let Some((user, group)) = server_user() {
            command.args([format!("--reuid={user}"), format!("--regid={group}"), "--init-groups".to_owned()]);
        }
        command.arg("--").arg(programs().join(name)).current_dir(&self.dir);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// Every process of a server works in its data directory.
fn processes_in(data: &Path) -> Vec<Pid> {
    let all = fs::read_dir("/proc").unwrap().flatten();
    all.filter(|entry| fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == data))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw))
        .collect()
}

/// User and group of `postgres`, for root.
fn server_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let fields: Vec<&str> = users.lines().find(|line| line.starts_with("postgres:"))?.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

/// The newest that Debian installs, unless PG_BINDIR names another.
fn programs() -> PathBuf {
    if let Some(named) = std::env::var_os("PG_BINDIR").filter(|value| !value.is_empty()) {
        return named.into();
    }
    let installed = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed").flatten();
    let version = |path: &Path| path.file_name()?.to_str()?.parse::<u32>().ok();
    let newest = installed.map(|entry| entry.path()).max_by_key(|path| version(path)).expect("a version is there");
    newest.join("bin")
}
