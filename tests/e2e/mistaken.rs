//! What one job left behind must not pass for another's, nor a decision that could not be written
//! for one that never was. The model found these; here the program itself is held to them.

use crate::space::{Space, effects_in, wait_until};
use serde_json::json;
use std::fs::{self, File};
use std::time::SystemTime;

const ID: &str = "job-20260101-120000-x";
const NEXT: &str = "job-20260101-120001-next";
const AGENT: &str = r#"echo "$JOB_MONITOR_JOB_ID" >> ran; echo done"#;

#[test]
fn while_a_cancelled_job_s_result_cannot_be_written_nothing_is_started() {
    let space = Space::new();
    space.plain_agent(AGENT);
    let project = space.project("alpha");
    for id in [ID, NEXT] {
        project.submit(id, "x");
        // Of long ago, so that nothing but the fault below keeps them from being started.
        let document = File::options()
            .write(true)
            .open(project.item(&format!("{id}.md")));
        document
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH)
            .unwrap();
        fs::write(project.state(&format!("{id}.hold")), "").unwrap();
    }
    space.start();
    // What cannot be removed is in the way of the result's temporary file.
    let in_the_way = project.results(&format!(".{ID}.json.tmp"));
    fs::create_dir(&in_the_way).unwrap();
    // All of it is one change to the daemon, which looks at the marks when it is poked.
    for id in [ID, NEXT] {
        fs::remove_file(project.state(&format!("{id}.hold"))).unwrap();
    }
    fs::write(project.state(&format!("{ID}.cancel")), "").unwrap();
    fs::write(project.item(".poke"), "").unwrap();
    space.wait_log("what was decided is kept");
    assert_eq!(project.made("ran"), "");
    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(project.wait_result(ID)["status"], "cancelled");
    assert_eq!(project.wait_result(NEXT)["status"], "completed");
    assert_eq!(project.made("ran"), format!("{NEXT}\n"));
}

#[test]
fn an_output_that_lies_there_from_before_is_gone_before_the_job_is_claimed() {
    let space = Space::new();
    space.plain_agent(AGENT);
    let project = space.project("alpha");
    let old = project.logs(&format!("{ID}.out"));
    fs::write(&old, "of another run").unwrap();
    // The daemon gets as far as the claim, and cannot make the logs.
    let in_the_way = project.logs(&format!("{ID}.err"));
    fs::create_dir(&in_the_way).unwrap();
    project.submit(ID, "x");
    let effects = effects_in(&[project.logs(""), project.state("")], || {
        space.start();
        space.wait_log(&format!("{ID}.err"));
    });
    let place = |effect: String| effects.iter().position(|one| *one == effect);
    let (gone, claimed) = (place(format!("-{ID}.out")), place(format!("+{ID}.claim")));
    assert!(
        gone.is_some() && gone < claimed,
        "after a crash it would be read back: {effects:?}"
    );
    fs::remove_dir(&in_the_way).unwrap();
    assert_eq!(project.wait_result(ID)["stdout"], "done\n");
}

#[test]
fn a_job_whose_id_ends_in_md_is_not_taken_for_the_one_without() {
    let odd = format!("{ID}.md");
    let space = Space::new();
    space.plain_agent(
        r#"echo "$JOB_MONITOR_JOB_ID" >> ran; while [ ! -e go ]; do sleep 0.02; done; echo done"#,
    );
    space.set(json!({"on_interrupt": "fail"}));
    let project = space.project("alpha");
    project.submit(&odd, "x");
    space.start();
    wait_until("the agent's start", || !project.made("ran").is_empty());
    space.kill();
    fs::write(project.path.join("go"), "").unwrap();
    space.start();
    // Its claim is found again, so it is not started a second time.
    assert_eq!(project.wait_result(&odd)["error_kind"], "interrupted");
    // Its result is not that of the other, however many results there are to be listed.
    for n in 0..600 {
        let id = format!("job-20250101-120000-n{n}");
        fs::write(project.results(&format!("{id}.json")), "{}").unwrap();
        fs::write(project.item(&format!("{id}.md")), "x").unwrap();
    }
    space.kill();
    project.submit(ID, "x");
    space.start();
    assert_eq!(project.wait_result(ID)["status"], "completed");
    assert_eq!(project.made("ran"), format!("{odd}\n{ID}\n"));
}
