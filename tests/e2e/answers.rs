//! What the commands that read answer: JSON for programs, texts that old scripts look for, exit
//! statuses. They answer the same whether or not the daemon runs, and about the predecessor's
//! documents as about ours.

use crate::space::{Project, Ran, Space, job_monitor, replace, wait_until};
use nix::fcntl::{Flock, FlockArg};
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
        let space = Space::new();
        space.claude(AGENT);
        let alpha = space.project("alpha");
        let beta = space.project("beta");
        // Far from a full hour, so that the time left reads the same for a while.
        let resets = SystemTime::now() + Duration::from_secs(3 * 86_400 + 1800);
        let resets = resets.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        fs::write(beta.path.join("resets"), resets.as_secs().to_string()).unwrap();
        fs::write(alpha.state(&format!("{HELD}.hold")), "").unwrap();
        space.start();
        for id in [DONE, FAILED] {
            alpha.submit(id, "Do it.\n");
            alpha.wait_result(id);
        }
        alpha.submit(RUNS, "Do it.\n");
        alpha.wait_view("the job that runs", |view| view["is_processing"] == true);
        alpha.submit(HELD, "Do it.\n");
        alpha.submit(NEXT, "Do it.\n");
        alpha.wait_view("those that wait", |view| view["queue_size"] == 2);
        beta.submit(LIMITED, "Do it.\n");
        beta.wait_view("the hold", |view| view["hold"]["kind"] == "usage_limit");
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

#[track_caller]
fn assert_keys(value: &Value, keys: &[&str]) {
    let object = value
        .as_object()
        .unwrap_or_else(|| panic!("no object: {value}"));
    for key in keys {
        assert!(object.contains_key(*key), "no {key:?} in {value}");
    }
}

// --- JSON ---

#[test]
fn every_reading_command_answers_in_one_json_document_with_the_keys_of_the_contract() {
    let world = World::new();
    for command in ["queue", "list"] {
        let answer = world.json(&[command]);
        assert_keys(&answer, &["daemon", "projects"]);
        assert_eq!(answer["daemon"]["running"], true);
        assert_eq!(answer["daemon"]["pid"], world.space.pid());
        let projects = answer["projects"].as_array().unwrap();
        assert_eq!(projects.len(), 2);
        for (project, of) in projects.iter().zip([&world.alpha, &world.beta]) {
            assert_keys(
                project,
                &[
                    "name",
                    "path",
                    "layout",
                    "enabled",
                    "available",
                    "registered_at",
                    "hold",
                    "current",
                    "waiting",
                ],
            );
            assert_eq!(project["name"], of.name.as_str());
            assert_eq!(project["path"], of.path.to_str().unwrap());
            assert_eq!(project["layout"], "jobs");
            assert_eq!(project["enabled"], true);
            assert_eq!(project["available"], true);
            assert!(
                project["registered_at"]
                    .as_str()
                    .unwrap()
                    .starts_with("2026-01-30T12:43:00")
            );
            for job in project["waiting"].as_array().unwrap() {
                assert_keys(job, &["job_id", "created_at", "size", "held", "retry_at"]);
                assert_eq!(job["size"], 7);
                assert!(job["created_at"].is_string());
            }
        }
        let [alpha, beta] = [&projects[0], &projects[1]];
        assert_keys(&alpha["current"], &["job_id", "attempt", "started_at"]);
        assert_eq!(alpha["current"]["job_id"], RUNS);
        assert_eq!(alpha["current"]["attempt"], 1);
        assert_eq!(ids(&alpha["waiting"]), [HELD, NEXT]);
        assert_eq!(alpha["waiting"][0]["held"], true);
        assert_eq!(alpha["waiting"][1]["held"], false);
        assert_eq!(beta["current"], Value::Null);
        assert_eq!(ids(&beta["waiting"]), [LIMITED]);
        assert_keys(&beta["hold"], &["kind", "reason", "until"]);
        assert_eq!(beta["hold"]["kind"], "usage_limit");
        assert!(beta["hold"]["until"].is_string());
    }

    let status = world.json(&["status"]);
    let jobs = status["jobs"].as_array().unwrap();
    assert_eq!(ids(&status["jobs"]), [FAILED, DONE], "newest first");
    for job in jobs {
        assert_keys(
            job,
            &[
                "job_id",
                "project",
                "status",
                "error_kind",
                "completed_at",
                "duration_seconds",
                "cost_usd",
            ],
        );
        assert_eq!(job["project"], "alpha");
        assert!(job["completed_at"].is_string() && job["duration_seconds"].is_number());
    }
    assert_eq!(jobs[0]["error_kind"], "max_turns");
    assert_eq!(jobs[1]["error_kind"], Value::Null);
    assert_eq!(jobs[1]["cost_usd"], 0.25);
    assert_eq!(
        ids(&world.json(&["status", "--limit", "1"])["jobs"]),
        [FAILED]
    );

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
        assert_keys(
            &answer,
            &[
                "job_id",
                "project",
                "state",
                "position",
                "result",
                "obstacles",
            ],
        );
        assert_keys(&answer, &["started_at", "attempt", "retry_at"]);
        assert_eq!(answer["started_at"].is_string(), state == "running");
        assert_eq!(answer["attempt"].is_number(), [RUNS, LIMITED].contains(&id));
        assert_eq!(answer["job_id"], id);
        assert_eq!(answer["state"], state, "{id}");
        assert_eq!(answer["project"], project, "{id}");
        assert_eq!(answer["position"], position, "{id}");
        let result = world.alpha.result(id).unwrap_or_default();
        assert_eq!(answer["result"], result, "{id}");
        assert_eq!(world.json(&["show", &format!("{id}.md")]), answer);
    }

    let stats = world.json(&["stats"]);
    assert_keys(&stats, &["projects", "total"]);
    assert_eq!(stats["total"]["jobs"], 2);
    assert_eq!(stats["total"]["completed"], 1);
    assert_keys(&stats["projects"][0], &["name", "days", "total"]);
    let doctor = world.json(&["doctor"]);
    assert_keys(&doctor, &["findings", "problems", "warnings"]);
    for finding in doctor["findings"].as_array().unwrap() {
        assert_keys(finding, &["check", "level", "message", "remedy"]);
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
    for args in [
        &["queue"][..],
        &["list"],
        &["status"],
        &["stats"],
        &["show", NOWHERE],
    ] {
        let ran = space.run(&[args, &["--json"]].concat());
        assert_eq!(ran.stdout.lines().count(), 1, "{ran:?}");
        assert!(ran.json().is_object());
        assert!(ran.stderr.contains("the monitor is not running"), "{ran:?}");
        assert!(
            ran.stderr.contains("project \"broken\" is skipped"),
            "{ran:?}"
        );
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
    wait_until("the edit to be heard", || {
        space
            .log()
            .contains("Project 'alpha' is disabled, skipping")
    });
    fs::write(alpha.path.join("go"), "").unwrap();
    alpha.wait_result(RUNS);
    let ask = || -> Vec<(String, i32, String)> {
        let ids = [DONE, FAILED, RUNS, HELD, NEXT, LIMITED, NOWHERE].map(|id| vec![id]);
        let commands = [
            vec!["queue"],
            vec!["-p", "beta", "queue"],
            vec!["list"],
            vec!["status"],
            vec!["status", "--all"],
            vec!["stats"],
        ];
        let mut answers = Vec::new();
        for args in commands.into_iter().chain(ids) {
            let text = space.run(&args);
            let mut json = json_of(space, &args);
            if let Some(map) = json.as_object_mut() {
                map.remove("daemon");
            }
            answers.push((args.join(" "), text.status, text.stdout));
            answers.push((format!("{args:?} --json"), 0, json.to_string()));
        }
        answers
    };
    wait_until("the daemon's view of the end", || {
        alpha.view()["is_processing"] == false
    });
    let running = ask();
    assert_eq!(space.stop(), 0);
    let note = space.run(&["queue"]).stderr;
    assert_eq!(
        note,
        "job-monitor: the monitor is not running; start it with: job-monitor daemon\n"
    );
    assert_eq!(
        json_of(space, &["queue"])["daemon"],
        json!({"running": false, "pid": null})
    );
    for (before, after) in running.into_iter().zip(ask()) {
        assert_eq!(before, after);
    }
}

#[test]
fn a_view_that_is_older_than_the_directory_of_documents_is_not_believed() {
    let space = Space::new();
    space.plain_agent("until [ -e go ]; do sleep 0.05; done");
    let project = space.project("alpha");
    project.submit(RUNS, "x");
    space.start();
    project.wait_view("the job runs", |view| view["is_processing"] == true);
    // It cannot bring its view up to date.
    space.signal(Signal::SIGSTOP);
    project.submit(NEXT, "x");
    let told = space.run(&["queue"]).ok();
    space.signal(Signal::SIGCONT);
    assert!(told.contains(&format!("  1. {NEXT}.md")), "{told}");
}

// --- texts ---

#[test]
fn the_texts_that_old_scripts_look_for_are_there_word_for_word() {
    let space = Space::new();
    space.plain_agent("cat > read; until [ -e go ]; do sleep 0.05; done");
    let alpha = space.project("alpha");
    space.project_with("beta", json!({"enabled": false}));
    space.env("TZ", "UTC");
    let text = |args: &[&str]| space.run(args).stdout;
    let of_alpha = |args: &[&str]| space.run(&[&["-p", "alpha"], args].concat()).stdout;
    space.start();
    assert_eq!(of_alpha(&["queue"]), "Queue size: 0\nProcessing: None\n");
    assert_eq!(of_alpha(&["status"]), "Completed jobs:\n  none yet\n");
    let root = space.root().display().to_string();
    assert_eq!(
        text(&["list"]),
        format!(
            "alpha\n  Path: {root}/alpha\n  Status: ✓ enabled\n  Registered: 2026-01-30T12:43:00\n\
             beta\n  Path: {root}/beta\n  Status: ✗ disabled\n  Registered: 2026-01-30T12:43:00\n"
        )
    );

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
    assert!(
        queue.starts_with(&begin) && queue.ends_with(&end),
        "{queue}"
    );
    assert_eq!(
        text(&[NEXT]),
        format!(
            "Status: waiting\nJob: {NEXT}\nCreated: 2026-01-30T12:03:00.000+00:00\nSize: 6 bytes\n\
             Queue position: 2 of 2\n"
        )
    );
    let running = text(&[RUNS]);
    let lines: Vec<&str> = running.lines().collect();
    let job = format!("Job: {RUNS}");
    assert_eq!(&lines[..2], ["Status: processing", job.as_str()]);
    let begins = [
        "Started: 20",
        "Elapsed: ",
        "Last activity: ",
        "Project: alpha",
        "Agent: agent",
    ];
    for (line, begin) in lines[2..].iter().zip(begins) {
        assert!(line.starts_with(begin), "{running}");
    }
    assert_eq!(lines.len(), 7, "{running}");

    let missing = space.run(&["-p", "alpha", &format!("{NOWHERE}.md")]);
    assert_eq!(missing.status, 3);
    assert_eq!(
        missing.stdout,
        format!(
            "Status: not_found\nJob: {NOWHERE}\n\
             The job was not found in any of the following locations:\n  \
             - {root}/alpha/jobs/state\n  - {root}/alpha/jobs/items\n  - {root}/alpha/jobs/results\n"
        )
    );
    let missing = space.run(&["-a", NOWHERE]).stdout;
    let line = "\n  - jobs/state, jobs/items, jobs/results of \"alpha\"\n";
    assert!(missing.contains(line), "{missing}");

    // Results as the daemon writes them, with numbers that are known.
    let put = |id: &str, document: Value| {
        replace(
            &alpha.results(&format!("{id}.json")),
            document.to_string().as_bytes(),
        );
    };
    put(
        DONE,
        json!({"job_id": DONE, "status": "completed", "duration_seconds": 12.34, "error": null,
            "worker_output": {"summary": "All is well.", "cost_usd": 0.0,
                "usage": {"input_tokens": 200, "output_tokens": 40}},
            "permission_denials": [{"tool_name": "Bash", "tool_input": {"command": "make"}}]}),
    );
    let done = text(&[DONE]);
    let begin = format!(
        "Status: completed\nJob: {DONE}\nDuration: 12.34 seconds\nDenied tools:\n  Bash: make\n"
    );
    let end = "Summary: All is well.\nUsage:\n  Tokens: 200 in, 40 out\n  Cost: $0.0000\n";
    assert!(done.starts_with(&begin) && done.ends_with(end), "{done}");
    let args = r#""agents": {"claude":{"args":["--allowedTools","Bash(make *)"]}}"#;
    assert!(!done.contains("Error:") && done.contains(args), "{done}");
    put(
        FAILED,
        json!({"job_id": FAILED, "status": "failed", "duration_seconds": 1.0, "worker_output": null,
            "error": "it ended with exit status 7", "error_kind": "exit_code"}),
    );
    assert_eq!(
        text(&[FAILED]),
        format!(
            "Status: failed\nJob: {FAILED}\nDuration: 1.00 seconds\n\
             Error: it ended with exit status 7 (exit_code)\n"
        )
    );
    assert_eq!(
        of_alpha(&["status"]),
        format!(
            "Completed jobs:\n  ✗ {FAILED}: failed (exit_code)   1s\n  \
             ⚠ {DONE}: completed             12s  $0.0000  1 tool denied\n"
        )
    );
    // Signs are only shown where they can be.
    space.env("LANG", "C");
    assert!(of_alpha(&["status"]).contains(&format!("  ! {DONE}: completed")));
    assert!(text(&["list"]).contains("  Status: x disabled\n"));
}

#[test]
fn each_exit_status_of_the_contract_is_reached() {
    let world = World::new();
    let space = &world.space;
    let status = |args: &[&str]| {
        let ran = space.run(args);
        assert_eq!(ran.status == 0, ran.stderr.is_empty(), "{args:?}: {ran:?}");
        ran.status
    };
    for args in [
        &["queue"][..],
        &["--help"],
        &["--version"],
        &["wait", DONE],
        &[DONE],
    ] {
        assert_eq!(status(args), 0, "{args:?}");
    }
    // It is over already, and so cannot be cancelled.
    assert_eq!(status(&["cancel", DONE]), 1);
    for args in [
        &[][..],
        &["nonsense"],
        &["queue", "--nonsense"],
        &["../x"],
        &["/etc/passwd"],
        &["wait"],
        &["wait", "--timeout", "soon", DONE],
        // Which of the projects?
        &["submit", "-d", "x", "/dev/null"],
    ] {
        assert_eq!(status(args), 2, "{args:?}");
    }
    assert_eq!(status(&["wait", NOWHERE]), 3);
    assert_eq!(status(&["-p", "nobody", "queue"]), 3);
    // These answer on standard output.
    assert_eq!(space.run(&[NOWHERE]).status, 3);
    assert_eq!(space.run(&["wait", FAILED]).status, 4);
    let go = world.alpha.path.join("go");
    fs::write(go, "").unwrap();
    let text = space.root().join("text.md");
    fs::write(&text, "Do it.\n").unwrap();
    let text = text.to_str().unwrap();
    // The hold of the agent would keep a new job waiting.
    space.plain_agent("cat > /dev/null; exit 7");
    space.run(&["release", "--all", "-p", "alpha"]).ok();
    let submit = ["-p", "alpha", "submit", "-d", "failed", "--wait", text];
    assert_eq!(space.run(&submit).status, 4);
    assert_eq!(status(&["daemon"]), 5);
    space.run(&["disable", "alpha"]).ok();
    // The command has written that down; the daemon takes note of it in its own time.
    wait_until("the project to be left alone", || {
        let lock = File::open(world.alpha.state(".lock")).unwrap();
        Flock::lock(lock, FlockArg::LockExclusiveNonblock).is_ok()
    });
    world.alpha.submit("job-20990101-120000-late", "x\n");
    let late = ["wait", "--timeout", "200ms", "job-20990101-120000-late"];
    wait_until("a disabled project", || space.run(&late).status == 124);
    // A full disk is a failure, not a reader that has gone.
    let full = |command: &mut Command| {
        command.stdout(File::options().write(true).open("/dev/full").unwrap());
    };
    let ran = space.run_as(full, &["status"]);
    assert_eq!(ran.status, 1);
    assert!(ran.stderr.contains("standard output"), "{ran:?}");
}

// --- old habits ---

/// A shell script with our program on its PATH.
fn script(space: &Space, dir: &Path, text: &str) -> Ran {
    let program = space.root().join("bin/job-monitor");
    if !program.exists() {
        symlink(job_monitor(), program).unwrap();
    }
    let mut shell = Command::new("timeout");
    shell.args(["30", "sh", "-c", text]).env_clear();
    let own = space.command(&[]);
    shell.envs(
        own.get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    shell.current_dir(dir).stdin(Stdio::null());
    Ran::of(shell.output().unwrap())
}

#[test]
fn the_predecessor_s_producers_still_find_their_way() {
    let space = Space::new();
    space.plain_agent("cat > /dev/null; sleep 0.3; echo 'It is done.'");
    let alpha = space.project("alpha");
    space.start();
    for (id, ending) in [
        ("job-20260130-143000-one", ""),
        ("job-20260130-143001-two", ".md"),
    ] {
        let ran = script(
            &space,
            &alpha.item(""),
            &format!(
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
            ),
        );
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
    let path = space.root().join("fresh");
    fs::create_dir(&path).unwrap();
    let path = path.to_str().unwrap();
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
    fs::write(format!("{path}/jobs/items/{DONE}.md"), "Do it.\n").unwrap();
    assert_eq!(
        space.run(&["wait", DONE]).ok(),
        format!("{DONE}: completed\n")
    );
    assert_eq!(json_of(&space, &["list"])["daemon"]["pid"], pid);

    // What it says about jobs that are there already can be pasted, whatever the name is.
    let path = space.root().join("my project");
    fs::create_dir_all(path.join("jobs/items")).unwrap();
    fs::write(path.join(format!("jobs/items/{NEXT}.md")), "Do it.\n").unwrap();
    let path = path.to_str().unwrap();
    let told = space.run(&["register", path, "--no-restart"]).ok();
    let (_, remedy) = told.split_once("held; to release: ").unwrap();
    let (remedy, _) = remedy.split_once('\n').unwrap();
    script(&space, &space.home(), remedy).ok();
    assert_eq!(space.run(&["wait", NEXT]).status, 0);
}

#[test]
fn a_reader_that_has_seen_enough_ends_a_command_quietly() {
    let space = Space::new();
    let alpha = space.project("alpha");
    // More than a pipe holds.
    for number in 0..2500 {
        let id = format!("job-20260101-{number:06}-one-of-very-many-jobs");
        let document = json!({"job_id": id, "status": "completed", "duration_seconds": 1.0});
        fs::write(alpha.results(&format!("{id}.json")), document.to_string()).unwrap();
        let waiting = format!("job-20260201-{number:06}-one-of-very-many-jobs");
        fs::write(alpha.item(&format!("{waiting}.md")), "Do it.\n").unwrap();
        fs::write(alpha.state(&format!("{waiting}.hold")), "").unwrap();
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

#[test]
fn no_escape_sequence_reaches_a_reader_from_whoever_wrote_it() {
    let space = Space::new();
    // What an agent says, does and is refused: as JSON escapes, and as they are.
    space.claude(
        r#"cat > /dev/null
bad='\u001b]0;title\u0007\u001b[31mred\r\u009b2J\u202e'
raw=$(printf '\177\302\233\342\200\256')
say() { printf '%s\n' "$1"; }
say '{"type":"system","subtype":"init","session_id":"s","model":"m'"$bad$raw"'","claude_code_version":"2'"$bad"'"}'
say '{"type":"assistant","message":{"id":"m1","content":[{"type":"text","text":"said '"$bad$raw"'"},{"type":"tool_use","id":"t1","name":"Bash'"$bad"'","input":{"command":"ls '"$bad$raw"'"}},{"type":"tool_use","id":"t2","name":"Write","input":{"file_path":"a'"$bad$raw"'b"}}]}}'
say '{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1","content":"got '"$bad$raw"'"},{"type":"tool_result","tool_use_id":"t2","content":"ok"}]}}'
printf 'broken: \033[31m\007\n' >&2
say '{"type":"result","subtype":"success","is_error":false,"result":"answer '"$bad$raw"'","permission_denials":[{"tool_name":"Web'"$bad$raw"'","tool_input":{"url":"http://x/'"$bad$raw"'"}}],"session_id":"s"}'
"#,
    );
    let hostile = "alpha\u{1b}[31m\u{202e}";
    let alpha = space.project("alpha");
    space.plain_agent(
        "cat; printf 'plain \\033[2J\\302\\233 \\r words\\n'; printf '\\033c' >&2; exit 3",
    );
    space.edit_registry(|projects| {
        projects["alpha"]["agent"] = json!("claude");
        projects.insert(
            "be\u{202e}ta".to_owned(),
            json!({"path": space.root().join(hostile)}),
        );
        projects.insert("ga\u{1b}mma".to_owned(), json!({"path": "/tmp/\u{1b}[5m"}));
        projects.insert(
            "delta".to_owned(),
            json!({"path": "/nonexistent/\u{1b}[5m"}),
        );
    });
    let beta = space.root().join(hostile);
    for part in ["items", "results", "state", "logs"] {
        fs::create_dir_all(beta.join("jobs").join(part)).unwrap();
    }
    // A document's first line, and a name that looks like a job's.
    let document = "# \u{1b}[31mRed\u{1b}]0;x\u{7} alert \u{9b}\u{202e}\n\nDo it.\n";
    let text = space.root().join("text.md");
    fs::write(&text, document).unwrap();
    fs::write(alpha.item("job-20260101-120000-\u{1b}[31m\u{7f}.md"), "x\n").unwrap();
    let old: Value = serde_json::from_slice(&fs::read(fixture(COLOURED)).unwrap()).unwrap();
    let old_id = old["job_id"].as_str().unwrap();
    replace(
        &alpha.results(&format!("{old_id}.json")),
        old.to_string().as_bytes(),
    );
    space.start();

    let text = text.to_str().unwrap();
    let submitted = space.run(&["-p", "alpha", "submit", text]);
    let id = submitted.stdout.trim_end().to_owned();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
    assert!(id.chars().all(is_plain) && id.ends_with("-alert"), "{id}");
    let result = alpha.wait_result(&id);
    assert!(
        result["worker_output"]["summary"]
            .as_str()
            .unwrap()
            .contains('\u{1b}')
    );
    let plain = "job-20260101-130000-plain";
    fs::write(beta.join(format!("jobs/items/{plain}.md")), document).unwrap();
    assert_eq!(space.run(&["wait", plain]).status, 4);

    let mut answers = vec![submitted];
    let missing = ["-p", "\u{1b}[31mnobody", "queue"];
    for args in [
        &["queue"][..],
        &["list"],
        &["status"],
        &["stats"],
        &["doctor"],
        &["watch"],
        &[&id],
        &[plain],
        &[old_id],
        &["logs", &id],
        &["logs", plain],
        &["wait", &id],
        &["wait", old_id],
        &["cancel", old_id],
        &[NOWHERE],
        &["\u{1b}[31m"],
        &["job-\u{1b}[31m"],
        &["--\u{1b}[31m"],
        &["help", "\u{9b}x"],
        &missing,
    ] {
        answers.push(space.run(args));
        if !matches!(args[0], "watch" | "logs" | "wait" | "cancel" | "help") {
            answers.push(space.run(&[args, &["--json"]].concat()));
        }
    }
    let journal = Ran {
        status: 0,
        stdout: alpha.journal(),
        stderr: space.log(),
    };
    answers.push(journal);
    for ran in &answers {
        for text in [&ran.stdout, &ran.stderr] {
            let harmful = |c: char| {
                c.is_control() && c != '\n' && c != '\t'
                    || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
            };
            assert!(!text.contains(harmful), "{text:?}");
        }
    }
    // They were all asked about what they must not repeat.
    let told = space.run(&[&id]).ok();
    for part in ["]0;title", "Web\u{fffd}", "http://x/"] {
        assert!(told.contains(part), "no {part:?} in {told}");
    }
    let exact = json_of(&space, &[&id]);
    assert_eq!(exact["result"], result);
}

// --- the predecessor's documents ---

const COLOURED: &str = "reports/jobs/results/job-20260130-095000-coloured.json";

fn fixture(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/predecessor")
        .join(path)
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::write(target, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

#[test]
fn the_predecessor_s_documents_are_read_without_complaint() {
    let space = Space::new();
    space.plain_agent("cat > /dev/null; echo done");
    space.env("TZ", "UTC");
    for project in ["reports", "exports"] {
        copy_tree(&fixture(project), &space.root().join(project));
    }
    // What was empty, which is not checked in.
    for dir in ["reports/jobs/logs", "exports/tasks", "exports/logs"] {
        fs::create_dir_all(space.root().join(dir)).unwrap();
    }
    let registry = fs::read_to_string(fixture("registered.json")).unwrap();
    let projects = space.root().to_str().unwrap();
    let registry = registry.replace("/srv/projects", projects);
    replace(&space.config().join("registered.json"), registry.as_bytes());
    // Without a daemon, then with one: the first project is switched off.
    for daemon in [false, true] {
        if daemon {
            space.start();
        }
        read_predecessor(&space, daemon);
    }
    let log = space.log();
    assert!(
        !log.contains("warn") && !log.contains("<4>") && !log.contains("unreadable"),
        "{log}"
    );
    // Switched on, its job runs, and what was finished stays so.
    let before = fs::read_dir(space.root().join("reports/jobs/results"))
        .unwrap()
        .count();
    space.run(&["enable", "reports"]).ok();
    space
        .run(&["wait", "job-20260130-100000-next-summary"])
        .ok();
    let after = fs::read_dir(space.root().join("reports/jobs/results"))
        .unwrap()
        .count();
    assert_eq!(after, before + 1);
    let kept: Value =
        serde_json::from_slice(&fs::read(space.config().join("registered.json")).unwrap()).unwrap();
    assert_eq!(kept["default_project"], "reports");
    assert_eq!(kept["projects"]["reports"]["owner"], "an unknown key");
    assert_eq!(
        kept["projects"]["exports"]["registered_at"],
        "2026-01-29T12:43:00.271828"
    );
}

fn read_predecessor(space: &Space, daemon: bool) {
    let ask = |args: &[&str]| {
        let ran = space.run(args);
        let notes = ran
            .stderr
            .lines()
            .filter(|line| !line.contains("is not running"));
        assert_eq!(notes.collect::<Vec<_>>(), Vec::<&str>::new(), "{args:?}");
        assert_eq!(ran.stderr.is_empty(), daemon, "{args:?}");
        ran.ok()
    };
    let json = |args: &[&str]| {
        let text = ask(&[args, &["--json"]].concat());
        serde_json::from_str::<Value>(&text).unwrap()
    };

    let list = ask(&["list"]);
    assert!(
        list.contains("  Status: ✗ disabled\n  Registered: 2026-01-30T12:43:00\n"),
        "{list}"
    );
    assert!(
        list.contains("  Registered: 2026-01-29T12:43:00.271828\n"),
        "{list}"
    );
    let list = json(&["list"]);
    assert_offsets(&list);
    assert_eq!(
        list["projects"][1]["registered_at"],
        "2026-01-30T12:43:00.000+00:00"
    );
    assert_eq!(list["projects"][0]["layout"], "tasks");
    // Its view of the queue is old; the documents tell.
    assert_eq!(
        ask(&["-p", "reports", "queue"]),
        "Queue size: 1\nProcessing: None\nDisabled: no job is started until job-monitor enable reports\n\
         Queued jobs:\n  1. job-20260130-100000-next-summary.md\n"
    );
    assert_eq!(
        ask(&["-p", "exports", "queue"]),
        "Queue size: 0\nProcessing: None\n"
    );

    let status = ask(&["status"]);
    for (begin, end) in [
        (
            "  ✓ job-20260130-090000-weekly-summary: completed",
            "2026-01-30 09:02  2m 03s  $0.1234  audit 92  [reports]",
        ),
        (
            "  ✗ job-20260130-091000-broken-link: failed",
            "   8s  [reports]",
        ),
        ("  ✗ job-20260130-092000-cut-short: running", "  [reports]"),
        (
            "  ✗ job-20260130-093000-tried-again: retrying",
            "  [reports]",
        ),
        ("  ✗ job-20260130-094000-never-begun: queued", "  [reports]"),
        (
            "  ✓ task-data-export-20260129-150000: completed",
            "  [exports]",
        ),
        ("  ✗ task-clean-up: failed", "  [exports]"),
        (
            "  ✓ task-no-usage-20260129-160000: completed",
            "  12s  $0.0000  [exports]",
        ),
    ] {
        let is_it = |told: &str| {
            let told: Vec<&str> = told.split_whitespace().collect();
            let [begin, end] = [begin, end].map(|part| part.split_whitespace().collect::<Vec<_>>());
            told.starts_with(&begin) && told.ends_with(&end)
        };
        assert!(
            status.lines().any(is_it),
            "no {begin:?} {end:?} in {status}"
        );
    }
    let status = json(&["status", "--all"]);
    assert_offsets(&status);
    let jobs = status["jobs"].as_array().unwrap();
    assert_eq!(jobs.len(), 9);
    let of = |id: &str| jobs.iter().find(|job| job["job_id"] == id).unwrap();
    let first = of("job-20260130-090000-weekly-summary");
    assert_eq!(first["completed_at"], "2026-01-30T09:02:05.400+00:00");
    assert_eq!(first["cost_usd"], 0.1234);
    assert_eq!(of("task-clean-up")["completed_at"], Value::Null);

    assert_eq!(
        ask(&["job-20260130-090000-weekly-summary.md"]),
        "Status: completed\nJob: job-20260130-090000-weekly-summary\nDuration: 123.40 seconds\n\
         Started: 2026-01-30T09:00:02.000+00:00\nEnded: 2026-01-30T09:02:05.400+00:00\n\
         Audit: 92 of 100: All criteria are met.\n\
         Summary: The summary is in summary.md.\nUsage:\n  \
         Tokens: 1200 in, 640 out\n  Cost: $0.1234\n"
    );
    assert_eq!(
        ask(&["job-20260130-091000-broken-link"]),
        "Status: failed\nJob: job-20260130-091000-broken-link\nDuration: 8.00 seconds\n\
         Error: ProcessError: the command ended with exit code 1\n\
         Started: 2026-01-30T09:10:01.000+00:00\nEnded: 2026-01-30T09:10:09.000+00:00\n"
    );
    assert_eq!(
        ask(&["task-data-export-20260129-150000"]),
        "Status: completed\nJob: task-data-export-20260129-150000\n\
         Started: 2026-01-29T15:00:00.000+00:00\nEnded: 2026-01-29T15:00:30.500+00:00\n\
         Summary: The export is done.\n"
    );
    assert_eq!(
        ask(&["task-clean-up"]),
        "Status: failed\nJob: task-clean-up\n"
    );
    assert_eq!(
        ask(&["task-no-usage-20260129-160000"]),
        "Status: completed\nJob: task-no-usage-20260129-160000\nDuration: 12.34 seconds\n\
         Started: 2026-01-29T16:00:00.000+00:00\nEnded: 2026-01-29T16:00:12.000+00:00\n\
         Summary: Done.\nUsage:\n  Cost: $0.0000\n"
    );
    for job in jobs {
        let id = job["job_id"].as_str().unwrap();
        let answer = json(&[id]);
        assert_eq!(answer["state"], "done", "{id}");
        assert_eq!(answer["project"], job["project"], "{id}");
        let folder = match answer["project"].as_str().unwrap() {
            "reports" => "reports/jobs/results",
            _ => "exports/results",
        };
        let bytes = fs::read(fixture(&format!("{folder}/{id}.json"))).unwrap();
        let document: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(answer["result"], document, "{id}");
    }

    let stats = json(&["stats"]);
    assert_eq!(stats["total"]["jobs"], 9);
    assert_eq!(stats["total"]["completed"], 3);
    assert_eq!(stats["total"]["input_tokens"], 1200);
    assert_eq!(stats["projects"][1]["total"]["cost_usd"], 0.1234);
    ask(&["stats"]);
}

fn ids(jobs: &Value) -> Vec<&str> {
    let jobs = jobs.as_array().unwrap().iter();
    jobs.map(|job| job["job_id"].as_str().unwrap()).collect()
}

#[test]
fn a_mistyped_project_is_not_taken_for_the_one_around_the_current_directory() {
    let space = Space::new();
    let project = space.project("alpha");
    space.project("beta");
    let inside = |named: &str| {
        space.run_as(
            |command| {
                command.current_dir(&project.path);
            },
            &["-p", named, "queue"],
        )
    };
    let refused = inside("alhpa");
    assert_eq!(refused.status, 3, "{refused:?}");
    assert!(
        refused.stderr.contains("no project named \"alhpa\""),
        "{refused:?}"
    );
    // A directory in it, or what is written as a path, means the project.
    for named in ["jobs", ".", "./nowhere"] {
        assert_eq!(inside(named).status, 0, "{named}");
    }
}

#[test]
fn of_many_finished_jobs_the_newest_are_shown_and_none_is_left_out() {
    const ALL: usize = 2_600;
    let space = Space::new();
    let project = space.project("alpha");
    let at = |age: usize| SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 - age as u64);
    let id = |age: usize| format!("job-20260101-{age:06}-old");
    // Made in an order that has nothing to do with their ages, nor with that of the names.
    for number in 0..ALL {
        let age = number * 1_009 % ALL;
        let path = project.results(&format!("{}.json", id(age)));
        fs::write(&path, "{\n  \"status\": \"completed\"\n}\n").unwrap();
        File::open(&path).unwrap().set_modified(at(age)).unwrap();
    }
    let limits = [20, 499, 501, 700, 1_000, 1_700, ALL];
    let shown = |args: &[&str]| {
        let answer = space.run(args).stdout;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let jobs = answer["jobs"].as_array().unwrap().iter();
        jobs.map(|job| job["job_id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    for limit in limits {
        let newest: Vec<String> = (0..limit).map(id).collect();
        let text = limit.to_string();
        assert!(
            shown(&["status", "--json", "--limit", &text]) == newest,
            "{limit}"
        );
    }
    assert_eq!(shown(&["status", "--json", "--all"]).len(), ALL);
}
