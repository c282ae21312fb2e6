//! Instants as tokens and keyrings write them: RFC 3339 in UTC, to the millisecond.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// 9999-12-31T23:59:59.999Z, the last instant that can be written: for ever.
pub(crate) fn last() -> SystemTime {
    UNIX_EPOCH + LAST
}

const LAST: Duration = Duration::from_millis(253_402_300_799_999);

/// Reads `2026-01-31T12:00:00Z`, with one to three digits of a fraction or none; from 1970 to 9999, no leap seconds.
pub fn parse_utc(text: &str) -> Option<SystemTime> {
    let (date, clock) = text.strip_suffix('Z')?.split_once('T')?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + u64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if year < 1970 || !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let millis = match fraction.len() {
        1..=3 => number(&format!("{fraction:0<3}"))?,
        _ => return None,
    };
    let seconds = ((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second;
    Some(UNIX_EPOCH + Duration::from_millis(seconds * 1000 + millis))
}

/// The same instant without what cannot be written: parts of a millisecond, and years beyond 9999.
pub(crate) fn writable(time: SystemTime) -> SystemTime {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = since.min(LAST).as_millis();
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}

/// Three numbers of fixed width.
fn numbers(text: &str, between: char, widths: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(between).zip(widths);
    let mut next = || {
        let (digits, width) = parts.next()?;
        (digits.len() == width).then(|| number(digits))?
    };
    let numbers = [next()?, next()?, next()?];
    (text.split(between).count() == 3).then_some(numbers)
}

fn number(digits: &str) -> Option<u64> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| digits.parse().ok())?
}

/// Days from 1970-01-01 to a date of the Gregorian calendar, not before it.
fn days(year: u64, month: u64, day: u64) -> u64 {
    // Years begin in March, so that the leap day is the last of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use ron_kernel::bus::rfc3339;

    #[test]
    fn what_is_written_is_read_back() {
        for millis in [
            0,
            1,
            68_169_600_000,
            951_782_400_000,
            951_868_799_999,
            1_795_263_853_123,
            4_107_542_399_999,
            253_402_300_799_999,
        ] {
            let time = UNIX_EPOCH + Duration::from_millis(millis);
            assert_eq!(parse_utc(&rfc3339(time)), Some(time), "{}", rfc3339(time));
        }
    }

    #[test]
    fn only_instants_that_exist_are_read() {
        let at = |seconds| Some(UNIX_EPOCH + Duration::from_secs(seconds));
        for (text, expected) in [
            ("1970-01-01T00:00:00Z", at(0)),
            ("2000-02-29T00:00:00Z", at(951_782_400)),
            ("2024-02-29T23:59:59Z", at(1_709_251_199)),
            ("2024-03-01T00:00:00.0Z", at(1_709_251_200)),
            ("2024-03-01T00:00:00.000Z", at(1_709_251_200)),
            ("2023-02-29T00:00:00Z", None),
            ("2100-02-29T00:00:00Z", None),
            ("2026-04-31T00:00:00Z", None),
            ("2026-00-01T00:00:00Z", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-01-00T00:00:00Z", None),
            ("2026-01-01T24:00:00Z", None),
            ("2026-01-01T00:60:00Z", None),
            ("2026-01-01T00:00:60Z", None),
            ("1969-12-31T23:59:59Z", None),
            ("2026-01-01T00:00:00", None),
            ("2026-01-01T00:00:00+00:00", None),
            ("2026-01-01t00:00:00z", None),
            ("2026-01-01 00:00:00Z", None),
            ("2026-1-01T00:00:00Z", None),
            ("2026-01-01T00:00Z", None),
            ("2026-01-01-01T00:00:00Z", None),
            ("2026-01-01T00:00:00.Z", None),
            ("2026-01-01T00:00:00.0001Z", None),
            ("2026-01-01T00:00:00.+1Z", None),
            ("+026-01-01T00:00:00Z", None),
            ("é26-01-01T00:00:00Z", None),
            ("", None),
            ("Z", None),
        ] {
            assert_eq!(parse_utc(text), expected, "{text}");
        }
    }

    #[test]
    fn instants_beyond_what_can_be_written_become_the_last_one() {
        let last = last();
        assert_eq!(writable(last + Duration::from_secs(1)), last);
        assert_eq!(writable(UNIX_EPOCH - Duration::from_secs(1)), UNIX_EPOCH);
        assert_eq!(
            writable(UNIX_EPOCH + Duration::from_micros(1999)),
            UNIX_EPOCH + Duration::from_millis(1)
        );
    }
}
