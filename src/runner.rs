//! One attempt: the files it writes to, the process, the clocks that watch it, and what it said.

use crate::agent::plan::Plan;
use crate::agent::{
    Case, Dialect, Ended, Ending, Fold, Report, TEXT_MAX, Verdict, dialect, verdict,
};
use crate::error::{Error, Result};
use crate::files;
use crate::job::JobId;
use crate::process::{Agent, Exit, Launch, SpawnFault, Token};
use crate::project::Policy;
use crate::spool::{LogFiles, Spool};
use crate::time::Wall;
use crate::witness;
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
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
    files: Files,
    resumed: bool,
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
) -> Result<std::result::Result<Running, SpawnFault>> {
    let logs = spool.create_logs(id, number, plan.dialect.ending)?;
    let stdin = memory_file(&plan.prompt)?;
    let root = spool.root()?;
    let argv: Vec<OsString> = plan.argv.iter().map(OsString::from).collect();
    let launch = Launch {
        program,
        argv: &argv,
        env: &plan.env,
        directory: &root,
        stdin: &stdin,
        stdout: &logs.out,
        stderr: &logs.err,
    };
    let get = |name: &str| {
        let found = plan.env.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| (*value).to_owned())
    };
    let files = Files {
        witness: plan
            .dialect
            .witness
            .and_then(|witness| (witness.below)(&get)),
        answer: plan.answer.clone(),
        require_answer: false,
    };
    let started = Instant::now();
    Ok(Agent::spawn(&launch, token).map(|agent| Running {
        agent,
        logs,
        files,
        resumed: plan.resumed,
        started,
    }))
}

/// A file in memory: whoever is started can read it as it likes, and nothing is left of it.
pub fn memory_file(text: &str) -> Result<File> {
    let failed = |e| Error::io("make", Path::new("standard input"), e);
    let file =
        File::from(memfd_create(c"input", MFdFlags::MFD_CLOEXEC).map_err(|e| failed(e.into()))?);
    file.write_all_at(text.as_bytes(), 0).map_err(failed)?;
    Ok(file)
}

impl Running {
    /// Attends the attempt to its end. `look` is called now and then with what was heard, and may ask for
    /// the end.
    pub fn attend(
        self,
        policy: &Policy,
        mut look: impl FnMut(&Agent, &Report) -> Option<Ending>,
    ) -> Finished {
        let Running {
            agent,
            logs,
            mut files,
            resumed,
            started,
        } = self;
        files.require_answer = policy.agent.require_answer;
        let mut listener = Listener {
            fold: Fold::new(dialect(policy.agent.protocol), resumed),
            files: &files,
            offset: 0,
        };
        let mut slice = FIRST_LOOK;
        let mut heard = (0, started);
        let (mut final_since, mut offline_since) = (None, None);
        let by = loop {
            if agent.wait(slice) {
                break Ending::Itself;
            }
            // An unreadable log counts as one that ends here: the verdict will miss the result and
            // say so.
            let is_behind = listener.hear(&logs.out, HEAR_MAX).unwrap_or(false);
            slice = if is_behind { Duration::ZERO } else { LOOK };
            let now = Instant::now();
            let written = size_of(&logs.out) + size_of(&logs.err);
            if written != heard.0 {
                heard = (written, now);
            }
            let fold = &listener.fold;
            final_since = (!is_behind && fold.is_final()).then(|| final_since.unwrap_or(now));
            offline_since = fold.offline.then(|| offline_since.unwrap_or(now));
            let over = |limit: Duration, since: Instant| now.duration_since(since) >= limit;
            let end = look(&agent, &fold.report).or_else(|| {
                match (final_since, policy.silence_timeout) {
                    (Some(since), _) if over(policy.linger, since) => Some(Ending::Linger),
                    _ if over(policy.timeout, started) => Some(Ending::Timeout),
                    _ if offline_since.is_some_and(|since| over(OFFLINE_MAX, since)) => {
                        Some(Ending::Offline)
                    }
                    _ if written > policy.max_output => Some(Ending::OutputLimit),
                    (None, Some(limit)) => over(limit, heard.1).then_some(Ending::Silent),
                    _ => None,
                }
            });
            if let Some(end) = end {
                agent.stop(policy.grace);
                break end;
            }
        };
        let duration = started.elapsed();
        let (exit, leftovers) = agent.reap();
        let (code, signal) = match exit {
            Exit::Code(code) => (Some(code), None),
            Exit::Signal(signal) => (None, Some(signal)),
        };
        let stderr =
            files::tail(&logs.err, Path::new(&logs.names[1]), STDERR_MAX).unwrap_or_default();
        listener.conclude(
            logs.out,
            Ended { code, signal, by },
            stderr,
            leftovers,
            duration,
        )
    }
}

/// What an attempt that nobody attended to its end has written. `resumed` tells whether it went on in an
/// old session.
///
/// # Errors
/// When its output cannot be read: nobody knows then whether it holds a result.
pub fn read_back(
    out: File,
    err: Option<&File>,
    dialect: &'static Dialect,
    resumed: bool,
    files: &Files,
    duration: Duration,
) -> io::Result<Finished> {
    let stderr = err.and_then(|err| files::tail(err, Path::new("standard error"), STDERR_MAX).ok());
    let ended = Ended {
        code: None,
        signal: None,
        by: Ending::Interrupted,
    };
    let mut listener = Listener {
        fold: Fold::new(dialect, resumed),
        files,
        offset: 0,
    };
    listener.hear(&out, size_of(&out))?;
    Ok(listener.conclude(out, ended, stderr.unwrap_or_default(), 0, duration))
}

impl Finished {
    /// An attempt whose process the system did not start.
    pub fn never_ran(verdict: Verdict) -> Finished {
        Finished {
            ended: Ended {
                code: None,
                signal: None,
                by: Ending::Itself,
            },
            verdict,
            report: Report::default(),
            stderr: String::new(),
            leftovers: 0,
            duration: Duration::ZERO,
        }
    }
}

/// Follows the output as it grows.
struct Listener<'a> {
    fold: Fold,
    files: &'a Files,
    offset: u64,
}

/// Files of the agent's own that say more than its output.
#[derive(Clone, Debug, Default)]
pub struct Files {
    /// The directory below which it tells why it failed.
    pub witness: Option<PathBuf>,
    /// The file that holds the answer.
    pub answer: Option<PathBuf>,
    /// Whether a blank answer is a fault.
    pub require_answer: bool,
}

impl Listener<'_> {
    /// Reads what has come since, at most so much; whether there may be more.
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
        out: File,
        ended: Ended,
        stderr: String,
        leftovers: u32,
        duration: Duration,
    ) -> Finished {
        let size = size_of(&out);
        // Some agents write their errors where their answers go.
        let is_mute =
            self.fold.dialect.read.is_none() && stderr.trim().is_empty() && ended.code != Some(0);
        let words = match is_mute {
            true => files::tail(&out, Path::new("standard output"), STDERR_MAX).unwrap_or_default(),
            false => stderr.clone(),
        };
        if self.fold.dialect.read.is_none() {
            self.fold.feed(excerpt(&out, size).as_bytes());
        } else {
            // What came after the end is not the agent's: a survivor may write for ever. Of an output that
            // is too long no more than another piece is read: the rest may take minutes.
            let rest = size.saturating_sub(self.offset);
            let is_too_long = ended.by == Ending::OutputLimit;
            let _ = self.hear(
                &out,
                if is_too_long {
                    rest.min(HEAR_MAX)
                } else {
                    rest
                },
            );
        }
        if let (Some(dir), Some(session)) =
            (&self.files.witness, self.fold.report.session_id.clone())
            && let Some(told) = witness::read(dir, &session)
        {
            self.fold.witness(&told);
        }
        self.fold.finish();
        if let Some(path) = &self.files.answer {
            self.fold.answer(&answer(path, duration));
        }
        let verdict = verdict::judge(&Case {
            ended: &ended,
            fold: &self.fold,
            stderr: &words,
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
