//! The control groups of workers, where the service manager has left ours to us (`Delegate=yes`).
//!
//! Each worker's thread has a group of its own below the daemon's, a threaded one. Whatever it
//! starts begins there at no cost, and stays, however it daemonises, scrubs its environment or
//! changes its directory. So an orphan's group tells which project's agent left it. Moving each
//! agent into a group of its own instead, which could then be killed by one write, was measured at
//! 9 ms a start, in which no process of the machine can fork. That systemd 252 complains of not being
//! able to kill these groups, where a daemon was killed, is because it kills them all by their parent.

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use std::cell::RefCell;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Where control groups of the second version are mounted: alone, or beside those of the first.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];

/// The daemon's own group, if it may make others below it.
static OURS: OnceLock<Option<Place>> = OnceLock::new();

thread_local! {
    /// The group of this thread, if it has entered one.
    static OWN: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// A group as the kernel names it, and its directory.
#[derive(Debug)]
struct Place {
    name: String,
    dir: PathBuf,
}

/// A group that this thread is in; left, and removed if nobody else is in it, when dropped.
#[derive(Debug)]
pub struct Group(PathBuf);

/// To be called in the daemon, if its group was left to it, before it has other threads.
pub(super) fn prepare() {
    let _ = OURS.set(ours());
}

/// Enters a new group with the calling thread; `None` where there is nothing to be entered.
pub fn enter() -> Option<Group> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let Place { name, dir } = OURS.get()?.as_ref()?;
    let own = format!("worker-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let group = Group(dir.join(&own));
    let entered = fs::create_dir(&group.0)
        .and_then(|()| fs::write(group.0.join("cgroup.type"), "threaded"))
        .and_then(|()| move_to(&group.0));
    if let Err(error) = entered {
        // Without groups, marks in the environment and directories tell whose an orphan is.
        log::debug!("cannot enter {}: {error}", group.0.display());
        return None;
    }
    OWN.set(Some(format!("{name}/{own}")));
    Some(group)
}

impl Drop for Group {
    fn drop(&mut self) {
        OWN.set(None);
        if let Some(Some(ours)) = OURS.get() {
            let left = move_to(&ours.dir).and_then(|()| fs::remove_dir(&self.0));
            if let Err(error) = left {
                log::debug!("cannot leave {}: {error}", self.0.display());
            }
        }
    }
}

/// Whether a process is in the group of the calling thread; `None` where that says nothing, since
/// the thread has none or the process was moved away from all of ours.
pub(super) fn is_in_own(pid: i32) -> Option<bool> {
    let own = OWN.with_borrow(Clone::clone)?;
    let (ours, _) = own.rsplit_once('/')?;
    let theirs = name_of(pid)?;
    let is_ours = theirs.strip_prefix(ours)?.starts_with('/');
    is_ours.then(|| theirs == own)
}

/// Moves the calling thread.
fn move_to(dir: &Path) -> io::Result<()> {
    let thread = nix::unistd::gettid().to_string();
    fs::write(dir.join("cgroup.threads"), thread)
}

fn ours() -> Option<Place> {
    let name = name_of(std::process::id().cast_signed())?;
    let mount = MOUNTS.iter().find(|mount| {
        statfs(**mount).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC)
    })?;
    let dir = Path::new(mount).join(name.strip_prefix('/')?);
    Some(Place { name, dir })
}

/// The group of a process, as a path from the root of all groups.
fn name_of(pid: i32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let name = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(name.to_owned())
}
