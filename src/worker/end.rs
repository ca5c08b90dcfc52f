//! What follows an attempt: it is written down, judged, and published, proved or put off. A decision that
//! cannot be written is kept, and nothing is started until it is.

use super::*;

impl Worker<'_> {
    /// Takes an attempt's end in: what it cost, what it amounts to, what follows.
    pub fn conclude(&mut self, mut claim: Claim, finished: Finished, policy: &Policy) {
        let fault = finished.verdict.as_ref();
        let is_cut_off = fault.is_some_and(|fault| fault.kind == ErrorKind::Interrupted);
        if finished.ended.by == Ending::Interrupted && is_cut_off {
            let (id, why) = (&claim.job_id, "the monitor is stopping");
            self.info(format!("Job interrupted: {id}.md - {why}"));
            // The next start finds it as one that runs, and need not count what a person asked for.
            claim.stopped = true;
            self.write(Decision::Claim(Box::new(claim)));
            return;
        }
        self.is_in_order = true;
        let began = claim.started_at;
        let (agent, id) = (&claim.agent, &claim.job_id);
        let answered = |since| self.board().others_answered(self.name(), agent, id, since);
        let others_answered = decide::fault_before(&claim).is_some_and(answered);
        record(&mut claim, &finished);
        self.board().usage(policy, &finished.report.windows);
        if is_answer(fault, finished.report.answered) {
            self.answered(&claim);
        }
        let now = Wall::now();
        let verdict = &finished.verdict;
        let next = decide::after_attempt(verdict, &mut claim, policy, others_answered, now);
        if let Some(fault) = fault.filter(|fault| fault.kind.course() == Course::Hold) {
            self.hold_agent(fault, policy, Some(began));
        }
        self.follow(claim, next, finished, policy);
    }

    /// The service answers: what held its agent is over.
    pub fn answered(&mut self, claim: &Claim) {
        let (id, began) = (&claim.job_id, claim.started_at);
        let lifted = self.board().answered(self.name(), &claim.agent, id, began);
        self.say_lifted(lifted, "its service answers");
    }

    /// Something keeps the agent from working for anybody.
    pub fn hold_agent(&mut self, fault: &Fault, policy: &Policy, began: Option<Wall>) {
        let stamps = self.used.clone();
        self.hold(|holds, project, now| {
            let failure = Failure {
                project,
                agent: &policy.agent,
                began,
                stamps: &stamps,
            };
            holds.fault(&failure, fault, now)
        });
    }

    /// Does what was decided after an attempt, an interruption or a check.
    pub fn follow(
        &mut self,
        mut claim: Claim,
        next: Next,
        mut finished: Finished,
        policy: &Policy,
    ) {
        claim.checking = next == Next::Check;
        let decision = match next {
            Next::Publish(status) => {
                outcome::carry(&mut claim.carried, &mut finished.report);
                let (project, report, now) = (&self.post.project, finished.report, Wall::now());
                let root = self.spool.root().unwrap_or_default();
                let fault = finished.verdict.as_ref();
                let mut outcome =
                    outcome::of_claim(project, &claim, status, fault, report, &root, now);
                // A start that failed has no output, and a power cut may have taken a log.
                outcome.logs.retain(|log| self.spool.has(log));
                outcome.stderr = Some(finished.stderr).filter(|text| !text.is_empty());
                outcome.git = self.change(&claim);
                self.count(&claim, fault, policy);
                Decision::Result(Box::new(outcome))
            }
            Next::Check => Decision::Claim(Box::new(claim)),
            Next::Suspend(suspension) => {
                let mut report = finished.report;
                outcome::carry(&mut claim.carried, &mut report);
                self.say_suspended(&claim.job_id, &suspension);
                claim.suspended = Some(suspension);
                Decision::Claim(Box::new(claim))
            }
        };
        self.write(decision);
    }

    /// A job's end may hold its agent, when others ended like it, or its project.
    fn count(&mut self, claim: &Claim, fault: Option<&Fault>, policy: &Policy) {
        let (id, agent, breaker) = (&claim.job_id, &*claim.agent, policy.breaker as usize);
        let lasted = claim
            .attempts
            .last()
            .map_or(Duration::ZERO, Attempt::duration);
        self.hold(|holds, project, now| {
            holds.finished((project, id, agent), fault, lasted, breaker, now)
        });
        let fault = fault.filter(|fault| fault.kind != ErrorKind::Cancelled);
        if let (Some(fault), OnFailure::Hold) = (fault, policy.on_failure) {
            let reason = format!("{id} failed: {}: {}", fault.kind, fault.error);
            self.hold_project(Kind::OnFailure, Some((reason, None)));
        }
    }

    /// What the job changed in its git work tree.
    fn change(&mut self, claim: &Claim) -> Option<Change> {
        let before = claim.git.as_ref()?;
        let name = format!("{}.patch", claim.job_id);
        let after = git::snapshot(&self.spool);
        let after = self.or_warn(after).flatten();
        let told = self.spool.create_log(&name).and_then(|patch| {
            let mut change = git::change(&self.spool, before, after.as_ref(), &patch)?;
            let has_patch = patch.metadata().is_ok_and(|meta| meta.len() > 0);
            let path = format!("{}/{name}", self.spool.layout().logs());
            change.patch = has_patch.then_some(path);
            Ok(change)
        });
        let change = self.or_warn(told);
        let change = change.unwrap_or_else(|| git::heads(before, after.as_ref()));
        if change.patch.is_none() {
            let removed = self.spool.remove_log(&name);
            self.or_warn(removed);
        }
        Some(change)
    }

    fn say_suspended(&mut self, id: &JobId, suspension: &Suspension) {
        let Suspension { kind, error, .. } = suspension;
        let now = Wall::now();
        self.warn(match suspension.retry_at {
            Some(at) if at > now => {
                let at = at.short(now);
                format!("Job will be retried: {id}.md at {at} - {kind}: {error}")
            }
            Some(_) if suspension.afresh => format!("Job starts afresh: {id}.md - {error}"),
            Some(_) => format!("Job goes on: {id}.md - {error}"),
            None => format!("Job waits: {id}.md - {kind}: {error}"),
        });
    }

    /// Ends a job that a person cancelled, while nothing of it runs. Where that cannot be written while
    /// another job's agent runs, it is decided anew later: the mark is still there.
    pub fn withdraw(&mut self, id: &JobId) {
        let policy = self.post.orders.policy();
        let mut claim = self.jobs.claim(id).cloned().unwrap_or_else(|| {
            let meta = self.spool.document_meta(id).ok().flatten();
            let created_at = meta.map_or(Wall::now(), |meta| meta.mtime());
            let position = self.jobs.accepted_at(id);
            let digest = String::new();
            Claim::new(id.clone(), created_at, position, digest, &policy.agent)
        });
        let fault = Some(Fault::new(ErrorKind::Cancelled, "cancelled by hand"));
        let mut finished = Finished::never_ran(fault.clone());
        if let Some(State::Interrupted(_)) = self.jobs.get(id) {
            // It went down with the monitor; that was a start all the same.
            let read = self.read_back(&claim, &policy);
            finished = self.or_warn(read).flatten().unwrap_or(finished);
            finished.verdict = fault;
            record(&mut claim, &finished);
        }
        self.follow(claim, Next::Publish(Status::Cancelled), finished, &policy);
    }

    /// Ends a job that is not started.
    pub fn fail(&mut self, claim: Claim, fault: Fault, policy: &Policy) {
        let finished = Finished::never_ran(Some(fault));
        self.follow(claim, Next::Publish(Status::Failed), finished, policy);
    }

    /// Sees to it that a decision is written where the project is. One that was moved or unmounted, or in whose
    /// place there is another, is still open: what was decided of its jobs goes with it.
    fn place(&mut self) -> Result<()> {
        let had_lock = self.lock.is_some();
        let placed = self.take_place();
        match &self.lock {
            Some(_) if had_lock => Ok(()),
            _ => placed,
        }
    }

    /// Brings a decision to disk, or keeps it until that is possible. What an attempt cost is counted
    /// once that is there, since before it would be taken again.
    pub fn write(&mut self, decision: Decision) {
        self.view.fresh = false;
        let written = self.place().and_then(|()| match &decision {
            Decision::Result(outcome) => self.spool.publish(outcome),
            Decision::Claim(claim) => self.spool.write_claim(claim),
        });
        if let Err(error) = &written
            && !self.spool.is_deleted()
        {
            let kept = "what was decided is kept and written as soon as that is possible; nothing is started until then";
            self.say_once("unwritten", Level::Error, format!("{error}; {kept}"));
            self.unwritten = Some(decision);
            // Its directories may have been replaced; where they are gone, the next try tells.
            let _ = self.move_in();
            return;
        }
        self.told.remove("unwritten");
        let (id, cost) = match &decision {
            Decision::Result(outcome) => (outcome.job_id.clone(), cost_of_result(outcome)),
            Decision::Claim(claim) => (claim.job_id.clone(), cost_of(claim)),
        };
        let before = self.jobs.claim(&id).map_or(0.0, cost_of);
        self.board().spend(self.name(), cost - before);
        match (written, decision) {
            (Err(error), _) => {
                let gone = format!("{id}.md has gone with its project, and so has its outcome");
                self.say(Level::Error, format!("{gone}: {error}"));
                self.jobs.remove(&id);
            }
            (Ok(()), Decision::Result(outcome)) => self.finish(&outcome),
            (Ok(()), Decision::Claim(claim)) => self.jobs.set(id, State::of(*claim)),
        }
    }

    /// After the result is there: what was only there for the job's sake goes.
    fn finish(&mut self, outcome: &Outcome) {
        let id = &outcome.job_id;
        let policy = self.post.orders.policy();
        let mut swept = vec![self.finished.add([id]), self.spool.remove_claim(id)];
        // A mark that comes just now is announced, and found to be of a job that is done.
        if self.jobs.cancelled.remove(id) || outcome.status == Status::Cancelled {
            swept.push(self.spool.unmark(id, Mark::Cancel));
        }
        if self.jobs.held.remove(id) {
            swept.push(self.spool.unmark(id, Mark::Hold));
        }
        if policy.archive {
            swept.push(self.spool.archive(id));
        }
        for result in swept {
            self.or_warn(result);
        }
        self.say_finished(outcome);
        match policy.on_finish {
            Some(_) => {
                let told = self.told_of(outcome);
                self.jobs.set(id.clone(), State::Done(told));
            }
            None => drop(self.jobs.remove(id)),
        }
    }

    fn say_finished(&mut self, outcome: &Outcome) {
        let (id, left) = (&outcome.job_id, outcome.leftovers);
        match outcome.status {
            Status::Completed => {
                let how = format!("duration={:.1}s", outcome.duration_seconds);
                self.info(format!("Job completed: {id}.md - status=completed, {how}"));
            }
            Status::Cancelled => self.info(format!("Job cancelled: {id}.md")),
            // A failure stands out where lines are picked by priority, such as in the journal.
            Status::Failed => {
                let error = outcome.error.as_deref().unwrap_or("no reason given");
                let kind = outcome.error_kind.map_or("unknown", ErrorKind::as_str);
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

fn cost_of(claim: &Claim) -> f64 {
    outcome::cost_of(&claim.attempts, claim.inherited.as_ref()).unwrap_or(0.0)
}

fn cost_of_result(outcome: &Outcome) -> f64 {
    let output = outcome.worker_output.as_ref();
    output.and_then(|output| output.cost_usd).unwrap_or(0.0)
}
