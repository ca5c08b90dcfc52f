//! `status`: the finished jobs, newest first, with what a person wants to know in the morning.

use super::result::{Ending, Finished, Newest};
use super::scope::Scope;
use super::terminal;
use crate::board;
use crate::cli::{Format, Wanted};
use crate::error::Result;
use crate::job::JobId;
use crate::render::{self, Style, clean, fit, width};
use crate::spool::Spool;
use crate::time::Wall;
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::io;

/// Results are written in the order in which jobs end, unless a backup was restored. So many are put
/// in the order of what they tell themselves.
const SORTED: usize = 2000;

/// Tells the finished jobs.
pub(super) fn status(scope: &Scope, wanted: &Wanted, format: Format) -> Result<()> {
    render::unless_gone(tell(scope, wanted, format))
}

fn tell(scope: &Scope, wanted: &Wanted, format: Format) -> Result<()> {
    let (spools, style) = (scope.spools(), Style::of_stdout());
    let since = wanted.since;
    let limit = wanted.limit.unwrap_or(usize::MAX);
    let newest = Newest::of(&spools)?;
    render::show(match format {
        Format::Text => "Completed jobs:\n",
        Format::Json => "{\"jobs\":[",
    })?;
    let mut rows = newest.iter().filter_map(|(place, id)| {
        // One that cannot be read is told, too; when it ended nobody knows.
        let result = Finished::of(&spools[place], &id).unwrap_or_else(Finished::unreadable);
        let is_old = since.is_some_and(|since| *result.completed_at < Some(since));
        let is_wanted = !is_old && (!wanted.failed || result.ending() == Ending::Bad);
        let project = (spools.len() > 1).then(|| clean(&spools[place].project().name));
        is_wanted.then(|| match format {
            Format::Text => Row::of(&id, &result, project.as_deref(), style),
            Format::Json => Row::as_json(&id, &result, &spools[place]),
        })
    });
    let mut shown = 0;
    while shown < limit {
        let mut group: Vec<Row> = rows.by_ref().take(SORTED).collect();
        if group.is_empty() {
            break;
        }
        group.sort_by_key(|row| Reverse(row.ended));
        group.truncate(limit - shown);
        if format == Format::Json {
            let gap = if shown > 0 { "," } else { "" };
            let jobs: Vec<&str> = group.iter().map(|row| row.head.as_str()).collect();
            render::show(&format!("{gap}{}", jobs.join(",")))?;
        } else {
            render::show(&lines(&group, style).collect::<String>())?;
        }
        shown += group.len();
    }
    let (takes_all, total) = (since.is_none() && !wanted.failed, newest.order.len());
    render::show(&match (format, shown) {
        (Format::Json, _) => format!("],\"holds\":{}}}\n", holds_as_json(scope)?),
        (_, 0) if takes_all => "  none yet\n".to_owned(),
        (_, 0) => "  none such\n".to_owned(),
        _ if takes_all && shown < total => {
            format!("  and {} more; --all shows them\n", total - shown)
        }
        _ => String::new(),
    })
}

/// A finished job as it will be told.
#[derive(Default)]
struct Row {
    ended: Option<Wall>,
    mark: String,
    /// Its id and how it ended; or all that there is, as JSON.
    head: String,
    /// In columns: when, how long, for how much, how large the change.
    cells: [String; 4],
    notes: String,
}

impl Row {
    fn of(id: &JobId, result: &Finished, project: Option<&str>, style: Style) -> Row {
        let ended = *result.completed_at;
        let kind = result.remark().map(|kind| format!(" ({kind})"));
        let project = project.map(|name| format!("  [{name}]"));
        let cells = [
            ended.map(|at| at.short(Wall::now())),
            result.duration(),
            result.cost(),
            result.change(),
        ];
        let notes = result.notes().join(", ") + &project.unwrap_or_default();
        Row {
            ended,
            mark: result.ending().mark(style),
            head: format!("{id}: {}{}", result.word(), kind.unwrap_or_default()),
            cells: cells.map(Option::unwrap_or_default),
            notes: notes.trim_start().to_owned(),
        }
    }

    fn as_json(id: &JobId, result: &Finished, spool: &Spool) -> Row {
        let change = result.git.clone().unwrap_or_default();
        let json = json!({
            "job_id": id, "project": spool.project().name, "status": result.word(),
            "error_kind": *result.error_kind, "completed_at": *result.completed_at,
            "duration_seconds": result.seconds(), "cost_usd": *result.worker_output.cost_usd,
            "audit_score": *result.audit_score, "notes": result.notes(),
            "insertions": change.insertions, "deletions": change.deletions,
        });
        Row {
            ended: *result.completed_at,
            head: render::json(&json).unwrap_or_default(),
            ..Row::default()
        }
    }
}

/// Rows in columns. Where the window is too narrow, what follows the first column has lines of its own.
fn lines(rows: &[Row], style: Style) -> impl Iterator<Item = String> {
    let widest = |of: &dyn Fn(&Row) -> &str| rows.iter().map(|row| width(of(row))).max();
    let head_wide = widest(&|row| &row.head).unwrap_or(0);
    let notes_wide = widest(&|row| &row.notes).unwrap_or(0);
    let wide: [usize; 4] = std::array::from_fn(|at| widest(&|row| &row.cells[at]).unwrap_or(0));
    let columns = match style.terminal {
        true => terminal::size(io::stdout()).0,
        false => usize::MAX,
    };
    let all_wide = [head_wide, notes_wide].iter().chain(&wide).sum::<usize>() + 14;
    rows.iter().map(move |row| {
        let mut rest = String::new();
        for (cell, wide) in row.cells.iter().zip(wide).filter(|(_, wide)| *wide > 0) {
            rest = format!("{rest}  {}{cell}", " ".repeat(wide - width(cell)));
        }
        let rest = format!("{rest}  {}", row.notes);
        let (mark, head, rest) = (&row.mark, &row.head, rest.trim_end());
        if all_wide <= columns || rest.is_empty() {
            let gap = " ".repeat(head_wide - width(head));
            return format!("  {mark} {head}{gap}{rest}").trim_end().to_owned() + "\n";
        }
        let rest = fit(&format!("    {}", rest.trim_start()), columns);
        format!("  {mark} {head}\n{rest}\n")
    })
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
