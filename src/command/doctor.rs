//! `doctor`: what could stop jobs, each with a remedy that can be pasted.
//!
//! Everything is looked at as the daemon and its agents see it, which is not how the person's
//! shell does: the service has an environment of its own. The checks of each project and agent
//! run in threads of their own with a common deadline, so that a dead mount or a program that
//! hangs is told of and delays nothing. Nothing is made or changed, and no value of a variable
//! is ever shown.

mod agent;
mod ask;
mod machine;
mod project;
mod service;

use super::{Outcome, projects, terminal};
use crate::board;
use crate::cli::Format;
use crate::daemon;
use crate::error::{Exit, Result};
use crate::project::{AgentSpec, Policy, Project};
use crate::registry::{Entry, Registry};
use crate::render::{self, Style, clean_line, columns_of};
use crate::settings::{self, Places, Settings};
use crate::time::{Wall, human};
use serde::Serialize;
use serde_json::Map;
use service::Service;
use std::ffi::OsString;
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

/// All checks together take at most about so long; longer than what any program is given, so that
/// one that hangs is told of by name.
const LIMIT: Duration = Duration::from_secs(20);

/// Where messages and remedies begin, after level and check.
const INDENT: usize = 22;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    Ok,
    /// Jobs run, but not as well as they might, or not much longer.
    Warning,
    /// Jobs are stopped, or would be.
    Problem,
}

/// What one check found.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Finding {
    check: &'static str,
    project: Option<String>,
    agent: Option<String>,
    level: Level,
    message: String,
    /// Something to paste into a shell.
    remedy: Option<String>,
}

impl Finding {
    fn new(check: &'static str, level: Level, message: impl Into<String>) -> Finding {
        Finding {
            check,
            project: None,
            agent: None,
            level,
            message: message.into(),
            remedy: None,
        }
    }

    fn ok(check: &'static str, message: impl Into<String>) -> Finding {
        Finding::new(check, Level::Ok, message)
    }

    fn warning(check: &'static str, message: impl Into<String>) -> Finding {
        Finding::new(check, Level::Warning, message)
    }

    fn problem(check: &'static str, message: impl Into<String>) -> Finding {
        Finding::new(check, Level::Problem, message)
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Finding {
        self.remedy = Some(remedy.into());
        self
    }
}

/// What several checks need to know.
struct World {
    places: Places,
    service: Service,
    /// From `.env`; empty where it cannot be read, which is a finding of its own.
    credentials: Vec<(OsString, OsString)>,
}

#[derive(Serialize)]
struct Report {
    findings: Vec<Finding>,
    problems: usize,
    warnings: usize,
}

/// Looks at everything and says what it found; the exit status is 1 if a problem is among it.
pub(super) fn doctor(named: Option<&str>, format: Format) -> Outcome {
    let places = Places::find()?;
    let mut findings = Vec::new();
    let settings = settings_finding(&places, &mut findings);
    let (entries, chosen) = registry_finding(&places, named, &mut findings)?;
    let credentials = credentials_finding(&places, &mut findings);
    let world = Arc::new(World {
        service: Service::look(daemon::running(&places)),
        places,
        credentials,
    });
    findings.extend(service::findings(&world.service));
    let deadline = Instant::now() + LIMIT;
    let mut tasks = vec![machine::check(&world, entries.len())];
    if let Some(settings) = &settings {
        for (agent, project) in agents(settings, &chosen) {
            tasks.push(agent::check(&world, agent, project));
        }
        for entry in &chosen {
            tasks.push(project_task(&world, settings, entry));
        }
    }
    findings.extend(tasks.into_iter().flat_map(|task| task.end(deadline)));
    findings.extend(hold_findings(&world.places));
    if let Some(settings) = &settings {
        findings.extend(budget_findings(&world.places, settings, &chosen));
    }
    report(findings, format)
}

/// What would stop jobs of a project that was just registered, or hamper them; a line for each.
pub(super) fn of_new_project(places: &Places, project: &Project) -> Vec<String> {
    let mut findings = Vec::new();
    let settings = settings_finding(places, &mut findings);
    let credentials = credentials_finding(places, &mut findings);
    let world = Arc::new(World {
        places: places.clone(),
        service: Service::look(daemon::running(places)),
        credentials,
    });
    let deadline = Instant::now() + LIMIT;
    if let Some(policy) = settings.and_then(|settings| settings.policy(&Map::new()).ok()) {
        let tasks = [
            agent::check(&world, policy.agent.clone(), Some(project.clone())),
            project::check(&world, project.clone(), policy),
        ];
        findings.extend(tasks.into_iter().flat_map(|task| task.end(deadline)));
    }
    let bad = findings
        .into_iter()
        .filter(|finding| finding.level != Level::Ok);
    bad.map(|finding| {
        let word = match finding.level {
            Level::Problem => "Problem",
            _ => "Warning",
        };
        let remedy = finding.remedy.map(|remedy| format!("; run: {remedy}"));
        clean_line(&format!(
            "{word}: {}{}",
            finding.message,
            remedy.unwrap_or_default()
        ))
    })
    .collect()
}

// --- tasks ---

/// Checks that run in a thread of their own.
struct Task {
    check: &'static str,
    project: Option<String>,
    agent: Option<String>,
    findings: Receiver<Vec<Finding>>,
}

impl Task {
    fn start(
        check: &'static str,
        project: Option<&str>,
        agent: Option<&str>,
        run: impl FnOnce() -> Vec<Finding> + Send + 'static,
    ) -> Task {
        let (sender, findings) = mpsc::channel();
        std::thread::spawn(move || sender.send(run()));
        Task {
            check,
            project: project.map(str::to_owned),
            agent: agent.map(str::to_owned),
            findings,
        }
    }

    fn end(self, deadline: Instant) -> Vec<Finding> {
        let left = deadline.saturating_duration_since(Instant::now());
        let mut findings = self.findings.recv_timeout(left).unwrap_or_else(|_| {
            let message = format!(
                "gave no answer within {} s; a mount that hangs does that",
                LIMIT.as_secs()
            );
            vec![Finding::problem(self.check, message)]
        });
        for finding in &mut findings {
            finding.project.clone_from(&self.project);
            finding.agent.clone_from(&self.agent);
        }
        findings
    }
}

fn project_task(world: &Arc<World>, settings: &Settings, entry: &Entry) -> Task {
    let name = entry.project.name.clone();
    if !entry.enabled {
        let remedy = format!("job-monitor enable {}", quoted(&name));
        let finding = Finding::ok("project", "is disabled, so no job of it is started");
        return Task::start("project", Some(&name), None, || {
            vec![finding.remedy(remedy)]
        });
    }
    match entry.policy(settings) {
        Ok(policy) => project::check(world, entry.project.clone(), policy),
        Err(error) => {
            let remedy = edit(&world.places.registry());
            let finding = Finding::problem("settings", error.to_string()).remedy(remedy);
            Task::start("settings", Some(&name), None, || vec![finding])
        }
    }
}

/// The agents that the projects use, each once, with the first project that does; without any
/// project, the one that the next would use.
fn agents(settings: &Settings, entries: &[Entry]) -> Vec<(AgentSpec, Option<Project>)> {
    let mut agents: Vec<(AgentSpec, Option<Project>)> = Vec::new();
    let enabled = entries.iter().filter(|entry| entry.enabled);
    for entry in enabled {
        if let Ok(Policy { agent, .. }) = entry.policy(settings)
            && !agents.iter().any(|(known, _)| known.name == agent.name)
        {
            agents.push((agent, Some(entry.project.clone())));
        }
    }
    if agents.is_empty()
        && let Ok(policy) = settings.policy(&Map::new())
    {
        agents.push((policy.agent, None));
    }
    agents
}

// --- configuration ---

fn settings_finding(places: &Places, findings: &mut Vec<Finding>) -> Option<Settings> {
    let path = places.settings();
    match settings::load(&path) {
        Ok((settings, warnings)) => {
            if warnings.is_empty() {
                let there = match path.exists() {
                    true => format!("{}", path.display()),
                    false => format!("{} is not there, so the defaults hold", path.display()),
                };
                findings.push(Finding::ok("settings", there));
            }
            for warning in warnings {
                findings.push(Finding::warning("settings", warning).remedy(edit(&path)));
            }
            Some(settings)
        }
        Err(error) => {
            findings.push(Finding::problem("settings", without_advice(&error)).remedy(mend(&path)));
            None
        }
    }
}

/// All entries, and those that the command is about.
fn registry_finding(
    places: &Places,
    named: Option<&str>,
    findings: &mut Vec<Finding>,
) -> Result<(Vec<Entry>, Vec<Entry>)> {
    let path = places.registry();
    let registry = match Registry::load(&path) {
        Ok(registry) => registry,
        Err(error) => {
            findings.push(Finding::problem("registry", without_advice(&error)).remedy(mend(&path)));
            return Ok(Default::default());
        }
    };
    let (entries, warnings) = registry.entries();
    for warning in &warnings {
        findings.push(Finding::problem("registry", without_advice(warning)).remedy(edit(&path)));
    }
    let count = match entries.len() {
        0 if warnings.is_empty() => {
            let remedy = "job-monitor register PATH";
            findings.push(
                Finding::warning("registry", "no project is registered, so there is no work")
                    .remedy(remedy),
            );
            None
        }
        1 => Some("1 project".to_owned()),
        count => Some(format!("{count} projects")),
    };
    if let Some(count) = count {
        let message = format!("{count} in {}", path.display());
        findings.push(Finding::ok("registry", message));
    }
    let chosen = projects::choose(&registry, entries.clone(), named)?;
    Ok((entries, chosen))
}

fn credentials_finding(places: &Places, findings: &mut Vec<Finding>) -> Vec<(OsString, OsString)> {
    let path = places.credentials();
    match settings::credentials(&path) {
        Ok(credentials) => {
            let message = match (path.exists(), credentials.len()) {
                (false, _) => format!("{} is not there, and need not be", path.display()),
                (true, 1) => format!("{} is safe and sets 1 variable", path.display()),
                (true, n) => format!("{} is safe and sets {n} variables", path.display()),
            };
            findings.push(Finding::ok("credentials", message));
            credentials
        }
        Err(error) => {
            let remedy = access_remedy(&path, 0o077).unwrap_or_else(|| edit(&path));
            let message = without_advice(&error);
            findings.push(Finding::problem("credentials", message).remedy(remedy));
            Vec::new()
        }
    }
}

fn hold_findings(places: &Places) -> Vec<Finding> {
    let now = Wall::now();
    let records = board::read(&places.state);
    let finding = |hold: &crate::holds::Hold| {
        let ends = match hold.until {
            Some(until) => format!(
                "; it ends at {}, in {}",
                until.short(now),
                human(until.since(now))
            ),
            None => String::new(),
        };
        let message = format!("{}{ends}", hold.sentence());
        // A limit ends by itself, and a program or file is judged by its own check.
        let mut finding = match hold.needs_person() {
            true => Finding::problem("hold", message).remedy("job-monitor release --all"),
            false => Finding::warning("hold", message),
        };
        finding.agent = hold.agent.clone();
        finding
    };
    records.all(now).into_iter().map(finding).collect()
}

fn budget_findings(places: &Places, settings: &Settings, entries: &[Entry]) -> Vec<Finding> {
    let ledger = board::read(&places.state).ledger;
    let overall = settings.daily_budget_usd();
    let finding = |entry: &Entry| {
        let own = entry.policy(settings).ok()?.daily_budget_usd;
        let name = &entry.project.name;
        let (reason, _) = ledger.exhausted(name, own, overall, Wall::now())?;
        let mut finding = Finding::warning("budget", reason).remedy(edit(&places.settings()));
        finding.project = Some(name.clone());
        Some(finding)
    };
    entries.iter().filter_map(finding).collect()
}

// --- remedies ---

/// A text as one word for a shell.
pub(super) fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:,@%=".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

fn edit(path: &Path) -> String {
    format!("${{EDITOR:-vi}} {}", quoted_path(path))
}

/// What mends a file that was not taken: its permissions, those of its directory, or its text.
fn mend(path: &Path) -> String {
    let places = [Some(path), path.parent()];
    let refused = places.into_iter().flatten().find(|place| is_refused(place));
    let remedy = refused.and_then(|place| access_remedy(place, 0o022));
    remedy.unwrap_or_else(|| edit(path))
}

/// Whether others may write there, so that the daemon does not believe what it finds.
fn is_refused(place: &Path) -> bool {
    let stat = nix::sys::stat::stat(place);
    stat.is_ok_and(|stat| crate::files::check_own(&stat, place).is_err())
}

/// What makes a file or directory the user's own, without the permissions of `forbidden`.
fn access_remedy(path: &Path, forbidden: u32) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    if meta.uid() != 0 && meta.uid() != nix::unistd::geteuid().as_raw() {
        return Some(format!("sudo chown \"$(id -un)\" {}", quoted_path(path)));
    }
    let who = match forbidden {
        0o077 => "go-rwx",
        _ => "go-w",
    };
    (meta.mode() & forbidden != 0).then(|| format!("chmod {who} {}", quoted_path(path)))
}

/// An error's sentence less the remedy in it, which is given in a line of its own.
fn without_advice(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    let advice = ["; run: ", "; mend it"];
    match advice.iter().find_map(|advice| text.split_once(advice)) {
        Some((matter, _)) => matter.to_owned(),
        None => text,
    }
}

// --- the report ---

fn report(findings: Vec<Finding>, format: Format) -> Outcome {
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    let report = Report {
        problems: count(Level::Problem),
        warnings: count(Level::Warning),
        findings,
    };
    render::answer(format, &report, || {
        let columns = terminal::size(std::io::stdout()).0;
        text(&report, Style::of_stdout(), columns)
    })?;
    Ok(match report.problems {
        0 => Exit::Done,
        _ => Exit::Failed,
    })
}

fn text(report: &Report, style: Style, columns: usize) -> String {
    // Other programs want lines as they are, and a column of a few words is harder to read still.
    let width = match style.terminal {
        true if columns >= 2 * INDENT => columns - INDENT,
        _ => usize::MAX,
    };
    let mut text = String::new();
    let mut heading = String::new();
    // What belongs together stands together, in the order in which it was first met.
    let headings: Vec<String> = report.findings.iter().map(heading_of).collect();
    let mut order: Vec<&String> = Vec::new();
    for one in &headings {
        if !order.contains(&one) {
            order.push(one);
        }
    }
    for group in order {
        for (finding, _) in report
            .findings
            .iter()
            .zip(&headings)
            .filter(|(_, of)| *of == group)
        {
            if heading != *group {
                let _ = writeln!(text, "{}", style.paint("1", &style.text(group)));
                heading.clone_from(group);
            }
            let (word, color) = match finding.level {
                Level::Ok => ("ok", "32"),
                Level::Warning => ("warning", "33"),
                Level::Problem => ("problem", "31"),
            };
            let _ = writeln!(
                text,
                "  {} {:<11} {}",
                style.paint(color, &format!("{word:<7}")),
                finding.check,
                wrapped(&style.text(&clean_line(&finding.message)), width)
            );
            // Never broken: it is to be pasted.
            if let Some(remedy) = &finding.remedy {
                let _ = writeln!(text, "{:INDENT$}{}", "", style.text(&clean_line(remedy)));
            }
        }
    }
    let warnings = match report.warnings {
        0 => String::new(),
        1 => "1 warning".to_owned(),
        n => format!("{n} warnings"),
    };
    let last = match (report.problems, report.warnings) {
        (0, 0) => "Nothing stops jobs".to_owned(),
        (0, _) => format!("Nothing stops jobs; {warnings}"),
        (1, 0) => "1 problem stops jobs".to_owned(),
        (n, 0) => format!("{n} problems stop jobs"),
        (1, _) => format!("1 problem stops jobs; {warnings}"),
        (n, _) => format!("{n} problems stop jobs; {warnings}"),
    };
    text.push_str(&last);
    text.push('\n');
    text
}

/// A message in lines of at most so many columns, those after the first indented. A word that is
/// longer, a path say, stays whole.
fn wrapped(message: &str, width: usize) -> String {
    let mut text = String::new();
    let mut left = width;
    for word in message.split(' ') {
        let columns: usize = word.chars().map(columns_of).sum();
        if text.is_empty() {
            left = left.saturating_sub(columns);
        } else if columns < left {
            text.push(' ');
            left -= columns + 1;
        } else {
            let _ = write!(text, "\n{:INDENT$}", "");
            left = width.saturating_sub(columns);
        }
        text.push_str(word);
    }
    text
}

fn heading_of(finding: &Finding) -> String {
    match (&finding.project, &finding.agent) {
        (Some(project), _) => format!("Project {}", clean_line(project)),
        (None, Some(agent)) => format!("Agent {}", clean_line(agent)),
        (None, None) => "Monitor".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style {
        color: false,
        unicode: false,
        ascii_only: true,
        terminal: true,
    };

    #[test]
    fn a_path_in_a_remedy_is_one_word_for_a_shell() {
        assert_eq!(quoted("/a/b-c_1.md"), "/a/b-c_1.md");
        assert_eq!(quoted("/a b"), "'/a b'");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quoted("~/x"), "'~/x'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn what_belongs_together_stands_together_and_nothing_reaches_the_terminal_raw() {
        let of = |project: &str, finding: Finding| Finding {
            project: Some(project.to_owned()),
            ..finding
        };
        let findings = vec![
            Finding::ok("settings", "fine"),
            of("alpha", Finding::ok("disk", "room")),
            of(
                "b\x1b[2J",
                Finding::problem("directories", "gone\nat all").remedy("mount /x"),
            ),
            of("alpha", Finding::warning("budget", "used up")),
        ];
        let report = Report {
            findings,
            problems: 1,
            warnings: 1,
        };
        let expected = "\
Monitor
  ok      settings    fine
Project alpha
  ok      disk        room
  warning budget      used up
Project b?[2J
  problem directories gone at all
                      mount /x
1 problem stops jobs; 1 warning
";
        assert_eq!(text(&report, PLAIN, 80), expected);
    }

    #[test]
    fn a_message_is_wrapped_between_words_and_a_remedy_never() {
        let indent = " ".repeat(INDENT);
        assert_eq!(
            wrapped("one two three", 7),
            format!("one two\n{indent}three")
        );
        assert_eq!(
            wrapped("one two three", 6),
            format!("one\n{indent}two\n{indent}three")
        );
        assert_eq!(
            wrapped("a /very/long/path b", 5),
            format!("a\n{indent}/very/long/path\n{indent}b")
        );
        assert_eq!(wrapped("one two three", usize::MAX), "one two three");
        let report = Report {
            findings: vec![Finding::problem("disk", "word ".repeat(40)).remedy("word ".repeat(40))],
            problems: 1,
            warnings: 0,
        };
        let lines = text(&report, PLAIN, 60);
        let lines: Vec<_> = lines.lines().map(|line| line.chars().count()).collect();
        assert_eq!(
            lines.iter().filter(|columns| **columns > 60).count(),
            1,
            "{lines:?}"
        );
        assert!(text(&report, PLAIN, 43).lines().count() == 4);
    }

    #[test]
    fn a_task_that_hangs_is_told_of_and_not_waited_for() {
        let (stay, held) = mpsc::channel::<()>();
        let task = Task::start("disk", Some("alpha"), None, move || {
            let _ = held.recv();
            Vec::new()
        });
        let findings = task.end(Instant::now() + Duration::from_millis(10));
        assert_eq!(findings[0].level, Level::Problem);
        assert_eq!(findings[0].project.as_deref(), Some("alpha"));
        drop(stay);
    }
}
