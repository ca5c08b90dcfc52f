//! Steering: `cancel`, `hold`, `release`, `retry`. Each leaves marks or a document; the daemon does
//! the rest, now or when it is started.

use super::brief::{retry_at, suspension_text};
use super::result::Finished;
use super::scope::{Scope, Standing};
use super::submit;
use crate::board;
use crate::cli::{Jobs, Since};
use crate::error::{Error, Exit, Result};
use crate::job::JobId;
use crate::render;
use crate::spool::{Leftovers, Mark, Spool};
use crate::time::Wall;
use std::collections::BTreeSet;
use std::fs::File;
use std::time::Duration;

/// Failures of so long ago are handed in again by `retry --failed`, unless `--since` says otherwise.
const FAILED_SINCE: Duration = Duration::from_secs(24 * 3600);

/// What became of a job: a sentence, or nothing where all jobs were meant and it was not.
type Done = Result<Option<String>>;

/// Ends running jobs and withdraws waiting ones.
pub(super) fn cancel(scope: &Scope, jobs: &Jobs) -> Result<()> {
    let mut act = |spool: &Spool, id: &JobId, standing: &Standing| -> Done {
        match standing {
            Standing::Done(result) => return Err(already_done(id, result)),
            _ => spool.mark(id, Mark::Cancel)?,
        }
        let name = &spool.project().name;
        Ok(Some(match (standing, scope.delay(name)) {
            (Standing::Running(_), _) => format!("Cancelling {id}: its processes are being ended"),
            (_, Some(delay)) => format!("Cancelled {id}; it stays in the queue {delay}"),
            (_, None) => format!("Cancelled {id}: it is withdrawn"),
        }))
    };
    match each(scope, jobs, &mut act)? {
        0 => render::print("No job runs or waits\n"),
        _ => Ok(()),
    }
}

/// Keeps waiting jobs from being started.
pub(super) fn hold(scope: &Scope, jobs: &Jobs) -> Result<()> {
    let mut act = |spool: &Spool, id: &JobId, standing: &Standing| -> Done {
        match standing {
            Standing::Done(result) => Err(already_done(id, result)),
            Standing::Running(_) if *jobs == Jobs::All => Ok(None),
            Standing::Running(_) => Err(Error::new(format!(
                "{id} is running; job-monitor cancel {id} ends it"
            ))),
            _ if spool.has_mark(id, Mark::Hold)? => Ok(Some(format!("{id} is held already"))),
            _ => {
                spool.mark(id, Mark::Hold)?;
                Ok(Some(format!(
                    "Held {id}; job-monitor release {id} lets it run"
                )))
            }
        }
    };
    match each(scope, jobs, &mut act)? {
        0 => render::print("No job waits\n"),
        _ => Ok(()),
    }
}

/// Lets held jobs run; of a job that waits for its agent or project, lifts that hold.
pub(super) fn release(scope: &Scope, jobs: &Jobs) -> Result<()> {
    let all = *jobs == Jobs::All;
    let lifted = board::read(&scope.places.state).all(Wall::now()).len();
    if all {
        board::ask_release(&scope.places.state)?;
    }
    let mut act = |spool: &Spool, id: &JobId, standing: &Standing| -> Done {
        let now = Wall::now();
        let delay = scope.delay(&spool.project().name);
        let delay = delay
            .map(|delay| format!("; it waits {delay}"))
            .unwrap_or_default();
        match standing {
            Standing::Done(result) => Err(already_done(id, result)),
            _ if spool.has_mark(id, Mark::Hold)? => {
                spool.unmark(id, Mark::Hold)?;
                spool.poke()?;
                Ok(Some(format!("Released {id}{delay}")))
            }
            _ if all => Ok(None),
            Standing::Running(_) => Ok(Some(format!("{id} is running already"))),
            Standing::Suspended(claim)
                if claim.suspended.is_none() || retry_at(claim).is_some() =>
            {
                Ok(Some(format!(
                    "{id} is not held; it {}",
                    suspension_text(claim, now)
                )))
            }
            // It may wait for its agent without having been begun.
            _ => {
                spool.mark(id, Mark::Release)?;
                Ok(Some(format!(
                    "{id} is not held; if its agent or project is, that hold is lifted{delay}"
                )))
            }
        }
    };
    let released = each(scope, jobs, &mut act)?;
    if all {
        let jobs = match released {
            0 => "No job was held".to_owned(),
            1 => "Released 1 job".to_owned(),
            n => format!("Released {n} jobs"),
        };
        let holds = match lifted {
            0 => "no agent or project was held".to_owned(),
            1 => "the hold of an agent or project is lifted".to_owned(),
            n => format!("{n} holds of agents and projects are lifted"),
        };
        render::print(&format!("{jobs}; {holds}\n"))?;
    }
    Ok(())
}

/// Submits the texts of jobs again, under new ids.
pub(super) fn retry(scope: &Scope, jobs: &Jobs) -> Result<()> {
    let mut act = |spool: &Spool, id: &JobId, standing: &Standing| -> Done {
        let Standing::Done(_) = standing else {
            return Err(Error::new(format!(
                "{id} is not finished, so there is nothing to retry; job-monitor {id} shows how it stands"
            )));
        };
        let kept = spool.kept_text(id, 1 << 30)?;
        let text = kept.map_or_else(|| spool.document_text(id), |text| Ok(Some(text)))?;
        let gone = || {
            Error::new(format!(
                "the text of {id} is gone; write and submit it again"
            ))
        };
        let new = submit::put(spool, id.description(), &text.ok_or_else(gone)?, false)?;
        if let Some(delay) = scope.disabled(&spool.project().name) {
            render::note(&format!("{new} waits {delay}"));
        }
        Ok(Some(new.to_string()))
    };
    match each(scope, jobs, &mut act)? {
        0 => render::print("No job failed that was not handed in again\n"),
        _ => Ok(()),
    }
}

/// Does the same to each job and counts them. With several, one that cannot be done does not keep
/// the others from it, and the last error decides the exit status.
fn each(
    scope: &Scope,
    jobs: &Jobs,
    act: &mut dyn FnMut(&Spool, &JobId, &Standing) -> Done,
) -> Result<usize> {
    let mut failed: Option<Error> = None;
    let mut done = 0;
    for id in ids(scope, jobs)? {
        let acted = scope
            .job(&id)
            .and_then(|(spool, standing)| act(&spool, &id, &standing));
        match acted {
            Ok(Some(text)) => {
                done += 1;
                render::print(&format!("{text}\n"))?;
            }
            Ok(None) => {}
            Err(error) => {
                if let Some(before) = failed.replace(error) {
                    render::note(&before.to_string());
                }
            }
        }
    }
    failed.map_or(Ok(done), Err)
}

/// The jobs that are meant.
pub(super) fn ids(scope: &Scope, jobs: &Jobs) -> Result<Vec<JobId>> {
    if let Jobs::These(names) = jobs {
        return names.iter().map(|name| scope.resolve(name)).collect();
    }
    let mut ids = BTreeSet::new();
    for spool in scope.whole()? {
        match jobs {
            Jobs::Failed(since) => {
                let since = since.unwrap_or(Since::Ago(FAILED_SINCE)).start(Wall::now());
                ids.extend(failed_jobs(&spool, since)?);
            }
            _ => {
                ids.extend(spool.scan(Leftovers::Leave)?.waiting);
                let begun = spool.marks(Leftovers::Leave)?.claims.into_iter();
                ids.extend(begun.filter(|id| matches!(spool.has_result(id), Ok(false))));
            }
        }
    }
    Ok(ids.into_iter().collect())
}

/// The jobs that failed since then, unless a later one of the same description shows that somebody
/// handed them in again.
fn failed_jobs(spool: &Spool, since: Wall) -> Result<Vec<JobId>> {
    let mut all = spool
        .scan(Leftovers::Leave)?
        .waiting
        .into_iter()
        .collect::<Vec<_>>();
    let mut failed = Vec::new();
    spool.finished(&mut |id, written| {
        let Some(id) = JobId::exact(id) else { return };
        all.push(id.clone());
        let is_new = written >= i128::from(since.0) * 1_000_000;
        if is_new && Finished::of(spool, &id).is_some_and(|told| told.word() == "failed") {
            failed.push(id);
        }
    })?;
    let later = |id: &JobId| {
        all.iter()
            .any(|other| other > id && other.description() == id.description())
    };
    failed.retain(|id| !later(id));
    Ok(failed)
}

fn already_done(id: &JobId, result: &File) -> Error {
    let status = Finished::read(result).map_or("unreadable".to_owned(), |told| told.word());
    Error::with(Exit::Failed, format!("{id} is finished already ({status})"))
}
