//! `logs`: what the agent did, start by start, now or while it goes on.

use super::Outcome;
use super::finished::Brief;
use super::overview::suspension_text;
use super::projects::{self, Scope, Standing};
use super::terminal;
use super::transcript::{Entry, Progress, Reader, Writer};
use crate::agent::{self, Dialect, dialect};
use crate::daemon;
use crate::error::{Error, Exit, Result};
use crate::job::{Attempt, JobId, log_name};
use crate::project::Protocol;
use crate::record::Claim;
use crate::render::{self, Style, put};
use crate::spool::Spool;
use crate::time::{Wall, human};
use crate::watch::{self, Watcher};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// What is read in one go.
const BLOCK: usize = 64 << 10;
/// Between looks at an output that grows, of which inotify would tell each write.
const LOOK_RUNNING: Duration = Duration::from_millis(200);
/// Between looks where an event should tell of the next change.
const LOOK_WAITING: Duration = Duration::from_secs(2);
/// One-line entries are not made longer than this for readers that are no terminal.
const COLUMNS_PIPED: usize = 160;

/// How a job is told.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// For a person to read.
    Readable,
    /// The bytes that the agent wrote to standard output.
    Raw,
}

/// Tells what is there; with `follow`, until the job is done.
pub(super) fn logs(scope: &Scope, id: &JobId, follow: bool, manner: Manner) -> Outcome {
    let (spool, _) = scope.job(id)?;
    tell(scope, &spool, id, follow, manner).map(|_| Exit::Done)
}

/// Tells the job until it is done, and ends as `wait` does.
pub(super) fn follow(scope: &Scope, id: &JobId) -> Outcome {
    let (spool, _) = scope.job(id)?;
    tell(scope, &spool, id, true, Manner::Readable)
}

fn tell(scope: &Scope, spool: &Spool, id: &JobId, follow: bool, manner: Manner) -> Outcome {
    let mut telling = Telling::new(spool, id, manner);
    let told = telling.tell(|| daemon::running(&scope.places).is_some(), follow);
    match told {
        // A reader that has gone has seen what it wanted.
        Err(error) if error.kind == Some(io::ErrorKind::BrokenPipe) => Ok(Exit::Done),
        told => told,
    }
}

/// The output of one start, read as it grows.
pub(super) struct Output {
    file: File,
    /// What it tells.
    pub reader: Reader,
    /// The rest of a line of which the beginning was left out is still to come.
    in_mid_line: bool,
}

impl Output {
    /// The output of the `start`-th start, if there is one.
    pub(super) fn open(spool: &Spool, id: &JobId, start: u32) -> Result<Option<Output>> {
        for ending in ["jsonl", "out"] {
            if let Some(file) = spool.open_log(&log_name(id, start, ending))? {
                let mut head = vec![0; 64 << 10];
                let length = file.read_at(&mut head, 0).unwrap_or(0);
                return Ok(Some(Output::of(
                    file,
                    agent::recognise(ending, &head[..length]),
                )));
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
struct History {
    now: Now,
    /// Starts so far.
    starts: u32,
    /// Those that are over, as far as anybody wrote it down.
    attempts: Vec<Attempt>,
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

impl History {
    fn of(standing: &Standing, now: Wall) -> History {
        match standing {
            Standing::Done(result) => History::of_result(result),
            Standing::Running(claim) => {
                let since = claim.started_at;
                History::of_claim(claim, Now::Running { since })
            }
            Standing::Suspended(claim) => {
                History::of_claim(claim, Now::Waits(suspension_text(claim, now)))
            }
            Standing::Waiting { held } => {
                let why = match held {
                    true => "is held, and nothing has run yet; job-monitor release lets it run",
                    false => "waits, and nothing has run yet; job-monitor queue says for what",
                };
                History {
                    now: Now::Waits(why.to_owned()),
                    starts: 0,
                    attempts: Vec::new(),
                    latest: None,
                    open: false,
                }
            }
        }
    }

    fn of_claim(claim: &Claim, now: Now) -> History {
        History {
            now,
            starts: claim.starts,
            attempts: claim.attempts.clone(),
            latest: Some((claim.started_at, claim.resumed)),
            // Of an interrupted start nobody knows yet how it ended.
            open: claim.suspended.is_none(),
        }
    }

    fn of_result(result: &File) -> History {
        let brief = Brief::of(result);
        let attempts = brief.attempts();
        History {
            now: Now::Done {
                completed: brief.is_completed(),
                line: brief.line(),
            },
            starts: attempts.len() as u32,
            attempts,
            latest: None,
            open: false,
        }
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
        if start == self.starts {
            return None;
        }
        let attempt = self.attempts.get(start as usize - 1)?;
        let after = human(attempt.duration());
        let kind = attempt.error_kind.map_or("", |kind| kind.as_str());
        let error = attempt.error.as_deref().unwrap_or_default();
        Some(format!(
            "start {start} ended after {after}: {kind}: {error}"
        ))
    }
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
    /// Its output, once its beginning was told.
    output: Option<Output>,
    begun: bool,
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
            output: None,
            begun: false,
        }
    }

    /// Tells what there is, and if wanted what comes.
    fn tell(&mut self, daemon: impl Fn() -> bool, follow: bool) -> Outcome {
        let (bell, ear) = watch::bell();
        let mut watcher = Watcher::new().ok().filter(|_| follow);
        if let Some(watcher) = &mut watcher {
            let logs = self.spool.log_path("");
            // Where they cannot be watched, looking now and then must do.
            let _ = watcher.watch(self.spool.results_path(), &bell, |n| n.ends_with(".json"));
            let _ = watcher.watch(&logs, &bell, |n| {
                n.ends_with(".jsonl") || n.ends_with(".out")
            });
        }
        let mut waits_told = None;
        loop {
            let Some(standing) = projects::standing(self.spool, self.id, daemon())? else {
                let gone = format!("{} was withdrawn", self.id);
                return Err(Error::with(Exit::NotFound, gone));
            };
            let now = Wall::now();
            let history = self.history(&standing, now)?;
            self.catch_up(&history, now)?;
            let look = match &history.now {
                Now::Done { completed, line } => {
                    self.seam(line)?;
                    return Ok(match completed {
                        true => Exit::Done,
                        false => Exit::NotCompleted,
                    });
                }
                Now::Running { since } => {
                    if !follow {
                        let since = human(now.since(*since));
                        self.seam(&format!("running for {since}; -f follows"))?;
                    }
                    LOOK_RUNNING
                }
                Now::Waits(why) => {
                    // The words count down; once for each start is enough.
                    if waits_told != Some(history.starts) {
                        match history.starts {
                            0 => render::note(&format!("{} {why}", self.id)),
                            _ => self.seam(&format!("paused: {why}"))?,
                        }
                        waits_told = Some(history.starts);
                    }
                    LOOK_WAITING
                }
            };
            if !follow {
                return Ok(Exit::Done);
            }
            ear.wait(Some(Instant::now() + look));
            ear.pending().for_each(drop);
            reader_is_there()?;
        }
    }

    fn history(&self, standing: &Standing, now: Wall) -> Result<History> {
        let mut history = History::of(standing, now);
        // The predecessor wrote no list of starts.
        if matches!(history.now, Now::Done { .. }) && history.starts == 0 {
            while Output::open(self.spool, self.id, history.starts + 1)?.is_some() {
                history.starts += 1;
            }
        }
        Ok(history)
    }

    /// Tells all that was written and not told yet.
    fn catch_up(&mut self, history: &History, now: Wall) -> Result<()> {
        while self.start <= history.starts {
            if !self.begun {
                self.seam(&history.beginning(self.start, now))?;
                self.begun = true;
            }
            if self.output.is_none() {
                self.output = Output::open(self.spool, self.id, self.start)?;
                if let Some(output) = self.output.as_mut().filter(|_| self.manner == Manner::Raw) {
                    output.reader = Reader::new(dialect(Protocol::Plain));
                }
            }
            match (&mut self.output, self.manner, self.style.terminal) {
                // A terminal is never given the bytes as they are.
                (Some(output), Manner::Raw, false) => copy(&mut output.file)?,
                _ => self.tell_output()?,
            }
            if history.open && self.start == history.starts {
                return Ok(());
            }
            self.end_output()?;
            if let Some(end) = history.end(self.start) {
                self.seam(&end)?;
            }
            (self.output, self.begun) = (None, false);
            self.start += 1;
        }
        Ok(())
    }

    fn tell_output(&mut self) -> Result<()> {
        let Some(output) = &mut self.output else {
            return Ok(());
        };
        let mut text = String::new();
        while output.read_on(&mut |entry| self.writer.entry(&entry, &mut text))? {
            put(text.as_bytes())?;
            text.clear();
        }
        Ok(())
    }

    /// Tells the end of an output: half a line, and what was written to standard error.
    fn end_output(&mut self) -> Result<()> {
        let mut text = String::new();
        if let Some(mut output) = self.output.take() {
            let mut write = |entry| self.writer.entry(&entry, &mut text);
            output.reader.finish(&mut write);
            put(text.as_bytes())?;
        }
        if self.manner == Manner::Raw {
            return Ok(());
        }
        let errors = log_name(self.id, self.start, "err");
        let Some(file) = self.spool.open_log(&errors)? else {
            return Ok(());
        };
        if file.metadata().is_ok_and(|meta| meta.len() > 0) {
            self.seam("standard error")?;
            self.output = Some(Output::of(file, dialect(Protocol::Plain)));
            self.tell_output()?;
        }
        Ok(())
    }

    fn seam(&mut self, text: &str) -> Result<()> {
        if self.manner == Manner::Raw {
            return Ok(());
        }
        let mut line = String::new();
        self.writer.seam(text, &mut line);
        put(line.as_bytes())
    }
}

/// Copies the rest of a file to standard output.
fn copy(file: &mut File) -> Result<()> {
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
