//! What the end-to-end tests and those of crashes ask of the machine: mounts that nobody else sees,
//! and what the kernel tells of a process.

use crate::space::{lacks, spawn};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Runs a test in a mount namespace of its own thread, so that its mounts are seen by nobody else
/// and go with it; where that is not allowed, the test is skipped.
pub fn in_namespace(test: impl FnOnce() + Send) {
    let outcome = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: unshare takes one integer, and concerns this thread alone.
            if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
                let error = io::Error::last_os_error();
                let why = format!("no mount namespace can be made: {error}");
                return lacks("namespaces", &why);
            }
            run("mount", &["--make-rprivate", "/"]);
            test();
        });
        thread.join()
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// A mounted file system. It goes before the space does, whose files would be removed through it.
pub struct Mounted(PathBuf);

impl Mounted {
    pub fn new(args: &[&str], at: &Path) -> Mounted {
        mount(args, at);
        Mounted::adopt(at)
    }

    /// One that somebody else has mounted.
    pub fn adopt(at: &Path) -> Mounted {
        Mounted(at.to_owned())
    }

    pub fn bind(from: &Path, at: &Path) -> Mounted {
        Mounted::new(&["--bind", from.to_str().unwrap()], at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // It may be in use, and comes to its end with the last user then.
        run("umount", &["--lazy", self.0.to_str().unwrap()]);
    }
}

/// Runs mount(8).
pub fn mount(args: &[&str], at: &Path) {
    run("mount", &[args, &[at.to_str().unwrap()]].concat());
}

/// Runs a program that must succeed.
fn run(program: &str, args: &[&str]) {
    let mut command = Command::new(program);
    let status = spawn(command.args(args).stdin(Stdio::null())).wait();
    let is_well = status.unwrap().success() || std::thread::panicking();
    assert!(is_well, "{program} {args:?}");
}

/// The fields of a process's `stat` that follow its name, the state first: 0 is the third of proc(5).
pub fn stat_of(pid: u32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    fields.split_whitespace().map(str::to_owned).collect()
}

/// When a process started, in clock ticks since boot.
pub fn start_time_of(pid: u32) -> u64 {
    stat_of(pid)[19].parse().unwrap()
}

/// The most memory that a process had, in KiB.
pub fn peak_of(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|rest| rest.split_whitespace().next());
    peak.unwrap().parse().unwrap()
}
