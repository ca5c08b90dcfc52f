//! Steering by the command line: which project and which job is meant, what is refused before
//! anything changes, and what is said of what will happen.

use crate::space::{Project, Ran, Space, effects_in, job_monitor, lacks, spawn, wait_until};
use job_monitor::time::Wall;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

const OLD: &str = "job-20260101-110000-rotate-keys";
const NEW: &str = "job-20260101-120000-fix-login";

fn in_dir(space: &Space, dir: &Path, args: &[&str]) -> Ran {
    let dir = dir.to_owned();
    space.run_as(
        |command| {
            command.current_dir(dir);
        },
        args,
    )
}

/// A result as a finished job leaves it.
fn finish(project: &Project, id: &str, status: &str, keys: Value) {
    let mut document =
        json!({"job_id": id, "status": status, "completed_at": "2026-01-01T12:00:00Z"});
    document
        .as_object_mut()
        .unwrap()
        .extend(keys.as_object().unwrap().clone());
    fs::write(project.results(&format!("{id}.json")), document.to_string()).unwrap();
    fs::write(project.logs(&format!("{id}.md")), "Do it.\n").unwrap();
}

fn documents(project: &Project) -> Vec<String> {
    let items = project.item("");
    let names = fs::read_dir(items)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| !name.starts_with('.')).collect();
    names.sort();
    names
}

#[test]
fn a_path_is_resolved_before_it_chooses_a_project() {
    let space = Space::new();
    let (api, web) = (space.project("a-longer-one"), space.project("web"));
    api.submit(OLD, "x");
    web.submit(NEW, "x");
    for path in ["../web", "../a-longer-one/../web/jobs", "./../web"] {
        let ran = in_dir(&space, &api.path, &["-p", path, "hold", "--all"]);
        assert!(
            ran.stdout.contains(NEW) && !ran.stdout.contains(OLD),
            "{path}: {ran:?}"
        );
    }
    // disable, unregister and enable take the same names, also without -p.
    for args in [
        &["disable", "../web"][..],
        &["disable", "."],
        &["-p", "web", "disable"],
        &["pause", "--all"],
    ] {
        let dir = if args[1] == "." { &web.path } else { &api.path };
        let ran = in_dir(&space, dir, args);
        assert!(ran.stdout.contains("\"web\""), "{args:?}: {ran:?}");
        space.run(&["resume", "--all"]).ok();
    }
    for at in [space.root(), &api.path] {
        let ran = in_dir(&space, at, &["-p", "../nowhere", "hold", "--all"]);
        assert_eq!(ran.status, 3, "{ran:?}");
    }
    // A registry may name a project by a link to it.
    let link = space.root().join("link");
    std::os::unix::fs::symlink(&web.path, &link).unwrap();
    space.edit_registry(|projects| projects["web"]["path"] = json!(link));
    let ran = in_dir(&space, &web.path, &["hold", "--all"]);
    assert!(ran.stdout.contains(NEW), "{ran:?}");
}

#[test]
fn a_job_is_found_by_a_part_of_its_id_in_every_project() {
    let space = Space::new();
    let (api, web) = (space.project("api"), space.project("web"));
    finish(&api, OLD, "completed", json!({}));
    web.submit(NEW, "x");
    for (args, id) in [
        (&["show", "rotate"][..], OLD),
        (&["show", OLD], OLD),
        (&["show", "job-20260101-110000-rot"], OLD),
        (&["20260101-12"], NEW),
        (&["hold", "login"], NEW),
        (&["retry", "keys"], "-rotate-keys"),
        (&["-p", "api", "show", "20260101-11"], OLD),
    ] {
        let ran = in_dir(&space, &web.path, args);
        assert!(
            ran.status == 0 && ran.stdout.contains(id),
            "{args:?}: {ran:?}"
        );
    }
    let ran = space.run(&["logs", "2026"]);
    assert!(
        ran.status == 2 && ran.stderr.contains("jobs have \"2026\" in their id"),
        "{ran:?}"
    );
    for (args, status) in [
        (&["show", "-p", "web", "rotate"][..], 3),
        (&["hold", "nonsense"], 3),
        (&["hold", "../x"], 2),
    ] {
        assert_eq!(space.run(args).status, status, "{args:?}");
    }
    // Where they are taken, they are offered.
    let offered = in_dir(&space, &web.path, &["complete", "show", ""]).ok();
    assert!(offered.contains(NEW) && offered.contains(OLD), "{offered}");
    // Without an id the newest finished one is meant, where none runs.
    assert!(in_dir(&space, &api.path, &["show"]).ok().contains(OLD));
}

#[test]
fn release_all_lifts_every_hold_wherever_the_person_stands() {
    let space = Space::new();
    let (api, web) = (space.project("api"), space.project("web"));
    for (project, id) in [(&api, OLD), (&web, NEW)] {
        project.submit(id, "x");
        space.run(&["hold", id]).ok();
    }
    let told = space.run(&["release", "--all"]).ok();
    assert_eq!(told.matches("Released ").count(), 2, "{told}");
    assert!(!api.state(&format!("{OLD}.hold")).exists());
    // What was not held is not said to be lifted.
    assert!(told.starts_with("Lifted 0 holds "), "{told}");
    let hold = json!({"agent": "claude", "kind": "usage_limit", "reason": "limit reached",
        "since": "2026-01-01T12:00:00Z", "until": "2099-01-01T12:00:00Z", "probe_at": null});
    fs::create_dir_all(space.state()).unwrap();
    let holds = json!({"list": [hold], "blind": {}}).to_string();
    fs::write(space.state().join("holds.json"), holds).unwrap();
    let told = space.run(&["release", "--all"]).ok();
    assert!(
        told.starts_with("Lifted 1 hold ") && !told.contains("Released"),
        "{told}"
    );
    // What ends or holds jobs needs to be told where.
    let ran = space.run(&["cancel", "--all"]);
    assert!(
        ran.status == 2 && ran.stderr.contains("which project?"),
        "{ran:?}"
    );
    assert_eq!(space.run(&["cancel", "--all", "-a"]).status, 0);
}

#[test]
fn what_will_happen_is_said_where_nothing_happens_now() {
    let space = Space::new();
    let off = space.project_with("off", json!({"enabled": false}));
    space.start();
    off.submit(OLD, "x");
    let until = "its jobs wait until job-monitor enable off";
    for (args, said) in [
        (&["hold", OLD][..], "Held"),
        (&["release", OLD], until),
        (&["submit", "-"], until),
        (&["cancel", OLD], until),
    ] {
        let text = space.root().join("text");
        fs::write(&text, "Do it.\n").unwrap();
        let ran = space.run_as(
            |command| {
                command.stdin(fs::File::open(text).unwrap());
            },
            args,
        );
        let told = format!("{}{}", ran.stdout, ran.stderr);
        assert!(ran.status == 0 && told.contains(said), "{args:?}: {told}");
    }
}

#[test]
fn inside_of_a_job_nothing_is_submitted_that_would_be_waited_for() {
    let space = Space::new();
    let project = space.project("alpha");
    fs::write(space.root().join("text"), "Do it.\n").unwrap();
    let text = space.root().join("text").to_str().unwrap().to_owned();
    for option in ["--wait", "--follow"] {
        let inside = |command: &mut Command| {
            command
                .env("JOB_MONITOR_PROJECT", "alpha")
                .env("JOB_MONITOR_JOB_ID", OLD);
        };
        let ran = space.run_as(inside, &["submit", option, &text]);
        assert!(
            ran.status == 1 && ran.stderr.contains("wait for ever"),
            "{ran:?}"
        );
        assert_eq!(documents(&project), [""; 0]);
    }
}

#[test]
fn several_texts_are_submitted_with_their_wishes_or_none_of_them_is() {
    let space = Space::new();
    let project = space.project("alpha");
    let file = |name: &str, text: &str| {
        fs::write(space.root().join(name), text).unwrap();
        space.root().join(name).to_str().unwrap().to_owned()
    };
    let (plain, front) = (
        file("a.md", "# Fix it\n"),
        file("b.md", "---\nmax-turns: 5\n---\nDo it.\n"),
    );
    let bad = file("c.md", "---\ntimeout: soon\n---\nDo it.\n");
    assert_eq!(space.run(&["submit", &plain, &bad]).status, 1);
    assert_eq!(documents(&project), [""; 0]);
    let mut told = String::new();
    let places = [project.item(""), project.state("")];
    let effects = effects_in(&places, || {
        let args = ["submit", &plain, &front, "--model", "opus"];
        let args = [&args[..], &["--timeout", "30m", "--hold"]].concat();
        told = space.run(&args).ok();
    });
    let ids: Vec<&str> = told.lines().collect();
    assert!(ids[0] < ids[1], "they run in the order given: {ids:?}");
    let text = |id: &str| fs::read_to_string(project.item(&format!("{id}.md"))).unwrap();
    assert_eq!(
        text(ids[0]),
        "---\nmodel: opus\ntimeout: 1800000ms\n---\n# Fix it\n"
    );
    assert_eq!(
        text(ids[1]),
        "---\nmodel: opus\ntimeout: 1800000ms\nmax-turns: 5\n---\nDo it.\n"
    );
    for id in ids {
        assert!(project.state(&format!("{id}.hold")).exists(), "{id}");
        // The mark comes first, or the job could start in between.
        let came = |name: String| effects.iter().position(|one| *one == name);
        let (held, queued) = (came(format!("+{id}.hold")), came(format!("+{id}.md")));
        assert!(held.is_some() && held < queued, "{effects:?}");
    }
    let taken = file("d.md", "---\nmodel: opus\n---\nDo it.\n");
    for (args, said) in [
        (["submit", &taken, "--model", "x"], "stands there twice"),
        (["submit", &plain, "--agent", "nobody"], "nobody"),
    ] {
        let ran = space.run(&args);
        assert!(
            ran.status != 0 && ran.stderr.contains(said),
            "{args:?}: {ran:?}"
        );
    }
}

#[test]
fn a_reply_goes_on_in_a_session_and_is_refused_where_there_is_none() {
    let space = Space::new();
    let project = space.project("alpha");
    let session = json!({"agent": "claude", "session_id": "11111111-2222-4333-8444-555555555555"});
    finish(&project, OLD, "completed", session);
    finish(
        &project,
        NEW,
        "completed",
        json!({"agent": "claude", "session_id": null}),
    );
    fs::write(space.root().join("text"), "Also the docs.\n").unwrap();
    let text = space.root().join("text").to_str().unwrap().to_owned();
    let id = space.run(&["reply", "rotate", &text]).ok();
    let document = fs::read_to_string(project.item(&format!("{}.md", id.trim()))).unwrap();
    assert_eq!(
        document,
        format!("---\ncontinues: {OLD}\n---\nAlso the docs.\n")
    );
    for args in [&["reply", NEW, &text][..], &["open", NEW]] {
        let ran = space.run(args);
        assert!(
            ran.status == 1 && ran.stderr.contains("has no session"),
            "{ran:?}"
        );
    }
    let ran = space.run(&["reply", id.trim(), &text]);
    assert!(ran.stderr.contains("is not finished"), "{ran:?}");
    space.claude("pwd; echo \"$@\"");
    // A job whose agent was interrupted has a session, too.
    let waits = "job-20260101-130000-waits";
    project.submit(waits, "x");
    let refused = space.run(&["open", waits]);
    assert!(refused.stderr.contains("has no session"), "{refused:?}");
    let claim = crate::recovery::claim(
        waits,
        json!({"agent": "claude", "session_id": "of-the-claim"}),
    );
    fs::write(project.state(&format!("{waits}.claim")), claim).unwrap();
    let opened = space.run(&["open", waits]).ok();
    assert!(opened.contains("--resume of-the-claim"), "{opened}");
    let opened = space.run(&["open", "rotate"]).ok();
    let expected = format!(
        "{}\n--resume 11111111-2222-4333-8444-555555555555\n",
        project.path.display()
    );
    assert_eq!(opened, expected);
    for (agent, option) in [("codex", "resume"), ("gemini", "--resume")] {
        space.program(agent, "echo \"$@\"");
        finish(
            &project,
            NEW,
            "completed",
            json!({"agent": agent, "session_id": "of-the-result"}),
        );
        assert_eq!(
            space.run(&["open", NEW]).ok(),
            format!("{option} of-the-result\n")
        );
    }
}

#[test]
fn failed_jobs_are_handed_in_again_once() {
    let space = Space::new();
    let project = space.project("alpha");
    finish(&project, OLD, "failed", json!({}));
    finish(&project, NEW, "completed", json!({}));
    // The results say that they ended in January.
    assert_eq!(space.run(&["retry", "--failed"]).ok(), "No job to retry\n");
    let again = ["retry", "--failed", "--since", "2026-01-01"];
    let told = space.run(&again).ok();
    assert!(
        told.lines().count() == 1 && told.trim().ends_with("-rotate-keys"),
        "{told}"
    );
    assert_eq!(space.run(&again).ok(), "No job to retry\n");
}

#[test]
fn clean_removes_what_old_jobs_left_and_nothing_else() {
    let space = Space::new();
    let project = space.project("alpha");
    finish(&project, OLD, "completed", json!({}));
    let longer = format!("{OLD}-b");
    finish(&project, &longer, "completed", json!({}));
    project.submit(NEW, "x");
    project.submit(OLD, "Do it.\n");
    for name in ["jsonl", "2.err", "check", "patch"] {
        fs::write(project.logs(&format!("{OLD}.{name}")), "x").unwrap();
    }
    let now = std::time::SystemTime::now() - std::time::Duration::from_secs(3 * 86_400);
    let result = fs::File::options()
        .write(true)
        .open(project.results(&format!("{OLD}.json")));
    result.unwrap().set_modified(now).unwrap();
    let dry = space
        .run(&["clean", "--older-than", "2d", "--dry-run"])
        .ok();
    assert!(
        dry.starts_with("Would remove 1 job of alpha: 7 files"),
        "{dry}"
    );
    assert!(project.result(OLD).is_some());
    let mut told = String::new();
    let places = [project.item(""), project.results("")];
    let effects = effects_in(&places, || {
        told = space.run(&["clean", "--older-than", "2d"]).ok();
    });
    // The result goes last: a job whose document is there without it could run again.
    assert_eq!(effects, [format!("-{OLD}.md"), format!("-{OLD}.json")]);
    assert!(
        told.starts_with("Removed 1 job of alpha: 7 files"),
        "{told}"
    );
    assert_eq!(documents(&project), [format!("{NEW}.md")]);
    assert!(project.result(&longer).is_some() && project.logs(&format!("{longer}.md")).exists());
    assert!(!project.logs(&format!("{OLD}.patch")).exists());
}

#[test]
fn a_document_of_the_future_does_not_take_new_ones_along() {
    let space = Space::new();
    let project = space.project("alpha");
    let ahead = Wall::now().plus(Duration::from_secs(2 * 3600)).stamp();
    project.submit(&format!("job-{ahead}-mistake"), "x");
    let text = space.root().join("text.md");
    fs::write(&text, "x").unwrap();
    let id = space.run(&["submit", text.to_str().unwrap()]).ok();
    assert!(id < format!("job-{ahead}"), "{id}");
}

#[test]
fn what_lies_there_already_is_held_before_its_project_is_registered() {
    let space = Space::new();
    let project = Project::at(&space.root().join("fresh"));
    project.create_dirs();
    project.submit(OLD, "x");
    let effects = effects_in(&[project.state(""), space.config()], || {
        let path = project.path.to_str().unwrap();
        space.run(&["register", path]).ok();
    });
    let came = |name: &str| effects.iter().position(|one| *one == format!("+{name}"));
    let (held, registered) = (came(&format!("{OLD}.hold")), came("registered.json"));
    assert!(held.is_some() && held < registered, "{effects:?}");
}

#[test]
fn register_keeps_git_away_warns_of_a_tree_that_is_shared_and_refuses_a_spool() {
    let space = Space::new();
    let alpha = space.project("alpha");
    fs::create_dir_all(alpha.path.join("inner")).unwrap();
    let path = |part: &str| alpha.path.join(part).to_str().unwrap().to_owned();
    let told = space.run(&["register", &path("inner")]).ok();
    assert!(told.contains("Warning: it overlaps \"alpha\""), "{told}");
    assert_eq!(
        fs::read_to_string(path("inner/jobs/.gitignore")).unwrap(),
        "*\n"
    );
    for spool in ["jobs", "jobs/items"] {
        let ran = space.run(&["register", &path(spool)]);
        assert!(
            ran.status == 1 && ran.stderr.contains("the spool of project \"alpha\""),
            "{ran:?}"
        );
    }
}

#[test]
fn a_skill_that_is_missing_is_written_and_a_person_s_own_is_kept() {
    let space = Space::new();
    let alpha = space.project("alpha");
    let skill = |name: &str| {
        alpha
            .path
            .join(".claude/skills")
            .join(name)
            .join("SKILL.md")
    };
    fs::create_dir_all(skill("job-document-writer").parent().unwrap()).unwrap();
    fs::write(skill("job-document-writer"), "mine").unwrap();
    let told = space
        .run(&["register", "--skills", alpha.path.to_str().unwrap()])
        .ok();
    assert!(
        told.contains("Wrote") && told.contains("Kept your"),
        "{told}"
    );
    assert!(
        fs::read_to_string(skill("task-coordination"))
            .unwrap()
            .len()
            > 100
    );
    assert_eq!(
        fs::read_to_string(skill("job-document-writer")).unwrap(),
        "mine"
    );
}

#[test]
fn skills_are_written_where_every_agent_looks_for_them() {
    let space = Space::new();
    let project = space.project("alpha");
    let path = project.path.to_str().unwrap();
    space.run(&["register", "--skills", path]).ok();
    for dir in [".claude/skills", ".agents/skills"] {
        for name in ["task-coordination", "job-document-writer"] {
            let file = project.path.join(dir).join(name).join("SKILL.md");
            assert!(file.exists(), "{}", file.display());
        }
    }
}

#[test]
fn no_byte_that_is_a_command_in_another_encoding_is_printed() {
    let space = Space::new();
    let project = space.project("\u{db}mlaut");
    let words = "\u{db}31m gr\u{fc}n \u{2026}";
    finish(
        &project,
        OLD,
        "failed",
        json!({"error": words, "worker_output": {"summary": words}}),
    );
    project.submit(NEW, words);
    space.env("LC_ALL", "C");
    for args in [
        &["show", OLD][..],
        &["status"],
        &["queue"],
        &["list"],
        &["show", OLD, "--json"],
        &["-p", "\u{db}x", "queue"],
    ] {
        let mut command = space.command(args);
        let output = command.stdin(Stdio::null()).output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        assert!(
            told.is_ascii(),
            "{args:?}: {}",
            String::from_utf8_lossy(&told)
        );
    }
    let told = space.run(&["show", OLD, "--json"]).json();
    assert_eq!(told["result"]["error"], words);
}

/// Runs a command on a terminal that `script` plays, with an editor that is a shell script.
fn with_editor(space: &Space, editor: &str, args: &[&str]) -> Option<String> {
    let editor = space.program("editor", editor);
    let mut command = Command::new("script");
    command.args([
        "-qec",
        &format!("{} {}", job_monitor(), args.join(" ")),
        "/dev/null",
    ]);
    let own = space.command(&[]);
    command.env_clear().envs(
        own.get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    command
        .env("EDITOR", editor)
        .env("TERM", "dumb")
        .current_dir(space.home());
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let is_there = Command::new("script").arg("--version").output().is_ok();
    if !is_there {
        lacks("shells", "script makes no terminal here");
        return None;
    }
    let output = spawn(&mut command).wait_with_output().unwrap();
    Some(String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n"))
}

#[test]
fn two_projects_may_have_jobs_of_one_id() {
    let space = Space::new();
    space.plain_agent("cat; until [ -e go ]; do sleep 0.02; done");
    let projects = ["alpha", "beta"].map(|name| space.project(name));
    for project in &projects {
        project.submit(NEW, project.name.as_str());
    }
    let held = space.run(&["-a", "hold", "--all"]).ok();
    assert_eq!(held.matches("Held ").count(), 2, "{held}");
    space.start();
    space.run(&["-a", "release", "--all"]).ok();
    wait_until("two that run", || {
        space.run(&["queue"]).ok().matches("Running for").count() == 2
    });
    // Whose it is must be said of a job that is named, not of one that is found.
    assert_eq!(space.run(&["logs", NEW]).status, 2);
    assert!(space.run(&["logs"]).ok().contains("s: "));
    for project in &projects {
        fs::write(project.path.join("go"), "").unwrap();
    }
    let done = space.run(&["-a", "wait", "--all", "--timeout", "60s"]).ok();
    for project in &projects {
        assert_eq!(project.wait_result(NEW)["status"], "completed", "{done}");
    }
}

#[test]
fn what_was_typed_in_the_editor_is_never_lost() {
    let space = Space::new();
    let project = space.project("alpha");
    let write = |text: &str| {
        format!("printf '%b' '{text}' > \"$1.new\"; cat \"$1\" >> \"$1.new\"; mv \"$1.new\" \"$1\"")
    };
    let good = with_editor(&space, &write("# Do it well\\n"), &["submit"]);
    let Some(good) = good else { return };
    let id = good
        .lines()
        .find(|line| line.starts_with("job-2"))
        .unwrap_or_else(|| panic!("{good}"));
    let text = fs::read_to_string(project.item(&format!("{id}.md"))).unwrap();
    assert_eq!(text.trim_end(), "# Do it well");
    let left = || fs::read_dir(space.root().join("tmp")).unwrap().count();
    assert_eq!(left(), 0);
    for (kept, (editor, args)) in [
        (write("precious\\n") + "; exit 1", &["submit"][..]),
        (
            write("---\\ntimeout: soon\\n---\\nprecious\\n"),
            &["submit"],
        ),
        (write("precious\\n"), &["submit", "--agent", "nobody"]),
    ]
    .into_iter()
    .enumerate()
    {
        let told = with_editor(&space, &editor, args).unwrap();
        let path = told
            .split("what you wrote is kept in ")
            .nth(1)
            .unwrap_or_else(|| panic!("{told}"));
        let text = fs::read_to_string(path.trim()).unwrap_or_else(|e| panic!("{e}: {told}"));
        assert!(text.contains("precious"), "{text}");
        assert_eq!(left(), kept + 1);
    }
    // Nothing written, nothing submitted, nothing left.
    let told = with_editor(&space, "exit 0", &["submit"]).unwrap();
    assert!(told.contains("nothing was written"), "{told}");
    assert_eq!(documents(&project).len(), 1);
    assert_eq!(left(), 3);
}
