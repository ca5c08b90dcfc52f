//! `wait`: until jobs are done; the exit status tells how they ended.

use super::Outcome;
use super::projects::Scope;
use crate::error::{Error, Exit, Result};
use crate::job::JobId;
use crate::render;
use crate::settings;
use crate::spool::Spool;
use crate::watch::{self, Watcher};
use serde_json::Value;
use std::time::{Duration, Instant};

/// Between looks where nothing tells of a new result.
const LOOK: Duration = Duration::from_secs(2);

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
        pending.push((spool, id));
    }
    let (bell, ear) = watch::bell();
    let mut watcher = Watcher::new().ok();
    for (spool, _) in &pending {
        if let Some(watcher) = &mut watcher {
            // Where it cannot be watched, looking now and then must do.
            let _ = watcher.watch(spool.results_path(), &bell, |name| name.ends_with(".json"));
        }
    }
    let mut all_completed = true;
    loop {
        let mut left = Vec::new();
        for (spool, id) in pending {
            match status_of(&spool, id)? {
                Some(status) => {
                    all_completed &= status == "completed";
                    render::print(&format!("{id}: {}\n", render::clean(&status)))?;
                }
                None if spool.document_meta(id)?.is_none() && spool.read_claim(id)?.is_none() => {
                    if status_of(&spool, id)?.is_none() {
                        return Err(Error::with(Exit::NotFound, format!("{id} was withdrawn")));
                    }
                    left.push((spool, id));
                }
                None => left.push((spool, id)),
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
        let now = Instant::now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            return Ok(Exit::TimedOut);
        }
        let look = now + LOOK;
        ear.wait(Some(deadline.map_or(look, |deadline| deadline.min(look))));
        ear.pending().for_each(drop);
    }
}

/// The job inside of which we run, and its project.
fn own_job() -> Option<(String, String)> {
    settings::variable("JOB_MONITOR_PROJECT").zip(settings::variable("JOB_MONITOR_JOB_ID"))
}

fn status_of(spool: &Spool, id: &JobId) -> Result<Option<String>> {
    let Some(result) = spool.read_result(id)? else {
        return Ok(None);
    };
    let value: Option<Value> = serde_json::from_slice(&result).ok();
    let status = value.and_then(|value| Some(value.get("status")?.as_str()?.to_owned()));
    Ok(Some(status.unwrap_or_else(|| "unreadable".to_owned())))
}
