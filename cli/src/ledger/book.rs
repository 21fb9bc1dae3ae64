//! What the book holds: accounts, balances, transfers.

use hydrometer_ledger::{self as ledger, Amount, AsOf, Balance, TransactionId};
use tokio_postgres::Client;

use super::moment::show;
use super::{unknown_account, unknown_transaction};
use crate::CliError;
use crate::table::{Format, Kind, Rows};

pub(super) async fn accounts(client: &Client, prefix: &str, format: Format) -> Result<u8, CliError> {
    let mut rows = Rows::new(&[
        ("account", Kind::Text),
        ("type", Kind::Text),
        ("party", Kind::Text),
        ("purpose", Kind::Text),
        ("currency", Kind::Text),
    ]);
    for account in ledger::accounts(client, prefix).await.map_err(CliError::failed)? {
        let spec = account.spec;
        rows.push([spec.name, spec.kind.to_string(), spec.party, spec.purpose, spec.currency]);
    }
    rows.print(format)?;
    Ok(0)
}

pub(super) async fn balances(client: &Client, prefix: &str, at: AsOf, format: Format) -> Result<u8, CliError> {
    if at == AsOf::Now {
        return funds(client, prefix, format).await;
    }
    let mut rows = Rows::new(&BALANCE_COLUMNS);
    for balance in ledger::balances(client, prefix, at).await.map_err(CliError::failed)? {
        rows.push(balance_row(&balance));
    }
    rows.print(format)?;
    Ok(0)
}

/// What holds would take is on the side that makes less available.
async fn funds(client: &Client, prefix: &str, format: Format) -> Result<u8, CliError> {
    let mut rows = Rows::new(&[
        ("account", Kind::Text),
        ("type", Kind::Text),
        ("debits", Kind::Decimal),
        ("credits", Kind::Decimal),
        ("balance", Kind::Decimal),
        ("held", Kind::Decimal),
        ("available", Kind::Decimal),
        ("credit_limit", Kind::Decimal),
        ("currency", Kind::Text),
    ]);
    for funds in ledger::funds(client, prefix).await.map_err(CliError::failed)? {
        let spec = funds.account.spec;
        let (more, less, held) = if spec.kind.is_debit_normal() {
            (funds.debits, funds.credits, funds.pending_credits)
        } else {
            (funds.credits, funds.debits, funds.pending_debits)
        };
        rows.rows.push(vec![
            Some(spec.name),
            Some(spec.kind.to_string()),
            Some(funds.debits.to_string()),
            Some(funds.credits.to_string()),
            more.checked_sub(less).map(|balance| balance.to_string()),
            Some(held.to_string()),
            Some(funds.available.to_string()),
            funds.credit_limit.map(|limit| limit.to_string()),
            Some(spec.currency),
        ]);
    }
    rows.print(format)?;
    Ok(0)
}

const BALANCE_COLUMNS: [(&str, Kind); 6] = [
    ("account", Kind::Text),
    ("type", Kind::Text),
    ("debit", Kind::Decimal),
    ("credit", Kind::Decimal),
    ("balance", Kind::Decimal),
    ("currency", Kind::Text),
];

fn balance_row(balance: &Balance) -> [String; 6] {
    let spec = &balance.account.spec;
    [
        spec.name.clone(),
        spec.kind.to_string(),
        balance.debit().to_string(),
        balance.credit().to_string(),
        balance.natural().map(|amount| amount.to_string()).unwrap_or_default(),
        spec.currency.clone(),
    ]
}

pub(super) async fn trial_balance(client: &Client, at: AsOf, format: Format) -> Result<u8, CliError> {
    let mut rows = Rows::new(&BALANCE_COLUMNS);
    let mut balanced = true;
    for currency in ledger::trial_balance(client, at).await.map_err(CliError::failed)? {
        for balance in &currency.balances {
            rows.push(balance_row(balance));
        }
        balanced &= currency.is_balanced();
        let difference = currency.debits.checked_sub(currency.credits).unwrap_or(Amount::ZERO);
        rows.push([
            "total".to_owned(),
            if currency.is_balanced() { "balanced" } else { "NOT BALANCED" }.to_owned(),
            currency.debits.to_string(),
            currency.credits.to_string(),
            difference.to_string(),
            currency.currency.clone(),
        ]);
    }
    rows.print(format)?;
    Ok(if balanced { 0 } else { 1 })
}

pub(super) async fn transfers(
    client: &Client,
    account: Option<&str>,
    limit: u32,
    format: Format,
) -> Result<u8, CliError> {
    if let Some(name) = account {
        let known = ledger::accounts(client, name).await.map_err(CliError::failed)?;
        if !known.iter().any(|a| a.spec.name == name) {
            return Ok(unknown_account(name));
        }
    }
    let mut rows = Rows::new(&[
        ("booked_at", Kind::Text),
        ("effective_at", Kind::Text),
        ("kind", Kind::Text),
        ("debit", Kind::Text),
        ("credit", Kind::Text),
        ("amount", Kind::Decimal),
        ("currency", Kind::Text),
        ("transaction", Kind::Text),
    ]);
    for entry in ledger::transfers(client, account, None, limit).await.map_err(CliError::failed)? {
        rows.push([
            show(entry.position.booked_at),
            show(entry.effective_at),
            entry.kind,
            entry.debit,
            entry.credit,
            entry.amount.to_string(),
            entry.currency,
            entry.position.transaction.to_string(),
        ]);
    }
    rows.print(format)?;
    Ok(0)
}

pub(super) async fn transaction(client: &Client, id: TransactionId, format: Format) -> Result<u8, CliError> {
    let Some(posted) = ledger::transaction(client, id).await.map_err(CliError::failed)? else {
        return Ok(unknown_transaction(id));
    };
    let mut rows = Rows::new(&[
        ("debit", Kind::Text),
        ("credit", Kind::Text),
        ("amount", Kind::Decimal),
        ("currency", Kind::Text),
        ("kind", Kind::Text),
        ("effective_at", Kind::Text),
        ("corrects", Kind::Text),
        ("reverses", Kind::Text),
        ("description", Kind::Text),
    ]);
    let id = |id: Option<TransactionId>| id.map(|id| id.to_string()).unwrap_or_default();
    for transfer in posted.transfers {
        rows.push([
            transfer.debit.name,
            transfer.credit.name,
            transfer.amount.to_string(),
            transfer.debit.currency,
            posted.kind.clone(),
            show(posted.effective_at),
            id(posted.corrects),
            id(posted.reverses),
            posted.description.clone(),
        ]);
    }
    rows.print(format)?;
    Ok(0)
}
