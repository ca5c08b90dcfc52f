//! Agents as processes: starting, waiting, ending, and finding whatever they left behind. The
//! only sender of signals in the program.
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
//!
//! Started with `posix_spawn` by hand, since `std::process::Command` can neither make a session
//! nor reset signal dispositions without falling back to fork, which was measured three times
//! dearer in a small daemon and twenty times in a big one.

use crate::job::RUN_VARIABLE;
use crate::record::Identity;
use std::cell::Cell;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, killpg, signal};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

/// How long survivors are looked for and killed before we give up and say so. SPEC 5 promises
/// that none is alive 5 s after the result.
const SWEEP_MAX: Duration = Duration::from_secs(4);

/// The most of a process's environment that is read to find the token; Linux itself allows
/// more, but puts a limit of a quarter of the stack (2 MiB by default) on it at exec.
const ENVIRON_MAX: u64 = 2 << 20;

/// Runs between the agent's start and the end of its sweep, over all projects.
static RUNS: AtomicU32 = AtomicU32::new(0);

/// Children that the daemon had before it started anything.
static INHERITED: OnceLock<Vec<i32>> = OnceLock::new();

/// Between two looks when the first could not see everything.
const UNSEEN_PAUSE: Duration = Duration::from_millis(50);

thread_local! {
    /// Whether something could not be looked at since this was last reset; see [`seen`].
    static UNSEEN: Cell<bool> = const { Cell::new(false) };
}

/// Set by the second SIGTERM: from now on no grace is given.
static HURRY: AtomicBool = AtomicBool::new(false);

/// A random token of 32 hexadecimal digits that names one start of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A new one from the kernel's random numbers.
    pub fn new() -> io::Result<Token> {
        let bytes = random()?;
        Ok(Token(
            bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        ))
    }

    /// Reads one from a claim; anything else than 32 hexadecimal digits is none, so that no
    /// planted claim can make us look for a text that strangers carry.
    pub fn parse(text: &str) -> Option<Token> {
        let valid = text.len() == 32
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        valid.then(|| Token(text.to_owned()))
    }

    /// The token as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A random UUID, version 4.
pub fn uuid() -> io::Result<String> {
    let mut bytes = random()?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    ))
}

fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0_u8; 16];
    // SAFETY: the buffer is ours and as long as we say.
    let filled = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    // Up to 256 bytes come whole, unless there are none at all.
    if filled == bytes.len() as isize {
        Ok(bytes)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What to start: data, so that it can be built and tested without running it.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The program's path.
    pub program: &'a Path,
    /// All arguments, the program's name first.
    pub argv: &'a [OsString],
    /// The whole environment.
    pub env: &'a [(OsString, OsString)],
    /// The working directory.
    pub directory: &'a Path,
    /// Standard input.
    pub stdin: &'a File,
    /// Standard output.
    pub stdout: &'a File,
    /// Standard error.
    pub stderr: &'a File,
}

/// Why nothing was started.
#[derive(Debug)]
pub enum SpawnFault {
    /// The program is not there or cannot be executed; it will not be by itself.
    Missing(io::Error),
    /// The system could not just now (processes, memory, a program being replaced).
    Passing(io::Error),
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With this exit status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// A running agent. Dropping it kills what is left of its tree.
#[derive(Debug)]
pub struct Agent {
    pid: Pid,
    pidfd: Option<OwnedFd>,
    token: Token,
    /// Where it was started, without symbolic links, as the kernel names it.
    directory: PathBuf,
    exit: Option<Exit>,
}

/// To be called first thing in `main`, before any thread or child exists: an inherited "ignore"
/// of SIGCHLD would have the kernel reap our children for us.
pub fn prepare() -> io::Result<()> {
    // SAFETY: SIG_DFL is not a handler, so no code of ours runs in signal context.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl)? };
    Ok(())
}

/// To be called next in the daemon: no death by a broken lease, orphans come to us, and nothing
/// that we inherited leaks into agents.
pub fn prepare_daemon() -> io::Result<()> {
    // SAFETY: SIG_IGN is not a handler, so no code of ours runs in signal context.
    unsafe { signal(Signal::SIGIO, SigHandler::SigIgn)? };
    // SAFETY: prctl with PR_SET_CHILD_SUBREAPER takes one integer and touches no memory.
    if unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // Whoever executed us from a shell may have left us children that are none of ours.
    let _ = INHERITED.set(orphans().unwrap_or_default());
    for entry in std::fs::read_dir("/proc/self/fd")?.flatten() {
        if let Some(fd) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
            && fd > 2
        {
            // SAFETY: F_SETFD on a number touches no memory; a number that is no longer open
            // (that of the listing itself) merely fails.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    Ok(())
}

/// From now on no agent is given its grace: the person asked twice.
pub fn hurry() {
    HURRY.store(true, Ordering::Relaxed);
}

/// Looks a program up as `execvp` would on the given `PATH`; a name with a slash is taken
/// relative to `directory`.
pub fn find_program(name: &OsStr, path: &OsStr, directory: &Path) -> Option<PathBuf> {
    if name.as_bytes().contains(&b'/') {
        return Some(directory.join(name));
    }
    let executable = |candidate: &PathBuf| {
        std::fs::metadata(candidate).is_ok_and(|meta| {
            meta.is_file()
                && std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o111 != 0
        })
    };
    std::env::split_paths(path)
        .map(|dir| directory.join(dir).join(name))
        .find(executable)
}

impl Agent {
    /// Starts a process as the leader of a new session, with default signal dispositions, an
    /// empty signal mask and no descriptor but the three given. `token` must be in its
    /// environment under [`RUN_VARIABLE`].
    pub fn spawn(launch: &Launch<'_>, token: &Token) -> Result<Agent, SpawnFault> {
        RUNS.fetch_add(1, Ordering::SeqCst);
        match posix_spawn(launch) {
            Ok(pid) => Ok(Agent {
                pid,
                // It runs: without a descriptor to be had it must be awaited all the same.
                pidfd: pidfd_open(pid).ok(),
                token: token.clone(),
                directory: launch.directory.to_owned(),
                exit: None,
            }),
            Err(error) => {
                RUNS.fetch_sub(1, Ordering::SeqCst);
                Err(match error.raw_os_error() {
                    Some(
                        libc::EAGAIN
                        | libc::ENOMEM
                        | libc::ETXTBSY
                        | libc::EMFILE
                        | libc::ENFILE
                        | libc::EIO
                        | libc::EINTR
                        | libc::E2BIG,
                    ) => SpawnFault::Passing(error),
                    _ => SpawnFault::Missing(error),
                })
            }
        }
    }

    /// Its number, which stays its own until it is reaped.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Waits until the process has ended, at most `limit`; whether it has. It is not reaped
    /// yet, so its number stays ours.
    pub fn wait(&self, limit: Duration) -> bool {
        match &self.pidfd {
            Some(pidfd) => ended(pidfd, limit),
            None => ended_by_asking(self.pid, limit),
        }
    }

    /// SIGTERM to the group (with SIGCONT, so that a stopped one hears it), `grace`, SIGKILL.
    pub fn stop(&self, grace: Duration) {
        let slice = Duration::from_millis(100);
        let deadline = Instant::now() + grace;
        for signal in [Signal::SIGTERM, Signal::SIGCONT] {
            // It fails only when nobody of the group is left, which is what we want.
            let _ = killpg(self.pid, signal);
        }
        while !HURRY.load(Ordering::Relaxed) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.wait(left.min(slice)) {
                break;
            }
        }
        let _ = killpg(self.pid, Signal::SIGKILL);
        self.wait(SWEEP_MAX);
    }

    /// Kills what the ended process left, then reaps it. How it ended, and how many survivors
    /// there were. A process that has not ended is killed first.
    pub fn reap(mut self) -> (Exit, u32) {
        self.finish()
    }

    fn finish(&mut self) -> (Exit, u32) {
        if !self.wait(Duration::ZERO) {
            let _ = killpg(self.pid, Signal::SIGKILL);
            self.wait(SWEEP_MAX);
        }
        let leftovers = sweep_orphans(&self.token, self.pid, &self.directory);
        let exit = match waitpid(self.pid, None) {
            Ok(WaitStatus::Exited(_, code)) => Exit::Code(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => Exit::Signal(signal as i32),
            // Real-time signals have no name in nix; the wait has reaped the process all the same.
            _ => Exit::Signal(0),
        };
        RUNS.fetch_sub(1, Ordering::SeqCst);
        self.exit = Some(exit);
        (exit, leftovers)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.exit.is_none() {
            self.finish();
        }
    }
}

/// Ends what a dead daemon's run left behind: every process with the run token, and, if the
/// claim's process is still that very process, its group and session. Returns how many were
/// killed and whether none is left.
pub fn sweep_abandoned(token: &Token, leader: Option<Identity>) -> (u32, bool) {
    let leader = leader.filter(|identity| {
        identity.pid > 1
            && stat_of(identity.pid).is_some_and(|stat| stat.start_time == identity.start_time)
            && owned_by_us(identity.pid)
    });
    let leader = leader.map(|identity| Pid::from_raw(identity.pid));
    let belongs = |pid: i32| carries(pid, token) || leader.is_some_and(|leader| is_in(pid, leader));
    sweep(all_of_ours, belongs)
}

/// The same for a run whose token was lost with its claim: every process that any run of this job
/// of this project started, by the marks that agents are given.
pub fn sweep_job(project: &str, job: &str) -> (u32, bool) {
    let marks = [
        format!("JOB_MONITOR_PROJECT={project}"),
        format!("JOB_MONITOR_JOB_ID={job}"),
    ];
    let belongs = |pid: i32| {
        let environ = environ(pid);
        let has = |mark: &String| {
            environ
                .split(|&byte| byte == 0)
                .any(|v| v == mark.as_bytes())
        };
        // Hooks have the same marks, but no run's token.
        let token = environ.split(|&byte| byte == 0).find_map(|v| {
            let v = std::str::from_utf8(v).ok()?.strip_prefix(RUN_VARIABLE)?;
            Token::parse(v.strip_prefix('=')?)
        });
        token.is_some() && marks.iter().all(has)
    };
    sweep(all_of_ours, belongs)
}

/// How to recognise a process again; to be asked before it is reaped.
pub fn identity_of(pid: i32) -> Option<Identity> {
    stat_of(pid).map(|stat| Identity {
        pid,
        start_time: stat.start_time,
    })
}

/// The identifier of this boot of the machine; start times are comparable only within one.
pub fn boot_id() -> &'static str {
    static BOOT_ID: OnceLock<String> = OnceLock::new();
    BOOT_ID.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        text.trim().to_owned()
    })
}

/// Reaps orphans that died by themselves while agents run on.
pub fn reap_orphans() {
    for pid in orphans().unwrap_or_default() {
        let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
    }
}

/// Kills the orphans of one run, which worked in `directory`. An orphan that shows no mark of any
/// run (its environment scrubbed, in a session of its own) is this run's if it works in the same
/// directory, or if no other run is under way.
fn sweep_orphans(token: &Token, leader: Pid, directory: &Path) -> u32 {
    // Asked anew for each process, since a run of another project may begin while we sweep.
    let alone = || RUNS.load(Ordering::SeqCst) == 1;
    let unmarked = |pid: i32| !carries_any(pid) && (alone() || works_in(pid, directory));
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
/// thread, which starts none itself, less those that it had before it was the daemon.
fn orphans() -> Option<Vec<i32>> {
    let main = std::process::id();
    let list = seen(std::fs::read_to_string(format!(
        "/proc/self/task/{main}/children"
    )))?;
    let inherited = INHERITED.get().map_or(&[][..], Vec::as_slice);
    let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
    Some(pids.filter(|pid| !inherited.contains(pid)).collect())
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
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

fn all_of_ours() -> Vec<i32> {
    let mut pids = all_processes();
    pids.retain(|&pid| owned_by_us(pid));
    pids
}

fn owned_by_us(pid: i32) -> bool {
    std::fs::metadata(format!("/proc/{pid}")).is_ok_and(|meta| {
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

fn environ(pid: i32) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(file) = seen(File::open(format!("/proc/{pid}/environ"))) {
        // What cannot be read (another user's, gone meanwhile) carries nothing.
        let _ = file.take(ENVIRON_MAX).read_to_end(&mut bytes);
    }
    bytes
}

/// Whether the process has its working directory at or below `directory`.
fn works_in(pid: i32, directory: &Path) -> bool {
    std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(directory))
}

/// Whether the process is in the group or session that `leader` leads.
fn is_in(pid: i32, leader: Pid) -> bool {
    stat_of(pid)
        .is_some_and(|stat| stat.group == leader.as_raw() || stat.session == leader.as_raw())
}

struct Stat {
    state: u8,
    group: i32,
    session: i32,
    start_time: u64,
}

/// Reads `/proc/PID/stat`; the program's name in it may contain anything, so the fields are
/// counted from its last closing parenthesis.
fn stat_of(pid: i32) -> Option<Stat> {
    let text = seen(std::fs::read(format!("/proc/{pid}/stat")))?;
    let text = String::from_utf8_lossy(&text);
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    Some(Stat {
        state: *fields.first()?.as_bytes().first()?,
        group: fields.get(2)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        start_time: fields.get(19)?.parse().ok()?,
    })
}

/// Waits for the process of `pidfd` to end, at most `limit`; whether it has.
fn ended(pidfd: &OwnedFd, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, or the last millisecond would be spent spinning.
        let left_ms = left.as_nanos().div_ceil(1_000_000);
        let timeout = PollTimeout::try_from(left_ms).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(0) if left.is_zero() => return false,
            Ok(0) | Err(nix::Error::EINTR) => {}
            Ok(_) => return true,
            // Out of memory for a moment: the answer is not known, so it is not "ended".
            Err(_) => std::thread::sleep(Duration::from_millis(10).min(left)),
        }
    }
}

/// As `ended`, for a child of ours of which there is no pidfd: asks now and then, without reaping.
fn ended_by_asking(pid: Pid, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    loop {
        match waitid(Id::Pid(pid), flags) {
            Ok(WaitStatus::StillAlive) | Err(nix::Error::EINTR) => {}
            _ => return true,
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10).min(left));
    }
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

fn posix_spawn(launch: &Launch<'_>) -> io::Result<Pid> {
    let c_string = |text: &OsStr| {
        CString::new(text.as_bytes()).map_err(|_| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "a NUL byte in an argument or variable",
            )
        })
    };
    let program = c_string(launch.program.as_os_str())?;
    let directory = c_string(launch.directory.as_os_str())?;
    let argv: Vec<CString> = launch
        .argv
        .iter()
        .map(|arg| c_string(arg))
        .collect::<io::Result<_>>()?;
    let join = |(name, value): &(OsString, OsString)| {
        let mut variable = name.clone();
        variable.push("=");
        variable.push(value);
        c_string(&variable)
    };
    let env: Vec<CString> = launch.env.iter().map(join).collect::<io::Result<_>>()?;
    let pointers = |strings: &[CString]| -> Vec<*mut libc::c_char> {
        strings
            .iter()
            .map(|s| s.as_ptr().cast_mut())
            .chain([std::ptr::null_mut()])
            .collect()
    };
    let (argv_pointers, env_pointers) = (pointers(&argv), pointers(&env));
    let flags = libc::POSIX_SPAWN_SETSID
        | (libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK) as i16;

    let mut actions = MaybeUninit::<libc::posix_spawn_file_actions_t>::uninit();
    let mut attributes = MaybeUninit::<libc::posix_spawnattr_t>::uninit();
    let mut pid = 0;
    // SAFETY: both objects are initialised by their own functions before any other use and
    // destroyed once afterwards on every way out. All strings and the two arrays, which end in
    // a null pointer, live to the end of this function; posix_spawn returns only when the child
    // has executed or failed, and changes none of them. The descriptors are open: `launch`
    // borrows their files.
    let result = unsafe {
        let actions = actions.as_mut_ptr();
        let attributes = attributes.as_mut_ptr();
        check(libc::posix_spawn_file_actions_init(actions))?;
        let result = check(libc::posix_spawnattr_init(attributes)).and_then(|()| {
            let spawned = (|| {
                let mut signals = MaybeUninit::<libc::sigset_t>::uninit();
                libc::sigfillset(signals.as_mut_ptr());
                check(libc::posix_spawnattr_setsigdefault(
                    attributes,
                    signals.as_ptr(),
                ))?;
                libc::sigemptyset(signals.as_mut_ptr());
                check(libc::posix_spawnattr_setsigmask(
                    attributes,
                    signals.as_ptr(),
                ))?;
                check(libc::posix_spawnattr_setflags(attributes, flags))?;
                for (file, target) in [(launch.stdin, 0), (launch.stdout, 1), (launch.stderr, 2)] {
                    check(libc::posix_spawn_file_actions_adddup2(
                        actions,
                        file.as_raw_fd(),
                        target,
                    ))?;
                }
                check(libc::posix_spawn_file_actions_addchdir_np(
                    actions,
                    directory.as_ptr(),
                ))?;
                check(libc::posix_spawn(
                    &mut pid,
                    program.as_ptr(),
                    actions,
                    attributes,
                    argv_pointers.as_ptr(),
                    env_pointers.as_ptr(),
                ))
            })();
            libc::posix_spawnattr_destroy(attributes);
            spawned
        });
        libc::posix_spawn_file_actions_destroy(actions);
        result
    };
    result.map(|()| Pid::from_raw(pid))
}

/// The posix_spawn family returns an error number instead of setting errno.
fn check(errno: i32) -> io::Result<()> {
    if errno == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(errno))
    }
}
