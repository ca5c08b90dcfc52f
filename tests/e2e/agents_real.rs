//! The real `codex` and `gemini` command lines against stubs of their services on loopback, as
//! `claude_real` does it for Claude Code; and the three of them side by side.
//!
//! The programs are `$JOB_MONITOR_CODEX` and `$JOB_MONITOR_GEMINI`, else those on `PATH`; the stubs lie
//! beside the one of `claude_real`. What is missing is skipped with a word, unless
//! `JOB_MONITOR_REQUIRE` lists the agent.

use crate::claude_real::{Stub, tools};
use crate::space::{MustHave, Project, Space, attempts, wait_longer};
use serde_json::{Map, Value, json};
use std::fs;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

const JOB: &str = "job-20260101-120000-sheep";
const TEXT: &str = "Count the sheep.\n";

/// What a stub answers to a job, and what that must come to.
type Row = (&'static str, &'static str);

const BOTH: &[Row] = &[
    ("text", "completed"),
    ("tool-write", "completed"),
    ("400", "invalid_request"),
    ("400-too-long", "prompt_too_long"),
    ("401", "not_authenticated"),
    ("402", "billing"),
    ("403", "not_authenticated"),
    ("404", "model_not_found"),
    ("429", "rate_limited"),
    ("429-limit", "usage_limit"),
    ("429-limit-no-time", "usage_limit"),
    ("500", "overloaded"),
    ("cut", "network"),
    ("not-json", "network"),
    ("empty", "empty_answer"),
    ("nobody", "network"),
];

const CODEX: &[Row] = &[
    ("413", "prompt_too_long"),
    ("429-plan", "billing"),
    ("429-quota", "billing"),
    ("503-overloaded", "overloaded"),
    ("stream-429", "rate_limited"),
    ("filtered", "refused"),
    ("refused-prompt", "refused"),
    ("max-tokens", "max_output_tokens"),
];

const GEMINI: &[Row] = &[
    ("400-key", "not_authenticated"),
    ("503-html", "overloaded"),
    ("no-end", "network"),
    ("malformed", "agent_error"),
    ("refusal", "refused"),
];

#[test]
fn what_codex_makes_of_its_service_s_answers_is_judged_rightly() {
    each_row("codex", &[BOTH, CODEX].concat());
}

#[test]
fn what_gemini_makes_of_its_service_s_answers_is_judged_rightly() {
    each_row("gemini", &[BOTH, GEMINI].concat());
}

fn each_row(name: &str, rows: &[Row]) {
    let Some(real) = Real::new(name) else { return };
    let space = &real.space;
    // An agent for each, so that the holds of one do not keep the others.
    let mut agents = Map::new();
    let mut projects = Vec::new();
    for (scenario, _) in rows {
        agents.insert(format!("{name}-{scenario}"), real.agent(scenario));
        let keys = json!({"agent": format!("{name}-{scenario}")});
        let project = space.project_with(&format!("p-{scenario}"), keys);
        project.submit(JOB, TEXT);
        projects.push(project);
    }
    space.set(json!({"agents": agents, "max_parallel": 2, "breaker": 0}));
    space.start();
    for ((scenario, expected), project) in rows.iter().zip(&projects) {
        let what = format!("{name} {scenario}");
        // How its first start ended: a service that is ill may have been asked again meanwhile.
        let suspended = || project.claimed(JOB)?["attempts"].get(0).cloned();
        // Each start of these programs takes half a minute on a busy machine, and this may be the last.
        let bound = Duration::from_secs(30) * rows.len() as u32;
        let told = wait_longer(bound, &what, || project.result(JOB).or_else(suspended));
        // A claim that was going may have been read; the result is there by then.
        let told = project.result(JOB).unwrap_or(told);
        let kind = told.get("error_kind").or(told.get("kind")).unwrap();
        match *expected {
            "completed" => {
                assert_eq!(told["status"], "completed", "{what}: {told:#}");
                let output = &told["worker_output"];
                let input = &output["usage"]["input_tokens"];
                assert!(input.as_u64() > Some(0), "{told:#}");
                assert_eq!(output["cost_usd"], Value::Null, "{what}");
                let are_told = told["session_id"].is_string() && told["model"].is_string();
                assert!(are_told, "{told:#}");
            }
            expected => assert_eq!(kind, expected, "{what}: {told:#}"),
        }
        if *scenario == "tool-write" {
            assert_eq!(told["artifacts"], json!(["stub-output.txt"]), "{what}");
            assert!(project.path.join("stub-output.txt").exists());
        }
    }
    space.stop();
    space.assert_no_survivor();
}

#[test]
fn a_session_of_either_goes_on_after_a_kill_in_mid_tool_and_cancel_ends_the_tool() {
    for name in ["codex", "gemini"] {
        let Some(real) = Real::new(name) else {
            continue;
        };
        let space = &real.space;
        let mut agent = real.agent("tool-slow");
        // Files that a test may keep an eye on are written by a shell, which these modes allow.
        let own = match name {
            "codex" => ["--sandbox", "danger-full-access"],
            _ => ["--approval-mode", "yolo"],
        };
        let args = agent["args"].as_array_mut().unwrap();
        args.extend(own.map(Value::from));
        space.set(json!({"agents": {name: agent}, "agent": name, "grace": "2s"}));
        let project = space.project("alpha");
        project.submit(JOB, TEXT);
        space.start();
        let started = project.path.join("stub-output.txt.started");
        let is_started = || started.exists().then_some(());
        wait_longer(Duration::from_secs(120), "the tool", is_started);
        space.kill();
        space.start();
        let result = finished(&project, JOB);
        let same_session = json!({"session_id": attempts(&result)[0]["session_id"]});
        result.must_have(json!({"status": "completed", "attempts": [{}, same_session]}));
        space.log().must_have("(start 2, resumed)");

        fs::remove_file(&started).unwrap();
        let next = "job-20260101-120001-next";
        project.submit(next, &format!("---\ncontinues: {JOB}\n---\n{TEXT}"));
        wait_longer(Duration::from_secs(120), "the tool", is_started);
        space.run(&["cancel", next]).ok();
        let session = &result["session_id"];
        let cancelled = finished(&project, next);
        cancelled.must_have(json!({"status": "cancelled", "session_id": session}));
        space.assert_no_survivor();
    }
}

/// Of codex the session goes on after a hold; of gemini there is none before the first answer.
#[test]
fn either_goes_on_after_a_hold_and_is_sent_back_by_its_check() {
    for (name, resumes) in [("codex", true), ("gemini", false)] {
        let Some(real) = Real::new(name) else {
            continue;
        };
        let space = &real.space;
        let check = "echo x >> checks; echo 'two tests fail'; [ $(wc -l < checks) -ge 2 ]";
        let check = space.program("check", check);
        let agents = |scenario: &str| json!({"agents": {name: real.agent(scenario)}});
        space.set(agents("429-limit"));
        space.set(json!({"agent": name, "check": [check]}));
        let project = space.project("alpha");
        project.submit(JOB, TEXT);
        space.start();
        let hold = wait_longer(Duration::from_secs(120), "the hold", || {
            let hold = project.view()["hold"].clone();
            (hold["kind"] == "usage_limit").then_some(hold)
        });
        assert!(hold["until"].is_string(), "{name}: {hold}");
        space.set(agents("text"));
        space.wait_log("the settings have changed");
        space.run(&["release", JOB]).ok();
        let result = finished(&project, JOB);
        result.must_have(json!({
            "status": "completed", "checks": [{}, {}],
            "attempts": [{"error_kind": "usage_limit"}, {}, {}],
        }));
        let session = |at: usize| attempts(&result)[at]["session_id"].as_str();
        assert_eq!(session(0) == session(1), resumes, "{name}: {result:#}");
        assert_eq!(session(1), session(2), "{name}: {result:#}");
        assert!(session(2).is_some(), "{name}: {result:#}");
    }
}

#[test]
fn three_agents_work_side_by_side_in_three_projects() {
    let claude = tools("claude", "messages_api_stub.py");
    let (Some(codex), Some((claude, script))) = (Real::new("codex"), claude) else {
        return;
    };
    let Some(gemini) = Real::in_space("gemini", &codex.space) else {
        return;
    };
    let space = &codex.space;
    let stub = Stub::start(&script, &space.root().join("claude-bodies"), "text", &[]);
    let claude = json!({"command": [claude], "env": {
        "ANTHROPIC_BASE_URL": format!("http://127.0.0.1:{}", stub.port), "ANTHROPIC_API_KEY": "dummy-key",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    }, "protocol": "claude"});
    space.set(json!({"agents": {"claude": claude, "codex": codex.agent("text"), "gemini": gemini.agent("text")}}));
    let names = ["claude", "codex", "gemini"];
    let projects = names.map(|name| space.project_with(name, json!({"agent": name})));
    space.start();
    let file = space.file("job.md", TEXT);
    let submit = |name| space.run(&["-p", name, "submit", &file]).ok();
    let submitted = names.map(submit);
    for (project, told) in projects.iter().zip(&submitted) {
        let id = told.lines().last().unwrap().trim();
        finished(project, id).must_have(json!({
            "status": "completed", "agent": project.name,
            "worker_output": {"summary": "The task is done."},
        }));
        let shown = space.run(&["-p", &project.name, "logs", id]).ok();
        shown.must_have("The task is done.");
    }
}

/// Each start of these programs takes seconds on a busy machine.
#[track_caller]
fn finished(project: &Project, id: &str) -> Value {
    let what = format!("the result of {id}");
    wait_longer(Duration::from_secs(240), &what, || project.result(id))
}

/// A space, and the real program of an agent with the stub that it talks to.
struct Real {
    name: &'static str,
    program: PathBuf,
    stub: Stub,
    space: Rc<Space>,
}

impl Real {
    /// `None`, and a word about it, where program or stub are missing.
    fn new(name: &str) -> Option<Real> {
        Real::in_space(name, &Rc::new(Space::new()))
    }

    fn in_space(name: &str, space: &Rc<Space>) -> Option<Real> {
        let (name, script) = match name {
            "codex" => ("codex", "responses_api_stub.py"),
            _ => ("gemini", "gemini_api_stub.py"),
        };
        let (program, script) = tools(name, script)?;
        let home = space.home();
        let options = ["--file", "stub-output.txt", "--seconds", "4"];
        let options = [&["--home", home.to_str().unwrap()], &options[..]].concat();
        let bodies = space.root().join(format!("{name}-bodies"));
        Some(Real {
            name,
            program,
            stub: Stub::start(&script, &bodies, "text", &options),
            space: space.clone(),
        })
    }

    /// An entry of `agents` whose service plays a scenario; `nobody` is a service that is not there.
    fn agent(&self, scenario: &str) -> Value {
        let url = match scenario {
            "nobody" => "http://127.0.0.1:9".to_owned(),
            _ => format!("http://127.0.0.1:{}/{scenario}", self.stub.port),
        };
        match self.name {
            "codex" => json!({"command": [self.program], "env": {"STUB_KEY": "dummy"},
                "args": ["-c", format!("model_providers.stub.base_url={url}/v1")]}),
            _ => json!({"command": [self.program], "args": [],
                "env": {"GEMINI_API_KEY": "dummy", "GOOGLE_GEMINI_BASE_URL": url, "NO_COLOR": "1"}}),
        }
    }
}
