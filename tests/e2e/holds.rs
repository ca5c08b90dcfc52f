//! Holds: who waits, who tries whether things are mended, and what ends the waiting.

use crate::claude_standin::{ahead, now, script, stand_in, starts};
use crate::space::{Project, Space, replace, wait_until};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

const ID: &str = "job-20260101-120000-hello";
const NEXT: &str = "job-20260101-120001-next";
const LAST: &str = "job-20260101-120002-last";

fn wait_hold(project: &Project, kind: &str) -> Value {
    let what = format!("held by {kind}");
    project.wait_view(&what, |view| view["hold"]["kind"] == kind)["hold"].clone()
}

/// Two projects of one stand-in for claude.
fn two_projects() -> (Space, Project, Project) {
    let space = Space::new();
    stand_in(&space);
    let (alpha, beta) = (space.project("alpha"), space.project("beta"));
    (space, alpha, beta)
}

/// Makes the probe of every hold due that was put before the daemon was stopped.
fn make_probes_due(space: &Space) {
    let path = space.state().join("holds.json");
    let mut holds: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    for hold in holds["list"].as_array_mut().unwrap() {
        for key in ["probe_at", "until"] {
            if hold[key] != Value::Null {
                hold[key] = json!("2026-01-01T00:00:00.000Z");
            }
        }
    }
    replace(&path, holds.to_string().as_bytes());
}

#[test]
fn slots_are_served_in_turn() {
    let space = Space::new();
    let order = space.root().join("order");
    space.plain_agent(&format!(
        "cat > /dev/null; echo $JOB_MONITOR_PROJECT >> {}; sleep 0.02",
        order.display()
    ));
    space.set(json!({"max_parallel": 1}));
    let projects = ["a", "b", "c", "d", "e"].map(|name| space.project(name));
    let ids: Vec<String> = (0..8).map(|n| format!("job-20260101-12000{n}-x")).collect();
    for project in &projects {
        for id in &ids {
            project.submit(id, "x");
        }
    }
    space.start();
    for project in &projects {
        project.wait_result(&ids[7]);
    }
    let ran = fs::read_to_string(order).unwrap();
    let ran: Vec<&str> = ran.lines().collect();
    assert_eq!(ran.len(), 40);
    // As long as all want, nobody is ahead of another by more than two.
    let ahead = |upto: usize| {
        let counts = projects.each_ref().map(|project| {
            let mine = ran[..upto].iter().filter(|name| **name == project.name);
            mine.count()
        });
        counts.iter().max().unwrap() - counts.iter().min().unwrap()
    };
    assert!((1..=30).all(|upto| ahead(upto) <= 2), "{ran:?}");
}

#[test]
fn a_document_that_is_rejected_uses_no_probe_up_and_any_answer_ends_the_hold() {
    let (space, alpha, beta) = two_projects();
    script(&alpha, 1, "play api-401-no-retry");
    space.start();
    alpha.submit(ID, "x");
    wait_hold(&alpha, "not_authenticated");
    beta.submit(LAST, "x");
    wait_hold(&beta, "not_authenticated");
    space.run(&["-p", "alpha", "cancel", ID]).ok();
    assert_eq!(alpha.wait_result(ID)["status"], "cancelled");
    space.stop();
    alpha.submit(NEXT, "  \n");
    alpha.submit(LAST, "x");
    // That it fails proves the login all the same.
    script(&alpha, 2, "play max-turns");
    make_probes_due(&space);
    // Its own project must make the probe.
    space.edit_registry(|projects| projects["beta"]["enabled"] = json!(false));
    space.start();
    assert_eq!(alpha.wait_result(NEXT)["error_kind"], "rejected");
    assert_eq!(alpha.wait_result(LAST)["error_kind"], "max_turns");
    space.wait_log("is lifted: its service answers");
    space.edit_registry(|projects| projects["beta"]["enabled"] = json!(true));
    assert_eq!(beta.wait_result(LAST)["status"], "completed");
}

#[test]
fn a_release_that_came_while_no_daemon_ran_counts_from_its_start_on() {
    let (space, alpha, _) = two_projects();
    script(&alpha, 1, "play api-401-no-retry");
    space.start();
    alpha.submit(ID, "x");
    wait_hold(&alpha, "not_authenticated");
    space.stop();
    space.run(&["release", "--all"]);
    space.start();
    space.wait_log("is lifted: released by hand");
    assert_eq!(alpha.wait_result(ID)["status"], "completed");
}

#[test]
fn a_login_that_is_mended_ends_the_hold_wherever_it_is_kept_and_whenever_it_comes() {
    // Where the file is, and whether it is mended while the attempt still fails.
    for (variable, early) in [("HOME", false), ("ENV", false), ("AGENT", true)] {
        let space = Space::new();
        stand_in(&space);
        let project = space.project("alpha");
        let dir = match variable {
            "HOME" => space.home().join(".claude"),
            _ => space.root().join("elsewhere"),
        };
        match variable {
            "ENV" => space.credentials(&format!("CLAUDE_CONFIG_DIR={}\n", dir.display()), 0o600),
            "AGENT" => {
                space.set(json!({"agents": {"claude": {"env": {"CLAUDE_CONFIG_DIR": dir}}}}))
            }
            _ => {}
        }
        let login = dir.join(".credentials.json");
        let waits = "until [ -e go ]; do sleep 0.02; done; play api-401-no-retry";
        script(
            &project,
            1,
            if early {
                waits
            } else {
                "play api-401-no-retry"
            },
        );
        space.start();
        project.submit(ID, "x");
        let mend = || {
            fs::create_dir_all(&dir).unwrap();
            replace(&login, b"{}");
        };
        if early {
            wait_until("the start", || starts(&project) == 1);
            mend();
            fs::write(project.path.join("go"), "").unwrap();
        } else {
            wait_hold(&project, "not_authenticated");
            mend();
        }
        let result = project.wait_result(ID);
        assert_eq!(result["status"], "completed", "{variable}");
        assert_eq!(result["attempts"].as_array().unwrap().len(), 2);
        space.wait_log("is lifted: its credentials or its program have changed");
    }
}

#[test]
fn another_agent_s_longer_hold_does_not_hide_a_login_that_is_mended() {
    let (space, alpha, _) = two_projects();
    space.set(json!({"agents": {"other": {"command": ["claude"]}}}));
    let other = space.project_with("other", json!({"agent": "other"}));
    let limit = "play subscription-limit-5h -e 's/1795173825/RESET/g'";
    let limit = limit.replace("RESET", &(now() + 3600).to_string());
    script(&alpha, 1, &limit);
    script(&other, 1, "play api-401-no-retry");
    space.start();
    for (project, kind) in [(&alpha, "usage_limit"), (&other, "not_authenticated")] {
        project.submit(ID, "x");
        wait_hold(project, kind);
    }
    fs::create_dir_all(space.home().join(".claude")).unwrap();
    replace(&space.home().join(".claude/.credentials.json"), b"{}");
    assert_eq!(other.wait_result(ID)["status"], "completed");
    wait_hold(&alpha, "usage_limit");
    assert_eq!((starts(&alpha), starts(&other)), (1, 2));
}

#[test]
fn after_a_limit_one_job_tries_before_all_others_start() {
    let (space, alpha, beta) = two_projects();
    let reset = now() + 2;
    let limit = format!("play subscription-limit-5h -e 's/1795173825/{reset}/g'");
    script(&alpha, 1, &limit);
    // Whoever probes waits until it is seen that the other does not start.
    let probes = "until [ -e go ]; do sleep 0.02; done; play text";
    script(&alpha, 2, probes);
    script(&beta, 1, probes);
    space.start();
    alpha.submit(ID, "x");
    wait_hold(&alpha, "usage_limit");
    beta.submit(ID, "x");
    wait_hold(&beta, "usage_limit");
    wait_until("a probe", || starts(&alpha) + starts(&beta) == 2);
    // Looks at all there is change nothing for the other.
    let other = if starts(&alpha) == 2 { &beta } else { &alpha };
    other.submit(NEXT, "x");
    other.wait_view("another job", |view| view["queue_size"] == 2);
    assert_eq!(starts(&alpha) + starts(&beta), 2);
    for project in [&alpha, &beta] {
        fs::write(project.path.join("go"), "").unwrap();
    }
    for project in [&alpha, &beta] {
        assert_eq!(project.wait_result(ID)["status"], "completed");
    }
}

#[test]
fn an_ill_service_holds_its_agent_everywhere_until_anybody_is_answered() {
    let (space, alpha, beta) = two_projects();
    script(&beta, 1, "until [ -e go ]; do sleep 0.02; done; play text");
    script(&alpha, 1, "play connection-refused-max-retries-1");
    space.start();
    beta.submit(ID, "x");
    wait_until("the other's start", || starts(&beta) == 1);
    alpha.submit(ID, "x");
    let hold = wait_hold(&alpha, "network");
    assert_ne!(hold["until"], Value::Null);
    let all = space.run(&["status", "--json"]).json();
    assert_eq!(all["holds"][0]["kind"], "network");
    assert_eq!(all["holds"][0]["agent"], "claude");
    // It ends well before the probe is due.
    fs::write(beta.path.join("go"), "").unwrap();
    let result = alpha.wait_result(ID);
    assert_eq!(result["status"], "completed");
    assert_eq!(result["attempts"].as_array().unwrap().len(), 2);
}

// --- the configuration ---

/// Puts a link in a file's or directory's place, to where it lies from now on.
fn move_and_link(path: &Path, to: &Path) {
    fs::rename(path, to).unwrap();
    symlink(to, path).unwrap();
}

#[test]
fn links_in_the_configuration_are_followed() {
    for what in ["config.json", "registered.json", "everything"] {
        let space = Space::new();
        space.plain_agent("cat > /dev/null; echo first > first");
        let project = space.project("alpha");
        let other = space.project_with("beta", json!({"enabled": false}));
        let dotfiles = space.root().join("dotfiles");
        fs::create_dir(&dotfiles).unwrap();
        let place = match what {
            "everything" => space.config(),
            file => space.config().join(file),
        };
        move_and_link(&place, &dotfiles.join("target"));
        space.start();
        project.submit(ID, "x");
        project.wait_result(ID);
        let real = |file: &str| match what {
            "everything" => dotfiles.join("target").join(file),
            _ if what == file => dotfiles.join("target"),
            _ => space.config().join(file),
        };
        let edit = |file: &str, old: &str, new: &str| {
            let text = fs::read_to_string(real(file)).unwrap();
            assert!(text.contains(old), "{text}");
            replace(&real(file), text.replace(old, new).as_bytes());
        };
        space.program("second", "cat > /dev/null; echo second > second");
        edit("config.json", "bin/agent", "bin/second");
        space.wait_log("the settings have changed");
        edit("registered.json", "\"enabled\": false", "\"enabled\": true");
        other.submit(ID, "x");
        other.wait_made("second");
        assert!(place.is_symlink(), "{what}");
    }
}

#[test]
fn settings_that_are_missing_for_a_moment_are_those_before() {
    let space = Space::new();
    space.plain_agent("cat > /dev/null; sleep 0.1");
    let project = space.project("alpha");
    space.start();
    for file in ["config.json", "registered.json"] {
        let path = space.config().join(file);
        let aside = space.config().join("aside");
        fs::rename(&path, &aside).unwrap();
        let id = format!("job-20260101-120000-{}", file.replace('.', "-"));
        project.submit(&id, "x");
        assert_eq!(project.wait_result(&id)["status"], "completed");
        fs::rename(&aside, &path).unwrap();
    }
    space.set(json!({"grace": "2s"}));
    space.wait_log("the settings have changed");
    assert_eq!(space.log().matches("the settings have changed").count(), 1);
    assert!(!space.log().contains("no project"), "{}", space.log());
    // One that stays away is gone.
    fs::remove_file(space.config().join("registered.json")).unwrap();
    wait_until("the project's end", || !space.serves("alpha"));
}

// --- a night that stops itself ---

#[test]
fn jobs_that_fail_alike_and_at_once_hold_their_agent_over_all_projects() {
    for by_hand in [false, true] {
        let space = Space::new();
        space
            .plain_agent("cat > /dev/null; if [ -e fixed ]; then exit 0; fi; echo odd >&2; exit 7");
        let (alpha, beta) = (space.project("alpha"), space.project("beta"));
        space.start();
        alpha.submit(ID, "x");
        alpha.submit(NEXT, "x");
        assert_eq!(alpha.wait_result(NEXT)["error_kind"], "exit_code");
        beta.submit(ID, "x");
        assert_eq!(beta.wait_result(ID)["status"], "failed");
        beta.submit(NEXT, "x");
        let hold = wait_hold(&beta, "breaker");
        let reason = hold["reason"].as_str().unwrap();
        for part in ["odd", &format!("job-monitor retry {ID} {NEXT} {ID}")] {
            assert!(reason.contains(part), "{reason}");
        }
        assert!(beta.result(NEXT).is_none());
        // The probe, or a person's word: one that succeeds is enough.
        fs::write(beta.path.join("fixed"), "").unwrap();
        if by_hand {
            space.run(&["-p", "beta", "release", NEXT]).ok();
        } else {
            assert_eq!(space.stop(), 0);
            make_probes_due(&space);
            space.start();
        }
        assert_eq!(beta.wait_result(NEXT)["status"], "completed");
        fs::write(alpha.path.join("fixed"), "").unwrap();
        alpha.submit(LAST, "x");
        assert_eq!(alpha.wait_result(LAST)["status"], "completed");
    }
}

#[test]
fn after_a_failed_job_the_others_wait_where_that_is_wanted() {
    let space = Space::new();
    space.plain_agent("cat > /dev/null; [ -e fixed ]");
    let told = space.root().join("told");
    let hook = format!(
        "echo $JOB_MONITOR_PROJECT $JOB_MONITOR_HOLD $JOB_MONITOR_REASON >> {}",
        told.display()
    );
    let hook = space.program("hook", &hook);
    space.set(json!({"on_hold": [hook], "breaker": 0}));
    let alpha = space.project_with("alpha", json!({"on_failure": "hold"}));
    let beta = space.project("beta");
    space.start();
    for project in [&alpha, &beta] {
        project.submit(ID, "x");
        project.submit(NEXT, "x");
    }
    beta.wait_result(NEXT);
    let hold = wait_hold(&alpha, "on_failure");
    assert!(hold["reason"].as_str().unwrap().contains(ID), "{hold}");
    let all = space.run(&["status", "--json"]).json();
    assert_eq!(all["holds"][0]["kind"], "on_failure", "{all}");
    let told = fs::read_to_string(told).unwrap();
    assert!(
        told.starts_with(&format!("alpha on_failure {ID}")),
        "{told}"
    );
    assert_eq!(told.lines().count(), 1, "{told}");
    // A restart changes nothing; a person does.
    space.kill();
    space.start();
    wait_hold(&alpha, "on_failure");
    assert!(alpha.result(NEXT).is_none());
    fs::write(alpha.path.join("fixed"), "").unwrap();
    space.run(&["-p", "alpha", "release", NEXT]).ok();
    assert_eq!(alpha.wait_result(NEXT)["status"], "completed");
}

#[test]
fn outside_of_the_hours_no_job_starts_unless_a_person_says_so() {
    let space = Space::new();
    space.plain_agent("cat > /dev/null");
    // A span that is not now, whenever now is.
    let minutes = (now() / 60) % 1440;
    let text = |minutes: u64| format!("{:02}:{:02}", minutes / 60 % 24, minutes % 60);
    let hours = format!("{}-{}", text(minutes + 120), text(minutes + 180));
    space.env("TZ", "UTC");
    let project = space.project_with("alpha", json!({"hours": hours}));
    let other = space.project("beta");
    space.start();
    project.submit(ID, "x");
    other.submit(ID, "x");
    let hold = wait_hold(&project, "hours");
    assert!(
        (100 * 60..=120 * 60).contains(&ahead(&hold["until"])),
        "{hold}"
    );
    other.wait_result(ID);
    assert!(project.result(ID).is_none());
    space.run(&["-p", "alpha", "release", ID]).ok();
    project.wait_result(ID);
    project.submit(NEXT, "x");
    project.wait_result(NEXT);
}

#[test]
fn a_usage_window_that_is_full_enough_holds_until_its_reset_also_over_a_restart() {
    let (space, alpha, beta) = two_projects();
    space.set(json!({"usage_ceiling": {"five_hour": 0.9}}));
    let reset = now() + 3600;
    let full = format!("play subscription-warning -e 's/1795173824/{reset}/g'");
    script(&alpha, 1, &full);
    space.start();
    alpha.submit(ID, "x");
    assert_eq!(alpha.wait_result(ID)["status"], "completed");
    for project in [&alpha, &beta] {
        project.submit(NEXT, "x");
        let hold = wait_hold(project, "usage_ceiling");
        assert!((3500..=3600).contains(&ahead(&hold["until"])), "{hold}");
    }
    space.kill();
    space.start();
    wait_hold(&beta, "usage_ceiling");
    assert_eq!(starts(&alpha) + starts(&beta), 1);
    space.run(&["release", "--all"]);
    for project in [&alpha, &beta] {
        assert_eq!(project.wait_result(NEXT)["status"], "completed");
    }
}

#[test]
fn a_hold_that_no_job_has_met_yet_is_told_everywhere_and_released_all_the_same() {
    let space = Space::new();
    stand_in(&space);
    let project = space.project("alpha");
    space.set(json!({"usage_ceiling": 0.9}));
    let reset = now() + 3600;
    script(
        &project,
        1,
        &format!("play subscription-warning -e 's/1795173824/{reset}/g'"),
    );
    space.start();
    project.submit(ID, "x");
    project.wait_result(ID);
    let holds = || space.run(&["status", "--json"]).json()["holds"].clone();
    wait_until("the ceiling is told", || {
        holds()[0]["kind"] == "usage_ceiling"
    });
    let released = space.run(&["release", "--all"]);
    assert!(released.stdout.contains("Lifted 1 hold"), "{released:?}");
    wait_until("it is lifted", || holds() == json!([]));
    project.submit(NEXT, "x");
    assert_eq!(project.wait_result(NEXT)["status"], "completed");
}

/// Codex tells of its windows in the rollout file of the thread, also after a success.
#[test]
fn codex_s_usage_windows_are_kept_under_the_ceiling_too() {
    let space = Space::new();
    let reset = now() + 3600;
    let play = format!(
        r#"cat > /dev/null; echo x >> started; cd '{}/tests/fixtures/codex'
thread=$(sed -n '1s/.*"thread_id":"\([0-9a-f-]*\)".*/\1/p' rate_headers_ok.jsonl)
mkdir -p "$HOME/.codex/sessions/2026/11/28"
sed 's/1795901914/{reset}/' rate_headers_ok.rollout.jsonl > "$HOME/.codex/sessions/2026/11/28/rollout-$thread.jsonl"
cat rate_headers_ok.jsonl"#,
        env!("CARGO_MANIFEST_DIR")
    );
    space.program("codex", &play);
    space.set(json!({"agent": "codex", "usage_ceiling": 0.8}));
    let project = space.project("alpha");
    space.start();
    project.submit(ID, "x");
    let result = project.wait_result(ID);
    assert_eq!(result["status"], "completed");
    // What it cannot tell.
    for key in ["num_turns", "permission_denials"] {
        assert_eq!(result[key], Value::Null, "{key}");
    }
    project.submit(NEXT, "x");
    let hold = wait_hold(&project, "usage_ceiling");
    assert_eq!(hold["agent"], "codex", "{hold}");
    assert!((3500..=3600).contains(&ahead(&hold["until"])), "{hold}");
    let reason = hold["reason"].as_str().unwrap();
    assert!(reason.contains("83% of the window five_hour"), "{hold}");
    assert_eq!(project.made("started"), "x\n");
    space.run(&["release", NEXT]).ok();
    assert_eq!(project.wait_result(NEXT)["status"], "completed");
}

/// As Gemini's command line: a session without an answer does not exist, and one that was begun is not
/// begun again.
const GEMINI: &str = r#"cat > /dev/null
mode=; id=
while [ $# -gt 0 ]; do
    case $1 in --session-id | --resume) mode=$1; id=$2; shift ;; esac
    shift
done
echo "$mode $id" >> started
case $mode in
--resume) [ -e "answered.$id" ] || exit 42 ;;
*) [ ! -e "begun.$id" ] || exit 42; touch "begun.$id" ;;
esac
echo '{"type":"init","session_id":"'$id'","model":"m"}'
if [ ! -e fixed ]; then
    echo '{"type":"result","status":"error","error":{"type":"unknown","message":"[API Error: down]"},"stats":{}}'
    exit 247
fi
touch "answered.$id"
echo '{"type":"message","role":"assistant","content":"Done.","delta":true}'
echo '{"type":"result","status":"success","stats":{"total_tokens":2,"input_tokens":1,"output_tokens":1}}'"#;

#[test]
fn a_session_that_was_never_answered_and_so_does_not_exist_is_begun_anew() {
    let space = Space::new();
    space.program("gemini", GEMINI);
    space.set(json!({"agent": "gemini"}));
    let project = space.project("alpha");
    project.submit(ID, "x");
    space.start();
    wait_hold(&project, "overloaded");
    fs::write(project.path.join("fixed"), "").unwrap();
    space.run(&["-p", "alpha", "release", ID]).ok();
    let result = project.wait_result(ID);
    assert_eq!(result["status"], "completed", "{result:#}");
    let started = project.made("started");
    let started: Vec<&str> = started.lines().collect();
    assert_eq!(started.len(), 2, "{started:?}");
    assert!(started.iter().all(|line| line.starts_with("--session-id ")));
    assert_ne!(started[0], started[1]);
}
