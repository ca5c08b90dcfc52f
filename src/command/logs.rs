//! `logs`: what the agent did, start by start, now or while it goes on.

use super::*;

/// What is read in one go.
const BLOCK: usize = 64 << 10;
/// An agent's first event, with all its tools, is shorter than this.
const HEAD: usize = 256 << 10;
/// Between looks at an output that grows, in milliseconds.
const LOOK: u16 = 200;
/// Single lines are not made longer than this for readers that are no terminal.
const COLUMNS_PIPED: usize = 160;
/// So much of a running agent's output is read to see what it does.
const TAIL: usize = 256 << 10;
/// An agent that has been silent for so long is said to be.
const SILENCE: Duration = Duration::from_secs(60);

/// Follows a job that was just submitted, and ends as `wait` does.
pub(super) fn follow(scope: &Scope, job: &Job, asked: &Asked) -> Outcome {
    let note = format!("the job goes on; job-monitor logs -f {}", job.id);
    // Without a handler, the interruption would end us as well, only without a word.
    let _ = ctrlc::set_handler(move || {
        render::note(&note);
        std::process::exit(130);
    });
    tell(scope, job, asked)
}

/// What a running agent does just now, in a line.
pub(super) fn action(spool: &Spool, claim: &Claim, now: Wall) -> Result<String> {
    if claim.checking {
        return Ok("the check runs".to_owned());
    }
    let mut transcript = Transcript::new(Style::of_stdout(), 0);
    let mut written = claim.started_at;
    let names = output_names(&claim.job_id, claim.starts);
    if let Some((file, dialect)) = open(spool, &names, true)? {
        let meta = file.metadata().map_err(unreadable)?;
        written = written.max(meta.modified().map_or(written, Wall::from));
        let from = meta.len().saturating_sub(TAIL as u64);
        let mut last = vec![0; TAIL];
        let length = file.read_at(&mut last, from).map_err(unreadable)?;
        // A line that begins in its middle cannot be read.
        let end = last.iter().position(|byte| *byte == b'\n').unwrap_or(0);
        transcript.begin(dialect);
        transcript.feed(&last[if from > 0 { end } else { 0 }..length]);
    }
    let silent = now.since(written);
    let silence = format!("nothing written for {}", human(silent));
    Ok(match transcript.action() {
        Some(action) if silent < SILENCE => action.to_owned(),
        Some(action) => format!("{action} ({silence})"),
        None => silence,
    })
}

/// The names that the output of the `start`-th start may have.
fn output_names(id: &JobId, start: u32) -> Vec<String> {
    let names = ["jsonl", "out"].map(|ending| log_name(id, start, ending));
    names.into()
}

/// The first of these logs that is there, and whose output it is. Events that may still come are awaited:
/// by an output's first event it is seen how it is to be read.
fn open(spool: &Spool, names: &[String], grows: bool) -> Result<Option<(File, &'static Dialect)>> {
    for name in names {
        if let Some(file) = spool.open_log(name)? {
            let mut head = vec![0; HEAD];
            let length = file.read_at(&mut head, 0).unwrap_or(0);
            let dialect = agent::recognise(name, &head[..length]);
            let is_known = name.ends_with(dialect.ending) || length == HEAD;
            return Ok((is_known || !grows).then_some((file, dialect)));
        }
    }
    Ok(None)
}

fn unreadable(cause: io::Error) -> Error {
    Error::io("read", Path::new("the agent's output"), cause)
}

/// What is known of a job, wherever it stands.
#[derive(Default)]
struct Story {
    starts: Vec<Attempt>,
    /// Checks that are over.
    checks: Vec<Check>,
    /// Whether the last start's output may still grow.
    grows: bool,
    /// Where the job stands, in a line.
    line: String,
    /// If it is done, how.
    exit: Option<Exit>,
}

/// A part of the telling: a line between, the names that the log behind it may have, and whether that is
/// the agent's output. A later look finds the same parts, and more behind them.
struct Piece(String, Vec<String>, bool);

impl Story {
    fn of(standing: &Standing, now: Wall) -> Story {
        let mut story = Story::default();
        match standing {
            Standing::Done(result) => {
                let told = Finished::read(result);
                story.starts = told.list("attempts");
                story.checks = told.list("checks");
                story.line = told.line();
                story.exit = Some(match told.is_completed() {
                    true => Exit::Done,
                    false => Exit::NotCompleted,
                });
            }
            Standing::Running(claim) | Standing::Suspended(claim) => {
                story.starts.clone_from(&claim.attempts);
                story.checks.clone_from(&claim.checks);
                if story.starts.len() < claim.starts as usize {
                    story.starts.push(Attempt {
                        started_at: claim.started_at,
                        session_id: claim.session_id.clone(),
                        ..Attempt::default()
                    });
                }
                // How an interrupted start ended is not known yet.
                story.grows = claim.suspended.is_none() && !claim.checking;
                let since = human(now.since(claim.started_at));
                story.line = match standing {
                    Standing::Running(_) => format!("running for {since}; -f follows"),
                    _ => format!("paused: {}", suspension_text(claim, now)),
                };
            }
            Standing::Waiting { .. } => {
                let why = "waits, and nothing has run yet; job-monitor queue says for what";
                story.line = why.to_owned();
            }
        }
        story
    }

    /// All that there is to tell.
    fn pieces(&self, Job { id, spool }: &Job, now: Wall) -> Result<Vec<Piece>> {
        let (mut pieces, mut session) = (Vec::new(), None);
        let mut checks = self.checks.iter().zip(1..).peekable();
        for (start, number) in self.starts.iter().zip(1..) {
            let next = self.starts.get(number as usize);
            let how = match session.replace(&start.session_id) {
                None => "",
                Some(before) if before.is_some() && *before == start.session_id => ", resumed",
                Some(_) => ", afresh",
            };
            let seam = format!("start {number}, {}{how}", start.started_at.short(now));
            pieces.push(Piece(seam, output_names(id, number), true));
            if next.is_none() && self.grows {
                break;
            }
            let errors = log_name(id, number, "err");
            let file = spool.open_log(&errors)?;
            if file.is_some_and(|file| file.metadata().is_ok_and(|meta| meta.len() > 0)) {
                pieces.push(Piece("standard error".to_owned(), vec![errors], false));
            }
            let is_of_it =
                |check: &Check| next.is_none_or(|next| check.started_at < next.started_at);
            while let Some((check, round)) = checks.next_if(|(check, _)| is_of_it(check)) {
                let took = Duration::try_from_secs_f64(check.duration_seconds).unwrap_or_default();
                let seam = format!("check {round} {} after {}", check_end(check), human(took));
                pieces.push(Piece(seam, vec![check_log(id, round)], false));
            }
            // The line on where the job stands tells how the last start ended.
            if next.is_some() {
                let why = match (start.error_kind, &start.error) {
                    (Some(kind), Some(error)) => format!(": {kind}: {error}"),
                    _ => String::new(),
                };
                let took = human(start.duration());
                let seam = format!("start {number} ended after {took}{why}");
                pieces.push(Piece(seam, Vec::new(), false));
            }
        }
        Ok(pieces)
    }
}

/// The telling of one job.
struct Telling<'a> {
    job: &'a Job,
    asked: &'a Asked,
    /// Whether the bytes go out as they are.
    is_raw: bool,
    transcript: Transcript,
    /// So many pieces were begun, and so many told to their end.
    begun: usize,
    told: usize,
    /// The file that is being told.
    file: Option<File>,
}

/// Tells what the agent did; the exit status tells how the job stands.
pub(super) fn tell(scope: &Scope, job: &Job, asked: &Asked) -> Outcome {
    let style = Style::of_stdout();
    let columns = terminal::columns(COLUMNS_PIPED);
    let mut telling = Telling {
        job,
        asked,
        is_raw: asked.raw && !style.terminal,
        transcript: Transcript::new(style, columns),
        begun: 0,
        told: 0,
        file: None,
    };
    match telling.tell(scope) {
        // A reader that has gone has seen what it wanted.
        Err(error) if error.errno == Some(libc::EPIPE) => Ok(Exit::Done),
        told => told,
    }
}

impl Telling<'_> {
    /// Tells what there is, and if wanted what comes.
    fn tell(&mut self, scope: &Scope) -> Outcome {
        let mut paused_at = None;
        loop {
            let (standing, now) = (scope.standing(self.job)?, Wall::now());
            let story = Story::of(&standing, now);
            self.catch_up(&story.pieces(self.job, now)?, story.grows)?;
            match standing {
                Standing::Running(_) if self.asked.follow => {}
                Standing::Running(_) | Standing::Done(_) => self.seam(&story.line)?,
                // The words count down, and are told once.
                _ if paused_at.replace(self.begun) == Some(self.begun) => {}
                _ if self.begun > 0 => self.seam(&story.line)?,
                _ => render::note(&format!("{} {}", self.job.id, story.line)),
            }
            if story.exit.is_some() || !self.asked.follow {
                return Ok(story.exit.unwrap_or(Exit::Done));
            }
            pause()?;
        }
    }

    /// Tells all that was written and not told yet. The last piece may grow.
    fn catch_up(&mut self, pieces: &[Piece], grows: bool) -> Result<()> {
        for Piece(seam, names, is_output) in pieces.iter().skip(self.told) {
            if self.begun == self.told {
                self.seam(seam)?;
                self.begun += 1;
            }
            let is_growing = grows && self.begun == pieces.len();
            if *is_output || !self.asked.raw {
                self.tell_log(names, is_growing)?;
            }
            if is_growing {
                break;
            }
            self.transcript.finish();
            self.put_told()?;
            (self.file, self.told) = (None, self.begun);
        }
        Ok(())
    }

    /// Tells what a log has more than the last time.
    fn tell_log(&mut self, names: &[String], grows: bool) -> Result<()> {
        if self.file.is_none()
            && let Some((file, dialect)) = open(&self.job.spool, names, grows)?
        {
            self.file = Some(file);
            let is_raw = self.asked.raw;
            self.transcript
                .begin(if is_raw { Default::default() } else { dialect });
        }
        let mut block = [0; BLOCK];
        while let Some(file) = &mut self.file {
            match file.read(&mut block).map_err(unreadable)? {
                0 => break,
                length if self.is_raw => render::put(&block[..length])?,
                length => self.transcript.feed(&block[..length]),
            }
            self.put_told()?;
        }
        Ok(())
    }

    fn seam(&mut self, text: &str) -> Result<()> {
        if !self.asked.raw {
            self.transcript.seam(text);
        }
        self.put_told()
    }

    fn put_told(&mut self) -> Result<()> {
        render::show(&self.transcript.take())
    }
}

/// Lets some time pass. Fails as writing would if nobody reads any more, so that following ends with
/// its reader also while there is nothing to write.
fn pause() -> Result<()> {
    let out = io::stdout();
    let mut fds = [PollFd::new(out.as_fd(), PollFlags::empty())];
    match poll(&mut fds, LOOK) {
        Ok(1..) => {
            let gone = io::Error::from_raw_os_error(libc::EPIPE);
            Err(Error::io("write", Path::new("standard output"), gone))
        }
        _ => Ok(()),
    }
}
