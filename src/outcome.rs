//! A claim and what its attempts brought -> the result document.

use crate::agent::fold::{Audit, Report, audit, sum, sum_usage};
use crate::agent::{Fault, dialect};
use crate::job::{ErrorKind, check_log, log_name};
use crate::project::{Layout, Project, Protocol};
use crate::record::{Carried, Change, Claim};
use crate::time::Wall;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// How a job ended: all that its result tells. The claim has carried over what its attempts brought.
#[derive(Debug)]
pub struct Outcome<'a> {
    /// The project, and the real path of where the job ran.
    pub project: (&'a Project, &'a Path),
    /// The job.
    pub claim: &'a Claim,
    /// Why it did not complete, if so, and when it ended.
    pub end: (Option<&'a Fault>, Wall),
    /// What only the last attempt tells.
    pub report: &'a Report,
    /// The end of its standard error.
    pub stderr: &'a str,
    /// Its logs, relative to the project.
    pub logs: &'a [String],
    /// What changed in the work tree.
    pub git: Option<&'a Change>,
}

#[derive(serde::Serialize)]
struct WorkerOutput<'a> {
    summary: Option<&'a String>,
    raw_output: Option<&'a String>,
    usage: Option<&'a Value>,
    cost_usd: Option<f64>,
}

/// A result as it lies in `results/`, in the order of keys that SPEC 8 gives.
impl Serialize for Outcome<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Outcome { claim, report, .. } = *self;
        let (fault, now) = self.end;
        let (carried, ran) = (&claim.carried, claim.starts > 0);
        let audit = report.answer.as_deref().and_then(audit);
        let audit = audit.map(|(_, audit, _)| audit).unwrap_or_default();
        let text = Some(&report.text).filter(|text| !text.is_empty());
        let output = ran.then(|| WorkerOutput {
            summary: report.answer.as_ref(),
            raw_output: text,
            usage: carried.usage.as_ref(),
            cost_usd: cost_of(claim),
        });
        let first = claim.attempts.first().map(|first| first.started_at);
        let artifacts = files_of(self, &audit);
        let key = match claim.job_id.layout() {
            Layout::Jobs => "job_id",
            Layout::Tasks => "task_id",
        };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry(key, &claim.job_id)?;
        map.serialize_entry("status", status(fault))?;
        map.serialize_entry("created_at", &claim.created_at)?;
        map.serialize_entry("started_at", &first.or(ran.then_some(claim.started_at)))?;
        map.serialize_entry("completed_at", &now)?;
        map.serialize_entry("queue_position", &claim.queue_position)?;
        map.serialize_entry("worker_output", &output)?;
        map.serialize_entry("audit_score", &audit.score)?;
        map.serialize_entry("audit_notes", &audit.notes)?;
        map.serialize_entry("artifacts", &artifacts)?;
        map.serialize_entry("error", &fault.map(|fault| &fault.error))?;
        map.serialize_entry("retry_count", &claim.retries)?;
        map.serialize_entry("stdout", &text)?;
        map.serialize_entry("stderr", &Some(self.stderr).filter(|text| !text.is_empty()))?;
        map.serialize_entry("duration_seconds", &lasted(claim))?;
        map.serialize_entry("error_kind", &fault.map(|fault| fault.kind))?;
        map.serialize_entry("project", &self.project.0.name)?;
        map.serialize_entry("agent", &claim.agent)?;
        map.serialize_entry("agent_version", &report.agent_version)?;
        map.serialize_entry("model", &report.model)?;
        map.serialize_entry("session_id", &claim.session_id)?;
        map.serialize_entry("num_turns", &carried.num_turns)?;
        map.serialize_entry("attempts", &claim.attempts)?;
        // Of its agent's refused tools Codex tells nothing.
        let denials = Some(&carried.permission_denials);
        let denials = denials.filter(|_| claim.protocol != Protocol::Codex);
        map.serialize_entry("permission_denials", &denials)?;
        map.serialize_entry("leftovers", &carried.leftovers)?;
        map.serialize_entry("document_sha256", &ran.then_some(&claim.document_sha256))?;
        map.serialize_entry("logs", self.logs)?;
        map.serialize_entry("checks", &claim.checks)?;
        map.serialize_entry("git", &self.git)?;
        map.serialize_entry("continues", &claim.continues)?;
        map.serialize_entry("failed_mcp_servers", &carried.failed_mcp_servers)?;
        map.end()
    }
}

/// How a job ended, in a word.
pub fn status(fault: Option<&Fault>) -> &'static str {
    match fault.map(|fault| fault.kind) {
        None => "completed",
        Some(ErrorKind::Cancelled) => "cancelled",
        Some(_) => "failed",
    }
}

/// The files that the agent named and changed, each once; paths below the project become relative to it.
fn files_of(outcome: &Outcome<'_>, audit: &Audit) -> Option<Vec<String>> {
    let (project, root) = outcome.project;
    let edited = &outcome.claim.carried.edited;
    let mut files = Vec::new();
    for named in audit.artifacts.iter().chain(edited) {
        let path = Path::new(named);
        let below = path.strip_prefix(&project.path).or(path.strip_prefix(root));
        let path = below.ok().and_then(Path::to_str).unwrap_or(named);
        let path = path.strip_prefix("./").unwrap_or(path).to_owned();
        unite(&mut files, vec![path]);
    }
    Some(files).filter(|files| !files.is_empty())
}

/// How long all attempts took together, in seconds.
pub fn lasted(claim: &Claim) -> f64 {
    let all = claim.attempts.iter().map(|one| one.duration_seconds);
    // The sum of an empty list of floats is -0.
    millis(all.fold(0.0, |all, one| all + one))
}

/// The logs of all starts, relative to the project: the text that ran, output and errors, then the checks.
pub fn log_paths(project: &Project, claim: &Claim) -> Vec<String> {
    let (id, dir) = (&claim.job_id, project.layout.logs());
    let endings = [dialect(claim.protocol).ending, "err"];
    let of_start = |start| endings.map(|ending| log_name(id, start, ending));
    let text = (claim.starts > 0).then(|| id.file_name()).into_iter();
    let checks = (1..=claim.checks.len() as u32).map(|round| check_log(id, round));
    let starts = (1..=claim.starts).flat_map(of_start);
    let names = text.chain(starts).chain(checks);
    names.map(|name| format!("{dir}/{name}")).collect()
}

/// A job's cost: the last running total of each session, summed, less what one had cost before the job
/// (SPEC 7).
pub fn cost_of(claim: &Claim) -> Option<f64> {
    let told = claim.attempts.iter();
    let told = told.filter_map(|one| Some((one.session_id.as_deref(), one.cost_usd?.max(0.0))));
    let mut sessions: BTreeMap<Option<&str>, f64> = told.collect();
    if let Some(before) = &claim.inherited
        && let Some(total) = sessions.get_mut(&Some(&*before.session_id))
    {
        *total = (*total - before.cost_usd).max(0.0);
    }
    (!sessions.is_empty()).then(|| cents(sessions.values().sum()))
}

/// Adds what an attempt brought to what the claim carries.
pub fn carry(carried: &mut Carried, more: Carried) {
    carried.usage = sum_usage(carried.usage.take(), more.usage);
    carried.num_turns = sum(carried.num_turns, more.num_turns);
    unite(&mut carried.edited, more.edited);
    unite(&mut carried.permission_denials, more.permission_denials);
    unite(&mut carried.failed_mcp_servers, more.failed_mcp_servers);
}

fn unite<T: PartialEq>(all: &mut Vec<T>, more: Vec<T>) {
    for one in more {
        if !all.contains(&one) {
            all.push(one);
        }
    }
}

/// Money to a ten-thousandth of a cent; what is below is the noise of adding binary fractions.
pub fn cents(usd: f64) -> f64 {
    (usd * 1e6).round() / 1e6
}

/// Seconds to a millisecond.
pub fn millis(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::Attempt;
    use crate::record::Inherited;

    fn attempt(session: &str, cost_usd: Option<f64>) -> Attempt {
        Attempt {
            session_id: Some(session.to_owned()),
            cost_usd,
            ..Attempt::default()
        }
    }

    #[test]
    fn a_job_costs_the_last_running_total_of_each_session() {
        let mut claim = Claim::default();
        assert_eq!(cost_of(&claim), None);
        claim.attempts = vec![attempt("a", None)];
        assert_eq!(cost_of(&claim), None);
        claim.attempts = vec![
            attempt("a", Some(0.1)),
            attempt("a", Some(0.3)),
            attempt("b", Some(0.1)),
            attempt("a", None),
        ];
        assert_eq!(cost_of(&claim), Some(0.4));
        // A total that nobody can have makes no other session cheaper.
        claim.attempts.push(attempt("c", Some(-5.0)));
        assert_eq!(cost_of(&claim), Some(0.4));
        claim.inherited = Some(Inherited {
            session_id: "a".to_owned(),
            cost_usd: 0.2,
        });
        assert_eq!(cost_of(&claim), Some(0.2));
    }

    #[test]
    fn what_earlier_attempts_brought_is_not_lost() {
        let brought = |edited: &str, turns| Carried {
            edited: vec![edited.to_owned()],
            num_turns: turns,
            usage: Some(serde_json::json!({ "input_tokens": 2 })),
            ..Carried::default()
        };
        let mut carried = Carried::default();
        carry(&mut carried, brought("a", Some(2)));
        carry(&mut carried, brought("a", None));
        carry(&mut carried, brought("b", Some(1)));
        assert_eq!(carried.edited, ["a", "b"]);
        assert_eq!(carried.num_turns, Some(3));
        assert_eq!(carried.usage.unwrap()["input_tokens"], 6);
    }
}
