//! Steering: `cancel`, `hold`, `release`, `retry`. Each leaves marks or a document; the daemon does
//! the rest, now or when it is started.

use super::brief::{retry_at, suspension_text};
use super::projects::{Scope, Standing};
use super::result::Finished;
use super::submit;
use crate::board;
use crate::cli::Jobs;
use crate::error::{Error, Exit, Result};
use crate::job::JobId;
use crate::render;
use crate::spool::{Leftovers, Mark, Spool};
use crate::time::Wall;
use std::fs::File;

/// Ends running jobs and withdraws waiting ones.
pub(super) fn cancel(scope: &Scope, jobs: &Jobs) -> Result<()> {
    let none = "No job runs or waits\n";
    each_or(none, scope, jobs, |spool, id, standing| match standing {
        Standing::Done(result) => Err(already_done(id, result)),
        Standing::Running(_) => {
            spool.mark(id, Mark::Cancel)?;
            Ok(Some(format!(
                "Cancelling {id}: its processes are being ended"
            )))
        }
        Standing::Suspended(_) | Standing::Waiting { .. } => {
            spool.mark(id, Mark::Cancel)?;
            let when = if scope.daemon.is_some() {
                ""
            } else {
                " when the monitor runs"
            };
            Ok(Some(format!("Cancelled {id}: it is withdrawn{when}")))
        }
    })
}

/// Keeps waiting jobs from being started.
pub(super) fn hold(scope: &Scope, jobs: &Jobs) -> Result<()> {
    each_or(
        "No job waits\n",
        scope,
        jobs,
        |spool, id, standing| match standing {
            Standing::Done(result) => Err(already_done(id, result)),
            Standing::Running(_) if *jobs == Jobs::All => Ok(None),
            Standing::Running(_) => Err(Error::new(format!(
                "{id} is running; job-monitor cancel {id} ends it"
            ))),
            Standing::Waiting { held: true } => Ok(Some(format!("{id} is held already"))),
            Standing::Suspended(_) | Standing::Waiting { .. } => {
                spool.mark(id, Mark::Hold)?;
                Ok(Some(format!(
                    "Held {id}; job-monitor release {id} lets it run"
                )))
            }
        },
    )
}

/// Lets held jobs run; of a job that waits for its agent, lifts the agent's hold.
pub(super) fn release(scope: &Scope, jobs: &Jobs) -> Result<()> {
    if *jobs == Jobs::All {
        board::ask_release(&scope.places.state)?;
    }
    let mut released = 0;
    each(scope, jobs, |spool, id, standing| match standing {
        Standing::Done(result) => Err(already_done(id, result)),
        Standing::Waiting { held: true } => {
            spool.unmark(id, Mark::Hold)?;
            spool.poke()?;
            released += 1;
            Ok(Some(format!("Released {id}")))
        }
        Standing::Suspended(claim)
            if retry_at(claim).is_some() && !spool.has_mark(id, Mark::Hold)? =>
        {
            let how = suspension_text(claim, Wall::now());
            Ok((*jobs != Jobs::All).then(|| format!("{id} is not held; it {how}")))
        }
        Standing::Suspended(claim) => {
            spool.unmark(id, Mark::Hold)?;
            let waits_for_agent = claim
                .suspended
                .as_ref()
                .is_some_and(|suspension| suspension.retry_at.is_none());
            if waits_for_agent && *jobs != Jobs::All {
                spool.mark(id, Mark::Release)?;
            }
            spool.poke()?;
            released += 1;
            Ok(Some(format!("Released {id}")))
        }
        _ if *jobs == Jobs::All => Ok(None),
        Standing::Running(_) => Ok(Some(format!("{id} is running already"))),
        // It may wait for its agent without having been begun; then its agent's hold is lifted.
        _ => {
            spool.mark(id, Mark::Release)?;
            Ok(Some(format!(
                "{id} is not held; if its agent was, it is tried again"
            )))
        }
    })?;
    if *jobs == Jobs::All {
        let jobs = match released {
            0 => "No job was held".to_owned(),
            1 => "Released 1 job".to_owned(),
            n => format!("Released {n} jobs"),
        };
        render::print(&format!("{jobs}; every agent's hold is lifted\n"))?;
    }
    Ok(())
}

/// Submits the texts of jobs again, under new ids.
pub(super) fn retry(scope: &Scope, jobs: &Jobs) -> Result<()> {
    each(scope, jobs, |spool, id, standing| match standing {
        Standing::Done(_) => {
            let text = spool
                .kept_text(id, 1 << 30)?
                .map_or_else(|| spool.document_text(id), |text| Ok(Some(text)))?
                .ok_or_else(|| {
                    Error::new(format!(
                        "the text of {id} is gone; write and submit it again"
                    ))
                })?;
            Ok(Some(
                submit::put(spool, id.description(), &text)?.to_string(),
            ))
        }
        _ => Err(Error::new(format!(
            "{id} is not finished, so there is nothing to retry; job-monitor {id} shows how it stands"
        ))),
    })
}

/// As [`each`]; where it was done to no job, that is said.
fn each_or(
    none: &str,
    scope: &Scope,
    jobs: &Jobs,
    mut act: impl FnMut(&Spool, &JobId, &Standing) -> Result<Option<String>>,
) -> Result<()> {
    let mut is_none = true;
    each(scope, jobs, |spool, id, standing| {
        let acted = act(spool, id, standing);
        is_none &= matches!(acted, Ok(None));
        acted
    })?;
    match is_none {
        true => render::print(none),
        false => Ok(()),
    }
}

/// Does the same to each job; with several, one that cannot be done does not keep the others from
/// it, and the last error decides the exit status.
fn each(
    scope: &Scope,
    jobs: &Jobs,
    mut act: impl FnMut(&Spool, &JobId, &Standing) -> Result<Option<String>>,
) -> Result<()> {
    let mut failed = None;
    let mut one = |found: Result<(Spool, Standing)>, id: &JobId| {
        let acted = found.and_then(|(spool, standing)| act(&spool, id, &standing));
        match acted {
            Ok(Some(text)) => render::print(&format!("{text}\n")),
            Ok(None) => Ok(()),
            Err(error) => {
                if let Some(before) = failed.replace(error) {
                    render::note(&Error::to_string(&before));
                }
                Ok(())
            }
        }
    };
    match jobs {
        Jobs::These(ids) => {
            for id in ids {
                one(scope.job(id), id)?;
            }
        }
        Jobs::All => {
            let spool = scope.spool()?;
            let begun = spool.marks(Leftovers::Leave)?.claims;
            let ids: std::collections::BTreeSet<JobId> = spool
                .scan(Leftovers::Leave)?
                .waiting
                .into_iter()
                .chain(begun)
                .collect();
            for id in ids {
                let found = super::projects::standing(&spool, &id, scope.daemon.is_some())?;
                if let Some(standing) =
                    found.filter(|standing| !matches!(standing, Standing::Done(_)))
                {
                    one(Ok((Spool::open(spool.project())?, standing)), &id)?;
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

fn already_done(id: &JobId, result: &File) -> Error {
    let status = Finished::read(result).map_or("unreadable".to_owned(), |told| told.word());
    Error::with(Exit::Failed, format!("{id} is finished already ({status})"))
}
