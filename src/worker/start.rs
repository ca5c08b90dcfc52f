//! One start of a job: document, hold, gate, claim, agent. The order of effects is the program's promise:
//! claim durable, agent, result durable, claim removed (SPEC 4).

use super::{Order, Worker, now};
use crate::agent::plan::{Assignment, Opening, fill, plan};
use crate::agent::{Ending, Fault, Report, dialect};
use crate::board::{self, Slot};
use crate::decide::{self, Readiness, State, Step, Until};
use crate::digest::sha256_hex;
use crate::document::{self, Document};
use crate::error::{Error, Result};
use crate::git;
use crate::holds::{Failure, Stamp};
use crate::job::{Attempt, ErrorKind, JobId, Meta, log_name};
use crate::outcome;
use crate::process::{self, Agent, SpawnFault, Token};
use crate::project::Policy;
use crate::record::{Claim, Inherited};
use crate::runner::{self, Files};
use crate::settings;
use crate::spool::{Mark, Taken};
use crate::time::Wall;
use log::Level;
use serde::Deserialize;
use std::ffi::{OsStr, OsString};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Until a document that could not be read is tried again.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);
/// A document that somebody writes is not looked at again sooner, whatever `settle` says.
const WRITER_PAUSE_MIN: Duration = Duration::from_millis(50);
/// Orphans of long agents are reaped so often.
const REAP_PAUSE: Duration = Duration::from_secs(30);

/// Name and value of environment variables.
pub(super) type Variables = Vec<(OsString, OsString)>;

impl Worker<'_> {
    /// Starts a job, or goes on with it, and attends its agent to the end; unless its document does not
    /// count yet or is no job, or somebody holds it.
    pub(super) fn start(&mut self, id: JobId) -> Result<Option<Until>> {
        self.take_place()?;
        let settings = self.orders.policy();
        let (mut claim, text, meta) = match self.jobs.claim(&id).cloned() {
            Some(claim) => match self.text_of(&claim, &settings)? {
                Some(text) => (claim, text, Meta::default()),
                None => {
                    let lost =
                        "the text that ran was lost, so the job cannot go on; submit it again";
                    let fault = Fault::new(ErrorKind::Interrupted, lost);
                    return Ok(self.fail(claim, fault, &settings));
                }
            },
            None => match self.take(&id, &settings)? {
                Some((meta, text)) => {
                    let position = self.jobs.accepted_at(&id);
                    let digest = sha256_hex(&text);
                    let claim =
                        Claim::new(id.clone(), meta.mtime(), position, digest, &settings.agent);
                    (claim, text, meta)
                }
                None => return Ok(None),
            },
        };
        let is_begun = claim.starts > 0;
        let max = if is_begun {
            u64::MAX
        } else {
            settings.max_document
        };
        let ready = document::check(&text, &meta, max, is_begun)
            .and_then(|document| self.policy_for(document, &mut claim, &settings));
        let (document, policy) = match ready {
            Ok(ready) => ready,
            Err(reason) => {
                return Ok(self.fail(claim, Fault::new(ErrorKind::Rejected, reason), &settings));
            }
        };
        if let Some(at) = document
            .wishes
            .not_before
            .filter(|at| !is_begun && *at > Wall::now())
        {
            self.jobs.defer(&id, at);
            return Ok(None);
        }
        let context = self.context;
        let slot = match context
            .board
            .enter(self.name(), &policy, is_begun, Wall::now())
        {
            Ok(slot) => slot,
            Err(closed) => {
                self.close(*closed);
                return Ok(None);
            }
        };
        if !self.may_be_proved(&claim, &policy) {
            return Ok(None);
        }
        self.set_hold(None);
        let kept = if is_begun { None } else { Some(&text[..]) };
        self.launch(claim, &document, kept, &policy, slot)
    }

    /// Reads a waiting document, if it counts.
    fn take(&mut self, id: &JobId, policy: &Policy) -> Result<Option<(Meta, Vec<u8>)>> {
        let name = id.file_name();
        match self.spool.take(id, policy.max_document)? {
            Taken::Gone => self.look_at(&name, false)?,
            Taken::Alien(what) => {
                self.jobs.remove(id);
                self.tell_of_oddity(&name, &what);
            }
            Taken::Unreadable(error) => {
                self.jobs.put_off(id, Instant::now() + UNREADABLE_PAUSE);
                let what = format!("{error}; the job waits, and it is tried again once a minute");
                self.tell_of_oddity(&name, &what);
            }
            Taken::Writing(meta) => {
                let settle = policy.settle.max(WRITER_PAUSE_MIN);
                self.jobs.readiness(id, &meta, true, settle, now());
            }
            Taken::Read(meta, text) => {
                match self.jobs.readiness(id, &meta, false, policy.settle, now()) {
                    Readiness::NotYet => {}
                    Readiness::Overdue => {
                        self.tell_of_oddity(
                            &name,
                            "it is empty; write the job into it, or remove it",
                        );
                    }
                    Readiness::Ready if self.spool.has_result(id)? => {
                        self.jobs.remove(id);
                        self.say_foreign(id);
                    }
                    Readiness::Ready => return Ok(Some((meta, text))),
                }
            }
        }
        Ok(None)
    }

    /// The text that a begun job runs. The daemon may have died before the copy of it was made, a power cut
    /// may have taken the copy: an unchanged document is as good, and is kept then.
    pub(super) fn text_of(&mut self, claim: &Claim, policy: &Policy) -> Result<Option<Vec<u8>>> {
        let id = &claim.job_id;
        let kept = match self.spool.kept_text(id, policy.max_document.max(1 << 20)) {
            Err(error) if !error.is_shortage() => {
                self.or_warn::<()>(Err(error));
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

    /// What holds for the job with its document's wishes. A first start that continues a finished job gets
    /// that one's session and agent. The error is a sentence.
    fn policy_for<'d>(
        &self,
        mut document: Document<'d>,
        claim: &mut Claim,
        settings: &Policy,
    ) -> std::result::Result<(Document<'d>, Policy), String> {
        if claim.starts > 0 {
            document
                .wishes
                .agent
                .get_or_insert_with(|| claim.agent.clone());
        } else if let Some(before) = document.wishes.continues.clone() {
            let agent = self.inherit(claim, &before)?;
            document.wishes.agent.get_or_insert(agent);
        }
        let policy = document.wishes.tighten(settings)?.into_owned();
        claim.agent.clone_from(&policy.agent.name);
        claim.protocol = policy.agent.protocol;
        Ok((document, policy))
    }

    /// Takes the session of a finished job over; its agent.
    fn inherit(&self, claim: &mut Claim, before: &JobId) -> std::result::Result<String, String> {
        #[derive(Deserialize)]
        struct Ended {
            agent: String,
            session_id: Option<String>,
            #[serde(default)]
            attempts: Vec<Attempt>,
        }
        let refuse = |why: &str| format!("front matter \"continues\" names {before}, {why}");
        let ended = self
            .spool
            .open_result(before)
            .map_err(|error| error.to_string())?;
        let ended = ended
            .ok_or_else(|| refuse("which has no result in this project; name a finished job"))?;
        let ended: Ended = serde_json::from_reader(BufReader::new(ended))
            .map_err(|_| refuse("whose result cannot be read; submit the job without it"))?;
        let session = ended.session_id;
        let session =
            session.ok_or_else(|| refuse("which has no session; submit the job without it"))?;
        let of_it = |attempt: &&Attempt| attempt.session_id.as_ref() == Some(&session);
        let attempts = ended.attempts.iter().rev().filter(of_it);
        claim.inherited = Some(Inherited {
            session_id: session.clone(),
            cost_usd: { attempts }
                .find_map(|attempt| attempt.cost_usd)
                .unwrap_or(0.0),
        });
        claim.session_id = Some(session);
        claim.continues = Some(before.clone());
        Ok(ended.agent)
    }

    /// The credentials, unless they are not safe to use.
    fn credentials(&self) -> Result<std::result::Result<Variables, Fault>> {
        match settings::credentials(&self.context.places.credentials()) {
            Ok(credentials) => Ok(Ok(credentials)),
            Err(error) if error.is_shortage() => Err(error),
            Err(error) => Ok(Err(Fault::new(ErrorKind::UnsafeEnv, error.to_string()))),
        }
    }

    /// One start, from the claim to what follows. `unkept` is the text that runs, if no copy of it is kept.
    fn launch(
        &mut self,
        before: Claim,
        document: &Document<'_>,
        unkept: Option<&[u8]>,
        policy: &Policy,
        slot: Slot<'_>,
    ) -> Result<Option<Until>> {
        let id = before.job_id.clone();
        let dialect = dialect(policy.agent.protocol);
        let token = Token::new(&self.spool.root()?);
        let opening = decide::opening(&before, policy, process::uuid());
        // What keeps the agent from working for anybody is found before anything is claimed.
        let credentials = match self.credentials()? {
            Ok(credentials) => credentials,
            Err(fault) => {
                self.used = vec![board::stamp(self.context.places.credentials())];
                return Ok(self.refuse(&fault, policy));
            }
        };
        self.used = self.stamps(policy, &credentials);
        let scratch = scratch_of(&token);
        let spent = outcome::cost_of(&before.attempts, before.inherited.as_ref());
        let project = self.spool.project().clone();
        let assignment = Assignment {
            project: &project,
            job: &id,
            policy,
            wishes: &document.wishes,
            start: before.starts + 1,
            opening: &opening,
            body: document.body,
            has_skill: dialect.has_skill(&project.path),
            budget_left_usd: policy
                .max_budget_usd
                .map(|limit| limit - spent.unwrap_or(0.0)),
            run: token.as_str(),
            scratch: scratch.as_os_str(),
        };
        let context = self.context;
        let plan = match plan(&assignment, &context.environment, &credentials) {
            Ok(plan) => plan,
            Err(fault) => return Ok(self.fail(before, fault, policy)),
        };
        let path = plan.env.iter().find(|(name, _)| *name == "PATH");
        let path = path.map_or(OsStr::new(""), |(_, path)| path);
        let wanted = &plan.argv[0];
        let program = match process::find_program(wanted.as_ref(), path, &project.path) {
            Ok(program) => program,
            Err(missing) => {
                let fault = Fault::new(ErrorKind::AgentMissing, missing);
                return Ok(self.refuse(&fault, policy));
            }
        };
        self.used.push(board::stamp(program.clone()));
        let boot_id = process::boot_id()?;
        let mut claim = decide::begun(&before, &policy.agent, &opening, token.as_str(), boot_id);
        if claim.starts == 1 && policy.git {
            let before = git::snapshot(&self.spool);
            claim.git = self.or_warn(before).flatten();
        }
        // An output that lies there already is of another run: of a job whose result was deleted, or of one
        // whose name ends like ours. After a crash it would be read back as this one's.
        self.spool
            .remove_log(&log_name(&id, claim.starts, dialect.ending))?;
        claim.started_at = Wall::now();
        self.spool.write_claim(&claim)?;
        let scratch_made = plan.uses_scratch && make_scratch(&scratch);
        let started = runner::start(&self.spool, &id, claim.starts, &program, &plan, &token);
        let running = match started {
            Ok(Ok(running)) => running,
            failed => {
                remove_scratch(&token);
                return self.not_started(
                    claim,
                    failed.map(|started| started.err()),
                    &program,
                    policy,
                );
            }
        };
        // From here on the agent runs; nothing that fails may make us forget it.
        let lifted = slot.started(claim.started_at);
        self.say_lifted(lifted, "its agent has started");
        self.jobs.set(id.clone(), State::Running(Box::new(claim)));
        self.say_started(&id, &opening, assignment.has_skill, policy);
        let finished = self.attend(&id, running, unkept, policy, slot);
        if scratch_made {
            remove_scratch(&token);
        }
        match self.jobs.get(&id).cloned() {
            Some(State::Running(claim)) => Ok(self.conclude(*claim, finished, policy)),
            _ => Ok(None),
        }
    }

    /// Attends a running agent. What it does not need is done now: on a busy machine, whatever is done
    /// before its first instruction delays it.
    fn attend(
        &mut self,
        id: &JobId,
        running: runner::Running,
        mut unkept: Option<&[u8]>,
        policy: &Policy,
        slot: Slot<'_>,
    ) -> runner::Finished {
        self.jobs.attended = Some(id.clone());
        self.view.stale = true;
        let mut last_reaped = Instant::now();
        let mut has_answered = false;
        let finished = running.attend(policy, |agent: &Agent, report: &Report| {
            if report.answered && !has_answered {
                has_answered = true;
                self.say_answered(id, policy);
            }
            self.note_process(id, agent);
            self.keep_text(id, &mut unkept);
            if last_reaped.elapsed() > REAP_PAUSE {
                last_reaped = Instant::now();
                process::reap_orphans();
            }
            self.look_while_running(id)
        });
        self.keep_text(id, &mut unkept);
        self.jobs.attended = None;
        drop(slot);
        finished
    }

    /// The service answers: what held its agent is over.
    pub(super) fn say_answered(&mut self, id: &JobId, policy: &Policy) {
        let Some(began) = self.jobs.claim(id).map(|claim| claim.started_at) else {
            return;
        };
        let agent = &policy.agent.name;
        let lifted = self.context.board.answered(self.name(), agent, id, began);
        self.say_lifted(lifted, "its service answers");
    }

    /// Writes the agent's process into its claim, and the whole claim again where `state/` was lost: after a
    /// crash the job would be started a second time.
    fn note_process(&mut self, id: &JobId, agent: &Agent) {
        let Some(State::Running(claim)) = self.jobs.get(id) else {
            return;
        };
        let mut claim = claim.clone();
        let is_news = claim.process.is_none() && agent.identity().is_some();
        claim.process = agent.identity();
        let written = match self.spool.has_lost_claim(id) {
            true => self
                .take_place()
                .and_then(|()| self.spool.write_claim(&claim)),
            false if is_news => self.spool.write_claim(&claim),
            false => return,
        };
        match written {
            Ok(()) => {
                self.told.remove("claim");
                self.jobs.set(id.clone(), State::Running(claim));
            }
            Err(error) => self.say_once("claim", Level::Warn, format!("[{}] {error}", self.name())),
        }
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
                self.say_once("unkept", Level::Warn, format!("[{}] {error}", self.name()))
            }
        }
    }

    /// What a worker does while an agent or a check runs; the end, if somebody wants it.
    pub(super) fn look_while_running(&mut self, id: &JobId) -> Option<Ending> {
        self.write_lines();
        // Trouble with the directories can wait until the agent is done; the bell is heard on.
        let _ = self.hear(None);
        let is_cancelled = match decide::decide(&self.jobs, None, now()) {
            Step::End => true,
            Step::Withdraw(other) if self.unwritten.is_none() => {
                self.withdraw(&other);
                false
            }
            // Not every file system tells of marks.
            _ => self.spool.has_mark(id, Mark::Cancel).unwrap_or(false),
        };
        if self.view.stale {
            self.write_view();
        }
        match self.orders.order() {
            Order::Stop => Some(Ending::Interrupted),
            _ => is_cancelled.then_some(Ending::Cancelled),
        }
    }

    /// The system did not start the program.
    fn not_started(
        &mut self,
        claim: Claim,
        failed: Result<Option<SpawnFault>>,
        program: &Path,
        policy: &Policy,
    ) -> Result<Option<Until>> {
        let output = log_name(&claim.job_id, claim.starts, dialect(claim.protocol).ending);
        self.spool.remove_log(&output)?;
        // Only now: a claim without a log tells that its agent never ran.
        match failed? {
            Some(SpawnFault::Passing(error)) => {
                let error = Error::io("start", program, error).to_string();
                let fault = Fault::new(ErrorKind::SpawnFailed, error);
                Ok(self.conclude(claim, runner::Finished::never_ran(fault), policy))
            }
            Some(SpawnFault::Missing(error)) => {
                self.jobs
                    .set(claim.job_id.clone(), State::Interrupted(Box::new(claim)));
                // A project that was moved or unmounted is no fault of the agent's.
                self.spool.rest();
                self.spool.root()?;
                let error = Error::io("execute", program, error);
                let text = format!("{error}; job-monitor doctor says what it needs");
                Ok(self.refuse(&Fault::new(ErrorKind::AgentMissing, text), policy))
            }
            None => Ok(None),
        }
    }

    /// The agent cannot be started for anybody. Nothing has changed for the job.
    fn refuse(&mut self, fault: &Fault, policy: &Policy) -> Option<Until> {
        let failure = Failure {
            project: &self.spool.project().name,
            agent: &policy.agent,
            began: None,
            stamps: &self.used,
        };
        let board = &self.context.board;
        let news = board.change(|holds, now| holds.fault(&failure, fault, now));
        self.announce(news);
        None
    }

    /// The files that decide whether the agent is accepted, as they are now.
    pub(super) fn stamps(
        &self,
        policy: &Policy,
        credentials: &[(OsString, OsString)],
    ) -> Vec<Stamp> {
        let login = dialect(policy.agent.protocol).login;
        let login = login(&|name| self.variable(policy, credentials, name));
        let paths = [Some(self.context.places.credentials()), login];
        paths.into_iter().flatten().map(board::stamp).collect()
    }

    /// A variable in the agent's environment, as far as it can be told without a start.
    fn variable(
        &self,
        policy: &Policy,
        credentials: &[(OsString, OsString)],
        name: &str,
    ) -> Option<OsString> {
        let own = policy.agent.env.iter().find(|(known, _)| known == name);
        let given = credentials.iter().chain(&self.context.environment);
        own.map(|(_, value)| value.into()).or_else(|| {
            given
                .clone()
                .find(|(known, _)| known == name)
                .map(|(_, value)| value.clone())
        })
    }

    /// The agent's own files that say how a start of it ended.
    pub(super) fn agent_files(&self, claim: &Claim, policy: &Policy) -> Files {
        let credentials =
            settings::credentials(&self.context.places.credentials()).unwrap_or_default();
        let witness = dialect(claim.protocol).witness;
        let answer = policy.agent.answer.as_ref();
        Files {
            witness: witness.and_then(|witness| {
                (witness.below)(&|name| self.variable(policy, &credentials, name))
            }),
            answer: answer.map(|path| {
                let path = fill(path, self.spool.project(), &claim.job_id, claim.starts);
                self.spool.project().path.join(path)
            }),
            require_answer: policy.agent.require_answer,
        }
    }

    fn say_started(&mut self, id: &JobId, opening: &Opening, has_skill: bool, policy: &Policy) {
        let starts = self.jobs.claim(id).map_or(1, |claim| claim.starts);
        let is_fresh = matches!(opening, Opening::Fresh { .. });
        let how = match (starts, is_fresh) {
            (1, true) => String::new(),
            (n, true) => format!(" (start {n}, afresh)"),
            (n, false) => format!(" (start {n}, resumed)"),
        };
        self.say(
            Level::Info,
            format!("[{}] Starting job: {id}.md{how}", self.name()),
        );
        let silent_on = dialect(policy.agent.protocol).silent_on;
        if !silent_on.is_empty() {
            let agent = &policy.agent.name;
            let text = format!(
                "[{}] the agent {agent} does not tell {silent_on}",
                self.name()
            );
            self.say_once("silent", Level::Info, text);
        }
        let knows_skills = !dialect(policy.agent.protocol).skill_call.is_empty();
        if is_fresh && !has_skill && knows_skills && policy.agent.prompt.is_none() {
            let text = format!(
                "[{}] the project has no skill task-coordination, so jobs go to the agent without it; \
                 job-monitor register --skills {} writes it",
                self.name(),
                self.spool.project().path.display()
            );
            self.say_once("skill", Level::Info, text);
        }
    }
}

/// Where a start's agent keeps temporary files: a short path, since sockets are made in it, and one that
/// the claim's token leads back to after a crash.
fn scratch_of(token: &Token) -> PathBuf {
    std::env::temp_dir().join(format!("job-monitor-{}", &token.as_str()[..16]))
}

fn make_scratch(path: &Path) -> bool {
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).is_ok()
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
