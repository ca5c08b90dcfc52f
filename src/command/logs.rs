//! `logs`: what the agent did, start by start, now or while it goes on.

use super::*;

/// What is read in one go.
const BLOCK: usize = 64 << 10;
/// Between looks at an output that grows, in milliseconds.
const LOOK: u16 = 200;
/// Single lines are not made longer than this for readers that are no terminal.
const COLUMNS_PIPED: usize = 160;
/// So much of a running agent's output is read to see what it does.
const TAIL: u64 = 256 << 10;
/// An agent that has been silent for so long is said to be.
const SILENCE: Duration = Duration::from_secs(60);

/// Follows a job that was just submitted, and ends as `wait` does.
pub(super) fn follow(scope: &Scope, job: &Job, asked: &Asked) -> Result<Exit> {
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
    let (mut written, dialect) = (claim.started_at, dialect(claim.protocol));
    let mut transcript = Transcript::new(Style::default(), 0, dialect.read.is_some());
    transcript.dialect = dialect;
    let name = log_name(&claim.job_id, claim.starts, dialect.ending);
    if let Some(file) = spool.logs()?.open_file(&name)? {
        let modified = file.metadata().and_then(|meta| meta.modified());
        written = written.max(modified.map_or(written, Wall::from));
        transcript.feed(files::tail(&file, Path::new(&name), TAIL)?.as_bytes());
    }
    let silent = now.since(written);
    let silence = format!("nothing written for {}", human(silent));
    Ok(match transcript.action {
        Some(action) if silent < SILENCE => action,
        Some(action) => format!("{action} ({silence})"),
        None => silence,
    })
}

/// A start, its standard error, or a check: when it was begun, the line in front of it, and its log's name. A
/// later look finds the same pieces, and more behind them.
type Piece = (Wall, String, String);

/// All that there is to tell of a job's starts and checks, and whether the last log may grow.
fn pieces(Job { id, spool }: &Job, standing: &Standing) -> Result<(Vec<Piece>, bool)> {
    let (starts, checks, grows): (Vec<Wall>, Vec<Check>, bool) = match standing {
        Standing::Done(result) => {
            let result = ResultView::read(result);
            let starts = result.attempts.iter().map(|start| start.started_at);
            (starts.collect(), result.checks, false)
        }
        Standing::Running(claim) | Standing::Waiting(Some(claim)) => {
            let ended = claim.attempts.iter().map(|start| start.started_at);
            let now = (claim.attempts.len() < claim.starts as usize).then_some(claim.started_at);
            let grows = claim.suspended.is_none() && !claim.checking;
            (ended.chain(now).collect(), claim.checks.clone(), grows)
        }
        Standing::Waiting(None) => (Vec::new(), Vec::new(), false),
    };
    let (mut pieces, now) = (Vec::new(), Wall::now());
    for (at, number) in starts.iter().copied().zip(1..) {
        let start = format!("start {number}, {}", at.short(now));
        for ending in ["jsonl", "out", "err"] {
            let name = log_name(id, number, ending);
            let length = spool.logs()?.look(&name)?.map(|stat| stat.st_size);
            // Standard error is told when it is complete, and if there is any.
            let is_whole = !grows || starts.len() > number as usize;
            let (title, is_told) = match ending {
                "err" => ("standard error", is_whole && length > Some(0)),
                _ => (start.as_str(), length.is_some()),
            };
            pieces.extend(is_told.then(|| (at, title.to_owned(), name)));
        }
    }
    for (check, round) in checks.iter().zip(1..) {
        let title = format!("check {round} {}", check_end(check));
        pieces.push((check.started_at, title, check_log(id, round)));
    }
    pieces.sort_by_key(|piece| piece.0);
    Ok((pieces, grows))
}

/// Tells what the agent did, and if wanted what it goes on to do; the exit status tells how the job stands.
pub(super) fn tell(scope: &Scope, job: &Job, asked: &Asked) -> Result<Exit> {
    let (style, columns) = (Style::of_stdout(), terminal::columns(COLUMNS_PIPED));
    let is_output = |name: &str| name.ends_with(".jsonl") || name.ends_with(".out");
    // How many pieces were told to their end, and the log of the next; a check's may be gone.
    let (mut told, mut log) = (0, None);
    loop {
        let standing = scope.standing(job)?;
        let (mut pieces, grows) = pieces(job, &standing)?;
        pieces.retain(|(_, _, name)| !asked.raw || is_output(name));
        while let Some((_, title, name)) = pieces.get(told) {
            if log.is_none() {
                seam(asked, title, told == 0)?;
                let has_events = name.ends_with(".jsonl") && !asked.raw;
                let transcript = Transcript::new(style, columns, has_events);
                log = Some((job.spool.logs()?.open_file(name)?, transcript));
            }
            if let Some((Some(file), transcript)) = &mut log {
                tell_log(file, name, transcript, asked.raw && !style.terminal)?;
            }
            if grows && told + 1 == pieces.len() {
                break;
            }
            if let Some((_, mut transcript)) = log.take() {
                transcript.finish();
                render::show(&transcript.out)?;
            }
            told += 1;
        }
        if !asked.follow || matches!(standing, Standing::Done(_)) {
            let is_first = told == 0 && log.is_none();
            seam(asked, &course(scope, job, &standing)?, is_first)?;
            return Ok(match &standing {
                Standing::Done(of) if !ResultView::read(of).is_completed() => Exit::NotCompleted,
                _ => Exit::Done,
            });
        }
        pause()?;
    }
}

/// Tells what a log has more than the last time; to a file or a pipe as it is, if that is wanted.
fn tell_log(file: &mut File, name: &str, transcript: &mut Transcript, as_is: bool) -> Result<()> {
    let mut block = [0; BLOCK];
    let unreadable = |e| Error::io("read", Path::new(name), e);
    loop {
        match file.read(&mut block).map_err(unreadable)? {
            0 => return Ok(()),
            length if as_is => render::put(&block[..length])?,
            length => {
                transcript.feed(&block[..length]);
                render::show(&take(&mut transcript.out))?;
            }
        }
    }
}

/// A line between pieces.
fn seam(asked: &Asked, text: &str, is_first: bool) -> Result<()> {
    if asked.raw {
        return Ok(());
    }
    let (gap, line) = (if is_first { "" } else { "\n" }, clean_line(text));
    let line = Style::of_stdout().paint("1;34", &format!("─── {line}"));
    render::show(&format!("{gap}{line}\n"))
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
