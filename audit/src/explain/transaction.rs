//! A ledger transaction: its transfers, and the rated records that it books.

use std::collections::BTreeSet;

use hydrometer_schemas::time::{Second, hour_floor};
use hydrometer_sinks::rated::RatedRow;
use serde::Serialize;
use uuid::Uuid;

use super::due::{self, DueFact};
use super::facts::{self, Booking, CommitFact, RecordLine, StepFact, Totals};
use crate::cut::{Cut, CutError};

/// So many records are listed; the totals are of all.
const RECORDS_MAX: usize = 20;

#[derive(Debug, Clone, Serialize)]
pub struct TransactionExplanation {
    #[serde(flatten)]
    pub booking: Booking,
    pub steps: Vec<StepFact>,
    /// Where it books what fell due: that, and why.
    pub due: Option<DueFact>,
    /// Of all records that it books.
    pub totals: Totals,
    /// The largest of them.
    pub records: Vec<RecordLine>,
    pub commits: Vec<CommitFact>,
}

pub async fn explain(cut: &Cut, id: Uuid) -> Result<TransactionExplanation, CutError> {
    let booking = facts::booking(cut, id).await?.ok_or_else(|| CutError::Unknown {
        what: format!("the ledger has no transaction {id}"),
        hint: "`hydrometer ledger transfers` shows the latest ones".to_owned(),
    })?;
    let steps = facts::steps(cut, "s.transaction = $1", &[&id]).await?;
    let mut records = Vec::new();
    let places: BTreeSet<(Uuid, &str, Second)> =
        steps.iter().map(|s| (s.place.0, s.contract.as_str(), s.place.2)).collect();
    for (commit, contract, hour) in &places {
        let rows = facts::rated_by(cut, &commit.to_string(), contract, *hour).await?;
        records.extend(rows.into_iter().filter(|row| steps.iter().any(|step| books(step, row))));
    }
    let due = due::booked_by(cut, id).await?;
    if let Some(due) = &due {
        records.extend(due::records_of(cut, due).await?);
    }
    let mut commits = Vec::new();
    let of_steps = places.iter().map(|(commit, _, _)| commit.to_string());
    for commit in of_steps.chain(due.iter().map(|due| due.commit.clone())).collect::<BTreeSet<_>>() {
        commits.extend(facts::commit(cut, &commit).await?);
    }
    let totals = Totals::of(&records)?;
    records.sort_by_cached_key(|row| (-row.renter_amount.scaled().abs(), row.sort_key()));
    let records = records.iter().take(RECORDS_MAX).map(RecordLine::of).collect();
    Ok(TransactionExplanation { booking, steps, due, totals, records, commits })
}

/// Whether a record is one of a step's.
fn books(step: &StepFact, row: &RatedRow) -> bool {
    row.commit == step.place.0.to_string()
        && row.partition == step.place.1
        && hour_floor(row.window.to - 1) == step.place.2
        && row.state() == step.state
        && row.cell == step.cell
}
