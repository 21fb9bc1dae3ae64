//! A lease: what it is, and the records that its windows were rated to.

use hydrometer_rating::history::{History, Lease, ServerTimeline, Span};
use hydrometer_schemas::time::{FOREVER, Second, show_second};
use serde::Serialize;

use super::facts::{self, EventFact, Parties, RecordLine, Totals, literal, time_literal};
use crate::cut::{Cut, CutError};

/// So many records are listed; the totals are of all.
const RECORDS_MAX: usize = 50;

#[derive(Debug, Clone, Serialize)]
pub struct LeaseExplanation {
    pub lease: String,
    /// The second that was asked for.
    pub at: Option<String>,
    /// None where its beginning is not known, or not applied.
    pub terms: Option<Terms>,
    pub totals: Totals,
    /// The latest windows first.
    pub records: Vec<RecordLine>,
    pub events: Vec<EventFact>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Terms {
    pub contract: String,
    pub server: String,
    pub supplier: Option<String>,
    pub slots: Vec<u32>,
    pub from: String,
    /// None while it goes on.
    pub to: Option<String>,
    pub suspended: Vec<(String, Option<String>)>,
}

pub async fn explain(cut: &Cut, lease: &str, at: Option<Second>) -> Result<LeaseExplanation, CutError> {
    let history = facts::history(cut).await?;
    let terms = find(&history, lease).map(|(server, lease)| terms(server, lease));
    let mut condition = format!("lease = {}", literal(lease));
    if let Some(at) = at {
        condition.push_str(&format!(" AND window_start <= {0} AND window_end > {0}", time_literal(at)));
    }
    let mut rows = facts::rated(cut, &condition).await?;
    let parties = Parties {
        server: terms.as_ref().map(|t| t.server.as_str()),
        slot: None,
        lease: Some(lease),
        contract: terms.as_ref().map(|t| t.contract.as_str()),
        before: FOREVER,
    };
    let events = facts::events(cut, &parties).await?;
    if terms.is_none() && rows.is_empty() && events.is_empty() {
        return Err(CutError::Unknown {
            what: format!("nothing is known of a lease {lease}"),
            hint: "`hydrometer sql \"SELECT DISTINCT lease FROM rated_usage\"` lists those that were rated".to_owned(),
        });
    }
    let totals = Totals::of(&rows)?;
    rows.sort_by_cached_key(|row| (std::cmp::Reverse(row.window), row.sort_key()));
    Ok(LeaseExplanation {
        lease: lease.to_owned(),
        at: at.map(show_second),
        terms,
        totals,
        records: rows.iter().take(RECORDS_MAX).map(RecordLine::of).collect(),
        events,
    })
}

fn find<'a>(history: &'a History, lease: &str) -> Option<(&'a ServerTimeline, &'a Lease)> {
    history.servers().find_map(|server| Some((server, server.leases.iter().find(|l| l.lease == lease)?)))
}

fn terms(server: &ServerTimeline, lease: &Lease) -> Terms {
    let end = |span: Span| (span.to != FOREVER).then(|| show_second(span.to));
    Terms {
        contract: lease.contract.clone(),
        server: server.server.clone(),
        supplier: server.supplier.clone(),
        slots: lease.slots.clone(),
        from: show_second(lease.span.from),
        to: end(lease.span),
        suspended: lease.suspended.iter().map(|span| (show_second(span.from), end(*span))).collect(),
    }
}
