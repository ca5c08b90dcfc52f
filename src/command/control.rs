//! Steering: `cancel`, `hold`, `release`, `retry`. Each leaves marks or a document; the daemon does
//! the rest, now or when it is started.

use super::*;

/// Failures of so long ago are handed in again by `retry --failed`, unless `--since` says otherwise.
const FAILED_SINCE: Duration = Duration::from_secs(24 * 3600);

/// Ends running jobs and withdraws waiting ones.
pub(super) fn cancel(scope: &Scope, asked: &Asked) -> Outcome {
    let act = |Job { id, spool }: &Job, _: &Standing| {
        spool.mark(id, Mark::Cancel)?;
        Ok(Some(format!("Cancelled {id}")))
    };
    each(scope, asked, &act)
}

/// Keeps waiting jobs from being started.
pub(super) fn hold(scope: &Scope, asked: &Asked) -> Outcome {
    let act = |Job { id, spool }: &Job, standing: &Standing| match standing {
        Standing::Running(_) if asked.all => Ok(None),
        Standing::Running(_) => {
            let text = format!("{id} is running; job-monitor cancel {id} ends it");
            Err(Error::new(text))
        }
        _ => {
            spool.mark(id, Mark::Hold)?;
            let text = format!("Held {id}; job-monitor release {id} lets it run");
            Ok(Some(text))
        }
    };
    each(scope, asked, &act)
}

/// Lets held jobs run; of a job that waits for its agent or project, lifts that hold.
pub(super) fn release(scope: &Scope, asked: &Asked) -> Outcome {
    if asked.all {
        let records = board::read_decided(&scope.places, &scope.entries);
        let holds = counted(records.all(Wall::now()).len() as u64, "hold");
        board::ask_release(&scope.places.state)?;
        render::print(&format!("Lifted {holds} of agents and projects\n"))?;
    }
    let act = |Job { id, spool }: &Job, _: &Standing| {
        if spool.has_mark(id, Mark::Hold)? {
            spool.unmark(id, Mark::Hold)?;
            spool.poke()?;
            return Ok(Some(format!("Released {id}")));
        }
        if asked.all {
            return Ok(None);
        }
        spool.mark(id, Mark::Release)?;
        let text = format!("{id} is not held; if its agent or project is, that hold is lifted");
        Ok(Some(text))
    };
    each(scope, asked, &act)
}

/// Submits the texts of jobs again, under new ids.
pub(super) fn retry(scope: &Scope, asked: &Asked) -> Outcome {
    let act = |Job { id, spool }: &Job, standing: &Standing| {
        let was_finished = || Memory::of(&scope.places.state, &spool.root()?).has(id);
        if !matches!(standing, Standing::Done(_)) && !was_finished()? {
            let text = format!("{id} is not finished; job-monitor {id} shows how it stands");
            return Err(Error::new(text));
        }
        let gone = format!("the text of {id} is gone; write and submit it again");
        let text = spool.text(id)?.ok_or_else(|| Error::new(gone))?;
        let new = submit::put(spool, id.description(), &text, false)?;
        Ok(Some(new.to_string()))
    };
    each(scope, asked, &act)
}

/// Does the same to each job. `act` gives a sentence on what became of it, or none where all jobs were
/// meant and this one is not concerned. A job with which it cannot be done does not keep others from it.
fn each(
    scope: &Scope,
    asked: &Asked,
    act: &dyn Fn(&Job, &Standing) -> Result<Option<String>>,
) -> Outcome {
    let act_on = |job: &Job| match scope.standing(job)? {
        Standing::Done(result) if asked.command != "retry" => {
            let (id, status) = (&job.id, Finished::read(&result).word());
            Err(Error::new(format!("{id} is finished already ({status})")))
        }
        standing => act(job, &standing),
    };
    let (jobs, mut exit) = (jobs(scope, asked)?, Exit::Done);
    if jobs.is_empty() {
        render::print(&format!("No job to {}\n", asked.command))?;
    }
    let mut projects = BTreeSet::new();
    for job in jobs {
        match job.and_then(|job| Ok((act_on(&job)?, job))) {
            Ok((told, job)) => {
                projects.insert(job.spool.project().name.clone());
                told.map_or(Ok(()), |text| render::print(&(text + "\n")))?;
            }
            Err(error) => {
                exit = error.exit;
                render::note(&error.to_string());
            }
        }
    }
    for project in projects {
        scope.tell_if_disabled(&project);
    }
    Ok(exit)
}

/// The jobs that are meant: those that were named, else all for which the command makes sense.
pub(super) fn jobs(scope: &Scope, asked: &Asked) -> Result<Vec<Result<Job>>> {
    let mut jobs: Vec<_> = asked.jobs.iter().map(|name| scope.job(name)).collect();
    if !jobs.is_empty() {
        return Ok(jobs);
    }
    for spool in scope.whole(["wait", "release"].contains(&asked.command))? {
        let ids = match asked.command {
            "retry" => failed_jobs(&spool, asked.since)?,
            _ => open_ids(&spool)?,
        };
        let spool = Rc::new(spool);
        for id in ids {
            let spool = Rc::clone(&spool);
            jobs.push(Ok(Job { id, spool }));
        }
    }
    Ok(jobs)
}

/// The jobs that failed since then, unless a later one of the same description shows that somebody
/// handed them in again.
fn failed_jobs(spool: &Spool, since: Option<Wall>) -> Result<BTreeSet<JobId>> {
    let long_ago = Wall(Wall::now().0 - FAILED_SINCE.as_millis() as i64);
    let since = i128::from(since.unwrap_or(long_ago).0) * 1_000_000;
    let mut last: BTreeMap<String, Option<(JobId, Option<i128>)>> = BTreeMap::new();
    each_id(spool, &mut |id, ended| {
        let last = last.entry(id.description().to_owned()).or_default();
        *last = last.take().max(Some((id, ended)));
    })?;
    let has_failed = |id: &JobId| Finished::of(spool, id).word() == "failed";
    let last = last.into_values().flatten();
    let failed = last.filter(|(id, ended)| *ended >= Some(since) && has_failed(id));
    Ok(failed.map(|(id, _)| id).collect())
}
