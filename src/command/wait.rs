//! `wait`: until jobs are done; the exit status tells how they ended.

use super::*;

/// Between looks. A look costs a few system calls for each job, a watch on directories much code.
const LOOK: Duration = Duration::from_millis(100);
/// What the jobs do meanwhile is told every so many looks.
const TICK: usize = 10;

/// Waits for all of `jobs`, at most `timeout`.
pub(super) fn wait(scope: &Scope, jobs: Vec<Job>, timeout: Option<Duration>) -> Outcome {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    for job in &jobs {
        refuse_own_wait(&job.spool.project().name)?;
    }
    let all = jobs.len();
    // What keeps a job waiting is said once.
    let mut left: Vec<_> = jobs.into_iter().map(|job| (job, false)).collect();
    let (mut line, mut exit) = (LiveLine::new(), Exit::Done);
    for look in 0_usize.. {
        let (mut running, mut shown) = (0, None);
        for (job, mut is_told) in std::mem::take(&mut left) {
            let standing = scope.standing(&job)?;
            if let Standing::Done(result) = &standing {
                line.show("");
                if !tell(&job.id, result)? {
                    exit = Exit::NotCompleted;
                }
                continue;
            }
            let runs = matches!(standing, Standing::Running(_));
            running += usize::from(runs);
            // Of several jobs, the first that runs is the most interesting.
            let is_shown = line.is_on && (shown.is_none() || runs && running == 1);
            let is_news = !line.is_on && !runs && !is_told;
            if look % TICK == 0 && (is_shown || is_news) {
                let (text, is_odd) = doing(scope, &job, &standing)?;
                if is_news && is_odd {
                    render::note(&text);
                    is_told = true;
                }
                shown = Some(text);
            }
            left.push((job, is_told));
        }
        if left.is_empty() {
            break;
        }
        if let Some(text) = shown {
            let done = all - left.len();
            line.show(&match all {
                1 => text,
                _ => format!("{done} of {all} done, {running} running; {text}"),
            });
        }
        let rest = deadline.map_or(LOOK, |at| at.saturating_duration_since(Instant::now()));
        if rest.is_zero() {
            line.show("");
            let left: Vec<&str> = left.iter().map(|(job, _)| job.id.as_str()).collect();
            render::note(&format!("the time is up; not done: {}", left.join(", ")));
            return Ok(Exit::TimedOut);
        }
        std::thread::sleep(rest.min(LOOK));
    }
    Ok(exit)
}

/// Tells how a job ended; whether it completed.
fn tell(id: &JobId, result: &File) -> Result<bool> {
    let result = Finished::read(result);
    let style = Style::of_stdout();
    let mark = result.ending().mark(style);
    render::print(&match style.terminal {
        true => format!("{mark} {id}: {}\n", result.line()),
        false => format!("{id}: {}\n", result.word()),
    })?;
    Ok(result.is_completed())
}

/// What becomes of a job just now, in a line; and whether that is more than its turn.
fn doing(scope: &Scope, job: &Job, standing: &Standing) -> Result<(String, bool)> {
    let (Job { id, spool }, now) = (job, Wall::now());
    let (text, is_odd) = match standing {
        Standing::Done(_) => ("is done".to_owned(), false),
        Standing::Suspended(claim) => (suspension_text(claim, now), true),
        Standing::Waiting { held: true } => {
            let text = format!("is held; job-monitor release {id} lets it run");
            (text, true)
        }
        Standing::Waiting { held: false } => {
            let seen = Seen::around(scope, spool)?;
            let before = seen.all().take_while(|other| *other != id).count();
            let ahead = usize::from(seen.current.is_some()) + before;
            let odd = seen.left_alone(id);
            let odd = odd.map(|why| format!("is left alone: {why}"));
            let stopped = || Some(format!("waits: {}", seen.obstacles.first()?.1));
            let later = || Some(not_before(put_off(spool, id, now)?, now));
            match odd.or_else(stopped).or_else(later) {
                Some(text) => (text, true),
                None if ahead == 0 => ("is next".to_owned(), false),
                None => (format!("waits; {ahead} ahead of it"), false),
            }
        }
        Standing::Running(claim) => {
            let elapsed = human(now.since(claim.started_at));
            (format!("{elapsed}: {}", action(spool, claim, now)?), false)
        }
    };
    Ok((format!("{} {text}", id.description()), is_odd))
}
