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

/// The longest pause between two looks at a document that somebody has open for writing.
const WRITER_PAUSE: Duration = Duration::from_secs(5);

/// For what only an event can change.
const LONG: Duration = Duration::from_secs(24 * 3600);

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

    /// Puts a job off, for a reason that has nothing to do with its document.
    pub fn put_off(&mut self, id: &JobId, until: Instant) {
        if let Some(standing) = self.jobs.get_mut(id) {
            standing.not_before = Some(until);
        }
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
    Duration::from_secs(30 * 4_u64.pow(retries.min(4))).min(Duration::from_secs(7200))
}

/// What is done with a job that was running when daemon or machine went down, and whose output
/// holds no final result. `claim.interruptions` counts this one already.
pub fn after_interruption(claim: &Claim, policy: &Policy, now: Wall) -> Next {
    let too_often = claim.interruptions > INTERRUPTIONS_MAX;
    let error = |what: &str| format!("the monitor went down while the job ran{what}");
    let suspend = |afresh| {
        Next::Suspend(Suspension {
            kind: ErrorKind::Interrupted,
            error: error(""),
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
        0 | 1 => "the monitor went down while the job ran".to_owned(),
        n => format!("the monitor went down {n} times while the job ran"),
    };
    Fault {
        kind: ErrorKind::Interrupted,
        error,
        resets_at: None,
        session_unknown: false,
    }
}
