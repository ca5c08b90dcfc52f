//! All input and output inside a project's directories: documents, claims, marks, results, logs,
//! the view. The daemon holds the spool's lock and writes everything but documents and marks;
//! commands look, and leave documents and marks.

use crate::error::{Error, Result, one_line};
use crate::files::{self, Dir, Durability, Kind, Make, Signature, meta_of};
use crate::job::{self, JobId, Meta, Name, log_name};
use crate::project::{Layout, Project};
use crate::record::{Claim, Identity, Outcome, QueueView};
use crate::time::Wall;
use log::Level;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::stat;
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, OVERLAYFS_SUPER_MAGIC,
    TMPFS_MAGIC, XFS_SUPER_MAGIC, fstatfs,
};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// A claim is a few kilobytes, and carries at most what its attempts brought.
const CLAIM_MAX: u64 = 64 << 20;
/// The view holds one name for each waiting job.
const VIEW_MAX: u64 = 256 << 20;
/// The file in `state/` whose lock says that a daemon serves the project.
const LOCK: &str = ".lock";
/// The project's log.
const JOURNAL: &str = "monitor.log";
/// The project's log is rotated at this size; one old file is kept (SPEC 8).
const JOURNAL_MAX: u64 = 1 << 20;
/// The name of a file that a command makes and removes in the documents' directory, so that
/// the daemon looks at the marks. The daemon writes too much into `state/` itself to watch it.
const POKE: &str = ".poke";

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
    fn ending(self) -> &'static str {
        match self {
            Mark::Cancel => ".cancel",
            Mark::Hold => ".hold",
            Mark::Release => ".release",
        }
    }

    fn name(self, id: &JobId) -> String {
        format!("{id}{}", self.ending())
    }
}

/// What becomes of temporary files that a crash left; only the daemon may remove them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftovers {
    /// They are removed.
    Remove,
    /// They stay, since somebody may be writing them just now.
    Leave,
}

/// One project's directories, open.
#[derive(Debug)]
pub struct Spool {
    project: Project,
    root: Dir,
    items: Dir,
    results: Dir,
    state: Dir,
    logs: Dir,
    journal: RefCell<Option<(File, u64)>>,
}

/// Proof that no other daemon serves the project; held as long as the value lives.
#[derive(Debug)]
pub struct SpoolLock {
    _lock: Flock<File>,
}

/// What looking at all documents brought.
#[derive(Debug, Default)]
pub struct Scan {
    /// Documents without a result, in order.
    pub waiting: BTreeSet<JobId>,
    /// Entries that look like jobs but are not, with what is wrong.
    pub odd: Vec<(String, String)>,
}

/// What is in `state/`, besides the view.
#[derive(Debug, Default)]
pub struct Marks {
    /// Claims, in order.
    pub claims: Vec<JobId>,
    /// Cancel marks.
    pub cancelled: BTreeSet<JobId>,
    /// Hold marks.
    pub held: BTreeSet<JobId>,
    /// Release marks.
    pub released: Vec<JobId>,
}

/// What is at a document's name.
#[derive(Debug)]
pub enum Taken {
    /// Nothing: withdrawn.
    Gone,
    /// Something that is not ours to run or to judge, with what it is and what to do.
    Alien(String),
    /// Something that cannot be read now, with why.
    Unreadable(Error),
    /// A document that some process has open for writing.
    Writing(Meta),
    /// A document's first `max + 1` bytes.
    Read(Meta, Vec<u8>),
}

/// The log files of one start.
#[derive(Debug)]
pub struct LogFiles {
    /// Standard output.
    pub out: File,
    /// Standard error.
    pub err: File,
    /// Names in the directory of logs.
    pub names: [String; 2],
}

impl Spool {
    /// Opens a project's directories. A missing project, or one without the directory of documents,
    /// is an error (`is_not_found`) and nothing is made in its place: it may be an empty mount
    /// point. The other directories are ours, and made where missing.
    pub fn open(project: &Project) -> Result<Spool> {
        Spool::open_with(project, Make::Nothing)
    }

    /// Opens a project's directories, making those that are missing.
    pub fn create(project: &Project) -> Result<Spool> {
        Spool::open_with(project, Make::Missing)
    }

    fn open_with(project: &Project, items: Make) -> Result<Spool> {
        let root = open_root(&project.path)?;
        let layout = project.layout;
        let spool = Spool {
            items: root.descend(layout.items(), items)?,
            results: root.descend(layout.results(), Make::Missing)?,
            state: root.descend(layout.state(), Make::Missing)?,
            logs: root.descend(layout.logs(), Make::Missing)?,
            root,
            journal: RefCell::new(None),
            project: project.clone(),
        };
        // Whoever can write what all of them are in can put another in the place of each.
        let above = layout.items().rsplit_once('/');
        let above = above.map(|(above, _)| spool.root.descend(above, Make::Nothing));
        let above = above.transpose()?;
        let below = [&spool.items, &spool.results, &spool.state, &spool.logs];
        for dir in above.iter().chain(below) {
            files::check_own(&dir.stat()?, dir.path())?;
        }
        Ok(spool)
    }

    /// The project.
    pub fn project(&self) -> &Project {
        &self.project
    }

    /// The project's directory by its real name, without symbolic links.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// How its directories are arranged.
    pub fn layout(&self) -> Layout {
        self.project.layout
    }

    /// Whether a project that was served before has nothing in `state/` to know it by.
    pub fn has_lost_state(&self) -> Result<bool> {
        Ok(!self.state.has(LOCK)? && self.logs.has(JOURNAL)?)
    }

    /// Takes the project for this daemon.
    pub fn lock(&self) -> Result<SpoolLock> {
        let file = self.state.append_file(LOCK)?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(SpoolLock { _lock: lock }),
            Err((_, nix::Error::EWOULDBLOCK)) => Err(Error::new(format!(
                "{} is served by another monitor, or registered under a second name; end the one or unregister the other",
                self.project.path.display()
            ))),
            Err((_, error)) => Err(Error::io("lock", &self.state.path_of(LOCK), error.into())),
        }
    }

    /// Fails where a path leads to another directory than the one that is open here: it, the project,
    /// or what leads to it was moved, replaced, mounted over or unmounted, of which no event tells.
    /// An agent that is started then works in somebody else's project.
    pub fn check_place(&self) -> Result<()> {
        for dir in [&self.items, &self.results, &self.state, &self.logs] {
            let path = dir.path();
            let seen = stat(path).map_err(|e| Error::io("look at", path, e.into()))?;
            if !dir.is_what(&seen)? {
                let path = path.display();
                return Err(Error::new(format!(
                    "{path} is not the directory that it was"
                )));
            }
        }
        Ok(())
    }

    /// Opens those of our own directories anew that were replaced or removed in the project's
    /// directory, wherever that is now: what is decided of a job that runs belongs where the next look
    /// will find it. Whether `state/` is among them, and so without what was written there.
    pub fn reopen(&mut self) -> Result<bool> {
        let layout = self.project.layout;
        if let Some(results) = self.successor(&self.results, layout.results())? {
            self.results = results;
        }
        if let Some(logs) = self.successor(&self.logs, layout.logs())? {
            self.logs = logs;
            self.journal.take();
        }
        let state = self.successor(&self.state, layout.state())?;
        let is_new = state.is_some();
        if let Some(state) = state {
            self.state = state;
        }
        Ok(is_new)
    }

    /// Whether the project's directory itself has been deleted, and nobody can make anything in it.
    pub fn is_deleted(&self) -> bool {
        self.root.stat().is_ok_and(|stat| stat.st_nlink == 0)
    }

    fn successor(&self, dir: &Dir, relative: &str) -> Result<Option<Dir>> {
        if let Some(seen) = self.root.look(relative)?
            && dir.is_what(&seen)?
        {
            return Ok(None);
        }
        let successor = self.root.descend(relative, Make::Missing)?;
        files::check_own(&successor.stat()?, successor.path())?;
        Ok(Some(successor))
    }

    /// Identity and age of the documents' directory as it is open here.
    pub fn items_signature(&self) -> Result<Signature> {
        self.items.signature()
    }

    /// Whether the documents lie on another machine, or on a file system of somebody's own making:
    /// one that may not answer, and may not tell of changes.
    pub fn is_remote(&self) -> bool {
        const ZFS_SUPER_MAGIC: FsType = FsType(0x2fc1_2fc1);
        const LOCAL: [FsType; 7] = [
            EXT4_SUPER_MAGIC,
            TMPFS_MAGIC,
            BTRFS_SUPER_MAGIC,
            XFS_SUPER_MAGIC,
            F2FS_SUPER_MAGIC,
            OVERLAYFS_SUPER_MAGIC,
            ZFS_SUPER_MAGIC,
        ];
        fstatfs(&self.items).map_or(true, |stat| !LOCAL.contains(&stat.filesystem_type()))
    }

    /// The path that is to be watched.
    pub fn items_path(&self) -> &Path {
        self.items.path()
    }

    /// The directory of results, to be watched.
    pub fn results_path(&self) -> &Path {
        self.results.path()
    }

    // --- documents ---

    /// Looks at every document's name, and which of them have a result. Whoever removes leftovers
    /// lists the results anyway; everybody else looks each document's up, and holds only those that
    /// have none.
    pub fn scan(&self, leftovers: Leftovers) -> Result<Scan> {
        let mut scan = Scan::default();
        let mut documents = Vec::new();
        let mut failed = None;
        self.items.list(&mut |name, kind| {
            let what = match Name::of(name, self.layout()) {
                Name::Other => return,
                Name::Bad => {
                    let form = self.layout().form();
                    format!("its name is not that of a job; rename it to {form}")
                }
                Name::Job(id) => match (odd_kind(kind), leftovers) {
                    (Some(what), _) => what.to_owned(),
                    (None, Leftovers::Remove) => return documents.push(id),
                    (None, Leftovers::Leave) => {
                        match self.has_result(&id) {
                            Ok(true) => {}
                            Ok(false) => drop(scan.waiting.insert(id)),
                            Err(error) => failed = Some(error),
                        }
                        return;
                    }
                },
            };
            scan.odd.push((name.to_owned(), what));
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if leftovers == Leftovers::Remove {
            documents.sort_unstable();
            scan.waiting = self.without_result(documents)?;
        }
        Ok(scan)
    }

    /// Those of the documents, which are in order, that have no result: lists the results once, and
    /// removes temporary files among them.
    fn without_result(&self, documents: Vec<JobId>) -> Result<BTreeSet<JobId>> {
        let mut done = vec![false; documents.len()];
        let mut left = Vec::new();
        self.results.list(&mut |name, _| {
            if let Some(stem) = name.strip_suffix(".json")
                && let Ok(at) = documents.binary_search_by(|id| job::order(id.as_str(), stem))
            {
                done[at] = true;
            } else if name.starts_with('.') && name.ends_with(".json.tmp") {
                left.push(name.to_owned());
            }
        })?;
        sweep(&self.results, &left, Leftovers::Remove)?;
        let mut done = done.into_iter();
        let waiting = documents.into_iter().filter(|_| done.next() == Some(false));
        Ok(waiting.collect())
    }

    /// Looks at one name in the documents' directory, as an event brings it.
    pub fn look_at(&self, name: &str) -> Result<Option<JobId>> {
        match Name::of(name, self.layout()) {
            Name::Job(id) if self.items.has(name)? && !self.has_result(&id)? => Ok(Some(id)),
            _ => Ok(None),
        }
    }

    /// Reads a document, at most `max + 1` bytes, provided that nobody has it open for writing.
    pub fn take(&self, id: &JobId, max: u64) -> Result<Taken> {
        let name = id.file_name();
        let path = self.items.path_of(&name);
        let file = match self.items.open_file(&name) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(Taken::Gone),
            Err(error) if error.is_shortage() => return Err(error),
            Err(error) => {
                let kind = match error.errno {
                    Some(libc::ELOOP) => Kind::Link,
                    Some(libc::ENXIO) => Kind::Special,
                    _ => return Ok(Taken::Unreadable(error)),
                };
                return Ok(Taken::Alien(odd_kind(kind).unwrap_or_default().to_owned()));
            }
        };
        let stat =
            nix::sys::stat::fstat(&file).map_err(|e| Error::io("look at", &path, e.into()))?;
        let mut meta = meta_of(&stat);
        if files::private_group() == Some(stat.st_gid) {
            // That opens it to nobody.
            meta.mode &= !0o020;
        }
        match meta.mode & libc::S_IFMT {
            libc::S_IFREG => {}
            libc::S_IFDIR => {
                return Ok(Taken::Alien(
                    odd_kind(Kind::Dir).unwrap_or_default().to_owned(),
                ));
            }
            _ => {
                return Ok(Taken::Alien(
                    odd_kind(Kind::Special).unwrap_or_default().to_owned(),
                ));
            }
        }
        if meta.uid != 0 && meta.uid != nix::unistd::geteuid().as_raw() {
            return Ok(Taken::Alien(format!(
                "it belongs to another user (uid {}); copy it as your own",
                meta.uid
            )));
        }
        if has_writer(&file) {
            return Ok(Taken::Writing(meta));
        }
        // The lease, if the file system has them, lasts until the file is closed below: nobody
        // can have begun to write before the text is read.
        match files::read_range(&file, 0, meta.size, max.saturating_add(1)) {
            Ok(bytes) => Ok(Taken::Read(meta, bytes)),
            // One bad sector must not stop the project.
            Err(error) => Ok(Taken::Unreadable(Error::io("read", &path, error))),
        }
    }

    /// What `ls` would say of a document: `None` if it is not there.
    pub fn document_meta(&self, id: &JobId) -> Result<Option<Meta>> {
        Ok(self.items.look(&id.file_name())?.map(|stat| meta_of(&stat)))
    }

    /// Puts a new document into the spool, whole and durable; `false` if the name is taken.
    pub fn submit(&self, id: &JobId, text: &[u8]) -> Result<bool> {
        if self.has_result(id)? {
            return Ok(false);
        }
        self.items.add(&id.file_name(), text)
    }

    /// The text of a document that lies in the spool or in the archive.
    pub fn document_text(&self, id: &JobId) -> Result<Option<Vec<u8>>> {
        let name = id.file_name();
        if let Some(text) = self.items.read(&name, u64::MAX - 1)? {
            return Ok(Some(text));
        }
        match Dir::open(&self.project.path.join(self.layout().archive())) {
            Ok(archive) => archive.read(&name, u64::MAX - 1),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The latest time stamp of a document or result before `horizon`.
    pub fn last_stamp_before(&self, horizon: &str) -> Result<Option<String>> {
        let mut last: Option<String> = None;
        let mut take = |name: &str, _| {
            let stem = name
                .strip_suffix(".md")
                .or_else(|| name.strip_suffix(".json"));
            if let Some(id) = stem.and_then(JobId::exact)
                && let Some(stamp) = id.stamp().filter(|stamp| *stamp < horizon)
                && last.as_deref().is_none_or(|last| last < stamp)
            {
                last = Some(stamp.to_owned());
            }
        };
        self.items.list(&mut take)?;
        self.results.list(&mut take)?;
        Ok(last)
    }

    /// Moves a finished job's document out of the spool.
    pub fn archive(&self, id: &JobId) -> Result<()> {
        let name = id.file_name();
        if !self.items.has(&name)? {
            return Ok(());
        }
        let archive = self.root.descend(self.layout().archive(), Make::Missing)?;
        self.items.rename_to(&name, &archive, &name)
    }

    // --- claims and marks ---

    /// What is in `state/`.
    pub fn marks(&self, leftovers: Leftovers) -> Result<Marks> {
        let mut marks = Marks::default();
        let mut left = Vec::new();
        self.state.list(&mut |name, _| {
            let id_before = |ending: &str| name.strip_suffix(ending).and_then(JobId::exact);
            if name.starts_with('.') && name.ends_with(".tmp") {
                left.push(name.to_owned());
            } else if let Some(id) = id_before(".claim") {
                marks.claims.push(id);
            } else if let Some(id) = id_before(Mark::Cancel.ending()) {
                marks.cancelled.insert(id);
            } else if let Some(id) = id_before(Mark::Hold.ending()) {
                marks.held.insert(id);
            } else if let Some(id) = id_before(Mark::Release.ending()) {
                marks.released.push(id);
            }
        })?;
        marks.claims.sort_unstable();
        sweep(&self.state, &left, leftovers)?;
        Ok(marks)
    }

    /// Reads a claim and, if it names one, its process. An unreadable one is an error that says
    /// so; it is never taken for permission to start.
    pub fn read_claim(&self, id: &JobId) -> Result<Option<(Claim, Option<Identity>)>> {
        let name = claim_name(id);
        let Some(bytes) = self.state.read(&name, CLAIM_MAX)? else {
            return Ok(None);
        };
        let broken = |why: String| {
            Error::new(format!(
                "the claim {} is broken: {why}",
                self.state.path_of(&name).display()
            ))
        };
        let (claim, process) = Claim::parse(&bytes).map_err(broken)?;
        if claim.job_id != *id {
            return Err(broken("it names another job".to_owned()));
        }
        Ok(Some((claim, process)))
    }

    /// Makes a claim durable. What is returned takes the process's line.
    pub fn write_claim(&self, claim: &Claim) -> Result<File> {
        self.state.replace(
            &claim_name(&claim.job_id),
            &claim.to_line(),
            Durability::Durable,
        )
    }

    /// Adds the process to the claim just written. Not synced: after a power cut there is none.
    pub fn note_process(&self, claim: &mut File, id: &JobId, identity: Identity) -> Result<()> {
        let line = Claim::process_line(identity);
        let appended = claim
            .seek(SeekFrom::End(0))
            .and_then(|_| claim.write_all(&line));
        appended.map_err(|e| Error::io("write", &self.state.path_of(&claim_name(id)), e))
    }

    /// Takes the claim away, if it is there.
    pub fn remove_claim(&self, id: &JobId) -> Result<()> {
        self.state.remove(&claim_name(id))
    }

    /// Puts a broken claim aside, where it can be looked at.
    pub fn park_claim(&self, id: &JobId) -> Result<()> {
        let name = claim_name(id);
        self.state
            .rename_to(&name, &self.state, &format!("{name}.broken"))
    }

    /// Whether a mark is there.
    pub fn has_mark(&self, id: &JobId, mark: Mark) -> Result<bool> {
        self.state.has(&mark.name(id))
    }

    /// Leaves a mark, and wakes the daemon.
    pub fn mark(&self, id: &JobId, mark: Mark) -> Result<()> {
        self.state.create_new(&mark.name(id), b"")?;
        self.state.sync()?;
        self.poke()
    }

    /// Takes a mark away, if it is there.
    pub fn unmark(&self, id: &JobId, mark: Mark) -> Result<()> {
        self.state.remove(&mark.name(id))
    }

    /// Wakes the daemon to look at the marks.
    pub fn poke(&self) -> Result<()> {
        self.items.create_new(POKE, b"")?;
        self.items.remove(POKE)
    }

    /// Whether an event with this name is a poke.
    pub fn is_poke(name: &str) -> bool {
        name == POKE
    }

    /// Whether an event with this name can matter: documents under whatever name, and pokes.
    /// Temporary names come and go before each document and need wake nobody.
    pub fn is_of_interest(name: &str) -> bool {
        (name.ends_with(".md") && !name.starts_with('.')) || Spool::is_poke(name)
    }

    // --- results ---

    /// Whether anything is where the job's result belongs; readable or not, it ends the job.
    pub fn has_result(&self, id: &JobId) -> Result<bool> {
        self.results.has(&result_name(id))
    }

    /// Publishes a result: the moment the job is done.
    pub fn publish(&self, outcome: &Outcome) -> Result<()> {
        let name = result_name(&outcome.job_id);
        let mut write = |file: &mut File| {
            let mut out = BufWriter::new(file);
            outcome.write_document(self.layout(), &mut out)?;
            out.flush()
        };
        let written = self
            .results
            .replace_with(&name, Durability::Durable, &mut write);
        written.map(drop)
    }

    /// The path of a result, for messages and hooks.
    pub fn result_path(&self, id: &JobId) -> PathBuf {
        self.results.path_of(&result_name(id))
    }

    /// Calls `each` with the id of every finished job and when its result was written, in nanoseconds
    /// since 1970; in no order.
    pub fn finished(&self, each: &mut dyn FnMut(&str, i128)) -> Result<()> {
        let mut failed = None;
        self.results.list(&mut |name, _| {
            if let Some(id) = name.strip_suffix(".json")
                && job::is_id(id, self.layout())
                && failed.is_none()
            {
                match self.results.look(name) {
                    Ok(Some(stat)) => each(id, meta_of(&stat).mtime_ns),
                    // It has gone meanwhile.
                    Ok(None) => {}
                    Err(error) => failed = Some(error),
                }
            }
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Opens a result for reading; `None` if there is none.
    pub fn open_result(&self, id: &JobId) -> Result<Option<File>> {
        open_if_there(&self.results, &result_name(id))
    }

    // --- the view ---

    /// Writes the view.
    pub fn write_view(&self, view: &QueueView) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(view).expect("the view is representable in JSON");
        text.push(b'\n');
        self.state
            .replace("queue_state.json", &text, Durability::Relaxed)
            .map(drop)
    }

    /// Reads the view, if there is one that can be read.
    pub fn read_view(&self) -> Option<QueueView> {
        let bytes = self.state.read("queue_state.json", VIEW_MAX).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    // --- logs ---

    /// Keeps the text that runs as `logs/<id>.md`.
    pub fn keep_text(&self, id: &JobId, text: &[u8]) -> Result<()> {
        let name = id.file_name();
        let mut file = self.logs.create_file(&name)?;
        file.write_all(text)
            .map_err(|e| Error::io("write", &self.logs.path_of(&name), e))
    }

    /// The text that ran, if it was kept.
    pub fn kept_text(&self, id: &JobId, max: u64) -> Result<Option<Vec<u8>>> {
        self.logs.read(&id.file_name(), max)
    }

    /// Makes the log files of the `start`-th start (from 1); `output` is the ending of standard
    /// output's.
    pub fn create_logs(&self, id: &JobId, start: u32, output: &str) -> Result<LogFiles> {
        let names = [log_name(id, start, output), log_name(id, start, "err")];
        // Standard output's comes last: as long as it is missing, recovery knows that nothing ran.
        let err = self.logs.create_file(&names[1])?;
        let out = self.logs.create_file(&names[0])?;
        Ok(LogFiles { out, err, names })
    }

    /// Removes what lies where a start's standard output will be.
    pub fn clear_output(&self, id: &JobId, start: u32, output: &str) -> Result<()> {
        self.logs.remove(&log_name(id, start, output))
    }

    /// Opens a log file for reading.
    pub fn open_log(&self, name: &str) -> Result<Option<File>> {
        open_if_there(&self.logs, name)
    }

    /// The path of a log, for messages.
    pub fn log_path(&self, name: &str) -> PathBuf {
        self.logs.path_of(name)
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
        if let Err(error) = self.append_journal(text.as_bytes()) {
            log::debug!("{error}");
        }
    }

    fn append_journal(&self, text: &[u8]) -> Result<()> {
        let name = JOURNAL;
        let failed = |e| Error::io("write", &self.logs.path_of(name), e);
        let open = || -> Result<(File, u64)> {
            let file = self.logs.append_file(name)?;
            let size = file.metadata().map_err(failed)?.len();
            Ok((file, size))
        };
        let mut journal = self.journal.borrow_mut();
        let (mut file, mut size) = match journal.take() {
            Some(open) => open,
            None => open()?,
        };
        if size >= JOURNAL_MAX {
            self.logs.rename_to(name, &self.logs, "monitor.log.1")?;
            (file, size) = open()?;
        }
        file.write_all(text).map_err(failed)?;
        *journal = Some((file, size + text.len() as u64));
        Ok(())
    }
}

fn sweep(dir: &Dir, left: &[String], leftovers: Leftovers) -> Result<()> {
    match leftovers {
        Leftovers::Remove => left.iter().try_for_each(|name| dir.remove(name)),
        Leftovers::Leave => Ok(()),
    }
}

fn open_if_there(dir: &Dir, name: &str) -> Result<Option<File>> {
    match dir.open_file(name) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

fn claim_name(id: &JobId) -> String {
    format!("{id}.claim")
}

fn result_name(id: &JobId) -> String {
    format!("{id}.json")
}

/// The project's root may be reached by links; only what is below it must not be.
fn open_root(path: &Path) -> Result<Dir> {
    let real = std::fs::canonicalize(path).map_err(|e| Error::io("open directory", path, e))?;
    Dir::open(&real)
}

fn odd_kind(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::File | Kind::Unknown => None,
        Kind::Dir => Some("it is a directory, but a job is a regular file; move it away"),
        Kind::Link => Some("it is a symbolic link, which is not followed; copy the file itself"),
        Kind::Special => {
            Some("it is a FIFO, socket or device, but a job is a regular file; remove it")
        }
    }
}

/// Whether some process has the file open for writing: then no read lease is granted. A file
/// system without leases cannot say, and the settle rule alone must do.
fn has_writer(file: &File) -> bool {
    // SAFETY: fcntl with F_SETLEASE takes a descriptor, which `file` keeps open, and a number.
    let refused = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK) } != 0;
    refused && std::io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
}
