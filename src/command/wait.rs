//! `wait`: until jobs are done; the exit status tells how they ended.

use super::Outcome;
use super::brief::suspension_text;
use super::logs::Output;
use super::queue::{Ground, Queue};
use super::result::{Ending, Finished};
use super::scope::{self, Scope, Standing, refuse_own_wait};
use super::terminal::LiveLine;
use super::transcript::spent;
use crate::daemon;
use crate::error::{Error, Exit, Result};
use crate::job::JobId;
use crate::render::{self, Style};
use crate::spool::Spool;
use crate::time::{Wall, human};
use std::fs::File;
use std::time::{Duration, Instant};

/// Between looks. A look costs a few system calls for each job, a watch on directories much code.
const LOOK: Duration = Duration::from_millis(100);
/// Between two states of the live line.
const TICK: Duration = Duration::from_secs(1);

/// A job that is waited for.
struct Pending<'a> {
    spool: Spool,
    id: &'a JobId,
    /// The output of the start that runs, by its number.
    output: Option<(u32, Output)>,
    /// Whether it was said what it waits for.
    noted: bool,
}

/// Waits for all of `ids`, at most `timeout`.
pub(super) fn wait(scope: &Scope, ids: &[JobId], timeout: Option<Duration>) -> Outcome {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let pending = ids.iter().map(|id| Pending::new(scope, id));
    let mut pending = pending.collect::<Result<Vec<Pending<'_>>>>()?;
    let mut line = LiveLine::new();
    let mut exit = Exit::Done;
    let mut shown = None;
    loop {
        let is_tick = shown.is_none_or(|shown: Instant| shown.elapsed() >= TICK);
        let mut left = Vec::new();
        let (mut doing, mut running) = (None, 0);
        for mut job in pending {
            let standing = job.standing(scope)?;
            if let Standing::Done(result) = standing {
                line.clear();
                if !tell(job.id, &result)? {
                    exit = Exit::NotCompleted;
                }
                continue;
            }
            // Of several jobs, the first that runs is the most interesting.
            let runs = matches!(standing, Standing::Running(_));
            running += usize::from(runs);
            if line.is_on() && is_tick && (doing.is_none() || runs && running == 1) {
                doing = Some(job.doing(scope, &standing)?);
            } else if !line.is_on() && !runs && !job.noted {
                job.note(scope, &standing)?;
            }
            left.push(job);
        }
        pending = left;
        if pending.is_empty() {
            return Ok(exit);
        }
        if let Some(doing) = doing {
            let done = ids.len() - pending.len();
            let others = match ids.len() {
                1 => String::new(),
                all => format!("{done} of {all} done, {running} running; "),
            };
            line.show(&format!("{others}{doing}"));
            shown = Some(Instant::now());
        }
        let rest = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if rest.is_some_and(|rest| rest.is_zero()) {
            line.clear();
            let left: Vec<&str> = pending.iter().map(|job| job.id.as_str()).collect();
            render::note(&format!("the time is up; not done: {}", left.join(", ")));
            return Ok(Exit::TimedOut);
        }
        std::thread::sleep(rest.map_or(LOOK, |rest| rest.min(LOOK)));
    }
}

/// Tells how a job ended; whether it completed.
fn tell(id: &JobId, result: &File) -> Result<bool> {
    let result = Finished::read(result);
    let line = result
        .as_ref()
        .map_or("unreadable".to_owned(), Finished::line);
    let ending = result.as_ref().map_or(Ending::Bad, Finished::ending);
    let style = Style::of_stdout();
    render::print(&match style.terminal {
        true => format!("{} {id}: {}\n", ending.mark(style), style.text(&line)),
        false => {
            let word = result.as_ref().map_or(line, Finished::word);
            format!("{id}: {word}\n")
        }
    })?;
    Ok(result.is_some_and(|result| result.is_completed()))
}

impl<'a> Pending<'a> {
    fn new(scope: &Scope, id: &'a JobId) -> Result<Pending<'a>> {
        let (spool, _) = scope.job(id)?;
        refuse_own_wait(&spool.project().name)?;
        Ok(Pending {
            spool,
            id,
            output: None,
            noted: false,
        })
    }

    fn standing(&self, scope: &Scope) -> Result<Standing> {
        let daemon = daemon::running(&scope.places).is_some();
        let standing = scope::standing(&self.spool, self.id, daemon)?;
        standing.ok_or_else(|| Error::with(Exit::NotFound, format!("{} was withdrawn", self.id)))
    }

    /// What becomes of the job just now, in a line.
    fn doing(&mut self, scope: &Scope, standing: &Standing) -> Result<String> {
        let (name, now) = (self.id.description(), Wall::now());
        Ok(match standing {
            Standing::Done(_) => format!("{name} is done"),
            Standing::Suspended(claim) => format!("{name} {}", suspension_text(claim, now)),
            Standing::Waiting { held: true } => {
                format!(
                    "{name} is held; job-monitor release {} lets it run",
                    self.id
                )
            }
            Standing::Waiting { held: false } => format!("{name} {}", self.place(scope)?),
            Standing::Running(claim) => {
                let known = self
                    .output
                    .take()
                    .filter(|(start, _)| *start == claim.starts);
                let open = || Output::open(&self.spool, self.id, claim.starts);
                let output = match known {
                    Some((_, output)) => Some(output),
                    None => open()?,
                };
                self.output = output.map(|output| (claim.starts, output));
                let elapsed = human(now.since(claim.started_at));
                let Some((_, output)) = &mut self.output else {
                    return Ok(format!("{name} {elapsed}: starts"));
                };
                let progress = output.progress();
                let action = progress.action.as_deref().unwrap_or("nothing written yet");
                match spent(progress) {
                    None => format!("{name} {elapsed}: {action}"),
                    Some(spent) => format!("{name} {elapsed}, {spent}: {action}"),
                }
            }
        })
    }

    /// What a waiting job waits for.
    fn place(&self, scope: &Scope) -> Result<String> {
        let queue = Queue::look(&self.spool, scope.daemon.is_some())?;
        let ahead =
            queue.current.iter().count() + queue.all().take_while(|id| *id != self.id).count();
        Ok(match (self.obstacle(scope, &queue), ahead) {
            (Some(obstacle), _) => format!("waits: {obstacle}"),
            (None, 0) => "is next".to_owned(),
            (None, ahead) => format!("waits; {ahead} ahead of it"),
        })
    }

    fn obstacle(&self, scope: &Scope, queue: &Queue) -> Option<String> {
        let project = &self.spool.project().name;
        let entry = scope.entries.iter().find(|e| e.project.name == *project)?;
        let (found, _) = Ground::of(scope).obstacles(scope, entry, queue, Wall::now());
        Some(found.into_iter().next()?.text)
    }

    /// Says once what keeps the job waiting, where no live line does.
    fn note(&mut self, scope: &Scope, standing: &Standing) -> Result<()> {
        self.noted = match standing {
            Standing::Waiting { held: false } => {
                let queue = Queue::look(&self.spool, scope.daemon.is_some())?;
                self.obstacle(scope, &queue).is_some()
            }
            _ => true,
        };
        if self.noted {
            render::note(&self.doing(scope, standing)?);
        }
        Ok(())
    }
}
