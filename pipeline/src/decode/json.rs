//! A JSON message as a flat list of [`Node`]s, one per object, each of which knows what holds it. Strings are borrowed from the
//! message, and the list is used again for the next one, so that a reading allocates nothing. This is the way through any JSON there
//! is; most messages go the faster way of [`super::scan`].

use std::borrow::Cow;
use std::fmt;

use hydrometer_schemas::time::Micros;
use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// One JSON object: a reading, a node batch, or a second of one. `bad` names the first field that could not be believed.
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(super) struct Node<'a> {
    pub place: Place,
    pub gpu: Option<Cow<'a, str>>,
    pub server: Option<Cow<'a, str>>,
    pub time: Option<Time<'a>>,
    pub util: Option<f64>,
    pub power_w: Option<f64>,
    pub energy_j: Option<i64>,
    pub mem_bytes: Option<i64>,
    pub xid: Option<i32>,
    pub healthy: Option<bool>,
    /// Whether it holds such a list; then it is no reading itself.
    pub gpus: bool,
    pub seconds: bool,
    pub bad: Option<&'static str>,
}

/// Where an object stands in its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Only,
    /// Of an array of messages.
    Element {
        index: u32,
    },
    /// `parent` is the number of the node that holds it.
    Second {
        parent: u32,
        index: u32,
    },
    Gpu {
        parent: u32,
        index: u32,
    },
}

#[cfg_attr(test, derive(Debug, PartialEq))]
pub(super) enum Time<'a> {
    Micros(Micros),
    Text(Cow<'a, str>),
}

/// Reads a message into `nodes`, which are empty. What holds others stands before them. After an error they are of no use.
pub(super) fn read<'a>(text: &'a str, nodes: &mut Vec<Node<'a>>) -> Result<(), serde_json::Error> {
    let mut json = serde_json::Deserializer::from_str(text);
    if !json.deserialize_any(Expected { nodes, what: What::Message })? {
        return Err(serde_json::Error::custom("neither an object nor an array of objects"));
    }
    json.end()
}

/// The same list for another message: empty, with the room that it has.
pub(super) fn emptied<'to>(mut nodes: Vec<Node<'_>>) -> Vec<Node<'to>> {
    nodes.clear();
    // Nothing is mapped, but the type is: collected in place, the vector keeps its allocation.
    #[allow(clippy::unnecessary_filter_map)]
    nodes.into_iter().filter_map(|_| None).collect()
}

/// What should stand somewhere; the value says whether it did. Anything else is read over, so that one wrong element spoils nothing
/// but itself.
struct Expected<'n, 'de> {
    nodes: &'n mut Vec<Node<'de>>,
    what: What,
}

#[derive(Clone, Copy)]
pub(super) enum What {
    Message,
    Object(Place),
    Gpus { parent: u32 },
    Seconds { parent: u32 },
}

impl What {
    /// Where an element of such a list stands.
    pub fn place(self, index: u32) -> Option<Place> {
        match self {
            What::Message => Some(Place::Element { index }),
            What::Gpus { parent } => Some(Place::Gpu { parent, index }),
            What::Seconds { parent } => Some(Place::Second { parent, index }),
            What::Object(_) => None,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Expected<'_, 'de> {
    type Value = bool;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Expected<'_, 'de> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object or an array of objects")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<bool, A::Error> {
        match self.what {
            What::Message => read_object(map, self.nodes, Place::Only)?,
            What::Object(place) => read_object(map, self.nodes, place)?,
            What::Gpus { .. } | What::Seconds { .. } => {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<bool, A::Error> {
        let mut index = 0;
        while let Some(place) = self.what.place(index) {
            let element = Expected { nodes: &mut *self.nodes, what: What::Object(place) };
            match seq.next_element_seed(element)? {
                Some(true) => {}
                Some(false) => self.nodes.push(Node { bad: Some("the element"), ..Node::at(place) }),
                None => return Ok(true),
            }
            index += 1;
        }
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(false)
    }

    fn visit_bool<E>(self, _: bool) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_i64<E>(self, _: i64) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_u64<E>(self, _: u64) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_f64<E>(self, _: f64) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_str<E>(self, _: &str) -> Result<bool, E> {
        Ok(false)
    }
    fn visit_unit<E>(self) -> Result<bool, E> {
        Ok(false)
    }
}

fn read_object<'de, A: MapAccess<'de>>(mut map: A, nodes: &mut Vec<Node<'de>>, place: Place) -> Result<(), A::Error> {
    let number = nodes.len();
    nodes.push(Node::at(place));
    while let Some(key) = map.next_key::<Key>()? {
        if let Some(what) = key.list(place, number as u32) {
            let is_list = map.next_value_seed(Expected { nodes: &mut *nodes, what })?;
            nodes[number].has_list(what, is_list);
        } else if matches!(key, Key::Gpus | Key::Seconds | Key::Unknown) {
            map.next_value::<IgnoredAny>()?;
        } else {
            let value = map.next_value::<Scalar>()?;
            nodes[number].has(key, value);
        }
    }
    Ok(())
}

impl<'a> Node<'a> {
    pub fn at(place: Place) -> Node<'a> {
        Node {
            place,
            gpu: None,
            server: None,
            time: None,
            util: None,
            power_w: None,
            energy_j: None,
            mem_bytes: None,
            xid: None,
            healthy: None,
            gpus: false,
            seconds: false,
            bad: None,
        }
    }

    fn refuse(&mut self, field: &'static str) {
        self.bad.get_or_insert(field);
    }

    pub fn has_list(&mut self, what: What, is_list: bool) {
        let (seen, field) = match what {
            What::Gpus { .. } => (&mut self.gpus, "gpus"),
            _ => (&mut self.seconds, "seconds"),
        };
        // The elements of a list that stands there twice could not be told apart.
        let twice = std::mem::replace(seen, is_list) && is_list;
        if !is_list || twice {
            self.refuse(field);
        }
    }

    pub fn has(&mut self, key: Key, value: Scalar<'a>) {
        match key {
            Key::Gpu => self.gpu = self.text(value, "gpu"),
            Key::Server => self.server = self.text(value, "server"),
            Key::Time => self.time = self.time(value),
            Key::Util => {
                self.util = self.float(value, "util");
                if self.util.is_some_and(|util| !(0.0..=1.0).contains(&util)) {
                    self.refuse("util");
                }
            }
            Key::Power => self.power_w = self.float(value, "power_w"),
            Key::Energy => self.energy_j = self.integer(value, "energy_j"),
            Key::Mem => self.mem_bytes = self.integer(value, "mem_bytes"),
            Key::Xid => {
                let wide = self.integer(value, "xid");
                self.xid = wide.and_then(|x| i32::try_from(x).ok());
                if wide.is_some() && self.xid.is_none() {
                    self.refuse("xid");
                }
            }
            Key::Healthy => match value {
                Scalar::Bool(healthy) => self.healthy = Some(healthy),
                Scalar::Null => {}
                _ => self.refuse("healthy"),
            },
            Key::Gpus | Key::Seconds | Key::Unknown => {}
        }
    }

    fn text(&mut self, value: Scalar<'a>, field: &'static str) -> Option<Cow<'a, str>> {
        match value {
            Scalar::Text(text) => Some(text),
            Scalar::Null => None,
            _ => {
                self.refuse(field);
                None
            }
        }
    }

    fn time(&mut self, value: Scalar<'a>) -> Option<Time<'a>> {
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

    fn float(&mut self, value: Scalar<'a>, field: &'static str) -> Option<f64> {
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

    fn integer(&mut self, value: Scalar<'a>, field: &'static str) -> Option<i64> {
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
}

/// DCGM's blank values: "no reading", never a number.
fn is_blank_integer(value: i64) -> bool {
    value >= 9_223_372_036_854_775_792
}

fn is_blank_float(value: f64) -> bool {
    (140_737_488_355_328.0..140_737_488_355_332.0).contains(&value)
}

/// Any JSON value where a scalar is expected. Deserializing never fails on a wrong type, so one bad field spoils one reading only.
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text(Cow<'a, str>),
    Other,
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
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

/// The fields that are known; anything else is ignored.
#[derive(Clone, Copy)]
pub(super) enum Key {
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

impl Key {
    pub fn of(name: &str) -> Key {
        match name {
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
        }
    }

    /// Lists are where a message and a second may have them; deeper, they are unknown fields.
    pub fn list(self, place: Place, parent: u32) -> Option<What> {
        match (self, place) {
            (Key::Gpus, Place::Only | Place::Element { .. } | Place::Second { .. }) => Some(What::Gpus { parent }),
            (Key::Seconds, Place::Only | Place::Element { .. }) => Some(What::Seconds { parent }),
            _ => None,
        }
    }
}

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a field name")
            }
            fn visit_str<E>(self, name: &str) -> Result<Key, E> {
                Ok(Key::of(name))
            }
        }
        deserializer.deserialize_identifier(V)
    }
}
