//! What an agent tells while it works, whatever its protocol. A dialect turns a line of output into
//! events; `fold` adds them up for the verdict, and the transcript shows them to a person.

use super::*;

/// One thing that an agent told.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    /// A session began, or a further turn in it.
    Session(Session),
    /// The conversation goes on; true when the model did it.
    Turn(bool),
    /// It said something to the person.
    Say(String),
    /// A sub-agent said something, which is no part of the answer.
    Aside(String),
    /// It goes on with what it said last.
    More(String),
    /// It called a tool: the call's id, which the answer repeats, the tool, what that is asked to do, as
    /// JSON, and the file that changes if it succeeds.
    Call(String, String, &'a str, Option<String>),
    /// A tool answered the call of this id: with a JSON string, or blocks of which some are texts;
    /// true if it failed.
    Answer(String, &'a str, bool),
    /// A tool was refused.
    Denied(Value),
    /// The session's running total of usage, where the agent tells that.
    Total(Value),
    /// The usage limit is reached until then; `None`: it is not.
    Limit(Option<Wall>),
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
    /// It met a failure: its words, and the signs by which the failure is known.
    Trouble(String, Signs),
    /// A request failed, and the agent repeats it by itself; otherwise the same as `Trouble`.
    Retry(String, Signs),
    /// It waits by itself for the network, however long.
    Offline(String),
    /// Its turn is over.
    Result(Box<LastResult>),
    /// A line that is no event; something that stands in front of the agent may print, too.
    Plain(&'a str),
    /// A line was too long to hold, cut, or garbled. It may have been a result.
    Lost,
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
    /// By what its failure is known.
    pub signs: Signs,
    /// The agent's word for how it ended.
    pub ending: Option<String>,
}

/// By what a failure is known.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signs {
    /// Names and classes of it: `rate_limit`, `overloaded_error`, `refusal`.
    pub names: Vec<String>,
    /// The HTTP status of the answer.
    pub status: Option<u64>,
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

impl Session {
    /// One of which no more is known.
    pub fn new(id: Option<String>, model: Option<String>, version: Option<String>) -> Session {
        Session {
            id,
            model,
            version,
            ..Session::default()
        }
    }
}

/// Hands out what a line of an agent with events tells.
pub fn events(line: &str, read: Read, each: &mut dyn FnMut(Event<'_>)) {
    let json = line.trim_ascii_start();
    match object(json) {
        Some(object) => read(&object, each),
        None if json.starts_with("{\"") => each(Event::Lost),
        None => each(Event::Plain(line)),
    }
}

/// A number of seconds since 1970.
pub fn time(object: &Object<'_>, key: &str) -> Option<Wall> {
    let at = object.number(key).filter(|at| *at > 0.0)?;
    Some(Wall::from_secs(at as i64))
}
