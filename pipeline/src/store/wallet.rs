//! Wallets in the transactions of the stream: what prepaid use draws from them, and what events give them.
//!
//! Use is booked for prepaid contracts as for any other: debit `renter:R:unbilled`. In the same transaction the wallet pays for it
//! ([`hydrometer_ledger::wallet`]). A wallet counts use by the intervals between its edges, so a cell's amount is shared over the
//! intervals in which its quantity was used: a pure function of the quantities, like the amount itself (law 4).

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use hydrometer_ledger::{self as ledger, AccountSpec, AccountType, LedgerError, TransactionId, outbox, wallet};
use hydrometer_rating::history::{Grant, History, Wallet, end_of_minute, interval_of};
use hydrometer_rating::keys::{CellKey, StateKey};
use hydrometer_rating::money::{Amount, MoneyError, share_by_weight};
use hydrometer_rating::rate::{Amounts, Rates, State, amounts};
use hydrometer_rating::terms::Micro;
use hydrometer_schemas::contract::Decimal;
use hydrometer_schemas::lifecycle::{
    Event, EventKey, GrantKind, Kind, OnExpiry, WalletDebit, WalletGrant, WalletKey, nanos,
};
use hydrometer_schemas::time::{FOREVER, Second};
use serde_json::json;
use tokio_postgres::{GenericClient, Transaction};
use uuid::Uuid;

use super::closing::DueStep;
use super::rating::{Locked, ObjectQuantities, cell_key, show_micro, whole};
use super::{Database, StoreError, doing};

/// Ids of what the stream does to wallets are made in this namespace from what they stand for.
const NAMESPACE: Uuid = Uuid::from_u128(0x6879_6472_6f6d_6574_6572_2d77_616c_6c65);

/// What wallets are to pay, by the beginning of the interval in which it was used.
pub type UseOfWallets = BTreeMap<WalletKey, BTreeMap<Second, Amount>>;

/// Each state's cells with their quantity by the interval in which it was used.
type Weights = BTreeMap<i64, BTreeMap<CellKey, BTreeMap<Second, Micro>>>;

/// The ledger's wallet of a renter.
pub fn of(key: &WalletKey) -> wallet::Wallet {
    wallet::Wallet::new(&format!("renter:{}", key.renter), &key.currency)
}

/// Adds to what is used by interval, and says what changes thereby for wallets. `before` is what the states held, `locked` what
/// they hold now.
pub(super) async fn use_of(
    client: &impl GenericClient,
    before: &BTreeMap<StateKey, State>,
    locked: &Locked,
    quantities: &[ObjectQuantities],
    rates: &impl Rates,
) -> Result<UseOfWallets, StoreError> {
    let mut ids: BTreeMap<i64, &StateKey> = BTreeMap::new();
    for key in locked.states.keys() {
        ids.insert(locked.id(key)?, key);
    }
    let known = read_weights(client, ids.keys().copied().collect()).await?;
    let mut weights = known.clone();
    for ((key, cell, from), added) in quantities.iter().flat_map(|object| &object.prepaid) {
        let cells = weights.entry(locked.id(key)?).or_default();
        let sum = cells.entry(cell.clone()).or_default().entry(*from).or_default();
        *sum = sum.checked_add(*added).ok_or(MoneyError::Overflow { doing: "summing quantities" })?;
    }
    let mut used = UseOfWallets::new();
    for (id, cells) in &weights {
        let Some(key) = ids.get(id) else { continue };
        let nothing = State::new();
        let old = amounts(before.get(*key).unwrap_or(&nothing), rates)?;
        let new = amounts(locked.states.get(*key).unwrap_or(&nothing), rates)?;
        let of_wallet =
            used.entry(WalletKey { renter: key.renter.clone(), currency: key.currency.clone() }).or_default();
        let no_use = BTreeMap::new();
        for (cell, by_interval) in cells {
            let renter = |amounts: &Amounts| amounts.get(cell).map_or(Amount::ZERO, |amount| amount.renter);
            let used_before = known.get(id).and_then(|cells| cells.get(cell)).unwrap_or(&no_use);
            for (from, amount) in share(renter(&new), by_interval)? {
                let sum = of_wallet.entry(from).or_insert(Amount::ZERO);
                *sum = sum.checked_add(amount)?;
            }
            for (from, amount) in share(renter(&old), used_before)? {
                let sum = of_wallet.entry(from).or_insert(Amount::ZERO);
                *sum = sum.checked_sub(amount)?;
            }
        }
    }
    weights.retain(|id, cells| known.get(id) != Some(cells));
    write_weights(client, &weights).await?;
    Ok(without_nothing(used))
}

/// What falls due of prepaid contracts counts in the last second of what it is for.
pub(super) fn use_of_dues(steps: &[DueStep], history: &History) -> Result<UseOfWallets, StoreError> {
    let mut used = UseOfWallets::new();
    for step in steps {
        let versions = history.versions(&step.key.contract);
        let last = step.end - 1;
        let Some(version) = versions.iter().find(|v| v.span.holds(last)).or(versions.last()) else { continue };
        let key = WalletKey { renter: step.key.renter.clone(), currency: step.key.currency.clone() };
        if version.wallet().as_ref() != Some(&key) {
            continue;
        }
        let edges = history.wallet(&key).map(Wallet::edges).unwrap_or_default();
        let of_wallet = used.entry(key).or_default();
        let sum = of_wallet.entry(interval_of(&edges, last)).or_insert(Amount::ZERO);
        *sum = sum.checked_add(step.after.0.checked_sub(step.before.0)?)?;
    }
    Ok(without_nothing(used))
}

fn without_nothing(mut used: UseOfWallets) -> UseOfWallets {
    for of_wallet in used.values_mut() {
        of_wallet.retain(|_, amount| *amount != Amount::ZERO);
    }
    used.retain(|_, of_wallet| !of_wallet.is_empty());
    used
}

/// A cell's amount over the intervals in which its quantity was used; where it has none (a fee of a tier), in the first of them.
fn share(amount: Amount, by_interval: &BTreeMap<Second, Micro>) -> Result<Vec<(Second, Amount)>, StoreError> {
    let weights: Vec<Micro> = by_interval.values().copied().collect();
    let shares = if weights.iter().sum::<Micro>() == 0 {
        let first = std::iter::once(amount.scaled());
        first.chain(std::iter::repeat(0)).take(weights.len()).collect()
    } else {
        share_by_weight(amount.scaled(), &weights)?
    };
    Ok(by_interval.keys().copied().zip(shares.into_iter().map(Amount::from_scaled)).collect())
}

async fn read_weights(client: &impl GenericClient, states: Vec<i64>) -> Result<Weights, StoreError> {
    let rows = client
        .query(
            "SELECT state, version_from_s, rate, segment, supplier, from_s, (billed * 1000000)::numeric(38, 0)::text \
             FROM hydrometer.prepaid_use WHERE state = ANY ($1)",
            &[&states],
        )
        .await
        .map_err(doing("reading the use of wallets"))?;
    let mut weights = Weights::new();
    for row in &rows {
        let cells = weights.entry(row.get(0)).or_default();
        cells.entry(cell_key(row, 1)?).or_default().insert(row.get(5), whole(row, 6)?);
    }
    Ok(weights)
}

async fn write_weights(client: &impl GenericClient, weights: &Weights) -> Result<(), StoreError> {
    let mut rows: Vec<(i64, &CellKey, Second, Micro)> = Vec::new();
    for (state, cells) in weights {
        for (cell, by_interval) in cells {
            rows.extend(by_interval.iter().map(|(from, sum)| (*state, cell, *from, *sum)));
        }
    }
    if rows.is_empty() {
        return Ok(());
    }
    let states: Vec<i64> = rows.iter().map(|r| r.0).collect();
    let versions: Vec<i64> = rows.iter().map(|r| r.1.version_from).collect();
    let rates: Vec<String> = rows.iter().map(|r| r.1.rate.to_string()).collect();
    let segments: Vec<i32> = rows.iter().map(|r| i32::from(r.1.segment)).collect();
    let suppliers: Vec<&str> = rows.iter().map(|r| r.1.supplier.as_str()).collect();
    let from: Vec<i64> = rows.iter().map(|r| r.2).collect();
    let billed: Vec<String> = rows.iter().map(|r| show_micro(r.3)).collect();
    client
        .execute(
            "INSERT INTO hydrometer.prepaid_use (state, version_from_s, rate, segment, supplier, from_s, billed) \
             SELECT s, v, r, g, u, f, b::numeric \
             FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::int[], $5::text[], $6::bigint[], $7::text[]) AS k (s, v, r, g, u, f, b) \
             ON CONFLICT (state, version_from_s, rate, segment, supplier, from_s) DO UPDATE SET billed = excluded.billed",
            &[&states, &versions, &rates, &segments, &suppliers, &from, &billed],
        )
        .await
        .map_err(doing("writing the use of wallets"))?;
    Ok(())
}

/// Posts a set, and lets wallets pay for what of it is prepaid. `round` names what it is done for: the same for the same round,
/// whoever commits it.
pub(super) async fn post(
    tx: &Transaction<'_>,
    round: &str,
    set: &[ledger::Transaction],
    used: &UseOfWallets,
) -> Result<(), StoreError> {
    if used.is_empty() {
        if !set.is_empty() {
            ledger::post(tx, set).await?;
        }
        return Ok(());
    }
    open_missing(tx, used.keys()).await?;
    let mut draws = Vec::new();
    for (key, by_interval) in used {
        let uses =
            by_interval.iter().map(|(from, amount)| Ok((time(*from)?, ledger::Amount::from_nanos(amount.scaled()))));
        draws.push(wallet::Draw {
            id: TransactionId::derive(&NAMESPACE, &["draw", round, &key.renter, &key.currency]).0,
            wallet: of(key).id(),
            uses: uses.collect::<Result<_, StoreError>>()?,
            why: "prepaid use".to_owned(),
        });
    }
    wallet::draw_many(tx, &draws, set).await?;
    Ok(())
}

/// Books what events give to wallets.
///
/// `as_of` is the present: one that begins later is in the book as what begins then, and moves no wallet's time ahead.
pub(super) async fn book_grants(
    tx: &Transaction<'_>,
    events: &[Event],
    as_of: Second,
    history: &History,
) -> Result<(), StoreError> {
    for event in events {
        let Kind::WalletGranted(given) = &event.kind else { continue };
        if given.made_by.is_some() {
            continue;
        }
        // One that expires before it counts has a verdict, and gives nothing.
        let Some(grant) = history.wallet(&given.wallet).and_then(|known| find(known, &event.key)) else { continue };
        open_missing(tx, [&given.wallet]).await?;
        let mut new = new_grant(&given.wallet, grant)?;
        if as_of < grant.span.from {
            new.at = time(as_of)?;
            new.release = vec![wallet::Part { at: time(grant.span.from)?, amount: new.amount }];
        }
        if let wallet::GrantKind::Paid { source } = &mut new.kind {
            as_known(tx, source).await?;
            // Money that comes in is what an open request asks for.
            new.answers = wallet::standing(tx, new.wallet).await?.and_then(|standing| standing.open_topup);
        }
        wallet::grant(tx, &new).await?;
    }
    Ok(())
}

/// An account that is kept under another type than an event can know stays what it is.
async fn as_known(tx: &Transaction<'_>, account: &mut AccountSpec) -> Result<(), StoreError> {
    let sql = "SELECT type FROM ledger.account WHERE name = $1";
    let row = tx.query_opt(sql, &[&account.name]).await.map_err(doing("looking for an account"))?;
    if let Some(kind) = row.and_then(|row| AccountType::parse(row.get(0))) {
        account.kind = kind;
    }
    Ok(())
}

/// The present, for what people do: the clock's, or lifecycle time where logs are ahead of it. Logs that were read to their end for good
/// have no present.
pub(super) async fn present(client: &impl GenericClient, lifecycle_time: Second) -> Result<Second, StoreError> {
    let sql = "SELECT floor(extract(epoch FROM clock_timestamp()))::bigint";
    let row = client.query_one(sql, &[]).await.map_err(doing("reading the clock"))?;
    Ok(if lifecycle_time < FOREVER { lifecycle_time.max(row.get(0)) } else { row.get(0) })
}

fn find<'a>(wallet: &'a Wallet, key: &EventKey) -> Option<&'a Grant> {
    wallet.grants.iter().find(|grant| grant.key == *key)
}

/// The id that the ledger keeps a grant under.
pub fn grant_id(grant: &Grant) -> Uuid {
    let by_hand = grant.made_by.as_deref().and_then(|id| id.parse().ok());
    by_hand.unwrap_or_else(|| TransactionId::derive(&NAMESPACE, &["grant", &grant.key.source, &grant.key.id]).0)
}

fn new_grant(key: &WalletKey, grant: &Grant) -> Result<wallet::NewGrant, StoreError> {
    Ok(wallet::NewGrant {
        id: grant_id(grant),
        wallet: of(key).id(),
        kind: match grant.kind {
            GrantKind::Paid => wallet::GrantKind::Paid { source: source(&grant.source, &key.currency) },
            GrantKind::Promotional => wallet::GrantKind::Promotional,
            GrantKind::Opening => {
                wallet::GrantKind::Opening { system: grant.source.clone(), document: grant.name.clone() }
            }
        },
        amount: ledger::Amount::from_nanos(grant.amount.scaled()),
        priority: grant.priority,
        at: time(grant.span.from)?,
        expires: if grant.span.to < FOREVER { Some(time(grant.span.to)?) } else { None },
        on_expiry: match grant.on_expiry {
            OnExpiry::Income => wallet::OnExpiry::Income,
            OnExpiry::Back => wallet::OnExpiry::Back,
        },
        release: Vec::new(),
        plan: Vec::new(),
        answers: None,
        who: grant.key.source.clone(),
        why: grant.name.clone(),
    })
}

/// The account that money comes from: `rail:card:clearing` is the purpose `clearing` of `rail:card`, a bare word one of the platform.
pub fn source(name: &str, currency: &str) -> AccountSpec {
    let (party, purpose) = name.rsplit_once(':').unwrap_or(("platform", name));
    AccountSpec::new(AccountType::Asset, party, purpose, currency)
}

/// A wallet is there from its first grant or use on; whoever wants thresholds of it opens it before, or sets them later.
async fn open_missing<'a>(
    tx: &Transaction<'_>,
    keys: impl IntoIterator<Item = &'a WalletKey>,
) -> Result<(), StoreError> {
    let wallets: Vec<wallet::Wallet> = keys.into_iter().map(of).collect();
    let ids: Vec<Uuid> = wallets.iter().map(|wallet| wallet.id().0).collect();
    let rows = tx
        .query("SELECT wallet FROM ledger.wallet_state WHERE wallet = ANY ($1)", &[&ids])
        .await
        .map_err(doing("looking for wallets"))?;
    let known: BTreeSet<Uuid> = rows.iter().map(|row| row.get(0)).collect();
    for wallet in wallets.into_iter().filter(|wallet| !known.contains(&wallet.id().0)) {
        let new = wallet::NewWallet {
            id: TransactionId::derive(&NAMESPACE, &["open", &wallet.party, &wallet.currency]).0,
            wallet,
            terms: wallet::Terms::default(),
            at: DateTime::UNIX_EPOCH,
            who: "stream".to_owned(),
            why: "first seen".to_owned(),
        };
        wallet::open(tx, &new).await?;
    }
    Ok(())
}

fn time(second: Second) -> Result<DateTime<Utc>, StoreError> {
    DateTime::from_timestamp(second, 0)
        .ok_or(StoreError::Row { table: "hydrometer.prepaid_use", detail: format!("second {second} is no time") })
}

/// Tells others in which second a wallet ran dry, used up what may be owed, or could pay again: access is to be cut and given by it.
pub(super) async fn announce(
    client: &impl GenericClient,
    derived: impl Iterator<Item = &Event>,
) -> Result<(), StoreError> {
    let mut told = Vec::new();
    for event in derived {
        let (key, kind) = match &event.kind {
            Kind::WalletExhausted { wallet, .. } => (wallet, "wallet.exhausted"),
            Kind::WalletCreditReached { wallet, .. } => (wallet, "credit_limit.reached"),
            Kind::WalletRestored(wallet) => (wallet, "wallet.restored"),
            _ => continue,
        };
        told.push(outbox::Event {
            id: TransactionId::derive(&NAMESPACE, &["event", &event.key.source, &event.key.id]).0,
            kind: kind.to_owned(),
            subject: of(key).account().name,
            time: time(event.key.time)?,
            data: event.body().get("data").cloned().unwrap_or_default(),
        });
    }
    Ok(outbox::insert(client, &told).await?)
}

/// Tells of postpaid renters who owe as much as they may, when they come to it. Nothing is refused: use is a fact.
pub(super) async fn watch_credit(
    tx: &Transaction<'_>,
    round: &str,
    limits: &BTreeMap<WalletKey, Amount>,
    set: &[ledger::Transaction],
) -> Result<(), StoreError> {
    let mut added: BTreeMap<&str, i128> = BTreeMap::new();
    for transfer in set.iter().flat_map(|transaction| &transaction.transfers) {
        *added.entry(&transfer.debit.name).or_default() += transfer.amount.nanos();
        *added.entry(&transfer.credit.name).or_default() -= transfer.amount.nanos();
    }
    let mut told = Vec::new();
    for (key, limit) in limits {
        let accounts = [of(key).unbilled().name, of(key).receivable().name];
        let step: i128 = accounts.iter().filter_map(|name| added.get(name.as_str())).sum();
        if step <= 0 {
            continue;
        }
        let row = tx
            .query_one(
                "SELECT coalesce(sum(b.debits - b.credits), 0)::text, clock_timestamp() \
                 FROM ledger.account AS a JOIN ledger.account_balance AS b ON b.account = a.id WHERE a.name = ANY ($1)",
                &[&accounts.as_slice()],
            )
            .await
            .map_err(doing("reading what a renter owes"))?;
        let owed = Amount::parse(row.get(0))?;
        if owed >= *limit && owed.scaled() - step < limit.scaled() {
            told.push(outbox::Event {
                id: TransactionId::derive(&NAMESPACE, &["credit limit", round, &key.renter, &key.currency]).0,
                kind: "credit_limit.reached".to_owned(),
                subject: of(key).unbilled().name,
                time: row.get(1),
                data: json!({
                    "renter": key.renter, "currency": key.currency, "owed": owed.to_string(), "limit": limit.to_string(),
                }),
            });
        }
    }
    Ok(outbox::insert(tx, &told).await?)
}

/// What a person does to a wallet.
#[derive(Debug, Clone)]
pub enum Operation {
    /// A top-up or a promise.
    Grant(Box<WalletGrant>),
    /// Back to where it came from, or elsewhere.
    Refund(wallet::Refund),
    /// A credit or a debit by hand; above the wallet's limit it stays a proposal.
    Manual(wallet::Manual),
    /// A second person's word on a proposal.
    Decide(wallet::Decision),
}

/// Does it, and gives the event that tells it to the stream; nothing where it stays a proposal or was rejected. It counts from
/// lifecycle time on, if that is later than the time stated: it pays for nothing that has passed.
pub(super) async fn operate(
    tx: &Transaction<'_>,
    operation: &Operation,
    key: &EventKey,
    lifecycle_time: Second,
    history: &History,
) -> Result<Option<Event>, StoreError> {
    // Where logs were read to their end for good, there is no lifecycle time to wait for.
    let present = if lifecycle_time < FOREVER { key.time.max(lifecycle_time) } else { key.time };
    if !(0..FOREVER).contains(&present) {
        return Err(refused(format!("second {present} does not lie between 1970 and 9999")));
    }
    let counts_from = Some(present);
    let now = time(present)?;
    let id = match operation {
        Operation::Grant(grant) => {
            let wallet = of(&grant.wallet).id();
            let limit = wallet::standing(tx, wallet).await?.and_then(|standing| standing.terms.second_person_from);
            let amount = nanos(&grant.amount).map(ledger::Amount::from_nanos);
            if limit.is_some_and(|limit| amount.is_none_or(|amount| amount >= limit)) {
                return Err(refused(
                    "from this amount on its terms ask for a second person: `wallet credit` proposes it".to_owned(),
                ));
            }
            let grant = WalletGrant { counts_from, ..(**grant).clone() };
            let kind = Kind::WalletGranted(Box::new(grant));
            return event(key, kind).map(Some);
        }
        Operation::Refund(refund) => {
            let at = stated_at(tx, refund.id).await?.unwrap_or(now);
            match wallet::refund(tx, &wallet::Refund { at, ..refund.clone() }).await? {
                wallet::Requested::Booked(_) => refund.id,
                wallet::Requested::Proposed | wallet::Requested::Rejected => return Ok(None),
            }
        }
        Operation::Manual(manual) => {
            let at = stated_at(tx, manual.id).await?.unwrap_or(now);
            let act = match manual.act.clone() {
                // As of every grant, its last minute is one whole.
                wallet::Act::Credit { source, priority, expires: Some(end), on_expiry } => {
                    let expires = Some(time(end_of_minute(end.timestamp()))?);
                    wallet::Act::Credit { source, priority, expires, on_expiry }
                }
                act => act,
            };
            match wallet::manual(tx, &wallet::Manual { at, act, ..manual.clone() }).await? {
                wallet::Requested::Booked(_) => manual.id,
                wallet::Requested::Proposed | wallet::Requested::Rejected => return Ok(None),
            }
        }
        Operation::Decide(decision) => {
            match wallet::decide(tx, &wallet::Decision { at: now, ..decision.clone() }).await? {
                wallet::Requested::Booked(_) => decision.proposal,
                wallet::Requested::Proposed | wallet::Requested::Rejected => return Ok(None),
            }
        }
    };
    booked(tx, id, counts_from, history).await?.map(|kind| event(key, kind)).transpose()
}

fn refused(detail: String) -> StoreError {
    let (what, hint) = ("this cannot be done to the wallet".to_owned(), "Nothing was changed");
    StoreError::Ledger(LedgerError::Invalid { what, detail, hint })
}

/// The time that an operation was stated with when it came before: a repeat states the same.
async fn stated_at(client: &impl GenericClient, id: Uuid) -> Result<Option<DateTime<Utc>>, StoreError> {
    let sql = "SELECT (body->>'at')::timestamptz FROM ledger.wallet_entry WHERE id = $1 \
               UNION ALL SELECT (body->>'at')::timestamptz FROM ledger.wallet_proposal WHERE id = $1 LIMIT 1";
    let row = client.query_opt(sql, &[&id]).await.map_err(doing("looking for an operation on a wallet"))?;
    Ok(row.map(|row| row.get(0)))
}

/// What cannot be read back would stop everybody who reads it.
fn event(key: &EventKey, kind: Kind) -> Result<Event, StoreError> {
    let event = Event { key: EventKey { rank: kind.rank(), ..key.clone() }, kind };
    let EventKey { time, source, id, .. } = event.key.clone();
    match Event::from_stored(time, source, id, event.body()) {
        Ok(back) if back == event => Ok(event),
        Ok(_) => Err(refused("it would be kept as something else".to_owned())),
        Err(error) => Err(refused(format!("it could not be read again: {error}"))),
    }
}

/// What the ledger booked under an operation's id, as the stream is told.
async fn booked(
    client: &impl GenericClient,
    id: Uuid,
    counts_from: Option<Second>,
    history: &History,
) -> Result<Option<Kind>, StoreError> {
    let row = client
        .query_opt(
            "SELECT w.party, w.currency, e.amount::text, g.kind, g.priority, extract(epoch FROM g.expires_at)::bigint, \
                    (SELECT min(b.whole::text)::uuid FROM ledger.wallet_debit AS d JOIN ledger.wallet_grant AS b ON b.id = d.grant_id \
                     WHERE d.wallet = e.wallet AND d.number = e.number HAVING count(DISTINCT b.whole) = 1) \
             FROM ledger.wallet_entry AS e JOIN ledger.wallet AS w ON w.id = e.wallet \
             LEFT JOIN ledger.wallet_grant AS g ON g.wallet = e.wallet AND g.number = e.number WHERE e.id = $1",
            &[&id],
        )
        .await
        .map_err(doing("reading what was booked"))?;
    let Some(row) = row else { return Ok(None) };
    let party: &str = row.get(0);
    let Some(renter) = party.strip_prefix("renter:") else { return Ok(None) };
    let wallet = WalletKey { renter: renter.to_owned(), currency: row.get(1) };
    let amount: &str = row.get(2);
    let Some(kind) = row.get::<_, Option<&str>>(3) else {
        let amount = Decimal(amount.trim_start_matches('-').to_owned());
        if nanos(&amount).is_none() {
            return Ok(None);
        }
        let whole: Option<Uuid> = row.get(6);
        let grants = history.wallet(&wallet).map_or(&[][..], |known| known.grants.as_slice());
        let of = |grant: &&Grant| whole.is_some_and(|whole| grant_id(grant) == whole);
        let grant = grants.iter().find(of).map(|grant| grant.name.clone());
        return Ok(Some(Kind::WalletDebited(WalletDebit {
            wallet,
            debit: id.to_string(),
            amount,
            grant,
            counts_from,
        })));
    };
    Ok(Some(Kind::WalletGranted(Box::new(WalletGrant {
        wallet,
        grant: format!("credit {id}"),
        amount: Decimal(amount.to_owned()),
        kind: if kind == "promotional" { GrantKind::Promotional } else { GrantKind::Paid },
        priority: row.get(4),
        expires: row.get(5),
        on_expiry: OnExpiry::Income,
        source: "platform:credits".to_owned(),
        counts_from,
        made_by: Some(id.to_string()),
    }))))
}

impl Database {
    /// Lets grants expire that no rating can reach any more: every partition's frontier has passed their end. Gives how many
    /// wallets that concerned.
    pub async fn expire_grants(&mut self) -> Result<usize, StoreError> {
        let row = self
            .client_ref()
            .query_one("SELECT min(frontier_s) FROM hydrometer.partition_lease WHERE role = 'telemetry'", &[])
            .await
            .map_err(doing("reading the rating frontiers"))?;
        let Some(frontier) = row.get::<_, Option<Second>>(0).filter(|frontier| *frontier > 0) else { return Ok(0) };
        let frontier = time(frontier)?;
        let due = wallet::due(self.client_ref(), frontier).await?;
        if due.is_empty() {
            return Ok(0);
        }
        let tx = self.client().transaction().await.map_err(doing("letting grants expire"))?;
        wallet::advance(&tx, &due, frontier).await?;
        tx.commit().await.map_err(doing("letting grants expire"))?;
        Ok(due.len())
    }
}
