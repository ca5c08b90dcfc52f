//! The command line as a value: what was typed, and nothing done about it. No file and no
//! environment is touched here, so help works on a broken system, too.
//!
//! `commands.txt` holds one help text for each command, and is the table of commands: `--help` prints it,
//! the manual page embeds it, and parser and completions read out of it what a command takes.

mod help;
mod man;
mod parse;

pub use help::{CommandHelp, commands, help};
pub use man::man_page;
pub use parse::parse;

use crate::error::{Error, Exit, Result};
use crate::project::Layout;
use crate::time::Wall;
use std::ffi::OsString;
use std::time::Duration;

/// One run of the program, as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// The command by its name in `commands.txt`, `complete` or `version`; empty if nothing was typed
    /// at all: a person sees what there is, and a script notices its mistake.
    pub command: &'static str,
    /// The projects that it is about.
    pub projects: Which,
    /// How the answer is wanted. `Json` comes only with a command that reads.
    pub format: Format,
    /// The jobs that were named, each by its id or a part of it: only letters that ids have.
    pub jobs: Vec<String>,
    /// What else was named: files, a directory, a shell, a command.
    pub words: Vec<OsString>,
    /// Every job, or every project, for which the command makes sense.
    pub all: bool,
    /// So many finished jobs at most.
    pub limit: Option<usize>,
    /// Of finished jobs, those that ended then or later.
    pub since: Option<Wall>,
    /// Of finished jobs, those that failed.
    pub failed: bool,
    /// A job is told of on and on, until it is done.
    pub follow: bool,
    /// `logs`: the bytes that the agent wrote to standard output.
    pub raw: bool,
    /// `diff`: the numbers only.
    pub stat: bool,
    /// `clean`: how long ago the jobs finished.
    pub older_than: Option<Duration>,
    /// `clean`: everything is kept where it is.
    pub dry_run: bool,
    /// Of a new job, wall time of one attempt; of `wait`, its patience.
    pub timeout: Option<Duration>,
    /// The words in a new job's id.
    pub description: Option<String>,
    /// The agent that carries a new job out, by its name in the settings.
    pub agent: Option<String>,
    /// The model that the agent uses.
    pub model: Option<String>,
    /// Whether a new job is held from the beginning.
    pub hold: bool,
    /// Whether a new job is waited for.
    pub wait: bool,
    /// `register`: the project's name; else that of its directory.
    pub name: Option<String>,
    /// `register`: how the project's directories are arranged.
    pub layout: Option<Layout>,
    /// `register`: whether documents that are there already are run.
    pub run_existing: bool,
    /// `register`: whether the skills are written into the project.
    pub skills: bool,
}

/// Which projects a command is about.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// The one around the current directory, else the only one, else all.
    #[default]
    Around,
    /// The one of this name, or around this path.
    Named(String),
    /// All of them.
    All,
}

/// For whom an answer is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// For a person.
    #[default]
    Text,
    /// For a program: one JSON document.
    Json,
}

/// The completions for a shell: a stub that asks `job-monitor complete`.
pub fn completions(shell: &str) -> Result<&'static str> {
    let shells = "there are completions for bash, zsh and fish";
    match shell {
        "bash" => Ok(include_str!("complete.bash")),
        "zsh" => Ok(include_str!("complete.zsh")),
        "fish" => Ok(include_str!("complete.fish")),
        _ => Err(Error::with(Exit::Usage, shells)),
    }
}
