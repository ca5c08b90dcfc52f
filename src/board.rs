//! What all projects share: holds, the ledger, and the slots for agents at once. Workers ask and
//! tell; each change is on disk before anybody acts on it, so that a restart changes nothing.

use crate::agent::{Fault, Window};
use crate::error::Result;
use crate::files::{Dir, Durability};
use crate::holds::{self, Entrant, Gate, Hold, Holds, Kind, Ledger, Own, Stamp, TURN};
use crate::job::JobId;
use crate::project::Policy;
use crate::record::HoldView;
use crate::service;
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

/// What `config.json` says for all projects together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    /// Agents at once.
    pub slots: Option<usize>,
    /// US dollars a day.
    pub daily_budget_usd: Option<f64>,
    /// So many jobs of an agent in a row that fail alike hold it; 0 is never.
    pub breaker: usize,
}

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
    limits: Limits,
    running: usize,
    /// When a slot last became free.
    freed_at: Wall,
    /// Who was turned away, the first first, and whose hold it waits for; `None` is for a slot.
    line: Vec<(String, Option<String>)>,
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
    let seen = std::fs::metadata(&path).map_or_else(
        |_| String::new(),
        |meta| {
            let (device, inode, size) = (meta.dev(), meta.ino(), meta.size());
            let changed = (meta.ctime(), meta.ctime_nsec());
            format!("{device}:{inode}:{size}:{}.{:09}", changed.0, changed.1)
        },
    );
    Stamp { path, seen }
}

/// What cannot be read is as good as absent: holds come back with the next attempt, and a file of
/// the ledger that was damaged is told by the caller's log.
fn load<T: DeserializeOwned>(dir: &Dir, name: &str) -> Option<T> {
    let bytes = dir.read(name, FILE_MAX).unwrap_or_else(|error| {
        log::warn!("{error}; it is taken as empty");
        None
    })?;
    let parsed = serde_json::from_slice(&bytes);
    let path = dir.path_of(name);
    parsed
        .map_err(|error| {
            log::warn!(
                "{} is broken ({error}); it is taken as empty",
                path.display()
            )
        })
        .ok()
}

impl Records {
    fn load(dir: &Dir) -> Records {
        Records {
            holds: load(dir, HOLDS).unwrap_or_default(),
            ledger: load(dir, LEDGER).unwrap_or_default(),
        }
    }

    /// Brings the holds that settings and the time decide in line. Returns one that is news.
    fn decide(
        &mut self,
        entrant: &Entrant<'_>,
        policy: &Policy,
        overall: Option<f64>,
        now: Wall,
    ) -> Option<Hold> {
        let Records { holds, ledger } = self;
        let windows = holds.windows.get(entrant.agent).map_or(&[][..], |all| all);
        let ceiling = holds::ceiling(windows, &policy.usage_ceiling, now);
        let budget = ledger.exhausted(entrant.project, policy.daily_budget_usd, overall, now);
        let hours = holds::hours(&policy.hours, now);
        let ceiling = holds.decide(Own::UsageCeiling, entrant, ceiling, now);
        let budget = holds.decide(Own::DailyBudget, entrant, budget, now);
        let hours = holds.decide(Own::Hours, entrant, hours, now);
        ceiling.or(budget).or(hours)
    }

    /// The hold that keeps a project's jobs from being started by the agent of its settings.
    pub fn hold_of(
        &mut self,
        project: &str,
        policy: &Policy,
        overall_usd: Option<f64>,
        now: Wall,
    ) -> Option<HoldView> {
        let entrant = Entrant {
            project,
            agent: &policy.agent.name,
            begun: false,
            place: 0,
        };
        self.decide(&entrant, policy, overall_usd, now);
        let is_shown = |hold: &&Hold| {
            hold.project.as_deref() == Some(project)
                && matches!(hold.kind, Kind::Own(Own::Gate | Own::Check))
        };
        let hold = match self.holds.gate(&entrant, now) {
            Gate::Closed(hold, _) => Some(hold),
            Gate::Open | Gate::Probe => self.holds.list.iter().find(is_shown),
        };
        hold.map(|hold| hold.view(now))
    }

    /// All holds in force.
    pub fn all(&self, now: Wall) -> Vec<&Hold> {
        let in_force = |hold: &&Hold| !hold.released && hold.until.is_none_or(|until| until > now);
        self.holds.list.iter().filter(in_force).collect()
    }
}

impl Board {
    /// Opens the daemon's state directory; `main` is rung when the files of holds change.
    pub fn open(dir: Dir, main: &Bell) -> Board {
        for name in [HOLDS, LEDGER] {
            // What a crash left of a write; the file itself is whole.
            if let Err(error) = dir.remove(&format!(".{name}.tmp")) {
                log::warn!("{error}");
            }
        }
        let inner = Inner {
            records: Records::load(&dir),
            ..Inner::default()
        };
        Board {
            dir,
            main: main.clone(),
            inner: Mutex::new(inner),
        }
    }

    /// What holds over all projects.
    pub fn configure(&self, limits: Limits) {
        let mut inner = self.inner();
        if std::mem::replace(&mut inner.limits, limits) != limits {
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
        inner.line.retain(|(waiter, _)| waiter != project);
    }

    /// What a project's view says, for the service's status text.
    pub fn tell(&self, project: &str, running: bool, waiting: usize) {
        let mut inner = self.inner();
        inner.counts.insert(project.to_owned(), (running, waiting));
        if waiting == 0 {
            inner.line.retain(|(waiter, _)| waiter != project);
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
        }
        if inner.records.holds.weight() < before.weight() {
            inner.ring_all();
        }
        if !inner.records.holds.stamps().eq(before.stamps()) {
            self.main.ring(Wake::Everything);
        }
    }

    /// The right to start an agent now. Whoever is turned away stands in line, and goes before those
    /// who come later: for a slot, and for the one probe of a hold. One that does not come when it is
    /// its turn is passed after a second.
    pub fn enter(
        &self,
        project: &str,
        policy: &Policy,
        begun: bool,
        now: Wall,
    ) -> std::result::Result<Slot<'_>, Box<Closed>> {
        let mut inner = self.inner();
        let agent = policy.agent.name.as_str();
        let entrant = Entrant {
            project,
            agent,
            begun,
            place: inner.place(project, Some(agent)),
        };
        let overall = inner.limits.daily_budget_usd;
        let before = inner.records.holds.clone();
        let news = inner.records.decide(&entrant, policy, overall, now);
        self.keep(&inner, &before);
        let (hold, until, waits_for) = match inner.records.holds.gate(&entrant, now) {
            Gate::Closed(hold, until) => (Some(hold.clone()), until, Some(agent)),
            gate => {
                let is_probe = gate == Gate::Probe;
                match inner.slot(project, now) {
                    Ok(()) => {
                        inner.line.retain(|(waiter, _)| waiter != project);
                        inner.records.holds.begin_probe(&entrant, now);
                        inner.running += 1;
                        return Ok(Slot {
                            board: self,
                            project: project.to_owned(),
                            is_probe,
                            has_started: Cell::new(false),
                        });
                    }
                    Err(until) => (None, until, None),
                }
            }
        };
        inner.line_up(project, waits_for);
        Err(Box::new(Closed { hold, until, news }))
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
        let breaker = self.inner().limits.breaker;
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
        let text =
            serde_json::to_vec_pretty(value).expect("holds and ledger are representable in JSON");
        if let Err(error) = self.dir.replace(name, &text, Durability::Durable) {
            log::error!("{error}");
        }
    }
}

impl Inner {
    /// The place in line among those who wait for the same, from 0; whoever comes anew is the last.
    fn place(&self, project: &str, waits_for: Option<&str>) -> usize {
        let mut same = self
            .line
            .iter()
            .filter(|(_, what)| what.as_deref() == waits_for);
        let all = same.clone().count();
        same.position(|(waiter, _)| waiter == project)
            .unwrap_or(all)
    }

    fn line_up(&mut self, project: &str, waits_for: Option<&str>) {
        let waiter = (project.to_owned(), waits_for.map(str::to_owned));
        if !self.line.contains(&waiter) {
            self.line.retain(|(waiter, _)| waiter != project);
            self.line.push(waiter);
        }
    }

    fn free(&self) -> Option<usize> {
        self.limits
            .slots
            .map(|slots| slots.saturating_sub(self.running))
    }

    /// Whether there is a slot for a project; else when to ask again.
    fn slot(&self, project: &str, now: Wall) -> std::result::Result<(), Option<Wall>> {
        let free = self.free().unwrap_or(usize::MAX);
        let behind = self
            .place(project, None)
            .saturating_add(1)
            .saturating_sub(free);
        let turn = self.freed_at.plus(TURN * behind as u32);
        match free {
            0 => Err(None),
            _ if behind > 0 && turn > now => Err(Some(turn)),
            _ => Ok(()),
        }
    }

    /// Wakes those whose turn is next, and one more who takes it if they do not.
    fn ring_next(&self) {
        let for_slot = self.line.iter().filter(|(_, what)| what.is_none());
        for (waiter, _) in for_slot.take(self.free().unwrap_or(0) + 1) {
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
    let mut text = format!("{running} running, {waiting} waiting");
    for hold in inner.records.all(Wall::now()) {
        text.push_str("; ");
        text.push_str(&hold.sentence());
    }
    text
}

impl Slot<'_> {
    /// The agent runs: a probe is used up. Returns the holds that this lifts.
    pub fn started(&self, now: Wall) -> Vec<Hold> {
        self.has_started.set(true);
        match self.is_probe {
            true => self
                .board
                .change(|holds, _| holds.probe_started(&self.project, now)),
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
