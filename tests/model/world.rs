//! The outside of the daemon: disk, agent, clock, people. And the record of what truly happened,
//! which the daemon never sees and against which each of its effects is checked.

use crate::daemon::Daemon;
use job_monitor::agent::Fault;
use job_monitor::decide::INTERRUPTIONS_MAX;
use job_monitor::holds::Holds;
use job_monitor::job::{ErrorKind, JobId, Meta};
use job_monitor::project::{OnInterrupt, Protocol};
use job_monitor::record::Claim;
use job_monitor::time::Wall;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// So many turns at most are few enough for an end.
const TURNS_MAX: usize = 60;

pub const AGENT: &str = "agent";
pub const SETTLE: Duration = Duration::from_millis(200);
/// So long does the longest pause last that the model's agent can cause.
const LIMIT: Duration = Duration::from_secs(600);
const EPOCH: Wall = Wall(1_795_173_825_000);

/// The jobs of the model, first to last. The second start of the second writes to the log of
/// the first start of the first, which is as bad as names can be chosen.
pub fn ids() -> &'static [JobId] {
    static IDS: OnceLock<Vec<JobId>> = OnceLock::new();
    IDS.get_or_init(|| {
        let names = [
            "job-20260130-143000-x.2",
            "job-20260130-143000-x",
            "job-20260130-143001-a",
        ];
        names.map(|name| JobId::parse(name).unwrap()).into()
    })
}

/// What an exploration is about.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Setting {
    pub jobs: usize,
    pub protocol: Protocol,
    pub on_interrupt: OnInterrupt,
    pub retries: u32,
    /// Whether there is a check, and how often the agent is sent back.
    pub check_rounds: Option<u32>,
}

/// What outlasts a crash of the daemon.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    pub documents: BTreeMap<JobId, Document>,
    pub claims: BTreeMap<JobId, ClaimFile>,
    pub cancelled: BTreeSet<JobId>,
    pub held: BTreeSet<JobId>,
    pub released: BTreeSet<JobId>,
    pub results: BTreeMap<JobId, Option<ErrorKind>>,
    /// The texts that ran, by version.
    pub kept: BTreeMap<JobId, u32>,
    pub logs: BTreeMap<String, Log>,
    pub holds: Holds,
    /// What the daemon remembers of finished jobs.
    pub finished: BTreeSet<JobId>,
}

#[derive(Clone, Copy, Debug)]
pub struct Document {
    /// 0 is an empty file.
    pub version: u32,
    pub written: Wall,
}

#[derive(Clone, Debug)]
pub enum ClaimFile {
    Whole(Box<Claim>),
    Broken,
}

/// A log of standard output.
#[derive(Clone, Copy, Debug, Default)]
pub struct Log {
    pub said: Option<Said>,
}

/// An agent's last word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    Done,
    Overloaded,
    Limit,
    NotLoggedIn,
    Refused,
    NoSuchSession,
}

impl Said {
    pub const ALL: [Said; 6] = {
        use Said::*;
        [Done, Overloaded, Limit, NotLoggedIn, Refused, NoSuchSession]
    };
}

#[derive(Clone, Debug)]
pub struct Agent {
    pub id: JobId,
    pub run: String,
    pub log: String,
    pub gone: bool,
}

/// One start as it truly happened.
#[derive(Clone, Debug)]
struct Run {
    id: JobId,
    token: String,
    version: u32,
    resumed: bool,
    /// Whether it is the first of its session.
    session: Option<String>,
    said: Option<Said>,
    /// The daemon or the machine went down before what it amounts to was on disk.
    cut_off: bool,
    /// And its log went with it.
    log_lost: bool,
    /// A person stopped the daemon meanwhile.
    stopped: bool,
    /// How its checks ended.
    checks: Vec<bool>,
}

/// What a person or the world did to a job.
#[derive(Clone, Debug, Default)]
struct Asked {
    cancel: bool,
    /// The claim was damaged: a start after that is asked for, by `release`.
    damaged: bool,
    repeats: u32,
    rounds: u32,
    interruptions: u32,
}

/// How a turn of the daemon is disturbed: at its n-th effect from 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Fate {
    #[default]
    Fine,
    /// Killed just before it.
    Crash(usize),
    /// The effect does not happen, and an error says so.
    Fail(usize),
    /// The effect happens, and an error says the contrary, as when a directory cannot be synced.
    Doubt(usize),
    /// From then on none succeeds.
    Full(usize),
    /// The program is not found.
    NoProgram,
    /// It is found, but cannot be executed.
    BadProgram,
    /// The system cannot start a process just now.
    NoProcess,
}

/// Why the daemon does not get on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trouble {
    Crash,
    Error,
}

pub type Done<T = ()> = Result<T, Trouble>;

/// Trouble that changes nothing, as the worker takes it: said, and passed over.
pub fn passing(result: Done) -> Done {
    match result {
        Err(Trouble::Error) => Ok(()),
        other => other,
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Act {
    /// A document is renamed in.
    Arrive(usize),
    /// A document is written in place.
    Write(usize),
    /// An empty file is made, to be filled later.
    Touch(usize),
    Withdraw(usize),
    Cancel(usize),
    Hold(usize),
    Release(usize),
    Turn(Fate),
    /// The agent writes its last word and exits, or lingers.
    Ends(Option<Said>),
    Lingers(Said),
    /// The check ends, well or not.
    CheckEnds(bool),
    Kill,
    /// With whatever was not synced, or without.
    PowerCut {
        lossy: bool,
    },
    /// An orderly end of the daemon.
    Stop,
    /// Time passes until somebody waits for nothing any more.
    Wait,
    /// The wall clock is set, by so many seconds.
    SetClock(i64),
    Damage(usize),
    /// Another project's job meets a limit, or gets its work done.
    OtherLimit,
    OtherWorks,
    /// Somebody takes a result away, which must not bring the job back.
    Unpublish(usize),
}

#[derive(Clone, Debug, Default)]
pub struct World {
    pub setting: Setting,
    pub disk: Disk,
    pub daemon: Option<Daemon>,
    pub agent: Option<Agent>,
    /// The job whose check runs, and how that ended.
    pub check: Option<JobId>,
    pub check_said: Option<bool>,
    /// Whether another project's job was answered lately.
    pub others_answered: bool,
    pub boot: u32,
    /// What inotify holds for the daemon.
    pub events: Vec<(JobId, bool)>,
    pub poked: bool,
    elapsed: Duration,
    clock_set: i64,
    was_clock_set: bool,
    /// Whether any effect of the daemon's did not come off, so that it may have left things over.
    was_disturbed: bool,
    fate: Fate,
    effects: usize,
    tokens: u32,
    runs: Vec<Run>,
    asked: BTreeMap<JobId, Asked>,
    spawn_failed: bool,
    /// What must not be.
    pub wrong: Vec<String>,
}

impl World {
    pub fn new(setting: Setting) -> World {
        World {
            setting,
            ..World::default()
        }
    }

    pub fn now(&self) -> Instant {
        static START: OnceLock<Instant> = OnceLock::new();
        *START.get_or_init(Instant::now) + self.elapsed
    }

    pub fn wall(&self) -> Wall {
        let shown = EPOCH.plus(self.elapsed);
        Wall(shown.0 + self.clock_set * 1000)
    }

    pub fn fate(&self) -> Fate {
        self.fate
    }

    fn last_run(&self, id: &JobId) -> Option<&Run> {
        self.runs.iter().rev().find(|run| run.id == *id)
    }

    /// What a run's log tells for sure; of one that was cut off, the log itself must be there and
    /// legible without an exit status.
    fn truth_of(&self, run: &Run) -> Option<Said> {
        let legible = self.setting.protocol == Protocol::Claude && !run.log_lost;
        run.said.filter(|_| !run.cut_off || legible)
    }

    /// Whether a job is neither begun nor done, and its document has something in it.
    fn is_waiting(&self, id: &JobId) -> bool {
        let has_text = |document: &Document| document.version > 0;
        self.disk.documents.get(id).is_some_and(has_text)
            && self.is_open(id)
            && !self.disk.claims.contains_key(id)
    }

    /// Whether a job is not finished, as far as the daemon can know.
    pub fn is_open(&self, id: &JobId) -> bool {
        !self.disk.results.contains_key(id) && !self.disk.finished.contains(id)
    }

    /// Everything that can happen next, for an exploration of everything.
    pub fn acts(&self) -> Vec<Act> {
        let mut acts = vec![Act::Turn(Fate::Fine)];
        let disk = &self.disk;
        for (n, id) in ids().iter().enumerate().take(self.setting.jobs) {
            let begun = self.runs.iter().any(|run| run.id == *id) || disk.claims.contains_key(id);
            let done = disk.results.contains_key(id);
            match disk.documents.get(id) {
                None if begun || done => {}
                None => acts.extend([Act::Arrive(n), Act::Write(n), Act::Touch(n)]),
                Some(document) => {
                    if document.version < 2 {
                        acts.push(Act::Write(n));
                    }
                    acts.push(Act::Withdraw(n));
                }
            }
            let known = disk.documents.contains_key(id) || disk.claims.contains_key(id);
            if known && !done {
                if !disk.cancelled.contains(id) {
                    acts.push(Act::Cancel(n));
                }
                match disk.held.contains(id) {
                    true => acts.push(Act::Release(n)),
                    false => acts.push(Act::Hold(n)),
                }
            }
            if self.may_be_damaged(n) {
                acts.push(Act::Damage(n));
            }
        }
        if let Some(agent) = &self.agent {
            if !agent.gone {
                acts.push(Act::Ends(None));
                acts.extend(Said::ALL.map(|said| Act::Ends(Some(said))));
                acts.push(Act::Lingers(Said::Done));
            }
            acts.push(Act::Stop);
        }
        if self.check.is_some() {
            acts.extend([Act::CheckEnds(true), Act::CheckEnds(false), Act::Stop]);
        }
        if self.daemon.is_some() {
            acts.push(Act::Kill);
        }
        acts.extend([true, false].map(|lossy| Act::PowerCut { lossy }));
        if self.next_time().is_some() {
            acts.push(Act::Wait);
        }
        acts
    }

    /// Whether a claim can now be damaged so that it matters. A damaged claim does not tell whose
    /// processes are still there, so the agent must have gone.
    fn may_be_damaged(&self, n: usize) -> bool {
        let id = &ids()[n];
        let is_whole = matches!(self.disk.claims.get(id), Some(ClaimFile::Whole(_)));
        let still = self.daemon.is_none() && self.agent.is_none();
        is_whole && still && !self.disk.results.contains_key(id)
    }

    /// Whether the job's result can be taken away, and the daemon knows better. With a claim or a mark that
    /// was left over it would do what these say.
    pub fn may_be_unpublished(&self, n: usize) -> bool {
        let id = &ids()[n];
        self.disk.results.contains_key(id)
            && self.disk.finished.contains(id)
            && !self.disk.claims.contains_key(id)
            && !self.disk.cancelled.contains(id)
            && !self.disk.held.contains(id)
            && self.agent.as_ref().is_none_or(|agent| agent.id != *id)
    }

    pub fn apply(&mut self, act: Act) {
        let id = |n: usize| ids()[n].clone();
        match act {
            Act::Arrive(n) => self.put(id(n), 1, true),
            Act::Touch(n) => self.put(id(n), 0, false),
            Act::Write(n) => {
                let version = self.disk.documents.get(&id(n)).map_or(0, |d| d.version) + 1;
                self.put(id(n), version, false);
            }
            Act::Withdraw(n) => {
                self.disk.documents.remove(&id(n));
                self.ring(id(n), false);
            }
            Act::Cancel(n) => {
                self.disk.cancelled.insert(id(n));
                self.asked.entry(id(n)).or_default().cancel = true;
                self.poke();
            }
            Act::Hold(n) => {
                self.disk.held.insert(id(n));
                self.poke();
            }
            Act::Release(n) => {
                self.disk.held.remove(&id(n));
                self.disk.released.insert(id(n));
                self.poke();
            }
            Act::Turn(fate) => {
                self.turn(fate);
            }
            Act::Ends(said) => {
                self.say(said);
                if let Some(agent) = &mut self.agent {
                    agent.gone = true;
                }
            }
            Act::Lingers(said) => self.say(Some(said)),
            Act::CheckEnds(well) => self.check_said = self.check.as_ref().map(|_| well),
            Act::Kill => self.go_down(),
            Act::PowerCut { lossy } => {
                self.go_down();
                (self.agent, self.check) = (None, None);
                self.boot += 1;
                if lossy {
                    self.disk.logs.clear();
                    self.disk.kept.clear();
                    for at in 0..self.runs.len() {
                        self.runs[at].log_lost |= self.is_undecided(&self.runs[at]);
                    }
                }
            }
            Act::Stop => {
                if let Some(mut daemon) = self.daemon.take() {
                    self.fate = Fate::Fine;
                    if let Some(agent) = &self.agent
                        && let Some(run) = self.runs.iter_mut().find(|run| run.token == agent.run)
                    {
                        run.stopped = true;
                    }
                    let stopped = daemon.stop(self);
                    stopped.expect("nothing disturbs an orderly stop of the model");
                    self.go_down();
                }
            }
            Act::Wait => {
                let pause = self.next_time().unwrap_or(Duration::from_secs(60));
                self.elapsed += pause;
            }
            Act::SetClock(secs) => {
                self.clock_set += secs;
                self.was_clock_set = true;
            }
            Act::Damage(n) if !self.may_be_damaged(n) => {}
            Act::Damage(n) => {
                self.disk.claims.insert(id(n), ClaimFile::Broken);
                self.asked.entry(id(n)).or_default().damaged = true;
            }
            Act::OtherLimit => {
                let now = self.wall();
                let fault = Fault {
                    resets_at: Some(now.plus(LIMIT)),
                    ..Fault::new(ErrorKind::UsageLimit, "")
                };
                crate::desk::fail(&mut self.disk.holds, AGENT, &fault, now, now);
            }
            Act::OtherWorks => {
                let now = self.wall();
                self.disk.holds.answered(("p", AGENT), now);
                self.others_answered = true;
            }
            Act::Unpublish(n) if !self.may_be_unpublished(n) => {}
            Act::Unpublish(n) => {
                self.disk.results.remove(&id(n));
                self.ring(id(n), true);
            }
        }
    }

    fn put(&mut self, id: JobId, version: u32, whole: bool) {
        let written = self.wall();
        let document = Document { version, written };
        self.disk.documents.insert(id.clone(), document);
        self.ring(id, whole);
    }

    fn ring(&mut self, id: JobId, whole: bool) {
        if self.daemon.is_some() {
            self.events.push((id, whole));
        }
    }

    fn poke(&mut self) {
        self.poked = self.daemon.is_some();
    }

    /// The agent's last word, which it cannot choose when its session never existed.
    fn say(&mut self, said: Option<Said>) {
        let Some(agent) = &self.agent else { return };
        let Some(at) = self.runs.iter().position(|run| run.token == agent.run) else {
            return;
        };
        let run = &self.runs[at];
        let exists = |session: &String| {
            let of_it = |other: &Run| !other.resumed && other.session.as_ref() == Some(session);
            self.runs.iter().any(of_it)
        };
        let stranger = run.resumed && !run.session.as_ref().is_some_and(exists);
        let said = said.map(|said| if stranger { Said::NoSuchSession } else { said });
        if run.said.is_none() {
            self.runs[at].said = said;
            if let Some(log) = self.disk.logs.get_mut(&agent.log) {
                log.said = said;
            }
        }
    }

    /// One turn of the daemon; how many effects it had.
    pub fn turn(&mut self, fate: Fate) -> usize {
        (self.fate, self.effects) = (fate, 0);
        self.was_disturbed |= fate != Fate::Fine;
        let outcome = match self.daemon.take() {
            None => Daemon::start(self),
            Some(mut daemon) => daemon.turn(self).map(|()| daemon),
        };
        match outcome {
            Ok(daemon) => self.daemon = Some(daemon),
            Err(Trouble::Crash) => self.go_down(),
            // The worker begins anew, with a look at everything.
            Err(Trouble::Error) => self.forget_events(),
        }
        self.fate = Fate::Fine;
        self.effects
    }

    fn go_down(&mut self) {
        self.daemon = None;
        self.forget_events();
        for at in 0..self.runs.len() {
            self.runs[at].cut_off |= self.is_undecided(&self.runs[at]);
        }
    }

    /// Whether what a start amounts to is not on disk yet.
    fn is_undecided(&self, run: &Run) -> bool {
        let runs = match self.disk.claims.get(&run.id) {
            Some(ClaimFile::Whole(claim)) => {
                claim.run == run.token && claim.suspended.is_none() && !claim.checking
            }
            _ => false,
        };
        runs && !self.disk.results.contains_key(&run.id)
    }

    /// Memory goes, and with it a probe that was under way.
    fn forget_events(&mut self) {
        let now = self.wall();
        self.disk.holds.end_probe("p", false, now);
        self.events.clear();
        self.poked = false;
    }

    /// How long until the first moment that anybody waits for.
    fn next_time(&self) -> Option<Duration> {
        self.daemon.as_ref()?.waits_until(self)
    }

    // --- what the daemon does to the world ---

    pub fn effect<T>(&mut self, change: impl FnOnce(&mut Disk) -> T) -> Done {
        let n = self.effects;
        self.effects += 1;
        match self.fate {
            Fate::Crash(at) if at == n => return Err(Trouble::Crash),
            Fate::Fail(at) if at == n => return Err(Trouble::Error),
            Fate::Full(at) if at <= n => return Err(Trouble::Error),
            _ => change(&mut self.disk),
        };
        match self.fate {
            Fate::Doubt(at) if at == n => Err(Trouble::Error),
            _ => Ok(()),
        }
    }

    pub fn token(&mut self) -> String {
        self.tokens += 1;
        self.tokens.to_string()
    }

    /// A process cannot be started: no effect on the disk, but a place to be killed at.
    pub fn fail_to_spawn(&mut self) -> Done {
        self.spawn_failed = true;
        self.effect(|_| ())
    }

    pub fn start_check(&mut self, id: &JobId) -> Done {
        self.effect(|_| ())?;
        let proves = self
            .last_run(id)
            .is_some_and(|run| run.said == Some(Said::Done));
        if !proves || self.agent.is_some() || self.disk.results.contains_key(id) {
            self.wrong(format!("{id} is checked, and there is nothing to prove"));
        }
        (self.check, self.check_said) = (Some(id.clone()), None);
        Ok(())
    }

    /// The daemon has taken in how a check ended.
    pub fn note_check(&mut self, id: &JobId, well: bool) {
        if let Some(run) = self.runs.iter_mut().rev().find(|run| run.id == *id) {
            run.checks.push(well);
        }
    }

    /// The agent and its processes are gone; what its log says.
    pub fn end_agent(&mut self) -> Option<Said> {
        let agent = self.agent.take()?;
        self.disk.logs.get(&agent.log).and_then(|log| log.said)
    }

    pub fn spawn(&mut self, claim: &Claim, log: String, version: u32) -> Done {
        self.effect(|_| ())?;
        let id = claim.job_id.clone();
        let disk = &self.disk;
        let on_disk = disk.claims.get(&id);
        let is_claimed = matches!(on_disk, Some(ClaimFile::Whole(whole)) if **whole == *claim);
        for (is_wrong, how) in [
            (self.agent.is_some(), "while another runs"),
            (disk.results.contains_key(&id), "though it is done"),
            (disk.cancelled.contains(&id), "though it is cancelled"),
            (disk.held.contains(&id), "though it is held"),
            (!is_claimed, "without its claim"),
        ] {
            if is_wrong {
                self.wrong.push(format!("{id} is started {how}"));
            }
        }
        if let Err(why) = self.may_start(&id, version) {
            self.wrong(format!("{id} is started a second time: {why}"));
        }
        if claim.starts == 1 {
            self.check_order(&id);
        }
        self.runs.push(Run {
            id: id.clone(),
            token: claim.run.clone(),
            version,
            resumed: claim.resumed,
            session: claim.session_id.clone(),
            said: None,
            cut_off: false,
            log_lost: false,
            stopped: false,
            checks: Vec::new(),
        });
        self.agent = Some(Agent {
            id,
            run: claim.run.clone(),
            log,
            gone: false,
        });
        Ok(())
    }

    /// Whether SPEC 7 allows another start of the job.
    fn may_start(&mut self, id: &JobId, version: u32) -> Result<(), String> {
        let setting = self.setting;
        let Some(last) = self.last_run(id).cloned() else {
            return Ok(());
        };
        let truth = self.truth_of(&last);
        let asked = self.asked.entry(id.clone()).or_default();
        if std::mem::take(&mut asked.damaged) {
            (asked.interruptions, asked.repeats, asked.rounds) = (0, 0, 0);
            return Ok(());
        }
        if last.version != version {
            return Err(format!("its text was {}, and is {version}", last.version));
        }
        let unless = |is_too_much: bool, text: String| match is_too_much {
            true => Err(text),
            false => Ok(()),
        };
        match truth {
            Some(Said::Done) if last.checks.last() == Some(&false) => {
                asked.rounds += 1;
                let enough = asked.rounds > setting.check_rounds.unwrap_or(0);
                unless(enough, format!("that is round {}", asked.rounds))
            }
            Some(Said::Done) => Err("it had completed".to_owned()),
            Some(Said::Refused) => Err("it had failed for good".to_owned()),
            Some(Said::NoSuchSession) if last.resumed => Ok(()),
            Some(Said::NoSuchSession) => Err("its session was its own".to_owned()),
            Some(Said::Limit | Said::NotLoggedIn | Said::Overloaded) => Ok(()),
            None if !last.cut_off => {
                asked.repeats += 1;
                let enough = setting.protocol == Protocol::Plain || asked.repeats > setting.retries;
                let repeat = asked.repeats;
                unless(
                    enough,
                    format!("nobody had interrupted it: repeat {repeat}"),
                )
            }
            None if last.stopped && setting.on_interrupt != OnInterrupt::Fail => Ok(()),
            None => {
                asked.interruptions += 1;
                let never = match setting.on_interrupt {
                    OnInterrupt::Fail => true,
                    OnInterrupt::Resume => setting.protocol == Protocol::Plain,
                    OnInterrupt::Rerun => false,
                };
                let enough = never || asked.interruptions > INTERRUPTIONS_MAX;
                unless(enough, format!("interruption {}", asked.interruptions))
            }
        }
    }

    /// A job begins only when none before it could, and none that was begun is unfinished.
    fn check_order(&mut self, id: &JobId) {
        let begun = |other: &&JobId| *other != id && self.is_open(other);
        if let Some(other) = self.disk.claims.keys().find(begun) {
            let text = format!("{id} begins while {other} is unfinished");
            return self.wrong(text);
        }
        let ready = |other: &&JobId| {
            let quiet = |document: &Document| self.wall().since(document.written) >= SETTLE;
            *other < id
                && self.is_waiting(other)
                && self.disk.documents.get(*other).is_some_and(quiet)
                && !self.disk.held.contains(*other)
        };
        // With a clock that is set, the age of a document is anybody's guess.
        let first = ids().iter().find(ready).filter(|_| !self.was_clock_set);
        if let Some(other) = first {
            let text = format!("{id} begins before {other}");
            self.wrong(text);
        }
    }

    pub fn publish(&mut self, id: &JobId, kind: Option<ErrorKind>) -> Done {
        let last = self.last_run(id);
        let asked = self.asked.get(id).cloned().unwrap_or_default();
        let said = last.and_then(|run| run.said);
        let cut_off = last.is_some_and(|run| run.cut_off);
        let truth = last.and_then(|run| self.truth_of(run));
        let last_check = last.and_then(|run| run.checks.last().copied());
        let agent_runs = self.agent.as_ref().is_some_and(|agent| agent.id == *id);
        let never_ran_though = |kind| match kind {
            ErrorKind::SpawnFailed => self.spawn_failed,
            ErrorKind::Interrupted => true,
            _ => false,
        };
        let fits = match kind {
            None => {
                let proved = self.setting.check_rounds.is_none() || last_check == Some(true);
                truth == Some(Said::Done) && proved
            }
            Some(ErrorKind::CheckFailed) => last_check == Some(false),
            Some(ErrorKind::Cancelled) => asked.cancel,
            Some(kind) => match truth {
                Some(Said::Overloaded) if kind == ErrorKind::Overloaded => true,
                Some(Said::Refused) => kind == ErrorKind::Refused,
                Some(Said::NoSuchSession) if kind == ErrorKind::AgentError => true,
                None if kind == ErrorKind::NoResult => last.is_some() && !cut_off,
                Some(Said::Done) if last_check.is_none() => false,
                _ => never_ran_though(kind),
            },
        };
        if !fits {
            self.wrong(format!("{id} ends {kind:?}, but said {said:?}"));
        }
        if agent_runs {
            self.wrong(format!("{id} ends while its agent runs"));
        }
        let mut changed = false;
        let result = self.effect(|disk| {
            let old = disk.results.insert(id.clone(), kind);
            changed = old.is_some_and(|old| old != kind);
        });
        if changed {
            self.wrong(format!("the result of {id} is changed"));
        }
        result
    }

    pub fn wrong(&mut self, what: String) {
        self.wrong.push(what);
    }

    /// What a look at the document tells.
    pub fn meta(&self, id: &JobId) -> Option<(Meta, u32)> {
        let document = self.disk.documents.get(id)?;
        let meta = Meta {
            size: u64::from(document.version),
            mtime_ns: i128::from(document.written.0) * 1_000_000,
            mode: 0o100_600,
            ..Meta::default()
        };
        Some((meta, document.version))
    }

    /// A number for the world by which it is known again: made of its text, in which everything
    /// stands that makes a difference. A list of fields kept by hand would some day miss one.
    pub fn digest(&self) -> u64 {
        let text = format!("{self:?}");
        let (words, rest) = text.as_bytes().as_chunks::<8>();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        words.iter().chain([&last]).fold(0, |digest: u64, word| {
            let mixed = digest ^ u64::from_le_bytes(*word);
            mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
        })
    }

    // --- the end ---

    /// From here on nothing is disturbed and nothing is held: whatever was accepted must come to
    /// its result, and nothing else may be left, at the latest after one more start of the daemon.
    pub fn ends_quietly(&self) -> Result<(), String> {
        let mut world = self.clone();
        world.go_on_quietly()?;
        if !world.was_disturbed {
            world.is_tidy()?;
        }
        world.apply(Act::Kill);
        let runs = world.runs.len();
        world.go_on_quietly()?;
        if world.runs.len() > runs {
            return Err(format!("a restart begins something anew: {world:#?}"));
        }
        let disk = &world.disk;
        let begun = world.runs.iter().map(|run| &run.id);
        for id in disk.documents.keys().chain(begun) {
            let given_up = world.asked.get(id).is_some_and(|asked| asked.damaged)
                && !disk.documents.contains_key(id);
            if !disk.results.contains_key(id) && !disk.finished.contains(id) && !given_up {
                return Err(format!("{id} has no result at the end: {world:#?}"));
            }
        }
        world.is_tidy()?;
        match world.wrong.first() {
            Some(wrong) => Err(format!("on the way to the end: {wrong}")),
            None => Ok(()),
        }
    }

    /// Nothing is left of jobs that are done but their results and logs.
    fn is_tidy(&self) -> Result<(), String> {
        let disk = &self.disk;
        let over = |id: &&JobId| !self.is_open(id);
        let marks = [&disk.cancelled, &disk.held, &disk.released];
        let marks = marks.into_iter().flatten();
        let left: Vec<_> = disk.claims.keys().chain(marks.filter(over)).collect();
        match left.is_empty() {
            true => Ok(()),
            false => Err(format!("{left:?} left marks or claims: {self:#?}")),
        }
    }

    fn go_on_quietly(&mut self) -> Result<(), String> {
        for n in 0..self.setting.jobs {
            // An empty document waits for ever, and is told; here it is filled.
            let document = self.disk.documents.get(&ids()[n]);
            if document.is_some_and(|document| document.version == 0) {
                self.apply(Act::Write(n));
            }
        }
        let mut turns = 0;
        while !self.is_quiet() {
            turns += 1;
            if turns > TURNS_MAX {
                return Err(format!("no end in sight: {self:#?}"));
            }
            if self.agent.as_ref().is_some_and(|agent| !agent.gone) {
                self.apply(Act::Ends(Some(Said::Done)));
            }
            self.apply(Act::CheckEnds(true));
            // Also what the daemon holds, because it found a damaged claim.
            for n in 0..self.setting.jobs {
                if self.disk.held.contains(&ids()[n]) && self.daemon.is_some() {
                    self.apply(Act::Release(n));
                }
            }
            self.apply(Act::Turn(Fate::Fine));
            if self.agent.is_none() && self.next_time().is_some() {
                self.apply(Act::Wait);
            }
        }
        Ok(())
    }

    fn is_quiet(&self) -> bool {
        self.events.is_empty()
            && !self.poked
            && self.agent.is_none()
            && self.check.is_none()
            && self.daemon.as_ref().is_some_and(Daemon::is_idle)
            && self.disk.held.is_empty()
    }
}
