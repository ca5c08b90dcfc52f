//! Proof: the gate, which must succeed before a job's first start, and the check, which must succeed before
//! a job counts as completed (SPEC 7).

use super::Worker;
use super::hook::{Command, Told};
use crate::agent::{Ending, Fault, Report, Verdict};
use crate::decide::{self, Next, State, Until};
use crate::error::Result;
use crate::holds::Kind;
use crate::job::{ErrorKind, JobId, Status, check_log};
use crate::outcome;
use crate::project::Policy;
use crate::record::{Claim, HoldView};
use crate::runner::{Finished, memory_file};
use crate::time::Wall;
use std::time::Duration;

/// A gate has so long, as hooks have.
const GATE_MAX: Duration = Duration::from_secs(60);
/// Until a gate that is shut, or a check that cannot be started, is tried again.
const PAUSE: Duration = Duration::from_secs(60);

impl Worker<'_> {
    /// Whether a job may be started: its check can be run afterwards, and before its first start the gate
    /// is open. Else the project is held.
    pub(super) fn may_be_proved(&mut self, claim: &Claim, policy: &Policy) -> Result<bool> {
        if let Some(Err(error)) = policy.check.as_ref().map(|argv| self.program_of(argv)) {
            self.hold_for(Kind::Check, format!("the check {error}"));
            return Ok(false);
        }
        let Some(argv) = policy.gate.as_ref().filter(|_| claim.starts == 0) else {
            return Ok(true);
        };
        let out = memory_file("")?;
        let command = Command {
            argv,
            told: self.told_before(claim),
            out: &out,
            err: &out,
            limit: GATE_MAX,
            is_hook: false,
        };
        let mut stops = |worker: &mut Self| worker.is_stopping().then_some(Ending::Interrupted);
        let why = match self.run_command(&command, &mut stops) {
            Ok(ran) if ran.check.exit_code == Some(0) => {
                self.unhold(Kind::Gate);
                return Ok(true);
            }
            Ok(ran) if ran.by == Ending::Interrupted => return Ok(false),
            Ok(ran) => match ran.check.output.trim().lines().last() {
                Some(said) => said.to_owned(),
                None => format!("it {}", decide::how(&ran.check, GATE_MAX)),
            },
            Err(error) => error.to_string(),
        };
        self.hold_for(Kind::Gate, why);
        Ok(false)
    }

    /// What is known of a job whose result is not there yet.
    fn told_before(&self, claim: &Claim) -> Told {
        let (project, report) = (&self.post.project, Report::default());
        let (status, root, now) = (Status::Completed, &project.path, Wall::now());
        let outcome = outcome::of_claim(project, claim, status, None, report, root, now);
        let mut told = self.told_of(&outcome);
        told.retain(|(name, _)| !matches!(*name, "JOB_MONITOR_STATUS" | "JOB_MONITOR_RESULT"));
        told
    }

    fn unhold(&self, kind: Kind) {
        let board = &self.post.context.board;
        board.change(|holds, now| holds.set(kind, (self.name(), None), None, now));
    }

    /// Holds the project for a minute, or until something rings.
    fn hold_for(&mut self, kind: Kind, reason: String) {
        let until = Some(Wall::now().plus(PAUSE));
        let board = &self.post.context.board;
        let (of, wanted) = ((self.name(), None), Some((reason.clone(), until)));
        let news = board.change(|holds, now| holds.set(kind, of, wanted, now));
        self.announce(news);
        self.set_hold(Some(HoldView {
            kind: kind.word(),
            agent: None,
            reason,
            until,
        }));
        self.closed = Some(Until::wall(until));
    }

    /// Runs the check of a job whose agent did its work.
    pub(super) fn check(&mut self, id: &JobId) -> Result<Option<Until>> {
        let Some(State::Checking(claim)) = self.jobs.get(id).cloned() else {
            return Ok(None);
        };
        let mut claim = *claim;
        let policy = self.policy_of(&claim)?;
        let finished = self.read_back(&claim, &policy)?;
        let mut finished = finished.unwrap_or_else(|| Finished::never_ran(Verdict::Completed));
        let Some(argv) = &policy.check else {
            let next = Next::Publish(Status::Completed);
            return Ok(self.follow(claim, next, finished, &policy));
        };
        let name = check_log(id, claim.checks.len() as u32 + 1);
        let out = self.spool.create_log(&name)?;
        let command = Command {
            argv,
            told: self.told_before(&claim),
            out: &out,
            err: &out,
            limit: policy.check_timeout,
            is_hook: false,
        };
        self.jobs.attended = Some(id.clone());
        self.view.stale = true;
        let is_full = || {
            out.metadata()
                .is_ok_and(|meta| meta.len() > policy.max_output)
        };
        let ran = self.run_command(&command, &mut |worker| {
            let end = worker.look_while_running(id);
            end.or_else(|| is_full().then_some(Ending::OutputLimit))
        });
        self.jobs.attended = None;
        let ran = match ran {
            Ok(ran) => ran,
            Err(error) => {
                // Nothing could be proved, so nothing else is begun either.
                self.hold_for(Kind::Check, format!("the check {error}"));
                return Ok(None);
            }
        };
        self.unhold(Kind::Check);
        claim.carried.leftovers += ran.leftovers;
        let (next, fault) = match ran.by {
            // The claim says that it is to be checked, and so the next start of the daemon does.
            Ending::Interrupted => return Ok(None),
            Ending::Cancelled => {
                let fault = Fault::new(ErrorKind::Cancelled, "cancelled by hand");
                (Next::Publish(Status::Cancelled), Some(fault))
            }
            _ => {
                claim.checks.push(ran.check);
                decide::after_check(&claim, &policy, Wall::now())
            }
        };
        finished.verdict = fault.map_or(Verdict::Completed, Verdict::Fault);
        Ok(self.follow(claim, next, finished, &policy))
    }
}
