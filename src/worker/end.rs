//! What follows an attempt: it is written down, judged, and published, proved or put off. A decision that
//! cannot be written is kept, and nothing is started until it is.

use super::*;

/// A decision that was taken and must reach the disk: a claim, or the end of its job.
pub struct Decision {
    claim: Box<Claim>,
    end: Option<End>,
}

/// How a job ended, why, and the text of its result.
pub struct End {
    pub fault: Option<Fault>,
    result: Vec<u8>,
}

impl Worker<'_> {
    /// Takes an attempt's end in: what it cost, what it amounts to, what follows.
    pub fn conclude(&mut self, mut claim: Claim, finished: Finished) {
        let fault = finished.verdict.as_ref();
        let is_cut_off = fault.is_some_and(|fault| fault.kind == ErrorKind::Interrupted);
        if finished.ended.by == Ending::Interrupted && is_cut_off {
            let (id, why) = (&claim.job_id, "the monitor is stopping");
            self.info(format!("Job interrupted: {id}.md - {why}"));
            // The next start finds it as one that runs, and need not count what a person asked for.
            claim.stopped = true;
            return self.keep_claim(claim);
        }
        let (policy, began) = (Arc::clone(&self.policy), claim.started_at);
        let answered = |since| self.board().others_answered(self.name(), &claim, since);
        let others_answered = decide::fault_before(&claim).is_some_and(answered);
        record(&mut claim, &finished);
        self.board().usage(&policy, &finished.report.windows);
        if is_answer(fault, finished.report.answered) {
            self.answered(&claim);
        }
        let (verdict, now) = (&finished.verdict, Wall::now());
        let next = decide::after_attempt(verdict, &mut claim, &policy, others_answered, now);
        if let Some(fault) = fault.filter(|fault| fault.kind.course() == Course::Hold) {
            self.hold_agent(fault, Some(began));
        }
        self.follow(claim, next, finished);
    }

    /// Takes in that the service answers: what held its agent is over.
    pub fn answered(&mut self, claim: &Claim) {
        let lifted = self.board().answered(self.name(), claim);
        self.say_lifted(lifted, "its service answers");
    }

    /// Holds an agent that something keeps from working for anybody.
    pub fn hold_agent(&mut self, fault: &Fault, began: Option<Wall>) {
        let (of, used) = ((self.name(), &self.policy.agent), &self.used);
        let hold = |holds: &mut Holds, now| holds.fault(of, fault, began, used, now);
        let news = self.board().change(hold);
        self.announce(news);
    }

    /// Does what was decided after an attempt, an interruption or a check.
    pub fn follow(&mut self, mut claim: Claim, next: Next, mut finished: Finished) {
        claim.checking = next == Next::Check;
        if next != Next::Check {
            let brought = std::mem::take(&mut finished.report.carried);
            outcome::carry(&mut claim.carried, brought);
        }
        let end = match next {
            Next::Check => None,
            Next::Suspend(suspension) => {
                self.say_suspended(&claim.job_id, &suspension);
                claim.suspended = Some(suspension);
                None
            }
            Next::Publish => {
                let result = self.result(&claim, &finished);
                let fault = finished.verdict;
                self.count(&claim, fault.as_ref());
                Some(End { fault, result })
            }
        };
        let claim = Box::new(claim);
        self.write(Decision { claim, end });
    }

    /// Ends a job with this fault. Nothing of it has run that is not in its claim yet.
    pub fn fail(&mut self, claim: Claim, fault: Fault) {
        self.follow(claim, Next::Publish, Finished::without_run(fault));
    }

    /// The text of a job's result.
    fn result(&mut self, claim: &Claim, finished: &Finished) -> Vec<u8> {
        let (project, now) = (&self.post.project, Wall::now());
        let (root, git) = (self.spool.root().unwrap_or_default(), self.change(claim));
        let mut logs = outcome::log_paths(project, claim);
        // A start that failed has no output, and a power cut may have taken a log.
        logs.retain(|log| self.spool.has(log));
        let result = outcome::Outcome {
            project: (project, &root),
            claim,
            end: (finished.verdict.as_ref(), now),
            report: &finished.report,
            stderr: &finished.stderr,
            logs: &logs,
            git: git.as_ref(),
        };
        let mut text = serde_json::to_vec_pretty(&result).expect("a result can be told in JSON");
        text.push(b'\n');
        text
    }

    /// Counts how a job ended: that may hold its agent, if others before it ended alike, or its project.
    fn count(&mut self, claim: &Claim, fault: Option<&Fault>) {
        let of = (self.name(), &claim.job_id, &*claim.agent);
        let last = claim.attempts.last();
        let lasted = last.map_or(Duration::ZERO, Attempt::duration);
        let most = self.policy.breaker as usize;
        let count = |holds: &mut Holds, now| holds.finished(of, fault, lasted, most, now);
        let tripped = self.board().change(count);
        self.announce(tripped);
        let fault = fault.filter(|fault| fault.kind != ErrorKind::Cancelled);
        if let (Some(fault), OnFailure::Hold) = (fault, self.policy.on_failure) {
            let reason = format!("{} failed: {}: {}", claim.job_id, fault.kind, fault.error);
            self.hold_project(Kind::OnFailure, Some((reason, None)));
        }
    }

    /// What the job changed in its git work tree.
    fn change(&mut self, claim: &Claim) -> Option<Change> {
        let before = claim.git.as_ref()?;
        let name = format!("{}.patch", claim.job_id);
        let after = git::snapshot(&self.spool);
        let after = self.or_warn(after).flatten();
        let logs = self.spool.logs();
        let patch = logs.and_then(|logs| logs.create_file(&name));
        let change = |patch| git::change(&self.spool, before, after.as_ref(), &patch);
        let change = self.or_warn(patch.and_then(change));
        let mut change = change.unwrap_or_else(|| git::heads(before, after.as_ref()));
        let is_filled = |logs: &Dir| Ok(logs.look(&name)?.is_some_and(|stat| stat.st_size > 0));
        if self.spool.logs().and_then(is_filled).unwrap_or(false) {
            change.patch = Some(format!("{}/{name}", self.post.project.layout.logs()));
        } else {
            let removed = self.spool.logs().and_then(|logs| logs.remove(&name));
            self.or_warn(removed);
        }
        Some(change)
    }

    fn say_suspended(&mut self, id: &JobId, suspension: &Suspension) {
        let (now, Suspension { kind, error, .. }) = (Wall::now(), suspension);
        let how = match suspension.retry_at {
            Some(at) if at > now => format!("will be retried at {}", at.short(now)),
            Some(_) => "goes on".to_owned(),
            None => "waits".to_owned(),
        };
        self.warn(format!("Job {how}: {id}.md - {kind}: {error}"));
    }

    /// Ends a job that a person cancelled, while nothing of it runs. Where that cannot be written while
    /// another job's agent runs, it is decided anew later: the mark is still there.
    pub fn withdraw(&mut self, id: &JobId) {
        let known = self.jobs.claim(id).cloned();
        let has_run = |claim: &Claim| claim.checking || decide::says_running(claim);
        let has_run = known.as_ref().is_some_and(has_run);
        let mut claim = known.unwrap_or_else(|| self.new_claim(id));
        let fault = Fault::new(ErrorKind::Cancelled, "cancelled by hand");
        let mut finished = Finished::without_run(fault.clone());
        if has_run {
            let read = self.read_back(&claim);
            finished = self.or_warn(read).flatten().unwrap_or(finished);
            finished.verdict = Some(fault);
            // It went down with the monitor; that was a start all the same.
            if !claim.checking {
                record(&mut claim, &finished);
            }
        }
        self.follow(claim, Next::Publish, finished);
    }

    /// Writes down how far a job is.
    pub fn keep_claim(&mut self, claim: Claim) {
        let claim = Box::new(claim);
        self.write(Decision { claim, end: None });
    }

    /// Brings a decision to disk, or keeps it until that is possible. Only then what the attempt cost is
    /// added to the ledger: before, a second try would add it again.
    pub fn write(&mut self, decision: Decision) {
        self.view.fresh = false;
        let (had_lock, placed) = (self.lock.is_some(), self.take_place());
        // A project that was moved or unmounted, or in whose place there is another, is still open: what
        // was decided of its jobs goes with it.
        let is_open = had_lock && self.lock.is_some();
        let placed = if is_open { Ok(()) } else { placed };
        let Decision { claim, end } = &decision;
        let written = placed.and_then(|()| match end {
            Some(end) => self.spool.publish(&claim.job_id, &end.result),
            None => self.spool.write_claim(claim),
        });
        if let Err(error) = &written {
            let kept = "what was decided is kept and written as soon as that is possible; nothing is started until then";
            self.unwritten = Some(decision);
            self.hold_project(Kind::Trouble, Some((format!("{error}; {kept}"), None)));
            // The directories that are open may be those of a file system that went and came back. Where none
            // are there now, the next try tells.
            let _ = self.spool.reopen();
            return;
        }
        self.post.hold(Kind::Trouble, None);
        let Decision { claim, end } = decision;
        let id = claim.job_id.clone();
        let cost = |claim: &Claim| outcome::cost_of(claim).unwrap_or(0.0);
        let before = self.jobs.claim(&id).map_or(0.0, cost);
        let (name, spent) = (self.name(), cost(&claim) - before);
        let spend = |holds: &mut Holds, now| holds.ledger.add(name, spent, now);
        self.board().change(spend);
        match end {
            Some(end) => self.finish(&claim, &end),
            None => self.jobs.set(*claim),
        }
    }

    /// Tidies up when the result is there: what was only there for the job's sake goes.
    fn finish(&mut self, claim: &Claim, end: &End) {
        let (id, policy) = (&claim.job_id, self.post.policy());
        let mut swept = vec![self.finished.add([id]), self.spool.remove_claim(id)];
        // A mark that comes just now is announced, and found to be of a job that is done.
        swept.extend([Mark::Cancel, Mark::Hold].map(|mark| self.spool.unmark(id, mark)));
        if policy.archive {
            swept.push(self.spool.archive(id));
        }
        for result in swept {
            self.or_warn(result);
        }
        self.say_finished(claim, end);
        self.jobs.remove(id);
        if let Some(argv) = &policy.on_finish {
            let told = self.told_of(claim, Some(end));
            self.run_hook(&format!("on_finish for {id}.md"), argv, told);
        }
    }

    fn say_finished(&mut self, claim: &Claim, end: &End) {
        let (id, left) = (&claim.job_id, claim.carried.leftovers);
        match &end.fault {
            None => {
                let duration = outcome::lasted(claim);
                let told = format!("status=completed, duration={duration:.1}s");
                self.info(format!("Job completed: {id}.md - {told}"));
            }
            Some(fault) if fault.kind == ErrorKind::Cancelled => {
                self.info(format!("Job cancelled: {id}.md"));
            }
            // A failure stands out where lines are picked by priority, such as in the journal.
            Some(Fault { kind, error, .. }) => {
                self.warn(format!("Job failed: {id}.md - {kind}: {error}"));
            }
        }
        if left > 0 {
            let what = "left processes behind; they were ended";
            self.warn(format!("{id}.md {what} ({left})"));
        }
    }
}

/// Writes an attempt down in its claim. Some agents begin a session only with the first answer: one that was
/// to begin with an attempt that got none does not exist, and the next start is a fresh one.
pub fn record(claim: &mut Claim, finished: &Finished) {
    let needs_answer = dialect(claim.protocol).sessions == Sessions::Proved;
    let exists = claim.resumed || finished.report.answered || !needs_answer;
    let told = finished.report.session_id.clone();
    claim.session_id = told.or(claim.session_id.take()).filter(|_| exists);
    let fault = finished.verdict.as_ref();
    claim.attempts.push(Attempt {
        started_at: claim.started_at,
        duration_seconds: outcome::millis(finished.duration.as_secs_f64()),
        exit_code: finished.ended.code,
        signal: finished.ended.signal,
        error_kind: fault.map(|fault| fault.kind),
        error: fault.map(|fault| fault.error.clone()),
        session_id: claim.session_id.clone(),
        cost_usd: finished.report.cost_usd.map(outcome::cents),
    });
    claim.carried.leftovers += finished.leftovers;
}
