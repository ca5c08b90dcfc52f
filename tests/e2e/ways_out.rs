//! What a person is told when there is nothing to do, or not what they thought: how things stand,
//! and the way out.

use crate::space::{MustHave, Space};
use serde_json::json;
use std::fs;

const ID: &str = "job-20260101-120000-x";
const NEXT: &str = "job-20260101-120001-next";

#[test]
fn without_a_project_each_command_says_how_to_add_one() {
    let space = Space::new();
    for args in [
        &["queue"][..],
        &["list"],
        &["watch"],
        &[ID],
        &["logs", ID],
        &["wait", ID],
        &["cancel", ID],
        &["hold", "--all"],
        &["submit", "/dev/null"],
    ] {
        let ran = space.run(args);
        let told = format!("{}{}", ran.stdout, ran.stderr);
        assert!(
            told.contains("job-monitor register PATH adds one"),
            "{args:?}: {ran:?}"
        );
    }
}

#[test]
fn a_job_cancelled_while_no_daemon_runs_is_shown_as_such_until_one_does() {
    let space = Space::new();
    let project = space.project("alpha");
    project.submit(ID, "x");
    project.submit(NEXT, "x");
    space.run(&["hold", "--all"]).ok();
    space.run(&["cancel", ID]).ok();
    let queue = space.run(&["queue"]).ok();
    assert!(queue.contains(&format!("{ID}.md (cancelled)\n")), "{queue}");
    assert!(queue.contains(&format!("{NEXT}.md (held)\n")), "{queue}");
    let still = "its result is written when the monitor serves the project\n";
    let shown = space.run(&[ID]).ok();
    shown.must_have(&format!("\nCancelled: {still}"));
    assert!(
        !shown.contains("Queue position") && !shown.contains("Held"),
        "{shown}"
    );
    let json = space.run(&["show", ID, "--json"]).json();
    json.must_have(json!({"state": "held", "cancelled": true}));
    for args in [
        &["wait", "--timeout", "50ms", ID][..],
        &["hold", ID],
        &["release", ID],
    ] {
        let ran = space.run(args);
        let told = format!("{}{}", ran.stdout, ran.stderr);
        told.must_have(&format!("{ID} is cancelled; {still}"));
    }
    let json = space.run(&["queue", "--json"]).json();
    json["projects"][0]["waiting"].must_have(json!([{"cancelled": true}, {"cancelled": false}]));
    // With the daemon's start it is done, and took no time.
    space.start();
    project.wait_result(ID);
    let shown = space.run(&[ID]).ok();
    assert!(shown.contains("\nDuration: 0.00 seconds\n"), "{shown}");
}

#[test]
fn what_was_asked_for_all_jobs_and_done_to_none_is_said() {
    let space = Space::new();
    let project = space.project("alpha");
    assert_eq!(space.run(&["cancel", "--all"]).ok(), "No job to cancel\n");
    assert_eq!(space.run(&["hold", "--all"]).ok(), "No job to hold\n");
    project.submit(ID, "x");
    let held = space.run(&["hold", "--all"]).ok();
    assert!(held.starts_with(&format!("Held {ID}; ")), "{held}");
    assert_eq!(held.lines().count(), 1, "{held}");
}

#[test]
fn a_wait_whose_time_is_up_names_the_jobs_that_are_not_done() {
    let space = Space::new();
    let project = space.project("alpha");
    project.submit(NEXT, "x");
    fs::write(
        project.results(&format!("{ID}.json")),
        json!({"job_id": ID, "status": "completed"}).to_string(),
    )
    .unwrap();
    let ran = space.run(&["wait", "--timeout", "50ms", ID, NEXT]);
    assert_eq!(ran.status, 124, "{ran:?}");
    let last = ran.stderr.lines().last().unwrap_or_default();
    assert!(last.contains(NEXT) && !last.contains(ID), "{ran:?}");
}

#[test]
fn a_job_that_never_started_is_told_of_without_a_duration() {
    let space = Space::new();
    let project = space.project("alpha");
    for (id, seconds) in [(ID, 0.0), (NEXT, 0.3)] {
        let document = json!({"job_id": id, "status": "cancelled", "duration_seconds": seconds});
        fs::write(project.results(&format!("{id}.json")), document.to_string()).unwrap();
    }
    let told = space.run(&["status"]).ok();
    assert!(told.contains(&format!("{ID}: cancelled\n")), "{told}");
    assert!(told.contains(&format!("{NEXT}: cancelled  0s\n")), "{told}");
}

#[test]
fn the_program_by_itself_answers_with_its_help_and_nothing_else() {
    let space = Space::new();
    let ran = space.run(&[]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert_eq!(ran.stderr, space.run(&["help"]).ok());
    assert_eq!(ran.stdout, "");
}

#[test]
fn releasing_a_job_that_waits_for_its_retry_says_that_it_is_not_held() {
    let space = Space::new();
    let project = space.project("alpha");
    // A crash of an agent with a session is tried again after a while.
    space.claude("cat > /dev/null; kill -SEGV $$");
    space.start();
    project.submit(ID, "x");
    project.wait_view("a retry", |view| view["retry_at"].is_string());
    let told = space.run(&["release", ID]).ok();
    assert!(told.starts_with(&format!("{ID} is not held; ")), "{told}");
    // One that a person holds besides is released.
    space.run(&["hold", ID]).ok();
    let told = space.run(&["release", ID]).ok();
    assert_eq!(told, format!("Released {ID}\n"));
}

#[test]
fn releasing_a_job_that_was_only_interrupted_releases_nothing() {
    let space = Space::new();
    space.plain_agent("cat > /dev/null; : > begun; exec sleep 600");
    let project = space.project("alpha");
    space.start();
    project.submit(ID, "x");
    project.wait_view("that it runs", |view| view["is_processing"] == true);
    space.kill();
    let told = space.run(&["release", ID]).ok();
    assert!(told.starts_with(&format!("{ID} is not held; ")), "{told}");
}
