//! `doctor` finds what stops jobs, tells each finding once, and says what helps.

use crate::space::{MustHave, Ran, Space, job_monitor, wait_until};
use crate::stage::*;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;

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
    let told = format!("ActiveState={active} LoadState={load} UnitFileState={enabled}");
    space.program(
        "systemctl",
        &format!("printf '%s\\n' {told} NeedDaemonReload=no"),
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

#[track_caller]
fn assert_fine(space: &Space, check: &str) {
    assert_eq!(bad(space, check), [Value::Null; 0]);
}

/// The only finding of a check that is not in order: of the level wanted, and saying this.
#[track_caller]
fn finding(space: &Space, check: &str, level: &str, says: &str) -> Value {
    let found = bad(space, check);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["level"], level, "{found:?}");
    found[0]["message"].must_have(says);
    found[0].clone()
}

fn remedy(finding: &Value) -> &str {
    finding["remedy"].as_str().expect("there is a remedy")
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
        "ok      program     claude: ",
        "bin/claude 9.9.9\n",
        "ok      login       claude: there are credentials\n",
        "ok      projects    3 projects looked at\n",
        "\n0 problems, ",
    ] {
        assert_eq!(text.matches(wanted).count(), 1, "{wanted:?}: {text}");
    }
    text.must_have(&format!("runs (pid {})\n", space.pid()));
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
    finding(&space, "service", "warning", "systemctl does not answer");
    for (load, active, enabled) in [
        ("not-found", "inactive", ""),
        ("loaded", "inactive", "enabled"),
        ("loaded", "activating", "enabled"),
        ("loaded", "active", "disabled"),
    ] {
        systemd(&space, load, active, enabled);
        let found = finding(&space, "service", "warning", &format!("={active}"));
        assert!(remedy(&found).starts_with("systemctl --user enable"));
    }
    fs::remove_file(space.root().join("bin/systemctl")).unwrap();
    space.env("PATH", &space.root().join("bin").display().to_string());
    finding(&space, "service", "warning", "systemctl does not answer");
}

#[test]
fn what_only_the_shell_has_does_not_count() {
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
    space.env("ANTHROPIC_API_KEY", SECRET);
    finding(&space, "program", "problem", "or set PATH in .env");
    space.credentials(&format!("PATH=\"{path}\"\n"), 0o600);
    assert_fine(&space, "program");
    let lacks = "sets no CLAUDE_CODE_OAUTH_TOKEN or ANTHROPIC_API_KEY or";
    let login = finding(&space, "login", "problem", lacks);
    assert_eq!(login["agent"], "claude");
    assert_eq!(remedy(&login), "claude");
    let keys = format!("PATH=\"{path}\"\nANTHROPIC_API_KEY={SECRET}\n");
    space.credentials(&keys, 0o600);
    let (ran, _) = doctor(&space);
    assert_fine(&space, "login");
    assert!(!ran.stdout.contains(SECRET), "{ran:?}");
}

#[test]
fn an_agent_that_cannot_run_is_told_of() {
    let space = space();
    for (text, says) in [
        ("#!/usr/bin/env no-such-sh\n", "no-such-sh"),
        ("#!/nowhere/sh\n", "needs /nowhere/sh, which is not there"),
        ("#!/bin/sh\nexit 3\n", "does not tell its version"),
    ] {
        let path = space.executable("claude", text);
        finding(&space, "program", "problem", says);
        chmod(&path, 0o644);
        finding(&space, "program", "problem", "claude is not there");
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
            let ran = format!("{:?}", space.run(args));
            assert!(!ran.contains(SECRET) && !ran.contains("other-s3cret"));
        }
    }
    // A line of the file that cannot be read may be all secret.
    space.credentials(&format!("A=1\n{SECRET}\n"), 0o600);
    let ran = space.run(&["doctor"]);
    ran.stdout.must_have(".env line 2");
    assert!(!format!("{ran:?}").contains(SECRET));
}

#[test]
fn files_and_directories_that_others_can_write_or_that_are_gone_are_told_with_what_helps() {
    let space = space();
    space.plain_agent("cat");
    let project = space.project("it's here");
    space.credentials(&format!("A_KEY={SECRET}\n"), 0o644);
    finding(&space, "credentials", "problem", "; run: chmod 600 ");
    let results = project.results("");
    chmod(&results, 0o777);
    let found = finding(&space, "projects", "problem", "; run: chmod go-w ");
    assert_eq!(found["project"], "it's here");
    chmod(&results, 0o700);
    let items = project.item("");
    fs::remove_dir(&items).unwrap();
    let found = finding(&space, "projects", "problem", "is missing; make it again");
    assert_eq!(found["remedy"], Value::Null);
    space
        .run(&["queue"])
        .ok()
        .must_have("is missing; make it again");
    assert!(!items.exists(), "looking makes nothing");
    fs::rename(&project.path, space.root().join("moved")).unwrap();
    let found = finding(&space, "projects", "problem", "no such file or directory");
    assert!(remedy(&found).ends_with("registered.json"), "{found}");
    space.run(&["unregister", "it's here"]).ok();
    fs::create_dir(space.state()).unwrap();
    chmod(&space.state(), 0o777);
    finding(&space, "directories", "problem", "; run: chmod go-w ");
}

#[test]
fn a_command_that_the_prompt_calls_is_looked_for() {
    let space = space();
    space.claude(CLAUDE);
    let project = space.project("alpha");
    // Our own skill is a choice.
    assert_fine(&space, "skill");
    space.set(json!({"agents": {"claude": {"prompt": "/tidy {content}"}}}));
    finding(&space, "skill", "warning", "calls /tidy");
    fs::create_dir_all(project.path.join(".claude/commands")).unwrap();
    fs::write(project.path.join(".claude/commands/tidy.md"), "Tidy up.").unwrap();
    assert_fine(&space, "skill");
}

#[test]
fn tools_that_a_project_allows_count_once_its_workspace_is_trusted() {
    let space = space();
    space.claude(CLAUDE);
    let project = space.project("alpha");
    let settings = project.path.join(".claude/settings.json");
    fs::create_dir_all(settings.parent().unwrap()).unwrap();
    fs::write(&settings, r#"{"permissions": {"allow": []}}"#).unwrap();
    assert_fine(&space, "trust");
    let allowed = r#"{"permissions": {"allow": ["Bash(cargo *)"]}}"#;
    fs::write(&settings, allowed).unwrap();
    let config = |accepted: bool| {
        let path = project.path.display().to_string();
        let projects = json!({path: {"hasTrustDialogAccepted": accepted}});
        let text = json!({"numStartups": 3, "projects": projects}).to_string();
        fs::write(space.home().join(".claude.json"), text).unwrap();
    };
    config(false);
    let why = "once the agent trusts the directory";
    let found = finding(&space, "trust", "warning", why);
    let wanted = format!("cd {} && claude", project.path.display());
    assert_eq!(remedy(&found), wanted);
    config(true);
    assert_fine(&space, "trust");
    // The agent's own variable moves the place of the answer.
    space.credentials("CLAUDE_CONFIG_DIR=/nowhere\n", 0o600);
    finding(&space, "trust", "warning", why);
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
    finding(&space, "program", "problem", "no-such-program is not there");
}

#[test]
fn an_agent_that_the_settings_list_is_checked_also_where_nobody_uses_it_yet() {
    let space = space();
    space.claude(CLAUDE);
    log_in(&space);
    space.project("alpha");
    let listed = json!({"spare": {"command": ["no-such-spare"]}});
    space.set(json!({"agents": listed}));
    finding(&space, "program", "problem", "no-such-spare is not there");
    // Of those that are built in, only the one in use is asked for.
    let text = space.run(&["doctor"]).stdout;
    text.must_have("spare: ");
    assert!(!text.contains("codex: "), "{text}");
}

#[test]
fn each_agent_in_use_is_asked_in_its_own_way_whether_somebody_is_logged_in() {
    let space = space();
    let codex = r#"case "$*" in --version) echo codex-cli 9.9.9 ;; 'login status') [ -e "$HOME/logged-in" ] ;; *) exit 9 ;; esac"#;
    space.program("codex", codex);
    space.program("gemini", "[ \"$*\" = --version ] && echo 8.8.8");
    for agent in ["claude", "codex", "gemini"] {
        space.project_with(agent, json!({ "agent": agent }));
    }
    space.claude(CLAUDE);
    log_in(&space);
    // Codex and Claude Code tell it themselves; of Gemini the file of its login must do.
    let login = finding(&space, "login", "problem", "nobody is logged in");
    assert_eq!(login["agent"], "gemini");
    assert_eq!(remedy(&login), "gemini");
    fs::create_dir(space.home().join(".gemini")).unwrap();
    fs::write(space.home().join(".gemini/oauth_creds.json"), "{}").unwrap();
    assert_fine(&space, "login");
    fs::remove_file(space.home().join("logged-in")).unwrap();
    let missing = bad(&space, "login");
    let missing: Vec<_> = missing.iter().map(|one| &one["agent"]).collect();
    assert_eq!(missing, ["claude", "codex"]);
    let keys = format!("CODEX_API_KEY={SECRET}\nANTHROPIC_API_KEY={SECRET}\n");
    space.credentials(&keys, 0o600);
    assert_fine(&space, "login");
    let text = space.run(&["doctor"]).stdout;
    for version in ["bin/codex 9.9.9\n", "bin/gemini 8.8.8\n"] {
        text.must_have(version);
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
    assert_fine(&space, "settings");
}

#[test]
fn settings_that_nobody_knows_and_broken_files_are_named() {
    let space = space();
    space.plain_agent("cat");
    space.project("alpha");
    space.set(json!({"timeuot": "1h"}));
    finding(&space, "settings", "warning", "\"timeuot\"");
    for name in ["config.json", "registered.json"] {
        fs::write(space.config().join(name), "{").unwrap();
        let ran = space.run(&["doctor"]);
        assert!(ran.status == 1 && ran.stderr.contains(name), "{ran:?}");
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
    let found = bad(&space, "projects");
    for (told, project, level, says) in [
        (0, Value::Null, "problem", "\"delta\" is skipped"),
        (1, json!("gamma"), "warning", "job-monitor enable gamma"),
        (2, json!("beta"), "problem", "timeout"),
    ] {
        found[told]["message"].must_have(says);
        found[told].must_have(json!({"project": project, "level": level}));
    }
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
    project.run(ID, "x");
    let found = finding(&space, "projects", "warning", "Held: daily budget");
    let remedy = &found["remedy"];
    assert!(remedy.is_null(), "the hold says itself what helps: {found}");
    // What holds two projects alike is one finding; a key that nobody reads is another.
    space.project_with("beta", json!({"tiemout": "5m"}));
    let found = finding(&space, "projects", "warning", "Held: daily budget");
    assert_eq!(found["project"], "alpha, beta");
    finding(&space, "settings", "warning", "unknown setting \"tiemout\"");
    // As in `queue`, a file that is no job is told of.
    space.edit_registry(|projects| drop(projects.remove("beta")));
    fs::write(project.item("fix-bug.md"), "x").unwrap();
    let is_it = |one: &Value| {
        one["message"]
            .to_string()
            .starts_with("\"Left alone: fix-bug.md")
    };
    let is_told = || bad(&space, "projects").iter().any(is_it);
    wait_until("the file to be told of", is_told);
}

#[test]
fn registering_tells_in_a_line_each_what_would_stop_jobs() {
    let space = space();
    let path = space.root().join("new project");
    fs::create_dir(&path).unwrap();
    let path = path.to_str().unwrap();
    let text = space.run(&["register", path]).ok();
    assert_eq!(times(&text, "\n  Problem: "), 1, "{text}");
    line_with(&text, "  Problem: ").must_have("claude is not there");
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
    assert!(!text.contains("Problem"), "{text}");
    assert!(!text.contains("Warning"), "{text}");
}

#[test]
fn an_agent_that_does_not_answer_is_not_waited_for() {
    let space = space();
    let project = space.project("alpha");
    space.program("claude", "exec sleep 60");
    let asked = std::time::Instant::now();
    finding(&space, "program", "problem", "does not tell its version");
    space.run(&["unregister", "alpha"]).ok();
    let root = project.path.display().to_string();
    space.run(&["register", &root]).ok();
    assert!(asked.elapsed().as_secs() < 30);
}
