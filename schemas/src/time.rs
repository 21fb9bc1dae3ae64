//! Time in Hydrometer: integers since 1970 UTC. Microseconds where readings are told apart, seconds where they are billed.

use chrono::{DateTime, Datelike, NaiveDate, SecondsFormat};

/// Microseconds since 1970-01-01T00:00:00Z.
pub type Micros = i64;
/// Seconds since 1970-01-01T00:00:00Z.
pub type Second = i64;
/// Minutes since 1970-01-01T00:00:00Z: minute `m` covers the seconds `[60 m, 60 m + 60)`.
pub type Minute = i64;

pub const MICROS_PER_SECOND: i64 = 1_000_000;
pub const SECONDS_PER_MINUTE: i64 = 60;
pub const SECONDS_PER_HOUR: i64 = 3_600;
pub const SECONDS_PER_DAY: i64 = 86_400;
pub const MICROS_PER_MINUTE: i64 = 60 * MICROS_PER_SECOND;

/// The end of time, for a log that has ended (design: "a file log that ends, ends at infinity"). Far enough to never be
/// reached, near enough that adding a lateness to it does not overflow.
pub const FOREVER_MICROS: Micros = 253_402_300_799 * MICROS_PER_SECOND;
pub const FOREVER: Second = FOREVER_MICROS / MICROS_PER_SECOND;

pub fn second_of(time: Micros) -> Second {
    time.div_euclid(MICROS_PER_SECOND)
}

pub fn minute_of(time: Micros) -> Minute {
    time.div_euclid(MICROS_PER_MINUTE)
}

/// The start of the hour that holds `second`.
pub fn hour_floor(second: Second) -> Second {
    second.div_euclid(SECONDS_PER_HOUR) * SECONDS_PER_HOUR
}

pub fn hour_ceil(second: Second) -> Second {
    hour_floor(second + SECONDS_PER_HOUR - 1)
}

/// Reads RFC 3339 with a zone, to the microsecond (finer digits are cut off). `None` when it is anything else.
///
/// The common form `YYYY-MM-DDTHH:MM:SS[.ffffff]Z` is read by hand, since this is called once per reading.
pub fn parse_rfc3339(text: &str) -> Option<Micros> {
    parse_utc_fast(text.as_bytes()).or_else(|| DateTime::parse_from_rfc3339(text).ok().map(|t| t.timestamp_micros()))
}

fn parse_utc_fast(b: &[u8]) -> Option<Micros> {
    if b.len() < 20 || b[b.len() - 1] != b'Z' {
        return None;
    }
    let two = |i: usize| -> Option<i64> {
        let (hi, lo) = (b[i].wrapping_sub(b'0'), b[i + 1].wrapping_sub(b'0'));
        (hi < 10 && lo < 10).then(|| i64::from(hi) * 10 + i64::from(lo))
    };
    if b[4] != b'-' || b[7] != b'-' || b[10] != b'T' || b[13] != b':' || b[16] != b':' {
        return None;
    }
    let year = two(0)? * 100 + two(2)?;
    let (month, day, hour, minute, second) = (two(5)?, two(8)?, two(11)?, two(14)?, two(17)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut fraction = 0;
    if b.len() > 20 {
        if b[19] != b'.' || b.len() == 21 {
            return None;
        }
        let mut unit = 100_000;
        for &digit in &b[20..b.len() - 1] {
            let digit = digit.wrapping_sub(b'0');
            if digit > 9 {
                return None;
            }
            fraction += i64::from(digit) * unit;
            unit /= 10;
        }
    }
    let days = days_from_civil(year, month, day)?;
    Some((days * 86_400 + hour * 3_600 + minute * 60 + second) * MICROS_PER_SECOND + fraction)
}

/// Days since 1970 of a date of the proleptic Gregorian calendar; `None` when the month has no such day.
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let days_in_month = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    if day > days_in_month {
        return None;
    }
    // Years counted from March, so that the leap day is the last one (the usual era arithmetic).
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y - era * 400;
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// The start of the calendar month (UTC) that holds `second`.
pub fn month_floor(second: Second) -> Second {
    let Some(date) = date_of(second) else { return second };
    month_start(date.year(), date.month()).unwrap_or(second)
}

fn month_start(year: i32, month: u32) -> Option<Second> {
    NaiveDate::from_ymd_opt(year, month, 1)?.and_hms_opt(0, 0, 0).map(|t| t.and_utc().timestamp())
}

fn date_of(second: Second) -> Option<NaiveDate> {
    DateTime::from_timestamp(second, 0).map(|t| t.date_naive())
}

/// `2026-03-01T10:00:00Z`
pub fn show_second(second: Second) -> String {
    match DateTime::from_timestamp(second, 0) {
        Some(t) => t.to_rfc3339_opts(SecondsFormat::Secs, true),
        None => format!("second {second}"),
    }
}

/// `2026-03-01T10`, the form used in file names.
pub fn show_hour(second: Second) -> String {
    match DateTime::from_timestamp(second, 0) {
        Some(t) => t.format("%Y-%m-%dT%H").to_string(),
        None => format!("h{second}"),
    }
}

/// `2026-03-01`
pub fn show_date(second: Second) -> String {
    match date_of(second) {
        Some(d) => d.format("%Y-%m-%d").to_string(),
        None => format!("d{second}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_and_general_reader_agree() {
        for text in [
            "2026-03-01T10:20:30Z",
            "2026-03-01T10:20:30.5Z",
            "2026-12-31T23:59:59.123456Z",
            "2000-02-29T00:00:00Z",
            "1970-01-01T00:00:00.000001Z",
            "2026-02-28T12:00:00.123456789Z",
        ] {
            let general = DateTime::parse_from_rfc3339(text).unwrap().timestamp_micros();
            assert_eq!(parse_utc_fast(text.as_bytes()), Some(general), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_instant() {
        for text in
            ["2026-02-29T00:00:00Z", "2026-03-01T10:20:30", "2026-13-01T00:00:00Z", "", "Z", "2026-03-01 T10:20:3Z"]
        {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
        assert_eq!(parse_rfc3339("2026-03-01T12:20:30+02:00"), parse_rfc3339("2026-03-01T10:20:30Z"));
    }

    #[test]
    fn months_and_hours() {
        let t = second_of(parse_rfc3339("2024-02-29T23:59:59Z").unwrap());
        assert_eq!(show_second(month_floor(t)), "2024-02-01T00:00:00Z");
        assert_eq!(show_hour(hour_floor(t)), "2024-02-29T23");
        assert_eq!(show_second(hour_ceil(t)), "2024-03-01T00:00:00Z");
        assert_eq!(show_second(month_floor(hour_ceil(t))), "2024-03-01T00:00:00Z");
        assert_eq!(hour_ceil(hour_floor(t)), hour_floor(t));
    }
}
