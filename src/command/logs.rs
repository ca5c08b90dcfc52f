//! `logs`: what the agent did, start by start, now or while it goes on.

use super::Outcome;
use super::brief::{check_end, suspension_text};
use super::result::Finished;
use super::scope::{self, Scope, Standing};
use super::terminal;
use super::transcript::{Entry, Progress, Reader, Writer};
use crate::agent::{self, Dialect, dialect};
use crate::daemon;
use crate::error::{Error, Exit, Result};
use crate::job::{Attempt, JobId, log_name};
use crate::project::Protocol;
use crate::record::{Check, Claim};
use crate::render::{self, Style, put};
use crate::spool::Spool;
use crate::time::{Wall, human};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

/// What is read in one go.
const BLOCK: usize = 64 << 10;
/// Between looks at an output that grows.
const LOOK: Duration = Duration::from_millis(200);
/// One-line entries are not made longer than this for readers that are no terminal.
const COLUMNS_PIPED: usize = 160;

/// How a job is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manner {
    /// On and on, until the job is done.
    pub follow: bool,
    /// The bytes that the agent wrote to standard output.
    pub raw: bool,
    /// Of what is there already, so many lines only, the last ones.
    pub tail: Option<usize>,
}

/// Tells what the agent did.
pub(super) fn logs(scope: &Scope, id: &JobId, manner: Manner) -> Outcome {
    tell(scope, id, manner).map(|_| Exit::Done)
}

/// Tells the job until it is done, and ends as `wait` does.
pub(super) fn follow(scope: &Scope, id: &JobId) -> Outcome {
    let note = format!("the job goes on; job-monitor logs -f {id}");
    // Without a handler, the interruption would end us as well, only without a word.
    let _ = ctrlc::set_handler(move || {
        render::note(&note);
        std::process::exit(130);
    });
    let manner = Manner {
        follow: true,
        ..Manner::default()
    };
    tell(scope, id, manner)
}

fn tell(scope: &Scope, id: &JobId, manner: Manner) -> Outcome {
    let (spool, _) = scope.job(id)?;
    let mut telling = Telling::new(&spool, id, manner);
    match telling.tell(|| daemon::running(&scope.places).is_some()) {
        // A reader that has gone has seen what it wanted.
        Err(error) if error.kind == Some(io::ErrorKind::BrokenPipe) => Ok(Exit::Done),
        told => told,
    }
}

/// The output of one start, read as it grows.
pub(super) struct Output {
    file: File,
    /// What it tells.
    reader: Reader,
    /// The rest of a line of which the beginning was left out is still to come.
    in_mid_line: bool,
}

impl Output {
    /// The output of the `start`-th start, if there is one.
    pub(super) fn open(spool: &Spool, id: &JobId, start: u32) -> Result<Option<Output>> {
        for ending in ["jsonl", "out"] {
            if let Some(file) = spool.open_log(&log_name(id, start, ending))? {
                let mut head = vec![0; BLOCK];
                let length = file.read_at(&mut head, 0).unwrap_or(0);
                let dialect = agent::recognise(ending, &head[..length]);
                return Ok(Some(Output::of(file, dialect)));
            }
        }
        Ok(None)
    }

    fn of(file: File, dialect: &'static Dialect) -> Output {
        Output {
            file,
            reader: Reader::new(dialect),
            in_mid_line: false,
        }
    }

    /// When something was last written.
    pub(super) fn written(&self) -> Option<Wall> {
        self.file.metadata().ok()?.modified().ok().map(Wall::from)
    }

    /// Leaves out all but about the last `most` bytes.
    pub(super) fn skip_to_last(&mut self, most: u64) {
        let size = self.file.metadata().map_or(0, |meta| meta.len());
        if size > most && self.file.seek(SeekFrom::Start(size - most)).is_ok() {
            self.in_mid_line = true;
        }
    }

    /// Reads a block of what is new since the last time; `false` if nothing is.
    pub(super) fn read_on(&mut self, each: &mut dyn FnMut(Entry)) -> Result<bool> {
        let mut block = [0; BLOCK];
        let length = read(&mut self.file, &mut block)?;
        let mut bytes = &block[..length];
        if self.in_mid_line {
            let end = bytes.iter().position(|&byte| byte == b'\n');
            bytes = end.map_or(&[], |end| &bytes[end + 1..]);
            self.in_mid_line = end.is_none();
        }
        self.reader.feed(bytes, each);
        Ok(length > 0)
    }

    /// How far the agent has got, by all that is written.
    pub(super) fn progress(&mut self) -> &Progress {
        // What cannot be read now may be read at the next look.
        while self.read_on(&mut |_| {}).unwrap_or(false) {}
        &self.reader.progress
    }
}

/// What is known of a job's starts, wherever it stands.
#[derive(Default)]
struct History {
    now: Now,
    /// Starts so far.
    starts: u32,
    /// Those that are over, as far as anybody wrote it down.
    attempts: Vec<Attempt>,
    /// Checks that are over.
    checks: Vec<Check>,
    /// The latest start happened then, and went on with the session of the one before or not.
    latest: Option<(Wall, bool)>,
    /// Whether the latest start's output may still grow.
    open: bool,
}

enum Now {
    /// It is over: how, in a line.
    Done { completed: bool, line: String },
    /// An agent runs.
    Running { since: Wall },
    /// Nothing runs: why not.
    Waits(String),
}

impl Default for Now {
    fn default() -> Now {
        Now::Waits("waits, and nothing has run yet; job-monitor queue says for what".to_owned())
    }
}

impl History {
    fn of(spool: &Spool, id: &JobId, standing: &Standing, now: Wall) -> Result<History> {
        Ok(match standing {
            Standing::Done(result) => History::of_result(spool, id, result)?,
            Standing::Running(claim) => {
                let since = claim.started_at;
                History::of_claim(claim, Now::Running { since })
            }
            Standing::Suspended(claim) => {
                History::of_claim(claim, Now::Waits(suspension_text(claim, now)))
            }
            Standing::Waiting { held: false } => History::default(),
            Standing::Waiting { held: true } => {
                let why = "is held, and nothing has run yet; job-monitor release lets it run";
                History {
                    now: Now::Waits(why.to_owned()),
                    ..History::default()
                }
            }
        })
    }

    fn of_claim(claim: &Claim, now: Now) -> History {
        History {
            now,
            starts: claim.starts,
            attempts: claim.attempts.clone(),
            checks: claim.checks.clone(),
            latest: Some((claim.started_at, claim.resumed)),
            // Of an interrupted start nobody knows yet how it ended.
            open: claim.suspended.is_none(),
        }
    }

    fn of_result(spool: &Spool, id: &JobId, result: &File) -> Result<History> {
        let told = Finished::read(result).unwrap_or_default();
        let attempts = told.attempts.get().unwrap_or_default();
        let mut starts = attempts.len() as u32;
        // The predecessor wrote no list of starts.
        while attempts.is_empty() && Output::open(spool, id, starts + 1)?.is_some() {
            starts += 1;
        }
        Ok(History {
            now: Now::Done {
                completed: told.is_completed(),
                line: told.line(),
            },
            starts,
            attempts,
            checks: told.checks.get().unwrap_or_default(),
            ..History::default()
        })
    }

    /// How the `start`-th start began.
    fn beginning(&self, start: u32, now: Wall) -> String {
        let at = start as usize - 1;
        let session = |at: usize| self.attempts.get(at)?.session_id.as_deref();
        let (began, resumed) = match self.attempts.get(at) {
            Some(attempt) => {
                let resumed = at > 0 && session(at).is_some() && session(at) == session(at - 1);
                (Some(attempt.started_at), resumed)
            }
            None => (
                self.latest.map(|(at, _)| at),
                self.latest.is_some_and(|(_, is)| is),
            ),
        };
        let began = began.map_or(String::new(), |began| format!(", {}", began.short(now)));
        let how = match (start, resumed) {
            (1, _) => "",
            (_, true) => ", resumed",
            (_, false) => ", afresh",
        };
        format!("start {start}{began}{how}")
    }

    /// How it ended, unless the line on where the job stands is about to tell.
    fn end(&self, start: u32) -> Option<String> {
        let attempt = self.attempts.get(start as usize - 1)?;
        let after = human(attempt.duration());
        let why = match (attempt.error_kind, &attempt.error) {
            (Some(kind), Some(error)) => format!(": {kind}: {error}"),
            _ => String::new(),
        };
        (start < self.starts).then(|| format!("start {start} ended after {after}{why}"))
    }

    /// Whether the `number`-th check followed the `start`-th start.
    fn is_check_of(&self, number: u32, start: u32) -> bool {
        let check = self.checks.get(number as usize - 1);
        let next = self
            .attempts
            .get(start as usize)
            .map(|next| next.started_at);
        let next = next.or(self
            .latest
            .map(|(at, _)| at)
            .filter(|_| start < self.starts));
        match (check, next) {
            (Some(check), Some(next)) => check.started_at < next,
            // One that still runs is that of the latest start.
            _ => start == self.starts,
        }
    }
}

/// How much of a start was told.
#[derive(PartialEq)]
enum Stage {
    New,
    Begun,
    /// All but the checks that follow it.
    Over,
}

/// The telling of one job.
struct Telling<'a> {
    spool: &'a Spool,
    id: &'a JobId,
    manner: Manner,
    style: Style,
    writer: Writer,
    /// The start that is being told, from 1.
    start: u32,
    stage: Stage,
    output: Option<Output>,
    /// The check that is told next, from 1, and whether it was told that it runs.
    check: u32,
    check_runs: bool,
    /// What is kept back until it is known which lines are the last.
    kept: Option<Vec<u8>>,
}

impl<'a> Telling<'a> {
    fn new(spool: &'a Spool, id: &'a JobId, manner: Manner) -> Telling<'a> {
        let style = Style::of_stdout();
        let columns = match style.terminal {
            true => terminal::size(io::stdout()).0,
            false => COLUMNS_PIPED,
        };
        Telling {
            spool,
            id,
            manner,
            style,
            writer: Writer::new(style, columns),
            start: 1,
            stage: Stage::New,
            output: None,
            check: 1,
            check_runs: false,
            kept: manner.tail.map(|_| Vec::new()),
        }
    }

    /// Tells what there is, and if wanted what comes.
    fn tell(&mut self, daemon: impl Fn() -> bool) -> Outcome {
        let mut waits_told = None;
        loop {
            let Some(standing) = scope::standing(self.spool, self.id, daemon())? else {
                let gone = format!("{} was withdrawn", self.id);
                return Err(Error::with(Exit::NotFound, gone));
            };
            let now = Wall::now();
            let history = History::of(self.spool, self.id, &standing, now)?;
            self.catch_up(&history, now)?;
            match &history.now {
                Now::Done { completed, line } => {
                    self.seam(line)?;
                    self.let_go()?;
                    return Ok(match completed {
                        true => Exit::Done,
                        false => Exit::NotCompleted,
                    });
                }
                Now::Running { since } if !self.manner.follow => {
                    let since = human(now.since(*since));
                    self.seam(&format!("running for {since}; -f follows"))?;
                }
                Now::Running { .. } => {}
                // The words count down; once for each start is enough.
                Now::Waits(_) if waits_told == Some(history.starts) => {}
                Now::Waits(why) => {
                    match history.starts {
                        0 => render::note(&format!("{} {why}", self.id)),
                        _ => self.seam(&format!("paused: {why}"))?,
                    }
                    waits_told = Some(history.starts);
                }
            }
            self.let_go()?;
            if !self.manner.follow {
                return Ok(Exit::Done);
            }
            std::thread::sleep(LOOK);
            reader_is_there()?;
        }
    }

    /// Tells all that was written and not told yet.
    fn catch_up(&mut self, history: &History, now: Wall) -> Result<()> {
        while self.start <= history.starts {
            let is_open = history.open && self.start == history.starts;
            let checks = history.checks.len();
            let runs_check = is_open && runs_check(self.spool, self.id, checks)?;
            if self.stage == Stage::New {
                self.seam(&history.beginning(self.start, now))?;
                self.stage = Stage::Begun;
            }
            if self.stage == Stage::Begun {
                if self.output.is_none() {
                    self.output = Output::open(self.spool, self.id, self.start)?;
                    if let Some(output) = self.output.as_mut().filter(|_| self.manner.raw) {
                        output.reader = Reader::new(dialect(Protocol::Plain));
                    }
                }
                self.tell_output()?;
                if is_open && !runs_check {
                    return Ok(());
                }
                self.end_output()?;
                self.stage = Stage::Over;
            }
            self.tell_checks(history)?;
            if runs_check && !self.check_runs {
                self.seam(&format!("check {} runs", self.check))?;
                self.check_runs = true;
            }
            if is_open {
                return Ok(());
            }
            if let Some(end) = history.end(self.start) {
                self.seam(&end)?;
            }
            self.stage = Stage::New;
            self.start += 1;
        }
        Ok(())
    }

    fn tell_output(&mut self) -> Result<()> {
        let Some(mut output) = self.output.take() else {
            return Ok(());
        };
        // A terminal is never given the bytes as they are.
        if self.manner.raw && !self.style.terminal {
            copy(&mut output.file, |bytes| self.put(bytes))?;
        } else {
            let mut text = String::new();
            while output.read_on(&mut |entry| self.writer.entry(&entry, &mut text))? {
                self.put(text.as_bytes())?;
                text.clear();
            }
        }
        self.output = Some(output);
        Ok(())
    }

    /// Tells the end of an output: half a line, and what was written to standard error.
    fn end_output(&mut self) -> Result<()> {
        let mut text = String::new();
        if let Some(mut output) = self.output.take() {
            let mut write = |entry| self.writer.entry(&entry, &mut text);
            output.reader.finish(&mut write);
            self.put(text.as_bytes())?;
        }
        let errors = log_name(self.id, self.start, "err");
        match self.spool.open_log(&errors)? {
            Some(file) if !self.manner.raw && file.metadata().is_ok_and(|meta| meta.len() > 0) => {
                self.seam("standard error")?;
                self.tell_plain(file)
            }
            _ => Ok(()),
        }
    }

    /// Tells the checks that followed this start, as far as they have ended.
    fn tell_checks(&mut self, history: &History) -> Result<()> {
        while let Some(check) = history.checks.get(self.check as usize - 1)
            && history.is_check_of(self.check, self.start)
        {
            let after =
                human(Duration::try_from_secs_f64(check.duration_seconds).unwrap_or_default());
            let how = check_end(check);
            self.seam(&format!("check {} {how} after {after}", self.check))?;
            let log = self.spool.open_log(&check_name(self.id, self.check))?;
            if let Some(file) = log.filter(|_| !self.manner.raw) {
                self.tell_plain(file)?;
            }
            self.check += 1;
            self.check_runs = false;
        }
        Ok(())
    }

    fn tell_plain(&mut self, file: File) -> Result<()> {
        self.output = Some(Output::of(file, dialect(Protocol::Plain)));
        self.tell_output()?;
        self.output = None;
        Ok(())
    }

    fn seam(&mut self, text: &str) -> Result<()> {
        if self.manner.raw {
            return Ok(());
        }
        let mut line = String::new();
        self.writer.seam(text, &mut line);
        self.put(line.as_bytes())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let (Some(kept), Some(tail)) = (&mut self.kept, self.manner.tail) else {
            return put(bytes);
        };
        kept.extend_from_slice(bytes);
        if kept.len() > BLOCK {
            kept.drain(..start_of_last(kept, tail));
        }
        Ok(())
    }

    /// Writes the last lines of what was kept back; what comes now is written at once.
    fn let_go(&mut self) -> Result<()> {
        match (self.kept.take(), self.manner.tail) {
            (Some(kept), Some(tail)) => put(&kept[start_of_last(&kept, tail)..]),
            _ => Ok(()),
        }
    }
}

/// The log of a job's n-th check.
fn check_name(id: &JobId, number: u32) -> String {
    match number {
        0 | 1 => format!("{id}.check"),
        _ => format!("{id}.check.{number}"),
    }
}

/// Whether a check has begun that is not among those that are over.
pub(super) fn runs_check(spool: &Spool, id: &JobId, over: usize) -> Result<bool> {
    Ok(spool.open_log(&check_name(id, over as u32 + 1))?.is_some())
}

/// Where the last `lines` lines of a text begin.
fn start_of_last(text: &[u8], lines: usize) -> usize {
    let ends = text.iter().enumerate().rev().skip(1);
    let ends = ends.filter(|(_, byte)| **byte == b'\n');
    let before = ends.map(|(at, _)| at + 1).nth(lines.saturating_sub(1));
    match lines {
        0 => text.len(),
        _ => before.unwrap_or(0),
    }
}

/// Passes on the rest of a file.
fn copy(file: &mut File, mut put: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut block = [0; BLOCK];
    loop {
        match read(file, &mut block)? {
            0 => return Ok(()),
            length => put(&block[..length])?,
        }
    }
}

fn read(file: &mut File, block: &mut [u8]) -> Result<usize> {
    let read = file.read(block);
    read.map_err(|e| Error::io("read", Path::new("the agent's output"), e))
}

/// Fails as writing would if nobody reads any more, so that following ends with its reader also
/// while there is nothing to write.
fn reader_is_there() -> Result<()> {
    let out = io::stdout();
    let mut fds = [PollFd::new(out.as_fd(), PollFlags::empty())];
    let gone = poll(&mut fds, PollTimeout::ZERO).is_ok_and(|events| events > 0);
    let gone = gone
        && fds[0]
            .revents()
            .is_some_and(|e| e.contains(PollFlags::POLLERR));
    match gone {
        false => Ok(()),
        true => Err(Error::io(
            "write",
            Path::new("standard output"),
            io::ErrorKind::BrokenPipe.into(),
        )),
    }
}
