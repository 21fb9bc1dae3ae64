//! Big rationals, rounding and sharing.

use hydrometer_schemas::contract::Decimal;
use num_bigint::BigInt;
use num_rational::BigRational;
use num_traits::{One, Signed, ToPrimitive, Zero};

pub fn whole(n: i128) -> BigRational {
    BigRational::from_integer(BigInt::from(n))
}

pub fn fraction(numerator: i128, denominator: i128) -> BigRational {
    BigRational::new(BigInt::from(numerator), BigInt::from(denominator))
}

/// A plain decimal as it was written.
pub fn decimal(text: &Decimal) -> BigRational {
    let (whole_part, digits) = text.0.split_once('.').unwrap_or((&text.0, ""));
    let number: BigInt = format!("{whole_part}{digits}").parse().unwrap_or_default();
    BigRational::new(number, BigInt::from(10).pow(digits.len() as u32))
}

fn billion() -> BigRational {
    whole(1_000_000_000)
}

/// To the ninth decimal, half to even.
pub fn round(exact: &BigRational) -> BigRational {
    let scaled = exact * billion();
    let below = scaled.floor();
    let rest = &scaled - &below;
    let half = fraction(1, 2);
    let is_odd = !(below.to_integer() % BigInt::from(2)).is_zero();
    let up = rest > half || (rest == half && is_odd);
    (below + if up { BigRational::one() } else { BigRational::zero() }) / billion()
}

/// `total` in parts of whole 1e-9: each its floor, the rest one by one to the largest remainders, the earlier first.
pub fn largest_remainder(total: &BigRational, parts: &[BigRational]) -> Vec<BigRational> {
    let unit = BigRational::one() / billion();
    let mut shares: Vec<BigRational> = parts.iter().map(|part| (part * billion()).floor() / billion()).collect();
    let mut left = shares.iter().fold(total.clone(), |left, share| left - share);
    let mut given = vec![false; parts.len()];
    while left.is_positive() {
        let mut best: Option<usize> = None;
        for (n, is_given) in given.iter().enumerate() {
            let rest = |n: usize| &parts[n] - (&parts[n] * billion()).floor() / billion();
            if !is_given && best.is_none_or(|best| rest(n) > rest(best)) {
                best = Some(n);
            }
        }
        let Some(best) = best else { break };
        given[best] = true;
        shares[best] += &unit;
        left -= &unit;
    }
    shares
}

pub fn nano(amount: &BigRational) -> i128 {
    (amount * billion()).to_integer().to_i128().unwrap_or(i128::MAX)
}
