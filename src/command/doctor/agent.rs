//! An agent: whether its program is found where it will be looked for and runs, whether somebody is
//! logged in, and what it finds in a project.

use super::*;

/// The agents' own files: settings are small, Claude Code's keeps histories.
const FILE_MAX: u64 = 256 << 20;

/// Checks each agent that a project uses, once, and what it finds amiss in the projects.
pub(super) fn check_all(
    report: &mut Report,
    world: &World,
    settings: &Settings,
    entries: &[Entry],
) {
    let entries = entries.iter().filter(|entry| entry.enabled);
    let used = entries.filter_map(|entry| {
        let agent = entry.policy(settings).ok()?.agent;
        Some((agent, &entry.project))
    });
    let used: Vec<(AgentSpec, &Project)> = used.collect();
    let mut checked = BTreeSet::new();
    for (agent, project) in &used {
        if checked.insert(&agent.name) {
            check(report, world, agent, &project.path);
        }
        if agent.protocol == Protocol::Claude {
            report.project = Some(project.name.clone());
            check_skill(report, project, agent);
            check_trust(report, world, project, agent);
            report.project = None;
        }
    }
    if used.is_empty() {
        check(report, world, &settings.common.agent, Path::new("/"));
    }
}

/// The environment that an agent gets (SPEC 5), but for the marks of its job.
fn environment(world: &World, agent: &AgentSpec) -> Env {
    let all = world.environment.iter();
    let all = all.chain(world.credentials.iter().flatten());
    all.chain(&agent.env).cloned().collect()
}

/// Checks an agent, as the project at `root` would start it.
pub(super) fn check(report: &mut Report, world: &World, agent: &AgentSpec, root: &Path) {
    report.agent = Some(agent.name.clone());
    check_program(report, world, agent, root);
    report.agent = None;
}

fn check_program(report: &mut Report, world: &World, agent: &AgentSpec, root: &Path) {
    let env = environment(world, agent);
    let path = env.get(OsStr::new("PATH")).cloned().unwrap_or_default();
    let wanted = agent.command[0].replace("{project}", &root.to_string_lossy());
    let program = match find_program(wanted.as_ref(), &path, root) {
        Ok(program) => program,
        Err(missing) => {
            let file = world.file.display();
            let text = format!("{missing}; install it, or set PATH in {file}");
            return report.tell(Problem, "program", &text, "");
        }
    };
    let shown = program.display().to_string();
    if agent.protocol == Protocol::Plain || agent.command.len() > 1 {
        // It might queue a job, cost money or ask something, so it is not started for a question.
        return report.fine("program", &shown);
    }
    let Some(said) = ask(&program, &["--version"], &env) else {
        let text = format!("{shown} does not tell its version");
        let remedy = format!("{} --version", quoted(&shown));
        return report.tell(Problem, "program", &text, &remedy);
    };
    let is_number = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit());
    let version = said.split_whitespace().find(is_number).unwrap_or_default();
    report.fine("program", &format!("{shown} {version}"));
    check_login(report, world, agent, &program, &env);
    if agent.protocol == Protocol::Gemini {
        check_gemini(report, &env);
    }
}

/// Whether there are credentials; whether they are accepted, only a job shows.
fn check_login(report: &mut Report, world: &World, agent: &AgentSpec, program: &Path, env: &Env) {
    let dialect = dialect(agent.protocol);
    let is_set = |key: &&str| env.contains_key(OsStr::new(key));
    let is_logged_in = match dialect.preflight {
        _ if dialect.keys.iter().any(is_set) => true,
        [] => own_file(agent.protocol, dialect.login, env).is_some_and(|file| file.exists()),
        question => ask(program, question, env).is_some(),
    };
    if is_logged_in {
        return report.fine("login", "there are credentials");
    }
    let (keys, file) = (dialect.keys.join(" or "), world.file.display());
    let text = format!("nobody is logged in, and {file} sets no {keys}");
    report.tell(Problem, "login", &text, &quoted(&agent.command[0]));
}

fn own_file(protocol: Protocol, name: &str, env: &Env) -> Option<PathBuf> {
    dialect(protocol).own_file(name, &|name| env.get(OsStr::new(name)).cloned())
}

/// What gemini's own settings make of jobs that nobody watches.
fn check_gemini(report: &mut Report, env: &Env) {
    let path = own_file(Protocol::Gemini, "settings.json", env).unwrap_or_default();
    if json_of(&path)["general"]["maxAttempts"] != 1 {
        let text = format!(
            "{} does not say \"general\": {{\"maxAttempts\": 1}}, so a used-up quota is slept out for \
             hours; and by itself the agent edits files, but runs no command",
            path.display()
        );
        report.tell(Warning, "settings", &text, &edit(&path));
    }
}

/// What a file of the agent's says; null without the file, or if it is no JSON.
fn json_of(path: &Path) -> Value {
    let bytes = files::read_path(path, FILE_MAX).ok().flatten();
    serde_json::from_slice(&bytes.unwrap_or_default()).unwrap_or_default()
}

/// Looks for the command that the owner's prompt calls, without which the agent would not know what is
/// meant. A project without our own skill is served, too.
fn check_skill(report: &mut Report, project: &Project, agent: &AgentSpec) {
    let called = agent
        .prompt
        .iter()
        .flat_map(|prompt| prompt.strip_prefix('/'));
    for called in called.flat_map(|prompt| prompt.split_whitespace().next()) {
        let claude = project.path.join(".claude");
        let skill = claude.join("skills").join(called).join("SKILL.md");
        let command = claude.join("commands").join(format!("{called}.md"));
        if !skill.is_file() && !command.is_file() {
            let text = format!("the prompt calls /{called}, which the project does not have");
            report.tell(Warning, "skill", &text, &edit(&skill));
        }
    }
}

/// Whether the agent heeds the project's own list of allowed tools.
fn check_trust(report: &mut Report, world: &World, project: &Project, agent: &AgentSpec) {
    // The CLI keeps the answers to its question by the real path of the directory.
    let root = std::fs::canonicalize(&project.path).unwrap_or_default();
    let env = environment(world, agent);
    let home = ["CLAUDE_CONFIG_DIR", "HOME"].map(|name| env.get(OsStr::new(name)));
    let home = home.into_iter().flatten().next().cloned();
    let answers = json_of(&Path::new(&home.unwrap_or_default()).join(".claude.json"));
    let answer = &answers["projects"][&*root.to_string_lossy()]["hasTrustDialogAccepted"];
    let own = json_of(&root.join(".claude/settings.json"));
    if own["permissions"]["allow"].get(0).is_some() && *answer != true {
        let text = "its .claude/settings.json counts once the agent trusts the directory";
        let (root, command) = (quoted(&root.to_string_lossy()), quoted(&agent.command[0]));
        report.tell(Warning, "trust", text, &format!("cd {root} && {command}"));
    }
}
