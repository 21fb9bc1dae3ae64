//! Anchors: where the chain stood, to be kept elsewhere.
//!
//! A superuser can change rows and compute the whole chain again; what they cannot change is an anchor that somebody
//! else keeps. So what lies before an anchor is safe as soon as its file has left the machine; what lies after the last
//! one is chained, and could be rewritten whole; what lies after the head of the chain ([`status`] says how much) could
//! be changed alone. The time between anchors is up to whoever runs the ledger.

use std::fmt::Write;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Row};
use uuid::Uuid;

use crate::{Amount, LedgerError, chain};

/// Where the chain stood, and what the book added up to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The id of the book.
    pub book: Uuid,
    /// From 1.
    pub number: i64,
    pub made_at: DateTime<Utc>,
    pub made_by: String,
    /// Of each shard, from 0.
    pub heads: Vec<Head>,
    /// All that was posted, chained or not.
    pub transfers: i64,
    pub totals: Vec<Total>,
}

/// The last link of a shard; position 0 stands before the first one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub position: i64,
    pub hash: [u8; 32],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Total {
    pub currency: String,
    pub debits: Amount,
    pub credits: Amount,
}

/// How much is not yet under an anchor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// When this was asked, by the database's clock.
    pub at: DateTime<Utc>,
    /// Number and time of the last anchor on record.
    pub last: Option<(i64, DateTime<Utc>)>,
    /// Sets that are chained, and under no anchor.
    pub chained_only: i64,
    /// Sets that are not chained, and when the first of them was booked.
    pub unchained: i64,
    pub unchained_since: Option<DateTime<Utc>>,
}

impl Status {
    /// Whether the next anchor is due, when there is to be one every `interval`.
    pub fn is_due(&self, interval: TimeDelta) -> bool {
        self.last.is_none_or(|(_, made_at)| self.at - made_at >= interval)
    }
}

const COLUMNS: &str = "(select b.id from ledger.identity b), a.number, a.made_at, a.made_by, a.positions, a.hashes, a.transfers, \
                       a.currency, a.debits, a.credits";

/// Chains what can be chained, and makes an anchor of where the chain then stands. Outside of a transaction. Keep its
/// [`Anchor::to_json`] on another machine.
pub async fn export(client: &impl GenericClient) -> Result<Anchor, LedgerError> {
    while chain::advance(client, 50_000).await? > 0 {}
    let rows = client
        .query_typed(&format!("select {COLUMNS} from ledger.make_anchor() a"), &[])
        .await
        .map_err(LedgerError::database("making an anchor"))?;
    rows.first().map_or_else(|| Err(unreadable("no anchor was made".to_owned())), read)
}

/// The anchors on record, oldest first.
pub async fn all(client: &impl GenericClient) -> Result<Vec<Anchor>, LedgerError> {
    let rows = client
        .query_typed(&format!("select {COLUMNS} from ledger.anchor a order by a.number"), &[])
        .await
        .map_err(LedgerError::database("reading the anchors"))?;
    rows.iter().map(read).collect()
}

pub async fn status(client: &impl GenericClient) -> Result<Status, LedgerError> {
    let rows = client
        .query_typed(
            "with head as (
                 select s.shard, coalesce(l.position, 0) as position, coalesce(l.xid, '0') as xid, coalesce(l.posting, 0) as posting
                 from generate_series(1, 4) as s (shard)
                 left join lateral (select * from ledger.link l where l.shard = s.shard order by l.position desc limit 1) l on true
             ),
             last as (select * from ledger.anchor order by number desc limit 1)
             select (select number from last), (select made_at from last),
                    (select sum(h.position - coalesce((select positions[h.shard + 1] from last), 0))::bigint from head h),
                    p.count, p.since, clock_timestamp()
             from (
                 select count(*) as count, min(p.booked_at) as since
                 from ledger.posting p join head h on h.shard = p.number % 4 + 1
                 where p.xid >= (select min(xid) from head) and (p.xid, p.number) > (h.xid, h.posting)
             ) p",
            &[],
        )
        .await
        .map_err(LedgerError::database("reading how far the chain is"))?;
    let row = rows.first().ok_or_else(|| unreadable("the chain has no state".to_owned()))?;
    Ok(Status {
        at: row.get(5),
        last: row.get::<_, Option<i64>>(0).zip(row.get::<_, Option<DateTime<Utc>>>(1)),
        chained_only: row.get(2),
        unchained: row.get(3),
        unchained_since: row.get(4),
    })
}

/// Why the ledger does not reach this anchor; nothing when it does. That its chain is what its rows make of it,
/// [`crate::verify`] shows.
pub(crate) async fn faults(client: &impl GenericClient, anchor: &Anchor) -> Result<Vec<String>, LedgerError> {
    let mut faults = Vec::new();
    let reading = LedgerError::database("reading the chain");
    let positions: Vec<i64> = anchor.heads.iter().map(|head| head.position).collect();
    let rows = client
        .query_typed(
            "select b.id, s.n, s.position, case when s.position = 0 then sha256(convert_to(b.id::text, 'UTF8')) else l.hash end
             from unnest($1) with ordinality as s (position, n)
             left join ledger.identity b on true
             left join ledger.link l on l.shard = s.n - 1 and l.position = s.position
             order by s.n",
            &[(&positions, Type::INT8_ARRAY)],
        )
        .await
        .map_err(reading)?;
    if let Some(other) = rows.iter().filter_map(|row| row.get::<_, Option<Uuid>>(0)).find(|book| *book != anchor.book) {
        return Ok(vec![format!("it is of the book {}; this is {other}", anchor.book)]);
    }
    for (row, head) in rows.iter().zip(&anchor.heads) {
        let (shard, position) = (row.get::<_, i64>(1) - 1, row.get::<_, i64>(2));
        match row.get::<_, Option<&[u8]>>(3) {
            Some(hash) if hash == head.hash => {}
            Some(hash) => {
                faults.push(format!(
                    "shard {shard}, link {position}: its hash was {}, and is {}",
                    hex(&head.hash),
                    hex(hash)
                ));
            }
            None => faults.push(format!("shard {shard}, link {position}: there is no such link")),
        }
    }
    // What is posted only grows.
    let rows = client
        .query_typed(
            "select b.currency, sum(b.debits), sum(b.credits) from ledger.account_balance b group by b.currency",
            &[],
        )
        .await
        .map_err(LedgerError::database("reading the totals"))?;
    for total in &anchor.totals {
        let now = rows.iter().find(|row| row.get::<_, &str>(0) == total.currency);
        let (debits, credits) = now.map_or((Amount::ZERO, Amount::ZERO), |row| (row.get(1), row.get(2)));
        if debits < total.debits || credits < total.credits {
            faults.push(format!(
                "{}: debits were {}, credits {}; they are {debits} and {credits}",
                total.currency, total.debits, total.credits
            ));
        }
    }
    Ok(faults)
}

impl Anchor {
    /// The file that is kept elsewhere.
    pub fn to_json(&self) -> String {
        let heads: Vec<Value> =
            self.heads.iter().map(|head| json!({ "position": head.position, "hash": hex(&head.hash) })).collect();
        let totals: Vec<Value> = self
            .totals
            .iter()
            .map(
                |t| json!({ "currency": t.currency, "debits": t.debits.to_string(), "credits": t.credits.to_string() }),
            )
            .collect();
        let file = json!({
            "book": self.book.to_string(), "number": self.number, "made_at": time(self.made_at), "made_by": self.made_by,
            "shards": heads, "transfers": self.transfers, "totals": totals, "sha256": self.checksum(),
        });
        format!("{file:#}\n")
    }

    /// Reads such a file.
    ///
    /// # Errors
    /// [`LedgerError::Unreadable`] names the field that is missing or wrong, or says that the file was changed.
    pub fn from_json(text: &str) -> Result<Anchor, LedgerError> {
        let file: Value = serde_json::from_str(text).map_err(|error| unreadable(format!("it is not JSON: {error}")))?;
        let field = |name: &str| unreadable(format!("its field {name:?} is missing or wrong"));
        let text = |value: &Value, name: &str| value[name].as_str().map(str::to_owned).ok_or_else(|| field(name));
        let number = |value: &Value, name: &str| value[name].as_i64().ok_or_else(|| field(name));
        let amount = |value: &Value, name: &str| text(value, name)?.parse().map_err(|_| field(name));
        let list = |name: &str| file[name].as_array().ok_or_else(|| field(name));
        let head = |value: &Value| {
            let hash = unhex(&text(value, "hash")?).ok_or_else(|| field("hash"))?;
            Ok(Head { position: number(value, "position")?, hash })
        };
        let total = |value: &Value| {
            let (debits, credits) = (amount(value, "debits")?, amount(value, "credits")?);
            Ok(Total { currency: text(value, "currency")?, debits, credits })
        };
        let anchor = Anchor {
            book: text(&file, "book")?.parse().map_err(|_| field("book"))?,
            number: number(&file, "number")?,
            made_at: text(&file, "made_at")?.parse().map_err(|_| field("made_at"))?,
            made_by: text(&file, "made_by")?,
            heads: list("shards")?.iter().map(head).collect::<Result<_, LedgerError>>()?,
            transfers: number(&file, "transfers")?,
            totals: list("totals")?.iter().map(total).collect::<Result<_, LedgerError>>()?,
        };
        if text(&file, "sha256")? != anchor.checksum() {
            return Err(unreadable("its fields do not make its checksum: it was damaged or changed".to_owned()));
        }
        Ok(anchor)
    }

    /// SHA-256 of its fields, each on a line of its own.
    fn checksum(&self) -> String {
        let mut lines =
            format!("{}\n{}\n{}\n{:?}\n{}\n", self.book, self.number, time(self.made_at), self.made_by, self.transfers);
        // Writing to a string cannot fail.
        for head in &self.heads {
            let _ = writeln!(lines, "{} {}", head.position, hex(&head.hash));
        }
        for total in &self.totals {
            let _ = writeln!(lines, "{} {} {}", total.currency, total.debits, total.credits);
        }
        hex(&Sha256::digest(lines))
    }
}

fn read(row: &Row) -> Result<Anchor, LedgerError> {
    let (positions, hashes): (Vec<i64>, Vec<Vec<u8>>) = (row.get(4), row.get(5));
    let heads = positions.into_iter().zip(hashes).map(|(position, hash)| {
        let hash = hash.try_into().map_err(|_| unreadable("a hash is not of 32 bytes".to_owned()))?;
        Ok(Head { position, hash })
    });
    let (currencies, debits, credits): (Vec<String>, Vec<Amount>, Vec<Amount>) = (row.get(7), row.get(8), row.get(9));
    let totals = currencies.into_iter().zip(debits.into_iter().zip(credits));
    Ok(Anchor {
        book: row.get(0),
        number: row.get(1),
        made_at: row.get(2),
        made_by: row.get(3),
        heads: heads.collect::<Result<_, LedgerError>>()?,
        transfers: row.get(6),
        totals: totals.map(|(currency, (debits, credits))| Total { currency, debits, credits }).collect(),
    })
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (n, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * n..2 * n + 2], 16).ok()?;
    }
    Some(hash)
}

fn unreadable(detail: String) -> LedgerError {
    LedgerError::Unreadable {
        what: "the anchor cannot be read".to_owned(),
        detail,
        hint: "Take the file as it was exported",
    }
}
