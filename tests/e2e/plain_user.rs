//! The tests run as root where continuous integration does, which hides what an ordinary user may not
//! do. So those whose ground depends on that run once more as one.

use crate::space::job_monitor;
use nix::libc;
use nix::unistd::Uid;
use std::fs;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// A user that owns nothing here.
const NOBODY: u32 = 65_534;

/// Whose tests run once more.
const THEMES: [&str; 6] = [
    "intruders::",
    "launch::",
    "mounts::",
    "processes::",
    "saving::",
    "watching::",
];

#[test]
fn an_ordinary_user_is_served_and_guarded_as_well() {
    if !Uid::effective().is_root() {
        // They are run as one anyway.
        return;
    }
    // What was built may lie where others cannot go.
    let dir = std::env::temp_dir().join(format!("job-monitor-plain-{}", std::process::id()));
    fs::create_dir(&dir).unwrap();
    let copy = |name: &str, from: &Path| {
        let to = dir.join(name);
        fs::copy(from, &to).unwrap();
        to
    };
    let tests = copy("tests", &std::env::current_exe().unwrap());
    let program = copy("job-monitor", Path::new(job_monitor()));
    let mut command = Command::new(tests);
    command
        .args(THEMES)
        .args(["--test-threads", "2"])
        .uid(NOBODY)
        .gid(NOBODY)
        .current_dir(&dir)
        .env("HOME", &dir)
        .env("JOB_MONITOR_PROGRAM", program)
        // What only root can do is done by root.
        .env_remove("JOB_MONITOR_REQUIRE")
        .env_remove("JOB_MONITOR_SKIPPED");
    // SAFETY: prctl takes numbers; a test that is ended leaves nobody behind.
    unsafe {
        command.pre_exec(
            || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            },
        )
    };
    let output = command.output().unwrap();
    let skipped = String::from_utf8_lossy(&output.stderr);
    for line in skipped.lines().filter(|line| line.contains("skipped: ")) {
        let _ = writeln!(io::stderr(), "as an ordinary user, {line}");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    assert!(!text.contains(" 0 passed"), "{text}");
    fs::remove_dir_all(&dir).unwrap();
}
