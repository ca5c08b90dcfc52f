//! Holds: who waits, who tries whether things are mended, and what ends the waiting.

use crate::claude_standin::{REFUSED, ahead, limit_until, now, one_project, script, starts};
use crate::space::{MustHave, Project, Space, attempts, replace, wait_until};
use crate::stage::{ID, LAST, NEXT, alpha};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;

/// Two projects of one stand-in for claude, and what the first one's first starts do.
fn two_projects(scripts: &[&str]) -> (Space, Project, Project) {
    let (space, alpha) = one_project(scripts);
    let beta = space.project("beta");
    (space, alpha, beta)
}

/// A project whose agent is held, since the login of its first start was refused.
fn not_logged_in() -> (Space, Project) {
    let (space, alpha) = one_project(&[REFUSED]);
    space.start();
    alpha.submit(ID, "x");
    alpha.wait_hold("not_authenticated");
    (space, alpha)
}

/// A recording that tells of a usage window which is nearly full, with another end.
fn warning_until(reset: u64) -> String {
    format!("play subscription-warning -e 's/1795173824/{reset}/g'")
}

/// An hour from now, as far as it can be told.
#[track_caller]
fn is_in_an_hour(hold: &Value) {
    assert!((3500..=3600).contains(&ahead(&hold["until"])), "{hold}");
}

/// Makes the probe of every hold due that was put before the daemon was stopped.
fn make_probes_due(space: &Space) {
    let mut holds = space.holds();
    for hold in holds["list"].as_array_mut().unwrap() {
        for key in ["probe_at", "until"] {
            if hold[key] != Value::Null {
                hold[key] = json!("2026-01-01T00:00:00.000Z");
            }
        }
    }
    space.lay_holds(&holds);
}

#[test]
fn slots_are_served_in_turn() {
    let space = Space::new();
    space.plain_agent("cat > /dev/null; echo $JOB_MONITOR_PROJECT >> ../order; sleep 0.02");
    space.set(json!({"max_parallel": 1}));
    let projects = ["a", "b", "c", "d", "e"].map(|name| space.project(name));
    let ids: Vec<String> = (0..8).map(|n| format!("job-20260101-12000{n}-x")).collect();
    for project in &projects {
        ids.iter().for_each(|id| project.submit(id, "x"));
    }
    space.start();
    for project in &projects {
        project.wait_result(&ids[7]);
    }
    let ran = fs::read_to_string(space.root().join("order")).unwrap();
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
    // That the second fails proves the login all the same.
    let (space, alpha, beta) = two_projects(&[REFUSED, "play max-turns"]);
    space.start();
    alpha.submit(ID, "x");
    alpha.wait_hold("not_authenticated");
    beta.submit(LAST, "x");
    beta.wait_hold("not_authenticated");
    space.run(&["-p", "alpha", "cancel", ID]).ok();
    assert_eq!(alpha.wait_result(ID)["status"], "cancelled");
    space.stop();
    alpha.submit(NEXT, "  \n");
    alpha.submit(LAST, "x");
    make_probes_due(&space);
    // Its own project must make the probe.
    space.edit_registry(|projects| projects["beta"]["enabled"] = json!(false));
    space.start();
    assert_eq!(alpha.wait_result(NEXT)["error_kind"], "rejected");
    assert_eq!(alpha.wait_result(LAST)["error_kind"], "max_turns");
    space.wait_log("is lifted: its service answers");
    space.edit_registry(|projects| projects["beta"]["enabled"] = json!(true));
    beta.wait_completed(LAST);
}

#[test]
fn a_release_that_came_while_no_daemon_ran_counts_from_its_start_on() {
    let (space, alpha) = not_logged_in();
    space.stop();
    space.run(&["release", "--all"]);
    space.start();
    space.wait_log("is lifted: released by hand");
    alpha.wait_completed(ID);
}

#[test]
fn a_begun_job_that_is_held_is_named_to_those_that_wait_for_it() {
    let (space, alpha) = not_logged_in();
    space.run(&["hold", ID]).ok();
    alpha.submit(NEXT, "x");
    space.credentials("ANTHROPIC_API_KEY=other\n", 0o600);
    alpha.wait_view("no hold", |view| view["hold"].is_null());
    let why = format!("Held: {ID} was begun, and those behind it wait; job-monitor release {ID}\n");
    space.run(&["queue"]).ok().must_have(&why);
    space.run(&["release", ID]).ok();
    alpha.wait_completed(NEXT);
}

#[test]
fn a_login_that_is_mended_ends_the_hold_wherever_it_is_kept_and_whenever_it_comes() {
    let waits = format!("until [ -e go ]; do sleep 0.02; done; {REFUSED}");
    // Where the file is, and whether it is mended while the attempt still fails.
    for (variable, early) in [("HOME", false), ("ENV", false), ("AGENT", true)] {
        let (space, project) = one_project(&[if early { &waits } else { REFUSED }]);
        let dir = match variable {
            "HOME" => space.home().join(".claude"),
            _ => space.root().join("elsewhere"),
        };
        let line = format!("CLAUDE_CONFIG_DIR={}\n", dir.display());
        let env = json!({"CLAUDE_CONFIG_DIR": dir});
        match variable {
            "ENV" => space.credentials(&line, 0o600),
            "AGENT" => space.set(json!({"agents": {"claude": {"env": env}}})),
            _ => {}
        }
        space.start();
        project.submit(ID, "x");
        let mend = || {
            fs::create_dir_all(&dir).unwrap();
            replace(&dir.join(".credentials.json"), b"{}");
        };
        if early {
            wait_until("the start", || starts(&project) == 1);
            mend();
            project.touch("go");
        } else {
            project.wait_hold("not_authenticated");
            mend();
        }
        let result = project.wait_result(ID);
        assert_eq!(result["status"], "completed", "{variable}");
        assert_eq!(attempts(&result).len(), 2);
        space.wait_log("is lifted: its credentials or its program have changed");
    }
}

#[test]
fn another_agent_s_longer_hold_does_not_hide_a_login_that_is_mended() {
    let (space, alpha) = one_project(&[&limit_until(now() + 3600)]);
    space.set(json!({"agents": {"other": {"command": ["claude"]}}}));
    let other = space.project_with("other", json!({"agent": "other"}));
    script(&other, 1, REFUSED);
    space.start();
    for (project, kind) in [(&alpha, "usage_limit"), (&other, "not_authenticated")] {
        project.submit(ID, "x");
        project.wait_hold(kind);
    }
    fs::create_dir_all(space.home().join(".claude")).unwrap();
    replace(&space.home().join(".claude/.credentials.json"), b"{}");
    other.wait_completed(ID);
    alpha.wait_hold("usage_limit");
    assert_eq!((starts(&alpha), starts(&other)), (1, 2));
}

#[test]
fn after_a_limit_one_job_tries_before_all_others_start() {
    // Whoever probes waits until it is seen that the other does not start.
    let probes = "until [ -e go ]; do sleep 0.02; done; play text";
    let (space, alpha, beta) = two_projects(&[&limit_until(now() + 2), probes]);
    script(&beta, 1, probes);
    space.start();
    for project in [&alpha, &beta] {
        project.submit(ID, "x");
        project.wait_hold("usage_limit");
    }
    wait_until("a probe", || starts(&alpha) + starts(&beta) == 2);
    // Looks at all there is change nothing for the other.
    let other = if starts(&alpha) == 2 { &beta } else { &alpha };
    other.submit(NEXT, "x");
    other.wait_view("another job", |view| view["queue_size"] == 2);
    assert_eq!(starts(&alpha) + starts(&beta), 2);
    for project in [&alpha, &beta] {
        project.touch("go");
    }
    for project in [&alpha, &beta] {
        project.wait_completed(ID);
    }
}

#[test]
fn an_ill_service_holds_its_agent_everywhere_until_anybody_is_answered() {
    let (space, alpha, beta) = two_projects(&["play connection-refused-max-retries-1"]);
    script(&beta, 1, "until [ -e go ]; do sleep 0.02; done; play text");
    space.start();
    beta.submit(ID, "x");
    wait_until("the other's start", || starts(&beta) == 1);
    alpha.submit(ID, "x");
    let hold = alpha.wait_hold("network");
    assert_ne!(hold["until"], Value::Null);
    let all = space.run(&["status", "--json"]).json();
    all["holds"][0].must_have(json!({"kind": "network", "agent": "claude"}));
    // It ends well before the probe is due.
    beta.touch("go");
    let result = alpha.wait_completed(ID);
    assert_eq!(attempts(&result).len(), 2);
}

// --- the configuration ---

#[test]
fn links_in_the_configuration_are_followed() {
    for what in ["config.json", "registered.json", "everything"] {
        let (space, project) = alpha("cat > /dev/null; echo first > first");
        let other = space.project_with("beta", json!({"enabled": false}));
        // A link in its place, to where it lies from now on.
        let target = space.root().join("target");
        let place = match what {
            "everything" => space.config(),
            file => space.config().join(file),
        };
        fs::rename(&place, &target).unwrap();
        symlink(&target, &place).unwrap();
        space.start();
        project.run(ID, "x");
        let edit = |file: &str, old: &str, new: &str| {
            let real = fs::canonicalize(space.config().join(file)).unwrap();
            let text = fs::read_to_string(&real).unwrap();
            text.must_have(old);
            replace(&real, text.replace(old, new).as_bytes());
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
    let (space, project) = alpha("cat > /dev/null; sleep 0.1");
    space.start();
    for file in ["config.json", "registered.json"] {
        let path = space.config().join(file);
        let aside = space.config().join("aside");
        fs::rename(&path, &aside).unwrap();
        let id = format!("job-20260101-120000-{}", file.replace('.', "-"));
        project.complete(&id, "x");
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
        let (space, alpha) = alpha("cat > /dev/null; [ -e fixed ] || { echo odd >&2; exit 7; }");
        let beta = space.project("beta");
        space.start();
        alpha.submit_all(&[ID, NEXT]);
        assert_eq!(alpha.wait_result(NEXT)["error_kind"], "exit_code");
        assert_eq!(beta.run(ID, "x")["status"], "failed");
        beta.submit(NEXT, "x");
        let hold = beta.wait_hold("breaker");
        hold["reason"].must_have("odd");
        hold["reason"].must_have(&*format!("job-monitor retry {ID} {NEXT} {ID}"));
        assert!(beta.result(NEXT).is_none());
        // The probe, or a person's word: one that succeeds is enough.
        beta.touch("fixed");
        if by_hand {
            space.run(&["-p", "beta", "release", NEXT]).ok();
        } else {
            assert_eq!(space.stop(), 0);
            make_probes_due(&space);
            space.start();
        }
        beta.wait_completed(NEXT);
        alpha.touch("fixed");
        alpha.complete(LAST, "x");
    }
}

#[test]
fn after_a_failed_job_the_others_wait_where_that_is_wanted() {
    let space = Space::new();
    space.plain_agent("cat > /dev/null; [ -e fixed ]");
    let told = space.file("told", "");
    let words = "$JOB_MONITOR_PROJECT $JOB_MONITOR_HOLD $JOB_MONITOR_REASON";
    let hook = space.program("hook", &format!("echo {words} >> {told}"));
    space.set(json!({"on_hold": [hook], "breaker": 0}));
    let alpha = space.project_with("alpha", json!({"on_failure": "hold"}));
    let beta = space.project("beta");
    space.start();
    for project in [&alpha, &beta] {
        project.submit_all(&[ID, NEXT]);
    }
    beta.wait_result(NEXT);
    let hold = alpha.wait_hold("on_failure");
    hold["reason"].must_have(ID);
    let all = space.run(&["status", "--json"]).json();
    assert_eq!(all["holds"][0]["kind"], "on_failure", "{all}");
    let told = fs::read_to_string(told).unwrap();
    let begin = format!("alpha on_failure {ID}");
    assert!(told.starts_with(&begin), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    // A restart changes nothing; a person does.
    space.kill();
    space.start();
    alpha.wait_hold("on_failure");
    assert!(alpha.result(NEXT).is_none());
    alpha.touch("fixed");
    space.run(&["-p", "alpha", "release", NEXT]).ok();
    alpha.wait_completed(NEXT);
}

#[test]
fn a_hold_that_cannot_be_written_is_written_as_soon_as_it_can() {
    let (space, alpha) = alpha("cat > /dev/null; exit 1");
    space.set(json!({"on_failure": "hold"}));
    let in_the_way = space.state().join(".holds.json.tmp");
    space.start();
    fs::create_dir(&in_the_way).unwrap();
    alpha.submit(ID, "x");
    space.wait_log("it is tried again once a minute");
    fs::remove_dir(&in_the_way).unwrap();
    alpha.submit(NEXT, "x");
    let holds = space.state().join("holds.json");
    let is_written = || fs::read_to_string(&holds).is_ok_and(|text| text.contains("on_failure"));
    wait_until("the hold is on disk", is_written);
    space.kill();
    space.start();
    alpha.wait_hold("on_failure");
    assert_eq!(alpha.result(NEXT), None);
}

#[test]
fn a_release_lifts_the_hold_of_the_agent_that_the_document_names() {
    let (space, alpha) = alpha("cat > /dev/null");
    let agents = json!({"bad": {"command": ["/nowhere/agent"], "protocol": "plain"}});
    space.set(json!({"agents": agents, "agent": "claude"}));
    space.start();
    alpha.submit(ID, "---\nagent: bad\n---\nx");
    alpha.wait_hold("agent_missing");
    space.run(&["release", ID]).ok();
    space.wait_log("is lifted: released by hand");
}

#[test]
fn a_release_lifts_the_hold_of_the_agent_that_keeps_the_session() {
    let (space, alpha) = one_project(&["", REFUSED]);
    let agents = json!({"other": {"command": ["true"], "protocol": "plain"}});
    space.set(json!({"agents": agents, "agent": "other"}));
    space.start();
    let text = "---\nagent: claude\n---\nx";
    alpha.complete(ID, text);
    alpha.submit(NEXT, text);
    alpha.wait_hold("not_authenticated");
    alpha.submit(LAST, &format!("---\ncontinues: {ID}\n---\nx"));
    alpha.wait_view("both wait", |view| view["queue_size"] == 2);
    space.run(&["release", LAST]).ok();
    space.wait_log("is lifted: released by hand");
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
    let hold = project.wait_hold("hours");
    let seconds = ahead(&hold["until"]);
    assert!((100 * 60..=120 * 60).contains(&seconds), "{hold}");
    other.wait_result(ID);
    assert!(project.result(ID).is_none());
    space.run(&["-p", "alpha", "release", ID]).ok();
    project.wait_result(ID);
    project.run(NEXT, "x");
}

#[test]
fn a_usage_window_that_is_full_enough_holds_until_its_reset_also_over_a_restart() {
    let (space, alpha, beta) = two_projects(&[&warning_until(now() + 3600)]);
    space.start();
    alpha.complete(ID, "x");
    // The window is the account's: it was told of before anybody had set a ceiling.
    space.set(json!({"usage_ceiling": {"five_hour": 0.9}}));
    space.wait_log("the settings have changed");
    for project in [&alpha, &beta] {
        project.submit(NEXT, "x");
        is_in_an_hour(&project.wait_hold("usage_ceiling"));
    }
    space.kill();
    space.start();
    beta.wait_hold("usage_ceiling");
    assert_eq!(starts(&alpha) + starts(&beta), 1);
    space.run(&["release", "--all"]);
    for project in [&alpha, &beta] {
        project.wait_completed(NEXT);
    }
}

#[test]
fn a_hold_that_no_job_has_met_yet_is_told_everywhere_and_released_all_the_same() {
    let (space, project) = one_project(&[&warning_until(now() + 3600)]);
    space.set(json!({"usage_ceiling": 0.9}));
    space.start();
    project.run(ID, "x");
    let holds = || space.run(&["status", "--json"]).json()["holds"].clone();
    wait_until("the ceiling is told", || {
        holds()[0]["kind"] == "usage_ceiling"
    });
    let released = space.run(&["release", "--all"]);
    released.stdout.must_have("Lifted 1 hold");
    wait_until("it is lifted", || holds() == json!([]));
    project.complete(NEXT, "x");
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
    // What it cannot tell.
    let unknown = json!({"num_turns": null, "permission_denials": null});
    project.complete(ID, "x").must_have(unknown);
    project.submit(NEXT, "x");
    let hold = project.wait_hold("usage_ceiling");
    assert_eq!(hold["agent"], "codex", "{hold}");
    is_in_an_hour(&hold);
    hold["reason"].must_have("83% of the window five_hour");
    assert_eq!(project.made("started"), "x\n");
    space.run(&["release", NEXT]).ok();
    project.wait_completed(NEXT);
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
    project.wait_hold("overloaded");
    project.touch("fixed");
    space.run(&["-p", "alpha", "release", ID]).ok();
    project.wait_completed(ID);
    let started = project.made("started");
    let started: Vec<&str> = started.lines().collect();
    assert_eq!(started.len(), 2, "{started:?}");
    assert!(started.iter().all(|line| line.starts_with("--session-id ")));
    assert_ne!(started[0], started[1]);
}
