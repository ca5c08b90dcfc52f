//! `doctor` finds what stops jobs, tells each finding once, and gives remedies that work when they
//! are pasted.

use crate::space::{Ran, Space, job_monitor};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

const SECRET: &str = "s3cret-0123456789";

/// Claude Code as far as `doctor` asks it.
const CLAUDE: &str = r#"
case $1 in
--version) echo "9.9.9 (Claude Code)" ;;
auth) [ -e "$HOME/logged-in" ] || { echo '{"loggedIn": false}'; exit 1; } ;;
esac"#;

/// A space on a machine whose service manager is ours to define; at first there is none.
fn space() -> Space {
    let space = Space::new();
    let bin = space.root().join("bin");
    space.env("PATH", &format!("{}:/usr/bin:/bin", bin.display()));
    symlink(job_monitor(), bin.join("job-monitor")).unwrap();
    space.program("systemctl", "echo 'Failed to connect to bus' >&2; exit 1");
    space
}

/// A service manager that knows our unit, in the state given.
fn systemd(space: &Space, load: &str, active: &str, enabled: &str) {
    space.program(
        "systemctl",
        &format!("echo ActiveState={active}; echo LoadState={load}; echo UnitFileState={enabled}; echo NeedDaemonReload=no"),
    );
}

fn doctor(space: &Space) -> (Ran, Vec<Value>) {
    let ran = space.run(&["doctor", "--json"]);
    let findings = ran.json()["findings"].as_array().unwrap().clone();
    (ran, findings)
}

/// The findings of a check that are not in order.
fn bad(space: &Space, check: &str) -> Vec<Value> {
    let (_, findings) = doctor(space);
    let is_bad = |finding: &Value| finding["check"] == check && finding["level"] != "ok";
    findings.into_iter().filter(is_bad).collect()
}

/// The only finding of a check that is not in order: of the level wanted, and saying this.
#[track_caller]
fn finding(space: &Space, check: &str, level: &str, says: &str) -> Value {
    let found = bad(space, check);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["level"], level, "{found:?}");
    let message = found[0]["message"].as_str().unwrap();
    assert!(message.contains(says), "{says:?}: {message:?}");
    found[0].clone()
}

fn remedy(finding: &Value) -> &str {
    finding["remedy"].as_str().expect("there is a remedy")
}

/// Does what a person does with a remedy, in a shell with more variables than the service has, and
/// sees that it helped.
#[track_caller]
fn mend(space: &Space, finding: &Value, more: &[(&str, &str)]) {
    let bin = space.root().join("bin");
    let output = Command::new("sh")
        .args(["-c", remedy(finding)])
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .env("HOME", space.home())
        .env("MONITOR_SYSTEM_ROOT", space.config())
        .envs(more.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success(), "{finding}: {output:?}");
    assert_eq!(
        bad(space, finding["check"].as_str().unwrap()),
        [Value::Null; 0]
    );
}

fn log_in(space: &Space) {
    fs::write(space.home().join("logged-in"), "").unwrap();
}

#[test]
fn a_monitor_in_order_has_nothing_to_mend_and_says_each_thing_once() {
    let space = space();
    systemd(&space, "loaded", "active", "enabled");
    space.claude(CLAUDE);
    log_in(&space);
    space.credentials(&format!("OTHER_KEY={SECRET}\n"), 0o600);
    for name in ["alpha", "beta", "gamma"] {
        space.project(name);
    }
    space.start();
    let (ran, findings) = doctor(&space);
    assert_eq!(ran.status, 0, "{ran:?}");
    // These are the machine's that runs the tests.
    let not_ours = ["disk", "inotify", "lingering"].map(Value::from);
    let ours = |finding: &&Value| !not_ours.contains(&finding["check"]);
    for finding in findings.iter().filter(ours) {
        assert_eq!(finding["level"], "ok", "{finding}");
    }
    let text = space.run(&["doctor"]).ok();
    for wanted in [
        "\nAgent claude\n",
        "bin/claude, 9.9.9 (Claude Code)\n",
        "the agent is logged in\n",
        "  ok      projects    3 projects in order\n",
        "  ok      holds       nobody is held\n",
        "\nNothing stops jobs",
    ] {
        assert_eq!(text.matches(wanted).count(), 1, "{wanted:?}: {text}");
    }
    assert!(
        text.contains(&format!("runs (pid {})", space.pid())),
        "{text}"
    );
    assert!(!text.contains(SECRET) && !ran.stdout.contains(SECRET));
    assert_eq!(space.run(&["doctor", "-p", "nobody"]).status, 3);
}

#[test]
fn what_starts_the_monitor_is_told() {
    let space = space();
    space.claude(CLAUDE);
    let daemon = finding(&space, "daemon", "problem", "is not running");
    assert_eq!(remedy(&daemon), "job-monitor daemon");
    assert_eq!(doctor(&space).0.status, 1);
    finding(&space, "service", "warning", "Failed to connect to bus");
    finding(&space, "registry", "warning", "0 projects");
    for (load, active, enabled, says) in [
        ("not-found", "inactive", "", "nothing starts the monitor"),
        ("masked", "inactive", "masked", "nothing starts the monitor"),
        ("loaded", "inactive", "enabled", "is enabled and inactive"),
        ("loaded", "active", "disabled", "is disabled and active"),
        ("loaded", "failed", "enabled", "does not stay up"),
    ] {
        systemd(&space, load, active, enabled);
        finding(&space, "service", "warning", says);
    }
    fs::remove_file(space.root().join("bin/systemctl")).unwrap();
    space.env("PATH", &space.root().join("bin").display().to_string());
    finding(&space, "service", "warning", "there is no systemctl here");
}

#[test]
fn an_agent_that_only_the_shell_finds_and_logs_in_is_mended_by_the_remedies() {
    let space = space();
    space.project("alpha");
    space.start();
    let program = space.program("claude", CLAUDE);
    let elsewhere = space.root().join("it's elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::rename(&program, elsewhere.join("claude")).unwrap();
    let bin = space.root().join("bin");
    let path = format!("{}:{}:/usr/bin:/bin", elsewhere.display(), bin.display());
    space.env("PATH", &path);
    let found = finding(&space, "program", "problem", "this shell finds it in");
    mend(&space, &found, &[]);
    // The remedy made a credentials file that is safe.
    assert_eq!(bad(&space, "credentials"), Vec::<Value>::new());
    let login = finding(
        &space,
        "login",
        "problem",
        "no credentials in the environment of the running",
    );
    assert_eq!(
        (&login["agent"], remedy(&login)),
        (&json!("claude"), "claude")
    );
    let key = ("ANTHROPIC_API_KEY", SECRET);
    space.env(key.0, key.1);
    let login = finding(
        &space,
        "login",
        "problem",
        "ANTHROPIC_API_KEY is only in this shell's",
    );
    mend(&space, &login, &[key]);
    let (ran, _) = doctor(&space);
    assert!(!ran.stdout.contains(SECRET), "{ran:?}");
}

#[test]
fn an_agent_that_cannot_run_is_told_of() {
    let space = space();
    for (text, says) in [
        (
            "#!/usr/bin/env no-such-interpreter\n",
            "no-such-interpreter",
        ),
        ("#!/nowhere/sh\n", "needs /nowhere/sh, which is not there"),
        (
            "#!/bin/sh\nexit 3\n",
            "fails (exit status: 3): it says nothing",
        ),
    ] {
        let path = space.executable("claude", text);
        finding(&space, "program", "problem", says);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        finding(&space, "program", "problem", "claude is not on the PATH");
    }
}

#[test]
fn no_secret_is_shown_whatever_the_agent_says() {
    let space = space();
    space.credentials(&format!("ANTHROPIC_API_KEY={SECRET}\n"), 0o600);
    space.set(json!({"agents": {"claude": {"env": {"OTHER": "other-s3cret"}}}}));
    for body in [
        "echo \"bad key $ANTHROPIC_API_KEY and $OTHER\" >&2; exit 1",
        "echo 1.0 $OTHER",
    ] {
        space.claude(body);
        for args in [&["doctor"][..], &["doctor", "--json"]] {
            let ran = space.run(args);
            assert!(ran.stdout.contains("***"), "{ran:?}");
            for secret in [SECRET, "other-s3cret"] {
                assert!(!ran.stdout.contains(secret) && !ran.stderr.contains(secret));
            }
        }
    }
    // A line of the file that cannot be read may be all secret.
    space.credentials(&format!("A=1\n{SECRET}\n"), 0o600);
    let ran = space.run(&["doctor"]);
    assert!(ran.stdout.contains(".env line 2"), "{ran:?}");
    assert!(!ran.stdout.contains(SECRET) && !ran.stderr.contains(SECRET));
}

#[test]
fn files_and_directories_that_others_can_write_or_that_are_gone_are_mended_by_the_remedy() {
    let space = space();
    space.plain_agent("cat");
    let project = space.project("it's here");
    space.credentials(&format!("A_KEY={SECRET}\n"), 0o644);
    let found = finding(&space, "credentials", "problem", "is open to others");
    mend(&space, &found, &[]);
    let results = project.results("");
    fs::set_permissions(&results, fs::Permissions::from_mode(0o777)).unwrap();
    let found = finding(&space, "directories", "problem", "can be written by others");
    assert_eq!(found["project"], "it's here");
    mend(&space, &found, &[]);
    let items = project.item("");
    fs::remove_dir(&items).unwrap();
    let found = finding(
        &space,
        "directories",
        "problem",
        "no such file or directory",
    );
    let queue = space.run(&["queue"]).ok();
    assert!(queue.contains("was removed; make it again"), "{queue}");
    assert!(!items.exists(), "looking makes nothing");
    mend(&space, &found, &[]);
    fs::rename(&project.path, space.root().join("moved")).unwrap();
    let found = finding(
        &space,
        "directories",
        "problem",
        "no such file or directory",
    );
    mend(&space, &found, &[]);
    fs::set_permissions(space.config(), fs::Permissions::from_mode(0o777)).unwrap();
    let found = finding(&space, "directories", "problem", "can be written by others");
    assert_eq!(found["project"], Value::Null);
    mend(&space, &found, &[]);
}

#[test]
fn a_command_that_the_prompt_calls_is_looked_for() {
    let space = space();
    space.claude(CLAUDE);
    let project = space.project("alpha");
    // Our own skill is a choice.
    assert_eq!(bad(&space, "skill"), Vec::<Value>::new());
    space.set(json!({"agents": {"claude": {"prompt": "/tidy {content}"}}}));
    finding(&space, "skill", "warning", "calls /tidy");
    fs::create_dir_all(project.path.join(".claude/commands")).unwrap();
    fs::write(project.path.join(".claude/commands/tidy.md"), "Tidy up.").unwrap();
    assert_eq!(bad(&space, "skill"), Vec::<Value>::new());
}

#[test]
fn tools_that_a_project_allows_count_once_its_workspace_is_trusted() {
    let space = space();
    space.claude(CLAUDE);
    let project = space.project("alpha");
    let settings = project.path.join(".claude/settings.json");
    fs::create_dir_all(settings.parent().unwrap()).unwrap();
    fs::write(&settings, r#"{"permissions": {"allow": []}}"#).unwrap();
    assert_eq!(bad(&space, "trust"), Vec::<Value>::new());
    fs::write(
        &settings,
        r#"{"permissions": {"allow": ["Bash(cargo *)"]}}"#,
    )
    .unwrap();
    let config = |accepted: bool| {
        let path = project.path.display().to_string();
        let projects = json!({path: {"hasTrustDialogAccepted": accepted}});
        let text = json!({"numStartups": 3, "projects": projects}).to_string();
        fs::write(space.home().join(".claude.json"), text).unwrap();
    };
    config(false);
    let found = finding(
        &space,
        "trust",
        "warning",
        "once the agent trusts the directory",
    );
    assert_eq!(
        remedy(&found),
        format!("cd {} && claude", project.path.display())
    );
    config(true);
    assert_eq!(bad(&space, "trust"), Vec::<Value>::new());
    // The agent's own variable moves the place of the answer.
    space.credentials("CLAUDE_CONFIG_DIR=/nowhere\n", 0o600);
    finding(
        &space,
        "trust",
        "warning",
        "once the agent trusts the directory",
    );
    fs::write(&settings, "{").unwrap();
    finding(&space, "trust", "warning", "the agent ignores");
}

#[test]
fn a_plain_agent_and_a_launcher_are_found_and_never_started() {
    let space = space();
    let ran = space.root().join("ran");
    space.plain_agent(&format!("touch {}", ran.display()));
    space.project("alpha");
    space.start();
    let program = space.root().join("bin/agent");
    for keys in [
        json!({"command": [program]}),
        json!({"command": [program, "claude"], "protocol": "claude"}),
    ] {
        space.set(json!({"agents": {"agent": keys}}));
        let (outcome, findings) = doctor(&space);
        assert_eq!(outcome.status, 0, "{outcome:?}");
        assert!(!findings.iter().any(|finding| finding["check"] == "login"));
    }
    assert!(!ran.exists());
    space.set(json!({"agents": {"agent": {"command": ["no-such-program"]}}}));
    finding(
        &space,
        "program",
        "problem",
        "no-such-program is not on the PATH",
    );
}

#[test]
fn an_agent_that_the_settings_list_is_checked_also_where_nobody_uses_it_yet() {
    let space = space();
    space.claude(CLAUDE);
    log_in(&space);
    space.project("alpha");
    let listed = json!({"spare": {"command": ["no-such-spare"]}});
    space.set(json!({"agents": listed}));
    finding(
        &space,
        "program",
        "problem",
        "no-such-spare is not on the PATH",
    );
    // Of those that are built in, only the one in use is asked for.
    let text = space.run(&["doctor"]).stdout;
    assert!(
        text.contains("\nAgent spare\n") && !text.contains("\nAgent codex\n"),
        "{text}"
    );
}

#[test]
fn each_agent_in_use_is_asked_in_its_own_way_whether_somebody_is_logged_in() {
    let space = space();
    let codex = r#"case "$*" in --version) echo codex-cli 9.9.9 ;; 'login status') [ -e "$HOME/logged-in" ] ;; *) exit 9 ;; esac"#;
    space.program("codex", codex);
    space.program("gemini", "[ \"$*\" = --version ] && echo 8.8.8");
    for agent in ["codex", "gemini"] {
        space.project_with(agent, json!({ "agent": agent }));
    }
    space.claude(CLAUDE);
    log_in(&space);
    // Codex and Claude Code tell it themselves; of Gemini the file of its login must do.
    let login = finding(&space, "login", "problem", "no credentials");
    assert_eq!(
        (&login["agent"], remedy(&login)),
        (&json!("gemini"), "gemini")
    );
    fs::create_dir(space.home().join(".gemini")).unwrap();
    fs::write(space.home().join(".gemini/oauth_creds.json"), "{}").unwrap();
    assert_eq!(bad(&space, "login"), [Value::Null; 0]);
    fs::remove_file(space.home().join("logged-in")).unwrap();
    let missing: Vec<_> = bad(&space, "login")
        .iter()
        .map(|one| one["agent"].clone())
        .collect();
    assert_eq!(missing, ["claude", "codex"]);
    space.credentials(
        &format!("CODEX_API_KEY={SECRET}\nANTHROPIC_API_KEY={SECRET}\n"),
        0o600,
    );
    assert_eq!(bad(&space, "login"), [Value::Null; 0]);
    let text = space.run(&["doctor"]).stdout;
    for version in ["bin/codex, codex-cli 9.9.9\n", "bin/gemini, 8.8.8\n"] {
        assert!(text.contains(version), "{text}");
    }
}

#[test]
fn gemini_is_to_be_told_that_a_quota_is_not_slept_out() {
    let space = space();
    space.program("gemini", "echo 0.9.9");
    space.set(json!({"agent": "gemini"}));
    space.credentials(&format!("GEMINI_API_KEY={SECRET}\n"), 0o600);
    let settings = space.home().join(".gemini/settings.json");
    fs::create_dir_all(settings.parent().unwrap()).unwrap();
    for text in ["", "{", "{}", r#"{"general": {"maxAttempts": 10}}"#] {
        fs::write(&settings, text).unwrap();
        let found = finding(&space, "settings", "warning", "\"maxAttempts\": 1");
        assert!(remedy(&found).ends_with(".gemini/settings.json"), "{found}");
    }
    fs::write(&settings, r#"{"general": {"maxAttempts": 1}}"#).unwrap();
    assert_eq!(bad(&space, "settings"), [Value::Null; 0]);
}

#[test]
fn settings_that_nobody_knows_and_broken_files_are_named() {
    let space = space();
    space.plain_agent("cat");
    space.project("alpha");
    space.set(json!({"timeuot": "1h"}));
    finding(&space, "settings", "warning", "\"timeuot\"");
    for (name, check) in [("config.json", "settings"), ("registered.json", "registry")] {
        fs::write(space.config().join(name), "{").unwrap();
        let found = finding(&space, check, "problem", name);
        assert!(remedy(&found).ends_with(name), "{found}");
    }
}

#[test]
fn a_bad_entry_or_setting_of_one_project_is_its_own_problem() {
    let space = space();
    space.plain_agent("cat");
    space.project("alpha");
    space.project_with("beta", json!({"timeout": 5}));
    space.project_with("gamma", json!({"enabled": false, "timeout": 5}));
    space.edit_registry(|projects| {
        projects.insert("delta".to_owned(), json!({"path": "relative"}));
    });
    let found = finding(&space, "settings", "problem", "timeout");
    assert_eq!(found["project"], "beta");
    finding(&space, "registry", "problem", "\"delta\"");
    let (_, findings) = doctor(&space);
    let gamma: Vec<_> = findings
        .iter()
        .filter(|f| f["project"] == "gamma")
        .collect();
    assert_eq!(gamma.len(), 1, "{gamma:?}");
    assert_eq!(remedy(gamma[0]), "job-monitor enable gamma");
    let one = space.run(&["doctor", "-p", "alpha", "--json"]).json();
    let mut others = one["findings"].as_array().unwrap().iter();
    assert!(others.all(|f| f["project"] == Value::Null || f["project"] == "alpha"));
}

#[test]
fn a_day_s_budget_that_is_used_up_and_holds_in_force_stop_jobs() {
    let space = space();
    let result = json!({"type": "result", "subtype": "success", "is_error": false, "num_turns": 1,
        "result": "Done.", "total_cost_usd": 2.0, "session_id": "s"});
    space.claude(&format!("{CLAUDE}\n[ $1 != -p ] || echo '{result}'"));
    log_in(&space);
    space.set(json!({"daily_budget_usd": 1}));
    let project = space.project("alpha");
    space.start();
    project.submit("job-20260101-120000-dear", "x");
    project.wait_result("job-20260101-120000-dear");
    let found = finding(&space, "hold", "warning", "$1");
    assert!(remedy(&found).contains("config.json") || remedy(&found).contains("release"));
    // What holds two projects alike is one finding; a key that nobody reads is another.
    space.project_with("beta", json!({"tiemout": "5m"}));
    finding(
        &space,
        "hold",
        "warning",
        "project \"alpha\", project \"beta\" are held (daily_budget)",
    );
    finding(&space, "registry", "warning", "unknown setting \"tiemout\"");
    space.stop();
    let hold = |agent: &str, until: Value| {
        json!({"agent": agent, "kind": "usage_limit", "reason": "it said so", "until": until,
            "probe_at": null, "since": "2026-01-30T10:00:00Z"})
    };
    let past = hold("past", json!("2020-01-01T00:00:00Z"));
    let holds = json!({"windows": {}, "list": [hold("one", json!("2199-01-01T00:00:00Z")), past]});
    fs::write(space.state().join("holds.json"), holds.to_string()).unwrap();
    let found = bad(&space, "hold");
    assert_eq!(found.len(), 2, "{found:?}");
    let text = space.run(&["doctor"]).stdout;
    assert!(text.contains("stopped by 1 problem and 2 holds"), "{text}");
}

#[test]
fn registering_tells_in_a_line_each_what_would_stop_jobs() {
    let space = space();
    let path = space.root().join("new project");
    fs::create_dir(&path).unwrap();
    let path = path.to_str().unwrap();
    let text = space.run(&["register", path]).ok();
    let problems = text.lines().filter(|line| line.starts_with("  Problem: "));
    let problems: Vec<_> = problems.collect();
    assert_eq!(problems.len(), 1, "{text}");
    assert!(problems[0].contains("claude is not on the PATH"), "{text}");
    space.run(&["unregister", "new project"]).ok();
    // It is the agent of the settings that counts.
    space.plain_agent("cat");
    let text = space.run(&["register", path]).ok();
    assert!(!text.contains("Problem"), "{text}");
    space.run(&["unregister", "new project"]).ok();
    fs::remove_file(space.config().join("config.json")).unwrap();
    space.claude(CLAUDE);
    log_in(&space);
    let text = space.run(&["register", path]).ok();
    assert!(
        !text.contains("Problem") && !text.contains("Warning"),
        "{text}"
    );
}

#[test]
fn an_agent_that_does_not_answer_is_not_waited_for() {
    let space = space();
    let project = space.project("alpha");
    space.program("claude", "exec sleep 60");
    let asked = std::time::Instant::now();
    finding(&space, "program", "problem", "gives no answer within");
    space.run(&["unregister", "alpha"]).ok();
    let root = project.path.display().to_string();
    space.run(&["register", &root]).ok();
    assert!(asked.elapsed().as_secs() < 30);
}
