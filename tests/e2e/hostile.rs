//! An agent that does what it must not: it works as the user, so it can write where it likes, and
//! nothing that it writes there may decide what becomes of jobs. And bytes that are meant for the
//! terminal of whoever looks.

use crate::recovery::claim;
use crate::space::{Project, Space, job_monitor, lacks, spawn};
use crate::stage::*;
use job_monitor::cli::commands;
use serde_json::json;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

// --- what an agent writes into the spool ---

/// The first job's agent does its worst in the spool; the others do what they are told.
const WORST: &str = r##"echo "$JOB_MONITOR_JOB_ID $(cat)" >> ran
case $JOB_MONITOR_JOB_ID in *-hello) ;; *) echo "the real words"; exit 0 ;; esac
cd jobs
. ../worst
echo "other words" > "items/$JOB_MONITOR_JOB_ID.md"
echo "other words" > "logs/$JOB_MONITOR_JOB_ID.md"
forge() { echo "{\"job_id\": \"$1\", \"status\": \"completed\", \"stdout\": \"forged\"}"; }
forge job-20260101-120000-hello > results/job-20260101-120000-hello.json
forge job-20260101-120001-next > results/job-20260101-120001-next.json
forge job-20260101-120001-next > results/.job-20260101-120002-last.json.tmp
cp ../claim "state/job-20260101-120002-last.claim"
echo "{\"is_processing\": false, \"queue_size\": 0, \"queued_tasks\": []}" > state/queue_state.json
echo "the real words""##;

#[test]
fn an_agent_s_forgeries_in_the_spool_start_no_job_twice_and_pass_for_no_work_of_its_own() {
    for worst in [
        "",
        "rm -rf state",
        "rm -rf state; mkdir state",
        "rm -rf state; mkdir state; : > state/.lock",
    ] {
        let (space, project) = alpha(WORST);
        space.set(json!({"on_interrupt": "rerun"}));
        fs::write(project.path.join("worst"), worst).unwrap();
        // Of a job that is not begun, so that a worker which believed it would end it.
        let forged = claim(LAST, json!({"interruptions": 9}));
        fs::write(project.path.join("claim"), forged).unwrap();
        for id in [ID, NEXT, LAST] {
            project.submit(id, "the task");
        }
        space.start();
        let assert_real = |ran: &[&str]| {
            for id in ran {
                let result = project.wait_result(id);
                assert_eq!(result["status"], "completed", "{worst:?}: {result}");
                assert_eq!(result["stdout"], "the real words\n", "{worst:?}: {result}");
                let attempts = result["attempts"].as_array().unwrap();
                assert_eq!(attempts.len(), 1, "{worst:?}: {result}");
            }
            let ran: String = ran.iter().map(|id| format!("{id} the task\n")).collect();
            assert_eq!(project.made("ran"), ran, "{worst:?}");
        };
        project.wait_result(LAST);
        assert_real(&[ID, LAST]);
        // A result ends its job, whoever wrote it; but it is told, as long as anybody can know.
        assert_eq!(project.result(NEXT).unwrap()["stdout"], "forged");
        if worst.is_empty() {
            let sentence = format!("{NEXT}.md has a result that this monitor did not write");
            space.wait_log(&sentence);
        }
        project.wait_view("idle", |view| view["is_processing"] == false);
        assert_eq!(space.stop(), 0);
        // After a restart, nothing is known but what lies there.
        space.start();
        let after = "job-20260101-120003-after";
        project.submit(after, "the task");
        project.wait_result(after);
        assert_real(&[ID, LAST, after]);
    }
}

// --- what others write for the terminal ---

/// Each character that one byte can stand for, those that reorder lines, and some words, so that
/// what is shown of it can be found.
fn every_character() -> String {
    let bidi = "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2066}\u{2067}\u{2068}\u{2069}";
    let latin = (0..=0xff_u8).map(char::from);
    let moves = "\u{1b}[2J\u{1b}]0;title\u{7}\u{9b}31m\u{1b}c";
    latin
        .chain([bidi, moves, "words"].concat().chars())
        .collect()
}

fn write(path: PathBuf, bytes: impl AsRef<[u8]>) {
    fs::write(path, bytes).unwrap();
}

/// A world in which every text that anybody but us can write has every character in it, each file
/// every byte.
fn contaminated() -> (Space, Project) {
    let space = Space::new();
    let bad = every_character();
    let raw: Vec<u8> = (0..=0xff_u8).collect();
    let project = space.project("alpha");
    let name = bad.replace(['/', '\0'], "");
    space.edit_registry(|projects| {
        projects.insert(name.clone(), json!({"path": space.root().join("missing")}));
        let path = space.root().join(&name);
        projects.insert("beta".to_owned(), json!({"path": path, "enabled": false}));
        let gamma = json!({"path": bad, "layout": bad, "agent": bad});
        projects.insert("gamma".to_owned(), gamma);
        projects["alpha"]["registered_at"] = json!(bad);
    });
    let program = format!("/nowhere/{}", bad.replace('\0', ""));
    space.set(json!({"agent": "agent", "agents": {"agent": {"command": [program]}}}));
    space.set(json!({ bad.clone(): bad }));
    let hold = |agent: Option<&str>| {
        json!({"agent": agent, "kind": "billing", "reason": bad, "since": "2026-01-01T12:00:00.000+00:00",
            "until": null, "probe_at": "2099-01-01T12:00:00.000+00:00"})
    };
    let holds = json!({"list": [hold(Some(&bad)), hold(None)], "blind": {}});
    space.lay_holds(&holds);
    for byte in raw.iter().filter(|byte| !b"\0/".contains(byte)) {
        let name = [b"job-20260101-110000-", &[*byte][..], b"words.md"].concat();
        write(project.item("").join(OsStr::from_bytes(&name)), "x");
    }
    // Done, with a good result and logs of each kind; with one that is no JSON; begun; waiting.
    let text = bad.replace('\0', "");
    for id in [ID, NEXT, LAST, WAITING] {
        project.submit(id, &text);
        for ending in ["md", "out", "err"] {
            write(project.logs(&format!("{id}.{ending}")), &raw);
        }
    }
    let attempt = json!({"started_at": "2026-01-01T12:00:00.000+00:00", "duration_seconds": 1.0, "exit_code": 3, "signal": null,
        "error_kind": bad, "error": bad, "session_id": bad, "cost_usd": 0.5});
    let result = json!({
        "job_id": ID, "status": "failed", "created_at": "2026-01-01T12:00:00.000+00:00",
        "started_at": "2026-01-01T12:00:00.000+00:00", "completed_at": "2026-01-01T12:00:00.000+00:00",
        "worker_output": {"summary": bad, "raw_output": bad, "cost_usd": 0.5,
            "usage": {"input_tokens": 1, "output_tokens": 2, bad.clone(): bad}},
        "audit_score": 7, "audit_notes": bad, "artifacts": [bad, bad], "error": bad, "stdout": bad,
        "stderr": bad, "duration_seconds": 2.0, "error_kind": bad, "project": bad, "agent": bad,
        "agent_version": bad, "model": bad, "session_id": bad, "attempts": [attempt],
        "permission_denials": [{"tool_name": bad, "tool_input": {"command": bad, bad.clone(): bad}}],
        "logs": [format!("jobs/logs/{ID}.jsonl"), format!("jobs/logs/{ID}.err"), bad],
        bad.clone(): bad,
    });
    project.put_result(ID, &result);
    write(project.results(&format!("{NEXT}.json")), &raw);
    let stream = [
        json!({"type": "system", "subtype": "init", "session_id": bad, "model": bad, "claude_code_version": bad}),
        json!({"type": "assistant", "message": {"id": "m", "content": [
            {"type": "text", "text": bad},
            {"type": "tool_use", "id": "t", "name": bad, "input": {"command": bad}},
            {"type": "tool_use", "id": "u", "name": "Write", "input": {"file_path": bad}}]}}),
        json!({"type": "user", "message": {"content": [
            {"type": "tool_result", "tool_use_id": "t", "content": bad, "is_error": true}]}}),
        json!({"type": bad, "subtype": bad}),
        json!({"type": "result", "subtype": bad, "is_error": true, "result": bad, "session_id": bad}),
    ];
    let stream = stream.map(|event| format!("{event}\n")).concat();
    let stream = [stream.as_bytes(), &raw].concat();
    for id in [ID, LAST] {
        write(project.logs(&format!("{id}.jsonl")), &stream);
    }
    let suspended = json!({"kind": "overloaded", "error": bad, "afresh": false,
        "retry_at": job_monitor::time::Wall::now().plus(std::time::Duration::from_secs(3600))});
    let keys = json!({"suspended": suspended, "agent": bad, "protocol": "claude", "session_id": bad,
        "attempts": [attempt]});
    write(project.state(&format!("{LAST}.claim")), claim(LAST, keys));
    let view = json!({"project": bad, "queue_size": 2, "current_task": bad, "is_processing": true,
        "queued_tasks": [bad, bad], "task_start_time": bad, "hold": {"kind": bad, "reason": bad}});
    write(project.state("queue_state.json"), view.to_string());
    write(space.root().join("task"), &raw);
    write(space.root().join("text"), text);
    (space, project)
}

const WAITING: &str = "job-20990101-120000-waiting";

/// The command lines by which every command can be brought to say something. `restart` would ask
/// the person's own service manager, `daemon` has a test of its own, the screen of `watch` as well.
fn command_lines(space: &Space) -> Vec<Vec<String>> {
    let bad = every_character().replace('\0', "");
    let path = |name: &str| space.root().join(name).to_str().unwrap().to_owned();
    let queue = vec!["-p".to_owned(), bad.clone(), "queue".to_owned()];
    let mut lines = vec![vec![bad.clone()], queue];
    for id in [ID, NEXT, LAST, WAITING] {
        lines.push(vec![id.to_owned()]);
        lines.push(vec![id.to_owned(), "--json".to_owned()]);
    }
    for help in commands() {
        if matches!(help.name, "restart" | "daemon" | "watch" | "open") {
            continue;
        }
        let operand = help.operands().next();
        let operand = operand.map(|word| word.trim_matches(|c: char| !c.is_ascii_uppercase()));
        let values = match operand {
            None => vec![vec![]],
            // The project is needed for what comes next.
            Some("PROJECT") if help.name != "enable" => vec![vec![bad.clone()]],
            Some("PROJECT") => vec![vec!["alpha".to_owned()], vec![bad.clone()]],
            Some("ID") => [ID, NEXT, LAST, WAITING, &bad]
                .map(|id| vec![id.to_owned()])
                .to_vec(),
            Some("FILE") => vec![vec![path("task")], vec![path("text")], vec![path(&bad)]],
            Some("PATH") => vec![vec![path("alpha")], vec![path(&bad)], vec![bad.clone()]],
            Some(_) => vec![vec![bad.clone()]],
        };
        for value in values {
            let words = match help.name {
                "submit" => "-p alpha submit",
                "clean" => "clean --dry-run -a --older-than 1d",
                "wait" => "wait --timeout 1s",
                name => name,
            };
            let mut line: Vec<String> = words.split(' ').map(str::to_owned).collect();
            line.extend(value);
            lines.push(line.clone());
            for (_, long, value) in help.options() {
                if !value.is_empty() {
                    lines.push([&line[..], &[long.to_owned(), bad.clone()]].concat());
                } else if long == "--json" {
                    lines.push([&line[..], &[long.to_owned()]].concat());
                }
            }
        }
    }
    lines
}

/// What is harmful in a text for a terminal; the end of a line is told by the terminal in two.
#[track_caller]
fn assert_calm(what: &str, bytes: &[u8]) {
    let text = std::str::from_utf8(bytes).unwrap_or_else(|error| panic!("{what}: {error}"));
    let text = text.replace("\r\n", "\n");
    let bidi = |c| matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let harmful = |c: char| c.is_control() && c != '\n' && c != '\t' || bidi(c);
    if let Some(at) = text.find(harmful) {
        let from = text[..at].char_indices().rev().nth(60);
        let around = text[from.map_or(0, |(at, _)| at)..].chars().take(100);
        panic!("{what}: {:?}", around.collect::<String>());
    }
}

#[test]
fn no_byte_that_others_write_reaches_a_reader_through_any_command() {
    let (space, project) = contaminated();
    let lines = command_lines(&space);
    let mut shown = 0;
    for running in [false, true] {
        if running {
            space.start();
        }
        for line in &lines {
            let args: Vec<&str> = line.iter().map(String::as_str).collect();
            let what = format!("{:?}, running: {running}", &args[..args.len().min(2)]);
            let mut command = space.command(&args);
            command.stdin(Stdio::null());
            let output = command.output().unwrap();
            assert_calm(&what, &output.stdout);
            assert_calm(&what, &output.stderr);
            assert!(output.status.code().is_some(), "{what}: {output:?}");
            let told = [output.stdout, output.stderr].concat();
            shown += usize::from(String::from_utf8_lossy(&told).contains("words"));
        }
    }
    // They were asked about what they must not repeat.
    assert!(shown >= 60, "only {shown} answers had any of it");
    space.stop();
    assert_calm("the daemon's log", space.log().as_bytes());
    assert_calm("the project's log", project.journal().as_bytes());
}

#[test]
fn no_byte_that_others_write_reaches_a_terminal_through_any_command() {
    let (space, _) = contaminated();
    let can = Command::new("script")
        .args(["-qec", "true", "/dev/null"])
        .output();
    if !can.as_ref().is_ok_and(|output| output.status.success()) {
        return lacks("shells", &format!("script makes no terminal here: {can:?}"));
    }
    let quoted = |word: &String| format!("'{}'", word.replace('\'', "'\\''"));
    let mut lines = command_lines(&space);
    // Elsewhere these are the very bytes that the agent wrote, and meant to be.
    lines.extend([ID, NEXT, LAST].map(|id| ["logs", "--raw", id].map(str::to_owned).to_vec()));
    for line in lines {
        let what = format!("{:?}", &line[..line.len().min(2)]);
        let words: Vec<String> = line.iter().map(quoted).collect();
        let mut command = space.command_of("script");
        let line = format!("{} {} < /dev/null", job_monitor(), words.join(" "));
        command.args(["-qec", &line, "/dev/null"]);
        // Otherwise there are sequences of our own.
        command.env("TERM", "dumb").env("NO_COLOR", "1");
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = spawn(&mut command).wait_with_output().unwrap();
        assert_calm(&what, &output.stdout);
    }
}
