//! `doctor`: what could stop jobs, each with what mends it.
//!
//! Everything is looked at as the daemon and its agents see it, whose environment is not that of the person's
//! shell. Nothing is made or changed, and of what an agent says only the version is shown: the rest may hold a
//! secret.

use super::*;
use Level::{Fine, Problem, Warning};

mod agent;

/// How long an answer may take; agents take half a second.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// So much of an answer is read, in bytes.
const ANSWER_MAX: u64 = 64 << 10;
/// With less room than this, in MiB, a day of logs may not fit.
const ROOM_LOW: u64 = 1024;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it should be.
    #[serde(rename = "ok")]
    Fine,
    /// Jobs run, but not as well as they might, or not now.
    Warning,
    /// Jobs are stopped, or would be.
    Problem,
}

/// What one check found.
#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    /// The project that it is about, or several.
    project: Option<String>,
    agent: Option<String>,
    level: Level,
    message: String,
    /// Something to paste into a shell, where the message does not say what helps.
    remedy: Option<String>,
}

impl Finding {
    /// All of it but the level and the check, in a line.
    fn line(&self) -> String {
        let whose = self.project.iter().chain(&self.agent);
        let mut text: String = whose.map(|name| format!("{name}: ")).collect();
        text += &self.message;
        if let Some(remedy) = &self.remedy {
            text += &format!("; run: {remedy}");
        }
        clean_line(&text)
    }
}

/// What all checks found.
#[derive(Default)]
struct Report {
    /// Whom the next findings are about.
    project: Option<String>,
    agent: Option<String>,
    findings: Vec<Finding>,
}

impl Report {
    fn fine(&mut self, check: &'static str, message: &str) {
        self.tell(Fine, check, message, "");
    }

    fn tell(&mut self, level: Level, check: &'static str, message: &str, remedy: &str) {
        self.findings.push(Finding {
            check,
            project: self.project.clone(),
            agent: self.agent.clone(),
            level,
            message: message.to_owned(),
            remedy: (level != Fine && !remedy.is_empty()).then(|| remedy.to_owned()),
        });
    }

    fn as_text(&self) -> String {
        let style = Style::of_stdout();
        let line = |finding: &Finding| {
            let (color, word) = match finding.level {
                Fine => ("32", "ok     "),
                Warning => ("33", "warning"),
                Problem => ("31", "problem"),
            };
            let (word, check) = (style.paint(color, word), finding.check);
            format!("{word} {check:<11} {}\n", finding.line())
        };
        self.findings.iter().map(line).collect()
    }
}

/// The environment of a program; of a name that stands in it twice, the last counts.
type Env = HashMap<OsString, OsString>;

/// The environment that a process was started with.
fn environment_of(pid: i32) -> Option<Variables> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let pair = |variable: &str| {
        let (name, value) = variable.split_once('=')?;
        Some((name.into(), value.into()))
    };
    let variables = String::from_utf8_lossy(&bytes);
    Some(variables.split('\0').filter_map(pair).collect())
}

/// Asks a program that answers by itself and at once: what it said, if it succeeded. One that does not
/// answer is not waited for.
fn ask(program: &Path, args: &[&str], env: &Env) -> Option<String> {
    // A file, not a pipe: a process that the program leaves behind could hold a pipe open.
    let answer = files::in_memory(b"").ok()?;
    let mut command = Command::new(program);
    command.args(args).current_dir("/").env_clear().envs(env);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let mut child = command.stdout(answer.try_clone().ok()?).spawn().ok()?;
    let Some(status) = child.wait_timeout(ANSWER_TIME).ok()? else {
        child.kill().and_then(|()| child.wait()).ok()?;
        return None;
    };
    let said = files::tail(&answer, program, ANSWER_MAX).ok();
    said.filter(|_| status.success())
}

fn edit(path: &Path) -> String {
    format!("${{EDITOR:-vi}} {}", quoted(&path.to_string_lossy()))
}

/// Looks at everything and says what it found; the exit status is 1 if a problem is among it.
pub(super) fn doctor(which: &Which, format: Format) -> Result<Exit> {
    let (scope, warnings) = Scope::read(which)?;
    let places = &scope.places;
    let (settings, odd) = settings::load(&places.settings())?;
    let mut report = Report::default();
    let how = service::start_command();
    match scope.daemon {
        Some(pid) => report.fine("daemon", &format!("the monitor runs (pid {pid})")),
        None => report.tell(Problem, "daemon", "the monitor is not running", how),
    }
    check_service(&mut report);
    check_credentials(&mut report, places);
    let registry = Registry::load(&places.registry())?;
    for text in registry.unknown_keys().into_iter().chain(odd) {
        report.tell(Warning, "settings", &text, "");
    }
    for text in warnings {
        report.tell(Problem, "projects", &text, "");
    }
    check_state(&mut report, &places.state);
    check_disk(&mut report, &scope);
    check_inotify(&mut report);
    agent::check_all(&mut report, &scope, &settings);
    check_projects(&mut report, &scope);
    let findings = || report.findings.iter();
    let count = |level| findings().filter(|one| one.level == level).count() as u64;
    let (problems, warnings) = (count(Problem), count(Warning));
    let all = json!({"findings": report.findings, "problems": problems, "warnings": warnings});
    render::answer(format, &all, || {
        let (problems, warnings) = (counted(problems, "problem"), counted(warnings, "warning"));
        format!("{}{problems}, {warnings}\n", report.as_text())
    })?;
    Ok(match problems {
        0 => Exit::Done,
        _ => Exit::Failed,
    })
}

/// What would stop jobs of a project that was just registered; a line for each.
pub(super) fn of_new_project(places: &Places, project: &Project) -> Result<Vec<String>> {
    let mut report = Report::default();
    let (settings, _) = settings::load(&places.settings())?;
    check_credentials(&mut report, places);
    agent::check(&mut report, places, &settings.common.agent, &project.path);
    let problems = report.findings.iter().filter(|one| one.level == Problem);
    Ok(problems.map(Finding::line).collect())
}

/// What starts the monitor, and whether it goes on without a login.
fn check_service(report: &mut Report) {
    let wanted = "--property=ActiveState,UnitFileState";
    let args = ["--user", "show", "job-monitor.service", wanted];
    let told = ask("systemctl".as_ref(), &args, &std::env::vars_os().collect());
    let state = clean_line(&told.unwrap_or_else(|| "systemctl does not answer".to_owned()));
    let starts = state.contains("=active") && state.contains("=enabled");
    let (level, text) = match starts {
        true => (Fine, "it runs, and starts when you log in"),
        false => (Warning, &*state),
    };
    let remedy = "systemctl --user enable --now job-monitor";
    report.tell(level, "service", text, remedy);
    // logind keeps this file also for users who are not logged in, whom loginctl does not know.
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
    let file = |user: nix::unistd::User| Path::new("/var/lib/systemd/linger").join(user.name);
    let lingers = user.ok().flatten().is_some_and(|user| file(user).exists());
    let (level, text) = match lingers {
        true => (Fine, "the service goes on while you are logged out"),
        false => (Warning, "the service ends when you log out"),
    };
    report.tell(level, "lingering", text, "loginctl enable-linger");
}

fn check_credentials(report: &mut Report, places: &Places) {
    let path = places.credentials();
    match settings::credentials(&path) {
        Err(error) => report.tell(Problem, "credentials", &error.to_string(), ""),
        Ok(given) => {
            let (count, path) = (counted(given.len() as u64, "variable"), path.display());
            report.fine("credentials", &format!("{count} set in {path}"));
        }
    }
}

/// The configuration's own directory was seen to when the settings were read.
fn check_state(report: &mut Report, path: &Path) {
    match stat(path).map(|stat| files::check_own(&stat, path)) {
        Ok(Err(error)) => report.tell(Problem, "directories", &error.to_string(), ""),
        _ => report.fine("directories", &format!("{} is yours alone", path.display())),
    }
}

/// Tells of the place that has the least room.
fn check_disk(report: &mut Report, scope: &Scope) {
    // The field types differ between architectures.
    #[allow(clippy::useless_conversion)]
    let room = |path: &Path| {
        let mut there = path.ancestors();
        let stat = there.find_map(|path| nix::sys::statvfs::statvfs(path).ok())?;
        let bytes = u64::from(stat.blocks_available()) * u64::from(stat.fragment_size());
        Some((bytes >> 20, path.to_owned()))
    };
    let projects = scope.entries.iter().map(|one| one.project.path.as_path());
    let places = projects.chain([scope.places.state.as_path()]);
    let (least, path) = places.filter_map(room).min().unwrap_or_default();
    let level = if least < ROOM_LOW { Warning } else { Fine };
    let text = format!("at least {least} MiB of room, at {}", path.display());
    let remedy = "job-monitor -a clean --older-than 30d --dry-run";
    report.tell(level, "disk", &text, remedy);
}

/// The kernel itself is asked for what the daemon needs: an instance, and a watch.
fn check_inotify(report: &mut Report) {
    let (bell, _ear) = crate::watch::bell();
    let watcher = crate::watch::Watcher::default();
    match watcher.watch(Path::new("/"), &bell, |_| false) {
        Ok(()) => report.fine("inotify", "directories can be watched"),
        Err(why) => {
            let text = format!("documents are noticed once a minute only: {why}");
            report.tell(Warning, "inotify", &text, "");
        }
    }
}

/// What is in the way of projects' jobs, in the words of `queue`; what several have in common is told
/// once.
fn check_projects(report: &mut Report, scope: &Scope) {
    let ground = Ground::of(scope);
    let mut found: BTreeMap<(&str, String), Vec<&str>> = BTreeMap::new();
    for entry in &scope.entries {
        let seen = ground.look(scope, entry);
        let left_alone = seen.left_alone.into_iter();
        let left_alone = left_alone.map(|name| ("Left alone", name));
        for line in seen.obstacles.into_iter().chain(left_alone) {
            found.entry(line).or_default().push(&entry.project.name);
        }
    }
    let registry = edit(&scope.places.registry());
    for ((word, why), projects) in found {
        let (level, remedy) = match word {
            // The error itself says what helps.
            "Unavailable" if why.contains("; ") => (Problem, ""),
            "Unavailable" | "Skipped" => (Problem, registry.as_str()),
            _ => (Warning, ""),
        };
        report.project = Some(projects.join(", "));
        report.tell(level, "projects", &format!("{word}: {why}"), remedy);
    }
    report.project = None;
    let count = counted(scope.entries.len() as u64, "project");
    report.fine("projects", &format!("{count} looked at"));
}
