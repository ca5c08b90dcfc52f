//! One attempt: the files it writes to, the process, the clocks that watch it, and what it said.

use crate::agent::plan::Plan;
use crate::agent::{Case, Ended, Ending, Fault, Fold, Report, TEXT_MAX, Verdict, dialect, verdict};
use crate::board;
use crate::error::Result;
use crate::files;
use crate::job::log_name;
use crate::process::{Agent, Launch, Token};
use crate::project::Policy;
use crate::record::{Claim, Files};
use crate::spool::Spool;
use crate::time::Wall;
use crate::witness;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
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

/// An attempt that is over.
#[derive(Debug, Default)]
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

impl Finished {
    /// The end of an attempt for which no process was started.
    pub fn without_run(fault: Fault) -> Finished {
        Finished {
            verdict: Some(fault),
            ..Finished::default()
        }
    }
}

/// Starts an attempt whose claim is durable. The outer error is ours (a log that cannot be
/// made), the inner one the agent's.
pub fn start(
    spool: &Spool,
    claim: &Claim,
    plan: &Plan<'_>,
    program: &Path,
    token: &Token,
) -> Result<io::Result<(Agent, Output)>> {
    let logs = spool.logs()?;
    let log = |ending| logs.create_file(&log_name(&claim.job_id, claim.starts, ending));
    // Standard output's comes last: as long as it is missing, recovery knows that nothing ran.
    let (err, out) = (log("err")?, log(plan.dialect.ending)?);
    let (stdin, root) = (files::in_memory(plan.prompt.as_bytes())?, spool.root()?);
    let launch = Launch {
        program,
        argv: &plan.argv,
        env: &plan.env,
        directory: &root,
        streams: [stdin.as_fd(), out.as_fd(), err.as_fd()],
    };
    // It may have ended before we go on, so its time begins here.
    let (started, spawned) = (Instant::now(), Agent::spawn(&launch, token));
    let mut output = Output::new(claim, out, Some(err));
    output.started = started;
    Ok(spawned.map(|agent| (agent, output)))
}

/// Since when a running agent is in each of the states that have a limit.
#[derive(Clone, Copy, Debug)]
struct Clocks {
    /// Its start, moved forward by the time for which its service was ill.
    started: Instant,
    /// How much it had written when it last wrote, and when that was.
    heard: (u64, Instant),
    /// Since when it stays although its last result is there.
    final_since: Option<Instant>,
    /// Since when it waits by itself for the network.
    offline_since: Option<Instant>,
    /// Since when it repeats a request.
    ill_since: Option<Instant>,
}

impl Clocks {
    /// Takes in what a look finds: how much is written, whether that is final, and what it says.
    fn take(&mut self, now: Instant, written: u64, is_final: bool, fold: &Fold) {
        if written != self.heard.0 {
            self.heard = (written, now);
        }
        self.final_since = is_final.then(|| self.final_since.unwrap_or(now));
        self.offline_since = fold.offline.then(|| self.offline_since.unwrap_or(now));
        match fold.repeats {
            Some(_) => self.ill_since = self.ill_since.or(Some(now)),
            // It was answered at last: its service was ill, and that time is not the job's.
            None => self.started += self.ill_since.take().map_or(Duration::ZERO, |at| now - at),
        }
    }

    /// The limit that is reached, if one is.
    fn end(&self, now: Instant, policy: &Policy) -> Option<Ending> {
        let reached = |since: Option<Instant>, limit| since.is_some_and(|at| now - at >= limit);
        // After the last word silence is no fault.
        let silent = Some(self.heard.1).filter(|_| self.final_since.is_none());
        let silence_max = policy.silence_timeout.unwrap_or(Duration::MAX);
        let limits = [
            (reached(self.final_since, policy.linger), Ending::Linger),
            (reached(Some(self.started), policy.timeout), Ending::Timeout),
            (reached(self.offline_since, OFFLINE_MAX), Ending::Offline),
            (self.heard.0 > policy.max_output, Ending::OutputLimit),
            (reached(silent, silence_max), Ending::Silent),
        ];
        let first = limits.into_iter().find(|(is_reached, _)| *is_reached);
        first.map(|(_, end)| end)
    }
}

/// What an attempt writes, as it is followed while it grows.
#[derive(Debug)]
pub struct Output {
    out: File,
    err: Option<File>,
    fold: Fold,
    files: Files,
    offset: u64,
    started: Instant,
}

impl Output {
    /// What the claim's last start has written or will write.
    pub fn new(claim: &Claim, out: File, err: Option<File>) -> Output {
        Output {
            out,
            err,
            fold: Fold::new(dialect(claim.protocol), claim.resumed),
            files: claim.files.clone(),
            offset: 0,
            started: Instant::now(),
        }
    }

    /// Attends an agent that was just started to its end; where `sweeps`, what it leaves is swept. `look` is
    /// called now and then with what was heard, and may ask for the end.
    pub fn attend(
        mut self,
        mut agent: Agent,
        policy: &Policy,
        sweeps: bool,
        look: &mut dyn FnMut(&Agent, &Report) -> Option<Ending>,
    ) -> Finished {
        let (mut slice, mut by, started) = (FIRST_LOOK, Ending::Itself, self.started);
        let mut clocks = Clocks {
            started,
            heard: (0, started),
            final_since: None,
            offline_since: None,
            ill_since: None,
        };
        while !agent.wait(slice) {
            // An unreadable log counts as one that ends here: the verdict will miss the result and
            // say so.
            let is_behind = self.hear(HEAR_MAX).unwrap_or(false);
            slice = if is_behind { Duration::ZERO } else { LOOK };
            let (now, fold) = (Instant::now(), &self.fold);
            let is_final = !is_behind && fold.is_final();
            let written = size_of(&self.out) + self.err.as_ref().map_or(0, size_of);
            clocks.take(now, written, is_final, fold);
            let end = look(&agent, &fold.report).or_else(|| clocks.end(now, policy));
            if let Some(end) = end {
                agent.stop(policy.grace);
                by = end;
                break;
            }
        }
        let duration = started.elapsed();
        let (exit, leftovers) = agent.reap(sweeps);
        let (code, signal) = (exit.code(), exit.signal());
        self.conclude(Ended { code, signal, by }, leftovers, duration)
    }

    /// The end of an attempt that nobody attended to its end and that ran so long, by what it has written.
    ///
    /// # Errors
    /// When it cannot be read: nobody knows then whether it holds a result.
    pub fn read_back(mut self, ran: Duration) -> io::Result<Finished> {
        self.hear(size_of(&self.out))?;
        let (by, none) = (Ending::Interrupted, Ended::default());
        Ok(self.conclude(Ended { by, ..none }, 0, ran))
    }

    /// Reads what has come since, at most so much; whether there may be more. Output without events is
    /// read at the end.
    fn hear(&mut self, max: u64) -> io::Result<bool> {
        if self.fold.dialect.read.is_none() {
            return Ok(false);
        }
        let end = self.offset.saturating_add(max);
        let mut piece = vec![0; PIECE];
        while self.offset < end {
            let length = self.out.read_at(&mut piece, self.offset)?;
            if length == 0 {
                return Ok(false);
            }
            self.fold.feed(&piece[..length]);
            self.offset += length as u64;
        }
        Ok(true)
    }

    /// Reads what is left of the output, and judges the attempt.
    fn conclude(mut self, ended: Ended, leftovers: u32, duration: Duration) -> Finished {
        let (size, is_plain) = (size_of(&self.out), self.fold.dialect.read.is_none());
        let tail = |err| files::tail(err, Path::new("standard error"), STDERR_MAX).ok();
        let stderr = self.err.as_ref().and_then(tail).unwrap_or_default();
        if is_plain {
            self.fold.feed(excerpt(&self.out, size).as_bytes());
        }
        // What came after the end is not the agent's: a survivor may write for ever. Of an output that is
        // too long no more than another piece is read: the rest may take minutes.
        let max = match ended.by {
            Ending::OutputLimit => HEAR_MAX,
            _ => u64::MAX,
        };
        let _ = self.hear(size.saturating_sub(self.offset).min(max));
        let session = self.fold.report.session_id.clone().unwrap_or_default();
        let witness = self.files.witness.as_ref();
        if let Some(told) = witness.and_then(|dir| witness::read(dir.as_ref(), &session)) {
            self.fold.witness(&told);
        }
        self.fold.finish();
        if let Some(path) = &self.files.answer {
            self.fold
                .answer(&answer(path.as_ref(), &self.files.answer_before));
        }
        // Some agents write their errors where their answers go.
        let is_mute = is_plain && stderr.trim().is_empty();
        let text = &self.fold.report.text;
        let verdict = verdict::judge(&Case {
            ended: &ended,
            fold: &self.fold,
            stderr: if is_mute { text } else { &stderr },
            require_answer: self.files.require_answer,
            now: Wall::now(),
        });
        Finished {
            ended,
            verdict,
            report: self.fold.report,
            stderr,
            leftovers,
            duration,
        }
    }
}

/// What a log file holds in its first `size` bytes; of more than [`TEXT_MAX`], head and tail. What
/// cannot be read is left out, since a result must be written all the same.
fn excerpt(file: &File, size: u64) -> String {
    let text = |from: u64, to: u64| {
        let bytes = files::read_range(file, from, to - from).unwrap_or_default();
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

/// The answer in a file of its own; blank if that looks as it did before the attempt.
fn answer(path: &Path, before: &str) -> String {
    let read = || {
        let file = files::open_path(path).ok()??;
        let meta = file.metadata().ok()?;
        let is_new = meta.is_file() && board::stamp(path.to_owned()).seen != before;
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

    #[test]
    fn an_answer_counts_that_was_not_there_before_the_start() {
        let path = std::env::temp_dir().join(format!("job-monitor-answer-{}", std::process::id()));
        std::fs::write(&path, "Done.").unwrap();
        let before = board::stamp(path.clone()).seen;
        assert_eq!(answer(&path, ""), "Done.", "there was none");
        assert_eq!(answer(&path, &before), "", "that of an earlier job");
        std::fs::write(&path, "Done again.").unwrap();
        assert_eq!(answer(&path, &before), "Done again.");
        std::fs::remove_file(path).unwrap();
    }

    /// Clocks of an agent that began so many seconds ago, and whose other clocks say the same.
    fn clocks(now: Instant, ago: [Option<u64>; 3], written: u64, silent: u64) -> Clocks {
        let [run, final_since, offline_since] =
            ago.map(|secs| secs.map(|secs| now - Duration::from_secs(secs)));
        Clocks {
            started: run.unwrap_or(now),
            heard: (written, now - Duration::from_secs(silent)),
            final_since,
            offline_since,
            ill_since: None,
        }
    }

    /// Lines keep coming from an agent that waits by itself for the network, so silence is no measure of it.
    #[test]
    fn an_agent_that_waits_for_the_network_is_ended_after_five_minutes() {
        let (policy, now) = (Policy::standard(), Instant::now());
        let end = |offline| clocks(now, [Some(600), None, offline], 1, 0).end(now, &policy);
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
        let now = Instant::now() + Duration::from_secs(1 << 21);
        let long = Some(1 << 20);
        let end = |ago, written| clocks(now, ago, written, 1 << 20).end(now, &policy);
        assert_eq!(end([None, None, None], 10), Some(Ending::Silent));
        assert_eq!(end([None, None, None], 11), Some(Ending::OutputLimit));
        assert_eq!(end([None, None, long], 11), Some(Ending::Offline));
        assert_eq!(end([long, None, long], 11), Some(Ending::Timeout));
        assert_eq!(end([long, long, long], 11), Some(Ending::Linger));
        // After the last word silence is no fault.
        assert_eq!(end([None, Some(0), None], 10), None);
    }
}
