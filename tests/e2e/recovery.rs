//! What is left after a crash, a stop or a second daemon: each row of the table of states, laid
//! out on disk or brought about by `kill -9`.

use crate::machine::start_time_of;
use crate::registry::is_free;
use crate::space::{
    BOUND, MustHave, Project, Space, attempts, is_alive, spawn, wait_for, wait_longer, wait_until,
    with,
};
use crate::stage::{ID, NEXT, alpha, ran};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// An agent that notes its start and its pids, leaves a daemon of its own, and runs until the
/// test makes the file `go`.
const GATED: &str = r#"echo "$JOB_MONITOR_JOB_ID" >> ran; cat >> prompts
setsid sh -c 'echo $$ >> pids; exec sleep 600' < /dev/null > /dev/null 2>&1 &
while [ ! -s pids ]; do sleep 0.01; done
echo $$ >> pids; echo some words
while [ ! -e go ]; do sleep 0.02; done; echo done"#;

fn pids(project: &Project) -> Vec<i32> {
    let pids = project.made("pids");
    pids.lines().map(|pid| pid.parse().unwrap()).collect()
}

/// Waits until the first start of `GATED` stands at its gate.
fn wait_running(project: &Project) -> Vec<i32> {
    wait_until("the agent at its gate", || pids(project).len() >= 2);
    pids(project)
}

/// A job whose agent stands at its gate, and which is to be started again after an interruption.
fn gated() -> (Space, Project) {
    let (space, project) = alpha(GATED);
    space.set(json!({"on_interrupt": "rerun"}));
    space.start();
    project.submit(ID, "x");
    wait_running(&project);
    (space, project)
}

/// Nobody would end the agent, nor take notice of its end, until the project is served again.
#[test]
fn what_a_dead_daemon_left_is_ended_also_where_nothing_is_to_be_started() {
    for (key, value) in [("enabled", json!(false)), ("retries", json!("many"))] {
        let (space, project) = gated();
        let left = pids(&project);
        space.kill();
        space.edit_registry(|projects| projects["alpha"][key] = value);
        space.start();
        assert!(!left.iter().any(|pid| is_alive(*pid)), "{key}");
        project.wait_view("that nothing runs", |view| {
            view["is_processing"] == false && view["queue_size"] == 1
        });
        assert_eq!(ran(&project).len(), 1, "{key}");
        assert_eq!(space.log().matches("Observer started").count(), 1, "{key}");
        project.touch("go");
        space
            .edit_registry(|projects| drop(projects["alpha"].as_object_mut().unwrap().remove(key)));
        project.wait_completed(ID);
    }
}

/// A project in which states are laid out; no gate keeps its agents.
fn laid_out() -> (Space, Project) {
    let (space, project) = alpha(GATED);
    project.touch("go");
    (space, project)
}

/// A claim as the daemon writes it, of a first start of a plain agent.
pub fn claim(id: &str, keys: Value) -> String {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let claim = json!({
        "job_id": id, "run": "00000000000000000000000000000000", "boot_id": boot_id.trim(),
        "starts": 1, "queue_position": 1,
        "started_at": "2026-01-01T12:00:00.000+00:00", "created_at": "2026-01-01T11:00:00.000+00:00",
        // Of "x", by sha256sum.
        "document_sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
        "agent": "agent", "protocol": "plain", "session_id": null, "resumed": false,
        "attempts": [], "retries": 0, "interruptions": 0,
        "carried": {"usage": null, "num_turns": null, "edited": [], "permission_denials": [],
            "failed_mcp_servers": [], "leftovers": 0},
        "suspended": null, "checking": false, "stopped": false, "checks": [],
        "files": {"witness": null, "answer": null, "require_answer": false},
    });
    format!("{}\n", with(claim, keys))
}

pub fn lay_claim(project: &Project, id: &str, text: &str) {
    fs::write(project.state(&format!("{id}.claim")), text).unwrap();
}

/// No claim of ours counts no start; one that does ends its job all the same, and keeps nothing busy.
#[test]
fn a_suspended_claim_of_no_start_is_gone_on_with() {
    let (space, project) = alpha("cat");
    project.submit(ID, "x");
    let suspended = json!({"kind": "network", "error": "", "retry_at": null, "afresh": true});
    let claim = claim(ID, json!({"starts": 0, "suspended": suspended}));
    lay_claim(&project, ID, &claim);
    space.start();
    project.wait_completed(ID);
}

// --- kill -9 ---

#[test]
fn after_kill_9_survivors_are_ended_and_on_interrupt_decides() {
    // A plain agent has no session to resume, so `resume` is as `fail`.
    for on_interrupt in ["resume", "fail", "rerun"] {
        let (space, project) = alpha(GATED);
        space.set(json!({"on_interrupt": on_interrupt}));
        space.start();
        project.submit(ID, "the text");
        let first = wait_running(&project);
        let kept = project.logs(&format!("{ID}.md"));
        wait_until("the copy of the text", || kept.exists());
        space.kill();
        let all_alive = first.iter().all(|pid| is_alive(*pid));
        assert!(all_alive, "the agent died with the daemon");
        let none_alive = || first.iter().all(|pid| !is_alive(*pid));
        // The copy of the text that ran is what runs again.
        fs::remove_file(project.item(&format!("{ID}.md"))).unwrap();
        space.start();
        project.submit(NEXT, "x");
        if on_interrupt == "rerun" {
            wait_until("a second start", || ran(&project) == [ID, ID]);
            assert!(none_alive(), "two at once");
        }
        project.touch("go");
        let result = project.wait_result(ID);
        assert!(none_alive(), "survivors");
        assert_eq!(result["retry_count"], 0);
        if on_interrupt == "rerun" {
            let logs = ["md", "out", "err", "2.out", "2.err"];
            result.must_have(json!({
                "status": "completed", "attempts": [{"error_kind": "interrupted"}, {}],
                "logs": logs.map(|ending| format!("jobs/logs/{ID}.{ending}")),
            }));
            assert!(project.made("prompts").starts_with("the textthe text"));
        } else {
            result.must_have(json!({
                "status": "failed", "error_kind": "interrupted", "stdout": "some words\n",
                "attempts": [{"error_kind": "interrupted"}],
            }));
        }
        project.wait_completed(NEXT);
        space.assert_no_survivor();
    }
}

#[test]
fn a_job_that_was_begun_goes_on_with_its_agent_whatever_the_settings_say_since() {
    let (space, project) = alpha(GATED);
    space.set(json!({"on_interrupt": "rerun"}));
    space.start();
    project.submit(ID, &"x".repeat(2000));
    wait_running(&project);
    let kept = project.logs(&format!("{ID}.md"));
    wait_until("the copy of the text", || kept.exists());
    space.kill();
    let agent = |path| json!({"command": [path], "protocol": "plain"});
    let own = agent(space.root().join("bin/agent"));
    let other = agent(space.program("other", "cat > /dev/null; echo other"));
    let agents = json!({"agent": own, "other": other});
    space.set(json!({"agent": "other", "agents": agents, "max_document": "1 KiB"}));
    project.touch("go");
    space.start();
    let result = project.wait_completed(ID);
    assert_eq!(result["agent"], "agent");
    assert_eq!(ran(&project), [ID, ID]);
}

#[test]
fn a_job_is_claimed_before_its_agent_takes_its_first_step() {
    let looks = "cat jobs/state/$JOB_MONITOR_JOB_ID.claim > claim; ls jobs/results > results; cat > /dev/null";
    let (space, project) = alpha(looks);
    space.start();
    project.run(ID, "x");
    let text = project.made("claim");
    let claim: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    claim.must_have(json!({"job_id": ID, "starts": 1}));
    assert_eq!(claim["run"].as_str().unwrap().len(), 32);
    assert_eq!(project.made("results"), "");
}

#[test]
fn killed_at_any_moment_the_daemon_starts_no_job_twice_and_loses_none() {
    let (space, project) = alpha(r#"echo "$JOB_MONITOR_JOB_ID" >> ran; cat > /dev/null"#);
    space.set(json!({"on_interrupt": "fail"}));
    let ids: Vec<String> = (0..400).map(|n| format!("job-20260101-{n:06}-x")).collect();
    ids.iter().for_each(|id| project.submit(id, "x"));
    // Moments from before the first start to the middle of the backlog.
    for pause in [1, 3, 5, 8, 12, 17, 23, 30, 38, 47, 57, 68] {
        space.spawn(|_| {});
        std::thread::sleep(Duration::from_millis(pause));
        space.kill();
    }
    space.start();
    wait_longer(BOUND * 4, "all results", || project.result(&ids[399]));
    let ran = ran(&project);
    for id in &ids {
        let result = project.result(id).expect("every job has its result");
        let started = ran.iter().filter(|one| *one == id).count();
        match result["status"].as_str().unwrap() {
            "completed" => assert_eq!(started, 1, "{id}"),
            // Killed before its first step, an agent may not have noted its start.
            _ => {
                assert_eq!(result["error_kind"], "interrupted", "{id}");
                assert!(started <= 1, "{id} was started {started} times");
            }
        }
    }
    wait_until("nothing but results to be left", || {
        let names = project.names(&project.state(""));
        !names.iter().any(|name| name.contains(".claim"))
    });
    assert_eq!(project.names(&project.results("")).len(), ids.len());
    space.assert_no_survivor();
}

#[test]
fn a_job_that_is_interrupted_for_the_fourth_time_is_not_started_again() {
    let (space, project) = alpha(GATED);
    space.set(json!({"on_interrupt": "rerun"}));
    space.start();
    project.submit(ID, "x");
    for starts in 1..=4 {
        wait_until("one more start", || ran(&project).len() == starts);
        space.kill();
        space.start();
    }
    let result = project.wait_result(ID);
    assert_eq!(result["error_kind"], "interrupted");
    result["error"].must_have("went down");
    assert_eq!(attempts(&result).len(), 4);
    assert_eq!(ran(&project).len(), 4);
    space.assert_no_survivor();
}

#[test]
fn a_job_cancelled_while_the_daemon_was_away_is_not_started_again() {
    let (space, project) = gated();
    project.submit(NEXT, "x");
    space.kill();
    project.mark(ID, "cancel");
    project.mark(NEXT, "cancel");
    space.start();
    for (id, starts) in [(ID, 1), (NEXT, 0)] {
        let result = project.wait_result(id);
        assert_eq!(result["status"], "cancelled");
        assert_eq!(attempts(&result).len(), starts);
    }
    assert_eq!(ran(&project), [ID]);
    space.assert_no_survivor();
}

// --- states laid out on disk ---

#[test]
fn a_claim_beside_a_result_is_swept_and_the_job_is_not_run() {
    let (space, project) = laid_out();
    project.submit(ID, "x");
    lay_claim(&project, ID, &claim(ID, json!({})));
    project.mark(ID, "cancel");
    project.mark(ID, "hold");
    let result = format!("{{\"job_id\": \"{ID}\", \"status\": \"completed\"}}");
    fs::write(project.results(&format!("{ID}.json")), &result).unwrap();
    space.start();
    project.run(NEXT, "x");
    assert_eq!(ran(&project), [NEXT]);
    let names = project.names(&project.state(""));
    assert!(!names.iter().any(|name| name.contains(ID)), "{names:?}");
    let results = [format!("{ID}.json"), format!("{NEXT}.json")];
    assert_eq!(project.names(&project.results("")), results);
    let kept = fs::read_to_string(project.results(&results[0])).unwrap();
    assert_eq!(kept, result, "a published result was changed");
}

#[test]
fn without_its_state_directory_a_project_goes_on_from_documents_and_results() {
    let (space, project) = laid_out();
    space.start();
    project.run(ID, "x");
    assert_eq!(space.stop(), 0);
    fs::remove_dir_all(project.state("")).unwrap();
    project.submit(NEXT, "x");
    space.start();
    project.wait_result(NEXT);
    assert_eq!(ran(&project), [ID, NEXT]);
    project.wait_view("the view is back", |view| view["queue_size"] == 0);
}

#[test]
fn an_agent_whose_claim_is_lost_with_the_state_directory_is_ended_before_another_starts() {
    // Of the same name, with a job of the same name.
    let (_elsewhere, other) = gated();
    let (space, project) = gated();
    let (before, others) = (pids(&project), pids(&other));
    assert!(!project.journal().is_empty());
    space.kill();
    fs::remove_dir_all(project.state("")).unwrap();
    fs::remove_file(project.path.join("pids")).unwrap();
    space.start();
    let after = wait_running(&project);
    assert!(before.iter().all(|pid| !after.contains(pid)));
    let left = before.iter().any(|&pid| is_alive(pid));
    assert!(!left, "it was left alone");
    assert!(others.iter().all(|&pid| is_alive(pid)), "it was not ours");
    space.wait_log("processes of an earlier run had survived; they were ended");
    for project in [&project, &other] {
        project.touch("go");
        project.wait_completed(ID);
    }
}

#[test]
fn a_job_whose_claim_is_another_job_s_fails_and_is_not_run() {
    let (space, project) = laid_out();
    project.submit(ID, "x");
    lay_claim(&project, ID, &claim(NEXT, json!({})));
    space.start();
    project.run(NEXT, "x");
    let result = project.wait_result(ID);
    assert_eq!(ran(&project), [NEXT]);
    assert_eq!(result["error_kind"], "interrupted");
    let error = result["error"].as_str().unwrap();
    error.must_have(&format!("job-monitor retry {ID}"));
    wait_until("the claim to be swept", || project.claim(ID).is_none());
    space.wait_log(&format!("{ID}.claim is broken"));
}

#[test]
fn a_claim_s_process_number_that_belongs_to_somebody_else_now_is_not_signalled() {
    let (space, project) = laid_out();
    // A session of its own, as an agent is; its environment has no token. It stands in the space,
    // so that it is ended with it.
    let mut innocent = Command::new("setsid");
    innocent.args(["sleep", "600"]).current_dir(space.root());
    innocent.stdin(Stdio::null()).stdout(Stdio::null());
    innocent.stderr(Stdio::null());
    let mut innocent = spawn(&mut innocent);
    let pid = innocent.id();
    let start_time = start_time_of(pid);
    let boot = "00000000-0000-0000-0000-000000000000";
    for (id, what, mut keys, start_time) in [
        (ID, "another process", json!({}), start_time - 1),
        // Numbers and ticks may agree by chance.
        (NEXT, "another boot", json!({"boot_id": boot}), start_time),
    ] {
        project.submit(id, "x");
        fs::write(project.logs(&format!("{id}.md")), "x").unwrap();
        fs::write(project.logs(&format!("{id}.out")), "").unwrap();
        keys["process"] = json!({"pid": pid, "start_time": start_time});
        lay_claim(&project, id, &claim(id, keys));
        space.start();
        assert_eq!(project.wait_result(id)["error_kind"], "interrupted");
        assert_eq!(space.stop(), 0);
        let is_alive = innocent.try_wait().unwrap().is_none();
        assert!(is_alive, "{what}: an innocent process was ended");
    }
    innocent.kill().unwrap();
    innocent.wait().unwrap();
}

#[test]
fn a_claim_without_logs_and_process_is_of_a_start_that_never_was() {
    let (space, project) = laid_out();
    project.submit_all(&[ID, NEXT]);
    // The logs are made between claim and start, so the first was not started. The second was,
    // whoever has tidied its logs away since.
    lay_claim(&project, ID, &claim(ID, json!({})));
    let process = json!({"process": {"pid": 1, "start_time": 1}});
    lay_claim(&project, NEXT, &claim(NEXT, process));
    space.start();
    assert_eq!(attempts(&project.wait_completed(ID)).len(), 1);
    assert_eq!(project.wait_result(NEXT)["error_kind"], "interrupted");
    assert_eq!(ran(&project), [ID]);
}

#[test]
fn a_claim_that_another_monitor_left_while_this_one_rested_is_seen_to_first() {
    let (space, project) = alpha("cat > /dev/null; ls jobs/results > seen");
    space.start();
    wait_until("the project to be let go", || is_free(&project));
    let process = json!({"process": {"pid": 1, "start_time": 1}});
    lay_claim(&project, ID, &claim(ID, process));
    project.complete(NEXT, "x");
    assert_eq!(project.wait_result(ID)["error_kind"], "interrupted");
    assert!(project.made("seen").contains(ID));
}

#[test]
fn a_suspended_job_keeps_its_place_at_the_head_over_a_restart() {
    let (space, project) = laid_out();
    project.submit_all(&[ID, NEXT]);
    fs::write(project.logs(&format!("{NEXT}.md")), "x").unwrap();
    // The later job was begun, so the earlier one waits for it.
    let suspend_until = |time: Value| {
        let suspended =
            json!({"kind": "spawn_failed", "error": "x", "retry_at": time, "afresh": false});
        let claim = claim(NEXT, json!({"suspended": suspended}));
        lay_claim(&project, NEXT, &claim);
    };
    let in_an_hour = job_monitor::time::Wall::now().plus(Duration::from_secs(3600));
    suspend_until(json!(in_an_hour));
    space.start();
    let view = project.wait_view("suspended", |view| view["retry_at"] != Value::Null);
    assert!(view["retry_at"].as_str().unwrap().starts_with("20"));
    view.must_have(json!({
        "is_processing": false, "queued_tasks": [format!("{NEXT}.md"), format!("{ID}.md")],
    }));
    assert!(ran(&project).is_empty());
    assert_eq!(space.stop(), 0);
    suspend_until(json!("2026-01-01T12:00:01.000+00:00"));
    space.start();
    project.wait_result(ID);
    assert_eq!(ran(&project), [NEXT, ID]);
    project.wait_completed(NEXT);
}

// --- stopping ---

#[test]
fn a_stop_ends_the_agents_with_grace_keeps_their_claims_and_exits_0() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let (space, project) = alpha(
            r#"echo "$JOB_MONITOR_JOB_ID" >> ran; cat > /dev/null; setsid sleep 600 &
trap 'echo saved > saved; exit 0' TERM
echo $$ > pid; while [ ! -e go ]; do sleep 0.02; done"#,
        );
        space.set(json!({"grace": "20s", "on_interrupt": "rerun"}));
        space.start();
        project.submit_all(&[ID, NEXT]);
        project.wait_made("pid");
        space.signal(signal);
        let began = Instant::now();
        assert_eq!(space.wait_end(), 0, "{signal}");
        assert!(began.elapsed() < Duration::from_secs(10), "{signal}");
        assert_eq!(project.made("saved"), "saved\n", "{signal}");
        assert!(project.claim(ID).is_some(), "{signal}: the claim is gone");
        assert!(project.result(ID).is_none());
        assert_eq!(ran(&project), [ID], "{signal}");
        space.assert_no_survivor();
        project.touch("go");
        space.start();
        let result = project.wait_completed(ID);
        result.must_have(json!({"attempts": [{"error_kind": "interrupted"}, {}]}));
        project.wait_result(NEXT);
    }
}

#[test]
fn a_second_signal_ends_the_daemon_at_once_and_leaves_no_agent_behind() {
    let (space, project) =
        alpha("trap '' TERM; cat > /dev/null; echo $$ > pid; sleep 600; sleep 600");
    space.set(json!({"grace": "10m"}));
    space.start();
    project.submit(ID, "x");
    project.wait_made("pid");
    space.signal(Signal::SIGTERM);
    space.wait_log("Stopping");
    assert!(space.ended().is_none(), "the grace was not given");
    space.signal(Signal::SIGTERM);
    let began = Instant::now();
    space.wait_end();
    assert!(began.elapsed() < Duration::from_secs(5));
    space.assert_no_survivor();
    assert!(project.claim(ID).is_some() && project.result(ID).is_none());
}

#[test]
fn started_with_sighup_ignored_the_daemon_goes_on_ignoring_it() {
    let (space, project) = alpha("grep SigIgn /proc/self/status > signals; cat > /dev/null");
    space.spawn(|command| {
        // SAFETY: signal(2) with SIG_IGN is async-signal-safe and touches no memory.
        unsafe {
            command.pre_exec(|| {
                nix::libc::signal(nix::libc::SIGHUP, nix::libc::SIG_IGN);
                Ok(())
            });
        }
    });
    space.wait_log("Observer started");
    space.signal(Signal::SIGHUP);
    project.run(ID, "x");
    // The agent has every signal as by default.
    assert_eq!(project.made("signals"), "SigIgn:\t0000000000000000\n");
    assert!(space.ended().is_none());
    assert_eq!(space.stop(), 0);
}

// --- two daemons ---

#[test]
fn a_second_daemon_of_the_same_user_is_refused_with_status_5() {
    let (space, project) = gated();
    space.run(&["daemon"]).refused(5, "running already");
    // The first goes on as if nothing had happened.
    project.touch("go");
    project.wait_completed(ID);
    assert_eq!(space.stop(), 0);
    // After it has gone, and also after it was killed, the place is free.
    space.start();
    space.kill();
    space.start();
    let list = space.run(&["list", "--json"]).json();
    assert_eq!(list["daemon"]["pid"], space.pid());
}

#[test]
fn a_project_of_another_daemon_is_left_to_it_and_taken_over_when_that_has_gone() {
    let (first, project) = gated();
    let second = Space::new();
    second.plain_agent(GATED);
    second.edit_registry(|projects| {
        projects.insert("theirs".into(), json!({"path": project.path}));
    });
    second.start();
    second.wait_log("is served by another monitor");
    assert_eq!(ran(&project), [ID]);
    project.touch("go");
    assert_eq!(project.wait_result(ID)["project"], "alpha");
    assert_eq!(first.stop(), 0);
    project.submit(NEXT, "x");
    let result = wait_for("the other daemon's turn", || project.result(NEXT));
    assert_eq!(result["project"], "theirs");
    assert!(BOUND > Duration::from_secs(10), "its pauses are 1, 2, 4 s");
}
