//! What a starting worker makes of the claims that it finds: the rows "interrupted", "checking" and
//! "suspended" of the table of states, after a crash.

use super::*;

impl Worker<'_> {
    /// Takes in the claims on disk, and ends what a dead daemon left: nothing of this project may run yet.
    pub fn find_claims(&mut self, has_lost_state: bool) -> Result<()> {
        let boot_id = process::boot_id()?;
        let (mut runs, mut broken) = (Vec::new(), Vec::new());
        for id in self.spool.marks()?.claims {
            let is_done = self.spool.has_result(&id)?;
            let read = self.spool.read_claim(&id);
            if let Ok(Some(claim)) = &read {
                let process = claim.process.filter(|_| claim.boot_id == boot_id);
                let token = Token::parse(&claim.run).filter(|_| claim.suspended.is_none());
                runs.extend(token.map(|token| (token, process)));
            }
            match read {
                Err(error) if error.is_shortage() => return Err(error),
                _ if is_done => {
                    // The crash came between the result and the sweep.
                    self.finished.add([&id])?;
                    self.spool.remove_claim(&id)?;
                }
                Ok(None) => {}
                Ok(Some(claim)) => self.jobs.set(id, State::of(claim)),
                Err(error) => broken.push((id, error)),
            }
        }
        if !runs.is_empty() || !broken.is_empty() || has_lost_state {
            let root = self.spool.root()?;
            let (killed, all_gone) = process::sweep_project(&root, &runs, Among::Everybody);
            runs.iter().for_each(|(token, _)| remove_scratch(token));
            let whose = "processes of an earlier run";
            if killed > 0 {
                self.warn(format!("{whose} had survived; they were ended ({killed})"));
            }
            if !all_gone {
                let remedy = "look for them with ps and end them by hand";
                let text = format!("{whose} cannot be ended; {remedy}");
                self.say(Level::Error, text);
            }
        }
        for (id, why) in broken {
            self.park(&id, &why)?;
        }
        Ok(())
    }

    /// Goes on with a job whose claim says that its agent runs, and it does not.
    pub fn recover(&mut self, id: &JobId) -> Result<()> {
        let Some(mut claim) = self.jobs.claim(id).cloned() else {
            return Ok(());
        };
        let policy = self.policy_of(&claim)?;
        let finished = match self.read_back(&claim, &policy) {
            Err(error) if !error.is_shortage() => {
                self.jobs.remove(id);
                self.park(id, &error)?;
                self.look_at(&id.file_name(), false)?;
                return self.look_at_marks();
            }
            other => other?,
        };
        if finished.is_none() && claim.process.is_none() && claim.boot_id == process::boot_id()? {
            // The logs are made before the agent is started, and its process is written down soon after.
            // An agent that made away with its logs is known by its process.
            return self.undo(claim);
        }
        // A power cut may have taken its log; it was a start all the same.
        let cut_off = Some(Fault::new(ErrorKind::Interrupted, ""));
        let mut finished = finished.unwrap_or_else(|| Finished::never_ran(cut_off));
        let kind = finished.verdict.as_ref().map(|fault| fault.kind);
        if kind != Some(ErrorKind::Interrupted) {
            let how = "came to its end without the monitor";
            self.info(format!("{id}.md {how}; its output counts"));
            self.conclude(claim, finished, &policy);
            return Ok(());
        }
        let (next, fault) = decide::after_interruption(&mut claim, &policy, Wall::now());
        finished.verdict = Some(fault);
        record(&mut claim, &finished);
        self.follow(claim, next, finished, &policy);
        Ok(())
    }

    /// The start came to nothing: the job stands where it stood before.
    fn undo(&mut self, claim: Claim) -> Result<()> {
        let id = claim.job_id.clone();
        if let Some(claim) = decide::undone(claim, Wall::now()) {
            self.write(Decision::Claim(Box::new(claim)));
            return Ok(());
        }
        self.spool.remove_claim(&id)?;
        self.jobs.remove(&id);
        self.look_at(&id.file_name(), true)
    }

    /// What holds for a job that was begun: the settings, tightened by the text that ran.
    pub fn policy_of(&mut self, claim: &Claim) -> Result<Policy> {
        let settings = self.post.orders.policy();
        let text = self.text_of(claim, &settings)?.unwrap_or_default();
        let document = document::check(&text, &Meta::default(), u64::MAX);
        let mut wishes = document.map_or_else(|_| Default::default(), |document| document.wishes);
        let policy = self.policy_for(&mut wishes, &mut claim.clone(), &settings);
        Ok(policy.unwrap_or_else(|_| (*settings).clone()))
    }

    /// What the claim's last attempt has written, if it has a log.
    pub fn read_back(&self, claim: &Claim, policy: &Policy) -> Result<Option<Finished>> {
        let log = |ending| log_name(&claim.job_id, claim.starts, ending);
        let dialect = dialect(claim.protocol);
        let name = log(dialect.ending);
        let Some(out) = self.spool.open_log(&name)? else {
            return Ok(None);
        };
        let err = self.spool.open_log(&log("err"))?;
        let logs = [Some(&out), err.as_ref()].into_iter().flatten();
        let last_word = logs.filter_map(|file| file.metadata().ok()?.modified().ok());
        // A clock that was set since must not add its jump.
        let since_start = |end| Wall::from(end).min(Wall::now()).since(claim.started_at);
        let ran = last_word.max().map_or(Duration::ZERO, since_start);
        let files = self.agent_files(claim, policy);
        runner::read_back(&out, err.as_ref(), dialect, claim.resumed, files, ran)
            .map(Some)
            .map_err(|e| Error::io("read", &self.spool.log_path(&name), e))
    }

    /// The agent's own files that say how a start of it ended.
    fn agent_files(&self, claim: &Claim, policy: &Policy) -> Files {
        let (context, project) = (&self.post.context, &self.post.project);
        let credentials = settings::credentials(&context.places.credentials()).unwrap_or_default();
        let variable = |name: &str| {
            let own = policy.agent.env.iter().chain(&credentials);
            let mut all = own.chain(&context.environment);
            let found = all.find(|(known, _)| known == name);
            found.map(|(_, value)| value.clone())
        };
        let (id, agent) = (&claim.job_id, &policy.agent);
        Files::of(agent, project, id, claim.starts, &variable)
    }

    /// A claim that cannot be read does not allow a start: its job is held until a person says that it may
    /// run again.
    fn park(&mut self, id: &JobId, why: &Error) -> Result<()> {
        let text = format!(
            "{why}; {id}.md may have run already, so it is held: look at its logs, then job-monitor \
             release {id} runs it, job-monitor cancel {id} ends it"
        );
        self.say(Level::Error, text);
        self.spool.mark(id, Mark::Hold)?;
        self.spool.park_claim(id)
    }
}
