//! Months that left the database: what was in them is still proved, and their ids are still taken.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Datelike, NaiveDate, Utc};
use common::{Database, chain_all, post, transaction, transfer};
use hydrometer_ledger::archive::{self, Manifest, Row};
use hydrometer_ledger::{AsOf, LedgerError, Outcome, anchor, balances, verify};
use sha2::{Digest, Sha256};
use tokio_postgres::Client;

/// Two sets of the month before this one, and one of this month. Time cannot be turned back, so a superuser shifts what
/// was just posted, before anything is chained.
async fn book() -> (Database, Client, Client, NaiveDate) {
    let database = Database::create().await;
    let mut app = database.app().await;
    let owner = database.owner().await;
    let superuser = database.superuser().await;
    let month = (Utc::now().date_naive().with_day(1).unwrap()).pred_opt().unwrap().with_day(1).unwrap();
    let old = [
        transaction("one", vec![transfer("x", "y", 5), transfer("y", "z", -(-6_i128))]),
        transaction("two\twith a tab", vec![transfer("x", "y", 123_456_789_012_345)]),
    ];
    post(&mut app, &old).await.unwrap();
    post(&mut app, &[transaction("three", vec![transfer("z", "x", 1)])]).await.unwrap();
    let turn_back = include_str!("common/turn_back.sql")
        .replace("{month}", &month.to_string())
        .replace("{partition}", &month.format("_%Y_%m").to_string())
        .replace("{app_role}", &database.app_role());
    superuser.batch_execute(&turn_back).await.unwrap();
    post(&mut app, &[transaction("four", vec![transfer("x", "y", 2)])]).await.unwrap();
    assert_eq!(verify(&app).await.unwrap(), []);
    (database, app, owner, month)
}

/// The second representation: a file of JSON lines, read back by code that knows nothing of the database.
async fn write(client: &Client, month: NaiveDate) -> (PathBuf, Manifest) {
    let path = std::env::temp_dir().join(format!("ledger-archive-{}-{}", std::process::id(), rand()));
    let mut manifest = Manifest::new(month, path.to_str().unwrap());
    let mut file = std::fs::File::create(&path).unwrap();
    let mut after = None;
    loop {
        // Pages of two, so that pages are tested.
        let page = archive::rows(client, month, after, 2).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.key());
        for row in &page {
            manifest.add(row).unwrap();
            writeln!(file, "{}", to_line(row)).unwrap();
        }
    }
    manifest.sha256 = Sha256::digest(std::fs::read(&path).unwrap()).into();
    (path, manifest)
}

fn rand() -> u32 {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn to_line(row: &Row) -> String {
    serde_json::json!([
        row.posting,
        row.place,
        row.line,
        row.transaction.to_string(),
        row.debit,
        row.credit,
        row.amount.to_string(),
        row.currency,
        row.effective_at.to_rfc3339(),
        row.booked_at.to_rfc3339(),
        row.kind,
        row.description,
        row.corrects.map(|id| id.to_string()),
        row.reverses.map(|id| id.to_string()),
        row.metadata
    ])
    .to_string()
}

fn from_line(line: &str) -> Row {
    let value: serde_json::Value = serde_json::from_str(line).unwrap();
    let text = |n: usize| value[n].as_str().map(str::to_owned);
    let time = |n: usize| text(n).unwrap().parse::<DateTime<Utc>>().unwrap();
    let number = |n: usize| value[n].as_i64().unwrap();
    Row {
        posting: number(0),
        place: number(1) as i32,
        line: number(2) as i32,
        transaction: text(3).unwrap().parse().unwrap(),
        debit: text(4).unwrap(),
        credit: text(5).unwrap(),
        amount: text(6).unwrap().parse().unwrap(),
        currency: text(7).unwrap(),
        effective_at: time(8),
        booked_at: time(9),
        kind: text(10),
        description: text(11),
        corrects: text(12).map(|id| id.parse().unwrap()),
        reverses: text(13).map(|id| id.parse().unwrap()),
        metadata: text(14),
    }
}

fn read(path: &Path) -> Vec<Row> {
    BufReader::new(std::fs::File::open(path).unwrap()).lines().map(|line| from_line(&line.unwrap())).collect()
}

/// What is wrong with these rows, as subjects.
async fn faults(client: &Client, month: NaiveDate, rows: Vec<Row>) -> Vec<String> {
    let rows = rows.into_iter().map(Ok::<Row, LedgerError>);
    archive::verify_rows(client, month, rows).await.unwrap().into_iter().map(|v| v.subject).collect()
}

#[tokio::test]
async fn a_month_leaves_and_is_still_proved() {
    let (database, mut app, owner, month) = book().await;
    let this_month = Utc::now().date_naive().with_day(1).unwrap();
    let refusal = |error: LedgerError| error.to_string();

    let (path, manifest) = write(&app, month).await;
    let error = refusal(archive::record(&owner, &manifest).await.unwrap_err());
    assert!(error.contains("not wholly under an anchor"), "{error}");
    chain_all(&app).await;
    let error = refusal(archive::record(&owner, &manifest).await.unwrap_err());
    assert!(error.contains("not wholly under an anchor"), "{error}");
    anchor::export(&app).await.unwrap();
    let error = refusal(archive::record(&owner, &Manifest::new(this_month, "here")).await.unwrap_err());
    assert!(error.contains("is not over"), "{error}");
    let error = refusal(archive::detach(&owner, month).await.unwrap_err());
    assert!(error.contains("is not recorded"), "{error}");
    let error = archive::record(&app, &manifest).await.unwrap_err().to_string();
    assert!(error.contains("permission denied"), "{error}");

    let mut wrong = manifest.clone();
    wrong.rows += 1;
    assert!(refusal(archive::record(&owner, &wrong).await.unwrap_err()).contains("is not whole"));
    let mut wrong = manifest.clone();
    wrong.sums.values_mut().next().unwrap().0 = 1_i64.to_string().parse().unwrap();
    assert!(refusal(archive::record(&owner, &wrong).await.unwrap_err()).contains("adds up to something else"));

    assert_eq!(faults(&app, month, read(&path)).await, Vec::<String>::new());
    archive::record(&owner, &manifest).await.unwrap();
    archive::detach(&owner, month).await.unwrap();
    // The trace of it is chained as well.
    chain_all(&app).await;
    assert_eq!(verify(&app).await.unwrap(), []);
    assert_eq!(archive::rows(&app, month, None, 10).await.unwrap(), []);
    // What cannot be told any more is not told wrong.
    let then = month.and_time(chrono::NaiveTime::MIN).and_utc();
    for at in [AsOf::Booked(then), AsOf::Effective("2025-01-01T00:00:00Z".parse().unwrap())] {
        let error = balances(&app, "", at).await.unwrap_err().to_string();
        assert!(error.contains("were detached"), "{error}");
    }
    assert_eq!(faults(&app, month, read(&path)).await, Vec::<String>::new());

    // Ids of the month are still taken, and the ledger still knows what they said.
    let one = transaction("one", vec![transfer("x", "y", 5), transfer("y", "z", 6)]);
    assert_eq!(post(&mut app, std::slice::from_ref(&one)).await.unwrap(), [Outcome::Repeated]);
    for change in 0..4 {
        let mut other = one.clone();
        match change {
            0 => other.description.push('.'),
            1 => other.transfers[1] = transfer("y", "z", 7),
            2 => other.transfers.truncate(1),
            _ => other.effective_at += chrono::Duration::microseconds(1),
        }
        let error = post(&mut app, &[other]).await.unwrap_err();
        assert!(matches!(error, LedgerError::Conflict(_)), "{change}: {error}");
    }
    post(&mut app, &[transaction("five", vec![transfer("y", "x", 3)])]).await.unwrap();
    assert_eq!(verify(&app).await.unwrap(), []);
    std::fs::remove_file(path).unwrap();
    drop((app, owner));
    database.drop().await;
}

/// A set that was under way when its month was recorded would be in no file.
#[tokio::test]
async fn a_month_that_is_not_what_was_recorded_stays() {
    let (database, app, owner, month) = book().await;
    chain_all(&app).await;
    anchor::export(&app).await.unwrap();
    let (path, manifest) = write(&app, month).await;
    archive::record(&owner, &manifest).await.unwrap();
    let late = format!(
        "select set_config('ledger.posting', 'on', false);
         select ledger.open_accounts(array['p','q'], array['asset','asset'], array['p','q'], array['u','u'], array['USD','USD']);
         select set_config('ledger.posting', 'on', false);
         insert into ledger.transaction_id values ('{id}', 999, 1);
         select ledger.book('{month}'::timestamptz + interval '20 days', 999, a.ids, '{{USD,USD}}', '{{1}}', '{{{id}}}', '{{k}}', '{{2025-01-01Z}}',
                            '{{late}}', array[null]::uuid[], array[null]::uuid[], array['{{}}']::jsonb[], '{{1}}', '{{1}}', '{{2}}', '{{1}}')
         from (select array_agg(id order by id) as ids from ledger.account where name in ('p', 'q')) a;
         select set_config('ledger.posting', 'off', false)",
        id = uuid::Uuid::max(),
    );
    owner.batch_execute(&late).await.unwrap();
    chain_all(&app).await;
    anchor::export(&app).await.unwrap();
    let error = archive::detach(&owner, month).await.unwrap_err().to_string();
    assert!(error.contains("not what was recorded"), "{error}");
    assert_eq!(archive::rows(&app, month, None, 10).await.unwrap().len(), 5, "nothing was taken out");
    assert_eq!(verify(&app).await.unwrap(), []);
    std::fs::remove_file(path).unwrap();
    drop((app, owner));
    database.drop().await;
}

#[tokio::test]
async fn a_file_that_was_changed_is_found() {
    let (database, app, owner, month) = book().await;
    chain_all(&app).await;
    anchor::export(&app).await.unwrap();
    let (path, manifest) = write(&app, month).await;
    archive::record(&owner, &manifest).await.unwrap();
    archive::detach(&owner, month).await.unwrap();
    let rows = read(&path);
    assert_eq!(rows.len(), 4);
    let amount = |text: &str| text.parse().unwrap();
    type Change = Box<dyn Fn(&mut Vec<Row>)>;
    let changes: Vec<(&str, usize, Change)> = vec![
        ("amount", 0, Box::new(move |rows| rows[0].amount = amount("1"))),
        ("account", 1, Box::new(|rows| rows[1].credit = "renter:q:unbilled:USD".to_owned())),
        ("effective time", 0, Box::new(|rows| rows[0].effective_at += chrono::Duration::days(1))),
        ("booking time", 2, Box::new(|rows| rows[2].booked_at += chrono::Duration::microseconds(1))),
        ("description", 2, Box::new(|rows| rows[2].description = Some(String::new()))),
        ("metadata", 0, Box::new(|rows| rows[0].metadata = Some("{}".to_owned()))),
        ("place", 3, Box::new(|rows| rows[3].place += 1)),
        ("missing line", 0, Box::new(|rows| drop(rows.remove(1)))),
        ("missing transaction", 2, Box::new(|rows| drop(rows.remove(2)))),
        ("missing set", 3, Box::new(|rows| drop(rows.remove(3)))),
        ("row twice", 0, Box::new(|rows| rows.insert(1, rows[0].clone()))),
        ("order", 0, Box::new(|rows| rows.swap(0, 2))),
        ("set of another number", 3, Box::new(|rows| rows[3].posting += 100)),
    ];
    for (what, row, change) in changes {
        let mut changed = rows.clone();
        change(&mut changed);
        let found = faults(&app, month, changed).await;
        let (set, id) = (format!("set {}", rows[row].posting), rows[row].transaction.to_string());
        let named = |v: &String| v.contains(&set) || v.contains(&id) || v.contains("month");
        assert!(found.iter().any(named), "{what}: {found:?}");
    }
    std::fs::remove_file(path).unwrap();
    drop((app, owner));
    database.drop().await;
}
