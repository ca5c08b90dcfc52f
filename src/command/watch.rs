//! `watch`: all projects on one screen, drawn anew each second from a fresh look.

use super::Outcome;
use super::brief::{hold_short, retry_at, suspension_text};
use super::logs::{Output, runs_check};
use super::queue::{Ground, Seen};
use super::result::{Ending, Finished, Newest};
use super::scope::Scope;
use super::terminal::{self, Screen};
use super::transcript::Transcript;
use crate::board;
use crate::cli::Which;
use crate::error::{Exit, Result};
use crate::job::{Attempt, JobId};
use crate::record::Claim;
use crate::registry::Entry;
use crate::render::{self, Style, clean_line, columns_of, fit};
use crate::spool::Spool;
use crate::time::{Wall, human};
use std::collections::HashMap;
use std::io;
use std::time::{Duration, SystemTime};

/// What the timeline shows.
const HISTORY: Duration = Duration::from_secs(6 * 3600);
/// Failures that are shown before all else.
const RECENT: Duration = Duration::from_secs(24 * 3600);
/// So many results of a project are read, the newest; more would not be told apart.
const RESULTS_MAX: usize = 300;
/// So many outcomes of a project are listed at most.
const OUTCOMES: usize = 5;
/// So much of a running agent's output is read to see what it does.
const TAIL: u64 = 256 << 10;
/// Waiting jobs that are named; the others are counted.
const WAITING_NAMED: usize = 8;
/// An agent that has been silent for so long is said to be.
const SILENCE: Duration = Duration::from_secs(60);
/// Between two looks.
const TICK: Duration = Duration::from_secs(1);

/// The newest results of each project, which are read again only when its directory has changed.
type Known = HashMap<String, (SystemTime, Vec<Ended>)>;

/// Shows the screen until the person leaves it; off a terminal, one snapshot.
pub(super) fn watch(which: &Which) -> Outcome {
    let scope = Scope::load(which)?;
    let style = Style::of_stdout();
    let mut known = Known::new();
    if style.terminal && terminal::is_capable() {
        return live(scope, which, style, &mut known);
    }
    let columns = match style.terminal {
        true => terminal::size(io::stdout()).0,
        false => terminal::COLUMNS,
    };
    let overview = look(&scope, &mut known, style);
    let lines = lines(&overview, style, columns, None);
    render::print(&(lines.join("\n") + "\n"))?;
    Ok(Exit::Done)
}

fn live(mut scope: Scope, which: &Which, style: Style, known: &mut Known) -> Outcome {
    let mut screen = Screen::open()?;
    loop {
        // A registry that is broken, for a moment or longer, changes nothing.
        if let Ok((fresh, _)) = Scope::read(which) {
            scope = fresh;
        }
        let (columns, rows) = screen.size();
        let overview = look(&scope, known, style);
        // The last column stays free: clearing what is behind a line would take it.
        let columns = columns.saturating_sub(1);
        screen.draw(&lines(&overview, style, columns, Some(rows)));
        if !screen.wait(TICK) {
            return Ok(Exit::Done);
        }
    }
}

// --- looking ---

/// Everything on the screen.
struct Overview {
    now: Wall,
    heading: Row,
    panels: Vec<Panel>,
}

/// One project.
#[derive(Default)]
struct Panel {
    name: String,
    /// What it does, and what comes next.
    rows: Vec<Row>,
    /// Since when its agent runs, if one does.
    running: Option<Wall>,
    waiting: usize,
    held: usize,
    /// Newest first.
    ended: Vec<Ended>,
}

#[derive(Clone)]
struct Ended {
    name: String,
    ending: Ending,
    /// What it came to, behind its name.
    told: String,
    at: Wall,
    /// When its agent ran.
    spans: Vec<(Wall, Wall)>,
}

fn look(scope: &Scope, known: &mut Known, style: Style) -> Overview {
    let (ground, now) = (Ground::of(scope), Wall::now());
    let panel = |entry: &Entry| {
        let mut panel = Panel {
            name: clean_line(&entry.project.name),
            ..Panel::default()
        };
        let seen = ground.look(scope, entry);
        let filled = seen.and_then(|seen| {
            panel.ended = newest_of(&seen.spool, known, now)?;
            panel.fill(&seen, &ground, entry, style, now)
        });
        if let Err(error) = filled {
            panel.rows = vec![Row::of("31", clean_line(&error.to_string()))];
        }
        panel
    };
    let panels: Vec<Panel> = scope.entries.iter().map(panel).collect();
    let spent = board::read(&scope.places.state).ledger.spent(None, now);
    let budget = ground
        .settings
        .as_ref()
        .and_then(|s| s.common.daily_budget_usd);
    let spent = match budget {
        Some(budget) => format!(", ${spent:.2} of ${budget:.2} today"),
        None if spent > 0.0 => format!(", ${spent:.2} today"),
        None => String::new(),
    };
    Overview {
        now,
        heading: heading(&panels, scope.daemon.is_some(), &spent),
        panels,
    }
}

impl Panel {
    fn fill(
        &mut self,
        seen: &Seen,
        ground: &Ground,
        entry: &Entry,
        style: Style,
        now: Wall,
    ) -> Result<()> {
        let (dot, pause) = if style.unicode {
            ("●", "‖")
        } else {
            ("*", "=")
        };
        for (word, text) in &seen.obstacles {
            let (color, text) = match (*word, &seen.hold) {
                ("Held", Some(hold)) => ("33", format!("{pause} {}", hold_short(hold, now))),
                ("Skipped", _) => ("31", format!("skipped: {text}")),
                ("Disabled", _) => ("33", "disabled".to_owned()),
                _ => ("33", format!("waits: {text}")),
            };
            self.rows.push(Row::of(color, text));
        }
        if let Some(claim) = &seen.current {
            let (name, since) = (claim.job_id.description(), claim.started_at);
            let elapsed = human(now.since(since));
            let policy = ground.settings.as_ref().and_then(|s| entry.policy(s).ok());
            // The document may want less.
            let limit = policy.map_or(String::new(), |p| format!(" of {}", human(p.timeout)));
            let start = match claim.starts {
                0 | 1 => String::new(),
                start => format!(", start {start}"),
            };
            let row = Row::of("32", dot).and("1", format!(" {name}"));
            self.rows
                .push(row.and("", format!("  {elapsed}{limit}{start}")));
            let action = action(&seen.spool, claim, now)?;
            self.rows.push(Row::of("36", format!("  {action}")));
            self.running = Some(since);
        }
        if let Some(claim) = &seen.suspended {
            let text = match retry_at(claim) {
                // The hold was told above.
                None if seen.hold.is_some() && claim.suspended.is_some() => {
                    "goes on then".to_owned()
                }
                _ => suspension_text(claim, now),
            };
            let name = format!(" {}", claim.job_id.description());
            let row = Row::of("33", pause).and("1", name);
            self.rows.push(row.and("", format!("  {text}")));
        }
        if self.rows.is_empty() {
            self.rows.push(Row::of("2", "idle"));
        }
        self.wait(seen);
        Ok(())
    }

    /// Tells what waits.
    fn wait(&mut self, seen: &Seen) {
        let held = |id: &&JobId| seen.marks.held.contains(*id);
        let (held, waiting): (Vec<&JobId>, Vec<&JobId>) = seen.waiting.iter().partition(held);
        self.held = held.len();
        self.waiting = waiting.len() + usize::from(seen.suspended.is_some());
        let mut parts = Vec::new();
        if !held.is_empty() {
            parts.push(format!("{} held", held.len()));
        }
        if !waiting.is_empty() {
            // The names may be cut off, the number must not.
            let named = waiting
                .iter()
                .take(WAITING_NAMED)
                .map(|id| id.description());
            let names = named.collect::<Vec<_>>().join(", ");
            let more = if waiting.len() > WAITING_NAMED {
                ", ..."
            } else {
                ""
            };
            parts.push(format!("{} waiting: {names}{more}", waiting.len()));
        }
        if !parts.is_empty() {
            self.rows.push(Row::of("", parts.join(", ")));
        }
    }
}

fn newest_of(spool: &Spool, known: &mut Known, now: Wall) -> Result<Vec<Ended>> {
    let changed = std::fs::metadata(spool.results_path()).and_then(|meta| meta.modified());
    let changed = changed.unwrap_or(SystemTime::UNIX_EPOCH);
    let name = &spool.project().name;
    let ended = match known.remove(name) {
        Some((then, ended)) if then == changed => ended,
        _ => ended(spool, now)?,
    };
    known.insert(name.clone(), (changed, ended.clone()));
    Ok(ended)
}

/// The newest results, however many there are.
fn ended(spool: &Spool, now: Wall) -> Result<Vec<Ended>> {
    let horizon = Wall(now.0 - RECENT.as_millis() as i64);
    let mut ended = Vec::new();
    for (_, id) in Newest::of(std::slice::from_ref(spool))?.iter() {
        let one = Ended::read(spool, &id);
        let is_past = one.as_ref().is_some_and(|one| one.at < horizon);
        ended.extend(one);
        if is_past && ended.len() >= OUTCOMES || ended.len() >= RESULTS_MAX {
            break;
        }
    }
    ended.sort_by_key(|one| std::cmp::Reverse(one.at));
    Ok(ended)
}

impl Ended {
    fn read(spool: &Spool, id: &JobId) -> Option<Ended> {
        let result = Finished::of(spool, id)?;
        let at = (*result.completed_at)?;
        let span = |attempt: &Attempt| {
            let begun = attempt.started_at;
            (begun, begun.plus(attempt.duration()))
        };
        let mut spans: Vec<_> = result.attempts.list().iter().map(span).collect();
        if spans.is_empty() {
            // The predecessor wrote no list of starts.
            spans.extend(result.started_at.map(|begun| (begun, at)));
        }
        let mut told = String::new();
        if !result.is_completed() {
            told = format!(" ({})", result.remark().unwrap_or_else(|| result.word()));
        }
        let change = result.change(Style::of_stdout());
        let parts = [result.duration(), result.cost(), change]
            .into_iter()
            .flatten();
        for part in parts.chain(result.notes()) {
            told = format!("{told}, {part}");
        }
        let (name, ending) = (id.description().to_owned(), result.ending());
        Some(Ended {
            name,
            ending,
            told,
            at,
            spans,
        })
    }
}

/// What the running agent does just now.
fn action(spool: &Spool, claim: &Claim, now: Wall) -> Result<String> {
    let id = &claim.job_id;
    if runs_check(spool, id, claim.checks.len())? {
        return Ok("the check runs".to_owned());
    }
    let mut output = Output::open(spool, id, claim.starts)?;
    let written = output.as_ref().and_then(Output::written);
    let silent = now.since(written.unwrap_or(claim.started_at).max(claim.started_at));
    let mut transcript = Transcript::new(Style::of_stdout(), 0);
    if let Some(output) = &mut output {
        transcript.begin(output.dialect);
        output.skip_to_last(TAIL);
        while output.read_on(&mut transcript)? {}
    }
    Ok(match &transcript.progress().action {
        Some(action) if silent < SILENCE => action.clone(),
        Some(action) => format!("{action} (nothing written for {})", human(silent)),
        None => format!("nothing written for {}", human(silent)),
    })
}

// --- lines ---

/// A line in pieces, each with the number of its colour.
#[derive(Clone, Default)]
struct Row(Vec<(&'static str, String)>);

impl Row {
    fn of(color: &'static str, text: impl Into<String>) -> Row {
        Row::default().and(color, text)
    }

    fn and(mut self, color: &'static str, text: impl Into<String>) -> Row {
        self.0.push((color, text.into()));
        self
    }

    /// The line in so many columns at most.
    fn line(&self, style: Style, columns: usize) -> String {
        let mut left = columns;
        let mut line = String::new();
        for (color, text) in &self.0 {
            let piece = fit(text, left, style);
            // After a piece that was cut there is no room, not even for the next one's mark.
            left = match piece == *text {
                true => left - width(&piece).min(left),
                false => 0,
            };
            let painted = match *color {
                "" => piece,
                color => style.paint(color, &piece),
            };
            line.push_str(&painted);
        }
        line
    }
}

/// The screen in so many columns and rows: as much as there is room for. Without a number of
/// rows, a snapshot of whatever length.
fn lines(overview: &Overview, style: Style, columns: usize, rows: Option<usize>) -> Vec<String> {
    let Overview { now, panels, .. } = overview;
    let longest = panels.iter().map(|panel| width(&panel.name)).max();
    let margin = longest.unwrap_or(0).min(16).min(columns / 4) + 2;
    let mut timeline = timeline(panels, style, margin, columns, *now);
    timeline.insert(0, Row::default());
    if panels.is_empty() {
        timeline.clear();
    }
    let room = rows.unwrap_or(usize::MAX);
    let mut states: Vec<Vec<Row>> = panels.iter().map(|panel| panel.rows.clone()).collect();
    let count = |states: &[Vec<Row>]| 1 + states.iter().map(Vec::len).sum::<usize>();
    if count(&states) + timeline.len() > room {
        // Each project in one line; what is cut off is what matters least.
        for rows in &mut states {
            *rows = vec![one_line(std::mem::take(rows))];
        }
    }
    if count(&states) + timeline.len() > room {
        timeline.clear();
    }
    let free = room.saturating_sub(count(&states) + timeline.len());
    let outcomes = outcomes(panels, free, *now);
    let heading = overview.heading.clone();
    let mut all = vec![match rows {
        Some(_) => heading.and("2", "  (q leaves)"),
        None => heading,
    }];
    for ((panel, mut rows), shown) in panels.iter().zip(states).zip(outcomes) {
        let ended = panel.ended.iter().enumerate();
        let ended = ended.filter(|(at, _)| shown.contains(at));
        rows.extend(ended.map(|(_, one)| ended_row(one, style, *now)));
        for (at, row) in rows.iter_mut().enumerate() {
            let name = if at == 0 { panel.name.as_str() } else { "" };
            row.0.insert(0, ("1", cell(name, margin, style)));
        }
        all.extend(rows);
    }
    all.extend(timeline);
    if all.len() > room && room > 1 {
        let hidden = all.len() + 1 - room;
        all.truncate(room - 1);
        let text = format!("and {hidden} more projects; -p NAME shows one, a taller window all");
        all.push(Row::of("2", text));
    }
    let shown = all.iter().take(room);
    shown.map(|row| row.line(style, columns)).collect()
}

/// Which outcomes of each project are shown in so many free rows: failures first, and then the
/// newest of each, the second newest of each, and so on.
fn outcomes(panels: &[Panel], free: usize, now: Wall) -> Vec<Vec<usize>> {
    let mut all: Vec<(bool, usize, i64, usize)> = Vec::new();
    for (at, panel) in panels.iter().enumerate() {
        for (rank, ended) in panel.ended.iter().enumerate() {
            let is_bad = ended.ending == Ending::Bad && now.since(ended.at) < RECENT;
            all.push((!is_bad, rank, -ended.at.0, at));
        }
    }
    all.sort_unstable();
    let mut shown = vec![Vec::new(); panels.len()];
    let mut left = free;
    for (_, rank, _, at) in all {
        if left > 0 && shown[at].len() < OUTCOMES {
            shown[at].push(rank);
            left -= 1;
        }
    }
    shown
}

fn heading(panels: &[Panel], daemon: bool, spent: &str) -> Row {
    let running = panels
        .iter()
        .filter(|panel| panel.running.is_some())
        .count();
    let waiting: usize = panels.iter().map(|panel| panel.waiting).sum();
    let held: usize = panels.iter().map(|panel| panel.held).sum();
    let mut text = format!("{waiting} waiting");
    if held > 0 {
        text.push_str(&format!(", {held} held"));
    }
    text.push_str(spent);
    let row = Row::of("1", "job-monitor");
    match (panels.is_empty(), daemon) {
        (true, _) => row.and(
            "",
            "  no projects registered; job-monitor register PATH adds one",
        ),
        (false, true) => row.and("", format!("  {running} running, {text}")),
        (false, false) => row
            .and("31", "  the monitor is not running")
            .and("", format!("; {text}")),
    }
}

/// All of a project in one line: its state, how many wait, then the rest.
fn one_line(rows: Vec<Row>) -> Row {
    let mut rows = rows.into_iter();
    let mut line = rows.next().unwrap_or_default();
    let rest: Vec<Row> = rows.collect();
    for row in rest.into_iter().rev() {
        line = line.and("", "  ");
        line.0.extend(row.0);
    }
    line
}

fn ended_row(ended: &Ended, style: Style, now: Wall) -> Row {
    let (color, sign) = ended.ending.sign(style);
    let text = match ended.ending {
        Ending::Cancelled => "2",
        _ => "",
    };
    Row::default()
        .and(color, sign)
        .and("2", format!(" {} ", ended.at.short(now)))
        .and(text, format!("{}{}", ended.name, ended.told))
}

/// Who ran when: a line of hours, and one for each project.
fn timeline(panels: &[Panel], style: Style, margin: usize, columns: usize, now: Wall) -> Vec<Row> {
    let cells = columns.saturating_sub(margin).max(1);
    let from = Wall(now.0 - HISTORY.as_millis() as i64);
    let at = |cell: usize| Wall(from.0 + (now.0 - from.0) * cell as i64 / cells as i64);

    let mut hours = String::new();
    for cell in 0..cells {
        let hour = |wall: Wall| wall.to_string()[11..13].to_owned();
        let room = width(&hours) <= cell && cell + 5 <= cells;
        if room && hour(at(cell)) != hour(at(cell + 1)) {
            hours = format!("{hours:cell$}{}:00 ", hour(at(cell + 1)));
        }
    }
    let margin_of = |name: &str| Row::default().and("1", cell(name, margin, style));
    let mut rows = vec![margin_of("").and("2", hours.trim_end().to_owned())];
    for panel in panels {
        let mut row = margin_of(&panel.name);
        for cell in 0..cells {
            let (color, sign) = moment(panel, style, at(cell), at(cell + 1), now);
            match row.0.last_mut() {
                Some((last, text)) if *last == color => text.push(sign),
                _ => row = row.and(color, sign),
            }
        }
        rows.push(row);
    }
    rows
}

/// What a project did between two moments: nothing, work by its share of the time, or work that
/// came to nothing.
fn moment(panel: &Panel, style: Style, from: Wall, to: Wall, now: Wall) -> (&'static str, char) {
    let overlap = |begun: Wall, ended: Wall| ended.min(to).since(begun.max(from)).as_millis();
    let ended = || panel.ended.iter();
    let spans = || ended().flat_map(|ended| &ended.spans);
    let mut busy: u128 = spans().map(|&(begun, ended)| overlap(begun, ended)).sum();
    let touched = spans().any(|&(begun, ended)| begun < to && ended >= from);
    let failed =
        ended().any(|ended| ended.ending == Ending::Bad && ended.at >= from && ended.at < to);
    let runs = panel.running.map_or(0, |since| overlap(since, now));
    busy += runs;
    let signs: &[char] = match style.unicode {
        true => &['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
        false => &['-', '=', '#'],
    };
    let whole = to.since(from).as_millis().max(1);
    let sign = signs[(busy * signs.len() as u128 / whole).min(signs.len() as u128 - 1) as usize];
    match (failed, runs > 0, busy > 0 || touched) {
        (true, _, _) => ("31", if style.unicode { '✗' } else { 'x' }),
        (_, true, _) => ("36", sign),
        (_, _, true) => ("32", sign),
        _ => ("2", if style.unicode { '·' } else { '.' }),
    }
}

/// A name in a column of its own.
fn cell(name: &str, columns: usize, style: Style) -> String {
    let name = fit(name, columns.saturating_sub(2), style);
    let gap = columns.saturating_sub(width(&name));
    name + &" ".repeat(gap)
}

fn width(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Wall = Wall(1_795_173_825_000);
    const STYLE: Style = Style {
        color: false,
        unicode: true,
        terminal: true,
    };

    fn ago(minutes: i64) -> Wall {
        Wall(NOW.0 - minutes * 60_000)
    }

    fn ended(name: &str, ending: Ending, from: i64, to: i64) -> Ended {
        let word = if ending == Ending::Bad {
            " (timeout)"
        } else {
            ""
        };
        Ended {
            name: name.to_owned(),
            ending,
            told: format!("{word}, 1m 05s, $0.5000"),
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

    #[test]
    fn a_row_that_is_cut_is_marked_as_such_once() {
        let row = || Row::of("", "one").and("", "two").and("", "3");
        assert_eq!(row().line(STYLE, 7), "onetwo3");
        assert_eq!(row().line(STYLE, 5), "onet…");
        assert_eq!(row().line(STYLE, 2), "o…");
    }

    fn busy() -> Overview {
        let alpha = Panel {
            rows: vec![
                Row::of("32", "●")
                    .and("1", " fix-it")
                    .and("", "  3m 00s of 2h 00m, start 2"),
                Row::of("36", "  Bash cargo test"),
                Row::of("", "3 held, 12 waiting: next-one, after-that, ..."),
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
                Row::of("33", "‖ usage limit until 20:53 (49m): claude"),
                Row::of("33", "‖")
                    .and("1", " slow")
                    .and("", "  goes on then"),
            ],
            waiting: 1,
            ended: vec![ended("other", Ending::Good, 180, 120)],
            ..panel("beta")
        };
        let trouble = Panel {
            rows: vec![Row::of("31", "cannot open /x: gone")],
            ..panel("日本語のプロジェクト名")
        };
        let panels = vec![alpha, beta, trouble];
        Overview {
            now: NOW,
            heading: heading(&panels, true, ", $12.00 of $20.00 today"),
            panels,
        }
    }

    fn shown(overview: &Overview, columns: usize, rows: Option<usize>) -> Vec<String> {
        lines(overview, STYLE, columns, rows)
    }

    #[test]
    fn a_large_screen_tells_everything() {
        let text = shown(&busy(), 80, None).join("\n");
        for part in [
            "job-monitor  1 running, 13 waiting, 3 held, $12.00 of $20.00 today\n",
            "alpha             ● fix-it  3m 00s of 2h 00m, start 2\n",
            "                    Bash cargo test\n",
            "                  3 held, 12 waiting: next-one, after-that, ...\n",
            "bad (timeout), 1m 05s, $0.5000\n",
            "beta              ‖ usage limit until 20:53 (49m): claude\n",
            "‖ slow  goes on then\n",
            "日本語のプロジ…   cannot open /x: gone\n",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }

    #[test]
    fn free_rows_are_filled_one_by_one_and_failures_come_first() {
        let of = |free| outcomes(&busy().panels, free, NOW);
        assert_eq!(of(0), [vec![], vec![], Vec::<usize>::new()]);
        assert_eq!(of(1), [vec![1], vec![], vec![]]);
        assert_eq!(of(3), [vec![1, 0], vec![0], vec![]]);
        assert_eq!(of(99), [vec![1, 0, 2, 3], vec![0], vec![]]);
    }

    #[test]
    fn whatever_the_window_the_lines_fit() {
        let mut colored = STYLE;
        colored.color = true;
        for columns in [1, 5, 20, 44, 80, 300] {
            for rows in [1, 2, 3, 5, 8, 13, 24, 100] {
                let all = shown(&busy(), columns, Some(rows));
                assert!(all.len() <= rows, "{rows} rows: {all:#?}");
                for line in &all {
                    assert!(width(line) <= columns, "{columns} columns: {line}");
                }
                assert_eq!(
                    lines(&busy(), colored, columns, Some(rows)).len(),
                    all.len()
                );
            }
        }
        let few = shown(&busy(), 80, Some(4));
        assert!(
            few[1].starts_with("alpha ") && few[2].starts_with("beta "),
            "{few:#?}"
        );
        let least = shown(&busy(), 80, Some(3)).pop().unwrap();
        assert!(least.starts_with("and 2 more projects"), "{least}");
    }

    #[test]
    fn who_ran_when_stands_one_below_the_other() {
        let text = shown(&busy(), 16 + 2 + 72, None);
        // Six hours in 72 cells: 5 minutes each.
        let row = |name: &str| {
            let line = text.iter().rfind(|line| line.starts_with(name)).unwrap();
            line.chars()
                .skip(line.chars().count() - 72)
                .collect::<Vec<char>>()
        };
        let (alpha, beta) = (row("alpha"), row("beta"));
        let cell = |minutes: usize| 72 - minutes / 5 - 1;
        for minutes in [175, 150, 125] {
            assert_eq!(
                (alpha[cell(minutes)], beta[cell(minutes)]),
                ('█', '█'),
                "{alpha:?}"
            );
        }
        assert_eq!((alpha[cell(90)], beta[cell(90)]), ('·', '·'));
        assert_eq!(alpha[cell(119)], '✗');
        assert_eq!((alpha[71], beta[71]), ('▅', '·'));
        // The one that took a minute is seen, too.
        assert_eq!(alpha[cell(299)], '▂');
        let hours = text.iter().find(|line| line.contains(":00 ")).unwrap();
        assert_eq!(hours.matches(":00").count(), 6, "{hours}");
    }
}
