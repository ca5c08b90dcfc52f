//! What a starting worker makes of claims that it finds: the rows "running" and "suspended" of
//! the table of states, after a crash.

use super::attempt::remove_scratch;
use super::{Unwritten, Worker};
use crate::agent::dialect;
use crate::error::{Error, Result};
use crate::job::log_name;
use crate::job::{Attempt, ErrorKind, JobId};
use crate::process::{self, Token};
use crate::queue;
use crate::record::{Claim, Identity, Suspension};
use crate::runner;
use crate::spool::Mark;
use crate::time::Wall;
use log::Level;
use std::time::Duration;

impl Worker<'_> {
    /// Goes through all claims, first to last, and sweeps what has no job any more.
    pub(super) fn recover(&mut self) -> Result<()> {
        for id in std::mem::take(&mut self.marks.claims) {
            let claim = match self.spool.read_claim(&id) {
                Err(error) if error.is_shortage() => return Err(error),
                other => other,
            };
            if self.spool.has_result(&id)? {
                // The crash came between the result and the sweep.
                if let Ok(Some((claim, process))) = claim {
                    self.end_survivors(&claim, process)?;
                }
                self.spool.remove_claim(&id)?;
                continue;
            }
            match claim {
                Ok(Some((claim, process))) => self.recover_claim(claim, process)?,
                Ok(None) => {}
                Err(error) => self.park(&id, &error.to_string())?,
            }
            if !self.unwritten.is_empty() {
                // The claim on disk still says all that is needed to decide the same again.
                return Err(Error::new(format!(
                    "the outcome of {id}.md cannot be written yet"
                )));
            }
        }
        self.claims.sort_unstable_by(|a, b| a.job_id.cmp(&b.job_id));
        let over = |id: &&JobId| self.spool.has_result(id).unwrap_or(false);
        let stale: Vec<JobId> = self
            .marks
            .cancelled
            .iter()
            .chain(&self.marks.held)
            .filter(over)
            .cloned()
            .collect();
        for id in stale {
            self.spool.unmark(&id, Mark::Cancel)?;
            self.spool.unmark(&id, Mark::Hold)?;
        }
        Ok(())
    }

    fn recover_claim(&mut self, claim: Claim, process: Option<Identity>) -> Result<()> {
        if claim.suspended.is_some() {
            self.claims.push(claim);
            return Ok(());
        }
        let id = claim.job_id.clone();
        self.end_survivors(&claim, process)?;
        let policy = self.orders.policy();
        let policy = match self.text_of(&claim, &policy)? {
            Some(text) => {
                let meta = crate::job::Meta {
                    size: 0,
                    mtime_ns: 0,
                    mode: 0,
                    uid: 0,
                };
                let wishes = crate::document::check(&text, &meta, u64::MAX, true)
                    .map(|document| document.wishes);
                let wishes = wishes.unwrap_or_default();
                wishes
                    .tighten(&policy)
                    .map_or_else(|_| (*policy).clone(), |tight| tight.into_owned())
            }
            None => (*policy).clone(),
        };
        let finished = match self.written(&claim) {
            Err(error) if !error.is_shortage() => return self.park(&id, &error.to_string()),
            other => other?,
        };
        if finished.is_none() && process.is_none() && claim.boot_id == process::boot_id()? {
            // The logs are made before the agent is started, and its process is written down soon
            // after. An agent that made away with its logs is known by its process.
            return self.not_begun(claim);
        }
        match finished {
            Some(finished) if runner::is_settled(&finished) => {
                let text = format!(
                    "[{}] {id}.md came to its end without the monitor; its output counts",
                    self.name()
                );
                self.say(Level::Info, text);
                self.conclude(claim, finished, &policy);
                Ok(())
            }
            finished => self.interrupt(claim, finished, &policy),
        }
    }

    /// What the claim's last attempt has written, if it has a log.
    fn written(&self, claim: &Claim) -> Result<Option<runner::Finished>> {
        let log = |ending| log_name(&claim.job_id, claim.starts, ending);
        let name = log(dialect(claim.protocol).ending);
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
        let dialect = dialect(claim.protocol);
        let get = |name: &str| {
            let mut known = self.context.environment.iter();
            known
                .find(|(own, _)| own == name)
                .map(|(_, value)| value.clone())
        };
        let files = runner::Files {
            witness: dialect.witness.and_then(|witness| (witness.below)(&get)),
            ..runner::Files::default()
        };
        runner::read_back(out, err.as_ref(), dialect, claim.resumed, &files, ran)
            .map(Some)
            .map_err(|e| Error::io("read", &self.spool.log_path(&name), e))
    }

    /// The crash came between claim and start: the job stands where it stood before.
    fn not_begun(&mut self, mut claim: Claim) -> Result<()> {
        if claim.starts <= 1 {
            return self.spool.remove_claim(&claim.job_id);
        }
        claim.starts -= 1;
        claim.suspended = Some(Suspension {
            kind: ErrorKind::Interrupted,
            error: "the monitor or the machine went down before the job went on".to_owned(),
            retry_at: Some(Wall::now()),
            afresh: !claim.resumed,
        });
        self.write_now(Unwritten::Claim(Box::new(claim)));
        Ok(())
    }

    fn interrupt(
        &mut self,
        mut claim: Claim,
        finished: Option<runner::Finished>,
        policy: &crate::project::Policy,
    ) -> Result<()> {
        claim.interruptions += 1;
        let fault = queue::interrupted(&claim);
        match &finished {
            Some(finished) => self.record(&mut claim, finished, Some(&fault)),
            // A power cut took its log; it was a start all the same.
            None => claim.attempts.push(Attempt {
                started_at: claim.started_at,
                duration_seconds: 0.0,
                exit_code: None,
                signal: None,
                error_kind: Some(fault.kind),
                error: Some(fault.error.clone()),
                session_id: claim.session_id.clone(),
                cost_usd: None,
            }),
        }
        let next = queue::after_interruption(&claim, policy, Wall::now());
        self.follow(claim, policy, next, Some(fault), finished);
        Ok(())
    }

    /// Ends what the dead daemon's run left, before anything else may start in the project.
    fn end_survivors(&mut self, claim: &Claim, process: Option<Identity>) -> Result<()> {
        let Some(token) = Token::parse(&claim.run) else {
            return Ok(());
        };
        let same_boot = claim.boot_id == process::boot_id()?;
        let (killed, gone) = process::sweep_project(
            &self.spool.root()?,
            &[(token.clone(), process.filter(|_| same_boot))],
        );
        remove_scratch(&token);
        self.say_of_survivors(&claim.job_id, killed, gone);
        Ok(())
    }

    /// Ends what runs whose claims are lost have left: what they ran may be the very job that is
    /// next, and there are never two agents in one project.
    pub(super) fn end_unclaimed(&mut self) {
        let (killed, gone) = process::sweep_project(&self.spool.root().unwrap_or_default(), &[]);
        self.say_of_survivors_of("jobs whose claims are lost", killed, gone);
    }

    fn say_of_survivors(&mut self, id: &JobId, killed: u32, gone: bool) {
        self.say_of_survivors_of(&id.file_name(), killed, gone);
    }

    fn say_of_survivors_of(&mut self, whose: &str, killed: u32, gone: bool) {
        let name = self.name().to_owned();
        if killed > 0 {
            let text =
                format!("[{name}] processes of {whose} had survived; they were ended ({killed})");
            self.say(Level::Warn, text);
        }
        if !gone {
            let text = format!(
                "[{name}] processes of {whose} cannot be ended; look for them with ps and end them by hand"
            );
            self.say(Level::Error, text);
        }
    }

    /// A claim that cannot be read is no permission to start: its job is held until a person says
    /// that it may run again.
    fn park(&mut self, id: &JobId, why: &str) -> Result<()> {
        let text = format!(
            "[{}] {why}; {id}.md may have run already, so it is held: look at its logs, then job-monitor \
             release {id} runs it, job-monitor cancel {id} ends it",
            self.name()
        );
        self.say(Level::Error, text);
        // Whatever it ran must not work beside the project's next job.
        let (killed, gone) = process::sweep_project(&self.spool.root()?, &[]);
        self.say_of_survivors(id, killed, gone);
        self.spool.mark(id, Mark::Hold)?;
        self.marks.held.insert(id.clone());
        self.spool.park_claim(id)
    }
}
