//! Each system call of a short life fails once, in each way that it can: a full disk, a bad
//! sector, no descriptors, no processes. The daemon says so and goes on; it may refuse to start,
//! but once it is ready it stays. No job is lost, none begun twice, and none runs unclaimed.

use crate::space::lacks;
use crate::tracer::{Act, CAN_FAIL, Call, End};
use crate::world::{
    Beside, Effect, ONE, TWO, World, can_trace, effects, exhaust_by, report, report_points, submit,
};
use nix::libc;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

/// Longer than the pauses after which a fault that has passed is forgotten: 1 and 2 s, and a minute
/// where settings or registry could not be read, no thread be started or no directory be watched.
/// What lasts longer is a hold or a retry, and stands in the view.
const PASSING: Duration = Duration::from_secs(90);
/// In the second and third way in which the same calls fail, those minutes need not be waited out
/// again.
const SHORT: Duration = Duration::from_secs(15);

/// So many at a time: some wait for a minute.
const ABREAST: usize = 8;

#[test]
fn with_any_call_failing_once_no_job_is_lost_or_begun_twice() {
    let named = ["fsync", "renameat", "write", "openat"];
    every_fault("a life", &named, one_fault);
}

/// Makes each call fail that a trial meets, in each way, until it reports (with `None`) that its life
/// had no more. The calls named must be among them.
pub fn every_fault(
    of: &str,
    named: &[&str],
    trial: impl Fn(usize, usize) -> Option<(String, &'static str)> + Sync,
) {
    if !can_trace() {
        return;
    }
    if !CAN_FAIL {
        return lacks("x86-64", "calls are made to fail on x86-64 only");
    }
    let ends: Mutex<BTreeMap<&str, usize>> = Mutex::default();
    let kinds = effects().iter().map(|row| row.2.len()).max().unwrap_or(0);
    for kind in 0..kinds {
        let hit = exhaust_by(ABREAST, |point| {
            let (name, end) = trial(point, kind)?;
            *ends.lock().unwrap().entry(end).or_default() += 1;
            Some(name)
        });
        report_points(&format!("faults put into {of}, {}", kind + 1), named, &hit);
    }
    report(&format!("what became of them: {:?}", ends.lock().unwrap()));
}

/// Two jobs' life with one fault in it. Gives the call's name and what became of the life; `None` if
/// there were fewer such calls.
fn one_fault(point: usize, kind: usize) -> Option<(String, &'static str)> {
    let world = World::new("fail");
    submit(&world.project, ONE);
    let (hit, became) = live_with_fault(&world, kind, point, |_, _| true, attend);
    world.heal(&[ONE, TWO]);
    for result in world.check_both("fail") {
        assert_eq!(result["status"], "completed", "{result}");
        // The copy of a text is made when a job ends, at the latest, and not tried for ever.
        if !world.traced_log().contains(".md: ") {
            world.check_logs(&result);
        }
    }
    Some((hit?, became))
}

/// Lives in a world in which the `point`-th of those calls fails that `counts` and that can fail in
/// more than `kind` ways, in that way. Gives the call's name, if the life had so many, and what
/// became of it, which is one of three things; whatever was put off by it is due afterwards.
pub fn live_with_fault(
    world: &World,
    kind: usize,
    point: usize,
    counts: impl Fn(i32, &Call) -> bool,
    attend: impl FnOnce(&Beside<'_>, Duration) -> Seen + Send,
) -> (Option<String>, &'static str) {
    let socket = world.space.root().join("told");
    let told = UnixDatagram::bind(&socket).unwrap();
    told.set_nonblocking(true).unwrap();
    world.space.env("NOTIFY_SOCKET", socket.to_str().unwrap());
    let mut table = effects();
    table.extend(looks());
    let (mut count, mut hit) = (0, None);
    let limit = if kind == 0 { PASSING } else { SHORT };
    let seen: Mutex<Seen> = Mutex::new(Seen::Done);
    let end = world.live(
        |pid, call| {
            let row = table.iter().find(|row| row.0 == call.number);
            let failure = row.and_then(|row| Some((row.1, *row.2.get(kind)?)));
            let Some((name, error)) = failure.filter(|(_, error)| can_fail(call, pid, *error))
            else {
                return Act::Let;
            };
            count += usize::from(counts(pid, call));
            if count != point || hit.is_some() {
                return Act::Let;
            }
            hit = Some((name.to_owned(), error));
            Act::Fail(error)
        },
        |beside| *seen.lock().unwrap() = attend(beside, limit),
    );
    let seen = seen.into_inner().unwrap();
    world.tell(format!("fault: {hit:?} at call {point}; {end:?}, {seen:?}"));
    let mut message = [0; 512];
    let mut ready = false;
    while let Ok(length) = told.recv(&mut message) {
        ready |= message[..length].starts_with(b"READY=1");
    }
    let became = match (end, &seen) {
        (End::Code(0), Seen::Done) => "went on",
        (End::Code(0), Seen::Waiting(why)) => {
            let log = world.traced_log();
            let said = kind > 0
                && ["meanwhile no", "in a minute", "once a minute"]
                    .iter()
                    .any(|text| log.contains(text));
            assert!(!why.is_empty() || said, "it waits without a word");
            "waited and said why"
        }
        (End::Code(1), _) if !ready => {
            let log = world.traced_log();
            assert!(log.contains("job-monitor: "), "refused without a word");
            "refused to start"
        }
        _ => panic!("the daemon did not stay"),
    };
    forget_pauses(world);
    world.space.env("NOTIFY_SOCKET", "");
    (hit.map(|(name, _)| name), became)
}

/// Whether a call can fail so: what the daemon's threads tell each other through the kernel cannot
/// run out of disk, no disk is too full to be read, an unlock needs nothing, and the flags of a
/// descriptor are asked for by a debug build alone.
fn can_fail(call: &Call, pid: i32, error: i32) -> bool {
    match call.number {
        libc::SYS_write | libc::SYS_read | libc::SYS_pread64 => {
            let file = fs::read_link(format!("/proc/{pid}/fd/{}", call.args[0]));
            file.is_ok_and(|path| path.is_absolute())
        }
        libc::SYS_openat if error == libc::ENOSPC => call.args[2] & libc::O_CREAT as u64 != 0,
        libc::SYS_flock => call.args[1] != libc::LOCK_UN as u64,
        libc::SYS_fcntl => call.args[1] != libc::F_GETFD as u64,
        _ => true,
    }
}

/// The calls that read. Nothing is different after one of them, but each may fail.
fn looks() -> [Effect; 2] {
    [
        (libc::SYS_read, "read", &[libc::EIO]),
        (libc::SYS_pread64, "pread64", &[libc::EIO]),
    ]
}

/// What was seen of a life before it was stopped.
#[derive(Debug)]
pub enum Seen {
    Done,
    /// Not done, for the reason given.
    Waiting(String),
}

/// As an undisturbed life, but a job may have to wait: then the view says until when, or why.
fn attend(beside: &Beside<'_>, limit: Duration) -> Seen {
    beside.wait(limit, || beside.has_begun(ONE) || why(beside).is_some());
    submit(beside.project, TWO);
    see_off(beside, limit, || {
        beside.is_done(ONE) && beside.is_done(TWO) && beside.is_idle()
    })
}

/// Stops a life when its jobs are done, or when they wait for longer than it is to last.
pub fn see_off(beside: &Beside<'_>, limit: Duration, done: impl Fn() -> bool) -> Seen {
    beside.wait(limit, || done() || why(beside).is_some());
    let seen = match why(beside) {
        _ if done() => Seen::Done,
        why => Seen::Waiting(why.unwrap_or_default()),
    };
    beside.stop();
    seen
}

/// Why nothing runs, if the view says so.
fn why(beside: &Beside<'_>) -> Option<String> {
    let view = beside.project.view();
    [&view["hold"], &view["retry_at"]]
        .into_iter()
        .find(|value| !value.is_null())
        .map(Value::to_string)
}

/// As if the time had passed for which a job or an agent is put off.
fn forget_pauses(world: &World) {
    let _ = fs::remove_file(world.space.state().join("holds.json"));
    let state = world.project.state("");
    for name in world.project.names(&state) {
        let path = state.join(&name);
        let Some(mut claim) = claim_in(&path).filter(|_| name.ends_with(".claim")) else {
            continue;
        };
        if claim["suspended"].is_object() {
            claim["suspended"]["retry_at"] = json!("2026-01-01T12:00:00.000+00:00");
            fs::write(path, format!("{claim}\n")).unwrap();
        }
    }
}

fn claim_in(path: &Path) -> Option<Value> {
    let text = fs::read_to_string(path).ok()?;
    serde_json::from_str(text.lines().next()?).ok()
}
