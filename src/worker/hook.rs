//! `on_finish`: a command of the person's, run after each job with the outcome in its
//! environment. The next job of the project waits for it, so that it may commit or deploy what
//! the job left; whatever it does changes no result.

use crate::job::{ErrorKind, RUN_VARIABLE};
use crate::project::Project;
use crate::record::Outcome;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use wait_timeout::ChildExt;

/// A hook has so long (SPEC 8).
const LIMIT: Duration = Duration::from_secs(60);
/// How late a request to stop is noticed.
const SLICE: Duration = Duration::from_millis(200);

/// Runs the hook to its end. The error is a sentence for the log.
pub(super) fn run(
    command: &[String],
    outcome: &Outcome,
    result: &Path,
    project: &Project,
    environment: &[(OsString, OsString)],
    stop: impl Fn() -> bool,
) -> Result<(), String> {
    let cost = outcome
        .worker_output
        .as_ref()
        .and_then(|output| output.cost_usd);
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .current_dir(&project.path)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .env("JOB_MONITOR_PROJECT", &project.name)
        .env("JOB_MONITOR_JOB_ID", outcome.job_id.as_str())
        .env("JOB_MONITOR_STATUS", outcome.status.as_str())
        .env(
            "JOB_MONITOR_ERROR_KIND",
            outcome.error_kind.map_or("", ErrorKind::as_str),
        )
        .env("JOB_MONITOR_RESULT", result)
        .env("JOB_MONITOR_DURATION", outcome.duration_seconds.to_string())
        .env(
            "JOB_MONITOR_COST_USD",
            cost.map_or(String::new(), |cost| cost.to_string()),
        )
        // What it starts on purpose is no leftover of any agent's.
        .env(RUN_VARIABLE, "on_finish")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(|e| crate::error::Error::io("start", command[0].as_ref(), e).to_string())?;
    let deadline = Instant::now() + LIMIT;
    loop {
        match child.wait_timeout(SLICE) {
            Ok(Some(status)) if status.success() => return Ok(()),
            Ok(Some(status)) => {
                // As we say it elsewhere: without the colon of "exit status: 3".
                let how = status.to_string().replacen(": ", " ", 1);
                return Err(format!("{:?} failed with {how}", command[0]));
            }
            Ok(None) if Instant::now() < deadline && !stop() => {}
            // It is too slow, or we cannot tell; either way it must not outlive its time.
            ended => {
                let group = Pid::from_raw(child.id().cast_signed());
                let _ = killpg(group, Signal::SIGKILL);
                let _ = child.wait();
                return Err(match ended {
                    Ok(_) if Instant::now() < deadline => {
                        format!("{:?} was ended, since the monitor stops", command[0])
                    }
                    Ok(_) => format!(
                        "{:?} was ended, since it took longer than {} s",
                        command[0],
                        LIMIT.as_secs()
                    ),
                    Err(error) => format!(
                        "cannot wait for {:?}: {}",
                        command[0],
                        crate::error::plain(&error)
                    ),
                });
            }
        }
    }
}
