//! What a worker says: lines of the log, written when nothing is more urgent, and the view of the
//! queue that the commands show.

use super::Worker;
use crate::job::JobId;
use crate::record::{Claim, HoldView, QueueView};
use crate::time::Wall;
use log::Level;
use std::time::{Duration, Instant};

/// The view is written at most so often, and at most a fiftieth of the time is spent on it.
const VIEW_PAUSE: Duration = Duration::from_millis(250);
const VIEW_SHARE: u32 = 50;
/// Of so many odd files a sentence is said; whoever makes more knows by then.
const TOLD_MAX: usize = 1000;

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
    /// Takes note of why the project waits; whether that is news.
    pub(super) fn set_hold(&mut self, hold: Option<HoldView>) -> bool {
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

    pub(super) fn name(&self) -> &str {
        &self.spool.project().name
    }

    /// Keeps a line until nothing more urgent is to be done.
    pub(super) fn say(&mut self, level: Level, text: String) {
        self.lines.push((level, text));
    }

    pub(super) fn say_once(&mut self, key: &str, level: Level, text: String) {
        if self.told.len() < TOLD_MAX && self.told.insert(key.to_owned()) {
            self.say(level, text);
        }
    }

    pub(super) fn say_queued(&mut self, id: &JobId) {
        let text = format!(
            "[{}] Job queued: {id}.md (queue size: {})",
            self.name(),
            self.waiting.len()
        );
        self.say(Level::Info, text);
    }

    /// A result ends its job whoever wrote it: it may have been restored, and then the job was done
    /// once. Whoever else can write there could have removed the document, too.
    pub(super) fn say_foreign(&mut self, id: &JobId) {
        let text = format!(
            "[{}] {id}.md has a result that this monitor did not write, so it is not run; \
             job-monitor retry {id} runs it",
            self.name()
        );
        self.view.stale = true;
        self.say(Level::Warn, text);
    }

    pub(super) fn tell_of_oddity(&mut self, name: &str, what: &str) {
        let path = self.spool.items_path().join(name);
        let text = format!("[{}] {} is left alone: {what}", self.name(), path.display());
        self.say_once(name, Level::Warn, text);
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
            self.write_view(None);
        }
    }

    /// Between jobs in a row: now and then.
    pub(super) fn refresh_view(&mut self) {
        let due = self
            .view
            .written
            .is_none_or(|at| at.elapsed() >= self.view.pause);
        if due {
            self.flush();
        }
    }

    pub(super) fn write_view(&mut self, running: Option<&Claim>) {
        let suspended = self.claims.first();
        let shown = running.or(suspended);
        let started = Instant::now();
        // Readers hold the directory's age against the view's; one that knows of names it has not
        // taken in claims to be of no age.
        let items = self.spool.items_signature().ok();
        let items = items.filter(|_| self.ear.is_quiet());
        let is_told = self.is_watched && !self.spool.is_remote();
        self.orders.set_seen(items.filter(|_| is_told));
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
