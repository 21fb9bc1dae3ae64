//! The proof of a simulated run: everything that was metered, rated and posted, against the simulator's oracle, to the second and to
//! the ninth decimal.

use std::collections::{BTreeMap, BTreeSet};

use hydrometer_ledger::{self as ledger, AsOf};
use hydrometer_pipeline::publish::{quarantine_rows, rated_rows, usage_rows};
use hydrometer_pipeline::store::manifest::{self, ObjectKind};
use hydrometer_pipeline::store::timeline::events_since;
use hydrometer_pipeline::store::{Database, StoreError};
use hydrometer_pipeline::worker::WorkerError;
use hydrometer_rating::classes::{ClassSeconds, mask};
use hydrometer_rating::history::History;
use hydrometer_schemas::time::{MICROS_PER_SECOND, Second, hour_floor};
use hydrometer_schemas::warehouse::Table;
use hydrometer_sinks::rated::{RatedRow, RecordKind};
use hydrometer_sinks::usage::{UsageRow, merged};
use hydrometer_sinks::{Warehouse, parquet, quarantine, rated, usage};
use hydrometer_testkit::fleet::Outcome;
use hydrometer_testkit::oracle::WalletTruth;

/// Renter and currency.
pub type WalletOf = (String, String);

/// Seconds in which something happened to a wallet: `exhausted`, `restored`, or `credit_reached` and the contract.
pub type WalletNews = BTreeSet<(Second, String)>;

/// What a deployment holds, read from its files and its ledger.
#[derive(Debug, Default)]
pub struct Found {
    pub seconds: BTreeMap<(String, u32, Option<String>, i64), ClassSeconds>,
    /// Per currency: renter charges, supplier earnings.
    pub totals: BTreeMap<String, (i128, i128)>,
    pub renters: BTreeMap<(String, i64), i128>,
    pub suppliers: BTreeMap<(String, i64, String), i128>,
    pub balances: BTreeMap<String, i128>,
    pub wallets: BTreeMap<WalletOf, WalletNews>,
    /// GPU-seconds of suspension.
    pub suspended: BTreeMap<WalletOf, i64>,
    pub metered_minutes: u64,
    pub present_seconds: u64,
    pub leakage_seconds: u64,
    pub quarantine: BTreeMap<String, u64>,
    pub rated_records: u64,
    pub corrections: u64,
    pub adjustments: u64,
    pub dues: u64,
    pub unpublished_files: u64,
    pub open_requests: u64,
}

/// The comparison: how much agreed, and every difference.
#[derive(Debug, Default)]
pub struct Proof {
    pub lease_hours: usize,
    pub seconds: i64,
    pub amounts: usize,
    /// Seconds in which something happened to wallets.
    pub wallet_news: usize,
    pub differences: Vec<String>,
}

impl Found {
    /// Reads everything through the manifest: published files, and what is staged and not published yet.
    pub async fn read(db: &mut Database, warehouse: &Warehouse) -> Result<Found, WorkerError> {
        let mut found = Found::default();
        let mut usage_all: Vec<UsageRow> = Vec::new();
        for (file, published) in manifest::all_files(db.client_ref()).await? {
            let (Some(sha256), true) = (&file.sha256, published) else {
                found.unpublished_files += 1;
                continue;
            };
            let bytes = warehouse.read_checked(&file.name, sha256).await?;
            for batch in parquet::decode(&file.name, bytes)? {
                match file.table {
                    Table::Usage => usage_all.extend(usage::from_batch(&batch)?),
                    Table::Rated => rated::from_batch(&batch)?.iter().for_each(|row| found.rated(row)),
                    Table::Quarantine => {
                        for row in quarantine::from_batch(&batch)? {
                            *found.quarantine.entry(row.reason).or_default() += 1;
                        }
                    }
                }
            }
        }
        for object in
            manifest::unpublished_objects(db.client_ref(), &[ObjectKind::Usage, ObjectKind::Late, ObjectKind::Away])
                .await?
        {
            usage_all.extend(usage_rows(warehouse, &object).await?);
        }
        for object in manifest::unpublished_objects(db.client_ref(), &[ObjectKind::Rated]).await? {
            rated_rows(db, warehouse, &object).await?.iter().for_each(|row| found.rated(row));
        }
        for object in manifest::unpublished_objects(db.client_ref(), &[ObjectKind::Quarantine]).await? {
            for row in quarantine_rows(warehouse, &object).await? {
                *found.quarantine.entry(row.reason).or_default() += 1;
            }
        }
        found.usage(db, usage_all).await?;
        found.wallets = wallet_news(db).await?;
        for balance in ledger::balances(db.client_ref(), "", AsOf::Now).await.map_err(StoreError::from)? {
            let net = balance.net.nanos();
            found.balances.insert(balance.account.spec.name.clone(), net);
        }
        let open =
            db.client_ref().query_one("SELECT count(*) FROM hydrometer.request WHERE done_by IS NULL", &[]).await;
        found.open_requests = open.map(|row| row.get::<_, i64>(0) as u64).unwrap_or(u64::MAX);
        Ok(found)
    }

    fn rated(&mut self, row: &RatedRow) {
        self.rated_records += 1;
        match row.kind {
            RecordKind::Usage => {}
            RecordKind::Correction => self.corrections += 1,
            RecordKind::Adjustment => self.adjustments += 1,
            RecordKind::Due(_) => self.dues += 1,
        }
        let totals = self.totals.entry(row.currency.clone()).or_default();
        totals.0 += row.renter_amount.scaled();
        totals.1 += row.supplier_amount.scaled();
        *self.renters.entry((row.contract.clone(), row.period)).or_default() += row.renter_amount.scaled();
        let supplier = (row.contract.clone(), row.period, row.cell.supplier.clone());
        *self.suppliers.entry(supplier).or_default() += row.supplier_amount.scaled();
        *self.suspended.entry((row.renter.clone(), row.currency.clone())).or_default() +=
            row.quantity.classes.suspended;
        if let (Some(lease), Some(slot)) = (&row.lease, row.slot) {
            let key = (lease.clone(), slot, row.gpu.clone(), hour_floor(row.window.from));
            let sum = self.seconds.entry(key).or_default();
            // Whose fault it was shows in what is billed and paid.
            *sum = sum.plus(ClassSeconds { down_platform: 0, down_renter: 0, ..row.quantity.classes });
        }
    }

    async fn usage(&mut self, db: &Database, rows: Vec<UsageRow>) -> Result<(), WorkerError> {
        let mut history = History::default();
        history.insert(events_since(db.client_ref(), 0).await?.1);
        for row in merged(rows).into_values().filter(|row| row.present != 0) {
            self.metered_minutes += 1;
            self.present_seconds += u64::from(row.present.count_ones());
            let mut leased = 0;
            if let Some(server) = history.server(&row.server) {
                for lease in &server.leases {
                    for slot in &lease.slots {
                        for seat in server.occupancy.get(slot).into_iter().flatten().filter(|s| s.gpu == *row.gpu) {
                            leased |= mask(seat.span, row.minute) & mask(lease.span, row.minute);
                        }
                    }
                }
            }
            self.leakage_seconds += u64::from((row.present & !leased).count_ones());
        }
        Ok(())
    }

    /// Holds what was found against what is true.
    pub fn prove(&self, outcome: &Outcome) -> Proof {
        let truth = &outcome.truth;
        let mut proof = Proof::default();
        let mut expected = BTreeMap::new();
        for s in &truth.seconds {
            let seconds = ClassSeconds {
                used: s.used as i64,
                idle: s.idle as i64,
                unknown: s.unknown as i64,
                down: s.down as i64,
                suspended: s.suspended as i64,
                maintenance: s.maintenance as i64,
                down_platform: 0,
                down_renter: 0,
                billed: s.billed as i64,
                paid: s.paid as i64,
            };
            proof.seconds += seconds.leased();
            expected.insert((s.lease.clone(), s.slot, s.gpu.clone(), s.hour_us / MICROS_PER_SECOND), seconds);
        }
        let keys: BTreeSet<_> = expected.keys().chain(self.seconds.keys()).collect();
        proof.lease_hours = keys.len();
        for key in keys {
            let truth = expected.get(key).copied().unwrap_or_default();
            let found = self.seconds.get(key).copied().unwrap_or_default();
            proof.compare(
                || format!("seconds of lease {} slot {} gpu {:?} hour {}", key.0, key.1, key.2, key.3),
                &truth,
                &found,
            );
        }

        let mut balances: BTreeMap<String, i128> = BTreeMap::new();
        let mut renters = BTreeMap::new();
        let mut suppliers = BTreeMap::new();
        for charge in &truth.charges {
            let period = charge.period_us / MICROS_PER_SECOND;
            renters.insert((charge.contract.clone(), period), charge.renter_amount_e9);
            let currency = &charge.currency;
            // Of prepaid use the wallet has paid all at once, or it is receivable.
            if !charge.is_prepaid {
                *balances.entry(format!("renter:{}:unbilled:{currency}", charge.renter)).or_default() +=
                    charge.renter_amount_e9;
            }
            *balances.entry(format!("platform:commission:{currency}")).or_default() -= charge.commission_e9;
            for part in &charge.suppliers {
                suppliers.insert((charge.contract.clone(), period, part.supplier.clone()), part.amount_e9);
                *balances.entry(format!("supplier:{}:payable:{currency}", part.supplier)).or_default() -=
                    part.amount_e9;
            }
        }
        let mut wallets: BTreeMap<WalletOf, WalletNews> = BTreeMap::new();
        for wallet in &truth.wallets {
            for (account, balance) in wallet_balances(wallet) {
                *balances.entry(account).or_default() += balance;
            }
            let news = wallets.entry((wallet.renter.clone(), wallet.currency.clone())).or_default();
            for dry in &wallet.dry {
                news.insert((dry.exhausted, "exhausted".to_owned()));
                news.extend(dry.restored.map(|second| (second, "restored".to_owned())));
                let reached = dry.credit_reached.iter();
                news.extend(reached.map(|(contract, second)| (*second, format!("credit_reached {contract}"))));
            }
        }
        let end = truth.wallets.iter().map(|wallet| wallet.until).max().unwrap_or(Second::MAX);
        for key in wallets.keys().chain(self.wallets.keys()).collect::<BTreeSet<_>>() {
            let of = |news: &BTreeMap<WalletOf, WalletNews>| -> WalletNews {
                news.get(key).into_iter().flatten().filter(|(second, _)| *second < end).cloned().collect()
            };
            let (truth, found) = (of(&wallets), of(&self.wallets));
            proof.wallet_news += truth.len();
            proof.compare(|| format!("the wallet of {} in {}", key.0, key.1), &truth, &found);
        }
        proof.maps("renter amount", &renters, &self.renters);
        proof.maps("supplier amount", &suppliers, &self.suppliers);
        proof.maps("balance of account", &balances, &self.balances);

        proof.compare(|| "metered minutes".into(), &truth.metered_minutes, &self.metered_minutes);
        proof.compare(|| "leakage seconds".into(), &truth.leakage_seconds, &self.leakage_seconds);
        proof.compare(|| "quarantine by reason".into(), &outcome.tally.quarantine, &self.quarantine);
        proof.compare(|| "files that are owed".into(), &0, &self.unpublished_files);
        proof
    }
}

/// What derived events say of wallets.
async fn wallet_news(db: &Database) -> Result<BTreeMap<WalletOf, WalletNews>, WorkerError> {
    let sql = "SELECT body->'data'->>'renter', body->'data'->>'currency', time_s, \
                      concat_ws(' ', replace(body->>'type', 'gpu.wallet.', ''), body->'data'->>'contract') \
               FROM hydrometer.event WHERE verdict IS NULL AND body->>'type' IN \
                      ('gpu.wallet.exhausted', 'gpu.wallet.credit_reached', 'gpu.wallet.restored')";
    let refused = |source: tokio_postgres::Error| StoreError::Database {
        doing: "reading what became of wallets",
        detail: source.to_string(),
        source,
    };
    let rows = db.client_ref().query(sql, &[]).await.map_err(refused)?;
    let mut wallets: BTreeMap<WalletOf, WalletNews> = BTreeMap::new();
    for row in &rows {
        wallets.entry((row.get(0), row.get(1))).or_default().insert((row.get(2), row.get(3)));
    }
    Ok(wallets)
}

/// The balances that a wallet leaves, debits positive, in 1e-9.
fn wallet_balances(wallet: &WalletTruth) -> Vec<(String, i128)> {
    let WalletTruth { renter, currency, .. } = wallet;
    let mut balances = vec![
        (format!("renter:{renter}:wallet:{currency}"), -wallet.left_e9),
        (format!("renter:{renter}:receivable:{currency}"), wallet.receivable_e9),
        (format!("platform:promotions:{currency}"), wallet.promotional_e9),
        (format!("platform:expired_credit:{currency}"), -wallet.expired_e9),
    ];
    balances.extend(wallet.sources.iter().map(|from| (format!("{}:{currency}", from.source), from.amount_e9)));
    balances
}

impl Proof {
    fn maps<K: Ord + Clone + std::fmt::Debug>(
        &mut self,
        what: &str,
        truth: &BTreeMap<K, i128>,
        found: &BTreeMap<K, i128>,
    ) {
        let keys: BTreeSet<&K> = truth.keys().chain(found.keys()).collect();
        self.amounts += keys.len();
        for key in keys {
            let (truth, found) = (truth.get(key).copied().unwrap_or(0), found.get(key).copied().unwrap_or(0));
            self.compare(|| format!("{what} {key:?} in 1e-9"), &truth, &found);
        }
    }

    fn compare<T: PartialEq + std::fmt::Debug>(&mut self, what: impl FnOnce() -> String, truth: &T, found: &T) {
        if truth != found {
            self.differences.push(format!("{}: the oracle says {truth:?}, found {found:?}", what()));
        }
    }
}
