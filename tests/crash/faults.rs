//! Each system call of a short life fails once, in each way that it can: a full disk, a bad
//! sector, no descriptors, no processes. The daemon says so and goes on; it may refuse to start,
//! but once it is ready it stays. No job is lost, none begun twice, and none runs unclaimed.

use crate::tracer::{Act, CAN_FAIL, Call, End};
use crate::world::{
    Beside, ONE, TWO, World, can_trace, effects, exhaust_by, report, submit, tally,
};
use nix::libc;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixDatagram;
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
    if !can_trace() {
        return;
    }
    if !CAN_FAIL {
        report("skipped: calls are made to fail on x86-64 only");
        return;
    }
    let ends: Mutex<BTreeMap<&str, usize>> = Mutex::default();
    let kinds = effects().iter().map(|row| row.2.len()).max().unwrap_or(0);
    for kind in 0..kinds {
        let hit = exhaust_by(ABREAST, |point| {
            let (name, end) = one_fault(point, kind)?;
            *ends.lock().unwrap().entry(end).or_default() += 1;
            Some(name)
        });
        report(&format!(
            "faults put into a life, {}: {}",
            kind + 1,
            tally(&hit)
        ));
        for name in ["fsync", "renameat", "write", "openat"] {
            assert!(hit.contains_key(name), "no {name} among {hit:?}");
        }
    }
    report(&format!("what became of them: {:?}", ends.lock().unwrap()));
}

/// The `point`-th of the calls that can fail in more than `kind` ways fails in that way. Gives the
/// call's name and what became of the life; `None` if there were fewer such calls.
fn one_fault(point: usize, kind: usize) -> Option<(String, &'static str)> {
    let world = World::new("fail");
    let socket = world.space.root().join("told");
    let told = UnixDatagram::bind(&socket).unwrap();
    told.set_nonblocking(true).unwrap();
    world.space.env("NOTIFY_SOCKET", socket.to_str().unwrap());
    submit(&world.project, ONE);
    let (table, mut count, mut hit) = (effects(), 0, None);
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
            count += 1;
            if count != point {
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
                && [
                    "meanwhile no",
                    "in a minute",
                    "once a minute",
                    "is left alone",
                ]
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
    forget_pauses(&world);
    world.space.env("NOTIFY_SOCKET", "");
    world.heal(&[ONE, TWO]);
    for result in world.check_both("fail") {
        assert_eq!(result["status"], "completed", "{result}");
        // The copy of a text is made when a job ends, at the latest, and not tried for ever.
        if !world.traced_log().contains(".md: ") {
            world.check_logs(&result);
        }
    }
    hit.map(|(name, _)| (name, became))
}

/// Whether a call can fail so: what the daemon's threads tell each other through the kernel cannot
/// run out of disk, no disk is too full to be read, and an unlock needs nothing.
fn can_fail(call: &Call, pid: i32, error: i32) -> bool {
    match call.number {
        libc::SYS_write => {
            let file = fs::read_link(format!("/proc/{pid}/fd/{}", call.args[0]));
            file.is_ok_and(|path| path.is_absolute())
        }
        libc::SYS_openat if error == libc::ENOSPC => call.args[2] & libc::O_CREAT as u64 != 0,
        libc::SYS_flock => call.args[1] != libc::LOCK_UN as u64,
        _ => true,
    }
}

/// What was seen of a life before it was stopped.
#[derive(Debug)]
enum Seen {
    Done,
    /// Not done, for the reason given.
    Waiting(String),
}

/// As an undisturbed life, but a job may have to wait: then the view says until when, or why.
fn attend(beside: &Beside<'_>, limit: Duration) -> Seen {
    beside.wait(limit, || beside.has_begun(ONE) || why(beside).is_some());
    submit(beside.project, TWO);
    let done = || beside.is_done(ONE) && beside.is_done(TWO) && beside.is_idle();
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
    for id in [ONE, TWO] {
        let Some(text) = world.project.claim(id) else {
            continue;
        };
        let mut claim: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        if claim["suspended"].is_object() {
            claim["suspended"]["retry_at"] = json!("2026-01-01T12:00:00.000+00:00");
            fs::write(
                world.project.state(&format!("{id}.claim")),
                format!("{claim}\n"),
            )
            .unwrap();
        }
    }
}
