//! One start of a job by its worker: claim, agent, verdict, and what follows. The order of effects
//! is the program's promise: claim durable, agent, result durable, claim removed (SPEC 4).

use super::hook;
use super::{Order, Step, Unwritten, Worker};
use crate::agent::command::{Assignment, Opening, needs_scratch, output_ending, plan};
use crate::agent::{Ending, Fault, Verdict, sum_usage};
use crate::board::Slot;
use crate::digest::sha256_hex;
use crate::document::{self, Document};
use crate::error::{Error, Result};
use crate::holds::Hold;
use crate::job::{Attempt, ErrorKind, JobId, Meta, Status};
use crate::process::{self, SpawnFault, Token};
use crate::project::{Policy, Protocol};
use crate::queue::{self, Next};
use crate::record::{Carried, Claim, Outcome, Suspension, WorkerOutput};
use crate::runner::{self, Finished};
use crate::settings;
use crate::spool::{Mark, log_name};
use crate::time::Wall;
use log::Level;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// While something cannot be written, it is tried again so often.
const WRITE_PAUSE: Duration = Duration::from_secs(2);

impl Worker<'_> {
    /// Starts a waiting job, or rejects its document.
    pub(super) fn begin(
        &mut self,
        id: JobId,
        meta: &Meta,
        text: &[u8],
        policy: &Policy,
        slot: Slot<'_>,
    ) -> Result<Step> {
        let position = self.waiting.accepted_at(&id);
        let document = document::check(
            text,
            meta,
            policy.max_document,
            self.spool.is_private_group(),
        );
        let claim = Claim {
            job_id: id,
            run: String::new(),
            boot_id: process::boot_id().to_owned(),
            starts: 0,
            started_at: Wall::now(),
            created_at: meta.mtime(),
            queue_position: position,
            document_sha256: sha256_hex(text),
            agent: policy.agent.name.clone(),
            protocol: policy.agent.protocol,
            session_id: None,
            resumed: false,
            attempts: Vec::new(),
            retries: 0,
            interruptions: 0,
            carried: Carried::default(),
            suspended: None,
        };
        match document {
            Ok(document) => self.attempt(claim, &document, Some(text), policy, slot),
            Err(reason) => {
                let fault = Fault {
                    kind: ErrorKind::Rejected,
                    error: reason,
                    resets_at: None,
                    session_unknown: false,
                };
                Ok(self.publish(self.outcome(&claim, Status::Failed, Some(&fault))))
            }
        }
    }

    /// Goes on with a job that was begun: in its session, or afresh with the text that ran.
    pub(super) fn carry_on(
        &mut self,
        claim: Claim,
        policy: &Policy,
        slot: Slot<'_>,
    ) -> Result<Step> {
        let kept = self
            .spool
            .kept_text(&claim.job_id, policy.max_document.max(1 << 20))?;
        let text = match kept.filter(|text| sha256_hex(text) == claim.document_sha256) {
            Some(text) => Some(text),
            // A power cut may have taken the copy; an unchanged document is as good.
            None => match self.spool.take(&claim.job_id, policy.max_document)? {
                crate::spool::Taken::Read(_, text)
                    if sha256_hex(&text) == claim.document_sha256 =>
                {
                    Some(text)
                }
                _ => None,
            },
        };
        let meta = Meta {
            size: 0,
            mtime_ns: 0,
            mode: 0,
            uid: 0,
        };
        let text = text.unwrap_or_default();
        match document::check(&text, &meta, u64::MAX, true) {
            Ok(document) => self.attempt(claim, &document, None, policy, slot),
            Err(_) => {
                let fault = Fault {
                    kind: ErrorKind::Interrupted,
                    error: "the text that ran was lost, so the job cannot go on; submit it again"
                        .to_owned(),
                    resets_at: None,
                    session_unknown: false,
                };
                Ok(self.publish(self.outcome(&claim, Status::Failed, Some(&fault))))
            }
        }
    }

    /// One start, from the claim to what follows. `unkept` is the text that runs, if no copy of it
    /// is kept yet.
    fn attempt(
        &mut self,
        before: Claim,
        document: &Document<'_>,
        unkept: Option<&[u8]>,
        policy: &Policy,
        slot: Slot<'_>,
    ) -> Result<Step> {
        let policy = &policy.tightened(&document.wishes);
        let id = before.job_id.clone();
        let opening = opening(&before, policy)?;
        let token = Token::new().map_err(|e| Error::io("read", Path::new("/dev/urandom"), e))?;
        let mut claim = before.clone();
        claim.run = token.as_str().to_owned();
        claim.boot_id = process::boot_id().to_owned();
        claim.starts += 1;
        claim.agent = policy.agent.name.clone();
        claim.protocol = policy.agent.protocol;
        claim.resumed = matches!(opening, Opening::Resume { .. });
        claim.session_id = match &opening {
            Opening::Fresh { session } => session.clone(),
            Opening::Resume { session, .. } => Some(session.clone()),
        };
        claim.suspended = None;

        let budget_left = policy
            .max_budget_usd
            .map(|limit| limit - cost_of(&before.attempts).unwrap_or(0.0));
        if budget_left.is_some_and(|left| left <= 0.0) {
            let fault = Fault {
                kind: ErrorKind::Budget,
                error: "the money that the job may cost was used up by its earlier starts"
                    .to_owned(),
                resets_at: None,
                session_unknown: false,
            };
            return Ok(self.publish(self.outcome(&before, Status::Failed, Some(&fault))));
        }

        // What keeps the agent from working for anybody is found before anything is claimed.
        let credentials = match settings::credentials(&self.context.places.credentials()) {
            Ok(credentials) => credentials,
            Err(error) => {
                return self.hold_before_start(
                    before,
                    policy,
                    ErrorKind::UnsafeEnv,
                    &error.to_string(),
                );
            }
        };
        let scratch = scratch_of(&token);
        let assignment = Assignment {
            project: self.spool.project(),
            job: &id,
            policy,
            wishes: &document.wishes,
            start: claim.starts,
            opening: &opening,
            body: document.body,
            has_skill: policy.agent.protocol == Protocol::Claude
                && has_task_skill(&self.spool.project().path),
            budget_left_usd: budget_left,
            run: token.as_str(),
            scratch: scratch.as_os_str(),
        };
        let (fresh, has_skill) = (
            matches!(opening, Opening::Fresh { .. }),
            assignment.has_skill,
        );
        let plan = plan(&assignment, &self.context.environment, &credentials);
        let path = plan
            .env
            .iter()
            .find(|(name, _)| name == "PATH")
            .map_or(OsStr::new(""), |(_, path)| path);
        let wanted = &plan.argv[0];
        let Some(program) =
            process::find_program(wanted.as_ref(), path, &self.spool.project().path)
        else {
            let text = format!(
                "the program {wanted:?} is not on the PATH {}; install it or mend the settings",
                path.display()
            );
            return self.hold_before_start(before, policy, ErrorKind::AgentMissing, &text);
        };
        let agent = policy.agent.name.as_str();
        for hold in self
            .context
            .board
            .lift(|hold| hold.is_of_files() && hold.agent.as_deref().is_none_or(|a| a == agent))
        {
            self.say(
                Level::Info,
                format!("[{}] mended: {}", self.name(), hold.sentence()),
            );
        }

        claim.started_at = Wall::now();
        let claim_file = match self.spool.write_claim(&claim) {
            Ok(file) => file,
            Err(error) => return Err(self.unclaimed(before, error)),
        };
        let scratch_made = needs_scratch(&policy.agent, &[&self.context.environment, &credentials])
            && std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
                .create(&scratch)
                .is_ok();
        let started = runner::start(
            &self.spool,
            &id,
            claim.starts,
            &program,
            &plan,
            &token,
            output_ending(claim.protocol),
        );
        let running = match started {
            Ok(Ok(running)) => running,
            Ok(Err(fault)) => {
                remove_scratch(&token);
                return self.not_started(before, claim, policy, &program, fault);
            }
            Err(error) => {
                remove_scratch(&token);
                return Err(self.unclaimed(before, error));
            }
        };
        // From here on the agent runs; nothing that fails may make us forget it.
        self.waiting.remove(&id);
        self.running = Some(id.clone());
        self.view.stale = true;
        let how = match claim.starts {
            1 => String::new(),
            n if fresh => format!(" (start {n}, afresh)"),
            n => format!(" (start {n}, resumed)"),
        };
        self.say(
            Level::Info,
            format!("[{}] Starting job: {id}.md{how}", self.name()),
        );
        if fresh
            && !has_skill
            && policy.agent.protocol == Protocol::Claude
            && policy.agent.prompt.is_none()
        {
            let text = format!(
                "[{}] the project has no skill task-coordination, so jobs go to the agent without it; \
                 job-monitor register --skills writes it",
                self.name()
            );
            self.say_once("skill", Level::Info, text);
        }

        // What the agent does not need is done while it runs: on a busy machine, whatever we do now
        // is done before its first instruction.
        let pid = running.agent.pid();
        let mut claim_file = Some(claim_file);
        let mut unkept = unkept;
        let mut last_reaped = Instant::now();
        let finished = running.attend(policy, || {
            if let (Some(mut file), Some(identity)) = (claim_file.take(), process::identity_of(pid))
            {
                let noted = self.spool.note_process(&mut file, &id, identity);
                self.warn_of(noted);
            }
            self.keep_text(&id, &mut unkept);
            self.look_while_running(&claim, &mut last_reaped)
        });
        self.keep_text(&id, &mut unkept);
        drop(slot);
        if scratch_made {
            remove_scratch(&token);
        }
        self.running = None;
        let step = self.conclude(claim, finished, policy);
        self.notice_mending(agent, &credentials);
        Ok(step)
    }

    /// Credentials may have been mended while the agent still failed with those `used`. The event
    /// of it is over, so the hold that was put meanwhile would stand until the next probe.
    fn notice_mending(&mut self, agent: &str, used: &[(OsString, OsString)]) {
        let is_mendable = |hold: &Hold| {
            matches!(hold.kind, ErrorKind::NotAuthenticated | ErrorKind::Billing)
                && hold.agent.as_deref() == Some(agent)
        };
        let board = &self.context.board;
        if !board.hold_of(agent).as_ref().is_some_and(is_mendable) {
            return;
        }
        let now = settings::credentials(&self.context.places.credentials());
        if now.is_ok_and(|now| now != used) {
            for hold in board.lift(is_mendable) {
                let text = format!(
                    "[{}] the credentials file has changed meanwhile, so the hold is lifted: {}",
                    self.name(),
                    hold.sentence()
                );
                self.say(Level::Info, text);
            }
        }
    }

    fn keep_text(&mut self, id: &JobId, unkept: &mut Option<&[u8]>) {
        if let Some(text) = unkept.take() {
            let kept = self.spool.keep_text(id, text);
            self.warn_of(kept);
        }
    }

    /// Trouble that changes nothing for the job.
    fn warn_of(&mut self, result: Result<()>) {
        if let Err(error) = result {
            self.say(Level::Warn, format!("[{}] {error}", self.name()));
        }
    }

    /// What a worker does while its agent runs; the end, if somebody wants it.
    fn look_while_running(&mut self, claim: &Claim, last_reaped: &mut Instant) -> Option<Ending> {
        self.write_lines();
        // Trouble with the directories can wait until the agent is done; the bell is heard on.
        let _ = self.hear(None);
        if self.view.stale {
            self.write_view(Some(claim));
        }
        if last_reaped.elapsed() > Duration::from_secs(30) {
            *last_reaped = Instant::now();
            process::reap_orphans();
        }
        if self.orders.order() == Order::Stop {
            return Some(Ending::Interrupted);
        }
        self.spool
            .has_mark(&claim.job_id, Mark::Cancel)
            .unwrap_or(false)
            .then_some(Ending::Cancelled)
    }

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
            self.context.board.works(&policy.agent.name);
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
            self.context.board.spend(self.name(), total - earlier);
        }
        claim.attempts.push(Attempt {
            started_at: claim.started_at,
            duration_seconds: round(finished.duration.as_secs_f64()),
            exit_code: finished.ended.code,
            signal: finished.ended.signal,
            error_kind: fault.map(|fault| fault.kind),
            error: fault.map(|fault| fault.error.clone()),
            session_id: session,
            cost_usd: finished.report.cost_usd.map(cents),
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
                if let Some(finished) = finished {
                    take_output(&mut outcome, &claim, finished, &self.spool.project().path);
                }
                return self.publish(outcome);
            }
            Next::Suspend(suspension) => (suspension, None),
            Next::Hold(suspension, until) => (suspension, Some(until)),
        };
        if let Some(finished) = finished {
            carry(&mut claim.carried, finished);
        }
        self.say_suspended(&claim, &suspension);
        if suspension.kind.course() == crate::job::Course::Retry && suspension.retry_at.is_some() {
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

    fn put_hold(&mut self, agent: &str, kind: ErrorKind, reason: &str, resets_at: Option<Wall>) {
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

    /// The agent cannot be started for anybody. Nothing was claimed, so nothing has changed.
    fn hold_before_start(
        &mut self,
        before: Claim,
        policy: &Policy,
        kind: ErrorKind,
        why: &str,
    ) -> Result<Step> {
        self.put_hold(&policy.agent.name, kind, why, None);
        self.give_back(before);
        Ok(Step::Again)
    }

    /// A job that was not started stands where it stood.
    fn give_back(&mut self, before: Claim) {
        if before.starts > 0 {
            self.claims.insert(0, before);
        }
    }

    /// The claim or the log could not be written: nothing runs. What is on disk is put back as far
    /// as possible; a claim that stays names a run that never was, and recovery finds nothing of it.
    fn unclaimed(&mut self, before: Claim, error: Error) -> Error {
        let undone = match before.starts {
            0 => self.spool.remove_claim(&before.job_id),
            _ => self.spool.write_claim(&before).map(drop),
        };
        if let Err(error) = undone {
            self.say(Level::Warn, format!("[{}] {error}", self.name()));
        }
        self.give_back(before);
        error
    }

    /// The system did not start the program.
    fn not_started(
        &mut self,
        before: Claim,
        mut claim: Claim,
        policy: &Policy,
        program: &Path,
        fault: SpawnFault,
    ) -> Result<Step> {
        match fault {
            SpawnFault::Missing(error) => {
                let error = Error::io("execute", program, error).to_string();
                match before.starts {
                    0 => self.spool.remove_claim(&before.job_id)?,
                    _ => drop(self.spool.write_claim(&before)?),
                }
                self.hold_before_start(before, policy, ErrorKind::AgentMissing, &error)
            }
            SpawnFault::Passing(error) => {
                let error = Error::io("start", program, error).to_string();
                let fault = Fault {
                    kind: ErrorKind::SpawnFailed,
                    error,
                    resets_at: None,
                    session_unknown: false,
                };
                self.waiting.remove(&claim.job_id);
                claim.attempts.push(Attempt {
                    started_at: claim.started_at,
                    duration_seconds: 0.0,
                    exit_code: None,
                    signal: None,
                    error_kind: Some(fault.kind),
                    error: Some(fault.error.clone()),
                    session_id: None,
                    cost_usd: None,
                });
                let mut next = queue::after_attempt(
                    &Verdict::Fault(fault.clone()),
                    &claim,
                    policy,
                    Wall::now(),
                );
                if let Next::Suspend(suspension) = &mut next {
                    // A session that was to begin with this start does not exist.
                    suspension.afresh = !claim.resumed;
                }
                Ok(self.follow(claim, next, Some(fault), None))
            }
        }
    }

    pub(super) fn publish_cancelled(&mut self, id: &JobId, claim: Option<Claim>) {
        let fault = Fault {
            kind: ErrorKind::Cancelled,
            error: "cancelled by hand".to_owned(),
            resets_at: None,
            session_unknown: false,
        };
        let policy = self.orders.policy();
        let created_at = self
            .spool
            .document_meta(id)
            .ok()
            .flatten()
            .map_or(Wall::now(), |meta| meta.mtime());
        let claim = claim.unwrap_or_else(|| Claim {
            job_id: id.clone(),
            run: String::new(),
            boot_id: String::new(),
            starts: 0,
            started_at: created_at,
            created_at,
            queue_position: self.waiting.accepted_at(id),
            document_sha256: String::new(),
            agent: policy.agent.name.clone(),
            protocol: policy.agent.protocol,
            session_id: None,
            resumed: false,
            attempts: Vec::new(),
            retries: 0,
            interruptions: 0,
            carried: Carried::default(),
            suspended: None,
        });
        let outcome = self.outcome(&claim, Status::Cancelled, Some(&fault));
        self.publish(outcome);
    }

    /// A result as far as the claim tells it.
    fn outcome(&self, claim: &Claim, status: Status, fault: Option<&Fault>) -> Outcome {
        let id = &claim.job_id;
        let ran = claim.starts > 0;
        let mut logs = Vec::new();
        if ran {
            logs.push(self.spool.log_relative(&id.file_name()));
        }
        for start in 1..=claim.starts {
            for ending in [output_ending(claim.protocol), "err"] {
                logs.push(self.spool.log_relative(&log_name(id, start, ending)));
            }
        }
        let (usage, carried) = (claim.carried.usage.clone(), &claim.carried);
        let cost_usd = cost_of(&claim.attempts);
        Outcome {
            job_id: id.clone(),
            status,
            created_at: claim.created_at,
            started_at: claim
                .attempts
                .first()
                .map(|first| first.started_at)
                .or(ran.then_some(claim.started_at)),
            completed_at: Wall::now(),
            queue_position: claim.queue_position,
            worker_output: ran.then_some(WorkerOutput {
                summary: None,
                raw_output: None,
                usage,
                cost_usd,
            }),
            audit_score: None,
            audit_notes: None,
            artifacts: Some(carried.edited.clone()).filter(|edited| !edited.is_empty()),
            error: fault.map(|fault| fault.error.clone()),
            retry_count: claim.retries,
            stdout: None,
            stderr: None,
            duration_seconds: round(
                claim
                    .attempts
                    .iter()
                    .map(|attempt| attempt.duration_seconds)
                    .sum(),
            ),
            error_kind: fault.map(|fault| fault.kind),
            project: self.name().to_owned(),
            agent: claim.agent.clone(),
            agent_version: None,
            model: None,
            session_id: claim.session_id.clone(),
            num_turns: carried.num_turns,
            attempts: claim.attempts.clone(),
            permission_denials: carried.permission_denials.clone(),
            leftovers: carried.leftovers,
            document_sha256: ran.then(|| claim.document_sha256.clone()),
            logs,
        }
    }

    fn publish(&mut self, outcome: Outcome) -> Step {
        self.write_now(Unwritten::Result(Box::new(outcome)))
    }

    /// Brings a decision to disk, or keeps it until that is possible.
    pub(super) fn write_now(&mut self, unwritten: Unwritten) -> Step {
        self.view.stale = true;
        let written = match &unwritten {
            Unwritten::Result(outcome) => self.spool.publish(outcome),
            Unwritten::Claim(claim) => self.spool.write_claim(claim).map(drop),
        };
        match (written, unwritten) {
            (Ok(()), Unwritten::Result(outcome)) => {
                self.told.remove("unwritten");
                self.finish(&outcome);
                Step::Again
            }
            (Ok(()), Unwritten::Claim(claim)) => {
                self.told.remove("unwritten");
                self.claims.insert(0, *claim);
                Step::Again
            }
            (Err(error), unwritten) => {
                self.unwritten = Some(unwritten);
                let text = format!(
                    "[{}] {error}; what was decided is kept and written when that is possible, and nothing is \
                     started until then",
                    self.name()
                );
                self.say_once("unwritten", Level::Error, text);
                Step::Wait(Some(Instant::now() + WRITE_PAUSE))
            }
        }
    }

    /// After the result is there: what was only there for the job's sake goes.
    fn finish(&mut self, outcome: &Outcome) {
        let id = &outcome.job_id;
        self.waiting.remove(id);
        let swept = [
            self.spool.remove_claim(id),
            self.spool.unmark(id, Mark::Cancel),
            self.spool.unmark(id, Mark::Hold),
            self.spool.unmark(id, Mark::Release),
        ];
        self.marks.held.remove(id);
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
                "[{}] {id}.md left {} processes behind; they were ended",
                self.name(),
                outcome.leftovers
            );
            self.say(Level::Warn, text);
        }
        if let Some(command) = &policy.on_finish {
            self.write_lines();
            let result = self.spool.result_path(id);
            let stop = || self.orders.order() == Order::Stop;
            if let Err(what) = hook::run(
                command,
                outcome,
                &result,
                self.spool.project(),
                &self.context.environment,
                stop,
            ) {
                self.say(
                    Level::Warn,
                    format!("[{}] on_finish for {id}.md: {what}", self.name()),
                );
            }
        }
    }
}

/// How a start begins: in the session of the one before, unless there is none to go on with.
fn opening(claim: &Claim, policy: &Policy) -> Result<Opening> {
    let suspended = claim.suspended.as_ref();
    if policy.agent.protocol == Protocol::Plain {
        return Ok(Opening::Fresh { session: None });
    }
    match (&claim.session_id, suspended) {
        (Some(session), Some(suspension))
            if !suspension.afresh && claim.protocol == Protocol::Claude =>
        {
            Ok(Opening::Resume {
                session: session.clone(),
                because: suspension.kind,
            })
        }
        _ => {
            let session =
                process::uuid().map_err(|e| Error::io("read", Path::new("/dev/urandom"), e))?;
            Ok(Opening::Fresh {
                session: Some(session),
            })
        }
    }
}

/// A job's cost: the last running total of each session, summed (SPEC 7).
fn cost_of(attempts: &[Attempt]) -> Option<f64> {
    let mut sessions: Vec<(Option<&str>, f64)> = Vec::new();
    for attempt in attempts {
        let Some(total) = attempt.cost_usd else {
            continue;
        };
        let session = attempt.session_id.as_deref();
        match sessions.iter_mut().find(|(known, _)| *known == session) {
            Some((_, last)) => *last = total,
            None => sessions.push((session, total)),
        }
    }
    (!sessions.is_empty()).then(|| cents(sessions.iter().map(|(_, total)| total).sum()))
}

/// Puts the last attempt's output into a result, on top of what earlier ones brought.
fn take_output(outcome: &mut Outcome, claim: &Claim, finished: Finished, root: &Path) {
    let Finished { report, stderr, .. } = finished;
    let text = Some(report.text).filter(|text| !text.is_empty());
    let mut files: Vec<String> = Vec::new();
    let named = report
        .audit
        .artifacts
        .into_iter()
        .chain(claim.carried.edited.clone())
        .chain(report.edited);
    for path in named {
        let path = Path::new(&path)
            .strip_prefix(root)
            .map_or(path.as_str(), |rest| rest.to_str().unwrap_or(&path));
        let path = path.strip_prefix("./").unwrap_or(path);
        if !files.iter().any(|known| known == path) {
            files.push(path.to_owned());
        }
    }
    outcome.worker_output = Some(WorkerOutput {
        summary: report.answer,
        raw_output: text.clone(),
        usage: sum_usage(claim.carried.usage.clone(), report.usage),
        cost_usd: cost_of(&claim.attempts),
    });
    outcome.stdout = text;
    outcome.stderr = Some(stderr).filter(|text| !text.is_empty());
    (outcome.audit_score, outcome.audit_notes) = (report.audit.score, report.audit.notes);
    outcome.artifacts = Some(files).filter(|files| !files.is_empty());
    (outcome.agent_version, outcome.model) = (report.agent_version, report.model);
    outcome.num_turns = sum_turns(claim.carried.num_turns, report.num_turns);
    unite(&mut outcome.permission_denials, report.permission_denials);
}

/// Keeps for the result what an attempt brought that is not the last.
fn carry(carried: &mut Carried, finished: Finished) {
    let report = finished.report;
    carried.usage = sum_usage(carried.usage.take(), report.usage);
    carried.num_turns = sum_turns(carried.num_turns, report.num_turns);
    unite(&mut carried.edited, report.edited);
    unite(&mut carried.permission_denials, report.permission_denials);
}

fn sum_turns(before: Option<u64>, now: Option<u64>) -> Option<u64> {
    match (before, now) {
        (Some(before), Some(now)) => Some(before + now),
        (before, now) => before.or(now),
    }
}

fn unite<T: PartialEq>(all: &mut Vec<T>, more: Vec<T>) {
    for one in more {
        if !all.contains(&one) {
            all.push(one);
        }
    }
}

/// Money to a ten-thousandth of a cent; what is below is the noise of adding binary fractions.
fn cents(usd: f64) -> f64 {
    (usd * 1e6).round() / 1e6
}

fn round(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// Whether the project has the skill that the built-in prompt of the claude protocol calls.
fn has_task_skill(root: &Path) -> bool {
    let dir = root.join(".claude");
    dir.join("skills/task-coordination/SKILL.md").is_file()
        || dir.join("commands/task-coordination.md").is_file()
}

/// Where a start's agent keeps temporary files: a short path, since sockets are made in it, and
/// one that the claim's token leads back to after a crash.
fn scratch_of(token: &Token) -> PathBuf {
    std::env::temp_dir().join(format!("job-monitor-{}", &token.as_str()[..16]))
}

/// Removes a start's temporary files, if there are any.
pub(super) fn remove_scratch(token: &Token) {
    let path = scratch_of(token);
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            log::warn!("{}", Error::io("remove", &path, error));
        }
        _ => {}
    }
}
