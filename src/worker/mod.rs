//! One project's thread: look, decide, do, and look again. It owns the spool; others can only
//! ring its bell or change its orders.

mod aftermath;
mod attempt;
mod hook;
mod recovery;

use crate::board::Board;
use crate::error::Result;
use crate::files::Signature;
use crate::job::JobId;
use crate::process;
use crate::project::{Policy, Project};
use crate::queue::{Arrival, BACKOFF_MAX, Readiness, Waiting};
use crate::record::{Claim, HoldView, Outcome, QueueView};
use crate::settings::Places;
use crate::spool::{Leftovers, Mark, Marks, Spool, SpoolLock, Taken};
use crate::time::Wall;
use crate::watch::{Bell, Ear, Wake, Watcher};
use log::Level;
use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Waiting for a point of wall-clock time is done in such pieces, so that a clock that is set is
/// noticed.
const WALL_PIECE: Duration = Duration::from_secs(60);
/// After trouble with the project's directories; doubles up to the second.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);
const TROUBLE_PAUSE_MAX: Duration = Duration::from_secs(60);
/// The view is written at most so often, and at most a fiftieth of the time is spent on it.
const VIEW_PAUSE: Duration = Duration::from_millis(250);
const VIEW_SHARE: u32 = 50;
/// Until a view that could not be written is tried again.
const VIEW_RETRY: Duration = Duration::from_secs(5);
/// So many new documents of one scan are named in the log; of more, only the number is told.
const NAMED_MAX: usize = 20;
/// Until a document that could not be read is tried again.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);

/// A document that somebody writes is not looked at again sooner, whatever `settle` says.
const WRITER_PAUSE_MIN: Duration = Duration::from_millis(50);
/// Of so many odd files a sentence is said; whoever makes more knows by then.
const TOLD_MAX: usize = 1000;

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

/// What the main thread wants of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Order {
    /// Run the jobs.
    Serve = 0,
    /// Let the running job end, start no other, and leave.
    Drain = 1,
    /// End the running agent, keep its claim, and leave.
    Stop = 2,
}

/// The orders of one worker, as others may change them.
#[derive(Debug)]
pub struct Orders {
    order: AtomicU8,
    policy: Mutex<Arc<Policy>>,
    remote: AtomicBool,
    seen: Mutex<Option<Signature>>,
}

impl Orders {
    /// Orders to serve.
    pub fn new(policy: Policy) -> Orders {
        Orders {
            order: AtomicU8::new(Order::Serve as u8),
            policy: Mutex::new(Arc::new(policy)),
            remote: AtomicBool::new(true),
            seen: Mutex::default(),
        }
    }

    /// The documents' directory as it was when the worker had taken in all that it heard of it;
    /// `None` while it has not, or hears nothing.
    pub fn seen(&self) -> Option<Signature> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether only the worker may touch the project's files, since that may take for ever. So it
    /// is until the worker has seen them.
    pub fn is_remote(&self) -> bool {
        self.remote.load(Ordering::SeqCst)
    }

    /// Changes what is wanted; the bell must be rung afterwards. A stop is never taken back.
    pub fn give(&self, order: Order) {
        let stop = Order::Stop as u8;
        let change = |old| (old != stop).then_some(order as u8);
        // It fails only where the order to stop stands.
        let _ = self
            .order
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, change);
    }

    /// Changes what holds from the next start on.
    pub fn set_policy(&self, policy: Policy) {
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    /// What is wanted now.
    pub fn order(&self) -> Order {
        match self.order.load(Ordering::SeqCst) {
            0 => Order::Serve,
            1 => Order::Drain,
            _ => Order::Stop,
        }
    }

    fn set_seen(&self, items: Option<Signature>) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = items;
    }

    fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.lock().unwrap_or_else(PoisonError::into_inner))
    }
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
    let _group = process::enter_group();
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
    _lock: SpoolLock,
    waiting: Waiting,
    marks: Marks,
    /// Jobs that were begun and not finished, the first of them ours to go on with.
    claims: Vec<Claim>,
    /// The job whose agent runs just now.
    running: Option<JobId>,
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
            .unwatch(self.spool.items_path());
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

/// When the view was last written, and whether it is still true.
struct View {
    stale: bool,
    written: Option<Instant>,
    pause: Duration,
    hold: Option<HoldView>,
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
        orders.remote.store(spool.is_remote(), Ordering::SeqCst);
        Ok(Worker {
            context,
            orders,
            bell,
            ear,
            spool,
            has_lost_state,
            _lock: lock,
            waiting: Waiting::default(),
            marks: Marks::default(),
            claims: Vec::new(),
            running: None,
            unwritten: VecDeque::new(),
            unhooked: Vec::new(),
            unspent: 0.0,
            is_watched: false,
            missed: false,
            told: BTreeSet::new(),
            lines: Vec::new(),
            view: View {
                stale: true,
                written: None,
                pause: VIEW_PAUSE,
                hold: None,
            },
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

    fn watch(&mut self) {
        // A file system that does not answer would stop the one thread that hears for everybody.
        if self.orders.is_remote() && self.told.contains("observer") {
            return;
        }
        let path = self.spool.items_path().to_owned();
        let mut watcher = self
            .context
            .watcher
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match watcher.watch(&path, self.bell, Spool::is_of_interest) {
            Ok(()) => {
                self.is_watched = true;
                let text = format!("Observer started for '{}': {}", self.name(), path.display());
                self.say_once("observer", Level::Info, text);
            }
            Err(error) => {
                self.is_watched = false;
                let text = format!(
                    "{} cannot be watched: {}; it is looked at once a minute instead",
                    path.display(),
                    crate::watch::reason(&error)
                );
                self.say_once("watch", Level::Warn, text);
            }
        }
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

    /// Takes in what has been rung; with `wait`, waits for a ring until then. Where that fails, the
    /// names are gone from the bell, so the next look is at everything.
    fn hear(&mut self, wait: Option<Option<Instant>>) -> Result<()> {
        let heard = self.take_in(wait);
        self.missed |= heard.is_err();
        heard
    }

    fn take_in(&mut self, wait: Option<Option<Instant>>) -> Result<()> {
        let first = wait.and_then(|until| self.ear.wait(until));
        let mut everything = std::mem::take(&mut self.missed);
        let mut poked = false;
        let mut looks = Vec::new();
        for wake in first.into_iter().chain(self.ear.pending()) {
            match wake {
                Wake::Everything => everything = true,
                Wake::Again => {}
                Wake::Look { name, .. } if Spool::is_poke(&name) => poked = true,
                Wake::Look { name, whole } => looks.push((name, whole)),
            }
        }
        if everything {
            return self.look_at_everything(Leftovers::Leave);
        }
        for (name, whole) in looks {
            self.look_at(&name, whole)?;
        }
        if poked {
            self.look_at_marks()?;
        }
        Ok(())
    }

    /// Watches first and looks afterwards: what comes in between is seen twice, never missed. Where
    /// the watch is in place, watching again is harmless; it heals a directory that was replaced.
    fn look_at_everything(&mut self, leftovers: Leftovers) -> Result<()> {
        self.watch();
        self.spool.check_place()?;
        let scan = self.spool.scan(leftovers)?;
        for (name, what) in scan.odd {
            self.tell_of_oddity(&name, &what);
        }
        let mut found = scan.waiting;
        found.retain(|id| !self.is_begun(id));
        let new: Vec<JobId> = found
            .iter()
            .filter(|id| !self.waiting.contains(id))
            .cloned()
            .collect();
        let gone = self.waiting.ids().filter(|id| !found.contains(id));
        for id in gone.cloned().collect::<Vec<_>>() {
            if self.spool.has_result(&id)? {
                self.say_foreign(&id);
            }
        }
        self.waiting.replace(found);
        for id in new.iter().take(NAMED_MAX) {
            self.say_queued(id);
        }
        if new.len() > NAMED_MAX {
            let text = format!(
                "[{}] More jobs queued: {} (queue size: {})",
                self.name(),
                new.len() - NAMED_MAX,
                self.waiting.len()
            );
            self.say(Level::Info, text);
        }
        self.view.stale = true;
        self.look_at_marks()
    }

    fn look_at(&mut self, name: &str, whole: bool) -> Result<()> {
        let known = self.spool.look_at(name)?;
        match known {
            Some(id) if self.is_begun(&id) => {}
            Some(id) => {
                let arrival = if whole {
                    Arrival::Whole
                } else {
                    Arrival::Unknown
                };
                self.told.remove(name);
                if self.waiting.note(id.clone(), arrival) {
                    self.say_queued(&id);
                }
                self.view.stale = true;
            }
            None => match JobId::parse(name) {
                Some(id) => {
                    if self.waiting.remove(&id) {
                        self.view.stale = true;
                        if !self.spool.has_result(&id)? {
                            self.say(
                                Level::Info,
                                format!("[{}] Job withdrawn: {name}", self.name()),
                            );
                        }
                    }
                }
                None => {
                    if crate::job::Name::of(name, self.spool.layout()) == crate::job::Name::Bad {
                        let form = self.spool.layout().form();
                        self.tell_of_oddity(
                            name,
                            &format!("its name is not that of a job; rename it to {form}"),
                        );
                    }
                }
            },
        }
        Ok(())
    }

    /// Whether a job is running or suspended: its document matters no more.
    fn is_begun(&self, id: &JobId) -> bool {
        let is_it = |unwritten: &Unwritten| unwritten.job() == id;
        self.running.as_ref() == Some(id)
            || self.unwritten.iter().any(is_it)
            || self.claims.iter().any(|claim| claim.job_id == *id)
    }

    fn look_at_marks(&mut self) -> Result<()> {
        self.marks = self.spool.marks(Leftovers::Leave)?;
        self.sweep_marks()?;
        self.waiting.set_held(self.marks.held.clone());
        self.view.stale = true;
        for id in std::mem::take(&mut self.marks.released) {
            self.spool.unmark(&id, Mark::Release)?;
            let agent = &self.orders.policy().agent.name;
            let lifted = self
                .context
                .board
                .lift(|hold| hold.agent.as_deref().is_none_or(|held| held == agent));
            for hold in lifted {
                self.say(
                    Level::Info,
                    format!(
                        "[{}] the hold of {} is lifted: released by hand",
                        self.name(),
                        hold.whom()
                    ),
                );
            }
        }
        Ok(())
    }

    /// Takes away the hold marks of jobs that are done: they came as the job ended.
    fn sweep_marks(&mut self) -> Result<()> {
        let held = self.marks.held.iter();
        let idle = held.filter(|id| !self.waiting.contains(id) && !self.is_begun(id));
        for id in idle.cloned().collect::<Vec<_>>() {
            if self.spool.has_result(&id)? {
                self.marks.held.remove(&id);
                self.spool.unmark(&id, Mark::Hold)?;
            }
        }
        Ok(())
    }

    /// As the spool's; a new `state/` is taken for this daemon like the one before.
    fn reopen(&mut self) -> Result<bool> {
        let is_new = self.spool.reopen()?;
        if is_new {
            self._lock = self.spool.lock()?;
        }
        Ok(is_new)
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
        if let Some(hold) = self
            .context
            .board
            .exhausted(self.name(), policy.daily_budget_usd, wall)
        {
            let until = hold.until;
            if self.set_hold(Some(hold.clone())) {
                self.say(Level::Warn, format!("[{}] {}", self.name(), hold.reason));
            }
            return Ok(Step::Wait(until.and_then(later)));
        }
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
        let slot = match context.board.enter(&policy.agent.name, wall) {
            Ok(slot) => slot,
            Err(until) => {
                let hold = context.board.hold_of(&policy.agent.name);
                self.set_hold(hold.map(|hold| hold.view()));
                return Ok(Step::Wait(until.and_then(later)));
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
            } else if self.spool.look_at(&id.file_name())?.is_some() {
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

    /// Takes note of why the project waits; whether that is news.
    fn set_hold(&mut self, hold: Option<HoldView>) -> bool {
        let news = match (&self.view.hold, &hold) {
            (Some(old), Some(new)) => old.kind != new.kind,
            (None, Some(_)) => true,
            _ => false,
        };
        if self.view.hold != hold {
            self.view.hold = hold;
            self.view.stale = true;
        }
        news
    }

    // --- words ---

    fn name(&self) -> &str {
        &self.spool.project().name
    }

    /// Keeps a line until nothing more urgent is to be done.
    fn say(&mut self, level: Level, text: String) {
        self.lines.push((level, text));
    }

    fn say_once(&mut self, key: &str, level: Level, text: String) {
        if self.told.len() < TOLD_MAX && self.told.insert(key.to_owned()) {
            self.say(level, text);
        }
    }

    fn say_queued(&mut self, id: &JobId) {
        let text = format!(
            "[{}] Job queued: {id}.md (queue size: {})",
            self.name(),
            self.waiting.len()
        );
        self.say(Level::Info, text);
    }

    /// A result ends its job whoever wrote it: it may have been restored, and then the job was done
    /// once. Whoever else can write there could have removed the document, too.
    fn say_foreign(&mut self, id: &JobId) {
        let text = format!(
            "[{}] {id}.md has a result that this monitor did not write, so it is not run; \
             job-monitor retry {id} runs it",
            self.name()
        );
        self.view.stale = true;
        self.say(Level::Warn, text);
    }

    fn tell_of_oddity(&mut self, name: &str, what: &str) {
        let path = self.spool.items_path().join(name);
        let text = format!("[{}] {} is left alone: {what}", self.name(), path.display());
        self.say_once(name, Level::Warn, text);
    }

    fn write_lines(&mut self) {
        if !self.lines.is_empty() {
            self.spool.log(&self.lines);
            self.lines.clear();
        }
    }

    /// Before sleeping: nothing is left to be told.
    fn flush(&mut self) {
        self.write_lines();
        if self.view.stale {
            self.write_view(None);
        }
    }

    /// Between jobs in a row: now and then.
    fn refresh_view(&mut self) {
        let due = self
            .view
            .written
            .is_none_or(|at| at.elapsed() >= self.view.pause);
        if due {
            self.flush();
        }
    }

    fn write_view(&mut self, running: Option<&Claim>) {
        let suspended = self.claims.first();
        let shown = running.or(suspended);
        let started = Instant::now();
        // Readers hold the directory's age against the view's; one that knows of names it has not
        // taken in claims to be of no age.
        let items = self.spool.items_signature().ok();
        let items = items.filter(|_| self.ear.is_quiet());
        self.orders.set_seen(items.filter(|_| self.is_watched));
        let suspended_ids = suspended.into_iter().map(|claim| claim.job_id.file_name());
        let waiting: Vec<String> = suspended_ids
            .filter(|_| running.is_none())
            .chain(self.waiting.ids().map(JobId::file_name))
            .collect();
        let view = QueueView {
            project: self.name().to_owned(),
            queue_size: waiting.len(),
            current_task: running.map(|claim| claim.job_id.file_name()),
            is_processing: running.is_some(),
            queued_tasks: waiting,
            task_start_time: running.map(|claim| claim.started_at),
            attempt: shown.map(|claim| claim.starts),
            retry_at: shown.and_then(|claim| claim.suspended.as_ref()?.retry_at),
            hold: self.view.hold.clone(),
            updated_at: Some(Wall::now()),
            items_mtime: items.map(|items| items.mtime()),
        };
        // A view that cannot be written is only out of date, and is written soon.
        let written = self.spool.write_view(&view);
        match &written {
            Ok(()) => drop(self.told.remove("view")),
            Err(error) => {
                self.say_once("view", Level::Warn, format!("[{}] {error}", self.name()));
            }
        }
        self.context
            .board
            .tell(self.name(), running.is_some(), view.queue_size);
        let now = Instant::now();
        self.view.stale = written.is_err();
        self.view.written = Some(now);
        self.view.pause = VIEW_PAUSE.max((now - started) * VIEW_SHARE);
    }
}
