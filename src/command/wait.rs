//! `wait`: until jobs are done; the exit status tells how they ended.

use super::finished::Brief;
use super::logs::Output;
use super::overview::suspension_text;
use super::projects::{self, Scope, Standing};
use super::terminal::LiveLine;
use super::transcript::{Progress, spent, tokens};
use super::{Outcome, overview};
use crate::daemon;
use crate::error::{Error, Exit, Result};
use crate::job::JobId;
use crate::record::Claim;
use crate::render::{self, Style, clean_line};
use crate::settings;
use crate::spool::Spool;
use crate::time::{Wall, human};
use crate::watch::{self, Watcher};
use std::fs::File;
use std::time::{Duration, Instant};

/// Between looks where nothing tells of a new result.
const LOOK: Duration = Duration::from_secs(2);
/// Between looks while a clock runs on the terminal.
const TICK: Duration = Duration::from_secs(1);

/// A job that is waited for.
struct Pending<'a> {
    spool: Spool,
    id: &'a JobId,
    /// The output of the start that runs, by its number.
    output: Option<(u32, Output)>,
}

/// Waits for all of `ids`, at most `timeout`.
pub(super) fn wait(scope: &Scope, ids: &[JobId], timeout: Option<Duration>) -> Outcome {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut pending = Vec::new();
    for id in ids {
        let (spool, _) = scope.job(id)?;
        if let Some(own) = own_job()
            && own.0 == spool.project().name
        {
            return Err(Error::new(format!(
                "{} waits for {id} of its own project, which runs one job at a time: it would wait for ever",
                own.1
            )));
        }
        pending.push(Pending {
            spool,
            id,
            output: None,
        });
    }
    let (bell, ear) = watch::bell();
    let mut watcher = Watcher::new().ok();
    for job in &pending {
        if let Some(watcher) = &mut watcher {
            // Where it cannot be watched, looking now and then must do.
            let _ = watcher.watch(job.spool.results_path(), &bell, |name| {
                name.ends_with(".json")
            });
        }
    }
    let mut line = LiveLine::new();
    let mut all_completed = true;
    loop {
        let daemon = daemon::running(&scope.places).is_some();
        let now = Wall::now();
        let mut left = Vec::new();
        let mut doing = None;
        let mut running = 0;
        for mut job in pending {
            match projects::standing(&job.spool, job.id, daemon)? {
                Some(Standing::Done(result)) => {
                    line.clear();
                    all_completed &= tell(job.id, &result)?;
                }
                Some(standing) => {
                    // Of several jobs, the first that runs is the most interesting.
                    let runs = matches!(standing, Standing::Running(_));
                    running += usize::from(runs);
                    if line.is_on() && (doing.is_none() || runs && running == 1) {
                        doing = Some(job.doing(&standing, daemon, now)?);
                    }
                    left.push(job);
                }
                None => {
                    let gone = format!("{} was withdrawn", job.id);
                    return Err(Error::with(Exit::NotFound, gone));
                }
            }
        }
        pending = left;
        if pending.is_empty() {
            return Ok(if all_completed {
                Exit::Done
            } else {
                Exit::NotCompleted
            });
        }
        if let Some(doing) = doing {
            let others = match ids.len() {
                1 => String::new(),
                all => format!("{} of {all} done, {running} running; ", all - pending.len()),
            };
            line.show(&format!("{others}{doing}"));
        }
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            line.clear();
            let left: Vec<&str> = pending.iter().map(|job| job.id.as_str()).collect();
            render::note(&format!("the time is up; not done: {}", left.join(", ")));
            return Ok(Exit::TimedOut);
        }
        let look = now + if line.is_on() { TICK } else { LOOK };
        ear.wait(Some(deadline.map_or(look, |deadline| deadline.min(look))));
        ear.pending().for_each(drop);
    }
}

/// Tells how a job ended; whether it completed.
fn tell(id: &JobId, result: &File) -> Result<bool> {
    let brief = Brief::of(result);
    let style = Style::of_stdout();
    let good = brief.is_completed();
    render::print(&match style.terminal {
        true => format!("{} {id}: {}\n", style.mark(good), style.text(&brief.line())),
        false => format!("{id}: {}\n", clean_line(&brief.status())),
    })?;
    Ok(good)
}

impl Pending<'_> {
    /// What becomes of the job just now, in a line.
    fn doing(&mut self, standing: &Standing, daemon: bool, now: Wall) -> Result<String> {
        let name = self.id.description();
        Ok(match standing {
            Standing::Running(claim) => {
                let progress = self.progress(claim)?;
                let elapsed = human(now.since(claim.started_at));
                let action = progress.action.as_deref().unwrap_or("starts");
                match progress.tokens == 0 && progress.cost_usd.is_none() {
                    // A plain agent tells of neither.
                    true => format!("{name} {elapsed}: {action}"),
                    false => format!("{name} {elapsed}, {}: {action}", spent(&progress)),
                }
            }
            Standing::Suspended(claim) => format!("{name} {}", suspension_text(claim, now)),
            Standing::Waiting { held: true } => {
                format!("{name} is held; job-monitor release lets it run")
            }
            Standing::Waiting { held: false } => {
                let queue = projects::queue(&self.spool, daemon)?;
                let ahead = usize::from(queue.suspended.is_some() || queue.current.is_some());
                let place = queue.waiting.iter().position(|id| id == self.id);
                let place = place.map_or(0, |place| place + ahead);
                match queue.hold {
                    Some(hold) => format!("{name} waits: {}", overview::hold_text(&hold, now)),
                    None if place == 0 => format!("{name} is next"),
                    None => format!("{name} waits; {place} ahead of it"),
                }
            }
            Standing::Done(_) => format!("{name} is done"),
        })
    }

    /// How far the running start has got, with what earlier ones spent.
    fn progress(&mut self, claim: &Claim) -> Result<Progress> {
        if self
            .output
            .as_ref()
            .is_none_or(|(start, _)| *start != claim.starts)
        {
            let output = Output::open(&self.spool, self.id, claim.starts)?;
            self.output = output.map(|output| (claim.starts, output));
        }
        let now = self
            .output
            .as_mut()
            .map(|(_, output)| output.progress().clone());
        Ok(with_earlier(now.unwrap_or_default(), claim))
    }
}

/// Adds what earlier starts spent. A session's cost is its running total, so that of each session
/// the last word counts.
fn with_earlier(mut progress: Progress, claim: &Claim) -> Progress {
    let usage = claim.carried.usage.as_ref().map(ToString::to_string);
    progress.tokens += usage.map_or(0, |usage| tokens(&usage));
    let sessions = claim.attempts.iter().enumerate().filter(|(at, attempt)| {
        let mut later = claim.attempts[at + 1..].iter();
        let current = progress.cost_usd.is_some() && attempt.session_id == claim.session_id;
        !current && later.all(|other| other.session_id != attempt.session_id)
    });
    let earlier = sessions.filter_map(|(_, attempt)| attempt.cost_usd);
    progress.cost_usd = earlier.chain(progress.cost_usd).reduce(|a, b| a + b);
    progress
}

/// The job inside of which we run, and its project.
fn own_job() -> Option<(String, String)> {
    settings::variable("JOB_MONITOR_PROJECT").zip(settings::variable("JOB_MONITOR_JOB_ID"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_session_the_last_word_on_its_cost_counts() {
        let attempt = |session: &str, cost: f64| {
            format!(
                r#"{{"started_at":"2026-01-30T12:00:00Z","duration_seconds":1.0,"exit_code":1,"signal":null,
                "error_kind":null,"error":null,"session_id":"{session}","cost_usd":{cost}}}"#
            )
        };
        let attempts = [attempt("a", 1.0), attempt("a", 2.0), attempt("b", 4.0)].join(",");
        let line = format!(
            r#"{{"job_id":"job-20260130-120000-x","run":"","boot_id":"","starts":4,
            "started_at":"2026-01-30T12:00:00Z","created_at":"2026-01-30T12:00:00Z","queue_position":1,
            "document_sha256":"","agent":"claude","protocol":"claude","session_id":"b","resumed":true,
            "attempts":[{attempts}],"retries":0,"interruptions":0,"suspended":null,"carried":{{
            "usage":{{"input_tokens":5,"output_tokens":2}},"num_turns":null,"edited":[],
            "permission_denials":[],"leftovers":0}}}}"#
        );
        let claim: Claim = serde_json::from_str(&line).unwrap();
        let now = Progress {
            tokens: 10,
            ..Progress::default()
        };
        let sum = with_earlier(now.clone(), &claim);
        assert_eq!((sum.tokens, sum.cost_usd), (17, Some(6.0)));
        let told = Progress {
            cost_usd: Some(8.0),
            ..now
        };
        assert_eq!(with_earlier(told, &claim).cost_usd, Some(10.0));
    }
}
