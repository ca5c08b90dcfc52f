//! `doctor`: what could stop jobs, each with a remedy that can be pasted.
//!
//! One check after the other, and each line is printed as it is known: where one hangs, the last line
//! tells how far it came. Everything is looked at as the daemon and its agents see it, whose
//! environment is not that of the person's shell. Nothing is made or changed, and no value of a
//! variable is shown.

use super::*;
use system::World;

mod agent;
mod system;

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
    /// Whom the next findings are about.
    project: Option<String>,
    agent: Option<String>,
    findings: Vec<Finding>,
    /// Whether all could be printed.
    printed: Result<()>,
}

impl Report {
    fn new(format: Format) -> Report {
        Report {
            format,
            style: Style::of_stdout(),
            project: None,
            agent: None,
            findings: Vec::new(),
            printed: Ok(()),
        }
    }

    fn print(&mut self, text: &str) {
        if self.format == Format::Text && self.printed.is_ok() {
            self.printed = render::print(text);
        }
    }

    fn heading(&mut self, text: &str) {
        let text = self.style.paint("1", &clean_line(text)) + "\n";
        self.print(&text);
    }

    fn tell(&mut self, level: Level, check: &'static str, message: &str, remedy: Option<&str>) {
        let (color, word) = match level {
            Level::Ok => ("32", "ok     "),
            Level::Warning => ("33", "warning"),
            Level::Problem => ("31", "problem"),
        };
        let word = self.style.paint(color, word);
        let whose = self.project.as_ref().map(|name| format!("{name}: "));
        let line = clean_line(&(whose.unwrap_or_default() + message));
        self.print(&format!("  {word} {check:<11} {line}\n"));
        if let Some(remedy) = remedy {
            self.print(&format!("{:22}{}\n", "", clean_line(remedy)));
        }
        self.findings.push(Finding {
            check,
            project: self.project.clone(),
            agent: self.agent.clone(),
            level,
            message: message.to_owned(),
            remedy: remedy.map(str::to_owned),
        });
    }

    fn fine(&mut self, check: &'static str, message: &str) {
        self.tell(Level::Ok, check, message, None);
    }

    fn warn(&mut self, check: &'static str, message: &str, remedy: &str) {
        self.tell(Level::Warning, check, message, Some(remedy));
    }

    fn problem(&mut self, check: &'static str, message: &str, remedy: &str) {
        self.tell(Level::Problem, check, message, Some(remedy));
    }

    /// An error about a file. Where the error's own sentence ends with a command, that is the remedy,
    /// else the editor.
    fn wrong(&mut self, check: &'static str, error: &Error, path: &Path) {
        let text = error.to_string();
        let (message, advice) = text.split_once("; run: ").unwrap_or((&text, ""));
        let message = message.split("; mend it").next().unwrap_or_default();
        // Our errors end with the path as it is, which a shell would take for several words.
        let advice = advice.split(" (").next().unwrap_or_default();
        let remedy = match advice.split_once(" /") {
            Some((command, path)) => format!("{command} {}", quoted(&format!("/{path}"))),
            None => edit(path),
        };
        self.problem(check, message, &remedy);
    }

    fn end(self) -> Outcome {
        self.printed?;
        let count =
            |is_it: fn(&&Finding) -> bool| self.findings.iter().filter(is_it).count() as u64;
        let problems = count(|finding| finding.level == Level::Problem);
        let warnings = count(|finding| finding.level == Level::Warning);
        let holds = count(|finding| finding.check == "hold");
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
    let mut report = Report::new(format);
    let world = World::look(Places::find()?);
    report.heading("Monitor");
    let settings = check_settings(&mut report, &world.places);
    let entries = check_registry(&mut report, &world.places, which)?;
    check_credentials(&mut report, &world);
    system::check(&mut report, &world, &entries);
    let Some(settings) = settings else {
        return report.end();
    };
    for (agent, project) in agents(&settings, &entries) {
        report.heading(&format!("Agent {}", agent.name));
        report.agent = Some(agent.name.clone());
        agent::check(&mut report, &world, agent, project);
    }
    report.agent = None;
    report.heading("Projects");
    let before = report.findings.len();
    for entry in &entries {
        report.project = Some(entry.project.name.clone());
        check_project(&mut report, &world, &settings, entry);
    }
    report.project = None;
    if report.findings.len() == before {
        let count = counted(entries.len() as u64, "project");
        report.fine("projects", &format!("{count} in order"));
    }
    report.heading("Holds");
    check_holds(&mut report, &world.places, &settings, &entries);
    report.end()
}

/// What would stop jobs of a project that was just registered; a line for each.
pub(super) fn of_new_project(places: &Places, project: &Project) -> Vec<String> {
    let world = World::look(places.clone());
    // As for JSON, findings are kept and not printed.
    let mut report = Report::new(Format::Json);
    check_credentials(&mut report, &world);
    if let Some(settings) = check_settings(&mut report, places) {
        agent::check(&mut report, &world, &settings.common.agent, Some(project));
    }
    let findings = report.findings.into_iter();
    let problems = findings.filter(|finding| finding.level == Level::Problem);
    let line = |finding: Finding| {
        let remedy = finding.remedy.unwrap_or_default();
        clean_line(&format!("Problem: {}; run: {remedy}", finding.message))
    };
    problems.map(line).collect()
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

fn check_settings(report: &mut Report, places: &Places) -> Option<Settings> {
    let path = places.settings();
    let shown = path.display();
    let (settings, warnings) = match settings::load(&path) {
        Ok(read) => read,
        Err(error) => {
            report.wrong("settings", &error, &path);
            return None;
        }
    };
    for text in warnings {
        report.warn("settings", &text, &edit(&path));
    }
    match path.exists() {
        true => report.fine("settings", &shown.to_string()),
        false => report.fine("settings", &format!("the defaults; there is no {shown}")),
    }
    Some(settings)
}

/// Tells what is wrong with the registry, and gives the entries that the command is about.
fn check_registry(report: &mut Report, places: &Places, which: &Which) -> Result<Vec<Entry>> {
    let path = places.registry();
    let registry = match Registry::load(&path) {
        Ok(registry) => registry,
        Err(error) => {
            report.wrong("registry", &error, &path);
            return Ok(Vec::new());
        }
    };
    let (entries, bad) = registry.entries();
    for text in bad {
        report.problem("registry", &text, &edit(&path));
    }
    for text in registry.unknown_keys() {
        report.warn("registry", &text, &edit(&path));
    }
    let count = counted(entries.len() as u64, "project");
    let count = format!("{count} in {}", path.display());
    match entries.is_empty() {
        true => report.warn("registry", &count, "job-monitor register PATH"),
        false => report.fine("registry", &count),
    }
    Ok(scope::choose(&registry, entries, which)?.0)
}

fn check_credentials(report: &mut Report, world: &World) {
    let path = world.places.credentials();
    let shown = path.display();
    match &world.credentials {
        Err(error) => report.wrong("credentials", error, &path),
        Ok(all) if path.exists() => {
            let count = counted(all.len() as u64, "variable");
            report.fine("credentials", &format!("{shown} is safe and sets {count}"));
        }
        Ok(_) => report.fine("credentials", &format!("none; there is no {shown}")),
    }
}

/// All about one project; nothing is said of one that is in order.
fn check_project(report: &mut Report, world: &World, settings: &Settings, entry: &Entry) {
    let project = &entry.project;
    let items = project.path.join(project.layout.items());
    let policy = match entry.policy(settings) {
        _ if !entry.enabled => {
            let remedy = format!("job-monitor enable {}", quoted(&project.name));
            let message = "is disabled, so no job of it is started";
            return report.tell(Level::Ok, "project", message, Some(&remedy));
        }
        Err(error) => return report.wrong("settings", &error, &world.places.registry()),
        Ok(policy) => policy,
    };
    match Spool::open(project).and_then(|spool| spool.scan()) {
        Err(error) if error.is_not_found() => {
            let remedy = match project.path.is_dir() {
                true => format!("mkdir -p {}", quoted_path(&items)),
                false => format!("job-monitor unregister {}", quoted(&project.name)),
            };
            report.problem("directories", &error.to_string(), &remedy);
        }
        Err(error) => report.wrong("directories", &error, &items),
        Ok(_) => {}
    }
    agent::check_project(report, world, &policy.agent, project);
}

/// What is held: by faults of agents, by the day's money, by the owner's own rules.
fn check_holds(report: &mut Report, places: &Places, settings: &Settings, entries: &[Entry]) {
    let now = Wall::now();
    let mut records = board::read(&places.state);
    records.decide_all(entries, settings, now);
    let ends = |until: Wall| format!("; until {}", until.short(now));
    // What holds several projects alike, as the day's money does, is one finding.
    let mut held: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for hold in records.all(now) {
        let ends = hold.until.map(ends).unwrap_or_default();
        let what = format!("held ({}): {}{ends}", hold.kind.word(), hold.reason);
        held.entry(what).or_default().push(hold.who());
    }
    for (what, who) in &held {
        let verb = if who.len() > 1 { "are" } else { "is" };
        let message = format!("{} {verb} {what}", who.join(", "));
        report.warn("hold", &message, "job-monitor release --all");
    }
    if held.is_empty() {
        report.fine("holds", "nobody is held");
    }
}
