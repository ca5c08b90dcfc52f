//! A claim and what its attempts brought -> the result document.

use crate::agent::fold::{Report, sum, sum_usage};
use crate::agent::{Fault, dialect};
use crate::job::{Attempt, Status, log_name};
use crate::project::{Project, Protocol};
use crate::record::{Carried, Claim, Inherited, Outcome, WorkerOutput};
use crate::time::Wall;
use std::path::Path;

/// The result of a job whose claim has carried over what its attempts brought; `report` is the rest of the
/// last one, `root` the real path of where it ran, `now` when it ended.
pub fn of_claim(
    project: &Project,
    claim: &Claim,
    status: Status,
    fault: Option<&Fault>,
    report: Report,
    root: &Path,
    now: Wall,
) -> Outcome {
    let (carried, ran) = (claim.carried.clone(), claim.starts > 0);
    let first = claim.attempts.first().map(|first| first.started_at);
    let lasted = claim.attempts.iter().map(|one| one.duration_seconds);
    let named = report.audit.artifacts.into_iter().chain(carried.edited);
    let artifacts = files_of(named, &[&project.path, root]);
    let text = Some(report.text).filter(|text| !text.is_empty());
    let brought = WorkerOutput {
        summary: report.answer,
        raw_output: text.clone(),
        usage: carried.usage,
        cost_usd: cost_of(&claim.attempts, claim.inherited.as_ref()),
    };
    Outcome {
        job_id: claim.job_id.clone(),
        status,
        created_at: claim.created_at,
        started_at: first.or(ran.then_some(claim.started_at)),
        completed_at: now,
        queue_position: claim.queue_position,
        worker_output: ran.then_some(brought),
        audit_score: report.audit.score,
        audit_notes: report.audit.notes,
        artifacts: Some(artifacts).filter(|files| !files.is_empty()),
        error: fault.map(|fault| fault.error.clone()),
        retry_count: claim.retries,
        stdout: text,
        stderr: None,
        // The sum of an empty list of floats is -0.
        duration_seconds: millis(lasted.fold(0.0, |all, one| all + one)),
        error_kind: fault.map(|fault| fault.kind),
        project: project.name.clone(),
        agent: claim.agent.clone(),
        agent_version: report.agent_version,
        model: report.model,
        session_id: claim.session_id.clone(),
        num_turns: carried.num_turns,
        attempts: claim.attempts.clone(),
        // Of its agent's refused tools Codex tells nothing.
        permission_denials: (claim.protocol != Protocol::Codex)
            .then_some(carried.permission_denials),
        leftovers: carried.leftovers,
        document_sha256: ran.then(|| claim.document_sha256.clone()),
        logs: log_paths(project, claim),
        checks: claim.checks.clone(),
        git: None,
        continues: claim.continues.clone(),
        failed_mcp_servers: carried.failed_mcp_servers,
    }
}

/// The files that are named, each once; paths below one of `roots` become relative to it.
fn files_of(named: impl Iterator<Item = String>, roots: &[&Path]) -> Vec<String> {
    let mut files = Vec::new();
    for path in named {
        let mut below = roots
            .iter()
            .filter_map(|root| Path::new(&path).strip_prefix(root).ok());
        let path = below.find_map(Path::to_str).unwrap_or(&path);
        let path = path.strip_prefix("./").unwrap_or(path).to_owned();
        unite(&mut files, vec![path]);
    }
    files
}

/// The logs of all starts, relative to the project: the text that ran, then output and errors.
fn log_paths(project: &Project, claim: &Claim) -> Vec<String> {
    let (id, dir) = (&claim.job_id, project.layout.logs());
    let endings = [dialect(claim.protocol).ending, "err"];
    let of_start = |start| endings.map(|ending| log_name(id, start, ending));
    let text = (claim.starts > 0).then(|| id.file_name()).into_iter();
    let names = text.chain((1..=claim.starts).flat_map(of_start));
    names.map(|name| format!("{dir}/{name}")).collect()
}

/// A job's cost: the last running total of each session, summed, less what one had cost before the job
/// (SPEC 7).
pub fn cost_of(attempts: &[Attempt], inherited: Option<&Inherited>) -> Option<f64> {
    let mut sessions: Vec<(Option<&str>, f64)> = Vec::new();
    for attempt in attempts {
        let Some(total) = attempt.cost_usd else {
            continue;
        };
        let session = attempt.session_id.as_deref();
        let before = inherited.filter(|before| Some(before.session_id.as_str()) == session);
        let cost = (total - before.map_or(0.0, |before| before.cost_usd)).max(0.0);
        match sessions.iter_mut().find(|(known, _)| *known == session) {
            Some((_, last)) => *last = cost,
            None => sessions.push((session, cost)),
        }
    }
    (!sessions.is_empty()).then(|| cents(sessions.iter().map(|(_, cost)| cost).sum()))
}

/// Moves what an attempt brought into what the claim carries. What counts only of the last attempt stays in
/// its report.
pub fn carry(carried: &mut Carried, report: &mut Report) {
    carried.usage = sum_usage(carried.usage.take(), report.usage.take());
    carried.num_turns = sum(carried.num_turns, report.num_turns);
    unite(&mut carried.edited, std::mem::take(&mut report.edited));
    let denials = std::mem::take(&mut report.permission_denials);
    unite(&mut carried.permission_denials, denials);
    let servers = std::mem::take(&mut report.failed_servers);
    unite(&mut carried.failed_mcp_servers, servers);
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

    fn attempt(session: &str, cost_usd: Option<f64>) -> Attempt {
        Attempt {
            started_at: Wall(0),
            duration_seconds: 1.0,
            exit_code: None,
            signal: None,
            error_kind: None,
            error: None,
            session_id: Some(session.to_owned()),
            cost_usd,
        }
    }

    #[test]
    fn a_job_costs_the_last_running_total_of_each_session() {
        assert_eq!(cost_of(&[], None), None);
        assert_eq!(cost_of(&[attempt("a", None)], None), None);
        let attempts = [
            attempt("a", Some(0.1)),
            attempt("a", Some(0.3)),
            attempt("b", Some(0.1)),
            attempt("a", None),
        ];
        assert_eq!(cost_of(&attempts, None), Some(0.4));
        let before = Inherited {
            session_id: "a".to_owned(),
            cost_usd: 0.2,
        };
        assert_eq!(cost_of(&attempts, Some(&before)), Some(0.2));
    }

    #[test]
    fn what_earlier_attempts_brought_is_not_lost() {
        let report = |edited: &str, turns| Report {
            edited: vec![edited.to_owned()],
            num_turns: turns,
            usage: Some(serde_json::json!({ "input_tokens": 2 })),
            ..Report::default()
        };
        let mut carried = Carried::default();
        carry(&mut carried, &mut report("a", Some(2)));
        carry(&mut carried, &mut report("a", None));
        carry(&mut carried, &mut report("b", Some(1)));
        assert_eq!(carried.edited, ["a", "b"]);
        assert_eq!(carried.num_turns, Some(3));
        assert_eq!(
            carried.usage,
            Some(serde_json::json!({ "input_tokens": 6 }))
        );
    }
}
