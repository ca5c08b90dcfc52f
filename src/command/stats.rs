//! `stats`: what the finished jobs came to, by project and day.
//!
//! Results are read one by one and forgotten, so that memory grows with days and not with what
//! agents wrote. What a result does not tell is not counted.

use super::finished::Brief;
use super::projects::Scope;
use super::terminal;
use crate::cli::Format;
use crate::error::{Error, Result};
use crate::job::JobId;
use crate::peek::Peek;
use crate::render::{self, Style, clean_line, fit};
use crate::spool::Spool;
use crate::time::{Wall, human, parse_duration};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io;
use std::time::Duration;

/// So many durations of a day are kept for its median. A project runs one job at a time, so that
/// a day has room for more only if none takes a minute; then every second one will do.
const DURATIONS_MAX: usize = 2048;
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
#[derive(Serialize)]
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
}

/// Prints what the finished jobs of the projects in question came to.
pub(super) fn stats(scope: &Scope, since: Option<&str>, format: Format) -> Result<()> {
    let since = since.map(beginning).transpose()?;
    let mut projects = Vec::new();
    let mut all = Tally::default();
    for spool in scope.spools() {
        let (days, unreadable) = tally(&spool, since)?;
        let mut own = Tally::default();
        days.values().for_each(|day| own.merge(day));
        all.merge(&own);
        let days = days.into_iter().map(|(day, tally)| Day {
            day,
            totals: tally.totals(),
        });
        projects.push(ProjectStatistics {
            name: spool.project().name.clone(),
            days: days.collect(),
            total: own.totals(),
            unreadable,
        });
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
        total: all.totals(),
    };
    render::answer(format, &statistics, || {
        let columns = terminal::size(io::stdout()).0;
        table(&statistics, Style::of_stdout(), columns)
    })
}

/// The time that `--since` means: the beginning of a local day, or so long ago.
fn beginning(since: &str) -> Result<Wall> {
    if let Some(ago) = parse_duration(since) {
        let ago = i64::try_from(ago.as_millis()).unwrap_or(i64::MAX);
        return Ok(Wall(Wall::now().0.saturating_sub(ago)));
    }
    Wall::parse(&format!("{since}T00:00:00")).ok_or_else(|| {
        Error::new(format!(
            "--since needs a date such as 2026-01-30 or a duration such as 7d, not {since:?}"
        ))
    })
}

// --- counting ---

#[derive(Default)]
struct Tally {
    jobs: u64,
    completed: u64,
    failed: u64,
    cancelled: u64,
    durations: Durations,
    seconds: f64,
    input: Option<u64>,
    cached: Option<u64>,
    output: Option<u64>,
    cost: Option<f64>,
}

/// Durations for a median: all of them, or, where they are many, evenly spread ones.
struct Durations {
    kept: Vec<f64>,
    stride: u64,
    seen: u64,
}

/// Counts the results of one project by local day, and those that cannot be read.
fn tally(spool: &Spool, since: Option<Wall>) -> Result<(BTreeMap<String, Tally>, u64)> {
    let mut days: BTreeMap<String, Tally> = BTreeMap::new();
    let mut unreadable = 0;
    let mut peek = Peek::default();
    spool.finished(&mut |id, written_ns| {
        let written = Wall(i64::try_from(written_ns / 1_000_000).unwrap_or(i64::MAX));
        if since.is_some_and(|since| written.plus(SLACK) < since) {
            return;
        }
        let result = JobId::exact(id).and_then(|id| spool.open_result(&id).ok()?);
        let brief = match result {
            Some(result) => Brief::read(&result, &mut peek),
            None => Brief::unreadable(),
        };
        // If it does not say when its job ended, that was when it was written.
        let ended = brief.completed_at().unwrap_or(written);
        if !brief.is_readable() {
            unreadable += 1;
        } else if since.is_none_or(|since| ended >= since) {
            days.entry(ended.day()).or_default().add(&brief);
        }
    })?;
    Ok((days, unreadable))
}

impl Tally {
    fn add(&mut self, result: &Brief) {
        self.jobs += 1;
        match result.status().as_str() {
            "completed" => self.completed += 1,
            "cancelled" => self.cancelled += 1,
            // A result ends its job; one that does not say how did not end well.
            _ => self.failed += 1,
        }
        if let Some(seconds) = seconds(result) {
            self.durations.add(seconds);
            self.seconds += seconds;
        }
        add(
            &mut self.cost,
            result.cost_usd().filter(|cost| *cost >= 0.0),
        );
        if let Some(usage) = result.usage() {
            // The conversion of a number too large, or below 0, ends at the nearest that there is.
            let tokens = |key: &str| usage[key].as_f64().map(|tokens| tokens as u64);
            add(&mut self.input, tokens("input_tokens"));
            add(&mut self.output, tokens("output_tokens"));
            add(&mut self.cached, tokens("cache_creation_input_tokens"));
            add(&mut self.cached, tokens("cache_read_input_tokens"));
        }
    }

    fn merge(&mut self, other: &Tally) {
        self.jobs += other.jobs;
        self.completed += other.completed;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
        self.durations.merge(&other.durations);
        self.seconds += other.seconds;
        add(&mut self.input, other.input);
        add(&mut self.cached, other.cached);
        add(&mut self.output, other.output);
        add(&mut self.cost, other.cost);
    }

    fn totals(mut self) -> Totals {
        // What a person took back tells nothing of how well jobs go.
        let judged = self.completed + self.failed;
        let rate = self.completed as f64 / judged as f64;
        let thousandths = |seconds: f64| (seconds * 1000.0).round() / 1000.0;
        Totals {
            jobs: self.jobs,
            completed: self.completed,
            failed: self.failed,
            cancelled: self.cancelled,
            success_rate: (judged > 0).then_some((rate * 1e4).round() / 1e4),
            median_seconds: self.durations.median().map(thousandths),
            total_seconds: thousandths(self.seconds),
            input_tokens: self.input,
            cached_tokens: self.cached,
            output_tokens: self.output,
            // Below a ten-thousandth of a cent is the noise of adding binary fractions.
            cost_usd: self.cost.map(|cost| (cost * 1e6).round() / 1e6),
        }
    }
}

fn add<T: std::ops::Add<Output = T>>(sum: &mut Option<T>, more: Option<T>) {
    *sum = match (sum.take(), more) {
        (Some(sum), Some(more)) => Some(sum + more),
        (sum, more) => sum.or(more),
    };
}

impl Default for Durations {
    fn default() -> Durations {
        Durations {
            kept: Vec::new(),
            stride: 1,
            seen: 0,
        }
    }
}

impl Durations {
    fn add(&mut self, seconds: f64) {
        if self.seen.is_multiple_of(self.stride) {
            self.kept.push(seconds);
        }
        self.seen += 1;
        if self.kept.len() > DURATIONS_MAX {
            self.thin();
        }
    }

    /// Takes in others, so that each one kept still stands for as many.
    fn merge(&mut self, other: &Durations) {
        while self.stride < other.stride {
            self.thin();
        }
        let step = usize::try_from(self.stride / other.stride).unwrap_or(usize::MAX);
        self.kept.extend(other.kept.iter().step_by(step));
        self.seen += other.seen;
        while self.kept.len() > DURATIONS_MAX {
            self.thin();
        }
    }

    fn thin(&mut self) {
        let mut keep = false;
        self.kept.retain(|_| {
            keep = !keep;
            keep
        });
        self.stride *= 2;
    }

    fn median(&mut self) -> Option<f64> {
        self.kept.sort_unstable_by(f64::total_cmp);
        let middle = self.kept.len() / 2;
        let upper = *self.kept.get(middle)?;
        if self.kept.len() % 2 == 1 {
            return Some(upper);
        }
        Some((self.kept[middle - 1] + upper) / 2.0)
    }
}

/// How long an agent was at work; nothing for a job that had no start.
fn seconds(result: &Brief) -> Option<f64> {
    let told = result.seconds().or_else(|| {
        let (started, ended) = (result.started_at()?, result.completed_at()?);
        Some(ended.since(started).as_secs_f64())
    });
    told.filter(|seconds| *seconds > 0.0)
}

// --- showing ---

/// The table, in so many columns.
fn table(statistics: &Statistics, style: Style, columns: usize) -> String {
    let days = || {
        let projects = statistics.projects.iter();
        projects.flat_map(|project| &project.days)
    };
    if statistics.total.jobs == 0 {
        let since = statistics
            .since
            .map(|since| format!(" since {}", since.short(Wall::now())));
        return format!("No job has finished{}\n", since.unwrap_or_default());
    }
    let heads = [
        "Jobs", "Done", "Median", "Total", "Tok in", "Tok out", "Cost",
    ]
    .map(str::to_owned);
    // Where not all has room, the tokens stay away: what they cost is told.
    let tokens = columns >= row("", &heads, true).len();
    let head = row("", &heads, tokens);
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
            let line = totals_row(&format!("  {}", day.day), &day.totals, tokens);
            let _ = writeln!(text, "{line}{}", bars.bar(&day.totals));
        }
        if project.days.len() != 1 {
            let _ = writeln!(text, "{}", totals_row("  all days", &project.total, tokens));
        }
    }
    if statistics.projects.len() > 1 {
        let _ = writeln!(
            text,
            "{}",
            totals_row("all projects", &statistics.total, tokens)
        );
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

fn row(name: &str, cells: &[String; 7], tokens: bool) -> String {
    let [jobs, done, median, total, input, output, cost] = cells;
    let tokens = match tokens {
        true => format!("{input:>8}{output:>8}"),
        false => String::new(),
    };
    format!("{name:<12}{jobs:>7}{done:>6}{median:>9}{total:>9}{tokens}{cost:>10}")
}

fn totals_row(name: &str, totals: &Totals, with_tokens: bool) -> String {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let mut input = totals.input_tokens;
    add(&mut input, totals.cached_tokens);
    // Rounded down: 100% is said only where none failed.
    let done = (totals.completed * 100).checked_div(totals.completed + totals.failed);
    let cells = [
        totals.jobs.to_string(),
        or_dash(done.map(|percent| format!("{percent}%"))),
        or_dash(totals.median_seconds.map(span)),
        or_dash(totals.median_seconds.map(|_| span(totals.total_seconds))),
        or_dash(input.map(tokens)),
        or_dash(totals.output_tokens.map(tokens)),
        or_dash(totals.cost_usd.map(money)),
    ];
    row(name, &cells, with_tokens)
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

    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::fs::File;
    use std::io::Write as _;

    fn brief(text: &str) -> Brief {
        let mut file = File::from(memfd_create(c"result", MFdFlags::empty()).unwrap());
        file.write_all(text.as_bytes()).unwrap();
        Brief::of(&file)
    }

    #[test]
    fn a_result_counts_for_what_it_tells_and_whatever_else_it_holds() {
        for text in [
            "{}",
            r#"{"status": 5, "duration_seconds": "long", "worker_output": "text", "x": [{}]}"#,
            r#"{"status": null, "completed_at": [1, {"a": 2}], "worker_output": null}"#,
            r#"{"status": {"a": "completed"}, "worker_output": {"usage": [1], "cost_usd": "$1"}}"#,
            r#"{"worker_output": {"usage": {"input_tokens": null, "output_tokens": true}}}"#,
        ] {
            let mut tally = Tally::default();
            tally.add(&brief(text));
            let totals = tally.totals();
            assert_eq!((totals.jobs, totals.failed), (1, 1), "{text}");
            assert_eq!(
                (totals.cost_usd, totals.input_tokens),
                (None, None),
                "{text}"
            );
            assert_eq!(totals.median_seconds, None, "{text}");
        }
        for broken in ["", "[]", "{", "{\"status\": }", "null", "7", "{} {}"] {
            assert!(!brief(broken).is_readable(), "{broken}");
        }
    }

    #[test]
    fn tokens_and_money_are_summed_and_what_nobody_told_stays_unknown() {
        let mut tally = Tally::default();
        tally.add(&brief(
            r#"{"status": "completed", "duration_seconds": 4, "worker_output": {"cost_usd": 0.1,
                "usage": {"input_tokens": 3, "output_tokens": 5, "cache_read_input_tokens": 70,
                "cache_creation_input_tokens": 10}}}"#,
        ));
        tally.add(&brief(r#"{"status": "cancelled", "duration_seconds": 0}"#));
        tally.add(&brief(
            r#"{"status": "completed", "worker_output": {"cost_usd": 0.2, "usage": {"input_tokens": 4}},
                "started_at": "2026-01-30T10:00:00Z", "completed_at": "2026-01-30T10:00:08Z"}"#,
        ));
        let totals = tally.totals();
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
    }

    #[test]
    fn a_cancelled_job_is_neither_a_success_nor_a_failure() {
        let rate = |statuses: &[&str]| {
            let mut tally = Tally::default();
            for status in statuses {
                tally.add(&brief(&format!(r#"{{"status": "{status}"}}"#)));
            }
            let totals = tally.totals();
            assert_eq!(totals.jobs, statuses.len() as u64);
            let shown = totals_row("", &totals, false);
            let done = shown.split_whitespace().nth(1).unwrap().to_owned();
            (totals.success_rate, done)
        };
        let told = |rate: Option<f64>, done: &str| (rate, done.to_owned());
        assert_eq!(rate(&["completed", "cancelled"]), told(Some(1.0), "100%"));
        assert_eq!(
            rate(&["completed", "failed", "completed", "cancelled"]),
            told(Some(0.6667), "66%")
        );
        assert_eq!(rate(&["failed", "cancelled"]), told(Some(0.0), "0%"));
        assert_eq!(rate(&["cancelled"]), told(None, "-"));
    }

    #[test]
    fn the_median_of_very_many_is_near_and_its_memory_bounded() {
        let mut all = Durations::default();
        for days in 0..7 {
            let mut day = Durations::default();
            // Different numbers of jobs, so that the days are thinned differently.
            for number in 0..30_000 << (days % 3) {
                day.add(f64::from(number * 7919 % 10_000));
            }
            assert!(day.kept.len() <= DURATIONS_MAX);
            all.merge(&day);
            assert!(all.kept.len() <= DURATIONS_MAX);
        }
        let median = all.median().unwrap();
        assert!((4500.0..5500.0).contains(&median), "{median}");
        let mut few = Durations::default();
        for seconds in [5.0, 1.0, 9.0, 2.0] {
            few.add(seconds);
        }
        assert_eq!(few.median(), Some(3.5));
        assert_eq!(Durations::default().median(), None);
    }

    #[test]
    fn a_bar_shows_how_many_and_that_one_failed() {
        let bars = Bars {
            style: Style {
                color: false,
                unicode: false,
                ascii_only: true,
                terminal: false,
            },
            width: 10,
            most: 20,
        };
        let bar = |jobs, completed| {
            let mut tally = Tally::default();
            (tally.jobs, tally.completed) = (jobs, completed);
            bars.bar(&tally.totals()).trim_start().to_owned()
        };
        assert_eq!(bar(20, 20), "##########");
        assert_eq!(bar(20, 19), "#########-");
        assert_eq!(bar(20, 1), "#---------");
        assert_eq!(bar(20, 0), "----------");
        assert_eq!(bar(1, 1), "#");
        assert_eq!(bar(1, 0), "-");
        assert_eq!(bar(2, 1), "#");
        for jobs in 1..=20 {
            for completed in 0..=jobs {
                assert!((1..=10).contains(&bar(jobs, completed).len()));
            }
        }
    }

    #[test]
    fn a_narrow_terminal_loses_the_bars_then_the_tokens_and_the_cost_last() {
        let mut tally = Tally::default();
        tally.add(&brief(
            r#"{"status": "completed", "duration_seconds": 5, "worker_output": {"cost_usd": 0.5,
                "usage": {"input_tokens": 77, "output_tokens": 88}}}"#,
        ));
        let (mut all, mut all_again) = (Tally::default(), Tally::default());
        all.merge(&tally);
        all_again.merge(&tally);
        let statistics = Statistics {
            since: None,
            projects: vec![ProjectStatistics {
                name: "alpha".to_owned(),
                days: vec![Day {
                    day: "2026-01-30".to_owned(),
                    totals: tally.totals(),
                }],
                total: all.totals(),
                unreadable: 0,
            }],
            total: all_again.totals(),
        };
        let style = Style {
            color: false,
            unicode: true,
            ascii_only: false,
            terminal: true,
        };
        let shown = |columns| {
            let text = table(&statistics, style, columns);
            let wide = |line: &str| line.chars().count() <= columns;
            assert!(text.lines().all(wide), "{columns}: {text}");
            ["█", "Tok out", "$0.5000"].map(|part| text.contains(part))
        };
        assert_eq!(shown(80), [true, true, true]);
        assert_eq!(shown(70), [false, true, true]);
        assert_eq!(shown(60), [false, false, true]);
        for columns in 0..200 {
            shown(columns);
        }
    }

    #[test]
    fn numbers_are_short_enough_for_their_columns() {
        let told = [0, 999, 1000, 12_345, 999_949, 999_950, 56_600_000_000].map(tokens);
        assert_eq!(
            told,
            ["0", "999", "1.0k", "12.3k", "999.9k", "1.0M", "56.6G"]
        );
        assert_eq!(
            [0.0, 1.5, 12.0, 125_070.49].map(money),
            ["$0.0000", "$1.5000", "$12.00", "$125070"]
        );
        assert_eq!([0.25, 9.96, 75.0].map(span), ["0.2s", "9.9s", "1m 15s"]);
    }
}
