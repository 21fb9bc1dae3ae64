//! What a COMMIT does when the server works it off, and the laws that must hold at that moment.

use hydrometer_pipeline::store::lease::Lease;

use super::database::{PostingId, Request, SessionState};
use super::rules::Law;
use super::storage::File;
use super::world::{
    CONTRACTS, LIFECYCLE, SERVERS, TELEMETRY, TICKS, Terms, World, minutes, price, terms, tick_of, window_ticks,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoundKind {
    Live,
    Revision,
}

/// The writes of a round's transaction.
#[derive(Debug, Clone)]
pub struct RoundEffect {
    pub attempt: u32,
    pub kind: RoundKind,
    /// The partitions, and their leases before and after.
    pub partitions: Vec<usize>,
    pub before: Vec<Lease>,
    pub after: Vec<Lease>,
    pub claims: [Option<usize>; SERVERS],
    pub objects: Vec<usize>,
    pub requests: Vec<Request>,
    pub finished: Vec<usize>,
    pub files: Vec<File>,
    /// Which ticks of which servers are rated by this: (server, from, to), and on what terms.
    pub said: Vec<(usize, usize, usize)>,
    pub terms: Terms,
    /// (contract, hour, quantity) that each object adds, and the totals that they were added to.
    pub steps: Vec<(usize, usize, i32)>,
    pub totals: [i32; CONTRACTS],
}

/// The writes of a lifecycle transaction.
#[derive(Debug, Clone)]
pub struct LifecycleEffect {
    pub attempt: u32,
    pub before: Lease,
    pub after: Lease,
    pub events: u64,
    pub requests: Vec<Request>,
}

#[derive(Debug, Clone)]
pub enum Effect {
    Round(Box<RoundEffect>),
    Lifecycle(Box<LifecycleEffect>),
}

impl World {
    /// The server works off a COMMIT.
    pub fn commit(&mut self, session: usize) {
        match self.database.sessions[session].effect.take() {
            Some(Effect::Round(effect)) => self.commit_round(&effect),
            Some(Effect::Lifecycle(effect)) => self.commit_lifecycle(&effect),
            None => {}
        }
        self.database.end(session, SessionState::Committed);
        self.check_timeline();
        self.check_readings();
    }

    fn commit_lifecycle(&mut self, effect: &LifecycleEffect) {
        self.move_lease(LIFECYCLE, &effect.before, &effect.after);
        self.database.events |= effect.events;
        self.database.requests.extend(&effect.requests);
        self.database.commits.push(effect.attempt);
    }

    fn commit_round(&mut self, effect: &RoundEffect) {
        for ((partition, before), after) in effect.partitions.iter().zip(&effect.before).zip(&effect.after) {
            self.move_lease(*partition, before, after);
        }
        for (server, home) in effect.claims.iter().enumerate().filter(|(_, home)| home.is_some()) {
            if self.database.homes[server].is_some() && self.database.homes[server] != *home {
                self.breaks(Law::TwoHomes, || format!("server {server} is claimed by partition {home:?} as well"));
            }
            self.database.homes[server] = *home;
        }
        for &object in &effect.objects {
            self.name_object(object, effect.kind == RoundKind::Live);
        }
        self.rate(effect);
        self.post(effect);
        self.database.requests.extend(&effect.requests);
        effect.finished.iter().for_each(|id| self.database.requests[*id].done = true);
        for file in &effect.files {
            if self.database.files.iter().any(|other| other.is(file)) {
                self.breaks(Law::FileChanged, || format!("{:?} is owed a second time", describe_file(file)));
            }
            self.database.files.push(file.clone());
        }
        self.database.commits.push(effect.attempt);
    }

    fn move_lease(&mut self, partition: usize, before: &Lease, after: &Lease) {
        let (lifecycle_time, _) = self.database.progress();
        let lease = &mut self.database.leases[partition];
        let (was, is) = (lease.position, after.position);
        let zombie = lease.epoch != before.epoch;
        let back = is.next < was.next
            || is.replay_from < was.replay_from
            || is.time < was.time
            || is.closed_until < was.closed_until
            || after.frontier < lease.frontier
            || after.revision < lease.revision;
        let ahead = after.frontier > lease.frontier
            && (after.frontier > is.closed_until * 60 || after.frontier > lifecycle_time);
        let epoch = lease.epoch;
        *lease = Lease { epoch, round: lease.round + 1, ..after.clone() };
        if zombie {
            self.breaks(Law::ZombieCommitted, || {
                format!("partition {partition}: a commit of epoch {}, the lease's is {epoch}", before.epoch)
            });
        }
        if back {
            self.breaks(Law::WentBack, || format!("partition {partition}: from {was:?} to {is:?}"));
        }
        if ahead {
            self.breaks(Law::FrontierAhead, || {
                let (frontier, closed) = (tick_of(after.frontier), is.closed_until / minutes(1));
                format!("partition {partition}: frontier {frontier}, closed until {closed}, lifecycle time {lifecycle_time} s")
            });
        }
    }

    fn name_object(&mut self, index: usize, live: bool) {
        if !self.store[index].stored {
            self.breaks(Law::ObjectGone, || format!("object {index} is named by a commit, and was swept before"));
        }
        if live {
            let masks = self.store[index].masks;
            for (server, tick) in (0..SERVERS).flat_map(|s| (0..TICKS).map(move |t| (s, t))) {
                if self.counted[server][tick] & masks[server][tick] != 0 {
                    self.breaks(Law::CountedTwice, || {
                        format!("a reading of server {server} in tick {tick}: in two objects")
                    });
                }
                self.counted[server][tick] |= masks[server][tick];
            }
        }
        self.store[index].named = true;
    }

    fn rate(&mut self, effect: &RoundEffect) {
        for &(server, from, to) in &effect.said {
            for tick in from..to {
                self.database.terms_said[server][tick] = effect.terms[server][tick];
                if effect.kind == RoundKind::Live
                    && std::mem::replace(&mut self.database.rated_live[server][tick], true)
                {
                    self.breaks(Law::RatedTwice, || format!("server {server}, tick {tick}: rated live twice"));
                }
            }
        }
        let revised: Vec<(u8, u8, u8)> = effect
            .objects
            .iter()
            .flat_map(|o| &self.store[*o].rated)
            .filter(|row| row.revision > 0)
            .map(|row| (row.server, row.from, row.revision))
            .collect();
        for row in revised {
            if self.database.revisions.contains(&row) {
                self.breaks(Law::RatedTwice, || {
                    format!("server {}, window from tick {}: revision {} twice", row.0, row.1, row.2)
                });
            }
            self.database.revisions.push(row);
        }
    }

    /// Amounts are differences of the price of totals, booked per contract (a revision's per hour as well).
    fn post(&mut self, effect: &RoundEffect) {
        let mut totals = effect.totals;
        let mut rounds = [0; TELEMETRY];
        for (partition, after) in effect.partitions.iter().zip(&effect.after) {
            rounds[*partition] = if self.rules.has(super::rules::Rule::PostingIds) { after.round } else { 1 };
        }
        let mut bookings: Vec<(PostingId, i32)> = Vec::new();
        for &(contract, hour, quantity) in &effect.steps {
            let amount = price(totals[contract] + quantity) - price(totals[contract]);
            totals[contract] += quantity;
            let revised_hour = (effect.kind == RoundKind::Revision).then_some(hour);
            let id = PostingId { rounds, contract, revised_hour };
            match bookings.iter_mut().find(|(other, _)| *other == id) {
                Some(booking) => booking.1 += amount,
                None => bookings.push((id, amount)),
            }
            self.database.totals[contract] = totals[contract];
        }
        for booking in bookings {
            if self.database.postings.iter().any(|(id, _)| *id == booking.0) {
                self.breaks(Law::PostingRepeated, || format!("{:?} is posted already", booking.0));
            }
            self.database.postings.push(booking);
        }
    }

    /// What was rated on terms that are no longer true has a request that covers it.
    fn check_timeline(&mut self) {
        let now = terms(&self.lifecycle, self.database.events);
        for (server, now) in now.iter().enumerate() {
            let Some(home) = self.database.homes[server] else { continue };
            let frontier = tick_of(self.database.leases[home].frontier);
            let rated = frontier / window_ticks(server) * window_ticks(server);
            for (tick, &true_now) in now.iter().enumerate().take(rated) {
                let said = self.database.terms_said[server][tick];
                if said != true_now && !self.is_asked_for(home, server, tick) {
                    self.breaks(Law::StaleTimeline, || {
                        format!("server {server}, tick {tick}: rated on terms {said}, they are {true_now}, and no request covers it")
                    });
                }
            }
        }
    }

    fn is_asked_for(&self, home: usize, server: usize, tick: usize) -> bool {
        let covers = |r: &&Request| {
            !r.done
                && r.partition == home
                && r.scope == super::database::Scope::Server(server)
                && (r.from..r.to).contains(&tick)
        };
        self.database.requests.iter().any(|r| covers(&r))
    }

    /// Every reading below `next` is in an object, or its minute is open and a restart reads it again.
    fn check_readings(&mut self) {
        for partition in 0..TELEMETRY {
            let position = self.database.leases[partition].position;
            for (offset, record) in self.telemetry[partition].iter().enumerate().take(position.next as usize) {
                let (server, tick) = (usize::from(record.server), usize::from(record.tick));
                let counted = self.counted[server][tick] & record.bit != 0;
                let open = minutes(tick) >= position.closed_until && offset as i64 >= position.replay_from;
                if !counted && !open {
                    self.breaks(Law::ReadingLost, || {
                        format!("partition {partition}, offset {offset} (server {server}, tick {tick}) is in no object; {position:?}")
                    });
                    return;
                }
            }
        }
    }
}

fn describe_file(file: &File) -> (super::storage::Table, usize, usize, i32) {
    (file.table, file.partition, file.hour, file.revision)
}
