//! The command line as values: what was typed, and nothing done about it. No file and no
//! environment is touched here, so help works on a broken system, too.
//!
//! `commands.txt` holds one help text for each command. `--help` prints it, the manual page embeds
//! it, and the completions read commands and options out of it.

mod help;
mod man;
mod parse;

pub use help::{CommandHelp, commands, help};
pub use man::man_page;
pub use parse::parse;

use crate::project::Layout;
use crate::time::Wall;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// One run of the program, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// The projects that it is about.
    pub projects: Which,
    /// How the answer is wanted. `Json` comes only with a command that reads.
    pub format: Format,
    /// What is to be done.
    pub command: Command,
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

/// What is to be done, with everything that was said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The help texts say what commands and options mean.
pub enum Command {
    /// Nothing was typed at all. The caller prints the help to standard error and exits with
    /// status 2: a person sees what there is, and a script notices its mistake.
    Nothing,
    Queue,
    Status(Wanted),
    Show(Option<JobName>),
    Logs(Option<JobName>, Manner),
    /// The flag asks for the numbers only.
    Diff(Option<JobName>, bool),
    Wait(Jobs, Option<Duration>),
    Stats(Option<Since>),
    Watch,
    Config,
    Submit(Vec<Source>, Wishes),
    Reply(JobName, Source, Wishes),
    Open(Option<JobName>),
    Edit(JobName),
    Cancel(Jobs),
    Retry(Jobs),
    Hold(Jobs),
    Release(Jobs),
    /// The flag keeps everything where it is.
    Clean(Duration, bool),
    List,
    Register(PathBuf, Registration),
    Unregister,
    Enable,
    Disable,
    Daemon,
    Restart,
    Doctor,
    Completions(Shell),
    /// The shell's name, and the words of a line that is being typed, the last one unfinished.
    Complete(Vec<OsString>),
    Man,
    /// Of one command, or of the whole program.
    Help(Option<&'static str>),
    Version,
}

/// Which finished jobs `status` is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// So many at most.
    pub limit: Option<usize>,
    /// Those that ended then or later.
    pub since: Option<Since>,
    /// Those only that failed.
    pub failed: bool,
}

/// How `logs` tells of a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// On and on, until the job is done.
    pub follow: bool,
    /// The bytes that the agent wrote to standard output.
    pub raw: bool,
    /// Of what is there already, so many lines only, the last ones.
    pub tail: Option<usize>,
}

/// What `register` was asked for, beside the path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    /// The project's name; else that of its directory.
    pub name: Option<String>,
    /// How its directories are arranged.
    pub layout: Option<Layout>,
    /// Whether documents that are there already are run.
    pub run_existing: bool,
    /// Whether the skills are written into it.
    pub skills: bool,
}

/// A job as it was typed: its id, or a part of it. It has only letters that ids have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobName(String);

impl JobName {
    /// The longest that is taken for an id, in bytes.
    const MAX: usize = 200;

    /// Takes a word that may name a job. An ending `.md` does not count.
    pub fn parse(word: &str) -> Option<JobName> {
        let fits = word.len() <= JobName::MAX
            && word.bytes().any(|byte| byte.is_ascii_alphanumeric())
            && word
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
        fits.then(|| JobName(word.to_owned()))
    }

    /// The word.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Which jobs a command is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Jobs {
    /// These, at least one.
    These(Vec<JobName>),
    /// Every job for which the command makes sense.
    All,
    /// Those that failed lately.
    Failed(Option<Since>),
}

/// Since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// The beginning of a local day.
    Day(Wall),
    /// So long ago.
    Ago(Duration),
    /// The beginning of today.
    Today,
}

impl Since {
    /// The time that it means at `now`.
    pub fn start(self, now: Wall) -> Wall {
        match self {
            Since::Day(start) => start,
            Since::Ago(ago) => Wall(
                now.0
                    .saturating_sub(i64::try_from(ago.as_millis()).unwrap_or(i64::MAX)),
            ),
            Since::Today => Wall::parse(&format!("{}T00:00:00", now.day())).unwrap_or(now),
        }
    }
}

/// Where the text of a new job comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A file that was named.
    File(PathBuf),
    /// Standard input, asked for as `-`.
    Stdin,
    /// No file was named: the person's editor.
    Editor,
}

/// What is said of a new job beside its text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// The words at the end of its id.
    pub description: Option<String>,
    /// The agent that carries it out, by its name in the settings.
    pub agent: Option<String>,
    /// The model that the agent uses.
    pub model: Option<String>,
    /// Wall time of one attempt.
    pub timeout: Option<Duration>,
    /// Whether it is held from the start.
    pub hold: bool,
    /// What is done once it is in.
    pub then: AfterSubmit,
}

/// What `submit` does once the job is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AfterSubmit {
    /// Print the id and return.
    #[default]
    Return,
    /// Wait as `wait` does.
    Wait,
    /// Show what the agent does until the job is done, then end as `wait` does.
    Follow,
}

/// A shell that we can write completions for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Each is called what it is.
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

impl Shell {
    /// Reads its name.
    pub fn parse(name: &str) -> Option<Shell> {
        Some(match name {
            "bash" => Shell::Bash,
            "zsh" => Shell::Zsh,
            "fish" => Shell::Fish,
            _ => return None,
        })
    }

    /// Its completions: a stub that asks `job-monitor complete`.
    pub fn completions(self) -> &'static str {
        match self {
            Shell::Bash => include_str!("complete.bash"),
            Shell::Zsh => include_str!("complete.zsh"),
            Shell::Fish => include_str!("complete.fish"),
        }
    }
}
