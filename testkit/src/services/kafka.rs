//! A real Apache Kafka, one node, from a directory of jars (`scripts/fetch-kafka.sh` fetches them).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rustix::process::Signal;

use super::proxy::{Proxy, Upstream};
use super::{Result, ServiceError, process, test_variable};

const TEMPLATE: &str = include_str!("../../kafka/server.properties");
/// Sixteen bytes in base64, as Kafka wants an id.
const CLUSTER_ID: &str = "aHlkcm9tZXRlci1rYWZrYQ";
const NEEDS_JAVA: &str = "Kafka 4 needs Java 17 or newer on the PATH (the package default-jre-headless)";

/// A broker with controller, on free ports of 127.0.0.1, ended when this value is dropped or the process ends.
#[derive(Debug)]
pub struct PrivateKafka {
    libs: PathBuf,
    dir: PathBuf,
    broker_port: u16,
    /// A second listener, which says that it is to be reached at the port of a proxy: (its own port, the proxy's).
    proxied: Option<(u16, u16)>,
    child: Option<Child>,
}

impl PrivateKafka {
    /// Starts Kafka with the jars in `libs` and a new log in `dir/data`, which is made; waits until it answers.
    pub fn start(libs: &Path, dir: &Path) -> Result<Self> {
        Self::start_with(libs, dir, None)
    }

    /// The same, with a second way to the broker: whoever takes the proxy's address for the bootstrap server is sent through the
    /// proxy for everything else as well.
    pub fn start_proxied(libs: &Path, dir: &Path) -> Result<(Self, Proxy)> {
        let own = process::free_port()?;
        let proxy = Proxy::start(Upstream::Tcp(format!("127.0.0.1:{own}")))?;
        let kafka = Self::start_with(libs, dir, Some((own, proxy.port())))?;
        Ok((kafka, proxy))
    }

    fn start_with(libs: &Path, dir: &Path, proxied: Option<(u16, u16)>) -> Result<Self> {
        let what = "Kafka could not be set up";
        let absolute = |path: &Path| std::path::absolute(path).map_err(|e| ServiceError::new(what).detail(e));
        let (libs, dir) = (absolute(libs)?, absolute(dir)?);
        if !libs.join("kafka_2.13-4.1.0.jar").exists() {
            return Err(ServiceError::new(what)
                .detail(format!("{} does not hold the jars of Kafka 4.1.0", libs.display()))
                .hint("scripts/fetch-kafka.sh fetches them"));
        }
        let data = dir.join("data");
        fs::create_dir_all(&data).map_err(|e| ServiceError::new(what).detail(format!("{}: {e}", data.display())))?;

        // Another process may take a port between our look at it and the broker's start; then try others.
        let mut attempts = 3;
        loop {
            let broker_port = process::free_port()?;
            let mut kafka = Self { libs: libs.clone(), dir: dir.clone(), broker_port, proxied, child: None };
            kafka.configure().map_err(|e| ServiceError::new(what).detail(e))?;
            if !data.join("meta.properties").exists() {
                kafka.format()?;
            }
            attempts -= 1;
            match kafka.launch() {
                Err(e) if attempts > 0 && e.detail.contains("Address already in use") => continue,
                result => return result.map(|()| kafka),
            }
        }
    }

    fn configure(&self) -> io::Result<()> {
        let controller_port = process::free_port().map_err(io::Error::other)?;
        let text = TEMPLATE
            .replace("@BROKER_PORT@", &self.broker_port.to_string())
            .replace("@CONTROLLER_PORT@", &controller_port.to_string())
            .replace("@DATA@", &self.dir.join("data").to_string_lossy());
        let text = match self.proxied {
            None => text,
            Some((own, proxy)) => {
                let direct = format!("PLAINTEXT://127.0.0.1:{}", self.broker_port);
                text.replace("listeners=PLAINTEXT", &format!("listeners=PROXIED://127.0.0.1:{own},PLAINTEXT"))
                    .replace("PLAINTEXT:PLAINTEXT", "PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT")
                    + &format!("\nadvertised.listeners={direct},PROXIED://127.0.0.1:{proxy}\n")
            }
        };
        fs::write(self.properties(), text)
    }

    fn format(&self) -> Result<()> {
        let mut format = self.java("kafka.tools.StorageTool");
        format.args(["format", "-t", CLUSTER_ID, "-c"]).arg(self.properties());
        process::run(&mut format, "Kafka's log directory could not be formatted")
            .map(|_| ())
            .map_err(|e| e.hint(NEEDS_JAVA))
    }

    fn launch(&mut self) -> Result<()> {
        let what = "Kafka did not start";
        let mut command = self.java("kafka.Kafka");
        command.arg(self.properties());
        let mut child =
            process::spawn(command, &self.log()).map_err(|e| ServiceError::new(what).detail(e).hint(NEEDS_JAVA))?;
        let mut ended = false;
        let bootstrap = self.bootstrap();
        let answered = process::wait_until(Duration::from_secs(90), || {
            ended = !matches!(child.try_wait(), Ok(None));
            ended || answers(&bootstrap)
        });
        if answered && !ended {
            self.child = Some(child);
            return Ok(());
        }
        process::end(&mut child, Signal::KILL, Duration::from_secs(5));
        let why = process::log_tail(&self.log());
        Err(ServiceError::new(what).detail(why).hint(format!("the whole log is {}", self.log().display())))
    }

    /// `java` with the jars on its class path; it replaces `setpriv`, so the process id is its own.
    fn java(&self, class: &str) -> Command {
        let mut command = process::command(Path::new("java"), Some("KILL"), None);
        command.args(["-Xmx512m", "-XX:+ExitOnOutOfMemoryError", "-Djava.awt.headless=true"]);
        command.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"]);
        command.arg("-cp").arg(self.libs.join("*")).arg(class).current_dir(&self.dir);
        command
    }

    fn properties(&self) -> PathBuf {
        self.dir.join("server.properties")
    }

    fn log(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    /// `127.0.0.1:PORT`, for `bootstrap.servers`.
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.broker_port)
    }

    /// The process id, if it was not stopped.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Stops the broker cleanly; after 20 seconds, without ceremony.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::end(&mut child, Signal::TERM, Duration::from_secs(20));
        }
    }

    /// Kills the broker without a chance to clean up.
    pub fn kill9(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::end(&mut child, Signal::KILL, Duration::from_secs(20));
        }
    }

    /// Starts the broker again, on the same port and the same log; stops it first if it runs.
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        self.launch()
    }

    /// See [`create_topic`].
    pub async fn create_topic(&self, topic: &Topic<'_>) -> Result<()> {
        create_topic(&self.bootstrap(), topic).await
    }
}

impl Drop for PrivateKafka {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// A topic to be made.
#[derive(Clone, Debug)]
pub struct Topic<'a> {
    pub name: &'a str,
    pub partitions: i32,
    /// `CreateTime` (the producer's) or `LogAppendTime` (the broker's, the one that Hydrometer asks for).
    pub timestamp_type: &'a str,
    /// How long messages are kept, in milliseconds; -1 for ever.
    pub retention_ms: i64,
    /// Further settings of the topic.
    pub config: Vec<(&'a str, &'a str)>,
}

impl<'a> Topic<'a> {
    /// Stamped by the broker, kept for ever.
    pub fn new(name: &'a str, partitions: i32) -> Self {
        Self { name, partitions, timestamp_type: "LogAppendTime", retention_ms: -1, config: Vec::new() }
    }
}

/// Makes a topic; an error if there is one of that name.
pub async fn create_topic(bootstrap: &str, topic: &Topic<'_>) -> Result<()> {
    let failed = |why: String| ServiceError::new(format!("the topic {} could not be made", topic.name)).detail(why);
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create().map_err(|e| failed(e.to_string()))?;
    let retention = topic.retention_ms.to_string();
    let mut new = NewTopic::new(topic.name, topic.partitions, TopicReplication::Fixed(1))
        .set("message.timestamp.type", topic.timestamp_type)
        .set("retention.ms", &retention);
    for (key, value) in &topic.config {
        new = new.set(key, value);
    }
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    let results = admin.create_topics([&new], &options).await.map_err(|e| failed(e.to_string()))?;
    for result in results {
        result.map_err(|(_, code)| failed(code.to_string()))?;
    }
    Ok(())
}

/// Whether a broker at this address answers.
fn answers(bootstrap: &str) -> bool {
    // The port first: librdkafka would complain of a broker that is not there yet, and wait before it tries again.
    if std::net::TcpStream::connect(bootstrap).is_err() {
        return false;
    }
    let consumer: rdkafka::error::KafkaResult<BaseConsumer> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).set("log_level", "0").create();
    consumer.is_ok_and(|consumer| {
        consumer.fetch_metadata(None, Duration::from_secs(5)).is_ok_and(|metadata| !metadata.brokers().is_empty())
    })
}

/// The bootstrap servers of the broker that `./test` starts for all tests of a run.
pub fn for_tests() -> Result<String> {
    test_variable("HYDROMETER_TEST_KAFKA", "the bootstrap servers of a broker, as in: 127.0.0.1:9092")
}

/// The jars, for tests that stop or kill a broker of their own.
pub fn libs_for_tests() -> Result<PathBuf> {
    test_variable("HYDROMETER_KAFKA_LIBS", "the directory of Kafka's jars (scripts/fetch-kafka.sh)").map(PathBuf::from)
}
