//! One attempt: the files it writes to, the process, the clocks that watch it, and what it said.

use crate::agent::plan::{Files, Plan};
use crate::agent::{Case, Dialect, Ended, Ending, Fold, Report, TEXT_MAX, Verdict, verdict};
use crate::error::Result;
use crate::files;
use crate::job::JobId;
use crate::process::{Agent, Launch, Token};
use crate::project::Policy;
use crate::spool::{LogFiles, Spool};
use crate::time::Wall;
use crate::witness;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// The first look at a running agent, late enough that the view's write does not compete with
/// the agent's own start, early enough for a person's next command.
const FIRST_LOOK: Duration = Duration::from_millis(20);
/// Between later looks: how late a cancel, a clock or new output is noticed.
const LOOK: Duration = Duration::from_millis(200);
/// So much of standard error goes into a result (SPEC 8).
const STDERR_MAX: u64 = 64 << 10;
/// Output is read in pieces of this size.
const PIECE: usize = 64 << 10;
/// So much of it is taken in between two looks: an agent that writes faster than it is read must
/// not keep us from clocks, caps and the person's wishes.
const HEAR_MAX: u64 = 8 << 20;
/// So long an agent may wait by itself for the network (SPEC 6b).
const OFFLINE_MAX: Duration = Duration::from_secs(300);
/// The clocks of file systems are so coarse, and those of servers so wrong.
const CLOCK_SLACK: Duration = Duration::from_secs(2);

/// A started attempt.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub agent: Agent,
    logs: LogFiles,
    listener: Listener,
    started: Instant,
}

/// An attempt that is over.
#[derive(Debug)]
pub struct Finished {
    /// How the process ended.
    pub ended: Ended,
    /// What that and the output amount to.
    pub verdict: Verdict,
    /// What the output told.
    pub report: Report,
    /// The end of its standard error.
    pub stderr: String,
    /// Processes swept.
    pub leftovers: u32,
    /// From start to end, on the monotonic clock.
    pub duration: Duration,
}

/// Starts an attempt whose claim is durable. The outer error is ours (a log that cannot be
/// made), the inner one the agent's.
pub fn start(
    spool: &Spool,
    id: &JobId,
    number: u32,
    program: &Path,
    plan: &Plan<'_>,
    token: &Token,
) -> Result<io::Result<Running>> {
    let logs = spool.create_logs(id, number, plan.dialect.ending)?;
    let stdin = files::in_memory(plan.prompt.as_bytes())?;
    let root = spool.root()?;
    let launch = Launch {
        program,
        argv: &plan.argv,
        env: &plan.env,
        directory: &root,
        streams: [&stdin, &logs.out, &logs.err],
    };
    let listener = Listener::new(plan.dialect, plan.resumed, plan.files.clone());
    let started = Instant::now();
    Ok(Agent::spawn(&launch, token).map(|agent| Running {
        agent,
        logs,
        listener,
        started,
    }))
}

impl Running {
    /// Attends the attempt to its end. `look` is called now and then with what was heard, and may ask for
    /// the end.
    pub fn attend(
        self,
        policy: &Policy,
        mut look: impl FnMut(&Agent, &Report) -> Option<Ending>,
    ) -> Finished {
        let (agent, logs, mut listener) = (self.agent, self.logs, self.listener);
        let mut slice = FIRST_LOOK;
        let mut heard = (0, self.started);
        let (mut final_since, mut offline_since) = (None, None);
        // When a request began to be repeated, and for how long those were that were answered at last:
        // their service was ill, and that time is not the job's.
        let (mut ill_since, mut ill) = (None::<Instant>, Duration::ZERO);
        let by = loop {
            if agent.wait(slice) {
                break Ending::Itself;
            }
            // An unreadable log counts as one that ends here: the verdict will miss the result and
            // say so.
            let is_behind = listener.hear(&logs.out, HEAR_MAX).unwrap_or(false);
            slice = if is_behind { Duration::ZERO } else { LOOK };
            let (now, fold) = (Instant::now(), &listener.fold);
            let written = size_of(&logs.out) + size_of(&logs.err);
            if written != heard.0 {
                heard = (written, now);
            }
            final_since = (!is_behind && fold.is_final()).then(|| final_since.unwrap_or(now));
            offline_since = fold.offline.then(|| offline_since.unwrap_or(now));
            let age = |since: Instant| now.duration_since(since);
            if fold.repeats.is_some() {
                ill_since = ill_since.or(Some(now));
            } else {
                ill += ill_since.take().map_or(Duration::ZERO, age);
            }
            let ages = Ages {
                run: age(self.started).saturating_sub(ill),
                silence: age(heard.1),
                is_final: final_since.map(age),
                offline: offline_since.map(age),
            };
            let end = look(&agent, &fold.report).or_else(|| ages.end(written, policy));
            if let Some(end) = end {
                agent.stop(policy.grace);
                break end;
            }
        };
        let duration = self.started.elapsed();
        let (exit, leftovers) = agent.reap(true);
        let (code, signal) = (exit.code, exit.signal);
        let ended = Ended { code, signal, by };
        let finished = listener.conclude(&logs.out, Some(&logs.err), ended, duration);
        Finished {
            leftovers,
            ..finished
        }
    }
}

/// For how long what has held of a running agent.
#[derive(Clone, Copy, Debug, Default)]
struct Ages {
    /// Less what its service has cost.
    run: Duration,
    silence: Duration,
    /// It stays although its last result is there.
    is_final: Option<Duration>,
    /// It waits by itself for the network.
    offline: Option<Duration>,
}

impl Ages {
    /// The limit that is reached, if one is, when so much is written.
    fn end(self, written: u64, policy: &Policy) -> Option<Ending> {
        let is_over = |age: Option<Duration>, limit| age.is_some_and(|age| age >= limit);
        let silence_max = policy.silence_timeout.unwrap_or(Duration::MAX);
        // After the last word silence is no fault.
        let is_silent = self.is_final.is_none() && self.silence >= silence_max;
        let limits = [
            (is_over(self.is_final, policy.linger), Ending::Linger),
            (self.run >= policy.timeout, Ending::Timeout),
            (is_over(self.offline, OFFLINE_MAX), Ending::Offline),
            (written > policy.max_output, Ending::OutputLimit),
            (is_silent, Ending::Silent),
        ];
        let mut reached = limits.into_iter().filter(|(is_reached, _)| *is_reached);
        reached.next().map(|(_, end)| end)
    }
}

/// What an attempt that nobody attended to its end has written. `resumed` tells whether it went on in an
/// old session.
///
/// # Errors
/// When its output cannot be read: nobody knows then whether it holds a result.
pub fn read_back(
    out: &File,
    err: Option<&File>,
    dialect: &'static Dialect,
    resumed: bool,
    files: Files,
    duration: Duration,
) -> io::Result<Finished> {
    let mut listener = Listener::new(dialect, resumed, files);
    listener.hear(out, size_of(out))?;
    let ended = Ended {
        by: Ending::Interrupted,
        ..Ended::default()
    };
    Ok(listener.conclude(out, err, ended, duration))
}

impl Finished {
    /// An attempt whose process the system did not start.
    pub fn never_ran(verdict: Verdict) -> Finished {
        Finished {
            ended: Ended::default(),
            verdict,
            report: Report::default(),
            stderr: String::new(),
            leftovers: 0,
            duration: Duration::ZERO,
        }
    }
}

/// Follows the output as it grows.
#[derive(Debug)]
struct Listener {
    fold: Fold,
    files: Files,
    offset: u64,
}

impl Listener {
    fn new(dialect: &'static Dialect, resumed: bool, files: Files) -> Listener {
        Listener {
            fold: Fold::new(dialect, resumed),
            files,
            offset: 0,
        }
    }

    /// Reads what has come since, at most so much; whether there may be more. Output without events is
    /// read at the end.
    fn hear(&mut self, out: &File, max: u64) -> io::Result<bool> {
        if self.fold.dialect.read.is_none() {
            return Ok(false);
        }
        let end = self.offset.saturating_add(max);
        let mut piece = vec![0; PIECE];
        while self.offset < end {
            let length = out.read_at(&mut piece, self.offset)?;
            if length == 0 {
                return Ok(false);
            }
            self.fold.feed(&piece[..length]);
            self.offset += length as u64;
        }
        Ok(true)
    }

    fn conclude(
        mut self,
        out: &File,
        err: Option<&File>,
        ended: Ended,
        duration: Duration,
    ) -> Finished {
        let (size, is_plain) = (size_of(out), self.fold.dialect.read.is_none());
        let stderr = err.map(|err| files::tail(err, Path::new("standard error"), STDERR_MAX));
        let stderr = stderr.and_then(Result::ok).unwrap_or_default();
        if is_plain {
            self.fold.feed(excerpt(out, size).as_bytes());
        }
        // What came after the end is not the agent's: a survivor may write for ever. Of an output that is
        // too long no more than another piece is read: the rest may take minutes.
        let rest = size.saturating_sub(self.offset);
        let is_too_long = ended.by == Ending::OutputLimit;
        let most = if is_too_long { HEAR_MAX } else { rest };
        let _ = self.hear(out, rest.min(most));
        let session = self.fold.report.session_id.clone().unwrap_or_default();
        let witness = self.files.witness.as_ref();
        if let Some(told) = witness.and_then(|dir| witness::read(dir, &session)) {
            self.fold.witness(&told);
        }
        self.fold.finish();
        if let Some(path) = &self.files.answer {
            self.fold.answer(&answer(path, duration));
        }
        // Some agents write their errors where their answers go.
        let is_mute = is_plain && stderr.trim().is_empty();
        let text = &self.fold.report.text;
        let words = if is_mute { text } else { &stderr };
        let verdict = verdict::judge(&Case {
            ended: &ended,
            fold: &self.fold,
            stderr: words,
            require_answer: self.files.require_answer,
            now: Wall::now(),
        });
        Finished {
            ended,
            verdict,
            report: self.fold.report,
            stderr,
            leftovers: 0,
            duration,
        }
    }
}

/// What a log file holds in its first `size` bytes; of more than [`TEXT_MAX`], head and tail. What
/// cannot be read is left out, since a result must be written all the same.
fn excerpt(file: &File, size: u64) -> String {
    let text = |from: u64, to: u64| {
        let bytes = files::read_range(file, from, to, to - from).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    };
    if size <= TEXT_MAX as u64 {
        return text(0, size);
    }
    let half = TEXT_MAX as u64 / 2;
    let (head, tail) = (text(0, half), text(size - half, size));
    // The cuts may go through characters.
    let head = head.trim_end_matches(char::REPLACEMENT_CHARACTER);
    let tail = tail.trim_start_matches(char::REPLACEMENT_CHARACTER);
    format!("{head}\n[… {} bytes left out …]\n{tail}", size - 2 * half)
}

/// The answer in a file of its own; blank if the attempt, which ran so long, did not write it.
fn answer(path: &Path, ran: Duration) -> String {
    let read = || {
        let file = files::open_path(path).ok()??;
        let meta = file.metadata().ok()?;
        let age = meta.modified().ok()?.elapsed().unwrap_or_default();
        let is_new = meta.is_file() && age <= ran + CLOCK_SLACK;
        is_new.then(|| excerpt(&file, meta.len()))
    };
    read().unwrap_or_default()
}

fn size_of(file: &File) -> u64 {
    file.metadata().map_or(0, |meta| meta.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines keep coming from an agent that waits by itself for the network, so silence is no measure of it.
    #[test]
    fn an_agent_that_waits_for_the_network_is_ended_after_five_minutes() {
        let policy = Policy::standard();
        let end = |offline: Option<u64>| {
            let offline = offline.map(Duration::from_secs);
            let run = Duration::from_secs(600);
            Ages {
                run,
                offline,
                ..Ages::default()
            }
            .end(1, &policy)
        };
        assert_eq!(end(None), None);
        assert_eq!(end(Some(299)), None);
        assert_eq!(end(Some(300)), Some(Ending::Offline));
    }

    #[test]
    fn of_several_limits_the_one_that_says_most_counts() {
        let policy = Policy {
            max_output: 10,
            ..Policy::standard()
        };
        let silence = Duration::from_secs(1 << 20);
        let long = Some(silence);
        let ages = Ages {
            silence,
            ..Ages::default()
        };
        assert_eq!(ages.end(10, &policy), Some(Ending::Silent));
        assert_eq!(ages.end(11, &policy), Some(Ending::OutputLimit));
        let offline = Ages {
            offline: long,
            ..ages
        };
        assert_eq!(offline.end(11, &policy), Some(Ending::Offline));
        let late = Ages {
            run: silence,
            ..offline
        };
        assert_eq!(late.end(11, &policy), Some(Ending::Timeout));
        assert_eq!(
            Ages {
                is_final: long,
                ..late
            }
            .end(11, &policy),
            Some(Ending::Linger)
        );
        // After the last word silence is no fault.
        let is_final = Some(Duration::ZERO);
        assert_eq!(Ages { is_final, ..ages }.end(10, &policy), None);
    }
}
