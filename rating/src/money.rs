//! Exact money: scaled integers, checked arithmetic, one rounding (law 5).

use std::fmt;

/// A price per GPU-hour, in units of 1e-12 of the currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Price(i128);

/// A supplier's share of the price, in units of 1e-8 (100 % = 1e8), so that six digits of a percentage are exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(i64);

/// An amount of money, in units of 1e-9 of the currency. Negative amounts are corrections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Amount(i128);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    #[error("{text:?} is not a plain decimal number such as \"2.50\"")]
    NotDecimal { text: String },
    #[error("{text:?} has more than {digits} digits after the point")]
    TooFine { text: String, digits: u32 },
    #[error("{what} {text:?} is out of range: expected {expected}")]
    OutOfRange { what: &'static str, text: String, expected: &'static str },
    #[error("an amount is too large for exact arithmetic in 128 bits while {doing}")]
    Overflow { doing: &'static str },
}

const PRICE_DIGITS: u32 = 12;
const AMOUNT_DIGITS: u32 = 9;
const PERCENT_DIGITS: u32 = 6;
const PRICE_MAX: i128 = 1_000_000_000 * 10i128.pow(PRICE_DIGITS);
const SHARE_WHOLE: i64 = 100_000_000;

/// What an exact renter numerator (price x seconds) is divided by to give an amount: seconds of an hour, and 1e-12 to 1e-9.
const RENTER_DENOMINATOR: i128 = 3_600 * 1_000;
/// The same for a supplier numerator (price x share x seconds).
const SUPPLIER_DENOMINATOR: i128 = RENTER_DENOMINATOR * SHARE_WHOLE as i128;

impl Price {
    /// Reads a price of at most 12 digits after the point, from 0 to 1e9.
    pub fn parse(text: &str) -> Result<Price, MoneyError> {
        let value = parse_scaled(text, PRICE_DIGITS)?;
        if !(0..=PRICE_MAX).contains(&value) {
            return Err(MoneyError::OutOfRange { what: "price", text: text.into(), expected: "0 to 1000000000" });
        }
        Ok(Price(value))
    }

    /// In units of 1e-12.
    pub fn scaled(self) -> i128 {
        self.0
    }

    pub fn from_scaled(scaled: i128) -> Price {
        Price(scaled)
    }
}

impl Share {
    /// Reads a percentage of at most six digits after the point, from 0 to 100.
    pub fn parse_percent(text: &str) -> Result<Share, MoneyError> {
        let value = parse_scaled(text, PERCENT_DIGITS)?;
        match i64::try_from(value) {
            Ok(scaled) if (0..=SHARE_WHOLE).contains(&scaled) => Ok(Share(scaled)),
            _ => Err(MoneyError::OutOfRange { what: "share", text: text.into(), expected: "0 to 100 percent" }),
        }
    }

    /// In units of 1e-8 of the whole, which are units of 1e-6 percent.
    pub fn scaled(self) -> i64 {
        self.0
    }

    pub fn from_scaled(scaled: i64) -> Share {
        Share(scaled)
    }
}

impl Amount {
    pub const ZERO: Amount = Amount(0);

    /// In units of 1e-9.
    pub fn scaled(self) -> i128 {
        self.0
    }

    pub fn from_scaled(scaled: i128) -> Amount {
        Amount(scaled)
    }

    pub fn parse(text: &str) -> Result<Amount, MoneyError> {
        parse_scaled(text, AMOUNT_DIGITS).map(Amount)
    }

    pub fn checked_add(self, other: Amount) -> Result<Amount, MoneyError> {
        self.0.checked_add(other.0).map(Amount).ok_or(MoneyError::Overflow { doing: "adding amounts" })
    }

    pub fn checked_sub(self, other: Amount) -> Result<Amount, MoneyError> {
        self.0.checked_sub(other.0).map(Amount).ok_or(MoneyError::Overflow { doing: "subtracting amounts" })
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&show_scaled(self.0, AMOUNT_DIGITS))
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = show_scaled(self.0, PRICE_DIGITS);
        f.pad(trim_zeros(&text))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = show_scaled(i128::from(self.0), PERCENT_DIGITS);
        f.pad(trim_zeros(&text))
    }
}

/// An exact quotient that is not divided yet: what a quantity is worth before the one rounding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exact {
    pub numerator: i128,
    pub denominator: i128,
}

/// What the renter owes for `seconds` at `price` per GPU-hour, in units of 1e-9.
pub fn renter_exact(price: Price, seconds: i64) -> Result<Exact, MoneyError> {
    let numerator = price
        .0
        .checked_mul(i128::from(seconds))
        .ok_or(MoneyError::Overflow { doing: "multiplying a price by seconds" })?;
    Ok(Exact { numerator, denominator: RENTER_DENOMINATOR })
}

/// What the supplier earns for `seconds` at `share` of `price` per GPU-hour, in units of 1e-9.
pub fn supplier_exact(price: Price, share: Share, seconds: i64) -> Result<Exact, MoneyError> {
    let numerator = price
        .0
        .checked_mul(i128::from(share.0))
        .and_then(|n| n.checked_mul(i128::from(seconds)))
        .ok_or(MoneyError::Overflow { doing: "multiplying a price by a share and seconds" })?;
    Ok(Exact { numerator, denominator: SUPPLIER_DENOMINATOR })
}

/// **The one rounding of rated amounts**: to the ninth decimal, half to even.
pub fn round_half_even(exact: Exact) -> i128 {
    let floor = exact.numerator.div_euclid(exact.denominator);
    let twice_rest = exact.numerator.rem_euclid(exact.denominator) * 2;
    match twice_rest.cmp(&exact.denominator) {
        std::cmp::Ordering::Less => floor,
        std::cmp::Ordering::Greater => floor + 1,
        std::cmp::Ordering::Equal => floor + floor.rem_euclid(2),
    }
}

/// Shares `total` by the exact parts: each gets its floor, what is left goes one by one to the largest remainders, the earlier
/// part first where they tie. The second value is what could not be placed that way (more than one unit per part, or less than
/// the floors hold); it is zero whenever `total` is the rounded sum of the parts.
pub fn share_by_largest_remainder(total: i128, parts: &[Exact]) -> Result<(Vec<i128>, i128), MoneyError> {
    let mut shares = Vec::with_capacity(parts.len());
    let mut left = total;
    for part in parts {
        let floor = part.numerator.div_euclid(part.denominator);
        left = left.checked_sub(floor).ok_or(MoneyError::Overflow { doing: "sharing an amount" })?;
        shares.push(floor);
    }
    let Ok(ones) = usize::try_from(left) else { return Ok((shares, left)) };
    if ones > parts.len() {
        return Ok((shares, left));
    }
    let mut by_remainder: Vec<usize> = (0..parts.len()).collect();
    by_remainder.sort_by_key(|&i| (-parts[i].numerator.rem_euclid(parts[i].denominator), i));
    for &i in by_remainder.iter().take(ones) {
        shares[i] += 1;
    }
    Ok((shares, 0))
}

fn parse_scaled(text: &str, digits: u32) -> Result<i128, MoneyError> {
    let not_decimal = || MoneyError::NotDecimal { text: text.chars().take(64).collect() };
    let (negative, body) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = body.split_once('.').unwrap_or((body, ""));
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) || body.ends_with('.') {
        return Err(not_decimal());
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > digits as usize {
        return Err(MoneyError::TooFine { text: text.into(), digits });
    }
    let mut value: i128 = 0;
    let padding = digits as usize - fraction.len();
    for digit in whole.bytes().chain(fraction.bytes()).map(|b| b - b'0').chain(std::iter::repeat_n(0, padding)) {
        value = value
            .checked_mul(10)
            .and_then(|v| v.checked_add(i128::from(digit)))
            .ok_or(MoneyError::Overflow { doing: "reading a number" })?;
    }
    Ok(if negative { -value } else { value })
}

/// `scaled` with its decimal point, exact, all digits shown.
fn show_scaled(scaled: i128, digits: u32) -> String {
    let unit = 10u128.pow(digits);
    let magnitude = scaled.unsigned_abs();
    let sign = if scaled < 0 { "-" } else { "" };
    format!("{sign}{}.{:0width$}", magnitude / unit, magnitude % unit, width = digits as usize)
}

fn trim_zeros(text: &str) -> &str {
    text.trim_end_matches('0').trim_end_matches('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_shows_exactly() {
        assert_eq!(Price::parse("2.50").unwrap().to_string(), "2.5");
        assert_eq!(Price::parse("0.000000000001").unwrap().scaled(), 1);
        assert_eq!(Share::parse_percent("80").unwrap().scaled(), 80_000_000);
        assert_eq!(Amount::parse("-14.736").unwrap().to_string(), "-14.736000000");
        assert_eq!(Amount::parse("-0.000000001").unwrap().to_string(), "-0.000000001");
        for bad in ["", ".", "1.", ".5", "1e3", "+1", " 1", "1,5", "--1"] {
            assert!(matches!(Amount::parse(bad), Err(MoneyError::NotDecimal { .. })), "{bad:?}");
        }
        assert!(matches!(Price::parse("0.0000000000001"), Err(MoneyError::TooFine { .. })));
        assert!(matches!(Price::parse("-1"), Err(MoneyError::OutOfRange { .. })));
        assert!(matches!(Share::parse_percent("100.000001"), Err(MoneyError::OutOfRange { .. })));
        assert!(matches!(Amount::parse(&"9".repeat(40)), Err(MoneyError::Overflow { .. })));
    }

    #[test]
    fn rounds_half_to_even() {
        let round = |n, d| round_half_even(Exact { numerator: n, denominator: d });
        assert_eq!(
            [round(1, 2), round(3, 2), round(5, 2), round(7, 4), round(-1, 2), round(-3, 2)],
            [0, 2, 2, 2, 0, -2]
        );
    }

    #[test]
    fn overflow_is_an_error() {
        let price = Price::parse("1000000000").unwrap();
        assert!(supplier_exact(price, Share::parse_percent("100").unwrap(), i64::MAX).is_err());
        assert!(renter_exact(price, 3_600_000_000 * 1_000_000).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn sharing_a_rounded_sum_places_all(numerators in proptest::collection::vec(0i128..10_000_000_000, 1..20)) {
            let parts: Vec<Exact> =
                numerators.iter().map(|&numerator| Exact { numerator, denominator: RENTER_DENOMINATOR }).collect();
            let sum = Exact { numerator: numerators.iter().sum(), denominator: RENTER_DENOMINATOR };
            let (shares, left) = share_by_largest_remainder(round_half_even(sum), &parts).unwrap();
            proptest::prop_assert_eq!(left, 0);
            proptest::prop_assert_eq!(shares.iter().sum::<i128>(), round_half_even(sum));
        }
    }
}
