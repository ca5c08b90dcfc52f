//! The main thread: one instance, signals, registry and settings followed live, one worker for each
//! enabled project, and the slow look that heals what inotify cannot tell.

use crate::board::{self, Board, Limits};
use crate::error::{Error, Exit, Result, plain};
use crate::files::{self, Dir, Signature};
use crate::holds::{Hold, Stamp};
use crate::process;
use crate::project::{Policy, Project};
use crate::registry::{Entry, Registry};
use crate::service;
use crate::settings::{self, Places, Settings};
use crate::watch::{self, Bell, Ear, Wake, Watcher};
use crate::worker::{self, Context, Order, Orders, Post};
use log::Level;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The slow look: the only wake-up of an idle daemon (SPEC 11.5).
const TICK: Duration = Duration::from_secs(60);
/// A project that does not come up must not keep the others from being reported ready.
const READY_MAX: Duration = Duration::from_secs(20);
/// A file of settings that is missing for so short is being replaced by an editor.
const REPLACE_MAX: Duration = Duration::from_secs(1);
/// A worker's stack; most of it is never touched, and so costs nothing.
const STACK: usize = 512 << 10;
/// After a panic, which is our mistake and would only repeat itself.
const PANIC_PAUSE: Duration = Duration::from_secs(30);
/// How long a starting daemon waits for the lock of one that is gone; see `lock_instance`.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);
/// How late the end of a worker's thread is noticed, its ring being its last deed but one.
const STOP_LOOK: Duration = Duration::from_millis(20);
/// After the second signal: a little more than killing and sweeping an agent's tree may take.
const INSIST_MAX: Duration = Duration::from_secs(10);
/// The file in STATE whose lock says that a daemon serves this user.
const INSTANCE: &str = "daemon.lock";

/// Signals received; the first asks, the second insists.
static SIGNALS: AtomicU32 = AtomicU32::new(0);

/// The pid of the running daemon, if one runs. Takes no lock that a starting daemon could trip
/// over for longer than the call.
pub fn running(places: &Places) -> Option<i32> {
    let file = files::open_path(&places.state.join(INSTANCE)).ok()??;
    let mut text = [0; 16];
    let length = file.read_at(&mut text, 0).unwrap_or(0);
    let pid = std::str::from_utf8(&text[..length])
        .ok()
        .and_then(|text| text.trim().parse().ok());
    match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Err((_, nix::Error::EWOULDBLOCK)) => Some(pid.unwrap_or(0)),
        _ => None,
    }
}

/// Runs the monitor until it is told to stop.
pub fn run(places: Places) -> Result<()> {
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
    let context = Context {
        board: Board::open(state, &bell),
        watcher: Mutex::new(Watcher::asleep()),
        environment: settings::base_environment(),
        places,
    };
    Daemon {
        context: Arc::new(context),
        bell,
        ear,
        workers: Vec::new(),
        settings: None,
        entries: None,
        had: [false; 2],
        missing: None,
        told: BTreeSet::new(),
        watched: BTreeMap::new(),
        is_deaf: false,
    }
    .run()
}

/// One daemon for each user: no agent inherits the lock, so it dies with us. Only an agent that is
/// just being started has it until its exec is through; a daemon that was killed in that moment
/// must not keep its successor out.
fn lock_instance(state: &Dir) -> Result<Flock<File>> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    let mut file = state.append_file(INSTANCE)?;
    let lock = loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => break lock,
            Err((again, nix::Error::EWOULDBLOCK)) if Instant::now() < deadline => {
                file = again;
                std::thread::sleep(LOCK_PATIENCE / 50);
            }
            Err((_, nix::Error::EWOULDBLOCK)) => {
                return Err(Error::with(
                    Exit::AlreadyRunning,
                    "the monitor is running already; job-monitor list shows its projects, job-monitor restart starts it anew",
                ));
            }
            Err((_, error)) => {
                return Err(Error::io("lock", &state.path_of(INSTANCE), error.into()));
            }
        }
    };
    let pid = format!("{}\n", std::process::id());
    let io = |e| Error::io("write", &state.path_of(INSTANCE), e);
    lock.set_len(0).map_err(io)?;
    std::io::Write::write_all(&mut &*lock, pid.as_bytes()).map_err(io)?;
    Ok(lock)
}

/// SIGTERM, SIGINT, and SIGHUP unless we were started with it ignored (nohup).
fn handle_signals(bell: &Bell) -> Result<()> {
    let failed = |e: &dyn std::fmt::Display| Error::new(format!("cannot handle signals: {e}"));
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: only "ignore" and whatever was there before are installed, no handler of ours.
    let hangup = unsafe { sigaction(Signal::SIGHUP, &ignore) }.map_err(|e| failed(&e))?;
    let bell = bell.clone();
    ctrlc::set_handler(move || {
        if SIGNALS.fetch_add(1, Ordering::SeqCst) > 0 {
            process::hurry();
        }
        bell.ring(Wake::Again);
    })
    .map_err(|e| failed(&e))?;
    if matches!(hangup.handler(), SigHandler::SigIgn) {
        // SAFETY: as above.
        unsafe { sigaction(Signal::SIGHUP, &ignore) }.map_err(|e| failed(&e))?;
    }
    Ok(())
}

struct Daemon {
    context: Arc<Context>,
    bell: Bell,
    ear: Ear,
    workers: Vec<Handle>,
    /// The last good settings; without any, nothing is started.
    settings: Option<Settings>,
    /// The last good registry, if there has been one.
    entries: Option<Vec<Entry>>,
    /// Whether settings and registry were there the last time.
    had: [bool; 2],
    /// Since when one of them is not.
    missing: Option<Instant>,
    /// What has been said of settings and registry, so that it is said once.
    told: BTreeSet<String>,
    /// Directories whose events are heard, besides those of projects, as they were then.
    watched: BTreeMap<PathBuf, Signature>,
    /// Whether one of them cannot be watched, which has been said.
    is_deaf: bool,
}

/// A worker's thread and the means to reach it.
struct Handle {
    project: Project,
    orders: Arc<Orders>,
    bell: Bell,
    thread: JoinHandle<()>,
}

impl Daemon {
    fn run(mut self) -> Result<()> {
        self.watch_own();
        self.follow();
        match &self.entries {
            None => service::status("no project is served: the registry is broken"),
            Some(entries) if entries.is_empty() => {
                log::info!("no project is registered yet; job-monitor register PATH adds one");
                service::status("no project is registered yet");
            }
            Some(_) => {}
        }
        let started = Instant::now();
        let mut ready = false;
        let mut tick = started + TICK;
        while SIGNALS.load(Ordering::SeqCst) == 0 {
            let is_up = |worker: &Handle| worker.orders.desk().is_up;
            if !ready && (self.workers.iter().all(is_up) || started.elapsed() >= READY_MAX) {
                ready = true;
                service::ready();
            }
            let replaced = self.missing.map(|since| since + REPLACE_MAX);
            let all = [
                Some(tick),
                (!ready).then_some(started + READY_MAX),
                replaced,
            ];
            let woken = self.ear.wait(all.into_iter().flatten().min());
            let mut is_changed = replaced.is_some_and(|at| at <= Instant::now());
            for wake in woken.into_iter().chain(self.ear.pending()) {
                is_changed |= wake != Wake::Again;
            }
            let is_slow_look = Instant::now() >= tick;
            if is_slow_look {
                tick = Instant::now() + TICK;
            }
            self.look(is_changed, is_slow_look);
        }
        self.stop();
        Ok(())
    }

    /// Looks at what the daemon waits for, besides documents.
    fn look(&mut self, is_changed: bool, is_slow_look: bool) {
        if !self.bury() && !is_changed && !is_slow_look {
            return;
        }
        if self.context.board.take_release_request() {
            let lifted = self.context.board.change(|holds, _| holds.release(None));
            say_lifted(lifted, "released by hand");
        }
        // Watching comes first: what changes after the look is heard of.
        self.watch_own();
        self.follow();
        let has_changed = |old: &Stamp| board::stamp(old.path.clone()) != *old;
        let lifted = self
            .context
            .board
            .change(|holds, _| holds.mend(has_changed));
        say_lifted(lifted, "its credentials or its program have changed");
        if is_slow_look {
            self.workers.iter().for_each(Handle::look_slowly);
        }
    }

    /// Brings the workers in line with settings and registry as they are now. What is broken, or is
    /// just being replaced, leaves the last good state in force.
    fn follow(&mut self) {
        if self.is_being_replaced() {
            return;
        }
        let mut said = Vec::new();
        self.read_settings(&mut said);
        self.read_registry(&mut said);
        let mut wanted = Vec::new();
        for entry in self.entries.iter().flatten() {
            let name = &entry.project.name;
            match self
                .settings
                .as_ref()
                .map(|settings| entry.policy(settings))
            {
                _ if !entry.enabled => {
                    let text = format!("Project '{name}' is disabled, skipping");
                    said.push((Level::Info, text));
                }
                Some(Ok(policy)) => wanted.push((entry.project.clone(), policy)),
                Some(Err(error)) => {
                    said.push((Level::Error, format!("{error}; the project is skipped")));
                }
                None => {}
            }
        }
        for (level, text) in said.iter().filter(|(_, text)| !self.told.contains(text)) {
            log::log!(*level, "{text}");
        }
        self.told = said.into_iter().map(|(_, text)| text).collect();
        self.employ(wanted);
    }

    /// Whether settings or registry were there and have been missing only for a moment.
    fn is_being_replaced(&mut self) -> bool {
        let places = &self.context.places;
        let there = [places.settings(), places.registry()].map(|path| path.exists());
        let is_lost = std::iter::zip(self.had, there).any(|(had, there)| had && !there);
        let since = *self.missing.get_or_insert_with(Instant::now);
        if is_lost && since.elapsed() < REPLACE_MAX {
            return true;
        }
        (self.had, self.missing) = (there, None);
        false
    }

    fn read_settings(&mut self, said: &mut Vec<(Level, String)>) {
        match settings::load(&self.context.places.settings()) {
            Ok((settings, warnings)) => {
                said.extend(warnings.into_iter().map(|text| (Level::Warn, text)));
                self.context.board.configure(Limits {
                    slots: settings.common.max_parallel,
                    daily_budget_usd: settings.common.daily_budget_usd,
                    breaker: settings.common.breaker,
                });
                if self.settings.as_ref().is_some_and(|old| *old != settings) {
                    log::info!("the settings have changed; they hold from the next start on");
                }
                self.settings = Some(settings);
            }
            Err(error) => {
                let so = match self.settings {
                    Some(_) => "the settings before stay in force",
                    None => "meanwhile no job is started",
                };
                said.push((Level::Error, format!("{error}; {so}")));
            }
        }
    }

    fn read_registry(&mut self, said: &mut Vec<(Level, String)>) {
        match Registry::load(&self.context.places.registry()) {
            Ok(registry) => {
                let (entries, warnings) = registry.entries();
                said.extend(warnings.into_iter().map(|text| (Level::Error, text)));
                let unknown = registry.unknown_keys().into_iter();
                said.extend(unknown.map(|text| (Level::Warn, text)));
                self.entries = Some(entries);
            }
            Err(error) => {
                let so = match self.entries {
                    Some(_) => "the projects before stay in force",
                    None => "meanwhile no project is served",
                };
                said.push((Level::Error, format!("{error}; {so}")));
            }
        }
    }

    /// Lets go whom nobody wants, or not so, and starts whoever is missing. Where another worker is
    /// still at the same name or place, the new one waits until that has left.
    fn employ(&mut self, wanted: Vec<(Project, Policy)>) {
        for worker in &self.workers {
            match wanted
                .iter()
                .find(|(project, _)| *project == worker.project)
            {
                Some((_, policy)) => worker.serve(policy),
                None => worker.order(Order::Drain),
            }
        }
        for (project, policy) in wanted {
            let is_at = |other: &Project| other.name == project.name || other.path == project.path;
            if !self.workers.iter().any(|worker| is_at(&worker.project)) {
                let path = project.path.display();
                log::info!("Project '{}' configured: {path}", project.name);
                self.start(project, policy);
            }
        }
    }

    fn start(&mut self, project: Project, policy: Policy) {
        let (bell, ear) = watch::bell();
        let orders = Arc::new(Orders::default());
        orders.set_policy(&policy);
        let post = Post {
            context: self.context.clone(),
            project: project.clone(),
            orders: orders.clone(),
            bell: bell.clone(),
            ear,
            main: self.bell.clone(),
        };
        let thread = std::thread::Builder::new().name(project.name.clone());
        match thread.stack_size(STACK).spawn(move || live(&post)) {
            Ok(thread) => self.workers.push(Handle {
                project,
                orders,
                bell,
                thread,
            }),
            Err(error) => {
                let (name, why) = (&project.name, plain(&error));
                log::error!("[{name}] cannot start a thread: {why}; trying again in a minute");
            }
        }
    }

    /// Takes leave of workers that have left; whether there were any.
    fn bury(&mut self) -> bool {
        let left = self
            .workers
            .extract_if(.., |worker| worker.orders.desk().has_left);
        let left: Vec<Handle> = left.collect();
        let any = !left.is_empty();
        for worker in left {
            let _ = worker.thread.join();
        }
        any
    }

    /// Hears of changes of settings, registry, releases, and of the files that end a hold. Harmless
    /// where a watch is in place; heals a directory that was replaced or mounted over.
    fn watch_own(&mut self) {
        let places = &self.context.places;
        let mut files = self.context.board.files_of_holds();
        files.extend([places.settings(), places.registry(), places.credentials()]);
        if places.config.is_symlink() {
            files.push(places.config.clone());
        }
        let state = places.state.canonicalize().ok();
        let dirs = files.iter().flat_map(|file| whereabouts(file));
        let dirs = dirs
            .filter_map(|dir| dir.canonicalize().ok())
            .chain(state.clone());
        let dirs = dirs.filter_map(|dir| Some((dir.clone(), Signature::at(&dir).ok()?)));
        let mut dirs: BTreeMap<PathBuf, Signature> = dirs.collect();
        let watcher = self.context.watcher.lock();
        let mut watcher = watcher.unwrap_or_else(PoisonError::into_inner);
        for dir in self.watched.keys().filter(|dir| !dirs.contains_key(*dir)) {
            watcher.unwatch(dir);
        }
        let was_deaf = std::mem::take(&mut self.is_deaf);
        dirs.retain(|dir, seen| {
            // In STATE we write ourselves; settings may be links to anything.
            let interest: watch::Interest = match state.as_ref() == Some(dir) {
                true => board::is_release,
                false => |_: &str| true,
            };
            // Each request wakes the watcher's thread, which an idle daemon must not do.
            let is_known = self.watched.get(dir) == Some(seen);
            let watched = match is_known {
                true => Ok(()),
                false => watcher.watch(dir, &self.bell, interest),
            };
            if let (Err(error), false) = (&watched, was_deaf) {
                let (dir, why) = (dir.display(), watch::reason(error));
                log::warn!("{dir} cannot be watched: {why}; changes there are seen once a minute");
            }
            self.is_deaf |= watched.is_err();
            watched.is_ok()
        });
        drop(watcher);
        self.watched = dirs;
    }

    /// Tells all first, so that their graces run side by side, and waits for each. A person who
    /// insists does not wait for a file system that does not answer.
    fn stop(mut self) {
        log::info!("Stopping");
        service::stopping();
        self.workers
            .iter()
            .for_each(|worker| worker.order(Order::Stop));
        let mut insisted = None;
        while !self.workers.is_empty() {
            // Each worker rings when it leaves.
            self.ear.wait(Some(Instant::now() + STOP_LOOK));
            self.ear.pending().for_each(drop);
            self.workers.retain(|worker| !worker.thread.is_finished());
            if SIGNALS.load(Ordering::SeqCst) > 1
                && insisted.get_or_insert_with(Instant::now).elapsed() > INSIST_MAX
            {
                let names = self
                    .workers
                    .iter()
                    .map(|worker| worker.project.name.as_str());
                let names = names.collect::<Vec<_>>().join(", ");
                log::error!(
                    "these projects did not stop in time and are left as they are: {names}"
                );
                return;
            }
        }
        log::info!("Stopped");
    }
}

impl Handle {
    fn order(&self, order: Order) {
        if self.orders.give(order) {
            self.bell.ring(Wake::Again);
        }
    }

    fn serve(&self, policy: &Policy) {
        if self.orders.set_policy(policy) {
            self.bell.ring(Wake::Again);
        }
        self.order(Order::Serve);
    }

    /// Has the worker look at a directory that changed without a word, or whose changes it does not
    /// hear. Where a look may take for ever, only the worker looks, so that nobody else waits.
    fn look_slowly(&self) {
        let items = self.project.path.join(self.project.layout.items());
        let is_known = |seen| Signature::at(&items).is_ok_and(|now| now == seen);
        if !self.orders.desk().seen.is_some_and(is_known) {
            self.bell.ring(Wake::Everything);
        }
    }
}

/// A worker's thread: serves until it is told to leave, whatever mistake of ours ends a life.
fn live(post: &Post) {
    while post.orders.order() == Order::Serve {
        if catch_unwind(AssertUnwindSafe(|| worker::serve(post))).is_ok() {
            break;
        }
        log::error!(
            "[{}] a mistake of the monitor's own (please report the panic above); the project is served again soon",
            post.project.name
        );
        post.rest(PANIC_PAUSE);
    }
    // The thread itself is not over before the ring is heard, and nobody would ring again.
    post.orders.desk().has_left = true;
    post.main.ring(Wake::Again);
}

/// The directories whose events tell of a change of a file: its own, or the nearest that is there, and
/// that of the file to which it is a link.
fn whereabouts(file: &Path) -> Vec<PathBuf> {
    let above = file.ancestors().skip(1).find(|dir| dir.is_dir());
    let real = file
        .is_symlink()
        .then(|| file.canonicalize().ok())
        .flatten();
    let target = real.as_deref().and_then(Path::parent);
    above
        .into_iter()
        .chain(target)
        .map(Path::to_owned)
        .collect()
}

fn say_lifted(lifted: Vec<Hold>, why: &str) {
    for hold in lifted {
        log::info!("the hold of {} is lifted: {why}", hold.whom());
    }
}
