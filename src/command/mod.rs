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

// The files below this one see what it sees (`use super::*`): they are parts of one whole, cut by subject.
use crate::agent::event::{Event, LastResult, events};
use crate::agent::fold::{audit, sum};
use crate::agent::json::{object, text as parse_text};
use crate::agent::lines::Lines;
use crate::agent::{self, Dialect, Sessions, dialect, plan};
use crate::board;
use crate::cli::{self, Asked, CommandHelp, Format, Which, commands};
use crate::daemon;
use crate::decide;
use crate::document;
use crate::error::{Error, Exit, Result, one_line, plain};
use crate::files::{self, Dir, meta_of, name_of};
use crate::holds::Hold;
use crate::job::{JobId, Meta, check_log, log_name};
use crate::outcome::{cents, millis};
use crate::process;
use crate::project::{AgentSpec, KEYS, Layout, Policy, Project, Protocol};
use crate::record::{Change, Check, Claim, HoldView};
use crate::registry::{self, Entry, Registry};
use crate::render::{self, Style, clean, clean_line, fit, is_dumb, quoted, width};
use crate::service;
use crate::settings::{self, Places, Settings, Variables};
use crate::skills;
use crate::spool::{Mark, Marks, Spool};
use crate::time::{Wall, human};
use crate::worker::Memory;
use brief::*;
use logs::action;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::stat;
use nix::sys::termios::{self, LocalFlags, SetArg, SpecialCharacterIndices, Termios};
use queue::{Ground, Seen, put_off};
use result::{Ending, Newest, ResultView, Start, change_line, counted};
use scope::{Job, NO_PROJECT, Scope, Standing, each_id, open_ids, refuse_own_wait, standing_in};
use serde::de::Error as _;
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Display};
use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read, Seek};
use std::mem::take;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::rc::Rc;
use std::slice;
use std::time::{Duration, Instant};
use terminal::{LiveLine, Screen};
use transcript::Transcript;
use wait_timeout::ChildExt;

/// Parses, runs, prints the error, and gives the exit status.
pub fn main() -> ExitCode {
    let prepared = process::prepare()
        .map_err(|e| Error::new(format!("cannot prepare for child processes: {}", plain(&e))));
    let parsed = prepared.and_then(|()| cli::parse(std::env::args_os().skip(1)));
    match parsed.and_then(|asked| run(&asked)) {
        Ok(exit) => ExitCode::from(exit as u8),
        // The reader of standard output has gone: it has seen what it wanted.
        Err(error) if error.errno == Some(libc::EPIPE) => ExitCode::SUCCESS,
        Err(error) => {
            render::note(&error.to_string());
            ExitCode::from(error.exit as u8)
        }
    }
}

/// Runs a command; the exit status is what it came to.
fn run(asked: &Asked) -> Result<Exit> {
    let scope = || Scope::load(&asked.projects);
    // All projects are shown wherever the person stands, unless one is named.
    let everywhere = match &asked.projects {
        Which::Around => &Which::All,
        named => named,
    };
    let (format, word) = (asked.format, asked.words.first());
    let word = word.and_then(|word| word.to_str()).unwrap_or_default();
    let done = match asked.command {
        "daemon" => daemon::run(Places::find()?),
        "queue" => queue::queue(&scope()?, format),
        "list" => queue::list(&Scope::load(everywhere)?, format),
        "status" => status::status(&scope()?, asked),
        "stats" => stats::stats(&scope()?, asked.since, format),
        "config" => config::config(&scope()?, format),
        "watch" => return watch::watch(everywhere),
        "doctor" => return doctor::doctor(&asked.projects, format),
        "show" => return show::job(&scope()?, asked.jobs.first(), format),
        "logs" | "diff" | "open" => {
            let scope = scope()?;
            let job = scope.job_or_latest(asked.jobs.first())?;
            match asked.command {
                "logs" => logs::tell(&scope, &job, asked).map(drop),
                "open" => session::open(&scope, &job).map(drop),
                _ => diff::diff(&scope, &job, asked.stat),
            }
        }
        "wait" => {
            let scope = scope()?;
            let jobs: Result<_> = control::jobs(&scope, asked)?.into_iter().collect();
            return wait::wait(&scope, jobs?, asked.timeout);
        }
        "submit" => return submit::submit(&scope()?, asked),
        "reply" => return submit::reply(&scope()?, asked),
        "cancel" | "hold" | "release" | "retry" => return control::steer(&scope()?, asked),
        "clean" => clean::clean(&scope()?, asked),
        "register" => manage::register(asked),
        "unregister" | "enable" | "disable" => manage::change(asked),
        "restart" => manage::restart(),
        "complete" => complete::complete(&asked.words),
        "help" => render::print(&cli::help(word)),
        "version" => render::print(concat!("job-monitor ", env!("CARGO_PKG_VERSION"), "\n")),
        "man" => render::print(&cli::man_page()),
        "completions" => render::print(cli::completions(word)?),
        _ => {
            render::say(&cli::help(""));
            return Ok(Exit::Usage);
        }
    };
    done.map(|()| Exit::Done)
}
