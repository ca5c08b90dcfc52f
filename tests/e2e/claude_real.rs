//! The real `claude` command line against a stub of its API on loopback: what the recorded
//! streams cannot show, namely that the CLI of today takes our arguments, that it resumes the
//! session that we name, and that its tools die with it.
//!
//! The CLI is `$JOB_MONITOR_CLAUDE`, else `claude` on `PATH`; the stub is `messages_api_stub.py`, beside
//! the file `$JOB_MONITOR_API_STUB`, else in `../shared/tools`. Without them the tests are skipped and
//! say so, unless `JOB_MONITOR_REQUIRE` lists `claude`.

use crate::recipes::recipe;
use crate::space::{
    MustHave, Project, Space, attempts, is_alive, lacks, spawn, wait_longer, wait_until,
};
use job_monitor::time::Wall;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const JOB: &str = "job-20260101-120000-sheep";
const NEXT: &str = "job-20260101-120001-next";
const TEXT: &str = "Count the sheep.\n";
/// What the stub answers when it is done.
const ANSWER: &str = "The task is done.";
/// A tool's command that runs until the test makes the file `go`, for a minute at most.
const LONG: &str = "touch started; for i in $(seq 1200); do [ -e go ] && break; sleep 0.05; done; \
                    echo yes > finished";
const KEY: &str = "ANTHROPIC_API_KEY=dummy-key\n";
/// Where the stubs of the services are, unless `JOB_MONITOR_API_STUB` names one of them.
const STUBS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/tools");

// --- the main path ---

#[test]
fn a_job_that_writes_a_file_leaves_it_and_a_result_that_tells_all_about_it() {
    let Some(real) = real_with("tool-write", &[]) else {
        return;
    };
    let result = real.run();
    let written = real.project.made("stub-output.txt");
    assert_eq!(written, "written by the stub\n");
    result.must_have(json!({
        "status": "completed", "error": null, "error_kind": null, "retry_count": 0,
        "worker_output": {
            "summary": ANSWER, "raw_output": format!("I will write the file.\n\n{ANSWER}"),
            // Two answers of the stub: 100 tokens in and 20 out each.
            "usage": {"input_tokens": 200, "output_tokens": 40},
        },
        "artifacts": ["stub-output.txt"], "num_turns": 2, "permission_denials": [], "leftovers": 0,
        "agent": "claude",
        "attempts": [{"exit_code": 0, "session_id": result["session_id"]}],
    }));
    let cost = result["worker_output"]["cost_usd"].as_f64().unwrap();
    assert!(cost > 0.0, "{cost}");
    let version = result["agent_version"].as_str().unwrap();
    assert!(version.starts_with(char::is_numeric), "{version}");
    assert!(result["model"].as_str().unwrap().starts_with("claude-"));
    // The session is the one that we chose, and the CLI has kept it under that id.
    let session = result["session_id"].as_str().unwrap();
    real.transcript(session).unwrap().must_have(TEXT.trim());
    real.leaves_nothing();
}

#[test]
fn a_job_that_is_answered_with_a_text_completes() {
    let Some(real) = real_with("text", &["--text", "Forty-two sheep."]) else {
        return;
    };
    real.run().must_have(json!({
        "status": "completed", "artifacts": null, "num_turns": 1,
        "worker_output": {"summary": "Forty-two sheep."}, "stdout": "Forty-two sheep.",
    }));
    // One request: nothing is asked twice, and no title or other chatter is paid for.
    assert_eq!(real.stub.asked(), 1);
    real.leaves_nothing();
}

#[test]
fn the_skill_of_the_project_is_called_with_the_job_and_without_one_nothing_is() {
    let Some(real) = real("echo") else { return };
    let Real { space, project, .. } = &real;
    let prompt = format!("Execute the following job:\n\n{TEXT}");
    let plain = real.run();
    plain.must_have(json!({"status": "completed", "worker_output": {"summary": prompt}}));
    let told = "has no skill task-coordination, so jobs go to the agent without it";
    space.log().must_have(told);

    // The skills that come with the program, as a person puts them into a project.
    assert_eq!(space.stop(), 0);
    let path = project.path.to_str().unwrap();
    space.run(&["unregister", "alpha"]).ok();
    let register = ["register", path, "--name", "alpha", "--skills"];
    space.run(&register).ok();
    project.submit(NEXT, "Count the wolves.\n");
    space.start();
    let expanded = project.wait_result(NEXT);
    // What the model saw last is the skill's body with the job as its arguments: the CLI took the
    // first line of our prompt for the command that it is, and the skill's head for what it is.
    let seen = expanded["worker_output"]["summary"].as_str().unwrap();
    seen.must_have("\n# Carrying out a job\n");
    assert!(!seen.contains("description:"), "{seen}");
    let end = "ARGUMENTS: Execute the following job:\n\nCount the wolves.";
    assert!(seen.ends_with(end), "{seen}");
    let output = fs::read_to_string(project.logs(&format!("{NEXT}.jsonl"))).unwrap();
    let init: Value = serde_json::from_str(output.lines().next().unwrap()).unwrap();
    let skills = init["skills"].as_array().expect("the CLI names its skills");
    for name in ["task-coordination", "job-document-writer"] {
        assert!(skills.contains(&json!(name)), "{skills:?}");
    }
}

#[test]
fn a_tool_that_nobody_allowed_is_told_in_the_result() {
    let command = "python3 -c 'open(\"forbidden\", \"w\")'";
    let Some(real) = real_with("tool-bash", &["--command", command]) else {
        return;
    };
    // The CLI tells the model and goes on: the job is complete, and what was refused stands there.
    let denied = json!({"tool_name": "Bash", "tool_input": {"command": command}});
    let result = real.run();
    result.must_have(json!({"status": "completed", "permission_denials": [denied]}));
    assert!(!real.project.path.join("forbidden").exists());
    // A person is told, and how to allow it.
    let shown = real.space.run(&[JOB]).ok();
    for part in ["Status: completed", "Bash: python3 -c", "--allowedTools"] {
        shown.must_have(part);
    }
}

#[test]
fn a_process_that_a_tool_leaves_behind_is_ended_with_the_job() {
    let command = "setsid sh -c 'touch left; sleep 300; :' >/dev/null 2>&1 </dev/null & until [ -e left ]; do sleep 0.05; done";
    let Some(real) = real_with("tool-bash", &["--command", command]) else {
        return;
    };
    real.allow_bash();
    // The shell and its `sleep`.
    let result = real.run();
    result.must_have(json!({"status": "completed", "leftovers": 2}));
    real.leaves_nothing();
}

#[test]
fn a_check_that_fails_sends_the_cli_back_into_its_session_as_often_as_it_may() {
    for (rounds, status, checks, kind) in [
        (2, "completed", 3, Value::Null),
        (1, "failed", 2, json!("check_failed")),
    ] {
        let Some(real) = real("text") else { return };
        let body = "echo x >> checks; echo 'two tests fail'; [ $(wc -l < checks) -ge 3 ]";
        let program = real.space.program("check", body);
        let settings = json!({"check": [program], "check_rounds": rounds});
        real.space.set(settings);
        let result = real.run();
        let same_session = json!({"session_id": result["session_id"]});
        result.must_have(json!({
            "status": status, "error_kind": kind,
            "checks": vec![json!({}); checks], "attempts": vec![same_session; checks],
        }));
        // One conversation, in which the document stands once.
        let last = real.stub.conversations().pop().unwrap().to_string();
        assert_eq!(last.matches("two tests fail").count(), checks - 1, "{last}");
        assert_eq!(last.matches(TEXT.trim()).count(), 1, "{last}");
        real.leaves_nothing();
    }
}

// --- holds ---

#[test]
fn a_refused_key_holds_the_job_over_a_restart_until_the_credentials_are_mended() {
    let Some(real) = real("401") else { return };
    let Real { space, project, .. } = &real;
    real.submit_and_start();
    let hold = real.held("not_authenticated");
    hold["reason"].must_have("Invalid API key");
    hold["reason"].must_have(".env");
    let suspended = json!({"kind": "not_authenticated"});
    real.claim()
        .must_have(json!({"starts": 1, "suspended": suspended}));
    assert_eq!(project.result(JOB), None);
    space.wait_log("is held (not_authenticated)");
    let listed = space.run(&["list", "--json"]).json();
    assert_eq!(listed["projects"][0]["hold"], hold);
    let queue = space.run(&["queue"]).ok();
    queue.must_have("Held: not authenticated");

    // A restart is no repair: nothing is started, and the hold is shown again.
    assert_eq!(space.stop(), 0);
    fs::remove_file(project.state("queue_state.json")).unwrap();
    space.start();
    real.held("not_authenticated");
    assert_eq!(real.stub.asked(), 1);

    real.stub.play("text");
    space.credentials("ANTHROPIC_API_KEY=another-key\n", 0o600);
    real.completes_in_one_session("not_authenticated");
    real.resumed_with("not authenticated");
    // Neither key is anywhere but in the file that they were given in.
    real.says_nowhere("dummy-key");
    real.says_nowhere("another-key");
}

#[test]
fn a_hold_that_is_released_by_hand_lets_the_session_go_on() {
    let Some(real) = real("400-credit,text") else {
        return;
    };
    real.submit_and_start();
    real.held("billing");
    // Nothing that the monitor could see tells that a bill was paid.
    real.space.run(&["release", JOB]).ok();
    real.completes_in_one_session("billing");
}

#[test]
fn credentials_that_are_mended_while_the_agent_still_fails_are_not_overlooked() {
    let Some(real) = real("401,401,text") else {
        return;
    };
    // The CLI asks a second time after a while, with the key that it was started with.
    real.configure(real.stub.port, &[], 1);
    real.submit_and_start();
    wait_until("the first request", || real.stub.asked() > 0);
    let key = "ANTHROPIC_API_KEY=another-key\n";
    real.space.credentials(key, 0o600);
    real.completes_in_one_session("not_authenticated");
    assert_eq!(real.stub.asked(), 3);
}

#[test]
fn an_agent_that_is_not_logged_in_is_held_and_goes_on_after_the_login() {
    let Some(real) = real("text") else { return };
    fs::remove_file(real.space.config().join(".env")).unwrap();
    real.submit_and_start();
    real.held("not_authenticated")["reason"].must_have("Not logged in");
    // The CLI found that out by itself.
    assert_eq!(real.stub.asked(), 0);
    real.space.credentials(KEY, 0o600);
    real.completes_in_one_session("not_authenticated");
}

#[test]
fn a_usage_limit_is_waited_out_and_the_same_session_completes() {
    let Some(real) = real_with("429-limit", &["--reset-in", "6"]) else {
        return;
    };
    // Only a subscription has such limits, and the CLI knows it by the kind of credential.
    let token = "CLAUDE_CODE_OAUTH_TOKEN=dummy-token\n";
    real.space.credentials(token, 0o600);
    real.submit_and_start();
    let hold = real.held("usage_limit");
    hold["reason"].must_have("You've hit your");
    let until = time(&hold["until"]);
    // Six seconds, and the five that clocks may differ by.
    let ahead = until.since(Wall::now());
    assert!(ahead <= Duration::from_millis(11_500), "{hold}");
    assert_eq!(real.claim()["suspended"]["retry_at"], Value::Null);
    real.stub.play("tool-write");
    let result = real.completes_in_one_session("usage_limit");
    assert_eq!(result["artifacts"], json!(["stub-output.txt"]));
    let second = time(&result["attempts"][1]["started_at"]);
    assert!(second >= until, "{second} is before {until}");
    real.resumed_with("usage limit");
}

// --- retries ---

#[test]
fn an_overloaded_service_is_asked_again_after_half_a_minute_in_the_same_session() {
    let Some(real) = real("529,text") else { return };
    real.submit_and_start();
    real.held_as_ill("overloaded");
    assert_eq!(real.stub.asked(), 1);
    let held = Instant::now();
    // The pause is as long as a test waits for anything.
    let result = || real.project.result(JOB);
    wait_longer(Duration::from_secs(60), "the probe", result);
    assert!(held.elapsed() > Duration::from_secs(20));
    // Nothing tells that the job is to blame.
    real.completes_in_one_session("overloaded");
    real.resumed_with("overloaded");
}

#[test]
fn a_refused_connection_holds_the_agent_over_a_restart() {
    let Some(real) = real("text") else { return };
    // Nobody listens on the port of a connection that goes out, and nobody else is given it.
    let occupied = TcpStream::connect((Ipv4Addr::LOCALHOST, real.stub.port)).unwrap();
    real.point_to(occupied.local_addr().unwrap().port());
    real.submit_and_start();
    real.held_as_ill("network");
    let before = real.claim();
    before["suspended"]["error"].must_have("ECONNREFUSED");
    // It keeps its place at the head, also when the monitor is restarted meanwhile.
    assert_eq!(real.space.stop(), 0);
    real.space.start();
    real.held("network");
    assert_eq!(real.claim(), before);
}

// --- interruptions ---

#[test]
fn after_a_kill_in_mid_tool_the_survivors_are_ended_and_the_session_goes_on() {
    let Some(real) = in_mid_tool() else { return };
    real.space.kill();
    // The CLI and its tool do not notice.
    let survivors = real.space.processes();
    assert!(survivors.len() >= 2, "{survivors:?}");
    real.goes_on_after_interruption();
    real.space.wait_log("had survived; they were ended");
    assert!(!survivors.iter().any(|pid| is_alive(*pid)));
}

#[test]
fn after_a_stop_in_mid_tool_nothing_is_left_and_the_session_goes_on_at_the_next_start() {
    let Some(real) = in_mid_tool() else { return };
    assert_eq!(real.space.stop(), 0);
    assert_eq!(real.space.processes(), Vec::<i32>::new());
    assert_eq!(real.project.result(JOB), None);
    // The claim says that it ran.
    assert_eq!(real.claim()["suspended"], Value::Null);
    real.goes_on_after_interruption();
}

#[test]
fn an_answer_that_came_while_the_monitor_was_down_is_the_result() {
    let Some(real) = in_mid_tool() else { return };
    real.space.kill();
    real.project.touch("go");
    let output = real.project.logs(&format!("{JOB}.jsonl"));
    wait_until("the CLI's result", || {
        fs::read_to_string(&output).is_ok_and(|text| text.contains(r#""type":"result""#))
    });
    let asked = real.stub.asked();
    real.space.start();
    let result = real.project.wait_completed(JOB);
    result.must_have(json!({"worker_output": {"summary": ANSWER}, "attempts": [{}]}));
    assert_eq!(real.project.made("finished"), "yes\n");
    assert_eq!(real.stub.asked(), asked, "nothing was started");
    real.leaves_nothing();
}

#[test]
fn a_session_that_the_cli_has_lost_starts_afresh_with_the_document() {
    let Some(real) = in_mid_tool() else { return };
    real.space.kill();
    // While the CLI lives it would write the file again.
    for pid in real.space.processes() {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
    }
    real.space.assert_no_survivor();
    fs::remove_dir_all(real.space.home().join(".claude/projects")).unwrap();
    real.stub.play("text");
    real.space.start();
    let result = real.project.wait_completed(JOB);
    let last = json!({"error_kind": null, "session_id": result["session_id"]});
    result.must_have(json!({
        "retry_count": 0, "attempts": [{"error_kind": "interrupted"}, {}, last],
    }));
    let [first, unknown, last] = attempts(&result) else {
        unreachable!("there are three")
    };
    unknown["error"].must_have("No conversation found");
    assert_ne!(last["session_id"], first["session_id"]);
    // The new session gets the document.
    let conversation = real.stub.conversations().pop().unwrap();
    conversation.to_string().must_have(TEXT.trim());
}

#[test]
fn a_cancel_in_mid_tool_leaves_no_process() {
    let Some(real) = in_mid_tool() else { return };
    real.space.run(&["cancel", JOB]).ok();
    real.project.wait_result(JOB).must_have(json!({
        "status": "cancelled", "error_kind": "cancelled", "stdout": "I will run a command.",
        "attempts": [{}],
    }));
    assert!(!real.project.path.join("finished").exists());
    real.leaves_nothing();
    // And the project is free for the next job.
    real.stub.play("text");
    real.project.complete(NEXT, TEXT);
}

// --- in a sandbox ---

#[test]
fn the_cli_works_in_bubblewrap_as_the_recipe_puts_it_there_and_keeps_its_session_outside() {
    let Some(real) = real_with("tool-write", &["--command", LONG]) else {
        return;
    };
    if on_path("bwrap").is_none() {
        return lacks("sandboxes", "bwrap is not on PATH");
    }
    real.settle_in_home();
    real.allow_bash();
    real.sandbox("bwrap");
    let result = real.run();
    assert_eq!(result["status"], "completed", "{result:#}");
    let written = real.project.made("stub-output.txt");
    assert_eq!(written, "written by the stub\n");
    let session = result["session_id"].as_str().unwrap();
    assert!(real.transcript(session).is_some());

    real.stub.play("tool-bash");
    real.project.submit(NEXT, TEXT);
    real.project.wait_made("started");
    real.space.run(&["cancel", NEXT]).ok();
    assert_eq!(real.project.wait_result(NEXT)["status"], "cancelled");
    real.leaves_nothing();
}

// --- the CLI, its API, and one job between them ---

/// A space with a project whose agent is the real CLI, and the API that it talks to.
struct Real {
    space: Space,
    project: Project,
    stub: Stub,
}

/// `None`, and a word about it, where CLI or stub are missing.
fn real_with(scenario: &str, options: &[&str]) -> Option<Real> {
    let (claude, script) = tools("claude", "messages_api_stub.py")?;
    let space = Space::new();
    let stub = Stub::start(&script, &space.root().join("bodies"), scenario, options);
    // The built-in agent, found on PATH as everybody's is.
    symlink(claude, space.root().join("bin/claude")).unwrap();
    space.credentials(KEY, 0o600);
    let project = space.project("alpha");
    let real = Real {
        space,
        project,
        stub,
    };
    real.point_to(real.stub.port);
    Some(real)
}

fn real(scenario: &str) -> Option<Real> {
    real_with(scenario, &[])
}

/// A job whose tool runs just now, and whose session is on disk: killed a moment earlier,
/// the CLI would know nothing of it.
fn in_mid_tool() -> Option<Real> {
    let real = real_with("tool-bash", &["--command", LONG])?;
    real.allow_bash();
    real.submit_and_start();
    real.project.wait_made("started");
    let claim = real.claim();
    let session = claim["session_id"].as_str().unwrap();
    wait_until("the tool's call in the session's file", || {
        let text = real.transcript(session);
        text.is_some_and(|text| text.contains("touch started"))
    });
    Some(real)
}

impl Real {
    /// Settings for the agent; the CLI's own repeats are left out, for their pauses are long.
    fn point_to(&self, port: u16) {
        self.configure(port, &[], 0);
    }

    fn allow_bash(&self) {
        self.configure(self.stub.port, &["--allowedTools", "Bash"], 0);
    }

    /// Moves the CLI to where its installer puts it.
    fn settle_in_home(&self) {
        let home = self.space.home();
        let found = self.space.root().join("bin/claude");
        let (bin, share) = (home.join(".local/bin"), home.join(".local/share/claude"));
        for dir in [&bin, &share, &home.join(".claude")] {
            fs::create_dir_all(dir).unwrap();
        }
        let program = fs::canonicalize(&found).unwrap();
        let settled = share.join("claude");
        // It has several hundred megabytes.
        if fs::hard_link(&program, &settled).is_err() {
            fs::copy(&program, &settled).unwrap();
        }
        symlink(&settled, bin.join("claude")).unwrap();
        fs::remove_file(found).unwrap();
        fs::write(home.join(".claude.json"), "{}").unwrap();
        let path = std::env::var("PATH").unwrap();
        self.space.env("PATH", &format!("{}:{path}", bin.display()));
    }

    /// Puts a recipe's launcher in front of the CLI.
    fn sandbox(&self, program: &str) {
        let home = self.space.home();
        let recipe = recipe(program).to_string();
        let recipe = recipe.replace("/home/you", home.to_str().unwrap());
        let recipe: Value = serde_json::from_str(&recipe).unwrap();
        let text = fs::read_to_string(self.space.config().join("config.json")).unwrap();
        let mut agents = serde_json::from_str::<Value>(&text).unwrap()["agents"].take();
        agents["claude"]["command"] = recipe["agents"]["claude"]["command"].clone();
        self.space.set(json!({"agents": agents}));
    }

    fn configure(&self, port: u16, args: &[&str], retries: u32) {
        self.space.set(json!({
            "grace": "5s",
            "agents": {"claude": {"args": args, "env": {
                "ANTHROPIC_BASE_URL": format!("http://127.0.0.1:{port}"),
                "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
                "CLAUDE_CODE_MAX_RETRIES": retries.to_string(),
            }}},
        }));
    }

    fn submit_and_start(&self) {
        self.project.submit(JOB, TEXT);
        self.space.start();
    }

    fn run(&self) -> Value {
        self.submit_and_start();
        self.project.wait_result(JOB)
    }

    fn claim(&self) -> Value {
        self.project.claimed(JOB).expect("the job is claimed")
    }

    /// Waits for a hold and gives it as `queue_state.json` shows it.
    #[track_caller]
    fn held(&self, kind: &str) -> Value {
        let is_held = |view: &Value| view["hold"].is_object();
        let view = self.project.wait_view("a hold", is_held);
        view.must_have(json!({
            "hold": {"kind": kind}, "is_processing": false, "queued_tasks": [format!("{JOB}.md")],
        }));
        view["hold"].clone()
    }

    /// Waits for the hold of a service that is ill, and for the job to wait for no time of its own.
    #[track_caller]
    fn held_as_ill(&self, kind: &str) {
        self.held(kind);
        let suspended = json!({"kind": kind, "retry_at": null});
        self.claim().must_have(json!({"suspended": suspended}));
        assert_eq!(self.project.result(JOB), None);
    }

    /// Waits for the result: the first attempt ended as told, the second completed, in one session.
    #[track_caller]
    fn completes_in_one_session(&self, first: &str) -> Value {
        let result = self.project.wait_completed(JOB);
        let session = &result["session_id"];
        result.must_have(json!({
            "error_kind": null, "worker_output": {"summary": ANSWER}, "retry_count": 0,
            "attempts": [
                {"error_kind": first, "session_id": session},
                {"error_kind": null, "session_id": session},
            ],
        }));
        let log = self.space.log();
        log.must_have(&format!("Starting job: {JOB}.md (start 2, resumed)"));
        self.leaves_nothing();
        result
    }

    #[track_caller]
    fn goes_on_after_interruption(&self) {
        self.stub.play("text");
        self.space.start();
        self.completes_in_one_session("interrupted");
        assert!(!self.project.path.join("finished").exists());
        // The model sees the call that was cut off.
        self.resumed_with("interrupted").must_have("touch started");
    }

    /// The last request carries on the conversation: it ends in our word about what happened, and
    /// has the document once, from before. Gives the request's messages as text.
    #[track_caller]
    fn resumed_with(&self, reason: &str) -> String {
        let messages = self.stub.conversations().pop().expect("a request was made");
        let text = messages.to_string();
        let ours = format!("The previous run of this job ended early ({reason});");
        assert_eq!(text.matches(&ours).count(), 1, "{text}");
        assert_eq!(text.matches(TEXT.trim()).count(), 1, "{text}");
        text
    }

    /// No process, no file of the CLI's in the directory for temporary ones, no claim, no mark.
    #[track_caller]
    fn leaves_nothing(&self) {
        self.space.assert_no_survivor();
        let are_in = |dir: &Path, begin: &str| {
            let names = self.project.names(dir);
            names.iter().any(|name| name.starts_with(begin))
        };
        wait_until("claim and marks to be gone", || {
            !are_in(&self.project.state(""), JOB)
        });
        assert!(!are_in(&self.space.root().join("tmp"), "job-monitor-"));
    }

    /// A word stands in none of the files that the monitor writes.
    #[track_caller]
    fn says_nowhere(&self, word: &str) {
        let project = &self.project;
        let dirs = [project.logs(""), project.results(""), project.state("")];
        for dir in dirs.iter().chain([&self.space.state()]) {
            for name in project.names(dir) {
                let bytes = fs::read(dir.join(&name)).unwrap_or_default();
                let is_said = String::from_utf8_lossy(&bytes).contains(word);
                assert!(!is_said, "{word} stands in {name}");
            }
        }
        assert!(!self.space.log().contains(word));
    }

    /// The CLI's own record of a session.
    fn transcript(&self, session: &str) -> Option<String> {
        let projects = fs::read_dir(self.space.home().join(".claude/projects")).ok()?;
        projects
            .flatten()
            .find_map(|dir| fs::read_to_string(dir.path().join(format!("{session}.jsonl"))).ok())
    }
}

/// The stub of the API, which lives no longer than the test: it ends with its standard input.
pub struct Stub {
    child: Child,
    pub port: u16,
    bodies: PathBuf,
}

impl Stub {
    pub fn start(script: &Path, bodies: &Path, scenario: &str, options: &[&str]) -> Stub {
        let mut command = Command::new("python3");
        command.arg(script).current_dir("/");
        command.args([scenario, "--exit-with-stdin", "--bodies"]);
        command.arg(bodies).args(options);
        let mut child = spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let port = line.trim().strip_prefix("listening 127.0.0.1 ");
        let port = port.and_then(|port| port.parse().ok());
        Stub {
            child,
            port: port.unwrap_or_else(|| panic!("the stub said {line:?}")),
            bodies: bodies.to_owned(),
        }
    }

    /// Changes what it answers from now on.
    fn play(&self, scenario: &str) {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        let bound = Some(Duration::from_secs(10));
        stream.set_read_timeout(bound).unwrap();
        write!(
            stream,
            "POST /__stub__/scenario/{scenario} HTTP/1.0\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// The messages of every request so far that asked the model for something, in order.
    fn conversations(&self) -> Vec<Value> {
        let entries = fs::read_dir(&self.bodies).into_iter().flatten().flatten();
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        files.sort();
        let bodies = files.iter().filter_map(|file| {
            let body: Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
            body.get("messages").cloned()
        });
        bodies.collect()
    }

    fn asked(&self) -> usize {
        self.conversations().len()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An agent's program, and the script that stands in for its service; a word about it where one is missing.
pub fn tools(agent: &str, script: &str) -> Option<(PathBuf, PathBuf)> {
    let variable = format!("JOB_MONITOR_{}", agent.to_uppercase());
    let named = |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty());
    let program = named(&variable).map(PathBuf::from);
    let program = program.or_else(|| on_path(agent));
    let beside = named("JOB_MONITOR_API_STUB").map(PathBuf::from);
    let beside = beside.unwrap_or_else(|| Path::new(STUBS).join("x"));
    let script = beside.with_file_name(script);
    let are_there = script.is_file() && on_path("python3").is_some();
    let program = program.filter(|program| are_there && program.is_file());
    if program.is_none() {
        let why = format!("{agent}, python3 or {} is missing", script.display());
        lacks(
            agent,
            &format!("{why}; see {variable}, JOB_MONITOR_API_STUB"),
        );
    }
    Some((std::path::absolute(program?).unwrap(), script))
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let mut files = std::env::split_paths(&path).map(|dir| dir.join(program));
    files.find(|file| file.is_file())
}

#[track_caller]
fn time(value: &Value) -> Wall {
    let time = value.as_str().and_then(Wall::parse);
    time.unwrap_or_else(|| panic!("{value} is no time"))
}
