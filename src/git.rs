//! The record of what a job changed in its git work tree (SPEC 8): snapshots taken with an index of
//! our own, and the patch between two of them. No ref, no commit and no index of the user's is
//! touched; what `git add` writes are objects that nobody refers to, which git removes in time.

use crate::digest::sha256_hex;
use crate::error::{Error, Result};
use crate::files::{self, in_memory};
use crate::process;
use crate::record::{Change, Snapshot};
use crate::spool::Spool;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A snapshot, or a patch, may take no longer than this (SPEC 8).
const LIMIT: Duration = Duration::from_secs(20);
/// A larger patch is not kept (SPEC 8).
const PATCH_MAX: u64 = 10 << 20;
/// How late a patch that grows too large is noticed.
const SLICE: Duration = Duration::from_millis(50);
/// So much of what git says is read.
const WORDS_MAX: u64 = 64 << 10;
/// No program of the user's is run but the filters that the files' content depends on.
const CONFIG: &str = "-c core.fsmonitor=false -c core.hooksPath=/dev/null -c core.splitIndex=false \
    -c advice.addEmbeddedRepo=false -c core.quotePath=false";
const DIFF: &str = "diff-tree -r -M --no-relative --no-ext-diff";

/// The project's work tree as it is now; `None` where git keeps none, or there is no git.
///
/// # Errors
/// Where it cannot be told or takes too long, with a sentence for the log.
pub fn snapshot(spool: &Spool) -> Result<Option<Snapshot>> {
    let Some(mut git) = Git::new(spool)? else {
        return Ok(None);
    };
    let dir = match git.ask("rev-parse --absolute-git-dir", &[]) {
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) if error.to_string().contains("not a git repository") => return Ok(None),
        dir => PathBuf::from(dir?.unwrap_or_default()),
    };
    let branch = git.ask("symbolic-ref -q --short HEAD", &[])?;
    let head = git.ask("rev-parse -q --verify HEAD^{commit}", &[])?;
    let name = &sha256_hex(git.root.as_os_str().as_bytes())[..16];
    let own = format!("job-monitor-{name}-");
    // What a daemon left that was killed. Its git may still run, and must not meet ours in one file.
    for left in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
        if left.file_name().to_string_lossy().starts_with(&own) {
            let _ = std::fs::remove_file(left.path());
        }
    }
    let index = dir.join(own + &std::process::id().to_string());
    copy_index(&dir.join("index"), &index)?;
    git.index = Some(index.clone());
    // What cannot be read, and a nested repository without a commit, is left out of all snapshots.
    let added = git.ask("add -A --ignore-errors", &git.paths);
    let tree = added.and_then(|_| git.ask("write-tree", &[]));
    let _ = std::fs::remove_file(&index);
    let tree = tree?.ok_or_else(|| Error::new("git write-tree failed"))?;
    Ok(Some(Snapshot { branch, head, tree }))
}

/// What lies between two snapshots, of which the later one is missing if the work tree is gone. The
/// patch is written to an empty file, `out`, which stays empty where there is none; where it belongs is
/// for the caller to say.
///
/// # Errors
/// Where git cannot tell or takes too long, with a sentence for the log; [`heads`] is known still.
pub fn change(spool: &Spool, old: &Snapshot, new: Option<&Snapshot>, out: &File) -> Result<Change> {
    let mut change = heads(old, new);
    let (Some(git), Some(new)) = (Git::new(spool)?, new) else {
        return Ok(change);
    };
    change.commits = Some(0);
    if let Some(head) = new.head.as_ref().filter(|_| old.head != new.head) {
        let base = old.head.as_ref().map(|head| format!("^{head}"));
        let words = format!("rev-list --count {head} {}", base.unwrap_or_default());
        // The commit of the start may be gone, if somebody has cleaned the repository.
        let count = git.ask(&words, &[]).ok().flatten();
        change.commits = count.and_then(|count| count.parse().ok());
    }
    let trees = format!("{} {}", old.tree, new.tree);
    let stat = git.ask(&format!("{DIFF} --shortstat {trees}"), &git.paths)?;
    let stat = stat.unwrap_or_default();
    let number = |word: &str| {
        let part = stat.split(',').find(|part| part.contains(word));
        let number = part.and_then(|part| part.split_whitespace().next()?.parse().ok());
        Some(number.unwrap_or(0))
    };
    change.files = number("file");
    change.insertions = number("insertion");
    change.deletions = number("deletion");
    if change.files != Some(0) {
        let words = format!("{DIFF} -p --binary --full-index --no-textconv {trees}");
        let written = git.run(&words, &git.paths, out);
        if !matches!(written, Ok(true)) {
            let _ = out.set_len(0);
        }
        written?;
    }
    Ok(change)
}

/// What is known of a change without asking git.
pub fn heads(before: &Snapshot, after: Option<&Snapshot>) -> Change {
    Change {
        branch: after.and_then(|after| after.branch.clone()),
        head_before: before.head.clone(),
        head_after: after.and_then(|after| after.head.clone()),
        ..Change::default()
    }
}

/// Copies the user's index, with the time of its last write: by that time git tells which entries are so young
/// that it must compare their content.
fn copy_index(from: &Path, to: &Path) -> Result<()> {
    let _ = std::fs::remove_file(to);
    let copy = || {
        std::fs::copy(from, to)?;
        let modified = std::fs::metadata(from)?.modified()?;
        File::options().write(true).open(to)?.set_modified(modified)
    };
    match copy() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        copied => copied.map_err(|e| Error::io("copy", from, e)),
    }
}

fn is_large(patch: &File) -> bool {
    patch.metadata().is_ok_and(|meta| meta.len() > PATCH_MAX)
}

/// Calls of git that belong together and have one limit of time.
struct Git {
    root: PathBuf,
    /// An index of our own, in place of the user's.
    index: Option<PathBuf>,
    deadline: Instant,
    /// Keeps the spool out: documents, results and logs are no work of the agent's.
    paths: Vec<String>,
}

impl Git {
    fn new(spool: &Spool) -> Result<Option<Git>> {
        let root = spool.root()?;
        let has_git = |dir: &Path| dir.join(".git").symlink_metadata().is_ok();
        // Most projects without git are told without a process.
        if !root.ancestors().any(has_git) {
            return Ok(None);
        }
        let mut paths = vec!["--".to_owned(), ":/".to_owned()];
        let dirs = spool.project().layout.dirs();
        paths.extend(dirs.map(|dir| format!(":(exclude){dir}")));
        Ok(Some(Git {
            root,
            index: None,
            deadline: Instant::now() + LIMIT,
            paths,
        }))
    }

    /// Asks git, and returns its answer; `None` where it says no by its exit status. `words` are its arguments,
    /// parted by blanks, and `paths` those behind them.
    fn ask(&self, words: &str, paths: &[String]) -> Result<Option<String>> {
        let out = in_memory(b"")?;
        let said_yes = self.run(words, paths, &out)?;
        let text = files::tail(&out, Path::new("git"), WORDS_MAX)?;
        Ok(said_yes.then(|| text.trim().to_owned()))
    }

    /// Runs git to its end. True is exit status 0; false is exit status 1, or too much output to keep; any other
    /// end is an error.
    fn run(&self, call: &str, paths: &[String], out: &File) -> Result<bool> {
        let failed = |error| Error::io("execute", Path::new("git"), error);
        let (name, err) = (call.split(' ').next().unwrap_or_default(), in_memory(b"")?);
        let mut command = Command::new("git");
        command.args(CONFIG.split_whitespace());
        command.args(call.split_whitespace()).args(paths);
        // Git's own may name another repository, where a hook of git's has started the daemon.
        // Set whole, the environment would have each start fork the daemon instead of borrowing its memory.
        let names = std::env::vars_os().map(|(name, _)| name);
        for name in names.filter(|name| name.as_bytes().starts_with(b"GIT_")) {
            command.env_remove(name);
        }
        command.env("LC_ALL", "C").current_dir(&self.root);
        command.envs(self.index.iter().map(|index| ("GIT_INDEX_FILE", index)));
        // A group of its own: a Ctrl-C at the daemon is not git's, and its filters end with it.
        command.process_group(0).stdin(Stdio::null());
        command.stdout(out.try_clone().map_err(failed)?);
        command.stderr(err.try_clone().map_err(failed)?);
        let mut child = command.spawn().map_err(failed)?;
        let pid = child.id() as i32;
        while !process::has_ended(pid, SLICE) && !is_large(out) && Instant::now() < self.deadline {}
        // Whatever of the group is left is not waited for.
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        let status = child.wait().map_err(failed)?;
        if is_large(out) {
            return Ok(false);
        }
        if let Some(code @ (0 | 1)) = status.code() {
            return Ok(code == 0);
        }
        let said = files::tail(&err, Path::new("git"), WORDS_MAX)?;
        let last = said.lines().last().unwrap_or("was killed");
        let text = match Instant::now() < self.deadline {
            true => format!("git {name}: {last}"),
            false => format!("git {name} took longer than {} s", LIMIT.as_secs()),
        };
        Err(Error::new(text))
    }
}
