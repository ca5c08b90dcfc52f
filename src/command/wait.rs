//! `wait`: until jobs are done; the exit status tells how they ended.

use super::Outcome;
use super::brief::suspension_text;
use super::logs::{action, standing};
use super::queue::Seen;
use super::result::Finished;
use super::scope::{Scope, Standing, refuse_own_wait};
use super::terminal::LiveLine;
use crate::error::{Exit, Result};
use crate::job::JobId;
use crate::render::{self, Style};
use crate::spool::Spool;
use crate::time::{Wall, human};
use std::fs::File;
use std::time::{Duration, Instant};

/// Between looks. A look costs a few system calls for each job, a watch on directories much code.
const LOOK: Duration = Duration::from_millis(100);
/// So many looks between two states of the live line.
const TICK: usize = 10;

/// A job that is waited for.
struct Pending<'a> {
    spool: Spool,
    id: &'a JobId,
    /// Whether it was said what it waits for.
    noted: bool,
}

/// Waits for all of `ids`, at most `timeout`.
pub(super) fn wait(scope: &Scope, ids: &[JobId], timeout: Option<Duration>) -> Outcome {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let pending = ids.iter().map(|id| Pending::new(scope, id));
    let mut pending = pending.collect::<Result<Vec<Pending<'_>>>>()?;
    let (mut line, mut exit) = (LiveLine::new(), Exit::Done);
    for look in 0_usize.. {
        let (mut doing, mut running, mut left) = (None, 0, Vec::new());
        for mut job in pending {
            let standing = standing(scope, &job.spool, job.id)?;
            if let Standing::Done(result) = &standing {
                line.show("");
                if !tell(job.id, result)? {
                    exit = Exit::NotCompleted;
                }
                continue;
            }
            let runs = matches!(standing, Standing::Running(_));
            running += usize::from(runs);
            if line.is_on {
                // Of several jobs, the first that runs is the most interesting.
                if look % TICK == 0 && (doing.is_none() || runs && running == 1) {
                    doing = Some(job.doing(scope, &standing)?.0);
                }
            } else if !runs && !job.noted {
                let (text, is_odd) = job.doing(scope, &standing)?;
                job.noted = is_odd;
                if is_odd {
                    render::note(&text);
                }
            }
            left.push(job);
        }
        pending = left;
        if pending.is_empty() {
            break;
        }
        if let Some(doing) = doing {
            let done = ids.len() - pending.len();
            line.show(&match ids.len() {
                1 => doing,
                all => format!("{done} of {all} done, {running} running; {doing}"),
            });
        }
        let rest = deadline.map_or(LOOK, |at| at.saturating_duration_since(Instant::now()));
        if rest.is_zero() {
            line.show("");
            let left: Vec<&str> = pending.iter().map(|job| job.id.as_str()).collect();
            render::note(&format!("the time is up; not done: {}", left.join(", ")));
            return Ok(Exit::TimedOut);
        }
        std::thread::sleep(rest.min(LOOK));
    }
    Ok(exit)
}

/// Tells how a job ended; whether it completed.
fn tell(id: &JobId, result: &File) -> Result<bool> {
    let result = Finished::read(result).unwrap_or_else(Finished::unreadable);
    let style = Style::of_stdout();
    let mark = result.ending().mark(style);
    render::print(&match style.terminal {
        true => format!("{mark} {id}: {}\n", result.line()),
        false => format!("{id}: {}\n", result.word()),
    })?;
    Ok(result.is_completed())
}

impl<'a> Pending<'a> {
    fn new(scope: &Scope, id: &'a JobId) -> Result<Pending<'a>> {
        let (spool, _) = scope.job(id)?;
        refuse_own_wait(&spool.project().name)?;
        Ok(Pending {
            spool,
            id,
            noted: false,
        })
    }

    /// What becomes of the job just now, in a line; and whether that is more than its turn.
    fn doing(&self, scope: &Scope, standing: &Standing) -> Result<(String, bool)> {
        let (id, name, now) = (self.id, self.id.description(), Wall::now());
        let (text, is_odd) = match standing {
            Standing::Done(_) => ("is done".to_owned(), false),
            Standing::Suspended(claim) => (suspension_text(claim, now), true),
            Standing::Waiting { held: true } => {
                let text = format!("is held; job-monitor release {id} lets it run");
                (text, true)
            }
            Standing::Waiting { held: false } => {
                let seen = Seen::around(scope, &self.spool)?;
                let before = seen.all().take_while(|other| *other != id).count();
                let ahead = usize::from(seen.current.is_some()) + before;
                match (seen.obstacles.first(), ahead) {
                    (Some((_, obstacle)), _) => (format!("waits: {obstacle}"), true),
                    (None, 0) => ("is next".to_owned(), false),
                    (None, ahead) => (format!("waits; {ahead} ahead of it"), false),
                }
            }
            Standing::Running(claim) => {
                let elapsed = human(now.since(claim.started_at));
                let text = format!("{elapsed}: {}", action(&self.spool, claim, now)?);
                (text, false)
            }
        };
        Ok((format!("{name} {text}"), is_odd))
    }
}
