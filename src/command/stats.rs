//! `stats`: what the finished jobs came to, by project and day. What a result does not tell is not
//! counted.

use super::*;

#[derive(Default, Serialize)]
struct Project {
    name: String,
    days: Vec<Totals>,
    total: Totals,
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
    total_seconds: f64,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cost_usd: Option<f64>,
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
            let day = days.entry(ended.day()).or_default();
            for totals in [day, &mut project.total, &mut total] {
                totals.add(&result);
            }
        }
        let days = days.into_iter();
        project.days = days.map(|(day, totals)| Totals { day, ..totals }).collect();
        projects.push(project);
    }
    let answer = json!({"since": since, "projects": projects, "total": total});
    render::answer(format, &answer, || table(&projects, &total))
}

impl Totals {
    fn add(&mut self, result: &Finished) {
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
        let output = &result.worker_output;
        let tokens = |key: &str| output.usage[key].as_u64();
        self.input_tokens = sum(self.input_tokens, tokens("input_tokens"));
        self.output_tokens = sum(self.output_tokens, tokens("output_tokens"));
        if let Some(cost) = output.cost_usd {
            self.cost_usd = Some(cents(self.cost_usd.unwrap_or(0.0) + cost));
        }
    }

    /// A row of the table.
    fn row(&self, name: &str) -> String {
        // Rounded down: 100% is said only where none failed.
        let done = (self.completed * 100).checked_div(self.completed + self.failed);
        let time = Duration::try_from_secs_f64(self.total_seconds).unwrap_or_default();
        row([
            name,
            &self.jobs.to_string(),
            &told(done.map(|percent| format!("{percent}%"))),
            &human(time),
            &told(self.input_tokens),
            &told(self.output_tokens),
            &told(self.cost_usd.map(|usd| format!("${usd:.4}"))),
        ])
    }
}

fn told(number: Option<impl Display>) -> String {
    number.map_or("-".to_owned(), |number| number.to_string())
}

fn table(projects: &[Project], total: &Totals) -> String {
    let heads = ["", "Jobs", "Done", "Time", "Tokens in", "out", "Cost"];
    let mut text = row(heads);
    for project in projects {
        text += &(clean_line(&project.name) + "\n");
        let days = project.days.iter();
        text.extend(days.map(|day| day.row(&format!("  {}", day.day))));
        text += &project.total.row("  all days");
    }
    text + &total.row("all projects")
}

fn row([name, jobs, done, time, input, output, cost]: [&str; 7]) -> String {
    format!("{name:<12}{jobs:>7}{done:>6}{time:>10}{input:>13}{output:>12}{cost:>12}\n")
}
