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
use crate::holds::Hold;
use crate::project::{AgentSpec, Policy, Project};
use crate::registry::{Entry, Registry};
use crate::render::{self, Style, clean_line, quoted};
use crate::settings::{self, Places, Settings};
use crate::spool::{Leftovers, Spool};
use crate::time::{Wall, human};
use serde::Serialize;
use serde_json::{Map, json};
use std::path::Path;
use system::World;

/// So many documents that are left alone are named.
const ODD_SHOWN: usize = 20;

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

use Level::{Ok as Fine, Problem, Warning};

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

impl Level {
    fn found(self, check: &'static str, message: impl Into<String>) -> Finding {
        Finding {
            check,
            project: None,
            agent: None,
            level: self,
            message: message.into(),
            remedy: None,
        }
    }
}

impl Finding {
    /// An error about a file. Where the error's own sentence ends with a command, that is the remedy,
    /// else the editor.
    fn error(check: &'static str, error: &Error, path: &Path) -> Finding {
        let text = error.to_string();
        let (message, advice) = text.split_once("; run: ").unwrap_or((&text, ""));
        let advice = advice.split(" (").next().unwrap_or_default();
        let message = message.split("; mend it").next().unwrap_or_default();
        // Our errors end with the path as it is, which a shell would take for several words.
        let remedy = advice.find(" /").map(|at| {
            let (command, path) = advice.split_at(at + 1);
            format!("{command}{}", quoted(path))
        });
        Problem
            .found(check, message)
            .remedy(remedy.unwrap_or_else(|| edit(path)))
    }

    fn remedy(mut self, remedy: impl Into<String>) -> Finding {
        self.remedy = Some(remedy.into());
        self
    }
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
        if self.format == Format::Text && !found.is_empty() {
            let mut text = String::new();
            if self.heading != heading {
                text = self.style.paint("1", &clean_line(heading)) + "\n";
                heading.clone_into(&mut self.heading);
            }
            let mut told: Vec<(&str, &str)> = Vec::new();
            for finding in &found {
                // The same of several projects is one line.
                let what = (finding.check, finding.message.as_str());
                if !told.contains(&what) {
                    let alike = found
                        .iter()
                        .filter(|f| (f.check, f.message.as_str()) == what);
                    text += &self.line(&alike.collect::<Vec<_>>());
                    told.push(what);
                }
            }
            render::print(&text)?;
        }
        self.findings.extend(found);
        Ok(())
    }

    fn line(&self, alike: &[&Finding]) -> String {
        let Finding {
            check,
            level,
            message,
            ..
        } = alike[0];
        let level = match level {
            Fine => self.style.paint("32", "ok     "),
            Warning => self.style.paint("33", "warning"),
            Problem => self.style.paint("31", "problem"),
        };
        let names: Vec<&str> = alike.iter().filter_map(|f| f.project.as_deref()).collect();
        let whose = if names.is_empty() {
            String::new()
        } else {
            names.join(", ") + ": "
        };
        let line = format!("  {level} {check:<11} {}\n", clean_line(&(whose + message)));
        let remedies = alike.iter().filter_map(|finding| finding.remedy.as_ref());
        remedies.fold(line, |text, remedy| {
            text + &format!("{:22}{}\n", "", clean_line(remedy))
        })
    }

    fn end(self) -> Outcome {
        let count = |level| self.findings.iter().filter(|f| f.level == level).count();
        let (problems, warnings) = (count(Problem), count(Warning));
        let holds = self.findings.iter().filter(|f| f.check == "hold").count();
        let all = json!({"findings": self.findings, "problems": problems, "warnings": warnings});
        render::answer(self.format, &all, || {
            let verdict = match (problems, holds) {
                (0, 0) => "Nothing stops jobs".to_owned(),
                (n, 0) => format!("Jobs are stopped by {}", counted(n, "problem")),
                (0, n) => format!("Jobs are stopped by {}", counted(n, "hold")),
                _ => format!(
                    "Jobs are stopped by {} and {}",
                    counted(problems, "problem"),
                    counted(holds, "hold")
                ),
            };
            format!("{verdict}; {} in all\n", counted(warnings, "warning"))
        })?;
        Ok(if problems == 0 {
            Exit::Done
        } else {
            Exit::Failed
        })
    }
}

fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

/// Looks at everything and says what it found; the exit status is 1 if a problem is among it.
pub(super) fn doctor(which: &Which, format: Format) -> Outcome {
    let mut report = Report {
        format,
        style: Style::of_stdout(),
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
        report.tell(&heading, agent::findings(&world, &agent, project.as_ref()))?;
    }
    let of_entry = |entry| project_findings(&world, &settings, entry);
    report.tell("Projects", entries.iter().flat_map(of_entry).collect())?;
    report.tell("Holds", hold_findings(&world.places, &settings, &entries))?;
    report.end()
}

/// What would stop jobs of a project that was just registered; a line for each.
pub(super) fn of_new_project(places: &Places, project: &Project) -> Vec<String> {
    let world = World::look(places.clone());
    let mut findings = vec![credentials_finding(&world)];
    if let (_, Some(settings)) = settings_findings(places)
        && let Ok(policy) = settings.policy(&Map::new())
    {
        findings.extend(agent::findings(&world, &policy.agent, Some(project)));
    }
    findings.retain(|finding| finding.level == Problem);
    let line = |finding: Finding| {
        let remedy = finding.remedy.map(|remedy| format!("; run: {remedy}"));
        clean_line(&format!(
            "Problem: {}{}",
            finding.message,
            remedy.unwrap_or_default()
        ))
    };
    findings.into_iter().map(line).collect()
}

/// The agents that the projects use and that of the settings, each with the first project that does.
fn agents(settings: &Settings, entries: &[Entry]) -> Vec<(AgentSpec, Option<Project>)> {
    let mut agents: Vec<(AgentSpec, Option<Project>)> = Vec::new();
    let used = entries.iter().filter(|entry| entry.enabled);
    let used = used.map(|entry| (entry.policy(settings), Some(&entry.project)));
    for (policy, project) in used.chain([(settings.policy(&Map::new()), None)]) {
        if let Ok(Policy { agent, .. }) = policy
            && !agents.iter().any(|(known, _)| known.name == agent.name)
        {
            agents.push((agent, project.cloned()));
        }
    }
    agents
}

fn settings_findings(places: &Places) -> (Vec<Finding>, Option<Settings>) {
    let path = places.settings();
    let shown = path.display();
    match settings::load(&path) {
        Err(error) => (vec![Finding::error("settings", &error, &path)], None),
        Ok((settings, warnings)) => {
            let finding = |text| Warning.found("settings", text).remedy(edit(&path));
            let mut findings: Vec<Finding> = warnings.into_iter().map(finding).collect();
            findings.push(match path.exists() {
                true => Fine.found("settings", shown.to_string()),
                false => Fine.found("settings", format!("the defaults; there is no {shown}")),
            });
            (findings, Some(settings))
        }
    }
}

/// What is wrong with the registry, and the entries that the command is about.
fn registry_findings(places: &Places, which: &Which) -> Result<(Vec<Finding>, Vec<Entry>)> {
    let path = places.registry();
    let registry = match Registry::load(&path) {
        Ok(registry) => registry,
        Err(error) => return Ok((vec![Finding::error("registry", &error, &path)], Vec::new())),
    };
    let (entries, warnings) = registry.entries();
    let finding = |text| Problem.found("registry", text).remedy(edit(&path));
    let mut findings: Vec<Finding> = warnings.into_iter().map(finding).collect();
    let count = format!(
        "{} in {}",
        counted(entries.len(), "project"),
        path.display()
    );
    findings.push(match entries.is_empty() {
        true => Warning
            .found("registry", count)
            .remedy("job-monitor register PATH"),
        false => Fine.found("registry", count),
    });
    Ok((findings, scope::choose(&registry, entries, which)?.0))
}

fn credentials_finding(world: &World) -> Finding {
    let path = world.places.credentials();
    let shown = path.display();
    match &world.credentials {
        Err(error) => Finding::error("credentials", error, &path),
        Ok(all) if path.exists() => {
            let message = format!(
                "{shown} is safe and sets {}",
                counted(all.len(), "variable")
            );
            Fine.found("credentials", message)
        }
        Ok(_) => Fine.found("credentials", format!("none; there is no {shown}")),
    }
}

/// All about one project.
fn project_findings(world: &World, settings: &Settings, entry: &Entry) -> Vec<Finding> {
    let name = &entry.project.name;
    let mut findings = match entry.policy(settings) {
        _ if !entry.enabled => {
            let finding = Fine.found("project", "is disabled, so no job of it is started");
            vec![finding.remedy(format!("job-monitor enable {}", quoted(name)))]
        }
        Err(error) => vec![Finding::error("settings", &error, &world.places.registry())],
        Ok(policy) => {
            let mut findings = spool_findings(&entry.project);
            findings.extend(agent::project_findings(
                world,
                &policy.agent,
                &entry.project,
            ));
            findings
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
    let scan = Spool::open(project).and_then(|spool| spool.scan(Leftovers::Leave));
    let odd = match scan {
        Ok(scan) => scan.odd,
        Err(error) if error.is_not_found() => {
            let finding = Problem.found("directories", error.to_string());
            return vec![finding.remedy(match project.path.is_dir() {
                true => format!("mkdir -p {}", quoted_path(&items)),
                false => format!("job-monitor unregister {name}"),
            })];
        }
        Err(error) => return vec![Finding::error("directories", &error, &items)],
    };
    let left_alone = odd.iter().take(ODD_SHOWN).map(|(file, why)| {
        let path = quoted_path(&items.join(file));
        let finding = Warning.found("documents", format!("{file} is left alone: {why}"));
        finding.remedy(format!("job-monitor -p {name} submit {path} && rm {path}"))
    });
    left_alone
        .chain([Fine.found("directories", "in order")])
        .collect()
}

/// What is held: by faults of agents, by the day's money, by the owner's own rules.
fn hold_findings(places: &Places, settings: &Settings, entries: &[Entry]) -> Vec<Finding> {
    let now = Wall::now();
    let mut records = board::read(&places.state);
    for entry in entries.iter().filter(|entry| entry.enabled) {
        if let Ok(policy) = entry.policy(settings) {
            // So that what only settings and time decide is in force.
            records.hold_of(
                &entry.project.name,
                &policy,
                settings.common.daily_budget_usd,
                now,
            );
        }
    }
    let finding = |hold: &Hold| {
        let ends = match hold.until {
            Some(until) => format!(
                "; until {}, in {}",
                until.short(now),
                human(until.since(now))
            ),
            None => String::new(),
        };
        let finding = Warning.found("hold", format!("{}{ends}", hold.sentence()));
        finding.remedy("job-monitor release --all")
    };
    records.all(now).into_iter().map(finding).collect()
}

// --- remedies ---

/// A text as one word for a shell.
fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

fn edit(path: &Path) -> String {
    format!("${{EDITOR:-vi}} {}", quoted_path(path))
}
