//! Drawing a minute, and numbers as they were before rounding.

use ethnum::I256;
use hydrometer_rating::money::{Amount, Exact};
use hydrometer_rating::terms::{MICRO, Micro};
use hydrometer_schemas::time::SECONDS_PER_MINUTE;

pub const LEGEND: &str = "# busy, + present, . no reading, _ not this record's second";

/// A minute as 60 characters, its first second first; seconds outside of `within` are drawn as `_`.
pub fn minute(present: u64, busy: u64, within: u64) -> String {
    (0..SECONDS_PER_MINUTE)
        .map(|second| {
            let has = |mask: u64| mask >> second & 1 == 1;
            match (has(within), has(present), has(busy)) {
                (false, _, _) => '_',
                (true, true, true) => '#',
                (true, true, false) => '+',
                (true, false, _) => '.',
            }
        })
        .collect()
}

/// A quotient in units of 1e-9, as a decimal with up to 15 digits; `…` where it goes on.
pub fn exact(exact: Exact) -> String {
    let more = I256::from(1_000_000);
    let negative = exact.numerator < I256::ZERO;
    let magnitude = if negative { -exact.numerator } else { exact.numerator };
    let (whole, rest) = (magnitude / exact.denominator, magnitude % exact.denominator);
    let (digits, left) = (rest * more / exact.denominator, rest * more % exact.denominator);
    let Ok(whole) = i128::try_from(whole) else { return "beyond 128 bits".to_owned() };
    let text = format!("{}{:0>6}", Amount::from_scaled(whole), digits.to_string());
    let text = text.trim_end_matches('0');
    // Amounts have nine decimals, needed or not; what follows them is shown where there is something.
    let point = text.find('.').unwrap_or(text.len());
    let padded = format!("{text:0<width$}", width = point + 10);
    format!("{}{padded}{}", if negative { "-" } else { "" }, if left > I256::ZERO { "…" } else { "" })
}

/// How much of the ninth decimal a record carries beyond its exact amount, rounded down.
pub fn remainder(amount: Amount, exact: Exact) -> I256 {
    I256::from(amount.scaled()) - exact.numerator.div_euclid(exact.denominator)
}

/// A quantity in millionths of a piece, in units of a price: with up to six digits, rounded.
pub fn units(quantity: Micro, pieces_per_unit: i128) -> String {
    let pieces = pieces_per_unit.max(1);
    let (whole, rest) = (quantity / pieces, quantity % pieces);
    let micros = whole + rest.saturating_mul(2) / pieces;
    let sign = if micros < 0 { "-" } else { "" };
    let (whole, rest) = (micros.unsigned_abs() / MICRO.unsigned_abs(), micros.unsigned_abs() % MICRO.unsigned_abs());
    let text = format!("{sign}{whole}.{rest:06}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_sixty_characters() {
        let all = (1u64 << 60) - 1;
        assert_eq!(minute(0, 0, all), ".".repeat(60));
        assert_eq!(minute(all, all, all), "#".repeat(60));
        // Busy without present cannot be; it is drawn as what is billed: nothing was reported.
        let drawn = minute(0b0111, 0b1001, all & !0b0010);
        assert_eq!(drawn, format!("#_+{}", ".".repeat(57)));
        assert_eq!(minute(1 << 59, 0, all).chars().last(), Some('+'));
    }

    fn quotient(numerator: i128, denominator: i128) -> Exact {
        Exact { numerator: I256::from(numerator), denominator: I256::from(denominator) }
    }

    #[test]
    fn quotients_are_shown_as_they_are() {
        assert_eq!(exact(quotient(2_500_000_000, 1)), "2.500000000");
        // A second at 2.50 an hour.
        let second = |sign: i128| quotient(sign * 2_500_000_000, 3_600);
        assert_eq!(exact(second(1)), "0.000694444444444…");
        assert_eq!(exact(second(-1)), "-0.000694444444444…");
        assert_eq!(exact(quotient(5, 1_000)), "0.000000000005");
        assert_eq!(exact(quotient(0, 7)), "0.000000000");
        assert_eq!(remainder(Amount::from_scaled(694_445), second(1)), I256::ONE);
        assert_eq!(remainder(Amount::from_scaled(-694_445), second(-1)), I256::ZERO);
    }

    #[test]
    fn quantities_are_shown_in_units() {
        assert_eq!(units(5_400 * MICRO, 3_600), "1.5");
        assert_eq!(units(MICRO, 3_600), "0.000278");
        assert_eq!(units(-3_600 * MICRO, 3_600), "-1");
        assert_eq!(units(0, 1), "0");
    }
}
