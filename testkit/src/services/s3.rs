//! An S3 server for tests: moto, from the Python environment that `./test` makes. It keeps objects in memory.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use rustix::process::Signal;

use super::{Result, ServiceError, process, test_variable};

/// A running server, ended when this value is dropped or the process ends. It takes any credentials.
#[derive(Debug)]
pub struct S3Server {
    port: u16,
    child: Child,
}

/// The Python that has moto, duckdb and pyarrow.
pub fn python_for_tests() -> Result<PathBuf> {
    test_variable("HYDROMETER_TEST_PYTHON", "a Python with the packages of scripts/requirements.txt").map(PathBuf::from)
}

impl S3Server {
    /// Starts moto with this Python; its log goes to `dir/s3.log`.
    pub fn start(python: &Path, dir: &Path) -> Result<Self> {
        let what = "the S3 server for tests did not start";
        let port = process::free_port()?;
        let log = dir.join("s3.log");
        let mut command = process::command(python, Some("KILL"), None);
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p"]).arg(port.to_string()).current_dir(dir);
        let child = process::spawn(command, &log).map_err(|e| ServiceError::new(what).detail(e))?;
        let mut server = Self { port, child };
        let mut ended = false;
        let answered = process::wait_until(Duration::from_secs(60), || {
            ended = !matches!(server.child.try_wait(), Ok(None));
            ended || server.request("GET", "/moto-api/").is_ok()
        });
        if answered && !ended {
            return Ok(server);
        }
        Err(ServiceError::new(what)
            .detail(process::log_tail(&log))
            .hint("scripts/requirements.txt lists what it needs"))
    }

    /// `http://127.0.0.1:PORT`
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn create_bucket(&self, name: &str) -> Result<()> {
        self.request("PUT", &format!("/{name}"))
            .map_err(|e| ServiceError::new(format!("the bucket {name} could not be made")).detail(e))
    }

    /// A request without a body, and whether the answer was 200.
    fn request(&self, method: &str, path: &str) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let host = format!("127.0.0.1:{}", self.port);
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        match answer.split(' ').nth(1) {
            Some("200") => Ok(()),
            _ => Err(std::io::Error::other(answer.into_owned())),
        }
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        process::end(&mut self.child, Signal::TERM, Duration::from_secs(2));
    }
}
