//! Wall-clock time and durations as people and documents write them. Deadlines of running
//! agents use the monotonic clock (`std::time::Instant`) instead and never come here.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point of wall-clock time, in milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wall(pub i64);

impl Wall {
    /// The time on the clock now.
    pub fn now() -> Wall {
        Wall::from(SystemTime::now())
    }

    /// From whole seconds since 1970, as inodes and `resetsAt` have them.
    pub fn from_secs(secs: i64) -> Wall {
        Wall(secs.saturating_mul(1000))
    }

    /// Whole seconds since 1970, rounded down.
    pub fn secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This much later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Wall {
        let ms = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        Wall(self.0.saturating_add(ms))
    }

    /// How long after `earlier` this is; nothing if it is not after it.
    pub fn since(self, earlier: Wall) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Reads RFC 3339; a text without an offset, as the predecessor wrote, is local time.
    pub fn parse(text: &str) -> Option<Wall> {
        let number = |range: std::ops::Range<usize>| -> Option<i64> {
            let part = text.get(range)?;
            part.bytes()
                .all(|b| b.is_ascii_digit())
                .then(|| part.parse().ok())?
        };
        let sign = |at: usize, wanted: &str| {
            wanted.contains(char::from(*text.as_bytes().get(at).unwrap_or(&b' ')))
        };
        if !(sign(4, "-") && sign(7, "-") && sign(10, "Tt ") && sign(13, ":") && sign(16, ":")) {
            return None;
        }
        let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
        let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
        if !(1..=12).contains(&month)
            || !(1..=31).contains(&day)
            || hour > 23
            || minute > 59
            || second > 60
        {
            return None;
        }
        let naive = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
        let mut rest = &text[19..];
        let mut ms = 0;
        if let Some(fraction) = rest.strip_prefix('.') {
            let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
            if digits == 0 {
                return None;
            }
            ms = format!("{:0<3}", &fraction[..digits.min(3)]).parse().ok()?;
            rest = &fraction[digits..];
        }
        let offset = match rest {
            "" => local_offset(naive - local_offset(naive)),
            "Z" | "z" => 0,
            _ => {
                let at = text.len() - rest.len();
                let (hours, minutes) = (number(at + 1..at + 3)?, number(at + 4..at + 6)?);
                if rest.len() != 6 || !sign(at + 3, ":") || hours > 23 || minutes > 59 {
                    return None;
                }
                match rest.as_bytes()[0] {
                    b'+' => hours * 3600 + minutes * 60,
                    b'-' => -hours * 3600 - minutes * 60,
                    _ => return None,
                }
            }
        };
        Some(Wall((naive - offset) * 1000 + ms))
    }

    /// The local calendar day, `2026-11-20`.
    pub fn day(self) -> String {
        self.to_string()[..10].to_owned()
    }

    /// The local time as job names have it, `20261120-123456`.
    pub fn stamp(self) -> String {
        let text = self.to_string();
        text[..19].replace(['-', ':'], "").replace('T', "-")
    }

    /// `12:34` today, else `2026-11-20 12:34`: for sentences.
    pub fn short(self, now: Wall) -> String {
        let text = self.to_string();
        if self.day() == now.day() {
            text[11..16].to_owned()
        } else {
            format!("{} {}", &text[..10], &text[11..16])
        }
    }

    /// Minutes since local midnight, as a clock on the wall shows them.
    pub fn minute_of_day(self) -> u16 {
        let local = self.secs() + local_offset(self.secs());
        (local.rem_euclid(86_400) / 60) as u16
    }

    /// The coming local midnight.
    pub fn midnight(self) -> Wall {
        let local = self.secs() + local_offset(self.secs());
        let next = (local.div_euclid(86_400) + 1) * 86_400;
        Wall::from_secs(next - local_offset(next - local_offset(self.secs())))
    }
}

impl From<SystemTime> for Wall {
    fn from(time: SystemTime) -> Wall {
        match time.duration_since(UNIX_EPOCH) {
            Ok(after) => Wall(0).plus(after),
            Err(before) => Wall(-(before.duration().as_millis().min(i64::MAX as u128) as i64)),
        }
    }
}

/// RFC 3339 with milliseconds and the local offset.
impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offset = local_offset(self.secs());
        let local = self.secs() + offset;
        let (year, month, day) = civil_from_days(local.div_euclid(86_400));
        let second = local.rem_euclid(86_400);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}",
            second / 3600,
            second / 60 % 60,
            second % 60,
            self.0.rem_euclid(1000)
        )?;
        let (sign, minutes) = if offset < 0 {
            ('-', -offset / 60)
        } else {
            ('+', offset / 60)
        };
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

impl serde::Serialize for Wall {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Wall {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Wall, D::Error> {
        let text = String::deserialize(deserializer)?;
        Wall::parse(&text).ok_or_else(|| serde::de::Error::custom(format!("not a time: {text:?}")))
    }
}

/// Reads `90s`, `30m`, `2h`, `1h30m`, `200ms`, `1d`; a bare `0` is nothing at all.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let amount: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit_ms = match &rest[..letters] {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(Duration::from_millis(amount.checked_mul(unit_ms)?))?;
        rest = &rest[letters..];
    }
    // What is longer than [`Wall`] can tell could not be added to any time.
    let tellable = total.as_millis() <= i64::MAX as u128;
    (!text.is_empty() && tellable).then_some(total)
}

/// A duration for a person: `4s`, `2m 05s`, `1h 03m`, `3d 04h`.
pub fn human(duration: Duration) -> String {
    let secs = duration.as_secs();
    match secs {
        0..60 => format!("{secs}s"),
        60..3600 => format!("{}m {:02}s", secs / 60, secs % 60),
        3600..86_400 => format!("{}h {:02}m", secs / 3600, secs / 60 % 60),
        _ => format!("{}d {:02}h", secs / 86_400, secs / 3600 % 24),
    }
}

/// Seconds east of UTC that the local time zone had at `secs` since 1970.
fn local_offset(secs: i64) -> i64 {
    // SAFETY: `tm` is plain data for which all zeroes are valid; both pointers are to live
    // locals, and localtime_r keeps none of them.
    unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        if libc::localtime_r(&secs, &mut tm).is_null() {
            return 0;
        }
        tm.tm_gmtoff
    }
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar. Counted in eras of
/// 400 years that begin on 1 March, so that the leap day is the last of its year.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_convert_both_ways_over_four_centuries() {
        for days in (-200_000..200_000).step_by(37) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
        assert_eq!(civil_from_days(days_from_civil(2024, 2, 29)), (2024, 2, 29));
        assert_eq!(days_from_civil(1970, 1, 1), 0);
        assert_eq!(days_from_civil(2000, 3, 1), 11_017);
    }

    #[test]
    fn a_time_survives_being_written_and_read() {
        for ms in [0, 1_795_173_825_123, -1, 951_782_400_000] {
            assert_eq!(Wall::parse(&Wall(ms).to_string()), Some(Wall(ms)));
        }
        assert_eq!(
            Wall::parse("2026-11-20T12:00:00+02:00"),
            Wall::parse("2026-11-20T10:00:00Z")
        );
        assert_eq!(Wall::parse("2026-11-20T10:00:00.5Z").unwrap().0 % 1000, 500);
        assert!(Wall::parse("2026-01-30T12:43:00").is_some());
        for bad in [
            "",
            "2026-13-01T00:00:00Z",
            "2026-01-01",
            "2026-01-01T00:00:00?01:00",
            "2026-01-01T00:00:00+01:00garbage",
            "2026-01-01T00:00:00+01:0",
            "2026-01-01T00:00:00+01x00",
            "2026-01-01T00:00:00++1:00",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00Zulu",
            "2026-01-01T00:00:00.Z",
            "ä026-01-01T00:00:00Z",
        ] {
            assert_eq!(Wall::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn midnight_is_the_start_of_the_next_day() {
        let now = Wall(1_795_173_825_123);
        assert!(now.midnight() > now);
        assert!(now.midnight().since(now) <= Duration::from_secs(25 * 3600));
        assert_ne!(now.midnight().day(), now.day());
        assert_eq!(Wall(now.midnight().0 - 1).day(), now.day());
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        let ms = |text| parse_duration(text).map(|d| d.as_millis());
        assert_eq!(ms("90s"), Some(90_000));
        assert_eq!(ms("1h30m"), Some(5_400_000));
        assert_eq!(ms("200ms"), Some(200));
        assert_eq!(ms("0"), Some(0));
        for bad in [
            "",
            "5",
            "s",
            "1x",
            "1h 30m",
            "-1s",
            "99999999999999999999s",
            "1.5h",
            "999999999999999999d",
        ] {
            assert_eq!(ms(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn durations_are_told_in_two_units_at_most() {
        let told: Vec<_> = [0, 59, 65, 3780, 273_600]
            .map(|s| human(Duration::from_secs(s)))
            .into();
        assert_eq!(told, ["0s", "59s", "1m 05s", "1h 03m", "3d 04h"]);
    }
}
