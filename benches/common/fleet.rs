//! The fleet of the benches: its lifecycle, and its telemetry as single readings or node batches, in memory or written to Kafka.

use std::io::Write;
use std::time::{Duration, SystemTime};

use hydrometer_schemas::time::{MICROS_PER_SECOND, SECONDS_PER_HOUR, Second, show_second};
use hydrometer_testkit::fleet::{Event, EventKind, RatingWindow, SimpleContract};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

pub const GPUS_PER_SERVER: u32 = 8;
pub const PARTITIONS: i32 = 4;
pub const CONTRACTS: u32 = 500;
pub const RENTERS: u32 = 200;
pub const SUPPLIERS: u32 = 20;

/// How a message is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// A reading a message, some 170 bytes.
    Single,
    /// A server's GPUs of one second in a message.
    Batch,
}

/// Its seconds lie around an hour's edge, so that each round of the bench also rates, posts and publishes a whole hour.
#[derive(Debug, Clone, Copy)]
pub struct Fleet {
    pub servers: u32,
    pub seconds: u32,
    pub start: Second,
}

impl Fleet {
    pub fn new(gpus: u32, seconds: u32) -> Fleet {
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs()) as Second;
        let edge = now.div_euclid(SECONDS_PER_HOUR) * SECONDS_PER_HOUR - SECONDS_PER_HOUR;
        Fleet { servers: gpus / GPUS_PER_SERVER, seconds, start: edge - Second::from(seconds) / 2 }
    }

    pub fn gpus(&self) -> u32 {
        self.servers * GPUS_PER_SERVER
    }

    pub fn readings(&self) -> u64 {
        u64::from(self.gpus()) * u64::from(self.seconds)
    }

    /// The GPU-seconds of the hour that ends in the middle: all leased, all metered.
    pub fn rated_seconds(&self) -> i64 {
        i64::from(self.gpus()) * (i64::from(self.seconds) / 2)
    }

    pub fn write_lifecycle(&self, brokers: &str, topic: &str) -> Result<u64, Failure> {
        let producer = Writer::new(brokers)?;
        let mut written = 0;
        self.lifecycle(|event| {
            written += 1;
            producer.write(topic, 0, event.subject(), &event.to_json()?)
        })?;
        producer.finish()?;
        Ok(written)
    }

    /// Registrations, contracts and leases; the last event carries lifecycle time past all telemetry.
    pub fn lifecycle(&self, mut take: impl FnMut(Event) -> Result<(), Failure>) -> Result<(), Failure> {
        let mut number = 0;
        let mut write = |time: Second, kind: EventKind| -> Result<(), Failure> {
            number += 1;
            take(Event { source: "bench".into(), id: format!("e{number}"), time_us: time * MICROS_PER_SECOND, kind })
        };
        let before = self.start - 60;
        for contract in 0..CONTRACTS {
            let simple = SimpleContract {
                contract: format!("contract-{contract:04}"),
                renter: format!("renter-{:03}", contract % RENTERS),
                currency: "USD".into(),
                price_per_gpu_hour: format!("{}.{:02}", 1 + contract % 4, contract % 100),
                supplier_share_percent: "80".into(),
                rating_window: RatingWindow::Hour,
            };
            write(before, simple.signed(before * MICROS_PER_SECOND))?;
        }
        for number in 0..self.servers {
            let server = server_name(number);
            let supplier = format!("supplier-{:02}", number % SUPPLIERS);
            write(before, EventKind::ServerRegistered { server: server.clone(), supplier, slots: GPUS_PER_SERVER })?;
            for slot in 0..GPUS_PER_SERVER {
                let gpu = gpu_name(number, slot);
                write(before, EventKind::GpuRegistered { server: server.clone(), slot, gpu })?;
            }
            let (lease, contract) = (format!("lease-{number:05}"), format!("contract-{:04}", number % CONTRACTS));
            let slots = (0..GPUS_PER_SERVER).collect();
            write(self.start, EventKind::LeaseStarted { lease, contract, server, slots })?;
        }
        let spare = EventKind::ServerRegistered { server: "spare".into(), supplier: "supplier-00".into(), slots: 8 };
        write(self.start + Second::from(self.seconds) + 900, spare)
    }

    /// Writes every server's readings second by second, each server to its own partition; at the end a reading in each partition
    /// that carries its time past the allowed lateness.
    pub fn write_telemetry(&self, brokers: &str, topic: &str, shape: Shape) -> Result<u64, Failure> {
        let producer = Writer::new(brokers)?;
        let mut bytes = 0;
        for second in 0..self.seconds {
            self.messages(second, shape, |partition, server, message| {
                bytes += message.len() as u64;
                producer.write(topic, partition, server, message)
            })?;
        }
        let after = show_second(self.start + Second::from(self.seconds) + 300);
        for partition in 0..PARTITIONS {
            let (server, gpu) = (server_name(partition as u32), gpu_name(partition as u32, 0));
            let reading = format!(r#"{{"gpu":"{gpu}","server":"{server}","time":"{after}","util":0}}"#);
            producer.write(topic, partition, &server, reading.as_bytes())?;
        }
        producer.finish()?;
        Ok(bytes)
    }

    /// The messages of one second: (partition, server, payload). The servers come in another order each second, as exporters do;
    /// a server's GPUs stay together.
    pub fn messages(
        &self,
        second: u32,
        shape: Shape,
        mut take: impl FnMut(i32, &str, &[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let time = show_second(self.start + Second::from(second));
        let mut message = Vec::with_capacity(2_048);
        // A step that shares no factor with the number of servers visits each once.
        let step = (0..).map(|n| 7_919 + n + second % 97).find(|step| gcd(*step, self.servers) == 1).unwrap_or(1);
        for place in 0..self.servers {
            let number = (u64::from(place) * u64::from(step) % u64::from(self.servers)) as u32;
            let (server, partition) = (server_name(number), number as i32 % PARTITIONS);
            if shape == Shape::Batch {
                message.clear();
                write!(message, r#"{{"server":"{server}","time":"{time}","gpus":["#)?;
            }
            for slot in 0..GPUS_PER_SERVER {
                let gpu = gpu_name(number, slot);
                match shape {
                    Shape::Single => {
                        message.clear();
                        write!(message, r#"{{"gpu":"{gpu}","server":"{server}","time":"{time}","#)?;
                        write_values(&mut message, number, slot, second)?;
                        take(partition, &server, &message)?;
                    }
                    Shape::Batch => {
                        let comma = if slot == 0 { "" } else { "," };
                        write!(message, r#"{comma}{{"gpu":"{gpu}","#)?;
                        write_values(&mut message, number, slot, second)?;
                    }
                }
            }
            if shape == Shape::Batch {
                message.extend_from_slice(b"]}");
                take(partition, &server, &message)?;
            }
        }
        Ok(())
    }
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

pub fn server_name(number: u32) -> String {
    format!("srv-{number:05}")
}

pub fn gpu_name(server: u32, slot: u32) -> String {
    format!("GPU-{:08x}-4b1d-4c0e-9f27-{:012x}", server.wrapping_mul(0x9e37_79b9), server * GPUS_PER_SERVER + slot)
}

/// What a GPU says, up to the closing brace.
fn write_values(message: &mut Vec<u8>, server: u32, slot: u32, second: u32) -> std::io::Result<()> {
    let mix = (server * 31 + slot * 7 + second).wrapping_mul(2_654_435_761);
    write!(
        message,
        r#""util":0.{:02},"power_w":{}.{},"energy_j":{},"mem_bytes":{},"healthy":true}}"#,
        1 + mix % 99,
        300 + mix % 400,
        mix % 10,
        1_000_000 + second * 500 + mix % 100,
        8_000_000_000_u64 + u64::from(mix % 1_000_000),
    )
}

/// A producer that waits while its queue is full.
struct Writer(BaseProducer);

impl Writer {
    fn new(brokers: &str) -> Result<Writer, Failure> {
        let producer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("linger.ms", "50")
            .set("batch.size", "1000000")
            .set("queue.buffering.max.messages", "500000")
            .create()?;
        Ok(Writer(producer))
    }

    fn write(&self, topic: &str, partition: i32, key: &str, payload: &[u8]) -> Result<(), Failure> {
        let mut record = BaseRecord::to(topic).partition(partition).key(key).payload(payload);
        loop {
            match self.0.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), unsent)) => {
                    record = unsent;
                    self.0.poll(Duration::from_millis(10));
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }

    fn finish(&self) -> Result<(), Failure> {
        self.0.flush(Duration::from_secs(300))?;
        Ok(())
    }
}
