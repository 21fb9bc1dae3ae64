//! Months that leave the database: their transfers go to a file, and can still be proved.
//!
//! The crate gives the [`rows`] of a month in their order, and does not care for the format of the file. Whoever writes
//! it fills a [`Manifest`] from the same rows, reads the file back through [`verify_rows`], which holds it to the chain,
//! [`record`]s it, and then [`detach`]es the month. Ids, sets, links and balances stay in the database: a repeat of an id
//! is still a repeat, and what the accounts had at the end of the month is `ledger.archive_balance`.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use sha2::{Digest, Sha256};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{GenericClient, Row as DatabaseRow};
use uuid::Uuid;

use crate::{Amount, LedgerError, Violation};

/// A transfer as it stands in the ledger, with the names of its accounts. The last five fields belong to the transaction
/// and stand on its first line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub posting: i64,
    /// Of the transaction in its set, and of the transfer in its transaction; both from 1.
    pub place: i32,
    pub line: i32,
    pub transaction: Uuid,
    pub debit: String,
    pub credit: String,
    pub amount: Amount,
    pub currency: String,
    pub effective_at: DateTime<Utc>,
    pub booked_at: DateTime<Utc>,
    pub kind: Option<String>,
    pub description: Option<String>,
    pub corrects: Option<Uuid>,
    pub reverses: Option<Uuid>,
    /// JSON, to the letter as PostgreSQL prints it: it is hashed so.
    pub metadata: Option<String>,
}

/// Where a row stands among those of its month: set, place and line.
pub type Key = (i64, i32, i32);

impl Row {
    pub fn key(&self) -> Key {
        (self.posting, self.place, self.line)
    }

    /// `canonical::LINE_TEXT`.
    fn line_text(&self) -> String {
        let mut text = format!(
            "{}\t{}\t{}\t{}\t{}\t{}\t{}",
            self.transaction,
            self.line,
            self.debit,
            self.credit,
            nine_decimals(self.amount),
            self.currency,
            seconds(self.effective_at)
        );
        if self.line == 1 {
            let (kind, description) = (self.kind.as_deref(), self.description.as_deref());
            let id = |id: Option<Uuid>| id.map(|id| id.to_string()).unwrap_or_default();
            for field in [
                kind.unwrap_or_default(),
                &id(self.corrects),
                &id(self.reverses),
                self.metadata.as_deref().unwrap_or_default(),
                description.unwrap_or_default(),
            ] {
                text.push('\t');
                text.push_str(field);
            }
        }
        text
    }

    /// `canonical::BOOKING_TEXT`.
    fn booking_text(&self) -> String {
        format!("{}\t{}\t{}\n", self.posting, self.place, seconds(self.booked_at))
    }
}

/// Seconds since 1970 with six decimals.
fn seconds(time: DateTime<Utc>) -> String {
    let micros = time.timestamp_micros();
    let sign = if micros < 0 { "-" } else { "" };
    let micros = micros.unsigned_abs();
    format!("{sign}{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

fn nine_decimals(amount: Amount) -> String {
    let nanos = amount.nanos();
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    format!("{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// The rows of a month after a key (from the beginning for none), in the order of their keys, `limit` at most. Read them
/// in one REPEATABLE READ transaction, or of a month that is over.
pub async fn rows(
    client: &impl GenericClient,
    month: NaiveDate,
    after: Option<Key>,
    limit: i64,
) -> Result<Vec<Row>, LedgerError> {
    let (posting, place, line) = after.unwrap_or((i64::MIN, 0, 0));
    let parameters: [(&(dyn ToSql + Sync), Type); 5] =
        [(&month, Type::DATE), (&posting, Type::INT8), (&place, Type::INT4), (&line, Type::INT4), (&limit, Type::INT8)];
    let rows = client
        .query_typed(
            "select t.posting, t.place, t.line, t.transaction, d.name, c.name, t.amount, t.currency, t.effective_at, t.booked_at,
                    t.kind, t.description, t.corrects, t.reverses, t.metadata::text
             from ledger.transfer t
             join ledger.account d on d.id = t.debit_account
             join ledger.account c on c.id = t.credit_account
             where t.booked_at >= $1::timestamp at time zone 'UTC' and t.booked_at < ($1 + interval '1 month') at time zone 'UTC'
               and t.posting >= $2 and (t.posting, t.place, t.line) > ($2, $3, $4)
             order by t.posting, t.place, t.line limit $5",
            &parameters,
        )
        .await
        .map_err(LedgerError::database("reading the rows of a month"))?;
    Ok(rows.iter().map(read).collect())
}

fn read(row: &DatabaseRow) -> Row {
    Row {
        posting: row.get(0),
        place: row.get(1),
        line: row.get(2),
        transaction: row.get(3),
        debit: row.get(4),
        credit: row.get(5),
        amount: row.get(6),
        currency: row.get(7),
        effective_at: row.get(8),
        booked_at: row.get(9),
        kind: row.get(10),
        description: row.get(11),
        corrects: row.get(12),
        reverses: row.get(13),
        metadata: row.get(14),
    }
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The first day of the month.
    pub month: NaiveDate,
    /// Where the file is.
    pub name: String,
    pub rows: i64,
    /// Of the file's bytes.
    pub sha256: [u8; 32],
    /// Debits and credits of each account in the month, by name.
    pub sums: BTreeMap<String, (Amount, Amount)>,
}

impl Manifest {
    pub fn new(month: NaiveDate, name: &str) -> Self {
        Manifest { month, name: name.to_owned(), rows: 0, sha256: [0; 32], sums: BTreeMap::new() }
    }

    /// Counts a row that was written.
    ///
    /// # Errors
    /// A sum beyond what an amount can be.
    pub fn add(&mut self, row: &Row) -> Result<(), LedgerError> {
        self.rows += 1;
        for (name, debit, credit) in [(&row.debit, row.amount, Amount::ZERO), (&row.credit, Amount::ZERO, row.amount)] {
            let sums = self.sums.entry(name.clone()).or_insert((Amount::ZERO, Amount::ZERO));
            let sum = sums.0.checked_add(debit).zip(sums.1.checked_add(credit));
            *sums = sum.ok_or_else(|| LedgerError::Unreadable {
                what: format!("the transfers of {name} cannot be added up"),
                detail: "their sum is beyond 1.7 × 10^29".to_owned(),
                hint: "Add up parts of them",
            })?;
        }
        Ok(())
    }
}

/// A month that something was booked in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Month {
    /// Its first day.
    pub month: NaiveDate,
    pub state: MonthState,
    pub sets: i64,
    pub transfers: i64,
    /// Name and SHA-256 (in hex) of the file that was recorded.
    pub file: Option<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MonthState {
    /// In the database.
    Attached,
    /// The same, and in a file that was recorded.
    Recorded,
    /// In the file alone.
    Detached,
}

/// The months in which something was booked, in order.
pub async fn months(client: &impl GenericClient) -> Result<Vec<Month>, LedgerError> {
    let rows = client
        .query_typed(
            "select m.month, m.sets, m.transfers, a.name, encode(a.sha256, 'hex'), d.month is not null
             from (
                 select date_trunc('month', p.booked_at at time zone 'UTC')::date as month, count(*) as sets,
                        sum(p.transfers)::bigint as transfers
                 from ledger.posting p group by 1
             ) m
             left join ledger.archive a on a.month = m.month
             left join ledger.detached d on d.month = m.month
             order by m.month",
            &[],
        )
        .await
        .map_err(LedgerError::database("reading the months"))?;
    let months = rows.iter().map(|row| {
        let file = row.get::<_, Option<String>>(3).zip(row.get(4));
        let state = match (&file, row.get(5)) {
            (_, true) => MonthState::Detached,
            (Some(_), false) => MonthState::Recorded,
            (None, false) => MonthState::Attached,
        };
        Month { month: row.get(0), state, sets: row.get(1), transfers: row.get(2), file }
    });
    Ok(months.collect())
}

/// Records the file of a month, as the ledger's owner.
///
/// # Errors
/// [`LedgerError::Rejected`] when the month is not over, not the earliest one, not wholly chained and under an anchor, or
/// adds up to something else.
pub async fn record(client: &impl GenericClient, manifest: &Manifest) -> Result<(), LedgerError> {
    let names: Vec<&str> = manifest.sums.keys().map(String::as_str).collect();
    let (debits, credits): (Vec<Amount>, Vec<Amount>) = manifest.sums.values().copied().unzip();
    let sha256: &[u8] = &manifest.sha256;
    let parameters: [(&(dyn ToSql + Sync), Type); 7] = [
        (&manifest.month, Type::DATE),
        (&manifest.name, Type::TEXT),
        (&manifest.rows, Type::INT8),
        (&sha256, Type::BYTEA),
        (&names, Type::TEXT_ARRAY),
        (&debits, Type::NUMERIC_ARRAY),
        (&credits, Type::NUMERIC_ARRAY),
    ];
    client
        .query_typed("select ledger.record_archive($1, $2, $3, $4, $5, $6, $7)", &parameters)
        .await
        .map_err(LedgerError::database("recording the file of a month"))?;
    Ok(())
}

/// Takes a recorded month out of the database, as the ledger's owner; its transfers are then only in the file. Waits for
/// those who post, and they wait for it.
pub async fn detach(client: &impl GenericClient, month: NaiveDate) -> Result<(), LedgerError> {
    client
        .query_typed("select ledger.detach($1)", &[(&month, Type::DATE)])
        .await
        .map_err(LedgerError::database("detaching a month"))?;
    Ok(())
}

/// Holds the rows of a file, in the order of their keys, to the chain: every set of the month is there as it was chained,
/// and nothing else. That the chain is sound and reaches the anchors, [`crate::verify`] shows. A violation's subject is
/// the transaction or the set.
pub async fn verify_rows<E>(
    client: &impl GenericClient,
    month: NaiveDate,
    rows: impl IntoIterator<Item = Result<Row, E>>,
) -> Result<Vec<Violation>, LedgerError>
where
    LedgerError: From<E>,
{
    const SETS: usize = 256;
    let mut found = Vec::new();
    let mut sets: Vec<Set> = Vec::new();
    let (mut seen, mut last) = (0, None);
    for row in rows {
        let row = row?;
        if last.is_some_and(|last| row.key() <= last) {
            found.push(violation(format!("transaction {}", row.transaction), "it is out of order, or there twice"));
            continue;
        }
        last = Some(row.key());
        if sets.last().is_none_or(|set| set.number != row.posting) {
            if sets.len() == SETS {
                seen += compare(client, month, &mut sets, &mut found).await?;
            }
            sets.push(Set { number: row.posting, transactions: Vec::new(), booked: Sha256::new() });
        }
        if let Some(set) = sets.last_mut() {
            set.add(&row);
        }
    }
    seen += compare(client, month, &mut sets, &mut found).await?;
    let count = client
        .query_typed(&format!("select count(*) from ledger.posting p where {IN_MONTH}"), &[(&month, Type::DATE)])
        .await
        .map_err(LedgerError::database("counting the sets of a month"))?;
    let expected: i64 = count.first().map_or(0, |row| row.get(0));
    if seen != expected {
        found.push(violation(format!("month {month}"), &format!("the file holds {seen} of its {expected} sets")));
    }
    Ok(found)
}

const IN_MONTH: &str = "p.booked_at >= $1::timestamp at time zone 'UTC' \
                        and p.booked_at < ($1 + interval '1 month') at time zone 'UTC'";

/// A set as a file has it.
struct Set {
    number: i64,
    transactions: Vec<Whole>,
    booked: Sha256,
}

/// A transaction as a file has it.
struct Whole {
    place: i32,
    id: Uuid,
    /// The SHA-256 of the first line, and that over the SHA-256 of all lines.
    first: [u8; 32],
    all: Sha256,
    lines: usize,
}

impl Whole {
    fn digest(self) -> [u8; 32] {
        if self.lines == 1 { self.first } else { self.all.finalize().into() }
    }
}

impl Set {
    fn add(&mut self, row: &Row) {
        let hash: [u8; 32] = Sha256::digest(row.line_text()).into();
        self.booked.update(hash);
        self.booked.update(row.booking_text());
        match self.transactions.last_mut() {
            Some(whole) if whole.place == row.place => {
                whole.all.update(hash);
                whole.lines += 1;
            }
            _ => self.transactions.push(Whole {
                place: row.place,
                id: row.transaction,
                first: hash,
                all: Sha256::new().chain_update(hash),
                lines: 1,
            }),
        }
    }
}

/// Compares sets with their links, and forgets them; says how many of them belong to the month.
async fn compare(
    client: &impl GenericClient,
    month: NaiveDate,
    sets: &mut Vec<Set>,
    found: &mut Vec<Violation>,
) -> Result<i64, LedgerError> {
    let numbers: Vec<i64> = sets.iter().map(|set| set.number).collect();
    let links = client
        .query_typed(
            &format!(
                "select p.number, l.digests, l.content from ledger.posting p join ledger.link l on l.posting = p.number
                 where p.number = any ($2) and {IN_MONTH}"
            ),
            &[(&month, Type::DATE), (&numbers, Type::INT8_ARRAY)],
        )
        .await
        .map_err(LedgerError::database("reading the chain of a month"))?;
    let links: BTreeMap<i64, (&[u8], &[u8])> = links.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect();
    for set in sets.drain(..) {
        let Some((digests, content)) = links.get(&set.number) else {
            found.push(violation(format!("set {}", set.number), "the month has no such set that is chained"));
            continue;
        };
        let chained: Vec<&[u8]> = digests.chunks(16).collect();
        let mut sound = chained.len() == set.transactions.len();
        for (n, whole) in set.transactions.into_iter().enumerate() {
            let (id, digest) = (whole.id, whole.digest());
            if !chained.contains(&&digest[..16]) {
                found.push(violation(format!("transaction {id}"), "it is not what was chained"));
            }
            sound &= chained.get(n) == Some(&&digest[..16]);
        }
        if !sound || set.booked.finalize()[..] != **content {
            found.push(violation(format!("set {}", set.number), "it is not what was chained"));
        }
    }
    Ok(i64::try_from(links.len()).unwrap_or(i64::MAX))
}

fn violation(subject: String, detail: &str) -> Violation {
    Violation { law: "the file holds what was chained".to_owned(), subject, detail: detail.to_owned() }
}
