//! What the reading commands show beyond the words of old scripts: why jobs wait, how well they went,
//! what they changed.

use crate::space::{MustHave, Project, Space, make_old, wait_until, with};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

const GOOD: &str = "job-20260130-090000-good";
const DENIED: &str = "job-20260130-091000-denied";
const FAILED: &str = "job-20260130-092000-failed";
const BROKEN: &str = "job-20260130-093000-broken";

/// Puts a result, which ended so many minutes after nine, and whose file is so many hours old.
fn put(project: &Project, id: &str, minute: u32, hours: u64, more: Value) {
    let document = json!({"job_id": id, "status": "completed", "duration_seconds": 12.0,
        "started_at": "2026-01-30T09:00:00Z", "agent": "claude", "session_id": "s-1",
        "attempts": [{"started_at": "2026-01-30T09:00:00Z", "duration_seconds": 12.0}],
        "completed_at": format!("2026-01-30T09:{minute:02}:00Z"),
        "worker_output": {"summary": "All is well.", "cost_usd": 0.0072}});
    let path = project.put_result(id, &with(document, more));
    make_old(&path, Duration::from_secs(hours * 3600));
}

/// A project with three jobs that are done, whose files were restored in the wrong order.
fn finished() -> (Space, Project) {
    let (space, project) = Space::with_project();
    space.env("TZ", "UTC");
    let git = json!({"branch": "main", "head_before": "a", "head_after": "b", "commits": 1, "files": 2,
        "insertions": 12, "deletions": 3, "patch": format!("jobs/logs/{DENIED}.patch")});
    let check = |code: i32| {
        json!({"started_at": "2026-01-30T09:01:00Z", "duration_seconds": 2.0, "exit_code": code,
            "signal": null, "output": "1 test failed\n"})
    };
    let checks = json!({"checks": [check(1), check(0)]});
    put(&project, GOOD, 1, 1, checks);
    let audit = "```JSON\n{\"audit_score\": 85, \"audit_notes\": \"two gaps\"}\n```";
    let summary = format!("Done.\n\n{audit}\nSee the notes.\n");
    let denied = json!({"audit_score": 85, "audit_notes": "two gaps", "git": git,
        "failed_mcp_servers": ["db"], "worker_output": {"summary": summary, "cost_usd": 0.5},
        "permission_denials": [{"tool_name": "Bash", "tool_input": {"command": "make check"}}]});
    put(&project, DENIED, 20, 3, denied);
    let failed = json!({"status": "failed", "error_kind": "check_failed",
        "error": "the check failed", "checks": [check(2)]});
    put(&project, FAILED, 10, 2, failed);
    (space, project)
}

#[test]
fn status_tells_what_a_person_should_look_at_in_the_order_in_which_jobs_ended() {
    let (space, _) = finished();
    let lines = |args: &[&str]| -> Vec<String> {
        let text = space.run(args).ok();
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        text.lines().skip(1).map(words).collect()
    };
    let all = lines(&["status"]);
    let expected = [
        format!(
            "⚠ {DENIED}: completed 2026-01-30 09:20 12s $0.5000 +12 −3 audit 85, 1 tool denied, 1 MCP server missing"
        ),
        format!("✗ {FAILED}: failed (check_failed) 2026-01-30 09:10 12s $0.0072"),
        format!("✓ {GOOD}: completed 2026-01-30 09:01 12s $0.0072 check passed at try 2"),
    ];
    assert_eq!(all, expected);
    assert_eq!(lines(&["status", "--failed"]), expected[1..2]);
    assert_eq!(lines(&["status", "--limit", "1"])[0], expected[0]);
    assert_eq!(lines(&["status", "--since", "2026-01-31"]), ["none yet"]);
    let json = space.run(&["status", "--json"]).json();
    assert_eq!(json["holds"], json!([]));
    assert_eq!(json["jobs"][0]["insertions"], 12);
}

#[test]
fn one_job_is_told_with_its_proof_and_without_saying_anything_twice() {
    let (space, project) = finished();
    let told = space.run(&[DENIED]).ok();
    for part in [
        "Audit: 85 of 100: two gaps\n",
        "Changed: 2 files, +12 −3, 1 commit on main\n  job-monitor diff ",
        "  Bash: make check\n",
        "Bash(make *)",
        "MCP servers missing: db\n",
        "Summary: Done.\nSee the notes.\n",
        "Project: alpha\nAgent: claude\n",
        "Session: s-1\n",
        "job-monitor open ",
    ] {
        told.must_have(part);
    }
    assert!(!told.contains("audit_score"), "{told}");
    let told = space.run(&[FAILED]).ok();
    told.must_have("Check: failed with exit status 2\n");
    // What cannot be read ends its job, and is no success of ours.
    fs::write(project.results(&format!("{BROKEN}.json")), "{").unwrap();
    for args in [&[BROKEN][..], &[BROKEN, "--json"]] {
        let ran = space.run(args);
        ran.refused(1, &format!("{BROKEN}.json"));
        ran.stdout.must_have(BROKEN);
    }
}

#[test]
fn a_patch_is_shown_as_it_is_and_summed_up() {
    let (space, project) = finished();
    let patch = "diff --git a/x b/x\n--- a/x\n+++ b/x\n@@ -1 +1,2 @@\n-old\n+new\n+\u{1b}[31m\n";
    let file = project.logs(&format!("{DENIED}.patch"));
    fs::write(&file, patch).unwrap();
    assert_eq!(space.run(&["diff", DENIED]).ok(), patch);
    let stat = space.run(&["diff", "--stat", DENIED]).ok();
    stat.must_have("2      1  x\n2 files, +12 −3");
    fs::remove_file(file).unwrap();
    let gone = space.run(&["diff", DENIED]);
    assert_eq!((gone.status, gone.stdout.as_str()), (0, ""));
    gone.stderr.must_have("changed 2 files, +12 −3");
    let none = space.run(&["diff", GOOD]);
    none.refused(1, "no record of change");
}

#[test]
fn whatever_keeps_jobs_from_being_started_is_told_in_every_view() {
    let space = Space::new();
    space.set(json!({"max_parallel": 1}));
    space.plain_agent("cat > /dev/null; until [ -e go ]; do sleep 0.05; done");
    let [alpha, beta] = ["alpha", "beta"].map(|name| space.project(name));
    space.project_with("gamma", json!({"timeout": "soon"}));
    let delta = space.project_with("delta", json!({"enabled": false}));
    fs::write(beta.item("fix-bug.md"), "x\n").unwrap();
    space.start();
    alpha.submit("job-20260130-090000-runs", "Do it.\n");
    alpha.wait_view("that it runs", |view| view["is_processing"] == true);
    let waits = "job-20260130-090000-waits";
    beta.submit(waits, "Do it.\n");
    beta.wait_view("that it waits", |view| view["queue_size"] == 1);
    let queue = |name: &str| space.run(&["-p", name, "queue"]).ok();
    let all_busy = "Waits: 1 of 1 agents at work (max_parallel)\n";
    queue("alpha").must_have("Running for: ");
    wait_until("the reason", || queue("beta").contains(all_busy));
    let left = "Left alone: fix-bug.md (not a job's name; job-monitor submit ";
    wait_until("the other file", || {
        let told = queue("beta");
        told.contains(left) && told.contains("jobs/items/fix-bug.md)\n")
    });
    space.run(&[waits]).ok().must_have(all_busy);
    let list = space.run(&["list"]).ok();
    list.must_have("  Skipped: ");
    list.must_have("\"timeout\" is \"soon\"");
    let watch = space.run(&["watch"]).ok();
    for part in [
        "Waits: 1 of 1 agents at work",
        "Skipped: ",
        "nothing written for ",
        "Disabled: ",
    ] {
        watch.must_have(part);
    }
    let json = space.run(&["-p", "beta", "queue", "--json"]).json();
    assert_eq!(json["projects"][0]["obstacles"][0], all_busy.trim_end());
    let waited = |id: &str| space.run(&["wait", "--timeout", "300ms", id]).stderr;
    waited(waits).must_have("waits: 1 of 1 agents");
    space.run(&["hold", waits]).ok();
    let told = waited(waits);
    let held = "waits is held; job-monitor release";
    // At once, and when the time is up.
    assert_eq!(told.matches(held).count(), 2, "{told}");
    delta.submit(GOOD, "x");
    let why = "waits: no job is started until job-monitor enable delta";
    waited(GOOD).must_have(why);
}

#[test]
fn a_hold_is_told_with_reason_and_end_in_every_view_and_to_who_started_the_monitor() {
    let space = Space::new();
    space.plain_agent("cat > /dev/null");
    let gate = space.program("gate", "echo 'the tree is dirty'; exit 1");
    let project = space.project_with("alpha", json!({"gate": [gate]}));
    project.submit("job-20260130-090000-waits", "Do it.\n");
    let socket = space.root().join("ear");
    let ear = UnixDatagram::bind(&socket).unwrap();
    ear.set_nonblocking(true).unwrap();
    space.spawn(|command| {
        command.env("NOTIFY_SOCKET", &socket);
    });
    let mut heard = [0; 512];
    wait_until("the service's status", || {
        let length = ear.recv(&mut heard).unwrap_or(0);
        let text = String::from_utf8_lossy(&heard[..length]);
        text.starts_with("STATUS=0 running, 1 waiting; ") && text.contains("the tree is dirty")
    });
    for view in ["queue", "list", "watch"] {
        let told = space.run(&[view]).ok();
        told.must_have("gate until ");
        told.must_have("the tree is dirty");
    }
    space.wait_log("is held (gate): the tree is dirty");
    // Who no longer listens is not waited for, however much there is to tell.
    space.edit_registry(|projects| projects["alpha"]["gate"] = Value::Null);
    for number in 10..30 {
        project.run(&format!("job-20260130-0900{number}-more"), "Do it.\n");
    }
    assert_eq!(space.stop(), 0);
}

#[test]
fn a_log_is_told_with_the_checks_that_came_after_it() {
    let (space, project) = finished();
    let lines: String = (1..=100).map(|number| format!("line {number}\n")).collect();
    fs::write(project.logs(&format!("{GOOD}.out")), &lines).unwrap();
    fs::write(project.logs(&format!("{GOOD}.check")), "two failed\n").unwrap();
    let told = space.run(&["logs", GOOD]).ok();
    let seam = "─── check 1 failed with exit status 1\ntwo failed\n";
    told.must_have(seam);
    told.must_have("line 1\n");
    told.must_have("─── check 2 passed\n");
    let raw = space.run(&["logs", "--raw", GOOD]).ok();
    assert_eq!(raw, lines);
}
