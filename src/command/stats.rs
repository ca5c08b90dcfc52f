//! `stats`: what the finished jobs came to, by project and day. What a result does not tell is not
//! counted.

use super::*;

/// The width of the table where no terminal tells its own.
const COLUMNS_PIPED: usize = 80;
/// A bar of more columns tells no more.
const BAR_MAX: usize = 40;

#[derive(Default, Serialize)]
struct Project {
    name: String,
    days: Vec<Totals>,
    total: Totals,
    /// Jobs whose results cannot be read; they count as failed.
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
    /// How long each job took, of those that had a start. There may be a hundred thousand.
    #[serde(skip)]
    seconds: Vec<f32>,
}

/// Prints what the finished jobs of the projects in question came to.
pub(super) fn stats(scope: &Scope, since: Option<Wall>, format: Format) -> Result<()> {
    let (mut projects, mut total) = (Vec::new(), Totals::default());
    for spool in scope.spools() {
        let mut days: BTreeMap<String, Totals> = BTreeMap::new();
        let mut project = Project {
            name: spool.project().name.clone(),
            ..Project::default()
        };
        for (_, _, ended, result) in Newest::of(&[spool], since)?.iter() {
            project.unreadable += u64::from(result.word() == "unreadable");
            let day = days.entry(ended.day()).or_default();
            for totals in [day, &mut project.total, &mut total] {
                totals.add(&result);
            }
        }
        let days = days.into_iter();
        project.days = days.map(|(day, totals)| Totals { day, ..totals }).collect();
        let all = project.days.iter_mut().chain([&mut project.total]);
        all.for_each(Totals::find_median);
        projects.push(project);
    }
    total.find_median();
    let answer = json!({"since": since, "projects": projects, "total": total});
    render::answer(format, &answer, || {
        table(&projects, &total, Style::of_stdout())
    })
}

impl Totals {
    fn add(&mut self, result: &ResultView) {
        self.jobs += 1;
        match result.ending() {
            Ending::Good | Ending::Doubtful => self.completed += 1,
            Ending::Cancelled => self.cancelled += 1,
            // A result ends its job; one that does not say how did not end well.
            Ending::Bad => self.failed += 1,
        }
        // What a person took back tells nothing of how well jobs go.
        let judged = self.completed + self.failed;
        let rate = self.completed as f64 / judged as f64;
        self.success_rate = (judged > 0).then(|| (rate * 1e4).round() / 1e4);
        let seconds = result.duration_seconds.unwrap_or(0.0);
        self.total_seconds = millis(self.total_seconds + seconds);
        self.seconds
            .extend(Some(seconds as f32).filter(|seconds| *seconds > 0.0));
        let output = &result.worker_output;
        let usage = output.usage();
        let tokens = |key: &str| usage[key].as_u64();
        self.input_tokens = sum(self.input_tokens, tokens("input_tokens"));
        self.output_tokens = sum(self.output_tokens, tokens("output_tokens"));
        for kind in ["cache_creation_input_tokens", "cache_read_input_tokens"] {
            self.cached_tokens = sum(self.cached_tokens, tokens(kind));
        }
        if let Some(cost) = output.cost_usd {
            self.cost_usd = Some(cents(self.cost_usd.unwrap_or(0.0) + cost));
        }
        if let Some(check) = result.checks.first() {
            self.checked += 1;
            self.checked_at_once += u64::from(check.exit_code == Some(0));
        }
    }

    fn find_median(&mut self) {
        self.seconds.sort_unstable_by(f32::total_cmp);
        if let Some(last) = self.seconds.len().checked_sub(1) {
            let pair = [last / 2, last.div_ceil(2)].map(|at| f64::from(self.seconds[at]));
            self.median_seconds = Some(millis((pair[0] + pair[1]) / 2.0));
        }
    }

    /// A row of the table, with a column for checks where there are any.
    fn row(&self, name: &str, has_checks: bool) -> String {
        // Rounded down: 100% is said only where none failed.
        let done = (self.completed * 100).checked_div(self.completed + self.failed);
        let time = Duration::try_from_secs_f64(self.total_seconds).unwrap_or_default();
        let passed = format!("{}/{}", self.checked_at_once, self.checked);
        let cells = [
            name,
            &self.jobs.to_string(),
            &told(done.map(|percent| format!("{percent}%"))),
            &told(Some(passed).filter(|_| self.checked > 0)),
            &human(time),
            &told(self.input_tokens),
            &told(self.output_tokens),
            &told(self.cost_usd.map(|usd| format!("${usd:.4}"))),
        ];
        row(cells, has_checks)
    }

    /// A bar for a day; the jobs that did not complete stand at its end.
    fn bar(&self, length: usize, style: Style) -> String {
        let bad = self.jobs - self.completed;
        let bad = (bad as usize * length).div_ceil(self.jobs as usize);
        let (good, bad) = ("█".repeat(length - bad), "░".repeat(bad));
        format!("  {}{}", style.paint("32", &good), style.paint("31", &bad))
    }
}

fn told(number: Option<impl Display>) -> String {
    number.map_or("-".to_owned(), |number| number.to_string())
}

/// The table. Its bars take what room is left, and are as long as their days had jobs.
fn table(projects: &[Project], total: &Totals, style: Style) -> String {
    let has_checks = total.checked > 0;
    let heads = [
        "", "Jobs", "Done", "Checks", "Time", "Tok. in", "Tok. out", "Cost",
    ];
    let head = row(heads, has_checks);
    let room = terminal::columns(COLUMNS_PIPED).saturating_sub(head.len() + 2);
    let days = projects.iter().flat_map(|project| &project.days);
    let most = days.map(|day| day.jobs).max().unwrap_or(1);
    let mut lines = vec![head];
    for project in projects {
        lines.push(clean_line(&project.name));
        for day in &project.days {
            let length = day.jobs as usize * room.min(BAR_MAX);
            let bar = day.bar(length.div_ceil(most as usize), style);
            lines.push(day.row(&format!("  {}", day.day), has_checks) + &bar);
        }
        lines.push(project.total.row("  all days", has_checks));
    }
    lines.push(total.row("all projects", has_checks));
    lines.push("█ completed  ░ failed or cancelled".to_owned());
    lines.join("\n") + "\n"
}

fn row(cells: [&str; 8], has_checks: bool) -> String {
    let [name, jobs, done, checks, time, input, output, cost] = cells;
    let checks = has_checks.then(|| format!("{checks:>8}"));
    let checks = checks.unwrap_or_default();
    format!("{name:<12}{jobs:>7}{done:>6}{checks}{time:>10}{input:>11}{output:>10}{cost:>11}")
}
