//! Limits: how far an account may be overdrawn.

use tokio_postgres::types::Type;

use crate::{AccountSpec, Amount, LedgerError, open_accounts};

/// Sets the credit limit of an account, from now on and as part of the caller's database transaction: what is available
/// on it (its balance on the side on which it grows, less what is held) never falls below minus the limit. `None`: no
/// limit. The account is opened, if need be.
///
/// Who set it and why is kept. Nothing is refused when less is available already; nothing more goes out then.
///
/// # Errors
/// [`LedgerError::Rejected`] for a limit below 0, or without who and why.
pub async fn set_limit(
    tx: &tokio_postgres::Transaction<'_>,
    account: &AccountSpec,
    limit: Option<Amount>,
    who: &str,
    why: &str,
) -> Result<(), LedgerError> {
    let id = open_accounts(tx, &[account]).await?.first().copied();
    tx.query_typed(
        "select ledger.set_limit($1, $2, $3, $4)",
        &[(&id, Type::INT8), (&limit, Type::NUMERIC), (&who, Type::TEXT), (&why, Type::TEXT)],
    )
    .await
    .map_err(LedgerError::database("setting a limit"))?;
    Ok(())
}
