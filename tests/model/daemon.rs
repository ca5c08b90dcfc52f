//! Performs the program's own steps on the model's disk, one effect after the other, in the order of
//! `src/worker`. Nothing is decided here: what is next and what follows comes from `decide`.

use crate::desk::{entrant, fail};
use crate::world::{AGENT, ClaimFile, Done, Fate, Log, SETTLE, Said, Trouble, World, ids, passing};
use job_monitor::agent::{Fault, Verdict};
use job_monitor::decide::{self, Jobs, Next, Now, Readiness, Step, Until, decide};
use job_monitor::holds::Holds;
use job_monitor::job::{Course, ErrorKind, JobId, log_name};
use job_monitor::project::{AgentSpec, Policy, Protocol};
use job_monitor::record::{Check, Claim};
use std::time::Duration;

/// The daemon's memory: lost in a crash.
#[derive(Clone, Debug, Default)]
pub struct Daemon {
    jobs: Jobs,
    unwritten: Option<Written>,
    /// What it waits for, after its last turn.
    waits: Until,
}

#[derive(Clone, Debug)]
enum Written {
    Result(Box<Claim>, Option<ErrorKind>),
    Claim(Box<Claim>),
}

/// Who ended an agent or a check.
#[derive(Clone, Copy, PartialEq)]
enum By {
    Itself,
    Cancel,
    Stop,
}

pub fn policy(world: &World) -> Policy {
    let setting = world.setting;
    Policy {
        agent: AgentSpec::new(AGENT, setting.protocol),
        settle: SETTLE,
        retries: setting.retries,
        on_interrupt: setting.on_interrupt,
        check: setting.check_rounds.map(|_| vec!["check".to_owned()]),
        check_rounds: setting.check_rounds.unwrap_or(0),
        ..Policy::standard()
    }
}

/// What an agent's last word amounts to; without one, whoever ended it decides.
fn verdict(said: Option<Said>, by: By, world: &World) -> Verdict {
    if by == By::Cancel {
        return Some(Fault::new(ErrorKind::Cancelled, ""));
    }
    let plain = world.setting.protocol == Protocol::Plain;
    let of = |kind| Fault::new(kind, "");
    Some(match said.filter(|_| !plain || by == By::Itself) {
        Some(Said::Done) => return None,
        Some(Said::Overloaded) => of(ErrorKind::Overloaded),
        Some(Said::Limit) => Fault {
            resets_at: Some(world.wall().plus(Duration::from_secs(600))),
            ..of(ErrorKind::UsageLimit)
        },
        Some(Said::NotLoggedIn) => of(ErrorKind::NotAuthenticated),
        Some(Said::Refused) => of(ErrorKind::Refused),
        Some(Said::NoSuchSession) => Fault {
            session_unknown: true,
            ..of(ErrorKind::AgentError)
        },
        None if by == By::Stop => of(ErrorKind::Interrupted),
        None => of(ErrorKind::NoResult),
    })
}

fn now(world: &World) -> Now {
    Now {
        instant: world.now(),
        wall: world.wall(),
    }
}

impl Daemon {
    pub fn start(world: &mut World) -> Done<Daemon> {
        let mut daemon = Daemon::default();
        // Whatever a dead daemon left is ended before anything else.
        (world.agent, world.check) = (None, None);
        for id in ids() {
            let done = world.disk.results.contains_key(id);
            match world.disk.claims.get(id).cloned() {
                Some(_) if done => {
                    world.effect(|disk| disk.finished.insert(id.clone()))?;
                    world.effect(|disk| disk.claims.remove(id))?;
                }
                Some(ClaimFile::Whole(claim)) => daemon.jobs.set(*claim),
                Some(ClaimFile::Broken) => {
                    world.effect(|disk| disk.held.insert(id.clone()))?;
                    world.effect(|disk| disk.claims.remove(id))?;
                }
                None => {}
            }
        }
        let documents = world.disk.documents.keys();
        let found = documents.filter(|id| world.is_open(id) && !daemon.jobs.has(id));
        daemon.jobs.replace(found.cloned().collect());
        daemon.look_at_marks(world)?;
        Ok(daemon)
    }

    pub fn turn(&mut self, world: &mut World) -> Done {
        if let Some(id) = self.jobs.attended.clone() {
            return self.attend(world, &id);
        }
        match self.hear(world) {
            Err(Trouble::Error) if self.unwritten.is_some() => {}
            heard => heard?,
        }
        if let Some(written) = self.unwritten.take() {
            return self.write(world, written);
        }
        let mut closed = None;
        loop {
            match decide(&self.jobs, closed, now(world)) {
                Step::Withdraw(id) => return self.withdraw(world, &id),
                Step::Recover(claim) => return self.recover(world, claim),
                Step::Check(claim) => {
                    let id = claim.job_id;
                    world.start_check(&id)?;
                    self.jobs.attended = Some(id);
                    return Ok(());
                }
                Step::Start(id) => {
                    if let Some(done) = self.begin(world, &id, &mut closed) {
                        return done;
                    }
                }
                Step::Wait(until) => {
                    self.waits = until;
                    return Ok(());
                }
            }
        }
    }

    /// An orderly stop ends a running agent or check, and leaves its claim to the next start.
    pub fn stop(&mut self, world: &mut World) -> Done {
        world.check = None;
        if let Some(id) = self.jobs.attended.take()
            && let Some(claim) = self.jobs.claim(&id).cloned()
            && !claim.checking
        {
            let said = world.end_agent();
            self.conclude(world, claim, said, By::Stop)?;
        }
        Ok(())
    }

    pub fn is_idle(&self) -> bool {
        self.unwritten.is_none() && self.jobs.waiting.is_empty() && self.jobs.begun.is_empty()
    }

    pub fn waits_until(&self, world: &World) -> Option<Duration> {
        if self.jobs.attended.is_some() {
            return None;
        }
        if self.unwritten.is_some() {
            return Some(Duration::from_secs(2));
        }
        let pause = self.waits?.checked_duration_since(world.now());
        pause.filter(|pause| !pause.is_zero())
    }

    fn hear(&mut self, world: &mut World) -> Done {
        for (id, whole) in std::mem::take(&mut world.events) {
            self.look_at(world, &id, whole);
        }
        match std::mem::take(&mut world.poked) {
            true => self.look_at_marks(world),
            false => Ok(()),
        }
    }

    fn look_at(&mut self, world: &World, id: &JobId, whole: bool) {
        if world.disk.documents.contains_key(id) && world.is_open(id) {
            self.jobs.note(id.clone(), whole);
        } else if self.jobs.waiting.contains_key(id) {
            self.jobs.remove(id);
        }
    }

    fn look_at_marks(&mut self, world: &mut World) -> Done {
        self.jobs.cancelled = world.disk.cancelled.clone();
        self.jobs.held = world.disk.held.clone();
        for id in world.disk.cancelled.clone() {
            if !self.jobs.has(&id) {
                self.look_at(world, &id, false);
            }
            if !self.jobs.has(&id) {
                world.effect(|disk| disk.cancelled.remove(&id))?;
                self.jobs.cancelled.remove(&id);
            }
        }
        for id in world.disk.held.clone() {
            if !self.jobs.has(&id) && world.disk.results.contains_key(&id) {
                world.effect(|disk| disk.held.remove(&id))?;
                self.jobs.held.remove(&id);
            }
        }
        for id in world.disk.released.clone() {
            world.effect(|disk| disk.released.remove(&id))?;
            world.disk.holds.release(Some(("p", AGENT)));
        }
        Ok(())
    }

    /// Starts a job, unless its document does not count yet or its agent is held: `None`.
    fn begin(&mut self, world: &mut World, id: &JobId, closed: &mut Option<Until>) -> Option<Done> {
        let (claim, version) = match self.jobs.claim(id).cloned() {
            Some(claim) => {
                let of_claim = |version: &u32| version.to_string() == claim.document_sha256;
                let kept = world.disk.kept.get(id).copied().filter(of_claim);
                let document = world.disk.documents.get(id).map(|text| text.version);
                let Some(version) = kept.or(document.filter(of_claim)) else {
                    let kind = Some(ErrorKind::Interrupted);
                    return Some(self.publish(world, claim, kind));
                };
                if kept.is_none()
                    && let Err(trouble) =
                        passing(world.effect(|disk| disk.kept.insert(id.clone(), version)))
                {
                    return Some(Err(trouble));
                }
                (claim, version)
            }
            None => {
                let Some((meta, version)) = world.meta(id) else {
                    self.look_at(world, id, false);
                    return None;
                };
                let readiness = self.jobs.readiness(id, &meta, false, SETTLE, now(world));
                if readiness != Readiness::Ready {
                    return None;
                }
                (new_claim(id, version, world), version)
            }
        };
        let wall = world.wall();
        let held = world.disk.holds.closed(entrant(AGENT), true, wall);
        if let Some((_, wall)) = held {
            *closed = Some(wall.map(|at| now(world).at(at)));
            return None;
        }
        world.disk.holds.begin_probe(entrant(AGENT), wall);
        if world.fate() == Fate::NoProgram {
            world.disk.holds.end_probe("p", false, wall);
            return Some(self.refuse(world));
        }
        Some(self.launch(world, &claim, version))
    }

    fn launch(&mut self, world: &mut World, before: &Claim, version: u32) -> Done {
        let (id, policy, wall) = (before.job_id.clone(), policy(world), world.wall());
        let token = world.token();
        let mut claim = before.clone();
        decide::begin(&mut claim, &policy, format!("session-{token}"));
        (claim.boot_id, claim.run, claim.started_at) = (world.boot.to_string(), token, wall);
        let log = log_name(&id, claim.starts, "jsonl");
        world.effect(|disk| disk.logs.remove(&log))?;
        let on_disk = ClaimFile::Whole(Box::new(claim.clone()));
        world.effect(|disk| disk.claims.insert(id.clone(), on_disk))?;
        world.effect(|disk| disk.logs.insert(log.clone(), Log::default()))?;
        match world.fate() {
            fate @ (Fate::BadProgram | Fate::NoProcess) => {
                world.fail_to_spawn()?;
                world.effect(|disk| disk.logs.remove(&log))?;
                world.disk.holds.end_probe("p", false, wall);
                if fate == Fate::BadProgram {
                    self.jobs.set(claim);
                    return self.refuse(world);
                }
                let verdict = Some(Fault::new(ErrorKind::SpawnFailed, ""));
                self.follow_attempt(world, claim, &verdict)
            }
            _ => {
                world.spawn(&claim, log, version)?;
                world.disk.holds.probe_started("p");
                world.disk.holds.end_probe("p", true, wall);
                let is_fresh = !claim.resumed && before.starts == 0;
                self.jobs.set(claim);
                self.jobs.attended = Some(id.clone());
                if is_fresh {
                    passing(world.effect(|disk| disk.kept.insert(id, version)))?;
                }
                Ok(())
            }
        }
    }

    fn refuse(&mut self, world: &mut World) -> Done {
        self.put_hold(world, &Fault::new(ErrorKind::AgentMissing, ""))
    }

    /// Looks after an agent or a check; concludes where it has ended.
    fn attend(&mut self, world: &mut World, id: &JobId) -> Done {
        let agent_runs = world.agent.as_ref().is_some_and(|agent| !agent.gone);
        let check_runs = world.check.is_some() && world.check_said.is_none();
        if agent_runs || check_runs {
            passing(self.hear(world))?;
            match decide(&self.jobs, None, now(world)) {
                Step::Withdraw(this) if this == *id => {}
                Step::Withdraw(other) if self.unwritten.is_none() => {
                    return self.withdraw(world, &other);
                }
                _ => return Ok(()),
            }
        }
        let by = match agent_runs || check_runs {
            true => By::Cancel,
            false => By::Itself,
        };
        self.jobs.attended = None;
        let claim = self.jobs.claim(id).cloned();
        let claim = claim.expect("it is attended");
        if claim.checking {
            return self.conclude_check(world, claim, by);
        }
        let said = world.end_agent();
        self.conclude(world, claim, said, by)
    }

    fn conclude(
        &mut self,
        world: &mut World,
        mut claim: Claim,
        said: Option<Said>,
        by: By,
    ) -> Done {
        let verdict = verdict(said, by, world);
        let is_cut_off = matches!(&verdict, Some(fault) if fault.kind == ErrorKind::Interrupted);
        if by == By::Stop && is_cut_off {
            claim.stopped = true;
            return self.write(world, Written::Claim(Box::new(claim)));
        }
        if verdict.is_none() {
            let began = claim.started_at;
            self.change_holds(world, |holds| holds.answered(("p", AGENT), began))?;
        }
        self.follow_attempt(world, claim, &verdict)
    }

    fn follow_attempt(&mut self, world: &mut World, mut claim: Claim, verdict: &Verdict) -> Done {
        let others = world.others_answered;
        let next = decide::after_attempt(verdict, &mut claim, &policy(world), others, world.wall());
        let fault = verdict.as_ref();
        if let Some(fault) = fault.filter(|fault| fault.kind.course() == Course::Hold) {
            self.put_hold(world, fault)?;
        }
        self.follow(world, claim, next, fault.map(|fault| fault.kind))
    }

    fn conclude_check(&mut self, world: &mut World, mut claim: Claim, by: By) -> Done {
        world.check = None;
        let (next, fault) = match (by, world.check_said.take()) {
            (By::Cancel, _) | (_, None) => {
                (Next::Publish, Some(Fault::new(ErrorKind::Cancelled, "")))
            }
            (_, Some(succeeds)) => {
                world.note_check(&claim.job_id, succeeds);
                claim.checks.push(Check {
                    started_at: world.wall(),
                    duration_seconds: 0.0,
                    exit_code: Some(i32::from(!succeeds)),
                    signal: None,
                    output: String::new(),
                });
                decide::after_check(&claim, &policy(world), world.wall())
            }
        };
        self.follow(world, claim, next, fault.map(|fault| fault.kind))
    }

    fn follow(
        &mut self,
        world: &mut World,
        mut claim: Claim,
        next: Next,
        kind: Option<ErrorKind>,
    ) -> Done {
        claim.checking = next == Next::Check;
        match next {
            Next::Publish => return self.publish(world, claim, kind),
            Next::Check => {}
            Next::Suspend(suspension) => claim.suspended = Some(suspension),
        }
        self.write(world, Written::Claim(Box::new(claim)))
    }

    fn put_hold(&mut self, world: &mut World, fault: &Fault) -> Done {
        let wall = world.wall();
        self.change_holds(world, |holds| fail(holds, AGENT, fault, wall, wall))
    }

    /// Memory and disk are one here: a hold that cannot be written stays in memory, and is met again by
    /// the next attempt after a crash.
    fn change_holds<T>(&mut self, world: &mut World, change: impl FnOnce(&mut Holds) -> T) -> Done {
        passing(world.effect(|_| ()))?;
        change(&mut world.disk.holds);
        Ok(())
    }

    fn withdraw(&mut self, world: &mut World, id: &JobId) -> Done {
        let claim = self.jobs.claim(id).cloned();
        let claim = claim.unwrap_or_else(|| new_claim(id, 0, world));
        let kind = Some(ErrorKind::Cancelled);
        self.publish(world, claim, kind)
    }

    fn publish(&mut self, world: &mut World, claim: Claim, kind: Option<ErrorKind>) -> Done {
        self.write(world, Written::Result(Box::new(claim), kind))
    }

    fn write(&mut self, world: &mut World, written: Written) -> Done {
        let done = match &written {
            Written::Result(claim, kind) => world.publish(&claim.job_id, *kind),
            Written::Claim(claim) => {
                let whole = ClaimFile::Whole(claim.clone());
                world.effect(|disk| disk.claims.insert(claim.job_id.clone(), whole))
            }
        };
        match (done, written) {
            (Ok(()), Written::Result(claim, kind)) => self.finish(world, &claim.job_id, kind),
            (Ok(()), Written::Claim(claim)) => {
                self.jobs.set(*claim);
                Ok(())
            }
            (Err(Trouble::Error), written) => {
                self.unwritten = Some(written);
                Ok(())
            }
            (Err(Trouble::Crash), _) => Err(Trouble::Crash),
        }
    }

    fn finish(&mut self, world: &mut World, id: &JobId, kind: Option<ErrorKind>) -> Done {
        self.jobs.remove(id);
        passing(world.effect(|disk| disk.finished.insert(id.clone())))?;
        passing(world.effect(|disk| disk.claims.remove(id)))?;
        if self.jobs.cancelled.remove(id) || kind == Some(ErrorKind::Cancelled) {
            passing(world.effect(|disk| disk.cancelled.remove(id)))?;
        }
        if self.jobs.held.remove(id) {
            passing(world.effect(|disk| disk.held.remove(id)))?;
        }
        Ok(())
    }

    fn recover(&mut self, world: &mut World, claim: Box<Claim>) -> Done {
        let id = &claim.job_id.clone();
        let log = log_name(id, claim.starts, "jsonl");
        match world.disk.logs.get(&log).copied() {
            None if claim.boot_id == world.boot.to_string() => {
                match decide::undone(*claim, world.wall()) {
                    Some(claim) => self.write(world, Written::Claim(Box::new(claim))),
                    None => {
                        world.effect(|disk| disk.claims.remove(id))?;
                        self.jobs.remove(id);
                        self.look_at(world, id, true);
                        Ok(())
                    }
                }
            }
            None => self.interrupt(world, *claim),
            Some(log) => {
                let is_cut_off = |fault: &Fault| fault.kind == ErrorKind::Interrupted;
                match verdict(log.said, By::Stop, world) {
                    Some(fault) if is_cut_off(&fault) => self.interrupt(world, *claim),
                    // The end that it came to without us counts.
                    _ => self.conclude(world, *claim, log.said, By::Stop),
                }
            }
        }
    }

    fn interrupt(&mut self, world: &mut World, mut claim: Claim) -> Done {
        let (next, fault) = decide::after_interruption(&mut claim, &policy(world), world.wall());
        self.follow(world, claim, next, Some(fault.kind))
    }
}

fn new_claim(id: &JobId, version: u32, world: &World) -> Claim {
    let agent = policy(world).agent;
    Claim {
        job_id: id.clone(),
        created_at: world.wall(),
        queue_position: 1,
        document_sha256: version.to_string(),
        agent: agent.name,
        protocol: agent.protocol,
        ..Claim::default()
    }
}
