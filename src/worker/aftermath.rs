//! What follows an attempt: it is written down, judged, and published or put off.

use super::hook;
use super::{Order, Step, Unwritten, Worker};
use crate::agent::{Ending, Fault, Verdict};
use crate::holds::{self, Failure, Hold, Kind, Own};
use crate::job::{Attempt, Course, ErrorKind, JobId, Status};
use crate::outcome;
use crate::project::{OnFailure, Policy};
use crate::queue::{self, Next};
use crate::record::{Claim, Outcome, Suspension};
use crate::runner::Finished;
use crate::spool::Mark;
use crate::time::Wall;
use log::Level;
use std::ffi::OsStr;
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
    ) -> Step {
        let fault = match &finished.verdict {
            Verdict::Completed => None,
            Verdict::Fault(fault) => Some(fault.clone()),
        };
        if finished.ended.by == Ending::Interrupted
            && fault
                .as_ref()
                .is_some_and(|fault| fault.kind == ErrorKind::Interrupted)
        {
            // The claim on disk says that it runs: the next start finds it so (SPEC 7).
            let text = format!(
                "[{}] Job interrupted: {}.md - the monitor is stopping",
                self.name(),
                claim.job_id
            );
            self.say(Level::Info, text);
            return Step::Again;
        }
        self.record(&mut claim, &finished, fault.as_ref());
        let (id, agent) = (&claim.job_id, &policy.agent.name);
        self.context.board.usage(policy, &finished.report.windows);
        if holds::is_answer(fault.as_ref(), finished.report.answered) {
            let board = &self.context.board;
            let lifted = board.answered(self.name(), agent, id, claim.started_at);
            self.say_lifted(lifted, "its service answers");
        }
        let next = queue::after_attempt(&finished.verdict, &claim, policy, Wall::now());
        self.follow(claim, policy, next, fault, Some(finished))
    }

    /// Writes an attempt down in its claim, and what it cost in the ledger.
    pub(super) fn record(&mut self, claim: &mut Claim, finished: &Finished, fault: Option<&Fault>) {
        let session = finished
            .report
            .session_id
            .clone()
            .or_else(|| claim.session_id.clone());
        let earlier = claim
            .attempts
            .iter()
            .rev()
            .filter(|attempt| attempt.session_id == session);
        let earlier = earlier
            .filter_map(|attempt| attempt.cost_usd)
            .next()
            .unwrap_or(0.0);
        if let Some(total) = finished.report.cost_usd {
            self.unspent += (total - earlier).max(0.0);
        }
        claim.session_id.clone_from(&session);
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
    }

    /// Does what was decided after an attempt or an interruption.
    pub(super) fn follow(
        &mut self,
        mut claim: Claim,
        policy: &Policy,
        next: Next,
        fault: Option<Fault>,
        finished: Option<Finished>,
    ) -> Step {
        let (suspension, hold) = match next {
            Next::Publish(status) => {
                let mut outcome = self.outcome(&claim, status, fault.as_ref());
                if let Some(Finished { report, stderr, .. }) = finished {
                    let real = self.spool.root().unwrap_or_default();
                    let roots = [self.spool.project().path.as_path(), &real];
                    outcome::take_report(&mut outcome, &claim, report, stderr, &roots);
                }
                return self.publish(outcome);
            }
            Next::Suspend(suspension) => (suspension, None),
            Next::Hold(suspension, until) => (suspension, Some(until)),
        };
        if let Some(finished) = finished {
            outcome::carry(&mut claim.carried, finished.report);
        }
        self.say_suspended(&claim, &suspension);
        if suspension.kind.course() == Course::Retry && suspension.retry_at.is_some() {
            claim.retries += 1;
        }
        if let Some(resets_at) = hold {
            let fault = Fault {
                kind: suspension.kind,
                error: suspension.error.clone(),
                resets_at,
                session_unknown: false,
            };
            self.put_hold(policy, Some(claim.started_at), &fault);
        }
        claim.suspended = Some(suspension);
        self.write_now(Unwritten::Claim(Box::new(claim)))
    }

    fn say_suspended(&mut self, claim: &Claim, suspension: &Suspension) {
        let id = &claim.job_id;
        let text = match suspension.retry_at {
            Some(at) if at > Wall::now() => format!(
                "[{}] Job will be retried: {id}.md at {} - {}: {}",
                self.name(),
                at.short(Wall::now()),
                suspension.kind,
                suspension.error
            ),
            Some(_) if suspension.afresh => {
                format!(
                    "[{}] Job starts afresh: {id}.md - {}",
                    self.name(),
                    suspension.error
                )
            }
            Some(_) => format!(
                "[{}] Job goes on: {id}.md - {}",
                self.name(),
                suspension.error
            ),
            None => format!(
                "[{}] Job waits: {id}.md - {}: {}",
                self.name(),
                suspension.kind,
                suspension.error
            ),
        };
        self.say(Level::Warn, text);
    }

    /// Takes the agent out of service; `began` is `None` where it was not started.
    pub(super) fn put_hold(&mut self, policy: &Policy, began: Option<Wall>, fault: &Fault) {
        let failure = Failure {
            project: &self.spool.project().name,
            agent: &policy.agent,
            began,
            stamps: &self.used,
        };
        if let Some(hold) = self.context.board.failed(&failure, fault) {
            self.tell_of_hold(&hold);
        }
    }

    /// Says that a hold has begun, and runs the person's command for it.
    pub(super) fn tell_of_hold(&mut self, hold: &Hold) {
        let until = hold.until.map(|at| at.short(Wall::now()));
        let until = until.map_or(String::new(), |at| format!("; until {at}"));
        let text = format!("[{}] {}{until}", self.name(), hold.sentence());
        self.say(Level::Warn, text);
        let policy = self.orders.policy();
        let is_told = !matches!(hold.kind, Kind::Own(Own::Hours | Own::Gate));
        let Some(command) = policy.on_hold.as_ref().filter(|_| is_told) else {
            return;
        };
        self.write_lines();
        let until = hold.until.map_or(String::new(), |at| at.to_string());
        let told = [
            (
                "JOB_MONITOR_AGENT",
                hold.agent.as_deref().unwrap_or_default(),
            ),
            ("JOB_MONITOR_HOLD", hold.kind.as_str()),
            ("JOB_MONITOR_REASON", &hold.reason),
            ("JOB_MONITOR_UNTIL", &until),
        ];
        let told = told.map(|(name, value)| (name, OsStr::new(value)));
        let stop = || self.orders.order() == Order::Stop;
        let (project, environment) = (self.spool.project(), &self.context.environment);
        if let Err(what) = hook::run(command, project, environment, &told, stop) {
            self.say(Level::Warn, format!("[{}] on_hold: {what}", self.name()));
        }
    }

    pub(super) fn say_lifted(&mut self, lifted: Vec<Hold>, why: &str) {
        for hold in lifted {
            let (name, whom) = (self.name(), hold.whom());
            self.say(
                Level::Info,
                format!("[{name}] the hold of {whom} is lifted: {why}"),
            );
        }
    }

    pub(super) fn publish_cancelled(&mut self, id: &JobId, claim: Option<Claim>) {
        let fault = Fault::new(ErrorKind::Cancelled, "cancelled by hand");
        let policy = self.orders.policy();
        let created_at = self
            .spool
            .document_meta(id)
            .ok()
            .flatten()
            .map_or(Wall::now(), |meta| meta.mtime());
        let claim = claim.unwrap_or_else(|| {
            Claim::new(
                id.clone(),
                created_at,
                self.waiting.accepted_at(id),
                String::new(),
                &policy.agent,
            )
        });
        let outcome = self.outcome(&claim, Status::Cancelled, Some(&fault));
        self.publish(outcome);
    }

    pub(super) fn publish(&mut self, outcome: Outcome) -> Step {
        self.write_now(Unwritten::Result(Box::new(outcome)))
    }

    /// Brings a decision to disk, or keeps it until that is possible.
    pub(super) fn write_now(&mut self, unwritten: Unwritten) -> Step {
        self.view.stale = true;
        let written = match &unwritten {
            Unwritten::Result(outcome) => self.spool.publish(outcome),
            Unwritten::Claim(claim) => self.spool.write_claim(claim).map(drop),
        };
        if written.is_ok() {
            // Once only: a decision that could not be written is taken again after a restart.
            let unspent = std::mem::take(&mut self.unspent);
            self.context.board.spend(self.name(), unspent);
        }
        match (written, unwritten) {
            (Ok(()), Unwritten::Result(outcome)) => {
                self.told.remove("unwritten");
                self.finish(*outcome);
                Step::Again
            }
            (Ok(()), Unwritten::Claim(claim)) => {
                self.told.remove("unwritten");
                self.claims.insert(0, *claim);
                Step::Again
            }
            (Err(error), unwritten) => {
                self.unwritten.push_back(unwritten);
                self.spool.rest();
                let text = format!(
                    "[{}] {error}; what was decided is kept and written as soon as that is possible; nothing is \
                     started until then",
                    self.name()
                );
                self.say_once("unwritten", Level::Error, text);
                Step::Wait(Some(Instant::now() + WRITE_PAUSE))
            }
        }
    }

    /// After the result is there: what was only there for the job's sake goes.
    fn finish(&mut self, outcome: Outcome) {
        let id = &outcome.job_id;
        self.waiting.remove(id);
        let mut swept = vec![self.spool.remove_claim(id)];
        // A mark that comes just now is announced, and found to be of a job that is done.
        if self.marks.cancelled.remove(id) || outcome.status == Status::Cancelled {
            swept.push(self.spool.unmark(id, Mark::Cancel));
        }
        if self.marks.held.remove(id) {
            self.waiting.set_held(self.marks.held.clone());
            swept.push(self.spool.unmark(id, Mark::Hold));
        }
        let policy = self.orders.policy();
        self.count_for_holds(&outcome, &policy);
        let archived = if policy.archive {
            self.spool.archive(id)
        } else {
            Ok(())
        };
        for error in swept.into_iter().chain([archived]).filter_map(Result::err) {
            self.say(Level::Warn, format!("[{}] {error}", self.name()));
        }
        let text = match (outcome.status, &outcome.error) {
            (Status::Completed, _) => format!(
                "[{}] Job completed: {id}.md - status=completed, duration={:.1}s",
                self.name(),
                outcome.duration_seconds
            ),
            (Status::Cancelled, _) => format!("[{}] Job cancelled: {id}.md", self.name()),
            (Status::Failed, error) => {
                let kind = outcome.error_kind.map_or("unknown", ErrorKind::as_str);
                let error = error.as_deref().unwrap_or("no reason given");
                format!("[{}] Job failed: {id}.md - {kind}: {error}", self.name())
            }
        };
        // A failure stands out where lines are picked by priority, such as in the journal.
        let level = match outcome.status {
            Status::Failed => Level::Warn,
            Status::Completed | Status::Cancelled => Level::Info,
        };
        self.say(level, text);
        if outcome.leftovers > 0 {
            let text = format!(
                "[{}] {id}.md left processes behind; they were ended ({})",
                self.name(),
                outcome.leftovers
            );
            self.say(Level::Warn, text);
        }
        match self.running {
            // It would keep us from attending to the agent.
            Some(_) if policy.on_finish.is_some() => self.unhooked.push(outcome),
            _ => self.run_hook(&outcome),
        }
    }

    /// A job that failed may hold its agent or its project.
    fn count_for_holds(&mut self, outcome: &Outcome, policy: &Policy) {
        let board = &self.context.board;
        let kind = outcome
            .error_kind
            .filter(|_| outcome.status == Status::Failed);
        let error = outcome.error.as_deref().unwrap_or_default();
        let fault = kind.map(|kind| Fault::new(kind, error));
        let lasted = Duration::try_from_secs_f64(outcome.duration_seconds).unwrap_or_default();
        let (project, id) = (self.name(), &outcome.job_id);
        let mut news = Vec::new();
        if outcome.status != Status::Cancelled {
            news.extend(board.finished((project, id, &outcome.agent), fault.as_ref(), lasted));
        }
        if let Some(fault) = fault.filter(|_| policy.on_failure == OnFailure::Hold) {
            let reason = format!("{id} failed ({}: {})", fault.kind, fault.error);
            news.extend(board.hold_project(project, Own::OnFailure, &reason, None));
        }
        for hold in news {
            self.tell_of_hold(&hold);
        }
    }

    /// Runs the person's command after a job, if there is one.
    pub(super) fn run_hook(&mut self, outcome: &Outcome) {
        let policy = self.orders.policy();
        let Some(command) = &policy.on_finish else {
            return;
        };
        self.write_lines();
        let id = &outcome.job_id;
        self.spool.rest();
        if let Err(error) = self.spool.root() {
            // Its directory is not where the registry says; what is there now is another's.
            let text = format!(
                "[{}] on_finish for {id}.md is not run: {error}",
                self.name()
            );
            return self.say(Level::Warn, text);
        }
        let result = self.spool.result_path(id);
        let stop = || self.orders.order() == Order::Stop;
        let output = outcome.worker_output.as_ref();
        let cost = output.and_then(|output| output.cost_usd);
        let cost = cost.map_or(String::new(), |cost| cost.to_string());
        let duration = outcome.duration_seconds.to_string();
        let kind = outcome.error_kind.map_or("", ErrorKind::as_str);
        let told = [
            ("JOB_MONITOR_JOB_ID", OsStr::new(id.as_str())),
            ("JOB_MONITOR_STATUS", OsStr::new(outcome.status.as_str())),
            ("JOB_MONITOR_ERROR_KIND", OsStr::new(kind)),
            ("JOB_MONITOR_RESULT", result.as_os_str()),
            ("JOB_MONITOR_DURATION", OsStr::new(&duration)),
            ("JOB_MONITOR_COST_USD", OsStr::new(&cost)),
        ];
        let (project, environment) = (self.spool.project(), &self.context.environment);
        let ran = hook::run(command, project, environment, &told, stop);
        if let Err(what) = ran {
            let text = format!("[{}] on_finish for {id}.md: {what}", self.name());
            self.say(Level::Warn, text);
        }
    }

    pub(super) fn outcome(&self, claim: &Claim, status: Status, fault: Option<&Fault>) -> Outcome {
        outcome::of_claim(self.spool.project(), claim, status, fault, Wall::now())
    }
}
