//! The real `claude` command line against a stub of its API on loopback: what the recorded
//! streams cannot show, namely that the CLI of today takes our arguments, that it resumes the
//! session that we name, and that its tools die with it.
//!
//! The CLI is `$JOB_MONITOR_CLAUDE`, else `claude` on `PATH`; the stub is the script
//! `$JOB_MONITOR_API_STUB`, else `../shared/tools/messages_api_stub.py`. Without them the tests
//! are skipped and say so, unless `JOB_MONITOR_REQUIRE` lists `claude`.

use crate::recipes::recipe;
use crate::space::{Project, Space, is_alive, lacks, wait_longer, wait_until};
use job_monitor::time::Wall;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const JOB: &str = "job-20260101-120000-sheep";
const TEXT: &str = "Count the sheep.\n";
/// What the stub answers when it is done.
const ANSWER: &str = "The task is done.";
/// A tool's command that runs until the test makes the file `go`, for a minute at most.
const LONG: &str = "touch started; for i in $(seq 1200); do [ -e go ] && break; sleep 0.05; done; \
                    echo yes > finished";
const KEY: &str = "ANTHROPIC_API_KEY=dummy-key\n";

// --- the main path ---

#[test]
fn a_job_that_writes_a_file_leaves_it_and_a_result_that_tells_all_about_it() {
    let Some(real) = Real::new("tool-write", &[]) else {
        return;
    };
    let result = real.run();
    assert_eq!(
        real.project.made("stub-output.txt"),
        "written by the stub\n"
    );
    assert_eq!(result["status"], "completed", "{result:#}");
    assert_eq!(result["error"], Value::Null);
    assert_eq!(result["error_kind"], Value::Null);
    assert_eq!(result["retry_count"], 0);
    let output = &result["worker_output"];
    assert_eq!(output["summary"], ANSWER);
    assert_eq!(
        output["raw_output"],
        format!("I will write the file.\n\n{ANSWER}")
    );
    // Two answers of the stub: 100 tokens in and 20 out each.
    assert_eq!(output["usage"]["input_tokens"], 200);
    assert_eq!(output["usage"]["output_tokens"], 40);
    assert!(output["cost_usd"].as_f64().unwrap() > 0.0, "{output}");
    assert_eq!(result["artifacts"], json!(["stub-output.txt"]));
    assert_eq!(result["num_turns"], 2);
    assert_eq!(result["permission_denials"], json!([]));
    assert_eq!(result["leftovers"], 0);
    assert_eq!(result["agent"], "claude");
    let version = result["agent_version"].as_str().unwrap();
    assert!(version.starts_with(char::is_numeric), "{version}");
    assert!(result["model"].as_str().unwrap().starts_with("claude-"));
    let attempt = only_attempt(&result);
    assert_eq!(attempt["exit_code"], 0);
    assert_eq!(attempt["session_id"], result["session_id"]);
    // The session is the one that we chose, and the CLI has kept it under that id.
    let session = result["session_id"].as_str().unwrap();
    assert!(
        real.transcript(session)
            .is_some_and(|text| text.contains(TEXT.trim()))
    );
    real.leaves_nothing();
}

#[test]
fn a_job_that_is_answered_with_a_text_completes() {
    let Some(real) = Real::new("text", &["--text", "Forty-two sheep."]) else {
        return;
    };
    let result = real.run();
    assert_eq!(result["status"], "completed", "{result:#}");
    assert_eq!(result["worker_output"]["summary"], "Forty-two sheep.");
    assert_eq!(result["stdout"], "Forty-two sheep.");
    assert_eq!(result["artifacts"], Value::Null);
    assert_eq!(result["num_turns"], 1);
    // One request: nothing is asked twice, and no title or other chatter is paid for.
    assert_eq!(real.stub.conversations().len(), 1);
    real.leaves_nothing();
}

#[test]
fn the_skill_of_the_project_is_called_with_the_job_and_without_one_nothing_is() {
    let Some(real) = Real::new("echo", &[]) else {
        return;
    };
    let plain = real.run();
    assert_eq!(plain["status"], "completed", "{plain:#}");
    let prompt = format!("Execute the following job:\n\n{TEXT}");
    assert_eq!(plain["worker_output"]["summary"], prompt);
    assert!(
        real.space
            .log()
            .contains("has no skill task-coordination, so jobs go to the agent without it")
    );

    // The skills that come with the program, as a person puts them into a project.
    assert_eq!(real.space.stop(), 0);
    let path = real.project.path.to_str().unwrap();
    real.space.run(&["unregister", "alpha"]).ok();
    real.space
        .run(&["register", path, "--name", "alpha", "--skills"])
        .ok();
    let second = "job-20260101-120001-wolves";
    real.project.submit(second, "Count the wolves.\n");
    real.space.start();
    let expanded = real.project.wait_result(second);
    // What the model saw last is the skill's body with the job as its arguments: the CLI took the
    // first line of our prompt for the command that it is, and the skill's head for what it is.
    let seen = expanded["worker_output"]["summary"].as_str().unwrap();
    assert!(seen.contains("\n# Carrying out a job\n"), "{seen}");
    assert!(!seen.contains("description:"), "{seen}");
    assert!(
        seen.ends_with("ARGUMENTS: Execute the following job:\n\nCount the wolves."),
        "{seen}"
    );
    let output = fs::read_to_string(real.project.logs(&format!("{second}.jsonl"))).unwrap();
    let init: Value = serde_json::from_str(output.lines().next().unwrap()).unwrap();
    let skills = init["skills"].as_array().expect("the CLI names its skills");
    for name in ["task-coordination", "job-document-writer"] {
        assert!(skills.contains(&json!(name)), "{skills:?}");
    }
}

#[test]
fn a_tool_that_nobody_allowed_is_told_in_the_result() {
    let command = "python3 -c 'open(\"forbidden\", \"w\")'";
    let Some(real) = Real::new("tool-bash", &["--command", command]) else {
        return;
    };
    let result = real.run();
    // The CLI tells the model and goes on: the job is complete, and what was refused stands there.
    assert_eq!(result["status"], "completed", "{result:#}");
    let denials = result["permission_denials"].as_array().unwrap();
    assert_eq!(denials.len(), 1, "{denials:?}");
    assert_eq!(denials[0]["tool_name"], "Bash");
    assert_eq!(denials[0]["tool_input"]["command"], command);
    assert!(!real.project.path.join("forbidden").exists());
    // A person is told, and how to allow it.
    let shown = real.space.run(&[JOB]).ok();
    assert!(shown.contains("Status: completed"), "{shown}");
    assert!(shown.contains("Bash: python3 -c"), "{shown}");
    assert!(shown.contains("--allowedTools"), "{shown}");
}

#[test]
fn a_process_that_a_tool_leaves_behind_is_ended_with_the_job() {
    let command = "setsid sh -c 'touch left; sleep 300; :' >/dev/null 2>&1 </dev/null & until [ -e left ]; do sleep 0.05; done";
    let Some(real) = Real::new("tool-bash", &["--command", command]) else {
        return;
    };
    real.allow_bash();
    let result = real.run();
    assert_eq!(result["status"], "completed", "{result:#}");
    // The shell and its `sleep`.
    assert_eq!(result["leftovers"], 2);
    real.leaves_nothing();
}

#[test]
fn a_check_that_fails_sends_the_cli_back_into_its_session_as_often_as_it_may() {
    for (rounds, status, checks) in [(2, "completed", 3), (1, "failed", 2)] {
        let Some(real) = Real::new("text", &[]) else {
            return;
        };
        let body = "echo x >> checks; echo 'two tests fail'; [ $(wc -l < checks) -ge 3 ]";
        let program = real.space.program("check", body);
        real.space
            .set(json!({"check": [program], "check_rounds": rounds}));
        let result = real.run();
        assert_eq!(result["status"], status, "{result:#}");
        assert_eq!(result["checks"].as_array().unwrap().len(), checks);
        let attempts = result["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), checks);
        for attempt in attempts {
            assert_eq!(attempt["session_id"], result["session_id"]);
        }
        // One conversation, in which the document stands once.
        let last = real.stub.conversations().pop().unwrap().to_string();
        assert_eq!(last.matches("two tests fail").count(), checks - 1, "{last}");
        assert_eq!(last.matches(TEXT.trim()).count(), 1, "{last}");
        if status == "failed" {
            assert_eq!(result["error_kind"], "check_failed");
        }
        real.leaves_nothing();
    }
}

// --- holds ---

#[test]
fn a_refused_key_holds_the_job_over_a_restart_until_the_credentials_are_mended() {
    let Some(real) = Real::new("401", &[]) else {
        return;
    };
    real.submit_and_start();
    let hold = real.held();
    assert_eq!(hold["kind"], "not_authenticated");
    let reason = hold["reason"].as_str().unwrap();
    assert!(
        reason.contains("Invalid API key") && reason.contains(".env"),
        "{reason}"
    );
    let claim = real.claim();
    assert_eq!(claim["starts"], 1);
    assert_eq!(claim["suspended"]["kind"], "not_authenticated");
    assert_eq!(real.project.result(JOB), None);
    real.space.wait_log("is held (not_authenticated)");
    let listed = real.space.run(&["list", "--json"]).json();
    assert_eq!(listed["projects"][0]["hold"], hold);
    let queue = real.space.run(&["queue"]).ok();
    assert!(queue.contains("Held: not authenticated"), "{queue}");

    // A restart is no repair: nothing is started, and the hold is shown again.
    assert_eq!(real.space.stop(), 0);
    fs::remove_file(real.project.state("queue_state.json")).unwrap();
    real.space.start();
    assert_eq!(real.held()["kind"], "not_authenticated");
    assert_eq!(real.stub.conversations().len(), 1);

    real.stub.play("text");
    real.space
        .credentials("ANTHROPIC_API_KEY=another-key\n", 0o600);
    let result = real.project.wait_result(JOB);
    real.completed_in_one_session(&result, &["not_authenticated"]);
    assert_eq!(result["retry_count"], 0);
    real.resumed_with("not authenticated");
    // Neither key is anywhere but in the file that they were given in.
    for word in ["dummy-key", "another-key"] {
        real.says_nowhere(word);
    }
}

#[test]
fn a_hold_that_is_released_by_hand_lets_the_session_go_on() {
    let Some(real) = Real::new("400-credit,text", &[]) else {
        return;
    };
    real.submit_and_start();
    assert_eq!(real.held()["kind"], "billing");
    // Nothing that the monitor could see tells that a bill was paid.
    real.space.run(&["release", JOB]).ok();
    let result = real.project.wait_result(JOB);
    real.completed_in_one_session(&result, &["billing"]);
    assert_eq!(result["retry_count"], 0);
}

#[test]
fn credentials_that_are_mended_while_the_agent_still_fails_are_not_overlooked() {
    let Some(real) = Real::new("401,401,text", &[]) else {
        return;
    };
    // The CLI asks a second time after a while, with the key that it was started with.
    real.configure(real.stub.port, &[], 1);
    real.submit_and_start();
    wait_until("the first request", || {
        !real.stub.conversations().is_empty()
    });
    real.space
        .credentials("ANTHROPIC_API_KEY=another-key\n", 0o600);
    let result = real.project.wait_result(JOB);
    real.completed_in_one_session(&result, &["not_authenticated"]);
    assert_eq!(real.stub.conversations().len(), 3);
}

#[test]
fn an_agent_that_is_not_logged_in_is_held_and_goes_on_after_the_login() {
    let Some(real) = Real::new("text", &[]) else {
        return;
    };
    fs::remove_file(real.space.config().join(".env")).unwrap();
    real.submit_and_start();
    let hold = real.held();
    assert_eq!(hold["kind"], "not_authenticated");
    assert!(hold["reason"].as_str().unwrap().contains("Not logged in"));
    // The CLI found that out by itself.
    assert_eq!(real.stub.conversations().len(), 0);
    real.space.credentials(KEY, 0o600);
    let result = real.project.wait_result(JOB);
    real.completed_in_one_session(&result, &["not_authenticated"]);
    assert_eq!(result["retry_count"], 0);
}

#[test]
fn a_usage_limit_is_waited_out_and_the_same_session_completes() {
    let Some(real) = Real::new("429-limit", &["--reset-in", "6"]) else {
        return;
    };
    // Only a subscription has such limits, and the CLI knows it by the kind of credential.
    real.space
        .credentials("CLAUDE_CODE_OAUTH_TOKEN=dummy-token\n", 0o600);
    real.submit_and_start();
    let hold = real.held();
    assert_eq!(hold["kind"], "usage_limit");
    assert!(
        hold["reason"].as_str().unwrap().contains("You've hit your"),
        "{hold}"
    );
    let until = time(&hold["until"]);
    // Six seconds, and the five that clocks may differ by.
    assert!(ahead(until) <= Duration::from_millis(11_500), "{hold}");
    assert_eq!(real.claim()["suspended"]["retry_at"], Value::Null);
    real.stub.play("tool-write");
    let result = real.project.wait_result(JOB);
    real.completed_in_one_session(&result, &["usage_limit"]);
    assert_eq!(result["retry_count"], 0);
    assert_eq!(result["artifacts"], json!(["stub-output.txt"]));
    let second = time(&result["attempts"][1]["started_at"]);
    assert!(second >= until, "{second} is before {until}");
    real.resumed_with("usage limit");
}

// --- retries ---

#[test]
fn an_overloaded_service_is_asked_again_after_half_a_minute_in_the_same_session() {
    let Some(real) = Real::new("529,text", &[]) else {
        return;
    };
    real.submit_and_start();
    real.held_as_ill("overloaded");
    assert_eq!(real.stub.conversations().len(), 1);
    let held = std::time::Instant::now();
    // The pause is as long as a test waits for anything.
    let result = wait_longer(Duration::from_secs(60), "the probe", || {
        real.project.result(JOB)
    });
    assert!(held.elapsed() > Duration::from_secs(20), "{result:#}");
    real.completed_in_one_session(&result, &["overloaded"]);
    // Nothing tells that the job is to blame.
    assert_eq!(result["retry_count"], 0);
    real.resumed_with("overloaded");
}

#[test]
fn a_refused_connection_holds_the_agent_over_a_restart() {
    let Some(real) = Real::new("text", &[]) else {
        return;
    };
    // Nobody listens on the port of a connection that goes out, and nobody else is given it.
    let occupied = TcpStream::connect((Ipv4Addr::LOCALHOST, real.stub.port)).unwrap();
    real.point_to(occupied.local_addr().unwrap().port());
    real.submit_and_start();
    real.held_as_ill("network");
    assert!(
        real.claim()["suspended"]["error"]
            .as_str()
            .unwrap()
            .contains("ECONNREFUSED")
    );
    // It keeps its place at the head, also when the monitor is restarted meanwhile.
    let before = real.claim();
    assert_eq!(real.space.stop(), 0);
    real.space.start();
    assert_eq!(real.held()["kind"], "network");
    assert_eq!(real.claim(), before);
}

// --- interruptions ---

#[test]
fn after_a_kill_in_mid_tool_the_survivors_are_ended_and_the_session_goes_on() {
    let Some(real) = Real::in_mid_tool() else {
        return;
    };
    real.space.kill();
    // The CLI and its tool do not notice.
    let survivors = real.space.processes();
    assert!(survivors.len() >= 2, "{survivors:?}");
    real.stub.play("text");
    real.space.start();
    let result = real.project.wait_result(JOB);
    real.space.wait_log("had survived; they were ended");
    assert!(!survivors.iter().any(|pid| is_alive(*pid)));
    real.went_on_after_interruption(&result);
}

#[test]
fn after_a_stop_in_mid_tool_nothing_is_left_and_the_session_goes_on_at_the_next_start() {
    let Some(real) = Real::in_mid_tool() else {
        return;
    };
    real.space.signal(Signal::SIGTERM);
    assert_eq!(real.space.wait_end(), 0);
    assert_eq!(real.space.processes(), Vec::<i32>::new());
    assert_eq!(real.project.result(JOB), None);
    assert_eq!(
        real.claim()["suspended"],
        Value::Null,
        "the claim says that it ran"
    );
    real.stub.play("text");
    real.space.start();
    let result = real.project.wait_result(JOB);
    real.went_on_after_interruption(&result);
}

#[test]
fn an_answer_that_came_while_the_monitor_was_down_is_the_result() {
    let Some(real) = Real::in_mid_tool() else {
        return;
    };
    real.space.kill();
    fs::write(real.project.path.join("go"), "").unwrap();
    let output = real.project.logs(&format!("{JOB}.jsonl"));
    wait_until("the CLI's result", || {
        fs::read_to_string(&output).is_ok_and(|text| text.contains(r#""type":"result""#))
    });
    let asked = real.stub.conversations().len();
    real.space.start();
    let result = real.project.wait_result(JOB);
    assert_eq!(result["status"], "completed", "{result:#}");
    assert_eq!(result["worker_output"]["summary"], ANSWER);
    only_attempt(&result);
    assert_eq!(real.project.made("finished"), "yes\n");
    assert_eq!(
        real.stub.conversations().len(),
        asked,
        "nothing was started"
    );
    real.leaves_nothing();
}

#[test]
fn a_session_that_the_cli_has_lost_starts_afresh_with_the_document() {
    let Some(real) = Real::in_mid_tool() else {
        return;
    };
    real.space.kill();
    // While the CLI lives it would write the file again.
    for pid in real.space.processes() {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
    }
    real.space.assert_no_survivor();
    fs::remove_dir_all(real.space.home().join(".claude/projects")).unwrap();
    real.stub.play("text");
    real.space.start();
    let result = real.project.wait_result(JOB);
    assert_eq!(result["status"], "completed", "{result:#}");
    assert_eq!(result["retry_count"], 0);
    let attempts = result["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 3, "{attempts:#?}");
    assert_eq!(attempts[0]["error_kind"], "interrupted");
    let unknown = attempts[1]["error"].as_str().unwrap();
    assert!(unknown.contains("No conversation found"), "{unknown}");
    assert_eq!(attempts[2]["error_kind"], Value::Null);
    assert_ne!(attempts[2]["session_id"], attempts[0]["session_id"]);
    assert_eq!(attempts[2]["session_id"], result["session_id"]);
    let last = real.stub.conversations().pop().unwrap().to_string();
    assert!(
        last.contains(TEXT.trim()),
        "the new session gets the document"
    );
}

#[test]
fn a_cancel_in_mid_tool_leaves_no_process() {
    let Some(real) = Real::in_mid_tool() else {
        return;
    };
    real.space.run(&["cancel", JOB]).ok();
    let result = real.project.wait_result(JOB);
    assert_eq!(result["status"], "cancelled", "{result:#}");
    assert_eq!(result["error_kind"], "cancelled");
    only_attempt(&result);
    assert_eq!(result["stdout"], "I will run a command.");
    assert!(!real.project.path.join("finished").exists());
    real.leaves_nothing();
    // And the project is free for the next job.
    real.stub.play("text");
    let next = "job-20260101-120001-next";
    real.project.submit(next, TEXT);
    assert_eq!(real.project.wait_result(next)["status"], "completed");
}

// --- in a sandbox ---

#[test]
fn the_cli_works_in_bubblewrap_as_the_recipe_puts_it_there_and_keeps_its_session_outside() {
    let Some(real) = Real::new("tool-write", &["--command", LONG]) else {
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
    assert_eq!(
        real.project.made("stub-output.txt"),
        "written by the stub\n"
    );
    let session = result["session_id"].as_str().unwrap();
    assert!(real.transcript(session).is_some());

    real.stub.play("tool-bash");
    let next = "job-20260101-120001-next";
    real.project.submit(next, TEXT);
    real.project.wait_made("started");
    real.space.run(&["cancel", next]).ok();
    assert_eq!(real.project.wait_result(next)["status"], "cancelled");
    real.leaves_nothing();
}

// --- the CLI, its API, and one job between them ---

/// A space with a project whose agent is the real CLI, and the API that it talks to.
struct Real {
    space: Space,
    project: Project,
    stub: Stub,
}

impl Real {
    /// `None`, and a word about it, where CLI or stub are missing.
    fn new(scenario: &str, options: &[&str]) -> Option<Real> {
        let (claude, script) = match tools() {
            Ok(tools) => tools,
            Err(why) => {
                lacks("claude", &why);
                return None;
            }
        };
        let space = Space::new();
        let stub = Stub::start(&script, &space.root().join("bodies"), scenario, options);
        // The built-in agent, found on PATH as everybody's is.
        std::os::unix::fs::symlink(claude, space.root().join("bin/claude")).unwrap();
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

    /// A job whose tool runs just now, and whose session is on disk: killed a moment earlier,
    /// the CLI would know nothing of it.
    fn in_mid_tool() -> Option<Real> {
        let real = Real::new("tool-bash", &["--command", LONG])?;
        real.allow_bash();
        real.submit_and_start();
        real.project.wait_made("started");
        let claim = real.claim();
        let session = claim["session_id"].as_str().unwrap();
        wait_until("the tool's call in the session's file", || {
            real.transcript(session)
                .is_some_and(|text| text.contains("touch started"))
        });
        Some(real)
    }

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
        std::os::unix::fs::symlink(&settled, bin.join("claude")).unwrap();
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
        let text = self.project.claim(JOB).expect("the job is claimed");
        serde_json::from_str(text.lines().next().unwrap()).expect("a claim's first line is JSON")
    }

    /// Waits for a hold and gives it as `queue_state.json` shows it.
    #[track_caller]
    fn held(&self) -> Value {
        let view = self
            .project
            .wait_view("a hold", |view| view["hold"].is_object());
        assert_eq!(view["is_processing"], false);
        assert_eq!(view["queued_tasks"], json!([format!("{JOB}.md")]));
        view["hold"].clone()
    }

    /// Waits for the hold of a service that is ill, and for the job to wait for no time of its own.
    #[track_caller]
    fn held_as_ill(&self, kind: &str) {
        assert_eq!(self.held()["kind"], kind);
        let suspended = &self.claim()["suspended"];
        assert_eq!(suspended["kind"], kind, "{suspended:#}");
        assert_eq!(suspended["retry_at"], Value::Null);
        assert_eq!(self.project.result(JOB), None);
    }

    /// The earlier attempts ended as told, the last one completed, all in one session.
    #[track_caller]
    fn completed_in_one_session(&self, result: &Value, earlier: &[&str]) {
        assert_eq!(result["status"], "completed", "{result:#}");
        assert_eq!(result["error_kind"], Value::Null);
        assert_eq!(result["worker_output"]["summary"], ANSWER);
        let attempts = result["attempts"].as_array().unwrap();
        let kinds: Vec<&Value> = attempts.iter().map(|a| &a["error_kind"]).collect();
        let mut expected: Vec<Value> = earlier.iter().map(|kind| json!(kind)).collect();
        expected.push(Value::Null);
        assert_eq!(kinds, expected.iter().collect::<Vec<_>>());
        for attempt in attempts {
            assert_eq!(attempt["session_id"], result["session_id"]);
        }
        let log = self.space.log();
        assert!(
            log.contains(&format!("Starting job: {JOB}.md (start 2, resumed)")),
            "{log}"
        );
        self.leaves_nothing();
    }

    #[track_caller]
    fn went_on_after_interruption(&self, result: &Value) {
        self.completed_in_one_session(result, &["interrupted"]);
        assert_eq!(result["retry_count"], 0);
        assert!(!self.project.path.join("finished").exists());
        let last = self.resumed_with("interrupted");
        // The model sees the call that was cut off.
        assert!(last.contains("touch started"), "{last}");
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
        wait_until("claim and marks to be gone", || {
            let names = self.project.names(self.project.state("").as_path());
            !names.iter().any(|name| name.starts_with(JOB))
        });
        let scratch = self.project.names(&self.space.root().join("tmp"));
        assert!(
            !scratch.iter().any(|name| name.starts_with("job-monitor-")),
            "{scratch:?}"
        );
    }

    /// A word stands in none of the files that the monitor writes.
    #[track_caller]
    fn says_nowhere(&self, word: &str) {
        let files =
            ["logs", "results", "state"].map(|dir| self.project.path.join("jobs").join(dir));
        for dir in files.iter().chain([&self.space.state()]) {
            for name in self.project.names(dir) {
                let bytes = fs::read(dir.join(&name)).unwrap_or_default();
                assert!(
                    !String::from_utf8_lossy(&bytes).contains(word),
                    "{word} stands in {name}"
                );
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
        let mut child = Command::new("python3")
            .arg(script)
            .args([scenario, "--exit-with-stdin", "--bodies"])
            .arg(bodies)
            .args(options)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 is there, as was looked up");
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
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let request = format!(
            "POST /__stub__/scenario/{scenario} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\
             Connection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// The messages of every request so far that asked the model for something, in order.
    fn conversations(&self) -> Vec<Value> {
        let mut files: Vec<PathBuf> = fs::read_dir(&self.bodies)
            .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
            .unwrap_or_default();
        files.sort();
        let bodies = files.iter().filter_map(|file| {
            let body: Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
            body.get("messages").cloned()
        });
        bodies.collect()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The CLI and the stub's script, or which of them is missing.
pub fn tools() -> Result<(PathBuf, PathBuf), String> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let claude = match variable("JOB_MONITOR_CLAUDE") {
        Some(path) => PathBuf::from(path),
        None => on_path("claude").ok_or("claude is not on PATH; set JOB_MONITOR_CLAUDE")?,
    };
    let claude = fs::canonicalize(&claude).map_err(|e| format!("{}: {e}", claude.display()))?;
    let script = match variable("JOB_MONITOR_API_STUB") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/tools/messages_api_stub.py"),
    };
    let script = fs::canonicalize(&script)
        .map_err(|e| format!("{}: {e}; set JOB_MONITOR_API_STUB", script.display()))?;
    on_path("python3").ok_or("python3 is not on PATH")?;
    Ok((claude, script))
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

#[track_caller]
fn only_attempt(result: &Value) -> &Value {
    let attempts = result["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 1, "{attempts:#?}");
    &attempts[0]
}

#[track_caller]
fn time(value: &Value) -> Wall {
    value
        .as_str()
        .and_then(Wall::parse)
        .unwrap_or_else(|| panic!("{value} is no time"))
}

/// How far ahead a time is; nothing if it is over.
fn ahead(at: Wall) -> Duration {
    at.since(Wall::now())
}
