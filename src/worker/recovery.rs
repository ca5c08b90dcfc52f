//! What a starting worker makes of the claims that it finds: the rows "interrupted", "checking" and
//! "suspended" of the table of states, after a crash.

use super::*;

impl Worker<'_> {
    /// Takes in the claims on disk, and ends what a dead daemon left: nothing of this project may run yet.
    pub fn find_claims(&mut self, has_lost_state: bool) -> Result<()> {
        let (mut runs, mut is_unknown) = (Vec::new(), has_lost_state);
        for id in self.spool.marks()?.claims {
            let claim = match lift_shortage(self.spool.read_claim(&id))? {
                Err(error) => {
                    self.warn(error);
                    is_unknown = true;
                    // One that tells of no start stands for it, and `recover` ends the job.
                    Some(self.new_claim(&id))
                }
                Ok(claim) => claim,
            };
            let Some(claim) = claim else { continue };
            let process = claim.process.filter(|_| claim.boot_id == *process::BOOT_ID);
            let token = Token::parse(&claim.run).filter(|_| claim.suspended.is_none());
            runs.extend(token.map(|token| (token, process)));
            if self.spool.has_result(&id)? {
                // The crash came between the result and the sweep.
                self.finished.add([&id])?;
                let removed = self.spool.remove_claim(&id);
                self.or_warn(removed);
            } else {
                self.jobs.set(claim);
            }
        }
        if !runs.is_empty() || is_unknown {
            let root = self.spool.root()?;
            let (killed, all_gone) = process::sweep_project(&root, &runs, process::everybody);
            runs.iter().for_each(|(token, _)| remove_scratch(token));
            let whose = "processes of an earlier run";
            if killed > 0 {
                self.warn(format!("{whose} had survived; they were ended ({killed})"));
            }
            if !all_gone {
                let remedy = "look for them with ps and end them by hand";
                self.say(Level::Error, format!("{whose} cannot be ended; {remedy}"));
            }
        }
        Ok(())
    }

    /// Goes on with a job whose claim says that its agent runs, and it does not.
    pub fn recover(&mut self, mut claim: Claim) -> Result<()> {
        let id = &claim.job_id.clone();
        self.take_policy_of(&mut claim)?;
        let read = match claim.starts {
            0 => Err(Error::new("its claim cannot be read")),
            _ => self.read_back(&claim),
        };
        let finished = match lift_shortage(read)? {
            Ok(finished) => finished,
            Err(error) => {
                let what = "so nobody knows whether the job was done";
                let text = format!("{error}, {what}; job-monitor retry {id} runs it again");
                self.fail(claim, Fault::new(ErrorKind::Interrupted, text));
                return Ok(());
            }
        };
        if finished.is_none() && claim.process.is_none() && claim.boot_id == *process::BOOT_ID {
            // The logs are made before the agent is started, and its process is written down soon after.
            // An agent that made away with its logs is known by its process.
            return self.undo(claim);
        }
        // A power cut may have taken its log; it was a start all the same.
        let cut_off = Fault::new(ErrorKind::Interrupted, "");
        let mut finished = finished.unwrap_or_else(|| Finished::without_run(cut_off));
        let kind = finished.verdict.as_ref().map(|fault| fault.kind);
        if kind != Some(ErrorKind::Interrupted) {
            let how = "came to its end without the monitor";
            self.info(format!("{id}.md {how}; its output counts"));
            self.conclude(claim, finished);
            return Ok(());
        }
        let (next, fault) = decide::after_interruption(&mut claim, &self.policy, Wall::now());
        finished.verdict = Some(fault);
        record(&mut claim, &finished);
        self.follow(claim, next, finished);
        Ok(())
    }

    /// The start came to nothing: the job stands where it stood before.
    fn undo(&mut self, claim: Claim) -> Result<()> {
        let id = claim.job_id.clone();
        if let Some(claim) = decide::undone(claim, Wall::now()) {
            self.keep_claim(claim);
            return Ok(());
        }
        self.spool.remove_claim(&id)?;
        self.jobs.remove(&id);
        self.look_at(&id.file_name(), true)
    }

    /// Takes in what holds for a job that was begun: the settings, tightened by the text that ran.
    pub fn take_policy_of(&mut self, claim: &mut Claim) -> Result<()> {
        self.policy = self.post.policy();
        let text = self.text_of(claim)?.unwrap_or_default();
        if let Ok(mut document) = document::check(&text, &Meta::default(), u64::MAX) {
            // Where its wishes can no longer be met, the settings hold.
            let _ = self.take_wishes(&mut document.wishes, claim);
        }
        Ok(())
    }

    /// What the claim's last attempt has written, if it has a log.
    pub fn read_back(&self, claim: &Claim) -> Result<Option<Finished>> {
        let log = |ending| job::log_name(&claim.job_id, claim.starts, ending);
        let name = log(dialect(claim.protocol).ending);
        let logs = self.spool.logs()?;
        let Some(out) = logs.open_file(&name)? else {
            return Ok(None);
        };
        let err = logs.open_file(&log("err"))?;
        let last_word = out.metadata().ok().and_then(|meta| meta.modified().ok());
        // A clock that was set since must not add its jump.
        let since_start = |end| Wall::from(end).min(Wall::now()).since(claim.started_at);
        let ran = last_word.map_or(Duration::ZERO, since_start);
        let read = Output::new(claim, out, err).read_back(ran);
        read.map(Some)
            .map_err(|e| Error::io("read", &logs.path_of(&name), e))
    }
}
