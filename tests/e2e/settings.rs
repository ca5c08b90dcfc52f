//! Settings, credentials and front matter: what holds, where it comes from, and that no mistake in
//! them switches off a limit without a word.

use crate::claude_standin::{script, stand_in};
use crate::clock::{set_clock, settable};
use crate::machine::stat_of;
use crate::space::{MustHave, Space, replace, spawn, wait_until};
use crate::stage::*;
use job_monitor::time::Wall;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

/// An agent that answers with what it was given.
const ECHO: &str = "cat";

#[test]
fn a_mistake_in_a_setting_is_named_by_its_key_in_either_file() {
    let space = with_agent(ECHO);
    space.project("good");
    let config = fs::read(space.config().join("config.json")).unwrap();
    // Which values are mistakes, of every key, is tried where they are read.
    for (key, value) in [
        ("daily_budget_usd", json!("20")),
        ("check", json!("make test")),
        ("hours", json!("10pm-7am")),
        ("on_hold", json!({"command": ["x"]})),
        ("agent", json!("nobody")),
    ] {
        let mut wrong: Value = serde_json::from_slice(&config).unwrap();
        wrong[key] = value.clone();
        let path = space.config().join("config.json");
        replace(&path, wrong.to_string().as_bytes());
        let ran = space.run(&["config"]);
        assert_eq!(ran.status, 1, "{key}: {}", ran.stdout);
        ran.stderr
            .must_have(&format!("config.json: setting \"{key}\""));
        replace(&path, &config);
        space.project_with("bad", json!({key: value}));
        let shown = space.run(&["-a", "config"]).stderr;
        let named = format!("project \"bad\" in registered.json: setting \"{key}\"");
        shown.must_have(&named);
    }
    // Of two projects only the one with the mistake stands still.
    let good = space.project("good");
    let bad = space.project_with("bad", json!({"max_parallel": 1}));
    good.submit(ID, "x");
    bad.submit(ID, "x");
    space.start();
    good.wait_completed(ID);
    space.wait_log("setting \"max_parallel\" holds for all projects; move it to config.json; the project is skipped");
    assert!(bad.result(ID).is_none());
    // The settings before stay in force while those that follow are wrong.
    space.set(json!({"timeout": 5}));
    space.wait_log("config.json: setting \"timeout\" is 5, but must be a duration");
    space.wait_log("the settings before stay in force");
    let told = space.run(&["queue"]).stderr;
    told.must_have("setting \"timeout\" is 5");
    good.complete(NEXT, "x");
}

#[test]
fn the_settings_in_force_are_shown_with_where_each_comes_from() {
    let space = Space::new();
    space.set(
        json!({"timeout": "1h", "breaker": 5, "agents": {"mine": {"env": {"KEY": "s3cret"}}}}),
    );
    space.project_with("alpha", json!({"check": ["make", "test"], "tiemout": "5m"}));
    let shown = space.run(&["config"]);
    assert!(!shown.stdout.contains("s3cret"), "{}", shown.stdout);
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = shown.stdout.lines().map(words).collect();
    for line in [
        "timeout 1h config.json",
        r#"check ["make","test"] the project's entry"#,
        "breaker 5 config.json",
        "silence_timeout 15m default",
        r#"agents ["claude","codex","gemini","mine"] config.json"#,
    ] {
        assert!(lines.iter().any(|shown| shown == line), "{line}: {lines:?}");
    }
    let json = space.run(&["config", "--json"]).json();
    let settings = json["projects"][0]["settings"].as_array().unwrap();
    let check = settings.iter().find(|line| line["key"] == "check").unwrap();
    assert_eq!(check["value"], json!(["make", "test"]));
    space.start();
    space.wait_log("unknown setting \"tiemout\" is ignored");
}

fn projects_in(registry: &Path) -> usize {
    let registry: Value = serde_json::from_slice(&fs::read(registry).unwrap()).unwrap();
    registry["projects"].as_object().unwrap().len()
}

#[test]
fn linked_settings_are_followed_and_stay_links() {
    let (space, project) = alpha("cat > /dev/null; echo first");
    // The whole directory is a link, and each file in it one, too.
    let [config, real, dotfiles] = ["config", "real", "dotfiles"].map(|dir| space.root().join(dir));
    fs::rename(&config, &real).unwrap();
    symlink(&real, &config).unwrap();
    fs::create_dir(&dotfiles).unwrap();
    for name in ["config.json", "registered.json"] {
        fs::rename(real.join(name), dotfiles.join(name)).unwrap();
        symlink(dotfiles.join(name), real.join(name)).unwrap();
    }
    space.start();
    assert_eq!(project.run(ID, "x")["stdout"], "first\n");
    let beta = space.root().join("beta");
    fs::create_dir(&beta).unwrap();
    space.run(&["register", beta.to_str().unwrap()]).ok();
    for name in ["config.json", "registered.json"] {
        assert!(config.join(name).is_symlink(), "{name}");
    }
    assert_eq!(projects_in(&dotfiles.join("registered.json")), 2);
    space.wait_log("Observer started for 'beta'");
    // An edit of what the link leads to.
    let second = space.program("second", "cat > /dev/null; echo second");
    let text = json!({"agent": "second", "agents": {"second": {"command": [second]}}}).to_string();
    replace(&dotfiles.join("config.json"), text.as_bytes());
    space.wait_log("the settings have changed");
    assert_eq!(project.run(NEXT, "x")["stdout"], "second\n");
    // A link to nothing is no file that is missing.
    fs::rename(&dotfiles, space.root().join("away")).unwrap();
    space
        .run(&["config"])
        .stderr
        .must_have("cannot follow the link");
    space.wait_log("registered.json: no such file or directory; the projects before stay in force");
    assert_eq!(project.run(LAST, "x")["stdout"], "second\n");
}

#[test]
fn a_registry_that_an_editor_is_replacing_is_no_empty_one() {
    let space = Space::new();
    space.project("alpha");
    let path = space.config().join("registered.json");
    let beta = space.root().join("beta");
    fs::create_dir(&beta).unwrap();
    space.run(&["disable", "alpha"]).ok();
    let backup = space.root().join("registered.json~");
    fs::rename(&path, &backup).unwrap();
    let mut register = space.command(&["register", beta.to_str().unwrap()]);
    register.stdout(Stdio::null()).stderr(Stdio::null());
    let mut register = spawn(&mut register);
    // So long an editor may take from one rename to the next.
    std::thread::sleep(Duration::from_millis(200));
    fs::rename(&backup, &path).unwrap();
    assert!(register.wait().unwrap().success());
    assert_eq!(projects_in(&path), 2);
}

#[test]
fn credentials_that_only_a_shell_would_understand_hold_the_agents_and_say_so() {
    let (space, project) = alpha("echo \"$TOKEN\" > seen; cat > /dev/null; echo ok");
    space.credentials("TOKEN=abc\nCLAUDE_CONFIG_DIR=~/.claude-work\n", 0o600);
    project.submit(ID, "x");
    space.start();
    let reason = wait_hold(&project, "unsafe_env");
    reason.must_have(".env line 2 sets no variable; ");
    reason.must_have("a whole path for ~/");
    space.credentials("\u{feff}TOKEN=abc\n", 0o600);
    project.wait_completed(ID);
    assert_eq!(project.made("seen"), "abc\n");
}

#[test]
fn a_byte_order_mark_in_front_of_settings_and_registry_is_passed_over() {
    let (space, project) = alpha(NOTES);
    for name in ["config.json", "registered.json"] {
        let path = space.config().join(name);
        let text = fs::read_to_string(&path).unwrap();
        replace(&path, format!("\u{feff}{text}").as_bytes());
    }
    space.start();
    project.run(ID, "x");
    space.run(&["disable", "alpha"]).ok();
}

#[test]
fn nothing_of_a_document_is_lost_and_no_limit_of_its_front_matter() {
    let (space, project) = alpha(ECHO);
    let other = space.program("other", "cat > /dev/null; echo other");
    space.set(json!({"agents": {
        "agent": {"command": [space.root().join("bin/agent")]}, "other": {"command": [other]},
    }}));
    space.start();
    let rules = "---\nFirst this: twice.\nAnd that.\n---\nThen the rest.\n";
    let notes = "---\ntitle: Notes\ntags: [a, b]\n---\nBe good.\n";
    let runs = [
        (rules, rules),
        (notes, notes),
        ("\n---\nTitle: x\nTIMEOUT: 5m\n...\nShort.\n", "Short.\n"),
        ("---\nagent: other\n---\nx\n", "other\n"),
    ];
    for (n, (text, answer)) in runs.into_iter().enumerate() {
        let id = format!("job-20260101-12{n:04}-runs");
        project.submit(&id, text);
        let result = project.wait_result(&id);
        assert_eq!(result["status"], "completed", "{text}: {result}");
        assert_eq!(result["stdout"], answer);
    }
    let rejected = [
        ("max_turns: x", "\"max-turns\" must be a whole number"),
        ("max-budget: 5", "the nearest is \"max-budget-usd\""),
        ("timeuot: 5m", "the nearest is \"timeout\""),
        ("max-budget-usd: 5", "does not tell what it costs"),
        (
            "agent: nobody",
            "the settings have no agent \"nobody\", only ",
        ),
    ];
    for (n, (line, why)) in rejected.into_iter().enumerate() {
        let id = format!("job-20260101-13{n:04}-rejected");
        project.submit(&id, &format!("---\n{line}\n---\nx\n"));
        let result = project.wait_result(&id);
        result.must_have(json!({"status": "failed", "error_kind": "rejected"}));
        result["error"].must_have(why);
    }
}

/// In Santiago 2026-09-06 begins at 01:00: a wait for 00:00 would lie in the past, and end at once,
/// again and again.
#[test]
fn the_budget_of_a_day_whose_midnight_does_not_exist_ends_after_it() {
    let Some(space) = settable() else { return };
    space.env("TZ", "America/Santiago");
    let wall = |text| Wall::parse(text).unwrap();
    let evening = wall("2026-09-05T23:30:00-04:00");
    set_clock(&space, evening.secs() - Wall::now().secs());
    stand_in(&space);
    space.set(json!({"daily_budget_usd": 0.01}));
    let project = space.project("alpha");
    let dear = "play text -e 's/\"total_cost_usd\":0.0008/\"total_cost_usd\":0.5/'";
    script(&project, 1, dear);
    space.start();
    project.run(ID, "x");
    project.submit(NEXT, "x");
    wait_hold(&project, "daily_budget");
    let until = project.view()["hold"]["until"].as_str().unwrap().to_owned();
    assert_eq!(wall(&until), wall("2026-09-06T01:00:00-03:00"));
    wait_until("the daemon to be at rest", || {
        let ticks = || {
            let stat = stat_of(space.pid());
            stat[11].parse::<u64>().unwrap() + stat[12].parse::<u64>().unwrap()
        };
        let before = ticks();
        std::thread::sleep(Duration::from_millis(500));
        ticks() - before < 10
    });
}
