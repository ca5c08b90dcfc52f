//! The main path: from a document in the spool to a result, with `plain` agents.

use crate::space::{MustHave, Project, Space, is_alive, make_old, wait_for, wait_until};
use crate::stage::{ID, LAST, NEXT, alpha, ran};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::time::Duration;

/// An agent that notes that it ran, and the text it was given.
const NOTES: &str =
    r#"echo "$JOB_MONITOR_JOB_ID" >> ran; cat > "prompt-$JOB_MONITOR_JOB_ID"; echo done"#;

/// An agent that runs until the test makes the file `go` in the project.
const GATED: &str = r#"echo "$JOB_MONITOR_JOB_ID" >> ran; cat > "prompt-$JOB_MONITOR_JOB_ID"
while [ ! -e go ]; do sleep 0.02; done; echo done"#;

/// Leaves a cancel mark as the command does, poke included.
pub fn cancel(project: &Project, id: &str) {
    project.mark(id, "cancel");
    poke(project);
}

fn poke(project: &Project) {
    fs::write(project.item(".poke"), "").unwrap();
    fs::remove_file(project.item(".poke")).unwrap();
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
    let (space, project) = alpha("echo x >> ran; cat > /dev/null");
    space.start();
    project.mark(ID, "hold");
    project.submit(ID, "x");
    assert_stays_waiting(&project, ID);
    space.run(&["release", ID]).ok();
    project.wait_completed(ID);
}

#[test]
fn a_cancel_mark_counts_whoever_left_it() {
    let (space, project) = alpha("echo begun > begun; exec sleep 600");
    space.start();
    project.submit(ID, "x");
    project.wait_made("begun");
    // No event tells of it.
    project.mark(ID, "cancel");
    assert_eq!(project.wait_result(ID)["status"], "cancelled");
}

// --- the result ---

#[test]
fn a_document_becomes_a_result_with_the_keys_of_the_contract_in_order() {
    let keys = "status created_at started_at completed_at queue_position worker_output \
        audit_score audit_notes artifacts error retry_count stdout stderr duration_seconds \
        error_kind project agent agent_version model session_id num_turns attempts \
        permission_denials leftovers document_sha256 logs checks git continues failed_mcp_servers";
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
        let result = project.run(id, "say hello\n");
        let text = fs::read_to_string(project.results(&format!("{id}.json"))).unwrap();
        let order = keys_of(&text);
        assert_eq!(order[0], own);
        assert_eq!(order[1..].join(" "), keys);
        assert!(text.ends_with("}\n"));

        let logs = ["md", "out", "err"].map(|ending| format!("{dir}/{id}.{ending}"));
        result.must_have(json!({
            own: id, "project": project.name, "agent": "agent",
            "status": "completed", "error": null, "error_kind": null,
            "worker_output": {"summary": "the answer", "raw_output": "the answer\n", "cost_usd": null},
            "stdout": "the answer\n", "stderr": "a warning\n", "logs": logs,
            "queue_position": 1, "retry_count": 0, "leftovers": 0, "attempts": [{"exit_code": 0}],
            // Of "say hello\n", by sha256sum.
            "document_sha256": "1772c212dc4da497a7bc37fff4d2d2c6d541e779b173ed344d7493c3bbe6d529",
        }));
        for log in logs {
            assert!(project.path.join(&log).is_file(), "{log} is missing");
        }
        for key in ["created_at", "started_at", "completed_at"] {
            let time = result[key].as_str().unwrap();
            assert!(is_rfc3339_with_offset(time), "{key} is {time:?}");
        }
    }
}

/// The keys of a document that is written with one on each line.
fn keys_of(text: &str) -> Vec<&str> {
    let keys = text.lines().filter_map(|line| line.strip_prefix("  \""));
    keys.filter_map(|rest| Some(rest.split_once("\":")?.0))
        .collect()
}

fn is_rfc3339_with_offset(text: &str) -> bool {
    let form = text.replace(|c: char| c.is_ascii_digit(), "9");
    form.starts_with("9999-99-99T99:99:99")
        && (form.ends_with("+99:99") || form.ends_with("-99:99") || form.ends_with('Z'))
}

#[test]
fn times_are_given_with_the_local_offset() {
    let (space, project) = alpha("cat >/dev/null");
    space.env("TZ", "XYZ-05:30");
    space.start();
    let result = project.run(ID, "x");
    for key in ["created_at", "started_at", "completed_at"] {
        let time = result[key].as_str().unwrap();
        assert!(time.ends_with("+05:30"), "{key} is {time:?}");
    }
}

#[test]
fn a_plain_agent_is_judged_by_its_exit_status() {
    let (space, project) = alpha("sh -s; exit $?");
    space.start();
    let exits = json!({"exit_code": 3, "signal": null});
    let is_killed = json!({"exit_code": null, "signal": 9});
    for (id, script, kind, attempt, words) in [
        (ID, "echo why >&2; exit 3", "exit_code", exits, "status 3"),
        (NEXT, "kill -9 $PPID", "signal", is_killed, "SIGKILL"),
    ] {
        let result = project.run(id, script);
        result.must_have(json!({"status": "failed", "error_kind": kind, "attempts": [attempt]}));
        assert_eq!(result["attempts"][0]["error_kind"], kind);
        result["error"].must_have(words);
    }
    let exited = project.result(ID).unwrap();
    exited["error"].must_have("why");
}

#[test]
fn output_that_is_not_utf_8_and_a_silent_success_are_results_too() {
    let (space, project) = alpha("sh -s");
    space.start();
    let bytes = project.complete(ID, r"printf 'a\377b\033[31m'");
    assert_eq!(bytes["worker_output"]["summary"], "a\u{fffd}b\u{1b}[31m");
    let silent = project.complete(NEXT, "exit 0");
    assert_eq!(silent["worker_output"]["summary"], Value::Null);
}

#[test]
fn an_agent_finds_the_directory_arguments_and_environment_of_the_contract() {
    let space = Space::new();
    space.env("FROM_DAEMON", "inherited");
    space.env("CLAUDECODE", "1");
    space.credentials("export FROM_FILE='a secret'\n", 0o600);
    let tells = "env > environ; pwd -P > cwd; echo \"$@\" > argv";
    let program = space.program("agent", tells);
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
    project.complete(ID, "x");
    let root = project.path.to_str().unwrap();
    assert_eq!(project.made("cwd").trim(), root);
    let argv = format!("--chdir={root} --job-name={ID} n1 last\n");
    assert_eq!(project.made("argv"), argv);
    let environ = project.made("environ");
    let value = |name: &str| {
        let mut pairs = environ.lines().filter_map(|line| line.split_once('='));
        pairs.find(|(own, _)| *own == name).map(|(_, value)| value)
    };
    for (name, expected) in [
        ("FROM_DAEMON", Some("inherited")),
        ("FROM_FILE", Some("a secret")),
        ("FROM_AGENT", Some("yes")),
        ("JOB_MONITOR_JOB_ID", Some(ID)),
        ("JOB_MONITOR_PROJECT", Some("alpha")),
        ("CLAUDECODE", None),
        ("NOTIFY_SOCKET", None),
    ] {
        assert_eq!(value(name), expected, "{name}");
    }
    assert_eq!(value("JOB_MONITOR_RUN").map(str::len), Some(32));
}

#[test]
fn the_xdg_directories_serve_where_no_system_root_is_set() {
    let (space, project) = alpha("cat >/dev/null; echo done");
    space.unset("MONITOR_SYSTEM_ROOT");
    let config = space.home().join(".config");
    fs::create_dir_all(&config).unwrap();
    fs::rename(space.config(), config.join("job-monitor")).unwrap();
    space.start();
    project.complete(ID, "x");
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
    let result = project.complete(ID, &text);
    assert_eq!(result["project"], name);
    assert_eq!(project.made("prompt"), text);
    let first = format!("<{}>", project.path.display());
    assert_eq!(project.made("first"), first);
    space.run(&["-p", name, ID]).ok().must_have("completed");
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
    // Written long ago, so that all count from the first look on; of documents that are still
    // settling, whichever counts first runs first.
    let submit = |project: &Project, id: &str| {
        project.submit(id, "x");
        let path = project.item(&format!("{id}.md"));
        make_old(&path, Duration::from_secs(3600));
    };
    for at in [3, 1, 5, 0, 2, 4] {
        submit(&jobs, in_order[at]);
    }
    for at in [4, 2, 0, 3, 1] {
        submit(&tasks, tasks_in_order[at]);
    }
    space.start();
    jobs.wait_result(in_order[5]);
    tasks.wait_result(tasks_in_order[4]);
    assert_eq!(ran(&jobs), in_order);
    assert_eq!(ran(&tasks), tasks_in_order);
}

#[test]
fn projects_run_in_parallel_and_jobs_of_one_project_one_at_a_time() {
    // Each agent waits for the other project's; a second one in the same project would find the
    // directory there.
    let together = r#"mkdir busy || exit 9; touch "../started-$JOB_MONITOR_PROJECT"
while [ ! -e ../started-alpha ] || [ ! -e ../started-beta ]; do sleep 0.02; done
sleep 0.1; rmdir busy"#;
    all_complete(&["alpha", "beta"], together, json!({}));
}

#[test]
fn no_more_agents_run_at_once_than_max_parallel_allows() {
    let alone = "mkdir ../busy || exit 9; sleep 0.1; rmdir ../busy";
    all_complete(&["a", "b", "c"], alone, json!({"max_parallel": 1}));
}

/// Projects with three jobs each, which fail if an agent does not find what it should.
fn all_complete(projects: &[&str], agent: &str, settings: Value) {
    let space = Space::new();
    space.plain_agent(agent);
    space.set(settings);
    let projects: Vec<_> = projects.iter().map(|name| space.project(name)).collect();
    for project in &projects {
        project.submit_all(&[ID, NEXT, LAST]);
    }
    space.start();
    for project in &projects {
        project.wait_all_completed(&[ID, NEXT, LAST]);
    }
}

// --- how documents come and go ---

#[test]
fn a_document_written_slowly_in_place_counts_when_it_is_whole() {
    let (space, project) = alpha(NOTES);
    space.start();
    let mut file = File::create(project.item(&format!("{ID}.md"))).unwrap();
    file.write_all(b"first half, ").unwrap();
    assert_stays_waiting(&project, ID);
    file.write_all(b"second half").unwrap();
    file.sync_all().unwrap();
    drop(file);
    project.wait_completed(ID);
    let prompt = project.made(&format!("prompt-{ID}"));
    assert_eq!(prompt, "first half, second half");
    assert_eq!(ran(&project), [ID]);
}

#[test]
fn an_empty_document_waits_until_it_has_text() {
    let (space, project) = alpha(NOTES);
    space.start();
    File::create(project.item(&format!("{ID}.md"))).unwrap();
    assert_stays_waiting(&project, ID);
    project.wait_view("the empty one is listed", |view| view["queue_size"] == 1);
    // One that comes later is not kept back by it.
    project.run("job-20260101-130000-other", "x");
    fs::write(project.item(&format!("{ID}.md")), "now").unwrap();
    project.wait_result(ID);
    assert_eq!(project.made(&format!("prompt-{ID}")), "now");
}

#[test]
fn a_waiting_document_that_is_deleted_withdraws_its_job() {
    let (space, project) = gated_with_waiting(&[NEXT, LAST]);
    fs::remove_file(project.item(&format!("{NEXT}.md"))).unwrap();
    project.wait_view("one waits", |view| view["queue_size"] == 1);
    project.touch("go");
    project.wait_result(LAST);
    assert_eq!(ran(&project), [ID, LAST]);
    assert!(project.result(NEXT).is_none());
    space.wait_log(&format!("[alpha] Job withdrawn: {NEXT}.md"));
}

/// A project with a job that runs until the file `go` is there, and others that wait for it.
fn gated_with_waiting(ids: &[&str]) -> (Space, Project) {
    let (space, project) = alpha(GATED);
    space.start();
    project.submit(ID, "x");
    project.wait_made("ran");
    ids.iter().for_each(|id| project.submit(id, "before"));
    project.wait_view("they wait", |view| view["queue_size"] == ids.len());
    (space, project)
}

#[test]
fn a_document_edited_while_it_waits_runs_as_it_is_then() {
    let (_space, project) = gated_with_waiting(&[NEXT]);
    fs::write(project.item(&format!("{NEXT}.md")), "after").unwrap();
    project.touch("go");
    let result = project.wait_result(NEXT);
    assert_eq!(project.made(&format!("prompt-{NEXT}")), "after");
    // Of "after", by sha256sum.
    let sum = "f39592393ef0859cb196a52693d2cea00fb2df784b3c04ae54aa7cadb8e562f8";
    assert_eq!(result["document_sha256"], sum);
    let kept = fs::read_to_string(project.logs(&format!("{NEXT}.md"))).unwrap();
    assert_eq!(kept, "after");
}

#[test]
fn editing_or_deleting_a_document_once_it_runs_changes_nothing() {
    let (space, project) = alpha(GATED);
    space.start();
    project.submit(ID, "the text");
    project.wait_made("ran");
    let document = project.item(&format!("{ID}.md"));
    fs::write(&document, "another text").unwrap();
    project.submit(ID, "a third text");
    fs::remove_file(&document).unwrap();
    project.submit(ID, "a fourth text");
    project.touch("go");
    project.wait_completed(ID);
    let published = || fs::read(project.results(&format!("{ID}.json"))).unwrap();
    let before = published();
    let kept = fs::read_to_string(project.logs(&format!("{ID}.md"))).unwrap();
    assert_eq!(kept, "the text");
    // Finished: touched and rewritten it stays finished. A later job shows that it was looked at.
    fs::write(&document, "a fifth text").unwrap();
    project.submit(ID, "a sixth text");
    project.run(NEXT, "x");
    assert_eq!(ran(&project), [ID, NEXT]);
    assert_eq!(published(), before);
    // Nor does a restart run it again.
    assert_eq!(space.stop(), 0);
    space.start();
    project.run(LAST, "x");
    assert_eq!(ran(&project), [ID, NEXT, LAST]);
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
        project.run(id, "x");
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
        result.must_have(json!({"status": "failed", "error_kind": "timeout"}));
        assert_eq!(project.made("prompt"), "the text");
    }
}

#[test]
fn an_agent_that_ignores_the_request_to_end_is_killed_after_its_grace() {
    // The child ignores it too: dispositions to ignore are inherited.
    let (space, project, result) =
        timed_out("trap '' TERM; echo $$ > pid; sleep 600; sleep 600", "400ms");
    result["error"].must_have("timeout");
    assert_eq!(result["attempts"][0]["signal"], 9);
    let took = result["duration_seconds"].as_f64().unwrap();
    assert!(took >= 0.69, "the grace was not given: {took}");
    space.assert_no_survivor();
    let pid = project.made("pid").trim().parse().unwrap();
    assert!(!is_alive(pid), "{pid} is alive");
}

/// The result of a plain agent whose time runs out.
fn timed_out(body: &str, grace: &str) -> (Space, Project, Value) {
    let (space, project) = alpha(body);
    space.set(json!({"timeout": "300ms", "grace": grace}));
    space.start();
    let result = project.run(ID, "x");
    assert_eq!(result["error_kind"], "timeout", "{result:#}");
    (space, project, result)
}

#[test]
fn an_agent_that_is_asked_to_end_may_use_its_grace() {
    let saves = "trap 'sleep 0.3; echo saved > saved; exit 7' TERM; while :; do sleep 0.05; done";
    let (_space, project, result) = timed_out(saves, "20s");
    assert_eq!(result["attempts"][0]["exit_code"], 7);
    assert_eq!(project.made("saved"), "saved\n");
    let took = result["duration_seconds"].as_f64().unwrap();
    assert!(took < 15.0, "it waited for the whole grace: {took}");
}

#[test]
fn a_stopped_agent_is_ended_like_any_other() {
    let (.., result) = timed_out("trap 'exit 7' TERM; kill -STOP $$; sleep 600", "20s");
    assert_eq!(result["attempts"][0]["exit_code"], 7);
}

#[test]
fn an_agent_that_falls_silent_is_ended_and_one_that_goes_on_talking_is_not() {
    let (space, project) = alpha("sh -s");
    space.set(json!({"silence_timeout": "800ms"}));
    space.start();
    let talks = "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 0.2; echo $i >&2; done";
    project.submit(ID, talks);
    project.submit(NEXT, "echo one word; exec sleep 600");
    project.wait_completed(ID);
    let result = project.wait_result(NEXT);
    result.must_have(json!({"error_kind": "silent", "worker_output": {"summary": "one word"}}));
}

#[test]
fn an_agent_that_writes_too_much_is_ended_and_its_words_are_capped() {
    let (space, project) = alpha("sh -s");
    space.set(json!({"max_output": "4 MiB"}));
    space.start();
    project.submit(ID, "exec yes abcdefghijklmnopqrstuvwxyz");
    project.submit(NEXT, "head -c 8M /dev/zero >&2; exec sleep 600");
    let [result, of_errors] = [ID, NEXT].map(|id| project.wait_result(id));
    assert_eq!(result["error_kind"], "output_limit");
    assert_eq!(of_errors["error_kind"], "output_limit");
    let text = result["stdout"].as_str().unwrap();
    assert!(text.len() > 1 << 20 && text.len() < (1 << 20) + 200);
    assert!(text.contains("bytes left out"));
}

#[test]
fn without_a_setting_an_agent_may_write_a_gibibyte() {
    // A hole in the log is as good as bytes.
    let (space, project) =
        alpha(r#"truncate -s "$(cat)" "jobs/logs/$JOB_MONITOR_JOB_ID.out"; sleep 1"#);
    space.start();
    let limit = 1_u64 << 30;
    for (id, size, kind) in [
        (ID, limit, Value::Null),
        (NEXT, limit + 1, json!("output_limit")),
    ] {
        let result = project.run(id, &size.to_string());
        assert_eq!(result["error_kind"], kind, "{size}");
    }
}

#[test]
fn a_program_that_is_just_being_replaced_is_tried_again() {
    let (space, project) = Space::with_project();
    let program = space.root().join("bin/busy");
    fs::copy("/bin/true", &program).unwrap();
    space.set(json!({"agent": "busy", "agents": {"busy": {"command": [program]}}}));
    // As long as somebody has it open for writing, it is "text file busy".
    let writer = File::options().append(true).open(&program).unwrap();
    space.start();
    project.submit(ID, "x");
    let view = project.wait_view("a retry", |view| view["retry_at"] != Value::Null);
    view.must_have(json!({"queued_tasks": [format!("{ID}.md")], "hold": null}));
    drop(writer);
    let claim = project.claimed(ID).unwrap();
    claim.must_have(json!({"suspended": {"kind": "spawn_failed"}, "retries": 1}));
}

// --- cancel ---

#[test]
fn a_running_job_is_cancelled_with_its_whole_tree() {
    let (space, project) =
        alpha("setsid sleep 600 & sleep 600 & echo begun > begun; echo some words; sleep 600");
    space.start();
    project.submit(ID, "x");
    project.wait_made("begun");
    cancel(&project, ID);
    let cancelled =
        json!({"status": "cancelled", "error_kind": "cancelled", "stdout": "some words\n"});
    project.wait_result(ID).must_have(cancelled);
    space.assert_no_survivor();
    wait_until("claim and mark to be swept", || {
        project.claim(ID).is_none() && !project.state(&format!("{ID}.cancel")).exists()
    });
    space.wait_log(&format!("[alpha] Job cancelled: {ID}.md"));
}

#[test]
fn the_command_to_cancel_reaches_running_and_waiting_jobs_alike() {
    let (space, project) = alpha("setsid sleep 600 & echo begun > begun; sleep 600");
    space.start();
    project.submit_all(&[ID, NEXT]);
    project.wait_made("begun");
    space.run(&["cancel", NEXT, ID]).ok();
    for id in [ID, NEXT] {
        assert_eq!(project.wait_result(id)["status"], "cancelled");
    }
    space.assert_no_survivor();
    // What is over cannot be cancelled, and stays what it is.
    space.run(&["cancel", ID]).refused(1, ID);
    assert!(!project.state(&format!("{ID}.cancel")).exists());
}

#[test]
fn a_waiting_job_is_cancelled_without_a_start() {
    let (_space, project) = gated_with_waiting(&[NEXT]);
    cancel(&project, NEXT);
    // Whatever runs: nobody who waits for it need wait for that.
    let result = project.wait_result(NEXT);
    project.touch("go");
    result.must_have(json!({
        "status": "cancelled", "started_at": null, "worker_output": null, "attempts": [],
    }));
    project.wait_completed(ID);
    assert_eq!(ran(&project), [ID]);
}

#[test]
fn a_held_job_waits_for_its_mark_to_go_and_lets_others_pass() {
    let (space, project) = alpha(NOTES);
    project.mark(ID, "hold");
    project.submit(ID, "x");
    space.start();
    project.run(NEXT, "x");
    assert!(project.result(ID).is_none());
    fs::remove_file(project.state(&format!("{ID}.hold"))).unwrap();
    poke(&project);
    project.wait_result(ID);
    assert_eq!(ran(&project), [NEXT, ID]);
}

// --- hooks, log, view ---

#[test]
fn on_finish_sees_the_outcome_and_the_next_job_waits_for_it() {
    let (space, project) = alpha("sh -s");
    let hook = space.program(
        "hook",
        r#"sleep 0.2; [ -f "$JOB_MONITOR_RESULT" ] || exit 1
echo "$JOB_MONITOR_PROJECT $JOB_MONITOR_JOB_ID $JOB_MONITOR_STATUS <$JOB_MONITOR_ERROR_KIND> <$JOB_MONITOR_COST_USD> $#" >> hooked
case "$JOB_MONITOR_DURATION" in [0-9]*) ;; *) exit 1;; esac"#,
    );
    space.set(json!({"on_finish": [hook, "one argument; echo $HOME"]}));
    space.start();
    project.submit(ID, "exit 0");
    let result = project.run(NEXT, "cat hooked >&2; exit 4");
    let first = format!("alpha {ID} completed <> <> 1\n");
    assert_eq!(result["stderr"], first.as_str());
    let both = format!("{first}alpha {NEXT} failed <exit_code> <> 1\n");
    wait_until("the second hook", || project.made("hooked") == both);
    assert!(!space.log().contains("on_finish for"), "{}", space.log());
}

#[test]
fn what_on_finish_starts_on_purpose_outlives_it_and_the_next_job() {
    let (space, project) = alpha("cat > /dev/null; sleep 600 &");
    let hook = space.program("hook", "sleep 600 > /dev/null 2>&1 & echo $! >> hooked");
    space.set(json!({"on_finish": [hook]}));
    space.start();
    project.submit(ID, "x");
    assert_eq!(project.run(NEXT, "x")["leftovers"], 1);
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
        project.submit_all(&[ID, NEXT]);
        project.wait_all_completed(&[ID, NEXT]);
        space.wait_log(&format!("[{}] on_finish for {ID}.md: ", project.name));
    }
}

#[test]
fn the_log_has_the_lines_that_scripts_look_for() {
    let (space, project) = alpha("sh -s");
    space.project_with("beta", json!({"enabled": false}));
    space.start();
    project.submit(ID, "exit 0");
    project.run(NEXT, "exit 3");
    let path = project.path.display();
    for line in [
        "Starting Multi-Project Job Monitor",
        "Project 'beta' is disabled, skipping",
    ] {
        assert!(ends_a_line(&space.log(), line), "{line}");
    }
    for line in [
        format!("Project 'alpha' configured: {path}"),
        format!("Observer started for 'alpha': {path}/jobs/items"),
        format!("[alpha] Job queued: {ID}.md (queue size: 1)"),
        format!("[alpha] Starting job: {ID}.md"),
        format!("[alpha] Starting job: {NEXT}.md"),
    ] {
        wait_until(&line, || ends_a_line(&project.journal(), &line));
        assert!(ends_a_line(&space.log(), &line), "{line}");
    }
    for text in [
        format!("[alpha] Job completed: {ID}.md - status=completed, duration=0."),
        format!("[alpha] Job failed: {NEXT}.md - "),
    ] {
        wait_until(&text, || project.journal().contains(&text));
        space.wait_log(&text);
    }
}

fn ends_a_line(log: &str, text: &str) -> bool {
    log.lines().any(|line| line.ends_with(text))
}

#[test]
fn the_project_s_log_is_rotated_and_one_old_one_is_kept() {
    let (space, project) = alpha("cat >/dev/null");
    fs::write(project.logs("monitor.log"), "old line\n".repeat(130_000)).unwrap();
    space.start();
    project.run(ID, "x");
    space.wait_log("Job completed");
    wait_until("the old log", || project.logs("monitor.log.1").is_file());
    wait_until("lines in the new log", || {
        project.journal().contains("Job completed")
    });
    assert!(project.journal().len() < 10_000);
}

#[test]
fn queue_state_json_shows_what_runs_and_what_waits() {
    let (space, project) = alpha(GATED);
    space.start();
    let idle = project.wait_view("idle", |view| view["is_processing"] == false);
    idle.must_have(json!({"current_task": null, "queued_tasks": []}));
    project.submit(ID, "x");
    project.wait_made("ran");
    project.submit_all(&[LAST, NEXT]);
    let view = project.wait_view("two wait", |view| view["queue_size"] == 2);
    view.must_have(json!({
        "project": "alpha", "is_processing": true, "current_task": format!("{ID}.md"),
        "queued_tasks": [format!("{NEXT}.md"), format!("{LAST}.md")],
        "attempt": 1, "retry_at": null, "hold": null,
    }));
    for key in ["task_start_time", "updated_at"] {
        assert!(is_rfc3339_with_offset(view[key].as_str().unwrap()), "{key}");
    }
    let text = fs::read_to_string(project.state("queue_state.json")).unwrap();
    let keys = "project queue_size current_task is_processing queued_tasks task_start_time \
        attempt retry_at hold updated_at";
    keys_of(&text).join(" ").must_have(keys);
    project.touch("go");
    project.wait_result(LAST);
    project.wait_view("idle again", |view| {
        view["is_processing"] == false && view["queue_size"] == 0
    });
}

#[test]
fn of_a_hundred_thousand_finished_jobs_none_runs_and_a_new_one_starts_at_once() {
    let (space, project) = alpha(NOTES);
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
