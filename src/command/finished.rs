//! Finished jobs: what their results tell in a line, and which of them are the newest. Neither the
//! size of a result nor the number of results makes the memory that it takes grow.

use crate::agent::json::parse;
use crate::error::Result;
use crate::job::{Attempt, JobId};
use crate::peek::{Key, Peek};
use crate::render::{clean_line, shorten};
use crate::spool::Spool;
use crate::time::{Wall, human};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fs::File;
use std::time::Duration;

/// So many results are sorted at once; of more, the newest first, in several goes. An id has at most
/// 197 bytes, so that all of them together have less than 4 GiB.
const SORTED_MAX: usize = 100_000;
/// Fewer would be sorted all too often.
const SORTED_MIN: usize = 1000;
/// A job takes less; a longer one is a mistake in its result.
const SECONDS_MAX: f64 = 1e9;
/// An error may quote a page of the agent's; it stands in full where the agent said it.
const ERROR_SHOWN: usize = 200;

/// What a result tells of its job. Each member is read for itself and when it is asked for: in old
/// results, and in those that somebody mended, one of another type must not hide the rest.
pub(super) struct Brief(Option<Vec<Option<String>>>);

/// The first of them are all that lists tell.
const KEYS: [Key<'_>; 9] = [
    ("", "status"),
    ("", "error_kind"),
    ("", "completed_at"),
    ("", "duration_seconds"),
    ("worker_output", "cost_usd"),
    ("", "error"),
    ("", "started_at"),
    ("worker_output", "usage"),
    ("", "attempts"),
];
const KEYS_OF_LISTS: usize = 5;

impl Brief {
    pub(super) fn of(result: &File) -> Brief {
        Brief::read(result, &mut Peek::default())
    }

    /// What a list tells of it; nothing else is known then.
    pub(super) fn for_list(result: &File, peek: &mut Peek) -> Brief {
        Brief(peek.members(result, &KEYS[..KEYS_OF_LISTS]))
    }

    /// What stands in for a result that cannot even be opened.
    pub(super) fn unreadable() -> Brief {
        Brief(None)
    }

    /// The same for many results.
    pub(super) fn read(result: &File, peek: &mut Peek) -> Brief {
        Brief(peek.members(result, &KEYS))
    }

    pub(super) fn is_readable(&self) -> bool {
        self.0.is_some()
    }

    fn member<T: DeserializeOwned>(&self, key: &str) -> Option<T> {
        let at = KEYS.iter().position(|(_, known)| *known == key)?;
        let text = self.0.as_ref()?.get(at)?.as_deref()?;
        // Most of them are null in most results, which need not be found out by trying.
        (text != "null").then(|| parse(text))?
    }

    /// How it ended, in the document's own word.
    pub(super) fn status(&self) -> String {
        match self.is_readable() {
            true => self
                .member("status")
                .unwrap_or_else(|| "unknown".to_owned()),
            false => "unreadable".to_owned(),
        }
    }

    pub(super) fn is_completed(&self) -> bool {
        self.status() == "completed"
    }

    pub(super) fn error_kind(&self) -> Option<String> {
        self.member("error_kind")
    }

    /// The kind of its error, if that says more than the status.
    pub(super) fn remark(&self) -> Option<String> {
        self.error_kind().filter(|kind| *kind != self.status())
    }

    pub(super) fn started_at(&self) -> Option<Wall> {
        self.member("started_at")
    }

    pub(super) fn completed_at(&self) -> Option<Wall> {
        self.member("completed_at")
    }

    /// How long its agent was at work.
    pub(super) fn seconds(&self) -> Option<f64> {
        let seconds: f64 = self.member("duration_seconds")?;
        (0.0..SECONDS_MAX).contains(&seconds).then_some(seconds)
    }

    /// The same for people; nothing for a job that had no start.
    pub(super) fn duration(&self) -> Option<Duration> {
        let seconds = self.seconds().filter(|seconds| *seconds > 0.0);
        seconds.map(Duration::from_secs_f64)
    }

    pub(super) fn cost_usd(&self) -> Option<f64> {
        self.member("cost_usd")
    }

    /// The agent's own usage object.
    pub(super) fn usage(&self) -> Option<Value> {
        self.member("usage").filter(Value::is_object)
    }

    pub(super) fn attempts(&self) -> Vec<Attempt> {
        self.member("attempts").unwrap_or_default()
    }

    /// How the job ended.
    pub(super) fn line(&self) -> String {
        let mut line = clean_line(&self.status());
        if let Some(kind) = self.remark() {
            line = format!("{line} ({})", clean_line(&kind));
        }
        if let Some(duration) = self.duration() {
            line = format!("{line} after {}", human(duration));
        }
        if let Some(cost) = self.cost_usd() {
            line = format!("{line}, ${cost:.4}");
        }
        if let Some(error) = self.member::<String>("error") {
            line = format!("{line}: {}", shorten(&clean_line(&error), ERROR_SHOWN));
        }
        line
    }
}

/// Goes through the finished jobs of some projects, the newest first, `limit` of them at most:
/// `each` is given the project's place in `spools` and the job. Returns how many there are.
pub(super) fn newest(
    spools: &[Spool],
    limit: Option<usize>,
    each: &mut dyn FnMut(usize, JobId) -> Result<()>,
) -> Result<usize> {
    let mut left = limit.unwrap_or(usize::MAX);
    let mut last: Option<(i64, u16, String)> = None;
    loop {
        let mut newest = Newest {
            // Of more than there is room for, half are told.
            room: left.saturating_mul(2).clamp(SORTED_MIN, SORTED_MAX),
            ..Newest::default()
        };
        let mut total = 0;
        for (spool, at) in spools.iter().zip(0..) {
            spool.finished(&mut |id, written_ns| {
                total += 1;
                // Beyond the year 2262 they are all of the same age.
                let written = i64::try_from(written_ns).unwrap_or(i64::MAX);
                let is_told = |(last_written, last_at, last_id): &(i64, u16, String)| {
                    (written, at, id) >= (*last_written, *last_at, last_id.as_str())
                };
                if !last.as_ref().is_some_and(is_told) {
                    newest.add(written, at, id);
                }
            })?;
        }
        newest.keep_certain();
        for found in newest.found.iter().take(left) {
            let id = newest.id(found);
            last = Some((found.written, found.at, id.to_owned()));
            if let Some(id) = JobId::exact(id) {
                each(usize::from(found.at), id)?;
            }
        }
        left = left.saturating_sub(newest.found.len());
        if !newest.is_part || left == 0 {
            return Ok(total);
        }
    }
}

/// The newest of any number of results: at least half of as many as there is room for.
#[derive(Default)]
struct Newest {
    room: usize,
    found: Vec<Found>,
    /// Their ids, one behind the other: a text for each would take twice the place.
    ids: String,
    /// Whether some were left out.
    is_part: bool,
}

/// Small, since there are many.
#[derive(Clone, Copy)]
struct Found {
    written: i64,
    start: u32,
    at: u16,
    length: u8,
}

impl Newest {
    fn id(&self, found: &Found) -> &str {
        id_in(&self.ids, found)
    }

    fn add(&mut self, written: i64, at: u16, id: &str) {
        if self.found.len() == self.room {
            self.is_part = true;
            self.keep_certain();
            let ids: String = self.found.iter().map(|found| self.id(found)).collect();
            let mut start = 0;
            for found in &mut self.found {
                found.start = start;
                start += u32::from(found.length);
            }
            self.ids = ids;
        }
        self.found.push(Found {
            written,
            start: self.ids.len() as u32,
            at,
            length: id.len() as u8,
        });
        self.ids.push_str(id);
    }

    /// Brings the newest to the front. Where some were left out, those were older than half of what
    /// there is room for; older ones that came afterwards prove nothing.
    fn keep_certain(&mut self) {
        let ids = &self.ids;
        let key = |found: &Found| (found.written, found.at, id_in(ids, found));
        self.found.sort_unstable_by(|a, b| key(b).cmp(&key(a)));
        if self.is_part {
            self.found.truncate(self.room / 2);
        }
    }
}

fn id_in<'a>(ids: &'a str, found: &Found) -> &'a str {
    let start = found.start as usize;
    &ids[start..start + usize::from(found.length)]
}
