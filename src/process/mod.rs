//! Agents as processes: starting, waiting, ending, and finding whatever they left behind. All
//! signals to processes of a job are sent here.
//!
//! An agent leads a session and process group of its own and carries a random *run token* in
//! its environment, which every descendant inherits. The daemon is the *subreaper* of its
//! descendants, so when an agent is dead, each tree that survives it hangs on the daemon's main
//! thread: one read of that thread's list of children tells whether there is anything to sweep,
//! however it daemonised. What a dead daemon left is found by a scan of `/proc` instead.
//!
//! A process is signalled through a pidfd that was opened *before* the process was looked at,
//! or as a group whose leader we have not reaped yet; so a number that has been given to
//! somebody else in the meantime is never hit.

mod spawn;
mod sweep;

pub use sweep::{everybody, reap_orphans, sweep_project};

use crate::digest::sha256_hex;
use crate::record::Identity;
use std::ffi::OsStr;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, SigSet, Signal, killpg, signal};
use nix::unistd::Pid;

/// How long survivors are looked for and killed before we give up and say so. SPEC 5 promises
/// that none is alive 5 s after the result.
const SWEEP_MAX: Duration = Duration::from_secs(4);

/// How late the end of a group, or a person's haste, is noticed while its grace runs.
const SLICE: Duration = Duration::from_millis(50);

/// Agents that run, over all projects. One is taken off before its own sweep begins.
static RUNS: AtomicU32 = AtomicU32::new(0);

/// Set by the second SIGTERM: from now on no grace is given.
static HURRY: AtomicBool = AtomicBool::new(false);

/// A token of 32 hexadecimal digits that names one start of an agent. The first half is random.
/// The second tells the project's directory: where a claim was lost, and its token with it, a name
/// of a project and one of a job are not enough, since another daemon of the user may have both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A new one for a start in a project.
    pub fn new(project: &Path) -> Token {
        Token(format!("{:016x}{}", random(), Token::half_of(project)))
    }

    /// Whether it may name a start in a project.
    fn is_of(&self, project: &Path) -> bool {
        self.0.ends_with(&Token::half_of(project))
    }

    fn half_of(project: &Path) -> String {
        sha256_hex(project.as_os_str().as_bytes())[..16].to_owned()
    }

    /// Reads one from a claim; anything else than 32 hexadecimal digits is none, so that no
    /// planted claim can make us look for a text that strangers carry.
    pub fn parse(text: &str) -> Option<Token> {
        let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let valid = text.len() == 32 && text.bytes().all(is_hex);
        valid.then(|| Token(text.to_owned()))
    }

    /// The token as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A random UUID, version 4.
pub fn uuid() -> String {
    let (high, low) = (random(), random());
    let [first, second, third] = [high >> 32, high >> 16 & 0xffff, high & 0xfff];
    let [fourth, last] = [low >> 48 & 0xfff, low & 0xffff_ffff_ffff];
    format!("{first:08x}-{second:04x}-4{third:03x}-8{fourth:03x}-{last:012x}")
}

/// What names need is to be new, not to be secret: so the seeds of the standard library's hash maps, which
/// come from the system once for each thread and differ from map to map, are random enough.
fn random() -> u64 {
    RandomState::new().hash_one(())
}

/// What to start: data, so that it can be built and tested without running it.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The program's path.
    pub program: &'a Path,
    /// All arguments, the program's name first.
    pub argv: &'a [String],
    /// The whole environment.
    pub env: &'a [(&'a OsStr, &'a OsStr)],
    /// The working directory.
    pub directory: &'a Path,
    /// Standard input, output and error.
    pub streams: [BorrowedFd<'a>; 3],
}

/// Whether the error of a start says that the program is not there or cannot be executed, which does not mend
/// itself. Any other says that the system could not start it just now (processes, memory, a program being replaced).
pub fn is_missing(error: &io::Error) -> bool {
    use libc::{EACCES, ELOOP, ENOENT, ENOEXEC, ENOTDIR, EPERM};
    let number = error.raw_os_error().unwrap_or(0);
    [ENOENT, EACCES, ENOEXEC, ENOTDIR, ELOOP, EPERM].contains(&number)
}

/// A running agent. Dropping it kills what is left of its tree.
#[derive(Debug)]
pub struct Agent {
    pid: Pid,
    token: Token,
    /// Where it was started, without symbolic links, as the kernel names it.
    directory: PathBuf,
    is_reaped: bool,
}

/// To be called first thing in `main`, before any thread or child exists: an inherited "ignore"
/// of SIGCHLD would have the kernel reap our children for us, and with signals blocked by whoever
/// started us we would be deaf to SIGTERM.
pub fn prepare() -> io::Result<()> {
    // SAFETY: SIG_DFL is not a handler, so no code of ours runs in signal context.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl)? };
    SigSet::empty().thread_set_mask()?;
    Ok(())
}

/// Begins the program anew with a setting that the C library reads only then: a hundred threads that sleep
/// nearly always need no freed memory at hand, some 10 KiB each. A setting of the person's own holds; where
/// it cannot be done, memory is all that it costs.
pub fn begin_without_caches() {
    const TUNABLES: &str = "GLIBC_TUNABLES";
    if let (None, Ok(program)) = (std::env::var_os(TUNABLES), std::env::current_exe()) {
        let mut anew = Command::new(program);
        anew.args(std::env::args_os().skip(1));
        let _ = anew.env(TUNABLES, "glibc.malloc.tcache_count=0").exec();
    }
}

/// To be called next in the daemon: no death by a broken lease, orphans come to us, nothing that we
/// inherited leaks into agents, and as many descriptors are ours as we may have.
pub fn prepare_daemon() -> io::Result<()> {
    // SAFETY: SIG_IGN is not a handler, so no code of ours runs in signal context.
    unsafe { signal(Signal::SIGIO, SigHandler::SigIgn)? };
    nix::sys::prctl::set_child_subreaper(true)?;
    let (first, last, flags) = (3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
    // SAFETY: it takes integers only, and closes nothing.
    if unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it takes two numbers, and no other thread exists yet. A hundred threads that mostly
    // sleep need no heaps of their own. Where it cannot be set, memory is all that it costs.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    sweep::prepare();
    spawn::raise_limit()
}

/// From now on no agent is given its grace: the person asked twice.
pub fn hurry() {
    HURRY.store(true, Ordering::Relaxed);
}

/// Gives back what a worker's stack took when it was deeper than now, and what is free of the heap: a thread
/// that sleeps keeps it otherwise, and there is one for each project. It is never a part of its caller, whose
/// frame may be large.
#[inline(never)]
pub fn give_back_memory() {
    const PAGE: usize = 4096;
    const DEPTH: usize = 64 << 10;
    const MARGIN: usize = 512;
    let local = 0_u8;
    let end = ((&raw const local).addr() - MARGIN) & !(PAGE - 1);
    let start = (end - DEPTH) as *mut libc::c_void;
    // SAFETY: the pages lie below all frames of this thread but that of the call itself, for which the
    // margin is ample, within its stack; nothing there is read again before it is written.
    unsafe { libc::madvise(start, DEPTH, libc::MADV_DONTNEED) };
    // SAFETY: it takes a number, and what is in use stays.
    unsafe { libc::malloc_trim(0) };
}

/// Looks a program up as `execvp` would on the given `PATH`; a name with a slash is relative to
/// `directory`. A script is there only if its interpreter is, also behind `env`. The error is a sentence
/// that names what is missing.
pub fn find_program(name: &OsStr, path: &OsStr, directory: &Path) -> Result<PathBuf, String> {
    let find = |name: &OsStr| {
        let is_path = name.as_bytes().contains(&b'/');
        let dirs = std::env::split_paths(if is_path { OsStr::new("") } else { path });
        let mut places = dirs.map(|dir| directory.join(dir).join(name));
        places.find(|at| is_executable(at))
    };
    let path = path.display();
    let absent = format!("is not there, or cannot be executed (PATH: {path})");
    let program = find(name).ok_or_else(|| format!("the program {} {absent}", name.display()))?;
    let needed = needs(&program).unwrap_or_default();
    match needed.iter().find(|name| find(name.as_ref()).is_none()) {
        Some(name) => {
            let program = program.display();
            Err(format!("{program} needs {name}, which {absent}"))
        }
        None => Ok(program),
    }
}

fn is_executable(program: &Path) -> bool {
    std::fs::metadata(program).is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
}

/// What the first line of a script names: its interpreter, and what that is asked to look up on the
/// PATH if it is `env`.
fn needs(program: &Path) -> Option<Vec<String>> {
    let mut line = [0; 256];
    let length = File::open(program).ok()?.read(&mut line).ok()?;
    let line = String::from_utf8_lossy(line[..length].strip_prefix(b"#!")?).into_owned();
    let mut words = line.lines().next()?.split_whitespace();
    let mut needed = vec![words.next()?.to_owned()];
    if needed[0].ends_with("/env") {
        let mut words = words.filter(|word| !word.starts_with('-') && !word.contains('='));
        needed.extend(words.next().map(str::to_owned));
    }
    Some(needed)
}

impl Agent {
    /// Starts a process as the leader of a new session, with default signal dispositions, an
    /// empty signal mask and no descriptor but the three given. `token` must be in its
    /// environment under [`RUN_VARIABLE`].
    pub fn spawn(launch: &Launch<'_>, token: &Token) -> io::Result<Agent> {
        RUNS.fetch_add(1, Ordering::SeqCst);
        let spawned = spawn::spawn(launch).inspect_err(|_| {
            RUNS.fetch_sub(1, Ordering::SeqCst);
        });
        Ok(Agent {
            pid: spawned?,
            token: token.clone(),
            directory: launch.directory.to_owned(),
            is_reaped: false,
        })
    }

    /// How to recognise it after a crash, unless that cannot be read just now.
    pub fn identity(&self) -> Option<Identity> {
        let pid = self.pid.as_raw();
        let start_time = sweep::stat_of(pid).ok()?.start_time;
        Some(Identity { pid, start_time })
    }

    /// Waits until the process has ended, at most `limit`; whether it has. It is not reaped yet, so its
    /// number stays ours.
    pub fn wait(&self, limit: Duration) -> bool {
        has_ended(self.pid.as_raw(), limit)
    }

    /// SIGTERM to the group (with SIGCONT, so that a stopped one hears it), `grace` for all of the
    /// group, also when its leader dies first, then SIGKILL.
    pub fn stop(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        for signal in [Signal::SIGTERM, Signal::SIGCONT] {
            // It fails only when nobody of the group is left, which is what we want.
            let _ = killpg(self.pid, signal);
        }
        while !HURRY.load(Ordering::Relaxed) && Instant::now() < deadline {
            if self.wait(SLICE) {
                if !sweep::has_members(self.pid.as_raw()) {
                    break;
                }
                std::thread::sleep(SLICE);
            }
        }
        let _ = killpg(self.pid, Signal::SIGKILL);
        self.wait(SWEEP_MAX);
    }

    /// Reaps the ended process, having killed what it left if it `sweeps`. How it ended, and how many
    /// survivors there were.
    pub fn reap(&mut self, sweeps: bool) -> (ExitStatus, u32) {
        RUNS.fetch_sub(1, Ordering::SeqCst);
        let mut leftovers = 0;
        // Each tree that survives an agent hangs on us; without orphans there is nothing to look for.
        if reap_orphans() && sweeps {
            // No other process can have its number before it is reaped below.
            let run = (self.token.clone(), self.identity());
            (leftovers, _) = sweep_project(&self.directory, &[run], sweep::survivors);
        }
        // Where `waitpid` does not tell how it ended, that counts as no success.
        let mut status = libc::SIGKILL;
        // SAFETY: it writes one integer, and the process is a child of ours that was not reaped.
        unsafe { libc::waitpid(self.pid.as_raw(), &raw mut status, 0) };
        self.is_reaped = true;
        (ExitStatus::from_raw(status), leftovers)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if !self.is_reaped {
            self.stop(Duration::ZERO);
            self.reap(true);
        }
    }
}

/// The identifier of this boot of the machine; start times are comparable only within one. Where it
/// cannot be read, every boot counts as another.
pub static BOOT_ID: LazyLock<String> = LazyLock::new(|| {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.map_or_else(|_| uuid(), |id| id.trim().to_owned())
});

/// Waits for a child of ours that is not reaped to end, at most `limit`, and less where no descriptor is
/// free to await it by; whether it has.
pub fn has_ended(pid: i32, limit: Duration) -> bool {
    let Ok(pidfd) = spawn::pidfd_open(pid) else {
        std::thread::sleep(limit.min(SLICE));
        return false;
    };
    ended(&pidfd, limit)
}

/// Waits for the process of `pidfd` to end, at most `limit`; whether it has.
fn ended(pidfd: &OwnedFd, limit: Duration) -> bool {
    // Rounded up, or the last millisecond would be spent spinning.
    let limit_ms = limit.as_nanos().div_ceil(1_000_000);
    let timeout = PollTimeout::try_from(limit_ms).unwrap_or(PollTimeout::MAX);
    let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
    // Interrupted, or out of memory for a moment: the answer is not known, so it is not "ended".
    poll(&mut fds, timeout) == Ok(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_starts_are_never_the_same() {
        let mut tokens: Vec<String> = (0..1000).map(|_| Token::new(Path::new("/p")).0).collect();
        tokens.extend(std::thread::spawn(uuid).join());
        tokens.push(uuid());
        tokens.sort();
        let all = tokens.len();
        tokens.dedup();
        assert_eq!(tokens.len(), all);
        assert!(Token::parse(&tokens[0]).is_some() || tokens[0].len() == 36);
    }
}
