//! Faults of a bad night (issue 12), each through the built program.

use crate::claude_standin::{ahead, script, stand_in, starts};
use crate::recovery::{claim, lay_claim};
use crate::registry::is_free;
use crate::space::{Project, Space, attempts, replace, wait_until};
use crate::stage::*;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Fault 4.
#[test]
fn a_job_whose_result_was_taken_away_is_not_run_again_and_the_way_out_is_named() {
    let (space, project) = alpha(NOTES);
    space.start();
    project.run(ID, "x");
    // As `git clean` and a restored backup do: while the daemon runs, and while it does not.
    fs::remove_file(project.results(&format!("{ID}.json"))).unwrap();
    let text = fs::read(project.item(&format!("{ID}.md"))).unwrap();
    replace(&project.item(&format!("{ID}.md")), &text);
    let way_out = format!("job-monitor retry {ID}");
    space.wait_log(&way_out);
    let alone = || space.run(&["queue"]).ok().contains(&way_out);
    wait_until("the queue to show the way out", alone);
    let shown = || space.run(&[ID]).ok().contains(&way_out);
    assert!(shown());
    let waited = space.run(&["wait", "--timeout", "300ms", ID]);
    assert!(waited.stderr.contains(&way_out), "{waited:?}");
    space.kill();
    // Without the daemon it is told as well, and is no job that waits.
    assert!(alone() && shown());
    let queue = space.run(&["queue"]).ok();
    assert!(queue.starts_with("Queue size: 0\n"), "{queue}");
    let _ = fs::remove_dir_all(project.state(""));
    space.start();
    project.run(NEXT, "x");
    assert_eq!(project.made("ran"), format!("{ID}\n{NEXT}\n"));
    wait_until("the queue to show the way out", alone);
    // The way out leads out.
    let again = space.run(&["retry", ID]).ok();
    project.wait_completed(again.trim());
    fs::remove_file(project.item(&format!("{ID}.md"))).unwrap();
    let nothing = || !space.run(&["queue"]).ok().contains("Left alone");
    wait_until("the queue to show what is there", nothing);
}

fn without_its_result_it_is_not_run(space: &Space, project: &Project, result: &Path) {
    fs::remove_file(result).unwrap();
    space.start();
    space.wait_log(&format!("job-monitor retry {ID}"));
    assert_eq!(project.made("ran"), "");
}

#[test]
fn results_from_before_there_was_a_memory_of_them_are_remembered_too() {
    let (space, project) = alpha(NOTES);
    project.submit(ID, "x");
    let result = project.put_result(ID, &json!({"status": "completed"}));
    space.start();
    wait_until("the project to be let go", || is_free(&project));
    assert_eq!(space.stop(), 0);
    without_its_result_it_is_not_run(&space, &project, &result);
}

#[test]
fn a_job_whose_end_a_crash_cut_short_is_remembered_too() {
    let (space, project) = alpha(NOTES);
    space.start();
    wait_until("the project to be let go", || is_free(&project));
    assert_eq!(space.stop(), 0);
    // It died between the result and what follows.
    let result = project.put_result(ID, &json!({"status": "completed"}));
    lay_claim(&project, ID, &claim(ID, json!({})));
    project.submit(ID, "x");
    space.start();
    wait_until("the claim's end", || project.claim(ID).is_none());
    assert_eq!(space.stop(), 0);
    without_its_result_it_is_not_run(&space, &project, &result);
}

/// Fault 16.
#[test]
fn orderly_restarts_are_no_interruptions_that_count() {
    let space = Space::new();
    stand_in(&space);
    let project = space.project("alpha");
    for start in 1..=5 {
        let works = "stream sigkill-in-tool; touch \"works.$n\"; exec sleep 600";
        script(&project, start, works);
    }
    space.start();
    project.submit(ID, "x");
    for start in 1..=5 {
        let file = project.path.join(format!("works.{start}"));
        wait_until("the agent's work", || file.exists());
        assert_eq!(space.stop(), 0);
        space.start();
    }
    let result = project.wait_completed(ID);
    assert_eq!(attempts(&result).len(), 6);
    assert_eq!(result["retry_count"], 0);
}

/// Fault 18.
#[test]
fn documents_that_have_not_settled_when_the_daemon_starts_run_in_order() {
    let (space, project) = alpha(NOTES);
    space.set(json!({"settle": "2s"}));
    let ids: Vec<String> = (0..4).map(|n| format!("job-20260101-12000{n}-x")).collect();
    for id in ids.iter().rev() {
        fs::write(project.item(&format!("{id}.md")), "x").unwrap();
    }
    space.start();
    for id in &ids {
        project.wait_result(id);
    }
    assert_eq!(project.made("ran"), ids.join("\n") + "\n");
}

/// Fault 24.
#[test]
fn a_project_that_is_disabled_runs_the_hook_of_what_was_cancelled_and_starts_nothing_after_a_hook()
{
    let (space, project) = alpha(GATED);
    let hook = "echo $JOB_MONITOR_JOB_ID >> hooked; until [ -e done ]; do sleep 0.02; done";
    let hook = space.program("hook", hook);
    space.set(json!({"on_finish": [hook]}));
    space.start();
    let third = "job-20260101-120002-third";
    project.submit_all(&[ID, NEXT, third]);
    project.wait_made("ran");
    project.wait_view("two wait", |view| view["queue_size"] == 2);
    space.run(&["cancel", NEXT]).ok();
    assert_eq!(project.wait_result(NEXT)["status"], "cancelled");
    project.touch("go");
    project.wait_made("hooked");
    // The word comes while the first hook runs.
    space.run(&["disable", "alpha"]).ok();
    space.wait_log("is disabled, skipping");
    fs::write(project.path.join("done"), "").unwrap();
    let both = || project.made("hooked").lines().count() == 2;
    wait_until("the hook of the cancelled job", both);
    space.run(&["enable", "alpha"]).ok();
    project.wait_result(third);
    // Until it was enabled the third had not begun: its line would stand before the hook's end.
    assert_eq!(project.made("ran"), format!("{ID}\n{third}\n"));
}

/// Fault 24: also while the gate is asked.
#[test]
fn a_project_that_is_disabled_while_its_gate_is_asked_starts_nothing() {
    let space = with_agent(NOTES);
    let asks = "echo asked >> asked; until [ -e go ]; do sleep 0.02; done";
    let gate = space.program("gate", asks);
    let project = space.project_with("alpha", json!({"gate": [gate]}));
    space.start();
    project.submit(ID, "x");
    project.wait_made("asked");
    space.run(&["disable", "alpha"]).ok();
    space.wait_log("is disabled, skipping");
    project.touch("go");
    wait_until("the project's end", || !space.serves("alpha"));
    space.run(&["enable", "alpha"]).ok();
    project.wait_result(ID);
    // It was asked anew, so the first time had led to nothing.
    assert_eq!(project.made("asked"), "asked\nasked\n");
    assert_eq!(project.made("ran"), format!("{ID}\n"));
}

/// Fault 24: SIGTERM ends a hook and a gate, and no job is started for them.
#[test]
fn a_stop_that_comes_while_a_hook_or_a_gate_runs_ends_it_and_starts_nothing() {
    let waits = "until [ -e done ]; do sleep 0.02; done";
    for (key, notes) in [("on_finish", "hooked"), ("gate", "asked")] {
        let space = with_agent(NOTES);
        let command = format!("echo $JOB_MONITOR_JOB_ID >> {notes}; {waits}");
        let command = space.program(key, &command);
        let project = space.project_with("alpha", json!({key: [command]}));
        project.submit_all(&[ID, NEXT]);
        space.start();
        project.wait_made(notes);
        assert_eq!(space.stop(), 0);
        space.assert_no_survivor();
        let ran = project.made("ran");
        let first = format!("{ID}\n");
        assert_eq!(ran, if key == "gate" { "" } else { &first }, "{key}");
        // It goes on where it stood: a gate is asked anew, and a hook is not run twice.
        fs::write(project.path.join("done"), "").unwrap();
        space.start();
        project.wait_completed(NEXT);
        assert_eq!(project.made("ran"), format!("{ID}\n{NEXT}\n"), "{key}");
        let both = || project.made(notes).contains(NEXT);
        wait_until("the command of the second job", both);
        let of_first = project.made(notes).matches(ID).count();
        assert_eq!(of_first, if key == "gate" { 2 } else { 1 }, "{key}");
    }
}

/// Fault 28: looks that fail while a job is to be withdrawn do not make that forgotten.
#[test]
fn a_cancel_that_comes_while_the_documents_cannot_be_looked_at_is_not_forgotten() {
    let (space, project) = alpha(GATED);
    space.start();
    project.submit_all(&[ID, NEXT]);
    project.wait_made("ran");
    let (items, aside) = (project.item(""), project.path.join("aside"));
    fs::rename(&items, &aside).unwrap();
    project.mark(NEXT, "cancel");
    project.touch("go");
    project.wait_completed(ID);
    fs::rename(&aside, &items).unwrap();
    assert_eq!(project.wait_result(NEXT)["status"], "cancelled");
    assert_eq!(project.made("ran"), format!("{ID}\n"));
    let swept = || !project.state(&format!("{NEXT}.cancel")).exists();
    wait_until("the mark to be gone", swept);
}

/// The claim's next try is due: what a person does not want to wait for.
fn make_retry_due(project: &Project, id: &str) {
    let path = project.state(&format!("{id}.claim"));
    let text = fs::read_to_string(&path).unwrap();
    let mut lines = text.splitn(2, '\n');
    let mut claim: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    claim["suspended"]["retry_at"] = json!("2026-01-01T00:00:00.000+00:00");
    let rest = lines.next().unwrap_or_default();
    replace(&path, format!("{claim}\n{rest}").as_bytes());
}

/// Fault 42.
#[test]
fn an_agent_that_crashes_in_the_midst_of_its_work_goes_on_in_its_session() {
    let space = Space::new();
    stand_in(&space);
    let project = space.project("alpha");
    script(&project, 1, "stream sigkill-in-tool; kill -SEGV $$");
    space.start();
    project.submit(ID, "x");
    let view = project.wait_view("a retry", |view| view["retry_at"].is_string());
    assert!((0..=30).contains(&ahead(&view["retry_at"])), "{view}");
    let queue = space.run(&["queue", "--json"]).json();
    let job = &queue["projects"][0]["waiting"][0];
    assert_eq!(job["retry_at"], view["retry_at"], "{queue}");
    assert_eq!(space.stop(), 0);
    make_retry_due(&project, ID);
    space.start();
    let result = project.wait_completed(ID);
    let error = result["attempts"][0]["error"].as_str().unwrap();
    assert!(error.contains("SIGSEGV"), "{error}");
    assert_eq!(result["retry_count"], 1);
    assert_eq!(starts(&project), 2);
    let argv = |start: u32| project.made(&format!("argv.{start}"));
    let session = result["session_id"].as_str().unwrap();
    assert!(argv(1).contains(&format!("--session-id\n{session}\n")));
    assert!(argv(2).contains(&format!("--resume\n{session}\n")));
}

#[test]
fn to_release_everything_tells_what_was_held_and_nothing_else() {
    let space = with_agent("cat > /dev/null; [ -e fixed ]");
    let project = space.project_with("alpha", json!({"on_failure": "hold"}));
    space.start();
    let nothing = "Lifted 0 holds of agents and projects\nNo job to release\n";
    assert_eq!(space.run(&["release", "--all"]).ok(), nothing);
    project.submit_all(&[ID, NEXT]);
    project.wait_view("a hold", |view| view["hold"]["kind"] == "on_failure");
    fs::write(project.path.join("fixed"), "").unwrap();
    let one = "Lifted 1 hold of agents and projects\n";
    assert_eq!(space.run(&["release", "--all"]).ok(), one);
    project.wait_completed(NEXT);
    assert_eq!(space.run(&["release", "--all"]).ok(), nothing);
}
