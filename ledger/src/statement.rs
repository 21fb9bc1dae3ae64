//! Statements of an account: opening + lines = closing.

use chrono::{DateTime, Utc};
use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Portal, Row};
use uuid::Uuid;

use crate::balance::balance_before;
use crate::read::{Account, amount_at, require_snapshot};
use crate::{Amount, By, LedgerError, TransactionId};

/// A place among the entries of one account. Later bookings are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub booked_at: DateTime<Utc>,
    /// The number of the entry on this account, from 1, without gaps.
    pub entry: i64,
}

/// One entry of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatementLine {
    pub place: Place,
    pub effective_at: DateTime<Utc>,
    /// Positive for a debit.
    pub change: Amount,
    /// Debits less credits after it, in the order in which the lines are read.
    pub balance: Amount,
    /// The name of the account on the other side.
    pub counterpart: String,
    pub transaction: TransactionId,
    /// Its line in the transaction, from 1.
    pub line: i32,
    pub kind: String,
    pub description: String,
    pub corrects: Option<TransactionId>,
    pub reverses: Option<TransactionId>,
}

/// At most `limit` entries of an account after a place and booked before a time, in the order of booking. The next page
/// starts after the place of the last line of this one; entry 0 is before all that were booked at a time. A few index
/// lookups a line, however many entries there are; what was booked in the same set is read with it.
pub async fn statement_page(
    client: &impl GenericClient,
    account: &str,
    after: Place,
    until: DateTime<Utc>,
    limit: u32,
) -> Result<Vec<StatementLine>, LedgerError> {
    let sql = lines(
        "select e.*
         from ledger.account a
         cross join lateral ledger.entries(
             a.id, $2, least($4, ledger.landmark_after(a.id, $2, $5))) e
         where a.name = $1 and (e.booked_at, e.number) > ($2, $3) order by e.booked_at, e.number limit $5",
        "e.booked_at, e.number",
    );
    let limit = i64::from(limit);
    let rows = client
        .query_typed(
            &sql,
            &[
                (&account, Type::TEXT),
                (&after.booked_at, Type::TIMESTAMPTZ),
                (&after.entry, Type::INT8),
                (&until, Type::TIMESTAMPTZ),
                (&limit, Type::INT8),
            ],
        )
        .await
        .map_err(LedgerError::database("reading a statement"))?;
    rows.iter().map(line_of).collect()
}

/// The statement of an account over the times from `from` to before `to`. Its lines are read page by page, and add up:
/// an error says when they do not. By booking time each line is held to the balance that was stored with its movement. By
/// effective time there is none, and opening and closing are worked out from entries like the lines are, so only
/// `verify` finds an entry that was forged.
pub struct Statement<'a> {
    tx: &'a tokio_postgres::Transaction<'a>,
    pub account: Account,
    pub by: By,
    pub from: DateTime<Utc>,
    pub to: DateTime<Utc>,
    /// Debits less credits of everything before `from`.
    pub opening: Amount,
    /// Debits less credits of everything before `to`.
    pub closing: Amount,
    source: Source,
    /// After the lines that were read.
    balance: Amount,
    ended: bool,
}

enum Source {
    /// By booking time: pages by place.
    After(Place),
    /// By effective time: there is no index in this order, so it is sorted once and read in portions.
    Portal(Portal),
}

impl<'a> Statement<'a> {
    /// Opens the statement of an account; nothing when there is no such account. The database transaction must be
    /// REPEATABLE READ, so that all pages are of one moment.
    pub async fn open(
        tx: &'a tokio_postgres::Transaction<'a>,
        account: &str,
        by: By,
        from: DateTime<Utc>,
        to: DateTime<Utc>,
    ) -> Result<Option<Statement<'a>>, LedgerError> {
        require_snapshot(tx, "a statement").await?;
        if from > to {
            return Err(LedgerError::Invalid {
                what: format!("there is no statement of {account}"),
                detail: format!("it would begin at {from} and end before, at {to}"),
                hint: "Give the earlier time first",
            });
        }
        let Some(opening) = balance_before(tx, account, by, from).await? else { return Ok(None) };
        let closing = balance_before(tx, account, by, to).await?.map_or(Amount::ZERO, |balance| balance.net);
        let source = match by {
            By::Booked => Source::After(Place { booked_at: from, entry: 0 }),
            By::Effective => Source::Portal(effective_portal(tx, opening.account.id, from, to).await?),
        };
        let balance = opening.net;
        Ok(Some(Statement {
            tx,
            account: opening.account,
            by,
            from,
            to,
            opening: balance,
            closing,
            source,
            balance,
            ended: false,
        }))
    }

    /// The next lines, at most `limit` (1 and more); none at the end.
    pub async fn next(&mut self, limit: u16) -> Result<Vec<StatementLine>, LedgerError> {
        let limit = limit.max(1);
        if self.ended {
            return Ok(Vec::new());
        }
        let mut lines = match &self.source {
            Source::After(place) => {
                statement_page(self.tx, &self.account.spec.name, *place, self.to, limit.into()).await?
            }
            Source::Portal(portal) => {
                let rows = self.tx.query_portal(portal, limit.into()).await;
                let rows = rows.map_err(LedgerError::database("reading a statement"))?;
                rows.iter().map(line_of).collect::<Result<_, LedgerError>>()?
            }
        };
        for line in &mut lines {
            let balance = self.balance.checked_add(line.change);
            match self.by {
                By::Booked if balance != Some(line.balance) => {
                    return Err(self.wrong(format!(
                        "entry {} changes {} by {} and leaves {}",
                        line.place.entry, self.balance, line.change, line.balance
                    )));
                }
                By::Booked => {}
                By::Effective => {
                    line.balance = balance.ok_or_else(|| self.wrong("a sum is beyond 1.7 × 10^29".to_owned()))?;
                }
            }
            self.balance = line.balance;
        }
        if let (Source::After(place), Some(last)) = (&mut self.source, lines.last()) {
            *place = last.place;
        }
        if lines.len() < usize::from(limit) {
            self.ended = true;
            if self.balance != self.closing {
                return Err(self.wrong(format!("its lines lead to {}, its closing is {}", self.balance, self.closing)));
            }
        }
        Ok(lines)
    }

    fn wrong(&self, detail: String) -> LedgerError {
        LedgerError::Unreadable {
            what: format!("the statement of {} does not add up", self.account.spec.name),
            detail,
            hint: "Entries or balances were changed by hand; `verify` names them",
        }
    }
}

async fn effective_portal(
    tx: &tokio_postgres::Transaction<'_>,
    account: i64,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
) -> Result<Portal, LedgerError> {
    // All that counts from a time on was booked from then on, unless it was posted ahead.
    let sql = lines(
        "select e.* from ledger.entries($1, $2, 'infinity') e where e.effective_at >= $2 and e.effective_at < $3
         union all
         select m.booked_at, m.posting, e.* from (
             select t.booked_at from ledger.transfer t
             where t.debit_account = $1 and t.booked_at < $2 and t.effective_at >= $2 and t.effective_at < $3
               and t.effective_at > t.booked_at
             union
             select t.booked_at from ledger.transfer t
             where t.credit_account = $1 and t.booked_at < $2 and t.effective_at >= $2 and t.effective_at < $3
               and t.effective_at > t.booked_at
         ) ahead
         join ledger.movement m on m.account = $1 and m.booked_at = ahead.booked_at
         cross join lateral ledger.entries_of(m) e
         where e.effective_at >= $2 and e.effective_at < $3",
        "e.effective_at, e.booked_at, e.number",
    );
    let types = [Type::INT8, Type::TIMESTAMPTZ, Type::TIMESTAMPTZ];
    let doing = LedgerError::database("opening a statement");
    let statement = tx.prepare_typed(&sql, &types).await.map_err(doing)?;
    tx.bind(&statement, &[&account, &from, &to]).await.map_err(LedgerError::database("opening a statement"))
}

/// With what stands on the first line of their transaction.
fn lines(entries: &str, order: &str) -> String {
    format!(
        "select e.booked_at, e.number, e.effective_at, e.change, e.balance, o.name, e.transaction, e.line,
                p.kind, p.description, p.corrects, p.reverses
         from ({entries}) e
         join ledger.account o on o.id = e.counterpart
         cross join lateral (
             select p.kind, p.description, p.corrects, p.reverses from ledger.transfer p
             where p.posting = e.posting and p.place = e.place and p.line = 1 and p.booked_at = e.booked_at limit 1
         ) p
         order by {order}"
    )
}

fn line_of(row: &Row) -> Result<StatementLine, LedgerError> {
    let id = |column: usize| row.get::<_, Option<Uuid>>(column).map(TransactionId);
    Ok(StatementLine {
        place: Place { booked_at: row.get(0), entry: row.get(1) },
        effective_at: row.get(2),
        change: amount_at(row, 3)?,
        balance: amount_at(row, 4)?,
        counterpart: row.get(5),
        transaction: TransactionId(row.get(6)),
        line: row.get(7),
        kind: row.get(8),
        description: row.get(9),
        corrects: id(10),
        reverses: id(11),
    })
}
