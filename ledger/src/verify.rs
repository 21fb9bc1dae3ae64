//! Proof: every invariant, computed again from the rows.

use std::fmt;

use tokio_postgres::GenericClient;

use crate::LedgerError;

/// A law that does not hold, and the row that breaks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub law: String,
    /// The row, such as `account renter:R:unbilled:USD` or `transaction …, line 2`.
    pub subject: String,
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.law, self.subject, self.detail)
    }
}

/// Checks that debits equal credits per currency, balances are the sums of their entries, transfers are sound,
/// transactions are complete and say what they said when they were posted, and triggers and privileges are in place.
/// One statement, so it sees one moment of a ledger in use. Nothing found, nothing wrong.
pub async fn verify(client: &impl GenericClient) -> Result<Vec<Violation>, LedgerError> {
    let rows = client
        .query_typed(include_str!("../sql/verify.sql"), &[])
        .await
        .map_err(LedgerError::database("verifying the ledger"))?;
    Ok(rows.iter().map(|row| Violation { law: row.get(0), subject: row.get(1), detail: row.get(2) }).collect())
}
