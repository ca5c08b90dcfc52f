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

pub use orders::{Order, Orders};

use crate::board::{Board, Closed};
use crate::decide::{Jobs, Now, State, Step, Until, decide};
use crate::error::{Error, Result};
use crate::files::Signature;
use crate::holds::Stamp;
use crate::job::JobId;
use crate::process;
use crate::project::Project;
use crate::record::{Claim, Outcome};
use crate::settings::Places;
use crate::spool::{Leftovers, Spool, SpoolLock};
use crate::time::Wall;
use crate::watch::{Bell, Ear, Watcher};
use finished::Finished;
use log::Level;
use say::View;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Waiting for a point of wall-clock time is done in such pieces, so that a clock that is set is noticed.
const WALL_PIECE: Duration = Duration::from_secs(60);
/// After trouble with the project's directories; doubles up to the second.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);
const TROUBLE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Until a view that could not be written is tried again.
const VIEW_RETRY: Duration = Duration::from_secs(5);

/// What every worker is given.
#[derive(Debug)]
pub struct Context {
    /// Where settings and credentials are.
    pub places: Places,
    /// Holds, ledger, slots.
    pub board: Board,
    /// The one watcher.
    pub watcher: Mutex<Watcher>,
    /// What agents' environments begin with.
    pub environment: Vec<(OsString, OsString)>,
}

/// A worker thread's life: serves the project until told to leave. Trouble with the project's directories
/// is told once and waited out; nothing is made in place of a missing project.
pub fn serve(
    context: &Context,
    project: &Project,
    orders: &Orders,
    bell: &Bell,
    ear: &Ear,
    ready: impl FnOnce(),
) {
    let mut told = String::new();
    let mut pause = TROUBLE_PAUSE;
    let mut ready = Some(ready);
    context.board.join(&project.name, bell);
    while orders.order() == Order::Serve {
        let mut is_in_order = false;
        let outcome = Worker::open(context, project, orders, bell, ear).and_then(|mut worker| {
            worker.begin()?;
            if let Some(ready) = ready.take() {
                ready();
            }
            let ran = worker.run();
            is_in_order = worker.is_in_order;
            ran
        });
        let Err(error) = outcome else { break };
        if is_in_order {
            told.clear();
            pause = TROUBLE_PAUSE;
        }
        if let Some(ready) = ready.take() {
            ready();
        }
        let text = error.to_string();
        if text != told {
            log::error!(
                "[{}] the project is unavailable: {text}; trying again",
                project.name
            );
            told = text;
        }
        // A ring may mean that the trouble is over, but must not make us spin.
        let until = Instant::now() + pause;
        while orders.order() == Order::Serve && ear.wait(Some(until)).is_some() {}
        pause = (pause * 2).min(TROUBLE_PAUSE_MAX);
    }
    context.board.leave(&project.name);
}

/// A project being served.
struct Worker<'a> {
    context: &'a Context,
    orders: &'a Orders,
    bell: &'a Bell,
    ear: &'a Ear,
    spool: Spool,
    lock: Option<SpoolLock>,
    /// How `state/` was when the lock was given back.
    left: Option<Signature>,
    /// Whether claims may have been lost together with all of `state/`.
    has_lost_state: bool,
    jobs: Jobs,
    /// What was finished once, though its result may be gone.
    finished: Finished,
    /// A decision that is not on disk yet; until it is, nothing is started.
    unwritten: Option<Decision>,
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
        self.orders.set_seen(None);
        let watcher = self.context.watcher.lock();
        watcher
            .unwrap_or_else(PoisonError::into_inner)
            .unwatch(&self.spool.items_path());
    }
}

/// A decision that was taken and must reach the disk, with what the attempt cost that led to it, in US
/// dollars: that is counted once the decision is there, since before it would be taken again.
struct Decision {
    what: Written,
    cost_usd: f64,
}

/// What is written of a decision.
enum Written {
    Result(Box<Outcome>),
    Claim(Box<Claim>),
}

impl<'a> Worker<'a> {
    fn open(
        context: &'a Context,
        project: &Project,
        orders: &'a Orders,
        bell: &'a Bell,
        ear: &'a Ear,
    ) -> Result<Worker<'a>> {
        let spool = Spool::open(project)?;
        let has_lost_state = spool.has_lost_state()?;
        let lock = Some(spool.lock()?);
        let finished = Finished::of(&context.places.state, &spool.root()?);
        Ok(Worker {
            context,
            orders,
            bell,
            ear,
            spool,
            lock,
            left: None,
            has_lost_state,
            jobs: Jobs::default(),
            finished,
            unwritten: None,
            closed: None,
            used: Vec::new(),
            is_watched: false,
            is_in_order: false,
            missed: false,
            told: BTreeSet::new(),
            odd: BTreeMap::new(),
            lines: Vec::new(),
            view: View::NONE,
        })
    }

    fn begin(&mut self) -> Result<()> {
        self.find_claims()?;
        self.look_at_everything(Leftovers::Remove)
    }

    /// Serves the project until it is told to leave.
    fn run(&mut self) -> Result<()> {
        while !self.is_to_leave() {
            // A decision that is not on disk yet outlasts trouble with the directories.
            let heard = self.hear(None);
            if self.unwritten.is_none() {
                heard?;
            }
            let waits = self.step()?;
            let Some(until) = waits else {
                self.refresh_view();
                continue;
            };
            self.is_in_order = true;
            self.flush();
            if self.jobs.begun().next().is_none() && self.unwritten.is_none() {
                self.rest()?;
            }
            // The last view before a long sleep must not be the one that failed.
            let view = self.view.stale.then(|| Instant::now() + VIEW_RETRY);
            let wall = Wall::now();
            let calendar = until
                .wall
                .map(|at| Instant::now() + at.since(wall).min(WALL_PIECE));
            let until = [until.instant, calendar, view].into_iter().flatten().min();
            if !self.is_to_leave() {
                let heard = self.hear(Some(until));
                self.closed = None;
                if self.unwritten.is_none() {
                    heard?;
                }
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
        match self.orders.order() {
            Order::Serve => false,
            Order::Drain if self.unwritten.is_some() => false,
            Order::Drain => self.closed.is_some() || !self.jobs.begun().any(is_ending),
            Order::Stop => true,
        }
    }

    /// One decision and its effect; until when to wait, where there is nothing to be done.
    fn step(&mut self) -> Result<Option<Until>> {
        if let Some(decision) = self.unwritten.take() {
            return Ok(self.write(decision));
        }
        match decide(&self.jobs, self.closed, now()) {
            Step::Withdraw(id) => Ok(self.withdraw(&id)),
            Step::Tell(id) => {
                self.tell(&id);
                Ok(None)
            }
            Step::Recover(id) => self.recover(id),
            Step::Check(id) => self.check(id),
            Step::Start(id) => self.start(id),
            Step::Wait(until) => {
                if self.closed.is_none() {
                    self.set_hold(None);
                }
                Ok(Some(until))
            }
            // Nobody is attended here.
            Step::End => Ok(None),
        }
    }

    /// Nothing is to be done: what was only needed for that goes. The directories that stayed open while an
    /// agent ran may have been replaced meanwhile, and what is known is of the old ones.
    fn rest(&mut self) -> Result<()> {
        if !self.spool.is_in_place() {
            return Err(replaced());
        }
        if self.finished.is_new {
            let mut ids = Vec::new();
            let taken = self
                .spool
                .finished(&mut |id, _| ids.extend(JobId::exact(id)));
            ids.sort_unstable();
            let taken = taken.and_then(|()| self.finished.add(&ids));
            self.finished.is_new = taken.is_err();
            self.or_warn(taken);
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
            if !is_as_left && !self.spool.marks(Leftovers::Leave)?.claims.is_empty() {
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
        self.closed = Some(Until {
            instant: None,
            wall: closed.until,
        });
    }
}

fn replaced() -> Error {
    Error::new("its directories are not those that they were")
}

/// Both clocks, for the decisions.
fn now() -> Now {
    Now {
        instant: Instant::now(),
        wall: Wall::now(),
    }
}
