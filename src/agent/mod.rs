//! What is special to agents: how a job becomes a command line, an environment and a prompt,
//! and how an exit and an output become a verdict. Nothing here starts anything or reads a
//! clock; `runner` and `process` do.

pub mod command;
pub mod json;
pub mod lines;
pub mod stream;
pub mod verdict;

use crate::job::ErrorKind;
use crate::record::Text;
use crate::time::Wall;
use serde_json::Value;

/// The most text kept of one answer, of all assistant text, and of a plain agent's output, in
/// bytes; what is longer loses its middle (SPEC 8).
pub const TEXT_MAX: usize = 1 << 20;

/// How the agent's process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its exit status, if it exited and we saw it.
    pub code: Option<i32>,
    /// The signal that ended it, if one did and we saw it.
    pub signal: Option<i32>,
    /// Whose doing it was.
    pub by: Ending,
}

/// Who or what ended the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The agent itself, or a signal that is not ours.
    Itself,
    /// We did: it stayed longer than `linger` after its final result.
    Linger,
    /// We did: `timeout`.
    Timeout,
    /// We did: `silence_timeout`.
    Silent,
    /// We did: `max_output`.
    OutputLimit,
    /// We did: the person cancelled the job.
    Cancelled,
    /// We did, or nobody saw: the daemon went down while the agent ran.
    Interrupted,
}

/// What the events of an attempt told; nothing of it for protocol plain, which has none. Texts keep
/// at most [`TEXT_MAX`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The final answer.
    pub answer: Option<String>,
    /// All text that the agent addressed to the person, in order.
    pub text: String,
    /// The agent's own usage object, numbers summed over results.
    pub usage: Option<Value>,
    /// The session's running total in US dollars.
    pub cost_usd: Option<f64>,
    /// Turns, summed over results.
    pub num_turns: Option<u64>,
    /// The model, from the `init` event.
    pub model: Option<String>,
    /// The agent's version, from the `init` event.
    pub agent_version: Option<String>,
    /// The session, as the agent names it.
    pub session_id: Option<String>,
    /// Tools that the agent asked for and was refused, as it reports them.
    pub permission_denials: Vec<Value>,
    /// Files that the agent's edit tools changed, as the tools named them, each once.
    pub edited: Vec<String>,
    /// The audit block of the final answer.
    pub audit: Audit,
    /// The account's usage windows, as the agent last told them.
    pub windows: Vec<Window>,
    /// MCP servers that failed to start.
    pub failed_servers: Vec<String>,
    /// Whether the service answered at all: a turn of the model's own was seen.
    pub answered: bool,
}

/// One usage window of the account.
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// Its name, such as `five_hour`.
    pub name: String,
    /// The share that is used, 1.0 when it is full.
    pub utilization: f64,
    /// When it begins anew.
    pub resets_at: Option<Wall>,
}

/// What an attempt said, as its result shows it.
#[derive(Debug, Default)]
pub struct Words {
    /// The final answer.
    pub answer: Option<Text>,
    /// All that it said, in order.
    pub all: Option<Text>,
    /// The end of standard error.
    pub stderr: String,
}

/// The closing `json` block of a final answer (SPEC 6), leniently read; absent is `None`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Audit {
    /// 0 to 100.
    pub score: Option<f64>,
    /// The auditor's words.
    pub notes: Option<String>,
    /// Paths that the agent lists.
    pub artifacts: Vec<String>,
}

/// Whether an attempt is complete, and if not, why.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// Exit, result and answer agree.
    Completed,
    /// Anything else.
    Fault(Fault),
}

/// Why an attempt is not complete.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    /// The kind, which decides what follows.
    pub kind: ErrorKind,
    /// One sentence for a person, in the agent's own words where it had any.
    pub error: String,
    /// For a usage limit: when it ends.
    pub resets_at: Option<Wall>,
    /// The agent does not know the session it was told to resume: start afresh.
    pub session_unknown: bool,
}

impl Fault {
    /// A fault that says nothing about limits or sessions.
    pub fn new(kind: ErrorKind, error: impl Into<String>) -> Fault {
        Fault {
            kind,
            error: error.into(),
            resets_at: None,
            session_unknown: false,
        }
    }
}

/// Adds what a later start used to what earlier ones did.
pub fn sum_usage(before: Option<Value>, now: Option<Value>) -> Option<Value> {
    match (before, now) {
        (Some(mut before), Some(now)) => {
            stream::add(&mut before, now);
            Some(before)
        }
        (before, now) => before.or(now),
    }
}
