//! One start of a job: document, hold, gate, claim, agent. The order of effects is the program's promise:
//! claim durable, agent, result durable, claim removed (SPEC 4).
//!
//! `start` has the whole of it; `launch` goes through all that may keep the job from being started; `prepare`
//! puts together what is started; `claim_and_run` claims and starts it; `attend` stays with the agent to its end.

use super::*;

/// How long it takes until a document that could not be read is tried again.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);
/// What is said of documents that have not been whole for a minute.
const OPEN: &str = "somebody has had it open for writing for a minute; close it there";
const EMPTY: &str = "it is empty; write the job into it, or remove it";
/// Why a job ends of which nobody knows any more what it was to do.
const LOST: &str = "the text that ran was lost, so the job cannot go on; submit it again";

/// Why an agent is not started.
enum No {
    /// Trouble of the monitor's own.
    Trouble(Error),
    /// The job ends, or its agent is held.
    Fault(Fault),
    /// The job waits.
    Wait,
}

impl From<Error> for No {
    fn from(error: Error) -> No {
        No::Trouble(error)
    }
}

impl From<Fault> for No {
    fn from(fault: Fault) -> No {
        No::Fault(fault)
    }
}

/// What a document's wishes come to, or a sentence that says why they cannot be met.
type Fit<T> = std::result::Result<T, String>;
/// Whether an agent was started, and attended to its end.
type Started = std::result::Result<(), No>;

impl Worker<'_> {
    /// Starts a job, or goes on with it, and attends its agent to the end; unless its document does not
    /// count yet or is no job, or somebody holds it.
    pub fn start(&mut self, id: &JobId) -> Result<()> {
        self.take_place()?;
        self.policy = self.post.policy();
        let known = self.jobs.claim(id).cloned();
        let mut claim = known.unwrap_or_else(|| self.new_claim(id));
        match self.launch(&mut claim) {
            Ok(()) | Err(No::Wait) => {}
            Err(No::Trouble(error)) => return Err(error),
            // What keeps the agent from working for anybody changes nothing for the job.
            Err(No::Fault(fault)) => match fault.kind.course() {
                Course::Hold => self.hold_agent(&fault, None),
                _ => self.fail(claim, fault),
            },
        }
        Ok(())
    }

    /// The claim of a job that was not begun.
    pub fn new_claim(&self, id: &JobId) -> Claim {
        let agent = &self.post.policy().agent;
        let meta = self.spool.document_meta(id).ok().flatten();
        Claim {
            job_id: id.clone(),
            created_at: meta.map_or(Wall::now(), |meta| meta.mtime()),
            queue_position: self.jobs.accepted_at(id),
            agent: agent.name.clone(),
            protocol: agent.protocol,
            ..Claim::default()
        }
    }

    /// Reads the document of a waiting job, if it counts: its text, what matters of its inode, and how long it
    /// may be.
    fn take(&mut self, claim: &mut Claim) -> std::result::Result<(Vec<u8>, Meta, u64), No> {
        let (id, policy) = (&claim.job_id, Arc::clone(&self.policy));
        let name = id.file_name();
        let (meta, text) = match lift_shortage(self.spool.take(id, policy.max_document))? {
            Ok(Some(taken)) => taken,
            Ok(None) => {
                self.look_at(&name, false)?;
                return Err(No::Wait);
            }
            Err(error) => {
                let later = Instant::now() + UNREADABLE_PAUSE;
                self.jobs.put_off(id, Some(later), None);
                let what = format!("{error}; the job waits, and it is tried again once a minute");
                self.tell_of_oddity(&name, &what);
                return Err(No::Wait);
            }
        };
        let (jobs, has_writer) = (&mut self.jobs, text.is_none());
        match jobs.readiness(id, &meta, has_writer, policy.settle, now()) {
            Readiness::NotYet => {}
            Readiness::Overdue if meta.size > 0 => self.tell_of_oddity(&name, OPEN),
            Readiness::Overdue => self.tell_of_oddity(&name, EMPTY),
            Readiness::Ready if self.spool.has_result(id)? => {
                self.jobs.remove(id);
                self.say_foreign(id);
            }
            // A mark of which no event told, since it did not come from our command.
            Readiness::Ready if self.spool.is_marked(id)? => self.look_at_marks()?,
            Readiness::Ready => {
                let text = text.ok_or(No::Wait)?;
                claim.document_sha256 = sha256_hex(&text);
                self.odd.remove(&name);
                return Ok((text, meta, policy.max_document));
            }
        }
        Err(No::Wait)
    }

    /// The text that a begun job runs. The daemon may have died before the copy of it was made, a power cut
    /// may have taken the copy: an unchanged document is as good, and is kept then.
    pub fn text_of(&mut self, claim: &Claim) -> Result<Option<Vec<u8>>> {
        let (id, max) = (&claim.job_id, self.policy.max_document);
        let kept = lift_shortage(self.spool.logs()?.read(&id.file_name(), max.max(1 << 20)))?;
        let kept = self.or_warn(kept).flatten();
        let is_it = |text: &Vec<u8>| sha256_hex(text) == claim.document_sha256;
        if let Some(text) = kept.filter(is_it) {
            return Ok(Some(text));
        }
        let taken = lift_shortage(self.spool.take(id, max))?.ok().flatten();
        let text = taken.and_then(|(_, text)| text).filter(is_it);
        if let Some(text) = &text {
            let kept = self.spool.keep_text(id, text);
            self.or_warn(kept);
        }
        Ok(text)
    }

    /// Takes in what the job's document wishes. A first start that continues a finished job gets that one's
    /// session and agent. The error is a sentence.
    pub fn take_wishes(&mut self, wishes: &mut Wishes, claim: &mut Claim) -> Fit<()> {
        if claim.starts > 0 {
            wishes.agent.get_or_insert_with(|| claim.agent.clone());
        } else if let Some(before) = &wishes.continues {
            let keeper = self.inherit(claim, before)?;
            let agent = wishes.agent.get_or_insert_with(|| keeper.clone());
            let named = |name: &str| self.policy.agents.iter().find(|one| one.name == name);
            let protocol_of = |name: &str| named(name).map(|agent| agent.protocol);
            if protocol_of(agent) != protocol_of(&keeper) {
                return Err(format!(
                    "the session of {before} is of the agent {keeper:?}, which {agent:?} cannot go on in; leave \"agent\" out and submit it again"
                ));
            }
        }
        self.policy = Arc::new(wishes.tighten(&self.policy)?);
        if claim.starts == 0 {
            claim.agent.clone_from(&self.policy.agent.name);
            claim.protocol = self.policy.agent.protocol;
        }
        Ok(())
    }

    /// Takes the session of a finished job over, and returns the agent that keeps it. Other jobs may have gone on
    /// in it since: what it has cost is the greatest running total that any of them tells.
    fn inherit(&self, claim: &mut Claim, before: &JobId) -> Fit<String> {
        let ended = self.result_of(before)?;
        let session = ended["session_id"].as_str().ok_or_else(|| {
            format!("front matter \"continues\" names {before}, which is no finished job with a session; submit the job without it")
        })?;
        let mut heirs = Vec::new();
        let later = &mut |id, _| heirs.extend(Some(id).filter(|id| id >= before));
        self.spool.finished(later).map_err(|e| e.to_string())?;
        let mut cost_usd = 0.0_f64;
        for id in heirs {
            let ended = self.result_of(&id)?;
            for attempt in ended["attempts"].as_array().into_iter().flatten() {
                let told = attempt["cost_usd"].as_f64();
                let told = told.filter(|_| attempt["session_id"] == *session);
                cost_usd = cost_usd.max(told.unwrap_or(0.0));
            }
        }
        claim.inherited = Some(Inherited {
            session_id: session.to_owned(),
            cost_usd,
        });
        claim.session_id = Some(session.to_owned());
        claim.continues = Some(before.clone());
        Ok(ended["agent"].as_str().unwrap_or_default().to_owned())
    }

    /// The result of a finished job, or null.
    pub fn result_of(&self, id: &JobId) -> Fit<Value> {
        let file = self.spool.open_result(id).map_err(|e| e.to_string())?;
        let read = file.and_then(|file| serde_json::from_reader(BufReader::new(file)).ok());
        Ok(read.unwrap_or_default())
    }

    /// Goes through all that may keep a job from being started now.
    fn launch(&mut self, claim: &mut Claim) -> Started {
        let is_begun = self.jobs.begun.contains_key(&claim.job_id);
        let lost = || Fault::new(ErrorKind::Interrupted, LOST);
        let kept = |text| (text, Meta::default(), u64::MAX);
        let (text, meta, max) = match is_begun {
            true => self.text_of(claim)?.map(kept).ok_or_else(lost)?,
            false => self.take(claim)?,
        };
        let reject = |reason| Fault::new(ErrorKind::Rejected, reason);
        let mut document = document::check(&text, &meta, max).map_err(reject)?;
        let wishes = &mut document.wishes;
        self.take_wishes(wishes, claim).map_err(reject)?;
        let (id, now) = (&claim.job_id, Wall::now());
        let not_before = wishes.not_before.filter(|at| *at > now && !is_begun);
        if let Some(at) = not_before {
            self.info(format!("Job waits: {id}.md - not before {}", at.short(now)));
            self.jobs.put_off(id, None, not_before);
            return Err(No::Wait);
        }
        let (board, name, policy) = (self.board(), self.name(), &self.policy);
        let news = board.change(|holds, now| holds.refresh(name, policy, now));
        let slot = board.enter(name, policy, is_begun);
        self.announce(news);
        let slot = slot.map_err(|until| {
            self.closed = Some(until.map(|at| super::now().at(at)));
            No::Wait
        })?;
        // The order to leave may have come while the gate was asked.
        if !self.may_start(claim)? || self.is_to_leave() {
            return Err(No::Wait);
        }
        self.unkept = (!is_begun).then(|| text.clone());
        self.prepare(claim, &document, slot)
    }

    /// Puts together what is to be started, and has it run. Until then nothing is claimed.
    fn prepare(&mut self, before: &Claim, document: &Document<'_>, slot: Slot<'_>) -> Started {
        let (context, project) = (&self.post.context, &self.post.project);
        let (policy, token) = (Arc::clone(&self.policy), Token::new(&self.spool.root()?));
        let (dialect, path) = (dialect(policy.agent.protocol), context.places.credentials());
        // The files that decide whether the agent is accepted, as they are before it is asked.
        self.used = vec![board::stamp(path.clone())];
        let unsafe_env = |error: Error| Fault::new(ErrorKind::UnsafeEnv, error.to_string());
        let credentials = lift_shortage(settings::credentials(&path))?;
        let credentials = credentials.map_err(unsafe_env)?;
        let mut claim = before.clone();
        let because = decide::begin(&mut claim, &policy, process::uuid());
        token.as_str().clone_into(&mut claim.run);
        process::BOOT_ID.clone_into(&mut claim.boot_id);
        let spent = outcome::cost_of(before).unwrap_or(0.0);
        let scratch = scratch_of(&token);
        let assignment = Assignment {
            project,
            claim: &claim,
            policy: &policy,
            document,
            because: because.as_deref(),
            has_skill: dialect.has_skill(&project.path),
            budget_left_usd: policy.max_budget_usd.map(|limit| limit - spent),
            scratch: scratch.as_os_str(),
        };
        let plan = plan(&assignment, &context.environment, &credentials)?;
        let variable = |name: &str| plan.variable(name).map(Into::into);
        let login = dialect.own_file(dialect.login, &variable);
        self.used.extend(login.map(board::stamp));
        let path = plan.variable("PATH").unwrap_or_default();
        let program = process::find_program(plan.argv[0].as_ref(), path, &project.path)
            .map_err(|missing| Fault::new(ErrorKind::AgentMissing, missing))?;
        self.used.push(board::stamp(program.clone()));
        Ok(self.claim_and_run(claim.clone(), &plan, &program, &token, slot)?)
    }

    /// The rest of a start, from the claim to what follows.
    fn claim_and_run(
        &mut self,
        mut claim: Claim,
        plan: &Plan<'_>,
        program: &Path,
        token: &Token,
        slot: Slot<'_>,
    ) -> Result<()> {
        claim.files.clone_from(&plan.files);
        let seen = |path: &String| board::stamp(path.into()).seen;
        claim.files.answer_before = claim.files.answer.as_ref().map_or(String::new(), seen);
        if claim.starts == 1 && self.policy.git {
            let before = git::snapshot(&self.spool);
            claim.git = self.or_warn(before).flatten();
        }
        // An output that lies there already is of another run: of a job whose result was deleted, or of one
        // whose name ends like ours. After a crash it would be read back as this one's.
        let output = job::log_name(&claim.job_id, claim.starts, plan.dialect.ending);
        self.spool.logs()?.remove(&output)?;
        claim.started_at = Wall::now();
        self.spool.write_claim(&claim)?;
        if !plan.dialect.scratch.0.is_empty() {
            // Without it, the agent uses what it finds.
            let _ = Dir::create(&scratch_of(token));
        }
        let error = match runner::start(&self.spool, &claim, plan, program, token) {
            Ok(Ok(run)) => {
                let finished = self.attend(&mut claim, run, slot);
                remove_scratch(token);
                self.conclude(claim, finished);
                return Ok(());
            }
            Ok(Err(error)) => Ok(error),
            Err(error) => Err(error),
        };
        remove_scratch(token);
        self.spool.logs()?.remove(&output)?;
        // Only now: a claim without a log tells that its agent never ran.
        let error = error?;
        if !process::is_missing(&error) {
            let text = Error::io("start", program, error).to_string();
            let fault = Fault::new(ErrorKind::SpawnFailed, text);
            self.conclude(claim, Finished::without_run(fault));
            return Ok(());
        }
        self.jobs.set(claim);
        // A project that was moved or unmounted is no fault of the agent's.
        self.spool.rest();
        self.spool.root()?;
        let error = Error::io("execute", program, error);
        let text = format!("{error}; job-monitor doctor says what it needs");
        self.hold_agent(&Fault::new(ErrorKind::AgentMissing, text), None);
        Ok(())
    }

    /// Attends a running agent; nothing that fails may make us forget it. What it does not need is done
    /// now: on a busy machine, whatever is done before its first instruction delays it.
    fn attend(&mut self, claim: &mut Claim, run: (Agent, Output), slot: Slot<'_>) -> Finished {
        let (id, (agent, output), mut slot) = (claim.job_id.clone(), run, slot);
        let lifted = slot.started();
        self.say_lifted(lifted, "its agent has started");
        self.say_started(claim);
        self.jobs.set(claim.clone());
        self.jobs.attended = Some(id.clone());
        self.view.fresh = false;
        let mut has_answered = false;
        let policy = Arc::clone(&self.policy);
        let finished = output.attend(agent, &policy, true, &mut |agent, report| {
            if report.answered && !has_answered {
                has_answered = true;
                self.answered(claim);
            }
            self.note_process(claim, agent);
            self.keep_text(&id);
            process::reap_orphans();
            self.look_while_running(&id)
        });
        self.keep_text(&id);
        self.jobs.attended = None;
        finished
    }

    /// Writes the agent's process into its claim, and the whole claim again where `state/` was lost: after a
    /// crash the job would be started a second time.
    fn note_process(&mut self, claim: &mut Claim, agent: &Agent) {
        let process = claim.process.or_else(|| agent.identity());
        let place = match self.spool.has_claim(&claim.job_id) {
            false => self.take_place(),
            true if process != claim.process => Ok(()),
            true => return,
        };
        let before = std::mem::replace(&mut claim.process, process);
        let written = place.and_then(|()| self.spool.write_claim(claim));
        match self.is_well("claim", &written) {
            true => self.jobs.set(claim.clone()),
            false => claim.process = before,
        }
    }

    /// Keeps a copy of the text that runs.
    fn keep_text(&mut self, id: &JobId) {
        if let Some(text) = self.unkept.take() {
            let kept = self.spool.keep_text(id, &text);
            self.or_warn(kept);
        }
    }

    /// What a worker does while an agent or a check runs; the end, if somebody wants it.
    pub fn look_while_running(&mut self, id: &JobId) -> Option<Ending> {
        // Trouble with the directories can wait until the agent is done; the bell is heard on.
        let _ = self.hear(None);
        let is_cancelled = match decide::decide(&self.jobs, None, now()) {
            Step::Withdraw(this) if this == *id => true,
            Step::Withdraw(other) if self.unwritten.is_none() => {
                self.withdraw(&other);
                false
            }
            // Not every file system tells of marks.
            _ => self.spool.has_mark(id, Mark::Cancel).unwrap_or(false),
        };
        self.flush();
        let stopping = self.stopping();
        stopping.or(is_cancelled.then_some(Ending::Cancelled))
    }

    fn say_started(&mut self, claim: &Claim) {
        let how = match (claim.starts, claim.resumed) {
            (1, false) => String::new(),
            (n, false) => format!(" (start {n}, afresh)"),
            (n, true) => format!(" (start {n}, resumed)"),
        };
        self.info(format!("Starting job: {}.md{how}", claim.job_id));
        let (agent, path) = (&self.policy.agent, self.post.project.path.display());
        let dialect = dialect(agent.protocol);
        let calls_skill = !dialect.skill_call.is_empty() && agent.prompt.is_none();
        if !dialect.silent_on.is_empty() {
            let (name, what) = (&agent.name, dialect.silent_on);
            let text = format!("the agent {name} does not tell {what}");
            self.say_once("silent", Level::Info, text);
        }
        if calls_skill && !claim.resumed && !dialect.has_skill(&self.post.project.path) {
            let text = format!(
                "the project has no skill task-coordination, so jobs go to the agent without it; \
                 job-monitor register --skills {path} writes it"
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

/// Removes a start's temporary files, if there are any.
pub fn remove_scratch(token: &Token) {
    let path = scratch_of(token);
    if let Err(error) = std::fs::remove_dir_all(&path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        log::warn!("{}", Error::io("remove", &path, error));
    }
}
