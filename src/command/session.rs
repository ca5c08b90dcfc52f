//! The session of a job that is not running: whether `reply` can go on in it, and `open`.

use super::*;

/// The session of a job that does not run, and the agent that keeps it.
pub(super) fn of(scope: &Scope, job: &Job) -> Result<(String, AgentSpec)> {
    let Job { id, spool } = job;
    let (session, name) = match scope.standing(job)? {
        Standing::Done(result) => {
            let told = ResultView::need(spool, id, &result)?;
            (told.session_id, told.agent.unwrap_or_default())
        }
        Standing::Waiting(Some(claim)) => (claim.session_id.clone(), claim.agent.clone()),
        Standing::Running(_) => {
            let how = format!("job-monitor logs -f {id} shows it");
            let text = format!("{id} is running, and a session has room for one; {how}");
            return Err(Error::new(text));
        }
        Standing::Waiting(None) => (None, String::new()),
    };
    let (settings, _) = settings::load(&scope.places.settings())?;
    let policy = scope.entry(&spool.project().name)?.policy(&settings)?;
    let agent = policy.agents.iter().find(|agent| agent.name == name);
    let agent = agent.filter(|agent| dialect(agent.protocol).sessions != Sessions::None);
    let way_out = "job-monitor submit hands in a new job";
    let none = format!("{id} has no session that its agent can go on in; {way_out}");
    session.zip(agent.cloned()).ok_or_else(|| Error::new(none))
}

/// Opens the session of a job in the agent's own program, in the project.
pub(super) fn open(scope: &Scope, job: &Job) -> Result<Exit> {
    let (session, agent) = of(scope, job)?;
    let project = job.spool.project();
    let fill = |word: &String| plan::fill(word, project, &job.id, 1);
    let command: Vec<String> = agent.command.iter().map(fill).collect();
    // What the daemon gives the agent decides where its sessions are.
    let credentials = settings::credentials(&scope.places.credentials()).unwrap_or_default();
    let program = &command[0];
    let error = Command::new(program)
        .args(&command[1..])
        .args([dialect(agent.protocol).open, &session])
        .current_dir(&project.path)
        .envs(credentials)
        .envs(agent.env.iter().cloned())
        .exec();
    let why = plain(&error) + "; install it, or set the agent's command";
    Err(Error::new(format!("cannot start {program}: {why}")))
}
