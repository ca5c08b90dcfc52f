//! Reading results: what one tells, and which are the newest. Neither the size of a result nor the
//! number of results makes the memory that it takes grow.

use crate::agent::json::parse;
use crate::error::Result;
use crate::job::{Attempt, JobId};
use crate::record::{Change, Check};
use crate::render::{Style, clean_line, shorten};
use crate::spool::Spool;
use crate::time::{Wall, human};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::marker::PhantomData;
use std::ops::ControlFlow;
use std::time::Duration;

/// A result up to this size is read in one piece, which is faster; a larger one as a stream.
const SMALL: u64 = 64 << 10;
/// A result that is read whole though it has another shape than ours.
const ODD_MAX: u64 = 16 << 20;
/// A job takes less; a longer one is a mistake in its result.
const SECONDS_MAX: f64 = 1e9;
/// An error may quote a page of the agent's; it stands in full where the agent said it.
const ERROR_SHOWN: usize = 200;
/// An audit below this asks for a person's eye (SPEC 9).
const AUDIT_GOOD: f64 = 70.0;

/// A member that is understood when it is asked for. One of another type, as in old results and in
/// those that somebody mended, counts as absent and hides nothing else.
pub(super) struct Member<T>(Option<Box<RawValue>>, PhantomData<T>);

impl<T> Default for Member<T> {
    fn default() -> Member<T> {
        Member(None, PhantomData)
    }
}

impl<'de, T> Deserialize<'de> for Member<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Member<T>, D::Error> {
        Ok(Member(Option::deserialize(from)?, PhantomData))
    }
}

impl<T: DeserializeOwned> Member<T> {
    pub(super) fn get(&self) -> Option<T> {
        parse(self.0.as_ref()?.get())
    }
}

impl<T> Member<Vec<T>> {
    fn len(&self) -> usize {
        let list = self
            .0
            .as_ref()
            .and_then(|raw| parse::<Vec<IgnoredAny>>(raw.get()));
        list.map_or(0, |list| list.len())
    }
}

/// What a result tells; what is not named here is passed over.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Finished {
    pub status: Member<String>,
    pub error_kind: Member<String>,
    pub error: Member<String>,
    pub created_at: Member<Wall>,
    pub started_at: Member<Wall>,
    pub completed_at: Member<Wall>,
    pub duration_seconds: Member<f64>,
    pub worker_output: Output,
    pub audit_score: Member<f64>,
    pub audit_notes: Member<String>,
    pub artifacts: Member<Vec<String>>,
    pub agent: Member<String>,
    pub agent_version: Member<String>,
    pub model: Member<String>,
    pub session_id: Member<String>,
    pub attempts: Member<Vec<Attempt>>,
    pub permission_denials: Member<Vec<Value>>,
    pub failed_mcp_servers: Member<Vec<String>>,
    pub stderr: Member<String>,
    pub checks: Member<Vec<Check>>,
    pub git: Member<Change>,
    pub continues: Member<String>,
}

/// The predecessor's nest for what the agent brought.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Output {
    pub summary: Member<String>,
    pub usage: Member<Map<String, Value>>,
    pub cost_usd: Member<f64>,
}

/// How a job ended, for the mark in front of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Good,
    /// Completed, but a person should look at it.
    Doubtful,
    Bad,
    Cancelled,
}

impl Ending {
    /// The sign, with the number of its colour.
    pub(super) fn sign(self, style: Style) -> (&'static str, &'static str) {
        match (self, style.unicode) {
            (Ending::Good, true) => ("32", "✓"),
            (Ending::Good, false) => ("32", "+"),
            (Ending::Doubtful, true) => ("33", "⚠"),
            (Ending::Doubtful, false) => ("33", "!"),
            (Ending::Bad, true) => ("31", "✗"),
            (Ending::Bad, false) => ("31", "x"),
            (Ending::Cancelled, true) => ("2", "–"),
            (Ending::Cancelled, false) => ("2", "-"),
        }
    }

    /// The sign of a list of outcomes, in its colour where there are colours. A cancelled job has that
    /// of one that failed: scripts look for what did not complete.
    pub(super) fn mark(self, style: Style) -> String {
        let listed = match self {
            Ending::Cancelled => Ending::Bad,
            other => other,
        };
        let (color, sign) = listed.sign(style);
        style.paint(color, sign)
    }
}

impl Finished {
    /// What a result tells; `None` if it is no whole JSON object, or cannot be read.
    pub(super) fn read(mut file: &File) -> Option<Finished> {
        let mut head = Vec::new();
        file.take(SMALL).read_to_end(&mut head).ok()?;
        // To serde, a list would be a struct, too.
        if !head.trim_ascii_start().starts_with(b"{") {
            return None;
        }
        let mut from_start = || file.rewind().ok().map(|()| BufReader::new(file));
        let told = match head.len() as u64 {
            0..SMALL => serde_json::from_slice(&head),
            _ => serde_json::from_reader(from_start()?),
        };
        // What the agent brought may be a mere text, in old results.
        told.ok().or_else(|| {
            let mut odd: Map<String, Value> =
                serde_json::from_reader(from_start()?.take(ODD_MAX)).ok()?;
            let summary = odd.remove("worker_output")?;
            odd.insert("worker_output".to_owned(), json!({ "summary": summary }));
            serde_json::from_value(Value::Object(odd)).ok()
        })
    }

    /// The result of a job, if there is one that can be read.
    pub(super) fn of(spool: &Spool, id: &JobId) -> Option<Finished> {
        Finished::read(&spool.open_result(id).ok()??)
    }

    /// What stands in for a result that cannot be read.
    pub(super) fn unreadable() -> Finished {
        let status = RawValue::from_string("\"unreadable\"".to_owned()).ok();
        Finished {
            status: Member(status, PhantomData),
            ..Finished::default()
        }
    }

    /// How it ended, in the document's own word.
    pub(super) fn word(&self) -> String {
        clean_line(&self.status.get().unwrap_or_else(|| "unknown".to_owned()))
    }

    pub(super) fn is_completed(&self) -> bool {
        self.word() == "completed"
    }

    pub(super) fn ending(&self) -> Ending {
        match self.word().as_str() {
            "completed" if self.is_doubtful() => Ending::Doubtful,
            "completed" => Ending::Good,
            "cancelled" => Ending::Cancelled,
            _ => Ending::Bad,
        }
    }

    /// Whether a person should look at it though it completed (SPEC 9).
    fn is_doubtful(&self) -> bool {
        let audit = self.audit_score.get();
        audit.is_some_and(|score| score < AUDIT_GOOD)
            || self.permission_denials.len() + self.failed_mcp_servers.len() > 0
    }

    /// What else is known of how well it went: audit, check, what the agent had to do without.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        notes.extend(self.audit_score.get().map(|score| format!("audit {score}")));
        let checks = self.checks.get().unwrap_or_default();
        match checks.len() {
            1.. if checks.last().is_some_and(|last| last.exit_code != Some(0)) => {}
            0 => {}
            1 => notes.push("check passed".to_owned()),
            rounds => notes.push(format!("check passed at try {rounds}")),
        }
        let mut count = |count, one: &str, many: &str| match count {
            0 => {}
            1 => notes.push(format!("1 {one}")),
            _ => notes.push(format!("{count} {many}")),
        };
        count(self.permission_denials.len(), "tool denied", "tools denied");
        count(
            self.failed_mcp_servers.len(),
            "MCP server missing",
            "MCP servers missing",
        );
        notes
    }

    /// The kind of its error, if that says more than the status.
    pub(super) fn remark(&self) -> Option<String> {
        let kind = clean_line(&self.error_kind.get()?);
        (kind != self.word()).then_some(kind)
    }

    /// How long its agent was at work, in seconds.
    pub(super) fn seconds(&self) -> Option<f64> {
        let seconds = self.duration_seconds.get()?;
        (0.0..SECONDS_MAX).contains(&seconds).then_some(seconds)
    }

    /// The same for people; nothing for a job that had no start.
    pub(super) fn duration(&self) -> Option<String> {
        let seconds = self.seconds().filter(|seconds| *seconds > 0.0)?;
        Some(human(Duration::from_secs_f64(seconds)))
    }

    /// What it cost.
    pub(super) fn cost(&self) -> Option<String> {
        let cost = self.worker_output.cost_usd.get()?;
        Some(format!("${cost:.4}"))
    }

    /// The size of the change in lines, `+12 −3`; nothing where nothing changed.
    pub(super) fn change(&self, style: Style) -> Option<String> {
        let change = self.git.get().filter(|change| change.files != Some(0))?;
        lines_changed(&change, style)
    }

    /// How the job ended, in a line.
    pub(super) fn line(&self) -> String {
        let mut line = self.word();
        if let Some(kind) = self.remark() {
            line = format!("{line} ({kind})");
        }
        if let Some(duration) = self.duration() {
            line = format!("{line} after {duration}");
        }
        for part in self.cost().into_iter().chain(self.notes()) {
            line = format!("{line}, {part}");
        }
        if let Some(error) = self.error.get() {
            line = format!("{line}: {}", shorten(&clean_line(&error), ERROR_SHOWN));
        }
        line
    }
}

fn lines_changed(change: &Change, style: Style) -> Option<String> {
    let minus = if style.unicode { "−" } else { "-" };
    Some(format!(
        "+{} {minus}{}",
        change.insertions?, change.deletions?
    ))
}

/// What a job changed: `3 files, +12 −3, 1 commit on main`.
pub(super) fn change_line(change: &Change, style: Style) -> Option<String> {
    let count = |number: u64, one: &str| match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {one}s"),
    };
    let files = change.files?;
    if files == 0 && change.commits.unwrap_or(0) == 0 {
        return Some("nothing".to_owned());
    }
    let mut parts = vec![count(files, "file")];
    parts.extend(lines_changed(change, style));
    let commits = change.commits.filter(|commits| *commits > 0);
    parts.extend(commits.map(|commits| count(commits, "commit")));
    let branch = change.branch.as_ref().map(|branch| format!(" on {branch}"));
    Some(parts.join(", ") + &branch.unwrap_or_default())
}

/// Goes through the finished jobs of some projects, those first whose results were written last, until
/// `each` has enough: it is given the project's place in `spools` and the job. Of more than `room`,
/// several rounds are made, so that not all names are held at once. Returns how many there are.
pub(super) fn newest(
    spools: &[Spool],
    room: usize,
    each: &mut dyn FnMut(usize, JobId) -> Result<ControlFlow<()>>,
) -> Result<usize> {
    let mut below: Option<(i64, usize, Box<str>)> = None;
    loop {
        let mut kept: BTreeSet<(i64, usize, Box<str>)> = BTreeSet::new();
        let (mut total, mut is_part) = (0, false);
        for (at, spool) in spools.iter().enumerate() {
            spool.finished(&mut |id, written| {
                total += 1;
                // Beyond the year 2262 they are all of the same age.
                let written = i64::try_from(written).unwrap_or(i64::MAX);
                let key = |other: &(i64, usize, Box<str>)| {
                    (written, at, id).cmp(&(other.0, other.1, &other.2))
                };
                if below.as_ref().is_some_and(|below| key(below).is_ge()) {
                    return;
                }
                if kept.len() == room {
                    is_part = true;
                    if kept.first().is_some_and(|first| key(first).is_lt()) {
                        return;
                    }
                    kept.pop_first();
                }
                kept.insert((written, at, id.into()));
            })?;
        }
        for (_, at, id) in kept.iter().rev() {
            if let Some(id) = JobId::exact(id)
                && each(*at, id)?.is_break()
            {
                return Ok(total);
            }
        }
        below = kept.pop_first();
        if !is_part {
            return Ok(total);
        }
    }
}
