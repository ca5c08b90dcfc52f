//! The states of a job, which step is next, and what follows an attempt: decisions over plain data, with
//! the time as an argument. `worker` performs the steps; `tests/model` drives these very functions.

use crate::agent::plan;
use crate::agent::{Fault, Sessions, Verdict, dialect};
use crate::job::{Course, ErrorKind, JobId, Meta};
use crate::project::{OnInterrupt, Policy, Protocol};
use crate::record::{Check, Claim, Suspension};
use crate::time::{Wall, human};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A job that was interrupted so often is not started again: a job that brings the daemon down must not
/// do so for ever (SPEC 7).
pub const INTERRUPTIONS_MAX: u32 = 3;
/// A document may be empty for so long before that is reported.
pub const EMPTY_REPORT: Duration = Duration::from_secs(60);
/// The longest pause before a repeat.
pub const BACKOFF_MAX: Duration = Duration::from_secs(7200);
/// A job that meets nothing but an ill service for so long fails.
pub const ILL_MAX: Duration = Duration::from_secs(24 * 3600);
/// Between two looks at a document that somebody has open for writing.
const WRITER_PAUSE: Duration = Duration::from_secs(5);
/// Between two looks at a document that only an event is to change. Not every file system tells of events.
const LONG: Duration = Duration::from_secs(600);
/// What an interrupted job is told.
const WENT_DOWN: &str = "the monitor or the machine went down while the job ran";

/// What is known of a waiting document.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waiting {
    /// Whether it was renamed in, as far as an event told, and so is whole at once.
    whole: bool,
    /// Its place in the queue when it came, from 1.
    accepted: u64,
    /// It is not looked at before this.
    look_at: Option<Instant>,
    /// Until then it keeps its place while it settles, and those behind it wait.
    goes_first: Option<Instant>,
    /// Its own `not-before`.
    not_before: Option<Wall>,
    /// What it looked like at the last look, and since when.
    seen: Option<(Meta, Instant)>,
}

/// Whether a document counts yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It is whole.
    Ready,
    /// It may be whole later; it has been put off.
    NotYet,
    /// As before, and it has been so long enough that the person should be told.
    Overdue,
}

/// Both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The monotonic one, for pauses.
    pub instant: Instant,
    /// The wall clock, for what stands in documents.
    pub wall: Wall,
}

/// What is to be done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A cancelled job: publish that, and if its agent or check runs, end it first.
    Withdraw(JobId),
    /// See what an interrupted job has left.
    Recover(Box<Claim>),
    /// Run the job's check.
    Check(Box<Claim>),
    /// Start the job's agent, once its document counts and nobody holds it.
    Start(JobId),
    /// Wait until then, or until something rings.
    Wait(Until),
}

/// The end of a wait; without one, a ring ends it.
pub type Until = Option<Instant>;

impl Now {
    /// When the monotonic clock will say that it is so late, as far as nobody sets the other one.
    pub fn at(self, wall: Wall) -> Instant {
        self.instant + wall.since(self.wall)
    }
}

/// All jobs of a project that are not finished with, in order: a cache of its directories. Each is one of two,
/// and those that were begun are in the row of the table of states that their claim says.
#[derive(Clone, Debug, Default)]
pub struct Jobs {
    /// What is known of the documents of those that wait.
    pub waiting: BTreeMap<JobId, Waiting>,
    /// The claims of those that were begun. A map makes room for eleven at once, and a claim is large.
    pub begun: BTreeMap<JobId, Box<Claim>>,
    /// The job whose agent or check runs just now.
    pub attended: Option<JobId>,
    /// Jobs with a cancel mark.
    pub cancelled: BTreeSet<JobId>,
    /// Jobs with a hold mark.
    pub held: BTreeSet<JobId>,
}

/// The next step. `closed` is until when no agent may be started, as the board said.
pub fn decide(jobs: &Jobs, closed: Option<Until>, now: Now) -> Step {
    // Before all others the one that runs: their results may not be writable just now.
    let mut ids = jobs.attended.iter().chain(&jobs.cancelled);
    if let Some(id) = ids.find(|id| jobs.cancelled.contains(*id) && jobs.has(id)) {
        return Step::Withdraw(id.clone());
    }
    if jobs.attended.is_some() {
        return Step::Wait(None);
    }
    let mut begun = jobs.begun.values();
    if let Some(claim) = begun.clone().find(|claim| says_running(claim)) {
        return Step::Recover(claim.clone());
    }
    // A job that was begun keeps its place at the head, and its project waits for it.
    if let Some(claim) = begun.next() {
        let due = claim.suspended.as_ref().and_then(|why| why.retry_at);
        return match (due.filter(|at| *at > now.wall), closed) {
            (Some(at), _) => Step::Wait(Some(now.at(at))),
            (None, Some(until)) => Step::Wait(until),
            _ if claim.checking => Step::Check(claim.clone()),
            _ if jobs.held.contains(&claim.job_id) => Step::Wait(None),
            _ => Step::Start(claim.job_id.clone()),
        };
    }
    match (jobs.first(now), closed) {
        (Ok(id), None) => Step::Start(id.clone()),
        (Ok(_), Some(until)) | (Err(until), _) => Step::Wait(until),
    }
}

/// Whether a claim says that its agent runs. Where nobody attends that agent, the job was interrupted: the
/// daemon or the machine went down, or the start came to nothing.
pub fn says_running(claim: &Claim) -> bool {
    !claim.checking && claim.suspended.is_none()
}

impl Jobs {
    /// Whether a job is known, and not finished with.
    pub fn has(&self, id: &JobId) -> bool {
        self.waiting.contains_key(id) || self.begun.contains_key(id)
    }

    /// The claim of a job that was begun.
    pub fn claim(&self, id: &JobId) -> Option<&Claim> {
        self.begun.get(id).map(Box::as_ref)
    }

    /// A job is begun, or is further than it was.
    pub fn set(&mut self, claim: Claim) {
        self.waiting.remove(&claim.job_id);
        self.begun.insert(claim.job_id.clone(), claim.into());
    }

    /// Forgets a job: it is finished with, or its document is gone.
    pub fn remove(&mut self, id: &JobId) {
        self.waiting.remove(id);
        self.begun.remove(id);
    }

    /// Takes a whole scan over: what waited and is gone is dropped, what is new is added, what is known of
    /// the rest is kept. Returns what is new, and what is gone.
    pub fn replace(&mut self, scanned: BTreeSet<JobId>) -> (Vec<JobId>, Vec<JobId>) {
        let known = self.waiting.keys();
        let gone: Vec<JobId> = known.filter(|id| !scanned.contains(*id)).cloned().collect();
        gone.iter().for_each(|id| self.remove(id));
        let mut new = Vec::from_iter(scanned);
        new.retain(|id| !self.has(id) && self.note(id.clone(), false));
        (new, gone)
    }

    /// A document has appeared or changed; that of a job that was begun matters no more. Returns whether
    /// it is new.
    pub fn note(&mut self, id: JobId, whole: bool) -> bool {
        if self.begun.contains_key(&id) {
            return false;
        }
        let old = self.waiting.get(&id);
        let accepted = old.map_or(self.waiting.len() as u64 + 1, |old| old.accepted);
        let standing = Waiting {
            whole,
            accepted,
            goes_first: old.and_then(|old| old.goes_first),
            ..Waiting::default()
        };
        self.waiting.insert(id, standing).is_none()
    }

    /// Puts a waiting job off; others go before it.
    pub fn put_off(&mut self, id: &JobId, look_at: Until, not_before: Option<Wall>) {
        if let Some(standing) = self.waiting.get_mut(id) {
            (standing.look_at, standing.not_before) = (look_at, not_before);
            standing.goes_first = None;
        }
    }

    /// The first waiting job that may go, or when one may.
    fn first(&self, now: Now) -> Result<&JobId, Until> {
        let mut until: Until = None;
        let free = self.waiting.iter();
        for (id, standing) in free.filter(|(id, _)| !self.held.contains(*id)) {
            let at = standing.not_before.map(|at| now.at(at));
            let Some(at) = at.max(standing.look_at).filter(|at| *at > now.instant) else {
                return Ok(id);
            };
            until = Some(until.map_or(at, |until| until.min(at)));
            if standing.goes_first.is_some_and(|end| end > now.instant) {
                break;
            }
        }
        Err(until)
    }

    /// The place that a job had in the queue when it came, from 1.
    pub fn accepted_at(&self, id: &JobId) -> u64 {
        self.waiting.get(id).map_or(1, |standing| standing.accepted)
    }

    /// Whether a document as it looks now counts (SPEC 3): whole when renamed in, else unchanged for
    /// `settle`; never while somebody writes it; never while empty.
    pub fn readiness(
        &mut self,
        id: &JobId,
        meta: &Meta,
        writer: bool,
        settle: Duration,
        now: Now,
    ) -> Readiness {
        use Readiness::{NotYet, Overdue, Ready};
        let Some(standing) = self.waiting.get_mut(id) else {
            return NotYet;
        };
        let before = standing.seen.filter(|(seen, _)| seen == meta);
        let (_, since) = *standing.seen.insert(before.unwrap_or((*meta, now.instant)));
        let unchanged = now.instant.saturating_duration_since(since);
        // A modification time of long ago settles it at once, as at the daemon's start; one of the
        // future says nothing, and then the monotonic clock decides.
        let quiet = unchanged.max(now.wall.since(meta.mtime()));
        let is_empty = meta.size == 0;
        let is_overdue = (is_empty || writer) && unchanged >= EMPTY_REPORT;
        let pause = match standing.whole {
            // The event of its first write will bring it back; until then only a word is due.
            _ if is_overdue && is_empty => LONG,
            _ if is_empty => EMPTY_REPORT - unchanged,
            // Not every file system tells when it is closed.
            _ if writer => WRITER_PAUSE,
            false if quiet < settle => settle - quiet,
            _ => return Ready,
        };
        standing.look_at = Some(now.instant + pause);
        let end = standing.goes_first.unwrap_or(now.instant + settle);
        standing.goes_first = Some(end).filter(|_| !is_empty && !writer);
        if is_overdue { Overdue } else { NotYet }
    }
}

/// What follows an attempt, an interruption or a check.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// The job is done; it completed unless there is a fault.
    Publish,
    /// The check is to prove the agent's word.
    Check,
    /// The job keeps its claim, and goes on later: at a time, or when nobody holds its agent.
    Suspend(Suspension),
}

fn suspension(fault: &Fault, retry_at: Option<Wall>, afresh: bool) -> Suspension {
    Suspension {
        kind: fault.kind,
        error: fault.error.clone(),
        retry_at,
        afresh,
    }
}

fn has_sessions(protocol: Protocol) -> bool {
    dialect(protocol).sessions != Sessions::None
}

/// Decides what follows an attempt (SPEC 7), and counts what it costs the job. `others_answered` says
/// whether the service has answered another job of that agent since this job's last fault.
pub fn after_attempt(
    verdict: &Verdict,
    claim: &mut Claim,
    policy: &Policy,
    others_answered: bool,
    now: Wall,
) -> Next {
    let fault = match verdict {
        None if policy.check.is_some() => return Next::Check,
        None => return Next::Publish,
        Some(fault) => fault,
    };
    let suspend = |retry_at, afresh| Some(Next::Suspend(suspension(fault, retry_at, afresh)));
    let inherited = claim.inherited.as_ref().map(|from| &from.session_id);
    let is_reply = inherited.is_some() && inherited == claim.session_id.as_ref();
    // Takes one of the job's retries, if one is left: when the job may be repeated.
    let mut charge = || {
        let at = now.plus(backoff(claim.retries));
        let has_left = claim.retries < policy.retries;
        claim.retries += u32::from(has_left);
        has_left.then_some(at)
    };
    let next = match fault.kind.course() {
        // What continues another job says nothing without that one's session.
        _ if fault.session_unknown && is_reply => None,
        _ if fault.session_unknown && claim.resumed => suspend(Some(now), true),
        Course::Hold if !is_of_service(fault.kind) => suspend(None, false),
        // A service that answers other jobs is ill for this one only, which then pays with its retries.
        Course::Hold if others_answered && charge().is_none() => None,
        Course::Hold => suspend(None, false).filter(|_| !is_ill_too_long(claim, now)),
        // A session that was to begin with a start that failed does not exist.
        Course::Retry => charge().and_then(|at| suspend(Some(at), !claim.resumed)),
        Course::Resume if has_sessions(policy.agent.protocol) => {
            charge().and_then(|at| suspend(Some(at), false))
        }
        Course::Resume | Course::End => None,
    };
    next.unwrap_or(Next::Publish)
}

/// Whether the service is ill, rather than closed to us. The cause may be in this very job, so no job waits for
/// the end of an illness without a limit.
fn is_of_service(kind: ErrorKind) -> bool {
    use ErrorKind::{Network, Overloaded, RateLimited};
    matches!(kind, Network | Overloaded | RateLimited)
}

/// When the job's last attempt ended, if it was a fault. Asked before the present attempt is in the claim.
pub fn fault_before(claim: &Claim) -> Option<Wall> {
    let last = claim.attempts.last()?;
    let end = last.started_at.plus(last.duration());
    last.error_kind.map(|_| end)
}

/// Whether a job met nothing but an ill service for too long.
fn is_ill_too_long(claim: &Claim, now: Wall) -> bool {
    let ill = claim.attempts.iter().rev();
    let ill = ill.take_while(|attempt| attempt.error_kind.is_some_and(is_of_service));
    ill.last()
        .is_some_and(|first| now.since(first.started_at) >= ILL_MAX)
}

/// The pause before the n-th repeat (from 0): 30 s, 2 min, 8 min …, at most 2 h.
pub fn backoff(retries: u32) -> Duration {
    Duration::from_secs(30 * 4_u64.pow(retries.min(4))).min(BACKOFF_MAX)
}

/// Decides what follows an interruption of a job whose output holds no final result, and counts it,
/// unless a person asked for it. The fault says so.
pub fn after_interruption(claim: &mut Claim, policy: &Policy, now: Wall) -> (Next, Fault) {
    claim.interruptions += u32::from(!claim.stopped);
    claim.stopped = false;
    let count = claim.interruptions;
    let afresh = match policy.on_interrupt {
        _ if count > INTERRUPTIONS_MAX => None,
        OnInterrupt::Rerun => Some(true),
        OnInterrupt::Resume => has_sessions(claim.protocol).then_some(false),
        OnInterrupt::Fail => None,
    };
    let error = match afresh {
        Some(_) => WENT_DOWN.to_owned(),
        None => format!("{WENT_DOWN}; job-monitor retry runs it again"),
    };
    let fault = Fault::new(ErrorKind::Interrupted, error);
    let suspend = |afresh| Next::Suspend(suspension(&fault, Some(now), afresh));
    let next = afresh.map_or(Next::Publish, suspend);
    (next, fault)
}

/// What becomes of a claim whose agent never ran, because the daemon went down or the start failed: the
/// job stands where it stood before. `None`: it waits again.
pub fn undone(mut claim: Claim, now: Wall) -> Option<Claim> {
    let fault = Fault::new(ErrorKind::Interrupted, WENT_DOWN);
    claim.starts -= 1;
    claim.suspended = Some(suspension(&fault, Some(now), !claim.resumed));
    (claim.starts > 0).then_some(claim)
}

/// The last check, if it did not succeed.
fn failed_check(claim: &Claim) -> Option<&Check> {
    claim.checks.last().filter(|last| last.exit_code != Some(0))
}

/// Decides what follows the check that the claim counts already. The fault is told where it did not
/// succeed.
pub fn after_check(claim: &Claim, policy: &Policy, now: Wall) -> (Next, Option<Fault>) {
    let Some(check) = failed_check(claim) else {
        return (Next::Publish, None);
    };
    let command = policy.check.as_deref().unwrap_or_default().join(" ");
    let how = how(check, policy.check_timeout);
    let said = check.output.trim().lines().last();
    let said = said.map_or(String::new(), |line| format!(": {line}"));
    let error = format!("the check `{command}` {how}{said}");
    let fault = Fault::new(ErrorKind::CheckFailed, error);
    let next = match claim.checks.len() as u64 > u64::from(policy.check_rounds) {
        true => Next::Publish,
        false => Next::Suspend(suspension(&fault, Some(now), false)),
    };
    (next, Some(fault))
}

/// How a command that was allowed so long ended, in words.
pub fn how(ran: &Check, limit: Duration) -> String {
    match (ran.exit_code, ran.signal) {
        (Some(code), _) => format!("failed with exit status {code}"),
        _ if ran.duration_seconds >= limit.as_secs_f64() => {
            format!("was ended, since it took longer than {}", human(limit))
        }
        (None, signal) => format!("was ended by signal {}", signal.unwrap_or_default()),
    }
}

/// Makes a claim that of the job's next start: in the session of the one before, or of the job that it
/// continues, unless there is none to go on with. `session` is the name of a new one. Returns what the agent
/// is told of the start before, where it must know of that.
pub fn begin(claim: &mut Claim, policy: &Policy, session: String) -> Option<String> {
    let (agent, suspended) = (&policy.agent, claim.suspended.take());
    let sessions = dialect(agent.protocol).sessions;
    let is_other = claim.protocol != agent.protocol;
    let is_afresh = suspended.as_ref().is_some_and(|why| why.afresh || is_other);
    claim.resumed = sessions != Sessions::None && !is_afresh && claim.session_id.is_some();
    let failed = failed_check(claim);
    let sent_back = failed.map(|check| {
        let command = policy.check.as_deref().unwrap_or_default().join(" ");
        plan::sent_back(&command, &how(check, policy.check_timeout), &check.output)
    });
    let because = match suspended {
        _ if !claim.resumed => sent_back,
        Some(why) if why.kind == ErrorKind::CheckFailed => sent_back,
        Some(why) => Some(plan::ended(why.kind)),
        // A reply is told nothing: its document is what the person says.
        None => None,
    };
    if !claim.resumed {
        let is_chosen = matches!(sessions, Sessions::Chosen | Sessions::Proved);
        claim.session_id = is_chosen.then_some(session);
    }
    claim.starts += 1;
    claim.agent.clone_from(&agent.name);
    (claim.protocol, claim.process) = (agent.protocol, None);
    claim.stopped = false;
    because
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALL: Wall = Wall(1_795_173_825_000);
    const SETTLE: Duration = Duration::from_millis(200);

    fn id(name: &str) -> JobId {
        JobId::parse(&format!("job-20260130-143000-{name}")).unwrap()
    }

    fn at(start: Instant, after: Duration) -> Now {
        Now {
            instant: start + after,
            wall: WALL.plus(after),
        }
    }

    fn ids(names: &[&str]) -> BTreeSet<JobId> {
        names.iter().map(|name| id(name)).collect()
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A document of so many bytes, written so long after [`WALL`].
    fn meta(size: u64, written: Duration) -> Meta {
        Meta {
            size,
            mtime_ns: i128::from(WALL.plus(written).0) * 1_000_000,
            mode: 0o100_600,
            ..Meta::default()
        }
    }

    /// One waiting job and a clock for both times.
    struct Desk {
        jobs: Jobs,
        job: JobId,
        start: Instant,
    }

    impl Desk {
        fn new(whole: bool) -> Desk {
            let mut jobs = Jobs::default();
            jobs.note(id("a"), whole);
            Desk {
                jobs,
                job: id("a"),
                start: Instant::now(),
            }
        }

        fn look(&mut self, meta: &Meta, writer: bool, after: Duration) -> Readiness {
            let now = at(self.start, after);
            self.jobs.readiness(&self.job, meta, writer, SETTLE, now)
        }

        /// How long after the start the job is due again.
        fn due(&self) -> Option<Duration> {
            match self.jobs.first(at(self.start, Duration::ZERO)) {
                Err(until) => until.map(|at| at - self.start),
                Ok(_) => None,
            }
        }
    }

    #[test]
    fn a_document_that_was_renamed_in_is_whole_at_once() {
        let mut desk = Desk::new(true);
        assert_eq!(desk.look(&meta(1, ms(0)), false, ms(0)), Readiness::Ready);
    }

    #[test]
    fn a_document_written_in_place_counts_once_it_has_settled() {
        let mut desk = Desk::new(false);
        assert_eq!(desk.look(&meta(1, ms(0)), false, ms(50)), Readiness::NotYet);
        assert_eq!(desk.due(), Some(SETTLE));
        assert_eq!(desk.look(&meta(1, ms(0)), false, SETTLE), Readiness::Ready);
    }

    #[test]
    fn what_is_still_being_written_begins_to_settle_anew() {
        let mut desk = Desk::new(false);
        desk.look(&meta(1, ms(0)), false, ms(0));
        let longer = meta(2, ms(190));
        assert_eq!(desk.look(&longer, false, SETTLE), Readiness::NotYet);
        assert_eq!(desk.due(), Some(ms(390)));
        assert_eq!(desk.look(&longer, false, ms(390)), Readiness::Ready);
    }

    #[test]
    fn a_document_of_long_ago_needs_not_settle_again() {
        let mut desk = Desk::new(false);
        let mut old = meta(1, ms(0));
        old.mtime_ns -= 3_600_000_000_000;
        assert_eq!(desk.look(&old, false, ms(0)), Readiness::Ready);
    }

    #[test]
    fn a_modification_time_of_the_future_is_settled_by_the_other_clock() {
        let mut desk = Desk::new(false);
        let future = meta(1, Duration::from_secs(3600));
        assert_eq!(desk.look(&future, false, ms(0)), Readiness::NotYet);
        assert_eq!(desk.look(&future, false, ms(199)), Readiness::NotYet);
        assert_eq!(desk.look(&future, false, ms(200)), Readiness::Ready);
    }

    #[test]
    fn nobody_s_half_written_document_counts_however_it_came() {
        for whole in [true, false] {
            let mut desk = Desk::new(whole);
            let text = meta(1, ms(0));
            assert_eq!(desk.look(&text, true, ms(0)), Readiness::NotYet);
            assert_eq!(desk.due(), Some(WRITER_PAUSE));
            let late = Duration::from_secs(3600);
            assert_eq!(desk.look(&text, true, late), Readiness::Overdue);
            assert_eq!(desk.due(), Some(late + WRITER_PAUSE));
            let closed = late + WRITER_PAUSE;
            assert_eq!(desk.look(&text, false, closed), Readiness::Ready);
        }
    }

    #[test]
    fn an_empty_document_never_counts_and_is_told_after_a_minute() {
        for whole in [true, false] {
            let mut desk = Desk::new(whole);
            let empty = meta(0, ms(0));
            assert_eq!(desk.look(&empty, false, ms(0)), Readiness::NotYet);
            assert_eq!(desk.due(), Some(EMPTY_REPORT));
            assert_eq!(desk.look(&empty, false, EMPTY_REPORT), Readiness::Overdue);
            // Its first write is an event, and then everything is forgotten.
            let job = desk.job.clone();
            assert!(!desk.jobs.note(job, false));
            let late = 3 * EMPTY_REPORT;
            assert_eq!(desk.look(&meta(1, late), false, late), Readiness::NotYet);
            let settled = late + SETTLE;
            assert_eq!(desk.look(&meta(1, late), false, settled), Readiness::Ready);
        }
    }

    #[test]
    fn the_first_is_the_least_that_is_neither_held_nor_put_off() {
        let start = Instant::now();
        let now = at(start, ms(0));
        let mut jobs = Jobs::default();
        jobs.replace(ids(&["c", "a", "b"]));
        assert_eq!(jobs.first(now), Ok(&id("a")));
        jobs.held = ids(&["a"]);
        assert_eq!(jobs.first(now), Ok(&id("b")));
        jobs.readiness(&id("b"), &meta(1, ms(0)), true, SETTLE, now);
        assert_eq!(jobs.first(now), Ok(&id("c")));
        jobs.remove(&id("c"));
        assert_eq!(jobs.first(now), Err(Some(start + WRITER_PAUSE)));
        assert_eq!(jobs.first(at(start, WRITER_PAUSE)), Ok(&id("b")));
        // A held job that is put off wakes nobody, and neither does one without a document.
        jobs.held = ids(&["a", "b"]);
        assert_eq!(jobs.first(now), Err(None));
        let readiness = jobs.readiness(&id("x"), &meta(1, ms(0)), false, SETTLE, now);
        assert_eq!(readiness, Readiness::NotYet);
    }

    #[test]
    fn those_behind_wait_for_the_first_to_settle_and_no_longer() {
        let start = Instant::now();
        let mut jobs = Jobs::default();
        jobs.replace(ids(&["a", "b"]));
        let mut look = |name: &str, written, after| {
            let now = at(start, after);
            jobs.readiness(&id(name), &meta(1, written), false, SETTLE, now);
            jobs.note(id(name), false);
            jobs.readiness(&id(name), &meta(1, written), false, SETTLE, now);
            jobs.first(now).cloned()
        };
        assert!(look("a", ms(0), ms(0)).is_err());
        // It is written again and again: the others have waited for long enough.
        assert!(look("a", ms(190), ms(190)).is_err());
        assert_eq!(look("a", ms(200), ms(200)), Ok(id("b")));
    }

    #[test]
    fn others_go_before_a_job_that_is_not_to_start_yet() {
        let now = at(Instant::now(), ms(0));
        let mut jobs = Jobs::default();
        jobs.replace(ids(&["a", "b"]));
        let tomorrow = WALL.plus(Duration::from_secs(86_400));
        jobs.put_off(&id("a"), None, Some(tomorrow));
        assert_eq!(jobs.first(now), Ok(&id("b")));
        jobs.remove(&id("b"));
        assert_eq!(jobs.first(now), Err(Some(now.at(tomorrow))));
    }

    #[test]
    fn a_scan_drops_what_is_gone_and_forgets_nothing_of_the_rest() {
        let now = at(Instant::now(), ms(0));
        let mut jobs = Jobs::default();
        jobs.replace(ids(&["a", "b"]));
        jobs.readiness(&id("a"), &meta(1, ms(0)), true, SETTLE, now);
        let (new, gone) = jobs.replace(ids(&["a", "c"]));
        assert_eq!((new, gone), (vec![id("c")], vec![id("b")]));
        assert_eq!(jobs.first(now), Ok(&id("c")));
    }

    #[test]
    fn a_job_keeps_the_place_that_it_had_when_it_came() {
        let mut jobs = Jobs::default();
        jobs.replace(ids(&["b", "c"]));
        assert!(jobs.note(id("d"), true));
        assert!(!jobs.note(id("b"), false));
        jobs.remove(&id("c"));
        let places = ["b", "d"].map(|name| jobs.accepted_at(&id(name)));
        assert_eq!((places, jobs.waiting.len()), ([1, 3], 2));
    }

    fn policy(retries: u32, on_interrupt: OnInterrupt) -> Policy {
        Policy {
            retries,
            on_interrupt,
            ..Policy::standard()
        }
    }

    fn claim(protocol: Protocol) -> Claim {
        Claim {
            job_id: id("a"),
            protocol,
            starts: 1,
            ..Claim::default()
        }
    }

    fn follows(fault: Fault, claim: &mut Claim, retries: u32, others: bool) -> Next {
        let mut policy = policy(retries, OnInterrupt::Resume);
        policy.agent.protocol = claim.protocol;
        after_attempt(&Some(fault), claim, &policy, others, WALL)
    }

    /// When a suspended job goes on, and whether afresh.
    fn goes_on(next: &Next) -> Option<(Option<Wall>, bool)> {
        match next {
            Next::Suspend(suspension) => Some((suspension.retry_at, suspension.afresh)),
            _ => None,
        }
    }

    #[test]
    fn every_kind_of_fault_leads_to_what_its_course_says() {
        for &kind in ErrorKind::ALL {
            for protocol in [Protocol::Claude, Protocol::Plain] {
                let suspended = |retry_at, afresh| {
                    Next::Suspend(Suspension {
                        kind,
                        error: "why".into(),
                        retry_at,
                        afresh,
                    })
                };
                let later = Some(WALL.plus(backoff(0)));
                let expected = match kind.course() {
                    Course::Hold => suspended(None, false),
                    Course::Retry => suspended(later, true),
                    Course::Resume if protocol == Protocol::Claude => suspended(later, false),
                    Course::Resume | Course::End => Next::Publish,
                };
                let mut claim = claim(protocol);
                let next = follows(Fault::new(kind, "why"), &mut claim, 1, false);
                assert_eq!(next, expected, "{kind}");
                let costs = matches!(kind.course(), Course::Retry | Course::Resume);
                let is_charged = costs && matches!(next, Next::Suspend(_));
                assert_eq!(claim.retries, u32::from(is_charged), "{kind}");
            }
        }
        let mut policy = policy(0, OnInterrupt::Resume);
        let done = |policy: &Policy| {
            let claim = &mut claim(Protocol::Claude);
            after_attempt(&None, claim, policy, false, WALL)
        };
        assert_eq!(done(&policy), Next::Publish);
        policy.check = Some(vec!["true".into()]);
        assert_eq!(done(&policy), Next::Check);
    }

    #[test]
    fn an_ill_service_costs_a_job_only_what_others_did_not_meet() {
        let ill = || Fault::new(ErrorKind::Network, "");
        let mut claim = claim(Protocol::Claude);
        for others in [false, true, false, true, false] {
            let next = follows(ill(), &mut claim, 2, others);
            assert!(matches!(next, Next::Suspend(_)), "{next:?}");
        }
        assert_eq!(claim.retries, 2);
        let failed = Next::Publish;
        assert_eq!(follows(ill(), &mut claim, 2, true), failed);
        // Not for ever, though.
        let attempt = |began: Wall, kind| crate::job::Attempt {
            started_at: began,
            duration_seconds: 1.0,
            error_kind: Some(kind),
            ..crate::job::Attempt::default()
        };
        let long_ago = Wall(WALL.0 - ILL_MAX.as_millis() as i64);
        claim.attempts = vec![
            attempt(long_ago, ErrorKind::Overloaded),
            attempt(WALL, ErrorKind::Network),
        ];
        let over = WALL.plus(Duration::from_secs(1));
        assert_eq!(fault_before(&claim), Some(over));
        assert_eq!(follows(ill(), &mut claim, 2, false), failed);
        let limit = attempt(long_ago, ErrorKind::UsageLimit);
        claim.attempts.insert(1, limit);
        let next = follows(ill(), &mut claim, 2, false);
        assert!(goes_on(&next).is_some(), "{next:?}");
    }

    #[test]
    fn a_passing_fault_is_met_so_often_and_no_more() {
        let mut claim = claim(Protocol::Claude);
        for kind in [ErrorKind::SpawnFailed, ErrorKind::Silent] {
            let next = follows(Fault::new(kind, ""), &mut claim, 2, false);
            assert!(matches!(next, Next::Suspend(_)), "{next:?}");
        }
        let next = follows(Fault::new(ErrorKind::Signal, ""), &mut claim, 2, false);
        assert_eq!(next, Next::Publish);
    }

    #[test]
    fn a_session_that_is_not_known_is_left_once_and_costs_no_retry() {
        let unknown = Fault {
            session_unknown: true,
            ..Fault::new(ErrorKind::AgentError, "")
        };
        let mut claim = claim(Protocol::Claude);
        claim.resumed = true;
        let next = follows(unknown.clone(), &mut claim, 0, false);
        assert_eq!(goes_on(&next), Some((Some(WALL), true)), "{next:?}");
        claim.resumed = false;
        let next = follows(unknown.clone(), &mut claim, 9, false);
        assert_eq!((next, claim.retries), (Next::Publish, 0));
        // Afresh, a reply would know nothing of what it replies to.
        let (session_id, cost_usd) = ("S".into(), 0.0);
        let inherited = crate::record::Inherited {
            session_id,
            cost_usd,
        };
        (claim.resumed, claim.inherited) = (true, Some(inherited));
        claim.session_id = Some("S".into());
        let next = follows(unknown.clone(), &mut claim, 9, false);
        assert_eq!((next, claim.retries), (Next::Publish, 0));
        // A session of its own, which it began meanwhile, is one like any other.
        claim.session_id = Some("T".into());
        let next = follows(unknown, &mut claim, 9, false);
        assert_eq!(goes_on(&next), Some((Some(WALL), true)), "{next:?}");
    }

    #[test]
    fn the_pauses_grow_fourfold_up_to_two_hours() {
        let pauses = [0, 1, 2, 3, 4, 5, u32::MAX].map(|n| backoff(n).as_secs());
        assert_eq!(pauses, [30, 120, 480, 1920, 7200, 7200, 7200]);
    }

    #[test]
    fn an_interruption_is_followed_by_what_the_settings_want() {
        use OnInterrupt::{Fail, Rerun, Resume};
        for (protocol, on_interrupt, afresh) in [
            (Protocol::Claude, Resume, Some(false)),
            (Protocol::Claude, Rerun, Some(true)),
            (Protocol::Claude, Fail, None),
            (Protocol::Plain, Resume, None),
            (Protocol::Plain, Rerun, Some(true)),
            (Protocol::Plain, Fail, None),
        ] {
            let mut claim = claim(protocol);
            // An orderly stop does not count.
            claim.stopped = true;
            for interruptions in 0..=4 {
                let policy = policy(9, on_interrupt);
                let (next, _) = after_interruption(&mut claim, &policy, WALL);
                assert_eq!(claim.interruptions, interruptions);
                let afresh = afresh.filter(|_| interruptions <= INTERRUPTIONS_MAX);
                let wanted = afresh.map(|afresh| (Some(WALL), afresh));
                assert_eq!(goes_on(&next), wanted, "{next:?}");
                match next {
                    Next::Suspend(why) => assert_eq!(why.kind, ErrorKind::Interrupted),
                    other => assert_eq!(other, Next::Publish),
                }
            }
        }
    }

    #[test]
    fn a_check_that_fails_sends_the_agent_back_so_often_and_is_told_once() {
        let policy = Policy {
            check: Some(vec!["make".into(), "test".into()]),
            check_rounds: 1,
            ..Policy::standard()
        };
        let check = |exit_code| Check {
            started_at: WALL,
            duration_seconds: 1.0,
            exit_code: Some(exit_code),
            signal: None,
            output: "1 failed\n".into(),
        };
        let mut claim = claim(Protocol::Claude);
        claim.session_id = Some("s".into());
        claim.checks.push(check(2));
        let (next, fault) = after_check(&claim, &policy, WALL);
        let error = "the check `make test` failed with exit status 2: 1 failed";
        assert_eq!(fault.map(|fault| fault.error).as_deref(), Some(error));
        let Next::Suspend(suspension) = next else {
            panic!("{next:?}");
        };
        claim.suspended = Some(suspension);
        let because = |claim: &Claim| begin(&mut claim.clone(), &policy, "new".into()).unwrap();
        assert!(because(&claim).contains("1 failed"));
        // Once the agent was told and fell over, it is that which it must know.
        let fell_over = Fault::new(ErrorKind::Signal, "");
        claim.suspended = Some(super::suspension(&fell_over, None, false));
        assert_eq!(because(&claim), plan::ended(ErrorKind::Signal));
        claim.checks.push(check(2));
        let (next, _) = after_check(&claim, &policy, WALL);
        assert_eq!(next, Next::Publish);
        claim.checks.push(check(0));
        let (next, fault) = after_check(&claim, &policy, WALL);
        assert_eq!((next, fault), (Next::Publish, None));
    }

    #[test]
    fn a_begun_job_keeps_the_head_and_a_cancelled_one_goes_at_once() {
        let now = at(Instant::now(), ms(0));
        let mut jobs = Jobs::default();
        jobs.replace(ids(&["a", "c"]));
        let mut begun = claim(Protocol::Claude);
        begun.job_id = id("b");
        begun.suspended = Some(Suspension {
            kind: ErrorKind::UsageLimit,
            error: String::new(),
            retry_at: None,
            afresh: false,
        });
        jobs.set(begun.clone());
        assert_eq!(decide(&jobs, None, now), Step::Start(id("b")));
        let closed = Some(now.at(WALL.plus(SETTLE)));
        assert_eq!(decide(&jobs, Some(closed), now), Step::Wait(closed));
        jobs.cancelled = ids(&["c"]);
        assert_eq!(decide(&jobs, Some(closed), now), Step::Withdraw(id("c")));
        begun.suspended = None;
        jobs.set(begun);
        jobs.attended = Some(id("b"));
        assert_eq!(decide(&jobs, None, now), Step::Withdraw(id("c")));
        // What runs is ended first: a result of another one that cannot be written must not keep it alive.
        jobs.cancelled = ids(&["a", "b"]);
        assert_eq!(decide(&jobs, None, now), Step::Withdraw(id("b")));
    }
}
