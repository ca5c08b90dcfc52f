//! An agent: whether its program is found where it will be looked for and runs, whether somebody is
//! logged in, and what it finds in a project.

use super::system::{Env, World, ask};
use super::{Finding, edit, fine, problem, quoted, quoted_path, warning};
use crate::agent::dialect;
use crate::files;
use crate::process::find_program;
use crate::project::{AgentSpec, Project, Protocol};
use crate::render::{clean_line, fit};
use crate::settings;
use serde_json::Value;
use std::ffi::OsStr;
use std::path::Path;

/// A shorter value of a variable is no secret, and may stand in a text by chance.
const SECRET_MIN: usize = 6;
/// So many characters are shown of what a program says.
const SHOWN_MAX: usize = 200;
/// The agents' own files: settings are small, Claude Code's keeps histories.
const FILE_MAX: u64 = 256 << 20;

/// What `.env` and the settings give to an agent.
fn given(world: &World, agent: &AgentSpec) -> Env {
    let own = agent.env.iter();
    let own = own.map(|(name, value)| (name.into(), value.into()));
    let given = world.credentials.iter().flatten().cloned();
    given.chain(own).collect()
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

/// The checks of an agent, as a project would start it.
pub(super) fn findings(world: &World, agent: &AgentSpec, at: Option<&Project>) -> Vec<Finding> {
    let env = environment(world, agent);
    let root = at
        .map(|project| project.path.as_path())
        .filter(|path| path.is_dir());
    let root = root.unwrap_or(Path::new("/"));
    let wanted = agent.command[0].replace("{project}", &root.to_string_lossy());
    let path = variable(&env, "PATH").unwrap_or_default();
    let program = match find_program(wanted.as_ref(), path, root) {
        Ok(program) => program,
        Err(missing) => return vec![not_found(world, agent, &wanted, path, root, &missing)],
    };
    let shown = program.display();
    if agent.protocol == Protocol::Plain || agent.command.len() > 1 {
        // It may queue, cost or ask: it is not started for a question.
        return vec![fine(
            "program",
            format!("{shown}, which is not asked anything"),
        )];
    }
    let mut findings = match ask(&program, &["--version"], root, &env) {
        Ok(said) => vec![
            // What it warns of stands before its version.
            fine(
                "program",
                format!(
                    "{shown}, {}",
                    clean_line(said.trim().lines().last().unwrap_or_default())
                ),
            ),
            login_finding(world, agent, &program, &env),
        ],
        Err(why) => {
            let remedy = format!("{} --version", quoted_path(&program));
            vec![problem("program", format!("{shown} {why}"), remedy)]
        }
    };
    findings.extend(gemini_finding(agent, &env));
    for finding in &mut findings {
        finding.agent = Some(agent.name.clone());
        finding.message = without_secrets(&finding.message, &given(world, agent));
    }
    findings
}

fn not_found(
    world: &World,
    agent: &AgentSpec,
    wanted: &str,
    path: &OsStr,
    root: &Path,
    why: &str,
) -> Finding {
    let message = format!("{why} (of {})", world.whose());
    let shell = settings::variable("PATH").unwrap_or_default();
    let elsewhere = find_program(wanted.as_ref(), shell.as_ref(), root).ok();
    let Some(directory) = elsewhere.as_deref().and_then(Path::parent) else {
        let remedy = match dialect(agent.protocol).install {
            "" => edit(&world.places.settings()),
            install => install.to_owned(),
        };
        return problem("program", message, remedy);
    };
    let line = quoted(&format!("PATH={}:{}", directory.display(), path.display()));
    let message = format!("{message}; this shell finds it in {}", directory.display());
    problem("program", message, add_to_credentials(world, &line))
}

fn add_to_credentials(world: &World, line: &str) -> String {
    let file = quoted_path(&world.places.credentials());
    format!("(umask 077; echo {line} >> {file})")
}

/// Whether there are credentials; whether they are accepted, only a job shows.
fn login_finding(world: &World, agent: &AgentSpec, program: &Path, env: &Env) -> Finding {
    let dialect = dialect(agent.protocol);
    let (question, keys) = (dialect.preflight, dialect.keys);
    if let Some(key) = keys.iter().find(|key| variable(env, key).is_some()) {
        return fine("login", format!("{key} is set"));
    }
    let get = |name: &str| variable(env, name).map(OsStr::to_owned);
    let is_logged_in = match question.is_empty() {
        true => dialect
            .own_file(dialect.login, &get)
            .is_some_and(|file| file.exists()),
        false => ask(program, question, Path::new("/"), env).is_ok(),
    };
    if is_logged_in {
        return fine("login", "the agent is logged in");
    }
    let message = format!("no credentials in the environment of {}", world.whose());
    // What an interactive shell exports does not reach a service.
    match keys.iter().find(|key| settings::variable(key).is_some()) {
        Some(key) => {
            let message = format!("{message}; {key} is only in this shell's");
            problem(
                "login",
                message,
                add_to_credentials(world, &format!("\"{key}=${key}\"")),
            )
        }
        None => problem("login", message, quoted(&agent.command[0])),
    }
}

/// What gemini's own settings make of jobs that nobody watches.
fn gemini_finding(agent: &AgentSpec, env: &Env) -> Option<Finding> {
    let home = variable(env, "HOME").filter(|_| agent.protocol == Protocol::Gemini)?;
    let path = Path::new(home).join(".gemini/settings.json");
    if json_of(&path).unwrap_or_default()["general"]["maxAttempts"] == 1 {
        return None;
    }
    let message = format!(
        "{} does not say \"general\": {{\"maxAttempts\": 1}}, so a used-up quota is slept out for \
         hours; and by itself the agent edits files, but runs no command",
        path.display()
    );
    Some(warning("settings", message, edit(&path)))
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
        // Where programs are looked for is the very matter of some messages.
        if name != "PATH" && value.len() >= SECRET_MIN {
            text = text.replace(&*value.to_string_lossy(), "***");
        }
    }
    fit(&text, SHOWN_MAX)
}

/// What the agent finds amiss in a project: the skill that a prompt calls, its list of allowed tools.
pub(super) fn project_findings(
    world: &World,
    agent: &AgentSpec,
    project: &Project,
) -> Vec<Finding> {
    if agent.protocol != Protocol::Claude {
        return Vec::new();
    }
    let trust = trust_finding(project, agent, &environment(world, agent));
    let skill = skill_finding(project, agent);
    [skill, trust].into_iter().flatten().collect()
}

/// A project without the command that the owner's prompt calls gives the agent a riddle. One without our
/// own skill is served, too.
fn skill_finding(project: &Project, agent: &AgentSpec) -> Option<Finding> {
    let prompt = agent.prompt.as_ref()?;
    let called = prompt.strip_prefix('/')?.split_whitespace().next()?;
    let claude = project.path.join(".claude");
    let skill = claude.join("skills").join(called).join("SKILL.md");
    let command = claude.join("commands").join(format!("{called}.md"));
    let message = format!("the prompt calls /{called}, which the project does not have");
    let is_there = skill.is_file() || command.is_file();
    (!is_there).then(|| warning("skill", message, edit(&skill)))
}

/// Whether the agent heeds the project's own list of allowed tools.
fn trust_finding(project: &Project, agent: &AgentSpec, env: &Env) -> Option<Finding> {
    let root = std::fs::canonicalize(&project.path).ok()?;
    let settings = root.join(".claude/settings.json");
    let own = json_of(&settings)?;
    if own.is_null() {
        let message = format!("the agent ignores {}, which is no JSON", settings.display());
        return Some(warning("trust", message, edit(&settings)));
    }
    own["permissions"]["allow"].get(0)?;
    // The CLI keeps the answers to its question by the real path of the directory.
    let home = variable(env, "CLAUDE_CONFIG_DIR").or_else(|| variable(env, "HOME"))?;
    let answers = json_of(&Path::new(home).join(".claude.json")).unwrap_or_default();
    if answers["projects"][&*root.to_string_lossy()]["hasTrustDialogAccepted"] == true {
        return None;
    }
    let message =
        "its .claude/settings.json counts once the agent trusts the directory; start it there:";
    let remedy = format!("cd {} && {}", quoted_path(&root), quoted(&agent.command[0]));
    Some(warning("trust", message, remedy))
}
