//! Billing periods, times of the week and proration in a contract's zone.
//!
//! Where the clocks are put forward, a local time that is skipped counts as the first second after the gap; where they are put back,
//! a local time that comes twice counts as its first occurrence. Which price holds at a second is read off the local clock at
//! that second, so a range of hours holds in both passes of a repeated hour and in none of a skipped one.

use chrono::{
    DateTime, Datelike, Days, MappedLocalTime, Months, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeZone, Timelike,
};
use chrono_tz::Tz;
use hydrometer_schemas::contract::{PeriodLength, Proration};
use hydrometer_schemas::time::{FOREVER, SECONDS_PER_HOUR, Second};

use crate::history::Span;
use crate::money::Fraction;
use crate::terms::TimePrice;

/// When a contract's billing periods begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calendar {
    pub zone: Tz,
    pub length: PeriodLength,
    /// 1 to 28.
    pub day: u8,
}

/// The first second that dates are computed for, 0001-01-01: what is before counts as it.
const EARLIEST: Second = -62_135_596_800;
const SECONDS_PER_DAY: i64 = 86_400;

impl Calendar {
    /// The billing period that holds `second`.
    pub fn period_of(&self, second: Second) -> Span {
        let second = second.clamp(EARLIEST, FOREVER);
        let date = self.local(second).date();
        let months_back = match self.length {
            PeriodLength::Month => 0,
            PeriodLength::Quarter => date.month0() % 3,
            PeriodLength::Year => date.month0(),
        };
        let first = date.with_day(1).and_then(|d| d.checked_sub_months(Months::new(months_back))).unwrap_or(date);
        // Near an edge the local date alone does not tell (clocks may be put back over midnight): the instants do.
        let mut from = first;
        while self.begins(from) > second {
            from = self.moved(from, -1);
        }
        while self.begins(self.moved(from, 1)) <= second && from < self.moved(from, 1) {
            from = self.moved(from, 1);
        }
        Span { from: self.begins(from), to: self.begins(self.moved(from, 1)) }
    }

    /// The period after the one that holds `second`.
    pub fn next(&self, second: Second) -> Span {
        self.period_of(self.period_of(second).to)
    }

    /// The months of a period.
    pub fn months(&self) -> u32 {
        match self.length {
            PeriodLength::Month => 1,
            PeriodLength::Quarter => 3,
            PeriodLength::Year => 12,
        }
    }

    /// Which price holds at `second`: 0 is the charge's own, `n` its `by_time[n - 1]`. Where ranges overlap, the first one listed holds.
    pub fn segment(&self, by_time: &[TimePrice], second: Second) -> u16 {
        if by_time.is_empty() {
            return 0;
        }
        let local = self.local(second);
        let day = 1u8 << local.weekday().num_days_from_monday();
        let minute = (local.hour() * 60 + local.minute()) as u16;
        let holds = |range: &TimePrice| range.days & day != 0 && range.from <= minute && minute < range.to;
        by_time.iter().position(holds).and_then(|n| u16::try_from(n + 1).ok()).unwrap_or(0)
    }

    /// The seconds inside `span` (its own first second excluded) at which a billing period begins or another of `by_time` holds, in order.
    pub fn cuts(&self, by_time: &[TimePrice], span: Span) -> Vec<Second> {
        let mut cuts = Vec::new();
        if span.from >= span.to {
            return cuts;
        }
        let mut edge = self.period_of(span.from).to;
        while edge < span.to {
            cuts.push(edge);
            let next = self.period_of(edge).to;
            if next <= edge {
                break;
            }
            edge = next;
        }
        if !by_time.is_empty() {
            let changes = |at: &Second| self.segment(by_time, *at) != self.segment(by_time, *at - 1);
            let inside = |at: &Second| span.from < *at && *at < span.to;
            let mut minutes: Vec<u16> = by_time.iter().flat_map(|range| [range.from, range.to % 1_440]).collect();
            minutes.push(0);
            minutes.sort_unstable();
            minutes.dedup();
            let mut date = self.local(span.from).date();
            let last = self.local(span.to).date();
            while date <= last {
                for &minute in &minutes {
                    let Some(time) = NaiveTime::from_hms_opt(u32::from(minute) / 60, u32::from(minute) % 60, 0) else {
                        continue;
                    };
                    cuts.extend(self.instants(date.and_time(time)).into_iter().filter(inside).filter(changes));
                }
                let Some(next) = date.succ_opt() else { break };
                date = next;
            }
            cuts.extend(self.shifts(span).into_iter().filter(inside).filter(changes));
            cuts.sort_unstable();
            cuts.dedup();
        }
        cuts
    }

    /// `date` at 00:00 in the zone, or the first second after where that is skipped.
    pub fn midnight(&self, date: NaiveDate) -> Second {
        self.instant(date.and_time(NaiveTime::MIN))
    }

    /// `second`, `months` later on the local calendar, at the same time of day; the last day of the month where it is shorter.
    pub fn months_later(&self, second: Second, months: u32) -> Second {
        let local = self.local(second);
        local.checked_add_months(Months::new(months)).map_or(FOREVER, |later| self.instant(later).min(FOREVER))
    }

    /// The part of a period's fee that is owed for `part`, by `rule`. The fee is in force in `in_force`, which lies in one period and
    /// holds `part`.
    ///
    /// A cumulative difference, like all amounts: what is owed from the beginning of `in_force` to the end of `part`, less what is owed
    /// until `part` begins. So however a stretch is cut into versions, the parts add up to the whole.
    pub fn prorated(&self, rule: Proration, in_force: Span, part: Span) -> Fraction {
        let period = self.period_of(in_force.from);
        let denominator = match rule {
            Proration::Second => period.seconds(),
            Proration::ActualDays => self.days_begun(period.from, period.to),
            Proration::Thirty360 => self.days_30_360(period.from, period.to),
            Proration::Hours730 => 730 * SECONDS_PER_HOUR * i64::from(self.months()),
            Proration::None => 1,
        };
        let until = |to: Second| {
            let to = to.clamp(in_force.from, in_force.to);
            if to <= in_force.from {
                return 0;
            }
            if (Span { from: in_force.from, to }) == period {
                return denominator;
            }
            match rule {
                Proration::Second => to - in_force.from,
                Proration::ActualDays => self.days_begun(in_force.from, to),
                Proration::Thirty360 => self.days_30_360(in_force.from, to).min(denominator),
                Proration::Hours730 => (to - in_force.from).min(denominator),
                Proration::None => 1,
            }
        };
        Fraction { numerator: i128::from(until(part.to) - until(part.from)), denominator: i128::from(denominator) }
    }

    /// Local days that have a second in `[from, to)`.
    fn days_begun(&self, from: Second, to: Second) -> i64 {
        (self.local(to - 1).date() - self.local(from).date()).num_days() + 1
    }

    /// Days by the US rule (30/360), a day begun counting whole.
    fn days_30_360(&self, from: Second, to: Second) -> i64 {
        let first = self.local(from).date();
        let last = self.local(to - 1).date();
        let end = last.checked_add_days(Days::new(1)).unwrap_or(last);
        let is_end_of_february =
            |date: NaiveDate| date.month() == 2 && date.succ_opt().is_none_or(|next| next.month() == 3);
        let (mut d1, mut d2) = (i64::from(first.day()), i64::from(end.day()));
        if is_end_of_february(first) {
            if is_end_of_february(end) {
                d2 = 30;
            }
            d1 = 30;
        }
        if d2 == 31 && d1 >= 30 {
            d2 = 30;
        }
        if d1 == 31 {
            d1 = 30;
        }
        let months = i64::from(end.year() - first.year()) * 12 + i64::from(end.month()) - i64::from(first.month());
        (months * 30 + d2 - d1).max(0)
    }

    /// The second at which the period begins whose first month's first day is `month`.
    fn begins(&self, month: NaiveDate) -> Second {
        self.midnight(month.with_day(u32::from(self.day)).unwrap_or(month))
    }

    fn moved(&self, month: NaiveDate, periods: i32) -> NaiveDate {
        let months = Months::new(self.months() * periods.unsigned_abs());
        let moved = if periods < 0 { month.checked_sub_months(months) } else { month.checked_add_months(months) };
        moved.unwrap_or(month)
    }

    fn local(&self, second: Second) -> NaiveDateTime {
        let utc = DateTime::from_timestamp(second.clamp(EARLIEST, FOREVER), 0).unwrap_or_default();
        utc.with_timezone(&self.zone).naive_local()
    }

    /// The one instant that a local time stands for.
    fn instant(&self, local: NaiveDateTime) -> Second {
        match self.zone.from_local_datetime(&local) {
            MappedLocalTime::Single(at) => at.timestamp(),
            MappedLocalTime::Ambiguous(first, _) => first.timestamp(),
            MappedLocalTime::None => {
                // Inside a gap: read with the offset of the day before, it lies behind the shift, which is what is looked for.
                let near = local.and_utc().timestamp();
                let day = Span { from: near - 2 * SECONDS_PER_DAY, to: near + 2 * SECONDS_PER_DAY };
                let behind = |at: &Second| self.local(*at) > local;
                self.shifts(day).into_iter().find(behind).unwrap_or(near)
            }
        }
    }

    /// All instants at which the local clock shows `local`: none, one or two.
    fn instants(&self, local: NaiveDateTime) -> Vec<Second> {
        match self.zone.from_local_datetime(&local) {
            MappedLocalTime::Single(at) => vec![at.timestamp()],
            MappedLocalTime::Ambiguous(first, second) => vec![first.timestamp(), second.timestamp()],
            MappedLocalTime::None => Vec::new(),
        }
    }

    /// The seconds in `(from, to]` from which another offset holds (clocks put forward or back).
    fn shifts(&self, span: Span) -> Vec<Second> {
        let offset = |at: Second| {
            let utc = DateTime::from_timestamp(at.clamp(EARLIEST, FOREVER), 0).unwrap_or_default().naive_utc();
            self.zone.offset_from_utc_datetime(&utc).fix().local_minus_utc()
        };
        let mut shifts = Vec::new();
        let mut at = span.from;
        while at < span.to {
            let next = at.saturating_add(SECONDS_PER_DAY).min(span.to);
            let (mut low, mut high) = (at, next);
            if offset(low) != offset(high) {
                while high - low > 1 {
                    let middle = low + (high - low) / 2;
                    if offset(middle) == offset(low) { low = middle } else { high = middle }
                }
                shifts.push(high);
            }
            at = next;
        }
        shifts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydrometer_schemas::time::parse_rfc3339;
    use proptest::prelude::*;

    fn at(text: &str) -> Second {
        parse_rfc3339(text).unwrap() / 1_000_000
    }

    fn calendar(zone: &str, length: PeriodLength, day: u8) -> Calendar {
        Calendar { zone: zone.parse().unwrap(), length, day }
    }

    fn los_angeles() -> Calendar {
        calendar("America/Los_Angeles", PeriodLength::Month, 1)
    }

    /// Worked case: months by zone.
    #[test]
    fn months_of_743_and_721_hours() {
        let march = los_angeles().period_of(at("2026-03-15T12:00:00Z"));
        assert_eq!(march.from, at("2026-03-01T00:00:00-08:00"));
        assert_eq!(march.seconds(), 743 * 3_600);
        let november = los_angeles().period_of(at("2026-11-01T07:00:00Z"));
        assert_eq!(november.seconds(), 721 * 3_600);
        assert_eq!(los_angeles().next(march.from).seconds(), 720 * 3_600);
    }

    #[test]
    fn quarters_years_leap_days_and_other_first_days() {
        let quarter = calendar("UTC", PeriodLength::Quarter, 1).period_of(at("2024-02-29T00:00:00Z"));
        assert_eq!(quarter, Span { from: at("2024-01-01T00:00:00Z"), to: at("2024-04-01T00:00:00Z") });
        let year = calendar("UTC", PeriodLength::Year, 15).period_of(at("2024-01-14T23:59:59Z"));
        assert_eq!(year, Span { from: at("2023-01-15T00:00:00Z"), to: at("2024-01-15T00:00:00Z") });
        let month = calendar("UTC", PeriodLength::Month, 28).period_of(at("2024-02-28T00:00:00Z"));
        assert_eq!(month.seconds(), 29 * 86_400);
    }

    /// Beirut skips midnight of 27 March 2022; Havana has the hour after midnight of 6 November 2022 twice.
    #[test]
    fn a_skipped_and_a_repeated_midnight() {
        let beirut = calendar("Asia/Beirut", PeriodLength::Month, 27).period_of(at("2022-04-01T00:00:00Z"));
        assert_eq!(beirut.from, at("2022-03-26T22:00:00Z"));
        let havana = calendar("America/Havana", PeriodLength::Month, 6).period_of(at("2022-11-10T00:00:00Z"));
        assert_eq!(havana.from, at("2022-11-06T04:00:00Z"));
    }

    #[test]
    fn proration() {
        let calendar = calendar("Europe/Berlin", PeriodLength::Month, 1);
        let period = calendar.period_of(at("2026-02-15T00:00:00+01:00"));
        let part = Span { from: at("2026-02-15T00:00:00+01:00"), to: period.to };
        let of = |rule| {
            let f = calendar.prorated(rule, part, part);
            (f.numerator, f.denominator)
        };
        assert_eq!(of(Proration::Second), (14 * 86_400, 28 * 86_400));
        assert_eq!(of(Proration::ActualDays), (14, 28));
        assert_eq!(of(Proration::Thirty360), (16, 30));
        assert_eq!(of(Proration::Hours730), (336 * 3_600, 730 * 3_600));
        assert_eq!(of(Proration::None), (1, 1));
    }

    fn range(days: u8, from: u16, to: u16) -> TimePrice {
        TimePrice { days, from, to, price: crate::money::Price::from_scaled(1) }
    }

    #[test]
    fn ranges_across_the_change_of_clocks() {
        let by_time = [range(127, 60, 120), range(127, 120, 180)];
        // 8 March 2026: 2:00 to 3:00 is skipped. 1 November: 1:00 to 2:00 comes twice.
        let spring = Span { from: at("2026-03-08T08:00:00Z"), to: at("2026-03-09T07:00:00Z") };
        assert_eq!(los_angeles().cuts(&by_time, spring), [at("2026-03-08T09:00:00Z"), at("2026-03-08T10:00:00Z")]);
        assert_eq!(los_angeles().segment(&by_time, at("2026-03-08T10:00:00Z")), 0);
        let autumn = Span { from: at("2026-11-01T07:00:00Z"), to: at("2026-11-02T08:00:00Z") };
        let cuts = [at("2026-11-01T08:00:00Z"), at("2026-11-01T10:00:00Z"), at("2026-11-01T11:00:00Z")];
        assert_eq!(los_angeles().cuts(&by_time, autumn), cuts);
    }

    proptest! {
        #[test]
        fn periods_follow_each_other_without_gap(
            zone in prop::sample::select(vec!["UTC", "America/Los_Angeles", "Asia/Beirut", "America/Havana", "America/Goose_Bay", "Asia/Kolkata", "Pacific/Apia"]),
            length in prop::sample::select(vec![PeriodLength::Month, PeriodLength::Quarter, PeriodLength::Year]),
            day in 1u8..=28,
            second in 0i64..4_102_444_800,
        ) {
            let calendar = calendar(zone, length, day);
            let period = calendar.period_of(second);
            prop_assert!(period.from <= second && second < period.to);
            prop_assert_eq!(calendar.period_of(period.from), period);
            prop_assert_eq!(calendar.period_of(period.to - 1), period);
            prop_assert_eq!(calendar.period_of(period.to).from, period.to);
        }

        #[test]
        fn between_two_cuts_one_price_holds(
            zone in prop::sample::select(vec!["America/Los_Angeles", "America/Goose_Bay", "Australia/Lord_Howe"]),
            ranges in prop::collection::vec((1u8..128, 0u16..1_440, 1u16..=1_440), 1..4),
            from in 1_100_000_000i64..1_800_000_000,
            minutes in 1i64..6_000,
        ) {
            let calendar = calendar(zone, PeriodLength::Month, 1);
            let by_time: Vec<TimePrice> = ranges.into_iter().map(|(days, a, b)| range(days, a.min(b - 1), b)).collect();
            let span = Span { from, to: from + minutes * 60 };
            let mut edges = vec![span.from];
            edges.extend(calendar.cuts(&by_time, span));
            edges.push(span.to);
            for pair in edges.windows(2) {
                prop_assert!(pair[0] < pair[1]);
                let expected = calendar.segment(&by_time, pair[0]);
                for second in (pair[0]..pair[1]).step_by(7).chain([pair[1] - 1]) {
                    prop_assert_eq!(calendar.segment(&by_time, second), expected);
                }
            }
        }

        #[test]
        fn parts_of_a_period_add_up(
            rule in prop::sample::select(vec![Proration::Second, Proration::ActualDays, Proration::Thirty360, Proration::Hours730, Proration::None]),
            start in 0i64..4_000_000_000, cuts in prop::collection::vec(0i64..2_600_000, 0..5), whole in any::<bool>(),
        ) {
            let calendar = los_angeles();
            let period = calendar.period_of(start);
            let in_force = if whole { period } else { Span { from: start, to: period.to } };
            let mut edges: Vec<Second> = cuts.into_iter().map(|c| in_force.from + c % in_force.seconds()).collect();
            edges.extend([in_force.from, in_force.to]);
            edges.sort_unstable();
            let sum: i128 = edges.windows(2).map(|w| {
                let part = calendar.prorated(rule, in_force, Span { from: w[0], to: w[1] });
                assert!(part.numerator >= 0);
                part.numerator
            }).sum();
            let all = calendar.prorated(rule, in_force, in_force);
            prop_assert_eq!(sum, all.numerator);
            prop_assert!(!whole || all.numerator == all.denominator);
        }
    }
}
