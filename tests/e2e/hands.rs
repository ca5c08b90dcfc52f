//! What processes and files of a project may rely on: descriptors, grace, logs that are appended to,
//! copies that are no jobs, programs that are told to be missing before anything is started.

use crate::space::{Project, Space, wait_until};
use crate::stage::*;
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

fn descriptors(space: &Space) -> Vec<String> {
    let dir = format!("/proc/{}/fd", space.pid());
    let open = fs::read_dir(dir).unwrap().flatten();
    let targets = open.filter_map(|entry| fs::read_link(entry.path()).ok());
    targets.map(|target| target.display().to_string()).collect()
}

#[test]
fn idle_projects_hold_no_descriptor_and_an_agent_is_given_the_limit_that_we_were_given() {
    let space = with_agent("cat > /dev/null; ulimit -Sn; ls /proc/self/fd | wc -l");
    let projects: Vec<_> = (0..40).map(|n| space.project(&format!("p{n}"))).collect();
    space.launch_by(&["sh", "-c", "ulimit -Sn 1000; \"$@\"; exit $?", "sh"]);
    space.start();
    for project in &projects {
        project.submit(ID, "x");
    }
    for project in &projects {
        let result = project.wait_result(ID);
        // ls has the directory open, too.
        assert_eq!(result["worker_output"]["summary"], "1000\n4", "{result}");
    }
    // Our own is as high as it may be.
    let limits = fs::read_to_string(format!("/proc/{}/limits", space.pid())).unwrap();
    let line = line_with(&limits, "Max open files");
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(words[3], words[4], "{limits}");
    let is_of = |target: &str, project: &Project| Path::new(target).starts_with(&project.path);
    let is_open = |project: &Project| descriptors(&space).iter().any(|open| is_of(open, project));
    wait_until("all are closed", || !projects.iter().any(is_open));
    assert!(descriptors(&space).len() <= 20, "{:?}", descriptors(&space));
}

#[test]
fn all_of_a_group_is_given_its_grace_also_when_a_wrapper_dies_first() {
    let (space, project) = alpha(
        "cat > /dev/null\n\
         sh -c 'trap \"sleep 0.3; echo saved > saved; exit\" TERM; : > ready; while :; do sleep 0.1; done' &\n\
         wait",
    );
    space.start();
    project.submit(ID, "x");
    project.wait_made("ready");
    space.run(&["cancel", ID]).ok();
    assert_eq!(project.wait_result(ID)["status"], "cancelled");
    assert_eq!(project.made("saved"), "saved\n");
    space.assert_no_survivor();
}

#[test]
fn a_log_is_appended_to_whoever_opens_it_again() {
    let (space, project) = alpha(
        "cat > /dev/null; echo one; echo two; echo three > /dev/stdout; echo four; echo e > /dev/stderr; echo f >&2",
    );
    space.start();
    let result = project.run(ID, "x");
    assert_eq!(
        result["worker_output"]["summary"], "three\nfour",
        "{result}"
    );
    for ending in ["out", "err"] {
        let log = fs::read(project.logs(&format!("{ID}.{ending}"))).unwrap();
        assert!(!log.contains(&0), "{}", String::from_utf8_lossy(&log));
    }
}

#[test]
fn a_command_that_is_missing_in_one_project_holds_no_other() {
    let space = Space::new();
    space.set(json!({"agent": "own", "agents": {"own": {"command": ["./agent.sh"]}}}));
    let (lacking, other) = (space.project("alpha"), space.project("beta"));
    let agent = space.program("agent", "cat > /dev/null; echo done");
    symlink(agent, other.path.join("agent.sh")).unwrap();
    lacking.submit(ID, "x");
    space.start();
    space.wait_log("agent.sh");
    other.complete(ID, "x");
    assert_eq!(lacking.result(ID), None);
}

#[test]
fn copies_of_documents_and_results_are_no_jobs_and_told_once() {
    let (space, project) = alpha("cat > /dev/null; echo done");
    project.submit(ID, "x");
    let endings = [".sync-conflict-20260102-000000-ABC", ".orig", "_LOCAL_4711"];
    let copies = endings.map(|ending| format!("{ID}{ending}"));
    project.submit(&copies[0], "x");
    space.start();
    project.wait_result(ID);
    for copy in &copies[1..] {
        project.submit(copy, "x");
    }
    let result = project.results(&format!("{ID}.json"));
    fs::copy(&result, project.results(&format!("{}.json", copies[0]))).unwrap();
    project.run("job-20260101-130000-fix.v2", "x");
    for copy in &copies {
        space.wait_log(&format!(
            "{copy}.md is left alone: it is a copy of the job {ID}"
        ));
        assert_eq!(project.claim(copy), None);
    }
    let status = space.run(&["status", "--json"]).json();
    let jobs = status["jobs"].as_array().unwrap().iter();
    let ids: Vec<_> = jobs.map(|job| &job["job_id"]).collect();
    assert_eq!(ids, [&json!("job-20260101-130000-fix.v2"), &json!(ID)]);
}

#[test]
fn a_copy_of_a_job_that_runs_is_none_even_if_the_document_is_gone() {
    let (space, project) =
        alpha("cat > /dev/null; echo x >> ran; until [ -e go ]; do sleep 0.02; done");
    space.start();
    begin(&project, ID, "x");
    fs::remove_file(project.item(&format!("{ID}.md"))).unwrap();
    let copy = format!("{ID}.orig");
    project.submit(&copy, "x");
    let what = format!("{copy}.md is left alone: it is a copy of the job {ID}");
    space.wait_log(&what);
    // What is said of a copy is not said of the job itself.
    project.submit(NEXT, "x");
    project.submit(&format!("{NEXT}.md"), "x");
    space.wait_log(&format!("{NEXT}.md.md is left alone"));
    let told = space.run(&[NEXT]).ok();
    assert!(!told.contains("Left alone"), "{told}");
    project.touch("go");
    project.wait_all_completed(&[ID, NEXT]);
}

#[test]
fn a_link_is_never_said_to_be_queued_and_what_a_killed_submit_left_is_removed() {
    let (space, project) = alpha("cat > /dev/null; echo done");
    let left = project.item(&format!(".{ID}.md.{}.tmp", i32::MAX));
    let mine = project.item(&format!(".{ID}.md.{}.tmp", std::process::id()));
    for path in [&left, &mine] {
        fs::write(path, "x").unwrap();
    }
    space.start();
    wait_until("what was left is removed", || !left.exists());
    assert!(mine.exists(), "{}", space.listing());
    symlink("/etc/passwd", project.item(&format!("{ID}.md"))).unwrap();
    space.wait_log(&format!("{ID}.md is left alone: it is a symbolic link"));
    project.run("job-20260101-130000-next", "x");
    let log = space.log();
    assert!(!log.contains(&format!("Job queued: {ID}")), "{log}");
    assert_eq!(log.matches("is a symbolic link").count(), 1, "{log}");
}

#[test]
fn register_keeps_git_away_from_the_spool() {
    let space = Space::new();
    for (name, before) in [("web", None), ("own", Some("docs\n"))] {
        let path = space.root().join(name);
        fs::create_dir_all(path.join("jobs")).unwrap();
        if let Some(text) = before {
            fs::write(path.join("jobs/.gitignore"), text).unwrap();
        }
        space.run(&["register", &path.display().to_string()]).ok();
        let kept = fs::read_to_string(path.join("jobs/.gitignore")).unwrap();
        assert_eq!(kept, before.unwrap_or("*\n"));
        assert!(path.join("jobs/items").is_dir());
    }
}
