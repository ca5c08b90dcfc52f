//! `status`: the finished jobs, newest first, with what a person wants to know in the morning.

use super::result::{Ending, Finished, newest};
use super::scope::Scope;
use super::terminal;
use crate::board;
use crate::cli::{Format, Wanted};
use crate::error::Result;
use crate::job::JobId;
use crate::render::{self, Pager, Style, clean, columns_of, fit};
use crate::spool::Spool;
use crate::time::Wall;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::io;
use std::ops::ControlFlow;

/// Results are written in the order in which jobs end, unless a backup was restored. So many are put
/// in the order of what they tell themselves.
const SORTED: usize = 2000;
/// So many names are held where all are told.
const ROOM: usize = 50_000;

/// A finished job as it will be told: when it ended, its mark, and its cells, of which the first is
/// the id and how it ended. As JSON, that one is all there is.
struct Row(Option<Wall>, String, Vec<String>);

struct Telling<'a> {
    spools: &'a [Spool],
    format: Format,
    style: Style,
    out: Pager,
    /// Those that are put in order and told next.
    group: Vec<Row>,
    left: usize,
    shown: usize,
}

/// Tells the finished jobs.
pub(super) fn status(scope: &Scope, wanted: &Wanted, format: Format) -> Result<()> {
    let spools = scope.spools();
    let mut telling = Telling {
        spools: &spools,
        format,
        style: Style::of_stdout(),
        out: Pager::default(),
        group: Vec::new(),
        left: wanted.limit.unwrap_or(usize::MAX),
        shown: 0,
    };
    render::unless_gone(telling.tell(scope, wanted))
}

impl Telling<'_> {
    fn tell(&mut self, scope: &Scope, wanted: &Wanted) -> Result<()> {
        let since = wanted.since.map(|since| since.start(Wall::now()));
        self.out.put(match self.format {
            Format::Text => "Completed jobs:\n",
            Format::Json => "{\"jobs\":[",
        })?;
        let takes_all = since.is_none() && !wanted.failed;
        let room = match wanted.limit {
            Some(limit) if takes_all => limit.max(SORTED),
            _ => ROOM,
        };
        // Rows of a whole group are held at once.
        let group = wanted
            .limit
            .map_or(SORTED, |limit| limit.clamp(SORTED, ROOM));
        let spools = self.spools;
        let total = newest(spools, room, &mut |at, id| {
            // One that cannot be read is told, too; when it ended nobody knows.
            let result = Finished::of(&spools[at], &id).unwrap_or_else(Finished::unreadable);
            let is_old = since.is_some_and(|since| result.completed_at.get() < Some(since));
            if !is_old && (!wanted.failed || result.ending() == Ending::Bad) {
                self.group.push(self.row(&spools[at], &id, &result)?);
            }
            if self.group.len() >= group {
                self.tell_group()?;
            }
            Ok(match self.left {
                0 => ControlFlow::Break(()),
                _ => ControlFlow::Continue(()),
            })
        })?;
        self.tell_group()?;
        if self.format == Format::Json {
            let holds = holds_as_json(scope)?;
            self.out.put(&format!("],\"holds\":{holds}}}\n"))?;
        } else if self.shown == 0 {
            let none = if takes_all { "yet" } else { "such" };
            self.out.put(&format!("  none {none}\n"))?;
        } else if takes_all && self.shown < total {
            let more = total - self.shown;
            self.out
                .put(&format!("  and {more} more; --all shows them\n"))?;
        }
        self.out.flush()
    }

    fn row(&self, spool: &Spool, id: &JobId, result: &Finished) -> Result<Row> {
        let (at, project) = (result.completed_at.get(), &spool.project().name);
        if self.format == Format::Json {
            let git = result.git.get().unwrap_or_default();
            let json = render::json(&json!({
                "job_id": id, "project": project, "status": result.word(),
                "error_kind": result.error_kind.get(), "completed_at": at,
                "duration_seconds": result.seconds(), "cost_usd": result.worker_output.cost_usd.get(),
                "audit_score": result.audit_score.get(), "notes": result.notes(),
                "insertions": git.insertions, "deletions": git.deletions,
            }))?;
            return Ok(Row(at, String::new(), vec![json]));
        }
        let remark = result.remark().map(|kind| format!(" ({kind})"));
        let mut notes = result.notes().join(", ");
        if self.spools.len() > 1 {
            notes = format!("{notes}  [{}]", clean(project));
        }
        let cells = vec![
            format!("{id}: {}{}", result.word(), remark.unwrap_or_default()),
            at.map_or(String::new(), |at| at.short(Wall::now())),
            result.duration().unwrap_or_default(),
            result.cost().unwrap_or_default(),
            result.change(self.style).unwrap_or_default(),
            notes.trim_start().to_owned(),
        ];
        Ok(Row(at, result.ending().mark(self.style), cells))
    }

    /// Tells what was gathered, the latest first, as much of it as is wanted.
    fn tell_group(&mut self) -> Result<()> {
        let mut group = std::mem::take(&mut self.group);
        group.sort_by_key(|row| Reverse(row.0));
        group.truncate(self.left);
        self.left -= group.len();
        let widths = widths(&group);
        let columns = match self.style.terminal {
            true => terminal::size(io::stdout()).0,
            false => usize::MAX,
        };
        for row in &group {
            let gap = if self.shown > 0 { "," } else { "" };
            self.shown += 1;
            match self.format {
                Format::Text => self.out.put(&line(row, &widths, columns, self.style))?,
                Format::Json => self.out.put(&format!("{gap}{}", row.2[0]))?,
            }
        }
        Ok(())
    }
}

fn width(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// How wide each column is.
fn widths(group: &[Row]) -> Vec<usize> {
    let columns = group.first().map_or(0, |row| row.2.len());
    let widest = |column: usize| group.iter().map(|row| width(&row.2[column])).max();
    (0..columns).filter_map(widest).collect()
}

/// A row in columns. Where the window is too narrow for all of them, what follows the first has a
/// line of its own.
fn line(Row(_, mark, cells): &Row, widths: &[usize], columns: usize, style: Style) -> String {
    let mut rest = String::new();
    for (cell, wide) in cells
        .iter()
        .zip(widths)
        .skip(1)
        .filter(|(_, wide)| **wide > 0)
    {
        let gap = " ".repeat(wide - width(cell));
        rest = match *cell == cells[cells.len() - 1] {
            true => format!("{rest}  {cell}"),
            false => format!("{rest}  {gap}{cell}"),
        };
    }
    let (head, rest) = (&cells[0], rest.trim_end());
    let needed: usize = widths.iter().map(|wide| wide + 2).sum();
    if needed + 2 > columns && !rest.is_empty() {
        let rest = fit(&format!("    {}", rest.trim_start()), columns, style);
        return format!("  {mark} {head}\n{rest}\n");
    }
    let gap = if rest.is_empty() {
        0
    } else {
        widths[0] - width(head)
    };
    format!("  {mark} {head}{}{rest}\n", " ".repeat(gap))
}

fn holds_as_json(scope: &Scope) -> Result<String> {
    let now = Wall::now();
    let records = board::read(&scope.places.state);
    let holds = records.all(now).into_iter().map(|hold| {
        let view = hold.view(now);
        json!({"kind": view.kind, "agent": view.agent, "project": hold.project,
            "reason": view.reason, "until": view.until})
    });
    render::json(&holds.collect::<Vec<Value>>())
}
