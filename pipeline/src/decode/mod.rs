//! Bytes to readings. A pure function of the record's bytes and its log time (plus names already interned); it knows no registry.
//!
//! A message is read whole ([`scan`], or else [`json`]) before its readings are emitted into columns, so that one that breaks off half way leaves nothing
//! behind.

mod identities;
mod json;
mod scan;

pub use identities::Identities;

use hydrometer_schemas::quarantine::{Reason, Refusal};
use hydrometer_schemas::time::{MICROS_PER_MINUTE, Micros, parse_rfc3339};
use hydrometer_schemas::{IDENTITY_BYTES_MAX, MESSAGE_BYTES_MAX};
use json::{Node, Place, Time};

/// A reading may be this far ahead of the log time of its record …
pub const AHEAD_MAX: Micros = 5 * MICROS_PER_MINUTE;
/// … or this far behind it; beyond, its clock is not believed.
pub const BEHIND_MAX: Micros = 35 * 24 * 60 * MICROS_PER_MINUTE;

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

/// Decodes the records of a partition, one after another; what it keeps between them is the GPUs' names, and room.
pub struct Decoder {
    identities: Identities,
    nodes: Vec<Node<'static>>,
}

impl Decoder {
    /// Knows at most so many GPUs.
    pub fn new(identities: usize) -> Decoder {
        Decoder { identities: Identities::new(identities), nodes: Vec::new() }
    }

    pub fn identities(&self) -> &Identities {
        &self.identities
    }

    /// Decodes one `json` record into `out`. An error says why the record goes to quarantine; readings of the record that were good
    /// are in `out` all the same (metering is idempotent, so replaying the record after a fix does no harm).
    pub fn json(&mut self, payload: &[u8], offset: i64, log_time: Micros, out: &mut Readings) -> Result<(), Refusal> {
        if payload.len() > MESSAGE_BYTES_MAX {
            return Err(Refusal::new(
                Reason::TooLarge,
                format!("{} bytes, at most {MESSAGE_BYTES_MAX}", payload.len()),
            ));
        }
        let mut nodes = json::emptied(std::mem::take(&mut self.nodes));
        let result =
            read(payload, &mut nodes).map_err(|detail| Refusal::new(Reason::Malformed, detail)).and_then(|()| {
                let identities = &mut self.identities;
                let mut emit = Emit { nodes: &nodes, offset, log_time, identities, out, first_refusal: None };
                nodes.iter().for_each(|node| emit.node(node));
                emit.first_refusal.map_or(Ok(()), Err)
            });
        self.nodes = json::emptied(nodes);
        result
    }
}

fn read<'a>(payload: &'a [u8], nodes: &mut Vec<Node<'a>>) -> Result<(), String> {
    // Checked as a whole, so that not every string is checked by itself.
    let text = std::str::from_utf8(payload).map_err(|e| e.to_string())?;
    if scan::read(text, nodes) {
        return Ok(());
    }
    nodes.clear();
    json::read(text, nodes).map_err(|e| e.to_string())
}

struct Emit<'a, 'n> {
    nodes: &'n [Node<'n>],
    offset: i64,
    log_time: Micros,
    identities: &'a mut Identities,
    out: &'a mut Readings,
    first_refusal: Option<Refusal>,
}

impl<'n> Emit<'_, 'n> {
    fn node(&mut self, node: &'n Node<'n>) {
        match node.place {
            Place::Only | Place::Element { .. } => {
                if !node.gpus && !node.seconds {
                    self.reading(node, [node, node]);
                }
            }
            Place::Second { .. } => {
                if !node.gpus {
                    match node.bad {
                        Some(field) => self.bad_field(node, field),
                        None => self.refuse(Reason::MissingField, node, "gpus is missing"),
                    }
                }
            }
            Place::Gpu { parent, .. } => {
                let parent = &self.nodes[parent as usize];
                match parent.place {
                    Place::Second { parent: top, .. } => self.reading(node, [parent, &self.nodes[top as usize]]),
                    // Seconds win where a message has both.
                    _ if parent.seconds => {}
                    _ => self.reading(node, [parent, parent]),
                }
            }
        }
    }

    /// Emits one reading; what it lacks is looked up in what holds it.
    fn reading(&mut self, node: &Node<'_>, outer: [&Node<'_>; 2]) {
        if let Some(field) = node.bad.or(outer[0].bad).or(outer[1].bad) {
            return self.bad_field(node, field);
        }
        let server = node.server.as_ref().or(outer[0].server.as_ref()).or(outer[1].server.as_ref());
        let time = node.time.as_ref().or(outer[0].time.as_ref()).or(outer[1].time.as_ref());
        let (Some(gpu), Some(server), Some(time)) = (&node.gpu, server, time) else {
            let missing = if node.gpu.is_none() {
                "gpu is missing"
            } else if server.is_none() {
                "server is missing"
            } else {
                "time is missing"
            };
            return self.refuse(Reason::MissingField, node, missing);
        };
        for (name, identity) in [("gpu", gpu), ("server", server)] {
            if identity.is_empty() {
                return self.refuse(Reason::MissingField, node, &format!("{name} is empty"));
            }
            if identity.len() > IDENTITY_BYTES_MAX || identity.bytes().any(|b| b.is_ascii_control()) {
                let what = format!("{name} is longer than {IDENTITY_BYTES_MAX} bytes or holds a control character");
                return self.refuse(Reason::BadValue, node, &what);
            }
        }
        let time = match time {
            Time::Micros(time) => *time,
            Time::Text(text) => match parse_rfc3339(text) {
                Some(time) => time,
                None => return self.refuse(Reason::BadValue, node, "time is not RFC 3339 with a zone"),
            },
        };
        if time > self.log_time.saturating_add(AHEAD_MAX) {
            let ahead = time.saturating_sub(self.log_time) / 1_000_000;
            return self.refuse(Reason::TimeAhead, node, &format!("time is {ahead} s ahead of the log time"));
        }
        if time < self.log_time.saturating_sub(BEHIND_MAX) {
            let behind = self.log_time.saturating_sub(time) / 1_000_000;
            return self.refuse(Reason::TimeBehind, node, &format!("time is {behind} s behind the log time"));
        }
        let Some(identity) = self.identities.intern(server, gpu) else {
            let what = "the bound on GPUs per partition is reached (limits.identities_per_partition)";
            return self.refuse(Reason::TooManyIdentities, node, what);
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

    fn bad_field(&mut self, node: &Node<'_>, field: &str) {
        self.refuse(Reason::BadValue, node, &format!("{field} has a wrong type or is out of range"));
    }

    fn refuse(&mut self, reason: Reason, node: &Node<'_>, what: &str) {
        if self.first_refusal.is_none() {
            self.first_refusal = Some(Refusal::new(reason, format!("{}{what}", self.place(node))));
        }
    }

    /// Where in its message a node stands, for people.
    fn place(&self, node: &Node<'_>) -> String {
        let within = |parent: u32| self.place(&self.nodes[parent as usize]);
        match node.place {
            Place::Only => String::new(),
            Place::Element { index } => format!("element {index}: "),
            Place::Second { parent, index } => format!("{}seconds[{index}]: ", within(parent)),
            Place::Gpu { parent, index } => {
                let holder = within(parent);
                match self.nodes[parent as usize].place {
                    Place::Second { .. } => format!("{}.gpus[{index}]: ", holder.trim_end_matches(": ")),
                    _ => format!("{holder}gpus[{index}]: "),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
