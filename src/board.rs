//! What all projects share: holds, the ledger, and the slots for agents at once. Workers ask and
//! tell; each change is on disk before anybody acts on it, so that a restart changes nothing.

use crate::agent::{Fault, Window};
use crate::error::Result;
use crate::files::{Dir, Durability};
use crate::holds::{self, Entrant, Failure, Gate, Hold, Holds, Kind, Ledger, Own, Stamp, TURN};
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
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    records: Records,
    limits: Limits,
    running: usize,
    /// When a slot last became free.
    freed_at: Wall,
    /// Who was turned away, the first first.
    line: Vec<Waiter>,
    bells: HashMap<String, Bell>,
    /// The main thread's, which looks after the files that end a hold.
    main: Option<Bell>,
    /// By project: whether an agent runs, and how many jobs wait.
    counts: HashMap<String, (bool, usize)>,
    /// By agent: which two jobs it answered last, and when.
    answers: HashMap<String, [(String, Wall); 2]>,
    told: String,
}

#[derive(Debug, PartialEq)]
struct Waiter {
    project: String,
    /// Whose hold it waits for; `None` is for a slot.
    agent: Option<String>,
}

/// The right to run one agent; given back when dropped.
#[derive(Debug)]
pub struct Slot<'a> {
    board: &'a Board,
    project: String,
    probe: Cell<Probe>,
}

/// Whether an agent is started to see whether things are mended.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Probe {
    No,
    Granted,
    Started,
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

    /// Brings the holds that settings and the time decide in line. Returns whether anything changed,
    /// and one that is news.
    fn decide(
        &mut self,
        entrant: &Entrant<'_>,
        policy: &Policy,
        overall: Option<f64>,
        now: Wall,
    ) -> (bool, Option<Hold>) {
        let windows = self.holds.windows.get(entrant.agent);
        let ceiling = windows.and_then(|all| holds::ceiling(all, &policy.usage_ceiling, now));
        let own_budget = policy.daily_budget_usd;
        let budget = self
            .ledger
            .exhausted(entrant.project, own_budget, overall, now);
        let hours = holds::hours(&policy.hours, now);
        let mut changed = self.holds.tidy(now);
        let mut news = None;
        for (own, wanted) in [
            (Own::UsageCeiling, ceiling),
            (Own::DailyBudget, budget),
            (Own::Hours, hours),
        ] {
            let (has_changed, new) = self.holds.decide(own, entrant, wanted, now);
            changed |= has_changed;
            news = news.or(new);
        }
        (changed, news)
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
        let shown = |hold: &&Hold| {
            hold.project.as_deref() == Some(project)
                && matches!(hold.kind, Kind::Own(Own::Gate | Own::Check))
        };
        match self.holds.gate(&entrant, now) {
            Gate::Closed(hold, _) => Some(hold.view(now)),
            Gate::Open | Gate::Probe => {
                let mut list = self.holds.list.iter();
                list.find(shown).map(|hold| hold.view(now))
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
    /// Opens the daemon's state directory; `main` is rung when a hold is put that files may end.
    pub fn open(dir: Dir, main: &Bell) -> Board {
        for name in [HOLDS, LEDGER] {
            // What a crash left of a write; the file itself is whole.
            if let Err(error) = dir.remove(&format!(".{name}.tmp")) {
                log::warn!("{error}");
            }
        }
        let inner = Inner {
            records: Records::load(&dir),
            main: Some(main.clone()),
            ..Inner::default()
        };
        Board {
            dir,
            inner: Mutex::new(inner),
        }
    }

    /// What holds over all projects.
    pub fn configure(&self, limits: Limits) {
        let mut inner = self.inner();
        if std::mem::replace(&mut inner.limits, limits) != limits {
            ring_all(&inner);
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
        inner.line.retain(|waiter| waiter.project != project);
    }

    /// What a project's view says, for the service's status text.
    pub fn tell(&self, project: &str, running: bool, waiting: usize) {
        let mut inner = self.inner();
        inner.counts.insert(project.to_owned(), (running, waiting));
        if waiting == 0 {
            inner.line.retain(|waiter| waiter.project != project);
        }
        let status = status(&inner);
        if inner.told != status {
            service::status(&status);
            inner.told = status;
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
        let mut guard = self.inner();
        let inner = &mut *guard;
        let agent = policy.agent.name.as_str();
        let entrant = Entrant {
            project,
            agent,
            begun,
            place: inner.place(project, Some(agent)),
        };
        let overall = inner.limits.daily_budget_usd;
        let (changed, news) = inner.records.decide(&entrant, policy, overall, now);
        if changed {
            self.save(HOLDS, &inner.records.holds);
        }
        let gate = inner.records.holds.gate(&entrant, now);
        let is_probe = gate == Gate::Probe;
        if let Gate::Closed(hold, until) = gate {
            let hold = Some(hold.clone());
            inner.line_up(project, Some(agent));
            return Err(Box::new(Closed { hold, until, news }));
        }
        if let Err(until) = inner.slot(project, now) {
            inner.line_up(project, None);
            let hold = None;
            return Err(Box::new(Closed { hold, until, news }));
        }
        inner.line.retain(|waiter| waiter.project != project);
        if is_probe {
            inner.records.holds.begin_probe(&entrant, now);
        }
        inner.running += 1;
        Ok(Slot {
            board: self,
            project: project.to_owned(),
            probe: Cell::new(if is_probe { Probe::Granted } else { Probe::No }),
        })
    }

    /// The service has just answered an attempt. Returns the holds that this lifts.
    pub fn answered(&self, project: &str, agent: &str, job: &JobId, began: Wall) -> Vec<Hold> {
        let mut inner = self.inner();
        let job = format!("{project}/{job}");
        let entry = (job, Wall::now());
        match inner.answers.get_mut(agent) {
            Some([last, _]) if last.0 == entry.0 => *last = entry,
            Some([last, before]) => *before = std::mem::replace(last, entry),
            None => {
                let none = (String::new(), Wall(0));
                inner.answers.insert(agent.to_owned(), [entry, none]);
            }
        }
        let lifted = inner.records.holds.answered(project, agent, began);
        self.lifted(&inner, lifted)
    }

    /// Whether the service has answered another job's attempt of an agent since then.
    pub fn others_answered(&self, project: &str, agent: &str, job: &JobId, since: Wall) -> bool {
        let job = format!("{project}/{job}");
        let inner = self.inner();
        let mut answers = inner.answers.get(agent).into_iter().flatten();
        answers.any(|(other, at)| *other != job && *at > since)
    }

    /// Takes an agent out of service, if the fault calls for it. Returns the hold if it is news.
    pub fn failed(&self, failure: &Failure<'_>, fault: &Fault) -> Option<Hold> {
        let mut inner = self.inner();
        let mut failure = *failure;
        let fresh: Vec<Stamp>;
        if inner.records.holds.is_restless(&failure.agent.name) {
            let paths = failure.stamps.iter().map(|stamp| stamp.path.clone());
            fresh = paths.map(stamp).collect();
            failure.stamps = &fresh;
        }
        let news = inner.records.holds.fault(&failure, fault, Wall::now());
        self.save(HOLDS, &inner.records.holds);
        ring_all(&inner);
        if let Some(main) = &inner.main {
            main.ring(Wake::Everything);
        }
        news
    }

    /// A job is done: counts it for the breaker. Returns the hold if it is news.
    pub fn finished(
        &self,
        of: (&str, &JobId, &str),
        fault: Option<&Fault>,
        lasted: Duration,
    ) -> Option<Hold> {
        let mut inner = self.inner();
        let breaker = inner.limits.breaker;
        let before = inner.records.holds.list.len();
        let holds = &mut inner.records.holds;
        let news = holds.finished(of, fault, lasted, breaker, Wall::now());
        if news.is_some() || before != holds.list.len() {
            self.save(HOLDS, &inner.records.holds);
            ring_all(&inner);
        }
        news
    }

    /// What an attempt told of its account's usage windows.
    pub fn usage(&self, policy: &Policy, windows: &[Window]) {
        if windows.is_empty() || policy.usage_ceiling == Default::default() {
            return;
        }
        let mut inner = self.inner();
        let agent = policy.agent.name.clone();
        let old = inner.records.holds.windows.insert(agent, windows.to_vec());
        if old.as_deref() != Some(windows) {
            self.save(HOLDS, &inner.records.holds);
        }
    }

    /// Holds one project. Returns the hold if it is news.
    pub fn hold_project(
        &self,
        project: &str,
        own: Own,
        reason: &str,
        until: Option<Wall>,
    ) -> Option<Hold> {
        let mut inner = self.inner();
        let now = Wall::now();
        let holds = &mut inner.records.holds;
        let news = holds.hold_project(project, own, reason, until, now);
        if news.is_some() {
            self.save(HOLDS, &inner.records.holds);
        }
        news
    }

    /// Ends a hold of a project.
    pub fn unhold_project(&self, project: &str, own: Own) {
        let mut inner = self.inner();
        if inner.records.holds.unhold_project(project, own) {
            self.save(HOLDS, &inner.records.holds);
        }
    }

    /// Lifts what a person lets go: of one project and its agent, or all. Returns what was lifted.
    pub fn release(&self, of: Option<(&str, &str)>) -> Vec<Hold> {
        let mut inner = self.inner();
        let lifted = inner.records.holds.release(of);
        self.lifted(&inner, lifted)
    }

    /// Lifts the holds whose files have changed. Returns them.
    pub fn mend(&self) -> Vec<Hold> {
        let mut inner = self.inner();
        let has_changed = |old: &Stamp| stamp(old.path.clone()) != *old;
        let lifted = inner.records.holds.mend(has_changed);
        self.lifted(&inner, lifted)
    }

    /// The files whose change would end a hold.
    pub fn files_of_holds(&self) -> Vec<PathBuf> {
        let inner = self.inner();
        let stamps = inner
            .records
            .holds
            .list
            .iter()
            .flat_map(|hold| &hold.stamps);
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

    fn lifted(&self, inner: &Inner, lifted: Vec<Hold>) -> Vec<Hold> {
        if !lifted.is_empty() {
            self.save(HOLDS, &inner.records.holds);
            ring_all(inner);
        }
        lifted
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
    fn place(&self, project: &str, agent: Option<&str>) -> usize {
        let mut same = self
            .line
            .iter()
            .filter(|waiter| waiter.agent.as_deref() == agent);
        let all = same.clone().count();
        same.position(|waiter| waiter.project == project)
            .unwrap_or(all)
    }

    fn line_up(&mut self, project: &str, agent: Option<&str>) {
        let waiter = Waiter {
            project: project.to_owned(),
            agent: agent.map(str::to_owned),
        };
        if !self.line.contains(&waiter) {
            self.line.retain(|waiter| waiter.project != project);
            self.line.push(waiter);
        }
    }

    /// Whether there is a slot for a project; else when to ask again.
    fn slot(&self, project: &str, now: Wall) -> std::result::Result<(), Option<Wall>> {
        let Some(free) = self
            .limits
            .slots
            .map(|slots| slots.saturating_sub(self.running))
        else {
            return Ok(());
        };
        let behind = (self.place(project, None) + 1).saturating_sub(free);
        let turn = self.freed_at.plus(TURN * behind as u32);
        match free {
            0 => Err(None),
            _ if turn > now && behind > 0 => Err(Some(turn)),
            _ => Ok(()),
        }
    }

    /// Wakes those whose turn is next, and one more who takes it if they do not.
    fn ring_next(&self) {
        let free = self
            .limits
            .slots
            .map_or(0, |slots| slots.saturating_sub(self.running));
        let for_slot = self.line.iter().filter(|waiter| waiter.agent.is_none());
        for waiter in for_slot.take(free + 1) {
            if let Some(bell) = self.bells.get(&waiter.project) {
                bell.ring(Wake::Again);
            }
        }
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

fn ring_all(inner: &Inner) {
    inner.bells.values().for_each(|bell| bell.ring(Wake::Again));
}

impl Slot<'_> {
    /// The agent runs: the probe is used up. Returns the holds that this lifts.
    pub fn started(&self, now: Wall) -> Vec<Hold> {
        if self.probe.get() == Probe::No {
            return Vec::new();
        }
        self.probe.set(Probe::Started);
        let mut inner = self.board.inner();
        let lifted = inner.records.holds.probe_started(&self.project, now);
        self.board.save(HOLDS, &inner.records.holds);
        if !lifted.is_empty() {
            ring_all(&inner);
        }
        lifted
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut inner = self.board.inner();
        inner.running -= 1;
        let now = Wall::now();
        inner.freed_at = now;
        let probe = self.probe.get();
        if probe != Probe::No {
            let has_started = probe == Probe::Started;
            inner
                .records
                .holds
                .end_probe(&self.project, has_started, now);
            ring_all(&inner);
        }
        inner.ring_next();
    }
}
