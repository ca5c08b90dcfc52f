//! What all projects share: holds, the ledger, and the slots for agents at once. Workers ask and
//! tell; each change is on disk before anybody acts on it, so that a restart changes nothing.

use crate::agent::{Fault, Window};
use crate::error::Result;
use crate::files::{Dir, Durability};
use crate::holds::{self, Entrant, Gate, Hold, Holds, Kind, Ledger, Stamp, TURN};
use crate::job::JobId;
use crate::project::Policy;
use crate::record::HoldView;
use crate::registry::Entry;
use crate::service;
use crate::settings::{self, Places, Settings};
use crate::time::Wall;
use crate::watch::{Bell, Wake};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::Cell;
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Neither file grows with use.
const FILE_MAX: u64 = 4 << 20;
const HOLDS: &str = "holds.json";
const LEDGER: &str = "ledger.json";
/// A file that `release --all` leaves in STATE.
const RELEASE: &str = "release";

/// What is on disk, for the daemon and, as a copy, for commands.
#[derive(Debug, Default)]
pub struct Records {
    /// The holds.
    pub holds: Holds,
    /// What the day has cost.
    pub ledger: Ledger,
}

/// The board. Every lock on it is held for a few microseconds, or for one small file's write.
#[derive(Debug)]
pub struct Board {
    dir: Dir,
    /// The main thread's, which looks after the files that end a hold.
    main: Bell,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    records: Records,
    common: Policy,
    running: usize,
    /// When a slot last became free.
    freed_at: Wall,
    /// The projects that wait for a slot, the first first.
    line: Vec<String>,
    bells: HashMap<String, Bell>,
    /// By project: whether an agent runs, and how many jobs wait.
    counts: HashMap<String, (bool, usize)>,
    /// By agent and project: which job was answered last, and when.
    answers: HashMap<(String, String), (JobId, Wall)>,
    told: String,
}

/// The right to run one agent; given back when dropped.
#[derive(Debug)]
pub struct Slot<'a> {
    board: &'a Board,
    project: String,
    is_probe: bool,
    has_started: Cell<bool>,
}

/// Why no agent may be started just now.
#[derive(Debug)]
pub struct Closed {
    /// The hold; `None` where it waits for a slot.
    pub hold: Option<Hold>,
    /// When to ask again, where no ring will tell.
    pub until: Option<Wall>,
    /// A hold that has just begun, to be told.
    pub news: Option<Hold>,
}

/// Reads holds and ledger, for commands, with what settings and the time decide.
pub fn read_decided(places: &Places, entries: &[Entry]) -> Records {
    let mut records = read(&places.state);
    if let Ok((settings, _)) = settings::load(&places.settings()) {
        records.decide_all(entries, &settings, Wall::now());
    }
    records
}

/// Reads holds and ledger, for commands.
pub fn read(state: &Path) -> Records {
    Dir::open(state).map_or_else(|_| Records::default(), |dir| Records::load(&dir))
}

/// Asks the daemon to lift all holds.
pub fn ask_release(state: &Path) -> Result<()> {
    Dir::create(state)?.create_new(RELEASE, b"").map(drop)
}

/// Whether an event of this name is [`ask_release`]'s.
pub fn is_release(name: &str) -> bool {
    name == RELEASE
}

/// What a file looks like now; a link to one counts as that file.
pub fn stamp(path: PathBuf) -> Stamp {
    let seen = std::fs::metadata(&path).map_or(String::new(), |meta| {
        let (device, inode, size) = (meta.dev(), meta.ino(), meta.size());
        let (secs, nanos) = (meta.ctime(), meta.ctime_nsec());
        format!("{device}:{inode}:{size}:{secs}.{nanos:09}")
    });
    Stamp { path, seen }
}

/// What cannot be read is as good as absent: holds come back with the next attempt.
fn load<T: DeserializeOwned + Default>(dir: &Dir, name: &str) -> T {
    let read = dir.read(name, FILE_MAX).map_err(|error| error.to_string());
    let parsed = read.and_then(|bytes| {
        let parsed = bytes
            .map(|bytes| serde_json::from_slice(&bytes))
            .transpose();
        parsed.map_err(|error| format!("{} is broken ({error})", dir.path_of(name).display()))
    });
    let whole = parsed.unwrap_or_else(|why| {
        log::warn!("{why}; it is taken as empty");
        None
    });
    whole.unwrap_or_default()
}

impl Records {
    fn load(dir: &Dir) -> Records {
        Records {
            holds: load(dir, HOLDS),
            ledger: load(dir, LEDGER),
        }
    }

    /// Brings the holds that settings and the time decide in line. Returns one that is news.
    fn decide(
        &mut self,
        who: &Entrant<'_>,
        policy: &Policy,
        overall: Option<f64>,
        now: Wall,
    ) -> Option<Hold> {
        let Records { holds, ledger } = self;
        let windows = holds.windows.get(who.agent).map_or(&[][..], |all| all);
        let ceiling = holds::ceiling(windows, &policy.usage_ceiling, now);
        let budget = ledger.exhausted(who.project, policy.daily_budget_usd, overall, now);
        let hours = holds::hours(&policy.hours, now);
        let all = [
            (Kind::UsageCeiling, Some(who.agent), ceiling),
            (Kind::DailyBudget, None, budget),
            (Kind::Hours, None, hours),
        ];
        let mut news = None;
        for (kind, agent, wanted) in all {
            let wanted = wanted.map(|(reason, until)| (reason, Some(until)));
            news = news.or(holds.set(kind, (who.project, agent), wanted, now));
        }
        news
    }

    /// The hold that keeps a project's jobs from being started by the agent of its settings.
    pub fn hold_of(
        &mut self,
        project: &str,
        policy: &Policy,
        overall_usd: Option<f64>,
        now: Wall,
    ) -> Option<HoldView> {
        let who = Entrant::new(project, policy, false);
        self.decide(&who, policy, overall_usd, now);
        let is_shown = |hold: &&Hold| {
            hold.project.as_deref() == Some(project)
                && matches!(hold.kind, Kind::Gate | Kind::Check)
        };
        let hold = match self.holds.gate(&who, now) {
            Gate::Closed(hold, _) => Some(hold),
            Gate::Open | Gate::Probe => self.holds.list.iter().find(is_shown),
        };
        hold.map(|hold| hold.view(now))
    }

    /// Brings the holds that settings and the time decide in line for all projects, also where no job
    /// has met them yet.
    pub fn decide_all(&mut self, entries: &[Entry], settings: &Settings, now: Wall) {
        let overall = settings.common.daily_budget_usd;
        for entry in entries.iter().filter(|entry| entry.enabled) {
            if let Ok(policy) = entry.policy(settings) {
                let who = Entrant::new(&entry.project.name, &policy, false);
                self.decide(&who, &policy, overall, now);
            }
        }
    }

    /// All holds in force.
    pub fn all(&self, now: Wall) -> Vec<&Hold> {
        let in_force = |hold: &&Hold| !hold.released && hold.until.is_none_or(|until| until > now);
        self.holds.list.iter().filter(in_force).collect()
    }
}

impl Board {
    /// Opens the daemon's state directory; `main` is rung when holds change.
    pub fn open(dir: Dir, main: &Bell) -> Board {
        for name in [HOLDS, LEDGER] {
            // What a crash left of a write; the file itself is whole.
            if let Err(error) = dir.remove(&format!(".{name}.tmp")) {
                log::warn!("{error}");
            }
        }
        let records = Records::load(&dir);
        let inner = Mutex::new(Inner {
            records,
            ..Inner::default()
        });
        Board {
            dir,
            main: main.clone(),
            inner,
        }
    }

    /// What holds over all projects.
    pub fn configure(&self, common: &Policy) {
        let mut inner = self.inner();
        if inner.common != *common {
            inner.common = common.clone();
            inner.ring_all();
        }
    }

    /// A worker that wants to hear of changes.
    pub fn join(&self, project: &str, bell: &Bell) {
        self.inner().bells.insert(project.to_owned(), bell.clone());
    }

    /// A worker that is gone.
    pub fn leave(&self, project: &str) {
        let mut inner = self.inner();
        inner.bells.remove(project);
        inner.counts.remove(project);
        inner.line.retain(|waiter| waiter != project);
    }

    /// What a project's view says, for the service's status text.
    pub fn tell(&self, project: &str, running: bool, waiting: usize) {
        let mut inner = self.inner();
        inner.counts.insert(project.to_owned(), (running, waiting));
        if waiting == 0 {
            inner.line.retain(|waiter| waiter != project);
        }
        let status = status(&inner);
        if inner.told != status {
            service::status(&status);
            inner.told = status;
        }
    }

    /// Changes the holds. What changed is on disk before this returns; whoever may pass now is woken.
    pub fn change<T>(&self, change: impl FnOnce(&mut Holds, Wall) -> T) -> T {
        let mut inner = self.inner();
        let before = inner.records.holds.clone();
        let changed = change(&mut inner.records.holds, Wall::now());
        self.keep(&inner, &before);
        changed
    }

    fn keep(&self, inner: &Inner, before: &Holds) {
        if inner.records.holds != *before {
            self.save(HOLDS, &inner.records.holds);
            self.main.ring(Wake::Everything);
        }
        if inner.records.holds.weight() < before.weight() {
            inner.ring_all();
        }
    }

    /// The right to start an agent now. Whoever is turned away for want of a slot stands in line, and
    /// goes before those who come later.
    pub fn enter(
        &self,
        project: &str,
        policy: &Policy,
        begun: bool,
        now: Wall,
    ) -> std::result::Result<Slot<'_>, Box<Closed>> {
        let mut inner = self.inner();
        let who = Entrant::new(project, policy, begun);
        let overall = inner.common.daily_budget_usd;
        let before = inner.records.holds.clone();
        let news = inner.records.decide(&who, policy, overall, now);
        self.keep(&inner, &before);
        let gate = inner.records.holds.gate(&who, now);
        let is_probe = gate == Gate::Probe;
        let closed = match gate {
            Gate::Closed(hold, until) => Some((Some(hold.clone()), until)),
            Gate::Open | Gate::Probe => inner.turn_away(project, now).map(|until| (None, until)),
        };
        if let Some((hold, until)) = closed {
            if hold.is_some() {
                // Whoever could not take a slot is not waited for.
                inner.line.retain(|waiter| waiter != project);
            }
            return Err(Box::new(Closed { hold, until, news }));
        }
        inner.records.holds.begin_probe(&who, now);
        inner.running += 1;
        let (project, has_started) = (project.to_owned(), Cell::new(false));
        Ok(Slot {
            board: self,
            project,
            is_probe,
            has_started,
        })
    }

    /// The service has just answered an attempt. Returns the holds that this lifts.
    pub fn answered(&self, project: &str, agent: &str, job: &JobId, began: Wall) -> Vec<Hold> {
        let of = (agent.to_owned(), project.to_owned());
        let answer = (job.clone(), Wall::now());
        self.inner().answers.insert(of, answer);
        self.change(|holds, _| holds.answered(project, agent, began))
    }

    /// Whether the service has answered another job's attempt of an agent since then.
    pub fn others_answered(&self, project: &str, agent: &str, job: &JobId, since: Wall) -> bool {
        self.inner().answers.iter().any(|(of, (other, at))| {
            of.0 == agent && (of.1 != project || other != job) && *at > since
        })
    }

    /// A job is done: counts it for the breaker. Returns the hold if it is news.
    pub fn finished(
        &self,
        of: (&str, &JobId, &str),
        fault: Option<&Fault>,
        lasted: Duration,
    ) -> Option<Hold> {
        let breaker = self.inner().common.breaker as usize;
        self.change(|holds, now| holds.finished(of, fault, lasted, breaker, now))
    }

    /// What an attempt told of its account's usage windows.
    pub fn usage(&self, policy: &Policy, windows: &[Window]) {
        if !windows.is_empty() && policy.usage_ceiling != Default::default() {
            let agent = policy.agent.name.clone();
            self.change(|holds, _| holds.windows.insert(agent, windows.to_vec()));
        }
    }

    /// The files whose change would end a hold.
    pub fn files_of_holds(&self) -> Vec<PathBuf> {
        let inner = self.inner();
        let stamps = inner.records.holds.stamps();
        stamps.map(|stamp| stamp.path.clone()).collect()
    }

    /// Lifts all holds, also those that no job has met yet.
    pub fn release_all(&self, entries: &[Entry], settings: Option<&Settings>) -> Vec<Hold> {
        if let Some(settings) = settings {
            let records = &mut self.inner().records;
            records.decide_all(entries, settings, Wall::now());
        }
        self.change(|holds, _| holds.release(None))
    }

    /// Takes the request of `release --all`, if there is one.
    pub fn take_release_request(&self) -> bool {
        let asked = self.dir.has(RELEASE).unwrap_or(false);
        asked && self.dir.remove(RELEASE).is_ok()
    }

    /// Counts what an attempt cost.
    pub fn spend(&self, project: &str, cost_usd: f64) {
        if cost_usd > 0.0 {
            let mut inner = self.inner();
            inner.records.ledger.add(project, cost_usd, Wall::now());
            self.save(LEDGER, &inner.records.ledger);
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A worker's panic while it held the lock leaves plain values that are whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A full disk must not undo a hold: it stays in memory, and the next change writes it.
    fn save(&self, name: &str, value: &impl Serialize) {
        let text = serde_json::to_vec_pretty(value).expect("it is representable in JSON");
        if let Err(error) = self.dir.replace(name, &text, Durability::Durable) {
            log::error!("{error}");
        }
    }
}

impl Inner {
    fn free(&self) -> usize {
        let slots = self
            .common
            .max_parallel
            .map_or(usize::MAX, |most| most as usize);
        slots.saturating_sub(self.running)
    }

    /// Takes a project out of the line if there is a slot for it; else tells when to ask again. Those in
    /// front who do not come when it is their turn are passed after a while.
    fn turn_away(&mut self, project: &str, now: Wall) -> Option<Option<Wall>> {
        let place = self.line.iter().position(|waiter| waiter == project);
        let place = place.unwrap_or_else(|| {
            self.line.push(project.to_owned());
            self.line.len() - 1
        });
        let (free, turn) = (self.free(), self.freed_at.plus(TURN));
        if free == 0 {
            return Some(None);
        }
        if place >= free && turn > now {
            return Some(Some(turn));
        }
        self.line.remove(place);
        None
    }

    /// Wakes those whose turn is next, and one more who takes it if they do not.
    fn ring_next(&self) {
        for waiter in self.line.iter().take(self.free().saturating_add(1)) {
            if let Some(bell) = self.bells.get(waiter) {
                bell.ring(Wake::Again);
            }
        }
    }

    fn ring_all(&self) {
        self.bells.values().for_each(|bell| bell.ring(Wake::Again));
    }
}

/// `2 running, 5 waiting`, and what keeps agents from being started.
fn status(inner: &Inner) -> String {
    let counts = inner.counts.values();
    let running = counts.clone().filter(|(running, _)| *running).count();
    let waiting: usize = counts.map(|(_, waiting)| waiting).sum();
    let holds = inner.records.all(Wall::now());
    let holds = holds.iter().map(|hold| format!("; {}", hold.sentence()));
    format!(
        "{running} running, {waiting} waiting{}",
        holds.collect::<String>()
    )
}

impl Slot<'_> {
    /// The agent runs: a probe is used up. Returns the holds that this lifts.
    pub fn started(&self) -> Vec<Hold> {
        self.has_started.set(true);
        match self.is_probe {
            true => self
                .board
                .change(|holds, _| holds.probe_started(&self.project)),
            false => Vec::new(),
        }
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if self.is_probe {
            let has_started = self.has_started.get();
            let end = |holds: &mut Holds, now| holds.end_probe(&self.project, has_started, now);
            self.board.change(end);
        }
        let mut inner = self.board.inner();
        inner.running -= 1;
        inner.freed_at = Wall::now();
        inner.ring_next();
    }
}
