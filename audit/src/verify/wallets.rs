//! What prepaid contracts used against what their wallets were asked to pay, and the ledger's own proof of its wallets.

use std::collections::BTreeMap;

use hydrometer_ledger::wallet;
use hydrometer_pipeline::store::Database;
use hydrometer_pipeline::store::closing::{DUE_COLUMNS, due_key};
use hydrometer_pipeline::store::wallet::of;
use hydrometer_rating::history::History;
use hydrometer_rating::money::Amount;
use hydrometer_schemas::lifecycle::WalletKey;
use hydrometer_schemas::time::Second;

use super::{Report, VerifyError, database};

/// What cells of prepaid versions come to, by wallet.
const USED: &str = "\
SELECT s.renter, s.currency, sum(c.renter_amount)::text
FROM hydrometer.rating_cell AS c JOIN hydrometer.rating_state AS s ON s.id = c.state
WHERE EXISTS (SELECT FROM hydrometer.prepaid_use AS p WHERE (p.state, p.version_from_s, p.rate, p.segment, p.supplier)
                                                          = (c.state, c.version_from_s, c.rate, c.segment, c.supplier))
GROUP BY s.renter, s.currency";

/// Cells whose quantity is not that of their intervals. (Where minimum or step apply, intervals count before them.)
const QUANTITIES: &str = "\
SELECT format('contract %s, charge %s, version from %s, supplier %s', s.contract, s.charge, to_timestamp(c.version_from_s), c.supplier),
       c.billed::text, p.billed::text
FROM hydrometer.rating_cell AS c JOIN hydrometer.rating_state AS s ON s.id = c.state
JOIN (SELECT state, version_from_s, rate, segment, supplier, sum(billed) AS billed FROM hydrometer.prepaid_use
      GROUP BY state, version_from_s, rate, segment, supplier) AS p
  ON (p.state, p.version_from_s, p.rate, p.segment, p.supplier) = (c.state, c.version_from_s, c.rate, c.segment, c.supplier)
WHERE p.billed <> c.billed AND NOT EXISTS (SELECT FROM hydrometer.rating_state AS r
                                           WHERE r.raw AND (r.contract, r.charge) = (s.contract, s.charge))
ORDER BY 1";

pub(super) async fn check(db: &Database, history: &History, report: &mut Report) -> Result<(), VerifyError> {
    let client = db.client_ref();
    let mut expected: BTreeMap<WalletKey, Amount> = BTreeMap::new();
    for row in client.query(USED, &[]).await.map_err(database("adding up prepaid use"))? {
        let key = WalletKey { renter: row.get(0), currency: row.get(1) };
        add(&mut expected, key, read(row.get(2))?)?;
    }
    let dues = format!("SELECT {DUE_COLUMNS}, d.end_s, d.renter_amount::text FROM hydrometer.due AS d");
    for row in client.query(&dues, &[]).await.map_err(database("adding up what fell due"))? {
        let due = due_key(&row)?;
        let (last, versions) = (row.get::<_, Second>(10) - 1, history.versions(&due.contract));
        let version = versions.iter().find(|version| version.span.holds(last)).or(versions.last());
        let key = WalletKey { renter: due.renter, currency: due.currency };
        if version.and_then(|version| version.wallet()).as_ref() == Some(&key) {
            add(&mut expected, key, read(row.get(11))?)?;
        }
    }
    let sql = "SELECT w.id, w.party, w.currency, coalesce(sum(i.used), 0)::text \
               FROM ledger.wallet AS w LEFT JOIN ledger.wallet_interval AS i ON i.wallet = w.id \
               GROUP BY w.id, w.party, w.currency ORDER BY w.party, w.currency";
    let wallets = client.query(sql, &[]).await.map_err(database("reading the wallets"))?;

    let check = report.check("wallets");
    check.count("wallets", wallets.len() as u64);
    let mut asked: BTreeMap<uuid::Uuid, Amount> = BTreeMap::new();
    for row in &wallets {
        asked.insert(row.get(0), read(row.get(3))?);
    }
    for (key, used) in expected {
        let paid = asked.remove(&of(&key).id().0).unwrap_or(Amount::ZERO);
        if paid != used {
            let subject = format!("wallet of {} in {}", key.renter, key.currency);
            check.violation(subject, format!("asked to pay {used}"), format!("was asked to pay {paid}"));
        }
    }
    for (id, paid) in asked.into_iter().filter(|(_, paid)| *paid != Amount::ZERO) {
        check.violation(format!("wallet {id}"), "no prepaid use".to_owned(), format!("was asked to pay {paid}"));
    }
    for row in client.query(QUANTITIES, &[]).await.map_err(database("comparing prepaid quantities"))? {
        let (used, kept): (&str, &str) = (row.get(1), row.get(2));
        check.violation(row.get::<_, String>(0), format!("{used} over its wallet's intervals"), kept.to_owned());
    }
    for violation in wallet::verify(client).await? {
        check.violation(violation.subject, violation.law, violation.detail);
    }
    Ok(())
}

fn add(sums: &mut BTreeMap<WalletKey, Amount>, key: WalletKey, amount: Amount) -> Result<(), VerifyError> {
    let sum = sums.entry(key).or_insert(Amount::ZERO);
    *sum = sum.checked_add(amount).map_err(hydrometer_pipeline::store::StoreError::from)?;
    Ok(())
}

fn read(text: &str) -> Result<Amount, VerifyError> {
    Ok(Amount::parse(text).map_err(hydrometer_pipeline::store::StoreError::from)?)
}
