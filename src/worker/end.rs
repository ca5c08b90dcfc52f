//! What follows an attempt: it is written down, judged, and published, proved or put off. A decision that
//! cannot be written is kept, and nothing is started until it is.

use super::{Decision, Worker, Written};
use crate::agent::{Ending, Fault, Verdict};
use crate::decide::{self, Next, State, Until};
use crate::error::Result;
use crate::git;
use crate::holds::{Failure, Own, is_answer};
use crate::job::{Attempt, Course, ErrorKind, JobId, Status};
use crate::outcome;
use crate::project::{OnFailure, Policy};
use crate::record::{Change, Claim, Outcome, Suspension};
use crate::runner::Finished;
use crate::spool::Mark;
use crate::time::Wall;
use log::Level;
use std::time::{Duration, Instant};

/// While something cannot be written, it is tried again so often.
const WRITE_PAUSE: Duration = Duration::from_secs(2);

impl Worker<'_> {
    /// Takes an attempt's end in: what it cost, what it amounts to, what follows.
    pub(super) fn conclude(
        &mut self,
        mut claim: Claim,
        finished: Finished,
        policy: &Policy,
    ) -> Option<Until> {
        let fault = match &finished.verdict {
            Verdict::Completed => None,
            Verdict::Fault(fault) => Some(fault.clone()),
        };
        let is_cut_off = fault
            .as_ref()
            .is_some_and(|fault| fault.kind == ErrorKind::Interrupted);
        if finished.ended.by == Ending::Interrupted && is_cut_off {
            let text = format!(
                "[{}] Job interrupted: {}.md - the monitor is stopping",
                self.name(),
                claim.job_id
            );
            self.say(Level::Info, text);
            // The next start finds it as one that runs, and need not count what a person asked for.
            claim.stopped = true;
            return self.write_claim(claim);
        }
        self.is_in_order = true;
        let began = claim.started_at;
        let others_answered = decide::fault_before(&claim).is_some_and(|since| {
            let board = &self.context.board;
            board.others_answered(self.name(), &claim.agent, &claim.job_id, since)
        });
        let cost_usd = self.record(&mut claim, &finished, fault.as_ref());
        self.context.board.usage(policy, &finished.report.windows);
        if is_answer(fault.as_ref(), finished.report.answered) {
            self.say_answered(&claim.job_id, policy);
        }
        let next = decide::after_attempt(
            &finished.verdict,
            &mut claim,
            policy,
            others_answered,
            Wall::now(),
        );
        if let Some(fault) = fault
            .as_ref()
            .filter(|fault| fault.kind.course() == Course::Hold)
        {
            let failure = Failure {
                project: &self.spool.project().name,
                agent: &policy.agent,
                began: Some(began),
                stamps: &self.used,
            };
            let board = &self.context.board;
            let news = board.change(|holds, now| holds.fault(&failure, fault, now));
            self.announce(news);
        }
        self.follow(
            claim,
            next,
            fault.as_ref(),
            Some(finished),
            policy,
            cost_usd,
        )
    }

    /// Writes an attempt down in its claim. What it cost beyond what its session had cost before.
    pub(super) fn record(
        &mut self,
        claim: &mut Claim,
        finished: &Finished,
        fault: Option<&Fault>,
    ) -> f64 {
        let session = finished
            .report
            .session_id
            .clone()
            .or_else(|| claim.session_id.clone());
        claim.session_id.clone_from(&session);
        let before = outcome::cost_of(&claim.attempts, claim.inherited.as_ref()).unwrap_or(0.0);
        claim.attempts.push(Attempt {
            started_at: claim.started_at,
            duration_seconds: outcome::millis(finished.duration.as_secs_f64()),
            exit_code: finished.ended.code,
            signal: finished.ended.signal,
            error_kind: fault.map(|fault| fault.kind),
            error: fault.map(|fault| fault.error.clone()),
            session_id: session,
            cost_usd: finished.report.cost_usd.map(outcome::cents),
        });
        claim.carried.leftovers += finished.leftovers;
        let after = outcome::cost_of(&claim.attempts, claim.inherited.as_ref());
        after.map_or(0.0, |after| (after - before).max(0.0))
    }

    /// Does what was decided after an attempt, an interruption or a check.
    pub(super) fn follow(
        &mut self,
        mut claim: Claim,
        next: Next,
        fault: Option<&Fault>,
        finished: Option<Finished>,
        policy: &Policy,
        cost_usd: f64,
    ) -> Option<Until> {
        claim.checking = next == Next::Check;
        let what = match next {
            Next::Publish(status) => {
                let mut outcome =
                    outcome::of_claim(self.spool.project(), &claim, status, fault, Wall::now());
                // A start that failed has no output, and a power cut may have taken a log.
                let root = self.spool.root().unwrap_or_default();
                outcome.logs.retain(|log| root.join(log).exists());
                if let Some(finished) = finished {
                    let roots = [self.spool.project().path.as_path(), &root];
                    outcome::take_report(
                        &mut outcome,
                        &claim,
                        finished.report,
                        finished.stderr,
                        &roots,
                    );
                }
                outcome.git = self.change(&claim);
                self.count(&claim, fault, policy);
                Written::Result(Box::new(outcome))
            }
            Next::Check => Written::Claim(Box::new(claim)),
            Next::Suspend(suspension) => {
                if let Some(finished) = finished {
                    outcome::carry(&mut claim.carried, finished.report);
                }
                self.say_suspended(&claim, &suspension);
                claim.suspended = Some(suspension);
                Written::Claim(Box::new(claim))
            }
        };
        self.write(Decision { what, cost_usd })
    }

    /// A job's end may hold its agent, when others ended like it, or its project.
    fn count(&mut self, claim: &Claim, fault: Option<&Fault>, policy: &Policy) {
        let name = self.spool.project().name.clone();
        let board = &self.context.board;
        let lasted = claim
            .attempts
            .last()
            .map_or(Duration::ZERO, Attempt::duration);
        let tripped = board.finished((&name, &claim.job_id, &claim.agent), fault, lasted);
        let held = fault
            .filter(|fault| {
                policy.on_failure == OnFailure::Hold && fault.kind != ErrorKind::Cancelled
            })
            .and_then(|fault| {
                let reason = format!("{} failed: {}: {}", claim.job_id, fault.kind, fault.error);
                board.change(|holds, now| {
                    holds.hold_project(&name, Own::OnFailure, &reason, None, now)
                })
            });
        self.announce(tripped);
        self.announce(held);
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
            change.patch = Some(path).filter(|_| has_patch);
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

    fn say_suspended(&mut self, claim: &Claim, suspension: &Suspension) {
        let Suspension {
            kind,
            error,
            retry_at,
            afresh,
        } = suspension;
        let (name, id, now) = (self.name(), &claim.job_id, Wall::now());
        let text = match retry_at {
            Some(at) if *at > now => {
                format!(
                    "[{name}] Job will be retried: {id}.md at {} - {kind}: {error}",
                    at.short(now)
                )
            }
            Some(_) if *afresh => format!("[{name}] Job starts afresh: {id}.md - {error}"),
            Some(_) => format!("[{name}] Job goes on: {id}.md - {error}"),
            None => format!("[{name}] Job waits: {id}.md - {kind}: {error}"),
        };
        self.say(Level::Warn, text);
    }

    /// Ends a job that a person cancelled, while nothing of it runs. Where that cannot be written while
    /// another job's agent runs, it is decided anew later: the mark is still there.
    pub(super) fn withdraw(&mut self, id: &JobId) -> Option<Until> {
        let policy = self.orders.policy();
        let claim = self.jobs.claim(id).cloned().unwrap_or_else(|| {
            let meta = self.spool.document_meta(id).ok().flatten();
            let created_at = meta.map_or(Wall::now(), |meta| meta.mtime());
            let position = self.jobs.accepted_at(id);
            Claim::new(
                id.clone(),
                created_at,
                position,
                String::new(),
                &policy.agent,
            )
        });
        let fault = Fault::new(ErrorKind::Cancelled, "cancelled by hand");
        self.follow(
            claim,
            Next::Publish(Status::Cancelled),
            Some(&fault),
            None,
            &policy,
            0.0,
        )
    }

    /// Ends a job that is not started.
    pub(super) fn fail(&mut self, claim: Claim, fault: Fault, policy: &Policy) -> Option<Until> {
        self.follow(
            claim,
            Next::Publish(Status::Failed),
            Some(&fault),
            None,
            policy,
            0.0,
        )
    }

    pub(super) fn write_claim(&mut self, claim: Claim) -> Option<Until> {
        let what = Written::Claim(Box::new(claim));
        self.write(Decision {
            what,
            cost_usd: 0.0,
        })
    }

    /// Sees to it that a decision is written where the project is. One that was moved or unmounted, or in whose
    /// place there is another, is still open: what was decided of its jobs goes with it.
    fn place(&mut self) -> Result<()> {
        if self.lock.is_none() {
            return self.take_place();
        }
        if !self.spool.is_in_place() {
            let placed = self.take_place();
            if self.lock.is_none() {
                return placed;
            }
        }
        Ok(())
    }

    /// Brings a decision to disk, or keeps it until that is possible.
    pub(super) fn write(&mut self, decision: Decision) -> Option<Until> {
        self.view.stale = true;
        let written = self.place().and_then(|()| match &decision.what {
            Written::Result(outcome) => self.spool.publish(outcome),
            Written::Claim(claim) => self.spool.write_claim(claim),
        });
        match written {
            Ok(()) => {
                self.told.remove("unwritten");
                self.context.board.spend(self.name(), decision.cost_usd);
                match decision.what {
                    Written::Result(outcome) => self.finish(*outcome),
                    Written::Claim(claim) => self.jobs.set(claim.job_id.clone(), State::of(*claim)),
                }
                None
            }
            Err(error) if self.spool.is_deleted() => {
                let id = match &decision.what {
                    Written::Result(outcome) => &outcome.job_id,
                    Written::Claim(claim) => &claim.job_id,
                };
                let text = format!(
                    "[{}] {id}.md has gone with its project, and so has its outcome: {error}",
                    self.name()
                );
                self.say(Level::Error, text);
                self.context.board.spend(self.name(), decision.cost_usd);
                self.jobs.remove(id);
                None
            }
            Err(error) => {
                let text = format!(
                    "[{}] {error}; what was decided is kept and written as soon as that is possible; nothing is \
                     started until then",
                    self.name()
                );
                self.say_once("unwritten", Level::Error, text);
                self.unwritten = Some(decision);
                // Its directories may have been replaced; where they are gone, the next try tells.
                let _ = self.move_in();
                Some(Until {
                    instant: Some(Instant::now() + WRITE_PAUSE),
                    wall: None,
                })
            }
        }
    }

    /// After the result is there: what was only there for the job's sake goes.
    fn finish(&mut self, outcome: Outcome) {
        let id = outcome.job_id.clone();
        let policy = self.orders.policy();
        let mut swept = vec![self.finished.add([&id]), self.spool.remove_claim(&id)];
        // A mark that comes just now is announced, and found to be of a job that is done.
        if self.jobs.cancelled.remove(&id) || outcome.status == Status::Cancelled {
            swept.push(self.spool.unmark(&id, Mark::Cancel));
        }
        if self.jobs.held.remove(&id) {
            swept.push(self.spool.unmark(&id, Mark::Hold));
        }
        if policy.archive {
            swept.push(self.spool.archive(&id));
        }
        for result in swept {
            self.or_warn(result);
        }
        self.say_finished(&outcome);
        match policy.on_finish {
            Some(_) => self.jobs.set(id, State::Done(self.told_of(&outcome))),
            None => drop(self.jobs.remove(&id)),
        }
    }

    fn say_finished(&mut self, outcome: &Outcome) {
        let (name, id) = (self.name(), &outcome.job_id);
        let error = outcome.error.as_deref().unwrap_or("no reason given");
        // A failure stands out where lines are picked by priority, such as in the journal.
        let (level, text) = match outcome.status {
            Status::Completed => {
                let seconds = outcome.duration_seconds;
                let text = format!(
                    "[{name}] Job completed: {id}.md - status=completed, duration={seconds:.1}s"
                );
                (Level::Info, text)
            }
            Status::Cancelled => (Level::Info, format!("[{name}] Job cancelled: {id}.md")),
            Status::Failed => {
                let kind = outcome.error_kind.map_or("unknown", ErrorKind::as_str);
                (
                    Level::Warn,
                    format!("[{name}] Job failed: {id}.md - {kind}: {error}"),
                )
            }
        };
        let left = outcome.leftovers;
        let swept = format!("[{name}] {id}.md left processes behind; they were ended ({left})");
        self.say(level, text);
        if left > 0 {
            self.say(Level::Warn, swept);
        }
    }

    /// What `on_finish` sees in its environment (SPEC 8).
    pub(super) fn told_of(&self, outcome: &Outcome) -> Vec<(&'static str, String)> {
        let cost = outcome
            .worker_output
            .as_ref()
            .and_then(|output| output.cost_usd);
        let result = self.spool.result_path(&outcome.job_id);
        vec![
            ("JOB_MONITOR_JOB_ID", outcome.job_id.to_string()),
            ("JOB_MONITOR_STATUS", outcome.status.as_str().to_owned()),
            (
                "JOB_MONITOR_ERROR_KIND",
                outcome.error_kind.map_or("", ErrorKind::as_str).to_owned(),
            ),
            ("JOB_MONITOR_RESULT", result.to_string_lossy().into_owned()),
            ("JOB_MONITOR_DURATION", outcome.duration_seconds.to_string()),
            (
                "JOB_MONITOR_COST_USD",
                cost.map_or(String::new(), |cost| cost.to_string()),
            ),
        ]
    }

    /// Runs the person's command after a job that is done.
    pub(super) fn tell(&mut self, id: &JobId) {
        let policy = self.orders.policy();
        if let (Some(State::Done(told)), Some(command)) = (self.jobs.remove(id), &policy.on_finish)
        {
            self.run_hook(&format!("on_finish for {id}.md"), command, &told);
        }
    }
}
