//! The words of a project: where its spool lies, which agent serves it, within what limits.

use serde::{Deserialize, Serialize};
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

    /// The word in the registry and on the command line.
    pub fn as_str(self) -> &'static str {
        self.pick("jobs", "tasks")
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Claude Code's headless mode: stream-json, sessions that we name (SPEC 6).
    Claude,
    /// `codex exec --json`: sessions that the agent names, no costs (SPEC 6b).
    Codex,
    /// `gemini -o stream-json`: sessions that we name, no costs (SPEC 6b).
    Gemini,
    /// Prompt on standard input, answer on standard output, verdict by exit status.
    Plain,
}

/// An agent as the settings define it.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    pub env: Vec<(String, String)>,
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
            args: Vec::new(),
            protocol,
            prompt: None,
            env: Vec::new(),
            answer: None,
            require_answer: false,
            costs: true,
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
            let number = |digits: &str, most: u16| {
                let fine = digits.len() <= 2 && digits.bytes().all(|b| b.is_ascii_digit());
                digits.parse().ok().filter(|&n: &u16| fine && n <= most)
            };
            let minute = number(minute, 59).filter(|_| minute.len() == 2)?;
            Some(number(hour, 24)? * 60 + minute)
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

/// The settings in force for one project (SPEC 2).
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The agent that runs the jobs, unless a document names another.
    pub agent: AgentSpec,
    /// Every agent that a document may name.
    pub agents: Arc<Vec<AgentSpec>>,
    /// Wall time of one attempt, on the monotonic clock.
    pub timeout: Duration,
    /// Time without output after which an agent is ended; `None` = never.
    pub silence_timeout: Option<Duration>,
    /// From SIGTERM to SIGKILL.
    pub grace: Duration,
    /// How long an agent may stay after its final result.
    pub linger: Duration,
    /// How long a document written in place must be unchanged.
    pub settle: Duration,
    /// Repeats after a transient fault.
    pub retries: u32,
    /// What follows an interruption.
    pub on_interrupt: OnInterrupt,
    /// US dollars that one job may cost over all its starts.
    pub max_budget_usd: Option<f64>,
    /// US dollars that a day may cost this project.
    pub daily_budget_usd: Option<f64>,
    /// The largest document accepted, in bytes.
    pub max_document: u64,
    /// The most that an attempt may write, in bytes.
    pub max_output: u64,
    /// Whether finished documents are moved out of the spool.
    pub archive: bool,
    /// A command run after each job.
    pub on_finish: Option<Vec<String>>,
    /// A command run when a hold begins.
    pub on_hold: Option<Vec<String>>,
    /// A command that must succeed before a job starts.
    pub gate: Option<Vec<String>>,
    /// A command that must succeed before a job counts as completed.
    pub check: Option<Vec<String>>,
    /// Wall time of one check.
    pub check_timeout: Duration,
    /// How often the agent is sent back with the check's output.
    pub check_rounds: u32,
    /// What follows a failed job.
    pub on_failure: OnFailure,
    /// When jobs may start; empty = always.
    pub hours: Vec<Span>,
    /// From which share of a usage window on no job is started.
    pub usage_ceiling: Ceiling,
    /// Whether what each job changed in a git work tree is recorded.
    pub git: bool,
}

impl Default for Policy {
    /// What holds where no setting says anything (SPEC 2).
    fn default() -> Policy {
        const MINUTE: Duration = Duration::from_secs(60);
        Policy {
            agent: AgentSpec::new("claude", Protocol::Claude),
            agents: Arc::default(),
            timeout: MINUTE * 120,
            silence_timeout: Some(MINUTE * 15),
            grace: Duration::from_secs(10),
            linger: Duration::from_secs(30),
            settle: Duration::from_millis(200),
            retries: 2,
            on_interrupt: OnInterrupt::Resume,
            max_budget_usd: None,
            daily_budget_usd: None,
            max_document: 1 << 20,
            max_output: 1 << 30,
            archive: false,
            on_finish: None,
            on_hold: None,
            gate: None,
            check: None,
            check_timeout: MINUTE * 15,
            check_rounds: 2,
            on_failure: OnFailure::Continue,
            hours: Vec::new(),
            usage_ceiling: Ceiling::default(),
            git: true,
        }
    }
}
