//! What is special to agents: how a job becomes a command line, an environment and a prompt (`plan`),
//! and how an exit and an output become a verdict (`fold`, `verdict`). What is special to one agent
//! stands in its [`Dialect`]: one file and one row of [`DIALECTS`]. Nothing here starts anything, opens
//! files or reads a clock; `runner` and `process` do. ([`Dialect::has_skill`] looks whether a file is there.)

mod claude;
mod codex;
pub mod event;
pub mod fold;
mod gemini;
pub mod json;
pub mod lines;
pub mod plan;
pub mod verdict;

pub use event::Window;
pub use fold::{Audit, Fold, Report, sum_usage};
pub use verdict::{Case, Ended, Ending, Fault, Verdict, forced};

// The files below this one see what it sees (`use super::*`): they are parts of one whole, cut by subject.
use crate::document::Document;
use crate::error::one_line;
use crate::job::ErrorKind::{self, *};
use crate::job::{Course, JobId, RUN_VARIABLE};
use crate::project::{Policy, Project, Protocol};
use crate::record::{Carried, Claim, Files};
use crate::time::Wall;
use event::{Event, LastResult, Session, Signs, events, time};
use json::{Object, object, text};
use lines::{Capped, Lines};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::time::Duration;
use verdict::classify;

/// The most text kept of one answer and of all that an agent says, in bytes; what is longer loses its
/// middle (SPEC 8).
pub const TEXT_MAX: usize = 1 << 20;

/// How one talks to an agent, and what it can tell. What is asked about an agent's kind is asked here and not of
/// the protocol's name, but for one member of a result (`outcome`) and what `doctor` knows of single agents.
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
    /// Whether it counts turns and tells what it costs, and so can be given limits of both.
    pub costs: bool,
    /// What calls the skill `task-coordination` at the head of a prompt.
    pub skill_call: &'static str,
    /// Where a project keeps skills for it; the first is where they are written.
    pub skills: &'static [&'static str],
    /// The longest prompt that it takes, in characters.
    pub prompt_max: usize,
    /// `NAME=VALUE`, given to it unless the name is set already.
    pub env: &'static [&'static str],
    /// The variable that names a directory made for one start, or none; true: it is set also where the
    /// daemon's own environment has it.
    pub scratch: (&'static str, bool),
    /// The arguments of a start behind the command's own, as `plan` fills them in.
    pub args: &'static str,
    /// The argument in front of a session's id that opens it for a person.
    pub open: &'static str,
    /// Reads a line of its output. `None`: that is text.
    pub read: Option<Read>,
    /// The `type` of the line with which its output opens.
    pub opens_with: &'static str,
    /// Another file in which it tells why it failed, named by the session: the directory in its home
    /// below which it lies, and what reads a line of it.
    pub witness: Option<(&'static str, Read)>,
    /// Why an attempt did not complete, where the agent's own words decide it; and when its usage limit
    /// ends.
    pub told: fn(&Case<'_>) -> Option<Reason>,
    /// What it says of a session that it does not know.
    pub unknown: &'static str,
    /// Where it keeps its own files: variables of which the first that is set counts, each with the
    /// directory below its value.
    pub home: &'static [(&'static str, &'static str)],
    /// The file in its home that changes when a person logs in.
    pub login: &'static str,
    /// Arguments with which it tells by its exit status whether somebody is logged in, offline and at no
    /// cost; empty if it cannot.
    pub preflight: &'static [&'static str],
    /// The variables of which one that is set makes a login unnecessary.
    pub keys: &'static [&'static str],
}

/// A kind of fault, and for a usage limit when it ends.
pub type Reason = (ErrorKind, Option<Wall>);

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
    /// We do, but a session exists only once the service has answered in it.
    Proved,
    /// The agent does, with its first event.
    Told,
}

/// The dialects of the agents that we know; `PLAIN` is that of all other programs.
pub static DIALECTS: [Dialect; 3] = [claude::DIALECT, codex::DIALECT, gemini::DIALECT];

/// Any command that takes a prompt on standard input. Its exit status is its verdict.
const PLAIN: Dialect = Dialect {
    name: "",
    protocol: Protocol::Plain,
    ending: "out",
    sessions: Sessions::None,
    silent_on: "",
    costs: false,
    skill_call: "",
    skills: &[],
    prompt_max: usize::MAX,
    env: &[],
    scratch: ("", false),
    args: "{args}",
    open: "",
    read: None,
    opens_with: "",
    witness: None,
    told: |_| None,
    unknown: "",
    home: &[],
    login: "",
    preflight: &[],
    keys: &[],
};

impl Dialect {
    /// Whether a project has the skill that the built-in prompt calls.
    pub fn has_skill(&self, project: &Path) -> bool {
        let names = ["task-coordination/SKILL.md", "task-coordination.md"];
        let mut dirs = self.skills.iter().map(|dir| project.join(dir));
        dirs.any(|dir| names.iter().any(|name| dir.join(name).is_file()))
    }

    /// A file or directory in the agent's home.
    pub fn own_file(&self, name: &str, get: &Lookup<'_>) -> Option<PathBuf> {
        let mut homes = self.home.iter();
        let home = homes.find_map(|(variable, below)| Some(Path::new(&get(variable)?).join(below)));
        Some(home?.join(name))
    }
}

impl Default for &Dialect {
    fn default() -> Self {
        &PLAIN
    }
}

fn find(fits: impl Fn(&Dialect) -> bool) -> &'static Dialect {
    let found = DIALECTS.iter().find(|dialect| fits(dialect));
    found.unwrap_or_default()
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

/// Tells by a line of an output whose it is, if the line is the event with which it opens; else `PLAIN`.
pub fn recognise(line: &str) -> &'static Dialect {
    let event = json::object(line).unwrap_or_default();
    find(|dialect| event.is("type", dialect.opens_with))
}
