//! One start of a job: document, hold, gate, claim, agent. The order of effects is the program's promise:
//! claim durable, agent, result durable, claim removed (SPEC 4).

use super::*;

/// Until a document that could not be read is tried again.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(60);
/// A document that somebody writes is not looked at again sooner, whatever `settle` says.
const WRITER_PAUSE_MIN: Duration = Duration::from_millis(50);
/// Orphans of long agents are reaped so often.
const REAP_PAUSE: Duration = Duration::from_secs(30);
/// The reason of a job that ends since nobody knows any more what it was.
const LOST: &str = "the text that ran was lost, so the job cannot go on; submit it again";

impl Worker<'_> {
    /// Starts a job, or goes on with it, and attends its agent to the end; unless its document does not
    /// count yet or is no job, or somebody holds it.
    pub fn start(&mut self, id: &JobId) -> Result<()> {
        self.take_place()?;
        let settings = self.post.orders.policy();
        let (mut claim, meta, text, max) = match self.jobs.claim(id).cloned() {
            Some(claim) => match self.text_of(&claim, &settings)? {
                Some(text) => (claim, Meta::default(), text, u64::MAX),
                None => {
                    let fault = Fault::new(ErrorKind::Interrupted, LOST);
                    self.fail(claim, fault, &settings);
                    return Ok(());
                }
            },
            None => {
                let Some((meta, text)) = self.take(id, &settings)? else {
                    return Ok(());
                };
                let (place, digest) = (self.jobs.accepted_at(id), sha256_hex(&text));
                let claim = Claim::new(id.clone(), meta.mtime(), place, digest, &settings.agent);
                (claim, meta, text, settings.max_document)
            }
        };
        let is_begun = claim.starts > 0;
        let ready = document::check(&text, &meta, max).and_then(|mut document| {
            let policy = self.policy_for(&mut document.wishes, &mut claim, &settings)?;
            Ok((document, policy))
        });
        let (document, policy) = match ready {
            Ok(ready) => ready,
            Err(reason) => {
                self.fail(claim, Fault::new(ErrorKind::Rejected, reason), &settings);
                return Ok(());
            }
        };
        let now = Wall::now();
        let not_before = document.wishes.not_before.filter(|at| *at > now);
        if let Some(at) = not_before.filter(|_| !is_begun) {
            self.info(format!("Job waits: {id}.md - not before {}", at.short(now)));
            self.jobs.put_off(id, None, Some(at));
            return Ok(());
        }
        let slot = match self.board().enter(self.name(), &policy, is_begun) {
            Ok(slot) => slot,
            Err(closed) => {
                self.close(*closed);
                return Ok(());
            }
        };
        // A person's word may have come while the gate was asked.
        if !self.may_be_proved(&claim, &policy)? || self.is_to_leave() {
            return Ok(());
        }
        self.set_hold(None);
        self.unkept = (!is_begun).then(|| text.clone());
        self.launch(claim, &document, &policy, slot)
    }

    /// Reads a waiting document, if it counts.
    fn take(&mut self, id: &JobId, policy: &Policy) -> Result<Option<(Meta, Vec<u8>)>> {
        let name = id.file_name();
        let (meta, text) = match self.spool.take(id, policy.max_document)? {
            Taken::Read(meta, text) => (meta, text),
            Taken::Gone => return self.look_at(&name, false).map(|()| None),
            Taken::Alien(what) => {
                self.jobs.remove(id);
                self.tell_of_oddity(&name, &what);
                return Ok(None);
            }
            Taken::Unreadable(error) => {
                let later = Instant::now() + UNREADABLE_PAUSE;
                self.jobs.put_off(id, Some(later), None);
                let what = format!("{error}; the job waits, and it is tried again once a minute");
                self.tell_of_oddity(&name, &what);
                return Ok(None);
            }
            Taken::Writing(meta) => {
                let settle = policy.settle.max(WRITER_PAUSE_MIN);
                self.jobs.readiness(id, &meta, true, settle, now());
                return Ok(None);
            }
        };
        match self.jobs.readiness(id, &meta, false, policy.settle, now()) {
            Readiness::NotYet => {}
            Readiness::Overdue => {
                self.tell_of_oddity(&name, "it is empty; write the job into it, or remove it");
            }
            Readiness::Ready if self.spool.has_result(id)? => {
                self.jobs.remove(id);
                self.say_foreign(id);
            }
            // A mark of which no event told, since it did not come from our command.
            Readiness::Ready if self.spool.has_mark(id, Mark::Hold)? => {
                self.jobs.held.insert(id.clone());
                self.view.fresh = false;
            }
            Readiness::Ready => return Ok(Some((meta, text))),
        }
        Ok(None)
    }

    /// The text that a begun job runs. The daemon may have died before the copy of it was made, a power cut
    /// may have taken the copy: an unchanged document is as good, and is kept then.
    pub fn text_of(&mut self, claim: &Claim, policy: &Policy) -> Result<Option<Vec<u8>>> {
        let id = &claim.job_id;
        let kept = match self.spool.kept_text(id, policy.max_document.max(1 << 20)) {
            Err(error) if error.is_shortage() => return Err(error),
            kept => self.or_warn(kept).flatten(),
        };
        let is_it = |text: &Vec<u8>| sha256_hex(text) == claim.document_sha256;
        if let Some(text) = kept.filter(is_it) {
            return Ok(Some(text));
        }
        match self.spool.take(id, policy.max_document)? {
            Taken::Read(_, text) if is_it(&text) => {
                self.unkept = Some(text.clone());
                self.keep_text(id);
                Ok(Some(text))
            }
            _ => Ok(None),
        }
    }

    /// What holds for the job with its document's wishes. A first start that continues a finished job gets
    /// that one's session and agent. The error is a sentence.
    pub fn policy_for(
        &self,
        wishes: &mut Wishes,
        claim: &mut Claim,
        settings: &Policy,
    ) -> std::result::Result<Policy, String> {
        if claim.starts > 0 {
            wishes.agent.get_or_insert_with(|| claim.agent.clone());
        } else if let Some(before) = &wishes.continues {
            let agent = self.inherit(claim, before)?;
            wishes.agent.get_or_insert(agent);
        }
        let policy = wishes.tighten(settings)?;
        claim.agent.clone_from(&policy.agent.name);
        claim.protocol = policy.agent.protocol;
        Ok(policy)
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
        let ended = self.spool.open_result(before).map_err(|e| e.to_string())?;
        let ended = ended.ok_or_else(|| refuse("which has no result here; name a finished job"))?;
        let ended: Ended = serde_json::from_reader(BufReader::new(ended))
            .map_err(|_| refuse("whose result cannot be read; submit the job without it"))?;
        let none = || refuse("which has no session; submit the job without it");
        let session_id = ended.session_id.ok_or_else(none)?;
        let of_it = |attempt: &&Attempt| attempt.session_id.as_ref() == Some(&session_id);
        let mut costs = ended.attempts.iter().rev().filter(of_it);
        let cost_usd = costs.find_map(|attempt| attempt.cost_usd).unwrap_or(0.0);
        claim.session_id = Some(session_id.clone());
        claim.inherited = Some(Inherited {
            session_id,
            cost_usd,
        });
        claim.continues = Some(before.clone());
        Ok(ended.agent)
    }

    /// One start, as far as nothing is claimed yet.
    fn launch(
        &mut self,
        before: Claim,
        document: &Document<'_>,
        policy: &Policy,
        slot: Slot<'_>,
    ) -> Result<()> {
        let (context, project) = (&self.post.context, &self.post.project);
        let dialect = dialect(policy.agent.protocol);
        let token = Token::new(&self.spool.root()?);
        let opening = decide::opening(&before, policy, process::uuid());
        let path = context.places.credentials();
        // The files that decide whether the agent is accepted, as they are before it is asked.
        self.used = vec![board::stamp(path.clone())];
        let credentials = match settings::credentials(&path) {
            Err(error) if error.is_shortage() => return Err(error),
            Err(error) => {
                let fault = Fault::new(ErrorKind::UnsafeEnv, error.to_string());
                self.refuse(before, fault, policy);
                return Ok(());
            }
            Ok(credentials) => credentials,
        };
        let spent = outcome::cost_of(&before.attempts, before.inherited.as_ref()).unwrap_or(0.0);
        let scratch = scratch_of(&token);
        let assignment = Assignment {
            project,
            job: &before.job_id,
            policy,
            wishes: &document.wishes,
            start: before.starts + 1,
            opening: &opening,
            body: document.body,
            has_skill: dialect.has_skill(&project.path),
            budget_left_usd: policy.max_budget_usd.map(|limit| limit - spent),
            run: token.as_str(),
            scratch: scratch.as_os_str(),
        };
        let planned = plan(&assignment, &context.environment, &credentials);
        let found = planned.and_then(|plan| {
            let variable = |name: &str| plan.variable(name).map(Into::into);
            let login = dialect.own_file(dialect.login, &variable);
            self.used.extend(login.map(board::stamp));
            let path = plan.variable("PATH").unwrap_or_default();
            let program = process::find_program(plan.argv[0].as_ref(), path, &project.path)
                .map_err(|missing| Fault::new(ErrorKind::AgentMissing, missing))?;
            self.used.push(board::stamp(program.clone()));
            Ok((plan, program))
        });
        let (plan, program) = match found {
            Ok(found) => found,
            Err(fault) => {
                self.refuse(before.clone(), fault, policy);
                return Ok(());
            }
        };
        let boot_id = process::boot_id()?;
        let claim = decide::begun(&before, &policy.agent, &opening, token.as_str(), boot_id);
        self.claim_and_run(claim, &plan, &program, &token, policy, slot)
    }

    /// The start comes to nothing, and nothing was claimed. What keeps the agent from working for anybody
    /// changes nothing for the job; anything else is its end.
    fn refuse(&mut self, claim: Claim, fault: Fault, policy: &Policy) {
        match fault.kind.course() {
            Course::Hold => self.hold_agent(&fault, policy, None),
            _ => self.fail(claim, fault, policy),
        }
    }

    /// The rest of a start, from the claim to what follows.
    fn claim_and_run(
        &mut self,
        mut claim: Claim,
        plan: &Plan<'_>,
        program: &Path,
        token: &Token,
        policy: &Policy,
        slot: Slot<'_>,
    ) -> Result<()> {
        let (id, start) = (claim.job_id.clone(), claim.starts);
        if start == 1 && policy.git {
            let before = git::snapshot(&self.spool);
            claim.git = self.or_warn(before).flatten();
        }
        // An output that lies there already is of another run: of a job whose result was deleted, or of one
        // whose name ends like ours. After a crash it would be read back as this one's.
        let output = log_name(&id, start, plan.dialect.ending);
        self.spool.remove_log(&output)?;
        claim.started_at = Wall::now();
        self.spool.write_claim(&claim)?;
        if plan.uses_scratch {
            // Without it, the agent uses what it finds.
            let _ = Dir::create(&scratch_of(token));
        }
        let fault = match runner::start(&self.spool, &id, start, program, plan, token) {
            Ok(Ok(running)) => {
                let finished = self.attend(claim, running, policy, slot);
                if plan.uses_scratch {
                    remove_scratch(token);
                }
                if let Some(State::Running(claim)) = self.jobs.get(&id).cloned() {
                    self.conclude(*claim, finished, policy);
                }
                return Ok(());
            }
            Ok(Err(fault)) => Ok(fault),
            Err(error) => Err(error),
        };
        remove_scratch(token);
        self.spool.remove_log(&output)?;
        // Only now: a claim without a log tells that its agent never ran.
        let fault = fault?;
        if !process::is_missing(&fault) {
            let error = Error::io("start", program, fault).to_string();
            let verdict = Some(Fault::new(ErrorKind::SpawnFailed, error));
            self.conclude(claim, Finished::never_ran(verdict), policy);
            return Ok(());
        }
        self.jobs.set(id, State::Interrupted(Box::new(claim)));
        // A project that was moved or unmounted is no fault of the agent's.
        self.spool.rest();
        self.spool.root()?;
        let error = Error::io("execute", program, fault);
        let text = format!("{error}; job-monitor doctor says what it needs");
        self.hold_agent(&Fault::new(ErrorKind::AgentMissing, text), policy, None);
        Ok(())
    }

    /// Attends a running agent; nothing that fails may make us forget it. What it does not need is done
    /// now: on a busy machine, whatever is done before its first instruction delays it.
    fn attend(
        &mut self,
        claim: Claim,
        running: Running,
        policy: &Policy,
        slot: Slot<'_>,
    ) -> Finished {
        let id = claim.job_id.clone();
        let lifted = slot.started();
        self.say_lifted(lifted, "its agent has started");
        self.say_started(&claim, policy);
        self.jobs
            .set(id.clone(), State::Running(Box::new(claim.clone())));
        self.jobs.attended = Some(id.clone());
        self.view.fresh = false;
        let (mut last_reaped, mut has_answered) = (Instant::now(), false);
        let finished = running.attend(policy, |agent, report| {
            if report.answered && !has_answered {
                has_answered = true;
                self.answered(&claim);
            }
            self.note_process(&id, agent);
            self.keep_text(&id);
            if last_reaped.elapsed() > REAP_PAUSE {
                last_reaped = Instant::now();
                process::reap_orphans();
            }
            self.look_while_running(&id)
        });
        self.keep_text(&id);
        self.jobs.attended = None;
        finished
    }

    /// Writes the agent's process into its claim, and the whole claim again where `state/` was lost: after a
    /// crash the job would be started a second time.
    fn note_process(&mut self, id: &JobId, agent: &Agent) {
        let Some(State::Running(claim)) = self.jobs.get(id) else {
            return;
        };
        let mut claim = claim.clone();
        let is_known = claim.process.is_some();
        claim.process = claim.process.or_else(|| agent.identity());
        let is_news = claim.process.is_some() && !is_known;
        let place = match self.spool.has_claim(id) {
            false => self.take_place(),
            true if is_news => Ok(()),
            true => return,
        };
        let written = place.and_then(|()| self.spool.write_claim(&claim));
        if self.is_well("claim", &written) {
            self.jobs.set(id.clone(), State::Running(claim));
        }
    }

    /// Keeps a copy of the text that runs; where that fails, it is tried again.
    fn keep_text(&mut self, id: &JobId) {
        let Some(text) = self.unkept.take() else {
            return;
        };
        let kept = self.spool.keep_text(id, &text);
        self.unkept = Some(text).filter(|_| !self.is_well("unkept", &kept));
    }

    /// What a worker does while an agent or a check runs; the end, if somebody wants it.
    pub fn look_while_running(&mut self, id: &JobId) -> Option<Ending> {
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
        self.flush();
        let stopping = self.stopping();
        stopping.or(is_cancelled.then_some(Ending::Cancelled))
    }

    fn say_started(&mut self, claim: &Claim, policy: &Policy) {
        let how = match (claim.starts, claim.resumed) {
            (1, false) => String::new(),
            (n, false) => format!(" (start {n}, afresh)"),
            (n, true) => format!(" (start {n}, resumed)"),
        };
        self.info(format!("Starting job: {}.md{how}", claim.job_id));
        let (dialect, agent) = (dialect(policy.agent.protocol), &policy.agent);
        if !dialect.silent_on.is_empty() {
            let text = format!(
                "the agent {} does not tell {}",
                agent.name, dialect.silent_on
            );
            self.say_once("silent", Level::Info, text);
        }
        let path = &self.post.project.path;
        let calls_skill = !dialect.skill_call.is_empty() && agent.prompt.is_none();
        if calls_skill && !claim.resumed && !dialect.has_skill(path) {
            let text = format!(
                "the project has no skill task-coordination, so jobs go to the agent without it; \
                 job-monitor register --skills {} writes it",
                path.display()
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
