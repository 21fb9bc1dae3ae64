//! A rated record: from its amount to the readings, events and commit behind it.

use hydrometer_rating::classes::mask;
use hydrometer_rating::history::{History, Span};
use hydrometer_rating::money::{renter_exact, supplier_exact};
use hydrometer_schemas::time::{Minute, hour_floor, show_second};
use hydrometer_sinks::SinkError;
use hydrometer_sinks::rated::RatedRow;
use serde::Serialize;
use uuid::Uuid;

use super::draw;
use super::facts::{
    self, Booking, CommitFact, EventFact, MinuteFact, Parties, RecordLine, StepFact, Totals, literal, time_literal,
};
use crate::cut::{Cut, CutError};

#[derive(Debug, Clone, Serialize)]
pub struct RecordExplanation {
    #[serde(flatten)]
    pub line: RecordLine,
    pub contract: String,
    pub charge: String,
    pub renter: String,
    pub supplier: String,
    pub server: Option<String>,
    pub currency: String,
    pub commission: String,
    pub seconds: Totals,
    pub computation: Computation,
    /// The ledger transaction that books the step; none where the step moved no money.
    pub booked: Option<Booking>,
    pub minutes: Vec<MinuteFact>,
    pub events: Vec<EventFact>,
    pub committed: Option<CommitFact>,
    pub stored: Vec<Stored>,
    /// All revisions of the same lease, slot and window, this one among them.
    pub revisions: Vec<RecordLine>,
    /// What these revisions come to.
    pub window: Totals,
}

/// How the amounts follow from the quantities.
#[derive(Debug, Clone, Serialize)]
pub struct Computation {
    pub price_per_gpu_hour: String,
    pub version_from: String,
    pub supplier_share_percent: String,
    /// price × billed seconds ÷ 3600, before rounding.
    pub renter_exact: String,
    /// price × share ÷ 100 × paid seconds ÷ 3600, before rounding.
    pub supplier_exact: String,
    /// What the record carries of the step's rounding, in units of the ninth decimal.
    pub renter_remainder: String,
    pub supplier_remainder: String,
    /// How many records share the step.
    pub records_of_step: usize,
    /// The cell's cumulative totals before and after; none where they did not move: nothing is billed or paid, or the commit's
    /// records of the cell cancel each other out.
    pub step: Option<StepFact>,
}

/// A staged object that holds the record, and the file made of it.
#[derive(Debug, Clone, Serialize)]
pub struct Stored {
    pub object: String,
    pub file: Option<String>,
    pub published: bool,
}

pub async fn explain(cut: &Cut, id: &str) -> Result<RecordExplanation, CutError> {
    let found = facts::rated(cut, &format!("record = {}", literal(id))).await?;
    let row = found.first().ok_or_else(|| CutError::Unknown {
        what: format!("there is no record {id}"),
        hint: "`hydrometer sql \"SELECT record, lease, renter_amount FROM rated_usage LIMIT 5\"` shows some".to_owned(),
    })?;
    let history = facts::history(cut).await?;
    let revisions = same_window(cut, row).await?;
    let computation = computation(cut, row).await?;
    let booked = match &computation.step {
        Some(step) => facts::booking(cut, Uuid::parse_str(&step.transaction).unwrap_or_default()).await?,
        None => None,
    };
    let minutes = match (&row.server, &row.gpu) {
        (Some(server), Some(gpu)) => {
            let stretch = stretch(&history, row);
            facts::minutes(cut, server, gpu, row.window, |minute| covered(&stretch, minute)).await?
        }
        _ => Vec::new(),
    };
    let parties = Parties {
        server: row.server.as_deref(),
        slot: row.slot,
        lease: row.lease.as_deref(),
        contract: Some(&row.contract),
        before: row.window.to,
    };
    Ok(RecordExplanation {
        line: RecordLine::of(row),
        contract: row.contract.clone(),
        charge: row.charge.clone(),
        renter: row.renter.clone(),
        supplier: row.cell.supplier.clone(),
        server: row.server.clone(),
        currency: row.currency.clone(),
        commission: row.commission()?.to_string(),
        seconds: Totals::of([row])?,
        computation,
        booked,
        minutes,
        events: facts::events(cut, &parties).await?,
        committed: facts::commit(cut, &row.commit).await?,
        stored: stored(cut, row).await?,
        window: Totals::of(&revisions)?,
        revisions: revisions.iter().map(RecordLine::of).collect(),
    })
}

async fn computation(cut: &Cut, row: &RatedRow) -> Result<Computation, CutError> {
    let renter = renter_exact(row.cell.price, row.seconds.billed).map_err(SinkError::from)?;
    let supplier = supplier_exact(row.cell.price, row.cell.share, row.seconds.paid).map_err(SinkError::from)?;
    let condition = "o.commit_id::text = $1 AND o.partition = $2 AND o.hour_s = $3 AND s.contract = $4 AND s.charge = $5 AND s.period_s = $6";
    let hour = hour_floor(row.window.to - 1);
    let steps =
        facts::steps(cut, condition, &[&row.commit, &row.partition, &hour, &row.contract, &row.charge, &row.period])
            .await?;
    let same = facts::rated_by(cut, &row.commit, &row.contract, hour).await?;
    let shares_step = |other: &&RatedRow| {
        other.partition == row.partition
            && other.cell == row.cell
            && other.charge == row.charge
            && other.period == row.period
    };
    Ok(Computation {
        price_per_gpu_hour: row.cell.price.to_string(),
        version_from: show_second(row.cell.version_from),
        supplier_share_percent: row.cell.share.to_string(),
        renter_exact: draw::exact(renter),
        supplier_exact: draw::exact(supplier),
        renter_remainder: draw::remainder(row.renter_amount, renter).to_string(),
        supplier_remainder: draw::remainder(row.supplier_amount, supplier).to_string(),
        records_of_step: same.iter().filter(shares_step).count(),
        step: steps.into_iter().find(|step| step.cell == row.cell),
    })
}

/// All records of the same lease, slot and window, in the order in which they were said.
async fn same_window(cut: &Cut, row: &RatedRow) -> Result<Vec<RatedRow>, CutError> {
    let (Some(lease), Some(slot)) = (&row.lease, row.slot) else { return Ok(vec![row.clone()]) };
    let condition = format!(
        "lease = {} AND slot = {slot} AND window_start = {} AND window_end = {}",
        literal(lease),
        time_literal(row.window.from),
        time_literal(row.window.to)
    );
    let mut rows = facts::rated(cut, &condition).await?;
    rows.sort_by_cached_key(|row| (row.revision, row.sort_key()));
    Ok(rows)
}

/// When the record's GPU was leased within its window under the terms that it is rated by, as all events of the cut say.
fn stretch(history: &History, row: &RatedRow) -> Vec<Span> {
    let (Some(server), Some(lease), Some(slot), Some(gpu)) = (&row.server, &row.lease, row.slot, &row.gpu) else {
        return Vec::new();
    };
    let Some(timeline) = history.server(server) else { return vec![row.window] };
    let Some(lease) = timeline.leases.iter().find(|l| l.lease == *lease) else { return vec![row.window] };
    let seats = timeline.occupancy.get(&slot).into_iter().flatten().filter(|seat| seat.gpu == *gpu);
    let terms: Vec<Span> = history
        .versions(&lease.contract)
        .iter()
        .filter(|v| v.span.from == row.cell.version_from)
        .map(|v| v.span)
        .collect();
    let spans: Vec<Span> = seats
        .filter_map(|seat| seat.span.intersect(lease.span)?.intersect(row.window))
        .flat_map(|span| terms.iter().filter_map(move |terms| terms.intersect(span)))
        .collect();
    // A correction may take back what no event supports any more: then all of the window is shown.
    if spans.is_empty() { vec![row.window] } else { spans }
}

fn covered(spans: &[Span], minute: Minute) -> u64 {
    spans.iter().fold(0, |seconds, span| seconds | mask(*span, minute))
}

async fn stored(cut: &Cut, row: &RatedRow) -> Result<Vec<Stored>, CutError> {
    let hour = hour_floor(row.window.to - 1);
    let rows = cut
        .client()
        .query(
            "SELECT o.name, f.name, f.published_at IS NOT NULL FROM hydrometer.object AS o \
             LEFT JOIN hydrometer.file_object AS x ON x.object = o.name LEFT JOIN hydrometer.file AS f ON f.name = x.file \
             WHERE o.kind = 'rated' AND o.commit_id::text = $1 AND o.partition = $2 AND o.hour_s = $3 ORDER BY 1, 2",
            &[&row.commit, &row.partition, &hour],
        )
        .await?;
    Ok(rows.iter().map(|row| Stored { object: row.get(0), file: row.get(1), published: row.get(2) }).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_of_several_stretches() {
        let spans = [Span { from: 0, to: 10 }, Span { from: 50, to: 70 }];
        assert_eq!(covered(&spans, 0).count_ones(), 20);
        assert_eq!(covered(&spans, 1), 0b11_1111_1111);
        assert_eq!(covered(&spans, 2), 0);
    }
}
