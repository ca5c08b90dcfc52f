//! Steering: `cancel`, `hold`, `release`, `retry`. Each leaves marks or a document; the daemon does
//! the rest, now or when it is started.

use super::*;

/// Failures of so long ago are handed in again by `retry --failed`, unless `--since` says otherwise.
const FAILED_SINCE: Duration = Duration::from_secs(24 * 3600);

/// A sentence on what became of a job; none where all jobs were named and this one is not concerned.
type Done = Result<Option<String>>;

/// Ends running jobs and withdraws waiting ones.
pub(super) fn cancel(scope: &Scope, asked: &Asked) -> Result<()> {
    let act = |spool: &Spool, id: &JobId, standing: &Standing| {
        spool.mark(id, Mark::Cancel)?;
        Ok(Some(match (standing, scope.delay(&spool.project().name)) {
            (Standing::Running(_), _) => format!("Cancelling {id}: its processes are being ended"),
            (_, Some(delay)) => format!("Cancelled {id}; it stays in the queue {delay}"),
            (_, None) => format!("Cancelled {id}: it is withdrawn"),
        }))
    };
    each(scope, asked, "No job runs or waits\n", &act).map(drop)
}

/// Keeps waiting jobs from being started.
pub(super) fn hold(scope: &Scope, asked: &Asked) -> Result<()> {
    let act = |spool: &Spool, id: &JobId, standing: &Standing| match standing {
        Standing::Running(_) if asked.all => Ok(None),
        Standing::Running(_) => {
            let text = format!("{id} is running; job-monitor cancel {id} ends it");
            Err(Error::new(text))
        }
        _ if spool.has_mark(id, Mark::Hold)? => Ok(Some(format!("{id} is held already"))),
        _ => {
            spool.mark(id, Mark::Hold)?;
            let text = format!("Held {id}; job-monitor release {id} lets it run");
            Ok(Some(text))
        }
    };
    each(scope, asked, "No job waits\n", &act).map(drop)
}

/// Lets held jobs run; of a job that waits for its agent or project, lifts that hold.
pub(super) fn release(scope: &Scope, asked: &Asked) -> Result<()> {
    let (state, now) = (&scope.places.state, Wall::now());
    let records = board::read_decided(&scope.places, &scope.entries);
    let holds = records.all(now).len() as u64;
    if asked.all {
        board::ask_release(state)?;
    }
    let act = |spool: &Spool, id: &JobId, standing: &Standing| {
        let delay = scope.delay(&spool.project().name);
        let delay = delay.map_or(String::new(), |delay| format!("; it waits {delay}"));
        Ok(Some(match standing {
            _ if spool.has_mark(id, Mark::Hold)? => {
                spool.unmark(id, Mark::Hold)?;
                spool.poke()?;
                format!("Released {id}{delay}")
            }
            _ if asked.all => return Ok(None),
            Standing::Suspended(claim)
                if claim.suspended.is_none() || retry_at(claim).is_some() =>
            {
                format!("{id} is not held; it {}", suspension_text(claim, now))
            }
            // A job that was not begun may wait for its agent, too.
            _ => {
                spool.mark(id, Mark::Release)?;
                let own = put_off(spool, id, now).map(|at| not_before(at, now));
                let own = own.map_or(String::new(), |own| format!("; by its document it {own}"));
                format!(
                    "{id} is not held; if its agent or project is, that hold is lifted{delay}{own}"
                )
            }
        }))
    };
    let jobs = counted(each(scope, asked, "", &act)?, "job");
    if !asked.all {
        return Ok(());
    }
    let holds = counted(holds, "hold") + " of agents and projects";
    render::print(&format!("Released {jobs}; lifted {holds}\n"))
}

/// Submits the texts of jobs again, under new ids.
pub(super) fn retry(scope: &Scope, asked: &Asked) -> Result<()> {
    let act = |spool: &Spool, id: &JobId, standing: &Standing| {
        let was_finished = || Memory::of(&scope.places.state, &spool.root()?).has(id);
        if !matches!(standing, Standing::Done(_)) && !was_finished()? {
            let text = format!("{id} is not finished; job-monitor {id} shows how it stands");
            return Err(Error::new(text));
        }
        let kept = spool.kept_text(id, 1 << 30)?;
        let text = kept.map_or_else(|| spool.document_text(id), |text| Ok(Some(text)))?;
        let gone = format!("the text of {id} is gone; write and submit it again");
        let text = text.ok_or_else(|| Error::new(gone))?;
        let new = submit::put(spool, id.description(), &text, false)?;
        if let Some(delay) = scope.delay(&spool.project().name) {
            render::note(&format!("{new} waits {delay}"));
        }
        Ok(Some(new.to_string()))
    };
    let none = "No job failed that was not handed in again\n";
    each(scope, asked, none, &act).map(drop)
}

/// Does the same to each job and counts them; says `none` if there is none. With several, one that
/// cannot be done does not keep the others from it, and the last error decides the exit status.
fn each(
    scope: &Scope,
    asked: &Asked,
    none: &str,
    act: &dyn Fn(&Spool, &JobId, &Standing) -> Done,
) -> Result<u64> {
    let act_on = |id: &JobId, spool: Result<Rc<Spool>>| -> Done {
        let spool = spool?;
        let standing = standing(scope, &spool, id)?;
        match &standing {
            Standing::Done(result) if asked.command != "retry" => {
                let status = Finished::read(result).word();
                Err(Error::new(format!("{id} is finished already ({status})")))
            }
            standing => act(&spool, id, standing),
        }
    };
    let (mut done, mut failed) = (0, Ok(()));
    for (id, spool) in jobs(scope, asked)? {
        match act_on(&id, spool) {
            Ok(None) => {}
            Ok(Some(text)) => {
                done += 1;
                render::print(&format!("{text}\n"))?;
            }
            Err(error) => {
                if let Err(before) = replace(&mut failed, Err(error)) {
                    render::note(&before.to_string());
                }
            }
        }
    }
    failed?;
    if done == 0 {
        render::print(none)?;
    }
    Ok(done)
}

/// The jobs that are meant, and where each of them is: several projects may have one of the same id.
pub(super) fn jobs(scope: &Scope, asked: &Asked) -> Result<Vec<(JobId, Result<Rc<Spool>>)>> {
    let named = |name: &String| {
        let id = scope.resolve(name)?;
        let spool = scope.job(&id).map(|(spool, _)| Rc::new(spool));
        Ok((id, spool))
    };
    if !asked.jobs.is_empty() {
        return asked.jobs.iter().map(named).collect();
    }
    let mut jobs = Vec::new();
    for spool in scope.whole(["wait", "release"].contains(&asked.command))? {
        let ids = match asked.command {
            "retry" => failed_jobs(&spool, asked.since)?,
            _ => open_ids(&spool)?.into_iter().collect(),
        };
        let spool = Rc::new(spool);
        jobs.extend(ids.into_iter().map(|id| (id, Ok(spool.clone()))));
    }
    jobs.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(jobs)
}

/// The jobs that failed since then, unless a later one of the same description shows that somebody
/// handed them in again.
fn failed_jobs(spool: &Spool, since: Option<Wall>) -> Result<Vec<JobId>> {
    let long_ago = Wall(Wall::now().0 - FAILED_SINCE.as_millis() as i64);
    let since = i128::from(since.unwrap_or(long_ago).0) * 1_000_000;
    let (mut all, mut failed) = (open_ids(spool)?, Vec::new());
    spool.finished(&mut |id, written| {
        let Some(id) = JobId::exact(id) else { return };
        all.insert(id.clone());
        if written >= since && Finished::of(spool, &id).word() == "failed" {
            failed.push(id);
        }
    })?;
    failed.retain(|id| {
        let mut later = all.range(id..).skip(1);
        !later.any(|other| other.description() == id.description())
    });
    Ok(failed)
}
