//! The session of a job that is not running: whether `reply` can go on in it, and `open`.

use super::Outcome;
use super::result::Finished;
use super::scope::{Scope, Standing};
use crate::agent::{Sessions, dialect, plan};
use crate::cli::JobName;
use crate::error::{Error, Result, plain};
use crate::job::JobId;
use crate::project::AgentSpec;
use crate::settings;
use crate::spool::Spool;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The session of a finished job, and the agent that keeps it.
pub(super) fn of_finished(
    scope: &Scope,
    spool: &Spool,
    id: &JobId,
    standing: &Standing,
) -> Result<(String, AgentSpec)> {
    let Standing::Done(result) = standing else {
        return Err(Error::new(format!(
            "{id} is not finished; job-monitor wait {id} waits for it"
        )));
    };
    let told = Finished::read(result).ok_or_else(|| {
        let path = spool.result_path(id);
        Error::new(format!("the result {} cannot be read", path.display()))
    })?;
    let (settings, _) = settings::load(&scope.places.settings())?;
    let policy = scope.entry(&spool.project().name)?.policy(&settings)?;
    let name = told.agent.clone().unwrap_or_default();
    let agent = policy
        .agents
        .iter()
        .chain([&policy.agent])
        .find(|agent| agent.name == name);
    match (told.session_id.clone(), agent) {
        (Some(session), Some(agent)) if dialect(agent.protocol).sessions != Sessions::None => {
            Ok((session, agent.clone()))
        }
        (Some(_), None) => Err(Error::new(format!(
            "the session of {id} is one of the agent {name:?}, which the settings no longer have"
        ))),
        _ => Err(Error::new(format!(
            "{id} has no session to go on in; job-monitor submit hands in a new job"
        ))),
    }
}

/// Opens the session of a job in the agent's own program, in the project.
pub(super) fn open(scope: &Scope, job: Option<&JobName>) -> Outcome {
    let id = scope.resolve_or_latest(job)?;
    let (spool, standing) = scope.job(&id)?;
    if let Standing::Running(_) = standing {
        let text = format!(
            "{id} is running, and a session has room for one; job-monitor logs -f {id} shows it"
        );
        return Err(Error::new(text));
    }
    let (session, agent) = of_finished(scope, &spool, &id, &standing)?;
    let project = spool.project();
    let command: Vec<String> = (agent.command.iter())
        .map(|word| plan::fill(word, project, &id, 1))
        .collect();
    // What the daemon gives the agent decides where its sessions are.
    let credentials = settings::credentials(&scope.places.credentials()).unwrap_or_default();
    let error = Command::new(&command[0])
        .args(&command[1..])
        .args([dialect(agent.protocol).open, &session])
        .current_dir(&project.path)
        .envs(credentials)
        .envs(agent.env.iter().cloned())
        .exec();
    let text = format!(
        "cannot start {}: {}; install it, or set the agent's command",
        command[0],
        plain(&error)
    );
    Err(Error::new(text))
}
