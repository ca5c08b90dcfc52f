//! Starting a program as the leader of a session of its own, with `posix_spawn`: it stops us no
//! longer than until the program runs, however much memory we have, which fork does not.

use super::Launch;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::sys::signal::SigSet;
use nix::unistd::Pid;
use std::ffi::{CString, OsStr, c_char, c_short};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::sync::{Mutex, PoisonError};

/// The limits of open descriptors that we were started with, the soft one and the hard one.
static GIVEN: Mutex<Option<(rlim_t, rlim_t)>> = Mutex::new(None);

/// Raises our own soft limit of descriptors to the hard one: each job that runs needs a dozen.
pub(super) fn raise_limit() -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    *GIVEN.lock().unwrap_or_else(PoisonError::into_inner) = Some((soft, hard));
    Ok(())
}

/// Starts the program.
pub(super) fn spawn(launch: &Launch<'_>) -> io::Result<Pid> {
    // An agent must not inherit the raised limit: programs that use select() break above 1024
    // descriptors, and some close all that they may have. posix_spawn cannot set limits, so ours is
    // lowered meanwhile, which harms no other thread as long as few descriptors are in use.
    let given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let in_use = launch.streams[0].as_raw_fd() as rlim_t;
    let lowered = given.filter(|(soft, hard)| soft < hard && in_use < soft / 2);
    if let Some((soft, hard)) = lowered {
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    }
    let spawned = posix_spawn(launch);
    if let Some((_, hard)) = lowered {
        // If that fails the agent runs all the same, and the next start tries again.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    spawned
}

fn posix_spawn(launch: &Launch<'_>) -> io::Result<Pid> {
    let program = c_string(launch.program.as_os_str().as_bytes())?;
    let directory = c_string(launch.directory.as_os_str().as_bytes())?;
    let variable = |&(name, value): &(&OsStr, &OsStr)| {
        c_string([name.as_bytes(), b"=", value.as_bytes()].concat())
    };
    let argv = launch.argv.iter().map(|arg| c_string(arg.as_str()));
    let argv = argv.collect::<io::Result<Vec<_>>>()?;
    let env = launch.env.iter().map(variable);
    let env = env.collect::<io::Result<Vec<_>>>()?;
    let (argv, env) = (pointers(&argv), pointers(&env));
    let flags = libc::POSIX_SPAWN_SETSIGDEF | libc::POSIX_SPAWN_SETSIGMASK;
    let flags = flags as c_short | libc::POSIX_SPAWN_SETSID as c_short;
    // Every bit: without those of the C library's own two signals, posix_spawn has the agent ignore them.
    let mut all = *SigSet::all().as_ref();
    let none = SigSet::empty();
    let streams = launch.streams.map(|stream| stream.as_raw_fd());
    let mut attributes = MaybeUninit::uninit();
    let mut actions = MaybeUninit::uninit();
    let (attributes, actions) = (attributes.as_mut_ptr(), actions.as_mut_ptr());
    let mut pid = 0;
    // SAFETY: a set of signals is plain bits. Both structures are initialised first and destroyed
    // last; init and the setters of attributes fail only for flags that do not exist. The strings, and
    // the arrays, which end in null, live to the end of this function, and posix_spawn does not write
    // to them.
    let error = unsafe {
        libc::posix_spawnattr_init(attributes);
        libc::posix_spawnattr_setflags(attributes, flags);
        ptr::write_bytes(&raw mut all, u8::MAX, 1);
        libc::posix_spawnattr_setsigdefault(attributes, &raw const all);
        libc::posix_spawnattr_setsigmask(attributes, none.as_ref());
        libc::posix_spawn_file_actions_init(actions);
        let mut error = libc::posix_spawn_file_actions_addchdir_np(actions, directory.as_ptr());
        for (from, to) in streams.into_iter().zip(0..) {
            error = error.max(libc::posix_spawn_file_actions_adddup2(actions, from, to));
        }
        if error == 0 {
            let (program, argv, env) = (program.as_ptr(), argv.as_ptr(), env.as_ptr());
            error = libc::posix_spawn(&raw mut pid, program, actions, attributes, argv, env);
        }
        libc::posix_spawn_file_actions_destroy(actions);
        libc::posix_spawnattr_destroy(attributes);
        error
    };
    match error {
        0 => Ok(Pid::from_raw(pid)),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// A handle of a process, through which it is signalled and awaited whatever becomes of its number.
pub(super) fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers; what it returns, if not negative, is a new
    // descriptor that nobody else owns. The kernel sets close-on-exec on it.
    unsafe {
        match libc::syscall(libc::SYS_pidfd_open, pid, 0) {
            fd if fd < 0 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd as i32)),
        }
    }
}

/// As C wants an array of strings: it ends in a null pointer.
fn pointers(strings: &[CString]) -> Vec<*mut c_char> {
    let strings = strings.iter().map(|string| string.as_ptr().cast_mut());
    strings.chain([ptr::null_mut()]).collect()
}

fn c_string(text: impl Into<Vec<u8>>) -> io::Result<CString> {
    let nul = "a NUL byte in an argument or variable";
    CString::new(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, nul))
}
