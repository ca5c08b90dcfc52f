//! The only reader of `config.json`, of `.env`, and of the variables that name places: where things
//! are, and what holds for whom.

use crate::agent;
use crate::error::{Error, Result};
use crate::files;
use crate::project::{
    AgentSpec, COMMAND, FLAG, Form, GLOBAL_KEYS, KEYS, Policy, Protocol, TEXT, TEXTS, word,
};
use nix::sys::stat::fstat;
use serde_json::{Map, Value, json};
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// No file of settings is larger, also of a thousand projects; a larger one is damage.
const SETTINGS_MAX: u64 = 16 << 20;

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
        if let Some(config) = root.map(PathBuf::from) {
            // If it were passed over, another configuration than the one asked for would be used.
            if !config.is_absolute() {
                return Err(Error::new(format!(
                    "MONITOR_SYSTEM_ROOT is {config:?}, which is not an absolute path; set it to one, or unset it"
                )));
            }
            let state = config.join("state");
            return Ok(Places { config, state });
        }
        let place = |xdg: &str, below_home: &str| {
            let base = absolute(xdg).or_else(|| Some(absolute("HOME")?.join(below_home)));
            let no_home = || Error::new("HOME is not set to an absolute path; set it");
            Ok(base.ok_or_else(no_home)?.join("job-monitor"))
        };
        let config = place("XDG_CONFIG_HOME", ".config")?;
        let state = place("XDG_STATE_HOME", ".local/state")?;
        Ok(Places { config, state })
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
    let path = env::var_os(name).map(PathBuf::from);
    path.filter(|path| path.is_absolute())
}

/// An environment variable as text, for the faces.
pub fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The settings as they stand in `config.json`, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What the file says.
    pub values: Map<String, Value>,
    /// Every agent, built in or listed.
    pub agents: Arc<Vec<AgentSpec>>,
    /// What holds for all projects together, and for each that says nothing else.
    pub common: Policy,
}

/// What is odd about settings, one sentence each; nothing of it stops anything.
pub type Warnings = Vec<String>;

/// Keys of an entry of `agents`.
pub const AGENT_KEYS: &str = "command, args, protocol, prompt, env, answer, require_answer";

/// Whether a key is a setting, wherever it may stand.
pub fn is_setting(key: &str) -> bool {
    KEYS.iter().any(|(name, _)| *name == key)
}

/// A warning for a key that is none of ours, which may be a limit that was mistyped.
pub fn unknown_setting(place: &str, key: &str) -> String {
    format!("{place}: unknown setting {key:?} is ignored")
}

/// Reads `config.json`; a missing file is an empty one.
pub fn load(path: &Path) -> Result<(Settings, Warnings)> {
    let shown = path.display().to_string();
    let bytes = read_config(path)?.unwrap_or_else(|| b"{}".to_vec());
    let values: Map<String, Value> = serde_json::from_slice(&bytes)
        .map_err(|e| Error::new(format!("{shown} is not a JSON object: {e}; mend it")))?;
    let unknown = values.keys().filter(|key| !is_setting(key));
    let warnings = unknown.map(|key| unknown_setting(&shown, key)).collect();
    let settings = Settings::new(values).map_err(|e| e.context(&shown))?;
    Ok((settings, warnings))
}

/// Reads a file of settings, following links; `None` if there is none. A link to nothing is no
/// missing file: what it led to may be on a disk that is not there.
pub fn read_config(path: &Path) -> Result<Option<Vec<u8>>> {
    let bytes = files::read_own(path, SETTINGS_MAX)?;
    if path.is_symlink() {
        let real = path.canonicalize().map_err(|_| {
            let shown = path.display();
            Error::new(format!("{shown} is a link to nothing; mend or remove it"))
        })?;
        // Whoever may write into the directory of the real file may replace it.
        files::read_own(&real, SETTINGS_MAX)?;
    }
    Ok(bytes.map(|bytes| without_mark(&bytes).to_owned()))
}

/// A text without the byte order mark that some editors put in front.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

impl Settings {
    /// Takes the object that `config.json` holds. What holds for everybody must make sense by itself, so
    /// that a mistake is told by its file.
    pub fn new(values: Map<String, Value>) -> Result<Settings> {
        let agents = Arc::new(agents(values.get("agents"))?);
        let mut common = Policy::standard();
        take(&mut common, &values)?;
        let mut settings = Settings {
            values,
            agents,
            common,
        };
        settings.common.agent = settings.policy(&Map::new())?.agent;
        Ok(settings)
    }

    /// What holds for a project whose registry entry has these keys of ours.
    pub fn policy(&self, own: &Map<String, Value>) -> Result<Policy> {
        if let Some(key) = GLOBAL_KEYS.iter().find(|key| own.contains_key(**key)) {
            return Err(wrong(key, "holds for all projects; move it to config.json"));
        }
        let mut policy = self.common.clone();
        // The daily budget of config.json is that of all projects together.
        policy.overall_budget_usd = policy.daily_budget_usd.take();
        take(&mut policy, own)?;
        let name = policy.agent.name.clone();
        let named = self.agents.iter().find(|spec| spec.name == name);
        policy.agent = named.cloned().ok_or_else(|| {
            let what = "but \"agents\" of config.json has no agent of that name; add it there";
            wrong("agent", &format!("is {name:?}, {what}"))
        })?;
        policy.agents = Arc::clone(&self.agents);
        let daily = policy.daily_budget_usd.or(policy.overall_budget_usd);
        let budget = match (policy.max_budget_usd, daily) {
            (Some(_), _) => "max_budget_usd",
            (_, Some(_)) => "daily_budget_usd",
            _ => return Ok(policy),
        };
        if !policy.agent.costs {
            let what = "does not tell what it costs; leave it out, or choose another agent";
            let what = format!("cannot be kept, since the agent {name:?} {what}");
            return Err(wrong(budget, &what));
        }
        let telling = self.agents.iter().filter(|spec| spec.costs);
        policy.agents = Arc::new(telling.cloned().collect());
        Ok(policy)
    }
}

/// Takes settings into a policy; the error names the key and what it must be.
fn take(policy: &mut Policy, values: &Map<String, Value>) -> Result<()> {
    for (key, value) in values {
        policy.set(key, value).map_err(|form| {
            let shown: String = value.to_string().chars().take(100).collect();
            wrong(key, &format!("is {shown}, but must be {form}"))
        })?;
    }
    Ok(())
}

/// The error for a setting.
pub fn wrong(key: &str, what: &str) -> Error {
    Error::new(format!("setting {key:?} {what}"))
}

fn object<'a>(key: &str, value: &'a Value) -> Result<&'a Map<String, Value>> {
    let object = value.as_object();
    object.ok_or_else(|| wrong(key, "must be an object"))
}

/// The agents of the settings, and those that are built in.
fn agents(listed: Option<&Value>) -> Result<Vec<AgentSpec>> {
    let mut entries = object("agents", listed.unwrap_or(&json!({})))?.clone();
    for dialect in &agent::DIALECTS {
        let entry = entries.entry(dialect.name);
        entry.or_insert_with(|| json!({}));
    }
    let agents = entries.iter().map(|(name, entry)| agent(name, entry));
    agents.collect()
}

const PROTOCOL: Form<Protocol> = Form("\"claude\", \"codex\", \"gemini\" or \"plain\"", word);
const PROMPT: Form<String> = Form("a text that contains {content}", |value| {
    (TEXT.1)(value).filter(|text| text.contains("{content}"))
});

/// One agent. Without a protocol it has that of its command's own name; an entry that changes one of
/// those built in, say by a launcher in front of it, keeps the protocol of that. No value is told, since
/// it may be a secret.
fn agent(name: &str, entry: &Value) -> Result<AgentSpec> {
    let place = format!("agents.{name}");
    let mut spec = AgentSpec::new(name, Protocol::Plain);
    let mut protocol = None;
    for (key, value) in object(&place, entry)? {
        let full = format!("{place}.{key}");
        let taken = match key.as_str() {
            "command" => COMMAND.take(value).map(|command| spec.command = command),
            "args" => TEXTS.take(value).map(|args| spec.args = args),
            "protocol" => PROTOCOL.take(value).map(|word| protocol = Some(word)),
            "prompt" => PROMPT.take(value).map(|text| spec.prompt = Some(text)),
            "answer" => TEXT.take(value).map(|path| spec.answer = Some(path)),
            "require_answer" => FLAG.take(value).map(|flag| spec.require_answer = flag),
            "env" => {
                spec.env = variables(&full, value)?;
                Ok(())
            }
            _ => {
                let what = format!("is unknown; an agent has {AGENT_KEYS}");
                return Err(wrong(&full, &what));
            }
        };
        taken.map_err(|form| wrong(&full, &format!("must be {form}")))?;
    }
    spec.protocol = protocol.unwrap_or_else(|| match agent::protocol_of(&spec.command[0]) {
        Protocol::Plain => agent::protocol_of(name),
        own => own,
    });
    if spec.answer.is_some() && spec.protocol != Protocol::Plain {
        let what = "must be left out, since this agent tells its answer itself";
        return Err(wrong(&format!("{place}.answer"), what));
    }
    spec.costs = agent::dialect(spec.protocol).costs;
    Ok(spec)
}

/// Environment variables.
fn variables(key: &str, value: &Value) -> Result<Variables> {
    let is_fine = |text: &&str| !text.contains('\0');
    let variable = |(name, value): (&String, &Value)| {
        let text = value.as_str().filter(is_fine).filter(|_| is_variable(name));
        match text {
            Some(text) if !is_of_home(text) => Ok((name.into(), text.into())),
            Some(_) => Err(wrong(&format!("{key}.{name}"), OF_HOME)),
            None => Err(wrong(&format!("{key}.{name}"), "must be a text")),
        }
    };
    object(key, value)?.iter().map(variable).collect()
}

/// Whether this is a path only to a shell: a program would look for a directory named `~`.
fn is_of_home(value: &str) -> bool {
    value == "~" || value.starts_with("~/")
}

const OF_HOME: &str = "begins with ~, which no shell is there to replace; write the whole path";

/// The variables of an environment.
pub type Variables = Vec<(OsString, OsString)>;

/// Reads `.env`, as often as an agent is started. It must be the user's own and closed to
/// others, as ssh wants its keys; a missing file is empty. Errors never quote a value.
pub fn credentials(path: &Path) -> Result<Variables> {
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
pub fn parse_env(bytes: &[u8]) -> std::result::Result<Variables, (usize, &'static str)> {
    let mut variables = Vec::new();
    for (at, line) in without_mark(bytes).split(|byte| *byte == b'\n').enumerate() {
        let line = std::str::from_utf8(line).map_err(|_| "is not UTF-8 text; save it as UTF-8");
        let variable = line.and_then(|line| parse_line(line.trim()));
        variables.extend(variable.map_err(|what| (at + 1, what))?);
    }
    Ok(variables)
}

fn parse_line(line: &str) -> std::result::Result<Option<(OsString, OsString)>, &'static str> {
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let exported = line
        .strip_prefix("export")
        .filter(|rest| rest.starts_with([' ', '\t']));
    let assignment = exported.unwrap_or(line).split_once('=');
    let (key, value) = assignment.ok_or("has no '='; write KEY=VALUE")?;
    let (key, value) = (key.trim(), value.trim_start());
    if !is_variable(key) {
        return Err("does not begin with a variable's name; write KEY=VALUE");
    }
    let value = match value.strip_prefix(['"', '\'']) {
        Some(rest) => {
            let quoted = rest.split_once(&value[..1]);
            let (inner, after) = quoted.ok_or("has a quote that does not end; close it")?;
            if !(after.trim().is_empty() || after.trim_start().starts_with('#')) {
                return Err(
                    "has text after the closing quote; put the whole value between the quotes",
                );
            }
            inner
        }
        // As in a shell, a comment needs a space in front of it.
        None => value.split(" #").next().unwrap_or_default().trim_end(),
    };
    match value {
        _ if value.contains('\0') => Err("has a NUL byte in it; remove it"),
        _ if is_of_home(value) => Err(OF_HOME),
        _ => Ok(Some((key.into(), value.into()))),
    }
}

fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Variables by which an enclosing agent session or service manager would be mistaken for ours.
const ENCLOSING: &str = "CLAUDECODE CLAUDE_CODE_SESSION_ID CLAUDE_CODE_ENTRYPOINT CLAUDE_CODE_SSE_PORT \
    CLAUDE_CODE_SDK_READS_SESSION_STATE CLAUDE_AGENT_SDK_VERSION CLAUDE_PID \
    NOTIFY_SOCKET WATCHDOG_USEC WATCHDOG_PID LISTEN_FDS LISTEN_PID LISTEN_FDNAMES";

/// The environment that agents start from: ours less the marks of whatever encloses us.
pub fn base_environment() -> Variables {
    let is_enclosing = |name: &str| ENCLOSING.split(' ').any(|other| other == name);
    let is_ours = |name: &str| !is_enclosing(name) && !name.starts_with("JOB_MONITOR_");
    env::vars_os()
        .filter(|(name, _)| name.to_str().is_none_or(is_ours))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::Span;
    use std::time::Duration;

    fn policy(config: &str, own: &str) -> Result<Policy> {
        let settings = Settings::new(serde_json::from_str(config).unwrap())?;
        settings.policy(&serde_json::from_str(own).unwrap())
    }

    #[test]
    fn the_defaults_that_are_told_are_those_in_force() {
        let told: Vec<_> = KEYS
            .iter()
            .map(|(key, value)| format!("{key:?}: {value}"))
            .collect();
        let told = Settings::new(serde_json::from_str(&format!("{{{}}}", told.join(","))).unwrap());
        let (told, silent) = (told.unwrap(), Settings::new(Map::new()).unwrap());
        let own = Map::new();
        assert_eq!(told.policy(&own).unwrap(), silent.policy(&own).unwrap());
        let policy = silent.policy(&own).unwrap();
        let built_in: Vec<_> = policy
            .agents
            .iter()
            .map(|spec| spec.name.as_str())
            .collect();
        assert_eq!(built_in, ["claude", "codex", "gemini"]);
        assert_eq!(
            Policy {
                agents: Arc::default(),
                ..policy
            },
            Policy::standard()
        );
    }

    #[test]
    fn a_project_s_own_setting_wins() {
        let config = r#"{"timeout": "1h", "silence_timeout": "0", "agent": "x", "gate": ["g"], "max_parallel": 2,
            "hours": "22:00-07:00", "agents": {"x": {"command": ["prog", "-a"], "env": {"A": "b"}}}}"#;
        let own = r#"{"timeout": "5m", "max_document": "2 KiB", "gate": null, "hours": ["1:30-24:00", "00:00-01:00"],
            "usage_ceiling": {"five_hour": 0.8}, "check": ["make", "test"], "on_failure": "hold", "git": false}"#;
        let policy = policy(config, own).unwrap();
        assert_eq!(policy.timeout, Duration::from_secs(300));
        assert_eq!((policy.silence_timeout, policy.gate), (None, None));
        assert_eq!(policy.agent.protocol, Protocol::Plain);
        assert_eq!(policy.agent.env, [("A".into(), "b".into())]);
        assert_eq!((policy.max_document, policy.git), (2048, false));
        assert_eq!(
            policy.check,
            Some(vec!["make".to_owned(), "test".to_owned()])
        );
        assert_eq!(policy.on_failure, crate::project::OnFailure::Hold);
        assert_eq!(policy.usage_ceiling.named, [("five_hour".to_owned(), 0.8)]);
        let (late, night) = (Span { from: 90, to: 1440 }, Span { from: 0, to: 60 });
        assert_eq!(policy.hours, [late, night]);
    }

    /// Values of every type, of which each setting takes those that its row says.
    #[test]
    fn a_value_of_the_wrong_type_or_out_of_range_is_a_mistake_wherever_it_stands() {
        const VALUES: &str = r#"null, true, "20", "5m", "0", "", "22:00-07:00", 0, 2, 0.5, -1, 5000000000, [], ["a"], [""], [1], ["a\u0000"], {}, {"a": 0.5}, {"a": 2}"#;
        let values: Vec<Value> = serde_json::from_str(&format!("[{VALUES}]")).unwrap();
        let rows = [
            ("timeout check_timeout", r#""5m""#),
            ("silence_timeout grace linger settle", r#""5m", "0""#),
            ("retries check_rounds breaker", "0, 2"),
            ("max_parallel", "null, 2"),
            (
                "max_budget_usd daily_budget_usd",
                "null, 2, 0.5, 5000000000",
            ),
            ("archive git", "true"),
            ("on_interrupt on_failure agent", ""),
            ("gate check on_finish on_hold", r#"null, ["a"]"#),
            ("hours", r#"null, "22:00-07:00""#),
            ("usage_ceiling", r#"null, 0.5, {"a": 0.5}"#),
            ("max_document max_output", r#""20", 2, 5000000000"#),
            ("agents", "{}"),
        ];
        let mut seen = 0;
        for (keys, taken) in rows {
            let taken: Vec<Value> = serde_json::from_str(&format!("[{taken}]")).unwrap();
            for key in keys.split(' ') {
                seen += 1;
                assert!(is_setting(key));
                let is_own = !GLOBAL_KEYS.contains(&key);
                for value in &values {
                    let object = format!("{{{key:?}: {value}}}");
                    let tries = [policy(&object, "{}"), policy("{}", &object)];
                    for (tried, place) in tries.into_iter().zip(["config.json", "an entry"]) {
                        let is_fine = taken.contains(value) && (is_own || place == "config.json");
                        match tried {
                            Ok(_) => assert!(is_fine, "{object} is taken in {place}"),
                            Err(e) => {
                                assert!(!is_fine, "{place}: {e}");
                                assert!(e.to_string().contains(&format!("setting \"{key}")), "{e}");
                            }
                        }
                    }
                }
            }
        }
        assert_eq!(seen, KEYS.len());
    }

    #[test]
    fn a_wrong_setting_is_named_with_what_it_must_be() {
        for (config, wanted) in [
            (
                r#"{"timeout": 5}"#,
                "\"timeout\" is 5, but must be a duration",
            ),
            (
                r#"{"daily_budget_usd": "20"}"#,
                "an amount above 0, without quotes",
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
            (
                r#"{"agents": {"claude": {"protocol": "grok"}}}"#,
                "\"gemini\" or \"plain\"",
            ),
            (
                r#"{"agents": {"x": {"require_answer": 1}}}"#,
                "true or false",
            ),
            (
                r#"{"agents": {"claude": {"answer": "a"}}}"#,
                "tells its answer itself",
            ),
            (
                r#"{"agents": {"x": {"env": {"CODEX_HOME": "~/c"}}}}"#,
                "agents.x.env.CODEX_HOME\" begins with ~",
            ),
            (r#"{"max_output": "many"}"#, "a size"),
            (r#"{"hours": "22:00-22:00"}"#, "22:00-07:00"),
            (r#"{"hours": ["22:00-07:00", "7-8"]}"#, "a list of such"),
            (r#"{"usage_ceiling": 80}"#, "at most 1"),
            (
                r#"{"max_budget_usd": 1, "agent": "codex"}"#,
                "does not tell what it costs",
            ),
            (
                r#"{"daily_budget_usd": 1, "agent": "x", "agents": {"x": {}}}"#,
                "does not tell what it costs",
            ),
        ] {
            let error = policy(config, "{}").unwrap_err().to_string();
            assert!(error.contains(wanted), "{config}: {error}");
        }
        for secret in [
            r#"{"agents": {"claude": {"env": {"KEY": ["s3cret"]}}}}"#,
            r#"{"agents": {"claude": {"env": {"KEY": "~/s3cret"}}}}"#,
            r#"{"agents": {"claude": {"env": ["KEY=s3cret"]}}}"#,
            r#"{"agents": {"claude": [{"env": {"KEY": "s3cret"}}]}}"#,
        ] {
            let error = policy(secret, "{}").unwrap_err().to_string();
            assert!(error.contains("agents.claude"), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn an_agent_without_a_protocol_has_that_of_its_own_command() {
        for (name, entry, wanted) in [
            ("opus", r#"{"command": ["claude"]}"#, Protocol::Claude),
            (
                "opus",
                r#"{"command": ["/opt/bin/claude", "-x"]}"#,
                Protocol::Claude,
            ),
            ("fast", r#"{"command": ["codex"]}"#, Protocol::Codex),
            ("gemini", "{}", Protocol::Gemini),
            (
                "claude",
                r#"{"command": ["srun", "claude"]}"#,
                Protocol::Claude,
            ),
            ("claude", r#"{"command": ["gemini"]}"#, Protocol::Gemini),
            (
                "cluster",
                r#"{"command": ["srun", "claude"]}"#,
                Protocol::Plain,
            ),
            (
                "opus",
                r#"{"command": ["claude"], "protocol": "plain"}"#,
                Protocol::Plain,
            ),
        ] {
            let config = format!(r#"{{"agent": {name:?}, "agents": {{{name:?}: {entry}}}}}"#);
            let agent = policy(&config, "{}").unwrap().agent;
            assert_eq!(agent.protocol, wanted, "{config}");
            assert_eq!(agent.costs, wanted == Protocol::Claude);
        }
        let policy = policy(r#"{"daily_budget_usd": 5, "agents": {"x": {}}}"#, "{}").unwrap();
        assert!(policy.agents.iter().all(|spec| spec.name == "claude"));
    }

    #[test]
    fn credentials_are_read_as_a_shell_would() {
        let text =
            "\u{feff}# c\n\nA=1\nexport B = two words # c\nC='#x' # c\nD=\"a'b\"\r\nE=\n_f=a#b\n";
        let pairs: Vec<_> = parse_env(text.as_bytes())
            .unwrap()
            .into_iter()
            .map(|(key, value)| format!("{}={}", key.display(), value.display()))
            .collect();
        assert_eq!(
            pairs,
            ["A=1", "B=two words", "C=#x", "D=a'b", "E=", "_f=a#b"]
        );
        assert_eq!(parse_env("\u{feff}A=1".as_bytes()).unwrap().len(), 1);
    }

    #[test]
    fn broken_credentials_name_the_line_and_never_the_value() {
        for (text, line) in [
            (&b"A=1\nsecret"[..], 2),
            (b"1A=x", 1),
            (b"A='x", 1),
            (b"A=\"x\" y", 1),
            (b"\n\n=x", 3),
            (b"A=\0", 1),
            (b"A=1\nB=\xff", 2),
            (b"A=1\n\nCLAUDE_CONFIG_DIR=~/.claude-work", 3),
            (b"HOME='~'", 1),
        ] {
            let (at, what) = parse_env(text).unwrap_err();
            assert_eq!(at, line, "{what}");
        }
    }
}
