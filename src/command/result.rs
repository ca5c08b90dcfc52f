//! Reading results: what one tells, and which are the newest. Neither the size of a result nor the
//! number of results makes the memory that it takes grow much.

use crate::agent::json::parse;
use crate::error::{Error, Result};
use crate::job::{Attempt, JobId};
use crate::record::{Change, Check};
use crate::render::{Style, clean_line, fit};
use crate::spool::Spool;
use crate::time::{Wall, human};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use std::cmp::Reverse;
use std::fs::File;
use std::io::{BufReader, Read};
use std::ops::Deref;
use std::time::Duration;

/// A result up to this size is read in one piece, which is faster; a larger one as a stream.
const SMALL: usize = 64 << 10;
/// A job takes less; a longer one is a mistake in its result.
const SECONDS_MAX: f64 = 1e9;
/// An error may quote a page of the agent's; it stands in full where the agent said it.
const ERROR_SHOWN: usize = 200;
/// An audit below this asks for a person's eye (SPEC 9).
const AUDIT_GOOD: f64 = 70.0;

/// A member that may be absent. One of another type, as in old results and in those that somebody
/// mended, counts as absent and hides nothing else.
#[derive(Default)]
pub(super) struct Member<T>(Option<T>);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Member<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Member<T>, D::Error> {
        Ok(Member(parse(Box::<RawValue>::deserialize(from)?.get())))
    }
}

impl<T> Deref for Member<T> {
    type Target = Option<T>;

    fn deref(&self) -> &Option<T> {
        &self.0
    }
}

impl<T> Member<Vec<T>> {
    /// Its items; none if it is absent.
    pub(super) fn list(&self) -> &[T] {
        self.as_deref().unwrap_or_default()
    }
}

/// What a result tells; what is not named here is passed over.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Finished {
    pub status: Member<String>,
    pub error_kind: Member<String>,
    pub error: Member<String>,
    pub started_at: Member<Wall>,
    pub completed_at: Member<Wall>,
    pub duration_seconds: Member<f64>,
    #[serde(deserialize_with = "output")]
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

/// In old results, what the agent brought may be a mere text.
fn output<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Output, D::Error> {
    let json = Box::<RawValue>::deserialize(from)?;
    Ok(parse(json.get()).unwrap_or_else(|| Output {
        summary: Member(parse(json.get())),
        ..Output::default()
    }))
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
    pub(super) fn sign(self) -> (&'static str, &'static str) {
        match self {
            Ending::Good => ("32", "✓"),
            Ending::Doubtful => ("33", "⚠"),
            Ending::Bad => ("31", "✗"),
            Ending::Cancelled => ("2", "–"),
        }
    }

    /// The sign of a list of outcomes, in its colour where there are colours. A cancelled job has that
    /// of one that failed: scripts look for what did not complete.
    pub(super) fn mark(self, style: Style) -> String {
        let (color, sign) = match self {
            Ending::Cancelled => Ending::Bad.sign(),
            other => other.sign(),
        };
        style.paint(color, sign)
    }
}

impl Finished {
    /// What a result tells; `None` if it is no whole JSON object, or cannot be read.
    pub(super) fn read(file: &File) -> Option<Finished> {
        let mut head = Vec::with_capacity(SMALL);
        file.take(SMALL as u64).read_to_end(&mut head).ok()?;
        // To serde, a list would be a struct, too.
        if !head.trim_ascii_start().starts_with(b"{") {
            return None;
        }
        match head.len() {
            SMALL => serde_json::from_reader(head.chain(BufReader::new(file))).ok(),
            _ => serde_json::from_slice(&head).ok(),
        }
    }

    /// The result of a job, if there is one that can be read.
    pub(super) fn of(spool: &Spool, id: &JobId) -> Option<Finished> {
        Finished::read(&spool.open_result(id).ok()??)
    }

    /// The result of a job, of which there is no other word.
    pub(super) fn need(spool: &Spool, id: &JobId, file: &File) -> Result<Finished> {
        Finished::read(file).ok_or_else(|| {
            let path = spool.result_path(id);
            let way_out = format!("mend it, or remove it and run job-monitor retry {id}");
            let text = format!("the result {} cannot be read; {way_out}", path.display());
            Error::new(text)
        })
    }

    /// What stands in for a result that cannot be read.
    pub(super) fn unreadable() -> Finished {
        Finished {
            status: Member(Some("unreadable".to_owned())),
            ..Finished::default()
        }
    }

    /// How it ended, in the document's own word.
    pub(super) fn word(&self) -> String {
        clean_line(self.status.as_deref().unwrap_or("unknown"))
    }

    pub(super) fn is_completed(&self) -> bool {
        self.word() == "completed"
    }

    pub(super) fn ending(&self) -> Ending {
        // Whether a person should look at it though it completed (SPEC 9).
        let is_doubtful = self.audit_score.is_some_and(|score| score < AUDIT_GOOD)
            || !self.permission_denials.list().is_empty()
            || !self.failed_mcp_servers.list().is_empty();
        match self.word().as_str() {
            "completed" if is_doubtful => Ending::Doubtful,
            "completed" => Ending::Good,
            "cancelled" => Ending::Cancelled,
            _ => Ending::Bad,
        }
    }

    /// What else is known of how well it went: audit, check, what the agent had to do without.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        notes.extend(self.audit_score.map(|score| format!("audit {score}")));
        let checks = self.checks.list();
        if checks.last().is_some_and(|last| last.exit_code == Some(0)) {
            notes.push(match checks.len() {
                1 => "check passed".to_owned(),
                rounds => format!("check passed at try {rounds}"),
            });
        }
        let denied = self.permission_denials.list().len() as u64;
        let missing = self.failed_mcp_servers.list().len() as u64;
        notes.extend((denied > 0).then(|| counted(denied, "tool") + " denied"));
        notes.extend((missing > 0).then(|| counted(missing, "MCP server") + " missing"));
        notes
    }

    /// How it ended, with the kind of its error if that says more: `failed (check_failed)`.
    pub(super) fn verdict(&self) -> String {
        let kind = self.error_kind.as_deref().map(clean_line);
        match (self.word(), kind) {
            (word, Some(kind)) if kind != word => format!("{word} ({kind})"),
            (word, _) => word,
        }
    }

    /// How long its agent was at work, in seconds.
    pub(super) fn seconds(&self) -> Option<f64> {
        let is_possible = |seconds: &f64| (0.0..SECONDS_MAX).contains(seconds);
        self.duration_seconds.filter(is_possible)
    }

    /// The same for people; nothing for a job that had no start.
    pub(super) fn duration(&self) -> Option<String> {
        let seconds = self.seconds().filter(|seconds| *seconds > 0.0)?;
        Some(human(Duration::from_secs_f64(seconds)))
    }

    /// What it cost.
    pub(super) fn cost(&self) -> Option<String> {
        let usd = (*self.worker_output.cost_usd)?;
        Some(format!("${usd:.4}"))
    }

    /// The size of the change in lines, `+12 −3`; nothing where nothing changed.
    pub(super) fn change(&self) -> Option<String> {
        lines_changed(self.git.as_ref().filter(|change| change.files != Some(0))?)
    }

    /// How the job ended, in a line.
    pub(super) fn line(&self) -> String {
        let mut line = self.verdict();
        line.extend(self.duration().map(|duration| format!(" after {duration}")));
        let parts = self.cost().into_iter().chain(self.notes());
        line.extend(parts.map(|part| format!(", {part}")));
        let error = self.error.as_deref().map(clean_line);
        line.extend(error.map(|error| format!(": {}", fit(&error, ERROR_SHOWN))));
        line
    }
}

/// `1 file`, `3 files`.
pub(super) fn counted(number: u64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

fn lines_changed(change: &Change) -> Option<String> {
    let (more, less) = (change.insertions?, change.deletions?);
    Some(format!("+{more} −{less}"))
}

/// What a job changed: `3 files, +12 −3, 1 commit on main`.
pub(super) fn change_line(change: &Change) -> Option<String> {
    let files = change.files?;
    let commits = change.commits.filter(|commits| *commits > 0);
    if files == 0 && commits.is_none() {
        return Some("nothing".to_owned());
    }
    let mut parts = vec![counted(files, "file")];
    parts.extend(lines_changed(change));
    parts.extend(commits.map(|commits| counted(commits, "commit")));
    let branch = change.branch.as_ref().map(|branch| format!(" on {branch}"));
    Some(parts.join(", ") + &branch.unwrap_or_default())
}

/// The finished jobs of some projects, those first whose results were written last.
pub(super) struct Newest {
    /// Their ids, a line each: as many small texts would take three times the memory.
    ids: String,
    /// When a result was written, where its job's id begins, and its project's place.
    pub order: Vec<(i64, u32, u32)>,
}

impl Newest {
    pub(super) fn of(spools: &[Spool]) -> Result<Newest> {
        let (mut ids, mut order) = (String::new(), Vec::new());
        for (place, spool) in spools.iter().enumerate() {
            spool.finished(&mut |id, written_ns| {
                // Beyond the year 2262 they are all of the same age.
                let written = i64::try_from(written_ns).unwrap_or(i64::MAX);
                order.push((written, ids.len() as u32, place as u32));
                ids.push_str(id);
                ids.push('\n');
            })?;
        }
        let id_at = |at: u32| ids[at as usize..].split('\n').next();
        order.sort_unstable_by_key(|&(written, at, _)| Reverse((written, id_at(at))));
        Ok(Newest { ids, order })
    }

    /// The place of each one's project in what was given, and its id.
    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, JobId)> {
        self.order.iter().filter_map(|&(_, at, place)| {
            let id = self.ids[at as usize..].split('\n').next()?;
            Some((place as usize, JobId::exact(id)?))
        })
    }
}
