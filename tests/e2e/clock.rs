//! A clock that is set, and files that come from the future: the time of day names and orders
//! things, but how long something lasts or waits is told by a clock that nobody sets.

use crate::recovery::{claim, lay_claim};
use crate::space::{Space, lacks, replace, wait_until};
use crate::stage::*;
use job_monitor::time::Wall;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

const DAY: i64 = 86_400;

/// A space whose daemon sees a clock that the test can set; `None` where that cannot be had. The
/// monotonic clock and the times of files stay as they are, as where a clock is set in earnest.
pub fn settable() -> Option<Space> {
    let places = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut places = places.map(|dir| dir.path().join("faketime/libfaketimeMT.so.1"));
    let Some(library) = places.find(|path| path.exists()) else {
        lacks("faketime", "there is no libfaketime");
        return None;
    };
    let space = Space::new();
    let clock = space.root().join("clock");
    fs::write(&clock, "+0").unwrap();
    for (name, value) in [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("NO_FAKE_STAT", "1"),
    ] {
        space.env(name, value);
    }
    Some(space)
}

pub fn set_clock(space: &Space, seconds: i64) {
    let clock = space.root().join("clock");
    replace(&clock, format!("{seconds:+}").as_bytes());
}

/// A stamp of the result as seconds since 1970.
fn seconds(stamp: &Value) -> i64 {
    let wall: Wall = serde_json::from_value(stamp.clone()).unwrap();
    wall.secs()
}

fn make_old(path: &PathBuf, age: i64) {
    let file = File::options().write(true).open(path).unwrap();
    let at = Wall::now().secs() - age;
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(at.unsigned_abs());
    file.set_modified(at).unwrap();
}

#[test]
fn a_clock_that_is_set_while_an_agent_runs_changes_neither_its_time_nor_what_comes_next() {
    // The last is beyond what 32 bits can count.
    for jump in [2 * DAY, -2 * DAY, 20 * 365 * DAY] {
        let Some(space) = settable() else { return };
        space.plain_agent(
            r#"cat > /dev/null; echo "$JOB_MONITOR_JOB_ID" >> ran
while [ ! -e go ]; do echo; sleep 0.05; done"#,
        );
        space.set(json!({"timeout": "20s", "silence_timeout": "10s"}));
        let project = space.project("alpha");
        space.start();
        begin(&project, ID, "x");
        set_clock(&space, jump);
        // As an editor saves it: it has to settle, by a clock that has just been set.
        fs::write(project.item(&format!("{NEXT}.md")), "x").unwrap();
        project.wait_view("the next one waits", |view| view["queue_size"] == 1);
        project.touch("go");
        for id in [ID, NEXT] {
            let result = project.wait_result(id);
            assert_eq!(result["status"], "completed", "{jump}: {result}");
            let took = result["duration_seconds"].as_f64().unwrap();
            assert!(took < 15.0, "{jump}: {took} s");
            // The test would say nothing if the daemon had not seen another clock.
            let off = seconds(&result["completed_at"]) - Wall::now().secs() - jump;
            assert!(off.abs() < 60, "{jump}: the clock is {off} s off");
        }
        let ran = project.made("ran");
        assert_eq!(ran, format!("{ID}\n{NEXT}\n"), "{jump}");
        assert_eq!(space.stop(), 0, "{jump}");
    }
}

#[test]
fn a_pause_before_a_repeat_is_over_when_a_clock_that_is_set_says_so() {
    let Some(space) = settable() else { return };
    space.plain_agent("cat > /dev/null; echo done");
    let project = space.project("alpha");
    let retry_at = Wall::now().plus(Duration::from_secs(1800));
    let suspended = json!({"suspended": {"kind": "spawn_failed", "error": "cannot start it",
        "retry_at": retry_at, "afresh": false}});
    project.submit_all(&[ID, NEXT]);
    fs::write(project.logs(&format!("{ID}.md")), "x").unwrap();
    lay_claim(&project, ID, &claim(ID, suspended));
    space.start();
    project.wait_view("suspended", |view| view["retry_at"] != Value::Null);
    assert!(project.result(ID).is_none());
    set_clock(&space, DAY);
    // It is noticed within a minute, or when there is something to look at.
    project.submit(LAST, "x");
    project.wait_all_completed(&[ID, NEXT, LAST]);
}

#[test]
fn files_from_the_future_or_from_long_ago_are_like_all_others() {
    let (space, project) = alpha(r#"cat > /dev/null; echo "$JOB_MONITOR_JOB_ID" >> ran"#);
    space.set(json!({"on_interrupt": "rerun"}));
    let write = |path: PathBuf, text: &str, age: i64| {
        fs::write(&path, text).unwrap();
        make_old(&path, age);
    };
    let (future, past) = (-50 * 365 * DAY, 50 * 365 * DAY);
    let ids = |kind: &str| [0, 1].map(|n| format!("job-20260101-11000{n}-{kind}"));
    let (done, begun) = (ids("done"), ids("begun"));
    for (at, age) in [future, past].into_iter().enumerate() {
        for id in [&done[at], &begun[at]] {
            write(project.item(&format!("{id}.md")), "x", age);
        }
        let result = json!({"job_id": done[at], "status": "completed"}).to_string();
        write(project.results(&format!("{}.json", done[at])), &result, age);
        let started = claim(&begun[at], json!({"started_at": Wall::now()}));
        lay_claim(&project, &begun[at], &started);
        make_old(&project.state(&format!("{}.claim", begun[at])), age);
        for ending in ["md", "out", "err"] {
            write(project.logs(&format!("{}.{ending}", begun[at])), "x", age);
        }
    }
    space.start();
    for (at, age) in [future, past].into_iter().enumerate() {
        // It was interrupted, and took no time that anybody has seen.
        let result = project.wait_completed(&begun[at]);
        let took = result["duration_seconds"].as_f64().unwrap();
        assert!(took < 60.0, "{age}: {took} s");
        let id = format!("job-20260101-12000{at}-new");
        write(project.item(&format!("{id}.md")), "x", age);
        project.wait_completed(&id);
    }
    let ran = project.made("ran");
    assert!(!ran.contains("done"), "{ran}");
    assert_eq!(ran.lines().count(), 4, "{ran}");
    for command in ["status", "queue", "stats", &done[0], &done[1]] {
        space.run(&[command]).ok();
    }
    wait_until("the claims to be swept", || {
        let names = project.names(&project.state(""));
        !names.iter().any(|name| name.ends_with(".claim"))
    });
}
