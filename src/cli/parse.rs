//! From arguments to [`Asked`].

use super::{Asked, CommandHelp, Format, Which, commands};
use crate::error::{Error, Exit, Result};
use crate::project;
use crate::time::{Wall, parse_duration, parse_when};
use lexopt::{Arg, Parser};
use std::ffi::{OsStr, OsString};

/// How many jobs `status` tells of unless asked otherwise.
const STATUS_LIMIT: usize = 20;

/// Reads the arguments, the program's own name not among them. Every error is a sentence without
/// control characters and has the exit status of wrong usage, 2.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Asked> {
    let args: Vec<OsString> = args.into_iter().collect();
    let just = |command, words| Asked {
        command,
        words,
        ..Asked::default()
    };
    let mut before_operands = args.iter().take_while(|word| *word != "--");
    match args.first().and_then(|word| word.to_str()) {
        _ if args.is_empty() => return Ok(Asked::default()),
        Some("complete") => return Ok(just("complete", args[1..].to_vec())),
        Some("-V" | "--version") => return Ok(just("version", Vec::new())),
        // Whoever asks for help gets it, however garbled the rest.
        _ if before_operands.any(|word| word == "-h" || word == "--help") => {
            let mut words = args.iter().filter(|word| !is_like_an_id(word));
            let named = words.find_map(|word| page_of(word).ok());
            let topic = named.or_else(|| page_of(args.first()?).ok());
            let topic = topic.map(|page| page.name.into());
            return Ok(just("help", topic.into_iter().collect()));
        }
        _ => {}
    }
    let (mut words, options) = sort(&args)?;
    let first = words.first();
    let first = first.ok_or_else(|| usage("no command; job-monitor --help lists all"))?;
    let page = page_of(first)?;
    if !is_like_an_id(first) {
        words.remove(0);
    }
    let mut asked = just(page.name, Vec::new());
    for (long, value) in options {
        asked.take_option(page, long, value)?;
    }
    asked.take_operands(page, words)?;
    if asked.command == "status" && !asked.all && asked.since.is_none() {
        asked.limit = asked.limit.or(Some(STATUS_LIMIT));
    }
    Ok(asked)
}

/// Options by their long names, each with its value.
type Options = Vec<(&'static str, String)>;

/// Sorts the arguments into words and options.
fn sort(args: &[OsString]) -> Result<(Vec<OsString>, Options)> {
    let mut parser = Parser::from_args(args);
    let (mut words, mut options) = (Vec::new(), Vec::new());
    while let Some(arg) = parser.next().map_err(|e| usage(e.to_string()))? {
        let typed = match arg {
            Arg::Value(word) => {
                words.push(word);
                continue;
            }
            Arg::Short(letter) => format!("-{letter}"),
            Arg::Long(long) => format!("--{long}"),
        };
        let mut known = commands().flat_map(CommandHelp::options);
        let option = known.find(|(short, long, _)| typed == *short || typed == *long);
        let own = || words.first().and_then(|word: &OsString| page_of(word).ok());
        let (_, long, word) = option.ok_or_else(|| unknown("option", typed.as_ref(), own()))?;
        let mut value = String::new();
        if !word.is_empty() {
            let typed = parser.value().map_err(|e| usage(e.to_string()))?;
            value = utf8(&typed, &format!("the value of {long}"))?;
        }
        options.push((long, value));
    }
    Ok((words, options))
}

/// The help of a command; of `show` for the id of a job.
fn page_of(word: &OsStr) -> Result<CommandHelp> {
    let text = word.to_string_lossy();
    let name = match &*text {
        "pause" => "disable",
        "resume" => "enable",
        _ if is_like_an_id(word) => "show",
        name => name,
    };
    let page = commands().find(|page| page.name == name);
    page.ok_or_else(|| unknown("command", word, None))
}

/// What no command looks like, and many an id.
fn is_like_an_id(word: &OsStr) -> bool {
    let word = word.as_encoded_bytes();
    !word.starts_with(b"-") && !word.iter().all(u8::is_ascii_lowercase)
}

impl Asked {
    fn take_option(&mut self, page: CommandHelp, long: &str, value: String) -> Result<()> {
        if !page.options().any(|(_, known, _)| known == long) {
            return Err(unknown("option", long.as_ref(), Some(page)));
        }
        let wrong = |form: &str| usage(format!("{long} needs {form}, not {value:?}"));
        let duration = || {
            let read = parse_duration(&value);
            read.ok_or_else(|| wrong("a duration such as 90s, 30m, 2h or 1h30m"))
        };
        match long {
            "--project" => self.projects = Which::Named(value),
            "--all-projects" => self.projects = Which::All,
            "--json" => self.format = Format::Json,
            "--all" if page.operands().any(|word| word.contains("PROJECT")) => {
                self.projects = Which::All;
            }
            "--all" => self.all = true,
            "--failed" => self.failed = true,
            "--since" => {
                let forms = "a date such as 2026-01-30, today, or a duration such as 7d";
                let since = since(&value, Wall::now());
                self.since = Some(since.ok_or_else(|| wrong(forms))?);
            }
            "--limit" => self.limit = Some(value.parse().map_err(|_| wrong("a whole number"))?),
            "--follow" => self.follow = true,
            "--raw" => self.raw = true,
            "--stat" => self.stat = true,
            "--older-than" => self.older_than = Some(duration()?),
            "--dry-run" => self.dry_run = true,
            "--timeout" => self.timeout = Some(duration()?),
            "--description" => self.description = Some(value),
            "--agent" => self.agent = Some(value),
            "--model" => self.model = Some(value),
            "--hold" => self.hold = true,
            "--wait" => self.wait = true,
            "--name" => self.name = Some(value),
            "--layout" => {
                let layout = project::typed(&value.as_str().into());
                self.layout = Some(layout.ok_or_else(|| wrong("jobs or tasks"))?);
            }
            "--run-existing" => self.run_existing = true,
            "--skills" => self.skills = true,
            // `--no-restart` does nothing.
            _ => {}
        }
        Ok(())
    }

    fn take_operands(&mut self, page: CommandHelp, words: Vec<OsString>) -> Result<()> {
        let mut words = words.into_iter();
        let wrong = |what: String| usage(format!("{what}; usage: job-monitor {}", page.usage()));
        for operand in page.operands() {
            let kind = operand.trim_matches(|c: char| !c.is_ascii_uppercase());
            let is_said = match kind {
                "ID" => self.all || self.failed,
                "PROJECT" => self.projects != Which::Around,
                _ => false,
            };
            let is_list = operand.contains("...");
            let most = if is_list { usize::MAX } else { 1 };
            let named: Vec<OsString> = words.by_ref().take(most).collect();
            if named.is_empty() && !is_said && !operand.starts_with('[') {
                return Err(wrong(format!("{} needs {operand}", page.name)));
            }
            if !named.is_empty() && is_said {
                return Err(wrong(format!("{kind} and an option exclude each other")));
            }
            for word in named {
                match kind {
                    "ID" => self.jobs.push(job(&word)?),
                    "PROJECT" => self.projects = Which::Named(utf8(&word, "the project's name")?),
                    "COMMAND" => self.words.push(page_of(&word)?.name.into()),
                    _ => self.words.push(word),
                }
            }
        }
        match words.next() {
            Some(extra) => Err(wrong(format!("unexpected argument {extra:?}"))),
            None => Ok(()),
        }
    }
}

/// A word that may name a job.
fn job(word: &OsStr) -> Result<String> {
    let in_id = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let is_part = |word: &&str| word.starts_with(char::is_alphanumeric) && word.chars().all(in_id);
    let part = word.to_str().filter(is_part);
    let like = "a job id looks like job-20260130-143000-fix-bug";
    let wrong = || usage(format!("not a job id: {word:?}; {like}"));
    part.map(str::to_owned).ok_or_else(wrong)
}

/// The beginning of a local day, another time, or so long ago.
fn since(text: &str, now: Wall) -> Option<Wall> {
    match parse_duration(text) {
        Some(ago) => Some(Wall(now.0 - ago.as_millis() as i64)),
        None if text == "today" => parse_when(&now.day()),
        None => parse_when(text),
    }
}

fn utf8(word: &OsStr, what: &str) -> Result<String> {
    let text = word.to_str().map(str::to_owned);
    text.ok_or_else(|| usage(format!("{what} is not valid UTF-8: {word:?}")))
}

fn usage(text: impl Into<String>) -> Error {
    Error::with(Exit::Usage, text)
}

/// The error for a word that is no command, or no option of this command.
fn unknown(what: &str, word: &OsStr, page: Option<CommandHelp>) -> Error {
    let of = page.map_or(String::new(), |page| format!("{} ", page.name));
    let how = format!("job-monitor {of}--help lists all");
    usage(format!("unknown {what} {word:?}; {how}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::help;
    use crate::error::is_harmful;
    use std::os::unix::ffi::OsStringExt;
    use std::time::Duration;

    const A: &str = "job-20260130-143000-a";

    fn parsed(line: &str) -> Result<Asked> {
        parse(line.split_whitespace().map(OsString::from))
    }

    fn complaint(line: &str) -> String {
        let error = parsed(line).expect_err(line);
        assert_eq!(error.exit, Exit::Usage, "{line}");
        error.to_string()
    }

    /// The parser reads out of the help what there is; of an option it must make something, too.
    #[test]
    fn every_option_of_the_help_changes_what_is_asked_for() {
        for page in commands() {
            let usage = page.text.starts_with("Usage: job-monitor ");
            let mut lines = page.text.lines();
            assert!(usage && lines.all(|line| line.len() <= 79 && line.trim_end() == line));
            let operand = match page.operands().next() {
                Some("SHELL") => " bash",
                Some("COMMAND") => " queue",
                Some(_) => " x",
                None => "",
            };
            for (short, long, value) in page.options() {
                let sample = match value {
                    "N" => " 7",
                    "D" | "DURATION" => " 1h30m",
                    "LAYOUT" => " tasks",
                    "" => "",
                    _ => " x",
                };
                let takes_project = operand == " x" && page.usage().contains("PROJECT");
                let operand = match long {
                    "--all" | "--failed" => "",
                    "--project" | "--all-projects" if takes_project => "",
                    _ => operand,
                };
                let without = parsed(&format!("{}{operand}", page.name));
                for name in [short, long].into_iter().filter(|name| !name.is_empty()) {
                    let line = format!("{} {name}{sample}{operand}", page.name);
                    let with = parsed(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
                    let is_same = without.as_ref().is_ok_and(|without| *without == with);
                    assert_eq!(is_same, long == "--no-restart", "{line}");
                }
            }
        }
        let overview = help("");
        assert!(overview.lines().count() < 24 && overview.lines().all(|line| line.len() < 80));
        for page in commands() {
            assert!(overview.contains(page.name), "{}", page.name);
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
        let hour = Duration::from_secs(3600);
        let jobs = |command, jobs: &[&str]| Asked {
            command,
            jobs: jobs.iter().map(|&job| job.to_owned()).collect(),
            ..Asked::default()
        };
        let just = |command, words: &[&str]| Asked {
            words: words.iter().map(OsString::from).collect(),
            ..jobs(command, &[])
        };
        let status = |limit, failed| Asked {
            limit,
            failed,
            ..just("status", &[])
        };
        let logs = |follow, raw| Asked {
            follow,
            raw,
            ..jobs("logs", &[A])
        };
        let of = |command, projects| Asked {
            projects,
            ..just(command, &[])
        };
        let all = |command| Asked {
            all: true,
            ..just(command, &[])
        };
        let named = |name: &str| Which::Named(name.to_owned());
        let waiting = Asked {
            wait: true,
            timeout: Some(hour),
            description: Some("x".to_owned()),
            ..just("submit", &["-"])
        };
        let reply = Asked {
            words: vec!["b".into()],
            ..jobs("reply", &["a"])
        };
        for (line, expected) in [
            ("", Asked::default()),
            ("-V", just("version", &[])),
            (A, jobs("show", &[A])),
            ("show", jobs("show", &[])),
            ("20260130-143000", jobs("show", &["20260130-143000"])),
            ("a.md", jobs("show", &["a.md"])),
            ("show rotate", jobs("show", &["rotate"])),
            ("hold a b", jobs("hold", &["a", "b"])),
            ("status", status(Some(20), false)),
            ("status -n5 --failed", status(Some(5), true)),
            (&format!("logs -f {A} --raw"), logs(true, true)),
            ("submit", just("submit", &[])),
            ("submit a -", just("submit", &["a", "-"])),
            ("submit -- -x", just("submit", &["-x"])),
            ("-d x submit --wait - --timeout 1h", waiting),
            ("reply a b", reply),
            ("wait --all", all("wait")),
            ("resume --all", of("enable", Which::All)),
            ("pause web", of("disable", named("web"))),
            ("disable .", of("disable", named("."))),
            ("unregister web", of("unregister", named("web"))),
            ("-p web unregister", of("unregister", named("web"))),
            ("list -pweb", of("list", named("web"))),
            ("--project=web list", of("list", named("web"))),
            ("clean -a", of("clean", Which::All)),
            ("complete -p", just("complete", &["-p"])),
            ("wait --nonsense -h", just("help", &["wait"])),
            ("help quue --help", just("help", &["help"])),
            ("-p web-app queue --help", just("help", &["queue"])),
            (&format!("{A} --help"), just("help", &["show"])),
        ] {
            let parsed = parsed(line).unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(parsed, expected, "{line}");
        }
        let now = Wall::now();
        let hour_ago = since("1h", now).expect("a duration");
        assert_eq!(now.since(hour_ago), hour);
        let today = since("today", now).expect("a day");
        assert!(today <= now && Some(today) == since(&now.day(), now));
    }

    #[test]
    fn what_is_not_understood_is_told_with_the_way_out() {
        const ROWS: &str = r#"
            queue x                   unexpected argument "x"; usage: job-monitor queue
            -p x                      no command
            queue -p                  missing argument for option '-p'
            queue --json=yes          --json
            cancel --json a           unknown option "--json"; job-monitor cancel --help
            status --limit=x          --limit needs a whole number, not "x"
            status --since yesterday  a date such as
            wait                      wait needs ID...; usage: job-monitor wait
            wait --timeout soon a     duration such as 90s
            retry --all               unknown option "--all";
            cancel --all a            exclude each other; usage: job-monitor cancel
            register . --layout x     --layout needs jobs or tasks, not "x"
            register                  register needs PATH
            unregister                unregister needs PROJECT
            unregister -a             unknown option "--all-projects"
            -p a disable b            exclude each other
            queue -x                  unknown option "-x"; job-monitor queue --help
            logs --folow a            unknown option "--folow"
            frobnicate                unknown command "frobnicate"; job-monitor --help lists all
            ../x                      not a job id: "../x"; a job id looks like job-20260130-143000-fix-bug
            show /etc/passwd          not a job id
            cancel ..                 not a job id
        "#;
        let rows = ROWS.trim().lines();
        let rows = rows.map(|row| row.trim().split_once("  ").expect(row));
        for (line, said) in rows.chain([("a\u{7}b", "not a job id")]) {
            let said = said.trim();
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
        // A bar stands between two pieces.
        const PIECES: &[u8] = b"-|--|=|-p|--all|queue|submit|cancel|job-2026|\x1b[2J|\n|\r|\0|\x7f|\xc2\x9b|\xe2\x80\xae|\
            \xff|\xf0\x9f|\"|'|9|d|..|/|%s| |\xcc\x81|-d|--limit|status|help|register";
        let all: Vec<&[u8]> = PIECES.split(|&byte| byte == b'|').collect();
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
                    let pieces = (0..below(4)).flat_map(|_| all[below(all.len())].to_vec());
                    OsString::from_vec(pieces.collect())
                })
                .collect();
            if let Err(error) = parse(args.iter().cloned()) {
                let text = error.to_string();
                let is_raw = text.contains(|c| is_harmful(c) || c == '\n');
                assert!(!is_raw, "{args:?}: {text:?}");
                assert_eq!(error.exit, Exit::Usage);
                assert!(text.len() < 600, "{text}");
            }
        }
    }
}
