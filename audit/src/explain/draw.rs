//! Drawing a minute, and numbers as they were before rounding.

use hydrometer_rating::money::{Amount, Exact};
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
    const MORE: i128 = 1_000_000;
    let negative = exact.numerator < 0;
    let magnitude = exact.numerator.abs();
    let (whole, rest) = (magnitude / exact.denominator, magnitude % exact.denominator);
    let (digits, left) = (rest * MORE / exact.denominator, rest * MORE % exact.denominator);
    let text = format!("{}{digits:06}", Amount::from_scaled(whole));
    let text = text.trim_end_matches('0');
    // Amounts have nine decimals, needed or not; what follows them is shown where there is something.
    let point = text.find('.').unwrap_or(text.len());
    let padded = format!("{text:0<width$}", width = point + 10);
    format!("{}{padded}{}", if negative { "-" } else { "" }, if left > 0 { "…" } else { "" })
}

/// How much of the ninth decimal a record carries beyond its exact amount, rounded down.
pub fn remainder(amount: Amount, exact: Exact) -> i128 {
    amount.scaled() - exact.numerator.div_euclid(exact.denominator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydrometer_rating::money::{Price, Share, renter_exact, supplier_exact};

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

    #[test]
    fn quotients_are_shown_as_they_are() {
        let price = Price::parse("2.50").unwrap();
        assert_eq!(exact(renter_exact(price, 3_600).unwrap()), "2.500000000");
        assert_eq!(exact(renter_exact(price, 1).unwrap()), "0.000694444444444…");
        assert_eq!(exact(renter_exact(price, -1).unwrap()), "-0.000694444444444…");
        let third =
            supplier_exact(Price::parse("0.000000036").unwrap(), Share::parse_percent("50").unwrap(), 1).unwrap();
        assert_eq!(exact(third), "0.000000000005");
        assert_eq!(exact(Exact { numerator: 0, denominator: 7 }), "0.000000000");
        assert_eq!(remainder(Amount::from_scaled(694_445), renter_exact(price, 1).unwrap()), 1);
        assert_eq!(remainder(Amount::from_scaled(-694_445), renter_exact(price, -1).unwrap()), 0);
    }
}
