//! Rows on standard output: aligned for people, JSON lines and CSV for programs.

use std::io::{ErrorKind, Write};

use arrow::array::{Array, RecordBatch, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use chrono::{DateTime, SecondsFormat};
use clap::ValueEnum;

use crate::CliError;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// Aligned columns
    #[default]
    Table,
    /// One JSON object a line; decimals are strings, so that they stay exact
    Json,
    Csv,
}

/// A rule under a header is no longer than this, however long what follows is.
const RULE_MAX: usize = 100;

/// What a column holds: how it is aligned, and how it is written as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// A whole number, a float or a truth value: JSON writes it as it is.
    Plain,
    /// A decimal: digits for people, text in JSON.
    Decimal,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub kind: Kind,
}

/// Rows of text, with what their columns hold. A missing value is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rows {
    pub columns: Vec<Column>,
    pub rows: Vec<Vec<Option<String>>>,
}

impl Rows {
    pub fn new(columns: &[(&str, Kind)]) -> Rows {
        let columns = columns.iter().map(|(name, kind)| Column { name: (*name).to_owned(), kind: *kind }).collect();
        Rows { columns, rows: Vec::new() }
    }

    pub fn push<const N: usize>(&mut self, row: [String; N]) {
        self.rows.push(row.into_iter().map(Some).collect());
    }

    pub fn of(batches: &[RecordBatch]) -> Result<Rows, CliError> {
        let Some(first) = batches.first() else { return Ok(Rows::default()) };
        let columns = first
            .schema()
            .fields()
            .iter()
            .map(|field| Column { name: field.name().clone(), kind: kind(field.data_type()) })
            .collect();
        let mut rows = Vec::new();
        for batch in batches {
            let cells = batch.columns().iter().map(|column| texts(column)).collect::<Result<Vec<_>, _>>()?;
            let mut cells: Vec<_> = cells.into_iter().map(Vec::into_iter).collect();
            rows.extend(
                (0..batch.num_rows()).map(|_| cells.iter_mut().map(|column| column.next().flatten()).collect()),
            );
        }
        Ok(Rows { columns, rows })
    }

    pub fn text(&self, format: Format) -> String {
        match format {
            Format::Table => self.table(),
            Format::Json => self.json(),
            Format::Csv => self.csv(),
        }
    }

    pub fn print(&self, format: Format) -> Result<(), CliError> {
        print(&self.text(format))
    }

    /// Column names that end in a unit say it the way people write it: `billed_s` is `billed (s)`.
    pub fn with_units(mut self) -> Rows {
        for column in &mut self.columns {
            for (suffix, unit) in [("_s", "s"), ("_percent", "%"), ("_w", "W"), ("_j", "J"), ("_bytes", "bytes")] {
                if let Some(stem) = column.name.strip_suffix(suffix) {
                    column.name = format!("{} ({unit})", stem.replace('_', " "));
                    break;
                }
            }
        }
        self
    }

    fn table(&self) -> String {
        let rows = self.lines();
        let width = |text: &str| text.chars().count();
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(i, c)| rows.iter().map(|row| width(&row[i])).chain([width(&c.name)]).max().unwrap_or(0))
            .collect();
        let mut text = String::new();
        let mut line = |cells: &mut dyn Iterator<Item = (usize, &str)>| {
            let cells: Vec<String> = cells
                .map(|(i, cell)| match self.columns[i].kind {
                    Kind::Text => format!("{cell:<width$}", width = widths[i]),
                    Kind::Plain | Kind::Decimal => format!("{cell:>width$}", width = widths[i]),
                })
                .collect();
            text.push_str(cells.join("  ").trim_end());
            text.push('\n');
        };
        line(&mut self.columns.iter().map(|c| c.name.as_str()).enumerate());
        let rules: Vec<String> = widths.iter().map(|w| "─".repeat((*w).min(RULE_MAX))).collect();
        line(&mut rules.iter().map(String::as_str).enumerate());
        for row in &rows {
            line(&mut row.iter().map(String::as_str).enumerate());
        }
        text.push_str(&format!("{} row{}\n", self.rows.len(), if self.rows.len() == 1 { "" } else { "s" }));
        text
    }

    /// Rows as lines of a terminal: a row is as high as its highest cell (a query's plan has many lines).
    fn lines(&self) -> Vec<Vec<String>> {
        let mut lines = Vec::new();
        for row in &self.rows {
            let cells: Vec<Vec<String>> = row
                .iter()
                .map(|cell| cell.as_deref().unwrap_or("").trim_end().split('\n').map(visible).collect())
                .collect();
            let height = cells.iter().map(Vec::len).max().unwrap_or(1);
            lines.extend(
                (0..height).map(|i| cells.iter().map(|cell| cell.get(i).cloned().unwrap_or_default()).collect()),
            );
        }
        lines
    }

    fn json(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let fields: Vec<String> = self
                .columns
                .iter()
                .zip(row)
                .map(|(column, cell)| {
                    let value = match cell {
                        None => "null".to_owned(),
                        // Infinity and NaN are no JSON numbers.
                        Some(cell)
                            if column.kind == Kind::Plain
                                && serde_json::from_str::<serde_json::Value>(cell).is_ok() =>
                        {
                            cell.clone()
                        }
                        Some(cell) => quoted(cell),
                    };
                    format!("{}:{value}", quoted(&column.name))
                })
                .collect();
            text.push_str(&format!("{{{}}}\n", fields.join(",")));
        }
        text
    }

    fn csv(&self) -> String {
        let field = |text: &str| {
            if text.contains(['"', ',', '\n', '\r']) {
                format!("\"{}\"", text.replace('"', "\"\""))
            } else {
                text.to_owned()
            }
        };
        let mut text = self.columns.iter().map(|c| field(&c.name)).collect::<Vec<_>>().join(",");
        text.push('\n');
        for row in &self.rows {
            let cells: Vec<String> = row.iter().map(|cell| cell.as_deref().map(field).unwrap_or_default()).collect();
            text.push_str(&cells.join(","));
            text.push('\n');
        }
        text
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn kind(data_type: &DataType) -> Kind {
    match data_type {
        DataType::Boolean => Kind::Plain,
        DataType::Decimal128(..) | DataType::Decimal256(..) => Kind::Decimal,
        other if other.is_numeric() => Kind::Plain,
        _ => Kind::Text,
    }
}

/// A column's values as text; times as RFC 3339, whole seconds where they are whole.
fn texts(column: &dyn Array) -> Result<Vec<Option<String>>, CliError> {
    if let (DataType::Timestamp(TimeUnit::Microsecond, Some(_)), Some(times)) =
        (column.data_type(), column.as_any().downcast_ref::<TimestampMicrosecondArray>())
    {
        return Ok(times.iter().map(|time| time.map(show_micros)).collect());
    }
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(column, &options).map_err(CliError::failed)?;
    Ok((0..column.len()).map(|i| column.is_valid(i).then(|| formatter.value(i).to_string())).collect())
}

fn show_micros(micros: i64) -> String {
    match DateTime::from_timestamp_micros(micros) {
        Some(time) => time.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        None => micros.to_string(),
    }
}

/// Text that a terminal shows as it is: line breaks and control characters (a message may hold some) are escaped.
pub fn visible(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            c if c.is_control() || is_format(c) => c.escape_default().to_string(),
            c => c.to_string(),
        })
        .collect()
}

/// Characters that change the direction or the joining of what follows, and so could show something else than what is there.
fn is_format(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Prints; a reader that has gone away (`| head`) is no trouble.
pub fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            Err(CliError::failed(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{BinaryArray, Decimal128Array, Float64Array, Int64Array, StringArray};

    use super::*;

    fn rows() -> Rows {
        let amounts = Decimal128Array::from(vec![Some(-1), None]).with_precision_and_scale(38, 9).unwrap();
        let times =
            TimestampMicrosecondArray::from(vec![1_772_359_200_000_000, 1_772_359_200_500_000]).with_timezone("UTC");
        let batch = RecordBatch::try_from_iter([
            ("name", Arc::new(StringArray::from(vec!["a,\"b\"", "c\nd"])) as Arc<dyn Array>),
            ("billed_s", Arc::new(Int64Array::from(vec![3_600, 7]))),
            ("amount", Arc::new(amounts)),
            ("share", Arc::new(Float64Array::from(vec![0.5, f64::INFINITY]))),
            ("at", Arc::new(times)),
            ("raw", Arc::new(BinaryArray::from(vec![&b"\x00\xff"[..], b""]))),
        ])
        .unwrap();
        Rows::of(&[batch]).unwrap()
    }

    #[test]
    fn tables_are_aligned() {
        let text = rows().with_units().text(Format::Table);
        let expected = "\
name   billed (s)        amount  share  at                        raw
─────  ──────────  ────────────  ─────  ────────────────────────  ────
a,\"b\"        3600  -0.000000001    0.5  2026-03-01T10:00:00Z      00ff
c               7                  inf  2026-03-01T10:00:00.500Z
d
2 rows
";
        assert_eq!(text, expected);
    }

    #[test]
    fn json_is_exact() {
        let text = rows().text(Format::Json);
        let lines: Vec<serde_json::Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines[0]["amount"], "-0.000000001");
        assert_eq!(lines[0]["billed_s"], 3_600);
        assert_eq!(lines[1]["amount"], serde_json::Value::Null);
        assert_eq!(lines[1]["share"], "inf");
        assert_eq!(lines[1]["name"], "c\nd");
    }

    #[test]
    fn csv_is_quoted() {
        let text = rows().text(Format::Csv);
        assert!(text.starts_with("name,billed_s,amount,share,at,raw\n\"a,\"\"b\"\"\",3600,-0.000000001,0.5,"));
    }

    #[test]
    fn nothing_that_moves_the_cursor_is_printed() {
        assert_eq!(visible("a\u{1b}[2Jb\u{202e}é"), "a\\u{1b}[2Jb\\u{202e}é");
    }
}
