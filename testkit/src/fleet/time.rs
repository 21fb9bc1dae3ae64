//! Times as text, fast: a date is worked out once per second, not once per reading.

pub(crate) const SECOND_US: i64 = 1_000_000;

/// `2026-03-01T10:00:00`, kept until another second is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Face {
    second: i64,
    text: [u8; 19],
}

impl Face {
    pub(crate) fn new() -> Self {
        let mut face = Face { second: 0, text: *b"0000-00-00T00:00:00" };
        face.set(0);
        face
    }

    pub(crate) fn at(&mut self, second: i64) -> &[u8; 19] {
        if second != self.second {
            self.set(second);
        }
        &self.text
    }

    fn set(&mut self, second: i64) {
        self.second = second;
        let (year, month, day) = civil(second.div_euclid(86_400));
        let of_day = second.rem_euclid(86_400);
        self.two_digits(0, year / 100);
        self.two_digits(2, year % 100);
        self.two_digits(5, month);
        self.two_digits(8, day);
        self.two_digits(11, of_day / 3600);
        self.two_digits(14, of_day / 60 % 60);
        self.two_digits(17, of_day % 60);
    }

    fn two_digits(&mut self, at: usize, value: i64) {
        self.text[at] = b'0' + (value / 10 % 10) as u8;
        self.text[at + 1] = b'0' + (value % 10) as u8;
    }
}

pub(crate) fn rfc3339(time_us: i64) -> String {
    let mut face = Face::new();
    let text = String::from_utf8_lossy(face.at(time_us.div_euclid(SECOND_US))).into_owned();
    match time_us.rem_euclid(SECOND_US) {
        0 => text + "Z",
        fraction => format!("{text}.{fraction:06}Z"),
    }
}

/// Year, month and day of a day since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_chrono() {
        for time_us in [0, 951_782_399_000_001, 1_772_359_200_000_000, 1_798_761_599_999_999] {
            let theirs = chrono::DateTime::from_timestamp_micros(time_us).unwrap();
            let ours = chrono::DateTime::parse_from_rfc3339(&rfc3339(time_us)).unwrap();
            assert_eq!(ours, theirs);
        }
    }
}
