//! The faces: one file for each family of commands. A command computes an answer, then shows it;
//! the same value becomes text or JSON. None of them talks to the daemon: they look at the same
//! files, and leave marks.

mod brief;
mod control;
mod doctor;
mod logs;
mod manage;
mod projects;
mod queue;
mod result;
mod show;
mod stats;
mod status;
mod submit;
mod terminal;
mod transcript;
mod wait;
mod watch;

use crate::cli::{self, Command, Invocation};
use crate::daemon;
use crate::error::{Error, Exit, Result, plain};
use crate::process;
use crate::render;
use crate::settings::Places;
use std::process::ExitCode;

/// What a command came to.
pub(crate) type Outcome = Result<Exit>;

/// Parses, runs, prints the error, and gives the exit status.
pub fn main() -> ExitCode {
    let prepared = process::prepare()
        .map_err(|e| Error::new(format!("cannot prepare for child processes: {}", plain(&e))));
    let outcome = prepared
        .and_then(|()| cli::parse(std::env::args_os().skip(1)))
        .and_then(run);
    match outcome {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => {
            render::note(&error.to_string());
            ExitCode::from(error.exit as u8)
        }
    }
}

fn run(invocation: Invocation) -> Outcome {
    let Invocation {
        project,
        format,
        command,
    } = invocation;
    let scope = || projects::Scope::load(project.as_deref());
    match command {
        Command::Nothing => {
            // As it stands, since it fills a screen.
            render::say(&cli::help(None));
            return Ok(Exit::Usage);
        }
        Command::Help { topic } => render::print(&cli::help(topic))?,
        Command::Version => {
            render::print(concat!("job-monitor ", env!("CARGO_PKG_VERSION"), "\n"))?
        }
        Command::Man => render::print(&cli::man_page())?,
        Command::Completions { shell } => render::print(&cli::completions(shell))?,
        Command::Daemon => daemon::run(Places::find()?)?,
        Command::Queue => queue::queue(&scope()?, format)?,
        Command::List => queue::list(&scope()?, format)?,
        Command::Status { limit } => {
            let wanted = status::Wanted {
                limit,
                ..status::Wanted::default()
            };
            status::status(&scope()?, &wanted, format)?;
        }
        Command::Show { id } => return show::job(&scope()?, &id, format),
        Command::Logs { id, follow, raw } => {
            let manner = logs::Manner {
                follow,
                raw,
                tail: None,
            };
            return logs::logs(&scope()?, &id, manner);
        }
        Command::Watch => return watch::watch(project.as_deref()),
        Command::Submit {
            description,
            source,
            then,
        } => {
            return submit::submit(&scope()?, description.as_deref(), &source, then);
        }
        Command::Wait { ids, timeout } => return wait::wait(&scope()?, &ids, timeout),
        Command::Cancel { jobs } => control::cancel(&scope()?, &jobs)?,
        Command::Hold { jobs } => control::hold(&scope()?, &jobs)?,
        Command::Release { jobs } => control::release(&scope()?, &jobs)?,
        Command::Retry { jobs } => control::retry(&scope()?, &jobs)?,
        Command::Register {
            path,
            name,
            layout,
            run_existing,
            skills,
        } => {
            manage::register(&path, name, layout, run_existing, skills)?;
        }
        Command::Unregister { name } => manage::unregister(&name)?,
        Command::Enable { name } => manage::enable(&name, true)?,
        Command::Disable { name } => manage::enable(&name, false)?,
        Command::Restart => manage::restart()?,
        Command::Stats { since } => stats::stats(&scope()?, since.as_deref(), format)?,
        Command::Doctor => return doctor::doctor(project.as_deref(), format),
    }
    Ok(Exit::Done)
}
