//! What takes a minute by contract: many situations side by side in one test, so that they cost
//! one minute of it and one thread of the test runner's.

use crate::limits;
use crate::mounts;
use crate::space::{BOUND, MustHave, Project, attempts, wait_longer};
use crate::stage::*;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

#[test]
fn what_takes_a_minute_is_done_after_a_minute() {
    std::thread::scope(|scope| {
        scope.spawn(an_on_finish_that_hangs_is_ended_after_a_minute);
        scope.spawn(a_git_that_hangs_is_given_up_and_the_job_runs_without_a_record);
        scope.spawn(a_missing_agent_holds_its_jobs_and_they_go_on_within_a_minute_of_the_repair);
        scope.spawn(directories_replaced_without_a_word_are_noticed_within_a_minute);
        scope.spawn(what_a_hand_does_to_marks_and_results_is_noticed_within_a_minute);
        scope.spawn(a_document_that_stays_open_for_writing_is_told_of_after_a_minute);
        scope
            .spawn(mounts::what_is_mounted_and_unmounted_without_a_word_is_noticed_within_a_minute);
        scope.spawn(
            mounts::documents_of_another_machine_are_noticed_within_a_minute_and_its_silence_stops_nobody,
        );
        scope.spawn(limits::what_cannot_be_watched_is_looked_at_once_a_minute);
        scope.spawn(limits::what_could_not_be_watched_is_watched_when_it_can_be);
        scope.spawn(the_mode_of_the_env_file_mended_by_hand_lets_the_jobs_go_on_within_a_minute);
    });
}

fn an_on_finish_that_hangs_is_ended_after_a_minute() {
    let (space, project) = alpha("cat >/dev/null");
    let hook = space.program("hook", "echo begun > begun; sleep 600");
    space.set(json!({"on_finish": [hook]}));
    space.start();
    project.submit(ID, "x");
    project.wait_made("begun");
    space.set(json!({"on_finish": Value::Null}));
    let next = "job-20260101-120001-next";
    project.submit(next, "x");
    let began = Instant::now();
    wait_longer(A_MINUTE, "the job after the hook", || project.result(next));
    let was_cut_short = began.elapsed() < Duration::from_secs(50);
    assert!(!was_cut_short, "{:?}", began.elapsed());
    space.wait_log("took longer than 1m 00s");
    space.assert_no_survivor();
}

fn a_document_that_stays_open_for_writing_is_told_of_after_a_minute() {
    let (space, project) = alpha(NOTES);
    space.start();
    let name = format!("{ID}.md");
    let mut open = File::create(project.item(&name)).unwrap();
    open.write_all(b"x").unwrap();
    let what = format!("{name} is left alone: somebody has had it open for writing");
    let is_told = || space.log().contains(&what).then_some(());
    wait_longer(A_MINUTE, "a word of it", is_told);
    let alone = format!("Left alone: {name} (somebody has had it open");
    space.run(&["queue"]).ok().must_have(&alone);
    drop(open);
    project.wait_completed(ID);
    project.complete(NEXT, "x");
    assert!(!space.run(&["queue"]).ok().contains("Left alone"));
}

fn a_git_that_hangs_is_given_up_and_the_job_runs_without_a_record() {
    let (space, project) = alpha(NOTES);
    space.program("git", "exec sleep 600");
    fs::create_dir(project.path.join(".git")).unwrap();
    space.start();
    project.submit(ID, "x");
    let result = wait_longer(A_MINUTE, "the job", || project.result(ID));
    result.must_have(json!({"status": "completed", "git": null}));
    space.wait_log("git rev-parse took longer than 20 s");
    space.assert_no_survivor();
}

fn a_missing_agent_holds_its_jobs_and_they_go_on_within_a_minute_of_the_repair() {
    let space = with_agent(NOTES);
    let bin = space.root().join("bin");
    space.set(json!({"agents": {
        "agent": {"command": [bin.join("agent")]},
        "missing": {"command": ["no-such-agent", "--option"]},
        "other": {"command": ["no-such-other"]},
    }}));
    let lacking = |name: &str, agent: &str| space.project_with(name, json!({"agent": agent}));
    let projects = [lacking("first", "missing"), lacking("second", "missing")];
    let other = lacking("other", "other");
    let healthy = space.project("healthy");
    for project in projects.iter().chain([&other]) {
        project.submit(ID, "x");
    }
    space.start();
    for project in &projects {
        let reason = wait_hold(project, "agent_missing");
        for words in ["no-such-agent", "PATH", &format!("{}:", bin.display())] {
            reason.must_have(words);
        }
        assert!(project.result(ID).is_none() && project.claim(ID).is_none());
        assert_eq!(project.view()["queued_tasks"], json!([format!("{ID}.md")]));
    }
    wait_hold(&other, "agent_missing");
    healthy.run(ID, "x");
    assert_eq!(times(&space.log(), "agent \"missing\" is held"), 1);
    space.program("no-such-agent", NOTES);
    for project in &projects {
        let repaired = || project.result(ID);
        let result = wait_longer(A_MINUTE, "the job after the repair", repaired);
        result.must_have(json!({"status": "completed", "retry_count": 0}));
        assert_eq!(attempts(&result).len(), 1);
        project.wait_view("no hold", |view| view["hold"] == Value::Null);
    }
    // Said once, also when more jobs come.
    assert_eq!(times(&space.log(), "agent \"missing\" is held"), 1);
    assert!(other.result(ID).is_none());
}

fn directories_replaced_without_a_word_are_noticed_within_a_minute() {
    let space = with_agent(NOTES);
    let (items, whole) = (space.project("items"), space.project("whole"));
    let deleted = space.project("deleted");
    let projects = [&items, &whole, &deleted];
    space.start();
    for project in projects {
        project.run(ID, "x");
    }
    // No event tells of a directory that is made again in the place of a watched one.
    let next = "job-20260101-120001-next";
    fs::remove_dir_all(items.item("")).unwrap();
    fs::create_dir(items.item("")).unwrap();
    items.submit(next, "x");
    fs::rename(&whole.path, space.root().join("moved")).unwrap();
    whole.create_dirs();
    whole.submit(next, "x");
    fs::remove_dir_all(&deleted.path).unwrap();
    deleted.create_dirs();
    deleted.submit(next, "x");
    for project in projects {
        let found = || project.result(next);
        let result = wait_longer(A_MINUTE, "the job in the new directory", found);
        assert_eq!(result["status"], "completed");
    }
    // What follows is seen at once again.
    let last = "job-20260101-120002-last";
    for project in projects {
        project.submit(last, "x");
        wait_longer(BOUND / 3, "a job after that", || project.result(last));
    }
}

fn what_a_hand_does_to_marks_and_results_is_noticed_within_a_minute() {
    let space = with_agent(GATED);
    let names = ["marks", "results", "agent"];
    let [marks, results, agent] = names.map(|name| space.project(name));
    for id in [ID, NEXT] {
        marks.submit(id, "x");
        marks.mark(id, "hold");
    }
    marks.touch("go");
    let idle = |project: &Project| {
        project.touch("go");
        project.wait_view("idle", |view| view["is_processing"] == false);
    };
    space.start();
    for project in [&results, &agent] {
        begin(project, ID, "x");
        idle(project);
        project.wait_result(ID);
    }
    marks.mark(ID, "cancel");
    fs::remove_file(marks.state(&format!("{NEXT}.hold"))).unwrap();
    fs::remove_file(results.results(&format!("{ID}.json"))).unwrap();
    // As an agent does that cleans the tree in which it works.
    fs::remove_file(agent.path.join("go")).unwrap();
    agent.submit(NEXT, "x");
    agent.wait_view("that it runs", |view| view["is_processing"] == true);
    fs::remove_file(agent.results(&format!("{ID}.json"))).unwrap();
    idle(&agent);
    for (id, status) in [(ID, "cancelled"), (NEXT, "completed")] {
        let result = wait_longer(A_MINUTE, "the job of the mark", || marks.result(id));
        assert_eq!(result["status"], status);
    }
    let what = "it was finished once, and its result is gone";
    for (project, name) in [(&results, "results"), (&agent, "agent")] {
        let shown = || space.run(&["-p", name, "show", ID]).ok();
        let is_told = || shown().contains(&format!("Left alone: {ID}.md ({what}"));
        wait_longer(A_MINUTE, name, || is_told().then_some(()));
        assert_eq!(times(&project.made("ran"), ID), 1);
    }
}

fn the_mode_of_the_env_file_mended_by_hand_lets_the_jobs_go_on_within_a_minute() {
    let (space, project) = alpha(NOTES);
    space.credentials("SECRET=x\n", 0o640);
    project.submit(ID, "x");
    space.start();
    wait_hold(&project, "unsafe_env");
    chmod(&space.config().join(".env"), 0o600);
    wait_longer(A_MINUTE, "the job after the repair", || project.result(ID));
}
