//! Child processes that end with us: started from one lasting thread, ended by process id, never by name.

use std::fs::{File, OpenOptions};
use std::io;
use std::io::{Read, Seek, SeekFrom};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::OFlags;
use rustix::process::{Pid, Signal, kill_process};

use super::{Result, ServiceError};

/// How often a state is looked at while waiting for it.
pub const POLL: Duration = Duration::from_millis(50);

/// A command that runs `program` and, where util-linux's `setpriv` is at hand, gets `death_signal` when we die, however we die.
/// `as_user` needs root and `setpriv`; it replaces the process instead of watching over it, so the child's id is the program's.
pub fn command(program: &Path, death_signal: Option<&str>, as_user: Option<(u32, u32)>) -> Command {
    let setpriv = ["/usr/bin/setpriv", "/bin/setpriv"].into_iter().find(|path| Path::new(path).exists());
    let Some(setpriv) = setpriv.or(as_user.map(|_| "setpriv")) else {
        return Command::new(program);
    };
    let mut command = Command::new(setpriv);
    if let Some((user, group)) = as_user {
        command.args([format!("--reuid={user}"), format!("--regid={group}"), "--init-groups".into()]);
    }
    if let Some(signal) = death_signal {
        command.args(["--pdeathsig", signal]);
    }
    command.arg("--").arg(program);
    command
}

type Request = (Command, mpsc::Sender<io::Result<Child>>);

/// Starts a command in its own process group, so that a Ctrl-C in the terminal reaches us first, its output into `log`.
///
/// The kernel sends the signal of `setpriv --pdeathsig` when the *thread* that started the child ends, and test
/// threads and tokio's end long before the process does. Hence one thread that lasts does all the starting.
pub fn spawn(mut command: Command, log: &Path) -> io::Result<Child> {
    static SPAWNER: OnceLock<Mutex<mpsc::Sender<Request>>> = OnceLock::new();
    let output = open_file(log)?;
    command.process_group(0).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let spawner = SPAWNER.get_or_init(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        thread::spawn(move || {
            for (mut command, reply) in requests {
                // Whoever asked is waiting; if it is gone, so is the interest in the child.
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let (reply, answer) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts processes is gone");
    spawner.lock().unwrap_or_else(PoisonError::into_inner).send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

/// Opens a file for appending, creating it. A symbolic link in its place is refused: the directory may belong
/// to a user with fewer rights than we have.
pub fn open_file(path: &Path) -> io::Result<File> {
    let no_follow = OFlags::NOFOLLOW.bits() as i32;
    OpenOptions::new().read(true).append(true).create(true).mode(0o600).custom_flags(no_follow).open(path)
}

/// Waits until `done` says so; false when the time is over.
pub fn wait_until(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + limit;
    while !done() {
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(POLL);
    }
    true
}

/// Sends a signal to one process. That it has ended meanwhile is no error.
pub fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Ends a child: politely, then firmly. Returns when it is gone.
pub fn end(child: &mut Child, polite: Signal, patience: Duration) {
    signal(child.id(), polite);
    if !wait_until(patience, || !matches!(child.try_wait(), Ok(None))) {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Runs a command to its end; its output, or an error that quotes what it said.
pub fn run(command: &mut Command, what: &str) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| ServiceError::new(what).detail(format!("{}: {e}", command.get_program().to_string_lossy())))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = [output.stdout, output.stderr].concat();
    Err(ServiceError::new(what).detail(last_lines(&String::from_utf8_lossy(&said))))
}

/// The end of a log file.
pub fn log_tail(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(16 * 1024)))?;
        file.read_to_end(&mut bytes)
    });
    match read {
        Ok(_) => last_lines(&String::from_utf8_lossy(&bytes)),
        Err(e) => format!("(no log: {}: {e})", path.display()),
    }
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}

/// A port of the loopback interface that is free now. It is below the range from which systems take the ports of
/// outgoing connections, so that it is still free when a server comes back to it.
pub fn free_port() -> Result<u16> {
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos());
    let start = nanos.wrapping_mul(31).wrapping_add(std::process::id());
    (0..12_000u32)
        .map(|step| 20_000 + (start.wrapping_add(step) % 12_000) as u16)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .ok_or_else(|| ServiceError::new("no port between 20000 and 32000 is free on 127.0.0.1"))
}
