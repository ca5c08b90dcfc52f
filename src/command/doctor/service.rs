//! The monitor as a service: whether it runs, what starts it, how long it stays, and which
//! environment it hands to agents.

use super::ask::{ask, set};
use super::{Finding, quoted_path};
use crate::process;
use crate::settings;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The unit that comes with this version.
const UNIT: &str = include_str!("../../../job-monitor.service");
const NAME: &str = "job-monitor.service";
/// An environment is not larger; Linux itself allows little more.
const ENVIRON_MAX: u64 = 4 << 20;

/// What is known of daemon and unit.
pub(super) struct Service {
    daemon: Option<i32>,
    /// The unit's properties; or why the service manager does not tell.
    unit: Result<HashMap<String, String>, String>,
    /// What agents' environments begin with.
    pub(super) environment: Vec<(OsString, OsString)>,
    /// Whose environment that is.
    pub(super) whose: &'static str,
}

impl Service {
    /// Asks the service manager, and looks at the running daemon.
    pub(super) fn look(daemon: Option<i32>) -> Service {
        let unit = unit_properties();
        let (environment, whose) = environment(daemon, unit.as_ref().ok());
        Service {
            daemon,
            unit,
            environment,
            whose,
        }
    }

    /// Whether a daemon runs for this configuration.
    pub(super) fn runs(&self) -> bool {
        self.daemon.is_some()
    }
}

fn systemd(program: &str, args: &[&str]) -> Result<String, String> {
    let path = settings::variable("PATH").unwrap_or_default();
    let found = process::find_program(program.as_ref(), path.as_ref(), Path::new("/"));
    let Some(found) = found else {
        return Err(format!("there is no {program} here"));
    };
    let answer = ask(&found, args, Path::new("/"), None).map_err(|e| format!("{program} {e}"))?;
    match answer.status.success() {
        true => Ok(answer.stdout),
        false => Err(format!("{program} says: {}", answer.complaint())),
    }
}

fn unit_properties() -> Result<HashMap<String, String>, String> {
    let wanted = "--property=LoadState,UnitFileState,ActiveState,MainPID,FragmentPath,ExecStart,\
                  Environment,NeedDaemonReload";
    let told = systemd("systemctl", &["--user", "show", NAME, wanted])?;
    let pairs = told.lines().filter_map(|line| line.split_once('='));
    Ok(pairs
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect())
}

/// The environment that the daemon has; or would have, were it started.
fn environment(
    daemon: Option<i32>,
    unit: Option<&HashMap<String, String>>,
) -> (Vec<(OsString, OsString)>, &'static str) {
    if let Some(environment) = daemon.and_then(environment_of) {
        return (environment, "the running monitor");
    }
    let loaded = unit.filter(|unit| unit.get("LoadState").is_some_and(|state| state == "loaded"));
    if let Some(unit) = loaded
        && let Ok(manager) = systemd("systemctl", &["--user", "show-environment"])
    {
        let mut environment = Vec::new();
        let own = unit.get("Environment").map_or("", String::as_str);
        for word in manager.lines().flat_map(words).chain(words(own)) {
            if let Some((name, value)) = word.split_once('=') {
                set(&mut environment, name.as_ref(), value.as_ref());
            }
        }
        return (environment, "the service");
    }
    (settings::base_environment(), "this shell")
}

/// The environment that a process was started with.
fn environment_of(pid: i32) -> Option<Vec<(OsString, OsString)>> {
    let mut bytes = Vec::new();
    let file = std::fs::File::open(format!("/proc/{pid}/environ")).ok()?;
    std::io::Read::read_to_end(&mut std::io::Read::take(file, ENVIRON_MAX), &mut bytes).ok()?;
    let pairs = bytes.split(|&byte| byte == 0).filter_map(|variable| {
        let at = variable.iter().position(|&byte| byte == b'=')?;
        let part = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        Some((part(&variable[..at]), part(&variable[at + 1..])))
    });
    Some(pairs.collect())
}

/// The words of a line as systemctl quotes them: like a shell's, `$'...'` included.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match (quote, letter) {
            (None, ' ') => words.extend(word.take()),
            (None, '$') if letters.peek() == Some(&'\'') => {}
            (None, '"' | '\'') => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (Some(open), _) if letter == open => quote = None,
            (_, '\\') => word.get_or_insert_default().extend(letters.next()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}

/// What is right and wrong with daemon, unit and lingering.
pub(super) fn findings(service: &Service) -> Vec<Finding> {
    let mut findings = vec![daemon_finding(service)];
    match &service.unit {
        Ok(unit) => {
            findings.push(unit_finding(unit));
            findings.push(lingering_finding());
        }
        Err(why) => findings.push(no_manager_finding(why)),
    }
    findings
}

fn no_manager_finding(why: &str) -> Finding {
    // A shell that su, cron or the like started does not know where to ask.
    let runtime = format!("/run/user/{}", nix::unistd::geteuid());
    let is_there = Path::new(&runtime).join("systemd/private").exists();
    if is_there && settings::variable("XDG_RUNTIME_DIR").is_none() {
        let message = format!("this shell does not reach the systemd user manager ({why})");
        return Finding::warning("service", message)
            .remedy(format!("export XDG_RUNTIME_DIR={runtime}"));
    }
    let message = format!(
        "no systemd user manager answers, so nothing starts the monitor at boot or after a crash \
         ({why})"
    );
    Finding::warning("service", message)
}

fn daemon_finding(service: &Service) -> Finding {
    let unit = service.unit.as_ref().ok();
    let property = |name: &str| {
        unit.and_then(|unit| unit.get(name))
            .map_or("", String::as_str)
    };
    let Some(pid) = service.daemon else {
        if property("ActiveState") == "active" && property("MainPID") != "0" {
            let message = format!(
                "the service runs (pid {}), but for another configuration than this shell's",
                property("MainPID")
            );
            return Finding::problem("daemon", message)
                .remedy("unset MONITOR_SYSTEM_ROOT XDG_CONFIG_HOME XDG_STATE_HOME");
        }
        return match (property("LoadState"), property("ActiveState")) {
            ("loaded", "failed" | "activating") => {
                Finding::problem("daemon", "the service does not stay up")
                    .remedy("journalctl --user --unit job-monitor --lines 30")
            }
            ("loaded", _) => Finding::problem("daemon", "the monitor is not running")
                .remedy("systemctl --user start job-monitor"),
            _ => Finding::problem("daemon", "the monitor is not running")
                .remedy("job-monitor daemon"),
        };
    };
    match other_program(pid) {
        Some(what) => Finding::warning("daemon", format!("runs (pid {pid}), but {what}"))
            .remedy("job-monitor restart"),
        None => {
            let version = env!("CARGO_PKG_VERSION");
            Finding::ok("daemon", format!("runs (pid {pid}), version {version}"))
        }
    }
}

/// How the program that a process runs differs from this one.
fn other_program(pid: i32) -> Option<String> {
    let link = PathBuf::from(format!("/proc/{pid}/exe"));
    let path = std::fs::read_link(&link).ok()?;
    let ours = std::fs::metadata("/proc/self/exe").ok()?;
    // The link leads to the file that runs, even where another has its name by now.
    let theirs = std::fs::metadata(&link).ok()?;
    if (ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()) {
        return None;
    }
    if path.to_string_lossy().ends_with(" (deleted)") {
        return Some("its program has been replaced since it was started".to_owned());
    }
    other_version(&path)
}

/// How a program's version differs from ours.
fn other_version(program: &Path) -> Option<String> {
    let ours = concat!("job-monitor ", env!("CARGO_PKG_VERSION"));
    match ask(program, &["--version"], Path::new("/"), None) {
        Ok(answer) if answer.stdout.trim() == ours => None,
        Ok(answer) => Some(format!(
            "{} is {:?}, and this is {ours:?}",
            program.display(),
            answer.stdout.trim()
        )),
        Err(why) => Some(format!("{} {why}", program.display())),
    }
}

fn unit_finding(unit: &HashMap<String, String>) -> Finding {
    let property = |name: &str| unit.get(name).map_or("", String::as_str);
    match property("LoadState") {
        "loaded" => {}
        "not-found" => {
            return Finding::warning(
                "service",
                format!(
                    "{NAME} is not installed, so nothing starts the monitor at boot or after a \
                     crash; in the directory of its source:"
                ),
            )
            .remedy("make install && systemctl --user enable --now job-monitor");
        }
        "masked" => {
            return Finding::warning("service", format!("{NAME} is masked"))
                .remedy("systemctl --user unmask job-monitor");
        }
        state => {
            return Finding::problem("service", format!("{NAME} cannot be used ({state})"))
                .remedy("systemctl --user status job-monitor");
        }
    }
    let install = "make install && systemctl --user daemon-reload";
    let file = Path::new(property("FragmentPath"));
    let program = start_program(property("ExecStart"));
    if !program.is_file() {
        let message = format!(
            "{} starts {}, which is not there",
            file.display(),
            program.display()
        );
        return Finding::problem("service", message).remedy("make install");
    }
    if property("NeedDaemonReload") == "yes" {
        return Finding::warning("service", format!("{} was changed on disk", file.display()))
            .remedy("systemctl --user daemon-reload && job-monitor restart");
    }
    let is_ours = std::fs::metadata(&program)
        .and_then(|theirs| Ok((theirs, std::fs::metadata("/proc/self/exe")?)))
        .is_ok_and(|(theirs, ours)| (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino()));
    if !is_ours && let Some(what) = other_version(&program) {
        return Finding::warning("service", format!("the unit's program differs: {what}"))
            .remedy(install);
    }
    let text = std::fs::read_to_string(file).unwrap_or_default();
    if directives(&text) != directives(UNIT) {
        let message = format!(
            "{} is not the unit of this version; changes of your own belong into a drop-in, by \
             systemctl --user edit job-monitor",
            file.display()
        );
        return Finding::warning("service", message).remedy(install);
    }
    match (property("UnitFileState"), property("ActiveState")) {
        ("enabled" | "enabled-runtime" | "linked" | "static", "active") => Finding::ok(
            "service",
            format!("{} is enabled and active", file.display()),
        ),
        ("enabled" | "enabled-runtime" | "linked" | "static", state) => {
            Finding::warning("service", format!("{NAME} is enabled, but {state}"))
                .remedy("systemctl --user start job-monitor")
        }
        _ => Finding::warning("service", format!("{NAME} is not started at boot or login"))
            .remedy("systemctl --user enable job-monitor"),
    }
}

/// The program of `ExecStart`, as systemctl shows it: `{ path=/a/b ; argv[]=... }`.
fn start_program(shown: &str) -> PathBuf {
    let after = shown.split_once("path=").map_or("", |(_, after)| after);
    let path = after.split_once(" ;").map_or("", |(path, _)| path);
    PathBuf::from(path)
}

/// What a unit file says, less comments and the program's path, which the installation puts in.
fn directives(text: &str) -> Vec<&str> {
    let lines = text.lines().map(str::trim);
    let says = |line: &&str| {
        !line.is_empty() && !line.starts_with(['#', ';']) && !line.starts_with("ExecStart=")
    };
    lines.filter(says).collect()
}

fn lingering_finding() -> Finding {
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid())
        .ok()
        .flatten()
        .map_or_else(|| nix::unistd::geteuid().to_string(), |user| user.name);
    let told = systemd("loginctl", &["show-user", &user, "--property=Linger"]);
    let lingers = match &told {
        Ok(told) => told.trim() == "Linger=yes",
        // It does not know users who are not logged in and do not linger.
        Err(_) => Path::new("/var/lib/systemd/linger").join(&user).exists(),
    };
    match lingers {
        true => Finding::ok(
            "lingering",
            "the monitor also runs while you are logged out",
        ),
        false => Finding::warning("lingering", "the monitor ends when you log out")
            .remedy("loginctl enable-linger"),
    }
}

/// How to give agents of the service another `PATH`.
pub(super) fn path_remedy(credentials: &Path, directory: &Path, path: &OsStr) -> String {
    let line = format!("PATH={}:{}", directory.display(), path.display());
    format!(
        "(umask 077; echo {} >> {})",
        super::quoted(&line),
        quoted_path(credentials)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_of_a_unit_is_read_as_systemctl_quotes_it() {
        let line = r#"PATH=/a:/b "B=two words" 'C=it'"\"" D=$'x y' E="#;
        let expected = ["PATH=/a:/b", "B=two words", "C=it\"", "D=x y", "E="];
        assert_eq!(words(line), expected);
        assert!(words("").is_empty());
    }

    #[test]
    fn the_program_of_a_unit_is_found() {
        let shown = "{ path=/home/u/my bin/job-monitor ; argv[]=/home/u/my bin/job-monitor daemon ; \
                     ignore_errors=no ; start_time=[n/a] }";
        assert_eq!(
            start_program(shown),
            Path::new("/home/u/my bin/job-monitor")
        );
        assert_eq!(start_program(""), Path::new(""));
    }

    #[test]
    fn a_unit_is_the_same_whatever_its_program_and_comments() {
        let installed = UNIT
            .replace("%h/.local/bin/job-monitor", "\"/opt/my bin/job-monitor\"")
            .replace("# ", "# My ");
        assert_ne!(installed, UNIT);
        assert_eq!(directives(&installed), directives(UNIT));
        let older = UNIT.replace("Delegate=yes\n", "");
        assert_ne!(directives(&older), directives(UNIT));
        let narrower = UNIT.replace("%h/.cargo/bin:", "");
        assert_ne!(directives(&narrower), directives(UNIT));
    }
}
