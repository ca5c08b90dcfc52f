//! One start of a job by its worker: claim, agent, verdict, and what follows. The order of effects
//! is the program's promise: claim durable, agent, result durable, claim removed (SPEC 4).

use super::{Order, Step, Worker};
use crate::agent::plan::{Assignment, Because, Opening, plan};
use crate::agent::{Dialect, Ending, Fault, Sessions, Verdict, dialect};
use crate::board::{Slot, stamp};
use crate::digest::sha256_hex;
use crate::document::{self, Document};
use crate::error::{Error, Result};
use crate::files::Signature;
use crate::job::{Attempt, ErrorKind, JobId, Meta, Status, log_name};
use crate::outcome;
use crate::process::{self, SpawnFault, Token};
use crate::project::Policy;
use crate::queue::{self, Next};
use crate::record::Claim;
use crate::runner;
use crate::settings;
use crate::spool::{Mark, Taken};
use crate::time::Wall;
use log::Level;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

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
        let document = document::check(text, meta, policy.max_document, false);
        let claim = Claim::new(id, meta.mtime(), position, sha256_hex(text), &policy.agent);
        match document {
            Ok(document) => self.attempt(claim, &document, Some(text), policy, slot),
            Err(reason) => {
                let fault = Fault::new(ErrorKind::Rejected, reason);
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
        let text = self.text_of(&claim, policy)?;
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
                let fault = Fault::new(
                    ErrorKind::Interrupted,
                    "the text that ran was lost, so the job cannot go on; submit it again",
                );
                Ok(self.publish(self.outcome(&claim, Status::Failed, Some(&fault))))
            }
        }
    }

    /// The text that a begun job runs. The daemon may have died before the copy of it was made, a
    /// power cut may have taken the copy: an unchanged document is as good, and is kept then.
    pub(super) fn text_of(&mut self, claim: &Claim, policy: &Policy) -> Result<Option<Vec<u8>>> {
        let id = &claim.job_id;
        let kept = match self.spool.kept_text(id, policy.max_document.max(1 << 20)) {
            Err(error) if !error.is_shortage() => {
                self.warn_of(Err(error));
                None
            }
            kept => kept?,
        };
        let is_it = |text: &Vec<u8>| sha256_hex(text) == claim.document_sha256;
        if let Some(text) = kept.filter(is_it) {
            return Ok(Some(text));
        }
        match self.spool.take(id, policy.max_document)? {
            Taken::Read(_, text) if is_it(&text) => {
                self.keep_text(id, &mut Some(&text));
                Ok(Some(text))
            }
            _ => Ok(None),
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
        self.take_place()?;
        let policy = &*match document.wishes.tighten(policy) {
            Ok(policy) => policy,
            Err(reason) => {
                let fault = Fault::new(ErrorKind::Rejected, reason);
                return Ok(self.publish(self.outcome(&before, Status::Failed, Some(&fault))));
            }
        };
        let id = before.job_id.clone();
        let opening = opening(&before, policy)?;
        let token = Token::new(&self.spool.root()?)
            .map_err(|e| Error::io("read", Path::new("/dev/urandom"), e))?;
        let mut claim = before.clone();
        claim.run = token.as_str().to_owned();
        claim.boot_id = process::boot_id()?.to_owned();
        claim.starts += 1;
        claim.agent = policy.agent.name.clone();
        claim.protocol = policy.agent.protocol;
        claim.resumed = matches!(opening, Opening::Resume { .. });
        claim.session_id = match &opening {
            Opening::Fresh { session, .. } => session.clone(),
            Opening::Resume { session, .. } => Some(session.clone()),
        };
        claim.suspended = None;

        let budget_left = policy
            .max_budget_usd
            .map(|limit| limit - outcome::cost_of(&before.attempts).unwrap_or(0.0));

        // What keeps the agent from working for anybody is found before anything is claimed.
        self.used = vec![stamp(self.context.places.credentials())];
        let credentials = match settings::credentials(&self.context.places.credentials()) {
            Ok(credentials) => credentials,
            Err(error) if error.is_shortage() => return Err(error),
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
            has_skill: has_task_skill(dialect(policy.agent.protocol), &self.spool.project().path),
            budget_left_usd: budget_left,
            run: token.as_str(),
            scratch: scratch.as_os_str(),
        };
        let (fresh, has_skill) = (
            matches!(opening, Opening::Fresh { .. }),
            assignment.has_skill,
        );
        let plan = match plan(&assignment, &self.context.environment, &credentials) {
            Ok(plan) => plan,
            Err(fault) => {
                return Ok(self.publish(self.outcome(&before, Status::Failed, Some(&fault))));
            }
        };
        let path = plan
            .env
            .iter()
            .find(|(name, _)| *name == "PATH")
            .map_or(OsStr::new(""), |(_, path)| path);
        let get = |wanted: &str| {
            let mut named = plan.env.iter().filter(|(name, _)| *name == wanted);
            named.next().map(|(_, value)| value.to_os_string())
        };
        let login = (plan.dialect.login)(&get);
        self.used
            .extend(login.map(|path| stamp(self.spool.project().path.join(path))));
        let wanted = &plan.argv[0];
        let program = match process::find_program(wanted.as_ref(), path, &self.spool.project().path)
        {
            Ok(program) => program,
            Err(missing) => {
                let kind = ErrorKind::AgentMissing;
                return self.hold_before_start(before, policy, kind, &missing.why);
            }
        };
        self.used.push(stamp(program.clone()));
        // An output that lies there already is of another run: of a job whose result was deleted, or
        // of one whose name ends like ours. After a crash it would be read back as this one's.
        let output = log_name(&id, claim.starts, dialect(claim.protocol).ending);
        self.spool.remove_log(&output)?;
        claim.started_at = Wall::now();
        let claim_file = match self.spool.write_claim(&claim) {
            Ok(file) => file,
            Err(error) => return Err(self.unclaimed(before, error)),
        };
        let scratch_made = plan.uses_scratch
            && std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700)
                .create(&scratch)
                .is_ok();
        let started = runner::start(&self.spool, &id, claim.starts, &program, &plan, &token);
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
        let lifted = slot.started(claim.started_at);
        self.say_lifted(lifted, "its agent has started");
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
            && dialect(policy.agent.protocol).skill_call.is_some()
            && policy.agent.prompt.is_none()
        {
            let text = format!(
                "[{}] the project has no skill task-coordination, so jobs go to the agent without it; \
                 job-monitor register --skills {} writes it",
                self.name(),
                self.spool.project().path.display()
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
        if scratch_made {
            remove_scratch(&token);
        }
        self.running = None;
        drop(slot);
        Ok(self.conclude(claim, finished, policy))
    }

    /// Keeps a copy of the text that runs; where that fails, `unkept` stays for another try.
    fn keep_text(&mut self, id: &JobId, unkept: &mut Option<&[u8]>) {
        let Some(text) = *unkept else { return };
        match self.spool.keep_text(id, text) {
            Ok(()) => {
                *unkept = None;
                self.told.remove("unkept");
            }
            Err(error) => {
                self.say_once("unkept", Level::Warn, format!("[{}] {error}", self.name()));
            }
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
        let _ = self.hear(None).and_then(|()| self.withdraw_cancelled());
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

    /// The agent cannot be started for anybody. Nothing was claimed, so nothing has changed.
    fn hold_before_start(
        &mut self,
        before: Claim,
        policy: &Policy,
        kind: ErrorKind,
        why: &str,
    ) -> Result<Step> {
        self.put_hold(policy, None, &Fault::new(kind, why));
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
            SpawnFault::Missing(_)
                if Signature::at(&self.spool.project().path.join(".")).is_err() =>
            {
                // The project was moved or unmounted: that is no fault of the agent's, and must not
                // hold it for all the others.
                let what = "the project's directory cannot be entered";
                let error = Error::new(format!("{}: {what}", self.spool.project().path.display()));
                Err(self.unclaimed(before, error))
            }
            SpawnFault::Missing(error) => {
                let error = format!(
                    "{}; job-monitor doctor says what it needs",
                    Error::io("execute", program, error)
                );
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
                Ok(self.follow(claim, policy, next, Some(fault), None))
            }
        }
    }
}

/// How a start begins: in the session of the one before, unless there is none to go on with.
fn opening(claim: &Claim, policy: &Policy) -> Result<Opening> {
    let suspended = claim.suspended.as_ref();
    let fresh = |session| {
        Ok(Opening::Fresh {
            session,
            because: None,
        })
    };
    let sessions = dialect(policy.agent.protocol).sessions;
    if sessions == Sessions::None {
        return fresh(None);
    }
    match (&claim.session_id, suspended) {
        (Some(session), Some(suspension))
            if !suspension.afresh && claim.protocol == policy.agent.protocol =>
        {
            Ok(Opening::Resume {
                session: session.clone(),
                because: Because::Ended(suspension.kind),
            })
        }
        _ if sessions == Sessions::Told => fresh(None),
        _ => {
            let session =
                process::uuid().map_err(|e| Error::io("read", Path::new("/dev/urandom"), e))?;
            fresh(Some(session))
        }
    }
}

/// Whether the project has the skill that the built-in prompt calls.
fn has_task_skill(dialect: &Dialect, root: &Path) -> bool {
    dialect.skills.iter().any(|path| root.join(path).is_file())
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
