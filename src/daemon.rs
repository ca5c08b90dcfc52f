//! The main thread: one instance, signals, the registry followed live, one worker for each
//! enabled project, and the slow look that heals what inotify cannot tell.

use crate::board::{self, Board, Limits};
use crate::error::{Error, Exit, Result, plain};
use crate::files::{self, Dir, Signature};
use crate::holds::Hold;
use crate::process;
use crate::project::Project;
use crate::registry::{Entry, Registry};
use crate::roster;
use crate::service;
use crate::settings::{self, Places, Settings};
use crate::watch::{self, Bell, Ear, Wake, Watcher};
use crate::worker::{self, Context, Order, Orders};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The slow look: the only wake-up of an idle daemon (SPEC 11.5).
const TICK: Duration = Duration::from_secs(60);
/// A project that does not come up must not keep the others from being reported ready.
const READY_MAX: Duration = Duration::from_secs(20);
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
    process::prepare_daemon(settings::variable(settings::DELEGATED).is_some())
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
        unread: false,
        entries: None,
        told: BTreeSet::new(),
        followed: None,
        is_watched: true,
        coming_up: Arc::new(AtomicU32::new(0)),
    }
    .run()
}

fn say_lifted(lifted: Vec<Hold>, why: &str) {
    for hold in lifted {
        log::info!("the hold of {} is lifted: {why}", hold.whom());
    }
}

fn is_config(name: &str) -> bool {
    matches!(name, "registered.json" | "config.json" | ".env")
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
    /// Whether one of them could not be read the last time: it may be the system's fault, of which
    /// no event tells when it is over.
    unread: bool,
    /// The last good registry, if there has been one.
    entries: Option<Vec<Entry>>,
    /// What has been said of settings and registry, so that it is said once.
    told: BTreeSet<String>,
    /// The directory of settings and registry as it was before they were last read.
    followed: Option<Signature>,
    /// Whether its changes are told by events, as far as has been said.
    is_watched: bool,
    /// Workers that have not watched their project yet.
    coming_up: Arc<AtomicU32>,
}

/// A worker's thread and the means to reach it.
struct Handle {
    project: Project,
    orders: Arc<Orders>,
    bell: Bell,
    /// Set by the thread as its last act but the ring; what it does then takes no time.
    has_left: Arc<AtomicBool>,
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
            if !ready
                && (self.coming_up.load(Ordering::SeqCst) == 0 || started.elapsed() >= READY_MAX)
            {
                ready = true;
                service::ready();
            }
            let until = if ready {
                tick
            } else {
                tick.min(started + READY_MAX)
            };
            let woken = self.ear.wait(Some(until));
            if woken.is_some() {
                self.hear(woken);
            }
            if Instant::now() >= tick {
                tick = Instant::now() + TICK;
                self.slow_look();
            }
            self.bury();
        }
        self.stop();
        Ok(())
    }

    fn hear(&mut self, first: Option<Wake>) {
        let mut follow = false;
        for wake in first.into_iter().chain(self.ear.pending()) {
            match wake {
                Wake::Everything => follow = true,
                Wake::Look { name, .. } if is_config(&name) => follow = true,
                Wake::Look { .. } | Wake::Again => {}
            }
        }
        self.mend();
        self.release_if_asked();
        if follow {
            self.follow();
        }
    }

    fn release_if_asked(&self) {
        if self.context.board.take_release_request() {
            say_lifted(self.context.board.release(None), "released by hand");
        }
    }

    /// Lifts the holds whose files have changed, and hears of the changes of the others'.
    fn mend(&mut self) {
        let (lifted, files) = self.context.board.mend();
        say_lifted(lifted, "its credentials or its program have changed");
        let mut watcher = self
            .context
            .watcher
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for dir in files.iter().filter_map(|file| file.parent()) {
            // What is not there is looked for once a minute.
            if dir != self.context.places.config {
                let _ = watcher.watch(dir, &self.bell, |_| true);
            }
        }
    }

    /// Brings the workers in line with settings and registry as they are now. What is broken
    /// leaves the last good state in force.
    fn follow(&mut self) {
        let places = &self.context.places;
        self.followed = Signature::at(&places.config).ok();
        let mut said = BTreeSet::new();
        let mut say = |text: String| {
            said.insert(text);
        };
        let mut unread = false;
        match settings::load(&places.settings()) {
            Ok((settings, warnings)) => {
                warnings.into_iter().for_each(&mut say);
                let slots = settings.max_parallel().unwrap_or_default();
                self.context.board.configure(Limits {
                    slots,
                    daily_budget_usd: settings.daily_budget_usd(),
                    breaker: 3,
                });
                self.settings = Some(settings);
            }
            Err(error) => {
                unread = true;
                say(match self.settings {
                    Some(_) => format!("{error}; the settings before stay in force"),
                    None => format!("{error}; meanwhile no job is started"),
                });
            }
        }
        match Registry::load(&places.registry()) {
            Ok(registry) => {
                let (entries, warnings) = registry.entries();
                warnings.into_iter().for_each(&mut say);
                self.entries = Some(entries);
            }
            Err(error) => {
                unread = true;
                say(match self.entries {
                    Some(_) => format!("{error}; the projects before stay in force"),
                    None => format!("{error}; meanwhile no project is served"),
                });
            }
        }
        self.unread = unread;
        let mut wanted = Vec::new();
        if let Some(settings) = &self.settings {
            for entry in self.entries.iter().flatten() {
                if !entry.enabled {
                    say(format!(
                        "Project '{}' is disabled, skipping",
                        entry.project.name
                    ));
                    continue;
                }
                match entry.policy(settings) {
                    Ok(policy) => wanted.push((entry.project.clone(), policy)),
                    Err(error) => say(format!("{error}; the project is skipped")),
                }
            }
        }
        for text in said.difference(&self.told) {
            let level = if text.ends_with("skipping") {
                log::Level::Info
            } else {
                log::Level::Error
            };
            log::log!(level, "{text}");
        }
        self.told = said;
        let serving: Vec<&Project> = self.workers.iter().map(|worker| &worker.project).collect();
        let projects: Vec<&Project> = wanted.iter().map(|(project, _)| project).collect();
        let changes = roster::changes(&serving, &projects);
        for at in changes.keep {
            let worker = &self.workers[at];
            if let Some((_, policy)) = wanted
                .iter()
                .find(|(project, _)| *project == worker.project)
            {
                worker.orders.set_policy(policy.clone());
            }
            worker.order(Order::Serve);
        }
        for at in changes.drain {
            self.workers[at].order(Order::Drain);
        }
        for at in changes.start {
            let (project, policy) = wanted[at].clone();
            log::info!(
                "Project '{}' configured: {}",
                project.name,
                project.path.display()
            );
            self.start(project, Orders::new(policy));
        }
    }

    fn start(&mut self, project: Project, orders: Orders) {
        let (bell, ear) = watch::bell();
        let orders = Arc::new(orders);
        let has_left = Arc::new(AtomicBool::new(false));
        self.coming_up.fetch_add(1, Ordering::SeqCst);
        let thread = {
            let (context, orders, bell) =
                (Arc::clone(&self.context), Arc::clone(&orders), bell.clone());
            let (project, main, coming_up, has_left) = (
                project.clone(),
                self.bell.clone(),
                Arc::clone(&self.coming_up),
                Arc::clone(&has_left),
            );
            std::thread::Builder::new()
                .name(project.name.clone())
                .stack_size(STACK)
                .spawn(move || {
                    let mut ready = Some(|| {
                        coming_up.fetch_sub(1, Ordering::SeqCst);
                        main.ring(Wake::Again);
                    });
                    while orders.order() == Order::Serve {
                        let ready = ready.take();
                        let life = AssertUnwindSafe(|| {
                            worker::serve(&context, &project, &orders, &bell, &ear, || {
                                if let Some(ready) = ready {
                                    ready();
                                }
                            });
                        });
                        if catch_unwind(life).is_ok() {
                            break;
                        }
                        log::error!(
                            "[{}] a mistake of the monitor's own (please report the panic above); the project is served again soon",
                            project.name
                        );
                        let until = Instant::now() + PANIC_PAUSE;
                        while orders.order() == Order::Serve && ear.wait(Some(until)).is_some() {}
                    }
                    // So that our handle is buried. The thread itself is not over before the ring is
                    // heard, and nobody would ring again.
                    has_left.store(true, Ordering::SeqCst);
                    main.ring(Wake::Again);
                })
        };
        match thread {
            Ok(thread) => self.workers.push(Handle {
                project,
                orders,
                bell,
                has_left,
                thread,
            }),
            Err(error) => {
                self.coming_up.fetch_sub(1, Ordering::SeqCst);
                log::error!(
                    "[{}] cannot start a thread: {}; trying again in a minute",
                    project.name,
                    plain(&error)
                );
            }
        }
    }

    /// Takes leave of workers whose thread has ended. One that is wanted, or whose place is, gets
    /// a successor.
    fn bury(&mut self) {
        let (ended, alive): (Vec<_>, Vec<_>) = std::mem::take(&mut self.workers)
            .into_iter()
            .partition(|worker| {
                worker.has_left.load(Ordering::SeqCst) || worker.thread.is_finished()
            });
        self.workers = alive;
        if ended.is_empty() {
            return;
        }
        for worker in ended {
            let _ = worker.thread.join();
        }
        if SIGNALS.load(Ordering::SeqCst) == 0 {
            self.follow();
        }
    }

    /// Once a minute: what changed without a word is looked at again.
    fn slow_look(&mut self) {
        self.release_if_asked();
        let has_changed =
            |daemon: &Daemon| Signature::at(&daemon.context.places.config).ok() != daemon.followed;
        // What is written in place does not show in the directory.
        let blind = !self.is_watched;
        if blind || has_changed(self) {
            self.watch_own();
        }
        // Following wakes every worker, so a disabled project is no reason for it.
        let enabled = self.entries.iter().flatten().filter(|entry| entry.enabled);
        if blind || self.unread || self.workers.len() < enabled.count() || has_changed(self) {
            self.follow();
        }
        for worker in &self.workers {
            let items = worker.project.path.join(worker.project.layout.items());
            // A file system on another machine may not answer: its worker looks for itself, so that
            // nobody else waits.
            let is_known = || worker.orders.seen() == Signature::at(&items).ok();
            if worker.orders.is_remote() || !is_known() {
                worker.bell.ring(Wake::Everything);
            }
        }
        self.mend();
    }

    /// Watches settings, registry and releases. Harmless where the watch is in place; heals a
    /// directory that was replaced or mounted over.
    fn watch_own(&mut self) {
        let places = &self.context.places;
        let watcher = self.context.watcher.lock();
        let mut watcher = watcher.unwrap_or_else(PoisonError::into_inner);
        let mut is_watched = true;
        for (dir, interest) in [
            (&places.config, is_config as watch::Interest),
            (&places.state, board::is_release),
        ] {
            if let Err(error) = watcher.watch(dir, &self.bell, interest) {
                is_watched = false;
                if self.is_watched {
                    log::warn!(
                        "{} cannot be watched: {}; changes there are seen once a minute",
                        dir.display(),
                        watch::reason(&error)
                    );
                }
            }
        }
        self.is_watched = is_watched;
    }

    /// Tells all first, so that their graces run side by side, and waits for each. A person who
    /// insists does not wait for a file system that does not answer.
    fn stop(mut self) {
        log::info!("Stopping");
        service::stopping();
        for worker in &self.workers {
            worker.order(Order::Stop);
        }
        let mut insisted = None;
        while !self.workers.is_empty() {
            // Each worker rings when it leaves.
            self.ear.wait(Some(Instant::now() + STOP_LOOK));
            self.ear.pending().for_each(drop);
            self.workers.retain(|worker| !worker.thread.is_finished());
            if SIGNALS.load(Ordering::SeqCst) > 1 {
                let since = *insisted.get_or_insert_with(Instant::now);
                if since.elapsed() > INSIST_MAX {
                    log::error!(
                        "these projects did not stop in time and are left as they are: {}",
                        self.workers
                            .iter()
                            .map(|worker| worker.project.name.as_str())
                            .collect::<Vec<_>>()
                            .join(", ")
                    );
                    return;
                }
            }
        }
        log::info!("Stopped");
    }
}

impl Handle {
    fn order(&self, order: Order) {
        self.orders.give(order);
        self.bell.ring(Wake::Again);
    }
}
