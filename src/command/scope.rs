//! Which projects and which jobs a command means (SPEC 9).

use crate::cli::{JobName, Which};
use crate::daemon;
use crate::error::{Error, Exit, Result};
use crate::job::JobId;
use crate::record::Claim;
use crate::registry::{Entry, Registry};
use crate::render::{self, quoted};
use crate::service;
use crate::settings::{self, Places};
use crate::spool::{Leftovers, Mark, Spool};
use crate::text::nearest;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Component, Path, PathBuf};

/// What is said where there is nothing to look at.
pub(super) const NO_PROJECT: &str = "no project is registered; job-monitor register PATH adds one";
/// Of the ids that a part stands for, so many are listed.
const LISTED_MAX: usize = 5;

/// The projects that a command may look at.
pub(crate) struct Scope {
    /// Where configuration and state are.
    pub places: Places,
    /// The projects in question, in the registry's order.
    pub entries: Vec<Entry>,
    /// The running daemon's pid.
    pub daemon: Option<i32>,
    /// The registered projects in which an id is looked for, too.
    others: Vec<Entry>,
    /// Whether somebody said that all projects are meant.
    all: bool,
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
    /// Reads the registry and picks; says so where the monitor does not run.
    pub(crate) fn load(which: &Which) -> Result<Scope> {
        let (scope, warnings) = Scope::read(which)?;
        warnings.iter().for_each(|warning| render::note(warning));
        if scope.daemon.is_none() {
            let how = service::start_command();
            render::note(&format!("the monitor is not running; start it with: {how}"));
        }
        Ok(scope)
    }

    /// The same without a word, and what there would be to say of the registry.
    pub(crate) fn read(which: &Which) -> Result<(Scope, Vec<String>)> {
        let places = Places::find()?;
        let registry = Registry::load(&places.registry())?;
        let (entries, warnings) = registry.entries();
        let (entries, mut others) = choose(&registry, entries, which)?;
        if matches!(which, Which::Named(_)) {
            others.clear();
        }
        let daemon = daemon::running(&places);
        let all = *which == Which::All;
        Ok((
            Scope {
                places,
                entries,
                daemon,
                others,
                all,
            },
            warnings,
        ))
    }

    /// The one project to act on.
    pub(crate) fn one(&self) -> Result<&Entry> {
        match self.entries.as_slice() {
            [entry] => Ok(entry),
            [] => Err(Error::with(Exit::NotFound, NO_PROJECT)),
            entries => {
                let names: Vec<_> = entries
                    .iter()
                    .map(|entry| quoted(&entry.project.name))
                    .collect();
                let names = names.join(", ");
                let text =
                    format!("which project? say -p NAME, or -a for all; registered: {names}");
                Err(Error::with(Exit::Usage, text))
            }
        }
    }

    /// The same, for a command that needs nobody to say that all its projects are meant.
    pub(crate) fn of_all(self) -> Scope {
        Scope { all: true, ..self }
    }

    /// The projects of which all jobs are meant: one, unless somebody said all.
    pub(crate) fn whole(&self) -> Result<Vec<Spool>> {
        if !self.all {
            return Ok(vec![Spool::open(&self.one()?.project)?]);
        }
        Ok(self.spools())
    }

    /// The spools of all projects in question; one that is unavailable is told of and left out.
    pub(crate) fn spools(&self) -> Vec<Spool> {
        let open = |entry: &Entry| match Spool::open(&entry.project) {
            Ok(spool) => Some(spool),
            Err(error) => {
                render::note(&format!("project {:?}: {error}", entry.project.name));
                None
            }
        };
        self.entries.iter().filter_map(open).collect()
    }

    /// The registry's entry of a project.
    pub(crate) fn entry(&self, project: &str) -> Result<&Entry> {
        let mut entries = self.entries.iter().chain(&self.others);
        let found = entries.find(|entry| entry.project.name == project);
        found.ok_or_else(|| Error::with(Exit::NotFound, format!("no project named {project:?}")))
    }

    /// Until when a project that is disabled starts nothing.
    pub(crate) fn disabled(&self, project: &str) -> Option<String> {
        let entry = self.entry(project).ok().filter(|entry| !entry.enabled)?;
        let name = quoted(&entry.project.name);
        Some(format!(
            "until its project is enabled (job-monitor enable {name})"
        ))
    }

    /// Until when nothing happens to the jobs of a project, if that is so.
    pub(crate) fn delay(&self, project: &str) -> Option<String> {
        let stopped = || {
            self.daemon
                .is_none()
                .then(|| "until the monitor runs".to_owned())
        };
        self.disabled(project).or_else(stopped)
    }

    /// Where a job is, and how it stands there.
    pub(crate) fn job(&self, id: &JobId) -> Result<(Spool, Standing)> {
        self.find(id)?.ok_or_else(|| {
            // It may be in a project that cannot be looked at, which this says.
            self.spools();
            let way_out = match self.nearest(id) {
                Some(nearest) => format!("did you mean {nearest}?"),
                None if self.entries.is_empty() => NO_PROJECT.to_owned(),
                None => "job-monitor queue and job-monitor status list the jobs".to_owned(),
            };
            Error::with(Exit::NotFound, format!("there is no job {id}; {way_out}"))
        })
    }

    /// Looks for a job in the projects in question, then in the others. Ids are unique in practice;
    /// if two projects have one of the same name, the person must say which.
    fn find(&self, id: &JobId) -> Result<Option<(Spool, Standing)>> {
        for entries in [&self.entries, &self.others] {
            let mut found: Option<(Spool, Standing)> = None;
            for spool in entries
                .iter()
                .filter_map(|entry| Spool::open(&entry.project).ok())
            {
                let Some(standing) = standing(&spool, id, self.daemon.is_some())? else {
                    continue;
                };
                if let Some((other, _)) = &found {
                    let (one, other) = (&other.project().name, &spool.project().name);
                    let text = format!("{id} is in {one:?} and {other:?}; say -p NAME");
                    return Err(Error::with(Exit::Usage, text));
                }
                found = Some((spool, standing));
            }
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The job that was typed: an id, of which a part is enough if no other job has it. An id that
    /// is none's is given back as it is.
    pub(crate) fn resolve(&self, typed: &JobName) -> Result<JobId> {
        let exact = JobId::parse(typed.as_str());
        if let Some(id) = &exact
            && self.find(id)?.is_some()
        {
            return Ok(id.clone());
        }
        let part = typed.as_str().strip_suffix(".md").unwrap_or(typed.as_str());
        for entries in [&self.entries, &self.others] {
            let mut ids = BTreeSet::new();
            each_id(entries, &mut |id| {
                if id.as_str().contains(part) {
                    ids.insert(id);
                }
            });
            match ids.len() {
                0 => {}
                1 => return Ok(ids.into_iter().next().expect("there is one")),
                count => {
                    let last: Vec<_> = ids
                        .iter()
                        .rev()
                        .take(LISTED_MAX)
                        .map(JobId::as_str)
                        .collect();
                    let more = if count > LISTED_MAX { ", …" } else { "" };
                    let last = last.join(", ");
                    let text = format!("{count} jobs have {part:?} in their id: {last}{more}");
                    return Err(Error::with(Exit::Usage, text));
                }
            }
        }
        exact.ok_or_else(|| {
            let lists = "job-monitor queue and job-monitor status list the jobs";
            Error::with(
                Exit::NotFound,
                match self.entries.is_empty() {
                    true => NO_PROJECT.to_owned(),
                    false => format!("no job has {part:?} in its id; {lists}"),
                },
            )
        })
    }

    /// The same for a word that may be missing: then the job that runs is meant, else the newest.
    pub(crate) fn resolve_or_latest(&self, typed: Option<&JobName>) -> Result<JobId> {
        if let Some(typed) = typed {
            return self.resolve(typed);
        }
        let (mut running, mut finished, mut waiting) = (None, None, None);
        for spool in self.spools() {
            for id in spool.marks(Leftovers::Leave)?.claims {
                if let Some(Standing::Running(claim)) =
                    standing(&spool, &id, self.daemon.is_some())?
                {
                    running = running.max(Some((claim.started_at, id)));
                }
            }
            spool.finished(&mut |id, written| {
                if finished
                    .as_ref()
                    .is_none_or(|(newest, _)| written > *newest)
                {
                    finished = JobId::exact(id).map(|id| (written, id)).or(finished.take());
                }
            })?;
            waiting = waiting.max(spool.scan(Leftovers::Leave)?.waiting.into_iter().max());
        }
        let latest = running
            .map(|(_, id)| id)
            .or(finished.map(|(_, id)| id))
            .or(waiting);
        latest.ok_or_else(|| {
            let text = "there is no job yet; job-monitor submit hands one in";
            Error::with(
                Exit::NotFound,
                if self.entries.is_empty() {
                    NO_PROJECT
                } else {
                    text
                },
            )
        })
    }

    /// The job that was probably meant by an id that is none's: the last one whose description is
    /// the same, but for a slip.
    pub(crate) fn nearest(&self, id: &JobId) -> Option<JobId> {
        let mut ids = Vec::new();
        for entries in [&self.entries, &self.others] {
            each_id(entries, &mut |id| ids.push(id));
        }
        let meant = nearest(id.description(), ids.iter().map(JobId::description))?;
        let last = ids.iter().filter(|id| id.description() == meant).max();
        last.cloned()
    }
}

/// Every job that there is, finished or not. What cannot be listed is left out.
fn each_id(entries: &[Entry], each: &mut dyn FnMut(JobId)) {
    for spool in entries
        .iter()
        .filter_map(|entry| Spool::open(&entry.project).ok())
    {
        let _ = spool.finished(&mut |id, _| JobId::exact(id).into_iter().for_each(&mut *each));
        let waiting = spool.scan(Leftovers::Leave).map(|scan| scan.waiting);
        let begun = spool.marks(Leftovers::Leave).map(|marks| marks.claims);
        waiting.unwrap_or_default().into_iter().for_each(&mut *each);
        begun.unwrap_or_default().into_iter().for_each(&mut *each);
    }
}

/// Refuses to wait, inside of a job, for a job of the same project.
pub(super) fn refuse_own_wait(project: &str) -> Result<()> {
    let own =
        settings::variable("JOB_MONITOR_PROJECT").zip(settings::variable("JOB_MONITOR_JOB_ID"));
    match own {
        Some((own, id)) if own == project => Err(Error::new(format!(
            "{id} would wait for a job of its own project, which runs one job at a time: it would wait for ever"
        ))),
        _ => Ok(()),
    }
}

/// Where a job stands in one project, if it is there at all.
pub(crate) fn standing(spool: &Spool, id: &JobId, daemon: bool) -> Result<Option<Standing>> {
    if let Some(result) = spool.open_result(id)? {
        return Ok(Some(Standing::Done(result)));
    }
    // A claim that cannot be read is told of by the daemon, and its job is as good as held.
    if let Ok(Some(claim)) = spool.read_claim(id) {
        let claim = Box::new(claim);
        return Ok(Some(match daemon && claim.suspended.is_none() {
            true => Standing::Running(claim),
            false => Standing::Suspended(claim),
        }));
    }
    if spool.document_meta(id)?.is_some() {
        let held = spool.has_mark(id, Mark::Hold)?;
        return Ok(Some(Standing::Waiting { held }));
    }
    // The result may have come between the first look and the last.
    Ok(spool.open_result(id)?.map(Standing::Done))
}

/// Parts the registry's entries into those that a command is about and the others.
pub(crate) fn choose(
    registry: &Registry,
    mut entries: Vec<Entry>,
    which: &Which,
) -> Result<(Vec<Entry>, Vec<Entry>)> {
    let chosen = match which {
        Which::All => None,
        Which::Named(name) => {
            Some(find_named(&entries, name).ok_or_else(|| not_registered(registry, name))?)
        }
        Which::Around => std::env::current_dir()
            .ok()
            .and_then(|here| around(&entries, &here)),
    };
    Ok(match chosen {
        Some(at) => (vec![entries.remove(at)], entries),
        None => (entries, Vec::new()),
    })
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
fn find_named(entries: &[Entry], named: &str) -> Option<usize> {
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

/// The registered project that an absolute path lies in; of nested ones the innermost. Paths are
/// compared as text first, since to resolve each could hang in a dead mount; one with `..` in it
/// means nothing before it is resolved.
fn around(entries: &[Entry], path: &Path) -> Option<usize> {
    let deepest = |path: &Path, root: fn(&Path) -> PathBuf| {
        let roots = entries
            .iter()
            .map(|entry| root(&entry.project.path))
            .enumerate();
        let inside = roots.filter(|(_, root)| path.starts_with(root));
        inside
            .max_by_key(|(_, root)| root.as_os_str().len())
            .map(|(at, _)| at)
    };
    let is_plain = !path.components().any(|part| part == Component::ParentDir);
    let as_text = is_plain.then(|| deepest(path, Path::to_owned)).flatten();
    as_text.or_else(|| deepest(&resolved(path), resolved))
}

/// Where a path leads. Of one that leads nowhere, at least what is above it is resolved.
fn resolved(path: &Path) -> PathBuf {
    let above = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    path.canonicalize()
        .ok()
        .or_else(above)
        .unwrap_or_else(|| path.to_owned())
}
