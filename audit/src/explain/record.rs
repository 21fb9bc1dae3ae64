//! A rated record: from its amount to the readings, events and commit behind it.

use ethnum::I256;
use hydrometer_pipeline::store::closing::states_of;
use hydrometer_rating::classes::mask;
use hydrometer_rating::history::{History, Span};
use hydrometer_rating::keys::StateKey;
use hydrometer_rating::money::{Exact, MoneyError, PRICE_PER_AMOUNT, Share};
use hydrometer_rating::what_if::{Line, lines_of, unit_of};
use hydrometer_schemas::time::{Minute, Second, hour_floor, show_second};
use hydrometer_sinks::SinkError;
use hydrometer_sinks::rated::{RatedRow, RecordKind};
use serde::Serialize;
use uuid::Uuid;

use super::draw;
use super::due::{self, DueFact};
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
    /// The billing period that it was used in, and the one that it is booked in.
    pub period_start: String,
    pub booked_start: String,
    pub seconds: Totals,
    /// Of usage; what fell due is explained by `due`.
    pub computation: Option<Computation>,
    pub due: Option<DueFact>,
    /// The ledger transaction that books the step; none where the step moved no money.
    pub booked: Option<Booking>,
    pub minutes: Vec<MinuteFact>,
    pub events: Vec<EventFact>,
    pub committed: Option<CommitFact>,
    pub stored: Vec<Stored>,
    /// All records of the same lease, slot, window and charge, this one among them.
    pub revisions: Vec<RecordLine>,
    /// What these revisions come to.
    pub window: Totals,
}

/// How the amounts follow from the quantities.
#[derive(Debug, Clone, Serialize)]
pub struct Computation {
    /// Names the charge's terms and the supplier's side of them.
    pub rate: String,
    pub version_from: String,
    /// The time of the week: 0 is the charge's own price.
    pub segment: u16,
    /// What a price is per, and how many counted pieces that is.
    pub unit: Option<&'static str>,
    pub pieces_per_unit: Option<String>,
    /// Where every unit costs the same.
    pub price: Option<String>,
    /// Where the supplier has no rate of its own.
    pub supplier_share_percent: Option<String>,
    /// price × quantity ÷ pieces in a unit, before rounding; where every unit costs the same.
    pub renter_exact: Option<String>,
    /// price × share ÷ 100 × paid quantity ÷ pieces in a unit, before rounding.
    pub supplier_exact: Option<String>,
    /// What the record carries of the step's rounding, in units of the ninth decimal.
    pub renter_remainder: Option<String>,
    pub supplier_remainder: Option<String>,
    /// Whose usage climbs the ladder, and from when.
    pub resource: String,
    pub ladder_start: String,
    /// The stretches of the ladder as they stand now: all the quantity of its rating state, cut where its price changes.
    pub ladder: Vec<LadderLine>,
    /// How many records share the step.
    pub records_of_step: usize,
    /// The cell's cumulative totals before and after; none where they did not move: nothing is billed or paid, or the commit's
    /// records of the cell cancel each other out.
    pub step: Option<StepFact>,
}

/// A stretch of a rating state's quantity that has one price.
#[derive(Debug, Clone, Serialize)]
pub struct LadderLine {
    pub version_from: String,
    /// `free`, `per unit`, `tier 2`, `3 packages`.
    pub part: String,
    /// Beyond the commitment.
    pub overage: bool,
    pub units: String,
    pub price: String,
    pub flat: String,
    pub renter_amount: String,
}

/// A staged object that holds the record, and the file made of it.
#[derive(Debug, Clone, Serialize)]
pub struct Stored {
    /// None of what fell due: its steps are rows of the commit point.
    pub object: Option<String>,
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
    let due = due::of_record(cut, row).await?;
    let computation = match row.kind {
        RecordKind::Due(_) => None,
        _ => Some(computation(cut, &history, row).await?),
    };
    let step = computation.as_ref().and_then(|computation| computation.step.as_ref());
    let transaction = step.map(|step| &step.transaction).or(due.as_ref().map(|due| &due.transaction));
    let booked = match transaction {
        Some(transaction) => facts::booking(cut, Uuid::parse_str(transaction).unwrap_or_default()).await?,
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
        period_start: show_second(row.period),
        booked_start: show_second(row.booked),
        seconds: Totals::of([row])?,
        stored: stored(cut, row, due.as_ref()).await?,
        computation,
        due,
        booked,
        minutes,
        events: facts::events(cut, &parties).await?,
        committed: facts::commit(cut, &row.commit).await?,
        window: Totals::of(&revisions)?,
        revisions: revisions.iter().map(RecordLine::of).collect(),
    })
}

async fn computation(cut: &Cut, history: &History, row: &RatedRow) -> Result<Computation, CutError> {
    let hour = hour_floor(row.window.to - 1);
    let state = row.state();
    let condition = "o.commit_id::text = $1 AND o.partition = $2 AND o.hour_s = $3 AND k.contract = $4 AND k.charge = $5 AND k.period_s = $6";
    let steps =
        facts::steps(cut, condition, &[&row.commit, &row.partition, &hour, &row.contract, &row.charge, &row.ladder])
            .await?;
    let same = facts::rated_by(cut, &row.commit, &row.contract, hour).await?;
    let shares_step =
        |other: &&RatedRow| other.partition == row.partition && other.cell == row.cell && other.state() == state;
    let rate = history.rate(row.cell.rate);
    let pieces = rate.map(|rate| rate.charge.pieces_per_unit);
    // What every unit costs, times so many of them.
    let exact = |quantity: i64, share: Option<Share>| -> Result<Option<Exact>, MoneyError> {
        let (Some(price), Some(pieces)) = (row.price, pieces) else { return Ok(None) };
        let unit = Exact { numerator: I256::from(price.scaled()), denominator: I256::from(PRICE_PER_AMOUNT) };
        let cost = unit.times(i128::from(quantity), pieces)?;
        share.map_or(Ok(cost), |share| cost.share(share)).map(Some)
    };
    let renter = exact(row.quantity.billed, None).map_err(SinkError::from)?;
    let supplier = match row.share {
        Some(share) => exact(row.quantity.paid, Some(share)).map_err(SinkError::from)?,
        None => None,
    };
    Ok(Computation {
        rate: row.cell.rate.to_string(),
        version_from: show_second(row.cell.version_from),
        segment: row.cell.segment,
        unit: rate.map(|rate| unit_of(rate.charge.basis)),
        pieces_per_unit: pieces.map(|pieces| pieces.to_string()),
        price: row.price.map(|price| price.to_string()),
        supplier_share_percent: row.share.map(|share| share.to_string()),
        renter_exact: renter.map(draw::exact),
        supplier_exact: supplier.map(draw::exact),
        renter_remainder: renter.map(|exact| draw::remainder(row.renter_amount, exact).to_string()),
        supplier_remainder: supplier.map(|exact| draw::remainder(row.supplier_amount, exact).to_string()),
        resource: row.resource.clone(),
        ladder_start: show_second(row.ladder),
        ladder: ladder(cut, history, &state, row.period).await?,
        records_of_step: same.iter().filter(shares_step).count(),
        step: steps.into_iter().find(|step| step.cell == row.cell && step.state == state),
    })
}

/// The ladder of a record's rating state as it stands now.
async fn ladder(cut: &Cut, history: &History, state: &StateKey, period: Second) -> Result<Vec<LadderLine>, CutError> {
    let span = Span { from: period, to: period + 1 };
    let mut states = states_of(cut.client(), &state.contract, span).await?;
    states.retain(|key, _| key == state);
    let lines = lines_of(history.versions(&state.contract), &states, history).map_err(|error| CutError::Refused {
        what: format!("the ladder of {} cannot be worked out: {error}", state.charge),
        hint: "`hydrometer verify` says what is wrong with its rating state".to_owned(),
    })?;
    let line = |line: &Line| LadderLine {
        version_from: show_second(line.version_from),
        part: line.part.to_string(),
        overage: line.overage,
        units: draw::units(line.quantity, line.pieces_per_unit),
        price: line.price.to_string(),
        flat: line.flat.to_string(),
        renter_amount: line.renter.to_string(),
    };
    Ok(lines.iter().map(line).collect())
}

/// All records of the same lease, slot, window and charge, in the order in which they were said.
async fn same_window(cut: &Cut, row: &RatedRow) -> Result<Vec<RatedRow>, CutError> {
    let (Some(lease), Some(slot)) = (&row.lease, row.slot) else { return Ok(vec![row.clone()]) };
    let condition = format!(
        "lease = {} AND slot = {slot} AND charge = {} AND window_start = {} AND window_end = {}",
        literal(lease),
        literal(&row.charge),
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

async fn stored(cut: &Cut, row: &RatedRow, due: Option<&DueFact>) -> Result<Vec<Stored>, CutError> {
    if let Some(due) = due {
        return Ok(vec![Stored { object: None, file: Some(due.file.clone()), published: due.published }]);
    }
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
