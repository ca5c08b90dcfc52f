//! Proof of done: gate and check, what follows them, and what a crash in their midst leads to.

use crate::running::cancel;
use crate::space::{Project, Space, wait_until};
use serde_json::{Value, json};
use std::fs;

const ID: &str = "job-20260101-120000-hello";
const NEXT: &str = "job-20260101-120001-next";
const LAST: &str = "job-20260101-120002-last";

/// Speaks the claude protocol: writes its prompt down as `prompt.n`, and completes in the session asked
/// for, with a running total of a dollar for each start.
const CLAUDE: &str = r#"
n=$(ls | grep -c '^prompt\.'); n=$((n + 1))
session=
while [ $# -gt 0 ]; do
    case $1 in --session-id | --resume) session=$2 ;; esac
    shift
done
cat > prompt.new; env > environ.$n; mv prompt.new prompt.$n
if [ -e start.$n ]; then . ./start.$n; fi
printf '{"type":"system","subtype":"init","session_id":"%s"}\n' "$session"
printf '{"type":"assistant","message":{"content":[{"type":"text","text":"ok"}]},"session_id":"%s"}\n' "$session"
printf '{"type":"result","subtype":"success","is_error":false,"num_turns":1,"result":"ok","total_cost_usd":%s,"session_id":"%s"}\n' "$n" "$session"
"#;

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
    names
        .iter()
        .filter(|name| name.starts_with("checked."))
        .count()
}

fn strings<'a>(result: &'a Value, list: &str, key: &str) -> Vec<&'a str> {
    let list = result[list].as_array().unwrap();
    list.iter()
        .map(|one| one[key].as_str().unwrap_or_default())
        .collect()
}

#[test]
fn a_check_that_fails_sends_the_agent_back_into_its_session_until_it_succeeds() {
    for (rounds, succeeds, status, checks) in [
        (2, 3, "completed", 3),
        (1, 3, "failed", 2),
        (0, 1, "completed", 1),
    ] {
        let space = Space::new();
        space.claude(CLAUDE);
        space.credentials("ANTHROPIC_API_KEY=secret\n", 0o600);
        space.set(json!({"check": [check(&space, succeeds)], "check_rounds": rounds}));
        let project = space.project("alpha");
        project.submit(ID, "mend it");
        space.start();
        let result = project.wait_result(ID);
        assert_eq!(result["status"], status, "{result:#}");
        assert_eq!(result["retry_count"], 0);
        assert_eq!(result["checks"].as_array().unwrap().len(), checks);
        let sessions = strings(&result, "attempts", "session_id");
        assert!(sessions.len() == checks && sessions.iter().all(|one| *one == sessions[0]));
        assert_eq!(
            result["checks"][0]["output"],
            "check 1 says: 7 of 9 tests pass\n"
        );
        assert_eq!(result["worker_output"]["cost_usd"], checks as f64);
        if status == "failed" {
            assert_eq!(result["error_kind"], "check_failed");
            assert!(
                result["error"].as_str().unwrap().contains("7 of 9 tests"),
                "{result:#}"
            );
        }
        if checks > 1 {
            let prompt = project.made("prompt.2");
            assert!(prompt.contains("7 of 9 tests pass") && prompt.contains("exit status 1"));
            assert!(!prompt.contains("mend it"), "{prompt}");
            assert!(project.logs(&format!("{ID}.check.2")).exists());
        }
        let environ = project.made("checked.1");
        assert!(!environ.contains("secret"), "a check was given credentials");
        assert!(
            environ.contains(&format!("JOB_MONITOR_JOB_ID={ID}")),
            "{environ}"
        );
        assert!(project.logs(&format!("{ID}.check")).exists());
    }
}

#[test]
fn a_plain_agent_gets_the_check_s_words_behind_its_document() {
    let space = Space::new();
    space.plain_agent("n=$(ls | grep -c '^prompt\\.'); cat > prompt.$((n + 1)); echo done");
    space.set(json!({"check": [check(&space, 2)]}));
    let project = space.project("alpha");
    project.submit(ID, "mend it");
    space.start();
    assert_eq!(project.wait_result(ID)["status"], "completed");
    assert_eq!(project.made("prompt.1"), "mend it");
    let second = project.made("prompt.2");
    assert!(
        second.starts_with("mend it") && second.contains("7 of 9 tests pass"),
        "{second}"
    );
}

#[test]
fn a_daemon_that_ends_in_the_midst_of_a_check_repeats_the_check_and_no_agent() {
    for protocol in ["claude", "plain"] {
        let space = Space::new();
        match protocol {
            "claude" => space.claude(CLAUDE),
            _ => space.plain_agent("cat > prompt.$(ls | grep -c '^prompt\\.'); echo done"),
        }
        let body = "echo $$ > checked.$(ls | grep -c '^checked\\.')\n\
                    sleep 600 & echo $! > new; mv new child; while [ ! -e go ]; do sleep 0.05; done";
        let program = space.program("check", body);
        space.set(json!({"check": [program], "on_interrupt": "rerun"}));
        let project = space.project("alpha");
        project.submit(ID, "x");
        space.start();
        let child: i32 = project.wait_made("child").trim().parse().unwrap();
        let watch = space.run(&["watch"]).ok();
        assert!(watch.contains("the check runs"), "{watch}");
        space.kill();
        space.start();
        wait_until("the check is run again", || checked(&project) == 2);
        wait_until("what the first one left is ended", || {
            !crate::space::is_alive(child)
        });
        // An orderly stop ends it, too, and it is run once more.
        assert_eq!(space.stop(), 0);
        space.assert_no_survivor();
        space.start();
        wait_until("the check is run again", || checked(&project) == 3);
        fs::write(project.path.join("go"), "").unwrap();
        let result = project.wait_result(ID);
        assert_eq!(result["status"], "completed", "{result:#}");
        assert_eq!(
            result["attempts"].as_array().unwrap().len(),
            1,
            "{protocol}"
        );
        assert_eq!(result["checks"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn a_check_is_cancelled_timed_out_and_swept_like_an_agent() {
    let space = Space::new();
    space.claude(CLAUDE);
    let program = space.program("check", "sleep 600 & echo $! > child; sleep 600");
    space.set(json!({"check": [program], "check_rounds": 0}));
    let project = space.project("alpha");
    project.submit(ID, "x");
    space.start();
    project.wait_made("child");
    space.run(&["-p", "alpha", "cancel", ID]).ok();
    let result = project.wait_result(ID);
    assert_eq!(
        (
            &result["status"],
            result["attempts"].as_array().unwrap().len()
        ),
        (&json!("cancelled"), 1)
    );
    fs::remove_file(project.path.join("child")).unwrap();
    space.set(json!({"check_timeout": "1s"}));
    project.submit(NEXT, "x");
    let result = project.wait_result(NEXT);
    assert_eq!(result["error_kind"], "check_failed", "{result:#}");
    assert!(
        result["error"]
            .as_str()
            .unwrap()
            .contains("longer than 1 s")
            || result["error"].as_str().unwrap().contains("longer than"),
        "{result:#}"
    );
    // Nor may it fill the disk.
    space.program("check", "head -c 8M /dev/zero; exec sleep 600");
    space.set(json!({"check_timeout": "15m", "max_output": "4 MiB"}));
    project.submit(LAST, "x");
    let result = project.wait_result(LAST);
    assert_eq!(result["error_kind"], "check_failed", "{result:#}");
    space.stop();
    space.assert_no_survivor();
}

#[test]
fn a_check_that_cannot_be_started_holds_its_project_before_the_agent_starts() {
    let space = Space::new();
    space.claude(CLAUDE);
    let project = space.project_with("alpha", json!({"check": ["./prove.sh"]}));
    let other = space.project("beta");
    project.submit(ID, "x");
    space.start();
    project.wait_view("it is held", |view| view["hold"]["kind"] == "check");
    other.submit(NEXT, "x");
    assert_eq!(other.wait_result(NEXT)["status"], "completed");
    assert!(
        !project.path.join("prompt.1").exists(),
        "the agent was started"
    );
    space.run(&["-p", "alpha", "release", ID]).ok();
    let program = space.program("prove", "exit 0");
    fs::rename(program, project.path.join("prove.sh")).unwrap();
    // Something rings.
    project.submit(NEXT, "y");
    for id in [ID, NEXT] {
        assert_eq!(project.wait_result(id)["status"], "completed");
    }
}

#[test]
fn a_job_is_cancelled_while_its_gate_is_asked() {
    let space = Space::new();
    space.plain_agent("cat > ran");
    space.set(json!({"gate": ["sh", "-c", "echo x > asked; sleep 30"]}));
    let project = space.project("alpha");
    space.start();
    project.submit(ID, "x");
    wait_until("the gate is asked", || !project.made("asked").is_empty());
    cancel(&project, ID);
    assert_eq!(project.wait_result(ID)["status"], "cancelled");
    assert_eq!(project.made("ran"), "");
}

#[test]
fn a_gate_lets_nobody_through_until_it_succeeds_and_release_asks_it_again() {
    let space = Space::new();
    space.claude(CLAUDE);
    let gate = space.program(
        "gate",
        "echo asked >> asked; echo 'the tree is dirty'; [ -e open ]",
    );
    // For gates nobody is sent a message.
    let hook = space.program("hook", "echo told > told");
    let project = space.project_with("alpha", json!({"gate": [gate], "on_hold": [hook]}));
    project.submit(ID, "x");
    space.start();
    let view = project.wait_view("it is held", |view| view["hold"]["kind"] == "gate");
    assert_eq!(view["hold"]["reason"], "the tree is dirty");
    assert!(view["hold"]["until"].is_string());
    let asked = project.made("asked").lines().count();
    space.run(&["-p", "alpha", "release", ID]).ok();
    wait_until("it is asked again", || {
        project.made("asked").lines().count() > asked
    });
    assert!(
        !project.path.join("prompt.1").exists(),
        "the gate was passed by"
    );
    fs::write(project.path.join("open"), "").unwrap();
    space.run(&["-p", "alpha", "release", ID]).ok();
    assert_eq!(project.wait_result(ID)["status"], "completed");
    project.wait_view("nothing holds it", |view| view["hold"].is_null());
    assert!(!project.path.join("told").exists());
}

#[test]
fn a_job_that_is_held_while_its_gate_is_asked_does_not_start() {
    let space = Space::new();
    space.claude(CLAUDE);
    let gate = "echo x >> asked; while [ ! -e go ]; do sleep 0.02; done";
    space.set(json!({"gate": ["sh", "-c", gate]}));
    let project = space.project("alpha");
    project.submit(ID, "first");
    space.start();
    project.wait_made("asked");
    space.run(&["-p", "alpha", "hold", ID]).ok();
    project.submit(NEXT, "second");
    fs::write(project.path.join("go"), "").unwrap();
    assert_eq!(project.wait_result(NEXT)["status"], "completed");
    assert!(
        project.made("prompt.1").contains("second"),
        "{}",
        space.listing()
    );
    space.run(&["-p", "alpha", "release", ID]).ok();
    assert_eq!(project.wait_result(ID)["status"], "completed");
}

#[test]
fn a_job_that_is_cancelled_while_its_check_cannot_be_run_keeps_its_answer() {
    let space = Space::new();
    let check = space.program("check", "exit 0");
    space.claude(&format!("rm '{}'\n{CLAUDE}", check.display()));
    let project = space.project_with("alpha", json!({"check": [check]}));
    project.submit(ID, "x");
    space.start();
    project.wait_view("its check is gone", |view| view["hold"]["kind"] == "check");
    space.run(&["-p", "alpha", "cancel", ID]).ok();
    let result = project.wait_result(ID);
    assert_eq!(result["status"], "cancelled");
    assert!(result["worker_output"]["summary"].is_string(), "{result:#}");
    assert_eq!(result["attempts"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_gate_or_check_that_is_no_longer_asked_for_holds_nobody_and_is_not_shown() {
    let space = Space::new();
    space.claude(CLAUDE);
    let asked = [("gate", "false"), ("check", "not-there")];
    let projects = asked.map(|(key, argv)| space.project_with(key, json!({key: [argv]})));
    projects.iter().for_each(|project| project.submit(ID, "x"));
    space.start();
    for project in projects {
        let kind = &*project.name;
        project.wait_view("it is held", |view| view["hold"]["kind"] == kind);
        space.project(kind);
        assert_eq!(project.wait_result(ID)["status"], "completed");
        project.wait_view("nothing holds it", |view| view["hold"].is_null());
        let shown = space.run(&["-p", kind, "queue"]).ok();
        assert!(!shown.contains("Held"), "{shown}");
    }
}

#[test]
fn a_reply_goes_on_in_the_finished_job_s_session_and_pays_for_itself_only() {
    let space = Space::new();
    space.claude(CLAUDE);
    let project = space.project("alpha");
    project.submit(ID, "first");
    space.start();
    let session = project.wait_result(ID)["session_id"].clone();
    // The session is with the agent that has it, whichever the settings name now.
    space.set(json!({"agent": "gemini"}));
    space.wait_log("the settings have changed");
    project.submit(
        NEXT,
        &format!("---\ncontinues: {ID}\n---\nand now the second part\n"),
    );
    let result = project.wait_result(NEXT);
    assert_eq!(
        (&result["status"], &result["session_id"]),
        (&json!("completed"), &session)
    );
    assert_eq!(result["continues"], ID);
    assert_eq!(result["worker_output"]["cost_usd"], 1.0, "{result:#}");
    assert!(project.made("prompt.2").contains("and now the second part"));
    let lost = "job-20260101-120002-lost";
    project.submit(lost, "---\ncontinues: job-20260101-110000-none\n---\nx\n");
    let result = project.wait_result(lost);
    assert_eq!(result["error_kind"], "rejected");
    assert!(
        result["error"]
            .as_str()
            .unwrap()
            .contains("no finished job"),
        "{result:#}"
    );
}

#[test]
fn a_job_that_is_not_to_start_yet_lets_others_go_first() {
    let space = Space::new();
    space.claude(CLAUDE);
    let project = space.project("alpha");
    project.submit(ID, "---\nnot-before: 2099-01-01 12:00\n---\nlater\n");
    project.submit(NEXT, "now");
    space.start();
    assert_eq!(project.wait_result(NEXT)["status"], "completed");
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
    project.submit(ID, "now, too");
    assert_eq!(project.wait_result(ID)["status"], "completed");
}

#[test]
fn what_a_job_changed_is_recorded_from_its_first_start_to_its_end() {
    let space = Space::new();
    space.claude(&CLAUDE.replace("cat > prompt.new", "echo new >> file; cat > prompt.new"));
    space.set(json!({"check": [check(&space, 2)]}));
    let project = space.project("alpha");
    let git = |args: &[&str]| {
        let mut git = std::process::Command::new("git");
        git.arg("-C")
            .arg(&project.path)
            .args(["-c", "user.name=a", "-c", "user.email=a@b"]);
        crate::space::Ran::of(git.args(args).output().unwrap()).ok()
    };
    fs::write(project.path.join("file"), "old\n").unwrap();
    fs::write(
        project.path.join(".gitignore"),
        "jobs\nprompt*\nenviron*\nchecked*\n",
    )
    .unwrap();
    git(&["init", "-q"]);
    git(&["add", "-A"]);
    git(&["commit", "-q", "-m", "start"]);
    // As in a daemon that a hook of another repository has started.
    space.env("GIT_DIR", "/nowhere");
    project.submit(ID, "x");
    space.start();
    let result = project.wait_result(ID);
    let change = &result["git"];
    assert_eq!(
        (&change["files"], &change["insertions"], &change["commits"]),
        (&json!(1), &json!(2), &json!(0)),
        "{result:#}"
    );
    let patch = project.path.join(change["patch"].as_str().unwrap());
    git(&["apply", "-R", patch.to_str().unwrap()]);
    assert_eq!(
        fs::read_to_string(project.path.join("file")).unwrap(),
        "old\n"
    );
}
