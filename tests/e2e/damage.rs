//! Damaged files: whatever becomes of a file of ours, it is told of, never trusted, and
//! never the reason why a job runs a second time. Nothing of it reaches another project.

use crate::machine::peak_of;
use crate::recovery::{claim, lay_claim};
use crate::space::{MustHave, Project, Ran, Space, spawn, wait_for, wait_until};
use crate::stage::*;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::json;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

const DONE: &str = "job-20260101-110000-done";
const BEGUN: &str = "job-20260101-120000-begun";
const HELD: &str = "job-20260101-130000-held";
const CANCELLED: &str = "job-20260101-140000-cancelled";
const LAST: &str = "job-20260101-150000-last";

/// What is done to a file.
type Harm = fn(&Path);

/// What can become of a file. What a link points to lies outside of the spool.
const DAMAGES: [(&str, Harm); 10] = [
    ("cut", |path| {
        let text = fs::read(path).unwrap();
        fs::write(path, &text[..text.len() / 2]).unwrap();
    }),
    ("empty", |path| fs::write(path, "").unwrap()),
    ("random", |path| {
        let noise = |n: u32| (n.wrapping_mul(2_654_435_761) >> 13) as u8;
        fs::write(path, (0..5000).map(noise).collect::<Vec<u8>>()).unwrap();
    }),
    ("zeros", |path| fs::write(path, [0; 5000]).unwrap()),
    ("of another shape", |path| {
        fs::write(path, r#"[{"projects": 7, "job_id": ["x"], "list": {}}]"#).unwrap();
    }),
    ("of a gibibyte", |path| {
        let file = File::options().append(true).open(path).unwrap();
        file.set_len(1 << 30).unwrap();
    }),
    ("a directory", |path| {
        fs::remove_file(path).unwrap();
        fs::create_dir(path).unwrap();
        fs::write(path.join("inside"), "").unwrap();
    }),
    ("a link", |path| {
        let outside = path.ancestors().find(|dir| dir.ends_with("alpha"));
        let outside = outside.map_or(path.with_extension("moved"), |dir| dir.join("outside"));
        fs::rename(path, &outside).unwrap();
        symlink(&outside, path).unwrap();
    }),
    ("a pipe", |path| {
        fs::remove_file(path).unwrap();
        mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    }),
    ("gone", |path| fs::remove_file(path).unwrap()),
];

/// The files of a project, each damaged in a project of its own. The log of the project is where
/// faults are told, and has a test of its own.
const FILES: [(&str, &str); 9] = [
    ("result", "results/job-20260101-110000-done.json"),
    ("claim", "state/job-20260101-120000-begun.claim"),
    ("hold", "state/job-20260101-130000-held.hold"),
    ("cancel", "state/job-20260101-140000-cancelled.cancel"),
    ("view", "state/queue_state.json"),
    ("lock", "state/.lock"),
    ("text", "logs/job-20260101-120000-begun.md"),
    ("output", "logs/job-20260101-120000-begun.out"),
    ("error", "logs/job-20260101-120000-begun.err"),
];

/// Runs a command that must come to an end by itself.
#[track_caller]
fn run(space: &Space, args: &[&str]) -> Ran {
    let out = |kind: &str| space.root().join(format!("answer.{kind}"));
    let mut command = space.command(args);
    command.stdin(Stdio::null());
    command.stdout(File::create(out("out")).unwrap());
    command.stderr(File::create(out("err")).unwrap());
    let mut child = spawn(&mut command);
    let status = wait_for(&format!("the end of {args:?}"), || {
        child.try_wait().unwrap()
    });
    Ran::of(std::process::Output {
        status,
        stdout: fs::read(out("out")).unwrap(),
        stderr: fs::read(out("err")).unwrap(),
    })
}

/// A project as a killed daemon leaves it, with a job in each state there is.
fn lay_out(space: &Space, name: &str) -> Project {
    let project = space.project(name);
    project.submit_all(&[DONE, BEGUN, HELD, CANCELLED]);
    let result = json!({"job_id": DONE, "status": "completed", "error": null});
    project.put_result(DONE, &result);
    lay_claim(&project, BEGUN, &claim(BEGUN, json!({})));
    for (ending, text) in [("md", "x"), ("out", "words\n"), ("err", "more\n")] {
        fs::write(project.logs(&format!("{BEGUN}.{ending}")), text).unwrap();
    }
    project.mark(HELD, "hold");
    project.mark(CANCELLED, "cancel");
    let view = json!({"project": name, "queue_size": 0, "queued_tasks": []});
    fs::write(project.state("queue_state.json"), view.to_string()).unwrap();
    fs::write(project.state(".lock"), "").unwrap();
    project
}

/// What holds for the project whose `file` has the damage.
fn assert_unharmed(space: &Space, project: &Project, file: &str, damage: &str) {
    let what = format!("{file}, {damage}");
    let is_gone = damage == "gone";
    if file == "lock" && matches!(damage, "a directory" | "a link" | "a pipe") {
        let sentence = "[lock] the project is unavailable: ";
        space.wait_log(sentence);
        line_with(&space.log(), sentence).must_have("state/.lock");
        assert_eq!(project.made("ran"), "", "{what}");
        return;
    }
    project.run(LAST, "x");
    if file == "view" && damage == "a directory" {
        space.wait_log("jobs/state/queue_state.json: is a directory");
    } else {
        project.wait_view("nothing runs", |view| view["is_processing"] == false);
    }
    let ran = project.made("ran");
    let runs = |id: &str| times(&ran, &format!("{id}\n"));
    assert_eq!(runs(LAST), 1, "{what}: {ran}");
    // A result that was removed makes its job one that waits, and so do the marks: these are the
    // truth, and there is nothing else to know it from.
    for (id, truth) in [(DONE, "result"), (HELD, "hold"), (CANCELLED, "cancel")] {
        let is_to_run = file == truth && is_gone;
        assert_eq!(runs(id), usize::from(is_to_run), "{what}: {ran}");
        if id == CANCELLED && !is_to_run {
            let status = &project.wait_result(CANCELLED)["status"];
            assert_eq!(status, "cancelled", "{what}");
        }
    }
    let begun = project.state(&format!("{BEGUN}.claim"));
    // Of a log that cannot be read nobody knows whether it holds a result.
    let is_unread = matches!(file, "output" | "error") && damage == "a link";
    if file == "claim" && !is_gone || is_unread {
        assert_eq!(runs(BEGUN), 0, "{what}: {ran}");
        let lies_there = fs::symlink_metadata(&begun).is_ok();
        let cannot_go = file == "claim" && damage == "a directory";
        assert_eq!(lies_there, cannot_go, "{what}");
        let result = project.wait_result(BEGUN);
        assert_eq!(result["error_kind"], "interrupted", "{what}: {result}");
        let error = result["error"].as_str().unwrap();
        assert!(error.contains("nobody knows whether"), "{what}: {error}");
    } else {
        assert_eq!(runs(BEGUN), 1, "{what}: {ran}");
        // Without claim or output there is no sign of the start that was interrupted.
        let is_unknown = is_gone && matches!(file, "claim" | "output");
        let attempts = project.wait_result(BEGUN)["attempts"].clone();
        let count = attempts.as_array().unwrap().len();
        assert_eq!(count, 2 - usize::from(is_unknown), "{what}: {attempts}");
    }
    if file == "result" && !is_gone {
        let shown = run(space, &["-p", file, DONE]);
        let told = format!("{}{}", shown.stdout, shown.stderr);
        let is_known = told.contains(DONE) && shown.status != 3;
        assert!(is_known, "{what}: {shown:?}");
        let path = project.results(&format!("{DONE}.json"));
        let is_told = told.contains(path.to_str().unwrap());
        // What still is JSON may be a result of the predecessor's, or of a later version.
        assert!(is_told || damage == "of another shape", "{what}: {told}");
    }
    let is_long = matches!(file, "output" | "error") && damage == "of a gibibyte";
    for args in [
        &["queue"][..],
        &["status", "--all"],
        &[BEGUN],
        &["logs", BEGUN],
        &["stats"],
    ] {
        if args[0] == "logs" && is_long {
            // It would be shown, all of it.
            continue;
        }
        let ran = run(space, &[&["-p", file], args].concat());
        assert!(matches!(ran.status, 0 | 1), "{what}, {args:?}: {ran:?}");
        let is_mute = ran.stdout.is_empty() && ran.stderr.is_empty();
        assert!(!is_mute, "{what}, {args:?}");
    }
}

#[test]
fn no_damage_to_a_project_s_file_makes_a_job_run_twice_or_stops_others() {
    std::thread::scope(|scope| {
        for (damage, harm) in DAMAGES {
            let thread = std::thread::Builder::new().name(damage.to_owned());
            let test = move || {
                let space = with_agent(NOTES);
                space.set(json!({"on_interrupt": "rerun"}));
                let projects = FILES.map(|(name, path)| {
                    let project = lay_out(&space, name);
                    let path = project.path.join("jobs").join(path);
                    if matches!(name, "hold" | "cancel") && damage == "cut" {
                        fs::write(&path, "some text").unwrap();
                    }
                    harm(&path);
                    (name, project)
                });
                space.start();
                for (name, project) in &projects {
                    assert_unharmed(&space, project, name, damage);
                }
                let peak = peak_of(space.pid());
                assert!(peak < 32 << 10, "{damage}: the daemon grew to {peak} KiB");
                assert_eq!(space.stop(), 0);
            };
            thread.spawn_scoped(scope, test).unwrap();
        }
    });
}

// --- what all projects share ---

/// Waits until the daemon's log tells of a file, or the daemon has ended with a word on it.
#[track_caller]
fn assert_told(space: &Space, path: &Path, what: &str) {
    let is_told = |line: &str| {
        let is_trouble = line.contains(" ERROR ") || line.contains(" WARN ");
        (is_trouble || line.starts_with("job-monitor: ")) && line.contains(path.to_str().unwrap())
    };
    wait_until(&format!("a word on {what}"), || {
        space.log().lines().any(is_told)
    });
}

#[test]
fn a_damaged_file_of_the_monitor_s_own_is_told_of_and_served_again_once_it_is_mended() {
    let files = "registered.json config.json .env state/holds.json state/daemon.lock";
    std::thread::scope(|scope| {
        for file in files.split(' ') {
            let thread = std::thread::Builder::new().name(file.to_owned());
            let test = move || {
                for (damage, harm) in DAMAGES {
                    assert_mended(file, damage, harm);
                }
            };
            thread.spawn_scoped(scope, test).unwrap();
        }
    });
}

fn assert_mended(file: &str, damage: &str, harm: Harm) {
    let what = format!("{file}, {damage}");
    let space = with_agent(NOTES);
    space.credentials("NAME='some value'\n", 0o600);
    let alpha = space.project("alpha");
    fs::create_dir(space.state()).unwrap();
    let ledger = json!({"day": "2026-01-01", "projects": {"alpha": 0.5}});
    let holds = json!({"list": [], "blind": {"agent": 1}, "ledger": ledger});
    fs::write(space.state().join("holds.json"), holds.to_string()).unwrap();
    fs::write(space.state().join("daemon.lock"), "1\n").unwrap();
    alpha.submit(DONE, "x");
    alpha.put_result(DONE, &json!({"job_id": DONE, "status": "completed"}));
    alpha.submit(LAST, "x");
    let path = space.config().join(file);
    let good = fs::read(&path).unwrap();
    harm(&path);
    // What the person keeps elsewhere is followed there; what only we write is never a link. That
    // a file is not there is no damage, and of the lock only the lock itself counts.
    let is_ours = file.starts_with("state/");
    let is_whole = match damage {
        "gone" => true,
        "a link" => !is_ours,
        "a directory" | "a pipe" => false,
        "empty" | "of a gibibyte" if file == ".env" => damage == "empty",
        _ => file == "state/daemon.lock",
    };
    space.spawn(|_| {});
    for args in [&["list"][..], &["queue"], &["status"], &["stats"]] {
        let ran = run(&space, args);
        assert!(matches!(ran.status, 0 | 1), "{what}, {args:?}: {ran:?}");
    }
    if !is_whole {
        assert_told(&space, &path, &what);
    }
    if space.ended().is_some() {
        assert_eq!(file, "state/daemon.lock", "{what}: the daemon ended");
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        space.start();
    }
    let is_in_the_way = !is_ours && !is_whole || file == "registered.json" && damage == "gone";
    if is_in_the_way {
        assert_eq!(alpha.made("ran"), "", "{what}: it was trusted");
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
        let temporary = path.with_extension("new");
        fs::write(&temporary, &good).unwrap();
        chmod(&temporary, 0o600);
        fs::rename(&temporary, &path).unwrap();
    }
    if file == "config.json" && damage == "gone" {
        // There is no agent of that name then, and the built-in one is not installed here.
        space.set(json!({}));
    }
    let result = alpha.wait_result(LAST);
    assert_eq!(result["status"], "completed", "{what}: {result}");
    assert_eq!(alpha.made("ran"), format!("{LAST}\n"), "{what}");
    let peak = peak_of(space.pid());
    assert!(peak < 64 << 10, "{what}: the daemon grew to {peak} KiB");
    assert_eq!(space.stop(), 0, "{what}");
}
