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
const TAIL: u64 = 256 << 10;
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
    let (mut written, mut action) = (claim.started_at, None);
    let names = output_names(&claim.job_id, claim.starts);
    if let Some((file, dialect)) = open(spool, &names, true)? {
        let modified = file.metadata().and_then(|meta| meta.modified());
        written = written.max(modified.map_or(written, Wall::from));
        let mut transcript = Transcript::new(Style::default(), 0, dialect);
        transcript.feed(files::tail(&file, Path::new(&names[0]), TAIL)?.as_bytes());
        action = transcript.action;
    }
    let silent = now.since(written);
    let silence = format!("nothing written for {}", human(silent));
    Ok(match action {
        Some(action) if silent < SILENCE => action,
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

/// A part of the telling. A later look finds the same parts, and more behind them.
struct Piece {
    at: Wall,
    /// The line in front of it.
    title: String,
    /// The names that its log may have.
    names: Vec<String>,
    is_output: bool,
}

/// All that there is to tell of a job's starts and checks, and whether the last log may grow.
fn pieces(Job { id, spool }: &Job, standing: &Standing) -> Result<(Vec<Piece>, bool)> {
    let (starts, checks, grows): (Vec<Wall>, Vec<Check>, bool) = match standing {
        Standing::Done(result) => {
            let result = Finished::read(result);
            let starts = result.attempts.iter().map(|start| start.started_at);
            (starts.collect(), result.checks, false)
        }
        Standing::Running(claim) | Standing::Suspended(claim) => {
            let ended = claim.attempts.iter().map(|start| start.started_at);
            let now = (claim.attempts.len() < claim.starts as usize).then_some(claim.started_at);
            let grows = claim.suspended.is_none() && !claim.checking;
            (ended.chain(now).collect(), claim.checks.clone(), grows)
        }
        Standing::Waiting { .. } => (Vec::new(), Vec::new(), false),
    };
    let (mut pieces, now) = (Vec::new(), Wall::now());
    for (at, number) in starts.iter().copied().zip(1..) {
        let title = format!("start {number}, {}", at.short(now));
        let names = output_names(id, number);
        pieces.push(Piece {
            at,
            title,
            names,
            is_output: true,
        });
        let names = vec![log_name(id, number, "err")];
        let file = spool.open_log(&names[0])?;
        let has_ended = !grows || number as usize != starts.len();
        if has_ended && file.is_some_and(|file| file.metadata().is_ok_and(|meta| meta.len() > 0)) {
            let title = "standard error".to_owned();
            pieces.push(Piece {
                at,
                title,
                names,
                is_output: false,
            });
        }
    }
    for (check, round) in checks.iter().zip(1..) {
        let title = format!("check {round} {}", check_end(check));
        let (at, names) = (check.started_at, vec![check_log(id, round)]);
        pieces.push(Piece {
            at,
            title,
            names,
            is_output: false,
        });
    }
    pieces.sort_by_key(|piece| piece.at);
    Ok((pieces, grows))
}

/// The telling of one job.
struct Telling<'a> {
    job: &'a Job,
    asked: &'a Asked,
    style: Style,
    /// So many pieces were told to their end.
    told: usize,
    /// The piece that is being told, and the log, once it is there.
    begun: bool,
    log: Option<(File, Transcript)>,
}

/// Tells what the agent did; the exit status tells how the job stands.
pub(super) fn tell(scope: &Scope, job: &Job, asked: &Asked) -> Outcome {
    let mut telling = Telling {
        job,
        asked,
        style: Style::of_stdout(),
        told: 0,
        begun: false,
        log: None,
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
        loop {
            let standing = scope.standing(self.job)?;
            let (pieces, grows) = pieces(self.job, &standing)?;
            self.catch_up(&pieces, grows)?;
            if !self.asked.follow || matches!(standing, Standing::Done(_)) {
                self.seam(&course(scope, self.job, &standing)?)?;
                return Ok(match &standing {
                    Standing::Done(result) if !Finished::read(result).is_completed() => {
                        Exit::NotCompleted
                    }
                    _ => Exit::Done,
                });
            }
            pause()?;
        }
    }

    /// Tells all that was written and not told yet. The last piece may grow.
    fn catch_up(&mut self, pieces: &[Piece], grows: bool) -> Result<()> {
        while let Some(piece) = pieces.get(self.told) {
            let is_growing = grows && self.told + 1 == pieces.len();
            if !replace(&mut self.begun, true) {
                self.seam(&piece.title)?;
            }
            self.tell_log(piece, is_growing)?;
            if is_growing {
                break;
            }
            if let Some((_, mut transcript)) = self.log.take() {
                transcript.finish();
                render::show(&transcript.out)?;
            }
            (self.begun, self.told) = (false, self.told + 1);
        }
        Ok(())
    }

    /// Tells what a log has more than the last time.
    fn tell_log(&mut self, piece: &Piece, grows: bool) -> Result<()> {
        let is_wanted = piece.is_output || !self.asked.raw;
        if self.log.is_none()
            && is_wanted
            && let Some((file, dialect)) = open(&self.job.spool, &piece.names, grows)?
        {
            let dialect = if self.asked.raw {
                Default::default()
            } else {
                dialect
            };
            let columns = terminal::columns(COLUMNS_PIPED);
            self.log = Some((file, Transcript::new(self.style, columns, dialect)));
        }
        let mut block = [0; BLOCK];
        while let Some((file, transcript)) = &mut self.log {
            let unreadable = |e| Error::io("read", Path::new(&piece.names[0]), e);
            match file.read(&mut block).map_err(unreadable)? {
                0 => break,
                // To a file or a pipe it goes as it is.
                length if self.asked.raw && !self.style.terminal => {
                    render::put(&block[..length])?;
                }
                length => {
                    transcript.feed(&block[..length]);
                    render::show(&take(&mut transcript.out))?;
                }
            }
        }
        Ok(())
    }

    /// A line between pieces.
    fn seam(&self, text: &str) -> Result<()> {
        let is_first = self.told == 0 && self.log.is_none();
        let gap = if is_first { "" } else { "\n" };
        let line = self
            .style
            .paint("1;34", &format!("─── {}", clean_line(text)));
        match self.asked.raw {
            true => Ok(()),
            false => render::show(&format!("{gap}{line}\n")),
        }
    }
}

/// Lets some time pass. Fails as writing would if nobody reads any more, so that following ends with
/// its reader also while there is nothing to write.
fn pause() -> Result<()> {
    let out = io::stdout();
    match poll(&mut [PollFd::new(out.as_fd(), PollFlags::empty())], LOOK) {
        Ok(1..) => {
            let gone = io::Error::from_raw_os_error(libc::EPIPE);
            Err(Error::io("write", Path::new("standard output"), gone))
        }
        _ => Ok(()),
    }
}
