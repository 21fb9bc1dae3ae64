//! The hash chain: binds what is stored together after the fact, so that a change of it shows.
//!
//! Nobody who posts waits for it. A chainer takes the sets in the order of their transactions' numbers, as soon as all
//! earlier ones are final, and adds a link for each to one of four shards; a fifth chains the rows of the other tables.
//! `sql/0001_chain.sql` says what exactly is hashed. [`crate::verify`] computes all of it again.

use tokio_postgres::GenericClient;
use tokio_postgres::types::Type;

use crate::LedgerError;

/// Adds to the chain what can be added now, about `limit` transfers of each shard at most, and says how many lines and
/// facts that were. Several may run at once: a shard that another works on is left out. 0 says that nothing is left, or
/// only what others work on.
///
/// # Errors
/// A database that fails; a ledger that was copied to a server whose transactions are numbered lower.
pub async fn advance(client: &impl GenericClient, limit: i32) -> Result<i64, LedgerError> {
    let rows = client
        .query_typed("select ledger.chain($1)", &[(&limit, Type::INT4)])
        .await
        .map_err(LedgerError::database("chaining"))?;
    Ok(rows.first().map_or(0, |row| row.get(0)))
}
