//! Bad input gets one clear sentence with path and remedy, once, is left where it was, and stops
//! nothing else (SPEC 11.7).

use crate::changes::sh;
use crate::machine::peak_of;
use crate::space::{MustHave, Project, Space, lacks, replace, wait_until};
use crate::stage::*;
use nix::sys::stat::Mode;
use nix::unistd::{Uid, chown, mkfifo};
use serde_json::json;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;

/// Comes after everything else in a project, so its result shows that the rest was looked at.
const LAST: &str = "job-20991231-235959-last";

// --- documents ---

#[test]
fn a_name_that_is_almost_a_job_s_is_told_once_and_never_run() {
    let (space, project) = alpha(NOTES);
    let too_long = format!("job-20260101-120000-{}.md", "x".repeat(180));
    let bad: Vec<&OsStr> = vec![
        OsStr::new("job-2026-01-01-120000-x.md"),
        OsStr::new("job-20260101-120000.md"),
        OsStr::new("job-20260101-120000-.md"),
        OsStr::new("job-20260101-120000-.hidden.md"),
        OsStr::new("job-20260101-120000-two words.md"),
        OsStr::new("job-20260101-120000-für.md"),
        OsStr::new("job-.md"),
        OsStr::new(&too_long),
        OsStr::new("job-20260101-120000-forged\n[alpha] Job completed.md"),
        OsStr::from_bytes(b"job-20260101-120000-\xff.md"),
    ];
    let not_ours = [
        ".job-20260101-120000-x.md",
        "job-20260101-120000-x.md~",
        "job-20260101-120000-x.md.tmp",
        "job-20260101-120000-x.md.swp",
        "#job-20260101-120000-x.md#",
        "notes.md",
        "README",
    ];
    // Half of each kind is there before the daemon.
    for name in bad.iter().step_by(2) {
        fs::write(project.item("").join(name), "x").unwrap();
    }
    fs::write(project.item(not_ours[0]), "x").unwrap();
    space.start();
    for name in bad.iter().skip(1).step_by(2) {
        fs::write(project.item("").join(name), "x").unwrap();
    }
    for name in &not_ours[1..] {
        fs::write(project.item(name), "x").unwrap();
    }
    project.run(LAST, "x");
    let told = |text: &str| times(&project.journal(), text);
    wait_until("a sentence on each bad name", || {
        told("its name is not that of a job") == bad.len()
    });
    for name in &bad {
        let shown = name.to_string_lossy().replace(char::is_control, " ");
        let sentence = format!("/jobs/items/{shown} is left alone");
        assert_eq!(told(&sentence), 1, "{sentence}: {}", project.journal());
        assert!(project.item("").join(name).exists(), "{name:?} was moved");
    }
    assert!(project.journal().contains("job-YYYYMMDD-HHMMSS-"));
    for name in not_ours {
        assert_eq!(told(&format!("/{name} is")), 0, "{name} was reported");
    }
    assert_eq!(project.made("ran"), format!("{LAST}\n"));
    // Said again after a restart, but not for each event in between.
    project.run("job-20991231-235959-later", "x");
    assert_eq!(told("its name is not that of a job"), bad.len());
}

#[test]
fn what_is_no_regular_file_is_told_once_and_left_alone() {
    let (space, project) = alpha(NOTES);
    let outside = space.root().join("outside.md");
    fs::write(&outside, "not from the spool").unwrap();
    let name = |at: usize, what: &str| format!("job-20260101-12000{at}-{what}.md");
    let make = |base: usize| {
        symlink(&outside, project.item(&name(base, "link"))).unwrap();
        symlink("nowhere", project.item(&name(base, "dangling"))).unwrap();
        mkfifo(&project.item(&name(base, "fifo")), Mode::S_IRUSR).unwrap();
        fs::create_dir(project.item(&name(base, "dir"))).unwrap();
        drop(UnixListener::bind(project.item(&name(base, "socket"))).unwrap());
    };
    make(0);
    space.start();
    make(1);
    project.run(LAST, "x");
    for at in 0..2 {
        for (what, remedy) in [
            ("link", "symbolic link"),
            ("dangling", "symbolic link"),
            ("fifo", "regular file"),
            ("dir", "directory"),
            ("socket", "regular file"),
        ] {
            let name = name(at, what);
            let path = project.item(&name);
            let sentence = format!("{} is left alone: ", path.display());
            wait_until(&sentence, || project.journal().contains(&sentence));
            let journal = project.journal();
            assert_eq!(times(&journal, &sentence), 1, "{journal}");
            line_with(&journal, &sentence).must_have(remedy);
            assert!(fs::symlink_metadata(&path).is_ok(), "{name} was moved");
            assert!(project.result(name.trim_end_matches(".md")).is_none());
        }
    }
    assert_eq!(project.made("ran"), format!("{LAST}\n"));
}

#[test]
fn a_document_of_another_user_is_told_and_left_alone() {
    if !Uid::effective().is_root() {
        return lacks("root", "only root can give a file away");
    }
    let (space, project) = alpha(NOTES);
    space.start();
    let path = project.item(&format!("{ID}.md"));
    let other = space.root().join("other");
    fs::write(&other, "x").unwrap();
    chown(&other, Some(Uid::from_raw(12345)), None).unwrap();
    fs::rename(&other, &path).unwrap();
    project.run(LAST, "x");
    let why = "is left alone: it belongs to another user (uid 12345)";
    space.wait_log(&format!("{} {why}", path.display()));
    assert!(project.result(ID).is_none() && path.exists());
    // Made one's own, it is a job like any other at once.
    chown(&path, Some(Uid::effective()), None).unwrap();
    project.wait_result(ID);
}

#[test]
fn content_that_cannot_be_run_is_rejected_with_the_reason() {
    let (space, project) = alpha(NOTES);
    space.set(json!({"max_document": "1 KiB"}));
    space.start();
    let rows: [(&str, &[u8], u32, &str); 6] = [
        ("blank", b" \n\t\n", 0o600, "white space"),
        ("huge", &[b'x'; 1025], 0o600, "1024"),
        ("binary", b"a\0b", 0o600, "NUL"),
        ("latin", b"f\xfcr", 0o600, "UTF-8"),
        ("world", b"x", 0o666, "chmod go-w"),
        ("group", b"x", 0o620, "chmod go-w"),
    ];
    for (at, (name, bytes, mode, reason)) in rows.into_iter().enumerate() {
        let id = format!("job-20260101-12000{at}-{name}");
        let temporary = project.item(".new");
        fs::write(&temporary, bytes).unwrap();
        chmod(&temporary, mode);
        fs::rename(&temporary, project.item(&format!("{id}.md"))).unwrap();
        let result = project.wait_result(&id);
        if name == "group" && result["status"] == "completed" {
            lacks("group", "the user's group is private to the user here");
            continue;
        }
        result.must_have(json!({"status": "failed", "error_kind": "rejected",
            "started_at": null, "attempts": [], "logs": []}));
        result["error"].must_have(reason);
        assert!(project.item(&format!("{id}.md")).exists(), "{name}");
    }
    project.run(LAST, "x");
    assert!(project.made("ran").ends_with(&format!("{LAST}\n")));
    assert!(!project.made("ran").contains("world"));
}

#[test]
fn an_enormous_document_costs_no_memory() {
    let (space, project) = alpha(NOTES);
    space.start();
    let temporary = project.item(".new");
    fs::File::create(&temporary)
        .unwrap()
        .set_len(8 << 30)
        .unwrap();
    fs::rename(&temporary, project.item(&format!("{ID}.md"))).unwrap();
    assert_eq!(project.wait_result(ID)["error_kind"], "rejected");
    let peak = peak_of(space.pid());
    assert!(peak < 64 << 10, "the daemon grew to {peak} KiB");
}

// --- directories ---

#[test]
fn directories_that_others_could_use_make_the_project_unavailable_until_mended() {
    // What breaks it, what mends it, and what is said of it.
    let rows = [
        (
            "open",
            "chmod 777 items",
            "chmod 755 items",
            "(where that changes nothing, mount its file system with umask=077)",
        ),
        (
            "led-astray",
            "mv results ../elsewhere; ln -s ../elsewhere results",
            "rm results; mv ../elsewhere results",
            "jobs/results: it is a file or a symbolic link",
        ),
        ("a-file", "rmdir logs; touch logs", "rm logs", "jobs/logs"),
    ];
    let space = with_agent(NOTES);
    let healthy = space.project("healthy");
    let broken: Vec<Project> = rows.iter().map(|row| space.project(row.0)).collect();
    for (row, project) in rows.iter().zip(&broken) {
        project.submit(ID, "x");
        sh(&project.path.join("jobs"), row.1);
    }
    space.start();
    healthy.run(ID, "x");
    for (row, project) in rows.iter().zip(&broken) {
        let sentence = format!("[{}] the project is unavailable: ", row.0);
        space.wait_log(&sentence);
        let log = space.log();
        assert_eq!(times(&log, &sentence), 1, "{log}");
        line_with(&log, &sentence).must_have(row.3);
        assert_eq!(project.made("ran"), "");
        sh(&project.path.join("jobs"), row.2);
    }
    for project in &broken {
        project.wait_result(ID);
    }
}

/// Saying things once must not mute what is new.
#[test]
fn a_thousand_bad_names_keep_nothing_else_from_being_told() {
    let (space, project) = alpha(NOTES);
    for n in 0..1100 {
        fs::write(project.item(&format!("job-odd-{n}.md")), "x").unwrap();
    }
    space.start();
    let in_the_way = project.results(&format!(".{ID}.json.tmp"));
    fs::create_dir(&in_the_way).unwrap();
    project.submit(ID, "x");
    space.wait_log("what was decided is kept");
    let queue = || space.run(&["queue"]).ok();
    queue().must_have("Held: trouble: cannot ");
    fs::write(project.item("job-new.md"), "x").unwrap();
    space.wait_log("job-new.md is left alone");
    fs::remove_dir(&in_the_way).unwrap();
    project.wait_completed(ID);
    lacks_hold(&queue());
}

fn lacks_hold(told: &str) {
    assert!(!told.contains("Held: "), "{told}");
}

#[test]
fn trouble_that_lasts_is_told_once_until_it_is_over() {
    let (space, project) = alpha(NOTES);
    // All is well until a job is to be started.
    let in_the_way = |id: &str| project.logs(&format!("{id}.err"));
    for id in [ID, LAST] {
        fs::create_dir(in_the_way(id)).unwrap();
    }
    project.submit(ID, "x");
    space.start();
    let told = |id: &str| {
        let sentence = format!("unavailable: cannot remove {}", in_the_way(id).display());
        times(&space.log(), &sentence)
    };
    // Each try claims the job and gives it back; they are a second apart, or more.
    let mut tries = BTreeSet::new();
    wait_until("a third try", || {
        let state = fs::metadata(project.state("")).unwrap();
        tries.insert(state.mtime());
        tries.len() >= 3
    });
    assert_eq!(told(ID), 1, "{}", space.log());
    for view in ["queue", "list"] {
        wait_until(view, || {
            let told = space.run(&[view]).ok();
            told.contains("Held: trouble: ") && told.contains(".err: is a directory")
        });
    }
    fs::remove_dir(in_the_way(ID)).unwrap();
    project.wait_result(ID);
    lacks_hold(&space.run(&["queue"]).ok());
    project.submit(LAST, "x");
    wait_until("a word on the new trouble", || told(LAST) == 1);
    // Where nobody serves the project any more, there is no trouble with it.
    let holds = || space.run(&["status", "--json"]).json()["holds"].clone();
    wait_until("the hold", || holds()[0]["kind"] == "trouble");
    space.run(&["disable"]).ok();
    wait_until("no hold", || holds() == json!([]));
    fs::remove_dir(in_the_way(LAST)).unwrap();
    space.run(&["enable"]).ok();
    project.wait_result(LAST);
}

// --- registry and settings ---

#[test]
fn a_broken_registry_is_told_and_waited_out() {
    let (space, project) = alpha(NOTES);
    let path = space.config().join("registered.json");
    let good = fs::read(&path).unwrap();
    replace(&path, b"{\"projects\": {");
    space.start();
    let sentence = format!("the registry {} is broken", path.display());
    space.wait_log(&sentence);
    project.submit(ID, "x");
    // Mended: the project is served without a restart.
    replace(&path, &good);
    project.wait_result(ID);
    // Broken again: the last good set stays in force, and the running agent is left alone.
    let broken = ["not json", "[]", "{\"projects\": []}", ""];
    for (at, text) in broken.iter().enumerate() {
        replace(&path, text.as_bytes());
        wait_until("a word on the broken registry", || {
            times(&space.log(), &sentence) == at + 2
        });
        let id = format!("job-20260101-12000{}-next", at + 1);
        project.run(&id, "x");
    }
    space.log().must_have("stay in force");
    space.log().must_have("mend it");
}

#[test]
fn one_bad_entry_is_skipped_by_name_and_the_others_are_served() {
    let space = with_agent(NOTES);
    let project = space.project("good");
    let with = |key: &str, value: &str| json!({"path": space.root().join(key), key: value});
    let rows = [
        ("no-object", json!("/some/path"), "not a JSON object"),
        ("no-path", json!({"enabled": true}), "\"path\""),
        ("number", json!({"path": 7}), "\"path\""),
        ("relative", json!({"path": "some/dir"}), "an absolute path"),
        ("slash/in", json!({"path": space.root().join("p1")}), "name"),
        ("odd", with("enabled", "yes"), "enabled"),
        ("new-layout", with("layout", "boxes"), "layout"),
        ("soon", with("timeout", "soon"), "timeout"),
        ("who", with("agent", "nobody"), "nobody"),
        ("double", json!({"path": project.path}), "good"),
    ];
    space.edit_registry(|projects| {
        for (name, entry, _) in &rows {
            projects.insert((*name).to_owned(), entry.clone());
        }
    });
    space.start();
    project.submit(ID, "x");
    // Whichever of the two names for one directory came first serves it.
    project.wait_result(ID);
    for (name, _, reason) in rows {
        let log = space.log();
        let of_twin = |line: &str| line.contains("project \"good\"") && line.contains("double");
        if name == "double" && log.lines().any(of_twin) {
            continue;
        }
        let sentence = format!("project {name:?}");
        assert_eq!(times(&log, &sentence), 1, "{name}: {log}");
        line_with(&log, &sentence).must_have(reason);
    }
}

#[test]
fn a_missing_project_is_unavailable_until_it_appears_and_nothing_is_made_in_its_place() {
    let space = with_agent(NOTES);
    let (away, here) = (space.project("away"), space.project("here"));
    away.submit(ID, "x");
    let unmounted = space.root().join("unmounted");
    fs::rename(&away.path, &unmounted).unwrap();
    space.start();
    here.run(ID, "x");
    let sentence = "[away] the project is unavailable: ";
    space.wait_log(sentence);
    assert_eq!(times(&space.log(), sentence), 1, "{}", space.log());
    assert!(space.log().contains(away.path.to_str().unwrap()));
    assert!(!away.path.exists());
    fs::rename(&unmounted, &away.path).unwrap();
    away.wait_result(ID);
}

#[test]
fn a_project_that_goes_away_and_comes_back_is_served_again() {
    let (space, project) = alpha(NOTES);
    space.start();
    project.run("job-20260101-120000-before", "x");
    let away = space.root().join("away");
    fs::rename(&project.path, &away).unwrap();
    fs::rename(&away, &project.path).unwrap();
    project.run("job-20260101-120001-after", "x");
}

#[test]
fn an_unknown_setting_is_warned_about_by_name_and_a_broken_file_waited_out() {
    let (space, project) = alpha(NOTES);
    space.set(json!({"time_out": "1h", "comment": "mine"}));
    let path = space.config().join("config.json");
    let good = fs::read(&path).unwrap();
    space.start();
    for key in ["time_out", "comment"] {
        space.wait_log(&format!("unknown setting \"{key}\""));
    }
    project.run(ID, "x");
    // Broken while the daemon runs: the settings before stay in force.
    let rows = [
        (r#"{"grace": "#, "not a JSON object"),
        (r#"{"timeout": "soon"}"#, "timeout"),
        (r#"{"agent": "nobody"}"#, "nobody"),
        (r#"{"max_parallel": 0}"#, "max_parallel"),
        // Of an agent that at most one project names: it is no mistake of the project's.
        (r#"{"agents": {"x": {"command": "x"}}}"#, "agents.x.command"),
        (r#"{"agents": ["other"]}"#, "\"agents\""),
    ];
    for (at, (text, reason)) in rows.into_iter().enumerate() {
        replace(&path, text.as_bytes());
        wait_until("a word on the broken settings", || {
            times(&space.log(), "the settings before stay in force") == at + 1
        });
        let log = space.log();
        let line = log.lines().rfind(|line| line.contains("stay in force"));
        for wanted in [reason, path.to_str().unwrap()] {
            line.unwrap().must_have(wanted);
        }
        let id = format!("job-20260101-12001{at}-next");
        project.complete(&id, "x");
    }
    // Broken at the start: no job is started until it is mended.
    assert_eq!(space.stop(), 0);
    project.submit(LAST, "x");
    space.start();
    space.wait_log("meanwhile no job is started");
    assert!(project.result(LAST).is_none());
    replace(&path, &good);
    project.wait_result(LAST);
}

#[test]
fn without_any_configuration_the_daemon_stays_up_and_waits_for_a_project() {
    let space = Space::new();
    fs::remove_dir_all(space.config()).unwrap();
    space.start();
    space.wait_log("no project is registered yet");
    space.plain_agent(NOTES);
    let project = space.project("alpha");
    project.run(ID, "x");
    assert_eq!(times(&space.log(), "no project is registered"), 1);
}

// --- agents and credentials ---

#[test]
fn an_unsafe_env_file_holds_every_agent_until_it_is_mended() {
    let space = with_agent(r#"echo "$SECRET" | tr a-z A-Z > seen; cat > /dev/null"#);
    space.credentials("SECRET=open sesame\n", 0o644);
    let (alpha, beta) = (space.project("alpha"), space.project("beta"));
    let path = space.config().join(".env");
    for project in [&alpha, &beta] {
        project.submit(ID, "x");
    }
    space.start();
    for project in [&alpha, &beta] {
        let reason = wait_hold(project, "unsafe_env");
        reason.must_have(path.to_str().unwrap());
        reason.must_have("chmod 600");
    }
    assert_eq!(times(&space.log(), "every agent is held"), 1);
    // Replaced by one that does not parse: still held, and told with the line.
    space.credentials("# comment\nopen sesame\n", 0o600);
    let reason = format!("{} line 2 ", path.display());
    alpha.wait_view("line 2", |view| view["hold"].to_string().contains(&reason));
    space.credentials("SECRET=open sesame\n", 0o600);
    for project in [&alpha, &beta] {
        project.wait_completed(ID);
        assert_eq!(project.made("seen"), "OPEN SESAME\n");
    }
    // An edit needs no restart.
    space.credentials("SECRET=another\n", 0o600);
    alpha.run(LAST, "x");
    assert_eq!(alpha.made("seen"), "ANOTHER\n");
    assert_no_secret(&space, &["open sesame", "another"]);
}

#[test]
fn values_of_the_env_file_appear_nowhere() {
    let (space, project) = alpha("cat > /dev/null; [ -n \"$SECRET\" ] && echo done");
    space.credentials("SECRET='hush-0815'\nexport OTHER=\"hush-4711\"\n", 0o600);
    space.start();
    project.complete(ID, "x");
    // In each way that it can be broken, the line is named and not quoted.
    for text in [
        "hush-0815\n",
        "SECRET='hush-0815\n",
        "hush-0815=x y\n",
        "SECRET='hush-0815' hush-4711\n",
        "SECRET=hush-0815\0hush-4711\n",
    ] {
        space.credentials(text, 0o600);
        let id = format!("job-20260101-12{:04}-broken", text.len());
        project.submit(&id, "x");
        wait_hold(&project, "unsafe_env");
        space.credentials("SECRET='hush-0815'\n", 0o600);
        project.wait_result(&id);
    }
    assert_no_secret(&space, &["hush-0815", "hush-4711"]);
}

/// Neither a file other than `.env` nor a command's output has any of these.
fn assert_no_secret(space: &Space, secrets: &[&str]) {
    for command in ["status --all", "status --json", "queue", "list --json", ID] {
        let words: Vec<&str> = command.split(' ').collect();
        let ran = format!("{:?}", space.run(&words));
        for secret in secrets {
            assert!(!ran.contains(secret), "{command} shows {secret}");
        }
    }
    for path in files_below(space.root()) {
        if path.ends_with("config/.env") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        for secret in secrets {
            assert!(!text.contains(secret), "{secret} is in {}", path.display());
        }
    }
}
