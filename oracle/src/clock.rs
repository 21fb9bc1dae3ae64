//! The contract's clock, asked second by second.

use chrono::{DateTime, Datelike, TimeZone, Timelike};
use chrono_tz::Tz;
use hydrometer_schemas::contract::{Charge, Contract, Day, PeriodLength};

pub struct Clock {
    zone: Tz,
    length: PeriodLength,
    day: u32,
}

/// The second of an RFC 3339 time.
pub fn second_of(text: &str) -> i64 {
    DateTime::parse_from_rfc3339(text).map(|time| time.timestamp()).unwrap_or_default()
}

impl Clock {
    pub fn of(document: &Contract) -> Clock {
        let zone = document.time_zone.as_deref().and_then(|zone| zone.parse().ok()).unwrap_or(Tz::UTC);
        let calendar = document.calendar.as_ref();
        let length = calendar.and_then(|calendar| calendar.period).unwrap_or_default();
        Clock { zone, length, day: u32::from(calendar.and_then(|calendar| calendar.day).unwrap_or(1)) }
    }

    /// Periods, numbered by the month in which they begin.
    pub fn period_number(&self, second: i64) -> i64 {
        let Some(local) = self.zone.timestamp_opt(second, 0).single() else { return 0 };
        let mut month = i64::from(local.year()) * 12 + i64::from(local.month0());
        if local.day() < self.day {
            month -= 1;
        }
        let months = match self.length {
            PeriodLength::Month => 1,
            PeriodLength::Quarter => 3,
            PeriodLength::Year => 12,
        };
        month.div_euclid(months) * months
    }

    /// `2026-03`
    pub fn period(&self, second: i64) -> String {
        let month = self.period_number(second);
        format!("{:04}-{:02}", month.div_euclid(12), month.rem_euclid(12) + 1)
    }

    /// The first second of a period and the first one after it, found by halving.
    pub fn seconds(&self, period: &str) -> (i64, i64) {
        let first = |is_there: &dyn Fn(&str) -> bool| {
            let (mut low, mut high) = (0, 4_102_444_800);
            while low < high {
                let middle = (low + high) / 2;
                if is_there(&self.period(middle)) { high = middle } else { low = middle + 1 }
            }
            low
        };
        (first(&|at| at >= period), first(&|at| at > period))
    }

    /// 0, or the number (from 1) of the charge's range that holds.
    pub fn time_of_week(&self, charge: &Charge, second: i64) -> usize {
        let Some(local) = self.zone.timestamp_opt(second, 0).single() else { return 0 };
        let days = [Day::Mon, Day::Tue, Day::Wed, Day::Thu, Day::Fri, Day::Sat, Day::Sun];
        let day = days[local.weekday().num_days_from_monday() as usize];
        let time = format!("{:02}:{:02}", local.hour(), local.minute());
        let holds = |range: &hydrometer_schemas::contract::TimePrice| {
            (range.days.is_empty() || range.days.contains(&day)) && range.from <= time && time < range.to
        };
        charge.by_time.iter().position(holds).map_or(0, |n| n + 1)
    }
}
