//! The real `codex` and `gemini` command lines against stubs of their services on loopback, as
//! `claude_real` does it for Claude Code; and the three of them side by side.
//!
//! The programs are `$JOB_MONITOR_CODEX` and `$JOB_MONITOR_GEMINI`, else those on `PATH`; the stubs lie
//! beside the one of `claude_real`. What is missing is skipped with a word, unless
//! `JOB_MONITOR_REQUIRE` lists the agent.

use crate::claude_real::{Stub, tools};
use crate::space::{Project, Space, lacks, wait_longer};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;

const JOB: &str = "job-20260101-120000-sheep";
const TEXT: &str = "Count the sheep.\n";

/// What a stub answers to a job, and what that must come to.
type Row = (&'static str, &'static str);

const CODEX: &[Row] = &[
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
    ("429-plan", "billing"),
    ("429-quota", "billing"),
    ("413", "prompt_too_long"),
    ("500", "overloaded"),
    ("503-overloaded", "overloaded"),
    ("cut", "network"),
    ("not-json", "network"),
    ("stream-429", "rate_limited"),
    ("filtered", "refused"),
    ("refused-prompt", "refused"),
    ("max-tokens", "max_output_tokens"),
    ("empty", "empty_answer"),
    ("nobody", "network"),
];

const GEMINI: &[Row] = &[
    ("text", "completed"),
    ("tool-write", "completed"),
    ("400", "invalid_request"),
    ("400-key", "not_authenticated"),
    ("400-too-long", "prompt_too_long"),
    ("401", "not_authenticated"),
    ("402", "billing"),
    ("403", "not_authenticated"),
    ("404", "model_not_found"),
    ("429", "rate_limited"),
    ("429-limit", "usage_limit"),
    ("429-limit-no-time", "usage_limit"),
    ("500", "overloaded"),
    ("503-html", "overloaded"),
    ("cut", "network"),
    ("no-end", "network"),
    ("not-json", "network"),
    ("malformed", "agent_error"),
    ("refusal", "refused"),
    ("empty", "empty_answer"),
    ("nobody", "network"),
];

#[test]
fn what_codex_makes_of_its_service_s_answers_is_judged_rightly() {
    each_row("codex", CODEX);
}

#[test]
fn what_gemini_makes_of_its_service_s_answers_is_judged_rightly() {
    each_row("gemini", GEMINI);
}

fn each_row(name: &str, rows: &[Row]) {
    let Some(real) = Real::new(name) else { return };
    // An agent for each, so that the holds of one do not keep the others.
    let agents = rows
        .iter()
        .map(|(scenario, _)| (format!("{name}-{scenario}"), real.agent(scenario)));
    let agents: serde_json::Map<String, Value> = agents.collect();
    real.space
        .set(json!({"agents": agents, "max_parallel": 2, "breaker": 0}));
    let project = |(scenario, _): &Row| {
        let keys = json!({"agent": format!("{name}-{scenario}")});
        real.space.project_with(&format!("p-{scenario}"), keys)
    };
    let projects: Vec<Project> = rows.iter().map(project).collect();
    projects
        .iter()
        .for_each(|project| project.submit(JOB, TEXT));
    real.space.start();
    for ((scenario, expected), project) in rows.iter().zip(&projects) {
        let what = format!("{name} {scenario}");
        // How its first start ended: a service that is ill may have been asked again meanwhile.
        let suspended = || -> Option<Value> {
            let claim: Value = serde_json::from_str(project.claim(JOB)?.lines().next()?).ok()?;
            claim["attempts"].get(0).cloned()
        };
        // Each start of these programs takes half a minute on a busy machine, and this may be the last.
        let bound = Duration::from_secs(30) * rows.len() as u32;
        wait_longer(bound, &what, || {
            (project.result(JOB).is_some() || suspended().is_some()).then_some(())
        });
        let result = project.result(JOB);
        let told = result
            .as_ref()
            .map_or_else(|| suspended().unwrap_or_default(), Clone::clone);
        let kind = told.get("error_kind").or(told.get("kind")).unwrap();
        match *expected {
            "completed" => {
                assert_eq!(told["status"], "completed", "{what}: {told:#}");
                assert!(
                    told["worker_output"]["usage"]["input_tokens"].as_u64() > Some(0),
                    "{told:#}"
                );
                assert_eq!(told["worker_output"]["cost_usd"], Value::Null, "{what}");
                assert!(
                    told["session_id"].is_string() && told["model"].is_string(),
                    "{told:#}"
                );
            }
            expected => assert_eq!(kind, expected, "{what}: {told:#}"),
        }
        if *scenario == "tool-write" {
            assert_eq!(told["artifacts"], json!(["stub-output.txt"]), "{what}");
            assert!(project.path.join("stub-output.txt").exists());
        }
    }
    real.space.stop();
    real.space.assert_no_survivor();
}

#[test]
fn a_session_of_either_goes_on_after_a_kill_in_mid_tool_and_cancel_ends_the_tool() {
    for name in ["codex", "gemini"] {
        let Some(real) = Real::new(name) else {
            continue;
        };
        let mut agent = real.agent("tool-slow");
        // Files that a test may keep an eye on are written by a shell, which these modes allow.
        let own = match name {
            "codex" => ["--sandbox", "danger-full-access"],
            _ => ["--approval-mode", "yolo"],
        };
        agent["args"]
            .as_array_mut()
            .unwrap()
            .extend(own.map(Value::from));
        real.space
            .set(json!({"agents": {name: agent}, "agent": name, "grace": "2s"}));
        let project = real.space.project("alpha");
        project.submit(JOB, TEXT);
        real.space.start();
        let started = project.path.join("stub-output.txt.started");
        let is_started = || started.exists().then_some(());
        wait_longer(Duration::from_secs(120), "the tool", is_started);
        real.space.kill();
        real.space.start();
        let result = finished(&project, JOB);
        assert_eq!(result["status"], "completed", "{name}: {result:#}");
        let attempts = result["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 2, "{name}: {attempts:#?}");
        assert_eq!(
            attempts[0]["session_id"], attempts[1]["session_id"],
            "{name}"
        );
        assert!(real.space.log().contains("(start 2, resumed)"), "{name}");

        std::fs::remove_file(project.path.join("stub-output.txt.started")).unwrap();
        let next = "job-20260101-120001-next";
        project.submit(next, &format!("---\ncontinues: {JOB}\n---\n{TEXT}"));
        let started = project.path.join("stub-output.txt.started");
        let is_started = || started.exists().then_some(());
        wait_longer(Duration::from_secs(120), "the tool", is_started);
        real.space.run(&["cancel", next]).ok();
        let cancelled = finished(&project, next);
        assert_eq!(cancelled["status"], "cancelled", "{name}");
        assert_eq!(cancelled["session_id"], result["session_id"], "{name}");
        real.space.assert_no_survivor();
    }
}

/// Of codex the session goes on after a hold; of gemini there is none before the first answer.
#[test]
fn either_goes_on_after_a_hold_and_is_sent_back_by_its_check() {
    for (name, resumes) in [("codex", true), ("gemini", false)] {
        let Some(real) = Real::new(name) else {
            continue;
        };
        let check = "echo x >> checks; echo 'two tests fail'; [ $(wc -l < checks) -ge 2 ]";
        let check = real.space.program("check", check);
        let agents = |scenario: &str| json!({"agents": {name: real.agent(scenario)}});
        real.space.set(agents("429-limit"));
        real.space.set(json!({"agent": name, "check": [check]}));
        let project = real.space.project("alpha");
        project.submit(JOB, TEXT);
        real.space.start();
        let hold = wait_longer(Duration::from_secs(120), "the hold", || {
            let hold = project.view()["hold"].clone();
            (hold["kind"] == "usage_limit").then_some(hold)
        });
        assert!(hold["until"].is_string(), "{name}: {hold}");
        real.space.set(agents("text"));
        real.space.wait_log("the settings have changed");
        real.space.run(&["release", JOB]).ok();
        let result = finished(&project, JOB);
        assert_eq!(result["status"], "completed", "{name}: {result:#}");
        assert_eq!(result["checks"].as_array().unwrap().len(), 2);
        let attempts = result["attempts"].as_array().unwrap();
        assert_eq!(attempts.len(), 3, "{name}: {attempts:#?}");
        assert_eq!(attempts[0]["error_kind"], "usage_limit");
        let session = |at: usize| attempts[at]["session_id"].as_str();
        assert_eq!(session(0) == session(1), resumes, "{name}: {attempts:#?}");
        assert_eq!(session(1), session(2), "{name}: {attempts:#?}");
        assert!(session(2).is_some(), "{name}: {attempts:#?}");
    }
}

#[test]
fn three_agents_work_side_by_side_in_three_projects() {
    let (Some(codex), Ok((claude, script))) = (Real::new("codex"), tools()) else {
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
    let file = space.root().join("job.md");
    std::fs::write(&file, TEXT).unwrap();
    let submit = |project: &&str| {
        let submit = ["-p", project, "submit", file.to_str().unwrap()];
        let id = space.run(&submit).ok();
        id.lines().last().unwrap().trim().to_owned()
    };
    let ids: Vec<String> = names.iter().map(submit).collect();
    for (project, id) in projects.iter().zip(&ids) {
        let result = finished(project, id);
        assert_eq!(result["status"], "completed", "{result:#}");
        assert_eq!(result["agent"], *project.name, "{result:#}");
        assert_eq!(result["worker_output"]["summary"], "The task is done.");
        let shown = space.run(&["-p", &project.name, "logs", id]).ok();
        assert!(shown.contains("The task is done."), "{shown}");
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
    space: std::rc::Rc<Space>,
}

impl Real {
    /// `None`, and a word about it, where program or stub are missing.
    fn new(name: &str) -> Option<Real> {
        Real::in_space(name, &std::rc::Rc::new(Space::new()))
    }

    fn in_space(name: &str, space: &std::rc::Rc<Space>) -> Option<Real> {
        let (name, variable, script) = match name {
            "codex" => ("codex", "JOB_MONITOR_CODEX", "responses_api_stub.py"),
            _ => ("gemini", "JOB_MONITOR_GEMINI", "gemini_api_stub.py"),
        };
        let beside = match std::env::var_os("JOB_MONITOR_API_STUB") {
            Some(stub) => PathBuf::from(stub),
            None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/tools/x"),
        };
        let script = beside.with_file_name(script);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let on_path = || {
            std::env::split_paths(&path)
                .map(|dir| dir.join(name))
                .find(|file| file.is_file())
        };
        let program = std::env::var_os(variable)
            .map(PathBuf::from)
            .or_else(on_path);
        let Some(program) = program.filter(|_| script.is_file()) else {
            lacks(
                name,
                &format!("{name} or {} is missing; set {variable}", script.display()),
            );
            return None;
        };
        let home = space.home();
        let options = [
            "--home",
            home.to_str().unwrap(),
            "--file",
            "stub-output.txt",
            "--seconds",
            "4",
        ];
        let stub = Stub::start(
            &script,
            &space.root().join(format!("{name}-bodies")),
            "text",
            &options,
        );
        let space = space.clone();
        Some(Real {
            name,
            program,
            stub,
            space,
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
