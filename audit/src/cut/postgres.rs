//! Tables of the ledger and of the commit point, read inside the snapshot when a query scans them, with the columns it needs.

use std::pin::pin;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryBuilder, BooleanBuilder, Decimal128Builder, Int16Builder, Int32Builder, Int64Builder, RecordBatch,
    RecordBatchOptions, StringBuilder, TimestampMicrosecondBuilder,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use chrono::{DateTime, Utc};
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::error::Result as DataFusionResult;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use futures::TryStreamExt;
use tokio_postgres::Row;

use super::CutError;
use super::warehouse::{Source, external};

const BATCH_ROWS: usize = 8_192;

/// The sum of the absolute values of a decimal column must stay below this part of 128 bits, so that sums over it, and over joins
/// that repeat its rows up to a thousand times, cannot wrap (DataFusion's sums would do so silently).
const SUM_MAX: i128 = i128::MAX / 1_000;

/// What the tables hold, by their names in SQL.
const ABOUT: [(&str, &str); 44] = [
    ("ledger_account", "accounts: type, party, purpose and currency"),
    ("ledger_balance", "debits and credits of each account so far"),
    ("ledger_transaction", "transactions: what was posted, when it counts, when it was booked, what it corrects"),
    ("ledger_transfer", "transfers: one amount from a debit to a credit account"),
    ("ledger_movement", "what each set moved on each account, and how the account stood after it"),
    ("ledger_posting", "sets of transactions that were posted together"),
    ("ledger_transaction_id", "ids that are taken, for ever"),
    ("ledger_account_limit", "how far accounts may be overdrawn: each change, by whom and why"),
    ("ledger_hold", "amounts that were set aside"),
    ("ledger_hold_resolution", "what became of them: posted, voided, expired"),
    ("ledger_link", "the hash chain: a link per set, by shard"),
    ("ledger_anchor", "what the chain had reached, from time to time"),
    ("ledger_wallet", "wallets: a renter's prepaid money in a currency"),
    ("ledger_wallet_entry", "what happened to each wallet, and how it stood after it"),
    ("ledger_wallet_grant", "money and promises that wallets were given"),
    ("ledger_wallet_booked", "what was used, debited and expired of each grant"),
    ("ledger_wallet_use", "what each draw was of, by second"),
    ("ledger_wallet_terms", "what wallets are to watch"),
    ("ledger_wallet_proposal", "credits, debits and terms that need a second person"),
    ("prepaid_use", "quantities of prepaid contracts, by the interval of the wallet in which they were used"),
    ("ledger_outbox", "events for others, in the transaction of what they tell"),
    ("ledger_outbox_reader", "how far the outbox is published, and by whom"),
    ("closing", "closings of billing periods: by whom, and what stood against it and was accepted"),
    (
        "closing_request",
        "hours and billing periods to be closed again, since something changed that they were closed over",
    ),
    ("command", "what operators' commands committed: who asked for it, and why"),
    ("commit", "committed rounds: by whom, when, and from and to which offsets and frontiers"),
    ("due", "what falls due at the end of hours and billing periods, as it stands"),
    ("due_step", "what each closing changed of what is due, and the transaction that books it"),
    ("event", "lifecycle events with their verdict and the offset that they came from"),
    ("fatal_xid", "seconds in which fatal XIDs were first read"),
    ("file", "the manifest: published files, and those that are owed"),
    ("file_object", "the manifest: which staged objects a file is made of"),
    ("object", "the manifest: staged objects"),
    ("home", "the partition in which a server is rated"),
    ("lease_use", "what each lease used of a billing period: seconds by class and quantities, by charge"),
    ("partition_lease", "partitions: owner, epoch, offsets, frontier"),
    ("period", "billing periods that something was rated in, and who closed them"),
    (
        "rating_cell",
        "cumulative quantities and amounts of a rating state, per version, rate, time of the week and supplier",
    ),
    ("rating_state", "what is cumulated together: a contract's charge in a billing period, an hour or of a resource"),
    ("rating_step", "what each commit changed in a rating cell, and the transaction that books it"),
    ("request", "stretches of history to be derived again"),
    ("revision", "windows that were rated again"),
    ("timeline", "the version of all timelines"),
    ("unrated", "leased time that could not be rated, and why"),
];

/// How a column's type is read and shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Bool,
    Int16,
    Int32,
    Int64,
    Decimal(u8, i8),
    Timestamp,
    Bytes,
    /// Everything else, as Postgres writes it: text, uuid, jsonb, xid8.
    Text,
}

impl Kind {
    /// From `pg_type.typname` and `pg_attribute.atttypmod`.
    fn of(name: &str, modifier: i32) -> Kind {
        match name {
            "bool" => Kind::Bool,
            "int2" => Kind::Int16,
            "int4" => Kind::Int32,
            "int8" => Kind::Int64,
            "timestamptz" => Kind::Timestamp,
            "bytea" => Kind::Bytes,
            "numeric" => match numeric(modifier) {
                Some((precision, scale)) => Kind::Decimal(precision, scale),
                None => Kind::Text,
            },
            _ => Kind::Text,
        }
    }

    fn arrow(self) -> DataType {
        match self {
            Kind::Bool => DataType::Boolean,
            Kind::Int16 => DataType::Int16,
            Kind::Int32 => DataType::Int32,
            Kind::Int64 => DataType::Int64,
            Kind::Decimal(precision, scale) => DataType::Decimal128(precision, scale),
            Kind::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some(Arc::from("UTC"))),
            Kind::Bytes => DataType::Binary,
            Kind::Text => DataType::Utf8,
        }
    }

    /// The expression under which a column is selected.
    fn select(self, column: &str) -> String {
        let quoted = quote(column);
        match self {
            Kind::Decimal(..) | Kind::Text => format!("{quoted}::text"),
            // -infinity stands for never.
            Kind::Timestamp => format!("CASE WHEN isfinite({quoted}) THEN {quoted} END"),
            _ => quoted,
        }
    }
}

/// Precision and scale of `numeric(p, s)`, as Postgres packs them; none without them or where 128 bits do not hold them.
fn numeric(modifier: i32) -> Option<(u8, i8)> {
    let packed = modifier.checked_sub(4).filter(|packed| *packed >= 0)?;
    let precision = u8::try_from(packed >> 16).ok().filter(|p| (1..=38).contains(p))?;
    let scale = i8::try_from(packed & 0x7ff).ok().filter(|s| *s >= 0)?;
    Some((precision, scale))
}

fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

#[derive(Debug, Clone)]
struct Column {
    name: String,
    kind: Kind,
}

#[derive(Debug)]
pub struct PostgresTable {
    source: Arc<Source>,
    schema_name: String,
    table_name: String,
    name: String,
    columns: Vec<Column>,
    schema: SchemaRef,
}

/// Every table of the schemas `ledger` and `hydrometer`, as the catalogue describes it; the months of a table are that table.
pub async fn tables(source: &Arc<Source>) -> Result<Vec<PostgresTable>, CutError> {
    let rows = source
        .db
        .client_ref()
        .query(
            "SELECT n.nspname::text, c.relname::text, a.attname::text, t.typname::text, a.atttypmod, NOT a.attnotnull \
             FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace \
             JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
             JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid \
             WHERE n.nspname IN ('ledger', 'hydrometer') AND c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition \
               AND has_table_privilege(c.oid, 'SELECT') \
             ORDER BY 1, 2, a.attnum",
            &[],
        )
        .await?;
    let mut tables: Vec<(String, String, Vec<Column>, Vec<Field>)> = Vec::new();
    for row in &rows {
        let (schema_name, table_name): (String, String) = (row.get(0), row.get(1));
        let column = Column { name: row.get(2), kind: Kind::of(row.get(3), row.get(4)) };
        let may_be_null = row.get(5) || column.kind == Kind::Timestamp;
        let field = Field::new(&column.name, column.kind.arrow(), may_be_null);
        match tables.last_mut() {
            Some(last) if (&last.0, &last.1) == (&schema_name, &table_name) => {
                last.2.push(column);
                last.3.push(field);
            }
            _ => tables.push((schema_name, table_name, vec![column], vec![field])),
        }
    }
    Ok(tables
        .into_iter()
        .map(|(schema_name, table_name, columns, fields)| PostgresTable {
            source: source.clone(),
            name: sql_name(&schema_name, &table_name),
            schema_name,
            table_name,
            columns,
            schema: Arc::new(Schema::new(fields)),
        })
        .collect())
}

/// `ledger.account` is `ledger_account`; `ledger.account_balance` is called what it is, `ledger_balance`.
fn sql_name(schema: &str, table: &str) -> String {
    match (schema, table) {
        ("ledger", "account_balance") => "ledger_balance".to_owned(),
        ("ledger", _) => format!("ledger_{table}"),
        _ => table.to_owned(),
    }
}

impl PostgresTable {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn kind(&self) -> &'static str {
        if self.schema_name == "ledger" { "ledger" } else { "commit point" }
    }

    pub fn about(&self) -> &'static str {
        ABOUT.iter().find(|(name, _)| *name == self.name).map_or("a table of the database", |(_, about)| about)
    }

    async fn load(
        &self,
        columns: &[Column],
        schema: SchemaRef,
        limit: Option<usize>,
    ) -> Result<Vec<RecordBatch>, CutError> {
        // A row count needs rows, so something is always selected.
        let list: Vec<String> = columns.iter().map(|c| c.kind.select(&c.name)).collect();
        let list = if list.is_empty() { "1".to_owned() } else { list.join(", ") };
        let limit = limit.map(|n| format!(" LIMIT {n}")).unwrap_or_default();
        let sql = format!("SELECT {list} FROM {}.{}{limit}", quote(&self.schema_name), quote(&self.table_name));
        let none: [&(dyn tokio_postgres::types::ToSql + Sync); 0] = [];
        let mut stream = pin!(self.source.db.client_ref().query_raw(&sql, none).await?);
        let mut batches = Vec::new();
        let mut rows: Vec<Row> = Vec::new();
        let mut sums = vec![0i128; columns.len()];
        while let Some(row) = stream.try_next().await? {
            rows.push(row);
            if rows.len() == BATCH_ROWS {
                batches.push(self.batch(columns, &schema, &rows, &mut sums)?);
                rows.clear();
            }
        }
        if !rows.is_empty() {
            batches.push(self.batch(columns, &schema, &rows, &mut sums)?);
        }
        Ok(batches)
    }

    fn batch(
        &self,
        columns: &[Column],
        schema: &SchemaRef,
        rows: &[Row],
        sums: &mut [i128],
    ) -> Result<RecordBatch, CutError> {
        let mut arrays = Vec::with_capacity(columns.len());
        for (i, column) in columns.iter().enumerate() {
            arrays.push(self.array(column, rows, i, &mut sums[i])?);
        }
        let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
        Ok(RecordBatch::try_new_with_options(schema.clone(), arrays, &options)?)
    }

    fn array(&self, column: &Column, rows: &[Row], i: usize, sum: &mut i128) -> Result<ArrayRef, CutError> {
        macro_rules! collect {
            ($builder:expr, $type:ty) => {{
                let mut builder = $builder;
                for row in rows {
                    builder.append_option(row.try_get::<_, Option<$type>>(i)?);
                }
                Arc::new(builder.finish())
            }};
        }
        Ok(match column.kind {
            Kind::Bool => collect!(BooleanBuilder::new(), bool),
            Kind::Int16 => collect!(Int16Builder::new(), i16),
            Kind::Int32 => collect!(Int32Builder::new(), i32),
            Kind::Int64 => collect!(Int64Builder::new(), i64),
            Kind::Bytes => collect!(BinaryBuilder::new(), &[u8]),
            Kind::Text => collect!(StringBuilder::new(), &str),
            Kind::Timestamp => {
                let mut builder = TimestampMicrosecondBuilder::new().with_timezone("UTC");
                for row in rows {
                    builder.append_option(row.try_get::<_, Option<DateTime<Utc>>>(i)?.map(|t| t.timestamp_micros()));
                }
                Arc::new(builder.finish())
            }
            Kind::Decimal(precision, scale) => {
                let mut builder = Decimal128Builder::new().with_precision_and_scale(precision, scale)?;
                for row in rows {
                    let Some(text) = row.try_get::<_, Option<&str>>(i)? else {
                        builder.append_null();
                        continue;
                    };
                    let value = decimal(text, scale).ok_or_else(|| self.unreadable(&column.name, text))?;
                    *sum = sum
                        .checked_add(value.abs())
                        .filter(|sum| *sum < SUM_MAX)
                        .ok_or_else(|| self.too_large(&column.name))?;
                    builder.append_value(value);
                }
                Arc::new(builder.finish())
            }
        })
    }

    fn unreadable(&self, column: &str, text: &str) -> CutError {
        CutError::Refused {
            what: format!("{} holds {text:?} in {column}, which is no exact decimal", self.name),
            hint: "`hydrometer verify` names such rows".to_owned(),
        }
    }

    fn too_large(&self, column: &str) -> CutError {
        CutError::Refused {
            what: format!(
                "the amounts in {column} of {} are so large that sums over them might not fit 128 bits",
                self.name
            ),
            hint: "ask the database itself, whose numeric has no such bound".to_owned(),
        }
    }
}

/// `-12.5` at scale 9 is -12500000000. `None` for what is no finite decimal of that scale.
fn decimal(text: &str, scale: i8) -> Option<i128> {
    let scale = usize::try_from(scale).ok()?;
    let (negative, body) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, fraction) = body.split_once('.').unwrap_or((body, ""));
    let zeros = scale.checked_sub(fraction.len())?;
    if whole.is_empty() {
        return None;
    }
    let mut value: i128 = 0;
    for byte in whole.bytes().chain(fraction.bytes()).chain(std::iter::repeat_n(b'0', zeros)) {
        let digit = byte.checked_sub(b'0').filter(|digit| *digit < 10)?;
        value = value.checked_mul(10)?.checked_add(i128::from(digit))?;
    }
    Some(if negative { -value } else { value })
}

#[async_trait::async_trait]
impl TableProvider for PostgresTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
        let (columns, schema) = match projection {
            Some(indices) => {
                (indices.iter().map(|&i| self.columns[i].clone()).collect(), Arc::new(self.schema.project(indices)?))
            }
            None => (self.columns.clone(), self.schema.clone()),
        };
        let batches = self.load(&columns, schema.clone(), limit).await.map_err(external)?;
        Ok(MemorySourceConfig::try_new_exec(&[batches], schema, None)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_proper() {
        // 4 + (38 << 16 | 9), as Postgres stores numeric(38, 9).
        assert_eq!(Kind::of("numeric", 4 + (38 << 16 | 9)), Kind::Decimal(38, 9));
        assert_eq!(Kind::of("numeric", 4 + (12 << 16 | 6)), Kind::Decimal(12, 6));
        assert_eq!(Kind::of("numeric", -1), Kind::Text, "without a scale there is none to convert to");
        assert_eq!(Kind::of("numeric", 4 + (50 << 16 | 9)), Kind::Text);
        for (name, kind) in
            [("int8", Kind::Int64), ("timestamptz", Kind::Timestamp), ("jsonb", Kind::Text), ("uuid", Kind::Text)]
        {
            assert_eq!(Kind::of(name, -1), kind);
        }
        assert_eq!(Kind::Text.select("a\"b"), "\"a\"\"b\"::text");
    }

    #[test]
    fn decimals_are_exact() {
        assert_eq!(decimal("0.000000001", 9), Some(1));
        assert_eq!(decimal("-12.5", 9), Some(-12_500_000_000));
        assert_eq!(decimal("99999999999999999999999999999.999999999", 9), Some(10i128.pow(38) - 1));
        for text in ["NaN", "Infinity", "", "-", ".5", "1.0000000001", "1e3"] {
            assert_eq!(decimal(text, 9), None, "{text}");
        }
    }

    #[test]
    fn names() {
        assert_eq!(sql_name("ledger", "transfer"), "ledger_transfer");
        assert_eq!(sql_name("ledger", "account_balance"), "ledger_balance");
        assert_eq!(sql_name("hydrometer", "partition_lease"), "partition_lease");
    }
}
