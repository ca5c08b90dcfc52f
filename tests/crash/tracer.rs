//! A program under ptrace: each system call of each of its threads is shown to the test before
//! it happens, and the test may kill the program there, or have the call fail.
//!
//! strace can do both, but counts the calls of each thread apart: "the seventh `openat`" is the
//! seventh of the first thread that gets so far, which is always the main thread, and the
//! worker's seventh is never reached. Here the calls of all threads are one sequence, and so are
//! those of a child before its exec, which runs in the program's memory while it stands still.

use nix::libc::{self, c_int, c_long, c_void};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// A system call that is about to happen.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub number: c_long,
    pub args: [u64; 6],
}

/// What is to become of it.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    Let,
    /// The whole program dies before the call happens.
    Kill,
    /// The call does not happen, and gives this error.
    Fail(c_int),
}

/// How the program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Code(i32),
    Signal(i32),
}

/// Why nothing can be traced here, if it cannot.
pub fn lacking() -> Option<String> {
    match run(&mut Command::new("true"), |_, _| Act::Let) {
        Ok(End::Code(0)) => None,
        Ok(end) => Some(format!("a traced `true` ended with {end:?}")),
        Err(error) => Some(format!("processes cannot be traced here: {error}")),
    }
}

/// Runs a program to its end. `decide` is asked at each call and told the program's pid; it runs
/// while the calling thread stands still, the program's others do not.
///
/// The calling thread must have no other children meanwhile; other threads may.
pub fn run(command: &mut Command, mut decide: impl FnMut(i32, &Call) -> Act) -> io::Result<End> {
    // SAFETY: PTRACE_TRACEME is a bare system call, and so may stand between fork and exec.
    unsafe {
        command.pre_exec(|| {
            libc::ptrace(libc::PTRACE_TRACEME, 0, 0_usize, 0_usize);
            Ok(())
        });
    }
    let leader = i32::try_from(crate::space::spawn(command).id()).expect("a pid is an i32");
    // A traced program stands still at its exec; one that may not be traced runs to its end.
    if !libc::WIFSTOPPED(wait(leader)?.1) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    // Its threads are traced from their first step, its children until their exec, and should this
    // test die all of them die with it.
    let options = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_EXITKILL;
    ptrace(libc::PTRACE_SETOPTIONS, leader, options as usize)?;
    ptrace(libc::PTRACE_SYSCALL, leader, 0)?;
    let mut end = None;
    // Threads in a call that is to fail, and the error.
    let mut failing: BTreeMap<i32, c_int> = BTreeMap::new();
    // Whoever is left when the program has ended is a child on its way to its exec.
    while let Some((thread, status)) = wait_for_any()? {
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            if thread == leader {
                end = Some(if libc::WIFEXITED(status) {
                    End::Code(libc::WEXITSTATUS(status))
                } else {
                    End::Signal(libc::WTERMSIG(status))
                });
            }
            continue;
        }
        let signal = libc::WSTOPSIG(status);
        let event = status >> 16;
        if event == libc::PTRACE_EVENT_EXEC {
            ptrace(libc::PTRACE_DETACH, thread, 0)?;
            continue;
        }
        let is_call = signal == libc::SIGTRAP | 0x80;
        // A thread that is being killed answers no question; its end is reported next.
        let Ok(call) = (if is_call { entered(thread) } else { Ok(None) }) else {
            continue;
        };
        if let Some(call) = call.filter(|_| end.is_none()) {
            match decide(leader, &call) {
                Act::Let => {}
                // SAFETY: kill takes two integers; the pid is that of a child not yet reaped.
                Act::Kill => drop(unsafe { libc::kill(leader, libc::SIGKILL) }),
                Act::Fail(error) => {
                    registers::skip(thread)?;
                    failing.insert(thread, error);
                }
            }
        } else if is_call && let Some(error) = failing.remove(&thread) {
            registers::give(thread, -i64::from(error))?;
        }
        // A new thread or child begins with a SIGSTOP of the tracing's own.
        let begins = signal == libc::SIGSTOP && thread != leader;
        let pass = if is_call || event != 0 || begins {
            0
        } else {
            signal
        };
        let _ = ptrace(libc::PTRACE_SYSCALL, thread, pass as usize);
    }
    Ok(end.expect("the program was waited for"))
}

/// Waits for any child or traced thread of this thread; `None` when there is none any more.
fn wait_for_any() -> io::Result<Option<(i32, c_int)>> {
    match wait(-1) {
        Err(error) if error.raw_os_error() == Some(libc::ECHILD) => Ok(None),
        other => other.map(Some),
    }
}

/// Waits for a child of this very thread, which is whom ptrace makes the tracer.
fn wait(pid: i32) -> io::Result<(i32, c_int)> {
    let mut status = 0;
    loop {
        // SAFETY: waitpid writes one integer to where it is told.
        let thread = unsafe { libc::waitpid(pid, &mut status, libc::__WALL | libc::__WNOTHREAD) };
        match io::Error::last_os_error() {
            _ if thread > 0 => return Ok((thread, status)),
            error if error.kind() == io::ErrorKind::Interrupted => {}
            error => return Err(error),
        }
    }
}

/// The call that a stopped thread is about to make; `None` if it has just made one.
fn entered(thread: i32) -> io::Result<Option<Call>> {
    // SAFETY: the structure is plain integers, for which zero is a value.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes at most the given size to the given place.
    let got = unsafe {
        libc::ptrace(
            libc::PTRACE_GET_SYSCALL_INFO,
            thread,
            size_of_val(&info),
            (&raw mut info).cast::<c_void>(),
        )
    };
    if got < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((info.op == libc::PTRACE_SYSCALL_INFO_ENTRY).then(|| {
        // SAFETY: `op` says which member of the union the kernel has filled.
        let entry = unsafe { info.u.entry };
        Call {
            number: entry.nr as c_long,
            args: entry.args,
        }
    }))
}

/// The text that ends in a zero byte at an address of a traced process, as far as it can be read.
pub fn text_at(pid: i32, address: u64) -> Vec<u8> {
    let mut text = Vec::new();
    if let Ok(memory) = File::open(format!("/proc/{pid}/mem")) {
        let mut byte = [0];
        while memory
            .read_exact_at(&mut byte, address + text.len() as u64)
            .is_ok()
            && byte != [0]
        {
            text.push(byte[0]);
        }
    }
    text
}

fn ptrace(request: libc::c_uint, thread: i32, data: usize) -> io::Result<()> {
    // SAFETY: only requests whose data is a number come here; they touch no memory of ours.
    match unsafe { libc::ptrace(request, thread, 0_usize, data) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether calls can be made to fail: where the registers are known.
pub const CAN_FAIL: bool = cfg!(target_arch = "x86_64");

#[cfg(target_arch = "x86_64")]
mod registers {
    use nix::libc;
    use std::io;
    use std::mem::offset_of;

    /// A call of no known number does nothing.
    pub fn skip(thread: i32) -> io::Result<()> {
        poke(thread, offset_of!(libc::user_regs_struct, orig_rax), -1)
    }

    /// What the call gives.
    pub fn give(thread: i32, value: i64) -> io::Result<()> {
        poke(thread, offset_of!(libc::user_regs_struct, rax), value)
    }

    fn poke(thread: i32, register: usize, value: i64) -> io::Result<()> {
        // SAFETY: the request takes an offset into the stopped thread's registers and a word.
        match unsafe { libc::ptrace(libc::PTRACE_POKEUSER, thread, register, value) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

// Kill points are tried on every machine, failing calls only where somebody could try them.
#[cfg(not(target_arch = "x86_64"))]
mod registers {
    use std::io;

    pub fn skip(_: i32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub fn give(_: i32, _: i64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
