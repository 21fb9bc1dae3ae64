//! The journal: everything that was posted, as a text that other programs read.

mod csv;
mod hledger;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

use crate::read::{account_of, amount_at, require_snapshot, unreadable};
use crate::{Account, Amount, By, LedgerError};

/// How a journal is written. Both are UTF-8, with exact amounts of nine decimals and times in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalFormat {
    /// A line a transfer, under a line of column names (RFC 4180).
    Csv,
    /// A plain text journal for hledger 1.25 and later. Accounts and currencies are declared, accounts with their
    /// types, so `hledger check --strict` passes. The date is that of the effective time, the secondary date that of
    /// booking; the code is the kind; ids and exact times are tags. Characters that hledger would take for something
    /// else stand as `%` and their UTF-8 bytes in hexadecimal digits, and so does `%` itself.
    Hledger,
}

/// Rows that are read and written at a time.
const PAGE: i64 = 10_000;

/// A journal that is read in pieces, in the order of the sets posted; only a piece is in memory.
pub struct Journal<'a> {
    tx: &'a tokio_postgres::Transaction<'a>,
    format: JournalFormat,
    period: Option<Period>,
    next: Next,
    /// The transaction of the latest row, which a page may have cut.
    current: Option<Head>,
}

/// Only what has this time in the days from `from` to before `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    pub by: By,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
}

enum Next {
    Opening,
    /// Account declarations after this number.
    Accounts(i64),
    /// Transfers after this set, place and line.
    Transfers(i64, i32, i32),
    End,
}

/// What a transaction says as a whole.
struct Head {
    posting: i64,
    transaction: Uuid,
    booked_at: DateTime<Utc>,
    effective_at: DateTime<Utc>,
    kind: String,
    description: String,
    corrects: Option<Uuid>,
    reverses: Option<Uuid>,
    metadata: serde_json::Value,
}

struct Line {
    number: i32,
    debit: String,
    credit: String,
    amount: Amount,
    currency: String,
}

impl<'a> Journal<'a> {
    /// Opens the journal of a period, or the whole. The database transaction must be REPEATABLE READ, so that the
    /// pieces are of one moment.
    pub async fn open(
        tx: &'a tokio_postgres::Transaction<'a>,
        format: JournalFormat,
        period: Option<Period>,
    ) -> Result<Journal<'a>, LedgerError> {
        require_snapshot(tx, "a journal").await?;
        Ok(Journal { tx, format, period, next: Next::Opening, current: None })
    }

    /// The next piece of the text, which may end anywhere but within a line; nothing at the end.
    pub async fn next(&mut self) -> Result<Option<String>, LedgerError> {
        match (&self.next, self.format) {
            (Next::Opening, JournalFormat::Csv) => {
                self.next = Next::Transfers(0, 0, 0);
                Ok(Some(csv::opening()))
            }
            (Next::Opening, JournalFormat::Hledger) => {
                self.next = Next::Accounts(0);
                Ok(Some(hledger::opening(&self.currencies().await?)))
            }
            (Next::Accounts(after), _) => {
                let accounts = self.accounts(*after).await?;
                self.next = match accounts.last() {
                    Some(last) => Next::Accounts(last.id),
                    None => Next::Transfers(0, 0, 0),
                };
                Ok(Some(accounts.iter().map(hledger::account).collect()))
            }
            (Next::Transfers(posting, place, line), _) => {
                let rows = self.transfers((*posting, *place, *line)).await?;
                self.next = match rows.last() {
                    Some(row) => Next::Transfers(row.get(0), row.get(1), row.get(2)),
                    None => Next::End,
                };
                self.write(&rows).map(Some)
            }
            (Next::End, _) => Ok(None),
        }
    }

    fn write(&mut self, rows: &[Row]) -> Result<String, LedgerError> {
        let mut text = String::new();
        for row in rows {
            let line = line_of(row)?;
            if line.number == 1 {
                let head = head_of(row);
                if self.format == JournalFormat::Hledger {
                    text.push_str(&hledger::transaction(&head)?);
                }
                self.current = Some(head);
            }
            let head = self.current.as_ref().filter(|head| head.transaction == row.get::<_, Uuid>(3));
            let head =
                head.ok_or_else(|| unreadable(format!("transaction {} has no first line", row.get::<_, Uuid>(3))))?;
            match self.format {
                JournalFormat::Csv => csv::line(&mut text, head, &line),
                JournalFormat::Hledger => hledger::line(&mut text, &line),
            }
        }
        Ok(text)
    }

    async fn currencies(&self) -> Result<Vec<String>, LedgerError> {
        let rows = self
            .tx
            .query_typed("select distinct currency from ledger.account order by currency", &[])
            .await
            .map_err(LedgerError::database("reading the currencies"))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    async fn accounts(&self, after: i64) -> Result<Vec<Account>, LedgerError> {
        let rows = self
            .tx
            .query_typed(
                "select id, name, type, party, purpose, currency from ledger.account where id > $1 order by id limit $2",
                &[(&after, Type::INT8), (&PAGE, Type::INT8)],
            )
            .await
            .map_err(LedgerError::database("reading the accounts"))?;
        rows.iter().map(account_of).collect()
    }

    async fn transfers(&self, after: (i64, i32, i32)) -> Result<Vec<Row>, LedgerError> {
        let period = match self.period {
            None => "",
            Some(Period { by: By::Booked, .. }) => "and t.booked_at >= $5 and t.booked_at < $6",
            Some(Period { by: By::Effective, .. }) => "and t.effective_at >= $5 and t.effective_at < $6",
        };
        let sql = format!(
            "select t.posting, t.place, t.line, t.transaction, d.name, c.name, t.amount, t.currency, t.booked_at,
                    t.effective_at, t.kind, t.description, t.corrects, t.reverses, t.metadata
             from (
                 select t.* from ledger.transfer t
                 where (t.posting, t.place, t.line) > ($1, $2, $3) {period}
                 order by t.posting, t.place, t.line limit $4
             ) t
             join ledger.account d on d.id = t.debit_account
             join ledger.account c on c.id = t.credit_account
             order by t.posting, t.place, t.line"
        );
        let mut parameters: Vec<(&(dyn ToSql + Sync), Type)> =
            vec![(&after.0, Type::INT8), (&after.1, Type::INT4), (&after.2, Type::INT4), (&PAGE, Type::INT8)];
        if let Some(period) = &self.period {
            parameters.extend([(&period.from as _, Type::TIMESTAMPTZ), (&period.to as _, Type::TIMESTAMPTZ)]);
        }
        self.tx.query_typed(&sql, &parameters).await.map_err(LedgerError::database("reading the journal"))
    }
}

fn line_of(row: &Row) -> Result<Line, LedgerError> {
    Ok(Line {
        number: row.get(2),
        debit: row.get(4),
        credit: row.get(5),
        amount: amount_at(row, 6)?,
        currency: row.get(7),
    })
}

/// Of a first line.
fn head_of(row: &Row) -> Head {
    Head {
        posting: row.get(0),
        transaction: row.get(3),
        booked_at: row.get(8),
        effective_at: row.get(9),
        kind: row.get(10),
        description: row.get(11),
        corrects: row.get(12),
        reverses: row.get(13),
        metadata: row.get(14),
    }
}
