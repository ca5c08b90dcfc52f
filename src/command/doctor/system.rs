//! What the monitor needs of the machine: to run, to be started again, directories of its own with
//! room in them, inotify. And how a program is asked something.

use super::*;

/// So much of an answer is read, in bytes.
const ANSWER_MAX: u64 = 64 << 10;
/// How long an answer may take; agents take half a second.
const ANSWER_TIME: Duration = Duration::from_secs(5);
/// With less room than this, in MiB, results and logs may not be written any more.
const ROOM_MIN: u64 = 32;
/// With less room than this, in MiB, a day of logs may not fit.
const ROOM_LOW: u64 = 1024;

/// An environment; of a name that stands in it twice, the last counts.
pub(super) type Env = Vec<(OsString, OsString)>;

/// What a program answers, or why it does not.
type Answer = std::result::Result<String, String>;

/// What several checks need to know.
pub(super) struct World {
    pub(super) places: Places,
    daemon: Option<i32>,
    /// What agents' environments begin with: the running daemon's, else this shell's.
    pub(super) environment: Env,
    /// From `.env`.
    pub(super) credentials: Result<Env>,
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

    fn check_daemon(&self, report: &mut Report) {
        let Some(pid) = self.daemon else {
            let how = service::start_command();
            return report.problem("daemon", "the monitor is not running", how);
        };
        let version = env!("CARGO_PKG_VERSION");
        report.fine("daemon", &format!("runs (pid {pid}), version {version}"));
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

/// Asks a program that answers by itself and at once: all that it said, or why that is no answer. One
/// that does not is not waited for.
pub(super) fn ask(program: &Path, args: &[&str], at: &Path, env: &Env) -> Answer {
    // A file, not a pipe: a process that the program leaves behind could hold a pipe open.
    let answer = files::in_memory(b"").map_err(|error| error.to_string())?;
    let run = || -> io::Result<Option<ExitStatus>> {
        let mut command = Command::new(program);
        command.args(args).current_dir(at).stdin(Stdio::null());
        command.env_clear().envs(env.iter().cloned());
        command.stdout(answer.try_clone()?);
        command.stderr(answer.try_clone()?);
        let mut child = command.spawn()?;
        let ended = child.wait_timeout(ANSWER_TIME)?;
        if ended.is_none() {
            child.kill()?;
            child.wait()?;
        }
        Ok(ended)
    };
    let status = run().map_err(|error| format!("cannot be started: {}", plain(&error)))?;
    let late = || format!("gives no answer within {} s", ANSWER_TIME.as_secs());
    let status = status.ok_or_else(late)?;
    let said = files::tail(&answer, program, ANSWER_MAX).map_err(|error| error.to_string())?;
    let last = said.trim().lines().last().unwrap_or("it says nothing");
    match status.success() {
        true => Ok(said),
        false => Err(format!("fails ({status}): {last}")),
    }
}

/// What systemd says of our unit, asked as this shell does.
fn unit() -> Answer {
    let path = settings::variable("PATH").unwrap_or_default();
    let found = find_program("systemctl".as_ref(), path.as_ref(), Path::new("/"));
    let program = found.map_err(|_| "there is no systemctl here")?;
    let wanted = "--property=LoadState,ActiveState,UnitFileState";
    let args = ["--user", "show", "job-monitor.service", wanted];
    let env = std::env::vars_os().collect();
    ask(&program, &args, Path::new("/"), &env).map_err(|why| format!("systemctl {why}"))
}

/// Checks the daemon, its service, and the machine.
pub(super) fn check(report: &mut Report, world: &World, entries: &[Entry]) {
    world.check_daemon(report);
    check_service(report);
    for path in [&world.places.config, &world.places.state] {
        match stat(path).map(|stat| files::check_own(&stat, path)) {
            Ok(Err(error)) => report.wrong("directories", &error, path),
            _ => report.fine("directories", &format!("{} is yours alone", path.display())),
        }
    }
    let projects = entries.iter().map(|entry| entry.project.path.clone());
    let paths = [world.places.state.clone(), std::env::temp_dir()];
    let mut devices = Vec::new();
    for path in paths.into_iter().chain(projects) {
        // The directory, or what it will be made in.
        let look = |path: &Path| Some((path.to_owned(), stat(path).ok()?.st_dev));
        let there = path.ancestors().find_map(look);
        if let Some((path, device)) = there.filter(|(_, device)| !devices.contains(device)) {
            devices.push(device);
            check_disk(report, &path);
        }
    }
    check_inotify(report, entries);
}

/// What starts the monitor, and whether it goes on without a login.
fn check_service(report: &mut Report) {
    let told = match unit() {
        Ok(told) => told,
        Err(why) => {
            let message = format!("no systemd user manager starts the monitor ({why})");
            return report.tell(Level::Warning, "service", &message, None);
        }
    };
    let value = |key| {
        let mut lines = told.lines();
        let found = lines.find_map(|line| line.strip_prefix(key));
        found.unwrap_or_default()
    };
    let (active, enabled) = (value("ActiveState="), value("UnitFileState="));
    let state = format!("is {enabled} and {active}");
    let enable = "systemctl --user enable --now job-monitor";
    match (value("LoadState="), active, enabled) {
        ("loaded", "active", "enabled") => report.fine("service", &state),
        ("loaded", "failed" | "activating", _) => {
            let remedy = "journalctl --user --unit job-monitor --lines 30";
            report.warn("service", "does not stay up", remedy);
        }
        ("loaded", ..) => {
            let remedy = format!("systemctl --user daemon-reload && {enable}");
            report.warn("service", &state, &remedy);
        }
        _ => {
            let message = "nothing starts the monitor at boot; in the directory of its source:";
            report.warn("service", message, &format!("make install && {enable}"));
        }
    }
    let user = User::from_uid(geteuid()).ok().flatten();
    let user = user.map_or_else(|| geteuid().to_string(), |user| user.name);
    // logind keeps this file also for users who are not logged in, whom loginctl does not know.
    match Path::new("/var/lib/systemd/linger").join(&user).exists() {
        true => report.fine(
            "lingering",
            "the monitor also runs while you are logged out",
        ),
        false => {
            let message = "the monitor ends when you log out";
            report.warn("lingering", message, "loginctl enable-linger");
        }
    }
}

fn check_disk(report: &mut Report, path: &Path) {
    let Ok(stat) = statvfs(path) else { return };
    // The field types differ between architectures.
    #[allow(clippy::useless_conversion)]
    let room = (u64::from(stat.blocks_available()) * u64::from(stat.fragment_size())) >> 20;
    // Some file systems make inodes as they go, and say that there are none.
    let is_full = room < ROOM_MIN || (stat.files() != 0 && stat.files_available() == 0);
    let message = format!("{room} MiB of room at {}", path.display());
    let remedy = format!("df -h {0} && df -i {0}", quoted_path(path));
    match room {
        _ if is_full => report.problem("disk", &message, &remedy),
        ..ROOM_LOW => report.warn("disk", &message, &remedy),
        _ => report.fine("disk", &message),
    }
}

/// The kernel itself is asked for what the daemon needs: an instance, and a watch on each project.
fn check_inotify(report: &mut Report, entries: &[Entry]) {
    let (bell, _ear) = crate::watch::bell();
    let watcher = crate::watch::Watcher::default();
    let items = |entry: &Entry| entry.project.path.join(entry.project.layout.items());
    let items = entries.iter().map(items).filter(|path| path.is_dir());
    let mut there: Vec<PathBuf> = items.collect();
    let count = counted(there.len() as u64, "project");
    there.push(PathBuf::from("/"));
    for path in &there {
        if let Err(error) = watcher.watch(path, &bell, |_| false) {
            let why = crate::watch::reason(&error);
            let message = format!("{} is looked at once a minute only: {why}", path.display());
            let key = why.rsplit_once("the sysctl ");
            let key = key.map_or("fs.inotify", |(_, key)| key);
            return report.warn("inotify", &message, &format!("sudo sysctl {key}=524288"));
        }
    }
    report.fine("inotify", &format!("{count} can be watched"));
}
