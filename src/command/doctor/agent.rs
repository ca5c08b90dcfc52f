//! An agent: whether its program is found where it will be looked for and runs, whether somebody is
//! logged in, and what it finds in a project.

use super::system::{Env, World, ask};
use super::*;

/// A shorter value of a variable is no secret, and may stand in a text by chance.
const SECRET_MIN: usize = 6;
/// So many characters are shown of what a program says.
const SHOWN_MAX: usize = 200;
/// The agents' own files: settings are small, Claude Code's keeps histories.
const FILE_MAX: u64 = 256 << 20;

/// What `.env` and the settings give to an agent.
fn given(world: &World, agent: &AgentSpec) -> Env {
    let given = world.credentials.iter().flatten();
    given.chain(&agent.env).cloned().collect()
}

/// The environment that an agent gets (SPEC 5), but for the marks of its job.
fn environment(world: &World, agent: &AgentSpec) -> Env {
    let mut env = world.environment.clone();
    env.extend(given(world, agent));
    env
}

fn variable<'a>(env: &'a Env, name: &str) -> Option<&'a OsStr> {
    let found = env.iter().rfind(|(known, _)| known == name);
    found.map(|(_, value)| value.as_os_str())
}

/// Checks an agent, as a project would start it.
pub(super) fn check(report: &mut Report, world: &World, agent: &AgentSpec, at: Option<&Project>) {
    let env = environment(world, agent);
    let root = at.map(|project| project.path.as_path());
    let root = root.filter(|path| path.is_dir()).unwrap_or(Path::new("/"));
    let wanted = agent.command[0].replace("{project}", &root.to_string_lossy());
    let path = variable(&env, "PATH").unwrap_or_default();
    let program = match find_program(wanted.as_ref(), path, root) {
        Ok(program) => program,
        Err(missing) => {
            let message = format!("{missing} (of {})", world.whose());
            return not_found(report, world, agent, &message, path, root);
        }
    };
    let shown = program.display();
    if agent.protocol == Protocol::Plain || agent.command.len() > 1 {
        // It might queue a job, cost money or ask something, so it is not started for a question.
        return report.fine("program", &format!("{shown}, which is not asked anything"));
    }
    // The last line is shown: warnings stand before the version.
    let said = |text: &str| {
        let text = without_secrets(text, &given(world, agent));
        let last = text.trim().lines().last().unwrap_or_default();
        fit(&clean_line(last), SHOWN_MAX)
    };
    match ask(&program, &["--version"], root, &env) {
        Ok(version) => {
            report.fine("program", &format!("{shown}, {}", said(&version)));
            check_login(report, world, agent, &program, &env);
        }
        Err(why) => {
            let remedy = format!("{} --version", quoted_path(&program));
            report.problem("program", &format!("{shown} {}", said(&why)), &remedy);
        }
    }
    if agent.protocol == Protocol::Gemini {
        check_gemini(report, &env);
    }
}

fn not_found(
    report: &mut Report,
    world: &World,
    agent: &AgentSpec,
    message: &str,
    path: &OsStr,
    root: &Path,
) {
    let shell = settings::variable("PATH").unwrap_or_default();
    let elsewhere = find_program(agent.command[0].as_ref(), shell.as_ref(), root).ok();
    let Some(directory) = elsewhere.as_deref().and_then(Path::parent) else {
        let remedy = match dialect(agent.protocol).install {
            "" => edit(&world.places.settings()),
            install => install.to_owned(),
        };
        return report.problem("program", message, &remedy);
    };
    let line = quoted(&format!("PATH={}:{}", directory.display(), path.display()));
    let message = format!("{message}; this shell finds it in {}", directory.display());
    report.problem("program", &message, &add_to_credentials(world, &line));
}

fn add_to_credentials(world: &World, line: &str) -> String {
    let file = quoted_path(&world.places.credentials());
    format!("(umask 077; echo {line} >> {file})")
}

/// Whether there are credentials; whether they are accepted, only a job shows.
fn check_login(report: &mut Report, world: &World, agent: &AgentSpec, program: &Path, env: &Env) {
    let dialect = dialect(agent.protocol);
    let (question, mut keys) = (dialect.preflight, dialect.keys.iter());
    if let Some(key) = keys.clone().find(|key| variable(env, key).is_some()) {
        return report.fine("login", &format!("{key} is set"));
    }
    let get = |name: &str| variable(env, name).map(OsStr::to_owned);
    let login = dialect.own_file(dialect.login, &get);
    let is_logged_in = match question.is_empty() {
        true => login.is_some_and(|file| file.exists()),
        false => ask(program, question, Path::new("/"), env).is_ok(),
    };
    if is_logged_in {
        return report.fine("login", "the agent is logged in");
    }
    let message = format!("no credentials in the environment of {}", world.whose());
    // What an interactive shell exports does not reach a service.
    match keys.find(|key| settings::variable(key).is_some()) {
        Some(key) => {
            let remedy = add_to_credentials(world, &format!("\"{key}=${key}\""));
            let message = format!("{message}; {key} is only in this shell's");
            report.problem("login", &message, &remedy);
        }
        None => report.problem("login", &message, &quoted(&agent.command[0])),
    }
}

/// What gemini's own settings make of jobs that nobody watches.
fn check_gemini(report: &mut Report, env: &Env) {
    let get = |name: &str| variable(env, name).map(OsStr::to_owned);
    let Some(path) = dialect(Protocol::Gemini).own_file("settings.json", &get) else {
        return;
    };
    if json_of(&path).unwrap_or_default()["general"]["maxAttempts"] != 1 {
        let message = format!(
            "{} does not say \"general\": {{\"maxAttempts\": 1}}, so a used-up quota is slept out for \
             hours; and by itself the agent edits files, but runs no command",
            path.display()
        );
        report.warn("settings", &message, &edit(&path));
    }
}

/// What a file of the agent's says; nothing without the file, null if it is no JSON.
fn json_of(path: &Path) -> Option<Value> {
    let bytes = files::read_path(path, FILE_MAX).ok().flatten()?;
    Some(serde_json::from_slice(&bytes).unwrap_or_default())
}

/// A text without the values that credentials and settings give to the agent.
fn without_secrets(text: &str, given: &Env) -> String {
    let mut text = text.to_owned();
    for (name, value) in given {
        // Some messages are about the PATH itself.
        if name != "PATH" && value.len() >= SECRET_MIN {
            text = text.replace(&*value.to_string_lossy(), "***");
        }
    }
    text
}

/// What the agent finds amiss in a project: the skill that a prompt calls, its list of allowed tools.
pub(super) fn check_project(
    report: &mut Report,
    world: &World,
    agent: &AgentSpec,
    project: &Project,
) {
    if agent.protocol == Protocol::Claude {
        check_skill(report, project, agent);
        check_trust(report, project, agent, &environment(world, agent));
    }
}

/// Looks for the command that the owner's prompt calls, without which the agent would not know what is
/// meant. A project without our own skill is served, too.
fn check_skill(report: &mut Report, project: &Project, agent: &AgentSpec) {
    let called = agent
        .prompt
        .as_ref()
        .and_then(|prompt| prompt.strip_prefix('/'));
    let Some(called) = called.and_then(|prompt| prompt.split_whitespace().next()) else {
        return;
    };
    let claude = project.path.join(".claude");
    let skill = claude.join("skills").join(called).join("SKILL.md");
    let command = claude.join("commands").join(format!("{called}.md"));
    if !skill.is_file() && !command.is_file() {
        let message = format!("the prompt calls /{called}, which the project does not have");
        report.warn("skill", &message, &edit(&skill));
    }
}

/// Whether the agent heeds the project's own list of allowed tools.
fn check_trust(report: &mut Report, project: &Project, agent: &AgentSpec, env: &Env) {
    let Ok(root) = std::fs::canonicalize(&project.path) else {
        return;
    };
    let settings = root.join(".claude/settings.json");
    let own = json_of(&settings).unwrap_or_else(|| json!({}));
    if own.is_null() {
        let message = format!("the agent ignores {}, which is no JSON", settings.display());
        return report.warn("trust", &message, &edit(&settings));
    }
    // The CLI keeps the answers to its question by the real path of the directory.
    let home = variable(env, "CLAUDE_CONFIG_DIR").or_else(|| variable(env, "HOME"));
    let answers = json_of(&Path::new(home.unwrap_or_default()).join(".claude.json"));
    let answer = &answers.unwrap_or_default()["projects"][&*root.to_string_lossy()];
    if own["permissions"]["allow"].get(0).is_some() && answer["hasTrustDialogAccepted"] != true {
        let what = "its .claude/settings.json counts once the agent trusts the directory";
        let remedy = format!("cd {} && {}", quoted_path(&root), quoted(&agent.command[0]));
        report.warn("trust", &format!("{what}; start it there:"), &remedy);
    }
}
