//! One project's thread: look, decide, do, and look again. It owns the spool; others can only ring its
//! bell or change its orders. What is to be done, and what follows, is decided in `decide`; here and in
//! the files below it is done.

mod end;
mod hook;
mod look;
mod memory;
mod proof;
mod recovery;
mod say;
mod start;

pub use memory::Memory;

// The files below this one see what it sees (`use super::*`): they are parts of one whole, cut by subject.
use crate::agent::plan::{Assignment, Plan, plan};
use crate::agent::{Ending, Fault, Report, Sessions, dialect, forced};
use crate::board::{self, Board, Slot};
use crate::decide::{self, Jobs, Next, Now, Readiness, Step, Until, decide, how};
use crate::digest::sha256_hex;
use crate::document::{self, Document, Wishes};
use crate::error::{Error, Result, lift_shortage};
use crate::files::{self, Dir};
use crate::git;
use crate::holds::{Hold, Holds, Kind, Stamp, Wanted, is_answer};
use crate::job::{self, Attempt, Course, ErrorKind, JobId, Meta};
use crate::outcome::{self, millis};
use crate::process::{self, Agent, Launch, Token};
use crate::project::{OnFailure, Policy, Project};
use crate::record::{Change, Check, Claim, HoldView, Inherited, QueueView, Suspension};
use crate::runner::{self, Finished, Output};
use crate::settings::{self, Places};
use crate::spool::{Look, Looks, Mark, POKE, Spool, SpoolLock};
use crate::time::Wall;
use crate::watch::{Bell, Ear, Wake, Watcher};
use end::{Decision, End, record};
use log::Level;
use say::View;
use serde_json::Value;
use start::remove_scratch;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs::File;
use std::io::BufReader;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Waiting is done in such pieces, so that a clock that is set is noticed.
const WALL_PIECE: Duration = Duration::from_secs(60);
/// Where only a ring ends the wait.
const FOREVER: Duration = Duration::from_secs(1 << 30);
/// After trouble with the project's directories; doubles up to the second.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);
const TROUBLE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// While a decision or the view cannot be written, it is tried again so often.
const WRITE_PAUSE: Duration = Duration::from_secs(2);

/// What a panic is to whoever reads the log.
const MISTAKE: &str = "a mistake of the monitor's own, told above (please report it)";

/// What the main thread wants of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// Run the jobs.
    #[default]
    Serve,
    /// Let the running job end, start no other, and leave.
    Drain,
    /// End the running agent, keep its claim, and leave.
    Stop,
}

/// What lies between the main thread and a worker. Whoever changes what is wanted rings its bell afterwards.
#[derive(Debug, Default)]
pub struct Desk {
    /// What is wanted now.
    pub order: Order,
    /// What holds from the next start on.
    pub policy: Arc<Policy>,
    /// Whether the worker has looked at its project, or found that it cannot.
    pub is_up: bool,
    /// Whether the worker's thread is about to end.
    pub has_left: bool,
    /// The project's directories as they were when the worker had taken in all of them; `None` while it has
    /// not, hears nothing of documents, or nobody else may look since that may take for ever.
    pub seen: Option<Looks>,
}

/// What all workers share.
#[derive(Debug)]
pub struct Context {
    /// The main thread's bell.
    pub main: Bell,
    /// Where settings and credentials are.
    pub places: Places,
    /// Holds, ledger, slots.
    pub board: Board,
    /// The one watcher.
    pub watcher: Watcher,
    /// What agents' environments begin with.
    pub environment: Vec<(OsString, OsString)>,
}

/// What one worker is given.
#[derive(Debug)]
pub struct Post {
    /// What all workers share.
    pub context: Arc<Context>,
    /// The project to serve.
    pub project: Project,
    /// What the main thread wants, and must know.
    pub desk: Mutex<Desk>,
    /// For the watcher and the board.
    pub bell: Bell,
    /// The other end of that bell.
    pub ear: Ear,
}

/// A worker thread's life: serves the project until told to leave; where that is from the beginning, it sees to
/// what a dead daemon left. Trouble with the project's directories is told once and waited out, and so is a
/// mistake of ours, which must not end the other projects; nothing is made in place of a missing project.
pub fn serve(post: &Post) {
    let name = &post.project.name;
    let (mut told, mut pause) = (String::new(), TROUBLE_PAUSE);
    post.context.board.join(name, &post.bell);
    let mut is_new = true;
    while std::mem::take(&mut is_new) || post.order() == Order::Serve {
        let mut in_order: Option<Instant> = None;
        let life = || {
            let mut worker = Worker::open(post)?;
            in_order = Some(Instant::now());
            post.hold(Kind::Trouble, None);
            post.set_up();
            worker.run()
        };
        let ran = catch_unwind(AssertUnwindSafe(life));
        let ran = ran.unwrap_or_else(|_| Err(Error::new(MISTAKE)));
        post.set_up();
        let Some(error) = ran.err().filter(|_| post.order() == Order::Serve) else {
            break;
        };
        // Trouble that comes after some time in order is new.
        if in_order.is_some_and(|since| since.elapsed() > pause) {
            told.clear();
            pause = TROUBLE_PAUSE;
        }
        let text = error.to_string();
        if text != told {
            log::error!("[{name}] the project is unavailable: {text}; trying again");
            told.clone_from(&text);
        }
        post.hold(Kind::Trouble, Some((text, None)));
        post.rest(pause);
        pause = (pause * 2).min(TROUBLE_PAUSE_MAX);
    }
    post.hold(Kind::Trouble, None);
    post.context.board.leave(name);
    // The thread itself is not over before the ring is heard, and nobody would ring again.
    post.desk().has_left = true;
    post.context.main.ring(Wake::Again);
}

impl Post {
    /// The desk, for as long as its owner looks at it.
    pub fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is wanted now.
    pub fn order(&self) -> Order {
        self.desk().order
    }

    /// What holds from the next start on.
    pub fn policy(&self) -> Arc<Policy> {
        self.desk().policy.clone()
    }

    /// Tells the main thread that the worker has looked at its project, or found that it cannot.
    fn set_up(&self) {
        if !std::mem::replace(&mut self.desk().is_up, true) {
            self.context.main.ring(Wake::Again);
        }
    }

    /// Puts a hold of this project in force, or ends it.
    fn hold(&self, kind: Kind, wanted: Wanted) -> Option<Hold> {
        let of = (self.project.name.as_str(), None);
        let set = |holds: &mut Holds, now| holds.set(kind, of, wanted, now);
        self.context.board.change(set)
    }

    /// Waits after trouble. A ring may mean that it is over, but must not make us spin.
    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while self.order() == Order::Serve && self.ear.recv_deadline(until).is_ok() {}
    }
}

/// A project being served.
struct Worker<'a> {
    post: &'a Post,
    spool: Spool,
    lock: Option<SpoolLock>,
    jobs: Jobs,
    /// What holds for the job that is at work.
    policy: Arc<Policy>,
    /// What was finished once, though its result may be gone.
    finished: Memory,
    /// A decision that is not on disk yet; until it is, nothing is started.
    unwritten: Option<Decision>,
    /// The text that runs, as long as no copy of it is kept.
    unkept: Option<Vec<u8>>,
    /// Until when no agent and no check may be started.
    closed: Option<Until>,
    /// The files that the latest start used, as they were before it.
    used: Vec<Stamp>,
    /// Whether all changes in the documents' directory are told by events.
    is_told: bool,
    /// Whether rings were taken in and then not followed up, because a look failed.
    missed: bool,
    /// The keys of what was said, and is not said again while it lasts.
    told: BTreeSet<&'static str>,
    /// Entries that are no jobs, with what is wrong.
    odd: BTreeMap<String, String>,
    /// Lines that need not be written before an agent is started.
    lines: Vec<(Level, String)>,
    view: View,
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        // What was not urgent, before trouble came, was true all the same.
        self.write_lines();
        self.post.desk().seen = None;
        let watcher = &self.post.context.watcher;
        watcher.unwatch(&self.spool.items_path());
    }
}

impl<'a> Worker<'a> {
    /// Takes the project for this daemon, ends what a dead one left, and looks at everything. Boxed, since
    /// the stack of a thread that sleeps is all that an idle project costs.
    #[inline(never)]
    fn open(post: &'a Post) -> Result<Box<Worker<'a>>> {
        let spool = Spool::open(&post.project)?;
        let has_lost_state = spool.has_lost_state()?;
        let lock = Some(spool.lock()?);
        let finished = Memory::of(&post.context.places.state, &spool.root()?);
        let mut worker = Box::new(Worker {
            post,
            spool,
            lock,
            jobs: Jobs::default(),
            policy: post.policy(),
            finished,
            unwritten: None,
            unkept: None,
            closed: None,
            used: Vec::new(),
            is_told: false,
            missed: false,
            told: BTreeSet::new(),
            odd: BTreeMap::new(),
            lines: Vec::new(),
            view: View::default(),
        });
        worker.find_claims(has_lost_state)?;
        worker.look_at_everything()?;
        Ok(worker)
    }

    fn board(&self) -> &'a Board {
        &self.post.context.board
    }

    /// Serves the project until it is told to leave.
    fn run(&mut self) -> Result<()> {
        while !self.is_to_leave() {
            self.hear(None)?;
            let Some(until) = self.step()? else {
                self.refresh_view();
                continue;
            };
            self.flush();
            if self.jobs.begun.is_empty() && self.unwritten.is_none() {
                self.rest();
            }
            // The last view before a long sleep must not be the one that failed.
            let (now, is_behind) = (Instant::now(), self.unwritten.is_some() || !self.view.fresh);
            let longest = now + if is_behind { WRITE_PAUSE } else { FOREVER };
            let until = until.map_or(longest, |at| at.min(now + WALL_PIECE).min(longest));
            if !self.is_to_leave() {
                let first = self.post.ear.recv_deadline(until).ok();
                self.closed = None;
                self.hear(first)?;
            }
        }
        if let Some(decision) = self.unwritten.take() {
            self.write(decision);
        }
        if self.unwritten.is_some() {
            let what = "what was decided of a job cannot be written";
            let then = "where its claim is still there, it is recovered at the next start";
            self.warn(format!("{what}; {then}"));
        }
        self.flush();
        Ok(())
    }

    /// Whether to leave now. Under `Drain`, a job that runs comes to its end first, its check included, and so does
    /// what a dead daemon left of one. What cannot be written by then is tried once more and not waited for, since
    /// its directory may never come back.
    fn is_to_leave(&self) -> bool {
        let mut begun = self.jobs.begun.values();
        match self.post.order() {
            Order::Serve => false,
            Order::Drain if self.closed.is_some() || self.unwritten.is_some() => true,
            Order::Drain => !begun.any(|claim| claim.checking || decide::says_running(claim)),
            Order::Stop => true,
        }
    }

    /// Takes one decision and carries it out; returns until when to wait, where there is nothing to be done. Never
    /// a part of its caller: a thread that sleeps must not keep the stack that this needs.
    #[inline(never)]
    fn step(&mut self) -> Result<Option<Until>> {
        match self.unwritten.take() {
            Some(decision) => self.write(decision),
            None => match decide(&self.jobs, self.closed, now()) {
                Step::Withdraw(id) => self.withdraw(&id),
                Step::Recover(claim) => self.recover(*claim)?,
                Step::Check(claim) => self.check(*claim)?,
                Step::Start(id) => self.start(&id)?,
                Step::Wait(until) => return Ok(Some(until)),
            },
        }
        // While something cannot be written, nothing else is done.
        Ok(self.unwritten.as_ref().map(|_| None))
    }

    /// Lets go of what is only needed while something is to be done.
    fn rest(&mut self) {
        if self.finished.is_new {
            let mut ids = Vec::new();
            let taken = self.spool.finished(&mut |id, _| ids.push(id));
            ids.sort_unstable();
            ids.drain(..ids.len().saturating_sub(memory::KEPT));
            let taken = taken.and_then(|()| self.finished.add(&ids));
            self.finished.is_new = self.or_warn(taken).is_none();
        }
        self.finished.known = None;
        (self.policy, self.used) = (self.post.policy(), Vec::new());
        // A map that became empty keeps its room until it is cleared.
        if self.jobs.waiting.is_empty() {
            self.jobs.waiting.clear();
        }
        self.lock = None;
        self.spool.rest();
        process::give_back_memory();
    }

    /// Takes the project for this daemon, in the place to which its path leads now. Where it had let the
    /// project go, another daemon may have been quicker and have left something: then the worker begins anew.
    fn take_place(&mut self) -> Result<()> {
        let is_taken = self.lock.is_some();
        if is_taken && self.spool.is_in_place() {
            return Ok(());
        }
        if is_taken {
            // Whatever had been told of the old directories is looked at anew.
            self.missed = true;
            self.spool.reopen()?;
            self.lock = None;
        }
        self.lock = Some(self.spool.lock()?);
        match is_taken || self.spool.marks()?.claims.is_empty() {
            true => Ok(()),
            false => {
                self.lock = None;
                Err(Error::new("another monitor has left claims in it"))
            }
        }
    }
}

/// Both clocks, for the decisions.
fn now() -> Now {
    let (instant, wall) = (Instant::now(), Wall::now());
    Now { instant, wall }
}
