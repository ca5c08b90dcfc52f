//! Proof: the gate, which must succeed before a job's first start, and the check, which must succeed before
//! a job counts as completed (SPEC 7).

use super::*;

/// A gate has so long, as hooks have.
const GATE_MAX: Duration = Duration::from_secs(60);
/// Until a gate that is shut, or a check that cannot be started, is tried again.
const PAUSE: Duration = Duration::from_secs(60);

impl Worker<'_> {
    /// Whether a job may be started: its check can be run afterwards, and before its first start the gate,
    /// which is run for that, lets it pass. Else the project is held.
    pub fn may_start(&mut self, claim: &Claim) -> Result<bool> {
        let policy = Arc::clone(&self.policy);
        match policy.check.as_ref().map(|argv| self.program_of(argv)) {
            Some(Err(error)) => {
                self.hold_a_minute(Kind::Check, format!("the check {error}"));
                return Ok(false);
            }
            Some(Ok(_)) => self.hold_project(Kind::Check, None),
            None => {}
        }
        let Some(argv) = policy.gate.as_ref().filter(|_| claim.starts == 0) else {
            return Ok(true);
        };
        let (told, out) = (self.told_of(claim, None), files::in_memory(b"")?);
        let why = match self.run_command(argv, told, Some((&claim.job_id, &out)), GATE_MAX) {
            Ok((check, ..)) if check.exit_code == Some(0) => {
                self.hold_project(Kind::Gate, None);
                // Meanwhile a person may have held the job, or taken it back.
                self.hear(None)?;
                return Ok(decide(&self.jobs, None, now()) == Step::Start(claim.job_id.clone()));
            }
            Ok((_, Ending::Interrupted | Ending::Cancelled, _)) => return Ok(false),
            Ok((check, ..)) => match check.output.trim().lines().last() {
                Some(said) => said.to_owned(),
                None => format!("it {}", how(&check, GATE_MAX)),
            },
            Err(error) => error.to_string(),
        };
        self.hold_a_minute(Kind::Gate, why);
        Ok(false)
    }

    /// Holds the project, and has the worker wait for a minute, or until something rings.
    fn hold_a_minute(&mut self, kind: Kind, reason: String) {
        let now = now();
        let until = Some(now.wall.plus(PAUSE));
        self.hold_project(kind, Some((reason, until)));
        self.closed = Some(Some(now.instant + PAUSE));
    }

    /// Runs the check of a job whose agent did its work.
    pub fn check(&mut self, mut claim: Claim) -> Result<()> {
        let id = &claim.job_id.clone();
        self.take_policy_of(&mut claim)?;
        let policy = Arc::clone(&self.policy);
        let mut finished = self.read_back(&claim)?.unwrap_or_default();
        let Some(argv) = &policy.check else {
            finished.verdict = None;
            self.follow(claim, Next::Publish, finished);
            return Ok(());
        };
        let name = job::check_log(id, claim.checks.len() as u32 + 1);
        let out = self.spool.logs()?.create_file(&name)?;
        self.view.fresh = false;
        let told = self.told_of(&claim, None);
        let ran = self.run_command(argv, told, Some((id, &out)), policy.check_timeout);
        let (check, by, leftovers) = match ran {
            Ok(ran) => ran,
            Err(error) => {
                // Nothing could be proved, so nothing else is begun either.
                self.hold_a_minute(Kind::Check, format!("the check {error}"));
                return Ok(());
            }
        };
        self.hold_project(Kind::Check, None);
        claim.carried.leftovers += leftovers;
        let (next, fault) = match by {
            // The claim says that it is to be checked, and so the next start of the daemon does.
            Ending::Interrupted => return Ok(()),
            Ending::Cancelled => (Next::Publish, forced(by)),
            _ => {
                claim.checks.push(check);
                decide::after_check(&claim, &policy, Wall::now())
            }
        };
        finished.verdict = fault;
        self.follow(claim, next, finished);
        Ok(())
    }
}
