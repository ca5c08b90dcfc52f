//! What the monitor needs of the machine: to run, to be started again, directories of its own with
//! room in them, inotify. And how a program is asked something.

use super::{Finding, Level, counted, fine, found, problem, quoted_path, warning, wrong};
use crate::daemon;
use crate::error::{Error, plain};
use crate::files;
use crate::process::find_program;
use crate::registry::Entry;
use crate::service;
use crate::settings::{self, Places};
use crate::watch::{self, Watcher, bell};
use nix::sys::stat::stat;
use nix::sys::statvfs::statvfs;
use nix::unistd::{User, geteuid};
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

/// No answer that we ask for is longer, in bytes.
const ANSWER_MAX: u64 = 64 << 10;
/// Below this nothing can be relied on to be written, in MiB: results take kilobytes, logs megabytes.
const ROOM_MIN: u64 = 32;
/// Below this a day of logs may not fit, in MiB.
const ROOM_LOW: u64 = 1024;

/// An environment; of a name that stands in it twice, the last counts.
pub(super) type Env = Vec<(OsString, OsString)>;

/// What several checks need to know.
pub(super) struct World {
    pub(super) places: Places,
    daemon: Option<i32>,
    /// What agents' environments begin with: the running daemon's, else this shell's.
    pub(super) environment: Env,
    /// From `.env`.
    pub(super) credentials: Result<Env, Error>,
}

impl World {
    pub(super) fn look(places: Places) -> World {
        let daemon = daemon::running(&places);
        let environment = daemon.and_then(environment_of);
        World {
            daemon,
            environment: environment.unwrap_or_else(settings::base_environment),
            credentials: settings::credentials(&places.credentials()),
            places,
        }
    }

    /// Whose environment it is.
    pub(super) fn whose(&self) -> &'static str {
        match self.daemon {
            Some(_) => "the running monitor",
            None => "this shell",
        }
    }

    pub(super) fn daemon_finding(&self) -> Finding {
        let Some(pid) = self.daemon else {
            let how = service::start_command();
            return problem("daemon", "the monitor is not running", how);
        };
        let version = env!("CARGO_PKG_VERSION");
        fine("daemon", format!("runs (pid {pid}), version {version}"))
    }
}

/// The environment that a process was started with.
fn environment_of(pid: i32) -> Option<Env> {
    let bytes = std::fs::read(format!("/proc/{pid}/environ")).ok()?;
    let pairs = bytes.split(|&byte| byte == 0).filter_map(|variable| {
        let at = variable.iter().position(|&byte| byte == b'=')?;
        let part = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
        Some((part(&variable[..at]), part(&variable[at + 1..])))
    });
    Some(pairs.collect())
}

/// Asks a program that answers by itself and at once: all that it said, or why that is no answer.
pub(super) fn ask(program: &Path, args: &[&str], at: &Path, env: &Env) -> Result<String, String> {
    // A pipe may be held open by whoever the program leaves behind.
    let answer = files::in_memory(b"").map_err(|error| error.to_string())?;
    let run = || -> io::Result<ExitStatus> {
        let mut command = Command::new(program);
        command.args(args).current_dir(at).stdin(Stdio::null());
        command.env_clear().envs(env.iter().cloned());
        command.stdout(answer.try_clone()?);
        command.stderr(answer.try_clone()?);
        command.status()
    };
    let status = run().map_err(|error| format!("cannot be started: {}", plain(&error)))?;
    let said = files::tail(&answer, program, ANSWER_MAX).map_err(|error| error.to_string())?;
    let last = said.trim().lines().last().unwrap_or("it says nothing");
    match status.success() {
        true => Ok(said),
        false => Err(format!("fails ({status}): {last}")),
    }
}

/// What systemd says of our unit, asked as this shell does.
fn unit() -> Result<String, String> {
    let path = settings::variable("PATH").unwrap_or_default();
    let found = find_program("systemctl".as_ref(), path.as_ref(), Path::new("/"));
    let program = found.map_err(|_| "there is no systemctl here")?;
    let wanted = "--property=LoadState,ActiveState,UnitFileState,NeedDaemonReload";
    let args = ["--user", "show", "job-monitor.service", wanted];
    let env = std::env::vars_os().collect();
    ask(&program, &args, Path::new("/"), &env).map_err(|why| format!("systemctl {why}"))
}

/// What starts the monitor, and whether it goes on without a login.
pub(super) fn service_findings() -> Vec<Finding> {
    let told = match unit() {
        Ok(told) => told,
        Err(why) => {
            let message = format!("no systemd user manager starts the monitor ({why})");
            return vec![found(Level::Warning, "service", message, None)];
        }
    };
    let value = |key| {
        told.lines()
            .find_map(|line| line.strip_prefix(key))
            .unwrap_or_default()
    };
    let (active, enabled) = (value("ActiveState="), value("UnitFileState="));
    let is_changed = value("NeedDaemonReload=") == "yes";
    let state = format!("is {enabled} and {active}, or was changed on disk");
    let enable = "systemctl --user enable --now job-monitor";
    let service = match active {
        _ if value("LoadState=") != "loaded" => {
            let message = "nothing starts the monitor at boot; in the directory of its source:";
            warning("service", message, format!("make install && {enable}"))
        }
        "active" if enabled == "enabled" && !is_changed => fine("service", "is enabled and active"),
        "failed" | "activating" => {
            let remedy = "journalctl --user --unit job-monitor --lines 30";
            warning("service", "does not stay up", remedy)
        }
        _ => {
            let remedy = format!("systemctl --user daemon-reload && {enable}");
            warning("service", state, remedy)
        }
    };
    vec![service, lingering_finding()]
}

fn lingering_finding() -> Finding {
    let user = User::from_uid(geteuid()).ok().flatten();
    let user = user.map_or_else(|| geteuid().to_string(), |user| user.name);
    // Here logind keeps it, also of users who are not logged in, whom loginctl does not know.
    match Path::new("/var/lib/systemd/linger").join(&user).exists() {
        true => fine(
            "lingering",
            "the monitor also runs while you are logged out",
        ),
        false => warning(
            "lingering",
            "the monitor ends when you log out",
            "loginctl enable-linger",
        ),
    }
}

/// Directories of the monitor's own, room on each file system, and inotify.
pub(super) fn machine_findings(places: &Places, entries: &[Entry]) -> Vec<Finding> {
    let own = |path: &PathBuf| match stat(path).map(|stat| files::check_own(&stat, path)) {
        Ok(Err(error)) => wrong("directories", &error, path),
        _ => fine("directories", format!("{} is yours alone", path.display())),
    };
    let mut findings: Vec<Finding> = [&places.config, &places.state].map(own).into();
    let mut paths = vec![places.state.clone(), std::env::temp_dir()];
    paths.extend(entries.iter().map(|entry| entry.project.path.clone()));
    let mut devices = Vec::new();
    for path in &paths {
        // The directory, or what it will be made in.
        let there = path
            .ancestors()
            .find_map(|path| Some((path, stat(path).ok()?.st_dev)));
        if let Some((path, device)) = there.filter(|(_, device)| !devices.contains(device)) {
            devices.push(device);
            findings.extend(disk_finding(path));
        }
    }
    findings.push(inotify_finding(entries));
    findings
}

fn disk_finding(path: &Path) -> Option<Finding> {
    let stat = statvfs(path).ok()?;
    // The field types differ between architectures.
    #[allow(clippy::useless_conversion)]
    let room = (u64::from(stat.blocks_available()) * u64::from(stat.fragment_size())) >> 20;
    // Some file systems make inodes as they go, and say that there are none.
    let is_full = room < ROOM_MIN || (stat.files() != 0 && stat.files_available() == 0);
    let message = format!("{room} MiB of room at {}", path.display());
    let remedy = format!("df -h {0} && df -i {0}", quoted_path(path));
    Some(match room {
        _ if is_full => problem("disk", message, remedy),
        ..ROOM_LOW => warning("disk", message, remedy),
        _ => fine("disk", message),
    })
}

/// The kernel itself is asked for what the daemon needs: an instance, and a watch on each project.
fn inotify_finding(entries: &[Entry]) -> Finding {
    let (bell, _ear) = bell();
    let mut watcher = Watcher::asleep();
    let items = |entry: &Entry| entry.project.path.join(entry.project.layout.items());
    let mut there: Vec<PathBuf> = entries
        .iter()
        .map(items)
        .filter(|path| path.is_dir())
        .collect();
    let count = counted(there.len(), "project");
    there.push(PathBuf::from("/"));
    for path in &there {
        if let Err(error) = watcher.watch(path, &bell, |_| false) {
            let why = watch::reason(&error);
            let message = format!("{} is looked at once a minute only: {why}", path.display());
            let key = why
                .rsplit_once("the sysctl ")
                .map_or("fs.inotify", |(_, key)| key);
            return warning("inotify", message, format!("sudo sysctl {key}=524288"));
        }
    }
    fine("inotify", format!("{count} can be watched"))
}
