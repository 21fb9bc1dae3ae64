//! Usage from a CSV file, to try a contract on: `start,end,lease,gpu,charge,quantity` for quantities in units of the charge's price,
//! or `start,end,lease,gpu,class` for intervals of seconds. Columns may stand in any order; `supplier` and `server` may be added.
//!
//! | column | |
//! |---|---|
//! | `start`, `end` | RFC 3339 with a zone, half-open, floored to the second |
//! | `lease`, `gpu` | names |
//! | `charge`, `quantity` | a metered charge of the contract, and a plain decimal with at most six digits after the point |
//! | `class` | `used`, `idle`, `unknown`, `suspended`, `maintenance` (announced), `down` (fault unknown), `down_supplier`, `down_platform`, `down_renter` |
//! | `supplier` | default `*`: a supplier without terms of its own |
//! | `server` | default: one per lease |

use std::fmt;

use hydrometer_schemas::suggest::nearest;
use hydrometer_schemas::time::{FOREVER, Second, parse_rfc3339, second_of, show_second};

use crate::history::Span;
use crate::money::parse_scaled;
use crate::terms::MICRO;
use crate::what_if::{Class, Usage, Used};

/// Rows of one file, and how many mistakes are listed.
const ROWS_MAX: usize = 2_000_000;
const MISTAKES_MAX: usize = 100;
const FIELD_BYTES_MAX: usize = 256;
const UNITS_MAX: i128 = 1_000_000_000_000;

/// What is wrong with a line, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageMistake {
    /// From 1, the header included; 0: the file as a whole.
    pub line: usize,
    /// Empty: the line as a whole.
    pub column: String,
    pub what: String,
    pub expected: String,
}

impl fmt::Display for UsageMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if !self.column.is_empty() {
            write!(f, ", column {}", self.column)?;
        }
        write!(f, ": {}; expected {}", self.what, self.expected)
    }
}

/// All rows, or all mistakes (the first hundred of them).
pub fn read(text: &[u8]) -> Result<Vec<Usage>, Vec<UsageMistake>> {
    let Ok(text) = std::str::from_utf8(text) else {
        return Err(vec![mistake(0, "", "the file is not UTF-8", "plain text in UTF-8")]);
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.lines().enumerate().map(|(n, line)| (n + 1, line)).filter(|(_, line)| !line.trim().is_empty());
    let Some((number, header)) = lines.next() else { return Err(vec![mistake(0, "", "the file is empty", HEADERS)]) };
    let columns = Columns::of(number, header)?;
    let mut rows = Vec::new();
    let mut mistakes = Vec::new();
    for (number, line) in lines {
        if rows.len() == ROWS_MAX {
            mistakes.push(mistake(number, "", "the file is too long", &format!("at most {ROWS_MAX} rows")));
            break;
        }
        match columns.row(number, line) {
            Ok(row) => rows.push(row),
            Err(of_row) => mistakes.extend(of_row),
        }
        if mistakes.len() >= MISTAKES_MAX {
            mistakes.truncate(MISTAKES_MAX);
            break;
        }
    }
    if mistakes.is_empty() { Ok(rows) } else { Err(mistakes) }
}

/// What must hold for any bytes, beyond that [`read`] returns: for a fuzzer. The error names what does not hold.
pub fn fuzz(bytes: &[u8]) -> Result<(), String> {
    let rows = match read(bytes) {
        Ok(rows) => rows,
        Err(mistakes) if mistakes.is_empty() || mistakes.len() > MISTAKES_MAX => {
            return Err(format!("refused with {} mistakes", mistakes.len()));
        }
        Err(mistakes) => {
            let lines = 1 + bytes.iter().filter(|byte| **byte == b'\n').count();
            let outside = mistakes.iter().find(|mistake| mistake.line > lines);
            return outside.map_or(Ok(()), |mistake| Err(format!("a mistake outside the file: {mistake}")));
        }
    };
    for row in rows.iter().take(1_000) {
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        let (header, used) = match &row.used {
            Used::Class(class) => ("class", class.as_str().to_owned()),
            Used::Quantity { charge, micro_units } => {
                let quantity = format!("{}.{:06}", micro_units / MICRO, micro_units % MICRO);
                ("charge,quantity", format!("{},{quantity}", quoted(charge)))
            }
        };
        let names = [&row.lease, &row.gpu, &row.supplier, &row.server].map(|name| quoted(name)).join(",");
        let (start, end) = (show_second(row.span.from), show_second(row.span.to));
        let text = format!("start,end,lease,gpu,supplier,server,{header}\n{start},{end},{names},{used}\n");
        let again =
            read(text.as_bytes()).map_err(|mistakes| format!("its own text is refused: {mistakes:?} {text}"))?;
        if again.len() != 1 || again.iter().any(|again| Usage { line: row.line, ..again.clone() } != *row) {
            return Err(format!("its own text reads otherwise: {text}"));
        }
    }
    Ok(())
}

const HEADERS: &str = "a header `start,end,lease,gpu,charge,quantity` or `start,end,lease,gpu,class`";
const NAMES: [&str; 9] = ["start", "end", "lease", "gpu", "charge", "quantity", "class", "supplier", "server"];

/// Where each column stands.
#[derive(Default)]
struct Columns {
    at: [Option<usize>; NAMES.len()],
    count: usize,
}

impl Columns {
    fn of(number: usize, header: &str) -> Result<Columns, Vec<UsageMistake>> {
        let names = fields(header).ok_or_else(|| vec![mistake(number, "", "a quote is not closed", HEADERS)])?;
        let mut columns = Columns { count: names.len(), ..Columns::default() };
        let mut mistakes = Vec::new();
        for (place, name) in names.iter().enumerate().take(2 * NAMES.len()) {
            match NAMES.iter().position(|known| known == name) {
                Some(n) if columns.at[n].is_none() => columns.at[n] = Some(place),
                Some(_) => mistakes.push(mistake(number, name, "stands twice", "each column once")),
                None => {
                    let hint = nearest(name, NAMES).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                    let what = format!("there is no column {:?}{hint}", shorten(name));
                    mistakes.push(mistake(number, "", &what, HEADERS));
                }
            }
        }
        let has = |name: &str| columns.column(name).is_some();
        for name in ["start", "end", "lease", "gpu"] {
            if !has(name) {
                mistakes.push(mistake(number, name, "is missing", HEADERS));
            }
        }
        if has("class") == (has("charge") && has("quantity")) || (has("class") && (has("charge") || has("quantity"))) {
            let what = "must have either `class`, or `charge` and `quantity`";
            mistakes.push(mistake(number, "", what, HEADERS));
        }
        if mistakes.is_empty() { Ok(columns) } else { Err(mistakes) }
    }

    fn column(&self, name: &str) -> Option<usize> {
        NAMES.iter().position(|known| *known == name).and_then(|n| self.at[n])
    }

    fn row(&self, number: usize, line: &str) -> Result<Usage, Vec<UsageMistake>> {
        let whole = |what: String, expected: String| vec![mistake(number, "", &what, &expected)];
        let fields = fields(line).ok_or_else(|| whole("a quote is not closed".into(), "`\"` at both ends".into()))?;
        if fields.len() != self.count {
            return Err(whole(format!("{} fields", fields.len()), format!("{}, as in the header", self.count)));
        }
        let mut row = Row { number, columns: self, fields: &fields, mistakes: Vec::new() };
        let start = row.second("start");
        let end = row.second("end");
        if let (Some(start), Some(end)) = (start, end)
            && end <= start
        {
            row.say("end", "the end is not after the start".into(), "a later second");
        }
        let lease = row.name("lease");
        let gpu = row.name("gpu");
        let supplier = if self.column("supplier").is_some() { row.name("supplier") } else { Some("*".to_owned()) };
        let server = if self.column("server").is_some() { row.name("server") } else { lease.clone() };
        let used = if self.column("class").is_some() { row.class().map(Used::Class) } else { row.quantity() };
        let Row { mistakes, .. } = row;
        let read = || {
            let span = Span { from: start?, to: end? };
            Some(Usage {
                line: number,
                span,
                lease: lease?,
                gpu: gpu?,
                supplier: supplier?,
                server: server?,
                used: used?,
            })
        };
        match read() {
            Some(usage) if mistakes.is_empty() => Ok(usage),
            _ => Err(mistakes),
        }
    }
}

struct Row<'a> {
    number: usize,
    columns: &'a Columns,
    fields: &'a [String],
    mistakes: Vec<UsageMistake>,
}

impl Row<'_> {
    fn text(&self, column: &str) -> &str {
        self.columns.column(column).and_then(|at| self.fields.get(at)).map_or("", String::as_str)
    }

    fn say(&mut self, column: &str, what: String, expected: &str) {
        self.mistakes.push(mistake(self.number, column, &what, expected));
    }

    fn second(&mut self, column: &str) -> Option<Second> {
        let second = parse_rfc3339(self.text(column)).map(second_of).filter(|second| (0..FOREVER).contains(second));
        if second.is_none() {
            let what = format!("{:?} is not a time", shorten(self.text(column)));
            self.say(column, what, "RFC 3339 with a zone, such as 2026-03-01T10:00:00Z, from 1970 on");
        }
        second
    }

    fn name(&mut self, column: &str) -> Option<String> {
        let text = self.text(column).to_owned();
        if text.is_empty() || text.len() > FIELD_BYTES_MAX || text.chars().any(char::is_control) {
            self.say(
                column,
                format!("{:?} is not a name", shorten(&text)),
                "1 to 256 bytes without control characters",
            );
            return None;
        }
        Some(text)
    }

    fn class(&mut self) -> Option<Class> {
        let class = Class::parse(self.text("class"));
        if class.is_none() {
            let text = self.text("class").to_owned();
            let words = Class::ALL.map(Class::as_str);
            let hint = nearest(&text, words).map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            self.say("class", format!("{:?} is not a class{hint}", shorten(&text)), &words.join(", "));
        }
        class
    }

    fn quantity(&mut self) -> Option<Used> {
        let charge = self.name("charge");
        let quantity = parse_scaled(self.text("quantity"), 6).ok().filter(|q| (0..=UNITS_MAX * MICRO).contains(q));
        if quantity.is_none() {
            let what = format!("{:?} is not a quantity", shorten(self.text("quantity")));
            self.say("quantity", what, "a plain decimal from 0 to 1e12 with at most six digits after the point");
        }
        Some(Used::Quantity { charge: charge?, micro_units: quantity? })
    }
}

/// The fields of a line, without surrounding blanks; quoted ones may hold commas and doubled quotes. `None`: a quote is not closed.
fn fields(line: &str) -> Option<Vec<String>> {
    let mut fields = Vec::new();
    let mut rest = line;
    loop {
        rest = rest.trim_start();
        if let Some(quoted) = rest.strip_prefix('"') {
            let mut field = String::new();
            let mut at = quoted;
            loop {
                let (part, after) = at.split_once('"')?;
                field.push_str(part);
                match after.strip_prefix('"') {
                    Some(more) => {
                        field.push('"');
                        at = more;
                    }
                    None => {
                        rest = after.trim_start();
                        break;
                    }
                }
            }
            fields.push(field);
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None if rest.is_empty() => return Some(fields),
                None => return None,
            }
        } else {
            let (field, more) = rest.split_once(',').map_or((rest, None), |(field, more)| (field, Some(more)));
            fields.push(field.trim_end().to_owned());
            match more {
                Some(more) => rest = more,
                None => return Some(fields),
            }
        }
    }
}

fn mistake(line: usize, column: &str, what: &str, expected: &str) -> UsageMistake {
    UsageMistake { line, column: column.to_owned(), what: what.to_owned(), expected: expected.to_owned() }
}

/// For a message: what was written, but never a whole page of it.
fn shorten(text: &str) -> String {
    text.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_mistakes_at_once_with_line_and_column() {
        let text = b"start,end,lease,gpu,class\n2026-03-01T10:00:00,2026-03-01T11:00:00Z,l,g,usd\n2026-03-01T10:00:00Z,2026-03-01T10:00:00Z,l,,used\n1,2\n";
        let mistakes = read(text).unwrap_err();
        let places: Vec<(usize, &str)> = mistakes.iter().map(|m| (m.line, m.column.as_str())).collect();
        assert_eq!(places, [(2, "start"), (2, "class"), (3, "end"), (3, "gpu"), (4, "")]);
        assert!(mistakes[1].what.contains("did you mean used"));
    }

    #[test]
    fn reads_both_kinds_and_quotes() {
        let rows = read(b"lease,gpu,charge,quantity,start,end\n\"a,\"\"b\",g,c, 0.5 ,2026-03-01T10:00:00Z,2026-03-01T11:00:00.9Z\r\n").unwrap();
        assert_eq!(rows[0].lease, "a,\"b");
        assert_eq!(rows[0].span.seconds(), 3_600);
        assert_eq!(rows[0].used, Used::Quantity { charge: "c".into(), micro_units: 500_000 });
        assert!(read(b"start,end,lease,gpu,class,charge\n").is_err());
        assert!(read(b"start,end,lease,gpu,charge\n").is_err());
    }

    proptest! {
        /// Whatever the bytes: rows that read the same again, or mistakes; never a panic.
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400), lines in prop::collection::vec("[\"a,0-9TZ:.-]{0,80}", 0..20)) {
            for text in [bytes, format!("start,end,lease,gpu,charge,quantity\n{}", lines.join("\n")).into_bytes()] {
                prop_assert_eq!(fuzz(&text), Ok(()));
            }
        }

        /// Sound files with one byte changed, one cut out or one put in.
        #[test]
        fn nearly_sound_files(
            rows in prop::collection::vec(("[a-z\" ,é]{1,9}", 0i64..4_000_000_000, 1i64..100_000, 0u64..10_000_000, 0usize..9), 1..6),
            is_class in any::<bool>(), at in any::<prop::sample::Index>(), byte in any::<u8>(), change in 0u8..4,
        ) {
            let mut text = format!("start,end,lease,gpu,{}\n", if is_class { "class" } else { "charge,quantity" });
            for (name, from, length, quantity, class) in rows {
                let name = format!("\"{}\"", name.replace('"', "\"\""));
                let used = if is_class { Class::ALL[class].as_str().to_owned() } else { format!("c,{}.{:06}", quantity / 1_000_000, quantity % 1_000_000) };
                text += &format!("{},{},{name},g,{used}\n", show_second(from), show_second(from + length));
            }
            let mut bytes = text.into_bytes();
            let at = at.index(bytes.len());
            match change {
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                2 => bytes.insert(at, byte),
                _ => prop_assert!(read(&bytes).is_ok()),
            }
            prop_assert_eq!(fuzz(&bytes), Ok(()));
        }
    }

    /// Cases that were found, and seeds.
    #[test]
    fn the_corpus_is_replayed() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/corpus/usage");
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(files.len() >= 6, "the corpus is there");
        for path in files {
            assert_eq!(fuzz(&std::fs::read(&path).unwrap()), Ok(()), "{path:?}");
        }
    }
}
