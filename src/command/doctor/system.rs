//! What the monitor needs of the machine: to run, to be started again, directories of its own with
//! room in them, inotify. And how a program is asked something.

use super::{Finding, Fine, Problem, Warning, counted, quoted_path};
use crate::daemon;
use crate::error::{Error, plain};
use crate::files;
use crate::process::find_program;
use crate::registry::Entry;
use crate::service;
use crate::settings::{self, Places};
use crate::watch::{self, Watcher, bell};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::stat;
use nix::sys::statvfs::statvfs;
use nix::unistd::{Pid, User, geteuid};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use wait_timeout::ChildExt;

/// A program that only has to look at its own files answers at once; a cold start on a busy machine
/// takes some seconds.
const ASK_MAX: Duration = Duration::from_secs(8);
/// No answer that we ask for is longer, in bytes.
const ANSWER_MAX: usize = 64 << 10;
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
            let finding = Problem.found("daemon", "the monitor is not running");
            return finding.remedy(service::start_command());
        };
        let program = |of: &str| {
            let meta = std::fs::metadata(format!("/proc/{of}/exe"));
            meta.map(|meta| (meta.dev(), meta.ino())).ok()
        };
        if program("self") != program(&pid.to_string()) {
            let finding = Warning.found("daemon", format!("pid {pid} runs another version"));
            return finding.remedy("job-monitor restart");
        }
        let version = env!("CARGO_PKG_VERSION");
        Fine.found("daemon", format!("runs (pid {pid}), version {version}"))
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
    let answer = run(program, args, at, env);
    let (ended, said) = answer.map_err(|error| format!("cannot be started: {}", plain(&error)))?;
    let last = said.lines().map(str::trim).rfind(|line| !line.is_empty());
    match ended {
        Some(status) if status.success() => Ok(said),
        Some(status) => Err(format!(
            "fails ({status}): {}",
            last.unwrap_or("it says nothing")
        )),
        None => Err(format!("gave no answer within {} s", ASK_MAX.as_secs())),
    }
}

fn run(
    program: &Path,
    args: &[&str],
    at: &Path,
    env: &Env,
) -> io::Result<(Option<std::process::ExitStatus>, String)> {
    // A pipe may fill, and be held open by whoever the program leaves behind.
    let said = File::from(memfd_create(c"answer", MFdFlags::MFD_CLOEXEC)?);
    let mut command = Command::new(program);
    command.args(args).current_dir(at).stdin(Stdio::null());
    command.stdout(said.try_clone()?).stderr(said.try_clone()?);
    command.env_clear().envs(env.iter().cloned());
    let mut child = command.process_group(0).spawn()?;
    let ended = child.wait_timeout(ASK_MAX);
    // What it left behind must not outlive the question.
    let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
    let _ = child.wait();
    let mut bytes = vec![0; ANSWER_MAX];
    let length = said.read_at(&mut bytes, 0)?;
    Ok((
        ended?,
        String::from_utf8_lossy(&bytes[..length]).into_owned(),
    ))
}

/// Asks a program of the service manager's, as this shell does.
fn systemd(program: &str, args: &[&str]) -> Result<String, String> {
    let path = settings::variable("PATH").unwrap_or_default();
    let root = Path::new("/");
    let found = find_program(program.as_ref(), path.as_ref(), root);
    let found = found.map_err(|_| format!("there is no {program} here"))?;
    let env = std::env::vars_os().collect();
    ask(&found, args, root, &env).map_err(|why| format!("{program} {why}"))
}

/// What starts the monitor, and whether it goes on without a login.
pub(super) fn service_findings() -> Vec<Finding> {
    let wanted = "--property=LoadState,ActiveState,UnitFileState,NeedDaemonReload";
    let asked = systemd(
        "systemctl",
        &["--user", "show", "job-monitor.service", wanted],
    );
    let told = match asked {
        Ok(told) => told,
        Err(why) => {
            let message = format!("no systemd user manager starts the monitor ({why})");
            return vec![Warning.found("service", message)];
        }
    };
    let value = |key: &str| {
        let mut lines = told.lines();
        lines
            .find_map(|line| line.strip_prefix(key))
            .unwrap_or_default()
    };
    let enabled = value("UnitFileState=");
    let is_changed = value("NeedDaemonReload=") == "yes";
    let service = match (value("LoadState="), value("ActiveState=")) {
        ("loaded", "active") if enabled == "enabled" && !is_changed => {
            Fine.found("service", "is enabled and active")
        }
        ("loaded", "failed" | "activating") => Warning
            .found("service", "does not stay up")
            .remedy("journalctl --user --unit job-monitor --lines 30"),
        ("loaded", active) => Warning
            .found(
                "service",
                format!("is {enabled} and {active}, or was changed on disk"),
            )
            .remedy("systemctl --user daemon-reload && systemctl --user enable --now job-monitor"),
        _ => Warning
            .found(
                "service",
                "nothing starts the monitor at boot; in the directory of its source:",
            )
            .remedy("make install && systemctl --user enable --now job-monitor"),
    };
    vec![service, lingering_finding()]
}

fn lingering_finding() -> Finding {
    let user = User::from_uid(geteuid()).ok().flatten();
    let user = user.map_or_else(|| geteuid().to_string(), |user| user.name);
    let told = systemd("loginctl", &["show-user", &user, "--property=Linger"]);
    // loginctl does not know users who are not logged in.
    let lingers = told.is_ok_and(|told| told.trim() == "Linger=yes")
        || Path::new("/var/lib/systemd/linger").join(&user).exists();
    match lingers {
        true => Fine.found(
            "lingering",
            "the monitor also runs while you are logged out",
        ),
        false => Warning
            .found("lingering", "the monitor ends when you log out")
            .remedy("loginctl enable-linger"),
    }
}

/// Directories of the monitor's own, room on each file system, and inotify.
pub(super) fn machine_findings(places: &Places, entries: &[Entry]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for path in [&places.config, &places.state] {
        let checked = stat(path).ok().map(|stat| files::check_own(&stat, path));
        findings.push(match checked {
            Some(Err(error)) => Finding::error("directories", &error, path),
            _ => Fine.found("directories", format!("{} is yours alone", path.display())),
        });
    }
    let mut devices = Vec::new();
    let roots = entries.iter().map(|entry| entry.project.path.as_path());
    for path in [places.state.as_path(), &std::env::temp_dir()]
        .into_iter()
        .chain(roots)
    {
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
        _ if is_full => Problem.found("disk", message).remedy(remedy),
        ..ROOM_LOW => Warning.found("disk", message).remedy(remedy),
        _ => Fine.found("disk", message),
    })
}

/// The kernel itself is asked for what the daemon needs: an instance, and a watch on each project.
fn inotify_finding(entries: &[Entry]) -> Finding {
    let (bell, _ear) = bell();
    let mut watcher = Watcher::asleep();
    let items = |entry: &Entry| entry.project.path.join(entry.project.layout.items());
    let there: Vec<PathBuf> = entries
        .iter()
        .map(items)
        .filter(|path| path.is_dir())
        .collect();
    for path in [PathBuf::from("/")].iter().chain(&there) {
        if let Err(error) = watcher.watch(path, &bell, |_| false) {
            let why = watch::reason(&error);
            let message = format!("{} is looked at once a minute only: {why}", path.display());
            let key = why
                .rsplit_once("the sysctl ")
                .map_or("fs.inotify", |(_, key)| key);
            return Warning
                .found("inotify", message)
                .remedy(format!("sudo sysctl {key}=524288"));
        }
    }
    Fine.found(
        "inotify",
        format!("{} can be watched", counted(there.len(), "project")),
    )
}
