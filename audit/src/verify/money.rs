//! The same money four times: rated records, rating steps, cumulative cells and the ledger's postings (laws 4, 5, 6 and 7).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use futures::{TryStreamExt, pin_mut};
use hydrometer_ledger::AccountSpec;
use hydrometer_pipeline::store::rating::StateKey;
use hydrometer_pipeline::store::{Database, StoreError};
use hydrometer_rating::money::{Amount, MoneyError, Price, Share};
use hydrometer_rating::rate::{Cell, CellKey, State, amounts};
use hydrometer_schemas::time::show_date;
use hydrometer_sinks::rated::RatedRow;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::{Report, VerifyError, database};

/// A cell's cumulative quantities and amounts: where a step begins and ends.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Total {
    billed: i64,
    paid: i64,
    renter: i128,
    supplier: i128,
}

impl Total {
    fn show(&self) -> String {
        let (renter, supplier) = (Amount::from_scaled(self.renter), Amount::from_scaled(self.supplier));
        format!("billed {} s, paid {} s, renter {renter}, supplier {supplier}", self.billed, self.paid)
    }
}

type CellOf = (StateKey, CellKey);

/// What one ledger account got for a contract's charge in a period, through one supplier.
type Booked = (StateKey, String, String);

/// What the records add up to.
#[derive(Debug, Default)]
pub(super) struct Sums {
    cells: HashMap<CellOf, Total>,
    booked: BTreeMap<Booked, i128>,
}

impl Sums {
    pub fn add(&mut self, row: &RatedRow) {
        let key = StateKey { contract: row.contract.clone(), charge: row.charge.clone(), period: row.period };
        let (renter, supplier) = (row.renter_amount.scaled(), row.supplier_amount.scaled());
        let total = self.cells.entry((key.clone(), row.cell.clone())).or_default();
        total.billed = total.billed.saturating_add(row.seconds.billed);
        total.paid = total.paid.saturating_add(row.seconds.paid);
        total.renter = total.renter.saturating_add(renter);
        total.supplier = total.supplier.saturating_add(supplier);
        for (account, amount) in [
            (AccountSpec::renter_unbilled(&row.renter, &row.currency), renter),
            (AccountSpec::supplier_payable(&row.cell.supplier, &row.currency), supplier),
            (AccountSpec::platform_commission(&row.currency), renter.saturating_sub(supplier)),
        ] {
            let sum = self.booked.entry((key.clone(), row.cell.supplier.clone(), account.name)).or_default();
            *sum = sum.saturating_add(amount);
        }
    }
}

pub(super) async fn check(db: &Database, sums: Sums, report: &mut Report) -> Result<(), VerifyError> {
    let cells = cells(db, report).await?;
    against_records(&cells, &sums.cells, report);
    steps(db, cells, report).await?;
    postings(db, sums.booked, report).await?;
    transactions(db, report).await?;
    corrections(db, report).await
}

/// The cells, each state's amounts worked out again from its quantities.
async fn cells(db: &Database, report: &mut Report) -> Result<HashMap<CellOf, Total>, VerifyError> {
    let rows = db
        .client_ref()
        .query(
            "SELECT contract, charge, period_s, version_from_s, price::text, share::text, supplier, billed_s, paid_s, \
                    renter_amount::text, supplier_amount::text FROM hydrometer.rating_cell",
            &[],
        )
        .await
        .map_err(database("reading rating cells"))?;
    let mut states: BTreeMap<StateKey, State> = BTreeMap::new();
    let mut cells = HashMap::new();
    for row in &rows {
        let (state, cell) = cell_of(row)?;
        let total = Total { billed: row.get(7), paid: row.get(8), renter: amount(row, 9)?, supplier: amount(row, 10)? };
        let quantity = Cell { billed: total.billed, paid: total.paid };
        states.entry(state.clone()).or_default().insert(cell.clone(), quantity);
        cells.insert((state, cell), total);
    }
    let check = report.check("steps");
    check.count("periods of contracts", states.len() as u64);
    check.count("cells", rows.len() as u64);
    for (key, state) in states {
        let expected = amounts(&state).map_err(StoreError::from)?;
        for (cell, amounts) in expected {
            let of = (key.clone(), cell);
            let found = cells.get(&of).copied().unwrap_or_default();
            let expected = Total { renter: amounts.renter.scaled(), supplier: amounts.supplier.scaled(), ..found };
            if expected != found {
                check.violation(format!("the cell of {}", show_cell(&of)), expected.show(), found.show());
            }
        }
    }
    Ok(cells)
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
            "SELECT contract, charge, period_s, version_from_s, price::text, share::text, supplier, \
                    billed_before, paid_before, renter_before::text, supplier_before::text, \
                    billed_after, paid_after, renter_after::text, supplier_after::text, object FROM hydrometer.rating_step \
             ORDER BY contract, charge, period_s, version_from_s, price, share, supplier",
            std::iter::empty::<&(dyn ToSql + Sync)>(),
        )
        .await
        .map_err(&failed)?;
    pin_mut!(rows);
    let mut chain: Option<(CellOf, Vec<(Total, Total)>)> = None;
    while let Some(row) = rows.try_next().await.map_err(&failed)? {
        let of = cell_of(&row)?;
        let before =
            Total { billed: row.get(7), paid: row.get(8), renter: amount(&row, 9)?, supplier: amount(&row, 10)? };
        let after =
            Total { billed: row.get(11), paid: row.get(12), renter: amount(&row, 13)?, supplier: amount(&row, 14)? };
        report.check("steps").count("steps", 1);
        match &mut chain {
            Some((known, steps)) if *known == of => steps.push((before, after)),
            _ => {
                if let Some((of, steps)) = chain.replace((of, vec![(before, after)])) {
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

/// What the records say of each account against what the ledger booked on it.
async fn postings(db: &Database, records: BTreeMap<Booked, i128>, report: &mut Report) -> Result<(), VerifyError> {
    let rows = db
        .client_ref()
        .query(
            "WITH entry AS (SELECT transaction, debit_account AS account, amount FROM ledger.transfer \
                            UNION ALL SELECT transaction, credit_account, -amount FROM ledger.transfer) \
             SELECT coalesce(t.metadata->>'contract', ''), coalesce(t.metadata->>'charge', ''), \
                    coalesce((t.metadata->>'period_s')::bigint, 0), coalesce(t.metadata->>'supplier', ''), a.name, \
                    sum(CASE WHEN a.type IN ('asset', 'expense') THEN e.amount ELSE -e.amount END)::text \
             FROM ledger.transaction AS t JOIN entry AS e ON e.transaction = t.id JOIN ledger.account AS a ON a.id = e.account \
             WHERE t.kind IN ('usage', 'correction') GROUP BY 1, 2, 3, 4, 5",
            &[],
        )
        .await
        .map_err(database("summing postings"))?;
    let mut booked: BTreeMap<Booked, i128> = BTreeMap::new();
    for row in &rows {
        let key = StateKey { contract: row.get(0), charge: row.get(1), period: row.get(2) };
        booked.insert((key, row.get(3), row.get(4)), amount(row, 5)?);
    }
    let check = report.check("postings");
    let keys: BTreeSet<&Booked> = records.keys().chain(booked.keys()).collect();
    check.count("sums by contract, period, supplier and account", keys.len() as u64);
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
        let expected = expected.unwrap_or_else(|| "to be named by steps".to_owned());
        check.violation(
            format!("transaction {}", row.get::<_, String>(0)),
            expected,
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

/// Transactions and steps that differ: (id, what the steps say, what the ledger says), either missing where there is none.
const TRANSACTIONS: &str = "\
WITH step AS (
    SELECT transaction, min(contract) AS contract, min(charge) AS charge, min(period_s) AS period_s, min(supplier) AS supplier,
           (max(contract), max(charge), max(period_s), max(supplier)) = (min(contract), min(charge), min(period_s), min(supplier)) AS one,
           sum(renter_after - renter_before) AS renter, sum(supplier_after - supplier_before) AS paid
    FROM hydrometer.rating_step GROUP BY transaction
), entry AS (
    SELECT transaction, debit_account AS account, amount FROM ledger.transfer
    UNION ALL SELECT transaction, credit_account, -amount FROM ledger.transfer
), sum AS (
    SELECT e.transaction, coalesce(sum(amount) FILTER (WHERE a.purpose = 'unbilled'), 0) AS renter,
           coalesce(-sum(amount) FILTER (WHERE a.purpose = 'payable'), 0) AS paid
    FROM entry AS e JOIN ledger.account AS a ON a.id = e.account GROUP BY e.transaction
), booked AS (
    SELECT t.id, t.metadata->>'contract' AS contract, t.metadata->>'charge' AS charge, (t.metadata->>'period_s')::bigint AS period_s,
           t.metadata->>'supplier' AS supplier, coalesce(s.renter, 0) AS renter, coalesce(s.paid, 0) AS paid
    FROM ledger.transaction AS t LEFT JOIN sum AS s ON s.transaction = t.id WHERE t.kind IN ('usage', 'correction')
)
SELECT coalesce(s.transaction, b.id)::text,
       CASE WHEN s.transaction IS NOT NULL THEN format('contract %s, %s, period %s, supplier %s: renter %s, supplier %s',
            s.contract, s.charge, s.period_s, s.supplier, s.renter, s.paid) END,
       CASE WHEN b.id IS NOT NULL THEN format('contract %s, %s, period %s, supplier %s: renter %s, supplier %s',
            b.contract, b.charge, b.period_s, b.supplier, b.renter, b.paid) END
FROM step AS s FULL JOIN booked AS b ON b.id = s.transaction
WHERE s.transaction IS NULL OR NOT s.one OR (b.id IS NULL AND (s.renter <> 0 OR s.paid <> 0))
   OR (b.id IS NOT NULL AND (s.contract, s.charge, s.period_s, s.supplier, s.renter, s.paid)
       IS DISTINCT FROM (b.contract, b.charge, b.period_s, b.supplier, b.renter, b.paid))
ORDER BY 1";

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
               GROUP BY 1, 2, 3 HAVING max(revision) <> count(*) OR min(revision) <> 1 ORDER BY 1, 2, 3";
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
    SELECT s.contract, s.charge, s.period_s, s.supplier, o.topic, o.partition, o.hour_s, c.at
    FROM hydrometer.commit AS c JOIN hydrometer.object AS o ON o.commit_id = c.id JOIN hydrometer.rating_step AS s ON s.object = o.name
    WHERE c.id = (t.metadata->>'commit')::uuid AND s.transaction = t.id LIMIT 1
) AS own ON true
LEFT JOIN LATERAL (
    SELECT s.transaction
    FROM hydrometer.object AS o JOIN hydrometer.commit AS c ON c.id = o.commit_id
    JOIN hydrometer.rating_step AS s ON s.object = o.name JOIN ledger.transaction AS x ON x.id = s.transaction
    WHERE o.kind = 'rated' AND o.topic = own.topic AND o.partition = own.partition AND o.hour_s = own.hour_s
      AND s.contract = own.contract AND s.charge = own.charge AND s.period_s = own.period_s AND s.supplier = own.supplier
      AND c.at < own.at
    ORDER BY c.at, s.transaction LIMIT 1
) AS first ON true
WHERE t.kind = 'correction' ORDER BY 1";

fn cell_of(row: &Row) -> Result<CellOf, VerifyError> {
    let money = |error: MoneyError| VerifyError::from(StoreError::from(error));
    let state = StateKey { contract: row.get(0), charge: row.get(1), period: row.get(2) };
    let cell = CellKey {
        version_from: row.get(3),
        price: Price::parse(row.get(4)).map_err(money)?,
        share: Share::parse_percent(row.get(5)).map_err(money)?,
        supplier: row.get(6),
    };
    Ok((state, cell))
}

fn amount(row: &Row, at: usize) -> Result<i128, VerifyError> {
    Ok(Amount::parse(row.get(at)).map_err(StoreError::from)?.scaled())
}

fn show_state(key: &StateKey) -> String {
    format!("contract {}, {}, period {}", key.contract, key.charge, show_date(key.period))
}

fn show_cell((key, cell): &CellOf) -> String {
    let version = hydrometer_schemas::time::show_second(cell.version_from);
    format!(
        "{}, {} an hour from {version}, share {} %, supplier {}",
        show_state(key),
        cell.price,
        cell.share,
        cell.supplier
    )
}
