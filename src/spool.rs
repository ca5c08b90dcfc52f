//! All input and output inside a project's directories: documents, claims, marks, results, logs,
//! the view. The daemon holds the spool's lock and writes everything but documents and marks;
//! commands look, and leave documents and marks. (`clean`, which removes what is old, opens the directories itself.)

use crate::document::{self, Wishes};
use crate::error::{Error, Result, one_line};
use crate::files::{self, Dir, Durability, Make, meta_of};
use crate::job::{self, JobId, Meta, Name};
use crate::project::Project;
use crate::record::{Claim, QueueView};
use crate::time::Wall;
use log::Level;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{FileStat, fstat};
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

/// A claim is a few kilobytes, and carries at most what its attempts brought.
const CLAIM_MAX: u64 = 64 << 20;
/// The view holds one name for each waiting job.
const VIEW_MAX: u64 = 256 << 20;
/// A document is submitted again only up to this size.
const TEXT_MAX: u64 = 1 << 30;
/// Front matter is shorter.
const HEAD_MAX: u64 = 4 << 10;
/// The file in `state/` whose lock says that a daemon works on the project.
const LOCK: &str = ".lock";
/// The view of the queue.
const VIEW: &str = "queue_state.json";
/// The project's log.
const JOURNAL: &str = "monitor.log";
/// The project's log is rotated at this size; one old file is kept (SPEC 8).
const JOURNAL_MAX: u64 = 1 << 20;
/// The name of a file that a command makes and removes in the documents' directory, so that
/// the daemon looks at the marks. The daemon writes too much into `state/` itself to watch it.
pub const POKE: &str = ".poke";

/// A request that a command leaves in `state/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// End or withdraw the job.
    Cancel,
    /// Do not start the job.
    Hold,
    /// Lift the hold of the agent that the job waits for.
    Release,
}

impl Mark {
    fn name(self, id: &JobId) -> String {
        let ending = match self {
            Mark::Cancel => "cancel",
            Mark::Hold => "hold",
            Mark::Release => "release",
        };
        format!("{id}.{ending}")
    }
}

/// One project's directories. They are opened when something is done in them, and stay open until
/// [`Spool::rest`], so that what belongs together happens in one place wherever that is moved.
#[derive(Debug)]
pub struct Spool {
    project: Project,
    open: OnceCell<Dirs>,
}

#[derive(Debug)]
struct Dirs {
    /// The project's directory, by its real name.
    top: Dir,
    items: Dir,
    results: Dir,
    state: Dir,
    logs: Dir,
}

/// Documents, results, state and logs, of which some may be missing.
pub type Looks = [Option<Meta>; 4];

/// Proof that no other daemon works on the project; held as long as the value lives.
pub type SpoolLock = Flock<File>;

/// What looking at all documents brought.
#[derive(Debug, Default)]
pub struct Scan {
    /// Documents without a result, in order.
    pub waiting: BTreeSet<JobId>,
    /// Entries that a person may take for jobs but are none, with what is wrong.
    pub odd: BTreeMap<String, String>,
    /// What killed processes left of documents that they were about to put here.
    pub left: Vec<String>,
}

/// What a name in the documents' directory stands for.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// A document without a result.
    Waiting(JobId),
    /// Something that a person may take for a job but is none, with what is wrong.
    Odd(String),
    /// Nothing, a finished job's document, or something that is nobody's business here.
    Nothing,
}

/// What is in `state/`, besides the view.
#[derive(Debug, Default)]
pub struct Marks {
    /// Claims.
    pub claims: BTreeSet<JobId>,
    /// Cancel marks.
    pub cancelled: BTreeSet<JobId>,
    /// Hold marks.
    pub held: BTreeSet<JobId>,
    /// Release marks.
    pub released: BTreeSet<JobId>,
}

impl Dirs {
    /// A missing project, or one without the directory of documents, is an error (`is_not_found`), and
    /// nothing is made in its place: it may be an empty mount point. The other directories are ours, and
    /// made where missing.
    fn open(project: &Project) -> Result<Dirs> {
        let (top, layout) = (Dir::open(&project.path)?, project.layout);
        let items = sub(&top, layout.items(), Make::Nothing);
        let items = items.map_err(|error| match error.is_not_found() {
            true => error.context("the documents' directory is missing; make it again"),
            false => error,
        })?;
        Ok(Dirs {
            items,
            results: sub(&top, layout.results(), Make::Missing)?,
            state: sub(&top, layout.state(), Make::Missing)?,
            logs: sub(&top, layout.logs(), Make::Missing)?,
            top,
        })
    }

    fn looks(&self) -> Looks {
        let dirs = [&self.items, &self.results, &self.state, &self.logs];
        dirs.map(|dir| dir.stat().as_ref().map(meta_of).ok())
    }
}

/// What the directories of a project look like to which their paths lead. Where nothing has changed in that,
/// nobody has put anything into them, or taken it away.
pub fn looks_of(project: &Project) -> Looks {
    let [items, results, state, logs, _] = project.layout.dirs();
    [items, results, state, logs].map(|dir| files::meta_at(&project.path.join(dir)).ok())
}

impl Spool {
    /// A project's directories, opened to see whether they are there.
    pub fn open(project: &Project) -> Result<Spool> {
        let (project, open) = (project.clone(), Dirs::open(project)?.into());
        Ok(Spool { project, open })
    }

    /// Makes those of a project's directories that are missing, and keeps Git away from them, so that
    /// neither an agent nor a person commits, stashes or cleans the spool by accident.
    pub fn create(project: &Project) -> Result<Spool> {
        let (top, items) = (Dir::open(&project.path)?, project.layout.items());
        if let Some((above, _)) = items.split_once('/') {
            sub(&top, above, Make::Missing)?.add(".gitignore", b"*\n")?;
        }
        sub(&top, items, Make::Missing)?;
        Spool::open(project)
    }

    /// Closes all directories. The next method that needs one finds it by its path, so before a
    /// claim this makes sure that the agent works in the place that the registry names; and an idle
    /// project holds no descriptor and keeps no file system from being unmounted.
    pub fn rest(&mut self) {
        self.open.take();
    }

    /// Finds the directories anew by their paths. Where they are gone, or another project is in the place
    /// of this one, those that are open stay so: what belongs to a project goes with it.
    pub fn reopen(&mut self) -> Result<()> {
        let found = Dirs::open(&self.project)?;
        if let Some(before) = self.open.get() {
            let (old, new) = (before.top.stat()?, found.top.stat()?);
            // One that was deleted is nowhere else.
            if meta_of(&old).place != meta_of(&new).place && old.st_nlink > 0 {
                let path = self.project.path.display();
                let text = format!("another directory took the place of {path}");
                return Err(Error::new(text));
            }
        }
        self.open = found.into();
        Ok(())
    }

    /// Whether the directories that are open, if any are, are those to which their paths lead.
    pub fn is_in_place(&self) -> bool {
        let places = |looks: Looks| looks.map(|look| Some(look?.place));
        let are = |dirs: &Dirs| places(dirs.looks()) == places(looks_of(&self.project));
        self.open.get().is_none_or(are)
    }

    /// What its directories look like that are open.
    pub fn looks(&self) -> Result<Looks> {
        self.dirs().map(Dirs::looks)
    }

    /// Whether anything is at a path within the project.
    pub fn has(&self, relative: &str) -> bool {
        let has = |dirs: &Dirs| dirs.top.has(relative);
        self.dirs().and_then(has).unwrap_or(false)
    }

    fn dirs(&self) -> Result<&Dirs> {
        if let Some(dirs) = self.open.get() {
            return Ok(dirs);
        }
        let found = Dirs::open(&self.project)?;
        Ok(self.open.get_or_init(|| found))
    }

    /// The directory of documents.
    pub fn items(&self) -> Result<&Dir> {
        Ok(&self.dirs()?.items)
    }

    /// The directory of logs.
    pub fn logs(&self) -> Result<&Dir> {
        Ok(&self.dirs()?.logs)
    }

    /// The project.
    pub fn project(&self) -> &Project {
        &self.project
    }

    /// The project's directory by its real name, without symbolic links.
    pub fn root(&self) -> Result<PathBuf> {
        Ok(self.dirs()?.top.path().to_owned())
    }

    /// The directory of documents, to be watched.
    pub fn items_path(&self) -> PathBuf {
        self.project.path.join(self.project.layout.items())
    }

    /// Whether a project that was served before has nothing in `state/` to know it by.
    pub fn has_lost_state(&self) -> Result<bool> {
        let dirs = self.dirs()?;
        Ok(!dirs.state.has(LOCK)? && dirs.logs.has(JOURNAL)?)
    }

    /// Takes the project for this daemon.
    pub fn lock(&self) -> Result<SpoolLock> {
        let state = &self.dirs()?.state;
        let lock = state.lock(LOCK, FlockArg::LockExclusiveNonblock)?;
        let served = "is served by another monitor, or registered under a second name";
        let text = format!("{} {served}", self.project.path.display());
        lock.ok_or_else(|| Error::new(text + "; end the one or unregister the other"))
    }

    // --- documents ---

    /// Looks at every document's name, and which of them have a result. A result is remembered as one number,
    /// so that a hundred thousand of them take no room; that two names have the same one practically never
    /// happens, and not twice, since the numbers are different each time.
    pub fn scan(&self) -> Result<Scan> {
        let (dirs, number) = (self.dirs()?, RandomState::new());
        let (mut done, mut scan) = (Vec::new(), Scan::default());
        for name in dirs.results.list()? {
            done.extend(name?.strip_suffix(".json").map(|id| number.hash_one(id)));
        }
        done.sort_unstable();
        let is_done = |id: &str| done.binary_search(&number.hash_one(id)).is_ok();
        for name in dirs.items.list()? {
            let name = name?;
            if name.strip_suffix(".md").is_some_and(is_done) {
                continue;
            }
            match self.look_at(&name)? {
                Look::Waiting(id) => drop(scan.waiting.insert(id)),
                Look::Odd(what) => drop(scan.odd.insert(name, what)),
                Look::Nothing if is_left(&name) => scan.left.push(name),
                Look::Nothing => {}
            }
        }
        Ok(scan)
    }

    /// Looks at one name in the documents' directory, as an event brings it.
    pub fn look_at(&self, name: &str) -> Result<Look> {
        let (dirs, meaning) = (self.dirs()?, Name::of(name, self.project.layout));
        if meaning == Name::Other && (!name.ends_with(".md") || name.starts_with('.')) {
            return Ok(Look::Nothing);
        }
        let stat = dirs.items.look(name)?;
        // One that is no text is there, but cannot be looked up by what was made of it.
        if stat.is_none() && !name.contains(char::REPLACEMENT_CHARACTER) {
            return Ok(Look::Nothing);
        }
        let odd = match meaning {
            Name::Other => {
                let path = self.items_path().join(name);
                format!("not a job's name; job-monitor submit {}", path.display())
            }
            Name::Bad => {
                let form = self.project.layout.form();
                format!("its name is not that of a job; rename it to {form}")
            }
            Name::Job(id) => {
                if let Some(what) = stat.as_ref().and_then(odd) {
                    what
                } else if self.has_result(&id)? {
                    return Ok(Look::Nothing);
                } else if let Some(what) = self.copied(id.as_str())? {
                    what
                } else {
                    return Ok(Look::Waiting(id));
                }
            }
        };
        Ok(Look::Odd(odd))
    }

    /// What to say of a document or result that is a copy of a known job's.
    fn copied(&self, id: &str) -> Result<Option<String>> {
        let dirs = self.dirs()?;
        for original in job::originals(id) {
            if dirs.items.has(&format!("{original}.md"))?
                || dirs.results.has(&format!("{original}.json"))?
                || dirs.state.has(&format!("{original}.claim"))?
            {
                let what = format!("it is a copy of the job {original}");
                return Ok(Some(what + "; remove it, or rename it to run it"));
            }
        }
        Ok(None)
    }

    /// Reads a document, at most `max + 1` bytes, unless somebody has it open for writing; `None` if it was
    /// withdrawn. An error concerns this document alone, but for a shortage.
    pub fn take(&self, id: &JobId, max: u64) -> Result<Option<(Meta, Option<Vec<u8>>)>> {
        let name = id.file_name();
        let Some(file) = self.dirs()?.items.open_file(&name)? else {
            return Ok(None);
        };
        let failed = |verb, error| Error::io(verb, &self.items_path().join(&name), error);
        let stat = fstat(&file).map_err(|e| failed("look at", e.into()))?;
        if let Some(what) = odd(&stat) {
            return Err(Error::new(what));
        }
        let mut meta = meta_of(&stat);
        if files::private_group() == Some(stat.st_gid) && meta.mode & 0o002 == 0 {
            // That opens it to nobody.
            meta.mode &= !0o020;
        }
        // The lease, if the file system has them, lasts until the file is closed below: nobody
        // can have begun to write before the text is read.
        let text = match has_writer(&file) {
            true => Ok(None),
            false => files::read_range(&file, 0, max.saturating_add(1)).map(Some),
        };
        Ok(Some((meta, text.map_err(|error| failed("read", error))?)))
    }

    /// What `ls` would say of a document: `None` if it is not there.
    pub fn document_meta(&self, id: &JobId) -> Result<Option<Meta>> {
        let stat = self.items()?.look(&id.file_name())?;
        Ok(stat.as_ref().map(meta_of))
    }

    /// What the document of a waiting job wishes, as far as its beginning tells.
    pub fn wishes(&self, id: &JobId) -> Option<Wishes> {
        let file = self.items().ok()?.open_file(&id.file_name()).ok()??;
        let head = files::read_range(&file, 0, HEAD_MAX).ok()?;
        // It may be cut in the midst of a character.
        let head = String::from_utf8_lossy(&head);
        let document = document::check(head.as_bytes(), &Meta::default(), u64::MAX);
        Some(document.ok()?.wishes)
    }

    /// Puts a new document into the spool, whole and durable; `false` if the name is taken.
    pub fn submit(&self, id: &JobId, text: &[u8]) -> Result<bool> {
        Ok(!self.has_result(id)? && self.dirs()?.items.add(&id.file_name(), text)?)
    }

    /// The text of a finished job, as it was kept or still lies in the spool or in the archive.
    pub fn text(&self, id: &JobId) -> Result<Option<Vec<u8>>> {
        let (dirs, name) = (self.dirs()?, id.file_name());
        for dir in [&dirs.logs, &dirs.items] {
            if let Some(text) = dir.read(&name, TEXT_MAX)? {
                return Ok(Some(text));
            }
        }
        match self.archive_dir(Make::Nothing) {
            Err(error) if error.is_not_found() => Ok(None),
            archive => archive?.read(&name, TEXT_MAX),
        }
    }

    /// The latest time stamp of a document or result before `horizon`.
    pub fn last_stamp_before(&self, horizon: &str) -> Result<Option<String>> {
        let (dirs, mut last) = (self.dirs()?, None);
        for name in dirs.items.list()?.chain(dirs.results.list()?) {
            let name = name?;
            let id = name.rsplit_once('.').and_then(|(id, _)| JobId::exact(id));
            let stamp = id.as_ref().and_then(JobId::stamp);
            let stamp = stamp.filter(|stamp| *stamp < horizon);
            last = last.max(stamp.map(str::to_owned));
        }
        Ok(last)
    }

    fn archive_dir(&self, make: Make) -> Result<Dir> {
        sub(&self.dirs()?.top, self.project.layout.archive(), make)
    }

    /// Moves a finished job's document out of the spool.
    pub fn archive(&self, id: &JobId) -> Result<()> {
        let (dirs, name) = (self.dirs()?, id.file_name());
        if !dirs.items.has(&name)? {
            return Ok(());
        }
        let archive = self.archive_dir(Make::Missing)?;
        dirs.items.rename_to(&name, &archive, &name)
    }

    // --- claims and marks ---

    /// Which claims and marks are in `state/`.
    pub fn marks(&self) -> Result<Marks> {
        let mut marks = Marks::default();
        for name in self.dirs()?.state.list()? {
            let name = name?;
            let (stem, ending) = name.rsplit_once('.').unwrap_or_default();
            let all = match ending {
                "claim" => &mut marks.claims,
                "cancel" => &mut marks.cancelled,
                "hold" => &mut marks.held,
                "release" => &mut marks.released,
                _ => continue,
            };
            all.extend(JobId::exact(stem));
        }
        Ok(marks)
    }

    /// Reads a claim; `None` if there is none. One that cannot be read is an error that says so; it is
    /// never taken for permission to start.
    pub fn read_claim(&self, id: &JobId) -> Result<Option<Claim>> {
        let (state, name) = (&self.dirs()?.state, claim_name(id));
        let Some(bytes) = state.read(&name, CLAIM_MAX)? else {
            return Ok(None);
        };
        let claim = Claim::parse(&bytes).and_then(|claim| match claim.job_id == *id {
            true => Ok(claim),
            false => Err("it names another job".to_owned()),
        });
        let path = state.path_of(&name);
        let broken = |why| Error::new(format!("the claim {} is broken: {why}", path.display()));
        claim.map(Some).map_err(broken)
    }

    /// Makes a claim durable.
    pub fn write_claim(&self, claim: &Claim) -> Result<()> {
        let (state, name) = (&self.dirs()?.state, claim_name(&claim.job_id));
        state.replace(&name, &claim.to_line(), Durability::Durable)
    }

    /// Whether the job's claim is where its path leads to.
    pub fn has_claim(&self, id: &JobId) -> bool {
        let state = self.project.path.join(self.project.layout.state());
        state.join(claim_name(id)).exists()
    }

    /// Takes the claim away, if it is there.
    pub fn remove_claim(&self, id: &JobId) -> Result<()> {
        self.dirs()?.state.remove(&claim_name(id))
    }

    /// Whether a mark is there.
    pub fn has_mark(&self, id: &JobId, mark: Mark) -> Result<bool> {
        self.dirs()?.state.has(&mark.name(id))
    }

    /// Whether a person holds the job, or has cancelled it.
    pub fn is_marked(&self, id: &JobId) -> Result<bool> {
        Ok(self.has_mark(id, Mark::Hold)? || self.has_mark(id, Mark::Cancel)?)
    }

    /// Leaves a mark, and wakes the daemon.
    pub fn mark(&self, id: &JobId, mark: Mark) -> Result<()> {
        self.dirs()?.state.add(&mark.name(id), b"")?;
        self.poke()
    }

    /// Takes a mark away, if it is there.
    pub fn unmark(&self, id: &JobId, mark: Mark) -> Result<()> {
        self.dirs()?.state.remove(&mark.name(id))
    }

    /// Wakes the daemon to look at the marks.
    pub fn poke(&self) -> Result<()> {
        let items = &self.dirs()?.items;
        items.add(POKE, b"")?;
        items.remove(POKE)
    }

    /// Whether an event with this name can matter: documents under whatever name, and pokes. Temporary
    /// names, which come and go before each document, need wake nobody.
    pub fn is_of_interest(name: &str) -> bool {
        (name.ends_with(".md") && !name.starts_with('.')) || name == POKE
    }

    // --- results ---

    /// Whether anything is where the job's result belongs; readable or not, it ends the job.
    pub fn has_result(&self, id: &JobId) -> Result<bool> {
        self.dirs()?.results.has(&result_name(id))
    }

    /// Publishes a result: the moment the job is done.
    pub fn publish(&self, id: &JobId, text: &[u8]) -> Result<()> {
        let results = &self.dirs()?.results;
        results.replace(&result_name(id), text, Durability::Durable)
    }

    /// The path of a result, for messages and hooks.
    pub fn result_path(&self, id: &JobId) -> PathBuf {
        let results = self.project.path.join(self.project.layout.results());
        results.join(result_name(id))
    }

    /// Calls `each` with the id of every finished job and when its result was written; in no order.
    pub fn finished(&self, each: &mut dyn FnMut(JobId, Wall)) -> Result<()> {
        let (results, layout) = (&self.dirs()?.results, self.project.layout);
        for name in results.list()? {
            let name = name?;
            let id = name.strip_suffix(".json").and_then(JobId::exact);
            // A copy of a result counts for nothing, and one may go meanwhile.
            if let Some(id) = id.filter(|id| id.layout() == layout)
                && self.copied(id.as_str())?.is_none()
                && let Some(stat) = results.look(&name)?
            {
                each(id, meta_of(&stat).mtime());
            }
        }
        Ok(())
    }

    /// Opens a result for reading; `None` if there is none.
    pub fn open_result(&self, id: &JobId) -> Result<Option<File>> {
        self.dirs()?.results.open_file(&result_name(id))
    }

    // --- the view ---

    /// Writes the view.
    pub fn write_view(&self, view: &QueueView) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(view).expect("the view is representable in JSON");
        text.push(b'\n');
        let state = &self.dirs()?.state;
        state.replace(VIEW, &text, Durability::Relaxed)
    }

    /// Reads the view, if there is one that can be read.
    pub fn read_view(&self) -> Option<QueueView> {
        let bytes = self.dirs().ok()?.state.read(VIEW, VIEW_MAX).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    // --- logs ---

    /// Keeps the text that runs as `logs/<id>.md`.
    pub fn keep_text(&self, id: &JobId, text: &[u8]) -> Result<()> {
        let logs = self.logs()?;
        logs.replace(&id.file_name(), text, Durability::Relaxed)
    }

    /// Writes lines to the daemon's standard error and to the project's log. A log that cannot
    /// be written must not stop jobs: the lines still stand in the other one.
    pub fn log(&self, lines: &[(Level, String)]) {
        let now = Wall::now();
        let mut text = String::new();
        for (level, message) in lines {
            log::log!(*level, "{message}");
            let _ = writeln!(text, "{now} {level:<5} {}", one_line(message));
        }
        let _ = self.append(text.as_bytes());
    }

    fn append(&self, text: &[u8]) -> Result<()> {
        let logs = &self.dirs()?.logs;
        let failed = |e| Error::io("write", &logs.path_of(JOURNAL), e);
        let mut file = logs.append_file(JOURNAL)?;
        if file.metadata().map_err(failed)?.len() >= JOURNAL_MAX {
            logs.rename_to(JOURNAL, logs, "monitor.log.1")?;
            file = logs.append_file(JOURNAL)?;
        }
        file.write_all(text).map_err(failed)
    }
}

/// Whether a name is that of a temporary file of [`Dir::add`] whose process is gone.
fn is_left(name: &str) -> bool {
    let stem = name.strip_prefix('.').and_then(|n| n.strip_suffix(".tmp"));
    let writer = stem.and_then(|stem| stem.rsplit_once(".md.")?.1.parse::<u32>().ok());
    writer.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists())
}

/// Opens a directory of a project's. Whoever can write in one above it can put another in its place, so
/// that must be the user's own, too.
fn sub(top: &Dir, relative: &str, make: Make) -> Result<Dir> {
    let dir = match relative.rsplit_once('/') {
        Some((above, name)) => sub(top, above, Make::Nothing)?.sub(name, make)?,
        None => top.sub(relative, make)?,
    };
    files::check_own(&dir.stat()?, dir.path()).map(|()| dir)
}

fn claim_name(id: &JobId) -> String {
    format!("{id}.claim")
}

fn result_name(id: &JobId) -> String {
    format!("{id}.json")
}

/// What is wrong with a document, whatever it holds.
fn odd(stat: &FileStat) -> Option<String> {
    let (kind, uid) = (stat.st_mode & libc::S_IFMT, stat.st_uid);
    let is_ours = uid == 0 || uid == nix::unistd::geteuid().as_raw();
    Some(match kind {
        libc::S_IFREG if is_ours => return None,
        libc::S_IFREG => format!("it belongs to another user (uid {uid}); copy it as your own"),
        libc::S_IFDIR => "it is a directory, but a job is a regular file; move it away".into(),
        libc::S_IFLNK => {
            "it is a symbolic link, which is not followed; copy the file itself".into()
        }
        _ => "it is a FIFO, socket or device, but a job is a regular file; remove it".into(),
    })
}

/// Whether some process has the file open for writing: then no read lease is granted. A file
/// system without leases cannot say, and the settle rule alone must do.
fn has_writer(file: &File) -> bool {
    // SAFETY: fcntl with F_SETLEASE takes a descriptor, which `file` keeps open, and a number.
    let refused = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) } != 0;
    refused && std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
}
