//! SQL over a [`Cut`]: questions only. What would write, or leave the cut, is refused with a hint.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::{RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::TableReference;
use datafusion::prelude::SQLOptions;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::Statement as Sql;

use crate::cut::{Cut, CutError};

/// Answers one statement: SELECT (or WITH, VALUES), EXPLAIN, SHOW TABLES or DESCRIBE. There is always a batch, so that an empty
/// answer has its columns as well.
pub async fn sql(cut: &Cut, query: &str) -> Result<Vec<RecordBatch>, CutError> {
    let statement = parse(query)?;
    match &statement {
        Statement::Statement(sql) if matches!(**sql, Sql::ShowTables { .. }) => return Ok(vec![show_tables(cut)?]),
        _ => check(&statement)?,
    }
    let state = cut.context().state();
    for table in state.resolve_table_references(&statement)? {
        known(cut, &table)?;
    }
    let plan = state.statement_to_plan(statement).await.map_err(|e| {
        refused(
            e.strip_backtrace(),
            "DESCRIBE TABLE shows the columns; a name like offset or commit is written \"offset\"",
        )
    })?;
    SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false).verify_plan(&plan)?;
    let frame = cut.context().execute_logical_plan(plan).await?;
    let schema = Arc::new(frame.schema().as_arrow().clone());
    let mut batches = frame.collect().await?;
    if batches.is_empty() {
        batches.push(RecordBatch::new_empty(schema));
    }
    Ok(batches)
}

fn parse(query: &str) -> Result<Statement, CutError> {
    let mut statements: VecDeque<Statement> = DFParser::parse_sql(query).map_err(|e| {
        refused(format!("this is no SQL: {}", e.strip_backtrace()), "for example: SELECT * FROM revenue")
    })?;
    match (statements.pop_front(), statements.len()) {
        (Some(statement), 0) => Ok(statement),
        (None, _) => Err(refused("there is no query", "for example: SELECT * FROM revenue")),
        _ => Err(refused("there is more than one statement", "ask one question at a time")),
    }
}

/// Only questions pass.
fn check(statement: &Statement) -> Result<(), CutError> {
    let allowed = match statement {
        Statement::Statement(sql) => match &**sql {
            Sql::Query(_) | Sql::ExplainTable { .. } => true,
            Sql::Explain { statement, .. } => matches!(**statement, Sql::Query(_)),
            _ => false,
        },
        Statement::Explain(explain) => return check(&explain.statement),
        _ => false,
    };
    if allowed {
        Ok(())
    } else {
        let text = statement.to_string();
        let verb = text.split_whitespace().next().unwrap_or("this").to_uppercase();
        Err(refused(
            format!("{verb} is refused: a cut can only be read"),
            "use SELECT, EXPLAIN, SHOW TABLES or DESCRIBE; what is posted is corrected by the stream or a new posting, never by SQL",
        ))
    }
}

/// A table's name that the cut has; otherwise an error that lists those that it has.
fn known(cut: &Cut, table: &TableReference) -> Result<(), CutError> {
    let plain = matches!(table, TableReference::Bare { .. });
    let function = cut.context().state_ref().read().table_functions().contains_key(table.table());
    if table.schema() == Some("information_schema") || (plain && (function || cut.has_table(table.table()))) {
        return Ok(());
    }
    let joined = table.schema().map(|schema| format!("{schema}_{}", table.table())).unwrap_or_default();
    let near = [joined.as_str(), table.table()].into_iter().find(|name| cut.has_table(name));
    let names: Vec<&str> = cut.tables().map(|t| t.name.as_str()).collect();
    let hint = match near {
        Some(name) => format!("it is called {name} here"),
        None => format!("there are {}", names.join(", ")),
    };
    Err(refused(format!("there is no table {table}"), hint))
}

fn show_tables(cut: &Cut) -> Result<RecordBatch, CutError> {
    let field = |name: &str| Field::new(name, DataType::Utf8, false);
    let schema = Schema::new(vec![field("table"), field("kind"), field("about")]);
    Ok(RecordBatch::try_new(
        Arc::new(schema),
        vec![
            Arc::new(StringArray::from_iter_values(cut.tables().map(|t| &t.name))),
            Arc::new(StringArray::from_iter_values(cut.tables().map(|t| t.kind))),
            Arc::new(StringArray::from_iter_values(cut.tables().map(|t| t.about))),
        ],
    )?)
}

fn refused(what: impl Into<String>, hint: impl Into<String>) -> CutError {
    CutError::Refused { what: what.into(), hint: hint.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_pass_and_nothing_else() {
        for query in [
            "SELECT 1",
            "WITH a AS (SELECT 1) SELECT * FROM a",
            "EXPLAIN SELECT * FROM usage",
            "EXPLAIN ANALYZE SELECT 1",
            "DESCRIBE usage",
            "VALUES (1)",
        ] {
            check(&parse(query).unwrap()).unwrap();
        }
        for query in [
            "DELETE FROM usage",
            "INSERT INTO usage VALUES (1)",
            "UPDATE usage SET gpu = 'x'",
            "DROP TABLE usage",
            "CREATE TABLE t AS SELECT 1",
            "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '/'",
            "COPY (SELECT 1) TO 'x.parquet'",
            "EXPLAIN COPY (SELECT 1) TO 'x.parquet'",
            "SET datafusion.execution.batch_size = 1",
            "TRUNCATE usage",
        ] {
            let error = check(&parse(query).unwrap()).unwrap_err().to_string();
            assert!(error.contains("Hint: use SELECT"), "{query}: {error}");
        }
        assert!(parse("SELECT 1; SELECT 2").unwrap_err().to_string().contains("more than one"));
        assert!(parse("").unwrap_err().to_string().contains("no query"));
        assert!(parse("SELEC 1").unwrap_err().to_string().contains("this is no SQL"));
    }
}
