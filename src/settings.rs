//! The only reader of the process's environment, of `config.json` and of `.env`: where things
//! are, and what holds for whom.

use crate::agent;
use crate::error::{Error, Result};
use crate::files;
use crate::project::{AgentSpec, Layout, OnInterrupt, Policy, Protocol};
use crate::time::parse_duration;
use nix::sys::stat::fstat;
use serde_json::{Map, Value};
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// No settings file of ours is larger; a larger one is damage.
const SETTINGS_MAX: u64 = 4 << 20;

/// Set by our unit to say that it has `Delegate=yes`, which not every systemd tells itself.
pub const DELEGATED: &str = "JOB_MONITOR_DELEGATED";

/// Where the configuration and the daemon's own state are (SPEC 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Registry, settings, credentials.
    pub config: PathBuf,
    /// Instance lock, holds, ledger.
    pub state: PathBuf,
}

impl Places {
    /// From the environment: `MONITOR_SYSTEM_ROOT`, else the XDG directories, else `HOME`.
    pub fn find() -> Result<Places> {
        let root = env::var_os("MONITOR_SYSTEM_ROOT").filter(|root| !root.is_empty());
        if let Some(root) = root.map(PathBuf::from) {
            // To pass over it would mean another configuration than the one that was asked for.
            if !root.is_absolute() {
                return Err(Error::new(format!(
                    "MONITOR_SYSTEM_ROOT is {root:?}, which is not an absolute path; set it to one, or unset it"
                )));
            }
            return Ok(Places {
                state: root.join("state"),
                config: root,
            });
        }
        let home = || {
            absolute("HOME")
                .ok_or_else(|| Error::new("HOME is not set to an absolute path; set it"))
        };
        let config = match absolute("XDG_CONFIG_HOME") {
            Some(base) => base,
            None => home()?.join(".config"),
        };
        let state = match absolute("XDG_STATE_HOME") {
            Some(base) => base,
            None => home()?.join(".local/state"),
        };
        Ok(Places {
            config: config.join("job-monitor"),
            state: state.join("job-monitor"),
        })
    }

    /// The registry of projects.
    pub fn registry(&self) -> PathBuf {
        self.config.join("registered.json")
    }

    /// The settings.
    pub fn settings(&self) -> PathBuf {
        self.config.join("config.json")
    }

    /// Credentials for agents.
    pub fn credentials(&self) -> PathBuf {
        self.config.join(".env")
    }
}

/// An environment variable that holds an absolute path; relative ones count as unset, as the
/// XDG specification wants.
fn absolute(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
}

/// An environment variable as text, for the faces.
pub fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The settings as they stand in `config.json`, checked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    values: Map<String, Value>,
}

/// What is odd about settings, one sentence each; nothing of it stops anything.
pub type Warnings = Vec<String>;

/// Keys that may stand in `config.json` only.
const GLOBAL_KEYS: &[&str] = &["agents", "max_parallel"];

/// Keys that may stand in `config.json` and, for one project, in its registry entry.
const KEYS: &[&str] = &[
    "agent",
    "timeout",
    "silence_timeout",
    "grace",
    "linger",
    "settle",
    "retries",
    "on_interrupt",
    "max_budget_usd",
    "daily_budget_usd",
    "max_document",
    "max_output",
    "archive",
    "on_finish",
];

/// Keys of an entry of `agents`.
const AGENT_KEYS: &[&str] = &["command", "args", "protocol", "prompt", "env"];

/// Reads `config.json`; a missing file is an empty one.
pub fn load(path: &Path) -> Result<(Settings, Warnings)> {
    let values = match files::read_own(path, SETTINGS_MAX)? {
        None => Map::new(),
        Some(bytes) => serde_json::from_slice(&bytes).map_err(|e| {
            Error::new(format!(
                "{} is not a JSON object: {e}; mend it",
                path.display()
            ))
        })?,
    };
    let known =
        |key: &&String| !KEYS.contains(&key.as_str()) && !GLOBAL_KEYS.contains(&key.as_str());
    let warnings = values
        .keys()
        .filter(known)
        .map(|key| format!("{}: unknown setting {key:?} is ignored", path.display()))
        .collect();
    let settings = Settings { values };
    // What holds for everybody must make sense by itself, so that a mistake is told by its file.
    let sound = settings
        .policy(&Map::new())
        .and_then(|_| settings.check_agents())
        .and_then(|()| settings.max_parallel());
    sound.map_err(|e| e.context(&path.display().to_string()))?;
    Ok((settings, warnings))
}

impl Settings {
    /// The most agents at once over all projects.
    pub fn max_parallel(&self) -> Result<Option<usize>> {
        let value = self
            .values
            .get("max_parallel")
            .filter(|value| !value.is_null());
        value
            .map(|value| {
                let parsed = value.as_u64().and_then(|n| usize::try_from(n).ok());
                parsed
                    .filter(|&n| n > 0)
                    .ok_or_else(|| wrong("max_parallel", value, "a whole number from 1"))
            })
            .transpose()
    }

    /// The daily budget that holds over all projects.
    pub fn daily_budget_usd(&self) -> Option<f64> {
        self.values.get("daily_budget_usd").and_then(Value::as_f64)
    }

    /// What holds for a project whose registry entry has these keys of ours.
    pub fn policy(&self, own: &Map<String, Value>) -> Result<Policy> {
        let own_or_global = |key: &str| {
            own.get(key)
                .or_else(|| self.values.get(key))
                .filter(|v| !v.is_null())
        };
        let span = |key: &str, default: Duration| match own_or_global(key) {
            None => Ok(default),
            Some(value) => {
                let parsed = value.as_str().and_then(parse_duration);
                parsed.ok_or_else(|| {
                    wrong(
                        key,
                        value,
                        "a duration such as \"90s\", \"30m\" or \"1h30m\"",
                    )
                })
            }
        };
        let bytes = |key: &str, default: u64| {
            own_or_global(key).map_or(Ok(default), |value| size(key, value))
        };
        let money = |key: &str, value: Option<&Value>| match value {
            None => Ok(None),
            Some(value) => match value.as_f64() {
                Some(amount) if amount > 0.0 => Ok(Some(amount)),
                _ => Err(wrong(key, value, "an amount above 0")),
            },
        };
        let agent = match own_or_global("agent") {
            None => "claude",
            Some(value) => value
                .as_str()
                .ok_or_else(|| wrong("agent", value, "the name of an agent"))?,
        };
        let hour = Duration::from_secs(3600);
        let silence = span("silence_timeout", hour / 2)?;
        let on_interrupt = match own_or_global("on_interrupt") {
            None => OnInterrupt::Resume,
            Some(value) => OnInterrupt::deserialize_from(value)
                .ok_or_else(|| wrong("on_interrupt", value, "\"resume\", \"rerun\" or \"fail\""))?,
        };
        let archive = match own_or_global("archive") {
            None => false,
            Some(value) => value
                .as_bool()
                .ok_or_else(|| wrong("archive", value, "true or false"))?,
        };
        let retries = own_or_global("retries").map_or(Ok(2), |value| count("retries", value))?;
        let on_finish = match own_or_global("on_finish") {
            None => None,
            Some(value) => Some(command_line("on_finish", value)?),
        };
        let timeout = span("timeout", 2 * hour)?;
        if timeout.is_zero() {
            return Err(Error::new(
                "setting \"timeout\" must be above 0; leave it out for 2h",
            ));
        }
        Ok(Policy {
            agent: self.agent(agent)?,
            timeout,
            silence_timeout: (!silence.is_zero()).then_some(silence),
            grace: span("grace", Duration::from_secs(10))?,
            linger: span("linger", Duration::from_secs(30))?,
            settle: span("settle", Duration::from_millis(200))?,
            retries: u32::try_from(retries).unwrap_or(u32::MAX),
            on_interrupt,
            max_budget_usd: money("max_budget_usd", own_or_global("max_budget_usd"))?,
            daily_budget_usd: money(
                "daily_budget_usd",
                own.get("daily_budget_usd").filter(|v| !v.is_null()),
            )?,
            max_document: bytes("max_document", 1 << 20)?,
            max_output: bytes("max_output", 1 << 30)?,
            archive,
            on_finish,
            ..Policy::default()
        })
    }

    /// Whether each agent can be understood, also one that only some projects name: else they would
    /// be told of a mistake in their own entry.
    fn check_agents(&self) -> Result<()> {
        match self.values.get("agents") {
            None | Some(Value::Null) => Ok(()),
            Some(Value::Object(agents)) => {
                let mut each = agents.keys().map(|name| self.agent(name).map(drop));
                each.find(Result::is_err).unwrap_or(Ok(()))
            }
            Some(_) => Err(no_object("agents")),
        }
    }

    /// An agent by name; `claude` is built in, and settings may replace parts of it.
    fn agent(&self, name: &str) -> Result<AgentSpec> {
        let mut spec = AgentSpec::new(name, Protocol::Plain);
        let listed = self
            .values
            .get("agents")
            .and_then(|agents| agents.get(name));
        let Some(listed) = listed else {
            spec.protocol = agent::protocol_of(name);
            if spec.protocol == Protocol::Plain {
                return Err(Error::new(format!(
                    "setting \"agent\" is {name:?}, but \"agents\" of config.json has no agent of that name; add it there"
                )));
            }
            return Ok(spec);
        };
        let key = |part: &str| format!("agents.{name}.{part}");
        let object = listed
            .as_object()
            .ok_or_else(|| no_object(&format!("agents.{name}")))?;
        if let Some(unknown) = object
            .keys()
            .find(|key| !AGENT_KEYS.contains(&key.as_str()))
        {
            return Err(Error::new(format!(
                "setting {:?} is unknown; an agent has {}",
                key(unknown),
                AGENT_KEYS.join(", ")
            )));
        }
        let protocol = match object.get("protocol").map(|value| (value, value.as_str())) {
            None => None,
            Some((_, Some("plain"))) => Some(Protocol::Plain),
            Some((value, name)) => match agent::protocol_of(name.unwrap_or_default()) {
                Protocol::Plain => {
                    let expected = "\"claude\", \"codex\", \"gemini\" or \"plain\"";
                    return Err(wrong(&key("protocol"), value, expected));
                }
                protocol => Some(protocol),
            },
        };
        if let Some(value) = object.get("command") {
            spec.command = command_line(&key("command"), value)?;
        }
        spec.protocol = protocol.unwrap_or(agent::protocol_of(&spec.command[0]));
        if let Some(value) = object.get("args") {
            spec.args = strings(&key("args"), value)?;
        }
        if let Some(value) = object.get("prompt") {
            match value.as_str() {
                Some(prompt) if prompt.contains("{content}") => {
                    spec.prompt = Some(prompt.to_owned())
                }
                _ => {
                    return Err(wrong(
                        &key("prompt"),
                        value,
                        "a text that contains {content}",
                    ));
                }
            }
        }
        if let Some(value) = object.get("env") {
            let variables = value.as_object().ok_or_else(|| no_object(&key("env")))?;
            for (variable, value) in variables {
                let text = value
                    .as_str()
                    .filter(|text| !text.contains('\0') && is_variable(variable));
                let text = text.ok_or_else(|| {
                    // The value may be a secret: only its name is told.
                    Error::new(format!(
                        "setting {:?} must be a text",
                        key(&format!("env.{variable}"))
                    ))
                })?;
                spec.env.push((variable.clone(), text.to_owned()));
            }
        }
        Ok(spec)
    }
}

impl OnInterrupt {
    fn deserialize_from(value: &Value) -> Option<OnInterrupt> {
        serde_json::from_value(value.clone()).ok()
    }
}

/// Whether a key of a registry entry is a setting of ours; the entry's own keys are not.
pub fn is_project_setting(key: &str) -> bool {
    KEYS.contains(&key)
}

fn wrong(key: &str, value: &Value, wanted: &str) -> Error {
    Error::new(format!("setting {key:?} is {value}, but must be {wanted}"))
}

/// What stands in the object's place is not told: there may be secrets in it.
fn no_object(key: &str) -> Error {
    Error::new(format!("setting {key:?} must be an object"))
}

fn count(key: &str, value: &Value) -> Result<u64> {
    value
        .as_u64()
        .ok_or_else(|| wrong(key, value, "a whole number from 0"))
}

/// A number of bytes, or a text such as `512 KiB`, `1MiB`, `2 GiB`.
fn size(key: &str, value: &Value) -> Result<u64> {
    let parsed = match value {
        Value::String(text) => {
            let digits = text.bytes().take_while(u8::is_ascii_digit).count();
            let unit = match text[digits..].trim() {
                "" | "B" => Some(1),
                "KiB" | "K" => Some(1 << 10),
                "MiB" | "M" => Some(1 << 20),
                "GiB" | "G" => Some(1_u64 << 30),
                _ => None,
            };
            text[..digits]
                .parse::<u64>()
                .ok()
                .zip(unit)
                .and_then(|(number, unit)| number.checked_mul(unit))
        }
        _ => value.as_u64(),
    };
    parsed
        .filter(|&bytes| bytes > 0)
        .ok_or_else(|| wrong(key, value, "a size such as \"512 KiB\" or \"1 MiB\""))
}

fn strings(key: &str, value: &Value) -> Result<Vec<String>> {
    let list = value.as_array().and_then(|list| {
        list.iter()
            .map(|item| {
                item.as_str()
                    .filter(|s| !s.contains('\0'))
                    .map(str::to_owned)
            })
            .collect()
    });
    list.ok_or_else(|| wrong(key, value, "a list of texts"))
}

fn command_line(key: &str, value: &Value) -> Result<Vec<String>> {
    let list = strings(key, value)?;
    match list.first() {
        Some(program) if !program.is_empty() => Ok(list),
        _ => Err(wrong(key, value, "a list of texts, the program first")),
    }
}

/// Reads `.env`, as often as an agent is started. It must be the user's own and closed to
/// others, as ssh wants its keys; a missing file is empty. Errors never quote a value.
pub fn credentials(path: &Path) -> Result<Vec<(OsString, OsString)>> {
    let Some(file) = files::open_path(path)? else {
        return Ok(Vec::new());
    };
    let stat = fstat(&file).map_err(|e| Error::io("look at", path, e.into()))?;
    files::check_secret(&stat, path)?;
    let bytes = files::read_whole(&file, path, SETTINGS_MAX)?;
    parse_env(&bytes)
        .map_err(|(line, what)| Error::new(format!("{} line {line} {what}", path.display())))
}

/// `KEY=VALUE` lines, `#` comments, optional `export `, optional quotes. The error is the number
/// of the line and what is wrong with it.
pub fn parse_env(
    bytes: &[u8],
) -> std::result::Result<Vec<(OsString, OsString)>, (usize, &'static str)> {
    let text = std::str::from_utf8(bytes).map_err(|e| {
        (
            bytes[..e.valid_up_to()]
                .iter()
                .filter(|&&b| b == b'\n')
                .count()
                + 1,
            "is not UTF-8 text; save it as UTF-8",
        )
    })?;
    let mut variables = Vec::new();
    for (number, line) in text
        .lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line.trim()))
    {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let assignment = match line.strip_prefix("export") {
            Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
            _ => line,
        };
        let (key, value) = assignment
            .split_once('=')
            .ok_or((number, "has no '='; write KEY=VALUE"))?;
        let key = key.trim_end();
        if !is_variable(key) {
            return Err((
                number,
                "does not begin with a variable's name; write KEY=VALUE",
            ));
        }
        let value = value.trim_start();
        let value = match value.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let inner = &value[1..];
                let end = inner
                    .find(quote)
                    .ok_or((number, "has a quote that does not end; close it"))?;
                let after = inner[end + 1..].trim_start();
                if !(after.is_empty() || after.starts_with('#')) {
                    return Err((
                        number,
                        "has text after the closing quote; put the whole value between the quotes",
                    ));
                }
                &inner[..end]
            }
            // As in a shell, a comment needs a space in front of it.
            _ => value.find(" #").map_or(value, |at| &value[..at]).trim_end(),
        };
        if value.contains('\0') {
            return Err((number, "has a NUL byte in it; remove it"));
        }
        variables.push((OsString::from(key), OsString::from(value)));
    }
    Ok(variables)
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Variables by which an enclosing agent session or service manager would be mistaken for ours.
fn is_enclosing(name: &str) -> bool {
    matches!(
        name,
        "CLAUDECODE"
            | "CLAUDE_CODE_SESSION_ID"
            | "CLAUDE_CODE_ENTRYPOINT"
            | "CLAUDE_CODE_SSE_PORT"
            | "CLAUDE_CODE_SDK_READS_SESSION_STATE"
            | "CLAUDE_AGENT_SDK_VERSION"
            | "CLAUDE_PID"
            | "NOTIFY_SOCKET"
            | "WATCHDOG_USEC"
            | "WATCHDOG_PID"
            | "LISTEN_FDS"
            | "LISTEN_PID"
            | "LISTEN_FDNAMES"
    ) || name.starts_with("JOB_MONITOR_")
}

/// The environment that agents start from: ours less the marks of whatever encloses us.
pub fn base_environment() -> Vec<(OsString, OsString)> {
    env::vars_os()
        .filter(|(name, _)| name.to_str().is_none_or(|name| !is_enclosing(name)))
        .collect()
}

/// The policy of a project, with the layout that its entry names.
pub fn layout_of(own: &Map<String, Value>) -> Result<Layout> {
    match own.get("layout").filter(|value| !value.is_null()) {
        None => Ok(Layout::Jobs),
        Some(value) => serde_json::from_value(value.clone())
            .map_err(|_| wrong("layout", value, "\"jobs\" or \"tasks\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(config: &str, own: &str) -> Result<Policy> {
        let settings = Settings {
            values: serde_json::from_str(config).unwrap(),
        };
        settings.policy(&serde_json::from_str(own).unwrap())
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let policy = policy("{}", "{}").unwrap();
        assert_eq!(policy.agent.command, ["claude"]);
        assert_eq!(policy.agent.protocol, Protocol::Claude);
        assert_eq!(policy.timeout, Duration::from_secs(7200));
        assert_eq!(policy.silence_timeout, Some(Duration::from_secs(1800)));
        assert_eq!((policy.retries, policy.archive), (2, false));
        assert_eq!((policy.max_document, policy.max_output), (1 << 20, 1 << 30));
    }

    #[test]
    fn a_project_s_own_setting_wins() {
        let config = r#"{"timeout": "1h", "silence_timeout": "0", "agent": "x",
            "agents": {"x": {"command": ["prog", "-a"], "env": {"A": "b"}}}}"#;
        let policy = policy(config, r#"{"timeout": "5m", "max_document": "2 KiB"}"#).unwrap();
        assert_eq!(policy.timeout, Duration::from_secs(300));
        assert_eq!(policy.silence_timeout, None);
        assert_eq!(policy.agent.protocol, Protocol::Plain);
        assert_eq!(policy.agent.env, [("A".to_owned(), "b".to_owned())]);
        assert_eq!(policy.max_document, 2048);
    }

    #[test]
    fn a_wrong_setting_is_named_with_what_it_must_be() {
        for (config, wanted) in [
            (
                r#"{"timeout": 5}"#,
                "\"timeout\" is 5, but must be a duration",
            ),
            (r#"{"agent": "nobody"}"#, "is \"nobody\", but \"agents\""),
            (
                r#"{"on_interrupt": "panic"}"#,
                "\"resume\", \"rerun\" or \"fail\"",
            ),
            (
                r#"{"agents": {"claude": {"comand": []}}}"#,
                "agents.claude.comand",
            ),
            (
                r#"{"agents": {"claude": {"command": []}}}"#,
                "the program first",
            ),
            (r#"{"agents": {"claude": {"prompt": "x"}}}"#, "{content}"),
            (r#"{"max_output": "many"}"#, "a size"),
            (r#"{"max_budget_usd": 0}"#, "above 0"),
        ] {
            let error = policy(config, "{}").unwrap_err().to_string();
            assert!(error.contains(wanted), "{config}: {error}");
        }
        for secret in [
            r#"{"agents": {"claude": {"env": {"KEY": ["s3cret"]}}}}"#,
            r#"{"agents": {"claude": {"env": ["KEY=s3cret"]}}}"#,
            r#"{"agents": {"claude": [{"env": {"KEY": "s3cret"}}]}}"#,
        ] {
            let error = policy(secret, "{}").unwrap_err().to_string();
            assert!(error.contains("agents.claude"), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn credentials_are_read_as_a_shell_would() {
        let text = "# c\n\nA=1\nexport B = two words # c\nC='#x' # c\nD=\"a'b\"\r\nE=\n_f=a#b\n";
        let pairs: Vec<_> = parse_env(text.as_bytes())
            .unwrap()
            .into_iter()
            .map(|(key, value)| format!("{}={}", key.display(), value.display()))
            .collect();
        assert_eq!(
            pairs,
            ["A=1", "B=two words", "C=#x", "D=a'b", "E=", "_f=a#b"]
        );
    }

    #[test]
    fn broken_credentials_name_the_line_and_never_the_value() {
        for (text, line) in [
            ("A=1\nsecret", 2),
            ("1A=x", 1),
            ("A='x", 1),
            ("A=\"x\" y", 1),
            ("\n\n=x", 3),
            ("A=\0", 1),
        ] {
            assert_eq!(parse_env(text.as_bytes()).unwrap_err().0, line, "{text:?}");
        }
        assert_eq!(
            parse_env(b"A=1\nB=\xff").unwrap_err(),
            (2, "is not UTF-8 text; save it as UTF-8")
        );
    }
}
