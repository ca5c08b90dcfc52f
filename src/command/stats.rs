//! `stats`: what the finished jobs came to, by project and day. What a result does not tell is not
//! counted.

use super::*;

/// A bar of more columns tells no more.
const BAR_MAX: usize = 40;

#[derive(Default, Serialize)]
struct Project {
    name: String,
    days: Vec<Totals>,
    total: Totals,
    /// Results of which nothing is known, and which are counted nowhere else.
    unreadable: u64,
}

/// What the jobs of a day, of a project, or all of them came to. What no result tells is null.
#[derive(Default, Serialize)]
struct Totals {
    #[serde(skip_serializing_if = "String::is_empty")]
    day: String,
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
    /// Jobs that had a check, and those that passed it at the first try.
    checked: u64,
    checked_at_once: u64,
    /// How long each job took. There may be a hundred thousand.
    #[serde(skip)]
    seconds: Vec<f32>,
}

/// Prints what the finished jobs of the projects in question came to.
pub(super) fn stats(scope: &Scope, since: Option<Wall>, format: Format) -> Result<()> {
    let (mut projects, mut total) = (Vec::new(), Totals::default());
    for spool in scope.spools() {
        let mut project = Project::default();
        project.name.clone_from(&spool.project().name);
        let mut days: BTreeMap<String, Totals> = BTreeMap::new();
        spool.finished(&mut |id, written_ns| {
            let (Some(written), Some(id)) = (written(written_ns, since), JobId::exact(id)) else {
                return;
            };
            let result = Finished::of(&spool, &id);
            if result.is_unreadable {
                project.unreadable += 1;
                return;
            }
            // If it does not say when its job ended, that was when it was written.
            let ended = result.completed_at().unwrap_or(written);
            if since.is_none_or(|since| ended >= since) {
                let day = days.entry(ended.day()).or_default();
                for totals in [day, &mut project.total, &mut total] {
                    totals.add(&result);
                }
            }
        })?;
        project.total.finish();
        for (day, mut totals) in days {
            totals.finish();
            project.days.push(Totals { day, ..totals });
        }
        projects.push(project);
    }
    total.finish();
    let unreadable: u64 = projects.iter().map(|project| project.unreadable).sum();
    if unreadable > 0 {
        let which = "job-monitor status --all shows which";
        let what = "results that cannot be read are left out";
        render::note(&format!("{what}: {unreadable}; {which}"));
    }
    let answer = json!({"since": since, "projects": projects, "total": total});
    render::answer(format, &answer, || match (total.jobs, since) {
        (0, None) => "No job has finished\n".to_owned(),
        (0, Some(at)) => format!("No job has finished since {}\n", at.short(Wall::now())),
        _ => table(&projects, &total, Style::of_stdout()),
    })
}

// --- counting ---

impl Totals {
    fn add(&mut self, result: &Finished) {
        self.jobs += 1;
        match result.word().as_str() {
            "completed" => self.completed += 1,
            "cancelled" => self.cancelled += 1,
            // A result ends its job; one that does not say how did not end well.
            _ => self.failed += 1,
        }
        let span = || Some(result.completed_at()?.since(result.get("started_at")?));
        let seconds = result.seconds().or_else(|| Some(span()?.as_secs_f64()));
        // A job that had no start says nothing of how long jobs take.
        if let Some(seconds) = seconds.filter(|seconds| *seconds > 0.0) {
            self.seconds.push(seconds as f32);
            self.total_seconds += seconds;
        }
        let usage: Option<Map<String, Value>> = result.output().get("usage");
        // A forged number, too large or below 0, becomes the nearest that there is.
        let tokens = |key: &str| Some(usage.as_ref()?.get(key)?.as_f64()? as u64);
        self.input_tokens = sum(self.input_tokens, tokens("input_tokens"));
        self.output_tokens = sum(self.output_tokens, tokens("output_tokens"));
        for kind in ["cache_creation_input_tokens", "cache_read_input_tokens"] {
            self.cached_tokens = sum(self.cached_tokens, tokens(kind));
        }
        if let Some(cost) = result.cost_usd().filter(|cost| *cost >= 0.0) {
            self.cost_usd = Some(self.cost_usd.unwrap_or(0.0) + cost);
        }
        if let Some(check) = result.list::<Check>("checks").first() {
            self.checked += 1;
            self.checked_at_once += u64::from(check.exit_code == Some(0));
        }
    }

    /// What is known when all are counted.
    fn finish(&mut self) {
        // What a person took back tells nothing of how well jobs go.
        let judged = self.completed + self.failed;
        let rate = self.completed as f64 / judged as f64;
        self.success_rate = (judged > 0).then(|| (rate * 1e4).round() / 1e4);
        let mut seconds = std::mem::take(&mut self.seconds);
        seconds.sort_unstable_by(f32::total_cmp);
        if let Some(last) = seconds.len().checked_sub(1) {
            let pair = [seconds[last / 2], seconds[last.div_ceil(2)]].map(f64::from);
            self.median_seconds = Some(millis((pair[0] + pair[1]) / 2.0));
        }
        self.total_seconds = millis(self.total_seconds);
        // Below a ten-thousandth of a cent is the noise of adding binary fractions.
        self.cost_usd = self.cost_usd.map(cents);
    }

    /// A row of the table.
    fn row(&self, name: &str, with_checks: bool) -> String {
        let mut input = self.input_tokens;
        input = sum(input, self.cached_tokens);
        // Rounded down: 100% is said only where none failed.
        let done = (self.completed * 100).checked_div(self.completed + self.failed);
        let time = |seconds| human(Duration::from_secs_f64(seconds));
        let checks =
            (self.checked > 0).then(|| format!("{}/{}", self.checked_at_once, self.checked));
        let cells = [
            Some(self.jobs.to_string()),
            done.map(|percent| format!("{percent}%")),
            checks,
            self.median_seconds.map(time),
            self.median_seconds.map(|_| time(self.total_seconds)),
            input.map(tokens),
            self.output_tokens.map(tokens),
            self.cost_usd.map(money),
        ];
        let cells = cells.map(|cell| cell.unwrap_or("-".to_owned()));
        row(name, cells, with_checks)
    }
}

// --- showing ---

/// The table. Its bars take what room is left.
fn table(projects: &[Project], total: &Totals, style: Style) -> String {
    let checks = total.checked > 0;
    let heads = [
        "Jobs", "Done", "Checks", "Median", "Total", "Tok in", "Tok out", "Cost",
    ];
    let head = row("", heads.map(str::to_owned), checks);
    let (columns, _) = terminal::size(io::stdout());
    let room = columns.saturating_sub(head.len() + 2);
    let days = projects.iter().flat_map(|project| &project.days);
    let most = days.map(|day| day.jobs).max().unwrap_or(1);
    let mut lines = vec![head];
    for project in projects {
        lines.push(clean_line(&project.name));
        for day in &project.days {
            let bar = bar(day, most, room.min(BAR_MAX), style);
            lines.push(day.row(&format!("  {}", day.day), checks) + &bar);
        }
        if project.days.len() != 1 {
            lines.push(project.total.row("  all days", checks));
        }
    }
    if projects.len() > 1 {
        lines.push(total.row("all projects", checks));
    }
    if room > 0 && total.completed < total.jobs {
        let (good, bad) = (style.paint("32", "█"), style.paint("31", "░"));
        lines.push(format!("{good} completed  {bad} failed or cancelled"));
    }
    lines.join("\n") + "\n"
}

fn row(name: &str, cells: [String; 8], with_checks: bool) -> String {
    let [jobs, done, checks, median, total, input, output, cost] = cells;
    let checks = match with_checks {
        true => format!("{checks:>8}"),
        false => String::new(),
    };
    let begin = format!("{name:<12}{jobs:>7}{done:>6}{checks}{median:>9}{total:>9}");
    format!("{begin}{input:>8}{output:>8}{cost:>10}")
}

/// A bar as long as the day had jobs; those that did not complete stand at its end.
fn bar(day: &Totals, most: u64, width: usize, style: Style) -> String {
    let share = |part: u64, whole: u64, of: usize| (part * of as u64).div_ceil(whole) as usize;
    let length = share(day.jobs, most, width);
    let mut good = share(day.completed, day.jobs, length);
    if day.completed < day.jobs {
        // One that failed is seen, if there is room for both.
        good = good.min(length.saturating_sub(1).max(usize::from(day.completed > 0)));
    }
    let bad = length.saturating_sub(good);
    let (good, bad) = ("█".repeat(good), "░".repeat(bad));
    format!("  {}{}", style.paint("32", &good), style.paint("31", &bad))
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
        _ => format!("${usd:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals(results: &[&str]) -> Totals {
        let mut totals = Totals::default();
        for text in results {
            totals.add(&Finished::parse((*text).into()));
        }
        totals.finish();
        totals
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
        assert_eq!((totals.checked_at_once, totals.checked), (1, 1));
    }

    #[test]
    fn forged_numbers_of_tokens_do_not_overflow() {
        let forged = r#"{"worker_output": {"usage": {"input_tokens": 18446744073709551615,
            "output_tokens": -5, "cache_read_input_tokens": 1e300}}}"#;
        let all = totals(&[forged, forged, forged]);
        let most = Some(u64::MAX);
        assert_eq!((all.input_tokens, all.output_tokens), (most, Some(0)));
        assert_eq!(all.cached_tokens, most);
        all.row("", true);
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
        let style = Style::default();
        let bar = |jobs, completed| {
            let totals = Totals {
                jobs,
                completed,
                ..Totals::default()
            };
            bar(&totals, 20, 10, style).trim_start().to_owned()
        };
        assert_eq!(bar(20, 20), "█".repeat(10));
        assert_eq!(bar(20, 19), "█".repeat(9) + "░");
        assert_eq!(bar(20, 1), "█".to_owned() + &"░".repeat(9));
        assert_eq!(
            (bar(20, 0), bar(1, 1), bar(1, 0)),
            ("░".repeat(10), "█".into(), "░".into())
        );
        for jobs in 1..=20 {
            for completed in 0..=jobs {
                assert!((1..=10).contains(&bar(jobs, completed).chars().count()));
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
        let told = [0.0, 1.5, 12.0].map(money);
        assert_eq!(told, ["$0.0000", "$1.5000", "$12.00"]);
    }
}
