//! Holds: why an agent is not started, for any project or for one (SPEC 7), and when one job may
//! try whether things are mended. The ledger of what a day has cost. Decisions over plain data,
//! with the time as an argument; `board` keeps them on disk and shares them.

use crate::agent::{Fault, Window};
use crate::job::{Course, ErrorKind, JobId};
use crate::project::{AgentSpec, Ceiling, OnFailure, Policy, Span};
use crate::record::HoldView;
use crate::time::Wall;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
/// Between two probes of a service that did not accept us: each is a start that may cost.
const PROBE_PAUSE: Duration = Duration::from_secs(30 * 60);
/// Before the first probe of a service that is ill. The pause doubles with each probe, up to the longest.
const ILL_PAUSE: Duration = Duration::from_secs(30);
const ILL_PAUSE_MAX: Duration = Duration::from_secs(15 * 60);
/// Services are late with their own reset: whoever comes at the very second is refused once more.
const RESET_MARGIN: Duration = Duration::from_secs(5);
/// The first pause after a usage limit without a sensible end, in seconds; it doubles up to the longest.
const BLIND_PAUSE: u64 = 5 * 60;
const BLIND_PAUSE_MAX: u64 = 3600;
/// A usage limit that claims to last longer is not believed; the longest known is a month.
const RESET_MAX: Duration = Duration::from_secs(35 * 24 * 3600);
/// Whoever had a turn leaves the next one to others for so long.
pub const TURN: Duration = Duration::from_secs(1);
/// A probe whose agent was not started after all is granted again after this.
const GIVEN_BACK: Duration = Duration::from_secs(5);
/// A change of files ends so many holds in a row without an answer from the service, and then no more: an
/// agent that changes its own credentials at each start must not be started for ever.
const MENDED_MAX: u32 = 3;

const SETTLE: &str = "; settle it with the provider, then job-monitor release --all";
const LOG_IN: &str = "; log in again with the agent's own command, or mend .env";

/// Why somebody is held. The word in documents is the name here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Jobs in a row failed alike.
    #[default]
    Breaker,
    /// The account's usage window is full enough.
    UsageCeiling,
    /// The day's money is used up.
    DailyBudget,
    /// It is not the time of day for jobs.
    Hours,
    /// A job of the project failed.
    OnFailure,
    /// The project's gate does not let jobs start.
    Gate,
    /// The project's check cannot be started.
    Check,
    /// The monitor cannot work in the project's directories.
    Trouble,
    /// The fault of an attempt.
    #[serde(untagged)]
    Fault(ErrorKind),
}

/// Faults of one class replace each other, are tried again alike, and end alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// A usage limit, which ends at a time.
    Limit,
    /// The service does not let us in, for want of a login or of money: a person must see to it.
    Login,
    /// A file on this machine is amiss: it is looked at, which costs nothing.
    Files,
    /// The service is ill, and is asked again after pauses that grow.
    Ill,
    /// No fault: each kind is by itself.
    Own,
}

impl Kind {
    fn class(self) -> Class {
        use ErrorKind::*;
        match self {
            Kind::Fault(UsageLimit) => Class::Limit,
            Kind::Fault(AgentMissing | UnsafeEnv) => Class::Files,
            Kind::Fault(Overloaded | Network | RateLimited) => Class::Ill,
            Kind::Fault(_) => Class::Login,
            _ => Class::Own,
        }
    }

    /// The word in documents.
    pub fn word(self) -> String {
        let word = serde_json::to_value(self).unwrap_or_default();
        word.as_str().unwrap_or_default().to_owned()
    }

    /// How long after the n-th probe the next one is due.
    fn pause(self, probes: u32) -> Duration {
        match self.class() {
            Class::Files => MINUTE,
            Class::Ill | Class::Limit => ILL_PAUSE_MAX.min(ILL_PAUSE * (1 << probes.min(8))),
            Class::Login | Class::Own => PROBE_PAUSE,
        }
    }

    /// What a person must do.
    fn remedy(self) -> &'static str {
        match self {
            Kind::Fault(ErrorKind::Billing) => SETTLE,
            Kind::OnFailure => "; job-monitor release --all lets the others run",
            kind if kind.class() == Class::Login => LOG_IN,
            _ => "",
        }
    }
}

/// A file that decides whether an agent is accepted, and what it looked like.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stamp {
    /// Its path.
    pub path: PathBuf,
    /// Differs when the file does; empty for none.
    pub seen: String,
}

/// Why agents are not started. Without agent and project it is about all of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hold {
    /// The agent, where it is about one.
    pub agent: Option<String>,
    /// The project, where it is about one.
    pub project: Option<String>,
    /// The kind.
    pub kind: Kind,
    /// What is the matter, and what to do if only a person can.
    pub reason: String,
    /// When it began.
    pub since: Wall,
    /// When it ends by itself, as far as is known.
    pub until: Option<Wall>,
    /// When one job may try whether things are mended; without it, only `until` or a person ends it.
    pub probe_at: Option<Wall>,
    /// Probes that failed in a row; of a usage limit, those that told no end.
    pub probes: u32,
    /// The files that the agent was refused with; a change of one ends the hold.
    pub stamps: Vec<Stamp>,
    /// Whether it was found before the agent ran, so that its start proves the repair.
    pub before_start: bool,
    /// A person lets jobs pass until its end.
    pub released: bool,
    /// The project whose job probes just now, and since when.
    #[serde(skip)]
    pub probing: Option<(String, Wall)>,
    /// The project whose job met it last: another one has the next turn.
    #[serde(skip)]
    pub met_by: String,
}

/// Who wants to start an agent: a project, and the job's agent.
pub type Entrant<'a> = (&'a str, &'a str);

/// The hold that keeps an agent from being started, if one does, and when that lets the agent pass; without a
/// time, when something changes.
pub type Closed<'a> = Option<(&'a Hold, Option<Wall>)>;

/// Why a hold is to be in force, and when it ends by itself; `None` where it is not to be in force.
pub type Wanted = Option<(String, Option<Wall>)>;

/// All holds, and what leads to them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Holds {
    /// In force, or released until their end.
    pub list: Vec<Hold>,
    /// The usage windows of each agent's account, as it last told them.
    pub windows: BTreeMap<String, Vec<Window>>,
    /// What the day has cost.
    pub ledger: Ledger,
    /// Jobs that failed at once and, for each agent, alike. A restart begins anew: that costs at most as
    /// many jobs again.
    #[serde(skip)]
    series: Vec<(String, ErrorKind, JobId)>,
    /// How often a change of files ended a hold of an agent that was not answered since.
    #[serde(skip)]
    mended: BTreeMap<String, u32>,
}

impl Holds {
    /// Puts a hold in force, in place of one like it. Returns it if it is news: if there was none like it, or
    /// only one that is over. Gate and check are asked again when theirs is over: that is one hold for all.
    fn put(&mut self, mut hold: Hold) -> Option<Hold> {
        let Some(old) = self.list.iter_mut().find(|old| old.is_like(&hold)) else {
            self.list.push(hold.clone());
            return Some(hold);
        };
        let pause = 2 * MINUTE * u32::from(matches!(hold.kind, Kind::Gate | Kind::Check));
        let is_news = old.until.is_some_and(|at| at.plus(pause) <= hold.since);
        hold.since = hold.since.min(old.since);
        hold.probing = old.probing.take();
        *old = hold.clone();
        is_news.then_some(hold)
    }

    /// Takes holds out of the list, and returns them.
    fn take(&mut self, is_lifted: impl Fn(&Hold) -> bool) -> Vec<Hold> {
        self.list.extract_if(.., |hold| is_lifted(hold)).collect()
    }

    /// Takes an agent out of service after a fault whose course is to hold, of an attempt that began at
    /// `began`, or that was found before the agent was started. `stamps` are of the files that were used, as
    /// they were before the attempt. Returns the hold if it is news.
    pub fn fault(
        &mut self,
        (project, agent): (&str, &AgentSpec),
        fault: &Fault,
        began: Option<Wall>,
        stamps: &[Stamp],
        now: Wall,
    ) -> Option<Hold> {
        let mut hold = Hold::new(Kind::Fault(fault.kind), &fault.error, now);
        let class = hold.kind.class();
        hold.agent = (fault.kind != ErrorKind::UnsafeEnv).then(|| agent.name.clone());
        // A program that is looked for in the project is missing there and nowhere else.
        let program = agent.command.first().map_or("", String::as_str);
        let is_below = program.contains('/') && !program.starts_with('/');
        if fault.kind == ErrorKind::AgentMissing && is_below {
            hold.project = Some(project.to_owned());
        }
        if let (Class::Limit | Class::Login, Some(began)) = (class, began) {
            // A refusal is an answer all the same.
            self.prove((project, &agent.name), began, Some(class));
        }
        let old = self.list.iter().find(|old| old.is_like(&hold));
        let is_late = old.is_some_and(|old| began.is_some_and(|began| began < old.since));
        if is_late && class != Class::Limit {
            // What began before the hold tells nothing of how it is now.
            return None;
        }
        let mended = self.mended.get(&agent.name).copied().unwrap_or(0);
        // The CLIs renew their logins by themselves, which ends no limit and heals no service.
        if mended < MENDED_MAX && matches!(class, Class::Login | Class::Files) {
            hold.stamps = stamps.to_vec();
        }
        hold.probes = old.map_or(0, |old| old.probes + u32::from(!is_late));
        hold.before_start = began.is_none();
        if began.is_some() {
            project.clone_into(&mut hold.met_by);
        }
        if class == Class::Limit {
            let known = old.and_then(|old| old.until).filter(|until| *until > now);
            hold.until = Some(limit_ends(fault.resets_at, known, &mut hold.probes, now));
        }
        hold.probe_at = hold.until.or(Some(now.plus(hold.kind.pause(hold.probes))));
        self.put(hold)
    }

    /// Brings a hold of a project, or of an agent in it, in line: with this reason and end, or not in
    /// force. One that a person released stays so until its end. Returns the hold if it is news.
    pub fn set(
        &mut self,
        kind: Kind,
        (project, agent): (&str, Option<&str>),
        wanted: Wanted,
        now: Wall,
    ) -> Option<Hold> {
        let is_wanted = wanted.is_some();
        let (reason, until) = wanted.unwrap_or_default();
        let mut hold = Hold::new(kind, &reason, now);
        hold.project = Some(project.to_owned());
        (hold.agent, hold.until) = (agent.map(str::to_owned), until);
        if !is_wanted {
            self.take(|old| old.is_like(&hold));
            return None;
        }
        let mut like = self.list.iter().filter(|old| old.is_like(&hold));
        let is_let_pass = like.any(|old| old.released && old.until > Some(now));
        (!is_let_pass).then(|| self.put(hold))?
    }

    /// Counts how a job ended for the breaker, which holds an agent after so many jobs in a row that
    /// failed alike and `lasted` less than a minute; 0 is never. Returns the hold if it is news.
    pub fn finished(
        &mut self,
        (project, job, agent): (&str, &JobId, &str),
        fault: Option<&Fault>,
        lasted: Duration,
        breaker: usize,
        now: Wall,
    ) -> Option<Hold> {
        use ErrorKind::*;
        if fault.is_some_and(|fault| matches!(fault.kind, Rejected | Cancelled | Interrupted)) {
            return None;
        }
        let is_own = |kind| matches!(kind, PromptTooLong | MaxTurns | Budget | CheckFailed);
        let is_own = |kind| is_own(kind) || matches!(kind, Blocked | Timeout | OutputLimit);
        let fault = fault.filter(|fault| !is_own(fault.kind) && lasted < MINUTE);
        let kind = fault.map(|fault| fault.kind);
        let before = self.series.len();
        self.series
            .retain(|(held, known, ..)| held != agent || Some(*known) == kind);
        if kind.is_none() || self.series.len() < before {
            let is_of = |hold: &Hold| hold.agent.as_deref() == Some(agent);
            self.take(|hold| hold.kind == Kind::Breaker && is_of(hold));
        }
        let Fault { kind, error, .. } = fault.filter(|_| breaker > 0)?;
        self.series.push((agent.to_owned(), *kind, job.clone()));
        let alike = self.series.iter().filter(|(held, ..)| held == agent);
        let ids: Vec<&str> = alike.map(|(.., job)| job.as_str()).collect();
        let (number, ids) = (ids.len(), ids.join(" "));
        if number < breaker {
            return None;
        }
        let reason = format!(
            "{number} jobs in a row failed alike and at once ({kind}: {error}); when it is mended, run them again: \
             job-monitor retry {ids}"
        );
        let mut hold = Hold::new(Kind::Breaker, &reason, now);
        (hold.agent, hold.met_by) = (Some(agent.to_owned()), project.to_owned());
        hold.probe_at = Some(now.plus(PROBE_PAUSE));
        self.put(hold)
    }

    /// Brings the holds that settings and the time decide in line. Returns one that is news.
    pub fn refresh(&mut self, project: &str, policy: &Policy, now: Wall) -> Option<Hold> {
        let agent = &*policy.agent.name;
        let windows = self.windows.get(agent).map_or(&[][..], |all| all);
        let full = ceiling(windows, &policy.usage_ceiling, now);
        let spent = self.ledger.exhausted(project, policy, now);
        let closed = hours(&policy.hours, now);
        // The worker puts these holds. Where the setting is gone, it does not.
        let on_failure = policy.on_failure == OnFailure::Hold;
        let is_set = [policy.gate.is_some(), policy.check.is_some(), on_failure];
        let kinds = [Kind::Gate, Kind::Check, Kind::OnFailure].into_iter();
        for (kind, _) in kinds.zip(is_set).filter(|(_, is_set)| !is_set) {
            self.set(kind, (project, None), None, now);
        }
        let news = self.set(Kind::UsageCeiling, (project, Some(agent)), full, now);
        let news = news.or(self.set(Kind::DailyBudget, (project, None), spent, now));
        news.or(self.set(Kind::Hours, (project, None), closed, now))
    }

    /// All holds in force.
    pub fn all(&self, now: Wall) -> Vec<&Hold> {
        let in_force = |hold: &&Hold| !hold.released && hold.until.is_none_or(|until| until > now);
        self.list.iter().filter(in_force).collect()
    }

    /// The hold that keeps a project's jobs from being started by this agent, the next of which may have `begun`.
    pub fn shown(&self, of: Entrant<'_>, begun: bool, now: Wall) -> Option<HoldView> {
        let is_own = |hold: &&Hold| matches!(hold.kind, Kind::Gate | Kind::Check | Kind::Trouble);
        // Gate and check are asked while a job waits, each minute: an older hold says nothing of now.
        let is_fresh = |hold: &&Hold| hold.until.is_none_or(|at| at.plus(2 * MINUTE) > now);
        let own = self.list.iter().filter(|hold| hold.is_about(of));
        let own = own.filter(|hold| is_own(hold) && is_fresh(hold));
        let all = own.map(|hold| (hold, hold.until));
        let all = all.chain(self.closed(of, begun, now));
        let last = all.max_by_key(|(_, at)| at.map_or(i64::MAX, |at| at.0));
        last.map(|(hold, _)| hold.view(now))
    }

    /// What keeps an agent from being started now, for a job that may have `begun`, and when to ask again;
    /// without a time, when something changes. Of several holds it is the one that opens last. Where a hold
    /// is in force and nothing keeps it, its start is a probe.
    pub fn closed(&self, entrant: Entrant<'_>, begun: bool, now: Wall) -> Closed<'_> {
        let stops = self.list.iter().filter(|hold| hold.stops(entrant, begun));
        let opens = stops.map(|hold| (hold, hold.opens(entrant.0)));
        let closed = opens.filter(|(_, at)| at.is_none_or(|at| at > now));
        closed.max_by_key(|(_, at)| at.map_or(i64::MAX, |at| at.0))
    }

    /// A job of the entrant's goes to see whether things are mended.
    pub fn begin_probe(&mut self, entrant: Entrant<'_>, now: Wall) {
        let held = self.list.iter_mut();
        let held = held.filter(|hold| hold.stops(entrant, true));
        for hold in held.filter(|hold| hold.probe_at.is_some()) {
            hold.probing = Some((entrant.0.to_owned(), now));
            entrant.0.clone_into(&mut hold.met_by);
        }
    }

    /// The probe of a project has really started its agent. Returns what this alone proves mended.
    pub fn probe_started(&mut self, project: &str) -> Vec<Hold> {
        self.take(|hold| hold.is_probed_by(project) && hold.before_start)
    }

    /// The probe of a project is over, or was not made after all. Unless it tells more, the next one is
    /// due after a pause.
    pub fn end_probe(&mut self, project: &str, has_started: bool, now: Wall) {
        let probed = self.list.iter_mut();
        for hold in probed.filter(|hold| hold.is_probed_by(project)) {
            let next = hold.kind.pause(hold.probes);
            let pause = if has_started { next } else { GIVEN_BACK };
            hold.probing = None;
            hold.probe_at = hold.probe_at.max(Some(now.plus(pause)));
        }
    }

    /// The service has just answered an attempt of this agent that began at `began`. Returns what is
    /// lifted.
    pub fn answered(&mut self, of: Entrant<'_>, began: Wall) -> Vec<Hold> {
        self.mended.remove(of.1);
        self.prove(of, began, None)
    }

    /// Lifts the holds that an answer disproves, but for those of the class `but`. Where a hold is not of an
    /// illness, it stays if it began after the attempt.
    fn prove(&mut self, of: Entrant<'_>, began: Wall, but: Option<Class>) -> Vec<Hold> {
        self.take(|hold| match hold.kind.class() {
            class if Some(class) == but || !hold.is_about(of) => false,
            Class::Own => false,
            Class::Ill => true,
            Class::Limit | Class::Login | Class::Files => hold.since <= began,
        })
    }

    /// Lifts what a person lets go: of one project and agent, or all. What settings and the time
    /// decide is let pass until its end. Returns what was in force.
    pub fn release(&mut self, of: Option<Entrant<'_>>) -> Vec<Hold> {
        self.series
            .retain(|(held, ..)| of.is_some_and(|(_, agent)| agent != held));
        let lifted = self.take(|hold| !hold.released && of.is_none_or(|of| hold.is_about(of)));
        use Kind::{DailyBudget, Hours, UsageCeiling};
        let is_decided = |hold: &&Hold| matches!(hold.kind, UsageCeiling | DailyBudget | Hours);
        for mut hold in lifted.iter().filter(is_decided).cloned() {
            hold.released = true;
            self.list.push(hold);
        }
        lifted
    }

    /// Lifts the holds whose files are no longer what they were.
    pub fn mend(&mut self, has_changed: impl Fn(&Stamp) -> bool) -> Vec<Hold> {
        let lifted = self.take(|hold| hold.stamps.iter().any(&has_changed));
        for agent in lifted.iter().filter_map(|hold| hold.agent.clone()) {
            *self.mended.entry(agent).or_default() += 1;
        }
        lifted
    }

    /// How much keeps jobs from starting; with less, some may pass that could not before.
    pub fn weight(&self) -> usize {
        let all = self.list.iter();
        let in_force = all.clone().filter(|hold| !hold.released).count();
        in_force + all.filter(|hold| hold.probing.is_some()).count()
    }
}

/// Whether an attempt that ended so had an answer from the service, other than one that calls for a
/// hold. `answered` is whether a turn of the model's was seen.
pub fn is_answer(fault: Option<&Fault>, answered: bool) -> bool {
    use ErrorKind::*;
    match fault.map(|fault| fault.kind) {
        None | Some(MaxTurns | PromptTooLong | InvalidRequest | ModelNotFound | Refused) => true,
        Some(MaxOutputTokens | EmptyAnswer | Unfinished | CheckFailed | AgentError) => true,
        Some(kind) => answered && kind.course() != Course::Hold,
    }
}

/// When a usage limit ends; `blind` counts how many in a row told no end. A known end is never replaced
/// by a guess.
fn limit_ends(told: Option<Wall>, known: Option<Wall>, blind: &mut u32, now: Wall) -> Wall {
    let pause = match told {
        Some(at) if at > now && at.since(now) <= RESET_MAX => {
            *blind = 0;
            return at.plus(RESET_MARGIN).max(known.unwrap_or(at));
        }
        Some(at) if at <= now => MINUTE,
        _ => Duration::from_secs((BLIND_PAUSE << (*blind).min(8)).min(BLIND_PAUSE_MAX)),
    };
    known.unwrap_or(now.plus(pause))
}

/// When jobs may start again; `None` while they may. On a day that is not 24 hours long it may be too
/// early by the difference, and is asked again then.
pub fn hours(spans: &[Span], now: Wall) -> Wanted {
    let minute = now.minute_of_day();
    let is_open = |span: &Span| match span.from < span.to {
        true => (span.from..span.to).contains(&minute),
        false => minute >= span.from || minute < span.to,
    };
    let ahead = |span: &Span| (i64::from(span.from) - i64::from(minute)).rem_euclid(1440);
    let minutes = spans.iter().map(ahead).min()?;
    if spans.iter().any(is_open) {
        return None;
    }
    let clock = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
    let text = |span: &Span| format!("{}-{}", clock(span.from), clock(span.to));
    let spans: Vec<String> = spans.iter().map(text).collect();
    let reason = format!("jobs start only in the hours {}", spans.join(", "));
    let minute = now.secs() - now.secs().rem_euclid(60);
    Some((reason, Some(Wall::from_secs(minute + minutes * 60))))
}

/// Why a usage window is full enough that no job is started, and until when: of several windows the
/// one that ends last. One whose reset is past, or not known, says nothing.
pub fn ceiling(windows: &[Window], ceiling: &Ceiling, now: Wall) -> Wanted {
    let full = |window: &Window| {
        let named = ceiling.named.iter().find(|(name, _)| *name == window.name);
        let limit = named.map(|(_, share)| *share).or(ceiling.every)?;
        let until = window.resets_at.filter(|at| *at > now)?;
        let percent = |share: f64| (share * 100.0).floor();
        let (used, most) = (percent(window.utilization), percent(limit));
        let name = &window.name;
        let reason = format!("{used}% of the window {name} is used, and usage_ceiling is {most}%");
        (window.utilization >= limit).then_some((reason, Some(until)))
    };
    let all = windows.iter().filter_map(full);
    all.max_by_key(|(_, until)| *until)
}

impl Hold {
    fn new(kind: Kind, reason: &str, now: Wall) -> Hold {
        let reason = format!("{reason}{}", kind.remedy());
        Hold {
            kind,
            reason,
            since: now,
            ..Hold::default()
        }
    }

    /// Whether the two are about the same, so that one replaces the other.
    fn is_like(&self, other: &Hold) -> bool {
        let class = self.kind.class();
        let is_kin = self.kind == other.kind || class != Class::Own && class == other.kind.class();
        is_kin && (&self.agent, &self.project) == (&other.agent, &other.project)
    }

    fn is_probed_by(&self, project: &str) -> bool {
        self.probing.as_ref().is_some_and(|(who, _)| who == project)
    }

    /// Whether it concerns the agent in the project.
    fn is_about(&self, (project, agent): Entrant<'_>) -> bool {
        let is = |mine: &Option<String>, other| mine.as_deref().is_none_or(|mine| mine == other);
        is(&self.project, project) && is(&self.agent, agent)
    }

    /// Whether it keeps the agent from being started in the project, now or later.
    fn stops(&self, entrant: Entrant<'_>, begun: bool) -> bool {
        let stops_this = match self.kind {
            // What keeps new jobs from starting does not stop one that was begun.
            Kind::Hours | Kind::OnFailure => !begun,
            // The worker that runs gate and check asks them again by itself; these are only shown.
            Kind::Gate | Kind::Check | Kind::Trouble => false,
            _ => true,
        };
        stops_this && !self.released && self.is_about(entrant)
    }

    /// When it lets an agent of this project pass; `None` is when something changes.
    fn opens(&self, project: &str) -> Option<Wall> {
        match (self.probe_at, &self.probing) {
            (None, _) => self.until,
            // A job that has lived for so long did not fail at once.
            (_, Some((_, since))) if self.kind == Kind::Breaker => Some(since.plus(MINUTE)),
            (_, Some(_)) => None,
            (Some(at), None) if self.met_by == project => Some(at.plus(TURN)),
            (at, None) => at,
        }
    }

    /// As people and scripts see it.
    pub fn view(&self, now: Wall) -> HoldView {
        let probe_at = self.probe_at.filter(|_| self.kind.class() == Class::Ill);
        HoldView {
            kind: self.kind.word(),
            agent: self.agent.clone(),
            reason: self.reason.clone(),
            until: self.until.or(probe_at).filter(|until| *until > now),
        }
    }

    /// Whom it holds.
    pub fn who(&self) -> String {
        match (&self.agent, &self.project) {
            (Some(agent), None) => format!("agent {agent:?}"),
            (Some(agent), Some(project)) => format!("agent {agent:?} in project {project:?}"),
            (None, Some(project)) => format!("project {project:?}"),
            (None, None) => "every agent".to_owned(),
        }
    }

    /// Whom it holds and what is the matter.
    pub fn sentence(&self) -> String {
        let (who, kind) = (self.who(), self.kind.word());
        format!("{who} is held ({kind}): {}", self.reason)
    }

    /// That it is over.
    pub fn farewell(&self, why: &str) -> String {
        let (who, kind) = (self.who(), self.kind.word());
        format!("the hold of {who} ({kind}) is lifted: {why}")
    }
}

/// What the days have cost, in US dollars; only today counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ledger {
    /// The local calendar day of the amounts.
    pub day: String,
    /// By project.
    pub projects: BTreeMap<String, f64>,
}

impl Ledger {
    /// Adds what an attempt cost.
    pub fn add(&mut self, project: &str, cost_usd: f64, now: Wall) {
        let today = now.day();
        if self.day != today {
            self.projects.clear();
            self.day = today;
        }
        if cost_usd.is_finite() && cost_usd > 0.0 {
            *self.projects.entry(project.to_owned()).or_default() += cost_usd;
        }
    }

    /// Today's costs of a project, or of all.
    pub fn spent(&self, project: Option<&str>, now: Wall) -> f64 {
        match project {
            _ if self.day != now.day() => 0.0,
            Some(project) => self.projects.get(project).copied().unwrap_or(0.0),
            // Of nothing, the sum is -0.
            None => 0.0 + self.projects.values().sum::<f64>(),
        }
    }

    /// Why the day's money is used up for a project, if it is, and until when.
    pub fn exhausted(&self, project: &str, policy: &Policy, now: Wall) -> Wanted {
        let exhausted = |what: &str, limit: Option<f64>, whose| {
            let (limit, spent) = (limit?, self.spent(whose, now));
            let remedy = "wait for midnight, or raise daily_budget_usd";
            let text = format!("{what} of ${limit:.2} is used up (${spent:.2}); {remedy}");
            (spent >= limit).then(|| (text, Some(now.midnight())))
        };
        let (own, all) = (policy.daily_budget_usd, policy.overall_budget_usd);
        let own = exhausted("this project's daily budget", own, Some(project));
        own.or_else(|| exhausted("the daily budget", all, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::ErrorKind::*;
    use crate::project::Protocol;

    const NOW: Wall = Wall(1_795_173_825_000);

    fn secs(secs: u64) -> Wall {
        NOW.plus(Duration::from_secs(secs))
    }

    /// A fault of an attempt of agent `a` in project `x`, begun at [`NOW`], and whether its hold is news.
    fn fail(holds: &mut Holds, kind: ErrorKind, resets_at: Option<Wall>, now: Wall) -> bool {
        fail_of(holds, kind, resets_at, NOW, now)
    }

    fn fail_of(
        holds: &mut Holds,
        kind: ErrorKind,
        resets_at: Option<Wall>,
        began: Wall,
        now: Wall,
    ) -> bool {
        let agent = AgentSpec::new("a", Protocol::Claude);
        let fault = Fault {
            resets_at,
            ..Fault::new(kind, "it says")
        };
        let began = (kind != UnsafeEnv).then_some(began);
        let hold = holds.fault(("x", &agent), &fault, began, &[], now);
        hold.is_some()
    }

    fn closed(holds: &Holds, entrant: Entrant<'_>, now: Wall) -> Option<Option<Wall>> {
        let closed = holds.closed(entrant, false, now);
        closed.map(|(_, until)| until)
    }

    /// Makes the probe that is due, and lets it fail alike.
    fn probe(holds: &mut Holds, kind: ErrorKind, at: Wall) {
        assert_eq!(closed(holds, ("p", "a"), at), None);
        holds.begin_probe(("p", "a"), at);
        assert_eq!(closed(holds, ("q", "a"), at), Some(None));
        holds.probe_started("p");
        holds.end_probe("p", true, at);
        assert!(!fail_of(holds, kind, None, at, at));
    }

    #[test]
    fn a_usage_limit_holds_its_agent_until_a_little_after_the_reset_and_then_one_job_tries() {
        let mut holds = Holds::default();
        let reset = Some(secs(90));
        assert!(fail(&mut holds, UsageLimit, reset, NOW));
        assert!(!fail(&mut holds, UsageLimit, reset, secs(1)));
        assert_eq!(closed(&holds, ("p", "a"), secs(94)), Some(Some(secs(95))));
        assert_eq!(closed(&holds, ("p", "other"), NOW), None);
        assert_eq!(closed(&holds, ("p", "a"), secs(95)), None);
        holds.begin_probe(("p", "a"), secs(95));
        assert_eq!(closed(&holds, ("q", "a"), secs(99)), Some(None));
        assert_eq!(holds.answered(("p", "a"), secs(95)).len(), 1);
        assert_eq!(closed(&holds, ("q", "a"), secs(99)), None);
    }

    #[test]
    fn a_probe_that_was_not_made_leaves_the_next_one_to_whoever_comes() {
        let mut holds = Holds::default();
        fail(&mut holds, NotAuthenticated, None, NOW);
        assert_eq!(closed(&holds, ("p", "a"), NOW), Some(Some(secs(1800))));
        holds.begin_probe(("x", "a"), secs(1800));
        holds.end_probe("x", false, secs(1796));
        assert_eq!(closed(&holds, ("q", "a"), secs(1801)), None);
        probe(&mut holds, NotAuthenticated, secs(1801));
        let again = closed(&holds, ("q", "a"), secs(1802));
        assert_eq!(again, Some(Some(secs(3601))));
    }

    #[test]
    fn whoever_met_the_trouble_lets_another_project_try_first() {
        let mut holds = Holds::default();
        fail(&mut holds, Network, None, NOW);
        assert_eq!(closed(&holds, ("x", "a"), secs(30)), Some(Some(secs(31))));
        assert_eq!(closed(&holds, ("q", "a"), secs(30)), None);
        assert_eq!(closed(&holds, ("x", "a"), secs(31)), None);
    }

    #[test]
    fn an_ill_service_is_asked_less_and_less_often_until_it_answers_anybody() {
        let mut holds = Holds::default();
        assert!(fail(&mut holds, Network, None, secs(1)));
        let mut at = secs(1);
        for pause in [30, 60, 120, 240, 480, 900, 900] {
            let due = at.plus(Duration::from_secs(pause));
            assert_eq!(closed(&holds, ("p", "a"), at), Some(Some(due)));
            // Another attempt that began before tells nothing new.
            assert!(!fail(&mut holds, Overloaded, None, due));
            at = due;
            probe(&mut holds, Network, at);
        }
        assert_eq!(holds.answered(("q", "a"), Wall(0)).len(), 1);
        assert_eq!(holds, Holds::default());
    }

    #[test]
    fn a_limit_without_a_sensible_end_is_waited_out_longer_and_longer() {
        let mut holds = Holds::default();
        let far = secs(36 * 24 * 3600);
        let mut now = NOW;
        for (told, pause) in [
            (None, 300),
            (Some(far), 600),
            (None, 1200),
            (None, 2400),
            (None, 3600),
            (None, 3600),
            (Some(NOW), 60),
            (Some(secs(20_000)), 0),
        ] {
            fail_of(&mut holds, UsageLimit, told, now, now);
            let end = holds.list[0].until.unwrap();
            let wanted = match pause {
                0 => secs(20_005),
                pause => now.plus(Duration::from_secs(pause)),
            };
            assert_eq!(end, wanted, "{told:?}");
            now = end;
        }
        assert!(holds.answered(("p", "a"), Wall(NOW.0 - 1)).is_empty());
        assert_eq!(holds.answered(("p", "a"), now).len(), 1);
    }

    #[test]
    fn a_guess_does_not_replace_a_known_end_nor_a_network_fault_the_limit() {
        let mut holds = Holds::default();
        fail(&mut holds, UsageLimit, Some(secs(9000)), NOW);
        fail(&mut holds, UsageLimit, None, secs(2));
        fail(&mut holds, Network, None, secs(3));
        assert_eq!(closed(&holds, ("p", "a"), secs(4)), Some(Some(secs(9005))));
        assert_eq!(holds.list.len(), 2);
    }

    #[test]
    fn an_unsafe_credentials_file_holds_every_agent_and_a_program_of_the_project_only_there() {
        let mut holds = Holds::default();
        fail(&mut holds, UnsafeEnv, None, NOW);
        assert_eq!(closed(&holds, ("q", "b"), secs(59)), Some(Some(secs(60))));
        holds.begin_probe(("q", "b"), secs(60));
        assert_eq!(holds.probe_started("q").len(), 1);
        let mut agent = AgentSpec::new("a", Protocol::Plain);
        agent.command = vec!["./agent.sh".into()];
        let fault = Fault::new(ErrorKind::AgentMissing, "gone");
        holds.fault(("p", &agent), &fault, None, &[], NOW);
        assert!(closed(&holds, ("p", "a"), NOW).is_some());
        assert_eq!(closed(&holds, ("q", "a"), NOW), None);
    }

    #[test]
    fn changed_files_end_a_hold_but_not_for_ever_those_that_the_agent_changes_itself() {
        let mut holds = Holds::default();
        let stamps = [Stamp {
            path: "/login".into(),
            seen: "before".into(),
        }];
        let agent = AgentSpec::new("a", Protocol::Claude);
        for round in 0..4 {
            let fault = Fault::new(ErrorKind::NotAuthenticated, "expired");
            let held = holds.fault(("p", &agent), &fault, Some(NOW), &stamps, NOW);
            assert!(held.is_some());
            assert!(holds.mend(|stamp| stamp.seen != "before").is_empty());
            let lifted = holds.mend(|stamp| stamp.seen != "after");
            assert_eq!(lifted.len(), usize::from(round < 3));
        }
        assert_eq!(holds.answered(("p", "a"), NOW).len(), 1);
        assert_eq!(holds, Holds::default());
    }

    #[test]
    fn three_jobs_that_fail_alike_and_at_once_hold_their_agent() {
        let job = |n: usize| JobId::parse(&format!("job-20260101-12000{n}-x")).unwrap();
        let quick = Duration::from_secs(3);
        let run = |holds: &mut Holds, kinds: &[(Option<ErrorKind>, Duration)]| {
            let mut news = None;
            for (n, (kind, lasted)) in kinds.iter().enumerate() {
                let fault = kind.map(|kind| Fault::new(kind, "exit status 7"));
                let id = job(n);
                let of = (if n == 1 { "web" } else { "api" }, &id, "a");
                news = news.or(holds.finished(of, fault.as_ref(), *lasted, 3, NOW));
            }
            news
        };
        let same = (Some(ExitCode), quick);
        for harmless in [
            vec![same, same, (Some(AgentError), quick)],
            vec![same, same, (None, quick), same],
            vec![same, same, (Some(ExitCode), MINUTE)],
            vec![(Some(CheckFailed), quick); 4],
            vec![(Some(Rejected), quick); 4],
        ] {
            assert_eq!(run(&mut Holds::default(), &harmless), None, "{harmless:?}");
        }
        // Whatever it is, known or not, unless it is the document's, the project's or a person's.
        let theirs = "rejected prompt_too_long max_turns budget check_failed blocked interrupted cancelled \
                      timeout output_limit";
        let theirs: Vec<&str> = theirs.split(' ').collect();
        for kind in ErrorKind::ALL {
            let hold = run(&mut Holds::default(), &[(Some(*kind), quick); 3]);
            let is_theirs = theirs.contains(&kind.as_str());
            assert_eq!(hold.is_none(), is_theirs, "{kind}");
        }
        let mut holds = Holds::default();
        let hold = run(&mut holds, &[same, same, (Some(Cancelled), quick), same]).unwrap();
        assert_eq!(
            hold.reason,
            "3 jobs in a row failed alike and at once (exit_code: exit status 7); when it is mended, run them \
             again: job-monitor retry job-20260101-120000-x job-20260101-120001-x job-20260101-120003-x"
        );
        assert_eq!(closed(&holds, ("p", "a"), NOW), Some(Some(secs(1800))));
        assert!(holds.answered(("p", "a"), NOW).is_empty());
        // The probe fails alike: half an hour more. One that lives is enough.
        holds.begin_probe(("p", "a"), secs(1800));
        let meanwhile = closed(&holds, ("q", "a"), secs(1801));
        assert_eq!(meanwhile, Some(Some(secs(1860))));
        holds.end_probe("p", true, secs(1801));
        assert_eq!(run(&mut holds, &[same]), None);
        assert_eq!(holds.list.len(), 1);
        assert_eq!(run(&mut holds, &[(Some(MaxTurns), quick)]), None);
        assert_eq!(holds, Holds::default());
    }

    #[test]
    fn what_settings_and_time_decide_comes_and_goes_and_a_person_may_let_it_pass() {
        let mut holds = Holds::default();
        let (entrant, wanted) = (("p", "a"), Some(("night".to_owned(), Some(secs(600)))));
        let set = |holds: &mut Holds, wanted, now| holds.set(Kind::Hours, ("p", None), wanted, now);
        assert!(set(&mut holds, wanted.clone(), NOW).is_some());
        assert_eq!(set(&mut holds, wanted.clone(), secs(1)), None);
        assert_eq!(closed(&holds, entrant, secs(1)), Some(Some(secs(600))));
        assert_eq!(holds.closed(entrant, true, secs(1)), None);
        assert_eq!(holds.release(Some(("p", "a"))).len(), 1);
        assert_eq!(set(&mut holds, wanted.clone(), secs(2)), None);
        assert_eq!(closed(&holds, entrant, secs(2)), None);
        let wanted = wanted.map(|(reason, _)| (reason, Some(secs(1200))));
        assert!(set(&mut holds, wanted, secs(601)).is_some());
        assert_eq!(set(&mut holds, None, secs(602)), None);
        let failed = Some(("x failed".to_owned(), None));
        holds.set(Kind::OnFailure, ("p", None), failed.clone(), NOW);
        assert_eq!(closed(&holds, entrant, secs(9)), Some(None));
        assert_eq!(holds.release(None).len(), 1);
        assert_eq!(holds, Holds::default());
        holds.set(Kind::OnFailure, ("p", None), failed, NOW);
        holds.refresh("p", &Policy::standard(), secs(9));
        assert_eq!(holds, Holds::default(), "the setting is gone");
    }

    #[test]
    fn a_gate_that_stays_shut_is_news_once() {
        let mut holds = Holds::default();
        let mut asked = |after| {
            let shut = Some(("dirty".to_owned(), Some(secs(after + 60))));
            holds.set(Kind::Gate, ("p", None), shut, secs(after))
        };
        let is_news = [0, 60, 180, 300, 900].map(|after| asked(after).is_some());
        assert_eq!(is_news, [true, false, false, false, true]);
    }

    #[test]
    fn a_window_that_is_full_enough_holds_until_its_reset() {
        let window = |name: &str, utilization, resets_at| Window {
            name: name.into(),
            utilization,
            resets_at,
        };
        let windows = [
            window("five_hour", 0.85, Some(secs(60))),
            window("seven_day", 0.9, Some(secs(600))),
            window("odd", 1.0, None),
        ];
        let until =
            |limits: &Ceiling, now| ceiling(&windows, limits, now).and_then(|(_, until)| until);
        let every = |share| Ceiling {
            every: Some(share),
            named: Vec::new(),
        };
        assert_eq!(until(&every(0.8), NOW), Some(secs(600)));
        assert_eq!(until(&every(0.95), NOW), None);
        assert_eq!(until(&Ceiling::default(), NOW), None);
        let named = Ceiling {
            every: None,
            named: vec![("five_hour".into(), 0.8)],
        };
        assert_eq!(until(&named, NOW), Some(secs(60)));
        assert_eq!(until(&named, secs(60)), None);
    }

    #[test]
    fn a_hold_that_lets_a_begun_job_go_on_is_not_shown_as_what_stops_it() {
        let (mut holds, later) = (Holds::default(), secs(600));
        fail(&mut holds, UsageLimit, Some(secs(60)), NOW);
        let hours = Some(("closed".to_owned(), Some(later)));
        holds.set(Kind::Hours, ("x", None), hours, NOW);
        let kind = |begun| holds.shown(("x", "a"), begun, NOW).map(|hold| hold.kind);
        assert_eq!(kind(false).as_deref(), Some("hours"));
        assert_eq!(kind(true).as_deref(), Some("usage_limit"));
    }

    #[test]
    fn of_what_the_worker_finds_and_what_holds_it_the_one_that_lasts_is_shown() {
        let (mut holds, later) = (Holds::default(), secs(100));
        fail(&mut holds, UsageLimit, Some(secs(60)), NOW);
        let of = ("x", None);
        let found = |until| Some(("it is missing".to_owned(), until));
        holds.set(Kind::Check, of, found(Some(secs(50))), NOW);
        let kind = |holds: &Holds, now| holds.shown(("x", "a"), true, now).map(|hold| hold.kind);
        assert_eq!(kind(&holds, NOW).as_deref(), Some("usage_limit"));
        // The limit is over, but its probe came to nothing for want of the check.
        holds.set(Kind::Check, of, found(Some(secs(160))), later);
        holds.begin_probe(("x", "a"), later);
        holds.end_probe("x", false, later);
        assert_eq!(kind(&holds, later).as_deref(), Some("check"));
        holds.set(Kind::Trouble, of, found(None), later);
        assert_eq!(kind(&holds, secs(9999)).as_deref(), Some("trouble"));
        assert_eq!(closed(&holds, ("x", "a"), secs(9999)), None);
    }

    #[test]
    fn hours_open_at_their_next_beginning() {
        let minute = NOW.minute_of_day();
        let span = |from: i32, to: i32| Span {
            from: (i32::from(minute) + from).rem_euclid(1440) as u16,
            to: (i32::from(minute) + to).rem_euclid(1440) as u16,
        };
        assert_eq!(hours(&[], NOW), None);
        assert_eq!(hours(&[span(-5, 5)], NOW), None);
        assert_eq!(hours(&[span(0, 1)], NOW), None);
        let (_, at) = hours(&[span(30, 60), span(10, 20), span(-9, 0)], NOW).unwrap();
        assert_eq!(at.unwrap().since(NOW).as_secs().div_ceil(60), 10);
    }

    #[test]
    fn holds_of_older_versions_are_read() {
        let old = r#"{"list": [{"agent": "claude", "kind": "usage_limit", "reason": "r",
            "since": "2026-11-20T10:00:00Z", "until": "2026-11-20T11:00:00Z", "probe_at": null}],
            "blind": {"claude": 2}}"#;
        let holds: Holds = serde_json::from_str(old).unwrap();
        assert_eq!(holds.list[0].kind, Kind::Fault(ErrorKind::UsageLimit));
        let text = serde_json::to_string(&holds).unwrap();
        assert_eq!(serde_json::from_str::<Holds>(&text).unwrap(), holds);
    }

    #[test]
    fn a_day_s_money_is_counted_by_project_and_over_all() {
        let mut ledger = Ledger::default();
        ledger.add("p", 0.0, NOW);
        assert_eq!(format!("{:.2}", ledger.spent(None, NOW)), "0.00");
        ledger.add("p", 1.5, NOW);
        ledger.add("q", 1.0, NOW);
        ledger.add("q", f64::NAN, NOW);
        let exhausted = |ledger: &Ledger, own, overall, now| {
            let mut policy = Policy::standard();
            (policy.daily_budget_usd, policy.overall_budget_usd) = (own, overall);
            ledger.exhausted("p", &policy, now)
        };
        assert_eq!(exhausted(&ledger, Some(2.0), Some(3.0), NOW), None);
        let own = exhausted(&ledger, Some(1.5), None, NOW).unwrap();
        assert!(own.0.contains("this project"));
        let overall = exhausted(&ledger, None, Some(2.5), NOW).unwrap();
        assert_eq!(overall.1, Some(NOW.midnight()));
        let tomorrow = NOW.midnight();
        assert_eq!(exhausted(&ledger, Some(1.0), Some(1.0), tomorrow), None);
        ledger.add("p", 0.25, tomorrow);
        assert_eq!(ledger.projects.len(), 1);
    }
}
