//! What a starting worker makes of the claims that it finds: the rows "interrupted", "checking" and
//! "suspended" of the table of states, after a crash.

use super::Worker;
use super::start::remove_scratch;
use crate::agent::{Verdict, dialect};
use crate::decide::{self, State, Until};
use crate::document;
use crate::error::{Error, Result};
use crate::job::{Attempt, ErrorKind, JobId, Meta, log_name};
use crate::process::{self, Among, Token};
use crate::project::Policy;
use crate::record::Claim;
use crate::runner::{self, Finished};
use crate::spool::{Leftovers, Mark};
use crate::time::Wall;
use log::Level;
use std::time::Duration;

impl Worker<'_> {
    /// Takes in the claims on disk, and ends what a dead daemon left: nothing of this project may run yet.
    pub(super) fn find_claims(&mut self) -> Result<()> {
        let boot_id = process::boot_id()?;
        let (mut runs, mut broken) = (Vec::new(), Vec::new());
        for id in self.spool.marks(Leftovers::Remove)?.claims {
            let is_done = self.spool.has_result(&id)?;
            match self.spool.read_claim(&id) {
                Err(error) if error.is_shortage() => return Err(error),
                Ok(None) => {}
                Ok(Some(claim)) => {
                    let process = claim.process.filter(|_| claim.boot_id == boot_id);
                    let token = Token::parse(&claim.run).filter(|_| claim.suspended.is_none());
                    runs.extend(token.map(|token| (token, process)));
                    self.jobs.set(id.clone(), State::of(claim));
                }
                Err(error) => broken.push((id.clone(), error.to_string())),
            }
            if is_done {
                // The crash came between the result and the sweep.
                self.jobs.remove(&id);
                broken.retain(|(other, _)| *other != id);
                self.finished.add([&id])?;
                self.spool.remove_claim(&id)?;
            }
        }
        if !runs.is_empty() || !broken.is_empty() || self.has_lost_state {
            let root = self.spool.root()?;
            let (killed, all_gone) = process::sweep_project(&root, &runs, Among::Everybody);
            runs.iter().for_each(|(token, _)| remove_scratch(token));
            self.say_of_survivors(killed, all_gone);
        }
        for (id, why) in broken {
            self.park(&id, &why)?;
        }
        Ok(())
    }

    fn say_of_survivors(&mut self, killed: u32, all_gone: bool) {
        let name = self.name().to_owned();
        if killed > 0 {
            let text = format!(
                "[{name}] processes of an earlier run had survived; they were ended ({killed})"
            );
            self.say(Level::Warn, text);
        }
        if !all_gone {
            let text = format!(
                "[{name}] processes of an earlier run cannot be ended; look for them with ps and end them by hand"
            );
            self.say(Level::Error, text);
        }
    }

    /// Goes on with a job whose claim says that its agent runs, and it does not.
    pub(super) fn recover(&mut self, id: JobId) -> Result<Option<Until>> {
        let Some(State::Interrupted(claim)) = self.jobs.get(&id).cloned() else {
            return Ok(None);
        };
        let policy = self.policy_of(&claim)?;
        let finished = match self.read_back(&claim, &policy) {
            Err(error) if !error.is_shortage() => {
                self.jobs.remove(&id);
                self.park(&id, &error.to_string())?;
                self.look_at(&id.file_name(), false)?;
                return self.look_at_marks().map(|()| None);
            }
            other => other?,
        };
        if finished.is_none() && claim.process.is_none() && claim.boot_id == process::boot_id()? {
            // The logs are made before the agent is started, and its process is written down soon after.
            // An agent that made away with its logs is known by its process.
            return self.undo(*claim);
        }
        let is_settled = |finished: &Finished| match &finished.verdict {
            Verdict::Completed => true,
            Verdict::Fault(fault) => fault.kind != ErrorKind::Interrupted,
        };
        match finished {
            Some(finished) if is_settled(&finished) => {
                let text = format!(
                    "[{}] {id}.md came to its end without the monitor; its output counts",
                    self.name()
                );
                self.say(Level::Info, text);
                Ok(self.conclude(*claim, finished, &policy))
            }
            finished => Ok(self.interrupt(*claim, finished, &policy)),
        }
    }

    /// The start came to nothing: the job stands where it stood before.
    fn undo(&mut self, claim: Claim) -> Result<Option<Until>> {
        let id = claim.job_id.clone();
        if let Some(claim) = decide::undone(claim, Wall::now()) {
            return Ok(self.write_claim(claim));
        }
        self.spool.remove_claim(&id)?;
        self.jobs.remove(&id);
        self.look_at(&id.file_name(), true).map(|()| None)
    }

    fn interrupt(
        &mut self,
        mut claim: Claim,
        finished: Option<Finished>,
        policy: &Policy,
    ) -> Option<Until> {
        let (next, fault) = decide::after_interruption(&mut claim, policy, Wall::now());
        let cost_usd = match &finished {
            Some(finished) => self.record(&mut claim, finished, Some(&fault)),
            None => {
                // A power cut took its log; it was a start all the same.
                claim.attempts.push(Attempt {
                    started_at: claim.started_at,
                    duration_seconds: 0.0,
                    exit_code: None,
                    signal: None,
                    error_kind: Some(fault.kind),
                    error: Some(fault.error.clone()),
                    session_id: claim.session_id.clone(),
                    cost_usd: None,
                });
                0.0
            }
        };
        self.follow(claim, next, Some(&fault), finished, policy, cost_usd)
    }

    /// What holds for a job that was begun: the settings, tightened by the text that ran.
    pub(super) fn policy_of(&mut self, claim: &Claim) -> Result<Policy> {
        let policy = self.orders.policy();
        let text = self.text_of(claim, &policy)?.unwrap_or_default();
        let wishes = document::check(&text, &Meta::default(), u64::MAX, true)
            .map(|document| document.wishes);
        let mut wishes = wishes.unwrap_or_default();
        wishes.agent.get_or_insert_with(|| claim.agent.clone());
        let tightened = wishes.tighten(&policy).map(|tight| tight.into_owned());
        Ok(tightened.unwrap_or_else(|_| (*policy).clone()))
    }

    /// What the claim's last attempt has written, if it has a log.
    pub(super) fn read_back(&self, claim: &Claim, policy: &Policy) -> Result<Option<Finished>> {
        let log = |ending| log_name(&claim.job_id, claim.starts, ending);
        let dialect = dialect(claim.protocol);
        let name = log(dialect.ending);
        let Some(out) = self.spool.open_log(&name)? else {
            return Ok(None);
        };
        let err = self.spool.open_log(&log("err"))?;
        let last_word = [Some(&out), err.as_ref()]
            .into_iter()
            .flatten()
            .filter_map(|file| file.metadata().ok()?.modified().ok());
        let ran = last_word.max().map_or(Duration::ZERO, |end| {
            // A clock that was set since must not add its jump.
            Wall::from(end).min(Wall::now()).since(claim.started_at)
        });
        let files = self.agent_files(claim, policy);
        runner::read_back(out, err.as_ref(), dialect, claim.resumed, &files, ran)
            .map(Some)
            .map_err(|e| Error::io("read", &self.spool.log_path(&name), e))
    }

    /// A claim that cannot be read does not allow a start: its job is held until a person says that it may
    /// run again.
    fn park(&mut self, id: &JobId, why: &str) -> Result<()> {
        let text = format!(
            "[{}] {why}; {id}.md may have run already, so it is held: look at its logs, then job-monitor \
             release {id} runs it, job-monitor cancel {id} ends it",
            self.name()
        );
        self.say(Level::Error, text);
        self.spool.mark(id, Mark::Hold)?;
        self.spool.park_claim(id)
    }
}
