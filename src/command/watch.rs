//! `watch`: all projects on one screen. It looks when something happens, and each second while a
//! clock runs; what it sees becomes an [`Overview`], and that becomes lines.

use super::Outcome;
use super::finished::{Brief, newest};
use super::logs::Output;
use super::overview::{hold_without_view, suspension_text};
use super::projects::{self, Scope};
use super::terminal::{self, Asks, Screen};
use crate::document;
use crate::error::{Exit, Result};
use crate::job::{Attempt, JobId, Meta};
use crate::record::{Claim, HoldView};
use crate::registry::{Entry, Registry};
use crate::render::{self, Style, clean_line, columns_of, fit};
use crate::settings;
use crate::spool::{Leftovers, Spool};
use crate::time::{Wall, human};
use crate::watch::{self as events, Bell, Wake, Watcher};
use std::io;
use std::time::{Duration, Instant};

/// What the timeline shows.
const HISTORY: Duration = Duration::from_secs(6 * 3600);
/// So many results of a project are read for it, the newest; more would not be told apart.
const RESULTS_MAX: usize = 300;
/// So many outcomes are listed where there is room.
const OUTCOMES: usize = 3;
/// So much of a running agent's output is read to see what it does.
const TAIL: u64 = 256 << 10;
/// Waiting jobs that are named; the others are counted.
const WAITING_NAMED: usize = 8;
/// Between looks while a clock runs.
const TICK: Duration = Duration::from_secs(1);
/// Between looks at everything, which find what events do not tell; the timeline moves on, too.
const LOOK: Duration = Duration::from_secs(60);
/// The same where nothing can be watched.
const LOOK_BLIND: Duration = Duration::from_secs(2);
/// A busy monitor writes hundreds of files a second; nobody reads so fast.
const FRAME: Duration = Duration::from_millis(100);

/// Shows the screen until the person leaves it; off a terminal, one snapshot.
pub(super) fn watch(named: Option<&str>) -> Outcome {
    let scope = scope(named)?;
    let style = Style::of_stdout();
    if style.terminal && terminal::is_capable() {
        return live(scope, named.is_none(), style);
    }
    let columns = match style.terminal {
        true => terminal::size(io::stdout()).0,
        false => terminal::COLUMNS,
    };
    let mut sources = follow(&scope, Vec::new());
    let now = Wall::now();
    let overview = overview(&scope, &mut sources, now);
    let lines = lines(&overview, style, columns, None, now);
    render::print(&(lines.join("\n") + "\n"))?;
    Ok(Exit::Done)
}

/// All projects unless one is named: that the person stands in one of them does not hide the rest.
fn scope(named: Option<&str>) -> Result<Scope> {
    let mut scope = Scope::load(named)?;
    if named.is_none() {
        scope.entries = Registry::load(&scope.places.registry())?.entries().0;
    }
    Ok(scope)
}

fn live(mut scope: Scope, all: bool, style: Style) -> Outcome {
    let (bell, ear) = events::bell();
    let asks = Asks::listen(&bell)?;
    let mut watcher = Watcher::new().ok();
    let look = if watcher.is_some() { LOOK } else { LOOK_BLIND };
    let mut looked = Instant::now();
    let mut sources: Vec<Source> = Vec::new();
    let mut screen = Screen::open();
    let mut size = screen.size();
    let mut look_at_all = true;
    while !asks.quit() {
        if look_at_all {
            read_registry(&mut scope, all);
            sources = follow(&scope, sources);
            looked = Instant::now();
            if let Some(watcher) = &mut watcher {
                watch_all(watcher, &scope, &sources, &bell);
            }
            screen.forget();
        }
        let now = Wall::now();
        let overview = overview(&scope, &mut sources, now);
        if size != screen.size() {
            size = screen.size();
            screen.forget();
        }
        // The last column stays free: clearing what is behind a line would take it.
        let columns = size.0.saturating_sub(1);
        screen.draw(&lines(&overview, style, columns, Some(size.1), now));

        let drawn = Instant::now();
        let pause = if overview.has_clock() { TICK } else { look };
        let heard = ear.wait(Some(drawn + pause));
        if heard.is_some() && !asks.quit() {
            std::thread::sleep(FRAME.saturating_sub(drawn.elapsed()));
        }
        look_at_all = looked.elapsed() >= look;
        for wake in heard.into_iter().chain(ear.pending()) {
            match wake {
                Wake::Look { name, .. } if name == "registered.json" => look_at_all = true,
                Wake::Look { name, .. } => {
                    if let Some(id) = name.strip_suffix(".json").and_then(JobId::parse) {
                        // An event has no project in it; ids are rare enough.
                        sources.iter_mut().for_each(|source| source.result(&id));
                    }
                }
                Wake::Everything => look_at_all = true,
                Wake::Again => {}
            }
        }
        if asks.pause() {
            screen.pause();
        }
    }
    Ok(Exit::Done)
}

/// Follows the registry. One that is broken, for a moment or longer, changes nothing.
fn read_registry(scope: &mut Scope, all: bool) {
    if let Ok(registry) = Registry::load(&scope.places.registry()) {
        let mut entries = registry.entries().0;
        let is_shown = |entry: &Entry| {
            let mut shown = scope.entries.iter();
            shown.any(|shown| shown.project.name == entry.project.name)
        };
        entries.retain(|entry| all || is_shown(entry));
        scope.entries = entries;
    }
}

/// Where something can happen that the screen shows. What cannot be watched is looked at with
/// the rest.
fn watch_all(watcher: &mut Watcher, scope: &Scope, sources: &[Source], bell: &Bell) {
    let whole = |name: &str| !name.starts_with('.');
    for source in sources {
        if let Some(spool) = &source.spool {
            let state = spool.project().path.join(spool.layout().state());
            let _ = watcher.watch(spool.items_path(), bell, Spool::is_of_interest);
            let _ = watcher.watch(spool.results_path(), bell, whole);
            let _ = watcher.watch(&state, bell, whole);
        }
    }
    let _ = watcher.watch(&scope.places.config, bell, |name| name == "registered.json");
    // Holds; and the daemon's lock, which is closed when it ends.
    let _ = watcher.watch(&scope.places.state, bell, whole);
}

// --- looking ---

/// A project, and what is kept of it between looks.
struct Source {
    entry: Entry,
    spool: Option<Spool>,
    trouble: Option<String>,
    /// What ended lately, newest first.
    ended: Vec<Ended>,
    running: Option<Followed>,
}

/// The start that runs.
struct Followed {
    id: JobId,
    start: u32,
    timeout: Option<Duration>,
    output: Option<Output>,
}

/// The sources of all projects in question, looked at anew; what runs there is followed on.
fn follow(scope: &Scope, mut before: Vec<Source>) -> Vec<Source> {
    let source = |entry: &Entry| {
        let known = before.iter().position(|source| source.entry == *entry);
        let running = known.and_then(|at| before.swap_remove(at).running);
        let mut source = Source {
            entry: entry.clone(),
            spool: None,
            trouble: None,
            ended: Vec::new(),
            running,
        };
        source.open();
        source
    };
    scope.entries.iter().map(source).collect()
}

fn overview(scope: &Scope, sources: &mut [Source], now: Wall) -> Overview {
    let daemon = crate::daemon::running(&scope.places).is_some();
    let panels = sources
        .iter_mut()
        .map(|source| source.panel(scope, daemon, now));
    Overview {
        daemon,
        panels: panels.collect(),
    }
}

impl Source {
    fn open(&mut self) {
        match Spool::open(&self.entry.project) {
            Ok(spool) => {
                (self.spool, self.trouble) = (Some(spool), None);
                self.look_at_results();
            }
            Err(error) => (self.spool, self.trouble) = (None, Some(error.to_string())),
        }
    }

    /// Finds the newest results, however many there are.
    fn look_at_results(&mut self) {
        let Some(spool) = &self.spool else { return };
        let horizon = Wall(Wall::now().0 - HISTORY.as_millis() as i64);
        let (mut ended, mut is_past) = (Vec::new(), false);
        // Where the results cannot be listed there is nothing to be shown of them.
        let _ = newest(
            std::slice::from_ref(spool),
            Some(RESULTS_MAX),
            &mut |_, id| {
                if !is_past || ended.len() < OUTCOMES {
                    let one = Ended::read(spool, id);
                    is_past |= one.as_ref().is_some_and(|one| one.at < horizon);
                    ended.extend(one);
                }
                Ok(())
            },
        );
        self.ended = ended;
    }

    /// Takes in a result that may be this project's.
    fn result(&mut self, id: &JobId) {
        let is_known = self.ended.iter().any(|ended| ended.id == *id);
        if let Some(spool) = self.spool.as_ref().filter(|_| !is_known)
            && let Some(ended) = Ended::read(spool, id.clone())
        {
            self.ended.insert(0, ended);
            self.ended.truncate(RESULTS_MAX);
        }
    }

    fn panel(&mut self, scope: &Scope, daemon: bool, now: Wall) -> Panel {
        if self.spool.is_none() {
            self.open();
        }
        let mut panel = Panel {
            name: clean_line(&self.entry.project.name),
            enabled: self.entry.enabled,
            ended: self.ended.clone(),
            ..Panel::default()
        };
        let looked = self.spool.as_ref().map(|spool| -> Result<_> {
            let held = spool.marks(Leftovers::Leave)?.held;
            Ok((projects::queue(spool, daemon)?, held))
        });
        match looked {
            Some(Ok((queue, held))) => {
                panel.hold = queue.hold.or_else(|| hold_without_view(&self.entry, scope));
                panel.running = queue.current.map(|claim| self.running(scope, &claim));
                panel.paused = queue.suspended.map(|claim| Paused {
                    text: suspension_text(&claim, now),
                    counts_down: projects::retry_at(&claim).is_some_and(|at| at > now),
                    name: claim.job_id.description().to_owned(),
                });
                let (held, waiting): (Vec<_>, Vec<_>) =
                    queue.waiting.into_iter().partition(|id| held.contains(id));
                let named = waiting.iter().take(WAITING_NAMED);
                panel.next = named.map(|id| id.description().to_owned()).collect();
                (panel.waiting, panel.held) = (waiting.len(), held.len());
            }
            Some(Err(error)) => panel.trouble = Some(error.to_string()),
            None => panel.trouble.clone_from(&self.trouble),
        }
        panel
    }

    fn running(&mut self, scope: &Scope, claim: &Claim) -> Running {
        let spool = self.spool.as_ref();
        let known = self.running.take();
        let known = known.filter(|run| (&run.id, run.start) == (&claim.job_id, claim.starts));
        let mut followed = known.unwrap_or_else(|| Followed {
            id: claim.job_id.clone(),
            start: claim.starts,
            timeout: None,
            output: None,
        });
        if followed.timeout.is_none() {
            followed.timeout = spool.and_then(|s| time_limit(s, &self.entry, scope, claim));
        }
        if followed.output.is_none() {
            let open = |spool| Output::open(spool, &claim.job_id, claim.starts).ok()?;
            followed.output = spool.and_then(open);
            if let Some(output) = &mut followed.output {
                output.skip_to_last(TAIL);
            }
        }
        let progress = followed.output.as_mut().map(Output::progress);
        let action = progress.and_then(|progress| progress.action.clone());
        let timeout = followed.timeout;
        self.running = Some(followed);
        Running {
            name: claim.job_id.description().to_owned(),
            start: claim.starts,
            since: claim.started_at,
            timeout,
            action,
        }
    }
}

/// The time limit of a start: the project's, or what the document wants if that is less. The
/// daemon keeps the text for us to read only once the agent runs; until then nobody knows.
fn time_limit(spool: &Spool, entry: &Entry, scope: &Scope, claim: &Claim) -> Option<Duration> {
    let (settings, _) = settings::load(&scope.places.settings()).ok()?;
    let policy = entry.policy(&settings).ok()?;
    let text = spool.kept_text(&claim.job_id, policy.max_document).ok()??;
    // That it could be run was checked before it was.
    let meta = Meta {
        size: text.len() as u64,
        mtime_ns: 0,
        mode: 0,
        uid: 0,
    };
    let wishes = document::check(&text, &meta, policy.max_document, true).map(|d| d.wishes);
    Some(wishes.unwrap_or_default().tighten(&policy).ok()?.timeout)
}

impl Ended {
    fn read(spool: &Spool, id: JobId) -> Option<Ended> {
        let brief = Brief::of(&spool.open_result(&id).ok()??);
        let at = brief.completed_at()?;
        let span = |attempt: &Attempt| {
            let begun = attempt.started_at;
            (begun, begun.plus(attempt.duration()))
        };
        let mut spans: Vec<_> = brief.attempts().iter().map(span).collect();
        if spans.is_empty() {
            // The predecessor wrote no list of starts.
            spans.extend(brief.started_at().map(|begun| (begun, at)));
        }
        Some(Ended {
            id,
            good: brief.is_completed(),
            word: clean_line(&brief.error_kind().unwrap_or_else(|| brief.status())),
            at,
            duration: brief.duration(),
            cost_usd: brief.cost_usd(),
            spans,
        })
    }
}

// --- what is seen ---

/// Everything on the screen.
struct Overview {
    daemon: bool,
    panels: Vec<Panel>,
}

/// One project.
#[derive(Default)]
struct Panel {
    name: String,
    enabled: bool,
    trouble: Option<String>,
    hold: Option<HoldView>,
    running: Option<Running>,
    paused: Option<Paused>,
    /// Jobs that wait, without those with a hold mark; the first few by name.
    waiting: usize,
    next: Vec<String>,
    /// Jobs with a hold mark.
    held: usize,
    /// Newest first.
    ended: Vec<Ended>,
}

struct Running {
    name: String,
    start: u32,
    since: Wall,
    timeout: Option<Duration>,
    action: Option<String>,
}

/// A job between two starts.
struct Paused {
    name: String,
    text: String,
    counts_down: bool,
}

#[derive(Clone)]
struct Ended {
    id: JobId,
    good: bool,
    /// What it came to: `completed`, or the kind of error.
    word: String,
    at: Wall,
    duration: Option<Duration>,
    cost_usd: Option<f64>,
    /// When its agent ran.
    spans: Vec<(Wall, Wall)>,
}

impl Overview {
    /// Whether anything on the screen changes by the second.
    fn has_clock(&self) -> bool {
        self.panels.iter().any(|panel| {
            let counts_down = |paused: &Paused| paused.counts_down;
            panel.running.is_some()
                || panel.paused.as_ref().is_some_and(counts_down)
                || panel.hold.as_ref().is_some_and(|hold| hold.until.is_some())
        })
    }
}

// --- lines ---

/// A line in pieces, each with the number of its colour.
#[derive(Default)]
struct Row(Vec<(&'static str, String)>);

impl Row {
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
            left = match piece == style.text(text) {
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

/// How much is told of each project.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Detail {
    /// A line.
    Least,
    /// What it does and what comes next, and the last outcome.
    Some,
    /// Several outcomes, and air.
    Most,
}

/// The screen in so many columns and rows: as much as there is room for. Without a number of
/// rows, a snapshot of whatever length.
fn lines(
    overview: &Overview,
    style: Style,
    columns: usize,
    rows: Option<usize>,
    now: Wall,
) -> Vec<String> {
    let is_live = rows.is_some();
    let rows = rows.unwrap_or(usize::MAX);
    let longest = overview.panels.iter().map(|panel| width(&panel.name)).max();
    let margin = longest.unwrap_or(0).min(16).min(columns / 4) + 2;
    let mut all = Vec::new();
    for (detail, timed) in [
        (Detail::Most, true),
        (Detail::Some, true),
        (Detail::Least, true),
        (Detail::Least, false),
    ] {
        all = vec![heading(overview, is_live)];
        for panel in &overview.panels {
            if detail == Detail::Most {
                all.push(Row::default());
            }
            all.extend(panel_rows(panel, style, margin, detail, now));
        }
        if timed && !overview.panels.is_empty() {
            all.push(Row::default());
            all.extend(timeline(overview, style, margin, columns, now));
        }
        if all.len() <= rows {
            break;
        }
    }
    if all.len() > rows && rows > 1 {
        let hidden = all.len() + 1 - rows;
        all.truncate(rows - 1);
        let text = format!("and {hidden} more projects; -p NAME shows one, a taller window all");
        all.push(Row::default().and("2", text));
    }
    let shown = all.iter().take(rows);
    shown.map(|row| row.line(style, columns)).collect()
}

fn heading(overview: &Overview, is_live: bool) -> Row {
    let panels = &overview.panels;
    let running = panels
        .iter()
        .filter(|panel| panel.running.is_some())
        .count();
    let waiting: usize = panels.iter().map(|panel| panel.waiting).sum();
    let paused = panels.iter().filter(|panel| panel.paused.is_some()).count();
    let held: usize = panels.iter().map(|panel| panel.held).sum();
    let mut text = format!("{} waiting", waiting + paused);
    if held > 0 {
        text.push_str(&format!(", {held} held"));
    }
    let row = Row::default().and("1", "job-monitor");
    let row = match (panels.is_empty(), overview.daemon) {
        (true, _) => row.and(
            "",
            "  no projects registered; job-monitor register PATH adds one",
        ),
        (false, true) => row.and("", format!("  {running} running, {text}")),
        (false, false) => row
            .and("31", "  the monitor is not running")
            .and("", format!("; {text}")),
    };
    match is_live {
        true => row.and("2", "  (q leaves)"),
        false => row,
    }
}

fn panel_rows(panel: &Panel, style: Style, margin: usize, detail: Detail, now: Wall) -> Vec<Row> {
    let mut rows = Vec::new();
    let (dot, pause) = if style.unicode {
        ("●", "‖")
    } else {
        ("*", "=")
    };
    if let Some(trouble) = &panel.trouble {
        rows.push(Row::default().and("31", clean_line(trouble)));
    }
    if !panel.enabled {
        rows.push(Row::default().and("33", "disabled"));
    }
    if let Some(hold) = &panel.hold {
        // The end comes first, since a long reason is cut off.
        let until = hold.until.map_or(String::new(), |until| {
            format!(
                "until {} (in {}) ",
                until.short(now),
                human(until.since(now))
            )
        });
        let reason = clean_line(&hold.reason);
        rows.push(Row::default().and("33", until + &reason));
    }
    if let Some(running) = &panel.running {
        let elapsed = human(now.since(running.since));
        let limit = running
            .timeout
            .map_or(String::new(), |t| format!(" of {}", human(t)));
        let start = match running.start {
            0 | 1 => String::new(),
            start => format!(", start {start}"),
        };
        let row = Row::default()
            .and("32", dot)
            .and("1", format!(" {}", running.name))
            .and("", format!("  {elapsed}{limit}{start}"));
        rows.push(row);
        let action = running.action.as_deref().unwrap_or("starts");
        rows.push(Row::default().and("36", format!("  {action}")));
    }
    if let Some(paused) = &panel.paused {
        let row = Row::default()
            .and("33", pause)
            .and("1", format!(" {}", paused.name));
        rows.push(row.and("", format!("  {}", clean_line(&paused.text))));
    }
    if rows.is_empty() {
        rows.push(Row::default().and("2", "idle"));
    }
    let waits = waiting_text(panel, detail);
    if detail == Detail::Least {
        // All in one line; what is cut off is what matters least.
        let rest = rows.split_off(1);
        let waits = waits.map(|waits| Row::default().and("", waits));
        for row in waits.into_iter().chain(rest) {
            rows[0].0.push(("", "  ".to_owned()));
            rows[0].0.extend(row.0);
        }
    } else {
        rows.extend(waits.map(|waits| Row::default().and("", waits)));
        let shown = if detail == Detail::Most { OUTCOMES } else { 1 };
        rows.extend(
            panel
                .ended
                .iter()
                .take(shown)
                .map(|ended| ended_row(ended, style, now)),
        );
    }
    for (at, row) in rows.iter_mut().enumerate() {
        let name = if at == 0 { panel.name.as_str() } else { "" };
        row.0.insert(0, ("1", cell(name, margin, style)));
    }
    rows
}

fn waiting_text(panel: &Panel, detail: Detail) -> Option<String> {
    let mut parts = Vec::new();
    if panel.waiting > 0 {
        let named = match detail {
            Detail::Least => String::new(),
            _ if panel.waiting > panel.next.len() => format!(": {}, ...", panel.next.join(", ")),
            _ => format!(": {}", panel.next.join(", ")),
        };
        parts.push(format!("{} waiting{named}", panel.waiting));
    }
    if panel.held > 0 {
        parts.push(format!("{} held", panel.held));
    }
    // The names may be cut off, the number must not.
    parts.reverse();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn ended_row(ended: &Ended, style: Style, now: Wall) -> Row {
    let mut told = String::new();
    if !ended.good {
        told.push_str(&format!(" ({})", ended.word));
    }
    if let Some(duration) = ended.duration {
        told.push_str(&format!(", {}", human(duration)));
    }
    if let Some(cost) = ended.cost_usd {
        told.push_str(&format!(", ${cost:.4}"));
    }
    let (color, sign) = match (ended.good, style.unicode) {
        (true, true) => ("32", "✓"),
        (false, true) => ("31", "✗"),
        (true, false) => ("32", "+"),
        (false, false) => ("31", "x"),
    };
    Row::default()
        .and(color, sign)
        .and("2", format!(" {} ", ended.at.short(now)))
        .and("", format!("{}{told}", ended.id.description()))
}

/// Who ran when: a line of hours, and one for each project.
fn timeline(
    overview: &Overview,
    style: Style,
    margin: usize,
    columns: usize,
    now: Wall,
) -> Vec<Row> {
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
    for panel in &overview.panels {
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
    let failed = ended().any(|ended| !ended.good && ended.at >= from && ended.at < to);
    let runs = panel
        .running
        .as_ref()
        .map_or(0, |running| overlap(running.since, now));
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
        ascii_only: false,
        terminal: true,
    };

    fn ago(minutes: i64) -> Wall {
        Wall(NOW.0 - minutes * 60_000)
    }

    fn ended(name: &str, good: bool, from: i64, to: i64) -> Ended {
        Ended {
            id: JobId::parse(&format!("job-20260130-143000-{name}")).unwrap(),
            good,
            word: if good { "completed" } else { "timeout" }.to_owned(),
            at: ago(to),
            duration: Some(Duration::from_secs(65)),
            cost_usd: Some(0.5),
            spans: vec![(ago(from), ago(to))],
        }
    }

    fn panel(name: &str) -> Panel {
        Panel {
            name: name.to_owned(),
            enabled: true,
            ..Panel::default()
        }
    }

    #[test]
    fn a_row_that_is_cut_is_marked_as_such_once() {
        let row = || Row::default().and("", "one").and("", "two").and("", "3");
        assert_eq!(row().line(STYLE, 7), "onetwo3");
        assert_eq!(row().line(STYLE, 5), "onet…");
        assert_eq!(row().line(STYLE, 2), "o…");
    }

    fn busy() -> Overview {
        let running = Running {
            name: "fix-it".to_owned(),
            start: 2,
            since: ago(3),
            timeout: Some(Duration::from_secs(7200)),
            action: Some("Bash cargo test".to_owned()),
        };
        let alpha = Panel {
            running: Some(running),
            waiting: 12,
            next: vec!["next-one".to_owned(), "after-that".to_owned()],
            held: 3,
            ended: vec![
                ended("bad", false, 70, 60),
                ended("good", true, 180, 120),
                ended("older", true, 300, 299),
                ended("oldest", true, 500, 499),
            ],
            ..panel("alpha")
        };
        let hold = HoldView {
            agent: None,
            kind: "usage_limit".to_owned(),
            reason: "limit reached".to_owned(),
            until: Some(ago(-90)),
        };
        let beta = Panel {
            hold: Some(hold),
            paused: Some(Paused {
                name: "slow".to_owned(),
                text: "waits for its agent".to_owned(),
                counts_down: false,
            }),
            ended: vec![ended("other", true, 180, 120)],
            ..panel("beta")
        };
        let trouble = Panel {
            trouble: Some("cannot open /x: gone".to_owned()),
            enabled: false,
            ..panel("日本語のプロジェクト名")
        };
        Overview {
            daemon: true,
            panels: vec![alpha, beta, trouble],
        }
    }

    fn shown(overview: &Overview, columns: usize, rows: Option<usize>) -> Vec<String> {
        lines(overview, STYLE, columns, rows, NOW)
    }

    #[test]
    fn a_large_screen_tells_everything() {
        let text = shown(&busy(), 80, None).join("\n");
        for part in [
            "job-monitor  1 running, 13 waiting, 3 held\n",
            "alpha             ● fix-it  3m 00s of 2h 00m, start 2\n",
            "                    Bash cargo test\n",
            "                  3 held, 12 waiting: next-one, after-that, ...\n",
            " bad (timeout), 1m 05s, $0.5000\n",
            "beta              until ",
            " (in 1h 30m) limit reached\n",
            "‖ slow  waits for its agent\n",
            "日本語のプロジ…   cannot open /x: gone\n                  disabled\n",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(!text.contains("oldest"), "{text}");
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
                    lines(&busy(), colored, columns, Some(rows), NOW).len(),
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
        assert_eq!((alpha[cell(59)], beta[cell(59)]), ('✗', '·'));
        assert_eq!((alpha[71], beta[71]), ('▅', '·'));
        // The one that took a minute is seen, too.
        assert_eq!(alpha[cell(299)], '▂');
        let hours = text.iter().find(|line| line.contains(":00 ")).unwrap();
        assert_eq!(hours.matches(":00").count(), 6, "{hours}");
    }

    #[test]
    fn a_clock_runs_only_while_something_does() {
        assert!(busy().has_clock());
        let idle = Overview {
            daemon: true,
            panels: vec![panel("alpha")],
        };
        assert!(!idle.has_clock());
        assert!(shown(&idle, 80, None)[2].ends_with("idle"));
    }
}
