//! Which projects and which jobs a command means (SPEC 9).

use super::*;

/// What is said where there is nothing to look at.
pub(super) const NO_PROJECT: &str = "no project is registered; job-monitor register PATH adds one";
/// How one finds the id of a job.
const LISTS: &str = "job-monitor queue and job-monitor status list the jobs";

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
    /// Its document waits, or with a claim: it was begun, and goes on later. Without a daemon, that includes one
    /// that was running.
    Waiting(Option<Box<Claim>>),
}

/// A job, and the spool that has it.
pub(crate) struct Job {
    /// Its id.
    pub id: JobId,
    /// Its project's spool.
    pub spool: Rc<Spool>,
}

impl Job {
    /// Jobs of one project.
    pub fn all(of: Spool, ids: impl IntoIterator<Item = JobId>) -> impl Iterator<Item = Job> {
        let of = Rc::new(of);
        ids.into_iter().map(move |id| {
            let spool = Rc::clone(&of);
            Job { id, spool }
        })
    }
}

impl Scope {
    /// Reads the registry and picks; says so where the monitor does not run.
    pub(crate) fn load(which: &Which) -> Result<Scope> {
        let (scope, warnings) = Scope::read(which)?;
        warnings.iter().for_each(|warning| render::note(warning));
        tell_if_stopped(scope.daemon);
        if scope.entries.is_empty() {
            render::note(NO_PROJECT);
        }
        Ok(scope)
    }

    /// The same without a word, and what there would be to say of the registry.
    pub(crate) fn read(which: &Which) -> Result<(Scope, Vec<String>)> {
        let places = Places::find()?;
        let registry = Registry::load(&places.registry())?;
        let (mut entries, warnings) = registry.entries();
        let mut others = Vec::new();
        if let Some(at) = choose(&registry, &entries, which)? {
            others = entries;
            entries = vec![others.remove(at)];
        }
        if matches!(which, Which::Named(_)) {
            others.clear();
        }
        let (daemon, all) = (daemon::running(&places), *which == Which::All);
        let scope = Scope {
            places,
            entries,
            daemon,
            others,
            all,
        };
        Ok((scope, warnings))
    }

    /// The one project to act on.
    pub(crate) fn one(&self) -> Result<&Entry> {
        match self.entries.as_slice() {
            [entry] => Ok(entry),
            [] => Err(Error::with(Exit::NotFound, "there is no project to act on")),
            entries => {
                let names = entries.iter().map(|entry| quoted(&entry.project.name));
                let names = names.collect::<Vec<_>>().join(", ");
                let text = "which project? say -p NAME, or -a for all; registered";
                Err(Error::with(Exit::Usage, format!("{text}: {names}")))
            }
        }
    }

    /// The projects of which all jobs are meant: one, unless somebody said all or the command needs
    /// nobody to say so.
    pub(crate) fn whole(&self, is_harmless: bool) -> Result<Vec<Spool>> {
        match self.all || is_harmless {
            true => Ok(self.spools()),
            false => Ok(vec![Spool::open(&self.one()?.project)?]),
        }
    }

    /// The spools of all projects in question; one that is unavailable is told of and left out.
    pub(crate) fn spools(&self) -> Vec<Spool> {
        let open = |entry: &Entry| {
            let name = &entry.project.name;
            let told = |e: &Error| render::note(&format!("project {name:?}: {e}"));
            Spool::open(&entry.project).inspect_err(told).ok()
        };
        self.entries.iter().filter_map(open).collect()
    }

    /// The registry's entry of a project.
    pub(crate) fn entry(&self, project: &str) -> Result<&Entry> {
        let mut entries = self.entries.iter().chain(&self.others);
        let found = entries.find(|entry| entry.project.name == project);
        found.ok_or_else(|| Error::with(Exit::NotFound, format!("no project named {project:?}")))
    }

    /// Says so where no job of a project is started.
    pub(crate) fn tell_if_disabled(&self, project: &str) {
        if self.entry(project).is_ok_and(|entry| !entry.enabled) {
            let name = quoted(project);
            let text = "is disabled, and its jobs wait until job-monitor enable";
            render::note(&format!("project {project:?} {text} {name}"));
        }
    }

    /// The job that was typed: its id, or a part of it that no other job has. It is looked for in the
    /// projects in question, else in the others.
    pub(crate) fn job(&self, typed: &str) -> Result<Job> {
        let (whole, part) = (JobId::parse(typed), typed.trim_end_matches(".md"));
        let whole = whole.as_ref();
        let mut found = Vec::new();
        // What has the form of an id may be the beginning of another.
        let (here, others) = (&self.entries, &self.others);
        for (whole, entries) in [(whole, here), (whole, others), (None, here), (None, others)] {
            for spool in entries.iter().flat_map(|entry| Spool::open(&entry.project)) {
                let mut ids = Vec::new();
                match whole {
                    Some(id) => ids.extend(standing_in(&spool, id, false)?.map(|_| id.clone())),
                    None => each_id(&spool, &mut |id, _| {
                        ids.extend(Some(id).filter(|id| id.as_str().contains(part)));
                    })?,
                }
                found.extend(Job::all(spool, ids));
            }
            if !found.is_empty() {
                break;
            }
        }
        let count = found.len();
        let Some(job) = found.pop() else {
            // It may be in a project that cannot be looked at, which this says.
            self.spools();
            let text = format!("no job has {part:?} in its id; {LISTS}");
            return Err(Error::with(Exit::NotFound, text));
        };
        if count > 1 {
            let (id, project) = (&job.id, &job.spool.project().name);
            let text = format!("{count} jobs have {part:?} in their id, as {id} of {project:?}");
            let text = text + "; say more of it, or -p NAME";
            return Err(Error::with(Exit::Usage, text));
        }
        Ok(job)
    }

    /// The same for a word that may be missing: then the job that runs is meant, else the newest.
    pub(crate) fn job_or_latest(&self, typed: Option<&String>) -> Result<Job> {
        if let Some(typed) = typed {
            return self.job(typed);
        }
        let (mut latest, mut spools) = (None, self.spools());
        for (place, spool) in spools.iter().enumerate() {
            let begun = spool.marks()?.claims;
            each_id(spool, &mut |id, ended| {
                let found = (begun.contains(&id), ended, id, place);
                latest = latest.take().max(Some(found));
            })?;
        }
        let none = "there is no job yet; job-monitor submit hands one in";
        let none = || Error::with(Exit::NotFound, none);
        let (_, _, id, place) = latest.ok_or_else(none)?;
        let spool = Rc::new(spools.swap_remove(place));
        Ok(Job { id, spool })
    }

    /// Where a job stands just now, the daemon running or not.
    pub(crate) fn standing(&self, job: &Job) -> Result<Standing> {
        let runs = daemon::running(&self.places).is_some();
        let standing = standing_in(&job.spool, &job.id, runs)?;
        let gone = || Error::with(Exit::NotFound, format!("{} was withdrawn", job.id));
        standing.ok_or_else(gone)
    }
}

/// Says so where the monitor does not run.
pub(super) fn tell_if_stopped(daemon: Option<i32>) {
    if daemon.is_none() {
        let how = service::start_command();
        render::note(&format!("the monitor is not running; start it with: {how}"));
    }
}

/// Every job of a project, with the time of its result if it is finished.
pub(super) fn each_id(spool: &Spool, each: &mut dyn FnMut(JobId, Option<Wall>)) -> Result<()> {
    spool.finished(&mut |id, ended| each(id, Some(ended)))?;
    open_ids(spool)?.into_iter().for_each(|id| each(id, None));
    Ok(())
}

/// The jobs of a project that are not done, in order.
pub(super) fn open_ids(spool: &Spool) -> Result<BTreeSet<JobId>> {
    let mut ids = spool.scan()?.waiting;
    let begun = spool.marks()?.claims.into_iter();
    ids.extend(begun.filter(|id| matches!(spool.has_result(id), Ok(false))));
    Ok(ids)
}

/// Refuses to wait, inside of a job, for a job of the same project.
pub(super) fn refuse_own_wait(project: &str) -> Result<()> {
    let own = ["JOB_MONITOR_PROJECT", "JOB_MONITOR_JOB_ID"].map(settings::variable);
    match own {
        [Some(own), Some(id)] if own == project => Err(Error::new(format!(
            "{id} would wait for a job of its own project, which runs one job at a time: it would wait for ever"
        ))),
        _ => Ok(()),
    }
}

/// Where a job stands in one project, if it is there at all. Its claim is looked for first: it goes only
/// once the result is there.
pub(super) fn standing_in(spool: &Spool, id: &JobId, daemon: bool) -> Result<Option<Standing>> {
    // A claim that cannot be read is told of by the daemon, and its job is as good as held.
    let claim = spool.read_claim(id).ok().flatten().map(Box::new);
    Ok(Some(match (spool.open_result(id)?, claim) {
        (Some(result), _) => Standing::Done(result),
        (None, Some(claim)) if daemon && claim.suspended.is_none() => Standing::Running(claim),
        (None, None) if spool.document_meta(id)?.is_none() => return Ok(None),
        (None, claim) => Standing::Waiting(claim),
    }))
}

/// Which of the entries a command is about, if it is about one.
fn choose(registry: &Registry, entries: &[Entry], which: &Which) -> Result<Option<usize>> {
    let here = std::env::current_dir().unwrap_or_default();
    match which {
        Which::All => Ok(None),
        Which::Around => Ok(around(entries, &here)),
        Which::Named(name) => {
            let by_name = entries.iter().position(|entry| entry.project.name == *name);
            // A name that was mistyped must not be taken for a path below the current directory.
            let is_path = name.contains('/') || Path::new(name).exists();
            let by_path = || around(entries, &here.join(name)).filter(|_| is_path);
            let found = by_name.or_else(by_path);
            found.map(Some).ok_or_else(|| registry.unknown(name))
        }
    }
}

/// The registered project that a path leads into; of nested ones the innermost. The paths of projects are
/// compared as text first, since to resolve each could hang in a dead mount.
fn around(entries: &[Entry], path: &Path) -> Option<usize> {
    // A path that leads nowhere and has `..` in it may mean any directory.
    let climbs = path.components().any(|part| part == Component::ParentDir);
    let resolved = path.canonicalize().ok();
    let path = resolved.or_else(|| (!climbs).then(|| path.to_owned()))?;
    let innermost = |roots: Vec<PathBuf>| {
        let mut dirs = path.ancestors();
        dirs.find_map(|dir| roots.iter().position(|root| root == dir))
    };
    let roots = || entries.iter().map(|entry| entry.project.path.clone());
    let resolved = || roots().map(|root| root.canonicalize().unwrap_or_default());
    innermost(roots().collect()).or_else(|| innermost(resolved().collect()))
}
