//! What all projects share: holds, the ledger, and the slots for agents at once. Workers ask and
//! tell; each change is on disk before anybody acts on it, so that a restart changes nothing.

use crate::error::Result;
use crate::files::{Dir, Durability};
use crate::holds::{Gate, Hold, Holds, Ledger};
use crate::job::ErrorKind;
use crate::record::HoldView;
use crate::service;
use crate::time::Wall;
use crate::watch::{Bell, Wake};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Neither file grows with use.
const FILE_MAX: u64 = 4 << 20;
const HOLDS: &str = "holds.json";
const LEDGER: &str = "ledger.json";
/// A file that `release --all` leaves in STATE.
const RELEASE: &str = "release";

/// The board. Every lock on it is held for a few microseconds, or for one small file's write.
#[derive(Debug)]
pub struct Board {
    dir: Dir,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    holds: Holds,
    ledger: Ledger,
    daily_budget_usd: Option<f64>,
    slots: Option<usize>,
    running: usize,
    waiting: usize,
    bells: HashMap<String, Bell>,
    /// By project: whether an agent runs, and how many jobs wait.
    counts: HashMap<String, (bool, usize)>,
    told: String,
}

/// The right to run one agent; given back when dropped.
#[derive(Debug)]
pub struct Slot<'a>(&'a Board);

/// Reads the holds, for commands.
pub fn read_holds(state: &Path) -> Holds {
    Dir::open(state)
        .ok()
        .and_then(|dir| load(&dir, HOLDS))
        .unwrap_or_default()
}

/// Reads the ledger, for commands.
pub fn read_ledger(state: &Path) -> Ledger {
    Dir::open(state)
        .ok()
        .and_then(|dir| load(&dir, LEDGER))
        .unwrap_or_default()
}

/// Asks the daemon to lift all holds.
pub fn ask_release(state: &Path) -> Result<()> {
    Dir::create(state)?.create_new(RELEASE, b"").map(drop)
}

/// Whether an event of this name is [`ask_release`]'s.
pub fn is_release(name: &str) -> bool {
    name == RELEASE
}

/// What cannot be read is as good as absent: holds come back with the next attempt, and a file of
/// the ledger that was damaged is told by the caller's log.
fn load<T: DeserializeOwned>(dir: &Dir, name: &str) -> Option<T> {
    let bytes = dir.read(name, FILE_MAX).unwrap_or_else(|error| {
        log::warn!("{error}; it is taken as empty");
        None
    })?;
    let parsed = serde_json::from_slice(&bytes);
    parsed
        .map_err(|error| {
            log::warn!(
                "{} is broken ({error}); it is taken as empty",
                dir.path_of(name).display()
            )
        })
        .ok()
}

impl Board {
    /// Opens the daemon's state directory.
    pub fn open(dir: Dir) -> Board {
        for name in [HOLDS, LEDGER] {
            // What a crash left of a write; the file itself is whole.
            if let Err(error) = dir.remove(&format!(".{name}.tmp")) {
                log::warn!("{error}");
            }
        }
        let inner = Inner {
            holds: load(&dir, HOLDS).unwrap_or_default(),
            ledger: load(&dir, LEDGER).unwrap_or_default(),
            ..Inner::default()
        };
        Board {
            dir,
            inner: Mutex::new(inner),
        }
    }

    /// What holds over all projects.
    pub fn configure(&self, slots: Option<usize>, daily_budget_usd: Option<f64>) {
        let mut inner = self.inner();
        (inner.slots, inner.daily_budget_usd) = (slots, daily_budget_usd);
        ring_all(&inner);
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
    }

    /// What a project's view says, for the service's status text.
    pub fn tell(&self, project: &str, running: bool, waiting: usize) {
        let mut inner = self.inner();
        inner.counts.insert(project.to_owned(), (running, waiting));
        let status = status(&inner);
        if inner.told != status {
            service::status(&status);
            inner.told = status;
        }
    }

    /// The right to start an agent now; else when to ask again, where no ring will tell. Place and
    /// gate in one step: only who has a place may use up the one probe, and who is turned away gives
    /// none back, which would wake all who wait for one, to be turned away in their turn.
    pub fn enter(&self, agent: &str, now: Wall) -> std::result::Result<Slot<'_>, Option<Wall>> {
        let mut inner = self.inner();
        if !inner.holds.expire(now).is_empty() {
            self.save(HOLDS, &inner.holds);
        }
        if inner.slots.is_some_and(|slots| inner.running >= slots) {
            inner.waiting += 1;
            return Err(None);
        }
        match inner.holds.gate(agent, now) {
            Gate::Closed(until) => return Err(until),
            Gate::Probe => self.save(HOLDS, &inner.holds),
            Gate::Open => {}
        }
        inner.running += 1;
        Ok(Slot(self))
    }

    /// The hold that an agent is under.
    pub fn hold_of(&self, agent: &str) -> Option<Hold> {
        self.inner().holds.of(agent).cloned()
    }

    /// Why the day's money is used up for a project, if it is.
    pub fn exhausted(&self, project: &str, own: Option<f64>, now: Wall) -> Option<HoldView> {
        let inner = self.inner();
        inner
            .ledger
            .exhausted(project, own, inner.daily_budget_usd, now)
    }

    /// Takes an agent out of service. Returns the hold, and whether it is news.
    pub fn hold(
        &self,
        agent: &str,
        kind: ErrorKind,
        reason: &str,
        resets_at: Option<Wall>,
    ) -> (Hold, bool) {
        let mut inner = self.inner();
        let added = inner.holds.add(agent, kind, reason, resets_at, Wall::now());
        self.save(HOLDS, &inner.holds);
        ring_all(&inner);
        added
    }

    /// An agent did its work, in a start that began at `began`.
    pub fn works(&self, agent: &str, began: Wall) {
        let mut inner = self.inner();
        if inner.holds.works(agent, began) {
            self.save(HOLDS, &inner.holds);
            ring_all(&inner);
        }
    }

    /// Lifts the holds that `lifted` picks. Returns them.
    pub fn lift(&self, lifted: impl Fn(&Hold) -> bool) -> Vec<Hold> {
        let mut inner = self.inner();
        let out = inner.holds.take(lifted);
        if !out.is_empty() {
            self.save(HOLDS, &inner.holds);
            ring_all(&inner);
        }
        out
    }

    /// The holds in force.
    pub fn holds(&self) -> Vec<Hold> {
        self.inner().holds.list.clone()
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
            inner.ledger.add(project, cost_usd, Wall::now());
            self.save(LEDGER, &inner.ledger);
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

/// `2 running, 5 waiting`, and what keeps agents from being started.
fn status(inner: &Inner) -> String {
    let running = inner
        .counts
        .values()
        .filter(|(running, _)| *running)
        .count();
    let waiting: usize = inner.counts.values().map(|(_, waiting)| waiting).sum();
    let mut text = format!("{running} running, {waiting} waiting");
    for hold in &inner.holds.list {
        text.push_str("; ");
        text.push_str(&hold.sentence());
    }
    text
}

fn ring_all(inner: &Inner) {
    inner.bells.values().for_each(|bell| bell.ring(Wake::Again));
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut inner = self.0.inner();
        inner.running -= 1;
        if inner.waiting > 0 {
            inner.waiting = 0;
            ring_all(&inner);
        }
    }
}
