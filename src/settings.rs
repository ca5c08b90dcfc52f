//! The only reader of the process's environment, of `config.json` and of `.env`: where things
//! are, and what holds for whom.

use crate::agent;
use crate::error::{Error, Result};
use crate::files;
use crate::project::{AgentSpec, Ceiling, Layout, Policy, Protocol, Span};
use crate::text;
use crate::time::parse_duration;
use nix::sys::stat::fstat;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

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
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    values: Map<String, Value>,
    agents: Arc<Vec<AgentSpec>>,
    max_parallel: Option<usize>,
    daily_budget_usd: Option<f64>,
    breaker: usize,
}

/// What is odd about settings, one sentence each; nothing of it stops anything.
pub type Warnings = Vec<String>;

/// Settings that may stand in `config.json` only, with their defaults as one would write them.
pub const GLOBAL_KEYS: &[(&str, &str)] =
    &[("agents", "{}"), ("max_parallel", "null"), ("breaker", "3")];

/// Settings that may stand in `config.json` and, for one project, in its entry of the registry.
pub const KEYS: &[(&str, &str)] = &[
    ("agent", "\"claude\""),
    ("timeout", "\"2h\""),
    ("silence_timeout", "\"15m\""),
    ("grace", "\"10s\""),
    ("linger", "\"30s\""),
    ("settle", "\"200ms\""),
    ("retries", "2"),
    ("on_interrupt", "\"resume\""),
    ("max_budget_usd", "null"),
    ("daily_budget_usd", "null"),
    ("gate", "null"),
    ("check", "null"),
    ("check_timeout", "\"15m\""),
    ("check_rounds", "2"),
    ("on_failure", "\"continue\""),
    ("hours", "null"),
    ("usage_ceiling", "null"),
    ("git", "true"),
    ("max_document", "\"1 MiB\""),
    ("max_output", "\"1 GiB\""),
    ("archive", "false"),
    ("on_finish", "null"),
    ("on_hold", "null"),
];

/// Keys of an entry of `agents`.
pub const AGENT_KEYS: &[&str] = &[
    "command",
    "args",
    "protocol",
    "prompt",
    "env",
    "answer",
    "require_answer",
];

/// Whether a key is a setting, wherever it may stand.
pub fn is_setting(key: &str) -> bool {
    KEYS.iter().chain(GLOBAL_KEYS).any(|(name, _)| *name == key)
}

/// A warning for a key that is none of `known`, which may be a limit that was mistyped.
pub fn unknown_setting(place: &str, key: &str) -> String {
    let names = KEYS.iter().chain(GLOBAL_KEYS).map(|(name, _)| *name);
    match text::nearest(key, names) {
        Some(near) => {
            format!("{place}: unknown setting {key:?} is ignored; did you mean {near:?}?")
        }
        None => format!("{place}: unknown setting {key:?} is ignored"),
    }
}

/// Reads `config.json`; a missing file is an empty one. What holds for everybody must make sense
/// by itself, so that a mistake is told by its file.
pub fn load(path: &Path) -> Result<(Settings, Warnings)> {
    let shown = path.display();
    let values = match read_config(path)? {
        None => Map::new(),
        Some(bytes) => serde_json::from_slice(&bytes)
            .map_err(|e| Error::new(format!("{shown} is not a JSON object: {e}; mend it")))?,
    };
    let unknown = values.keys().filter(|key| !is_setting(key));
    let warnings = unknown
        .map(|key| unknown_setting(&shown.to_string(), key))
        .collect();
    let settings = Settings::new(values).and_then(|settings| {
        settings.policy(&Map::new())?;
        Ok(settings)
    });
    Ok((
        settings.map_err(|e| e.context(&shown.to_string()))?,
        warnings,
    ))
}

/// Reads a file of settings, following links; `None` if there is none. A link to nothing is no
/// missing file: what it led to may be on a disk that is not there.
pub fn read_config(path: &Path) -> Result<Option<Vec<u8>>> {
    let bytes = files::read_own(path, SETTINGS_MAX)?;
    if path.is_symlink() {
        let Ok(real) = path.canonicalize() else {
            let shown = path.display();
            return Err(Error::new(format!(
                "{shown} is a link to nothing; mend or remove it"
            )));
        };
        // Who may write into its own directory may replace it, too.
        files::read_own(&real, SETTINGS_MAX)?;
    }
    Ok(bytes.map(|bytes| without_mark(&bytes).to_owned()))
}

/// A text without the byte order mark that some editors put in front.
fn without_mark(bytes: &[u8]) -> &[u8] {
    bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)
}

impl Default for Settings {
    fn default() -> Settings {
        Settings::new(Map::new()).expect("the defaults are sound")
    }
}

impl Settings {
    /// Takes the object that `config.json` holds.
    pub fn new(values: Map<String, Value>) -> Result<Settings> {
        let find = |key| find(&values, key);
        let (mut max_parallel, mut daily_budget_usd, mut breaker) = (None, None, 3);
        set(&mut max_parallel, find("max_parallel"), |setting| {
            setting.or_none(|setting| match setting.count()? {
                0 => Err(setting.wrong("a whole number from 1")),
                most => Ok(most as usize),
            })
        })?;
        set(&mut daily_budget_usd, find("daily_budget_usd"), |setting| {
            setting.or_none(Setting::money)
        })?;
        set(&mut breaker, find("breaker"), |setting| {
            Ok(setting.count()? as usize)
        })?;
        let agents = Arc::new(agents(values.get("agents"))?);
        Ok(Settings {
            values,
            agents,
            max_parallel,
            daily_budget_usd,
            breaker,
        })
    }

    /// The most agents at once over all projects.
    pub fn max_parallel(&self) -> Option<usize> {
        self.max_parallel
    }

    /// The daily budget that holds over all projects.
    pub fn daily_budget_usd(&self) -> Option<f64> {
        self.daily_budget_usd
    }

    /// After how many jobs in a row that fail alike their agent is held; 0 = never.
    pub fn breaker(&self) -> usize {
        self.breaker
    }

    /// Every agent, built in or listed.
    pub fn agents(&self) -> impl Iterator<Item = &AgentSpec> {
        self.agents.iter()
    }

    /// What the file says of a setting.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// What holds for a project whose registry entry has these keys of ours.
    pub fn policy(&self, own: &Map<String, Value>) -> Result<Policy> {
        if let Some((key, _)) = GLOBAL_KEYS.iter().find(|(key, _)| own.contains_key(*key)) {
            return Err(Error::new(format!(
                "setting {key:?} holds for all projects; move it to config.json"
            )));
        }
        let mut policy = Policy::default();
        self.set_clocks(own, &mut policy)?;
        self.set_rules(own, &mut policy)?;
        let mut agent = policy.agent.name.clone();
        set(&mut agent, self.find(own, "agent"), Setting::text)?;
        let named = self.agents.iter().find(|spec| spec.name == agent);
        policy.agent = named.cloned().ok_or_else(|| {
            Error::new(format!(
                "setting \"agent\" is {agent:?}, but \"agents\" of config.json has no agent of that name; add it there"
            ))
        })?;
        policy.agents = Arc::clone(&self.agents);
        let daily = policy.daily_budget_usd.or(self.daily_budget_usd);
        let budget = match (policy.max_budget_usd, daily) {
            (Some(_), _) => "max_budget_usd",
            (_, Some(_)) => "daily_budget_usd",
            _ => return Ok(policy),
        };
        if !policy.agent.costs {
            return Err(Error::new(format!(
                "setting {budget:?} cannot be kept, since the agent {agent:?} does not tell what it costs; leave it out, or choose another agent"
            )));
        }
        let telling = self.agents.iter().filter(|spec| spec.costs);
        policy.agents = Arc::new(telling.cloned().collect());
        Ok(policy)
    }

    fn find<'a>(&'a self, own: &'a Map<String, Value>, key: &str) -> Option<Setting<'a>> {
        find(own, key).or_else(|| find(&self.values, key))
    }

    fn set_clocks(&self, own: &Map<String, Value>, policy: &mut Policy) -> Result<()> {
        let find = |key| self.find(own, key);
        set(&mut policy.timeout, find("timeout"), Setting::limit)?;
        let silence = find("silence_timeout");
        set(&mut policy.silence_timeout, silence, |setting| {
            Ok(Some(setting.span()?).filter(|span| !span.is_zero()))
        })?;
        set(&mut policy.grace, find("grace"), Setting::span)?;
        set(&mut policy.linger, find("linger"), Setting::span)?;
        set(&mut policy.settle, find("settle"), Setting::span)?;
        set(
            &mut policy.check_timeout,
            find("check_timeout"),
            Setting::limit,
        )?;
        set(&mut policy.hours, find("hours"), Setting::hours)
    }

    fn set_rules(&self, own: &Map<String, Value>, policy: &mut Policy) -> Result<()> {
        let find = |key| self.find(own, key);
        let command = |setting: &Setting<'_>| setting.or_none(Setting::command);
        let money = |setting: &Setting<'_>| setting.or_none(Setting::money);
        set(&mut policy.retries, find("retries"), Setting::count)?;
        set(
            &mut policy.check_rounds,
            find("check_rounds"),
            Setting::count,
        )?;
        set(&mut policy.on_interrupt, find("on_interrupt"), |setting| {
            setting.word("\"resume\", \"rerun\" or \"fail\"")
        })?;
        set(&mut policy.on_failure, find("on_failure"), |setting| {
            setting.word("\"continue\" or \"hold\"")
        })?;
        set(&mut policy.max_budget_usd, find("max_budget_usd"), money)?;
        // That of config.json is the budget of all projects together.
        let daily = self::find(own, "daily_budget_usd");
        set(&mut policy.daily_budget_usd, daily, money)?;
        set(
            &mut policy.usage_ceiling,
            find("usage_ceiling"),
            Setting::ceiling,
        )?;
        set(
            &mut policy.max_document,
            find("max_document"),
            Setting::size,
        )?;
        set(&mut policy.max_output, find("max_output"), Setting::size)?;
        set(&mut policy.archive, find("archive"), Setting::flag)?;
        set(&mut policy.git, find("git"), Setting::flag)?;
        set(&mut policy.gate, find("gate"), command)?;
        set(&mut policy.check, find("check"), command)?;
        set(&mut policy.on_finish, find("on_finish"), command)?;
        set(&mut policy.on_hold, find("on_hold"), command)
    }
}

/// The agents of the settings, and those that are built in.
fn agents(listed: Option<&Value>) -> Result<Vec<AgentSpec>> {
    let mut all = Vec::new();
    if let Some(listed) = listed {
        let entries = listed.as_object().ok_or_else(|| no_object("agents"))?;
        for (name, entry) in entries {
            all.push(agent(name, entry)?);
        }
    }
    for dialect in agent::DIALECTS
        .iter()
        .filter(|dialect| dialect.read.is_some())
    {
        if all.iter().all(|spec| spec.name != dialect.name) {
            all.push(agent(dialect.name, &Value::Object(Map::new()))?);
        }
    }
    Ok(all)
}

/// One agent. Without a protocol it has that of its command's own name; an entry that changes one of
/// those built in, say by a launcher in front of it, keeps the protocol of that.
fn agent(name: &str, entry: &Value) -> Result<AgentSpec> {
    let place = format!("agents.{name}");
    let entry = entry.as_object().ok_or_else(|| no_object(&place))?;
    if let Some(key) = entry.keys().find(|key| !AGENT_KEYS.contains(&key.as_str())) {
        return Err(Error::new(format!(
            "setting {:?} is unknown; an agent has {}",
            format!("{place}.{key}"),
            AGENT_KEYS.join(", ")
        )));
    }
    let find = |key: &str| {
        let value = entry.get(key)?;
        let key = format!("{place}.{key}").into();
        Some(Setting { key, value })
    };
    let mut spec = AgentSpec::new(name, Protocol::Plain);
    set(&mut spec.command, find("command"), Setting::command)?;
    spec.protocol = match agent::protocol_of(&spec.command[0]) {
        Protocol::Plain => agent::protocol_of(name),
        own => own,
    };
    set(&mut spec.protocol, find("protocol"), |setting| {
        setting.word("\"claude\", \"codex\", \"gemini\" or \"plain\"")
    })?;
    set(&mut spec.args, find("args"), Setting::texts)?;
    set(&mut spec.prompt, find("prompt"), |setting| {
        let template = setting
            .text()
            .ok()
            .filter(|text| text.contains("{content}"));
        setting
            .read(template, "a text that contains {content}")
            .map(Some)
    })?;
    set(&mut spec.answer, find("answer"), |setting| {
        match spec.protocol {
            Protocol::Plain => setting.text().map(Some),
            _ => Err(setting.wrong("left out, since this agent tells its answer itself")),
        }
    })?;
    set(
        &mut spec.require_answer,
        find("require_answer"),
        Setting::flag,
    )?;
    set(&mut spec.env, find("env"), Setting::variables)?;
    spec.costs = agent::dialect(spec.protocol).costs;
    Ok(spec)
}

/// One setting where it stands.
struct Setting<'a> {
    key: Cow<'a, str>,
    value: &'a Value,
}

fn find<'a>(values: &'a Map<String, Value>, key: &str) -> Option<Setting<'a>> {
    let (key, value) = values.get_key_value(key)?;
    let key = Cow::Borrowed(key.as_str());
    Some(Setting { key, value })
}

/// Takes a setting into its place, if it stands anywhere.
fn set<'a, T>(
    place: &mut T,
    found: Option<Setting<'a>>,
    read: impl Fn(&Setting<'a>) -> Result<T>,
) -> Result<()> {
    if let Some(setting) = found {
        *place = read(&setting)?;
    }
    Ok(())
}

/// What a value can be read as; the error names the key and what it must be.
impl Setting<'_> {
    fn wrong(&self, wanted: &str) -> Error {
        let value: String = self.value.to_string().chars().take(100).collect();
        Error::new(format!(
            "setting {:?} is {value}, but must be {wanted}",
            self.key
        ))
    }

    fn read<T>(&self, read: Option<T>, wanted: &str) -> Result<T> {
        read.ok_or_else(|| self.wrong(wanted))
    }

    /// `null` switches off what is off by default.
    fn or_none<T>(&self, read: impl Fn(&Self) -> Result<T>) -> Result<Option<T>> {
        if self.value.is_null() {
            return Ok(None);
        }
        read(self).map(Some)
    }

    fn span(&self) -> Result<Duration> {
        let span = self.value.as_str().and_then(parse_duration);
        self.read(span, "a duration such as \"90s\", \"30m\" or \"1h30m\"")
    }

    fn limit(&self) -> Result<Duration> {
        let span = Some(self.span()?).filter(|span| !span.is_zero());
        self.read(span, "a duration above 0")
    }

    fn count(&self) -> Result<u32> {
        let count = self.value.as_u64().and_then(|n| u32::try_from(n).ok());
        self.read(count, "a whole number from 0")
    }

    fn money(&self) -> Result<f64> {
        let amount = self.value.as_f64().filter(|amount| *amount > 0.0);
        self.read(amount, "an amount above 0, without quotes")
    }

    fn flag(&self) -> Result<bool> {
        self.read(self.value.as_bool(), "true or false")
    }

    fn text(&self) -> Result<String> {
        let fine = |text: &&str| !text.is_empty() && !text.contains('\0');
        let text = self.value.as_str().filter(fine);
        self.read(text.map(str::to_owned), "a text")
    }

    fn word<T: DeserializeOwned>(&self, wanted: &str) -> Result<T> {
        self.read(serde_json::from_value(self.value.clone()).ok(), wanted)
    }

    /// A number of bytes, or a text such as `512 KiB`, `1MiB`, `2 GiB`.
    fn size(&self) -> Result<u64> {
        let of_text = |text: &str| {
            let digits = text.bytes().take_while(u8::is_ascii_digit).count();
            let unit = match text[digits..].trim() {
                "" | "B" => 1,
                "KiB" | "K" => 1 << 10,
                "MiB" | "M" => 1 << 20,
                "GiB" | "G" => 1_u64 << 30,
                _ => return None,
            };
            text[..digits].parse::<u64>().ok()?.checked_mul(unit)
        };
        let bytes = match self.value {
            Value::String(text) => of_text(text),
            value => value.as_u64(),
        };
        let bytes = bytes.filter(|&bytes| bytes > 0);
        self.read(bytes, "a size such as \"512 KiB\" or \"1 MiB\"")
    }

    fn texts(&self) -> Result<Vec<String>> {
        let fine = |item: &Value| {
            let text = item.as_str().filter(|text| !text.contains('\0'))?;
            Some(text.to_owned())
        };
        let list = self.value.as_array();
        let list = list.and_then(|list| list.iter().map(fine).collect());
        self.read(list, "a list of texts")
    }

    fn command(&self) -> Result<Vec<String>> {
        let list = self.texts().ok();
        let list = list.filter(|list| list.first().is_some_and(|program| !program.is_empty()));
        self.read(list, "a list of texts, the program first")
    }

    fn hours(&self) -> Result<Vec<Span>> {
        let spans: Option<Vec<Span>> = match self.value {
            Value::Null => Some(Vec::new()),
            Value::Array(list) if !list.is_empty() => {
                let span = |item: &Value| Span::parse(item.as_str()?);
                list.iter().map(span).collect()
            }
            value => value.as_str().and_then(Span::parse).map(|span| vec![span]),
        };
        self.read(spans, "a span such as \"22:00-07:00\", or a list of such")
    }

    fn ceiling(&self) -> Result<Ceiling> {
        let share = |value: &Value| value.as_f64().filter(|&share| share > 0.0 && share <= 1.0);
        let ceiling = match self.value {
            Value::Null => Some(Ceiling::default()),
            Value::Object(windows) if !windows.is_empty() => {
                let named = windows
                    .iter()
                    .map(|(name, value)| Some((name.clone(), share(value)?)));
                let named = named.collect::<Option<Vec<_>>>();
                named.map(|named| Ceiling { every: None, named })
            }
            value => share(value).map(|share| Ceiling {
                every: Some(share),
                named: Vec::new(),
            }),
        };
        self.read(
            ceiling,
            "a share above 0 and at most 1, or an object such as {\"five_hour\": 0.8}",
        )
    }

    /// Environment variables. A value may be a secret: only its name is told.
    fn variables(&self) -> Result<Vec<(String, String)>> {
        let object = self.value.as_object().ok_or_else(|| no_object(&self.key))?;
        let variable = |(name, value): (&String, &Value)| {
            let wrong = |what: &str| {
                Error::new(format!(
                    "setting {:?} {what}",
                    format!("{}.{name}", self.key)
                ))
            };
            let text = value
                .as_str()
                .filter(|text| !text.contains('\0') && is_variable(name));
            let text = text.ok_or_else(|| wrong("must be a text"))?;
            match is_of_home(text) {
                true => Err(wrong(OF_HOME)),
                false => Ok((name.clone(), text.to_owned())),
            }
        };
        object.iter().map(variable).collect()
    }
}

/// What stands in the object's place is not told: there may be secrets in it.
fn no_object(key: &str) -> Error {
    Error::new(format!("setting {key:?} must be an object"))
}

/// The layout that a registry entry names.
pub fn layout_of(own: &Map<String, Value>) -> Result<Layout> {
    let mut layout = Layout::Jobs;
    set(&mut layout, find(own, "layout"), |setting| {
        setting.word("\"jobs\" or \"tasks\"")
    })?;
    Ok(layout)
}

/// Whether only a shell would make a path of it: to a program it names a directory `~`.
fn is_of_home(value: &str) -> bool {
    value == "~" || value.starts_with("~/")
}

const OF_HOME: &str = "begins with ~, which no shell is there to replace; write the whole path";

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

/// The variables of an environment.
pub type Variables = Vec<(OsString, OsString)>;

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
    let assignment = match line.strip_prefix("export") {
        Some(rest) if rest.starts_with([' ', '\t']) => rest.trim_start(),
        _ => line,
    };
    let (key, value) = assignment
        .split_once('=')
        .ok_or("has no '='; write KEY=VALUE")?;
    let (key, value) = (key.trim_end(), value.trim_start());
    if !is_variable(key) {
        return Err("does not begin with a variable's name; write KEY=VALUE");
    }
    let value = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => {
            let (inner, after) = value[1..]
                .split_once(quote)
                .ok_or("has a quote that does not end; close it")?;
            let after = after.trim_start();
            if !(after.is_empty() || after.starts_with('#')) {
                return Err(
                    "has text after the closing quote; put the whole value between the quotes",
                );
            }
            inner
        }
        // As in a shell, a comment needs a space in front of it.
        _ => value.find(" #").map_or(value, |at| &value[..at]).trim_end(),
    };
    if value.contains('\0') {
        return Err("has a NUL byte in it; remove it");
    }
    if is_of_home(value) {
        return Err(OF_HOME);
    }
    Ok(Some((OsString::from(key), OsString::from(value))))
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Variables by which an enclosing agent session or service manager would be mistaken for ours.
const ENCLOSING: &[&str] = &[
    "CLAUDECODE",
    "CLAUDE_CODE_SESSION_ID",
    "CLAUDE_CODE_ENTRYPOINT",
    "CLAUDE_CODE_SSE_PORT",
    "CLAUDE_CODE_SDK_READS_SESSION_STATE",
    "CLAUDE_AGENT_SDK_VERSION",
    "CLAUDE_PID",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// The environment that agents start from: ours less the marks of whatever encloses us.
pub fn base_environment() -> Variables {
    let is_ours = |name: &str| !ENCLOSING.contains(&name) && !name.starts_with("JOB_MONITOR_");
    env::vars_os()
        .filter(|(name, _)| name.to_str().is_none_or(is_ours))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(config: &str, own: &str) -> Result<Policy> {
        let settings = Settings::new(serde_json::from_str(config).unwrap())?;
        settings.policy(&serde_json::from_str(own).unwrap())
    }

    #[test]
    fn the_defaults_that_are_told_are_those_in_force() {
        let all = GLOBAL_KEYS.iter().chain(KEYS);
        let told: Vec<_> = all
            .map(|(key, value)| format!("{key:?}: {value}"))
            .collect();
        let told = Settings::new(serde_json::from_str(&format!("{{{}}}", told.join(","))).unwrap());
        let (told, silent) = (told.unwrap(), Settings::default());
        let own = Map::new();
        assert_eq!(told.policy(&own).unwrap(), silent.policy(&own).unwrap());
        assert_eq!(told.breaker(), silent.breaker());
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
            Policy::default()
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
        assert_eq!(policy.agent.env, [("A".to_owned(), "b".to_owned())]);
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
                let is_own = KEYS.iter().any(|(name, _)| *name == key);
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
        assert_eq!(seen, KEYS.len() + GLOBAL_KEYS.len());
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
