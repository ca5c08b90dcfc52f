//! Protocol `claude` with a stand-in of that name on PATH, which writes down what it was given and
//! plays recorded streams: same bytes, same exit status, same standard error.

use crate::machine::peak_of;
use crate::space::{
    BOUND, MustHave, Project, Ran, Space, attempts, is_alive, wait_longer, wait_until,
};
use crate::stage::{ID, NEXT};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

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

/// A space with the stand-in and one project, whose first starts are to do something else.
pub fn one_project(scripts: &[&str]) -> (Space, Project) {
    let (space, project) = Space::with_project();
    stand_in(&space);
    for (start, body) in (1..).zip(scripts) {
        script(&project, start, body);
    }
    (space, project)
}

/// The result of a job whose first start does something, after whatever settings there are.
#[track_caller]
fn one_job(settings: Value, body: &str) -> (Space, Project, Value) {
    let (space, project) = one_project(&[body]);
    space.set(settings);
    space.start();
    let result = project.run(ID, "x");
    (space, project, result)
}

/// The result of a job whose first start finds the credentials refused, which are right from then on.
#[track_caller]
fn mended(settings: Value, scripts: &[&str]) -> (Space, Project, Value) {
    let (space, project) = one_project(scripts);
    space.set(settings);
    space.start();
    project.submit(ID, "the text");
    project.wait_hold("not_authenticated");
    space.credentials("ANTHROPIC_API_KEY=right\n", 0o600);
    let result = project.wait_result(ID);
    (space, project, result)
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
    let mut argv = argv(project, start).into_iter();
    argv.find(|argument| argument == name)?;
    argv.next()
}

/// A start goes on in the session of the first.
#[track_caller]
fn assert_resumed(project: &Project, start: u32) {
    let session = option(project, 1, "--session-id");
    assert!(session.is_some());
    assert_eq!(option(project, start, "--resume"), session);
    assert_eq!(option(project, start, "--session-id"), None);
}

fn variable(project: &Project, start: u32, name: &str) -> Option<String> {
    let environ = project.made(&format!("environ.{start}"));
    let mut pairs = environ.lines().filter_map(|line| line.split_once('='));
    Some(pairs.find(|(own, _)| *own == name)?.1.to_owned())
}

pub fn starts(project: &Project) -> usize {
    let names = project.names(&project.path);
    let starts = names.iter().filter(|name| name.starts_with("argv."));
    starts.count()
}

pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap().as_secs()
}

/// The seconds from now to a point of time that a document tells, as `date` reads it.
pub fn ahead(time: &Value) -> i64 {
    let mut date = Command::new("date");
    date.args(["-d", time.as_str().expect("a time"), "+%s"]);
    let at = Ran::of(date.output().unwrap()).ok();
    at.trim().parse::<i64>().unwrap() - i64::try_from(now()).unwrap()
}

/// A recording of credentials that are refused.
pub const REFUSED: &str = "play api-401-no-retry";

/// The recorded usage limit, with another end.
pub fn limit_until(reset: u64) -> String {
    format!("play subscription-limit-5h -e 's/1795173825/{reset}/g'")
}

/// A recording with another running total of money than the one it has.
pub fn costing(recording: &str, recorded: &str, dollars: &str) -> String {
    let total = "\"total_cost_usd\":";
    format!("play {recording} -e 's/{total}{recorded}/{total}{dollars}/'")
}

fn is_uuid(text: &str) -> bool {
    let form = text.replace(|c: char| c.is_ascii_hexdigit(), "x");
    form == "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"
}

// --- what the agent is given ---

#[test]
fn the_command_line_is_the_contract_s_with_the_job_s_wishes_and_the_agent_s_own_arguments_last() {
    let (space, project) = one_project(&[]);
    let own = [
        "--permission-mode",
        "plan",
        "--allowedTools",
        "Bash(cargo *)",
    ];
    space.set(json!({"max_budget_usd": 3, "agents": {"claude": {"args": own}}}));
    space.start();
    let wishes = "model: opus\nmax-turns: 7\nmax-budget-usd: 2.5";
    let result = project.complete(ID, &format!("---\n{wishes}\n---\nthe text"));
    let session = result["session_id"].as_str().unwrap();
    assert!(is_uuid(session), "{session}");
    let always = "-p --output-format stream-json --verbose --permission-mode acceptEdits \
        --setting-sources project --disallowedTools Monitor,ScheduleWakeup,CronCreate --session-id";
    let wished = format!("{always} {session} --model opus --max-turns 7 --max-budget-usd");
    let wished: Vec<&str> = wished.split(' ').collect();
    let argv = argv(&project, 1);
    let (begin, end) = argv.split_at(wished.len());
    assert_eq!(begin, wished);
    assert_eq!(end[0].parse(), Ok(2.5));
    assert_eq!(end[1..], own);
    // Without wishes none of the options is there, and each job has a session of its own.
    space.set(json!({"max_budget_usd": null, "agents": {}}));
    space.wait_log("Job completed");
    assert_eq!(space.stop(), 0);
    space.start();
    let next = project.run(NEXT, "x")["session_id"].clone();
    let argv = self::argv(&project, 2).join(" ");
    assert_eq!(argv, format!("{always} {}", next.as_str().unwrap()));
    assert_ne!(next, session);
}

#[test]
fn the_prompt_calls_the_skill_only_where_the_project_has_it() {
    let space = Space::new();
    stand_in(&space);
    let text = "---\ntimeout: 1h\n---\n/help is no command here\n";
    let files = [
        "",
        "skills/task-coordination/SKILL.md",
        "commands/task-coordination.md",
    ];
    let projects = ["without", "skill", "command"].map(|name| space.project(name));
    for (project, file) in projects.iter().zip(files).skip(1) {
        let path = project.path.join(".claude").join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "---\nname: task-coordination\n---\n").unwrap();
    }
    space.start();
    let call = "/task-coordination\n\n";
    for (project, head) in projects.iter().zip(["", call, call]) {
        project.submit(ID, text);
        project.run(NEXT, text);
        let prompt = format!("{head}Execute the following job:\n\n/help is no command here\n");
        assert_eq!(project.made("prompt.1"), prompt, "{}", project.name);
    }
    let told = |project: &Project| {
        let sentence = "has no skill task-coordination";
        project.journal().matches(sentence).count()
    };
    wait_until("a word on the missing skill", || told(&projects[0]) > 0);
    assert_eq!(projects.each_ref().map(told), [1, 0, 0]);
}

#[test]
fn an_agent_s_own_prompt_replaces_the_template_but_never_puts_the_document_at_the_head() {
    let (space, project) = one_project(&[]);
    let prompt = |text: &str| space.set(json!({"agents": {"claude": {"prompt": text}}}));
    prompt("Do it:\n{content}\nThat is all.");
    space.start();
    project.run(ID, "/help");
    assert_eq!(project.made("prompt.1"), "Do it:\n/help\nThat is all.");
    prompt("{content}");
    let began = Instant::now();
    for n in 2.. {
        project.run(&format!("job-20260101-13{n:04}-next"), "/help");
        let prompt = project.made(&format!("prompt.{n}"));
        if !prompt.starts_with("Do it:") {
            assert_eq!(prompt, "\n/help");
            break;
        }
        assert!(began.elapsed() < BOUND);
    }
}

#[test]
fn a_limit_that_the_agent_s_own_arguments_would_undo_rejects_the_job() {
    let (space, project) = one_project(&[]);
    space.set(json!({"agents": {"claude": {"args": ["--max-turns=50"]}}}));
    space.start();
    let limited = project.run(ID, "---\nmax-turns: 3\n---\nx");
    limited.must_have(json!({"error_kind": "rejected", "attempts": []}));
    limited["error"].must_have("the agent's own args have --max-turns, too");
    project.complete(NEXT, "x");
}

#[test]
fn the_environment_tames_the_cli_unless_the_person_has_chosen() {
    let space = Space::new();
    stand_in(&space);
    let chosen = space.root().join("chosen");
    fs::create_dir(&chosen).unwrap();
    let marks = [
        "CLAUDECODE",
        "CLAUDE_CODE_ENTRYPOINT",
        "CLAUDE_CODE_SESSION_ID",
        "CLAUDE_PID",
    ];
    marks.iter().for_each(|mark| space.env(mark, "1"));
    let ours = space.project("ours");
    space.set(json!({"agents": {"chosen": {
        "protocol": "claude",
        "command": ["claude"],
        "env": {"CLAUDE_CODE_TMPDIR": chosen, "CLAUDE_CODE_MAX_RETRIES": "9"},
    }}}));
    let theirs = space.project_with("theirs", json!({"agent": "chosen"}));
    space.credentials("DISABLE_AUTOUPDATER=0\n", 0o600);
    space.start();
    // The CLI's own repeats stay at its default.
    for (project, retries) in [(&ours, None), (&theirs, Some("9"))] {
        project.complete(ID, "x");
        let get = |name| variable(project, 1, name);
        // The last is the daemon's own.
        for mark in marks.iter().chain(&["GLIBC_TUNABLES"]) {
            assert_eq!(get(mark), None, "{mark}");
        }
        for (name, value) in [
            ("CLAUDE_CODE_DISABLE_BACKGROUND_TASKS", Some("1")),
            ("DISABLE_AUTOUPDATER", Some("0")),
            ("CLAUDE_CODE_MAX_RETRIES", retries),
        ] {
            assert_eq!(get(name).as_deref(), value, "{name} of {}", project.name);
        }
    }
    // Ours was there for the run alone, for nobody else; the person's own is left alone.
    let [scratch, own] = [&ours, &theirs].map(|p| variable(p, 1, "CLAUDE_CODE_TMPDIR").unwrap());
    assert!(ours.made("scratch.1").starts_with("drwx------"));
    let longest = 60 + space.root().as_os_str().len();
    assert!(scratch.len() < longest, "{scratch}");
    assert!(!Path::new(&scratch).exists(), "{scratch} is left");
    assert_eq!(Path::new(&own), chosen);
    assert!(chosen.exists());
}

#[test]
fn scratch_directories_of_a_killed_daemon_are_removed_at_the_next_start() {
    let (space, project) =
        one_project(&["touch \"$CLAUDE_CODE_TMPDIR/file\"; stream sigkill-in-tool; sleep 600"]);
    space.start();
    project.submit(ID, "x");
    project.wait_made("prompt.1");
    let scratch = variable(&project, 1, "CLAUDE_CODE_TMPDIR").unwrap();
    let scratch = Path::new(&scratch);
    wait_until("the file in it", || scratch.join("file").exists());
    space.kill();
    assert!(scratch.exists());
    space.start();
    project.wait_result(ID);
    assert!(!scratch.exists());
}

// --- what the result tells ---

#[test]
fn the_result_has_what_the_stream_told() {
    let server = r#"{"name":"db","status":"failed"},{"name":"web","status":"connected"}"#;
    let servers = format!("play tool-write -e 's/\"mcp_servers\":\\[/&{server}/'");
    let (space, project) = one_project(&[&servers, "play permission-denials"]);
    space.start();
    let result = project.complete(ID, "x");
    let logs = ["md", "jsonl", "err"].map(|ending| format!("jobs/logs/{ID}.{ending}"));
    result.must_have(json!({
        "agent": "claude", "agent_version": "2.1.328", "model": "claude-opus-5-5",
        "artifacts": ["stub-output.txt"], "permission_denials": [], "failed_mcp_servers": ["db"],
        "logs": logs,
    }));
    let output = &result["worker_output"];
    assert!(!output["summary"].as_str().unwrap().is_empty());
    assert!(output["usage"]["input_tokens"].as_u64().unwrap() > 0);
    assert!(output["cost_usd"].as_f64().unwrap() > 0.0);
    assert!(result["num_turns"].as_u64().unwrap() >= 2);
    let result = project.run(NEXT, "x");
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
    let answer = r#"All done.\\n\\n```json\\n{\\"audit_score\\": 95, \\"audit_notes\\": \\"fine\\", \\"artifacts\\": [\\"a.txt\\"]}\\n```"#;
    let says = format!("play text -e 's|The task is done.|{answer}|g'");
    let (.., result) = one_job(json!({}), &says);
    result.must_have(json!({"audit_score": 95.0, "audit_notes": "fine", "artifacts": ["a.txt"]}));
}

// --- holds ---

#[test]
fn a_usage_limit_is_waited_out_by_every_project_of_the_agent_and_the_same_session_goes_on() {
    let reset = now() + 5;
    let (space, alpha) = one_project(&[&limit_until(reset)]);
    let beta = space.project("beta");
    space.program("other", "cat > /dev/null; echo done");
    space.set(json!({"agents": {"other": {"command": ["other"]}}}));
    let other = space.project_with("other-agent", json!({"agent": "other"}));
    space.start();
    alpha.submit(ID, "the text");
    alpha.wait_hold("usage_limit");
    beta.submit(ID, "x");
    other.submit(ID, "x");
    let hold = beta.wait_hold("usage_limit");
    assert!((0..=10).contains(&ahead(&hold["until"])), "{hold}");
    other.wait_completed(ID);
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
    let result = alpha.wait_completed(ID);
    assert!(now() >= reset, "it did not wait");
    let session = option(&alpha, 1, "--session-id");
    result.must_have(json!({
        "retry_count": 0, "session_id": session,
        "attempts": [{"error_kind": "usage_limit"}, {"error_kind": null}],
    }));
    assert_resumed(&alpha, 2);
    let prompt = alpha.made("prompt.2");
    prompt.must_have("usage limit");
    assert!(!prompt.contains("the text"), "the document was repeated");
    assert_eq!(attempts(&beta.wait_result(ID)).len(), 1);
    assert!(alpha.logs(&format!("{ID}.2.jsonl")).is_file());
}

#[test]
fn credentials_that_are_not_accepted_hold_the_agent_until_they_change_or_a_person_says() {
    let (space, alpha) = one_project(&[REFUSED, "play not-logged-in"]);
    let beta = space.project("beta");
    space.credentials("ANTHROPIC_API_KEY=wrong\n", 0o600);
    space.start();
    alpha.submit(ID, "x");
    alpha.wait_hold("not_authenticated");
    beta.submit(ID, "x");
    let hold = beta.wait_hold("not_authenticated");
    assert_eq!(hold["until"], Value::Null);
    space.credentials("ANTHROPIC_API_KEY=still-wrong\n", 0o600);
    wait_until("a second start", || starts(&alpha) == 2);
    // It says the same again; only a person knows better now.
    wait_until("held again", || {
        let claim = alpha.claimed(ID);
        claim.is_some_and(|claim| attempts(&claim).len() == 2)
            && alpha.view()["hold"]["kind"] == "not_authenticated"
    });
    space.run(&["-p", "alpha", "release", ID]).ok();
    let result = alpha.wait_completed(ID);
    assert_eq!(result["retry_count"], 0);
    assert_eq!(attempts(&result).len(), 3);
    assert_resumed(&alpha, 3);
    beta.wait_result(ID);
}

#[test]
fn a_session_that_the_cli_does_not_know_starts_afresh_with_the_document() {
    let (_space, project, result) = mended(json!({}), &[REFUSED, "unknown_session"]);
    result.must_have(json!({"status": "completed", "retry_count": 0, "attempts": [{}, {}, {}]}));
    assert_resumed(&project, 2);
    let [first, last] = [1, 3].map(|start| option(&project, start, "--session-id").unwrap());
    assert_ne!(last, first);
    assert_eq!(result["session_id"], last);
    project.made("prompt.3").must_have("the text");
}

// --- retries ---

#[test]
fn an_overloaded_service_is_tried_again_after_a_pause_also_over_a_restart() {
    let (space, project) = one_project(&["play api-529"]);
    space.start();
    project.submit_all(&[ID, NEXT]);
    let held = |view: &Value| view["hold"]["kind"] == "overloaded";
    let view = project.wait_view("held", held);
    let pause = ahead(&view["hold"]["until"]);
    assert!((20..=30).contains(&pause), "{pause} s ahead");
    // It keeps its place at the head, and its project waits.
    let queued = json!([format!("{ID}.md"), format!("{NEXT}.md")]);
    assert_eq!(view["queued_tasks"], queued);
    space.run(&["queue"]).ok().must_have(ID);
    space.kill();
    space.start();
    let again = project.wait_view("the same", |again| {
        again["updated_at"] != view["updated_at"] && held(again)
    });
    assert_eq!(again["hold"], view["hold"]);
    assert_eq!(starts(&project), 1);
    // The pause is over: as the hold says, so it is done.
    assert_eq!(space.stop(), 0);
    let mut holds = space.holds();
    holds["list"][0]["probe_at"] = json!("2026-01-01T00:00:00.000+00:00");
    space.lay_holds(&holds);
    space.start();
    let result = project.wait_completed(ID);
    assert_eq!(result["retry_count"], 0);
    assert_resumed(&project, 2);
    project.made("prompt.2").must_have("overloaded");
}

/// How the CLI tells that it repeats a request by itself, which it does for minutes.
const REPEATS: &str = r#"echo '{"type":"system","subtype":"api_retry","attempt":1,"max_retries":10,"error_status":529,"error":"rate_limit"}'"#;

/// A job must not be lost because its time ran out meanwhile.
#[test]
fn an_outage_that_outlasts_the_timeout_holds_the_agent_and_fails_no_job() {
    let (space, project) = one_project(&[&format!("{REPEATS}; sleep 600")]);
    space.set(json!({"timeout": "4s"}));
    space.start();
    project.submit(ID, "x");
    project.wait_hold("overloaded");
    space.run(&["release", "--all"]).ok();
    let result = project.wait_completed(ID);
    assert_eq!(result["attempts"][0]["error_kind"], "overloaded");
    assert_resumed(&project, 2);
}

#[test]
fn the_time_in_which_the_service_was_ill_is_not_the_job_s() {
    let answer =
        r#"{"type":"assistant","message":{"content":[{"type":"text","text":"At last."}]}}"#;
    let body = format!("{REPEATS}; sleep 8; echo '{answer}'; sleep 6; stream text");
    let (.., result) = one_job(json!({"timeout": "10s"}), &body);
    assert_eq!(result["status"], "completed", "{result:#}");
    assert!(result["duration_seconds"].as_f64() > Some(13.0));
}

// --- interruptions ---

#[test]
fn an_interrupted_session_is_resumed_and_told_what_happened() {
    let (space, project) = one_project(&[
        "stream sigkill-in-tool; setsid sleep 600 & echo $! > new; mv new pid; sleep 600",
    ]);
    space.start();
    project.submit(ID, "the text");
    let pid: i32 = project.wait_made("pid").trim().parse().unwrap();
    space.kill();
    assert!(is_alive(pid));
    space.start();
    let result = project.wait_completed(ID);
    assert!(!is_alive(pid), "a tool survived");
    assert_eq!(result["retry_count"], 0);
    assert_eq!(result["attempts"][0]["error_kind"], "interrupted");
    assert_resumed(&project, 2);
    let prompt = project.made("prompt.2");
    assert!(prompt.contains("(interrupted)") && !prompt.contains("the text"));
    space.assert_no_survivor();
}

#[test]
fn a_final_result_that_is_in_the_output_already_counts_after_a_crash() {
    let (space, project) = one_project(&["stream text; touch played; sleep 600"]);
    space.start();
    project.submit(ID, "x");
    project.wait_made("played");
    space.kill();
    space.start();
    let result = project.wait_completed(ID);
    assert_eq!(result["worker_output"]["summary"], "The task is done.");
    assert_eq!(starts(&project), 1);
    space.assert_no_survivor();
}

// --- the end of an attempt ---

#[test]
fn an_agent_that_stays_after_its_final_result_is_ended_and_the_result_counts() {
    let stays = "stream text; trap '' TERM; sleep 600; sleep 600";
    let (space, _, result) = one_job(json!({"linger": "500ms"}), stays);
    result.must_have(json!({
        "status": "completed", "worker_output": {"summary": "The task is done."},
        "attempts": [{"signal": 9}],
    }));
    space.assert_no_survivor();
}

#[test]
fn what_is_to_wake_the_agent_again_is_awaited_however_long_it_may_linger() {
    let (space, project) = one_project(&[
        "stream monitor-awaited | head -n 7; : > ended; until [ -e go ]; do sleep 0.02; done
         stream monitor-awaited | tail -n +8; exit 0",
    ]);
    space.set(json!({"linger": "0"}));
    space.start();
    project.submit(ID, "x");
    project.wait_made("ended");
    // Looks go on meanwhile: each of these is told of by one.
    for id in [NEXT, "job-20260101-120002-last"] {
        project.submit(id, "x");
        project.wait_view("that it is seen", |view| {
            view["queued_tasks"].to_string().contains(id)
        });
    }
    project.touch("go");
    let result = project.wait_completed(ID);
    assert_eq!(result["attempts"][0]["exit_code"], 0);
}

#[test]
fn of_several_results_the_last_counts_and_usage_is_that_of_all() {
    // Longer at work after its first result than it may linger after a final one.
    let body = r#"stream text; stream text | head -n 2; sleep 1.2
stream text -e 's/The task is done./And now really./g' -e 's/"total_cost_usd":0.0008/"total_cost_usd":0.002/' | tail -n 1; exit 0"#;
    let (.., result) = one_job(json!({"linger": "300ms"}), body);
    let usage = json!({"input_tokens": 200, "output_tokens": 40});
    result.must_have(json!({
        "status": "completed", "num_turns": 2,
        "worker_output": {"summary": "And now really.", "cost_usd": 0.002, "usage": usage},
    }));
}

#[test]
fn an_agent_that_says_nothing_is_never_complete() {
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
    let (space, project) = one_project(&rows.map(|(body, _)| body));
    space.set(json!({"silence_timeout": "1s", "breaker": 0, "retries": 0}));
    space.start();
    for (at, (body, kind)) in rows.iter().enumerate() {
        let result = project.run(&format!("job-20260101-12000{at}-x"), "x");
        assert_eq!(result["status"], "failed", "{body}");
        assert_eq!(result["error_kind"], *kind, "{body}: {result}");
    }
}

// --- money ---

#[test]
fn cost_and_usage_are_those_of_all_starts_and_a_resumed_one_gets_what_is_left() {
    // The running total of the session: 0.5 after the first start, 0.8 after the second.
    let first = costing("api-401-no-retry", "0", "0.5");
    let first = format!("{first} -e 's/\"input_tokens\":0,/\"input_tokens\":7,/'");
    let budget = json!({"max_budget_usd": 2});
    let (space, project, result) = mended(budget, &[&first, &costing("text", "0.0008", "0.8")]);
    result.must_have(json!({
        "status": "completed",
        "worker_output": {"cost_usd": 0.8, "usage": {"input_tokens": 107}},
        "attempts": [{"cost_usd": 0.5}, {"cost_usd": 0.8}],
    }));
    let given = [1, 2].map(|start| option(&project, start, "--max-budget-usd").unwrap());
    assert_eq!(given.map(|dollars| dollars.parse()), [Ok(2.0), Ok(1.5)]);
    // It is counted once the result is there.
    wait_until("the ledger to have all", || {
        let spent = &space.holds()["ledger"]["projects"]["alpha"];
        (spent.as_f64().unwrap() - 0.8).abs() < 1e-9
    });
}

#[test]
fn a_job_whose_money_is_used_up_is_not_started_again() {
    let first = costing("api-401-no-retry", "0", "0.49996");
    let (_space, project, result) = mended(json!({"max_budget_usd": 0.5}), &[&first]);
    // What is left could not be told to the CLI.
    result.must_have(json!({
        "status": "failed", "error_kind": "budget", "worker_output": {"cost_usd": 0.49996},
    }));
    assert_eq!(starts(&project), 1);
}

#[test]
fn a_day_s_money_that_is_used_up_holds_until_midnight_also_over_a_restart() {
    let (space, alpha) = one_project(&[&costing("text", "0.0008", "0.8")]);
    space.set(json!({"daily_budget_usd": 1}));
    let beta = space.project("beta");
    let own = space.project_with("own", json!({"daily_budget_usd": 0.25}));
    script(&own, 1, &costing("text", "0.0008", "0.3"));
    space.start();
    // A project's own limit holds it alone.
    own.run(ID, "x");
    own.submit(NEXT, "x");
    own.wait_hold("daily_budget");
    alpha.complete(ID, "x");
    // All together have used up what holds over all, as is known when a result has been taken note of.
    alpha.submit(NEXT, "x");
    alpha.wait_hold("daily_budget");
    beta.submit(ID, "x");
    for project in [&alpha, &beta] {
        project.wait_hold("daily_budget")["until"].must_have("T00:00:00");
    }
    assert_eq!(space.stop(), 0);
    space.start();
    for project in [&alpha, &beta, &own] {
        project.wait_hold("daily_budget");
    }
    assert_eq!((starts(&alpha), starts(&beta), starts(&own)), (1, 0, 1));
    // A new day, as far as the ledger can tell.
    assert_eq!(space.stop(), 0);
    let mut holds = space.holds();
    holds["ledger"]["day"] = json!("2020-01-01");
    space.lay_holds(&holds);
    space.start();
    alpha.wait_result(NEXT);
    beta.wait_result(ID);
}

// --- floods ---

/// What a daemon may grow to, a debug build included. A quarter of any flood below.
const PEAK_MAX_KIB: u64 = 48 << 10;

#[test]
fn a_line_of_300_mb_does_no_harm() {
    let result = flood(
        json!({}),
        r#"stream text | head -n 1
printf '{"type":"user","message":{"role":"user","content":[{"type":"tool_result","content":"'
head -c 300000000 /dev/zero | tr '\0' x
printf '"}]},"session_id":"%s"}\n' "$session"
stream text | tail -n 2; exit 0"#,
    );
    result.must_have(json!({
        "status": "completed", "worker_output": {"summary": "The task is done."},
    }));
}

/// The result of a job whose agent writes a lot, of which the daemon must not keep much in memory.
#[track_caller]
fn flood(settings: Value, body: &str) -> Value {
    let (space, project) = one_project(&[body]);
    space.set(settings);
    space.start();
    project.submit(ID, "x");
    let result = wait_longer(BOUND * 3, "the result", || project.result(ID));
    let peak = peak_of(space.pid());
    assert!(peak < PEAK_MAX_KIB, "the daemon grew to {peak} KiB");
    result
}

#[test]
fn a_flood_of_output_ends_the_attempt_and_no_memory() {
    // The parser of a debug build takes half a minute for the gibibyte that is the default.
    let limit: u64 = if cfg!(debug_assertions) {
        256 << 20
    } else {
        1 << 30
    };
    // A hole in the log is as good as bytes and quickly written; the rest are lines of the CLI's.
    let result = flood(
        json!({"max_output": limit}),
        &format!(
            r#"log="jobs/logs/$JOB_MONITOR_JOB_ID.jsonl"; stream text | head -n 1
truncate -s {limit} "$log"; while :; do stream text | head -n 2 | tail -n 1; done >> "$log""#
        ),
    );
    result.must_have(json!({"status": "failed", "error_kind": "output_limit"}));
}

#[test]
fn an_agent_that_writes_faster_than_it_is_read_is_ended_all_the_same() {
    // About 50 MB a second, more than a debug build reads.
    let result = flood(
        json!({"max_output": "16 MiB"}),
        r#"yes '{"type":"system","subtype":"flood"}' | head -c 5000000 > ../flood
while :; do cat ../flood; sleep 0.1; done"#,
    );
    assert_eq!(result["error_kind"], "output_limit", "{result}");
}
