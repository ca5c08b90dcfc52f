//! A daemon that takes over what a dead one left, killed before each of its system calls or with
//! each of them failing: every row of the table of states at once, laid out on disk, one of them
//! with a live survivor.

use crate::faults::{every_fault, live_with_fault, see_off};
use crate::kill::live_killed;
use crate::machine::start_time_of;
use crate::space::{BOUND, Project, is_alive, replace, spawn, wait_for, wait_until};
use crate::tracer::{Call, text_at};
use crate::world::{Beside, TEXT, World, every_kill, submit};
use job_monitor::digest::sha256_hex;
use job_monitor::job::JobId;
use job_monitor::process::Token;
use job_monitor::record::Claim;
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::process::{Command, Stdio};

/// Its agent outlived the daemon.
const SURVIVED: &str = "job-20260101-120000-survived";
/// The crash came between result and sweep.
const DONE: &str = "job-20260101-120001-done";
/// Waits for its retry, which is due.
const SUSPENDED: &str = "job-20260101-120002-suspended";
/// Its claim cannot be read.
const BROKEN: &str = "job-20260101-120003-broken";
/// The crash came between claim and start.
const NOT_BEGUN: &str = "job-20260101-120004-notbegun";
/// Its agent came to its end without the daemon.
const FINISHED: &str = "job-20260101-120005-finished";
/// Cancelled while no daemon ran.
const CANCELLED: &str = "job-20260101-120006-cancelled";
const WAITING: &str = "job-20260101-120007-waiting";
/// Those whose claim can be read.
const BEGUN: [&str; 5] = [SURVIVED, SUSPENDED, NOT_BEGUN, FINISHED, CANCELLED];

const RESULT: &str = "{\"job_id\": \"job-20260101-120001-done\", \"status\": \"completed\"}";
/// The end of an agent of the protocol `claude`, as its log holds it.
const ANSWER: &str = r#"{"type":"system","subtype":"init","session_id":"s","model":"m"}
{"type":"result","subtype":"success","is_error":false,"result":"done","session_id":"s","num_turns":1,"total_cost_usd":0.5}
"#;

#[test]
fn killed_at_any_call_of_recovery_nothing_is_lost_or_done_twice() {
    for on_interrupt in ["rerun", "fail"] {
        let life = format!("recovery, {on_interrupt}");
        let named = ["fsync", "renameat", "unlinkat"];
        every_kill(&life, &named, |point| one_point(on_interrupt, point));
    }
}

fn one_point(on_interrupt: &str, point: usize) -> Option<String> {
    let world = World::new(on_interrupt);
    let survivor = lay_out(&world);
    let begun = first_start(&world);
    let hit = live_killed(&world, point, |_, _| !begun(), stop_when_done);
    let (interrupted, unread) = heal_and_check(&world, on_interrupt, survivor);
    assert!(interrupted <= 1, "one kill interrupts one job");
    assert_eq!(unread, 0, "a kill breaks no claim");
    hit
}

#[test]
fn with_any_call_of_recovery_failing_once_nothing_is_lost_or_done_twice() {
    every_fault("recovery", &["fsync", "renameat", "openat"], one_fault);
}

fn one_fault(point: usize, kind: usize) -> Option<(String, &'static str)> {
    let world = World::new("rerun");
    let survivor = lay_out(&world);
    let begun = first_start(&world);
    let counts = |pid, call: &Call| !begun() && !looks_at_another(survivor, pid, call);
    let attend = |beside: &Beside<'_>, limit| see_off(beside, limit, || is_all_done(beside));
    let (hit, became) = live_with_fault(&world, kind, point, counts, attend);
    let (interrupted, unread) = heal_and_check(&world, "rerun", survivor);
    assert_eq!(interrupted, 0, "a fault interrupts nothing");
    assert!(unread <= 1, "one fault hides one claim");
    Some((hit?, became))
}

/// Whether a call is one of the thousands in which every process of the machine is looked at, but for
/// the first and the survivor.
fn looks_at_another(survivor: i32, pid: i32, call: &Call) -> bool {
    let path = match call.number {
        libc::SYS_pidfd_open => format!("/proc/{}", call.args[0]).into_bytes(),
        libc::SYS_openat => text_at(pid, call.args[1]),
        libc::SYS_getdents64 | libc::SYS_fcntl | libc::SYS_read | libc::SYS_pread64 => {
            let link = fs::read_link(format!("/proc/{pid}/fd/{}", call.args[0]));
            link.map(|path| path.into_os_string().into_encoded_bytes())
                .unwrap_or_default()
        }
        _ => return false,
    };
    let Some(name) = path.strip_prefix(b"/proc/") else {
        return false;
    };
    let of = |pid: i32| name.split(|byte| *byte == b'/').next() == Some(pid.to_string().as_bytes());
    name.first().is_some_and(u8::is_ascii_digit) && ![1, survivor, pid].into_iter().any(of)
}

/// Whether a job has been begun since the world was laid out: what comes then is a life as any
/// other.
fn first_start(world: &World) -> impl Fn() -> bool + use<> {
    let notes = world.space.root().join("notes");
    let noted = fs::metadata(&notes).unwrap().len();
    move || fs::metadata(&notes).unwrap().len() > noted
}

/// Lets a daemon finish undisturbed and sees to it that all is well. Gives how many jobs ended as
/// interrupted besides those that were laid out so, and of how many the claim or the log could not be read.
fn heal_and_check(world: &World, on_interrupt: &str, survivor: i32) -> (usize, usize) {
    let project = &world.project;
    world.space.start();
    for id in [DONE, WAITING, BROKEN].into_iter().chain(BEGUN) {
        project.wait_result(id);
    }
    project.wait_view("nothing to be left", |view| {
        view["queue_size"] == 0 && view["is_processing"] == false
    });
    // What could not be read while it was time to ends its job, and nobody says that it was done.
    let is_unread = |id: &&str| {
        let result = project.result(id).unwrap();
        let error = result["error"].as_str().unwrap_or_default();
        error.contains("nobody knows") && result["error_kind"] == "interrupted"
    };
    assert!(is_unread(&BROKEN));
    let unread: Vec<&str> = BEGUN.into_iter().filter(is_unread).collect();
    // Only the claim told which temporary directory was the run's, and it is removed once.
    if !unread.is_empty() || world.traced_log().contains("cannot remove") {
        for scratch in project.names(&world.space.root().join("tmp")) {
            fs::remove_dir(world.space.root().join("tmp").join(scratch)).unwrap();
        }
    }
    wait_until("claims and marks to be swept", || {
        world.state_names().is_empty()
    });
    assert!(!is_alive(survivor), "the survivor was not ended");
    assert_eq!(world.space.stop(), 0);
    world.space.assert_no_survivor();

    world.assert_tidy();
    let starts = |id| world.starts_of(id);
    let mut interrupted = 0;
    for id in BEGUN.into_iter().chain([WAITING]) {
        if unread.contains(&id) {
            continue;
        }
        let result = world.check_result(id);
        world.check_logs(&result);
        let kind = &result["error_kind"];
        let (status, of_layout) = match (id, on_interrupt) {
            (SURVIVED, "fail") => ("failed", kind == "interrupted"),
            // What it was when it was cancelled is over, one way or the other.
            (CANCELLED, "fail") if kind == "interrupted" => ("failed", true),
            (CANCELLED, _) => ("cancelled", kind == "cancelled"),
            _ => ("completed", kind.is_null()),
        };
        let ours = kind == "interrupted" && on_interrupt == "fail";
        assert!(result["status"] == status && of_layout || ours, "{result}");
        interrupted += usize::from(!of_layout);
    }
    assert_eq!((starts(DONE), starts(BROKEN)), (0, 0));
    assert_eq!((starts(FINISHED), starts(CANCELLED)), (1, 0));
    let done = fs::read_to_string(project.results(&format!("{DONE}.json")));
    assert_eq!(done.unwrap(), RESULT, "a published result was changed");
    (interrupted, unread.len())
}

/// Ends the life when all that can be done is.
fn stop_when_done(beside: &Beside<'_>) {
    if beside.wait(BOUND, || is_all_done(beside)) {
        beside.stop();
    }
}

fn is_all_done(beside: &Beside<'_>) -> bool {
    let mut all = BEGUN.iter().chain(&[WAITING, BROKEN]);
    all.all(|id| beside.is_done(id)) && beside.project.view()["is_processing"] == false
}

/// Writes down each state as a dead daemon left it. Gives the survivor's pid.
fn lay_out(world: &World) -> i32 {
    let project = &world.project;
    for id in BEGUN.iter().chain(&[DONE, BROKEN, WAITING]) {
        submit(project, id);
    }
    let ran = |id: &str, output: &str, text: &str| {
        fs::write(project.logs(&format!("{id}.md")), TEXT).unwrap();
        fs::write(project.logs(&format!("{id}.{output}")), text).unwrap();
        fs::write(project.logs(&format!("{id}.err")), "").unwrap();
    };

    ran(SURVIVED, "out", "some words\n");
    // It tells the project, too: where the claim is lost, that alone tells whose the survivor is.
    let token = Token::new(&world.project.path);
    let token = token.as_str();
    let pid = survivor(world, token);
    let start_time = start_time_of(pid.unsigned_abs());
    let process = json!({"pid": pid, "start_time": start_time});
    let text = claim(SURVIVED, json!({"run": token, "process": process}));
    lay(project, SURVIVED, &text);
    let scratch = format!("tmp/job-monitor-{}", &token[..16]);
    fs::create_dir(world.space.root().join(scratch)).unwrap();

    ran(DONE, "out", "");
    lay(project, DONE, &claim(DONE, json!({})));
    replace(&project.results(&format!("{DONE}.json")), RESULT.as_bytes());
    project.mark(DONE, "cancel");
    project.mark(DONE, "hold");

    ran(SUSPENDED, "out", "");
    let attempt = json!({"started_at": "2026-01-01T12:00:00.000+00:00", "duration_seconds": 1.0,
        "error_kind": "spawn_failed", "error": "no memory"});
    let suspended = json!({"kind": "spawn_failed", "error": "no memory",
        "retry_at": "2026-01-01T12:00:30.000+00:00", "afresh": true});
    let keys = json!({"attempts": [attempt], "retries": 1, "suspended": suspended});
    lay(project, SUSPENDED, &claim(SUSPENDED, keys));

    lay(project, BROKEN, "{torn");
    lay(project, NOT_BEGUN, &claim(NOT_BEGUN, json!({})));

    ran(FINISHED, "jsonl", ANSWER);
    let keys = json!({"protocol": "claude", "session_id": "00000000-0000-4000-8000-000000000000"});
    lay(project, FINISHED, &claim(FINISHED, keys));
    let run = "00000000000000000000000000000000";
    let notes = format!("begin {FINISHED} {run}\nend {FINISHED} {run}\n");
    fs::write(world.space.root().join("notes"), notes).unwrap();

    ran(CANCELLED, "out", "");
    lay(project, CANCELLED, &claim(CANCELLED, json!({})));
    project.mark(CANCELLED, "cancel");

    fs::write(project.state(&format!(".{WAITING}.claim.tmp")), "torn").unwrap();
    fs::write(project.results(&format!(".{WAITING}.json.tmp")), "torn").unwrap();
    pid
}

fn lay(project: &Project, id: &str, text: &str) {
    fs::write(project.state(&format!("{id}.claim")), text).unwrap();
}

/// A session leader with the run's token in its environment, which is nobody's child.
fn survivor(world: &World, token: &str) -> i32 {
    let mut command = Command::new("/bin/sh");
    let script = "setsid sh -c 'echo $$ > \"$PID\"; exec sleep 600' &";
    let pid_file = world.space.root().join("survivor");
    command.args(["-c", script]).env("PID", &pid_file);
    let project = world.project.name.as_str();
    let marks = [("RUN", token), ("PROJECT", project), ("JOB_ID", SURVIVED)];
    command.envs(marks.map(|(name, value)| (format!("JOB_MONITOR_{name}"), value)));
    command.stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.current_dir(&world.project.path);
    spawn(&mut command).wait().unwrap();
    let pid = wait_for("the survivor's pid", || {
        fs::read_to_string(&pid_file).ok()?.trim().parse().ok()
    });
    // Its environment is the one it was executed with, token and all, once it is `sleep`.
    wait_until("the survivor to sleep", || {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep"))
    });
    kill(Pid::from_raw(pid), None::<Signal>).expect("the survivor is there");
    pid
}

/// A claim as the daemon writes it, of a first start of a plain agent.
fn claim(id: &str, keys: Value) -> String {
    let mut claim = json!(Claim {
        job_id: JobId::parse(id).unwrap(),
        ..Claim::default()
    });
    let first = json!({
        "run": "00000000000000000000000000000000", "starts": 1, "queue_position": 1, "agent": "agent",
        "boot_id": fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim(),
        "started_at": "2026-01-01T12:00:00.000+00:00", "created_at": "2026-01-01T11:00:00.000+00:00",
        "document_sha256": sha256_hex(TEXT.as_bytes()),
    });
    for keys in [first, keys] {
        let object = claim.as_object_mut().unwrap();
        object.extend(keys.as_object().unwrap().clone());
    }
    format!("{claim}\n")
}
