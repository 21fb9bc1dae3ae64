//! Bytes to readings. A pure function of the record's bytes and its log time (plus names already interned); it knows no registry.
//!
//! Messages are parsed with borrowed strings into a tree of [`Node`]s, one per JSON object, and then emitted into columns, so that a
//! message that breaks off half way leaves nothing behind.

use std::borrow::Cow;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::HashTable;
use hydrometer_schemas::quarantine::{Reason, Refusal};
use hydrometer_schemas::time::{MICROS_PER_MINUTE, Micros, parse_rfc3339};
use hydrometer_schemas::{IDENTITY_BYTES_MAX, MESSAGE_BYTES_MAX};
use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A reading may be this far ahead of the log time of its record …
pub const AHEAD_MAX: Micros = 5 * MICROS_PER_MINUTE;
/// … or this far behind it; beyond, its clock is not believed.
pub const BEHIND_MAX: Micros = 35 * 24 * 60 * MICROS_PER_MINUTE;

/// The GPUs seen in a partition, as dense numbers. The window's folds look a GPU's group up by this number.
pub struct Identities {
    table: HashTable<u32>,
    hasher: hashbrown::DefaultHashBuilder,
    names: Vec<(Arc<str>, Arc<str>)>,
    servers: HashTable<Arc<str>>,
    limit: usize,
}

impl Identities {
    pub fn new(limit: usize) -> Identities {
        Identities {
            table: HashTable::new(),
            hasher: hashbrown::DefaultHashBuilder::default(),
            names: Vec::new(),
            servers: HashTable::new(),
            limit,
        }
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// (server, GPU)
    pub fn name(&self, identity: u32) -> &(Arc<str>, Arc<str>) {
        &self.names[identity as usize]
    }

    /// `None` when the bound is reached.
    fn intern(&mut self, server: &str, gpu: &str) -> Option<u32> {
        let hash = self.hasher.hash_one((server, gpu));
        let names = &self.names;
        let same = |&id: &u32| {
            let (s, g) = &names[id as usize];
            **g == *gpu && **s == *server
        };
        if let Some(known) = self.table.find(hash, same) {
            return Some(*known);
        }
        if self.names.len() >= self.limit {
            return None;
        }
        let id = self.names.len() as u32;
        let server = self.intern_server(server);
        self.names.push((server, Arc::from(gpu)));
        let (hasher, names) = (&self.hasher, &self.names);
        self.table.insert_unique(hash, id, |&id| {
            let (s, g) = &names[id as usize];
            hasher.hash_one((&**s, &**g))
        });
        Some(id)
    }

    fn intern_server(&mut self, server: &str) -> Arc<str> {
        let hash = self.hasher.hash_one(server);
        if let Some(known) = self.servers.find(hash, |s| **s == *server) {
            return known.clone();
        }
        let name: Arc<str> = Arc::from(server);
        let hasher = &self.hasher;
        self.servers.insert_unique(hash, name.clone(), |s| hasher.hash_one(&**s));
        name
    }
}

/// Decoded readings, one column per field; all columns have the same length.
#[derive(Default)]
pub struct Readings {
    pub identity: Vec<u32>,
    pub time: Vec<Micros>,
    pub log_time: Vec<Micros>,
    pub offset: Vec<i64>,
    pub busy: Vec<bool>,
    pub healthy: Vec<bool>,
    pub power_w: Vec<Option<f64>>,
    pub energy_j: Vec<Option<i64>>,
    pub mem_bytes: Vec<Option<i64>>,
    /// 0: none.
    pub xid: Vec<i32>,
}

impl Readings {
    pub fn len(&self) -> usize {
        self.time.len()
    }

    pub fn is_empty(&self) -> bool {
        self.time.is_empty()
    }

    pub fn clear(&mut self) {
        self.identity.clear();
        self.time.clear();
        self.log_time.clear();
        self.offset.clear();
        self.busy.clear();
        self.healthy.clear();
        self.power_w.clear();
        self.energy_j.clear();
        self.mem_bytes.clear();
        self.xid.clear();
    }
}

/// Decodes one `json` record into `out`. An error says why the record goes to quarantine; readings of the record that were good are
/// in `out` all the same (metering is idempotent, so replaying the record after a fix does no harm).
pub fn decode_json(
    payload: &[u8],
    offset: i64,
    log_time: Micros,
    identities: &mut Identities,
    out: &mut Readings,
) -> Result<(), Refusal> {
    if payload.len() > MESSAGE_BYTES_MAX {
        return Err(Refusal::new(Reason::TooLarge, format!("{} bytes, at most {MESSAGE_BYTES_MAX}", payload.len())));
    }
    let message: Message<'_> =
        serde_json::from_slice(payload).map_err(|e| Refusal::new(Reason::Malformed, e.to_string()))?;
    let mut emit = Emit { offset, log_time, identities, out, first_refusal: None };
    match &message {
        Message::One(node) => emit.top(node, None),
        Message::Many(nodes) => {
            for (i, node) in nodes.iter().enumerate() {
                emit.top(node, Some(i));
            }
        }
    }
    emit.first_refusal.map_or(Ok(()), Err)
}

struct Emit<'a> {
    offset: i64,
    log_time: Micros,
    identities: &'a mut Identities,
    out: &'a mut Readings,
    first_refusal: Option<Refusal>,
}

impl Emit<'_> {
    fn top(&mut self, node: &Node<'_>, index: Option<usize>) {
        let place = || index.map_or(String::new(), |i| format!("element {i}: "));
        if let Some(seconds) = &node.seconds {
            for (s, second) in seconds.iter().enumerate() {
                let Some(gpus) = &second.gpus else {
                    if let Some(field) = second.bad {
                        let wrong = "has a wrong type or is out of range";
                        self.refuse(Reason::BadValue, || format!("{}seconds[{s}]: {field} {wrong}", place()));
                        continue;
                    }
                    self.refuse(Reason::MissingField, || format!("{}seconds[{s}]: gpus is missing", place()));
                    continue;
                };
                for (g, gpu) in gpus.iter().enumerate() {
                    self.reading(gpu, [second, node], || format!("{}seconds[{s}].gpus[{g}]: ", place()));
                }
            }
        } else if let Some(gpus) = &node.gpus {
            for (g, gpu) in gpus.iter().enumerate() {
                self.reading(gpu, [node, node], || format!("{}gpus[{g}]: ", place()));
            }
        } else {
            self.reading(node, [node, node], place);
        }
    }

    /// Emits one reading; what it lacks is looked up in what holds it.
    fn reading(&mut self, node: &Node<'_>, outer: [&Node<'_>; 2], place: impl Fn() -> String) {
        if let Some(field) = node.bad.or(outer[0].bad).or(outer[1].bad) {
            return self.refuse(Reason::BadValue, || format!("{}{field} has a wrong type or is out of range", place()));
        }
        let server = node.server.as_ref().or(outer[0].server.as_ref()).or(outer[1].server.as_ref());
        let time = node.time.as_ref().or(outer[0].time.as_ref()).or(outer[1].time.as_ref());
        let (Some(gpu), Some(server), Some(time)) = (&node.gpu, server, time) else {
            let missing = if node.gpu.is_none() {
                "gpu"
            } else if server.is_none() {
                "server"
            } else {
                "time"
            };
            return self.refuse(Reason::MissingField, || format!("{}{missing} is missing", place()));
        };
        for (name, identity) in [("gpu", gpu), ("server", server)] {
            if identity.is_empty() {
                return self.refuse(Reason::MissingField, || format!("{}{name} is empty", place()));
            }
            if identity.len() > IDENTITY_BYTES_MAX || identity.bytes().any(|b| b.is_ascii_control()) {
                let what = format!("is longer than {IDENTITY_BYTES_MAX} bytes or holds a control character");
                return self.refuse(Reason::BadValue, || format!("{}{name} {what}", place()));
            }
        }
        let time = match time {
            Time::Micros(time) => *time,
            Time::Text(text) => match parse_rfc3339(text) {
                Some(time) => time,
                None => {
                    return self.refuse(Reason::BadValue, || format!("{}time is not RFC 3339 with a zone", place()));
                }
            },
        };
        if time > self.log_time.saturating_add(AHEAD_MAX) {
            let ahead = time.saturating_sub(self.log_time) / 1_000_000;
            return self.refuse(Reason::TimeAhead, || format!("{}time is {ahead} s ahead of the log time", place()));
        }
        if time < self.log_time.saturating_sub(BEHIND_MAX) {
            let behind = self.log_time.saturating_sub(time) / 1_000_000;
            return self.refuse(Reason::TimeBehind, || format!("{}time is {behind} s behind the log time", place()));
        }
        let Some(identity) = self.identities.intern(server, gpu) else {
            return self.refuse(Reason::TooManyIdentities, || {
                format!("{}the bound on GPUs per partition is reached (limits.identities_per_partition)", place())
            });
        };
        let out = &mut *self.out;
        out.identity.push(identity);
        out.time.push(time);
        out.log_time.push(self.log_time);
        out.offset.push(self.offset);
        out.busy.push(node.util.is_some_and(|util| util > 0.0));
        out.healthy.push(node.healthy == Some(true));
        out.power_w.push(node.power_w);
        out.energy_j.push(node.energy_j);
        out.mem_bytes.push(node.mem_bytes);
        out.xid.push(node.xid.unwrap_or(0));
    }

    fn refuse(&mut self, reason: Reason, detail: impl FnOnce() -> String) {
        if self.first_refusal.is_none() {
            self.first_refusal = Some(Refusal::new(reason, detail()));
        }
    }
}

enum Message<'a> {
    One(Box<Node<'a>>),
    Many(Vec<Node<'a>>),
}

/// One JSON object: a reading, a node batch, or a second of one. `bad` names the first field that could not be believed.
#[derive(Default)]
struct Node<'a> {
    gpu: Option<Cow<'a, str>>,
    server: Option<Cow<'a, str>>,
    time: Option<Time<'a>>,
    util: Option<f64>,
    power_w: Option<f64>,
    energy_j: Option<i64>,
    mem_bytes: Option<i64>,
    xid: Option<i32>,
    healthy: Option<bool>,
    gpus: Option<Vec<Node<'a>>>,
    seconds: Option<Vec<Node<'a>>>,
    bad: Option<&'static str>,
}

enum Time<'a> {
    Micros(Micros),
    Text(Cow<'a, str>),
}

/// DCGM's blank values: "no reading", never a number.
fn is_blank_integer(value: i64) -> bool {
    value >= 9_223_372_036_854_775_792
}

fn is_blank_float(value: f64) -> bool {
    (140_737_488_355_328.0..140_737_488_355_332.0).contains(&value)
}

/// Any JSON value where a scalar is expected. Deserializing never fails on a wrong type, so one bad field spoils one reading only.
enum Scalar<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(Cow<'a, str>),
    Other,
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Scalar<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_bool<E>(self, v: bool) -> Result<Self::Value, E> {
                Ok(Scalar::Bool(v))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Self::Value, E> {
                Ok(Scalar::Integer(v))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Self::Value, E> {
                Ok(i64::try_from(v).map_or(Scalar::Other, Scalar::Integer))
            }
            fn visit_f64<E>(self, v: f64) -> Result<Self::Value, E> {
                Ok(Scalar::Float(v))
            }
            fn visit_borrowed_str<E>(self, v: &'de str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Cow::Borrowed(v)))
            }
            fn visit_str<E>(self, v: &str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Cow::Owned(v.to_owned())))
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Scalar::Null)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }
        }
        deserializer.deserialize_any(V)
    }
}

/// The fields a reading knows; anything else is ignored.
#[derive(Clone, Copy)]
enum Key {
    Gpu,
    Server,
    Time,
    Util,
    Power,
    Energy,
    Mem,
    Xid,
    Healthy,
    Gpus,
    Seconds,
    Unknown,
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a field name")
            }
            fn visit_str<E>(self, name: &str) -> Result<Key, E> {
                Ok(match name {
                    "gpu" => Key::Gpu,
                    "server" => Key::Server,
                    "time" => Key::Time,
                    "util" => Key::Util,
                    "power_w" => Key::Power,
                    "energy_j" => Key::Energy,
                    "mem_bytes" => Key::Mem,
                    "xid" => Key::Xid,
                    "healthy" => Key::Healthy,
                    "gpus" => Key::Gpus,
                    "seconds" => Key::Seconds,
                    _ => Key::Unknown,
                })
            }
        }
        deserializer.deserialize_identifier(V)
    }
}

impl<'de> Node<'de> {
    fn read<A: MapAccess<'de>>(mut map: A) -> Result<Node<'de>, A::Error> {
        let mut node = Node::default();
        while let Some(key) = map.next_key::<Key>()? {
            match key {
                Key::Gpu => node.gpu = node.text(map.next_value()?, "gpu"),
                Key::Server => node.server = node.text(map.next_value()?, "server"),
                Key::Time => node.time = node.time(map.next_value()?),
                Key::Util => {
                    node.util = node.float(map.next_value()?, "util");
                    if node.util.is_some_and(|util| !(0.0..=1.0).contains(&util)) {
                        node.refuse("util");
                    }
                }
                Key::Power => node.power_w = node.float(map.next_value()?, "power_w"),
                Key::Energy => node.energy_j = node.integer(map.next_value()?, "energy_j"),
                Key::Mem => node.mem_bytes = node.integer(map.next_value()?, "mem_bytes"),
                Key::Xid => {
                    let wide = node.integer(map.next_value()?, "xid");
                    node.xid = wide.and_then(|x| i32::try_from(x).ok());
                    if wide.is_some() && node.xid.is_none() {
                        node.refuse("xid");
                    }
                }
                Key::Healthy => match map.next_value::<Scalar>()? {
                    Scalar::Bool(healthy) => node.healthy = Some(healthy),
                    Scalar::Null => {}
                    _ => node.refuse("healthy"),
                },
                Key::Gpus => node.gpus = node.list(map.next_value()?, "gpus"),
                Key::Seconds => node.seconds = node.list(map.next_value()?, "seconds"),
                Key::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(node)
    }

    fn refuse(&mut self, field: &'static str) {
        self.bad.get_or_insert(field);
    }

    fn text(&mut self, value: Scalar<'de>, field: &'static str) -> Option<Cow<'de, str>> {
        match value {
            Scalar::Text(text) => Some(text),
            Scalar::Null => None,
            _ => {
                self.refuse(field);
                None
            }
        }
    }

    fn time(&mut self, value: Scalar<'de>) -> Option<Time<'de>> {
        match value {
            Scalar::Text(text) => Some(Time::Text(text)),
            Scalar::Integer(micros) => Some(Time::Micros(micros)),
            Scalar::Null => None,
            _ => {
                self.refuse("time");
                None
            }
        }
    }

    fn float(&mut self, value: Scalar<'de>, field: &'static str) -> Option<f64> {
        match value {
            Scalar::Float(v) if is_blank_float(v) => None,
            Scalar::Integer(v) if is_blank_integer(v) || is_blank_float(v as f64) => None,
            Scalar::Float(v) => Some(v),
            Scalar::Integer(v) => Some(v as f64),
            Scalar::Null => None,
            _ => {
                self.refuse(field);
                None
            }
        }
    }

    fn integer(&mut self, value: Scalar<'de>, field: &'static str) -> Option<i64> {
        match value {
            Scalar::Integer(v) if is_blank_integer(v) => None,
            Scalar::Float(v) if is_blank_float(v) => None,
            Scalar::Integer(v) if v >= 0 => Some(v),
            Scalar::Null => None,
            _ => {
                self.refuse(field);
                None
            }
        }
    }

    fn list(&mut self, value: List<'de>, field: &'static str) -> Option<Vec<Node<'de>>> {
        if value.0.is_none() {
            self.refuse(field);
        }
        value.0
    }
}

/// An array of objects; `None` for anything else.
struct List<'a>(Option<Vec<Node<'a>>>);

/// What may stand where an object is expected: an object, an array of objects, or something that is neither.
enum Shape<'a> {
    Object(Node<'a>),
    Array(Vec<Node<'a>>),
    Neither,
}

impl<'de> Deserialize<'de> for Shape<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Shape<'de>;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object or an array of objects")
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                Node::read(map).map(Shape::Object)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut nodes = Vec::new();
                while let Some(shape) = seq.next_element::<Shape>()? {
                    nodes.push(match shape {
                        Shape::Object(node) => node,
                        _ => Node { bad: Some("the element"), ..Node::default() },
                    });
                }
                Ok(Shape::Array(nodes))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Shape::Neither)
            }
            fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
                Ok(Shape::Neither)
            }
            fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
                Ok(Shape::Neither)
            }
            fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
                Ok(Shape::Neither)
            }
            fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
                Ok(Shape::Neither)
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Shape::Neither)
            }
        }
        deserializer.deserialize_any(V)
    }
}

impl<'de> Deserialize<'de> for List<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Shape::deserialize(deserializer)? {
            Shape::Array(nodes) => List(Some(nodes)),
            _ => List(None),
        })
    }
}

impl<'de> Deserialize<'de> for Message<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Shape::deserialize(deserializer)? {
            Shape::Object(node) => Ok(Message::One(Box::new(node))),
            Shape::Array(nodes) => Ok(Message::Many(nodes)),
            Shape::Neither => Err(serde::de::Error::custom("neither an object nor an array of objects")),
        }
    }
}

#[cfg(test)]
mod tests;
