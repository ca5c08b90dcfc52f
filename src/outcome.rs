//! A claim and what its attempts brought -> the result document.

use crate::agent::{Fault, Report, dialect, sum_usage};
use crate::job::{Attempt, JobId, Status, log_name};
use crate::project::Project;
use crate::record::{Carried, Claim, Inherited, Outcome, WorkerOutput};
use crate::time::Wall;
use std::path::Path;

/// A result as far as the claim tells it; `project` is where it ran, `now` when it ended.
pub fn of_claim(
    project: &Project,
    claim: &Claim,
    status: Status,
    fault: Option<&Fault>,
    now: Wall,
) -> Outcome {
    let id = &claim.job_id;
    let ran = claim.starts > 0;
    let logs = if ran {
        log_paths(project, id, claim)
    } else {
        Vec::new()
    };
    let (usage, carried) = (claim.carried.usage.clone(), &claim.carried);
    let cost_usd = cost_of(&claim.attempts, claim.inherited.as_ref());
    Outcome {
        job_id: id.clone(),
        status,
        created_at: claim.created_at,
        started_at: claim
            .attempts
            .first()
            .map(|first| first.started_at)
            .or(ran.then_some(claim.started_at)),
        completed_at: now,
        queue_position: claim.queue_position,
        worker_output: ran.then_some(WorkerOutput {
            summary: None,
            raw_output: None,
            usage,
            cost_usd,
        }),
        audit_score: None,
        audit_notes: None,
        artifacts: Some(carried.edited.clone()).filter(|edited| !edited.is_empty()),
        error: fault.map(|fault| fault.error.clone()),
        retry_count: claim.retries,
        stdout: None,
        stderr: None,
        duration_seconds: {
            let durations = claim
                .attempts
                .iter()
                .map(|attempt| attempt.duration_seconds);
            // The sum of none would be -0.
            millis(durations.fold(0.0, |all, one| all + one))
        },
        error_kind: fault.map(|fault| fault.kind),
        project: project.name.clone(),
        agent: claim.agent.clone(),
        agent_version: None,
        model: None,
        session_id: claim.session_id.clone(),
        num_turns: carried.num_turns,
        attempts: claim.attempts.clone(),
        permission_denials: carried.permission_denials.clone(),
        leftovers: carried.leftovers,
        document_sha256: ran.then(|| claim.document_sha256.clone()),
        logs,
        checks: claim.checks.clone(),
        git: None,
        continues: claim.continues.clone(),
        failed_mcp_servers: carried.failed_mcp_servers.clone(),
    }
}

/// The logs of all starts, relative to the project: the text that ran, then output and errors.
fn log_paths(project: &Project, id: &JobId, claim: &Claim) -> Vec<String> {
    let endings = [dialect(claim.protocol).ending, "err"];
    let of_start = |start| endings.map(|ending| log_name(id, start, ending));
    let names = (1..=claim.starts).flat_map(of_start);
    let dir = project.layout.logs();
    std::iter::once(id.file_name())
        .chain(names)
        .map(|name| format!("{dir}/{name}"))
        .collect()
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

/// Puts the last attempt's output into a result, on top of what earlier ones brought. Paths below
/// one of `roots`, the names of the project's directory, become relative to it.
pub fn take_report(
    outcome: &mut Outcome,
    claim: &Claim,
    report: Report,
    stderr: String,
    roots: &[&Path],
) {
    let mut files: Vec<String> = Vec::new();
    let named = report
        .audit
        .artifacts
        .into_iter()
        .chain(claim.carried.edited.clone())
        .chain(report.edited);
    for path in named {
        let below = roots
            .iter()
            .find_map(|root| Path::new(&path).strip_prefix(root).ok()?.to_str());
        let path = below.unwrap_or(&path);
        let path = path.strip_prefix("./").unwrap_or(path);
        if !files.iter().any(|known| known == path) {
            files.push(path.to_owned());
        }
    }
    let text = Some(report.text).filter(|text| !text.is_empty());
    outcome.worker_output = Some(WorkerOutput {
        summary: report.answer,
        raw_output: text.clone(),
        usage: sum_usage(claim.carried.usage.clone(), report.usage),
        cost_usd: cost_of(&claim.attempts, claim.inherited.as_ref()),
    });
    outcome.stdout = text;
    outcome.stderr = Some(stderr).filter(|text| !text.is_empty());
    (outcome.audit_score, outcome.audit_notes) = (report.audit.score, report.audit.notes);
    outcome.artifacts = Some(files).filter(|files| !files.is_empty());
    (outcome.agent_version, outcome.model) = (report.agent_version, report.model);
    outcome.num_turns = sum_turns(claim.carried.num_turns, report.num_turns);
    unite(&mut outcome.permission_denials, report.permission_denials);
    unite(&mut outcome.failed_mcp_servers, report.failed_servers);
}

/// Keeps for the result what an attempt brought that is not the last.
pub fn carry(carried: &mut Carried, report: Report) {
    carried.usage = sum_usage(carried.usage.take(), report.usage);
    carried.num_turns = sum_turns(carried.num_turns, report.num_turns);
    unite(&mut carried.edited, report.edited);
    unite(&mut carried.permission_denials, report.permission_denials);
    unite(&mut carried.failed_mcp_servers, report.failed_servers);
}

fn sum_turns(before: Option<u64>, now: Option<u64>) -> Option<u64> {
    match (before, now) {
        (Some(before), Some(now)) => Some(before + now),
        (before, now) => before.or(now),
    }
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
        carry(&mut carried, report("a", Some(2)));
        carry(&mut carried, report("a", None));
        carry(&mut carried, report("b", Some(1)));
        assert_eq!(carried.edited, ["a", "b"]);
        assert_eq!(carried.num_turns, Some(3));
        assert_eq!(
            carried.usage,
            Some(serde_json::json!({ "input_tokens": 6 }))
        );
    }
}
