//! Windows due to quantities: what a commit is going to rate, worked out from timelines and evidence, without a price being paid yet.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use hydrometer_rating::history::{History, Lease, ServerTimeline, Span, Version, Wallet, interval_of};
use hydrometer_rating::money::Amount;
use hydrometer_rating::quantities::{Quantities, quantities, resource};
use hydrometer_rating::rate::State;
use hydrometer_rating::stepped::Pieces;
use hydrometer_rating::terms::{Rate, RateId};
use hydrometer_schemas::contract::Basis;
use hydrometer_schemas::lifecycle::{RatingWindow, WalletKey};
use hydrometer_schemas::time::{SECONDS_PER_DAY, SECONDS_PER_HOUR, SECONDS_PER_MINUTE, Second, hour_floor};
use hydrometer_sinks::rated::{RatedRow, RecordKind};

use crate::closing::commits_by_the_hour;
use crate::evidence::{Evidence, WindowEvidence};
use crate::store::commit::UnratedTime;
use crate::store::period::Periods;
use crate::store::rating::{ObjectQuantities, RawKey};

/// What was worked out, by the hour in which the windows end.
#[derive(Debug, Default)]
pub struct Derived {
    pub rows: BTreeMap<Second, Vec<RatedRow>>,
    pub unrated: Vec<UnratedTime>,
    pub periods: Periods,
    /// The rates that the rows name.
    pub rates: HashMap<RateId, Arc<Rate>>,
    /// Hours of a commitment that lie across the edge of two billing periods, as they do in some time zones: by contract and hour the
    /// period in which the hour begins, which it counts in whatever part of it is rated first.
    pub across: BTreeMap<(String, Second), Second>,
    /// Prepaid versions of contracts, each with the edges of its wallet.
    pub prepaid: BTreeMap<(String, Second), Vec<Second>>,
    /// What postpaid renters may owe.
    pub credit_limits: BTreeMap<WalletKey, Amount>,
}

/// How long the rating windows of an hour are: as the version in force at its beginning says (a new length starts at an hour's
/// edge), or the first one that begins in it.
fn window_length(versions: &[Version], hour: Second) -> i64 {
    let in_force = versions.iter().find(|v| v.span.to > hour && v.span.from < hour + SECONDS_PER_HOUR);
    match in_force.map(|v| v.terms.rating_window) {
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
        evidence: &Evidence,
    ) {
        for lease in &server.leases {
            if lease.span.to <= hour_floor(after) || lease.span.from >= until {
                continue;
            }
            let versions = history.versions(&lease.contract);
            for window in due_windows(lease, versions, after, until) {
                let evidence = evidence.of(&server.server, window);
                let quantities = self.window(server, lease, versions, window, &evidence);
                let hour = hour_floor(window.to - 1);
                for row in rows(server, lease, versions, window, partition, quantities) {
                    self.note(history, &row);
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
        evidence: &WindowEvidence<'_>,
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

    /// Notes a row's rate and the billing period that it lies in, as the version that it was used under has it.
    pub fn note(&mut self, history: &History, row: &RatedRow) {
        if let Some(rate) = history.rate(row.cell.rate) {
            self.rates.entry(row.cell.rate).or_insert_with(|| rate.clone());
        }
        let versions = history.versions(&row.contract);
        let of_row = versions.iter().find(|v| v.span.from == row.cell.version_from);
        if let Some(wallet) = of_row.and_then(Version::wallet) {
            let edges = || history.wallet(&wallet).map(Wallet::edges).unwrap_or_default();
            self.prepaid.entry((row.contract.clone(), row.cell.version_from)).or_insert_with(edges);
        }
        if let Some(limit) = of_row.and_then(|version| version.terms.credit_limit) {
            let key = WalletKey { renter: row.renter.clone(), currency: row.currency.clone() };
            self.credit_limits.insert(key, limit);
        }
        let version = of_row.or(versions.last());
        // A record of a contract of which nothing is known any more is taken back in the period that it names.
        let end = version.map_or(row.period + 1, |v| v.terms.calendar.period_of(row.period).to);
        self.periods.entry((row.contract.clone(), row.period)).or_insert(end);
        if let Some(version) = version.filter(|_| row.ladder < row.period) {
            let first = version.terms.calendar.period_of(row.ladder);
            self.periods.entry((row.contract.clone(), first.from)).or_insert(first.to);
            self.across.insert((row.contract.clone(), row.ladder), first.from);
        }
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
    let mut rows = Vec::with_capacity(quantities.len());
    for (key, quantity) in quantities {
        let Some(version) = versions.iter().find(|v| v.span.from == key.cell.version_from) else { continue };
        let charge = version.terms.charges.get(&key.charge);
        rows.push(RatedRow {
            contract: lease.contract.clone(),
            renter: version.terms.renter.clone(),
            currency: version.terms.currency.clone(),
            lease: Some(lease.lease.clone()),
            server: Some(server.server.clone()),
            slot: Some(key.slot),
            window,
            ladder: if charge.is_some_and(|c| c.is_hourly()) { hour_floor(window.from) } else { key.period },
            resource: charge.map(|c| resource(c, &server.server, &lease.lease, key.slot)).unwrap_or_default(),
            price: charge.and_then(|c| c.unit_price(key.cell.segment)),
            share: version.terms.rate(&key.charge, &key.cell.supplier).and_then(|rate| rate.share()),
            basis: charge.map_or("", |c| piece(c.basis)).to_owned(),
            quantity,
            kind: RecordKind::Usage,
            renter_amount: Amount::ZERO,
            supplier_amount: Amount::ZERO,
            booked: key.period,
            partition,
            revision: 0,
            commit: String::new(),
            period: key.period,
            charge: key.charge,
            gpu: key.gpu,
            cell: key.cell,
        });
    }
    rows
}

/// What a quantity of this basis counts.
fn piece(basis: Basis) -> &'static str {
    match basis {
        Basis::Allocated | Basis::Observed | Basis::Busy | Basis::Suspended => "s",
        Basis::Slices => "slice_s",
        Basis::Energy => "J",
        Basis::Memory => "byte_s",
        Basis::Recurring | Basis::OneOff | Basis::Percentage => "",
    }
}

/// What the rated rows of an object add to the rating states.
pub fn added(object: &str, rows: &[RatedRow], derived: &Derived) -> ObjectQuantities {
    let mut quantities = ObjectQuantities { object: object.to_owned(), ..ObjectQuantities::default() };
    for row in rows {
        // Time of a contract that has no metered charge is counted and costs nothing.
        let Some(rate) = derived.rates.get(&row.cell.rate) else { continue };
        let (state, cell) = (row.state(), row.cell_quantity());
        let add = |sum: &mut hydrometer_rating::keys::Cell| {
            sum.billed += cell.billed;
            sum.paid += cell.paid;
        };
        match (&rate.charge.step, &row.lease, row.slot) {
            (Some(_), Some(lease), Some(slot)) => {
                let raw: &mut Pieces = quantities.raw.entry(RawKey::of(&state, lease, slot)).or_default();
                add(raw.entry((state.period, row.cell.clone())).or_default());
            }
            _ => {
                let cells: &mut State = quantities.added.entry(state.clone()).or_default();
                add(cells.entry(row.cell.clone()).or_default());
            }
        }
        if let Some(edges) = derived.prepaid.get(&(row.contract.clone(), row.cell.version_from)) {
            // A window counts in the interval of its last second: whatever begins within it can pay for it. Days cut intervals too, so
            // that what was used can be set against a plan.
            let last = row.window.to - 1;
            let interval = interval_of(edges, last).max(last.div_euclid(SECONDS_PER_DAY) * SECONDS_PER_DAY);
            *quantities.prepaid.entry((state.clone(), row.cell.clone(), interval)).or_default() += cell.billed;
        }
        let across = derived.across.get(&(row.contract.clone(), row.ladder)).filter(|_| row.ladder != row.period);
        quantities.billing.insert(state, across.copied().unwrap_or(row.period));
    }
    quantities
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

/// The contracts that changes of history touch, themselves or through a lease: from which second on, and whether they ever commit by
/// the hour.
pub fn touched_contracts(
    history: &History,
    changes: &hydrometer_rating::history::Changes,
) -> BTreeMap<String, (Second, bool)> {
    let mut touched: BTreeMap<String, Second> = changes.contracts.clone();
    for (server, span) in &changes.servers {
        for lease in history.server(server).into_iter().flat_map(|timeline| &timeline.leases) {
            let from = touched.entry(lease.contract.clone()).or_insert(span.from);
            *from = span.from.min(*from);
        }
    }
    let by_the_hour = |contract: &str| history.versions(contract).iter().any(commits_by_the_hour);
    touched.into_iter().map(|(contract, from)| (contract.clone(), (from, by_the_hour(&contract)))).collect()
}

#[cfg(test)]
mod tests;
