//! The only reader of `config.json`, of `.env`, and of the variables that name places: where things
//! are, and what holds for whom.

use crate::agent;
use crate::error::{Error, Result};
use crate::files;
use crate::project::{
    AgentSpec, COMMAND, FLAG, Form, GLOBAL_KEYS, KEYS, Policy, Protocol, TEXT, TEXTS, typed,
};
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
        if let Some(root) = env::var_os("MONITOR_SYSTEM_ROOT").filter(|root| !root.is_empty()) {
            let root = Path::new(&root);
            let config = std::path::absolute(root).map_err(|e| Error::io("find", root, e))?;
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

/// The members of an object of JSON.
type Members = Map<String, Value>;

/// The settings as they stand in `config.json`, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// What the file says.
    pub values: Members,
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
    let values: Members = serde_json::from_slice(&bytes)
        .map_err(|e| Error::new(format!("{shown} is not a JSON object: {e}; mend it")))?;
    let unknown = values.keys().filter(|key| !is_setting(key));
    let warnings = unknown.map(|key| unknown_setting(&shown, key)).collect();
    let settings = Settings::new(values).map_err(|e| e.context(&shown))?;
    Ok((settings, warnings))
}

/// Reads a file of settings, following links; `None` if there is none.
pub fn read_config(path: &Path) -> Result<Option<Vec<u8>>> {
    files::read_own(path, SETTINGS_MAX, files::check_own)
}

impl Settings {
    /// Takes the object that `config.json` holds. What holds for everybody must make sense by itself, so
    /// that a mistake is told by its file.
    pub fn new(values: Members) -> Result<Settings> {
        let agents = Arc::new(read_agents(values.get("agents"))?);
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
    pub fn policy(&self, own: &Members) -> Result<Policy> {
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
        if let Some(budget) = policy.budget().filter(|_| !policy.agent.costs) {
            let what = "does not tell what it costs; leave it out, or choose another agent";
            let what = format!("cannot be kept, since the agent {name:?} {what}");
            return Err(wrong(budget, &what));
        }
        Ok(policy)
    }
}

/// Takes settings into a policy; the error names the key and what it must be.
fn take(policy: &mut Policy, values: &Members) -> Result<()> {
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

fn object<'a>(key: &str, value: &'a Value) -> Result<&'a Members> {
    let object = value.as_object();
    object.ok_or_else(|| wrong(key, "must be an object"))
}

/// Reads the agents of the settings, and adds those that are built in.
fn read_agents(listed: Option<&Value>) -> Result<Vec<AgentSpec>> {
    let mut entries = object("agents", listed.unwrap_or(&json!({})))?.clone();
    for dialect in &agent::DIALECTS {
        let entry = entries.entry(dialect.name);
        entry.or_insert_with(|| json!({}));
    }
    let agents = entries.iter().map(|(name, entry)| read_agent(name, entry));
    agents.collect()
}

const PROTOCOL: Form<Protocol> = Form("\"claude\", \"codex\", \"gemini\" or \"plain\"", typed);
const PROMPT: Form<String> = Form("a text that contains {content}", |value| {
    (TEXT.1)(value).filter(|text| text.contains("{content}"))
});
const ENV: Form<Variables> = Form("an object of variables, each a text without ~/", |value| {
    let pair = |(name, value): (&String, &Value)| assignment(name, value.as_str()?);
    value.as_object()?.iter().map(pair).collect()
});

/// A member of an object, if it is there; the error names it by its place and its key. It tells no value,
/// since that may be a secret.
pub fn member<T>(values: &Members, place: &str, key: &str, form: &Form<T>) -> Result<Option<T>> {
    let taken = values.get(key).map(|value| form.take(value)).transpose();
    taken.map_err(|form| wrong(&format!("{place}{key}"), &format!("must be {form}")))
}

/// Reads one agent. Without a protocol it has the one that its command's name tells; an entry that changes a
/// built-in agent, say by a launcher in front of it, keeps the protocol of that.
fn read_agent(name: &str, entry: &Value) -> Result<AgentSpec> {
    let place = &format!("agents.{name}.");
    let entry = object(&format!("agents.{name}"), entry)?;
    let is_known = |key: &str| AGENT_KEYS.split(", ").any(|known| known == key);
    if let Some(key) = entry.keys().find(|key| !is_known(key)) {
        let what = format!("is unknown; an agent has {AGENT_KEYS}");
        return Err(wrong(&format!("{place}{key}"), &what));
    }
    let command = member(entry, place, "command", &COMMAND)?;
    let command = command.unwrap_or_else(|| vec![name.to_owned()]);
    let protocol = member(entry, place, "protocol", &PROTOCOL)?;
    let protocol = protocol.unwrap_or_else(|| match agent::protocol_of(&command[0]) {
        Protocol::Plain => agent::protocol_of(name),
        own => own,
    });
    let require_answer = member(entry, place, "require_answer", &FLAG)?;
    Ok(AgentSpec {
        name: name.to_owned(),
        command,
        args: member(entry, place, "args", &TEXTS)?.unwrap_or_default(),
        protocol,
        prompt: member(entry, place, "prompt", &PROMPT)?,
        env: member(entry, place, "env", &ENV)?.unwrap_or_default(),
        answer: member(entry, place, "answer", &TEXT)?,
        require_answer: require_answer.unwrap_or_default(),
        costs: agent::dialect(protocol).costs,
    })
}

/// The variables of an environment.
pub type Variables = Vec<(OsString, OsString)>;

/// Reads `.env`, as often as an agent is started. It must be the user's own and closed to
/// others, as ssh wants its keys; a missing file is empty. Errors never quote a value.
pub fn credentials(path: &Path) -> Result<Variables> {
    let bytes = files::read_own(path, SETTINGS_MAX, files::check_secret)?;
    parse_env(&bytes.unwrap_or_default()).map_err(|line| {
        let place = format!("{} line {line}", path.display());
        let form = "write KEY=VALUE, close a quote at a value's end, and write a whole path for ~/";
        Error::new(format!("{place} sets no variable; {form}"))
    })
}

/// `KEY=VALUE` lines, `#` comments, optional `export `, optional quotes. The error is the number
/// of a line that is none of these.
pub fn parse_env(bytes: &[u8]) -> std::result::Result<Variables, usize> {
    let mut variables = Vec::new();
    for (at, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = std::str::from_utf8(line).map_err(|_| at + 1)?.trim();
        if !line.is_empty() && !line.starts_with('#') {
            variables.push(parse_line(line).ok_or(at + 1)?);
        }
    }
    Ok(variables)
}

fn parse_line(line: &str) -> Option<(OsString, OsString)> {
    let exported = line.strip_prefix("export");
    let exported = exported.filter(|rest| rest.starts_with([' ', '\t']));
    let (key, value) = exported.unwrap_or(line).split_once('=')?;
    let (key, value) = (key.trim(), value.trim_start());
    let value = match value.strip_prefix(['"', '\'']) {
        Some(rest) => {
            let (inner, after) = rest.split_once(&value[..1])?;
            let is_over = after.split('#').next()?.trim().is_empty();
            is_over.then_some(inner)?
        }
        // As in a shell, a comment needs a space in front of it.
        None => value.split(" #").next()?.trim_end(),
    };
    assignment(key, value)
}

/// A variable, if it can be one. To begin with `~` means a home to a shell only: a program would make a
/// directory of that name.
fn assignment(name: &str, value: &str) -> Option<(OsString, OsString)> {
    let is_of_home = value == "~" || value.starts_with("~/");
    let is_letter = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let is_name = name.bytes().all(is_letter) && !name.starts_with(|c: char| c.is_ascii_digit());
    let is_fine = is_name && !name.is_empty() && !value.contains('\0') && !is_of_home;
    is_fine.then(|| (name.into(), value.into()))
}

/// Variables of an enclosing agent session, of the service manager, and of the daemon itself, which an agent
/// would take for its own.
const ENCLOSING: &str = "CLAUDECODE CLAUDE_CODE_SESSION_ID CLAUDE_CODE_ENTRYPOINT CLAUDE_CODE_SSE_PORT \
    CLAUDE_CODE_SDK_READS_SESSION_STATE CLAUDE_AGENT_SDK_VERSION CLAUDE_PID \
    NOTIFY_SOCKET WATCHDOG_USEC WATCHDOG_PID LISTEN_FDS LISTEN_PID LISTEN_FDNAMES GLIBC_TUNABLES";

/// The environment that agents start from: ours without the variables of whatever encloses us.
pub fn base_environment() -> Variables {
    let is_enclosing = |name: &str| ENCLOSING.split(' ').any(|other| other == name);
    let is_ours = |name: &str| !is_enclosing(name) && !name.starts_with("JOB_MONITOR_");
    let variables = env::vars_os();
    let ours = variables.filter(|(name, _)| name.to_str().is_none_or(is_ours));
    ours.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document;
    use crate::project::Span;
    use std::time::Duration;

    fn policy(config: &str, own: &str) -> Result<Policy> {
        let settings = Settings::new(serde_json::from_str(config).unwrap())?;
        settings.policy(&serde_json::from_str(own).unwrap())
    }

    #[test]
    fn the_defaults_that_are_told_are_those_in_force() {
        let told = KEYS.iter().map(|(key, value)| format!("{key:?}: {value}"));
        let told: Vec<_> = told.collect();
        let told = Settings::new(serde_json::from_str(&format!("{{{}}}", told.join(","))).unwrap());
        let (told, silent) = (told.unwrap(), Settings::new(Map::new()).unwrap());
        let own = Map::new();
        assert_eq!(told.policy(&own).unwrap(), silent.policy(&own).unwrap());
        let mut policy = silent.policy(&own).unwrap();
        let agents = std::mem::take(&mut policy.agents);
        let built_in: Vec<_> = agents.iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(built_in, ["claude", "codex", "gemini"]);
        assert_eq!(policy, Policy::standard());
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
        assert_eq!(policy.check.unwrap(), ["make", "test"]);
        assert_eq!(policy.on_failure, crate::project::OnFailure::Hold);
        assert_eq!(policy.usage_ceiling.named, [("five_hour".to_owned(), 0.8)]);
        let (late, night) = (Span { from: 90, to: 1440 }, Span { from: 0, to: 60 });
        assert_eq!(policy.hours, [late, night]);
    }

    /// Values of every type, of which each setting takes those that its row says.
    #[test]
    fn a_value_of_the_wrong_type_or_out_of_range_is_a_mistake_wherever_it_stands() {
        const VALUES: &str = r#"null, true, "20", "5m", "0", "", "22:00-07:00", 0, 2, 0.5, -1, 5000000000, [], ["a"], [""], [1], ["a\u0000"], {}, {"five_hour": 0.5}, {"five_hours": 0.5}, {"seven_day": 2}"#;
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
            ("usage_ceiling", r#"null, 0.5, {"five_hour": 0.5}"#),
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
        const ROWS: &str = r#"
            "timeout": 5  →  "timeout" is 5, but must be a duration
            "daily_budget_usd": "20"  →  an amount above 0, without quotes
            "agent": "nobody"  →  is "nobody", but "agents"
            "on_interrupt": "panic"  →  "resume", "rerun" or "fail"
            "agents": {"claude": {"comand": []}}  →  agents.claude.comand
            "agents": {"claude": {"command": []}}  →  the program first
            "agents": {"claude": {"prompt": "x"}}  →  {content}
            "agents": {"claude": {"protocol": "grok"}}  →  "gemini" or "plain"
            "agents": {"x": {"require_answer": 1}}  →  true or false
            "max_output": "many"  →  a size
            "hours": "22:00-22:00"  →  22:00-07:00
            "hours": ["22:00-07:00", "7-8"]  →  a list of such
            "usage_ceiling": 80  →  at most 1
            "max_budget_usd": 1, "agent": "codex"  →  does not tell what it costs
            "daily_budget_usd": 1, "agent": "x", "agents": {"x": {}}  →  does not tell what it costs
        "#;
        for row in ROWS.trim().lines() {
            let (keys, wanted) = row.trim().split_once("  →  ").expect(row);
            let config = &format!("{{{keys}}}");
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
        use Protocol::{Claude, Codex, Gemini, Plain};
        let old = r#"{"command": ["claude"], "protocol": "plain"}"#;
        for (name, entry, wanted) in [
            ("opus", r#"{"command": ["claude"]}"#, Claude),
            ("opus", r#"{"command": ["/opt/claude", "-x"]}"#, Claude),
            ("fast", r#"{"command": ["codex"]}"#, Codex),
            ("gemini", "{}", Gemini),
            ("claude", r#"{"command": ["srun", "claude"]}"#, Claude),
            ("claude", r#"{"command": ["gemini"]}"#, Gemini),
            ("cluster", r#"{"command": ["srun", "claude"]}"#, Plain),
            ("opus", old, Plain),
        ] {
            let config = format!(r#"{{"agent": {name:?}, "agents": {{{name:?}: {entry}}}}}"#);
            let agent = policy(&config, "{}").unwrap().agent;
            assert_eq!(agent.protocol, wanted, "{config}");
            assert_eq!(agent.costs, wanted == Protocol::Claude);
        }
    }

    #[test]
    fn a_document_cannot_pass_a_budget_by_naming_an_agent_that_tells_no_costs() {
        let wishes = document::Wishes {
            agent: Some("codex".to_owned()),
            ..document::Wishes::default()
        };
        for (config, own, budget) in [
            (r#"{"daily_budget_usd": 5}"#, "{}", "daily_budget_usd"),
            ("{}", r#"{"daily_budget_usd": 5}"#, "daily_budget_usd"),
            ("{}", r#"{"max_budget_usd": 5}"#, "max_budget_usd"),
        ] {
            let error = wishes.tighten(&policy(config, own).unwrap()).unwrap_err();
            let why = format!(
                "\"codex\" does not tell what it costs, nor its turns, so that {budget} cannot be kept"
            );
            assert!(error.contains(&why), "{error}");
        }
    }

    #[test]
    fn credentials_are_read_as_a_shell_would() {
        let text = "# c\n\nA=1\nexport B = two words # c\nC='#x' # c\nD=\"a'b\"\r\nE=\n_f=a#b\n";
        let pairs = parse_env(text.as_bytes()).unwrap().into_iter();
        let pairs = pairs.map(|(key, value)| format!("{}={}", key.display(), value.display()));
        let wanted = ["A=1", "B=two words", "C=#x", "D=a'b", "E=", "_f=a#b"];
        assert_eq!(pairs.collect::<Vec<_>>(), wanted);
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
            assert_eq!(parse_env(text), Err(line));
        }
    }
}
