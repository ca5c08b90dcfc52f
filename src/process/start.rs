//! Starting a program as the leader of a session of its own: what `posix_spawn` does, by hand.
//!
//! `std::process::Command` can neither make a session nor reset signal dispositions without
//! falling back to fork, which was measured three times dearer in a small daemon and twenty times
//! in a big one. glibc's `posix_spawn` can, but it resets all 64 dispositions by one call each, maps
//! and unmaps a stack for each child, and gives no pidfd: one that is opened afterwards may be
//! refused while the agent runs already. Here the kernel gives it with the process, or neither.

use super::Launch;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use std::ffi::{CString, OsStr, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;
use std::sync::OnceLock;

/// The stack of a child between `clone` and exec, which makes a dozen system calls from two
/// functions: a page would do, also in a build without optimisation.
const STACK: usize = 16 << 10;

/// What the child needs of us. It runs in our memory while we stand still, so it may allocate
/// nothing, lock nothing and panic nowhere; whatever takes memory is made before.
struct Child<'a> {
    program: *const c_char,
    argv: *const *const c_char,
    env: *const *const c_char,
    directory: *const c_char,
    /// To become standard input, output and error; none of them is one of these already, since
    /// Rust's runtime opens what it finds closed.
    streams: [RawFd; 3],
    /// The signals that are not as the agent must find them.
    signals: &'a [c_int],
    /// Why there was no exec, told to the parent.
    errno: c_int,
}

/// Starts the program. The process, and a pidfd of it (close-on-exec, as all our descriptors).
pub(super) fn start(launch: &Launch<'_>) -> io::Result<(Pid, OwnedFd)> {
    let program = c_string(launch.program.as_os_str().as_bytes())?;
    let directory = c_string(launch.directory.as_os_str().as_bytes())?;
    let argv = Strings::new(launch.argv.iter().map(|arg| c_string(arg.as_bytes())))?;
    let variable = |&(name, value): &(&OsStr, &OsStr)| {
        c_string([name.as_bytes(), b"=", value.as_bytes()].concat())
    };
    let env = Strings::new(launch.env.iter().map(variable))?;
    let mut child = Child {
        program: program.as_ptr(),
        argv: argv.pointers.as_ptr(),
        env: env.pointers.as_ptr(),
        directory: directory.as_ptr(),
        streams: [launch.stdin, launch.stdout, launch.stderr].map(AsRawFd::as_raw_fd),
        signals: unusual_signals(),
        errno: 0,
    };
    // As aligned as the processor wants its bottom; untouched pages of it cost nothing.
    let mut stack = Box::<[u128]>::new_uninit_slice(STACK / size_of::<u128>());
    let mut pidfd: RawFd = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
    // Between clone and exec a handler of ours would run in the child, on our memory.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    // SAFETY: `child`, all that it points to, and the stack, whose end is aligned and which grows
    // down from there, live to the end of this function; CLONE_VFORK lets us go on only when the
    // child has executed or is gone and uses none of them any more. CLONE_PIDFD makes the kernel
    // write one integer to the place given.
    let cloned = unsafe {
        libc::clone(
            run,
            stack.as_mut_ptr_range().end.cast(),
            flags,
            (&raw mut child).cast(),
            &raw mut pidfd,
        )
    };
    let cloned = if cloned < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(Pid::from_raw(cloned))
    };
    mask.thread_set_mask()?;
    let pid = cloned?;
    // SAFETY: the clone has succeeded, so this is a new descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    if child.errno == 0 {
        return Ok((pid, pidfd));
    }
    waitpid(pid, None)?;
    Err(io::Error::from_raw_os_error(child.errno))
}

/// The child's whole life before exec.
extern "C" fn run(child: *mut c_void) -> c_int {
    // SAFETY: `start` passes a `Child` that nobody else touches while we run.
    let child = unsafe { &mut *child.cast::<Child<'_>>() };
    // SAFETY: all of them are plain system calls, allowed between vfork and exec; the pointers are
    // to strings and arrays that end in null, made by `start`; _exit never returns.
    unsafe {
        child.errno = prepare_and_execute(child);
        libc::_exit(127)
    }
}

/// Gives the error number of what failed; on success there is nobody to give anything to.
///
/// # Safety
///
/// Only in a process that is to be replaced, with the pointers in `child` as [`Child`] says.
unsafe fn prepare_and_execute(child: &Child<'_>) -> c_int {
    // SAFETY: see above; a zeroed sigaction is SIG_DFL with an empty mask and no flags.
    unsafe {
        let default: libc::sigaction = MaybeUninit::zeroed().assume_init();
        for &signal in child.signals {
            // It fails for no signal that was found to have a disposition.
            libc::sigaction(signal, &default, ptr::null_mut());
        }
        let is_ready = libc::setsid() >= 0
            && child
                .streams
                .iter()
                .zip(0..)
                .all(|(&from, to)| libc::dup2(from, to) >= 0)
            && libc::chdir(child.directory) == 0;
        if is_ready {
            let mut none: libc::sigset_t = MaybeUninit::zeroed().assume_init();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, ptr::null_mut());
            libc::execve(child.program, child.argv, child.env);
        }
        *libc::__errno_location()
    }
}

/// The signals that we ignore or handle. Asked once, at the first start: handlers are installed
/// before that and stay.
fn unusual_signals() -> &'static [c_int] {
    static SIGNALS: OnceLock<Vec<c_int>> = OnceLock::new();
    SIGNALS.get_or_init(|| {
        (1..=libc::SIGRTMAX())
            .filter(|&signal| is_unusual(signal))
            .collect()
    })
}

fn is_unusual(signal: c_int) -> bool {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: without a new action it only writes the present one to where it is told; of numbers
    // that are no signal to be asked about it fails and writes nothing.
    let action = unsafe {
        libc::sigaction(signal, ptr::null(), action.as_mut_ptr());
        action.assume_init()
    };
    action.sa_sigaction != libc::SIG_DFL
}

/// Strings as C wants them: an array of pointers that ends in a null pointer.
struct Strings {
    pointers: Vec<*const c_char>,
    _strings: Vec<CString>,
}

impl Strings {
    fn new(strings: impl Iterator<Item = io::Result<CString>>) -> io::Result<Strings> {
        let strings = strings.collect::<io::Result<Vec<CString>>>()?;
        let end = [ptr::null()];
        Ok(Strings {
            pointers: strings
                .iter()
                .map(|string| string.as_ptr())
                .chain(end)
                .collect(),
            _strings: strings,
        })
    }
}

fn c_string(text: impl Into<Vec<u8>>) -> io::Result<CString> {
    let nul = "a NUL byte in an argument or variable";
    CString::new(text).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, nul))
}
