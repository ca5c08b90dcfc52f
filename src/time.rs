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
        let number = |at: usize, digits: usize| {
            let part = text.get(at..at + digits)?;
            let is_number = part.bytes().all(|b| b.is_ascii_digit());
            is_number.then(|| part.parse::<i32>().ok())?
        };
        let is = |(at, signs): (usize, &str)| text[at..].starts_with(|c| signs.contains(c));
        let numbers = [number(0, 4), number(5, 2), number(8, 2)];
        let [year, month, day] = numbers.map(|part| part.unwrap_or(-1));
        let numbers = [number(11, 2), number(14, 2), number(17, 2)];
        let [hour, minute, second] = numbers.map(|part| part.unwrap_or(-1));
        let are_in_range = (0..=23).contains(&hour)
            && (0..=59).contains(&minute)
            && (0..=60).contains(&second)
            && [year, month, day].iter().all(|part| *part >= 0);
        // Where all numbers are digits, the signs between them begin at whole characters.
        if !are_in_range
            || ![(4, "-"), (7, "-"), (10, "Tt "), (13, ":"), (16, ":")]
                .into_iter()
                .all(is)
        {
            return None;
        }
        let day_began = days_since_1970(year, month, day)? * 86_400;
        let naive = day_began + i64::from(hour * 3600 + minute * 60 + second);
        let mut rest = &text[19..];
        let mut ms = 0;
        if let Some(fraction) = rest.strip_prefix('.') {
            let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
            ms = format!(
                "{:0<3}",
                fraction.get(..digits.min(3)).filter(|_| digits > 0)?
            )
            .parse()
            .ok()?;
            rest = &fraction[digits..];
        }
        let secs = match rest {
            "" => instants(naive, local_offset)[0],
            "Z" | "z" => naive,
            _ => naive - offset(rest)?,
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

    /// The coming local midnight; where the clock leaves it out, the first moment after it.
    pub fn midnight(self) -> Wall {
        Wall::from_secs(midnight(self.secs(), local_offset))
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
        let tm = local(self.secs());
        let (year, month) = (i64::from(tm.tm_year) + 1900, tm.tm_mon + 1);
        write!(
            f,
            "{year:04}-{month:02}-{:02}T{:02}",
            tm.tm_mday, tm.tm_hour
        )?;
        let ms = self.0.rem_euclid(1000);
        write!(f, ":{:02}:{:02}.{ms:03}", tm.tm_min, tm.tm_sec)?;
        let sign = if tm.tm_gmtoff < 0 { '-' } else { '+' };
        let minutes = tm.tm_gmtoff.abs() / 60;
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

/// Seconds east of UTC that the local time zone has at `secs` since 1970.
fn local_offset(secs: i64) -> i64 {
    local(secs).tm_gmtoff
}

/// `None` for a day that no calendar has.
fn days_since_1970(year: i32, month: i32, day: i32) -> Option<i64> {
    // SAFETY: `tm` is plain data for which all zeroes are valid; timegm keeps no pointer to it.
    let (secs, tm) = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        (tm.tm_year, tm.tm_mon, tm.tm_mday) = (year - 1900, month - 1, day);
        (libc::timegm(&mut tm), tm)
    };
    // It counts on where there is no such day.
    (tm.tm_mon == month - 1 && tm.tm_mday == day).then_some(secs / 86_400)
}

/// Reads the offset of RFC 3339, `+02:00`, in seconds.
fn offset(text: &str) -> Option<i64> {
    let (hours, minutes) = text.get(1..)?.split_once(':')?;
    let number = |part: &str, most: i64| {
        let is_number = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        part.parse().ok().filter(|&n: &i64| is_number && n <= most)
    };
    let secs = number(hours, 23)? * 3600 + number(minutes, 59)? * 60;
    match text.as_bytes()[0] {
        b'+' => Some(secs),
        b'-' => Some(-secs),
        _ => None,
    }
}

/// When local clocks show `naive`, which is counted as if they were in UTC: once, or twice when they
/// are set back. Where they leave it out, both are as long after the change as it would have been.
fn instants(naive: i64, offset: impl Fn(i64) -> i64) -> [i64; 2] {
    let (before, after) = (offset(naive - 86_400), offset(naive + 86_400));
    let first = naive - before;
    let last = naive - after;
    match (offset(first) == before, offset(last) == after) {
        (true, true) => [first, last],
        (false, true) => [last, last],
        _ => [first, first],
    }
}

fn midnight(now: i64, offset: impl Fn(i64) -> i64) -> i64 {
    let naive = ((now + offset(now)).div_euclid(86_400) + 1) * 86_400;
    let [first, last] = instants(naive, offset);
    // A clock that was set back over midnight has had the first already: no wait ends in the past.
    if first > now {
        first
    } else {
        last.max(now + 1)
    }
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

    /// A clock that is set forward or back by so much at an instant, from an offset.
    fn zone(change: i64, before: i64, by: i64) -> impl Fn(i64) -> i64 {
        move |secs| if secs < change { before } else { before + by }
    }

    #[test]
    fn a_midnight_that_the_clock_leaves_out_is_the_first_moment_after_it() {
        const HOUR: i64 = 3600;
        // 2026-09-06 00:00 in Santiago, which was four hours behind and goes to three.
        let change = Wall::parse("2026-09-06T04:00:00Z").unwrap().secs();
        for (what, now, offset, wanted) in [
            (
                "left out",
                change - HOUR / 2,
                zone(change, -4 * HOUR, HOUR),
                change,
            ),
            (
                "the evening before",
                change - 25 * HOUR,
                zone(change, -4 * HOUR, HOUR),
                change - 24 * HOUR,
            ),
            (
                "the day after",
                change,
                zone(change, -4 * HOUR, HOUR),
                change + 23 * HOUR,
            ),
            (
                "set back to 23:00",
                change - 1,
                zone(change, -4 * HOUR, -HOUR),
                change + HOUR,
            ),
            (
                "in the hour again",
                change + 60,
                zone(change, -4 * HOUR, -HOUR),
                change + HOUR,
            ),
            (
                "twice, before",
                change - HOUR,
                zone(change + HOUR, -4 * HOUR, -HOUR),
                change,
            ),
            (
                "twice, over it",
                change + 60,
                zone(change + 60, -4 * HOUR, -HOUR),
                change + HOUR,
            ),
            (
                "in the morning",
                change + 9 * HOUR,
                zone(change + 7 * HOUR, -4 * HOUR, HOUR),
                change + 23 * HOUR,
            ),
        ] {
            assert_eq!(midnight(now, offset) - change, wanted - change, "{what}");
        }
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
        for bad in [
            "",
            "22:00",
            "tonight",
            "2026-12-01 22",
            "2026-12-32",
            "2026-12-01 2200",
            "2026-12-01T22:0ö",
        ] {
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
