//! An agent: whether its program is found where it will be looked for, whether it runs, and
//! whether it is logged in.

use super::ask::{Answer, ask, set, variable};
use super::service::path_remedy;
use super::{Finding, Task, World, edit, quoted};
use crate::process::find_program;
use crate::project::{AgentSpec, Project, Protocol};
use crate::render::{clean_line, shorten};
use crate::settings;
use serde_json::Value;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest interpreter line that Linux reads.
const SHEBANG_MAX: u64 = 256;
/// A shorter value of a variable is no secret, and may stand in a text by chance.
const SECRET_MIN: usize = 6;
/// So much of what a program complains of is shown.
const COMPLAINT_MAX: usize = 200;
/// Variables that log the CLI in, in the order in which they are mentioned.
const KEYS: [&str; 3] = [
    "CLAUDE_CODE_OAUTH_TOKEN",
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_AUTH_TOKEN",
];

/// The environment that an agent gets (SPEC 5), but for the marks of its job.
pub(super) fn environment(world: &World, agent: &AgentSpec) -> Vec<(OsString, OsString)> {
    let mut env = world.service.environment.clone();
    for (name, value) in &world.credentials {
        set(&mut env, name, value);
    }
    for (name, value) in &agent.env {
        set(&mut env, name.as_ref(), value.as_ref());
    }
    env
}

/// The checks of an agent, as one of its projects would start it.
pub(super) fn check(world: &Arc<World>, agent: AgentSpec, project: Option<Project>) -> Task {
    let world = Arc::clone(world);
    let name = agent.name.clone();
    Task::start("program", None, Some(&name), move || {
        let root = project.map(|project| project.path);
        let root = root.filter(|root| root.is_dir());
        let check = Check {
            env: environment(&world, &agent),
            directory: root.unwrap_or_else(|| PathBuf::from("/")),
            world: &world,
            agent: &agent,
        };
        let mut findings = check.findings();
        for finding in &mut findings {
            finding.message = check.without_secrets(&finding.message);
        }
        findings
    })
}

struct Check<'a> {
    world: &'a World,
    agent: &'a AgentSpec,
    env: Vec<(OsString, OsString)>,
    directory: PathBuf,
}

impl Check<'_> {
    fn findings(&self) -> Vec<Finding> {
        let wanted = self.agent.command[0].replace("{project}", &self.directory.to_string_lossy());
        let path = variable(&self.env, "PATH").unwrap_or_default();
        let found = find_program(wanted.as_ref(), path, &self.directory);
        let Some(program) = found else {
            return vec![self.not_found(&wanted, path)];
        };
        if let Some(fault) = self.unusable(&program, path) {
            return vec![fault];
        }
        let shown = program.display();
        let mut findings = Vec::new();
        if self.agent.protocol != Protocol::Claude {
            findings.push(Finding::ok("program", format!("{shown}")));
        } else if self.agent.command.len() > 1 {
            // A launcher may queue, cost or ask: it is not started for a question.
            let message =
                format!("{shown}; the agent behind it is not asked for version and login");
            findings.push(Finding::ok("program", message));
        } else {
            findings.extend(self.claude(&program));
        }
        findings.extend(self.root_fault());
        findings
    }

    fn not_found(&self, wanted: &str, path: &OsStr) -> Finding {
        let whose = self.world.service.whose;
        let message = format!(
            "{wanted:?} is not on the PATH of {whose}: {}",
            path.display()
        );
        let shell = settings::variable("PATH").unwrap_or_default();
        let elsewhere = find_program(wanted.as_ref(), shell.as_ref(), &self.directory);
        if let Some(directory) = elsewhere.as_deref().and_then(Path::parent) {
            let remedy = path_remedy(&self.world.places.credentials(), directory, path);
            let message = format!("{message}; this shell finds it in {}", directory.display());
            return Finding::problem("program", message).remedy(remedy);
        }
        let finding = Finding::problem("program", message);
        match wanted {
            "claude" => finding.remedy("npm install -g @anthropic-ai/claude-code"),
            _ => finding.remedy(edit(&self.world.places.settings())),
        }
    }

    /// Why the program that was found cannot be started.
    fn unusable(&self, program: &Path, path: &OsStr) -> Option<Finding> {
        let shown = program.display();
        let problem = |message: String| Finding::problem("program", message);
        let settings = || edit(&self.world.places.settings());
        let meta = match std::fs::metadata(program) {
            Ok(meta) => meta,
            Err(error) => {
                let error = crate::error::Error::io("find", program, error);
                return Some(problem(error.to_string()).remedy(settings()));
            }
        };
        let executable = std::os::unix::fs::MetadataExt::mode(&meta) & 0o111 != 0;
        if !meta.is_file() {
            return Some(problem(format!("{shown} is not a program")).remedy(settings()));
        }
        if !executable {
            let remedy = format!("chmod +x {}", super::quoted_path(program));
            return Some(problem(format!("{shown} is not executable")).remedy(remedy));
        }
        let missing = missing_interpreter(program, path, &self.directory)?;
        let message = format!(
            "{shown} needs {missing}, which is not on the PATH of {}: {}",
            self.world.service.whose,
            path.display()
        );
        let shell = settings::variable("PATH").unwrap_or_default();
        let elsewhere = find_program(missing.as_ref(), shell.as_ref(), &self.directory);
        let elsewhere = elsewhere.filter(|_| !missing.contains('/'));
        Some(match elsewhere.as_deref().and_then(Path::parent) {
            Some(directory) => problem(message).remedy(path_remedy(
                &self.world.places.credentials(),
                directory,
                path,
            )),
            None if missing.contains('/') => {
                problem(format!("{shown} needs {missing}, which is not there")).remedy(settings())
            }
            None => problem(message).remedy(settings()),
        })
    }

    fn ask(&self, program: &Path, args: &[&str]) -> Result<Answer, String> {
        ask(program, args, &self.directory, Some(&self.env))
    }

    fn claude(&self, program: &Path) -> Vec<Finding> {
        let shown = program.display();
        let version = match self.ask(program, &["--version"]) {
            Ok(answer) if answer.status.success() => clean_line(&answer.stdout),
            Ok(answer) => {
                let message = format!("{shown} does not run: {}", complaint(&answer));
                return vec![self.broken(program, message)];
            }
            Err(why) => return vec![self.broken(program, format!("{shown} {why}"))],
        };
        let found = Finding::ok("program", format!("{shown}, {}", shorten(&version, 60)));
        vec![found, self.login(program)]
    }

    fn broken(&self, program: &Path, message: String) -> Finding {
        let remedy = format!("{} --version", super::quoted_path(program));
        Finding::problem("program", message).remedy(remedy)
    }

    /// The CLI looks whether there are credentials; whether they are accepted, only a job shows.
    fn login(&self, program: &Path) -> Finding {
        let answer = match self.ask(program, &["auth", "status"]) {
            Ok(answer) => answer,
            Err(why) => return self.unclear(program, &why),
        };
        let told: Value = serde_json::from_str(&answer.stdout).unwrap_or_default();
        match told.get("loggedIn").and_then(Value::as_bool) {
            Some(true) => {
                let method = told.get("authMethod").and_then(Value::as_str);
                let word = |text: &&str| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                let by = method.filter(word).map(|method| format!(" ({method})"));
                let message = format!("the agent is logged in{}", by.unwrap_or_default());
                Finding::ok("login", message)
            }
            Some(false) => self.logged_out(),
            None => self.unclear(program, &complaint(&answer)),
        }
    }

    fn unclear(&self, program: &Path, why: &str) -> Finding {
        let message = format!("the agent does not tell whether it is logged in: {why}");
        let remedy = format!("{} auth status", super::quoted_path(program));
        Finding::warning("login", message).remedy(remedy)
    }

    fn logged_out(&self) -> Finding {
        let whose = self.world.service.whose;
        let message = format!("the agent has no credentials in the environment of {whose}");
        // What an interactive shell exports does not reach a service.
        let exported = KEYS
            .into_iter()
            .find(|key| settings::variable(key).is_some() && variable(&self.env, key).is_none());
        let Some(key) = exported else {
            let home = variable(&self.env, "HOME").map(PathBuf::from);
            let own = settings::variable("HOME").map(PathBuf::from);
            let login = format!("{} auth login", quoted(&self.agent.command[0]));
            return Finding::problem("login", message).remedy(match home {
                Some(home) if Some(&home) != own.as_ref() => {
                    format!("HOME={} {login}", super::quoted_path(&home))
                }
                _ => login,
            });
        };
        let file = super::quoted_path(&self.world.places.credentials());
        Finding::problem("login", format!("{message}; {key} is only in this shell's"))
            .remedy(format!("(umask 077; echo \"{key}=${key}\" >> {file})"))
    }

    /// The CLI refuses to skip its permission checks for root, each time anew.
    fn root_fault(&self) -> Option<Finding> {
        let skips = |arg: &String| {
            arg.contains("dangerously-skip-permissions") || arg.contains("bypassPermissions")
        };
        let refused = self.agent.protocol == Protocol::Claude
            && nix::unistd::geteuid().is_root()
            && self.agent.args.iter().any(skips)
            && variable(&self.env, "IS_SANDBOX").is_none_or(|value| value != "1");
        refused.then(|| {
            let message = "its \"args\" skip permission checks, which the agent refuses to root";
            Finding::problem("arguments", message).remedy(edit(&self.world.places.settings()))
        })
    }

    /// A text without the values that credentials and settings give to the agent.
    fn without_secrets(&self, text: &str) -> String {
        let given = self
            .world
            .credentials
            .iter()
            .map(|(name, value)| (name.to_str(), value.to_str()));
        let own = self.agent.env.iter();
        let own = own.map(|(name, value)| (Some(name.as_str()), Some(value.as_str())));
        let secrets = given.chain(own).filter_map(|(name, value)| {
            // Where programs are looked for is the very matter of some messages.
            value.filter(|value| value.len() >= SECRET_MIN && name != Some("PATH"))
        });
        secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "***"))
    }
}

fn complaint(answer: &Answer) -> String {
    let said = clean_line(&answer.complaint());
    format!("{} ({})", shorten(&said, COMPLAINT_MAX), answer.status)
}

/// The interpreter that a script names and that is not there.
fn missing_interpreter(program: &Path, path: &OsStr, directory: &Path) -> Option<String> {
    let mut head = Vec::new();
    let file = File::open(program).ok()?;
    file.take(SHEBANG_MAX).read_to_end(&mut head).ok()?;
    let line = head.strip_prefix(b"#!")?.split(|&b| b == b'\n').next()?;
    let words: Vec<&[u8]> = line
        .split(|b| b.is_ascii_whitespace())
        .filter(|word| !word.is_empty())
        .collect();
    let interpreter = Path::new(OsStr::from_bytes(words.first()?));
    if !interpreter.is_file() {
        return Some(interpreter.to_string_lossy().into_owned());
    }
    if interpreter.file_name() != Some(OsStr::new("env")) {
        return None;
    }
    let is_option = |word: &&&[u8]| word.starts_with(b"-") || word.contains(&b'=');
    let wanted = OsStr::from_bytes(words.iter().skip(1).find(|word| !is_option(word))?);
    let found = find_program(wanted, path, directory);
    found
        .is_none()
        .then(|| wanted.to_string_lossy().into_owned())
}
