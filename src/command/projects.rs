//! Which project a command is about (SPEC 9): the one named, the one around the current
//! directory, the only one, or all.

use crate::cli;
use crate::daemon;
use crate::error::{Error, Exit, Result};
use crate::job::JobId;
use crate::record::Claim;
use crate::registry::{Entry, Registry};
use crate::render;
use crate::service;
use crate::settings::Places;
use crate::spool::{Leftovers, Mark, Spool};
use std::fs::File;
use std::path::{Path, PathBuf};

/// What is said where there is nothing to look at.
pub(super) const NO_PROJECT: &str = "no project is registered; job-monitor register PATH adds one";
/// So many wrong letters are a slip of the finger; with more, another job may be meant.
const SLIP_MAX: usize = 3;

/// The projects that a command may look at.
pub(crate) struct Scope {
    /// Where configuration and state are.
    pub places: Places,
    /// The projects in question, in the registry's order.
    pub entries: Vec<Entry>,
    /// The running daemon's pid.
    pub daemon: Option<i32>,
}

/// Where a job stands.
pub(crate) enum Standing {
    /// Its result is there.
    Done(File),
    /// An agent runs.
    Running(Box<Claim>),
    /// It was begun, and goes on later; without a daemon, that includes one that was running.
    Suspended(Box<Claim>),
    /// Its document waits; whether a hold mark keeps it.
    Waiting { held: bool },
}

impl Scope {
    /// Reads the registry and picks.
    pub(crate) fn load(named: Option<&str>) -> Result<Scope> {
        let places = Places::find()?;
        let registry = Registry::load(&places.registry())?;
        let (entries, warnings) = registry.entries();
        warnings.iter().for_each(|warning| render::note(warning));
        let daemon = daemon::running(&places);
        if daemon.is_none() {
            let how = service::start_command();
            render::note(&format!("the monitor is not running; start it with: {how}"));
        }
        Ok(Scope {
            entries: choose(&registry, entries, named)?,
            places,
            daemon,
        })
    }

    /// The one project to act on.
    pub(crate) fn one(&self) -> Result<&Entry> {
        match self.entries.as_slice() {
            [entry] => Ok(entry),
            [] => Err(Error::with(Exit::NotFound, NO_PROJECT)),
            entries => {
                let names: Vec<_> = entries
                    .iter()
                    .map(|entry| format!("{:?}", entry.project.name))
                    .collect();
                Err(Error::with(
                    Exit::Usage,
                    format!(
                        "which project? say -p NAME; registered: {}",
                        names.join(", ")
                    ),
                ))
            }
        }
    }

    /// The spool of the one project to act on.
    pub(crate) fn spool(&self) -> Result<Spool> {
        Spool::open(&self.one()?.project)
    }

    /// The spools of all projects in question; one that is unavailable is told of and left out.
    pub(crate) fn spools(&self) -> Vec<Spool> {
        let open = |entry: &Entry| {
            Spool::open(&entry.project)
                .map_err(|error| {
                    render::note(&format!("project {:?}: {error}", entry.project.name))
                })
                .ok()
        };
        self.entries.iter().filter_map(open).collect()
    }

    /// Where a job is, and how it stands there. Ids are unique in practice; if two projects have
    /// one of the same name, the person must say which.
    pub(crate) fn job(&self, id: &JobId) -> Result<(Spool, Standing)> {
        let mut found: Option<(Spool, Standing)> = None;
        for spool in self.spools() {
            if let Some(standing) = standing(&spool, id, self.daemon.is_some())? {
                if let Some((other, _)) = found {
                    return Err(Error::with(
                        Exit::Usage,
                        format!(
                            "{id} is in {:?} and {:?}; say -p NAME",
                            other.project().name,
                            spool.project().name
                        ),
                    ));
                }
                found = Some((spool, standing));
            }
        }
        found.ok_or_else(|| {
            let way_out = match self.nearest(id) {
                Some(nearest) => format!("did you mean {nearest}?"),
                None if self.entries.is_empty() => NO_PROJECT.to_owned(),
                None => "job-monitor queue and job-monitor status list the jobs".to_owned(),
            };
            Error::with(Exit::NotFound, format!("there is no job {id}; {way_out}"))
        })
    }

    /// The job that was probably meant by an id that is none's: one that differs by a slip of the
    /// finger, else the last with the same description, or the same stamp.
    pub(crate) fn nearest(&self, id: &JobId) -> Option<JobId> {
        let mut best: Option<(usize, JobId)> = None;
        let mut rate = |other: JobId| {
            let likeness = likeness(id, &other);
            if best
                .as_ref()
                .is_none_or(|best| (likeness, &other) > (best.0, &best.1))
            {
                best = Some((likeness, other));
            }
        };
        for entry in &self.entries {
            if let Ok(spool) = Spool::open(&entry.project) {
                // What cannot be listed is not suggested.
                let _ =
                    spool.finished(&mut |id, _| JobId::exact(id).into_iter().for_each(&mut rate));
                let waiting = spool.scan(Leftovers::Leave).map(|scan| scan.waiting);
                waiting.unwrap_or_default().into_iter().for_each(&mut rate);
            }
        }
        best.filter(|(likeness, _)| *likeness > 0).map(|(_, id)| id)
    }
}

/// How like one id is to another that may have been typed for it; 0 is not at all.
fn likeness(id: &JobId, other: &JobId) -> usize {
    let (mut a, mut b) = (id.as_str().as_bytes(), other.as_str().as_bytes());
    while let ([first, a_rest @ ..], [other, b_rest @ ..]) = (a, b)
        && first == other
    {
        (a, b) = (a_rest, b_rest);
    }
    while let ([a_rest @ .., last], [b_rest @ .., other]) = (a, b)
        && last == other
    {
        (a, b) = (a_rest, b_rest);
    }
    let letters = |bytes: &[u8]| bytes.iter().copied().map(char::from).collect::<Vec<_>>();
    let is_slip = |a: &[u8], b: &[u8]| cli::distance(&letters(a), &letters(b)) <= SLIP_MAX;
    if a.len().max(b.len()) <= 4 * SLIP_MAX && is_slip(a, b) {
        3
    } else if id.description() == other.description() {
        2
    } else {
        usize::from(id.stamp().is_some() && id.stamp() == other.stamp())
    }
}

/// Of the registry's entries those that a command is about: the one named, the one around the
/// current directory, or all.
pub(crate) fn choose(
    registry: &Registry,
    mut entries: Vec<Entry>,
    named: Option<&str>,
) -> Result<Vec<Entry>> {
    let chosen = match named {
        Some(named) => Some(find(&entries, named).ok_or_else(|| not_registered(registry, named))?),
        None => std::env::current_dir()
            .ok()
            .and_then(|here| around(&entries, &here)),
    };
    Ok(match chosen {
        Some(at) => vec![entries.swap_remove(at)],
        None => entries,
    })
}

/// Where a job stands in one project, if it is there at all.
pub(crate) fn standing(spool: &Spool, id: &JobId, daemon: bool) -> Result<Option<Standing>> {
    if let Some(result) = spool.open_result(id)? {
        return Ok(Some(Standing::Done(result)));
    }
    // A claim that cannot be read is told of by the daemon, and its job is as good as held.
    if let Ok(Some((claim, _))) = spool.read_claim(id) {
        let claim = Box::new(claim);
        let runs = daemon && claim.suspended.is_none();
        return Ok(Some(if runs {
            Standing::Running(claim)
        } else {
            Standing::Suspended(claim)
        }));
    }
    if spool.document_meta(id)?.is_some() {
        return Ok(Some(Standing::Waiting {
            held: spool.has_mark(id, Mark::Hold)?,
        }));
    }
    // The result may have come between the first look and the last.
    Ok(spool.open_result(id)?.map(Standing::Done))
}

/// What looks like a path is no name that was mistyped.
fn not_registered(registry: &Registry, named: &str) -> Error {
    if looks_like_a_path(named) {
        let text = format!("{named:?} is in no registered project; job-monitor list shows them");
        return Error::with(Exit::NotFound, text);
    }
    registry.unknown(named)
}

/// A name that was mistyped must not be taken for a path below the current directory.
fn find(entries: &[Entry], named: &str) -> Option<usize> {
    let by_name = entries.iter().position(|entry| entry.project.name == named);
    let is_path = || looks_like_a_path(named) || Path::new(named).exists();
    by_name.or_else(|| {
        around(
            entries,
            &std::path::absolute(named).ok().filter(|_| is_path())?,
        )
    })
}

fn looks_like_a_path(named: &str) -> bool {
    named.starts_with('.') || named.contains('/')
}

/// The registered project that a path lies in; of nested ones the innermost.
fn around(entries: &[Entry], path: &Path) -> Option<usize> {
    let deepest = |path: &Path, real: bool| {
        let root = |entry: &Entry| -> PathBuf {
            let root = &entry.project.path;
            if real {
                std::fs::canonicalize(root).unwrap_or_else(|_| root.clone())
            } else {
                root.clone()
            }
        };
        let inside = entries
            .iter()
            .enumerate()
            .filter(|(_, entry)| path.starts_with(root(entry)));
        inside
            .max_by_key(|(_, entry)| root(entry).as_os_str().len())
            .map(|(at, _)| at)
    };
    deepest(path, false).or_else(|| deepest(&std::fs::canonicalize(path).ok()?, true))
}
