//! Looking: from rings of the bell and scans to what the worker knows of documents and marks.

use super::*;

/// So many new documents, or entries that are none, of one scan are named in the log; of more, only the
/// number is told.
const NAMED_MAX: usize = 20;

impl Worker<'_> {
    fn watch(&mut self) {
        // A file system that does not answer would stop the one thread that hears for everybody.
        if self.is_watched && self.spool.is_remote() {
            return;
        }
        let (path, post) = (self.spool.items_path(), self.post);
        let watcher = &post.context.watcher;
        let watched = watcher.watch(&path, &post.bell, Spool::is_of_interest);
        self.is_watched = watched.is_ok();
        let path = path.display();
        match watched {
            Ok(()) if self.told.insert("observer") => {
                let line = format!("Observer started for '{}': {path}", self.name());
                self.lines.push((Level::Info, line));
            }
            Ok(()) => {}
            Err(error) => {
                let why = crate::watch::reason(&error);
                let text = format!(
                    "{path} cannot be watched: {why}; it is looked at once a minute instead"
                );
                self.say_once("watch", Level::Warn, text);
            }
        }
    }

    /// Takes in what has been rung, `first` before all. Where that fails, the names are gone from the bell,
    /// so the next look is at everything.
    pub fn hear(&mut self, first: Option<Wake>) -> Result<()> {
        let heard = self.take_in(first);
        self.missed |= heard.is_err();
        // A decision that is not on disk yet outlasts trouble with the directories.
        if self.unwritten.is_some() {
            return Ok(());
        }
        heard
    }

    fn take_in(&mut self, first: Option<Wake>) -> Result<()> {
        let mut everything = std::mem::take(&mut self.missed);
        let mut poked = false;
        let mut looks = Vec::new();
        let ear = &self.post.ear;
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
            return self.look_at_everything();
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
    pub fn look_at_everything(&mut self) -> Result<()> {
        self.watch();
        let scan = self.spool.scan()?;
        let mut odd = scan.odd;
        let (new, gone) = self.jobs.replace(scan.waiting);
        for id in &gone {
            self.say_gone(id)?;
        }
        let mut queued = Vec::new();
        for id in new {
            match self.finished.objection(&id)? {
                Some(what) => {
                    self.jobs.remove(&id);
                    odd.push((id.file_name(), what));
                }
                None => queued.push(id),
            }
        }
        let before = std::mem::replace(&mut self.odd, odd.iter().cloned().collect());
        odd.retain(|(name, _)| !before.contains_key(name));
        self.say_some(
            "More entries are left alone",
            &odd,
            |worker, (name, what)| {
                worker.say_odd(name, what);
            },
        );
        self.say_some("More jobs queued", &queued, Worker::say_queued);
        self.view.fresh = false;
        self.look_at_marks()
    }

    fn say_some<T>(&mut self, more: &str, all: &[T], say: fn(&mut Self, &T)) {
        all.iter().take(NAMED_MAX).for_each(|one| say(self, one));
        if let rest @ 1.. = all.len().saturating_sub(NAMED_MAX) {
            let size = self.jobs.len();
            self.info(format!("{more}: {rest} (queue size: {size})"));
        }
    }

    /// Looks at one name, as an event brings it.
    pub fn look_at(&mut self, name: &str, whole: bool) -> Result<()> {
        let mut look = self.spool.look_at(name)?;
        if let Look::Waiting(id) = &look
            && self.jobs.get(id).is_none()
            && let Some(what) = self.finished.objection(id)?
        {
            look = Look::Odd(what);
        }
        match look {
            Look::Odd(what) => self.tell_of_oddity(name, &what),
            Look::Waiting(id) => {
                self.odd.remove(name);
                self.view.fresh = false;
                if self.jobs.note(id.clone(), whole) {
                    self.say_queued(&id);
                }
            }
            Look::Nothing => {
                self.view.fresh &= self.odd.remove(name).is_none();
                let id = JobId::parse(name);
                let is_waiting = |id: &JobId| matches!(self.jobs.get(id), Some(State::Waiting(_)));
                if let Some(id) = id.filter(is_waiting) {
                    self.jobs.remove(&id);
                    self.view.fresh = false;
                    self.say_gone(&id)?;
                }
            }
        }
        Ok(())
    }

    /// A document that waited is gone.
    fn say_gone(&mut self, id: &JobId) -> Result<()> {
        match self.spool.has_result(id)? {
            true => self.say_foreign(id),
            false => self.info(format!("Job withdrawn: {id}.md")),
        }
        Ok(())
    }

    /// Takes the marks in. Those of jobs that are done, or were never there, are swept.
    pub fn look_at_marks(&mut self) -> Result<()> {
        let marks = self.spool.marks()?;
        (self.jobs.cancelled, self.jobs.held) = (marks.cancelled.clone(), marks.held.clone());
        self.view.fresh = false;
        for id in marks.cancelled {
            if self.jobs.is_over(&id) {
                // It may have come before the event of its document.
                self.look_at(&id.file_name(), false)?;
            }
            if self.jobs.is_over(&id) {
                self.spool.unmark(&id, Mark::Cancel)?;
                self.jobs.cancelled.remove(&id);
            }
        }
        for id in marks.held {
            if self.jobs.get(&id).is_none() && self.spool.has_result(&id)? {
                self.spool.unmark(&id, Mark::Hold)?;
                self.jobs.held.remove(&id);
            }
        }
        for id in marks.released {
            self.spool.unmark(&id, Mark::Release)?;
            let policy = self.post.orders.policy();
            let claim = self.jobs.claim(&id);
            let agent = claim.map_or(&policy.agent.name, |claim| &claim.agent);
            let of = Some((self.name(), agent.as_str()));
            let lifted = self.board().change(|holds, _| holds.release(of));
            self.say_lifted(lifted, "released by hand");
        }
        Ok(())
    }
}
