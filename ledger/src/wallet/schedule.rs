//! Plans in time, and how long a balance lasts.

use chrono::{DateTime, Months, Utc};

use crate::{Amount, LedgerError};

/// An amount that belongs to a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub at: DateTime<Utc>,
    pub amount: Amount,
}

/// Equal parts, one at the start of each month, that add up to the amount: the first ones bear a step of 1e-9 more
/// where it cannot be divided. Months are counted in UTC, from `start` (the 31st becomes a shorter month's last day).
pub fn monthly(start: DateTime<Utc>, months: u32, amount: Amount) -> Result<Vec<Part>, LedgerError> {
    let refuse = |detail: String| LedgerError::Invalid {
        what: "no monthly plan can be made".to_owned(),
        detail,
        hint: "State at least one month, and a positive amount of at least 1e-9 a month",
    };
    let count = i128::from(months);
    if months == 0 || amount.nanos() < count {
        return Err(refuse(format!("{months} months, amount {amount}")));
    }
    let (each, more) = (amount.nanos() / count, amount.nanos() % count);
    (0..months)
        .map(|month| {
            let at = start
                .checked_add_months(Months::new(month))
                .ok_or_else(|| refuse(format!("{months} months from {start} reach beyond the calendar")))?;
            Ok(Part { at, amount: Amount::from_nanos(each + i128::from(i128::from(month) < more)) })
        })
        .collect()
}

/// What is burned, as a ratio: an amount in a number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Burn {
    pub amount: Amount,
    pub seconds: u32,
}

/// For how many whole seconds a balance lasts at this burn; nothing when it lasts for ever, or longer than can be told.
pub fn runway(balance: Amount, burn: Burn) -> Option<u64> {
    if !balance.is_positive() {
        return Some(0);
    }
    if !burn.amount.is_positive() || burn.seconds == 0 {
        return None;
    }
    // Both by parts: a balance times seconds need not fit.
    let seconds = i128::from(burn.seconds);
    let (whole, rest) = (balance.nanos() / burn.amount.nanos(), balance.nanos() % burn.amount.nanos());
    let rest = match rest.checked_mul(seconds) {
        Some(product) => product / burn.amount.nanos(),
        None => long_division(rest, seconds, burn.amount.nanos()),
    };
    whole.checked_mul(seconds)?.checked_add(rest)?.try_into().ok()
}

/// `rest × seconds ÷ burn` for `0 ≤ rest < burn`, bit by bit of the seconds.
fn long_division(rest: i128, seconds: i128, burn: i128) -> i128 {
    let (rest, burn) = (rest.unsigned_abs(), burn.unsigned_abs());
    let (mut quotient, mut remainder) = (0_i128, 0_u128);
    for bit in (0..32).rev() {
        remainder *= 2;
        quotient *= 2;
        if remainder >= burn {
            remainder -= burn;
            quotient += 1;
        }
        if seconds >> bit & 1 == 1 {
            remainder += rest;
            if remainder >= burn {
                remainder -= burn;
                quotient += 1;
            }
        }
    }
    quotient
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn amount(text: &str) -> Amount {
        text.parse().unwrap()
    }

    #[test]
    fn months_add_up() {
        let parts = monthly("2026-01-31T10:00:00Z".parse().unwrap(), 3, amount("0.000000010")).unwrap();
        let shown: Vec<String> = parts.iter().map(|part| format!("{} {}", part.at.date_naive(), part.amount)).collect();
        assert_eq!(shown, ["2026-01-31 0.000000004", "2026-02-28 0.000000003", "2026-03-31 0.000000003"]);
        assert!(monthly(DateTime::<Utc>::UNIX_EPOCH, 0, amount("1")).is_err());
        assert!(monthly(DateTime::<Utc>::UNIX_EPOCH, 12, amount("0.000000011")).is_err());
        assert!(monthly(DateTime::<Utc>::MAX_UTC, 12, amount("1")).is_err());
    }

    #[test]
    fn how_long_it_lasts() {
        let burn = |text: &str, seconds| Burn { amount: amount(text), seconds };
        assert_eq!(runway(amount("10"), burn("3.6", 3600)), Some(10_000));
        assert_eq!(runway(amount("9.999999999"), burn("1", 1)), Some(9));
        assert_eq!(runway(amount("0"), burn("1", 1)), Some(0));
        assert_eq!(runway(amount("-1"), burn("0", 1)), Some(0));
        assert_eq!(runway(amount("1"), burn("0", 1)), None);
        assert_eq!(runway(amount("1"), burn("-1", 1)), None);
        assert_eq!(runway(Amount::from_nanos(i128::MAX), burn("0.000000001", 1)), None);
        let most = Amount::from_nanos(i128::MAX);
        assert_eq!(runway(most, Burn { amount: most, seconds: u32::MAX }), Some(u64::from(u32::MAX)));
        let less = Amount::from_nanos(i128::MAX - 1);
        assert_eq!(runway(less, Burn { amount: most, seconds: u32::MAX }), Some(u64::from(u32::MAX) - 1));
    }

    #[test]
    fn long_division_is_division() {
        for (rest, seconds, burn) in [(5, 7, 9), (8, 4_294_967_295, 9), (0, 3, 1), (999, 86_400, 1_000)] {
            assert_eq!(long_division(rest, seconds, burn), rest * seconds / burn);
        }
    }
}
