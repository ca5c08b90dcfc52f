//! What all projects share: holds, the ledger of what the day has cost, and the slots: so many agents may run
//! at once. Workers ask and tell. A change of holds is on disk before anybody acts on it, so that a restart
//! changes nothing; where the disk is full it is kept in memory, and whoever asks next writes it.

use crate::agent::Window;
use crate::error::Result;
use crate::files::{Dir, Durability};
use crate::holds::{Entrant, Hold, Holds, Kind, Stamp, TURN};
use crate::job::JobId;
use crate::project::Policy;
use crate::record::{Claim, HoldView};
use crate::registry::Entry;
use crate::service;
use crate::settings::{self, Places, Settings};
use crate::time::Wall;
use crate::watch::{Bell, Wake};
use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// `holds.json` does not grow with use: one that is larger is damage.
const FILE_MAX: u64 = 4 << 20;
const HOLDS: &str = "holds.json";
/// A file that `release --all` leaves in STATE.
pub const RELEASE: &str = "release";

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
    holds: Holds,
    /// Whether what is on disk is older, since it could not be written.
    is_behind: bool,
    running: usize,
    /// When a slot last became free.
    freed_at: Wall,
    /// The projects that wait for a slot, the first first.
    line: Vec<String>,
    /// By project: its worker's bell, whether an agent runs, and how many jobs wait.
    workers: HashMap<String, (Bell, bool, usize)>,
    /// By agent: the last two jobs that were answered, the last one first, with their projects, and when.
    answers: HashMap<String, Vec<(String, JobId, Wall)>>,
}

/// The right to run one agent; given back when dropped.
#[derive(Debug)]
pub struct Slot<'a> {
    board: &'a Board,
    project: String,
    has_started: bool,
}

/// The right to start an agent, or when to ask again, where no ring will tell.
pub type Entrance<'a> = std::result::Result<Slot<'a>, Option<Wall>>;

/// Reads the holds, for commands.
pub fn read(state: &Path) -> Holds {
    Dir::open(state).map_or_else(|_| Holds::default(), |dir| load(&dir))
}

/// Reads the holds, for commands, with what settings and the time decide.
pub fn read_fresh(places: &Places, entries: &[Entry]) -> Holds {
    let mut holds = read(&places.state);
    if let Ok((settings, _)) = settings::load(&places.settings()) {
        refresh_all(&mut holds, entries, &settings);
    }
    holds
}

/// Brings the holds that settings and the time decide in line for all projects, also where no job has met
/// them yet.
fn refresh_all(holds: &mut Holds, entries: &[Entry], settings: &Settings) {
    for entry in entries.iter().filter(|entry| entry.enabled) {
        if let Ok(policy) = entry.policy(settings) {
            holds.refresh(&entry.project.name, &policy, Wall::now());
        }
    }
}

/// Asks the daemon to lift all holds.
pub fn ask_release(state: &Path) -> Result<()> {
    Dir::create(state)?.add(RELEASE, b"").map(drop)
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
fn load(dir: &Dir) -> Holds {
    let parsed = match dir.read(HOLDS, FILE_MAX) {
        Ok(None) => Ok(Holds::default()),
        Ok(Some(bytes)) => serde_json::from_slice(&bytes)
            .map_err(|error| format!("{} is broken ({error})", dir.path_of(HOLDS).display())),
        Err(error) => Err(error.to_string()),
    };
    parsed.unwrap_or_else(|why| {
        log::warn!("{why}; it is taken as empty");
        Holds::default()
    })
}

impl Board {
    /// Opens the daemon's state directory; `main` is rung when holds change.
    pub fn open(dir: Dir, main: &Bell) -> Board {
        // What a crash left of a write; the file itself is whole.
        if let Err(error) = dir.remove(&format!(".{HOLDS}.tmp")) {
            log::warn!("{error}");
        }
        let mut inner = Inner {
            holds: load(&dir),
            ..Inner::default()
        };
        // Whether there is trouble, the workers will find.
        inner.holds.list.retain(|hold| hold.kind != Kind::Trouble);
        let (inner, main) = (Mutex::new(inner), main.clone());
        Board { dir, main, inner }
    }

    /// Takes in a worker that wants to hear of changes.
    pub fn join(&self, project: &str, bell: &Bell) {
        let worker = (bell.clone(), false, 0);
        self.inner().workers.insert(project.to_owned(), worker);
    }

    /// Forgets a worker that is gone.
    pub fn leave(&self, project: &str) {
        let mut inner = self.inner();
        inner.workers.remove(project);
        inner.step_out(project);
    }

    /// Takes in what a project's view says, for the service's status text. A project without a waiting job
    /// leaves the line for slots.
    pub fn tell(&self, project: &str, running: bool, waiting: usize) {
        let mut inner = self.inner();
        if let Some(worker) = inner.workers.get_mut(project) {
            (worker.1, worker.2) = (running, waiting);
        }
        if waiting == 0 {
            inner.step_out(project);
        }
        service::status(&status(&inner));
    }

    /// Changes the holds. What changed is on disk before this returns; whoever may pass now is woken.
    pub fn change<T>(&self, change: impl FnOnce(&mut Holds, Wall) -> T) -> T {
        let mut inner = self.inner();
        let before = inner.holds.clone();
        let changed = change(&mut inner.holds, Wall::now());
        if inner.holds != before || inner.is_behind {
            let text = serde_json::to_vec_pretty(&inner.holds).expect("it fits into JSON");
            // A full disk must not undo a hold: it stays in memory, and whoever asks next writes it.
            let written = self.dir.replace(HOLDS, &text, Durability::Durable);
            if let Some(error) = written.as_ref().err().filter(|_| !inner.is_behind) {
                log::error!("{error}; it is tried again once a minute");
            }
            inner.is_behind = written.is_err();
        }
        if inner.holds.list != before.list {
            self.main.ring(Wake::Everything);
        }
        if inner.holds.weight() < before.weight() {
            inner.ring_all();
        }
        changed
    }

    /// Asks for the right to start an agent now. A project that is turned away for want of a slot stands in
    /// line, and goes before those that come later.
    pub fn enter(&self, project: &str, policy: &Policy, begun: bool) -> Entrance<'_> {
        let (mut inner, now) = (self.inner(), Wall::now());
        let slots = policy.max_parallel.map(u32::from);
        let who = (project, &*policy.agent.name);
        let closed = inner.holds.closed(who, begun, now).map(|(_, until)| until);
        if closed.is_some() {
            // A project that could not use a slot is not waited for.
            inner.step_out(project);
        }
        if let Some(until) = closed.or_else(|| inner.turn_away(project, slots, now)) {
            return Err(until);
        }
        inner.holds.begin_probe(who, now);
        inner.running += 1;
        Ok(Slot {
            board: self,
            project: project.to_owned(),
            has_started: false,
        })
    }

    /// Takes in that the service has just answered an attempt. Returns the holds that this lifts.
    pub fn answered(&self, project: &str, claim: &Claim) -> Vec<Hold> {
        let mut inner = self.inner();
        let answers = inner.answers.entry(claim.agent.clone()).or_default();
        answers.retain(|(of, job, _)| (of.as_str(), job) != (project, &claim.job_id));
        answers.insert(0, (project.to_owned(), claim.job_id.clone(), Wall::now()));
        answers.truncate(2);
        drop(inner);
        self.change(|holds, _| holds.answered((project, &claim.agent), claim.started_at))
    }

    /// Whether the service has answered another job's attempt of the agent since then.
    pub fn others_answered(&self, project: &str, claim: &Claim, since: Wall) -> bool {
        let (inner, own) = (self.inner(), (project, &claim.job_id));
        let mut answers = inner.answers.get(&claim.agent).into_iter().flatten();
        answers.any(|(of, job, when)| (of.as_str(), job) != own && *when > since)
    }

    /// Takes in what an attempt told of its account's usage windows.
    pub fn usage(&self, policy: &Policy, windows: &[Window]) {
        if !windows.is_empty() {
            let agent = policy.agent.name.clone();
            self.change(|holds, _| holds.windows.insert(agent, windows.to_vec()));
        }
    }

    /// The hold to be shown of a project whose next job wants this agent, and may have `begun`.
    pub fn hold_of(&self, of: Entrant<'_>, begun: bool) -> Option<HoldView> {
        self.inner().holds.shown(of, begun, Wall::now())
    }

    /// The files whose change would end a hold.
    pub fn files_of_holds(&self) -> Vec<PathBuf> {
        let inner = self.inner();
        let stamps = inner.holds.list.iter().flat_map(|hold| &hold.stamps);
        stamps.map(|stamp| stamp.path.clone()).collect()
    }

    /// Where `release --all` asks for it, lifts all holds, also those that no job has met yet.
    pub fn release_all(&self, entries: &[Entry], settings: Option<&Settings>) -> Vec<Hold> {
        if std::fs::remove_file(self.dir.path_of(RELEASE)).is_err() {
            return Vec::new();
        }
        self.change(|holds, _| {
            if let Some(settings) = settings {
                refresh_all(holds, entries, settings);
            }
            holds.release(None)
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // A worker's panic while it held the lock leaves plain values that are whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn step_out(&mut self, project: &str) {
        self.line.retain(|waiter| waiter != project);
    }

    /// Takes a project out of the line if there is a slot for it; else tells when to ask again. Those in
    /// front who do not come when it is their turn are passed after a while.
    fn turn_away(&mut self, project: &str, slots: Option<u32>, now: Wall) -> Option<Option<Wall>> {
        let slots = slots.map_or(usize::MAX, |most| most as usize);
        let (free, turn) = (slots.saturating_sub(self.running), self.freed_at.plus(TURN));
        let in_front = self.line.iter().take_while(|waiter| *waiter != project);
        let place = in_front.count();
        if place < free || free > 0 && turn <= now {
            self.step_out(project);
            return None;
        }
        if place == self.line.len() {
            self.line.push(project.to_owned());
        }
        Some(Some(turn).filter(|_| free > 0))
    }

    fn ring_all(&self) {
        let bells = self.workers.values().map(|(bell, ..)| bell);
        bells.for_each(|bell| bell.ring(Wake::Again));
    }
}

/// `2 running, 5 waiting`, and what keeps agents from being started.
fn status(inner: &Inner) -> String {
    let workers = inner.workers.values();
    let running = workers.clone().filter(|(_, running, _)| *running).count();
    let waiting: usize = workers.map(|(.., waiting)| waiting).sum();
    let mut text = format!("{running} running, {waiting} waiting");
    for hold in inner.holds.all(Wall::now()) {
        text += &format!("; {}", hold.sentence());
    }
    text
}

impl Slot<'_> {
    /// Takes in that the agent runs, so that a probe is used up. Returns the holds that this lifts.
    pub fn started(&mut self) -> Vec<Hold> {
        self.has_started = true;
        let started = |holds: &mut Holds, _| holds.probe_started(&self.project);
        self.board.change(started)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let end = |holds: &mut Holds, now| holds.end_probe(&self.project, self.has_started, now);
        self.board.change(end);
        let mut inner = self.board.inner();
        inner.running -= 1;
        inner.freed_at = Wall::now();
        if !inner.line.is_empty() {
            inner.ring_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn only_another_job_s_answer_that_came_since_counts() {
        let path = std::env::temp_dir().join(format!("job-monitor-board-{}", std::process::id()));
        let (bell, _ear) = crate::watch::bell();
        let board = Board::open(Dir::create(&path).unwrap(), &bell);
        let claim = |id| Claim {
            job_id: JobId::parse(id).unwrap(),
            agent: "a".to_owned(),
            ..Claim::default()
        };
        let mine = claim("job-20260130-143000-mine");
        let other = claim("job-20260130-143001-other");
        board.answered("p", &other);
        let later = Wall::now().plus(Duration::from_secs(1));
        let answered = |claim, since| board.others_answered("p", claim, since);
        assert!(answered(&mine, Wall(0)) && !answered(&mine, later));
        assert!(!answered(&other, Wall(0)));
        std::fs::remove_dir_all(path).unwrap();
    }
}
