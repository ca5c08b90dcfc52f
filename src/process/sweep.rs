//! Finding and killing what a project's runs have left, once an agent has ended or its daemon has
//! died. At that time nothing of the project may run.

use super::spawn::pidfd_open;
use super::{RUNS, SWEEP_MAX, Token, ended};
use crate::job::RUN_VARIABLE;
use crate::record::Identity;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The most of a process's environment that is read to find the token; Linux itself allows
/// more, but puts a limit of a quarter of the stack (2 MiB by default) on it at exec.
const ENVIRON_MAX: usize = 2 << 20;
/// Between two looks. An exec is over by then.
const PAUSE: Duration = Duration::from_millis(20);

/// The list of the main thread's children, where the kernel has such lists, and those that the daemon had
/// before it started anything.
static CHILDREN: OnceLock<(File, Vec<i32>)> = OnceLock::new();

/// To be called in the daemon before anything is started: whoever executed us from a shell may
/// have left us children that are none of ours.
pub(super) fn prepare() {
    let list = File::open(format!("/proc/self/task/{}/children", std::process::id()));
    if let Ok(list) = list
        && let Ok(inherited) = children(&list)
    {
        let _ = CHILDREN.set((list, inherited));
    }
}

/// Ends what the project's runs have left: every process that carries a token of a run of this
/// project or one of those given; those in the group or session of a leader given, if it is still
/// the agent that was started; and orphans of ours that carry no token at all, if they work in the
/// project's directory or no run is under way that could have left them. `among` lists the processes that
/// are looked at. Returns how many were killed, and whether none is left.
pub fn sweep_project(root: &Path, runs: &[(Token, Option<Identity>)], among: Among) -> (u32, bool) {
    let leaders = runs.iter().filter_map(|(_, process)| *process);
    let leaders: Vec<i32> = leaders.filter_map(still_leads).collect();
    let is_of_here = |mark: &str| {
        let token = Token::parse(mark);
        token.is_some_and(|token| token.is_of(root) || runs.iter().any(|(run, _)| *run == token))
    };
    let belongs = |pid: i32| -> io::Result<bool> {
        let stat = stat_of(pid)?;
        if stat.is_dead {
            return Ok(false);
        }
        if leaders.contains(&stat.group) || leaders.contains(&stat.session) {
            return Ok(true);
        }
        let environment = environment_of(pid)?;
        let mark = environment.split(|&byte| byte == 0).find_map(|variable| {
            let value = variable.strip_prefix(RUN_VARIABLE.as_bytes())?;
            value.strip_prefix(b"=")
        });
        match mark {
            Some(mark) => Ok(is_of_here(&String::from_utf8_lossy(mark))),
            // It has cleared its environment, or is in the midst of an exec. All this is asked anew for each
            // process, since a run of another project may begin meanwhile.
            None if !orphans()?.contains(&pid) => Ok(false),
            None if RUNS.load(Ordering::SeqCst) == 0 => Ok(true),
            None => Ok(std::fs::read_link(format!("/proc/{pid}/cwd"))?.starts_with(root)),
        }
    };
    let deadline = Instant::now() + SWEEP_MAX;
    let (mut killed, mut quiet) = (0, 0);
    // Round after round, since the children of what is killed appear only then. Two must be quiet, a while
    // apart: one that forked and went while the list was read has a child that is not in it.
    while quiet < 2 && Instant::now() < deadline {
        reap_orphans();
        let (dying, unseen) = kill_all(among, &belongs);
        for pidfd in &dying {
            let left = deadline.saturating_duration_since(Instant::now());
            killed += u32::from(ended(pidfd, left));
        }
        let is_quiet = dying.is_empty() && !unseen;
        quiet = if is_quiet { quiet + 1 } else { 0 };
        // The next start waits for this: no longer than the second look needs.
        if dying.is_empty() && quiet < 2 {
            std::thread::sleep(PAUSE);
        }
    }
    reap_orphans();
    (killed, quiet == 2)
}

/// Kills the user's processes that belong; whether some could not be looked at just now.
fn kill_all(among: Among, belongs: &dyn Fn(i32) -> io::Result<bool>) -> (Vec<OwnedFd>, bool) {
    let (mut dying, mut unseen) = (Vec::new(), false);
    let Ok(candidates) = among() else {
        return (dying, true);
    };
    for pid in candidates {
        let look = || -> io::Result<Option<OwnedFd>> {
            if !is_another(pid)? {
                return Ok(None);
            }
            // First the handle, then the look: what we look at is what we signal.
            let pidfd = pidfd_open(pid)?;
            Ok(belongs(pid)?.then_some(pidfd))
        };
        match look() {
            Ok(Some(pidfd)) if kill(&pidfd) => dying.push(pidfd),
            Ok(_) => {}
            // One that is gone or somebody else's is nothing. One that cannot be looked at, for want
            // of a descriptor, may still be ours to end.
            Err(error) => {
                let settled = [libc::ENOENT, libc::ESRCH, libc::EACCES, libc::EPERM];
                unseen |= !error.raw_os_error().is_some_and(|no| settled.contains(&no));
            }
        }
    }
    (dying, unseen)
}

/// A list of processes.
pub type Among = fn() -> io::Result<Vec<i32>>;

/// Those that hang on us: whatever survives an agent of ours does, and its children do once it is killed.
/// Some kernels have no lists of children.
pub(super) fn survivors() -> io::Result<Vec<i32>> {
    match CHILDREN.get() {
        Some(_) => orphans(),
        None => everybody(),
    }
}

/// Every process: what a dead daemon left hangs on nobody we know. A list that is cut short is an error: it
/// shows not all of them.
pub fn everybody() -> io::Result<Vec<i32>> {
    let entries: io::Result<Vec<_>> = std::fs::read_dir("/proc")?.collect();
    let pid = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    Ok(entries?.into_iter().filter_map(pid).collect())
}

/// Reaps orphans that died by themselves; whether there are others, as far as is known: some kernels have
/// no lists of children.
pub fn reap_orphans() -> bool {
    for pid in orphans().into_iter().flatten() {
        let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    }
    // Those that died may have left others, which hang on us only now.
    CHILDREN.get().is_none() || orphans().map_or(true, |left| !left.is_empty())
}

/// The processes that were handed to us because their parents died: the children of the main
/// thread, which starts none itself, less those that it had before it was the daemon. A kernel without
/// such lists shows none.
fn orphans() -> io::Result<Vec<i32>> {
    let Some((list, inherited)) = CHILDREN.get() else {
        return Ok(Vec::new());
    };
    let mut pids = children(list)?;
    pids.retain(|pid| !inherited.contains(pid));
    Ok(pids)
}

/// The main thread's children, most often none. Of very many a page full is seen, and the others when
/// these are gone.
fn children(list: &File) -> io::Result<Vec<i32>> {
    let mut text = [0; 4096];
    let length = list.read_at(&mut text, 0)?;
    let text = String::from_utf8_lossy(&text[..length]);
    let pids = text.split_whitespace();
    Ok(pids.filter_map(|pid| pid.parse().ok()).collect())
}

/// Whether anybody is alive in the group, its leader left out.
pub(super) fn has_members(group: i32) -> bool {
    let is_member = |pid: i32| {
        let is_alive = |stat: Stat| stat.group == group && !stat.is_dead;
        pid != group && stat_of(pid).is_ok_and(is_alive)
    };
    everybody().is_ok_and(|pids| pids.into_iter().any(is_member))
}

/// The number of a claim's process, if it is still the very agent that was started. A claim can be
/// planted, so its word alone is nothing: the process must lead its session, as an agent does to its
/// end, and must not be this daemon.
fn still_leads(identity: Identity) -> Option<i32> {
    let Identity { pid, start_time } = identity;
    let stat = stat_of(pid).ok()?;
    let leads = stat.start_time == start_time && stat.session == pid;
    (leads && is_another(pid).unwrap_or(false)).then_some(pid)
}

/// Whether a process is one of the user's, and not we ourselves.
fn is_another(pid: i32) -> io::Result<bool> {
    let owner = std::fs::metadata(format!("/proc/{pid}"))?.uid();
    let is_other = pid > 1 && pid != std::process::id() as i32;
    Ok(is_other && owner == nix::unistd::geteuid().as_raw())
}

/// A process's environment, in one read: an exec between two would take away what is left.
fn environment_of(pid: i32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; ENVIRON_MAX];
    let length = File::open(format!("/proc/{pid}/environ"))?.read(&mut bytes)?;
    bytes.truncate(length);
    Ok(bytes)
}

pub(super) struct Stat {
    is_dead: bool,
    group: i32,
    session: i32,
    pub(super) start_time: u64,
}

/// Reads `/proc/PID/stat`; the program's name in it may contain anything, so the fields are
/// counted from its last closing parenthesis.
pub(super) fn stat_of(pid: i32) -> io::Result<Stat> {
    let text = std::fs::read(format!("/proc/{pid}/stat"))?;
    let text = String::from_utf8_lossy(&text);
    let fields = text.rsplit(')').next().unwrap_or("");
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // A number that the kernel does not tell is 0.
    let told = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let number = |at: usize| told(at).unwrap_or(0);
    Ok(Stat {
        is_dead: fields.first().is_none_or(|state| *state == "Z"),
        group: number(2) as i32,
        session: number(3) as i32,
        start_time: number(19),
    })
}

fn kill(pidfd: &OwnedFd) -> bool {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    let (fd, signal) = (pidfd.as_raw_fd(), libc::SIGKILL);
    // SAFETY: the descriptor is open, and a null siginfo is what kill(2) amounts to.
    unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, 0) == 0 }
}
