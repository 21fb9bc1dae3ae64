//! A reading and the ways to write it, straight into bytes.

use super::time::{Face, SECOND_US};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// Which of the server's GPUs.
    pub(crate) gpu: u16,
    pub(crate) time_us: i64,
    /// Thousandths; `NO_UTIL` where DCGM had nothing to say.
    pub(crate) util_milli: u16,
    pub(crate) power_deciwatts: u32,
    pub(crate) energy_j: u64,
    pub(crate) mem_bytes: u64,
    pub(crate) mark: Mark,
    /// Its clock is ahead of what is believed.
    pub(crate) far: bool,
}

pub(crate) const NO_UTIL: u16 = u16::MAX;

/// What is peculiar about a reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    Plain,
    /// Blank values beside a good utilisation.
    BlankOthers,
    /// Sound, but with unknown fields, escapes and white space.
    Odd,
    NoGpu,
    EmptyGpu,
    LongGpu,
    NumberGpu,
    NoServer,
    NoTime,
    TimeWithoutZone,
    UtilAboveOne,
    UtilNegative,
    UtilText,
    HealthText,
    /// Sent by itself, as something that is not JSON to its end.
    Garbled(u8),
}

impl Mark {
    pub(crate) const BAD: [Mark; 11] = [
        Mark::NoGpu,
        Mark::EmptyGpu,
        Mark::LongGpu,
        Mark::NumberGpu,
        Mark::NoServer,
        Mark::NoTime,
        Mark::TimeWithoutZone,
        Mark::UtilAboveOne,
        Mark::UtilNegative,
        Mark::UtilText,
        Mark::HealthText,
    ];

    /// A node batch says server and time once for all, so there a GPU's entry goes wrong in another field.
    fn within_node(self) -> Mark {
        match self {
            Mark::NoServer | Mark::NoTime => Mark::NoGpu,
            Mark::TimeWithoutZone => Mark::UtilAboveOne,
            other => other,
        }
    }

    fn quarantine_reason(self) -> Option<&'static str> {
        match self {
            Mark::Plain | Mark::BlankOthers | Mark::Odd => None,
            Mark::NoGpu | Mark::EmptyGpu | Mark::NoServer | Mark::NoTime => Some("missing_field"),
            Mark::Garbled(_) => Some("malformed"),
            _ => Some("bad_value"),
        }
    }
}

impl Reading {
    pub(crate) fn is_busy(&self) -> bool {
        self.util_milli != NO_UTIL && self.util_milli > 0
    }

    /// Why its message is quarantined, if it is.
    pub(crate) fn quarantine_reason(&self, in_node: bool) -> Option<&'static str> {
        let mark = if in_node { self.mark.within_node() } else { self.mark };
        let ahead = self.far.then_some("time_ahead");
        mark.quarantine_reason().or(ahead)
    }
}

/// How a server's exporter writes.
pub(crate) struct Pen {
    style: u64,
    face: Face,
    local_face: Face,
}

impl Pen {
    pub(crate) fn new(style: u64) -> Self {
        Pen { style, face: Face::new(), local_face: Face::new() }
    }

    /// `{"gpu":…,"server":…,"time":…, values}`
    pub(crate) fn reading(&mut self, out: &mut Vec<u8>, server: &str, gpu: &str, it: &Reading) {
        if it.mark == Mark::Odd {
            out.extend_from_slice(b"{\n  \"labels\" : {\"rack\":[\"a}\",{\"unit\":1.5e1}],\"note\":null},\n  ");
        } else {
            out.push(b'{');
        }
        match it.mark {
            Mark::NoServer => {}
            _ => {
                out.extend_from_slice(b"\"server\":\"");
                out.extend_from_slice(server.as_bytes());
                out.extend_from_slice(b"\",");
            }
        }
        match it.mark {
            Mark::NoTime => {}
            Mark::TimeWithoutZone => {
                out.extend_from_slice(b"\"time\":\"");
                let second = it.time_us.div_euclid(SECOND_US);
                out.extend_from_slice(self.face.at(second));
                out.extend_from_slice(b"\",");
            }
            _ => {
                out.extend_from_slice(b"\"time\":");
                self.time(out, it.time_us);
                out.push(b',');
            }
        }
        self.gpu_and_values(out, gpu, it, it.mark);
        out.push(b'}');
    }

    /// `{"gpu":…, values}`, an entry of a node batch.
    pub(crate) fn entry(&mut self, out: &mut Vec<u8>, gpu: &str, it: &Reading) {
        out.push(b'{');
        self.gpu_and_values(out, gpu, it, it.mark.within_node());
        out.push(b'}');
    }

    pub(crate) fn time(&mut self, out: &mut Vec<u8>, time_us: i64) {
        const LOCAL_SECONDS: i64 = 2 * 3600;
        let second = time_us.div_euclid(SECOND_US);
        let (face, zone) = match self.style % 4 {
            0 => return push_number(out, time_us as u64),
            1 => (self.local_face.at(second + LOCAL_SECONDS), "+02:00\""),
            _ => (self.face.at(second), "Z\""),
        };
        out.push(b'"');
        out.extend_from_slice(face);
        out.push(b'.');
        push_digits(out, time_us.rem_euclid(SECOND_US) as u64, 6);
        out.extend_from_slice(zone.as_bytes());
    }

    fn gpu_and_values(&mut self, out: &mut Vec<u8>, gpu: &str, it: &Reading, mark: Mark) {
        match mark {
            Mark::NoGpu => {}
            Mark::EmptyGpu => out.extend_from_slice(b"\"gpu\":\"\","),
            Mark::NumberGpu => out.extend_from_slice(b"\"gpu\":17,"),
            Mark::LongGpu => {
                out.extend_from_slice(b"\"gpu\":\"GPU-");
                out.extend_from_slice(&[b'f'; 66]);
                out.extend_from_slice(b"\",");
            }
            Mark::Odd => {
                // The hyphen of "GPU-…" as an escape: the identity is the same.
                out.extend_from_slice(b"\"\\u0067pu\" : \"GPU\\u002d");
                out.extend_from_slice(&gpu.as_bytes()[4..]);
                out.extend_from_slice(b"\",\t");
            }
            _ => {
                out.extend_from_slice(b"\"gpu\":\"");
                out.extend_from_slice(gpu.as_bytes());
                out.extend_from_slice(b"\",");
            }
        }
        out.extend_from_slice(b"\"util\":");
        match (mark, it.util_milli) {
            (Mark::UtilAboveOne, _) => out.extend_from_slice(b"1.7"),
            (Mark::UtilNegative, _) => out.extend_from_slice(b"-0.25"),
            (Mark::UtilText, _) => out.extend_from_slice(b"\"high\""),
            (_, NO_UTIL) if it.energy_j.is_multiple_of(2) => out.extend_from_slice(b"9223372036854775794"),
            (_, NO_UTIL) => out.extend_from_slice(b"140737488355328.0"),
            (_, milli) => {
                push_number(out, u64::from(milli / 1000));
                out.push(b'.');
                push_digits(out, u64::from(milli % 1000), 3);
            }
        }
        if mark == Mark::BlankOthers {
            out.extend_from_slice(
                b",\"power_w\":140737488355330.0,\"energy_j\":9223372036854775792,\
                  \"mem_bytes\":9223372036854775795,\"xid\":9223372036854775793",
            );
            return;
        }
        out.extend_from_slice(b",\"power_w\":");
        push_number(out, u64::from(it.power_deciwatts / 10));
        out.push(b'.');
        push_digits(out, u64::from(it.power_deciwatts % 10), 1);
        out.extend_from_slice(b",\"energy_j\":");
        push_number(out, it.energy_j);
        if self.style & 4 != 0 {
            out.extend_from_slice(b",\"mem_bytes\":");
            push_number(out, it.mem_bytes);
        }
        if mark == Mark::HealthText {
            out.extend_from_slice(b",\"healthy\":\"yes\"");
        } else if self.style & 8 != 0 {
            out.extend_from_slice(b",\"xid\":0,\"healthy\":true");
        }
        if self.style & 48 == 48 {
            out.extend_from_slice(b",\"collector\":\"dcgm-1\"");
        }
    }
}

/// Makes a message one that is not JSON to its end.
pub(crate) fn garble(message: &mut Vec<u8>, how: u8) {
    let somewhere = 1 + usize::from(how / 4) % (message.len() - 1);
    match how % 4 {
        0 => message.truncate(somewhere),
        1 => message.extend_from_slice(b"}\n"),
        2 => message.insert(2, b'\n'), // within the first name
        _ => message[2] = 0xff,        // not UTF-8, within the first name
    }
}

fn push_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn push_digits(out: &mut Vec<u8>, mut number: u64, width: usize) {
    let start = out.len();
    out.resize(start + width, b'0');
    for digit in out[start..].iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}
