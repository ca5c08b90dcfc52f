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
use json::Object;
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
    /// What calls the skill `task-coordination` at the head of a prompt.
    pub skill_call: &'static str,
    /// Where a project keeps skills for it; the first is where they are written.
    pub skills: &'static [&'static str],
    /// Whether a slash at the head of a prompt is a command to it.
    pub slash_commands: bool,
    /// The longest prompt that it takes, in characters.
    pub prompt_max: usize,
    /// `NAME=VALUE`, given to it unless the name is set already.
    pub env: &'static [&'static str],
    /// How it is told where to keep its temporary files.
    pub scratch: Scratch,
    /// The arguments of a start, behind the command's own.
    pub args: fn(&Assignment<'_>, &mut Vec<String>),
    /// The argument in front of a session's id that opens it for a person.
    pub open: &'static str,
    /// Reads a line of its output. `None`: that is text.
    pub read: Option<Read>,
    /// The `type` of the line with which its output opens.
    pub opens_with: &'static str,
    /// The `type`s of lines that may end a turn.
    pub results: &'static [&'static str],
    /// Another file in which it tells why it failed.
    pub witness: Option<Witness>,
    /// The fault of an attempt that did not complete, where the agent's own words decide it.
    pub fault: fn(&Case<'_>) -> Option<Fault>,
    /// The file that changes when a person logs in, from the agent's environment.
    pub login: fn(&Lookup<'_>) -> Option<PathBuf>,
    /// Arguments with which it tells by its exit status whether somebody is logged in, offline and at no
    /// cost; empty if it cannot.
    pub preflight: &'static [&'static str],
    /// The variables of which one that is set makes a login unnecessary.
    pub keys: &'static [&'static str],
    /// The command that installs it; empty for a program that we do not know.
    pub install: &'static str,
}

/// Turns a line into events.
pub type Read = fn(&Object<'_>, &mut dyn FnMut(Event<'_>));

/// The value of a variable in the agent's environment.
pub type Lookup<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// Who names the sessions in which an agent can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sessions {
    /// It has none.
    None,
    /// We do, before the start.
    Chosen,
    /// As before, and there is one only once the service has answered in it.
    Proved,
    /// The agent does, with its first event.
    Told,
}

/// The variable that names a directory made for one start.
#[derive(Clone, Copy, Debug)]
pub enum Scratch {
    /// There is none.
    None,
    /// This one, unless it is set already.
    Unless(&'static str),
    /// This one, also where the daemon's own environment has it.
    Always(&'static str),
}

/// A file of the agent's own that says more than its output, named by the session.
#[derive(Clone, Copy, Debug)]
pub struct Witness {
    /// The directory below which it lies.
    pub below: fn(&Lookup<'_>) -> Option<PathBuf>,
    /// Reads a line of it.
    pub read: Read,
}

/// Every dialect; the last is for all other programs.
pub static DIALECTS: [Dialect; 4] = [
    claude::DIALECT,
    codex::DIALECT,
    gemini::DIALECT,
    plain::DIALECT,
];

impl Dialect {
    /// Whether a project has the skill that the built-in prompt calls.
    pub fn has_skill(&self, project: &Path) -> bool {
        let names = ["task-coordination/SKILL.md", "task-coordination.md"];
        let mut dirs = self.skills.iter().map(|dir| project.join(dir));
        dirs.any(|dir| names.iter().any(|name| dir.join(name).is_file()))
    }
}

fn find(fits: impl Fn(&Dialect) -> bool) -> &'static Dialect {
    let found = DIALECTS.iter().find(|dialect| fits(dialect));
    found.unwrap_or(&DIALECTS[DIALECTS.len() - 1])
}

/// The dialect of a protocol.
pub fn dialect(protocol: Protocol) -> &'static Dialect {
    find(|dialect| dialect.protocol == protocol)
}

/// The protocol that a command speaks by its own name, also behind a path (SPEC 6b).
pub fn protocol_of(command: &str) -> Protocol {
    let name = Path::new(command).file_name().unwrap_or_default();
    find(|dialect| name == dialect.name).protocol
}

/// Whose output this is, by the ending of its name and its beginning.
pub fn recognise(ending: &str, start: &[u8]) -> &'static Dialect {
    let line = start
        .split(|byte| *byte == b'\n')
        .find(|line| line.starts_with(b"{"));
    let line = String::from_utf8_lossy(line.unwrap_or_default());
    let opening = json::object(&line).unwrap_or_else(|cut| cut);
    find(|dialect| {
        dialect.ending == ending && (opening.is("type", dialect.opens_with) || ending == "out")
    })
}
