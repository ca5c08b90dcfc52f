//! The main thread: one instance, signals, registry and settings followed live, one worker for each
//! enabled project, and the slow look that heals what inotify cannot tell.

use crate::board::{self, Board};
use crate::error::{Error, Exit, Result, plain};
use crate::files::{self, Dir};
use crate::holds::{Hold, Holds, Stamp};
use crate::job::Meta;
use crate::process;
use crate::project::{Policy, Project};
use crate::registry::{Entry, Registry};
use crate::service;
use crate::settings::{self, Places, Settings};
use crate::spool;
use crate::watch::{self, Bell, Ear, Wake, Watcher};
use crate::worker::{self, Context, Desk, Order, Post};
use log::Level;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::{SigHandler, Signal, signal};
use serde_json::Map;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// The slow look: the only wake-up of an idle daemon (SPEC 11.5).
const TICK: Duration = Duration::from_secs(60);
/// A project that does not come up must not keep the others from being reported ready.
const READY_MAX: Duration = Duration::from_secs(20);
/// A file of settings that is missing for no longer than this is being replaced by an editor.
const REPLACE_MAX: Duration = Duration::from_secs(1);
/// A worker's stack; most of it is never touched, and so costs nothing.
const STACK: usize = 512 << 10;
/// How late it is noticed that a person who insists has waited long enough.
const STOP_LOOK: Duration = Duration::from_millis(20);
/// After the second signal: a little more than killing and sweeping an agent's tree may take.
const INSIST_MAX: Duration = Duration::from_secs(10);
/// The file in STATE whose lock says that a daemon serves this user.
const INSTANCE: &str = "daemon.lock";
const IS_RUNNING: &str = "the monitor is running already; job-monitor list shows its projects, job-monitor restart starts it anew";

/// Signals received; the first asks, the second insists.
static SIGNALS: AtomicU32 = AtomicU32::new(0);

/// A lock on a whole file that belongs to a process: no agent inherits it, so it dies with the daemon, and
/// the system tells whose it is. It also ends when the process closes the file a second time.
const WHOLE: libc::flock = libc::flock {
    l_type: libc::F_WRLCK as i16,
    l_whence: libc::SEEK_SET as i16,
    l_start: 0,
    l_len: 0,
    l_pid: 0,
};

/// The pid of the running daemon, if one runs.
pub fn running(places: &Places) -> Option<i32> {
    let file = files::open_path(&places.state.join(INSTANCE)).ok()??;
    let mut lock = WHOLE;
    fcntl(&file, FcntlArg::F_GETLK(&mut lock)).ok()?;
    (i32::from(lock.l_type) != libc::F_UNLCK).then_some(lock.l_pid)
}

/// Runs the monitor until it is told to stop.
pub fn run(places: Places) -> Result<()> {
    process::begin_without_caches();
    process::prepare_daemon()
        .map_err(|e| Error::new(format!("cannot prepare for child processes: {}", plain(&e))))?;
    service::init_logging();
    let state = Dir::create(&places.state)?;
    let config = Dir::create(&places.config)?;
    // Whoever can write these can have us run anything, or take the lock from under us.
    for dir in [&config, &state] {
        files::check_own(&dir.stat()?, dir.path())?;
    }
    let _instance = lock_instance(&state)?;
    log::info!("Starting Multi-Project Job Monitor");
    let (bell, ear) = watch::bell();
    handle_signals(&bell)?;
    let context = Arc::new(Context {
        board: Board::open(state, &bell),
        watcher: Watcher::default(),
        environment: settings::base_environment(),
        main: bell,
        places,
    });
    Daemon {
        context,
        ear,
        workers: Vec::new(),
        settings: None,
        entries: None,
        read: None,
        wrong: Said::new(),
        told: Said::new(),
        watched: BTreeMap::new(),
    }
    .run();
    Ok(())
}

/// One daemon for each user, as long as the file stays open.
fn lock_instance(state: &Dir) -> Result<File> {
    let file = state.append_file(INSTANCE)?;
    match fcntl(&file, FcntlArg::F_SETLK(&WHOLE)) {
        Ok(_) => Ok(file),
        Err(nix::Error::EAGAIN | nix::Error::EACCES) => {
            Err(Error::with(Exit::AlreadyRunning, IS_RUNNING))
        }
        Err(error) => Err(Error::io("lock", &state.path_of(INSTANCE), error.into())),
    }
}

/// SIGTERM, SIGINT, and SIGHUP unless we were started with it ignored (nohup).
fn handle_signals(bell: &Bell) -> Result<()> {
    // SAFETY: SIG_IGN is not a handler, so no code of ours runs in signal context.
    let ignore = || unsafe { signal(Signal::SIGHUP, SigHandler::SigIgn) };
    let was_ignored = matches!(ignore(), Ok(SigHandler::SigIgn));
    let bell = bell.clone();
    let handler = move || {
        if SIGNALS.fetch_add(1, Ordering::SeqCst) > 0 {
            process::hurry();
        }
        bell.ring(Wake::Again);
    };
    let set = ctrlc::set_handler(handler);
    set.map_err(|error| Error::new(format!("cannot handle signals: {error}")))?;
    if was_ignored {
        let _ = ignore();
    }
    Ok(())
}

/// A project, what holds for it, and whether it is to be served.
type Wanted = (Project, Arc<Policy>, Order);

struct Daemon {
    context: Arc<Context>,
    ear: Ear,
    /// Those whose threads have not left.
    workers: Vec<Arc<Post>>,
    /// The last good settings; without any, nothing is started.
    settings: Option<Settings>,
    /// The last good registry, if there has been one.
    entries: Option<Vec<Entry>>,
    /// What the files of both looked like when they were read.
    read: Option<[Stamp; 2]>,
    /// What was found wrong with them then.
    wrong: Said,
    /// What has been said of settings, registry and watches, so that it is said once.
    told: Said,
    /// Directories whose events are heard, besides those of projects, as they were then.
    watched: BTreeMap<PathBuf, Meta>,
}

/// Lines that are said once while they hold.
type Said = Vec<(Level, String)>;

impl Daemon {
    fn run(mut self) {
        let mut tick = Instant::now() + TICK;
        let mut ready_by = Some(Instant::now() + READY_MAX);
        self.follow();
        // Releases and new logins may have come while no daemon ran.
        self.look();
        while SIGNALS.load(Ordering::SeqCst) == 0 {
            let mut workers = self.workers.iter();
            let is_up = workers.all(|worker| worker.desk().is_up);
            if ready_by.is_some_and(|at| is_up || at <= Instant::now()) {
                ready_by = None;
                service::tell(service::READY);
            }
            let until = ready_by.map_or(tick, |at| at.min(tick));
            let first = self.ear.recv_deadline(until).ok();
            let heard = first.into_iter().chain(self.ear.try_iter());
            let is_changed = heard.filter(|wake| *wake != Wake::Again).count() > 0;
            let is_slow_look = Instant::now() >= tick;
            if self.bury() || is_changed || is_slow_look {
                self.look();
            }
            if is_slow_look {
                tick = Instant::now() + TICK;
                self.workers.iter().for_each(|worker| look_slowly(worker));
            }
        }
        self.stop();
    }

    /// Looks at what the daemon waits for, besides documents.
    fn look(&mut self) {
        let entries = self.entries.as_deref().unwrap_or_default();
        let board = &self.context.board;
        let lifted = board.release_all(entries, self.settings.as_ref());
        say_lifted(lifted, "released by hand");
        self.follow();
        let has_changed = |old: &Stamp| board::stamp(old.path.clone()) != *old;
        let mend = |holds: &mut Holds, _| holds.mend(has_changed);
        let lifted = self.context.board.change(mend);
        say_lifted(lifted, "its credentials or its program have changed");
    }

    /// Brings the workers in line with settings and registry as they are now. What is broken, or is
    /// just being replaced, leaves the last good state in force.
    fn follow(&mut self) {
        let mut said = Said::new();
        // Watching comes first: what changes after the look is heard of.
        self.watch_own(&mut said);
        let places = &self.context.places;
        let look = || [places.settings(), places.registry()].map(board::stamp);
        let mut files = look();
        let is_there = |file: &Stamp| !file.seen.is_empty();
        let mut both = files.iter().zip(self.read.iter().flatten());
        if both.any(|(now, before)| is_there(before) && !is_there(now)) {
            // A file that was there and is not may be there again in a moment.
            std::thread::sleep(REPLACE_MAX);
            files = look();
        }
        let is_first = self.entries.is_none();
        // An idle daemon reads nothing again, unless something was wrong, which may be over.
        if !self.wrong.is_empty() || self.read.as_ref() != Some(&files) {
            self.wrong = self.read();
            self.read = Some(files);
        }
        said.extend(self.wrong.iter().cloned());
        let mut wanted = Vec::new();
        for entry in self.entries.iter().flatten() {
            let Some(all) = &self.settings else { break };
            let (name, policy) = (&entry.project.name, entry.policy(all));
            let disabled = || format!("Project '{name}' is disabled, skipping");
            let skipped = |error| (Level::Error, format!("{error}; the project is skipped"));
            let why = match &policy {
                _ if !entry.enabled => Some((Level::Info, disabled())),
                Err(error) => Some(skipped(error)),
                Ok(_) => None,
            };
            let order = why.as_ref().map_or(Order::Serve, |_| Order::Drain);
            said.extend(why);
            let policy = policy.or_else(|_| all.policy(&Map::new())).map(Arc::new);
            wanted.extend(policy.map(|policy| (entry.project.clone(), policy, order)));
        }
        if self.entries.as_ref().is_some_and(Vec::is_empty) {
            let text = "no project is registered yet; job-monitor register PATH adds one";
            said.push((Level::Info, text.to_owned()));
        }
        for (level, text) in said.iter().filter(|line| !self.told.contains(line)) {
            log::log!(*level, "{text}");
            if wanted.iter().all(|one| one.2 == Order::Drain) {
                service::status(text);
            }
        }
        self.told = said;
        self.employ(wanted, is_first);
    }

    /// Reads settings and registry, and tells what is wrong with them. A broken one leaves what was read
    /// before in force.
    fn read(&mut self) -> Said {
        let mut said = Said::new();
        let places = &self.context.places;
        let before = self.settings.clone();
        match settings::load(&places.settings()) {
            Ok((settings, wrong)) => {
                said.extend(wrong.into_iter().map(|text| (Level::Warn, text)));
                self.settings = Some(settings);
            }
            Err(error) => said.push(in_force(error, self.settings.is_some(), "settings")),
        }
        match Registry::load(&places.registry()) {
            Ok(registry) => {
                let (entries, wrong) = registry.entries();
                let wrong = wrong.into_iter().chain(registry.unknown_keys());
                said.extend(wrong.map(|text| (Level::Warn, text)));
                self.entries = Some(entries);
            }
            Err(error) => said.push(in_force(error, self.entries.is_some(), "projects")),
        }
        if before.is_some() && before != self.settings {
            log::info!("the settings have changed; they hold from the next start on");
        }
        said
    }

    /// Drains the workers whose project is gone, changed or not to be served, and starts those that are missing.
    /// Where another is still at the same name or place, the new one waits until that has left. At first those
    /// that are only to be drained are started, too: a dead daemon may have left agents there.
    fn employ(&mut self, wanted: Vec<Wanted>, is_first: bool) {
        for worker in &self.workers {
            let is_its = |(project, ..): &&Wanted| *project == worker.project;
            match wanted.iter().find(is_its) {
                Some((_, policy, order)) => give_order(worker, *order, Arc::clone(policy)),
                None => give_order(worker, Order::Drain, worker.policy()),
            }
        }
        for (project, policy, order) in wanted {
            let is_at = |other: &Project| other.name == project.name || other.path == project.path;
            let mut others = self.workers.iter().map(|worker| &worker.project);
            if !others.any(is_at) && (order == Order::Serve || is_first) {
                self.start(project, policy, order);
            }
        }
    }

    fn start(&mut self, project: Project, policy: Arc<Policy>, order: Order) {
        let (bell, ear) = watch::bell();
        let desk = Mutex::new(Desk {
            order,
            policy,
            ..Desk::default()
        });
        let post = Arc::new(Post {
            context: Arc::clone(&self.context),
            project,
            desk,
            bell,
            ear,
        });
        let life = Arc::clone(&post);
        let thread = std::thread::Builder::new().name(post.project.name.clone());
        match thread.stack_size(STACK).spawn(move || worker::serve(&life)) {
            Ok(_) => self.workers.push(post),
            Err(error) => {
                let (name, why) = (&post.project.name, plain(&error));
                log::error!("[{name}] cannot start a thread: {why}; trying again in a minute");
            }
        }
    }

    /// Forgets the workers that have left, of whose threads the last steps may be to come; whether there were any.
    fn bury(&mut self) -> bool {
        let before = self.workers.len();
        self.workers.retain(|worker| !worker.desk().has_left);
        self.workers.len() < before
    }

    /// Hears of changes of settings, registry, releases, and of the files that end a hold. Heals the
    /// watch of a directory that was replaced or mounted over.
    fn watch_own(&mut self, said: &mut Said) {
        let places = &self.context.places;
        let mut files = self.context.board.files_of_holds();
        files.extend([places.settings(), places.registry(), places.credentials()]);
        files.push(places.state.join(board::RELEASE));
        files.extend(Some(&places.config).filter(|dir| dir.is_symlink()).cloned());
        let dirs = files.iter().flat_map(|file| whereabouts(file));
        let dirs = dirs.filter_map(|dir| Some((dir.clone(), files::meta_at(&dir).ok()?)));
        let dirs: BTreeMap<PathBuf, Meta> = dirs.collect();
        let state = places.state.canonicalize().unwrap_or_default();
        // Each request wakes the watcher's thread, which an idle daemon must not do.
        if dirs == self.watched {
            return;
        }
        let watcher = &self.context.watcher;
        for dir in self.watched.keys().filter(|dir| !dirs.contains_key(*dir)) {
            watcher.unwatch(dir);
        }
        self.watched.clear();
        for dir in dirs.keys() {
            // In STATE we write ourselves; settings may be links to anything.
            let interest: watch::Interest = match *dir == state {
                true => |name| name == board::RELEASE,
                false => |_| true,
            };
            if let Err(why) = watcher.watch(dir, &self.context.main, interest) {
                let late = "changes there are seen once a minute";
                let text = format!("the configuration cannot be watched: {why}; {late}");
                said.push((Level::Warn, text));
                return;
            }
        }
        self.watched = dirs;
    }

    /// Tells all first, so that their graces run side by side, and waits for each. A person who
    /// insists does not wait for a file system that does not answer.
    fn stop(mut self) {
        log::info!("Stopping");
        service::tell(service::STOPPING);
        for worker in &self.workers {
            give_order(worker, Order::Stop, worker.policy());
        }
        let mut insisted = None;
        // A worker that has never come to look at its project has nothing to bring to an end.
        while self.workers.iter().any(|worker| worker.desk().is_up) {
            // Each worker rings when it leaves.
            let _ = self.ear.recv_timeout(STOP_LOOK);
            self.bury();
            let insists = SIGNALS.load(Ordering::SeqCst) > 1;
            if insists && insisted.get_or_insert_with(Instant::now).elapsed() > INSIST_MAX {
                let what = "projects did not stop in time; they are left as they are";
                return log::error!("{} {what}", self.workers.len());
            }
        }
        log::info!("Stopped");
    }
}

/// What holds while a file is broken: what was read before, where anything was.
fn in_force(error: Error, is_known: bool, what: &str) -> (Level, String) {
    let text = match is_known {
        true => format!("{error}; the {what} before stay in force"),
        false => format!("{error}; meanwhile no job is started"),
    };
    (Level::Error, text)
}

/// Lays on a worker's desk what is wanted of it, and wakes it if that is new.
fn give_order(worker: &Post, order: Order, policy: Arc<Policy>) {
    let mut desk = worker.desk();
    if (desk.order, &desk.policy) != (order, &policy) {
        (desk.order, desk.policy) = (order, policy);
        worker.bell.ring(Wake::Again);
    }
}

/// Has a worker look at directories that changed without a word, or whose changes it does not hear. Where a
/// look may take for ever, only the worker looks, so that nobody else waits.
fn look_slowly(worker: &Post) {
    let is_known = |seen| spool::looks_of(&worker.project) == seen;
    if !worker.desk().seen.is_some_and(is_known) {
        worker.bell.ring(Wake::Everything);
    }
}

/// The directories whose events tell of a change of a file, by their real names: its own, or the nearest
/// that is there, and that of the file to which it is a link.
fn whereabouts(file: &Path) -> Vec<PathBuf> {
    let above = file.ancestors().skip(1).find(|dir| dir.is_dir());
    let real = file.canonicalize().unwrap_or_default();
    let dirs = above.into_iter().chain(real.parent());
    dirs.filter_map(|dir| dir.canonicalize().ok()).collect()
}

fn say_lifted(lifted: Vec<Hold>, why: &str) {
    for hold in lifted {
        log::info!("{}", hold.farewell(why));
    }
}
