//! What was metered of closed minutes whose windows are not rated yet: by server, GPU and minute. A cache of what the manifest
//! holds. Of what came before it keeps the last metered minute of each GPU, since counters and XIDs are read against it, and the
//! seconds of fatal XIDs, since they last.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use hydrometer_rating::classes::Masks;
use hydrometer_rating::energy::{CounterReading, Energy, GAP_MAX};
use hydrometer_rating::history::Span;
use hydrometer_rating::xid::XidPolicy;
use hydrometer_schemas::time::{MICROS_PER_SECOND, Minute, SECONDS_PER_MINUTE, Second};
use hydrometer_sinks::usage::{CounterReading as Counter, UsageRow};

/// A first sighting of a fatal XID: (server, GPU, second, XID).
pub type FatalXid = (String, String, Second, i32);

/// How far back the minute before the first one is looked for: beyond it a counter's gap is not bridged anyway.
pub const LOOK_BACK_HOURS: i64 = 24;

/// What a metered minute says for rating.
#[derive(Debug, Clone, Default)]
struct Metered {
    masks: Masks,
    memory: Option<i64>,
    /// First and last reading of the energy counter.
    energy: Option<(Counter, Counter)>,
    /// Fatal XIDs with the first second of the minute in which they were reported.
    fatal: Vec<(i32, u8)>,
}

#[derive(Debug, Clone, Default)]
struct Gpu {
    minutes: BTreeMap<Minute, Metered>,
    /// The last metered minute before those above.
    before: Option<(Minute, Metered)>,
    /// Seconds of fatal XIDs that were found before, by now on record or on their way there.
    edges: BTreeSet<(Second, i32)>,
}

#[derive(Debug)]
pub struct Evidence {
    servers: HashMap<Arc<str>, HashMap<Arc<str>, Gpu>>,
    /// The first minute that is held whole.
    since: Minute,
    xids: XidPolicy,
}

impl Evidence {
    /// Evidence for windows from a second on.
    pub fn since(second: Second) -> Evidence {
        Evidence { servers: HashMap::new(), since: second.div_euclid(SECONDS_PER_MINUTE), xids: XidPolicy::default() }
    }

    fn gpu(&mut self, server: &Arc<str>, gpu: &Arc<str>) -> &mut Gpu {
        self.servers.entry(server.clone()).or_default().entry(gpu.clone()).or_default()
    }

    /// Adds a minute; adding it again changes nothing (law 1). Of minutes before the first one that is held the latest counts.
    pub fn add(&mut self, row: &UsageRow) {
        let read = self.read(row);
        let since = self.since;
        let gpu = self.gpu(&row.server, &row.gpu);
        if row.minute >= since {
            gpu.minutes.entry(row.minute).or_default().join(read);
        } else {
            gpu.leave_behind(row.minute, read);
        }
    }

    pub fn add_fatal(&mut self, (server, gpu, second, xid): &FatalXid) {
        self.gpu(&server.as_str().into(), &gpu.as_str().into()).edges.insert((*second, *xid));
    }

    fn read(&self, row: &UsageRow) -> Metered {
        Metered {
            masks: Masks { present: row.present, busy: row.busy },
            memory: row.mem_max_bytes,
            energy: row.energy_first.zip(row.energy_last),
            fatal: row.xids.iter().filter(|(xid, _)| self.xids.is_fatal(**xid)).map(|(x, s)| (*x, *s)).collect(),
        }
    }

    /// Whether a GPU was metered before the first minute that is rated from here.
    pub fn knows_before(&self, server: &str, gpu: &str) -> bool {
        self.servers.get(server).and_then(|gpus| gpus.get(gpu)).is_some_and(|gpu| gpu.before.is_some())
    }

    /// What rating a window of a server may know. Minutes after the window may be here already; they count for later windows only,
    /// so that what is rated does not depend on when.
    pub fn of<'a>(&'a self, server: &str, window: Span) -> WindowEvidence<'a> {
        let gpus = self.servers.get(server);
        let fatal = gpus.into_iter().flatten().map(|(name, gpu)| (&**name, gpu.fatal_before(window.to)));
        WindowEvidence { gpus, window, fatal: fatal.filter(|(_, seconds)| !seconds.is_empty()).collect() }
    }

    /// Every fatal XID that is seen to begin in the minutes that are held.
    pub fn fatal_xids(&self) -> Vec<FatalXid> {
        let mut found = Vec::new();
        for (server, gpus) in &self.servers {
            for (name, gpu) in gpus {
                found.extend(gpu.begun().map(|(second, xid)| (server.to_string(), name.to_string(), second, xid)));
            }
        }
        found.sort();
        found
    }

    /// Forgets the minutes before a second, but for what outlasts them.
    pub fn forget_before(&mut self, second: Second) {
        let first = second.div_euclid(SECONDS_PER_MINUTE);
        self.since = self.since.max(first);
        for gpu in self.servers.values_mut().flat_map(HashMap::values_mut) {
            gpu.edges.extend(gpu.begun().filter(|(at, _)| *at < second).collect::<Vec<_>>());
            let rest = gpu.minutes.split_off(&first);
            if let Some((minute, last)) = std::mem::replace(&mut gpu.minutes, rest).into_iter().next_back() {
                gpu.leave_behind(minute, last);
            }
            let too_old = first - LOOK_BACK_HOURS * 60;
            gpu.before.take_if(|(minute, _)| *minute < too_old);
        }
        for gpus in self.servers.values_mut() {
            gpus.retain(|_, gpu| !gpu.minutes.is_empty() || gpu.before.is_some() || !gpu.edges.is_empty());
        }
        self.servers.retain(|_, gpus| !gpus.is_empty());
    }
}

impl Metered {
    fn join(&mut self, other: Metered) {
        self.masks.present |= other.masks.present;
        self.masks.busy |= other.masks.busy;
        self.memory = self.memory.max(other.memory);
        self.energy = match (self.energy, other.energy) {
            (Some(a), Some(b)) => Some((a.0.min(b.0), a.1.max(b.1))),
            (a, b) => a.or(b),
        };
        for (xid, second) in other.fatal {
            match self.fatal.iter_mut().find(|known| known.0 == xid) {
                Some(known) => known.1 = known.1.min(second),
                None => self.fatal.push((xid, second)),
            }
        }
    }

    fn reports(&self, xid: i32) -> bool {
        self.fatal.iter().any(|(known, _)| *known == xid)
    }
}

impl Gpu {
    /// Of what came before the minutes held, the latest is kept.
    fn leave_behind(&mut self, minute: Minute, metered: Metered) {
        match &mut self.before {
            Some((known, before)) if *known == minute => before.join(metered),
            Some((known, _)) if *known > minute => {}
            before => *before = Some((minute, metered)),
        }
    }

    /// Seconds of fatal XIDs before a second, sorted.
    fn fatal_before(&self, end: Second) -> Vec<Second> {
        let mut seconds: BTreeSet<Second> = self.edges.iter().map(|edge| edge.0).collect();
        seconds.extend(self.begun().map(|edge| edge.0));
        seconds.into_iter().take_while(|second| *second < end).collect()
    }

    /// Fatal XIDs that begin in the minutes held. The counter of XIDs is sticky: one that the metered minute before reported as well
    /// is still the same.
    fn begun(&self) -> impl Iterator<Item = (Second, i32)> + '_ {
        let with_xid = self.minutes.iter().filter(|(_, metered)| !metered.fatal.is_empty());
        with_xid.flat_map(move |(&minute, metered)| {
            let before = self.minutes.range(..minute).next_back().map(|(_, m)| m);
            let before = before.or(self.before.as_ref().map(|(_, m)| m));
            let begins = move |(xid, _): &&(i32, u8)| !before.is_some_and(|m| m.reports(*xid));
            let at = move |(xid, second): &(i32, u8)| (minute * SECONDS_PER_MINUTE + i64::from(*second), *xid);
            metered.fatal.iter().filter(begins).map(at)
        })
    }
}

/// The evidence for one window of a server.
pub struct WindowEvidence<'a> {
    gpus: Option<&'a HashMap<Arc<str>, Gpu>>,
    window: Span,
    /// Of GPUs that had any, the seconds of fatal XIDs.
    fatal: HashMap<&'a str, Vec<Second>>,
}

impl<'a> WindowEvidence<'a> {
    fn gpu(&self, gpu: &str) -> Option<&'a Gpu> {
        self.gpus.and_then(|gpus| gpus.get(gpu))
    }

    fn minute(&self, gpu: &str, minute: Minute) -> Option<&'a Metered> {
        self.gpu(gpu).and_then(|gpu| gpu.minutes.get(&minute))
    }
}

impl hydrometer_rating::quantities::Evidence for WindowEvidence<'_> {
    fn masks(&self, gpu: &str, minute: Minute) -> Masks {
        self.minute(gpu, minute).map(|m| m.masks).unwrap_or_default()
    }

    fn fatal(&self, gpu: &str) -> &[Second] {
        self.fatal.get(gpu).map_or(&[], Vec::as_slice)
    }

    /// What a reading shows more than the one before it counts as drawn in the reading's own window, since a window cannot wait for
    /// the readings of the next. Within the window it is spread over the time since the reading before.
    fn energy(&self, gpu: &str, span: Span) -> i64 {
        let Some(gpu) = self.gpu(gpu) else { return 0 };
        let from = self.window.from * MICROS_PER_SECOND;
        let minutes = self.window.from.div_euclid(SECONDS_PER_MINUTE)..self.window.to.div_euclid(SECONDS_PER_MINUTE);
        let reading = |(time, joules)| CounterReading { time, joules };
        let earlier = gpu.minutes.range(..minutes.start).rev().find_map(|(_, m)| m.energy);
        let before = earlier.or(gpu.before.as_ref().and_then(|(_, m)| m.energy)).map(|(_, last)| reading(last));
        let here: Vec<CounterReading> = gpu
            .minutes
            .range(minutes)
            .filter_map(|(_, m)| m.energy)
            .flat_map(|(first, last)| [reading(first), reading(last)])
            // What the very first instant shows was drawn before it; here it has to lie behind it.
            .map(|r| CounterReading { time: r.time.max(from + 1), ..r })
            .collect();
        let bridged = |before: &CounterReading| here.first().is_some_and(|first| first.time - before.time <= GAP_MAX);
        let before = before.filter(bridged).map(|b| CounterReading { time: b.time.max(from), ..b });
        Energy::new(before.into_iter().chain(here.iter().copied())).joules(span)
    }

    fn memory(&self, gpu: &str, minute: Minute) -> Option<i64> {
        self.minute(gpu, minute).and_then(|m| m.memory)
    }
}
