//! Holds: why an agent is not started, for any project or for one (SPEC 7), and when one job may
//! try whether things are mended. The ledger of what a day has cost. Decisions over plain data,
//! with the time as an argument; `board` keeps them on disk and shares them.

use crate::agent::{Fault, Window};
use crate::job::{Course, ErrorKind, JobId};
use crate::project::{AgentSpec, Ceiling, Span};
use crate::record::HoldView;
use crate::time::Wall;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// Between two probes of a service that did not accept us: each is a start that may cost.
const PROBE_PAUSE: Duration = Duration::from_secs(30 * 60);
/// Between two looks for a program or a safe credentials file: no service is asked.
const LOOK_PAUSE: Duration = Duration::from_secs(60);
/// Before the first, second … probe of a service that is ill; the last pause repeats.
const ILL_PAUSES: [u64; 6] = [30, 60, 120, 240, 480, 900];
/// Services are late with their own reset: whoever comes at the very second is refused once more.
const RESET_MARGIN: Duration = Duration::from_secs(5);
/// The pause after a usage limit whose end was over when we heard of it.
const PAST_RESET_PAUSE: Duration = Duration::from_secs(60);
/// The first pause after a usage limit without a sensible end; it doubles up to the longest.
const BLIND_PAUSE: Duration = Duration::from_secs(5 * 60);
const BLIND_PAUSE_MAX: Duration = Duration::from_secs(3600);
/// A usage limit that claims to last longer is not believed; the longest known is a month.
const RESET_MAX: Duration = Duration::from_secs(35 * 24 * 3600);
/// A job that fails within this time of its start may count for the breaker.
const AT_ONCE: Duration = Duration::from_secs(60);
/// So far a clock is put right while nobody would say that it was set.
const CLOCK_SLACK: Duration = Duration::from_secs(60);
/// How long the next in line is left to go first, before the one behind it may.
pub const TURN: Duration = Duration::from_secs(1);
/// The breaker's reason names so many jobs.
const NAMED_MAX: usize = 20;

/// A hold's kind: a fault's, or one of our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Kind {
    /// The fault of an attempt.
    Fault(ErrorKind),
    /// Anything else.
    Own(Own),
}

/// Kinds of holds that no single attempt calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Own {
    /// Jobs in a row failed alike.
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
}

/// Kinds that replace each other: at most one hold of each class and scope is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Limit,
    Login,
    Files,
    Ill,
    Own(Own),
}

impl Kind {
    fn class(self) -> Class {
        match self {
            Kind::Own(own) => Class::Own(own),
            Kind::Fault(ErrorKind::UsageLimit) => Class::Limit,
            Kind::Fault(ErrorKind::AgentMissing | ErrorKind::UnsafeEnv) => Class::Files,
            Kind::Fault(ErrorKind::Overloaded | ErrorKind::Network | ErrorKind::RateLimited) => {
                Class::Ill
            }
            Kind::Fault(_) => Class::Login,
        }
    }

    /// The word in documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Fault(kind) => kind.as_str(),
            Kind::Own(Own::Breaker) => "breaker",
            Kind::Own(Own::UsageCeiling) => "usage_ceiling",
            Kind::Own(Own::DailyBudget) => "daily_budget",
            Kind::Own(Own::Hours) => "hours",
            Kind::Own(Own::OnFailure) => "on_failure",
            Kind::Own(Own::Gate) => "gate",
            Kind::Own(Own::Check) => "check",
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// The agent, where it is about one.
    pub agent: Option<String>,
    /// The project, where it is about one.
    #[serde(default)]
    pub project: Option<String>,
    /// The kind.
    pub kind: Kind,
    /// What is the matter.
    pub reason: String,
    /// When it began.
    pub since: Wall,
    /// When it ends by itself, as far as is known.
    pub until: Option<Wall>,
    /// When one job may try whether things are mended; without it, only `until` or a person ends it.
    pub probe_at: Option<Wall>,
    /// Probes that failed in a row; of a usage limit, those that told no end.
    #[serde(default)]
    pub probes: u32,
    /// The files that the agent was refused with; a change of one ends the hold.
    #[serde(default)]
    pub stamps: Vec<Stamp>,
    /// Whether it was found before the agent ran, so that its start proves the repair.
    #[serde(default)]
    pub before_start: bool,
    /// A person let jobs pass until its end.
    #[serde(default)]
    pub released: bool,
    /// The project whose job probes just now, and since when.
    #[serde(skip)]
    pub probing: Option<(String, Wall)>,
}

/// Who wants to start an agent.
#[derive(Clone, Copy, Debug)]
pub struct Entrant<'a> {
    /// The project.
    pub project: &'a str,
    /// The job's agent.
    pub agent: &'a str,
    /// Whether the job was started before: what keeps new jobs from starting does not stop it.
    pub begun: bool,
    /// Its place among those who wait for the same, from 0.
    pub place: usize,
}

/// An attempt that ended in a fault which calls for a hold.
#[derive(Clone, Copy, Debug)]
pub struct Failure<'a> {
    /// The project.
    pub project: &'a str,
    /// The agent.
    pub agent: &'a AgentSpec,
    /// When the attempt began; `None` if the fault was found before the agent was started.
    pub began: Option<Wall>,
    /// The files that were used, as they were before the attempt.
    pub stamps: &'a [Stamp],
}

/// Whether an agent may be started.
#[derive(Debug, PartialEq)]
pub enum Gate<'a> {
    /// Yes.
    Open,
    /// Yes, to see whether things are mended.
    Probe,
    /// No: the hold that opens last, and when to ask again; `None` is when something changes.
    Closed(&'a Hold, Option<Wall>),
}

/// Jobs of one agent that failed alike and at once, in a row.
#[derive(Clone, Debug, PartialEq)]
struct Series {
    kind: ErrorKind,
    jobs: Vec<(String, JobId)>,
}

/// All holds, and what leads to them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Holds {
    /// In force, or released until their end.
    pub list: Vec<Hold>,
    /// The usage windows of each agent's account, as it last told them.
    pub windows: BTreeMap<String, Vec<Window>>,
    #[serde(skip)]
    series: BTreeMap<String, Series>,
    /// How often a change of files ended a hold of an agent, which then was refused again.
    #[serde(skip)]
    mended: BTreeMap<String, u32>,
}

impl Holds {
    /// Puts a hold in force, in place of one of its class and scope. Returns it if it is news.
    fn put(&mut self, mut hold: Hold) -> Option<Hold> {
        let is_old = |old: &Hold| {
            old.kind.class() == hold.kind.class()
                && (&old.agent, &old.project) == (&hold.agent, &hold.project)
        };
        let old = self.list.iter().position(is_old);
        let old = old.map(|at| self.list.remove(at));
        hold.since = old.as_ref().map_or(hold.since, |old| old.since);
        self.list.push(hold.clone());
        old.is_none().then_some(hold)
    }

    /// Takes an agent out of service after a fault whose course is to hold. Returns the hold if it
    /// is news.
    pub fn fault(&mut self, failure: &Failure<'_>, fault: &Fault, now: Wall) -> Option<Hold> {
        let kind = Kind::Fault(fault.kind);
        let mut hold = Hold::new(kind, &fault.error, now);
        let agent = &failure.agent.name;
        if fault.kind != ErrorKind::UnsafeEnv {
            hold.agent = Some(agent.clone());
        }
        // A program that is looked for in the project is missing there and nowhere else.
        let program = failure.agent.command.first().map_or("", String::as_str);
        if fault.kind == ErrorKind::AgentMissing
            && program.contains('/')
            && !program.starts_with('/')
        {
            hold.project = Some(failure.project.to_owned());
        }
        // A refusal is an answer all the same, and a limit whose end is past is not the matter any more.
        self.take(|old| {
            let is_earlier = failure.began.is_some_and(|began| old.since <= began);
            old.agent.as_ref() == Some(agent)
                && match (kind.class(), old.kind.class()) {
                    (Class::Limit | Class::Login, Class::Ill) => is_earlier,
                    (Class::Limit, Class::Login) | (Class::Login, Class::Limit) => is_earlier,
                    (Class::Ill, Class::Limit) => old.until.is_some_and(|until| until <= now),
                    _ => false,
                }
        });
        let old = self.list.iter().find(|old| {
            old.kind.class() == kind.class()
                && (&old.agent, &old.project) == (&hold.agent, &hold.project)
        });
        // What began before the hold tells nothing of how it is now.
        let is_late = old.is_some_and(|old| failure.began.is_some_and(|began| began < old.since));
        let probes = old.map_or(0, |old| old.probes + u32::from(!is_late));
        hold.probes = probes;
        hold.before_start = failure.began.is_none();
        hold.stamps = failure.stamps.to_vec();
        let probe_at = match kind.class() {
            Class::Limit => {
                let known = old.and_then(|old| old.until).filter(|until| *until > now);
                let (end, probes) = limit_ends(fault.resets_at, known, probes, now);
                (hold.until, hold.probes) = (Some(end), probes);
                end
            }
            Class::Files => now.plus(LOOK_PAUSE),
            Class::Ill if is_late => old.and_then(|old| old.probe_at).unwrap_or(now),
            Class::Ill => {
                let at = (probes as usize).min(ILL_PAUSES.len() - 1);
                now.plus(Duration::from_secs(ILL_PAUSES[at]))
            }
            // A service may take a moment to know of a login that has just been mended.
            Class::Login if probes == 0 && self.mended.contains_key(agent) => now.plus(LOOK_PAUSE),
            Class::Login | Class::Own(_) => now.plus(PROBE_PAUSE),
        };
        hold.probe_at = Some(probe_at);
        self.put(hold)
    }

    /// Whether the agent, it may be said, changes its own credentials at each start that fails: then
    /// only changes after its end count.
    pub fn is_restless(&self, agent: &str) -> bool {
        self.mended.get(agent).is_some_and(|times| *times >= 3)
    }

    /// Holds a project, until a person or `until` ends it. Returns the hold if it is news.
    pub fn hold_project(
        &mut self,
        project: &str,
        own: Own,
        reason: &str,
        until: Option<Wall>,
        now: Wall,
    ) -> Option<Hold> {
        let mut hold = Hold::new(Kind::Own(own), reason, now);
        (hold.project, hold.until) = (Some(project.to_owned()), until);
        self.put(hold)
    }

    /// Brings a hold that settings and the time decide in line with them: `wanted` is its reason and
    /// its end. One that a person released stays so until that end. Returns whether anything
    /// changed, and the hold if it is news.
    pub fn decide(
        &mut self,
        own: Own,
        entrant: &Entrant<'_>,
        wanted: Option<(String, Wall)>,
        now: Wall,
    ) -> (bool, Option<Hold>) {
        let agent = (own == Own::UsageCeiling).then_some(entrant.agent);
        let is_it = |hold: &Hold| {
            hold.kind == Kind::Own(own)
                && hold.project.as_deref() == Some(entrant.project)
                && hold.agent.as_deref() == agent
        };
        let old = self.list.iter().find(|hold| is_it(hold));
        let Some((reason, until)) = wanted else {
            return (!self.take(is_it).is_empty(), None);
        };
        if old.is_some_and(|old| old.released || (&old.reason, old.until) == (&reason, Some(until)))
        {
            return (false, None);
        }
        let mut hold = Hold::new(Kind::Own(own), &reason, now);
        hold.agent = agent.map(str::to_owned);
        (hold.project, hold.until) = (Some(entrant.project.to_owned()), Some(until));
        (true, self.put(hold))
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
        let kind = fault.map(|fault| fault.kind);
        if matches!(kind, Some(Rejected | Cancelled | Interrupted)) {
            return None;
        }
        let is_of_breaker = |hold: &Hold| {
            hold.kind == Kind::Own(Own::Breaker) && hold.agent.as_deref() == Some(agent)
        };
        let blameless = matches!(
            kind,
            Some(PromptTooLong | MaxTurns | Budget | CheckFailed | Blocked | Timeout | OutputLimit)
        );
        let known = self.series.get(agent).map(|series| series.kind);
        if known.is_some() && known != kind || blameless || lasted >= AT_ONCE || fault.is_none() {
            self.series.remove(agent);
            self.take(is_of_breaker);
        }
        let fault = fault.filter(|_| !blameless && lasted < AT_ONCE)?;
        let series = self.series.entry(agent.to_owned()).or_insert(Series {
            kind: fault.kind,
            jobs: Vec::new(),
        });
        series.jobs.push((project.to_owned(), job.clone()));
        if breaker == 0 || series.jobs.len() < breaker {
            return None;
        }
        let reason = format!(
            "{} jobs in a row failed alike and at once ({}: {}); when it is mended, run them again: {}",
            series.jobs.len(),
            fault.kind,
            fault.error,
            retries(&series.jobs)
        );
        let mut hold = Hold::new(Kind::Own(Own::Breaker), &reason, now);
        (hold.agent, hold.probe_at) = (Some(agent.to_owned()), Some(now.plus(PROBE_PAUSE)));
        self.put(hold)
    }

    /// Ends a hold of a project. Returns whether there was one.
    pub fn unhold_project(&mut self, project: &str, own: Own) -> bool {
        let of = |hold: &Hold| hold.project.as_deref() == Some(project);
        !self
            .take(|hold| of(hold) && hold.kind == Kind::Own(own))
            .is_empty()
    }

    /// Whether an agent may be started now. Of several holds the one that opens last decides.
    pub fn gate(&self, entrant: &Entrant<'_>, now: Wall) -> Gate<'_> {
        let mut closed: Option<(&Hold, Option<Wall>)> = None;
        let mut is_probe = false;
        for hold in self.list.iter().filter(|hold| hold.stops(entrant)) {
            match hold.opens(entrant, now) {
                Some(at) if at <= now => is_probe |= hold.probe_at.is_some(),
                opens => {
                    let rank = |at: Option<Wall>| at.map_or(i64::MAX, |at| at.0);
                    if closed.is_none_or(|(_, last)| rank(last) < rank(opens)) {
                        closed = Some((hold, opens));
                    }
                }
            }
        }
        match closed {
            Some((hold, opens)) => Gate::Closed(hold, opens),
            None if is_probe => Gate::Probe,
            None => Gate::Open,
        }
    }

    /// A job of the entrant's goes to see whether things are mended.
    pub fn begin_probe(&mut self, entrant: &Entrant<'_>, now: Wall) {
        for hold in self.list.iter_mut().filter(|hold| hold.stops(entrant)) {
            if hold.probe_at.is_some() {
                hold.probing = Some((entrant.project.to_owned(), now));
            }
        }
    }

    /// The probe of a project has really started its agent. Returns what this alone proves mended.
    pub fn probe_started(&mut self, project: &str, now: Wall) -> Vec<Hold> {
        self.put_off(project, now);
        self.take(|hold| hold.is_probed_by(project) && hold.before_start)
    }

    /// The probe of a project is over, or was not made after all.
    pub fn end_probe(&mut self, project: &str, has_started: bool, now: Wall) {
        if has_started {
            self.put_off(project, now);
        }
        for hold in &mut self.list {
            hold.probing.take_if(|(who, _)| who == project);
        }
    }

    /// Unless the probe tells more, the next one is due after a pause.
    fn put_off(&mut self, project: &str, now: Wall) {
        for hold in self
            .list
            .iter_mut()
            .filter(|hold| hold.is_probed_by(project))
        {
            hold.probe_at = Some(now.plus(match hold.kind.class() {
                Class::Files => LOOK_PAUSE,
                Class::Ill | Class::Limit => Duration::from_secs(ILL_PAUSES[0]),
                Class::Login | Class::Own(_) => PROBE_PAUSE,
            }));
        }
    }

    /// The service has just answered an attempt of this agent that began at `began`. A usage limit
    /// or a refused login that came since stands. Returns what is lifted.
    pub fn answered(&mut self, project: &str, agent: &str, began: Wall) -> Vec<Hold> {
        self.mended.remove(agent);
        self.take(|hold| {
            hold.is_about(project, agent)
                && match hold.kind.class() {
                    Class::Ill => true,
                    Class::Limit | Class::Login | Class::Files => hold.since <= began,
                    Class::Own(_) => false,
                }
        })
    }

    /// Lifts what a person lets go: of one project and agent, or all. What settings and the time
    /// decide is let pass until its end. Returns what was in force.
    pub fn release(&mut self, of: Option<(&str, &str)>) -> Vec<Hold> {
        let is_meant =
            |hold: &Hold| of.is_none_or(|(project, agent)| hold.is_about(project, agent));
        match of {
            Some((_, agent)) => drop(self.series.remove(agent)),
            None => self.series.clear(),
        }
        let mut lifted = self.take(|hold| is_meant(hold) && !hold.is_decided());
        for hold in self.list.iter_mut().filter(|hold| is_meant(hold)) {
            if !std::mem::replace(&mut hold.released, true) {
                lifted.push(hold.clone());
            }
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

    /// Forgets what is over, and makes due what a clock that was set back has put far away. Returns
    /// whether anything changed.
    pub fn tidy(&mut self, now: Wall) -> bool {
        let mut changed = false;
        for hold in &mut self.list {
            if hold.since > now.plus(CLOCK_SLACK) {
                hold.since = now;
                hold.probe_at = hold.probe_at.map(|_| now);
                hold.until = hold.until.map(|_| now);
                changed = true;
            }
        }
        let is_over =
            |hold: &Hold| hold.probe_at.is_none() && hold.until.is_some_and(|until| until <= now);
        !self.take(is_over).is_empty() || changed
    }

    fn take(&mut self, is_lifted: impl Fn(&Hold) -> bool) -> Vec<Hold> {
        self.list.extract_if(.., |hold| is_lifted(hold)).collect()
    }
}

/// Whether an attempt that ended so had an answer from the service, other than one that calls for a
/// hold. `answered` is whether a turn of the model's was seen.
pub fn is_answer(fault: Option<&Fault>, answered: bool) -> bool {
    use ErrorKind::*;
    let Some(kind) = fault.map(|fault| fault.kind) else {
        return true;
    };
    let tells = matches!(
        kind,
        MaxTurns
            | PromptTooLong
            | InvalidRequest
            | ModelNotFound
            | Refused
            | MaxOutputTokens
            | EmptyAnswer
            | Unfinished
            | CheckFailed
            | AgentError
    );
    tells || answered && kind.course() != Course::Hold
}

/// When a usage limit ends, and how many in a row told no end. A known end is never replaced by a
/// guess.
fn limit_ends(told: Option<Wall>, known: Option<Wall>, probes: u32, now: Wall) -> (Wall, u32) {
    match told {
        Some(at) if at > now && at.since(now) <= RESET_MAX => {
            (at.plus(RESET_MARGIN).max(known.unwrap_or(at)), 0)
        }
        _ if known.is_some() => (known.unwrap_or(now), probes.saturating_sub(1)),
        Some(at) if at <= now => (now.plus(PAST_RESET_PAUSE), probes),
        _ => {
            let pause = BLIND_PAUSE * 2_u32.pow(probes.min(8));
            (now.plus(pause.min(BLIND_PAUSE_MAX)), probes)
        }
    }
}

/// The commands that run jobs again, one for each project.
fn retries(jobs: &[(String, JobId)]) -> String {
    let mut by_project: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (project, job) in jobs.iter().take(NAMED_MAX) {
        by_project.entry(project).or_default().push(job.as_str());
    }
    let command = |(project, jobs): (&str, Vec<&str>)| {
        format!("job-monitor -p {project} retry {}", jobs.join(" "))
    };
    let commands: Vec<String> = by_project.into_iter().map(command).collect();
    commands.join("; ")
}

/// When jobs may start again; `None` while they may. On a day that is not 24 hours long it may be too
/// early by the difference, and is asked again then.
pub fn hours(spans: &[Span], now: Wall) -> Option<(String, Wall)> {
    let minute = now.minute_of_day();
    let is_open = |span: &Span| match span.from < span.to {
        true => (span.from..span.to).contains(&minute),
        false => minute >= span.from || minute < span.to,
    };
    let ahead = |span: &Span| (i64::from(span.from) - i64::from(minute)).rem_euclid(1440);
    let minutes = spans.iter().map(ahead).min()?;
    let text = |span: &Span| {
        let (from, to) = (span.from, span.to);
        format!(
            "{:02}:{:02}-{:02}:{:02}",
            from / 60,
            from % 60,
            to / 60,
            to % 60
        )
    };
    (!spans.iter().any(is_open)).then(|| {
        let spans: Vec<String> = spans.iter().map(text).collect();
        let minute = now.secs() - now.secs().rem_euclid(60);
        let reason = format!("jobs start only in the hours {}", spans.join(", "));
        (reason, Wall::from_secs(minute + minutes * 60))
    })
}

/// Why a usage window is full enough that no job is started, and until when: of several windows the
/// one that ends last. One whose reset is past, or not known, says nothing.
pub fn ceiling(windows: &[Window], ceiling: &Ceiling, now: Wall) -> Option<(String, Wall)> {
    let full = |window: &Window| {
        let named = ceiling.named.iter().find(|(name, _)| *name == window.name);
        let limit = named.map(|(_, share)| *share).or(ceiling.every)?;
        let until = window.resets_at.filter(|at| *at > now)?;
        (window.utilization >= limit).then(|| {
            let percent = |share: f64| (share * 100.0).floor();
            let reason = format!(
                "{}% of the window {} is used, and usage_ceiling is {}%",
                percent(window.utilization),
                window.name,
                percent(limit)
            );
            (reason, until)
        })
    };
    windows
        .iter()
        .filter_map(full)
        .max_by_key(|(_, until)| *until)
}

impl Hold {
    fn new(kind: Kind, reason: &str, now: Wall) -> Hold {
        Hold {
            agent: None,
            project: None,
            kind,
            reason: reason.to_owned(),
            since: now,
            until: None,
            probe_at: None,
            probes: 0,
            stamps: Vec::new(),
            before_start: false,
            released: false,
            probing: None,
        }
    }

    fn is_probed_by(&self, project: &str) -> bool {
        self.probing.as_ref().is_some_and(|(who, _)| who == project)
    }

    fn is_about(&self, project: &str, agent: &str) -> bool {
        let is =
            |mine: &Option<String>, other: &str| mine.as_deref().is_none_or(|mine| mine == other);
        is(&self.project, project) && is(&self.agent, agent)
    }

    fn stops(&self, entrant: &Entrant<'_>) -> bool {
        let stops_this = match self.kind {
            Kind::Own(Own::Hours | Own::OnFailure) => !entrant.begun,
            // Whoever runs gate and check asks them again by himself; these are only shown.
            Kind::Own(Own::Gate | Own::Check) => false,
            _ => true,
        };
        stops_this && !self.released && self.is_about(entrant.project, entrant.agent)
    }

    /// When it lets this entrant pass; `None` is when something changes.
    fn opens(&self, entrant: &Entrant<'_>, now: Wall) -> Option<Wall> {
        match (&self.probing, self.probe_at) {
            // A job that has lived for so long did not fail at once.
            (Some((_, since)), _) if self.kind == Kind::Own(Own::Breaker) => {
                Some(since.plus(AT_ONCE))
            }
            (Some(_), _) => None,
            (None, Some(at)) if at <= now => Some(at.plus(TURN * entrant.place as u32)),
            (None, Some(at)) => Some(at),
            (None, None) => self.until,
        }
    }

    /// Whether settings and the time decide it anew at each look.
    fn is_decided(&self) -> bool {
        matches!(
            self.kind,
            Kind::Own(Own::UsageCeiling | Own::DailyBudget | Own::Hours)
        )
    }

    /// As people and scripts see it.
    pub fn view(&self, now: Wall) -> HoldView {
        let probe_at = self.probe_at.filter(|_| self.kind.class() == Class::Ill);
        HoldView {
            kind: self.kind.as_str().to_owned(),
            agent: self.agent.clone(),
            reason: self.reason.clone() + self.remedy(),
            until: self.until.or(probe_at).filter(|until| *until > now),
        }
    }

    /// Whether it ends only after a person has done something about the account or the cause.
    pub fn needs_person(&self) -> bool {
        matches!(
            self.kind.class(),
            Class::Login | Class::Own(Own::Breaker | Own::OnFailure)
        )
    }

    fn remedy(&self) -> &'static str {
        match self.kind {
            Kind::Fault(ErrorKind::Billing) => {
                "; settle it with the provider, then job-monitor release --all"
            }
            Kind::Own(Own::OnFailure) => "; job-monitor release lets the others run",
            kind if kind.class() == Class::Login => {
                "; log in again or mend .env (job-monitor doctor says how)"
            }
            _ => "",
        }
    }

    /// Whom it holds, with the kind: `agent "claude" (usage_limit)`.
    pub fn whom(&self) -> String {
        format!("{} ({})", self.who(), self.kind.as_str())
    }

    fn who(&self) -> String {
        match (&self.agent, &self.project) {
            (Some(agent), None) => format!("agent {agent:?}"),
            (Some(agent), Some(project)) => format!("agent {agent:?} in project {project:?}"),
            (None, Some(project)) => format!("project {project:?}"),
            (None, None) => "every agent".to_owned(),
        }
    }

    /// What is the matter, and what to do if only a person can.
    pub fn sentence(&self) -> String {
        let (who, kind) = (self.who(), self.kind.as_str());
        format!("{who} is held ({kind}): {}{}", self.reason, self.remedy())
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
            None => self.projects.values().sum(),
        }
    }

    /// Why the day's money is used up for a project, if it is, and until when.
    pub fn exhausted(
        &self,
        project: &str,
        own: Option<f64>,
        overall: Option<f64>,
        now: Wall,
    ) -> Option<(String, Wall)> {
        let budgets = [
            ("this project's daily budget", own, Some(project)),
            ("the daily budget", overall, None),
        ];
        budgets.into_iter().find_map(|(what, limit, of)| {
            let (limit, spent) = (limit?, self.spent(of, now));
            (spent >= limit).then(|| {
                let reason = format!(
                    "{what} of ${limit:.2} is used up (${spent:.2}); wait for midnight, or raise daily_budget_usd"
                );
                (reason, now.midnight())
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::Protocol;

    const NOW: Wall = Wall(1_795_173_825_000);

    fn secs(secs: u64) -> Wall {
        NOW.plus(Duration::from_secs(secs))
    }

    fn who<'a>(project: &'a str, agent: &'a str) -> Entrant<'a> {
        Entrant {
            project,
            agent,
            begun: false,
            place: 0,
        }
    }

    /// A fault of an attempt of agent `a` in project `p`, and whether its hold is news.
    fn fail(
        holds: &mut Holds,
        kind: ErrorKind,
        resets_at: Option<Wall>,
        began: Option<Wall>,
        now: Wall,
    ) -> bool {
        let agent = AgentSpec::new("a", Protocol::Claude);
        let failure = Failure {
            project: "p",
            agent: &agent,
            began,
            stamps: &[],
        };
        let fault = Fault {
            resets_at,
            ..Fault::new(kind, "it says")
        };
        holds.fault(&failure, &fault, now).is_some()
    }

    fn closed(holds: &Holds, entrant: Entrant<'_>, now: Wall) -> Option<Option<Wall>> {
        match holds.gate(&entrant, now) {
            Gate::Closed(_, until) => Some(until),
            Gate::Open | Gate::Probe => None,
        }
    }

    /// Makes the probe that is due, and lets it fail alike.
    fn probe(holds: &mut Holds, kind: ErrorKind, at: Wall) {
        assert_eq!(holds.gate(&who("p", "a"), at), Gate::Probe);
        holds.begin_probe(&who("p", "a"), at);
        assert_eq!(closed(holds, who("q", "a"), at), Some(None));
        holds.probe_started("p", at);
        holds.end_probe("p", true, at);
        assert!(!fail(holds, kind, None, Some(at), at));
    }

    #[test]
    fn a_usage_limit_holds_its_agent_until_a_little_after_the_reset_and_then_one_job_tries() {
        let mut holds = Holds::default();
        assert!(fail(
            &mut holds,
            ErrorKind::UsageLimit,
            Some(secs(90)),
            Some(NOW),
            NOW
        ));
        assert!(!fail(
            &mut holds,
            ErrorKind::UsageLimit,
            Some(secs(90)),
            Some(NOW),
            secs(1)
        ));
        assert_eq!(
            closed(&holds, who("p", "a"), secs(94)),
            Some(Some(secs(95)))
        );
        assert_eq!(holds.gate(&who("p", "other"), NOW), Gate::Open);
        assert_eq!(holds.gate(&who("p", "a"), secs(95)), Gate::Probe);
        holds.begin_probe(&who("p", "a"), secs(95));
        assert_eq!(closed(&holds, who("q", "a"), secs(99)), Some(None));
        assert_eq!(holds.answered("p", "a", secs(95)).len(), 1);
        assert_eq!(holds.gate(&who("q", "a"), secs(99)), Gate::Open);
    }

    #[test]
    fn a_probe_that_was_not_made_leaves_the_next_one_to_whoever_comes() {
        let mut holds = Holds::default();
        fail(
            &mut holds,
            ErrorKind::NotAuthenticated,
            None,
            Some(NOW),
            NOW,
        );
        assert_eq!(closed(&holds, who("p", "a"), NOW), Some(Some(secs(1800))));
        holds.begin_probe(&who("p", "a"), secs(1800));
        holds.end_probe("p", false, secs(1801));
        assert_eq!(holds.gate(&who("q", "a"), secs(1801)), Gate::Probe);
        probe(&mut holds, ErrorKind::NotAuthenticated, secs(1801));
        assert_eq!(
            closed(&holds, who("q", "a"), secs(1802)),
            Some(Some(secs(3601)))
        );
    }

    #[test]
    fn those_behind_in_line_let_the_first_go_first() {
        let mut holds = Holds::default();
        fail(&mut holds, ErrorKind::Network, None, Some(NOW), NOW);
        let second = Entrant {
            place: 1,
            ..who("q", "a")
        };
        assert_eq!(closed(&holds, second, secs(30)), Some(Some(secs(31))));
        assert_eq!(holds.gate(&second, secs(31)), Gate::Probe);
    }

    #[test]
    fn an_ill_service_is_asked_less_and_less_often_until_it_answers_anybody() {
        let mut holds = Holds::default();
        assert!(fail(
            &mut holds,
            ErrorKind::Network,
            None,
            Some(NOW),
            secs(1)
        ));
        let mut at = secs(1);
        for pause in [30, 60, 120, 240, 480, 900, 900] {
            let due = at.plus(Duration::from_secs(pause));
            assert_eq!(closed(&holds, who("p", "a"), at), Some(Some(due)));
            // Another attempt that began before tells nothing new.
            assert!(!fail(
                &mut holds,
                ErrorKind::Overloaded,
                None,
                Some(NOW),
                due
            ));
            at = due;
            probe(&mut holds, ErrorKind::Network, at);
        }
        assert_eq!(holds.answered("q", "a", Wall(0)).len(), 1);
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
            fail(&mut holds, ErrorKind::UsageLimit, told, Some(now), now);
            let end = holds.list[0].until.unwrap();
            let wanted = match pause {
                0 => secs(20_005),
                pause => now.plus(Duration::from_secs(pause)),
            };
            assert_eq!(end, wanted, "{told:?}");
            now = end;
        }
        assert!(holds.answered("p", "a", Wall(NOW.0 - 1)).is_empty());
        assert_eq!(holds.answered("p", "a", now).len(), 1);
    }

    #[test]
    fn a_guess_does_not_replace_a_known_end_nor_a_network_fault_the_limit() {
        let mut holds = Holds::default();
        fail(
            &mut holds,
            ErrorKind::UsageLimit,
            Some(secs(9000)),
            Some(NOW),
            NOW,
        );
        fail(&mut holds, ErrorKind::UsageLimit, None, Some(NOW), secs(2));
        fail(&mut holds, ErrorKind::Network, None, Some(NOW), secs(3));
        assert_eq!(
            closed(&holds, who("p", "a"), secs(4)),
            Some(Some(secs(9005)))
        );
        assert_eq!(holds.list.len(), 2);
    }

    #[test]
    fn an_unsafe_credentials_file_holds_every_agent_and_a_program_of_the_project_only_there() {
        let mut holds = Holds::default();
        fail(&mut holds, ErrorKind::UnsafeEnv, None, None, NOW);
        assert_eq!(
            closed(&holds, who("q", "b"), secs(59)),
            Some(Some(secs(60)))
        );
        holds.begin_probe(&who("q", "b"), secs(60));
        assert_eq!(holds.probe_started("q", secs(60)).len(), 1);
        let mut agent = AgentSpec::new("a", Protocol::Plain);
        agent.command = vec!["./agent.sh".into()];
        let failure = Failure {
            project: "p",
            agent: &agent,
            began: None,
            stamps: &[],
        };
        holds.fault(&failure, &Fault::new(ErrorKind::AgentMissing, "gone"), NOW);
        assert!(closed(&holds, who("p", "a"), NOW).is_some());
        assert_eq!(holds.gate(&who("q", "a"), NOW), Gate::Open);
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
            assert_eq!(holds.is_restless("a"), round == 3);
            let failure = Failure {
                project: "p",
                agent: &agent,
                began: Some(NOW),
                stamps: &stamps,
            };
            let fault = Fault::new(ErrorKind::NotAuthenticated, "expired");
            assert!(holds.fault(&failure, &fault, NOW).is_some());
            assert!(holds.mend(|stamp| stamp.seen != "before").is_empty());
            assert_eq!(holds.mend(|stamp| stamp.seen != "after").len(), 1);
        }
        holds.answered("p", "a", NOW);
        assert!(!holds.is_restless("a"));
    }

    #[test]
    fn three_jobs_that_fail_alike_and_at_once_hold_their_agent() {
        use ErrorKind::*;
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
            vec![same, same, (Some(ExitCode), AT_ONCE)],
            vec![(Some(CheckFailed), quick); 4],
            vec![(Some(Rejected), quick); 4],
        ] {
            assert_eq!(run(&mut Holds::default(), &harmless), None, "{harmless:?}");
        }
        let mut holds = Holds::default();
        let hold = run(&mut holds, &[same, same, (Some(Cancelled), quick), same]).unwrap();
        assert_eq!(
            hold.reason,
            "3 jobs in a row failed alike and at once (exit_code: exit status 7); when it is mended, run them \
             again: job-monitor -p api retry job-20260101-120000-x job-20260101-120003-x; \
             job-monitor -p web retry job-20260101-120001-x"
        );
        assert_eq!(closed(&holds, who("p", "a"), NOW), Some(Some(secs(1800))));
        assert!(holds.answered("p", "a", NOW).is_empty());
        // The probe fails alike: half an hour more. One that lives is enough.
        holds.begin_probe(&who("p", "a"), secs(1800));
        assert_eq!(
            closed(&holds, who("q", "a"), secs(1801)),
            Some(Some(secs(1860)))
        );
        holds.end_probe("p", true, secs(1801));
        assert_eq!(run(&mut holds, &[same]), None);
        assert_eq!(holds.list.len(), 1);
        assert_eq!(run(&mut holds, &[(Some(MaxTurns), quick)]), None);
        assert_eq!(holds, Holds::default());
    }

    #[test]
    fn what_settings_and_time_decide_comes_and_goes_and_a_person_may_let_it_pass() {
        let mut holds = Holds::default();
        let (entrant, wanted) = (who("p", "a"), Some(("night".to_owned(), secs(600))));
        assert!(
            holds
                .decide(Own::Hours, &entrant, wanted.clone(), NOW)
                .1
                .is_some()
        );
        assert_eq!(
            holds.decide(Own::Hours, &entrant, wanted.clone(), secs(1)),
            (false, None)
        );
        assert_eq!(closed(&holds, entrant, secs(1)), Some(Some(secs(600))));
        let begun = Entrant {
            begun: true,
            ..entrant
        };
        assert_eq!(holds.gate(&begun, secs(1)), Gate::Open);
        assert_eq!(holds.release(Some(("p", "a"))).len(), 1);
        assert_eq!(
            holds.decide(Own::Hours, &entrant, wanted.clone(), secs(2)),
            (false, None)
        );
        assert_eq!(holds.gate(&entrant, secs(2)), Gate::Open);
        assert!(holds.tidy(secs(600)));
        assert!(
            holds
                .decide(Own::Hours, &entrant, wanted, secs(601))
                .1
                .is_some()
        );
        assert_eq!(
            holds.decide(Own::Hours, &entrant, None, secs(602)),
            (true, None)
        );
        holds.hold_project("p", Own::OnFailure, "x failed", None, NOW);
        assert_eq!(closed(&holds, entrant, secs(9)), Some(None));
        assert_eq!(holds.release(None).len(), 1);
        assert_eq!(holds, Holds::default());
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
        let until = |limits: &Ceiling, now| ceiling(&windows, limits, now).map(|(_, until)| until);
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
        assert_eq!(at.since(NOW).as_secs().div_ceil(60), 10);
    }

    #[test]
    fn a_clock_that_is_set_back_prolongs_no_hold() {
        let mut holds = Holds::default();
        fail(&mut holds, ErrorKind::Billing, None, Some(NOW), NOW);
        holds.hold_project("p", Own::OnFailure, "x failed", None, NOW);
        let before = Wall(NOW.0 - 86_400_000);
        assert!(holds.tidy(before));
        assert_eq!(holds.gate(&who("q", "a"), before), Gate::Probe);
        assert!(closed(&holds, who("p", "a"), before).is_some());
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
        ledger.add("p", 1.5, NOW);
        ledger.add("q", 1.0, NOW);
        ledger.add("q", f64::NAN, NOW);
        assert_eq!(ledger.exhausted("p", Some(2.0), Some(3.0), NOW), None);
        let own = ledger.exhausted("p", Some(1.5), None, NOW).unwrap();
        assert!(own.0.contains("this project"));
        let overall = ledger.exhausted("p", None, Some(2.5), NOW).unwrap();
        assert_eq!(overall.1, NOW.midnight());
        let tomorrow = NOW.midnight();
        assert_eq!(ledger.exhausted("p", Some(1.0), Some(1.0), tomorrow), None);
        ledger.add("p", 0.25, tomorrow);
        assert_eq!(ledger.projects.len(), 1);
    }
}
