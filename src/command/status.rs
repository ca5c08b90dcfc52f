//! `status`: the finished jobs, newest first, with what a person wants to know in the morning.

use super::result::{Ending, Finished, newest};
use super::scope::Scope;
use super::terminal;
use crate::board;
use crate::cli::Format;
use crate::error::Result;
use crate::holds::Hold;
use crate::job::JobId;
use crate::record::HoldView;
use crate::render::{self, Pager, Style, clean, columns_of, fit};
use crate::spool::Spool;
use crate::time::Wall;
use serde::Serialize;
use std::io;
use std::ops::ControlFlow;

/// The order in which results were written is that in which the jobs ended, unless a backup was
/// restored. So many are put in order at once.
const SORTED: usize = 2000;
/// So many names are held where all are told.
const ROOM: usize = 50_000;

/// Which of the finished jobs are told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// So many at most.
    pub limit: Option<usize>,
    /// Those that ended then or later.
    pub since: Option<Wall>,
    /// Those only that failed.
    pub failed: bool,
}

#[derive(Serialize)]
struct FinishedJob<'a> {
    job_id: &'a JobId,
    project: &'a str,
    status: &'a str,
    error_kind: Option<String>,
    completed_at: Option<Wall>,
    duration_seconds: Option<f64>,
    cost_usd: Option<f64>,
    audit_score: Option<f64>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct ListedHold {
    /// Whom it holds besides an agent; null for all projects.
    project: Option<String>,
    #[serde(flatten)]
    view: HoldView,
}

/// A finished job as it will be told.
struct Row {
    at: Option<Wall>,
    /// As text: mark, id and word; then what more there is, each in its column. As JSON: all in one.
    cells: Vec<String>,
    ending: Ending,
}

/// Tells the finished jobs.
pub(super) fn status(scope: &Scope, wanted: &Wanted, format: Format) -> Result<()> {
    render::unless_gone(tell(scope, wanted, format))
}

fn tell(scope: &Scope, wanted: &Wanted, format: Format) -> Result<()> {
    let spools = scope.spools();
    let mut telling = Telling {
        spools: &spools,
        wanted,
        format,
        style: Style::of_stdout(),
        out: Pager::default(),
        group: Vec::new(),
        shown: 0,
    };
    let is_part = wanted.since.is_none() && !wanted.failed;
    let room = match wanted.limit {
        Some(limit) if is_part => limit.max(SORTED),
        _ => ROOM,
    };
    telling.out.put(match format {
        Format::Text => "Completed jobs:\n",
        Format::Json => "{\"jobs\":[",
    })?;
    let total = newest(&spools, room, &mut |at, id| telling.take(at, &id))?;
    telling.tell_group()?;
    let Telling { mut out, shown, .. } = telling;
    if format == Format::Json {
        let now = Wall::now();
        let records = board::read(&scope.places.state);
        let hold = |hold: &Hold| ListedHold {
            project: hold.project.clone(),
            view: hold.view(now),
        };
        let holds: Vec<ListedHold> = records.all(now).into_iter().map(hold).collect();
        out.put(&format!("],\"holds\":{}}}\n", render::json(&holds)?))?;
    } else if shown == 0 {
        let those = if is_part || total == 0 { "yet" } else { "such" };
        out.put(&format!("  none {those}\n"))?;
    } else if is_part && shown < total {
        out.put(&format!("  and {} more; --all shows them\n", total - shown))?;
    }
    out.flush()
}

struct Telling<'a> {
    spools: &'a [Spool],
    wanted: &'a Wanted,
    format: Format,
    style: Style,
    out: Pager,
    /// Those that are put in order and told next.
    group: Vec<Row>,
    shown: usize,
}

impl Telling<'_> {
    fn take(&mut self, at: usize, id: &JobId) -> Result<ControlFlow<()>> {
        let told = Finished::of(&self.spools[at], id);
        // One that cannot be read is told, too; when it ended nobody knows.
        let result = told.as_ref();
        let ended = result.and_then(|result| result.completed_at.get());
        let is_old = |since| ended.is_some_and(|ended| ended < since);
        let ending = result.map_or(Ending::Bad, Finished::ending);
        let is_other = self.wanted.failed && ending != Ending::Bad;
        if !(self.wanted.since.is_some_and(is_old) || is_other) {
            let cells = match self.format {
                Format::Text => self.cells(at, id, result, ended),
                Format::Json => vec![self.json(at, id, result, ended)?],
            };
            self.group.push(Row {
                at: ended,
                cells,
                ending,
            });
        }
        if self.group.len() >= self.wanted.limit.unwrap_or(0).max(SORTED) {
            self.tell_group()?;
        }
        Ok(match self.wanted.limit {
            Some(limit) if self.shown >= limit => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        })
    }

    fn json(
        &self,
        at: usize,
        id: &JobId,
        result: Option<&Finished>,
        ended: Option<Wall>,
    ) -> Result<String> {
        render::json(&FinishedJob {
            job_id: id,
            project: &self.spools[at].project().name,
            status: &result.map_or("unreadable".to_owned(), Finished::word),
            error_kind: result.and_then(|result| result.error_kind.get()),
            completed_at: ended,
            duration_seconds: result.and_then(Finished::seconds),
            cost_usd: result.and_then(|result| result.worker_output.cost_usd.get()),
            audit_score: result.and_then(|result| result.audit_score.get()),
            notes: result.map(Finished::notes).unwrap_or_default(),
        })
    }

    fn cells(
        &self,
        at: usize,
        id: &JobId,
        result: Option<&Finished>,
        ended: Option<Wall>,
    ) -> Vec<String> {
        let word = result.map_or("unreadable".to_owned(), Finished::word);
        let remark = result.and_then(Finished::remark);
        let remark = remark.map_or(String::new(), |kind| format!(" ({kind})"));
        let style = self.style;
        let told =
            |tell: &dyn Fn(&Finished) -> Option<String>| result.and_then(tell).unwrap_or_default();
        let mut notes = result.map(Finished::notes).unwrap_or_default().join(", ");
        if self.spools.len() > 1 {
            let name = clean(&self.spools[at].project().name);
            notes = format!("{notes}  [{name}]").trim_start().to_owned();
        }
        vec![
            format!("{id}: {word}{remark}"),
            ended.map_or(String::new(), |at| at.short(Wall::now())),
            told(&Finished::duration),
            told(&Finished::cost),
            told(&|result| result.change(style)),
            notes,
        ]
    }

    /// Tells what was gathered, the latest first, as much of it as is wanted.
    fn tell_group(&mut self) -> Result<()> {
        let mut group = std::mem::take(&mut self.group);
        group.sort_by_key(|row| std::cmp::Reverse(row.at));
        let left = self.wanted.limit.unwrap_or(usize::MAX) - self.shown;
        group.truncate(left);
        let lines: Vec<String> = match self.format {
            Format::Text => self.lines(&group),
            Format::Json => group.iter().map(|row| row.cells[0].clone()).collect(),
        };
        for line in lines {
            let gap = match self.format {
                Format::Json if self.shown > 0 => ",",
                _ => "",
            };
            self.out.put(gap)?;
            self.out.put(&line)?;
            self.shown += 1;
        }
        Ok(())
    }

    /// The rows in columns. Where the window is too narrow for them, what follows the word has a line
    /// of its own.
    fn lines(&self, group: &[Row]) -> Vec<String> {
        let width = |text: &str| text.chars().map(columns_of).sum::<usize>();
        let widest = |column: usize| group.iter().map(|row| width(&row.cells[column])).max();
        let widths: Vec<usize> = (0..6).map(|column| widest(column).unwrap_or(0)).collect();
        let columns = terminal::size(io::stdout()).0;
        let needed: usize = widths.iter().filter(|w| **w > 0).map(|w| w + 2).sum();
        let narrow = self.style.terminal && 2 + needed > columns;
        let line = |row: &Row| {
            let mut rest = String::new();
            for (cell, &wide) in row.cells.iter().zip(&widths[..5]).skip(1) {
                if wide > 0 {
                    let gap = wide - width(cell);
                    rest = format!("{rest}  {}{cell}", " ".repeat(gap));
                }
            }
            if let Some(notes) = row.cells.last().filter(|notes| !notes.is_empty()) {
                rest = format!("{rest}  {notes}");
            }
            let rest = rest.trim_end();
            let mark = row.ending.mark(self.style);
            let head = &row.cells[0];
            match (narrow, rest.is_empty()) {
                (_, true) => format!("  {mark} {head}\n"),
                (true, _) => {
                    let rest = fit(&format!("    {rest}"), columns, self.style);
                    format!("  {mark} {head}\n{rest}\n")
                }
                (false, _) => {
                    let gap = " ".repeat(widths[0] - width(head));
                    format!("  {mark} {head}{gap}{rest}\n")
                }
            }
        };
        group.iter().map(line).collect()
    }
}
