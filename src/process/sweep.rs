//! Finding and killing what an agent left behind, once it has ended or its daemon has died.

use super::{RUNS, SWEEP_MAX, Token, ended, group};
use crate::job::RUN_VARIABLE;
use crate::record::Identity;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The most of a process's environment that is read to find the token; Linux itself allows
/// more, but puts a limit of a quarter of the stack (2 MiB by default) on it at exec.
const ENVIRON_MAX: u64 = 2 << 20;

/// Few processes have a larger one.
const ENVIRON_USUAL: usize = 64 << 10;

/// The flag of a process that is a thread of the kernel.
const PF_KTHREAD: u64 = 0x0020_0000;

/// Between two looks when the first could not see everything.
const UNSEEN_PAUSE: Duration = Duration::from_millis(50);

/// The list of the main thread's children, open, and those of them that the daemon had before it
/// started anything.
static CHILDREN: OnceLock<(File, Vec<i32>)> = OnceLock::new();

thread_local! {
    /// Whether something could not be looked at since this was last reset; see [`seen`].
    static UNSEEN: Cell<bool> = const { Cell::new(false) };
}

/// To be called in the daemon before anything is started: whoever executed us from a shell may
/// have left us children that are none of ours.
pub(super) fn prepare() {
    let main = std::process::id();
    if let Ok(file) = File::open(format!("/proc/self/task/{main}/children")) {
        let inherited = children(&file).unwrap_or_default();
        let _ = CHILDREN.set((file, inherited));
    }
}

/// Ends what a dead daemon's run left behind: every process with the run token, and, if the
/// claim's process is still that very process, its group and session. Returns how many were
/// killed and whether none is left.
pub fn sweep_abandoned(token: &Token, leader: Option<Identity>) -> (u32, bool) {
    let leader = leader.filter(|&identity| is_that_agent(identity));
    let leader = leader.map(|identity| Pid::from_raw(identity.pid));
    let belongs = |pid: i32| carries(pid, token) || leader.is_some_and(|leader| is_in(pid, leader));
    sweep(all_of_ours, belongs)
}

/// Whether the process of a claim is still the very agent that was started. A claim can be planted,
/// so its word alone is nothing: an agent leads its session to its end, which somebody's child does
/// not, and is not we ourselves, who may lead one in which others stand.
fn is_that_agent(identity: Identity) -> bool {
    let Identity { pid, start_time } = identity;
    let leads = |stat: Stat| stat.start_time == start_time && stat.session == pid;
    pid > 1
        && pid != std::process::id().cast_signed()
        && stat_of(pid).is_some_and(leads)
        && owned_by_us(pid)
}

/// The same for a run whose token was lost with its claim: every process that any run of this job
/// of this project started, by the marks that agents are given.
pub fn sweep_job(project: &Path, job: &str) -> (u32, bool) {
    let mark = format!("JOB_MONITOR_JOB_ID={job}");
    let belongs = |pid: i32| {
        let environ = environ(pid);
        // Hooks have the same mark, but no run's token.
        token_in(&environ).is_some_and(|token| token.is_of(project))
            && environ
                .split(|&byte| byte == 0)
                .any(|variable| variable == mark.as_bytes())
    };
    sweep(all_of_ours, belongs)
}

/// The same for runs of which nothing is known any more: every process that any run of this project
/// started.
pub fn sweep_project(project: &Path) -> (u32, bool) {
    let belongs = |pid: i32| token_in(&environ(pid)).is_some_and(|token| token.is_of(project));
    sweep(all_of_ours, belongs)
}

/// Reaps orphans that died by themselves while agents run on.
pub fn reap_orphans() {
    for pid in orphans().unwrap_or_default() {
        let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    }
}

/// Kills the orphans of one run, which worked in `directory`. An orphan that shows no mark of any
/// run (its environment scrubbed, in a session of its own) is this run's if its control group says
/// so; where that says nothing, if it works in the same directory, or if no other run is under way.
pub(super) fn sweep_orphans(token: &Token, leader: Pid, directory: &Path) -> u32 {
    // Asked anew for each process, since a run of another project may begin while we sweep.
    let alone = || RUNS.load(Ordering::SeqCst) == 1;
    let is_of_here =
        |pid| group::is_in_own(pid).unwrap_or_else(|| alone() || works_in(pid, directory));
    let unmarked = |pid: i32| !carries_any(pid) && is_of_here(pid);
    let belongs = |pid: i32| carries(pid, token) || is_in(pid, leader) || unmarked(pid);
    let candidates = || match orphans() {
        Some(orphans) => orphans,
        // A kernel without the list: the marks alone must do.
        None => all_processes()
            .into_iter()
            .filter(|&pid| owned_by_us(pid) && carries(pid, token))
            .collect(),
    };
    if orphans().is_some_and(|orphans| orphans.is_empty()) {
        return 0;
    }
    let (killed, _) = sweep(candidates, belongs);
    reap_orphans();
    killed
}

/// Kills round after round, since the children of what is killed appear only then. How many
/// were killed and whether none was left at the end.
fn sweep(candidates: impl Fn() -> Vec<i32>, belongs: impl Fn(i32) -> bool) -> (u32, bool) {
    let mut killed = 0;
    let deadline = Instant::now() + SWEEP_MAX;
    loop {
        UNSEEN.set(false);
        let mut dying = Vec::new();
        for pid in candidates() {
            if pid <= 1 || pid == std::process::id() as i32 {
                continue;
            }
            // First the handle, then the look: what we look at is what we signal.
            let Some(pidfd) = seen(pidfd_open(Pid::from_raw(pid))) else {
                continue;
            };
            let alive = stat_of(pid).is_some_and(|stat| stat.state != b'Z');
            if alive && belongs(pid) && pidfd_kill(&pidfd) {
                dying.push(pidfd);
            }
        }
        if dying.is_empty() {
            if !UNSEEN.get() {
                return (killed, true);
            }
            std::thread::sleep(UNSEEN_PAUSE);
        }
        for pidfd in &dying {
            killed += u32::from(ended(
                pidfd,
                deadline.saturating_duration_since(Instant::now()),
            ));
        }
        if Instant::now() >= deadline {
            return (killed, false);
        }
    }
}

/// The processes that were handed to us because their parents died: the children of the main
/// thread, which starts none itself, less those that it had before it was the daemon. `None` on a
/// kernel without such lists.
fn orphans() -> Option<Vec<i32>> {
    let (file, inherited) = CHILDREN.get()?;
    let mut pids = seen(children(file))?;
    pids.retain(|pid| !inherited.contains(pid));
    Some(pids)
}

/// Reads a list of children. It is made anew by each read from its beginning, and most are empty.
fn children(list: &File) -> io::Result<Vec<i32>> {
    let mut text = vec![0; 4096];
    let mut length = 0;
    loop {
        match list.read_at(&mut text[length..], length as u64)? {
            0 => break,
            more => length += more,
        }
        if length == text.len() {
            text.resize(2 * length, 0);
        }
    }
    let text = String::from_utf8_lossy(&text[..length]);
    Ok(text
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .collect())
}

/// What a look at a process brought. One that is gone or somebody else's is nothing; one that could
/// not be looked at, for want of a descriptor or of memory, may still be ours to end.
fn seen<T>(looked: io::Result<T>) -> Option<T> {
    if let Err(error) = &looked {
        let settled = matches!(
            error.raw_os_error(),
            Some(libc::ENOENT | libc::ESRCH | libc::EACCES | libc::EPERM)
        );
        if !settled {
            UNSEEN.set(true);
        }
    }
    looked.ok()
}

fn all_processes() -> Vec<i32> {
    let Some(entries) = seen(std::fs::read_dir("/proc")) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| seen(entry)?.file_name().to_str()?.parse().ok())
        .collect()
}

fn all_of_ours() -> Vec<i32> {
    let mut pids = all_processes();
    pids.retain(|&pid| owned_by_us(pid));
    pids
}

fn owned_by_us(pid: i32) -> bool {
    seen(std::fs::metadata(format!("/proc/{pid}"))).is_some_and(|meta| {
        std::os::unix::fs::MetadataExt::uid(&meta) == nix::unistd::geteuid().as_raw()
    })
}

/// Whether the process has this run's token in its environment.
fn carries(pid: i32, token: &Token) -> bool {
    let entry = format!("{RUN_VARIABLE}={}", token.as_str());
    environ(pid)
        .split(|&byte| byte == 0)
        .any(|variable| variable == entry.as_bytes())
}

/// Whether the process has any run's token in its environment.
fn carries_any(pid: i32) -> bool {
    let start = format!("{RUN_VARIABLE}=");
    environ(pid)
        .split(|&byte| byte == 0)
        .any(|variable| variable.starts_with(start.as_bytes()))
}

/// The run's token in an environment, if there is one.
fn token_in(environ: &[u8]) -> Option<Token> {
    environ.split(|&byte| byte == 0).find_map(|variable| {
        let variable = std::str::from_utf8(variable).ok()?;
        Token::parse(variable.strip_prefix(RUN_VARIABLE)?.strip_prefix('=')?)
    })
}

fn environ(pid: i32) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(mut file) = seen(File::open(format!("/proc/{pid}/environ"))) {
        // At once where possible: an exec between two reads would take away what is left. What
        // cannot be read (another user's, gone meanwhile) carries nothing.
        bytes.resize(ENVIRON_USUAL, 0);
        let first = seen(file.read(&mut bytes)).unwrap_or(0);
        bytes.truncate(first);
        if first == ENVIRON_USUAL {
            let _ = seen(file.take(ENVIRON_MAX).read_to_end(&mut bytes));
        }
        if bytes.is_empty() && stat_of(pid).is_some_and(|stat| !stat.is_bare) {
            // It is in the midst of an exec, or was just now, and shows its marks in a moment.
            UNSEEN.set(true);
        }
    }
    bytes
}

/// Whether the process has its working directory at or below `directory`.
fn works_in(pid: i32, directory: &Path) -> bool {
    seen(std::fs::read_link(format!("/proc/{pid}/cwd")))
        .is_some_and(|cwd| cwd.starts_with(directory))
}

/// Whether the process is in the group or session that `leader` leads.
fn is_in(pid: i32, leader: Pid) -> bool {
    stat_of(pid)
        .is_some_and(|stat| stat.group == leader.as_raw() || stat.session == leader.as_raw())
}

pub(super) struct Stat {
    state: u8,
    /// Whether it has no environment, rather than one that cannot be seen just now.
    is_bare: bool,
    group: i32,
    session: i32,
    pub start_time: u64,
}

/// Reads `/proc/PID/stat`; the program's name in it may contain anything, so the fields are
/// counted from its last closing parenthesis.
pub(super) fn stat_of(pid: i32) -> Option<Stat> {
    let text = seen(std::fs::read(format!("/proc/{pid}/stat")))?;
    let text = String::from_utf8_lossy(&text);
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let state = *fields.first()?.as_bytes().first()?;
    let is_kernel = number(6)? & PF_KTHREAD != 0;
    // Where it begins and ends: nowhere in the midst of an exec, and then, for as long as it takes to
    // measure, at the same place. Last of all the kernel tells where the code begins.
    let environment = number(47).zip(number(48));
    let is_through = number(23).is_some_and(|start_code| start_code != 0);
    Some(Stat {
        is_bare: state == b'Z'
            || is_kernel
            || environment.is_none_or(|(from, to)| is_through && from == to && to != 0),
        state,
        group: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
    })
}

fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers; what it returns, if not negative, is a new
    // descriptor that nobody else owns. The kernel sets close-on-exec on it.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd as i32))
    }
}

fn pidfd_kill(pidfd: &OwnedFd) -> bool {
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: the descriptor is open, and a null siginfo is what kill(2) amounts to.
    unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            libc::SIGKILL,
            no_info,
            0,
        ) == 0
    }
}
