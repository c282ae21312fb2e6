//! Wall time as RFC 3339 text.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAY_MS: i64 = 86_400_000;
/// 0000-01-01T00:00:00.000Z and 9999-12-31T23:59:59.999Z: what the format can say.
const RANGE_MS: (i64, i64) = (-62_167_219_200_000, 253_402_300_799_999);

/// `time` as RFC 3339 text in UTC with milliseconds, `2026-01-31T12:00:00.000Z`: the one form of wall time in events.
///
/// Times outside of the years 0 to 9999 become the nearest inside.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let unix_ms = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    };
    let mut text = String::with_capacity(24);
    push_rfc3339_millis(&mut text, unix_ms);
    text
}

/// The time `unix_ms` milliseconds after 1970, clamped as in text.
pub(crate) fn wall(unix_ms: i64) -> SystemTime {
    let unix_ms = unix_ms.clamp(RANGE_MS.0, RANGE_MS.1);
    let away = Duration::from_millis(unix_ms.unsigned_abs());
    match unix_ms {
        0.. => UNIX_EPOCH + away,
        _ => UNIX_EPOCH - away,
    }
}

/// Appends `unix_ms` as `YYYY-MM-DDTHH:MM:SS.mmmZ`; times outside of the years 0 to 9999 become the nearest inside.
pub(crate) fn push_rfc3339_millis(out: &mut String, unix_ms: i64) {
    let unix_ms = unix_ms.clamp(RANGE_MS.0, RANGE_MS.1);
    let (year, month, day) = civil(unix_ms.div_euclid(DAY_MS));
    let ms = unix_ms.rem_euclid(DAY_MS);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    let written = write!(
        out,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        ms % 1000
    );
    debug_assert!(written.is_ok(), "writing to a String does not fail");
}

/// The Gregorian date `days` after 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    // Counted from 1 March of year 0, so that a leap day is the last day of its year, century and 400 years.
    let days = days + 719_468;
    let (cycle, day_of_cycle) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let century = (day_of_cycle / 36_524).min(3);
    let day_of_century = day_of_cycle - century * 36_524;
    let leap = day_of_century / 1461;
    let day_of_leap = day_of_century - leap * 1461;
    let year_of_leap = (day_of_leap / 365).min(3);
    let mut day = day_of_leap - year_of_leap * 365;
    let mut month = 0;
    for length in [31, 30, 31, 30, 31, 31, 30, 31, 30, 31, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    // `month` counts from March: 10 and 11 are January and February of the next year.
    let new_year = i64::from(month >= 10);
    let year = cycle * 400 + century * 100 + leap * 4 + year_of_leap + new_year;
    (year, month + 3 - 12 * new_year, day + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(unix_ms: i64) -> String {
        let mut out = String::new();
        push_rfc3339_millis(&mut out, unix_ms);
        out
    }

    /// Instants and texts as `date -u -d @SECONDS` prints them.
    #[test]
    fn known_instants_have_their_known_texts() {
        for (unix_ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_709_164_800_123, "2024-02-29T00:00:00.123Z"),
            (1_763_683_199_007, "2025-11-20T23:59:59.007Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (-2_203_891_200_000, "1900-03-01T00:00:00.000Z"),
            (i64::MAX, "9999-12-31T23:59:59.999Z"),
            (i64::MIN, "0000-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(text(unix_ms), expected);
        }
    }

    #[test]
    fn every_day_of_ten_thousand_years_follows_the_day_before() {
        let is_leap = |y: i64| y % 4 == 0 && (y % 100 != 0 || y % 400 == 0);
        let (mut year, mut month, mut day) = (0, 1, 1);
        for days in RANGE_MS.0 / DAY_MS..=RANGE_MS.1 / DAY_MS {
            assert_eq!(civil(days), (year, month, day));
            let february = if is_leap(year) { 29 } else { 28 };
            let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            day += 1;
            if day > lengths[(month - 1) as usize] {
                (month, day) = (month + 1, 1);
            }
            if month > 12 {
                (year, month) = (year + 1, 1);
            }
        }
        assert_eq!((year, month, day), (10_000, 1, 1));
    }
}
