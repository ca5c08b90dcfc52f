//! How an agent is started: what it finds of signals, descriptors and terminals however the
//! daemon itself was started, and what happens when it cannot be.

use crate::space::{MustHave, Project, Space, attempts, wait_for, wait_until};
use crate::stage::*;
use nix::fcntl::{FcntlArg, FdFlag};
use nix::libc;
use nix::pty::openpty;
use nix::sys::signal::{SigSet, SigmaskHow};
use serde_json::{Map, Value, json};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

/// An agent that tells how it finds itself: its descriptors on standard output, which a redirection
/// would change.
const TELLS: &str = r#"cat > /dev/null; cat /proc/$$/stat > stat; ls -l "/proc/$$/fd"
(: < /dev/tty) 2> /dev/null && echo tty > tty; umask > umask"#;

/// A space with a project whose agent is `TELLS`, followed by `more`, and one whose agent tells of
/// its signals: a program that begins with them as it finds them, which a shell does not.
fn world(more: &str) -> (Space, Project, Project) {
    let space = Space::new();
    let agent = space.program("agent", &format!("{TELLS}\n{more}"));
    let signals = ["grep", "-E", "^Sig(Blk|Ign):", "/proc/self/status"];
    space.set(json!({
        "agent": "agent",
        "agents": {"agent": {"command": [agent]}, "signals": {"command": signals}},
    }));
    let project = space.project("alpha");
    let signals = space.project_with("signals", json!({"agent": "signals"}));
    (space, project, signals)
}

/// Runs a job in both projects, which must find what SPEC 5 promises.
#[track_caller]
fn assert_as_promised(project: &Project, signals: &Project, id: &str, what: &str) {
    let result = signals.run(id, "x");
    let masks: Vec<_> = result["stdout"].as_str().unwrap().lines().collect();
    assert_eq!(masks.len(), 2, "{what}: {result}");
    for line in masks {
        let mask = line.split_whitespace().nth(1).unwrap();
        let mask = u64::from_str_radix(mask, 16).unwrap();
        // The C library keeps 32 and 33 for itself, and has them ignored in what it starts.
        assert_eq!(mask & !0x1_8000_0000, 0, "{what}: {line}");
    }
    project.submit(id, "x");
    assert_is_at_home(project, id, what);
}

/// What an agent of `TELLS` must have found.
#[track_caller]
fn assert_is_at_home(project: &Project, id: &str, what: &str) {
    let result = project.wait_result(id);
    assert_eq!(result["status"], "completed", "{what}: {result}");
    let stat = project.made("stat");
    let (head, rest) = stat.rsplit_once(')').unwrap();
    let pid = head.split(' ').next().unwrap();
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let (group, session, terminal) = (fields[2], fields[3], fields[4]);
    let is_leader = group == pid && session == pid;
    assert!(is_leader, "{what}: no session of its own: {stat}");
    assert_eq!(terminal, "0", "{what}: it has a terminal");
    assert_eq!(project.made("tty"), "", "{what}: it has a terminal");
    let fds = result["stdout"].as_str().unwrap();
    let mut links: Vec<(&str, &str)> = fds.lines().filter_map(|l| l.split_once(" -> ")).collect();
    // The shell has its script open beside what it was given.
    links.retain(|(_, target)| !target.ends_with("bin/agent"));
    assert_eq!(links.len(), 3, "{what}: {fds}");
    for ((link, target), (number, file)) in
        links.iter().zip([(0, "memfd:"), (1, ".out"), (2, ".err")])
    {
        let is_it = link.ends_with(&format!(" {number}")) && target.contains(file);
        assert!(is_it, "{what}: {number} is to be {file}: {fds}");
    }
    assert_eq!(project.made("umask"), "0027\n", "{what}");
}

/// Has the closure run in the daemon's process before it is the daemon.
fn before(command: &mut Command, prepare: impl Fn() + Send + Sync + 'static) {
    // SAFETY: what the tests pass are bare system calls, allowed between fork and exec.
    unsafe {
        command.pre_exec(move || {
            prepare();
            Ok(())
        });
    }
}

fn set_umask(command: &mut Command) {
    before(command, || {
        // SAFETY: umask takes a number and cannot fail.
        unsafe { libc::umask(0o027) };
    });
}

fn ignore(command: &mut Command, signals: &'static [i32]) {
    before(command, move || {
        for &signal in signals {
            // SAFETY: SIG_IGN is no handler, so nothing of ours runs in signal context.
            unsafe { libc::signal(signal, libc::SIG_IGN) };
        }
    });
}

fn close(command: &mut Command, descriptors: std::ops::RangeInclusive<i32>) {
    before(command, move || {
        for descriptor in descriptors.clone() {
            // SAFETY: after fork and before exec, nothing in this process uses them any more.
            unsafe { libc::close(descriptor) };
        }
    });
}

/// How the daemon is started in another way than usual.
type Adjust<'a> = &'a mut dyn FnMut(&mut Command);

#[test]
fn an_agent_finds_the_same_surroundings_however_the_daemon_was_started() {
    let rows: [(&str, Adjust<'_>); 9] = [
        ("as usual", &mut |_| {}),
        ("SIGCHLD ignored", &mut |c| ignore(c, &[libc::SIGCHLD])),
        ("by nohup", &mut |c| ignore(c, &[libc::SIGHUP])),
        ("in the background of a shell", &mut |c| {
            ignore(c, &[libc::SIGINT, libc::SIGQUIT]);
            ignore(c, &[libc::SIGPIPE, libc::SIGTSTP]);
        }),
        ("with signals blocked", &mut |c| {
            before(c, || {
                let _ = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK);
            });
        }),
        ("standard error closed", &mut |c| close(c, 2..=2)),
        ("nothing open", &mut |c| close(c, 0..=2)),
        ("much open", &mut |c| {
            before(c, || {
                for descriptor in [3, 4, 9, 200] {
                    // SAFETY: dup2 takes two numbers; those above 2 are nobody's before exec.
                    unsafe { libc::dup2(0, descriptor) };
                }
            });
        }),
        ("standard error on a full disk", &mut |c| {
            c.stderr(File::options().write(true).open("/dev/full").unwrap());
        }),
    ];
    for (what, adjust) in rows {
        let (space, project, signals) = world("");
        space.spawn(|command| {
            set_umask(command);
            adjust(command);
        });
        for id in [ID, NEXT] {
            assert_as_promised(&project, &signals, id, what);
        }
        assert_eq!(space.stop(), 0, "{what}");
    }
}

/// Starts the daemon as the leader of a session on a terminal, and gives the terminal's other end.
fn on_a_terminal(space: &Space, adjust: impl FnOnce(&mut Command)) -> File {
    let ends = openpty(None, None).unwrap();
    let (master, slave) = (File::from(ends.master), File::from(ends.slave));
    // Inherited, it would not go away with us.
    nix::fcntl::fcntl(&master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
    space.spawn(|command| {
        for stream in [Command::stdin, Command::stdout, Command::stderr] {
            stream(command, slave.try_clone().unwrap());
        }
        before(command, || {
            let _ = nix::unistd::setsid();
            // SAFETY: TIOCSCTTY takes a number and touches no memory.
            assert_eq!(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) }, 0);
        });
        adjust(command);
    });
    drop(slave);
    master
}

#[test]
fn a_terminal_that_goes_away_takes_the_daemon_with_it_unless_it_was_told_to_stay() {
    for stays in [false, true] {
        let (space, project, signals) =
            world("echo > running; while [ ! -e go ]; do sleep 0.02; done");
        let master = on_a_terminal(&space, |command| {
            if stays {
                ignore(command, &[libc::SIGHUP]);
            }
            set_umask(command);
        });
        project.submit(ID, "x");
        project.wait_made("running");
        drop(master);
        if stays {
            // What it says meets an error, and nothing else does.
            project.touch("go");
            assert_is_at_home(&project, ID, "on a terminal");
            assert_as_promised(&project, &signals, NEXT, "after the terminal");
            assert_eq!(space.stop(), 0);
        } else {
            assert_eq!(space.wait_end(), 0);
            assert!(project.claim(ID).is_some() && project.result(ID).is_none());
        }
        space.assert_no_survivor();
    }
}

// --- starts that fail ---

/// What must be as it was after starts that failed: each thread hears each signal, and neither
/// descriptors nor processes are left.
#[derive(Debug, PartialEq)]
struct Household {
    blocked: Vec<String>,
    descriptors: usize,
    children: String,
}

impl Household {
    fn of(space: &Space) -> Household {
        let own = format!("/proc/{}", space.pid());
        let threads = fs::read_dir(format!("{own}/task")).unwrap().flatten();
        let threads: Vec<_> = threads.map(|thread| thread.path()).collect();
        let all = |name: &str| -> String {
            let read = |path: &PathBuf| fs::read_to_string(path.join(name)).unwrap_or_default();
            threads.iter().map(read).collect()
        };
        let status = all("status");
        let masks = status
            .lines()
            .filter_map(|line| line.strip_prefix("SigBlk:"));
        let blocked = masks.map(|mask| mask.trim().to_owned());
        Household {
            blocked: blocked.filter(|mask| mask.contains(|c| c != '0')).collect(),
            descriptors: fs::read_dir(format!("{own}/fd")).unwrap().count(),
            children: all("children"),
        }
    }
}

#[test]
fn a_start_that_fails_holds_the_agent_by_name_and_leaves_nothing_behind() {
    let space = Space::new();
    let bin = space.root().join("bin");
    fs::create_dir(bin.join("folder")).unwrap();
    fs::write(bin.join("no-program"), "#!/bin/sh\n").unwrap();
    space.executable("no-first-line", "echo hello\n");
    space.executable("empty", "");
    space.executable("by-env", "#!/usr/bin/env no-such-node\n");
    space.executable("by-env-s", "#!/usr/bin/env -S no-such-node --flag\n");
    space.executable("by-path", "#!/no/such/python3 -u\n");
    symlink("nowhere", bin.join("dangling")).unwrap();
    symlink("loop", bin.join("loop")).unwrap();
    let rows = [
        ("no-first-line", "exec format error"),
        ("empty", "exec format error"),
        ("dangling", "no such file"),
        ("loop", "symbolic link"),
        ("empty/below", "not a directory"),
        ("folder", "is not there"),
        ("no-program", "is not there"),
        ("by-env", "needs no-such-node"),
        ("by-env-s", "needs no-such-node"),
        ("by-path", "needs /no/such/python3"),
    ];
    space.program("agent", "cat > /dev/null");
    let names = rows.iter().map(|(name, _)| *name).chain(["agent"]);
    let agent = |name: &str| (name.to_owned(), json!({"command": [bin.join(name)]}));
    let agents: Map<String, Value> = names.map(agent).collect();
    space.set(json!({"agent": "agent", "agents": agents}));
    let healthy = space.project("healthy");
    let project = |(at, name)| space.project_with(&format!("p{at}"), json!({"agent": name}));
    let projects = rows.iter().map(|row| row.0).enumerate().map(project);
    let projects: Vec<Project> = projects.collect();
    space.start();
    healthy.complete(ID, "x");
    // Each worker keeps its log open from its first view on.
    for project in projects.iter().chain([&healthy]) {
        project.wait_view("idle", |view| view["is_processing"] == false);
    }
    // The view is written a moment before the worker sleeps.
    let before = wait_for("a household at rest", || {
        let first = Household::of(&space);
        std::thread::sleep(Duration::from_millis(50));
        (Household::of(&space) == first).then_some(first)
    });
    assert_eq!(before.blocked, [""; 0]);
    for (project, (name, why)) in projects.iter().zip(rows) {
        project.submit(ID, "x");
        let reason = wait_hold(project, "agent_missing");
        reason.must_have(bin.join(name).to_str().unwrap());
        let is_vague = !why.starts_with("needs") && reason.contains("cannot be executed");
        assert!(is_vague || reason.contains(why), "{name}: {reason}");
        assert!(project.claim(ID).is_none() && project.result(ID).is_none());
    }
    wait_until("the household as it was", || {
        Household::of(&space) == before
    });
    healthy.complete(NEXT, "x");
}

#[test]
fn a_project_whose_directory_cannot_be_entered_is_waited_for_and_its_agent_not_held() {
    let space = with_agent("cat > /dev/null; pwd");
    let (project, other) = (space.project("alpha"), space.project("beta"));
    space.start();
    project.run(ID, "x");
    // The spool is open and goes on telling of documents, but its path leads nowhere.
    let away = space.root().join("away");
    fs::rename(&project.path, &away).unwrap();
    let items = away.join("jobs/items");
    fs::write(items.join(".new"), "x").unwrap();
    fs::rename(items.join(".new"), items.join(format!("{NEXT}.md"))).unwrap();
    space.wait_log("[alpha] the project is unavailable: ");
    other.complete(ID, "x");
    fs::rename(&away, &project.path).unwrap();
    let result = project.wait_completed(NEXT);
    assert_eq!(attempts(&result).len(), 1);
}

/// A plain agent's answer may stand in a file of its own, and an owner may want one of every job.
#[test]
fn a_plain_agent_s_answer_is_read_from_its_file_and_missed_where_one_is_required() {
    let space = Space::new();
    let writes = space.program(
        "writes",
        r#"cat > /dev/null; mkdir -p out; echo "from the file" > "out/$1.$2"; echo noise"#,
    );
    let silent = space.program("silent", "cat > /dev/null");
    space.set(json!({"breaker": 0, "agents": {
        "writes": {"command": [writes, "{job_id}", "{attempt}"], "answer": "out/{job_id}.{attempt}"},
        "old": {"command": [silent], "answer": "old", "require_answer": true},
        "silent": {"command": [silent]},
        "must": {"command": [silent], "require_answer": true},
    }}));
    let run = |agent: &str| {
        let project = space.project_with(agent, json!({ "agent": agent }));
        // What lies there from before is no answer of this job's, however young it is.
        fs::write(project.path.join("old"), "an older answer").unwrap();
        project.submit(ID, "x");
        project
    };
    let projects = ["writes", "old", "silent", "must"].map(run);
    space.start();
    let [writes, old, silent, must] = projects.each_ref().map(|project| project.wait_result(ID));
    assert_eq!(writes["worker_output"]["summary"], "from the file");
    assert_eq!(silent["status"], "completed");
    assert_eq!(silent["worker_output"]["summary"], Value::Null);
    for result in [old, must] {
        result.must_have(json!({"status": "failed", "error_kind": "empty_answer"}));
    }
}
