//! The same money four times: rated records, rating steps, cumulative cells and the ledger's postings (laws 4, 5, 6 and 7). What falls
//! due at the end of hours and periods is judged by [`super::dues`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures::{TryStreamExt, pin_mut};
use hydrometer_ledger::AccountSpec;
use hydrometer_pipeline::store::period::{UseKey, Uses, uses, uses_of};
use hydrometer_pipeline::store::rating::{cell_key, state_key};
use hydrometer_pipeline::store::{Database, StoreError};
use hydrometer_rating::history::History;
use hydrometer_rating::keys::{Cell, CellKey, StateKey};
use hydrometer_rating::money::{Amount, Exact, MoneyError};
use hydrometer_rating::quantities::Quantity;
use hydrometer_rating::rate::{State, amounts};
use hydrometer_rating::stepped::{Pieces, stepped};
use hydrometer_rating::terms::MICRO;
use hydrometer_schemas::contract::Scope;
use hydrometer_schemas::time::{Second, show_second};
use hydrometer_sinks::rated::{RatedRow, RecordKind};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::{Report, VerifyError, database};

/// A cell's cumulative quantities (in millionths of a piece) and amounts: where a step begins and ends.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Total {
    billed: i128,
    paid: i128,
    renter: i128,
    supplier: i128,
}

impl Total {
    fn quantity(&self) -> Cell {
        Cell { billed: self.billed, paid: self.paid }
    }

    fn show(&self) -> String {
        let (renter, supplier) = (Amount::from_scaled(self.renter), Amount::from_scaled(self.supplier));
        format!("{}, renter {renter}, supplier {supplier}", show_quantity(self.quantity()))
    }
}

type CellOf = (StateKey, CellKey);

/// What one lease and slot used of a charge before its minimum and step: the key of its states, but for the period.
type RawOf = StateKey;

/// What one ledger account got for a contract's charge in a period, through one supplier.
type Booked = (StateKey, String, String);

/// What the records add up to.
#[derive(Debug, Default)]
pub(super) struct Sums {
    cells: HashMap<CellOf, Total>,
    /// Of charges with a minimum or a step: by lease and slot.
    raw: BTreeMap<RawOf, Pieces>,
    booked: BTreeMap<Booked, i128>,
    uses: Uses,
}

impl Sums {
    pub fn add(&mut self, row: &RatedRow, history: &History) {
        let key = row.state();
        let (renter, supplier) = (row.renter_amount.scaled(), row.supplier_amount.scaled());
        for (key, used) in uses([row]) {
            let sum = self.uses.entry(key).or_default();
            *sum = sum.plus(used);
        }
        for (account, amount) in [
            (AccountSpec::renter_unbilled(&row.renter, &row.currency), renter),
            (AccountSpec::supplier_payable(&row.cell.supplier, &row.currency), supplier),
            (AccountSpec::platform_commission(&row.currency), renter.saturating_sub(supplier)),
        ] {
            add_to(&mut self.booked, &key, &row.cell.supplier, account, amount);
        }
        let total = self.cells.entry((key.clone(), row.cell.clone())).or_default();
        total.renter = total.renter.saturating_add(renter);
        total.supplier = total.supplier.saturating_add(supplier);
        let cell = row.cell_quantity();
        let has_step = history.rate(row.cell.rate).is_some_and(|rate| rate.charge.step.is_some());
        match (has_step, &row.lease, row.slot) {
            // What is counted of it is another thing than what was used.
            (true, Some(lease), Some(slot)) if row.kind != RecordKind::Adjustment => {
                let of = StateKey { period: 0, resource: format!("{lease}/{slot}"), ..key };
                plus(self.raw.entry(of).or_default().entry((row.ladder, row.cell.clone())).or_default(), cell);
            }
            _ => {
                total.billed = total.billed.saturating_add(cell.billed);
                total.paid = total.paid.saturating_add(cell.paid);
            }
        }
    }
}

fn add_to(sums: &mut BTreeMap<Booked, i128>, key: &StateKey, supplier: &str, account: AccountSpec, amount: i128) {
    let sum = sums.entry((key.clone(), supplier.to_owned(), account.name)).or_default();
    *sum = sum.saturating_add(amount);
}

fn plus(sum: &mut Cell, added: Cell) {
    sum.billed = sum.billed.saturating_add(added.billed);
    sum.paid = sum.paid.saturating_add(added.paid);
}

pub(super) async fn check(
    db: &Database,
    history: &History,
    mut sums: Sums,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let States { cells, raw } = states(db, history, report).await?;
    hold_back(&cells, history, &mut sums.booked)?;
    count_steps(history, &raw, &mut sums, report)?;
    against_records(&cells, &sums.cells, report);
    steps(db, cells, report).await?;
    lease_use(db, &sums.uses, report).await?;
    postings(db, sums.booked, report).await?;
    transactions(db, report).await?;
    corrections(db, report).await
}

/// What the rating states hold.
struct States {
    cells: HashMap<CellOf, Total>,
    raw: BTreeMap<RawOf, Pieces>,
}

/// The cells, each state's amounts worked out again from its quantities.
async fn states(db: &Database, history: &History, report: &mut Report) -> Result<States, VerifyError> {
    let rows = db
        .client_ref()
        .query(
            "SELECT s.contract, s.renter, s.currency, s.charge, s.period_s, s.resource, c.version_from_s, c.rate, c.segment, c.supplier, \
                    c.billed::text, c.paid::text, c.renter_amount::text, c.supplier_amount::text, s.raw \
             FROM hydrometer.rating_cell AS c JOIN hydrometer.rating_state AS s ON s.id = c.state",
            &[],
        )
        .await
        .map_err(database("reading rating cells"))?;
    let mut states: BTreeMap<StateKey, State> = BTreeMap::new();
    let mut found = States { cells: HashMap::new(), raw: BTreeMap::new() };
    let check = report.check("steps");
    for row in &rows {
        let (state, cell) = cell_of(row)?;
        let (billed, paid) = (quantity(row, 10)?, quantity(row, 11)?);
        let total = Total { billed, paid, renter: amount(row, 12)?, supplier: amount(row, 13)? };
        if row.get(14) {
            if (total.renter, total.supplier) != (0, 0) {
                let of = (state, cell);
                let subject = format!("what lease and slot {} used: {}", of.0.resource, show_cell(&of));
                check.violation(subject, "no amounts, before its minimum and step", total.show());
                continue;
            }
            let period = state.period;
            let of = StateKey { period: 0, ..state };
            found.raw.entry(of).or_default().insert((period, cell), total.quantity());
            continue;
        }
        states.entry(state.clone()).or_default().insert(cell.clone(), total.quantity());
        found.cells.insert((state, cell), total);
    }
    check.count("rating states", states.len() as u64);
    check.count("cells", rows.len() as u64);
    for (key, state) in states {
        let expected = match amounts(&state, history) {
            Ok(expected) => expected,
            // A rate of no version that there is now or was before, or quantities beyond arithmetic: somebody changed it.
            Err(error) => {
                check.violation(show_state(&key), "cells that can be rated", error.to_string());
                continue;
            }
        };
        for (cell, amounts) in expected {
            let of = (key.clone(), cell);
            let total = found.cells.get(&of).copied().unwrap_or_default();
            let expected = Total { renter: amounts.renter.scaled(), supplier: amounts.supplier.scaled(), ..total };
            if expected != total {
                check.violation(format!("the cell of {}", show_cell(&of)), expected.show(), total.show());
            }
        }
    }
    Ok(found)
}

/// The part of each cell's earnings that is held back is booked on an account of its own. It is rounded per cell, on the total.
fn hold_back(
    cells: &HashMap<CellOf, Total>,
    history: &History,
    booked: &mut BTreeMap<Booked, i128>,
) -> Result<(), VerifyError> {
    for ((key, cell), total) in cells {
        let Some(rate) = history.rate(cell.rate).filter(|rate| rate.holdback.scaled() != 0) else { continue };
        let earned = Exact::of(Amount::from_scaled(total.supplier));
        let held = earned.share(rate.holdback).and_then(Exact::round).map_err(money)?.scaled();
        for (account, amount) in [
            (AccountSpec::supplier_holdback(&cell.supplier, &key.currency), held),
            (AccountSpec::supplier_payable(&cell.supplier, &key.currency), -held),
        ] {
            add_to(booked, key, &cell.supplier, account, amount);
        }
    }
    Ok(())
}

/// Of charges with a minimum or a step: what is kept of each lease and slot is the sum of its records, and the states count of it
/// what the rule says.
fn count_steps(
    history: &History,
    raw: &BTreeMap<RawOf, Pieces>,
    sums: &mut Sums,
    report: &mut Report,
) -> Result<(), VerifyError> {
    let check = report.check("steps");
    let nothing = Pieces::new();
    let keys: BTreeSet<&RawOf> = raw.keys().chain(sums.raw.keys()).collect();
    check.count("leases and slots with a minimum or a step", keys.len() as u64);
    for of in keys {
        let (kept, said) = (raw.get(of).unwrap_or(&nothing), sums.raw.get(of).unwrap_or(&nothing));
        for key in kept.keys().chain(said.keys()).collect::<BTreeSet<_>>() {
            let (kept, said) = (kept.get(key).copied().unwrap_or_default(), said.get(key).copied().unwrap_or_default());
            if kept != said {
                let cell = (StateKey { period: key.0, ..of.clone() }, key.1.clone());
                let subject = format!("what lease and slot {} used: {}", of.resource, show_cell(&cell));
                check.violation(subject, format!("records of {}", show_quantity(said)), show_quantity(kept));
            }
        }
        let counted = match stepped(kept, history) {
            Ok(counted) => counted,
            Err(error) => {
                let subject = format!("what lease and slot {} used: {}", of.resource, show_state(of));
                check.violation(subject, "pieces that can be counted", error.to_string());
                continue;
            }
        };
        for ((period, cell), counted) in counted {
            let Some(rate) = history.rate(cell.rate) else { continue };
            let lease = of.resource.rsplit_once('/').map_or(of.resource.as_str(), |(lease, _)| lease);
            let resource = match rate.charge.scope {
                Scope::Contract => String::new(),
                Scope::Lease => lease.to_owned(),
                Scope::Gpu => of.resource.clone(),
                Scope::Server => server_of(history, lease).unwrap_or_default(),
            };
            let total = sums.cells.entry((StateKey { period, resource, ..of.clone() }, cell)).or_default();
            total.billed = total.billed.saturating_add(counted.billed);
            total.paid = total.paid.saturating_add(counted.paid);
        }
    }
    Ok(())
}

fn server_of(history: &History, lease: &str) -> Option<String> {
    let of = history.servers().find(|timeline| timeline.leases.iter().any(|known| known.lease == lease));
    of.map(|timeline| timeline.server.clone())
}

fn against_records(cells: &HashMap<CellOf, Total>, records: &HashMap<CellOf, Total>, report: &mut Report) {
    let check = report.check("steps");
    let keys: HashSet<&CellOf> = cells.keys().chain(records.keys()).collect();
    for of in keys {
        let cell = cells.get(of).copied().unwrap_or_default();
        let sum = records.get(of).copied().unwrap_or_default();
        if cell != sum {
            check.violation(format!("the sum of all records of {}", show_cell(of)), cell.show(), sum.show());
        }
    }
}

/// Every cell's steps lead from nothing to what it holds, each used once. They carry no number, so it is the chain itself that is
/// looked for: as many steps leave a total as arrive at it, but for the first and the last, and all hang together.
async fn steps(db: &Database, mut cells: HashMap<CellOf, Total>, report: &mut Report) -> Result<(), VerifyError> {
    let failed = database("reading rating steps");
    let rows = db
        .client_ref()
        .query_raw(
            "SELECT k.contract, k.renter, k.currency, k.charge, k.period_s, k.resource, s.version_from_s, s.rate, s.segment, s.supplier, \
                    s.billed_before::text, s.paid_before::text, s.renter_before::text, s.supplier_before::text, \
                    s.billed_after::text, s.paid_after::text, s.renter_after::text, s.supplier_after::text, k.raw \
             FROM hydrometer.rating_step AS s JOIN hydrometer.rating_state AS k ON k.id = s.state \
             ORDER BY s.state, s.version_from_s, s.rate, s.segment, s.supplier",
            std::iter::empty::<&(dyn ToSql + Sync)>(),
        )
        .await
        .map_err(&failed)?;
    pin_mut!(rows);
    let mut chain: Option<(CellOf, Vec<(Total, Total)>)> = None;
    while let Some(row) = rows.try_next().await.map_err(&failed)? {
        let of = cell_of(&row)?;
        let total = |at: usize| -> Result<Total, VerifyError> {
            Ok(Total {
                billed: quantity(&row, at)?,
                paid: quantity(&row, at + 1)?,
                renter: amount(&row, at + 2)?,
                supplier: amount(&row, at + 3)?,
            })
        };
        let step = (total(10)?, total(14)?);
        report.check("steps").count("steps", 1);
        if row.get(18) {
            let subject = format!("a step of {}", show_cell(&of));
            report.check("steps").violation(subject, "no steps of what was used before its minimum and step", "a step");
            continue;
        }
        match &mut chain {
            Some((known, steps)) if *known == of => steps.push(step),
            _ => {
                if let Some((of, steps)) = chain.replace((of, vec![step])) {
                    judge_chain(&of, &steps, cells.remove(&of), report);
                }
            }
        }
    }
    if let Some((of, steps)) = chain {
        judge_chain(&of, &steps, cells.remove(&of), report);
    }
    for (of, cell) in cells.iter().filter(|(_, cell)| **cell != Total::default()) {
        report.check("steps").violation(format!("the cell of {}", show_cell(of)), "reached by steps", cell.show());
    }
    Ok(())
}

fn judge_chain(of: &CellOf, steps: &[(Total, Total)], cell: Option<Total>, report: &mut Report) {
    let check = report.check("steps");
    let subject = format!("the {} steps of {}", steps.len(), show_cell(of));
    let (first, last) = (Total::default(), cell.unwrap_or_default());
    let mut leaving: BTreeMap<Total, i64> = BTreeMap::new();
    let mut next: HashMap<Total, Vec<Total>> = HashMap::new();
    *leaving.entry(first).or_default() -= 1;
    *leaving.entry(last).or_default() += 1;
    for (before, after) in steps {
        *leaving.entry(*before).or_default() += 1;
        *leaving.entry(*after).or_default() -= 1;
        next.entry(*before).or_default().push(*after);
    }
    let mut broken = false;
    for (total, balance) in leaving.iter().filter(|(_, balance)| **balance != 0) {
        broken = true;
        let what =
            if *balance > 0 { "no step (or too few) arrives there" } else { "no step (or too few) goes on from there" };
        check.violation(
            &subject,
            format!("an unbroken chain from nothing to: {}", last.show()),
            format!("{what}: {}", total.show()),
        );
    }
    let mut open = vec![first];
    while let Some(total) = open.pop() {
        open.extend(next.remove(&total).unwrap_or_default());
    }
    if let (false, Some(total)) = (broken, next.keys().min()) {
        check.violation(&subject, "one chain", format!("steps apart from it, at: {}", total.show()));
    }
}

/// What each lease used of a billing period is the sum of its records.
async fn lease_use(db: &Database, records: &Uses, report: &mut Report) -> Result<(), VerifyError> {
    let contracts = db
        .client_ref()
        .query("SELECT DISTINCT contract FROM hydrometer.lease_use ORDER BY 1", &[])
        .await
        .map_err(database("reading what leases used"))?;
    let check = report.check("lease_use");
    check.count("leases' parts of rating states", records.len() as u64);
    let mut unseen: BTreeSet<&UseKey> = records.keys().collect();
    let mut judge = |key: &UseKey, kept: Quantity, said: Quantity| {
        if kept != said {
            let cell = show_cell(&(key.state.clone(), key.cell.clone()));
            let subject =
                format!("lease {} on {}, billing period {}: {cell}", key.lease, key.server, show_second(key.billing));
            check.violation(
                subject,
                format!("the sum of its records: {}", super::lease_time::show_quantity(&said)),
                super::lease_time::show_quantity(&kept),
            );
        }
    };
    for row in &contracts {
        for (key, kept) in uses_of(db.client_ref(), row.get(0), Second::MIN, Second::MAX).await? {
            unseen.remove(&key);
            judge(&key, kept, records.get(&key).copied().unwrap_or_default());
        }
    }
    for key in unseen {
        judge(key, Quantity::default(), records.get(key).copied().unwrap_or_default());
    }
    Ok(())
}

/// What the records say of each account against what the ledger booked on it.
async fn postings(db: &Database, records: BTreeMap<Booked, i128>, report: &mut Report) -> Result<(), VerifyError> {
    let rows = db
        .client_ref()
        .query(
            "WITH entry AS (SELECT transaction, debit_account AS account, amount FROM ledger.transfer \
                            UNION ALL SELECT transaction, credit_account, -amount FROM ledger.transfer) \
             SELECT coalesce(t.metadata->>'contract', ''), coalesce(t.metadata->>'renter', ''), coalesce(t.metadata->>'currency', ''), \
                    coalesce(t.metadata->>'charge', ''), coalesce((t.metadata->>'period_s')::bigint, 0), \
                    coalesce(t.metadata->>'resource', ''), coalesce(t.metadata->>'supplier', ''), a.name, \
                    sum(CASE WHEN a.type IN ('asset', 'expense') THEN e.amount ELSE -e.amount END)::text \
             FROM ledger.transaction AS t JOIN entry AS e ON e.transaction = t.id JOIN ledger.account AS a ON a.id = e.account \
             WHERE t.kind IN ('usage', 'correction') GROUP BY 1, 2, 3, 4, 5, 6, 7, 8",
            &[],
        )
        .await
        .map_err(database("summing postings"))?;
    let mut booked: BTreeMap<Booked, i128> = BTreeMap::new();
    for row in &rows {
        booked.insert((state_key(row), row.get(6), row.get(7)), amount(row, 8)?);
    }
    // Sums that reach into months that were detached cannot be compared: part of them is in files.
    let rows = db.client_ref().query(REACHES_BACK, &[]).await.map_err(database("looking for detached months"))?;
    let reaches_back: BTreeSet<StateKey> = rows.iter().map(state_key).collect();
    let check = report.check("postings");
    let (waiting, keys): (BTreeSet<&Booked>, BTreeSet<&Booked>) =
        records.keys().chain(booked.keys()).partition(|(key, _, _)| reaches_back.contains(key));
    check.count("sums by rating state, supplier and account", keys.len() as u64);
    if !waiting.is_empty() {
        check.wait("sums that reach into detached months", waiting.len() as u64);
    }
    for of in keys {
        let said = records.get(of).copied().unwrap_or_default();
        let posted = booked.get(of).copied().unwrap_or_default();
        if said != posted {
            let (key, supplier, account) = of;
            let subject = format!("account {account}, {}, supplier {supplier}", show_state(key));
            let show = |what: &str, sum: i128| format!("{what} {}", Amount::from_scaled(sum));
            check.violation(subject, show("rated records of", said), show("postings of", posted));
        }
    }
    Ok(())
}

/// Each transaction books its steps: no more, no less, and under their names.
async fn transactions(db: &Database, report: &mut Report) -> Result<(), VerifyError> {
    let rows = db.client_ref().query(TRANSACTIONS, &[]).await.map_err(database("comparing steps with postings"))?;
    let check = report.check("postings");
    for row in &rows {
        let (expected, found): (Option<String>, Option<String>) = (row.get(1), row.get(2));
        check.violation(
            format!("transaction {}", row.get::<_, String>(0)),
            expected.unwrap_or_else(|| "to be named by steps".to_owned()),
            found.unwrap_or_else(|| "no such transaction in the ledger".to_owned()),
        );
    }
    let count = db
        .client_ref()
        .query_one("SELECT count(*) FROM ledger.transaction WHERE kind IN ('usage', 'correction')", &[])
        .await
        .map_err(database("counting transactions"))?;
    check.count("transactions", count.get::<_, i64>(0).unsigned_abs());
    Ok(())
}

/// Transactions and steps that differ: (id, what the steps say, what the ledger says), either missing where there is none. Those of months
/// that were detached are in their files, which are held to the chain.
const TRANSACTIONS: &str = "\
WITH named AS (
    SELECT s.transaction, s.state, s.supplier, s.booked_s, s.renter_after - s.renter_before AS renter, s.supplier_after - s.supplier_before AS paid
    FROM hydrometer.rating_step AS s WHERE s.transaction NOT IN (SELECT id FROM ledger.detached_transaction)
), step AS (
    SELECT n.transaction, min(n.state) AS state, min(n.supplier) AS supplier, min(n.booked_s) AS booked_s,
           (max(n.state), max(n.supplier), max(n.booked_s)) = (min(n.state), min(n.supplier), min(n.booked_s)) AS one,
           sum(n.renter) AS renter, sum(n.paid) AS paid
    FROM named AS n GROUP BY n.transaction
), said AS (
    SELECT s.transaction, s.one, s.renter, s.paid,
           format('%s, %s, period %s, resource %L, renter %s in %s, supplier %s, booked %s', k.contract, k.charge, k.period_s, k.resource,
                  k.renter, k.currency, s.supplier, s.booked_s) AS what
    FROM step AS s JOIN hydrometer.rating_state AS k ON k.id = s.state
), entry AS (
    SELECT transaction, debit_account AS account, amount FROM ledger.transfer
    UNION ALL SELECT transaction, credit_account, -amount FROM ledger.transfer
), sum AS (
    SELECT e.transaction, coalesce(sum(amount) FILTER (WHERE a.purpose = 'unbilled'), 0) AS renter,
           coalesce(-sum(amount) FILTER (WHERE a.purpose IN ('payable', 'holdback')), 0) AS paid
    FROM entry AS e JOIN ledger.account AS a ON a.id = e.account GROUP BY e.transaction
), booked AS (
    SELECT t.id, coalesce(s.renter, 0) AS renter, coalesce(s.paid, 0) AS paid,
           format('%s, %s, period %s, resource %L, renter %s in %s, supplier %s, booked %s', t.metadata->>'contract', t.metadata->>'charge',
                  t.metadata->>'period_s', t.metadata->>'resource', t.metadata->>'renter', t.metadata->>'currency',
                  t.metadata->>'supplier', t.metadata->>'booked_s') AS what
    FROM ledger.transaction AS t LEFT JOIN sum AS s ON s.transaction = t.id WHERE t.kind IN ('usage', 'correction')
)
SELECT coalesce(s.transaction, b.id)::text,
       CASE WHEN s.transaction IS NOT NULL THEN format('contract %s: renter %s, supplier %s', s.what, s.renter, s.paid) END,
       CASE WHEN b.id IS NOT NULL THEN format('contract %s: renter %s, supplier %s', b.what, b.renter, b.paid) END
FROM said AS s FULL JOIN booked AS b ON b.id = s.transaction
WHERE s.transaction IS NULL OR NOT s.one OR (b.id IS NULL AND (s.renter <> 0 OR s.paid <> 0))
   OR (b.id IS NOT NULL AND (s.what, s.renter, s.paid) IS DISTINCT FROM (b.what, b.renter, b.paid))
ORDER BY 1";

/// Rating states with a posting in a month that was detached.
const REACHES_BACK: &str = "\
SELECT DISTINCT k.contract, k.renter, k.currency, k.charge, k.period_s, k.resource
FROM hydrometer.rating_step AS s JOIN ledger.detached_transaction AS d ON d.id = s.transaction JOIN hydrometer.rating_state AS k ON k.id = s.state";

/// A correction names the transaction that rated its hour first, where there was one; revisions are numbered from 1 without a gap.
async fn corrections(db: &Database, report: &mut Report) -> Result<(), VerifyError> {
    let rows = db.client_ref().query(CORRECTIONS, &[]).await.map_err(database("looking at corrections"))?;
    let check = report.check("corrections");
    check.count("transactions", rows.len() as u64);
    for row in &rows {
        let (names, first): (Option<String>, Option<String>) = (row.get(1), row.get(2));
        if names != first {
            let say = |id: Option<String>| id.map_or("to correct nothing".to_owned(), |id| format!("to correct {id}"));
            check.violation(format!("transaction {}", row.get::<_, String>(0)), say(first), say(names));
        }
    }
    let sql = "SELECT lease, window_start_s, window_end_s, count(*), max(revision) FROM hydrometer.revision \
               GROUP BY lease, server, 2, 3 HAVING max(revision) <> count(*) OR min(revision) <> 1 ORDER BY 1, 2, 3";
    for row in db.client_ref().query(sql, &[]).await.map_err(database("looking at revisions"))? {
        let window = hydrometer_rating::history::Span { from: row.get(1), to: row.get(2) };
        let subject = format!("lease {}, window {}", row.get::<_, String>(0), super::hours::show_span(window));
        let found = format!("{} revisions, the last one number {}", row.get::<_, i64>(3), row.get::<_, i32>(4));
        check.violation(subject, "revisions numbered from 1 without a gap", found);
    }
    Ok(())
}

/// Corrections: (id, what it names, the transaction that rated its hour first).
const CORRECTIONS: &str = "\
SELECT t.id::text, t.corrects::text, first.transaction::text
FROM ledger.transaction AS t
LEFT JOIN LATERAL (
    SELECT s.state, s.supplier, o.topic, o.partition, o.hour_s, c.at
    FROM hydrometer.commit AS c JOIN hydrometer.object AS o ON o.commit_id = c.id JOIN hydrometer.rating_step AS s ON s.object = o.name
    WHERE c.id = (t.metadata->>'commit')::uuid AND s.transaction = t.id LIMIT 1
) AS own ON true
LEFT JOIN LATERAL (
    SELECT s.transaction
    FROM hydrometer.object AS o JOIN hydrometer.commit AS c ON c.id = o.commit_id
    JOIN hydrometer.rating_step AS s ON s.object = o.name JOIN ledger.transaction_id AS x ON x.id = s.transaction
    WHERE o.kind = 'rated' AND o.topic = own.topic AND o.partition = own.partition AND o.hour_s = own.hour_s
      AND s.state = own.state AND s.supplier = own.supplier AND c.at < own.at
    ORDER BY c.at, s.transaction LIMIT 1
) AS first ON true
WHERE t.kind = 'correction' ORDER BY 1";

/// A cell's name from the first ten columns.
fn cell_of(row: &Row) -> Result<CellOf, VerifyError> {
    Ok((state_key(row), cell_key(row, 6)?))
}

/// A quantity with six decimals, in millionths.
fn quantity(row: &Row, at: usize) -> Result<i128, VerifyError> {
    // Three decimals more than it has, as an amount is read: nothing is rounded.
    Ok(Amount::parse(row.get(at)).map_err(money)?.scaled() / 1_000)
}

pub(super) fn amount(row: &Row, at: usize) -> Result<i128, VerifyError> {
    Ok(Amount::parse(row.get(at)).map_err(money)?.scaled())
}

fn money(error: MoneyError) -> VerifyError {
    StoreError::from(error).into()
}

fn show_quantity(cell: Cell) -> String {
    let show = |micro: i128| match micro % MICRO {
        0 => (micro / MICRO).to_string(),
        _ => format!("{micro} millionths"),
    };
    format!("billed {}, paid {}", show(cell.billed), show(cell.paid))
}

fn show_state(key: &StateKey) -> String {
    let resource = if key.resource.is_empty() { String::new() } else { format!(" of {}", key.resource) };
    format!(
        "contract {}, {}{resource}, from {}, renter {} in {}",
        key.contract,
        key.charge,
        show_second(key.period),
        key.renter,
        key.currency
    )
}

fn show_cell((key, cell): &CellOf) -> String {
    let time = if cell.segment == 0 { String::new() } else { format!(", time of the week {}", cell.segment) };
    format!(
        "{}, terms of {} (rate {}{time}), supplier {}",
        show_state(key),
        show_second(cell.version_from),
        cell.rate,
        cell.supplier
    )
}
