//! How a server's readings become messages of its format.

use super::random::Random;
use super::reading::{Mark, Pen, Reading, garble};
use super::scenario::Server;
use super::{Format, Formats, Plan, random_streams};

pub(super) struct Message {
    pub(super) payload: Vec<u8>,
    /// Readings that count.
    pub(super) sound: u32,
    pub(super) quarantine_reason: Option<&'static str>,
}

/// Gathers readings into messages of the server's format.
pub(super) struct Packer<'a> {
    server: &'a Server,
    format: Format,
    /// Seconds that a message may hold.
    hold: i64,
    pen: Pen,
    opened: Option<i64>,
    message: Message,
}

impl<'a> Packer<'a> {
    pub(super) fn new(plan: &Plan, number: usize, server: &'a Server) -> Self {
        let mut random = Random::new(plan.shuffle_seed, random_streams::ARRIVAL, number as u64);
        let format = match plan.formats {
            Formats::Only(format) => format,
            Formats::Mixed => match random.below(10) {
                0 => Format::Single,
                1 | 2 => Format::Array,
                3..=6 => Format::Node,
                _ => Format::NodeSeconds,
            },
        };
        let hold = match format {
            Format::Single | Format::Node => 1,
            Format::Array => random.pick(&[1, 1, 3]),
            Format::NodeSeconds => random.between(2, 11),
        };
        Packer { server, format, hold, pen: Pen::new(random.draw()), opened: None, message: Message::empty() }
    }

    pub(super) fn pack(&mut self, second: i64, readings: &[Reading], send: &mut dyn FnMut(Message)) {
        if readings.iter().any(|reading| matches!(reading.mark, Mark::Garbled(_))) {
            self.pack_garbled(readings, send);
        } else if !readings.is_empty() {
            self.append(second, readings, send);
        }
        if self.opened.is_some_and(|opened| second + 1 - opened >= self.hold) {
            self.flush(send);
        }
    }

    fn append(&mut self, second: i64, readings: &[Reading], send: &mut dyn FnMut(Message)) {
        let in_node = matches!(self.format, Format::Node | Format::NodeSeconds);
        let Packer { server, pen, message, .. } = self;
        let is_first = self.opened.is_none();
        let out = &mut message.payload;
        match self.format {
            Format::Single => {
                for reading in readings {
                    let gpu = &server.gpus[usize::from(reading.gpu)].id;
                    pen.reading(&mut message.payload, &server.name, gpu, reading);
                    message.count(reading, in_node);
                    send(message.take());
                }
                return;
            }
            Format::Array => {
                for (number, reading) in readings.iter().enumerate() {
                    out.push(if is_first && number == 0 { b'[' } else { b',' });
                    let gpu = &server.gpus[usize::from(reading.gpu)].id;
                    pen.reading(out, &server.name, gpu, reading);
                }
            }
            Format::Node | Format::NodeSeconds => {
                if is_first {
                    out.extend_from_slice(b"{\"server\":\"");
                    out.extend_from_slice(server.name.as_bytes());
                    out.push(b'"');
                }
                match (self.format, is_first) {
                    (Format::Node, _) => out.push(b','),
                    (_, true) => out.extend_from_slice(b",\"seconds\":[{"),
                    (_, false) => out.extend_from_slice(b",{"),
                }
                write_gpus(out, server, pen, readings);
                if self.format == Format::NodeSeconds {
                    out.push(b'}');
                }
            }
        }
        for reading in readings {
            message.count(reading, in_node);
        }
        self.opened = Some(self.opened.unwrap_or(second));
    }

    /// What is not JSON takes all of its message with it, so garbled readings travel by themselves.
    fn pack_garbled(&mut self, readings: &[Reading], send: &mut dyn FnMut(Message)) {
        let is_sound = |reading: &&Reading| !matches!(reading.mark, Mark::Garbled(_));
        let sound: Vec<Reading> = readings.iter().filter(is_sound).copied().collect();
        let garbled: Vec<Reading> = readings.iter().filter(|reading| !is_sound(reading)).copied().collect();
        let (server, pen) = (self.server, &mut self.pen);
        for readings in [sound, garbled] {
            let mut message = Message::empty();
            match readings.as_slice() {
                [] => continue,
                [reading] => {
                    let gpu = &server.gpus[usize::from(reading.gpu)].id;
                    pen.reading(&mut message.payload, &server.name, gpu, reading);
                }
                readings => {
                    let out = &mut message.payload;
                    out.extend_from_slice(b"{\"server\":\"");
                    out.extend_from_slice(server.name.as_bytes());
                    out.extend_from_slice(b"\",");
                    write_gpus(out, server, pen, readings);
                    out.push(b'}');
                }
            }
            for reading in &readings {
                message.count(reading, true);
            }
            if let Mark::Garbled(how) = readings[0].mark {
                garble(&mut message.payload, how);
            }
            send(message);
        }
    }

    pub(super) fn flush(&mut self, send: &mut dyn FnMut(Message)) {
        if self.opened.take().is_some() {
            self.message.payload.extend_from_slice(match self.format {
                Format::Single => b"",
                Format::Array => b"]",
                Format::Node => b"}",
                Format::NodeSeconds => b"]}",
            });
            send(self.message.take());
        }
    }
}

/// `"time":…,"gpus":[…]`
fn write_gpus(out: &mut Vec<u8>, server: &Server, pen: &mut Pen, readings: &[Reading]) {
    out.extend_from_slice(b"\"time\":");
    pen.time(out, readings[0].time_us);
    out.extend_from_slice(b",\"gpus\":");
    for (number, reading) in readings.iter().enumerate() {
        out.push(if number == 0 { b'[' } else { b',' });
        pen.entry(out, &server.gpus[usize::from(reading.gpu)].id, reading);
    }
    out.push(b']');
}

impl Message {
    fn empty() -> Self {
        Message { payload: Vec::new(), sound: 0, quarantine_reason: None }
    }

    fn count(&mut self, reading: &Reading, in_node: bool) {
        match reading.quarantine_reason(in_node) {
            None => self.sound += 1,
            Some(reason) => {
                self.quarantine_reason.get_or_insert(reason);
            }
        }
    }

    fn take(&mut self) -> Message {
        let payload = Vec::with_capacity(self.payload.len() + 64);
        Message {
            payload: std::mem::replace(&mut self.payload, payload),
            sound: std::mem::take(&mut self.sound),
            quarantine_reason: self.quarantine_reason.take(),
        }
    }

    pub(super) fn copy(&self) -> Message {
        Message { payload: self.payload.clone(), ..*self }
    }
}
