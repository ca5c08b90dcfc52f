//! From arguments to an [`Invocation`].

use super::{
    AfterSubmit, Command, Format, Invocation, JobName, Jobs, Manner, Registration, Shell, Since,
    Source, Wanted, Which, Wishes, commands,
};
use crate::error::{Error, Exit, Result, is_harmful};
use crate::project::Layout;
use crate::text::nearest;
use crate::time::{Wall, parse_duration};
use lexopt::{Arg, Parser};
use std::ffi::{OsStr, OsString};
use std::time::Duration;

/// How many jobs `status` tells of unless asked otherwise.
const STATUS_LIMIT: usize = 20;
/// The longest piece of an argument that a message repeats, in characters.
const SHOWN_MAX: usize = 60;
/// Commands that read, and so can answer in JSON.
const READERS: [&str; 7] = [
    "queue", "status", "show", "stats", "config", "list", "doctor",
];
const A_DURATION: &str = "a duration such as 90s, 30m, 2h or 1h30m";

/// What was typed, before it is seen to make sense together.
#[derive(Default)]
struct Typed {
    command: Option<&'static str>,
    operands: Vec<OsString>,
    projects: Which,
    help: bool,
    version: bool,
    json: bool,
    all: bool,
    failed: bool,
    stat: bool,
    dry_run: bool,
    limit: Option<usize>,
    since: Option<Since>,
    timeout: Option<Duration>,
    older_than: Option<Duration>,
    manner: Manner,
    registration: Registration,
    wishes: Wishes,
}

/// Reads the arguments, the program's own name not among them. Every error is a sentence without
/// control characters and has the exit status of wrong usage, 2.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation> {
    let args: Vec<OsString> = args.into_iter().collect();
    let mut before_operands = args.iter().take_while(|word| *word != "--");
    match read(&args) {
        // Whoever asks for help gets it, however garbled the rest.
        Err(_) if before_operands.any(|word| word == "-h" || word == "--help") => {
            let topic = args.iter().find_map(|word| command_named(word.to_str()?));
            Ok(plain(Command::Help(topic)))
        }
        read => read,
    }
}

fn plain(command: Command) -> Invocation {
    Invocation {
        projects: Which::Around,
        format: Format::Text,
        command,
    }
}

fn read(args: &[OsString]) -> Result<Invocation> {
    match args.first() {
        None => return Ok(plain(Command::Nothing)),
        Some(first) if first == "complete" => {
            return Ok(plain(Command::Complete(args[1..].to_vec())));
        }
        Some(_) => {}
    }
    let mut parser = Parser::from_args(args);
    let mut typed = Typed::default();
    while let Some(arg) = parser.next().map_err(|e| usage(e.to_string()))? {
        match arg {
            Arg::Value(word) if typed.command.is_none() => typed.take_command(word)?,
            Arg::Value(word) => typed.operands.push(word),
            Arg::Short(letter) => {
                let long = typed.long_of(letter);
                let long = long.ok_or_else(|| typed.unknown_option(&format!("-{letter}")))?;
                typed.take_option(long, &mut parser)?;
            }
            Arg::Long(long) => {
                let long = long.to_owned();
                typed.take_option(&long, &mut parser)?;
            }
        }
    }
    if typed.help {
        return Ok(plain(Command::Help(typed.command)));
    }
    if typed.version {
        return Ok(plain(Command::Version));
    }
    typed.understand()
}

fn command_named(name: &str) -> Option<&'static str> {
    let name = match name {
        "pause" => "disable",
        "resume" => "enable",
        name => name,
    };
    commands()
        .map(|command| command.name)
        .find(|command| *command == name)
}

impl Typed {
    /// The first word: a command, or the id of a job to show.
    fn take_command(&mut self, word: OsString) -> Result<()> {
        let text = word.to_string_lossy();
        self.command = command_named(&text);
        if self.command.is_some() {
            return Ok(());
        }
        let begins = |start: &str| {
            text.get(..start.len())
                .is_some_and(|t| t.eq_ignore_ascii_case(start))
        };
        let like_an_id =
            begins("job-") || begins("task-") || text.starts_with(|c: char| c.is_ascii_digit());
        if like_an_id && JobName::parse(&text).is_some() {
            self.command = Some("show");
            self.operands.push(word);
            return Ok(());
        }
        if like_an_id
            || text.contains(['/', '.'])
            || text.contains(is_harmful)
            || word.to_str().is_none()
        {
            return Err(not_an_id(&word));
        }
        Err(unknown_command(&word))
    }

    fn long_of(&self, letter: char) -> Option<&'static str> {
        Some(match (letter, self.command) {
            ('p', _) => "project",
            ('a', _) => "all-projects",
            ('h', _) => "help",
            ('V', _) => "version",
            ('f', _) => "follow",
            ('d', _) => "description",
            ('n', Some("logs")) => "tail",
            ('n', _) => "limit",
            _ => return None,
        })
    }

    fn take_option(&mut self, long: &str, parser: &mut Parser) -> Result<()> {
        let command = self.command.unwrap_or_default();
        match (command, long) {
            (_, "help") => self.help = true,
            (_, "version") => self.version = true,
            (_, "json") => self.json = true,
            (_, "project") => self.projects = Which::Named(text(parser, long, "PROJECT")?),
            (_, "all-projects") | ("enable" | "disable", "all") => self.projects = Which::All,
            ("status" | "wait" | "cancel" | "hold" | "release", "all") => self.all = true,
            ("status", "limit") => self.limit = Some(number(parser, long)?),
            ("status" | "stats" | "retry", "since") => {
                let form = "a date such as 2026-01-30, today, or a duration such as 7d";
                self.since = Some(parsed(parser, long, "D", form, since)?);
            }
            ("status" | "retry", "failed") => self.failed = true,
            ("logs", "follow") => self.manner.follow = true,
            ("logs", "raw") => self.manner.raw = true,
            ("logs", "tail") => self.manner.tail = Some(number(parser, long)?),
            ("diff", "stat") => self.stat = true,
            ("wait", "timeout") => self.timeout = Some(duration(parser, long)?),
            ("clean", "older-than") => self.older_than = Some(duration(parser, long)?),
            ("clean", "dry-run") => self.dry_run = true,
            ("register", "name") => self.registration.name = Some(text(parser, long, "NAME")?),
            ("register", "layout") => {
                let layouts = [Layout::Jobs, Layout::Tasks];
                let named = |text: &str| layouts.into_iter().find(|layout| layout.as_str() == text);
                self.registration.layout =
                    Some(parsed(parser, long, "LAYOUT", "jobs or tasks", named)?);
            }
            ("register", "run-existing") => self.registration.run_existing = true,
            ("register", "skills") => self.registration.skills = true,
            ("register", "no-restart") => {}
            ("submit" | "reply", _) => return self.take_wish(long, parser),
            _ => return Err(self.unknown_option(&format!("--{long}"))),
        }
        Ok(())
    }

    fn take_wish(&mut self, long: &str, parser: &mut Parser) -> Result<()> {
        let reply = self.command == Some("reply");
        match long {
            "description" => self.wishes.description = Some(text(parser, long, "TEXT")?),
            "agent" if !reply => self.wishes.agent = Some(text(parser, long, "AGENT")?),
            "model" => self.wishes.model = Some(text(parser, long, "MODEL")?),
            "timeout" => self.wishes.timeout = Some(duration(parser, long)?),
            "hold" => self.wishes.hold = true,
            "wait" if self.wishes.then == AfterSubmit::Follow => {}
            "wait" => self.wishes.then = AfterSubmit::Wait,
            "follow" => self.wishes.then = AfterSubmit::Follow,
            _ => return Err(self.unknown_option(&format!("--{long}"))),
        }
        Ok(())
    }

    fn unknown_option(&self, typed: &str) -> Error {
        let of = self
            .command
            .map(|name| format!(" of {name}"))
            .unwrap_or_default();
        let help = self
            .command
            .map(|name| format!("{name} "))
            .unwrap_or_default();
        let own = commands().filter(|help| self.command.is_none_or(|name| help.name == name));
        let names: Vec<_> = own
            .flat_map(|help| help.options().map(|(long, _)| long))
            .chain(["help", "version"])
            .collect();
        let shown = shown(OsStr::new(typed));
        let long = typed.trim_start_matches('-');
        if self.command.is_none() && names.contains(&long) {
            return usage(format!("{shown} goes after the command that it belongs to"));
        }
        let guess = nearest(long, names).filter(|_| typed.starts_with("--"));
        let guess = guess
            .map(|name| format!("did you mean \"--{name}\"? "))
            .unwrap_or_default();
        usage(format!(
            "unknown option {shown}{of}; {guess}job-monitor {help}--help lists all"
        ))
    }

    /// Puts together what was typed.
    fn understand(mut self) -> Result<Invocation> {
        let Some(name) = self.command else {
            return Err(usage("no command; job-monitor --help lists all"));
        };
        let format = match self.json {
            true if READERS.contains(&name) => Format::Json,
            true => {
                let readers = READERS.join(", ");
                return Err(usage(format!(
                    "{name} has no --json; these have: {readers}"
                )));
            }
            false => Format::Text,
        };
        let command = self.reading(name).or_else(|| self.steering(name));
        let command = command.unwrap_or_else(|| self.managing(name))?;
        if let Some(extra) = self.operands.first() {
            return Err(usage(format!(
                "unexpected argument {}; usage: {}",
                shown(extra),
                usage_of(name)
            )));
        }
        Ok(Invocation {
            projects: self.projects,
            format,
            command,
        })
    }

    fn reading(&mut self, name: &str) -> Option<Result<Command>> {
        Some(match name {
            "queue" => Ok(Command::Queue),
            "status" => self.wanted().map(Command::Status),
            "show" => self.job().map(Command::Show),
            "logs" => self.job().map(|job| Command::Logs(job, self.manner)),
            "diff" => self.job().map(|job| Command::Diff(job, self.stat)),
            "wait" => self.jobs().map(|jobs| Command::Wait(jobs, self.timeout)),
            "stats" => Ok(Command::Stats(self.since)),
            "watch" => Ok(Command::Watch),
            "config" => Ok(Command::Config),
            "list" => Ok(Command::List),
            "doctor" => Ok(Command::Doctor),
            _ => return None,
        })
    }

    fn steering(&mut self, name: &str) -> Option<Result<Command>> {
        Some(match name {
            "submit" => self.texts(),
            "reply" => self.reply(),
            "open" => self.job().map(Command::Open),
            "edit" => self.needed_job().map(Command::Edit),
            "cancel" => self.jobs().map(Command::Cancel),
            "retry" => self.jobs().map(Command::Retry),
            "hold" => self.jobs().map(Command::Hold),
            "release" => self.jobs().map(Command::Release),
            "clean" => match self.older_than {
                Some(age) => Ok(Command::Clean(age, self.dry_run)),
                None => Err(self.lacks("--older-than DURATION")),
            },
            _ => return None,
        })
    }

    fn managing(&mut self, name: &'static str) -> Result<Command> {
        Ok(match name {
            "register" => {
                let path = self.needed("a directory")?.into();
                Command::Register(path, std::mem::take(&mut self.registration))
            }
            "unregister" => self.project(Command::Unregister)?,
            "enable" => self.project(Command::Enable)?,
            "disable" => self.project(Command::Disable)?,
            "daemon" => Command::Daemon,
            "restart" => Command::Restart,
            "completions" => {
                let word = self.needed("one of bash, zsh, fish")?;
                let shell = Shell::parse(&word.to_string_lossy());
                let none = || {
                    usage(format!(
                        "no completions for {}; there are some for bash, zsh, fish",
                        shown(&word)
                    ))
                };
                Command::Completions(shell.ok_or_else(none)?)
            }
            "man" => Command::Man,
            _ => match self.next() {
                None => Command::Help(None),
                Some(word) => {
                    let topic = word.to_str().and_then(command_named);
                    Command::Help(Some(topic.ok_or_else(|| unknown_command(&word))?))
                }
            },
        })
    }

    /// The project that a command changes stands behind it, as with `-p`.
    fn project(&mut self, command: Command) -> Result<Command> {
        if let Some(word) = self.next() {
            let name = utf8(&word, "the project's name")?.to_owned();
            if std::mem::replace(&mut self.projects, Which::Named(name)) != Which::Around {
                return Err(usage("one project is enough, and more than one was named"));
            }
        }
        match self.projects {
            Which::Around | Which::All if command == Command::Unregister => {
                Err(self.lacks("a project's name"))
            }
            _ => Ok(command),
        }
    }

    fn texts(&mut self) -> Result<Command> {
        let mut texts: Vec<_> = self.operands.drain(..).map(source).collect();
        if texts.is_empty() {
            texts.push(Source::Editor);
        }
        if texts.len() > 1 && self.wishes.then == AfterSubmit::Follow {
            return Err(usage(
                "--follow shows one job; use --wait for several files",
            ));
        }
        Ok(Command::Submit(texts, std::mem::take(&mut self.wishes)))
    }

    fn reply(&mut self) -> Result<Command> {
        let job = self.needed_job()?;
        let text = self.next().map_or(Source::Editor, source);
        Ok(Command::Reply(job, text, std::mem::take(&mut self.wishes)))
    }

    fn wanted(&self) -> Result<Wanted> {
        let (since, failed) = (self.since, self.failed);
        let limit = match (self.limit, self.all) {
            (Some(_), true) => return Err(usage("--limit and --all exclude each other")),
            (None, false) if since.is_none() => Some(STATUS_LIMIT),
            (limit, _) => limit,
        };
        Ok(Wanted {
            limit,
            since,
            failed,
        })
    }

    fn next(&mut self) -> Option<OsString> {
        (!self.operands.is_empty()).then(|| self.operands.remove(0))
    }

    fn lacks(&self, noun: &str) -> Error {
        let name = self.command.unwrap_or_default();
        usage(format!("{name} needs {noun}; usage: {}", usage_of(name)))
    }

    fn needed(&mut self, noun: &str) -> Result<OsString> {
        self.next().ok_or_else(|| self.lacks(noun))
    }

    fn job(&mut self) -> Result<Option<JobName>> {
        self.next().map(|word| job(&word)).transpose()
    }

    fn needed_job(&mut self) -> Result<JobName> {
        job(&self.needed("a job id")?)
    }

    fn jobs(&mut self) -> Result<Jobs> {
        let words = std::mem::take(&mut self.operands);
        let retry = self.command == Some("retry");
        let instead = if retry { "--failed" } else { "--all" };
        match (self.all || retry && self.failed, words.is_empty()) {
            (true, true) if retry => Ok(Jobs::Failed(self.since)),
            (true, true) => Ok(Jobs::All),
            (true, false) => Err(usage(format!("{instead} and job ids exclude each other"))),
            (false, true) => Err(self.lacks(&format!("a job id, or {instead}"))),
            (false, false) => words
                .iter()
                .map(|word| job(word))
                .collect::<Result<_>>()
                .map(Jobs::These),
        }
    }
}

fn source(word: OsString) -> Source {
    if word == "-" {
        Source::Stdin
    } else {
        Source::File(word.into())
    }
}

fn job(word: &OsStr) -> Result<JobName> {
    word.to_str()
        .and_then(JobName::parse)
        .ok_or_else(|| not_an_id(word))
}

fn since(text: &str) -> Option<Since> {
    let day = || {
        let day = Wall::parse(&format!("{text}T00:00:00"));
        day.filter(|_| text.len() == 10).map(Since::Day)
    };
    match text {
        "today" => Some(Since::Today),
        text => parse_duration(text).map(Since::Ago).or_else(day),
    }
}

/// The value of an option. One that stands apart must not look like an option: it is a forgotten
/// value far more often than a value. `--name=-x` says it anyway.
fn value(parser: &mut Parser, long: &str, word: &str) -> Result<OsString> {
    if let Some(attached) = parser.optional_value() {
        return Ok(attached);
    }
    match parser.value() {
        Ok(next) if next == "-" || !next.as_encoded_bytes().starts_with(b"-") => Ok(next),
        _ => Err(usage(format!("--{long} needs a value: --{long} {word}"))),
    }
}

fn text(parser: &mut Parser, long: &str, word: &str) -> Result<String> {
    let value = value(parser, long, word)?;
    utf8(&value, &format!("the value of --{long}")).map(str::to_owned)
}

/// The value of an option as `read` understands it; `form` says what it should be.
fn parsed<T>(
    parser: &mut Parser,
    long: &str,
    word: &str,
    form: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Result<T> {
    let value = value(parser, long, word)?;
    let read = value.to_str().and_then(read);
    read.ok_or_else(|| usage(format!("--{long} needs {form}, not {}", shown(&value))))
}

fn number(parser: &mut Parser, long: &str) -> Result<usize> {
    parsed(parser, long, "N", "a whole number", |text| {
        text.parse().ok()
    })
}

fn duration(parser: &mut Parser, long: &str) -> Result<Duration> {
    parsed(parser, long, "DURATION", A_DURATION, parse_duration)
}

fn utf8<'a>(word: &'a OsStr, what: &str) -> Result<&'a str> {
    word.to_str()
        .ok_or_else(|| usage(format!("{what} is not valid UTF-8: {}", shown(word))))
}

fn usage(text: impl Into<String>) -> Error {
    Error::with(Exit::Usage, text)
}

fn usage_of(name: &str) -> String {
    let help = commands().find(|command| command.name == name);
    format!(
        "job-monitor {}",
        help.map(|help| help.usage()).unwrap_or_default()
    )
}

fn not_an_id(word: &OsStr) -> Error {
    usage(format!(
        "not a job id: {}; a job id looks like job-20260130-143000-fix-bug",
        shown(word)
    ))
}

fn unknown_command(word: &OsStr) -> Error {
    let guess = nearest(
        &word.to_string_lossy(),
        commands().map(|command| command.name),
    );
    let guess = guess
        .map(|name| format!("did you mean \"{name}\"? "))
        .unwrap_or_default();
    usage(format!(
        "unknown command {}; {guess}job-monitor --help lists all",
        shown(word)
    ))
}

/// An argument as a message may repeat it: quoted, cut, and with nothing in it that could move a
/// cursor, change a colour or turn the direction of writing.
fn shown(word: &OsStr) -> String {
    let quoted = format!("{word:?}");
    match quoted.char_indices().nth(SHOWN_MAX) {
        Some((cut, _)) => format!("{}...\"", &quoted[..cut]),
        None => quoted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::CommandHelp;
    use std::os::unix::ffi::OsStringExt;

    const A: &str = "job-20260130-143000-a";

    fn parsed(line: &str) -> Result<Invocation> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn command(line: &str) -> Command {
        let parsed = parsed(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        parsed.command
    }

    fn complaint(line: &str) -> String {
        let error = parsed(line).expect_err(line);
        assert_eq!(error.exit, Exit::Usage, "{line}");
        error.to_string()
    }

    fn name(text: &str) -> JobName {
        JobName::parse(text).expect("it may name a job")
    }

    /// What the help says of an option is what the parser makes of it, for every command and option.
    #[test]
    fn the_help_and_the_parser_know_the_same_options() {
        let all: std::collections::BTreeSet<_> =
            commands().flat_map(CommandHelp::options).collect();
        for help in commands() {
            assert!(command_named(help.name).is_some());
            assert!(
                help.text.starts_with("Usage: job-monitor "),
                "{}",
                help.name
            );
            assert!(
                help.text
                    .lines()
                    .all(|line| line.len() <= 79 && line.trim_end() == line)
            );
            for &(long, value) in &all {
                let sample = match value {
                    Some("N") => " 7",
                    Some("D" | "DURATION") => " 1h30m",
                    Some("LAYOUT") => " tasks",
                    Some(_) => " x",
                    None => "",
                };
                let operand = match (help.operand(), long) {
                    (Some("ID"), "all" | "failed") | (Some("PROJECT"), "project") | (None, _) => "",
                    (Some("SHELL"), _) => " bash",
                    (Some("COMMAND"), _) => " queue",
                    (Some("PROJECT"), _) if long != "all" || help.name == "unregister" => " x",
                    (Some("PROJECT"), _) => "",
                    (Some(_), _) => " x",
                };
                let needed = if help.name == "clean" && long != "older-than" {
                    " --older-than 1d"
                } else {
                    ""
                };
                let line = format!("{}{needed} --{long}{sample}{operand}", help.name);
                let known = match parsed(&line) {
                    Ok(_) => true,
                    Err(error) if error.to_string().starts_with("unknown option") => false,
                    Err(error) if error.to_string().contains("has no --json") => false,
                    Err(error) if error.to_string().contains("more than one was named") => true,
                    Err(error) => panic!("{line}: {error}"),
                };
                // Those of the program are taken everywhere, and listed where they mean something.
                let listed = help.options().any(|option| option == (long, value));
                let global = ["project", "all-projects"].contains(&long);
                assert!(known == listed || known && global, "{line}");
            }
        }
        let overview = super::super::help(None);
        assert!(overview.lines().count() < 24 && overview.lines().all(|line| line.len() < 80));
        for help in commands() {
            assert!(overview.contains(help.name), "{}", help.name);
        }
    }

    #[test]
    fn examples_are_command_lines_that_parse() {
        let pages = commands().flat_map(|help| help.text.lines());
        let examples = pages.filter(|line| {
            line.starts_with("  ") && line.contains(" job-monitor ")
                || line.starts_with("  job-monitor ")
        });
        let mut count = 0;
        for line in examples {
            let start = line.find("job-monitor ").expect("it is about this program");
            let words = line[start..].split_whitespace().skip(1);
            let words = words.take_while(|word| !["|", "&&"].contains(word));
            parse(words.map(OsString::from)).unwrap_or_else(|error| panic!("{line}: {error}"));
            count += 1;
        }
        assert!(count > 10);
    }

    #[test]
    fn command_lines_mean_what_they_say() {
        let show = |job: Option<&str>| Command::Show(job.map(name));
        let logs = |follow, raw, tail| Command::Logs(Some(name(A)), Manner { follow, raw, tail });
        let status = |limit, since, failed| {
            Command::Status(Wanted {
                limit,
                since,
                failed,
            })
        };
        let submit = |texts: &[Source], then| {
            Command::Submit(
                texts.to_vec(),
                Wishes {
                    then,
                    ..Wishes::default()
                },
            )
        };
        let file = |path: &str| Source::File(path.into());
        let hour = Duration::from_secs(3600);
        for (line, expected) in [
            ("", Command::Nothing),
            ("-V", Command::Version),
            (A, show(Some(A))),
            ("show", show(None)),
            ("20260130-143000", show(Some("20260130-143000"))),
            ("show rotate", show(Some("rotate"))),
            ("status", status(Some(20), None, false)),
            ("status --all", status(None, None, false)),
            ("status -n5 --failed", status(Some(5), None, true)),
            (
                "status --since 1h",
                status(None, Some(Since::Ago(hour)), false),
            ),
            (
                "status --since today",
                status(None, Some(Since::Today), false),
            ),
            (&format!("logs -f {A} --raw -n3"), logs(true, true, Some(3))),
            ("submit", submit(&[Source::Editor], AfterSubmit::Return)),
            (
                "submit - --wait",
                submit(&[Source::Stdin], AfterSubmit::Wait),
            ),
            (
                "submit --follow --wait x.md",
                submit(&[file("x.md")], AfterSubmit::Follow),
            ),
            (
                "submit a b",
                submit(&[file("a"), file("b")], AfterSubmit::Return),
            ),
            ("submit -- -x", submit(&[file("-x")], AfterSubmit::Return)),
            (
                "wait --all --timeout 1h",
                Command::Wait(Jobs::All, Some(hour)),
            ),
            ("retry --failed", Command::Retry(Jobs::Failed(None))),
            (
                "hold a b",
                Command::Hold(Jobs::These(vec![name("a"), name("b")])),
            ),
            ("clean --older-than 1h", Command::Clean(hour, false)),
            ("pause web", Command::Disable),
            ("resume --all", Command::Enable),
            (
                "complete bash -p",
                Command::Complete(vec!["bash".into(), "-p".into()]),
            ),
            ("wait --nonsense -h", Command::Help(Some("wait"))),
            ("help quue --help", Command::Help(Some("help"))),
            (&format!("{A} --help"), Command::Help(Some("show"))),
        ] {
            assert_eq!(command(line), expected, "{line}");
        }
        for (line, projects) in [
            ("-p web --json queue", Which::Named("web".to_owned())),
            ("queue --json --project=web", Which::Named("web".to_owned())),
            ("queue -pweb --json", Which::Named("web".to_owned())),
            ("disable web", Which::Named("web".to_owned())),
            ("disable .", Which::Named(".".to_owned())),
            ("disable", Which::Around),
            ("disable --all", Which::All),
            ("hold -a --all", Which::All),
        ] {
            assert_eq!(parsed(line).expect(line).projects, projects, "{line}");
        }
    }

    #[test]
    fn what_is_not_understood_is_told_with_the_way_out() {
        for (line, said) in [
            (
                "queue x",
                "unexpected argument \"x\"; usage: job-monitor queue",
            ),
            ("-p x", "no command"),
            ("queue -p", "--project needs a value: --project PROJECT"),
            ("-p --json queue", "--project needs a value"),
            ("queue --json=yes", "--json"),
            ("--limit status", "goes after the command"),
            (
                "cancel --json a",
                "cancel has no --json; these have: queue,",
            ),
            ("status --limit=x", "needs a whole number, not \"x\""),
            ("status --all --limit 5", "exclude each other"),
            ("status --since yesterday", "a date such as"),
            ("submit --follow a b", "--follow shows one job"),
            (
                "wait",
                "wait needs a job id, or --all; usage: job-monitor wait",
            ),
            ("wait --timeout soon a", "duration such as 90s"),
            ("retry --all", "unknown option \"--all\" of retry"),
            ("cancel --all a", "exclude each other"),
            (
                "register . --layout x",
                "--layout needs jobs or tasks, not \"x\"",
            ),
            ("register", "register needs a directory"),
            ("unregister", "unregister needs a project's name"),
            ("-p a disable b", "more than one was named"),
            ("clean", "clean needs --older-than DURATION"),
            ("completions ksh", "bash, zsh, fish"),
            ("quue", "did you mean \"queue\"?"),
            ("logs --folow a", "did you mean \"--follow\"?"),
            (
                "frobnicate",
                "unknown command \"frobnicate\"; job-monitor --help lists all",
            ),
            (
                "../x",
                "not a job id: \"../x\"; a job id looks like job-20260130-143000-fix-bug",
            ),
            ("show /etc/passwd", "not a job id"),
            ("cancel ..", "not a job id"),
            ("a\u{7}b", "not a job id"),
        ] {
            let text = complaint(line);
            assert!(text.contains(said), "{line}: {text}");
        }
    }

    #[test]
    fn only_paths_may_be_other_than_utf8() {
        let odd = || OsString::from_vec(b"a\xff".to_vec());
        let with = |words: &[&str]| parse(words.iter().map(OsString::from).chain([odd()]));
        assert!(with(&["register"]).is_ok() && with(&["submit"]).is_ok());
        for words in [
            &[][..],
            &["queue", "-p"],
            &["unregister"],
            &["cancel"],
            &["help"],
            &["--json"],
        ] {
            let error = with(words).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("\"a\\xFF\""), "{error}");
        }
    }

    /// Arguments put together from pieces that have meant trouble somewhere, by a generator that
    /// does the same in every run.
    #[test]
    fn no_argument_makes_it_panic_or_reaches_the_terminal_raw() {
        const PIECES: &[&[u8]] = &[
            b"-",
            b"--",
            b"=",
            b"-p",
            b"--all",
            b"queue",
            b"submit",
            b"cancel",
            b"job-2026",
            b"\x1b[2J",
            b"\n",
            b"\r",
            b"\0",
            b"\x7f",
            b"\xc2\x9b",
            b"\xe2\x80\xae",
            b"\xff",
            b"\xf0\x9f",
            b"\"",
            b"'",
            b"9",
            b"d",
            b"..",
            b"/",
            b"%s",
            b" ",
            b"\xcc\x81",
            b"-d",
            b"--limit",
            b"status",
            b"help",
            b"register",
        ];
        let mut seed = 1_u64;
        let mut below = |bound: usize| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % bound
        };
        for _ in 0..5_000 {
            let args: Vec<OsString> = (0..below(5))
                .map(|_| {
                    let pieces = (0..below(4)).flat_map(|_| PIECES[below(PIECES.len())].to_vec());
                    OsString::from_vec(pieces.collect())
                })
                .collect();
            if let Err(error) = parse(args.iter().cloned()) {
                let text = error.to_string();
                assert!(
                    !text.contains(|c| is_harmful(c) || c == '\n'),
                    "{args:?}: {text:?}"
                );
                assert_eq!(error.exit, Exit::Usage);
                assert!(text.len() < 600, "{text}");
            }
        }
    }
}
