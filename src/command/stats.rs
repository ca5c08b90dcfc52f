//! `stats`: what the finished jobs came to, by project and day. What a result does not tell is not
//! counted.

use super::result::Finished;
use super::scope::Scope;
use super::terminal;
use crate::cli::Format;
use crate::error::Result;
use crate::job::JobId;
use crate::render::{self, Style, clean_line, fit};
use crate::spool::Spool;
use crate::time::{Wall, human};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::time::Duration;

/// A result is written after its job's end, but the clock of a file system may lag.
const SLACK: Duration = Duration::from_secs(60);
/// A bar of fewer columns tells nothing, and one of more no more.
const BAR_MIN: usize = 8;
const BAR_MAX: usize = 40;

#[derive(Serialize)]
struct Statistics {
    since: Option<Wall>,
    projects: Vec<ProjectStatistics>,
    total: Totals,
}

#[derive(Serialize)]
struct ProjectStatistics {
    name: String,
    days: Vec<Day>,
    total: Totals,
    /// Results of which nothing is known, and which are counted nowhere else.
    unreadable: u64,
}

#[derive(Serialize)]
struct Day {
    day: String,
    #[serde(flatten)]
    totals: Totals,
}

/// What the jobs of a day, of a project, or all of them came to. What no result tells is null.
#[derive(Default, Serialize)]
struct Totals {
    jobs: u64,
    completed: u64,
    failed: u64,
    cancelled: u64,
    success_rate: Option<f64>,
    median_seconds: Option<f64>,
    total_seconds: f64,
    input_tokens: Option<u64>,
    cached_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cost_usd: Option<f64>,
    /// Jobs that had a check, where there are some, and those that passed it at the first try.
    #[serde(skip_serializing_if = "Option::is_none")]
    checked: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checked_at_once: Option<u64>,
}

/// What one job came to. There may be a hundred thousand of them, so it is small.
struct Count {
    /// Whether it completed; `None` for one that a person took back.
    good: Option<bool>,
    seconds: Option<f32>,
    cost: Option<f32>,
    /// Input, cached and output.
    tokens: [Option<u32>; 3],
    /// Whether it had a check, and passed it at once.
    check: Option<bool>,
}

type Days = BTreeMap<String, Vec<Count>>;

/// Prints what the finished jobs of the projects in question came to.
pub(super) fn stats(scope: &Scope, since: Option<Wall>, format: Format) -> Result<()> {
    let mut projects = Vec::new();
    let mut all: Vec<Days> = Vec::new();
    for spool in scope.spools() {
        let (days, unreadable) = count(&spool, since)?;
        let day = |(day, counts): (&String, &Vec<Count>)| Day {
            day: day.clone(),
            totals: Totals::of(counts),
        };
        projects.push(ProjectStatistics {
            name: spool.project().name.clone(),
            days: days.iter().map(day).collect(),
            total: Totals::of(days.values().flatten()),
            unreadable,
        });
        all.push(days);
    }
    let unreadable: u64 = projects.iter().map(|project| project.unreadable).sum();
    if unreadable > 0 {
        render::note(&format!(
            "results that cannot be read are left out: {unreadable}; job-monitor status --all shows which"
        ));
    }
    let statistics = Statistics {
        since,
        projects,
        total: Totals::of(all.iter().flat_map(|days| days.values().flatten())),
    };
    render::answer(format, &statistics, || {
        let columns = terminal::size(io::stdout()).0;
        table(&statistics, Style::of_stdout(), columns)
    })
}

// --- counting ---

/// Counts the results of one project by local day, and those that cannot be read.
fn count(spool: &Spool, since: Option<Wall>) -> Result<(Days, u64)> {
    let mut days = Days::new();
    let mut unreadable = 0;
    spool.finished(&mut |id, written_ns| {
        let written = Wall(i64::try_from(written_ns / 1_000_000).unwrap_or(i64::MAX));
        if since.is_some_and(|since| written.plus(SLACK) < since) {
            return;
        }
        let Some(result) = JobId::exact(id).and_then(|id| Finished::of(spool, &id)) else {
            unreadable += 1;
            return;
        };
        // If it does not say when its job ended, that was when it was written.
        let ended = result.completed_at.get().unwrap_or(written);
        if since.is_none_or(|since| ended >= since) {
            days.entry(ended.day())
                .or_default()
                .push(Count::of(&result));
        }
    })?;
    Ok((days, unreadable))
}

impl Count {
    fn of(result: &Finished) -> Count {
        let span = || {
            let (from, to) = (result.started_at.get()?, result.completed_at.get()?);
            Some(to.since(from).as_secs_f64())
        };
        let usage = result.worker_output.usage.get().unwrap_or_default();
        // A forged number, too large or below 0, becomes the nearest that there is.
        let tokens = |key: &str| usage.get(key)?.as_f64().map(|tokens| tokens as u64);
        let cached = ["cache_creation_input_tokens", "cache_read_input_tokens"].map(tokens);
        let cached = sum(cached.into_iter());
        let checks = result.checks.get().unwrap_or_default();
        let small = |tokens: Option<u64>| tokens.map(|all| u32::try_from(all).unwrap_or(u32::MAX));
        let seconds = result.seconds().or_else(span);
        let cost = result.worker_output.cost_usd.get();
        Count {
            good: match result.word().as_str() {
                "completed" => Some(true),
                "cancelled" => None,
                // A result ends its job; one that does not say how did not end well.
                _ => Some(false),
            },
            // A job that had no start says nothing of how long jobs take.
            seconds: seconds.filter(|all| *all > 0.0).map(|all| all as f32),
            cost: cost.filter(|cost| *cost >= 0.0).map(|cost| cost as f32),
            tokens: [tokens("input_tokens"), cached, tokens("output_tokens")].map(small),
            check: checks.first().map(|check| check.exit_code == Some(0)),
        }
    }
}

/// The sum of what is known; `None` where nothing is.
fn sum(numbers: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    numbers.flatten().reduce(u64::saturating_add)
}

impl Totals {
    fn of<'a>(counts: impl IntoIterator<Item = &'a Count>) -> Totals {
        let counts: Vec<&Count> = counts.into_iter().collect();
        let number = |good| counts.iter().filter(|count| count.good == good).count() as u64;
        let tokens = |at: usize| sum(counts.iter().map(|count| count.tokens[at].map(u64::from)));
        let round = |number: f64, parts: f64| (number * parts).round() / parts;
        let (jobs, completed, cancelled) = (counts.len() as u64, number(Some(true)), number(None));
        // What a person took back tells nothing of how well jobs go.
        let judged = jobs - cancelled;
        let rate = completed as f64 / judged as f64;
        let seconds = counts.iter().filter_map(|count| count.seconds);
        let mut seconds: Vec<f64> = seconds.map(f64::from).collect();
        seconds.sort_unstable_by(f64::total_cmp);
        let middle = seconds.len() / 2;
        let pair = [
            seconds.get(middle.wrapping_sub(1 - seconds.len() % 2)),
            seconds.get(middle),
        ];
        let cost = counts
            .iter()
            .filter_map(|count| count.cost.map(f64::from))
            .reduce(|a, b| a + b);
        let checks = |at_once: bool| {
            let checks = counts.iter().filter_map(|count| count.check);
            sum(checks.map(|passed| Some(u64::from(passed || !at_once))))
        };
        Totals {
            jobs,
            completed,
            failed: judged - completed,
            cancelled,
            success_rate: (judged > 0).then(|| round(rate, 1e4)),
            median_seconds: pair[0].zip(pair[1]).map(|(a, b)| round((a + b) / 2.0, 1e3)),
            total_seconds: round(seconds.iter().sum::<f64>().abs(), 1e3),
            input_tokens: tokens(0),
            cached_tokens: tokens(1),
            output_tokens: tokens(2),
            // Below a ten-thousandth of a cent is the noise of adding binary fractions.
            cost_usd: cost.map(|cost| round(cost, 1e6)),
            checked: checks(false),
            checked_at_once: checks(true),
        }
    }
}

// --- showing ---

/// The table. The bars take what room is left of so many columns.
fn table(statistics: &Statistics, style: Style, columns: usize) -> String {
    let days = || statistics.projects.iter().flat_map(|project| &project.days);
    if statistics.total.jobs == 0 {
        let since = statistics
            .since
            .map(|at| format!(" since {}", at.short(Wall::now())));
        return format!("No job has finished{}\n", since.unwrap_or_default());
    }
    let checks = statistics.total.checked.is_some();
    let heads = [
        "Jobs", "Done", "Checks", "Median", "Total", "Tok in", "Tok out", "Cost",
    ];
    let head = row("", heads.map(str::to_owned), checks);
    let room = columns.saturating_sub(head.chars().count() + 2);
    let bars = Bars {
        style,
        width: if room < BAR_MIN { 0 } else { room.min(BAR_MAX) },
        most: days().map(|day| day.totals.jobs).max().unwrap_or(1),
    };
    let mut text = format!("{head}\n");
    for project in &statistics.projects {
        let _ = writeln!(text, "{}", clean_line(&project.name));
        for day in &project.days {
            let line = totals_row(&format!("  {}", day.day), &day.totals, checks);
            let _ = writeln!(text, "{line}{}", bars.bar(&day.totals));
        }
        if project.days.len() != 1 {
            let _ = writeln!(text, "{}", totals_row("  all days", &project.total, checks));
        }
    }
    if statistics.projects.len() > 1 {
        let line = totals_row("all projects", &statistics.total, checks);
        let _ = writeln!(text, "{line}");
    }
    if bars.width > 0 && statistics.total.completed < statistics.total.jobs {
        let (good, bad) = bars.signs(1, 1);
        let _ = writeln!(text, "{good} completed  {bad} failed or cancelled");
    }
    if !style.terminal {
        return text;
    }
    // The escape sequences of a bar's colours take no columns, and a line with a bar always fits.
    let fitted = text.lines().map(|line| match line.contains('\x1b') {
        true => line.to_owned(),
        false => fit(line, columns, style),
    });
    fitted.map(|line| line + "\n").collect()
}

fn row(name: &str, cells: [String; 8], with_checks: bool) -> String {
    let [jobs, done, checks, median, total, input, output, cost] = cells;
    let checks = match with_checks {
        true => format!("{checks:>8}"),
        false => String::new(),
    };
    format!(
        "{name:<12}{jobs:>7}{done:>6}{checks}{median:>9}{total:>9}{input:>8}{output:>8}{cost:>10}"
    )
}

fn totals_row(name: &str, totals: &Totals, with_checks: bool) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let input = sum([totals.input_tokens, totals.cached_tokens].into_iter());
    // Rounded down: 100% is said only where none failed.
    let done = (totals.completed * 100).checked_div(totals.completed + totals.failed);
    let checks = totals.checked_at_once.zip(totals.checked);
    let cells = [
        totals.jobs.to_string(),
        or_dash(done.map(|percent| format!("{percent}%"))),
        or_dash(checks.map(|(at_once, all)| format!("{at_once}/{all}"))),
        or_dash(totals.median_seconds.map(span)),
        or_dash(totals.median_seconds.map(|_| span(totals.total_seconds))),
        or_dash(input.map(tokens)),
        or_dash(totals.output_tokens.map(tokens)),
        or_dash(totals.cost_usd.map(money)),
    ];
    row(name, cells, with_checks)
}

struct Bars {
    style: Style,
    width: usize,
    most: u64,
}

impl Bars {
    /// So many signs for jobs that completed, and so many for others.
    fn signs(&self, good: usize, bad: usize) -> (String, String) {
        let (good_sign, bad_sign) = match self.style.unicode {
            true => ("█", "░"),
            false => ("#", "-"),
        };
        let paint = |color, sign: &str, times| match times {
            0 => String::new(),
            _ => self.style.paint(color, &sign.repeat(times)),
        };
        (paint("32", good_sign, good), paint("31", bad_sign, bad))
    }

    /// A bar as long as the day had jobs; those that did not complete stand at its end.
    fn bar(&self, totals: &Totals) -> String {
        if self.width == 0 || totals.jobs == 0 {
            return String::new();
        }
        let share = |part: u64, whole: u64, of: usize| (part * of as u64).div_ceil(whole) as usize;
        let length = share(totals.jobs, self.most, self.width);
        let mut good = share(totals.completed, totals.jobs, length);
        if totals.completed < totals.jobs {
            // One that failed is seen, if there is room for both.
            good = good.min((length - 1).max(usize::from(totals.completed > 0)));
        }
        let (good, bad) = self.signs(good, length - good);
        format!("  {good}{bad}")
    }
}

/// A duration of an agent's or of many; the first may be below a second.
fn span(seconds: f64) -> String {
    if seconds < 10.0 {
        return format!("{:.1}s", (seconds * 10.0).floor() / 10.0);
    }
    human(Duration::from_secs_f64(seconds))
}

fn tokens(number: u64) -> String {
    let number = number as f64;
    match number {
        0.0..1e3 => format!("{number}"),
        1e3..999_950.0 => format!("{:.1}k", number / 1e3),
        999_950.0..999_950e3 => format!("{:.1}M", number / 1e6),
        _ => format!("{:.1}G", number / 1e9),
    }
}

fn money(usd: f64) -> String {
    match usd {
        0.0..10.0 => format!("${usd:.4}"),
        10.0..1000.0 => format!("${usd:.2}"),
        _ => format!("${usd:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(results: &[&str]) -> Totals {
        let counts = results
            .iter()
            .map(|text| Count::of(&serde_json::from_str(text).unwrap()));
        Totals::of(&counts.collect::<Vec<_>>())
    }

    #[test]
    fn a_result_counts_for_what_it_tells_and_whatever_else_it_holds() {
        for text in [
            "{}",
            r#"{"status": 5, "duration_seconds": "long", "x": [{}]}"#,
            r#"{"status": null, "completed_at": [1, {"a": 2}]}"#,
            r#"{"status": {"a": "completed"}, "worker_output": {"usage": [1], "cost_usd": "$1"}}"#,
            r#"{"worker_output": {"usage": {"input_tokens": null, "output_tokens": true}}}"#,
        ] {
            let totals = totals(&[text]);
            assert_eq!((totals.jobs, totals.failed), (1, 1), "{text}");
            assert_eq!(
                (totals.cost_usd, totals.input_tokens),
                (None, None),
                "{text}"
            );
            assert_eq!(totals.median_seconds, None, "{text}");
        }
    }

    #[test]
    fn tokens_and_money_are_summed_and_what_nobody_told_stays_unknown() {
        let totals = totals(&[
            r#"{"status": "completed", "duration_seconds": 4, "checks": [{"started_at":
                "2026-01-30T10:00:00Z", "duration_seconds": 1, "exit_code": 0, "signal": null,
                "output": ""}], "worker_output": {"cost_usd": 0.1, "usage": {"input_tokens": 3,
                "output_tokens": 5, "cache_read_input_tokens": 70, "cache_creation_input_tokens": 10}}}"#,
            r#"{"status": "cancelled", "duration_seconds": 0}"#,
            r#"{"status": "completed", "worker_output": {"cost_usd": 0.2, "usage": {"input_tokens": 4}},
                "started_at": "2026-01-30T10:00:00Z", "completed_at": "2026-01-30T10:00:08Z"}"#,
        ]);
        assert_eq!((totals.jobs, totals.completed, totals.cancelled), (3, 2, 1));
        assert_eq!(totals.input_tokens, Some(7));
        assert_eq!(
            (totals.cached_tokens, totals.output_tokens),
            (Some(80), Some(5))
        );
        assert_eq!(totals.cost_usd, Some(0.3));
        // A job that was withdrawn took no time, and says nothing of how long jobs take.
        assert_eq!(
            (totals.median_seconds, totals.total_seconds),
            (Some(6.0), 12.0)
        );
        assert_eq!((totals.checked_at_once, totals.checked), (Some(1), Some(1)));
    }

    #[test]
    fn forged_numbers_of_tokens_do_not_overflow() {
        let forged = r#"{"worker_output": {"usage": {"input_tokens": 18446744073709551615,
            "output_tokens": -5, "cache_read_input_tokens": 1e300}}}"#;
        let all = totals(&[forged, forged, forged]);
        let most = Some(3 * u64::from(u32::MAX));
        assert_eq!((all.input_tokens, all.output_tokens), (most, Some(0)));
        assert_eq!(all.cached_tokens, most);
        totals_row("", &all, true);
    }

    #[test]
    fn a_cancelled_job_is_neither_a_success_nor_a_failure() {
        for (statuses, rate) in [
            (&["completed", "cancelled"][..], Some(1.0)),
            (
                &["completed", "failed", "completed", "cancelled"],
                Some(0.6667),
            ),
            (&["failed", "cancelled"], Some(0.0)),
            (&["cancelled"], None),
        ] {
            let texts: Vec<String> = statuses
                .iter()
                .map(|status| format!(r#"{{"status": "{status}"}}"#))
                .collect();
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            assert_eq!(totals(&texts).success_rate, rate, "{statuses:?}");
        }
    }

    #[test]
    fn a_bar_shows_how_many_and_that_one_failed() {
        let bars = Bars {
            style: Style {
                color: false,
                unicode: false,
                terminal: false,
            },
            width: 10,
            most: 20,
        };
        let bar = |jobs, completed| {
            let totals = Totals {
                jobs,
                completed,
                ..Totals::default()
            };
            bars.bar(&totals).trim_start().to_owned()
        };
        assert_eq!(bar(20, 20), "##########");
        assert_eq!(bar(20, 19), "#########-");
        assert_eq!(bar(20, 1), "#---------");
        assert_eq!(
            (bar(20, 0), bar(1, 1), bar(1, 0)),
            ("-".repeat(10), "#".into(), "-".into())
        );
        for jobs in 1..=20 {
            for completed in 0..=jobs {
                assert!((1..=10).contains(&bar(jobs, completed).len()));
            }
        }
    }

    #[test]
    fn numbers_are_short_enough_for_their_columns() {
        let told = [0, 999, 1000, 12_345, 999_949, 999_950, 56_600_000_000].map(tokens);
        assert_eq!(
            told,
            ["0", "999", "1.0k", "12.3k", "999.9k", "1.0M", "56.6G"]
        );
        let told = [0.0, 1.5, 12.0, 125_070.49].map(money);
        assert_eq!(told, ["$0.0000", "$1.5000", "$12.00", "$125070"]);
        assert_eq!([0.25, 9.96, 75.0].map(span), ["0.2s", "9.9s", "1m 15s"]);
    }
}
