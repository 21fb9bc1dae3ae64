//! `contract price`: what usage from a file would cost, on both sides, without any stream.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use hydrometer_rating::history::Span;
use hydrometer_rating::terms::file::timeline;
use hydrometer_rating::usage_csv::{self, UsageMistake};
use hydrometer_rating::what_if::{Quote, QuoteError, quote, touched};
use hydrometer_schemas::time::show_second;

use super::{instant, versions};
use crate::CliError;
use crate::table::{Format, Kind, Rows, visible};

#[derive(Debug, Args)]
pub struct PriceArgs {
    /// A contract file (YAML or JSON), with all of its versions
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// CSV with the header `start,end,lease,gpu,charge,quantity` or `start,end,lease,gpu,class`; `supplier` and `server` may be added
    #[arg(long, value_name = "FILE")]
    usage: PathBuf,
    /// Only usage from here on counts. Default: the beginning of the first billing period that is used
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Only usage before it counts, and only periods and hours that end by then are closed. Default: the end of the last period that is used
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

/// The largest usage file that is read.
const USAGE_BYTES_MAX: u64 = 256 * 1024 * 1024;

/// Exit status 1 when the contract or the usage has mistakes.
pub fn run(args: PriceArgs) -> Result<u8, CliError> {
    let from = args.from.as_deref().map(instant).transpose()?;
    let to = args.to.as_deref().map(instant).transpose()?;
    let Some(versions) = versions(&args.file)? else { return Ok(1) };
    let versions = timeline(&versions);
    let usage = match usage_csv::read(&usage_bytes(&args.usage)?) {
        Ok(usage) => usage,
        Err(mistakes) => return Ok(refused(&args.usage, &mistakes)),
    };
    let all = touched(&versions, &usage);
    let within = Span { from: from.unwrap_or(all.from), to: to.unwrap_or(all.to) };
    if within.to <= within.from {
        let (from, to) = (show_second(within.from), show_second(within.to));
        return Err(CliError::usage(format!("nothing lies between {from} and {to}: expected --to after --from")));
    }
    match quote(&versions, &usage, Some(within)) {
        Ok(quote) => {
            rows(&quote).print(args.format)?;
            Ok(0)
        }
        Err(QuoteError::Usage(mistakes)) => Ok(refused(&args.usage, &mistakes)),
        Err(error) => Err(CliError::failed(format!("cannot price {}: {error}", args.usage.display()))),
    }
}

fn usage_bytes(path: &Path) -> Result<Vec<u8>, CliError> {
    let cannot = |error: &dyn std::fmt::Display| CliError::failed(format!("cannot read {}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(|error| cannot(&error))?;
    let mut bytes = Vec::new();
    file.take(USAGE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| cannot(&error))?;
    if bytes.len() as u64 > USAGE_BYTES_MAX {
        return Err(cannot(&format!("it has more than {USAGE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

fn refused(path: &Path, mistakes: &[UsageMistake]) -> u8 {
    for mistake in mistakes {
        eprintln!("{}", visible(&format!("{}: {mistake}", path.display())));
    }
    1
}

/// Lines and dues of each period under their subtotals, then what each supplier gets, then all of it.
fn rows(quote: &Quote) -> Rows {
    let mut rows = Rows::new(&[
        ("row", Kind::Text),
        ("period", Kind::Text),
        ("charge", Kind::Text),
        ("of", Kind::Text),
        ("version", Kind::Text),
        ("what", Kind::Text),
        ("quantity", Kind::Decimal),
        ("unit", Kind::Text),
        ("price", Kind::Decimal),
        ("renter", Kind::Decimal),
        ("supplier", Kind::Decimal),
        ("platform", Kind::Decimal),
    ]);
    let none = String::new;
    let mut periods: Vec<Span> = quote.subtotals.iter().map(|subtotal| subtotal.period).collect();
    periods.extend(quote.dues.iter().map(|(period, _)| *period));
    periods.sort_unstable();
    periods.dedup();
    for period in periods {
        let begin = show_second(period.from);
        for subtotal in quote.subtotals.iter().filter(|subtotal| subtotal.period == period) {
            let is_part =
                |line: &&hydrometer_rating::what_if::Line| line.period == period && line.charge == subtotal.charge;
            for line in quote.lines.iter().filter(is_part) {
                rows.push([
                    "line".to_owned(),
                    begin.clone(),
                    line.charge.clone(),
                    line.resource.clone(),
                    show_second(line.version_from),
                    line.what(),
                    line.units(),
                    line.unit.to_owned(),
                    line.price.to_string(),
                    line.renter.to_string(),
                    none(),
                    none(),
                ]);
            }
            rows.push([
                "subtotal".to_owned(),
                begin.clone(),
                subtotal.charge.clone(),
                none(),
                none(),
                "metered".to_owned(),
                none(),
                none(),
                none(),
                subtotal.renter.to_string(),
                subtotal.supplier.to_string(),
                subtotal.platform().to_string(),
            ]);
        }
        for (_, due) in quote.dues.iter().filter(|(of, _)| *of == period) {
            let listed = if due.is_booked { "" } else { " (listed only)" };
            let of = [due.subject.as_str(), due.supplier.as_deref().unwrap_or_default()];
            rows.push([
                "due".to_owned(),
                begin.clone(),
                due.charge.clone(),
                of.iter().filter(|text| !text.is_empty()).copied().collect::<Vec<_>>().join(" "),
                due.version_from.map(show_second).unwrap_or_default(),
                format!("{}: {}{listed}", due.kind, due.why),
                none(),
                none(),
                none(),
                due.renter_amount.to_string(),
                due.supplier_amount.to_string(),
                due.platform().to_string(),
            ]);
        }
    }
    let mut total = |what: &str, of: &str, renter: String, supplier: String, platform: String| {
        rows.push([
            what.to_owned(),
            none(),
            none(),
            of.to_owned(),
            none(),
            none(),
            none(),
            quote.currency.clone(),
            none(),
            renter,
            supplier,
            platform,
        ]);
    };
    for (supplier, amount) in &quote.totals.suppliers {
        total("supplier", supplier, none(), amount.to_string(), none());
    }
    let totals = &quote.totals;
    total("total", &quote.renter, totals.renter.to_string(), totals.supplier.to_string(), totals.platform.to_string());
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Worked case: 8 GPUs for an hour in which the price changes, 80 % are the supplier's.
    #[test]
    fn totals_of_both_sides_stand_in_the_last_row() {
        let version = |effective: &str, price: &str| {
            format!(
                "{{\"contract\":\"c\",\"renter\":\"r\",\"currency\":\"USD\",\"effective\":\"{effective}\",\
                 \"charges\":{{\"gpu_hours\":{{\"basis\":\"allocated\",\"price\":\"{price}\"}}}},\
                 \"suppliers\":[{{\"supplier\":\"*\",\"share_percent\":\"80\"}}]}}"
            )
        };
        let mut read =
            hydrometer_rating::terms::file::read(version("2026-03-01T00:00:00Z", "2.50").as_bytes()).unwrap();
        read.extend(hydrometer_rating::terms::file::read(version("2026-03-10T10:20:30Z", "2.20").as_bytes()).unwrap());
        let mut csv = "start,end,lease,gpu,class\n".to_owned();
        for gpu in 0..8 {
            csv += &format!("2026-03-10T10:00:00Z,2026-03-10T11:00:00Z,l,{gpu},used\n");
        }
        let quote = quote(&timeline(&read), &usage_csv::read(csv.as_bytes()).unwrap(), None).unwrap();
        let text = rows(&quote).text(Format::Csv);
        assert_eq!(text.lines().last().unwrap(), "total,,,r,,,,USD,,18.420000000,14.736000000,3.684000000");
    }
}
