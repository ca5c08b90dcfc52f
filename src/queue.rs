//! Which job is next, and what follows an attempt: decisions over plain data, with the time as
//! an argument. Neither files nor clocks nor threads are known here.

use crate::agent::{Fault, Verdict};
use crate::job::{Course, ErrorKind, JobId, Meta, Status};
use crate::project::{OnInterrupt, Policy, Protocol};
use crate::record::{Claim, Suspension};
use crate::time::Wall;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A job that was interrupted so often is not started again: a job that brings the daemon down
/// must not do so for ever (SPEC 7).
pub const INTERRUPTIONS_MAX: u32 = 3;

/// A document may be empty for so long before that is reported.
pub const EMPTY_REPORT: Duration = Duration::from_secs(60);

/// The longest pause before a repeat.
pub const BACKOFF_MAX: Duration = Duration::from_secs(7200);

/// The longest pause between two looks at a document that somebody has open for writing.
const WRITER_PAUSE: Duration = Duration::from_secs(5);

/// For what an event will change, where the file system tells of events.
const LONG: Duration = Duration::from_secs(600);

/// How a document came into the spool, as far as an event told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Renamed in: whole at once.
    Whole,
    /// Written in place, linked, or found by a scan: whole once it has settled.
    Unknown,
}

/// The waiting jobs in order, with what is known of each: a cache of the directory.
#[derive(Clone, Debug, Default)]
pub struct Waiting {
    jobs: BTreeMap<JobId, Standing>,
    held: BTreeSet<JobId>,
}

/// What is known of one waiting document.
#[derive(Clone, Copy, Debug)]
struct Standing {
    arrival: Arrival,
    /// Its place in the queue when it came, from 1.
    accepted: u64,
    /// Not to be looked at before this.
    not_before: Option<Instant>,
    /// What it looked like when it had not settled, and since when.
    seen: Option<(Meta, Instant)>,
    told: bool,
}

/// Whether a document counts yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It is whole.
    Ready,
    /// It may be whole later; it has been put off.
    NotYet,
    /// As before, and it has been so long enough that the person should be told, once.
    Overdue,
}

impl Waiting {
    /// Takes a whole scan over: what is gone is dropped, what is new is added, what is known of
    /// the rest is kept.
    pub fn replace(&mut self, scanned: BTreeSet<JobId>) {
        self.jobs.retain(|id, _| scanned.contains(id));
        for (at, id) in scanned.into_iter().enumerate() {
            let accepted = at as u64 + 1;
            self.jobs.entry(id).or_insert(Standing {
                accepted,
                ..Standing::NEW
            });
        }
    }

    /// A document has appeared or changed. Returns whether it is new.
    pub fn note(&mut self, id: JobId, arrival: Arrival) -> bool {
        let known = self.jobs.get(&id).map(|standing| standing.accepted);
        let accepted = known.unwrap_or(self.jobs.len() as u64 + 1);
        self.jobs.insert(
            id,
            Standing {
                arrival,
                accepted,
                ..Standing::NEW
            },
        );
        known.is_none()
    }

    /// A document is gone, or its job is no longer waiting. Returns whether it was there.
    pub fn remove(&mut self, id: &JobId) -> bool {
        self.jobs.remove(id).is_some()
    }

    /// Whether the job is waiting.
    pub fn contains(&self, id: &JobId) -> bool {
        self.jobs.contains_key(id)
    }

    /// The jobs that carry a hold mark.
    pub fn set_held(&mut self, held: BTreeSet<JobId>) {
        self.held = held;
    }

    /// Puts a job off; others go before it.
    pub fn put_off(&mut self, id: &JobId, until: Instant) {
        if let Some(standing) = self.jobs.get_mut(id) {
            standing.not_before = Some(until);
        }
    }

    /// The first job that is neither held nor put off.
    pub fn first(&self, now: Instant) -> Option<&JobId> {
        let due = |standing: &Standing| standing.not_before.is_none_or(|at| at <= now);
        self.jobs
            .iter()
            .find(|(id, standing)| due(standing) && !self.held.contains(*id))
            .map(|(id, _)| id)
    }

    /// When the next job that was put off is due again.
    pub fn next_due(&self) -> Option<Instant> {
        let free = self.jobs.iter().filter(|(id, _)| !self.held.contains(*id));
        free.filter_map(|(_, standing)| standing.not_before).min()
    }

    /// The number of waiting jobs.
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether no job waits.
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// All waiting jobs in order.
    pub fn ids(&self) -> impl Iterator<Item = &JobId> {
        self.jobs.keys()
    }

    /// The place that a job had in the queue when it came, from 1.
    pub fn accepted_at(&self, id: &JobId) -> u64 {
        self.jobs.get(id).map_or(1, |standing| standing.accepted)
    }

    /// Whether a document as it looks now counts (SPEC 3): whole when renamed in, else unchanged
    /// for `settle`; never while somebody writes it; never while empty.
    pub fn readiness(
        &mut self,
        id: &JobId,
        meta: &Meta,
        writer: bool,
        settle: Duration,
        now: Instant,
        wall: Wall,
    ) -> Readiness {
        let Some(standing) = self.jobs.get_mut(id) else {
            return Readiness::NotYet;
        };
        let since = match standing.seen {
            Some((seen, since)) if seen == *meta => since,
            _ => now,
        };
        standing.seen = Some((*meta, since));
        let unchanged = now.saturating_duration_since(since);
        if meta.size == 0 {
            // The event of its first write will bring it back; until then only a word is due.
            let overdue = unchanged >= EMPTY_REPORT && !standing.told;
            standing.told |= overdue;
            standing.not_before = Some(if standing.told {
                now + LONG
            } else {
                since + EMPTY_REPORT
            });
            return if overdue {
                Readiness::Overdue
            } else {
                Readiness::NotYet
            };
        }
        if writer {
            // Not every file system tells when it is closed.
            standing.not_before =
                Some(now + unchanged.clamp(settle.min(WRITER_PAUSE), WRITER_PAUSE));
            return Readiness::NotYet;
        }
        // A modification time of long ago settles it at once, as at the daemon's start; one of the
        // future says nothing, and then the monotonic clock decides.
        let quiet = unchanged.max(wall.since(meta.mtime()));
        if standing.arrival == Arrival::Whole || quiet >= settle {
            return Readiness::Ready;
        }
        standing.not_before = Some(now + (settle - quiet));
        Readiness::NotYet
    }
}

impl Standing {
    const NEW: Standing = Standing {
        arrival: Arrival::Unknown,
        accepted: 1,
        not_before: None,
        seen: None,
        told: false,
    };
}

/// What follows an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Next {
    /// The job is done; publish this.
    Publish(Status),
    /// The job keeps its claim, and goes on later.
    Suspend(Suspension),
    /// As before, and nobody may use the agent until then; `None` is until a person or a repair
    /// lifts it.
    Hold(Suspension, Option<Wall>),
}

/// Decides what follows an attempt (SPEC 7). `claim` counts the attempt already among its starts,
/// its `retries` not yet.
pub fn after_attempt(verdict: &Verdict, claim: &Claim, policy: &Policy, now: Wall) -> Next {
    let fault = match verdict {
        Verdict::Completed => return Next::Publish(Status::Completed),
        Verdict::Fault(fault) => fault,
    };
    let afresh = fault.session_unknown;
    let suspension = |retry_at| Suspension {
        kind: fault.kind,
        error: fault.error.clone(),
        retry_at,
        afresh,
    };
    if fault.session_unknown && claim.resumed {
        return Next::Suspend(suspension(Some(now)));
    }
    match fault.kind.course() {
        Course::Hold => Next::Hold(suspension(None), fault.resets_at),
        Course::Retry if claim.retries < policy.retries => {
            Next::Suspend(suspension(Some(now.plus(backoff(claim.retries)))))
        }
        _ if fault.kind == ErrorKind::Cancelled => Next::Publish(Status::Cancelled),
        Course::Retry | Course::End => Next::Publish(Status::Failed),
    }
}

/// The pause before the n-th repeat (from 0): 30 s, 2 min, 8 min …, at most 2 h.
pub fn backoff(retries: u32) -> Duration {
    Duration::from_secs(30 * 4_u64.pow(retries.min(4))).min(BACKOFF_MAX)
}

/// What is done with a job that was running when daemon or machine went down, and whose output
/// holds no final result. `claim.interruptions` counts this one already.
pub fn after_interruption(claim: &Claim, policy: &Policy, now: Wall) -> Next {
    let too_often = claim.interruptions > INTERRUPTIONS_MAX;
    let suspend = |afresh| {
        Next::Suspend(Suspension {
            kind: ErrorKind::Interrupted,
            error: "the monitor or the machine went down while the job ran".to_owned(),
            retry_at: Some(now),
            afresh,
        })
    };
    match policy.on_interrupt {
        _ if too_often => Next::Publish(Status::Failed),
        OnInterrupt::Fail => Next::Publish(Status::Failed),
        OnInterrupt::Rerun => suspend(true),
        OnInterrupt::Resume if claim.protocol == Protocol::Plain => Next::Publish(Status::Failed),
        OnInterrupt::Resume => suspend(false),
    }
}

/// The fault of an interruption that ends the job.
pub fn interrupted(claim: &Claim) -> Fault {
    let error = match claim.interruptions {
        0 | 1 => "the monitor or the machine went down while the job ran; job-monitor retry runs it again"
            .to_owned(),
        n => format!("the monitor or the machine went down {n} times while the job ran"),
    };
    Fault {
        kind: ErrorKind::Interrupted,
        error,
        resets_at: None,
        session_unknown: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::AgentSpec;

    const WALL: Wall = Wall(1_795_173_825_000);
    const SETTLE: Duration = Duration::from_millis(200);

    fn id(name: &str) -> JobId {
        JobId::parse(&format!("job-20260130-143000-{name}")).unwrap()
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
            uid: 0,
        }
    }

    /// One waiting job and a clock for both times.
    struct Desk {
        waiting: Waiting,
        job: JobId,
        start: Instant,
    }

    impl Desk {
        fn new(arrival: Arrival) -> Desk {
            let mut waiting = Waiting::default();
            waiting.note(id("a"), arrival);
            Desk {
                waiting,
                job: id("a"),
                start: Instant::now(),
            }
        }

        fn look(&mut self, meta: &Meta, writer: bool, after: Duration) -> Readiness {
            let (now, wall) = (self.start + after, WALL.plus(after));
            self.waiting
                .readiness(&self.job, meta, writer, SETTLE, now, wall)
        }

        /// How long after the start the job is due again.
        fn due(&self) -> Option<Duration> {
            self.waiting.next_due().map(|at| at - self.start)
        }
    }

    #[test]
    fn a_document_that_was_renamed_in_is_whole_at_once() {
        let mut desk = Desk::new(Arrival::Whole);
        assert_eq!(desk.look(&meta(1, ms(0)), false, ms(0)), Readiness::Ready);
    }

    #[test]
    fn a_document_written_in_place_counts_once_it_has_settled() {
        let mut desk = Desk::new(Arrival::Unknown);
        assert_eq!(desk.look(&meta(1, ms(0)), false, ms(50)), Readiness::NotYet);
        assert_eq!(desk.due(), Some(SETTLE));
        assert_eq!(desk.look(&meta(1, ms(0)), false, SETTLE), Readiness::Ready);
    }

    #[test]
    fn what_is_still_being_written_begins_to_settle_anew() {
        let mut desk = Desk::new(Arrival::Unknown);
        desk.look(&meta(1, ms(0)), false, ms(0));
        assert_eq!(
            desk.look(&meta(2, ms(190)), false, SETTLE),
            Readiness::NotYet
        );
        assert_eq!(desk.due(), Some(ms(390)));
        assert_eq!(
            desk.look(&meta(2, ms(190)), false, ms(390)),
            Readiness::Ready
        );
    }

    #[test]
    fn a_document_of_long_ago_needs_not_settle_again() {
        let mut desk = Desk::new(Arrival::Unknown);
        let mut old = meta(1, ms(0));
        old.mtime_ns -= 3_600_000_000_000;
        assert_eq!(desk.look(&old, false, ms(0)), Readiness::Ready);
    }

    #[test]
    fn a_modification_time_of_the_future_is_settled_by_the_other_clock() {
        let mut desk = Desk::new(Arrival::Unknown);
        let future = meta(1, Duration::from_secs(3600));
        assert_eq!(desk.look(&future, false, ms(0)), Readiness::NotYet);
        assert_eq!(desk.look(&future, false, ms(199)), Readiness::NotYet);
        assert_eq!(desk.look(&future, false, ms(200)), Readiness::Ready);
    }

    #[test]
    fn nobody_s_half_written_document_counts_however_it_came() {
        for arrival in [Arrival::Whole, Arrival::Unknown] {
            let mut desk = Desk::new(arrival);
            let text = meta(1, ms(0));
            assert_eq!(desk.look(&text, true, ms(0)), Readiness::NotYet);
            assert_eq!(desk.due(), Some(SETTLE));
            // The longer it lasts the less often it is looked at, within reason.
            assert_eq!(desk.look(&text, true, ms(3000)), Readiness::NotYet);
            assert_eq!(desk.due(), Some(ms(6000)));
            let late = Duration::from_secs(3600);
            assert_eq!(desk.look(&text, true, late), Readiness::NotYet);
            assert_eq!(desk.due(), Some(late + WRITER_PAUSE));
            assert_eq!(
                desk.look(&text, false, late + WRITER_PAUSE),
                Readiness::Ready
            );
        }
    }

    #[test]
    fn an_empty_document_never_counts_and_is_told_once_after_a_minute() {
        for arrival in [Arrival::Whole, Arrival::Unknown] {
            let mut desk = Desk::new(arrival);
            let empty = meta(0, ms(0));
            assert_eq!(desk.look(&empty, false, ms(0)), Readiness::NotYet);
            assert_eq!(desk.due(), Some(EMPTY_REPORT));
            assert_eq!(desk.look(&empty, false, EMPTY_REPORT), Readiness::Overdue);
            assert_eq!(
                desk.look(&empty, false, 2 * EMPTY_REPORT),
                Readiness::NotYet
            );
            // Its first write is an event, and then everything is forgotten.
            let job = desk.job.clone();
            assert!(!desk.waiting.note(job, Arrival::Unknown));
            let late = 3 * EMPTY_REPORT;
            assert_eq!(desk.look(&meta(1, late), false, late), Readiness::NotYet);
            let settled = late + SETTLE;
            assert_eq!(desk.look(&meta(1, late), false, settled), Readiness::Ready);
        }
    }

    #[test]
    fn a_job_that_does_not_wait_is_not_ready() {
        let mut waiting = Waiting::default();
        let now = Instant::now();
        let readiness = waiting.readiness(&id("a"), &meta(1, ms(0)), false, SETTLE, now, WALL);
        assert_eq!(readiness, Readiness::NotYet);
        assert!(waiting.is_empty());
    }

    #[test]
    fn the_first_is_the_least_that_is_neither_held_nor_put_off() {
        let now = Instant::now();
        let mut waiting = Waiting::default();
        waiting.replace(ids(&["c", "a", "b"]));
        assert_eq!(waiting.first(now), Some(&id("a")));
        waiting.set_held(ids(&["a"]));
        assert_eq!(waiting.first(now), Some(&id("b")));
        waiting.readiness(&id("b"), &meta(1, ms(0)), true, SETTLE, now, WALL);
        assert_eq!(waiting.first(now), Some(&id("c")));
        assert!(waiting.remove(&id("c")) && !waiting.remove(&id("c")));
        assert_eq!(waiting.first(now), None);
        assert_eq!(waiting.next_due(), Some(now + SETTLE));
        assert_eq!(waiting.first(now + SETTLE), Some(&id("b")));
        // A held job that is put off wakes nobody.
        waiting.set_held(ids(&["a", "b"]));
        assert_eq!(waiting.next_due(), None);
    }

    #[test]
    fn a_scan_drops_what_is_gone_and_forgets_nothing_of_the_rest() {
        let now = Instant::now();
        let mut waiting = Waiting::default();
        waiting.replace(ids(&["a", "b"]));
        waiting.readiness(&id("a"), &meta(1, ms(0)), true, SETTLE, now, WALL);
        waiting.replace(ids(&["a", "c"]));
        assert_eq!(
            waiting.ids().cloned().collect::<BTreeSet<_>>(),
            ids(&["a", "c"])
        );
        assert_eq!(waiting.first(now), Some(&id("c")));
        assert_eq!(waiting.next_due(), Some(now + SETTLE));
    }

    #[test]
    fn a_job_keeps_the_place_that_it_had_when_it_came() {
        let mut waiting = Waiting::default();
        waiting.replace(ids(&["b", "c"]));
        assert!(waiting.note(id("d"), Arrival::Whole));
        assert!(!waiting.note(id("b"), Arrival::Unknown));
        waiting.remove(&id("c"));
        let places = ["b", "d"].map(|name| waiting.accepted_at(&id(name)));
        assert_eq!((places, waiting.len()), ([1, 3], 2));
    }

    fn policy(retries: u32, on_interrupt: OnInterrupt) -> Policy {
        Policy {
            retries,
            on_interrupt,
            ..Policy::default()
        }
    }

    fn claim(protocol: Protocol) -> Claim {
        let agent = AgentSpec {
            protocol,
            ..policy(0, OnInterrupt::Resume).agent
        };
        let mut claim = Claim::new(id("a"), WALL, 1, String::new(), &agent);
        claim.starts = 1;
        claim
    }

    fn fault(kind: ErrorKind) -> Fault {
        Fault {
            kind,
            error: "why".into(),
            resets_at: None,
            session_unknown: false,
        }
    }

    fn follows(fault: Fault, claim: &Claim, retries: u32) -> Next {
        let policy = policy(retries, OnInterrupt::Resume);
        after_attempt(&Verdict::Fault(fault), claim, &policy, WALL)
    }

    #[test]
    fn every_kind_of_fault_leads_to_what_its_course_says() {
        let claim = claim(Protocol::Claude);
        for &kind in ErrorKind::ALL {
            let suspension = |retry_at| Suspension {
                kind,
                error: "why".into(),
                retry_at,
                afresh: false,
            };
            let expected = match kind.course() {
                Course::Hold => Next::Hold(suspension(None), None),
                Course::Retry => Next::Suspend(suspension(Some(WALL.plus(backoff(0))))),
                Course::End if kind == ErrorKind::Cancelled => Next::Publish(Status::Cancelled),
                Course::End => Next::Publish(Status::Failed),
            };
            assert_eq!(follows(fault(kind), &claim, 1), expected, "{kind}");
        }
        let policy = policy(0, OnInterrupt::Resume);
        let done = after_attempt(&Verdict::Completed, &claim, &policy, WALL);
        assert_eq!(done, Next::Publish(Status::Completed));
    }

    #[test]
    fn a_passing_fault_is_met_so_often_and_no_more() {
        let mut claim = claim(Protocol::Claude);
        for retries in 0..5 {
            claim.retries = retries;
            let next = follows(fault(ErrorKind::SpawnFailed), &claim, 2);
            match retries {
                0..2 => assert!(matches!(next, Next::Suspend(_)), "{next:?}"),
                _ => assert_eq!(next, Next::Publish(Status::Failed)),
            }
        }
    }

    #[test]
    fn a_limit_s_end_goes_into_the_hold_and_not_into_the_claim() {
        let until = Some(WALL.plus(Duration::from_secs(60)));
        let limit = Fault {
            resets_at: until,
            ..fault(ErrorKind::UsageLimit)
        };
        match follows(limit, &claim(Protocol::Claude), 0) {
            Next::Hold(suspension, end) => {
                assert_eq!((suspension.retry_at, end), (None, until));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_session_that_is_not_known_is_left_once_and_costs_no_retry() {
        let unknown = Fault {
            session_unknown: true,
            ..fault(ErrorKind::AgentError)
        };
        let mut claim = claim(Protocol::Claude);
        claim.resumed = true;
        match follows(unknown.clone(), &claim, 0) {
            Next::Suspend(suspension) => {
                assert_eq!((suspension.retry_at, suspension.afresh), (Some(WALL), true));
                // That is how the worker tells a repeat from this.
                assert_ne!(suspension.kind.course(), Course::Retry);
            }
            other => panic!("{other:?}"),
        }
        claim.resumed = false;
        assert_eq!(follows(unknown, &claim, 9), Next::Publish(Status::Failed));
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
            for interruptions in 1..=5 {
                claim.interruptions = interruptions;
                let next = after_interruption(&claim, &policy(9, on_interrupt), WALL);
                match afresh.filter(|_| interruptions <= INTERRUPTIONS_MAX) {
                    None => assert_eq!(next, Next::Publish(Status::Failed)),
                    Some(afresh) => match next {
                        Next::Suspend(suspension) => {
                            let went_on = (suspension.kind, suspension.retry_at, suspension.afresh);
                            assert_eq!(went_on, (ErrorKind::Interrupted, Some(WALL), afresh));
                        }
                        other => panic!("{other:?}"),
                    },
                }
            }
        }
    }

    #[test]
    fn an_interruption_that_ends_the_job_says_how_often_it_happened() {
        let mut claim = claim(Protocol::Claude);
        for (interruptions, words) in [(1, "went down while"), (4, "went down 4 times")] {
            claim.interruptions = interruptions;
            let fault = interrupted(&claim);
            assert_eq!(fault.kind, ErrorKind::Interrupted);
            assert!(fault.error.contains(words), "{}", fault.error);
        }
    }
}
