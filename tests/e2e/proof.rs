//! Proof of done: gate and check, what follows them, and what a crash in their midst leads to.

use crate::claude_standin::{costing, one_project, stand_in};
use crate::running::cancel;
use crate::space::{MustHave, Project, Ran, Space, attempts, is_alive, wait_until};
use crate::stage::{ID, LAST, NEXT, alpha};
use serde_json::{Value, json};
use std::fs;
use std::process::Command;

/// A check that counts its runs and succeeds from the n-th on.
fn check(space: &Space, succeeds: u32) -> String {
    let body = format!(
        r#"n=$(ls | grep -c '^checked\.'); n=$((n + 1)); env > checked.$n
echo "check $n says: 7 of 9 tests pass"; [ $n -ge {succeeds} ]"#
    );
    space.program("check", &body).to_str().unwrap().to_owned()
}

fn checked(project: &Project) -> usize {
    let names = project.names(&project.path);
    let runs = names.iter().filter(|name| name.starts_with("checked."));
    runs.count()
}

fn started(project: &Project) -> bool {
    project.path.join("prompt.1").exists()
}

/// A project whose n-th start brings the session's running total to n dollars.
fn paid() -> (Space, Project) {
    let costs = ["1.0", "2.0", "3.0"].map(|dollars| costing("text", "0.0008", dollars));
    one_project(&costs.each_ref().map(String::as_str))
}

/// A job of the stand-in for claude in a project with these settings.
fn begun(space: &Space, keys: Value) -> Project {
    stand_in(space);
    let project = space.project_with("alpha", keys);
    project.submit(ID, "x");
    space.start();
    project
}

#[test]
fn a_check_that_fails_sends_the_agent_back_into_its_session_until_it_succeeds() {
    for (rounds, succeeds, status, checks) in [
        (2, 3, "completed", 3),
        (1, 3, "failed", 2),
        (0, 1, "completed", 1),
    ] {
        let (space, project) = paid();
        space.credentials("ANTHROPIC_API_KEY=secret\n", 0o600);
        space.set(json!({"check": [check(&space, succeeds)], "check_rounds": rounds}));
        project.submit(ID, "mend it");
        space.start();
        let result = project.wait_result(ID);
        let same_session = json!({"session_id": result["session_id"]});
        result.must_have(json!({
            "status": status, "retry_count": 0, "attempts": vec![same_session; checks],
            "worker_output": {"cost_usd": checks as f64},
        }));
        let told = result["checks"].as_array().unwrap();
        assert_eq!(told.len(), checks);
        assert_eq!(told[0]["output"], "check 1 says: 7 of 9 tests pass\n");
        if status == "failed" {
            assert_eq!(result["error_kind"], "check_failed");
            result["error"].must_have("7 of 9 tests");
        }
        if checks > 1 {
            let prompt = project.made("prompt.2");
            prompt.must_have("7 of 9 tests pass");
            prompt.must_have("exit status 1");
            assert!(!prompt.contains("mend it"), "{prompt}");
            assert!(project.logs(&format!("{ID}.check.2")).exists());
        }
        let environ = project.made("checked.1");
        assert!(!environ.contains("secret"), "a check was given credentials");
        environ.must_have(&format!("JOB_MONITOR_JOB_ID={ID}"));
        assert!(project.logs(&format!("{ID}.check")).exists());
        let logs = result["logs"].as_array().unwrap().iter();
        let of_checks = logs.filter(|path| path.as_str().unwrap().contains(".check"));
        assert_eq!(of_checks.count(), checks);
    }
}

#[test]
fn a_plain_agent_gets_the_check_s_words_behind_its_document() {
    let (space, project) =
        alpha("n=$(ls | grep -c '^prompt\\.'); cat > prompt.$((n + 1)); echo done");
    space.set(json!({"check": [check(&space, 2)]}));
    space.start();
    project.complete(ID, "mend it");
    assert_eq!(project.made("prompt.1"), "mend it");
    let second = project.made("prompt.2");
    assert!(second.starts_with("mend it"), "{second}");
    second.must_have("7 of 9 tests pass");
}

#[test]
fn a_daemon_that_ends_in_the_midst_of_a_check_repeats_the_check_and_no_agent() {
    for protocol in ["claude", "plain"] {
        let (space, project) = match protocol {
            "claude" => one_project(&[]),
            _ => alpha("cat > /dev/null; echo done"),
        };
        let body = "echo $$ > checked.$(ls | grep -c '^checked\\.')\n\
                    sleep 600 & echo $! > new; mv new child; while [ ! -e go ]; do sleep 0.05; done";
        let program = space.program("check", body);
        space.set(json!({"check": [program], "on_interrupt": "rerun"}));
        project.submit(ID, "x");
        space.start();
        let child: i32 = project.wait_made("child").trim().parse().unwrap();
        space.run(&["watch"]).ok().must_have("the check runs");
        space.kill();
        space.start();
        wait_until("the check is run again", || checked(&project) == 2);
        wait_until("what the first one left is ended", || !is_alive(child));
        // An orderly stop ends it, too, and it is run once more.
        assert_eq!(space.stop(), 0);
        space.assert_no_survivor();
        space.start();
        wait_until("the check is run again", || checked(&project) == 3);
        project.touch("go");
        let result = project.wait_completed(ID);
        assert_eq!(attempts(&result).len(), 1, "{protocol}");
        result.must_have(json!({"checks": [{}]}));
    }
}

#[test]
fn a_check_is_cancelled_timed_out_and_swept_like_an_agent() {
    let (space, project) = one_project(&[]);
    let program = space.program("check", "sleep 600 & echo $! > child; sleep 600");
    space.set(json!({"check": [program], "check_rounds": 0}));
    project.submit(ID, "x");
    space.start();
    project.wait_made("child");
    space.run(&["-p", "alpha", "cancel", ID]).ok();
    let result = project.wait_result(ID);
    result.must_have(json!({"status": "cancelled", "attempts": [{}]}));
    space.set(json!({"check_timeout": "1s"}));
    let result = project.run(NEXT, "x");
    assert_eq!(result["error_kind"], "check_failed", "{result:#}");
    result["error"].must_have("longer than");
    // Nor may it fill the disk.
    space.program("check", "head -c 8M /dev/zero; exec sleep 600");
    space.set(json!({"check_timeout": "15m", "max_output": "4 MiB"}));
    let result = project.run(LAST, "x");
    assert_eq!(result["error_kind"], "check_failed", "{result:#}");
    space.stop();
    space.assert_no_survivor();
}

#[test]
fn a_check_that_cannot_be_started_holds_its_project_before_the_agent_starts() {
    let space = Space::new();
    let other = space.project("beta");
    let project = begun(&space, json!({"check": ["./prove.sh"]}));
    project.wait_hold("check");
    other.complete(NEXT, "x");
    assert!(!started(&project));
    space.run(&["-p", "alpha", "release", ID]).ok();
    let program = space.program("prove", "exit 0");
    fs::rename(program, project.path.join("prove.sh")).unwrap();
    // Something rings.
    project.submit(NEXT, "y");
    project.wait_all_completed(&[ID, NEXT]);
}

#[test]
fn a_job_is_cancelled_while_its_gate_is_asked() {
    let space = Space::new();
    let gate = json!({"gate": ["sh", "-c", "echo x > asked; sleep 30"]});
    let project = begun(&space, gate);
    project.wait_made("asked");
    cancel(&project, ID);
    assert_eq!(project.wait_result(ID)["status"], "cancelled");
    assert!(!started(&project));
}

#[test]
fn a_gate_lets_nobody_through_until_it_succeeds_and_release_asks_it_again() {
    let space = Space::new();
    let asks = "echo asked >> asked; echo 'the tree is dirty'; [ -e open ]";
    let gate = space.program("gate", asks);
    // For gates nobody is sent a message.
    let hook = space.program("hook", "echo told > told");
    let project = begun(&space, json!({"gate": [gate], "on_hold": [hook]}));
    let hold = project.wait_hold("gate");
    assert_eq!(hold["reason"], "the tree is dirty");
    assert!(hold["until"].is_string());
    let asked = || project.made("asked").lines().count();
    let before = asked();
    space.run(&["-p", "alpha", "release", ID]).ok();
    wait_until("it is asked again", || asked() > before);
    assert!(!started(&project), "the gate was passed by");
    project.touch("open");
    space.run(&["-p", "alpha", "release", ID]).ok();
    project.wait_completed(ID);
    project.wait_view("nothing holds it", |view| view["hold"].is_null());
    assert!(!project.path.join("told").exists());
}

#[test]
fn a_job_that_is_held_while_its_gate_is_asked_does_not_start() {
    let space = Space::new();
    let gate = "echo x >> asked; while [ ! -e go ]; do sleep 0.02; done";
    let project = begun(&space, json!({"gate": ["sh", "-c", gate]}));
    project.wait_made("asked");
    space.run(&["-p", "alpha", "hold", ID]).ok();
    project.submit(NEXT, "second");
    project.touch("go");
    project.wait_completed(NEXT);
    project.made("prompt.1").must_have("second");
    space.run(&["-p", "alpha", "release", ID]).ok();
    project.wait_completed(ID);
}

#[test]
fn a_job_that_is_cancelled_while_its_check_cannot_be_run_keeps_its_answer() {
    let (space, project) = one_project(&["rm ../bin/check; play text"]);
    let check = space.program("check", "exit 0");
    space.set(json!({"check": [check]}));
    project.submit(ID, "x");
    space.start();
    project.wait_hold("check");
    space.run(&["-p", "alpha", "cancel", ID]).ok();
    let result = project.wait_result(ID);
    result.must_have(json!({"status": "cancelled", "attempts": [{}]}));
    assert!(result["worker_output"]["summary"].is_string(), "{result:#}");
}

#[test]
fn a_gate_or_check_that_is_no_longer_asked_for_holds_nobody_and_is_not_shown() {
    let space = Space::new();
    stand_in(&space);
    let asked = [("gate", "false"), ("check", "not-there")];
    let projects = asked.map(|(key, argv)| space.project_with(key, json!({key: [argv]})));
    projects.iter().for_each(|project| project.submit(ID, "x"));
    space.start();
    for project in projects {
        project.wait_hold(&project.name);
        space.project(&project.name);
        project.wait_completed(ID);
        project.wait_view("nothing holds it", |view| view["hold"].is_null());
        let shown = space.run(&["-p", &project.name, "queue"]).ok();
        assert!(!shown.contains("Held"), "{shown}");
    }
}

#[test]
fn a_reply_goes_on_in_the_finished_job_s_session_and_pays_for_itself_only() {
    let (space, project) = paid();
    space.start();
    let session = project.run(ID, "first")["session_id"].clone();
    // The session is with the agent that has it, whichever the settings name now.
    space.set(json!({"agent": "gemini"}));
    space.wait_log("the settings have changed");
    let reply = |id: &str| format!("---\ncontinues: {id}\n---\nand now the second part\n");
    let result = project.complete(NEXT, &reply(ID));
    result.must_have(json!({
        "session_id": session, "continues": ID, "worker_output": {"cost_usd": 1.0},
    }));
    let prompt = project.made("prompt.2");
    prompt.must_have("and now the second part");
    // A second reply to the same job goes on where the first has ended.
    let result = project.complete(LAST, &reply(ID));
    result.must_have(json!({"worker_output": {"cost_usd": 1.0}}));
    let foreign = reply(ID).replacen("---\n", "---\nagent: gemini\n", 1);
    let unknown = reply("job-20260101-110000-none");
    for (n, document, why) in [
        (3, unknown, "no finished job"),
        (4, foreign, "which \"gemini\" cannot go on in"),
    ] {
        let result = project.run(&format!("job-20260101-12000{n}-x"), &document);
        assert_eq!(result["error_kind"], "rejected");
        result["error"].must_have(why);
    }
}

#[test]
fn a_job_that_is_not_to_start_yet_lets_others_go_first() {
    let (space, project) = one_project(&[]);
    project.submit(ID, "---\nnot-before: 2099-01-01 12:00\n---\nlater\n");
    project.submit(NEXT, "now");
    space.start();
    project.wait_completed(NEXT);
    assert!(project.result(ID).is_none());
    // The view is written after the result.
    project.wait_view("that only it waits", |view| {
        view["queued_tasks"] == json!([format!("{ID}.md")])
    });
    // Whoever looks is told, with the daemon and without.
    space.wait_log(&format!("Job waits: {ID}.md - not before 2099-01-01 12:00"));
    let told = |args: &[&str], text: &str| {
        let ran = space.run(args);
        let told = format!("{}{}", ran.stdout, ran.stderr);
        assert!(told.contains(text), "{args:?}: {told}");
    };
    for is_there in [true, false] {
        let until = "is not to start before 2099-01-01 12:00";
        told(&["queue"], &format!("{ID}.md ({until})\n"));
        told(&["wait", "--timeout", "200ms", ID], until);
        told(&[ID], "\nNot before: 2099-01-01 12:00\n");
        told(&["watch"], &format!("1 waiting: hello {until}"));
        told(&["queue", "--json"], "\"not_before\":\"2099-01-01T12:00");
        if is_there {
            space.kill();
        }
    }
    space.start();
    project.complete(ID, "now, too");
}

#[test]
fn what_a_job_changed_is_recorded_from_its_first_start_to_its_end() {
    let (space, project) = one_project(&["echo new >> file; play text"; 2]);
    space.set(json!({"check": [check(&space, 2)]}));
    let file = |name: &str| project.path.join(name);
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.arg("-C").arg(&project.path).args(args);
        Ran::of(git.output().unwrap()).ok()
    };
    fs::write(file("file"), "old\n").unwrap();
    fs::write(file(".gitignore"), "jobs\n*.[0-9]\n").unwrap();
    git(&["init", "-q"]);
    git(&["add", "-A"]);
    let author = ["-c", "user.name=a", "-c", "user.email=a@b"];
    git(&[&author[..], &["commit", "-q", "-m", "start"]].concat());
    // As in a daemon that a hook of another repository has started.
    space.env("GIT_DIR", "/nowhere");
    space.start();
    let result = project.run(ID, "x");
    result.must_have(json!({"git": {"files": 1, "insertions": 2, "commits": 0}}));
    let patch = file(result["git"]["patch"].as_str().unwrap());
    git(&["apply", "-R", patch.to_str().unwrap()]);
    assert_eq!(project.made("file"), "old\n");
}
