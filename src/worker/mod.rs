//! One project's thread: look, decide, do, and look again. It owns the spool; others can only ring its
//! bell or change its orders. What is to be done, and what follows, is decided in `decide`; here and in
//! the files below it is done.

mod end;
mod finished;
mod hook;
mod look;
mod orders;
mod proof;
mod recovery;
mod say;
mod start;

pub use finished::Memory;
pub use orders::{Order, Orders};

// The files below this one see what it sees.
use crate::agent::plan::{Assignment, Files, Plan, plan};
use crate::agent::{Ending, Fault, Report, Sessions, dialect};
use crate::board::{self, Board, Closed, Slot};
use crate::decide::{self, Jobs, Next, Now, Readiness, State, Step, Until, decide, how};
use crate::digest::sha256_hex;
use crate::document::{self, Document, Wishes};
use crate::error::{Error, Result};
use crate::files::{self, Dir, Signature};
use crate::git;
use crate::holds::{Failure, Hold, Holds, Kind, Stamp, is_answer};
use crate::job::{
    Attempt, Course, ErrorKind, JobId, Meta, Name, RUN_VARIABLE, Status, check_log, log_name,
};
use crate::outcome::{self, millis};
use crate::process::{self, Agent, Among, Launch, Token};
use crate::project::{OnFailure, Policy, Project};
use crate::record::{Change, Check, Claim, HoldView, Inherited, Outcome, QueueView, Suspension};
use crate::runner::{self, Finished, Running};
use crate::settings::{self, Places};
use crate::spool::{Look, Mark, Spool, SpoolLock, Taken};
use crate::time::Wall;
use crate::watch::{Bell, Ear, Wake, Watcher};
use log::Level;
use say::View;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs::File;
use std::io::BufReader;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use {end::record, hook::Told, start::remove_scratch};

/// Waiting for a point of wall-clock time is done in such pieces, so that a clock that is set is noticed.
const WALL_PIECE: Duration = Duration::from_secs(60);
/// After trouble with the project's directories; doubles up to the second.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);
const TROUBLE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// While a decision cannot be written, it is tried again so often.
const WRITE_PAUSE: Duration = Duration::from_secs(2);
/// Until a view that could not be written is tried again.
const VIEW_RETRY: Duration = Duration::from_secs(5);

/// What a panic is to whoever reads the log.
const MISTAKE: &str = "a mistake of the monitor's own, told above (please report it)";

/// What all workers share.
#[derive(Debug)]
pub struct Context {
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
    /// What the main thread wants.
    pub orders: Arc<Orders>,
    /// For the watcher and the board.
    pub bell: Bell,
    /// The other end of that bell.
    pub ear: Ear,
    /// The main thread's bell.
    pub main: Bell,
}

/// A worker thread's life: serves the project until told to leave. Trouble with the project's directories
/// is told once and waited out, and so is a mistake of ours, which must not end the other projects; nothing
/// is made in place of a missing project.
pub fn serve(post: &Post) {
    let (name, orders) = (&post.project.name, &post.orders);
    let mut told = String::new();
    let mut pause = TROUBLE_PAUSE;
    post.context.board.join(name, &post.bell);
    while orders.order() == Order::Serve {
        let mut is_in_order = false;
        let life = || {
            let mut worker = Worker::open(post)?;
            post.set_up();
            let ran = worker.run();
            is_in_order = worker.is_in_order;
            ran
        };
        let ran = catch_unwind(AssertUnwindSafe(life));
        let ran = ran.unwrap_or_else(|_| Err(Error::new(MISTAKE)));
        let Err(error) = ran else { break };
        post.set_up();
        if is_in_order {
            told.clear();
            pause = TROUBLE_PAUSE;
        }
        let text = error.to_string();
        if text != told {
            log::error!("[{name}] the project is unavailable: {text}; trying again");
            told = text;
        }
        post.rest(pause);
        pause = (pause * 2).min(TROUBLE_PAUSE_MAX);
    }
    post.context.board.leave(name);
    // The thread itself is not over before the ring is heard, and nobody would ring again.
    orders.desk().has_left = true;
    post.main.ring(Wake::Again);
}

impl Post {
    /// The worker has looked at its project, or found that it cannot.
    fn set_up(&self) {
        if !std::mem::replace(&mut self.orders.desk().is_up, true) {
            self.main.ring(Wake::Again);
        }
    }

    /// After trouble. A ring may mean that it is over, but must not make us spin.
    fn rest(&self, pause: Duration) {
        let until = Instant::now() + pause;
        while self.orders.order() == Order::Serve && self.ear.wait(Some(until)).is_some() {}
    }
}

/// A project being served.
struct Worker<'a> {
    post: &'a Post,
    spool: Spool,
    lock: Option<SpoolLock>,
    /// How `state/` was when the lock was given back.
    left: Option<Signature>,
    jobs: Jobs,
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
    /// Whether changes in the documents' directory are told by events.
    is_watched: bool,
    /// Whether a look has led to something: trouble that comes after that is new.
    is_in_order: bool,
    /// Whether rings were taken in and then not followed up, because a look failed.
    missed: bool,
    /// What was said once and need not be said again while it lasts.
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
        self.post.orders.desk().seen = None;
        let watcher = &self.post.context.watcher;
        watcher.unwatch(&self.spool.items_path());
    }
}

/// A decision that was taken and must reach the disk.
enum Decision {
    Result(Box<Outcome>),
    Claim(Box<Claim>),
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
            left: None,
            jobs: Jobs::default(),
            finished,
            unwritten: None,
            unkept: None,
            closed: None,
            used: Vec::new(),
            is_watched: false,
            is_in_order: false,
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
            self.is_in_order = true;
            self.flush();
            if self.jobs.begun().next().is_none() && self.unwritten.is_none() {
                self.rest()?;
            }
            // The last view before a long sleep must not be the one that failed.
            let now = now();
            let view = (!self.view.fresh).then(|| now.instant + VIEW_RETRY);
            let write = self.unwritten.as_ref().map(|_| now.instant + WRITE_PAUSE);
            let pause = |at: Wall| at.since(now.wall).min(WALL_PIECE);
            let calendar = until.wall.map(|at| now.instant + pause(at));
            let all = [until.instant, calendar, view, write];
            let until = all.into_iter().flatten().min();
            if !self.is_to_leave() {
                let first = self.post.ear.wait(until);
                self.closed = None;
                self.hear(first)?;
            }
        }
        if let Some(decision) = self.unwritten.take() {
            self.write(decision);
        }
        self.flush();
        Ok(())
    }

    /// Whether to leave now. A job is let end only when what was decided of it is on disk, and told.
    fn is_to_leave(&self) -> bool {
        let is_ending = |state: &State| matches!(state, State::Done(_) | State::Checking(_));
        match self.post.orders.order() {
            Order::Serve => false,
            Order::Drain if self.unwritten.is_some() => false,
            Order::Drain => self.closed.is_some() || !self.jobs.begun().any(is_ending),
            Order::Stop => true,
        }
    }

    /// One decision and its effect; until when to wait, where there is nothing to be done. A thread that
    /// sleeps must not keep the stack that this needs.
    #[inline(never)]
    fn step(&mut self) -> Result<Option<Until>> {
        let step = match self.unwritten.take() {
            Some(decision) => {
                self.write(decision);
                Step::End
            }
            None => decide(&self.jobs, self.closed, now()),
        };
        match step {
            Step::Withdraw(id) => self.withdraw(&id),
            Step::Tell(id) => self.tell(&id),
            Step::Recover(id) => self.recover(&id)?,
            Step::Check(id) => self.check(&id)?,
            Step::Start(id) => self.start(&id)?,
            Step::Wait(until) => {
                if self.closed.is_none() {
                    self.set_hold(None);
                }
                return Ok(Some(until));
            }
            // Nobody is attended here.
            Step::End => {}
        }
        // While something cannot be written, nothing else is done.
        Ok(self.unwritten.as_ref().map(|_| Until::default()))
    }

    /// Nothing is to be done: what was only needed for that goes. The directories that stayed open while an
    /// agent ran may have been replaced meanwhile, and what is known is of the old ones.
    fn rest(&mut self) -> Result<()> {
        if !self.spool.is_in_place() {
            return Err(replaced());
        }
        if self.finished.is_new {
            let mut ids = Vec::new();
            let mut each = |id: &str, _| ids.extend(JobId::exact(id));
            let taken = self.spool.finished(&mut each);
            ids.sort_unstable();
            let taken = taken.and_then(|()| self.finished.add(&ids));
            self.finished.is_new = self.or_warn(taken).is_none();
        }
        if self.left.is_none() {
            let tidied = self.spool.tidy();
            self.or_warn(tidied);
        }
        self.finished.rest();
        self.left = self.spool.state_signature().ok();
        self.lock = None;
        self.spool.rest();
        process::give_back_stack();
        Ok(())
    }

    /// Takes the project for this daemon, in the place to which its path leads now. What is known belongs
    /// to that place, or the worker must begin anew; so it must where it had let the project go, and
    /// another daemon was quicker and left something.
    fn take_place(&mut self) -> Result<()> {
        if self.lock.is_none() {
            // What is open was opened for this look.
            self.lock = Some(self.spool.lock()?);
            let is_as_left = self.left == Some(self.spool.state_signature()?);
            if !is_as_left && !self.spool.marks()?.claims.is_empty() {
                return Err(Error::new("another monitor has left claims in it"));
            }
            return Ok(());
        }
        match self.spool.is_in_place() {
            true => Ok(()),
            false => self.move_in(),
        }
    }

    /// Finds the directories anew, and takes the project there. Whatever had been told of them is looked
    /// at anew.
    fn move_in(&mut self) -> Result<()> {
        self.missed = true;
        let before = self.spool.items_signature();
        self.spool.reopen()?;
        self.lock = None;
        self.lock = Some(self.spool.lock()?);
        let now = self.spool.items_signature()?;
        match before.is_ok_and(|before| !before.is_place_of(now)) {
            true => Err(replaced()),
            false => Ok(()),
        }
    }

    /// Nothing can be started, as the board says.
    fn close(&mut self, closed: Closed) {
        self.announce(closed.news);
        self.set_hold(closed.hold.map(|hold| hold.view(Wall::now())));
        self.closed = Some(Until::wall(closed.until));
    }
}

fn replaced() -> Error {
    Error::new("its directories are not those that they were")
}

/// Both clocks, for the decisions.
fn now() -> Now {
    let (instant, wall) = (Instant::now(), Wall::now());
    Now { instant, wall }
}
