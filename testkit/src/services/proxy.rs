//! A TCP proxy in front of a service, for what a network does: connections that break, stall, or break just after something was
//! said.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::{Result, ServiceError, process};

/// PostgreSQL's message that asks for the statement COMMIT.
pub const POSTGRES_COMMIT: &[u8] = b"Q\0\0\0\x0bCOMMIT\0";

/// Where the connections go.
#[derive(Clone, Debug)]
pub enum Upstream {
    Tcp(String),
    /// PostgreSQL's socket, say.
    Unix(PathBuf),
}

/// What happens to the bytes of all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Forward,
    /// Each piece is passed on so much later.
    Delay(Duration),
    /// Nothing is passed on, nothing is closed: the other side has fallen silent.
    Stall,
    /// New connections are closed at once.
    Refuse,
}

/// What is done when the client has said what is watched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// It reaches the service, and the client's side is cut at once.
    CutAfterRequest,
    /// It reaches the service; the client's side is cut instead of the reply.
    CutBeforeReply,
    /// Half of the piece in which it was said reaches the service, and both sides are cut.
    CutHalfway,
}

#[derive(Debug)]
struct Watch {
    words: Vec<u8>,
    /// It trips the so manieth time.
    nth: usize,
    then: Then,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    watch: Option<Watch>,
    tripped: usize,
    accepted: usize,
    /// Counts the cuts; a connection that was opened before the last one is closed.
    generation: u64,
    stopped: bool,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// Listens on a port of 127.0.0.1 until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    pub fn start(upstream: Upstream) -> Result<Self> {
        let port = process::free_port()?;
        Self::start_on(port, upstream)
    }

    /// On a port that was chosen before, because the service has to name it.
    pub fn start_on(port: u16, upstream: Upstream) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .map_err(|e| ServiceError::new(format!("a proxy could not listen on port {port}")).detail(e))?;
        let state = State { mode: Mode::Forward, watch: None, tripped: 0, accepted: 0, generation: 0, stopped: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let of_listener = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(io::Result::ok) {
                if of_listener.lock().stopped {
                    return;
                }
                of_listener.clone().accept(client, &upstream);
            }
        });
        Ok(Self { port, shared })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn set(&self, mode: Mode) {
        self.shared.lock().mode = mode;
        self.shared.changed.notify_all();
    }

    /// Breaks every connection there is; new ones are dealt with as the mode says.
    pub fn cut(&self) {
        self.shared.lock().generation += 1;
        self.shared.changed.notify_all();
    }

    /// Watches what clients say for these words, and acts once, at the nth time.
    pub fn watch(&self, words: &[u8], nth: usize, then: Then) {
        self.shared.lock().watch = Some(Watch { words: words.to_owned(), nth, then });
    }

    /// How often a watch has acted.
    pub fn tripped(&self) -> usize {
        self.shared.lock().tripped
    }

    /// How many connections were opened.
    pub fn accepted(&self) -> usize {
        self.shared.lock().accepted
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.stopped = true;
        state.generation += 1;
        drop(state);
        self.shared.changed.notify_all();
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)), Duration::from_secs(1));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: Arc<Self>, client: TcpStream, upstream: &Upstream) {
        let mut state = self.lock();
        state.accepted += 1;
        if state.mode == Mode::Refuse {
            return;
        }
        let generation = state.generation;
        drop(state);
        // A service that is away closes the connection; its client sees just that.
        let Ok(server) = Stream::connect(upstream) else { return };
        let client = Stream::Tcp(client);
        let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else { return };
        // A cut reply takes the client's side away under the request's feet.
        let cut_reply = Arc::new(Mutex::new(false));
        let (shared, flag) = (self.clone(), cut_reply.clone());
        thread::spawn(move || shared.pump(client, server, generation, Direction::Request, &flag));
        thread::spawn(move || self.pump(server_too, client_too, generation, Direction::Reply, &cut_reply));
    }

    fn pump(&self, mut from: Stream, mut to: Stream, generation: u64, direction: Direction, cut_reply: &Mutex<bool>) {
        let mut buffer = vec![0; 64 * 1024];
        let _ = from.set_read_timeout(Duration::from_millis(20));
        loop {
            if !self.may_pass(generation, false) {
                break;
            }
            let read = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => &buffer[..read],
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => continue,
                Err(_) => break,
            };
            // What was read before a stall or a cut waits, or is lost, like everything else.
            if !self.may_pass(generation, true) {
                break;
            }
            let is_cut = |flag: &Mutex<bool>| *flag.lock().unwrap_or_else(PoisonError::into_inner);
            if direction == Direction::Reply && is_cut(cut_reply) {
                to.close();
                break;
            }
            let then = if direction == Direction::Request { self.trips(read) } else { None };
            match then {
                None => {
                    if to.write_all(read).is_err() {
                        break;
                    }
                }
                Some(Then::CutAfterRequest) => {
                    let _ = to.write_all(read);
                    from.close();
                    // The service is not told: it goes on with what it was asked, as behind a broken network.
                    thread::sleep(Duration::from_secs(2));
                    break;
                }
                Some(Then::CutBeforeReply) => {
                    *cut_reply.lock().unwrap_or_else(PoisonError::into_inner) = true;
                    let _ = to.write_all(read);
                }
                Some(Then::CutHalfway) => {
                    let _ = to.write_all(&read[..read.len() / 2]);
                    break;
                }
            }
        }
        from.close();
        to.close();
    }

    /// Waits while nothing is to pass; false when the connection is to be closed.
    fn may_pass(&self, generation: u64, has_bytes: bool) -> bool {
        let mut state = self.lock();
        loop {
            if state.generation != generation {
                return false;
            }
            match state.mode {
                Mode::Stall => {
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                Mode::Delay(delay) if has_bytes => {
                    drop(state);
                    thread::sleep(delay);
                    return self.lock().generation == generation;
                }
                Mode::Forward | Mode::Refuse | Mode::Delay(_) => return true,
            }
        }
    }

    fn trips(&self, said: &[u8]) -> Option<Then> {
        let mut state = self.lock();
        let watch = state.watch.as_mut()?;
        if !said.windows(watch.words.len()).any(|window| window == watch.words) {
            return None;
        }
        watch.nth = watch.nth.saturating_sub(1);
        if watch.nth > 0 {
            return None;
        }
        let then = watch.then;
        state.watch = None;
        state.tripped += 1;
        Some(then)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Request,
    Reply,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Stream {
    fn connect(upstream: &Upstream) -> io::Result<Stream> {
        match upstream {
            Upstream::Tcp(address) => TcpStream::connect(address.as_str()).map(Stream::Tcp),
            Upstream::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
        }
    }

    fn try_clone(&self) -> io::Result<Stream> {
        match self {
            Stream::Tcp(stream) => stream.try_clone().map(Stream::Tcp),
            Stream::Unix(stream) => stream.try_clone().map(Stream::Unix),
        }
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(timeout))),
            Stream::Unix(stream) => stream.set_read_timeout(Some(timeout)),
        }
    }

    fn close(&self) {
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
        }
    }
}
