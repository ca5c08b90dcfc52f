//! What several screens say in a few words: why nothing runs, and how far an agent has got.

use super::*;

/// A hold, its end first: `usage limit until 20:53 (49m 03s): claude: limit reached`.
pub(super) fn hold_line(hold: &HoldView, now: Wall) -> String {
    let agent = hold.agent.as_ref().map(|agent| format!("{agent}: "));
    let until = hold.until.map(|until| {
        let left = human(until.since(now));
        format!(" until {} ({left})", until.short(now))
    });
    let (agent, until) = (agent.unwrap_or_default(), until.unwrap_or_default());
    let kind = hold.kind.replace('_', " ");
    clean_line(&format!("{kind}{until}: {agent}{}", hold.reason))
}

/// Why a job that was begun does not run just now.
pub(super) fn suspension_text(claim: &Claim, now: Wall) -> String {
    let Some(suspension) = &claim.suspended else {
        let text = "was interrupted; on_interrupt says what follows when the monitor starts";
        return text.to_owned();
    };
    let error = clean_line(&suspension.error);
    match suspension.retry_at {
        Some(at) if at > now => {
            let left = human(at.since(now));
            format!("tries again at {}, in {left}: {error}", at.short(now))
        }
        _ => format!("goes on when it can: {error}"),
    }
}

/// When a document wants its job to start.
pub(super) fn not_before(at: Wall, now: Wall) -> String {
    format!("is not to start before {}", at.short(now))
}

/// How long a job runs: `4m 05s`, and which start it is if not the first.
pub(super) fn running_for(claim: &Claim, now: Wall) -> String {
    let since = human(now.since(claim.started_at));
    match claim.starts {
        0 | 1 => since,
        start => format!("{since}, start {start}"),
    }
}

/// What is still to come of a job that was cancelled while nobody was there to end it.
pub(super) const CANCELLED: &str = "its result is written when the monitor serves the project";

/// What is said of a job for which nobody need do anything.
pub(super) const ITS_TURN: &str = "waits for its turn";

/// What becomes of a job just now, in a line.
pub(super) fn course(scope: &Scope, job: &Job, at: &Standing) -> Result<String> {
    let (Job { id, spool }, now) = (job, Wall::now());
    Ok(match at {
        Standing::Done(result) => ResultView::read(result).line(),
        Standing::Running(claim) => {
            let doing = action(spool, claim, now)?;
            format!("{}: {doing}", running_for(claim, now))
        }
        Standing::Waiting(_) if spool.has_mark(id, Mark::Cancel)? => {
            format!("is cancelled; {CANCELLED}")
        }
        Standing::Waiting(Some(claim)) => suspension_text(claim, now),
        Standing::Waiting(None) => {
            let seen = Seen::around(scope, spool)?;
            let is_held = seen.marks.held.contains(id);
            let held = is_held.then(|| format!("is held; job-monitor release {id} lets it run"));
            let alone = || Some(format!("is left alone: {}", seen.left_alone(id)?));
            let stopped = || Some(format!("waits: {}", seen.obstacles.first()?.1));
            let later = || Some(not_before(put_off(spool, id, now)?, now));
            let why = held.or_else(alone).or_else(stopped).or_else(later);
            why.unwrap_or_else(|| ITS_TURN.to_owned())
        }
    })
}

/// When a suspended job goes on, if its claim says so.
pub(super) fn retry_at(claim: &Claim) -> Option<Wall> {
    claim.suspended.as_ref()?.retry_at
}

/// How the last check ended: `passed at try 2`.
pub(super) fn last_check(checks: &[Check]) -> Option<String> {
    let end = check_end(checks.last()?);
    Some(match checks.len() {
        1 => end,
        rounds => format!("{end} at try {rounds}"),
    })
}

/// How a check ended: `passed`, `failed with exit status 1`.
pub(super) fn check_end(check: &Check) -> String {
    match check.exit_code {
        Some(0) => "passed".to_owned(),
        _ => decide::how(check, Duration::MAX),
    }
}
