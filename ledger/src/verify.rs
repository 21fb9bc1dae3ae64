//! Proof: every invariant, computed again from the rows by statements of this crate, which trust no function of the
//! database.

mod functions;

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{GenericClient, Row};

use crate::anchor::Anchor;
use crate::canonical::fill;
use crate::{LedgerError, anchor};

/// A law that does not hold, and the row that breaks it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub law: String,
    /// The row, such as `account renter:R:unbilled:USD` or `transaction …, line 2`.
    pub subject: String,
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.law, self.subject, self.detail)
    }
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Of each law at most [`NAMED`] rows, and then how many more there are.
    pub violations: Vec<Violation>,
    /// What is allowed and worth knowing, such as a limit that was set below what was available.
    pub notes: Vec<String>,
}

/// How far a verification is: the check at hand, and how much of it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub check: &'static str,
    pub done: i64,
    pub of: i64,
}

/// How many rows are named of each law that is broken.
pub const NAMED: usize = 20;

/// About how many transfers are computed again at a time.
const STRETCH: i64 = 400_000;

/// No months are detached in a ledger that never archived: the usual case costs nothing.
const OPENING: &str = "select b.account, b.debits, b.credits, b.entries from ledger.archive_balance b
     where b.month = (select max(d.month) from ledger.detached d)";
const DETACHED: &str =
    "p.booked_at < (select max(d.month) + interval '1 month' from ledger.detached d) at time zone 'UTC'";
const ATTACHED: &str = "left join ledger.posting p on p.number = i.posting where ({detached}) is not true";

/// Checks every law: debits equal credits per currency; balances and movements follow from the entries; transfers are sound and transactions complete; reversals, holds, limits and metadata keep their rules; the
/// chain is what the rows make it, and reaches the anchors on record; triggers, privileges and functions are in place.
/// It sees one moment of a ledger in use. Nothing found, nothing wrong.
///
/// # Errors
/// A database that fails; or a transaction of the caller's that is not REPEATABLE READ, which would see many moments.
pub async fn verify(client: &impl GenericClient) -> Result<Vec<Violation>, LedgerError> {
    Ok(verify_with(client, &[], &mut |_| {}).await?.violations)
}

/// The same, against anchors that were kept elsewhere as well, telling how far it is.
pub async fn verify_with(
    client: &impl GenericClient,
    anchors: &[Anchor],
    tell: &mut (dyn FnMut(Progress) + Send),
) -> Result<Findings, LedgerError> {
    let own = !in_transaction(client).await?;
    let begin =
        if own { "begin isolation level repeatable read read only; savepoint verify" } else { "savepoint verify" };
    execute(client, begin).await?;
    let findings = Verification { client, tell, findings: Findings::default() }.run(anchors).await;
    // Back to the caller's settings.
    let end = if own { "rollback" } else { "rollback to savepoint verify; release savepoint verify" };
    execute(client, end).await?;
    findings
}

/// Two statements of one transaction see one time.
async fn in_transaction(client: &impl GenericClient) -> Result<bool, LedgerError> {
    const NOW: &str = "select extract(epoch from now())::text, current_setting('transaction_isolation')";
    let (first, second) = (question(client, NOW, &[]).await?, question(client, NOW, &[]).await?);
    let (Some(first), Some(second)) = (first.first(), second.first()) else { return Ok(false) };
    if first.get::<_, &str>(0) != second.get::<_, &str>(0) {
        return Ok(false);
    }
    match second.get::<_, &str>(1) {
        "repeatable read" | "serializable" => Ok(true),
        other => Err(LedgerError::Invalid {
            what: "the ledger cannot be verified in this transaction".to_owned(),
            detail: format!("it is {other}, so every statement sees another moment"),
            hint: "Begin it with REPEATABLE READ, or verify outside of a transaction",
        }),
    }
}

struct Verification<'a, C> {
    client: &'a C,
    tell: &'a mut (dyn FnMut(Progress) + Send),
    findings: Findings,
}

impl<C: GenericClient> Verification<'_, C> {
    async fn run(mut self, anchors: &[Anchor]) -> Result<Findings, LedgerError> {
        // Names are looked up where nobody but the superuser can put any.
        execute(
            self.client,
            "set local search_path = pg_catalog, pg_temp; set local timezone = 'UTC'; set local statement_timeout = 0;
             set local idle_in_transaction_session_timeout = 0; set local work_mem = '128MB'; set local jit = off;
             set local max_parallel_workers_per_gather = 2; set local parallel_setup_cost = 100;
             set local parallel_tuple_cost = 0.01",
        )
        .await?;
        // Nobody can prepare rows for a number that is drawn now.
        let random = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as i64;
        self.balances(random).await?;
        self.law("lines", include_str!("../sql/verify/lines.sql"), &[]).await?;
        self.ids(random).await?;
        self.sets().await?;
        self.law("rules", include_str!("../sql/verify/rules.sql"), &[]).await?;
        self.law("chain", include_str!("../sql/verify/links.sql"), &[]).await?;
        self.facts().await?;
        self.anchors(anchors).await?;
        self.law("protection", include_str!("../sql/verify/protection.sql"), &[]).await?;
        self.functions().await?;
        Ok(self.findings)
    }

    async fn balances(&mut self, random: i64) -> Result<(), LedgerError> {
        let accounts =
            self.law("balances", include_str!("../sql/verify/balances.sql"), &[(&random, Type::INT8)]).await?;
        if !accounts.is_empty() {
            self.law("entries", include_str!("../sql/verify/running.sql"), &[(&accounts, Type::INT8_ARRAY)]).await?;
        }
        Ok(())
    }

    async fn ids(&mut self, random: i64) -> Result<(), LedgerError> {
        self.begin("ids");
        let same = self.ask(include_str!("../sql/verify/ids.sql"), &[(&random, Type::INT8)]).await?;
        if same.first().is_some_and(|row| row.get(0)) {
            return Ok(());
        }
        self.law("ids", include_str!("../sql/verify/missing_ids.sql"), &[]).await.map(drop)
    }

    /// Stretch by stretch, so that each is sorted in memory.
    async fn sets(&mut self) -> Result<(), LedgerError> {
        let stretches = self
            .ask(
                &format!(
                    "select min(number), max(number), sum(transfers)::bigint
                     from (select number, transfers, (sum(transfers) over (order by number) - transfers) / {STRETCH} as stretch
                           from (select number, transfers from ledger.posting
                                 union all
                                 -- Rows of sets that are not there lie between others, or beyond them.
                                 (select 1, 0) union all (select max(posting), 0 from ledger.transfer)) p) s
                     group by stretch order by stretch"
                ),
                &[],
            )
            .await?;
        let of = stretches.iter().map(|row| row.get::<_, i64>(2)).sum();
        let (mut from, mut done) = (i64::MIN, 0);
        for stretch in &stretches {
            (self.tell)(Progress { check: "sets", done, of });
            let until: i64 = stretch.get::<_, Option<i64>>(1).unwrap_or(from);
            self.stretch(from, until).await?;
            from = until.saturating_add(1);
            done += stretch.get::<_, i64>(2);
        }
        (self.tell)(Progress { check: "sets", done, of });
        Ok(())
    }

    async fn stretch(&mut self, from: i64, until: i64) -> Result<(), LedgerError> {
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&from, Type::INT8), (&until, Type::INT8)];
        let faults = self.ask(include_str!("../sql/verify/sets.sql"), &parameters).await?;
        for row in &faults {
            let number: i64 = row.get(0);
            if let Some(fault) = row.get::<_, Option<String>>(1) {
                self.add("a set has its transactions", format!("set {number}"), fault, 0);
            }
            if self.findings.violations.len() < 10 * NAMED {
                self.law("sets", include_str!("../sql/verify/set.sql"), &[(&number, Type::INT8)]).await?;
            }
        }
        Ok(())
    }

    async fn facts(&mut self) -> Result<(), LedgerError> {
        let tables = self
            .ask(
                "select c.relname::text from pg_class c join pg_attribute a on a.attrelid = c.oid
                 where c.relnamespace = to_regnamespace('ledger') and c.relkind = 'r' and a.attname = 'xid' and not a.attisdropped
                   and c.relname not in ('posting', 'link', 'outbox')",
                &[],
            )
            .await?;
        let union: Vec<String> = tables
            .iter()
            .map(|row| {
                let name = row.get::<_, &str>(0).replace('"', "\"\"").replace('\'', "''");
                format!(
                    "select '{name}' as tab, sha256(convert_to(E'{name}\\t' || j::text, 'UTF8')) as hash,
                            concat_ws(' ', j ->> 'name', j ->> 'kind', j ->> 'id', j ->> 'hold', j ->> 'month', j ->> 'account',
                                      j ->> 'wallet', j ->> 'number') as subject
                     from (select to_jsonb(t) as j from ledger.\"{name}\" t where t.xid >= l.since and t.xid < l.until) t"
                )
            })
            .collect();
        let sql = include_str!("../sql/verify/facts.sql").replace("{facts}", &union.join(" union all "));
        self.law("facts", &sql, &[]).await.map(drop)
    }

    async fn anchors(&mut self, kept: &[Anchor]) -> Result<(), LedgerError> {
        self.begin("anchors");
        let mut anchors: Vec<(&str, Anchor)> =
            anchor::all(self.client).await?.into_iter().map(|anchor| ("on record", anchor)).collect();
        anchors.extend(kept.iter().map(|anchor| ("kept elsewhere", anchor.clone())));
        for (where_from, anchor) in &anchors {
            for fault in anchor::faults(self.client, anchor).await? {
                let subject = format!("anchor {} of {}, {where_from}", anchor.number, anchor.made_at);
                self.add("the chain reaches its anchors", subject, fault, 0);
            }
        }
        Ok(())
    }

    async fn functions(&mut self) -> Result<(), LedgerError> {
        self.begin("functions");
        let rows = self
            .ask(
                "select p.proname::text, p.prosrc from pg_proc p where p.pronamespace = to_regnamespace('ledger')",
                &[],
            )
            .await?;
        let stored: Vec<(&str, &str)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        for (name, detail) in functions::faults(&stored) {
            self.add("the protection is in place", format!("function ledger.{name}"), detail.to_owned(), 0);
        }
        Ok(())
    }

    /// Runs one statement of laws; gives the accounts that it wants to be looked into.
    async fn law(
        &mut self,
        check: &'static str,
        sql: &str,
        parameters: &[(&(dyn ToSql + Sync), Type)],
    ) -> Result<Vec<i64>, LedgerError> {
        self.begin(check);
        let sql = format!(
            "select law, subject, detail, account, of - {NAMED} from (
                 select v.*, row_number() over w as place, count(*) over (partition by law) as of
                 from ({sql}\n) v window w as (partition by law order by subject, detail)
             ) v where place <= {NAMED} order by law, place"
        );
        let rows = self.ask(&sql, parameters).await?;
        let mut accounts = Vec::new();
        for (n, row) in rows.iter().enumerate() {
            let law: &str = row.get(0);
            if law == "note" {
                self.findings.notes.push(format!("{}: {}", row.get::<_, &str>(1), row.get::<_, &str>(2)));
            } else if let Some(account) = row.get(3) {
                accounts.push(account);
            } else {
                let last = rows.get(n + 1).is_none_or(|next| next.get::<_, &str>(0) != law);
                let more = if last { row.get::<_, i64>(4) } else { 0 };
                self.add(law, row.get(1), row.get(2), more);
            }
        }
        Ok(accounts)
    }

    fn add(&mut self, law: &str, subject: String, detail: String, more: i64) {
        self.findings.violations.push(Violation { law: law.to_owned(), subject, detail });
        if more > 0 {
            let subject = format!("{more} more");
            self.findings.violations.push(Violation { law: law.to_owned(), subject, detail: String::new() });
        }
    }

    fn begin(&mut self, check: &'static str) {
        (self.tell)(Progress { check, done: 0, of: 1 });
    }

    async fn ask(&mut self, sql: &str, parameters: &[(&(dyn ToSql + Sync), Type)]) -> Result<Vec<Row>, LedgerError> {
        let sql =
            fill(sql).replace("{attached}", ATTACHED).replace("{detached}", DETACHED).replace("{opening}", OPENING);
        question(self.client, &sql, parameters).await
    }
}

async fn question(
    client: &impl GenericClient,
    sql: &str,
    parameters: &[(&(dyn ToSql + Sync), Type)],
) -> Result<Vec<Row>, LedgerError> {
    client.query_typed(sql, parameters).await.map_err(LedgerError::database("verifying the ledger"))
}

async fn execute(client: &impl GenericClient, sql: &str) -> Result<(), LedgerError> {
    client.batch_execute(sql).await.map_err(LedgerError::database("verifying the ledger"))
}
