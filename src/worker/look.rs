//! Looking: from rings of the bell and scans to what the worker knows of documents and marks.

use super::Worker;
use crate::decide::{Arrival, State};
use crate::error::Result;
use crate::job::JobId;
use crate::spool::{Leftovers, Look, Mark, Spool};
use crate::watch::Wake;
use log::Level;
use std::sync::PoisonError;
use std::time::Instant;

/// So many new documents, or entries that are none, of one scan are named in the log; of more, only the
/// number is told.
const NAMED_MAX: usize = 20;

impl Worker<'_> {
    fn watch(&mut self) {
        // A file system that does not answer would stop the one thread that hears for everybody.
        if self.is_watched && self.spool.is_remote() {
            return;
        }
        let path = self.spool.items_path();
        let watcher = self.context.watcher.lock();
        let mut watcher = watcher.unwrap_or_else(PoisonError::into_inner);
        let watched = watcher.watch(&path, self.bell, Spool::is_of_interest);
        drop(watcher);
        self.is_watched = watched.is_ok();
        match watched {
            Ok(()) => {
                let text = format!("Observer started for '{}': {}", self.name(), path.display());
                self.say_once("observer", Level::Info, text);
            }
            Err(error) => {
                let text = format!(
                    "{} cannot be watched: {}; it is looked at once a minute instead",
                    path.display(),
                    crate::watch::reason(&error)
                );
                self.say_once("watch", Level::Warn, text);
            }
        }
    }

    /// Takes in what has been rung; with `wait`, waits for a ring until then. Where that fails, the names
    /// are gone from the bell, so the next look is at everything.
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
        let ear = self.ear;
        for wake in first.into_iter().chain(ear.pending()) {
            // Whatever closed the project may have been lifted since it was asked.
            self.closed = None;
            match wake {
                Wake::Everything => everything = true,
                Wake::Again => {}
                Wake::Look { name, .. } if Spool::is_poke(&name) => poked = true,
                // It is no text, and cannot be looked up by what was made of it.
                Wake::Look { name, .. } if name.contains(char::REPLACEMENT_CHARACTER) => {
                    everything = true;
                }
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

    /// Watches first and looks afterwards: what comes in between is seen twice, never missed. Where the
    /// watch is in place, watching again is harmless; it heals a directory that was replaced.
    pub(super) fn look_at_everything(&mut self, leftovers: Leftovers) -> Result<()> {
        self.watch();
        let scan = self.spool.scan(leftovers)?;
        let mut odd = scan.odd;
        let (new, gone) = self.jobs.replace(scan.waiting);
        for id in &gone {
            self.say_gone(id)?;
        }
        let mut queued = Vec::new();
        for id in new {
            match self.objection(&id)? {
                Some(what) => {
                    self.jobs.remove(&id);
                    odd.push((id.file_name(), what));
                }
                None => queued.push(id),
            }
        }
        let before = std::mem::take(&mut self.odd);
        odd.retain(|(name, what)| {
            self.odd.insert(name.clone(), what.clone());
            !before.contains_key(name)
        });
        for (name, what) in odd.iter().take(NAMED_MAX) {
            self.say_odd(name, what);
        }
        self.say_more("More entries are left alone", odd.len());
        for id in queued.iter().take(NAMED_MAX) {
            self.say_queued(id);
        }
        self.say_more("More jobs queued", queued.len());
        self.view.stale = true;
        self.look_at_marks()
    }

    fn say_more(&mut self, what: &str, all: usize) {
        if let more @ 1.. = all.saturating_sub(NAMED_MAX) {
            let size = self.jobs.len();
            let text = format!("[{}] {what}: {more} (queue size: {size})", self.name());
            self.say(Level::Info, text);
        }
    }

    /// Looks at one name, as an event brings it.
    pub(super) fn look_at(&mut self, name: &str, whole: bool) -> Result<()> {
        let id = match self.spool.look_at(name)? {
            Look::Waiting(id) => id,
            Look::Odd(what) => {
                self.tell_of_oddity(name, &what);
                return Ok(());
            }
            Look::Nothing => {
                if let Some(id) = JobId::parse(name)
                    && matches!(self.jobs.get(&id), Some(State::Waiting(_)))
                {
                    self.jobs.remove(&id);
                    self.view.stale = true;
                    self.say_gone(&id)?;
                }
                return Ok(());
            }
        };
        let known = self.jobs.get(&id).is_some();
        if let Some(what) = if known { None } else { self.objection(&id)? } {
            self.tell_of_oddity(name, &what);
            return Ok(());
        }
        let arrival = match whole {
            true => Arrival::Whole,
            false => Arrival::Unknown,
        };
        self.odd.remove(name);
        self.view.stale = true;
        if self.jobs.note(id.clone(), arrival) {
            self.say_queued(&id);
        }
        Ok(())
    }

    /// Why a document that looks like a new job is none.
    fn objection(&mut self, id: &JobId) -> Result<Option<String>> {
        if self.finished.has(id)? {
            return Ok(Some(format!(
                "it was finished once, and its result is gone; job-monitor retry {id} runs it again"
            )));
        }
        Ok(None)
    }

    /// A document that waited is gone.
    fn say_gone(&mut self, id: &JobId) -> Result<()> {
        match self.spool.has_result(id)? {
            true => self.say_foreign(id),
            false => {
                let text = format!("[{}] Job withdrawn: {id}.md", self.name());
                self.say(Level::Info, text);
            }
        }
        Ok(())
    }

    /// Takes the marks in. Those of jobs that are done, or were never there, are swept.
    pub(super) fn look_at_marks(&mut self) -> Result<()> {
        let marks = self.spool.marks(Leftovers::Leave)?;
        (self.jobs.cancelled, self.jobs.held) = (marks.cancelled, marks.held);
        self.view.stale = true;
        let idle = |id: &&JobId| matches!(self.jobs.get(id), None | Some(State::Done(_)));
        let idle: Vec<JobId> = self.jobs.cancelled.iter().filter(idle).cloned().collect();
        for id in idle {
            // It may have come before the event of its document.
            self.look_at(&id.file_name(), false)?;
            if matches!(self.jobs.get(&id), None | Some(State::Done(_))) {
                self.spool.unmark(&id, Mark::Cancel)?;
                self.jobs.cancelled.remove(&id);
            }
        }
        let idle = |id: &&JobId| self.jobs.get(id).is_none();
        let idle: Vec<JobId> = self.jobs.held.iter().filter(idle).cloned().collect();
        for id in idle {
            if self.spool.has_result(&id)? {
                self.spool.unmark(&id, Mark::Hold)?;
                self.jobs.held.remove(&id);
            }
        }
        for id in marks.released {
            self.spool.unmark(&id, Mark::Release)?;
            let policy = self.orders.policy();
            let claim = self.jobs.claim(&id);
            let agent = claim.map_or(policy.agent.name.clone(), |claim| claim.agent.clone());
            let of = Some((self.name(), agent.as_str()));
            let lifted = self.context.board.change(|holds, _| holds.release(of));
            self.say_lifted(lifted, "released by hand");
        }
        Ok(())
    }
}
