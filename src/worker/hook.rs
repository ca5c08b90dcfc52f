//! `on_finish` and `on_hold`: a command of the person's, run when a job is done or a hold begins, with
//! what happened in its environment. The next job of the project waits for it, so that it may commit
//! or deploy what a job left; whatever it does changes nothing of what is decided.

use crate::job::RUN_VARIABLE;
use crate::project::Project;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use wait_timeout::ChildExt;

/// A hook has so long (SPEC 8).
const LIMIT: Duration = Duration::from_secs(60);
/// How late a request to stop is noticed.
const SLICE: Duration = Duration::from_millis(200);

/// Runs a hook to its end in the project's root. The error is a sentence for the log.
pub(super) fn run(
    command: &[String],
    project: &Project,
    environment: &[(OsString, OsString)],
    told: &[(&str, &OsStr)],
    stop: impl Fn() -> bool,
) -> Result<(), String> {
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .current_dir(&project.path)
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .env("JOB_MONITOR_PROJECT", &project.name)
        .envs(told.iter().copied())
        // What it starts on purpose is no leftover of any agent's.
        .env(RUN_VARIABLE, "hook")
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
