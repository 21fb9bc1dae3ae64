//! What falls due at the end of hours and billing periods: from what the commit point holds to the facts that `rating` decides on.

mod decide;

use std::collections::BTreeMap;

use hydrometer_rating::due::{self, LeaseFacts, LeaseQuantity};
use hydrometer_rating::history::{History, Span, Version};
use hydrometer_rating::keys::StateKey;
use hydrometer_rating::money::Amount;
use hydrometer_rating::rate::State;
use hydrometer_rating::terms::{MICRO, RateId};
use hydrometer_schemas::time::{FOREVER, SECONDS_PER_HOUR, Second, hour_floor};

pub use decide::{Closed, close_period, period_at};

use crate::store::StoreError;
use crate::store::closing::{DueKey, Job};
use crate::store::period::Uses;

/// Something that is due, as it stands now.
#[derive(Debug, Clone)]
pub struct Due {
    pub key: DueKey,
    /// Where what it is for ends: the hour or the billing period.
    pub end: Second,
    pub renter: Amount,
    pub supplier: Amount,
    pub why: String,
}

/// All that is due for a job, from the states and the leases' use of its time.
pub fn dues_of(
    job: &Job,
    history: &History,
    states: &BTreeMap<StateKey, State>,
    uses: &Uses,
) -> Result<Vec<Due>, StoreError> {
    let versions = history.versions(job.contract());
    match job {
        Job::Hours { span, .. } => {
            let mut dues = Vec::new();
            for hour in committed_hours(versions, *span) {
                let of_hour: BTreeMap<StateKey, State> =
                    states.iter().filter(|(key, _)| key.period == hour).map(|(k, s)| (k.clone(), s.clone())).collect();
                let found = due::hour_dues(versions, hour, &of_hour, history)?;
                let period = Span { from: hour, to: hour + SECONDS_PER_HOUR };
                dues.extend(found.into_iter().filter_map(|due| keyed(due, versions, period)));
            }
            Ok(dues)
        }
        Job::Period { contract, period } => {
            let leases = leases_of(contract, *period, history, uses);
            let terminated = versions.last().map(|version| version.span.to).filter(|to| *to < FOREVER);
            let closing =
                due::Closing { versions, period: *period, states, rates: history, leases: &leases, terminated };
            let found = due::dues(&closing)?;
            Ok(found.into_iter().filter_map(|due| keyed(due, versions, *period)).collect())
        }
    }
}

/// The hours of a span in which a commitment by the hour is in force.
pub fn committed_hours(versions: &[Version], span: Span) -> Vec<Second> {
    let mut hours = Vec::new();
    for version in versions.iter().filter(|version| commits_by_the_hour(version)) {
        let Some(part) = version.span.intersect(span) else { continue };
        let mut hour = hour_floor(part.from);
        while hour < part.to {
            if hours.last() != Some(&hour) {
                hours.push(hour);
            }
            hour += SECONDS_PER_HOUR;
        }
    }
    hours
}

pub fn commits_by_the_hour(version: &Version) -> bool {
    version.terms.charges.values().any(|charge| charge.is_hourly())
}

/// A due under the name that it is kept by: the renter and currency are those of the version that holds at the end. A credit that the
/// contract only lists is not due.
fn keyed(due: due::Due, versions: &[Version], period: Span) -> Option<Due> {
    if !due.is_booked {
        return None;
    }
    let in_force = |version: &&Version| version.span.intersect(period).is_some();
    let of = |version: &&Version| due.version_from == Some(version.span.from);
    let version = versions.iter().find(of).or_else(|| versions.iter().rfind(in_force)).or(versions.last())?;
    let terms = &version.terms;
    Some(Due {
        key: DueKey {
            contract: terms.contract.clone(),
            renter: terms.renter.clone(),
            currency: terms.currency.clone(),
            charge: due.charge,
            kind: due.kind,
            period: period.from,
            billing: terms.calendar.period_of(period.from).from,
            version_from: due.version_from.unwrap_or(0),
            subject: due.subject,
            supplier: due.supplier.unwrap_or_default(),
        },
        end: period.to,
        renter: due.renter_amount,
        supplier: due.supplier_amount,
        why: due.why,
    })
}

/// The leases under a contract that reach into a period, with what they used of it.
fn leases_of(contract: &str, period: Span, history: &History, uses: &Uses) -> Vec<LeaseFacts> {
    let mut leases: BTreeMap<(&str, &str), LeaseFacts> = BTreeMap::new();
    for timeline in history.servers_under(contract).filter_map(|server| history.server(server)) {
        let of_contract = timeline.leases.iter().filter(|lease| lease.contract == contract);
        for lease in of_contract.filter(|lease| lease.span.intersect(period).is_some()) {
            let facts = LeaseFacts {
                lease: lease.lease.clone(),
                span: lease.span,
                slots: lease.slots.clone(),
                server: timeline.server.clone(),
                supplier: timeline.supplier.clone().unwrap_or_default(),
                ..LeaseFacts::default()
            };
            leases.insert((&lease.lease, &timeline.server), facts);
        }
    }
    for (key, used) in uses {
        // Time that is being taken back from a lease that never was has no say.
        let Some(facts) = leases.get_mut(&(key.lease.as_str(), key.server.as_str())) else { continue };
        facts.seconds = facts.seconds.plus(used.classes);
        if key.cell.rate == RateId(0) {
            continue;
        }
        let quantity: &mut LeaseQuantity = facts.quantities.entry((key.state.clone(), key.cell.clone())).or_default();
        quantity.billed += i128::from(used.billed) * MICRO;
        quantity.lost += i128::from(used.lost) * MICRO;
    }
    leases.into_values().collect()
}
