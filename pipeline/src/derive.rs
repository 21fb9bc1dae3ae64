//! Windows due to quantities: what a commit is going to rate, worked out from timelines and evidence, without a price being paid yet.

use std::collections::{BTreeMap, BTreeSet};

use hydrometer_rating::GPU_HOURS;
use hydrometer_rating::classes::{Masks, Quantities, quantities};
use hydrometer_rating::history::{History, Lease, ServerTimeline, Span, Version};
use hydrometer_rating::money::Amount;
use hydrometer_rating::rate::{Cell, State};
use hydrometer_schemas::lifecycle::RatingWindow;
use hydrometer_schemas::time::{Minute, SECONDS_PER_HOUR, SECONDS_PER_MINUTE, Second, hour_floor, month_floor};
use hydrometer_sinks::rated::{RatedRow, RecordKind};

use crate::store::commit::{Parties, UnratedTime};
use crate::store::rating::StateKey;

/// What was worked out, by the hour in which the windows end.
#[derive(Debug, Default)]
pub struct Derived {
    pub rows: BTreeMap<Second, Vec<RatedRow>>,
    pub unrated: Vec<UnratedTime>,
    pub parties: BTreeMap<String, Parties>,
}

/// How long the rating windows of an hour are: as the version in force at its beginning says (a new length starts at an hour's
/// edge), or the first one that begins in it.
fn window_length(versions: &[Version], hour: Second) -> i64 {
    let in_force = versions.iter().find(|v| v.span.to > hour && v.span.from < hour + SECONDS_PER_HOUR);
    match in_force.map(|v| v.rating_window) {
        Some(RatingWindow::Minute) => SECONDS_PER_MINUTE,
        Some(RatingWindow::Hour) | None => SECONDS_PER_HOUR,
    }
}

/// The windows of a lease that end in `(after, until]`.
pub fn due_windows(lease: &Lease, versions: &[Version], after: Second, until: Second) -> Vec<Span> {
    let mut windows = Vec::new();
    let mut hour = hour_floor(lease.span.from.max(after));
    let end = lease.span.to.min(until);
    while hour < end {
        let length = window_length(versions, hour);
        let mut from = hour;
        while from < hour + SECONDS_PER_HOUR {
            let window = Span { from, to: from + length };
            if window.to > after && window.to <= until && lease.span.intersect(window).is_some() {
                windows.push(window);
            }
            from += length;
        }
        hour += SECONDS_PER_HOUR;
    }
    windows
}

impl Derived {
    /// Rates the windows of a server's leases that end in `(after, until]`.
    pub fn live(
        &mut self,
        history: &History,
        server: &ServerTimeline,
        partition: i32,
        (after, until): (Second, Second),
        evidence: impl Fn(&str, Minute) -> Masks,
    ) {
        for lease in &server.leases {
            if lease.span.to <= hour_floor(after) || lease.span.from >= until {
                continue;
            }
            let versions = history.versions(&lease.contract);
            for window in due_windows(lease, versions, after, until) {
                let quantities = self.window(server, lease, versions, window, &evidence);
                let hour = hour_floor(window.to - 1);
                for row in rows(server, lease, versions, window, partition, quantities) {
                    self.note_parties(&row);
                    self.rows.entry(hour).or_default().push(row);
                }
            }
        }
    }

    /// The quantities of one window; what has no price yet is listed.
    pub fn window(
        &mut self,
        server: &ServerTimeline,
        lease: &Lease,
        versions: &[Version],
        window: Span,
        evidence: impl Fn(&str, Minute) -> Masks,
    ) -> Quantities {
        let (quantities, unrated) = quantities(server, lease, versions, window, evidence);
        self.unrated.extend(unrated.into_iter().map(|u| UnratedTime {
            server: server.server.clone(),
            lease: lease.lease.clone(),
            slot: u.slot as i32,
            from: u.span.from,
            to: u.span.to,
            reason: u.reason.to_owned(),
        }));
        quantities
    }

    pub fn note_parties(&mut self, row: &RatedRow) {
        self.parties
            .entry(row.contract.clone())
            .or_insert_with(|| Parties { renter: row.renter.clone(), currency: row.currency.clone() });
    }
}

/// Rated rows of one window, with their quantities and no amounts yet.
pub fn rows(
    server: &ServerTimeline,
    lease: &Lease,
    versions: &[Version],
    window: Span,
    partition: i32,
    quantities: Quantities,
) -> Vec<RatedRow> {
    let Some(version) = versions.first() else { return Vec::new() };
    quantities
        .into_iter()
        .map(|(key, seconds)| RatedRow {
            contract: lease.contract.clone(),
            charge: GPU_HOURS.to_owned(),
            renter: version.renter.clone(),
            currency: version.currency.clone(),
            lease: Some(lease.lease.clone()),
            server: Some(server.server.clone()),
            slot: Some(key.slot),
            gpu: key.gpu,
            window,
            period: month_floor(window.from),
            cell: key.cell,
            seconds,
            kind: RecordKind::Usage,
            renter_amount: Amount::ZERO,
            supplier_amount: Amount::ZERO,
            partition,
            revision: 0,
            commit: String::new(),
        })
        .collect()
}

/// What rated rows add to the rating states.
pub fn added(rows: &[RatedRow]) -> BTreeMap<StateKey, State> {
    let mut added: BTreeMap<StateKey, State> = BTreeMap::new();
    for row in rows {
        let key = StateKey { contract: row.contract.clone(), charge: row.charge.clone(), period: row.period };
        let cell = added.entry(key).or_default().entry(row.cell.clone()).or_default();
        *cell = Cell { billed: cell.billed + row.seconds.billed, paid: cell.paid + row.seconds.paid };
    }
    added
}

/// Whether one of a server's leases rates by the minute at this time.
pub fn minute_window_covers(history: &History, server: &str, minute_start: Second) -> bool {
    let Some(timeline) = history.server(server) else { return false };
    let minute = Span { from: minute_start, to: minute_start + SECONDS_PER_MINUTE };
    timeline.leases.iter().any(|lease| {
        lease.span.intersect(minute).is_some()
            && window_length(history.versions(&lease.contract), hour_floor(minute_start)) == SECONDS_PER_MINUTE
    })
}

/// The servers that changes of history touch: themselves, or through a contract of theirs; each from its earliest second to the end of
/// its last lease.
pub fn touched_servers(history: &History, changes: &hydrometer_rating::history::Changes) -> BTreeMap<String, Span> {
    let mut touched = changes.servers.clone();
    for (contract, from) in &changes.contracts {
        let servers: BTreeSet<&str> = history.servers_under(contract).collect();
        for server in servers {
            let to = history.server(server).map_or(*from, ServerTimeline::leased_until);
            let span = touched.entry(server.to_owned()).or_insert(Span { from: *from, to });
            *span = Span { from: span.from.min(*from), to: span.to.max(to) };
        }
    }
    touched
}

#[cfg(test)]
mod tests;
