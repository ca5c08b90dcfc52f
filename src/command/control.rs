//! Steering: `cancel`, `hold`, `release`, `retry`. Each leaves marks or a document; the daemon does
//! the rest, now or when it is started.

use super::*;

/// Failures of so long ago are handed in again by `retry --failed`, unless `--since` says otherwise.
const FAILED_SINCE: Duration = Duration::from_secs(24 * 3600);

/// Does what was asked for to each job that is meant. A job with which it cannot be done does not keep
/// others from it.
pub(super) fn steer(scope: &Scope, asked: &Asked) -> Result<Exit> {
    if asked.command == "release" && asked.all {
        let records = board::read_fresh(&scope.places, &scope.entries);
        let holds = counted(records.all(Wall::now()).len() as u64, "hold");
        board::ask_release(&scope.places.state)?;
        render::print(&format!("Lifted {holds} of agents and projects\n"))?;
    }
    let (jobs, mut exit) = (jobs(scope, asked)?, Exit::Done);
    if jobs.is_empty() {
        render::print(&format!("No job to {}\n", asked.command))?;
    }
    let mut projects = BTreeSet::new();
    for job in jobs {
        match job.and_then(|job| Ok((act(scope, asked, &job)?, job))) {
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

/// Does what was asked for to one job. Gives a sentence on what became of it, or none where all jobs were meant
/// and this one is not concerned.
fn act(scope: &Scope, asked: &Asked, job: &Job) -> Result<Option<String>> {
    let Job { id, spool } = job;
    let told = match (asked.command, scope.standing(job)?) {
        ("retry", standing) => again(scope, job, &standing)?.to_string(),
        // It was not when all were looked for.
        (_, Standing::Done(_)) | ("hold", Standing::Running(_)) if asked.all => return Ok(None),
        (_, Standing::Done(result)) => {
            let status = ResultView::read(&result).word();
            return Err(Error::new(format!("{id} is finished already ({status})")));
        }
        ("cancel", standing) => {
            spool.mark(id, Mark::Cancel)?;
            match standing {
                Standing::Running(_) => format!("{id} is being ended"),
                _ => format!("Cancelled {id}"),
            }
        }
        ("hold" | "release", _) if spool.has_mark(id, Mark::Cancel)? => {
            format!("{id} is cancelled; {CANCELLED}")
        }
        ("hold", Standing::Running(_)) => {
            let text = format!("{id} is running; job-monitor cancel {id} ends it");
            return Err(Error::new(text));
        }
        ("hold", _) => {
            spool.mark(id, Mark::Hold)?;
            format!("Held {id}; job-monitor release {id} lets it run")
        }
        _ if spool.has_mark(id, Mark::Hold)? => {
            spool.unmark(id, Mark::Hold)?;
            spool.poke()?;
            format!("Released {id}")
        }
        _ if asked.all => return Ok(None),
        _ => {
            spool.mark(id, Mark::Release)?;
            format!("{id} is not held; if its agent or project is, that hold is lifted")
        }
    };
    Ok(Some(told))
}

/// Submits the text of a job again, under a new id.
fn again(scope: &Scope, Job { id, spool }: &Job, standing: &Standing) -> Result<JobId> {
    let finished = || Memory::of(&scope.places.state, &spool.root()?).objection(id);
    if !matches!(standing, Standing::Done(_)) && finished()?.is_none() {
        let text = format!("{id} is not finished; job-monitor {id} shows how it stands");
        return Err(Error::new(text));
    }
    let gone = format!("the text of {id} is gone; write and submit it again");
    let text = spool.text(id)?.ok_or_else(|| Error::new(gone))?;
    submit::put(spool, id.description(), &text, false)
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
        jobs.extend(Job::all(spool, ids).map(Ok));
    }
    Ok(jobs)
}

/// The jobs that failed since then, unless a later one of the same description shows that somebody
/// handed them in again.
fn failed_jobs(spool: &Spool, since: Option<Wall>) -> Result<BTreeSet<JobId>> {
    let long_ago = Wall(Wall::now().0 - FAILED_SINCE.as_millis() as i64);
    let since = since.unwrap_or(long_ago);
    let description = |id: &JobId| id.description().to_owned();
    let mut later: BTreeSet<String> = open_ids(spool)?.iter().map(description).collect();
    let mut failed = BTreeSet::new();
    for (_, id, _, result) in Newest::of(slice::from_ref(spool), Some(since))?.iter() {
        if later.insert(description(&id)) && result.word() == "failed" {
            failed.insert(id);
        }
    }
    Ok(failed)
}
