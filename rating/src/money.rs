//! Exact money: scaled integers, checked arithmetic, one rounding (law 5).

use std::fmt;

use ethnum::I256;

/// A price per unit (a GPU-hour, a kWh …), in units of 1e-12 of the currency.
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
    #[error("an amount is too large for exact arithmetic while {doing}")]
    Overflow { doing: &'static str },
}

const PRICE_DIGITS: u32 = 12;
const AMOUNT_DIGITS: u32 = 9;
const PERCENT_DIGITS: u32 = 6;
const PRICE_MAX: i128 = 1_000_000_000 * 10i128.pow(PRICE_DIGITS);
pub const SHARE_WHOLE: i64 = 100_000_000;

/// Units of a price (1e-12) in a unit of an amount (1e-9).
pub const PRICE_PER_AMOUNT: i128 = 10i128.pow(PRICE_DIGITS - AMOUNT_DIGITS);

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

/// An exact fraction, above 0 where it is a divisor's business: what a fee or a minimum is cut by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    pub numerator: i128,
    pub denominator: i128,
}

impl Fraction {
    pub const ONE: Fraction = Fraction { numerator: 1, denominator: 1 };
    pub const ZERO: Fraction = Fraction { numerator: 0, denominator: 1 };
}

/// An exact quotient that is not divided yet: what a quantity is worth before the one rounding, in units of 1e-9.
///
/// 256 bits: a price of 1e9 with 12 digits (70 bits), a million GPUs for a century in millionths of a second (72), a multiplier (20)
/// and a share (27) need 189. Where 128 bits hold both sides they are used, since that is many times as fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exact {
    pub numerator: I256,
    /// Above zero.
    pub denominator: I256,
}

impl Exact {
    pub const ZERO: Exact = Exact { numerator: I256::ZERO, denominator: I256::ONE };

    pub fn of(amount: Amount) -> Exact {
        Exact { numerator: I256::from(amount.0), denominator: I256::ONE }
    }

    pub fn plus(self, other: Exact) -> Result<Exact, MoneyError> {
        if self.denominator == other.denominator {
            return Ok(Exact { numerator: add(self.numerator, other.numerator)?, denominator: self.denominator });
        }
        let common = lcm(self.denominator, other.denominator)?;
        let left = mul(self.numerator, common / self.denominator)?;
        let right = mul(other.numerator, common / other.denominator)?;
        Ok(Exact { numerator: add(left, right)?, denominator: common })
    }

    pub fn minus(self, other: Exact) -> Result<Exact, MoneyError> {
        self.plus(Exact { numerator: sub(I256::ZERO, other.numerator)?, denominator: other.denominator })
    }

    /// Times an exact fraction, in lowest terms.
    pub fn times(self, numerator: i128, denominator: i128) -> Result<Exact, MoneyError> {
        let (mut n, mut d) = (I256::from(numerator), I256::from(denominator));
        let crossed = gcd(self.numerator, d);
        let (own, d_less) =
            if crossed > I256::ONE { (self.numerator / crossed, d / crossed) } else { (self.numerator, d) };
        d = d_less;
        let crossed = gcd(n, self.denominator);
        let own_denominator = if crossed > I256::ONE {
            n /= crossed;
            self.denominator / crossed
        } else {
            self.denominator
        };
        Ok(Exact { numerator: mul(own, n)?, denominator: mul(own_denominator, d)? })
    }

    pub fn share(self, share: Share) -> Result<Exact, MoneyError> {
        self.times(i128::from(share.0), i128::from(SHARE_WHOLE))
    }

    /// Times a fraction.
    pub fn cut(self, fraction: Fraction) -> Result<Exact, MoneyError> {
        self.times(fraction.numerator, fraction.denominator)
    }

    pub fn is_positive(self) -> bool {
        self.numerator > I256::ZERO
    }

    pub fn is_negative(self) -> bool {
        self.numerator < I256::ZERO
    }

    /// [`round_half_even`] to an amount.
    pub fn round(self) -> Result<Amount, MoneyError> {
        round_half_even(self).map(Amount)
    }
}

/// **The one rounding of rated amounts**: to the ninth decimal, half to even.
pub fn round_half_even(exact: Exact) -> Result<i128, MoneyError> {
    let (floor, rest) = divide(exact.numerator, exact.denominator);
    let floor = narrow(floor)?;
    // Half of the denominator against the rest, without doubling, which could overflow.
    let up = match rest.cmp(&(exact.denominator - rest)) {
        std::cmp::Ordering::Less => 0,
        std::cmp::Ordering::Greater => 1,
        std::cmp::Ordering::Equal => floor.rem_euclid(2),
    };
    floor.checked_add(up).ok_or(MoneyError::Overflow { doing: "rounding" })
}

/// Shares `total` by exact parts over one denominator: each gets its floor, what is left goes one by one to the largest remainders,
/// the earlier part first where they tie. The second value is what could not be placed that way (more than one unit per part, or
/// less than the floors hold); it is zero whenever `total` is the rounded sum of the parts.
pub fn share_by_largest_remainder(
    total: i128,
    numerators: &[I256],
    denominator: I256,
) -> Result<(Vec<i128>, i128), MoneyError> {
    let mut shares = Vec::with_capacity(numerators.len());
    let mut rests = Vec::with_capacity(numerators.len());
    let mut left = total;
    for &numerator in numerators {
        let (floor, rest) = divide(numerator, denominator);
        let floor = narrow(floor)?;
        left = left.checked_sub(floor).ok_or(MoneyError::Overflow { doing: "sharing an amount" })?;
        shares.push(floor);
        rests.push(rest);
    }
    Ok(place(shares, &rests, left))
}

/// Gives `left` units one by one to the largest rests; what cannot be placed that way is handed back.
fn place<R: Ord>(mut shares: Vec<i128>, rests: &[R], left: i128) -> (Vec<i128>, i128) {
    let Ok(ones) = usize::try_from(left) else { return (shares, left) };
    if ones == 0 || ones > shares.len() {
        return (shares, left);
    }
    let mut order: Vec<usize> = (0..shares.len()).collect();
    // Only which ones are the largest matters, not their order.
    order.select_nth_unstable_by(ones - 1, |&a, &b| rests[b].cmp(&rests[a]).then(a.cmp(&b)));
    for &i in order.iter().take(ones) {
        shares[i] += 1;
    }
    (shares, 0)
}

/// Shares `total` in proportion to `weights`, whose sum is not zero, by largest remainder. All of it is placed.
pub fn share_by_weight(total: i128, weights: &[i128]) -> Result<Vec<i128>, MoneyError> {
    if let [_] = weights {
        return Ok(vec![total]);
    }
    let mut sum: i128 = 0;
    for &weight in weights {
        sum = sum.checked_add(weight).ok_or(MoneyError::Overflow { doing: "summing quantities" })?;
    }
    if sum == 0 {
        return Err(MoneyError::Overflow { doing: "sharing an amount over no quantity" });
    }
    let heaviest = weights.iter().map(|weight| weight.unsigned_abs()).max().unwrap_or(0);
    let fits = i128::try_from(heaviest).ok().and_then(|heaviest| heaviest.checked_mul(total)).is_some();
    let signed = total.checked_mul(sum.signum()).zip(sum.checked_abs()).filter(|_| fits);
    let (shares, left) = if let Some((signed_total, sum)) = signed {
        share_by_weight_in_128_bits(total, signed_total, weights, sum)?
    } else {
        // A negative sum turns all signs round, so that the denominator is above zero.
        let sign = I256::from(sum.signum());
        let mut numerators = Vec::with_capacity(weights.len());
        for &weight in weights {
            numerators.push(mul(mul(I256::from(total), I256::from(weight))?, sign)?);
        }
        share_by_largest_remainder(total, &numerators, mul(I256::from(sum), sign)?)?
    };
    debug_assert_eq!(left, 0, "the parts of a whole always place");
    Ok(shares)
}

/// `sum` is above zero; `signed_total` is the total with the sign that the sum had, and no weight times it overflows.
fn share_by_weight_in_128_bits(
    total: i128,
    signed_total: i128,
    weights: &[i128],
    sum: i128,
) -> Result<(Vec<i128>, i128), MoneyError> {
    let mut shares = Vec::with_capacity(weights.len());
    let mut rests = Vec::with_capacity(weights.len());
    let mut left = total;
    for &weight in weights {
        let product = signed_total * weight;
        let (mut floor, mut rest) = (product / sum, product % sum);
        if rest < 0 {
            (floor, rest) = (floor - 1, rest + sum);
        }
        left = left.checked_sub(floor).ok_or(MoneyError::Overflow { doing: "sharing an amount" })?;
        shares.push(floor);
        rests.push(rest);
    }
    Ok(place(shares, &rests, left))
}

pub(crate) fn mul(a: I256, b: I256) -> Result<I256, MoneyError> {
    if let (Some(a), Some(b)) = (short(a), short(b))
        && let Some(product) = a.checked_mul(b)
    {
        return Ok(I256::from(product));
    }
    a.checked_mul(b).ok_or(MoneyError::Overflow { doing: "multiplying a price by a quantity" })
}

pub(crate) fn add(a: I256, b: I256) -> Result<I256, MoneyError> {
    a.checked_add(b).ok_or(MoneyError::Overflow { doing: "summing a period" })
}

pub(crate) fn sub(a: I256, b: I256) -> Result<I256, MoneyError> {
    a.checked_sub(b).ok_or(MoneyError::Overflow { doing: "subtracting from a period" })
}

pub(crate) fn gcd(a: I256, b: I256) -> I256 {
    let (mut a, mut b) = (a, b);
    while b != I256::ZERO {
        (a, b) = match (short(a), short(b)) {
            (Some(x), Some(y)) => (b, I256::from(x.wrapping_rem(y))),
            _ => (b, a.wrapping_rem(b)),
        };
    }
    if a < I256::ZERO { I256::ZERO.wrapping_sub(a) } else { a }
}

pub(crate) fn lcm(a: I256, b: I256) -> Result<I256, MoneyError> {
    let common = gcd(a, b);
    if common == I256::ZERO { Ok(I256::ZERO) } else { mul(a / common, b) }
}

/// Floor and rest, the rest from 0 to below the denominator, which is above zero.
fn divide(numerator: I256, denominator: I256) -> (I256, I256) {
    match (short(numerator), short(denominator)) {
        (Some(n), Some(d)) => {
            let (floor, rest) = (n / d, n % d);
            let (floor, rest) = if rest < 0 { (floor - 1, rest + d) } else { (floor, rest) };
            (I256::from(floor), I256::from(rest))
        }
        _ => (numerator.div_euclid(denominator), numerator.rem_euclid(denominator)),
    }
}

fn short(wide: I256) -> Option<i128> {
    i128::try_from(wide).ok()
}

fn narrow(wide: I256) -> Result<i128, MoneyError> {
    short(wide).ok_or(MoneyError::Overflow { doing: "rounding" })
}

pub(crate) fn parse_scaled(text: &str, digits: u32) -> Result<i128, MoneyError> {
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
        let round =
            |n: i128, d: i128| round_half_even(Exact { numerator: I256::from(n), denominator: I256::from(d) }).unwrap();
        assert_eq!(
            [round(1, 2), round(3, 2), round(5, 2), round(7, 4), round(-1, 2), round(-3, 2)],
            [0, 2, 2, 2, 0, -2]
        );
    }

    #[test]
    fn beyond_128_bits_and_beyond_256() {
        let big = I256::from(i128::MAX);
        let product = mul(big, big).unwrap();
        assert_eq!(divide(product, big), (big, I256::ZERO));
        assert!(mul(product, I256::from(4)).is_err());
        assert!(mul(product, I256::from(-4)).is_err());
        assert!(round_half_even(Exact { numerator: product, denominator: I256::ONE }).is_err());
        assert_eq!(gcd(I256::from(-12), I256::from(18)), I256::from(6));
    }

    proptest::proptest! {
        #[test]
        fn sharing_a_rounded_sum_places_all(numerators in proptest::collection::vec(-10_000_000_000i128..10_000_000_000, 1..20)) {
            let denominator = I256::from(3_600_000);
            let wide: Vec<I256> = numerators.iter().map(|&n| I256::from(n)).collect();
            let sum = Exact { numerator: I256::from(numerators.iter().sum::<i128>()), denominator };
            let total = round_half_even(sum).unwrap();
            let (shares, left) = share_by_largest_remainder(total, &wide, denominator).unwrap();
            proptest::prop_assert_eq!(left, 0);
            proptest::prop_assert_eq!(shares.iter().sum::<i128>(), total);
        }

        #[test]
        fn sharing_by_weight_places_all(total in proptest::num::i128::ANY, weights in proptest::collection::vec(-1_000_000i128..1_000_000, 1..20)) {
            proptest::prop_assume!(weights.iter().sum::<i128>() != 0);
            let total = total >> 40;
            let shares = share_by_weight(total, &weights).unwrap();
            proptest::prop_assert_eq!(shares.iter().sum::<i128>(), total);
        }
    }
}
