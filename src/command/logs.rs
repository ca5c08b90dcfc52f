//! `logs`: what the agent did, start by start, now or while it goes on.

use super::Outcome;
use super::brief::{check_end, suspension_text};
use super::result::Finished;
use super::scope::{self, Scope, Standing};
use super::terminal;
use super::transcript::Transcript;
use crate::agent::{self, Dialect};
use crate::cli::Manner;
use crate::daemon;
use crate::error::{Error, Exit, Result};
use crate::job::{Attempt, JobId, log_name};
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
/// Single lines are not made longer than this for readers that are no terminal.
const COLUMNS_PIPED: usize = 160;

/// Tells what the agent did.
pub(super) fn logs(scope: &Scope, id: &JobId, manner: Manner) -> Outcome {
    tell(scope, id, manner).map(|_| Exit::Done)
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

/// Follows a job that was just submitted, and ends as `wait` does.
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

/// The output of one start, read as it grows.
pub(super) struct Output {
    file: File,
    pub dialect: Option<&'static Dialect>,
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
                let dialect = Some(agent::recognise(ending, &head[..length]));
                return Ok(Some(Output::of(file, dialect)));
            }
        }
        Ok(None)
    }

    fn of(file: File, dialect: Option<&'static Dialect>) -> Output {
        Output {
            file,
            dialect,
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
    pub(super) fn read_on(&mut self, to: &mut Transcript) -> Result<bool> {
        let mut block = [0; BLOCK];
        let length = read(&mut self.file, &mut block)?;
        let mut bytes = &block[..length];
        if self.in_mid_line {
            let end = bytes.iter().position(|&byte| byte == b'\n');
            bytes = end.map_or(&[], |end| &bytes[end + 1..]);
            self.in_mid_line = end.is_none();
        }
        to.feed(bytes);
        Ok(length > 0)
    }
}

/// What is known of a job, wherever it stands.
struct Story {
    starts: Vec<Start>,
    /// Checks that are over.
    checks: Vec<Check>,
    /// Whether the latest start's output may still grow.
    open: bool,
    now: Now,
}

#[derive(Default)]
struct Start {
    began: Option<Wall>,
    session: Option<String>,
    /// How it ended, as far as anybody wrote it down.
    end: String,
}

enum Now {
    /// It is over: how, and in a line.
    Done(Exit, String),
    /// An agent runs.
    Running(Wall),
    /// Nothing runs: why not.
    Waits(String),
}

impl Start {
    fn over(attempt: &Attempt) -> Start {
        let why = match (attempt.error_kind, &attempt.error) {
            (Some(kind), Some(error)) => format!(": {kind}: {error}"),
            _ => String::new(),
        };
        Start {
            began: Some(attempt.started_at),
            session: attempt.session_id.clone(),
            end: format!("ended after {}{why}", human(attempt.duration())),
        }
    }
}

impl Story {
    fn of(spool: &Spool, id: &JobId, standing: &Standing, now: Wall) -> Result<Story> {
        Ok(match standing {
            Standing::Done(result) => Story::of_result(spool, id, result)?,
            Standing::Running(claim) => Story::of_claim(claim, Now::Running(claim.started_at)),
            Standing::Suspended(claim) => {
                Story::of_claim(claim, Now::Waits(suspension_text(claim, now)))
            }
            Standing::Waiting { held } => {
                let why = match held {
                    true => "is held, and nothing has run yet; job-monitor release lets it run",
                    false => "waits, and nothing has run yet; job-monitor queue says for what",
                };
                Story::new(Vec::new(), Vec::new(), Now::Waits(why.to_owned()))
            }
        })
    }

    fn new(starts: Vec<Start>, checks: Vec<Check>, now: Now) -> Story {
        Story {
            starts,
            checks,
            open: false,
            now,
        }
    }

    fn of_claim(claim: &Claim, now: Now) -> Story {
        let mut starts: Vec<Start> = claim.attempts.iter().map(Start::over).collect();
        if starts.len() < claim.starts as usize {
            starts.push(Start {
                began: Some(claim.started_at),
                session: claim.session_id.clone(),
                end: String::new(),
            });
        }
        Story {
            // Of an interrupted start nobody knows yet how it ended.
            open: claim.suspended.is_none(),
            ..Story::new(starts, claim.checks.clone(), now)
        }
    }

    fn of_result(spool: &Spool, id: &JobId, result: &File) -> Result<Story> {
        let told = Finished::read(result).unwrap_or_default();
        let attempts = told.attempts.list();
        let mut starts: Vec<Start> = attempts.iter().map(Start::over).collect();
        // The predecessor wrote no list of starts.
        while attempts.is_empty() && Output::open(spool, id, starts.len() as u32 + 1)?.is_some() {
            starts.push(Start::default());
        }
        let exit = match told.is_completed() {
            true => Exit::Done,
            false => Exit::NotCompleted,
        };
        let checks = told.checks.list().to_vec();
        Ok(Story::new(starts, checks, Now::Done(exit, told.line())))
    }

    /// How a start began.
    fn beginning(&self, at: usize, now: Wall) -> String {
        let start = &self.starts[at];
        let began = start.began.map(|began| format!(", {}", began.short(now)));
        let before = at.checked_sub(1).and_then(|at| self.starts.get(at));
        let how = match before {
            None => "",
            Some(before) if before.session.is_some() && before.session == start.session => {
                ", resumed"
            }
            Some(_) => ", afresh",
        };
        format!("start {}{}{how}", at + 1, began.unwrap_or_default())
    }

    /// The next check that followed a start.
    fn check_of(&self, check: usize, start: usize) -> Option<&Check> {
        let next = self.starts.get(start + 1).and_then(|next| next.began);
        let check = self.checks.get(check)?;
        next.is_none_or(|next| check.started_at < next)
            .then_some(check)
    }
}

/// The telling of one job.
struct Telling<'a> {
    spool: &'a Spool,
    id: &'a JobId,
    manner: Manner,
    transcript: Transcript,
    /// The start that is told, and the check that is told next.
    start: usize,
    check: usize,
    stage: Stage,
    output: Option<Output>,
    /// Whether the terminal, or the wish for readable lines, forbids the bytes as they are.
    as_lines: bool,
    /// What is kept back until it is known which lines are the last.
    kept: Option<Vec<u8>>,
}

/// How much of a start was told.
#[derive(PartialEq)]
enum Stage {
    New,
    Begun,
    /// All but the checks that follow it.
    Over,
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
            transcript: Transcript::new(style, columns),
            start: 0,
            check: 0,
            stage: Stage::New,
            output: None,
            as_lines: style.terminal || !manner.raw,
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
            let story = Story::of(self.spool, self.id, &standing, now)?;
            self.catch_up(&story, now)?;
            match story.now {
                Now::Done(exit, line) => {
                    self.seam(&line)?;
                    return self.let_go().map(|()| exit);
                }
                Now::Running(since) if !self.manner.follow => {
                    let since = human(now.since(since));
                    self.seam(&format!("running for {since}; -f follows"))?;
                }
                // The words count down; once for each start is enough.
                Now::Waits(why) if waits_told != Some(story.starts.len()) => {
                    match story.starts.len() {
                        0 => render::note(&format!("{} {why}", self.id)),
                        _ => self.seam(&format!("paused: {why}"))?,
                    }
                    waits_told = Some(story.starts.len());
                }
                _ => {}
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
    fn catch_up(&mut self, story: &Story, now: Wall) -> Result<()> {
        while let Some(start) = story.starts.get(self.start) {
            let is_last = self.start + 1 == story.starts.len();
            let is_open = story.open && is_last;
            let checks = is_open && runs_check(self.spool, self.id, story.checks.len())?;
            if self.stage == Stage::New {
                self.seam(&story.beginning(self.start, now))?;
                self.stage = Stage::Begun;
            }
            if self.stage == Stage::Begun {
                if self.output.is_none() {
                    let output = Output::open(self.spool, self.id, self.start as u32 + 1)?;
                    self.begin(output);
                }
                self.tell_output()?;
                if is_open && !checks {
                    return Ok(());
                }
                self.end_output()?;
                self.stage = Stage::Over;
            }
            self.tell_checks(story)?;
            if is_open {
                return Ok(());
            }
            // How the last one ended, the line on where the job stands tells.
            if !is_last {
                self.seam(&format!("start {} {}", self.start + 1, start.end))?;
            }
            self.stage = Stage::New;
            self.start += 1;
        }
        Ok(())
    }

    fn begin(&mut self, output: Option<Output>) {
        if let Some(output) = &output {
            match self.manner.raw {
                true => self.transcript.begin(None),
                false => self.transcript.begin(output.dialect),
            }
        }
        self.output = output;
    }

    fn tell_output(&mut self) -> Result<()> {
        let Some(mut output) = self.output.take() else {
            return Ok(());
        };
        let mut block = [0; BLOCK];
        loop {
            let more = match self.as_lines {
                true => {
                    let more = output.read_on(&mut self.transcript)?;
                    let text = self.transcript.take();
                    self.put(render::encoded(&text).as_bytes())?;
                    more
                }
                false => {
                    let length = read(&mut output.file, &mut block)?;
                    self.put(&block[..length])?;
                    length > 0
                }
            };
            if !more {
                break;
            }
        }
        self.output = Some(output);
        Ok(())
    }

    /// Tells the end of an output: half a line, and what was written to standard error.
    fn end_output(&mut self) -> Result<()> {
        self.transcript.finish();
        self.output = None;
        let errors = log_name(self.id, self.start as u32 + 1, "err");
        let errors = self.spool.open_log(&errors)?;
        let errors = errors.filter(|file| file.metadata().is_ok_and(|meta| meta.len() > 0));
        self.tell_file("standard error", errors)
    }

    /// Tells the checks that followed this start, as far as they have ended.
    fn tell_checks(&mut self, story: &Story) -> Result<()> {
        while let Some(check) = story.check_of(self.check, self.start) {
            let took = Duration::try_from_secs_f64(check.duration_seconds).unwrap_or_default();
            let (how, number) = (check_end(check), self.check + 1);
            let title = format!("check {number} {how} after {}", human(took));
            let log = self.spool.open_log(&check_name(self.id, self.check))?;
            match log {
                Some(_) => self.tell_file(&title, log)?,
                None => self.seam(&title)?,
            }
            self.check += 1;
        }
        Ok(())
    }

    fn tell_file(&mut self, title: &str, file: Option<File>) -> Result<()> {
        if let Some(file) = file.filter(|_| !self.manner.raw) {
            self.seam(title)?;
            self.begin(Some(Output::of(file, None)));
            self.tell_output()?;
            self.transcript.finish();
            self.output = None;
        }
        Ok(())
    }

    fn seam(&mut self, text: &str) -> Result<()> {
        if !self.manner.raw {
            self.transcript.seam(text);
        }
        let text = self.transcript.take();
        self.put(render::encoded(&text).as_bytes())
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

/// The log of a job's check, by its place in the list of them.
fn check_name(id: &JobId, at: usize) -> String {
    match at {
        0 => format!("{id}.check"),
        _ => format!("{id}.check.{}", at + 1),
    }
}

/// Whether a check has begun that is not among those that are over.
pub(super) fn runs_check(spool: &Spool, id: &JobId, over: usize) -> Result<bool> {
    Ok(spool.open_log(&check_name(id, over))?.is_some())
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

fn read(file: &mut File, block: &mut [u8]) -> Result<usize> {
    let read = file.read(block);
    read.map_err(|e| Error::io("read", Path::new("the agent's output"), e))
}

/// Fails as writing would if nobody reads any more, so that following ends with its reader also
/// while there is nothing to write.
fn reader_is_there() -> Result<()> {
    let out = io::stdout();
    let mut fds = [PollFd::new(out.as_fd(), PollFlags::empty())];
    let polled = poll(&mut fds, PollTimeout::ZERO);
    let seen = fds[0].revents().filter(|_| polled.is_ok());
    if seen.is_some_and(|seen| seen.contains(PollFlags::POLLERR)) {
        let gone = io::ErrorKind::BrokenPipe.into();
        return Err(Error::io("write", Path::new("standard output"), gone));
    }
    Ok(())
}
