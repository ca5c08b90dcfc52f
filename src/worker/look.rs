//! Looking: from rings of the bell and scans to what the worker knows of documents and marks.

use super::*;

impl Worker<'_> {
    /// Has the watcher tell of changes in the documents' directory.
    fn watch(&mut self) -> Result<()> {
        let Project { name, path, .. } = &self.post.project;
        if self.told.insert("configured") {
            let line = format!("Project '{name}' configured: {}", path.display());
            self.lines.push((Level::Info, line));
        }
        // A file system that does not answer would stop the one thread that hears for everybody.
        let is_far = self.spool.items()?.is_remote();
        self.is_told = !is_far;
        if is_far && self.told.contains("observer") {
            return Ok(());
        }
        let (items, post) = (self.spool.items_path(), self.post);
        let interest = Spool::is_of_interest;
        let watched = post.context.watcher.watch(&items, &post.bell, interest);
        self.is_told &= watched.is_ok();
        let path = items.display();
        if let Err(why) = watched {
            let instead = "it is looked at once a minute instead";
            let text = format!("{path} cannot be watched: {why}; {instead}");
            self.say_once("watch", Level::Warn, text);
        } else if self.told.insert("observer") {
            let line = format!("Observer started for '{name}': {path}");
            self.lines.push((Level::Info, line));
        }
        Ok(())
    }

    /// Takes in what has been rung, `first` before all. Where that fails, the names are gone from the bell,
    /// so the next look is at everything.
    pub fn hear(&mut self, first: Option<Wake>) -> Result<()> {
        let mut looks = Vec::new();
        for wake in first.into_iter().chain(self.post.ear.try_iter()) {
            // Whatever closed the project may have been lifted since it was asked.
            self.closed = None;
            match wake {
                Wake::Again => {}
                // A name that is no text cannot be looked up by what was made of it.
                Wake::Look { name, whole } if !name.contains(char::REPLACEMENT_CHARACTER) => {
                    looks.push((name, whole));
                }
                Wake::Look { .. } | Wake::Everything => self.missed = true,
            }
        }
        // A poke makes and removes its file.
        looks.dedup();
        let mut looks = looks.iter();
        let heard = match std::mem::take(&mut self.missed) {
            true => self.look_at_everything(),
            false => looks.try_for_each(|(name, whole)| self.look_at(name, *whole)),
        };
        self.missed |= heard.is_err();
        // A decision that is not on disk yet outlasts trouble with the directories.
        match self.unwritten {
            Some(_) => Ok(()),
            None => heard,
        }
    }

    /// Watches first and looks afterwards: what comes in between is seen twice, never missed. Where the
    /// watch is in place, watching again is harmless; it heals a directory that was replaced.
    pub fn look_at_everything(&mut self) -> Result<()> {
        if self.lock.is_some() && self.jobs.begun.is_empty() {
            self.take_place()?;
        }
        let is_served = self.post.order() == Order::Serve;
        if is_served {
            self.watch()?;
        }
        // The log must be there by now: where it is made later, that looks like a change.
        self.write_lines();
        self.view.looks = self.spool.looks().ok();
        let scan = self.spool.scan()?;
        let mut left = scan.left.iter();
        let tidied = left.try_for_each(|name| self.spool.items()?.remove(name));
        self.or_warn(tidied);
        let mut odd = scan.odd;
        let (new, gone) = self.jobs.replace(scan.waiting);
        gone.iter().try_for_each(|id| self.say_gone(id))?;
        for id in new {
            if let Some(what) = self.finished.objection(&id)? {
                self.jobs.remove(&id);
                odd.insert(id.file_name(), what);
            } else if is_served {
                self.say_queued(&id);
            }
        }
        // Of one that waits and is not whole, the look itself says nothing.
        let waits = |name: &str| JobId::parse(name).is_some_and(|id| self.jobs.has(&id));
        self.odd
            .retain(|name, _| odd.contains_key(name) || waits(name));
        odd.iter()
            .for_each(|(name, what)| self.tell_of_oddity(name, what));
        self.view.fresh = false;
        self.look_at_marks()
    }

    /// Looks at one name, as an event brings it.
    pub fn look_at(&mut self, name: &str, whole: bool) -> Result<()> {
        if name == POKE {
            return self.look_at_marks();
        }
        let mut look = self.spool.look_at(name)?;
        if let Look::Waiting(id) = &look
            && !self.jobs.has(id)
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
                let is_waiting = |id: &JobId| self.jobs.waiting.contains_key(id);
                if let Some(id) = id.filter(is_waiting) {
                    self.jobs.remove(&id);
                    self.view.fresh = false;
                    self.say_gone(&id)?;
                }
            }
        }
        Ok(())
    }

    /// Says that a document that waited is gone.
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
            if !self.jobs.has(&id) {
                // It may have come before the event of its document.
                self.look_at(&id.file_name(), false)?;
            }
            if !self.jobs.has(&id) {
                self.spool.unmark(&id, Mark::Cancel)?;
                self.jobs.cancelled.remove(&id);
            }
        }
        for id in marks.held {
            if !self.jobs.has(&id) && self.spool.has_result(&id)? {
                self.spool.unmark(&id, Mark::Hold)?;
            }
        }
        for id in marks.released {
            self.spool.unmark(&id, Mark::Release)?;
            let claimed = self.jobs.claim(&id).map(|claim| claim.agent.clone());
            let wishes = self.spool.wishes(&id).unwrap_or_default();
            let kept = wishes
                .continues
                .and_then(|before| self.result_of(&before).ok());
            let keeper = kept.and_then(|result| Some(result["agent"].as_str()?.to_owned()));
            let agent = claimed.or(wishes.agent).or(keeper);
            let agent = agent.unwrap_or_else(|| self.post.policy().agent.name.clone());
            let of = Some((self.name(), agent.as_str()));
            let lifted = self.board().change(|holds, _| holds.release(of));
            self.say_lifted(lifted, "released by hand");
        }
        Ok(())
    }
}
