//! Money, exact: a whole number of 1e-9 of a currency's unit.

use std::error::Error;
use std::fmt;
use std::str::FromStr;

use tokio_postgres::types::private::BytesMut;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, accepts, to_sql_checked};

/// An amount in steps of 1e-9. No floats, no silent rounding, no wrap.
///
/// It covers ±1.7 × 10^29 units, more than the ledger's `numeric(38, 9)` holds in one amount or balance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Amount(i128);

const DECIMALS: usize = 9;
const UNIT: u128 = 1_000_000_000;

/// Why a text is not an amount.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an amount: expected digits, at most 9 of them after a point, below 1.7 × 10^29")]
pub struct AmountError {
    text: String,
}

impl Amount {
    pub const ZERO: Amount = Amount(0);

    /// The greatest amount that one transfer, and one side of a balance, can hold.
    pub const MAX_POSTABLE: Amount = Amount(10_i128.pow(38) - 1);

    /// From a number of 1e-9.
    pub const fn from_nanos(nanos: i128) -> Self {
        Amount(nanos)
    }

    pub const fn nanos(self) -> i128 {
        self.0
    }

    pub const fn is_positive(self) -> bool {
        self.0 > 0
    }

    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    pub fn checked_add(self, other: Amount) -> Option<Amount> {
        self.0.checked_add(other.0).map(Amount)
    }

    pub fn checked_sub(self, other: Amount) -> Option<Amount> {
        self.0.checked_sub(other.0).map(Amount)
    }

    pub fn checked_neg(self) -> Option<Amount> {
        self.0.checked_neg().map(Amount)
    }

    /// The sum, or nothing when it does not fit.
    pub fn checked_sum(amounts: impl IntoIterator<Item = Amount>) -> Option<Amount> {
        amounts.into_iter().try_fold(Amount::ZERO, Amount::checked_add)
    }
}

/// Always with nine decimals, so that equal amounts are equal texts.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0.unsigned_abs() / UNIT, self.0.unsigned_abs() % UNIT);
        f.pad_integral(self.0 >= 0, "", &format!("{whole}.{rest:09}"))
    }
}

impl FromStr for Amount {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| AmountError { text: text.to_owned() })
    }
}

fn parse(text: &str) -> Option<Amount> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.len() > DECIMALS {
        return None;
    }
    let zeros = DECIMALS - fraction.len();
    let mut nanos: i128 = 0;
    for byte in whole.bytes().chain(fraction.bytes()).chain(std::iter::repeat_n(b'0', zeros)) {
        let digit = i128::from(byte.checked_sub(b'0').filter(|digit| *digit < 10)?);
        // Towards the sign, since the least number has no positive counterpart.
        let digit = if negative { -digit } else { digit };
        nanos = nanos.checked_mul(10)?.checked_add(digit)?;
    }
    Some(Amount(nanos))
}

// PostgreSQL's binary numeric: the number of digits to the base 10^4, the weight of the first of them, a sign, how many
// decimals to show, and the digits. Digits after the point begin at one of these, so three of them hold nine decimals
// and three zeros.
const BASE: u128 = 10_000;
const PADDING: u128 = 1_000;
const NEGATIVE: u16 = 0x4000;

impl ToSql for Amount {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        let nanos = self.0.unsigned_abs();
        // Least digit first. 40 decimal digits and the padding make 11 at most.
        let mut digits = [0_u16; 11];
        let mut count = 0;
        let (mut whole, mut fraction) = (nanos / UNIT, nanos % UNIT * PADDING);
        for part in [&mut fraction, &mut whole] {
            let fixed = if count == 0 { 3 } else { 0 };
            while *part > 0 || count < fixed {
                digits[count] = u16::try_from(*part % BASE)?;
                *part /= BASE;
                count += 1;
            }
        }
        let zeros = digits[..count].iter().take_while(|digit| **digit == 0).count();
        let sign = if self.0 < 0 { NEGATIVE } else { 0 };
        let weight = i16::try_from(count)? - 4;
        out.extend_from_slice(&u16::try_from(count - zeros)?.to_be_bytes());
        out.extend_from_slice(&weight.to_be_bytes());
        out.extend_from_slice(&sign.to_be_bytes());
        out.extend_from_slice(&u16::try_from(DECIMALS)?.to_be_bytes());
        for digit in digits[zeros..count].iter().rev() {
            out.extend_from_slice(&digit.to_be_bytes());
        }
        Ok(IsNull::No)
    }

    accepts!(NUMERIC);
    to_sql_checked!();
}

impl<'a> FromSql<'a> for Amount {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        from_numeric(raw).ok_or_else(|| "a numeric that is not a multiple of 1e-9 below 1.7 × 10^29".into())
    }

    accepts!(NUMERIC);
}

fn from_numeric(raw: &[u8]) -> Option<Amount> {
    let (words, rest) = raw.as_chunks::<2>();
    if !rest.is_empty() || words.len() < 4 {
        return None;
    }
    let word = |n: usize| u16::from_be_bytes(words[n]);
    let (count, sign) = (usize::from(word(0)), word(2));
    if words.len() != 4 + count || (sign != 0 && sign != NEGATIVE) {
        return None;
    }
    let mut exponent = i32::from(i16::from_be_bytes(words[1]));
    let mut nanos: i128 = 0;
    for digit in &words[4..] {
        // A digit stands for itself times 10000^exponent units.
        let digit = i128::from(u16::from_be_bytes(*digit));
        let digit = if sign == NEGATIVE { -digit } else { digit };
        let value = match exponent {
            0.. => digit
                .checked_mul(10_i128.checked_pow(u32::try_from(exponent).ok()?.checked_mul(4)?.checked_add(9)?)?)?,
            -1 => digit * 100_000,
            -2 => digit * 10,
            -3 if digit % 1_000 == 0 => digit / 1_000,
            _ if digit == 0 => 0,
            _ => return None,
        };
        nanos = nanos.checked_add(value)?;
        exponent -= 1;
    }
    Some(Amount(nanos))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for (text, nanos, shown) in [
            ("0", 0, "0.000000000"),
            ("1", 1_000_000_000, "1.000000000"),
            ("-0.000000001", -1, "-0.000000001"),
            ("12.5", 12_500_000_000, "12.500000000"),
            ("10000000000000000000000000000", 10_i128.pow(37), "10000000000000000000000000000.000000000"),
            ("170141183460469231731687303715.884105727", i128::MAX, "170141183460469231731687303715.884105727"),
            ("-170141183460469231731687303715.884105728", i128::MIN, "-170141183460469231731687303715.884105728"),
        ] {
            let amount: Amount = text.parse().unwrap();
            assert_eq!(amount.nanos(), nanos);
            assert_eq!(amount.to_string(), shown);
            assert_eq!(shown.parse(), Ok(amount));
        }
        assert_eq!(format!("{:>14}", Amount::from_nanos(-1)), "  -0.000000001");
    }

    #[test]
    fn binary_and_back() {
        let mut edges = vec![0, 1, -1, 999, 1_000, 99_999, 100_000, i128::MAX, i128::MIN, i128::MIN + 1];
        for power in 0..39 {
            let power = 10_i128.pow(power);
            edges.extend([power - 1, power, power + 1, -power, 7 * (power / 10)]);
        }
        for nanos in edges {
            let mut out = BytesMut::new();
            Amount(nanos).to_sql(&Type::NUMERIC, &mut out).unwrap();
            assert_eq!(Amount::from_sql(&Type::NUMERIC, &out).unwrap(), Amount(nanos), "{nanos}");
        }
        // NaN, infinity, ten decimals, too great, cut short.
        for raw in [
            [0, 0, 0xc000, 0].as_slice(),
            &[0, 0, 0xd000, 0],
            &[1, 0xfffd, 0, 10, 100],
            &[1, 8, 0, 0, 1],
            &[2, 0, 0, 0, 1],
        ] {
            let bytes: Vec<u8> = raw.iter().flat_map(|word: &u16| word.to_be_bytes()).collect();
            assert!(Amount::from_sql(&Type::NUMERIC, &bytes).is_err(), "{raw:?}");
        }
    }

    #[test]
    fn what_is_no_amount() {
        for text in ["", "-", ".", "1.", ".5", "1.0000000001", "1e3", "+1", " 1", "1,5", "NaN", "--1", "1.-5"] {
            assert!(text.parse::<Amount>().is_err(), "{text:?}");
        }
        assert!("170141183460469231731687303715.884105728".parse::<Amount>().is_err());
    }

    #[test]
    fn no_wrap() {
        let (most, least) = (Amount::from_nanos(i128::MAX), Amount::from_nanos(i128::MIN));
        assert_eq!(most.checked_add(Amount::from_nanos(1)), None);
        assert_eq!(least.checked_sub(Amount::from_nanos(1)), None);
        assert_eq!(least.checked_neg(), None);
        assert_eq!(Amount::checked_sum([most, least]), Some(Amount::from_nanos(-1)));
    }
}
