//! `status`: the finished jobs, newest first, with what a person wants to know in the morning.

use super::*;

/// Results are written in the order in which jobs end, unless a backup was restored. So many are put
/// in the order of what they tell themselves.
const SORTED: usize = 500;

/// Tells the finished jobs.
pub(super) fn status(scope: &Scope, asked: &Asked) -> Result<()> {
    let (spools, style) = (scope.spools(), Style::of_stdout());
    let (format, since) = (asked.format, asked.since);
    let limit = asked.limit.unwrap_or(usize::MAX);
    let newest = Newest::of(&spools, since)?;
    render::show(match format {
        Format::Text => "Completed jobs:\n",
        Format::Json => "{\"jobs\":[",
    })?;
    let mut rows = newest.iter().filter_map(|(place, id)| {
        let spool = &spools[place];
        // One that cannot be read is told, too; when it ended nobody knows.
        let result = Finished::of(spool, &id);
        let ended = result.completed_at();
        let is_old = since.is_some_and(|since| ended < Some(since));
        if is_old || asked.failed && result.ending() != Ending::Bad {
            return None;
        }
        let project = match spools.len() {
            1 => String::new(),
            _ => format!("  [{}]", clean(&spool.project().name)),
        };
        let told = match format {
            Format::Text => as_cells(&id, &result, &project, style),
            Format::Json => vec![as_json(&id, &result, spool)],
        };
        Some((ended, told))
    });
    let mut shown = 0;
    while shown < limit {
        let mut group: Vec<Row> = rows.by_ref().take(SORTED).collect();
        if group.is_empty() {
            break;
        }
        group.sort_by_key(|row| Reverse(row.0));
        group.truncate(limit - shown);
        if format == Format::Json {
            let gap = if shown > 0 { "," } else { "" };
            let jobs: Vec<&str> = group.iter().map(|row| row.1[0].as_str()).collect();
            render::show(&format!("{gap}{}", jobs.join(",")))?;
        } else {
            render::show(&lines(&group))?;
        }
        shown += group.len();
    }
    let left = newest.order.len() - shown;
    let takes_all = since.is_none() && !asked.failed;
    render::show(&match (format, shown) {
        (Format::Json, _) => format!("],\"holds\":{}}}\n", holds_as_json(scope)?),
        (_, 0) if takes_all => "  none yet\n".to_owned(),
        (_, 0) => "  none such\n".to_owned(),
        _ if takes_all && left > 0 => format!("  and {left} more; --all shows them\n"),
        _ => String::new(),
    })
}

/// A finished job: when it ended, and what is told of it, in columns; as JSON that is one.
type Row = (Option<Wall>, Vec<String>);

fn as_cells(id: &JobId, result: &Finished, project: &str, style: Style) -> Vec<String> {
    let (mark, verdict) = (result.ending().mark(style), result.verdict());
    let at = result.completed_at().map(|at| at.short(Wall::now()));
    let notes = result.notes().join(", ") + project;
    let mut row = vec![format!("  {mark} {id}: {verdict}")];
    let cells = [at, result.duration(), result.cost(), result.lines_changed()];
    row.extend(cells.map(Option::unwrap_or_default));
    row.push(notes.trim_start().to_owned());
    row
}

fn as_json(id: &JobId, result: &Finished, spool: &Spool) -> String {
    let change = result.change().unwrap_or_default();
    let json = render::json(&json!({
        "job_id": id, "project": spool.project().name, "status": result.word(),
        "error_kind": result.text("error_kind"), "completed_at": result.completed_at(),
        "duration_seconds": result.seconds(), "cost_usd": result.cost_usd(),
        "audit_score": result.get::<f64>("audit_score"), "notes": result.notes(),
        "insertions": change.insertions, "deletions": change.deletions,
    }));
    json.expect("strings and numbers are representable in JSON")
}

/// Rows in columns. Where the window is too narrow, what follows the first column has lines of its own.
fn lines(rows: &[Row]) -> String {
    let widths = |row: &Row| row.1.iter().map(|cell| width(cell)).collect();
    let widths: Vec<Vec<usize>> = rows.iter().map(widths).collect();
    let widest = |at: usize| widths.iter().map(|row| row[at]).max();
    let wide: Vec<usize> = (0..6).map(|at| widest(at).unwrap_or(0)).collect();
    let columns = terminal::columns(usize::MAX);
    let fits = wide.iter().map(|wide| wide + 2).sum::<usize>() <= columns;
    let line = |((_, cells), own): (&Row, &Vec<usize>)| {
        let mut rest = String::new();
        for at in (1..6).filter(|at| wide[*at] > 0) {
            // The notes, which are last, begin at the left of their column.
            let gap = (wide[at] - own[at]) * usize::from(at < 5);
            rest.extend(repeat_n(' ', 2 + gap));
            rest += &cells[at];
        }
        let (head, gap) = (&cells[0], wide[0] - own[0]);
        if fits || rest.trim().is_empty() {
            return format!("{head}{:gap$}{rest}", "").trim_end().to_owned() + "\n";
        }
        let rest = fit(&format!("    {}", rest.trim()), columns);
        format!("{head}\n{rest}\n")
    };
    rows.iter().zip(&widths).map(line).collect()
}

fn holds_as_json(scope: &Scope) -> Result<String> {
    let now = Wall::now();
    let records = board::read_decided(&scope.places, &scope.entries);
    let view = |hold: &Hold| {
        let mut view = json!(hold.view(now));
        view["project"] = json!(hold.project);
        view
    };
    let holds = records.all(now).into_iter().map(view);
    render::json(&holds.collect::<Vec<Value>>())
}
