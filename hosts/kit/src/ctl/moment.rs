//! Instants and spans as operators read them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ron_kernel::bus::rfc3339;
use serde::{Deserialize, Deserializer};

const DAY: i64 = 86_400_000;

/// Wall time in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Time(i64);

impl Time {
    pub(crate) fn of(time: SystemTime) -> Time {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Time(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// Reads `2026-01-31T12:00:00.000Z`; the fraction may be absent or longer.
    pub(crate) fn parse(text: &str) -> Option<Time> {
        let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
        let mut date = date.split('-').map(number);
        let (year, month, day) = (date.next()??, date.next()??, date.next()??);
        let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
        let mut clock = clock.split(':').map(number);
        let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
        let valid = year <= 9999 && (1..=12).contains(&month) && (1..=31).contains(&day);
        if !valid
            || hour > 23
            || minute > 59
            || second > 60
            || date.next().or(clock.next()).is_some()
        {
            return None;
        }
        number(fraction)?;
        let millis = number(&format!("{fraction:0<3}")[..3])?;
        let seconds = (hour * 60 + minute) * 60 + second;
        Some(Time(days(year, month, day) * DAY + seconds * 1000 + millis))
    }

    /// How long before `now` it was; nothing if it was later.
    pub(crate) fn before(self, now: Time) -> Duration {
        span(now.0.saturating_sub(self.0))
    }

    /// `2m 10s ago`.
    pub(crate) fn ago(self, now: Time) -> String {
        format!("{} ago", short(self.before(now)))
    }

    /// `in 3s`, or `now` once it has passed.
    pub(crate) fn ahead(self, now: Time) -> String {
        match now.before(self) {
            left if left.is_zero() => "now".to_owned(),
            left => format!("in {}", short(left)),
        }
    }

    /// `12:00:01.123`.
    pub(crate) fn clock(self) -> String {
        self.text().get(11..23).unwrap_or_default().to_owned()
    }

    /// The clock without milliseconds, and the date unless it is that of `now`.
    pub(crate) fn stamp(self, now: Time) -> String {
        let (text, today) = (self.text(), now.text());
        let clock = text.get(11..19).unwrap_or_default();
        match (text.get(..10), today.get(..10)) {
            (Some(date), today) if today != Some(date) => format!("{date} {clock}"),
            _ => clock.to_owned(),
        }
    }

    fn text(self) -> String {
        rfc3339(UNIX_EPOCH + span(self.0))
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Time, D::Error> {
        let text = String::deserialize(deserializer)?;
        Time::parse(&text).ok_or_else(|| serde::de::Error::custom("not a time"))
    }
}

/// The two largest units of a span: `850ms`, `12s`, `3m 12s`, `5h 2m`, `12d 3h`.
pub(crate) fn short(span: Duration) -> String {
    let seconds = span.as_secs();
    let two = |large: u64, unit: char, small: u64, next: char| match small {
        0 => format!("{large}{unit}"),
        small => format!("{large}{unit} {small}{next}"),
    };
    match seconds {
        0 => format!("{}ms", span.as_millis()),
        1..=59 => format!("{seconds}s"),
        60..=3599 => two(seconds / 60, 'm', seconds % 60, 's'),
        3600..=86_399 => two(seconds / 3600, 'h', seconds / 60 % 60, 'm'),
        _ => two(seconds / 86_400, 'd', seconds / 3600 % 24, 'h'),
    }
}

fn span(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}

fn number(digits: &str) -> Option<i64> {
    let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok())?
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let (cycle, of_cycle) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    cycle * 146_097 + of_cycle * 365 + of_cycle / 4 - of_cycle / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read_back() {
        for millis in [0, 1, 951_782_400_000, 1_795_263_853_123, 4_107_542_399_999] {
            let text = Time(millis).text();
            assert_eq!(Time::parse(&text), Some(Time(millis)), "{text}");
        }
        assert_eq!(
            Time::parse("2026-01-31T12:00:00Z"),
            Time::parse("2026-01-31T12:00:00.000000Z")
        );
        for text in [
            "",
            "Z",
            "2026-01-31",
            "2026-01-31T12:00Z",
            "2026-13-31T12:00:00Z",
            "2026-01-31T12:00:00",
            "2026-01-31T12:00:00.xZ",
            "2026-01-31T12:00:00.é0Z",
            "+026-01-31T12:00:00Z",
            "2026-01-31T12:00:00:00Z",
            "99999999999999999999-01-31T12:00:00Z",
        ] {
            assert_eq!(Time::parse(text), None, "{text}");
        }
    }

    #[test]
    fn spans_show_their_two_largest_units() {
        for (millis, text) in [
            (0, "0ms"),
            (999, "999ms"),
            (1000, "1s"),
            (59_999, "59s"),
            (60_000, "1m"),
            (192_000, "3m 12s"),
            (3_600_000, "1h"),
            (7_500_000, "2h 5m"),
            (86_400_000, "1d"),
            (1_050_000_000, "12d 3h"),
        ] {
            assert_eq!(short(Duration::from_millis(millis)), text);
        }
    }

    #[test]
    fn the_date_stands_where_it_is_not_that_of_now() {
        let now = Time::parse("2026-11-21T00:10:00Z").unwrap();
        let stamp = |text| Time::parse(text).unwrap().stamp(now);
        assert_eq!(stamp("2026-11-21T00:09:59.5Z"), "00:09:59");
        assert_eq!(stamp("2026-11-20T23:59:59.5Z"), "2026-11-20 23:59:59");
    }
}
