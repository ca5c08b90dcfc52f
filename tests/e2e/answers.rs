//! What the commands that read answer: JSON for programs, texts that old scripts look for, exit
//! statuses. They answer the same whether or not the daemon runs, and about the predecessor's
//! documents as about ours.

use crate::claude_standin::now;
use crate::registry::is_free;
use crate::space::{MustHave, Project, Ran, Space, job_monitor, replace, wait_until};
use crate::stage::{alpha, mode_of};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

const DONE: &str = "job-20260101-110000-done";
const FAILED: &str = "job-20260101-113000-failed";
const RUNS: &str = "job-20260101-120000-runs";
const HELD: &str = "job-20260101-130000-held";
const NEXT: &str = "job-20260101-140000-next";
const LIMITED: &str = "job-20260101-150000-limited";
const NOWHERE: &str = "job-20260101-160000-nowhere";

/// A claude that fails, meets the limit of its account or stays, as the job's name says.
const AGENT: &str = r#"cat > /dev/null
say() { printf '%s\n' "$1"; }
say '{"type":"system","subtype":"init","session_id":"s","model":"model-x","claude_code_version":"2.1"}'
case $JOB_MONITOR_JOB_ID in
*-limited)
    say "{\"type\":\"rate_limit_event\",\"rate_limit_info\":{\"status\":\"rejected\",\"resetsAt\":$(cat resets)}}"
    say '{"type":"result","subtype":"success","is_error":true,"result":"limit reached","session_id":"s"}'
    exit 1 ;;
*-failed)
    say '{"type":"result","subtype":"error_max_turns","is_error":true,"num_turns":3,"session_id":"s"}'
    exit 1 ;;
*-runs) until [ -e go ]; do sleep 0.05; done ;;
esac
say '{"type":"result","subtype":"success","is_error":false,"result":"All is well.","num_turns":2,"total_cost_usd":0.25,"usage":{"input_tokens":200,"output_tokens":40},"session_id":"s"}'
"#;

/// Two projects with a job in each state there is: in the first one is done, one failed, one runs,
/// one is held and one waits; in the second one is suspended by its agent's limit.
struct World {
    space: Space,
    alpha: Project,
    beta: Project,
}

impl World {
    fn new() -> World {
        let (space, alpha) = Space::with_project();
        space.claude(AGENT);
        let beta = space.project("beta");
        // Far from a full hour, so that the time left reads the same for a while.
        let resets = now() + 3 * 86_400 + 1800;
        fs::write(beta.path.join("resets"), resets.to_string()).unwrap();
        alpha.mark(HELD, "hold");
        space.start();
        for id in [DONE, FAILED] {
            alpha.run(id, "Do it.\n");
        }
        alpha.submit(RUNS, "Do it.\n");
        alpha.wait_view("the job that runs", |view| view["is_processing"] == true);
        alpha.submit(HELD, "Do it.\n");
        alpha.submit(NEXT, "Do it.\n");
        alpha.wait_view("those that wait", |view| view["queue_size"] == 2);
        beta.submit(LIMITED, "Do it.\n");
        beta.wait_hold("usage_limit");
        World { space, alpha, beta }
    }

    fn json(&self, args: &[&str]) -> Value {
        json_of(&self.space, args)
    }
}

/// The answer of a command as JSON, with nothing else on standard output.
#[track_caller]
fn json_of(space: &Space, args: &[&str]) -> Value {
    let ran = space.run(&[args, &["--json"]].concat());
    let answer = ran.json();
    assert!(ran.stdout.ends_with("}\n"), "{args:?}: {ran:?}");
    assert_offsets(&answer);
    answer
}

/// Every time in a document says how far its clock was from UTC.
#[track_caller]
fn assert_offsets(value: &Value) {
    match value {
        Value::Array(values) => values.iter().for_each(assert_offsets),
        Value::Object(map) => map.values().for_each(assert_offsets),
        Value::String(text) => {
            let bytes = text.as_bytes();
            let is_time = bytes.len() >= 19 && bytes[4] == b'-' && bytes[10] == b'T';
            let offset = text.len().checked_sub(6).and_then(|at| text.get(at..));
            let has_offset =
                offset.is_some_and(|end| end.starts_with(['+', '-']) && end.as_bytes()[3] == b':');
            assert!(!is_time || has_offset, "no offset: {text}");
        }
        _ => {}
    }
}

/// An object has keys, whatever stands there.
#[track_caller]
fn assert_keys(object: &Value, keys: &str) {
    for key in keys.split(' ') {
        assert!(object.get(key).is_some(), "no {key:?} in {object}");
    }
}

// --- JSON ---

#[test]
fn every_reading_command_answers_in_one_json_document_with_the_keys_of_the_contract() {
    let world = World::new();
    for command in ["queue", "list"] {
        let answer = world.json(&[command]);
        let daemon = json!({"running": true, "pid": world.space.pid()});
        answer.must_have(json!({"daemon": daemon, "projects": [{}, {}]}));
        let [alpha, beta] = [&answer["projects"][0], &answer["projects"][1]];
        for (project, of) in [(alpha, &world.alpha), (beta, &world.beta)] {
            assert_keys(project, "hold current");
            project.must_have(json!({
                "name": of.name, "path": of.path, "layout": "jobs", "enabled": true, "available": true,
            }));
            let registered = project["registered_at"].as_str().unwrap();
            assert!(registered.starts_with("2026-01-30T12:43:00"));
            for job in project["waiting"].as_array().unwrap() {
                assert_keys(job, "job_id held retry_at");
                assert_eq!(job["size"], 7);
                assert!(job["created_at"].is_string());
            }
        }
        assert_keys(&alpha["current"], "started_at");
        alpha.must_have(json!({
            "current": {"job_id": RUNS, "attempt": 1},
            "waiting": [{"job_id": HELD, "held": true}, {"job_id": NEXT, "held": false}],
        }));
        assert_keys(&beta["hold"], "reason");
        beta.must_have(json!({
            "current": null, "waiting": [{"job_id": LIMITED}], "hold": {"kind": "usage_limit"},
        }));
        assert!(beta["hold"]["until"].is_string());
    }

    let status = world.json(&["status"]);
    // Newest first.
    status.must_have(json!({"jobs": [
        {"job_id": FAILED, "project": "alpha", "error_kind": "max_turns"},
        {"job_id": DONE, "project": "alpha", "error_kind": null, "cost_usd": 0.25},
    ]}));
    for job in status["jobs"].as_array().unwrap() {
        assert_keys(job, "status error_kind cost_usd");
        assert!(job["completed_at"].is_string() && job["duration_seconds"].is_number());
    }
    let newest = world.json(&["status", "--limit", "1"]);
    newest.must_have(json!({"jobs": [{"job_id": FAILED}]}));

    for (id, state, project, position) in [
        (DONE, "done", json!("alpha"), Value::Null),
        (FAILED, "done", json!("alpha"), Value::Null),
        (RUNS, "running", json!("alpha"), Value::Null),
        (HELD, "held", json!("alpha"), json!(1)),
        (NEXT, "waiting", json!("alpha"), json!(2)),
        (LIMITED, "waiting", json!("beta"), json!(1)),
        (NOWHERE, "not_found", Value::Null, Value::Null),
    ] {
        let answer = world.json(&[id]);
        let keys = "project position result obstacles started_at attempt retry_at";
        assert_keys(&answer, keys);
        assert_eq!(answer["started_at"].is_string(), state == "running");
        assert_eq!(answer["attempt"].is_number(), [RUNS, LIMITED].contains(&id));
        let result = world.alpha.result(id).unwrap_or_default();
        assert_eq!(answer["result"], result, "{id}");
        answer.must_have(json!({
            "job_id": id, "state": state, "project": project, "position": position,
        }));
        assert_eq!(world.json(&["show", &format!("{id}.md")]), answer);
    }

    let stats = world.json(&["stats"]);
    stats.must_have(json!({"total": {"jobs": 2, "completed": 1}}));
    assert_keys(&stats["projects"][0], "name days total");
    let doctor = world.json(&["doctor"]);
    assert_keys(&doctor, "findings problems warnings");
    for finding in doctor["findings"].as_array().unwrap() {
        assert_keys(finding, "check level message remedy");
    }
}

#[test]
fn messages_never_get_among_the_json() {
    let space = Space::new();
    space.project("alpha");
    space.set(json!({"colour": "blue"}));
    space.edit_registry(|projects| {
        projects.insert("broken".to_owned(), json!({"path": 7}));
        projects.insert("gone".to_owned(), json!({"path": "/nonexistent/gone"}));
    });
    for word in ["queue", "list", "status", "stats", NOWHERE] {
        let ran = space.run(&[word, "--json"]);
        assert_eq!(ran.stdout.lines().count(), 1, "{ran:?}");
        assert!(ran.json().is_object());
        ran.stderr.must_have("the monitor is not running");
        ran.stderr.must_have("project \"broken\" is skipped");
        for line in ran.stderr.lines() {
            assert!(line.starts_with("job-monitor: "), "{line}");
        }
    }
    let gone = &json_of(&space, &["queue"])["projects"][1];
    assert_eq!(gone["available"], false, "{gone}");
    // What fails altogether has nothing to say on standard output.
    for args in [&["-p", "nobody", "queue"][..], &["show", "../x"]] {
        let ran = space.run(&[args, &["--json"]].concat());
        assert_eq!(ran.stdout, "");
        assert!(!ran.stderr.is_empty());
    }
}

#[test]
fn the_answers_are_the_same_whether_or_not_the_daemon_runs() {
    let world = World::new();
    let World { space, alpha, .. } = &world;
    // Nothing is left that the daemon's end would change.
    space.edit_registry(|projects| projects["alpha"]["enabled"] = json!(false));
    space.wait_log("Project 'alpha' is disabled, skipping");
    alpha.touch("go");
    alpha.wait_result(RUNS);
    let ids = [DONE, FAILED, RUNS, HELD, NEXT, LIMITED, NOWHERE];
    let commands = [
        "queue",
        "-p beta queue",
        "list",
        "status",
        "status --all",
        "stats",
    ];
    let ask = || {
        let answers = ids.iter().chain(&commands).map(|line| {
            let args: Vec<&str> = line.split(' ').collect();
            let text = space.run(&args);
            let mut json = json_of(space, &args);
            json.as_object_mut().unwrap().remove("daemon");
            (*line, text.status, text.stdout, json)
        });
        answers.collect::<Vec<_>>()
    };
    alpha.wait_view("the end", |view| view["is_processing"] == false);
    let running = ask();
    assert_eq!(space.stop(), 0);
    let note = "job-monitor: the monitor is not running; start it with: job-monitor daemon\n";
    assert_eq!(space.run(&["queue"]).stderr, note);
    let queue = json_of(space, &["queue"]);
    assert_eq!(queue["daemon"], json!({"running": false, "pid": null}));
    for (before, after) in running.into_iter().zip(ask()) {
        assert_eq!(before, after);
    }
}

#[test]
fn a_view_that_is_older_than_the_directory_of_documents_is_not_believed() {
    let (space, project) = alpha("until [ -e go ]; do sleep 0.05; done");
    project.submit(RUNS, "x");
    space.start();
    project.wait_view("the job runs", |view| view["is_processing"] == true);
    // It cannot bring its view up to date.
    space.signal(Signal::SIGSTOP);
    project.submit(NEXT, "x");
    let told = space.run(&["queue"]).ok();
    space.signal(Signal::SIGCONT);
    told.must_have(&format!("  1. {NEXT}.md"));
}

// --- texts ---

#[test]
fn the_texts_that_old_scripts_look_for_are_there_word_for_word() {
    let (space, alpha) = alpha("cat > read; until [ -e go ]; do sleep 0.05; done");
    space.project_with("beta", json!({"enabled": false}));
    space.env("TZ", "UTC");
    let text = |args: &[&str]| space.run(args).stdout;
    let of_alpha = |args: &[&str]| space.run(&[&["-p", "alpha"], args].concat()).stdout;
    space.start();
    assert_eq!(of_alpha(&["queue"]), "Queue size: 0\nProcessing: None\n");
    assert_eq!(of_alpha(&["status"]), "Completed jobs:\n  none yet\n");
    let root = space.root().display().to_string();
    let list = format!(
        "alpha\n  Path: {root}/alpha\n  Status: ✓ enabled\n  Registered: 2026-01-30T12:43:00\n\
         beta\n  Path: {root}/beta\n  Status: ✗ disabled\n  Registered: 2026-01-30T12:43:00\n"
    );
    assert_eq!(text(&["list"]), list);

    alpha.submit(RUNS, "Do it.\n");
    alpha.wait_made("read");
    for id in [HELD, NEXT] {
        alpha.submit(id, "Then.\n");
        let document = File::open(alpha.item(&format!("{id}.md"))).unwrap();
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_769_774_580);
        document.set_modified(at).unwrap();
    }
    alpha.wait_view("both", |view| view["queue_size"] == 2);
    let queue = of_alpha(&["queue"]);
    let begin = format!("Queue size: 2\nProcessing: {RUNS}.md\nRunning for: ");
    let end = format!("s\nQueued jobs:\n  1. {HELD}.md\n  2. {NEXT}.md\n");
    assert!(queue.starts_with(&begin), "{queue}");
    assert!(queue.ends_with(&end), "{queue}");
    let waiting = format!(
        "Status: waiting\nJob: {NEXT}\nCreated: 2026-01-30T12:03:00.000+00:00\nSize: 6 bytes\n\
         Queue position: 2 of 2\n"
    );
    assert_eq!(text(&[NEXT]), waiting);
    let running = text(&[RUNS]);
    let begins = [
        "Status: processing",
        &format!("Job: {RUNS}"),
        "Started: 20",
        "Elapsed: ",
        "Last activity: ",
        "Project: alpha",
        "Agent: agent",
    ];
    for (line, begin) in running.lines().zip(begins) {
        assert!(line.starts_with(begin), "{running}");
    }
    assert_eq!(running.lines().count(), begins.len(), "{running}");

    let missing = space.run(&["-p", "alpha", &format!("{NOWHERE}.md")]);
    assert_eq!(missing.status, 3);
    let places = format!(
        "Status: not_found\nJob: {NOWHERE}\n\
         The job was not found in any of the following locations:\n  \
         - {root}/alpha/jobs/state\n  - {root}/alpha/jobs/items\n  - {root}/alpha/jobs/results\n"
    );
    assert_eq!(missing.stdout, places);
    let line = "\n  - jobs/state, jobs/items, jobs/results of \"alpha\"\n";
    text(&["-a", NOWHERE]).must_have(line);

    // Results as the daemon writes them, with numbers that are known.
    let result = json!({
        "job_id": DONE, "status": "completed", "duration_seconds": 12.34, "error": null,
        "worker_output": {"summary": "All is well.", "cost_usd": 0.0,
            "usage": {"input_tokens": 200, "output_tokens": 40}},
        "permission_denials": [{"tool_name": "Bash", "tool_input": {"command": "make"}}],
    });
    alpha.put_result(DONE, &result);
    let done = text(&[DONE]);
    let begin = format!(
        "Status: completed\nJob: {DONE}\nDuration: 12.34 seconds\nDenied tools:\n  Bash: make\n"
    );
    let end = "Summary: All is well.\nUsage:\n  Tokens: 200 in, 40 out\n  Cost: $0.0000\n";
    assert!(done.starts_with(&begin) && done.ends_with(end), "{done}");
    done.must_have(r#""agents": {"claude":{"args":["--allowedTools","Bash(make *)"]}}"#);
    assert!(!done.contains("Error:"), "{done}");
    let result = json!({
        "job_id": FAILED, "status": "failed", "duration_seconds": 1.0, "worker_output": null,
        "error": "it ended with exit status 7", "error_kind": "exit_code",
    });
    alpha.put_result(FAILED, &result);
    let failed = format!(
        "Status: failed\nJob: {FAILED}\nDuration: 1.00 seconds\n\
         Error: it ended with exit status 7 (exit_code)\n"
    );
    assert_eq!(text(&[FAILED]), failed);
    let status = format!(
        "Completed jobs:\n  ✗ {FAILED}: failed (exit_code)   1s\n  \
         ⚠ {DONE}: completed             12s  $0.0000  1 tool denied\n"
    );
    assert_eq!(of_alpha(&["status"]), status);
    // Signs are only shown where they can be.
    space.env("LANG", "C");
    of_alpha(&["status"]).must_have(&format!("  ! {DONE}: completed"));
    text(&["list"]).must_have("  Status: x disabled\n");
}

#[test]
fn each_exit_status_of_the_contract_is_reached() {
    let World { space, alpha, .. } = &World::new();
    for (args, status) in [
        (&["queue"][..], 0),
        (&["--help"], 0),
        (&["--version"], 0),
        (&["wait", DONE], 0),
        (&[DONE], 0),
        // It is over already, and so cannot be cancelled.
        (&["cancel", DONE], 1),
        (&[], 2),
        (&["nonsense"], 2),
        (&["queue", "--nonsense"], 2),
        (&["../x"], 2),
        (&["/etc/passwd"], 2),
        (&["wait"], 2),
        (&["wait", "--timeout", "soon", DONE], 2),
        // Which of the projects?
        (&["submit", "-d", "x", "/dev/null"], 2),
        (&["wait", NOWHERE], 3),
        (&["-p", "nobody", "queue"], 3),
        (&["daemon"], 5),
    ] {
        let ran = space.run(args);
        assert_eq!(ran.status, status, "{args:?}: {ran:?}");
        assert_eq!(status == 0, ran.stderr.is_empty(), "{args:?}: {ran:?}");
    }
    // These answer on standard output.
    assert_eq!(space.run(&[NOWHERE]).status, 3);
    assert_eq!(space.run(&["wait", FAILED]).status, 4);
    alpha.touch("go");
    let text = space.file("text.md", "Do it.\n");
    // The hold of the agent would keep a new job waiting.
    space.plain_agent("cat > /dev/null; exit 7");
    space.run(&["release", "--all", "-p", "alpha"]).ok();
    let submit = ["-p", "alpha", "submit", "-d", "failed", "--wait", &text];
    assert_eq!(space.run(&submit).status, 4);
    space.run(&["disable", "alpha"]).ok();
    // The command has written that down; the daemon takes note of it in its own time.
    wait_until("the project to be left alone", || is_free(alpha));
    alpha.submit("job-20990101-120000-late", "x\n");
    let late = ["wait", "--timeout", "200ms", "job-20990101-120000-late"];
    wait_until("a disabled project", || space.run(&late).status == 124);
    // A full disk is a failure, not a reader that has gone.
    let full = |command: &mut Command| {
        command.stdout(File::options().write(true).open("/dev/full").unwrap());
    };
    let ran = space.run_as(full, &["status"]);
    ran.refused(1, "standard output");
}

// --- old habits ---

/// A shell script with our program on its PATH.
fn script(space: &Space, dir: &Path, text: &str) -> Ran {
    let program = space.root().join("bin/job-monitor");
    if !program.exists() {
        symlink(job_monitor(), program).unwrap();
    }
    let mut shell = space.command_of("timeout");
    shell.args(["30", "sh", "-c", text]);
    shell.current_dir(dir).stdin(Stdio::null());
    Ran::of(shell.output().unwrap())
}

#[test]
fn the_predecessor_s_producers_still_find_their_way() {
    let (space, alpha) = alpha("cat > /dev/null; sleep 0.3; echo 'It is done.'");
    space.start();
    for (id, ending) in [
        ("job-20260130-143000-one", ""),
        ("job-20260130-143001-two", ".md"),
    ] {
        let producer = format!(
            "printf 'Write the report.\\n' > {id}.md.tmp
             job-monitor {id}{ending} | head -1
             mv {id}.md.tmp {id}.md
             while :; do
                 case $(job-monitor {id}{ending} | head -1) in
                 'Status: completed') break ;;
                 'Status: waiting' | 'Status: processing') sleep 0.05 ;;
                 *) job-monitor {id}{ending}; exit 9 ;;
                 esac
             done
             job-monitor {id}{ending} | grep -q '^Summary: It is done.$' && echo found"
        );
        let ran = script(&space, &alpha.item(""), &producer);
        assert_eq!(ran.stderr, "");
        assert_eq!(ran.ok(), "Status: not_found\nfound\n");
    }
}

#[test]
fn register_takes_the_old_option_and_restarts_nothing() {
    let space = Space::new();
    space.plain_agent("cat > /dev/null; echo done");
    space.start();
    let pid = space.pid();
    let fresh = Project::at(&space.root().join("fresh"));
    fs::create_dir(&fresh.path).unwrap();
    let path = fresh.path.to_str().unwrap();
    for args in [
        &["register", path, "--no-restart"][..],
        &["unregister", "fresh"],
        &["register", "--no-restart", path, "--name", "fresh"],
    ] {
        let ran = space.run(args);
        assert_eq!(ran.stderr, "");
        ran.ok();
    }
    assert_eq!(json_of(&space, &["list"])["projects"][0]["name"], "fresh");
    fresh.submit(DONE, "Do it.\n");
    let waited = space.run(&["wait", DONE]).ok();
    assert_eq!(waited, format!("{DONE}: completed\n"));
    assert_eq!(json_of(&space, &["list"])["daemon"]["pid"], pid);

    // What it says about jobs that are there already can be pasted, whatever the name is.
    let odd = Project::at(&space.root().join("my project"));
    odd.create_dirs();
    odd.submit(NEXT, "Do it.\n");
    let path = odd.path.to_str().unwrap();
    let told = space.run(&["register", path, "--no-restart"]).ok();
    let (_, remedy) = told.split_once("held; to release: ").unwrap();
    let (remedy, _) = remedy.split_once('\n').unwrap();
    script(&space, &space.home(), remedy).ok();
    assert_eq!(space.run(&["wait", NEXT]).status, 0);
}

#[test]
fn a_reader_that_has_seen_enough_ends_a_command_quietly() {
    let (space, alpha) = Space::with_project();
    // More than a pipe holds.
    for number in 0..2500 {
        let id = format!("job-20260101-{number:06}-one-of-very-many-jobs");
        let document = json!({"job_id": id, "status": "completed", "duration_seconds": 1.0});
        alpha.put_result(&id, &document);
        let waiting = format!("job-20260201-{number:06}-one-of-very-many-jobs");
        fs::write(alpha.item(&format!("{waiting}.md")), "Do it.\n").unwrap();
        alpha.mark(&waiting, "hold");
    }
    space.start();
    for command in [
        "status --all",
        "status --all --json",
        "queue",
        "queue --json",
        "list",
        "stats",
        "man",
        "completions zsh",
        "--help",
    ] {
        for reader in ["head -1", "head -c 10", "true"] {
            let line = format!("{{ job-monitor {command}; echo $? >&2; }} | {reader} > /dev/null");
            let ran = script(&space, &alpha.path, &line);
            assert_eq!(ran.stderr, "0\n", "{line}");
        }
    }
    let all = script(&space, &alpha.path, "job-monitor status --all | head -1").ok();
    assert_eq!(all, "Completed jobs:\n");
}

// --- harm ---

/// Nothing in a text is a command to a terminal.
#[track_caller]
fn assert_harmless(text: &str) {
    let is_bidi = |c| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let is_harmful = |c: char| c.is_control() && c != '\n' && c != '\t' || is_bidi(c);
    assert!(!text.contains(is_harmful), "{text:?}");
}

#[test]
fn no_escape_sequence_reaches_a_reader_from_whoever_wrote_it() {
    let space = Space::new();
    // What an agent says, does and is refused: as JSON escapes, and as they are; and what is no JSON.
    space.claude(
        r#"cat > /dev/null
bad='\u001b]0;title\u0007\u001b[31mred\r\u009b2J\u202e'
raw=$(printf '\177\302\233\342\200\256')
say() { printf '%s\n' "$1"; }
printf 'not json \377\376 \033[31m\n'
say '{"type":"system","subtype":"init","session_id":"s","model":"m'"$bad$raw"'","claude_code_version":"2'"$bad"'"}'
say '{"type":"assistant","message":{"id":"m1","content":[{"type":"text","text":"said '"$bad$raw"'"},{"type":"tool_use","id":"t1","name":"Bash'"$bad"'","input":{"command":"ls '"$bad$raw"'"}},{"type":"tool_use","id":"t2","name":"Write","input":{"file_path":"a'"$bad$raw"'b"}}]}}'
say '{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1","content":"got '"$bad$raw"'"},{"type":"tool_result","tool_use_id":"t2","content":"ok"}]}}'
printf 'broken: \033[31m\007\n' >&2
say '{"type":"result","subtype":"success","is_error":false,"result":"answer '"$bad$raw"'","permission_denials":[{"tool_name":"Web'"$bad$raw"'","tool_input":{"url":"http://x/'"$bad$raw"'"}}],"session_id":"s"}'
"#,
    );
    let alpha = space.project("alpha");
    let plain = r"cat; printf 'plain \033[2J\302\233 \r words\n'; printf '\033c' >&2; exit 3";
    space.plain_agent(plain);
    let beta = Project::at(&space.root().join("alpha\u{1b}[31m\u{202e}"));
    beta.create_dirs();
    space.edit_registry(|projects| {
        projects["alpha"]["agent"] = json!("claude");
        projects.insert("be\u{202e}ta".to_owned(), json!({"path": beta.path}));
        projects.insert("ga\u{1b}mma".to_owned(), json!({"path": "/tmp/\u{1b}[5m"}));
        projects.insert("delta".to_owned(), json!({"path": "/nowhere/\u{1b}[5m"}));
    });
    // A document's first line, and a name that looks like a job's.
    let document = "# \u{1b}[31mRed\u{1b}]0;x\u{7} alert \u{9b}\u{202e}\n\nDo it.\n";
    let text = space.file("text.md", document);
    fs::write(alpha.item("job-20260101-120000-\u{1b}[31m\u{7f}.md"), "x\n").unwrap();
    let old_id = "job-20260130-095000-coloured";
    let old = fs::read(fixture("reports/jobs/results").join(format!("{old_id}.json"))).unwrap();
    replace(&alpha.results(&format!("{old_id}.json")), &old);
    space.start();

    let submitted = space.run(&["-p", "alpha", "submit", &text]);
    let id = submitted.stdout.trim_end().to_owned();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    assert!(id.chars().all(is_plain) && id.ends_with("-alert"), "{id}");
    // The document keeps what was said, for its owner alone.
    let result = alpha.wait_completed(&id);
    result["worker_output"]["summary"].must_have("\u{1b}");
    result["worker_output"]["summary"].must_have("\u{202e}");
    assert_eq!(mode_of(&alpha.logs(&format!("{id}.jsonl"))), 0o600);
    let plain = "job-20260101-130000-plain";
    beta.submit(plain, document);
    assert_eq!(space.run(&["wait", plain]).status, 4);

    let mut answers = vec![submitted];
    for line in [
        "queue --json",
        "list --json",
        "status --json",
        "stats --json",
        "doctor --json",
        "watch",
        &format!("{id} --json"),
        &format!("{plain} --json"),
        &format!("{old_id} --json"),
        &format!("logs {id}"),
        &format!("logs {plain}"),
        &format!("wait {id}"),
        &format!("wait {old_id}"),
        &format!("cancel {old_id}"),
        &format!("{NOWHERE} --json"),
        "\u{1b}[31m --json",
        "job-\u{1b}[31m --json",
        "--\u{1b}[31m --json",
        "help \u{9b}x",
        "-p \u{1b}[31mnobody queue --json",
    ] {
        let args: Vec<&str> = line.split(' ').collect();
        answers.push(space.run(&args));
        if let Some((_, args)) = args.split_last().filter(|(last, _)| **last == "--json") {
            answers.push(space.run(args));
        }
    }
    for ran in &answers {
        assert_harmless(&ran.stdout);
        assert_harmless(&ran.stderr);
    }
    assert_harmless(&alpha.journal());
    assert_harmless(&space.log());
    // They were all asked about what they must not repeat.
    let told = space.run(&[&id]).ok();
    for part in ["]0;title", "Web\u{fffd}", "http://x/"] {
        told.must_have(part);
    }
    let exact = json_of(&space, &[&id]);
    assert_eq!(exact["result"], result);
}

// --- the predecessor's documents ---

fn fixture(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/predecessor")
        .join(path)
}

#[test]
fn the_predecessor_s_documents_are_read_without_complaint() {
    let space = Space::new();
    space.plain_agent("cat > /dev/null; echo done");
    space.env("TZ", "UTC");
    let mut copy = Command::new("cp");
    copy.arg("-R").args(["reports", "exports"].map(fixture));
    assert!(copy.arg(space.root()).status().unwrap().success());
    // What was empty, which is not checked in.
    for dir in ["reports/jobs/logs", "exports/tasks", "exports/logs"] {
        fs::create_dir_all(space.root().join(dir)).unwrap();
    }
    let registry = fs::read_to_string(fixture("registered.json")).unwrap();
    let projects = space.root().to_str().unwrap();
    let registry = registry.replace("/srv/projects", projects);
    replace(&space.config().join("registered.json"), registry.as_bytes());
    // Without a daemon, then with one: the first project is switched off.
    read_predecessor(&space, false);
    space.start();
    read_predecessor(&space, true);
    let log = space.log();
    for complaint in ["warn", "<4>", "unreadable"] {
        assert!(!log.contains(complaint), "{log}");
    }
    // Switched on, its job runs, and what was finished stays so.
    let results = || fs::read_dir(space.root().join("reports/jobs/results")).unwrap();
    let before = results().count();
    space.run(&["enable", "reports"]).ok();
    let next = ["wait", "job-20260130-100000-next-summary"];
    space.run(&next).ok();
    assert_eq!(results().count(), before + 1);
    let kept = fs::read(space.config().join("registered.json")).unwrap();
    let kept: Value = serde_json::from_slice(&kept).unwrap();
    let exports = json!({"registered_at": "2026-01-29T12:43:00.271828"});
    kept.must_have(json!({
        "default_project": "reports",
        "projects": {"reports": {"owner": "an unknown key"}, "exports": exports},
    }));
}

fn read_predecessor(space: &Space, daemon: bool) {
    let ask = |args: &[&str]| {
        let ran = space.run(args);
        let mut notes = ran.stderr.lines();
        assert!(notes.all(|line| line.contains("is not running")), "{ran:?}");
        assert_eq!(ran.stderr.is_empty(), daemon, "{args:?}");
        ran.ok()
    };
    let json = |args: &[&str]| {
        let text = ask(&[args, &["--json"]].concat());
        serde_json::from_str::<Value>(&text).unwrap()
    };

    let list = ask(&["list"]);
    list.must_have("  Status: ✗ disabled\n  Registered: 2026-01-30T12:43:00\n");
    list.must_have("  Registered: 2026-01-29T12:43:00.271828\n");
    let list = json(&["list"]);
    assert_offsets(&list);
    let registered = json!({"registered_at": "2026-01-30T12:43:00.000+00:00"});
    list.must_have(json!({"projects": [{"layout": "tasks"}, registered]}));
    // Its view of the queue is old; the documents tell.
    assert_eq!(
        ask(&["-p", "reports", "queue"]),
        "Queue size: 1\nProcessing: None\nDisabled: no job is started until job-monitor enable reports\n\
         Queued jobs:\n  1. job-20260130-100000-next-summary.md\n"
    );
    let queue = ask(&["-p", "exports", "queue"]);
    assert_eq!(queue, "Queue size: 0\nProcessing: None\n");

    let status = ask(&["status"]);
    let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let lines: Vec<String> = status.lines().map(words).collect();
    for (begin, end) in [
        (
            "✓ job-20260130-090000-weekly-summary: completed",
            "2026-01-30 09:02 2m 03s $0.1234 audit 92 [reports]",
        ),
        ("✗ job-20260130-091000-broken-link: failed", "8s [reports]"),
        ("✗ job-20260130-092000-cut-short: running", "[reports]"),
        ("✗ job-20260130-093000-tried-again: retrying", "[reports]"),
        ("✗ job-20260130-094000-never-begun: queued", "[reports]"),
        ("✓ task-data-export-20260129-150000: completed", "[exports]"),
        ("✗ task-clean-up: failed", "[exports]"),
        (
            "✓ task-no-usage-20260129-160000: completed",
            "12s $0.0000 [exports]",
        ),
    ] {
        let is_it = |line: &String| line.starts_with(begin) && line.ends_with(end);
        assert!(lines.iter().any(is_it), "no {begin:?} {end:?} in {status}");
    }
    let status = json(&["status", "--all"]);
    assert_offsets(&status);
    let jobs = status["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), 9);
    let of = |id: &str| jobs.iter().find(|job| job["job_id"] == id).unwrap();
    of("job-20260130-090000-weekly-summary").must_have(json!({
        "completed_at": "2026-01-30T09:02:05.400+00:00", "cost_usd": 0.1234,
    }));
    assert_eq!(of("task-clean-up")["completed_at"], Value::Null);

    // With the name of a file, once.
    for (id, told) in [
        (
            "job-20260130-090000-weekly-summary.md",
            "Status: completed\nJob: job-20260130-090000-weekly-summary\nDuration: 123.40 seconds\n\
             Started: 2026-01-30T09:00:02.000+00:00\nEnded: 2026-01-30T09:02:05.400+00:00\n\
             Audit: 92 of 100: All criteria are met.\n\
             Summary: The summary is in summary.md.\nUsage:\n  \
             Tokens: 1200 in, 640 out\n  Cost: $0.1234\n",
        ),
        (
            "job-20260130-091000-broken-link",
            "Status: failed\nJob: job-20260130-091000-broken-link\nDuration: 8.00 seconds\n\
             Error: ProcessError: the command ended with exit code 1\n\
             Started: 2026-01-30T09:10:01.000+00:00\nEnded: 2026-01-30T09:10:09.000+00:00\n",
        ),
        (
            "task-data-export-20260129-150000",
            "Status: completed\nJob: task-data-export-20260129-150000\n\
             Started: 2026-01-29T15:00:00.000+00:00\nEnded: 2026-01-29T15:00:30.500+00:00\n\
             Summary: The export is done.\n",
        ),
        ("task-clean-up", "Status: failed\nJob: task-clean-up\n"),
        (
            "task-no-usage-20260129-160000",
            "Status: completed\nJob: task-no-usage-20260129-160000\nDuration: 12.34 seconds\n\
             Started: 2026-01-29T16:00:00.000+00:00\nEnded: 2026-01-29T16:00:12.000+00:00\n\
             Summary: Done.\nUsage:\n  Cost: $0.0000\n",
        ),
    ] {
        assert_eq!(ask(&[id]), told);
    }
    for job in jobs {
        let id = job["job_id"].as_str().unwrap();
        let folder = match job["project"].as_str().unwrap() {
            "reports" => "reports/jobs/results",
            _ => "exports/results",
        };
        let bytes = fs::read(fixture(&format!("{folder}/{id}.json"))).unwrap();
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        let answer = json(&[id]);
        answer.must_have(json!({"state": "done", "project": job["project"]}));
        assert_eq!(answer["result"], document, "{id}");
    }

    let stats = json(&["stats"]);
    stats.must_have(json!({"total": {"jobs": 9, "completed": 3, "input_tokens": 1200}}));
    assert_eq!(stats["projects"][1]["total"]["cost_usd"], 0.1234);
    ask(&["stats"]);
}

fn ids(jobs: &Value) -> Vec<&str> {
    let jobs = jobs.as_array().unwrap().iter();
    jobs.map(|job| job["job_id"].as_str().unwrap()).collect()
}

#[test]
fn a_mistyped_project_is_not_taken_for_the_one_around_the_current_directory() {
    let (space, project) = Space::with_project();
    space.project("beta");
    let inside = |named: &str| space.run_in(&project.path, &["-p", named, "queue"]);
    inside("alhpa").refused(3, "no project named \"alhpa\"");
    // A directory in it, or what is written as a path, means the project.
    for named in ["jobs", ".", "./nowhere"] {
        assert_eq!(inside(named).status, 0, "{named}");
    }
}

#[test]
fn of_many_finished_jobs_the_newest_are_shown_and_none_is_left_out() {
    const ALL: usize = 2_600;
    let (space, project) = Space::with_project();
    let at = |age: usize| SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 - age as u64);
    let id = |age: usize| format!("job-20260101-{age:06}-old");
    // Made in an order that has nothing to do with their ages, nor with that of the names.
    for number in 0..ALL {
        let age = number * 1_009 % ALL;
        let path = project.results(&format!("{}.json", id(age)));
        fs::write(&path, "{\n  \"status\": \"completed\"\n}\n").unwrap();
        File::open(&path).unwrap().set_modified(at(age)).unwrap();
    }
    let shown = |args: &[&str]| space.run(args).json()["jobs"].take();
    for limit in [20, 499, 501, 700, 1_000, 1_700, ALL] {
        let newest: Vec<String> = (0..limit).map(id).collect();
        let jobs = shown(&["status", "--json", "--limit", &limit.to_string()]);
        assert!(ids(&jobs) == newest, "{limit}");
    }
    assert_eq!(ids(&shown(&["status", "--json", "--all"])).len(), ALL);
}
