//! The command line as values: what was typed, and nothing done about it. No file, clock or
//! environment is touched here, so help works on a broken system too.
//!
//! One table, `table.rs`, holds every command and option. This parser, the help, the manual
//! page and the shell completions all read it, so that they cannot disagree.

mod complaint;
mod completions;
mod help;
mod man;
mod parse;
mod table;

pub(crate) use complaint::distance;
pub use completions::completions;
pub use help::help;
pub use man::man_page;
pub use parse::parse;
pub use table::{COMMANDS, CommandSpec, Completes, GLOBALS, Group, Operand, OptionSpec, Value};

use crate::job::JobId;
use crate::project::Layout;
use std::path::PathBuf;
use std::time::Duration;

/// One run of the program, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// The project that `-p` names: a registered name, or a path in a registered project.
    pub project: Option<String>,
    /// How the answer is wanted. `Json` only ever comes with a command that reads.
    pub format: Format,
    /// What is to be done.
    pub command: Command,
}

/// For whom an answer is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// For a person.
    Text,
    /// For a program: one JSON document.
    Json,
}

/// What is to be done, with everything that was said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // The table says what commands and options mean.
pub enum Command {
    /// Nothing was typed at all. The caller prints `help(None)` to standard error and exits
    /// with status 2: a person sees what there is, and a script notices its mistake.
    Nothing,
    Queue,
    /// No limit means all jobs.
    Status {
        limit: Option<usize>,
    },
    Show {
        id: JobId,
    },
    Logs {
        id: JobId,
        follow: bool,
        raw: bool,
    },
    Wait {
        ids: Vec<JobId>,
        timeout: Option<Duration>,
    },
    /// `since` is a date, `2026-01-30`, or a duration, `7d`; it was checked to be one of them.
    Stats {
        since: Option<String>,
    },
    Watch,
    Submit {
        description: Option<String>,
        source: Source,
        then: AfterSubmit,
    },
    Cancel {
        jobs: Jobs,
    },
    /// Never [`Jobs::All`].
    Retry {
        jobs: Jobs,
    },
    Hold {
        jobs: Jobs,
    },
    Release {
        jobs: Jobs,
    },
    List,
    Register {
        path: PathBuf,
        name: Option<String>,
        layout: Option<Layout>,
        run_existing: bool,
        skills: bool,
    },
    Unregister {
        name: String,
    },
    Enable {
        name: String,
    },
    Disable {
        name: String,
    },
    Daemon,
    Restart,
    Doctor,
    Completions {
        shell: Shell,
    },
    Man,
    /// The topic is the name of a command; without one, the whole program is meant.
    Help {
        topic: Option<&'static str>,
    },
    Version,
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

/// What `submit` does once the job is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterSubmit {
    /// Print the id and return.
    Return,
    /// Wait as `wait` does.
    Wait,
    /// Show what the agent does until the job is done, then end as `wait` does.
    Follow,
}

/// Which jobs a command is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Jobs {
    /// These, at least one.
    These(Vec<JobId>),
    /// Every job for which the command makes sense.
    All,
}

/// A shell that we can write completions for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Each is called what it is.
pub enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

    fn in_groff(text: &str) -> String {
        text.replace('-', "\\-")
    }

    #[test]
    fn parser_help_manual_and_completions_know_every_row_of_the_table() {
        let (overview, manual) = (help(None), man_page());
        for spec in COMMANDS {
            let page = help(Some(spec.name));
            assert!(page.contains(&format!("job-monitor {}", spec.name)));
            assert!(overview.contains(spec.name), "{}", spec.name);
            assert!(manual.contains(&in_groff(&format!("\n.B {}", spec.name))));
            for shell in SHELLS {
                assert!(
                    completions(shell).contains(spec.name),
                    "{shell:?} {}",
                    spec.name
                );
            }
            for option in spec.options.iter().chain(GLOBALS) {
                let offered = spec
                    .offered_options()
                    .any(|offered| offered.long == option.long);
                let long = format!("--{}", option.long);
                assert_eq!(
                    page.contains(&format!("{long} ")),
                    offered,
                    "{} {long}",
                    spec.name
                );
                assert!(manual.contains(&in_groff(&long)), "{long}");
                assert!(completions(Shell::Bash).contains(&long), "{long}");
                assert!(completions(Shell::Zsh).contains(&long), "{long}");
                assert!(completions(Shell::Fish).contains(&format!(" -l {}", option.long)));
            }
        }
    }

    #[test]
    fn a_project_can_be_chosen_where_that_makes_a_difference() {
        for (name, offers) in [
            ("queue", true),
            ("cancel", true),
            ("list", true),
            ("doctor", true),
            ("enable", false),
            ("register", false),
            ("daemon", false),
            ("help", false),
        ] {
            assert_eq!(help(Some(name)).contains("--project"), offers, "{name}");
        }
    }

    #[test]
    fn every_row_parses_with_each_of_its_options() {
        let sample = |value: Value| match (value.name, value.completes) {
            (_, Completes::Jobs | Completes::OpenJobs) => "job-20260130-143000-x",
            (_, Completes::Words(words)) => words[0],
            ("N" | "TEXT" | "NAME", _) => "7",
            ("DURATION" | "D", _) => "1h30m",
            ("COMMAND", _) => "queue",
            _ => "somewhere",
        };
        for spec in COMMANDS {
            let operand = spec.operand.value().map(sample);
            for option in spec.offered_options().map(Some).chain([None]) {
                let mut words = vec![spec.name.to_owned()];
                words.extend(option.map(|option| format!("--{}", option.long)));
                let value = option.and_then(|option| option.value);
                words.extend(value.map(|value| sample(value).to_owned()));
                if option.is_none_or(|option| option.long != "all") {
                    words.extend(operand.map(str::to_owned));
                }
                let parsed = parse(words.iter().map(OsString::from));
                let parsed = parsed.unwrap_or_else(|error| panic!("{words:?}: {error}"));
                assert_ne!(parsed.command, Command::Nothing, "{words:?}");
            }
        }
    }

    #[test]
    fn examples_are_command_lines_that_parse() {
        for (line, _) in COMMANDS.iter().flat_map(|spec| spec.examples) {
            let start = line.find("job-monitor ").expect("it is about this program");
            let words = line[start..].split_whitespace().skip(1);
            let words = words.take_while(|word| !["|", "&&"].contains(word));
            parse(words.map(OsString::from)).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn help_and_the_prompt_after_it_fit_a_terminal_of_80_columns_and_24_lines() {
        let overview = help(None);
        assert!(overview.lines().count() < 24, "{overview}");
        let pages = COMMANDS.iter().map(|spec| help(Some(spec.name)));
        for line in pages
            .chain([overview])
            .flat_map(|page| page.lines().map(str::to_owned).collect::<Vec<_>>())
        {
            assert!(line.chars().count() <= 79, "{line}");
            assert_eq!(line.trim_end(), line);
        }
    }

    #[test]
    fn the_table_is_plain_text_that_every_format_can_carry() {
        for spec in COMMANDS {
            let options = spec.options.iter().chain(GLOBALS).map(|option| option.help);
            let examples = spec
                .examples
                .iter()
                .flat_map(|(line, purpose)| [*line, *purpose]);
            let texts = options.chain(examples).chain(spec.details.iter().copied());
            for text in texts.chain([spec.summary]).chain(spec.joined) {
                let plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
                assert!(
                    plain && !text.contains("  ") && !text.contains('@'),
                    "{text}"
                );
            }
        }
    }
}
