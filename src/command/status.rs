//! `status`: the finished jobs, newest first, with what a person wants to know in the morning.

use super::*;

/// Results are written in the order in which jobs end, unless a backup was restored. So many are put
/// in the order of what they tell themselves.
const SORTED: usize = 500;

/// Tells the finished jobs.
pub(super) fn status(scope: &Scope, asked: &Asked) -> Result<()> {
    let (spools, style, format) = (scope.spools(), Style::of_stdout(), asked.format);
    let limit = asked.limit.unwrap_or(usize::MAX);
    render::show(match format {
        Format::Text => "Completed jobs:\n",
        Format::Json => "{\"jobs\":[",
    })?;
    let newest = Newest::of(&spools, asked.since)?;
    let jobs = newest.iter();
    let jobs = jobs.filter(|(.., result)| !asked.failed || result.ending() == Ending::Bad);
    let mut rows = jobs.map(|(spool, id, ended, result)| {
        let told = match format {
            Format::Text => as_cells(&id, &result, spool, spools.len() > 1, style),
            Format::Json => vec![as_json(&id, &result, spool)],
        };
        (ended, told)
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
    render::show(&match (format, shown) {
        (Format::Json, _) => format!("],\"holds\":{}}}\n", holds_as_json(scope)),
        (Format::Text, 0) => "  none yet\n".to_owned(),
        (Format::Text, _) => String::new(),
    })
}

/// A finished job: when it ended, and what is told of it, in columns; as JSON that is one.
type Row = (Wall, Vec<String>);

fn as_cells(id: &JobId, result: &ResultView, of: &Spool, names: bool, style: Style) -> Vec<String> {
    let (mark, verdict) = (result.ending().mark(style), result.verdict());
    let mut notes = vec![result.notes().join(", ")];
    notes.extend(names.then(|| format!("[{}]", clean(&of.project().name))));
    let cells = [
        result.completed_at.map(|at| at.short(Wall::now())),
        result.duration(),
        result.cost(),
        result.lines_changed(),
        Some(notes.join("  ").trim_start().to_owned()),
    ];
    let mut row = vec![format!("  {mark} {id}: {verdict}")];
    row.extend(cells.map(Option::unwrap_or_default));
    row
}

fn as_json(id: &JobId, result: &ResultView, spool: &Spool) -> String {
    let change = result.git.as_ref();
    render::json(&json!({
        "job_id": id, "project": spool.project().name, "status": result.word(),
        "error_kind": result.error_kind, "completed_at": result.completed_at,
        "duration_seconds": result.duration_seconds, "cost_usd": result.worker_output.cost_usd,
        "audit_score": result.audit_score, "notes": result.notes(),
        "insertions": change.map(|change| change.insertions),
        "deletions": change.map(|change| change.deletions),
    }))
}

/// Rows in columns. Where the window is too narrow, what follows the first column has lines of its own.
fn lines(rows: &[Row]) -> String {
    let wide = |at: usize| rows.iter().map(|row| width(&row.1[at])).max();
    let wide: Vec<usize> = (0..6).map(|at| wide(at).unwrap_or(0)).collect();
    let columns = terminal::columns(usize::MAX);
    let fits = wide.iter().map(|wide| wide + 2).sum::<usize>() <= columns;
    let line = |(_, cells): &Row| {
        let mut rest = String::new();
        for at in (1..6).filter(|at| wide[*at] > 0) {
            // The notes, which are last, begin at the left of their column.
            let gap = (wide[at] - width(&cells[at])) * usize::from(at < 5);
            rest += &format!("  {:gap$}{}", "", cells[at]);
        }
        let (head, gap) = (&cells[0], wide[0] - width(&cells[0]));
        if fits || rest.trim().is_empty() {
            return format!("{head}{:gap$}{rest}", "").trim_end().to_owned() + "\n";
        }
        let rest = fit(&format!("    {}", rest.trim()), columns);
        format!("{head}\n{rest}\n")
    };
    rows.iter().map(line).collect()
}

fn holds_as_json(scope: &Scope) -> String {
    let now = Wall::now();
    let records = board::read_fresh(&scope.places, &scope.entries);
    let view = |hold: &Hold| {
        let mut view = json!(hold.view(now));
        view["project"] = json!(hold.project);
        view
    };
    let holds = records.all(now).into_iter().map(view);
    render::json(&holds.collect::<Vec<Value>>())
}
