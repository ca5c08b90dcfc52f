//! What is special to agents: how a job becomes a command line, an environment and a prompt (`plan`),
//! and how an exit and an output become a verdict (`fold`, `verdict`). What is special to one agent
//! stands in its [`Dialect`]: one file and one row of [`DIALECTS`]. Nothing here starts anything, opens
//! files or reads a clock; `runner` and `process` do.

mod claude;
mod codex;
pub mod event;
pub mod fold;
mod gemini;
pub mod json;
pub mod lines;
mod plain;
pub mod plan;
pub mod verdict;

use crate::project::Protocol;
use event::Event;
pub use event::Window;
pub use fold::{Audit, Fold, Report, sum_usage};
use plan::Assignment;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
pub use verdict::{Case, Ended, Ending, Fault, Verdict};

/// The most text kept of one answer and of all that an agent says, in bytes; what is longer loses its
/// middle (SPEC 8).
pub const TEXT_MAX: usize = 1 << 20;

/// How one talks to an agent, and what it can tell. All that is asked about an agent's kind is asked
/// here, never of the protocol's name.
#[derive(Debug)]
pub struct Dialect {
    /// The name of its program.
    pub name: &'static str,
    /// Its word in the settings.
    pub protocol: Protocol,
    /// The ending of the log of its output.
    pub ending: &'static str,
    /// Who names its sessions.
    pub sessions: Sessions,
    /// What it cannot tell, in words for a person; empty if it tells all.
    pub silent_on: &'static str,
    /// Whether it tells what it costs, and so can be given a budget.
    pub costs: bool,
    /// Whether it can be given a limit of turns.
    pub turns: bool,
    /// What calls the skill `task-coordination` at the head of a prompt, where the agent knows skills.
    pub skill_call: Option<&'static str>,
    /// Where a project keeps that skill for it; the first is where it is written.
    pub skills: &'static [&'static str],
    /// Whether a slash at the head of a prompt is a command to it.
    pub slash_commands: bool,
    /// The longest prompt that it takes, in characters.
    pub prompt_max: Option<usize>,
    /// Variables that it gets unless they are set already.
    pub env: &'static [(&'static str, &'static str)],
    /// The variable that names the directory of its temporary files.
    pub scratch: Option<Scratch>,
    /// The arguments of a start, between the command's own and the agent's `args`.
    pub args: fn(&Assignment<'_>, &mut Vec<String>),
    /// The arguments that open a session for a person.
    pub open: fn(&str) -> Vec<String>,
    /// Reads a line of output that looks like a JSON object. `None`: its output is text.
    pub read: Option<Read>,
    /// The `type` of the line with which its output opens.
    pub opens_with: &'static str,
    /// The `type`s of lines that may end a turn.
    pub results: &'static [&'static str],
    /// Another file in which it tells why it failed, and how a line of that is read.
    pub witness: Option<Witness>,
    /// The fault of an attempt that did not complete, where the agent's own words decide it.
    pub fault: fn(&Case<'_>) -> Option<Fault>,
    /// The file that changes when a person logs in, from the agent's environment.
    pub login: fn(&Lookup<'_>) -> Option<PathBuf>,
}

/// Turns a line into events; one that is no whole object is [`Event::Lost`].
pub type Read = fn(&str, &mut dyn FnMut(Event<'_>));

/// The value of a variable in the agent's environment.
pub type Lookup<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// Who names the sessions in which an agent can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// It has none.
    None,
    /// We do, before the start.
    Chosen,
    /// The agent does, with its first event.
    Told,
}

/// Where an agent is told to keep its temporary files, in a directory made for one start.
#[derive(Clone, Copy, Debug)]
pub struct Scratch {
    /// The variable.
    pub variable: &'static str,
    /// Whether it is set even where the daemon's own environment has it.
    pub always: bool,
}

/// A file of the agent's own that says more than its output.
#[derive(Clone, Copy, Debug)]
pub struct Witness {
    /// The directory below which it lies.
    pub below: fn(&Lookup<'_>) -> Option<PathBuf>,
    /// Reads a line of it.
    pub read: Read,
}

/// Every dialect; [`Protocol::Plain`] is the last.
pub static DIALECTS: [Dialect; 4] = [
    claude::DIALECT,
    codex::DIALECT,
    gemini::DIALECT,
    plain::DIALECT,
];

/// The dialect of a protocol.
pub fn dialect(protocol: Protocol) -> &'static Dialect {
    let found = DIALECTS.iter().find(|dialect| dialect.protocol == protocol);
    found.unwrap_or(&DIALECTS[DIALECTS.len() - 1])
}

/// Whose output this is, by the ending of its name and its beginning.
pub fn recognise(ending: &str, start: &[u8]) -> &'static Dialect {
    let first = start
        .split(|byte| *byte == b'\n')
        .find(|line| line.starts_with(b"{"));
    let first = String::from_utf8_lossy(first.unwrap_or_default());
    let [kind] = json::pick(&first, ["type"]).unwrap_or_else(|found| found);
    let kind = kind.and_then(json::word).unwrap_or_default();
    let mut alike = DIALECTS.iter().filter(|dialect| dialect.ending == ending);
    let found = alike.clone().find(|dialect| dialect.opens_with == kind);
    found
        .or_else(|| alike.next())
        .unwrap_or(dialect(Protocol::Plain))
}

/// The protocol that a command speaks by its own name, also behind a path (SPEC 6b).
pub fn protocol_of(command: &str) -> Protocol {
    let name = Path::new(command).file_name().unwrap_or_default();
    let found = DIALECTS.iter().find(|dialect| name == dialect.name);
    found.map_or(Protocol::Plain, |dialect| dialect.protocol)
}
