//! An agent: whether its program is found where it will be looked for and runs, whether somebody is
//! logged in, and what it finds in a project.

use super::*;

/// The agents' own files: settings are small, Claude Code's keeps histories.
const FILE_MAX: u64 = 256 << 20;

/// Checks each agent that a project uses or the settings list, once, and what it finds amiss in the projects.
pub(super) fn check_all(report: &mut Report, scope: &Scope, settings: &Settings) {
    let mut checked = BTreeSet::new();
    for Entry { project, own, .. } in scope.entries.iter().filter(|entry| entry.enabled) {
        let Ok(Policy { agent, .. }) = settings.policy(own) else {
            continue;
        };
        if checked.insert(agent.name.clone()) {
            check(report, &scope.places, &agent, &project.path);
        }
        if agent.protocol == Protocol::Claude {
            report.project = Some(project.name.clone());
            check_project(report, &scope.places, &agent, &project.path);
            report.project = None;
        }
    }
    // Those that the settings list are meant to be used, too.
    let (listed, is_unused) = (settings.values.get("agents"), checked.is_empty());
    for agent in settings.agents.iter() {
        let is_listed = listed.is_some_and(|all| all.get(&agent.name).is_some());
        let is_own = is_unused && agent.name == settings.common.agent.name;
        if (is_listed || is_own) && checked.insert(agent.name.clone()) {
            check(report, &scope.places, agent, Path::new("/"));
        }
    }
}

/// Checks an agent, as the project at `root` would start it.
pub(super) fn check(report: &mut Report, places: &Places, agent: &AgentSpec, root: &Path) {
    report.agent = Some(agent.name.clone());
    let env = environment(places, agent);
    if let Some(program) = find_program(report, agent, &env, root) {
        check_login(report, agent, &env, &program);
        check_settings(report, agent, &env);
    }
    report.agent = None;
}

/// The environment that an agent gets (SPEC 5), but for the marks of its job. It begins with the running
/// daemon's, else this shell's.
fn environment(places: &Places, agent: &AgentSpec) -> Env {
    let running = daemon::running(places).and_then(environment_of);
    let base = running.unwrap_or_else(settings::base_environment);
    let given = settings::credentials(&places.credentials()).unwrap_or_default();
    let all = base.into_iter().chain(given);
    all.chain(agent.env.clone()).collect()
}

fn get(env: &Env, name: &str) -> Option<OsString> {
    env.get(OsStr::new(name)).cloned()
}

fn own_file(agent: &AgentSpec, env: &Env, name: &str) -> PathBuf {
    let file = dialect(agent.protocol).own_file(name, &|name| get(env, name));
    file.unwrap_or_default()
}

/// Looks for the program and asks it for its version; gives it if it can be asked more.
fn find_program(report: &mut Report, agent: &AgentSpec, env: &Env, root: &Path) -> Option<PathBuf> {
    let path = get(env, "PATH").unwrap_or_default();
    let command = &agent.command;
    let wanted = command[0].replace("{project}", &root.to_string_lossy());
    let program = match process::find_program(wanted.as_ref(), &path, root) {
        Ok(program) => program,
        Err(missing) => {
            let text = format!("{missing}; install it, or set PATH in .env");
            report.tell(Problem, "program", &text, "");
            return None;
        }
    };
    let shown = program.display().to_string();
    if agent.protocol == Protocol::Plain || command.len() > 1 {
        // It might queue a job, cost money or ask something, so it is not started for a question.
        report.fine("program", &shown);
        return None;
    }
    let Some(said) = ask(&program, &["--version"], env) else {
        let time = ANSWER_TIME.as_secs();
        let text = format!("{shown} does not tell its version within {time} s");
        let remedy = format!("{} --version", quoted(&shown));
        report.tell(Problem, "program", &text, &remedy);
        return None;
    };
    let is_number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    let version = said.split_whitespace().find(is_number).unwrap_or_default();
    report.fine("program", &format!("{shown} {version}"));
    Some(program)
}

/// Whether there are credentials; whether they are accepted, only a job shows.
fn check_login(report: &mut Report, agent: &AgentSpec, env: &Env, program: &Path) {
    let dialect = dialect(agent.protocol);
    let is_set = |key: &&str| get(env, key).is_some();
    let is_logged_in = match dialect.preflight {
        _ if dialect.keys.iter().any(is_set) => true,
        [] => own_file(agent, env, dialect.login).exists(),
        question => ask(program, question, env).is_some(),
    };
    if is_logged_in {
        return report.fine("login", "there are credentials");
    }
    let keys = dialect.keys.join(" or ");
    let text = format!("nobody is logged in, and .env sets no {keys}");
    let remedy = quoted(&agent.command[0]);
    report.tell(Problem, "login", &text, &remedy);
}

/// What gemini's own settings make of jobs that nobody watches.
fn check_settings(report: &mut Report, agent: &AgentSpec, env: &Env) {
    let path = own_file(agent, env, "settings.json");
    let is_gemini = agent.protocol == Protocol::Gemini;
    if is_gemini && json_of(&path)["general"]["maxAttempts"] != 1 {
        let text = format!(
            "{} does not say \"general\": {{\"maxAttempts\": 1}}, so a used-up quota is slept out \
             for hours; and by itself the agent edits files, but runs no command",
            path.display()
        );
        report.tell(Warning, "settings", &text, &edit(&path));
    }
}

/// What Claude Code finds in a project: the command that the owner's prompt calls, without which it would
/// not know what is meant, and whether it heeds the project's own list of allowed tools.
fn check_project(report: &mut Report, places: &Places, agent: &AgentSpec, project: &Path) {
    let prompt = agent.prompt.as_deref().unwrap_or_default();
    let called = prompt.split_whitespace().next().unwrap_or_default();
    if let Some(called) = called.strip_prefix('/') {
        let skill = project.join(format!(".claude/skills/{called}/SKILL.md"));
        let command = project.join(format!(".claude/commands/{called}.md"));
        if !skill.is_file() && !command.is_file() {
            let text = format!("the prompt calls /{called}, which the project does not have");
            report.tell(Warning, "skill", &text, &edit(&skill));
        }
    }
    // The CLI keeps the answers to its question by the real path of the directory.
    let (env, root) = (environment(places, agent), std::fs::canonicalize(project));
    let root = root.unwrap_or_default();
    let home = get(&env, "CLAUDE_CONFIG_DIR").or_else(|| get(&env, "HOME"));
    let answers = json_of(&Path::new(&home.unwrap_or_default()).join(".claude.json"));
    let answer = &answers["projects"][&*root.to_string_lossy()]["hasTrustDialogAccepted"];
    let own = json_of(&root.join(".claude/settings.json"));
    if own["permissions"]["allow"].get(0).is_some() && *answer != true {
        let text = "its .claude/settings.json counts once the agent trusts the directory";
        let (root, program) = (quoted(&root.to_string_lossy()), quoted(&agent.command[0]));
        report.tell(Warning, "trust", text, &format!("cd {root} && {program}"));
    }
}

/// What a file of the agent's says; null without the file, or if it is no JSON.
fn json_of(path: &Path) -> Value {
    let bytes = files::read_path(path, FILE_MAX).ok().flatten();
    serde_json::from_slice(&bytes.unwrap_or_default()).unwrap_or_default()
}
