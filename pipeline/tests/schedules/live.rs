//! What a live round derives: minutes sorted by where they go, and the windows that the frontiers pass.

use hydrometer_pipeline::protocol::{MinuteGoes, frontier_target, minute_goes};
use hydrometer_pipeline::store::lease::Lease;
use hydrometer_schemas::time::Second;

use super::commit::RoundKind;
use super::database::{Request, Scope};
use super::rules::Rule;
use super::storage::{Kind, Rated};
use super::world::{
    Masks, NO_BITS, SERVERS, TELEMETRY, TICKS, Terms, World, hour_of, keyed_to, quantity, seconds, terms, tick_of,
    window_ticks,
};

/// An object to be staged, and what it asks for: per home, from which tick to which.
#[derive(Debug, Clone)]
pub struct Draft {
    pub partition: usize,
    pub kind: Kind,
    pub hour: Option<usize>,
    pub masks: Masks,
    pub rated: Vec<Rated>,
    pub asks: [Option<(usize, usize)>; TELEMETRY],
}

/// A derived round: everything but its attempt's id and its objects.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub kind: RoundKind,
    pub partitions: Vec<usize>,
    pub before: Vec<Lease>,
    pub after: Vec<Lease>,
    /// The events that it was derived from.
    pub events: u64,
    pub terms: Terms,
    pub claims: [Option<usize>; SERVERS],
    pub drafts: Vec<Draft>,
    pub requests: Vec<Request>,
    pub finished: Vec<usize>,
    pub said: Vec<(usize, usize, usize)>,
}

impl Draft {
    pub fn new(partition: usize, kind: Kind, hour: Option<usize>) -> Draft {
        Draft { partition, kind, hour, masks: NO_BITS, rated: Vec::new(), asks: [None; TELEMETRY] }
    }

    fn ask(&mut self, home: usize, tick: usize) {
        let (from, to) = self.asks[home].unwrap_or((tick, tick + 1));
        self.asks[home] = Some((from.min(tick), to.max(tick + 1)));
    }
}

/// The draft of a kind and hour, made when it is the first.
pub fn draft_of(drafts: &mut Vec<Draft>, partition: usize, kind: Kind, hour: Option<usize>) -> &mut Draft {
    let is = |d: &Draft| (d.partition, d.kind, d.hour) == (partition, kind, hour);
    let at = drafts.iter().position(is).unwrap_or_else(|| {
        drafts.push(Draft::new(partition, kind, hour));
        drafts.len() - 1
    });
    &mut drafts[at]
}

/// The windows of a server that end in `(after, until]`.
pub fn windows(server: usize, after: usize, until: usize) -> impl Iterator<Item = (usize, usize)> {
    let length = window_ticks(server);
    (0..TICKS / length).map(move |n| (n * length, (n + 1) * length)).filter(move |w| after < w.1 && w.1 <= until)
}

pub fn is_leased(terms: &Terms, server: usize, (from, to): (usize, usize)) -> bool {
    terms[server][from..to].iter().any(|rate| *rate != 0)
}

impl World {
    pub fn live_is_due(&self, worker: usize) -> bool {
        let w = &self.workers[worker];
        let (lifecycle_time, all_closed) = self.database.progress();
        w.streams.iter().flatten().any(|s| {
            let position = s.position(true, true);
            position != s.lease.position
                || s.late != NO_BITS
                || self.frontier_of(s.lease.frontier, s.position.closed_until * 60, lifecycle_time) > s.lease.frontier
        }) || {
            let after: [Option<Second>; TELEMETRY] =
                std::array::from_fn(|p| w.streams[p].as_ref().map(|s| s.lease.frontier));
            let terms = terms(&self.lifecycle, w.events | self.database.events);
            (0..SERVERS).any(|s| w.homes[s].is_none() && self.silent_home(s, &terms, &after, all_closed).is_some())
        }
    }

    fn frontier_of(&self, frontier: Second, closed_until: Second, lifecycle_time: Second) -> Second {
        let lifecycle = if self.rules.has(Rule::FrontierLifecycle) { lifecycle_time } else { Second::MAX };
        let closed = if self.rules.has(Rule::FrontierClosed) { closed_until } else { seconds(self.now) };
        frontier_target(frontier, closed, lifecycle, Some(seconds(TICKS)))
    }

    pub fn cut(&mut self, worker: usize) {
        let (holds, depends) = (self.rules.has(Rule::RebuildingHolds), self.rules.has(Rule::RestartFromOpen));
        self.workers[worker].streams.iter_mut().flatten().for_each(|stream| stream.cut(holds, depends));
    }

    pub fn prepare_live(&self, worker: usize) -> Prepared {
        let w = &self.workers[worker];
        let (lifecycle_time, all_closed) = self.database.progress();
        let partitions = self.owned(worker);
        let mut after_frontiers: [Option<Second>; TELEMETRY] = [None; TELEMETRY];
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for stream in w.streams.iter().flatten() {
            let closed = stream.cut_at.closed_until * 60;
            let frontier = self.frontier_of(stream.lease.frontier, closed, lifecycle_time);
            before.push(stream.lease.clone());
            after.push(Lease { position: stream.cut_at, frontier, ..stream.lease.clone() });
        }
        for (partition, lease) in partitions.iter().zip(&after) {
            after_frontiers[*partition] = Some(lease.frontier);
        }
        let terms = terms(&self.lifecycle, w.events);
        let mut claims = self.claims_by_readings(worker);
        for (server, claim) in claims.iter_mut().enumerate() {
            if w.homes[server].is_none() && claim.is_none() {
                *claim = self.silent_home(server, &terms, &after_frontiers, all_closed);
            }
        }
        let mut prepared = Prepared {
            kind: RoundKind::Live,
            partitions,
            before,
            after,
            events: w.events,
            terms,
            claims,
            drafts: Vec::new(),
            requests: Vec::new(),
            finished: Vec::new(),
            said: Vec::new(),
        };
        if self.rules.has(Rule::ClaimAsks) {
            self.ask_for_claimed(&mut prepared);
        }
        for index in 0..prepared.partitions.len() {
            self.share(worker, index, &mut prepared);
        }
        prepared
    }

    /// What one partition brings.
    fn share(&self, worker: usize, index: usize, prepared: &mut Prepared) {
        let w = &self.workers[worker];
        let partition = prepared.partitions[index];
        let Some(stream) = &w.streams[partition] else { return };
        let (frontier, target) = (stream.lease.frontier, prepared.after[index].frontier);
        let home_of = |server: usize| w.homes[server].or(prepared.claims[server]).unwrap_or(partition);
        let terms = prepared.terms;
        for (masks, late) in [(&stream.cut_closed, false), (&stream.cut_late, true)] {
            for (server, tick) in (0..SERVERS).flat_map(|s| (0..TICKS).map(move |t| (s, t))) {
                let bits = masks[server][tick];
                if bits == 0 {
                    continue;
                }
                let home = home_of(server);
                let covers = || window_ticks(server) == 1 && terms[server][tick] != 0;
                let drafts = &mut prepared.drafts;
                let draft = match minute_goes(seconds(tick), home == partition, late, frontier, covers) {
                    MinuteGoes::Away => {
                        let draft = draft_of(drafts, partition, Kind::Away, None);
                        if self.rules.has(Rule::AwayAsks) {
                            draft.ask(home, tick);
                        }
                        draft
                    }
                    MinuteGoes::Late { asks } => {
                        let draft = draft_of(drafts, partition, Kind::Late, None);
                        if asks && self.rules.has(Rule::LateAsks) {
                            draft.ask(partition, tick);
                        }
                        draft
                    }
                    MinuteGoes::Usage => draft_of(drafts, partition, Kind::Usage, Some(hour_of(tick))),
                };
                draft.masks[server][tick] |= bits;
            }
        }
        for server in (0..SERVERS).filter(|s| w.homes[*s].or(prepared.claims[*s]) == Some(partition)) {
            for (from, to) in windows(server, tick_of(frontier), tick_of(target)) {
                prepared.said.push((server, from, to));
                if is_leased(&terms, server, (from, to)) {
                    let quantity = quantity(&terms[server], &stream.evidence[server], from, to);
                    let row = Rated { server: server as u8, from: from as u8, to: to as u8, revision: 0, quantity };
                    draft_of(&mut prepared.drafts, partition, Kind::Rated, Some(hour_of(to - 1))).rated.push(row);
                }
            }
        }
    }

    /// A server's home is the partition in which it speaks first; where a cut finds it in several, the one with most of its ticks.
    fn claims_by_readings(&self, worker: usize) -> [Option<usize>; SERVERS] {
        let w = &self.workers[worker];
        std::array::from_fn(|server| {
            if w.homes[server].is_some() {
                return None;
            }
            let ticks = |p: usize| {
                w.streams[p].as_ref().map_or(0, |s| {
                    (0..TICKS).filter(|t| (s.cut_closed[server][*t] | s.cut_late[server][*t]) != 0).count()
                })
            };
            (0..TELEMETRY).filter(|p| ticks(*p) > 0).max_by_key(|p| (ticks(*p), TELEMETRY - p))
        })
    }

    /// A leased server that has spoken nowhere, although every partition was metered past the end of a window, gets the home that its name hashes to.
    fn silent_home(
        &self,
        server: usize,
        terms: &Terms,
        after: &[Option<Second>; TELEMETRY],
        all_closed: Second,
    ) -> Option<usize> {
        let home = keyed_to(server);
        let silent_until = tick_of(after[home]?.min(all_closed));
        windows(server, 0, silent_until).any(|window| is_leased(terms, server, window)).then_some(home)
    }

    /// Windows of a newly claimed server that ended before the frontier were rated by nobody.
    fn ask_for_claimed(&self, prepared: &mut Prepared) {
        for (partition, lease) in prepared.partitions.iter().zip(&prepared.before) {
            for server in (0..SERVERS).filter(|s| prepared.claims[*s] == Some(*partition)) {
                let leased: Vec<usize> = (0..TICKS).filter(|t| prepared.terms[server][*t] != 0).collect();
                let (Some(&from), Some(&last)) = (leased.first(), leased.last()) else { continue };
                let to = tick_of(lease.frontier).min(last + 1);
                if from < to {
                    let scope = Scope::Server(server);
                    prepared.requests.push(Request { partition: *partition, scope, from, to, done: false });
                }
            }
        }
    }
}
