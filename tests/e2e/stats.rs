//! `stats` sums up results, whoever wrote them.

use crate::space::{MustHave, Project, Space, make_old};
use serde_json::{Value, json};
use std::fs;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(86_400);

fn stats(space: &Space, args: &[&str]) -> Value {
    let args = [&["stats", "--json"], args].concat();
    let ran = space.run(&args);
    assert_eq!(ran.status, 0, "{ran:?}");
    ran.json()
}

/// Three days of two projects, in a zone of their own.
fn finished() -> (Space, Project) {
    let (space, alpha) = Space::with_project();
    let beta = space.project("beta");
    space.env("TZ", "EST5");
    let usage = |input: u64, output: u64| json!({"input_tokens": input, "output_tokens": output, "cache_read_input_tokens": 1000});
    let done = |status: &str, at: &str, seconds: f64, output: Value| {
        json!({"status": status, "completed_at": at, "duration_seconds": seconds,
            "worker_output": output, "stdout": "x".repeat(5000)})
    };
    // Eleven at night of the 28th in this zone.
    let output = json!({"usage": usage(10, 20), "cost_usd": 0.5});
    let document = done("completed", "2026-01-29T04:00:00Z", 60.0, output);
    alpha.put_result("job-20260128-200000-a", &document);
    for (id, status, seconds) in [
        ("job-20260129-100000-b", "completed", 10.0),
        ("job-20260129-110000-c", "failed", 20.0),
        ("job-20260129-120000-d", "completed", 600.0),
        ("job-20260129-130000-e", "cancelled", 0.0),
    ] {
        let output = json!({"usage": usage(1, 2), "cost_usd": 0.25});
        let document = done(status, "2026-01-29T12:00:00-05:00", seconds, output);
        alpha.put_result(id, &document);
    }
    let output = json!({"summary": "plain", "usage": null, "cost_usd": null});
    let document = done("completed", "2026-01-30T12:00:00-05:00", 5.0, output);
    beta.put_result("job-20260130-100000-f", &document);
    (space, alpha)
}

#[test]
fn jobs_are_summed_by_project_and_local_day() {
    let (space, _) = finished();
    let told = stats(&space, &[]);
    let [alpha, beta] = [&told["projects"][0], &told["projects"][1]];
    let days = json!([
        {"day": "2026-01-28", "jobs": 1, "completed": 1, "failed": 0, "cancelled": 0,
            "success_rate": 1.0, "median_seconds": 60.0, "total_seconds": 60.0,
            "input_tokens": 10, "cached_tokens": 1000, "output_tokens": 20, "cost_usd": 0.5,
            "checked": 0, "checked_at_once": 0},
        {"day": "2026-01-29", "jobs": 4, "completed": 2, "failed": 1, "cancelled": 1,
            "success_rate": 0.6667, "median_seconds": 20.0, "total_seconds": 630.0,
            "input_tokens": 4, "cached_tokens": 4000, "output_tokens": 8, "cost_usd": 1.0,
            "checked": 0, "checked_at_once": 0},
    ]);
    assert_eq!(alpha["days"], days);
    let total = json!({"median_seconds": 40.0, "jobs": 5});
    alpha.must_have(json!({"name": "alpha", "unreadable": 0, "total": total}));
    // Nobody told what it cost; that is not the same as nothing.
    assert_eq!(beta["total"]["cost_usd"], Value::Null);
    told.must_have(json!({"total": {"jobs": 6, "cost_usd": 1.5}}));
    let one = stats(&space, &["-p", "beta"]);
    one.must_have(json!({"projects": [{"name": "beta"}], "total": {"jobs": 1}}));
}

#[test]
fn a_person_sees_a_table_with_a_bar_for_each_day() {
    let (space, _) = finished();
    let text = space.run(&["stats"]).ok();
    let expected = [
        "               Jobs  Done      Time    Tok. in  Tok. out       Cost",
        "alpha",
        "  2026-01-28      1  100%    1m 00s         10        20    $0.5000  ███",
        "  2026-01-29      4   66%   10m 30s          4         8    $1.0000  █████░░░░░░",
        "  all days        5   75%   11m 30s         14        28    $1.5000",
        "beta",
        "  2026-01-30      1  100%        5s          -         -          -  ███",
        "  all days        1  100%        5s          -         -          -",
        "all projects      6   80%   11m 35s         14        28    $1.5000",
        "█ completed  ░ failed or cancelled",
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    assert!(text.lines().all(|line| line.chars().count() <= 80));
    space.env("LANG", "C");
    let text = space.run(&["stats"]).ok();
    assert!(text.is_ascii(), "{text}");
    text.must_have("$1.0000  #####------");
}

#[test]
fn checks_have_a_column_where_there_are_any() {
    let (space, alpha) = Space::with_project();
    space.env("TZ", "EST5");
    let at = "2026-01-29T12:00:00Z";
    for (n, codes) in [&[1, 0][..], &[0], &[]].iter().enumerate() {
        let check = |code: &i32| json!({"started_at": at, "duration_seconds": 1.0, "exit_code": code, "signal": null, "output": ""});
        let checks: Vec<Value> = codes.iter().map(check).collect();
        let document = json!({"status": "completed", "completed_at": at, "duration_seconds": 10.0, "checks": checks});
        alpha.put_result(&format!("job-20260129-10000{n}-x"), &document);
    }
    let text = space.run(&["stats"]).ok();
    let lines: Vec<&str> = text.lines().collect();
    // Of two jobs with a check one passed it at once.
    let expected = [
        "               Jobs  Done  Checks      Time    Tok. in  Tok. out       Cost",
        "alpha",
        "  2026-01-29      3  100%     1/2       30s          -         -          -  ███",
    ];
    assert_eq!(lines[..3], expected);
}

#[test]
fn old_results_are_left_out_and_need_not_even_be_readable() {
    let (space, alpha) = finished();
    let [first, second] = ["28", "29"].map(|day| json!({"day": format!("2026-01-{day}")}));
    for (since, days) in [
        ("2026-01-30", json!([])),
        ("2026-01-29", json!([second])),
        ("2026-01-28", json!([first, second])),
    ] {
        let told = stats(&space, &["--since", since]);
        told["projects"][0]["days"].must_have(days);
    }
    // A result that cannot be read ended its job all the same, when it was written.
    let old = alpha.results("job-20260101-100000-old.json");
    fs::write(&old, "{").unwrap();
    let told = stats(&space, &["--since", "3d"]);
    assert_eq!(told["total"]["failed"], 1);
    assert_eq!(told["projects"][0]["unreadable"], 1);
    make_old(&old, DAY * 5);
    assert_eq!(stats(&space, &["--since", "3d"])["total"]["jobs"], 0);
    assert_eq!(stats(&space, &[])["total"]["jobs"], 7);
}

#[test]
fn results_of_the_predecessor_and_broken_ones_count_for_what_they_tell() {
    let space = Space::new();
    let old = space.project_with("old", json!({"layout": "tasks"}));
    let id = "task-clean-up-20260101-100000";
    let text_alone = json!({"task_id": id, "status": "completed", "started_at": "2026-01-01T10:00:00",
        "completed_at": "2026-01-01T10:00:30.123456", "worker_output": "all done"});
    let odd = json!({"status": "odd", "completed_at": "2026-01-02T10:00:00",
        "worker_output": {"usage": "much"}});
    let without_times = json!({"status": "completed", "duration_seconds": null});
    old.put_result(id, &text_alone);
    old.put_result("task-y", &odd);
    old.put_result("task-z", &json!(["no object"]));
    make_old(&old.put_result("task-x", &without_times), DAY * 3);
    let told = stats(&space, &[]);
    let project = &told["projects"][0];
    project.must_have(json!({
        "days": [
            {"day": "2026-01-01"},
            {"day": "2026-01-02", "failed": 1},
            {},
            // The one that is no result.
            {"failed": 1},
        ],
        "total": {"completed": 2, "cost_usd": null},
    }));
}

#[test]
fn a_result_of_any_size_is_read() {
    let (space, alpha) = Space::with_project();
    for size in [1, 65_000, 65_450, 65_536, 70_000, 8_000_000] {
        let text = "\"\\ü\n".repeat(size / 5);
        let document = json!({"a": text, "status": "completed", "completed_at": "2026-01-30T10:00:00Z",
            "worker_output": {"summary": text, "cost_usd": 1.0}});
        alpha.put_result(&format!("job-20260130-100000-{size}"), &document);
    }
    let told = stats(&space, &[]);
    told.must_have(json!({"total": {"completed": 6, "cost_usd": 6.0}}));
}
