//! What the kernel grants of inotify, which all programs of a user share: instances and watches. The
//! daemon is started in a user namespace whose limits nobody else has. What is found then, is found
//! within a minute: these are called by `minute`.

use crate::space::{BOUND, Project, Space, lacks, spawn, wait_longer};
use crate::stage::*;
use nix::unistd::{getegid, geteuid};
use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

/// A limit, so low that the daemon comes up with what it needs and no project can be watched, and
/// how it is called where it is to be raised.
type Limit = (&'static str, u32, &'static str);

const WATCHES: &str = "/proc/sys/user/max_inotify_watches";
const INSTANCES: &str = "/proc/sys/user/max_inotify_instances";
const LIMITS: [Limit; 2] = [
    // Two are for the directories of settings and of state.
    (WATCHES, 2, "fs.inotify.max_user_watches"),
    (INSTANCES, 0, "fs.inotify.max_user_instances"),
];

/// A daemon under a limit, and its project, of which it has said that it cannot be watched.
fn limited((file, value, sysctl): Limit) -> (Space, Project) {
    let (space, project) = alpha(NOTES);
    // Whoever runs the test is root in there, or could not change the limit after an exec.
    let map = |id: u32| format!("0 {id} 1");
    let writes = [
        ("/proc/self/uid_map", map(geteuid().as_raw())),
        ("/proc/self/setgroups", "deny".to_owned()),
        ("/proc/self/gid_map", map(getegid().as_raw())),
        (file, value.to_string()),
    ];
    let enter = move || {
        // SAFETY: unshare takes one integer, and concerns the calling process alone.
        if unsafe { libc::unshare(libc::CLONE_NEWUSER) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut writes = writes.iter();
        writes.try_for_each(|(path, text)| fs::write(path, text))
    };
    space.start_as(|command| {
        // SAFETY: between fork and exec it makes system calls, and no memory: short paths are turned
        // into C's on the stack.
        unsafe { command.pre_exec(enter) };
    });
    let items = project.item("");
    let items = items.to_str().unwrap().trim_end_matches('/');
    space.wait_log(&format!("{items} cannot be watched: too many inotify "));
    let remedy = format!("raise the sysctl {sysctl}; it is looked at once a minute");
    space.wait_log(&remedy);
    (space, project)
}

/// Whether limits can be set in a user namespace; where they cannot, the test is skipped and says so.
fn can_limit() -> bool {
    let set = format!("echo 2 > {WATCHES}");
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", &set]);
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let can = spawn(&mut command).wait().unwrap().success();
    if !can {
        let why =
            "no user namespace can be made, or /proc/sys is read-only, so no limit can be set";
        lacks("namespaces", why);
    }
    can
}

pub fn what_cannot_be_watched_is_looked_at_once_a_minute() {
    if !can_limit() {
        return;
    }
    let all = LIMITS.map(limited);
    for (_, project) in &all {
        project.submit(ID, "x");
    }
    for (space, project) in &all {
        wait_longer(A_MINUTE, "the job that nobody told of", || {
            project.result(ID)
        });
        assert_eq!(times(&space.log(), "jobs/items cannot be watched"), 1);
        assert!(!space.log().contains("Observer started"));
        assert_eq!(project.made("ran"), format!("{ID}\n"));
    }
}

pub fn what_could_not_be_watched_is_watched_when_it_can_be() {
    if !can_limit() {
        return;
    }
    let all = LIMITS.map(|limit| {
        let (space, project) = limited(limit);
        let pid = space.pid().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--user", "--preserve-credentials", "--target", &pid]);
        command.args(["sh", "-c", &format!("echo 100 > {}", limit.0)]);
        command.stdin(Stdio::null());
        assert!(spawn(&mut command).wait().unwrap().success());
        (space, project)
    });
    for (space, project) in &all {
        wait_longer(A_MINUTE, "the project to be watched", || {
            space.log().contains("Observer started").then_some(())
        });
        // What follows is seen at once.
        project.submit(NEXT, "x");
        wait_longer(BOUND / 3, "a job after that", || project.result(NEXT));
        let added = space.project("added");
        added.submit(NEXT, "x");
        wait_longer(BOUND / 3, "a project that is added", || added.result(NEXT));
    }
}
