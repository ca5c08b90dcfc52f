//! From arguments to an [`Invocation`]. What is common to all commands is done here by the
//! table; the methods of [`Typed`] are what its rows pick their values with.

use super::complaint::{
    is_invisible, not_an_id, shown, unknown_command, unknown_option, unwanted_value, usage,
};
use super::table::{self, CommandSpec, GLOBALS, Operand, OptionSpec, Value};
use super::{AfterSubmit, COMMANDS, Command, Format, Invocation, Jobs, Shell, Source, help};
use crate::error::{Error, Result};
use crate::job::JobId;
use crate::project::Layout;
use crate::time::{self, Wall};
use lexopt::Arg;
use std::ffi::{OsStr, OsString};
use std::time::Duration;

/// A command line sorted by the table, before its command makes sense of it.
pub(super) struct Typed {
    spec: &'static CommandSpec,
    options: Vec<(&'static OptionSpec, OsString)>,
    operands: Vec<OsString>,
}

/// How many jobs `status` tells of unless asked otherwise.
const STATUS_LIMIT: usize = 20;

/// Reads the arguments, the program's own name not among them. Every error is a sentence
/// without control characters and has the exit status of wrong usage, 2.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Invocation> {
    let args: Vec<OsString> = args.into_iter().collect();
    match sort(&args) {
        // Whoever asks for help gets it, however garbled the rest.
        Err(_) if asks_for_help(&args) => {
            let topic = args.iter().find_map(|word| command_named(word.to_str()?));
            Ok(Invocation::plain(Command::Help {
                topic: topic.map(|spec| spec.name),
            }))
        }
        sorted => sorted,
    }
}

fn asks_for_help(args: &[OsString]) -> bool {
    let mut before_operands = args.iter().take_while(|word| *word != "--");
    before_operands.any(|word| word == "-h" || word == "--help")
}

/// Goes through the arguments once, sorting options from operands, and builds the command.
fn sort(args: &[OsString]) -> Result<Invocation> {
    if args.is_empty() {
        return Ok(Invocation::plain(Command::Nothing));
    }
    let mut parser = lexopt::Parser::from_args(args);
    let mut spec: Option<&'static CommandSpec> = None;
    let mut options: Vec<(&'static OptionSpec, OsString)> = Vec::new();
    let mut operands: Vec<OsString> = Vec::new();
    while let Some(arg) = parser.next().map_err(unwanted_value)? {
        let option = match arg {
            Arg::Short(letter) => find_option(spec, |option| option.short == Some(letter))
                .ok_or_else(|| unknown_option(spec, &format!("-{letter}")))?,
            Arg::Long(name) => find_option(spec, |option| option.long == name)
                .ok_or_else(|| unknown_option(spec, &format!("--{name}")))?,
            Arg::Value(word) if spec.is_some() => {
                operands.push(word);
                continue;
            }
            Arg::Value(word) => {
                let first = spec.insert(first_word(&word)?);
                if word != first.name {
                    operands.push(word); // An id alone: `show` is understood.
                }
                continue;
            }
        };
        let value = match option.value {
            Some(value) => value_of(&mut parser, option, value)?,
            None => OsString::new(),
        };
        options.push((option, value));
    }
    let given = |long| options.iter().any(|(option, _)| option.long == long);
    if given("help") {
        let topic = spec.map(|spec| spec.name);
        return Ok(Invocation::plain(Command::Help { topic }));
    }
    if given("version") {
        return Ok(Invocation::plain(Command::Version));
    }
    let Some(spec) = spec else {
        return Err(usage("no command; job-monitor --help lists all"));
    };
    Typed {
        spec,
        options,
        operands,
    }
    .understand()
}

/// The command that a first word stands for: its name, or a job id for `show`.
fn first_word(word: &OsStr) -> Result<&'static CommandSpec> {
    let text = word.to_string_lossy();
    let first = match JobId::parse(&text) {
        Some(_) => table::SHOW,
        None => &text,
    };
    if let Some(spec) = command_named(first) {
        return Ok(spec);
    }
    let lower = text.to_ascii_lowercase();
    let like_an_id = lower.starts_with("job-") || lower.starts_with("task-");
    let like_a_path = text.contains(['/', '.']) || text.chars().any(is_invisible);
    if like_an_id || like_a_path || word.to_str().is_none() {
        return Err(not_an_id(word));
    }
    Err(unknown_command(word))
}

fn command_named(name: &str) -> Option<&'static CommandSpec> {
    COMMANDS.iter().find(|spec| spec.name == name)
}

/// Finds an option of the command, if that is known by now, or of the whole program.
fn find_option(
    spec: Option<&'static CommandSpec>,
    is_it: impl Fn(&OptionSpec) -> bool,
) -> Option<&'static OptionSpec> {
    let own = spec.map_or(&[][..], |spec| spec.options);
    own.iter().chain(GLOBALS).find(|option| is_it(option))
}

/// The value of an option. One that stands apart must not look like an option: it is a
/// forgotten value far more often than a value. `--name=-x` says it anyway.
fn value_of(parser: &mut lexopt::Parser, option: &OptionSpec, value: Value) -> Result<OsString> {
    if let Some(attached) = parser.optional_value() {
        return Ok(attached);
    }
    match parser.value() {
        Ok(next) if next == "-" || !next.as_encoded_bytes().starts_with(b"-") => Ok(next),
        _ => Err(usage(format!(
            "--{} needs a value: --{} {}",
            option.long, option.long, value.name
        ))),
    }
}

impl Invocation {
    fn plain(command: Command) -> Invocation {
        Invocation {
            project: None,
            format: Format::Text,
            command,
        }
    }
}

impl Typed {
    /// Checks what the table says of every command, then lets the command's row do the rest.
    fn understand(self) -> Result<Invocation> {
        let Typed { spec, operands, .. } = &self;
        let format = match self.flag("json") {
            true if spec.json => Format::Json,
            true => return Err(self.no_json()),
            false => Format::Text,
        };
        let (least, most) = match spec.operand {
            Operand::None => (0, 0),
            Operand::AtMostOne(_) => (0, 1),
            Operand::One(_) => (1, 1),
            Operand::Several(_) => (1, usize::MAX),
            Operand::SeveralOrAll(_) => (usize::from(!self.flag("all")), usize::MAX),
        };
        if operands.len() < least {
            return Err(self.no_operand());
        }
        if let Some(extra) = operands.get(most) {
            return Err(usage(format!(
                "unexpected argument {}; usage: {}",
                shown(extra),
                help::synopsis(spec)
            )));
        }
        Ok(Invocation {
            project: self.text("project")?,
            format,
            command: (spec.build)(&self)?,
        })
    }

    fn no_operand(&self) -> Error {
        let Typed { spec, .. } = self;
        let noun = spec.operand.value().map(|value| value.completes.noun());
        let or_all = match spec.operand {
            Operand::SeveralOrAll(_) => ", or --all",
            _ => "",
        };
        let noun = noun.unwrap_or_default();
        usage(format!(
            "{} needs {noun}{or_all}; usage: {}",
            spec.name,
            help::synopsis(spec)
        ))
    }

    fn no_json(&self) -> Error {
        let readers = COMMANDS.iter().filter(|spec| spec.json);
        let names: Vec<_> = readers.map(|spec| spec.name).collect();
        let name = self.spec.name;
        usage(format!(
            "{name} has no --json; these have: {}",
            names.join(", ")
        ))
    }

    pub(super) fn flag(&self, long: &str) -> bool {
        self.value(long).is_some()
    }

    /// The value of an option; the last one if it was given repeatedly.
    fn value(&self, long: &str) -> Option<&OsStr> {
        let mut from_last = self.options.iter().rev();
        from_last
            .find(|(option, _)| option.long == long)
            .map(|(_, value)| value.as_os_str())
    }

    pub(super) fn text(&self, long: &str) -> Result<Option<String>> {
        let value = self
            .value(long)
            .map(|value| utf8(value, &format!("the value of --{long}")));
        Ok(value.transpose()?.map(str::to_owned))
    }

    /// The value of an option as `read` understands it; `form` says what it should be.
    fn parsed<T>(
        &self,
        long: &str,
        form: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>> {
        let understood = |value: &OsStr| {
            let read = value.to_str().and_then(&read);
            read.ok_or_else(|| usage(format!("--{long} needs {form}, not {}", shown(value))))
        };
        self.value(long).map(understood).transpose()
    }

    pub(super) fn limit(&self) -> Result<Option<usize>> {
        let limit = self.parsed("limit", "a whole number", |text| text.parse().ok())?;
        match (limit, self.flag("all")) {
            (Some(_), true) => Err(usage("--limit and --all exclude each other")),
            (None, true) => Ok(None),
            (limit, false) => Ok(limit.or(Some(STATUS_LIMIT))),
        }
    }

    pub(super) fn timeout(&self) -> Result<Option<Duration>> {
        let form = "a duration such as 90s, 30m, 2h or 1h30m";
        self.parsed("timeout", form, time::parse_duration)
    }

    pub(super) fn since(&self) -> Result<Option<String>> {
        let form = "a date such as 2026-01-30 or a duration such as 7d";
        self.parsed("since", form, |text| {
            // Midnight in UTC: whether a date exists does not depend on the zone.
            let date = text.len() == 10 && Wall::parse(&format!("{text}T00:00:00Z")).is_some();
            (date || time::parse_duration(text).is_some()).then(|| text.to_owned())
        })
    }

    pub(super) fn layout(&self) -> Result<Option<Layout>> {
        let layouts = [Layout::Jobs, Layout::Tasks];
        self.parsed("layout", "jobs or tasks", |text| {
            layouts.into_iter().find(|layout| layout.as_str() == text)
        })
    }

    /// The only operand; the table has seen to it that there is one.
    pub(super) fn operand(&self) -> &OsStr {
        self.operands
            .first()
            .map_or(OsStr::new(""), |operand| operand)
    }

    pub(super) fn name(&self) -> Result<String> {
        utf8(self.operand(), "the project's name").map(str::to_owned)
    }

    pub(super) fn id(&self) -> Result<JobId> {
        id(self.operand())
    }

    pub(super) fn ids(&self) -> Result<Vec<JobId>> {
        self.operands.iter().map(|word| id(word)).collect()
    }

    pub(super) fn jobs(&self) -> Result<Jobs> {
        match (self.flag("all"), self.operands.is_empty()) {
            (true, true) => Ok(Jobs::All),
            (true, false) => Err(usage("--all and job ids exclude each other")),
            (false, _) => self.ids().map(Jobs::These),
        }
    }

    pub(super) fn source(&self) -> Source {
        match self.operands.first() {
            Some(dash) if dash == "-" => Source::Stdin,
            Some(file) => Source::File(file.into()),
            None => Source::Editor,
        }
    }

    pub(super) fn after_submit(&self) -> AfterSubmit {
        match (self.flag("follow"), self.flag("wait")) {
            (true, _) => AfterSubmit::Follow,
            (false, true) => AfterSubmit::Wait,
            (false, false) => AfterSubmit::Return,
        }
    }

    pub(super) fn shell(&self) -> Result<Shell> {
        match self.operand().to_str() {
            Some("bash") => Ok(Shell::Bash),
            Some("zsh") => Ok(Shell::Zsh),
            Some("fish") => Ok(Shell::Fish),
            _ => Err(usage(format!(
                "no completions for {}; SHELL is bash, zsh or fish",
                shown(self.operand())
            ))),
        }
    }

    pub(super) fn topic(&self) -> Result<Option<&'static str>> {
        let Some(word) = self.operands.first() else {
            return Ok(None);
        };
        let spec = word.to_str().and_then(command_named);
        spec.map(|spec| Some(spec.name))
            .ok_or_else(|| unknown_command(word))
    }
}

fn id(word: &OsStr) -> Result<JobId> {
    word.to_str()
        .and_then(JobId::parse)
        .ok_or_else(|| not_an_id(word))
}

fn utf8<'a>(word: &'a OsStr, what: &str) -> Result<&'a str> {
    let text = word.to_str();
    text.ok_or_else(|| usage(format!("{what} is not valid UTF-8: {}", shown(word))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Exit;
    use std::os::unix::ffi::OsStringExt;

    const A: &str = "job-20260130-143000-a";
    const B: &str = "job-20260130-143000-b";

    fn parsed(line: &str) -> Result<Invocation> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn command(line: &str) -> Command {
        parsed(line)
            .unwrap_or_else(|error| panic!("{line}: {error}"))
            .command
    }

    fn complaint(line: &str) -> String {
        let error = parsed(line).expect_err(line);
        assert_eq!(error.exit, Exit::Usage, "{line}");
        error.to_string()
    }

    fn job(text: &str) -> JobId {
        JobId::parse(text).expect("it is a job id")
    }

    #[test]
    fn commands_without_arguments() {
        assert_eq!(command(""), Command::Nothing);
        assert_eq!(command("queue"), Command::Queue);
        assert_eq!(command("list"), Command::List);
        assert_eq!(command("watch"), Command::Watch);
        assert_eq!(command("daemon"), Command::Daemon);
        assert_eq!(command("restart"), Command::Restart);
        assert_eq!(command("doctor"), Command::Doctor);
        assert_eq!(command("man"), Command::Man);
        assert_eq!(command("--version"), Command::Version);
        assert_eq!(command("-V"), Command::Version);
        assert!(complaint("queue x").contains("unexpected argument \"x\""));
        assert!(complaint("-p x").contains("no command"));
    }

    #[test]
    fn an_id_alone_shows_the_job() {
        for line in [
            A.to_owned(),
            format!("{A}.md"),
            format!("show {A}"),
            format!("-- {A}"),
        ] {
            assert_eq!(command(&line), Command::Show { id: job(A) });
        }
        assert_eq!(command("task-x"), Command::Show { id: job("task-x") });
        assert!(complaint(&format!("{A} {B}")).contains("unexpected argument"));
        assert!(complaint("show").starts_with("show needs a job id; usage: job-monitor show ID"));
    }

    #[test]
    fn global_options_stand_on_both_sides_of_the_command() {
        for line in [
            "-p web --json queue",
            "queue -p web --json",
            "--json queue --project=web",
            "-pweb queue --json",
        ] {
            let invocation = parsed(line).expect(line);
            assert_eq!(invocation.project.as_deref(), Some("web"), "{line}");
            assert_eq!(invocation.format, Format::Json, "{line}");
            assert_eq!(invocation.command, Command::Queue, "{line}");
        }
        assert_eq!(
            parsed("-p a queue -p b").expect("twice").project.as_deref(),
            Some("b")
        );
        assert_eq!(parsed("queue").expect("plain").format, Format::Text);
        assert!(
            complaint(&format!("cancel --json {A}"))
                .starts_with("cancel has no --json; these have: queue,")
        );
        assert!(complaint("queue -p").contains("--project needs a value: --project PROJECT"));
        assert!(complaint("-p --json queue").contains("--project needs a value"));
        assert!(complaint("queue --json=yes").contains("\"--json\" takes no value"));
        assert!(complaint("--all status").contains("goes after the command"));
    }

    #[test]
    fn status_tells_of_twenty_jobs_unless_asked_otherwise() {
        assert_eq!(command("status"), Command::Status { limit: Some(20) });
        assert_eq!(command("status --all"), Command::Status { limit: None });
        assert_eq!(
            command("status --limit 5"),
            Command::Status { limit: Some(5) }
        );
        assert_eq!(command("status -n5"), Command::Status { limit: Some(5) });
        assert!(complaint("status --limit -5").contains("needs a value"));
        assert!(complaint("status --limit=x").contains("needs a whole number, not \"x\""));
        assert!(complaint("status --all --limit 5").contains("exclude each other"));
    }

    #[test]
    fn submit_takes_a_file_standard_input_or_an_editor() {
        let submit = |source, then| Command::Submit {
            description: None,
            source,
            then,
        };
        assert_eq!(
            command("submit"),
            submit(Source::Editor, AfterSubmit::Return)
        );
        assert_eq!(
            command("submit - --wait"),
            submit(Source::Stdin, AfterSubmit::Wait)
        );
        assert_eq!(
            command("submit --follow --wait x.md"),
            submit(Source::File("x.md".into()), AfterSubmit::Follow)
        );
        assert_eq!(
            command("submit -- -x"),
            submit(Source::File("-x".into()), AfterSubmit::Return)
        );
        let described = |line| match command(line) {
            Command::Submit { description, .. } => description,
            other => panic!("{other:?}"),
        };
        assert_eq!(described("submit -d fix x.md").as_deref(), Some("fix"));
        assert_eq!(
            described("submit --description=-x x.md").as_deref(),
            Some("-x")
        );
        assert!(complaint("submit a b").contains("unexpected argument \"b\""));
    }

    #[test]
    fn wait_and_logs() {
        let ids = vec![job(A), job(B)];
        let timeout = Some(Duration::from_secs(5400));
        assert_eq!(
            command(&format!("wait {A} {B}.md --timeout 1h30m")),
            Command::Wait { ids, timeout }
        );
        assert!(complaint("wait").contains("wait needs a job id"));
        assert!(complaint(&format!("wait --timeout soon {A}")).contains("duration such as 90s"));
        let logs = |follow, raw| Command::Logs {
            id: job(A),
            follow,
            raw,
        };
        assert_eq!(command(&format!("logs {A}")), logs(false, false));
        assert_eq!(command(&format!("logs -f {A}")), logs(true, false));
        assert_eq!(
            command(&format!("logs {A} --raw --follow")),
            logs(true, true)
        );
    }

    #[test]
    fn jobs_are_named_or_all_where_all_makes_sense() {
        let these = || Jobs::These(vec![job(A), job(B)]);
        assert_eq!(
            command(&format!("cancel {A} {B}")),
            Command::Cancel { jobs: these() }
        );
        assert_eq!(
            command(&format!("retry {A} {B}")),
            Command::Retry { jobs: these() }
        );
        assert_eq!(
            command(&format!("hold {A} {B}")),
            Command::Hold { jobs: these() }
        );
        assert_eq!(
            command(&format!("release {A} {B}")),
            Command::Release { jobs: these() }
        );
        assert_eq!(command("cancel --all"), Command::Cancel { jobs: Jobs::All });
        assert_eq!(command("hold --all"), Command::Hold { jobs: Jobs::All });
        assert_eq!(
            command("release --all"),
            Command::Release { jobs: Jobs::All }
        );
        assert!(complaint("retry --all").contains("unknown option \"--all\" of retry"));
        assert!(complaint("cancel").contains("cancel needs a job id, or --all"));
        assert!(complaint(&format!("cancel --all {A}")).contains("exclude each other"));
    }

    #[test]
    fn projects_are_managed_by_name() {
        let name = || "web".to_owned();
        assert_eq!(
            command("unregister web"),
            Command::Unregister { name: name() }
        );
        assert_eq!(command("enable web"), Command::Enable { name: name() });
        assert_eq!(command("disable web"), Command::Disable { name: name() });
        let plain = Command::Register {
            path: ".".into(),
            name: None,
            layout: None,
            run_existing: false,
            skills: false,
        };
        assert_eq!(command("register ."), plain);
        assert_eq!(command("register --no-restart ."), plain);
        let full = Command::Register {
            path: "/srv/web".into(),
            name: Some(name()),
            layout: Some(Layout::Tasks),
            run_existing: true,
            skills: true,
        };
        assert_eq!(
            command("register /srv/web --name web --layout tasks --run-existing --skills"),
            full
        );
        assert!(
            complaint("register . --layout x").contains("--layout needs jobs or tasks, not \"x\"")
        );
        assert!(complaint("register").contains("register needs a directory"));
    }

    #[test]
    fn stats_start_at_a_date_or_so_long_ago() {
        let since = |text: &str| Command::Stats {
            since: Some(text.to_owned()),
        };
        assert_eq!(command("stats"), Command::Stats { since: None });
        assert_eq!(command("stats --since 2026-01-30"), since("2026-01-30"));
        assert_eq!(command("stats --since 7d"), since("7d"));
        for bad in [
            "2026-13-30",
            "2026-01-30T00:00:00",
            "yesterday",
            "7",
            "2026-1-3",
        ] {
            assert!(
                complaint(&format!("stats --since {bad}")).contains("a date such as"),
                "{bad}"
            );
        }
    }

    #[test]
    fn help_is_there_for_whoever_asks() {
        let help = |topic| Command::Help { topic };
        for line in [
            "--help",
            "-h",
            "help",
            "--nonsense --help",
            "help --nonsense -h zzz",
        ] {
            assert!(matches!(command(line), Command::Help { .. }), "{line}");
        }
        assert_eq!(command("help wait"), help(Some("wait")));
        for line in [
            "wait --help",
            "--help wait",
            "wait --nonsense -h",
            "wait -d --help",
            "-p x wait -h --json=3",
        ] {
            assert_eq!(command(line), help(Some("wait")), "{line}");
        }
        assert_eq!(command(&format!("{A} --help")), help(Some("show")));
        assert_eq!(command("help quue --help"), help(Some("help")));
        assert!(complaint("help quue").contains("did you mean \"queue\"?"));
        assert!(complaint("queue -- --help").contains("unexpected argument"));
    }

    #[test]
    fn completions_are_for_three_shells() {
        assert_eq!(
            command("completions bash"),
            Command::Completions { shell: Shell::Bash }
        );
        assert_eq!(
            command("completions zsh"),
            Command::Completions { shell: Shell::Zsh }
        );
        assert_eq!(
            command("completions fish"),
            Command::Completions { shell: Shell::Fish }
        );
        assert!(complaint("completions ksh").contains("bash, zsh or fish"));
        assert!(complaint("completions").contains("one of bash, zsh, fish"));
    }

    #[test]
    fn what_is_no_job_id_is_called_so() {
        for line in [
            "../x",
            "/etc/passwd",
            "job-2026",
            "JOB-20260130-143000-a",
            "task-",
            "a\u{7}b",
            "cancel zzz",
        ] {
            let expected = "; a job id looks like job-20260130-143000-fix-bug";
            let text = complaint(line);
            assert!(
                text.starts_with("not a job id: \"") && text.ends_with(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn only_paths_may_be_other_than_utf8() {
        let odd = || OsString::from_vec(b"a\xff".to_vec());
        let with = |words: &[&str]| parse(words.iter().map(OsString::from).chain([odd()]));
        let path = std::path::PathBuf::from(odd());
        assert!(
            matches!(with(&["register"]).unwrap().command, Command::Register { path: p, .. } if p == path)
        );
        let submitted = with(&["submit"]).unwrap().command;
        assert!(matches!(submitted, Command::Submit { source: Source::File(p), .. } if p == path));
        for words in [
            &[][..],
            &["queue", "-p"],
            &["unregister"],
            &["cancel"],
            &["help"],
            &["submit", "-d"],
            &["--json"],
        ] {
            let error = with(words).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains("\"a\\xff\""), "{error}");
        }
    }

    /// Arguments put together from pieces that have meant trouble somewhere, by a generator
    /// that does the same in every run.
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
            b"job-20260130-143000-",
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
        for _ in 0..20_000 {
            let args: Vec<OsString> = (0..below(5))
                .map(|_| {
                    let pieces = (0..below(4)).flat_map(|_| PIECES[below(PIECES.len())].to_vec());
                    OsString::from_vec(pieces.collect())
                })
                .collect();
            if let Err(error) = parse(args.iter().cloned()) {
                let text = error.to_string();
                assert!(!text.chars().any(is_invisible), "{args:?}: {text:?}");
                assert_eq!(error.exit, Exit::Usage);
                assert!(text.len() < 600, "{text}");
            }
        }
    }
}
