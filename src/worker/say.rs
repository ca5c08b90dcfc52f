//! What a worker says: lines of the log, written when nothing is more urgent, and the view of the queue
//! that the commands show.

use super::*;

/// Between jobs in a row the view is written at most so often.
const VIEW_PAUSE: Duration = Duration::from_millis(250);

/// When the view was last written, and whether it is still true.
#[derive(Default)]
pub struct View {
    pub fresh: bool,
    /// The project's directories as they were when all of them was looked at, if nothing but the view was
    /// written there since.
    pub looks: Option<Looks>,
    written: Option<Instant>,
    hold: Option<HoldView>,
}

impl Worker<'_> {
    /// Says that a hold has begun, and runs the person's command for that.
    pub fn announce(&mut self, hold: Option<Hold>) {
        let Some(hold) = hold else { return };
        let now = Wall::now();
        let until = |at: Wall| format!("; until {}", at.short(now));
        let until = hold.until.map_or(String::new(), until);
        self.warn(format!("{}{until}", hold.sentence()));
        let policy = self.post.policy();
        let is_quiet = matches!(hold.kind, Kind::Hours | Kind::Gate);
        if let Some(command) = policy.on_hold.as_ref().filter(|_| !is_quiet) {
            let until = hold.until.map_or(String::new(), |at| at.to_string());
            let told = vec![
                ("JOB_MONITOR_AGENT", hold.agent.unwrap_or_default()),
                ("JOB_MONITOR_HOLD", hold.kind.word()),
                ("JOB_MONITOR_REASON", hold.reason),
                ("JOB_MONITOR_UNTIL", until),
            ];
            self.run_hook("on_hold", command, told);
        }
    }

    /// Holds this project for a reason of this kind, or no longer if there is none.
    pub fn hold_project(&mut self, kind: Kind, wanted: Wanted) {
        let news = self.post.hold(kind, wanted);
        self.announce(news);
    }

    pub fn say_lifted(&mut self, lifted: Vec<Hold>, why: &str) {
        for hold in lifted {
            self.info(hold.farewell(why));
        }
    }

    pub fn name(&self) -> &str {
        &self.post.project.name
    }

    /// Keeps a line until nothing more urgent is to be done.
    pub fn say(&mut self, level: Level, text: impl Display) {
        let line = format!("[{}] {text}", self.name());
        self.lines.push((level, line));
    }

    pub fn info(&mut self, text: impl Display) {
        self.say(Level::Info, text);
    }

    pub fn warn(&mut self, text: impl Display) {
        self.say(Level::Warn, text);
    }

    /// Says what lasts, once; whoever ends it takes the key out of `told`.
    pub fn say_once(&mut self, key: &'static str, level: Level, text: impl Display) {
        if self.told.insert(key) {
            self.say(level, text);
        }
    }

    /// Says what is the matter, where that changes nothing for the job.
    pub fn or_warn<T>(&mut self, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.warn(error)).ok()
    }

    /// As [`Worker::or_warn`], but says it once as long as it lasts; returns whether all is well.
    pub fn is_well(&mut self, key: &'static str, result: &Result<()>) -> bool {
        match result {
            Ok(()) => drop(self.told.remove(key)),
            Err(error) => self.say_once(key, Level::Warn, error),
        }
        result.is_ok()
    }

    pub fn say_queued(&mut self, id: &JobId) {
        let size = self.jobs.waiting.len();
        self.info(format!("Job queued: {id}.md (queue size: {size})"));
    }

    /// Says that a job has a result which is not ours. A result ends its job whoever wrote it: it may have been
    /// restored, and then the job was done once; and who else can write there could have removed the document.
    pub fn say_foreign(&mut self, id: &JobId) {
        self.view.fresh = false;
        let what = "has a result that this monitor did not write, so it is not run";
        self.warn(format!("{id}.md {what}; job-monitor retry {id} runs it"));
    }

    /// Says once what is wrong with an entry of the spool.
    pub fn tell_of_oddity(&mut self, name: &str, what: &str) {
        let known = self.odd.insert(name.to_owned(), what.to_owned());
        if known.is_none() {
            self.view.fresh = false;
            // What nobody meant for a job is only shown by the queue.
            if job::Name::of(name, self.post.project.layout) != job::Name::Other {
                let path = self.spool.items_path().join(name);
                self.warn(format!("{} is left alone: {what}", path.display()));
            }
        }
    }

    pub fn write_lines(&mut self) {
        if !self.lines.is_empty() {
            self.spool.log(&std::mem::take(&mut self.lines));
        }
    }

    /// Writes the lines that wait, and the view where it is no longer true. Done before each sleep.
    pub fn flush(&mut self) {
        self.write_lines();
        let (agent, begun) = (&*self.policy.agent.name, !self.jobs.begun.is_empty());
        let hold = |_| self.board().hold_of((self.name(), agent), begun);
        let hold = self.closed.and_then(hold);
        if !self.view.fresh || hold != self.view.hold {
            self.write_view(hold);
        }
    }

    /// The same between jobs in a row, where it is done now and then only.
    pub fn refresh_view(&mut self) {
        let written = self.view.written;
        if written.is_none_or(|at| at.elapsed() >= VIEW_PAUSE) {
            self.flush();
        }
    }

    fn write_view(&mut self, hold: Option<HoldView>) {
        let attended = self.jobs.attended.as_ref();
        let begun = &self.jobs.begun;
        let running = attended.and_then(|id| begun.get(id));
        let shown = running.or(begun.values().next());
        let begun = begun.keys().filter(|id| attended != Some(*id));
        let waiting = begun.chain(self.jobs.waiting.keys());
        let waiting: Vec<String> = waiting.map(JobId::file_name).collect();
        let looks = self.spool.looks().ok().filter(|_| self.post.ear.is_empty());
        let is_known = looks.is_some() && looks == self.view.looks;
        let odd = self.odd.iter();
        let view = QueueView {
            project: self.name().to_owned(),
            queue_size: waiting.len(),
            current_task: running.map(|claim| claim.job_id.file_name()),
            is_processing: running.is_some(),
            queued_tasks: waiting,
            task_start_time: running.map(|claim| claim.started_at),
            attempt: shown.map(|claim| claim.starts),
            retry_at: shown.and_then(|claim| claim.suspended.as_ref()?.retry_at),
            hold: hold.clone(),
            left_alone: odd.map(|(name, what)| format!("{name} ({what})")).collect(),
            updated_at: Some(Wall::now()),
            // Readers hold the directory's age against it: a view that misses what was rung has none.
            items_mtime: looks.and_then(|[items, ..]| Some(items?.mtime_ns.to_string())),
        };
        self.board()
            .tell(self.name(), view.is_processing, view.queue_size);
        // A view that cannot be written is only out of date, and is written soon.
        let written = self.spool.write_view(&view);
        self.view.fresh = self.is_well("view", &written);
        // The view lies in one of them.
        self.view.looks = self.spool.looks().ok().filter(|_| is_known);
        self.post.desk().seen = self.view.looks.filter(|_| self.is_told);
        self.view.written = Some(Instant::now());
        self.view.hold = hold;
    }
}
