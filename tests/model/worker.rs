//! The worker's effects in their order, as `src/worker` has them, on the model's disk. Whatever
//! it decides is decided by the program's own functions; where `src/worker` decides by itself,
//! the line here stands for the one there and is to be kept like it.

use crate::desk::{entrant, fail};
use crate::world::{
    AGENT, Agent, ClaimFile, Done, Fate, Log, SETTLE, Said, Trouble, World, ids, passing,
};
use job_monitor::agent::{Fault, Verdict};
use job_monitor::holds::{Gate, Holds};
use job_monitor::job::{ErrorKind, JobId, Status, log_name};
use job_monitor::project::{AgentSpec, Policy, Protocol};
use job_monitor::queue::{self, Arrival, Next, Readiness, Waiting};
use job_monitor::record::{Carried, Claim, Suspension};

use job_monitor::time::Wall;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// The daemon's memory: lost in a crash.
#[derive(Clone, Debug, Default)]
pub struct Daemon {
    waiting: Waiting,
    claims: Vec<Claim>,
    cancelled: BTreeSet<JobId>,
    held: BTreeSet<JobId>,
    running: Option<Claim>,
    unwritten: VecDeque<Unwritten>,
}

#[derive(Clone, Debug)]
enum Unwritten {
    Result(Claim, Status, Option<ErrorKind>),
    Claim(Claim),
}

/// Who ended an agent that the daemon attended.
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
        ..Policy::default()
    }
}

fn fault(kind: ErrorKind) -> Fault {
    Fault {
        kind,
        error: String::new(),
        resets_at: None,
        session_unknown: false,
    }
}

/// What an agent's last word amounts to; without one, whoever ended it decides.
fn verdict(said: Option<Said>, by: By, world: &World) -> Verdict {
    if by == By::Cancel {
        return Verdict::Fault(fault(ErrorKind::Cancelled));
    }
    let plain = world.setting.protocol == Protocol::Plain;
    Verdict::Fault(match said.filter(|_| !plain || by == By::Itself) {
        Some(Said::Done) => return Verdict::Completed,
        Some(Said::Overloaded) => fault(ErrorKind::Overloaded),
        Some(Said::Limit) => Fault {
            resets_at: Some(world.wall().plus(Duration::from_secs(600))),
            ..fault(ErrorKind::UsageLimit)
        },
        Some(Said::NotLoggedIn) => fault(ErrorKind::NotAuthenticated),
        Some(Said::Refused) => fault(ErrorKind::Refused),
        Some(Said::NoSuchSession) => Fault {
            session_unknown: true,
            ..fault(ErrorKind::AgentError)
        },
        None if by == By::Stop => fault(ErrorKind::Interrupted),
        None => fault(ErrorKind::NoResult),
    })
}

impl Daemon {
    // --- worker/mod.rs ---

    pub fn start(world: &mut World) -> Done<Daemon> {
        let mut daemon = Daemon {
            cancelled: world.disk.cancelled.clone(),
            held: world.disk.held.clone(),
            ..Daemon::default()
        };
        daemon.recover(world)?;
        daemon.look_at_everything(world)?;
        Ok(daemon)
    }

    pub fn turn(&mut self, world: &mut World) -> Done {
        if let Some(claim) = self.running.clone() {
            return self.attend(world, claim);
        }
        match self.hear(world) {
            Err(Trouble::Error) if !self.unwritten.is_empty() => {}
            heard => heard?,
        }
        self.step(world)
    }

    /// An orderly stop ends a running agent, and leaves its claim to the next start.
    pub fn stop(&mut self, world: &mut World) -> Done {
        if let Some(claim) = self.running.take() {
            let said = self.end_agent(world);
            self.conclude(world, claim, said, By::Stop)?;
        }
        Ok(())
    }

    pub fn is_idle(&self) -> bool {
        self.running.is_none()
            && self.unwritten.is_empty()
            && self.claims.is_empty()
            && self.waiting.is_empty()
    }

    pub fn waits_until(&self, world: &World) -> Option<Duration> {
        if self.running.is_some() {
            return None;
        }
        if !self.unwritten.is_empty() {
            return Some(Duration::from_secs(2));
        }
        let wall = world.wall();
        let until = match world.disk.holds.gate(&entrant(AGENT), wall) {
            Gate::Closed(_, until) => until,
            Gate::Open | Gate::Probe => None,
        };
        let retry = self
            .claims
            .first()
            .and_then(|claim| claim.suspended.as_ref()?.retry_at);
        let next = self.waiting.next_due();
        let pauses = [until, retry].map(|at| at.filter(|at| *at > wall).map(|at| at.since(wall)));
        let due = next.and_then(|at| at.checked_duration_since(world.now()));
        let all = pauses.into_iter().chain([due]).flatten();
        all.filter(|pause| !pause.is_zero()).min()
    }

    fn hear(&mut self, world: &mut World) -> Done {
        for (id, arrival) in std::mem::take(&mut world.events) {
            self.look_at(world, &id, arrival);
        }
        if std::mem::take(&mut world.poked) {
            self.look_at_marks(world)?;
        }
        Ok(())
    }

    fn look_at_everything(&mut self, world: &mut World) -> Done {
        let ids = world.disk.documents.keys();
        let found = ids.filter(|id| !world.disk.results.contains_key(*id) && !self.is_begun(id));
        self.waiting.replace(found.cloned().collect());
        self.look_at_marks(world)
    }

    fn look_at(&mut self, world: &World, id: &JobId, arrival: Arrival) {
        let there = world.disk.documents.contains_key(id) && !world.disk.results.contains_key(id);
        if !there {
            self.waiting.remove(id);
        } else if !self.is_begun(id) {
            self.waiting.note(id.clone(), arrival);
        }
    }

    fn is_begun(&self, id: &JobId) -> bool {
        self.running
            .iter()
            .chain(&self.claims)
            .any(|claim| claim.job_id == *id)
    }

    fn look_at_marks(&mut self, world: &mut World) -> Done {
        self.cancelled = world.disk.cancelled.clone();
        self.held = world.disk.held.clone();
        self.sweep_marks(world)?;
        self.waiting.set_held(self.held.clone());
        for id in world.disk.released.clone() {
            world.effect(|disk| disk.released.remove(&id))?;
            world.disk.holds.release(Some(("p", AGENT)));
        }
        Ok(())
    }

    fn sweep_marks(&mut self, world: &mut World) -> Done {
        for id in self.held.clone() {
            let idle = !self.waiting.contains(&id) && !self.is_begun(&id);
            if idle && world.disk.results.contains_key(&id) {
                self.held.remove(&id);
                world.effect(|disk| disk.held.remove(&id))?;
            }
        }
        Ok(())
    }

    fn step(&mut self, world: &mut World) -> Done {
        if let Some(unwritten) = self.unwritten.pop_front() {
            return self.write_now(world, unwritten);
        }
        self.withdraw_cancelled(world)?;
        if !self.unwritten.is_empty() {
            return Ok(());
        }
        let (now, wall) = (world.now(), world.wall());
        if let Some(claim) = self.claims.first() {
            let retry_at = claim
                .suspended
                .as_ref()
                .and_then(|suspension| suspension.retry_at);
            if retry_at.is_some_and(|at| at > wall) || self.held.contains(&claim.job_id) {
                return Ok(());
            }
        } else if self.waiting.first(now).is_none() {
            return Ok(());
        }
        world.disk.holds.tidy(wall);
        if let Gate::Closed(..) = world.disk.holds.gate(&entrant(AGENT), wall) {
            return Ok(());
        }
        world.disk.holds.begin_probe(&entrant(AGENT), wall);
        world.disk.holds.end_probe("p", false, wall);
        if !self.claims.is_empty() {
            let claim = self.claims.remove(0);
            return self.carry_on(world, claim);
        }
        while let Some(id) = self.waiting.first(now).cloned() {
            let Some((meta, version)) = world.meta(&id) else {
                self.look_at(world, &id, Arrival::Unknown);
                continue;
            };
            let ready = self.waiting.readiness(&id, &meta, false, SETTLE, now, wall);
            if ready == Readiness::Ready {
                return self.begin(world, id, version);
            }
        }
        Ok(())
    }

    fn withdraw_cancelled(&mut self, world: &mut World) -> Done {
        let running = self.running.as_ref().map(|claim| claim.job_id.clone());
        while self.unwritten.is_empty()
            && let Some(id) = self
                .cancelled
                .iter()
                .find(|id| running.as_ref() != Some(id))
                .cloned()
        {
            self.cancelled.remove(&id);
            let there = world.disk.documents.contains_key(&id);
            if let Some(at) = self.claims.iter().position(|claim| claim.job_id == id) {
                let claim = self.claims.remove(at);
                self.publish(world, claim, Status::Cancelled, Some(ErrorKind::Cancelled))?;
            } else if there && !world.disk.results.contains_key(&id) {
                let claim = new_claim(&id, 0, world);
                self.publish(world, claim, Status::Cancelled, Some(ErrorKind::Cancelled))?;
            } else {
                world.effect(|disk| disk.cancelled.remove(&id))?;
            }
        }
        Ok(())
    }

    // --- worker/attempt.rs ---

    fn begin(&mut self, world: &mut World, id: JobId, version: u32) -> Done {
        let claim = new_claim(&id, version, world);
        self.attempt(world, claim, version, true)
    }

    fn carry_on(&mut self, world: &mut World, claim: Claim) -> Done {
        let of_claim = |version: &&u32| version.to_string() == claim.document_sha256;
        let kept = world.disk.kept.get(&claim.job_id);
        let document = world.disk.documents.get(&claim.job_id).map(|d| d.version);
        let kept = kept.filter(of_claim).copied();
        match kept.or(document.filter(|version| of_claim(&version))) {
            Some(version) => {
                if kept.is_none() {
                    let id = claim.job_id.clone();
                    passing(world.effect(|disk| disk.kept.insert(id, version)))?;
                }
                self.attempt(world, claim, version, false)
            }
            None => self.publish(world, claim, Status::Failed, Some(ErrorKind::Interrupted)),
        }
    }

    fn attempt(&mut self, world: &mut World, before: Claim, version: u32, unkept: bool) -> Done {
        let id = before.job_id.clone();
        let resumes = match &before.suspended {
            Some(suspension) => !suspension.afresh && before.session_id.is_some(),
            None => false,
        };
        let mut claim = before.clone();
        claim.run = world.token();
        claim.boot_id = world.boot.to_string();
        claim.starts += 1;
        claim.started_at = world.wall();
        claim.resumed = resumes && world.setting.protocol == Protocol::Claude;
        if !claim.resumed && world.setting.protocol == Protocol::Claude {
            claim.session_id = Some(format!("session-{}", claim.run));
        }
        claim.suspended = None;
        if world.fate() == Fate::NoProgram {
            return self.hold_before_start(world, before);
        }
        let wall = world.wall();
        world.disk.holds.begin_probe(&entrant(AGENT), wall);
        world.disk.holds.probe_started("p", wall);
        world.disk.holds.end_probe("p", true, wall);

        let log = log_name(&id, claim.starts, "jsonl");
        world.effect(|disk| disk.logs.remove(&log))?;
        let on_disk = ClaimFile::Whole(Box::new(claim.clone()));
        if let Err(trouble) = world.effect(|disk| disk.claims.insert(id.clone(), on_disk)) {
            return self.unclaimed(world, before, trouble);
        }
        let made = world.effect(|disk| disk.logs.insert(log.clone(), Log::default()));
        if let Err(trouble) = made {
            return self.unclaimed(world, before, trouble);
        }
        match world.fate() {
            Fate::BadProgram => {
                world.fail_to_spawn()?;
                self.put_back(world, &before)?;
                return self.hold_before_start(world, before);
            }
            Fate::NoProcess => {
                world.fail_to_spawn()?;
                self.waiting.remove(&id);
                let fault = fault(ErrorKind::SpawnFailed);
                let verdict = Verdict::Fault(fault);
                let mut next = queue::after_attempt(&verdict, &claim, &policy(world), world.wall());
                if let Next::Suspend(suspension) = &mut next {
                    suspension.afresh = !claim.resumed;
                }
                return self.follow(world, claim, next, Some(ErrorKind::SpawnFailed));
            }
            _ => world.spawn(&claim, log, version)?,
        }
        self.waiting.remove(&id);
        self.running = Some(claim);
        if unkept {
            passing(world.effect(|disk| disk.kept.insert(id, version)))?;
        }
        Ok(())
    }

    fn unclaimed(&mut self, world: &mut World, before: Claim, trouble: Trouble) -> Done {
        if trouble == Trouble::Error {
            passing(self.put_back(world, &before))?;
        }
        Err(trouble)
    }

    fn put_back(&mut self, world: &mut World, before: &Claim) -> Done {
        let id = before.job_id.clone();
        let whole = ClaimFile::Whole(Box::new(before.clone()));
        match before.starts {
            0 => world.effect(|disk| disk.claims.remove(&id)),
            _ => world.effect(|disk| disk.claims.insert(id, whole)),
        }
    }

    fn hold_before_start(&mut self, world: &mut World, before: Claim) -> Done {
        self.put_hold(world, ErrorKind::AgentMissing, None)?;
        if before.starts > 0 {
            self.claims.insert(0, before);
        }
        Ok(())
    }

    fn attend(&mut self, world: &mut World, claim: Claim) -> Done {
        let gone = world.agent.as_ref().is_none_or(|agent: &Agent| agent.gone);
        if !gone {
            passing(
                self.hear(world)
                    .and_then(|()| self.withdraw_cancelled(world)),
            )?;
            if !world.disk.cancelled.contains(&claim.job_id) {
                return Ok(());
            }
        }
        let by = if gone { By::Itself } else { By::Cancel };
        let said = self.end_agent(world);
        self.running = None;
        self.conclude(world, claim, said, by)
    }

    /// The agent and its processes are gone; what its log says.
    fn end_agent(&mut self, world: &mut World) -> Option<Said> {
        let agent = world.agent.take()?;
        world.disk.logs.get(&agent.log).and_then(|log| log.said)
    }

    fn conclude(&mut self, world: &mut World, claim: Claim, said: Option<Said>, by: By) -> Done {
        let verdict = verdict(said, by, world);
        let kind = match &verdict {
            Verdict::Completed => None,
            Verdict::Fault(fault) => Some(fault.kind),
        };
        if by == By::Stop && kind == Some(ErrorKind::Interrupted) {
            return Ok(());
        }
        if kind.is_none() {
            self.change_holds(world, |holds| holds.answered("p", AGENT, claim.started_at))?;
        }
        let next = queue::after_attempt(&verdict, &claim, &policy(world), world.wall());
        self.follow(world, claim, next, kind)
    }

    fn follow(
        &mut self,
        world: &mut World,
        mut claim: Claim,
        next: Next,
        kind: Option<ErrorKind>,
    ) -> Done {
        let (suspension, hold) = match next {
            Next::Publish(status) => return self.publish(world, claim, status, kind),
            Next::Suspend(suspension) => (suspension, None),
            Next::Hold(suspension, until) => (suspension, Some(until)),
        };
        let repeats = suspension.kind.course() == job_monitor::job::Course::Retry;
        claim.retries += u32::from(repeats && suspension.retry_at.is_some());
        if let Some(resets_at) = hold {
            self.put_hold(world, suspension.kind, resets_at)?;
        }
        claim.suspended = Some(suspension);
        self.write_now(world, Unwritten::Claim(claim))
    }

    fn put_hold(&mut self, world: &mut World, kind: ErrorKind, resets_at: Option<Wall>) -> Done {
        let wall = world.wall();
        let fault = Fault {
            resets_at,
            ..Fault::new(kind, "")
        };
        self.change_holds(world, |holds| fail(holds, AGENT, &fault, wall, wall))
    }

    /// Memory and disk are one here: a hold that cannot be written stays in memory, and is met
    /// again by the next attempt after a crash.
    fn change_holds<T>(&mut self, world: &mut World, change: impl FnOnce(&mut Holds) -> T) -> Done {
        passing(world.effect(|_| ()))?;
        change(&mut world.disk.holds);
        Ok(())
    }

    fn publish(
        &mut self,
        world: &mut World,
        claim: Claim,
        status: Status,
        kind: Option<ErrorKind>,
    ) -> Done {
        self.write_now(world, Unwritten::Result(claim, status, kind))
    }

    fn write_now(&mut self, world: &mut World, unwritten: Unwritten) -> Done {
        let written = match &unwritten {
            Unwritten::Result(claim, status, kind) => world.publish(&claim.job_id, *status, *kind),
            Unwritten::Claim(claim) => {
                let whole = ClaimFile::Whole(Box::new(claim.clone()));
                world.effect(|disk| disk.claims.insert(claim.job_id.clone(), whole))
            }
        };
        match (written, unwritten) {
            (Ok(()), Unwritten::Result(claim, status, _)) => {
                self.finish(world, &claim.job_id, status)
            }
            (Ok(()), Unwritten::Claim(claim)) => {
                self.claims.insert(0, claim);
                Ok(())
            }
            (Err(Trouble::Error), unwritten) => {
                self.unwritten.push_back(unwritten);
                Ok(())
            }
            (Err(Trouble::Crash), _) => Err(Trouble::Crash),
        }
    }

    fn finish(&mut self, world: &mut World, id: &JobId, status: Status) -> Done {
        self.waiting.remove(id);
        passing(world.effect(|disk| disk.claims.remove(id)))?;
        if self.cancelled.remove(id) || status == Status::Cancelled {
            passing(world.effect(|disk| disk.cancelled.remove(id)))?;
        }
        if self.held.remove(id) {
            self.waiting.set_held(self.held.clone());
            passing(world.effect(|disk| disk.held.remove(id)))?;
        }
        Ok(())
    }

    // --- worker/recovery.rs ---

    fn recover(&mut self, world: &mut World) -> Done {
        for id in ids() {
            let Some(on_disk) = world.disk.claims.get(id).cloned() else {
                continue;
            };
            if world.disk.results.contains_key(id) {
                if let ClaimFile::Whole(claim) = &on_disk {
                    self.end_survivors(world, claim);
                }
                world.effect(|disk| disk.claims.remove(id))?;
                continue;
            }
            match on_disk {
                ClaimFile::Whole(claim) => self.recover_claim(world, *claim)?,
                ClaimFile::Broken => {
                    world.effect(|disk| disk.held.insert(id.clone()))?;
                    self.held.insert(id.clone());
                    world.effect(|disk| disk.claims.remove(id))?;
                }
            }
            if !self.unwritten.is_empty() {
                return Err(Trouble::Error);
            }
        }
        self.claims.sort_by(|a, b| a.job_id.cmp(&b.job_id));
        for id in ids()
            .iter()
            .filter(|id| world.disk.results.contains_key(*id))
            .cloned()
            .collect::<Vec<_>>()
        {
            if self.cancelled.contains(&id) || self.held.contains(&id) {
                world.effect(|disk| disk.cancelled.remove(&id))?;
                world.effect(|disk| disk.held.remove(&id))?;
            }
        }
        Ok(())
    }

    fn recover_claim(&mut self, world: &mut World, claim: Claim) -> Done {
        if claim.suspended.is_some() {
            self.claims.push(claim);
            return Ok(());
        }
        self.end_survivors(world, &claim);
        let log = log_name(&claim.job_id, claim.starts, "jsonl");
        match world.disk.logs.get(&log).copied() {
            None if claim.boot_id == world.boot.to_string() => self.not_begun(world, claim),
            None => self.interrupt(world, claim),
            Some(log) => {
                let verdict = verdict(log.said, By::Stop, world);
                let interrupted = |fault: &Fault| fault.kind == ErrorKind::Interrupted;
                if matches!(&verdict, Verdict::Fault(fault) if interrupted(fault)) {
                    return self.interrupt(world, claim);
                }
                // The end that it came to without us counts; `By::Stop` judges nothing else.
                self.conclude(world, claim, log.said, By::Stop)
            }
        }
    }

    fn not_begun(&mut self, world: &mut World, mut claim: Claim) -> Done {
        let id = claim.job_id.clone();
        if claim.starts <= 1 {
            return world.effect(|disk| disk.claims.remove(&id));
        }
        claim.starts -= 1;
        claim.suspended = Some(Suspension {
            kind: ErrorKind::Interrupted,
            error: String::new(),
            retry_at: Some(world.wall()),
            afresh: !claim.resumed,
        });
        self.write_now(world, Unwritten::Claim(claim))
    }

    fn interrupt(&mut self, world: &mut World, mut claim: Claim) -> Done {
        claim.interruptions += 1;
        let next = queue::after_interruption(&claim, &policy(world), world.wall());
        let kind = queue::interrupted(&claim).kind;
        self.follow(world, claim, next, Some(kind))
    }

    fn end_survivors(&mut self, world: &mut World, claim: &Claim) {
        if world
            .agent
            .as_ref()
            .is_some_and(|agent| agent.run == claim.run)
        {
            world.agent = None;
        }
    }
}

fn new_claim(id: &JobId, version: u32, world: &World) -> Claim {
    Claim {
        job_id: id.clone(),
        run: String::new(),
        boot_id: String::new(),
        starts: 0,
        started_at: world.wall(),
        created_at: world.wall(),
        queue_position: 1,
        document_sha256: version.to_string(),
        agent: AGENT.to_owned(),
        protocol: world.setting.protocol,
        session_id: None,
        resumed: false,
        attempts: Vec::new(),
        retries: 0,
        interruptions: 0,
        carried: Carried::default(),
        suspended: None,
        checks: Vec::new(),
        continues: None,
    }
}
