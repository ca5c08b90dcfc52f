//! `watch`: all projects on one screen, drawn anew each second from a fresh look.

use super::*;

/// What the timeline shows.
const HISTORY: Duration = Duration::from_secs(6 * 3600);
/// Failures that are shown before all else.
const RECENT: Duration = Duration::from_secs(24 * 3600);
/// So many results of a project are read, the newest; the timeline would not show more.
const RESULTS_MAX: usize = 300;
/// So many finished jobs of a project are listed at most.
const ENDED_MAX: usize = 5;
/// No project has more rows than this.
const ROWS_MAX: usize = 16;
/// So many rows of each project come before the timeline, which needs room for more.
const ROWS_MIN: usize = 3;
/// Waiting jobs that are named; the others are counted.
const WAITING_NAMED: usize = 8;
/// Between two looks.
const TICK: Duration = Duration::from_secs(1);

/// Shows the screen until the person leaves it; off a terminal, one snapshot.
pub(super) fn watch(which: &Which) -> Result<Exit> {
    let mut scope = Scope::load(which)?;
    let style = Style::of_stdout();
    if !Screen::is_there() {
        let columns = terminal::size(io::stdout()).0;
        let lines = Overview::of(&scope, style).lines(columns, usize::MAX);
        return render::print(&(lines.join("\n") + "\n")).map(|()| Exit::Done);
    }
    let screen = Screen::open()?;
    loop {
        let mut overview = Overview::of(&scope, style);
        overview.heading += &style.paint("2", "  (q leaves)");
        let (columns, rows) = terminal::size(io::stdout());
        // The last column stays free: clearing what is behind a line would take it.
        screen.draw(&overview.lines(columns.saturating_sub(1), rows));
        if !screen.wait(TICK) {
            return Ok(Exit::Done);
        }
        // A registry that is broken, for a moment or longer, changes nothing.
        if let Ok((fresh, _)) = Scope::read(which) {
            scope = fresh;
        }
    }
}

// --- looking ---

/// Everything on the screen.
struct Overview {
    now: Wall,
    style: Style,
    heading: String,
    panels: Vec<Panel>,
}

/// One project.
#[derive(Default)]
struct Panel {
    name: String,
    /// What it does, what comes next, and how its last jobs ended; the first tell most.
    rows: Vec<String>,
    /// Since when its agent runs, if one does.
    running: Option<Wall>,
    waiting: usize,
    held: usize,
    /// Recent failures first, then the newest.
    ended: Vec<Ended>,
}

struct Ended {
    ending: Ending,
    /// How it ended, in a line.
    row: String,
    at: Wall,
    /// When its agent ran.
    spans: Vec<(Wall, Wall)>,
}

impl Overview {
    fn of(scope: &Scope, style: Style) -> Overview {
        let (ground, now) = (Ground::of(scope), Wall::now());
        let panel = |entry: &Entry| {
            let mut panel = Panel::default();
            let seen = ground.look(scope, entry);
            if let Err(error) = panel.fill(&seen, style, now) {
                panel.rows = vec![style.paint("31", &clean_line(&error.to_string()))];
            }
            panel.name = clean_line(&entry.project.name);
            panel
        };
        let panels: Vec<Panel> = scope.entries.iter().map(panel).collect();
        let spent = board::read(&scope.places.state).ledger.spent(None, now);
        let budget = ground.settings.as_ref().ok();
        let budget = budget.and_then(|all| all.common.daily_budget_usd);
        let budget = budget.map_or(String::new(), |budget| format!(" of ${budget:.2}"));
        let spent = format!("${spent:.2}{budget} today");
        let heading = heading(&panels, scope.daemon.is_some(), &spent, style);
        Overview {
            now,
            style,
            heading,
            panels,
        }
    }
}

fn heading(panels: &[Panel], daemon: bool, spent: &str, style: Style) -> String {
    let running = panels.iter().filter(|panel| panel.running.is_some());
    let waiting: usize = panels.iter().map(|panel| panel.waiting).sum();
    let held: usize = panels.iter().map(|panel| panel.held).sum();
    let text = format!("{waiting} waiting, {held} held, {spent}");
    let state = match (panels.is_empty(), daemon) {
        (true, _) => NO_PROJECT.to_owned(),
        (false, true) => format!("{} running, {text}", running.count()),
        (false, false) => style.paint("31", "the monitor is not running") + "; " + &text,
    };
    format!("{}  {state}", style.paint("1", "job-monitor"))
}

impl Panel {
    fn fill(&mut self, seen: &Seen, style: Style, now: Wall) -> Result<()> {
        for obstacle in seen.obstacle_lines() {
            self.rows.push(style.paint("33", &format!("‖ {obstacle}")));
        }
        let Some(spool) = &seen.spool else {
            return Ok(());
        };
        self.ended = ended(spool, style, now)?;
        if let Some(claim) = &seen.current {
            let name = style.paint("1", claim.job_id.description());
            let (dot, runs) = (style.paint("32", "●"), running_for(claim, now));
            self.rows.push(format!("{dot} {name}  {runs}"));
            let action = action(spool, claim, now)?;
            self.rows.push(style.paint("36", &format!("  {action}")));
            self.running = Some(claim.started_at);
        }
        if let Some(claim) = &seen.suspended {
            let name = style.paint("1", claim.job_id.description());
            let sign = style.paint("33", "‖");
            // Why its agent is held was told above.
            let text = match seen.hold {
                Some(_) => "goes on then".to_owned(),
                None => suspension_text(claim, now),
            };
            self.rows.push(format!("{sign} {name}  {text}"));
        }
        if self.rows.is_empty() {
            self.rows.push(style.paint("2", "idle"));
        }
        let is_held = |id: &&JobId| seen.marks.held.contains(*id);
        let (held, waiting): (Vec<&JobId>, Vec<&JobId>) = seen.all().partition(is_held);
        (self.held, self.waiting) = (held.len(), waiting.len());
        if self.held + self.waiting > 0 {
            // The names may be cut off, the numbers must not.
            let name = |id: &&JobId| match put_off(spool, id, now) {
                Some(at) => format!("{} {}", id.description(), not_before(at, now)),
                None => id.description().to_owned(),
            };
            let names: Vec<String> = waiting.iter().take(WAITING_NAMED).map(name).collect();
            let (held, waiting, names) = (self.held, self.waiting, names.join(", "));
            let row = format!("{held} held, {waiting} waiting: {names}");
            self.rows.push(row.trim_end_matches(": ").to_owned());
        }
        let ended = self.ended.iter().take(ENDED_MAX);
        self.rows.extend(ended.map(|ended| ended.row.clone()));
        Ok(())
    }
}

/// How the last jobs of a project ended, however many there are: failures of the last day first.
fn ended(spool: &Spool, style: Style, now: Wall) -> Result<Vec<Ended>> {
    let mut ended = Vec::new();
    let newest = Newest::of(slice::from_ref(spool), None)?;
    for (_, id, at, result) in newest.iter().take(RESULTS_MAX) {
        let (ending, is_recent) = (result.ending(), now.since(at) < RECENT);
        if !is_recent && ended.len() >= ENDED_MAX {
            break;
        }
        let span = |start: &Start| {
            let lasted = Duration::try_from_secs_f64(start.duration_seconds).unwrap_or_default();
            (start.started_at, start.started_at.plus(lasted))
        };
        let (mark, time) = (ending.mark(style), style.paint("2", &at.short(now)));
        ended.push(Ended {
            ending,
            row: format!("{mark} {time} {}: {}", id.description(), result.line()),
            at,
            spans: result.attempts.iter().map(span).collect(),
        });
    }
    let is_fresh_failure = |one: &Ended| one.ending == Ending::Bad && now.since(one.at) < RECENT;
    ended.sort_by_key(|one| (!is_fresh_failure(one), Reverse(one.at)));
    Ok(ended)
}

// --- lines ---

impl Overview {
    /// The screen in so many columns and rows: as much as there is room for.
    fn lines(&self, columns: usize, rows: usize) -> Vec<String> {
        let longest = self.panels.iter().map(|panel| width(&panel.name)).max();
        let margin = longest.unwrap_or(0).min(16).min(columns / 4) + 2;
        let timeline = self.timeline(margin, columns);
        let of = |(depth, past): (usize, &[String])| {
            let mut lines = vec![self.heading.clone()];
            for panel in &self.panels {
                for (at, row) in panel.rows.iter().take(depth).enumerate() {
                    let name = if at == 0 { panel.name.as_str() } else { "" };
                    lines.push(self.margin(name, margin) + row);
                }
            }
            lines.extend_from_slice(past);
            lines
        };
        let depths = (1..=ROWS_MAX).rev();
        let with_past = depths.clone().take_while(|depth| *depth > ROWS_MIN);
        let with_past = with_past.map(|depth| (depth, &*timeline));
        let ways = with_past.chain(depths.map(|depth| (depth, [].as_slice())));
        let fitting = ways.map(of).find(|lines| lines.len() <= rows);
        let mut lines = fitting.unwrap_or(of((1, &[])));
        lines.truncate(rows);
        lines.iter().map(|line| fit(line, columns)).collect()
    }

    /// Who ran when: a line of hours, and one for each project.
    fn timeline(&self, margin: usize, columns: usize) -> Vec<String> {
        let cells = columns.saturating_sub(margin).max(1);
        let (now, history) = (self.now.0, HISTORY.as_millis() as i64);
        let at = |cell: usize| Wall(now - history + history * cell as i64 / cells as i64);
        // The time at the end of each sixth of it.
        let sixth = cells / 6;
        let time = |nth: usize| {
            let time = at(sixth * nth).to_string()[11..16].to_owned();
            format!("{:>sixth$}", fit(&time, sixth))
        };
        let hours: String = (1..=6).map(time).collect();
        let hours = self.style.paint("2", &hours);
        let mut lines = vec![String::new(), self.margin("", margin) + &hours];
        for panel in &self.panels {
            let signs = (0..cells).map(|cell| self.moment(panel, at(cell), at(cell + 1)));
            lines.push(self.margin(&panel.name, margin) + &signs.collect::<String>());
        }
        lines
    }

    /// What a project did between two moments: nothing, work, or work that came to nothing.
    fn moment(&self, panel: &Panel, from: Wall, to: Wall) -> String {
        let is_in = |begun: Wall, ended: Wall| begun < to && ended >= from;
        let has_failed = |one: &Ended| one.ending == Ending::Bad && is_in(one.at, one.at);
        let mut spans = panel.ended.iter().flat_map(|ended| &ended.spans);
        let (color, sign) = if panel.ended.iter().any(has_failed) {
            ("31", "✗")
        } else if panel.running.is_some_and(|since| is_in(since, self.now)) {
            ("36", "█")
        } else if spans.any(|&(begun, ended)| is_in(begun, ended)) {
            ("32", "█")
        } else {
            ("2", "·")
        };
        self.style.paint(color, sign)
    }

    /// A name in a column of its own.
    fn margin(&self, name: &str, columns: usize) -> String {
        let name = fit(name, columns.saturating_sub(2));
        let gap = columns.saturating_sub(width(&name));
        self.style.paint("1", &name) + &" ".repeat(gap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Wall = Wall(1_795_173_825_000);
    const STYLE: Style = Style {
        color: false,
        terminal: true,
    };

    fn ago(minutes: i64) -> Wall {
        Wall(NOW.0 - minutes * 60_000)
    }

    fn ended(name: &str, ending: Ending, from: i64, to: i64) -> Ended {
        let sign = ending.mark(STYLE);
        Ended {
            ending,
            row: format!("{sign} 12:34 {name}: it ended, 1m 05s, $0.5000"),
            at: ago(to),
            spans: vec![(ago(from), ago(to))],
        }
    }

    fn panel(name: &str) -> Panel {
        Panel {
            name: name.to_owned(),
            ..Panel::default()
        }
    }

    fn busy() -> Overview {
        let alpha = Panel {
            rows: vec![
                "● fix-it  3m 00s, start 2".to_owned(),
                "  Bash cargo test".to_owned(),
                "3 held, 12 waiting: next-one, after-that".to_owned(),
                "✗ 12:34 bad: it ended, 1m 05s, $0.5000".to_owned(),
            ],
            running: Some(ago(3)),
            waiting: 12,
            held: 3,
            ended: vec![
                ended("good", Ending::Good, 70, 60),
                ended("bad", Ending::Bad, 180, 120),
                ended("older", Ending::Cancelled, 300, 299),
                ended("oldest", Ending::Good, 500, 499),
            ],
            ..panel("alpha")
        };
        let beta = Panel {
            rows: vec![
                STYLE.paint("33", "‖ usage limit until 20:53 (49m): claude"),
                "‖ slow  goes on then".to_owned(),
            ],
            waiting: 1,
            ended: vec![ended("other", Ending::Good, 180, 120)],
            ..panel("beta")
        };
        let trouble = Panel {
            rows: vec!["cannot open /x: gone".to_owned()],
            ..panel("日本語のプロジェクト名")
        };
        let panels = vec![alpha, beta, trouble];
        let spent = "$12.00 of $20.00 today";
        Overview {
            now: NOW,
            style: STYLE,
            heading: heading(&panels, true, spent, STYLE),
            panels,
        }
    }

    #[test]
    fn where_the_timeline_does_not_fit_jobs_take_its_room() {
        let mut overview = busy();
        overview.panels[1].rows = vec!["row".to_owned(); 9];
        let all = overview.lines(80, usize::MAX).len();
        // Above four rows each, only one project has more to tell: no line of the screen stays empty.
        for rows in 10..=all {
            assert_eq!(overview.lines(80, rows).len(), rows);
        }
    }

    #[test]
    fn a_large_screen_tells_everything() {
        let text = busy().lines(80, usize::MAX).join("\n");
        for part in [
            "job-monitor  1 running, 13 waiting, 3 held, $12.00 of $20.00 today\n",
            "alpha             ● fix-it  3m 00s, start 2\n",
            "                    Bash cargo test\n",
            "                  3 held, 12 waiting: next-one, after-that\n",
            "✗ 12:34 bad: it ended, 1m 05s, $0.5000\n",
            "beta              ‖ usage limit until 20:53 (49m): claude\n",
            "‖ slow  goes on then\n",
            "日本語のプロジ…   cannot open /x: gone\n",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }

    #[test]
    fn the_first_rows_of_each_project_are_shown_as_far_as_there_is_room() {
        let shown = |rows: usize| busy().lines(80, rows).join("\n");
        assert!(shown(100).contains("3 held, 12 waiting") && shown(100).contains("█"));
        let few = shown(6);
        assert!(few.contains("Bash cargo test") && few.contains("slow  goes on"));
        let more = ["3 held, 12 waiting", "█"].map(|part| few.contains(part));
        assert_eq!(more, [false, false], "{few}");
    }

    #[test]
    fn whatever_the_window_the_lines_fit() {
        let colored = Style {
            color: true,
            ..STYLE
        };
        for style in [STYLE, colored] {
            let overview = Overview { style, ..busy() };
            for columns in [1, 5, 20, 44, 80, 300] {
                for rows in [1, 2, 3, 5, 8, 13, 24, 100] {
                    let all = overview.lines(columns, rows);
                    assert!(all.len() <= rows, "{rows} rows: {all:#?}");
                    for line in &all {
                        assert!(width(line) <= columns, "{columns} columns: {line}");
                    }
                }
            }
        }
        let few = busy().lines(80, 4);
        for (line, name) in few[1..].iter().zip(["alpha ", "beta "]) {
            assert!(line.starts_with(name), "{few:#?}");
        }
    }

    #[test]
    fn who_ran_when_stands_one_below_the_other() {
        let text = busy().lines(16 + 2 + 72, usize::MAX);
        // Six hours in 72 cells: 5 minutes each.
        let row = |name: &str| {
            let line = text.iter().rfind(|line| line.starts_with(name)).unwrap();
            let cells: Vec<char> = line.chars().collect();
            cells[cells.len() - 72..].to_vec()
        };
        let (alpha, beta) = (row("alpha"), row("beta"));
        let cell = |minutes: usize| 72 - minutes / 5 - 1;
        for (minutes, of_alpha, of_beta) in [
            (175, '█', '█'),
            (150, '█', '█'),
            (125, '█', '█'),
            (90, '·', '·'),
            (0, '█', '·'),
        ] {
            let cells = (alpha[cell(minutes)], beta[cell(minutes)]);
            assert_eq!(
                cells,
                (of_alpha, of_beta),
                "{minutes} minutes ago: {alpha:?}"
            );
        }
        assert_eq!(alpha[cell(119)], '✗');
        // The one that took a minute is seen, too.
        assert_eq!(alpha[cell(299)], '█');
        let now = &NOW.to_string()[11..16];
        let hours = text.iter().find(|line| line.ends_with(now));
        assert_eq!(hours.unwrap().matches(':').count(), 6, "{text:?}");
    }
}
