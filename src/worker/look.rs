//! Looking: from rings of the bell and scans to what the worker knows of documents and marks.

use super::{Unwritten, Worker};
use crate::error::Result;
use crate::job::JobId;
use crate::queue::Arrival;
use crate::spool::{Leftovers, Look, Mark, Spool};
use crate::watch::Wake;
use log::Level;
use std::sync::PoisonError;
use std::time::Instant;

/// So many new documents of one scan are named in the log; of more, only the number is told.
const NAMED_MAX: usize = 20;

impl Worker<'_> {
    pub(super) fn watch(&mut self) {
        // A file system that does not answer would stop the one thread that hears for everybody.
        if self.spool.is_remote() && self.told.contains("observer") {
            return;
        }
        let path = self.spool.items_path();
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

    /// Takes in what has been rung; with `wait`, waits for a ring until then. Where that fails, the
    /// names are gone from the bell, so the next look is at everything.
    pub(super) fn hear(&mut self, wait: Option<Option<Instant>>) -> Result<()> {
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
    pub(super) fn look_at_everything(&mut self, leftovers: Leftovers) -> Result<()> {
        self.watch();
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

    pub(super) fn look_at(&mut self, name: &str, whole: bool) -> Result<()> {
        let known = self.spool.look_at(name)?;
        match known {
            Look::Waiting(id) if self.is_begun(&id) => {}
            Look::Waiting(id) => {
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
            Look::Odd(what) => self.tell_of_oddity(name, &what),
            Look::Nothing => {
                if let Some(id) = JobId::parse(name)
                    && self.waiting.remove(&id)
                {
                    self.view.stale = true;
                    if !self.spool.has_result(&id)? {
                        let text = format!("[{}] Job withdrawn: {name}", self.name());
                        self.say(Level::Info, text);
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether a job is running or suspended: its document matters no more.
    pub(super) fn is_begun(&self, id: &JobId) -> bool {
        let is_it = |unwritten: &Unwritten| unwritten.job() == id;
        self.running.as_ref() == Some(id)
            || self.unwritten.iter().any(is_it)
            || self.claims.iter().any(|claim| claim.job_id == *id)
    }

    pub(super) fn look_at_marks(&mut self) -> Result<()> {
        self.marks = self.spool.marks(Leftovers::Leave)?;
        self.sweep_marks()?;
        self.waiting.set_held(self.marks.held.clone());
        self.view.stale = true;
        for id in std::mem::take(&mut self.marks.released) {
            self.spool.unmark(&id, Mark::Release)?;
            let agent = &self.orders.policy().agent.name;
            let lifted = self.context.board.release(Some((self.name(), agent)));
            self.say_lifted(lifted, "released by hand");
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
}
