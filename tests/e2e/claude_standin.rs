//! Protocol `claude` with a stand-in of that name on PATH, which writes down what it was given and
//! plays recorded streams: same bytes, same exit status, same standard error.

use crate::space::{BOUND, Project, Space, is_alive, wait_longer, wait_until};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

const ID: &str = "job-20260101-120000-hello";
const NEXT: &str = "job-20260101-120001-next";
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/claude");

/// The n-th start writes `argv.n`, `prompt.n` and `environ.n` into the project, then does what
/// the file `start.n` says, or else plays the recorded `text`. A recording is played with the
/// session that was asked for and with this project's path in place of the recorded ones.
const STAND_IN: &str = r#"
fixtures='FIXTURES'
stream() { # NAME [SED EXPRESSION...]
    name=$1; shift
    old=$(sed -n '1s/.*"session_id":"\([0-9a-f-]*\)".*/\1/p' "$fixtures/$name.jsonl")
    set -- -e "s/$old/$session/g" -e "s|/project|$PWD|g" "$@"
    sed "$@" "$fixtures/$name.jsonl"
}
play() {
    stream "$@"
    cat "$fixtures/$name.stderr" >&2
    exit "$(awk -v n="$name" '$1 == "claude" && $2 == n { print $3 }' "$fixtures/../expect.tsv")"
}
unknown_session() {
    text="No conversation found with session ID: $session"
    printf '{"type":"result","subtype":"error_during_execution","is_error":true,"num_turns":0,"total_cost_usd":0,"errors":["%s"],"session_id":"%s"}\n' "$text" "$session"
    echo "$text" >&2
    exit 1
}
n=$(ls | grep -c '^argv\.'); n=$((n + 1))
for argument in "$@"; do printf '%s\n' "$argument"; done > argv.$n
env > environ.$n; ls -ld "$CLAUDE_CODE_TMPDIR" > scratch.$n 2>&1; cat > prompt.new; mv prompt.new prompt.$n
session=
while [ $# -gt 0 ]; do
    case $1 in --session-id | --resume) session=$2 ;; esac
    shift
done
if [ -e start.$n ]; then . ./start.$n; fi
play text
"#;

pub fn stand_in(space: &Space) {
    space.claude(&STAND_IN.replace("FIXTURES", FIXTURES));
}

/// A space with the stand-in and one project.
fn one_project() -> (Space, Project) {
    let space = Space::new();
    stand_in(&space);
    let project = space.project("alpha");
    (space, project)
}

/// What the n-th start of the stand-in does instead of playing `text`.
pub fn script(project: &Project, start: u32, body: &str) {
    fs::write(project.path.join(format!("start.{start}")), body).unwrap();
}

fn argv(project: &Project, start: u32) -> Vec<String> {
    let text = project.made(&format!("argv.{start}"));
    text.lines().map(str::to_owned).collect()
}

/// The argument after an option.
fn option(project: &Project, start: u32, name: &str) -> Option<String> {
    let argv = argv(project, start);
    let at = argv.iter().position(|argument| argument == name)?;
    argv.get(at + 1).cloned()
}

fn variable(project: &Project, start: u32, name: &str) -> Option<String> {
    let environ = project.made(&format!("environ.{start}"));
    let line = environ
        .lines()
        .find(|line| line.starts_with(&format!("{name}=")))?;
    Some(line[name.len() + 1..].to_owned())
}

pub fn starts(project: &Project) -> usize {
    let names = project.names(&project.path);
    names
        .iter()
        .filter(|name| name.starts_with("argv."))
        .count()
}

pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// The seconds from now to a point of time that a document tells, as `date` reads it.
pub fn ahead(time: &Value) -> i64 {
    let text = time.as_str().expect("a time");
    let date = std::process::Command::new("date")
        .args(["-d", text, "+%s"])
        .output()
        .unwrap();
    let at: i64 = String::from_utf8_lossy(&date.stdout)
        .trim()
        .parse()
        .unwrap();
    at - i64::try_from(now()).unwrap()
}

/// The claim's document, if there is a claim.
fn claim(project: &Project) -> Option<Value> {
    let text = project.claim(ID)?;
    serde_json::from_str(text.lines().next()?).ok()
}

fn is_uuid(text: &str) -> bool {
    let form: String = text
        .chars()
        .map(|c| if c.is_ascii_hexdigit() { 'x' } else { c })
        .collect();
    form == "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
}

// --- what the agent is given ---

#[test]
fn the_command_line_is_the_contract_s_with_the_job_s_wishes_and_the_agent_s_own_arguments_last() {
    let (space, project) = one_project();
    space.set(json!({
        "max_budget_usd": 3,
        "agents": {"claude": {"args": ["--permission-mode", "plan", "--allowedTools", "Bash(cargo *)"]}},
    }));
    space.start();
    project.submit(
        ID,
        "---\nmodel: opus\nmax-turns: 7\nmax-budget-usd: 2.5\n---\nthe text",
    );
    let result = project.wait_result(ID);
    assert_eq!(result["status"], "completed", "{result}");
    let session = result["session_id"].as_str().unwrap();
    assert!(is_uuid(session), "{session}");
    let expected = [
        "-p",
        "--output-format",
        "stream-json",
        "--verbose",
        "--permission-mode",
        "acceptEdits",
        "--setting-sources",
        "project",
        "--disallowedTools",
        "Monitor,ScheduleWakeup,CronCreate",
        "--session-id",
        session,
        "--model",
        "opus",
        "--max-turns",
        "7",
        "--max-budget-usd",
    ];
    let argv = argv(&project, 1);
    assert_eq!(argv[..expected.len()], expected);
    assert_eq!(argv[expected.len()].parse(), Ok(2.5));
    assert_eq!(
        argv[expected.len() + 1..],
        [
            "--permission-mode",
            "plan",
            "--allowedTools",
            "Bash(cargo *)"
        ]
    );
    // Without wishes none of the options is there, and each job has a session of its own.
    space.set(json!({"max_budget_usd": null, "agents": {}}));
    space.wait_log("Job completed");
    assert_eq!(space.stop(), 0);
    space.start();
    project.submit(NEXT, "x");
    let result = project.wait_result(NEXT);
    let argv = self::argv(&project, 2);
    assert_eq!(argv[..11], expected[..11]);
    assert_eq!(argv[11..], [result["session_id"].as_str().unwrap()]);
    assert_ne!(argv[11], session);
}

#[test]
fn the_prompt_calls_the_skill_only_where_the_project_has_it() {
    let space = Space::new();
    stand_in(&space);
    let skill = ".claude/skills/task-coordination/SKILL.md";
    let command = ".claude/commands/task-coordination.md";
    let text = "---\ntimeout: 1h\n---\n/help is no command here\n";
    let body = "Execute the following job:\n\n/help is no command here\n";
    let rows = [
        ("without", None, body.to_owned()),
        (
            "skill",
            Some(skill),
            format!("/task-coordination\n\n{body}"),
        ),
        (
            "command",
            Some(command),
            format!("/task-coordination\n\n{body}"),
        ),
    ];
    let projects = rows.each_ref().map(|(name, file, _)| {
        let project = space.project(name);
        if let Some(file) = file {
            let path = project.path.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "---\nname: task-coordination\n---\n").unwrap();
        }
        project
    });
    space.start();
    for ((name, _, prompt), project) in rows.iter().zip(&projects) {
        project.submit(ID, text);
        project.submit(NEXT, text);
        project.wait_result(NEXT);
        assert_eq!(project.made("prompt.1"), *prompt, "{name}");
    }
    let sentence = "has no skill task-coordination";
    wait_until("a word on the missing skill", || {
        projects[0].journal().contains(sentence)
    });
    assert_eq!(projects[0].journal().matches(sentence).count(), 1);
    for project in &projects[1..] {
        assert!(!project.journal().contains(sentence));
    }
}

#[test]
fn an_agent_s_own_prompt_replaces_the_template_but_never_puts_the_document_at_the_head() {
    let (space, project) = one_project();
    space.set(json!({"agents": {"claude": {"prompt": "Do it:\n{content}\nThat is all."}}}));
    space.start();
    project.submit(ID, "/help");
    project.wait_result(ID);
    assert_eq!(project.made("prompt.1"), "Do it:\n/help\nThat is all.");
    space.set(json!({"agents": {"claude": {"prompt": "{content}"}}}));
    let began = Instant::now();
    for n in 2.. {
        let id = format!("job-20260101-13{n:04}-next");
        project.submit(&id, "/help");
        project.wait_result(&id);
        let prompt = project.made(&format!("prompt.{n}"));
        if !prompt.starts_with("Do it:") {
            assert_eq!(prompt, "\n/help");
            break;
        }
        assert!(began.elapsed() < BOUND);
    }
}

#[test]
fn the_environment_tames_the_cli_unless_the_person_has_chosen() {
    let space = Space::new();
    stand_in(&space);
    let chosen = space.root().join("chosen");
    fs::create_dir(&chosen).unwrap();
    for mark in [
        "CLAUDECODE",
        "CLAUDE_CODE_ENTRYPOINT",
        "CLAUDE_CODE_SESSION_ID",
        "CLAUDE_PID",
    ] {
        space.env(mark, "1");
    }
    let ours = space.project("ours");
    space.set(json!({"agents": {"chosen": {
        "protocol": "claude",
        "command": ["claude"],
        "env": {"CLAUDE_CODE_TMPDIR": chosen, "CLAUDE_CODE_MAX_RETRIES": "9"},
    }}}));
    let theirs = space.project_with("theirs", json!({"agent": "chosen"}));
    space.credentials("DISABLE_AUTOUPDATER=0\n", 0o600);
    space.start();
    for project in [&ours, &theirs] {
        project.submit(ID, "x");
        assert_eq!(project.wait_result(ID)["status"], "completed");
        for mark in [
            "CLAUDECODE",
            "CLAUDE_CODE_ENTRYPOINT",
            "CLAUDE_CODE_SESSION_ID",
            "CLAUDE_PID",
            "GLIBC_TUNABLES",
        ] {
            assert_eq!(variable(project, 1, mark), None, "{mark}");
        }
        let get = |name| variable(project, 1, name).unwrap_or_default();
        assert_eq!(get("CLAUDE_CODE_DISABLE_BACKGROUND_TASKS"), "1");
        assert_eq!(get("DISABLE_AUTOUPDATER"), "0");
    }
    // The CLI's own repeats stay at its default.
    let retries = [&ours, &theirs].map(|p| variable(p, 1, "CLAUDE_CODE_MAX_RETRIES"));
    assert_eq!(retries, [None, Some("9".to_owned())]);
    // Ours was there for the run alone, for nobody else; the person's own is left alone.
    let scratch = variable(&ours, 1, "CLAUDE_CODE_TMPDIR").unwrap();
    assert!(ours.made("scratch.1").starts_with("drwx------"));
    assert!(
        scratch.len() < 60 + space.root().as_os_str().len(),
        "{scratch}"
    );
    assert!(!Path::new(&scratch).exists(), "{scratch} is left");
    assert_eq!(
        variable(&theirs, 1, "CLAUDE_CODE_TMPDIR").as_deref(),
        chosen.to_str()
    );
    assert!(chosen.exists());
}

#[test]
fn scratch_directories_of_a_killed_daemon_are_removed_at_the_next_start() {
    let (space, project) = one_project();
    script(
        &project,
        1,
        "touch \"$CLAUDE_CODE_TMPDIR/file\"; stream sigkill-in-tool; sleep 600",
    );
    space.start();
    project.submit(ID, "x");
    project.wait_made("prompt.1");
    let scratch = variable(&project, 1, "CLAUDE_CODE_TMPDIR").unwrap();
    wait_until("the file in it", || {
        Path::new(&scratch).join("file").exists()
    });
    space.kill();
    assert!(Path::new(&scratch).exists());
    space.start();
    project.wait_result(ID);
    assert!(!Path::new(&scratch).exists());
}

// --- what the result tells ---

#[test]
fn the_result_has_what_the_stream_told() {
    let (space, project) = one_project();
    let server = r#"{"name":"db","status":"failed"},{"name":"web","status":"connected"}"#;
    let servers = format!("-e 's/\"mcp_servers\":\\[/&{server}/'");
    script(&project, 1, &format!("play tool-write {servers}"));
    script(&project, 2, "play permission-denials");
    space.start();
    project.submit(ID, "x");
    let result = project.wait_result(ID);
    assert_eq!(result["status"], "completed");
    assert_eq!(result["agent"], "claude");
    assert_eq!(result["agent_version"], "2.1.328");
    assert_eq!(result["model"], "claude-opus-5-5");
    assert_eq!(result["artifacts"], json!(["stub-output.txt"]));
    assert_eq!(result["permission_denials"], json!([]));
    assert_eq!(result["failed_mcp_servers"], json!(["db"]));
    let output = &result["worker_output"];
    assert!(!output["summary"].as_str().unwrap().is_empty());
    assert!(output["usage"]["input_tokens"].as_u64().unwrap() > 0);
    assert!(output["cost_usd"].as_f64().unwrap() > 0.0);
    assert!(result["num_turns"].as_u64().unwrap() >= 2);
    let logs = [
        format!("jobs/logs/{ID}.md"),
        format!("jobs/logs/{ID}.jsonl"),
        format!("jobs/logs/{ID}.err"),
    ];
    assert_eq!(result["logs"], json!(logs));
    project.submit(NEXT, "x");
    let result = project.wait_result(NEXT);
    let denied = result["permission_denials"].as_array().unwrap();
    assert_eq!(denied.len(), 6);
    assert_eq!(denied[0]["tool_name"], "Bash");
    assert_eq!(result["artifacts"], json!(["ok.txt"]));
    let shown = space.run(&[NEXT]).ok();
    for (text, why) in [("Bash", "the denied tool"), ("allow", "the remedy")] {
        assert!(shown.contains(text), "{why} is not shown: {shown}");
    }
}

#[test]
fn the_audit_block_of_the_final_answer_is_taken_into_the_result() {
    let (space, project) = one_project();
    let answer = r#"All done.\\n\\n```json\\n{\\"audit_score\\": 95, \\"audit_notes\\": \\"fine\\", \\"artifacts\\": [\\"a.txt\\"]}\\n```"#;
    script(
        &project,
        1,
        &format!("play text -e 's|The task is done.|{answer}|g'"),
    );
    space.start();
    project.submit(ID, "x");
    let result = project.wait_result(ID);
    assert_eq!(result["audit_score"], 95.0);
    assert_eq!(result["audit_notes"], "fine");
    assert_eq!(result["artifacts"], json!(["a.txt"]));
}

// --- holds ---

#[test]
fn a_usage_limit_is_waited_out_by_every_project_of_the_agent_and_the_same_session_goes_on() {
    let space = Space::new();
    stand_in(&space);
    let (alpha, beta) = (space.project("alpha"), space.project("beta"));
    space.program("other", "cat > /dev/null; echo done");
    space.set(json!({"agents": {"other": {"command": ["other"]}}}));
    let other = space.project_with("other-agent", json!({"agent": "other"}));
    let reset = now() + 5;
    script(
        &alpha,
        1,
        &format!("play subscription-limit-5h -e 's/1795173825/{reset}/g'"),
    );
    space.start();
    alpha.submit(ID, "the text");
    alpha.wait_view("held", |view| view["hold"]["kind"] == "usage_limit");
    beta.submit(ID, "x");
    other.submit(ID, "x");
    let view = beta.wait_view("held, too", |view| view["hold"]["kind"] == "usage_limit");
    assert!((0..=10).contains(&ahead(&view["hold"]["until"])), "{view}");
    assert_eq!(other.wait_result(ID)["status"], "completed");
    assert_eq!(starts(&beta), 0);
    // The hold is durable, so a restart changes nothing.
    space.kill();
    space.start();
    let listed = space.run(&["list", "--json"]).json();
    for project in listed["projects"].as_array().unwrap() {
        let held = project["name"] != "other-agent";
        assert_eq!(project["hold"]["kind"] == "usage_limit", held, "{project}");
    }
    assert!(space.run(&["queue", "-p", "beta"]).ok().contains("limit"));
    let result = alpha.wait_result(ID);
    assert!(now() >= reset, "it did not wait");
    assert_eq!(result["status"], "completed", "{result}");
    assert_eq!(result["retry_count"], 0);
    let attempts = result["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2);
    assert_eq!(attempts[0]["error_kind"], "usage_limit");
    let session = option(&alpha, 1, "--session-id");
    assert!(session.is_some());
    assert_eq!(option(&alpha, 2, "--resume"), session);
    assert_eq!(option(&alpha, 2, "--session-id"), None);
    assert_eq!(result["session_id"], session.unwrap());
    let prompt = alpha.made("prompt.2");
    assert!(prompt.contains("usage limit"), "{prompt}");
    assert!(!prompt.contains("the text"), "the document was repeated");
    let result = beta.wait_result(ID);
    assert_eq!(result["attempts"].as_array().unwrap().len(), 1);
    assert!(alpha.logs(&format!("{ID}.2.jsonl")).is_file());
}

#[test]
fn credentials_that_are_not_accepted_hold_the_agent_until_they_change_or_a_person_says() {
    let space = Space::new();
    stand_in(&space);
    let (alpha, beta) = (space.project("alpha"), space.project("beta"));
    script(&alpha, 1, "play api-401-no-retry");
    script(&alpha, 2, "play not-logged-in");
    space.credentials("ANTHROPIC_API_KEY=wrong\n", 0o600);
    space.start();
    alpha.submit(ID, "x");
    let held = |view: &Value| view["hold"]["kind"] == "not_authenticated";
    alpha.wait_view("held", held);
    beta.submit(ID, "x");
    let view = beta.wait_view("held, too", held);
    assert_eq!(view["hold"]["until"], Value::Null);
    space.credentials("ANTHROPIC_API_KEY=still-wrong\n", 0o600);
    wait_until("a second start", || starts(&alpha) == 2);
    // It says the same again; only a person knows better now.
    wait_until("held again", || {
        claim(&alpha).is_some_and(|claim| claim["attempts"].as_array().unwrap().len() == 2)
            && held(&alpha.view())
    });
    space.run(&["-p", "alpha", "release", ID]).ok();
    let result = alpha.wait_result(ID);
    assert_eq!(result["status"], "completed");
    assert_eq!(result["retry_count"], 0);
    assert_eq!(result["attempts"].as_array().unwrap().len(), 3);
    let session = option(&alpha, 1, "--session-id");
    assert_eq!(option(&alpha, 3, "--resume"), session);
    beta.wait_result(ID);
}

#[test]
fn a_session_that_the_cli_does_not_know_starts_afresh_with_the_document() {
    let (space, project) = one_project();
    script(&project, 1, "play api-401-no-retry");
    script(&project, 2, "unknown_session");
    space.start();
    project.submit(ID, "the text");
    project.wait_view("held", |view| view["hold"] != Value::Null);
    space.credentials("ANTHROPIC_API_KEY=right\n", 0o600);
    let result = project.wait_result(ID);
    assert_eq!(result["status"], "completed", "{result}");
    assert_eq!(result["retry_count"], 0);
    assert_eq!(result["attempts"].as_array().unwrap().len(), 3);
    let first = option(&project, 1, "--session-id").unwrap();
    assert_eq!(option(&project, 2, "--resume"), Some(first.clone()));
    let last = option(&project, 3, "--session-id").unwrap();
    assert_ne!(last, first);
    assert_eq!(result["session_id"], last);
    assert!(project.made("prompt.3").contains("the text"));
}

// --- retries ---

#[test]
fn an_overloaded_service_is_tried_again_after_a_pause_also_over_a_restart() {
    let (space, project) = one_project();
    script(&project, 1, "play api-529");
    space.start();
    project.submit(ID, "x");
    project.submit(NEXT, "x");
    let held = |view: &Value| view["hold"]["kind"] == "overloaded";
    let view = project.wait_view("held", held);
    let pause = ahead(&view["hold"]["until"]);
    assert!((20..=30).contains(&pause), "{pause} s ahead");
    // It keeps its place at the head, and its project waits.
    let queued = json!([format!("{ID}.md"), format!("{NEXT}.md")]);
    assert_eq!(view["queued_tasks"], queued);
    assert!(space.run(&["queue"]).ok().contains(ID));
    space.kill();
    space.start();
    let again = project.wait_view("the same", |again| {
        again["updated_at"] != view["updated_at"] && held(again)
    });
    assert_eq!(again["hold"], view["hold"]);
    assert_eq!(starts(&project), 1);
    // The pause is over: as the hold says, so it is done.
    assert_eq!(space.stop(), 0);
    let path = space.state().join("holds.json");
    let mut holds: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    holds["list"][0]["probe_at"] = json!("2026-01-01T00:00:00.000+00:00");
    fs::write(path, holds.to_string()).unwrap();
    space.start();
    let result = project.wait_result(ID);
    assert_eq!(result["status"], "completed");
    assert_eq!(result["retry_count"], 0);
    let session = option(&project, 1, "--session-id");
    assert_eq!(option(&project, 2, "--resume"), session);
    assert!(project.made("prompt.2").contains("overloaded"));
}

/// The CLI repeats its requests by itself for minutes. A job must not be lost because its time ran out meanwhile.
#[test]
fn an_outage_that_outlasts_the_timeout_holds_the_agent_and_fails_no_job() {
    let (space, project) = one_project();
    space.set(json!({"timeout": "4s"}));
    let retry = r#"{"type":"system","subtype":"api_retry","attempt":1,"max_retries":10,"error_status":529,"error":"rate_limit"}"#;
    script(&project, 1, &format!("echo '{retry}'; sleep 600"));
    space.start();
    project.submit(ID, "x");
    project.wait_view("held", |view| view["hold"]["kind"] == "overloaded");
    space.run(&["release", "--all"]).ok();
    let result = project.wait_result(ID);
    assert_eq!(result["status"], "completed", "{result:#}");
    assert_eq!(result["attempts"][0]["error_kind"], "overloaded");
    let session = option(&project, 1, "--session-id");
    assert_eq!(option(&project, 2, "--resume"), session);
}

#[test]
fn the_time_in_which_the_service_was_ill_is_not_the_job_s() {
    let (space, project) = one_project();
    space.set(json!({"timeout": "10s"}));
    let retry = r#"{"type":"system","subtype":"api_retry","attempt":1,"max_retries":10,"error_status":529,"error":"rate_limit"}"#;
    let answer =
        r#"{"type":"assistant","message":{"content":[{"type":"text","text":"At last."}]}}"#;
    let script_text = format!("echo '{retry}'; sleep 8; echo '{answer}'; sleep 6; stream text");
    script(&project, 1, &script_text);
    space.start();
    project.submit(ID, "x");
    let result = project.wait_result(ID);
    assert_eq!(result["status"], "completed", "{result:#}");
    assert!(result["duration_seconds"].as_f64() > Some(13.0));
}

// --- interruptions ---

#[test]
fn an_interrupted_session_is_resumed_and_told_what_happened() {
    let (space, project) = one_project();
    script(
        &project,
        1,
        "stream sigkill-in-tool; setsid sleep 600 & echo $! > pid; sleep 600",
    );
    space.start();
    project.submit(ID, "the text");
    let pid: i32 = project.wait_made("pid").trim().parse().unwrap_or_else(|_| {
        wait_until("the pid", || !project.made("pid").is_empty());
        project.made("pid").trim().parse().unwrap()
    });
    space.kill();
    assert!(is_alive(pid));
    space.start();
    let result = project.wait_result(ID);
    assert!(!is_alive(pid), "a tool survived");
    assert_eq!(result["status"], "completed", "{result}");
    assert_eq!(result["retry_count"], 0);
    assert_eq!(result["attempts"][0]["error_kind"], "interrupted");
    let session = option(&project, 1, "--session-id");
    assert_eq!(option(&project, 2, "--resume"), session);
    let prompt = project.made("prompt.2");
    assert!(prompt.contains("(interrupted)") && !prompt.contains("the text"));
    space.assert_no_survivor();
}

#[test]
fn a_final_result_that_is_in_the_output_already_counts_after_a_crash() {
    let (space, project) = one_project();
    script(&project, 1, "stream text; touch played; sleep 600");
    space.start();
    project.submit(ID, "x");
    project.wait_made("played");
    space.kill();
    space.start();
    let result = project.wait_result(ID);
    assert_eq!(result["status"], "completed", "{result}");
    assert_eq!(result["worker_output"]["summary"], "The task is done.");
    assert_eq!(starts(&project), 1);
    space.assert_no_survivor();
}

// --- the end of an attempt ---

#[test]
fn an_agent_that_stays_after_its_final_result_is_ended_and_the_result_counts() {
    let (space, project) = one_project();
    space.set(json!({"linger": "500ms"}));
    script(
        &project,
        1,
        "stream text; trap '' TERM; sleep 600; sleep 600",
    );
    space.start();
    project.submit(ID, "x");
    let result = project.wait_result(ID);
    assert_eq!(result["status"], "completed", "{result}");
    assert_eq!(result["attempts"][0]["signal"], 9);
    assert_eq!(result["worker_output"]["summary"], "The task is done.");
    space.assert_no_survivor();
}

#[test]
fn what_is_to_wake_the_agent_again_is_awaited_however_long_it_may_linger() {
    let (space, project) = one_project();
    space.set(json!({"linger": "0"}));
    script(
        &project,
        1,
        "stream monitor-awaited | head -n 7; : > ended; until [ -e go ]; do sleep 0.02; done
         stream monitor-awaited | tail -n +8; exit 0",
    );
    space.start();
    project.submit(ID, "x");
    wait_until("its turn's end", || project.path.join("ended").exists());
    // Looks go on meanwhile: each of these is told of by one.
    for id in [NEXT, "job-20260101-120002-last"] {
        project.submit(id, "x");
        project.wait_view("that it is seen", |view| {
            view["queued_tasks"].to_string().contains(id)
        });
    }
    fs::write(project.path.join("go"), "").unwrap();
    let result = project.wait_result(ID);
    assert_eq!(result["status"], "completed", "{result}");
    assert_eq!(result["attempts"][0]["exit_code"], 0);
}

#[test]
fn of_several_results_the_last_counts_and_usage_is_that_of_all() {
    let (space, project) = one_project();
    // Longer at work after its first result than it may linger after a final one.
    space.set(json!({"linger": "300ms"}));
    script(
        &project,
        1,
        "stream text; stream text | head -n 2; sleep 1.2
stream text -e 's/The task is done./And now really./g' -e 's/\"total_cost_usd\":0.0008/\"total_cost_usd\":0.002/' | tail -n 1; exit 0",
    );
    space.start();
    project.submit(ID, "x");
    let result = project.wait_result(ID);
    assert_eq!(result["status"], "completed", "{result}");
    let output = &result["worker_output"];
    assert_eq!(output["summary"], "And now really.");
    assert_eq!(output["cost_usd"], 0.002);
    assert_eq!(output["usage"]["input_tokens"], 200);
    assert_eq!(output["usage"]["output_tokens"], 40);
    assert_eq!(result["num_turns"], 2);
}

#[test]
fn an_agent_that_says_nothing_is_never_complete() {
    let (space, project) = one_project();
    space.set(json!({"silence_timeout": "1s", "breaker": 0, "retries": 0}));
    let rows = [
        ("exit 0", "no_result"),
        ("echo 'cannot do it' >&2; exit 3", "exit_code"),
        ("kill -9 $$", "signal"),
        ("echo no json at all; exit 0", "no_result"),
        ("stream text | head -n 1; exit 0", "no_result"),
        ("stream text | head -c -200; exit 0", "no_result"),
        ("sleep 600", "silent"),
        ("stream text | head -n 2; sleep 600", "silent"),
    ];
    for (at, (body, _)) in rows.iter().enumerate() {
        script(&project, u32::try_from(at).unwrap() + 1, body);
    }
    space.start();
    for (at, (body, kind)) in rows.iter().enumerate() {
        let id = format!("job-20260101-12000{at}-x");
        project.submit(&id, "x");
        let result = project.wait_result(&id);
        assert_eq!(result["status"], "failed", "{body}");
        assert_eq!(result["error_kind"], *kind, "{body}: {result}");
    }
}

// --- money ---

#[test]
fn cost_and_usage_are_those_of_all_starts_and_a_resumed_one_gets_what_is_left() {
    let (space, project) = one_project();
    space.set(json!({"max_budget_usd": 2}));
    // The running total of the session: 0.5 after the first start, 0.8 after the second.
    script(
        &project,
        1,
        "play api-401-no-retry -e 's/\"total_cost_usd\":0,/\"total_cost_usd\":0.5,/' -e 's/\"input_tokens\":0,/\"input_tokens\":7,/'",
    );
    script(
        &project,
        2,
        "play text -e 's/\"total_cost_usd\":0.0008/\"total_cost_usd\":0.8/'",
    );
    space.start();
    project.submit(ID, "x");
    project.wait_view("held", |view| view["hold"] != Value::Null);
    space.credentials("ANTHROPIC_API_KEY=right\n", 0o600);
    let result = project.wait_result(ID);
    assert_eq!(result["status"], "completed", "{result}");
    assert_eq!(result["worker_output"]["cost_usd"], 0.8);
    assert_eq!(result["worker_output"]["usage"]["input_tokens"], 107);
    assert_eq!(result["attempts"][0]["cost_usd"], 0.5);
    assert_eq!(result["attempts"][1]["cost_usd"], 0.8);
    let given = |start| -> f64 {
        let text = option(&project, start, "--max-budget-usd").unwrap();
        text.parse().unwrap()
    };
    assert_eq!((given(1), given(2)), (2.0, 1.5));
    // It is counted once the result is there.
    wait_until("the ledger to have all", || {
        let holds = fs::read(space.state().join("holds.json")).unwrap();
        let holds: Value = serde_json::from_slice(&holds).unwrap();
        let spent = holds["ledger"]["projects"]["alpha"].as_f64().unwrap();
        (spent - 0.8).abs() < 1e-9
    });
}

#[test]
fn a_job_whose_money_is_used_up_is_not_started_again() {
    let (space, project) = one_project();
    space.set(json!({"max_budget_usd": 0.5}));
    script(
        &project,
        1,
        "play api-401-no-retry -e 's/\"total_cost_usd\":0,/\"total_cost_usd\":0.49996,/'",
    );
    space.start();
    project.submit(ID, "x");
    project.wait_view("held", |view| view["hold"] != Value::Null);
    space.credentials("ANTHROPIC_API_KEY=right\n", 0o600);
    let result = project.wait_result(ID);
    assert_eq!(result["status"], "failed");
    assert_eq!(result["error_kind"], "budget");
    // What is left could not be told to the CLI.
    assert_eq!(result["worker_output"]["cost_usd"], 0.49996);
    assert_eq!(starts(&project), 1);
}

#[test]
fn a_day_s_money_that_is_used_up_holds_until_midnight_also_over_a_restart() {
    let space = Space::new();
    stand_in(&space);
    space.set(json!({"daily_budget_usd": 1}));
    let (alpha, beta) = (space.project("alpha"), space.project("beta"));
    let own = space.project_with("own", json!({"daily_budget_usd": 0.25}));
    let cost = |amount: &str| {
        format!("play text -e 's/\"total_cost_usd\":0.0008/\"total_cost_usd\":{amount}/'")
    };
    script(&own, 1, &cost("0.3"));
    script(&alpha, 1, &cost("0.8"));
    space.start();
    let held = |view: &Value| view["hold"]["kind"] == "daily_budget";
    // A project's own limit holds it alone.
    own.submit(ID, "x");
    own.wait_result(ID);
    own.submit(NEXT, "x");
    own.wait_view("held", held);
    alpha.submit(ID, "x");
    assert_eq!(alpha.wait_result(ID)["status"], "completed");
    // All together have used up what holds over all, as is known when a result has been taken note of.
    alpha.submit(NEXT, "x");
    alpha.wait_view("held", held);
    beta.submit(ID, "x");
    for project in [&alpha, &beta] {
        let view = project.wait_view("held", held);
        let until = view["hold"]["until"].as_str().unwrap();
        assert!(until.contains("T00:00:00"), "{until}");
    }
    let path = space.state().join("holds.json");
    let read = || serde_json::from_slice::<Value>(&fs::read(&path).unwrap()).unwrap();
    for is_older in [false, true] {
        assert_eq!(space.stop(), 0);
        if is_older {
            // What an older writer left.
            let old = space.state().join("ledger.json");
            fs::write(old, read()["ledger"].to_string()).unwrap();
            fs::remove_file(&path).unwrap();
        }
        space.start();
        for project in [&alpha, &beta, &own] {
            project.wait_view("held after the restart", held);
        }
    }
    assert_eq!((starts(&alpha), starts(&beta), starts(&own)), (1, 0, 1));
    // A new day, as far as the ledger can tell.
    assert_eq!(space.stop(), 0);
    let mut holds = read();
    holds["ledger"]["day"] = json!("2020-01-01");
    fs::write(&path, holds.to_string()).unwrap();
    space.start();
    alpha.wait_result(NEXT);
    beta.wait_result(ID);
}

// --- floods ---

/// The most memory that the daemon has used, in KiB.
fn peak_kib(space: &Space) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", space.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap()
}

/// What a daemon may grow to, a debug build included. A quarter of any flood below.
const PEAK_MAX_KIB: u64 = 48 << 10;

#[test]
fn a_line_of_300_mb_does_no_harm() {
    let (space, project) = one_project();
    script(
        &project,
        1,
        r#"stream text | head -n 1
printf '{"type":"user","message":{"role":"user","content":[{"type":"tool_result","content":"'
head -c 300000000 /dev/zero | tr '\0' x
printf '"}]},"session_id":"%s"}\n' "$session"
stream text | tail -n 2; exit 0"#,
    );
    space.start();
    project.submit(ID, "x");
    let result = wait_longer(BOUND * 3, "the result", || project.result(ID));
    assert_eq!(result["status"], "completed", "{result}");
    assert_eq!(result["worker_output"]["summary"], "The task is done.");
    let peak = peak_kib(&space);
    assert!(peak < PEAK_MAX_KIB, "the daemon grew to {peak} KiB");
}

#[test]
fn a_flood_of_output_ends_the_attempt_and_no_memory() {
    let (space, project) = one_project();
    // The parser of a debug build takes half a minute for the gibibyte that is the default.
    let limit: u64 = if cfg!(debug_assertions) {
        256 << 20
    } else {
        1 << 30
    };
    space.set(json!({"max_output": limit}));
    // A hole in the log is as good as bytes and quickly written; the rest are lines of the CLI's.
    script(
        &project,
        1,
        &format!(
            r#"log="jobs/logs/$JOB_MONITOR_JOB_ID.jsonl"; stream text | head -n 1
truncate -s {limit} "$log"; while :; do stream text | head -n 2 | tail -n 1; done >> "$log""#
        ),
    );
    space.start();
    project.submit(ID, "x");
    let result = wait_longer(BOUND * 3, "the result", || project.result(ID));
    assert_eq!(result["status"], "failed");
    assert_eq!(result["error_kind"], "output_limit", "{result}");
    let peak = peak_kib(&space);
    assert!(peak < PEAK_MAX_KIB, "the daemon grew to {peak} KiB");
}

#[test]
fn an_agent_that_writes_faster_than_it_is_read_is_ended_all_the_same() {
    let (space, project) = one_project();
    space.set(json!({"max_output": "16 MiB"}));
    // About 50 MB a second, more than a debug build reads.
    script(
        &project,
        1,
        r#"yes '{"type":"system","subtype":"flood"}' | head -c 5000000 > ../flood
while :; do cat ../flood; sleep 0.1; done"#,
    );
    space.start();
    project.submit(ID, "x");
    let result = wait_longer(BOUND * 3, "the result", || project.result(ID));
    assert_eq!(result["error_kind"], "output_limit", "{result}");
}

// --- bytes that do not belong in a terminal ---

#[test]
fn bytes_that_are_no_text_and_escape_sequences_do_no_harm_to_anybody() {
    let (space, project) = one_project();
    // ESC, CSI as one character, a bidi override, BEL, and a byte that is no UTF-8 in a line of
    // the agent's; escaped as JSON wants it where the CLI writes it.
    let answer = r"evil \\u001b[2J\\u001b]0;title\\u0007 \\u009b31m \\u202egnp.exe end";
    script(
        &project,
        1,
        &format!(
            r#"printf 'not json \377\376 \033[31m\n'; printf '\033]0;owned\007 warning\n' >&2
play text -e 's|The task is done.|{answer}|g'"#
        ),
    );
    space.start();
    project.submit(ID, "x");
    let result = project.wait_result(ID);
    assert_eq!(result["status"], "completed", "{result}");
    // The document keeps what was said.
    let summary = result["worker_output"]["summary"].as_str().unwrap();
    assert!(summary.contains('\u{1b}') && summary.contains('\u{202e}'));
    for command in [
        &[ID][..],
        &["logs", ID],
        &["status"],
        &["queue"],
        &["list"],
        &["wait", ID],
    ] {
        let ran = space.run(command);
        assert!(ran.status == 0, "{command:?}: {ran:?}");
        for text in [&ran.stdout, &ran.stderr] {
            let harmful = text.chars().find(|&c| {
                (c.is_control() && c != '\n' && c != '\t')
                    || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            });
            assert_eq!(harmful, None, "{command:?}: {text:?}");
        }
    }
    let log = space.log();
    assert!(!log.contains('\u{1b}'), "{log:?}");
    let mode = fs::metadata(project.logs(&format!("{ID}.jsonl")))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}
