//! What a worker says: lines of the log, written when nothing is more urgent, and the view of the queue
//! that the commands show.

use super::{Worker, hook};
use crate::decide::State;
use crate::holds::{Hold, Kind, Own};
use crate::job::{JobId, Name};
use crate::record::{Claim, HoldView, QueueView};
use crate::time::Wall;
use log::Level;
use std::ffi::OsStr;
use std::time::{Duration, Instant};

/// The view is written at most so often, and at most a fiftieth of the time is spent on it.
const VIEW_PAUSE: Duration = Duration::from_millis(250);
const VIEW_SHARE: u32 = 50;

/// When the view was last written, and whether it is still true.
pub(super) struct View {
    pub(super) stale: bool,
    written: Option<Instant>,
    pause: Duration,
    pub(super) hold: Option<HoldView>,
}

impl View {
    /// None was written yet.
    pub(super) const NONE: View = View {
        stale: true,
        written: None,
        pause: VIEW_PAUSE,
        hold: None,
    };
}

impl Worker<'_> {
    /// Takes note of why the project waits.
    pub(super) fn set_hold(&mut self, hold: Option<HoldView>) {
        if self.view.hold != hold {
            self.view.hold = hold;
            self.view.stale = true;
        }
    }

    /// Says that a hold has begun, and runs the person's command for that.
    pub(super) fn announce(&mut self, hold: Option<Hold>) {
        let Some(hold) = hold else { return };
        let now = Wall::now();
        let until = hold
            .until
            .map_or(String::new(), |at| format!("; until {}", at.short(now)));
        self.say(
            Level::Warn,
            format!("[{}] {}{until}", self.name(), hold.sentence()),
        );
        let policy = self.orders.policy();
        let is_quiet = matches!(hold.kind, Kind::Own(Own::Hours | Own::Gate));
        let Some(command) = policy.on_hold.as_ref().filter(|_| !is_quiet) else {
            return;
        };
        let until = hold.until.map_or(String::new(), |at| at.to_string());
        let told = [
            ("JOB_MONITOR_AGENT", hold.agent.clone().unwrap_or_default()),
            ("JOB_MONITOR_HOLD", hold.kind.as_str().to_owned()),
            ("JOB_MONITOR_REASON", hold.reason.clone()),
            ("JOB_MONITOR_UNTIL", until),
        ];
        self.run_hook("on_hold", command, &told);
    }

    /// Runs a command of the person's.
    pub(super) fn run_hook(&mut self, name: &str, command: &[String], told: &[(&str, String)]) {
        self.write_lines();
        let told: Vec<(&str, &OsStr)> = told
            .iter()
            .map(|(name, value)| (*name, OsStr::new(value)))
            .collect();
        self.spool.rest();
        // Where the directory is not what the registry says, what is there now is another's.
        let ran = self
            .spool
            .root()
            .map_err(|error| error.to_string())
            .and_then(|_| {
                let stop = || self.orders.order() == super::Order::Stop;
                hook::run(
                    command,
                    self.spool.project(),
                    &self.context.environment,
                    &told,
                    stop,
                )
            });
        if let Err(what) = ran {
            self.say(Level::Warn, format!("[{}] {name}: {what}", self.name()));
        }
    }

    pub(super) fn say_lifted(&mut self, lifted: Vec<Hold>, why: &str) {
        for hold in lifted {
            let text = format!(
                "[{}] the hold of {} is lifted: {why}",
                self.name(),
                hold.whom()
            );
            self.say(Level::Info, text);
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.spool.project().name
    }

    /// Keeps a line until nothing more urgent is to be done.
    pub(super) fn say(&mut self, level: Level, text: String) {
        self.lines.push((level, text));
    }

    /// Says what lasts, once; whoever ends it takes the key out of `told`.
    pub(super) fn say_once(&mut self, key: &'static str, level: Level, text: String) {
        if self.told.insert(key) {
            self.say(level, text);
        }
    }

    pub(super) fn say_queued(&mut self, id: &JobId) {
        let size = self.jobs.len();
        self.say(
            Level::Info,
            format!("[{}] Job queued: {id}.md (queue size: {size})", self.name()),
        );
    }

    /// A result ends its job whoever wrote it: it may have been restored, and then the job was done once.
    /// Whoever else can write there could have removed the document, too.
    pub(super) fn say_foreign(&mut self, id: &JobId) {
        let text = format!(
            "[{}] {id}.md has a result that this monitor did not write, so it is not run; \
             job-monitor retry {id} runs it",
            self.name()
        );
        self.view.stale = true;
        self.say(Level::Warn, text);
    }

    /// Says once what is wrong with an entry of the spool.
    pub(super) fn tell_of_oddity(&mut self, name: &str, what: &str) {
        let known = self.odd.insert(name.to_owned(), what.to_owned());
        if known.is_none() {
            self.say_odd(name, what);
        }
    }

    pub(super) fn say_odd(&mut self, name: &str, what: &str) {
        if Name::of(name, self.spool.layout()) == Name::Other {
            // Nobody meant it for a job; only the queue shows it.
            return;
        }
        let path = self.spool.items_path().join(name);
        let text = format!("[{}] {} is left alone: {what}", self.name(), path.display());
        self.say(Level::Warn, text);
    }

    pub(super) fn write_lines(&mut self) {
        if !self.lines.is_empty() {
            self.spool.log(&self.lines);
            self.lines.clear();
        }
    }

    /// Before sleeping: nothing is left to be told.
    pub(super) fn flush(&mut self) {
        self.write_lines();
        if self.view.stale {
            self.write_view();
        }
    }

    /// Between jobs in a row: now and then.
    pub(super) fn refresh_view(&mut self) {
        let written = self.view.written;
        if written.is_none_or(|at| at.elapsed() >= self.view.pause) {
            self.flush();
        }
    }

    pub(super) fn write_view(&mut self) {
        let started = Instant::now();
        let (running, begun): (Vec<&Claim>, Vec<&Claim>) = self
            .jobs
            .begun()
            .filter_map(State::claim)
            .partition(|claim| self.jobs.attended.as_ref() == Some(&claim.job_id));
        let running = running.first().copied();
        let shown = running.or(begun.first().copied());
        let begun = begun.iter().map(|claim| claim.job_id.file_name());
        let waiting = self.jobs.waiting().map(|(id, _)| id.file_name());
        let waiting: Vec<String> = begun.chain(waiting).collect();
        let items = self.spool.items_signature().ok();
        let items = items.filter(|_| self.ear.is_quiet());
        let is_told = self.is_watched && !self.spool.is_remote();
        self.orders.set_seen(items.filter(|_| is_told));
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
            left_alone: { self.odd.iter() }
                .map(|(name, what)| format!("{name} ({what})"))
                .collect(),
            updated_at: Some(Wall::now()),
            // Readers hold the directory's age against it: a view that misses what was rung has none.
            items_mtime: items.map(|items| items.mtime()),
        };
        let (size, is_running) = (view.queue_size, running.is_some());
        // A view that cannot be written is only out of date, and is written soon.
        let written = self.spool.write_view(&view);
        match &written {
            Ok(()) => drop(self.told.remove("view")),
            Err(error) => self.say_once("view", Level::Warn, format!("[{}] {error}", self.name())),
        }
        self.context.board.tell(self.name(), is_running, size);
        let now = Instant::now();
        self.view.stale = written.is_err();
        self.view.written = Some(now);
        self.view.pause = VIEW_PAUSE.max((now - started) * VIEW_SHARE);
    }

    /// Says what is the matter where that changes nothing for the job.
    pub(super) fn or_warn<T>(&mut self, result: crate::error::Result<T>) -> Option<T> {
        result
            .map_err(|error| self.say(Level::Warn, format!("[{}] {error}", self.name())))
            .ok()
    }
}
