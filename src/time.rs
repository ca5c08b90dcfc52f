//! Wall-clock time and durations as people and documents write them. Deadlines of running
//! agents use the monotonic clock (`std::time::Instant`) instead and never come here.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A quarter of an hour, in seconds.
const QUARTER: i64 = 900;
const DAY: Duration = Duration::from_secs(24 * 3600);

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
        let (date_time, rest) = text.split_at_checked(19)?;
        let (mut ms, mut zone) = (0, rest);
        if let Some(fraction) = rest.strip_prefix('.') {
            zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            let digits = fraction.strip_suffix(zone).filter(|all| !all.is_empty())?;
            ms = format!("{digits:0<3}")[..3].parse().ok()?;
        }
        let secs = match zone {
            "" => read_clock(date_time, true)?,
            "Z" | "z" => read_clock(date_time, false)?,
            _ => read_clock(date_time, false)? - offset(zone)?,
        };
        Some(Wall(secs * 1000 + ms))
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
        // What is older than a day need not be asked for its date.
        match now.since(self) < DAY && text[..10] == *now.day() {
            true => text[11..16].to_owned(),
            false => text[..16].replace('T', " "),
        }
    }

    /// Minutes since local midnight, as a clock on the wall shows them.
    pub fn minute_of_day(self) -> u16 {
        let tm = local(self.secs());
        (tm.tm_hour * 60 + tm.tm_min) as u16
    }

    /// The coming local midnight; where the clock leaves it out, the first moment after it.
    pub fn midnight(self) -> Wall {
        // The clocks of all time zones differ by whole quarters of an hour, and so do their changes.
        let began = self.secs() - self.secs().rem_euclid(QUARTER);
        let mut quarters = (1..200).map(|n| Wall::from_secs(began.saturating_add(n * QUARTER)));
        let next_day = quarters.find(|at| at.day() != self.day());
        next_day.unwrap_or(self)
    }
}

impl From<SystemTime> for Wall {
    fn from(time: SystemTime) -> Wall {
        Wall(0).plus(time.duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}

/// RFC 3339 with milliseconds and the local offset.
impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tm = local(self.secs());
        // Four digits also for the year of a file's time that is beyond all reason.
        let year = tm.tm_year.saturating_add(1900).rem_euclid(10_000);
        let (month, day, hour, minute) = (tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min);
        let (second, ms) = (tm.tm_sec, self.0.rem_euclid(1000));
        let sign = if tm.tm_gmtoff < 0 { '-' } else { '+' };
        let east = tm.tm_gmtoff.abs() / 60;
        let (hours, minutes) = (east / 60, east % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}{sign}{hours:02}:{minutes:02}"
        )
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

/// Reads a time as people write it: a local date, with or without a time of day, or RFC 3339.
pub fn parse_when(text: &str) -> Option<Wall> {
    if text.len() == 10 {
        return Wall::parse(&format!("{text} 00:00:00"));
    }
    let (start, rest) = text.split_at_checked(16)?;
    match rest.starts_with(':') {
        true => Wall::parse(text),
        false => Wall::parse(&format!("{start}:00{rest}")),
    }
}

/// Reads `90s`, `30m`, `2h`, `1h30m`, `200ms`, `1d`; a bare `0` is nothing at all. What is longer than
/// [`Wall`] can tell could not be added to any time.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut total: i64 = 0;
    let mut rest = if text == "0" { "0s" } else { text };
    while !rest.is_empty() {
        let (amount, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let letters = after.find(|c: char| !c.is_ascii_alphabetic());
        let (unit, after) = after.split_at(letters.unwrap_or(after.len()));
        let unit_ms: i64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(amount.parse::<i64>().ok()?.checked_mul(unit_ms)?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(Duration::from_millis(total as u64))
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

/// Whether a text has a form, in which `0` stands for a digit, `+` for either sign, and `T` for what may
/// stand between date and time.
pub fn has_form(text: &str, form: &str) -> bool {
    let fits = |(byte, form)| match form {
        b'0' => u8::is_ascii_digit(&byte),
        b'+' => b"+-".contains(&byte),
        b'T' => b"Tt ".contains(&byte),
        sign => byte == sign,
    };
    text.len() == form.len() && text.bytes().zip(form.bytes()).all(fits)
}

/// What clock and calendar show here at `secs` since 1970.
fn local(secs: i64) -> libc::tm {
    // SAFETY: `tm` is plain data for which all zeroes are valid, and they stay where the year is too
    // large for it; both pointers are to live locals, and localtime_r keeps none of them.
    unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        libc::localtime_r(&secs, &mut tm);
        tm
    }
}

/// Reads `2026-11-20T12:34:56`, local or in UTC, in seconds since 1970; `None` for a time that no clock
/// or calendar has. For one that local clocks leave out, the system counts on.
fn read_clock(text: &str, is_local: bool) -> Option<i64> {
    if !has_form(text, "0000-00-00T00:00:00") {
        return None;
    }
    let number = |at: usize| text[at..at + 2].parse::<libc::c_int>().unwrap_or(0);
    let asked = [5, 8, 11, 14, 17].map(number);
    // SAFETY: `tm` is plain data for which all zeroes are valid; neither call keeps a pointer to it.
    let (secs, tm) = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        [tm.tm_mon, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec] = asked;
        (tm.tm_year, tm.tm_mon) = (number(0) * 100 + number(2) - 1900, asked[0] - 1);
        let mut local = libc::tm { tm_isdst: -1, ..tm };
        let secs = match libc::timegm(&mut tm) {
            // `mktime` looks each time whether the time zone is still the same, so only where it must.
            _ if is_local => libc::mktime(&mut local),
            utc => utc,
        };
        (secs, tm)
    };
    // Where there is no such time, `timegm` counts on and changes the fields.
    ([tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec] == asked).then_some(secs)
}

/// Reads the offset of RFC 3339, `+02:00`, in seconds.
fn offset(text: &str) -> Option<i64> {
    let is_one = has_form(text, "+00:00") && text[1..3] < *"24" && text[4..] < *"60";
    let number = |at: usize| text[at..at + 2].parse::<i64>().ok();
    let secs = is_one.then(|| Some(number(1)? * 3600 + number(4)? * 60))??;
    Some(if text.starts_with('-') { -secs } else { secs })
}

#[cfg(test)]
mod tests {
    use super::*;

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
            "2026-00-01T00:00:00Z",
            "2026-02-29T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:00.ä",
            "2026-0ä-1T00:00:00Z",
            "2026-01ä1T00:00:00Z",
            "2026-01-0äT00:00:00",
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
    fn a_point_of_time_is_read_as_people_write_it() {
        let utc = |text| Wall::parse(text).unwrap();
        for (text, wanted) in [
            ("2026-12-01T22:00:00+01:00", utc("2026-12-01T21:00:00Z")),
            ("2026-12-01T22:00+01:00", utc("2026-12-01T21:00:00Z")),
            ("2026-12-01 22:00Z", utc("2026-12-01T22:00:00Z")),
            ("2026-12-01 22:00", utc("2026-12-01T22:00:00")),
            ("2026-12-01t22:00:30", utc("2026-12-01T22:00:30")),
            ("2026-12-01", utc("2026-12-01T00:00:00")),
        ] {
            assert_eq!(parse_when(text), Some(wanted), "{text}");
        }
        let bad = "|22:00|tonight|2026-12-01 22|2026-12-32|2026-12-01 2200|2026-12-01T22:0ö";
        for bad in bad.split('|') {
            assert_eq!(parse_when(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        let ms = |text| parse_duration(text).map(|d| d.as_millis());
        assert_eq!(ms("90s"), Some(90_000));
        assert_eq!(ms("1h30m"), Some(5_400_000));
        assert_eq!(ms("200ms"), Some(200));
        assert_eq!(ms("30d"), Some(2_592_000_000));
        assert_eq!(ms("0"), Some(0));
        let bad = "|5|s|1x|1h 30m|-1s|99999999999999999999s|1.5h|999999999999999999d";
        for bad in bad.split('|') {
            assert_eq!(ms(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn durations_are_told_in_two_units_at_most() {
        let told = [0, 59, 65, 3780, 273_600].map(|s| human(Duration::from_secs(s)));
        assert_eq!(told, ["0s", "59s", "1m 05s", "1h 03m", "3d 04h"]);
    }
}
