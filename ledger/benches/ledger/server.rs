//! A private PostgreSQL, with fsync on, that ends with this process.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio_postgres::Config;

/// What differs from the defaults, for a machine with a few GB to spare: room for the indexes, and checkpoints far apart.
pub const SETTINGS: [&str; 8] = [
    "fsync=on",
    "synchronous_commit=on",
    "shared_buffers=8GB",
    "max_wal_size=16GB",
    "checkpoint_timeout=30min",
    "wal_buffers=64MB",
    "max_connections=100",
    "listen_addresses=",
];

pub struct Server {
    dir: PathBuf,
    process: Child,
}

impl Server {
    pub fn start() -> Server {
        let dir = PathBuf::from(format!("/var/tmp/hydrometer-ledger-bench-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        fs::set_permissions(&dir, Permissions::from_mode(0o700)).unwrap();
        let owner = fs::metadata("/proc/self").unwrap();
        // PostgreSQL refuses to run as root.
        let prefix: Vec<String> = if std::os::unix::fs::MetadataExt::uid(&owner) == 0 {
            let id = |flag| output(Command::new("id").args([flag, "postgres"]));
            let (user, group) = (id("-u"), id("-g"));
            chown(&dir, user.parse().ok(), group.parse().ok()).unwrap();
            vec![format!("--reuid={user}"), format!("--regid={group}"), "--init-groups".to_owned()]
        } else {
            Vec::new()
        };
        let programs = programs();
        let run = |program: &str| {
            let mut command = Command::new("setpriv");
            command.args(&prefix).args(["--pdeathsig", "INT", "--"]).arg(programs.join(program)).current_dir(&dir);
            command.stdout(Stdio::null()).stderr(fs::File::create(dir.with_extension(program)).unwrap());
            command
        };
        let made = run("initdb")
            .args(["-D", "data", "-U", "postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"])
            .status();
        assert!(made.unwrap().success(), "initdb failed");
        let mut postgres = run("postgres");
        postgres.args(["-D", "data", "-c"]).arg(format!("unix_socket_directories={}", dir.display()));
        for setting in SETTINGS {
            postgres.args(["-c", setting]);
        }
        let process = postgres.spawn().unwrap();
        let server = Server { dir, process };
        let ready = || {
            let ready = Command::new(programs.join("pg_isready")).arg("-q").arg("-h").arg(&server.dir).status();
            ready.is_ok_and(|status| status.success())
        };
        for _ in 0..600 {
            if ready() {
                return server;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("the private PostgreSQL in {} did not start", server.dir.display());
    }

    pub fn config(&self, database: &str, user: &str) -> Config {
        let mut config = Config::new();
        config.host_path(&self.dir).dbname(database).user(user);
        config
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The quick end: nothing of it is kept.
        let _ = Command::new("kill").args(["-QUIT", &self.process.id().to_string()]).status();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.dir);
        for program in ["initdb", "postgres"] {
            let _ = fs::remove_file(self.dir.with_extension(program));
        }
    }
}

/// The newest server programs that Debian's packages brought, or those of the PATH.
fn programs() -> PathBuf {
    let mut found: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .map(|dirs| dirs.filter_map(Result::ok).map(|dir| dir.path().join("bin")).collect())
        .unwrap_or_default();
    found.retain(|dir| dir.join("initdb").exists());
    found.sort();
    found.pop().unwrap_or_else(|| Path::new(&output(Command::new("pg_config").arg("--bindir"))).to_owned())
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
