//! How what was emitted arrives: packed into messages, delayed, copied, sent again, over partitions, in the order of
//! log time. Everything here depends on `shuffle_seed`, and nothing that is true does.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use super::event::{Event, EventKind};
use super::exporter::{Exporter, SLACK_SECONDS};
use super::packer::{Message, Packer};
use super::random::Random;
use super::scenario::{Clock, Scenario, Server, Span};
use super::time::{SECOND_US, rfc3339};
use super::{Contracts, Fault, FleetError, Outcome, Plan, Record, Tally, Topic, random_streams};
use crate::oracle::Oracle;

/// Runs a plan and hands its records to `sink` in the order of their log time. Memory is bounded by what is under way,
/// and by a byte per GPU and second for the truth.
pub fn generate(plan: &Plan, sink: &mut dyn FnMut(Record) -> Result<(), FleetError>) -> Result<Outcome, FleetError> {
    plan.check()?;
    let mut tally = Tally::default();
    let scenario = Scenario::new(plan, &mut tally)?;
    let start_second = plan.start_us / SECOND_US;
    let seconds = i64::from(plan.seconds);
    let mut oracle = Oracle::new(start_second, start_second + seconds + SLACK_SECONDS);
    if plan.contracts != Contracts::Simple {
        oracle = oracle.of_contracts();
    }

    let mut courier = Courier::new(plan, tally);
    for (number, event) in scenario.events.into_iter().enumerate() {
        let late_s = scenario.late.get(&(event.source.clone(), event.id.clone())).copied().unwrap_or(0);
        // When a wallet runs dry is decided by what is known when time passes that second, and never again. So what has a say in it
        // arrives at once: nothing that comes before it is of a later time.
        let delay_us = (number >= scenario.first_prepaid).then(|| i64::from(late_s) * SECOND_US);
        courier.send_event(number, &event, delay_us)?;
        oracle.event(event);
    }
    for (source, id, second) in courier.grants_counted() {
        oracle.counts_from(&source, &id, second);
    }
    let mut lines: Vec<Line> = scenario
        .servers
        .iter()
        .enumerate()
        .map(|(number, server)| Line {
            exporter: Exporter::new(plan, number, server, &mut oracle),
            packer: Packer::new(plan, number, server),
            route: Route::new(plan, number, server, &mut courier.tally),
        })
        .collect();

    let mut readings = Vec::new();
    for second in 0..seconds {
        for line in &mut lines {
            line.exporter.second(second, &mut readings, &mut oracle, &mut courier.tally);
            line.packer.pack(second, &readings, &mut |message| {
                courier.send(&mut line.route, second, message);
            });
        }
        courier.deliver_until(plan.start_us + (second + 1) * SECOND_US, sink)?;
    }
    for line in &mut lines {
        line.packer.flush(&mut |message| {
            courier.send(&mut line.route, seconds, message);
        });
    }
    courier.deliver_until(i64::MAX, sink)?;
    Ok(Outcome { truth: oracle.truth()?, tally: courier.tally })
}

/// One server, from its GPUs to its partition.
struct Line<'a> {
    exporter: Exporter<'a>,
    packer: Packer<'a>,
    route: Route,
}

/// The way of a server's messages.
struct Route {
    key: Vec<u8>,
    gpu: String,
    random: Random,
    home: u32,
    away: u32,
    away_during: Span,
    /// From then on it is another partition for good.
    moved: Option<(i64, u32)>,
    redelivered: Vec<(Span, i64)>,
    /// Its readings are ahead of time and must stay so: no delay may let time catch up with them.
    is_prompt: bool,
}

impl Route {
    fn new(plan: &Plan, number: usize, server: &Server, tally: &mut Tally) -> Self {
        let stream = random_streams::ARRIVAL + (1 << 32);
        let mut random = Random::new(plan.shuffle_seed, stream, number as u64);
        let seconds = i64::from(plan.seconds);
        let partitions = plan.telemetry_partitions;
        let home = random.below(u64::from(partitions)) as u32;
        let is_prompt = matches!(server.clock, Clock::Far(_));
        let mut away_during = Span::NEVER;
        if partitions > 1 && random.chance(plan.faults.rate(Fault::SecondPartition)) {
            let from = random.between(0, seconds);
            let to = from + random.between(1, 1800);
            away_during = Span { from, to };
            tally.add(Fault::SecondPartition);
        }
        let mut redelivered = Vec::new();
        if !is_prompt {
            let hours = seconds as f64 / 3600.0;
            for _ in 0..random.times(plan.faults.rate(Fault::Redelivery) * hours) {
                let from = random.between(0, seconds);
                let to = from + random.between(1, 300);
                let later_us = random.between(300, 7200) * SECOND_US;
                redelivered.push((Span { from, to }, later_us));
                tally.add(Fault::Redelivery);
            }
        }
        // A stream of its own, so that whether a server moves changes nothing else.
        let mut moving = Random::new(plan.shuffle_seed, stream + (1 << 32), number as u64);
        let moved = (partitions > 1 && moving.chance(plan.faults.rate(Fault::MovedServer))).then(|| {
            tally.add(Fault::MovedServer);
            let away = 1 + moving.below(u64::from(partitions) - 1) as u32;
            (moving.between(0, seconds / 2), (home + away) % partitions)
        });
        Route {
            key: server.name.clone().into_bytes(),
            gpu: server.gpus[0].id.clone(),
            random,
            home,
            away: (home + 1) % partitions,
            away_during,
            moved,
            redelivered,
            is_prompt,
        }
    }
}

impl Route {
    fn partition(&self, second: i64) -> u32 {
        let home = self.moved.filter(|(since, _)| *since <= second).map_or(self.home, |(_, to)| to);
        if self.away_during.holds(second) { self.away } else { home }
    }
}

/// Everything under way, and the clock that hands it over.
struct Courier<'a> {
    plan: &'a Plan,
    tally: Tally,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    sent: u64,
    /// Lifecycle events as they were sent.
    posts: Vec<Post>,
}

/// An event on its way. The order of its fields is that of its arrival in a partition.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Post {
    partition: u32,
    log_time_us: i64,
    sent: u64,
    second: i64,
    /// Source and id, if it gives a wallet something.
    grant: Option<(String, String)>,
}

struct UnderWay {
    sent: u64,
    record: Record,
}

/// The most that a prompt server's messages are delayed.
const PROMPT_DELAY_US: i64 = 60 * SECOND_US;

impl<'a> Courier<'a> {
    fn new(plan: &'a Plan, tally: Tally) -> Self {
        Courier { plan, tally, under_way: BinaryHeap::new(), sent: 0, posts: Vec::new() }
    }

    fn send(&mut self, route: &mut Route, second: i64, message: Message) {
        let now_us = self.plan.start_us + (second + 1) * SECOND_US;
        let partition = route.partition(second);
        let at_us = now_us + self.delay_us(route);
        let faults = &self.plan.faults;
        if route.random.chance(faults.rate(Fault::Garbage)) {
            let rubbish = some_garbage(route, at_us);
            self.tally.add(Fault::Garbage);
            self.push(route, partition, at_us, rubbish);
        }
        if route.random.chance(faults.rate(Fault::Duplicate)) {
            self.tally.add(Fault::Duplicate);
            for _ in 0..=route.random.below(2) {
                let later_us = route.random.between(0, 20 * SECOND_US);
                self.push(route, partition, at_us + later_us, message.copy());
            }
        }
        for (span, later_us) in &route.redelivered {
            if span.holds(second) {
                self.push(route, partition, at_us + later_us, message.copy());
            }
        }
        self.push(route, partition, at_us, message);
    }

    fn delay_us(&mut self, route: &mut Route) -> i64 {
        let faults = &self.plan.faults;
        let random = &mut route.random;
        let latency_us = random.between(20_000, 900_000);
        let draw = random.fraction();
        let very_late = faults.rate(Fault::VeryLate);
        let late = very_late + faults.rate(Fault::Late);
        let disorder = late + faults.rate(Fault::Disorder);
        // A reading is late once its minute's end, and not itself, is the lateness ago.
        let beyond_us = self.plan.lateness_us + 61 * SECOND_US;
        let (fault, extra_us) = if draw < very_late {
            (Fault::VeryLate, random.between(3600, 9000) * SECOND_US)
        } else if draw < late {
            (Fault::Late, beyond_us + random.between(0, 900) * SECOND_US)
        } else if draw < disorder {
            (Fault::Disorder, random.between(0, self.plan.disorder_us + 1))
        } else {
            return latency_us;
        };
        if !route.is_prompt {
            self.tally.add(fault);
            return latency_us + extra_us;
        }
        latency_us + extra_us.min(PROMPT_DELAY_US)
    }

    fn push(&mut self, route: &Route, partition: u32, log_time_us: i64, message: Message) {
        self.tally.telemetry_records += 1;
        self.tally.readings_sent += u64::from(message.sound);
        if let Some(reason) = message.quarantine_reason {
            self.tally.quarantined(reason);
        }
        self.push_record(Record {
            topic: Topic::Telemetry,
            partition,
            log_time_us,
            key: route.key.clone(),
            payload: message.payload,
            readings: message.sound,
        });
    }

    fn push_record(&mut self, record: Record) {
        self.sent += 1;
        self.under_way.push(Reverse(UnderWay { sent: self.sent, record }));
    }

    /// `delay_us`: as planned; None: as it happens.
    fn send_event(&mut self, number: usize, event: &Event, delay_us: Option<i64>) -> Result<(), FleetError> {
        let faults = &self.plan.faults;
        let mut random = Random::new(self.plan.shuffle_seed, random_streams::EVENT_ARRIVAL, number as u64);
        let is_registration =
            matches!(event.kind, EventKind::ServerRegistered { .. } | EventKind::GpuRegistered { .. });
        let mut at_us = event.time_us + random.between(50_000, 3 * SECOND_US);
        if let Some(delay_us) = delay_us {
            at_us = event.time_us + delay_us;
        } else if is_registration && random.chance(faults.rate(Fault::LateRegistration)) {
            at_us = at_us.max(self.plan.start_us) + random.between(60, 3600) * SECOND_US;
            self.tally.add(Fault::LateRegistration);
        } else if random.chance(faults.rate(Fault::VeryLateEvent)) {
            at_us += random.between(3600, 10_800) * SECOND_US;
            self.tally.add(Fault::VeryLateEvent);
        } else if random.chance(faults.rate(Fault::LateEvent)) {
            at_us += random.between(120, 2400) * SECOND_US;
            self.tally.add(Fault::LateEvent);
        }
        let partition = random.below(u64::from(self.plan.lifecycle_partitions)) as u32;
        let mut record = Record {
            topic: Topic::Lifecycle,
            partition,
            log_time_us: at_us,
            key: event.subject().as_bytes().to_vec(),
            payload: event.to_json()?,
            readings: 0,
        };
        if random.chance(faults.rate(Fault::RepeatedEvent)) {
            self.tally.add(Fault::RepeatedEvent);
            let again = at_us + random.between(0, 3600) * SECOND_US;
            self.post(event, Record { log_time_us: again, ..record.clone() });
        }
        self.post(event, record.clone());
        if random.chance(faults.rate(Fault::BadEvent)) {
            let (payload, reason) = some_bad_event(&mut random, number, at_us);
            self.tally.add(Fault::BadEvent);
            self.tally.quarantined(reason);
            self.tally.lifecycle_records += 1;
            record.payload = payload;
            self.push_record(record);
        }
        Ok(())
    }

    fn post(&mut self, event: &Event, record: Record) {
        self.tally.lifecycle_records += 1;
        let (partition, log_time_us) = (record.partition, record.log_time_us);
        self.push_record(record);
        self.posts.push(Post {
            partition,
            log_time_us,
            sent: self.sent,
            second: event.time_us.div_euclid(SECOND_US),
            grant: matches!(event.kind, EventKind::WalletGranted(_)).then(|| (event.source.clone(), event.id.clone())),
        });
    }

    /// The source, the id and the second from which each grant counts: the later of its own time and its partition's just before it.
    fn grants_counted(&mut self) -> Vec<(String, String, i64)> {
        self.posts.sort();
        let mut counted = Vec::new();
        let mut known = BTreeSet::new();
        let mut time = (0, i64::MIN);
        for post in &self.posts {
            if post.partition != time.0 {
                time = (post.partition, i64::MIN);
            }
            if let Some((source, id)) = post.grant.clone().filter(|grant| known.insert(grant.clone())) {
                counted.push((source, id, post.second.max(time.1)));
            }
            time.1 = time.1.max(post.second.min(post.log_time_us.div_euclid(SECOND_US)));
        }
        counted
    }

    /// Hands over all that arrives before a time. Whatever is sent later arrives later.
    fn deliver_until(
        &mut self,
        time_us: i64,
        sink: &mut dyn FnMut(Record) -> Result<(), FleetError>,
    ) -> Result<(), FleetError> {
        while let Some(Reverse(next)) = self.under_way.peek() {
            if next.record.log_time_us >= time_us {
                break;
            }
            if let Some(Reverse(arrived)) = self.under_way.pop() {
                sink(arrived.record)?;
            }
        }
        Ok(())
    }
}

impl UnderWay {
    fn order(&self) -> (i64, u64) {
        (self.record.log_time_us, self.sent)
    }
}

impl Ord for UnderWay {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for UnderWay {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for UnderWay {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for UnderWay {}

fn some_garbage(route: &mut Route, at_us: i64) -> Message {
    const DAY_US: i64 = 86_400 * SECOND_US;
    let reading_at = |time_us: i64| {
        let server = String::from_utf8_lossy(&route.key);
        format!(r#"{{"gpu":"{}","server":"{server}","time":{time_us},"util":1}}"#, route.gpu).into_bytes()
    };
    let (payload, reason) = match route.random.below(7) {
        0 => (reading_at(at_us - 40 * DAY_US), "time_behind"),
        1 => (reading_at(at_us + DAY_US), "time_ahead"),
        2 => (b"null".to_vec(), "malformed"),
        3 => (b"\"GPU\\n\"".to_vec(), "malformed"),
        4 => (b"{\"gpu\":\"GPU-\xc3\x28\",".to_vec(), "malformed"),
        5 => (vec![0x00, 0xff, b'\\', b'\n', b'\t', 0x80], "malformed"),
        _ => (b"collector: \\ reboot\tin\n5 s".to_vec(), "malformed"),
    };
    Message { payload, sound: 0, quarantine_reason: Some(reason) }
}

fn some_bad_event(random: &mut Random, number: usize, at_us: i64) -> (Vec<u8>, &'static str) {
    let time = rfc3339(at_us);
    let event = |kind: &str, data: &str| {
        format!(
            r#"{{"specversion":"1.0","id":"bad-{number}","source":"intern","type":"{kind}","time":"{time}","data":{data}}}"#
        )
        .into_bytes()
    };
    match random.below(5) {
        0 => (event("gpu.fan.replaced", "{}"), "unknown_event"),
        1 => (event("gpu.lease.started", "{}"), "malformed_event"),
        2 => (
            event("gpu.lease.started", r#"{"lease":"l","contract":"c","server":"s","slots":"all"}"#),
            "malformed_event",
        ),
        3 => (event("gpu.outage.closed", r#"{"outage":"o","fault":"weather"}"#), "malformed_event"),
        _ => (b"lease 17 started".to_vec(), "malformed_event"),
    }
}
