//! The published folders are plain Parquet: DuckDB and pyarrow, with a glob, reach the sums that we read, that the ledger holds and
//! that the oracle knows. `tests/readers/*.py` are the readers.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use common::{Cuts, Deployment, assert_proven, run_fleet};
use hydrometer_cli::proof::Found;
use hydrometer_ledger::{self as ledger, AsOf};
use hydrometer_pipeline::store::manifest;
use hydrometer_schemas::warehouse::Table;
use hydrometer_sinks::rated::RatedRow;
use hydrometer_sinks::usage::{UsageRow, merged};
use hydrometer_sinks::{Warehouse, parquet, quarantine, rated, usage};
use hydrometer_testkit::fleet::{Fault, Outcome, Plan};
use hydrometer_testkit::services::s3::python_for_tests;
use serde_json::{Value, json};

/// Runs one of the readers; what it prints is JSON.
fn read_with_python(script: &str, warehouse: &Path) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/readers").join(script);
    let output = Command::new(python_for_tests().unwrap()).arg("-B").arg(&script).arg(warehouse).output().unwrap();
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {problem}", script.display());
    serde_json::from_slice(&output.stdout).unwrap()
}

type Sums = BTreeMap<String, i128>;

/// The same sums as the readers', by our own code.
#[derive(Default)]
struct Own {
    renter: Sums,
    commission: Sums,
    supplier: Sums,
    accounts: Sums,
    seconds: BTreeMap<String, [i64; 9]>,
    usage: Vec<UsageRow>,
    quarantine: BTreeMap<String, u64>,
    rows: BTreeMap<&'static str, u64>,
    files: BTreeSet<String>,
}

impl Own {
    /// Lists the folders and reads every file in them, whatever the manifest says.
    async fn read(warehouse: &Warehouse) -> Own {
        let mut own = Own::default();
        for table in Table::ALL {
            own.rows.insert(table.name(), 0);
            for name in warehouse.list(table.name()).await.unwrap() {
                let bytes = warehouse.read(&name).await.unwrap();
                for batch in parquet::decode(&name, bytes).unwrap() {
                    *own.rows.entry(table.name()).or_default() += batch.num_rows() as u64;
                    match table {
                        Table::Usage => own.usage.extend(usage::from_batch(&batch).unwrap()),
                        Table::Rated => rated::from_batch(&batch).unwrap().iter().for_each(|row| own.rated(row)),
                        Table::Quarantine => {
                            for row in quarantine::from_batch(&batch).unwrap() {
                                *own.quarantine.entry(row.reason).or_default() += 1;
                            }
                        }
                    }
                }
                own.files.insert(name);
            }
        }
        own
    }

    fn rated(&mut self, row: &RatedRow) {
        let (contract, currency, supplier) = (&row.contract, &row.currency, &row.cell.supplier);
        let (of_renter, of_supplier) = (row.renter_amount.scaled(), row.supplier_amount.scaled());
        let key = format!("{contract} {currency}");
        let mut post = |account: String, amount: i128| *self.accounts.entry(account).or_default() += amount;
        post(format!("renter:{}:unbilled:{currency}", row.renter), of_renter);
        post(format!("platform:commission:{currency}"), of_renter - of_supplier);
        post(format!("supplier:{supplier}:payable:{currency}"), of_supplier);
        *self.renter.entry(key.clone()).or_default() += of_renter;
        *self.commission.entry(key.clone()).or_default() += of_renter - of_supplier;
        *self.supplier.entry(format!("{contract} {supplier} {currency}")).or_default() += of_supplier;
        let s = row.quantity.classes;
        let classes = [s.leased(), s.used, s.idle, s.unknown, s.maintenance, s.down, s.suspended, s.billed, s.paid];
        let sums = self.seconds.entry(key).or_default();
        sums.iter_mut().zip(classes).for_each(|(sum, seconds)| *sum += seconds);
    }

    /// As the readers print it.
    fn to_json(&self) -> Value {
        let text = |sums: &Sums| -> BTreeMap<String, String> {
            sums.iter().map(|(key, amount)| (key.clone(), amount.to_string())).collect()
        };
        let seconds = |mask: u64| u64::from(mask.count_ones());
        let minutes: Vec<UsageRow> = merged(self.usage.iter().cloned()).into_values().collect();
        json!({
            "renter": text(&self.renter),
            "commission": text(&self.commission),
            "supplier": text(&self.supplier),
            "accounts": text(&self.accounts),
            "seconds": self.seconds,
            "usage": {
                "minutes": minutes.iter().filter(|row| row.present != 0).count(),
                "present_s": minutes.iter().map(|row| seconds(row.present)).sum::<u64>(),
                "busy_s": minutes.iter().map(|row| seconds(row.busy)).sum::<u64>(),
                "present_s_by_column": self.usage.iter().map(|row| seconds(row.present)).sum::<u64>(),
                "busy_s_by_column": self.usage.iter().map(|row| seconds(row.busy)).sum::<u64>(),
            },
            "quarantine": self.quarantine,
            "rows": self.rows,
        })
    }
}

fn without_zeros(sums: &Sums) -> Sums {
    sums.iter().filter(|(_, amount)| **amount != 0).map(|(key, amount)| (key.clone(), *amount)).collect()
}

/// What the oracle knows, in the readers' words: renter, commission, supplier; and the seconds of each contract.
fn truth_sums(outcome: &Outcome) -> ([Sums; 3], BTreeMap<String, [i64; 9]>) {
    let [mut renter, mut commission, mut supplier] = [Sums::new(), Sums::new(), Sums::new()];
    let mut currencies = BTreeMap::new();
    for charge in &outcome.truth.charges {
        let (contract, currency) = (&charge.contract, &charge.currency);
        currencies.insert(contract.clone(), currency.clone());
        *renter.entry(format!("{contract} {currency}")).or_default() += charge.renter_amount_e9;
        *commission.entry(format!("{contract} {currency}")).or_default() += charge.commission_e9;
        for part in &charge.suppliers {
            *supplier.entry(format!("{contract} {} {currency}", part.supplier)).or_default() += part.amount_e9;
        }
    }
    let mut seconds: BTreeMap<String, [i64; 9]> = BTreeMap::new();
    for s in &outcome.truth.seconds {
        let classes = [s.leased(), s.used, s.idle, s.unknown, s.maintenance, s.down, s.suspended, s.billed, s.paid];
        let sums = seconds.entry(format!("{} {}", s.contract, currencies[&s.contract])).or_default();
        sums.iter_mut().zip(classes).for_each(|(sum, seconds)| *sum += seconds as i64);
    }
    ([renter, commission, supplier].map(|sums| without_zeros(&sums)), seconds)
}

/// Renter amounts and commission per contract and currency, as `hydrometer sql` prints them.
fn sums_by_sql(deployment: &Deployment) -> (Sums, Sums) {
    let config = deployment.write_config(&deployment.config());
    let query =
        "SELECT contract, currency, sum(renter_amount), sum(commission) FROM rated_usage GROUP BY contract, currency";
    let output = Command::new(env!("CARGO_BIN_EXE_hydrometer"))
        .args(["--config", &config.display().to_string(), "sql", "--format", "csv", query])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (mut renter, mut commission) = (Sums::new(), Sums::new());
    for line in String::from_utf8(output.stdout).unwrap().lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        // All nine decimals are printed, so without the point it is a whole number of 1e-9.
        let nanos = |text: &str| text.replace('.', "").parse::<i128>().unwrap();
        let key = format!("{} {}", fields[0], fields[1]);
        renter.insert(key.clone(), nanos(fields[2]));
        commission.insert(key, nanos(fields[3]));
    }
    (renter, commission)
}

async fn ledger_balances(deployment: &Deployment) -> Sums {
    let balances = ledger::balances(deployment.database().await.client_ref(), "", AsOf::Now).await.unwrap();
    // A renter's account is debited with what is owed to us; the others are credited with what they get.
    let owed = |account: &str, net: i128| if account.starts_with("renter:") { net } else { -net };
    let sums = balances.into_iter().map(|balance| {
        let name = balance.account.spec.name.clone();
        let amount = owed(&name, balance.net.nanos());
        (name, amount)
    });
    without_zeros(&sums.collect())
}

/// Every reader, the manifest, the ledger and the oracle, over one deployment whose logs have ended.
async fn assert_readers_agree(deployment: &Deployment, outcome: &Outcome) -> Own {
    let found: Found = deployment.found().await;
    assert_eq!((found.unpublished_files, found.open_requests), (0, 0), "nothing is owed");
    let own = Own::read(&deployment.warehouse()).await;
    let expected = own.to_json();

    let folder = deployment.path("warehouse");
    let sums = read_with_python("sums.py", &folder);
    for reader in ["duckdb", "pyarrow"] {
        for (what, value) in expected.as_object().unwrap() {
            assert_eq!(&sums[reader][what], value, "{what} by {reader} (left) and by us (right)");
        }
    }

    let (renter, commission) = sums_by_sql(deployment);
    assert_eq!((&own.renter, &own.commission), (&renter, &commission), "amounts: files, `hydrometer sql`");
    assert_eq!(without_zeros(&own.accounts), ledger_balances(deployment).await, "accounts: files, ledger");
    let (truth, seconds) = truth_sums(outcome);
    for (what, (own, truth)) in ["renter", "commission", "supplier"]
        .into_iter()
        .zip([&own.renter, &own.commission, &own.supplier].into_iter().zip(&truth))
    {
        assert_eq!(&without_zeros(own), truth, "{what}: files, oracle");
    }
    let some = |seconds: &BTreeMap<String, [i64; 9]>| -> BTreeMap<String, [i64; 9]> {
        seconds.iter().filter(|(_, sums)| **sums != [0; 9]).map(|(key, sums)| (key.clone(), *sums)).collect()
    };
    assert_eq!(some(&own.seconds), some(&seconds), "seconds: files, oracle");

    let minutes = &expected["usage"];
    assert_eq!(minutes["minutes"], json!(outcome.truth.metered_minutes));
    assert_eq!(minutes["minutes"], json!(found.metered_minutes));
    assert_eq!(minutes["present_s"], json!(found.present_seconds));
    assert_eq!(minutes["present_s_by_column"], minutes["present_s"], "a second of a GPU is in one revision only");
    assert_eq!(own.quarantine, found.quarantine);
    assert_eq!(own.rows["rated_usage"], found.rated_records);
    own
}

/// The files themselves, and that a glob finds the published ones of the manifest and no other.
async fn assert_files_are_sound(deployment: &Deployment) -> Vec<String> {
    let report = read_with_python("files.py", &deployment.path("warehouse"));
    let wrong = report["wrong"].as_array().unwrap();
    let shown: Vec<&str> = wrong.iter().take(20).filter_map(Value::as_str).collect();
    assert!(wrong.is_empty(), "{} things are wrong:\n{}", wrong.len(), shown.join("\n"));
    let texts = |value: &Value| -> Vec<String> {
        value.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    };
    let listed: BTreeSet<String> = texts(&report["files"]).into_iter().collect();
    let files = manifest::all_files(deployment.database().await.client_ref()).await.unwrap();
    let published = files.into_iter().filter(|(_, published)| *published).map(|(file, _)| file.name).collect();
    assert_eq!(listed, published, "a glob (left) and the manifest (right)");
    texts(&report["corrected_hours"])
}

/// A few small fleets: one never speaks, so that there is no usage at all, and one runs over a month's edge, and so into another `date=`.
#[tokio::test]
async fn small_fleets_read_the_same_from_outside() {
    let over_the_edge = |seed: &u64| {
        let plan = Plan::small(*seed);
        plan.end_us().div_euclid(86_400_000_000) > plan.start_us.div_euclid(86_400_000_000)
    };
    let edge = (0..).find(over_the_edge).unwrap();
    for seed in [2, 17, edge] {
        let deployment = Deployment::new(&format!("readers_{seed}")).await;
        let (outcome, _) = run_fleet(&deployment, &Plan::small(seed), Cuts::plain()).await;
        assert_proven(&deployment, &outcome, &format!("seed {seed}")).await;
        assert_readers_agree(&deployment, &outcome).await;
        assert_files_are_sound(&deployment).await;
    }
}

/// Readings and events that come hours late: several hours get corrections, and sums over all revisions stay right.
#[tokio::test]
async fn corrections_over_several_hours_read_the_same_from_outside() {
    let base = Plan::small(5);
    let faults = base.faults.clone().with(Fault::VeryLateEvent, 0.3);
    let plan = Plan {
        seconds: 3 * 3_600 + 1_234,
        servers: 4,
        gpus_per_server: 2,
        renters: 4,
        suppliers: 3,
        telemetry_partitions: 3,
        faults,
        ..base
    };
    let deployment = Deployment::new("readers_corrections").await;
    let (outcome, summary) = run_fleet(&deployment, &plan, Cuts::plain()).await;
    assert_proven(&deployment, &outcome, "the corrected fleet").await;
    assert!(summary.counts.late > 0 && deployment.found().await.corrections > 0, "{summary:?}");
    let own = assert_readers_agree(&deployment, &outcome).await;
    assert!(own.rows.values().all(|rows| *rows > 0) && own.quarantine.len() > 1, "{:?} {:?}", own.rows, own.quarantine);
    let corrected = assert_files_are_sound(&deployment).await;
    assert!(corrected.len() >= 3, "only these hours have corrections: {corrected:?}");
}
