//! `wait`: until jobs are done; the exit status tells how they ended.

use super::*;

/// Between looks. A look costs a few system calls for each job, a watch on directories much code.
const LOOK: Duration = Duration::from_millis(200);

/// Waits for all of `jobs`, at most `timeout`.
pub(super) fn wait(scope: &Scope, jobs: Vec<Job>, timeout: Option<Duration>) -> Result<Exit> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    for job in &jobs {
        refuse_own_wait(&job.spool.project().name)?;
    }
    let (all, mut left) = (jobs.len(), jobs);
    let (line, mut exit) = (LiveLine::new(), Exit::Done);
    // Off a terminal, what a job waits for is said once: somebody may have to end it.
    let mut told = BTreeSet::new();
    loop {
        let mut open = Vec::new();
        for job in left {
            match scope.standing(&job)? {
                Standing::Done(result) => {
                    line.show("");
                    if !tell(&job.id, &result)? {
                        exit = Exit::NotCompleted;
                    }
                }
                standing => open.push((job, standing)),
            }
        }
        // Of several jobs, the first that runs is the most interesting.
        let is_running = |(_, at): &&(Job, Standing)| matches!(at, Standing::Running(_));
        let running = open.iter().find(is_running);
        let Some((job, standing)) = running.or(open.first()) else {
            return Ok(exit);
        };
        if line.is_on {
            let (done, name) = (all - open.len(), job.id.description());
            let done = (all > 1).then(|| format!("{done} of {all} done; "));
            let course = course(scope, job, standing)?;
            line.show(&format!("{}{name} {course}", done.unwrap_or_default()));
        } else if running.is_none() && !told.contains(&job.id) {
            let course = course(scope, job, standing)?;
            if course != ITS_TURN && told.insert(job.id.clone()) {
                render::note(&format!("{} {course}", job.id));
            }
        }
        let rest = deadline.map_or(LOOK, |at| at.saturating_duration_since(Instant::now()));
        if rest.is_zero() {
            line.show("");
            for (job, standing) in &open {
                let course = course(scope, job, standing)?;
                render::note(&format!("the time is up: {} {course}", job.id));
            }
            return Ok(Exit::TimedOut);
        }
        std::thread::sleep(rest.min(LOOK));
        left = open.into_iter().map(|(job, _)| job).collect();
    }
}

/// Tells how a job ended; whether it completed.
fn tell(id: &JobId, result: &File) -> Result<bool> {
    let result = ResultView::read(result);
    let style = Style::of_stdout();
    let mark = result.ending().mark(style);
    render::print(&match style.terminal {
        true => format!("{mark} {id}: {}\n", result.line()),
        false => format!("{id}: {}\n", result.word()),
    })?;
    Ok(result.is_completed())
}
