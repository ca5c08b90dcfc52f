//! `doctor` finds what stops jobs and gives remedies that work when they are pasted; `stats` sums
//! up results, whoever wrote them.

use crate::space::{Project, Ran, Space, is_alive, job_monitor, wait_until};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

const SECRET: &str = "s3cret-0123456789";

/// The CLI as far as `doctor` asks it.
const CLAUDE: &str = r#"
case $1 in
--version) echo "9.9.9 (Claude Code)" ;;
auth)
    if [ -n "$ANTHROPIC_API_KEY" ]; then echo '{"loggedIn": true, "authMethod": "api_key"}'
    else echo '{"loggedIn": false, "authMethod": "none"}'; exit 1; fi ;;
esac"#;

/// A space on a machine whose service manager is ours to define; at first there is none.
fn space() -> Space {
    let space = Space::new();
    let bin = space.root().join("bin");
    space.env("PATH", &format!("{}:/usr/bin:/bin", bin.display()));
    symlink(job_monitor(), bin.join("job-monitor")).unwrap();
    for program in ["systemctl", "loginctl"] {
        space.program(program, "echo 'Failed to connect to bus' >&2; exit 1");
    }
    space
}

/// A service manager that has the unit of this version, enabled and active.
fn with_systemd(space: &Space, unit_path: &str) {
    let unit = space.root().join("job-monitor.service");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("job-monitor.service");
    fs::copy(source, &unit).unwrap();
    space.program(
        "systemctl",
        &format!(
            r#"case "$*" in
*show-environment*) echo "HOME={home}"; echo "PATH=/usr/bin:/bin"; echo "MONITOR_SYSTEM_ROOT={config}" ;;
*" show "*) cat <<'END'
LoadState=loaded
UnitFileState=enabled
ActiveState=active
MainPID=0
FragmentPath={unit}
ExecStart={{ path={program} ; argv[]={program} daemon ; ignore_errors=no }}
Environment=PATH={unit_path} "NOTHING=a b"
NeedDaemonReload=no
END
;;
esac"#,
            program = job_monitor(),
            home = space.home().display(),
            config = space.config().display(),
            unit = unit.display(),
        ),
    );
    space.program("loginctl", "echo Linger=yes");
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

/// The only finding of a check that is not in order, of the level wanted.
#[track_caller]
fn finding(space: &Space, check: &str, level: &str) -> Value {
    let found = bad(space, check);
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["level"], level, "{found:?}");
    found[0].clone()
}

fn remedy(finding: &Value) -> &str {
    finding["remedy"].as_str().expect("there is a remedy")
}

fn message(finding: &Value) -> &str {
    finding["message"].as_str().unwrap()
}

/// Does what a person does with a remedy, in a shell with more variables than the service has.
#[track_caller]
fn paste(space: &Space, remedy: &str, more: &[(&str, &str)]) {
    let bin = space.root().join("bin");
    let output = Command::new("sh")
        .args(["-c", remedy])
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
        .env("HOME", space.home())
        .env("MONITOR_SYSTEM_ROOT", space.config())
        .envs(more.iter().copied())
        .output()
        .unwrap();
    assert!(output.status.success(), "{remedy}: {output:?}");
}

fn skill(project: &Project) {
    let dir = project.path.join(".claude/skills/task-coordination");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("SKILL.md"), "---\nname: task-coordination\n---\n").unwrap();
}

#[test]
fn a_monitor_in_order_has_nothing_to_mend() {
    let space = space();
    with_systemd(&space, "/usr/bin");
    space.claude(CLAUDE);
    space.credentials(&format!("ANTHROPIC_API_KEY={SECRET}\n"), 0o600);
    let project = space.project("alpha");
    skill(&project);
    space.start();
    let (ran, findings) = doctor(&space);
    assert_eq!(ran.status, 0, "{ran:?}");
    // Disk and inotify are those of the machine that runs the tests.
    let ours = |finding: &&Value| finding["check"] != "disk" && finding["check"] != "inotify";
    for finding in findings.iter().filter(ours) {
        assert_eq!(finding["level"], "ok", "{finding}");
    }
    let said = |check: &str| {
        let found = findings.iter().find(|finding| finding["check"] == check);
        message(found.unwrap_or_else(|| panic!("no {check}"))).to_owned()
    };
    assert_eq!(said("login"), "the agent is logged in (api_key)");
    let program = space.root().join("bin/claude");
    assert_eq!(
        said("program"),
        format!("{}, 9.9.9 (Claude Code)", program.display())
    );
    assert!(said("daemon").contains(&format!("pid {}", space.pid())));
    let text = space.run(&["doctor"]).ok();
    assert!(
        text.ends_with("\n") && text.contains("Nothing stops jobs"),
        "{text}"
    );
    assert!(
        text.contains("\nAgent claude\n") && text.contains("\nProject alpha\n"),
        "{text}"
    );
    assert!(!text.contains(SECRET) && !ran.stdout.contains(SECRET));
}

#[test]
fn a_monitor_that_does_not_run_is_a_problem_and_a_missing_service_manager_is_none() {
    let space = space();
    space.claude(CLAUDE);
    let (ran, _) = doctor(&space);
    assert_eq!(ran.status, 1);
    let daemon = finding(&space, "daemon", "problem");
    assert_eq!(remedy(&daemon), "job-monitor daemon");
    let service = finding(&space, "service", "warning");
    assert!(
        message(&service).contains("Failed to connect to bus"),
        "{service}"
    );
    finding(&space, "registry", "warning");
    with_systemd(&space, "/usr/bin");
    let daemon = finding(&space, "daemon", "problem");
    // The manager says that it runs, and the lock of this configuration that it does not.
    assert_eq!(remedy(&daemon), "systemctl --user start job-monitor");
    // Neither program is there at all.
    for program in ["systemctl", "loginctl"] {
        fs::remove_file(space.root().join("bin").join(program)).unwrap();
    }
    space.env("PATH", &space.root().join("bin").display().to_string());
    let service = finding(&space, "service", "warning");
    assert!(
        message(&service).contains("there is no systemctl here"),
        "{service}"
    );
}

#[test]
fn a_unit_that_is_not_ours_and_a_user_who_does_not_linger_are_told_of() {
    let space = space();
    with_systemd(&space, "/usr/bin");
    space.claude(CLAUDE);
    assert_eq!(bad(&space, "service"), Vec::<Value>::new());
    let unit = space.root().join("job-monitor.service");
    let text = fs::read_to_string(&unit).unwrap();
    fs::write(&unit, text.replace("Delegate=yes", "Delegate=no")).unwrap();
    let service = finding(&space, "service", "warning");
    assert!(
        message(&service).contains("not the unit of this version"),
        "{service}"
    );
    assert!(remedy(&service).starts_with("make install"));
    space.program("loginctl", "echo Linger=no");
    let lingering = finding(&space, "lingering", "warning");
    assert_eq!(remedy(&lingering), "loginctl enable-linger");
    space.program("systemctl", "echo LoadState=not-found");
    let service = finding(&space, "service", "warning");
    assert!(message(&service).contains("is not installed"), "{service}");
}

#[test]
fn an_agent_that_only_the_shell_finds_is_found_once_the_remedy_is_pasted() {
    let space = space();
    with_systemd(&space, "/usr/bin:/bin");
    space.project("alpha");
    let program = space.program("claude", CLAUDE);
    let elsewhere = space.root().join("it's elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::rename(&program, elsewhere.join("claude")).unwrap();
    let bin = space.root().join("bin");
    let path = format!("{}:{}:/usr/bin:/bin", elsewhere.display(), bin.display());
    space.env("PATH", &path);
    let found = finding(&space, "program", "problem");
    assert!(
        message(&found).contains("PATH of the service: /usr/bin:/bin"),
        "{found}"
    );
    assert!(message(&found).contains("this shell finds it"), "{found}");
    paste(&space, remedy(&found), &[]);
    assert_eq!(bad(&space, "program"), Vec::<Value>::new());
    // The remedy made a credentials file that is safe, and the service sees the agent with it.
    assert_eq!(bad(&space, "credentials"), Vec::<Value>::new());
    assert_eq!(finding(&space, "login", "problem")["agent"], "claude");
}

#[test]
fn an_agent_without_its_interpreter_cannot_be_started() {
    let space = space();
    space.executable("claude", "#!/usr/bin/env no-such-interpreter\n");
    let found = finding(&space, "program", "problem");
    assert!(
        message(&found).contains("needs no-such-interpreter"),
        "{found}"
    );
    space.executable("claude", "#!/nowhere/sh\n");
    let found = finding(&space, "program", "problem");
    assert!(
        message(&found).contains("needs /nowhere/sh, which is not there"),
        "{found}"
    );
    let path = space.program("claude", CLAUDE);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let found = finding(&space, "program", "problem");
    assert!(message(&found).contains("not on the PATH"), "{found}");
}

#[test]
fn a_key_that_only_the_shell_exports_reaches_the_agent_once_the_remedy_is_pasted() {
    let space = space();
    space.claude(CLAUDE);
    space.project("alpha");
    space.start();
    let key = ("ANTHROPIC_API_KEY", SECRET);
    space.env(key.0, key.1);
    let (ran, _) = doctor(&space);
    assert_eq!(ran.status, 1);
    let login = finding(&space, "login", "problem");
    assert!(
        message(&login).contains("ANTHROPIC_API_KEY is only in this shell's"),
        "{login}"
    );
    assert!(!ran.stdout.contains(SECRET), "{ran:?}");
    paste(&space, remedy(&login), &[key]);
    assert_eq!(bad(&space, "login"), Vec::<Value>::new());
    let mode = fs::metadata(space.config().join(".env"))
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

#[test]
fn an_agent_that_is_logged_out_or_does_not_say_is_told_of() {
    let space = space();
    space.claude(CLAUDE);
    let login = finding(&space, "login", "problem");
    assert_eq!(remedy(&login), "claude auth login");
    space.claude("[ $1 = --version ] && echo 1.0 || { echo 'unknown command' >&2; exit 1; }");
    let login = finding(&space, "login", "warning");
    assert!(message(&login).contains("unknown command"), "{login}");
}

#[test]
fn no_secret_is_shown_whatever_the_agent_says() {
    let space = space();
    space.credentials(&format!("ANTHROPIC_API_KEY={SECRET}\n"), 0o600);
    space.set(json!({"agents": {"claude": {"env": {"OTHER": "other-s3cret"}}}}));
    for body in [
        "echo \"bad key $ANTHROPIC_API_KEY and $OTHER\" >&2; exit 1",
        "[ $1 = --version ] && echo 1.0 $OTHER || { echo \"$ANTHROPIC_API_KEY\"; exit 1; }",
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
fn an_agent_that_hangs_is_ended_and_told_of() {
    let space = space();
    space.project("alpha");
    space.claude(&format!(
        "echo $$ > {0}/pid; sleep 600 & echo $! > {0}/child; wait",
        space.root().display()
    ));
    let began = Instant::now();
    let found = finding(&space, "program", "problem");
    assert!(message(&found).contains("gave no answer"), "{found}");
    assert!(began.elapsed() < Duration::from_secs(30));
    for name in ["pid", "child"] {
        let pid = fs::read_to_string(space.root().join(name)).unwrap();
        let pid = pid.trim().parse().unwrap();
        wait_until("the end of what was asked", || !is_alive(pid));
    }
}

#[test]
fn an_unsafe_credentials_file_is_mended_by_the_remedy() {
    let space = space();
    space.claude(CLAUDE);
    space.credentials(&format!("ANTHROPIC_API_KEY={SECRET}\n"), 0o644);
    let found = finding(&space, "credentials", "problem");
    assert!(
        message(&found).ends_with("is open to others (mode 644)"),
        "{found}"
    );
    paste(&space, remedy(&found), &[]);
    assert_eq!(bad(&space, "credentials"), Vec::<Value>::new());
    assert_eq!(bad(&space, "login"), Vec::<Value>::new());
}

#[test]
fn directories_that_others_can_write_or_that_are_gone_are_mended_by_the_remedy() {
    let space = space();
    space.plain_agent("cat");
    let project = space.project("it's here");
    let results = project.results("");
    fs::set_permissions(&results, fs::Permissions::from_mode(0o777)).unwrap();
    let found = finding(&space, "directories", "problem");
    assert_eq!(found["project"], "it's here");
    assert!(
        message(&found).contains("can be written by others (mode 777)"),
        "{found}"
    );
    paste(&space, remedy(&found), &[]);
    assert_eq!(bad(&space, "directories"), Vec::<Value>::new());
    let items = project.item("");
    fs::remove_dir(&items).unwrap();
    let found = finding(&space, "directories", "problem");
    assert!(!items.exists(), "looking makes nothing");
    paste(&space, remedy(&found), &[]);
    assert_eq!(bad(&space, "directories"), Vec::<Value>::new());
    fs::rename(&project.path, space.root().join("moved")).unwrap();
    let found = finding(&space, "directories", "problem");
    assert!(
        message(&found).contains("no such file or directory"),
        "{found}"
    );
    paste(&space, remedy(&found), &[]);
    assert_eq!(bad(&space, "directories"), Vec::<Value>::new());
    fs::set_permissions(space.config(), fs::Permissions::from_mode(0o777)).unwrap();
    let found = finding(&space, "directories", "problem");
    assert_eq!(found["project"], Value::Null);
    paste(&space, remedy(&found), &[]);
    assert_eq!(bad(&space, "directories"), Vec::<Value>::new());
}

#[test]
fn a_skill_that_the_prompt_calls_is_looked_for_and_installed_by_the_remedy() {
    let space = space();
    space.claude(CLAUDE);
    let project = space.project("alpha");
    let found = finding(&space, "skill", "warning");
    paste(&space, remedy(&found), &[]);
    assert_eq!(bad(&space, "skill"), Vec::<Value>::new());
    // A prompt of one's own may call another.
    space.set(json!({"agents": {"claude": {"prompt": "/tidy {content}"}}}));
    let found = finding(&space, "skill", "warning");
    assert!(message(&found).contains("no skill tidy"), "{found}");
    fs::create_dir_all(project.path.join(".claude/commands")).unwrap();
    fs::write(project.path.join(".claude/commands/tidy.md"), "Tidy up.").unwrap();
    assert_eq!(bad(&space, "skill"), Vec::<Value>::new());
    fs::remove_dir_all(project.path.join(".claude")).unwrap();
    space.set(json!({"agents": {"claude": {"prompt": "Do this: {content}"}}}));
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
    let found = finding(&space, "trust", "warning");
    assert_eq!(
        remedy(&found),
        format!("cd {} && claude", project.path.display())
    );
    let config = |accepted: bool| {
        let projects =
            json!({&project.path.display().to_string(): {"hasTrustDialogAccepted": accepted}});
        json!({"numStartups": 3, "projects": projects}).to_string()
    };
    fs::write(space.home().join(".claude.json"), config(false)).unwrap();
    finding(&space, "trust", "warning");
    fs::write(space.home().join(".claude.json"), config(true)).unwrap();
    assert_eq!(bad(&space, "trust"), Vec::<Value>::new());
    // The agent's own variable moves the place of the answer.
    space.credentials("CLAUDE_CONFIG_DIR=/nowhere\n", 0o600);
    finding(&space, "trust", "warning");
    fs::write(&settings, "{").unwrap();
    let found = finding(&space, "trust", "warning");
    assert!(message(&found).contains("the agent ignores"), "{found}");
}

#[test]
fn a_plain_agent_is_found_and_never_started_nor_asked_for_what_only_the_cli_has() {
    let space = space();
    let ran = space.root().join("ran");
    space.plain_agent(&format!("touch {}", ran.display()));
    space.project("alpha");
    space.start();
    let (outcome, findings) = doctor(&space);
    assert_eq!(outcome.status, 0, "{outcome:?}");
    let checks: Vec<&str> = findings
        .iter()
        .map(|f| f["check"].as_str().unwrap())
        .collect();
    assert!(checks.contains(&"program"), "{checks:?}");
    for check in ["login", "skill", "trust"] {
        assert!(!checks.contains(&check), "{checks:?}");
    }
    // Neither is a launcher in front of an agent of the other protocol: it may cost.
    space.set(json!({"agents": {"agent": {
        "command": [space.root().join("bin/agent"), "claude"], "protocol": "claude"}}}));
    assert_eq!(bad(&space, "program"), Vec::<Value>::new());
    assert!(!ran.exists());
    space.set(json!({"agents": {"agent": {"command": ["no-such-program"]}}}));
    let found = finding(&space, "program", "problem");
    assert_eq!(found["agent"], "agent");
}

#[test]
fn documents_that_will_never_run_and_broken_files_are_named() {
    let space = space();
    space.plain_agent("cat");
    let project = space.project("alpha");
    fs::write(project.item("job-tomorrow.md"), "x").unwrap();
    let found = finding(&space, "documents", "warning");
    assert!(
        message(&found).contains("job-tomorrow.md is not run: its name"),
        "{found}"
    );
    paste(&space, remedy(&found), &[]);
    assert_eq!(bad(&space, "documents"), [Value::Null; 0]);
    let queue = space.run(&["queue", "--json"]).json();
    let waiting = queue["projects"][0]["waiting"].as_array().unwrap();
    assert_eq!(waiting.len(), 1, "{queue}");
    space.set(json!({"timeuot": "1h"}));
    let found = finding(&space, "settings", "warning");
    assert!(message(&found).contains("\"timeuot\""), "{found}");
    fs::write(space.config().join("config.json"), "{").unwrap();
    let found = finding(&space, "settings", "problem");
    assert!(remedy(&found).ends_with("config.json"), "{found}");
    fs::write(space.config().join("registered.json"), "{").unwrap();
    let found = finding(&space, "registry", "problem");
    assert!(remedy(&found).ends_with("registered.json"), "{found}");
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
    let found = finding(&space, "settings", "problem");
    assert_eq!(found["project"], "beta");
    let found = finding(&space, "registry", "problem");
    assert!(message(&found).contains("\"delta\""), "{found}");
    let (_, findings) = doctor(&space);
    let gamma: Vec<_> = findings
        .iter()
        .filter(|f| f["project"] == "gamma")
        .collect();
    assert_eq!(gamma.len(), 1, "{gamma:?}");
    assert_eq!(remedy(gamma[0]), "job-monitor enable gamma");
    // Only one project was asked about.
    let one = space.run(&["doctor", "-p", "alpha", "--json"]).json();
    let others = one["findings"].as_array().unwrap().iter();
    let others: Vec<_> = others
        .filter(|f| f["project"] != Value::Null && f["project"] != "alpha")
        .collect();
    assert!(others.is_empty(), "{others:?}");
    assert_eq!(space.run(&["doctor", "-p", "nobody"]).status, 3);
}

#[test]
fn holds_in_force_are_told_and_only_those_that_a_person_must_end_are_problems() {
    let space = space();
    space.plain_agent("cat");
    space.project("alpha");
    fs::create_dir_all(space.state()).unwrap();
    let hold = |agent: &str, kind: &str, until: Value| {
        json!({"agent": agent, "kind": kind, "reason": "it said so", "until": until, "probe_at": null,
            "since": "2026-01-30T10:00:00Z"})
    };
    let holds = json!({"blind": {}, "list": [
        hold("one", "usage_limit", json!("2199-01-01T00:00:00Z")),
        hold("two", "usage_limit", json!("2020-01-01T00:00:00Z")),
        hold("three", "billing", Value::Null),
    ]});
    fs::write(space.state().join("holds.json"), holds.to_string()).unwrap();
    let found = bad(&space, "hold");
    let told: Vec<_> = found.iter().map(|f| (&f["agent"], &f["level"])).collect();
    assert_eq!(
        told,
        [
            (&json!("one"), &json!("warning")),
            (&json!("three"), &json!("problem"))
        ]
    );
    assert_eq!(remedy(&found[1]), "job-monitor release --all");
}

#[test]
fn registering_tells_in_a_line_each_what_would_stop_jobs() {
    let space = space();
    let path = space.root().join("new project");
    fs::create_dir(&path).unwrap();
    let text = space.run(&["register", path.to_str().unwrap()]).ok();
    let line = |start: &str| text.lines().filter(|line| line.starts_with(start)).count();
    assert_eq!(
        line("  Problem: \"claude\" is not on the PATH"),
        1,
        "{text}"
    );
    assert_eq!(
        line("  Warning: the project has no skill task-coordination"),
        1,
        "{text}"
    );
    // Of a monitor that does not run and a missing service manager it has its own line, or none.
    assert_eq!(line("  Problem"), 1, "{text}");
    space.run(&["unregister", "new project"]).ok();
    space.claude(CLAUDE);
    space.credentials(&format!("ANTHROPIC_API_KEY={SECRET}\n"), 0o600);
    let text = space
        .run(&["register", "--skills", path.to_str().unwrap()])
        .ok();
    let bad = |line: &str| line.starts_with("  Problem") || line.starts_with("  Warning");
    // The disk is that of the machine that runs the tests.
    assert!(
        !text
            .lines()
            .any(|line| bad(line) && !line.contains("left at")),
        "{text}"
    );
}

// --- stats ---

fn result(project: &Project, id: &str, document: Value) {
    fs::write(project.results(&format!("{id}.json")), document.to_string()).unwrap();
}

fn age(project: &Project, id: &str, days: u64) {
    let file = fs::File::open(project.results(&format!("{id}.json"))).unwrap();
    let at = SystemTime::now() - Duration::from_secs(days * 86_400);
    file.set_modified(at).unwrap();
}

fn stats(space: &Space, args: &[&str]) -> Value {
    let args: Vec<&str> = ["stats", "--json"].iter().chain(args).copied().collect();
    let ran = space.run(&args);
    assert_eq!(ran.status, 0, "{ran:?}");
    ran.json()
}

/// Three days of two projects, in a zone of their own.
fn finished(space: &Space) -> (Project, Project) {
    space.env("TZ", "EST5");
    let (alpha, beta) = (space.project("alpha"), space.project("beta"));
    let usage = |input: u64, output: u64| json!({"input_tokens": input, "output_tokens": output, "cache_read_input_tokens": 1000});
    let done = |status: &str, at: &str, seconds: f64, output: Value| {
        json!({"status": status, "completed_at": at, "duration_seconds": seconds,
            "worker_output": output, "stdout": "x".repeat(5000)})
    };
    // Eleven at night of the 28th in this zone.
    result(
        &alpha,
        "job-20260128-200000-a",
        done(
            "completed",
            "2026-01-29T04:00:00Z",
            60.0,
            json!({"usage": usage(10, 20), "cost_usd": 0.5}),
        ),
    );
    for (id, status, seconds) in [
        ("job-20260129-100000-b", "completed", 10.0),
        ("job-20260129-110000-c", "failed", 20.0),
        ("job-20260129-120000-d", "completed", 600.0),
        ("job-20260129-130000-e", "cancelled", 0.0),
    ] {
        let output = json!({"usage": usage(1, 2), "cost_usd": 0.25});
        result(
            &alpha,
            id,
            done(status, "2026-01-29T12:00:00-05:00", seconds, output),
        );
    }
    let output = json!({"summary": "plain", "usage": null, "cost_usd": null});
    result(
        &beta,
        "job-20260130-100000-f",
        done("completed", "2026-01-30T12:00:00-05:00", 5.0, output),
    );
    (alpha, beta)
}

#[test]
fn jobs_are_summed_by_project_and_local_day() {
    let space = space();
    finished(&space);
    let told = stats(&space, &[]);
    let alpha = &told["projects"][0];
    assert_eq!(alpha["name"], "alpha");
    assert_eq!(
        alpha["days"],
        json!([
            {"day": "2026-01-28", "jobs": 1, "completed": 1, "failed": 0, "cancelled": 0,
                "success_rate": 1.0, "median_seconds": 60.0, "total_seconds": 60.0,
                "input_tokens": 10, "cached_tokens": 1000, "output_tokens": 20, "cost_usd": 0.5},
            {"day": "2026-01-29", "jobs": 4, "completed": 2, "failed": 1, "cancelled": 1,
                "success_rate": 0.6667, "median_seconds": 20.0, "total_seconds": 630.0,
                "input_tokens": 4, "cached_tokens": 4000, "output_tokens": 8, "cost_usd": 1.0},
        ])
    );
    assert_eq!(alpha["total"]["jobs"], 5);
    assert_eq!(alpha["total"]["median_seconds"], 40.0);
    let beta = &told["projects"][1];
    // Nobody told what it cost; that is not the same as nothing.
    assert_eq!(beta["total"]["cost_usd"], Value::Null);
    assert_eq!(told["total"]["jobs"], 6);
    assert_eq!(told["total"]["cost_usd"], 1.5);
    let one = stats(&space, &["-p", "beta"]);
    assert_eq!(one["projects"].as_array().unwrap().len(), 1);
    assert_eq!(one["total"]["jobs"], 1);
}

#[test]
fn a_person_sees_a_table_with_a_bar_for_each_day() {
    let space = space();
    finished(&space);
    let text = space.run(&["stats"]).ok();
    let expected = [
        "               Jobs  Done   Median    Total  Tok in Tok out      Cost",
        "alpha",
        "  2026-01-28      1  100%   1m 00s   1m 00s    1.0k      20   $0.5000  ███",
        "  2026-01-29      4   66%      20s  10m 30s    4.0k       8   $1.0000  █████░░░░",
        "  all days        5   75%      40s  11m 30s    5.0k      28   $1.5000",
        "beta",
        "  2026-01-30      1  100%     5.0s     5.0s       -       -         -  ███",
        "all projects      6   80%      20s  11m 35s    5.0k      28   $1.5000",
        "█ completed  ░ failed or cancelled",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    assert!(text.lines().all(|line| line.chars().count() <= 80));
    space.env("LANG", "C");
    let text = space.run(&["stats"]).ok();
    assert!(
        text.is_ascii() && text.contains("$1.0000  #####----"),
        "{text}"
    );
}

#[test]
fn old_results_are_left_out_and_need_not_even_be_readable() {
    let space = space();
    let (alpha, _) = finished(&space);
    let days = |since: &str| {
        let told = stats(&space, &["--since", since]);
        let days = told["projects"][0]["days"].as_array().unwrap().clone();
        days.iter()
            .map(|day| day["day"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(days("2026-01-29"), ["2026-01-29"]);
    assert_eq!(days("2026-01-28"), ["2026-01-28", "2026-01-29"]);
    assert_eq!(days("2026-01-30"), Vec::<String>::new());
    fs::write(alpha.results("job-20260101-100000-old.json"), "{").unwrap();
    assert_eq!(
        stats(&space, &["--since", "3d"])["projects"][0]["unreadable"],
        1
    );
    age(&alpha, "job-20260101-100000-old", 5);
    assert_eq!(
        stats(&space, &["--since", "3d"])["projects"][0]["unreadable"],
        0
    );
    // By itself a result that cannot be read is told of and counted nowhere.
    let ran = space.run(&["stats", "--json"]);
    assert!(
        ran.stderr
            .contains("results that cannot be read are left out: 1"),
        "{ran:?}"
    );
    assert_eq!(ran.json()["total"]["jobs"], 6);
    let text = space.run(&["stats", "--since", "1h"]).ok();
    assert!(text.starts_with("No job has finished since "), "{text}");
}

#[test]
fn results_of_the_predecessor_and_mended_ones_count_for_what_they_tell() {
    let space = space();
    let old = space.project_with("old", json!({"layout": "tasks"}));
    let id = "task-clean-up-20260101-100000";
    result(
        &old,
        id,
        json!({"task_id": id, "status": "completed", "started_at": "2026-01-01T10:00:00",
            "completed_at": "2026-01-01T10:00:30.123456", "worker_output": "all done"}),
    );
    result(
        &old,
        "task-x",
        json!({"status": "completed", "duration_seconds": null}),
    );
    age(&old, "task-x", 3);
    result(
        &old,
        "task-y",
        json!({"status": 7, "completed_at": "2026-01-02T10:00:00",
        "worker_output": {"usage": "much", "cost_usd": "dear"}}),
    );
    result(&old, "task-z", json!(["no object"]));
    let told = stats(&space, &[]);
    let project = &told["projects"][0];
    assert_eq!(project["unreadable"], 1);
    let days = project["days"].as_array().unwrap();
    assert_eq!(days.len(), 3, "{days:?}");
    assert_eq!(days[0]["day"], "2026-01-01");
    assert_eq!(days[0]["median_seconds"], 30.123);
    assert_eq!(
        (&days[1]["day"], &days[1]["failed"]),
        (&json!("2026-01-02"), &json!(1))
    );
    assert_eq!(project["total"]["completed"], 2);
    assert_eq!(project["total"]["cost_usd"], Value::Null);
}

#[test]
fn a_result_of_any_size_is_read() {
    let space = space();
    let alpha = space.project("alpha");
    for (number, size) in [1_usize, 65_000, 65_450, 65_536, 70_000, 8_000_000]
        .iter()
        .enumerate()
    {
        let id = format!("job-20260130-10000{number}-x");
        let text = "\"\\ü\n".repeat(size / 5);
        result(
            &alpha,
            &id,
            json!({"a": text, "status": "completed", "completed_at": "2026-01-30T10:00:00Z",
                "worker_output": {"summary": text, "cost_usd": 1.0}}),
        );
    }
    let told = stats(&space, &[]);
    assert_eq!(told["projects"][0]["unreadable"], 0);
    assert_eq!(told["total"]["completed"], 6);
    assert_eq!(told["total"]["cost_usd"], 6.0);
}
