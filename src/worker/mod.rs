//! One project's thread: look, decide, do, and look again. It owns the spool; others can only
//! ring its bell or change its orders.

mod aftermath;
mod attempt;
mod hook;
mod look;
mod orders;
mod recovery;
mod words;

pub use orders::{Order, Orders};

use crate::board::Board;
use crate::error::Result;
use crate::holds::Stamp;
use crate::job::JobId;
use crate::project::Project;
use crate::queue::{BACKOFF_MAX, Readiness, Waiting};
use crate::record::{Claim, Outcome};
use crate::settings::Places;
use crate::spool::{Leftovers, Look, Mark, Marks, Spool, SpoolLock, Taken};
use crate::time::Wall;
use crate::watch::{Bell, Ear, Watcher};
use log::Level;
use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use words::View;

/// Waiting for a point of wall-clock time is done in such pieces, so that a clock that is set is
/// noticed.
const WALL_PIECE: Duration = Duration::from_secs(60);
/// After trouble with the project's directories; doubles up to the second.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);
const TROUBLE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// Until a view that could not be written is tried again.
const VIEW_RETRY: Duration = Duration::from_secs(5);
/// Until a document that could not be read is tried again.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);
/// A document that somebody writes is not looked at again sooner, whatever `settle` says.
const WRITER_PAUSE_MIN: Duration = Duration::from_millis(50);

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

/// A worker thread's life: serves the project until told to leave. Trouble with the project's
/// directories is told once and waited out; nothing is made in place of a missing project.
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
            worker.start()?;
            if let Some(ready) = ready.take() {
                ready();
            }
            worker.run(&mut is_in_order)
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
    /// Whether claims may have been lost together with all of `state/`.
    has_lost_state: bool,
    lock: Option<SpoolLock>,
    waiting: Waiting,
    marks: Marks,
    /// Jobs that were begun and not finished, the first of them ours to go on with.
    claims: Vec<Claim>,
    /// The job whose agent runs just now.
    running: Option<JobId>,
    /// The files that the latest start used, as they were before it.
    used: Vec<Stamp>,
    /// What could not be written yet; until it is, nothing is started.
    unwritten: VecDeque<Unwritten>,
    /// Jobs that ended while another one ran, whose hook is still to be run.
    unhooked: Vec<Outcome>,
    /// What attempts cost whose end is not on disk yet, in US dollars.
    unspent: f64,
    /// Whether changes in the documents' directory are told by events.
    is_watched: bool,
    /// Whether rings were taken in and then not followed up, because a look failed.
    missed: bool,
    /// Names of which a sentence has been said already.
    told: BTreeSet<String>,
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

/// A decision that has been taken and must reach the disk.
enum Unwritten {
    Result(Box<Outcome>),
    Claim(Box<Claim>),
}

impl Unwritten {
    /// Of which job it was decided.
    fn job(&self) -> &JobId {
        match self {
            Unwritten::Result(outcome) => &outcome.job_id,
            Unwritten::Claim(claim) => &claim.job_id,
        }
    }
}

/// What a look at the queue led to.
enum Step {
    /// Something was done; look again.
    Again,
    /// Nothing can be done before then, or before a ring.
    Wait(Option<Instant>),
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
        let lock = spool.lock()?;
        Ok(Worker {
            context,
            orders,
            bell,
            ear,
            spool,
            has_lost_state,
            lock: Some(lock),
            waiting: Waiting::default(),
            marks: Marks::default(),
            claims: Vec::new(),
            running: None,
            used: Vec::new(),
            unwritten: VecDeque::new(),
            unhooked: Vec::new(),
            unspent: 0.0,
            is_watched: false,
            missed: false,
            told: BTreeSet::new(),
            lines: Vec::new(),
            view: View::NONE,
        })
    }

    fn start(&mut self) -> Result<()> {
        self.marks = self.spool.marks(Leftovers::Remove)?;
        if self.has_lost_state {
            self.end_unclaimed();
        }
        self.recover()?;
        self.look_at_everything(Leftovers::Remove)
    }

    /// Serves the project; `is_in_order` is set once a look has led to something. Trouble that
    /// comes after that is new.
    fn run(&mut self, is_in_order: &mut bool) -> Result<()> {
        loop {
            if self.is_to_leave() {
                for unwritten in std::mem::take(&mut self.unwritten) {
                    self.write_now(unwritten);
                }
                self.flush();
                return Ok(());
            }
            // A decision that is not on disk yet outlasts trouble with the directories.
            let step = match self.hear(None) {
                Err(error) if self.unwritten.is_empty() => return Err(error),
                _ => self.step()?,
            };
            *is_in_order = true;
            match step {
                Step::Again => self.refresh_view(),
                Step::Wait(until) => {
                    self.flush();
                    // The last view before a long sleep must not be the one that failed.
                    let until = match self.view.stale {
                        true => {
                            let again = Instant::now() + VIEW_RETRY;
                            Some(until.map_or(again, |until| until.min(again)))
                        }
                        false => until,
                    };
                    if self.claims.is_empty() && self.unwritten.is_empty() {
                        self.lock = None;
                        self.spool.rest();
                    }
                    if !self.is_to_leave() {
                        let heard = self.hear(Some(until));
                        if self.unwritten.is_empty() {
                            heard?;
                        }
                    }
                }
            }
        }
    }

    /// Whether to leave now. A job is let end only when what was decided of it is on disk.
    fn is_to_leave(&self) -> bool {
        match self.orders.order() {
            Order::Serve => false,
            Order::Drain => self.unwritten.is_empty(),
            Order::Stop => true,
        }
    }

    /// Takes the project, in the place that its path leads to now.
    fn take_place(&mut self) -> Result<()> {
        self.lock = None;
        self.spool.rest();
        self.lock = Some(self.spool.lock()?);
        Ok(())
    }

    /// One decision and its effect.
    fn step(&mut self) -> Result<Step> {
        if let Some(unwritten) = self.unwritten.pop_front() {
            return Ok(self.write_now(unwritten));
        }
        for outcome in std::mem::take(&mut self.unhooked) {
            self.run_hook(&outcome);
        }
        self.withdraw_cancelled()?;
        if !self.unwritten.is_empty() {
            // A result could not be written, so nothing is started; least of all its job.
            return Ok(Step::Again);
        }
        if self.claims.is_empty() && self.waiting.is_empty() {
            self.set_hold(None);
            return Ok(Step::Wait(None));
        }
        let (now, wall) = (Instant::now(), Wall::now());
        let later = |at: Wall| Some(now + at.since(wall).min(WALL_PIECE));
        let policy = self.orders.policy();
        if let Some(claim) = self.claims.first() {
            let retry_at = claim
                .suspended
                .as_ref()
                .and_then(|suspension| suspension.retry_at);
            // What is further away than any pause is due: the clock was set back.
            let is_ahead = |at: &Wall| *at > wall && at.since(wall) <= BACKOFF_MAX;
            let ahead = retry_at.filter(is_ahead);
            if ahead.is_some() || self.marks.held.contains(&claim.job_id) {
                self.set_hold(None);
                return Ok(Step::Wait(ahead.and_then(later)));
            }
        } else if self.waiting.first(now).is_none() {
            self.set_hold(None);
            return Ok(Step::Wait(self.waiting.next_due()));
        }
        let context = self.context;
        let begun = !self.claims.is_empty();
        let slot = match context.board.enter(self.name(), &policy, begun, wall) {
            Ok(slot) => slot,
            Err(closed) => {
                self.set_hold(closed.hold.map(|hold| hold.view(wall)));
                if let Some(hold) = closed.news {
                    self.tell_of_hold(&hold);
                }
                return Ok(Step::Wait(closed.until.and_then(later)));
            }
        };
        self.set_hold(None);
        if !self.claims.is_empty() {
            let claim = self.claims.remove(0);
            return self.carry_on(claim, &policy, slot);
        }
        while let Some(id) = self.waiting.first(now).cloned() {
            match self.spool.take(&id, policy.max_document)? {
                Taken::Gone => {
                    self.look_at(&id.file_name(), false)?;
                }
                Taken::Alien(what) => {
                    self.waiting.remove(&id);
                    self.tell_of_oddity(&id.file_name(), &what);
                }
                Taken::Unreadable(error) => {
                    self.waiting.put_off(&id, now + UNREADABLE_PAUSE);
                    let text = format!(
                        "[{}] {error}; the job waits, and it is tried again once a minute",
                        self.name()
                    );
                    self.say_once(&id.file_name(), Level::Warn, text);
                }
                Taken::Writing(meta) => {
                    let settle = policy.settle.max(WRITER_PAUSE_MIN);
                    self.waiting.readiness(&id, &meta, true, settle, now, wall);
                }
                Taken::Read(meta, text) => {
                    match self
                        .waiting
                        .readiness(&id, &meta, false, policy.settle, now, wall)
                    {
                        Readiness::NotYet => {}
                        Readiness::Overdue => {
                            self.tell_of_oddity(
                                &id.file_name(),
                                "it is empty; write the job into it, or remove it",
                            );
                        }
                        Readiness::Ready if self.spool.has_result(&id)? => {
                            self.waiting.remove(&id);
                            self.say_foreign(&id);
                        }
                        Readiness::Ready => return self.begin(id, &meta, &text, &policy, slot),
                    }
                }
            }
        }
        drop(slot);
        Ok(Step::Wait(self.waiting.next_due()))
    }

    /// Cancelled jobs that do not run get their result at once, whatever holds the project or runs in
    /// it.
    fn withdraw_cancelled(&mut self) -> Result<()> {
        while self.unwritten.is_empty()
            && let Some(id) = self.next_withdrawn()
        {
            self.marks.cancelled.remove(&id);
            if let Some(at) = self.claims.iter().position(|claim| claim.job_id == id) {
                let claim = self.claims.remove(at);
                self.publish_cancelled(&id, Some(claim));
            } else if self.spool.look_at(&id.file_name())? != Look::Nothing {
                self.publish_cancelled(&id, None);
            } else {
                self.spool.unmark(&id, Mark::Cancel)?;
            }
        }
        Ok(())
    }

    fn next_withdrawn(&self) -> Option<JobId> {
        let mut cancelled = self.marks.cancelled.iter();
        cancelled
            .find(|id| self.running.as_ref() != Some(id))
            .cloned()
    }
}
