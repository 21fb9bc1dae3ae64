//! Numbers for people.

use hydrometer_pipeline::worker::Summary;

/// `7,200,000`
pub fn count(number: impl TryInto<i128>) -> String {
    let Ok(number) = number.try_into() else { return "?".into() };
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if number < 0 { format!("-{text}") } else { text }
}

/// An amount in 1e-9, with thousands separated and all nine decimals.
pub fn amount(nanos: i128) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let magnitude = nanos.unsigned_abs();
    let whole = i128::try_from(magnitude / 1_000_000_000).unwrap_or(i128::MAX);
    format!("{sign}{}.{:09}", count(whole), magnitude % 1_000_000_000)
}

/// `1 h 40 min` or `95 s`
pub fn seconds(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

/// What a run did, in one line.
pub fn summary(summary: &Summary) -> String {
    format!(
        "{} readings ({} late, {} messages quarantined), {} metered minutes ({} away), {} rated records, {} windows revised, \
         {} commits, {} files",
        count(summary.counts.readings),
        count(summary.counts.late),
        count(summary.counts.quarantined),
        count(summary.metered_minutes),
        count(summary.away_minutes),
        count(summary.rated_records),
        count(summary.revised_windows),
        count(summary.commits),
        count(summary.files),
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers() {
        assert_eq!(super::count(7_200_000), "7,200,000");
        assert_eq!(super::count(-12), "-12");
        assert_eq!(super::amount(-1_234_567_000_000_001), "-1,234,567.000000001");
        assert_eq!(super::seconds(6_000), "100 min 0 s");
    }
}
