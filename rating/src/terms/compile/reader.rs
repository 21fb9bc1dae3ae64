//! Scalars of a document to exact numbers, each with its own limits.

use chrono::{DateTime, NaiveDateTime};
use hydrometer_schemas::IDENTITY_BYTES_MAX;
use hydrometer_schemas::contract::{Decimal, Mistake, shorten};
use hydrometer_schemas::time::{FOREVER, Second};

use super::{did_you_mean, shown};
use crate::currency;
use crate::money::{Amount, MoneyError, Price, Share, parse_scaled};
use crate::terms::{MICRO, Micro};

/// Collects mistakes; a scalar that could not be read is `None`, so that nothing is said about what follows from it.
pub(super) struct Reader {
    pub mistakes: Vec<Mistake>,
    /// `None` where the currency is not known: then no amount is too fine.
    minor_digits: Option<u32>,
    currency: String,
}

/// No amount, bound or quantity in a contract is larger.
const UNITS_MAX: i128 = 1_000_000_000_000;
const UNIT_DIGITS: u32 = 6;
const AMOUNT_DIGITS: u32 = 9;

impl Reader {
    pub fn new(code: &str) -> Reader {
        let minor_digits = currency::minor_digits(code);
        let mut reader = Reader { mistakes: Vec::new(), minor_digits, currency: shorten(code) };
        if minor_digits.is_none() {
            let hint = did_you_mean(code, currency::codes());
            reader.say(
                "currency",
                format!("{:?} is not a currency in use", shorten(code)),
                "an ISO 4217 code such as USD",
                hint,
            );
        }
        reader
    }

    pub fn say(
        &mut self,
        field: impl Into<String>,
        what: impl Into<String>,
        expected: impl Into<String>,
        hint: impl Into<String>,
    ) {
        let mistake = Mistake { field: field.into(), what: what.into(), expected: expected.into(), hint: hint.into() };
        self.mistakes.push(mistake);
    }

    /// Whether a list keeps to its limit.
    pub fn at_most(&mut self, field: &str, count: usize, max: usize) -> bool {
        if count > max {
            self.say(field, format!("{count} of them"), format!("at most {max}"), "");
        }
        count <= max
    }

    /// A name: the rule is that of lifecycle events, since names meet there.
    pub fn identity(&mut self, field: &str, text: &str) {
        let expected = format!("a name of 1 to {IDENTITY_BYTES_MAX} bytes without control characters");
        if text.is_empty() {
            self.say(field, "is empty", expected, "");
        } else if text.len() > IDENTITY_BYTES_MAX {
            self.say(field, format!("is {} bytes long", text.len()), expected, "");
        } else if text.bytes().any(|b| b.is_ascii_control()) {
            self.say(field, "holds a control character", expected, "");
        }
    }

    /// A whole second, RFC 3339 with a zone.
    pub fn instant(&mut self, field: &str, text: &str) -> Option<Second> {
        const EXPECTED: &str = "RFC 3339 with a zone, such as 2026-03-01T00:00:00-08:00";
        let shown = shorten(text);
        match DateTime::parse_from_rfc3339(text) {
            Ok(time) if time.timestamp_subsec_nanos() != 0 => {
                self.say(field, format!("{shown:?} is not a whole second"), "a time without a fraction", "");
                None
            }
            Ok(time) if !(0..FOREVER).contains(&time.timestamp()) => {
                self.say(field, format!("{shown:?} is out of range"), "a year from 1970 to 9999", "");
                None
            }
            Ok(time) => Some(time.timestamp()),
            Err(error) => {
                let (what, hint) = if is_without_zone(text) {
                    ("has no zone".to_owned(), "add Z for UTC, or an offset such as -08:00")
                } else if error.kind() == chrono::format::ParseErrorKind::OutOfRange {
                    ("is no date and time of the calendar".to_owned(), "")
                } else if text.len() == 10 && chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok() {
                    (
                        "is a date without a time".to_owned(),
                        "a date has another beginning in each zone: write time and zone",
                    )
                } else {
                    ("is not a time".to_owned(), "")
                };
                self.say(field, format!("{shown:?} {what}"), EXPECTED, hint);
                None
            }
        }
    }

    /// A price of a unit, a tier or a package: up to 12 digits, up to 1e9.
    pub fn price(&mut self, field: &str, decimal: &Decimal) -> Option<Price> {
        match Price::parse(&decimal.0) {
            Ok(price) => Some(price),
            Err(error) => {
                self.number(field, decimal, &error, "0 to 1000000000 with at most 12 digits after the point", "");
                None
            }
        }
    }

    /// Money that is due as it stands: no finer than the currency's minor unit, since nobody can pay less.
    pub fn amount(&mut self, field: &str, decimal: &Decimal) -> Option<Amount> {
        let digits = self.minor_digits.unwrap_or(AMOUNT_DIGITS);
        let error = match parse_scaled(&decimal.0, digits) {
            Ok(scaled) if (0..=UNITS_MAX * 10i128.pow(digits)).contains(&scaled) => {
                return scaled.checked_mul(10i128.pow(AMOUNT_DIGITS - digits)).map(Amount::from_scaled);
            }
            Ok(_) => MoneyError::OutOfRange { what: "amount", text: String::new(), expected: "" },
            Err(error) => error,
        };
        let digits_expected = match digits {
            0 => "no digits after the point".to_owned(),
            _ => format!("at most {digits} digits after the point"),
        };
        let expected = format!("0 to {UNITS_MAX} with {digits_expected}");
        let hint = match error {
            MoneyError::TooFine { .. } => format!("the minor unit of {} has {digits} digits (ISO 4217)", self.currency),
            _ => String::new(),
        };
        self.number(field, decimal, &error, &expected, &hint);
        None
    }

    /// A percentage from 0 to 100.
    pub fn share(&mut self, field: &str, decimal: &Decimal) -> Option<Share> {
        match Share::parse_percent(&decimal.0) {
            Ok(share) => Some(share),
            Err(error) => {
                self.number(field, decimal, &error, "0 to 100 percent with at most 6 digits after the point", "");
                None
            }
        }
    }

    /// A quantity in units, as millionths of pieces.
    pub fn units(&mut self, field: &str, decimal: &Decimal, pieces_per_unit: i128) -> Option<Micro> {
        let error = match parse_scaled(&decimal.0, UNIT_DIGITS) {
            // 1e18 x (3,600 x 2^30) pieces stays below 1e31.
            Ok(scaled) if (0..=UNITS_MAX * MICRO).contains(&scaled) => return scaled.checked_mul(pieces_per_unit),
            Ok(_) => MoneyError::OutOfRange { what: "quantity", text: String::new(), expected: "" },
            Err(error) => error,
        };
        let expected = format!("0 to {UNITS_MAX} units with at most {UNIT_DIGITS} digits after the point");
        self.number(field, decimal, &error, &expected, "");
        None
    }

    /// A factor from 0 to 1,000, in millionths.
    pub fn factor(&mut self, field: &str, decimal: &Decimal) -> Option<i64> {
        const MAX: i128 = 1_000 * MICRO;
        let error = match parse_scaled(&decimal.0, UNIT_DIGITS) {
            Ok(scaled) if (0..=MAX).contains(&scaled) => return i64::try_from(scaled).ok(),
            Ok(_) => MoneyError::OutOfRange { what: "factor", text: String::new(), expected: "" },
            Err(error) => error,
        };
        self.number(field, decimal, &error, "0 to 1000 with at most 6 digits after the point", "");
        None
    }

    /// Least and most that something costs; `prefix` is the path of what has them. `None` where a mistake was noted.
    pub fn spend(
        &mut self,
        prefix: &str,
        minimum: Option<&Decimal>,
        maximum: Option<&Decimal>,
    ) -> Option<(Option<Amount>, Option<Amount>)> {
        let least = minimum.map(|decimal| self.amount(&format!("{prefix}minimum_spend"), decimal));
        let most = maximum.map(|decimal| self.amount(&format!("{prefix}maximum_spend"), decimal));
        if let (Some(Some(least)), Some(Some(most))) = (least, most)
            && least > most
        {
            self.say(
                format!("{prefix}maximum_spend"),
                "the most that a period costs is below the least",
                "at least `minimum_spend`",
                "",
            );
            return None;
        }
        Some((super::transpose(least)?, super::transpose(most)?))
    }

    fn number(&mut self, field: &str, decimal: &Decimal, error: &MoneyError, expected: &str, hint: &str) {
        let shown = shown(decimal);
        let what = match error {
            MoneyError::NotDecimal { .. } => format!("{shown:?} is not a plain decimal number"),
            MoneyError::TooFine { .. } => format!("{shown} has too many digits after the point"),
            MoneyError::OutOfRange { .. } | MoneyError::Overflow { .. } => format!("{shown} is out of range"),
        };
        self.say(field, what, expected, hint);
    }
}

fn is_without_zone(text: &str) -> bool {
    ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M"]
        .iter()
        .any(|format| NaiveDateTime::parse_from_str(text, format).is_ok())
}
