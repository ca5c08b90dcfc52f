//! What an agent tells while it works, whatever its protocol. A dialect turns a line of output into
//! events; `fold` adds them up for the verdict, and the transcript shows them to a person.

use crate::time::Wall;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// One thing that an agent told. JSON that only some readers need is left as it was written.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "a variant's own text tells of its fields")]
pub enum Event<'a> {
    /// A session began, or a further turn in it.
    Session(Session),
    /// The conversation goes on; `answered` when the model did it.
    Turn { answered: bool },
    /// Which release and model it is, told apart from the session.
    Program {
        version: Option<String>,
        model: Option<String>,
    },
    /// It said something to the person, or a sub-agent (`below` is the call that began it) to it.
    Say {
        below: Option<String>,
        text: String,
        goes_on: bool,
    },
    /// It thought.
    Think { below: Option<String>, text: String },
    /// It called a tool; `edits` is the file that changes if the call succeeds.
    Call {
        below: Option<String>,
        id: String,
        tool: String,
        input: &'a str,
        edits: Option<String>,
    },
    /// A tool answered: a JSON string, or blocks of which some are texts.
    Answer {
        id: String,
        content: &'a str,
        failed: bool,
    },
    /// A tool was refused.
    Denied(Value),
    /// The usage so far of one message, which may be told more than once.
    Tokens { message: String, usage: &'a str },
    /// The session's running total of usage, where the agent tells that.
    Total(Value),
    /// The usage limit: whether it is reached, and when it ends.
    Limit {
        rejected: bool,
        resets_at: Option<Wall>,
    },
    /// The account's usage windows.
    Windows(Vec<Window>),
    /// Whether tasks of its own go on that will wake it after its turn.
    Pending(bool),
    /// It put down a time at which to be woken for another turn.
    Scheduled,
    /// A hook of the project sent it back to work, in the hook's words.
    Feedback(String),
    /// A hook of the project refused or stopped it: which, and what it said.
    Blocked(String),
    /// It met a failure.
    Trouble { text: String, signs: Signs },
    /// Something happened around it: a retry, a compaction.
    Notice(String),
    /// It waits by itself for the network, however long.
    Offline(String),
    /// Its turn is over.
    Result(Box<LastResult>),
    /// A line that is no event; something that stands in front of the agent may print, too.
    Plain(&'a str),
    /// The beginning of a line that was too long to hold, cut, or garbled.
    Lost { start: &'a str, may_be_result: bool },
}

/// Who works, and where.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Session {
    /// As the agent names it.
    pub id: Option<String>,
    /// The model.
    pub model: Option<String>,
    /// The agent's version.
    pub version: Option<String>,
    /// The directory it works in.
    pub cwd: Option<String>,
    /// MCP servers that failed to start.
    pub failed_servers: Vec<String>,
}

/// What an agent says when its turn is over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LastResult {
    /// Whether it calls that a success.
    pub good: bool,
    /// The answer; `None` where it is what the agent said last.
    pub answer: Option<String>,
    /// What it says about its failure; empty where it tells of none.
    pub complaint: String,
    /// Turns taken.
    pub turns: Option<u64>,
    /// The session's running total in US dollars.
    pub cost_usd: Option<f64>,
    /// Its own usage object, of this turn.
    pub usage: Option<Value>,
    /// Tools refused; `None` if it lists none.
    pub denials: Option<Vec<Value>>,
    /// The session, as the agent names it.
    pub session: Option<String>,
    /// How long it took, in milliseconds.
    pub duration_ms: Option<f64>,
    /// The agent's words for how it ended.
    pub signs: Signs,
}

/// Words and numbers by which a failure is known. A dialect uses those that its agent has.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signs {
    /// The class of the failure: `rate_limit`.
    pub class: Option<String>,
    /// The agent's own name of it: `usage_limit_reached`.
    pub name: Option<String>,
    /// The service's name of it: `overloaded_error`.
    pub service: Option<String>,
    /// The HTTP status of the answer.
    pub status: Option<u64>,
    /// Why the model stopped.
    pub stop: Option<String>,
    /// Why the agent stopped.
    pub reason: Option<String>,
    /// The kind of result.
    pub subtype: Option<String>,
}

/// One usage window of the account.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Its name, such as `five_hour`.
    pub name: String,
    /// The share that is used, 1.0 when it is full.
    pub utilization: f64,
    /// When it begins anew.
    pub resets_at: Option<Wall>,
}
