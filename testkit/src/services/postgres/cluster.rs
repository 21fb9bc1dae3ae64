//! The files and processes of one private cluster.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, SystemTime};

use rustix::process::{Signal, geteuid};

use super::super::{Result, ServiceError, process};

pub const SUPERUSER: &str = "postgres";
const OLDEST: u32 = 15;
/// What the system allows for a socket's path, without the closing zero.
const SOCKET_PATH_LIMIT: usize = 107;
const SOCKET: &str = ".s.PGSQL.5432";

#[derive(Debug)]
pub struct Cluster {
    dir: PathBuf,
    /// The directory of the server's programs.
    bin: PathBuf,
    /// Whom the server runs as, when it is not ourselves: user and group.
    user: Option<(u32, u32)>,
}

impl Cluster {
    /// The cluster in `dir`; the directory is made and handed over to the server's user, if need be.
    pub fn create(dir: &Path) -> Result<Self> {
        let dir = checked_path(dir)?;
        let problem = |e| ServiceError::new(format!("the directory {} could not be made", dir.display())).detail(e);
        if let Some(parent) = dir.parent() {
            fs::create_dir_all(parent).map_err(problem)?;
        }
        match DirBuilder::new().mode(0o700).create(&dir) {
            Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(problem(e)),
            _ => (),
        }
        let user = take_over(&dir)?;
        Self::with_user(dir, user)
    }

    /// The cluster in `dir`, which must be there.
    pub fn existing(dir: &Path) -> Result<Self> {
        let dir = checked_path(dir)?;
        let user = take_over(&dir)?;
        Self::with_user(dir, user)
    }

    fn with_user(dir: PathBuf, user: Option<(u32, u32)>) -> Result<Self> {
        let made_by = fs::read_to_string(dir.join("data/PG_VERSION")).ok().and_then(|text| text.trim().parse().ok());
        let cluster = Self { bin: server_programs(made_by, &dir)?, dir, user };
        cluster.check_reach()?;
        Ok(cluster)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    pub fn connection_string(&self, dbname: &str, user: &str) -> String {
        let dir = self.dir.to_string_lossy();
        format!("host={} port=5432 user={} dbname={}", quoted(&dir), quoted(user), quoted(dbname))
    }

    /// Whoever starts or stops the server holds this lock, across processes.
    pub fn lock(&self) -> Result<File> {
        let path = self.dir.join("open.lock");
        process::open_file(&path)
            .and_then(|file| file.lock().map(|()| file))
            .map_err(|e| ServiceError::new(format!("{} could not be locked", path.display())).detail(e))
    }

    /// Says that the cluster was in use just now.
    pub fn touch_heartbeat(&self) -> Result<()> {
        process::open_file(&self.dir.join("heartbeat"))
            .and_then(|file| file.set_modified(SystemTime::now()))
            .map_err(|e| ServiceError::new("the heartbeat of the private PostgreSQL could not be written").detail(e))
    }

    /// For how long the cluster has not been in use.
    pub fn idle_for(&self) -> Duration {
        let touched = fs::metadata(self.dir.join("heartbeat")).and_then(|meta| meta.modified());
        touched.ok().and_then(|time| time.elapsed().ok()).unwrap_or_default()
    }

    /// How many clients are connected, besides this question.
    pub fn clients(&self) -> Result<u32> {
        let mut psql = Command::new(self.bin.join("psql"));
        without_pg_variables(&mut psql).current_dir("/").args(["-XAtq", "-d"]);
        psql.arg(self.connection_string("postgres", SUPERUSER)).arg("-c").arg(
            "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()",
        );
        let what = "the private PostgreSQL does not answer";
        let answer = process::run(&mut psql, what)?;
        answer.trim().parse().map_err(|_| ServiceError::new(what).detail(answer))
    }

    /// Makes the cluster unless it is there: beside its place, then renamed, so that half a cluster is never taken for one.
    pub fn initialise(&self, fsync: bool) -> Result<()> {
        if self.data().join("PG_VERSION").exists() {
            return Ok(());
        }
        let what = format!("the PostgreSQL cluster in {} could not be made", self.dir.display());
        let partial = self.dir.join("data.new");
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(|e| ServiceError::new(&what).detail(e))?;
        }
        let mut initdb = self.server_command("initdb", None);
        initdb.arg("-D").arg(&partial).args(["-U", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--locale=C"]);
        if !fsync {
            initdb.arg("--no-sync");
        }
        process::run(&mut initdb, &what)?;
        fs::rename(&partial, self.data()).map_err(|e| ServiceError::new(&what).detail(e))
    }

    /// Starts the server unless it runs, and waits until it answers. `with_us`: it is to end when this process does.
    pub fn start(&self, settings: &[(String, String)], with_us: bool) -> Result<Option<Child>> {
        let what = format!("the private PostgreSQL in {} did not start", self.dir.display());
        if self.postmaster().is_some() {
            self.wait_ready(&mut None, &what)?;
            return Ok(None);
        }
        // Children of a killed server need a moment to notice; until they are gone, the data is not ours.
        if !process::wait_until(Duration::from_secs(20), || self.server_processes().is_empty()) {
            return Err(ServiceError::new(what)
                .detail(format!("processes of an earlier server are still there: {:?}", self.server_processes()))
                .hint("end them, then try again"));
        }
        // With no process left, these are stale. The server would mostly see that itself, but not when the process
        // id in them has gone to another process meanwhile.
        for name in ["data/postmaster.pid", SOCKET, ".s.PGSQL.5432.lock"] {
            let _ = fs::remove_file(self.dir.join(name));
        }
        self.keep_log_small();
        // SIGINT is the server's fast and clean shutdown.
        let mut postgres = self.server_command("postgres", with_us.then_some("INT"));
        postgres.arg("-D").arg(self.data()).args(["-p", "5432", "-c", "listen_addresses="]);
        postgres.arg("-c").arg(format!("unix_socket_directories=\"{}\"", self.dir.display()));
        postgres.args(["-c", "unix_socket_permissions=0700"]);
        for (name, value) in settings {
            postgres.arg("-c").arg(format!("{name}={value}"));
        }
        let child = process::spawn(postgres, &self.log()).map_err(|e| ServiceError::new(&what).detail(e))?;
        let mut child = Some(child);
        self.wait_ready(&mut child, &what)?;
        Ok(child)
    }

    fn wait_ready(&self, child: &mut Option<Child>, what: &str) -> Result<()> {
        let mut ended = false;
        let ready = process::wait_until(Duration::from_secs(120), || {
            ended = child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
            ended || self.is_ready()
        });
        if ready && !ended {
            return Ok(());
        }
        if let Some(child) = child {
            process::end(child, Signal::INT, Duration::from_secs(10));
        }
        Err(ServiceError::new(what)
            .detail(process::log_tail(&self.log()))
            .hint(format!("the whole log is {}", self.log().display())))
    }

    /// The eighth line of postmaster.pid is the server's state.
    fn is_ready(&self) -> bool {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
        text.lines().nth(7).is_some_and(|state| state.trim() == "ready") && self.postmaster().is_some()
    }

    /// Stops the server if it runs: fast and clean, and after a minute without ceremony.
    pub fn stop(&self) -> Result<()> {
        let Some(pid) = self.postmaster() else {
            return Ok(());
        };
        for (signal, patience) in [(Signal::INT, 60), (Signal::QUIT, 15)] {
            process::signal(pid, signal);
            if process::wait_until(Duration::from_secs(patience), || self.postmaster().is_none()) {
                return Ok(());
            }
        }
        Err(ServiceError::new(format!("the private PostgreSQL in {} does not stop", self.dir.display()))
            .detail(process::log_tail(&self.log()))
            .hint(format!("its process id is {pid}")))
    }

    /// The server's process id, if it runs.
    pub fn postmaster(&self) -> Option<u32> {
        let text = fs::read_to_string(self.data().join("postmaster.pid")).ok()?;
        let pid = text.lines().next()?.trim().parse().ok()?;
        self.is_server_process(pid).then_some(pid)
    }

    /// Every process of a server on this cluster, orphans included.
    fn server_processes(&self) -> Vec<u32> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| self.is_server_process(*pid)).collect()
    }

    /// PostgreSQL's processes all work in the data directory, which tells them from whatever else got their number.
    fn is_server_process(&self, pid: u32) -> bool {
        let Ok(data) = self.data().canonicalize() else {
            return false;
        };
        fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data)
            && fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "postgres")
    }

    /// One of the server's programs, run as the server's user.
    fn server_command(&self, program: &str, death_signal: Option<&str>) -> Command {
        let mut command = process::command(&self.bin.join(program), death_signal, self.user);
        without_pg_variables(&mut command).env("LC_ALL", "C").current_dir(&self.dir);
        command
    }

    fn keep_log_small(&self) {
        if fs::metadata(self.log()).is_ok_and(|meta| meta.len() > 16 * 1024 * 1024) {
            let _ = fs::rename(self.log(), self.dir.join("server.log.1"));
        }
    }

    /// The server's user must be able to enter every folder above the directory.
    fn check_reach(&self) -> Result<()> {
        let enters = |dir: &Path| {
            let mut test = process::command(Path::new("/usr/bin/test"), None, self.user);
            process::run(test.arg("-x").arg(dir).current_dir("/"), "").is_ok()
        };
        if self.user.is_none() || enters(&self.dir) {
            return Ok(());
        }
        let mut above: Vec<&Path> = self.dir.ancestors().collect();
        above.reverse();
        let closed = above.into_iter().find(|dir| !enters(dir)).unwrap_or(&self.dir);
        Err(ServiceError::new(format!("the user {SUPERUSER} cannot enter {}", self.dir.display()))
            .detail(format!(
                "PostgreSQL refuses to run as root, so it runs as {SUPERUSER}, who may not enter {}",
                closed.display()
            ))
            .hint("use a directory below /var/tmp, or run as an ordinary user"))
    }
}

/// Absolute, short enough for a socket, and free of what cannot be said in a setting.
fn checked_path(dir: &Path) -> Result<PathBuf> {
    let unusable =
        |why: String| ServiceError::new(format!("{} cannot hold a PostgreSQL cluster", dir.display())).detail(why);
    let absolute = std::path::absolute(dir).map_err(|e| unusable(e.to_string()))?;
    let length = absolute.as_os_str().len() + 1 + SOCKET.len();
    if length > SOCKET_PATH_LIMIT {
        return Err(unusable(format!(
            "its socket would have a path of {length} bytes; the system allows {SOCKET_PATH_LIMIT}"
        ))
        .hint("use a directory with a shorter path, such as /var/tmp/hydrometer"));
    }
    match absolute.to_str() {
        Some(text) if !text.contains('"') => Ok(absolute),
        _ => Err(unusable("its name is not UTF-8, or has a quotation mark in it".into())),
    }
}

/// Gives the directory to the server's user, and says who that is when it is not ourselves.
fn take_over(dir: &Path) -> Result<Option<(u32, u32)>> {
    let problem = |e| ServiceError::new(format!("{} cannot be used for PostgreSQL", dir.display())).detail(e);
    let meta = fs::symlink_metadata(dir).map_err(problem)?;
    let belongs_to_another = |whose: String| {
        Err(ServiceError::new(format!("{} belongs to another user", dir.display()))
            .detail(whose)
            .hint("run as that user (as root for postgres), or use another directory"))
    };
    if !meta.is_dir() {
        return Err(ServiceError::new(format!("{} is not a directory", dir.display())));
    }
    let us = geteuid().as_raw();
    if us != 0 {
        if meta.uid() != us {
            return belongs_to_another(format!("its owner has the user id {}, ours is {us}", meta.uid()));
        }
        fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(problem)?;
        return Ok(None);
    }
    let user = postgres_user()?;
    if meta.uid() == 0 {
        // Never a directory that holds something: it would be taken away from its owner.
        if fs::read_dir(dir).map_err(problem)?.next().is_some() {
            return Err(ServiceError::new(format!("{} is not empty and belongs to root", dir.display()))
                .detail(format!("the cluster needs a directory of its own, which will belong to {SUPERUSER}"))
                .hint("use an empty directory, or one that does not exist"));
        }
        chown(dir, Some(user.0), Some(user.1)).map_err(problem)?;
    } else if meta.uid() != user.0 {
        return belongs_to_another(format!("its owner has the user id {}, {SUPERUSER}'s is {}", meta.uid(), user.0));
    }
    fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(problem)?;
    Ok(Some(user))
}

fn postgres_user() -> Result<(u32, u32)> {
    let id = |flag| {
        let said =
            process::run(Command::new("id").args([flag, SUPERUSER]), "there is no user postgres").map_err(|e| {
                e.hint("PostgreSQL refuses to run as root: install the package postgresql, or run as an ordinary user")
            })?;
        said.trim().parse().map_err(|_| ServiceError::new("the user postgres has no number").detail(said))
    };
    Ok((id("-u")?, id("-g")?))
}

/// The directory of the programs: of the version that made the cluster, else the newest. `PG_BINDIR` overrides.
fn server_programs(made_by: Option<u32>, dir: &Path) -> Result<PathBuf> {
    let by_version = match std::env::var_os("PG_BINDIR").filter(|value| !value.is_empty()) {
        Some(named) => installed(std::iter::once(PathBuf::from(named))),
        None => {
            let debian = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
            let path = std::env::var_os("PATH").unwrap_or_default();
            installed(debian.map(|entry| entry.path().join("bin")).chain(std::env::split_paths(&path)))
        }
    };
    let found: Vec<u32> = by_version.keys().copied().collect();
    let chosen = match made_by {
        Some(version) => by_version.get(&version),
        None => by_version.last_key_value().filter(|(version, _)| **version >= OLDEST).map(|(_, bin)| bin),
    };
    chosen.cloned().ok_or_else(|| match made_by {
        Some(version) => {
            ServiceError::new(format!("the cluster in {} was made by PostgreSQL {version}", dir.display()))
                .detail(format!("versions found here: {found:?}"))
                .hint(format!("install PostgreSQL {version}, name its programs in PG_BINDIR, or use another directory"))
        }
        None => ServiceError::new(format!("no PostgreSQL server of version {OLDEST} or newer was found"))
            .detail(format!("looked in PG_BINDIR, /usr/lib/postgresql/*/bin and PATH; versions found: {found:?}"))
            .hint("install the package postgresql, or name the directory of initdb and postgres in PG_BINDIR"),
    })
}

fn installed(places: impl Iterator<Item = PathBuf>) -> BTreeMap<u32, PathBuf> {
    let complete = places.filter(|bin| ["initdb", "postgres", "psql"].iter().all(|name| bin.join(name).exists()));
    let version = |bin: &Path| -> Option<u32> {
        let said = process::run(Command::new(bin.join("postgres")).arg("--version"), "").ok()?;
        let number = said.trim_start_matches(|c: char| !c.is_ascii_digit());
        number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    complete.filter_map(|bin| Some((version(&bin)?, bin))).collect()
}

/// The caller's own settings for libpq must not lead anywhere else.
fn without_pg_variables(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command
}

fn quoted(value: &str) -> String {
    if !value.is_empty() && value.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c)) {
        return value.to_owned();
    }
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_too_long_for_a_socket_is_refused_with_a_hint() {
        let error = checked_path(Path::new(&format!("/var/tmp/{}", "x".repeat(100)))).unwrap_err();
        assert!(error.detail.contains("the system allows 107"), "{error}");
        assert!(!error.hint.is_empty());
    }

    #[test]
    fn values_in_connection_strings_are_quoted_where_needed() {
        assert_eq!(quoted("/var/tmp/a-b_c.d"), "/var/tmp/a-b_c.d");
        assert_eq!(quoted("/var/tmp/it's a \\"), "'/var/tmp/it\\'s a \\\\'");
        assert_eq!(quoted(""), "''");
    }
}
