//! Steering by the command line: which project and which job is meant, what is refused before
//! anything changes, and what is said of what will happen.

use crate::recovery::{claim, lay_claim};
use crate::space::{
    MustHave, Project, Space, effects_in, job_monitor, lacks, make_old, spawn, wait_until, with,
};

use job_monitor::time::Wall;
use serde_json::{Value, json};
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

const OLD: &str = "job-20260101-110000-rotate-keys";
const NEW: &str = "job-20260101-120000-fix-login";

/// A result as a finished job leaves it.
fn finish(project: &Project, id: &str, status: &str, keys: Value) {
    let document = json!({"job_id": id, "status": status, "completed_at": "2026-01-01T12:00:00Z"});
    project.put_result(id, &with(document, keys));
    fs::write(project.logs(&format!("{id}.md")), "Do it.\n").unwrap();
}

fn documents(project: &Project) -> Vec<String> {
    let mut names = project.names(&project.item(""));
    names.retain(|name| !name.starts_with('.'));
    names
}

fn document(project: &Project, id: &str) -> String {
    fs::read_to_string(project.item(&format!("{id}.md"))).unwrap()
}

#[test]
fn a_path_is_resolved_before_it_chooses_a_project() {
    let space = Space::new();
    let (api, web) = (space.project("a-longer-one"), space.project("web"));
    api.submit(OLD, "x");
    web.submit(NEW, "x");
    for path in ["../web", "../a-longer-one/../web/jobs", "./../web"] {
        let told = space.run_in(&api.path, &["-p", path, "hold", "--all"]);
        told.stdout.must_have(NEW);
        assert!(!told.stdout.contains(OLD), "{path}: {told:?}");
    }
    // disable, unregister and enable take the same names, also without -p.
    for (dir, args) in [
        (&api, &["disable", "../web"][..]),
        (&web, &["disable", "."]),
        (&api, &["-p", "web", "disable"]),
        (&api, &["pause", "--all"]),
    ] {
        let told = space.run_in(&dir.path, args).stdout;
        assert!(told.contains("\"web\""), "{args:?}: {told}");
        space.run(&["resume", "--all"]).ok();
    }
    for at in [space.root(), &api.path] {
        let ran = space.run_in(at, &["-p", "../nowhere", "hold", "--all"]);
        assert_eq!(ran.status, 3, "{ran:?}");
    }
    // A registry may name a project by a link to it.
    let link = space.root().join("link");
    std::os::unix::fs::symlink(&web.path, &link).unwrap();
    space.edit_registry(|projects| projects["web"]["path"] = json!(link));
    let told = space.run_in(&web.path, &["hold", "--all"]).stdout;
    told.must_have(NEW);
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
        let told = space.run_in(&web.path, args).ok();
        assert!(told.contains(id), "{args:?}: {told}");
    }
    for (args, status, why) in [
        (&["logs", "2026"][..], 2, "jobs have \"2026\" in their id"),
        (&["show", "-p", "web", "rotate"], 3, ""),
        (&["hold", "nonsense"], 3, ""),
        (&["hold", "../x"], 2, ""),
    ] {
        space.run(args).refused(status, why);
    }
    // Where they are taken, they are offered.
    let offered = space.run_in(&web.path, &["complete", "show", ""]).ok();
    offered.must_have(NEW);
    offered.must_have(OLD);
    // Without an id the newest finished one is meant, where none runs.
    space.run_in(&api.path, &["show"]).ok().must_have(OLD);
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
    space.lay_limit();
    let told = space.run(&["release", "--all"]).ok();
    assert!(told.starts_with("Lifted 1 hold "), "{told}");
    assert!(!told.contains("Released"), "{told}");
    // What ends or holds jobs needs to be told where.
    let ran = space.run(&["cancel", "--all"]);
    ran.refused(2, "which project?");
    assert_eq!(space.run(&["cancel", "--all", "-a"]).status, 0);
}

#[test]
fn what_will_happen_is_said_where_nothing_happens_now() {
    let space = Space::new();
    let off = space.project_with("off", json!({"enabled": false}));
    space.start();
    off.submit(OLD, "x");
    let text = space.file("text", "Do it.\n");
    let until = "its jobs wait until job-monitor enable off";
    for (args, said) in [
        (&["hold", OLD][..], "Held"),
        (&["release", OLD], until),
        (&["submit", "-"], until),
        (&["cancel", OLD], until),
    ] {
        let stdin = |command: &mut Command| {
            command.stdin(fs::File::open(&text).unwrap());
        };
        let ran = space.run_as(stdin, args);
        let told = format!("{}{}", ran.stdout, ran.stderr);
        assert!(ran.status == 0 && told.contains(said), "{args:?}: {told}");
    }
}

#[test]
fn inside_of_a_job_nothing_is_submitted_that_would_be_waited_for() {
    let (space, project) = Space::with_project();
    let text = space.file("text", "Do it.\n");
    space.env("JOB_MONITOR_PROJECT", "alpha");
    space.env("JOB_MONITOR_JOB_ID", OLD);
    for option in ["--wait", "--follow"] {
        let ran = space.run(&["submit", option, &text]);
        ran.refused(1, "wait for ever");
        assert_eq!(documents(&project), [""; 0]);
    }
}

#[test]
fn several_texts_are_submitted_with_their_wishes_or_none_of_them_is() {
    let (space, project) = Space::with_project();
    let plain = space.file("a.md", "# Fix it\n");
    let front = space.file("b.md", "---\nmax-turns: 5\n---\nDo it.\n");
    let bad = space.file("c.md", "---\ntimeout: soon\n---\nDo it.\n");
    assert_eq!(space.run(&["submit", &plain, &bad]).status, 1);
    assert_eq!(documents(&project), [""; 0]);
    let mut told = String::new();
    let places = [project.item(""), project.state("")];
    let effects = effects_in(&places, || {
        // A line of its own could be a wish that nobody asked for.
        let args = ["submit", &plain, &front, "--model", "opus\n4"];
        let args = [&args[..], &["--timeout", "30m", "--hold"]].concat();
        told = space.run(&args).ok();
    });
    let ids: Vec<&str> = told.lines().collect();
    assert!(ids[0] < ids[1], "they run in the order given: {ids:?}");
    let wishes = "---\nmodel: opus 4\ntimeout: 1800000ms\n";
    for (id, rest) in [
        (ids[0], "---\n# Fix it\n"),
        (ids[1], "max-turns: 5\n---\nDo it.\n"),
    ] {
        assert_eq!(document(&project, id), format!("{wishes}{rest}"));
        assert!(project.state(&format!("{id}.hold")).exists(), "{id}");
        // The mark comes first, or the job could start in between.
        let came = |name: String| effects.iter().position(|one| *one == name);
        let (held, queued) = (came(format!("+{id}.hold")), came(format!("+{id}.md")));
        assert!(held.is_some() && held < queued, "{effects:?}");
    }
    let taken = space.file("d.md", "---\nmodel: opus\n---\nDo it.\n");
    for (args, said) in [
        (["submit", &taken, "--model", "x"], "stands there twice"),
        (["submit", &plain, "--agent", "nobody"], "nobody"),
    ] {
        space.run(&args).refused(1, said);
    }
}

#[test]
fn a_reply_goes_on_in_a_session_and_is_refused_where_there_is_none() {
    let (space, project) = Space::with_project();
    let session = "11111111-2222-4333-8444-555555555555";
    let finished = |id: &str, agent: &str, session: Value| {
        let keys = json!({"agent": agent, "session_id": session});
        finish(&project, id, "completed", keys);
    };
    finished(OLD, "claude", json!(session));
    finished(NEW, "claude", Value::Null);
    let text = space.file("text", "Also the docs.\n");
    let id = space.run(&["reply", "rotate", &text]).ok();
    let expected = format!("---\ncontinues: {OLD}\n---\nAlso the docs.\n");
    assert_eq!(document(&project, id.trim()), expected);
    let waits = "job-20260101-130000-waits";
    project.submit(waits, "x");
    for (args, why) in [
        (&["reply", NEW, &text][..], "has no session"),
        (&["open", NEW], "has no session"),
        (&["open", waits], "has no session"),
        (&["reply", id.trim(), &text], "is not finished"),
    ] {
        space.run(args).refused(1, why);
    }
    space.claude("pwd; echo \"$@\"");
    // A job whose agent was interrupted has a session, too.
    let keys = json!({"agent": "claude", "session_id": "of-the-claim"});
    lay_claim(&project, waits, &claim(waits, keys));
    let opened = space.run(&["open", waits]).ok();
    opened.must_have("--resume of-the-claim");
    let opened = space.run(&["open", "rotate"]).ok();
    let path = project.path.display();
    assert_eq!(opened, format!("{path}\n--resume {session}\n"));
    for (agent, option) in [("codex", "resume"), ("gemini", "--resume")] {
        space.program(agent, "echo \"$@\"");
        finished(NEW, agent, json!("of-the-result"));
        let opened = space.run(&["open", NEW]).ok();
        assert_eq!(opened, format!("{option} of-the-result\n"));
    }
}

#[test]
fn failed_jobs_are_handed_in_again_once() {
    let (space, project) = Space::with_project();
    finish(&project, OLD, "failed", json!({}));
    finish(&project, NEW, "completed", json!({}));
    // The results say that they ended in January.
    assert_eq!(space.run(&["retry", "--failed"]).ok(), "No job to retry\n");
    let again = ["retry", "--failed", "--since", "2026-01-01"];
    let told = space.run(&again).ok();
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.ends_with("-rotate-keys\n"), "{told}");
    assert_eq!(space.run(&again).ok(), "No job to retry\n");
}

#[test]
fn clean_removes_what_old_jobs_left_and_nothing_else() {
    let (space, project) = Space::with_project();
    finish(&project, OLD, "completed", json!({}));
    let longer = format!("{OLD}-b");
    finish(&project, &longer, "completed", json!({}));
    project.submit(NEW, "x");
    project.submit(OLD, "Do it.\n");
    for name in ["jsonl", "2.err", "check", "patch"] {
        fs::write(project.logs(&format!("{OLD}.{name}")), "x").unwrap();
    }
    let three_days = Duration::from_secs(3 * 86_400);
    make_old(&project.results(&format!("{OLD}.json")), three_days);
    let clean = ["clean", "--older-than", "2d"];
    let dry = space.run(&[&clean[..], &["--dry-run"]].concat()).ok();
    let what = "1 job of alpha: 7 files";
    assert!(dry.starts_with(&format!("Would remove {what}")), "{dry}");
    assert!(project.result(OLD).is_some());
    let mut told = String::new();
    let places = [project.item(""), project.results("")];
    let effects = effects_in(&places, || told = space.run(&clean).ok());
    // The result goes last: a job whose document is there without it could run again.
    assert_eq!(effects, [format!("-{OLD}.md"), format!("-{OLD}.json")]);
    assert!(told.starts_with(&format!("Removed {what}")), "{told}");
    assert_eq!(documents(&project), [format!("{NEW}.md")]);
    assert!(project.result(&longer).is_some() && project.logs(&format!("{longer}.md")).exists());
    assert!(!project.logs(&format!("{OLD}.patch")).exists());
}

#[test]
fn a_document_of_the_future_does_not_take_new_ones_along() {
    let (space, project) = Space::with_project();
    let ahead = Wall::now().plus(Duration::from_secs(2 * 3600)).stamp();
    project.submit(&format!("job-{ahead}-mistake"), "x");
    let id = space.run(&["submit", &space.file("text.md", "x")]).ok();
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
fn register_warns_of_a_tree_that_is_shared_and_refuses_a_spool() {
    let (space, alpha) = Space::with_project();
    fs::create_dir_all(alpha.path.join("inner")).unwrap();
    let path = |part: &str| alpha.path.join(part).to_str().unwrap().to_owned();
    let told = space.run(&["register", &path("inner")]).ok();
    told.must_have("Warning: it overlaps \"alpha\"");
    for spool in ["jobs", "jobs/items"] {
        let ran = space.run(&["register", &path(spool)]);
        ran.refused(1, "the spool of project \"alpha\"");
    }
}

#[test]
fn a_skill_that_is_missing_is_written_where_every_agent_looks_and_a_person_s_own_is_kept() {
    let (space, alpha) = Space::with_project();
    let skill = |dir: &str, name: &str| {
        alpha
            .path
            .join(dir)
            .join("skills")
            .join(name)
            .join("SKILL.md")
    };
    let own = skill(".claude", "job-document-writer");
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    fs::write(&own, "mine").unwrap();
    let path = alpha.path.to_str().unwrap();
    let told = space.run(&["register", "--skills", path]).ok();
    told.must_have("Wrote");
    told.must_have("Kept your");
    assert_eq!(fs::read_to_string(&own).unwrap(), "mine");
    for (dir, name) in [
        (".claude", "task-coordination"),
        (".agents", "task-coordination"),
        (".agents", "job-document-writer"),
    ] {
        let text = fs::read_to_string(skill(dir, name)).unwrap();
        assert!(text.len() > 100, "{dir}, {name}: {text}");
    }
}

#[test]
fn no_byte_that_is_a_command_in_another_encoding_is_printed() {
    let space = Space::new();
    let project = space.project("\u{db}mlaut");
    let words = "\u{db}31m gr\u{fc}n \u{2026}";
    let keys = json!({"error": words, "worker_output": {"summary": words}});
    finish(&project, OLD, "failed", keys);
    project.submit(NEW, words);
    space.env("LC_ALL", "C");
    let named = format!("{OLD} --json");
    for line in ["status", "queue", "list", OLD, &named, "-p \u{db}x queue"] {
        let mut command = space.command(&line.split(' ').collect::<Vec<_>>());
        let output = command.stdin(Stdio::null()).output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&told);
        assert!(told.is_ascii(), "{line}: {text}");
    }
    let told = space.run(&["show", OLD, "--json"]).json();
    assert_eq!(told["result"]["error"], words);
}

/// Runs a command on a terminal that `script` plays, with an editor that is a shell script.
fn with_editor(space: &Space, editor: &str, args: &[&str]) -> Option<String> {
    if Command::new("script").arg("--version").output().is_err() {
        lacks("shells", "script makes no terminal here");
        return None;
    }
    let line = format!("{} {}", job_monitor(), args.join(" "));
    let mut command = space.command_of("script");
    command.args(["-qec", &line, "/dev/null"]);
    command.env("EDITOR", space.program("editor", editor));
    command.env("TERM", "dumb").stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
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
        project.touch("go");
    }
    let done = space.run(&["-a", "wait", "--all", "--timeout", "60s"]).ok();
    for project in &projects {
        assert_eq!(project.wait_result(NEW)["status"], "completed", "{done}");
    }
}

#[test]
fn what_was_typed_in_the_editor_is_never_lost() {
    let (space, project) = Space::with_project();
    let write = |text: &str| {
        format!("printf '%b' '{text}' > \"$1.new\"; cat \"$1\" >> \"$1.new\"; mv \"$1.new\" \"$1\"")
    };
    let good = with_editor(&space, &write("# Do it well\\n"), &["submit"]);
    let Some(good) = good else { return };
    let id = good.lines().find(|line| line.starts_with("job-2"));
    let text = document(&project, id.unwrap_or_else(|| panic!("{good}")));
    assert_eq!(text.trim_end(), "# Do it well");
    let left = || fs::read_dir(space.root().join("tmp")).unwrap().count();
    assert_eq!(left(), 0);
    let invalid = write("---\\ntimeout: soon\\n---\\nprecious\\n");
    for (kept, editor, args) in [
        (1, write("precious\\n") + "; exit 1", &["submit"][..]),
        (2, invalid, &["submit"]),
        (3, write("precious\\n"), &["submit", "--agent", "nobody"]),
    ] {
        let told = with_editor(&space, &editor, args).unwrap();
        let path = told.split("what you wrote is kept in ").nth(1);
        let path = path.unwrap_or_else(|| panic!("{told}"));
        let text = fs::read_to_string(path.trim()).unwrap_or_else(|e| panic!("{e}: {told}"));
        text.must_have("precious");
        assert_eq!(left(), kept);
    }
    // Nothing written, nothing submitted, nothing left.
    let told = with_editor(&space, "exit 0", &["submit"]).unwrap();
    told.must_have("nothing was written");
    assert_eq!(documents(&project).len(), 1);
    assert_eq!(left(), 3);
}
