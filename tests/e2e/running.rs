//! The main path: from a document in the spool to a result, with `plain` agents.

use crate::space::{Project, Space, is_alive, wait_for, wait_until};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, SystemTime};

const ID: &str = "job-20260101-120000-hello";

/// An agent that notes that it ran, and the text it was given.
const NOTES: &str =
    r#"echo "$JOB_MONITOR_JOB_ID" >> ran; cat > "prompt-$JOB_MONITOR_JOB_ID"; echo done"#;

/// An agent that runs until the test makes the file `go` in the project.
const GATED: &str = r#"echo "$JOB_MONITOR_JOB_ID" >> ran; cat > "prompt-$JOB_MONITOR_JOB_ID"
while [ ! -e go ]; do sleep 0.02; done; echo done"#;

fn ran(project: &Project) -> Vec<String> {
    project.made("ran").lines().map(str::to_owned).collect()
}

/// Leaves a cancel mark as the command does, poke included.
pub fn cancel(project: &Project, id: &str) {
    File::create(project.state(&format!("{id}.cancel"))).unwrap();
    let poke = project.item(".poke");
    File::create(&poke).unwrap();
    fs::remove_file(poke).unwrap();
}

/// Whether nothing comes of a document for long enough that something would have: the daemon
/// takes 200 ms for a settled one. The only way to see that nothing happens is to wait.
fn assert_stays_waiting(project: &Project, id: &str) {
    std::thread::sleep(Duration::from_millis(600));
    assert!(project.result(id).is_none() && project.claim(id).is_none());
    assert!(ran(project).is_empty(), "{id} was started");
}

#[test]
fn a_hold_mark_counts_whoever_left_it() {
    let space = Space::new();
    space.plain_agent("echo x >> ran; cat > /dev/null");
    let project = space.project("alpha");
    space.start();
    fs::write(project.state(&format!("{ID}.hold")), "").unwrap();
    project.submit(ID, "x");
    assert_stays_waiting(&project, ID);
    space.run(&["release", ID]).ok();
    assert_eq!(project.wait_result(ID)["status"], "completed");
}

#[test]
fn a_cancel_mark_counts_whoever_left_it() {
    let space = Space::new();
    space.plain_agent("echo begun > begun; exec sleep 600");
    let project = space.project("alpha");
    space.start();
    project.submit(ID, "x");
    project.wait_made("begun");
    // No event tells of it.
    fs::write(project.state(&format!("{ID}.cancel")), "").unwrap();
    assert_eq!(project.wait_result(ID)["status"], "cancelled");
}

// --- the result ---

#[test]
fn a_document_becomes_a_result_with_the_keys_of_the_contract_in_order() {
    let keys = [
        "status",
        "created_at",
        "started_at",
        "completed_at",
        "queue_position",
        "worker_output",
        "audit_score",
        "audit_notes",
        "artifacts",
        "error",
        "retry_count",
        "stdout",
        "stderr",
        "duration_seconds",
        "error_kind",
        "project",
        "agent",
        "agent_version",
        "model",
        "session_id",
        "num_turns",
        "attempts",
        "permission_denials",
        "leftovers",
        "document_sha256",
        "logs",
        "checks",
        "git",
        "continues",
        "failed_mcp_servers",
    ];
    let space = Space::new();
    space.plain_agent("cat >/dev/null; echo the answer; echo a warning >&2");
    let jobs = space.project("new");
    let tasks = space.project_with("old", json!({"layout": "tasks"}));
    space.start();
    let task = "task-hello-20260101-120000";
    for (project, id, own, dir) in [
        (&jobs, ID, "job_id", "jobs/logs"),
        (&tasks, task, "task_id", "logs"),
    ] {
        project.submit(id, "say hello\n");
        let result = project.wait_result(id);
        let text = fs::read_to_string(project.results(&format!("{id}.json"))).unwrap();
        let order: Vec<&str> = text
            .lines()
            .filter_map(|line| line.strip_prefix("  \"")?.split('"').next())
            .collect();
        assert_eq!(order[0], own);
        assert_eq!(order[1..], keys);
        assert!(text.ends_with("}\n"));

        assert_eq!(result[own], id);
        assert_eq!(result["status"], "completed");
        assert_eq!(result["error"], Value::Null);
        assert_eq!(result["error_kind"], Value::Null);
        assert_eq!(result["worker_output"]["summary"], "the answer");
        assert_eq!(result["worker_output"]["raw_output"], "the answer\n");
        assert_eq!(result["worker_output"]["cost_usd"], Value::Null);
        assert_eq!(result["stdout"], "the answer\n");
        assert_eq!(result["stderr"], "a warning\n");
        assert_eq!(result["queue_position"], 1);
        assert_eq!(result["retry_count"], 0);
        assert_eq!(result["project"], project.name.as_str());
        assert_eq!(result["agent"], "agent");
        assert_eq!(result["leftovers"], 0);
        assert_eq!(result["attempts"].as_array().unwrap().len(), 1);
        assert_eq!(result["attempts"][0]["exit_code"], 0);
        // Of "say hello\n", by sha256sum.
        let sum = "1772c212dc4da497a7bc37fff4d2d2c6d541e779b173ed344d7493c3bbe6d529";
        assert_eq!(result["document_sha256"], sum);
        let logs: Vec<&str> = result["logs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|log| log.as_str().unwrap())
            .collect();
        let expected = ["md", "out", "err"].map(|ending| format!("{dir}/{id}.{ending}"));
        assert_eq!(logs, expected);
        for log in logs {
            assert!(project.path.join(log).is_file(), "{log} is missing");
        }
        for key in ["created_at", "started_at", "completed_at"] {
            let time = result[key].as_str().unwrap();
            assert!(is_rfc3339_with_offset(time), "{key} is {time:?}");
        }
    }
}

fn is_rfc3339_with_offset(text: &str) -> bool {
    let form: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '9' } else { c })
        .collect();
    form.starts_with("9999-99-99T99:99:99")
        && (form.ends_with("+99:99") || form.ends_with("-99:99") || form.ends_with('Z'))
}

#[test]
fn times_are_given_with_the_local_offset() {
    let space = Space::new();
    space.env("TZ", "XYZ-05:30");
    space.plain_agent("cat >/dev/null");
    let project = space.project("alpha");
    space.start();
    project.submit(ID, "x");
    let result = project.wait_result(ID);
    for key in ["created_at", "started_at", "completed_at"] {
        let time = result[key].as_str().unwrap();
        assert!(time.ends_with("+05:30"), "{key} is {time:?}");
    }
}

#[test]
fn what_the_daemon_writes_is_for_the_user_alone() {
    let space = Space::new();
    space.plain_agent("cat >/dev/null; echo done");
    let project = space.project("alpha");
    space.start();
    project.submit(ID, "x");
    project.wait_result(ID);
    project.wait_view("idle", |view| view["is_processing"] == false);
    let written = [
        project.results(&format!("{ID}.json")),
        project.state("queue_state.json"),
        project.logs("monitor.log"),
        project.logs(&format!("{ID}.md")),
        project.logs(&format!("{ID}.out")),
        project.logs(&format!("{ID}.err")),
        space.state().join("daemon.lock"),
    ];
    for path in written {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
    }
    let left = project.names(&project.results(""));
    assert_eq!(left, [format!("{ID}.json")]);
    wait_until("the claim to be swept", || project.claim(ID).is_none());
}

#[test]
fn a_plain_agent_is_judged_by_its_exit_status() {
    let space = Space::new();
    space.plain_agent("sh -s; exit $?");
    let project = space.project("alpha");
    space.start();
    let rows = [
        ("exit", "echo why >&2; exit 3", "exit_code", Some(3), None),
        ("signal", "kill -KILL $PPID", "signal", None, Some(9)),
    ];
    for (at, (name, script, kind, code, signal)) in rows.into_iter().enumerate() {
        let id = format!("job-20260101-12000{at}-{name}");
        project.submit(&id, script);
        let result = project.wait_result(&id);
        assert_eq!(result["status"], "failed");
        assert_eq!(result["error_kind"], kind);
        assert_eq!(result["attempts"][0]["exit_code"], json!(code));
        assert_eq!(result["attempts"][0]["signal"], json!(signal));
        assert_eq!(result["attempts"][0]["error_kind"], kind);
        let error = result["error"].as_str().unwrap();
        match code {
            Some(_) => assert!(
                error.contains("status 3") && error.contains("why"),
                "{error}"
            ),
            None => assert!(error.contains("SIGKILL"), "{error}"),
        }
    }
}

#[test]
fn output_that_is_not_utf_8_and_a_silent_success_are_results_too() {
    let space = Space::new();
    space.plain_agent("sh -s");
    let project = space.project("alpha");
    space.start();
    project.submit("job-20260101-120000-bytes", r"printf 'a\377b\033[31m'");
    let result = project.wait_result("job-20260101-120000-bytes");
    assert_eq!(result["status"], "completed");
    assert_eq!(result["worker_output"]["summary"], "a\u{fffd}b\u{1b}[31m");
    project.submit("job-20260101-120001-silent", "exit 0");
    let result = project.wait_result("job-20260101-120001-silent");
    assert_eq!(result["status"], "completed");
    assert_eq!(result["worker_output"]["summary"], Value::Null);
}

#[test]
fn an_agent_finds_the_directory_environment_and_descriptors_of_the_contract() {
    let space = Space::new();
    space.env("FROM_DAEMON", "inherited");
    space.env("CLAUDECODE", "1");
    space.credentials("export FROM_FILE='a secret'\n", 0o600);
    let program = space.program(
        "agent",
        r#"env > environ; pwd -P > cwd; echo "$@" > argv
ls -l /proc/self/fd > fds; cat /proc/self/stat > stat; grep -i '^Sig[IB]' /proc/self/status > signals"#,
    );
    space.set(json!({
        "agent": "own",
        "agents": {"own": {
            "command": ["env", program, "--chdir={project}", "--job-name={job_id}", "n{attempt}"],
            "args": ["last"],
            "env": {"FROM_AGENT": "yes"},
        }},
    }));
    let project = space.project("alpha");
    space.start();
    project.submit(ID, "x");
    let result = project.wait_result(ID);
    assert_eq!(result["status"], "completed", "{result}");
    let root = project.path.display();
    assert_eq!(project.made("cwd").trim(), project.path.to_str().unwrap());
    assert_eq!(
        project.made("argv").trim(),
        format!("--chdir={root} --job-name={ID} n1 last")
    );
    let environ = project.made("environ");
    let value = |name: &str| {
        let line = environ.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.strip_prefix('='))
    };
    assert_eq!(value("FROM_DAEMON"), Some("inherited"));
    assert_eq!(value("FROM_FILE"), Some("a secret"));
    assert_eq!(value("FROM_AGENT"), Some("yes"));
    assert_eq!(value("JOB_MONITOR_JOB_ID"), Some(ID));
    assert_eq!(value("JOB_MONITOR_PROJECT"), Some("alpha"));
    assert_eq!(value("JOB_MONITOR_RUN").map(str::len), Some(32));
    for gone in ["CLAUDECODE", "NOTIFY_SOCKET"] {
        assert_eq!(value(gone), None, "{gone} reached the agent");
    }
    // The shell's own redirections are 1 and 3 or more of `ls`; 0 is a file, never a pipe.
    let fds = project.made("fds");
    let links: Vec<&str> = fds.lines().filter(|line| line.contains(" -> ")).collect();
    assert!(links.len() <= 4, "more was inherited: {fds}");
    assert!(links[0].contains(" 0 -> /"), "{fds}");
    assert!(!fds.contains("pipe:") && !fds.contains("socket:"), "{fds}");
    // A session and group of its own, led by the agent itself, which `cat` is a child of.
    let stat = project.made("stat");
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let (parent, group, session) = (fields[1], fields[2], fields[3]);
    assert_eq!((group, session), (parent, parent), "{stat}");
    // Of the signals that have names; the C library keeps 32 and 33 for itself, ignored.
    for line in project.made("signals").lines() {
        let mask = line.split_whitespace().nth(1).unwrap();
        let mask = u64::from_str_radix(mask, 16).unwrap();
        assert_eq!(mask & 0x7fff_ffff, 0, "{line}");
    }
}

#[test]
fn the_xdg_directories_serve_where_no_system_root_is_set() {
    let space = Space::new();
    space.unset("MONITOR_SYSTEM_ROOT");
    space.plain_agent("cat >/dev/null; echo done");
    let project = space.project("alpha");
    let config = space.home().join(".config");
    fs::create_dir_all(&config).unwrap();
    fs::rename(space.config(), config.join("job-monitor")).unwrap();
    space.start();
    project.submit(ID, "x");
    assert_eq!(project.wait_result(ID)["status"], "completed");
    let state = space.home().join(".local/state/job-monitor");
    assert!(state.join("daemon.lock").is_file());
    // The space expects its configuration where it put it.
    assert_eq!(space.stop(), 0);
}

#[test]
fn odd_paths_and_the_largest_document_reach_the_agent_as_they_are() {
    let space = Space::new();
    space.plain_agent("cat > prompt; printf '%s' \"$1\" > first");
    let name = "a b'\"$(touch pwned)ü";
    let program = space.root().join("bin/agent");
    space.set(json!({"agents": {"agent": {"command": [program, "<{project}>"]}}}));
    let project = space.project(name);
    space.start();
    let text = "ü\\n%s`\t".repeat(1 << 17);
    assert_eq!(text.len(), 1 << 20, "the default limit");
    project.submit(ID, &text);
    let result = project.wait_result(ID);
    assert_eq!(result["status"], "completed", "{result}");
    assert_eq!(result["project"], name);
    assert_eq!(project.made("prompt"), text);
    let first = format!("<{}>", project.path.display());
    assert_eq!(project.made("first"), first);
    let ran = space.run(&["-p", name, ID]).ok();
    assert!(ran.contains("completed"), "{ran}");
    assert!(!project.path.join("pwned").exists());
}

// --- order and numbers ---

#[test]
fn jobs_found_at_the_start_run_in_the_order_of_their_stamps_then_names() {
    let space = Space::new();
    space.plain_agent(NOTES);
    let jobs = space.project("new");
    let tasks = space.project_with("old", json!({"layout": "tasks"}));
    let in_order = [
        "job-20251231-235959-z",
        "job-20260101-120000-a",
        // As file names, with their `.md`.
        "job-20260101-120000-b-c",
        "job-20260101-120000-b",
        "job-20260102-000000-a",
        "job-20269999-999999-no-such-day",
    ];
    let tasks_in_order = [
        "task-z-20251231-235959",
        "task-a-20260101-120000",
        "task-b-20260101-120000",
        "task-a-20260102-000000",
        "task-without-stamp",
    ];
    for at in [3, 1, 5, 0, 2, 4] {
        jobs.submit(in_order[at], "x");
    }
    for at in [4, 2, 0, 3, 1] {
        tasks.submit(tasks_in_order[at], "x");
    }
    // Written long ago, so that all count from the first look on; of documents that are still
    // settling, whichever counts first runs first.
    let long_ago = SystemTime::now() - Duration::from_secs(3600);
    let documents = in_order.iter().map(|id| jobs.item(&format!("{id}.md")));
    for path in documents.chain(
        tasks_in_order
            .iter()
            .map(|id| tasks.item(&format!("{id}.md"))),
    ) {
        let file = File::options().write(true).open(path).unwrap();
        file.set_modified(long_ago).unwrap();
    }
    space.start();
    jobs.wait_result(in_order[5]);
    tasks.wait_result(tasks_in_order[4]);
    assert_eq!(ran(&jobs), in_order);
    assert_eq!(ran(&tasks), tasks_in_order);
}

#[test]
fn projects_run_in_parallel_and_jobs_of_one_project_one_at_a_time() {
    let space = Space::new();
    // Each agent waits for the other project's; a second one in the same project would find the
    // directory there.
    space.plain_agent(
        r#"mkdir busy || exit 9; touch "../started-$JOB_MONITOR_PROJECT"
while [ ! -e ../started-alpha ] || [ ! -e ../started-beta ]; do sleep 0.02; done
sleep 0.1; rmdir busy"#,
    );
    let (alpha, beta) = (space.project("alpha"), space.project("beta"));
    for project in [&alpha, &beta] {
        for n in 0..3 {
            project.submit(&format!("job-20260101-12000{n}-x"), "x");
        }
    }
    space.start();
    for project in [&alpha, &beta] {
        for n in 0..3 {
            let result = project.wait_result(&format!("job-20260101-12000{n}-x"));
            assert_eq!(result["status"], "completed", "{result}");
        }
    }
}

#[test]
fn no_more_agents_run_at_once_than_max_parallel_allows() {
    let space = Space::new();
    space.plain_agent("mkdir ../busy || exit 9; sleep 0.1; rmdir ../busy");
    space.set(json!({"max_parallel": 1}));
    let projects: Vec<Project> = ["a", "b", "c"].map(|name| space.project(name)).into();
    for project in &projects {
        project.submit("job-20260101-120000-x", "x");
        project.submit("job-20260101-120001-x", "x");
    }
    space.start();
    for project in &projects {
        for id in ["job-20260101-120000-x", "job-20260101-120001-x"] {
            assert_eq!(project.wait_result(id)["status"], "completed");
        }
    }
}

// --- how documents come and go ---

#[test]
fn a_document_written_slowly_in_place_counts_when_it_is_whole() {
    let space = Space::new();
    space.plain_agent(NOTES);
    let project = space.project("alpha");
    space.start();
    let mut file = File::create(project.item(&format!("{ID}.md"))).unwrap();
    file.write_all(b"first half, ").unwrap();
    assert_stays_waiting(&project, ID);
    file.write_all(b"second half").unwrap();
    file.sync_all().unwrap();
    drop(file);
    assert_eq!(project.wait_result(ID)["status"], "completed");
    assert_eq!(
        project.made(&format!("prompt-{ID}")),
        "first half, second half"
    );
    assert_eq!(ran(&project), [ID]);
}

#[test]
fn an_empty_document_waits_until_it_has_text() {
    let space = Space::new();
    space.plain_agent(NOTES);
    let project = space.project("alpha");
    space.start();
    File::create(project.item(&format!("{ID}.md"))).unwrap();
    assert_stays_waiting(&project, ID);
    project.wait_view("the empty one is listed", |view| view["queue_size"] == 1);
    // One that comes later is not kept back by it.
    project.submit("job-20260101-130000-other", "x");
    project.wait_result("job-20260101-130000-other");
    fs::write(project.item(&format!("{ID}.md")), "now").unwrap();
    project.wait_result(ID);
    assert_eq!(project.made(&format!("prompt-{ID}")), "now");
}

#[test]
fn a_waiting_document_that_is_deleted_withdraws_its_job() {
    let space = Space::new();
    space.plain_agent(GATED);
    let project = space.project("alpha");
    space.start();
    project.submit(ID, "x");
    project.wait_made("ran");
    let (gone, last) = ("job-20260101-120001-gone", "job-20260101-120002-last");
    project.submit(gone, "x");
    project.submit(last, "x");
    project.wait_view("both wait", |view| view["queue_size"] == 2);
    fs::remove_file(project.item(&format!("{gone}.md"))).unwrap();
    project.wait_view("one waits", |view| view["queue_size"] == 1);
    fs::write(project.path.join("go"), "").unwrap();
    project.wait_result(last);
    assert_eq!(ran(&project), [ID, last]);
    assert!(project.result(gone).is_none());
    space.wait_log(&format!("[alpha] Job withdrawn: {gone}.md"));
}

#[test]
fn a_document_edited_while_it_waits_runs_as_it_is_then() {
    let space = Space::new();
    space.plain_agent(GATED);
    let project = space.project("alpha");
    space.start();
    project.submit(ID, "x");
    project.wait_made("ran");
    let second = "job-20260101-120001-second";
    project.submit(second, "before");
    project.wait_view("it waits", |view| view["queue_size"] == 1);
    fs::write(project.item(&format!("{second}.md")), "after").unwrap();
    fs::write(project.path.join("go"), "").unwrap();
    let result = project.wait_result(second);
    assert_eq!(project.made(&format!("prompt-{second}")), "after");
    // Of "after", by sha256sum.
    assert_eq!(
        result["document_sha256"],
        "f39592393ef0859cb196a52693d2cea00fb2df784b3c04ae54aa7cadb8e562f8"
    );
    assert_eq!(
        fs::read_to_string(project.logs(&format!("{second}.md"))).unwrap(),
        "after"
    );
}

#[test]
fn editing_or_deleting_a_document_once_it_runs_changes_nothing() {
    let space = Space::new();
    space.plain_agent(GATED);
    let project = space.project("alpha");
    space.start();
    let second = "job-20260101-120001-second";
    project.submit(ID, "the text");
    project.wait_made("ran");
    let document = project.item(&format!("{ID}.md"));
    fs::write(&document, "another text").unwrap();
    project.submit(ID, "a third text");
    fs::remove_file(&document).unwrap();
    project.submit(ID, "a fourth text");
    fs::write(project.path.join("go"), "").unwrap();
    let result = project.wait_result(ID);
    let published = fs::read(project.results(&format!("{ID}.json"))).unwrap();
    assert_eq!(result["status"], "completed");
    assert_eq!(
        fs::read_to_string(project.logs(&format!("{ID}.md"))).unwrap(),
        "the text"
    );
    // Finished: touched and rewritten it stays finished. A later job shows that it was looked at.
    fs::write(&document, "a fifth text").unwrap();
    project.submit(ID, "a sixth text");
    project.submit(second, "x");
    project.wait_result(second);
    assert_eq!(ran(&project), [ID, second]);
    assert_eq!(
        fs::read(project.results(&format!("{ID}.json"))).unwrap(),
        published
    );
    // Nor does a restart run it again.
    assert_eq!(space.stop(), 0);
    space.start();
    let third = "job-20260101-120002-third";
    project.submit(third, "x");
    project.wait_result(third);
    assert_eq!(ran(&project), [ID, second, third]);
}

#[test]
fn a_finished_document_is_archived_if_the_settings_want_it() {
    let space = Space::new();
    space.plain_agent(NOTES);
    space.set(json!({"archive": true}));
    let jobs = space.project("new");
    let tasks = space.project_with("old", json!({"layout": "tasks"}));
    space.start();
    for (project, id, archive) in [
        (&jobs, ID, "jobs/archive"),
        (&tasks, "task-x-20260101-120000", "archive"),
    ] {
        project.submit(id, "x");
        project.wait_result(id);
        let archived = project.path.join(archive).join(format!("{id}.md"));
        wait_until("the document in the archive", || archived.is_file());
        assert!(!project.item(&format!("{id}.md")).exists());
    }
    // It is no withdrawal, and no new job.
    assert_eq!(ran(&jobs), [ID]);
    assert!(!space.log().contains("withdrawn"), "{}", space.log());
}

// --- front matter, clocks and caps ---

#[test]
fn front_matter_may_tighten_the_time_but_never_loosen_it() {
    let space = Space::new();
    space.plain_agent("cat > prompt; exec sleep 600");
    let strict = space.project_with("strict", json!({"timeout": "300ms"}));
    let lenient = space.project_with("lenient", json!({"timeout": "1h"}));
    space.start();
    strict.submit(ID, "---\ntimeout: 1h\n---\nthe text");
    lenient.submit(ID, "---\ntimeout: 300ms\nunknown: x\n---\nthe text");
    for project in [&strict, &lenient] {
        let result = project.wait_result(ID);
        assert_eq!(result["status"], "failed");
        assert_eq!(result["error_kind"], "timeout");
        assert_eq!(project.made("prompt"), "the text");
    }
}

#[test]
fn front_matter_that_cannot_be_read_rejects_the_document() {
    let space = Space::new();
    space.plain_agent(NOTES);
    let project = space.project("alpha");
    space.start();
    project.submit(ID, "---\ntimeout: soon\n---\nthe text");
    let result = project.wait_result(ID);
    assert_eq!(result["error_kind"], "rejected");
    assert!(result["error"].as_str().unwrap().contains("timeout"));
    assert!(ran(&project).is_empty());
}

#[test]
fn an_agent_that_ignores_the_request_to_end_is_killed_after_its_grace() {
    let space = Space::new();
    // The child ignores it too: dispositions to ignore are inherited.
    space.plain_agent("trap '' TERM; echo $$ > pid; sleep 600; sleep 600");
    space.set(json!({"timeout": "300ms", "grace": "400ms"}));
    let project = space.project("alpha");
    space.start();
    project.submit(ID, "x");
    let result = project.wait_result(ID);
    assert_eq!(result["error_kind"], "timeout");
    assert!(result["error"].as_str().unwrap().contains("timeout"));
    assert_eq!(result["attempts"][0]["signal"], 9);
    let took = result["duration_seconds"].as_f64().unwrap();
    assert!(took >= 0.69, "the grace was not given: {took}");
    space.assert_no_survivor();
    let pid = project.made("pid").trim().parse().unwrap();
    assert!(!is_alive(pid), "{pid} is alive");
}

#[test]
fn an_agent_that_is_asked_to_end_may_use_its_grace() {
    let space = Space::new();
    space.plain_agent(
        "trap 'sleep 0.3; echo saved > saved; exit 7' TERM; while :; do sleep 0.05; done",
    );
    space.set(json!({"timeout": "300ms", "grace": "20s"}));
    let project = space.project("alpha");
    space.start();
    project.submit(ID, "x");
    let result = project.wait_result(ID);
    assert_eq!(result["error_kind"], "timeout");
    assert_eq!(result["attempts"][0]["exit_code"], 7);
    assert_eq!(project.made("saved"), "saved\n");
    let took = result["duration_seconds"].as_f64().unwrap();
    assert!(took < 15.0, "it waited for the whole grace: {took}");
}

#[test]
fn a_stopped_agent_is_ended_like_any_other() {
    let space = Space::new();
    space.plain_agent("trap 'exit 7' TERM; kill -STOP $$; sleep 600");
    space.set(json!({"timeout": "300ms", "grace": "20s"}));
    let project = space.project("alpha");
    space.start();
    project.submit(ID, "x");
    let result = project.wait_result(ID);
    assert_eq!(result["error_kind"], "timeout");
    assert_eq!(result["attempts"][0]["exit_code"], 7);
}

#[test]
fn an_agent_that_falls_silent_is_ended_and_one_that_goes_on_talking_is_not() {
    let space = Space::new();
    space.plain_agent("sh -s");
    space.set(json!({"silence_timeout": "800ms"}));
    let project = space.project("alpha");
    space.start();
    project.submit(
        "job-20260101-120000-talks",
        "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.2; echo $i >&2; done",
    );
    project.submit(
        "job-20260101-120001-silent",
        "echo one word; exec sleep 600",
    );
    let result = project.wait_result("job-20260101-120000-talks");
    assert_eq!(result["status"], "completed", "{result}");
    let result = project.wait_result("job-20260101-120001-silent");
    assert_eq!(result["error_kind"], "silent");
    assert_eq!(result["worker_output"]["summary"], "one word");
}

#[test]
fn an_agent_that_writes_too_much_is_ended_and_its_words_are_capped() {
    let space = Space::new();
    space.plain_agent("sh -s");
    space.set(json!({"max_output": "4 MiB"}));
    let project = space.project("alpha");
    space.start();
    let errors = "job-20260101-120001-errors";
    project.submit(ID, "exec yes abcdefghijklmnopqrstuvwxyz");
    project.submit(errors, "head -c 8M /dev/zero >&2; exec sleep 600");
    let result = project.wait_result(ID);
    assert_eq!(result["error_kind"], "output_limit");
    assert_eq!(project.wait_result(errors)["error_kind"], "output_limit");
    let text = result["stdout"].as_str().unwrap();
    assert!(text.len() > 1 << 20 && text.len() < (1 << 20) + 200);
    assert!(text.contains("bytes left out"));
}

#[test]
fn without_a_setting_an_agent_may_write_a_gibibyte() {
    let space = Space::new();
    // A hole in the log is as good as bytes.
    space.plain_agent(
        r#"cat > /dev/null; truncate -s "$(sh -s < size)" "jobs/logs/$JOB_MONITOR_JOB_ID.out"; sleep 1"#,
    );
    let project = space.project("alpha");
    space.start();
    let limit = 1_u64 << 30;
    for (id, size, kind) in [
        ("job-20260101-120000-enough", limit, Value::Null),
        (
            "job-20260101-120001-too-much",
            limit + 1,
            json!("output_limit"),
        ),
    ] {
        fs::write(project.path.join("size"), format!("echo {size}")).unwrap();
        project.submit(id, "x");
        let result = project.wait_result(id);
        assert_eq!(result["error_kind"], kind, "{id}");
    }
}

#[test]
fn a_program_that_is_just_being_replaced_is_tried_again() {
    let space = Space::new();
    let project = space.project("alpha");
    let program = space.root().join("bin/busy");
    fs::copy("/bin/true", &program).unwrap();
    space.set(json!({"agent": "busy", "agents": {"busy": {"command": [program]}}}));
    // As long as somebody has it open for writing, it is "text file busy".
    let writer = File::options().append(true).open(&program).unwrap();
    space.start();
    project.submit(ID, "x");
    let view = project.wait_view("a retry", |view| view["retry_at"] != Value::Null);
    assert_eq!(view["queued_tasks"], json!([format!("{ID}.md")]));
    assert_eq!(view["hold"], Value::Null);
    drop(writer);
    let claim: Value =
        serde_json::from_str(project.claim(ID).unwrap().lines().next().unwrap()).unwrap();
    assert_eq!(claim["suspended"]["kind"], "spawn_failed");
    assert_eq!(claim["retries"], 1);
}

// --- cancel ---

#[test]
fn a_running_job_is_cancelled_with_its_whole_tree() {
    let space = Space::new();
    space.plain_agent(
        "setsid sleep 600 & sleep 600 & echo begun > begun; echo some words; sleep 600",
    );
    let project = space.project("alpha");
    space.start();
    project.submit(ID, "x");
    project.wait_made("begun");
    cancel(&project, ID);
    let result = project.wait_result(ID);
    assert_eq!(result["status"], "cancelled");
    assert_eq!(result["error_kind"], "cancelled");
    assert_eq!(result["stdout"], "some words\n");
    space.assert_no_survivor();
    wait_until("claim and mark to be swept", || {
        project.claim(ID).is_none() && !project.state(&format!("{ID}.cancel")).exists()
    });
    space.wait_log(&format!("[alpha] Job cancelled: {ID}.md"));
}

#[test]
fn the_command_to_cancel_reaches_running_and_waiting_jobs_alike() {
    let space = Space::new();
    space.plain_agent("setsid sleep 600 & echo begun > begun; sleep 600");
    let project = space.project("alpha");
    space.start();
    let second = "job-20260101-120001-second";
    project.submit(ID, "x");
    project.submit(second, "x");
    project.wait_made("begun");
    space.run(&["cancel", second, ID]).ok();
    for id in [ID, second] {
        assert_eq!(project.wait_result(id)["status"], "cancelled");
    }
    space.assert_no_survivor();
    // What is over cannot be cancelled, and stays what it is.
    let late = space.run(&["cancel", ID]);
    assert_ne!(late.status, 0, "{late:?}");
    assert!(late.stderr.contains(ID), "{late:?}");
    assert!(!project.state(&format!("{ID}.cancel")).exists());
}

#[test]
fn a_waiting_job_is_cancelled_without_a_start() {
    let space = Space::new();
    space.plain_agent(GATED);
    let project = space.project("alpha");
    space.start();
    project.submit(ID, "x");
    project.wait_made("ran");
    let second = "job-20260101-120001-second";
    project.submit(second, "x");
    project.wait_view("it waits", |view| view["queue_size"] == 1);
    cancel(&project, second);
    // Whatever runs: nobody who waits for it need wait for that.
    let result = project.wait_result(second);
    assert_eq!(result["status"], "cancelled");
    fs::write(project.path.join("go"), "").unwrap();
    assert_eq!(result["started_at"], Value::Null);
    assert_eq!(result["worker_output"], Value::Null);
    assert_eq!(result["attempts"], json!([]));
    assert_eq!(project.wait_result(ID)["status"], "completed");
    assert_eq!(ran(&project), [ID]);
}

#[test]
fn a_held_job_waits_for_its_mark_to_go_and_lets_others_pass() {
    let space = Space::new();
    space.plain_agent(NOTES);
    let project = space.project("alpha");
    fs::write(project.state(&format!("{ID}.hold")), "").unwrap();
    project.submit(ID, "x");
    space.start();
    let second = "job-20260101-120001-second";
    project.submit(second, "x");
    project.wait_result(second);
    assert!(project.result(ID).is_none());
    fs::remove_file(project.state(&format!("{ID}.hold"))).unwrap();
    File::create(project.item(".poke")).unwrap();
    fs::remove_file(project.item(".poke")).unwrap();
    project.wait_result(ID);
    assert_eq!(ran(&project), [second, ID]);
}

// --- hooks, log, view ---

#[test]
fn on_finish_sees_the_outcome_and_the_next_job_waits_for_it() {
    let space = Space::new();
    space.plain_agent("sh -s");
    let hook = space.program(
        "hook",
        r#"sleep 0.2; [ -f "$JOB_MONITOR_RESULT" ] || exit 1
echo "$JOB_MONITOR_PROJECT $JOB_MONITOR_JOB_ID $JOB_MONITOR_STATUS <$JOB_MONITOR_ERROR_KIND> <$JOB_MONITOR_COST_USD> $#" >> hooked
case "$JOB_MONITOR_DURATION" in [0-9]*) ;; *) exit 1;; esac"#,
    );
    space.set(json!({"on_finish": [hook, "one argument; echo $HOME"]}));
    let project = space.project("alpha");
    space.start();
    let ids = ["job-20260101-120000-good", "job-20260101-120001-bad"];
    project.submit(ids[0], "exit 0");
    project.submit(ids[1], "cat hooked >&2; exit 4");
    let result = project.wait_result(ids[1]);
    let first = format!("alpha {} completed <> <> 1\n", ids[0]);
    assert_eq!(result["stderr"], first.as_str());
    let both = format!("{first}alpha {} failed <exit_code> <> 1\n", ids[1]);
    wait_until("the second hook", || project.made("hooked") == both);
    assert!(!space.log().contains("on_finish for"), "{}", space.log());
}

#[test]
fn what_on_finish_starts_on_purpose_outlives_it_and_the_next_job() {
    let space = Space::new();
    space.plain_agent("cat > /dev/null; sleep 600 &");
    let hook = space.program("hook", "sleep 600 > /dev/null 2>&1 & echo $! >> hooked");
    space.set(json!({"on_finish": [hook]}));
    let project = space.project("alpha");
    space.start();
    let last = "job-20260101-120001-last";
    project.submit(ID, "x");
    project.submit(last, "x");
    assert_eq!(project.wait_result(last)["leftovers"], 1);
    wait_until("both hooks", || project.made("hooked").lines().count() == 2);
    for pid in project.made("hooked").lines() {
        assert!(is_alive(pid.parse().unwrap()), "{pid} was ended");
    }
}

#[test]
fn a_failing_on_finish_is_told_and_changes_nothing() {
    let space = Space::new();
    space.plain_agent("cat >/dev/null");
    let hook = space.program("hook", "exit 3");
    space.set(json!({"on_finish": [hook]}));
    let failing = space.project("failing");
    let missing = space.project_with("missing", json!({"on_finish": ["/nonexistent/hook"]}));
    space.start();
    for project in [&failing, &missing] {
        project.submit(ID, "x");
        project.submit("job-20260101-120001-next", "x");
        assert_eq!(project.wait_result(ID)["status"], "completed");
        let next = project.wait_result("job-20260101-120001-next");
        assert_eq!(next["status"], "completed");
        space.wait_log(&format!("[{}] on_finish for {ID}.md: ", project.name));
    }
}

#[test]
fn the_log_has_the_lines_that_scripts_look_for() {
    let space = Space::new();
    space.plain_agent("sh -s");
    let project = space.project("alpha");
    space.project_with("beta", json!({"enabled": false}));
    space.start();
    let (good, bad) = ("job-20260101-120000-good", "job-20260101-120001-bad");
    project.submit(good, "exit 0");
    project.submit(bad, "exit 3");
    project.wait_result(bad);
    let path = project.path.display();
    let lines = [
        "Starting Multi-Project Job Monitor".to_owned(),
        format!("Project 'alpha' configured: {path}"),
        "Project 'beta' is disabled, skipping".to_owned(),
    ];
    for line in &lines {
        assert!(ends_a_line(&space.log(), line), "{line}");
    }
    let own = [
        format!("Observer started for 'alpha': {path}/jobs/items"),
        format!("[alpha] Job queued: {good}.md (queue size: 1)"),
        format!("[alpha] Starting job: {good}.md"),
        format!("[alpha] Starting job: {bad}.md"),
    ];
    for line in own {
        wait_until(&line, || ends_a_line(&project.journal(), &line));
        assert!(ends_a_line(&space.log(), &line), "{line}");
    }
    let done = format!("[alpha] Job completed: {good}.md - status=completed, duration=0.");
    let failed = format!("[alpha] Job failed: {bad}.md - ");
    for text in [done, failed] {
        wait_until(&text, || project.journal().contains(&text));
        space.wait_log(&text);
    }
}

fn ends_a_line(log: &str, text: &str) -> bool {
    log.lines().any(|line| line.ends_with(text))
}

#[test]
fn the_project_s_log_is_rotated_and_one_old_one_is_kept() {
    let space = Space::new();
    space.plain_agent("cat >/dev/null");
    let project = space.project("alpha");
    fs::write(project.logs("monitor.log"), "old line\n".repeat(130_000)).unwrap();
    space.start();
    project.submit(ID, "x");
    project.wait_result(ID);
    space.wait_log("Job completed");
    wait_until("the old log", || project.logs("monitor.log.1").is_file());
    wait_until("lines in the new log", || {
        project.journal().contains("Job completed")
    });
    assert!(project.journal().len() < 10_000);
}

#[test]
fn queue_state_json_shows_what_runs_and_what_waits() {
    let space = Space::new();
    space.plain_agent(GATED);
    let project = space.project("alpha");
    space.start();
    let idle = project.wait_view("idle", |view| view["is_processing"] == false);
    assert_eq!(idle["current_task"], Value::Null);
    assert_eq!(idle["queued_tasks"], json!([]));
    let waiting = ["job-20260101-120001-b", "job-20260101-120002-c"];
    project.submit(ID, "x");
    project.wait_made("ran");
    project.submit(waiting[1], "x");
    project.submit(waiting[0], "x");
    let view = project.wait_view("two wait", |view| view["queue_size"] == 2);
    assert_eq!(view["project"], "alpha");
    assert_eq!(view["is_processing"], true);
    assert_eq!(view["current_task"], format!("{ID}.md"));
    assert_eq!(
        view["queued_tasks"],
        json!(waiting.map(|id| format!("{id}.md")))
    );
    assert_eq!(view["attempt"], 1);
    assert_eq!(view["retry_at"], Value::Null);
    assert_eq!(view["hold"], Value::Null);
    for key in ["task_start_time", "updated_at"] {
        assert!(is_rfc3339_with_offset(view[key].as_str().unwrap()), "{key}");
    }
    let text = fs::read_to_string(project.state("queue_state.json")).unwrap();
    let order: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("  \"")?.split('"').next())
        .collect();
    let keys = [
        "project",
        "queue_size",
        "current_task",
        "is_processing",
        "queued_tasks",
        "task_start_time",
        "attempt",
        "retry_at",
        "hold",
        "updated_at",
    ];
    assert_eq!(
        order
            .into_iter()
            .filter(|key| *key != ".md")
            .collect::<Vec<_>>()[..10],
        keys
    );
    fs::write(project.path.join("go"), "").unwrap();
    project.wait_result(waiting[1]);
    project.wait_view("idle again", |view| {
        view["is_processing"] == false && view["queue_size"] == 0
    });
}

#[test]
fn of_a_hundred_thousand_finished_jobs_none_runs_and_a_new_one_starts_at_once() {
    let space = Space::new();
    space.plain_agent(NOTES);
    let project = space.project("alpha");
    // Second names are made sooner than files; a file of ext4 may have 65,000.
    for n in 0..100_000 {
        let id = format!("job-20250101-{n:06}-old");
        let part = n / 50_000;
        for (path, text) in [
            (project.item(&format!("{id}.md")), "x"),
            (project.results(&format!("{id}.json")), "{}"),
        ] {
            let first = space.root().join(format!("{part}{text}"));
            if n % 50_000 == 0 {
                fs::write(&first, text).unwrap();
            }
            fs::hard_link(&first, path).unwrap();
        }
    }
    space.start();
    project.submit(ID, "x");
    wait_for("the new job's result", || project.result(ID));
    assert_eq!(ran(&project), [ID]);
}
