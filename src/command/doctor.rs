//! `doctor`: what could stop jobs, each with a remedy that can be pasted.
//!
//! One check after the other, and each line is printed as it is known: where one hangs, the last line
//! tells how far it came. Everything is looked at as the daemon and its agents see it, whose
//! environment is not that of the person's shell. Nothing is made or changed, and no value of a
//! variable is shown.

mod agent;
mod system;

use super::{Outcome, scope};
use crate::board;
use crate::cli::{Format, Which};
use crate::error::{Error, Exit, Result};
use crate::project::{AgentSpec, Project};
use crate::registry::{Entry, Registry};
use crate::render::{self, Style, clean_line, quoted};
use crate::settings::{self, Places, Settings};
use crate::spool::Spool;
use crate::time::{Wall, human};
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;
use system::World;

/// So many documents that are left alone are named.
const ODD_SHOWN: usize = 20;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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
#[derive(Clone, Debug, Serialize)]
struct Finding {
    check: &'static str,
    project: Option<String>,
    agent: Option<String>,
    level: Level,
    message: String,
    /// Something to paste into a shell.
    remedy: Option<String>,
}

fn found(level: Level, check: &'static str, message: String, remedy: Option<String>) -> Finding {
    let (project, agent) = (None, None);
    Finding {
        check,
        project,
        agent,
        level,
        message,
        remedy,
    }
}

fn fine(check: &'static str, message: impl Into<String>) -> Finding {
    found(Level::Ok, check, message.into(), None)
}

fn warning(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Finding {
    found(Level::Warning, check, message.into(), Some(remedy.into()))
}

fn problem(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Finding {
    found(Level::Problem, check, message.into(), Some(remedy.into()))
}

/// An error about a file. Where the error's own sentence ends with a command, that is the remedy, else
/// the editor.
fn wrong(check: &'static str, error: &Error, path: &Path) -> Finding {
    let text = error.to_string();
    let (message, advice) = text.split_once("; run: ").unwrap_or((&text, ""));
    let message = message.split("; mend it").next().unwrap_or_default();
    // Our errors end with the path as it is, which a shell would take for several words.
    let advice = advice.split(" (").next().unwrap_or_default();
    let remedy = match advice.split_once(" /") {
        Some((command, path)) => format!("{command} {}", quoted(&format!("/{path}"))),
        None => edit(path),
    };
    problem(check, message, remedy)
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// A path as one word for a shell.
fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

fn edit(path: &Path) -> String {
    format!("${{EDITOR:-vi}} {}", quoted_path(path))
}

/// Tells findings as they come, and keeps them.
struct Report {
    format: Format,
    style: Style,
    heading: String,
    findings: Vec<Finding>,
}

impl Report {
    fn tell(&mut self, heading: &str, found: Vec<Finding>) -> Result<()> {
        let mut text = String::new();
        if self.heading != heading {
            text = self.style.paint("1", &clean_line(heading)) + "\n";
            heading.clone_into(&mut self.heading);
        }
        for finding in &found {
            let (color, level) = match finding.level {
                Level::Ok => ("32", "ok     "),
                Level::Warning => ("33", "warning"),
                Level::Problem => ("31", "problem"),
            };
            let level = self.style.paint(color, level);
            let whose = finding.project.as_ref().map(|name| format!("{name}: "));
            let message = whose.unwrap_or_default() + &finding.message;
            text += &format!("  {level} {:<11} {}\n", finding.check, clean_line(&message));
            if let Some(remedy) = &finding.remedy {
                text += &format!("{:22}{}\n", "", clean_line(remedy));
            }
        }
        self.findings.extend(found);
        match self.format {
            Format::Text => render::print(&text),
            Format::Json => Ok(()),
        }
    }

    fn end(self) -> Outcome {
        let count = |level| self.findings.iter().filter(|f| f.level == level).count();
        let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
        let holds = self.findings.iter().filter(|f| f.check == "hold").count();
        let all = json!({"findings": self.findings, "problems": problems, "warnings": warnings});
        render::answer(self.format, &all, || {
            let causes = [(problems, "problem"), (holds, "hold")];
            let causes = causes.into_iter().filter(|(n, _)| *n > 0);
            let causes: Vec<String> = causes.map(|(n, what)| counted(n, what)).collect();
            let verdict = match causes.is_empty() {
                true => "Nothing stops jobs".to_owned(),
                false => format!("Jobs are stopped by {}", causes.join(" and ")),
            };
            format!("{verdict}; {} in all\n", counted(warnings, "warning"))
        })?;
        match problems {
            0 => Ok(Exit::Done),
            _ => Ok(Exit::Failed),
        }
    }
}

/// Looks at everything and says what it found; the exit status is 1 if a problem is among it.
pub(super) fn doctor(which: &Which, format: Format) -> Outcome {
    let style = Style::of_stdout();
    let mut report = Report {
        format,
        style,
        heading: String::new(),
        findings: Vec::new(),
    };
    let world = World::look(Places::find()?);
    let (findings, settings) = settings_findings(&world.places);
    report.tell("Monitor", findings)?;
    let (findings, entries) = registry_findings(&world.places, which)?;
    report.tell("Monitor", findings)?;
    report.tell(
        "Monitor",
        vec![credentials_finding(&world), world.daemon_finding()],
    )?;
    report.tell("Monitor", system::service_findings())?;
    report.tell("Monitor", system::machine_findings(&world.places, &entries))?;
    let Some(settings) = settings else {
        return report.end();
    };
    for (agent, project) in agents(&settings, &entries) {
        let heading = format!("Agent {}", agent.name);
        report.tell(&heading, Vec::new())?;
        report.tell(&heading, agent::findings(&world, agent, project))?;
    }
    let of_entry = |entry| project_findings(&world, &settings, entry);
    let mut findings: Vec<Finding> = entries.iter().flat_map(of_entry).collect();
    if findings.is_empty() {
        let count = counted(entries.len(), "project");
        findings.push(fine("projects", format!("{count} in order")));
    }
    report.tell("Projects", findings)?;
    let mut holds = hold_findings(&world.places, &settings, &entries);
    if holds.is_empty() {
        holds.push(fine("holds", "nobody is held"));
    }
    report.tell("Holds", holds)?;
    report.end()
}

/// What would stop jobs of a project that was just registered; a line for each.
pub(super) fn of_new_project(places: &Places, project: &Project) -> Vec<String> {
    let world = World::look(places.clone());
    let mut findings = vec![credentials_finding(&world)];
    if let (_, Some(settings)) = settings_findings(places) {
        let agent = &settings.common.agent;
        findings.extend(agent::findings(&world, agent, Some(project)));
    }
    findings.retain(|finding| finding.level == Level::Problem);
    let line = |finding: Finding| {
        let remedy = finding.remedy.unwrap_or_default();
        clean_line(&format!("Problem: {}; run: {remedy}", finding.message))
    };
    findings.into_iter().map(line).collect()
}

/// The agents that projects use, that of the settings, and those that the settings list, each with the
/// first project that uses it.
fn agents<'a>(
    settings: &'a Settings,
    entries: &'a [Entry],
) -> Vec<(&'a AgentSpec, Option<&'a Project>)> {
    let listed = settings.values.get("agents");
    let uses = |entry: &&Entry, agent: &AgentSpec| {
        let policy = entry.policy(settings);
        entry.enabled && policy.is_ok_and(|policy| policy.agent.name == agent.name)
    };
    let asked = settings.agents.iter().filter_map(|agent| {
        let user = entries.iter().find(|entry| uses(entry, agent));
        let is_listed = listed.is_some_and(|all| all.get(&agent.name).is_some());
        let is_asked = user.is_some() || is_listed || settings.common.agent.name == agent.name;
        is_asked.then_some((agent, user.map(|entry| &entry.project)))
    });
    asked.collect()
}

fn settings_findings(places: &Places) -> (Vec<Finding>, Option<Settings>) {
    let path = places.settings();
    let shown = path.display();
    let (settings, warnings) = match settings::load(&path) {
        Ok(read) => read,
        Err(error) => return (vec![wrong("settings", &error, &path)], None),
    };
    let unknown = warnings.into_iter();
    let mut findings: Vec<Finding> = unknown
        .map(|text| warning("settings", text, edit(&path)))
        .collect();
    findings.push(match path.exists() {
        true => fine("settings", shown.to_string()),
        false => fine("settings", format!("the defaults; there is no {shown}")),
    });
    (findings, Some(settings))
}

/// What is wrong with the registry, and the entries that the command is about.
fn registry_findings(places: &Places, which: &Which) -> Result<(Vec<Finding>, Vec<Entry>)> {
    let path = places.registry();
    let registry = match Registry::load(&path) {
        Ok(registry) => registry,
        Err(error) => return Ok((vec![wrong("registry", &error, &path)], Vec::new())),
    };
    let (entries, bad) = registry.entries();
    let bad_entry = |text| problem("registry", text, edit(&path));
    let mut findings: Vec<Finding> = bad.into_iter().map(bad_entry).collect();
    let unknown = registry.unknown_keys().into_iter();
    findings.extend(unknown.map(|text| warning("registry", text, edit(&path))));
    let count = counted(entries.len(), "project");
    let count = format!("{count} in {}", path.display());
    findings.push(match entries.is_empty() {
        true => warning("registry", count, "job-monitor register PATH"),
        false => fine("registry", count),
    });
    Ok((findings, scope::choose(&registry, entries, which)?.0))
}

fn credentials_finding(world: &World) -> Finding {
    let path = world.places.credentials();
    let shown = path.display();
    match &world.credentials {
        Err(error) => wrong("credentials", error, &path),
        Ok(all) if path.exists() => {
            let count = counted(all.len(), "variable");
            fine("credentials", format!("{shown} is safe and sets {count}"))
        }
        Ok(_) => fine("credentials", format!("none; there is no {shown}")),
    }
}

/// All about one project.
fn project_findings(world: &World, settings: &Settings, entry: &Entry) -> Vec<Finding> {
    let name = &entry.project.name;
    let mut findings = match entry.policy(settings) {
        _ if !entry.enabled => {
            let remedy = format!("job-monitor enable {}", quoted(name));
            let message = "is disabled, so no job of it is started".to_owned();
            vec![found(Level::Ok, "project", message, Some(remedy))]
        }
        Err(error) => vec![wrong("settings", &error, &world.places.registry())],
        Ok(policy) => {
            let of_agent = agent::project_findings(world, &policy.agent, &entry.project);
            [spool_findings(&entry.project), of_agent].concat()
        }
    };
    for finding in &mut findings {
        finding.project = Some(name.clone());
    }
    findings
}

fn spool_findings(project: &Project) -> Vec<Finding> {
    let items = project.path.join(project.layout.items());
    let name = quoted(&project.name);
    let scan = Spool::open(project).and_then(|spool| spool.scan());
    let odd = match scan {
        Ok(scan) => scan.odd,
        Err(error) if error.is_not_found() => {
            let remedy = match project.path.is_dir() {
                true => format!("mkdir -p {}", quoted_path(&items)),
                false => format!("job-monitor unregister {name}"),
            };
            return vec![problem("directories", error.to_string(), remedy)];
        }
        Err(error) => return vec![wrong("directories", &error, &items)],
    };
    let left_alone = |(file, why): &(String, String)| {
        let path = quoted_path(&items.join(file));
        let remedy = format!("job-monitor -p {name} submit {path} && rm {path}");
        warning("documents", format!("{file} is left alone: {why}"), remedy)
    };
    odd.iter().take(ODD_SHOWN).map(left_alone).collect()
}

/// What is held: by faults of agents, by the day's money, by the owner's own rules.
fn hold_findings(places: &Places, settings: &Settings, entries: &[Entry]) -> Vec<Finding> {
    let now = Wall::now();
    let overall = settings.common.daily_budget_usd;
    let mut records = board::read(&places.state);
    for entry in entries.iter().filter(|entry| entry.enabled) {
        if let Ok(policy) = entry.policy(settings) {
            // So that what only settings and time decide is in force.
            records.hold_of(&entry.project.name, &policy, overall, now);
        }
    }
    let ends = |until: Wall| {
        let (at, rest) = (until.short(now), human(until.since(now)));
        format!("; until {at}, in {rest}")
    };
    // What holds several projects alike, as the day's money does, is one finding.
    let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for hold in records.all(now) {
        let ends = hold.until.map(ends).unwrap_or_default();
        let what = format!("held ({}): {}{ends}", hold.kind.word(), hold.reason);
        held.entry(what).or_default().push(hold.who());
    }
    let finding = |(what, who): (String, Vec<String>)| {
        let verb = if who.len() > 1 { "are" } else { "is" };
        let message = format!("{} {verb} {what}", who.join(", "));
        warning("hold", message, "job-monitor release --all")
    };
    held.into_iter().map(finding).collect()
}
