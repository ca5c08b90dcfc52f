//! Every recorded run, played by a program through the whole monitor: same bytes, same exit, same standard
//! error. What each must come to stands in `tests/fixtures/expect.tsv`, by which the unit tests judge, too.

use crate::space::{BOUND, Project, Space, wait_longer};
use serde_json::{Value, json};
use std::fs;

const ID: &str = "job-20260101-120000-played";
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures");

/// Plays `$1/$2`; codex writes its rollout file where it keeps them, under the thread's own name.
const PLAYER: &str = r#"cat > /dev/null
cd 'FIXTURES'
if [ -e "$1/$2.rollout.jsonl" ]; then
    thread=$(sed -n '1s/.*"thread_id":"\([0-9a-f-]*\)".*/\1/p' "$1/$2.jsonl")
    mkdir -p "$CODEX_HOME/sessions/2026/11/28"
    cp "$1/$2.rollout.jsonl" "$CODEX_HOME/sessions/2026/11/28/rollout-2026-11-28T20-00-00-$thread.jsonl"
fi
cat "$1/$2.jsonl"; cat "$1/$2.stderr" >&2
case $3 in signal:*) kill -"${3#signal:}" $$ ;; esac
exit "$3""#;

#[test]
fn every_recorded_run_comes_to_what_the_table_says() {
    let table = fs::read_to_string(format!("{FIXTURES}/expect.tsv")).unwrap();
    let rows = table.lines().filter(|row| !row.starts_with('#'));
    let rows: Vec<Vec<&str>> = rows.map(|row| row.split('\t').collect()).collect();
    let space = Space::new();
    let player = space.program("player", &PLAYER.replace("FIXTURES", FIXTURES));
    let name = |row: &[&str]| format!("{}-{}", row[0], row[1]);
    // An agent for each, so that the holds of one do not keep the others.
    let agents = rows.iter().map(|row| {
        let agent = json!({"protocol": row[0], "command": [player, row[0], row[1], row[2]],
            "env": {"CODEX_HOME": space.root().join("codex").join(name(row))}});
        (name(row), agent)
    });
    let agents: serde_json::Map<String, Value> = agents.collect();
    space.set(json!({"agents": agents, "max_parallel": 4, "breaker": 0}));
    let projects = rows
        .iter()
        .map(|row| space.project_with(&name(row), json!({"agent": name(row)})));
    let projects: Vec<Project> = projects.collect();
    for project in &projects {
        project.submit(ID, "x");
    }
    space.start();
    for (row, project) in rows.iter().zip(&projects) {
        let what = row.join(" ");
        let suspended = || -> Option<Value> {
            let claim = project.claim(ID)?;
            let claim: Value = serde_json::from_str(claim.lines().next()?).ok()?;
            Some(claim["suspended"]["kind"].clone()).filter(|kind| !kind.is_null())
        };
        // All of them run meanwhile.
        wait_longer(BOUND * 4, &what, || {
            let is_over = project.result(ID).is_some() || suspended().is_some();
            is_over.then_some(())
        });
        let Some(result) = project.result(ID) else {
            // A hold, or another try, which is no business of this table.
            assert_eq!(suspended(), Some(json!(row[3])), "{what}");
            continue;
        };
        if row[3] == "completed" {
            assert_eq!(result["status"], "completed", "{what}: {result}");
            assert!(result["worker_output"]["summary"].is_string(), "{what}");
        } else {
            assert_eq!(result["status"], "failed", "{what}: {result}");
            assert_eq!(result["error_kind"], row[3], "{what}: {result}");
            let error = result["error"].as_str().unwrap();
            assert!(error.contains(row.get(5).unwrap_or(&"")), "{what}: {error}");
        }
    }
}
