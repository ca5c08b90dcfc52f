//! What follows an attempt: it is written down, judged, and published or put off.

use super::hook;
use super::{Order, Step, Unwritten, Worker};
use crate::agent::{Ending, Fault, Verdict};
use crate::job::{Attempt, Course, ErrorKind, JobId, Status};
use crate::outcome;
use crate::project::Policy;
use crate::queue::{self, Next};
use crate::record::{Claim, Outcome, Suspension};
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
        if fault.is_none() {
            let board = &self.context.board;
            board.works(&policy.agent.name, claim.started_at);
        }
        let next = queue::after_attempt(&finished.verdict, &claim, policy, Wall::now());
        self.follow(claim, next, fault, Some(finished))
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
        next: Next,
        fault: Option<Fault>,
        finished: Option<Finished>,
    ) -> Step {
        let (suspension, hold) = match next {
            Next::Publish(status) => {
                let mut outcome = self.outcome(&claim, status, fault.as_ref());
                if let Some(Finished { report, stderr, .. }) = finished {
                    let real = self.spool.root();
                    let roots = [self.spool.project().path.as_path(), real];
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
            self.put_hold(&claim.agent, suspension.kind, &suspension.error, resets_at);
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

    pub(super) fn put_hold(
        &mut self,
        agent: &str,
        kind: ErrorKind,
        reason: &str,
        resets_at: Option<Wall>,
    ) {
        let (hold, news) = self.context.board.hold(agent, kind, reason, resets_at);
        if news {
            let until = hold.until.map_or(String::new(), |at| {
                format!("; until {}", at.short(Wall::now()))
            });
            self.say(
                Level::Warn,
                format!("[{}] {}{until}", self.name(), hold.sentence()),
            );
        }
        self.set_hold(Some(hold.view()));
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
        let written = match (self.reopen(), &unwritten) {
            (Err(error), _) if self.spool.is_deleted() => {
                let text = format!(
                    "[{}] {}.md has gone with its project, and so has its outcome: {error}",
                    self.name(),
                    unwritten.job()
                );
                self.say(Level::Error, text);
                // Another may have taken its place, of which nobody would tell for a minute.
                self.missed = true;
                return Step::Again;
            }
            (Err(error), _) => Err(error),
            (Ok(()), Unwritten::Result(outcome)) => self.spool.publish(outcome),
            (Ok(()), Unwritten::Claim(claim)) => self.spool.write_claim(claim).map(drop),
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

    /// Runs the person's command after a job, if there is one.
    pub(super) fn run_hook(&mut self, outcome: &Outcome) {
        let policy = self.orders.policy();
        let Some(command) = &policy.on_finish else {
            return;
        };
        self.write_lines();
        let id = &outcome.job_id;
        if let Err(error) = self.spool.check_place() {
            // Its directory is not where the registry says; what is there now is another's.
            let text = format!(
                "[{}] on_finish for {id}.md is not run: {error}",
                self.name()
            );
            return self.say(Level::Warn, text);
        }
        let result = self.spool.result_path(id);
        let stop = || self.orders.order() == Order::Stop;
        let ran = hook::run(
            command,
            outcome,
            &result,
            self.spool.project(),
            &self.context.environment,
            stop,
        );
        if let Err(what) = ran {
            let text = format!("[{}] on_finish for {id}.md: {what}", self.name());
            self.say(Level::Warn, text);
        }
    }

    pub(super) fn outcome(&self, claim: &Claim, status: Status, fault: Option<&Fault>) -> Outcome {
        outcome::of_claim(self.spool.project(), claim, status, fault, Wall::now())
    }
}
