//! A temporary world for one test: a HOME, the monitor's directories, projects, stand-in agents,
//! the daemon. Nothing outside of it is read or written, so tests run side by side.
//!
//! When a test panics, the daemon's log and the directory's listing are shown. Everything that
//! was started is ended when the space is dropped, each process by its id.

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Map, Value, json};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

pub use crate::common::lacks;

/// Longer than anything here takes on a machine that is busy with something else.
pub const BOUND: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(10);

/// The program under test; `JOB_MONITOR_PROGRAM` names a copy where this one is out of reach.
pub fn job_monitor() -> &'static str {
    static PROGRAM: LazyLock<Option<String>> =
        LazyLock::new(|| std::env::var("JOB_MONITOR_PROGRAM").ok());
    PROGRAM
        .as_deref()
        .unwrap_or(env!("CARGO_BIN_EXE_job-monitor"))
}

/// Asks again and again until there is an answer; panics with `what` when there is none in time.
#[track_caller]
pub fn wait_for<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    wait_longer(BOUND, what, ask)
}

/// As `wait_for`, for what may take its time by contract.
#[track_caller]
pub fn wait_longer<T>(bound: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(began.elapsed() < bound, "waited in vain for: {what}");
        std::thread::sleep(POLL);
    }
}

/// As `wait_for`, for a condition.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, || holds().then_some(()));
}

/// A child that another thread forks holds, until its exec, whatever we have open just then; a
/// script of which somebody holds a writable copy is "text file busy". So nothing is started while
/// a script is written.
static SCRIPTS: Mutex<()> = Mutex::new(());

/// Starts a command; see `SCRIPTS`.
pub fn spawn(command: &mut Command) -> Child {
    let _guard = SCRIPTS.lock().unwrap_or_else(PoisonError::into_inner);
    command.spawn().expect("the command can be started")
}

/// What a command printed and how it ended.
#[derive(Debug)]
pub struct Ran {
    /// The exit status; 128 + n after signal n.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    pub fn of(output: Output) -> Ran {
        Ran {
            status: code(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Standard output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.status, 0, "the command failed: {self:?}");
        self.stdout
    }

    /// Of a command that must have been refused: its exit status, and what it said on standard error.
    #[track_caller]
    pub fn refused(&self, status: i32, why: &str) {
        let is_so = self.status == status && self.stderr.contains(why);
        assert!(is_so, "no {status}, {why:?}: {self:?}");
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("standard output is not JSON ({e}): {self:?}"))
    }
}

/// What a text or a document must have; it panics with the whole of it where that is missing.
pub trait MustHave<T> {
    fn must_have(&self, expected: T);
}

impl MustHave<&str> for str {
    #[track_caller]
    fn must_have(&self, part: &str) {
        assert!(self.contains(part), "no {part:?} in {self}");
    }
}

/// As the above, of a string.
impl MustHave<&str> for Value {
    #[track_caller]
    fn must_have(&self, part: &str) {
        self.as_str().unwrap_or_default().must_have(part);
    }
}

/// These values: what else stands in an object is not looked at, at any depth.
impl MustHave<Value> for Value {
    #[track_caller]
    fn must_have(&self, expected: Value) {
        if let Some(difference) = difference(self, &expected) {
            panic!("{difference} in {self:#}");
        }
    }
}

/// Where a document is not as expected: the keys on the way there, and the two values.
fn difference(found: &Value, expected: &Value) -> Option<String> {
    let below = |at: &dyn std::fmt::Display, found, expected| {
        difference(found, expected).map(|rest| format!("{at} {rest}"))
    };
    match (found, expected) {
        (Value::Object(_), Value::Object(keys)) => keys
            .iter()
            .find_map(|(key, value)| below(key, &found[key], value)),
        (Value::Array(list), Value::Array(values)) if list.len() == values.len() => {
            let mut pairs = list.iter().zip(values).enumerate();
            pairs.find_map(|(at, (one, value))| below(&at, one, value))
        }
        _ => (found != expected).then(|| format!("is {found}, not {expected}")),
    }
}

/// A document with more keys, or with other values.
pub fn with(mut document: Value, more: Value) -> Value {
    let keys = more.as_object().expect("keys are an object").clone();
    document.as_object_mut().unwrap().extend(keys);
    document
}

/// The attempts of a result.
#[track_caller]
pub fn attempts(result: &Value) -> &[Value] {
    result["attempts"]
        .as_array()
        .expect("a result has attempts")
}

fn code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// See the head of the file.
pub struct Space {
    root: PathBuf,
    env: RefCell<BTreeMap<String, String>>,
    settings: RefCell<Map<String, Value>>,
    /// What stands in front of the daemon.
    launcher: RefCell<Vec<String>>,
    daemon: RefCell<Option<Child>>,
    starts: Cell<u32>,
}

impl Space {
    pub fn new() -> Space {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // A short name: the path of a Unix socket may have 107 bytes.
        let root = fs::canonicalize(std::env::temp_dir())
            .expect("there is a directory for temporary files")
            .join(format!("jm-e2e-{}-{number}", std::process::id()));
        for part in ["home", "config", "bin", "tmp"] {
            fs::create_dir_all(root.join(part)).unwrap();
        }
        let space = Space {
            root,
            env: RefCell::default(),
            settings: RefCell::default(),
            launcher: RefCell::default(),
            daemon: RefCell::default(),
            starts: Cell::new(0),
        };
        for (name, dir) in [
            ("HOME", "home"),
            ("MONITOR_SYSTEM_ROOT", "config"),
            ("TMPDIR", "tmp"),
        ] {
            space.env(name, space.root.join(dir).to_str().unwrap());
        }
        let outer = std::env::var("PATH").unwrap_or_else(|_| "/usr/bin:/bin".to_owned());
        let bin = space.root.join("bin");
        space.env("PATH", &format!("{}:{outer}", bin.display()));
        space.env("LANG", "C.UTF-8");
        space.set(json!({"grace": "1s"}));
        space
    }

    /// A space with one project.
    pub fn with_project() -> (Space, Project) {
        let space = Space::new();
        let project = space.project("alpha");
        (space, project)
    }

    // --- places ---

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn home(&self) -> PathBuf {
        self.root.join("home")
    }

    /// CONFIG of SPEC 1.
    pub fn config(&self) -> PathBuf {
        self.root.join("config")
    }

    /// STATE of SPEC 1.
    pub fn state(&self) -> PathBuf {
        self.root.join("config/state")
    }

    // --- what the daemon and the commands find ---

    /// A variable in the environment of the daemon and of the commands from now on.
    pub fn env(&self, name: &str, value: &str) {
        let mut env = self.env.borrow_mut();
        env.insert(name.to_owned(), value.to_owned());
    }

    /// Takes a variable out of that environment.
    pub fn unset(&self, name: &str) {
        self.env.borrow_mut().remove(name);
    }

    /// Merges keys into `config.json`.
    pub fn set(&self, keys: Value) {
        let mut settings = self.settings.borrow_mut();
        settings.extend(keys.as_object().expect("settings are an object").clone());
        let text = serde_json::to_vec_pretty(&*settings).unwrap();
        replace(&self.config().join("config.json"), &text);
    }

    /// Writes an executable into a directory at the head of PATH. `body` follows `#!/bin/sh`.
    pub fn program(&self, name: &str, body: &str) -> PathBuf {
        self.executable(name, &format!("#!/bin/sh\n{body}\n"))
    }

    /// Writes an executable with an interpreter line of its own.
    pub fn executable(&self, name: &str, text: &str) -> PathBuf {
        let path = self.root.join("bin").join(name);
        let temporary = self.root.join("bin").join(format!(".{name}.new"));
        let _guard = SCRIPTS.lock().unwrap_or_else(PoisonError::into_inner);
        fs::write(&temporary, text).unwrap();
        fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&temporary, &path).unwrap();
        path
    }

    /// Makes a `plain` agent of a shell script the agent that runs the jobs.
    pub fn plain_agent(&self, body: &str) {
        let path = self.program("agent", body);
        self.set(json!({
            "agent": "agent",
            "agents": {"agent": {"command": [path], "protocol": "plain"}},
        }));
    }

    /// Makes a shell script the `claude` that is found on PATH: the built-in agent as it is.
    pub fn claude(&self, body: &str) {
        self.program("claude", body);
    }

    /// A project of the layout `jobs`, its directories made and its entry written.
    pub fn project(&self, name: &str) -> Project {
        self.project_with(name, json!({}))
    }

    /// A project whose registry entry has more keys (settings, `layout`, `enabled`).
    pub fn project_with(&self, name: &str, keys: Value) -> Project {
        let mut project = Project::at(&self.root.join(name));
        if keys["layout"] == "tasks" {
            (project.base, project.items) = (project.path.clone(), "tasks");
        }
        project.create_dirs();
        let entry =
            json!({"path": project.path, "enabled": true, "registered_at": "2026-01-30T12:43:00"});
        self.edit_registry(|projects| {
            projects.insert(name.to_owned(), with(entry, keys));
        });
        project
    }

    /// Changes the entries of `registered.json`, as an editor would: a new file in its place.
    pub fn edit_registry(&self, change: impl FnOnce(&mut Map<String, Value>)) {
        let path = self.config().join("registered.json");
        let mut registry: Value = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).expect("the registry is JSON"),
            Err(_) => json!({"projects": {}}),
        };
        change(registry["projects"].as_object_mut().unwrap());
        replace(&path, &serde_json::to_vec_pretty(&registry).unwrap());
    }

    /// Writes a file beside the projects, and gives its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.root.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The daemon's holds and what was spent, as it has written them down.
    pub fn holds(&self) -> Value {
        let bytes = fs::read(self.state().join("holds.json")).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    }

    /// Puts others in their place, while no daemon runs.
    pub fn lay_holds(&self, holds: &Value) {
        fs::create_dir_all(self.state()).unwrap();
        replace(
            &self.state().join("holds.json"),
            holds.to_string().as_bytes(),
        );
    }

    /// Puts a usage limit of claude's there that lasts for years.
    pub fn lay_limit(&self) {
        let hold = json!({"agent": "claude", "kind": "usage_limit", "reason": "limit reached",
            "since": "2026-01-01T12:00:00Z", "until": "2099-01-01T12:00:00Z", "probe_at": null});
        self.lay_holds(&json!({"list": [hold], "blind": {}}));
    }

    /// Replaces `.env`, with the mode given.
    pub fn credentials(&self, text: &str, mode: u32) {
        let path = self.config().join(".env");
        let temporary = self.config().join(".env.new");
        fs::write(&temporary, text).unwrap();
        fs::set_permissions(&temporary, fs::Permissions::from_mode(mode)).unwrap();
        fs::rename(&temporary, &path).unwrap();
    }

    // --- the daemon ---

    /// Puts a launcher in front of the daemon from now on. It has the daemon for its only child, and
    /// ends when that does, as that does.
    pub fn launch_by(&self, argv: &[&str]) {
        *self.launcher.borrow_mut() = argv.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Starts the daemon and waits until it says that every project is watched.
    pub fn start(&self) {
        self.start_as(|_| {});
    }

    /// As `start`, after `adjust` has changed how.
    pub fn start_as(&self, adjust: impl FnOnce(&mut Command)) {
        let socket = self.root.join("notify");
        let _ = fs::remove_file(&socket);
        let ear = UnixDatagram::bind(&socket).unwrap();
        ear.set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        self.spawn(|command| {
            command.env("NOTIFY_SOCKET", &socket);
            adjust(command);
        });
        wait_until("READY=1 from the daemon", || {
            let mut message = [0; 512];
            if let Ok(length) = ear.recv(&mut message) {
                return message[..length].starts_with(b"READY=1");
            }
            if let Some(status) = self.ended() {
                panic!("the daemon ended with {status} before it was ready");
            }
            false
        });
    }

    /// Starts the daemon without waiting; `adjust` may change how.
    pub fn spawn(&self, adjust: impl FnOnce(&mut Command)) {
        assert!(self.daemon.borrow().is_none(), "the daemon runs already");
        let number = self.starts.get() + 1;
        self.starts.set(number);
        let log = File::create(self.root.join(format!("daemon-{number}.log"))).unwrap();
        let mut argv = self.launcher.borrow().clone();
        argv.extend([job_monitor().to_owned(), "daemon".to_owned()]);
        let mut command = self.command_of(&argv[0]);
        command.args(&argv[1..]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(log);
        adjust(&mut command);
        *self.daemon.borrow_mut() = Some(spawn(&mut command));
    }

    /// The daemon's process id.
    pub fn pid(&self) -> u32 {
        let id = self.daemon.borrow().as_ref().expect("a daemon runs").id();
        if self.launcher.borrow().is_empty() {
            return id;
        }
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
        children.trim().parse().expect("the launcher has one child")
    }

    /// Whether the running daemon has a thread for a project.
    pub fn serves(&self, project: &str) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap();
        let name = |dir: fs::DirEntry| fs::read_to_string(dir.path().join("comm"));
        let mut names = threads.flatten().flat_map(name);
        names.any(|name| name.trim_end() == project)
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.pid()).unwrap()), signal).unwrap();
    }

    /// How the daemon ended, if it did.
    pub fn ended(&self) -> Option<i32> {
        let mut daemon = self.daemon.borrow_mut();
        let status = daemon.as_mut()?.try_wait().unwrap()?;
        *daemon = None;
        Some(code(status))
    }

    /// Waits for the daemon's end and gives its exit status.
    pub fn wait_end(&self) -> i32 {
        wait_for("the daemon's end", || self.ended())
    }

    /// Stops the daemon as a service manager does; the exit status.
    pub fn stop(&self) -> i32 {
        self.signal(Signal::SIGTERM);
        self.wait_end()
    }

    /// `kill -9`.
    pub fn kill(&self) {
        self.signal(Signal::SIGKILL);
        self.wait_end();
    }

    /// What all daemons of this space wrote to standard error.
    pub fn log(&self) -> String {
        (1..=self.starts.get())
            .filter_map(|n| fs::read(self.root.join(format!("daemon-{n}.log"))).ok())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect()
    }

    /// Waits until the daemon's log contains a text.
    #[track_caller]
    pub fn wait_log(&self, text: &str) {
        wait_until(&format!("{text:?} in the daemon's log"), || {
            self.log().contains(text)
        });
    }

    // --- commands ---

    /// The program with the space's environment and nothing of ours.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.command_of(job_monitor());
        command.args(args);
        command
    }

    /// Another program with that environment.
    pub fn command_of(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().envs(&*self.env.borrow());
        command.current_dir(self.home());
        command
    }

    /// Runs a command to its end in HOME.
    pub fn run(&self, args: &[&str]) -> Ran {
        self.run_as(|_| {}, args)
    }

    /// Runs a command to its end in a directory.
    pub fn run_in(&self, dir: &Path, args: &[&str]) -> Ran {
        let there = |command: &mut Command| {
            command.current_dir(dir);
        };
        self.run_as(there, args)
    }

    /// Runs a command to its end, after `adjust` has changed how.
    pub fn run_as(&self, adjust: impl FnOnce(&mut Command), args: &[&str]) -> Ran {
        let mut command = self.command(args);
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        adjust(&mut command);
        Ran::of(spawn(&mut command).wait_with_output().unwrap())
    }

    // --- processes ---

    /// Processes that the daemon's agents left or run: whose environment or working directory is
    /// in this space. An agent that was given an empty environment still stands in its project.
    pub fn processes(&self) -> Vec<i32> {
        let own = self.daemon.borrow().as_ref().map(Child::id);
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let dir = entry.path();
            // With a slash, or the space of number 1 would end what belongs to 10 to 19.
            let root = [self.root.as_os_str().as_encoded_bytes(), b"/"].concat();
            let of_space = fs::read_link(dir.join("cwd"))
                .is_ok_and(|cwd| cwd.starts_with(&self.root))
                || fs::read(dir.join("environ"))
                    .is_ok_and(|bytes| bytes.windows(root.len()).any(|part| part == root));
            if of_space && Some(pid) != own && pid != std::process::id() {
                found.push(i32::try_from(pid).unwrap());
            }
        }
        found
    }

    /// Waits until none of them is left, for the 5 seconds that SPEC 5 allows.
    #[track_caller]
    pub fn assert_no_survivor(&self) {
        let began = Instant::now();
        while !self.processes().is_empty() {
            if began.elapsed() > Duration::from_secs(5) {
                let left: Vec<String> = self.processes().into_iter().map(describe).collect();
                panic!("still alive 5 s after the end: {left:?}");
            }
            std::thread::sleep(POLL);
        }
    }

    /// Every file of the space with its mode and size, for a person who looks at a failure.
    pub fn listing(&self) -> String {
        let mut find = Command::new("find");
        find.arg(&self.root).args(["-printf", "%P %m %s\n"]);
        let listed = find.output().map(Ran::of).map(|ran| ran.stdout);
        let listed = listed.unwrap_or_else(|e| e.to_string());
        let mut lines: Vec<&str> = listed.lines().collect();
        lines.sort_unstable();
        lines.join("\n")
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        if failed {
            eprintln!("--- the daemon's log\n{}", self.log());
            eprintln!("--- files\n{}", self.listing());
        }
        if let Some(mut daemon) = self.daemon.borrow_mut().take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
        // One that forks while we look is seen in the next round.
        for _ in 0..20 {
            let left = self.processes();
            if left.is_empty() {
                break;
            }
            for pid in left {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(POLL);
        }
        let keep = std::env::var_os("JOB_MONITOR_TEST_KEEP").is_some();
        if !(failed && keep) {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

/// One project of a space.
#[derive(Clone)]
pub struct Project {
    pub name: String,
    /// The project's root, where agents run.
    pub path: PathBuf,
    /// Where documents, results, state and logs are: `jobs/`, or the root in layout `tasks`.
    base: PathBuf,
    items: &'static str,
}

impl Project {
    /// Makes its directories, as the space does it first.
    pub fn create_dirs(&self) {
        for part in [self.items, "results", "state", "logs"] {
            fs::create_dir_all(self.base.join(part)).unwrap();
        }
    }

    /// A project of the layout `jobs` that a command registers.
    pub fn at(path: &Path) -> Project {
        Project {
            name: path.file_name().unwrap().to_str().unwrap().to_owned(),
            path: path.to_owned(),
            base: path.join("jobs"),
            items: "items",
        }
    }

    /// A file below the directory of documents.
    pub fn item(&self, name: &str) -> PathBuf {
        self.base.join(self.items).join(name)
    }

    /// A file in `state/`.
    pub fn state(&self, name: &str) -> PathBuf {
        self.base.join("state").join(name)
    }

    /// A file in `results/`.
    pub fn results(&self, name: &str) -> PathBuf {
        self.base.join("results").join(name)
    }

    /// A file in `logs/`.
    pub fn logs(&self, name: &str) -> PathBuf {
        self.base.join("logs").join(name)
    }

    /// A file that an agent made in the project's root, as text; empty if there is none.
    pub fn made(&self, name: &str) -> String {
        fs::read_to_string(self.path.join(name)).unwrap_or_default()
    }

    /// Drops a document into the spool as everybody should: temporary name, then rename.
    pub fn submit(&self, id: &str, text: &str) {
        replace(&self.item(&format!("{id}.md")), text.as_bytes());
    }

    /// Leaves a mark of a job in `state/`: `hold` or `cancel`.
    pub fn mark(&self, id: &str, mark: &str) {
        fs::write(self.state(&format!("{id}.{mark}")), "").unwrap();
    }

    /// Makes an empty file in the project's root, which an agent may wait for.
    pub fn touch(&self, name: &str) {
        fs::write(self.path.join(name), "").unwrap();
    }

    /// Submits some documents, in which there is little.
    pub fn submit_all(&self, ids: &[&str]) {
        ids.iter().for_each(|id| self.submit(id, "x"));
    }

    /// Puts a result there, as a job that is finished has left it; the file's path.
    pub fn put_result(&self, id: &str, document: &Value) -> PathBuf {
        let path = self.results(&format!("{id}.json"));
        fs::write(&path, document.to_string()).unwrap();
        path
    }

    /// The result, if the job is done.
    pub fn result(&self, id: &str) -> Option<Value> {
        let bytes = fs::read(self.results(&format!("{id}.json"))).ok()?;
        Some(serde_json::from_slice(&bytes).expect("a result is whole or absent"))
    }

    /// Waits for the result.
    #[track_caller]
    pub fn wait_result(&self, id: &str) -> Value {
        wait_for(&format!("the result of {id}"), || self.result(id))
    }

    /// As `wait_result`, of a job that must have completed.
    #[track_caller]
    pub fn wait_completed(&self, id: &str) -> Value {
        let result = self.wait_result(id);
        assert_eq!(result["status"], "completed", "{result:#}");
        result
    }

    #[track_caller]
    pub fn wait_all_completed(&self, ids: &[&str]) {
        for id in ids {
            self.wait_completed(id);
        }
    }

    /// Submits a document and waits for its result.
    #[track_caller]
    pub fn run(&self, id: &str, text: &str) -> Value {
        self.submit(id, text);
        self.wait_result(id)
    }

    /// As `run`, of a job that must have completed.
    #[track_caller]
    pub fn complete(&self, id: &str, text: &str) -> Value {
        self.submit(id, text);
        self.wait_completed(id)
    }

    /// Waits until an agent has made a file in the project's root.
    #[track_caller]
    pub fn wait_made(&self, name: &str) -> String {
        wait_for(&format!("{name} made by the agent"), || {
            fs::read_to_string(self.path.join(name)).ok()
        })
    }

    /// `queue_state.json`; null while there is none.
    pub fn view(&self) -> Value {
        fs::read(self.state("queue_state.json"))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or(Value::Null)
    }

    /// Waits for a view that satisfies a condition, and gives it.
    #[track_caller]
    pub fn wait_view(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        wait_for(&format!("queue_state.json: {what}"), || {
            Some(self.view()).filter(|view| holds(view))
        })
    }

    /// Waits until the project is held, and gives the hold.
    #[track_caller]
    pub fn wait_hold(&self, kind: &str) -> Value {
        let is_so = |view: &Value| view["hold"]["kind"] == kind;
        self.wait_view(&format!("held by {kind}"), is_so)["hold"].clone()
    }

    /// The document in the claim of a job, if there is a claim.
    pub fn claimed(&self, id: &str) -> Option<Value> {
        serde_json::from_str(self.claim(id)?.lines().next()?).ok()
    }

    /// The claim of a job as text, if there is one.
    pub fn claim(&self, id: &str) -> Option<String> {
        fs::read_to_string(self.state(&format!("{id}.claim"))).ok()
    }

    /// `logs/monitor.log`.
    pub fn journal(&self) -> String {
        fs::read_to_string(self.logs("monitor.log")).unwrap_or_default()
    }

    /// Names in a directory of the project, sorted; hidden ones too.
    pub fn names(&self, dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }
}

/// Makes a file look as if it had been written so long ago.
pub fn make_old(path: &Path, age: Duration) {
    let file = File::open(path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

/// Removes a directory in which the daemon may make files meanwhile.
pub fn remove_dir(path: &Path) {
    wait_until("the directory's end", || fs::remove_dir_all(path).is_ok());
}

/// Writes beside a file and renames over it.
pub fn replace(path: &Path, bytes: &[u8]) {
    let name = path.file_name().unwrap().to_str().unwrap();
    let temporary = path.with_file_name(format!(".{name}.tmp"));
    fs::write(&temporary, bytes).unwrap();
    fs::rename(&temporary, path).unwrap();
}

/// What came to and went from some directories while something was done, in order: `+name` and `-name`.
/// Names that were only written beside the real ones are among them.
pub fn effects_in(dirs: &[PathBuf], act: impl FnOnce()) -> Vec<String> {
    let ear = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).unwrap();
    let came = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
    let went = AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVED_FROM;
    for dir in dirs {
        ear.add_watch(dir, came | went).unwrap();
    }
    act();
    let mut effects = Vec::new();
    while let Ok(events) = ear.read_events() {
        for event in events {
            let sign = if event.mask.intersects(came) {
                '+'
            } else {
                '-'
            };
            let name = event.name.unwrap_or_default();
            effects.push(format!("{sign}{}", name.to_string_lossy()));
        }
    }
    effects
}

/// Whether a process is there and not a zombie.
pub fn is_alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").starts_with(" Z"))
}

fn describe(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    format!(
        "{pid} {}",
        String::from_utf8_lossy(&line).replace('\0', " ")
    )
}
