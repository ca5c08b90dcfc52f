//! The faces: one file for each family of commands. A command computes an answer, then shows it;
//! the same value becomes text or JSON. None of them talks to the daemon: they look at the same
//! files, and leave marks.

mod brief;
mod clean;
mod complete;
mod config;
mod control;
mod diff;
mod doctor;
mod logs;
mod manage;
mod queue;
mod result;
mod scope;
mod session;
mod show;
mod stats;
mod status;
mod submit;
mod terminal;
mod transcript;
mod wait;
mod watch;

use crate::cli::{self, Command, Invocation, Which};
use crate::daemon;
use crate::error::{Error, Exit, Result, plain};
use crate::process;
use crate::render;
use crate::settings::Places;
use crate::time::Wall;
use scope::Scope;
use std::process::ExitCode;

/// What a command came to.
pub(crate) type Outcome = Result<Exit>;

/// Parses, runs, prints the error, and gives the exit status.
pub fn main() -> ExitCode {
    let prepared = process::prepare()
        .map_err(|e| Error::new(format!("cannot prepare for child processes: {}", plain(&e))));
    let parsed = prepared.and_then(|()| cli::parse(std::env::args_os().skip(1)));
    match parsed.and_then(run) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => {
            render::note(&error.to_string());
            ExitCode::from(error.exit as u8)
        }
    }
}

fn run(
    Invocation {
        projects,
        format,
        command,
    }: Invocation,
) -> Outcome {
    let scope = || Scope::load(&projects);
    // All projects are shown wherever the person stands, unless one is named.
    let everywhere = match &projects {
        Which::Around => Which::All,
        named => named.clone(),
    };
    let done = match command {
        Command::Daemon => daemon::run(Places::find()?),
        Command::Queue => queue::queue(&scope()?, format),
        Command::List => queue::list(&Scope::load(&everywhere)?, format),
        Command::Status(wanted) => status::status(&scope()?, &wanted, format),
        Command::Stats(since) => {
            let since = since.map(|since| since.start(Wall::now()));
            stats::stats(&scope()?, since, format)
        }
        Command::Config => return config::config(&scope()?, format),
        Command::Diff(job, stat) => {
            let scope = scope()?;
            diff::diff(&scope, &scope.resolve_or_latest(job.as_ref())?, stat)
        }
        Command::Watch => return watch::watch(&everywhere),
        Command::Doctor => return doctor::doctor(&projects, format),
        Command::Show(job) => {
            let scope = scope()?;
            return show::job(&scope, &scope.resolve_or_latest(job.as_ref())?, format);
        }
        Command::Logs(job, manner) => {
            let scope = scope()?;
            return logs::logs(&scope, &scope.resolve_or_latest(job.as_ref())?, manner);
        }
        Command::Wait(jobs, timeout) => {
            let scope = scope()?.of_all();
            return wait::wait(&scope, &control::ids(&scope, &jobs)?, timeout);
        }
        Command::Submit(texts, wishes) => return submit::submit(&scope()?, &texts, &wishes),
        Command::Reply(job, text, wishes) => return submit::reply(&scope()?, &job, &text, &wishes),
        Command::Open(job) => return session::open(&scope()?, job.as_ref()),
        Command::Edit(job) => submit::edit(&scope()?, &job),
        Command::Cancel(jobs) => control::cancel(&scope()?, &jobs),
        Command::Hold(jobs) => control::hold(&scope()?, &jobs),
        Command::Release(jobs) => control::release(&scope()?.of_all(), &jobs),
        Command::Retry(jobs) => control::retry(&scope()?, &jobs),
        Command::Clean(age, dry_run) => clean::clean(&scope()?, age, dry_run),
        Command::Register(path, asked) => manage::register(&path, asked),
        Command::Unregister => manage::unregister(&projects),
        Command::Enable => manage::enable(&projects, true),
        Command::Disable => manage::enable(&projects, false),
        Command::Restart => manage::restart(),
        other => return about(other),
    };
    done.map(|()| Exit::Done)
}

/// What the program tells of itself, without a look at anything else.
fn about(command: Command) -> Outcome {
    let text = match command {
        Command::Help(topic) => cli::help(topic),
        Command::Version => concat!("job-monitor ", env!("CARGO_PKG_VERSION"), "\n").to_owned(),
        Command::Man => cli::man_page(),
        Command::Completions(shell) => shell.completions().to_owned(),
        Command::Complete(words) => return complete::complete(&words).map(|()| Exit::Done),
        _ => {
            render::say(&cli::help(None));
            return Ok(Exit::Usage);
        }
    };
    render::print(&text).map(|()| Exit::Done)
}
