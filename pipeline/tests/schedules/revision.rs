//! What a round of revisions derives: windows again from everything that the manifest holds, less what was said before.

use hydrometer_pipeline::protocol::derivable;
use hydrometer_pipeline::store::lease::Lease;

use super::commit::RoundKind;
use super::database::Scope;
use super::live::{Prepared, draft_of, is_leased, windows};
use super::rules::Rule;
use super::storage::{Kind, Rated, Table, in_hour};
use super::worker::add;
use super::world::{
    HOURS, Masks, NO_BITS, SERVERS, TICKS, TICKS_PER_HOUR, World, hour_of, quantity, seconds, terms, tick_of,
};

/// What the derivable requests of a partition ask for.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    pub partition: usize,
    /// Per hour: the servers to derive again.
    hours: [[bool; SERVERS]; HOURS],
    /// Late and away bits that the requests name.
    late: Masks,
    requests: Vec<usize>,
}

impl World {
    pub fn revision_is_due(&self, worker: usize, partition: usize) -> bool {
        let Some(stream) = self.workers[worker].streams.get(partition).and_then(Option::as_ref) else { return false };
        self.database
            .requests
            .iter()
            .any(|r| !r.done && r.partition == partition && self.is_derivable(r.to, stream.lease.frontier))
    }

    fn is_derivable(&self, to: usize, frontier: hydrometer_schemas::time::Second) -> bool {
        derivable(seconds(to), frontier) || !self.rules.has(Rule::DerivableWaits)
    }

    pub fn gather(&mut self, worker: usize, partition: usize) -> Plan {
        self.refresh_history(worker);
        let w = &self.workers[worker];
        let mut plan = Plan { partition, ..Plan::default() };
        let Some(stream) = &w.streams[partition] else { return plan };
        let frontier = stream.lease.frontier;
        let frozen = if self.rules.has(Rule::DerivableWaits) { hour_of(tick_of(frontier)) } else { HOURS };
        let terms = terms(&self.lifecycle, w.events);
        for (id, request) in self.database.requests.iter().enumerate() {
            if request.done || request.partition != partition || !self.is_derivable(request.to, frontier) {
                continue;
            }
            match request.scope {
                Scope::Server(server) => {
                    for hour in hour_of(request.from)..hour_of(request.to + TICKS_PER_HOUR - 1) {
                        let rated = self
                            .database
                            .files
                            .iter()
                            .any(|f| f.table == Table::Rated && f.partition == partition && f.hour == hour);
                        let leased = is_leased(&terms, server, (hour * TICKS_PER_HOUR, (hour + 1) * TICKS_PER_HOUR));
                        plan.hours[hour][server] |= rated || leased;
                    }
                }
                Scope::Object(object) => {
                    for server in (0..SERVERS).filter(|s| w.homes[*s] == Some(partition)) {
                        for tick in (0..TICKS).filter(|t| hour_of(*t) < frozen) {
                            let bits = self.store[object].masks[server][tick];
                            plan.hours[hour_of(tick)][server] |= bits != 0;
                            plan.late[server][tick] |= bits;
                        }
                    }
                    if !self.store[object].stored {
                        self.breaks_object_gone(object);
                        break;
                    }
                }
            }
            plan.requests.push(id);
        }
        plan
    }

    fn breaks_object_gone(&mut self, object: usize) {
        self.breaks(super::rules::Law::ObjectGone, || format!("a request is about object {object}, which was swept"));
    }

    /// None: there is nothing to commit.
    pub fn prepare_revision(&self, worker: usize, plan: &Plan) -> Option<Prepared> {
        let w = &self.workers[worker];
        let before = w.streams[plan.partition].as_ref()?.lease.clone();
        let terms = terms(&self.lifecycle, w.events);
        let mut prepared = Prepared {
            kind: RoundKind::Revision,
            partitions: vec![plan.partition],
            after: Vec::new(),
            events: w.events,
            terms,
            claims: [None; SERVERS],
            drafts: Vec::new(),
            requests: Vec::new(),
            finished: plan.requests.clone(),
            said: Vec::new(),
            before: Vec::new(),
        };
        for hour in 0..HOURS {
            self.revise_hour(plan, hour, &mut prepared);
        }
        if prepared.drafts.is_empty() && prepared.finished.is_empty() {
            return None;
        }
        let revision = before.revision + i32::from(!prepared.drafts.is_empty());
        prepared.after.push(Lease { revision, ..before.clone() });
        prepared.before.push(before);
        Some(prepared)
    }

    fn revise_hour(&self, plan: &Plan, hour: usize, prepared: &mut Prepared) {
        let (mut known, said) = self.published(plan.partition, hour);
        let mut lacking = in_hour(&plan.late, hour);
        lacking.iter_mut().flatten().zip(known.iter().flatten()).for_each(|(late, known)| *late &= !known);
        add(&mut known, &lacking);
        if lacking != NO_BITS {
            draft_of(&mut prepared.drafts, plan.partition, Kind::Usage, Some(hour)).masks = lacking;
        }
        for server in (0..SERVERS).filter(|s| plan.hours[hour][*s]) {
            let (from, to) = (hour * TICKS_PER_HOUR, (hour + 1) * TICKS_PER_HOUR);
            prepared.said.push((server, from, to));
            for (from, to) in windows(server, from, to) {
                let before = said.iter().filter(|r| usize::from(r.server) == server && usize::from(r.from) == from);
                let (sum, last) = before.fold((0, 0), |(sum, last), r| (sum + r.quantity, r.revision.max(last)));
                let now = quantity(&prepared.terms[server], &known[server], from, to);
                if now != sum {
                    let revision = if self.rules.has(Rule::RevisionNumbers) { last + 1 } else { 1 };
                    let (server, from, to) = (server as u8, from as u8, to as u8);
                    let row = Rated { server, from, to, revision, quantity: now - sum };
                    draft_of(&mut prepared.drafts, plan.partition, Kind::Rated, Some(hour)).rated.push(row);
                }
            }
        }
    }

    /// What the published files of an hour say, all revisions.
    fn published(&self, partition: usize, hour: usize) -> (Masks, Vec<Rated>) {
        let (mut masks, mut rated) = (NO_BITS, Vec::new());
        for file in self.database.files.iter().filter(|f| f.published && f.partition == partition && f.hour == hour) {
            let Some(content) = &file.content else { continue };
            for (server, bits) in content.masks.iter().enumerate() {
                for (offset, bits) in bits.iter().enumerate() {
                    masks[server][hour * TICKS_PER_HOUR + offset] |= bits;
                }
            }
            rated.extend(&content.rated);
        }
        (masks, rated)
    }
}
