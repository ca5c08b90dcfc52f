//! Every command and option, once. Rows stand in the order in which people meet them.

use super::Command;
use super::parse::Typed;
use crate::error::Result;

/// A command as the table describes it.
pub struct CommandSpec {
    /// What is typed.
    pub name: &'static str,
    /// The heading under which it is listed.
    pub group: Group,
    /// What follows the name and is no option.
    pub operand: Operand,
    /// Its own options, beside [`GLOBALS`].
    pub options: &'static [OptionSpec],
    /// Whether it reads, and so can answer in JSON.
    pub json: bool,
    /// Whether it is about projects that `-p` can choose; with others it is accepted, and means
    /// nothing.
    pub scoped: bool,
    /// What it does, in a few words.
    pub summary: &'static str,
    /// In the short help this row shares the line of the row before, under this summary of
    /// both: one screen has no room for a line each.
    pub joined: Option<&'static str>,
    /// What it does, in paragraphs.
    pub details: &'static [&'static str],
    /// Command lines and what they achieve.
    pub examples: &'static [(&'static str, &'static str)],
    /// Makes the value from what was typed.
    pub(super) build: fn(&Typed) -> Result<Command>,
}

impl CommandSpec {
    /// The options worth knowing of with this command: its own, then those of the program.
    pub fn offered_options(&self) -> impl Iterator<Item = &'static OptionSpec> {
        let (json, scoped) = (self.json, self.scoped);
        let globals = GLOBALS.iter().filter(move |option| match option.long {
            "json" => json,
            "project" => scoped,
            "version" => false,
            _ => true,
        });
        self.options.iter().chain(globals)
    }
}

/// The headings of the short help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Each is called what it is.
pub enum Group {
    Reading,
    Steering,
    Projects,
    Daemon,
}

/// An option as the table describes it.
pub struct OptionSpec {
    /// Its letter, if it has one.
    pub short: Option<char>,
    /// Its name, without dashes.
    pub long: &'static str,
    /// The value that it needs, if any.
    pub value: Option<Value>,
    /// What it does.
    pub help: &'static str,
    /// In the short help this option stands, without its letter, in the line of the one before,
    /// under this summary of both.
    pub joined: Option<&'static str>,
}

/// Something that a person fills in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// The word in capitals that stands for it.
    pub name: &'static str,
    /// What a shell can offer for it.
    pub completes: Completes,
}

/// What a shell can offer for a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completes {
    /// Nothing: only the person knows.
    Nothing,
    /// Ids of jobs that are not done.
    OpenJobs,
    /// Ids of jobs, the latest of the finished ones among them.
    Jobs,
    /// Names of registered projects.
    Projects,
    /// Names of commands.
    Commands,
    /// Directories.
    Directories,
    /// Files.
    Files,
    /// One of these words.
    Words(&'static [&'static str]),
}

/// How many operands a command takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// None at all.
    None,
    /// None or one.
    AtMostOne(Value),
    /// Exactly one.
    One(Value),
    /// At least one.
    Several(Value),
    /// At least one, or the option `--all`.
    SeveralOrAll(Value),
}

impl Operand {
    /// The value it is made of.
    pub fn value(self) -> Option<Value> {
        match self {
            Operand::None => None,
            Operand::AtMostOne(value)
            | Operand::One(value)
            | Operand::Several(value)
            | Operand::SeveralOrAll(value) => Some(value),
        }
    }

    /// How a synopsis writes it.
    pub fn notation(self) -> String {
        match self {
            Operand::None => String::new(),
            Operand::AtMostOne(value) => format!("[{}]", value.name),
            Operand::One(value) => value.name.to_owned(),
            Operand::Several(value) | Operand::SeveralOrAll(value) => format!("{}...", value.name),
        }
    }
}

impl Completes {
    /// What to ask for where it is missing.
    pub(super) fn noun(self) -> String {
        match self {
            Completes::Nothing => "a value".to_owned(),
            Completes::OpenJobs | Completes::Jobs => "a job id".to_owned(),
            Completes::Projects => "a project's name".to_owned(),
            Completes::Commands => "a command".to_owned(),
            Completes::Directories => "a directory".to_owned(),
            Completes::Files => "a file".to_owned(),
            Completes::Words(words) => format!("one of {}", words.join(", ")),
        }
    }
}

/// The command that a job id alone stands for.
pub(super) const SHOW: &str = "show";

const fn value(name: &'static str, completes: Completes) -> Value {
    Value { name, completes }
}

const OPEN_ID: Value = value("ID", Completes::OpenJobs);
const ID: Value = value("ID", Completes::Jobs);
const PROJECT_NAME: Value = value("NAME", Completes::Projects);

const fn option(short: Option<char>, long: &'static str, help: &'static str) -> OptionSpec {
    OptionSpec {
        short,
        long,
        value: None,
        help,
        joined: None,
    }
}

impl OptionSpec {
    const fn with(self, name: &'static str, completes: Completes) -> OptionSpec {
        OptionSpec {
            value: Some(value(name, completes)),
            ..self
        }
    }

    const fn joined(self, summary: &'static str) -> OptionSpec {
        OptionSpec {
            joined: Some(summary),
            ..self
        }
    }
}

/// The options of the program as a whole, accepted before and after the command.
pub static GLOBALS: &[OptionSpec] = &[
    option(
        Some('p'),
        "project",
        "only this project: its name, or a path inside",
    )
    .with("PROJECT", Completes::Projects),
    option(None, "json", "one JSON document instead of text"),
    option(Some('h'), "help", "how to use the program, or a command"),
    option(Some('V'), "version", "the version of the program")
        .joined("how to use it, or a command; its version"),
];

/// What most rows have in common: nothing.
const ROW: CommandSpec = CommandSpec {
    name: "",
    group: Group::Reading,
    operand: Operand::None,
    options: &[],
    json: false,
    scoped: true,
    summary: "",
    joined: None,
    details: &[],
    examples: &[],
    build: |_| Ok(Command::Nothing),
};

/// Every command there is.
pub static COMMANDS: &[CommandSpec] = &[
    CommandSpec {
        name: "queue",
        group: Group::Reading,
        json: true,
        summary: "what runs and what waits",
        details: &[
            "Prints the job that runs, the waiting jobs in the order in which they will start, \
             and each hold with its reason and its end.",
        ],
        examples: &[("job-monitor queue", "See what runs and what comes next.")],
        build: |_| Ok(Command::Queue),
        ..ROW
    },
    CommandSpec {
        name: "status",
        group: Group::Reading,
        options: &[
            option(Some('n'), "limit", "at most N jobs; 20 unless given")
                .with("N", Completes::Nothing),
            option(None, "all", "every finished job there is"),
        ],
        json: true,
        summary: "what has finished, newest first",
        details: &["Prints the finished jobs, each with its outcome, duration and cost."],
        examples: &[(
            "job-monitor status --limit 5",
            "See how the last five jobs ended.",
        )],
        build: |typed| typed.limit().map(|limit| Command::Status { limit }),
        ..ROW
    },
    CommandSpec {
        name: SHOW,
        group: Group::Reading,
        operand: Operand::One(ID),
        json: true,
        summary: "one job: its place, progress or result",
        details: &[
            "A job id as the command means the same: job-monitor ID.",
            "Prints where a waiting job stands in the queue, how long a running one has been at \
             work, or how a finished one ended: its summary, duration, tokens, cost and error. \
             The exit status is 3 when there is no such job.",
        ],
        examples: &[(
            "job-monitor job-20260130-143000-fix-bug",
            "See how a job stands.",
        )],
        build: |typed| Ok(Command::Show { id: typed.id()? }),
        ..ROW
    },
    CommandSpec {
        name: "logs",
        group: Group::Reading,
        operand: Operand::One(ID),
        options: &[
            option(Some('f'), "follow", "go on until the job is done"),
            option(None, "raw", "print the agent's output as it was written"),
        ],
        summary: "what the agent said and did",
        details: &[
            "Tells the work of the agent in a readable way: what it said, which tools it used \
             on which files and commands, what came of them, and what it cost. Repeats and \
             resumed sessions are shown as seams. With --raw a terminal still gets no control \
             characters; a file or a pipe gets every byte.",
        ],
        examples: &[(
            "job-monitor logs -f job-20260130-143000-fix-bug",
            "Look over the agent's shoulder.",
        )],
        build: |typed| {
            Ok(Command::Logs {
                id: typed.id()?,
                follow: typed.flag("follow"),
                raw: typed.flag("raw"),
            })
        },
        ..ROW
    },
    CommandSpec {
        name: "wait",
        group: Group::Reading,
        operand: Operand::Several(OPEN_ID),
        options: &[option(
            None,
            "timeout",
            "give up after so long: 90s, 30m, 2h, 1h30m",
        )
        .with("DURATION", Completes::Nothing)],
        summary: "wait till jobs are done; exit 4 if any failed",
        details: &[
            "Returns when every job named is done. The exit status is 0 when all of them \
             completed, 4 when one failed or was cancelled, 3 when there is no such job, and \
             124 when the time ran out. On a terminal one line shows the progress.",
            "Inside a job, waiting for a job of the same project is refused: it would wait for \
             itself.",
        ],
        examples: &[(
            "job-monitor wait --timeout 2h job-20260130-143000-fix-bug && make",
            "Go on once a job has completed.",
        )],
        build: |typed| {
            Ok(Command::Wait {
                ids: typed.ids()?,
                timeout: typed.timeout()?,
            })
        },
        ..ROW
    },
    CommandSpec {
        name: "stats",
        group: Group::Reading,
        options: &[option(
            None,
            "since",
            "from a date (2026-01-30) or so long ago (7d)",
        )
        .with("D", Completes::Nothing)],
        json: true,
        summary: "jobs, success, time and money, day by day",
        details: &[
            "Prints for each project and day the number of jobs, the share that completed of those \
             that nobody cancelled, median and total time, tokens and money.",
            "Tok in is what the model read, from its cache too; --json tells both apart. A day is \
             that on which a job ended, in local time.",
        ],
        examples: &[("job-monitor stats --since 7d", "Sum up the last week.")],
        build: |typed| typed.since().map(|since| Command::Stats { since }),
        ..ROW
    },
    CommandSpec {
        name: "watch",
        group: Group::Reading,
        summary: "all projects on one live screen; q leaves",
        details: &[
            "Shows what runs, what waits, what is held and what ended lately in every project, \
             and who ran when in the last hours. When the output is not a terminal, one \
             snapshot is printed.",
        ],
        build: |_| Ok(Command::Watch),
        ..ROW
    },
    CommandSpec {
        name: "submit",
        group: Group::Steering,
        operand: Operand::AtMostOne(value("FILE", Completes::Files)),
        options: &[
            option(
                Some('d'),
                "description",
                "the words at the end of the job's id",
            )
            .with("TEXT", Completes::Nothing),
            option(
                None,
                "wait",
                "wait for the job, with the exit status of wait",
            ),
            option(None, "follow", "the same, and show what the agent does"),
        ],
        summary: "hand in a job: FILE, or - for standard input",
        details: &[
            "Writes a job document with a fresh name into the project's spool, safely, and \
             prints the id of the job. Without FILE an editor opens ($VISUAL or $EDITOR).",
        ],
        examples: &[
            (
                "job-monitor submit fix-bug.md",
                "Hand in a job that is written already.",
            ),
            (
                "echo 'Fix the typos in README.md' | job-monitor submit -d typos --follow -",
                "Hand in one sentence and look on.",
            ),
        ],
        build: |typed| {
            Ok(Command::Submit {
                description: typed.text("description")?,
                source: typed.source(),
                then: typed.after_submit(),
            })
        },
        ..ROW
    },
    CommandSpec {
        name: "cancel",
        group: Group::Steering,
        operand: Operand::SeveralOrAll(OPEN_ID),
        options: &[option(None, "all", "every waiting and running job")],
        summary: "end running jobs, withdraw waiting ones",
        details: &[
            "Ends a running job with every process it started, or withdraws a waiting one. \
             Either way its result says cancelled.",
        ],
        examples: &[(
            "job-monitor cancel --all",
            "Stop everything in this project.",
        )],
        build: |typed| typed.jobs().map(|jobs| Command::Cancel { jobs }),
        ..ROW
    },
    CommandSpec {
        name: "retry",
        group: Group::Steering,
        operand: Operand::Several(ID),
        summary: "hand in the same text again, as a new job",
        details: &[
            "Submits the text that ran under a new id, and prints that id. The old result \
             stays as it is.",
        ],
        build: |typed| typed.jobs().map(|jobs| Command::Retry { jobs }),
        ..ROW
    },
    CommandSpec {
        name: "hold",
        group: Group::Steering,
        operand: Operand::SeveralOrAll(OPEN_ID),
        options: &[option(None, "all", "every waiting job")],
        summary: "keep waiting jobs from starting",
        details: &["A held job keeps its place in the queue; those behind it go first."],
        build: |typed| typed.jobs().map(|jobs| Command::Hold { jobs }),
        ..ROW
    },
    CommandSpec {
        name: "release",
        group: Group::Steering,
        operand: Operand::SeveralOrAll(OPEN_ID),
        options: &[option(
            None,
            "all",
            "every held job, and every hold of an agent",
        )],
        summary: "let held jobs start",
        joined: Some("keep waiting jobs from starting, or let them"),
        details: &[
            "A job that waits because its agent is held (a usage limit, missing credentials) \
             lifts that hold when it is released.",
        ],
        examples: &[("job-monitor release --all", "Lift every hold.")],
        build: |typed| typed.jobs().map(|jobs| Command::Release { jobs }),
        ..ROW
    },
    CommandSpec {
        name: "list",
        group: Group::Projects,
        json: true,
        summary: "the registered projects",
        details: &[
            "Prints each project with its path, whether it is enabled, when it was registered, \
             and why it is held or unavailable, if it is.",
        ],
        build: |_| Ok(Command::List),
        ..ROW
    },
    CommandSpec {
        name: "register",
        group: Group::Projects,
        scoped: false,
        operand: Operand::One(value("PATH", Completes::Directories)),
        options: &[
            option(None, "name", "its name; the directory's own unless given")
                .with("NAME", Completes::Nothing),
            option(
                None,
                "layout",
                "jobs, or tasks for projects of the first version",
            )
            .with("LAYOUT", Completes::Words(&["jobs", "tasks"])),
            option(
                None,
                "run-existing",
                "run the documents that are there already",
            ),
            option(None, "skills", "write the built-in skills into the project"),
            option(None, "no-restart", "does nothing; old scripts give it"),
        ],
        summary: "add a project and create its spool",
        details: &[
            "Creates the directories of the spool and adds the project to the registry; a \
             running daemon serves it within two seconds. Documents that are there already are \
             held, unless --run-existing is given.",
        ],
        examples: &[(
            "job-monitor register --skills .",
            "Serve the project around here.",
        )],
        build: |typed| {
            Ok(Command::Register {
                path: typed.operand().into(),
                name: typed.text("name")?,
                layout: typed.layout()?,
                run_existing: typed.flag("run-existing"),
                skills: typed.flag("skills"),
            })
        },
        ..ROW
    },
    CommandSpec {
        name: "unregister",
        group: Group::Projects,
        scoped: false,
        operand: Operand::One(PROJECT_NAME),
        summary: "remove a project from the registry",
        details: &["Nothing in the project's directory is touched."],
        build: |typed| typed.name().map(|name| Command::Unregister { name }),
        ..ROW
    },
    CommandSpec {
        name: "enable",
        group: Group::Projects,
        scoped: false,
        operand: Operand::One(PROJECT_NAME),
        summary: "start jobs of a project again",
        build: |typed| typed.name().map(|name| Command::Enable { name }),
        ..ROW
    },
    CommandSpec {
        name: "disable",
        group: Group::Projects,
        scoped: false,
        operand: Operand::One(PROJECT_NAME),
        summary: "start no more jobs of a project",
        joined: Some("start jobs of a project, or no more of them"),
        details: &["A job that runs is left to end by itself."],
        build: |typed| typed.name().map(|name| Command::Disable { name }),
        ..ROW
    },
    CommandSpec {
        name: "daemon",
        group: Group::Daemon,
        scoped: false,
        summary: "run the monitor in the foreground",
        details: &[
            "Serves every registered project until SIGTERM or SIGINT. Agents that run then are \
             ended; their jobs are taken up again at the next start. The service \
             job-monitor.service runs this command. The exit status is 5 when another daemon \
             serves this user already.",
        ],
        build: |_| Ok(Command::Daemon),
        ..ROW
    },
    CommandSpec {
        name: "restart",
        group: Group::Daemon,
        scoped: false,
        summary: "restart the service",
        joined: Some("run the monitor here; restart its service"),
        details: &[
            "Does what systemctl --user restart job-monitor does, or says how the daemon was \
             started. Never needed after a change of registry or settings.",
        ],
        build: |_| Ok(Command::Restart),
        ..ROW
    },
    CommandSpec {
        name: "doctor",
        group: Group::Daemon,
        json: true,
        summary: "what could stop jobs, with a remedy for each",
        details: &[
            "Checks the agent and its authentication, skills, credentials file, service, \
             inotify limits, owners and modes of directories, and disk space. Each line is ok, \
             a warning or a problem with its remedy. The exit status is 1 when a problem would \
             stop jobs.",
        ],
        build: |_| Ok(Command::Doctor),
        ..ROW
    },
    CommandSpec {
        name: "completions",
        group: Group::Daemon,
        scoped: false,
        operand: Operand::One(value("SHELL", Completes::Words(&["bash", "zsh", "fish"]))),
        summary: "print the completions for a shell",
        details: &[
            "make install puts them where the shells look. To try them out: \
             source <(job-monitor completions bash), the same with zsh, or \
             job-monitor completions fish | source.",
        ],
        build: |typed| typed.shell().map(|shell| Command::Completions { shell }),
        ..ROW
    },
    CommandSpec {
        name: "man",
        group: Group::Daemon,
        scoped: false,
        summary: "print the manual page",
        joined: Some("shell completions; the manual page"),
        details: &["In roff, as man -l - reads it."],
        examples: &[(
            "job-monitor man | man -l -",
            "Read the manual without installing it.",
        )],
        build: |_| Ok(Command::Man),
        ..ROW
    },
    CommandSpec {
        name: "help",
        group: Group::Daemon,
        scoped: false,
        operand: Operand::AtMostOne(value("COMMAND", Completes::Commands)),
        summary: "explain a command, or list them all",
        joined: Some("shell completions; the manual page; this help"),
        build: |typed| typed.topic().map(|topic| Command::Help { topic }),
        ..ROW
    },
];
