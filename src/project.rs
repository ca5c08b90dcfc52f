//! The words of a project: where its spool lies, which agent serves it, within what limits.

use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::path::PathBuf;
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
    /// The word in the registry and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Layout::Jobs => "jobs",
            Layout::Tasks => "tasks",
        }
    }

    /// What the names of documents begin with.
    pub fn prefix(self) -> &'static str {
        match self {
            Layout::Jobs => "job-",
            Layout::Tasks => "task-",
        }
    }

    /// The form of a document's name, for messages.
    pub fn form(self) -> &'static str {
        match self {
            Layout::Jobs => "job-YYYYMMDD-HHMMSS-<description>.md",
            Layout::Tasks => "task-<description>-YYYYMMDD-HHMMSS.md",
        }
    }

    /// The directory of documents, relative to the project.
    pub fn items(self) -> &'static str {
        match self {
            Layout::Jobs => "jobs/items",
            Layout::Tasks => "tasks",
        }
    }

    /// The directory of results.
    pub fn results(self) -> &'static str {
        match self {
            Layout::Jobs => "jobs/results",
            Layout::Tasks => "results",
        }
    }

    /// The directory of claims, marks, lock and view.
    pub fn state(self) -> &'static str {
        match self {
            Layout::Jobs => "jobs/state",
            Layout::Tasks => "state",
        }
    }

    /// The directory of logs.
    pub fn logs(self) -> &'static str {
        match self {
            Layout::Jobs => "jobs/logs",
            Layout::Tasks => "logs",
        }
    }

    /// The directory of finished documents, if the settings want them moved.
    pub fn archive(self) -> &'static str {
        match self {
            Layout::Jobs => "jobs/archive",
            Layout::Tasks => "archive",
        }
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
    /// Claude Code's headless mode: stream-json, sessions (SPEC 6).
    Claude,
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

/// The settings in force for one project (SPEC 2).
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// The agent that runs the jobs.
    pub agent: AgentSpec,
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
}

/// What a document's front matter asks for; it may only tighten the policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wishes {
    /// At most this much wall time.
    pub timeout: Option<Duration>,
    /// This model.
    pub model: Option<String>,
    /// At most so many turns.
    pub max_turns: Option<u32>,
    /// At most so many US dollars.
    pub max_budget_usd: Option<f64>,
    /// At most so many repeats.
    pub retries: Option<u32>,
}

impl Policy {
    /// The policy with a document's wishes taken in: whatever is tighter holds.
    #[must_use]
    pub fn tightened(&self, wishes: &Wishes) -> Cow<'_, Policy> {
        let Wishes {
            timeout: None,
            max_budget_usd: None,
            retries: None,
            ..
        } = wishes
        else {
            return Cow::Owned(self.with(wishes));
        };
        Cow::Borrowed(self)
    }

    fn with(&self, wishes: &Wishes) -> Policy {
        let least = |limit: Option<f64>, wish: Option<f64>| match (limit, wish) {
            (Some(limit), Some(wish)) => Some(limit.min(wish)),
            (limit, wish) => limit.or(wish),
        };
        Policy {
            timeout: wishes
                .timeout
                .map_or(self.timeout, |wish| wish.min(self.timeout)),
            retries: wishes
                .retries
                .map_or(self.retries, |wish| wish.min(self.retries)),
            max_budget_usd: least(self.max_budget_usd, wishes.max_budget_usd),
            ..self.clone()
        }
    }
}
