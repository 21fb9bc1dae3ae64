//! How wallets stand.

use hydrometer_ledger::wallet;
use hydrometer_pipeline::apply::history;
use hydrometer_pipeline::store::Database;
use hydrometer_pipeline::store::timeline::lifecycle_time;
use hydrometer_pipeline::store::wallet::grant_id;
use hydrometer_rating::exhaustion::Purse;
use hydrometer_rating::history::History;
use hydrometer_schemas::lifecycle::{Kind as EventKind, WalletKey};
use hydrometer_schemas::time::{FOREVER, Second, show_second};

use super::Of;
use crate::CliError;
use crate::table::{Format, Kind, Rows, visible};

/// How far ahead `list` looks for the second in which a wallet runs dry: 92 days.
const AHEAD_S: i64 = 92 * 86_400;

pub async fn list(db: &Database, format: Format) -> Result<u8, CliError> {
    let history = history(db.client_ref(), None).await.map_err(CliError::failed)?;
    let now = lifecycle_time(db.client_ref()).await.map_err(CliError::failed)?;
    let rows = db
        .client_ref()
        .query("SELECT party, currency FROM ledger.wallet ORDER BY party COLLATE \"C\", currency", &[])
        .await
        .map_err(CliError::failed)?;
    let mut table = Rows::new(&[
        ("wallet", Kind::Text),
        ("balance", Kind::Decimal),
        ("paid", Kind::Decimal),
        ("promotional", Kind::Decimal),
        ("receivable", Kind::Decimal),
        ("currency", Kind::Text),
        ("runs_dry", Kind::Text),
        ("runway_s", Kind::Plain),
    ]);
    for row in &rows {
        let known = wallet::Wallet::new(row.get(0), row.get(1));
        let Some(standing) = wallet::standing(db.client_ref(), known.id()).await.map_err(CliError::failed)? else {
            continue;
        };
        let renter = known.party.strip_prefix("renter:").unwrap_or(&known.party).to_owned();
        let key = WalletKey { renter, currency: known.currency.clone() };
        let (text, runway) = runs_dry(&history, &key, now);
        table.push([
            visible(&key.renter),
            standing.balance.to_string(),
            standing.paid.to_string(),
            standing.promotional.to_string(),
            standing.receivable.to_string(),
            known.currency,
            text,
            runway.map(|seconds| seconds.to_string()).unwrap_or_default(),
        ]);
    }
    table.print(format)?;
    Ok(0)
}

/// When a wallet runs dry as its leases stand now, and in how many seconds of lifecycle time.
fn runs_dry(history: &History, key: &WalletKey, now: Second) -> (String, Option<Second>) {
    if let Some(dry) = history.wallet(key).and_then(|known| known.dry.last()).filter(|dry| dry.span.to == FOREVER) {
        return (format!("dry since {}", show_second(dry.span.from)), Some(0));
    }
    let Some(mut purse) = Purse::begin(history, key) else { return ("nothing burns it".to_owned(), None) };
    // The log of files that were read to their end leaves lifecycle time at its end.
    let now = if now >= FOREVER { purse.at() } else { now };
    match purse.next(history, now, now + AHEAD_S) {
        Ok(Some(transition)) if matches!(transition.kind, EventKind::WalletExhausted { .. }) => {
            (show_second(transition.at), Some(transition.at - now))
        }
        Ok(_) => ("not within 92 days".to_owned(), None),
        Err(error) => (format!("cannot be told: {error}"), None),
    }
}

pub async fn show(db: &Database, of: &Of, format: Format) -> Result<u8, CliError> {
    let Some(standing) = wallet::standing(db.client_ref(), of.id()).await.map_err(CliError::failed)? else {
        return Ok(unknown(of));
    };
    let history = history(db.client_ref(), None).await.map_err(CliError::failed)?;
    let names = history.wallet(&of.key()).map_or(&[][..], |known| known.grants.as_slice());
    let mut rows = Rows::new(&[
        ("grant", Kind::Text),
        ("id", Kind::Text),
        ("from", Kind::Text),
        ("expires", Kind::Text),
        ("priority", Kind::Plain),
        ("amount", Kind::Decimal),
        ("used", Kind::Decimal),
        ("debited", Kind::Decimal),
        ("expired", Kind::Decimal),
        ("left", Kind::Decimal),
        ("source", Kind::Text),
    ]);
    for grant in &standing.grants {
        let name = names.iter().find(|known| grant_id(known) == grant.whole).map(|known| known.name.clone());
        rows.push([
            visible(&name.unwrap_or_default()),
            grant.id.to_string(),
            show_second(grant.from.timestamp()),
            grant.expires.map(|end| show_second(end.timestamp())).unwrap_or_default(),
            grant.priority.to_string(),
            grant.amount.to_string(),
            grant.consumed.to_string(),
            grant.debited.to_string(),
            grant.expired.to_string(),
            grant.left.to_string(),
            grant.source.clone().unwrap_or_else(|| "promotional".to_owned()),
        ]);
    }
    rows.print(format)?;
    eprintln!(
        "balance {} {}; owed beyond it {}; grants whose end every rating has passed expired up to {}",
        standing.balance,
        standing.wallet.currency,
        standing.receivable,
        show_second(standing.frontier.timestamp())
    );
    if let Some(request) = standing.open_topup {
        eprintln!("a top-up was asked for and is not answered: {request}");
    }
    for dry in history.wallet(&of.key()).map_or(&[][..], |known| known.dry.as_slice()) {
        let until = if dry.span.to == FOREVER { "now".to_owned() } else { show_second(dry.span.to) };
        eprintln!("dry from {} to {until}", show_second(dry.span.from));
    }
    Ok(0)
}

pub async fn statement(db: &Database, of: &Of, after: i64, limit: u32, format: Format) -> Result<u8, CliError> {
    if wallet::standing(db.client_ref(), of.id()).await.map_err(CliError::failed)?.is_none() {
        return Ok(unknown(of));
    }
    let mut rows = Rows::new(&[
        ("number", Kind::Plain),
        ("at", Kind::Text),
        ("booked_at", Kind::Text),
        ("kind", Kind::Text),
        ("amount", Kind::Decimal),
        ("balance", Kind::Decimal),
        ("receivable", Kind::Decimal),
        ("who", Kind::Text),
        ("why", Kind::Text),
        ("operation", Kind::Text),
    ]);
    let lines = wallet::statement(db.client_ref(), of.id(), after, limit).await.map_err(CliError::failed)?;
    let more = (lines.len() == limit as usize).then(|| lines.last().map(|line| line.number)).flatten();
    for line in lines {
        rows.push([
            line.number.to_string(),
            show_second(line.at.timestamp()),
            show_second(line.booked_at.timestamp()),
            line.kind,
            line.amount.to_string(),
            line.balance.to_string(),
            line.receivable.to_string(),
            visible(&line.who),
            visible(&line.why),
            line.operation.to_string(),
        ]);
    }
    rows.print(format)?;
    if let Some(number) = more {
        eprintln!("there may be more: --after {number}");
    }
    Ok(0)
}

pub async fn proposals(db: &Database, format: Format) -> Result<u8, CliError> {
    let mut rows = Rows::new(&[
        ("id", Kind::Text),
        ("kind", Kind::Text),
        ("what", Kind::Text),
        ("who", Kind::Text),
        ("why", Kind::Text),
        ("proposed_at", Kind::Text),
    ]);
    for proposal in wallet::proposals(db.client_ref()).await.map_err(CliError::failed)? {
        rows.push([
            proposal.id.to_string(),
            proposal.kind,
            visible(&proposal.body.to_string()),
            visible(&proposal.who),
            visible(&proposal.why),
            show_second(proposal.proposed_at.timestamp()),
        ]);
    }
    rows.print(format)?;
    Ok(0)
}

fn unknown(of: &Of) -> u8 {
    eprintln!(
        "there is no wallet of {} in {}. Hint: `hydrometer wallet list` shows those there are",
        visible(&of.renter),
        of.currency
    );
    1
}
