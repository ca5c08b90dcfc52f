//! The words of a project: where its spool lies, which agent serves it, within what limits.

use crate::time::parse_duration;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The two arrangements of a project's directories (SPEC 1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// `jobs/items`, `jobs/results`, `jobs/state`, `jobs/logs`.
    #[default]
    Jobs,
    /// `tasks`, `results`, `state`, `logs`: the predecessor's first version.
    Tasks,
}

impl Layout {
    fn pick(self, jobs: &'static str, tasks: &'static str) -> &'static str {
        match self {
            Layout::Jobs => jobs,
            Layout::Tasks => tasks,
        }
    }

    /// What the names of documents begin with.
    pub fn prefix(self) -> &'static str {
        self.pick("job-", "task-")
    }

    /// The form of a document's name, for messages.
    pub fn form(self) -> &'static str {
        self.pick(
            "job-YYYYMMDD-HHMMSS-<description>.md",
            "task-<description>-YYYYMMDD-HHMMSS.md",
        )
    }

    /// The directory of documents, relative to the project.
    pub fn items(self) -> &'static str {
        self.pick("jobs/items", "tasks")
    }

    /// The directory of results.
    pub fn results(self) -> &'static str {
        self.pick("jobs/results", "results")
    }

    /// The directory of claims, marks, lock and view.
    pub fn state(self) -> &'static str {
        self.pick("jobs/state", "state")
    }

    /// The directory of logs.
    pub fn logs(self) -> &'static str {
        self.pick("jobs/logs", "logs")
    }

    /// The directory of finished documents, if the settings want them moved.
    pub fn archive(self) -> &'static str {
        self.pick("jobs/archive", "archive")
    }

    /// All directories that are ours.
    pub fn dirs(self) -> [&'static str; 5] {
        let (items, results, state) = (self.items(), self.results(), self.state());
        [items, results, state, self.logs(), self.archive()]
    }
}

/// A registered project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    /// Its name in the registry.
    pub name: String,
    /// Its absolute root directory.
    pub path: PathBuf,
    /// How its directories are arranged.
    pub layout: Layout,
}

/// How one talks to an agent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Claude Code's headless mode: stream-json, sessions that we name (SPEC 6).
    Claude,
    /// `codex exec --json`: sessions that the agent names, no costs (SPEC 6b).
    Codex,
    /// `gemini -o stream-json`: sessions that we name, no costs (SPEC 6b).
    Gemini,
    /// Prompt on standard input, answer on standard output, verdict by exit status.
    #[default]
    Plain,
}

/// An agent as the settings define it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentSpec {
    /// Its name in the settings.
    pub name: String,
    /// Program and leading arguments, with placeholders.
    pub command: Vec<String>,
    /// Arguments after all of ours, so that they win.
    pub args: Vec<String>,
    /// How one talks to it.
    pub protocol: Protocol,
    /// A template with `{content}` in place of the built-in prompt.
    pub prompt: Option<String>,
    /// Environment variables given to it alone.
    pub env: Vec<(OsString, OsString)>,
    /// Protocol plain: a path with placeholders of the file that holds the answer, instead of
    /// standard output.
    pub answer: Option<String>,
    /// Whether a blank answer is a failure also under protocol plain.
    pub require_answer: bool,
    /// Whether it tells what it costs, and so can be given a budget; its dialect says so.
    pub costs: bool,
}

impl AgentSpec {
    /// An agent whose program has the agent's own name.
    pub fn new(name: &str, protocol: Protocol) -> AgentSpec {
        AgentSpec {
            name: name.to_owned(),
            command: vec![name.to_owned()],
            protocol,
            costs: true,
            ..AgentSpec::default()
        }
    }
}

/// What is done with a job that was running when daemon or machine went down.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnInterrupt {
    /// The same session goes on.
    #[default]
    Resume,
    /// The job starts afresh.
    Rerun,
    /// The job has failed.
    Fail,
}

/// What follows a failed job for the project's other jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// They go on.
    #[default]
    Continue,
    /// They wait for `release`.
    Hold,
}

/// A span of local time of day in which jobs may start, in minutes from midnight; one whose end is
/// not after its start goes over midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first minute.
    pub from: u16,
    /// The first minute that is no longer in it.
    pub to: u16,
}

impl Span {
    /// Reads `22:00-07:00`; the end may be `24:00`.
    pub fn parse(text: &str) -> Option<Span> {
        let minute = |text: &str| {
            let (hour, minute) = text.trim().split_once(':')?;
            let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
            (hour <= 24 && minute < 60).then_some(hour * 60 + minute)
        };
        let (from, to) = text.split_once('-')?;
        let (from, to) = (minute(from)?, minute(to)?);
        (from < 1440 && to <= 1440 && from != to).then_some(Span { from, to })
    }
}

/// From which share of a usage window on no job is started (SPEC 2); `None` = no ceiling.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ceiling {
    /// For every window that is not named.
    pub every: Option<f64>,
    /// By the window's name, such as `five_hour`.
    pub named: Vec<(String, f64)>,
}

/// What the value of a setting must be, in words, and what reads it.
pub struct Form<T>(pub &'static str, pub fn(&Value) -> Option<T>);

impl<T> Form<T> {
    /// Reads a value.
    ///
    /// # Errors
    /// What it must be.
    pub fn take(&self, value: &Value) -> Result<T, &'static str> {
        (self.1)(value).ok_or(self.0)
    }
}

/// Declares the settings once: where each is kept, its default as one would write it, and its form.
macro_rules! settings {
    ($($(#[$doc:meta])* $key:ident: $type:ty = $default:literal, $form:expr;)*) => {
        /// The settings in force for one project (SPEC 2). [`Policy::standard`] has those that hold where
        /// nothing is said; the derived default is only what it begins with.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct Policy {
            $($(#[$doc])* pub $key: $type,)*
            /// US dollars that a day may cost all projects together.
            pub overall_budget_usd: Option<f64>,
            /// Every agent that a document may name.
            pub agents: Arc<Vec<AgentSpec>>,
        }

        /// Every setting, with its default as one would write it.
        pub const KEYS: &[(&str, &str)] = &[$((stringify!($key), $default),)* ("agents", "{}")];

        impl Policy {
            /// Takes in a setting; the error is what its value must be. Of an agent only the name is
            /// known here, so `agents` is passed over.
            pub fn set(&mut self, key: &str, value: &Value) -> Result<(), &'static str> {
                match key {
                    $(stringify!($key) => self.$key = $form.take(value)?,)*
                    _ => {}
                }
                Ok(())
            }
        }
    };
}

settings! {
    /// The agent that runs the jobs, unless a document names another.
    agent: AgentSpec = "\"claude\"", AGENT;
    /// Wall time of one attempt, on the monotonic clock.
    timeout: Duration = "\"2h\"", LIMIT;
    /// Time without output after which an agent is ended; `None` = never.
    silence_timeout: Option<Duration> = "\"15m\"", SILENCE;
    /// From SIGTERM to SIGKILL.
    grace: Duration = "\"10s\"", DURATION;
    /// How long an agent may stay after its final result.
    linger: Duration = "\"30s\"", DURATION;
    /// How long a document written in place must be unchanged.
    settle: Duration = "\"200ms\"", DURATION;
    /// Repeats after a transient fault.
    retries: u32 = "2", COUNT;
    /// What follows an interruption.
    on_interrupt: OnInterrupt = "\"resume\"", Form("\"resume\", \"rerun\" or \"fail\"", typed);
    /// US dollars that one job may cost over all its starts.
    max_budget_usd: Option<f64> = "null", MONEY;
    /// US dollars that a day may cost this project.
    daily_budget_usd: Option<f64> = "null", MONEY;
    /// A command that must succeed before a job starts.
    gate: Option<Vec<String>> = "null", PROGRAM;
    /// A command that must succeed before a job counts as completed.
    check: Option<Vec<String>> = "null", PROGRAM;
    /// Wall time of one check.
    check_timeout: Duration = "\"15m\"", LIMIT;
    /// How often the agent is sent back with the check's output.
    check_rounds: u32 = "2", COUNT;
    /// What follows a failed job.
    on_failure: OnFailure = "\"continue\"", Form("\"continue\" or \"hold\"", typed);
    /// When jobs may start; empty = always.
    hours: Vec<Span> = "null", HOURS;
    /// From which share of a usage window on no job is started.
    usage_ceiling: Ceiling = "null", CEILING;
    /// Whether what each job changed in a git work tree is recorded.
    git: bool = "true", FLAG;
    /// The largest document accepted, in bytes.
    max_document: u64 = "\"1 MiB\"", SIZE;
    /// The most that an attempt may write, in bytes.
    max_output: u64 = "\"1 GiB\"", SIZE;
    /// Whether finished documents are moved out of the spool.
    archive: bool = "false", FLAG;
    /// A command run after each job.
    on_finish: Option<Vec<String>> = "null", PROGRAM;
    /// A command run when a hold begins.
    on_hold: Option<Vec<String>> = "null", PROGRAM;
    /// The most agents at once over all projects.
    max_parallel: Option<NonZeroU32> = "null", MOST;
    /// After how many jobs in a row that fail alike their agent is held; 0 = never.
    breaker: u32 = "3", COUNT;
}

/// Settings that may stand in `config.json` only; the others also in a project's entry of the registry.
pub const GLOBAL_KEYS: [&str; 3] = ["agents", "max_parallel", "breaker"];

impl Policy {
    /// What holds where no setting says anything (SPEC 2).
    pub fn standard() -> Policy {
        let mut policy = Policy::default();
        for (key, value) in KEYS {
            let value = serde_json::from_str(value).expect("the defaults are JSON");
            policy.set(key, &value).expect("the defaults are sound");
        }
        policy
    }

    /// The setting that limits money, if one does.
    pub fn budget(&self) -> Option<&'static str> {
        let daily = self.daily_budget_usd.or(self.overall_budget_usd);
        let of_a_job = self.max_budget_usd.map(|_| "max_budget_usd");
        of_a_job.or(daily.map(|_| "daily_budget_usd"))
    }
}

/// A text that is not empty.
pub const TEXT: Form<String> = Form("a text", text);
/// A list of arguments.
pub const TEXTS: Form<Vec<String>> = Form("a list of texts", texts);
/// A program and its arguments.
pub const COMMAND: Form<Vec<String>> = Form("a list of texts, the program first", command);
/// Yes or no.
pub const FLAG: Form<bool> = Form("true or false", Value::as_bool);
const AGENT: Form<AgentSpec> = Form("a text", |value| {
    Some(AgentSpec::new(&text(value)?, Protocol::Claude))
});
const DURATION: Form<Duration> = Form("a duration such as \"90s\"", duration);
const SILENCE: Form<Option<Duration>> = Form(DURATION.0, |value| {
    Some(Some(duration(value)?).filter(|limit| !limit.is_zero()))
});
const LIMIT: Form<Duration> = Form("a duration above 0 such as \"90s\" or \"1h30m\"", |value| {
    duration(value).filter(|limit| !limit.is_zero())
});
const COUNT: Form<u32> = Form("a whole number from 0", typed);
const MOST: Form<Option<NonZeroU32>> = Form("a whole number from 1", typed);
const MONEY: Form<Option<f64>> = Form("an amount above 0, without quotes", |value| {
    typed(value).filter(|usd: &Option<f64>| usd.is_none_or(|usd| usd > 0.0))
});
const PROGRAM: Form<Option<Vec<String>>> = Form(COMMAND.0, |value| match value {
    Value::Null => Some(None),
    value => command(value).map(Some),
});
const HOURS: Form<Vec<Span>> = Form("a span such as \"22:00-07:00\", or a list of such", hours);
const CEILING: Form<Ceiling> = Form(
    "a share above 0 and at most 1, or such as {\"five_hour\": 0.8, \"seven_day\": 0.95}",
    ceiling,
);
const SIZE: Form<u64> = Form("a size such as \"512 KiB\" or \"1 MiB\"", size);

fn duration(value: &Value) -> Option<Duration> {
    value.as_str().and_then(parse_duration)
}

fn text(value: &Value) -> Option<String> {
    let is_fine = |text: &&str| !text.is_empty() && !text.contains('\0');
    value.as_str().filter(is_fine).map(str::to_owned)
}

/// A value of a type that reads itself, with the words or the bounds that it knows.
pub fn typed<T: DeserializeOwned>(value: &Value) -> Option<T> {
    T::deserialize(value).ok()
}

fn texts(value: &Value) -> Option<Vec<String>> {
    let is_fine = |texts: &Vec<String>| !texts.iter().any(|text| text.contains('\0'));
    typed(value).filter(is_fine)
}

fn command(value: &Value) -> Option<Vec<String>> {
    texts(value).filter(|list| list.first().is_some_and(|program| !program.is_empty()))
}

/// A number of bytes, or a text such as `512 KiB`, `1MiB`, `2G`.
fn size(value: &Value) -> Option<u64> {
    let number = value.to_string();
    let text = value.as_str().unwrap_or(&number);
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim() {
        "" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        _ => return None,
    };
    let bytes = number.parse::<u64>().ok()?.checked_mul(unit)?;
    (bytes > 0).then_some(bytes)
}

fn hours(value: &Value) -> Option<Vec<Span>> {
    let span = |value: &Value| Span::parse(value.as_str()?);
    match value {
        Value::Null => Some(Vec::new()),
        Value::Array(list) if !list.is_empty() => list.iter().map(span).collect(),
        value => Some(vec![span(value)?]),
    }
}

fn ceiling(value: &Value) -> Option<Ceiling> {
    let share = |value: &Value| value.as_f64().filter(|&share| share > 0.0 && share <= 1.0);
    let mut ceiling = Ceiling::default();
    match value {
        Value::Null => {}
        Value::Object(windows) if !windows.is_empty() => {
            for (name, value) in windows {
                // As agents name them: `five_hour`, `seven_day`, `seven_day_opus`, `60_minutes`.
                let unit = name.split('_').nth(1)?;
                let share = share(value).filter(|_| ["hour", "day", "minutes"].contains(&unit))?;
                ceiling.named.push((name.clone(), share));
            }
        }
        value => ceiling.every = Some(share(value)?),
    }
    Some(ceiling)
}
